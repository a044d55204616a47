//! Who starts after whom: by what programs need of each other, and by the catalog's order where that contradicts nothing.
//! Knows neither programs nor registries.

use std::collections::BTreeSet;

/// An order of things that have numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order(Vec<BTreeSet<usize>>);

impl Order {
    /// By these needs: of each, what it needs.
    ///
    /// # Errors
    /// Those of one circle, each needing the next, and the last the first.
    pub(super) fn new(needs: Vec<BTreeSet<usize>>) -> Result<Self, Vec<usize>> {
        let order = Self(needs);
        match (0..order.0.len()).find_map(|one| order.way(one, one)) {
            Some(circle) => Err(circle),
            None => Ok(order),
        }
    }

    /// Whoever is of a later level starts after all of earlier ones, unless those have to start after it.
    pub(super) fn refine(&mut self, levels: &[BTreeSet<usize>]) {
        for (place, level) in levels.iter().enumerate() {
            for (&later, &earlier) in
                level.iter().flat_map(|later| levels[..place].iter().flatten().map(move |earlier| (later, earlier)))
            {
                if later != earlier && self.way(earlier, later).is_none() {
                    self.0[later].insert(earlier);
                }
            }
        }
    }

    /// What one starts after.
    pub(super) fn before(&self, one: usize) -> impl Iterator<Item = usize> {
        self.0[one].iter().copied()
    }

    /// What starts after one.
    pub(super) fn after(&self, one: usize) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(move |(_, before)| before.contains(&one)).map(|(other, _)| other)
    }

    /// From one over what it starts after to the other, which is not named again at the end.
    fn way(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let (mut ways, mut seen) = (vec![vec![from]], BTreeSet::new());
        while let Some(way) = ways.pop() {
            let last = *way.last()?;
            for &next in &self.0[last] {
                if next == to {
                    return Some(way);
                }
                if seen.insert(next) {
                    ways.push([&way[..], &[next]].concat());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(of: &[&[usize]]) -> Vec<BTreeSet<usize>> {
        of.iter().map(|set| set.iter().copied().collect()).collect()
    }

    #[test]
    fn what_is_needed_starts_first_and_circles_are_told() {
        let order = Order::new(sets(&[&[1, 2], &[2], &[]])).unwrap();
        assert_eq!(order.before(0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(order.after(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(Order::new(sets(&[&[0]])).unwrap_err(), [0]);
        assert_eq!(Order::new(sets(&[&[], &[2], &[3], &[1]])).unwrap_err(), [1, 2, 3]);
    }

    #[test]
    fn levels_count_where_they_contradict_nothing() {
        // 0 needs 1; the catalog has it the other way round, and 2 after both.
        let mut order = Order::new(sets(&[&[1], &[], &[]])).unwrap();
        order.refine(&sets(&[&[0], &[1], &[2]]));
        assert_eq!(order, Order(sets(&[&[1], &[], &[0, 1]])));
        // None of these alone is a circle.
        let mut order = Order::new(sets(&[&[2], &[], &[], &[1]])).unwrap();
        order.refine(&sets(&[&[0, 3], &[1], &[2]]));
        assert!(Order::new(order.0.clone()).is_ok(), "{order:?}");
    }
}
