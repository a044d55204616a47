//! Promises 7 to 9 and 11 to 13: what a watch is told, when, and how it ends.

use std::{future::poll_fn, time::Duration};

use onair::{
    actor::{ActorOptions, BeatOutcome},
    engine::hostile::{Delay, Fate, Manners},
    proto::{ResetReason, WatchResponse},
    registry::{Cause, Error, EventType, Filter, FilterSet, Instance, Target},
    watch::{Ending, HubOptions, ResumeToken, Subscriptions},
};
use prost::Message as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    history::Fold,
    rig::{Rig, Watching, all, instance, ms, pass, registration, registration_of, service, settle, told, within},
};

const LONG: Duration = Duration::from_secs(3_600);

fn small_log() -> ActorOptions {
    let hub = HubOptions { max_log_bytes: 20_000, ..HubOptions::default() };
    ActorOptions { hub, ..ActorOptions::default() }
}

/// What a lookup of everything finds, as `id` and revision.
fn found(rig: &Rig) -> Vec<(String, u64)> {
    let registry = rig.handle.hub().registry();
    let mut found: Vec<_> = registry.records().map(|(_, held)| (held.key().to_string(), held.revision)).collect();
    found.sort();
    found
}

fn folded(fold: &Fold) -> Vec<(String, u64)> {
    let mut held: Vec<_> = fold.instances().iter().map(|(key, one)| (key.to_string(), one.revision)).collect();
    held.sort();
    held
}

/// Reads all there is by now into `fold`; whatever the order, no revision comes twice.
async fn read(watching: &mut Watching, fold: &mut Fold) -> Vec<WatchResponse> {
    let mut messages: Vec<WatchResponse> = Vec::new();
    while let Some(message) = watching.ready().await {
        let last = messages.last().filter(|last| !last.events.is_empty() && !last.more && message.reset.is_none());
        assert!(last.is_none_or(|last| last.revision < message.revision || message.events.is_empty()));
        fold.watch(&message);
        messages.push(message);
    }
    messages
}

/// Promise 7: watches that begin at any moment, while others register and go on a slow store, have what a lookup has.
#[tokio::test(start_paused = true)]
async fn a_snapshot_joins_what_follows() {
    let manners = Manners { delay: Delay::Time(ms(30)), reorder: true, group: 4, skip: 2, ..Manners::default() };
    let (rig, _) = Rig::hostile(manners);
    let mut watches = Vec::new();
    for turn in 0..120_u64 {
        let handle = rig.handle.clone();
        tokio::spawn(async move {
            let id = (turn * 7 % 40).to_string();
            if turn % 3 == 2 {
                let key = onair::registry::Key::new("default", "web", id);
                let _ = handle.deregister(Target::Key(key), onair::actor::anyone(), None).await;
            } else {
                let wanted = registration("web", &id, LONG);
                let _ = handle.register(wanted, None, onair::actor::anyone(), None).await;
            }
        });
        if turn % 2 == 0 {
            let filters = if turn % 4 == 0 { all() } else { service("web") };
            watches.push((rig.watch(filters, "").await, Fold::new()));
        }
        pass(ms(turn % 11)).await;
        for (watching, fold) in watches.iter_mut().step_by(3) {
            read(watching, fold).await;
        }
    }
    pass(Duration::from_secs(5)).await;
    for (watching, fold) in &mut watches {
        read(watching, fold).await;
        assert_eq!(folded(fold), found(&rig));
    }
}

/// Promise 7: something is said at once, even if there is nothing to say.
#[tokio::test(start_paused = true)]
async fn the_first_message_comes_at_once() {
    let rig = Rig::new();
    let start = Instant::now();
    let mut empty = rig.watch(service("nothing"), "").await;
    let first = empty.next().await;
    assert!(first.snapshot_end && first.events.is_empty() && !first.resume_token.is_empty());
    rig.register("web", "1", LONG).await;
    let mut resumed = rig.watch(service("nothing"), &first.resume_token).await;
    let first = resumed.next().await;
    assert!(!first.snapshot_end && first.reset.is_none() && first.events.is_empty());
    assert_eq!(first.revision, rig.revision(), "it says how far it is");
    let mut one = rig.watch(service("web"), "").await;
    let first = one.next().await;
    assert!(first.snapshot_end);
    assert_eq!(told(&first), [(EventType::Online, Cause::Snapshot, "1".into())]);
    assert_eq!(Instant::now(), start);
}

/// Promise 8: nothing is larger than 256 KiB, all but the last part say `more`, and only the last can be continued from.
#[tokio::test(start_paused = true)]
async fn what_is_large_comes_in_parts() {
    let rig = Rig::new();
    let mut live = rig.watch_all().await;
    for number in 0..200 {
        let text = prost_types::value::Kind::StringValue("x".repeat(10_000));
        let metadata = Some(prost_types::Value { kind: Some(text) });
        let instance = Instance { metadata, ..instance("web", &format!("{number:03}")) };
        rig.try_register(registration_of(instance, LONG, ""), None).await.expect("it is registered");
        live.events().await;
    }
    let mut snapshot = rig.watch(service("web"), "").await;
    let removed = rig.deregister(Target::Service { namespace: "default".into(), service: "web".into() }).await;
    assert_eq!(removed.map(|(removed, _)| removed), Ok(200));
    for (watching, is_snapshot) in [(&mut snapshot, true), (&mut live, false)] {
        let (mut ids, mut parts) = (Vec::new(), 0);
        loop {
            let message = watching.next().await;
            parts += 1;
            assert!(message.encoded_len() <= 256 * 1024, "{} bytes", message.encoded_len());
            assert_eq!(message.resume_token.is_empty(), message.more);
            ids.extend(told(&message).into_iter().map(|(.., id)| id));
            assert_eq!(message.snapshot_end, is_snapshot && !message.more);
            if !message.more {
                break;
            }
        }
        assert!(parts >= 8 && ids.len() == 200 && ids.is_sorted(), "{} in {parts} parts", ids.len());
    }
}

/// Bytes of metadata of each of a hundred instances.
const METADATA: usize = 5_000;

/// A hundred instances that are more than two messages.
async fn many(rig: &Rig) {
    for number in 0..100 {
        let text = prost_types::value::Kind::StringValue("x".repeat(METADATA));
        let metadata = Some(prost_types::Value { kind: Some(text) });
        let instance = Instance { metadata, ..instance("web", &format!("{number:03}")) };
        rig.try_register(registration_of(instance, LONG, ""), None).await.expect("it is registered");
    }
}

/// The more of snapshots waits for its readers, the less of the next does, whenever they come: a thousand take no more than
/// some hundred.
#[tokio::test(start_paused = true)]
async fn the_parts_of_many_snapshots_are_small() {
    const READERS: usize = 1_000;
    let rig = Rig::new();
    many(&rig).await;
    let (mut readers, mut waiting, mut seen) = (Vec::new(), 0, 0);
    for _ in 0..READERS {
        let mut reader = rig.watch(service("web"), "").await;
        let first = reader.next().await;
        (waiting, seen) = (waiting + first.encoded_len(), first.events.len());
        readers.push(reader);
    }
    // A part ends with the record that is beyond its size.
    assert!(waiting <= (64 << 20) + READERS * 2 * METADATA, "{waiting} bytes");
    let mut last = readers.pop().expect("there are many");
    while seen < 100 {
        seen += last.next().await.events.len();
    }
    assert_eq!(seen, 100);
    // What was taken, and what nobody takes any more, does not wait.
    drop(readers);
    assert!(rig.watch(service("web"), "").await.next().await.encoded_len() > 128 * 1024);
}

/// Snapshots of which nothing waits yet make nobody's parts small: one stream may have thousands of them.
#[tokio::test(start_paused = true)]
async fn who_does_not_read_leaves_others_their_parts() {
    let rig = Rig::new();
    many(&rig).await;
    let mut stream = Subscriptions::new(rig.handle.hub(), 2_000);
    for id in 0..2_000 {
        stream.add(&id.to_string(), service("web"), "").expect("there is room");
    }
    poll_fn(|turn| stream.poll_next(turn)).await.expect("its first message");
    assert!(rig.watch(service("web"), "").await.next().await.encoded_len() > 128 * 1024);
}

/// Promise 9: whoever continues from any message's token gets exactly what came after it, here and in the next life.
#[tokio::test(start_paused = true)]
async fn a_watch_continues_from_any_token() {
    let (rig, hostile) = Rig::hostile(Manners { skip: 2, ..Manners::default() });
    let mut watching = rig.watch(service("web"), "").await;
    let (mut messages, mut fold) = (Vec::new(), Fold::new());
    for turn in 0..40_u64 {
        let (_, token) = rig.register(["web", "api"][turn as usize % 2], &(turn % 6).to_string(), LONG).await;
        if turn % 5 == 0 {
            rig.deregister(Target::Lease(Some(token))).await.expect("it goes");
        }
        messages.extend(read(&mut watching, &mut fold).await);
    }
    let seen: Vec<_> = messages.iter().flat_map(told).collect();
    let after = |place: usize| messages[..=place].iter().map(|message| message.events.len()).sum::<usize>();
    rig.actor.abort();
    let (engine, kept) = hostile.restart(Fate::Dropped);
    let next = Rig::start(engine, kept, ActorOptions::default());
    for life in [&rig, &next] {
        for (place, message) in messages.iter().enumerate() {
            // A watch of its own: the first life's actor takes no more requests.
            let hub = life.handle.hub();
            let stream =
                onair::watch::WatchStream::start(hub, service("web"), &message.resume_token, &onair::actor::anyone());
            let mut resumed = Watching(stream.expect("there is room"));
            let again = read(&mut resumed, &mut Fold::new()).await;
            assert!(again.iter().all(|message| message.reset.is_none() && !message.snapshot_end));
            let again: Vec<_> = again.iter().flat_map(told).collect();
            assert_eq!(again, seen[after(place)..], "after message {place}");
        }
    }
    // And it goes on from there.
    let last = &messages.last().expect("there were some").resume_token;
    let mut resumed = next.watch(service("web"), last).await;
    assert!(resumed.next().await.events.is_empty());
    next.register("web", "after", LONG).await;
    let (events, _) = resumed.events().await;
    assert_eq!(events, [(EventType::Online, Cause::Registered, "after".into())]);
}

/// Promise 9: a token that cannot be continued is answered by a reset that says why, and a snapshot on the same stream.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_continued_begins_anew() {
    let rig = Rig::with(small_log());
    let mut watching = rig.watch(service("web"), "").await;
    let old = watching.next().await.resume_token;
    let mut last = String::new();
    for number in 0..100 {
        rig.register("web", &(number % 7).to_string(), LONG).await;
        last = watching.next().await.resume_token;
    }
    let good = ResumeToken::decode(&last).expect("it is one");
    let table = [
        (old, ResetReason::TooOld),
        (ResumeToken { registry: Uuid::nil(), ..good }.encode(), ResetReason::AnotherRegistry),
        (ResumeToken { epoch: good.epoch + 1, ..good }.encode(), ResetReason::AnotherEpoch),
        (ResumeToken { revision: good.revision + 1, ..good }.encode(), ResetReason::AnotherEpoch),
        (ResumeToken { fingerprint: good.fingerprint ^ 1, ..good }.encode(), ResetReason::SelectorsChanged),
        ("garbage".into(), ResetReason::Malformed),
        (last[..last.len() - 1].into(), ResetReason::Malformed),
        ("é".repeat(10), ResetReason::Malformed),
    ];
    for (token, reason) in table {
        let mut watching = rig.watch(service("web"), &token).await;
        let first = watching.next().await;
        let reset = first.reset.as_ref().expect("a reset");
        assert_eq!(reset.reason(), reason, "{token}");
        assert!(first.snapshot_end && first.events.len() == 7);
        let oldest = rig.handle.hub().log().bounds().1;
        assert_eq!(reset.oldest_revision, if reason == ResetReason::TooOld { oldest } else { 0 });
        assert!(watching.ready().await.is_none_or(|message| message.events.is_empty()));
    }
    // Other selectors are others only if they mean something else.
    let web = || Filter::new("default", "web", "", "").expect("a filter");
    let mut same = rig.watch(FilterSet::new([web(), web()]), &last).await;
    assert_eq!(same.next().await.reset, None);
}

/// Promise 11: a quiet stream says how far it is, at least every 15 s, whatever happens elsewhere; renewals say nothing.
#[tokio::test(start_paused = true)]
async fn a_quiet_watch_has_bookmarks() {
    let rig = Rig::new();
    let (_, token) = rig.register("api", "1", ms(3_000)).await;
    let mut quiet = rig.watch(service("web"), "").await;
    quiet.next().await;
    let (mut last, end) = (Instant::now(), Instant::now() + Duration::from_secs(300));
    let mut bookmarks = Vec::new();
    while Instant::now() < end {
        assert_eq!(rig.beat(token).await, BeatOutcome::Renewed(3_000));
        pass(ms(900)).await;
        if bookmarks.len() == 5 {
            rig.register("api", "2", LONG).await;
        }
        if let Some(message) = quiet.ready().await {
            assert!(message.events.is_empty() && !message.more && !message.snapshot_end);
            assert!(last.elapsed() <= Duration::from_secs(15), "silent for {:?}", last.elapsed());
            assert_eq!(message.revision, rig.revision());
            bookmarks.push(message.resume_token);
            last = Instant::now();
        }
    }
    assert!((20..60).contains(&bookmarks.len()), "{} bookmarks in five minutes", bookmarks.len());
    let revision = |token: &String| ResumeToken::decode(token).expect("it is one").revision;
    assert!(bookmarks.is_sorted_by_key(revision));
    assert_eq!(bookmarks.last().map(revision), Some(rig.revision()), "it can be continued from the last");
}

/// Promise 12: who does not read costs the others nothing, and is told that it fell behind.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_slow_watcher() {
    let rig = Rig::with(small_log());
    let (mut reading, mut fold) = (rig.watch(all(), "").await, Fold::new());
    let mut asleep = rig.watch(all(), "").await;
    let (mut slow, mut slow_fold) = (rig.watch(all(), "").await, Fold::new());
    assert!(asleep.next().await.snapshot_end);
    let start = Instant::now();
    for number in 0..500 {
        let (_, token) = rig.register("web", &(number % 10).to_string(), LONG).await;
        if number % 50 == 49 {
            rig.deregister(Target::Lease(Some(token))).await.expect("it goes");
        }
        let got = read(&mut reading, &mut fold).await;
        assert!(got.iter().all(|message| message.reset.is_none()), "it keeps up");
        if number % 100 == 0 {
            slow_fold.watch(&slow.next().await);
        }
    }
    assert_eq!(Instant::now(), start);
    assert!(rig.handle.hub().log().bytes() <= 20_000);
    let oldest = rig.handle.hub().log().bounds().1;
    assert!(oldest > 300, "most is forgotten");
    let first = asleep.next().await;
    let reset = first.reset.as_ref().expect("a reset");
    assert_eq!((reset.reason(), reset.oldest_revision), (ResetReason::FellBehind, oldest));
    assert!(first.snapshot_end && first.revision == rig.revision());
    let mut anew = Fold::new();
    anew.watch(&first);
    read(&mut slow, &mut slow_fold).await;
    for fold in [&anew, &fold, &slow_fold] {
        assert_eq!(folded(fold), found(&rig));
    }
}

/// Promise 13: at the end each watch has all there is, a token to continue with, and a reason.
#[tokio::test(start_paused = true)]
async fn every_watch_ends_with_a_token() {
    let (rig, hostile) = Rig::hostile(Manners::default());
    let mut read_up = rig.watch_all().await;
    let mut unread = rig.watch(all(), "").await;
    rig.register("web", "1", LONG).await;
    read_up.events().await;
    let handle = rig.handle.clone();
    let waiting = tokio::spawn(async move { handle.watch(all(), String::new(), onair::actor::anyone()).await });
    settle().await;
    rig.handle.hub().close();
    let (messages, ending) = read_up.end().await;
    assert_eq!(ending, Ending::ShuttingDown);
    let last = messages.last().expect("a last bookmark");
    assert!(last.events.is_empty() && last.revision == rig.revision());
    let mut tokens = vec![last.resume_token.clone()];
    let (messages, ending) = unread.end().await;
    assert_eq!(ending, Ending::ShuttingDown);
    if let Some(last) = messages.last() {
        tokens.push(last.resume_token.clone());
    }
    let (_, ending) = Watching(within(waiting).await.expect("no panic").expect("it was in time")).end().await;
    assert_eq!(ending, Ending::ShuttingDown);
    let late = within(rig.handle.watch(all(), String::new(), onair::actor::anyone())).await;
    assert_eq!(late.map(|_| ()).unwrap_err(), Error::ShuttingDown);
    // What is still done in this life is not lost to those who continue in the next.
    rig.register("web", "2", LONG).await;
    within(rig.handle.stop()).await;
    let (engine, kept) = hostile.restart(Fate::Dropped);
    let next = Rig::start(engine, kept, ActorOptions::default());
    for token in tokens.into_iter().filter(|token| !token.is_empty()) {
        let mut resumed = next.watch(all(), &token).await;
        let (events, _) = resumed.events().await;
        assert_eq!(events.last(), Some(&(EventType::Online, Cause::Registered, "2".into())));
    }
}

/// Promise 17, of watches: there is a limit, it is named, and who leaves makes room.
#[tokio::test(start_paused = true)]
async fn watches_have_a_limit() {
    let hub = HubOptions { max_watches: 3, ..HubOptions::default() };
    let rig = Rig::with(ActorOptions { hub, ..ActorOptions::default() });
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(rig.watch(all(), "").await);
    }
    for _ in 0..3 {
        let refused =
            within(rig.handle.watch(all(), String::new(), onair::actor::anyone())).await.map(|_| ()).unwrap_err();
        assert_eq!(refused, Error::Limit { limit: "max_watches", maximum: 3, usage: 3 });
    }
    watches.pop();
    watches.push(rig.watch(all(), "").await);
    assert_eq!(rig.handle.hub().watches(), 3);
}
