//! Lists of the catalog: read on what is committed, beside the actor. A look at many entries lets others have their turn
//! in between.

use std::{collections::HashSet, sync::Arc};

use smol_str::SmolStr;
use tokio::task::yield_now;

use super::RegistryHandle;
use crate::registry::{
    Revision,
    catalog::{
        self, Application, ApplicationQuery, Entry, Look, Page, Paged, Paging, Place, ServiceType, Shelved, Shown,
        Sort, SortKey, Standing, Stood, Tally, Version, VersionQuery, asked,
    },
};

/// Most applications and instances looked at in one turn of a thread.
const TURN_MAX: usize = 4_096;
/// A page ends before what it tells of is larger than this, unless it has one alone.
const PAGE_BYTES: usize = 1024 * 1024;

/// An entry with its namespace.
pub type Of<T> = (SmolStr, Arc<Entry<T>>);

/// A part of a list.
#[derive(Debug)]
pub struct CatalogList<X> {
    /// In the order that was asked for.
    pub found: Vec<X>,
    /// How many there are in all; of who goes on from behind a place, nothing is counted.
    pub total: u64,
    /// Where to go on; empty at the end.
    pub next_page_token: String,
    /// The revision that this shows.
    pub revision: Revision,
}

/// How applications stand.
#[derive(Debug)]
pub struct Standings {
    /// The part of them that was asked for, by id, and how many there are in all of those.
    pub listed: CatalogList<Stood>,
    /// How many stand in which way, also of those that nobody asked for.
    pub tally: Tally,
}

async fn paged<X: Send>(mut paging: Paging<'_, X>) -> Paged<X> {
    while paging.step(TURN_MAX) {
        yield_now().await;
    }
    paging.end()
}

fn listed<T: Shelved>(paged: Paged<Shown<'_, T>>, sort: Sort, revision: Revision) -> CatalogList<Of<T>> {
    let last = paged.found.last().filter(|_| paged.more);
    let next_page_token = last.map(|last| last.place(sort.key).token(sort)).unwrap_or_default();
    let total = paged.total;
    let own = |shown: Shown<'_, T>| (shown.namespace.clone(), Arc::clone(shown.entry));
    CatalogList { found: paged.found.into_iter().map(own).collect(), total, next_page_token, revision }
}

/// How the standings of a list are ordered.
pub const BY_ID: Sort = Sort { key: SortKey::Id, descending: false };

impl RegistryHandle {
    /// The applications of a namespace, or of all.
    pub async fn list_applications(
        &self,
        namespace: Option<SmolStr>,
        query: &ApplicationQuery,
        sort: Sort,
        page: Page,
        after: Option<Place>,
    ) -> CatalogList<Of<Application>> {
        let (books, revision) = match namespace {
            None => {
                let registry = self.hub.registry();
                (registry.catalogs().books().clone(), registry.revision())
            }
            Some(namespace) => {
                let (book, revision) = self.book(&namespace);
                (imbl::OrdMap::unit(namespace, book), revision)
            }
        };
        listed(paged(catalog::applications(&books, query, sort, page, after.as_ref())).await, sort, revision)
    }

    /// The service types of a namespace.
    pub async fn list_service_types(
        &self,
        namespace: SmolStr,
        ids: &HashSet<SmolStr>,
        sort: Sort,
        page: Page,
        after: Option<Place>,
    ) -> CatalogList<Of<ServiceType>> {
        let (book, revision) = self.book(&namespace);
        let paging = catalog::service_types(&namespace, &book, ids, sort, page, after.as_ref());
        listed(paged(paging).await, sort, revision)
    }

    /// The changes of a namespace's catalog.
    pub async fn list_catalog_versions(
        &self,
        namespace: &str,
        query: &VersionQuery,
        page: Page,
        after: Option<u64>,
    ) -> CatalogList<Arc<Version>> {
        let (book, revision) = self.book(namespace);
        let paged = paged(catalog::versions(&book, query, page, after)).await;
        let last = paged.found.last().filter(|_| paged.more);
        let next_page_token = last.map(|last| last.number.to_string()).unwrap_or_default();
        CatalogList { found: paged.found.into_iter().cloned().collect(), total: paged.total, next_page_token, revision }
    }

    /// How applications of a namespace stand, all as of one revision; of `standings` only, unless that is empty.
    pub async fn standings(
        &self,
        namespace: &SmolStr,
        query: &ApplicationQuery,
        standings: &HashSet<Standing>,
        page: Page,
        after: Option<Place>,
    ) -> Standings {
        // A short look: the rest is read after the state is free again.
        let (book, services, revision) = {
            let registry = self.hub.registry();
            let services = registry.namespaces().get(namespace).map(|held| held.services.clone());
            (registry.catalogs().book(namespace).clone(), services.unwrap_or_default(), registry.revision())
        };
        let listed = CatalogList { found: Vec::new(), total: 0, next_page_token: String::new(), revision };
        let mut all = Standings { listed, tally: Tally::default() };
        let (mut seen, mut bytes, mut next, goes_on) = (0, 0, None, after.is_some());
        for entry in asked(&book, query, after.as_ref()) {
            let mut look = Look::at(entry, &services);
            seen += 1;
            loop {
                let room = TURN_MAX.saturating_sub(seen);
                let looked = look.on(room);
                seen += looked;
                if looked < room {
                    break;
                }
                seen = 0;
                yield_now().await;
            }
            let stood = look.end();
            all.tally.count(stood.standing);
            if !standings.is_empty() && !standings.contains(&stood.standing) {
                continue;
            }
            all.listed.total += 1;
            if all.listed.total <= page.offset as u64 {
                continue;
            }
            bytes += entry.document.body.len() + stood.missing.iter().map(SmolStr::len).sum::<usize>();
            match all.listed.found.last() {
                Some(last) if all.listed.found.len() == page.limit || bytes > PAGE_BYTES => {
                    next.get_or_insert_with(|| Place::Id(last.entry.value.id.clone(), namespace.clone()));
                    // It is larger than what is left, also for those that come after it.
                    bytes = usize::MAX / 2;
                }
                _ => all.listed.found.push(stood),
            }
            if goes_on && next.is_some() {
                break;
            }
        }
        all.listed.next_page_token = next.map(|next| next.token(BY_ID)).unwrap_or_default();
        if goes_on {
            (all.tally, all.listed.total) = (Tally::default(), 0);
        }
        all
    }
}
