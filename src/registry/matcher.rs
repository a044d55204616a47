//! Whether a stored record is meant by a filter set: by its names and status alone where that is enough, decoded only
//! where it is not.

use super::{
    filter::{FilterSet, Scope},
    record::Record,
    snapshot::disjoint,
};

/// A filter set, prepared for judging many records.
#[derive(Debug)]
pub struct Matcher {
    set: FilterSet,
    scopes: Vec<Scope>,
    /// Scopes in which being routable is enough.
    plain: Vec<Scope>,
    /// Whether some filter looks at more than names and status.
    decodes: bool,
}

impl Matcher {
    /// Prepares `set`.
    #[must_use]
    pub fn new(set: FilterSet) -> Self {
        let scopes = disjoint(set.filters().iter().map(super::filter::Filter::scope).collect());
        let plain = set.filters().iter().filter(|filter| filter.is_plain()).map(super::filter::Filter::scope).collect();
        let decodes = set.filters().iter().any(|filter| !filter.is_plain());
        Self { set, scopes, plain, decodes }
    }

    /// Where matches can be: in order, none within another.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The filters.
    #[must_use]
    pub fn set(&self) -> &FilterSet {
        &self.set
    }

    /// Whether `record` is meant.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        let (namespace, service, _) = record.names();
        if record.is_routable() && self.plain.iter().any(|scope| scope.covers(namespace, service)) {
            return true;
        }
        self.decodes
            && self.scopes.iter().any(|scope| scope.covers(namespace, service))
            && self.set.matches(&record.instance())
    }
}
