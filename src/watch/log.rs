//! The shared log of committed events, bounded by bytes, and who sleeps on which part of it. It never knows how far
//! anyone has read.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use smol_str::SmolStr;

use super::{feed::Pointing, listener::Listener, pointers::Pointers};
use crate::registry::{Event, Folded, Frontend, Matcher, Revision, Scope, Turn, make_room};

/// What watchers may see of one revision.
#[derive(Debug)]
pub struct Entry {
    /// Which.
    pub revision: Revision,
    /// Of instances, in order.
    pub events: Box<[Event]>,
    /// Of frontends, in order.
    pub turns: Box<[Arc<Turn>]>,
    /// The topics of the frontends that it may concern.
    pub(super) frontends: Box<[Scope]>,
    footprint: usize,
    /// Bytes published before it, in all of this log's life.
    before: u64,
}

/// How much the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The last revision published.
    pub head: Revision,
    /// The oldest that can be continued from.
    pub oldest: Revision,
    /// Bytes of the kept events.
    pub bytes: u64,
    /// Revisions with kept events.
    pub records: u64,
}

/// The wanted revision is no longer in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The oldest revision that can be continued from.
    pub oldest: Revision,
}

/// What was read from the log.
#[derive(Debug)]
pub struct Batch {
    /// The entries that touch the scopes, in order.
    pub entries: Vec<Arc<Entry>>,
    /// They are all there are up to this revision.
    pub through: Revision,
}

#[derive(Debug)]
struct Topic {
    entries: VecDeque<Arc<Entry>>,
    /// Complete for every revision after this one, which may be long before what the log as a whole begins with: a
    /// quiet reader does not fall behind by what others are told.
    after: Revision,
    /// In order of arrival, which is that of their numbers.
    listeners: Vec<Place>,
}

/// A sleeper in a topic.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) listener: Arc<Listener>,
    pub(super) part: u32,
    /// What a watch is told of; none: no watch.
    pub(super) matcher: Option<Arc<Matcher>>,
}

#[derive(Debug)]
struct Inner {
    entries: VecDeque<Arc<Entry>>,
    topics: HashMap<Scope, Topic>,
    pointers: Pointers,
    bytes: usize,
    /// Bytes published in all of this log's life.
    published: u64,
    /// Complete for every revision after this one.
    after: Revision,
    next_listener: u64,
}

/// The log.
#[derive(Debug)]
pub struct EventLog {
    inner: RwLock<Inner>,
    /// The last revision published; written by who holds `inner`.
    head: AtomicU64,
    max_bytes: usize,
}

impl EventLog {
    /// An empty log at `revision` that keeps at most `max_bytes` of events.
    #[must_use]
    pub fn new(max_bytes: usize, revision: Revision) -> Self {
        let inner = Inner {
            entries: VecDeque::new(),
            topics: HashMap::new(),
            pointers: Pointers::default(),
            bytes: 0,
            published: 0,
            after: revision,
            next_listener: 0,
        };
        Self { inner: RwLock::new(inner), head: AtomicU64::new(revision), max_bytes }
    }

    /// Appends what was committed at `revision` and wakes whom it may concern.
    pub fn publish(&self, revision: Revision, what: impl Into<Folded>) {
        let Folded { events, turns, keys, tokens: _ } = what.into();
        let events: Box<[Event]> = events.into_iter().filter(Event::is_visible).collect();
        let turns: Box<[Arc<Turn>]> = turns.into_iter().map(Arc::new).collect();
        let mut inner = self.write();
        // Who still finds the head of before is woken below.
        self.head.fetch_max(revision, Ordering::AcqRel);
        for (namespace, key) in keys {
            inner.wake(&Scope::Key(namespace, key), revision);
        }
        if events.is_empty() && turns.is_empty() {
            // Nothing to tell, but the registry moved on.
            inner.wake(&Scope::All, revision);
            return;
        }
        let frontends = inner.pointers.concerned(&events, &turns);
        inner.pointers.turn(revision, &turns);
        let footprint = 64
            + events.iter().map(Event::footprint).sum::<usize>()
            + turns.iter().map(|turn| turn.footprint()).sum::<usize>();
        let entry = Arc::new(Entry { revision, events, turns, frontends, footprint, before: inner.published });
        let scopes = entry.scopes();
        for scope in &scopes {
            inner.topic(scope).entries.push_back(Arc::clone(&entry));
        }
        inner.bytes += footprint;
        inner.published += footprint as u64;
        inner.entries.push_back(entry);
        inner.prune(self.max_bytes);
        for scope in scopes.iter().chain([&Scope::All]) {
            inner.wake(scope, revision);
        }
    }

    /// Puts the recovered tail in, complete after `after`, up to `head`; `frontends` are as they were at `after`.
    pub fn restore(
        &self,
        after: Revision,
        head: Revision,
        frontends: impl IntoIterator<Item = Arc<Frontend>>,
        tail: impl IntoIterator<Item = (Revision, Folded)>,
    ) {
        {
            let mut inner = self.write();
            let topics = std::mem::take(&mut inner.topics);
            // The sleepers stay; what they have read counts by revision, not by place.
            inner.topics = topics
                .into_iter()
                .filter(|(_, topic)| !topic.listeners.is_empty())
                .map(|(scope, topic)| (scope, Topic { entries: VecDeque::new(), after, ..topic }))
                .collect();
            (inner.entries, inner.bytes, inner.after) = (VecDeque::new(), 0, after);
            self.head.store(after, Ordering::Release);
            inner.pointers = Pointers::new(frontends);
        }
        for (revision, folded) in tail {
            self.publish(revision, folded);
        }
        let inner = self.write();
        self.head.store(head, Ordering::Release);
        drop(inner);
        self.wake_all();
    }

    /// What happened after `after` in these scopes, at most about `max` entries of it.
    ///
    /// # Errors
    /// `Forgotten` when the log does not go back so far.
    pub fn read(&self, scopes: &[Scope], after: Revision, max: usize) -> Result<Batch, Forgotten> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let oldest = scopes.iter().map(|scope| inner.after(scope)).max().unwrap_or(inner.after);
        if after < oldest {
            return Err(Forgotten { oldest });
        }
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut through = self.head();
        for scope in scopes {
            let Some(topic) = inner.entries_of(scope) else { continue };
            let start = topic.partition_point(|entry| entry.revision <= after);
            entries.extend(topic.iter().skip(start).take(max).cloned());
            if let Some(next) = topic.get(start + max) {
                // More is there: complete only up to the last one taken.
                through = through.min(next.revision - 1);
            }
        }
        if scopes.len() > 1 {
            entries.sort_by_key(|entry| entry.revision);
            entries.dedup_by_key(|entry| entry.revision);
        }
        entries.retain(|entry| entry.revision <= through);
        Ok(Batch { entries, through })
    }

    /// Where each of these frontends (namespace and name) pointed when `revision` was over.
    #[must_use]
    pub fn pointed(&self, frontends: &[(SmolStr, SmolStr)], revision: Revision) -> Pointing {
        if frontends.is_empty() {
            return Pointing::new();
        }
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        frontends.iter().map(|name| inner.pointers.at(name, revision)).collect()
    }

    /// How many sleep on a frontend: streams, subscriptions, and calls that wait.
    #[must_use]
    pub fn followers(&self, namespace: &str, frontend: &str) -> usize {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let scope = Scope::Frontend(SmolStr::new(namespace), SmolStr::new(frontend));
        inner.topics.get(&scope).map_or(0, |topic| topic.listeners.len())
    }

    /// The last revision published.
    #[must_use]
    pub fn head(&self) -> Revision {
        self.head.load(Ordering::Acquire)
    }

    /// The last revision published, and the oldest that can be continued from.
    #[must_use]
    pub fn bounds(&self) -> (Revision, Revision) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        (self.head(), inner.after)
    }

    /// How much it holds.
    #[must_use]
    pub fn extent(&self) -> Extent {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let (bytes, records) = (inner.bytes as u64, inner.entries.len() as u64);
        Extent { head: self.head(), oldest: inner.after, bytes, records }
    }

    /// Bytes of events at `revision` and after it, as far as they are kept.
    #[must_use]
    pub fn bytes_from(&self, revision: Revision) -> u64 {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let place = inner.entries.partition_point(|entry| entry.revision < revision);
        inner.entries.get(place).map_or(0, |entry| inner.published - entry.before)
    }

    /// Bytes of the kept events.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Wakes `listener` for its part `part` whenever something happens in one of `scopes`. Gives what `ignore` takes.
    #[must_use]
    pub fn listen(&self, scopes: &[Scope], listener: &Arc<Listener>, part: u32) -> u64 {
        self.place(scopes, listener, part, None)
    }

    /// As `listen` in each of `scopes`, of a reader whose parts they are in order; all of it in one turn. Gives what
    /// `ignore` takes.
    #[must_use]
    pub fn listen_in_parts(&self, scopes: &[Scope], listener: &Arc<Listener>) -> u64 {
        let mut inner = self.write();
        inner.next_listener += 1;
        let number = inner.next_listener;
        for (part, scope) in (0..).zip(scopes) {
            inner.topic(scope).listeners.push(Place { number, listener: Arc::clone(listener), part, matcher: None });
        }
        number
    }

    /// As `listen`, of a watch of what `matcher` matches.
    #[must_use]
    pub fn follow(&self, matcher: &Arc<Matcher>, listener: &Arc<Listener>, part: u32) -> u64 {
        self.place(matcher.scopes(), listener, part, Some(matcher))
    }

    /// The watches in these topics, each once, of those that were there when `places` was called.
    pub(super) fn watches(&self, scopes: &[Scope], places: u64) -> Vec<Place> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let there = |scope| inner.topics.get(scope).map_or(&[][..], |topic: &Topic| &topic.listeners);
        let watches = scopes.iter().flat_map(there).filter(|place| place.matcher.is_some() && place.number <= places);
        let mut watches: Vec<Place> = watches.cloned().collect();
        watches.sort_unstable_by_key(|place| place.number);
        watches.dedup_by_key(|place| place.number);
        watches
    }

    /// The number of the last who began to listen.
    #[must_use]
    pub fn places(&self) -> u64 {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).next_listener
    }

    /// Whether a reader in `scope` that has not read `revision` still can.
    #[must_use]
    pub fn keeps(&self, scope: &Scope, revision: Revision) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).after(scope) < revision
    }

    fn place(&self, scopes: &[Scope], listener: &Arc<Listener>, part: u32, matcher: Option<&Arc<Matcher>>) -> u64 {
        let mut inner = self.write();
        inner.next_listener += 1;
        let id = inner.next_listener;
        for scope in scopes {
            let listeners = &mut inner.topic(scope).listeners;
            make_room(listeners);
            listeners.push(Place { number: id, listener: Arc::clone(listener), part, matcher: matcher.cloned() });
        }
        id
    }

    /// Ends what `listen` began.
    pub fn ignore(&self, scopes: &[Scope], id: u64) {
        let mut inner = self.write();
        for scope in scopes {
            if let Some(topic) = inner.topics.get_mut(scope) {
                if let Ok(place) = topic.listeners.binary_search_by_key(&id, |place| place.number) {
                    topic.listeners.remove(place);
                }
                if topic.listeners.is_empty() && topic.entries.is_empty() {
                    inner.topics.remove(scope);
                }
            }
        }
    }

    /// Wakes those who sleep in `scope`, though nothing was published.
    pub fn wake(&self, scope: &Scope) {
        let inner: RwLockReadGuard<'_, Inner> = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        for place in inner.topics.get(scope).into_iter().flat_map(|topic| &topic.listeners) {
            place.listener.wake_for(place.part);
        }
    }

    /// Wakes every sleeper, whatever it waits for.
    pub fn wake_all(&self) {
        let inner: RwLockReadGuard<'_, Inner> = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        for place in inner.topics.values().flat_map(|topic| &topic.listeners) {
            place.listener.wake_for(place.part);
        }
    }

    /// How many places sleepers have in the topics.
    #[cfg(test)]
    pub(crate) fn sleepers(&self) -> usize {
        self.write().topics.values().map(|topic| topic.listeners.len()).sum()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn topic(&mut self, scope: &Scope) -> &mut Topic {
        // One that was not there has had nothing since the log begins.
        let fresh = || Topic { entries: VecDeque::new(), after: self.after, listeners: Vec::new() };
        self.topics.entry(scope.clone()).or_insert_with(fresh)
    }

    /// The log is complete in `scope` for every revision after this one.
    fn after(&self, scope: &Scope) -> Revision {
        match scope {
            Scope::All => self.after,
            _ => self.topics.get(scope).map_or(self.after, |topic| topic.after),
        }
    }

    fn entries_of(&self, scope: &Scope) -> Option<&VecDeque<Arc<Entry>>> {
        match scope {
            Scope::All => Some(&self.entries),
            _ => self.topics.get(scope).map(|topic| &topic.entries),
        }
    }

    fn wake(&self, scope: &Scope, revision: Revision) {
        if let Some(topic) = self.topics.get(scope) {
            for place in &topic.listeners {
                place.listener.tell(place.part, revision);
            }
        }
    }

    fn prune(&mut self, max_bytes: usize) {
        // The newest stays, however large, so that a log is never without its last step.
        while self.bytes > max_bytes && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.footprint;
            self.after = oldest.revision;
            self.pointers.forget(&oldest.turns);
            for scope in oldest.scopes() {
                if let Some(topic) = self.topics.get_mut(&scope) {
                    topic.entries.pop_front();
                    topic.after = oldest.revision;
                    if topic.listeners.is_empty() && topic.entries.is_empty() {
                        self.topics.remove(&scope);
                    }
                }
            }
        }
    }
}

impl Entry {
    /// The topics that it is in, each once.
    fn scopes(&self) -> Vec<Scope> {
        let mut scopes = scopes_of(&self.events);
        scopes.extend_from_slice(&self.frontends);
        scopes
    }
}

/// The services and namespaces that events touch, each once, in order.
fn scopes_of(events: &[Event]) -> Vec<Scope> {
    let mut scopes = Vec::with_capacity(2);
    let mut last = None;
    for record in events.iter().filter_map(Event::any) {
        let (namespace, service, _) = record.names();
        // Neighbours are mostly alike: an expiry of a whole service, a batch of one client.
        if last == Some((namespace, service)) {
            continue;
        }
        last = Some((namespace, service));
        scopes.push(Scope::Namespace(SmolStr::new(namespace)));
        scopes.push(Scope::Service(SmolStr::new(namespace), SmolStr::new(service)));
    }
    if scopes.len() > 2 {
        scopes.sort();
        scopes.dedup();
    }
    scopes
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::registry::{Cause, Instance, Lease, Record, SecretHash};

    fn event(service: &str, revision: Revision) -> Event {
        let (namespace, id) = ("default".to_owned(), revision.to_string());
        let instance = Instance { namespace, service: service.into(), id, ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let record = Record::new(&instance.encode_to_vec(), lease, revision, 0, revision);
        Event { before: None, after: Some(record), cause: Cause::Registered, slot: 0 }
    }

    fn scope(service: &str) -> Scope {
        Scope::Service("default".into(), service.into())
    }

    /// Whoever sleeps on a quiet service missed nothing, however much was said of others meanwhile.
    #[test]
    fn a_quiet_reader_does_not_fall_behind_by_what_does_not_concern_it() {
        let log = EventLog::new(4_096, 0);
        let quiet = [scope("quiet"), scope("silent")];
        let listener = Listener::new();
        let number = log.listen(&quiet, &listener, super::super::ONLY_PART);
        log.publish(1, vec![event("quiet", 1)]);
        for revision in 2..100 {
            log.publish(revision, vec![event("busy", revision)]);
        }
        let oldest = log.bounds().1;
        assert!(oldest > 50);
        // It read the first: nothing more was there for it.
        let batch = log.read(&quiet, 1, 64).expect("it missed nothing");
        assert_eq!((batch.entries.len(), batch.through), (0, 99));
        // It did not: that one is gone.
        assert_eq!(log.read(&quiet, 0, 64).unwrap_err(), Forgotten { oldest: 1 });
        for of_others in [scope("busy"), scope("unheard"), Scope::Namespace("default".into()), Scope::All] {
            assert_eq!(log.read(&[of_others], 1, 64).unwrap_err(), Forgotten { oldest });
        }
        log.publish(100, vec![event("quiet", 100)]);
        assert_eq!(log.read(&quiet, 1, 64).expect("it missed nothing").entries.len(), 1);
        log.ignore(&quiet, number);
        // Nobody sleeps there any more: what was forgotten is no longer known by service.
        assert_eq!(log.read(&[scope("silent")], 1, 64).unwrap_err(), Forgotten { oldest: log.bounds().1 });
    }
}
