//! Drains: who is told of one is counted once, as what it is when the answer comes. Knows no front.

use std::{future::poll_fn, time::Duration};

use onair::{
    actor::{ActorOptions, Drained, anyone},
    proto::SubscribeResponse,
    registry::{Claim, Error, Filter, FilterSet, Instance, Key, LeaseToken, Status},
    watch::{HubOptions, Standings, Subscriptions, WatchItem},
};
use proptest::{collection::vec, prelude::*};
use prost::Message as _;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::rig::{Rig, Watching, all, instance, ms, pass, registration_of, service, settle, within};

const LONG: Duration = Duration::from_secs(3_600);
const WAIT: Duration = Duration::from_secs(20);

/// Filters, and whether they are told that `default/web/1` in zone `eu` drains.
const FILTERS: [(&str, &str, bool); 6] = [
    ("web", "", true),
    ("web", "status=*", true),
    ("web", "zone=eu", true),
    ("", "", true),
    ("web", "zone=us", false),
    ("api", "", false),
];

fn filter(place: usize) -> FilterSet {
    let (service, selector, _) = FILTERS[place];
    FilterSet::new([Filter::new("", service, "", selector).expect("a filter")])
}

/// Somebody who watches.
enum Reader {
    Watch(Box<Watching>),
    Subscribe(Box<Subscriptions>),
}

impl Reader {
    /// Reads all there is.
    async fn read(&mut self) -> u64 {
        let mut revision = 0;
        match self {
            Self::Watch(watching) => {
                while let Some(message) = watching.ready().await {
                    revision = message.revision;
                }
            }
            Self::Subscribe(stream) => {
                while let Ok(Some(WatchItem::Frame(frame))) =
                    timeout(Duration::ZERO, poll_fn(|turn| stream.poll_next(turn))).await
                {
                    revision = SubscribeResponse::decode(frame.message()).expect("a message").revision;
                }
            }
        }
        revision
    }

    fn acknowledge(&mut self, revision: u64) {
        if let Self::Subscribe(stream) = self {
            stream.acknowledge(revision);
        }
    }
}

/// A reader, and what is known of it.
struct Known {
    reader: Reader,
    told: bool,
    acks: bool,
    read: bool,
    acked: bool,
    closed: bool,
}

/// What a reader is like.
#[derive(Clone, Debug)]
enum Kind {
    Watch(usize),
    /// Of one or two filters, and whether it acknowledges.
    Subscribe(usize, Option<usize>, bool),
}

/// What one of them does while the drain waits.
#[derive(Clone, Debug)]
enum Deed {
    Read,
    /// Acknowledges what it has read, or more than it can know.
    Ack(bool),
    /// Acknowledges what was before.
    AckOld,
    Close,
}

async fn join(rig: &Rig, kind: &Kind) -> Known {
    let (mut reader, told, acks) = match kind {
        Kind::Watch(place) => (Reader::Watch(Box::new(rig.watch(filter(*place), "").await)), FILTERS[*place].2, false),
        Kind::Subscribe(one, other, acks) => {
            let mut stream = Subscriptions::new(rig.handle.hub(), 8);
            for place in [Some(*one), *other].into_iter().flatten() {
                stream.add(&place.to_string(), filter(place), "").expect("there is room");
            }
            let told = FILTERS[*one].2 || other.is_some_and(|other| FILTERS[other].2);
            (Reader::Subscribe(Box::new(stream)), told, *acks)
        }
    };
    let revision = reader.read().await;
    if acks {
        reader.acknowledge(revision);
        reader.read().await;
    }
    Known { reader, told, acks, read: false, acked: false, closed: false }
}

/// What the drain has to answer.
fn standings(readers: &[Known]) -> Standings {
    let mut standings = Standings::default();
    for known in readers.iter().filter(|known| known.told) {
        match known {
            Known { acked: true, .. } => standings.acked += 1,
            Known { read: true, acks: false, .. } => standings.sent += 1,
            Known { closed: true, .. } => {}
            _ => standings.pending += 1,
        }
    }
    standings
}

async fn act(known: &mut Known, deed: &Deed, revision: u64) {
    if known.closed {
        return;
    }
    match deed {
        Deed::Read => {
            known.reader.read().await;
            known.read = true;
        }
        Deed::Ack(far) => {
            let subscribes = matches!(known.reader, Reader::Subscribe(_));
            known.reader.acknowledge(if *far { u64::MAX } else { revision });
            known.acked |= subscribes && known.read;
            known.acks |= subscribes;
            // What it acknowledges is heard when it is looked at, and that reads.
            known.reader.read().await;
            known.read = true;
        }
        Deed::AckOld => {
            known.acks |= matches!(known.reader, Reader::Subscribe(_));
            known.reader.acknowledge(revision - 1);
            known.reader.read().await;
            known.read = true;
        }
        Deed::Close => {
            known.closed = true;
            known.reader = Reader::Subscribe(Box::new(Subscriptions::new(&nobody(), 1)));
        }
    }
}

/// A hub of nothing, for those who left.
fn nobody() -> std::sync::Arc<onair::watch::Hub> {
    let recovered = onair::engine::memory::MemoryEngine::recovered(uuid::Uuid::from_u128(1), 1);
    onair::watch::Hub::new(recovered, HubOptions::default())
}

fn drain(rig: &Rig, claim: Claim, wait: Duration) -> JoinHandle<Result<Drained, Error>> {
    let handle = rig.handle.clone();
    tokio::spawn(async move { handle.drain(claim, anyone(), wait, None).await })
}

fn kind() -> impl Strategy<Value = Kind> {
    let place = || 0..FILTERS.len();
    prop_oneof![
        2 => place().prop_map(Kind::Watch),
        3 => (place(), proptest::option::of(place()), prop::bool::weighted(0.7))
            .prop_map(|(one, other, acks)| Kind::Subscribe(one, other, acks)),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => Just(Deed::Read),
        4 => any::<bool>().prop_map(Deed::Ack),
        1 => Just(Deed::AckOld),
        2 => Just(Deed::Close),
    ]
}

/// One history: the readers are there, the instance drains, and they do what they do.
async fn run(kinds: Vec<Kind>, deeds: Vec<(usize, Deed)>, again: bool) {
    let rig = Rig::new();
    let eu = Instance { zone: "eu".into(), ..instance("web", "1") };
    let (_, token) = rig.try_register(registration_of(eu, LONG, ""), None).await.expect("it is registered");
    let mut readers = Vec::new();
    for kind in &kinds {
        readers.push(join(&rig, kind).await);
    }
    if again {
        // The answer about what was so before is the same.
        within(drain(&rig, Claim::Lease(token), Duration::ZERO)).await.expect("no panic").expect("drained");
    }
    let began = Instant::now();
    let waiting = drain(&rig, Claim::Lease(token), WAIT);
    settle().await;
    let revision = rig.revision();
    // Who comes now finds it so.
    let late = join(&rig, &Kind::Watch(1)).await;
    let mut done = None;
    for (who, deed) in deeds {
        let settled = standings(&readers).pending == 0;
        if settled && done.is_none() {
            done = Some(standings(&readers));
        }
        let count = readers.len().max(1);
        if let Some(known) = readers.get_mut(who % count) {
            act(known, &deed, revision).await;
        }
        settle().await;
    }
    let expected = done.unwrap_or_else(|| standings(&readers));
    let drained = within(waiting).await.expect("no panic").expect("it drains");
    assert_eq!(drained, Drained { standings: expected, revision });
    let waited = Instant::now() - began;
    assert_eq!(waited, if expected.pending > 0 { WAIT } else { Duration::ZERO });
    drop(late);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Who acknowledged before the answer is counted once, and as that; who left is waited for no more; whatever else
    /// they do, and in whatever order.
    #[test]
    fn every_follower_is_counted_once_as_it_stands(
        kinds in vec(kind(), 0..8),
        deeds in vec((0..8_usize, deed()), 0..24),
        again in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(kinds, deeds, again));
    }
}

/// Who has not read it before the log forgot it lags, whether it has noticed or not, and is not waited for once it has.
#[tokio::test(start_paused = true)]
async fn who_falls_out_of_the_log_lags() {
    for notices in [false, true] {
        let hub = HubOptions { max_log_bytes: 4_000, ..HubOptions::default() };
        let rig = Rig::with(ActorOptions { hub, ..ActorOptions::default() });
        let (_, token) = rig.register("web", "1", LONG).await;
        let mut slow = join(&rig, &Kind::Subscribe(0, None, true)).await;
        let mut watch = rig.watch(service("web"), "").await;
        while watch.ready().await.is_some() {}
        let began = Instant::now();
        let waiting = drain(&rig, Claim::Lease(token), WAIT);
        settle().await;
        for other in 0..40 {
            rig.register("web", &format!("other-{other}"), LONG).await;
        }
        if notices {
            slow.reader.read().await;
            while watch.ready().await.is_some() {}
            settle().await;
        }
        let drained = within(waiting).await.expect("no panic").expect("it drains");
        assert_eq!(drained.standings, Standings { lagging: 2, ..Standings::default() });
        assert_eq!(Instant::now() - began, if notices { Duration::ZERO } else { WAIT });
    }
}

/// Who came or came back since is not in a repeated drain, though it says that it acknowledges: it has nothing to
/// acknowledge. Neither is a watch.
#[tokio::test(start_paused = true)]
async fn who_came_since_is_not_waited_for() {
    let rig = Rig::new();
    let (_, token) = rig.register("web", "1", LONG).await;
    let early = join(&rig, &Kind::Subscribe(1, None, true)).await;
    let first = within(drain(&rig, Claim::Lease(token), Duration::ZERO)).await.expect("no panic").expect("it drains");
    assert_eq!(first.standings, Standings { pending: 1, ..Standings::default() });
    let mut watch = rig.watch(filter(1), "").await;
    let resume_token = watch.next().await.resume_token;
    let mut stream = Subscriptions::new(rig.handle.hub(), 8);
    stream.acknowledge(0);
    stream.add("resumed", filter(1), &resume_token).expect("there is room");
    stream.add("new", filter(1), "").expect("there is room");
    let mut since = Reader::Subscribe(Box::new(stream));
    since.read().await;
    drop(early);
    // Longer than what was asked first is shared.
    pass(Duration::from_secs(11)).await;
    let began = Instant::now();
    let waiting = drain(&rig, Claim::Lease(token), WAIT);
    settle().await;
    // They say so when they are asked, and have nothing to read but bookmarks.
    since.read().await;
    while watch.ready().await.is_some() {}
    let again = within(waiting).await.expect("no panic").expect("it drains");
    assert_eq!(again, Drained { standings: Standings::default(), revision: first.revision });
    assert_eq!(Instant::now(), began);
}

/// By lease it is a beat; the lease stays, and is kept as before.
#[tokio::test(start_paused = true)]
async fn the_lease_is_kept() {
    let rig = Rig::new();
    let ttl = Duration::from_secs(3);
    let (_, token) = rig.register("web", "1", ttl).await;
    pass(ms(2_500)).await;
    let drained = within(drain(&rig, Claim::Lease(token), WAIT)).await.expect("no panic").expect("drained");
    assert_eq!(drained.standings, Standings::default(), "nobody watches");
    pass(ms(2_500)).await;
    assert_eq!(rig.instances(), 1);
    rig.beat(token).await;
    pass(ms(2_500)).await;
    let found = rig.handle.instance(&Key::new("default", "web", "1")).expect("it is there").0;
    assert_eq!(found.status, Status::Draining);
    pass(ms(1_000)).await;
    assert_eq!(rig.instances(), 0, "whoever does not beat goes, draining or not");
}

/// Only who may, and only what is there; nothing changes otherwise.
#[tokio::test(start_paused = true)]
async fn a_drain_is_fenced() {
    let rig = Rig::new();
    let (_, old) = rig.register("web", "1", LONG).await;
    let (_, token) = rig.register("web", "1", LONG).await;
    let revision = rig.revision();
    let refused = async |claim, principal| {
        let answer = rig.handle.drain(claim, principal, WAIT, None).await;
        answer.expect_err("it is refused")
    };
    assert!(matches!(refused(Claim::Lease(old), anyone()).await, Error::Superseded { .. }));
    let mut wrong = token;
    wrong.secret.0[0] ^= 1;
    assert_eq!(refused(Claim::Lease(wrong), anyone()).await, Error::LeaseDenied);
    let foreign = LeaseToken { registry: token.registry ^ 1, ..token };
    assert!(matches!(refused(Claim::Lease(foreign), anyone()).await, Error::NotFound { .. }));
    let nobody = Claim::Key(Key::new("default", "web", "2"));
    assert!(matches!(refused(nobody, anyone()).await, Error::NotFound { .. }));
    let somebody = onair::registry::Principal { name: Some("somebody".into()), operator: false, quota: None };
    let key = || Claim::Key(Key::new("default", "web", "1"));
    assert_eq!(refused(key(), somebody).await, Error::Permission { permission: "operate" });
    assert_eq!(rig.revision(), revision);
    rig.handle.drain(key(), anyone(), WAIT, None).await.expect("an operator may");
    assert_eq!(rig.revision(), revision + 1);
}

/// A server that goes away says so; the instance stays DRAINING.
#[tokio::test(start_paused = true)]
async fn a_server_that_stops_answers_who_waits() {
    let rig = Rig::new();
    let (_, token) = rig.register("web", "1", LONG).await;
    let _unread = rig.watch(all(), "").await;
    let waiting = drain(&rig, Claim::Lease(token), WAIT);
    settle().await;
    rig.handle.hub().close();
    assert_eq!(within(waiting).await.expect("no panic"), Err(Error::ShuttingDown));
}
