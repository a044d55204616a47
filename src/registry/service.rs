//! The instances of one service, in pages that are shared with readers and copied only while a reader holds them.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use imbl::OrdMap;
use prost::encoding::encode_varint;
use smol_str::SmolStr;

use super::{key::Revision, record::Record, room::make_room, state::KNOWN_SECONDS};

/// Most instances in a page: what a change copies at most while a reader holds the service.
const PAGE_MAX: usize = 256;

/// Fewer partitions of a service than this are kept, past or not.
const PRUNE_MIN: usize = 64;

/// Most instances in a page of a lookup.
pub const LOOKUP_MAX: usize = 1_000;
/// A page of a lookup is closed at this many bytes of instances, so that the largest record still fits into 1 MiB.
pub const LOOKUP_BYTES: usize = 960 * 1024;

/// A reply is kept if it takes no more than this part of what is left: a few large ones leave room for many small ones.
const REPLY_PART: usize = 16;

/// How many bytes of ready replies are kept in all.
#[derive(Debug)]
pub struct ReplyBudget {
    used: AtomicUsize,
    max: usize,
}

impl ReplyBudget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }
}

/// What a lookup by name alone is answered.
#[derive(Clone, Debug)]
pub struct FirstPage {
    /// Routable instances as elements of field 1 of a message: what a `LookupResponse` has of them.
    pub instances: Bytes,
    /// The id of the last of them. None: there are no more.
    pub go_on_after: Option<SmolStr>,
}

/// A reply that is kept until its service changes.
#[derive(Debug)]
struct KeptReply {
    page: FirstPage,
    budget: Arc<ReplyBudget>,
}

impl Drop for KeptReply {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.page.instances.len(), Ordering::Relaxed);
    }
}

type Page = Vec<Record>;

/// What all snapshots of one state of a service share.
#[derive(Debug, Default)]
struct Members {
    pages: Vec<Arc<Page>>,
    /// Made for the first who asks.
    reply: OnceLock<Box<KeptReply>>,
}

impl Clone for Members {
    /// A copy is about to change: the reply is not its own.
    fn clone(&self) -> Self {
        Self { pages: self.pages.clone(), reply: OnceLock::new() }
    }
}

/// How many instances a partition has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// All of them.
    pub instances: u32,
    /// Those that are routable.
    pub routable: u32,
    /// Unix seconds at which the last one went; meaningless while there is one.
    pub emptied_at: u64,
}

impl Replicas {
    /// Whether nobody has to know of it any more at `now` (Unix seconds).
    #[must_use]
    pub fn is_past(&self, now: u64) -> bool {
        self.instances == 0 && self.emptied_at.saturating_add(KNOWN_SECONDS) <= now
    }
}

/// What became of a partition that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its key.
    pub(super) key: SmolStr,
    /// None: it was not known.
    pub(super) before: Option<Replicas>,
    /// None: it is known no longer.
    pub(super) after: Option<Replicas>,
}

/// The instances of one service in order of id. Cloning is O(1) and gives a snapshot.
#[derive(Clone, Debug, Default)]
pub struct ServiceSet {
    members: Arc<Members>,
    instances: u32,
    routable: u32,
    revision: Revision,
    emptied_at: u64,
    /// The partitions that have a name, by key: those that have an instance or had one since the service is known.
    partitions: OrdMap<SmolStr, Replicas>,
    /// How many of them there are when those that are past are looked for.
    prune_at: usize,
}

impl ServiceSet {
    /// A service that is known without an instance, since `emptied_at` (Unix seconds).
    #[must_use]
    pub fn emptied(emptied_at: u64) -> Self {
        Self { emptied_at, ..Self::default() }
    }

    /// How many instances there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.instances
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances == 0
    }

    /// How many of them are routable.
    #[must_use]
    pub fn routable(&self) -> u32 {
        self.routable
    }

    /// Revision of the last change of one of its instances; 0 when that was before the recovered state.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Unix seconds at which the last instance went; meaningless while there is one.
    #[must_use]
    pub fn emptied_at(&self) -> u64 {
        self.emptied_at
    }

    /// A partition by its key, if it has an instance or had one.
    #[must_use]
    pub fn partition(&self, key: &str) -> Option<&Replicas> {
        self.partitions.get(key)
    }

    /// Counts a record in its partition, if that has a name, and notes it in `moved`.
    fn count(&mut self, record: &Record, moved: &mut Vec<Moved>) {
        let key = record.partition_key();
        if !key.is_empty() {
            self.note(key, moved);
            let replicas = self.partitions.entry(key.into()).or_default();
            replicas.instances += 1;
            replicas.routable += u32::from(record.is_routable());
        }
    }

    /// Counts it no longer. A partition that empties at `at` (Unix seconds) stays known; without that it moved. With it
    /// others may go whose day is over.
    fn discount(&mut self, record: &Record, at: Option<u64>, moved: &mut Vec<Moved>) {
        let key = record.partition_key();
        if !key.is_empty() {
            self.note(key, moved);
        }
        let Some(replicas) = self.partitions.get_mut(key) else { return };
        replicas.instances -= 1;
        replicas.routable -= u32::from(record.is_routable());
        if replicas.instances > 0 {
            return;
        }
        let Some(at) = at else {
            self.partitions.remove(key);
            return;
        };
        replicas.emptied_at = at;
        // Now and then, so that it costs nothing for each.
        if self.partitions.len() >= self.prune_at.max(PRUNE_MIN) {
            let past = self.partitions.iter().filter(|(_, of)| of.is_past(at));
            let gone: Vec<Moved> = past.map(gone).collect();
            gone.iter().for_each(|gone| _ = self.partitions.remove(&gone.key));
            self.prune_at = 2 * self.partitions.len();
            moved.extend(gone);
        }
    }

    /// Keeps in `moved` what a partition was first.
    fn note(&self, key: &str, moved: &mut Vec<Moved>) {
        if moved.iter().all(|noted| noted.key != key) {
            moved.push(Moved { key: key.into(), before: self.partition(key).copied(), after: None });
        }
    }

    /// Adds what became of those that were noted, and leaves out what is as it was.
    fn settled(&self, mut moved: Vec<Moved>) -> Vec<Moved> {
        moved.retain_mut(|one| {
            one.after = self.partition(&one.key).copied();
            one.after != one.before
        });
        moved
    }

    /// Its partitions that have a name.
    #[cfg(test)]
    pub(super) fn partitions(&self) -> impl Iterator<Item = (&SmolStr, &Replicas)> {
        self.partitions.iter()
    }

    /// How many partitions have a name.
    #[must_use]
    pub fn named_partitions(&self) -> usize {
        self.partitions.len()
    }

    /// What becomes of them when the service is forgotten.
    pub(super) fn gone(&self) -> Vec<Moved> {
        self.partitions.iter().map(gone).collect()
    }

    /// Record number `index` of page `page`.
    #[must_use]
    pub fn at(&self, page: usize, index: usize) -> Option<&Record> {
        self.members.pages.get(page)?.get(index)
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.members.pages.len()
    }

    /// All instances, in order of id.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.members.pages.iter().flat_map(|page| page.iter())
    }

    /// The first page of the routable instances. Made once for each state of the service, as long as `budget` lasts.
    #[must_use]
    pub fn first_page(&self, budget: &Arc<ReplyBudget>) -> FirstPage {
        if let Some(kept) = self.members.reply.get() {
            return kept.page.clone();
        }
        let page = self.make_first_page();
        let (size, used) = (page.instances.len(), budget.used.load(Ordering::Relaxed));
        if size <= budget.max.saturating_sub(used) / REPLY_PART {
            budget.used.fetch_add(size, Ordering::Relaxed);
            // Another reader may have been first; then this one is dropped and gives its bytes back.
            let kept = KeptReply { page: page.clone(), budget: Arc::clone(budget) };
            let _ = self.members.reply.set(Box::new(kept));
        }
        page
    }

    fn make_first_page(&self) -> FirstPage {
        let (mut buffer, mut last, mut go_on_after) = (Vec::new(), None::<&Record>, None);
        for (count, record) in self.iter().filter(|record| record.is_routable()).enumerate() {
            if let Some(last) = last.filter(|_| count >= LOOKUP_MAX || buffer.len() > LOOKUP_BYTES) {
                go_on_after = Some(last.names().2.into());
                break;
            }
            buffer.push(1 << 3 | 2);
            encode_varint(record.bytes().len() as u64, &mut buffer);
            buffer.extend_from_slice(record.bytes());
            last = Some(record);
        }
        // It may be kept.
        buffer.shrink_to_fit();
        FirstPage { instances: buffer.into(), go_on_after }
    }

    /// The pages, which are about to be others: what was made of them is no longer so.
    fn pages_mut(&mut self) -> &mut Vec<Arc<Page>> {
        let members = Arc::make_mut(&mut self.members);
        members.reply.take();
        &mut members.pages
    }

    /// Where the first instance whose id is beyond `id` stands: page and index.
    #[must_use]
    pub fn after(&self, id: &str) -> (usize, usize) {
        let page = self.page_of(id.as_bytes());
        match self.members.pages.get(page) {
            None => (page, 0),
            Some(records) => (page, records.partition_point(|record| record.id_bytes() <= id.as_bytes())),
        }
    }

    /// Takes the record in, in place of one of the same id. Gives what became of partitions.
    pub(super) fn put(&mut self, record: Record) -> Vec<Moved> {
        self.revision = self.revision.max(record.revision);
        self.routable += u32::from(record.is_routable());
        let mut moved = Vec::new();
        self.count(&record, &mut moved);
        let at = self.page_of(record.id_bytes());
        let pages = self.pages_mut();
        if pages.is_empty() {
            make_room(pages);
            pages.push(Arc::default());
        }
        let page = Arc::make_mut(&mut pages[at]);
        match page.binary_search_by(|held| held.id_bytes().cmp(record.id_bytes())) {
            Ok(index) => {
                let old = std::mem::replace(&mut page[index], record);
                self.routable -= u32::from(old.is_routable());
                self.discount(&old, None, &mut moved);
            }
            Err(index) => {
                make_room(page);
                page.insert(index, record);
                if page.len() > PAGE_MAX {
                    let upper = page.split_off(PAGE_MAX / 2);
                    page.shrink_to_fit();
                    make_room(pages);
                    pages.insert(at + 1, Arc::new(upper));
                }
                self.instances += 1;
            }
        }
        self.settled(moved)
    }

    /// Takes the record of this id away, at `revision` and `at` (Unix seconds). Gives what became of partitions.
    pub(super) fn remove(&mut self, id: &str, revision: Revision, at: u64) -> Vec<Moved> {
        let place = self.page_of(id.as_bytes());
        let pages = self.pages_mut();
        let Some(shared) = pages.get_mut(place) else { return Vec::new() };
        let page = Arc::make_mut(shared);
        let Ok(index) = page.binary_search_by(|held| held.id_bytes().cmp(id.as_bytes())) else { return Vec::new() };
        let old = page.remove(index);
        if page.is_empty() {
            pages.remove(place);
        }
        self.instances -= 1;
        self.routable -= u32::from(old.is_routable());
        self.revision = self.revision.max(revision);
        self.emptied_at = at;
        let mut moved = Vec::new();
        self.discount(&old, Some(at), &mut moved);
        self.settled(moved)
    }

    /// The page that holds `id`, or would.
    fn page_of(&self, id: &[u8]) -> usize {
        let pages = &self.members.pages;
        let beyond = pages.partition_point(|page| page.last().is_some_and(|last| last.id_bytes() < id));
        beyond.min(pages.len().saturating_sub(1))
    }
}

fn gone((key, of): (&SmolStr, &Replicas)) -> Moved {
    Moved { key: key.clone(), before: Some(*of), after: None }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::registry::{Instance, Lease, SecretHash, Status};

    /// A message that has instances as field 1.
    #[derive(Clone, PartialEq, Message)]
    struct Reply {
        #[prost(message, repeated, tag = "1")]
        instances: Vec<Instance>,
    }

    fn record(id: &str, status: Status) -> Record {
        let (namespace, service) = ("default".to_owned(), "web".to_owned());
        let instance = Instance { namespace, service, id: id.into(), status: status.into(), ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        Record::new(&instance.encode_to_vec(), lease, 1, 0, 1)
    }

    fn ids(set: &ServiceSet, budget: &Arc<ReplyBudget>) -> Vec<String> {
        let response = Reply::decode(set.first_page(budget).instances).expect("a reply");
        response.instances.into_iter().map(|instance| instance.id).collect()
    }

    #[test]
    fn a_kept_reply_is_of_its_own_state_and_gives_its_bytes_back() {
        let budget = ReplyBudget::new(1_000);
        let mut set = ServiceSet::default();
        set.put(record("b", Status::Serving));
        let before = set.clone();
        set.put(record("a", Status::Serving));
        set.put(record("c", Status::Draining));
        assert_eq!(ids(&before, &budget), ["b"]);
        assert_eq!(ids(&set, &budget), ["a", "b"]);
        assert_eq!(ids(&set, &budget), ["a", "b"]);
        assert!(budget.used.load(Ordering::Relaxed) > 0);
        set.remove("a", 2, 0);
        assert_eq!(ids(&set, &budget), ["b"]);
        drop((set, before));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn pages_that_were_full_leave_little_empty() {
        let mut set = ServiceSet::default();
        for number in 0..10_000 {
            set.put(record(&format!("{number:05}"), Status::Serving));
        }
        let room: usize = set.members.pages.iter().map(|page| page.capacity()).sum();
        assert!(set.len() == 10_000 && room <= 10_000 + PAGE_MAX, "{room}");
        assert!(set.members.pages.capacity() <= set.pages() * 5 / 4 + 1, "{}", set.members.pages.capacity());
    }

    #[test]
    fn of_a_large_service_the_first_page_is_kept_with_where_it_ends() {
        let (large, small) = (ReplyBudget::new(1 << 20), ReplyBudget::new(1 << 12));
        let mut set = ServiceSet::default();
        for number in 0..LOOKUP_MAX {
            assert_eq!(set.first_page(&small).go_on_after, None, "{number}");
            set.put(record(&format!("{number:04}"), Status::Serving));
        }
        // Who is not routable is not in a page, and is no reason for another.
        set.put(record("0000-a", Status::Draining));
        set.put(record("9999", Status::Draining));
        assert_eq!(set.first_page(&small).go_on_after, None);
        set.put(record("1000", Status::Serving));
        let page = set.first_page(&small);
        assert_eq!(small.used.load(Ordering::Relaxed), 0, "it is too large to be kept");
        assert_eq!(page.go_on_after.as_deref(), Some("0999"));
        assert_eq!(ids(&set, &large).len(), LOOKUP_MAX);
        assert_eq!(large.used.load(Ordering::Relaxed), page.instances.len());
        assert_eq!(set.first_page(&large).instances, page.instances);
    }

    #[test]
    fn partitions_are_counted_and_stay_known_for_a_day() {
        let keyed = |id: &str, key: &str, status: Status| {
            let instance = Instance { partition_key: key.into(), ..record(id, status).instance() };
            let lease = record(id, status).lease.clone();
            Record::new(&instance.encode_to_vec(), lease, 1, 0, 1)
        };
        let mut set = ServiceSet::default();
        set.put(keyed("1", "a", Status::Serving));
        set.put(keyed("2", "a", Status::Draining));
        set.put(keyed("3", "", Status::Serving));
        let counts = |set: &ServiceSet, key: &str| set.partition(key).map(|of| (of.instances, of.routable));
        assert_eq!((counts(&set, "a"), counts(&set, "")), (Some((2, 1)), None));
        set.put(keyed("1", "b", Status::Serving));
        assert_eq!((counts(&set, "a"), counts(&set, "b")), (Some((1, 0)), Some((1, 1))));
        set.put(keyed("1", "a", Status::Serving));
        assert_eq!((counts(&set, "a"), counts(&set, "b")), (Some((2, 1)), None), "b moved, it did not die");
        set.remove("1", 2, 1_000);
        set.remove("2", 3, 1_000);
        assert_eq!(counts(&set, "a"), Some((0, 0)));
        let known = *set.partition("a").expect("it is known");
        assert!(!known.is_past(1_000 + KNOWN_SECONDS - 1) && known.is_past(1_000 + KNOWN_SECONDS));
        // What is past goes when there are many.
        for number in 0..2 * PRUNE_MIN as u64 {
            set.put(keyed("1", &number.to_string(), Status::Serving));
            set.remove("1", 4, 2_000 + KNOWN_SECONDS * number);
        }
        assert!(set.partitions.len() <= PRUNE_MIN, "{}", set.partitions.len());
        assert_eq!(counts(&set, "a"), None);
    }

    #[test]
    fn without_budget_replies_are_made_anew() {
        let (budget, mut set) = (ReplyBudget::new(0), ServiceSet::default());
        set.put(record("a", Status::Serving));
        assert_eq!(ids(&set, &budget), ["a"]);
        assert!(set.members.reply.get().is_none());
    }
}
