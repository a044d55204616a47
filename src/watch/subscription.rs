//! One watch among the many of a stream.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use hashbrown::HashTable;

use super::{
    board::Letterbox,
    feed::Feed,
    partitions::{Counting, Place},
    seats::WatchPermit,
    snapshot::SnapshotPart,
};
use crate::registry::Revision;

/// What becomes of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Closing,
    Ended,
}

/// What it does.
#[derive(Debug)]
pub(super) enum Phase {
    Snapshot(Box<SnapshotPart>),
    /// It is to be told summaries, and has to know what is there at its cursor.
    Counting(Box<Counting>),
    Live,
}

impl Phase {
    /// The revision of the snapshot that is read, if one is.
    pub(super) fn revision(&self) -> Option<Revision> {
        match self {
            Self::Snapshot(snapshot) => Some(snapshot.revision()),
            Self::Counting(_) | Self::Live => None,
        }
    }
}

/// One watch among many.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: Box<str>,
    pub(super) feed: Arc<Feed>,
    pub(super) listening: u64,
    pub(super) phase: Phase,
    /// Everything up to it was queued.
    pub(super) cursor: Revision,
    /// The revision of what it began with: a resume token or the first snapshot.
    pub(super) began: Revision,
    /// What is there at it, while it is far behind.
    pub(super) place: Option<Place>,
    /// It was not answered yet.
    pub(super) greet: bool,
    /// A message of it was read and not queued yet.
    pub(super) waits: bool,
    /// What is published for those who asked.
    pub(super) published: Option<Box<Letterbox>>,
    pub(super) permit: WatchPermit,
}

/// Which part of a stream has which id. The ids are those of the parts, not copies.
#[derive(Debug, Default)]
pub(super) struct Ids {
    key: RandomState,
    parts: HashTable<u32>,
}

impl Ids {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// The part of this id among `parts`.
    pub(super) fn find(&self, id: &str, parts: &[Option<Subscription>]) -> Option<u32> {
        self.parts.find(self.key.hash_one(id), |part| id_of(*part, parts) == id).copied()
    }

    /// Takes in one of `parts`, whose id has none yet.
    pub(super) fn insert(&mut self, part: u32, parts: &[Option<Subscription>]) {
        let hash = |part: &u32| self.key.hash_one(id_of(*part, parts));
        self.parts.insert_unique(hash(&part), part, hash);
    }

    /// Takes the part of this id out, which is among `parts` still.
    pub(super) fn remove(&mut self, id: &str, parts: &[Option<Subscription>]) -> Option<u32> {
        let found = self.parts.find_entry(self.key.hash_one(id), |part| id_of(*part, parts) == id).ok()?;
        Some(found.remove().0)
    }
}

fn id_of(part: u32, parts: &[Option<Subscription>]) -> &str {
    parts.get(part as usize).and_then(Option::as_ref).map_or("", |subscription| &subscription.id)
}
