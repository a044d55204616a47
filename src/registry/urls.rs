//! Which instances have a url: an index beside the state, for those who want one for themselves. Of each (namespace,
//! url) one slot is in a hash table, 4 bytes and a tag; only where several instances share a url are the others listed.
//! Knows slots and texts, no records.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hasher},
};

use hashbrown::HashTable;

/// The index.
#[derive(Debug, Default)]
pub(super) struct Urls {
    first: HashTable<u32>,
    /// The others of the same url, by the slot that is in the table.
    others: HashMap<u32, BTreeSet<u32>>,
}

/// A namespace and a url in it.
pub(super) type Place<'a> = (&'a str, &'a str);

fn hash((namespace, url): Place<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(namespace.as_bytes());
    hasher.write_u8(0xff);
    hasher.write(url.as_bytes());
    hasher.finish()
}

impl Urls {
    /// Room for so many slots more, which may each be at a place of its own.
    pub(super) fn reserve<'a>(&mut self, slots: usize, place_of: impl Fn(u32) -> Place<'a>) {
        self.first.reserve(slots, |held| hash(place_of(*held)));
    }

    /// Gives back most of the room that was not needed after all.
    pub(super) fn settle<'a>(&mut self, place_of: impl Fn(u32) -> Place<'a>) {
        if self.first.len() < self.first.capacity() / 4 {
            self.first.shrink_to_fit(|held| hash(place_of(*held)));
        }
    }

    /// Takes `slot` in, which is at `place`. `place_of` says where the slots of the index are.
    pub(super) fn insert<'a>(&mut self, slot: u32, place: Place<'a>, place_of: impl Fn(u32) -> Place<'a>) {
        let hashed = hash(place);
        match self.first.find(hashed, |held| place_of(*held) == place) {
            Some(first) => _ = self.others.entry(*first).or_default().insert(slot),
            None => _ = self.first.insert_unique(hashed, slot, |held| hash(place_of(*held))),
        }
    }

    /// Takes `slot` out, which is at `place`.
    pub(super) fn remove<'a>(&mut self, slot: u32, place: Place<'a>, place_of: impl Fn(u32) -> Place<'a>) {
        let Ok(mut entry) = self.first.find_entry(hash(place), |held| *held == slot || place_of(*held) == place) else {
            return;
        };
        let first = *entry.get();
        if first != slot {
            let Some(others) = self.others.get_mut(&first) else { return };
            others.remove(&slot);
            if others.is_empty() {
                self.others.remove(&first);
            }
            return;
        }
        let mut others = self.others.remove(&slot).unwrap_or_default();
        match others.pop_first() {
            None => _ = entry.remove(),
            Some(next) => {
                *entry.get_mut() = next;
                if !others.is_empty() {
                    self.others.insert(next, others);
                }
            }
        }
    }

    /// The slots at `place`.
    pub(super) fn at<'a, 'b, F: Fn(u32) -> Place<'a>>(
        &'b self,
        place: Place<'_>,
        place_of: F,
    ) -> impl Iterator<Item = u32> + use<'a, 'b, F> {
        let first = self.first.find(hash(place), |held| place_of(*held) == place).copied();
        let others = first.and_then(|first| self.others.get(&first)).into_iter().flatten().copied();
        first.into_iter().chain(others)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes and goes, the index says what a plain list says.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec((0..24_u32, 0..5_usize), 0..200)) {
            const PLACES: [Place<'static>; 5] =
                [("a", "http://x"), ("a", "http://y"), ("b", "http://x"), ("a", ""), ("ahttp:", "//x")];
            let mut list: Vec<Option<usize>> = vec![None; 24];
            let mut urls = Urls::default();
            for (slot, place) in steps {
                let held = list[slot as usize].take();
                {
                    // The slot's own place is no longer known, as when the state has let go of it.
                    let place_of = |slot: u32| list[slot as usize].map_or(("", "?"), |place| PLACES[place]);
                    match held {
                        Some(held) => urls.remove(slot, PLACES[held], place_of),
                        None => urls.insert(slot, PLACES[place], place_of),
                    }
                }
                if held.is_none() {
                    list[slot as usize] = Some(place);
                }
                let place_of = |slot: u32| list[slot as usize].map_or(("", "?"), |place| PLACES[place]);
                for (number, place) in PLACES.into_iter().enumerate() {
                    let mut found: Vec<u32> = urls.at(place, place_of).collect();
                    found.sort_unstable();
                    let expected: Vec<u32> =
                        (0..24).filter(|slot| list[*slot as usize] == Some(number)).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
