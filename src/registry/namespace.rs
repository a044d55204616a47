//! The services of one namespace, by name and by the keys of their partitions, and how each key stands. That is counted
//! when something changes: who asks for it looks at no service. Knows no clock.

use imbl::{OrdMap, OrdSet};
use smol_str::SmolStr;

use super::{
    service::{Moved, Replicas, ServiceSet},
    state::KNOWN_SECONDS,
};

/// The services of one namespace, by name. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Those that have an instance or had one lately.
    pub services: OrdMap<SmolStr, ServiceSet>,
    /// Partition key and service of those that have, or had, a partition with a name.
    partitions: OrdSet<(SmolStr, SmolStr)>,
    /// How each of these keys stands.
    keys: OrdMap<SmolStr, KeyStanding>,
}

/// How the services that have, or had, a partition of one key stand together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyStanding {
    /// Those whose partition has an instance.
    there: u32,
    /// Those of them that have no routable one.
    down: u32,
    /// Unix seconds at which the partitions that have no instance lost the last one, and how many did then.
    emptied: OrdMap<u64, u32>,
}

impl KeyStanding {
    /// Whether each service that is known of the key at `now` (Unix seconds) has a routable instance of it; none: no
    /// service is.
    #[must_use]
    pub fn is_up(&self, now: u64) -> Option<bool> {
        let one_is_gone = self.known_until().is_some_and(|until| until > now);
        (self.there > 0 || one_is_gone).then_some(self.down == 0 && !one_is_gone)
    }

    /// Unix seconds at which the last of those that have no instance is known no longer, if there are any.
    #[must_use]
    pub fn known_until(&self) -> Option<u64> {
        self.emptied.get_max().map(|(at, _)| at.saturating_add(KNOWN_SECONDS))
    }

    fn count(&mut self, of: &Replicas) {
        match of.instances {
            0 => *self.emptied.entry(of.emptied_at).or_default() += 1,
            _ => {
                self.there += 1;
                self.down += u32::from(of.routable == 0);
            }
        }
    }

    fn discount(&mut self, of: &Replicas) {
        match (of.instances, self.emptied.get_mut(&of.emptied_at)) {
            (0, Some(count)) if *count > 1 => *count -= 1,
            (0, _) => _ = self.emptied.remove(&of.emptied_at),
            _ => {
                self.there -= 1;
                self.down -= u32::from(of.routable == 0);
            }
        }
    }

    /// All that an answer depends on.
    fn sum(&self) -> (bool, bool, Option<u64>) {
        (self.there > 0, self.down > 0, self.known_until())
    }
}

impl Namespace {
    /// The services that have, or had lately, a partition of this key, from the name `from` on.
    pub fn of_partition<'a>(
        &'a self,
        key: &'a str,
        from: SmolStr,
    ) -> impl Iterator<Item = (&'a SmolStr, &'a ServiceSet)> {
        let of_key = self.partitions.range((SmolStr::new(key), from)..).take_while(move |(of, _)| of == key);
        of_key.filter_map(|(_, service)| self.services.get_key_value(service))
    }

    /// How the services of a partition key stand, if there are, or were, any.
    #[must_use]
    pub fn key(&self, key: &str) -> Option<&KeyStanding> {
        self.keys.get(key)
    }

    /// How many partitions there may be, at most.
    pub(super) fn all_partitions(&self) -> u64 {
        (self.services.len() + self.partitions.len()) as u64
    }

    /// Takes in what became of a service's partition. Whether its key stands otherwise.
    pub(super) fn follow(&mut self, service: &SmolStr, moved: &Moved) -> bool {
        let Moved { key, before, after } = moved;
        if before.is_none() {
            self.partitions.insert((key.clone(), service.clone()));
        } else if after.is_none() {
            self.partitions.remove(&(key.clone(), service.clone()));
        }
        let standing = self.keys.entry(key.clone()).or_default();
        let sum = standing.sum();
        before.iter().for_each(|of| standing.discount(of));
        after.iter().for_each(|of| standing.count(of));
        let is_other = standing.sum() != sum;
        if *standing == KeyStanding::default() {
            self.keys.remove(key);
        }
        is_other
    }

    /// Every partition that the services themselves have, for comparison.
    #[cfg(test)]
    pub(super) fn assert_counted(&self) {
        let (mut partitions, mut keys) = (OrdSet::new(), OrdMap::<SmolStr, KeyStanding>::new());
        for (service, set) in &self.services {
            for (key, of) in set.partitions() {
                partitions.insert((key.clone(), service.clone()));
                keys.entry(key.clone()).or_default().count(of);
            }
        }
        assert_eq!((&self.partitions, &self.keys), (&partitions, &keys));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(instances: u32, routable: u32, emptied_at: u64) -> Option<Replicas> {
        Some(Replicas { instances, routable, emptied_at })
    }

    /// One service that is down makes the whole be down, for a day if it is gone; and who asks hears only of that.
    #[test]
    fn a_key_stands_as_all_of_its_services_do() {
        let mut held = Namespace::default();
        let day = KNOWN_SECONDS;
        let mut now = std::collections::BTreeMap::new();
        for (service, after, at, is_other, is_up) in [
            ("a", of(1, 1, 0), 0, true, Some(true)),
            ("b", of(2, 1, 0), 0, false, Some(true)),
            ("b", of(2, 0, 0), 0, true, Some(false)),
            ("a", of(1, 0, 0), 0, false, Some(false)),
            ("a", of(0, 0, 10), 10, true, Some(false)),
            ("b", of(2, 2, 0), 10, true, Some(false)),
            ("b", of(2, 2, 0), day + 9, false, Some(false)),
            ("b", of(2, 2, 0), day + 10, false, Some(true)),
            ("b", of(0, 0, 20), day + 10, true, Some(false)),
            ("b", of(0, 0, 20), day + 20, false, None),
            ("a", of(0, 0, 20), day + 19, false, Some(false)),
            ("b", None, day + 19, false, Some(false)),
            ("a", None, day + 19, true, None),
        ] {
            let before = now.insert(service, after).flatten();
            let heard = held.follow(&service.into(), &Moved { key: "main".into(), before, after });
            let is = held.key("main").and_then(|key| key.is_up(at));
            assert_eq!((heard, is), (is_other, is_up), "{service} {after:?} at {at}");
        }
        assert!(held.partitions.is_empty() && held.keys.is_empty());
    }
}
