//! What is read and what is refused, with its place; and that every message of the API comes back from its JSON.

use std::{collections::HashMap, sync::LazyLock};

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MapKey, ReflectMessage as _};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::{http::transcode::to_json, proto, registry::METADATA_BYTES_MAX};

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).expect("descriptors"));

/// More values than a test has.
const MANY: usize = 100_000;

fn descriptor(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("onair.v1.{name}")).expect("a message of the API")
}

/// What is read of a body, as canonical JSON; or its violations.
fn read(name: &str, body: &str) -> Result<String, Vec<(String, String)>> {
    let mut violations = Vec::new();
    let read = message(&descriptor(name), body.as_bytes(), MANY, &Path::Root, &mut violations);
    let read = read.unwrap_or_else(|status| panic!("{body}: {status}"));
    if violations.is_empty() {
        let json = to_json(&read.descriptor(), &read.encode_to_vec()).expect("JSON");
        return Ok(String::from_utf8(json).expect("UTF-8"));
    }
    Err(violations.into_iter().map(|violation| (violation.field, violation.description)).collect())
}

#[test]
fn what_proto_json_allows_is_taken() {
    for (name, body, same) in [
        ("LookupRequest", r"{}", r"{}"),
        ("LookupRequest", " { \"service\" : \"w\\u0065b\"\n}\t", r#"{"service":"web"}"#),
        ("LookupRequest", r#"{"minRevision": 7, "limit": "8"}"#, r#"{"limit":8,"minRevision":"7"}"#),
        ("LookupRequest", r#"{"min_revision": "7", "limit": 8.0}"#, r#"{"limit":8,"minRevision":"7"}"#),
        ("LookupRequest", r#"{"limit": 1e3}"#, r#"{"limit":1000}"#),
        ("LookupRequest", r#"{"minRevision": 18446744073709551615}"#, r#"{"minRevision":"18446744073709551615"}"#),
        ("LookupRequest", r#"{"pick": "PICK_RANDOM"}"#, r#"{"pick":"PICK_RANDOM"}"#),
        ("LookupRequest", r#"{"pick": 2}"#, r#"{"pick":"PICK_RANDOM"}"#),
        ("LookupRequest", r#"{"pick": 99}"#, r#"{"pick":99}"#),
        ("LookupRequest", r#"{"pick": null, "wait": null, "service": null, "limit": null}"#, r"{}"),
        ("LookupRequest", r#"{"wait": "1.5s"}"#, r#"{"wait":"1.500s"}"#),
        ("RegisterRequest", r#"{"instance": null, "mocks": null}"#, r"{}"),
        ("LookupRequest", r#"{"wait": "1.123456789s"}"#, r#"{"wait":"1.123456789s"}"#),
        ("SubscribeRequest", r#"{"ack": null, "drop": {"id": "a"}}"#, r#"{"drop":{"id":"a"}}"#),
        ("SubscribeRequest", r#"{"drop": {"id": "a"}, "ack": null}"#, r#"{"drop":{"id":"a"}}"#),
        ("RegisterRequest", r#"{"instance": {}}"#, r#"{"instance":{}}"#),
        ("Instance", r#"{"weight": 0, "ports": {"a": 1}}"#, r#"{"weight":0,"ports":{"a":1}}"#),
        ("Instance", r#"{"metadata": null}"#, r#"{"metadata":null}"#),
        ("Instance", r#"{"metadata": [1, {"a": null}, "b"]}"#, r#"{"metadata":[1,{"a":null},"b"]}"#),
        ("Instance", r#"{"metadata": [1, 1.0, 1e3, -7, 0]}"#, r#"{"metadata":[1,1,1000,-7,0]}"#),
        ("Instance", r#"{"metadata": [0.5, -0.0, 1e300]}"#, r#"{"metadata":[0.5,-0.0,1e+300]}"#),
        (
            "Instance",
            r#"{"metadata": [9007199254740992, -9007199254740992]}"#,
            r#"{"metadata":[9007199254740992,-9007199254740992]}"#,
        ),
        ("Instance", r#"{"metadata": 0.1234567890123456789e-5}"#, r#"{"metadata":1.2345678901234567e-6}"#),
        ("Instance", r#"{"onlineSince": "2026-11-21T10:00:00+01:00"}"#, r#"{"onlineSince":"2026-11-21T09:00:00Z"}"#),
    ] {
        assert_eq!(read(name, body).as_deref(), Ok(same), "{body}");
    }
}

/// The body is refused for these fields, in this order.
fn refuses(name: &str, body: &str, violations: &[(&str, &str)]) {
    let violations = violations.iter().map(|(field, what)| ((*field).to_owned(), (*what).to_owned())).collect();
    assert_eq!(read(name, body), Err(violations), "{body}");
}

#[test]
fn everything_wrong_is_found_in_one_pass_with_its_place() {
    let picks = "must be one of PICK_ALL, PICK_RANDOM, PICK_ROUND_ROBIN, PICK_WEIGHTED, PICK_RENDEZVOUS";
    let u32s = "must be an integer from 0 to 4294967295";
    let u64s = "must be an integer from 0 to 18446744073709551615";
    for (name, body, violations) in [
        ("LookupRequest", r"[]", &[("body", "must be an object")][..]),
        ("LookupRequest", r"null", &[("body", "must be an object")]),
        ("LookupRequest", r#""text""#, &[("body", "must be an object")]),
        (
            "LookupRequest",
            r#"{"colour": {"a": [1]}, "Service": 1, "ser\u0076ice": "a"}"#,
            &[("colour", "is no field of LookupRequest"), ("Service", "is no field of LookupRequest")],
        ),
        ("LookupRequest", r#"{"service": "a", "service": "a"}"#, &[("service", "is given twice")]),
        ("LookupRequest", r#"{"minRevision": 1, "min_revision": 1}"#, &[("min_revision", "is given twice")]),
        ("LookupRequest", r#"{"service": 1, "limit": true}"#, &[("service", "must be a string"), ("limit", u32s)]),
        ("LookupRequest", r#"{"limit": -1, "minRevision": -1}"#, &[("limit", u32s), ("min_revision", u64s)]),
        ("LookupRequest", r#"{"limit": 4294967296}"#, &[("limit", u32s)]),
        ("LookupRequest", r#"{"limit": 1.5}"#, &[("limit", u32s)]),
        ("LookupRequest", r#"{"limit": "0x10"}"#, &[("limit", u32s)]),
        ("LookupRequest", r#"{"limit": " 1"}"#, &[("limit", u32s)]),
        ("LookupRequest", r#"{"limit": "+1"}"#, &[("limit", u32s)]),
        ("LookupRequest", r#"{"limit": ""}"#, &[("limit", u32s)]),
        ("LookupRequest", r#"{"limit": "inf"}"#, &[("limit", u32s)]),
        ("LookupRequest", r#"{"minRevision": 18446744073709551616}"#, &[("min_revision", u64s)]),
        ("LookupRequest", r#"{"minRevision": 1e300}"#, &[("min_revision", u64s)]),
        ("LookupRequest", r#"{"pick": "RANDOM"}"#, &[("pick", picks)]),
        ("LookupRequest", r#"{"pick": 1.5}"#, &[("pick", picks)]),
    ] {
        refuses(name, body, violations);
    }
}

#[test]
fn everything_wrong_inside_is_found_in_one_pass_with_its_place() {
    let u32s = "must be an integer from 0 to 4294967295";
    for (name, body, violations) in [
        ("DeregisterRequest", r#"{"all": "true"}"#, &[("all", "must be true or false")][..]),
        ("DeregisterRequest", r#"{"leaseTokens": "a"}"#, &[("lease_tokens", "must be a list")]),
        ("DeregisterRequest", r#"{"leaseTokens": {"a": 1}}"#, &[("lease_tokens", "must be a list")]),
        (
            "DeregisterRequest",
            r#"{"leaseTokens": ["a", null, 3, ["b"]]}"#,
            &[
                ("lease_tokens[1]", "must be a string"),
                ("lease_tokens[2]", "must be a string"),
                ("lease_tokens[3]", "must be a string"),
            ],
        ),
        (
            "HeartbeatRequest",
            r#"{"beats": [{"leaseToken": "a"}, null, {"token": "b"}]}"#,
            &[("beats[1]", "must be an object"), ("beats[2].token", "is no field of Beat")],
        ),
        (
            "RegisterRequest",
            r#"{"instance": {"ports": {"a": 1, "b": "x", "a": 2, "c": null}, "port": {}}}"#,
            &[
                (r#"instance.ports["b"]"#, u32s),
                (r#"instance.ports["a"]"#, "is given twice"),
                (r#"instance.ports["c"]"#, u32s),
                ("instance.port", u32s),
            ],
        ),
        ("RegisterRequest", r#"{"instance": {"ports": []}}"#, &[("instance.ports", "must be an object")]),
        (
            "RegisterRequest",
            r#"{"instance": {"metadata": {"a": [{"b": 1, "b": 1}]}}}"#,
            &[(r#"instance.metadata["a"][0]["b"]"#, "is given twice")],
        ),
        (
            "RegisterRequest",
            r#"{"ttl": "10.0000000000s", "wait": 10}"#,
            &[
                ("ttl", "must be a duration such as \"1.5s\", of at most 315576000000s"),
                ("wait", "must be a duration such as \"1.5s\", of at most 315576000000s"),
            ],
        ),
        (
            "Instance",
            r#"{"onlineSince": "now"}"#,
            &[("online_since", "must be a time such as \"2026-11-21T09:12:07Z\"")],
        ),
        (
            "SubscribeRequest",
            r#"{"drop": {"id": "a"}, "ack": {}}"#,
            &[("ack", "must not be given with another command")],
        ),
    ] {
        refuses(name, body, violations);
    }
}

#[test]
fn what_is_no_json_is_told_with_its_place() {
    let deep = |levels: usize| format!("{{\"metadata\": {}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(read("Instance", &deep(32)).is_ok());
    let violation = ("metadata".to_owned(), "is nested too deep".to_owned());
    assert_eq!(read("Instance", &deep(126)), Err(vec![violation]));
    let (too_deep, bomb) = (deep(127), deep(500_000));
    for (body, reason, place) in [
        (&b""[..], "MALFORMED", "empty"),
        (b" ", "MALFORMED", "line 1 column 1"),
        (b"{", "MALFORMED", "line 1 column 1"),
        (b"{}\n{}", "MALFORMED", "line 2 column 1"),
        (b"{} x", "MALFORMED", "line 1 column 4"),
        (b"{\"service\": \"a\"", "MALFORMED", "line 1 column 15"),
        (b"{'service': \"a\"}", "MALFORMED", "line 1 column 2"),
        (b"{\"service\": \"a\",}", "MALFORMED", "line 1 column 17"),
        (b"{\"service\": \"a\x01\"}", "MALFORMED", "line 1 column"),
        (b"{\"service\": \"\\ud800\"}", "MALFORMED", "line 1 column"),
        (b"{\"limit\": 01}", "MALFORMED", "line 1 column 12"),
        (b"{\"port\": 1e999}", "MALFORMED", "line 1 column"),
        (b"{\"limit\": NaN}", "MALFORMED", "line 1 column 11"),
        (b"\xef\xbb\xbf{}", "MALFORMED", "line 1 column 1"),
        (b"{\"service\": \"\xff\"}", "MALFORMED", "byte 13"),
        (b"\xff\xfe{\x00}\x00", "MALFORMED", "byte 0"),
        (too_deep.as_bytes(), "TOO_DEEP", "line 1 column"),
        (bomb.as_bytes(), "TOO_DEEP", "line 1 column"),
    ] {
        let text = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let read = message(&descriptor("Instance"), body, MANY, &Path::Root, &mut Vec::new());
        let status = read.map(|_| ()).expect_err(&text);
        assert_eq!(status.code(), Code::InvalidArgument, "{text}");
        assert_eq!(status.get_details_error_info().map(|info| info.reason).as_deref(), Some(reason), "{text}");
        assert!(status.message().contains(place), "{text}: {}", status.message());
    }
}

#[test]
fn violations_without_end_cost_no_memory() {
    let body = format!("{{{}\"z\": 1}}", (0..100_000).map(|n| format!("\"x{n}\": 1, ")).collect::<String>());
    let violations = read("Instance", &body).expect_err("violations");
    assert_eq!(violations.len(), 101);
    assert!(violations[100].1.contains("not read to its end"), "{violations:?}");
}

/// How many values were taken in of a body that may have so many, and what is wrong with it.
fn values_of(name: &str, body: &str, max_values: usize) -> (usize, Vec<(String, String)>) {
    let found = Found::new(max_values);
    let seed = MessageSeed { descriptor: &descriptor(name), path: &Path::Root, found: &found };
    let read = seed.deserialize(&mut serde_json::Deserializer::from_str(body));
    assert_eq!(read.is_err(), found.has_too_much(), "{name}");
    let values = found.values();
    (values, found.into_violations().into_iter().map(|found| (found.field, found.description)).collect())
}

#[test]
fn values_beyond_the_limit_are_not_read() {
    let list = |name: &str, one: &str, times: usize| {
        format!(r#"{{"{name}": [{}{one}]}}"#, format!("{one},").repeat(times - 1))
    };
    assert_eq!(values_of("HeartbeatRequest", &list("beats", "{}", 98), 100), (99, vec![]), "the message counts, too");
    let ports = (0..100_000).map(|n| format!(r#""{n}":1,"#)).collect::<String>();
    for (name, body) in [
        ("HeartbeatRequest", list("beats", "{}", 1_000_000)),
        ("DeregisterRequest", list("leaseTokens", r#""""#, 1_000_000)),
        ("Instance", format!(r#"{{"ports": {{{ports}"z": 1}}}}"#)),
    ] {
        assert_eq!(values_of(name, &body, 1_000), (1_001, vec![]), "{name}");
        let refused = message(&descriptor(name), body.as_bytes(), 1_000, &Path::Root, &mut Vec::new());
        let refused = refused.map(|_| ()).expect_err("too many");
        let info = refused.get_details_error_info().expect("a reason");
        assert_eq!((refused.code(), info.reason.as_str()), (Code::ResourceExhausted, "TOO_LARGE"));
        assert_eq!(info.metadata["limit"], "max_json_values");
    }
}

#[test]
fn metadata_beyond_all_bounds_is_passed_over() {
    let many = |value: &str| format!(r#"{{"metadata": [{}{value}]}}"#, format!("{value},").repeat(300_000));
    let keys = (0..300_000).map(|n| format!(r#""k{n}":[],"#)).collect::<String>();
    let keys = format!(r#"{{"metadata": {{{keys}"z": 0}}, "ports": 7}}"#);
    let text = format!(r#"{{"metadata": ["{}", 1]}}"#, "x".repeat(1_000_000));
    let large = ("metadata".to_owned(), format!("must be at most {METADATA_BYTES_MAX} bytes encoded"));
    for body in [many("0"), many("{}"), many("[[]]"), many(r#""""#), many("null"), text] {
        let (values, violations) = values_of("Instance", &body, MANY);
        assert!(values <= METADATA_BYTES_MAX / 2 + 2, "{values} values of {}", &body[..40]);
        assert_eq!(violations, std::slice::from_ref(&large), "{}", &body[..40]);
    }
    // What comes after it is read all the same.
    let (_, violations) = values_of("Instance", &keys, MANY);
    assert_eq!(violations, [large, ("ports".to_owned(), "must be an object".to_owned())]);
    // What is a little too large the registry refuses, and says by how much.
    let body = format!(r#"{{"metadata": "{}"}}"#, "x".repeat(METADATA_BYTES_MAX + 1));
    assert_eq!(values_of("Instance", &body, MANY), (2, vec![]));
}

/// Choices that a test case makes; when they are used up, the least of each.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn upto(&mut self, end: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte) % end)
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        // Small ones and large ones alike.
        let len = self.upto(9);
        bytes[..len].fill_with(|| self.0.next().copied().unwrap_or_default());
        u64::from_le_bytes(bytes)
    }

    fn text(&mut self) -> String {
        let letters =
            ['a', 'Z', '7', '"', '\\', '\n', '\u{0}', '\u{1b}', '/', 'é', '你', '\u{2028}', '🦀', ' ', '%', '.'];
        (0..self.upto(6)).map(|_| letters[self.upto(letters.len())]).collect()
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            // What it is of is not known to whoever has only these descriptors.
            let any = matches!(field.kind(), Kind::Message(inner) if inner.full_name() == "google.protobuf.Any");
            if any || depth == 0 && field.kind().as_message().is_some() || self.upto(3) == 0 {
                continue;
            }
            let value = self.field(&field, depth);
            message.set_field(&field, value);
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        let kind = field.kind();
        if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
            let kind = entry.map_entry_value_field().kind();
            let entries = (0..self.upto(3)).map(|_| (MapKey::String(self.text()), self.one(&kind, depth)));
            return Value::Map(entries.collect::<HashMap<_, _>>());
        }
        if field.is_list() {
            return Value::List((0..self.upto(3)).map(|_| self.one(&kind, depth)).collect());
        }
        self.one(&kind, depth)
    }

    fn one(&mut self, kind: &Kind, depth: usize) -> Value {
        match kind {
            Kind::Bool => Value::Bool(self.upto(2) == 1),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(self.text().into_bytes().into()),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.number() as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.number() as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number() as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number()),
            Kind::Float => Value::F32(self.number() as f32),
            Kind::Double => Value::F64(f64::from_bits(self.number()).clamp(f64::MIN, f64::MAX)),
            // Also numbers that no name stands for.
            Kind::Enum(_) => Value::EnumNumber(self.upto(9) as i32),
            Kind::Message(message) => Value::Message(self.well_known(message, depth)),
        }
    }

    fn well_known(&mut self, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let json = match descriptor.full_name() {
            "google.protobuf.Duration" => {
                let sign = if self.upto(2) == 0 { "" } else { "-" };
                format!("\"{sign}{}.{:09}s\"", self.number() % 315_576_000_000, self.number() % 1_000_000_000)
            }
            "google.protobuf.Timestamp" => {
                let (year, day, nanos) = (1 + self.number() % 9_999, 1 + self.upto(28), self.number() % 1_000_000_000);
                format!("\"{year:04}-02-{day:02}T23:59:58.{nanos:09}Z\"")
            }
            "google.protobuf.Value" => self.tree(depth).to_string(),
            _ => return self.message(descriptor, depth - 1),
        };
        let mut json = serde_json::Deserializer::from_str(&json);
        DynamicMessage::deserialize(descriptor.clone(), &mut json).expect("well known")
    }

    fn tree(&mut self, depth: usize) -> serde_json::Value {
        match self.upto(if depth == 0 { 4 } else { 6 }) {
            0 => serde_json::Value::Null,
            1 => serde_json::Value::Bool(self.upto(2) == 1),
            2 => serde_json::Value::from(self.text()),
            3 => serde_json::Number::from_f64(f64::from_bits(self.number())).map_or(0.into(), Into::into),
            4 => (0..self.upto(4)).map(|_| self.tree(depth - 1)).collect(),
            _ => (0..self.upto(4)).map(|_| (self.text(), self.tree(depth - 1))).collect(),
        }
    }
}

proptest! {
    /// Every message of the API comes back from its JSON as it was, and so do its bytes.
    #[test]
    fn every_message_comes_back_from_its_json(choices in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let mut choices = Choices(choices.iter());
        for descriptor in POOL.all_messages().filter(|message| message.package_name() == "onair.v1") {
            if descriptor.is_map_entry() {
                continue;
            }
            let sent = choices.message(&descriptor, 3).encode_to_vec();
            let json = to_json(&descriptor, &sent).expect("JSON");
            let mut violations = Vec::new();
            let read = message(&descriptor, &json, MANY, &Path::Root, &mut violations).expect("readable");
            let json = String::from_utf8_lossy(&json);
            prop_assert_eq!(&violations, &[], "{}", json);
            // As messages: the entries of maps have no order.
            let decode = |bytes: &[u8]| DynamicMessage::decode(descriptor.clone(), bytes).expect("a message");
            prop_assert_eq!(decode(&read.encode_to_vec()), decode(&sent), "{}", json);
        }
    }
}
