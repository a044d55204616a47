//! Which watches have taken in that an instance drains. A drain asks the readers that are told of the change, and each says
//! by itself how it stands whenever it has moved on: nobody is polled, and who is not asked pays nothing. Knows neither
//! leases nor who wants to know.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use smol_str::SmolStr;
use tokio::sync::Notify;

use super::log::{EventLog, Place};
use crate::registry::{Event, Matcher, Record, Revision, Scope};

/// Most readers that all drains wait for together; a drain that would exceed it asks nobody, and has all of its own
/// pending.
const ASKS_MAX: usize = 1_000_000;

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
    /// Whether anybody was asked.
    waits: bool,
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

impl Drain {
    /// Asks all who are told of the last change of `record` and listened when there were so many `places`.
    pub(super) fn begin(log: &EventLog, asks: &Arc<AtomicUsize>, record: &Record, places: u64) -> Arc<Self> {
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
        let before = event.and_then(|event| event.before.as_deref());
        let readers = told(log, log.watches(&scopes, places), revision, |matcher| {
            matcher.matches(record) || before.is_some_and(|before| matcher.matches(before))
        });
        let pending = readers.len() as u64;
        let of = Standings { pending, ..Standings::default() };
        let room = asks.fetch_add(readers.len(), Ordering::Relaxed) + readers.len() <= ASKS_MAX;
        let drain = Arc::new(Self {
            revision,
            scope,
            counts: Mutex::new(Counts { of, unread: pending }),
            settled: Notify::new(),
            asks: Arc::clone(asks),
            asked: readers.len(),
            waits: room,
        });
        for places in readers.into_iter().filter(|_| room) {
            let parts = places.iter().map(|place| (place.part, place.number)).collect();
            let ask = Ask { drain: Arc::downgrade(&drain), revision, standing: Standing::Unread, parts };
            places[0].listener.ask(ask);
        }
        drain
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody is pending, or nobody was asked.
    pub async fn settled(&self) {
        while self.waits && self.counts().of.pending > 0 {
            self.settled.notified().await;
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
            self.settled.notify_one();
        }
    }
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

    fn record(service: &str, status: Status, revision: Revision) -> Arc<Record> {
        let instance = Instance {
            namespace: "default".into(),
            service: service.into(),
            id: "1".into(),
            status: status.into(),
            ..Instance::default()
        };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        Arc::new(Record::new(&instance.encode_to_vec(), lease, 1, 0, revision))
    }

    /// A log in which `web/1` has become DRAINING at revision 2.
    fn drained(log: &EventLog) -> Arc<Record> {
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
        let asks = Arc::default();
        let drain = Drain::begin(&log, &asks, &after, places);
        assert!(is_woken(&told) && !is_woken(&late) && !is_woken(&waits) && !others.iter().any(|one| is_woken(one)));
        assert_eq!(drain.standings(&log), Standings { pending: 1, ..Standings::default() });
        assert_eq!(asks.load(Ordering::Relaxed), 1);
        // Nobody wants to know any more.
        drop(drain);
        assert_eq!(asks.load(Ordering::Relaxed), 0);
        told.answer(|_| panic!("nothing is asked"));
    }

    /// Beyond what all drains may wait for together nobody is asked, and nobody waits.
    #[tokio::test]
    async fn all_drains_together_are_bounded() {
        let log = EventLog::new(1 << 20, 0);
        let (told, asks) = (follow(&log, "web"), Arc::new(AtomicUsize::new(ASKS_MAX)));
        let drain = Drain::begin(&log, &asks, &drained(&log), log.places());
        drain.settled().await;
        assert_eq!(drain.standings(&log), Standings { pending: 1, ..Standings::default() });
        told.answer(|_| panic!("nothing is asked"));
    }
}
