//! What the state forgets, and what it leaves behind.

use prost::Message;

use super::*;
use crate::registry::{Instance, Lease, SecretHash, Stamp};

fn put(service: &str) -> Change {
    put_keyed(service, "")
}

fn put_keyed(service: &str, key: &str) -> Change {
    let (namespace, id) = ("default".to_owned(), "a".to_owned());
    let partition_key = key.to_owned();
    let instance = Instance { namespace, service: service.into(), id, partition_key, ..Instance::default() };
    let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
    let (incarnation, revision) = (Stamp::Commit, Stamp::Commit);
    Change::Put(Put { description: instance.encode_to_vec().into(), lease, incarnation, ordinal: 0, revision })
}

fn delete(service: &str, at: u64) -> Change {
    Change::Delete(Delete { key: Key::new("default", service, "a"), cause: Cause::Expired, at })
}

/// A service that comes and goes all day is kept in mind once, and forgotten a day after it went last.
#[test]
fn a_service_is_forgotten_a_day_after_its_last_instance() {
    let mut registry = Registry::new(1, StateLimits::default());
    let mut revision = 0;
    let mut fold = |registry: &mut Registry, change| {
        revision += 1;
        registry.fold(revision, &[change]);
    };
    for at in 0..1_000 {
        fold(&mut registry, put("flaps"));
        fold(&mut registry, delete("flaps", at));
    }
    fold(&mut registry, put("stays"));
    fold(&mut registry, delete("stays", 1));
    fold(&mut registry, put("stays"));
    assert_eq!(registry.emptied.len(), 1);
    assert_eq!(registry.forgettable(998 + KNOWN_SECONDS, 10), []);
    let due = registry.forgettable(999 + KNOWN_SECONDS, 10);
    assert_eq!(due, [("default".into(), "flaps".into())]);
    // Not forgotten before that is committed.
    assert_eq!(registry.forgettable(999 + KNOWN_SECONDS, 10), due);
    let (namespace, service) = due[0].clone();
    fold(&mut registry, Change::Forget { namespace, service });
    assert_eq!(registry.forgettable(u64::MAX, 10), []);
    assert!(registry.service("default", "flaps").is_none() && registry.service("default", "stays").is_some());
}

/// Whatever an instance was called under, its service is found by what it is known under, and by nothing else.
#[test]
fn partitions_that_are_known_no_longer_leave_nothing() {
    let mut registry = Registry::new(1, StateLimits::default());
    let mut revision = 0;
    let mut fold = |registry: &mut Registry, change| {
        revision += 1;
        registry.fold(revision, &[change]);
        let held = &registry.namespaces["default"];
        held.assert_counted();
        assert_eq!(registry.partitions_in(&Scope::All), held.all_partitions());
    };
    for number in 0..1_000 {
        fold(&mut registry, put_keyed("moves", &number.to_string()));
    }
    assert_eq!(registry.partitions, 1);
    for number in 0..200 {
        fold(&mut registry, put_keyed("dies", &number.to_string()));
        fold(&mut registry, delete("dies", KNOWN_SECONDS * number));
    }
    assert!(registry.partitions < 150);
}
