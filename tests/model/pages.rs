//! Services of thousands of instances, and readers of snapshots, against sorted lists.

use std::collections::BTreeMap;

use bytes::Bytes;
use onair::registry::{
    Cause, Change, Delete, Instance, Key, Lease, Put, Record, Registry, Scope, SecretHash, Snapshot, Stamp,
    StateLimits, Status, disjoint,
};
use proptest::{collection::vec, prelude::*};
use prost::Message;

/// Most instances in a page, as the design has it.
const PAGE: usize = 256;

fn put(namespace: &str, service: &str, id: &str, status: Status) -> Change {
    let instance = Instance {
        namespace: namespace.into(),
        service: service.into(),
        id: id.into(),
        status: status as i32,
        ..Instance::default()
    };
    let lease = Lease { ttl: 10_000, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
    let description = Bytes::from(instance.encode_to_vec());
    Change::Put(Put { description, lease, incarnation: Stamp::Commit, ordinal: 0, revision: Stamp::Commit })
}

fn delete(namespace: &str, service: &str, id: &str) -> Change {
    Change::Delete(Delete { key: Key::new(namespace, service, id), cause: Cause::Deregistered, at: 1 })
}

fn read(mut reader: onair::registry::SnapshotReader) -> Vec<(Key, u64)> {
    let records = std::iter::from_fn(|| reader.next_record());
    records.map(|record: Record| (record.key(), record.revision)).collect()
}

type Sorted = BTreeMap<Key, (u64, Status)>;

fn revisions(sorted: &Sorted) -> Vec<(Key, u64)> {
    sorted.iter().map(|(key, (revision, _))| (key.clone(), *revision)).collect()
}

/// One service under a storm: pages stay small, everything stays in order, and what was handed out stays as it was.
fn storm(puts: &[(u16, u8)], held_every: usize) {
    let mut registry = Registry::new(1, StateLimits::default());
    let mut sorted = Sorted::new();
    let mut held: Vec<(Snapshot, Vec<(Key, u64)>)> = Vec::new();
    for (turn, (number, kind)) in puts.iter().enumerate() {
        let revision = turn as u64 + 1;
        let id = format!("{:x}", u32::from(*number).wrapping_mul(0x9e37_79b9));
        let key = Key::new("default", "web", &*id);
        let change = match kind % 8 {
            0..2 => {
                sorted.remove(&key);
                delete("default", "web", &id)
            }
            kind => {
                let status = if kind == 7 { Status::Draining } else { Status::Serving };
                sorted.insert(key, (revision, status));
                put("default", "web", &id, status)
            }
        };
        registry.fold(revision, &[change]);
        if turn % held_every == 0 {
            let scope = Scope::Service("default".into(), "web".into());
            held.push((registry.snapshot(&[scope]), revisions(&sorted)));
        }
    }
    let set = registry.service("default", "web").expect("it is known");
    let routable = sorted.values().filter(|(_, status)| status.is_routable()).count();
    assert_eq!((set.len() as usize, set.routable() as usize), (sorted.len(), routable));
    assert_eq!(set.iter().map(|record| (record.key(), record.revision)).collect::<Vec<_>>(), revisions(&sorted));
    for page in 0..set.pages() {
        assert!(set.at(page, 0).is_some(), "page {page} of {} is empty", set.pages());
        assert!(set.at(page, PAGE).is_none(), "page {page} is too large");
    }
    for (snapshot, list) in held {
        assert_eq!(read(snapshot.reader()), list);
    }
}

proptest! {
    #![proptest_config(super::cases(6))]

    #[test]
    fn a_service_of_thousands_is_a_sorted_list(puts in vec((0..6_000_u16, any::<u8>()), 4_000), every in 1..900_usize) {
        storm(&puts, every);
    }
}

const NAMES: [&str; 7] = ["a", "a b", "a-b", "aa", "b", "default", "é"];

proptest! {
    #![proptest_config(super::cases(60))]

    /// A reader from any place, which need not be there, goes on with what comes after it.
    #[test]
    fn a_snapshot_is_read_from_any_place(
        names in vec((0..7_usize, 0..7_usize, 0..7_usize), 0..60),
        gone in vec(0..60_usize, 0..20),
        scopes in vec((any::<bool>(), 0..7_usize, 0..7_usize), 1..5),
        from in (0..8_usize, 0..8_usize, 0..8_usize),
    ) {
        let mut registry = Registry::new(1, StateLimits::default());
        let mut sorted = Sorted::new();
        let mut revision = 0;
        for (namespace, service, id) in &names {
            let (namespace, service, id) = (NAMES[*namespace], NAMES[*service], NAMES[*id]);
            revision += 1;
            registry.fold(revision, &[put(namespace, service, id, Status::Serving)]);
            sorted.insert(Key::new(namespace, service, id), (revision, Status::Serving));
        }
        for (namespace, service, id) in gone.iter().filter_map(|place| names.get(*place)) {
            let (namespace, service, id) = (NAMES[*namespace], NAMES[*service], NAMES[*id]);
            revision += 1;
            // Services stay without instances, which readers pass over.
            registry.fold(revision, &[delete(namespace, service, id)]);
            sorted.remove(&Key::new(namespace, service, id));
        }
        let scope = |&(whole, namespace, service): &(bool, usize, usize)| match whole {
            true => Scope::Namespace(NAMES[namespace].into()),
            false => Scope::Service(NAMES[namespace].into(), NAMES[service].into()),
        };
        let mut scopes: Vec<_> = scopes.iter().map(scope).collect();
        let within = |scopes: &[Scope], key: &Key| scopes.iter().any(|scope| scope.covers(&key.namespace, &key.service));
        let all = revisions(&sorted);
        let expected: Vec<_> = all.iter().filter(|(key, _)| within(&scopes, key)).cloned().collect();
        prop_assert_eq!(read(registry.snapshot(&disjoint(scopes.clone())).reader()), expected);
        prop_assert_eq!(read(registry.snapshot(&[Scope::All]).reader()), all.clone());
        // From a place in a single scope: "" and what is beyond the last name too.
        let name = |place: usize| NAMES.get(place).copied().unwrap_or("zz");
        let place = Key::new(name(from.0), name(from.1), name(from.2));
        // Of services whose names begin so, from the first and from a place among them.
        let prefix: String = name(from.1).chars().take(1).collect();
        let under = || registry.snapshot(&[Scope::All]).under(&prefix);
        let mut wanted: Vec<_> = all.iter().filter(|(key, _)| key.service.starts_with(&prefix)).cloned().collect();
        prop_assert_eq!(&read(under().reader()), &wanted, "under {:?}", prefix);
        wanted.retain(|(key, _)| *key > place);
        prop_assert_eq!(read(under().reader_after(&place.namespace, &place.service, &place.id)), wanted);
        scopes.push(Scope::All);
        for scope in scopes {
            // A page token names a key that was there, within what is asked for.
            if !scope.covers(&place.namespace, &place.service) {
                continue;
            }
            let snapshot = registry.snapshot(std::slice::from_ref(&scope));
            let rest = all.iter().filter(|(key, _)| scope.covers(&key.namespace, &key.service) && *key > place);
            let reader = snapshot.reader_after(&place.namespace, &place.service, &place.id);
            prop_assert_eq!(read(reader), rest.cloned().collect::<Vec<_>>(), "{:?} after {}", scope, place);
        }
    }
}
