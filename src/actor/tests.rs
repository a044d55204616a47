//! The task under an engine that does what its contract allows, in paused time. Knows no front.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    task::yield_now,
    time::{Instant, advance, timeout},
};

use super::*;
use crate::{
    engine::hostile::{HostileEngine, HostileHandle, Manners},
    laps::Laps,
    registry::{Context, FilterSet, Instance, LeaseToken, Put, Record, Registration, Stamp, Status, Target},
};

/// Longer than anything here takes, in paused time.
const AGES: Duration = Duration::from_secs(600);

fn start(manners: Manners, options: ActorOptions) -> (RegistryHandle, HostileHandle) {
    let (engine, hostile, recovered) = HostileEngine::new(1, manners);
    let (handle, actor) = RegistryHandle::new(engine, recovered, options);
    tokio::spawn(actor.run());
    let marking = handle.clone();
    tokio::spawn(async move { marking.keep_marking(0, &Laps::default()).await });
    (handle, hostile)
}

fn held() -> Manners {
    Manners { delay: crate::engine::hostile::Delay::Held, ..Manners::default() }
}

fn registration(service: &str, port: u32) -> Registration {
    let instance = Instance { service: service.into(), port, ..Instance::default() };
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    Registration::parse(instance, ttl, context).expect("a registration")
}

async fn register(handle: &RegistryHandle, service: &str, port: u32) -> Result<(Record, LeaseToken), Error> {
    match handle.register(registration(service, port), None, anyone(), None).await? {
        Reply::Registered { record, token, .. } => Ok((record, token)),
        Reply::Removed { .. } | Reply::Deployed { .. } | Reply::Kept { .. } | Reply::Drained { .. } => {
            panic!("a registration was answered as a removal")
        }
    }
}

async fn beat(handle: &RegistryHandle, token: LeaseToken) -> BeatOutcome {
    let beat = Beat { token: Some(token), status: Status::Unspecified };
    let reply = timeout(AGES, handle.beat(vec![beat])).await.expect("a beat is answered").expect("the actor runs");
    reply.outcomes[0]
}

/// Lets a mark be sent and heard.
async fn pass() {
    advance(MARK_INTERVAL).await;
    for _ in 0..8 {
        yield_now().await;
    }
}

/// Lets time pass until `hostile` holds so many proposals back.
async fn until_in_flight(hostile: &HostileHandle, proposals: usize) {
    let end = Instant::now() + AGES;
    while hostile.in_flight() != proposals {
        assert!(Instant::now() < end, "{} proposals in flight, not {proposals}", hostile.in_flight());
        pass().await;
    }
}

/// Another node changes the record while our expiry of it is under way: the expiry is refused, the lease runs on, and
/// nobody who beats it waits for ever.
#[tokio::test(start_paused = true)]
async fn an_expiry_that_another_node_overtook_leaves_the_lease_running() {
    let (handle, hostile) = start(Manners::default(), ActorOptions::default());
    let (record, token) = register(&handle, "web", 80).await.expect("registered");
    hostile.behave(held());
    until_in_flight(&hostile, 1).await;
    let mut instance = record.instance();
    (instance.incarnation, instance.revision) = (0, 0);
    instance.set_status(Status::Draining);
    hostile.foreign(vec![Change::Put(Put {
        description: prost::Message::encode_to_vec(&instance).into(),
        lease: record.lease.clone(),
        incarnation: Stamp::At(record.incarnation),
        ordinal: record.ordinal,
        revision: Stamp::Commit,
    })]);
    hostile.behave(Manners::default());
    assert_eq!(beat(&handle, token).await, BeatOutcome::Renewed(1_000));
    // And it can still lapse.
    let end = Instant::now() + AGES;
    while handle.hub().registry().instances() > 0 {
        assert!(Instant::now() < end, "it never lapsed");
        pass().await;
    }
    assert_eq!(beat(&handle, token).await, BeatOutcome::Expired);
}

/// Calls that wait and are broken off leave nobody in the log to be woken.
#[tokio::test(start_paused = true)]
async fn a_lookup_that_is_broken_off_leaves_nothing_behind() {
    let (handle, _hostile) = start(Manners::default(), ActorOptions::default());
    for (wait, min_revision) in [(AGES, 0), (Duration::ZERO, 7)] {
        let query = LookupQuery { wait, min_revision, ..query("", "web", "") };
        let mut lookup = Box::pin(handle.lookup(query));
        assert!(timeout(Duration::from_millis(1), &mut lookup).await.is_err(), "it waits");
        assert_eq!(handle.hub().log().sleepers(), 1);
        drop(lookup);
        assert_eq!(handle.hub().log().sleepers(), 0);
    }
}

/// An actor whose turns the test takes, with a registered lease.
async fn by_hand() -> (RegistryHandle, Actor<HostileEngine>, LeaseToken) {
    let (engine, _hostile, recovered) = HostileEngine::new(1, Manners::default());
    let (handle, mut actor) = RegistryHandle::new(engine, recovered, ActorOptions::default());
    // One that was on its way when the last lease went.
    actor.mark(0, Instant::now());
    advance(Duration::from_secs(60)).await;
    let registering = tokio::spawn({
        let handle = handle.clone();
        async move { register(&handle, "web", 80).await }
    });
    let request = actor.inbox.recv().await.expect("a registration");
    actor.serve_inbox(request);
    actor.engine.propose(std::mem::take(&mut actor.batch));
    let step = actor.engine.next().await.expect("it commits");
    actor.take(step);
    let (_, token) = registering.await.expect("no panic").expect("registered");
    (handle, actor, token)
}

/// Promise 1, for pauses too short to be late: what reached us before a mark was sent counts, and nothing lapses by time
/// that passed after it.
#[tokio::test(start_paused = true)]
async fn a_short_stall_of_the_task_expires_nobody_who_was_in_time() {
    let (handle, mut actor, token) = by_hand().await;
    let marking = handle.clone();
    tokio::spawn(async move { marking.keep_marking(0, &Laps::default()).await });
    let hear = |actor: &mut Actor<HostileEngine>| {
        while let Ok(item) = actor.lane.try_recv() {
            actor.serve_lane(item);
        }
    };
    // 40 ms before its deadline the task stalls for 80 ms. The beat comes in time, behind a mark.
    while actor.clock.now().0 < 960 {
        pass().await;
        hear(&mut actor);
    }
    pass().await;
    let beating = tokio::spawn(async move { beat(&handle, token).await });
    for _ in 0..3 {
        pass().await;
    }
    hear(&mut actor);
    assert_eq!(actor.in_flight.len(), 0, "its expiry was proposed");
    assert_eq!(beating.await.expect("no panic"), BeatOutcome::Renewed(1_000));
}

#[tokio::test(start_paused = true)]
async fn the_first_round_after_a_time_without_leases_is_not_late() {
    let (handle, mut actor, _) = by_hand().await;
    actor.mark(0, Instant::now());
    assert_eq!(handle.metrics().late_rounds.get(), 0);
    assert_eq!(actor.clock.now().0, 0);
}

/// A registration that is folded while a mark is on its way is good for its TTL from the fold, not from the mark.
#[tokio::test(start_paused = true)]
async fn a_mark_sent_before_a_registration_shortens_no_lease() {
    let (_handle, mut actor, _) = by_hand().await;
    actor.mark(0, Instant::now() - Duration::from_millis(80));
    actor.mark(0, Instant::now());
    for _ in 0..9 {
        advance(Duration::from_millis(100)).await;
        actor.mark(0, Instant::now());
    }
    advance(Duration::from_millis(95)).await;
    actor.mark(0, Instant::now());
    assert_eq!(actor.in_flight.len(), 0, "995 ms after it was folded");
    advance(Duration::from_millis(20)).await;
    actor.mark(0, Instant::now());
    assert_eq!(actor.in_flight.len(), 1);
}

/// The store is slow: commands that wait for it count against the inbox, whether they are in flight or behind a latch.
#[tokio::test(start_paused = true)]
async fn commands_beyond_the_inbox_are_refused_while_the_store_is_slow() {
    let options = ActorOptions { max_inbox: 4, ..ActorOptions::default() };
    let (handle, hostile) = start(held(), options);
    let mut waiting = Vec::new();
    for port in [1, 1, 2, 3] {
        let handle = handle.clone();
        waiting.push(tokio::spawn(async move { register(&handle, "web", port).await }));
        pass().await;
    }
    assert_eq!(hostile.in_flight(), 3);
    let refused = timeout(AGES, register(&handle, "web", 4)).await.expect("refused at once");
    assert_eq!(refused.map(|_| ()), Err(Error::Overloaded { maximum: 4 }));
    hostile.behave(Manners::default());
    for registered in waiting {
        registered.await.expect("no panic").expect("registered");
    }
    register(&handle, "web", 4).await.expect("there is room again");
}

fn query(namespace: &str, service: &str, selector: &str) -> LookupQuery {
    LookupQuery {
        filters: FilterSet::new(crate::registry::Filter::new(namespace, service, "", selector)),
        pick: PickKind::All,
        pick_key: String::new(),
        limit: 0,
        page_token: String::new(),
        prefer_zone: String::new(),
        wait: Duration::ZERO,
        min_revision: 0,
        falls_back: false,
        deadline: None,
    }
}

/// A waiting lookup looks at what happened since, however much is there, and misses nothing of it.
#[tokio::test(start_paused = true)]
async fn a_waiting_lookup_looks_only_at_what_happened() {
    let (handle, _hostile) = start(Manners::default(), ActorOptions::default());
    let wanted = query("", "", "id=127.0.0.1:9");
    let matcher = crate::registry::Matcher::new(wanted.filters.clone());
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.lookup(LookupQuery { wait: AGES, ..wanted }).await }
    });
    // More than are read at a time.
    for port in 100..300 {
        register(&handle, "web", port).await.expect("registered");
    }
    let (log, mut seen) = (handle.hub().log(), 0);
    assert!(!sleeper::may_match(log, &matcher, &mut seen));
    assert_eq!(seen, log.bounds().0);
    assert!(!waiting.is_finished());
    let (record, _) = register(&handle, "web", 9).await.expect("registered");
    assert!(sleeper::may_match(log, &matcher, &mut seen) && seen < record.revision);
    let found = timeout(AGES, waiting).await.expect("it is answered").expect("no panic").expect("found");
    assert_eq!(found.records.iter().map(|found| found.revision).collect::<Vec<_>>(), [record.revision]);
}

/// Promise 16, also where a lookup is of more than one service.
#[tokio::test(start_paused = true)]
async fn emptiness_says_why() {
    use WhyEmpty::{AllOffline, NoMatch, UnknownNamespace, UnknownService};
    let (handle, _hostile) = start(Manners::default(), ActorOptions::default());
    let check = async |cases: [(&str, &str, &str, WhyEmpty); 5]| {
        for (namespace, service, selector, why) in cases {
            let found = handle.lookup(query(namespace, service, selector)).await.expect("an answer");
            assert_eq!(found.why_empty, Some(why), "{namespace}/{service} {selector}");
        }
    };
    let nowhere = ("nowhere", "", "", UnknownNamespace);
    let unknown = ("*", "api", "", UnknownService);
    check([nowhere, unknown, ("", "", "", AllOffline), ("*", "", "", AllOffline), ("", "web", "", UnknownService)])
        .await;
    let (_, token) = register(&handle, "web", 80).await.expect("registered");
    let no = "zone=moon";
    check([
        unknown,
        ("", "", no, NoMatch),
        ("*", "", no, NoMatch),
        ("*", "web", no, NoMatch),
        ("", "web", no, NoMatch),
    ])
    .await;
    handle.deregister(Target::Lease(Some(token)), anyone(), None).await.expect("deregistered");
    let all = ("*", "", "status=*", AllOffline);
    check([unknown, all, ("", "", "", AllOffline), ("*", "web", "", AllOffline), ("", "web", "", AllOffline)]).await;
}
