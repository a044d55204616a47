//! What the actor publishes and everyone reads: the committed state, the event log, and the feeds made from it.
//! Only the actor writes.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::HashTable;
use smol_str::SmolStr;
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use super::{
    board::Board,
    budget::Budget,
    drain::{Drain, Drains},
    feed::{Budgets, Feed, Next},
    lag::Lags,
    log::{EventLog, Forgotten},
    pages::Snapshots,
    partitions::{Counting, Place, Turn},
    resume::{ResetReason, ResumeToken},
    seats::Seats,
    snapshot::{PARTS_BYTES, pages, summary_bytes},
};
use crate::{
    engine::{Epoch, Recovered, TailEntry},
    metrics::Metrics,
    registry::{
        Error, FilterSet, Folded, Matcher, Record, Registry, ReplyBudget, Revision, Rewound, Scope, StateLimits,
        Stored, catalog::PortRules, rewind,
    },
};

/// What readers are promised.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Bytes of events to keep. Default 64 MiB.
    pub max_log_bytes: usize,
    /// Bytes of messages that all feeds together keep for readers that are a little behind. Default 64 MiB.
    pub max_feed_bytes: usize,
    /// Bytes of what summaries are counted by, of all feeds together. Default 256 MiB.
    pub max_summary_bytes: usize,
    /// Watches and subscriptions at once. Default 100,000.
    pub max_watches: u64,
    /// A quiet stream says something after this long. Default 10 s, advertised as 15 s.
    pub bookmark_interval: Duration,
    /// Limits of the state.
    pub state: StateLimits,
    /// By which rules the catalog gives ports out.
    pub port_rules: Arc<PortRules>,
    /// Where it is counted what happens. Default: values of its own.
    pub metrics: Arc<Metrics>,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            max_log_bytes: 64 * 1024 * 1024,
            max_feed_bytes: 64 * 1024 * 1024,
            max_summary_bytes: 256 * 1024 * 1024,
            max_watches: 100_000,
            bookmark_interval: Duration::from_secs(10),
            state: StateLimits::default(),
            port_rules: Arc::default(),
            metrics: Arc::default(),
        }
    }
}

/// The published side of the registry.
#[derive(Debug)]
pub struct Hub {
    registry: RwLock<Registry>,
    log: EventLog,
    feeds: Mutex<Feeds>,
    feed_budgets: Budgets,
    snapshots: Arc<Snapshots>,
    /// Parts of them that wait for their readers.
    parts: Arc<Budget>,
    id: Uuid,
    epochs: RwLock<Vec<Epoch>>,
    /// Grows when the state was replaced as a whole: every watch begins anew.
    generation: AtomicU64,
    closing: watch::Sender<bool>,
    /// It will close: nobody should begin anything here any more.
    leaving: AtomicBool,
    pub(super) watches: AtomicU64,
    pub(super) seats: Seats,
    /// Whether a namespace has a quota.
    has_quotas: AtomicBool,
    lags: Arc<Lags>,
    /// Why changes cannot be committed, while they cannot.
    away: Mutex<Option<SmolStr>>,
    replies: Arc<ReplyBudget>,
    board: Arc<Board>,
    /// Grows when somebody may do something else than before.
    rights_generation: AtomicU64,
    /// Tells it to those who wait for it.
    rights: watch::Sender<u64>,
    drains: Drains,
    options: HubOptions,
}

/// The feeds that somebody reads, by the fingerprint of their filters.
#[derive(Debug, Default)]
struct Feeds {
    found: HashTable<(u64, Weak<Feed>)>,
    /// At how many of them those that nobody reads any more are dropped.
    sweep_at: usize,
}

impl Feeds {
    /// The feed of `filters`, if somebody reads it.
    fn find(&self, fingerprint: u64, filters: &FilterSet) -> Option<Arc<Feed>> {
        let of_filters = |feed: &Arc<Feed>| feed.matcher().set() == filters;
        let candidates = self.found.iter_hash(fingerprint).filter(|(held, _)| *held == fingerprint);
        candidates.filter_map(|(_, feed)| feed.upgrade()).find(of_filters)
    }

    fn put(&mut self, feed: &Arc<Feed>) {
        if self.found.len() >= self.sweep_at {
            self.found.retain(|(_, feed)| feed.strong_count() > 0);
            self.sweep_at = (self.found.len() * 2).max(SWEEP_MIN);
        }
        let fingerprint = feed.fingerprint();
        self.found.insert_unique(fingerprint, (fingerprint, Arc::downgrade(feed)), |(held, _)| *held);
    }
}

/// The least of feeds at which that is done.
const SWEEP_MIN: usize = 64;
/// Most bytes of lookup replies that are kept ready.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Hub {
    /// The published side of what was recovered.
    #[must_use]
    pub fn new(recovered: Recovered, options: HubOptions) -> Arc<Self> {
        let id = recovered.registry_id;
        let (messages, summaries) = (Budget::new(options.max_feed_bytes), Budget::new(options.max_summary_bytes));
        let hub = Self {
            registry: RwLock::new(Registry::new(tag_of(id), options.state)),
            log: EventLog::new(options.max_log_bytes, 0),
            feeds: Mutex::default(),
            feed_budgets: Budgets { messages, summaries },
            snapshots: Arc::default(),
            parts: Budget::new(PARTS_BYTES),
            id,
            epochs: RwLock::default(),
            generation: AtomicU64::new(0),
            closing: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            watches: AtomicU64::new(0),
            seats: Seats::default(),
            has_quotas: AtomicBool::new(false),
            lags: Arc::default(),
            away: Mutex::default(),
            replies: ReplyBudget::new(REPLY_BYTES_MAX),
            board: Arc::default(),
            rights_generation: AtomicU64::new(0),
            rights: watch::Sender::new(0),
            drains: Drains::default(),
            options,
        };
        hub.replace(recovered);
        Arc::new(hub)
    }

    /// Puts what was recovered in place of everything: every watch begins anew.
    fn replace(&self, recovered: Recovered) {
        let (after, head, epochs) = (recovered.tail_after, recovered.revision, recovered.epochs.clone());
        let Rewound { frontends, tail } = self.replace_state(recovered);
        *self.epochs.write().unwrap_or_else(PoisonError::into_inner) = epochs;
        self.log.restore(after, head, frontends, tail);
        // Only now: a watch that begins anew finds nothing of the history that is no more, neither in the log nor in a
        // feed that was made meanwhile.
        *self.feeds.lock().unwrap_or_else(PoisonError::into_inner) = Feeds::default();
        self.drains.clear();
        self.generation.fetch_add(1, Ordering::Release);
        self.rights_changed();
        self.log.wake_all();
    }

    /// Takes over what the engine holds after it was away. Watches go on if it has all that they know, and the events
    /// of what was committed after that; otherwise they begin anew.
    pub fn reload(&self, recovered: Recovered) {
        let known = self.registry().revision();
        let epoch = recovered.epochs.last().map(|epoch| epoch.id);
        let continues = recovered.revision >= known && recovered.tail_after <= known && epoch == Some(self.epoch().id);
        if !continues {
            return self.replace(recovered);
        }
        let head = recovered.revision;
        let Rewound { tail, .. } = self.replace_state(recovered);
        for (revision, folded) in tail.into_iter().filter(|(revision, _)| *revision > known) {
            self.publish(revision, folded);
        }
        self.publish(head, Folded { tokens: true, ..Folded::default() });
        // What was forgotten meanwhile is among no events.
        self.log.wake_all();
    }

    /// Tells the watches what was committed.
    pub(crate) fn publish(&self, revision: Revision, folded: Folded) {
        for event in folded.events.iter().filter(|event| event.is_visible()) {
            self.metrics().events.of((event.cause.into(),)).inc();
        }
        self.has_quotas.store(self.registry().has_quotas(), Ordering::Release);
        let tokens = folded.tokens;
        self.log.publish(revision, folded);
        if tokens {
            self.rights_changed();
        }
    }

    /// Puts the recovered state in place of this one, and gives the tail that leads up to it.
    fn replace_state(&self, recovered: Recovered) -> Rewound {
        let Recovered { revision, records, known, documents, tail, .. } = recovered;
        let mut registry = Registry::new(tag_of(self.id), self.options.state);
        registry.set_port_rules(Arc::clone(&self.options.port_rules));
        registry.recover(revision, records, known, documents);
        self.has_quotas.store(registry.has_quotas(), Ordering::Release);
        let stored = |TailEntry { revision, events, documents }| Stored { revision, events, documents };
        let rewound = rewind(&registry, tail.into_iter().map(stored).collect());
        *self.registry_mut() = registry;
        rewound
    }

    /// The committed state, for a short look: the actor waits meanwhile.
    pub fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committed state, for the actor.
    pub(crate) fn registry_mut(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of lookup replies is kept ready.
    #[must_use]
    pub fn replies(&self) -> &Arc<ReplyBudget> {
        &self.replies
    }

    /// Where what applications publish is handed out.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Begins to wait for the watches that are told of the last change of `record`, of those that were there when the log
    /// had so many `places`.
    ///
    /// # Errors
    /// `Limit` when too many are waited for.
    pub fn drain(&self, record: &Record, places: u64) -> Result<Arc<Drain>, Error> {
        self.drains.begin(&self.log, record, places)
    }

    /// Somebody may do something else than before: whatever was judged by that is judged anew.
    pub fn rights_changed(&self) {
        let generation = self.rights_generation.fetch_add(1, Ordering::Release) + 1;
        self.rights.send_replace(generation);
    }

    /// Changes whenever somebody may do something else than before.
    #[must_use]
    pub fn rights_generation(&self) -> u64 {
        self.rights_generation.load(Ordering::Acquire)
    }

    /// Tells whenever somebody may do something else than before.
    #[must_use]
    pub fn rights_changes(&self) -> watch::Receiver<u64> {
        self.rights.subscribe()
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.options.metrics
    }

    /// How far each stream is behind.
    #[must_use]
    pub fn lags(&self) -> &Arc<Lags> {
        &self.lags
    }

    /// Says why changes cannot be committed, or that they can.
    pub(crate) fn set_away(&self, reason: Option<SmolStr>) {
        self.metrics().store_away.set(u64::from(reason.is_some()));
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.log.wake(&Self::own_scope());
    }

    /// Why changes cannot be committed, while they cannot.
    #[must_use]
    pub fn away(&self) -> Option<SmolStr> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where those sleep who wait for what becomes of the server itself: no service is called so.
    #[must_use]
    pub fn own_scope() -> Scope {
        Scope::Service(SmolStr::default(), SmolStr::default())
    }

    /// The event log.
    #[must_use]
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// The registry's identity.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The current stretch of history.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        let epochs = self.epochs.read().unwrap_or_else(PoisonError::into_inner);
        epochs.last().copied().unwrap_or(Epoch { id: 0, after: 0 })
    }

    /// What readers are promised.
    #[must_use]
    pub fn options(&self) -> &HubOptions {
        &self.options
    }

    /// Whether a namespace has a quota: who does not care need not look at the state.
    #[must_use]
    pub fn has_quotas(&self) -> bool {
        self.has_quotas.load(Ordering::Acquire)
    }

    /// How many watches are open.
    #[must_use]
    pub fn watches(&self) -> u64 {
        self.watches.load(Ordering::Relaxed)
    }

    /// Changes whenever the state was replaced as a whole.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Says in health that the server is about to stop; everything else goes on.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.log.wake(&Self::own_scope());
    }

    /// Whether the server is about to stop, or does.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) || self.is_closing()
    }

    /// Ends every stream, each after a last bookmark.
    pub fn close(&self) {
        self.closing.send_replace(true);
        self.log.wake_all();
    }

    /// Whether streams have to end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Waits until streams have to end.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closing = self.closing.subscribe();
        async move {
            // An error means that the hub is gone, which is the end as well.
            let _ = closing.wait_for(|closing| *closing).await;
        }
    }

    /// The feed of `filters`, shared with all who watch the same.
    #[must_use]
    pub fn feed(&self, filters: FilterSet) -> Arc<Feed> {
        let fingerprint = filters.fingerprint();
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.find(fingerprint, &filters) {
            return feed;
        }
        // Both are read while the feeds are held, so that a feed of an older history does not outlive `replace`.
        let (epoch, from) = (self.epoch().id, self.log.bounds().0);
        let feed = Arc::new(Feed::new(Matcher::new(filters), self.id, epoch, from, self.feed_budgets.clone()));
        feeds.put(&feed);
        feed
    }

    /// As `feed`, for one more reader.
    ///
    /// # Errors
    /// `Limit` when there is no room for what summaries are counted by.
    pub fn feed_for_one_more(&self, filters: FilterSet) -> Result<Arc<Feed>, Error> {
        let feed = self.feed(filters);
        let summaries = &self.feed_budgets.summaries;
        if feed.matcher().set().summaries() && !feed.reserve(|| summary_bytes(self, &feed)) {
            let (maximum, usage) = (summaries.max() as u64, summaries.used() as u64);
            return Err(Error::Limit { limit: "max_summary_bytes", maximum, usage });
        }
        Ok(feed)
    }

    /// Goes on to count the partitions that are there for a reader at `cursor`, for a turn.
    ///
    /// # Errors
    /// `Forgotten` when the reader has to begin anew.
    pub(super) fn count(&self, feed: &Feed, cursor: Revision, counting: &mut Counting) -> Result<Turn, Forgotten> {
        counting.turn(feed, &self.log, cursor, &|| pages(self, feed))
    }

    /// What comes after `cursor` in a feed, and what is there at it, as `Feed::next` has it. Where all feeds together keep
    /// too much, each lets the older half go.
    ///
    /// # Errors
    /// `Forgotten` when the log does not go back so far.
    pub fn next(&self, feed: &Arc<Feed>, cursor: Revision, place: &mut Option<Place>) -> Result<Next, Forgotten> {
        let next = feed.next(&self.log, cursor, place);
        if self.feed_budgets.messages.is_exceeded() {
            let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            let open: Vec<Arc<Feed>> = feeds.found.iter().filter_map(|(_, feed)| feed.upgrade()).collect();
            // One that nobody else holds by now goes when nobody waits for the others.
            drop(feeds);
            open.iter().for_each(|feed| feed.shed());
        }
        next
    }

    pub(super) fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// What waits of them for their readers.
    pub(super) fn parts(&self) -> &Arc<Budget> {
        &self.parts
    }

    /// Gives up the snapshots that nobody reads any more: their readers begin anew. And what is kept of drains that began
    /// long ago.
    pub(crate) fn give_up_snapshots(&self) {
        self.drains.sweep();
        let given_up = self.snapshots.give_up(Instant::now(), &self.log);
        if !given_up.is_empty() {
            tracing::debug!(snapshots = given_up.len(), "snapshots that nobody reads were given up");
            // There may be very much of it.
            tokio::task::spawn_blocking(move || drop(given_up));
        }
    }

    /// The revision to continue after, or why that is not possible.
    ///
    /// # Errors
    /// The reason for a reset, and the oldest revision that could have been continued from (0 if that is not the reason).
    pub fn resume(&self, token: &str, filters: &FilterSet) -> Result<Revision, (ResetReason, Revision)> {
        let token = ResumeToken::decode(token).map_err(|reason| (reason, 0))?;
        let (head, oldest) = self.log.bounds();
        let epochs = self.epochs.read().unwrap_or_else(PoisonError::into_inner);
        let revision = token.check(self.id, &epochs, head, filters.fingerprint()).map_err(|reason| (reason, 0))?;
        if revision < oldest { Err((ResetReason::TooOld, oldest)) } else { Ok(revision) }
    }
}

/// 32 bits of a registry's id.
#[must_use]
pub fn tag_of(id: Uuid) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}
