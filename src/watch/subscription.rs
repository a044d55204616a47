//! One watch among the many of a stream.

use std::sync::Arc;

use super::{
    board::Letterbox,
    feed::Feed,
    hub::WatchPermit,
    partitions::{Counting, Place},
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
    /// What is published for those who asked.
    pub(super) published: Option<Letterbox>,
    #[expect(dead_code, reason = "it counts by being there")]
    pub(super) permit: WatchPermit,
}
