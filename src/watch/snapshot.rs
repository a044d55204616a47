//! A snapshot on its way to one watcher: read in parts that fit into a message, at the reader's pace.

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    feed::{Feed, Pointing},
    frame::{WATCH_FRONTENDS, push_event, push_frontend},
    hub::Hub,
    resume::ResetReason,
};
use crate::registry::{Cause, EventType, Matcher, Revision, SnapshotReader};

/// Most records that one part looks at: a selector that matches little must not hold its thread.
const SCAN_MAX: usize = 4_096;
/// A part is closed at this size, so that the largest possible record still fits into a message of 256 KiB.
const PART_BYTES: usize = 190 * 1024;

/// The rest of a snapshot.
#[derive(Debug)]
pub(super) struct SnapshotPart {
    reader: SnapshotReader,
    /// What the feed's filters mean in it.
    matcher: Arc<Matcher>,
    /// Where the feed's frontends point in it, and how many of them were read.
    pointing: Pointing,
    told: usize,
    reset: Option<(ResetReason, Revision)>,
}

/// What one turn read of it.
#[derive(Debug)]
pub(super) struct Part {
    /// What frontends point at as elements of `frontends`, events as elements of `events`; may be empty although there is
    /// more.
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
        let registry = hub.registry();
        let find = |(namespace, name): &(SmolStr, SmolStr)| registry.deployments().frontend(namespace, name).cloned();
        let pointing: Pointing = feed.matcher().frontends().iter().map(find).collect();
        let matcher = feed.meaning(&pointing);
        let reader = registry.snapshot(matcher.scopes()).reader();
        Self { reader, matcher, pointing, told: 0, reset }
    }

    /// The revision that it shows.
    pub(super) fn revision(&self) -> Revision {
        self.reader.revision()
    }

    /// Reads the next part.
    pub(super) fn read(&mut self, feed: &Feed) -> Part {
        let mut events = Vec::new();
        let mut end = false;
        while let Some(frontend) = self.pointing.get(self.told).filter(|_| events.len() <= PART_BYTES) {
            let (namespace, name) = &feed.matcher().frontends()[self.told];
            push_frontend(WATCH_FRONTENDS, (namespace, name), frontend.as_deref(), &mut events);
            self.told += 1;
        }
        for _ in 0..SCAN_MAX {
            if events.len() > PART_BYTES {
                break;
            }
            let Some(record) = self.reader.next_record() else {
                end = true;
                break;
            };
            if self.matcher.matches(&record) {
                push_event(EventType::Online, Cause::Snapshot, &record, &mut events);
            }
        }
        let reset = if end || !events.is_empty() { self.reset.take() } else { None };
        Part { events, reset, end }
    }
}
