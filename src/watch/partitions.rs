//! What has to be known for summaries: which partitions are there for the readers of a feed. The feed knows that as of the
//! last revision that it made messages of; a reader that is further behind has its own count, and drops it when it has
//! caught up. Who begins where nobody counted counts the committed state, together with all who want the same, and goes
//! back along the log to where it is: in turns, and with nothing locked that others read by. Knows no filters: what an
//! entry is to them says the feed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    budget::{Budget, Charge},
    feed::Feed,
    log::{EventLog, Forgotten},
    pages::{Pages, Read},
};
use crate::registry::{Matcher, Partition, Presence, Revision, Step, Summary};

/// Most records that one turn looks at.
pub(super) const SCAN_MAX: usize = 4_096;
/// Log entries taken at a time.
const READ_MAX: usize = 64;

/// The partitions that are there when a revision is over, as its reader counts on. Most readers have none: it is small.
#[derive(Debug)]
pub struct Place(Box<Counted>);

#[derive(Debug)]
struct Counted {
    presence: Presence,
    charge: Charge,
}

impl Place {
    /// What is there, charged to `budget`.
    #[must_use]
    pub fn new(presence: Presence, budget: &Arc<Budget>) -> Self {
        let charge = budget.charge(presence.bytes());
        Self(Box::new(Counted { presence, charge }))
    }

    pub(super) fn presence(&self) -> &Presence {
        &self.0.presence
    }

    /// Takes in what a revision is.
    pub(super) fn fold(&mut self, steps: &[Step]) -> Vec<Summary> {
        let summaries = self.0.presence.fold(steps);
        self.0.charge.set(self.0.presence.bytes());
        summaries
    }
}

/// The committed state as a feed's filters see it.
pub(super) type View<'a> = &'a dyn Fn() -> (Arc<Matcher>, Arc<Pages>);

/// A count of the committed state that is under way, for all who wait for it.
#[derive(Debug, Default)]
pub(super) struct Scans(Mutex<Option<Scan>>);

#[derive(Debug)]
struct Scan {
    matcher: Arc<Matcher>,
    pages: Arc<Pages>,
    presence: Presence,
    /// The least cursor of those who wait.
    to: Revision,
    /// When all of it is read: back to that.
    walk: Option<Walk>,
}

/// A count on its way along the log.
#[derive(Debug)]
struct Walk {
    presence: Presence,
    /// From the revision that it is of…
    from: Revision,
    /// …to another one.
    to: Revision,
    /// Everything between them was looked at up to here.
    cursor: Revision,
    /// What it came to: replicas that came, less those that went.
    net: BTreeMap<Partition, i64>,
}

/// What a turn came to.
#[derive(Debug)]
pub(super) enum Turn {
    /// There is more to do.
    More,
    /// What comes after the cursor can be read, with this place if it is one.
    Done(Option<Place>),
}

/// A reader that waits until it is known which partitions are there at its cursor.
#[derive(Debug, Default)]
pub(super) struct Counting {
    walk: Option<(Walk, Charge)>,
}

/// How a feed stands to a reader's cursor.
#[derive(Debug)]
pub(super) enum Known {
    /// It has what comes next.
    Here,
    /// It knows what is there at this revision, which is beyond the cursor.
    Ahead(Revision, Presence),
    /// It does not know what is there.
    Nowhere,
}

impl Counting {
    /// Goes on for a turn.
    ///
    /// # Errors
    /// `Forgotten` when the log does not go back to the cursor, or nothing more may be kept for who is behind.
    pub(super) fn turn(
        &mut self,
        feed: &Feed,
        log: &EventLog,
        cursor: Revision,
        view: View<'_>,
    ) -> Result<Turn, Forgotten> {
        if let Some((walk, _)) = &mut self.walk {
            let arrived = walk.turn(feed, log)?;
            let arrived = if arrived { self.walk.take() } else { None };
            return Ok(arrived.map_or(Turn::More, |(walk, charge)| {
                drop(charge);
                Turn::Done(Some(Place::new(walk.arrive(), feed.summary_budget())))
            }));
        }
        match feed.known(cursor) {
            Known::Here => return Ok(Turn::Done(None)),
            Known::Ahead(at, presence) => {
                let charge = feed.summary_budget().reserve(presence.bytes());
                let charge = charge.ok_or_else(|| Forgotten { oldest: log.bounds().1 })?;
                self.walk = Some((Walk::new(presence, at, cursor), charge));
            }
            Known::Nowhere => match feed.scans() {
                Some(scans) => scans.turn(feed, log, cursor, view)?,
                // Nothing has to be known.
                None => return Ok(Turn::Done(None)),
            },
        }
        Ok(Turn::More)
    }
}

impl Scans {
    fn lock(&self) -> MutexGuard<'_, Option<Scan>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on for a turn, for a reader at `cursor`. At the end the feed has what was found.
    fn turn(&self, feed: &Feed, log: &EventLog, cursor: Revision, view: View<'_>) -> Result<(), Forgotten> {
        // Who cannot go on anyway should not make others wait.
        log.read(feed.matcher().scopes(), cursor, 0)?;
        let mut held = self.lock();
        let mut scan = held.take().unwrap_or_else(|| {
            let (matcher, pages) = view();
            Scan { matcher, pages, presence: Presence::default(), to: cursor, walk: None }
        });
        match &mut scan.walk {
            None => {
                scan.to = scan.to.min(cursor);
                match scan.read() {
                    Some(Read::More) => {}
                    Some(Read::End) => {
                        scan.walk = Some(Walk::new(scan.presence.clone(), scan.pages.revision(), scan.to));
                    }
                    // It was given up: another begins.
                    None => return Ok(()),
                }
            }
            Some(walk) => match walk.turn(feed, log) {
                Ok(false) => {}
                Ok(true) => {
                    let (to, walk) = (walk.to, scan.walk.take());
                    walk.into_iter().for_each(|walk| feed.hand_over(to, walk.arrive()));
                    return Ok(());
                }
                Err(_) => {
                    // The one who was furthest behind is too far: the others go back by themselves.
                    feed.hand_over(scan.pages.revision(), scan.presence);
                    return Ok(());
                }
            },
        }
        *held = Some(scan);
        Ok(())
    }
}

impl Scan {
    fn read(&mut self) -> Option<Read> {
        let (matcher, presence) = (&self.matcher, &mut self.presence);
        self.pages.read(SCAN_MAX, |record| {
            if matcher.matches(record) {
                presence.add(Partition::of(record));
            }
            true
        })
    }
}

impl Walk {
    fn new(presence: Presence, from: Revision, to: Revision) -> Self {
        Self { presence, from, to, cursor: from.min(to), net: BTreeMap::new() }
    }

    /// Goes on for a turn. Whether it has arrived.
    fn turn(&mut self, feed: &Feed, log: &EventLog) -> Result<bool, Forgotten> {
        let end = self.from.max(self.to);
        if self.cursor >= end {
            return Ok(true);
        }
        let batch = log.read(feed.matcher().scopes(), self.cursor, READ_MAX)?;
        if batch.through < self.cursor {
            // Another log, of a store that came back with less.
            return Err(Forgotten { oldest: batch.through });
        }
        let mut looked = 0;
        for entry in batch.entries.iter().take_while(|entry| entry.revision <= end) {
            for Step { of, came } in feed.steps(log, entry) {
                *self.net.entry(of).or_default() += if came { 1 } else { -1 };
            }
            self.cursor = entry.revision;
            looked += entry.events.len();
            if looked >= SCAN_MAX {
                return Ok(false);
            }
        }
        // The state is ahead of the log for the moment between folding and publishing.
        self.cursor = batch.through.min(end);
        Ok(self.cursor >= end)
    }

    /// What is there where it has arrived.
    fn arrive(mut self) -> Presence {
        let sign = if self.from <= self.to { 1 } else { -1 };
        self.net.iter().for_each(|(of, by)| self.presence.shift(of, sign * by));
        self.presence
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use uuid::Uuid;

    use super::*;
    use crate::{
        engine::memory::MemoryEngine,
        registry::{Change, Error, Filter, FilterSet, Instance, Lease, Put, SecretHash, Stamp, Status},
        watch::{Hub, HubOptions, Next, snapshot::SnapshotPart},
    };

    fn put(service: usize) -> Change {
        let (namespace, service, id) = ("default".to_owned(), format!("s{service}"), "1".to_owned());
        let instance = Instance { namespace, service, id, status: Status::Serving.into(), ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let (incarnation, revision) = (Stamp::Commit, Stamp::Commit);
        Change::Put(Put { description: instance.encode_to_vec().into(), lease, incarnation, ordinal: 0, revision })
    }

    /// A hub with so many services at revision 1.
    fn hub(services: usize, options: HubOptions) -> Arc<Hub> {
        let hub = Hub::new(MemoryEngine::recovered(Uuid::nil(), 1), options);
        commit(&hub, 1, &(0..services).map(put).collect::<Vec<_>>());
        hub
    }

    fn commit(hub: &Hub, revision: Revision, changes: &[Change]) {
        let folded = hub.registry_mut().fold(revision, changes);
        hub.publish(revision, folded);
    }

    fn everywhere(selector: &str) -> FilterSet {
        FilterSet::new([Filter::new("*", "", "", selector).expect("a filter")]).with_summaries(true)
    }

    /// What nobody counted is counted in turns, each of a bounded number of records, and once for all who wait for it.
    #[test]
    fn who_resumes_counts_in_turns_and_together() {
        const SERVICES: usize = 3 * SCAN_MAX;
        let hub = hub(SERVICES, HubOptions::default());
        let feed = hub.feed(everywhere("zone!=x"));
        commit(&hub, 2, &[put(SERVICES)]);
        commit(&hub, 3, &[put(SERVICES + 1), put(0)]);
        // A message is not made before it is known.
        assert!(matches!(hub.next(&feed, 1, &mut None), Ok(Next::Uncounted)));
        let mut readers: Vec<_> = [2, 1, 2, 1].into_iter().map(|cursor| (cursor, Counting::default())).collect();
        let (mut turns, mut counted) = (0, Vec::new());
        while !readers.is_empty() {
            readers.retain_mut(|(cursor, counting)| {
                turns += 1;
                let before = feed.scans().expect("summaries").lock().as_ref().map_or(0, |scan| scan.presence.bytes());
                let turn = hub.count(&feed, *cursor, counting).expect("all of it is kept");
                let after =
                    feed.scans().expect("summaries").lock().as_ref().map_or(before, |scan| scan.presence.bytes());
                assert!(after - before <= SCAN_MAX * Presence::ENTRY_BYTES);
                let Turn::Done(place) = turn else { return true };
                counted.push((*cursor, place));
                false
            });
        }
        assert!(turns <= 3 + 5 + 2 * counted.len(), "{turns} turns for all of them together");
        // Several have it, so that it keeps what one of them has read.
        let _other = Arc::clone(&feed);
        for (cursor, mut place) in counted {
            let mut told = Vec::new();
            let mut at = cursor;
            while let Ok(Next::Message(message)) = hub.next(&feed, at, &mut place) {
                at = message.revision;
                told.push(message.revision);
            }
            assert_eq!(told, (cursor + 1..=3).collect::<Vec<_>>());
        }
    }

    /// What a snapshot was read of is counted with it.
    #[test]
    fn who_reads_a_snapshot_counts_for_all() {
        let hub = hub(10_000, HubOptions::default());
        let feed = hub.feed(everywhere(""));
        let read = |mut part: SnapshotPart| while !part.read(&hub, &feed).expect("nobody gives it up").end {};
        let (first, second) = (SnapshotPart::new(&hub, &feed, None), SnapshotPart::new(&hub, &feed, None));
        commit(&hub, 2, &[put(10_000)]);
        read(second);
        assert!(matches!(feed.known(1), Known::Nowhere), "another one counts");
        read(first);
        assert!(matches!(feed.known(1), Known::Here));
        assert!(matches!(hub.next(&feed, 1, &mut None), Ok(Next::Message(message)) if message.revision == 2));
        assert!(feed.scans().expect("summaries").lock().is_none());
    }

    /// Watches that would need more than there is room for are refused, and all that was kept is given back.
    #[test]
    fn what_is_counted_by_is_bounded() {
        let options = HubOptions { max_summary_bytes: 1_000, ..HubOptions::default() };
        let hub = hub(3, options);
        let feeds =
            [everywhere(""), everywhere("zone!=x")].map(|set| hub.feed_for_one_more(set).expect("there is room"));
        assert!(hub.feed_for_one_more(everywhere("")).is_ok(), "one more of the same costs nothing");
        let refused = hub.feed_for_one_more(everywhere("zone!=y")).expect_err("there is no room");
        assert_eq!(refused, Error::Limit { limit: "max_summary_bytes", maximum: 1_000, usage: 768 });
        assert!(hub.feed_for_one_more(everywhere("zone!=y").with_summaries(false)).is_ok());
        // A reader that is far behind begins anew where it may not count for itself.
        let mut part = SnapshotPart::new(&hub, &feeds[0], None);
        while !part.read(&hub, &feeds[0]).expect("nobody gives it up").end {}
        (2..9).for_each(|revision| commit(&hub, revision, &[put(revision as usize)]));
        let mut cursor = 1;
        while let Ok(Next::Message(message)) = hub.next(&feeds[0], cursor, &mut None) {
            cursor = message.revision;
        }
        assert!(hub.feed_for_one_more(everywhere("")).is_ok());
        let mut laggard = Counting::default();
        assert!(matches!(hub.count(&feeds[0], 1, &mut laggard), Err(Forgotten { .. })));
        drop(feeds);
        let refused = hub.feed_for_one_more(everywhere("zone!=y")).expect_err("it would need more than there is");
        assert_eq!(refused, Error::Limit { limit: "max_summary_bytes", maximum: 1_000, usage: 0 });
    }
}
