//! What should become of a change of the catalog, judged on committed state alone. Changes nothing.

use std::{collections::HashMap, sync::Arc};

use smol_str::SmolStr;

use super::{
    Application, Book, CatalogAction, CatalogCommand, Drafted, Entry, Refusal, ServiceTypeDraft, VersionChange, seeds,
    stored::{self, Stored, Times},
};
use crate::registry::{
    Change, Decision, Error, Guarded, Held, Outcome, Registry,
    document::{Document, DocumentKey, DocumentPut, Kind},
};

/// Most applications in the registry.
pub const MAX_APPLICATIONS: u64 = 100_000;
/// Most service types of a namespace.
pub const MAX_SERVICE_TYPES: u64 = 10_000;
/// Most versions of a namespace: the oldest go when more come.
pub const MAX_CATALOG_VERSIONS: u64 = 100_000;
/// Most bytes of the versions of a namespace, but for the newest: the oldest go when more come.
pub const MAX_CATALOG_VERSION_BYTES: u64 = 16 * 1024 * 1024;
/// How many versions one change lets go at most.
const OLDEST_AT_ONCE: usize = 1_000;
/// Changes are decided together until they have written this.
const TURN_BYTES: usize = 512 * 1024;
/// And until so many applications were looked at, if each search for cycles were to look at all.
const TURN_STEPS: usize = 500_000;

impl Registry {
    /// What `wanted` leads to, while so many new applications of other namespaces are in flight.
    pub(in crate::registry) fn change_catalog(&self, wanted: &CatalogCommand, in_flight: u64) -> Decision {
        let mut writing = Writing::new(self, &wanted.namespace, in_flight);
        match writing.run(wanted) {
            Err(error) => Decision::Reply(Err(error)),
            // Without changes it is so already.
            Ok(outcome) if writing.changes.is_empty() => Decision::Reply(Ok(outcome)),
            Ok(outcome) => Decision::Propose(writing.changes, outcome),
        }
    }

    /// What several changes of one namespace come to, each judged on what those before it left: what is to be committed
    /// at once, and each one's outcome. The last of them have none when those before are enough for one turn, or for one
    /// revision.
    #[must_use]
    pub fn change_catalog_all<'a>(
        &self,
        namespace: &str,
        wanted: impl IntoIterator<Item = &'a CatalogCommand>,
        in_flight: u64,
    ) -> (Vec<Guarded>, Vec<Result<Outcome, Error>>) {
        let mut writing = Writing::new(self, namespace, in_flight);
        let (mut outcomes, mut steps) = (Vec::new(), 0);
        for wanted in wanted {
            steps += 1 + if wanted.action.may_need() { writing.book.applications().len() } else { 0 };
            if !outcomes.is_empty() && (steps > TURN_STEPS || writing.bytes > TURN_BYTES) {
                break;
            }
            outcomes.push(writing.run(wanted));
        }
        (writing.changes, outcomes)
    }
}

/// A copy of a book that changes are tried on, and what is to be committed for it to be so.
struct Writing<'a> {
    registry: &'a Registry,
    committed: &'a Book,
    book: Book,
    namespace: SmolStr,
    changes: Vec<Guarded>,
    /// Where the change of a key is among them: a revision has one of each.
    places: HashMap<DocumentKey, usize>,
    /// Applications that are in flight, and that this makes.
    added: u64,
    /// Services that they may make known.
    added_services: u64,
    /// Of what is written.
    bytes: usize,
}

impl<'a> Writing<'a> {
    fn new(registry: &'a Registry, namespace: &str, in_flight: u64) -> Self {
        let committed = registry.catalogs.book(namespace);
        Self {
            registry,
            committed,
            book: committed.clone(),
            namespace: namespace.into(),
            changes: Vec::new(),
            places: HashMap::new(),
            added: in_flight,
            added_services: in_flight,
            bytes: 0,
        }
    }

    fn run(&mut self, wanted: &CatalogCommand) -> Result<Outcome, Error> {
        if !wanted.principal.operator {
            return Err(Error::Permission { permission: "catalog" });
        }
        let (kind, id) = wanted.action.subject();
        let key = DocumentKey { kind, namespace: self.namespace.clone(), name: id.into() };
        let before = self.book.document(&key).cloned();
        expect(wanted, before.as_ref())?;
        self.decide(wanted).map_err(|refusal| refused(refusal, &key))?;
        Ok(Outcome::Deployed(key, before))
    }

    fn decide(&mut self, wanted: &CatalogCommand) -> Result<(), Stop> {
        let rules = &self.registry.port_rules;
        let catalog = self.book.catalog();
        match &wanted.action {
            CatalogAction::CreateType(draft) => {
                let made = catalog.create_type(rules, draft)?;
                self.put(wanted, made)
            }
            CatalogAction::PutType(draft) => {
                let drafted = catalog.put_type_draft(rules, draft)?;
                self.put_drafted(wanted, drafted)
            }
            CatalogAction::DeleteType(id) => {
                let gone = Arc::clone(catalog.expendable_type(id)?);
                self.delete(wanted, &*gone)
            }
            CatalogAction::Create(draft) => {
                let made = catalog.create(rules, draft)?;
                self.put(wanted, made)
            }
            CatalogAction::Put(draft) => {
                let drafted = catalog.put(rules, draft)?;
                self.put_drafted(wanted, drafted)
            }
            CatalogAction::Delete(id) => {
                let gone = Arc::clone(catalog.expendable(id)?);
                self.delete(wanted, &*gone)
            }
            CatalogAction::Depend(id, dependency) => {
                let drafted = catalog.depend(id, dependency)?;
                self.put_drafted(wanted, drafted)
            }
            CatalogAction::Undepend(id, dependency) => {
                let drafted = catalog.undepend(id, dependency)?;
                self.put_drafted(wanted, drafted)
            }
            CatalogAction::Forget => {
                self.forget(wanted);
                Ok(())
            }
            CatalogAction::Import { types, applications, after } => {
                let untouched = self.next_number() == after + 1;
                self.import(wanted, types, applications, untouched)
            }
        }
    }

    fn import(
        &mut self,
        wanted: &CatalogCommand,
        types: &[ServiceTypeDraft],
        applications: &[Application],
        untouched: bool,
    ) -> Result<(), Stop> {
        for draft in types {
            let drafted = self.book.catalog().put_type_draft(&self.registry.port_rules, draft)?;
            self.put_drafted(wanted, drafted)?;
        }
        for application in applications {
            let stale = Error::StaleRevision { expected: wanted.expected, revision: self.registry.revision() };
            let drafted = self.book.catalog().retake(application, untouched).ok_or(stale)?;
            self.put_drafted(wanted, drafted)?;
        }
        Ok(())
    }

    fn put_drafted<T: Stored>(&mut self, wanted: &CatalogCommand, drafted: Drafted<T>) -> Result<(), Stop> {
        match drafted {
            Drafted::Same(_) => Ok(()),
            Drafted::New(value) => self.put(wanted, value),
        }
    }

    fn put<T: Stored>(&mut self, wanted: &CatalogCommand, value: T) -> Result<(), Stop> {
        let key = self.key::<T>(value.id());
        if self.book.document(&key).is_none() {
            self.check_room(&key)?;
        }
        self.begin(wanted);
        let (change, times) = match self.book.document(&key).and_then(stored::entry::<T>) {
            Some(Entry { number, created_at, .. }) => {
                (VersionChange::Update, Times { number, created_at, updated_at: wanted.at })
            }
            None => {
                let number = self.next_number();
                (VersionChange::Insert, Times { number, created_at: wanted.at, updated_at: wanted.at })
            }
        };
        let body = value.encode(times);
        self.version(wanted, change, &key, body.clone());
        self.write(key, Some(body));
        Ok(())
    }

    fn delete<T: Stored>(&mut self, wanted: &CatalogCommand, value: &T) -> Result<(), Stop> {
        let key = self.key::<T>(value.id());
        self.begin(wanted);
        let body = self.book.document(&key).map(|document| document.body.clone()).unwrap_or_default();
        self.version(wanted, VersionChange::Delete, &key, body);
        self.write(key, None);
        Ok(())
    }

    /// The oldest versions go, and with the last of them the catalog: it is as it was before anybody changed it.
    fn forget(&mut self, wanted: &CatalogCommand) {
        if !self.book.is_forgettable(wanted.at.seconds) {
            return;
        }
        let numbers: Vec<u64> = self.book.versions().keys().take(OLDEST_AT_ONCE).copied().collect();
        let is_all = numbers.len() == self.book.versions().len();
        for number in numbers {
            let (kind, name) = (Kind::CatalogVersion, stored::version_name(number));
            self.write(DocumentKey { kind, namespace: self.namespace.clone(), name }, None);
        }
        let types: Vec<SmolStr> = self.book.types().keys().filter(|_| is_all).cloned().collect();
        for id in types {
            self.write(self.key::<super::ServiceType>(&id), None);
        }
    }

    fn key<T: Stored>(&self, id: &SmolStr) -> DocumentKey {
        DocumentKey { kind: T::KIND, namespace: self.namespace.clone(), name: id.clone() }
    }

    fn check_room(&mut self, key: &DocumentKey) -> Result<(), Error> {
        let check =
            |limit, maximum, usage| if usage < maximum { Ok(()) } else { Err(Error::Limit { limit, maximum, usage }) };
        let catalogs = &self.registry.catalogs;
        if !catalogs.books().contains_key(&self.namespace) {
            check("max_namespaces", self.registry.limits.namespaces, catalogs.books().len() as u64)?;
        }
        if key.kind == Kind::ServiceType {
            return check("max_service_types", MAX_SERVICE_TYPES, self.book.types().len() as u64);
        }
        check("max_applications", MAX_APPLICATIONS, catalogs.applications() + self.added)?;
        self.registry.check_service_room(&self.namespace, &key.name, self.added_services)?;
        self.added += 1;
        self.added_services += u64::from(self.registry.service(&self.namespace, &key.name).is_none());
        Ok(())
    }

    /// The first change of a catalog writes down what it had until then.
    fn begin(&mut self, wanted: &CatalogCommand) {
        if !self.book.versions().is_empty() {
            return;
        }
        for seed in seeds() {
            let times = Times { number: self.next_number(), created_at: wanted.at, updated_at: wanted.at };
            let (key, body) = (self.key::<super::ServiceType>(&seed.id), seed.encode(times));
            self.version(wanted, VersionChange::Insert, &key, body.clone());
            self.write(key, Some(body));
        }
    }

    fn next_number(&self) -> u64 {
        self.book.versions().get_max().map_or(1, |(number, _)| number + 1)
    }

    /// Keeps the change as a version, and as many as may be kept.
    fn version(&mut self, wanted: &CatalogCommand, change: VersionChange, of: &DocumentKey, body: bytes::Bytes) {
        let number = self.next_number();
        let namespace = self.namespace.clone();
        let key = |number| DocumentKey {
            kind: Kind::CatalogVersion,
            namespace: namespace.clone(),
            name: stored::version_name(number),
        };
        self.write(key(number), Some(stored::version(change, wanted.at, of.kind, &of.name, body)));
        for _ in 0..OLDEST_AT_ONCE {
            let versions = self.book.versions();
            let (count, oldest) = (versions.len() as u64, versions.get_min().map(|(oldest, _)| *oldest));
            let is_too_much = count > MAX_CATALOG_VERSIONS || self.book.version_bytes() > MAX_CATALOG_VERSION_BYTES;
            let Some(oldest) = oldest.filter(|oldest| is_too_much && *oldest != number) else { break };
            self.write(key(oldest), None);
        }
    }

    fn write(&mut self, key: DocumentKey, body: Option<bytes::Bytes>) {
        let document = body.clone().map(|body| Arc::new(Document { key: key.clone(), body, revision: 0 }));
        self.book.hold(&key, document.as_ref());
        self.bytes += body.as_ref().map_or(0, bytes::Bytes::len);
        let change = Change::Document(DocumentPut { key: key.clone(), body });
        if let Some(place) = self.places.get(&key) {
            self.changes[*place].change = change;
            return;
        }
        // A seed that nobody touched is in no store.
        let before = self.committed.document(&key).filter(|document| document.revision != 0).cloned();
        self.places.insert(key, self.changes.len());
        self.changes.push(Guarded { change, before: before.map(Held::Document) });
    }
}

/// Why it stops: what the rules refuse, or what the registry has no room for.
enum Stop {
    Rules(Refusal),
    Other(Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Rules(refusal)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn expect(wanted: &CatalogCommand, before: Option<&Arc<Document>>) -> Result<(), Error> {
    let (expected, revision) = (wanted.expected, before.map_or(0, |document| document.revision));
    if expected == 0 || expected == revision { Ok(()) } else { Err(Error::StaleRevision { expected, revision }) }
}

fn refused(stop: Stop, key: &DocumentKey) -> Error {
    let kind = if key.kind == Kind::ServiceType { "ServiceType" } else { "Application" };
    let name = format!("{}/{}", key.namespace, key.name);
    match stop {
        Stop::Other(error) => error,
        Stop::Rules(Refusal::Invalid(violations)) => Error::Invalid(violations),
        Stop::Rules(Refusal::Exists(violation)) => Error::Taken { kind, name, violation },
        Stop::Rules(Refusal::NotFound) => Error::NoSuch { kind, name },
        Stop::Rules(Refusal::InUse(sentence, by)) => {
            Error::Needed { kind, name, sentence, by: by.iter().map(SmolStr::to_string).collect() }
        }
        Stop::Rules(Refusal::Full(full)) => Error::Limit {
            limit: "catalog_ceiling",
            maximum: full.ceiling.into(),
            usage: full.highest.unwrap_or(0).into(),
        },
    }
}
