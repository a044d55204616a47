//! The tour that a client of each language takes, and what it has to say of it. What it does is in the clients, in
//! the same words; this asks for nothing but the lines below, and does to the server what the client asks for.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    sync::{PoisonError, RwLock, mpsc},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{server::Server, tools::top};

/// The longest that a client may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client says, line by line. Text of the form `from..to` stands for a number of that range, bounds included.
const TOUR: &str = r#"
{"step": "info", "default_ttl_ms": 10000, "min_ttl_ms": 1000, "max_ttl_ms": 3600000, "bookmark_ms": 15000, "max_beats": 10000, "max_name_bytes": 255, "durable": true}
// A watch from before the first registration sees each change once.
{"step": "snapshot", "events": [], "snapshot_end": true}
{"step": "registered", "key": ["default", "web", "a"], "url": "http://127.0.0.1:8001", "status": "SERVING", "weight": [true, 1], "ttl_ms": 10000, "interval_ms": 3333, "incarnation_is_revision": true, "online_since_today": true, "metadata": "red"}
{"step": "seen", "events": ["ONLINE REGISTERED web/a"]}
{"step": "repeated", "same": true, "new_token": true}
{"step": "updated", "same": true, "weight": [true, 0], "ttl_ms": 600000}
{"step": "seen", "events": ["UPDATED UNSPECIFIED web/a"]}
{"step": "seen", "events": ["ONLINE REGISTERED web/127.0.0.1:8002"]}
// Each beat has its own answer, by position.
{"step": "beats", "states": ["RENEWED", "UNKNOWN", "UNKNOWN", "RENEWED"], "ttls_ms": [600000, 600000]}
{"step": "beat_stream", "states": [["RENEWED"], ["UNKNOWN", "RENEWED"]]}
{"step": "seen", "events": ["OFFLINE DRAINING web/127.0.0.1:8002"]}
{"step": "seen", "events": ["ONLINE MATCHED web/127.0.0.1:8002"]}
// Another process takes the key: the old token is of no use for anything.
{"step": "seen", "events": ["OFFLINE REPLACED web/a", "ONLINE REGISTERED web/a"]}
{"step": "superseded", "state": "SUPERSEDED"}
{"step": "refused", "code": "ABORTED", "domain": "onair", "reason": "SUPERSEDED", "metadata": {"holder": "127.0.0.1:8001"}, "resource": "default/web/a"}
{"step": "refused", "code": "ABORTED", "domain": "onair", "reason": "SUPERSEDED", "metadata": {"holder": "127.0.0.1:8001"}, "resource": "default/web/a"}
// Ranges, selectors, picks, pages, and why there is nothing.
{"step": "found", "ids": ["127.0.0.1:8002", "a"]}
{"step": "found", "ids": ["a"]}
{"step": "found", "ids": ["127.0.0.1:8002"]}
{"step": "found", "ids": ["127.0.0.1:8002"]}
{"step": "found", "ids": ["127.0.0.1:8002", "a"]}
{"step": "found", "ids": [], "emptiness": "NO_MATCH"}
{"step": "found", "ids": [], "emptiness": "UNKNOWN_SERVICE"}
{"step": "rendezvous", "distinct": 1}
{"step": "pages", "ids": ["127.0.0.1:8002", "a"], "more": false}
{"step": "listed", "services": [["default", "web", 2, 2]]}
// Every error has its details, and all violations.
{"step": "refused", "code": "INVALID_ARGUMENT", "domain": "onair", "reason": "INVALID", "metadata": {}, "violations": ["instance.service", "instance.id", "instance.port", "instance.status", "ttl"]}
{"step": "refused", "code": "FAILED_PRECONDITION", "domain": "onair", "reason": "MISSING_DEPENDENCY", "metadata": {"missing": "1"}}
{"step": "refused", "code": "INVALID_ARGUMENT", "domain": "onair", "reason": "INVALID", "metadata": {}, "violations": ["selector"]}
{"step": "refused", "code": "FAILED_PRECONDITION", "domain": "onair", "reason": "REVISION_AHEAD", "metadata": {"revision": "7"}}
{"step": "refused", "code": "INVALID_ARGUMENT", "domain": "onair", "reason": "INVALID", "metadata": {}, "violations": ["beats"]}
{"step": "refused", "code": "INVALID_ARGUMENT", "domain": "onair", "reason": "INVALID", "metadata": {}, "violations": ["lease_token"]}
{"step": "refused", "code": "INVALID_ARGUMENT", "domain": "onair", "reason": "INVALID", "metadata": {}, "violations": ["selectors[0].frontend", "selectors[0].version"]}
// Two subscriptions, one of them bad.
{"step": "group", "id": "us", "events": ["ONLINE SNAPSHOT web/127.0.0.1:8002"], "snapshot_end": true, "token": true}
{"step": "group", "id": "bad", "events": [], "error": {"code": "INVALID_ARGUMENT", "domain": "onair", "reason": "INVALID", "metadata": {}, "violations": ["selectors[0].selector"]}, "token": false}
{"step": "group", "id": "us", "events": ["OFFLINE FILTERED web/127.0.0.1:8002"], "token": true}
{"step": "seen", "events": ["OFFLINE FILTERED web/127.0.0.1:8002"]}
{"step": "group", "id": "us", "events": ["ONLINE MATCHED web/127.0.0.1:8002"], "token": true}
{"step": "seen", "events": ["ONLINE MATCHED web/127.0.0.1:8002"]}
{"step": "group", "id": "us", "events": [], "dropped": true, "token": false}
// Health by name.
{"step": "health", "checks": ["SERVING", "SERVING", "SERVING", "SERVING", "NOT_FOUND"]}
{"step": "health_watch", "statuses": ["SERVICE_UNKNOWN", "SERVING", "NOT_SERVING"]}
// What happened while nobody looked; then tokens that cannot be continued.
{"step": "removed", "removed": [1, 0]}
{"step": "missed", "events": ["ONLINE REGISTERED web/c", "OFFLINE DEREGISTERED web/c"]}
{"step": "reset", "events": ["ONLINE SNAPSHOT web/a"], "snapshot_end": true, "reset": "SELECTORS_CHANGED"}
{"step": "reset", "events": ["ONLINE SNAPSHOT web/127.0.0.1:8002", "ONLINE SNAPSHOT web/a"], "snapshot_end": true, "reset": "MALFORMED"}
// Never before the TTL is over, counted from when the last beat was sent.
{"step": "expired", "after_ms": "2000..7000", "events": ["OFFLINE EXPIRED short/s"]}
{"step": "healed", "state": "EXPIRED", "newer": true}
{"step": "seen", "events": ["ONLINE REGISTERED short/s"]}
// A watch of what never changes.
{"step": "bookmark", "first": {"events": [], "snapshot_end": true}, "second": {"events": []}, "quiet_ms": "1..15000", "moved": true}
// The server is killed: a lookup under way is asked again, and calls wait for it.
{"step": "please", "do": "kill"}
{"step": "please", "do": "start"}
{"step": "survived", "same_registry": true, "new_epoch": true, "awaited": ["m"]}
// SIGTERM.
{"step": "please", "do": "stop"}
{"step": "watch_ended", "bookmark": true, "code": "UNAVAILABLE", "domain": "onair", "reason": "SHUTTING_DOWN", "metadata": {}, "retry_ms": "200..2000"}
{"step": "health_ended", "said": "NOT_SERVING", "code": "UNAVAILABLE", "domain": "onair", "reason": "SHUTTING_DOWN", "metadata": {}, "retry_ms": "200..2000"}
{"step": "beats_ended", "code": "UNAVAILABLE", "domain": "onair", "reason": "SHUTTING_DOWN", "metadata": {}, "retry_ms": "200..2000"}
"#;

/// Held by each tour under way, and alone by what would slow them down: leases of 2 s have to be kept meanwhile.
static TOURS: RwLock<()> = RwLock::new(());

/// Does something that takes a lot of the machine, while there is no tour.
pub fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _alone = TOURS.write().unwrap_or_else(PoisonError::into_inner);
    work()
}

/// Has `client` take the tour; it is given the server's address and the service config. What keeps a lease and follows a set
/// is judged by `tests/polyglot`.
pub fn take(client: &mut Command) {
    let _together = TOURS.read().unwrap_or_else(PoisonError::into_inner);
    let mut server = Server::start();
    let mut client = client
        .arg(server.address().to_string())
        .arg(top().join("tests/clients/service_config.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut answers, said) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let (lines, heard) = mpsc::channel();
    thread::spawn(move || BufReader::new(said).lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));

    let mut told = Vec::new();
    for expected in TOUR.lines().filter(|line| line.starts_with('{')) {
        let expected: Value = serde_json::from_str(expected).unwrap();
        let line = heard.recv_timeout(PATIENCE).unwrap_or_default();
        told.push(line.clone());
        let got: Value = serde_json::from_str(&line).unwrap_or_default();
        if !agrees(&expected, &got) {
            let (_, _) = (client.kill(), client.wait());
            panic!("expected {expected}\nat the end of\n{}\nthe server:\n{}", told.join("\n"), server.log());
        }
        if got["step"] == "please" {
            match got["do"].as_str() {
                Some("kill") => server.kill(),
                Some("start") => server.again(false),
                Some("stop") => server.ask_to_stop(),
                other => panic!("nobody knows how to {other:?}"),
            }
            writeln!(answers, "done").unwrap();
        }
    }
    assert_eq!(heard.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected), "one line too many");
    assert!(client.wait().unwrap().success());
    assert!(server.ended().success(), "{}", server.log());
}

/// Whether `got` is what was expected.
fn agrees(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            expected.len() == got.len()
                && expected.iter().all(|(key, value)| got.get(key).is_some_and(|got| agrees(value, got)))
        }
        (Value::Array(expected), Value::Array(got)) => {
            expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| agrees(expected, got))
        }
        (Value::String(text), Value::Number(number)) => {
            let bounds = text.split_once("..").map(|(from, to)| (from.parse::<f64>(), to.parse::<f64>()));
            let (Some((Ok(from), Ok(to))), Some(number)) = (bounds, number.as_f64()) else { return false };
            (from..=to).contains(&number)
        }
        _ => expected == got,
    }
}

#[test]
fn a_range_is_a_number_and_the_rest_is_equal() {
    let agree = |expected: &str, got: &str| {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        agrees(&read(expected), &read(got))
    };
    assert!(agree(r#"{"a": [1, "x", "2..4"]}"#, r#"{"a": [1, "x", 4]}"#));
    for other in
        [r#"{"a": [1, "x", 5]}"#, r#"{"a": [1, "x"]}"#, r#"{"a": [1, "x", "3"]}"#, r#"{"a": [1, "x", 3], "b": 1}"#]
    {
        assert!(!agree(r#"{"a": [1, "x", "2..4"]}"#, other), "{other}");
    }
}
