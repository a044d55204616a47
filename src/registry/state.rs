//! The committed state: instances by key, by slot and by service, and how a committed change is taken in.
//! It decides nothing: that is `decide`.

use std::{collections::BTreeSet, sync::Arc};

use hashbrown::HashTable;
use imbl::OrdMap;
use smol_str::SmolStr;

use super::{
    Cause,
    catalog::{Catalogs, PortRules},
    change::{Change, Delete, Event, Put},
    deployment::Deployments,
    document::{Document, DocumentEvent, DocumentKey, DocumentPut, Kind},
    filter::Scope,
    key::{Fingerprint, Key, Revision},
    name::DEFAULT_NAMESPACE,
    namespace::Namespace,
    outline::Outline,
    quota::Uses,
    record::Record,
    service::{Moved, ServiceSet},
    settings::Settings,
    turn::{Folded, Turn},
    urls::{Place, Urls},
};

/// Limits on what the state holds.
#[derive(Clone, Copy, Debug)]
pub struct StateLimits {
    /// Instances in all.
    pub instances: u64,
    /// Known services in all.
    pub services: u64,
    /// Namespaces.
    pub namespaces: u64,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self { instances: 2_000_000, services: 1_000_000, namespaces: 10_000 }
    }
}

/// How long a service stays known after its last instance, in seconds.
pub const KNOWN_SECONDS: u64 = 24 * 60 * 60;

/// Everything that is committed.
#[derive(Debug)]
pub struct Registry {
    /// 32 bits of the registry's id, in every lease token.
    pub(super) tag: u32,
    pub(super) revision: Revision,
    pub(super) namespaces: OrdMap<SmolStr, Namespace>,
    pub(super) slots: Vec<Option<Record>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    urls: Urls,
    pub(super) services: u64,
    /// Partitions that have a name.
    partitions: u64,
    /// The services without an instance, in the order in which they lost the last one, to be forgotten later.
    emptied: BTreeSet<(u64, SmolStr, SmolStr)>,
    /// Namespace and partition key of those that stand otherwise since this was taken.
    turned_keys: Vec<(SmolStr, SmolStr)>,
    pub(super) deployments: Deployments,
    pub(super) catalogs: Catalogs,
    pub(super) port_rules: Arc<PortRules>,
    pub(super) tokens: OrdMap<SmolStr, Arc<Document>>,
    /// What is set for namespaces, known or not.
    pub(super) settings: OrdMap<SmolStr, Settings>,
    /// What everybody has whom a quota may bound.
    pub(super) uses: Uses,
    pub(super) limits: StateLimits,
}

impl Registry {
    /// An empty registry whose tokens carry `tag`.
    #[must_use]
    pub fn new(tag: u32, limits: StateLimits) -> Self {
        let mut namespaces = OrdMap::new();
        namespaces.insert(SmolStr::new_static(DEFAULT_NAMESPACE), Namespace::default());
        Self {
            tag,
            revision: 0,
            namespaces,
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            urls: Urls::default(),
            services: 0,
            partitions: 0,
            emptied: BTreeSet::new(),
            turned_keys: Vec::new(),
            deployments: Deployments::default(),
            catalogs: Catalogs::default(),
            port_rules: Arc::default(),
            tokens: OrdMap::new(),
            settings: OrdMap::new(),
            uses: Uses::default(),
            limits,
        }
    }

    /// The state as it was recovered: `known` names services with the Unix seconds of their last removal.
    pub fn recover(
        &mut self,
        revision: Revision,
        records: impl IntoIterator<Item = Record>,
        known: impl IntoIterator<Item = (SmolStr, SmolStr, u64)>,
        documents: impl IntoIterator<Item = Arc<Document>>,
    ) {
        self.revision = revision;
        let records = records.into_iter();
        self.make_room(records.size_hint().0);
        for record in records {
            self.hold(record);
        }
        self.urls.settle(|slot| place_of(&self.slots, slot));
        for (namespace, service, at) in known {
            let set = self.service_entry(&namespace, &service);
            if set.is_empty() {
                *set = ServiceSet::emptied(at);
                self.emptied.insert((at, namespace, service));
            }
        }
        for document in documents {
            self.hold_document(&document.key, Some(&document));
        }
        self.turned_keys.clear();
    }

    /// For so many records more: tables that grow on the way read every record again each time.
    fn make_room(&mut self, records: usize) {
        self.slots.reserve(records);
        let slots = &self.slots;
        self.index.reserve(records, |slot| fingerprint_of(slots, *slot));
        self.urls.reserve(records, |slot| place_of(slots, slot));
    }

    /// The last committed revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// 32 bits of the registry's id, as lease tokens have them.
    #[must_use]
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// How many instances there are.
    #[must_use]
    pub fn instances(&self) -> u64 {
        self.index.len() as u64
    }

    /// How many services are known.
    #[must_use]
    pub fn services(&self) -> u64 {
        self.services
    }

    /// How many partitions there may be in a scope, at most: those without a name, and those that have or had one lately.
    #[must_use]
    pub fn partitions_in(&self, scope: &Scope) -> u64 {
        match scope {
            Scope::All => self.services + self.partitions,
            Scope::Namespace(name) => self.namespaces.get(name).map_or(0, Namespace::all_partitions),
            Scope::Service(namespace, service) => {
                self.service(namespace, service).map_or(0, |set| 1 + set.named_partitions() as u64)
            }
            Scope::Frontend(..) | Scope::Key(..) => 0,
        }
    }

    /// The backends and frontends.
    #[must_use]
    pub fn deployments(&self) -> &Deployments {
        &self.deployments
    }

    /// The catalogs of all namespaces.
    #[must_use]
    pub fn catalogs(&self) -> &Catalogs {
        &self.catalogs
    }

    /// By which rules ports are given out.
    #[must_use]
    pub fn port_rules(&self) -> &Arc<PortRules> {
        &self.port_rules
    }

    /// From now on ports are given out by these rules; those that were stay as they are.
    pub fn set_port_rules(&mut self, rules: Arc<PortRules>) {
        self.port_rules = rules;
    }

    /// All namespaces. Cloning it is O(1).
    #[must_use]
    pub fn namespaces(&self) -> &OrdMap<SmolStr, Namespace> {
        &self.namespaces
    }

    /// The service, if it is known. Cloning it is O(1).
    #[must_use]
    pub fn service(&self, namespace: &str, service: &str) -> Option<&ServiceSet> {
        self.namespaces.get(namespace)?.services.get(service)
    }

    /// The record in `slot`.
    #[must_use]
    pub fn record(&self, slot: u32) -> Option<&Record> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Every slot in use with its record.
    pub fn records(&self) -> impl Iterator<Item = (u32, &Record)> {
        self.slots.iter().enumerate().filter_map(|(slot, record)| Some((slot as u32, record.as_ref()?)))
    }

    /// Where the key's record is.
    #[must_use]
    pub fn slot_of(&self, key: &Key) -> Option<u32> {
        self.find(key.fingerprint(), |record| {
            record.names() == (key.namespace.as_str(), key.service.as_str(), key.id.as_str())
        })
    }

    /// The slot of a record with this fingerprint that is `wanted`: keys may collide.
    pub(super) fn find(&self, fingerprint: Fingerprint, wanted: impl Fn(&Record) -> bool) -> Option<u32> {
        let slots = &self.slots;
        let holds = |slot: &u32| {
            slots[*slot as usize].as_ref().is_some_and(|record| record.fingerprint == fingerprint && wanted(record))
        };
        self.index.find(fingerprint.0, holds).copied()
    }

    /// The records of a namespace that have this url, with their slots.
    pub(super) fn at_url<'a>(&'a self, namespace: &str, url: &str) -> impl Iterator<Item = &'a Record> + use<'a> {
        self.urls.at((namespace, url), |slot| place_of(&self.slots, slot)).filter_map(|slot| self.record(slot))
    }

    /// At most `max` services to forget: those whose day has passed at `now` (Unix seconds).
    #[must_use]
    pub fn forgettable(&self, now: u64, max: usize) -> Vec<(SmolStr, SmolStr)> {
        let due = self.emptied.iter().take_while(|(at, ..)| at.saturating_add(KNOWN_SECONDS) <= now);
        due.take(max).map(|(_, namespace, service)| (namespace.clone(), service.clone())).collect()
    }

    /// Takes in the changes committed at `revision`. Absolute changes: folding twice equals folding once.
    pub fn fold(&mut self, revision: Revision, changes: &[Change]) -> Folded {
        let mut folded = Folded::default();
        if revision <= self.revision {
            return folded;
        }
        self.revision = revision;
        for (place, change) in changes.iter().enumerate() {
            match change {
                Change::Put(put) => folded.events.push(self.fold_put(revision, place as u32, put)),
                Change::Delete(delete) => folded.events.extend(self.fold_delete(revision, delete)),
                Change::Forget { namespace, service } => self.fold_forget(namespace, service),
                Change::Document(put) => {
                    folded.tokens |= put.key.kind == Kind::Token;
                    folded.turns.extend(self.fold_document(revision, put));
                }
            }
        }
        // Only now: what a turn is about is as it is when the revision is over.
        folded.turns = folded.turns.into_iter().map(|turn| self.complete(turn)).collect();
        folded.keys = std::mem::take(&mut self.turned_keys);
        folded
    }

    fn fold_forget(&mut self, namespace: &SmolStr, service: &SmolStr) {
        let Some(set) = self.service(namespace, service) else { return };
        if !set.is_empty() || self.names_service(namespace, service) {
            return;
        }
        self.emptied.remove(&(set.emptied_at(), namespace.clone(), service.clone()));
        let Some(held) = self.namespaces.get_mut(namespace) else { return };
        let gone = held.services.remove(service).map(|set| set.gone());
        self.follow_partitions(namespace, service, gone.unwrap_or_default());
        self.services -= 1;
        let Some(held) = self.namespaces.get(namespace) else { return };
        if held.services.is_empty() && namespace != DEFAULT_NAMESPACE {
            self.namespaces.remove(namespace);
        }
    }

    fn fold_document(&mut self, revision: Revision, put: &DocumentPut) -> Option<Turn> {
        let after = put.document(revision).map(Arc::new);
        let before = self.hold_document(&put.key, after.as_ref());
        Turn::of(&put.key, &DocumentEvent { before, after })
    }

    /// Holds a document, or frees its key. A service that a backend or an application names is known, without an instance,
    /// too.
    fn hold_document(&mut self, key: &DocumentKey, document: Option<&Arc<Document>>) -> Option<Arc<Document>> {
        let named_before = self.named_by(key);
        let before = match key.kind {
            Kind::Token => self.hold_token(&key.name, document),
            Kind::Namespace => self.hold_settings(&key.name, document),
            Kind::ServiceType | Kind::Application | Kind::CatalogVersion => self.catalogs.hold(key, document),
            Kind::Backend | Kind::Frontend => self.deployments.hold(key, document),
        };
        let named = self.named_by(key);
        if let Some(service) = &named {
            self.service_entry(&key.namespace, service);
        }
        for service in named_before.into_iter().chain(named) {
            self.remember(&key.namespace, &service);
        }
        before
    }

    /// The service that the document of this key names.
    fn named_by(&self, key: &DocumentKey) -> Option<SmolStr> {
        match key.kind {
            Kind::Backend => self.deployments.backend(&key.namespace, &key.name).map(|held| held.service.clone()),
            Kind::Application => self.catalogs.names(&key.namespace, &key.name).then(|| key.name.clone()),
            Kind::Frontend | Kind::ServiceType | Kind::CatalogVersion | Kind::Token | Kind::Namespace => None,
        }
    }

    /// Notes whether a service may be forgotten when its day has passed: it has no instance, and nothing names it.
    fn remember(&mut self, namespace: &SmolStr, service: &SmolStr) {
        let Some(set) = self.service(namespace, service).filter(|set| set.is_empty()) else { return };
        let of = (set.emptied_at(), namespace.clone(), service.clone());
        match self.names_service(namespace, service) {
            true => self.emptied.remove(&of),
            false => self.emptied.insert(of),
        };
    }

    /// Whether a backend or an application names the service.
    fn names_service(&self, namespace: &str, service: &str) -> bool {
        self.deployments.names(namespace, service) || self.catalogs.names(namespace, service)
    }

    fn fold_put(&mut self, revision: Revision, place: u32, put: &Put) -> Event {
        let record = put.record(revision, place);
        let (slot, before) = self.hold(record.clone());
        let cause = match &before {
            None => Cause::Registered,
            Some(before) if before.incarnation != record.incarnation => Cause::Replaced,
            Some(_) => Cause::Unspecified,
        };
        Event { before, after: Some(record), cause, slot }
    }

    fn fold_delete(&mut self, revision: Revision, delete: &Delete) -> Option<Event> {
        let slot = self.slot_of(&delete.key)?;
        let before = self.slots[slot as usize].take()?;
        self.uses.follow(Some(&before), None);
        if let Ok(entry) = self.index.find_entry(before.fingerprint.0, |held| *held == slot) {
            entry.remove();
        }
        self.urls.remove(slot, place(&before), |slot| place_of(&self.slots, slot));
        self.free.push(slot);
        let Key { namespace, service, id } = &delete.key;
        let set = self.namespaces.get_mut(namespace)?.services.get_mut(service)?;
        let moved = set.remove(id, revision, delete.at);
        let is_empty = set.is_empty();
        self.follow_partitions(namespace, service, moved);
        if is_empty {
            self.remember(&delete.key.namespace, &delete.key.service);
        }
        Some(Event { before: Some(before), after: None, cause: delete.cause, slot })
    }

    /// Holds `record`, in place of the one with the same key.
    fn hold(&mut self, record: Record) -> (u32, Option<Record>) {
        let (namespace, service, _) = record.names();
        let set = self.service_entry(namespace, service);
        let emptied_at = set.is_empty().then(|| set.emptied_at());
        let moved = set.put(record.clone());
        self.follow_partitions(namespace, service, moved);
        if let Some(at) = emptied_at {
            self.emptied.remove(&(at, SmolStr::new(namespace), SmolStr::new(service)));
        }
        let fingerprint = record.fingerprint;
        if let Some(slot) = self.find(fingerprint, |held| held.names() == record.names()) {
            let before = self.slots[slot as usize].replace(record.clone());
            self.uses.follow(before.as_ref(), Some(&record));
            if let Some(before) = before.as_ref().filter(|before| place(before) != place(&record)) {
                self.urls.remove(slot, place(before), |slot| place_of(&self.slots, slot));
                self.urls.insert(slot, place(&record), |slot| place_of(&self.slots, slot));
            }
            return (slot, before);
        }
        self.uses.follow(None, Some(&record));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize] = Some(record.clone());
        self.urls.insert(slot, place(&record), |slot| place_of(&self.slots, slot));
        let slots = &self.slots;
        self.index.insert_unique(fingerprint.0, slot, |slot| fingerprint_of(slots, *slot));
        (slot, None)
    }

    /// Takes in what became of a service's partitions.
    fn follow_partitions(&mut self, namespace: &str, service: &str, moved: Vec<Moved>) {
        let Some(held) = self.namespaces.get_mut(namespace).filter(|_| !moved.is_empty()) else { return };
        let service = SmolStr::new(service);
        for moved in moved {
            self.partitions += u64::from(moved.before.is_none());
            self.partitions -= u64::from(moved.after.is_none());
            if held.follow(&service, &moved) {
                self.turned_keys.push((SmolStr::new(namespace), moved.key));
            }
        }
    }

    fn service_entry(&mut self, namespace: &str, service: &str) -> &mut ServiceSet {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.insert(SmolStr::new(namespace), Namespace::default());
        }
        let services = match self.namespaces.get_mut(namespace) {
            Some(held) => &mut held.services,
            None => unreachable!("it was inserted above"),
        };
        if !services.contains_key(service) {
            self.services += 1;
        }
        services.entry(SmolStr::new(service)).or_default()
    }
}

/// Where a record is reached: its namespace and url.
fn place(record: &Record) -> Place<'_> {
    (record.names().0, Outline::of(record.bytes()).url)
}

fn fingerprint_of(slots: &[Option<Record>], slot: u32) -> u64 {
    slots.get(slot as usize).and_then(Option::as_ref).map_or(0, |record| record.fingerprint.0)
}

fn place_of(slots: &[Option<Record>], slot: u32) -> Place<'_> {
    slots.get(slot as usize).and_then(Option::as_ref).map_or(("", ""), place)
}

#[cfg(test)]
mod tests;
