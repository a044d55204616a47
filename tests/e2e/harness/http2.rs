//! HTTP/2 below any client of calls: requests as a test writes them, and what comes back as it is.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use tokio::net::TcpStream;
use tonic::codegen::http::{HeaderMap, Request, Response, Version};

use super::within;

/// A connection.
#[derive(Clone)]
pub struct Http2(SendRequest<Bytes>);

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The value of a header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (requests, connection) = within("the handshake", h2::client::handshake(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(requests)
    }

    /// Sends a head, which is the whole request if `is_all`; its target has a scheme and an authority.
    pub async fn begin(&self, request: Request<()>, is_all: bool) -> (Reply, SendStream<Bytes>) {
        let mut request = request;
        *request.version_mut() = Version::HTTP_2;
        let mut requests = within("room for a stream", self.0.clone().ready()).await.unwrap();
        let (response, body) = requests.send_request(request, is_all).unwrap();
        (Reply(response), body)
    }

    /// Sends a request and gives its answer.
    pub async fn ask(&self, request: Request<&[u8]>) -> Answer {
        let (parts, body) = request.into_parts();
        let (reply, mut sender) = self.begin(Request::from_parts(parts, ()), body.is_empty()).await;
        if !body.is_empty() {
            sender.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        reply.whole().await.unwrap()
    }
}

/// What comes back.
pub struct Reply(h2::client::ResponseFuture);

impl Reply {
    /// Its head; its body goes on.
    pub async fn head(self) -> Result<Response<RecvStream>, h2::Error> {
        within("an answer", self.0).await
    }

    /// All of it.
    pub async fn whole(self) -> Result<Answer, h2::Error> {
        let (parts, mut stream) = self.head().await?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = within("more of a body", stream.data()).await {
            let data = data?;
            let _ = stream.flow_control().release_capacity(data.len());
            body.extend_from_slice(&data);
        }
        let trailers = within("trailers", stream.trailers()).await?;
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
    }
}
