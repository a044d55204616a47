//! What `/metrics` says moves by exactly what was done, and the probes say what is so. What each metric means is in
//! docs/operating.md.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use onair::proto::{
    AddSubscription, Beat, DeregisterRequest, HeartbeatRequest, LookupRequest, RegisterRequest, Status,
    SubscribeRequest, SubscribeResponse, WatchRequest, WatchResponse, registry_client::RegistryClient,
    subscribe_request::Command,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_stream::StreamExt as _;
use tonic::{Code, Streaming, transport::Channel};

use crate::harness::{Http, Server, beat, everything, lookup, onair, register, said, within};

/// What a scrape says: each sample by its name and labels, as it is written.
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub async fn of(address: SocketAddr) -> Self {
        let said = get(address, "/metrics").await;
        assert_eq!(said.0, 200);
        let samples = said.1.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        });
        Self(samples.collect())
    }

    /// 0 for what never occurred.
    pub fn get(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or_default()
    }

    /// These samples moved by so much, of all with this prefix no others.
    fn moved(&self, since: &Self, prefix: &str, wanted: &[(&str, f64)]) {
        let moved = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        let moved = moved.map(|(name, value)| (name.as_str(), value - since.get(name)));
        let moved: BTreeMap<_, _> = moved.filter(|(_, by)| *by != 0.0).collect();
        assert_eq!(moved, wanted.iter().copied().collect::<BTreeMap<_, _>>(), "{prefix}");
    }
}

type Api = RegistryClient<Channel>;

/// Status and body.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut http = Http::connect(address).await;
    let answer = http.ask(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await;
    (answer.status, answer.body)
}

/// Calls of each kind, good and bad ones.
async fn make_calls(api: &mut Api) {
    let mut tokens = Vec::new();
    for id in ["a", "b", "c"] {
        tokens.push(api.register(register("web", id, 60.0)).await.unwrap().into_inner().lease.unwrap().token);
    }
    assert_eq!(api.register(RegisterRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    for _ in 0..2 {
        api.lookup(lookup("web")).await.unwrap();
    }
    api.lookup(LookupRequest { min_revision: 1_000, ..lookup("web") }).await.unwrap_err();
    // Three tokens and one that is none, by a call; twenty messages of two by a stream.
    api.heartbeat(beat(tokens.iter().map(String::as_str).chain(["none"]))).await.unwrap();
    let messages: Vec<_> = (0..20).map(|_| beat(&tokens[..2])).collect();
    let mut stream = api.heartbeat_stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
    let mut answered = 0;
    while let Some(response) = within("an answer", stream.next()).await {
        answered += response.unwrap().results.len();
    }
    assert_eq!(answered, 40);
    let draining = Beat { lease_token: tokens[0].clone(), status: Status::Draining.into() };
    api.heartbeat(HeartbeatRequest { beats: vec![draining], ..Default::default() }).await.unwrap();
    api.deregister(DeregisterRequest { lease_token: tokens[2].clone(), ..Default::default() }).await.unwrap();
}

#[tokio::test]
async fn calls_and_beats_are_counted_as_they_were_made() {
    let server = Server::ephemeral(&[]).await;
    let address = server.address();
    let mut api = server.api().await;
    let before = Scrape::of(address).await;
    make_calls(&mut api).await;
    let after = Scrape::of(address).await;
    let labelled = |name: &str, counts: &[(&str, f64)]| {
        let samples: Vec<_> = counts.iter().map(|(labels, count)| (format!("{name}{{{labels}}}"), *count)).collect();
        let wanted: Vec<_> = samples.iter().map(|(sample, count)| (sample.as_str(), *count)).collect();
        after.moved(&before, name, &wanted);
    };
    labelled(
        "onair_calls_total",
        &[
            (r#"front="grpc",rpc="Register",code="OK""#, 3.0),
            (r#"front="grpc",rpc="Register",code="INVALID_ARGUMENT""#, 1.0),
            (r#"front="grpc",rpc="Lookup",code="OK""#, 2.0),
            (r#"front="grpc",rpc="Lookup",code="FAILED_PRECONDITION""#, 1.0),
            (r#"front="grpc",rpc="Heartbeat",code="OK""#, 2.0),
            (r#"front="grpc",rpc="HeartbeatStream",code="OK""#, 1.0),
            (r#"front="grpc",rpc="Deregister",code="OK""#, 1.0),
        ],
    );
    labelled("onair_beats_total", &[(r#"state="RENEWED""#, 3.0 + 40.0 + 1.0), (r#"state="UNKNOWN""#, 1.0)]);
    labelled("onair_refusals_total", &[(r#"reason="INVALID""#, 1.0), (r#"reason="REVISION_AHEAD""#, 1.0)]);
    let causes = [(r#"cause="REGISTERED""#, 3.0), (r#"cause="UPDATED""#, 1.0), (r#"cause="DEREGISTERED""#, 1.0)];
    labelled("onair_events_total", &causes);
    after.moved(&before, "onair_commits_total", &[("onair_commits_total", 5.0)]);
    for (sample, now) in [
        ("onair_instances", 2.0),
        ("onair_leases", 2.0),
        ("onair_services", 1.0),
        ("onair_revision", 5.0),
        ("onair_log_records", 5.0),
        ("onair_proposals", 0.0),
        (r#"onair_call_duration_seconds_count{front="grpc",rpc="Lookup"}"#, 3.0),
        // The lookup that waited for a revision took its second.
        (r#"onair_call_duration_seconds_bucket{le="0.5",front="grpc",rpc="Lookup"}"#, 2.0),
        // Streams last as long as the caller likes.
        (r#"onair_call_duration_seconds_count{front="grpc",rpc="HeartbeatStream"}"#, 0.0),
        (r#"onair_connections{protocol="http2"}"#, 1.0),
        (r#"onair_connections{protocol="http1"}"#, 1.0),
    ] {
        assert_eq!(after.get(sample), now, "{sample}");
    }
    // Whether the registry is an instance of its own service was a command before all others.
    let commands = r#"onair_inbox_wait_seconds_count{lane="commands"}"#;
    assert_eq!(after.get(commands) - before.get(commands), 4.0);
}

/// The same by JSON is another front; what is refused before there is a call is counted as refused.
#[tokio::test]
async fn each_front_is_counted_for_itself() {
    let server = Server::ephemeral(&[]).await;
    let address = server.address();
    let before = Scrape::of(address).await;
    for (path, status) in [
        ("/v1/namespaces/default/instances", 200),
        ("/v1/namespaces/default/instances?selector=!!", 400),
        ("/v1/namespaces/default/instances?colour=red", 400),
        ("/nowhere", 404),
    ] {
        assert_eq!(get(address, path).await.0, status, "{path}");
    }
    let after = Scrape::of(address).await;
    after.moved(
        &before,
        "onair_calls_total",
        &[
            (r#"onair_calls_total{front="http",rpc="Lookup",code="OK"}"#, 1.0),
            (r#"onair_calls_total{front="http",rpc="Lookup",code="INVALID_ARGUMENT"}"#, 1.0),
        ],
    );
    after.moved(
        &before,
        "onair_refusals_total",
        &[(r#"onair_refusals_total{reason="INVALID"}"#, 2.0), (r#"onair_refusals_total{reason="NO_ROUTE"}"#, 1.0)],
    );
    let answers = [("200", 2.0), ("400", 2.0), ("404", 1.0)];
    for (status, count) in answers {
        let sample = format!("onair_http_answers_total{{status=\"{status}\"}}");
        // The scrape before was answered after it was written.
        assert_eq!(after.get(&sample) - before.get(&sample), count, "{sample}");
    }
}

/// A scrape when Watch and Subscribe have ended.
async fn without_streams(address: SocketAddr) -> Scrape {
    loop {
        let scrape = Scrape::of(address).await;
        let open = |rpc| scrape.get(&format!("onair_streams{{front=\"grpc\",rpc=\"{rpc}\"}}"));
        if open("Watch") + open("Subscribe") == 0.0 {
            return scrape;
        }
    }
}

/// A watch, and a stream whose second subscription finds no room; with what each says first.
async fn two_streams(api: &mut Api) -> (Streaming<WatchResponse>, Streaming<SubscribeResponse>) {
    let mut watch = api.watch(everything()).await.unwrap().into_inner();
    assert!(within("a snapshot", watch.next()).await.unwrap().unwrap().snapshot_end);
    let selectors = everything().selectors;
    let add = |id: &str| {
        let add = AddSubscription { id: id.into(), selectors: selectors.clone(), ..Default::default() };
        SubscribeRequest { command: Some(Command::Add(add)) }
    };
    // The stream stays open when its commands end.
    let commands = tokio_stream::iter([add("one"), add("two")]);
    let mut subscribed = api.subscribe(commands).await.unwrap().into_inner();
    for _ in 0..2 {
        within("a group", subscribed.next()).await.unwrap().unwrap();
    }
    (watch, subscribed)
}

#[tokio::test]
async fn streams_lapses_and_limits_are_counted() {
    let server = Server::start(&["--max-instances", "2", "--max-watches", "2"]).await;
    let address = server.address();
    let mut api = server.api().await;
    let before = Scrape::of(address).await;
    let (mut watch, mut subscribed) = two_streams(&mut api).await;
    let mut messages = 3;
    for id in ["a", "b", "c"] {
        let registered = api.register(register("mortal", id, 1.0)).await;
        assert_eq!(registered.is_ok(), id != "c");
        if registered.is_ok() {
            within("an event", watch.next()).await.unwrap().unwrap();
            within("an event", subscribed.next()).await.unwrap().unwrap();
            messages += 2;
        }
    }
    let open = Scrape::of(address).await;
    for (sample, now) in [
        ("onair_streams{front=\"grpc\",rpc=\"Watch\"}", 1.0),
        ("onair_streams{front=\"grpc\",rpc=\"Subscribe\"}", 1.0),
        ("onair_watches", 2.0),
        ("onair_watch_readers", 2.0),
        ("onair_watch_lagging", 0.0),
        ("onair_watch_lag_max_bytes", 0.0),
        ("onair_watch_snapshots_total", 2.0),
        ("onair_limit{limit=\"max_instances\"}", 2.0),
        ("onair_watch_messages_total", f64::from(messages)),
    ] {
        assert_eq!(open.get(sample), now, "{sample}");
    }
    open.moved(
        &before,
        "onair_limit_refusals_total",
        &[
            ("onair_limit_refusals_total{limit=\"max_instances\"}", 1.0),
            ("onair_limit_refusals_total{limit=\"max_watches\"}", 1.0),
        ],
    );
    // Each write was on the disk, and shared by as many commands as there were.
    assert!(open.get("onair_commit_duration_seconds_count") >= 1.0);
    assert_eq!(open.get("onair_commit_commands_sum"), 2.0);

    // Nobody beats: both go when their grace is over, after they were proposed once.
    let mut gone = 0;
    while gone < 2 {
        gone += within("an end", watch.next()).await.unwrap().unwrap().events.len();
    }
    drop((watch, subscribed));
    let after = within("the end of the streams", without_streams(address)).await;
    after.moved(&open, "onair_events_total", &[("onair_events_total{cause=\"EXPIRED\"}", 2.0)]);
    after.moved(&open, "onair_lapses_total", &[("onair_lapses_total", 2.0)]);
    assert_eq!((after.get("onair_lapse_delay_seconds_count"), after.get("onair_leases")), (2.0, 0.0));
    assert!(after.get("onair_lease_clock_round_seconds_count") > 10.0);
    for rpc in ["Watch", "Subscribe"] {
        assert_eq!(after.get(&format!("onair_calls_total{{front=\"grpc\",rpc=\"{rpc}\",code=\"CANCELLED\"}}")), 1.0);
    }
    assert_eq!(after.get("onair_watch_readers"), 0.0);
}

/// A watcher that does not read is seen to be behind, in revisions and bytes, and when it has to begin anew.
#[tokio::test]
async fn a_watcher_that_does_not_read_is_seen_to_lag() {
    let server = Server::ephemeral(&["--max-log-bytes", "2MiB"]).await;
    let address = server.address();
    let (mut watching, mut api) = (server.api().await, server.api().await);
    let mut slow = watching.watch(everything()).await.unwrap().into_inner();
    let mut lagging = Scrape::of(address).await;
    let mut registered = 0.0;
    while lagging.get("onair_watch_lag_max_bytes") < f64::from(1 << 20) {
        for _ in 0..50 {
            let large = crate::harness::register_with("web", "a", 60.0, |instance| {
                instance.metadata = crate::harness::bulk(10_000);
            });
            api.register(large).await.unwrap();
            registered += 1.0;
        }
        lagging = Scrape::of(address).await;
    }
    let [readers, behind, most, all] = ["readers", "lagging", "lag_max_revisions", "lag_revisions"]
        .map(|name| lagging.get(&format!("onair_watch_{name}")));
    assert_eq!((readers, behind), (1.0, 1.0));
    assert!(most == all && most > 50.0 && most <= registered, "{most} of {registered}");
    while Scrape::of(address).await.get("onair_watch_lag_max_bytes") > 0.0 {
        let read = async { while slow.next().await.is_some() {} };
        // It reads now, as long as there is something.
        let _ = tokio::time::timeout(Duration::from_millis(200), read).await;
    }
    assert_eq!(Scrape::of(address).await.get("onair_watch_lagging"), 0.0);
}

/// Where a server answers probes alone.
fn of_probes(server: &Server) -> SocketAddr {
    let log = server.log();
    let (_, ops) = log.split_once("answering probes and scrapes addresses=[").unwrap_or_else(|| panic!("{log}"));
    ops.split_once(']').unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn probes_are_answered_while_every_place_is_taken() {
    let few = ["sh", "-c", "ulimit -n 64 && exec \"$@\"", "sh"];
    let server = Server::start_under(&few, &["--ops-listen", "127.0.0.1:0"]).await;
    let ops = of_probes(&server);
    assert_eq!(server.info().await.limits.unwrap().max_connections, 32);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(server.address()).await.unwrap());
    }
    let last = crowd.last_mut().unwrap();
    assert_eq!(within("the end", last.read(&mut [0])).await.unwrap(), 0, "it has no place");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(ops, path).await.0, 200, "{path}");
    }
    let (_, text) = get(ops, "/metrics").await;
    let refused = text.lines().find_map(|line| line.strip_prefix("onair_connections_refused_total ")).unwrap();
    assert!(refused.parse::<u64>().unwrap() >= 68, "{refused}");
    assert!(server.log().matches("max_connections are open").count() < 10, "{}", server.log());
    // Whoever goes makes room.
    drop(crowd);
    within("a place", crate::hostile::until_let_in(&server)).await;
}

#[tokio::test]
async fn probes_answer_on_the_port_or_on_one_of_their_own() {
    let server = Server::ephemeral(&[]).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(server.address(), path).await.0, 200, "{path}");
    }
    let (status, ready) = get(server.address(), "/readyz").await;
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    assert_eq!((status, &ready["ok"], ready["checks"].as_array().unwrap().len()), (200, &true.into(), 4));
    let mut server = Server::start(&["--ops-listen", "127.0.0.1:0"]).await;
    let ops = of_probes(&server);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!((get(ops, path).await.0, get(server.address(), path).await.0), (200, 404), "{path}");
    }
    assert_eq!(get(ops, "/v1/info").await.0, 404);
    // A page that was led here by a name of its own gets nothing from either.
    for address in [ops, server.address()] {
        let asked = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n";
        assert_eq!(Http::connect(address).await.ask(asked).await.status, 403);
    }
    // A watch that does not end by itself: the port answers until the server has ended.
    let mut watch = server.api().await.watch(WatchRequest::default()).await.unwrap().into_inner();
    within("a snapshot", watch.next()).await.unwrap().unwrap();
    server.terminate();
    assert!(within("the end", server.ended()).await.success());

    let refused = onair(&["serve", "--ephemeral", "--ops-listen", "0.0.0.0:6625"]).await;
    let (code, _, why) = said(&refused);
    assert_eq!(code, 2, "{why}");
    assert!(why.contains("ops_listen: 0.0.0.0:6625 can be reached from other machines"), "{why}");
}
