//! Replies that the transport refuses by itself get the status that we promise: a message over the limit is
//! RESOURCE_EXHAUSTED here, where the transport says OUT_OF_RANGE, and what is no message INVALID_ARGUMENT; a panic in a handler fails that call alone. Calls are
//! counted here too, as they end; and nobody's is handled whom the gate does not let in.

use std::{
    convert::Infallible,
    future::{Future as _, poll_fn},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderName, Request, Response, uri::PathAndQuery};
use http_body::Frame;
use tonic::{Code, Status, body::Body, server::NamedService};
use tower::Service;

use super::{
    Answering, entered,
    handed::Replies,
    measured::Call,
    status::{self, Reason},
};
use crate::{
    access::{self, Gate, Reach, Rule, Tenure, Who, audit},
    laps::Laps,
    metrics::{Metrics, Rpc},
    registry::Error,
};

/// The encodings that a message may have.
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Wraps a service of the server.
#[derive(Clone, Debug)]
pub struct CanonicalErrors<S> {
    inner: S,
    max_message_bytes: u64,
    metrics: Arc<Metrics>,
    gate: Gate,
    laps: Option<Laps>,
}

impl<S> CanonicalErrors<S> {
    /// Wraps `inner`, whose requests are limited to `max_message_bytes`.
    pub fn new(inner: S, max_message_bytes: u64, metrics: Arc<Metrics>) -> Self {
        Self { inner, max_message_bytes, metrics, gate: Gate::open(), laps: None }
    }

    /// For those whom the gate lets in.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Of which all go in these laps but those that go first.
    #[must_use]
    pub fn paced(self, laps: Laps) -> Self {
        Self { laps: Some(laps), ..self }
    }

    /// Lets a request in, with who sends it, or refuses it. A stream may go on as long as its caller may.
    fn admit(&self, request: &mut Request<Body>) -> Result<Admitted, Status> {
        if self.gate.is_open() {
            return Ok(Admitted::default());
        }
        let path = request.uri().path();
        let (rule, streams) = (access::of_rpc(path), Rpc::of_path(path).is_stream());
        let is_change = rule.is_some_and(|rule| audit::is_change(path, rule));
        let (who, entry) = self.gate.judge(path, (rule, is_change), request.headers(), request.extensions())?;
        let tenure = streams.then(|| Tenure::of(&self.gate, &who)).flatten().zip(rule);
        // It may be held for minutes before it is answered.
        let held = rule.filter(|_| HELD.contains(&path)).map(|rule| (self.gate.clone(), who.clone(), rule));
        // Beats are judged by what they bring.
        if rule.is_none_or(|rule| rule.reach != Reach::Lease) {
            request.extensions_mut().insert(who);
        }
        Ok(Admitted { tenure, held, entry })
    }
}

impl<S: NamedService> NamedService for CanonicalErrors<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for CanonicalErrors<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        // All of it in the task of the call: what goes wrong there, or takes its time, is not its connection's.
        Box::pin(self.clone().answer(request))
    }
}

impl<S> CanonicalErrors<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>,
{
    async fn answer(mut self, mut request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let mut measured = Call::begin(&self.metrics, &request);
        let laps = self.laps.take().filter(|_| !measured.goes_first());
        if let Some(laps) = &laps {
            match measured.turn(laps).await {
                Ok(call) => measured = call,
                Err(too_late) => return Ok(too_late),
            }
        }
        let Admitted { tenure, held, entry } = match self.admit(&mut request) {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(measured.answer::<Body>(refused.into_http(), None)),
        };
        let path = request.uri().path_and_query().cloned();
        let method = move || path.as_ref().map_or("", PathAndQuery::path).to_owned();
        let mut call = pin!(AssertUnwindSafe(self.inner.call(request)).catch_unwind());
        let at_once = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        let answered = match (at_once, held) {
            (Poll::Ready(answered), _) => answered,
            (Poll::Pending, None) => call.await,
            (Poll::Pending, Some((gate, who, rule))) => tokio::select! {
                biased;
                answered = call => answered,
                refused = rights_end(&gate, &who, rule) => {
                    let (status, entry) = (Status::from(refused), entry);
                    if let Some(entry) = entry {
                        entered::refused(entry, &status);
                    }
                    return Ok(measured.answer::<Body>(status.into_http(), None));
                }
            },
        };
        let Ok(response) = answered else {
            tracing::error!(method = method(), "a handler panicked; its call failed, nothing else did");
            let fault = status::plain(Reason::Internal, "a fault of the server; it is in its log");
            return Ok(measured.answer::<Body>(fault.into_http(), None));
        };
        let mut response = response?;
        // A stream that is framed already: its body is what was handed over.
        if let Some(replies) = Replies::of(&mut response) {
            return Ok(answer(measured, response.map(|_| replies), tenure, entry, laps));
        }
        let (response, entry) = match entry {
            Some(entry) => entered::of_answer(response, entry, &method()),
            None => (response, None),
        };
        let response = match Status::from_header_map(response.headers()) {
            Some(told) if told.code() == Code::OutOfRange => status::too_large(self.max_message_bytes).into_http(),
            Some(told) if told.code() == Code::Unimplemented && told.details().is_empty() => {
                explained(&told, &response)
            }
            Some(told) if told.code() == Code::Internal => status::of_transport(told).into_http(),
            None => return Ok(answer(measured, response, tenure, entry, laps)),
            Some(_) => response,
        };
        Ok(measured.answer(response, None))
    }
}

/// Calls with one answer that may wait for it on purpose.
const HELD: [&str; 4] = [
    "/onair.v1.Registry/Lookup",
    "/onair.v1.Registry/Register",
    "/onair.v1.Registry/Resolve",
    "/onair.v1.Registry/Drain",
];
const CHANGED: Error = Error::Unauthenticated { why: "the caller's rights changed while the call waited: call again" };

/// Completes when a call that waits may wait no longer: its caller's credentials are good no more, or allow something else.
async fn rights_end(gate: &Gate, who: &Who, rule: &Rule) -> Error {
    let Some(mut tenure) = Tenure::of(gate, who) else { return std::future::pending().await };
    poll_fn(|context| {
        while let Poll::Ready(judged) = tenure.poll(context) {
            match judged.and_then(|now| now.passes(rule).map(|_| now)) {
                Err(error) => return Poll::Ready(error),
                Ok(now) if !now.may_the_same(who) => return Poll::Ready(CHANGED),
                Ok(_) => {}
            }
        }
        Poll::Pending
    })
    .await
}

/// What comes with a request that was let in.
#[derive(Default)]
struct Admitted {
    tenure: Option<(Tenure, &'static Rule)>,
    /// What a call is judged by that is held.
    held: Option<(Gate, Who, &'static Rule)>,
    /// What there is to write of it when it has ended.
    entry: Option<audit::Request>,
}

/// What a call is answered, measured, and for no longer than its caller may have it.
fn answer<B>(
    measured: Call,
    response: Response<B>,
    tenure: Option<(Tenure, &'static Rule)>,
    entry: Option<audit::Request>,
    laps: Option<Laps>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    match tenure {
        Some((tenure, rule)) => {
            measured.answer(response.map(|body| Tenured { body, tenure, rule, entry, ended: false }), laps)
        }
        None => measured.answer(response, laps),
    }
}

/// The messages of a stream, as long as its caller may have them.
struct Tenured<B> {
    body: B,
    tenure: Tenure,
    rule: &'static Rule,
    /// What there is to write when it is ended.
    entry: Option<audit::Request>,
    ended: bool,
}

impl<B: http_body::Body<Data = Bytes, Error = Status> + Unpin> http_body::Body for Tenured<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        while let Poll::Ready(judged) = self.tenure.poll(context) {
            let Err(error) = judged.and_then(|who| who.passes(self.rule)) else { continue };
            self.ended = true;
            let status = Status::from(error);
            if let Some(entry) = self.entry.take() {
                entered::refused(entry, &status);
            }
            return Poll::Ready(Some(status::trailers(&status)));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
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
