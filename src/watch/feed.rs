//! The messages of one filter set, made once for all who watch it. A feed reads the log as far as its first reader
//! wants; the others take what it made.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    budget::{Budget, Charge},
    frame::{Trailer, WATCH_FRONTENDS, push_event, push_frontend, push_summary, watch_response},
    judge::{judge, judge_turn},
    log::{Entry, EventLog, Forgotten},
    partitions::{Known, Place, Scans},
    pieces::Pieces,
    recent::Recent,
    resume::ResumeToken,
};
use crate::{
    framed::Framed,
    registry::{Event, EventType, Frontend, Matcher, Presence, Revision, Step, Turn},
};

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
    watch: OnceLock<Box<[Framed]>>,
}

/// What a reader finds after its cursor.
#[derive(Debug)]
pub enum Next {
    /// The next revision that has something for it.
    Message(Arc<Message>),
    /// Nothing, up to this revision.
    UpToDate(Revision),
    /// Something, but it is not known which partitions are there at the cursor: that has to be counted first.
    Uncounted,
}

/// An entry cannot be told of before it is known which partitions are there.
#[derive(Debug)]
struct Uncounted;

/// Where frontends point, in the order in which a matcher names them.
pub type Pointing = Vec<Option<Arc<Frontend>>>;

/// What filters mean while their frontends point so.
#[derive(Debug)]
struct Meaning {
    pointing: Pointing,
    matcher: Arc<Matcher>,
}

/// What all feeds together may keep.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Of messages.
    pub messages: Arc<Budget>,
    /// Of what summaries are counted by.
    pub summaries: Arc<Budget>,
}

/// The right to count the partitions for a feed while reading a snapshot: one at a time.
#[derive(Debug)]
pub(super) struct Claim(#[expect(dead_code, reason = "it counts by being there")] Arc<()>);

/// The messages of one filter set in one stretch of history.
#[derive(Debug)]
pub struct Feed {
    matcher: Arc<Matcher>,
    /// What it came to mean when its frontends were looked at last, if it has any.
    meaning: Mutex<Option<Box<Meaning>>>,
    /// Of the filters; in every token.
    fingerprint: u64,
    registry: Uuid,
    epoch: u64,
    recent: Mutex<Recent>,
    budgets: Budgets,
    /// What the summaries need, if there are to be any. Most feeds have none, and are small.
    tally: Option<Box<Tally>>,
}

/// What a feed counts its summaries by until it has a place for them.
#[derive(Debug, Default)]
struct Tally {
    /// Room for what they will be counted by.
    reserved: Mutex<Option<Charge>>,
    scans: Scans,
    claim: Mutex<Weak<()>>,
}

impl Message {
    /// The message as `WatchResponse`s.
    #[must_use]
    pub fn watch_frames(&self) -> &[Framed] {
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
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.token.len() + 2 * self.pieces.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Feed {
    /// A feed that begins at `from`.
    #[must_use]
    pub fn new(matcher: Matcher, registry: Uuid, epoch: u64, from: Revision, budgets: Budgets) -> Self {
        let fingerprint = matcher.set().fingerprint();
        let tally = matcher.set().summaries().then(Box::default);
        let recent = Mutex::new(Recent::after(from, &budgets.messages));
        let (matcher, meaning) = (Arc::new(matcher), Mutex::default());
        Self { matcher, meaning, fingerprint, registry, epoch, recent, budgets, tally }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        lock(&self.recent)
    }

    /// What its filters mean while their frontends point so: made once, until another is asked for.
    #[must_use]
    pub fn meaning(&self, pointing: &Pointing) -> Arc<Matcher> {
        if pointing.is_empty() {
            return Arc::clone(&self.matcher);
        }
        let mut held = lock(&self.meaning);
        if let Some(meaning) = held.as_ref().filter(|meaning| same(&meaning.pointing, pointing)) {
            return Arc::clone(&meaning.matcher);
        }
        let matcher = Arc::new(self.matcher.resolved(pointing));
        *held = Some(Box::new(Meaning { pointing: pointing.clone(), matcher: Arc::clone(&matcher) }));
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

    /// What comes after `cursor`; `place` is what is there at it, if its reader counted that, and afterwards what is there
    /// at what was found.
    ///
    /// # Errors
    /// `Forgotten` when the log does not go back so far.
    pub fn next(
        self: &Arc<Self>,
        log: &EventLog,
        cursor: Revision,
        place: &mut Option<Place>,
    ) -> Result<Next, Forgotten> {
        let mut recent = self.recent();
        if Arc::strong_count(self) == 1 {
            // Nobody else wants what this reader has seen. Whoever comes later reads the log by itself.
            recent.forget_through(cursor);
        }
        let next = self.next_of_recent(&mut recent, log, cursor, place);
        drop(recent);
        next.unwrap_or_else(|| self.next_of_a_laggard(log, cursor, place))
    }

    /// What comes after `cursor`, unless that is further back than what the feed keeps.
    fn next_of_recent(
        &self,
        recent: &mut Recent,
        log: &EventLog,
        cursor: Revision,
        place: &mut Option<Place>,
    ) -> Option<Result<Next, Forgotten>> {
        while cursor >= recent.from {
            // Here the feed counts for all.
            if let Some(place) = place.take() {
                recent.take_over(cursor, place);
            }
            if let Some(message) = recent.first_after(cursor) {
                return Some(Ok(Next::Message(message)));
            }
            if recent.through >= log.head() {
                return Some(Ok(Next::UpToDate(cursor.max(recent.through))));
            }
            let batch = match log.read(self.matcher.scopes(), recent.through, READ_MAX) {
                Ok(batch) => batch,
                Err(forgotten) if cursor < forgotten.oldest => return Some(Err(forgotten)),
                // The feed was idle for so long that the log moved on; this reader was not.
                Err(_) => {
                    *recent = Recent::after(cursor, &self.budgets.messages);
                    continue;
                }
            };
            let moved = batch.through > recent.through;
            for entry in &batch.entries {
                match self.message(log, entry, recent.place.as_mut()) {
                    Ok(message) => message.into_iter().for_each(|message| recent.push(message)),
                    // Messages that were made before it are told before it.
                    Err(Uncounted) if recent.first_after(cursor).is_some() => break,
                    Err(Uncounted) => return Some(Ok(Next::Uncounted)),
                }
                recent.through = entry.revision;
            }
            if batch.entries.last().is_none_or(|last| last.revision == recent.through) {
                recent.through = batch.through;
            }
            if !moved {
                return Some(Ok(Next::UpToDate(cursor.max(batch.through))));
            }
        }
        None
    }

    /// Lets go of the older half of what it keeps: who has not read it reads the log by itself.
    pub(super) fn shed(&self) {
        self.recent().shed();
    }

    /// As `next`, for a reader that is further behind than what the feed keeps.
    fn next_of_a_laggard(
        &self,
        log: &EventLog,
        mut cursor: Revision,
        place: &mut Option<Place>,
    ) -> Result<Next, Forgotten> {
        loop {
            let batch = log.read(self.matcher.scopes(), cursor, READ_MAX)?;
            for entry in &batch.entries {
                match self.message(log, entry, place.as_mut()) {
                    Ok(Some(message)) => return Ok(Next::Message(Arc::new(message))),
                    Ok(None) => {}
                    Err(Uncounted) => return Ok(Next::Uncounted),
                }
            }
            if batch.through <= cursor {
                return Ok(Next::UpToDate(cursor));
            }
            cursor = batch.through;
        }
    }

    /// How it stands to a reader at `cursor` that needs to know which partitions are there.
    pub(super) fn known(&self, cursor: Revision) -> Known {
        let recent = self.recent();
        match &recent.place {
            None => Known::Nowhere,
            Some(_) if cursor >= recent.from => Known::Here,
            Some(place) => Known::Ahead(recent.through, place.presence().clone()),
        }
    }

    /// Tells it which partitions are there when `revision` is over, if it does not know.
    pub fn hand_over(&self, revision: Revision, presence: Presence) {
        self.recent().take_over(revision, Place::new(presence, &self.budgets.summaries));
        if let Some(tally) = &self.tally {
            *lock(&tally.reserved) = None;
        }
    }

    /// Keeps room for what summaries will be counted by, at most about so many `bytes`. Whether there is.
    pub(super) fn reserve(&self, bytes: impl FnOnce() -> usize) -> bool {
        let Some(tally) = &self.tally else { return true };
        let mut reserved = lock(&tally.reserved);
        if reserved.is_none() && self.recent().place.is_none() {
            *reserved = self.budgets.summaries.reserve(bytes());
            return reserved.is_some();
        }
        true
    }

    /// The right to count the partitions for it, if it needs that and nobody else has the right.
    pub(super) fn claim(&self) -> Option<Claim> {
        let tally = self.tally.as_ref().filter(|_| self.recent().place.is_none())?;
        let mut held = lock(&tally.claim);
        if held.strong_count() > 0 {
            return None;
        }
        let claim = Arc::new(());
        *held = Arc::downgrade(&claim);
        Some(Claim(claim))
    }

    /// Who counts the state for it, if it has summaries.
    pub(super) fn scans(&self) -> Option<&Scans> {
        self.tally.as_deref().map(|tally| &tally.scans)
    }

    /// Of its filters.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What summaries are counted by is charged to it.
    pub(super) fn summary_budget(&self) -> &Arc<Budget> {
        &self.budgets.summaries
    }

    /// Who joined and left the partitions in an entry.
    pub(super) fn steps(&self, log: &EventLog, entry: &Entry) -> Vec<Step> {
        self.about(log, entry).steps(entry)
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

    /// The message of an entry, if it is one; `place` is what is there before it.
    fn message(&self, log: &EventLog, entry: &Entry, place: Option<&mut Place>) -> Result<Option<Message>, Uncounted> {
        let about = self.about(log, entry);
        let summaries = match self.matcher.set().summaries().then(|| about.steps(entry)) {
            Some(steps) if !steps.is_empty() => place.ok_or(Uncounted)?.fold(&steps),
            _ => Vec::new(),
        };
        let About { turns, old, new } = about;
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
        for summary in &summaries {
            pieces.make_room(1_024);
            push_summary(&summary.of, summary.online, &mut pieces.last);
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
            let before = event.before.as_ref().filter(|record| self.old.matches(record));
            Step::between(before, event.after.as_ref().filter(|record| self.new.matches(record)))
        };
        let mut steps: Vec<Step> = entry.events.iter().flat_map(of_event).collect();
        for seen in judge_turn(&self.old, &self.new, &self.turns, &entry.events) {
            let joined = (seen.kind == EventType::Online).then_some(&seen.record);
            let left = (seen.kind == EventType::Offline).then_some(&seen.record);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::registry::{Cause, FilterSet, Instance, Lease, Record, SecretHash, Status};

    fn publish(log: &EventLog, revision: Revision) {
        let (namespace, service, id) = ("default".to_owned(), "web".to_owned(), revision.to_string());
        let status = Status::Serving.into();
        let instance = Instance { namespace, service, id, status, ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let record = Record::new(&instance.encode_to_vec(), lease, revision, 0, revision);
        log.publish(revision, vec![Event { before: None, after: Some(record), cause: Cause::Registered, slot: 0 }]);
    }

    fn read(feed: &Arc<Feed>, log: &EventLog, mut cursor: Revision) -> Vec<Revision> {
        let mut revisions = Vec::new();
        while let Ok(Next::Message(message)) = feed.next(log, cursor, &mut None) {
            cursor = message.revision;
            revisions.push(cursor);
        }
        revisions
    }

    /// What a feed keeps is for others: with a single reader it keeps nothing that this one has read.
    #[test]
    fn a_feed_keeps_only_what_another_reader_may_want() {
        let log = EventLog::new(1 << 20, 0);
        let budgets = Budgets { messages: Budget::new(1 << 20), summaries: Budget::new(0) };
        let feed = Arc::new(Feed::new(Matcher::new(FilterSet::default()), Uuid::nil(), 0, 0, budgets.clone()));
        (1..=40).for_each(|revision| publish(&log, revision));
        let all: Vec<_> = (1..=40).collect();
        let other = Arc::clone(&feed);
        assert_eq!(read(&feed, &log, 0), all);
        assert_eq!(feed.recent().len(), 40);
        assert_eq!(read(&other, &log, 0), all);
        drop(other);
        assert_eq!(read(&feed, &log, 20), all[20..]);
        let recent = feed.recent();
        assert_eq!((recent.len(), budgets.messages.used(), recent.from), (0, 0, 40));
        drop(recent);
        // A reader that is further behind still finds everything.
        assert_eq!(read(&feed, &log, 5), all[5..]);
        drop(feed);
        assert_eq!(budgets.messages.used(), 0);
    }

    /// What a feed lets go of costs its slower readers time, and nothing else.
    #[test]
    fn who_has_not_read_what_was_let_go_reads_the_log() {
        let log = EventLog::new(1 << 20, 0);
        let budget = Budget::new(1);
        let budgets = Budgets { messages: Arc::clone(&budget), summaries: Budget::new(0) };
        let feed = Arc::new(Feed::new(Matcher::new(FilterSet::default()), Uuid::nil(), 0, 0, budgets));
        let other = Arc::clone(&feed);
        (1..=40).for_each(|revision| publish(&log, revision));
        let all: Vec<_> = (1..=40).collect();
        assert_eq!(read(&feed, &log, 0), all);
        let mut kept = vec![budget.used()];
        while budget.is_exceeded() {
            feed.shed();
            kept.push(budget.used());
            assert_eq!(read(&other, &log, 7), all[7..]);
            assert_eq!(read(&other, &log, 39), all[39..]);
        }
        assert!(kept.is_sorted_by(|more, fewer| more > fewer), "{kept:?}");
        publish(&log, 41);
        assert_eq!((read(&other, &log, 40), read(&feed, &log, 20).len()), (vec![41], 21));
    }
}
