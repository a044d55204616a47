//! What is completed, what is refused, and that nothing a client can send breaks either.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::{collection, option, prelude::*};
use prost_types::{ListValue, Struct, Value, value::Kind};

use super::*;

const FRESH: &str = "0190163d-8694-739b-aea5-966c26f8ad90";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

fn parse_from(instance: Instance, peer: IpAddr) -> Result<Registration, Vec<Violation>> {
    Registration::parse(instance, None, Context { peer, fresh_id: &mut || FRESH.to_owned(), request_id: "" })
}

fn parse(instance: Instance) -> Result<Registration, Vec<Violation>> {
    parse_from(instance, PEER)
}

/// An instance of `web` from host, port, protocol and url.
fn at(host: &str, port: u32, protocol: &str, url: &str) -> Instance {
    Instance {
        service: "web".into(),
        host: host.into(),
        port,
        protocol: protocol.into(),
        url: url.into(),
        ..Instance::default()
    }
}

fn fields(refused: Result<Registration, Vec<Violation>>) -> Vec<String> {
    refused.unwrap_err().into_iter().map(|violation| violation.field).collect()
}

#[test]
fn what_is_left_out_is_completed() {
    for (given, host, port, protocol, url, id) in [
        (at("", 80, "", ""), "10.0.0.7", 80, "http", "http://10.0.0.7:80", "10.0.0.7:80"),
        (at("0.0.0.0", 80, "", ""), "10.0.0.7", 80, "http", "http://10.0.0.7:80", "10.0.0.7:80"),
        (at("", 0, "", ""), "10.0.0.7", 0, "http", "http://10.0.0.7", FRESH),
        (at("db", 0, "TCP", ""), "db", 0, "tcp", "tcp://db", FRESH),
        (at("[2001:DB8::1]", 80, "", ""), "2001:db8::1", 80, "http", "http://[2001:db8::1]:80", "[2001:db8::1]:80"),
        (at("", 0, "", "https://api.x"), "api.x", 0, "https", "https://api.x", FRESH),
        (at("", 0, "", "https://api.x:8443/"), "api.x", 8443, "https", "https://api.x:8443/", "api.x:8443"),
        (at("b", 81, "tcp", "http://a:80?q"), "b", 81, "tcp", "http://a:80?q", "b:81"),
        (at("", 0, "", "http://[::]:80"), "10.0.0.7", 80, "http", "http://10.0.0.7:80", "10.0.0.7:80"),
        (at("a", 0, "", "http://0.0.0.0:80"), "a", 80, "http", "http://a:80", "a:80"),
    ] {
        let got = parse(given.clone()).unwrap().instance;
        let got = (got.host.as_str(), got.port, got.protocol.as_str(), got.url.as_str(), got.id.as_str());
        assert_eq!(got, (host, port, protocol, url, id), "{given:?}");
    }
}

#[test]
fn ids_of_urls_with_a_path_are_stable() {
    let id = |instance| parse(instance).unwrap().instance.id;
    let url = "http://api.x/v1";
    let expected = Uuid::new_v5(&Uuid::NAMESPACE_URL, url.as_bytes()).to_string();
    assert_eq!(id(at("", 0, "", url)), expected);
    assert_eq!(id(at("other", 80, "", url)), expected);
    assert_eq!(id(Instance { id: "mine".into(), ..at("", 80, "", url) }), "mine");
    // Every machine may call itself 0.0.0.0: the id is of the url as others see it.
    let here = parse_from(at("", 0, "", "http://0.0.0.0:80/v1"), Ipv4Addr::new(10, 0, 0, 8).into()).unwrap().instance;
    assert_eq!(here.url, "http://10.0.0.8:80/v1");
    assert_ne!(here.id, id(at("", 0, "", "http://0.0.0.0:80/v1")));
}

#[test]
fn peers_are_shown_in_their_shortest_form() {
    for (peer, host, id) in [
        (IpAddr::V6(Ipv6Addr::LOCALHOST), "::1", "[::1]:80"),
        (Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), "127.0.0.1", "127.0.0.1:80"),
    ] {
        let got = parse_from(at("", 80, "", ""), peer).unwrap().instance;
        assert_eq!((got.host.as_str(), got.id.as_str()), (host, id));
    }
}

#[test]
fn what_the_server_sets_is_cleared_and_the_rest_kept() {
    let given = Instance {
        namespace: "größe 名".into(),
        weight: Some(0),
        status: Status::Starting.into(),
        incarnation: 3,
        revision: 4,
        online_since: Some(prost_types::Timestamp::default()),
        ports: BTreeMap::from([("admin".into(), 65535)]),
        ..at("a", 80, "", "")
    };
    let got = parse(given.clone()).unwrap().instance;
    let id = "a:80".to_owned();
    let (url, protocol) = ("http://a:80".to_owned(), "http".to_owned());
    assert_eq!(got, Instance { id, url, protocol, incarnation: 0, revision: 0, online_since: None, ..given });
    assert_eq!(parse(at("", 0, "", "")).unwrap().instance.namespace, "default");
    assert_eq!(parse(at("", 0, "", "")).unwrap().instance.weight, Some(1));
}

#[test]
fn an_id_is_made_only_when_it_is_needed() {
    for (given, made) in [(at("", 80, "", ""), 0), (at("", 0, "", ""), 1), (at("-", 0, "", ""), 0)] {
        let mut calls = 0;
        let mut fresh_id = || {
            calls += 1;
            FRESH.to_owned()
        };
        let _ = Registration::parse(given, None, Context { peer: PEER, fresh_id: &mut fresh_id, request_id: "" });
        assert_eq!(calls, made);
    }
}

#[test]
fn one_broken_field_is_one_violation() {
    type Break = fn(&mut Instance);
    let table: [(&str, Break); 29] = [
        ("instance.namespace", |i| i.namespace = "*".into()),
        ("instance.namespace", |i| i.namespace = "frontend".into()),
        ("instance.namespace", |i| i.namespace = "a/b".into()),
        ("instance.service", |i| i.service = String::new()),
        ("instance.service", |i| i.service = "x".repeat(256)),
        ("instance.service", |i| i.service = "grpc.health.v1.Health".into()),
        ("instance.id", |i| i.id = " a".into()),
        ("instance.id", |i| i.host = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".")),
        ("instance.host", |i| i.host = "a:80".into()),
        ("instance.port", |i| i.port = 70_000),
        ("instance.protocol", |i| i.protocol = "9p".into()),
        ("instance.url", |i| i.url = "http:///x".into()),
        ("instance.url", |i| i.url = "http://a:0".into()),
        ("instance.url", |i| i.url = format!("http://0.0.0.0/{}", "x".repeat(2048 - 15))),
        ("instance.version", |i| i.version = "1\n".into()),
        ("instance.version", |i| i.version = "1".repeat(129)),
        ("instance.zone", |i| i.zone = "\u{7f}".into()),
        ("instance.weight", |i| i.weight = Some(1_000_001)),
        ("instance.status", |i| i.status = Status::Suspect.into()),
        ("instance.status", |i| i.status = Status::Maintenance.into()),
        ("instance.status", |i| i.status = 77),
        ("instance.ports[\"admin\"]", |i| i.ports = BTreeMap::from([("admin".into(), 0)])),
        ("instance.ports[\"admin\"]", |i| i.ports = BTreeMap::from([("admin".into(), 65_536)])),
        ("instance.ports[\"\"]", |i| i.ports = BTreeMap::from([(String::new(), 1)])),
        ("instance.ports", |i| i.ports = (1..=65).map(|port| (port.to_string(), port)).collect()),
        ("instance.metadata", |i| i.metadata = Some(objects(33))),
        ("instance.metadata", |i| i.metadata = Some(text(16 * 1024))),
        ("instance.metadata", |i| i.metadata = Some(list(vec![number(f64::NAN), number(1.0), number(f64::INFINITY)]))),
        ("instance.metadata", |i| i.metadata = Some(lists(1_000))),
    ];
    for (at_row, (field, break_it)) in table.into_iter().enumerate() {
        let mut instance = at("10.0.0.10", 80, "", "");
        break_it(&mut instance);
        let violations = parse(instance).unwrap_err();
        assert_eq!(violations.len(), 1, "row {at_row}: {violations:?}");
        assert_eq!(violations[0].field, field, "row {at_row}");
    }
    let escaped = Instance { ports: BTreeMap::from([("a\n\"".into(), 1)]), ..at("", 1, "", "") };
    assert_eq!(fields(parse(escaped)), ["instance.ports[\"a\\n\\\"\"]"]);
}

#[test]
fn all_violations_come_at_once() {
    let instance = Instance { namespace: "*".into(), zone: "\0".into(), status: 4, ..at("a b", 70_000, "-", "x") };
    let context = Context { peer: PEER, fresh_id: &mut String::new, request_id: &"r".repeat(129) };
    let mut got = fields(Registration::parse(instance, Some(Duration { seconds: -1, nanos: 0 }), context));
    got.sort();
    let mut expected =
        ["namespace", "url", "host", "port", "protocol", "zone", "status"].map(|f| format!("instance.{f}")).to_vec();
    expected.extend(["request_id".to_owned(), "ttl".to_owned()]);
    expected.sort();
    assert_eq!(got, expected);
}

#[test]
fn answers_to_floods_stay_small() {
    let ports = (0..100_000).map(|n| (format!("/{n}{}", "\n".repeat(300)), 0)).collect();
    let metadata = Some(list(vec![number(f64::NAN); 1_000]));
    let violations = parse(Instance { ports, metadata, ..at("", 1, "", "") }).unwrap_err();
    assert!(violations.len() < 3 * PORTS_MAX, "{}", violations.len());
    assert!(violations.iter().all(|violation| violation.field.len() < 512), "{:?}", violations[1]);
}

#[test]
fn ttls() {
    for (seconds, nanos, millis) in [
        (0, 0, Some(10_000)),
        (0, 1, Some(1_000)),
        (1, 0, Some(1_000)),
        (1, 1, Some(1_001)),
        (10, 500_000_000, Some(10_500)),
        (3_600, 1, Some(3_600_000)),
        (315_360_000, 0, Some(3_600_000)),
        (i64::MAX, 999_999_999, Some(3_600_000)),
        (-1, 0, None),
        (i64::MIN, i32::MIN, None),
        (0, -1, None),
        (1, -1, None),
        (1, 1_000_000_000, None),
        (0, i32::MAX, None),
    ] {
        let got = LeaseTtl::parse(Some(Duration { seconds, nanos }));
        assert_eq!(got.map(LeaseTtl::millis).ok(), millis, "{seconds} s {nanos} ns");
    }
    assert_eq!(LeaseTtl::parse(None), Ok(LeaseTtl::DEFAULT));
}

#[test]
fn request_ids() {
    let parse = |request_id: &str| {
        let context = Context { peer: PEER, fresh_id: &mut String::new, request_id };
        Registration::parse(at("", 1, "", ""), None, context).unwrap().request_id
    };
    assert_eq!(parse(""), None);
    assert_eq!(parse("a"), Some(0xca97_8112_ca1b_bdca));
    assert_ne!(parse("a"), parse("b"));
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn number(number: f64) -> Value {
    value(Kind::NumberValue(number))
}

fn text(bytes: usize) -> Value {
    value(Kind::StringValue("x".repeat(bytes)))
}

fn list(values: Vec<Value>) -> Value {
    value(Kind::ListValue(ListValue { values }))
}

fn object(key: &str, inner: Value) -> Value {
    value(Kind::StructValue(Struct { fields: BTreeMap::from([(key.to_owned(), inner)]) }))
}

fn objects(depth: usize) -> Value {
    (0..depth).fold(number(1.0), |inner, _| object("a", inner))
}

fn lists(depth: usize) -> Value {
    (0..depth).fold(number(1.0), |inner, _| list(vec![inner]))
}

#[test]
fn metadata_is_canonical_json() {
    let given = list(vec![Value { kind: None }, value(Kind::NullValue(9)), objects(31)]);
    let got = parse(Instance { metadata: Some(given), ..at("", 1, "", "") }).unwrap().instance.metadata;
    assert_eq!(got, Some(list(vec![value(Kind::NullValue(0)), value(Kind::NullValue(0)), objects(31)])));
    // 16 KiB with the string's tag and its length of three bytes.
    let fits = Instance { metadata: Some(text(16 * 1024 - 4)), ..at("", 1, "", "") };
    assert!(parse(fits).is_ok());
}

/// Text that is sometimes good, sometimes nearly.
fn wild() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        any::<String>(),
        "[a-z0-9.:/@%_*\\[\\]-]{0,12}",
        "[a-z]{1,5}(\\.[a-z0-9-]{1,4}){0,3}",
        "[a-z]{1,4}://([a-z]{1,3}@)?([a-z]{1,4}|0\\.0\\.0\\.0|\\[::1?\\])(:[0-9]{1,5})?(/[a-z?#]{0,3})?",
        any::<IpAddr>().prop_map(|address| address.to_string()),
        Just("0.0.0.0".to_owned()),
    ]
}

fn wild_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value { kind: None }),
        any::<i32>().prop_map(|null| value(Kind::NullValue(null))),
        any::<f64>().prop_map(number),
        any::<bool>().prop_map(|bit| value(Kind::BoolValue(bit))),
        ".{0,9}".prop_map(|text| value(Kind::StringValue(text))),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(list),
            collection::btree_map(".{0,4}", inner, 0..4).prop_map(|fields| value(Kind::StructValue(Struct { fields }))),
        ]
    })
}

prop_compose! {
    fn wild_instance()(
        (namespace, service, id) in (wild(), wild(), wild()),
        (host, protocol, url) in (wild(), wild(), wild()),
        (version, zone, partition_key) in (wild(), wild(), wild()),
        (port, weight, status) in (0..70_000_u32, option::of(0..1_100_000_u32), -1..7),
        ports in collection::btree_map(wild(), 0..70_000_u32, 0..3),
        metadata in option::of(wild_value()),
        (incarnation, revision) in any::<(u64, u64)>(),
    ) -> Instance {
        Instance {
            namespace, service, id, host, port, version, zone, weight, status, incarnation, revision, protocol, url,
            ports, metadata, online_since: None, partition_key,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]
    /// Nothing panics, a refusal names a field, and what comes out stays as it is.
    #[test]
    fn parsing_twice_is_parsing_once(mut instance in wild_instance(), peer: IpAddr, mend: [bool; 8]) {
        // Mostly every one of so many wild fields would be wrong: some are left out.
        let fields = [
            &mut instance.namespace, &mut instance.id, &mut instance.host, &mut instance.protocol, &mut instance.url,
            &mut instance.version, &mut instance.zone, &mut instance.partition_key,
        ];
        for (field, _) in fields.into_iter().zip(mend).filter(|(_, mend)| *mend) {
            field.clear();
        }
        if mend[7] {
            (instance.service, instance.status) = ("web".into(), 0);
            instance.ports.clear();
        }
        match parse_from(instance, peer) {
            Err(violations) => prop_assert!(!violations.is_empty() && violations.iter().all(|v| !v.field.is_empty())),
            Ok(once) => {
                let names = [&once.instance.namespace, &once.instance.service, &once.instance.id];
                prop_assert!(names.iter().all(|name| (1..=MAX_NAME_BYTES).contains(&name.len())));
                prop_assert!(Location::parse(&once.instance.url).is_ok(), "{}", once.instance.url);
                let twice = parse_from(once.instance.clone(), peer);
                prop_assert_eq!(twice, Ok(once));
            }
        }
    }
}
