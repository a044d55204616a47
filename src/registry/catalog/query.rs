//! Lists of the catalog: filters, order and pages. Changes nothing.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use smol_str::SmolStr;

use super::{
    Application, Book, Entry, Page, Paging, Place, PortRules, Recorded, ServiceType, Shelf, Shelved, Shown, Version,
    list::Merged, shelf::Walk,
};

/// A family of more than so many is not looked for by name.
const FAMILY_MAX: usize = 1_000;

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
}

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

impl ApplicationQuery {
    fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// The few that it can be about; none: it may be about any.
    pub(super) fn few<'a>(&self, book: &'a Book) -> Option<Vec<&'a Arc<Entry<Application>>>> {
        let all = book.applications();
        if !self.ids.is_empty() {
            return Some(self.ids.iter().filter_map(|id| all.get(id)).collect());
        }
        if !self.ports.is_empty() {
            let ports = self.ports.iter().filter_map(|port| u16::try_from(*port).ok());
            let owners = ports.filter_map(|port| book.catalog().ports().owner(port));
            // One may have many of the ports.
            let owners: BTreeMap<&SmolStr, _> = owners.filter_map(|id| Some((id, all.get(id)?))).collect();
            return Some(owners.into_values().collect());
        }
        if self.prefix.is_empty() {
            return None;
        }
        // `.` is what follows `-`.
        let (first, end) = (SmolStr::from(format!("{}-", self.prefix)), SmolStr::from(format!("{}.", self.prefix)));
        let named_so = all.range((Bound::Included(first), Bound::Excluded(end))).map(|(_, entry)| entry);
        let family: Vec<_> = all.get(self.prefix.as_str()).into_iter().chain(named_so).take(FAMILY_MAX + 1).collect();
        (family.len() <= FAMILY_MAX).then_some(family)
    }
}

/// A list of applications: the books, which of theirs, in which order, and which part, from behind a place on.
pub fn applications<'a>(
    books: impl IntoIterator<Item = (&'a SmolStr, &'a Book)>,
    query: &'a ApplicationQuery,
    sort: Sort,
    page: Page,
    after: Option<&Place>,
) -> Paging<'a, Shown<'a, Application>> {
    let (mut all, mut walks) = (0, Vec::new());
    for (namespace, book) in books {
        all += book.applications().len() as u64;
        let walk = match query.few(book) {
            Some(few) => in_order(few, sort, namespace, after),
            None => book.shelf().walk(sort, namespace, after),
        };
        walks.push((namespace, walk));
    }
    let total = total(query.is_any(), all, after.is_some());
    let matches = Box::new(|shown: &Shown<'a, Application>| query.matches(&shown.entry.value));
    Paging::new(Merged::new(sort, walks), matches, Shown::size, page, total)
}

/// A list of the service types of a book.
pub fn service_types<'a>(
    namespace: &'a SmolStr,
    book: &'a Book,
    ids: &HashSet<SmolStr>,
    sort: Sort,
    page: Page,
    after: Option<&Place>,
) -> Paging<'a, Shown<'a, ServiceType>> {
    let walk = if ids.is_empty() {
        book.shelf_of_types().walk(sort, namespace, after)
    } else {
        in_order(ids.iter().filter_map(|id| book.types().get(id)).collect(), sort, namespace, after)
    };
    let total = total(ids.is_empty(), book.types().len() as u64, after.is_some());
    Paging::new(Merged::new(sort, [(namespace, walk)]), Box::new(|_| true), Shown::size, page, total)
}

/// How many there are, if that is known before they are looked at; who goes on is not told again.
fn total(is_any: bool, all: u64, goes_on: bool) -> Option<u64> {
    if goes_on { Some(0) } else { is_any.then_some(all) }
}

/// A few entries of a namespace in this order, from behind a place on.
pub(super) fn in_order<'a, T: Shelved>(
    few: Vec<&'a Arc<Entry<T>>>,
    sort: Sort,
    namespace: &SmolStr,
    after: Option<&Place>,
) -> Walk<'a, T> {
    let places = few.into_iter().map(|entry| (Shelf::place(sort.key, namespace, entry), entry));
    let is_behind =
        |place: &Place| after.is_none_or(|after| if sort.descending { place < after } else { place > after });
    let mut few: Vec<_> = places.filter(|(place, _)| is_behind(place)).collect();
    few.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    if sort.descending {
        few.reverse();
    }
    Box::new(few.into_iter().map(|(_, entry)| entry))
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

/// A list of the versions of a book, from behind a number on.
pub fn versions<'a>(
    book: &'a Book,
    query: &'a VersionQuery,
    page: Page,
    after: Option<u64>,
) -> Paging<'a, &'a Arc<Version>> {
    let all = book.versions();
    let (behind, descending) = (after.map_or(Bound::Unbounded, Bound::Excluded), query.descending);
    let rest: Box<dyn Iterator<Item = &'a Arc<Version>> + Send + 'a> = if !query.numbers.is_empty() {
        let is_behind =
            |number: &&u64| after.is_none_or(|after| if descending { **number < after } else { **number > after });
        let mut few: Vec<_> = query.numbers.iter().filter(is_behind).filter_map(|number| all.get(number)).collect();
        few.sort_unstable_by_key(|version| version.number);
        if descending {
            few.reverse();
        }
        Box::new(few.into_iter())
    } else if descending {
        Box::new(all.range((Bound::Unbounded, behind)).rev().map(|(_, version)| version))
    } else {
        Box::new(all.range((behind, Bound::Unbounded)).map(|(_, version)| version))
    };
    let matches = |version: &&Arc<Version>| {
        let of_applications = matches!(version.value, Recorded::Application(_));
        (query.entries.is_empty() || query.entries.contains(version.value.id()))
            && query.of_applications.is_none_or(|wanted| wanted == of_applications)
    };
    let is_any = query.numbers.is_empty() && query.entries.is_empty() && query.of_applications.is_none();
    let total = total(is_any, all.len() as u64, after.is_some());
    Paging::new(rest, Box::new(matches), |version| version.size(), page, total)
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

/// A page of blocks ends when what is told of them is larger than this.
const BLOCKS_BYTES: usize = 1024 * 1024;
/// About how much is told of a port, beside whose it is.
const PORT_BYTES: usize = 24;

/// The blocks that have a port in use, from the block of `first` to that of `last`, each whole; and the first port of the
/// next, if it is on another page.
#[must_use]
pub fn blocks(book: &Book, rules: &PortRules, first: u16, last: u16) -> (Vec<Block>, Option<u16>) {
    let end_of = |block: u16| block.saturating_add(rules.block_size - 1);
    let owners = book.catalog().ports();
    let (mut blocks, mut bytes): (Vec<Block>, usize) = (Vec::new(), 0);
    for (port, owner) in owners.within(rules.block_of(first), end_of(rules.block_of(last))) {
        let block = rules.block_of(port);
        if blocks.last().is_none_or(|last| last.first != block) {
            if bytes > BLOCKS_BYTES {
                return (blocks, Some(block));
            }
            let allowed = rules.allows_block(block);
            let is_free = |port: &u16| {
                allowed && *port <= rules.ceiling && !rules.denied_ports.contains(port) && owners.owner(*port).is_none()
            };
            let last = end_of(block);
            blocks.push(Block { first: block, last, used: Vec::new(), free: (block..=last).filter(is_free).collect() });
        }
        if let Some(block) = blocks.last_mut() {
            bytes += PORT_BYTES + owner.len();
            block.used.push((port, owner.clone()));
        }
    }
    (blocks, None)
}
