//! Which watches have taken in that an instance drains. A drain asks the readers that are told of the change, and each says
//! by itself how it stands whenever it has moved on: nobody is polled, and who is not asked pays nothing. Knows neither
//! leases nor who wants to know.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smol_str::SmolStr;
use tokio::{sync::Notify, time::Instant};

use super::log::{EventLog, Place};
use crate::registry::{Error, Event, Key, Matcher, Record, Revision, Scope};

/// Most readers that all drains wait for together.
pub const DRAIN_ASKS_MAX: usize = 1_000_000;
/// Who asks about a change again within so long shares what was asked first: nobody is woken for it.
const KEPT: Duration = Duration::from_secs(10);

/// A change: of which instance, and at which revision.
type Change = (Key, Revision);

/// The drains that somebody waits for, or did a moment ago.
#[derive(Debug, Default)]
pub(super) struct Drains {
    asks: Arc<AtomicUsize>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_change: HashMap<Change, Shared>,
    /// In the order in which they began.
    since: VecDeque<(Instant, Change)>,
}

/// A drain that is begun once, by the first who asks.
type Shared = Arc<Mutex<Option<Arc<Drain>>>>;

/// How a reader stands to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was not handed over yet.
    Unread,
    /// It was, to a reader that acknowledges.
    Unacknowledged,
    /// It was, to a reader that does not.
    Sent,
    /// It was acknowledged.
    Acked,
    /// The reader gets a snapshot in its place.
    Lagging,
}

/// How many readers stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standings {
    /// They acknowledged the change.
    pub acked: u64,
    /// It was handed to them, and they acknowledge nothing.
    pub sent: u64,
    /// They are waited for.
    pub pending: u64,
    /// They get a snapshot in its place.
    pub lagging: u64,
}

#[derive(Debug, Default)]
struct Counts {
    of: Standings,
    /// Those of the pending ones that the change was not handed to.
    unread: u64,
}

/// The readers of one change.
#[derive(Debug)]
pub struct Drain {
    revision: Revision,
    scope: Scope,
    counts: Mutex<Counts>,
    settled: Notify,
    asks: Arc<AtomicUsize>,
    asked: usize,
}

/// What a reader is asked: how it stands to one change with those of its watches that are told of it.
#[derive(Debug)]
pub(super) struct Ask {
    drain: Weak<Drain>,
    revision: Revision,
    standing: Standing,
    /// The reader's parts, each with the number that it listens by.
    parts: Box<[(u32, u64)]>,
}

impl Drains {
    /// Asks all who are told of the last change of `record` and listened when there were so many `places`; or says how they
    /// stand who were asked about it a moment ago.
    ///
    /// # Errors
    /// `Limit` when too many readers are waited for.
    pub(super) fn begin(&self, log: &EventLog, record: &Record, places: u64) -> Result<Arc<Drain>, Error> {
        let now = Instant::now();
        self.sweep();
        let change = (record.key(), record.revision);
        let shared = lock(&self.held).shared(&change, now);
        // Others may begin theirs meanwhile.
        let mut drain = lock(&shared);
        if let Some(drain) = &*drain {
            return Ok(Arc::clone(drain));
        }
        let begun = Drain::begin(log, &self.asks, record, places).or_else(|_| {
            // Those that nobody waits for any more make room.
            let over = lock(&self.held).let_go(|_| true);
            drop(over);
            Drain::begin(log, &self.asks, record, places)
        });
        match &begun {
            Ok(begun) => *drain = Some(Arc::clone(begun)),
            Err(_) => lock(&self.held).forget(&change),
        }
        begun
    }

    /// Forgets those that began long ago; who waits for them still does.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let over = lock(&self.held).let_go(|since| now.saturating_duration_since(since) >= KEPT);
        drop(over);
    }

    /// Forgets all of them: the history that they were about is no more.
    pub(super) fn clear(&self) {
        drop(mem::take(&mut *lock(&self.held)));
    }
}

impl Held {
    fn shared(&mut self, change: &Change, now: Instant) -> Shared {
        if let Some(shared) = self.by_change.get(change) {
            return Arc::clone(shared);
        }
        let shared = Shared::default();
        self.by_change.insert(change.clone(), Arc::clone(&shared));
        self.since.push_back((now, change.clone()));
        shared
    }

    /// Lets go of those that are `over` by when they began.
    fn let_go(&mut self, over: impl Fn(Instant) -> bool) -> Vec<Shared> {
        let mut gone = Vec::new();
        while let Some((_, change)) = self.since.pop_front_if(|(since, _)| over(*since)) {
            gone.extend(self.by_change.remove(&change));
        }
        gone
    }

    fn forget(&mut self, change: &Change) {
        self.by_change.remove(change);
        self.since.retain(|(_, other)| other != change);
    }
}

impl Drain {
    /// Asks all who are told of the last change of `record` and listened when there were so many `places`.
    fn begin(log: &EventLog, asks: &Arc<AtomicUsize>, record: &Record, places: u64) -> Result<Arc<Self>, Error> {
        let (namespace, service, _) = record.names();
        let (namespace, service) = (SmolStr::new(namespace), SmolStr::new(service));
        let scope = Scope::Service(namespace.clone(), service);
        let revision = record.revision;
        let mut scopes = vec![Scope::All, Scope::Namespace(namespace), scope.clone()];
        let entry = log.read(std::slice::from_ref(&scope), revision - 1, 1).ok();
        let entry = entry.and_then(|batch| batch.entries.into_iter().find(|entry| entry.revision == revision));
        scopes.extend(entry.iter().flat_map(|entry| entry.frontends.iter().cloned()));
        let of_it = |event: &&Event| event.after.as_ref().is_some_and(|after| after.fingerprint == record.fingerprint);
        let event = entry.as_ref().and_then(|entry| entry.events.iter().find(of_it));
        let before = event.and_then(|event| event.before.as_ref());
        let readers = told(log, log.watches(&scopes, places), revision, |matcher| {
            matcher.matches(record) || before.is_some_and(|before| matcher.matches(before))
        });
        let pending = readers.len() as u64;
        let of = Standings { pending, ..Standings::default() };
        let usage = asks.fetch_add(readers.len(), Ordering::Relaxed);
        let drain = Arc::new(Self {
            revision,
            scope,
            counts: Mutex::new(Counts { of, unread: pending }),
            settled: Notify::new(),
            asks: Arc::clone(asks),
            asked: readers.len(),
        });
        if usage + readers.len() > DRAIN_ASKS_MAX {
            let (maximum, usage) = (DRAIN_ASKS_MAX as u64, usage as u64);
            return Err(Error::Limit { limit: "max_drain_asks", maximum, usage });
        }
        for places in readers {
            let parts = places.iter().map(|place| (place.part, place.number)).collect();
            let ask = Ask { drain: Arc::downgrade(&drain), revision, standing: Standing::Unread, parts };
            places[0].listener.ask(ask);
        }
        Ok(drain)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }

    /// Waits until nobody is pending.
    pub async fn settled(&self) {
        loop {
            // Several may wait; who begins to listen before it looks misses nothing.
            let notified = self.settled.notified();
            if self.counts().of.pending == 0 {
                return;
            }
            notified.await;
        }
    }

    /// How they stand now. Who has not read what the log has no more lags, whether it has noticed or not.
    #[must_use]
    pub fn standings(&self, log: &EventLog) -> Standings {
        let counts = self.counts();
        let fallen = if log.keeps(&self.scope, self.revision) { 0 } else { counts.unread };
        let Standings { pending, lagging, .. } = counts.of;
        Standings { pending: pending - fallen, lagging: lagging + fallen, ..counts.of }
    }

    /// A reader that stood so stands otherwise, or, of the pending, is there no more.
    fn moved(&self, from: Standing, to: Option<Standing>) {
        let mut counts = self.counts();
        if let Some(count) = counts.standing(from) {
            *count -= 1;
        }
        counts.unread -= u64::from(from == Standing::Unread);
        counts.unread += u64::from(to == Some(Standing::Unread));
        if let Some(count) = to.and_then(|to| counts.standing(to)) {
            *count += 1;
        }
        if counts.of.pending == 0 {
            self.settled.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.asks.fetch_sub(self.asked, Ordering::Relaxed);
    }
}

/// The places of each reader that is told, together.
fn told(
    log: &EventLog,
    mut places: Vec<Place>,
    revision: Revision,
    is_told: impl Fn(&Matcher) -> bool,
) -> Vec<Vec<Place>> {
    // Equal filters share a matcher, and are judged once.
    let mut judged: HashMap<*const Matcher, bool> = HashMap::new();
    places.retain(|place| {
        let Some(matcher) = &place.matcher else { return false };
        *judged.entry(Arc::as_ptr(matcher)).or_insert_with(|| match matcher.frontends() {
            [] => is_told(matcher),
            frontends => is_told(&matcher.resolved(&log.pointed(frontends, revision))),
        })
    });
    places.sort_by_key(|place| Arc::as_ptr(&place.listener));
    let same = |one: &Place, other: &Place| Arc::ptr_eq(&one.listener, &other.listener);
    places.chunk_by(same).map(<[Place]>::to_vec).collect()
}

impl Counts {
    fn standing(&mut self, standing: Standing) -> Option<&mut u64> {
        Some(match standing {
            Standing::Unread | Standing::Unacknowledged => &mut self.of.pending,
            Standing::Sent => &mut self.of.sent,
            Standing::Acked => &mut self.of.acked,
            Standing::Lagging => &mut self.of.lagging,
        })
    }
}

impl Ask {
    /// Whether anybody still wants to know.
    pub(super) fn is_open(&self) -> bool {
        self.drain.strong_count() > 0
    }

    /// The revision of the change.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// The reader's parts, each with the number that it listens by.
    pub(super) fn parts(&self) -> &[(u32, u64)] {
        &self.parts
    }

    /// What was said last.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Says how the reader stands. False: there is nothing more to say.
    pub(super) fn stands(&mut self, standing: Standing) -> bool {
        let before = mem::replace(&mut self.standing, standing);
        if before != standing
            && let Some(drain) = self.drain.upgrade()
        {
            drain.moved(before, Some(standing));
        }
        !matches!(standing, Standing::Acked | Standing::Lagging)
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        // Who goes while it is waited for is waited for no more; what was said before stands.
        if matches!(self.standing, Standing::Unread | Standing::Unacknowledged)
            && let Some(drain) = self.drain.upgrade()
        {
            drain.moved(self.standing, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use prost::Message as _;

    use super::*;
    use crate::{
        registry::{Cause, Filter, FilterSet, Instance, Lease, SecretHash, Status},
        watch::{Listener, ONLY_PART},
    };

    fn record(service: &str, status: Status, revision: Revision) -> Record {
        let instance = Instance {
            namespace: "default".into(),
            service: service.into(),
            id: "1".into(),
            status: status.into(),
            ..Instance::default()
        };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        Record::new(&instance.encode_to_vec(), lease, 1, 0, revision)
    }

    /// A log in which `web/1` has become DRAINING at revision 2.
    fn drained(log: &EventLog) -> Record {
        let (before, after) = (record("web", Status::Serving, 1), record("web", Status::Draining, 2));
        let event = Event { before: Some(before), after: Some(after.clone()), cause: Cause::Unspecified, slot: 0 };
        log.publish(2, vec![event]);
        after
    }

    fn follow(log: &EventLog, service: &str) -> Arc<Listener> {
        let filter = Filter::new("", service, "", "").expect("a filter");
        let (listener, matcher) = (Listener::new(), Arc::new(Matcher::new(FilterSet::new([filter]))));
        let _ = log.follow(&matcher, &listener, ONLY_PART);
        listener
    }

    fn is_woken(listener: &Listener) -> bool {
        listener.poll_woken(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn only_who_is_told_is_asked() {
        let log = EventLog::new(1 << 20, 0);
        let others: Vec<_> = (0..1_000).map(|number| follow(&log, &format!("other-{number}"))).collect();
        let (told, places) = (follow(&log, "web"), log.places());
        let late = follow(&log, "web");
        let waits = Listener::new();
        let _ = log.listen(&[Scope::All], &waits, ONLY_PART);
        let after = drained(&log);
        let woken = others.iter().chain([&told, &late, &waits]).filter(|listener| is_woken(listener)).count();
        assert_eq!(woken, 3, "by the event itself");
        let drains = Drains::default();
        let drain = drains.begin(&log, &after, places).expect("there is room");
        assert!(is_woken(&told) && !is_woken(&late) && !is_woken(&waits) && !others.iter().any(|one| is_woken(one)));
        assert_eq!(drain.standings(&log), Standings { pending: 1, ..Standings::default() });
        // Whoever asks again is told what is known, and nobody is woken for it.
        let again = drains.begin(&log, &after, log.places()).expect("there is room");
        assert!(Arc::ptr_eq(&drain, &again) && !is_woken(&told) && !is_woken(&late));
        assert_eq!(drains.asks.load(Ordering::Relaxed), 1);
        // Nobody wants to know any more.
        drop((drain, again));
        drains.clear();
        assert_eq!(drains.asks.load(Ordering::Relaxed), 0);
        told.answer(0, None, |_| panic!("nothing is asked"));
    }

    /// What is kept for those who ask again goes after a while.
    #[tokio::test(start_paused = true)]
    async fn a_drain_is_shared_for_a_while() {
        let log = EventLog::new(1 << 20, 0);
        let (told, drains) = (follow(&log, "web"), Drains::default());
        let after = drained(&log);
        drop(drains.begin(&log, &after, log.places()).expect("there is room"));
        assert!(is_woken(&told));
        for _ in 0..1_000 {
            drop(drains.begin(&log, &after, log.places()).expect("there is room"));
        }
        assert!(!is_woken(&told));
        tokio::time::advance(KEPT).await;
        drains.sweep();
        assert_eq!(drains.asks.load(Ordering::Relaxed), 0);
        drop(drains.begin(&log, &after, log.places()).expect("there is room"));
        assert!(is_woken(&told));
    }

    /// Many are asked of one reader: it looks at each when it has come there, and not again.
    #[test]
    fn asks_are_looked_at_in_order() {
        const MANY: u64 = 1_000;
        let log = EventLog::new(1 << 20, 0);
        let (reader, asks) = (follow(&log, "web"), Arc::default());
        let drains: Vec<_> = (1..=MANY)
            .map(|revision| {
                let (before, after) = (record("web", Status::Serving, 0), record("web", Status::Draining, revision));
                let (before, cause) = (Some(before), Cause::Unspecified);
                log.publish(revision, vec![Event { before, after: Some(after.clone()), cause, slot: 0 }]);
                Drain::begin(&log, &asks, &after, log.places()).expect("there is room")
            })
            .collect();
        let looks = std::cell::Cell::new(0);
        let answer = |reached, acked: Option<Revision>| {
            reader.answer(reached, acked, |ask| {
                looks.set(looks.get() + 1);
                Some(match acked {
                    _ if ask.revision() > reached => Standing::Unread,
                    None => Standing::Sent,
                    Some(acked) if acked >= ask.revision() => Standing::Acked,
                    Some(_) => Standing::Unacknowledged,
                })
            });
        };
        answer(0, Some(0));
        assert_eq!(looks.get(), 0, "it has read none of them");
        for reached in 1..=MANY {
            answer(reached, Some(0));
        }
        assert_eq!(looks.get(), MANY, "each once");
        (0..100).for_each(|_| answer(MANY, Some(0)));
        assert_eq!(looks.get(), MANY);
        answer(MANY, Some(MANY / 2));
        assert_eq!(looks.get(), MANY + MANY / 2, "those that are acknowledged");
        let acked = drains.iter().filter(|drain| drain.standings(&log).acked == 1).count() as u64;
        assert_eq!(acked, MANY / 2);
        answer(MANY, Some(MANY));
        assert_eq!(looks.get(), 2 * MANY);
        assert!(drains.iter().all(|drain| drain.standings(&log) == Standings { acked: 1, ..Standings::default() }));
    }

    /// Beyond what all drains may wait for together one is refused, unless there are some that nobody waits for.
    #[test]
    fn all_drains_together_are_bounded() {
        let log = EventLog::new(1 << 20, 0);
        let (told, drains) = (follow(&log, "web"), Drains::default());
        drains.asks.store(DRAIN_ASKS_MAX, Ordering::Relaxed);
        let refused = drains.begin(&log, &drained(&log), log.places()).expect_err("there is no room");
        let maximum = DRAIN_ASKS_MAX as u64;
        assert_eq!(refused, Error::Limit { limit: "max_drain_asks", maximum, usage: maximum });
        told.answer(2, None, |_| panic!("nothing is asked"));
        drains.asks.store(DRAIN_ASKS_MAX - 1, Ordering::Relaxed);
        drop(drains.begin(&log, &drained(&log), log.places()).expect("there is room"));
        let after = record("web", Status::Draining, 3);
        assert!(drains.begin(&log, &after, log.places()).is_ok(), "in place of what nobody waits for");
    }
}
