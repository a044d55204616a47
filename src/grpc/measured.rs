//! Each call is counted once, when it ended, by the way it came and how it ended; a call that nobody waits for any more
//! counts as CANCELLED, or as DEADLINE_EXCEEDED if its time was up. Two looks at the clock and three additions, whatever the call.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant as Deadline;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;

use super::{
    deadline,
    status::{self, Reason},
};
use crate::{
    laps::{Kind, Laps, Place},
    metrics::{Bounded, Front, Limit, Metrics, QuotaOf, Rpc},
};

/// After a message of so many bytes a stream goes on at once; after a larger one, as a snapshot has them, in its turn.
const LIGHT: usize = 8 << 10;

/// Among the extensions of a request whose replies somebody may stop reading when there were enough: to leave then is to
/// end the call, not to cancel it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Enough(Arc<AtomicBool>);

impl Enough {
    /// There were.
    pub(crate) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_said(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Call {
    metrics: Arc<Metrics>,
    front: Front,
    rpc: Rpc,
    begun: Instant,
    /// When its caller stops waiting.
    until: Option<Deadline>,
    enough: Option<Enough>,
    /// Counted already.
    ended: bool,
}

impl Call {
    /// A request was read. The way it came is among its extensions, if it is not gRPC.
    pub(super) fn begin(metrics: &Arc<Metrics>, request: &Request<Body>) -> Self {
        let front = request.extensions().get().copied().unwrap_or(Front::Grpc);
        let rpc = Rpc::of_path(request.uri().path());
        let until = deadline::until(request.extensions(), request.headers());
        let enough = request.extensions().get().cloned();
        Self { metrics: Arc::clone(metrics), front, rpc, begun: Instant::now(), until, enough, ended: false }
    }

    /// Whether it goes before all others.
    pub(super) fn goes_first(&self) -> bool {
        self.rpc.goes_first()
    }

    /// Completes when it is its turn in these laps, if it has one answer. A stream goes part by part.
    ///
    /// # Errors
    /// The answer to a caller who waits no longer. Nothing was begun.
    pub(super) async fn turn(self, laps: &Laps) -> Result<Self, Response<Body>> {
        if self.rpc.is_stream() {
            return Ok(self);
        }
        let mut place = Place::default();
        let turn = |context: &mut Context<'_>| match self.is_late() {
            true => Poll::Ready(false),
            false => laps.poll(&mut place, Kind::Call, context).map(|()| true),
        };
        if poll_fn(turn).await { Ok(self) } else { Err(self.too_late()) }
    }

    fn too_late(mut self) -> Response<Body> {
        self.metrics.refusals.of((Reason::Deadline,)).inc();
        self.end(Code::DeadlineExceeded);
        status::too_late()
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| until <= Deadline::now())
    }

    /// Its answer is ready, or the beginning of it, of which the rest goes in these laps.
    pub(super) fn answer<B>(mut self, response: Response<B>, laps: Option<Laps>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
    {
        // A refusal is all headers; what has none of a status has it behind the messages.
        if response.headers().contains_key(Status::GRPC_STATUS) {
            self.end_with(response.headers());
            return response.map(Body::new);
        }
        if !self.rpc.is_stream() {
            self.end(Code::Ok);
            return response.map(Body::new);
        }
        self.metrics.streams.of((self.front, self.rpc)).inc();
        response.map(|body| Body::new(Streaming { body, call: self, laps, place: Place::default(), is_heavy: true }))
    }

    fn end_with(&mut self, headers: &HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else { return };
        count_refusal(&self.metrics, &status);
        self.end(status.code());
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if !self.rpc.is_stream() {
            self.metrics.call_duration.of((self.front, self.rpc)).observe(self.begun.elapsed());
        }
        self.metrics.calls.of((self.front, self.rpc, code)).inc();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.enough.as_ref().is_some_and(Enough::is_said) {
            return self.end(Code::Ok);
        }
        if self.is_late() {
            self.metrics.refusals.of((Reason::Deadline,)).inc();
            return self.end(Code::DeadlineExceeded);
        }
        self.end(Code::Cancelled);
    }
}

/// Counts what `status` tells of a refusal.
pub(crate) fn count_refusal(metrics: &Metrics, status: &Status) {
    if status.code() == Code::Ok {
        return;
    }
    let info = status.get_details_error_info();
    let reason = info.as_ref().and_then(|info| Reason::from_str_name(&format!("ERROR_REASON_{}", info.reason)));
    metrics.refusals.of((reason.unwrap_or_default(),)).inc();
    let limit = info.as_ref().and_then(|info| info.metadata.get("limit"));
    if let Some(limit) = limit.and_then(|name| Limit::of_name(name)) {
        metrics.limit_refusals.of((limit,)).inc();
    }
    if reason == Some(Reason::Quota) {
        for one in status.get_details_quota_failure().into_iter().flat_map(|failure| failure.violations) {
            let of = if one.subject.starts_with("principal:") { QuotaOf::Principal } else { QuotaOf::Namespace };
            if let Some(quota) = Bounded::of_name(&one.quota_metric) {
                metrics.quota_refusals.of((of, quota)).inc();
            }
        }
    }
}

/// The messages of a stream, and how it ended.
struct Streaming<B> {
    body: B,
    call: Call,
    laps: Option<Laps>,
    place: Place,
    /// The next message needs a place: there was none before it, or a large one. What many read is made once, and small.
    is_heavy: bool,
}

impl<B: http_body::Body<Data = Bytes, Error = Status> + Unpin> http_body::Body for Streaming<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let laps = this.laps.as_ref().filter(|_| this.is_heavy);
        if let Some(laps) = laps {
            ready!(laps.poll(&mut this.place, Kind::Part, context));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            this.is_heavy = frame.data_ref().is_some_and(|message| message.len() > LIGHT);
            if let Some(trailers) = frame.trailers_ref() {
                this.call.end_with(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Streaming<B> {
    fn drop(&mut self) {
        self.call.metrics.streams.of((self.call.front, self.call.rpc)).dec();
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use prost::Message as _;
    use tokio_stream::StreamExt as _;
    use tonic::client::Grpc;
    use tonic_prost::ProstCodec;
    use uuid::Uuid;

    use super::*;
    use crate::{
        actor::{ActorOptions, RegistryHandle},
        engine::memory::MemoryEngine,
        grpc::{CanonicalErrors, RegistryService, ServiceOptions, registry::fixed_limits, server::registry_server},
        proto::{self, LookupRequest, LookupResponse, RegisterRequest, RegisterResponse, WatchRequest, WatchResponse},
    };

    type Client = Grpc<CanonicalErrors<registry_server::RegistryServer<RegistryService>>>;

    fn start() -> (RegistryHandle, Arc<Metrics>, Client) {
        start_in(Laps::default())
    }

    fn start_in(laps: Laps) -> (RegistryHandle, Arc<Metrics>, Client) {
        let recovered = MemoryEngine::recovered(Uuid::nil(), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        let limits = proto::Limits { max_beats: 10, max_selectors: 1, max_subscriptions: 10, ..fixed_limits() };
        let options = ServiceOptions { limits, restart_grace: Default::default(), durable: false, members: Vec::new() };
        let service = registry_server::RegistryServer::new(RegistryService::new(handle.clone(), options));
        let metrics = Arc::clone(handle.metrics());
        let client = Grpc::new(CanonicalErrors::new(service, 1 << 20, Arc::clone(&metrics)).paced(laps));
        (handle, metrics, client)
    }

    async fn register(client: &mut Client, front: Option<Front>, service: &str) -> Result<RegisterResponse, Status> {
        let instance = proto::Instance { service: service.into(), port: 80, ..Default::default() };
        let mut request = tonic::Request::new(RegisterRequest { instance: Some(instance), ..Default::default() });
        if let Some(front) = front {
            request.extensions_mut().insert(front);
        }
        let path = http::uri::PathAndQuery::from_static("/onair.v1.Registry/Register");
        client.ready().await.expect("ready");
        Ok(client.unary(request, path, ProstCodec::default()).await?.into_inner())
    }

    #[tokio::test]
    async fn calls_count_by_their_way_and_their_end() {
        let (_handle, metrics, mut client) = start();
        for front in [None, Some(Front::Http), Some(Front::Http)] {
            register(&mut client, front, "web").await.expect("registered");
        }
        let refused = register(&mut client, None, "").await.expect_err("no name");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let count = |front, code| metrics.calls.of((front, Rpc::Register, code)).get();
        assert_eq!(count(Front::Grpc, Code::Ok), 1);
        assert_eq!(count(Front::Http, Code::Ok), 2);
        assert_eq!(count(Front::Grpc, Code::InvalidArgument), 1);
        assert_eq!(metrics.call_duration.of((Front::Grpc, Rpc::Register)).count(), 2);
        assert_eq!(metrics.refusals.of((Reason::Invalid,)).get(), 1);
        assert_eq!(metrics.inbox_wait.of((crate::metrics::Lane::Commands,)).count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_beyond_its_deadline_is_not_begun() {
        let laps = Laps::default();
        let (_handle, metrics, mut client) = start_in(laps.clone());
        let instance = proto::Instance { service: "web".into(), port: 80, ..Default::default() };
        for (passes, code) in [(99, Code::Ok), (100, Code::DeadlineExceeded)] {
            let mut request =
                tonic::Request::new(RegisterRequest { instance: Some(instance.clone()), ..Default::default() });
            request.set_timeout(Duration::from_millis(100));
            let path = http::uri::PathAndQuery::from_static("/onair.v1.Registry/Register");
            client.ready().await.expect("ready");
            let mut nobody = Context::from_waker(std::task::Waker::noop());
            while laps.poll(&mut Place::default(), Kind::Call, &nobody).is_ready() {}
            let mut call = pin!(client.unary::<_, RegisterResponse, _>(request, path, ProstCodec::default()));
            assert!(call.as_mut().poll(&mut nobody).is_pending(), "there is no place");
            tokio::time::advance(Duration::from_millis(passes)).await;
            let answered = call.await;
            assert_eq!(answered.map_or_else(|status| status.code(), |_| Code::Ok), code, "after {passes} ms");
        }
        assert_eq!(metrics.inbox_wait.of((crate::metrics::Lane::Commands,)).count(), 1, "commands");
        assert_eq!(metrics.calls.of((Front::Grpc, Rpc::Register, Code::DeadlineExceeded)).get(), 1);
        assert_eq!(metrics.refusals.of((Reason::Deadline,)).get(), 1);
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_is_cancelled() {
        let (_handle, metrics, mut client) = start();
        let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let request = tonic::Request::new(LookupRequest { service: "none".into(), wait, ..Default::default() });
        let path = http::uri::PathAndQuery::from_static("/onair.v1.Registry/Lookup");
        client.ready().await.expect("ready");
        let mut call = Box::pin(client.unary(request, path, ProstCodec::<_, LookupResponse>::default()));
        assert!(std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await);
        let cancelled = metrics.calls.of((Front::Grpc, Rpc::Lookup, Code::Cancelled));
        assert_eq!(cancelled.get(), 0);
        drop(call);
        assert_eq!(cancelled.get(), 1);
    }

    #[tokio::test]
    async fn streams_are_open_until_they_end() {
        let (handle, metrics, mut client) = start();
        let path = http::uri::PathAndQuery::from_static("/onair.v1.Registry/Watch");
        let open = || metrics.streams.of((Front::Grpc, Rpc::Watch)).get();
        let ended = |code| metrics.calls.of((Front::Grpc, Rpc::Watch, code)).get();
        let mut streams = Vec::new();
        for _ in 0..2 {
            let request = tonic::Request::new(WatchRequest::default());
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            client.ready().await.expect("ready");
            let mut stream = client.server_streaming(request, path.clone(), codec).await.expect("open").into_inner();
            let first = stream.next().await.expect("a message").expect("a snapshot");
            assert!(first.snapshot_end && first.encoded_len() > 0);
            streams.push(stream);
        }
        assert_eq!((open(), ended(Code::Cancelled)), (2, 0));
        drop(streams.pop());
        assert_eq!((open(), ended(Code::Cancelled)), (1, 1));
        handle.hub().close();
        let mut last = streams.pop().expect("one is open");
        let end = loop {
            match last.next().await.expect("an end") {
                Ok(message) => assert!(message.events.is_empty()),
                Err(status) => break status,
            }
        };
        assert_eq!((end.code(), open()), (Code::Unavailable, 1));
        drop(last);
        assert_eq!((open(), ended(Code::Unavailable), ended(Code::Cancelled)), (0, 1, 1));
        assert_eq!(metrics.refusals.of((Reason::ShuttingDown,)).get(), 1);
    }
}
