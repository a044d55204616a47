//! Who sees everything that happens in a registry, over a way of its own: the truth that a client's story is held against.
//! One for each registry, since a history is of one.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use onair::{
    proto::{
        Acknowledge, AddSubscription, Event, Quotas, RegisterRequest, RegisterResponse, Selector, SubscribeRequest,
        SubscribeResponse, UpdateNamespaceRequest, WatchRequest, admin_client::AdminClient, subscribe_request::Command,
    },
    registry::{Cause, EventType, Instance},
};
use prost_types::{Value, value::Kind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::Endpoint;

use crate::history::{Client, Recorder, Settings, Subscribed};

/// The longest that anything may take which ought to come soon.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between attempts to watch.
const REDIAL: Duration = Duration::from_millis(20);
/// The metric of what quotas refuse.
const REFUSED: &str = "\nonair_quota_refusals_total{of=\"namespace\",quota=\"instances\"}";
/// The service that everyone is of.
pub const SERVICE: &str = "web";

/// A recorder, one who watches, and a client for whoever else comes and goes.
pub struct Witness {
    pub recorder: Recorder,
    /// The recorder's beginning by the clock on the wall, or earlier.
    pub began: SystemTime,
    endpoint: Endpoint,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Event>>>,
    task: JoinHandle<()>,
}

impl Witness {
    /// Of the registry there.
    pub fn of(address: SocketAddr) -> Self {
        // A client waits for a server, and asks while there is none: how long is not the server's to answer for.
        let settings = Settings { first_message: PATIENCE, cuts: true, resets: false, ..Settings::default() };
        let began = SystemTime::now();
        let recorder = Recorder::new(settings);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let seen = Arc::default();
        let task = tokio::spawn(watch(endpoint.clone(), recorder.clone(), Arc::clone(&seen)));
        Self { recorder, began, endpoint, address, seen, task }
    }

    /// A recorded client, on a connection of its own.
    pub async fn client(&self) -> Client {
        let channel = timeout(PATIENCE, self.endpoint.connect()).await.expect("a connection").unwrap();
        Client::new(channel, self.recorder.clone())
    }

    /// Registers one more.
    pub async fn register(&self, id: &str) -> RegisterResponse {
        self.client().await.register(request(id, 0)).await.unwrap()
    }

    /// Registers many large ones at once, so that they share revisions which no message holds.
    pub async fn register_large(&self, ids: &[String]) {
        let client = self.client().await;
        let all = ids.iter().map(|id| client.register(request(id, 15_000)));
        for reply in futures_util::future::join_all(all).await {
            reply.unwrap();
        }
    }

    /// Lets the namespace have so many instances, or as many as there is room for.
    pub async fn bound(&self, instances: Option<u64>) {
        let channel = timeout(PATIENCE, self.endpoint.connect()).await.expect("a connection").unwrap();
        let quotas = Some(Quotas { instances, ..Quotas::default() });
        let request = UpdateNamespaceRequest { name: "default".into(), quotas, expected_revision: 0 };
        AdminClient::new(channel).update_namespace(request).await.unwrap();
    }

    /// How many calls quotas of instances have refused.
    pub async fn refused_by_quotas(&self) -> u64 {
        let mut line = TcpStream::connect(self.address).await.unwrap();
        line.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut said = String::new();
        line.read_to_string(&mut said).await.unwrap();
        let counted = said.split_once(REFUSED).expect("it is counted").1.lines().next().unwrap();
        counted.trim().parse().unwrap()
    }

    /// Looks away: what is there from now on is not of this history.
    pub async fn stop(&mut self) {
        self.task.abort();
        // It was told to end.
        let _ = (&mut self.task).await;
    }

    /// Why an instance was seen to go, each time.
    pub fn gone(&self, id: &str) -> Vec<Cause> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = seen.iter().filter(|event| event.r#type() == EventType::Offline);
        gone.filter(|event| event.instance.as_ref().is_some_and(|one| one.id == id)).map(Event::cause).collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One who acknowledges what he acted on.
pub struct Subscriber(Subscribed);

impl Subscriber {
    /// Of what is in traffic, and has its snapshot.
    pub async fn of(witness: &Witness) -> Self {
        let selectors = vec![Selector { service: SERVICE.to_owned(), ..Selector::default() }];
        let add = AddSubscription { id: "all".to_owned(), selectors, ..AddSubscription::default() };
        let begin = [Command::Add(add), Command::Ack(Acknowledge { revision: 0 })];
        let commands = begin.map(|command| SubscribeRequest { command: Some(command) }).into();
        let mut subscriber = Self(witness.client().await.subscribe(commands).await.unwrap());
        while !subscriber.next().await.groups.iter().any(|group| group.snapshot_end) {}
        subscriber
    }

    async fn next(&mut self) -> SubscribeResponse {
        timeout(PATIENCE, self.0.next()).await.expect("a message").expect("it goes on").unwrap()
    }

    /// The revision at which an instance leaves traffic.
    pub async fn sees_go(&mut self, id: &str) -> u64 {
        let is_it = |event: &Event| event.r#type() == EventType::Offline && event.instance.as_ref().unwrap().id == id;
        loop {
            let message = self.next().await;
            if message.groups.iter().flat_map(|group| &group.events).any(is_it) {
                return message.revision;
            }
        }
    }

    /// Tells that everything up to `revision` was acted on.
    pub async fn acknowledge(&self, revision: u64) {
        self.0.command(SubscribeRequest { command: Some(Command::Ack(Acknowledge { revision })) }).await;
    }
}

fn request(id: &str, bytes: usize) -> RegisterRequest {
    let metadata = (bytes > 0).then(|| Value { kind: Some(Kind::StringValue("x".repeat(bytes))) });
    let (service, id, version) = (SERVICE.to_owned(), id.to_owned(), "1.0.0".to_owned());
    let instance = Instance { service, id, version, metadata, port: 9, ..Instance::default() };
    let ttl = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    RegisterRequest { instance: Some(instance), ttl, ..RegisterRequest::default() }
}

/// Follows everything, as the protocol says, until it is dropped.
async fn watch(endpoint: Endpoint, recorder: Recorder, seen: Arc<Mutex<Vec<Event>>>) {
    let everything = Selector { namespace: "*".into(), selector: "status=*".into(), ..Selector::default() };
    let mut request = WatchRequest { selectors: vec![everything], ..WatchRequest::default() };
    let mut redial = tokio::time::interval(REDIAL);
    loop {
        redial.tick().await;
        let Ok(channel) = endpoint.connect().await else { continue };
        let Ok(mut stream) = Client::new(channel, recorder.clone()).watch(request.clone()).await else { continue };
        while let Some(Ok(message)) = stream.next().await {
            if !message.resume_token.is_empty() {
                request.resume_token = message.resume_token;
            }
            seen.lock().unwrap_or_else(PoisonError::into_inner).extend(message.events);
        }
    }
}
