//! Changes of the catalog, and what can be read of it. Changes are commands like any other; reads never take the actor's
//! time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use imbl::OrdMap;
use smol_str::SmolStr;
use tokio::{task::yield_now, time::Instant};

use super::{Deployment, RegistryHandle, Reply, handle::wall_clock, lookup::end_of};
use crate::{
    registry::{
        Command, Error, Principal, Revision,
        catalog::{
            ApplicationQuery, Book, CatalogAction, CatalogCommand, Entry, Page, PortRules, ServiceType, Standing,
            Stood, Tally, asked, stand,
        },
    },
    watch::ReadyWatch,
};

/// Most applications and instances looked at in one turn of a thread.
const TURN_MAX: u64 = 4_096;

/// How applications stand.
#[derive(Debug)]
pub struct Standings {
    /// The part of them that was asked for, by id.
    pub found: Vec<Stood>,
    /// How many there are in all of those.
    pub total: u64,
    /// How many stand in which way, also of those that nobody asked for.
    pub tally: Tally,
    /// The revision that this shows.
    pub revision: Revision,
}

impl RegistryHandle {
    /// Changes the catalog of a namespace.
    ///
    /// # Errors
    /// Every refusal of such a change; see `Error`.
    pub async fn change_catalog(
        &self,
        namespace: SmolStr,
        action: CatalogAction,
        expected: Revision,
        principal: Principal,
        deadline: Option<Instant>,
    ) -> Result<Deployment, Error> {
        let wanted = CatalogCommand { namespace, action, expected, principal, at: wall_clock() };
        match self.command(Command::Catalog(Box::new(wanted)), deadline).await? {
            Reply::Deployed { deployed, before, revision } => Ok(Deployment { deployed, before, revision }),
            // The actor answers a command with what goes with it.
            Reply::Registered { .. } | Reply::Kept { .. } | Reply::Removed { .. } | Reply::Drained { .. } => {
                Err(Error::Deadline)
            }
        }
    }

    /// The catalog of a namespace as it stands. It costs no more than a few pointers.
    #[must_use]
    pub fn book(&self, namespace: &str) -> (Book, Revision) {
        let registry = self.hub.registry();
        (registry.catalogs().book(namespace).clone(), registry.revision())
    }

    /// Those that were changed once, of all namespaces.
    #[must_use]
    pub fn books(&self) -> (OrdMap<SmolStr, Book>, Revision) {
        let registry = self.hub.registry();
        (registry.catalogs().books().clone(), registry.revision())
    }

    /// What is stored that cannot be by the rules that ports are given out by, each in a sentence.
    #[must_use]
    pub fn catalog_faults(&self) -> Vec<String> {
        let registry = self.hub.registry();
        let books = registry.catalogs().books().iter();
        let types = books.flat_map(|(namespace, book)| book.types().values().map(move |entry| (namespace, entry)));
        let fault = |(namespace, entry): (&SmolStr, &Arc<Entry<ServiceType>>)| {
            registry.port_rules().fault_of(&entry.value).map(|fault| format!("in {namespace}, {fault}"))
        };
        types.filter_map(fault).collect()
    }

    /// By which rules ports are given out.
    #[must_use]
    pub fn port_rules(&self) -> Arc<PortRules> {
        Arc::clone(self.hub.registry().port_rules())
    }

    /// How applications of a namespace stand, all as of one revision; of `standings` only, unless that is empty.
    pub async fn standings(
        &self,
        namespace: &str,
        query: &ApplicationQuery,
        standings: &HashSet<Standing>,
        page: Page,
    ) -> Standings {
        // A short look: the rest is read after the state is free again.
        let (book, services, revision) = {
            let registry = self.hub.registry();
            let services = registry.namespaces().get(namespace).map(|held| held.services.clone());
            (registry.catalogs().book(namespace).clone(), services.unwrap_or_default(), registry.revision())
        };
        let mut all = Standings { found: Vec::new(), total: 0, tally: Tally::default(), revision };
        let mut seen = 0;
        for entry in asked(&book, query) {
            let stood = stand(entry, &services);
            seen += 1 + stood.instances;
            all.tally.count(stood.standing);
            if standings.is_empty() || standings.contains(&stood.standing) {
                if all.total >= page.offset as u64 && all.found.len() < page.limit {
                    all.found.push(stood);
                }
                all.total += 1;
            }
            if seen > TURN_MAX {
                seen = 0;
                yield_now().await;
            }
        }
        all
    }

    /// Waits until services are online.
    ///
    /// # Errors
    /// `Limit` of watches, `ShuttingDown`.
    pub fn wait_ready(
        &self,
        namespace: SmolStr,
        services: Vec<SmolStr>,
        wait: Duration,
        deadline: Option<Instant>,
    ) -> Result<ReadyWatch, Error> {
        ReadyWatch::new(&self.hub, namespace, services, end_of(wait, deadline))
    }
}
