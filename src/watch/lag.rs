//! How far readers are behind, at the price of one store when one is woken and one when it has read: a dense row of
//! numbers that a scrape walks through. Knows neither the log nor who reads.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use crate::registry::Revision;

/// Places made at a time.
const CHUNK: usize = 256;
/// A reader that has read everything. Revisions begin with 1.
const CAUGHT_UP: u64 = 0;

type Chunk = [AtomicU64; CHUNK];

/// The oldest revision that each reader has not read.
#[derive(Debug, Default)]
pub struct Lags {
    chunks: RwLock<Vec<Arc<Chunk>>>,
    free: Mutex<Vec<(Arc<Chunk>, u32)>>,
}

/// One reader's place among them.
#[derive(Debug)]
pub struct Lag {
    chunk: Arc<Chunk>,
    place: u32,
    lags: Arc<Lags>,
}

/// How far all of them are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lagging {
    /// How many readers there are.
    pub readers: u64,
    /// How many of them are behind.
    pub behind: u64,
    /// The oldest revision that one of them has not read.
    pub oldest: Option<Revision>,
    /// By how many revisions all of them are behind.
    pub revisions: u64,
}

impl Lags {
    /// A place for one more reader.
    #[must_use]
    pub fn place(self: &Arc<Self>) -> Lag {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (chunk, place) = free.pop().unwrap_or_else(|| {
            let chunk = Arc::new(std::array::from_fn(|_| AtomicU64::new(CAUGHT_UP)));
            self.chunks.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&chunk));
            free.extend((1..CHUNK as u32).rev().map(|place| (Arc::clone(&chunk), place)));
            (chunk, 0)
        });
        Lag { chunk, place, lags: Arc::clone(self) }
    }

    /// How far all readers are behind `head`.
    #[must_use]
    pub fn behind(&self, head: Revision) -> Lagging {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner).clone();
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).len();
        let readers = (chunks.len() * CHUNK).saturating_sub(free) as u64;
        let mut lagging = Lagging { readers, ..Lagging::default() };
        for unread in chunks.iter().flat_map(|chunk| chunk.iter()) {
            let unread = unread.load(Ordering::Relaxed);
            if unread != CAUGHT_UP && unread <= head {
                lagging.behind += 1;
                lagging.revisions += head - unread + 1;
                lagging.oldest = Some(lagging.oldest.map_or(unread, |oldest| oldest.min(unread)));
            }
        }
        lagging
    }
}

impl Lag {
    fn unread(&self) -> &AtomicU64 {
        &self.chunk[self.place as usize % CHUNK]
    }

    /// The reader is told of `revision`, if it has read what was before.
    pub fn told(&self, revision: Revision) {
        if self.unread().load(Ordering::Relaxed) == CAUGHT_UP {
            self.unread().store(revision, Ordering::Relaxed);
        }
    }

    /// It has read everything up to `cursor`, and there may be more.
    pub fn read(&self, cursor: Revision) {
        self.unread().store(cursor + 1, Ordering::Relaxed);
    }

    /// It has read everything.
    pub fn caught_up(&self) {
        self.unread().store(CAUGHT_UP, Ordering::Relaxed);
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.caught_up();
        let place = (Arc::clone(&self.chunk), self.place);
        self.lags.free.lock().unwrap_or_else(PoisonError::into_inner).push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_and_all_together_are_known() {
        let lags = Arc::new(Lags::default());
        let mut readers: Vec<_> = (0..1_000).map(|_| lags.place()).collect();
        assert_eq!(lags.behind(9), Lagging { readers: 1_000, ..Lagging::default() });
        readers[3].told(4);
        readers[3].told(7);
        readers[700].read(7);
        readers[701].read(9);
        let lagging = Lagging { readers: 1_000, behind: 2, oldest: Some(4), revisions: 6 + 2 };
        assert_eq!(lags.behind(9), lagging);
        readers[3].caught_up();
        assert_eq!(lags.behind(9).oldest, Some(8));
        // A place that was given back says nothing, and is given again.
        readers.truncate(10);
        assert_eq!(lags.behind(9), Lagging { readers: 10, ..Lagging::default() });
        readers.extend((0..990).map(|_| lags.place()));
        assert_eq!(lags.chunks.read().expect("no panic").len(), 1_000usize.div_ceil(CHUNK));
    }
}
