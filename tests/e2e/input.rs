//! Bad input by calls: each gets the documented status, with everything that is wrong named at once, and changes nothing.

use std::time::Duration;

use onair::{
    proto::{
        Beat, DeregisterRequest, HeartbeatRequest, Instance, ListServicesRequest, LookupRequest, Pick, RegisterRequest,
        Selector, WatchRequest,
    },
    registry::Status as InstanceStatus,
};
use prost_types::{ListValue, Value, value::Kind};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    harness::{Follower, Server, beat, bulk, lookup, register, register_with, seconds},
    history::{Client, Recorder, Settings},
};

/// Code, reason and violated fields of a refusal.
pub fn refusal(status: &Status) -> (Code, String, Vec<String>) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "onair");
    assert!(!status.message().is_empty());
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    assert!(violations.iter().all(|violation| !violation.description.is_empty()));
    (status.code(), info.reason, violations.into_iter().map(|violation| violation.field).collect())
}

/// INVALID_ARGUMENT `INVALID`, for exactly these fields.
pub fn is_invalid<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, fields: &[&str]) {
    let status = answer.map_or_else(|status| status, |answer| panic!("{what} is taken: {answer:?}"));
    let (code, reason, mut violated) = refusal(&status);
    violated.sort();
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID"), "{what}: {status:?}");
    assert_eq!(violated, fields, "{what}: {status:?}");
}

/// A registry with an instance in it, and who sees whether anything else happens to it.
struct Scene {
    server: Server,
    recorder: Recorder,
    follower: Follower,
    client: Client,
    token: String,
    revision: u64,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::start(&[]).await;
        let recorder = Recorder::new(Settings { resets: false, ..Settings::default() });
        let follower = Follower::of_everything(&server, &recorder).await;
        let client = server.client(&recorder).await;
        let granted = client.register(register("web", "a", 600.0)).await.unwrap();
        let (token, revision) = (granted.lease.unwrap().token, granted.revision);
        Self { server, recorder, follower, client, token, revision }
    }

    /// Nothing but the first registration has ever happened, and the instance answers.
    async fn nothing_happened(mut self) {
        let info = self.server.info().await;
        let counts = info.counts.unwrap();
        assert_eq!((info.revision, counts.instances, counts.services), (self.revision, 1, 1));
        let answer = self.client.heartbeat(beat([&self.token])).await.unwrap();
        assert_eq!((answer.results[0].state(), answer.revision), (onair::proto::BeatState::Renewed, self.revision));
        let next = self.client.register(register("web", "b", 600.0)).await.unwrap();
        self.follower.reach(next.revision).await;
        assert_eq!((self.follower.fold().instances().len(), self.follower.gone().len()), (2, 0));
        self.recorder.assert_clean();
    }
}

/// Lists within one another.
fn nested(depth: usize) -> Option<Value> {
    let leaf = Value { kind: Some(Kind::BoolValue(true)) };
    Some((0..depth).fold(leaf, |inner, _| Value { kind: Some(Kind::ListValue(ListValue { values: vec![inner] })) }))
}

/// What is wrong with an instance, and the fields that it is wrong in.
type BadInstance = (&'static str, fn(&mut Instance), &'static [&'static str]);

const INSTANCES: [BadInstance; 29] = [
    ("no service", |i| i.service.clear(), &["instance.service"]),
    ("a long service", |i| i.service = "s".repeat(256), &["instance.service"]),
    ("a slash in a service", |i| i.service = "a/b".into(), &["instance.service"]),
    ("a control character", |i| i.service = "a\u{7}b".into(), &["instance.service"]),
    ("a line break", |i| i.id = "a\nb".into(), &["instance.id"]),
    ("white space at an end", |i| i.service = " web".into(), &["instance.service"]),
    ("our own service's name", |i| i.service = "onair.v1.Registry".into(), &["instance.service"]),
    ("a long id", |i| i.id = "i".repeat(256), &["instance.id"]),
    ("a slash in an id", |i| i.id = "a/b".into(), &["instance.id"]),
    ("every namespace", |i| i.namespace = "*".into(), &["instance.namespace"]),
    ("the namespace of frontends", |i| i.namespace = "frontend".into(), &["instance.namespace"]),
    ("a slash in a namespace", |i| i.namespace = "a/b".into(), &["instance.namespace"]),
    ("a port of 70000", |i| i.port = 70_000, &["instance.port"]),
    ("a named port of 0", |i| i.ports = [("admin".into(), 0)].into(), &["instance.ports[\"admin\"]"]),
    ("a named port of 70000", |i| i.ports = [("admin".into(), 70_000)].into(), &["instance.ports[\"admin\"]"]),
    ("a port without a name", |i| i.ports = [(String::new(), 1)].into(), &["instance.ports[\"\"]"]),
    ("65 ports", |i| i.ports = (1..=65).map(|n| (format!("p{n}"), n)).collect(), &["instance.ports"]),
    ("no host name", |i| i.host = "not a host".into(), &["instance.host"]),
    ("a long host", |i| i.host = "h".repeat(254), &["instance.host"]),
    ("no url", |i| i.url = "nowhere".into(), &["instance.url"]),
    ("a long url", |i| i.url = format!("http://h/{}", "u".repeat(2_048)), &["instance.url"]),
    ("no protocol", |i| i.protocol = "1 2".into(), &["instance.protocol"]),
    ("a long version", |i| i.version = "v".repeat(129), &["instance.version"]),
    ("a control character in a zone", |i| i.zone = "e\0u".into(), &["instance.zone"]),
    ("a great weight", |i| i.weight = Some(1_000_001), &["instance.weight"]),
    ("a status of the registry's", |i| i.set_status(InstanceStatus::Suspect), &["instance.status"]),
    ("a status that nobody knows", |i| i.status = 99, &["instance.status"]),
    ("metadata of 1 MiB", |i| i.metadata = bulk(1 << 20), &["instance.metadata"]),
    ("metadata nested 33 deep", |i| i.metadata = nested(33), &["instance.metadata"]),
];

#[tokio::test]
async fn registrations_that_break_a_rule_change_nothing() {
    let scene = Scene::new().await;
    for (what, spoil, fields) in INSTANCES {
        // A new instance, and an update of the one that is there.
        for lease_token in [String::new(), scene.token.clone()] {
            let request = RegisterRequest { lease_token, ..register_with("web", "a", 600.0, spoil) };
            is_invalid(what, scene.client.register(request).await, fields);
        }
    }
    let none = RegisterRequest { instance: None, ..RegisterRequest::default() };
    is_invalid("no instance", scene.client.register(none).await, &["instance"]);
    let ttl = |seconds, nanos| RegisterRequest {
        ttl: Some(prost_types::Duration { seconds, nanos }),
        ..register("web", "z", 1.0)
    };
    for (what, request) in [("-1 s", ttl(-1, 0)), ("-1 ns", ttl(0, -1)), ("two signs", ttl(1, -1))] {
        is_invalid(what, scene.client.register(request).await, &["ttl"]);
    }
    let long = RegisterRequest { request_id: "r".repeat(129), ..register("web", "z", 1.0) };
    is_invalid("a long request id", scene.client.register(long).await, &["request_id"]);

    // All at once.
    let mut request = register_with("a/b", "a/b", 1.0, |instance| {
        instance.namespace = "*".into();
        instance.port = 70_000;
        instance.host = "not a host".into();
        instance.url = "nowhere".into();
        instance.weight = Some(u32::MAX);
        instance.status = 99;
        instance.metadata = bulk(20_000);
    });
    request.ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let fields = ["host", "id", "metadata", "namespace", "port", "service", "status", "url", "weight"];
    let fields: Vec<String> = fields.iter().map(|field| format!("instance.{field}")).collect();
    let all: Vec<&str> = fields.iter().map(String::as_str).chain(["ttl"]).collect();
    is_invalid("everything", scene.client.register(request).await, &all);
    scene.nothing_happened().await;
}

#[tokio::test]
async fn too_deep_is_told_apart() {
    let scene = Scene::new().await;
    let deep = register_with("web", "deep", 1.0, |instance| instance.metadata = nested(200));
    let (code, reason, _) = refusal(&scene.client.register(deep).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "TOO_DEEP"));

    scene.nothing_happened().await;
}

#[tokio::test]
async fn what_is_only_unusual_is_taken() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let years = 10.0 * 365.0 * 86_400.0;
    for (ttl, given) in [(years, 3_600.0), (0.001, 1.0), (0.0, 10.0), (1.5, 1.5)] {
        let lease = client.register(register("web", "a", ttl)).await.unwrap().lease.unwrap();
        assert_eq!(lease.ttl, Some(seconds(given)), "a TTL of {ttl} s");
        let interval: Duration = lease.heartbeat_interval.unwrap().try_into().unwrap();
        assert_eq!(interval.as_millis(), (given * 1_000.0 / 3.0) as u128);
    }
    for spoil in [
        (|i| i.port = 0) as fn(&mut Instance),
        |i| i.service = "Ünïcode 服务".into(),
        |i| i.id = "i".repeat(255),
        |i| i.metadata = nested(32),
        |i| i.weight = Some(0),
        |i| (i.host, i.url) = (String::new(), "https://[::1]:8443/v1".into()),
        |i| (i.incarnation, i.revision) = (7, 7),
    ] {
        let request = register_with("web", "b", 60.0, spoil);
        let (wanted, got) = (request.instance.clone().unwrap(), client.register(request).await.unwrap());
        let got = got.instance.unwrap();
        assert_eq!((&got.service, &got.metadata), (&wanted.service, &wanted.metadata));
        assert!(got.incarnation > 7 || got.incarnation == got.revision);
        let found = client.lookup(lookup(&got.service)).await.unwrap();
        assert!(found.instances.contains(&got), "{got:?}");
    }
    recorder.assert_clean();
}

#[tokio::test]
async fn beats_and_removals_that_break_a_rule_change_nothing() {
    let scene = Scene::new().await;
    let say = |status: i32| HeartbeatRequest {
        beats: vec![Beat { lease_token: scene.token.clone(), status }, Beat { status, ..Beat::default() }],
        ..Default::default()
    };
    let statuses = ["beats[0].status", "beats[1].status"];
    is_invalid("a status of the registry's", scene.client.heartbeat(say(4)).await, &statuses);
    is_invalid("a status that nobody knows", scene.client.heartbeat(say(99)).await, &statuses);
    is_invalid("no beat", scene.client.heartbeat(HeartbeatRequest::default()).await, &["beats"]);
    let many = beat(vec![scene.token.clone(); 10_001]);
    is_invalid("10,001 beats", scene.client.heartbeat(many.clone()).await, &["beats"]);
    let answer = scene.client.heartbeat(beat(vec![scene.token.clone(); 10_000])).await.unwrap();
    assert_eq!(answer.results.len(), 10_000);
    let of = |service: &str, id: &str| HeartbeatRequest {
        service: service.into(),
        id: id.into(),
        ..beat([scene.token.clone()])
    };
    is_invalid("half a key", scene.client.heartbeat(of("", "a")).await, &["service"]);
    is_invalid("a key of bad names", scene.client.heartbeat(of("a/b", "")).await, &["id", "service"]);
    // Not through the recorder, which would take the token for what it is worth without a key.
    let mut api = scene.server.api().await;
    for (id, state) in [("a", onair::proto::BeatState::Renewed), ("b", onair::proto::BeatState::Unknown)] {
        assert_eq!(api.heartbeat(of("web", id)).await.unwrap().into_inner().results[0].state(), state, "{id}");
    }
    // The same on a stream ends it, after what was right before it was answered.
    let mut beating = scene.client.heartbeat_stream().await.unwrap();
    for request in [beat([scene.token.clone()]), many] {
        beating.beat(request).await;
    }
    assert_eq!(beating.next().await.unwrap().unwrap().results.len(), 1);
    is_invalid("10,001 beats on a stream", beating.next().await.unwrap(), &["beats"]);

    let remove = async |request: DeregisterRequest| scene.client.deregister(request).await;
    let key = |service: &str, id: &str, all| DeregisterRequest {
        service: service.into(),
        id: id.into(),
        all,
        ..DeregisterRequest::default()
    };
    is_invalid("nothing", remove(DeregisterRequest::default()).await, &["lease_token"]);
    let with_token = |request| DeregisterRequest { lease_token: scene.token.clone(), ..request };
    is_invalid("two ways", remove(with_token(key("web", "", true))).await, &["lease_token"]);
    let several = DeregisterRequest { lease_tokens: vec![scene.token.clone()], ..key("web", "a", false) };
    is_invalid("two ways", remove(several).await, &["lease_token"]);
    is_invalid("a token of another key", remove(with_token(key("web", "b", false))).await, &["lease_token"]);
    is_invalid("half a key", remove(with_token(key("web", "", false))).await, &["id"]);
    let nonsense = DeregisterRequest { lease_token: "nonsense".into(), ..key("web", "a", false) };
    is_invalid("no token of the key", remove(nonsense).await, &["lease_token"]);
    is_invalid("one and all", remove(key("web", "a", true)).await, &["all"]);
    is_invalid("neither one nor all", remove(key("web", "", false)).await, &["id"]);
    is_invalid("bad names", remove(key("a/b", "c/d", false)).await, &["id", "service"]);
    let tokens = DeregisterRequest { lease_tokens: vec![scene.token.clone(); 10_001], ..Default::default() };
    is_invalid("10,001 tokens", remove(tokens).await, &["lease_tokens"]);
    for lease_token in ["nonsense".to_owned(), "x".repeat(100_000), scene.token.to_lowercase()] {
        let removed = remove(DeregisterRequest { lease_token: lease_token.clone(), ..Default::default() }).await;
        assert!(removed.is_ok_and(|answer| answer.removed == 0));
        let answer = scene.client.heartbeat(beat([lease_token])).await.unwrap();
        assert_eq!(answer.results[0].state(), onair::proto::BeatState::Unknown);
    }
    assert_eq!(remove(key("nobody", "a", false)).await.unwrap().removed, 0);
    scene.nothing_happened().await;
}

#[tokio::test]
async fn questions_that_cannot_be_read_are_refused_with_the_place() {
    let scene = Scene::new().await;
    let of = || lookup("web");
    for (what, request, fields) in [
        ("a selector", LookupRequest { selector: "zone=".into(), ..of() }, &["selector"][..]),
        ("a selector", LookupRequest { selector: "zone in (a".into(), ..of() }, &["selector"]),
        ("an unknown field", LookupRequest { selector: "colour=red".into(), ..of() }, &["selector"]),
        ("a range", LookupRequest { version: ">=1.x.y <".into(), ..of() }, &["version"]),
        ("a namespace", LookupRequest { namespace: "a/b".into(), ..of() }, &["namespace"]),
        ("a service", LookupRequest { service: "a\0b".into(), ..of() }, &["service"]),
        ("both", LookupRequest { frontend: "shop".into(), ..of() }, &["frontend"]),
        ("a pick", LookupRequest { pick: 99, ..of() }, &["pick"]),
        ("a pick key", LookupRequest { pick_key: "k".repeat(1_025), ..of() }, &["pick_key"]),
        ("a page token", LookupRequest { page_token: "nonsense".into(), ..of() }, &["page_token"]),
        ("a page", LookupRequest { pick: Pick::Random.into(), page_token: "x".into(), ..of() }, &["page_token"]),
        (
            "everything",
            LookupRequest {
                selector: "=".into(),
                version: "^^".into(),
                pick: 99,
                wait: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..of()
            },
            &["pick", "selector", "version", "wait"],
        ),
    ] {
        let answer = scene.client.lookup(request.clone()).await;
        if fields == ["selector"] {
            let bad = answer.as_ref().unwrap_err().get_details_bad_request().unwrap();
            let said = &bad.field_violations[0].description;
            assert!(said.chars().any(|letter| letter.is_ascii_digit()), "no position in {said:?}");
        }
        is_invalid(&format!("{what} in {request:?}"), answer, fields);
    }
    let broken = Selector { selector: "zone=".into(), version: "^^".into(), ..Selector::default() };
    let other = Selector { namespace: "a/b".into(), ..Selector::default() };
    let request = WatchRequest { selectors: vec![broken, Selector::default(), other], ..WatchRequest::default() };
    let refused = scene.client.watch(request).await.map(|_| "a stream");
    is_invalid("selectors", refused, &["selectors[0].selector", "selectors[0].version", "selectors[2].namespace"]);
    let request = WatchRequest { selectors: vec![Selector::default(); 101], ..WatchRequest::default() };
    is_invalid("101 selectors", scene.client.watch(request).await.map(|_| "a stream"), &["selectors"]);

    let mut api = scene.server.api().await;
    let mut list = async |request: ListServicesRequest| api.list_services(request).await.map(|_| "a list");
    let request = ListServicesRequest { namespace: "a/b".into(), ..Default::default() };
    is_invalid("a namespace", list(request).await, &["namespace"]);
    let request = ListServicesRequest { page_token: "nonsense".into(), ..Default::default() };
    is_invalid("a page token", list(request).await, &["page_token"]);
    scene.nothing_happened().await;
}
