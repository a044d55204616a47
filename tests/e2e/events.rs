//! Server-sent events to the letter, and what ends them.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use onair::proto::{ResetReason, WatchRequest};
use serde_json::Value as Json;

use crate::{
    harness::{Follower, Http, Server, alone, bulk, pass, register, register_with, selector, within},
    history::{Fold, HttpClient, Parser, Recorder, Settings},
};

pub const ALL: &str = "/v1/namespaces/*/watch?selector=status%3D*";
pub const WEB: &str = "/v1/namespaces/default/services/web/watch";

pub fn strict() -> Settings {
    Settings { resets: false, ..Settings::default() }
}

/// A request without a body; in HTTP/1.0 the answer's end is the connection's, and there is nothing between its bytes.
pub fn get(target: &str, version: &str, headers: &str) -> String {
    format!("GET {target} HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n")
}

/// A stream that was opened, with its head.
async fn opened(server: &Server, target: &str, headers: &str) -> (Http, String) {
    let mut http = Http::connect(server.address()).await;
    http.send(get(target, "1.0", &format!("Accept: text/event-stream\r\n{headers}"))).await;
    let head = http.through("\r\n\r\n").await.unwrap();
    (http, head)
}

/// An answer of long poll.
pub async fn poll(server: &Server, target: &str) -> Json {
    let said = Http::connect(server.address()).await.ask(get(target, "1.1", "")).await;
    assert_eq!((said.status, said.header("content-type")), (200, "application/json"), "{said:?}");
    said.json()
}

pub fn token(json: &Json) -> &str {
    json["resumeToken"].as_str().unwrap_or_else(|| panic!("{json}"))
}

#[tokio::test]
async fn events_are_as_documented_to_the_letter() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let client = server.client(&recorder).await;
    let (mut http, head) = opened(&server, ALL, "").await;
    let head = head.to_lowercase();
    for line in
        ["http/1.0 200 ok", "content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"]
    {
        assert!(head.contains(line), "no {line} in {head}");
    }
    // First when to come back, then what is there: nothing.
    let retry = http.through("\n\n").await.unwrap();
    let delay: u64 = retry.trim_end().strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((200..2_000).contains(&delay), "{delay}");
    let empty = http.through("\n\n").await.unwrap();
    let token = empty.trim_end().rsplit_once("\nid: ").unwrap().1.to_owned();
    let told = format!("\"resumeToken\":\"{token}\",\"snapshotEnd\":true,\"bookmarkInterval\":\"15s\"");
    assert_eq!(empty, format!("data: {{{told}}}\nid: {token}\n\n"));
    let granted = client.register(register("web", "a\"\n", 60.0)).await;
    assert!(granted.is_err(), "names have no control characters");
    let mut request = register("web", "a", 60.0);
    request.instance.as_mut().unwrap().version = "ünï".into();
    client.register(request).await.unwrap();
    let change = http.through("\n\n").await.unwrap();
    let (data, id) = change.trim_end().split_once('\n').unwrap();
    let json: Json = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(format!("id: {}", json["resumeToken"].as_str().unwrap()), id);
    assert_eq!(json["events"][0]["cause"], "CAUSE_REGISTERED");
    assert_eq!(json["events"][0]["instance"]["version"], "ünï");
    // Each stream has a time of its own to come back.
    let mut delays = std::collections::BTreeSet::new();
    for _ in 0..8 {
        delays.insert(opened(&server, ALL, "").await.0.through("\n\n").await.unwrap());
    }
    assert!(delays.len() > 1, "{delays:?}");
}

#[tokio::test]
async fn an_event_source_goes_on_after_its_last_event() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let client = server.client(&recorder).await;
    let first = client.register(register("web", "a", 60.0)).await.unwrap().revision;
    let old = poll(&server, WEB).await;
    client.register(register("web", "b", 60.0)).await.unwrap();
    let new = poll(&server, WEB).await;
    let of = async |target: &str, headers: &str| {
        let (mut http, head) = opened(&server, target, headers).await;
        assert!(head.contains(" 200 OK"), "{head}");
        http.through("\n\n").await.unwrap();
        http.through("\n\n").await.unwrap()
    };
    let (old, new) = (token(&old), token(&new));
    // Nothing was missed: only where it is, which is no event.
    let said = of(WEB, &format!("Last-Event-ID: {new}\r\n")).await;
    let told = format!("\"revision\":\"{}\",\"resumeToken\":\"{new}\",\"bookmarkInterval\":\"15s\"", first + 1);
    let bookmark = format!(": {{{told}}}\nid: {new}\n\n");
    assert_eq!(said, bookmark);
    // The header goes before the query, which an `EventSource` cannot change.
    let with_query = format!("{WEB}?resume_token={old}");
    assert!(of(&with_query, "").await.contains("\"id\":\"b\""));
    assert_eq!(of(&with_query, &format!("Last-Event-ID: {new}\r\n")).await, bookmark);
    assert_eq!(of(&format!("{WEB}?resumeToken={new}"), "Last-Event-ID:\r\n").await, bookmark);
    // What is no token is never an error, which would end an `EventSource` for good.
    for bad in ["nonsense", "%", "\u{e9}\u{1f4a5}", &format!("{new}, {old}"), &"x".repeat(8_000)] {
        let said = of(WEB, &format!("Last-Event-ID: {bad}\r\n")).await;
        assert!(said.contains("RESET_REASON_MALFORMED") && said.contains("\"snapshotEnd\":true"), "{said}");
    }
    let twice = of(WEB, &format!("Last-Event-ID: {new}\r\nLast-Event-ID: {new}\r\n")).await;
    assert!(twice.contains("RESET_REASON_MALFORMED"), "{twice}");
    let other = of(&format!("{WEB}?version=1.x"), &format!("Last-Event-ID: {new}\r\n")).await;
    assert!(other.contains("RESET_REASON_SELECTORS_CHANGED"), "{other}");
    let mut http = Http::connect(server.address()).await;
    let mut bytes = get(WEB, "1.0", "Accept: text/event-stream\r\nLast-Event-ID: ?\r\n").into_bytes();
    let place = bytes.iter().rposition(|byte| *byte == b'?').unwrap();
    bytes[place] = 0xff;
    http.send(bytes).await;
    assert!(http.through("MALFORMED").await.unwrap().contains(" 200 OK"));
}

#[tokio::test]
async fn who_watches_gets_what_it_accepts() {
    let server = Server::start(&[]).await;
    let kind = async |target: &str, version: &str, headers: &str| {
        let mut http = Http::connect(server.address()).await;
        http.send(get(target, version, headers)).await;
        let head = http.through("\r\n\r\n").await.unwrap().to_lowercase();
        let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default().to_owned();
        (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), kind)
    };
    for (accept, wanted) in [
        ("text/event-stream", (200, "text/event-stream")),
        ("text/event-stream, */*;q=0.5", (200, "text/event-stream")),
        ("text/event-stream;q=0.5, application/json", (200, "application/json")),
        ("text/html, */*;q=0.1", (200, "application/json")),
        ("text/event-stream;q=0", (406, "application/problem+json")),
        ("image/png", (406, "application/problem+json")),
    ] {
        for version in ["1.1", "1.0"] {
            let (status, kind) = kind(WEB, version, &format!("Accept: {accept}\r\n")).await;
            assert_eq!((status, kind.as_str()), wanted, "{accept}");
        }
    }
    // A head is answered without a body, and leaves no watch behind.
    for accept in ["text/event-stream", "application/json"] {
        let mut http = Http::connect(server.address()).await;
        let head = get(WEB, "1.1", &format!("Accept: {accept}\r\n")).replacen("GET", "HEAD", 1);
        http.send(head).await;
        let said = http.through("\r\n\r\n").await.unwrap().to_lowercase();
        assert!(said.contains(" 200 ok") && said.contains(&format!("content-type: {accept}")), "{said}");
        let info = http.ask(get("/v1/info", "1.1", "")).await;
        assert_eq!(info.status, 200, "nothing stood between the heads");
    }
    // Several selectors are posted, for `fetch` can.
    let body = r#"{"selectors": [{"service": "web"}, {"service": "api"}]}"#;
    let mut http = Http::connect(server.address()).await;
    let post = format!(
        "POST /v1/watch HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    http.send(post).await;
    assert!(http.through("snapshotEnd").await.unwrap().contains("content-type: text/event-stream"));
    drop(http);
    // What no stream can mend is refused as any other call is.
    for target in [format!("{WEB}?selector=%3D"), format!("{WEB}?nonsense=1"), format!("{WEB}?wait=-1s")] {
        let (status, kind) = kind(&target, "1.1", "Accept: text/event-stream\r\n").await;
        assert_eq!((status, kind.as_str()), (400, "application/problem+json"), "{target}");
    }
}

#[tokio::test]
async fn a_watch_over_http_ends_with_its_client_and_counts_as_one() {
    let server = Server::start(&["--max-watches", "2"]).await;
    let watches = async |wanted: u64| {
        let wait = async {
            while server.info().await.counts.unwrap().watches != wanted {
                pass(Duration::from_millis(5)).await;
            }
        };
        within(&format!("{wanted} watches"), wait).await;
    };
    let mut first = opened(&server, ALL, "").await.0;
    first.through("snapshotEnd").await.unwrap();
    let at = poll(&server, ALL).await;
    let mut second = Http::connect(server.address()).await;
    second.send(get(&format!("{ALL}&wait=300s&resume_token={}", token(&at)), "1.1", "")).await;
    second.through("[").await.unwrap();
    watches(2).await;
    for accept in ["text/event-stream", "application/json"] {
        let mut third = Http::connect(server.address()).await;
        let said = third.ask(get(ALL, "1.1", &format!("Accept: {accept}\r\n"))).await;
        assert_eq!((said.status, said.header("content-type")), (429, "application/problem+json"));
        let json = said.json();
        assert_eq!((&json["reason"], &json["metadata"]["limit"]), (&"LIMIT".into(), &"max_watches".into()));
        assert!(said.header("retry-after").parse::<u64>().is_ok());
    }
    drop(first);
    watches(1).await;
    drop(second);
    watches(0).await;
}

#[tokio::test]
async fn a_quiet_stream_of_events_moves_on_by_comments() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let client = server.client(&recorder).await;
    let http = HttpClient::connect(server.address(), recorder.clone()).await.unwrap();
    let elsewhere = WatchRequest { selectors: vec![selector("nobody", "")], ..WatchRequest::default() };
    let mut quiet = http.events(elsewhere).await.unwrap();
    let first = within("a snapshot", quiet.next()).await.unwrap().unwrap();
    let granted = client.register(register("web", "a", 30.0)).await.unwrap();
    let at = Instant::now();
    let bookmark = within("a bookmark", quiet.next()).await.unwrap().unwrap();
    assert!(at.elapsed() <= Duration::from_secs(16), "silent for {:?}", at.elapsed());
    assert_eq!((bookmark.revision, bookmark.events.len()), (granted.revision, 0));
    assert!(bookmark.resume_token != first.resume_token && quiet.last_event_id() == bookmark.resume_token);
    drop(quiet);
    recorder.assert_clean();
}

#[tokio::test]
async fn told_to_stop_it_cuts_streams_after_a_last_bookmark_and_answers_polls() {
    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let [mut events, polls] = Follower::of_everything_by_http(&server, &recorder).await;
    drop(polls);
    let client = server.client(&recorder).await;
    let last = client.register(register("web", "last", 60.0)).await.unwrap();
    let (mut http, _) = opened(&server, ALL, "").await;
    http.through("snapshotEnd").await.unwrap();
    let snapshot = poll(&server, ALL).await;
    let mut held = Http::connect(server.address()).await;
    held.send(get(&format!("{ALL}&wait=300s&resume_token={}", token(&snapshot)), "1.0", "")).await;
    held.through("[").await.unwrap();
    drop(client);
    server.terminate();

    // The stream ends after a bookmark, with a comment that says why and when to come back; nothing else is refused.
    let rest = http.rest().await;
    let mut parser = Parser::default();
    let blocks = parser.feed(rest.split_once("\n\n").unwrap().1.as_bytes());
    let [bookmark, end] = blocks.as_slice() else { panic!("{rest}") };
    assert!(bookmark.data.is_none() && bookmark.id.as_deref() == Some(token(&snapshot)), "{rest}");
    let problem: Json = serde_json::from_str(&end.comments[0]).unwrap();
    assert_eq!((&problem["reason"], problem["status"].as_u64()), (&"SHUTTING_DOWN".into(), Some(503)));
    assert!(end.data.is_none() && end.id.is_none() && end.retry.is_some(), "{rest}");
    // The poll is answered.
    let answer = held.rest().await;
    let json: Json = serde_json::from_str(&format!("[{answer}")[..].replacen('[', "{\"responses\":[", 1)).unwrap();
    assert_eq!((json["responses"].as_array().map(Vec::len), token(&json)), (Some(0), token(&snapshot)));
    assert!(server.ended().await.success());

    // Who comes back loses nothing.
    server.again().await;
    let client = server.client(&recorder).await;
    let next = client.register(register("web", "next", 60.0)).await.unwrap();
    events.reach(next.revision).await;
    assert!(last.revision < next.revision);
    assert_eq!((events.fold().instances().len(), events.resets()), (2, &[][..]));
    let missed = poll(&server, &format!("{ALL}&resume_token={}", token(&snapshot))).await;
    assert_eq!(missed["responses"][0]["events"][0]["instance"]["id"], "next");
    recorder.assert_clean();
}

#[tokio::test]
async fn nobody_waits_for_a_stream_of_events_that_is_not_read() {
    let _alone = alone().await;
    // Without a disk to wait for: who takes nothing for 30 s is cut off.
    let server = Server::ephemeral(&["--max-log-bytes", "256KiB"]).await;
    let recorder = Recorder::new(strict());
    let mut others = Follower::of_everything(&server, &recorder).await;
    let (mut slow, _) = opened(&server, ALL, "").await;
    let mut parser = Parser::default();
    let mut said = slow.through("snapshotEnd").await.unwrap();
    // It reads no more, while far more goes by than the log and every buffer on the way can hold.
    let client = server.client(&recorder).await;
    let (mut slowest, mut head) = (Duration::ZERO, 0);
    let heavy =
        |number: u64| register_with("web", &format!("{}", number % 30), 60.0, |one| one.metadata = bulk(15_000));
    for number in 0..20 {
        let registering = (0..30).map(async |more| client.register(heavy(number + more)).await.unwrap().revision);
        stream::iter(registering).buffer_unordered(10).collect::<Vec<_>>().await;
        let begun = Instant::now();
        head = client.register(heavy(number)).await.unwrap().revision;
        others.reach(head).await;
        slowest = slowest.max(begun.elapsed());
    }
    println!("with a stream of events that is not read, a registration was seen by others within {slowest:?}");
    assert!(slowest < Duration::from_secs(5));
    // It wakes up: what was on the way, then a reset and a snapshot on the same stream.
    let mut fold = Fold::new();
    let mut resets = Vec::new();
    while fold.revision() < head {
        said.push_str(&slow.through("\n").await.expect("the stream goes on"));
        for block in parser.feed(std::mem::take(&mut said).as_bytes()) {
            if let crate::history::Said::Message(message) = crate::history::said(&block).unwrap() {
                resets.extend(message.reset.map(|reset| reset.reason()));
                fold.watch(&message);
            }
        }
    }
    assert_eq!(resets, [ResetReason::FellBehind]);
    assert!(fold.instances().len() == 30 && others.fold().instances() == fold.instances(), "it holds what is there");
    recorder.assert_clean();
}
