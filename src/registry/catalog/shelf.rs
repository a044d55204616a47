//! Entries of one kind in every order that lists have, so that a page costs what it shows. Knows no filters.

use std::{ops::Bound, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use imbl::OrdMap;
use smol_str::SmolStr;

use super::{Application, Entry, ServiceType, Sort, SortKey};

/// How old an entry is: older ones come first. The number decides among those of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    seconds: i64,
    nanos: i32,
    number: u64,
}

/// Where an entry stands in a list, also when it is gone from there: the last part tells those of namespaces apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// By age.
    Age(Age, SmolStr),
    /// By id.
    Id(SmolStr, SmolStr),
    /// By port and id.
    Port(u32, SmolStr, SmolStr),
}

impl Place {
    fn namespace(&self) -> &SmolStr {
        match self {
            Self::Age(_, namespace) | Self::Id(_, namespace) | Self::Port(_, _, namespace) => namespace,
        }
    }

    /// As a page token of a list in this order.
    #[must_use]
    pub fn token(&self, sort: Sort) -> String {
        let way = if sort.descending { '-' } else { '+' };
        let text = match self {
            Self::Age(Age { seconds, nanos, number }, namespace) => {
                format!("{way}a\0{seconds}\0{nanos}\0{number}\0{namespace}")
            }
            Self::Id(id, namespace) => format!("{way}i\0{id}\0{namespace}"),
            Self::Port(port, id, namespace) => format!("{way}p\0{port}\0{id}\0{namespace}"),
        };
        URL_SAFE_NO_PAD.encode(text)
    }

    /// The place that a page token of a list in this order is; none if it is no such one.
    #[must_use]
    pub fn of(token: &str, sort: Sort) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let parts: Vec<&str> = text.split('\0').collect();
        let (way, key) = parts.first()?.split_at_checked(1)?;
        if (way == "-") != sort.descending || !matches!(way, "-" | "+") {
            return None;
        }
        match (sort.key, key, &parts[1..]) {
            (SortKey::Age, "a", [seconds, nanos, number, namespace]) => {
                let (seconds, nanos, number) = (seconds.parse().ok()?, nanos.parse().ok()?, number.parse().ok()?);
                Some(Self::Age(Age { seconds, nanos, number }, SmolStr::new(namespace)))
            }
            (SortKey::Id, "i", [id, namespace]) => Some(Self::Id(SmolStr::new(id), SmolStr::new(namespace))),
            (SortKey::Port, "p", [port, id, namespace]) => {
                Some(Self::Port(port.parse().ok()?, SmolStr::new(id), SmolStr::new(namespace)))
            }
            _ => None,
        }
    }
}

/// What can stand on a shelf.
pub trait Shelved: Send + Sync + 'static {
    /// Its id.
    fn id(&self) -> &SmolStr;

    /// The port that it is ordered by; without one it comes last.
    fn port(&self) -> u32;
}

impl Shelved for Application {
    fn id(&self) -> &SmolStr {
        &self.id
    }

    fn port(&self) -> u32 {
        self.ports.iter().map(|port| u32::from(port.external)).min().unwrap_or(u32::MAX)
    }
}

impl Shelved for ServiceType {
    fn id(&self) -> &SmolStr {
        &self.id
    }

    fn port(&self) -> u32 {
        self.default_port.into()
    }
}

/// Entries in an order.
pub type Walk<'a, T> = Box<dyn Iterator<Item = &'a Arc<Entry<T>>> + Send + 'a>;

/// Entries of one kind. Cloning is O(1).
#[derive(Clone, Debug)]
pub struct Shelf<T> {
    ids: OrdMap<SmolStr, Arc<Entry<T>>>,
    ages: OrdMap<Age, Arc<Entry<T>>>,
    ports: OrdMap<(u32, SmolStr), Arc<Entry<T>>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { ids: OrdMap::new(), ages: OrdMap::new(), ports: OrdMap::new() }
    }
}

fn age<T>(entry: &Entry<T>) -> Age {
    Age { seconds: entry.created_at.seconds, nanos: entry.created_at.nanos, number: entry.number }
}

impl<T: Shelved> Shelf<T> {
    /// By id.
    #[must_use]
    pub fn ids(&self) -> &OrdMap<SmolStr, Arc<Entry<T>>> {
        &self.ids
    }

    /// Takes an entry in, in place of the one of its id.
    pub(super) fn put(&mut self, entry: Entry<T>) {
        let (id, entry) = (entry.value.id().clone(), Arc::new(entry));
        let (now_age, now_port) = (age(&entry), entry.value.port());
        if let Some(before) = self.ids.insert(id.clone(), Arc::clone(&entry)) {
            self.forget(&before, Some(now_age), Some(now_port));
        }
        self.ages.insert(now_age, Arc::clone(&entry));
        self.ports.insert((now_port, id), entry);
    }

    /// Takes the entry of this id away.
    pub(super) fn remove(&mut self, id: &str) {
        if let Some(before) = self.ids.remove(id) {
            self.forget(&before, None, None);
        }
    }

    /// It stands at its places no longer, but for those where it is to stand now.
    fn forget(&mut self, entry: &Entry<T>, age_now: Option<Age>, port_now: Option<u32>) {
        let (age, port) = (age(entry), entry.value.port());
        if age_now != Some(age) {
            self.ages.remove(&age);
        }
        if port_now != Some(port) {
            self.ports.remove(&(port, entry.value.id().clone()));
        }
    }

    /// Where an entry of a namespace stands.
    #[must_use]
    pub fn place(key: SortKey, namespace: &SmolStr, entry: &Entry<T>) -> Place {
        let (id, namespace) = (entry.value.id(), namespace.clone());
        match key {
            SortKey::Age => Place::Age(age(entry), namespace),
            SortKey::Id => Place::Id(id.clone(), namespace),
            SortKey::Port => Place::Port(entry.value.port(), id.clone(), namespace),
        }
    }

    /// All of them in this order, from behind a place on. They are of this namespace.
    pub(super) fn walk(&self, sort: Sort, namespace: &SmolStr, after: Option<&Place>) -> Walk<'_, T> {
        // At a place of another namespace the same key of this one may come after it.
        let is_beyond = |place: &Place| match sort.descending {
            true => namespace < place.namespace(),
            false => namespace > place.namespace(),
        };
        let way = (sort.descending, after.is_some_and(is_beyond));
        match (sort.key, after) {
            (SortKey::Age, None) => walked(&self.ages, None, way),
            (SortKey::Age, Some(Place::Age(age, _))) => walked(&self.ages, Some(*age), way),
            (SortKey::Id, None) => walked(&self.ids, None, way),
            (SortKey::Id, Some(Place::Id(id, _))) => walked(&self.ids, Some(id.clone()), way),
            (SortKey::Port, None) => walked(&self.ports, None, way),
            (SortKey::Port, Some(Place::Port(port, id, _))) => walked(&self.ports, Some((*port, id.clone())), way),
            // A place of another order.
            (SortKey::Age | SortKey::Id | SortKey::Port, Some(_)) => Box::new(std::iter::empty()),
        }
    }
}

fn walked<K: Ord + Send + Sync, T: Send + Sync>(
    map: &OrdMap<K, Arc<Entry<T>>>,
    after: Option<K>,
    (descending, inclusive): (bool, bool),
) -> Walk<'_, T> {
    let bound = match (after, inclusive) {
        (None, _) => Bound::Unbounded,
        (Some(key), true) => Bound::Included(key),
        (Some(key), false) => Bound::Excluded(key),
    };
    if descending {
        Box::new(map.range::<_, K>((Bound::Unbounded, bound)).rev().map(|(_, entry)| entry))
    } else {
        Box::new(map.range::<_, K>((bound, Bound::Unbounded)).map(|(_, entry)| entry))
    }
}
