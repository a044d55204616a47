//! A client of HTTP/1.1, one connection that is kept: for the peers whose API is HTTP.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::spawn_local};

/// A connection.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
}

/// An answer: its head's index, where a peer has one, and its body.
pub struct Answer {
    /// Which state of the peer it is of.
    pub index: Option<u64>,
    /// What it says.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.body).map_err(|error| error.to_string())
    }
}

impl Connection {
    /// Connects.
    pub async fn open(address: &str) -> Result<Self, String> {
        let socket = TcpStream::connect(address).await.map_err(words)?;
        socket.set_nodelay(true).map_err(words)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(words)?;
        // It ends with its sender.
        spawn_local(async move { drop(connection.await) });
        Ok(Self { sender, host: address.to_owned() })
    }

    /// Asks, and reads the whole answer; one that is no 200 is an error.
    pub async fn ask(&mut self, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, String> {
        let request = Request::builder().method(method).uri(path).header("host", &self.host);
        let request = request.header("content-type", content_type(path)).body(Full::from(body)).map_err(words)?;
        self.sender.ready().await.map_err(words)?;
        let response = self.sender.send_request(request).await.map_err(words)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(words)?.to_bytes();
        if !head.status.is_success() {
            return Err(format!("{path}: {}: {}", head.status, String::from_utf8_lossy(&body)));
        }
        let index = head.headers.get("x-consul-index").and_then(|index| index.to_str().ok()?.parse().ok());
        Ok(Answer { index, body })
    }
}

fn content_type(path: &str) -> &'static str {
    if path.starts_with("/nacos") { "application/x-www-form-urlencoded" } else { "application/json" }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}
