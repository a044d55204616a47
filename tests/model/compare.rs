//! What the registry and the model have in common, compared.

use std::{collections::BTreeMap, sync::Arc};

use onair::{
    proto::LookupResponse,
    registry::{Cause, Error, Event, Key, Outcome, Record, Registry, ReplyBudget, Secret, StateLimits, Verdict},
};
use prost::Message as _;
use smol_str::SmolStr;

use super::{
    naive::{Answer, Crossing, Held, Model, Worth},
    rig::TAG,
};

/// Everything that a registry holds, without how.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump {
    pub revision: u64,
    pub records: BTreeMap<Key, Record>,
    /// Instances, routable ones, and the second of the last removal if there is none.
    pub services: BTreeMap<(String, String), (u32, u32, Option<u64>)>,
    pub namespaces: Vec<String>,
}

pub fn dump(registry: &Registry) -> Dump {
    let records: BTreeMap<_, _> = registry.records().map(|(_, record)| (record.key(), record.clone())).collect();
    assert_eq!(records.len(), registry.records().count(), "a key is held twice");
    assert_eq!(records.len() as u64, registry.instances());
    let mut services = BTreeMap::new();
    for (namespace, held) in registry.namespaces() {
        for (service, set) in &held.services {
            let emptied = set.is_empty().then_some(set.emptied_at());
            services.insert((namespace.to_string(), service.to_string()), (set.len(), set.routable(), emptied));
        }
    }
    assert_eq!(services.len() as u64, registry.services());
    let namespaces = registry.namespaces().keys().map(ToString::to_string).collect();
    Dump { revision: registry.revision(), records, services, namespaces }
}

/// Compares all that is held, by every way to it.
pub fn states(registry: &Registry, model: &Model, budget: &Arc<ReplyBudget>) -> Dump {
    let dump = dump(registry);
    assert_eq!(dump.revision, model.revision);
    assert_eq!(dump.records.keys().collect::<Vec<_>>(), model.live.keys().collect::<Vec<_>>());
    for (key, held) in &model.live {
        let record = &dump.records[key];
        same(record, held);
        let slot = registry.slot_of(key).expect("it is held");
        assert!(registry.record(slot).is_some_and(|found| found.is(record)), "{key} by its slot");
    }
    assert_eq!(dump.namespaces, model.namespaces());
    assert_eq!(dump.services.keys().collect::<Vec<_>>(), model.known.keys().collect::<Vec<_>>());
    for ((namespace, service), emptied) in &model.known {
        let within: Vec<_> =
            model.live.iter().filter(|(key, _)| key.namespace == *namespace && key.service == *service).collect();
        let routable = within.iter().filter(|(_, held)| held.instance.status().is_routable()).count();
        let counts = (within.len() as u32, routable as u32, *emptied);
        assert_eq!(dump.services[&(namespace.clone(), service.clone())], counts, "{namespace}/{service}");
        let set = registry.service(namespace, service).expect("it is known");
        let ids: Vec<_> = set.iter().map(|record| record.names().2).collect();
        assert_eq!(ids, within.iter().map(|(key, _)| key.id.as_str()).collect::<Vec<_>>(), "in order of id");
        let reply = LookupResponse::decode(set.first_page(budget).instances).expect("a response");
        let found = within.iter().map(|(_, held)| &held.instance).filter(|instance| instance.status().is_routable());
        assert!(reply.instances.iter().eq(found), "the ready reply of {namespace}/{service}");
        let newest = within.iter().map(|(_, held)| held.instance.revision).max();
        assert!(newest <= Some(set.revision()) && set.revision() <= model.revision, "{namespace}/{service}");
    }
    dump
}

/// A record is the instance that the model holds.
pub fn same(record: &Record, held: &Held) {
    assert_eq!(record.instance(), held.instance);
    assert_eq!((record.incarnation, record.revision), (held.instance.incarnation, held.instance.revision));
    assert_eq!((record.ordinal, record.status), (held.ordinal, held.instance.status()), "{:?}", held.instance);
    let lease = &record.lease;
    assert_eq!((lease.ttl, lease.principal.as_deref()), (held.ttl, held.principal), "{:?}", held.instance);
    assert_eq!(lease.secret, Secret(held.secret).hash(), "{:?}", held.instance);
}

pub fn worth(verdict: Verdict) -> Worth {
    match verdict {
        Verdict::Unknown => Worth::Unknown,
        Verdict::Expired => Worth::Expired,
        Verdict::Superseded(_) => Worth::Superseded,
        Verdict::Denied => Worth::Denied,
        Verdict::Live(_) => Worth::Live,
    }
}

pub fn answers(reply: &Result<Outcome, Error>, answer: &Answer) {
    let got = match reply {
        Ok(Outcome::Registered { key, secret, .. }) => Answer::Registered(key.clone(), secret.0),
        Ok(Outcome::Renewed { ttl }) => Answer::Renewed(*ttl),
        Ok(Outcome::NotRenewed(verdict)) => Answer::NotRenewed(worth(*verdict)),
        Ok(Outcome::Removed(removed)) => Answer::Removed(*removed),
        Ok(Outcome::Drained { key, by_lease }) => Answer::Drained(key.clone(), *by_lease),
        Ok(Outcome::Done) => Answer::Done,
        Ok(Outcome::Deployed(..) | Outcome::Kept { .. }) => unreachable!("nothing is deployed in these histories"),
        Err(Error::Superseded { .. }) => Answer::Superseded,
        Err(Error::KeyHeld { .. }) => Answer::KeyHeld,
        Err(Error::LeaseDenied) => Answer::Denied,
        Err(Error::NotFound { .. }) => Answer::NotFound,
        Err(Error::Permission { .. }) => Answer::NotPermitted,
        Err(Error::Limit { limit, maximum, usage }) => {
            // Of several that are reached, any.
            let one = (*limit, *maximum, *usage);
            assert!(matches!(answer, Answer::Limit(reached) if reached.contains(&one)), "{one:?} for {answer:?}");
            return;
        }
        // Nothing in these histories waits for others; `src/registry/waiting/tests.rs` has those that do.
        Ok(Outcome::Admitted(_)) => unreachable!("admitted together"),
        Err(error) => unreachable!("{error}"),
    };
    assert_eq!(got, *answer);
}

/// What watchers can see of a revision.
pub fn crossings(events: &[Event], crossings: &[Crossing]) {
    let visible: Vec<_> = events.iter().filter(|event| event.is_visible()).collect();
    assert_eq!(visible.len(), crossings.len(), "{visible:?} for {crossings:?}");
    for (event, crossing) in visible.into_iter().zip(crossings) {
        assert_eq!(event.before.is_some(), crossing.before.is_some());
        assert_eq!(event.after.is_some(), crossing.after.is_some());
        event.before.iter().zip(&crossing.before).for_each(|(record, held)| same(record, held));
        event.after.iter().zip(&crossing.after).for_each(|(record, held)| same(record, held));
        if crossing.cause != Cause::Unspecified {
            assert_eq!(event.cause, crossing.cause);
        }
    }
}

/// The registry as it comes back from what a store keeps of it: bytes, in no particular order.
pub fn recovered(registry: &Registry, limits: (u64, u64, u64), revision: u64) -> Registry {
    let dump = dump(registry);
    from_dump(&dump, limits, revision)
}

/// As `recovered`, of a dump, and as if its revision were another.
pub fn from_dump(dump: &Dump, (instances, services, namespaces): (u64, u64, u64), revision: u64) -> Registry {
    let mut registry = Registry::new(TAG, StateLimits { instances, services, namespaces });
    let stored = dump.records.values().rev().map(|record| {
        let lease = record.lease.clone();
        Record::new(record.description(), lease, record.incarnation, record.ordinal, record.revision)
    });
    // A store also remembers removals of services that have instances again.
    let known = dump.services.iter().map(|((namespace, service), (.., emptied))| {
        (SmolStr::new(namespace), SmolStr::new(service), emptied.unwrap_or(7))
    });
    registry.recover(revision, stored, known, []);
    registry
}
