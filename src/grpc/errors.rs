//! Replies that the transport refuses by itself get the status that we promise: a message over the limit is
//! RESOURCE_EXHAUSTED here, where the transport says OUT_OF_RANGE, and what is no message INVALID_ARGUMENT; a panic in a handler fails that call alone. Calls are
//! counted here too, as they end.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use http::{HeaderName, Request, Response};
use tonic::{Code, Status, body::Body, server::NamedService};
use tower::Service;

use super::{
    measured::Call,
    status::{self, Reason},
};
use crate::metrics::Metrics;

/// The encodings that a message may have.
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Wraps a service of the server.
#[derive(Clone, Debug)]
pub struct CanonicalErrors<S> {
    inner: S,
    max_message_bytes: u64,
    metrics: Arc<Metrics>,
}

impl<S> CanonicalErrors<S> {
    /// Wraps `inner`, whose requests are limited to `max_message_bytes`.
    pub fn new(inner: S, max_message_bytes: u64, metrics: Arc<Metrics>) -> Self {
        Self { inner, max_message_bytes, metrics }
    }
}

impl<S: NamedService> NamedService for CanonicalErrors<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for CanonicalErrors<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let max_message_bytes = self.max_message_bytes;
        let measured = Call::begin(&self.metrics, &request);
        let method = request.uri().path().to_owned();
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let Ok(response) = call.await else {
                tracing::error!(%method, "a handler panicked; its call failed, nothing else did");
                let fault = status::plain(Reason::Internal, "a fault of the server; it is in its log");
                return Ok(measured.answer(fault.into_http()));
            };
            let response = response?;
            let response = match Status::from_header_map(response.headers()) {
                Some(told) if told.code() == Code::OutOfRange => status::too_large(max_message_bytes).into_http(),
                Some(told) if told.code() == Code::Unimplemented && told.details().is_empty() => {
                    explained(&told, &response)
                }
                Some(told) if told.code() == Code::Internal => status::of_transport(told).into_http(),
                _ => response,
            };
            Ok(measured.answer(response))
        })
    }
}

/// What the transport or the generated code does not know, with a reason, and with the encodings that the transport does.
fn explained(told: &Status, response: &Response<Body>) -> Response<Body> {
    let sentence = if told.message().is_empty() { "there is no such method" } else { told.message() };
    let mut explained = status::plain(Reason::NotSupported, sentence).into_http();
    let encodings = response.headers().get(ACCEPT_ENCODING).cloned();
    explained.headers_mut().extend(encodings.map(|encodings| (ACCEPT_ENCODING, encodings)));
    explained
}
