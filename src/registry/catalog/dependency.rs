//! Who needs whom: what a new dependency would close, in which order to start, and what breaks when one goes. Walks
//! graphs of any depth without recursion. Knows no ports.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use imbl::{OrdMap, OrdSet};
use smol_str::SmolStr;

/// Applications that need one another, each the next and the last the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(pub Vec<SmolStr>);

/// What a graph looks like as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// How many applications there are.
    pub applications: usize,
    /// How many dependencies there are, each between two applications.
    pub dependencies: usize,
    /// Those that nobody needs.
    pub roots: Vec<SmolStr>,
    /// Those that need nobody.
    pub leaves: Vec<SmolStr>,
    /// How many levels a start has: the longest chain.
    pub depth: usize,
}

/// Who needs whom. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    /// What each application needs.
    of: OrdMap<SmolStr, Arc<[SmolStr]>>,
    /// Who needs an application that somebody needs.
    on: OrdMap<SmolStr, OrdSet<SmolStr>>,
}

impl Dependencies {
    /// What an application needs.
    #[must_use]
    pub fn of(&self, id: &str) -> &[SmolStr] {
        self.of.get(id).map_or(&[], |dependencies| dependencies)
    }

    /// Who needs an application, in order.
    pub fn on(&self, id: &str) -> impl Iterator<Item = &SmolStr> {
        self.on.get(id).into_iter().flatten()
    }

    /// An application, old or new, needs these. Costs what is new of them or gone.
    pub fn set(&mut self, id: &SmolStr, dependencies: Arc<[SmolStr]>) {
        let before = self.of.insert(id.clone(), Arc::clone(&dependencies)).unwrap_or_default();
        let (gone, new) = middles(&before, &dependencies);
        let (was, is): (HashSet<&SmolStr>, HashSet<&SmolStr>) = (gone.iter().collect(), new.iter().collect());
        for dependency in was.difference(&is) {
            self.forget(dependency, id);
        }
        for dependency in is.difference(&was) {
            self.on.entry(SmolStr::clone(dependency)).or_default().insert(id.clone());
        }
    }

    /// An application is no more. Who needs it still does.
    pub fn remove(&mut self, id: &str) {
        for dependency in &*self.of.remove(id).unwrap_or_default() {
            self.forget(dependency, id);
        }
    }

    /// `dependency` is not needed by `id` any more.
    fn forget(&mut self, dependency: &str, id: &str) {
        let Some(dependents) = self.on.get_mut(dependency) else { return };
        dependents.remove(id);
        if dependents.is_empty() {
            self.on.remove(dependency);
        }
    }

    /// Those of `wanted` that need `id`, by however many others: to need them in turn would close a cycle. Itself is
    /// one of them. Looks from both ends at once, so that it costs no more than twice the smaller side.
    #[must_use]
    pub fn circular<'a>(&self, id: &str, wanted: &'a [SmolStr]) -> Vec<&'a SmolStr> {
        self.circular_within(id, wanted, &mut usize::MAX.clone()).unwrap_or_default()
    }

    /// The same where only so many dependencies may be looked at; none: it takes more.
    pub(super) fn circular_within<'a>(
        &self,
        id: &str,
        wanted: &'a [SmolStr],
        steps: &mut usize,
    ) -> Option<Vec<&'a SmolStr>> {
        let targets: HashSet<&str> = wanted.iter().map(SmolStr::as_str).collect();
        let mut down = Walk::from(targets.iter().copied());
        let mut up = Walk::from([id]);
        let closes = loop {
            if down.looked + up.looked > *steps {
                *steps = 0;
                return None;
            }
            let Some(below) = down.step(|at| self.of(at).iter()) else { break false };
            let Some(above) = up.step(|at| self.on(at)) else { break false };
            if below == id || targets.contains(above) {
                break true;
            }
        };
        if !closes {
            *steps = steps.saturating_sub(down.looked + up.looked);
            return Some(Vec::new());
        }
        while up.step(|at| self.on(at)).is_some() {}
        *steps = steps.saturating_sub(down.looked + up.looked);
        Some(wanted.iter().filter(|target| up.seen.contains(target.as_str())).collect())
    }

    /// Everyone who needs an application: those that need it themselves, those that need these, and so on.
    #[must_use]
    pub fn affected_by(&self, id: &str) -> Vec<Vec<SmolStr>> {
        let mut seen = HashSet::from([id]);
        let mut rings: Vec<Vec<SmolStr>> = Vec::new();
        let mut ring: Vec<&SmolStr> = self.on(id).filter(|dependent| seen.insert(dependent.as_str())).collect();
        while !ring.is_empty() {
            ring.sort_unstable();
            rings.push(ring.iter().copied().cloned().collect());
            let beyond = ring.iter().flat_map(|at| self.on(at));
            ring = beyond.filter(|dependent| seen.insert(dependent.as_str())).collect();
        }
        rings
    }

    /// In which order to start these applications, with all that they need, or all of them: each level needs only what
    /// is in levels before it.
    ///
    /// # Errors
    /// There is a cycle.
    pub fn start_order(&self, wanted: Option<&[SmolStr]>) -> Result<Vec<Vec<SmolStr>>, Cycle> {
        let mut walk = match wanted {
            Some(wanted) => Walk::from(wanted.iter().map(SmolStr::as_str)),
            None => Walk::from(self.of.keys().map(SmolStr::as_str)),
        };
        let mut nodes = Vec::new();
        while let Some(node) = walk.step(|at| self.of(at).iter()) {
            nodes.push(node);
        }
        let places: HashMap<&str, usize> = nodes.iter().enumerate().map(|(place, node)| (*node, place)).collect();
        let mut missing: Vec<usize> = nodes.iter().map(|node| self.of(node).len()).collect();
        let mut dependents = vec![Vec::new(); nodes.len()];
        for (place, node) in nodes.iter().enumerate() {
            self.of(node).iter().for_each(|dependency| dependents[places[dependency.as_str()]].push(place));
        }
        let mut levels = Vec::new();
        let mut level: Vec<usize> = (0..nodes.len()).filter(|place| missing[*place] == 0).collect();
        let mut started = 0;
        while !level.is_empty() {
            started += level.len();
            let mut names: Vec<SmolStr> = level.iter().map(|place| SmolStr::new(nodes[*place])).collect();
            names.sort_unstable();
            levels.push(names);
            let mut next = Vec::new();
            for dependent in level.iter().flat_map(|place| &dependents[*place]) {
                missing[*dependent] -= 1;
                if missing[*dependent] == 0 {
                    next.push(*dependent);
                }
            }
            level = next;
        }
        if started == nodes.len() {
            return Ok(levels);
        }
        let stuck: HashSet<&str> =
            nodes.iter().zip(&missing).filter(|(_, missing)| **missing > 0).map(|(node, _)| *node).collect();
        Err(self.cycle_among(&stuck))
    }

    /// A cycle among applications each of which needs another of them.
    fn cycle_among(&self, stuck: &HashSet<&str>) -> Cycle {
        let mut at = stuck.iter().min().copied();
        let mut places = HashMap::new();
        let mut path: Vec<SmolStr> = Vec::new();
        while let Some(node) = at {
            if let Some(first) = places.insert(node, path.len()) {
                return Cycle(path.split_off(first));
            }
            path.push(node.into());
            at = self.of(node).iter().map(SmolStr::as_str).find(|dependency| stuck.contains(dependency));
        }
        Cycle(path)
    }

    /// What the graph looks like.
    ///
    /// # Errors
    /// There is a cycle.
    pub fn shape(&self) -> Result<Shape, Cycle> {
        Ok(Shape {
            applications: self.of.len(),
            dependencies: self.of.values().map(|dependencies| dependencies.len()).sum(),
            roots: self.of.keys().filter(|id| !self.on.contains_key(*id)).cloned().collect(),
            leaves: self.of.iter().filter(|(_, of)| of.is_empty()).map(|(id, _)| id.clone()).collect(),
            depth: self.start_order(None)?.len(),
        })
    }
}

/// What two lists have between what they begin and end with in common.
fn middles<'a>(one: &'a [SmolStr], other: &'a [SmolStr]) -> (&'a [SmolStr], &'a [SmolStr]) {
    let head = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let (one, other) = (&one[head..], &other[head..]);
    let tail = one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count();
    (&one[..one.len() - tail], &other[..other.len() - tail])
}

/// A walk through a graph that comes by each node once.
struct Walk<'a> {
    seen: HashSet<&'a str>,
    queue: VecDeque<&'a str>,
    /// How many neighbours were looked at.
    looked: usize,
}

impl<'a> Walk<'a> {
    fn from(nodes: impl IntoIterator<Item = &'a str>) -> Self {
        let mut walk = Self { seen: HashSet::new(), queue: VecDeque::new(), looked: 0 };
        nodes.into_iter().for_each(|node| walk.add(node));
        walk
    }

    fn add(&mut self, node: &'a str) {
        if self.seen.insert(node) {
            self.queue.push_back(node);
        }
    }

    /// The next node; the walk goes on to its neighbours.
    fn step<I: Iterator<Item = &'a SmolStr>>(&mut self, neighbours: impl FnOnce(&'a str) -> I) -> Option<&'a str> {
        let node = self.queue.pop_front()?;
        for neighbour in neighbours(node) {
            self.looked += 1;
            self.add(neighbour);
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(numbers: &[u8]) -> Arc<[SmolStr]> {
        let mut seen = HashSet::new();
        numbers.iter().filter(|number| seen.insert(**number)).map(|number| SmolStr::from(number.to_string())).collect()
    }

    proptest! {
        /// However they were changed, they are what they would be if they had been so from the first.
        #[test]
        fn changes_come_to_what_they_say(steps in proptest::collection::vec((0..4u8, proptest::collection::vec(0..9u8, 0..7)), 1..12)) {
            let (mut changed, mut last) = (Dependencies::default(), HashMap::new());
            for (of, needs) in steps {
                let of = SmolStr::from(of.to_string());
                changed.set(&of, ids(&needs));
                last.insert(of, ids(&needs));
            }
            let mut made = Dependencies::default();
            last.into_iter().for_each(|(of, needs)| made.set(&of, needs));
            prop_assert_eq!((&changed.of, &changed.on), (&made.of, &made.on));
        }
    }

    /// One more of a thousand, and one less: the others are not touched.
    #[test]
    fn what_stays_is_not_touched() {
        let all: Vec<SmolStr> = (0..1_000).map(|number| SmolStr::from(number.to_string())).collect();
        let mut before = Dependencies::default();
        before.set(&"one".into(), all[..999].into());
        for now in [&all[..], &all[..998], &all[1..999]] {
            let mut after = before.clone();
            after.set(&"one".into(), now.into());
            let touched = |id: &&SmolStr| match (before.on.get(*id), after.on.get(*id)) {
                (Some(before), Some(after)) => !before.ptr_eq(after),
                (before, after) => before.is_some() || after.is_some(),
            };
            assert_eq!(all.iter().filter(touched).count(), 1);
        }
    }
}
