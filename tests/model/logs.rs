//! The shared log and the feeds read from it, longer and larger than random histories make them, against plain lists.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use onair::{
    proto::WatchResponse,
    registry::{
        Cause, Change, Delete, Event, Filter, FilterSet, Instance, Key, Lease, Matcher, Put, Registry, Scope,
        SecretHash, Stamp, StateLimits, Status, disjoint,
    },
    watch::{Budget, Budgets, EventLog, Feed, Next},
};
use proptest::{collection::vec, prelude::*};
use prost::Message as _;
use uuid::Uuid;

const NAMESPACES: [&str; 2] = ["default", "a"];
const SERVICES: [&str; 3] = ["web", "api", "db"];
/// Most bytes in a message.
const MESSAGE: usize = 256 * 1024;

fn put(namespace: &str, service: &str, id: &str, text: usize) -> Change {
    let instance = Instance {
        namespace: namespace.into(),
        service: service.into(),
        id: id.into(),
        url: "x".repeat(text),
        status: Status::Serving as i32,
        ..Instance::default()
    };
    let lease = Lease { ttl: 10_000, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
    let description = Bytes::from(instance.encode_to_vec());
    Change::Put(Put { description, lease, incarnation: Stamp::Commit, ordinal: 0, revision: Stamp::Commit })
}

fn delete(namespace: &str, service: &str, id: &str) -> Change {
    Change::Delete(Delete { key: Key::new(namespace, service, id), cause: Cause::Operator, at: 1 })
}

/// What revisions touch, by revision: places of namespace and service.
type Touched = BTreeMap<u64, Vec<(usize, usize)>>;

/// Revisions that touch these (namespace, service) places, in steps of one or two.
fn history(touched: &[Vec<(usize, usize)>]) -> (Vec<(u64, Vec<Event>)>, Touched) {
    let mut registry = Registry::new(1, StateLimits::default());
    let (mut steps, mut list, mut revision) = (Vec::new(), BTreeMap::new(), 0);
    for places in touched {
        revision += 1 + u64::from(places.len() == 2);
        let change = |(number, (namespace, service)): (usize, &(usize, usize))| {
            put(NAMESPACES[*namespace], SERVICES[*service], &number.to_string(), 0)
        };
        let changes: Vec<_> = places.iter().enumerate().map(change).collect();
        steps.push((revision, registry.fold(revision, &changes).events));
        if !places.is_empty() {
            list.insert(revision, places.clone());
        }
    }
    (steps, list)
}

fn scope((kind, namespace, service): (u8, usize, usize)) -> Scope {
    match kind {
        0 => Scope::All,
        1 => Scope::Namespace(NAMESPACES[namespace].into()),
        _ => Scope::Service(NAMESPACES[namespace].into(), SERVICES[service].into()),
    }
}

fn touches(scopes: &[Scope], places: &[(usize, usize)]) -> bool {
    let covered = |(namespace, service): &(usize, usize)| {
        scopes.iter().any(|scope| scope.covers(NAMESPACES[*namespace], SERVICES[*service]))
    };
    places.iter().any(covered)
}

fn places() -> impl Strategy<Value = Vec<Vec<(usize, usize)>>> {
    vec(vec((0..2_usize, 0..3_usize), 0..4), 1..120)
}

fn scopes() -> impl Strategy<Value = Vec<Scope>> {
    let one = (prop_oneof![1 => Just(0), 2 => Just(1), 4 => Just(2)], 0..2_usize, 0..3_usize).prop_map(scope);
    vec(one, 1..4).prop_map(disjoint)
}

proptest! {
    #![proptest_config(super::cases(40))]

    /// However few entries are taken at a time, from wherever: all that touch the scopes, each once, in order.
    #[test]
    fn the_log_gives_all_of_its_scopes_in_order(
        touched in places(),
        scopes in scopes(),
        from in 0..100_u64,
        max in 1..6_usize,
        bytes in prop_oneof![Just(1_usize << 30), 200..20_000_usize],
    ) {
        let (steps, list) = history(&touched);
        let log = EventLog::new(bytes, 0);
        let head = steps.last().map_or(0, |(revision, _)| *revision);
        for (revision, events) in steps {
            log.publish(revision, events);
        }
        let (last, oldest) = log.bounds();
        prop_assert_eq!(last, head);
        let mut after = from.min(head);
        // Of quiet scopes more may be there than of all.
        if let Err(refused) = log.read(&scopes, after, max) {
            prop_assert!(after < refused.oldest && refused.oldest <= oldest);
            after = refused.oldest;
        }
        let expected = list.range(after + 1..).filter(|(_, places)| touches(&scopes, places));
        let expected: Vec<_> = expected.map(|(revision, _)| *revision).collect();
        let mut got = Vec::new();
        while after < head {
            let batch = log.read(&scopes, after, max).expect("nothing is published meanwhile");
            prop_assert!(batch.through > after, "no progress from {} to {}", after, head);
            prop_assert!(batch.entries.iter().all(|entry| entry.revision <= batch.through));
            got.extend(batch.entries.iter().map(|entry| entry.revision));
            after = batch.through;
        }
        prop_assert_eq!(got, expected);
    }
}

/// Promise 12: what is kept is bounded by bytes, in every scope.
#[test]
fn the_log_lets_go_of_what_it_does_not_keep() {
    let touched: Vec<_> = (0..200).map(|turn| vec![(turn % 2, turn % 3)]).collect();
    let (steps, _) = history(&touched);
    let log = EventLog::new(4_000, 0);
    let mut entries = Vec::new();
    for (revision, events) in steps {
        log.publish(revision, events);
        let batch = log.read(&[Scope::All], revision - 1, 1).expect("the newest is kept");
        entries.extend(batch.entries.iter().map(|entry| (entry.revision, Arc::downgrade(entry))));
        assert!(log.bytes() <= 4_000);
        let (_, oldest) = log.bounds();
        for (revision, entry) in &entries {
            assert_eq!(entry.upgrade().is_some(), *revision > oldest, "revision {revision}, {oldest} is forgotten");
        }
    }
    assert!(log.bounds().1 > 100, "some of 200 were to be forgotten");
}

/// A feed keeps a little; whoever is further behind reads the log, and gets the same.
#[test]
fn readers_far_behind_get_the_same() {
    let touched: Vec<_> = (0..1_200).map(|turn| vec![(0, turn % 3)]).collect();
    let (steps, list) = history(&touched);
    let log = EventLog::new(1 << 30, 0);
    let filter = |service| Filter::new("", service, "", "").expect("a filter");
    for services in [&["web"][..], &["web", "db"], &[""]] {
        let log = if services.len() == 1 { &log } else { &EventLog::new(1 << 30, 0) };
        let set = FilterSet::new(services.iter().map(|service| filter(service)));
        let matcher = Matcher::new(set);
        let scopes = matcher.scopes().to_vec();
        let feed = Arc::new(Feed::new(
            matcher,
            Uuid::nil(),
            1,
            0,
            Budgets { messages: Budget::new(1 << 20), summaries: Budget::new(0) },
        ));
        let _others = Arc::clone(&feed);
        let mut cursors: Vec<(u64, Vec<u64>)> = vec![(0, vec![]); 5];
        let read = |cursor: &mut (u64, Vec<u64>), most: usize| {
            for _ in 0..most {
                match feed.next(log, cursor.0, &mut None).expect("everything is kept") {
                    Next::Message(message) => {
                        cursor.0 = message.revision;
                        cursor.1.push(message.revision);
                    }
                    Next::UpToDate(revision) => return cursor.0 = revision,
                    Next::Uncounted => panic!("nobody asked for summaries"),
                }
            }
        };
        for (turn, (revision, events)) in steps.iter().enumerate() {
            if *revision > log.bounds().0 {
                log.publish(*revision, events.clone());
            }
            // One at once, one now and then, one slowly, one at last; one begins late.
            read(&mut cursors[0], usize::MAX);
            read(&mut cursors[1], if turn % 100 == 99 { usize::MAX } else { 0 });
            read(&mut cursors[2], usize::from(turn % 7 == 0));
            read(&mut cursors[4], if turn > 900 { usize::MAX } else { 0 });
        }
        let expected = list.iter().filter(|(_, places)| touches(&scopes, places)).map(|(revision, _)| *revision);
        let expected: Vec<_> = expected.collect();
        for (number, cursor) in cursors.iter_mut().enumerate() {
            read(cursor, usize::MAX);
            assert_eq!(cursor.1, expected, "reader {number} of {services:?}");
        }
    }
}

/// Promise 8: a message is at most 256 KiB; all but a revision's last part say that more follows.
#[test]
fn a_large_revision_spans_messages() {
    let mut registry = Registry::new(1, StateLimits::default());
    let log = EventLog::new(1 << 30, 0);
    let feed = Arc::new(Feed::new(
        Matcher::new(FilterSet::default()),
        Uuid::nil(),
        1,
        0,
        Budgets { messages: Budget::new(1 << 20), summaries: Budget::new(0) },
    ));
    let ids: Vec<_> = (0..1_000).map(|number| format!("{number:04}")).collect();
    let sizes = [10, 900, 5_000, 16_000];
    let puts = ids.iter().enumerate().map(|(number, id)| put("default", "web", id, sizes[number % sizes.len()]));
    let puts: Vec<_> = puts.collect();
    let deletes: Vec<_> = ids.iter().map(|id| delete("default", "web", id)).collect();
    for (revision, changes) in [(1, puts), (2, deletes)] {
        log.publish(revision, registry.fold(revision, &changes));
        let Ok(Next::Message(message)) = feed.next(&log, revision - 1, &mut None) else {
            panic!("there is a revision to tell")
        };
        let frames = message.watch_frames();
        assert!(frames.len() > 20, "{} frames", frames.len());
        let mut told = Vec::new();
        for (place, frame) in frames.iter().enumerate() {
            assert!(frame.len() <= MESSAGE, "{} bytes", frame.len());
            let response = WatchResponse::decode(frame.message()).expect("it is a message");
            let last = place + 1 == frames.len();
            assert_eq!((response.revision, response.more, response.resume_token.is_empty()), (revision, !last, !last));
            told.extend(response.events.into_iter().map(|event| event.instance.expect("a record").id));
        }
        assert_eq!(told, ids);
    }
}

/// Promise 16: a service is known for 24 hours after its last instance, whatever was before.
#[test]
fn a_service_is_known_for_a_day_after_its_last_instance() {
    const HOUR: u64 = 3_600;
    let mut registry = Registry::new(1, StateLimits::default());
    let leave = |at| Change::Delete(Delete { key: Key::new("a", "web", "1"), cause: Cause::Expired, at });
    registry.fold(1, &[put("a", "web", "1", 0)]);
    registry.fold(2, &[leave(HOUR)]);
    registry.fold(3, &[put("a", "web", "1", 0)]);
    registry.fold(4, &[leave(10 * HOUR)]);
    assert_eq!(registry.forgettable(25 * HOUR, 10), [], "its day began anew");
    assert_eq!(registry.forgettable(34 * HOUR - 1, 10), []);
    assert!(registry.service("a", "web").is_some_and(onair::registry::ServiceSet::is_empty));
    assert_eq!(registry.forgettable(34 * HOUR, 10), [("a".into(), "web".into())]);
    let (namespace, service) = ("a".into(), "web".into());
    registry.fold(5, &[Change::Forget { namespace, service }]);
    assert!(registry.service("a", "web").is_none());
    assert!(!registry.namespaces().contains_key("a"), "nothing is known of it any more");
    assert!(registry.namespaces().contains_key("default"), "`default` always exists");
}
