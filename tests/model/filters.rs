//! Filters as a request words them, and what they mean, spelled out by hand for the few values that histories have.

use std::collections::BTreeMap;

use onair::registry::{Cause, EventType, Filter, FilterSet, Instance, Key, Status};
use proptest::{collection::vec, prelude::*};

use super::{
    naive::{Crossing, Held, Live},
    ops::{NAMESPACES, SERVICES},
};

/// Range and the versions of `ops::VERSIONS` that are in it: none of what is no semantic version, no pre-release
/// unless the range names one.
const RANGES: [(&str, &[&str]); 7] = [
    ("1.0.0", &["1.0.0"]),
    ("blue", &["blue"]),
    ("^1.0", &["1.0.0", "1.2.3"]),
    (">=1.2 <3", &["1.2.3", "2.0.0"]),
    ("2.0.0-rc.1 || 1.0.0", &["2.0.0-rc.1", "1.0.0"]),
    (">=2.0.0-rc.0", &["2.0.0-rc.1", "2.0.0"]),
    ("*", &["1.0.0", "1.2.3", "2.0.0"]),
];

type Term = (&'static str, fn(&Instance) -> bool);

/// Terms of selectors and what they mean; those with `status` show all statuses.
const TERMS: [Term; 14] = [
    ("zone=eu", |instance| instance.zone == "eu"),
    ("zone!=eu", |instance| instance.zone != "eu"),
    ("zone in (eu, us)", |instance| !instance.zone.is_empty()),
    ("zone notin (us)", |instance| instance.zone != "us"),
    ("!zone", |instance| instance.zone.is_empty()),
    ("id=10", |instance| instance.id == "10"),
    ("version=^1.0", |instance| ["1.0.0", "1.2.3"].contains(&instance.version.as_str())),
    ("weight=1", |instance| instance.weight.unwrap_or(1) == 1),
    ("metadata.tier=gold", |instance| instance.weight.is_none_or(|weight| weight % 2 == 1)),
    ("metadata.tier", |_| true),
    ("status=*", |_| true),
    ("status=draining", |instance| instance.status() == Status::Draining),
    ("status!=draining", |instance| instance.status() != Status::Draining),
    ("status in (starting,serving)", |instance| [Status::Starting, Status::Serving].contains(&instance.status())),
];

/// One selector.
#[derive(Clone, Debug)]
pub struct Narrow {
    /// None: all of them.
    namespace: Option<u8>,
    /// None: all of them.
    service: Option<u8>,
    /// None: all of them.
    range: Option<u8>,
    terms: Vec<u8>,
}

impl Narrow {
    pub fn filter(&self) -> Filter {
        let namespace = self.namespace.map_or("*", |namespace| NAMESPACES[usize::from(namespace)]);
        let service = self.service.map_or("", |service| SERVICES[usize::from(service)]);
        let range = self.range.map_or("", |range| RANGES[usize::from(range)].0);
        let terms: Vec<_> = self.terms.iter().map(|term| TERMS[usize::from(*term)].0).collect();
        // The default namespace may be left out.
        let namespace = if namespace == "default" && self.terms.is_empty() { "" } else { namespace };
        Filter::new(namespace, service, range, &terms.join(",")).expect("nothing is wrong with it")
    }

    fn means(&self, instance: &Instance) -> bool {
        let terms = || self.terms.iter().map(|term| TERMS[usize::from(*term)]);
        let all_statuses = terms().any(|(text, _)| text.starts_with("status"));
        self.namespace.is_none_or(|namespace| instance.namespace == NAMESPACES[usize::from(namespace)])
            && self.service.is_none_or(|service| instance.service == SERVICES[usize::from(service)])
            && self.range.is_none_or(|range| RANGES[usize::from(range)].1.contains(&instance.version.as_str()))
            && (all_statuses || [Status::Serving, Status::Suspect].contains(&instance.status()))
            && terms().all(|(_, means)| means(instance))
    }
}

/// An event as a watch is told of it.
pub type Told = (EventType, Cause, Instance);

/// The selectors of one watch.
#[derive(Clone, Debug)]
pub struct Union(pub Vec<Narrow>);

impl Union {
    pub fn set(&self) -> FilterSet {
        FilterSet::new(self.0.iter().map(Narrow::filter)).with_summaries(true)
    }

    /// Whether any of them means it; without any: every service of `default`.
    pub fn means(&self, instance: &Instance) -> bool {
        let plain = Narrow { namespace: Some(0), service: None, range: None, terms: vec![] };
        if self.0.is_empty() { plain.means(instance) } else { self.0.iter().any(|narrow| narrow.means(instance)) }
    }

    /// What Lookup ALL gives.
    pub fn lookup(&self, live: &Live) -> BTreeMap<Key, Instance> {
        let instances = live.iter().map(|(key, held)| (key.clone(), held.instance.clone()));
        instances.filter(|(_, instance)| self.means(instance)).collect()
    }

    /// Promise 10.
    pub fn told(&self, crossing: &Crossing) -> Vec<Told> {
        let Crossing { before, after, cause } = crossing;
        let matched = |held: &Option<Held>| held.as_ref().is_some_and(|held| self.means(&held.instance));
        let (was, is) = (matched(before), matched(after));
        let mut told = Vec::new();
        match (before, after) {
            (Some(old), Some(new)) if old.instance.incarnation != new.instance.incarnation => {
                if was {
                    told.push((EventType::Offline, Cause::Replaced, old.instance.clone()));
                }
                if is {
                    told.push((EventType::Online, Cause::Registered, new.instance.clone()));
                }
            }
            (Some(_), Some(new)) => {
                let kind = match (was, is, new.instance.status()) {
                    (false, true, _) => Some((EventType::Online, Cause::Matched)),
                    (true, true, _) => Some((EventType::Updated, Cause::Unspecified)),
                    (true, false, Status::Draining) => Some((EventType::Offline, Cause::Draining)),
                    (true, false, Status::Maintenance) => Some((EventType::Offline, Cause::Maintenance)),
                    (true, false, _) => Some((EventType::Offline, Cause::Filtered)),
                    (false, false, _) => None,
                };
                told.extend(kind.map(|(kind, cause)| (kind, cause, new.instance.clone())));
            }
            (None, Some(new)) if is => told.push((EventType::Online, Cause::Registered, new.instance.clone())),
            (Some(old), None) if was => told.push((EventType::Offline, *cause, old.instance.clone())),
            _ => {}
        }
        told
    }
}

fn narrow() -> impl Strategy<Value = Narrow> {
    let namespace = prop_oneof![3 => Just(Some(0)), 1 => (1..3_u8).prop_map(Some), 1 => Just(None)];
    let service = prop_oneof![2 => Just(None), 3 => (0..2_u8).prop_map(Some), 1 => (2..4_u8).prop_map(Some)];
    let range = prop_oneof![3 => Just(None), 1 => (0..7_u8).prop_map(Some)];
    let terms = prop_oneof![2 => Just(vec![]), 3 => vec(0..14_u8, 1..3)];
    (namespace, service, range, terms).prop_map(|(namespace, service, range, terms)| Narrow {
        namespace,
        service,
        range,
        terms,
    })
}

pub fn union() -> impl Strategy<Value = Union> {
    vec(narrow(), 0..4).prop_map(Union)
}
