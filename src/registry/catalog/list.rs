//! A list as one walk: entries of many namespaces in one order, and the part of them that a page shows. It is taken in
//! steps, so that who walks may do other things in between. Knows no filters of its own.

use std::{cmp::Ordering, collections::BinaryHeap, sync::Arc};

use smol_str::SmolStr;

use super::{Entry, Place, Shelf, Shelved, Sort, SortKey, shelf::Walk};

/// A page ends before its entries are larger than this together, unless it has one alone.
const PAGE_BYTES: usize = 1024 * 1024;

/// Which part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many.
    pub limit: usize,
    /// Without so many before them.
    pub offset: usize,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Paged<X> {
    /// In order.
    pub found: Vec<X>,
    /// How many there are in all, if that was counted.
    pub total: u64,
    /// Whether there are some behind them.
    pub more: bool,
}

impl<X> Paged<X> {
    /// With each of them as something else.
    pub fn map<Y>(self, map: impl FnMut(X) -> Y) -> Paged<Y> {
        Paged { found: self.found.into_iter().map(map).collect(), total: self.total, more: self.more }
    }
}

/// Is told what is walked by.
type Filter<'a, X> = Box<dyn Fn(&X) -> bool + Send + 'a>;

/// A page that is being looked for.
pub struct Paging<'a, X> {
    rest: Box<dyn Iterator<Item = X> + Send + 'a>,
    matches: Filter<'a, X>,
    /// About how large one is in an answer.
    size: fn(&X) -> usize,
    page: Page,
    /// How many there are in all; without, all have to be looked at.
    total: Option<u64>,
    counted: u64,
    found: Vec<X>,
    bytes: usize,
    full: bool,
    more: bool,
}

impl<'a, X> Paging<'a, X> {
    pub(super) fn new(
        rest: impl Iterator<Item = X> + Send + 'a,
        matches: Filter<'a, X>,
        size: fn(&X) -> usize,
        page: Page,
        total: Option<u64>,
    ) -> Self {
        let (found, full) = (Vec::new(), page.limit == 0);
        Self { rest: Box::new(rest), matches, size, page, total, counted: 0, found, bytes: 0, full, more: false }
    }

    /// Looks at so many more; false: that was all.
    pub fn step(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some(next) = self.rest.next() else { return false };
            if (self.matches)(&next) && !self.take(next) {
                return false;
            }
        }
        true
    }

    /// Whether others are to be looked at.
    fn take(&mut self, next: X) -> bool {
        self.counted += 1;
        if self.counted <= self.page.offset as u64 {
            return true;
        }
        let bytes = self.bytes + (self.size)(&next);
        self.full |= self.found.len() == self.page.limit || (bytes > PAGE_BYTES && !self.found.is_empty());
        if self.full {
            self.more = true;
            return self.total.is_none();
        }
        self.bytes = bytes;
        self.found.push(next);
        true
    }

    /// What was found.
    #[must_use]
    pub fn end(self) -> Paged<X> {
        Paged { found: self.found, total: self.total.unwrap_or(self.counted), more: self.more }
    }

    /// All of it at once.
    #[must_use]
    pub fn whole(mut self) -> Paged<X> {
        while self.step(usize::MAX) {}
        self.end()
    }
}

/// An entry of a list.
#[derive(Debug)]
pub struct Shown<'a, T> {
    /// The namespace that it is of.
    pub namespace: &'a SmolStr,
    /// The entry.
    pub entry: &'a Arc<Entry<T>>,
}

impl<T: Shelved> Shown<'_, T> {
    /// Where it stands in lists of this order.
    #[must_use]
    pub fn place(&self, key: SortKey) -> Place {
        Shelf::place(key, self.namespace, self.entry)
    }

    /// About how large it is in an answer.
    pub(super) fn size(&self) -> usize {
        self.namespace.len() + self.entry.value.id().len() + self.entry.document.body.len()
    }
}

/// The entries of many namespaces, each in this order, as one list in this order.
pub(super) struct Merged<'a, T> {
    sort: Sort,
    heads: BinaryHeap<Head<'a, T>>,
}

/// The next of a namespace.
struct Head<'a, T> {
    place: Place,
    descending: bool,
    shown: Shown<'a, T>,
    rest: Walk<'a, T>,
}

impl<'a, T: Shelved> Merged<'a, T> {
    pub(super) fn new(sort: Sort, walks: impl IntoIterator<Item = (&'a SmolStr, Walk<'a, T>)>) -> Self {
        let mut merged = Self { sort, heads: BinaryHeap::new() };
        for (namespace, walk) in walks {
            merged.push(namespace, walk);
        }
        merged
    }

    fn push(&mut self, namespace: &'a SmolStr, mut rest: Walk<'a, T>) {
        let Some(entry) = rest.next() else { return };
        let shown = Shown { namespace, entry };
        let (place, descending) = (shown.place(self.sort.key), self.sort.descending);
        self.heads.push(Head { place, descending, shown, rest });
    }
}

impl<'a, T: Shelved> Iterator for Merged<'a, T> {
    type Item = Shown<'a, T>;

    fn next(&mut self) -> Option<Self::Item> {
        let Head { shown, rest, .. } = self.heads.pop()?;
        self.push(shown.namespace, rest);
        Some(shown)
    }
}

impl<T> Ord for Head<'_, T> {
    /// The first of the list is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.place.cmp(&other.place);
        if self.descending { order } else { order.reverse() }
    }
}

impl<T> PartialOrd for Head<'_, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Head<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Head<'_, T> {}
