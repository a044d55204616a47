//! Promise 6: when most of a service's instances in a zone fall silent at once, their lapses are held back for a TTL.

use std::{collections::BTreeMap, time::Duration};

use onair::{
    actor::{ActorOptions, BeatOutcome, LookupQuery, PickKind, RegistryHandle},
    engine::hostile::{Delay, Fate, HostileHandle, Manners},
    proto::EventType,
    registry::{Cause, Filter, FilterSet, Instance, LeaseToken, Status, Target},
};
use tokio::time::Instant;

use super::rig::{Rig, Stall, Watching, instance, ms, pass, registration_of, settle, until, within, without_breaker};

const TTL: Duration = Duration::from_secs(1);
/// What a round, a tick and paused time's steps add to a deadline.
const LATE: Duration = Duration::from_millis(60);

/// Registers `ids` of `default/web` in a zone.
async fn crowd(rig: &Rig, zone: &str, ids: &[&str]) -> Vec<LeaseToken> {
    let mut tokens = Vec::new();
    for id in ids {
        let instance = Instance { zone: zone.into(), ..instance("web", id) };
        let registered = rig.try_register(registration_of(instance, TTL, ""), None).await;
        tokens.push(registered.expect("it can be registered").1);
    }
    tokens
}

const SIX: [&str; 6] = ["1", "2", "3", "4", "5", "6"];

/// The status of everything that is there, by id.
fn statuses(rig: &Rig) -> BTreeMap<String, Status> {
    let registry = rig.handle.hub().registry();
    registry.records().map(|(_, record)| (record.names().2.to_owned(), record.status)).collect()
}

fn count(rig: &Rig, status: Status) -> usize {
    statuses(rig).values().filter(|held| **held == status).count()
}

/// Held now, zones, trips, released, gone.
fn figures(rig: &Rig) -> [u64; 5] {
    let metrics = rig.handle.metrics();
    let (held, zones) = (metrics.breaker_held.get() as u64, metrics.breaker_zones.get() as u64);
    [held, zones, metrics.breaker_trips.get(), metrics.breaker_released.get(), metrics.breaker_gone.get()]
}

/// What happens to whom, and when, until `until`: type, cause, id and status.
async fn told(watching: &mut Watching, until: Instant) -> Vec<(Instant, EventType, Cause, String, Status)> {
    let mut all = Vec::new();
    while Instant::now() < until {
        pass(ms(5)).await;
        while let Some(message) = watching.ready().await {
            all.extend(message.events.iter().map(|event| {
                let instance = event.instance.as_ref().expect("every event has its record");
                (Instant::now(), event.r#type(), event.cause(), instance.id.clone(), instance.status())
            }));
        }
    }
    all
}

fn is_about(at: Instant, deadline: Instant) -> bool {
    at >= deadline && at <= deadline + LATE
}

/// Six of one zone fall silent; so do four of another one, and one of three of a third. The six are SUSPECT, routable all
/// the time, and go a TTL after their deadline; the others go in time.
#[tokio::test(start_paused = true)]
async fn most_of_a_zone_is_held_back_for_a_ttl_and_no_other_zone_is() {
    let rig = Rig::new();
    let six = crowd(&rig, "eu", &SIX).await;
    crowd(&rig, "us", &["a", "b", "c", "d"]).await;
    let asia = crowd(&rig, "asia", &["x", "y", "z"]).await;
    let mut watching = rig.watch(super::rig::service("web"), "").await;
    assert_eq!(watching.next().await.events.len(), 13);
    let start = Instant::now();
    let keep = {
        let handle = rig.handle.clone();
        tokio::spawn(async move {
            loop {
                let beats = asia[1..].iter().map(|token| super::rig::plain(*token)).collect();
                handle.beat(beats).await.expect("there is room");
                pass(TTL / 3).await;
            }
        })
    };
    let seen = told(&mut watching, start + TTL * 3).await;
    keep.abort();
    let of = |id: &str| -> Vec<_> { seen.iter().filter(|(.., of, _)| of == id).collect() };
    for id in SIX {
        let [held, gone] = of(id)[..] else { panic!("{:?}", of(id)) };
        assert_eq!((held.1, held.2, held.4), (EventType::Updated, Cause::Unspecified, Status::Suspect));
        assert!(is_about(held.0, start + TTL), "{:?}", held.0 - start);
        assert_eq!((gone.1, gone.2, gone.4), (EventType::Offline, Cause::Expired, Status::Suspect));
        assert!(is_about(gone.0, start + TTL * 2), "{:?}", gone.0 - start);
    }
    for id in ["a", "b", "c", "d", "x"] {
        let [gone] = of(id)[..] else { panic!("{:?}", of(id)) };
        assert_eq!((gone.1, gone.2, gone.4), (EventType::Offline, Cause::Expired, Status::Serving));
        assert!(is_about(gone.0, start + TTL), "{id}: {:?}", gone.0 - start);
    }
    assert_eq!((of("y").len(), of("z").len()), (0, 0));
    assert_eq!(figures(&rig), [0, 0, 1, 0, 6]);
    assert_eq!(rig.beat(six[0]).await, BeatOutcome::Expired);
}

/// In a namespace where it is off, lapses are what they are by themselves; elsewhere it holds them back.
#[tokio::test(start_paused = true)]
async fn off_in_one_namespace_and_on_in_another() {
    let rig = Rig::with(ActorOptions { breaker_off: vec!["batch".into()], ..ActorOptions::default() });
    for namespace in ["batch", "shop"] {
        for id in SIX {
            let instance = Instance { namespace: namespace.into(), ..instance("web", id) };
            rig.try_register(registration_of(instance, TTL, ""), None).await.expect("it can be registered");
        }
    }
    let start = Instant::now();
    pass(TTL + LATE).await;
    let left: Vec<String> = {
        let registry = rig.handle.hub().registry();
        registry.records().map(|(_, record)| record.names().0.to_owned()).collect()
    };
    assert_eq!(left, ["shop"; 6], "after {:?}", start.elapsed());
    assert_eq!((count(&rig, Status::Suspect), figures(&rig)), (6, [6, 1, 1, 0, 0]));
}

/// The promise's numbers, as far as they can be told from outside.
#[tokio::test(start_paused = true)]
async fn five_and_more_than_half() {
    for (silent, others, held) in [(4, 0, 0), (5, 0, 5), (5, 4, 5), (5, 5, 0), (6, 5, 6), (7, 7, 0), (8, 7, 8)] {
        let rig = Rig::new();
        let ids: Vec<String> = (0..silent + others).map(|number| number.to_string()).collect();
        let tokens = crowd(&rig, "", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        for _ in 0..4 {
            pass(ms(300)).await;
            if others > 0 {
                rig.beats(&tokens[silent..]).await;
            }
        }
        assert_eq!(count(&rig, Status::Suspect), held, "{silent} silent, {others} not");
        assert_eq!(rig.instances() as usize, others + held, "{silent} silent, {others} not");
    }
}

/// A beat of any kind ends SUSPECT, for good and at once; a lease that it gave is an ordinary one again.
#[tokio::test(start_paused = true)]
async fn a_beat_ends_it() {
    let rig = Rig::new();
    let tokens = crowd(&rig, "eu", &SIX).await;
    let mut watching = rig.watch_all_from(6).await;
    until(|| count(&rig, Status::Suspect) == 6).await;
    let (mut seen, mut tripped) = (0, 0);
    while seen < 6 {
        let message = watching.next().await;
        (seen, tripped) = (seen + message.events.len(), message.revision);
    }
    // One message for three, which tells their revision; then one that says a status, and one that registers.
    let reply = rig.beats(&tokens[..3]).await;
    assert_eq!(reply.outcomes, [BeatOutcome::Renewed(1_000); 3]);
    let shown = statuses(&rig);
    assert!(SIX[..3].iter().all(|id| shown[*id] == Status::Serving), "{shown:?}");
    assert!(reply.revision > tripped && reply.revision == rig.revision());
    let revision = rig.revision();
    assert_eq!(rig.beats(&tokens[..3]).await.outcomes, [BeatOutcome::Renewed(1_000); 3]);
    assert_eq!(rig.revision(), revision, "there is nothing more to end");
    assert_eq!(rig.say(tokens[3], Status::Draining).await, BeatOutcome::Renewed(1_000));
    let again = Instance { zone: "eu".into(), ..instance("web", "5") };
    let (record, _) = rig.try_register(registration_of(again, TTL, ""), Some(tokens[4])).await.expect("an update");
    assert_eq!((record.status, record.incarnation), (Status::Serving, tokens[4].lease.revision));
    let shown = statuses(&rig);
    assert_eq!((shown["4"], shown["5"], shown["6"]), (Status::Draining, Status::Serving, Status::Suspect));
    assert_eq!(figures(&rig), [1, 1, 1, 5, 0]);
    let heard = Instant::now();
    until(|| rig.instances() < 6).await;
    assert_eq!(figures(&rig), [0, 0, 1, 5, 1]);
    // Who was heard of has a TTL from then, and can be held back anew.
    until(|| count(&rig, Status::Suspect) > 0).await;
    assert!(is_about(Instant::now(), heard + TTL), "{:?}", heard.elapsed());
    until(|| rig.instances() == 0).await;
    assert!(is_about(Instant::now(), heard + TTL * 2), "{:?}", heard.elapsed());
    assert_eq!(figures(&rig), [0, 0, 2, 5, 5]);
}

/// A registration repeated after a lost answer, a new one, and a deregistration.
#[tokio::test(start_paused = true)]
async fn other_calls_end_it_too() {
    let rig = Rig::new();
    let described = || Instance { zone: "eu".into(), ..instance("web", "1") };
    let first = rig.try_register(registration_of(described(), TTL, "again"), None).await.expect("registered");
    let tokens = crowd(&rig, "eu", &SIX[1..]).await;
    until(|| count(&rig, Status::Suspect) == 6).await;
    let again = rig.try_register(registration_of(described(), TTL, "again"), None).await.expect("repeated");
    assert_eq!((again.0.status, again.0.incarnation), (Status::Serving, first.0.incarnation));
    assert!(again.0.revision > first.0.revision, "watchers are told");
    assert_eq!(rig.beat(again.1).await, BeatOutcome::Renewed(1_000));
    let new = crowd(&rig, "eu", &["2"]).await;
    assert_eq!(rig.beat(tokens[0]).await, BeatOutcome::Superseded);
    assert_eq!(rig.beat(new[0]).await, BeatOutcome::Renewed(1_000));
    assert_eq!(rig.deregister(Target::Lease(Some(tokens[1]))).await.map(|(removed, _)| removed), Ok(1));
    assert_eq!(count(&rig, Status::Suspect), 3);
    assert_eq!(figures(&rig), [3, 1, 1, 1, 0]);
}

/// The end of SUSPECT is a change: while it waits for the store, the beat waits with it, and however long that takes the
/// lease does not lapse.
#[tokio::test(start_paused = true)]
async fn its_end_is_answered_when_it_is_durable() {
    let (rig, hostile) = Rig::hostile(Manners::default());
    let tokens = crowd(&rig, "eu", &SIX).await;
    until(|| count(&rig, Status::Suspect) == 6).await;
    hostile.behave(held());
    let beat = |token| {
        let handle = rig.handle.clone();
        tokio::spawn(
            async move { handle.beat(vec![super::rig::plain(token)]).await.expect("there is room").outcomes[0] },
        )
    };
    // The second comes when the token is known to be good, and may not overtake.
    let (first, second) = (beat(tokens[0]), {
        settle().await;
        beat(tokens[0])
    });
    pass(TTL * 5).await;
    assert!(!first.is_finished() && !second.is_finished());
    assert_eq!(count(&rig, Status::Suspect), 6, "what is not stored is not seen, and nobody goes meanwhile");
    hostile.behave(Manners::default());
    for beat in [first, second] {
        assert_eq!(within(beat).await.expect("it is answered"), BeatOutcome::Renewed(1_000));
    }
    assert_eq!(statuses(&rig)["1"], Status::Serving);
    until(|| rig.instances() == 1).await;
    assert_eq!(rig.beat(tokens[0]).await, BeatOutcome::Renewed(1_000));
}

/// A beat that comes while the lapse is being stored ends what comes of it.
#[tokio::test(start_paused = true)]
async fn a_beat_that_waits_for_the_store_ends_it_at_once() {
    let (rig, hostile) = Rig::hostile(Manners::default());
    let tokens = crowd(&rig, "eu", &SIX).await;
    hostile.behave(held());
    until(|| hostile.in_flight() == 1).await;
    let handle = rig.handle.clone();
    let waiting = tokio::spawn(async move { handle.beat(vec![super::rig::plain(tokens[0])]).await });
    settle().await;
    assert!(!waiting.is_finished());
    hostile.behave(Manners::default());
    let reply = within(waiting).await.expect("it is answered").expect("there is room");
    assert_eq!(reply.outcomes, [BeatOutcome::Renewed(1_000)]);
    assert_eq!(statuses(&rig)["1"], Status::Serving);
    until(|| count(&rig, Status::Suspect) == 5).await;
    assert_eq!(statuses(&rig)["1"], Status::Serving);
}

fn held() -> Manners {
    Manners { delay: Delay::Held, ..Manners::default() }
}

/// The store goes away with the end of SUSPECT in flight: the client is told to try again, and that heals it.
#[tokio::test(start_paused = true)]
async fn a_store_that_goes_away_ends_nothing() {
    for fate in [Fate::Committed, Fate::Dropped] {
        let (rig, hostile) = Rig::hostile(Manners::default());
        let tokens = crowd(&rig, "eu", &SIX).await;
        until(|| count(&rig, Status::Suspect) == 6).await;
        hostile.behave(held());
        let (handle, token) = (rig.handle.clone(), tokens[0]);
        let waiting = tokio::spawn(async move { handle.beat(vec![super::rig::plain(token)]).await });
        until(|| hostile.in_flight() == 1).await;
        hostile.away("no space", fate);
        let reply = within(waiting).await.expect("it is answered").expect("there is room");
        assert_eq!(reply.outcomes, [BeatOutcome::TryAgain]);
        hostile.behave(Manners::default());
        hostile.back();
        settle().await;
        assert_eq!(rig.beat(tokens[0]).await, BeatOutcome::Renewed(1_000));
        assert_eq!((count(&rig, Status::Suspect), count(&rig, Status::Serving)), (5, 1), "{fate:?}");
        assert_eq!(figures(&rig)[..2], [5, 1]);
        // The others have full grace, and go.
        let back = Instant::now();
        until(|| rig.instances() <= 1).await;
        assert!(is_about(Instant::now(), back + Duration::from_secs(30)), "{:?}", back.elapsed());
    }
}

/// Nobody sends traffic to what is starting or draining: it goes in its time, and counts as silent before.
#[tokio::test(start_paused = true)]
async fn what_takes_no_traffic_is_not_held_back() {
    let rig = Rig::new();
    let tokens = crowd(&rig, "eu", &SIX).await;
    assert_eq!(rig.say(tokens[0], Status::Draining).await, BeatOutcome::Renewed(1_000));
    assert_eq!(rig.say(tokens[1], Status::Starting).await, BeatOutcome::Renewed(1_000));
    until(|| rig.instances() < 6).await;
    assert_eq!((rig.instances(), count(&rig, Status::Suspect)), (4, 4));
}

/// Who leaves is not silent: six of twelve deregister, and the lapse of one of the others is what it is.
#[tokio::test(start_paused = true)]
async fn deregistration_never_counts() {
    let rig = Rig::new();
    let ids: Vec<String> = (0..12).map(|number| number.to_string()).collect();
    let tokens = crowd(&rig, "eu", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    pass(ms(900)).await;
    rig.beats(&tokens[7..]).await;
    let removed = rig.deregister(Target::Leases(tokens[..6].to_vec())).await.expect("they are there").0;
    assert_eq!((removed, rig.instances()), (6, 6));
    until(|| rig.instances() < 6).await;
    assert_eq!((rig.instances(), count(&rig, Status::Suspect)), (5, 0));
    assert_eq!(figures(&rig), [0; 5]);
}

/// The next life of a registry that held the six of a crowd back.
async fn next_life(options: ActorOptions) -> (Rig, Stall, Vec<LeaseToken>, HostileHandle) {
    let (first, hostile) = Rig::hostile(Manners::default());
    let tokens = crowd(&first, "eu", &SIX).await;
    until(|| count(&first, Status::Suspect) == 6).await;
    first.actor.abort();
    let (engine, kept) = hostile.restart(Fate::Dropped);
    let (handle, actor) = RegistryHandle::new(engine, kept, options);
    let port = Stall::default();
    port.begin();
    (Rig::over(handle, actor, std::slice::from_ref(&port)), port, tokens, hostile)
}

/// After a restart it has the grace that every lease has, then it goes: it was held back once, and the grace is as long as
/// what was left of that. Whether this life holds lapses back makes no difference to those.
#[tokio::test(start_paused = true)]
async fn a_restart_gives_them_their_grace_and_no_more() {
    for options in [ActorOptions::default(), without_breaker()] {
        let (rig, port, tokens, _hostile) = next_life(options).await;
        assert_eq!(figures(&rig), [6, 1, 0, 0, 0]);
        let mut watching = rig.watch(super::rig::service("web"), "").await;
        let shown = watching.next().await.events;
        assert!(shown.iter().all(|event| event.instance.as_ref().is_some_and(|one| one.status() == Status::Suspect)));
        pass(Duration::from_secs(300)).await;
        port.end();
        let start = Instant::now();
        pass(ms(5_000)).await;
        assert_eq!(rig.beat(tokens[0]).await, BeatOutcome::Renewed(1_000));
        assert_eq!((count(&rig, Status::Suspect), count(&rig, Status::Serving)), (5, 1));
        let seen = told(&mut watching, start + Duration::from_secs(40)).await;
        let gone: Vec<_> = seen.iter().filter(|event| event.1 == EventType::Offline).collect();
        assert_eq!(gone.len(), 6);
        assert_eq!(gone[0].3, "1", "it went a TTL after its beat");
        assert!(
            gone[1..]
                .iter()
                .all(|event| event.2 == Cause::Expired && is_about(event.0, start + Duration::from_secs(30)))
        );
        assert_eq!(figures(&rig)[..3], [0, 0, 0]);
    }
}

/// How many of these events each revision has, until there were so many in all.
async fn by_revision(watching: &mut Watching, events: usize, kind: EventType) -> Vec<usize> {
    let mut revisions = BTreeMap::<u64, usize>::new();
    while revisions.values().sum::<usize>() < events {
        let message = watching.next().await;
        assert!(message.events.iter().all(|event| event.r#type() == kind));
        *revisions.entry(message.revision).or_default() += message.events.len();
    }
    revisions.into_values().filter(|events| *events > 0).collect()
}

/// Very many are held back, and go, in slices of at most 1,000 a revision.
#[tokio::test(start_paused = true)]
async fn very_many_go_in_slices_both_times() {
    let rig = Rig::new();
    let ids: Vec<String> = (0..5_500).map(|number| number.to_string()).collect();
    crowd(&rig, "eu", &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut watching = rig.watch_all_from(5_500).await;
    for kind in [EventType::Updated, EventType::Offline] {
        let revisions = by_revision(&mut watching, 5_500, kind).await;
        assert!(revisions.len() <= 7 && revisions.iter().all(|events| *events <= 1_000), "{revisions:?}");
    }
    assert_eq!(figures(&rig), [0, 0, 1, 0, 5_500]);
}

/// Large records do not make a revision larger than others are.
#[tokio::test(start_paused = true)]
async fn a_slice_of_large_records_is_cut_by_bytes() {
    let rig = Rig::new();
    let text = prost_types::value::Kind::StringValue("x".repeat(15_000));
    for number in 0..100 {
        let metadata = Some(prost_types::Value { kind: Some(text.clone()) });
        let instance = Instance { metadata, ..instance("web", &number.to_string()) };
        rig.try_register(registration_of(instance, TTL, ""), None).await.expect("registered");
    }
    let mut watching = rig.watch_all_from(100).await;
    let revisions = by_revision(&mut watching, 100, EventType::Updated).await;
    assert!(revisions.iter().all(|events| *events <= 36), "512 KiB and one: {revisions:?}");
}

/// All picks take them last, whatever is asked for, and lookups of all show them with their status.
#[tokio::test(start_paused = true)]
async fn they_are_picked_last() {
    let rig = Rig::new();
    crowd(&rig, "eu", &SIX).await;
    let alive = crowd(&rig, "us", &["a", "b", "c"]).await;
    for _ in 0..4 {
        pass(ms(300)).await;
        rig.beats(&alive).await;
    }
    assert_eq!(count(&rig, Status::Suspect), 6);
    let query = |pick, limit, prefer_zone: &str| LookupQuery {
        filters: FilterSet::new(Filter::new("", "web", "", "")),
        pick,
        pick_key: "key".to_owned(),
        limit,
        page_token: String::new(),
        prefer_zone: prefer_zone.to_owned(),
        wait: Duration::ZERO,
        min_revision: 0,
        falls_back: false,
        deadline: None,
    };
    for pick in [PickKind::Random, PickKind::RoundRobin, PickKind::Weighted, PickKind::Rendezvous] {
        for (limit, zone) in [(1, ""), (1, "eu"), (3, ""), (3, "eu"), (5, ""), (9, "eu")] {
            let found = rig.handle.lookup(query(pick, limit, zone)).await.expect("an answer").records;
            let suspect: Vec<bool> = found.iter().map(|record| record.status == Status::Suspect).collect();
            let expected: Vec<bool> = (0..limit).map(|place| place >= 3).collect();
            assert_eq!(suspect, expected, "{pick:?} {limit} {zone}");
        }
    }
    let all = rig.handle.lookup(query(PickKind::All, 0, "")).await.expect("an answer").records;
    assert_eq!(all.len(), 9, "they are routable");
    let serving = FilterSet::new(Filter::new("", "web", "", "status=suspect"));
    let suspects = rig.handle.lookup(LookupQuery { filters: serving, ..query(PickKind::All, 0, "") }).await;
    assert_eq!(suspects.expect("an answer").records.len(), 6);
}
