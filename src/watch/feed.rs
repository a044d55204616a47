//! The messages of one filter set, made once for all who watch it. A feed reads the log as far as its first reader
//! wants; the others take what it made.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    frame::{EVENTS_BYTES_MAX, Trailer, WATCH_FRONTENDS, push_event, push_frontend, push_summary, watch_response},
    judge::{judge, judge_turn},
    log::{Entry, EventLog, Forgotten},
    partitions::{Partitions, View, Way},
    resume::ResumeToken,
};
use crate::registry::{Event, EventType, Frontend, Matcher, Revision, Step, Turn};

/// Most messages that a feed keeps for readers that are a little behind; others read the log by themselves.
const RECENT_MAX: usize = 256;
/// Most bytes of them.
const RECENT_BYTES_MAX: usize = 1024 * 1024;
/// Most log entries taken at a time.
const READ_MAX: usize = 64;

/// What one revision is to a filter set.
#[derive(Debug)]
pub struct Message {
    /// Which revision.
    pub revision: Revision,
    /// Where to continue after it.
    pub token: String,
    /// Its events as elements of the field `events`, and what frontends point at as elements of `frontends`, in pieces
    /// that fit into a message.
    pub pieces: Box<[Bytes]>,
    watch: OnceLock<Box<[Bytes]>>,
}

/// What a reader finds after its cursor.
#[derive(Debug)]
pub enum Next {
    /// The next revision that has something for it.
    Message(Arc<Message>),
    /// Nothing, up to this revision.
    UpToDate(Revision),
}

/// The part of a feed's history that it keeps.
#[derive(Debug, Default)]
struct Recent {
    /// Complete after this revision…
    from: Revision,
    /// …up to this one.
    through: Revision,
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
}

/// Where frontends point, in the order in which a matcher names them.
pub type Pointing = Vec<Option<Arc<Frontend>>>;

/// What filters mean while their frontends point so.
#[derive(Debug)]
struct Meaning {
    pointing: Pointing,
    matcher: Arc<Matcher>,
}

/// What all feeds together keep, and how much that may be.
#[derive(Debug)]
pub struct FeedBudget {
    used: AtomicUsize,
    max: usize,
}

impl FeedBudget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Whether more is kept than may be.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.max
    }

    fn changed(&self, before: usize, after: usize) {
        if after > before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

/// The messages of one filter set in one stretch of history.
#[derive(Debug)]
pub struct Feed {
    matcher: Arc<Matcher>,
    /// What it came to mean when its frontends were looked at last.
    meaning: Mutex<Option<Meaning>>,
    /// Of the filters; in every token.
    fingerprint: u64,
    registry: Uuid,
    epoch: u64,
    recent: Mutex<Recent>,
    /// Of those whose watchers are told summaries.
    partitions: Partitions,
    budget: Arc<FeedBudget>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.budget.changed(self.recent().bytes, 0);
    }
}

impl Message {
    /// The message as `WatchResponse`s.
    #[must_use]
    pub fn watch_frames(&self) -> &[Bytes] {
        self.watch.get_or_init(|| {
            let last = self.pieces.len() - 1;
            let frame = |(place, events): (usize, &Bytes)| {
                let token = if place == last { self.token.as_str() } else { "" };
                let trailer = Trailer { revision: self.revision, token, more: place < last, ..Trailer::default() };
                watch_response(events, trailer)
            };
            self.pieces.iter().enumerate().map(frame).collect()
        })
    }

    /// The memory that it takes once a watch has read it.
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.token.len() + 2 * self.pieces.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Feed {
    /// A feed that begins at `from`.
    #[must_use]
    pub fn new(matcher: Matcher, registry: Uuid, epoch: u64, from: Revision, budget: Arc<FeedBudget>) -> Self {
        let recent = Recent { from, through: from, ..Recent::default() };
        let fingerprint = matcher.set().fingerprint();
        let (matcher, meaning) = (Arc::new(matcher), Mutex::new(None));
        let (recent, partitions) = (Mutex::new(recent), Partitions::default());
        Self { matcher, meaning, fingerprint, registry, epoch, recent, partitions, budget }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its filters mean while their frontends point so: made once, until another is asked for.
    #[must_use]
    pub fn meaning(&self, pointing: &Pointing) -> Arc<Matcher> {
        if pointing.is_empty() {
            return Arc::clone(&self.matcher);
        }
        let mut held = self.meaning.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meaning) = held.as_ref().filter(|meaning| same(&meaning.pointing, pointing)) {
            return Arc::clone(&meaning.matcher);
        }
        let matcher = Arc::new(self.matcher.resolved(pointing));
        *held = Some(Meaning { pointing: pointing.clone(), matcher: Arc::clone(&matcher) });
        matcher
    }

    /// The filters it is for.
    #[must_use]
    pub fn matcher(&self) -> &Arc<Matcher> {
        &self.matcher
    }

    /// The resume token of a reader that has seen everything up to `revision`.
    #[must_use]
    pub fn token(&self, revision: Revision) -> String {
        let fingerprint = self.fingerprint;
        ResumeToken { registry: self.registry, epoch: self.epoch, revision, fingerprint }.encode()
    }

    /// What comes after `cursor`; `view` is asked only for who is told summaries.
    ///
    /// # Errors
    /// `Forgotten` when the log does not go back so far.
    pub fn next(self: &Arc<Self>, log: &EventLog, cursor: Revision, view: View<'_>) -> Result<Next, Forgotten> {
        let mut recent = self.recent();
        let before = recent.bytes;
        if Arc::strong_count(self) == 1 {
            // Nobody else wants what this reader has seen. Whoever comes later reads the log by itself.
            recent.forget_through(cursor);
        }
        let next = self.next_of_recent(&mut recent, log, cursor, view);
        self.budget.changed(before, recent.bytes);
        drop(recent);
        next.unwrap_or_else(|| self.next_of_a_laggard(log, cursor, view))
    }

    /// What comes after `cursor`, unless that is further back than what the feed keeps.
    fn next_of_recent(
        &self,
        recent: &mut Recent,
        log: &EventLog,
        cursor: Revision,
        view: View<'_>,
    ) -> Option<Result<Next, Forgotten>> {
        while cursor >= recent.from {
            if let Some(message) = recent.first_after(cursor) {
                return Some(Ok(Next::Message(message)));
            }
            let batch = match log.read(self.matcher.scopes(), recent.through, READ_MAX) {
                Ok(batch) => batch,
                Err(forgotten) if cursor < forgotten.oldest => return Some(Err(forgotten)),
                // The feed was idle for so long that the log moved on; this reader was not.
                Err(_) => {
                    *recent = Recent { from: cursor, through: cursor, ..Recent::default() };
                    continue;
                }
            };
            let moved = batch.through > recent.through;
            for entry in &batch.entries {
                match self.message(log, entry, view) {
                    Ok(message) => message.into_iter().for_each(|message| recent.push(message)),
                    Err(forgotten) => return Some(Err(forgotten)),
                }
                recent.through = entry.revision;
            }
            recent.through = batch.through;
            if !moved {
                return Some(Ok(Next::UpToDate(cursor.max(batch.through))));
            }
        }
        None
    }

    /// Lets go of the older half of what it keeps: who has not read it reads the log by itself.
    pub(super) fn shed(&self) {
        let mut recent = self.recent();
        let before = recent.bytes;
        for _ in 0..recent.messages.len().div_ceil(2) {
            recent.forget_oldest();
        }
        self.budget.changed(before, recent.bytes);
    }

    /// As `next`, for a reader that is further behind than what the feed keeps.
    fn next_of_a_laggard(&self, log: &EventLog, mut cursor: Revision, view: View<'_>) -> Result<Next, Forgotten> {
        loop {
            let batch = log.read(self.matcher.scopes(), cursor, READ_MAX)?;
            for entry in &batch.entries {
                if let Some(message) = self.message(log, entry, view)? {
                    return Ok(Next::Message(Arc::new(message)));
                }
            }
            if batch.through <= cursor {
                return Ok(Next::UpToDate(cursor));
            }
            cursor = batch.through;
        }
    }

    /// What an entry is about: the turns of frontends that are followed, and what the filters mean before and after it.
    fn about<'a>(&self, log: &EventLog, entry: &'a Entry) -> About<'a> {
        let new = log.pointed(self.matcher.frontends(), entry.revision);
        let turns: Vec<&Turn> = match new.is_empty() {
            true => Vec::new(),
            false => entry.turns.iter().map(|turn| &**turn).filter(|turn| self.place_of(turn).is_some()).collect(),
        };
        let mut old = new.clone();
        for turn in &turns {
            if let Some(place) = self.place_of(turn) {
                old[place].clone_from(&turn.before);
            }
        }
        // The older first, so that the one that is kept is the one that is asked for next.
        let (old, new) = (self.meaning(&old), self.meaning(&new));
        About { turns, old, new }
    }

    fn message(&self, log: &EventLog, entry: &Entry, view: View<'_>) -> Result<Option<Message>, Forgotten> {
        let About { turns, old, new } = self.about(log, entry);
        let mut pieces = Pieces::default();
        for turn in &turns {
            pieces.make_room(turn.after.as_ref().map_or(0, |frontend| frontend.document.body.len()) + 600);
            push_frontend(WATCH_FRONTENDS, turn.name(), turn.after.as_deref(), &mut pieces.last);
        }
        let of_instances = entry.events.iter().flat_map(|event| judge(&old, &new, event)).flatten();
        for seen in of_instances.chain(judge_turn(&old, &new, &turns, &entry.events)) {
            pieces.make_room(seen.record.bytes().len());
            push_event(seen.kind, seen.cause, &seen.record, &mut pieces.last);
        }
        if self.matcher.set().summaries() {
            let steps = |entry: &Entry| self.about(log, entry).steps(entry);
            let way = Way { log, scopes: self.matcher.scopes(), steps };
            for summary in self.partitions.summaries(entry, &way, view)? {
                pieces.make_room(1_024);
                push_summary(&summary.of, summary.online, &mut pieces.last);
            }
        }
        let (revision, token) = (entry.revision, self.token(entry.revision));
        Ok(pieces.done().map(|pieces| Message { revision, token, pieces, watch: OnceLock::new() }))
    }

    /// Where the turned frontend stands among those that are followed.
    fn place_of(&self, turn: &Turn) -> Option<usize> {
        let (namespace, name) = turn.name();
        let order =
            |held: &(smol_str::SmolStr, smol_str::SmolStr)| (held.0.as_str(), held.1.as_str()).cmp(&(namespace, name));
        self.matcher.frontends().binary_search_by(order).ok()
    }
}

/// What an entry is about.
struct About<'a> {
    turns: Vec<&'a Turn>,
    old: Arc<Matcher>,
    new: Arc<Matcher>,
}

impl About<'_> {
    /// Who joined and left the partitions of what the filters mean.
    fn steps(&self, entry: &Entry) -> Vec<Step> {
        let of_event = |event: &Event| {
            let before = event.before.as_deref().filter(|record| self.old.matches(record));
            Step::between(before, event.after.as_deref().filter(|record| self.new.matches(record)))
        };
        let mut steps: Vec<Step> = entry.events.iter().flat_map(of_event).collect();
        for seen in judge_turn(&self.old, &self.new, &self.turns, &entry.events) {
            let joined = (seen.kind == EventType::Online).then_some(&*seen.record);
            let left = (seen.kind == EventType::Offline).then_some(&*seen.record);
            steps.extend(Step::between(left, joined));
        }
        steps
    }
}

fn same(one: &Pointing, other: &Pointing) -> bool {
    let same = |pair: (&Option<Arc<Frontend>>, &Option<Arc<Frontend>>)| match pair {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// Elements of a message's fields, in pieces that fit into a message.
#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    last: Vec<u8>,
}

impl Pieces {
    /// Begins another piece if so many bytes do not fit into this one.
    fn make_room(&mut self, bytes: usize) {
        if !self.last.is_empty() && self.last.len() + bytes > EVENTS_BYTES_MAX {
            self.full.push(Bytes::from(std::mem::take(&mut self.last)));
        }
    }

    /// All of them; none if there is nothing in them.
    fn done(mut self) -> Option<Box<[Bytes]>> {
        if !self.last.is_empty() {
            self.full.push(self.last.into());
        }
        (!self.full.is_empty()).then(|| self.full.into())
    }
}

impl Recent {
    fn forget_through(&mut self, cursor: Revision) {
        while let Some(seen) = self.messages.pop_front_if(|message| message.revision <= cursor) {
            self.bytes -= seen.bytes();
            self.from = seen.revision;
        }
        if self.messages.is_empty() && self.messages.capacity() > 0 {
            self.messages = VecDeque::new();
        }
    }

    fn first_after(&self, cursor: Revision) -> Option<Arc<Message>> {
        let place = self.messages.partition_point(|message| message.revision <= cursor);
        self.messages.get(place).cloned()
    }

    fn push(&mut self, message: Message) {
        self.bytes += message.bytes();
        self.messages.push_back(Arc::new(message));
        while self.messages.len() > RECENT_MAX || (self.bytes > RECENT_BYTES_MAX && self.messages.len() > 1) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.bytes -= oldest.bytes();
            self.from = oldest.revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::registry::{Cause, FilterSet, Instance, Lease, Presence, Record, SecretHash, Status};

    fn publish(log: &EventLog, revision: Revision) {
        let (namespace, service, id) = ("default".to_owned(), "web".to_owned(), revision.to_string());
        let status = Status::Serving.into();
        let instance = Instance { namespace, service, id, status, ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let record = Record::new(&instance.encode_to_vec(), lease, revision, 0, revision);
        log.publish(
            revision,
            vec![Event { before: None, after: Some(Arc::new(record)), cause: Cause::Registered, slot: 0 }],
        );
    }

    fn read(feed: &Arc<Feed>, log: &EventLog, mut cursor: Revision) -> Vec<Revision> {
        let mut revisions = Vec::new();
        while let Ok(Next::Message(message)) = feed.next(log, cursor, &|| (0, Presence::default())) {
            cursor = message.revision;
            revisions.push(cursor);
        }
        revisions
    }

    /// What a feed keeps is for others: with a single reader it keeps nothing that this one has read.
    #[test]
    fn a_feed_keeps_only_what_another_reader_may_want() {
        let log = EventLog::new(1 << 20, 0);
        let budget = FeedBudget::new(1 << 20);
        let feed = Arc::new(Feed::new(Matcher::new(FilterSet::default()), Uuid::nil(), 0, 0, Arc::clone(&budget)));
        (1..=40).for_each(|revision| publish(&log, revision));
        let all: Vec<_> = (1..=40).collect();
        let other = Arc::clone(&feed);
        assert_eq!(read(&feed, &log, 0), all);
        assert_eq!(feed.recent.lock().expect("no panic").messages.len(), 40);
        assert_eq!(read(&other, &log, 0), all);
        drop(other);
        assert_eq!(read(&feed, &log, 20), all[20..]);
        let recent = feed.recent.lock().expect("no panic");
        assert_eq!((recent.messages.len(), recent.bytes, recent.from), (0, 0, 40));
        drop(recent);
        // A reader that is further behind still finds everything.
        assert_eq!(read(&feed, &log, 5), all[5..]);
        drop(feed);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    /// What a feed lets go of costs its slower readers time, and nothing else.
    #[test]
    fn who_has_not_read_what_was_let_go_reads_the_log() {
        let log = EventLog::new(1 << 20, 0);
        let budget = FeedBudget::new(1);
        let feed = Arc::new(Feed::new(Matcher::new(FilterSet::default()), Uuid::nil(), 0, 0, Arc::clone(&budget)));
        let other = Arc::clone(&feed);
        (1..=40).for_each(|revision| publish(&log, revision));
        let all: Vec<_> = (1..=40).collect();
        assert_eq!(read(&feed, &log, 0), all);
        let mut kept = vec![budget.used.load(Ordering::Relaxed)];
        while budget.is_exceeded() {
            feed.shed();
            kept.push(budget.used.load(Ordering::Relaxed));
            assert_eq!(read(&other, &log, 7), all[7..]);
            assert_eq!(read(&other, &log, 39), all[39..]);
        }
        assert!(kept.is_sorted_by(|more, fewer| more > fewer), "{kept:?}");
        publish(&log, 41);
        assert_eq!((read(&other, &log, 40), read(&feed, &log, 20).len()), (vec![41], 21));
    }
}
