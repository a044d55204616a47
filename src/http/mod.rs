//! The front of a port: a request of gRPC goes to the gRPC services, any other to the routes. Owns what becomes of a
//! request as such (its deadline, a fault in its handler); knows no rule of the registry, and nothing of sockets.
//!
//! Who adds to it:
//! - **Streams.** Where [`api`] finds that a route's method streams its replies, the request is read already, as any
//!   other is; `call::Grpc::stream` gives the replies as the bytes of messages, and
//!   `transcode::to_json(&route.rpc.output(), &bytes)` makes each of them an event's data.
//! - **A description.** [`routes::Table`] is all there is to tell: the routes, their places, and the pool with the
//!   comments of the protos.
//! - **Other paths.** [`router`] gives an `axum::Router` to merge others into; its fallback tells what is not there.

pub mod api;
pub mod call;
pub mod json;
pub mod problem;
pub mod query;
pub mod routes;
pub mod transcode;

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use axum::Router;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use tokio::time::{Sleep, sleep};
use tonic::{body::Body, service::Routes};
use tower::Service as _;

pub use self::api::{ApiOptions, router};
use crate::grpc::{deadline, status};

/// What every connection's requests are given to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Front {
    grpc: Routes,
    routes: Router,
}

impl Front {
    /// The front of these gRPC services and routes.
    #[must_use]
    pub fn new(grpc: Routes, routes: Router) -> Self {
        // Without this each call would build the routers anew.
        Self { grpc: grpc.prepare(), routes: routes.with_state(()) }
    }

    /// Gives a request to whom it is for.
    pub fn call<B>(&self, request: Request<B>) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if is_grpc(&request) {
            let time = deadline::timeout(request.headers()).map(|time| Box::pin(sleep(time)));
            return Answer(Kind::Grpc { call: self.grpc.clone().call(request), time });
        }
        let call = AssertUnwindSafe(self.routes.clone().call(request)).catch_unwind();
        Answer(Kind::Http(Box::pin(async move {
            match call.await {
                Ok(Ok(response)) => response.map(Body::new),
                Ok(Err(never)) => match never {},
                Err(_) => {
                    tracing::error!("a handler panicked; its call failed, nothing else did");
                    let said = "a fault of the server; it is in its log";
                    problem::plain(StatusCode::INTERNAL_SERVER_ERROR, said).map(Body::new)
                }
            }
        })))
    }
}

/// Whether it is gRPC itself, which needs HTTP/2, and not gRPC-Web.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let of_grpc = |kind: &[u8]| {
        let rest = kind.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    };
    request.version() == Version::HTTP_2
        && request.headers().get(CONTENT_TYPE).is_some_and(|kind| of_grpc(kind.as_bytes()))
}

/// The answer to a request, while it is made.
pub struct Answer(Kind);

// A box more for each call of gRPC, so that others are smaller, is no bargain.
#[allow(clippy::large_enum_variant)]
enum Kind {
    Grpc {
        call: <Routes as tower::Service<Request<Body>>>::Future,
        /// How long its caller waits for it.
        time: Option<Pin<Box<Sleep>>>,
    },
    Http(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Kind::Http(answer) => answer.as_mut().poll(context).map(Ok),
            Kind::Grpc { call, time } => {
                if let Poll::Ready(response) = Pin::new(call).poll(context) {
                    return Poll::Ready(response);
                }
                let Some(time) = time else { return Poll::Pending };
                time.as_mut().poll(context).map(|()| Ok(status::out_of_time().into_http()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::routing::post;
    use http::header::HeaderValue;
    use tokio::time::Instant;
    use tonic::{Code, Status};

    use super::*;

    fn asked(version: Version, kind: &'static str) -> Request<Body> {
        let mut request = Request::post("/onair.v1.Registry/Lookup").version(version).body(Body::empty()).unwrap();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        request
    }

    #[test]
    fn only_grpc_over_http_2_is_grpc() {
        let two = Version::HTTP_2;
        for (version, kind, wanted) in [
            (two, "application/grpc", true),
            (two, "application/grpc+proto", true),
            (two, "application/grpc;x=y", true),
            (Version::HTTP_11, "application/grpc", false),
            (two, "application/grpc-web", false),
            (two, "application/grpc-web-text+proto", false),
            (two, "application/grpcs", false),
            (two, "application/json", false),
        ] {
            assert_eq!(is_grpc(&asked(version, kind)), wanted, "{version:?} {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_when_its_caller_no_longer_waits() {
        let never = Router::new().fallback(post(std::future::pending::<()>));
        let front = Front::new(never.into(), Router::new());
        let (begun, mut request) = (Instant::now(), asked(Version::HTTP_2, "application/grpc"));
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("1500m"));
        let response = front.call(request).await.unwrap();
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!((status.code(), begun.elapsed()), (Code::DeadlineExceeded, Duration::from_millis(1_500)));
    }

    #[tokio::test]
    async fn a_fault_in_a_route_fails_its_call_alone() {
        let broken = Router::new().fallback(|| async {
            if true {
                panic!("planted")
            }
        });
        let front = Front::new(Routes::default(), broken);
        let response = front.call(asked(Version::HTTP_11, "text/plain")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
