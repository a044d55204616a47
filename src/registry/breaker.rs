//! Promise 6: when most of a service's instances in a zone fall silent at once, that is more likely a network than so
//! many deaths, and their lapses are held back. Counts instances and silent ones of each (namespace, service, zone) as
//! they come, go, speak and fall silent, so that a lapse is judged without looking at its neighbours. Knows no clock and
//! no lease: `timekeeping` says who is silent.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
};

use hashbrown::HashTable;

/// Fewer silent ones are believed, whatever their share.
const SILENT_MIN: u32 = 5;

/// How many there are of a service in a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Instances, of whatever status.
    pub instances: u32,
    /// Those of them whose last beat is older than two thirds of their TTL.
    pub silent: u32,
}

impl Tally {
    /// Whether so many are silent that a lapse is held back: at least five, and more than half.
    #[must_use]
    pub fn trips(self) -> bool {
        self.silent >= SILENT_MIN && self.silent > self.instances / 2
    }
}

/// The first millisecond at which a lease that ends at `deadline` is silent: its last beat, a TTL before that, is then
/// older than two thirds of the TTL. Of a lease that was found at recovery nobody knows the last beat; what counts is
/// how much is left to it.
pub(super) fn silent_from(deadline: u64, ttl: u32) -> u64 {
    (deadline + 1).saturating_sub(u64::from(ttl).div_ceil(3).max(1))
}

/// Where an instance runs, as a small number that is given again when nobody is left there.
pub(super) type ZoneNumber = u32;

#[derive(Debug)]
struct Zone {
    /// The three names, each ended by a zero byte, which no name has.
    names: Box<str>,
    tally: Tally,
}

/// Every (namespace, service, zone) that has an instance.
#[derive(Debug, Default)]
pub(super) struct Zones {
    zones: Vec<Zone>,
    free: Vec<ZoneNumber>,
    index: HashTable<ZoneNumber>,
}

impl Zones {
    /// One more instance, which is not silent.
    pub(super) fn enter(&mut self, namespace: &str, service: &str, zone: &str) -> ZoneNumber {
        let Self { zones, free, index } = self;
        let parts = [namespace, service, zone];
        let found = index.find(hash(parts), |number| is_of(&zones[*number as usize].names, parts)).copied();
        let number = found.unwrap_or_else(|| {
            let new = Zone { names: joined(parts), tally: Tally::default() };
            let number = free.pop().unwrap_or(zones.len() as ZoneNumber);
            match zones.get_mut(number as usize) {
                Some(left) => *left = new,
                None => zones.push(new),
            }
            index.insert_unique(hash(parts), number, |number| hash(parts_of(&zones[*number as usize].names)));
            number
        });
        zones[number as usize].tally.instances += 1;
        number
    }

    /// One instance less, which was not silent any more.
    pub(super) fn leave(&mut self, number: ZoneNumber) {
        let Some(zone) = self.zones.get_mut(number as usize) else { return };
        zone.tally.instances -= 1;
        if zone.tally.instances > 0 {
            return;
        }
        let names = std::mem::take(&mut zone.names);
        if let Ok(entry) = self.index.find_entry(hash(parts_of(&names)), |held| *held == number) {
            entry.remove();
        }
        self.free.push(number);
    }

    /// One of its instances fell silent.
    pub(super) fn fell_silent(&mut self, number: ZoneNumber) {
        if let Some(zone) = self.zones.get_mut(number as usize) {
            zone.tally.silent += 1;
        }
    }

    /// One of its silent instances is not silent any more.
    pub(super) fn spoke(&mut self, number: ZoneNumber) {
        if let Some(zone) = self.zones.get_mut(number as usize) {
            zone.tally.silent -= 1;
        }
    }

    /// How many there are.
    pub(super) fn tally(&self, number: ZoneNumber) -> Tally {
        self.zones.get(number as usize).map_or_else(Tally::default, |zone| zone.tally)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }
}

fn joined(parts: [&str; 3]) -> Box<str> {
    let mut names = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts {
        names.push_str(part);
        names.push('\0');
    }
    names.into()
}

fn parts_of(names: &str) -> [&str; 3] {
    let mut parts = names.split_terminator('\0');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn is_of(names: &str, parts: [&str; 3]) -> bool {
    names.len() == parts.iter().map(|part| part.len() + 1).sum::<usize>() && parts_of(names) == parts
}

/// By keys that are the same in every process: nothing of it leaves this one, and the state draws no random numbers.
fn hash(parts: [&str; 3]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of docs/protocol.md.
    #[test]
    fn at_least_five_and_more_than_half() {
        for (silent, instances, trips) in [
            (4, 4, false),
            (5, 5, true),
            (5, 9, true),
            (5, 10, false),
            (6, 10, true),
            (6, 11, true),
            (6, 12, false),
            (7, 12, true),
            (50_000, 100_000, false),
            (50_001, 100_000, true),
            (u32::MAX, u32::MAX, true),
        ] {
            assert_eq!(Tally { instances, silent }.trips(), trips, "{silent} of {instances}");
        }
    }

    /// The vectors of docs/protocol.md: the age of the last beat, in milliseconds, from which on a lease is silent.
    #[test]
    fn older_than_two_thirds_of_the_ttl() {
        for (ttl, age) in
            [(1_000, 667), (1_500, 1_001), (2_000, 1_334), (3_000, 2_001), (10_000, 6_667), (3_600_000, 2_400_001)]
        {
            let (beat, deadline) = (50_000, 50_000 + u64::from(ttl));
            assert_eq!(silent_from(deadline, ttl), beat + age, "{ttl}");
            assert!(3 * age > 2 * u64::from(ttl) && 3 * (age - 1) <= 2 * u64::from(ttl), "{ttl}");
        }
        assert_eq!(silent_from(3, 10_000), 0, "never before the beginning of time");
    }

    #[test]
    fn numbers_are_given_again_and_names_are_told_apart() {
        let mut zones = Zones::default();
        let names = [("default", "web", ""), ("default", "web", "eu"), ("default", "we", "b"), ("defaultweb", "", "")];
        let numbers = names.map(|(namespace, service, zone)| zones.enter(namespace, service, zone));
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(zones.enter("default", "web", "eu"), 1);
        assert_eq!(zones.tally(1), Tally { instances: 2, silent: 0 });
        zones.fell_silent(1);
        zones.fell_silent(1);
        zones.spoke(1);
        assert_eq!(zones.tally(1), Tally { instances: 2, silent: 1 });
        zones.leave(2);
        assert_eq!((zones.len(), zones.tally(2)), (3, Tally::default()));
        assert_eq!(zones.enter("default", "we", "c"), 2);
        assert_eq!(zones.enter("default", "we", "b"), 4);
        numbers.into_iter().chain([1, 4]).for_each(|number| {
            zones.spoke_if_silent(number);
            zones.leave(number);
        });
        assert_eq!((zones.len(), zones.free.len()), (0, 5));
    }

    impl Zones {
        fn spoke_if_silent(&mut self, number: ZoneNumber) {
            if self.tally(number).silent > 0 {
                self.spoke(number);
            }
        }
    }
}
