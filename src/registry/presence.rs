//! Which partitions of which services are there, as one watch sees them: a service is there for its watchers until the last
//! of its replicas goes. A count of what matches, folded from what the watch's filters make of events. Knows no log, no
//! messages and no filters.

use imbl::OrdMap;
use smol_str::SmolStr;

use super::record::Record;

/// Replicas of a service that stand for one another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Its namespace.
    pub namespace: SmolStr,
    /// The service.
    pub service: SmolStr,
    /// The partition key; may be empty.
    pub key: SmolStr,
}

impl Partition {
    /// That of a record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let (namespace, service, _) = record.names();
        Self { namespace: namespace.into(), service: service.into(), key: record.partition_key().into() }
    }
}

/// One replica more, or less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of which partition.
    pub of: Partition,
    /// Whether it came.
    pub came: bool,
}

impl Step {
    /// What it is that `before` became `after`, each none if it does not match.
    pub fn between(before: Option<&Record>, after: Option<&Record>) -> impl Iterator<Item = Self> + use<> {
        let (was, is) = (before.map(Partition::of), after.map(Partition::of));
        let changed = was != is;
        let gone = was.filter(|_| changed).map(|of| Self { of, came: false });
        gone.into_iter().chain(is.filter(|_| changed).map(|of| Self { of, came: true }))
    }
}

/// That the first replica of a partition came, or the last one went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Which.
    pub of: Partition,
    /// Whether there is one now.
    pub online: bool,
}

/// How many replicas each partition has that has one. Cloning is O(1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    counts: OrdMap<Partition, u64>,
    bytes: usize,
}

/// A longer name is kept beside the entry.
const INLINE_BYTES: usize = 23;

impl Presence {
    /// About what a partition with short names takes.
    pub const ENTRY_BYTES: usize = 128;

    /// About the memory that it takes by itself.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// One replica more; whether it is the first.
    pub fn add(&mut self, of: Partition) -> bool {
        let bytes = bytes_of(&of);
        let count = self.counts.entry(of).or_default();
        *count += 1;
        let first = *count == 1;
        self.bytes += if first { bytes } else { 0 };
        first
    }

    fn remove(&mut self, of: &Partition) {
        match self.counts.get_mut(of) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                self.counts.remove(of);
                self.bytes -= bytes_of(of);
            }
            None => {}
        }
    }

    /// So many replicas more, or less.
    pub fn shift(&mut self, of: &Partition, by: i64) {
        let count = self.counts.get(of).copied().unwrap_or(0);
        match (count, count.saturating_add_signed(by)) {
            (before, after) if before == after => {}
            (_, 0) => {
                self.counts.remove(of);
                self.bytes -= bytes_of(of);
            }
            (before, after) => {
                self.counts.insert(of.clone(), after);
                self.bytes += if before == 0 { bytes_of(of) } else { 0 };
            }
        }
    }

    /// Takes in all of a revision, and says what is other after it: what came in order, then what went.
    pub fn fold(&mut self, steps: &[Step]) -> Vec<Summary> {
        let before = self.clone();
        // What comes first, so that no count passes through nothing.
        steps.iter().filter(|step| step.came).for_each(|step| _ = self.add(step.of.clone()));
        steps.iter().filter(|step| !step.came).for_each(|step| self.remove(&step.of));
        let other = steps.iter().filter(|step| before.is_online(&step.of) != self.is_online(&step.of));
        let mut summaries: Vec<Summary> =
            other.map(|step| Summary { of: step.of.clone(), online: self.is_online(&step.of) }).collect();
        summaries.sort_by(|one, next| (!one.online, &one.of).cmp(&(!next.online, &next.of)));
        summaries.dedup();
        summaries
    }

    /// Whether a partition has a replica.
    #[must_use]
    pub fn is_online(&self, of: &Partition) -> bool {
        self.counts.contains_key(of)
    }

    /// Those that have one, in order.
    pub fn online(&self) -> impl Iterator<Item = &Partition> {
        self.counts.keys()
    }
}

fn bytes_of(of: &Partition) -> usize {
    let beside = |name: &SmolStr| if name.len() > INLINE_BYTES { name.len() + 16 } else { 0 };
    Presence::ENTRY_BYTES + beside(&of.namespace) + beside(&of.service) + beside(&of.key)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn partition(number: u8) -> Partition {
        let key = if number.is_multiple_of(2) { "" } else { "a" };
        Partition { namespace: "default".into(), service: format!("s{}", number / 2).into(), key: key.into() }
    }

    proptest! {
        /// Revisions of replicas that come, move between partitions and go: what is told is what a plain set of them finds
        /// other, the fold of it is what is there, and going back gives what was.
        #[test]
        fn summaries_are_exactly_the_first_and_the_last(revisions in vec(vec((0..6_u8, 0..5_u8), 1..5), 0..40)) {
            let mut replicas: BTreeMap<u8, u8> = BTreeMap::new();
            let there = |replicas: &BTreeMap<u8, u8>| replicas.values().map(|of| partition(*of)).collect::<BTreeSet<_>>();
            let (mut presence, mut folded) = (Presence::default(), BTreeSet::new());
            let mut past = Vec::new();
            for revision in revisions {
                let (before, was) = (there(&replicas), presence.clone());
                let mut steps = Vec::new();
                // The fifth partition is none.
                for (replica, to) in revision {
                    let was = replicas.remove(&replica).map(partition);
                    let is = (to < 4).then(|| partition(to));
                    is.iter().for_each(|_| _ = replicas.insert(replica, to));
                    if was != is {
                        steps.extend(was.map(|of| Step { of, came: false }));
                        steps.extend(is.map(|of| Step { of, came: true }));
                    }
                }
                let summaries = presence.fold(&steps);
                let after = there(&replicas);
                for Summary { of, online } in &summaries {
                    let news = if *online { folded.insert(of.clone()) } else { folded.remove(of) };
                    prop_assert!(news, "told again: {:?}", of);
                }
                let came = after.difference(&before).map(|of| Summary { of: of.clone(), online: true });
                let went = before.difference(&after).map(|of| Summary { of: of.clone(), online: false });
                prop_assert_eq!(summaries, came.chain(went).collect::<Vec<_>>());
                prop_assert_eq!(&folded, &after);
                prop_assert!(presence.online().eq(after.iter()));
                past.push((was, steps));
            }
            // Back, over one revision or many at once.
            let mut net = BTreeMap::<Partition, i64>::new();
            for (was, steps) in past.into_iter().rev() {
                steps.iter().for_each(|step| *net.entry(step.of.clone()).or_default() -= if step.came { 1 } else { -1 });
                let mut back = presence.clone();
                net.iter().for_each(|(of, by)| back.shift(of, *by));
                prop_assert_eq!(back.bytes(), back.online().count() * Presence::ENTRY_BYTES);
                prop_assert_eq!(back, was);
            }
        }
    }
}
