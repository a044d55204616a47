//! The front of a port: a request of gRPC goes to the gRPC services, any other to the routes. Owns what becomes of a
//! request as such (its deadline, a fault in its handler); knows no rule of the registry, and nothing of sockets.
//!
//! Who adds to it:
//! - **A description.** [`routes::Table`] is all there is to tell: the routes, their places, and the pool, with the
//!   comments of the protos if it is made with them.
//! - **Other paths.** [`router`] gives an `axum::Router` to merge others into; its fallback tells what is not there.

pub mod api;
pub mod applications;
pub mod body;
pub mod call;
pub mod compose;
pub mod cors;
pub mod curl;
mod docs;
pub mod guard;
pub mod json;
pub mod legacy;
pub mod negotiate;
mod openapi;
pub mod ops;
mod pages;
pub mod problem;
mod progress;
pub mod prometheus;
pub mod query;
mod reply;
pub mod routes;
mod timely;
pub mod transcode;
mod turn;
pub mod watches;
pub mod web;

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{Router, body::Body as AnyBody};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Version,
    header::{ALLOW, CONNECTION, CONTENT_TYPE, ORIGIN},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body};
use tower::{Layer as _, Service};
use tower_http::cors::CorsLayer;

#[cfg(test)]
pub(crate) use self::openapi::example_of_request;
pub use self::{
    api::{ApiOptions, no_route, router},
    guard::Guard,
};
use self::{
    timely::Timely,
    web::{Form, Web},
};
use crate::{
    access::{self, Gate},
    grpc::{
        Answering, Dispatch, count_refusal, deadline,
        status::{self, Reason},
    },
    metrics::{Metrics, Rpc},
};

/// With what the content types of all kinds of gRPC begin.
const GRPC: &[u8] = b"application/grpc";

/// What every connection's requests are given to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Front {
    grpc: Dispatch,
    guard: Arc<Guard>,
    /// Only if pages of other origins may call.
    cors: Option<CorsLayer>,
    inside: Inside,
    metrics: Arc<Metrics>,
}

impl Front {
    /// The front of these gRPC services and routes.
    #[must_use]
    pub fn new(grpc: Dispatch, routes: Router, guard: Arc<Guard>, options: ApiOptions, metrics: Arc<Metrics>) -> Self {
        // Without this each call would build the router anew.
        let routes = routes.with_state(());
        let web = Web::new(grpc.clone(), options.max_message_bytes);
        let inside = Inside { web, routes, gate: Gate::open(), metrics: Arc::clone(&metrics) };
        Self { grpc, cors: cors::layer(&guard), guard, inside, metrics }
    }

    /// For those whom the gate lets in. Calls of gRPC pass it with their service.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Self {
        Self { inside: Inside { gate, ..self.inside }, ..self }
    }

    /// Gives a request to whom it is for.
    pub fn call<B>(&self, mut request: Request<B>) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let is_grpc = is_grpc(&request);
        // No browser sends gRPC itself to an address of its choice; what carries an origin may be one all the same.
        if (!is_grpc || request.headers().contains_key(ORIGIN))
            && let Err(refused) = self.guard.judge(request.uri(), request.headers())
        {
            return self.refuse(&request, is_grpc, &refused);
        }
        if is_grpc {
            let end = deadline::timeout(request.headers()).and_then(|time| Instant::now().checked_add(time));
            let time = end.map(|end| Box::pin(sleep_until(end)));
            if let Some(end) = end {
                request.extensions_mut().insert(deadline::Until(end));
            }
            let is_awaited = Rpc::of_path(request.uri().path()).has_one_request();
            let request = request.map(|body| Timely::new(body, is_awaited));
            return Answer(Kind::Grpc { call: self.grpc.clone().call(request), time });
        }
        let request = request.map(AnyBody::new);
        Answer(Kind::Http(match &self.cors {
            Some(cors) if cors::concerns(&request) => Box::pin(cors.layer(self.inside.clone()).call(request)),
            _ => self.inside.clone().call(request),
        }))
    }

    fn refuse<B>(&self, request: &Request<B>, is_grpc: bool, refused: &Status) -> Answer {
        let response = match Form::of(request.headers()) {
            _ if is_grpc => refused.clone().into_http(),
            Some(form) => form.refusal(refused),
            None => {
                let response = problem::of_call(refused).map(Body::new);
                self.metrics.http_answers.of((response.status().into(),)).inc();
                response
            }
        };
        count_refusal(&self.metrics, refused);
        Answer(Kind::Http(Box::pin(std::future::ready(Ok(response)))))
    }
}

/// What is not gRPC itself, once it has passed the guard.
#[derive(Clone, Debug)]
struct Inside {
    web: Web,
    routes: Router,
    gate: Gate,
    metrics: Arc<Metrics>,
}

impl Inside {
    async fn answer(mut self, request: Request<AnyBody>) -> Response<Body> {
        if !body::is_framed_plainly(request.headers()) {
            let mut response = refusal(Reason::NotSupported, "of the transfer codings there is chunked alone");
            // Where its body ends is not known to us.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
        match Form::of(request.headers()) {
            Some(form) if request.method() == Method::POST => {
                // Before its body is read; the service asks again.
                if let Err(refused) = self.judged(&request) {
                    let refused = Status::from(refused);
                    count_refusal(&self.metrics, &refused);
                    return form.refusal(&refused);
                }
                self.web.call(form, request).await
            }
            Some(_) => {
                let mut response = refusal(Reason::MethodNotAllowed, "a call of gRPC-Web is a POST");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                response
            }
            None if speaks_grpc(request.headers()) => refusal(
                Reason::UnsupportedMediaType,
                "gRPC needs HTTP/2, and gRPC-Web is in protobuf, binary or as text",
            ),
            None => self.routed(request).await,
        }
    }
}

impl Inside {
    /// Whether a call of gRPC-Web is let in.
    fn judged(&self, request: &Request<AnyBody>) -> Result<(), crate::registry::Error> {
        let path = request.uri().path();
        self.gate.judge(path, (access::of_rpc(path), false), request.headers(), request.extensions()).map(|_| ())
    }

    /// A path without a rule is not there, whoever serves it.
    async fn routed(&mut self, mut request: Request<AnyBody>) -> Response<Body> {
        let Some(rule) = access::of_http(request.method(), request.uri().path()) else {
            return no_route().await.map(Body::new);
        };
        // Which methods a path has is no secret.
        let rule = if request.method() == Method::OPTIONS { &access::OPEN } else { rule };
        let mut entry = None;
        if !self.gate.is_open() {
            let what = format!("{} {}", request.method(), request.uri().path());
            let is_change = access::audit::is_change_by_http(request.method(), request.uri().path());
            match self.gate.judge(&what, (Some(rule), is_change), request.headers(), request.extensions()) {
                Ok((who, begun)) => {
                    request.extensions_mut().insert(who);
                    // What stands for a call is written as one.
                    entry = begun.filter(|_| access::audit::is_of_its_own(request.uri().path()));
                }
                Err(refused) => return problem::response(&refused.into()).map(Body::new),
            }
        }
        let Ok(response) = self.routes.call(request).await;
        if let Some(entry) = entry {
            entry.answered(response.status());
        }
        response.map(Body::new)
    }
}

impl Service<Request<AnyBody>> for Inside {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<AnyBody>) -> Answering {
        let (metrics, is_web) = (Arc::clone(&self.metrics), Form::of(request.headers()).is_some());
        let answer = AssertUnwindSafe(self.clone().answer(request)).catch_unwind();
        Box::pin(async move {
            let response = answer.await.unwrap_or_else(|_| {
                tracing::error!("a handler panicked; its call failed, nothing else did");
                refusal(Reason::Internal, "a fault of the server; it is in its log")
            });
            // A call of gRPC-Web is always answered 200, and counted as a call.
            if !is_web {
                metrics.http_answers.of((response.status().into(),)).inc();
            }
            if let Some(problem::Refused(status)) = response.extensions().get() {
                count_refusal(&metrics, status);
            }
            Ok(response)
        })
    }
}

fn refusal(reason: Reason, sentence: &str) -> Response<Body> {
    problem::response(&status::plain(reason, sentence)).map(Body::new)
}

/// Whether it is gRPC itself, which needs HTTP/2, and not gRPC-Web.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let of_grpc = |kind: &HeaderValue| {
        let rest = kind.as_bytes().strip_prefix(GRPC);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    };
    request.version() == Version::HTTP_2 && request.headers().get(CONTENT_TYPE).is_some_and(of_grpc)
}

/// Whether it is meant to be gRPC of some kind.
fn speaks_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC))
}

/// The answer to a request, while it is made.
pub struct Answer(Kind);

// A box more for each call of gRPC, so that others are smaller, is no bargain.
#[allow(clippy::large_enum_variant)]
enum Kind {
    Grpc {
        call: Answering,
        /// How long its caller waits for it.
        time: Option<Pin<Box<Sleep>>>,
    },
    Http(Answering),
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
            Kind::Http(answer) => answer.as_mut().poll(context),
            Kind::Grpc { call, time } => {
                if let Poll::Ready(response) = call.as_mut().poll(context) {
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

    use http::{StatusCode, header::HOST};
    use http_body_util::BodyExt as _;
    use tonic::Code;

    use super::*;
    use crate::{config::ServeSettings, grpc::answering};

    fn front(grpc: Dispatch, routes: Router) -> Front {
        let guard = Arc::new(Guard::new(&[], &ServeSettings::default(), None));
        Front::new(grpc, routes, guard, ApiOptions { max_message_bytes: 1_000, max_json_values: 1_000 }, Arc::default())
    }

    fn asked(version: Version, kind: &'static str) -> Request<Body> {
        let mut request = Request::post("/onair.v1.Registry/Lookup").version(version).body(Body::empty()).unwrap();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
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
        let never = answering("onair.v1.Registry", |_| std::future::pending());
        let front = front(never, Router::new());
        let (begun, mut request) = (Instant::now(), asked(Version::HTTP_2, "application/grpc"));
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("1500m"));
        let response = front.call(request).await.unwrap();
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!((status.code(), begun.elapsed()), (Code::DeadlineExceeded, Duration::from_millis(1_500)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_message_of_a_call_is_not_waited_for_longer_than_any_body() {
        let reads = answering("onair.v1.Registry", |request| async {
            let failed = request.into_body().collect().await.expect_err("nothing comes");
            Status::from_error(failed.into()).into_http()
        });
        let front = front(reads, Router::new());
        let silent =
            || Body::new(http_body_util::StreamBody::new(futures_util::stream::pending::<Result<_, Status>>()));
        for (method, waits) in [("Lookup", false), ("Watch", false), ("HeartbeatStream", true), ("Subscribe", true)] {
            let mut request = asked(Version::HTTP_2, "application/grpc").map(|_| silent());
            *request.uri_mut() = format!("/onair.v1.Registry/{method}").parse().expect("a path");
            let begun = Instant::now();
            let answer = tokio::time::timeout(2 * body::BODY_WAIT, front.call(request)).await;
            assert_eq!(answer.is_err(), waits, "{method}");
            let Ok(Ok(response)) = answer else { continue };
            let status = Status::from_header_map(response.headers()).expect("a status");
            assert_eq!((status::reason_of(&status), begun.elapsed()), (Reason::SlowBody, body::BODY_WAIT), "{method}");
        }
    }

    #[tokio::test]
    async fn a_fault_in_a_route_fails_its_call_alone() {
        let broken = Router::new().fallback(|| async {
            if true {
                panic!("planted")
            }
        });
        let front = front(Dispatch::default(), broken);
        let mut request = asked(Version::HTTP_11, "text/plain");
        *request.uri_mut() = "/v1/broken".parse().expect("a path");
        let response = front.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
