//! Calls of the gRPC services inside the process: the bytes of a message in, the bytes of messages or a status out. The
//! services see a gRPC request like any other, with the caller's address and credentials; so what holds for one front
//! holds for the other. Dropping a call, or its replies, cancels it. Knows nothing of JSON.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Version,
    header::{AUTHORIZATION, CONTENT_TYPE, TE},
    request::Parts,
    uri::{PathAndQuery, Uri},
};
use http_body::Body as _;
use http_body_util::Full;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status, body::Body};
use tower::ServiceExt as _;

use crate::{
    framed::{self, Framed},
    grpc::{
        Dispatch, Enough,
        status::{self, Reason},
    },
    metrics::Front,
};

/// Headers of the HTTP request that the call has, too.
const PASSED_ON: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("x-request-id")];

/// The services.
#[derive(Clone, Debug)]
pub struct Grpc(Dispatch);

/// Who calls: what a call has of the HTTP request that it comes from.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    headers: HeaderMap,
    extensions: Extensions,
}

impl Caller {
    /// Whoever sent the request, by this way: its address, its credentials, and what the layers in front of us found out.
    #[must_use]
    pub fn of(parts: &mut Parts, way: Front) -> Self {
        let mut headers = HeaderMap::with_capacity(4);
        for name in PASSED_ON {
            for value in parts.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let mut extensions = std::mem::take(&mut parts.extensions);
        extensions.insert(way); // calls are counted by it
        Self { headers, extensions }
    }
}

impl Grpc {
    /// Calls these services.
    #[must_use]
    pub fn new(services: Dispatch) -> Self {
        Self(services)
    }

    /// A call with one reply.
    ///
    /// # Errors
    /// The call's status.
    pub async fn unary(&self, path: &PathAndQuery, caller: Caller, message: &[u8]) -> Result<Bytes, Status> {
        let mut replies = self.stream(path, caller, message).await?;
        let reply = replies.next().await.unwrap_or_else(|| Err(broken("there is no reply")))?;
        // A failure may follow it.
        match replies.next().await {
            None => Ok(reply),
            Some(Err(status)) => Err(status),
            Some(Ok(_)) => Err(broken("there is a second reply")),
        }
    }

    /// A call with many replies.
    ///
    /// # Errors
    /// The call's status, if it fails before its first reply; later the replies end with it.
    pub async fn stream(&self, path: &PathAndQuery, caller: Caller, message: &[u8]) -> Result<Replies, Status> {
        let mut request = Request::new(Full::new(Framed::copied(message).into_bytes()));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from(path.clone());
        *request.headers_mut() = caller.headers;
        *request.extensions_mut() = caller.extensions;
        let enough = Enough::default();
        request.extensions_mut().insert(enough.clone());
        let response = match self.0.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ => Ok(Replies { body: response.into_body(), chunk: Bytes::new(), ended: false, enough }),
        }
    }
}

fn broken(sentence: &'static str) -> Status {
    tracing::error!(sentence, "a call inside the process went wrong");
    status::plain(Reason::Internal, sentence)
}

/// The replies of a call, each the bytes of a message; the call's failure, if it fails, comes last.
#[derive(Debug)]
pub struct Replies {
    body: Body,
    /// What came and is not yet given out.
    chunk: Bytes,
    ended: bool,
    enough: Enough,
}

impl Replies {
    /// There were enough: when they are dropped, the call is over, and counted as one that ended well.
    pub fn enough(&self) {
        self.enough.say();
    }

    fn add(&mut self, data: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = data;
            return;
        }
        let mut both = BytesMut::with_capacity(self.chunk.len() + data.len());
        both.put_slice(&self.chunk);
        both.put_slice(&data);
        self.chunk = both.freeze();
    }
}

impl Stream for Replies {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(message) = framed::take(&mut this.chunk) {
                return Poll::Ready(Some(Ok(message)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            let ended = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.add(data);
                        continue;
                    }
                    Err(frame) => frame.trailers_ref().and_then(Status::from_header_map),
                },
                Some(Err(status)) => Some(status),
                // Without a status there is no telling how it ended.
                None => Some(broken("the replies have no end")),
            };
            let Some(status) = ended else { continue };
            this.ended = true;
            if status.code() != Code::Ok {
                return Poll::Ready(Some(Err(status)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use futures_util::FutureExt as _;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::body::Body;

    use super::*;
    use crate::grpc::answering;

    const PATH: PathAndQuery = PathAndQuery::from_static("/a.B/C");

    /// Services that answer every call with these bytes, and then with a status, if there is one.
    fn services(chunks: Vec<Bytes>, end: Option<Status>) -> Grpc {
        let answer = move |_| {
            let trailers = end.as_ref().map(|status| {
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers).expect("headers");
                Frame::trailers(trailers)
            });
            let frames: Vec<_> = chunks.iter().cloned().map(Frame::data).chain(trailers).collect();
            let frames = tokio_stream::iter(frames.into_iter().map(Ok::<_, Status>));
            async move { http::Response::new(Body::new(StreamBody::new(frames))) }
        };
        Grpc::new(answering("a.B", answer))
    }

    async fn replies(chunks: &[&'static [u8]], end: Option<Status>) -> Vec<Result<Bytes, Code>> {
        let grpc = services(chunks.iter().map(|chunk| Bytes::from_static(chunk)).collect(), end);
        let replies = grpc.stream(&PATH, Caller::default(), b"").await.expect("replies");
        replies.map(|reply| reply.map_err(|status| status.code())).collect().await
    }

    #[tokio::test]
    async fn replies_are_messages_however_they_are_cut() {
        let ok = || Some(Status::new(Code::Ok, ""));
        let (a, b) = (Bytes::from_static(b"first"), Bytes::new());
        let stream = b"\0\0\0\0\x05first\0\0\0\0\0";
        for cut in 0..=stream.len() {
            let cut = stream.split_at(cut);
            assert_eq!(replies(&[cut.0, cut.1], ok()).await, [Ok(a.clone()), Ok(b.clone())], "{cut:?}");
        }
        let failed = replies(&[stream], Some(Status::unavailable("it goes"))).await;
        assert_eq!(failed, [Ok(a.clone()), Ok(b.clone()), Err(Code::Unavailable)]);
        assert_eq!(replies(&[stream], None).await, [Ok(a), Ok(b), Err(Code::Internal)], "no end");
    }

    #[tokio::test]
    async fn a_call_has_one_reply() {
        let ok = || Some(Status::new(Code::Ok, ""));
        let message = Bytes::from_static(b"\0\0\0\0\x01a");
        for (chunks, end, wanted) in [
            (vec![message.clone()], ok(), Ok(Bytes::from_static(b"a"))),
            (vec![message.clone()], Some(Status::not_found("gone")), Err(Code::NotFound)),
            (vec![], Some(Status::not_found("gone")), Err(Code::NotFound)),
            (vec![], ok(), Err(Code::Internal)),
            (vec![message.clone(), message], ok(), Err(Code::Internal)),
        ] {
            let got = services(chunks, end).unary(&PATH, Caller::default(), b"").await;
            assert_eq!(got.map_err(|status| status.code()), wanted);
        }
    }

    #[tokio::test]
    async fn who_leaves_takes_the_call_along() {
        struct Left(Arc<AtomicBool>);
        impl Drop for Left {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let left = Arc::<AtomicBool>::default();
        let grpc = Grpc::new(answering("a.B", {
            let left = Arc::clone(&left);
            move |_| {
                let left = Left(Arc::clone(&left));
                async move {
                    let _left = left;
                    std::future::pending().await
                }
            }
        }));
        let path = PATH;
        let mut call = Box::pin(grpc.unary(&path, Caller::default(), b""));
        assert!(call.as_mut().now_or_never().is_none() && !left.load(Ordering::Relaxed));
        drop(call);
        assert!(left.load(Ordering::Relaxed), "it goes on without anyone");
    }
}
