//! What a lookup or a watch means as a whole: where to look, which version, which selector, which statuses, and within
//! which parts. Knows no rights: which parts a caller may see is another's concern.

use std::fmt;

use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use super::name::{ALL_NAMESPACES, DEFAULT_NAMESPACE, check_name};
use super::pattern::{Pattern, Realm};
use super::selector::Selector;
use super::syntax::{SyntaxError, quoted};
use super::version::VersionMatch;
use super::{Frontend, Instance, Violation};

/// One selector of a watch, or all that a lookup asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// None: every namespace.
    namespace: Option<SmolStr>,
    /// None: every service.
    service: Option<SmolStr>,
    /// What most do not say: none if nothing is said.
    more: Option<Box<More>>,
}

/// What a filter says beside names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    /// Only services whose names begin so.
    prefix: Option<SmolStr>,
    /// Instead of a service: what is behind this frontend. It has to be resolved before it matches anything.
    frontend: Option<SmolStr>,
    /// Of a resolved frontend: the version of the backend, exactly.
    exactly: Option<SmolStr>,
    version: VersionMatch,
    selector: Selector,
    /// Nothing but what is in one of these parts, if it says so: in order, each once.
    within: Option<Box<[Realm]>>,
}

impl More {
    /// As a filter has it.
    fn kept(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    fn covers(&self, namespace: &str, service: &str) -> bool {
        self.frontend.is_none()
            && self.prefix.as_ref().is_none_or(|prefix| service.starts_with(prefix.as_str()))
            && self.within.as_ref().is_none_or(|parts| parts.iter().any(|part| part.contains(namespace, service)))
    }

    fn matches(&self, instance: &Instance) -> bool {
        self.exactly.as_ref().is_none_or(|only| *only == instance.version)
            && (self.selector.speaks_of_status() || instance.status().is_routable())
            && self.version.matches(&instance.version)
            && self.selector.matches(instance)
    }
}

/// Where the matches of a filter can be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Anywhere.
    All,
    /// In one namespace.
    Namespace(SmolStr),
    /// In one namespace, under one service.
    Service(SmolStr, SmolStr),
    /// In one namespace, behind one frontend, wherever it points.
    Frontend(SmolStr, SmolStr),
    /// How a partition key of one namespace stands: where no filter looks.
    Key(SmolStr, SmolStr),
}

impl Scope {
    /// Whether a namespace's service is within.
    #[must_use]
    pub fn covers(&self, namespace: &str, service: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(only) => only == namespace,
            Self::Service(only, only_service) => only == namespace && only_service == service,
            // Which services those are changes.
            Self::Frontend(..) | Self::Key(..) => false,
        }
    }
}

impl Filter {
    /// Reads the texts of a request. An empty namespace is `default`, `*` is all; an empty service is every service.
    ///
    /// # Errors
    /// All violations, by the names of the parameters.
    pub fn new(namespace: &str, service: &str, version: &str, selector: &str) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let namespace = match namespace {
            ALL_NAMESPACES => None,
            "" => Some(DEFAULT_NAMESPACE),
            _ => {
                check_name("namespace", namespace, &mut violations);
                Some(namespace)
            }
        };
        let service = (!service.is_empty()).then_some(service);
        if let Some(service) = service {
            check_name("service", service, &mut violations);
        }
        let mut refuse = |field: &str, error: &SyntaxError| {
            violations.push(Violation { field: field.to_owned(), description: error.to_string() });
        };
        let version = VersionMatch::parse(version).map_err(|error| refuse("version", &error));
        let selector = Selector::parse(selector).map_err(|error| refuse("selector", &error));
        match (version, selector) {
            (Ok(version), Ok(selector)) if violations.is_empty() => {
                let (namespace, service) = (namespace.map(Into::into), service.map(Into::into));
                Ok(Self { namespace, service, more: More { version, selector, ..More::default() }.kept() })
            }
            _ => Err(violations),
        }
    }

    /// The same, saying this beside.
    fn with(mut self, say: impl FnOnce(&mut More)) -> Self {
        let mut more = self.more.take().map_or_else(More::default, |more| *more);
        say(&mut more);
        self.more = more.kept();
        self
    }

    /// As `new`, of what is behind a frontend of one namespace.
    ///
    /// # Errors
    /// All violations, by the names of the parameters.
    pub fn of_frontend(namespace: &str, frontend: &str, version: &str, selector: &str) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        if namespace == ALL_NAMESPACES {
            let description = "a frontend is of one namespace".to_owned();
            violations.push(Violation { field: "namespace".to_owned(), description });
        }
        check_name("frontend", frontend, &mut violations);
        match Self::new(namespace, "", version, selector) {
            Ok(filter) if violations.is_empty() => Ok(filter.with(|more| more.frontend = Some(frontend.into()))),
            Ok(_) => Err(violations),
            Err(others) => Err(violations.into_iter().chain(others).collect()),
        }
    }

    /// What it means of `realms`: itself where these have all that it means. None: it names something that is in none of
    /// them. One of every namespace names nothing that could not be there.
    #[must_use]
    pub fn within(&self, realms: &[Realm]) -> Option<Self> {
        let name = self.more.as_ref().and_then(|more| more.frontend.as_ref()).or(self.service.as_ref());
        let part = |realm: &Realm| {
            let namespace = match &self.namespace {
                None => realm.namespace.clone(),
                Some(only) => Some(Pattern::Exact(only.clone())).filter(|_| realm.namespace.matches(only))?,
            };
            let service = match name {
                None => realm.service.clone(),
                Some(name) => Some(Pattern::Any).filter(|_| realm.service.matches(name))?,
            };
            Some(Realm { namespace, service })
        };
        let mut parts: Vec<Realm> = realms.iter().filter_map(part).collect();
        let has_all =
            |part: &Realm| part.service == Pattern::Any && (self.namespace.is_some() || part.namespace == Pattern::Any);
        if parts.iter().any(has_all) {
            return Some(self.clone());
        }
        if parts.is_empty() && self.namespace.is_some() {
            return None;
        }
        parts.sort();
        parts.dedup();
        Some(self.clone().with(|more| more.within = Some(parts.into())))
    }

    /// Whether it means but a part of what it names.
    #[must_use]
    pub fn is_narrowed(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.within.is_some())
    }

    /// The same, only of services whose names begin with `prefix`, if that is not empty.
    ///
    /// # Errors
    /// It is no beginning of a name, or one service or a frontend is named.
    pub fn under(self, prefix: &str) -> Result<Self, Vec<Violation>> {
        let violations = prefix_faults(prefix, self.service.is_some() || self.frontend().is_some());
        match violations.is_empty() {
            true if prefix.is_empty() => Ok(self),
            true => Ok(self.with(|more| more.prefix = Some(prefix.into()))),
            false => Err(violations),
        }
    }

    /// The frontend that it follows, with its namespace.
    #[must_use]
    pub fn frontend(&self) -> Option<(&SmolStr, &SmolStr)> {
        self.namespace.as_ref().zip(self.more.as_ref()?.frontend.as_ref())
    }

    /// What it means while the frontend points where it does: a filter for each backend that takes traffic.
    fn behind<'a>(&'a self, frontend: &'a Frontend) -> impl Iterator<Item = Self> + 'a {
        frontend.live().map(|split| {
            let behind = Self { service: Some(split.service.clone()), ..self.clone() };
            behind.with(|more| (more.frontend, more.exactly) = (None, Some(split.version.clone())))
        })
    }

    /// Where to look; elsewhere nothing matches. A service of every namespace is looked for everywhere.
    #[must_use]
    pub fn scope(&self) -> Scope {
        if let Some((namespace, frontend)) = self.frontend() {
            return Scope::Frontend(namespace.clone(), frontend.clone());
        }
        match (&self.namespace, &self.service) {
            (None, _) => Scope::All,
            (Some(namespace), None) => Scope::Namespace(namespace.clone()),
            (Some(namespace), Some(service)) => Scope::Service(namespace.clone(), service.clone()),
        }
    }

    /// With what the name of every service begins that it looks at.
    #[must_use]
    pub fn beginning(&self) -> &str {
        let prefix = self.more.as_ref().and_then(|more| more.prefix.as_deref());
        self.service.as_deref().or(prefix).unwrap_or_default()
    }

    /// The only service that it looks at, if there is one.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// The one namespace that it means, if it is one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The same; of all namespaces, if it is narrowed, those by their names that it is narrowed to.
    fn named(&self) -> impl Iterator<Item = &str> {
        let within = self.more.as_ref().and_then(|more| more.within.as_deref());
        let parts = within.into_iter().flatten().filter(|_| self.namespace.is_none());
        let exact = parts.filter_map(|part| match &part.namespace {
            Pattern::Exact(name) => Some(name.as_str()),
            _ => None,
        });
        self.namespace.as_deref().into_iter().chain(exact)
    }

    /// Whether within the scope an instance matches exactly if its status is routable, so that nothing else of it needs
    /// to be known.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let scope_is_exact = self.namespace.is_some() || self.service.is_none();
        scope_is_exact && self.more.is_none()
    }

    /// Whether it looks at a service at all; one of a frontend has to be resolved before it does.
    #[must_use]
    pub fn covers(&self, namespace: &str, service: &str) -> bool {
        self.namespace.as_ref().is_none_or(|only| only == namespace)
            && self.service.as_ref().is_none_or(|only| only == service)
            && self.more.as_ref().is_none_or(|more| more.covers(namespace, service))
    }

    /// Whether the instance is meant.
    #[must_use]
    pub fn matches(&self, instance: &Instance) -> bool {
        self.covers(&instance.namespace, &instance.service)
            && match &self.more {
                None => instance.status().is_routable(),
                Some(more) => more.matches(instance),
            }
    }
}

/// The canonical text: equal filters have equal texts.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is quoted cannot be taken for the rest of the text.
        let name = |name: &Option<SmolStr>| match name {
            Some(name) => quoted(name, |c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':')).into_owned(),
            None => "*".to_owned(),
        };
        write!(f, "{}/{}", name(&self.namespace), name(&self.service))?;
        let Some(more) = &self.more else { return Ok(()) };
        if more.prefix.is_some() {
            write!(f, " prefix {}", name(&more.prefix))?;
        }
        if more.frontend.is_some() {
            write!(f, " frontend {}", name(&more.frontend))?;
        }
        if let Some(exactly) = &more.exactly {
            write!(f, " exactly {}", quoted(exactly, |_| false))?;
        }
        if more.version != VersionMatch::Any {
            write!(f, " version {}", quoted(&more.version.to_string(), |_| false))?;
        }
        if !more.selector.is_empty() {
            write!(f, " selector {}", more.selector)?;
        }
        if let Some(parts) = &more.within {
            f.write_str(" within")?;
            for part in parts {
                write!(f, " {}", quoted(&part.to_string(), |_| false))?;
            }
        }
        Ok(())
    }
}

/// What is wrong with the beginning of services' names; `named`: a service or a frontend is named beside it.
pub(crate) fn prefix_faults(prefix: &str, named: bool) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !prefix.is_empty() {
        // What may follow makes the end of it no end of a name.
        check_name("service_prefix", prefix.trim_end(), &mut violations);
        let field = "service_prefix".to_owned();
        let description = "must not be given together with service or frontend".to_owned();
        violations.extend(named.then_some(Violation { field, description }));
    }
    violations
}

/// The union of the selectors of one watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSet {
    /// In the order of their canonical texts, each once, at least one; resolved, in any order and perhaps none.
    filters: Box<[Filter]>,
    /// Whether who watches them is also told which partitions are there.
    summaries: bool,
}

impl FilterSet {
    /// The namespaces that it names, or is narrowed to, each as often as it does.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.filters.iter().flat_map(Filter::named)
    }

    /// The union of `filters`; of none: every service of `default`.
    #[must_use]
    pub fn new(filters: impl IntoIterator<Item = Filter>) -> Self {
        let mut filters: Vec<_> = filters.into_iter().collect();
        if filters.is_empty() {
            filters.push(Filter { namespace: Some(DEFAULT_NAMESPACE.into()), service: None, more: None });
        }
        if filters.len() > 1 {
            filters.sort_by_cached_key(Filter::to_string);
            filters.dedup();
        }
        Self { filters: filters.into(), summaries: false }
    }

    /// The same, whose watchers are also told which partitions of services are there, or are not.
    #[must_use]
    pub fn with_summaries(self, summaries: bool) -> Self {
        Self { summaries, ..self }
    }

    /// Whether they are.
    #[must_use]
    pub fn summaries(&self) -> bool {
        self.summaries
    }

    /// Each filter once, in a fixed order.
    #[must_use]
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// The frontends that it follows: namespace and name, each once, in order.
    #[must_use]
    pub fn frontends(&self) -> Vec<(SmolStr, SmolStr)> {
        let named = self.filters.iter().filter_map(Filter::frontend);
        let mut frontends: Vec<_> = named.map(|(namespace, name)| (namespace.clone(), name.clone())).collect();
        frontends.sort();
        frontends.dedup();
        frontends
    }

    /// What it means while the frontends that it follows are as `find` gives them: of a frontend
    /// that is not there, nothing.
    #[must_use]
    pub fn resolved<'a>(&self, find: impl Fn(&str, &str) -> Option<&'a Frontend>) -> Self {
        let mut filters = Vec::with_capacity(self.filters.len());
        for filter in &self.filters {
            match filter.frontend() {
                None => filters.push(filter.clone()),
                Some((namespace, name)) => {
                    filters.extend(find(namespace, name).into_iter().flat_map(|frontend| filter.behind(frontend)));
                }
            }
        }
        Self { filters: filters.into(), summaries: self.summaries }
    }

    /// Whether any filter matches.
    #[must_use]
    pub fn matches(&self, instance: &Instance) -> bool {
        self.filters.iter().any(|filter| filter.matches(instance))
    }

    /// Equal for equal sets, in every process: the first 8 bytes of the SHA-256 of the canonical text. Made anew by each
    /// call.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let digest: [u8; 32] = Sha256::digest(self.to_string()).into();
        digest.into_iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(byte))
    }
}

impl Default for FilterSet {
    fn default() -> Self {
        Self::new([])
    }
}

/// The canonical text: a filter a line.
impl fmt::Display for FilterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, filter) in self.filters.iter().enumerate() {
            write!(f, "{}{filter}", if place > 0 { "\n" } else { "" })?;
        }
        // No filter has this text: each has a `/` in it.
        if self.summaries {
            f.write_str("\nsummaries")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
