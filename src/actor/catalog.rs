//! Changes of the catalog, and what can be read of it. Changes are commands like any other; reads never take the actor's
//! time.

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;
use tokio::time::Instant;

use super::{Deployment, RegistryHandle, handle::wall_clock, lookup::end_of};
use crate::{
    registry::{
        Command, Error, Principal, Revision,
        catalog::{Book, CatalogAction, CatalogCommand, Entry, PortRules, ServiceType},
    },
    watch::ReadyWatch,
};

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
        let command = Command::Catalog(Box::new(wanted));
        Deployment::of(self.command(command, deadline).await?)
    }

    /// The catalog of a namespace as it stands. It costs no more than a few pointers.
    #[must_use]
    pub fn book(&self, namespace: &str) -> (Book, Revision) {
        let registry = self.hub.registry();
        (registry.catalogs().book(namespace).clone(), registry.revision())
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

    /// What is stored that goes on, but not as it would by those rules, each in a sentence.
    #[must_use]
    pub fn catalog_hints(&self) -> Vec<String> {
        let registry = self.hub.registry();
        let hint = |(namespace, book): (&SmolStr, &Book)| {
            registry.port_rules().hint_of(book.catalog().ports()).map(|hint| format!("in {namespace}, {hint}"))
        };
        registry.catalogs().books().iter().filter_map(hint).collect()
    }

    /// By which rules ports are given out.
    #[must_use]
    pub fn port_rules(&self) -> Arc<PortRules> {
        Arc::clone(self.hub.registry().port_rules())
    }

    /// Waits until services are online.
    ///
    /// # Errors
    /// `Limit` or `Quota` of watches, `ShuttingDown`.
    pub fn wait_ready(
        &self,
        namespace: SmolStr,
        services: Vec<SmolStr>,
        wait: Duration,
        deadline: Option<Instant>,
        principal: &Principal,
    ) -> Result<ReadyWatch, Error> {
        ReadyWatch::new(&self.hub, namespace, services, end_of(wait, deadline), principal)
    }
}
