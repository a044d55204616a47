//! What is declared and what is online, joined: how an application of the catalog stands. Changes nothing.

use std::{collections::HashSet, sync::Arc};

use imbl::OrdMap;
use smol_str::SmolStr;

use super::{Application, ApplicationQuery, Book, Entry, Place, Sort, SortKey, query::in_order};
use crate::registry::{Record, ServiceSet};

/// Most instances that a standing names for being elsewhere.
const ELSEWHERE_MAX: usize = 10;

/// How an application stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Instances are routable, each on a port of the application.
    Online,
    /// No instance is routable.
    Missing,
    /// Instances are routable, some of them on no port of the application.
    UnexpectedPort,
}

/// An application with what is online of it.
#[derive(Clone, Debug)]
pub struct Stood {
    /// As declared.
    pub entry: Arc<Entry<Application>>,
    /// How it stands.
    pub standing: Standing,
    /// How many instances are routable.
    pub instances: u64,
    /// How many of them are on each of its ports, in their order.
    pub by_port: Vec<u64>,
    /// Those that are on none, the first of them by id.
    pub elsewhere: Vec<Record>,
    /// How many are on none.
    pub elsewhere_count: u64,
    /// Those that it needs and that have no routable instance.
    pub missing: Vec<SmolStr>,
}

/// How many applications stand in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub total: u64,
    /// `Online`.
    pub online: u64,
    /// `Missing`.
    pub missing: u64,
    /// `UnexpectedPort`.
    pub unexpected: u64,
}

impl Tally {
    /// Counts one more.
    pub fn count(&mut self, standing: Standing) {
        self.total += 1;
        *match standing {
            Standing::Online => &mut self.online,
            Standing::Missing => &mut self.missing,
            Standing::UnexpectedPort => &mut self.unexpected,
        } += 1;
    }
}

/// A look at how an application stands, in turns: a service may have more instances than one turn has time for.
#[derive(Debug)]
pub struct Look<'a> {
    stood: Stood,
    set: Option<&'a ServiceSet>,
    page: usize,
    index: usize,
}

impl<'a> Look<'a> {
    /// A look at an application when these services are online.
    #[must_use]
    pub fn at(entry: &Arc<Entry<Application>>, services: &'a OrdMap<SmolStr, ServiceSet>) -> Self {
        let application = &entry.value;
        let routable = |id: &SmolStr| services.get(id).filter(|set| set.routable() > 0);
        let missing = application.dependencies.iter().filter(|id| routable(id).is_none()).cloned().collect();
        let stood = Stood {
            entry: Arc::clone(entry),
            standing: Standing::Missing,
            instances: 0,
            by_port: vec![0; application.ports.len()],
            elsewhere: Vec::new(),
            elsewhere_count: 0,
            missing,
        };
        Self { stood, set: routable(&application.id), page: 0, index: 0 }
    }

    /// Looks at up to so many instances more. Says how many it were; fewer: that was all.
    pub fn on(&mut self, most: usize) -> usize {
        let mut seen = 0;
        while let Some(set) = self.set.filter(|_| seen < most) {
            let Some(record) = set.at(self.page, self.index) else {
                (self.page, self.index) = (self.page + 1, 0);
                if self.page >= set.pages() {
                    break;
                }
                continue;
            };
            self.index += 1;
            seen += 1;
            if record.is_routable() {
                self.stood.count(record);
            }
        }
        seen
    }

    /// What it has come to.
    #[must_use]
    pub fn end(self) -> Stood {
        self.stood
    }
}

impl Stood {
    fn count(&mut self, record: &Record) {
        self.instances += 1;
        let instance = record.instance();
        let named: HashSet<u32> = instance.ports.values().copied().chain([instance.port]).collect();
        let mut expected = false;
        for (port, count) in self.entry.value.ports.iter().zip(&mut self.by_port) {
            // Behind its host's port, or inside its container.
            let own = [u32::from(port.external), u32::from(port.internal)];
            expected |= own.contains(&instance.port);
            *count += u64::from(own.iter().any(|port| named.contains(port)));
        }
        if !expected {
            self.elsewhere_count += 1;
            if self.elsewhere.len() < ELSEWHERE_MAX {
                self.elsewhere.push(record.clone());
            }
        }
        self.standing = if self.elsewhere_count > 0 { Standing::UnexpectedPort } else { Standing::Online };
    }
}

/// The applications of a book that are asked for, by id, from behind a place on.
pub fn asked<'a>(
    book: &'a Book,
    query: &'a ApplicationQuery,
    after: Option<&Place>,
) -> impl Iterator<Item = &'a Arc<Entry<Application>>> + Send + 'a {
    let namespace = SmolStr::default();
    let sort = Sort { key: SortKey::Id, descending: false };
    let walk = match query.few(book) {
        Some(few) => in_order(few, sort, &namespace, after),
        None => book.shelf().walk(sort, &namespace, after),
    };
    walk.filter(|entry| query.matches(&entry.value))
}
