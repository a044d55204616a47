//! Acknowledged changes: each is there for everyone who may know of it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use onair::{
    proto::{DeregisterRequest, RegisterRequest},
    registry::{Cause, EventType, Instance, Key, Status},
};

use super::{
    Fault, Operation, Place, Reply, Request, View, fault, key_of,
    legal::is_end,
    reads::{Read, reads},
    span::Span,
};

/// Promise 14: what was answered is visible to every call that begins later.
pub fn visible_then_answered(view: &View<'_>) -> Vec<Fault> {
    // Answers in the order they came, with the largest revision so far.
    let mut answered: Vec<(Duration, u64, usize)> = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        if let Some((end, reply)) = operation.reply() {
            answered.extend(reply.revision().map(|revision| (end, revision, number)));
        }
    }
    answered.sort_by_key(|(end, ..)| *end);
    for at in 1..answered.len() {
        let (before, (_, revision, number)) = (answered[at - 1], &mut answered[at]);
        if before.1 > *revision {
            (*revision, *number) = (before.1, before.2);
        }
    }
    let mut faults = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        let Some(revision) = operation.reply().and_then(|(_, reply)| reply.revision()) else { continue };
        let earlier = answered.partition_point(|(end, ..)| *end < operation.start);
        let Some((_, known, by)) = earlier.checked_sub(1).map(|at| answered[at]) else { continue };
        if revision < known {
            let what =
                format!("of revision {revision}, though operation {by} was answered with {known} before it began");
            faults.push(fault(14, Place::Operation(number), what));
        }
    }
    faults
}

/// Promise 15: lookups reach the revision they ask for, and every acknowledged change is in all that is later, in a watch
/// at exactly its revision.
pub fn read_your_writes(view: &View<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        if let (Request::Lookup(request), Some((_, Reply::Lookup(reply)))) = (&operation.request, operation.reply())
            && reply.revision < request.min_revision
        {
            let what = format!("of revision {}, asked for was {}", reply.revision, request.min_revision);
            faults.push(fault(15, Place::Operation(number), what));
        }
    }
    let reads = reads(view);
    let spans: Vec<_> = view.spans.iter().map(Indexed::of).collect();
    let others = Others::of(view);
    for (number, operation) in view.history.operations.iter().enumerate() {
        match (&operation.request, operation.reply()) {
            (Request::Register(_), Some((_, Reply::Register(reply)))) => {
                if let Some(instance) = &reply.instance {
                    registered(number, instance, &reads, &spans, &others, &mut faults);
                }
            }
            (Request::Deregister(request), Some((_, Reply::Deregister(reply)))) if reply.removed > 0 => {
                if let Some(name) = view.leases.by_token.get(request.lease_token.as_str()) {
                    deregistered(number, name, reply.revision, &reads, &spans, &mut faults);
                }
            }
            _ => {}
        }
    }
    faults
}

fn registered(
    number: usize,
    instance: &Instance,
    reads: &[Read<'_>],
    spans: &[Indexed<'_, '_>],
    others: &Others<'_>,
    faults: &mut Vec<Fault>,
) {
    let (key, revision) = (key_of(instance), instance.revision);
    for read in reads.iter().filter(|read| read.revision >= revision && read.filters.matches(instance)) {
        let what = match read.held.get(&key) {
            Some(shown) if shown.revision < revision => {
                format!("{key} is of revision {}, registered (operation {number}) was {revision}", shown.revision)
            }
            None if !others.excuse(number, &key, instance, read) => {
                format!("{key} is missing, registered (operation {number}) at revision {revision}")
            }
            _ => continue,
        };
        faults.push(fault(15, read.place, what));
    }
    for span in spans.iter().filter(|span| span.of.covers(revision) && span.of.filters.matches(instance)) {
        let there = span.events(&key, revision).any(|(kind, _, one)| kind != EventType::Offline && one == instance);
        if !there {
            let what = format!("revision {revision} lacks {key} as it was registered (operation {number})");
            faults.push(fault(15, span.of.place_of(revision), what));
        }
    }
}

fn deregistered(
    number: usize,
    (key, incarnation): &(Key, u64),
    revision: u64,
    reads: &[Read<'_>],
    spans: &[Indexed<'_, '_>],
    faults: &mut Vec<Fault>,
) {
    for read in reads.iter().filter(|read| read.revision >= revision) {
        if read.held.get(key).is_some_and(|shown| shown.incarnation <= *incarnation) {
            let what = format!("{key} is there, deregistered (operation {number}) at revision {revision}");
            faults.push(fault(15, read.place, what));
        }
    }
    for span in spans.iter().filter(|span| span.of.covers(revision)) {
        let here = span.before(key, revision).is_some_and(|one| one.incarnation == *incarnation);
        let gone = span.events(key, revision).any(|(kind, cause, one)| {
            kind == EventType::Offline && cause == Cause::Deregistered && one.incarnation == *incarnation
        });
        if here && !gone {
            let what = format!("revision {revision} lacks the end of {key}, deregistered (operation {number})");
            faults.push(fault(15, span.of.place_of(revision), what));
        }
    }
}

/// A span whose events are found by key.
struct Indexed<'s, 'h> {
    of: &'s Span<'h>,
    by_key: BTreeMap<Key, Vec<(u64, EventType, Cause, &'h Instance)>>,
}

impl<'s, 'h> Indexed<'s, 'h> {
    fn of(span: &'s Span<'h>) -> Self {
        let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (revision, seen) in &span.events {
            for event in &seen.events {
                let Some(instance) = &event.instance else { continue };
                let step = (*revision, event.r#type(), event.cause(), instance);
                by_key.entry(key_of(instance)).or_default().push(step);
            }
        }
        Self { of: span, by_key }
    }

    /// What happened to a key at a revision.
    fn events(&self, key: &Key, revision: u64) -> impl Iterator<Item = (EventType, Cause, &'h Instance)> {
        let all = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        all.iter().filter(move |(at, ..)| *at == revision).map(|(_, kind, cause, one)| (*kind, *cause, *one))
    }

    /// What was in the set under a key before a revision, if that is known.
    fn before(&self, key: &Key, revision: u64) -> Option<&'h Instance> {
        let all = self.by_key.get(key).map_or(&[][..], Vec::as_slice);
        match all.iter().take_while(|(at, ..)| *at < revision).last() {
            Some((_, kind, _, one)) => (*kind != EventType::Offline).then_some(*one),
            None => self.of.base.as_ref()?.get(key).copied(),
        }
    }
}

/// What else may have happened to a key that was registered.
struct Others<'v> {
    view: &'v View<'v>,
    /// Revisions at which a key was seen to end.
    ends: HashMap<Key, Vec<u64>>,
    /// Operations that may touch the instances of a service, by its name.
    by_service: HashMap<&'v str, Vec<usize>>,
}

impl<'v> Others<'v> {
    fn of(view: &'v View<'v>) -> Self {
        let mut ends: HashMap<_, Vec<_>> = HashMap::new();
        for span in &view.spans {
            for (revision, seen) in &span.events {
                for event in seen.events.iter().filter(|event| is_end(event.cause())) {
                    if let Some(instance) = &event.instance {
                        ends.entry(key_of(instance)).or_default().push(*revision);
                    }
                }
            }
        }
        let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
        let service_of = |token: &str| view.leases.by_token.get(token).map(|(key, _)| key.service.as_str());
        for (number, operation) in view.history.operations.iter().enumerate() {
            let services: Vec<&str> = match &operation.request {
                Request::Register(request) => request.instance.iter().map(|one| one.service.as_str()).collect(),
                Request::Deregister(request) => {
                    let tokens = request.lease_tokens.iter().chain([&request.lease_token]);
                    tokens.filter_map(|token| service_of(token)).chain([request.service.as_str()]).collect()
                }
                Request::Heartbeat(request) => {
                    let changing = request.beats.iter().filter(|beat| beat.status() != Status::Unspecified);
                    changing.filter_map(|beat| service_of(&beat.lease_token)).collect()
                }
                Request::Lookup(_) | Request::Other(_) => continue,
            };
            for service in services {
                by_service.entry(service).or_default().push(number);
            }
        }
        Self { view, ends, by_service }
    }

    /// Whether an instance may rightly be missing in a read: it was seen to end, its lease may have lapsed, or another
    /// operation may have changed it or taken it away.
    fn excuse(&self, number: usize, key: &Key, instance: &Instance, read: &Read<'_>) -> bool {
        let ended = |at: &u64| instance.revision < *at && *at <= read.revision;
        self.ends.get(key).is_some_and(|ends| ends.iter().any(ended))
            || self.lapsed(key, instance.incarnation, read.at)
            || self.by_service.get(instance.service.as_str()).is_some_and(|operations| {
                operations.iter().any(|other| *other != number && self.touches(*other, key, instance, read.at))
            })
    }

    /// Whether nothing is known to have kept the key's lease up to `at`.
    fn lapsed(&self, key: &Key, incarnation: u64, at: Duration) -> bool {
        let lives = self.view.leases.lives.range((key.clone(), incarnation)..=(key.clone(), u64::MAX));
        let kept = |life: &super::leases::Life<'_>| {
            life.renewed.iter().any(|(start, _)| *start <= at && at < *start + life.ttl_min())
        };
        !lives.into_iter().any(|(_, life)| kept(life))
    }

    fn touches(&self, other: usize, key: &Key, instance: &Instance, at: Duration) -> bool {
        let operation: &Operation = &self.view.history.operations[other];
        let is_of_key = |token: &str| self.view.leases.by_token.get(token).is_some_and(|(of, _)| of == key);
        if operation.start > at {
            return false;
        }
        match (&operation.request, operation.reply()) {
            (Request::Register(_), Some((_, Reply::Register(reply)))) => {
                reply.instance.as_ref().is_some_and(|one| key_of(one) == *key && one.revision > instance.revision)
            }
            (Request::Register(RegisterRequest { instance: Some(one), .. }), _) => {
                one.id.is_empty() || one.id == instance.id
            }
            (Request::Deregister(DeregisterRequest { lease_token, lease_tokens, id, all, .. }), _) => {
                is_of_key(lease_token)
                    || lease_tokens.iter().any(|token| is_of_key(token))
                    || *all
                    || *id == instance.id
            }
            (Request::Heartbeat(request), _) => {
                request.beats.iter().any(|beat| beat.status() != Status::Unspecified && is_of_key(&beat.lease_token))
            }
            _ => false,
        }
    }
}
