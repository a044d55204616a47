//! What is left to read of the committed state as it was at one revision, while the state moves on. Who does not read for
//! long, or is so slow that the log forgets what came after, loses it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::log::EventLog;
use crate::registry::{Record, Revision, Scope, SnapshotReader};

/// What nobody reads from for so long is given up.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// What is left to read of it.
#[derive(Debug)]
pub(super) struct Pages {
    revision: Revision,
    /// Where what comes after it is in the log.
    scopes: Box<[Scope]>,
    rest: Mutex<Rest>,
    number: u64,
    snapshots: Arc<Snapshots>,
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.snapshots.lock().by_number.remove(&self.number);
    }
}

#[derive(Debug)]
struct Rest {
    /// None once it is given up.
    reader: Option<SnapshotReader>,
    read_at: Instant,
}

/// Whether there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// There may be.
    More,
    /// Everything was read.
    End,
}

impl Pages {
    /// The revision that it shows.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision from which what comes after it could be read, if that is beyond it.
    pub(super) fn forgotten(&self, log: &EventLog) -> Option<Revision> {
        log.read(&self.scopes, self.revision, 0).err().map(|gone| gone.oldest)
    }

    /// Reads at most `max` records, for as long as `goes_on` with them. None: it was given up.
    pub(super) fn read(&self, max: usize, mut goes_on: impl FnMut(&Record) -> bool) -> Option<Read> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.read_at = Instant::now();
        let reader = rest.reader.as_mut()?;
        for _ in 0..max {
            match reader.next_record() {
                None => return Some(Read::End),
                Some(record) if !goes_on(&record) => break,
                Some(_) => {}
            }
        }
        Some(Read::More)
    }
}

/// Those that are being read: each is out of it, and its memory free, as soon as its reader is.
#[derive(Debug, Default)]
pub(super) struct Snapshots(Mutex<Reading>);

#[derive(Debug, Default)]
struct Reading {
    by_number: HashMap<u64, Weak<Pages>>,
    next: u64,
}

impl Snapshots {
    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is to be read from; `scopes` are where what comes after it is in the log.
    pub(super) fn keep(self: &Arc<Self>, reader: SnapshotReader, scopes: &[Scope]) -> Arc<Pages> {
        let revision = reader.revision();
        let rest = Mutex::new(Rest { reader: Some(reader), read_at: Instant::now() });
        let mut reading = self.lock();
        reading.next += 1;
        let (number, snapshots) = (reading.next, Arc::clone(self));
        let pages = Arc::new(Pages { revision, scopes: scopes.into(), rest, number, snapshots });
        reading.by_number.insert(number, Arc::downgrade(&pages));
        pages
    }

    /// Gives up those that nobody reads, or from which nobody could go on. What they held is freed where the result is
    /// dropped.
    pub(super) fn give_up(&self, now: Instant, log: &EventLog) -> Vec<SnapshotReader> {
        let mut given_up = Vec::new();
        // The last who holds one takes it out, under the same lock: that may be here, after it was looked at.
        let reading: Vec<Arc<Pages>> = self.lock().by_number.values().filter_map(Weak::upgrade).collect();
        for pages in reading {
            let mut rest = match pages.rest.try_lock() {
                Ok(rest) => rest,
                Err(TryLockError::Poisoned(rest)) => rest.into_inner(),
                // It is being read at this moment.
                Err(TryLockError::WouldBlock) => continue,
            };
            let idle = now.saturating_duration_since(rest.read_at) >= IDLE_MAX;
            if idle || pages.forgotten(log).is_some() {
                given_up.extend(rest.reader.take());
            }
        }
        given_up
    }
}
