//! Watches of a history: what each is told, and what it has folded, at every revision.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound::{Excluded, Included},
    sync::Arc,
};

use onair::{
    proto::{ServicePresence, WatchResponse},
    registry::{EventType, Instance, Key, Matcher, Partition, Presence, Record},
    watch::{Budget, Budgets, EventLog, Feed, Message, Next, Place, ResumeToken},
};
use prost::Message as _;
use uuid::Uuid;

use super::{
    filters::{Told, Union},
    naive::key_of,
    rig::Committed,
};

const REGISTRY: Uuid = Uuid::from_u128(7);
const EPOCH: u64 = 3;

/// What one selection is told of a history, and what a lookup of it finds, by revision.
pub struct Truth {
    pub union: Union,
    told: BTreeMap<u64, Vec<Told>>,
    found: BTreeMap<u64, BTreeMap<Key, Instance>>,
}

impl Truth {
    pub fn new(union: Union, history: &[Committed]) -> Self {
        let told = |step: &Committed| step.crossings.iter().flat_map(|crossing| union.told(crossing)).collect();
        let told =
            history.iter().map(|step| (step.revision, told(step))).filter(|(_, told): &(_, Vec<_>)| !told.is_empty());
        let told = told.collect();
        let mut found: BTreeMap<_, _> = history.iter().map(|step| (step.revision, union.lookup(&step.live))).collect();
        found.insert(0, BTreeMap::new());
        Self { union, told, found }
    }

    /// What a lookup finds while `revision` is the last one that is known.
    fn at(&self, revision: u64) -> &BTreeMap<Key, Instance> {
        self.found.range(..=revision).next_back().expect("at least the empty beginning").1
    }
}

/// The partitions of what is there.
fn partitions(set: &BTreeMap<Key, Instance>) -> impl Iterator<Item = Partition> {
    set.values().map(|one| Partition {
        namespace: one.namespace.as_str().into(),
        service: one.service.as_str().into(),
        key: one.partition_key.as_str().into(),
    })
}

fn presence(set: &BTreeMap<Key, Instance>) -> Presence {
    let mut presence = Presence::default();
    partitions(set).for_each(|of| _ = presence.add(of));
    presence
}

/// One reader.
struct Reader {
    feed: Arc<Feed>,
    began: u64,
    cursor: u64,
    set: BTreeMap<Key, Instance>,
    /// As summaries tell.
    there: BTreeSet<Partition>,
    /// As it counted them, when it had to.
    counted: Option<Place>,
    resets: usize,
}

impl Reader {
    /// Reads all there is.
    fn read(&mut self, truth: &Truth, log: &EventLog, now: &Committed, place: usize) {
        loop {
            match self.feed.next(log, self.cursor, &mut self.counted) {
                Ok(Next::Message(message)) => self.take(truth, &message),
                Ok(Next::UpToDate(revision)) => {
                    assert_eq!(revision, now.revision);
                    let missed = truth.told.range((Excluded(self.cursor), Included(revision))).next();
                    assert_eq!(missed, None, "missed by the reader from {} at {}", self.began, self.cursor);
                    self.cursor = revision;
                    assert_eq!(self.set, *truth.at(revision));
                    return;
                }
                Ok(Next::Uncounted) => {
                    assert!(self.counted.is_none(), "the reader from {} has counted", self.began);
                    self.counted = Some(Place::new(presence(&self.set), &Budget::new(0)));
                }
                Err(forgotten) => {
                    self.counted = None;
                    assert!(forgotten.oldest > self.cursor, "{} is still kept: {forgotten:?}", self.cursor);
                    assert!(forgotten.oldest <= log.bounds().1, "{forgotten:?} of {:?}", log.bounds());
                    (self.cursor, self.set) = (now.revision, snapshot(now, place, self.feed.matcher()));
                    self.there = partitions(&self.set).collect();
                    self.resets += 1;
                }
            }
        }
    }

    /// The next revision that has anything for it, and all of that.
    fn take(&mut self, truth: &Truth, message: &Message) {
        let (revision, told) = truth.told.range(self.cursor + 1..).next().expect("there is nothing to tell");
        assert_eq!(message.revision, *revision, "for the reader from {} at {}", self.began, self.cursor);
        let (mut events, mut summaries) = (Vec::new(), Vec::new());
        let frames = message.watch_frames();
        for (place, frame) in frames.iter().enumerate() {
            let frame = WatchResponse::decode(frame.message()).expect("it is a message");
            let last = place + 1 == frames.len();
            assert_eq!((frame.revision, frame.more), (*revision, !last));
            assert_eq!((frame.snapshot_end, frame.reset), (false, None));
            let token = ResumeToken::decode(&frame.resume_token).ok();
            let fingerprint = truth.union.set().fingerprint();
            let expected = ResumeToken { registry: REGISTRY, epoch: EPOCH, revision: *revision, fingerprint };
            assert_eq!(token, last.then_some(expected), "a token comes with the last part only");
            events.extend(frame.events);
            summaries.extend(frame.services);
        }
        let events: Vec<Told> = events
            .into_iter()
            .map(|event| (event.r#type(), event.cause(), event.instance.expect("every event has its record")))
            .collect();
        assert_eq!(events, *told, "revision {revision}");
        for (kind, _, instance) in events {
            match kind {
                EventType::Offline => self.set.remove(&key_of(&instance)),
                _ => self.set.insert(key_of(&instance), instance),
            };
        }
        for ServicePresence { namespace, service, key, online } in summaries {
            let of = Partition { namespace: namespace.into(), service: service.into(), key: key.into() };
            let news = if online { self.there.insert(of) } else { self.there.remove(&of) };
            assert!(news, "a summary says what is other, at {revision}");
        }
        assert_eq!(self.there, partitions(&self.set).collect(), "folded up to {revision}");
        self.cursor = *revision;
        assert_eq!(self.set, truth.found[revision], "folded up to {revision}, by the reader from {}", self.began);
    }
}

/// What a reader of the snapshot that was taken with this revision gets, which is in order.
pub fn snapshot(step: &Committed, place: usize, matcher: &Matcher) -> BTreeMap<Key, Instance> {
    let mut reader = step.snapshots[place].clone().reader();
    assert_eq!(reader.revision(), step.revision);
    let records: Vec<_> = std::iter::from_fn(|| reader.next_record()).collect();
    let keys: Vec<_> = records.iter().map(Record::key).collect();
    assert!(keys.is_sorted_by(|one, next| one < next), "in order, each once: {keys:?}");
    let found = records.iter().filter(|record| matcher.matches(record));
    found.map(|record| (record.key(), record.instance())).collect()
}

/// Readers of selection number `place`, one that begins at each revision, each at its own pace, on a log of so many
/// bytes. Gives how many fell behind.
pub fn replay(truth: &Truth, place: usize, history: &[Committed], bytes: usize, paces: &[u8]) -> usize {
    let log = EventLog::new(bytes, 0);
    let matcher = Matcher::new(truth.union.set());
    let feed = |from| {
        let budgets = Budgets { messages: Budget::new(1 << 20), summaries: Budget::new(1 << 20) };
        Arc::new(Feed::new(Matcher::new(truth.union.set()), REGISTRY, EPOCH, from, budgets))
    };
    let shared = feed(0);
    let reader = |number: usize, cursor, set| {
        // Some have a feed of their own, which keeps nothing for others.
        let feed = if paces[number % paces.len()] > 12 { feed(log.bounds().1) } else { Arc::clone(&shared) };
        let there = partitions(&set).collect();
        Reader { feed, began: cursor, cursor, set, there, counted: None, resets: 0 }
    };
    let mut readers = vec![reader(0, 0, BTreeMap::new())];
    for (turn, step) in history.iter().enumerate() {
        log.publish(step.revision, step.events.clone());
        assert_eq!(snapshot(step, place, &matcher), truth.found[&step.revision], "lookup at {}", step.revision);
        readers.push(reader(turn + 1, step.revision, truth.found[&step.revision].clone()));
        for (number, reader) in readers.iter_mut().enumerate() {
            let pace = usize::from(paces[number % paces.len()]).max(1);
            if (turn + number) % pace == 0 || turn + 1 == history.len() {
                reader.read(truth, &log, step, place);
            }
        }
    }
    readers.iter().map(|reader| reader.resets).sum()
}

/// The matcher and the filter set mean what the selection does, record by record.
pub fn judged(truth: &Truth, history: &[Committed]) {
    let (matcher, set) = (Matcher::new(truth.union.set()), truth.union.set());
    let mut seen = HashMap::new();
    for record in history.iter().flat_map(|step| step.dump.records.values()) {
        seen.insert(std::ptr::from_ref(&**record), record.clone());
    }
    for record in seen.values() {
        let means = truth.union.means(&record.instance());
        assert_eq!(matcher.matches(record), means, "{set}: {record:?}");
        assert_eq!(set.matches(&record.instance()), means, "{set}: {record:?}");
        let (namespace, service, _) = record.names();
        assert!(!means || matcher.scopes().iter().any(|scope| scope.covers(namespace, service)), "{set}: {record:?}");
    }
}
