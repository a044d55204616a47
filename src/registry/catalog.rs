//! The catalog: kinds of programs, applications with ports that make sense, and who needs whom. The rules are here, on
//! plain values; but for `live`, knows nothing of instances, nor of how it is kept.
//!
//! Where the rules come from: ports in blocks for families of names, well-known offsets for well-known kinds and the
//! sentences of the violations are those that users of Flow Commerce's registry know. They are facts that those users
//! rely on; their defects (cycles longer than two, ports given twice to callers of one instant) are not kept.

mod book;
mod command;
mod decide;
mod dependency;
mod draft;
mod groups;
mod import;
mod key;
mod list;
mod live;
mod port;
mod query;
mod refusals;
mod rules;
mod shelf;
mod stored;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use imbl::OrdMap;
use smol_str::SmolStr;

pub use self::{
    book::{Book, Catalogs, Entry, Recorded, Version, VersionChange},
    command::{CatalogAction, CatalogCommand},
    decide::{MAX_APPLICATIONS, MAX_CATALOG_VERSION_BYTES, MAX_CATALOG_VERSIONS, MAX_SERVICE_TYPES},
    dependency::{Cycle, Dependencies, Shape},
    draft::{ApplicationDraft, Drafted, MAX_DEPENDENCIES, Refusal, ServiceTypeDraft},
    import::{Around, ImportPlan, List, Listed, ListedPort, Planned},
    list::{Page, Paged, Paging, Shown},
    live::{Look, Standing, Stood, Tally, asked},
    port::{Full, Ports},
    query::{ApplicationQuery, Block, Sort, SortKey, VersionQuery, applications, blocks, service_types, versions},
    refusals::{Refusals, RefusedEntry},
    rules::{BlockPattern, PortRules},
    shelf::{Place, Shelf, Shelved},
};

/// A kind of program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceType {
    /// Its name, for instance `nodejs`.
    pub id: SmolStr,
    /// The port that such a program listens on unless its application says otherwise.
    pub default_port: u16,
    /// Its place in a block of external ports; none: wherever there is room.
    pub offset: Option<u16>,
}

/// A port of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The kind of program behind it.
    pub service: SmolStr,
    /// Where clients reach it: no two applications have the same.
    pub external: u16,
    /// Where the program listens, for instance inside its container.
    pub internal: u16,
}

/// An entry of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its name.
    pub id: SmolStr,
    /// Its ports, one for each kind of program that it is made of, in the order in which they were added.
    pub ports: Box<[Port]>,
    /// The applications that it needs, each once, in the order in which they were added.
    pub dependencies: Arc<[SmolStr]>,
}

impl Application {
    /// Its port of this kind.
    #[must_use]
    pub fn port(&self, service: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.service == service)
    }
}

/// The kinds of programs that a new catalog knows.
#[must_use]
pub fn seeds() -> [ServiceType; 3] {
    let seed =
        |id, default_port, offset| ServiceType { id: SmolStr::new_static(id), default_port, offset: Some(offset) };
    [seed("nodejs", 7050, 0), seed("play", 9000, 1), seed("postgresql", 5432, 9)]
}

/// Service types and applications, and what follows from them. Cloning is cheap and shares what is equal.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    types: OrdMap<SmolStr, Arc<ServiceType>>,
    applications: OrdMap<SmolStr, Arc<Application>>,
    ports: Ports,
    dependencies: Dependencies,
    /// How many ports are of a type.
    users: OrdMap<SmolStr, u64>,
}

impl Catalog {
    /// A catalog as it is before anybody changed it.
    #[must_use]
    pub fn seeded() -> Self {
        let mut catalog = Self::default();
        seeds().into_iter().for_each(|seed| catalog.put_type(seed.into()));
        catalog
    }

    /// The service types, by id.
    #[must_use]
    pub fn types(&self) -> &OrdMap<SmolStr, Arc<ServiceType>> {
        &self.types
    }

    /// The applications, by id.
    #[must_use]
    pub fn applications(&self) -> &OrdMap<SmolStr, Arc<Application>> {
        &self.applications
    }

    /// The external ports in use.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Who needs whom.
    #[must_use]
    pub fn dependencies(&self) -> &Dependencies {
        &self.dependencies
    }

    /// How many ports are of this type.
    #[must_use]
    pub fn users(&self, service: &str) -> u64 {
        self.users.get(service).copied().unwrap_or(0)
    }

    /// Holds a service type, in place of the one with its id.
    pub fn put_type(&mut self, service_type: Arc<ServiceType>) {
        self.types.insert(service_type.id.clone(), service_type);
    }

    /// Holds a service type no longer.
    pub fn remove_type(&mut self, id: &str) {
        self.types.remove(id);
    }

    /// Holds an application, in place of the one with its id, and gives that one. What the two have in common stays as
    /// it is: a change costs what it changes.
    pub fn put_application(&mut self, application: Arc<Application>) -> Option<Arc<Application>> {
        let before = self.applications.insert(application.id.clone(), Arc::clone(&application));
        let held: &[Port] = before.as_ref().map_or(&[], |before| &before.ports);
        self.change_ports(&application.id, held, &application.ports);
        self.dependencies.set(&application.id, Arc::clone(&application.dependencies));
        before
    }

    /// Holds an application no longer: its ports and its id are free.
    pub fn remove_application(&mut self, id: &str) -> Option<Arc<Application>> {
        let before = self.applications.remove(id)?;
        self.change_ports(&before.id, &before.ports, &[]);
        self.dependencies.remove(id);
        Some(before)
    }

    /// An application has other ports than it had.
    fn change_ports(&mut self, id: &SmolStr, before: &[Port], now: &[Port]) {
        let is_among = |all: &[Port], port: &Port| {
            all.iter().any(|held| (&held.service, held.external) == (&port.service, port.external))
        };
        for port in before.iter().filter(|port| !is_among(now, port)) {
            self.ports.free(id, port.external);
            if let Some(users) = self.users.get_mut(&port.service) {
                *users -= 1;
            }
            if self.users(&port.service) == 0 {
                self.users.remove(&port.service);
            }
        }
        for port in now.iter().filter(|port| !is_among(before, port)) {
            self.ports.take(id, port.external);
            *self.users.entry(port.service.clone()).or_insert(0) += 1;
        }
    }
}
