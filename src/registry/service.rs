//! The instances of one service, in pages that are shared with readers and copied only while a reader holds them.

use std::sync::Arc;

use super::{key::Revision, record::Record};

/// Most instances in a page: what a change copies at most while a reader holds the service.
const PAGE_MAX: usize = 256;

type Page = Vec<Arc<Record>>;

/// The instances of one service in order of id. Cloning is O(1) and gives a snapshot.
#[derive(Clone, Debug, Default)]
pub struct ServiceSet {
    pages: Arc<Vec<Arc<Page>>>,
    instances: u32,
    routable: u32,
    revision: Revision,
    emptied_at: u64,
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
