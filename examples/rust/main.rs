//! A program that is on the air: registered while it runs, and following a service, by `onair::client`.
//!
//! What happens it says as lines of JSON. Ends with 0 when it was asked to (SIGTERM, SIGINT), with 3 when another process
//! took its key.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use onair::{
    client::{
        CallFailed, Cause, Change, Client, Following, Joined, LeaseEvent, Registration, Told,
        tonic::{Status, transport::Endpoint},
    },
    proto::{self, DESCRIPTORS, EventType, Instance, LookupRequest, Selector},
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const SUPERSEDED: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(5);

/// Milliseconds since 1970.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// A line.
fn say(event: &str, facts: Value) {
    let mut line = json!({"event": event, "at": now()});
    if let (Value::Object(line), Value::Object(facts)) = (&mut line, facts) {
        line.extend(facts);
    }
    println!("{line}");
}

/// An instance as JSON has it.
fn plain(instance: &Instance) -> Value {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("what the protos were compiled to"));
    let of = POOL.get_message_by_name("onair.v1.Instance").expect("it is in the API");
    let message = DynamicMessage::decode(of, instance.encode_to_vec().as_slice()).expect("what was encoded just now");
    serde_json::to_value(message).expect("every message has JSON")
}

/// The code that a call failed with, as gRPC writes it.
fn code(failed: &CallFailed) -> String {
    match failed.last() {
        Some(Cause::Status(status)) => screaming(&format!("{:?}", status.code())),
        Some(Cause::Timeout(_)) => "DEADLINE_EXCEEDED".to_owned(),
        _ => "UNAVAILABLE".to_owned(),
    }
}

/// `NotFound` as `NOT_FOUND`.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_uppercase());
    }
    text
}

/// What is online, as far as the watch has told.
#[derive(Default)]
struct Set(BTreeMap<(String, String, String), Instance>);

impl Set {
    /// Says what comes, changes and goes. Whether it was more than a bookmark.
    fn take(&mut self, change: Change) -> bool {
        let revision = change.revision.to_string();
        let say_one = |kind: EventType, cause: proto::Cause, instance: &Instance| {
            let (kind, cause) = (screaming(&format!("{kind:?}")).to_lowercase(), screaming(&format!("{cause:?}")));
            say(&kind, json!({"cause": format!("CAUSE_{cause}"), "revision": revision, "instance": plain(instance)}));
        };
        if let Some(reason) = change.reset {
            say("reset", json!({"reason": reason.as_str_name()}));
        }
        for event in &change.events {
            let Some(instance) = &event.instance else { continue };
            let key = (instance.namespace.clone(), instance.service.clone(), instance.id.clone());
            match event.r#type() {
                EventType::Offline => _ = self.0.remove(&key),
                _ => _ = self.0.insert(key, instance.clone()),
            }
            if !change.snapshot {
                say_one(event.r#type(), event.cause(), instance);
            }
        }
        if change.snapshot {
            // The client tells only what is news in it; here all of it is said.
            self.0.values().for_each(|instance| say_one(EventType::Online, proto::Cause::Snapshot, instance));
        }
        let is_set = change.snapshot || !change.events.is_empty();
        let ids: Vec<_> = self.0.values().map(|instance| &instance.id).collect();
        let facts = json!({"revision": revision, "token": change.token, "snapshotEnd": change.snapshot, "ids": ids});
        say(if is_set { "set" } else { "bookmark" }, facts);
        is_set
    }
}

async fn follow(mut following: Following, seen: watch::Sender<u64>) -> Result<(), CallFailed> {
    let (mut set, mut was_heard) = (Set::default(), false);
    while let Some(told) = following.next().await {
        match told? {
            Told::Asked { token } => {
                was_heard = false;
                say("watching", json!({"token": token}));
            }
            Told::Change(change) => {
                was_heard = true;
                let revision = change.revision;
                if set.take(change) {
                    seen.send_replace(revision);
                }
            }
            Told::Ended(failed) if was_heard && matches!(failed.last(), Some(Cause::Timeout(_))) => {
                say("silent", json!({}));
            }
            Told::Ended(failed) => {
                say("ended", json!({"code": code(&failed), "reason": failed.reason().unwrap_or_default()}));
            }
            _ => {}
        }
    }
    Ok(())
}

/// After each change, looks up what there is, no older than the watch has shown, and asks whether it is well.
async fn ask(given: Given, client: Client, mut seen: watch::Receiver<u64>) {
    while seen.changed().await.is_ok() {
        let revision = *seen.borrow_and_update();
        // What is known stays good; the next change asks again.
        if let Err(code) = ask_once(&given, &client, revision).await {
            say("failed", json!({"code": code}));
        }
    }
}

async fn ask_once(given: &Given, client: &Client, min_revision: u64) -> Result<(), String> {
    let (service, asked) = (given.watch.clone(), now());
    let request = LookupRequest { service: service.clone(), min_revision, ..LookupRequest::default() };
    let found = client.lookup_page(request).await.map_err(|failed| code(&failed))?;
    let instances: Vec<_> = found.instances.iter().map(plain).collect();
    let (emptiness, revision) = (found.emptiness().as_str_name(), found.revision.to_string());
    let facts = json!({"minRevision": min_revision.to_string(), "revision": revision, "emptiness": emptiness,
        "asked": asked, "instances": instances});
    say("looked-up", facts);
    // Health is gRPC's own service, which the client knows nothing of.
    let endpoint = Endpoint::from_shared(format!("http://{}", given.registry)).map_err(|error| error.to_string())?;
    let channel = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE).connect().await;
    let channel = channel.map_err(|_| "UNAVAILABLE".to_owned())?;
    let health = HealthClient::new(channel).check(HealthCheckRequest { service: service.clone() }).await;
    let health = health.map_err(|status: Status| screaming(&format!("{:?}", status.code())))?.into_inner();
    say("health", json!({"service": service, "status": health.status().as_str_name()}));
    Ok(())
}

/// SIGTERM or SIGINT.
struct Stop([Signal; 2]);

impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]))
    }

    async fn told(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

fn superseded(holder: &str) -> ExitCode {
    say("superseded", json!({"holder": holder}));
    ExitCode::from(SUPERSEDED)
}

/// Says what becomes of the lease until it is told to stop; the exit code, if it ends before.
async fn keep(
    joined: &mut Joined,
    stop: &mut Stop,
    following: &mut JoinHandle<Result<(), CallFailed>>,
) -> Result<Option<ExitCode>, Box<dyn Error>> {
    loop {
        tokio::select! {
            () = stop.told() => return Ok(None),
            () = joined.renewed() => say("beat", json!({"state": "BEAT_STATE_RENEWED"})),
            event = joined.event() => match event.ok_or("the lease is kept no more")? {
                LeaseEvent::Registered { response, .. } => {
                    let instance = response.instance.as_ref().map(plain);
                    say("registered", json!({"instance": instance, "revision": response.revision.to_string()}));
                }
                LeaseEvent::Lost(lost) => say("beat", json!({"state": format!("BEAT_STATE_{}", lost.name())})),
                LeaseEvent::Superseded { holder } => return Ok(Some(superseded(&holder))),
                LeaseEvent::Refused(failed) => return Err(failed.into()),
                // It is tried again.
                _ => {}
            },
            ended = &mut *following => return Err(ended?.map_or_else(Into::into, |()| "nothing is followed".into())),
        }
    }
}

/// Takes it out of traffic, then away, unless another process has its key: then nothing of it is ours.
async fn leave(joined: Joined, drain: Duration) -> ExitCode {
    let is_superseded = |failed: &CallFailed| failed.reason().as_deref() == Some("SUPERSEDED");
    match joined.drain(drain).await {
        Ok(counted) => {
            let [acked, sent, pending] = [counted.acked, counted.sent, counted.pending].map(|count| count.to_string());
            say("drained", json!({"acked": acked, "sent": sent, "pending": pending}));
        }
        Err(failed) if is_superseded(&failed) => return superseded(&failed.holder().unwrap_or_default()),
        // Nobody hears of it, so there is nothing to wait for.
        Err(failed) => say("failed", json!({"code": code(&failed)})),
    }
    match joined.leave().await {
        Ok(left) => say("deregistered", json!({"removed": left.removed.to_string()})),
        Err(failed) if is_superseded(&failed) => return superseded(&failed.holder().unwrap_or_default()),
        // The lease ends by itself.
        Err(failed) => say("failed", json!({"code": code(&failed)})),
    }
    ExitCode::SUCCESS
}

/// What it is told to do.
#[derive(Clone)]
struct Given {
    registry: String,
    service: String,
    id: String,
    port: u16,
    ttl: u64,
    watch: String,
    drain: f64,
}

impl Given {
    /// Of `--name value`, as often as there is something to say.
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let registry = "127.0.0.1:6624".to_owned();
        let [service, id, watch] = [const { String::new() }; 3];
        let mut given = Self { registry, service, id, port: 8080, ttl: 10, watch, drain: 5.0 };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} has no value"))?;
            match name.as_str() {
                "--registry" => given.registry = value,
                "--service" => given.service = value,
                "--id" => given.id = value,
                "--port" => given.port = value.parse()?,
                "--ttl" => given.ttl = value.parse()?,
                "--watch" => given.watch = value,
                "--drain" => given.drain = value.parse()?,
                _ => return Err(format!("there is no {name}").into()),
            }
        }
        if given.service.is_empty() {
            return Err("--service: say what to register".into());
        }
        if given.watch.is_empty() {
            given.watch.clone_from(&given.service);
        }
        Ok(given)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let given = Given::of(env::args().skip(1))?;
    let mut stop = Stop::listen()?;
    let client = Client::connect(&format!("http://{}?ttl={}s&timeout=5s", given.registry, given.ttl))?;
    let registration = Registration::new(&given.service).id(&given.id).port(given.port).version("1.0.0");
    let mut joined = client.join_soon(registration.metadata("language", "rust"));

    let (seen, changes) = watch::channel(0);
    let selector = Selector { service: given.watch.clone(), ..Selector::default() };
    let mut following = tokio::spawn(follow(client.follow([selector]), seen));
    let asking = tokio::spawn(ask(given.clone(), client, changes));
    if let Some(code) = keep(&mut joined, &mut stop, &mut following).await? {
        return Ok(code);
    }
    asking.abort();
    tokio::select! {
        code = leave(joined, Duration::try_from_secs_f64(given.drain)?) => Ok(code),
        // Whoever asks twice does not want to wait.
        () = stop.told() => Ok(ExitCode::FAILURE),
    }
}
