//! Watches on real connections: joining, filtering, resuming, falling behind, being quiet.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use onair::{
    proto::{Beat, DeregisterRequest, HeartbeatRequest, ResetReason, WatchRequest, WatchResponse},
    registry::{Cause, EventType, Status},
};
use prost::Message as _;

use crate::{
    harness::{
        Dice, Follower, Server, alone, bulk, everything, lookup, register, register_with, seconds, selector, within,
    },
    history::{Client, Recorder, Settings, Watched},
};

fn strict() -> Settings {
    Settings { resets: false, ..Settings::default() }
}

async fn next(watch: &mut Watched) -> WatchResponse {
    within("a message", watch.next()).await.expect("no end").expect("no error")
}

/// Registers and removes at random, for so many steps.
async fn churn(client: &Client, worker: u64, steps: usize) {
    let mut dice = Dice::new(worker + 1);
    let mut held: Vec<Option<String>> = vec![None; 5];
    for _ in 0..steps {
        let place = dice.below(5) as usize;
        if let Some(lease_token) = held[place].take().filter(|_| dice.below(2) == 0) {
            client.deregister(DeregisterRequest { lease_token, ..Default::default() }).await.unwrap();
            continue;
        }
        let request = register_with("churn", &format!("{worker}-{place}"), 60.0, |instance| {
            instance.zone = ["eu", "us", "ap"][dice.below(3) as usize].to_owned();
            instance.version = format!("{}.0.0", dice.below(3));
            instance.status = (1 + dice.below(3)) as i32;
        });
        held[place] = client.register(request).await.unwrap().lease.map(|lease| lease.token);
    }
}

#[tokio::test]
async fn snapshot_joins_live_while_many_register() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let mut truth = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let churning = stream::iter(0..4).map(|worker| churn(&client, worker, 60)).buffer_unordered(4).collect::<Vec<_>>();
    // Watches begin in the middle of it, on connections of their own.
    let watching = async {
        let mut watches = Vec::new();
        for number in 0..20 {
            let channel = server.channel().await;
            let selectors = vec![selector("churn", if number % 2 == 0 { "status=*" } else { "" })];
            let watch = Client::new(channel, recorder.clone());
            let mut watch = watch.watch(WatchRequest { selectors, ..Default::default() }).await.unwrap();
            next(&mut watch).await;
            watches.push(watch);
        }
        watches
    };
    let (_, mut watches) = tokio::join!(churning, watching);
    let last = client.register(register("churn", "last", 60.0)).await.unwrap();
    client.lookup(lookup("churn")).await.unwrap();
    truth.reach(last.revision).await;
    for watch in &mut watches {
        while next(watch).await.revision < last.revision {}
    }
    drop(watches);
    recorder.assert_clean();
}

#[tokio::test]
async fn filters_cross_and_selectors_unite() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let mut truth = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let europe = vec![selector("web", "zone=eu")];
    let union = vec![selector("web", "zone=eu"), selector("web", "zone=us"), selector("api", "")];
    let mut narrow = client.watch(WatchRequest { selectors: europe, ..Default::default() }).await.unwrap();
    let mut wide = client.watch(WatchRequest { selectors: union, ..Default::default() }).await.unwrap();
    assert!(next(&mut narrow).await.snapshot_end && next(&mut wide).await.snapshot_end);
    let placed = |zone: &str| register_with("web", "a", 60.0, |instance| instance.zone = zone.to_owned());
    let mut token = String::new();
    for zone in ["eu", "us", "ap", "eu"] {
        let request = onair::proto::RegisterRequest { lease_token: token, ..placed(zone) };
        token = client.register(request).await.unwrap().lease.unwrap().token;
    }
    let say = |status: Status| HeartbeatRequest {
        beats: vec![Beat { lease_token: token.clone(), status: status.into() }],
        ..Default::default()
    };
    client.heartbeat(say(Status::Draining)).await.unwrap();
    client.heartbeat(say(Status::Serving)).await.unwrap();
    let gone = client.deregister(DeregisterRequest { lease_token: token.clone(), ..Default::default() }).await.unwrap();
    let steps = async |watch: &mut Watched| {
        let mut steps = Vec::new();
        loop {
            let message = next(watch).await;
            steps.extend(message.events.iter().map(|event| (event.r#type(), event.cause())));
            if message.revision >= gone.revision {
                return steps;
            }
        }
    };
    use EventType::{Offline, Online, Updated};
    let (registered, matched) = ((Online, Cause::Registered), (Online, Cause::Matched));
    let (filtered, draining) = ((Offline, Cause::Filtered), (Offline, Cause::Draining));
    let (updated, left) = ((Updated, Cause::Unspecified), (Offline, Cause::Deregistered));
    assert_eq!(steps(&mut narrow).await, [registered, filtered, matched, draining, matched, left]);
    assert_eq!(steps(&mut wide).await, [registered, updated, filtered, matched, draining, matched, left]);
    truth.reach(gone.revision).await;
    drop((narrow, wide));
    recorder.assert_clean();
}

#[tokio::test]
async fn atomic_a_big_snapshot_and_a_big_revision_span_messages() {
    const COUNT: usize = 100;
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let client = server.client(&recorder).await;
    let heavy = |number: usize| {
        register_with("heavy", &format!("i{number:03}"), 60.0, |instance| instance.metadata = bulk(12_000))
    };
    let registering = (0..COUNT).map(async |number| client.register(heavy(number)).await.unwrap().lease.unwrap().token);
    let lease_tokens: Vec<String> = stream::iter(registering).buffered(16).collect().await;
    let mut watch = client.watch(everything()).await.unwrap();
    let snapshot = whole(&mut watch).await;
    assert!(snapshot.len() > 4, "{} messages", snapshot.len());
    // All go at once: one revision.
    let gone = client.deregister(DeregisterRequest { lease_tokens, ..Default::default() }).await.unwrap();
    assert_eq!(gone.removed, COUNT as u64);
    let revision = whole(&mut watch).await;
    assert!(revision.len() > 4 && revision.iter().all(|part| part.revision == gone.revision));
    assert!(revision.iter().flat_map(|part| &part.events).all(|event| event.cause() == Cause::Deregistered));
    for part in [snapshot, revision].concat() {
        assert!(part.encoded_len() <= 256 * 1024, "a message of {} bytes", part.encoded_len());
    }
    drop(watch);
    recorder.assert_clean();
}

/// Messages up to the one that completes what has begun: 100 instances' worth.
async fn whole(watch: &mut Watched) -> Vec<WatchResponse> {
    let mut parts = vec![next(watch).await];
    while parts.last().unwrap().more {
        assert_eq!(parts.last().unwrap().resume_token, "");
        parts.push(next(watch).await);
    }
    assert_ne!(parts.last().unwrap().resume_token, "");
    assert_eq!(parts.iter().map(|part| part.events.len()).sum::<usize>(), 100);
    parts
}

#[tokio::test]
async fn a_token_that_cannot_be_continued_is_answered_in_band() {
    let server = Server::start(&["--max-log-bytes", "64KiB"]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    client.register(register("web", "a", 60.0)).await.unwrap();
    let mut watch = client.watch(everything()).await.unwrap();
    let old = next(&mut watch).await.resume_token;
    drop(watch);
    // More than the log keeps.
    for number in 0..20 {
        let heavy = register_with("web", &format!("h{number}"), 60.0, |instance| instance.metadata = bulk(8_000));
        client.register(heavy).await.unwrap();
    }
    let others = vec![selector("web", "")];
    let there = client.lookup(lookup("web")).await.unwrap().instances.len();
    for (token, selectors, reason) in [
        (old.clone(), everything().selectors, ResetReason::TooOld),
        (old.clone(), others.clone(), ResetReason::SelectorsChanged),
        ("nonsense".to_owned(), others.clone(), ResetReason::Malformed),
        (format!("{old}A"), everything().selectors, ResetReason::Malformed),
        ("ü".repeat(500), others, ResetReason::Malformed),
    ] {
        let request = WatchRequest { selectors, resume_token: token, ..WatchRequest::default() };
        let mut watch = client.watch(request).await.unwrap();
        let mut parts = vec![next(&mut watch).await];
        while !parts.last().unwrap().snapshot_end {
            parts.push(next(&mut watch).await);
        }
        let reset = parts[0].reset.unwrap();
        assert_eq!(reset.reason(), reason);
        let oldest = server.info().await.oldest_resumable_revision;
        assert_eq!(reset.oldest_revision, if reason == ResetReason::TooOld { oldest } else { 0 });
        let events = parts.iter().flat_map(|part| &part.events);
        assert_eq!(events.filter(|event| event.cause() == Cause::Snapshot).count(), there, "{reason:?}");
        // The same stream goes on.
        let next_one = client.register(register("web", &format!("after-{reason:?}"), 60.0)).await.unwrap();
        let live = next(&mut watch).await;
        assert_eq!((live.revision, live.events.len()), (next_one.revision, 1));
        let lease_token = next_one.lease.unwrap().token;
        client.deregister(DeregisterRequest { lease_token, ..Default::default() }).await.unwrap();
    }
    recorder.assert_clean();
}

#[tokio::test]
async fn nobody_waits_for_a_watcher_that_never_reads() {
    let _alone = alone().await;
    let server = Server::start(&["--max-log-bytes", "256KiB"]).await;
    let recorder = Recorder::new(strict());
    let mut others = Follower::of_everything(&server, &recorder).await;
    let asleep = Recorder::new(Settings { silence: Duration::from_secs(600), ..Settings::default() });
    let sleeper = server.client(&asleep).await;
    let mut slow = sleeper.watch(everything()).await.unwrap();
    assert!(next(&mut slow).await.snapshot_end);
    // It reads no more, while far more goes by than the log and every buffer on the way can hold.
    let client = server.client(&recorder).await;
    let mut slowest = Duration::ZERO;
    for number in 0..300 {
        let heavy = register_with("web", &format!("{}", number % 30), 60.0, |one| one.metadata = bulk(15_000));
        let begun = Instant::now();
        let done = client.register(heavy).await.unwrap();
        others.reach(done.revision).await;
        slowest = slowest.max(begun.elapsed());
    }
    println!("with a watcher that does not read, a registration was seen by others within {slowest:?}");
    assert!(slowest < Duration::from_secs(5));
    let head = client.lookup(lookup("web")).await.unwrap();
    // It wakes up: what was on the way, then a reset and a snapshot on the same stream.
    let mut fold = crate::history::Fold::default();
    let mut reset = None;
    while fold.revision() < head.revision {
        let message = next(&mut slow).await;
        reset = reset.or(message.reset);
        fold.watch(&message);
    }
    assert_eq!(reset.expect("it fell behind").reason(), ResetReason::FellBehind);
    assert!(fold.instances().values().eq(&head.instances), "it holds what is there");
    drop((slow, others));
    recorder.assert_clean();
    asleep.assert_clean();
}

#[tokio::test]
async fn a_quiet_stream_carries_bookmarks() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let client = server.client(&recorder).await;
    let mut quiet = client.watch(everything()).await.unwrap();
    let empty = vec![selector("nobody", "")];
    let mut elsewhere = client.watch(WatchRequest { selectors: empty.clone(), ..Default::default() }).await.unwrap();
    let first = next(&mut quiet).await;
    next(&mut elsewhere).await;
    // Others' changes and renewals send it nothing, and still it moves on.
    let granted = client.register(register("web", "a", 30.0)).await.unwrap();
    let (at, seen) = (Instant::now(), next(&mut quiet).await);
    assert_eq!((seen.revision, seen.events.len()), (granted.revision, 1));
    let token = granted.lease.unwrap().token;
    client.heartbeat(crate::harness::beat([token])).await.unwrap();
    let interval: Duration = server.info().await.intervals.unwrap().bookmark_interval.unwrap().try_into().unwrap();
    assert_eq!(interval, Duration::from_secs(15));
    let told = [&first, &seen].map(|message| message.bookmark_interval.map(|told| told.seconds));
    assert_eq!(told, [Some(15), None], "each stream tells it once");
    let (bookmark, other) = tokio::join!(next(&mut quiet), next(&mut elsewhere));
    println!("a quiet stream spoke after {:?}", at.elapsed());
    assert!(at.elapsed() <= interval + Duration::from_secs(1), "silent for {:?}", at.elapsed());
    for message in [&bookmark, &other] {
        assert_eq!((message.revision, message.events.len()), (granted.revision, 0));
    }
    assert!(bookmark.resume_token != first.resume_token && bookmark.reset.is_none());
    drop((quiet, elsewhere));
    // A bookmark is as good to resume from as an event.
    let last = client.register(register("nobody", "b", 60.0)).await.unwrap();
    for (selectors, resume_token) in [(everything().selectors, bookmark.resume_token), (empty, other.resume_token)] {
        let mut watch =
            client.watch(WatchRequest { selectors, resume_token, ..WatchRequest::default() }).await.unwrap();
        let message = next(&mut watch).await;
        assert_eq!((message.revision, message.events.len(), message.reset), (last.revision, 1, None));
    }
    recorder.assert_clean();
}

#[tokio::test]
async fn read_your_writes_and_typed_emptiness() {
    use onair::proto::{Emptiness, LookupRequest};
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(strict());
    let client = server.client(&recorder).await;
    let emptiness = async |request: LookupRequest| client.lookup(request).await.unwrap().emptiness();
    let of = |service: &str, version: &str| LookupRequest {
        service: service.to_owned(),
        version: version.to_owned(),
        ..LookupRequest::default()
    };
    let elsewhere = LookupRequest { namespace: "elsewhere".into(), ..of("web", "") };
    assert_eq!(emptiness(elsewhere).await, Emptiness::UnknownNamespace);
    assert_eq!(emptiness(of("web", "")).await, Emptiness::UnknownService);
    let request = register_with("web", "a", 60.0, |instance| instance.version = "1.2.0".to_owned());
    let granted = client.register(request).await.unwrap();
    assert_eq!(emptiness(of("web", "^1")).await, Emptiness::Unspecified);
    assert_eq!(emptiness(of("web", "^2")).await, Emptiness::NoMatch);
    // Another connection reads what was just written, and one from the future is told so.
    let reader = server.client(&recorder).await;
    let after = LookupRequest { min_revision: granted.revision, ..of("web", "") };
    assert_eq!(reader.lookup(after).await.unwrap().instances.len(), 1);
    let wait = Some(seconds(0.2));
    let ahead = LookupRequest { min_revision: granted.revision + 1_000, wait, ..of("web", "") };
    assert_eq!(reader.lookup(ahead).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    // One that waits is answered by the change itself.
    let waits = LookupRequest { wait: Some(seconds(30.0)), ..of("web", "^2") };
    let newer = register_with("web", "b", 60.0, |instance| instance.version = "2.0.0".to_owned());
    let (found, _) = tokio::join!(reader.lookup(waits), client.register(newer));
    assert_eq!(found.unwrap().instances[0].id, "b");
    let lease_token = granted.lease.unwrap().token;
    client.deregister(DeregisterRequest { lease_token, ..Default::default() }).await.unwrap();
    let all = DeregisterRequest { service: "web".into(), all: true, ..Default::default() };
    client.deregister(all).await.unwrap();
    assert_eq!(emptiness(of("web", "")).await, Emptiness::AllOffline);
    recorder.assert_clean();
}
