//! An actor under a test: how it is started, stalled and asked, and how a watch of it is read.

use std::{
    net::Ipv4Addr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as Turn, Poll, Waker},
    time::Duration,
};

use onair::{
    actor::{Actor, ActorOptions, Beat, BeatOutcome, BeatReply, RegistryHandle, Reply, anyone},
    engine::{
        Engine, EngineError, Recovered,
        hostile::{HostileEngine, HostileHandle, Manners},
        memory::MemoryEngine,
    },
    laps::Laps,
    proto::WatchResponse,
    registry::{
        Cause, Context, Error, EventType, Filter, FilterSet, Instance, LeaseToken, Record, Registration, Status, Target,
    },
    watch::{Ending, WatchItem, WatchStream},
};
use prost::Message as _;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::StreamExt as _;
use uuid::Uuid;

/// Longer than anything here takes, in paused time.
pub const AGES: Duration = Duration::from_secs(3_600);

/// Every lapse is what it is by itself: what promise 2 says of one holds for many.
pub fn without_breaker() -> ActorOptions {
    ActorOptions { breaker: false, ..ActorOptions::default() }
}

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Lets time pass, and everyone act in it.
pub async fn pass(time: Duration) {
    sleep_until(Instant::now() + time).await;
}

/// Lets everyone act who can without time.
pub async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Holds up whoever runs in it: a thread that gets no time.
#[derive(Clone, Default)]
pub struct Stall(Arc<(AtomicBool, Mutex<Vec<Waker>>)>);

impl Stall {
    pub fn begin(&self) {
        self.0.0.store(true, Ordering::Release);
    }

    pub fn end(&self) {
        self.0.0.store(false, Ordering::Release);
        self.0.1.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        tokio::spawn(Stalled { stall: self.clone(), future: Box::pin(future) })
    }
}

struct Stalled<T> {
    stall: Stall,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T> Future for Stalled<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, turn: &mut Turn<'_>) -> Poll<T> {
        if self.stall.0.0.load(Ordering::Acquire) {
            self.stall.0.1.lock().unwrap().push(turn.waker().clone());
            return Poll::Pending;
        }
        self.future.as_mut().poll(turn)
    }
}

/// A running actor.
pub struct Rig {
    pub handle: RegistryHandle,
    pub actor: JoinHandle<Result<(), EngineError>>,
    /// Of the actor's own thread.
    pub stall: Stall,
    /// Of each runtime that reads sockets.
    pub runtimes: Vec<Stall>,
}

impl Rig {
    /// On the given engine. Runtimes mark at different moments.
    pub fn start<E: Engine>(engine: E, recovered: Recovered, options: ActorOptions) -> Self {
        let runtimes: Vec<_> = (0..options.runtimes).map(|_| Stall::default()).collect();
        let (handle, actor) = RegistryHandle::new(engine, recovered, options);
        Self::over(handle, actor, &runtimes)
    }

    /// Of parts that are there, with runtimes that may be held up already.
    pub fn over<E: Engine>(handle: RegistryHandle, actor: Actor<E>, runtimes: &[Stall]) -> Self {
        let stall = Stall::default();
        let actor = stall.run(actor.run());
        for (number, stall) in runtimes.iter().enumerate() {
            let marking = handle.clone();
            let from = Instant::now() + ms(7) * number as u32;
            stall.run(async move {
                sleep_until(from).await;
                marking.keep_marking(number, &Laps::default()).await;
            });
        }
        Self { handle, actor, stall, runtimes: runtimes.to_vec() }
    }

    /// On an engine that commits at once.
    pub fn new() -> Self {
        Self::with(ActorOptions::default())
    }

    pub fn with(options: ActorOptions) -> Self {
        Self::start(MemoryEngine::default(), MemoryEngine::recovered(Uuid::from_u128(5), 5), options)
    }

    /// On a hostile one.
    pub fn hostile(manners: Manners) -> (Self, HostileHandle) {
        Self::hostile_with(manners, ActorOptions::default())
    }

    pub fn hostile_with(manners: Manners, options: ActorOptions) -> (Self, HostileHandle) {
        let (engine, hostile, recovered) = HostileEngine::new(1, manners);
        (Self::start(engine, recovered, options), hostile)
    }

    /// Registers `default/SERVICE/ID`.
    pub async fn register(&self, service: &str, id: &str, ttl: Duration) -> (Record, LeaseToken) {
        self.try_register(registration(service, id, ttl), None).await.expect("it can be registered")
    }

    pub async fn try_register(
        &self,
        registration: Registration,
        token: Option<LeaseToken>,
    ) -> Result<(Record, LeaseToken), Error> {
        match within(self.handle.register(registration, token, anyone(), None)).await? {
            Reply::Registered { record, token, .. } => Ok((record, token)),
            other => panic!("a registration was answered as {other:?}"),
        }
    }

    pub async fn deregister(&self, target: Target) -> Result<(u64, u64), Error> {
        match within(self.handle.deregister(target, anyone(), None)).await? {
            Reply::Removed { removed, revision } => Ok((removed, revision)),
            other => panic!("a removal was answered as {other:?}"),
        }
    }

    /// Beats of one message.
    pub async fn beats(&self, tokens: &[LeaseToken]) -> BeatReply {
        let beats = tokens.iter().map(|token| plain(*token)).collect();
        within(self.handle.beat(beats)).await.expect("beats have room")
    }

    pub async fn beat(&self, token: LeaseToken) -> BeatOutcome {
        self.beats(&[token]).await.outcomes[0]
    }

    /// A beat with a status.
    pub async fn say(&self, token: LeaseToken, status: Status) -> BeatOutcome {
        within(self.handle.beat(vec![Beat { token: Some(token), status }])).await.expect("beats have room").outcomes[0]
    }

    pub async fn watch(&self, filters: FilterSet, resume_token: &str) -> Watching {
        Watching(within(self.handle.watch(filters, resume_token.to_owned(), anyone())).await.expect("there is room"))
    }

    /// A watch of everything that its first snapshot, which is empty, was read from.
    pub async fn watch_all(&self) -> Watching {
        let mut watching = self.watch(all(), "").await;
        assert!(watching.next().await.snapshot_end);
        watching
    }

    /// The same, when so many are there.
    pub async fn watch_all_from(&self, instances: usize) -> Watching {
        let (mut watching, mut seen) = (self.watch(all(), "").await, 0);
        loop {
            let message = watching.next().await;
            seen += message.events.len();
            if message.snapshot_end {
                assert_eq!(seen, instances);
                return watching;
            }
        }
    }

    pub fn instances(&self) -> u64 {
        self.handle.hub().registry().instances()
    }

    pub fn revision(&self) -> u64 {
        self.handle.hub().registry().revision()
    }
}

/// Lets time pass until it is so.
pub async fn until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + AGES;
    while !is_so() {
        assert!(Instant::now() < end, "it never came to be so");
        pass(ms(1)).await;
    }
}

/// What is waited for comes, though perhaps late.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(AGES, future).await.expect("it comes")
}

pub fn plain(token: LeaseToken) -> Beat {
    Beat { token: Some(token), status: Status::Unspecified }
}

pub fn instance(service: &str, id: &str) -> Instance {
    Instance { service: service.into(), id: id.into(), port: 80, ..Instance::default() }
}

pub fn registration(service: &str, id: &str, ttl: Duration) -> Registration {
    registration_of(instance(service, id), ttl, "")
}

pub fn registration_of(instance: Instance, ttl: Duration, request_id: &str) -> Registration {
    let ttl = prost_types::Duration::try_from(ttl).expect("a duration");
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id };
    Registration::parse(instance, Some(ttl), context).expect("nothing is wrong with it")
}

/// Every service of every namespace, whatever its status.
pub fn all() -> FilterSet {
    FilterSet::new([Filter::new("*", "", "", "status=*").expect("a filter")])
}

pub fn service(service: &str) -> FilterSet {
    FilterSet::new([Filter::new("", service, "", "").expect("a filter")])
}

/// A watch and what is read from it.
pub struct Watching(pub WatchStream);

/// An event, without what only its instance says.
pub type Told = (EventType, Cause, String);

impl Watching {
    /// The next message.
    pub async fn next(&mut self) -> WatchResponse {
        match within(self.0.next()).await {
            Some(WatchItem::Frame(frame)) => WatchResponse::decode(frame.message()).expect("it is a message"),
            end => panic!("a message was expected, not {end:?}"),
        }
    }

    /// The next message, if there is one by now.
    pub async fn ready(&mut self) -> Option<WatchResponse> {
        match timeout(Duration::ZERO, self.0.next()).await {
            Ok(Some(WatchItem::Frame(frame))) => Some(WatchResponse::decode(frame.message()).expect("it is a message")),
            Ok(end) => panic!("a message was expected, not {end:?}"),
            Err(_) => None,
        }
    }

    /// The next message with events, and when it came.
    pub async fn events(&mut self) -> (Vec<Told>, Instant) {
        let end = Instant::now() + AGES;
        while Instant::now() < end {
            let message = self.next().await;
            if !message.events.is_empty() {
                return (told(&message), Instant::now());
            }
        }
        panic!("no events for ages");
    }

    /// The end, after what comes before it.
    pub async fn end(&mut self) -> (Vec<WatchResponse>, Ending) {
        let mut messages = Vec::new();
        loop {
            match within(self.0.next()).await.expect("an end is told") {
                WatchItem::Frame(frame) => {
                    messages.push(WatchResponse::decode(frame.message()).expect("it is a message"));
                }
                WatchItem::End(ending) => {
                    assert!(within(self.0.next()).await.is_none(), "nothing comes after the end");
                    return (messages, ending);
                }
            }
        }
    }
}

pub fn told(message: &WatchResponse) -> Vec<Told> {
    let told = |event: &onair::proto::Event| {
        let id = event.instance.as_ref().expect("every event has its record").id.clone();
        (event.r#type(), event.cause(), id)
    };
    message.events.iter().map(told).collect()
}
