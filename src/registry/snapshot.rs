//! A view of the committed state at one revision: taken in O(1), read at the reader's pace while the state moves on.

use std::ops::Bound;

use imbl::OrdMap;
use smol_str::SmolStr;

use super::{Registry, filter::Scope, key::Revision, namespace::Namespace, record::Record, service::ServiceSet};

#[derive(Clone, Debug)]
enum Part {
    All(OrdMap<SmolStr, Namespace>),
    Namespace(SmolStr, OrdMap<SmolStr, ServiceSet>),
    Service(ServiceSet),
}

/// The instances of some scopes as of one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    revision: Revision,
    parts: Vec<Part>,
    /// Services of whole namespaces whose names do not begin so are left out.
    prefix: SmolStr,
}

impl Registry {
    /// A snapshot of these scopes, which are in order and do not overlap (see `disjoint`).
    #[must_use]
    pub fn snapshot(&self, scopes: &[Scope]) -> Snapshot {
        let part = |scope: &Scope| match scope {
            Scope::All => Some(Part::All(self.namespaces().clone())),
            Scope::Namespace(name) => {
                let namespace = self.namespaces().get(name)?;
                Some(Part::Namespace(name.clone(), namespace.services.clone()))
            }
            Scope::Service(namespace, service) => self.service(namespace, service).cloned().map(Part::Service),
            // Filters are resolved before they are looked for, and none has a key.
            Scope::Frontend(..) | Scope::Key(..) => None,
        };
        let parts = scopes.iter().filter_map(part).collect();
        Snapshot { revision: self.revision(), parts, prefix: SmolStr::default() }
    }
}

/// The scopes in order, without those that another one contains.
#[must_use]
pub fn disjoint(mut scopes: Vec<Scope>) -> Vec<Scope> {
    scopes.sort();
    scopes.dedup();
    if scopes.contains(&Scope::All) {
        return vec![Scope::All];
    }
    let whole: Vec<Scope> = scopes.iter().filter(|scope| matches!(scope, Scope::Namespace(_))).cloned().collect();
    scopes.retain(|scope| match scope {
        Scope::Service(namespace, _) => !whole.contains(&Scope::Namespace(namespace.clone())),
        _ => true,
    });
    // In the order of what they contain, so that a reader sees keys in order.
    scopes.sort_by(|a, b| names_of(a).cmp(&names_of(b)));
    scopes
}

fn names_of(scope: &Scope) -> (&str, &str) {
    match scope {
        Scope::All => ("", ""),
        Scope::Namespace(namespace) => (namespace, ""),
        Scope::Service(namespace, name) | Scope::Frontend(namespace, name) | Scope::Key(namespace, name) => {
            (namespace, name)
        }
    }
}

impl Snapshot {
    /// The revision that it shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The same without the services of whole namespaces whose names do not begin so: they are not come by.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Reads it from the beginning.
    #[must_use]
    pub fn reader(self) -> SnapshotReader {
        SnapshotReader { snapshot: self, part: 0, service: None, page: 0, index: 0 }
    }

    /// Reads a snapshot of a single scope, or of services of one namespace, from the first key beyond this one, which need
    /// not be there.
    #[must_use]
    pub fn reader_after(mut self, namespace: &str, service: &str, id: &str) -> SnapshotReader {
        // Services that come before it, or are gone.
        let is_before = |part: &Part| match part {
            Part::Service(set) => set.at(0, 0).is_none_or(|record| record.names().1 < service),
            Part::All(_) | Part::Namespace(..) => false,
        };
        let before = self.parts.iter().take_while(|part| is_before(part)).count();
        self.parts.drain(..before);
        let set = match self.parts.first() {
            Some(Part::All(namespaces)) => namespaces.get(namespace).and_then(|held| held.services.get(service)),
            Some(Part::Namespace(_, services)) => services.get(service),
            Some(Part::Service(set)) if set.at(0, 0).is_some_and(|record| record.names().1 == service) => Some(set),
            // From the beginning of the next, or nothing.
            Some(Part::Service(_)) | None => return self.reader(),
        };
        let set = set.cloned().unwrap_or_default();
        let (page, index) = set.after(id);
        let here = (SmolStr::new(namespace), SmolStr::new(service));
        SnapshotReader { snapshot: self, part: 0, service: Some((here, set)), page, index }
    }
}

/// Reads a snapshot in order of (namespace, service, id).
#[derive(Debug)]
pub struct SnapshotReader {
    snapshot: Snapshot,
    part: usize,
    service: Option<((SmolStr, SmolStr), ServiceSet)>,
    page: usize,
    index: usize,
}

impl SnapshotReader {
    /// The revision that the snapshot shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// The next record; none at the end.
    pub fn next_record(&mut self) -> Option<Record> {
        loop {
            if let Some((_, set)) = &self.service {
                if let Some(record) = set.at(self.page, self.index) {
                    self.index += 1;
                    return Some(record.clone());
                }
                if self.page + 1 < set.pages() {
                    (self.page, self.index) = (self.page + 1, 0);
                    continue;
                }
            }
            let (at, set) = self.next_service()?;
            (self.service, self.page, self.index) = (Some((at, set)), 0, 0);
        }
    }

    /// The service after the one being read.
    fn next_service(&mut self) -> Option<((SmolStr, SmolStr), ServiceSet)> {
        loop {
            let last = self.service.take().map(|(at, _)| at);
            let prefix = &self.snapshot.prefix;
            let next = match self.snapshot.parts.get(self.part)? {
                Part::Service(set) => match last {
                    Some(_) => None,
                    None => set.at(0, 0).map(|record| {
                        let (namespace, service, _) = record.names();
                        ((SmolStr::new(namespace), SmolStr::new(service)), set.clone())
                    }),
                },
                Part::Namespace(namespace, services) => following(services, last.map(|(_, service)| service), prefix)
                    .map(|(service, set)| ((namespace.clone(), service), set)),
                Part::All(namespaces) => next_in_all(namespaces, last, prefix),
            };
            if let Some((at, set)) = next {
                self.service = Some((at.clone(), set.clone()));
                return Some((at, set));
            }
            self.part += 1;
        }
    }
}

/// The entry after `last`, or the first, of those that begin with `prefix`.
fn following<V: Clone>(map: &OrdMap<SmolStr, V>, last: Option<SmolStr>, prefix: &SmolStr) -> Option<(SmolStr, V)> {
    let from = match &last {
        None => Bound::Included(prefix),
        Some(last) => Bound::Excluded(last),
    };
    let entry = map.range::<_, SmolStr>((from, Bound::Unbounded)).next();
    entry.filter(|(key, _)| key.starts_with(prefix.as_str())).map(|(key, value)| (key.clone(), value.clone()))
}

fn next_in_all(
    namespaces: &OrdMap<SmolStr, Namespace>,
    last: Option<(SmolStr, SmolStr)>,
    prefix: &SmolStr,
) -> Option<((SmolStr, SmolStr), ServiceSet)> {
    let (mut namespace, mut service) =
        last.map_or((None, None), |(namespace, service)| (Some(namespace), Some(service)));
    loop {
        if let Some(name) = &namespace
            && let Some(held) = namespaces.get(name)
            && let Some((next, set)) = following(&held.services, service.take(), prefix)
        {
            return Some(((name.clone(), next), set));
        }
        namespace = Some(following(namespaces, namespace, &SmolStr::default())?.0);
        service = None;
    }
}
