//! Waiting callers under an engine that does what its contract allows, in paused time. Knows no front.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, timeout},
};

use super::WAITING_MAX;
use crate::{
    actor::{ActorOptions, RegistryHandle, Reply, ResolveQuery, anyone},
    engine::{
        hostile::{Delay, Fate, HostileEngine, HostileHandle, Manners},
        memory::MemoryEngine,
    },
    registry::{
        Cause, Change, Context, Delete, Error, IfMissing, Instance, Key, LeaseToken, Needs, Registration, Target,
    },
};

/// Longer than anything here takes, in paused time.
const AGES: Duration = Duration::from_secs(600);
const WAIT: Duration = Duration::from_secs(30);

fn start(manners: Manners) -> (RegistryHandle, HostileHandle) {
    let (engine, hostile, recovered) = HostileEngine::new(1, manners);
    let (handle, actor) = RegistryHandle::new(engine, recovered, ActorOptions::default());
    tokio::spawn(actor.run());
    (handle, hostile)
}

fn needs(names: &[&str], if_missing: IfMissing) -> Needs {
    let dependencies: BTreeMap<String, String> = names.iter().map(|name| ((*name).to_owned(), String::new())).collect();
    let needs = Needs::parse("", &dependencies, &BTreeMap::new(), if_missing).expect("needs");
    Needs { wait: WAIT, ..needs }
}

fn registration(service: &str, port: u32, names: &[&str], if_missing: IfMissing) -> Registration {
    let instance = Instance { service: service.into(), port, ..Instance::default() };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let registration = Registration::parse(instance, None, context).expect("a registration");
    Registration { needs: needs(names, if_missing), ..registration }
}

type Answered = Result<(u64, Vec<(String, String)>, LeaseToken), Error>;

async fn register(handle: &RegistryHandle, registration: Registration) -> Answered {
    register_as(handle, registration, None).await
}

/// The revision of the registration, what it needs, and its token.
async fn register_as(handle: &RegistryHandle, registration: Registration, token: Option<LeaseToken>) -> Answered {
    match handle.register(registration, token, anyone(), None).await? {
        Reply::Registered { record, dependencies, token, .. } => {
            let named = dependencies.into_iter().map(|(name, url)| (name.to_string(), url.to_string()));
            Ok((record.incarnation, named.collect(), token))
        }
        other => panic!("a registration was answered as {other:?}"),
    }
}

fn wait_for(handle: &RegistryHandle, service: &str, port: u32, names: &[&str]) -> JoinHandle<Answered> {
    let (handle, registration) = (handle.clone(), registration(service, port, names, IfMissing::Wait));
    tokio::spawn(async move { register(&handle, registration).await })
}

/// Until so many wait.
async fn until_waiting(handle: &RegistryHandle, number: u64) {
    for _ in 0..100_000 {
        if handle.metrics().waiting.get() == number as i64 {
            return;
        }
        yield_now().await;
    }
    panic!("{} wait, not {number}", handle.metrics().waiting.get());
}

fn missing(names: &[&str]) -> Error {
    Error::MissingDependency(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test(start_paused = true)]
async fn services_that_need_each_other_come_online_in_one_revision() {
    for order in [[0, 1, 2], [0, 2, 1], [2, 1, 0]] {
        let (handle, _hostile) = start(Manners::default());
        let ring = [("a", "b"), ("b", "c"), ("c", "a")];
        let mut calls = Vec::new();
        for (arrived, place) in order.into_iter().enumerate() {
            let (service, needed) = ring[place];
            calls.push((place, wait_for(&handle, service, 80 + place as u32, &[needed])));
            if arrived < 2 {
                until_waiting(&handle, arrived as u64 + 1).await;
                assert_eq!(handle.hub().registry().instances(), 0, "who waits is invisible");
            }
        }
        let mut revisions = Vec::new();
        for (place, call) in calls {
            let (revision, dependencies, _) = call.await.expect("no panic").expect("admitted");
            let next = (place + 1) % 3;
            assert_eq!(dependencies, [(ring[next].0.to_owned(), format!("http://127.0.0.1:{}", 80 + next))]);
            revisions.push(revision);
        }
        revisions.dedup();
        assert_eq!(revisions.len(), 1, "{revisions:?}");
        until_waiting(&handle, 0).await;
    }
}

/// At the end of the wait, and when the caller leaves, nothing was registered and nothing is left.
#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_leaves_nothing() {
    let (handle, hostile) = start(Manners::default());
    let began = Instant::now();
    let in_vain = wait_for(&handle, "a", 80, &["b", "c"]);
    until_waiting(&handle, 1).await;
    // `b` waits for `a` and something else; it leaves, and does not count any more.
    let leaving = wait_for(&handle, "b", 81, &["a", "d"]);
    until_waiting(&handle, 2).await;
    leaving.abort();
    until_waiting(&handle, 1).await;
    assert_eq!(in_vain.await.expect("no panic").map(|_| ()), Err(missing(&["b", "c"])));
    assert_eq!(began.elapsed(), WAIT);
    until_waiting(&handle, 0).await;
    assert_eq!((handle.hub().registry().revision(), hostile.truth().revision), (0, 0));
    // Neither key is taken.
    for service in ["a", "b"] {
        register(&handle, registration(service, 80, &[], IfMissing::Fail)).await.expect("registered");
    }
}

/// Very many wait for one name, every third leaves: those who stayed come online as soon as it is there, and nobody else.
#[tokio::test(start_paused = true)]
async fn ten_thousand_wait_for_one_name() {
    const CALLERS: u32 = 10_000;
    let recovered = MemoryEngine::recovered(uuid::Uuid::nil(), 1);
    let options = ActorOptions { max_inbox: 2 * CALLERS as usize, ..ActorOptions::default() };
    let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, options);
    tokio::spawn(actor.run());
    let calls: Vec<_> = (1..=CALLERS).map(|port| wait_for(&handle, "web", port, &["db"])).collect();
    until_waiting(&handle, CALLERS.into()).await;
    let (leaving, staying): (Vec<_>, Vec<_>) = calls.into_iter().enumerate().partition(|(place, _)| place % 3 == 0);
    leaving.iter().for_each(|(_, call)| call.abort());
    until_waiting(&handle, staying.len() as u64).await;
    assert_eq!(handle.hub().registry().revision(), 0, "nothing was registered");
    register(&handle, registration("db", 1, &[], IfMissing::Fail)).await.expect("registered");
    let expected = [("db".to_owned(), "http://127.0.0.1:1".to_owned())];
    let count = staying.len() as u64;
    for (_, call) in staying {
        let (_, found, _) = call.await.expect("no panic").expect("admitted");
        assert_eq!(found, expected);
    }
    assert_eq!(handle.hub().registry().instances(), count + 1);
    until_waiting(&handle, 0).await;
}

/// Whoever leaves while it could be admitted is not, and neither is who relied on it.
#[tokio::test(start_paused = true)]
async fn nobody_relies_on_a_caller_that_left() {
    let (handle, _hostile) = start(Manners::default());
    let leaving = wait_for(&handle, "a", 80, &["b"]);
    until_waiting(&handle, 1).await;
    // Its departure and the next arrival reach the task in one turn.
    leaving.abort();
    let _ = leaving.await;
    let b = wait_for(&handle, "b", 81, &["a"]);
    assert_eq!(b.await.expect("no panic").map(|_| ()), Err(missing(&["a"])));
    assert_eq!(handle.hub().registry().instances(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_waiting_what_is_missing_is_named_or_ignored() {
    let (handle, _hostile) = start(Manners::default());
    let refused = register(&handle, registration("a", 80, &["c", "b", "a"], IfMissing::Fail)).await;
    assert_eq!(refused.map(|_| ()), Err(missing(&["a", "b", "c"])), "it is no answer to its own need");
    assert_eq!(handle.hub().registry().revision(), 0);
    register(&handle, registration("b", 81, &[], IfMissing::Fail)).await.expect("registered");
    let (_, found, _) =
        register(&handle, registration("a", 80, &["b", "c"], IfMissing::Ignore)).await.expect("registered");
    assert_eq!(found, [("b".to_owned(), "http://127.0.0.1:81".to_owned())]);
}

/// What it was decided by goes while it is on its way: whether here or by another node, it is decided again.
#[tokio::test(start_paused = true)]
async fn a_dependency_that_goes_in_the_meantime_is_missing() {
    let gone = Change::Delete(Delete { key: Key::new("default", "b", "127.0.0.1:81"), cause: Cause::Expired, at: 0 });
    for foreign in [true, false] {
        let (handle, hostile) = start(Manners::default());
        let (.., token) = register(&handle, registration("b", 81, &[], IfMissing::Fail)).await.expect("registered");
        hostile.behave(Manners { delay: Delay::Held, ..Manners::default() });
        let removing = handle.clone();
        let removal = async move {
            if !foreign {
                removing.deregister(Target::Lease(Some(token)), anyone(), None).await.expect("deregistered");
            }
        };
        let removal = tokio::spawn(removal);
        let in_flight = usize::from(!foreign);
        while hostile.in_flight() != in_flight {
            yield_now().await;
        }
        let asking = handle.clone();
        let a =
            tokio::spawn(
                async move { register(&asking, registration("a", 80, &["b"], IfMissing::Fail)).await.map(|_| ()) },
            );
        if foreign {
            while hostile.in_flight() != 1 {
                yield_now().await;
            }
            hostile.foreign(vec![gone.clone()]);
        } else {
            // It waits for the removal, and is not proposed beside it.
            for _ in 0..100 {
                yield_now().await;
            }
            assert_eq!(hostile.in_flight(), 1);
        }
        hostile.behave(Manners::default());
        assert_eq!(a.await.expect("no panic"), Err(missing(&["b"])), "foreign: {foreign}");
        removal.await.expect("no panic");
        assert_eq!(handle.hub().registry().instances(), 0);
    }
}

/// The engine refuses a set that was to come online: it is decided again, as one.
#[tokio::test(start_paused = true)]
async fn a_refused_set_is_admitted_again() {
    let (handle, hostile) = start(Manners::default());
    hostile.refuse(3);
    let a = wait_for(&handle, "a", 80, &["b"]);
    let b = wait_for(&handle, "b", 81, &["a"]);
    let (first, ..) = a.await.expect("no panic").expect("admitted");
    let (second, ..) = b.await.expect("no panic").expect("admitted");
    assert_eq!(first, second);
}

/// The store is away: who waits goes on waiting, and is admitted when it is back.
#[tokio::test(start_paused = true)]
async fn waiting_outlasts_a_store_that_is_away() {
    let (handle, hostile) = start(Manners::default());
    let a = wait_for(&handle, "a", 80, &["b"]);
    until_waiting(&handle, 1).await;
    hostile.away("the disk is full", Fate::Dropped);
    let b = wait_for(&handle, "b", 81, &["a"]);
    until_waiting(&handle, 2).await;
    hostile.back();
    let (first, ..) = a.await.expect("no panic").expect("admitted");
    let (second, ..) = b.await.expect("no panic").expect("admitted");
    assert_eq!(first, second);
}

/// Many rings, each member in its own time, an engine at its worst: every ring comes online as one.
#[tokio::test(start_paused = true)]
async fn rings_come_online_as_one_whatever_the_engine_does() {
    const RINGS: usize = 12;
    const MEMBERS: usize = 4;
    let manners = Manners { delay: Delay::Time(Duration::from_millis(50)), leave: 0, ..Manners::worst() };
    let (handle, _hostile) = start(manners);
    let mut calls: Vec<Vec<JoinHandle<Answered>>> = (0..RINGS).map(|_| Vec::new()).collect();
    for member in 0..MEMBERS {
        for (ring, calls) in calls.iter_mut().enumerate() {
            let name = |member: usize| format!("ring-{ring}-{}", member % MEMBERS);
            let port = (1_000 + ring * MEMBERS + member) as u32;
            // Something that is there, comes late, or is part of another ring's fate is needed too.
            let other = format!("ring-{}-0", (ring + 1) % RINGS);
            let needed = name(member + 1);
            calls.push(wait_for(&handle, &name(member), port, &[&needed, &other]));
        }
    }
    let mut revisions = std::collections::BTreeSet::new();
    for call in calls.into_iter().flatten() {
        let answered = timeout(AGES, call).await.expect("an answer").expect("no panic");
        revisions.insert(answered.expect("admitted").0);
    }
    assert_eq!(revisions.len(), 1, "all rings need one another: {revisions:?}");
    assert_eq!(handle.hub().registry().instances(), (RINGS * MEMBERS) as u64);
}

#[tokio::test(start_paused = true)]
async fn a_newer_registration_takes_the_place_of_one_that_waits() {
    let (handle, _hostile) = start(Manners::default());
    let first = wait_for(&handle, "a", 80, &["b"]);
    until_waiting(&handle, 1).await;
    let second = wait_for(&handle, "a", 80, &["c"]);
    let error = first.await.expect("no panic").expect_err("its place is taken");
    let (key, holder) = ("default/a/127.0.0.1:80".to_owned(), "127.0.0.1:80".to_owned());
    assert_eq!(error, Error::Superseded { key: key.clone(), holder });
    // The same request again is no newcomer.
    let mut again = registration("d", 90, &["b"], IfMissing::Wait);
    again.request_id = Some(7);
    let [one, other] = [again.clone(), again].map(|registration| {
        let handle = handle.clone();
        tokio::spawn(async move { register(&handle, registration).await.map(|_| ()) })
    });
    let key = "default/d/127.0.0.1:90".to_owned();
    assert_eq!(one.await.expect("no panic"), Err(Error::Repeated { key }));
    for (service, port) in [("b", 81), ("c", 82)] {
        register(&handle, registration(service, port, &[], IfMissing::Fail)).await.expect("registered");
    }
    second.await.expect("no panic").expect("admitted");
    assert_eq!(other.await.expect("no panic"), Ok(()));
}

/// Also one that does not wait: the older must not take its place later.
#[tokio::test(start_paused = true)]
async fn a_registration_takes_the_place_of_one_that_waits() {
    let (handle, _hostile) = start(Manners::default());
    let mut older = Vec::new();
    for (port, request_id) in [(80, None), (90, Some(7))] {
        let waiting = Registration { request_id, ..registration("a", port, &["b"], IfMissing::Wait) };
        let caller = handle.clone();
        older.push(tokio::spawn(async move { register(&caller, waiting).await.map(|_| ()) }));
        until_waiting(&handle, 1).await;
        let newer = Registration { request_id, ..registration("a", port, &[], IfMissing::Fail) };
        register(&handle, newer).await.expect("registered");
    }
    let answered = [older.remove(0).await.expect("no panic"), older.remove(0).await.expect("no panic")];
    let key = |port: u16| format!("default/a/127.0.0.1:{port}");
    let superseded = Error::Superseded { key: key(80), holder: "127.0.0.1:80".to_owned() };
    assert_eq!(answered, [Err(superseded), Err(Error::Repeated { key: key(90) })]);
    let before = handle.hub().registry().revision();
    register(&handle, registration("b", 81, &[], IfMissing::Fail)).await.expect("registered");
    assert_eq!((handle.hub().registry().instances(), handle.hub().registry().revision()), (3, before + 1));
}

/// What is refused whatever comes is refused at once, and takes nobody's place.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_refusal() {
    let (handle, _hostile) = start(Manners::default());
    let plain = || registration("a", 80, &[], IfMissing::Fail);
    let (.., old) = register(&handle, plain()).await.expect("registered");
    register(&handle, plain()).await.expect("registered");
    let began = Instant::now();
    let refused = register_as(&handle, registration("a", 80, &["b"], IfMissing::Wait), Some(old)).await.map(|_| ());
    let (key, holder) = ("default/a/127.0.0.1:80".to_owned(), "127.0.0.1:80".to_owned());
    assert_eq!((refused, began.elapsed()), (Err(Error::Superseded { key, holder }), Duration::ZERO));
}

/// Two commands that are committed together may not be a registration and the end of what it needs: at its revision it
/// would be alone.
#[tokio::test(start_paused = true)]
async fn what_is_needed_does_not_go_in_the_same_revision() {
    // How many it takes at once is by chance.
    for seed in 0..8 {
        a_need_that_goes(seed).await;
    }
}

async fn a_need_that_goes(seed: u64) {
    let (engine, hostile, recovered) = HostileEngine::new(seed, Manners::default());
    let (handle, actor) = RegistryHandle::new(engine, recovered, ActorOptions::default());
    tokio::spawn(actor.run());
    let (.., token) = register(&handle, registration("b", 81, &[], IfMissing::Fail)).await.expect("registered");
    hostile.behave(Manners { delay: Delay::Held, group: 10, ..Manners::default() });
    let (asking, removing) = (handle.clone(), handle.clone());
    let a = tokio::spawn(async move { register(&asking, registration("a", 80, &["b"], IfMissing::Fail)).await });
    while hostile.in_flight() != 1 {
        yield_now().await;
    }
    let gone = tokio::spawn(async move { removing.deregister(Target::Lease(Some(token)), anyone(), None).await });
    while hostile.in_flight() != 2 {
        yield_now().await;
    }
    hostile.release(2);
    let (revision, ..) = a.await.expect("no panic").expect("registered");
    let Reply::Removed { removed: 1, revision: end } = gone.await.expect("no panic").expect("removed") else {
        panic!("it was there")
    };
    assert!(revision < end, "{revision} {end}");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_bounded() {
    let recovered = MemoryEngine::recovered(uuid::Uuid::from_u128(1), 1);
    let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
    tokio::spawn(actor.run());
    let mut calls = Vec::new();
    for port in 0..WAITING_MAX as u32 {
        calls.push(wait_for(&handle, &format!("w{}", port / 60_000), 1 + port, &["b"]));
        if port % 4_096 == 0 {
            until_waiting(&handle, u64::from(port) + 1).await;
        }
    }
    until_waiting(&handle, WAITING_MAX as u64).await;
    let refused = wait_for(&handle, "x", 1, &["b"]).await.expect("no panic").map(|_| ());
    let maximum = WAITING_MAX as u64;
    assert_eq!(refused, Err(Error::Limit { limit: "max_waiting", maximum, usage: maximum + 1 }));
    // Who need not wait is no burden.
    wait_for(&handle, "y", 1, &[]).await.expect("no panic").expect("registered");
    // One comes that all of them wait for: they come in as few revisions as it takes.
    let before = handle.hub().registry().revision();
    register(&handle, registration("b", 81, &[], IfMissing::Fail)).await.expect("registered");
    for call in calls {
        call.await.expect("no panic").expect("admitted");
    }
    until_waiting(&handle, 0).await;
    assert_eq!(handle.hub().registry().revision(), before + 1 + maximum / 1_000);
}

/// A stopping server lets nobody wait.
#[tokio::test(start_paused = true)]
async fn a_stop_ends_all_waiting() {
    let (handle, _hostile) = start(Manners::default());
    let a = wait_for(&handle, "a", 80, &["b"]);
    until_waiting(&handle, 1).await;
    handle.stop().await;
    assert_eq!(a.await.expect("no panic").map(|_| ()), Err(Error::ShuttingDown));
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_url_is_taken_in_the_same_revision_and_never_back() {
    let (handle, _hostile) = start(Manners::default());
    let exclusive = |service: &str| {
        let plain = registration(service, 80, &[], IfMissing::Fail);
        Registration { exclusive_url: true, ..plain }
    };
    let (.., first) = register(&handle, exclusive("old")).await.expect("registered");
    let plain = registration("beside", 80, &[], IfMissing::Fail);
    register(&handle, plain).await.expect("who does not mind shares a url");
    let before = handle.hub().registry().revision();
    let (revision, ..) = register(&handle, exclusive("new")).await.expect("registered");
    assert!(revision > before);
    assert_eq!(handle.hub().registry().instances(), 1);
    assert!(handle.hub().registry().slot_of(&Key::new("default", "new", "127.0.0.1:80")).is_some());
    // The one that lost it comes back with its token: the two would go on for ever.
    let again = register_as(&handle, exclusive("old"), Some(first)).await.map(|_| ());
    let (key, holder) = ("default/new/127.0.0.1:80".to_owned(), "127.0.0.1:80".to_owned());
    assert_eq!(again, Err(Error::Superseded { key, holder }));
    // Without wanting it for itself it may come, and a new process may have it.
    register_as(&handle, registration("old", 80, &[], IfMissing::Fail), Some(first)).await.expect("registered");
    register(&handle, exclusive("third")).await.expect("registered");
    assert_eq!(handle.hub().registry().instances(), 1);
    // What it needs is not what it displaces.
    let registration = Registration { needs: needs(&["third"], IfMissing::Fail), ..exclusive("fourth") };
    assert_eq!(register(&handle, registration).await.map(|_| ()), Err(missing(&["third"])));
}

/// A resolve waits for all at the same time, wakes by what is missing only, and leaves nothing when broken off.
#[tokio::test(start_paused = true)]
async fn a_resolve_waits_until_everything_is_there() {
    let (handle, _hostile) = start(Manners::default());
    let query =
        |if_missing| ResolveQuery { needs: needs(&["a", "b"], if_missing), prefer_zone: String::new(), deadline: None };
    let refused = handle.resolve(query(IfMissing::Fail)).await.map(|_| ());
    assert_eq!(refused, Err(missing(&["a", "b"])));
    let mut broken_off = Box::pin(handle.resolve(query(IfMissing::Wait)));
    assert!(timeout(Duration::from_secs(1), &mut broken_off).await.is_err(), "it waits");
    assert_eq!(handle.hub().log().sleepers(), 2);
    drop(broken_off);
    assert_eq!(handle.hub().log().sleepers(), 0);
    let waiting = {
        let (handle, query) = (handle.clone(), query(IfMissing::Wait));
        tokio::spawn(async move { handle.resolve(query).await })
    };
    while handle.hub().log().sleepers() != 2 {
        yield_now().await;
    }
    register(&handle, registration("a", 80, &[], IfMissing::Fail)).await.expect("registered");
    while handle.hub().log().sleepers() != 1 {
        yield_now().await;
    }
    let partly = handle.resolve(query(IfMissing::Ignore)).await.expect("an answer");
    assert_eq!((partly.resolved.len(), partly.missing), (1, vec!["b".to_owned()]));
    register(&handle, registration("b", 81, &[], IfMissing::Fail)).await.expect("registered");
    let found = waiting.await.expect("no panic").expect("everything is there");
    assert_eq!(found.resolved.len(), 2);
    assert_eq!(handle.hub().log().sleepers(), 0);
}
