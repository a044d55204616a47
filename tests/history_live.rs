//! A server in this process under a mix of everything that clients do, recorded and held against the promises. Which mix
//! is a seed's choice.

#[path = "history/mod.rs"]
mod history;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use history::{AnyWatched, Client, Fold, Recorder, Settings, Way};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use onair::{
    access::Gate,
    actor::{ActorOptions, RegistryHandle},
    engine::memory::MemoryEngine,
    grpc::{
        CanonicalErrors, Dispatch, RegistryService, ServiceOptions, registry::fixed_limits,
        server::registry_server::RegistryServer,
    },
    http::ApiOptions,
    laps::Laps,
    proto::{
        AddSubscription, Beat, DeregisterRequest, DropSubscription, HeartbeatRequest, IfMissing, Limits, LookupRequest,
        RegisterRequest, Selector, SubscribeRequest, WatchRequest, subscribe_request::Command,
    },
    registry::{Instance, Status},
};
use prost_types::{Struct, Value, value::Kind};
use tokio::{net::TcpListener, sync::Mutex, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tower::ServiceExt as _;
use uuid::Uuid;

/// What each registrant does.
const OPERATIONS: usize = 120;
const REGISTRANTS: usize = 4;
/// Different ids in a service.
const IDS: usize = 30;
/// Registrations that are sent at once, so that they share revisions.
const BURST: usize = 40;
/// What leases have that nobody renews: they lapse while the test runs.
const SHORT: Duration = Duration::from_secs(1);

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// A server: where it is reached by gRPC and by HTTP, and how to end it.
async fn serve() -> (Channel, SocketAddr, RegistryHandle) {
    let recovered = MemoryEngine::recovered(Uuid::from_u128(7), 7);
    let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
    tokio::spawn(actor.run());
    let marking = handle.clone();
    tokio::spawn(async move { marking.keep_marking(0, &Laps::default()).await });
    let limits = Limits {
        max_watches: 1_000,
        max_subscriptions: 100,
        max_selectors: 100,
        max_beats: 1_000,
        max_message_bytes: 1 << 22,
        ..fixed_limits()
    };
    let max_message_bytes = limits.max_message_bytes;
    let options = ServiceOptions { limits, restart_grace: Duration::ZERO, durable: false, members: vec![] };
    let service = RegistryServer::new(RegistryService::new(handle.clone(), options));
    let service = CanonicalErrors::new(service, max_message_bytes, std::sync::Arc::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let services = Dispatch::default().and(service);
    tokio::spawn(Server::builder().serve_with_incoming(services.clone(), TcpListenerStream::new(listener)));
    let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
    (channel, serve_http(services).await, handle)
}

/// The same services by HTTP.
async fn serve_http(services: Dispatch) -> SocketAddr {
    let routes = onair::http::router(
        services,
        ApiOptions { max_message_bytes: 1 << 22, max_json_values: 1 << 16 },
        Gate::open(),
    )
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let routes = routes.clone();
            let service = service_fn(move |request: hyper::Request<Incoming>| routes.clone().oneshot(request));
            // Clients leave in the middle.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
        }
    });
    address
}

fn selector(namespace: &str, service: &str, version: &str, selector: &str) -> Selector {
    Selector {
        namespace: namespace.into(),
        service: service.into(),
        version: version.into(),
        selector: selector.into(),
        ..Selector::default()
    }
}

/// What is watched and looked up.
fn selectors() -> Vec<Vec<Selector>> {
    vec![
        vec![selector("*", "", "", "status=*")],
        vec![],
        vec![selector("", "web", "", "")],
        vec![selector("", "web", "^1.2", "")],
        vec![selector("", "", "", "status=draining")],
        vec![selector("other", "", "", "zone!=north")],
        vec![selector("*", "api", "", "metadata.color in (red,blue),status=*")],
        vec![selector("", "web", "", "zone=north"), selector("", "api", "", ""), selector("", "web", "2.0.0", "")],
    ]
}

fn description(dice: &mut Dice) -> RegisterRequest {
    let color = Kind::StringValue((*dice.pick(&["red", "green", "blue"])).to_owned());
    let fields = [("color".to_owned(), Value { kind: Some(color) })].into();
    // Some are as large as they may be, so that revisions and snapshots span messages.
    let text = Value { kind: Some(Kind::StringValue("x".repeat(*dice.pick(&[1, 1, 15_000])))) };
    let mut object = Struct { fields };
    object.fields.insert("text".to_owned(), text);
    let instance = Instance {
        namespace: (*dice.pick(&["", "", "other"])).to_owned(),
        service: (*dice.pick(&["web", "web", "api"])).to_owned(),
        id: format!("i{}", dice.roll(IDS)),
        port: 8_000 + dice.roll(IDS) as u32,
        version: (*dice.pick(&["1.2.3", "1.3.0", "2.0.0", "next"])).to_owned(),
        zone: (*dice.pick(&["", "north", "south"])).to_owned(),
        status: *dice.pick(&[0, 0, Status::Starting.into()]),
        metadata: Some(Value { kind: Some(Kind::StructValue(object)) }),
        ..Instance::default()
    };
    let ttl = (*dice.pick(&[SHORT, Duration::from_secs(60)])).try_into().ok();
    // Some need others, and do not wait for long.
    let (web, api) = (("web".to_owned(), "^1".to_owned()), ("api".to_owned(), String::new()));
    let dependencies = match dice.roll(6) {
        0 => [web].into(),
        1 => [api].into(),
        2 => [web, api].into(),
        _ => BTreeMap::new(),
    };
    let if_missing = (*dice.pick(&[IfMissing::Fail, IfMissing::Wait, IfMissing::Ignore])).into();
    let wait = Duration::from_millis(dice.roll(100) as u64).try_into().ok();
    RegisterRequest { instance: Some(instance), ttl, dependencies, if_missing, wait, ..RegisterRequest::default() }
}

/// Registers, beats, updates, deregisters and looks up, with good tokens and old ones.
async fn registrant(client: Client, mut dice: Dice) {
    let mut tokens = vec!["no token".to_owned()];
    let mut revision = 0;
    for _ in 0..OPERATIONS {
        match dice.roll(40) {
            0 => {
                let register = |request| {
                    let client = client.clone();
                    async move { client.register(request).await }
                };
                let burst: JoinSet<_> = (0..BURST).map(|_| register(description(&mut dice))).collect();
                let replies = burst.join_all().await;
                tokens.extend(replies.into_iter().flatten().filter_map(|reply| reply.lease).map(|lease| lease.token));
            }
            1..12 => {
                let mut request = description(&mut dice);
                request.lease_token = if dice.roll(2) == 0 { String::new() } else { dice.pick(&tokens).clone() };
                request.request_id = (*dice.pick(&["", "", "again"])).to_owned();
                if let Ok(reply) = client.register(request).await {
                    revision = reply.revision;
                    tokens.extend(reply.lease.map(|lease| lease.token));
                }
            }
            12..24 => {
                let beat = |dice: &mut Dice| Beat {
                    lease_token: dice.pick(&tokens).clone(),
                    status: *dice.pick(&[0, 0, 0, Status::Serving.into(), Status::Draining.into()]),
                };
                let beats = (0..dice.roll(6)).map(|_| beat(&mut dice)).collect();
                let _ = client.heartbeat(HeartbeatRequest { beats, ..Default::default() }).await;
            }
            24..28 => {
                let lease_token = dice.pick(&tokens).clone();
                let request = DeregisterRequest { lease_token, ..DeregisterRequest::default() };
                if let Ok(reply) = client.deregister(request).await {
                    revision = reply.revision;
                }
            }
            _ => {
                let all = selectors();
                let Selector { namespace, service, version, selector, .. } =
                    dice.pick(&all).first().cloned().unwrap_or_default();
                let min_revision = revision;
                let request =
                    LookupRequest { namespace, service, version, selector, min_revision, ..LookupRequest::default() };
                let _ = client.lookup(request).await;
            }
        }
    }
}

/// Watches, leaves now and then and resumes or begins anew, each time in one of these ways, until the server goes away.
/// What it holds then.
async fn watcher(
    client: Client,
    (http, ways): (SocketAddr, &'static [Way]),
    selectors: Vec<Selector>,
    mut dice: Dice,
) -> Fold {
    let mut fold = Fold::new();
    loop {
        let resume_token = fold.resume_token().to_owned();
        let request = WatchRequest { selectors: selectors.clone(), resume_token, ..WatchRequest::default() };
        let opened = match *dice.pick(ways) {
            Way::Grpc => client.watch(request).await.map(AnyWatched::Grpc),
            way => AnyWatched::open(way, http, client.recorder(), request).await.expect("it serves until the end"),
        };
        let Ok(mut watch) = opened else { return fold };
        for _ in 0..5 + dice.roll(80) {
            match watch.next().await {
                Some(Ok(message)) => fold.watch(&message),
                _ => return fold,
            }
        }
        match dice.roll(3) {
            0 => fold = Fold::new(),
            _ => fold.redial(),
        }
    }
}

/// Adds and drops subscriptions, until the server goes away.
async fn subscriber(client: Client, mut dice: Dice) {
    let add = |id: usize| {
        let selectors = selectors()[id].clone();
        let add = AddSubscription { id: id.to_string(), selectors, ..AddSubscription::default() };
        SubscribeRequest { command: Some(Command::Add(add)) }
    };
    let count = selectors().len();
    let mut stream = client.subscribe((0..count).map(add).collect()).await.unwrap();
    let mut there = vec![true; count];
    loop {
        for _ in 0..dice.roll(20) {
            let Some(Ok(_)) = stream.next().await else { return };
        }
        // The one of everything stays, so that the stream is never quiet for long.
        let id = 1 + dice.roll(count - 1);
        there[id] = !there[id];
        let drop = Command::Drop(DropSubscription { id: id.to_string() });
        let command = if there[id] { add(id) } else { SubscribeRequest { command: Some(drop) } };
        stream.command(command).await;
    }
}

async fn live(ways: &'static [Way], settings: Settings) {
    // Each needs the machine for itself.
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let seed = seed();
    let recorder = Recorder::new(settings);
    let (channel, http, handle) = serve().await;
    let client = || Client::new(channel.clone(), recorder.clone());
    let mut watchers = JoinSet::new();
    for (number, selectors) in selectors().into_iter().enumerate() {
        for copy in 0..2 {
            let dice = Dice(seed + 100 * number as u64 + copy);
            watchers.spawn(watcher(client(), (http, ways), selectors.clone(), dice));
        }
    }
    let mut subscribers = JoinSet::new();
    subscribers.spawn(subscriber(client(), Dice(seed + 1)));
    let mut registrants = JoinSet::new();
    for number in 0..REGISTRANTS {
        registrants.spawn(registrant(client(), Dice(seed + 10_000 * number as u64)));
    }
    registrants.join_all().await;
    // The short leases lapse: a lookup that waits in vain outlasts them.
    let wait = (SHORT * 4).try_into().ok();
    let nothing = LookupRequest { service: "nothing".into(), wait, ..LookupRequest::default() };
    client().lookup(nothing).await.unwrap();
    handle.hub().close();
    let folds = watchers.join_all().await;
    subscribers.join_all().await;
    assert!(folds.iter().any(|fold| !fold.instances().is_empty()));
    recorder.assert_clean();
}

/// `ONAIR_SEED` chooses another mix.
fn seed() -> u64 {
    std::env::var("ONAIR_SEED").map_or(1, |seed| seed.parse().unwrap())
}

#[tokio::test]
async fn a_mix_of_everything_breaks_no_promise() {
    live(&[Way::Grpc], Settings { late: Some(SHORT * 5 / 2), resets: false, ..Settings::default() }).await;
}

/// The clients share the server's thread, and reading JSON takes them long: how late the server is does not show.
#[tokio::test]
async fn a_mix_of_every_way_to_watch_breaks_no_promise() {
    // A poll is answered when it was held for long enough.
    let first_message = Settings::default().first_message + SHORT;
    let settings = Settings { first_message, resets: false, ..Settings::default() };
    live(&[Way::Grpc, Way::Events, Way::Poll(SHORT)], settings).await;
}
