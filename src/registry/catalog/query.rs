//! Lists of the catalog: filters, order and pages. Changes nothing.

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use smol_str::SmolStr;

use super::{Application, Book, Entry, PortRules, Recorded, ServiceType, Version};

/// By what a list is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortKey {
    /// Age: the oldest first.
    #[default]
    Age,
    /// Id.
    Id,
    /// An application's lowest external port, a service type's default port; without one, last.
    Port,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub key: SortKey,
    /// The other way round.
    pub descending: bool,
}

impl Default for Sort {
    /// The newest first.
    fn default() -> Self {
        Self { key: SortKey::Age, descending: true }
    }
}

impl Sort {
    /// `created_at`, `id` or `port`, with `-` before it for the other way round; nothing: the newest first.
    ///
    /// # Errors
    /// What it has to be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        let key = match name {
            "created_at" => SortKey::Age,
            "id" => SortKey::Id,
            "port" => SortKey::Port,
            "" if !descending => return Ok(Self::default()),
            _ => return Err("must be created_at, id or port, with or without - before it".to_owned()),
        };
        Ok(Self { key, descending })
    }

    fn apply(self, order: Ordering) -> Ordering {
        if self.descending { order.reverse() } else { order }
    }
}

/// Which part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many.
    pub limit: usize,
    /// Without so many before them.
    pub offset: usize,
}

impl Page {
    fn of<T>(self, all: Vec<T>) -> Paged<T> {
        let total = all.len();
        Paged { found: all.into_iter().skip(self.offset).take(self.limit).collect(), total }
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Paged<T> {
    /// In order.
    pub found: Vec<T>,
    /// How many there are in all.
    pub total: usize,
}

/// An entry with its namespace.
pub type Of<T> = (SmolStr, Arc<Entry<T>>);

/// Which applications; an empty filter is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplicationQuery {
    /// With one of these ids.
    pub ids: HashSet<SmolStr>,
    /// With one of these external ports.
    pub ports: HashSet<u32>,
    /// With a port of one of these service types.
    pub services: HashSet<SmolStr>,
    /// Called so, or so followed by `-` and more.
    pub prefix: String,
    /// With this in its id. Ids are in lower case, and so has this to be.
    pub text: String,
}

impl ApplicationQuery {
    pub(super) fn matches(&self, application: &Application) -> bool {
        let id = application.id.as_str();
        let in_family = |rest: &str| rest.is_empty() || rest.starts_with('-');
        (self.ids.is_empty() || self.ids.contains(id))
            && (self.prefix.is_empty() || id.strip_prefix(self.prefix.as_str()).is_some_and(in_family))
            && (self.text.is_empty() || id.contains(self.text.as_str()))
            && (self.ports.is_empty()
                || application.ports.iter().any(|port| self.ports.contains(&u32::from(port.external))))
            && (self.services.is_empty() || application.ports.iter().any(|port| self.services.contains(&port.service)))
    }
}

/// The applications of some books.
pub fn applications<'a>(
    books: impl IntoIterator<Item = (&'a SmolStr, &'a Book)>,
    query: &ApplicationQuery,
    sort: Sort,
    page: Page,
) -> Paged<Of<Application>> {
    let mut found: Vec<Of<Application>> = Vec::new();
    for (namespace, book) in books {
        let matching = book.applications().values().filter(|entry| query.matches(&entry.value));
        found.extend(matching.map(|entry| (namespace.clone(), Arc::clone(entry))));
    }
    let lowest = |entry: &Entry<Application>| {
        entry.value.ports.iter().map(|port| u32::from(port.external)).min().unwrap_or(u32::MAX)
    };
    order(&mut found, sort, |entry| lowest(entry), |entry| entry.value.id.as_str());
    page.of(found)
}

/// The service types of a book.
#[must_use]
pub fn service_types(
    namespace: &SmolStr,
    book: &Book,
    ids: &HashSet<SmolStr>,
    sort: Sort,
    page: Page,
) -> Paged<Of<ServiceType>> {
    let matching = book.types().values().filter(|entry| ids.is_empty() || ids.contains(&entry.value.id));
    let mut found: Vec<Of<ServiceType>> = matching.map(|entry| (namespace.clone(), Arc::clone(entry))).collect();
    order(&mut found, sort, |entry| entry.value.default_port.into(), |entry| entry.value.id.as_str());
    page.of(found)
}

fn order<T>(found: &mut [Of<T>], sort: Sort, port: impl Fn(&Entry<T>) -> u32, id: impl Fn(&Entry<T>) -> &str) {
    // Numbers are of a namespace: between two of them the clock has to do.
    let age = |(namespace, entry): &Of<T>| {
        (entry.created_at.seconds, entry.created_at.nanos, namespace.clone(), entry.number)
    };
    let same = |one: &Of<T>, other: &Of<T>| (&one.0, id(&one.1)).cmp(&(&other.0, id(&other.1)));
    found.sort_by(|one, other| {
        let by_key = match sort.key {
            SortKey::Age if one.0 == other.0 => one.1.number.cmp(&other.1.number),
            SortKey::Age => age(one).cmp(&age(other)),
            SortKey::Id => id(&one.1).cmp(id(&other.1)),
            SortKey::Port => port(&one.1).cmp(&port(&other.1)),
        };
        sort.apply(by_key).then_with(|| same(one, other))
    });
}

/// Which versions; an empty filter is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionQuery {
    /// With one of these numbers.
    pub numbers: HashSet<u64>,
    /// Of an entry with one of these ids.
    pub entries: HashSet<SmolStr>,
    /// Of applications: true; of service types: false.
    pub of_applications: Option<bool>,
    /// The newest first.
    pub descending: bool,
}

/// The versions of a book.
#[must_use]
pub fn versions(book: &Book, query: &VersionQuery, page: Page) -> Paged<Arc<Version>> {
    let matches = |version: &&Arc<Version>| {
        let of_applications = matches!(version.value, Recorded::Application(_));
        (query.numbers.is_empty() || query.numbers.contains(&version.number))
            && (query.entries.is_empty() || query.entries.contains(version.value.id()))
            && query.of_applications.is_none_or(|wanted| wanted == of_applications)
    };
    let mut found: Vec<Arc<Version>> = book.versions().values().filter(matches).cloned().collect();
    if query.descending {
        found.reverse();
    }
    page.of(found)
}

/// A block with ports in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its first port.
    pub first: u16,
    /// Its last port.
    pub last: u16,
    /// The ports in use, with their applications.
    pub used: Vec<(u16, SmolStr)>,
    /// The ports that are free and may be given out.
    pub free: Vec<u16>,
}

/// The blocks that have a port in use among these.
#[must_use]
pub fn blocks(book: &Book, rules: &PortRules, first: u16, last: u16) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (port, owner) in book.catalog().ports().within(first, last) {
        let block = rules.block_of(port);
        if blocks.last().is_none_or(|last| last.first != block) {
            let end = block.saturating_add(rules.block_size - 1);
            let (owners, allowed) = (book.catalog().ports(), rules.allows_block(block));
            let is_free = |port: &u16| {
                allowed && *port <= rules.ceiling && !rules.denied_ports.contains(port) && owners.owner(*port).is_none()
            };
            blocks.push(Block {
                first: block,
                last: end,
                used: Vec::new(),
                free: (block..=end).filter(is_free).collect(),
            });
        }
        if let Some(block) = blocks.last_mut() {
            block.used.push((port, owner.clone()));
        }
    }
    blocks
}
