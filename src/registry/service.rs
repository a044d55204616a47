//! The instances of one service, in pages that are shared with readers and copied only while a reader holds them.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use prost::encoding::encode_varint;

use super::{key::Revision, record::Record};

/// Most instances in a page: what a change copies at most while a reader holds the service.
const PAGE_MAX: usize = 256;

/// A larger reply is not kept.
const REPLY_MAX: usize = 64 * 1024;

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

/// A reply that is kept until its service changes.
#[derive(Debug)]
struct KeptReply {
    bytes: Bytes,
    budget: Arc<ReplyBudget>,
}

impl Drop for KeptReply {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

type Page = Vec<Arc<Record>>;

/// The instances of one service in order of id. Cloning is O(1) and gives a snapshot.
#[derive(Clone, Debug, Default)]
pub struct ServiceSet {
    pages: Arc<Vec<Arc<Page>>>,
    instances: u32,
    routable: u32,
    revision: Revision,
    emptied_at: u64,
    /// Shared with snapshots of the same instances only.
    reply: Arc<OnceLock<KeptReply>>,
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

    /// Record number `index` of page `page`.
    #[must_use]
    pub fn at(&self, page: usize, index: usize) -> Option<&Arc<Record>> {
        self.pages.get(page)?.get(index)
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// All instances, in order of id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.pages.iter().flat_map(|page| page.iter())
    }

    /// The routable instances as elements of field 1 of a message: what a `LookupResponse` has of them. Made once for
    /// each state of the service, as long as `budget` lasts.
    #[must_use]
    pub fn routable_bytes(&self, budget: &Arc<ReplyBudget>) -> Bytes {
        if let Some(kept) = self.reply.get() {
            return kept.bytes.clone();
        }
        let mut buffer = Vec::new();
        for record in self.iter().filter(|record| record.is_routable()) {
            buffer.push(1 << 3 | 2);
            encode_varint(record.bytes().len() as u64, &mut buffer);
            buffer.extend_from_slice(record.bytes());
        }
        let bytes = Bytes::from(buffer);
        if bytes.len() <= REPLY_MAX && budget.used.load(Ordering::Relaxed) + bytes.len() <= budget.max {
            budget.used.fetch_add(bytes.len(), Ordering::Relaxed);
            // Another reader may have been first; then this one is dropped and gives its bytes back.
            let _ = self.reply.set(KeptReply { bytes: bytes.clone(), budget: Arc::clone(budget) });
        }
        bytes
    }

    fn forget_reply(&mut self) {
        match Arc::get_mut(&mut self.reply) {
            Some(reply) => _ = reply.take(),
            None => self.reply = Arc::default(),
        }
    }

    /// Where the first instance whose id is beyond `id` stands: page and index.
    #[must_use]
    pub fn after(&self, id: &str) -> (usize, usize) {
        let page = self.page_of(id.as_bytes());
        match self.pages.get(page) {
            None => (page, 0),
            Some(records) => (page, records.partition_point(|record| record.id_bytes() <= id.as_bytes())),
        }
    }

    /// Takes the record in, in place of one of the same id.
    pub(super) fn put(&mut self, record: Arc<Record>) {
        self.forget_reply();
        self.revision = self.revision.max(record.revision);
        self.routable += u32::from(record.is_routable());
        let at = self.page_of(record.id_bytes());
        let pages = Arc::make_mut(&mut self.pages);
        if pages.is_empty() {
            pages.push(Arc::default());
        }
        let page = Arc::make_mut(&mut pages[at]);
        match page.binary_search_by(|held| held.id_bytes().cmp(record.id_bytes())) {
            Ok(index) => {
                let old = std::mem::replace(&mut page[index], record);
                self.routable -= u32::from(old.is_routable());
            }
            Err(index) => {
                page.insert(index, record);
                self.instances += 1;
                if page.len() > PAGE_MAX {
                    let upper = page.split_off(PAGE_MAX / 2);
                    pages.insert(at + 1, Arc::new(upper));
                }
            }
        }
    }

    /// Takes the record of this id away, at `revision` and `at` (Unix seconds).
    pub(super) fn remove(&mut self, id: &str, revision: Revision, at: u64) {
        let place = self.page_of(id.as_bytes());
        let pages = Arc::make_mut(&mut self.pages);
        let Some(shared) = pages.get_mut(place) else { return };
        let page = Arc::make_mut(shared);
        let Ok(index) = page.binary_search_by(|held| held.id_bytes().cmp(id.as_bytes())) else { return };
        let old = page.remove(index);
        if page.is_empty() {
            pages.remove(place);
        }
        self.forget_reply();
        self.instances -= 1;
        self.routable -= u32::from(old.is_routable());
        self.revision = self.revision.max(revision);
        self.emptied_at = at;
    }

    /// The page that holds `id`, or would.
    fn page_of(&self, id: &[u8]) -> usize {
        self.pages
            .partition_point(|page| page.last().is_some_and(|last| last.id_bytes() < id))
            .min(self.pages.len().saturating_sub(1))
    }
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

    fn record(id: &str, status: Status) -> Arc<Record> {
        let (namespace, service) = ("default".to_owned(), "web".to_owned());
        let instance = Instance { namespace, service, id: id.into(), status: status.into(), ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        Arc::new(Record::new(&instance.encode_to_vec(), lease, 1, 0, 1))
    }

    fn ids(set: &ServiceSet, budget: &Arc<ReplyBudget>) -> Vec<String> {
        let response = Reply::decode(set.routable_bytes(budget)).expect("a reply");
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
    fn without_budget_replies_are_made_anew() {
        let (budget, mut set) = (ReplyBudget::new(0), ServiceSet::default());
        set.put(record("a", Status::Serving));
        assert_eq!(ids(&set, &budget), ["a"]);
        assert!(set.reply.get().is_none());
    }
}
