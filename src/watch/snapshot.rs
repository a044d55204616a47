//! A snapshot on its way to one watcher: read in parts that fit into a message, at the reader's pace.

use super::{feed::Feed, frame::push_event, hub::Hub, resume::ResetReason};
use crate::registry::{Cause, EventType, Revision, SnapshotReader};

/// Most records that one part looks at: a selector that matches little must not hold its thread.
const SCAN_MAX: usize = 4_096;
/// A part is closed at this size, so that the largest possible record still fits into a message of 256 KiB.
const PART_BYTES: usize = 190 * 1024;

/// The rest of a snapshot.
#[derive(Debug)]
pub(super) struct SnapshotPart {
    reader: SnapshotReader,
    reset: Option<(ResetReason, Revision)>,
}

/// What one turn read of it.
#[derive(Debug)]
pub(super) struct Part {
    /// Events as elements of the field `events`; may be empty although there is more.
    pub(super) events: Vec<u8>,
    /// Why the watch begins anew: with the first part only.
    pub(super) reset: Option<(ResetReason, Revision)>,
    /// The snapshot is complete with it.
    pub(super) end: bool,
}

impl SnapshotPart {
    /// The committed state as `feed` sees it.
    pub(super) fn new(hub: &Hub, feed: &Feed, reset: Option<(ResetReason, Revision)>) -> Self {
        hub.metrics().snapshots.inc();
        if let Some((reason, _)) = reset {
            hub.metrics().resets.of((reason.into(),)).inc();
        }
        Self { reader: hub.registry().snapshot(feed.matcher().scopes()).reader(), reset }
    }

    /// The revision that it shows.
    pub(super) fn revision(&self) -> Revision {
        self.reader.revision()
    }

    /// Reads the next part.
    pub(super) fn read(&mut self, feed: &Feed) -> Part {
        let mut events = Vec::new();
        let mut end = false;
        for _ in 0..SCAN_MAX {
            let Some(record) = self.reader.next_record() else {
                end = true;
                break;
            };
            if feed.matcher().matches(&record) {
                push_event(EventType::Online, Cause::Snapshot, &record, &mut events);
                if events.len() > PART_BYTES {
                    break;
                }
            }
        }
        let reset = if end || !events.is_empty() { self.reset.take() } else { None };
        Part { events, reset, end }
    }
}
