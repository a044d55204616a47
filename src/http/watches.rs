//! Watches over HTTP: as server-sent events or as long polls, whichever the client would rather have. Both bring the
//! messages that a watch of gRPC brings; nothing here decides what those are.

mod events;
mod poll;
#[cfg(test)]
mod tests;
mod told;

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Response, header, request::Parts};
use tonic::Code;

use self::told::Teller;
use super::{
    call::{Caller, Grpc},
    negotiate,
    problem::{self, Refusal},
    routes::{Route, RouteError, Table},
};
use crate::metrics::Front;

/// Tells nginx, and proxies that learnt from it, to hand on what comes when it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a watch streams.
const WATCH_RESPONSE: &str = "onair.v1.WatchResponse";
const JSON: &str = "application/json";
/// The type of streams of server-sent events.
pub const EVENTS: &str = "text/event-stream";
/// What the answers may be; the first where it is all the same to the client.
pub const ANSWERS: [&str; 2] = [JSON, EVENTS];

/// What all watches of a thread share.
#[derive(Debug)]
pub struct Watches {
    teller: Arc<Teller>,
}

impl Watches {
    /// Of the API that has these routes.
    ///
    /// # Errors
    /// It has no watch.
    pub fn new(table: &Table) -> Result<Self, RouteError> {
        Ok(Self { teller: Arc::new(Teller::new(table.message(WATCH_RESPONSE)?)) })
    }

    /// Whether a route stands for a watch.
    #[must_use]
    pub fn are(&self, route: &Route) -> bool {
        route.rpc.output().full_name() == WATCH_RESPONSE
    }

    /// Answers a request that was read into a `WatchRequest`.
    ///
    /// # Errors
    /// What refuses it before there is a call.
    pub async fn answer(
        &self,
        grpc: &Grpc,
        route: &Route,
        mut parts: Parts,
        message: &[u8],
    ) -> Result<Response<Body>, Refusal> {
        let kind = negotiate::accepted(&parts.headers, &ANSWERS)?;
        let wait = poll::wait(message)?;
        let caller = Caller::of(&mut parts, if kind == EVENTS { Front::Sse } else { Front::Http });
        let (opened, teller) = (grpc.stream(&route.grpc_path, caller, message).await, Arc::clone(&self.teller));
        if let Ok(replies) = &opened
            && parts.method == Method::HEAD
        {
            replies.enough();
        }
        Ok(match opened {
            Ok(replies) if kind == EVENTS => events::answer(replies, teller),
            Ok(replies) => poll::answer(replies, teller, wait),
            Err(status) if kind == EVENTS && status.code() == Code::Unavailable => events::come_back(&status),
            Err(status) => problem::of_call(&status),
        })
    }
}

/// An answer that is handed on as it comes, and not kept for anyone else.
pub fn streamed(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}
