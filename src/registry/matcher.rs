//! Whether a stored record is meant by a filter set: by its names and status alone where that is enough, decoded only
//! where it is not.

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    deployment::Frontend,
    filter::{Filter, FilterSet, Scope},
    record::Record,
    snapshot::disjoint,
};

/// What both begin with.
fn common<'a>(one: &'a str, other: &'a str) -> &'a str {
    let same = one.char_indices().zip(other.chars()).find(|((_, one), other)| one != other);
    let end = same.map_or(one.len().min(other.len()), |((at, _), _)| at);
    &one[..end]
}

/// A filter set, prepared for judging many records.
#[derive(Debug)]
pub struct Matcher {
    set: FilterSet,
    scopes: Box<[Scope]>,
    frontends: Box<[(SmolStr, SmolStr)]>,
    /// With what the name of every service that is meant begins.
    prefix: SmolStr,
}

impl Matcher {
    /// Prepares `set`.
    #[must_use]
    pub fn new(set: FilterSet) -> Self {
        let scopes = disjoint(set.filters().iter().map(Filter::scope).collect()).into();
        let frontends = set.frontends().into();
        let prefix = set.filters().iter().map(Filter::beginning).reduce(common).unwrap_or_default().into();
        Self { set, scopes, frontends, prefix }
    }

    /// The frontends that the filters follow: while there are some, only a matcher of the resolved filters matches.
    #[must_use]
    pub fn frontends(&self) -> &[(SmolStr, SmolStr)] {
        &self.frontends
    }

    /// What it means while the frontends that it follows point so, in their order.
    #[must_use]
    pub fn resolved(&self, pointing: &[Option<Arc<Frontend>>]) -> Self {
        let find = |namespace: &str, name: &str| {
            let order = |held: &(SmolStr, SmolStr)| (held.0.as_str(), held.1.as_str()).cmp(&(namespace, name));
            let place = self.frontends.binary_search_by(order).ok()?;
            pointing.get(place)?.as_deref()
        };
        Self::new(self.set.resolved(find))
    }

    /// Where matches can be: in order, none within another.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// With what the name of every service that is meant begins; mostly nothing.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
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
        let mut covering = self.set.filters().iter().filter(|filter| filter.covers(namespace, service)).peekable();
        // Where names and status are enough, nothing is decoded.
        covering.peek().is_some()
            && ((record.is_routable() && covering.clone().any(Filter::is_plain))
                || (!covering.all(Filter::is_plain) && self.set.matches(&record.instance())))
    }
}
