//! Taking an instance out of traffic: who has heard of it, over sockets, with those who never say so, and over kill -9.

use std::time::{Duration, Instant};

use onair::proto::{
    Acknowledge, AddSubscription, DrainRequest, DrainResponse, EventType, GetInstanceRequest, Selector,
    SubscribeRequest, SubscribeResponse, WatchRequest, WatchResponse, registry_client::RegistryClient,
    subscribe_request::Command,
};
use onair::registry::Status;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use crate::{
    harness::{Http, Server, beat, onair, register, register_with, said, seconds, selector, within},
    history::{Recorder, Settings},
    input::{is_invalid, refusal},
};

type Api = RegistryClient<Channel>;

fn by_lease(lease_token: &str, wait: f64) -> DrainRequest {
    DrainRequest { lease_token: lease_token.into(), wait: Some(seconds(wait)), ..DrainRequest::default() }
}

fn command(command: Command) -> SubscribeRequest {
    SubscribeRequest { command: Some(command) }
}

/// A stream of Subscribe with one subscription, and the way to acknowledge on it.
struct Subscriber {
    commands: mpsc::Sender<SubscribeRequest>,
    messages: Streaming<SubscribeResponse>,
}

impl Subscriber {
    /// Says beforehand that it acknowledges, and has its snapshot.
    async fn open(api: &Api, selectors: Vec<Selector>) -> Self {
        let (commands, outgoing) = mpsc::channel(8);
        let add = AddSubscription { id: "s".into(), selectors, ..AddSubscription::default() };
        for first in [Command::Ack(Acknowledge { revision: 0 }), Command::Add(add)] {
            commands.send(command(first)).await.unwrap();
        }
        let messages = api.clone().subscribe(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let mut subscriber = Self { commands, messages };
        while !subscriber.next().await.groups[0].snapshot_end {}
        subscriber
    }

    async fn next(&mut self) -> SubscribeResponse {
        within("a message", self.messages.message()).await.unwrap().expect("no end")
    }

    async fn acknowledge(&self, revision: u64) {
        self.commands.send(command(Command::Ack(Acknowledge { revision }))).await.unwrap();
    }

    /// Reads that the instance drains.
    async fn read(&mut self) -> u64 {
        loop {
            let message = self.next().await;
            if message.groups.iter().any(|group| !group.events.is_empty()) {
                return message.revision;
            }
        }
    }
}

async fn watch(api: &Api, selectors: Vec<Selector>) -> Streaming<WatchResponse> {
    let request = WatchRequest { selectors, ..WatchRequest::default() };
    let mut stream = api.clone().watch(request).await.unwrap().into_inner();
    while !within("the snapshot", stream.message()).await.unwrap().unwrap().snapshot_end {}
    stream
}

async fn drain(api: &Api, request: DrainRequest) -> DrainResponse {
    within("the answer", api.clone().drain(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn of_a_thousand_watchers_those_that_never_acknowledge_are_pending() {
    const EACH: usize = 250;
    let server = Server::start(&["--ephemeral"]).await;
    let client = server.client(&Recorder::new(Settings::default())).await;
    let token = client.register(register("web", "1", 600.0)).await.unwrap().lease.unwrap().token;
    let (mut good, mut silent, mut watches, mut others) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for connection in 0..10 {
        let api = server.api().await;
        for _ in 0..EACH / 10 {
            let of = if connection % 2 == 0 { "web" } else { "" };
            good.push(Subscriber::open(&api, vec![selector(of, "")]).await);
            silent.push(Subscriber::open(&api, vec![selector("web", "status=*")]).await);
            watches.push(watch(&api, vec![selector("web", "")]).await);
            others.push(watch(&api, vec![selector("api", "")]).await);
        }
    }
    let api = server.api().await;
    let request = by_lease(&token, 2.0);
    let began = Instant::now();
    let readers: Vec<_> = good
        .into_iter()
        .map(|mut one| {
            tokio::spawn(async move {
                let revision = one.read().await;
                one.acknowledge(revision).await;
                one
            })
        })
        .collect();
    let answer = drain(&api, request.clone()).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "it waits for those who could still acknowledge");
    let each = EACH as u64;
    let expected = DrainResponse { acked: each, sent: each, pending: each, lagging: 0, revision: answer.revision };
    assert_eq!(answer, expected);
    // What they said stays true, a few leave, and the others say so at last: then nobody is waited for.
    let mut good = Vec::new();
    for reader in readers {
        good.push(reader.await.unwrap());
    }
    silent.truncate(EACH - 50);
    let say = async {
        for one in &mut silent {
            let revision = one.read().await;
            one.acknowledge(revision).await;
        }
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(drain(&api, by_lease(&token, 60.0)), say);
    assert!(began.elapsed() < Duration::from_secs(50));
    assert_eq!(answer, DrainResponse { acked: 2 * each - 50, pending: 0, ..expected });
    for mut stream in watches {
        let mut message = within("a message", stream.message()).await.unwrap().unwrap();
        while message.events.is_empty() {
            message = within("a message", stream.message()).await.unwrap().unwrap();
        }
        assert_eq!((message.revision, message.events[0].r#type()), (answer.revision, EventType::Offline));
    }
    drop((good, others));
}

#[tokio::test]
async fn kill_9_while_it_waits_leaves_it_draining() {
    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
    let client = server.client(&recorder).await;
    let token = client.register(register("web", "1", 600.0)).await.unwrap().lease.unwrap().token;
    let api = server.api().await;
    let mut silent = Subscriber::open(&api, vec![selector("web", "")]).await;
    let waiting = tokio::spawn({
        let (api, request) = (api.clone(), by_lease(&token, 60.0));
        async move { api.clone().drain(request).await }
    });
    let revision = silent.read().await;
    server.kill().await;
    let failed = within("the end of the call", waiting).await.unwrap().unwrap_err();
    assert!(matches!(failed.code(), Code::Unavailable | Code::Unknown), "{failed:?}");
    server.again().await;
    let mut api = server.api().await;
    let key = GetInstanceRequest { service: "web".into(), id: "1".into(), ..GetInstanceRequest::default() };
    let instance = api.get_instance(key).await.unwrap().into_inner().instance.unwrap();
    assert_eq!((instance.status(), instance.revision), (Status::Draining, revision));
    // The lease is as it was, and the call can be repeated.
    let client = server.client(&recorder).await;
    let beaten = client.heartbeat(beat([&token])).await.unwrap();
    assert_eq!(beaten.results[0].state(), onair::proto::BeatState::Renewed);
    let answer = drain(&api, by_lease(&token, 5.0)).await;
    assert_eq!(answer, DrainResponse { revision, ..DrainResponse::default() });
    recorder.assert_clean();
}

#[tokio::test]
async fn whoever_follows_its_frontend_is_counted_and_whoever_it_is_not_shown_to_is_not() {
    let server = Server::start(&["--ephemeral"]).await;
    let client = server.client(&Recorder::new(Settings::default())).await;
    let blue = register_with("web", "1", 600.0, |instance| instance.version = "1.0".into());
    let token = client.register(blue).await.unwrap().lease.unwrap().token;
    let url = server.url();
    for words in [
        &["backend", "create", "blue", "--service", "web", "--version", "1.0"][..],
        &["backend", "create", "green", "--service", "web", "--version", "2.0"],
    ] {
        let (code, _, err) = said(&onair(&[words, &["--url", &url]].concat()).await);
        assert_eq!(code, 0, "{err}");
    }
    for (name, backend) in [("www", "blue"), ("beta", "green")] {
        let (code, _, err) = said(&onair(&["frontend", "create", name, "--to", backend, "--url", &url]).await);
        assert_eq!(code, 0, "{err}");
    }
    let api = server.api().await;
    let of = |frontend: &str| vec![Selector { frontend: frontend.into(), ..Selector::default() }];
    let (mut behind, _beside) = (Subscriber::open(&api, of("www")).await, Subscriber::open(&api, of("beta")).await);
    let read = async {
        let revision = behind.read().await;
        behind.acknowledge(revision).await;
    };
    let (answer, ()) = tokio::join!(drain(&api, by_lease(&token, 30.0)), read);
    assert_eq!((answer.acked, answer.sent, answer.pending), (1, 0, 0));
}

/// By HTTP and on the command line, and what is refused.
#[tokio::test]
async fn draining_by_http_and_on_the_command_line() {
    let server = Server::start(&["--ephemeral"]).await;
    let client = server.client(&Recorder::new(Settings::default())).await;
    let token = async |id: &str| client.register(register("web", id, 600.0)).await.unwrap().lease.unwrap().token;
    let (one, two) = (token("1").await, token("2").await);
    let url = server.url();
    let mut http = Http::connect(server.address()).await;
    let mut post = async |path: &str, body: &str| {
        let length = body.len();
        let asked = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        http.ask(&asked).await
    };
    let path = |id: &str| format!("/v1/namespaces/default/services/web/instances/{id}/drain");
    let said_one = post(&path("1"), &format!(r#"{{"leaseToken": "{one}", "wait": "1s"}}"#)).await;
    assert_eq!((said_one.status, said_one.json()["revision"].as_str()), (200, Some("3")), "{said_one:?}");
    assert_eq!(post("/v1/drain", &format!(r#"{{"leaseToken": "{one}"}}"#)).await.json()["revision"], "3");
    let another = post(&path("2"), &format!(r#"{{"leaseToken": "{one}"}}"#)).await;
    assert_eq!((another.status, another.json()["reason"].as_str()), (400, Some("INVALID")), "{another:?}");
    assert_eq!(post(&path("none"), "{}").await.status, 404);

    let _watch = watch(&server.api().await, vec![selector("web", "")]).await;
    let ask = async |args: &[&str]| said(&onair(&[args, &["--url", &url]].concat()).await);
    let (code, out, err) = ask(&["drain", "web", "--id", "2"]).await;
    assert_eq!((code, out.trim(), err.trim()), (0, "web/2 is DRAINING: 1 watch told", ""));
    let (code, out, _) = ask(&["drain", "web", "--id", "2", "--output", "json"]).await;
    assert!(code == 0 && out.contains(r#""revision":"4""#), "{out}");
    let (code, out, _) = ask(&["drain", "web", "--id", "2", "--output", "curl"]).await;
    assert!(code == 0 && out.contains("/instances/2/drain"), "{out}");
    assert_ne!(ask(&["drain", "web", "--id", "none"]).await.0, 0);
    let told = http_metrics(&server).await;
    assert!(
        told.contains("onair_drain_watches_total{standing=\"sent\"} 2") && told.contains("onair_drains 0"),
        "{told}"
    );

    let api = server.api().await;
    let nothing = DrainRequest { wait: Some(seconds(1.0)), ..DrainRequest::default() };
    is_invalid("nothing", api.clone().drain(nothing).await, &["lease_token"]);
    let wait = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let all = DrainRequest { namespace: "a/b".into(), lease_token: "none".into(), wait, ..DrainRequest::default() };
    is_invalid("all", api.clone().drain(all).await, &["id", "lease_token", "namespace", "service", "wait"]);
    let newer = token("2").await;
    let (code, reason, _) = refusal(&api.clone().drain(by_lease(&two, 1.0)).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (Code::Aborted, "SUPERSEDED"));
    let gone = onair::proto::DeregisterRequest { lease_token: newer.clone(), ..Default::default() };
    client.deregister(gone).await.unwrap();
    let (code, reason, _) = refusal(&api.clone().drain(by_lease(&newer, 1.0)).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (Code::NotFound, "NOT_FOUND"));
}

async fn http_metrics(server: &Server) -> String {
    Http::connect(server.address()).await.ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.body
}
