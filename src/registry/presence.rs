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
pub struct Presence(OrdMap<Partition, u64>);

impl Presence {
    /// One replica more; whether it is the first.
    pub fn add(&mut self, of: Partition) -> bool {
        let count = self.0.entry(of).or_default();
        *count += 1;
        *count == 1
    }

    fn remove(&mut self, of: &Partition) {
        match self.0.get_mut(of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = self.0.remove(of),
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

    /// What it was before a revision that it has taken in.
    pub fn unfold(&mut self, steps: &[Step]) {
        steps.iter().filter(|step| !step.came).for_each(|step| _ = self.add(step.of.clone()));
        steps.iter().filter(|step| step.came).for_each(|step| self.remove(&step.of));
    }

    /// Whether a partition has a replica.
    #[must_use]
    pub fn is_online(&self, of: &Partition) -> bool {
        self.0.contains_key(of)
    }

    /// Those that have one, in order.
    pub fn online(&self) -> impl Iterator<Item = &Partition> {
        self.0.keys()
    }
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
            while let Some((was, steps)) = past.pop() {
                presence.unfold(&steps);
                prop_assert_eq!(&presence, &was);
            }
        }
    }
}
