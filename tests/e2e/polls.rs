//! Long polls, and every way to watch beside the others: what they bring is judged by the same checkers as a watch of
//! gRPC.

use std::time::{Duration, Instant};

use onair::proto::{DeregisterRequest, ResetReason, WatchRequest, WatchResponse};
use serde_json::Value as Json;

use crate::{
    events::{ALL, WEB, get, poll, strict, token},
    harness::{Follower, Http, Server, bulk, everything, pass, register, register_with, selector, within},
    history::{AnyWatched, Fold, Recorder, Settings, Way},
};

async fn next(watched: &mut AnyWatched) -> WatchResponse {
    within("a message", watched.next()).await.expect("no end").expect("no error")
}

async fn open(way: Way, server: &Server, recorder: &Recorder, request: WatchRequest) -> AnyWatched {
    let opened = AnyWatched::open(way, server.address(), recorder, request);
    within("a watch", opened).await.expect("somebody there").expect("no refusal")
}

#[tokio::test]
async fn a_poll_is_answered_at_once_or_when_something_happens_or_when_time_is_up() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let client = server.client(&recorder).await;
    let granted = client.register(register("web", "a", 60.0)).await.unwrap();
    let snapshot = poll(&server, &format!("{WEB}?wait=300s")).await;
    assert_eq!(snapshot["responses"][0]["events"][0]["instance"]["id"], "a");
    assert_eq!(snapshot["responses"][0]["snapshotEnd"], true);
    assert_eq!(snapshot["revision"], granted.revision.to_string());
    // Nothing was missed.
    let after = |json: &Json, wait: &str| format!("{WEB}?resume_token={}&wait={wait}", token(json));
    let nothing = poll(&server, &format!("{WEB}?resume_token={}", token(&snapshot))).await;
    assert_eq!((&nothing["responses"], token(&nothing)), (&Json::Array(vec![]), token(&snapshot)));
    let begun = Instant::now();
    let later = poll(&server, &after(&nothing, "0.3s")).await;
    assert!(begun.elapsed() >= Duration::from_millis(300) && later["responses"] == nothing["responses"]);
    // Somewhere else something happens; then here.
    client.register(register("api", "x", 60.0)).await.unwrap();
    let mut held = Http::connect(server.address()).await;
    held.send(get(&after(&later, "3600s"), "1.1", "")).await;
    held.through("[").await.unwrap();
    client.register(register("web", "b", 60.0)).await.unwrap();
    let rest = within("what happened", held.through("]")).await.unwrap();
    assert!(rest.contains("\"id\":\"b\"") && !rest.contains("\"id\":\"x\""), "{rest}");
    // What was missed comes at once, however long one would wait.
    let missed = poll(&server, &after(&later, "300s")).await;
    assert_eq!(missed["responses"].as_array().map(Vec::len), Some(1), "{missed}");
    assert_eq!(missed["responses"][0]["events"][0]["instance"]["id"], "b");
    let anew = poll(&server, &format!("{WEB}?resume_token=nonsense&wait=300s")).await;
    assert_eq!(anew["responses"][0]["reset"]["reason"], "RESET_REASON_MALFORMED");
    assert_eq!(anew["responses"][0]["events"].as_array().map(Vec::len), Some(2));
    assert_eq!(token(&anew), token(&missed));
}

#[tokio::test]
async fn a_poll_that_missed_much_gets_it_in_parts() {
    const COUNT: usize = 200;
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let mut truth = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let mut resume_token = truth.fold().resume_token().to_owned();
    for number in 0..COUNT {
        let heavy = register_with("heavy", &format!("i{number}"), 60.0, |instance| instance.metadata = bulk(12_000));
        truth.reach(client.register(heavy).await.unwrap().revision).await;
    }
    let (mut sizes, mut events) = (Vec::new(), 0);
    while events < COUNT {
        let mut http = Http::connect(server.address()).await;
        let said = http.ask(get(&format!("{ALL}&summaries=true&resume_token={resume_token}"), "1.1", "")).await;
        sizes.push(said.body.len());
        let json = said.json();
        token(&json).clone_into(&mut resume_token);
        for response in json["responses"].as_array().unwrap() {
            events += response["events"].as_array().map_or(0, Vec::len);
        }
    }
    assert_eq!((events, sizes.len()), (COUNT, 3), "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 1_100_000), "{sizes:?}");
    // The same by the client that all checkers judge.
    let resume_token = truth.fold().resume_token().to_owned();
    let request = WatchRequest { resume_token, summaries: true, ..everything() };
    let mut polls = open(Way::Poll(Duration::from_secs(1)), &server, &recorder, request).await;
    let last = client.register(register("web", "last", 60.0)).await.unwrap();
    while next(&mut polls).await.revision < last.revision {}
    drop(polls);
    truth.reach(last.revision).await;
    recorder.assert_clean();
}

#[tokio::test]
async fn every_way_of_watching_sees_the_same() {
    let server = Server::start(&["--max-log-bytes", "64MiB"]).await;
    let recorder = Recorder::new(strict());
    let mut truth = Follower::of_everything(&server, &recorder).await;
    let mut by_http = Follower::of_everything_by_http(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let narrow = || WatchRequest { selectors: vec![selector("web", "zone=eu,version=\"1.x\"")], ..Default::default() };
    let wide = || WatchRequest {
        selectors: vec![selector("web", "zone=eu"), selector("web", "zone=us"), selector("heavy", "")],
        ..WatchRequest::default()
    };
    let ways = [Way::Grpc, Way::Events, Way::Poll(Duration::from_millis(500))];
    let mut watches = Vec::new();
    for way in ways {
        for request in [narrow(), wide()] {
            let mut watch = open(way, &server, &recorder, request).await;
            assert!(next(&mut watch).await.snapshot_end);
            watches.push(watch);
        }
    }
    let placed = |zone: &str| {
        register_with("web", "a", 60.0, |instance| {
            instance.zone = zone.to_owned();
            instance.version = "1.0.0".to_owned();
        })
    };
    let mut lease_token = String::new();
    for zone in ["eu", "us", "ap", "eu", "us"] {
        let request = onair::proto::RegisterRequest { lease_token, ..placed(zone) };
        lease_token = client.register(request).await.unwrap().lease.unwrap().token;
    }
    // Revisions and snapshots that span messages.
    let mut lease_tokens = Vec::new();
    for number in 0..60 {
        let heavy = register_with("heavy", &format!("i{number:02}"), 60.0, |instance| instance.metadata = bulk(12_000));
        lease_tokens.push(client.register(heavy).await.unwrap().lease.unwrap().token);
    }
    let mut late = Vec::new();
    for way in ways {
        let mut watch = open(way, &server, &recorder, everything()).await;
        let first = next(&mut watch).await;
        assert!(first.more && first.resume_token.is_empty(), "the snapshot spans messages");
        late.push(watch);
    }
    client.deregister(DeregisterRequest { lease_token, ..Default::default() }).await.unwrap();
    let gone = client.deregister(DeregisterRequest { lease_tokens, ..Default::default() }).await.unwrap();
    assert_eq!(gone.removed, 60);
    for watch in watches.iter_mut().chain(&mut late) {
        while next(watch).await.revision < gone.revision {}
    }
    for follower in by_http.iter_mut().chain([&mut truth]) {
        follower.reach(gone.revision).await;
        assert_eq!((follower.fold().instances().len(), follower.resets()), (0, &[][..]));
    }
    drop((watches, late));
    recorder.assert_clean();
}

#[tokio::test]
async fn followers_over_http_lose_nothing_over_kill_9_and_a_freeze() {
    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
    let mut truth = Follower::of_everything(&server, &recorder).await;
    let mut by_http = Follower::of_everything_by_http(&server, &recorder).await;
    for life in 0..3 {
        let client = server.client(&recorder).await;
        client.register(register("web", &format!("of-life-{life}"), 60.0)).await.unwrap();
        let passing = client.register(register("web", "passing", 60.0)).await.unwrap().lease.unwrap().token;
        if life == 1 {
            server.signal("STOP");
            pass(Duration::from_secs(1)).await;
            server.signal("CONT");
        } else {
            server.kill().await;
            server.again().await;
        }
        let client = server.client(&recorder).await;
        let removed =
            client.deregister(DeregisterRequest { lease_token: passing, ..Default::default() }).await.unwrap();
        for follower in by_http.iter_mut().chain([&mut truth]) {
            follower.reach(removed.revision).await;
            assert_eq!((follower.fold().instances().len(), follower.resets()), (life + 1, &[][..]));
        }
    }
    recorder.assert_clean();
}

#[tokio::test]
async fn every_reset_comes_in_band() {
    let mut server = Server::start(&["--max-log-bytes", "64KiB"]).await;
    let recorder = Recorder::new(Settings { cuts: true, ..Settings::default() });
    let client = server.client(&recorder).await;
    client.register(register("web", "a", 60.0)).await.unwrap();
    let ways = [Way::Events, Way::Poll(Duration::from_millis(200))];
    let old = next(&mut open(Way::Events, &server, &recorder, everything()).await).await.resume_token;
    for number in 0..20 {
        let heavy = register_with("web", &format!("h{number}"), 60.0, |instance| instance.metadata = bulk(8_000));
        client.register(heavy).await.unwrap();
    }
    let asked = |resume_token: &str| WatchRequest { resume_token: resume_token.to_owned(), ..everything() };
    for way in ways {
        for (request, reason) in [
            (asked(&old), ResetReason::TooOld),
            (WatchRequest { selectors: vec![selector("web", "")], ..asked(&old) }, ResetReason::SelectorsChanged),
            (asked("nonsense"), ResetReason::Malformed),
            (asked(&"ü".repeat(500)), ResetReason::Malformed),
        ] {
            let mut watch = open(way, &server, &recorder, request).await;
            let mut fold = Fold::default();
            let first = next(&mut watch).await;
            assert_eq!(first.reset.map(|reset| reset.reason()), Some(reason), "{way:?}");
            fold.watch(&first);
            while fold.is_in_snapshot() {
                fold.watch(&next(&mut watch).await);
            }
            assert_eq!(fold.instances().len(), 21);
            let more = client.register(register("web", "more", 60.0)).await.unwrap();
            fold.watch(&next(&mut watch).await);
            assert_eq!((fold.revision(), fold.instances().len()), (more.revision, 22));
            let remove = DeregisterRequest { service: "web".into(), id: "more".into(), ..Default::default() };
            client.deregister(remove).await.unwrap();
        }
    }
    recorder.assert_clean();
    // Without its data it is another one, also for who comes back by itself.
    server.kill().await;
    std::fs::remove_dir_all(server.data_dir()).unwrap();
    server.again().await;
    let recorder = Recorder::new(Settings { cuts: true, ..Settings::default() });
    for way in ways {
        let mut watch = open(way, &server, &recorder, asked(&old)).await;
        let first = next(&mut watch).await;
        assert_eq!(first.reset.map(|reset| reset.reason()), Some(ResetReason::AnotherRegistry), "{way:?}");
    }
    recorder.assert_clean();
}
