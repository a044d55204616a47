//! A snapshot on its way to one watcher: read in parts that fit into a message, at the reader's pace. Who loses what is
//! left of it begins anew.

use std::{collections::HashSet, sync::Arc};

use smol_str::SmolStr;

use super::{
    budget::Charge,
    feed::{Claim, Feed, Pointing},
    frame::{WATCH_FRONTENDS, push_event, push_frontend, push_summary},
    hub::Hub,
    pages::{Pages, Read},
    partitions::SCAN_MAX,
    resume::ResetReason,
};
use crate::registry::{Cause, EventType, Matcher, Partition, Presence, Record, Revision, SnapshotReader};

/// A part is closed at this size, so that the largest possible record still fits into a message of 256 KiB.
const PART_BYTES: usize = 190 * 1024;
/// What the parts that wait for their readers take together. A part may be as large as this share of what is left of it, so
/// that whoever begins last finds some…
pub(super) const PARTS_BYTES: usize = 64 * 1024 * 1024;
const PART_SHARE: usize = 128;
/// …but need not be smaller than this.
const PART_BYTES_MIN: usize = 8 * 1024;

/// The rest of a snapshot.
#[derive(Debug)]
pub(super) struct SnapshotPart {
    pages: Arc<Pages>,
    /// What the feed's filters mean in it.
    matcher: Arc<Matcher>,
    /// Where the feed's frontends point in it, and how many of them were read.
    pointing: Pointing,
    told: usize,
    /// For who is told summaries.
    summaries: Option<Summaries>,
    reset: Option<(ResetReason, Revision)>,
    /// Something of it was sent.
    begun: bool,
}

/// What it tells of partitions.
#[derive(Debug, Default)]
struct Summaries {
    /// The service that is being read, and those of its partitions that were named.
    service: Option<(SmolStr, SmolStr)>,
    keys: HashSet<SmolStr>,
    /// All of them, counted for the feed, if it does not know them and nobody else does that.
    count: Option<(Presence, Claim)>,
}

impl Summaries {
    /// The partition of a record, if it was not named.
    fn first(&mut self, record: &Record) -> Option<Partition> {
        let of = Partition::of(record);
        if let Some((presence, _)) = &mut self.count {
            presence.add(of.clone());
        }
        // Records come in the order of their services.
        let same = |read: &(SmolStr, SmolStr)| (&read.0, &read.1) == (&of.namespace, &of.service);
        if !self.service.as_ref().is_some_and(same) {
            self.service = Some((of.namespace.clone(), of.service.clone()));
            self.keys.clear();
        }
        self.keys.insert(of.key.clone()).then_some(of)
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
    /// It waits in memory until its reader asks for more. Boxed: most streams have none.
    pub(super) waits: Box<Charge>,
}

/// The committed state as `feed` sees it: where its frontends point, what its filters mean, and what they may match.
fn view(hub: &Hub, feed: &Feed) -> (Pointing, Arc<Matcher>, SnapshotReader) {
    let registry = hub.registry();
    let find = |(namespace, name): &(SmolStr, SmolStr)| registry.deployments().frontend(namespace, name).cloned();
    let pointing: Pointing = feed.matcher().frontends().iter().map(find).collect();
    let matcher = feed.meaning(&pointing);
    let reader = registry.snapshot(matcher.scopes()).under(matcher.prefix()).reader();
    (pointing, matcher, reader)
}

/// The same, to be read in turns.
pub(super) fn pages(hub: &Hub, feed: &Feed) -> (Arc<Matcher>, Arc<Pages>) {
    let (_, matcher, reader) = view(hub, feed);
    (matcher, hub.snapshots().keep(reader, feed.matcher().scopes()))
}

/// About the most bytes that the partitions take which are there.
pub(super) fn summary_bytes(hub: &Hub, feed: &Feed) -> usize {
    let (_, matcher, _) = view(hub, feed);
    let registry = hub.registry();
    let partitions: u64 = matcher.scopes().iter().map(|scope| registry.partitions_in(scope)).sum();
    drop(registry);
    usize::try_from(partitions).unwrap_or(usize::MAX).saturating_mul(Presence::ENTRY_BYTES)
}

impl SnapshotPart {
    /// The committed state as `feed` sees it.
    pub(super) fn new(hub: &Hub, feed: &Arc<Feed>, reset: Option<(ResetReason, Revision)>) -> Self {
        hub.metrics().snapshots.inc();
        if let Some((reason, _)) = reset {
            hub.metrics().resets.of((reason.into(),)).inc();
        }
        let (pointing, matcher, reader) = view(hub, feed);
        let pages = hub.snapshots().keep(reader, feed.matcher().scopes());
        let count = feed.claim().map(|claim| (Presence::default(), claim));
        let summaries = feed.matcher().set().summaries().then(|| Summaries { count, ..Summaries::default() });
        Self { pages, matcher, pointing, told: 0, summaries, reset, begun: false }
    }

    /// The state as it is now, in place of this one, which was given up.
    pub(super) fn again(&self, hub: &Hub, feed: &Arc<Feed>) -> Self {
        let oldest = self.pages.forgotten(hub.log()).unwrap_or(0);
        Self::new(hub, feed, if self.begun { Some((ResetReason::FellBehind, oldest)) } else { self.reset })
    }

    /// The revision that it shows.
    pub(super) fn revision(&self) -> Revision {
        self.pages.revision()
    }

    /// Reads the next part. None: it was given up.
    pub(super) fn read(&mut self, hub: &Hub, feed: &Feed) -> Option<Part> {
        let mut events = Vec::new();
        let waiting = hub.parts();
        let part_bytes = (waiting.left() / PART_SHARE).clamp(PART_BYTES_MIN, PART_BYTES);
        while let Some(frontend) = self.pointing.get(self.told).filter(|_| events.len() <= part_bytes) {
            let (namespace, name) = &feed.matcher().frontends()[self.told];
            push_frontend(WATCH_FRONTENDS, (namespace, name), frontend.as_deref(), &mut events);
            self.told += 1;
        }
        // A selector that matches little must not hold its thread.
        let max = if events.len() > part_bytes { 0 } else { SCAN_MAX };
        let read = self.pages.read(max, |record| {
            if self.matcher.matches(record) {
                push_event(EventType::Online, Cause::Snapshot, record, &mut events);
                let first = self.summaries.as_mut().and_then(|summaries| summaries.first(record));
                first.iter().for_each(|of| push_summary(of, true, &mut events));
            }
            events.len() <= part_bytes
        })?;
        let end = read == Read::End;
        if end && let Some((presence, _claim)) = self.summaries.as_mut().and_then(|summaries| summaries.count.take()) {
            feed.hand_over(self.revision(), presence);
        }
        let sent = end || !events.is_empty();
        self.begun |= sent;
        let reset = if sent { self.reset.take() } else { None };
        let waits = Box::new(waiting.charge(events.len()));
        Some(Part { events, reset, end, waits })
    }
}
