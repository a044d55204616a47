//! A snapshot on its way to one watcher: read in parts that fit into a message, at the reader's pace. What it holds is
//! kept as it was while the state moves on; who does not read for long, or is so slow that the log forgets what came
//! after, loses it, and begins anew.

use std::{
    sync::{Arc, Mutex, PoisonError, TryLockError, Weak},
    time::Duration,
};

use smol_str::SmolStr;
use tokio::time::Instant;

use super::{
    feed::{Feed, Pointing},
    frame::{WATCH_FRONTENDS, push_event, push_frontend, push_summary},
    hub::Hub,
    log::EventLog,
    resume::ResetReason,
};
use crate::registry::{Cause, EventType, Matcher, Partition, Presence, Revision, Scope, SnapshotReader};

/// Most records that one part looks at: a selector that matches little must not hold its thread.
const SCAN_MAX: usize = 4_096;
/// A part is closed at this size, so that the largest possible record still fits into a message of 256 KiB.
const PART_BYTES: usize = 190 * 1024;

/// A snapshot that nobody reads from for so long is given up.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The rest of a snapshot.
#[derive(Debug)]
pub(super) struct SnapshotPart {
    pages: Arc<Pages>,
    /// What the feed's filters mean in it.
    matcher: Arc<Matcher>,
    /// Where the feed's frontends point in it, and how many of them were read.
    pointing: Pointing,
    told: usize,
    /// The partitions that it named so far, for who is told summaries.
    presence: Option<Presence>,
    reset: Option<(ResetReason, Revision)>,
    /// Something of it was sent.
    begun: bool,
}

/// What is left to read of a snapshot.
#[derive(Debug)]
struct Pages {
    revision: Revision,
    /// Where what comes after it is in the log.
    scopes: Box<[Scope]>,
    rest: Mutex<Rest>,
}

#[derive(Debug)]
struct Rest {
    /// None once it is given up.
    reader: Option<SnapshotReader>,
    read_at: Instant,
}

/// The snapshots that are being read.
#[derive(Debug, Default)]
pub(super) struct Snapshots(Mutex<Vec<Weak<Pages>>>);

impl Snapshots {
    /// Gives up those that nobody reads, or from which nobody could go on. What they held is freed where the result is
    /// dropped.
    pub(super) fn give_up(&self, now: Instant, log: &EventLog) -> Vec<SnapshotReader> {
        let mut given_up = Vec::new();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|pages| {
            let Some(pages) = pages.upgrade() else { return false };
            let mut rest = match pages.rest.try_lock() {
                Ok(rest) => rest,
                Err(TryLockError::Poisoned(rest)) => rest.into_inner(),
                // It is being read at this moment.
                Err(TryLockError::WouldBlock) => return true,
            };
            let idle = now.saturating_duration_since(rest.read_at) >= IDLE_MAX;
            if !idle && log.read(&pages.scopes, pages.revision, 0).is_ok() {
                return true;
            }
            given_up.extend(rest.reader.take());
            false
        });
        given_up
    }

    fn add(&self, pages: &Arc<Pages>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(pages));
    }
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

/// The committed state as `feed` sees it: where its frontends point, what its filters mean, and what they may match.
fn view(hub: &Hub, feed: &Feed) -> (Pointing, Arc<Matcher>, SnapshotReader) {
    let registry = hub.registry();
    let find = |(namespace, name): &(SmolStr, SmolStr)| registry.deployments().frontend(namespace, name).cloned();
    let pointing: Pointing = feed.matcher().frontends().iter().map(find).collect();
    let matcher = feed.meaning(&pointing);
    let reader = registry.snapshot(matcher.scopes()).reader();
    (pointing, matcher, reader)
}

/// The partitions that are there in it, and its revision.
pub(super) fn presence(hub: &Hub, feed: &Feed) -> (Revision, Presence) {
    let (_, matcher, mut reader) = view(hub, feed);
    let mut presence = Presence::default();
    while let Some(record) = reader.next_record() {
        if matcher.matches(&record) {
            presence.add(Partition::of(&record));
        }
    }
    (reader.revision(), presence)
}

impl SnapshotPart {
    /// The committed state as `feed` sees it.
    pub(super) fn new(hub: &Hub, feed: &Feed, reset: Option<(ResetReason, Revision)>) -> Self {
        hub.metrics().snapshots.inc();
        if let Some((reason, _)) = reset {
            hub.metrics().resets.of((reason.into(),)).inc();
        }
        let (pointing, matcher, reader) = view(hub, feed);
        let (revision, scopes) = (reader.revision(), feed.matcher().scopes().into());
        let rest = Mutex::new(Rest { reader: Some(reader), read_at: Instant::now() });
        let pages = Arc::new(Pages { revision, scopes, rest });
        hub.snapshots().add(&pages);
        let presence = feed.matcher().set().summaries().then(Presence::default);
        Self { pages, matcher, pointing, told: 0, presence, reset, begun: false }
    }

    /// The state as it is now, in place of this one, which was given up.
    pub(super) fn again(&self, hub: &Hub, feed: &Feed) -> Self {
        let oldest = hub.log().read(&self.pages.scopes, self.pages.revision, 0).map_or_else(|gone| gone.oldest, |_| 0);
        Self::new(hub, feed, if self.begun { Some((ResetReason::FellBehind, oldest)) } else { self.reset })
    }

    /// The revision that it shows.
    pub(super) fn revision(&self) -> Revision {
        self.pages.revision
    }

    /// Reads the next part. None: it was given up.
    pub(super) fn read(&mut self, feed: &Feed) -> Option<Part> {
        let mut rest = self.pages.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.read_at = Instant::now();
        let reader = rest.reader.as_mut()?;
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
            let Some(record) = reader.next_record() else {
                end = true;
                break;
            };
            if self.matcher.matches(&record) {
                push_event(EventType::Online, Cause::Snapshot, &record, &mut events);
                if let Some(presence) = &mut self.presence {
                    let of = Partition::of(&record);
                    if presence.add(of.clone()) {
                        push_summary(&of, true, &mut events);
                    }
                }
            }
        }
        drop(rest);
        let sent = end || !events.is_empty();
        self.begun |= sent;
        let reset = if sent { self.reset.take() } else { None };
        Some(Part { events, reset, end })
    }
}
