//! What is known of a service: the instances of one moment, which of them take traffic, and how one is chosen. What another
//! registry does not have yet is held for a while. No I/O, no clock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::fold::Change;
use crate::{
    proto::{Cause, EventType, Instance, ResetReason, Status},
    registry::{Candidate, Choice, pick},
};

/// How long those are held that were there before the registry was another: who is alive has registered again by then, and
/// a registry waits as long for its own after a restart.
const HOLD: Duration = Duration::from_secs(30);

/// How one is chosen. Preferred are, in this order: healthy ones in the preferred zone, healthy ones elsewhere, `SUSPECT`
/// ones there, `SUSPECT` ones elsewhere. One of weight 0 is never chosen, nor one of another status, which a selector may
/// ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick<'a> {
    /// Each as likely as any other.
    Random,
    /// In turn.
    RoundRobin,
    /// Each as likely as its weight is large.
    Weighted,
    /// The same for the same key, while it is there.
    Rendezvous(&'a str),
}

/// The instances of one moment.
#[derive(Clone, Debug, Default)]
pub struct Instances {
    /// All of them, by id.
    all: Vec<Arc<Instance>>,
    /// Those of the best rank that has any.
    best: Vec<Arc<Instance>>,
    /// Their weights, each with those before it.
    weights: Vec<u64>,
    /// Something is known.
    begun: bool,
    /// What is known of some is not known to be so any more.
    aged: Option<Aged>,
}

/// How old something is: so old, at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Aged {
    at: Instant,
    age: Duration,
}

impl Aged {
    fn since(at: Instant) -> Self {
        Self { at, age: Duration::ZERO }
    }

    pub(super) fn age(self) -> Duration {
        self.age.saturating_add(self.at.elapsed())
    }
}

impl Instances {
    fn new(all: Vec<Arc<Instance>>, zone: &str) -> Self {
        let rank = |instance: &Instance| {
            let elsewhere = !zone.is_empty() && instance.zone != zone;
            (instance.status() == Status::Suspect, elsewhere)
        };
        let routable = |instance: &&Arc<Instance>| matches!(instance.status(), Status::Serving | Status::Suspect);
        let takes = all.iter().filter(routable).filter(|instance| weight(instance) > 0);
        let first = takes.clone().map(|instance| rank(instance)).min();
        let best: Vec<_> = takes.filter(|instance| Some(rank(instance)) == first).cloned().collect();
        let weights = best.iter().scan(0, |sum, instance| {
            *sum += u64::from(weight(instance));
            Some(*sum)
        });
        Self { weights: weights.collect(), best, all, begun: true, aged: None }
    }

    /// All of them, by id.
    #[must_use]
    pub fn all(&self) -> &[Arc<Instance>] {
        &self.all
    }

    /// Those of the best rank that has any, which take traffic.
    pub(super) fn best(&self) -> &[Arc<Instance>] {
        &self.best
    }

    /// Whether something is known.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// How old it is, where some of it is not known to be so any more.
    pub(super) fn aged(&self) -> Option<Aged> {
        self.aged
    }

    pub(super) fn pick(&self, how: Pick<'_>, turn: u64, random: u64) -> Option<&Arc<Instance>> {
        self.best.get(self.place(how, turn, random)?)
    }

    /// Where in `best` the one is that is chosen.
    pub(super) fn place(&self, how: Pick<'_>, turn: u64, random: u64) -> Option<usize> {
        let count = self.best.len() as u64;
        let place = match how {
            _ if count == 0 => return None,
            Pick::Random => below(random, count),
            Pick::RoundRobin => turn % count,
            Pick::Weighted => {
                let drawn = below(random, *self.weights.last()?);
                self.weights.partition_point(|through| *through <= drawn) as u64
            }
            Pick::Rendezvous(key) => {
                let candidate = |instance: &'_ Arc<Instance>| (instance.id.clone(), weight(instance));
                let known: Vec<_> = self.best.iter().map(candidate).collect();
                let candidates: Vec<_> = known
                    .iter()
                    .map(|(id, weight)| Candidate { id, zone: "", weight: *weight, suspect: false })
                    .collect();
                *pick(Choice::Rendezvous { key }, &candidates, 1, "", &mut || random).first()? as u64
            }
        };
        usize::try_from(place).ok()
    }
}

pub(super) fn weight(instance: &Instance) -> u32 {
    instance.weight.unwrap_or(1)
}

/// A number below `bound` of a random one; as even as 64 bits allow.
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

type Key = (String, String, String);

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    there: BTreeMap<Key, Arc<Instance>>,
    /// Who was there before the registry was another, since when, and is not there yet.
    held: BTreeMap<Key, (Arc<Instance>, Instant)>,
    begun: bool,
    /// It was kept, and the registry was not heard yet.
    kept: Option<Aged>,
    zone: String,
}

impl Known {
    /// Of nothing. Picks prefer this zone, unless it is empty.
    pub(super) fn new(zone: String) -> Self {
        Self { zone, ..Self::default() }
    }

    /// Of what was kept, so long ago, until the registry is heard.
    pub(super) fn restore(&mut self, instances: Vec<Instance>, age: Duration, now: Instant) {
        self.there = instances.into_iter().map(|instance| (key(&instance), Arc::new(instance))).collect();
        (self.begun, self.kept) = (true, Some(Aged { at: now, age }));
    }

    /// Takes a change in.
    pub(super) fn take(&mut self, change: Change, now: Instant) {
        self.begun = true;
        if self.kept.take().is_some() {
            // The first change has all that is there.
            self.there.clear();
        }
        let is_another = change.reset == Some(ResetReason::AnotherRegistry);
        for event in change.events {
            let (kind, cause) = (event.r#type(), event.cause());
            let Some(instance) = event.instance else { continue };
            let key = key(&instance);
            self.held.remove(&key);
            if kind != EventType::Offline {
                self.there.insert(key, Arc::new(instance));
            } else if let Some(gone) = self.there.remove(&key)
                && is_another
                && cause == Cause::Unspecified
            {
                self.held.insert(key, (gone, now));
            }
        }
    }

    /// When somebody is to be held no longer.
    pub(super) fn until(&self) -> Option<Instant> {
        self.held.values().map(|(_, since)| *since + HOLD).min()
    }

    /// Lets those go that were held for so long.
    pub(super) fn let_go(&mut self, now: Instant) {
        self.held.retain(|_, (_, since)| *since + HOLD > now);
    }

    /// Those that the registry has, by id.
    pub(super) fn there(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.there.values()
    }

    /// As it is now.
    pub(super) fn instances(&self) -> Instances {
        let mut all: Vec<_> = self.there.values().cloned().collect();
        if !self.held.is_empty() {
            all.extend(self.held.values().map(|(instance, _)| Arc::clone(instance)));
            all.sort_by(|a, b| by_id(a).cmp(&by_id(b)));
        }
        let held = self.held.values().map(|(_, since)| Aged::since(*since));
        let aged = held.chain(self.kept).min();
        Instances { begun: self.begun, aged, ..Instances::new(all, &self.zone) }
    }
}

/// By id first.
fn by_id(instance: &Instance) -> (&str, &str, &str) {
    (&instance.id, &instance.namespace, &instance.service)
}

fn key(instance: &Instance) -> Key {
    let (id, namespace, service) = by_id(instance);
    (id.to_owned(), namespace.to_owned(), service.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Event;

    fn of(id: &str, weight: u32, status: Status) -> Instance {
        Instance { id: id.into(), weight: Some(weight), status: status.into(), ..Instance::default() }
    }

    fn change(reset: Option<ResetReason>, events: &[(EventType, Cause, &str)]) -> Change {
        let event = |(kind, cause, id): &(EventType, Cause, &str)| Event {
            r#type: (*kind).into(),
            cause: (*cause).into(),
            instance: Some(of(id, 1, Status::Serving)),
        };
        Change { reset, snapshot: reset.is_some(), events: events.iter().map(event).collect(), ..Change::default() }
    }

    fn ids(instances: &Instances) -> Vec<&str> {
        instances.all().iter().map(|instance| instance.id.as_str()).collect()
    }

    #[test]
    fn only_what_takes_traffic_is_chosen() {
        let all = [
            of("a", 1, Status::Starting),
            of("b", 1, Status::Draining),
            of("c", 1, Status::Maintenance),
            of("d", 1, Status::Unspecified),
            of("e", 0, Status::Serving),
            of("f", 1, Status::Suspect),
        ];
        let all: Vec<_> = all.into_iter().map(Arc::new).collect();
        let instances = Instances::new(all.clone(), "");
        assert_eq!((instances.all().len(), instances.best().len(), instances.best()[0].id.as_str()), (6, 1, "f"));
        let healthy = Arc::new(of("g", 1, Status::Serving));
        let instances = Instances::new(all.into_iter().chain([healthy]).collect(), "");
        assert_eq!((instances.best().len(), instances.best()[0].id.as_str()), (1, "g"));
    }

    #[test]
    fn another_registry_is_given_time_to_hear_of_who_is_there() {
        let (online, offline, updated) = (EventType::Online, EventType::Offline, EventType::Updated);
        let (now, none) = (Instant::now(), Cause::Unspecified);
        let mut known = Known::new(String::new());
        assert!(!known.instances().has_begun());
        known.take(change(None, &[(online, none, "a"), (online, none, "b"), (online, none, "c")]), now);
        // A reset of the same registry says who has gone.
        known.take(change(Some(ResetReason::TooOld), &[(offline, none, "c")]), now);
        assert_eq!((ids(&known.instances()), known.until()), (vec!["a", "b"], None));
        let another = Some(ResetReason::AnotherRegistry);
        known.take(change(another, &[(offline, none, "a"), (offline, none, "b")]), now);
        assert_eq!((ids(&known.instances()), known.instances().aged()), (vec!["a", "b"], Some(Aged::since(now))));
        // Who comes back is there; who comes back and goes has gone.
        known.take(change(None, &[(online, Cause::Registered, "a")]), now);
        known.take(change(None, &[(updated, none, "a"), (offline, Cause::Expired, "a")]), now);
        assert_eq!(ids(&known.instances()), ["b"]);
        known.let_go(now + HOLD - Duration::from_millis(1));
        assert_eq!((ids(&known.instances()), known.until()), (vec!["b"], Some(now + HOLD)));
        known.let_go(now + HOLD);
        assert_eq!((ids(&known.instances()).len(), known.instances().aged()), (0, None));
    }

    #[test]
    fn what_was_kept_is_known_until_the_registry_is_heard() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3_600));
        let mut known = Known::new(String::new());
        known.restore(vec![of("a", 1, Status::Serving), of("b", 1, Status::Serving)], hour, now);
        let instances = known.instances();
        assert!(instances.has_begun() && instances.aged().unwrap().age() >= hour);
        assert_eq!(ids(&instances), ["a", "b"]);
        known.take(change(None, &[(EventType::Online, Cause::Snapshot, "b")]), now);
        assert_eq!((ids(&known.instances()), known.instances().aged()), (vec!["b"], None));
    }
}
