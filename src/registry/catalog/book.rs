//! The catalog of one namespace as it is committed: entries with their times, the versions of everything, and what
//! follows from them for the rules. Decides nothing.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use prost_types::Timestamp;
use smol_str::SmolStr;

use super::{
    Application, Catalog, ServiceType, Shelf, seeds,
    stored::{self, Stored, Times},
};
use crate::registry::{
    document::{Document, DocumentKey, Kind},
    key::Revision,
};

/// Something that the catalog keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<T> {
    /// As committed. A seed that nobody touched is of revision 0, and stored nowhere.
    pub document: Arc<Document>,
    /// What it says.
    pub value: Arc<T>,
    /// Older entries have lower numbers: that of the version that made it.
    pub number: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// What a version did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionChange {
    /// Made it.
    Insert,
    /// Changed it.
    Update,
    /// Took it away.
    Delete,
}

impl VersionChange {
    /// Its number in stores.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Insert => 1,
            Self::Update => 2,
            Self::Delete => 3,
        }
    }

    /// The change of this number.
    pub(super) fn of(number: u32) -> Option<Self> {
        [Self::Insert, Self::Update, Self::Delete].into_iter().find(|change| change.number() == number)
    }
}

/// What a version is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// A service type.
    ServiceType(ServiceType),
    /// An application.
    Application(Application),
}

impl Recorded {
    /// The id of what it is of.
    #[must_use]
    pub fn id(&self) -> &SmolStr {
        match self {
            Self::ServiceType(service_type) => &service_type.id,
            Self::Application(application) => &application.id,
        }
    }
}

/// A change of the catalog that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// One more than that of the change before, in its namespace.
    pub number: u64,
    /// What it did.
    pub change: VersionChange,
    /// When.
    pub at: Timestamp,
    /// What is there after it; what was there before a deletion.
    pub value: Recorded,
    /// At which revision.
    pub revision: Revision,
}

impl Version {
    /// About how large it is in an answer.
    pub(super) fn size(&self) -> usize {
        match &self.value {
            Recorded::ServiceType(service_type) => service_type.id.len(),
            Recorded::Application(Application { id, ports, dependencies }) => {
                let ports = ports.iter().map(|port| port.service.len());
                let dependencies = dependencies.iter().map(SmolStr::len);
                id.len() + ports.chain(dependencies).sum::<usize>()
            }
        }
    }
}

/// The catalog of one namespace. Cloning is cheap and shares what is equal.
#[derive(Clone, Debug, Default)]
pub struct Book {
    catalog: Catalog,
    types: Shelf<ServiceType>,
    applications: Shelf<Application>,
    versions: OrdMap<u64, Arc<Version>>,
    /// The documents of the versions.
    kept: OrdMap<u64, Arc<Document>>,
    /// Of their bodies.
    version_bytes: u64,
}

impl Book {
    /// The book of a namespace whose catalog nobody changed yet.
    pub(super) fn seeded(namespace: &str) -> Self {
        let mut book = Self::default();
        for (number, seed) in (1..).zip(seeds()) {
            let key = DocumentKey { kind: Kind::ServiceType, namespace: namespace.into(), name: seed.id.clone() };
            let body = seed.encode(Times { number, ..Times::default() });
            book.hold(&key, Some(&Arc::new(Document { key: key.clone(), body, revision: 0 })));
        }
        book
    }

    /// What the rules are about.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The service types, by id.
    #[must_use]
    pub fn types(&self) -> &OrdMap<SmolStr, Arc<Entry<ServiceType>>> {
        self.types.ids()
    }

    /// The service types, in every order that lists have.
    #[must_use]
    pub fn shelf_of_types(&self) -> &Shelf<ServiceType> {
        &self.types
    }

    /// The applications, by id.
    #[must_use]
    pub fn applications(&self) -> &OrdMap<SmolStr, Arc<Entry<Application>>> {
        self.applications.ids()
    }

    /// The applications, in every order that lists have.
    #[must_use]
    pub fn shelf(&self) -> &Shelf<Application> {
        &self.applications
    }

    /// Every change that is kept, by number.
    #[must_use]
    pub fn versions(&self) -> &OrdMap<u64, Arc<Version>> {
        &self.versions
    }

    /// Whether it is as it was before anybody changed it, but for its versions.
    #[must_use]
    pub fn is_as_it_began(&self) -> bool {
        if !self.applications().is_empty() {
            return false;
        }
        let (seeds, types) = (seeds(), self.types());
        let is_seed = |seed: &ServiceType| types.get(&seed.id).is_some_and(|entry| *entry.value == *seed);
        types.len() == seeds.len() && seeds.iter().all(is_seed)
    }

    /// Whether it has been so for a day at this time (Unix seconds).
    #[must_use]
    pub fn is_forgettable(&self, now: i64) -> bool {
        let is_due = |last: &Arc<Version>| last.at.seconds.saturating_add(KEPT_SECONDS) <= now;
        self.is_as_it_began() && self.versions.get_max().is_some_and(|(_, last)| is_due(last))
    }

    /// How large the versions are as they are stored.
    #[must_use]
    pub fn version_bytes(&self) -> u64 {
        self.version_bytes
    }

    /// The document of this key.
    #[must_use]
    pub fn document(&self, key: &DocumentKey) -> Option<&Arc<Document>> {
        match key.kind {
            Kind::ServiceType => self.types().get(&key.name).map(|entry| &entry.document),
            Kind::Application => self.applications().get(&key.name).map(|entry| &entry.document),
            Kind::CatalogVersion => key.name.parse().ok().and_then(|number: u64| self.kept.get(&number)),
            Kind::Backend | Kind::Frontend | Kind::Token | Kind::Namespace => None,
        }
    }

    /// Holds `document` under `key`, or frees the key, and gives the document that was there. Bytes that are none of
    /// the kind's are passed over: no command makes such.
    pub(super) fn hold(&mut self, key: &DocumentKey, document: Option<&Arc<Document>>) -> Option<Arc<Document>> {
        let before = self.document(key).cloned();
        match key.kind {
            Kind::ServiceType => match document.and_then(stored::entry::<ServiceType>) {
                Some(entry) => {
                    self.catalog.put_type(Arc::clone(&entry.value));
                    self.types.put(entry);
                }
                None => {
                    self.catalog.remove_type(&key.name);
                    self.types.remove(&key.name);
                }
            },
            Kind::Application => match document.and_then(stored::entry::<Application>) {
                Some(entry) => {
                    self.catalog.put_application(Arc::clone(&entry.value));
                    self.applications.put(entry);
                }
                None => {
                    self.catalog.remove_application(&key.name);
                    self.applications.remove(&key.name);
                }
            },
            Kind::CatalogVersion => self.hold_version(key, document),
            Kind::Backend | Kind::Frontend | Kind::Token | Kind::Namespace => {}
        }
        before
    }

    fn hold_version(&mut self, key: &DocumentKey, document: Option<&Arc<Document>>) {
        match document.and_then(|document| Some((Version::of(document)?, document))) {
            Some((version, document)) => {
                let before = self.kept.insert(version.number, Arc::clone(document));
                self.version_bytes += bytes_of(Some(document));
                self.version_bytes -= bytes_of(before.as_ref());
                self.versions.insert(version.number, Arc::new(version));
            }
            None => {
                if let Ok(number) = key.name.parse::<u64>() {
                    self.version_bytes -= bytes_of(self.kept.remove(&number).as_ref());
                    self.versions.remove(&number);
                }
            }
        }
    }
}

fn bytes_of(document: Option<&Arc<Document>>) -> u64 {
    document.map_or(0, |document| document.body.len() as u64)
}

/// How long the versions of a catalog are kept that is as it began: as long as a service is known without instances.
const KEPT_SECONDS: i64 = 24 * 60 * 60;

/// The catalogs of all namespaces.
#[derive(Clone, Debug)]
pub struct Catalogs {
    books: OrdMap<SmolStr, Book>,
    /// Those that are as they began.
    idle: OrdSet<SmolStr>,
    /// What a namespace has that has no book of its own.
    seeded: Book,
    applications: u64,
}

impl Default for Catalogs {
    fn default() -> Self {
        Self { books: OrdMap::new(), idle: OrdSet::new(), seeded: Book::seeded(""), applications: 0 }
    }
}

impl Catalogs {
    /// The catalog of a namespace: until its first change it has the seeds.
    #[must_use]
    pub fn book(&self, namespace: &str) -> &Book {
        self.books.get(namespace).unwrap_or(&self.seeded)
    }

    /// Those that were changed once, by namespace. Cloning is O(1).
    #[must_use]
    pub fn books(&self) -> &OrdMap<SmolStr, Book> {
        &self.books
    }

    /// How many applications there are in all.
    #[must_use]
    pub fn applications(&self) -> u64 {
        self.applications
    }

    /// At most `max` namespaces whose catalogs have been as they began for a day at `now` (Unix seconds).
    #[must_use]
    pub fn forgettable(&self, now: i64, max: usize) -> Vec<SmolStr> {
        let is_due = |namespace: &&SmolStr| self.book(namespace).is_forgettable(now);
        self.idle.iter().filter(is_due).take(max).cloned().collect()
    }

    /// Whether an application of this namespace is called so.
    #[must_use]
    pub fn names(&self, namespace: &str, service: &str) -> bool {
        self.applications != 0
            && self.books.get(namespace).is_some_and(|book| book.applications().contains_key(service))
    }

    /// Holds `document` under `key`, or frees the key, and gives the document that was there.
    pub(in crate::registry) fn hold(
        &mut self,
        key: &DocumentKey,
        document: Option<&Arc<Document>>,
    ) -> Option<Arc<Document>> {
        let book = self.books.entry(key.namespace.clone()).or_default();
        let count = book.applications().len() as u64;
        let before = book.hold(key, document);
        self.applications = self.applications - count + book.applications().len() as u64;
        if book.is_as_it_began() {
            self.idle.insert(key.namespace.clone());
        } else {
            self.idle.remove(&key.namespace);
        }
        // Nothing is stored of it any more.
        if book.types().is_empty() && book.applications().is_empty() && book.versions.is_empty() {
            self.books.remove(&key.namespace);
        }
        before
    }
}
