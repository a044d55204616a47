//! Patterns of names, and the parts of the registry that they mean. Knows no rights: whom they are given to, and what
//! for, is another's concern.

use std::fmt;

use smol_str::SmolStr;

use super::{Violation, name::check_name};

/// Stands for the rest of a name, at the end of a pattern.
const REST: char = '*';

/// Which names are meant: one, those that begin so, or all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// `*`: every name.
    Any,
    /// `orders-*`: names that begin so.
    Prefix(SmolStr),
    /// `orders`: this name.
    Exact(SmolStr),
}

impl Pattern {
    /// Reads a pattern: a name, or the beginning of names and a `*`.
    ///
    /// # Errors
    /// What is wrong with `text`, as a sentence without a full stop.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (head, open) = text.strip_suffix(REST).map_or((text, false), |head| (head, true));
        if head.is_empty() && open {
            return Ok(Self::Any);
        }
        if head.contains(REST) {
            return Err(format!("may have a `{REST}` at its end only"));
        }
        let mut violations: Vec<Violation> = Vec::new();
        check_name("", head, &mut violations);
        match violations.pop() {
            Some(Violation { description, .. }) => Err(description),
            None if open => Ok(Self::Prefix(head.into())),
            None => Ok(Self::Exact(head.into())),
        }
    }

    /// Whether `name` is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(head) => name.starts_with(head.as_str()),
            Self::Exact(only) => only == name,
        }
    }

    /// Whether every name that `other` means is meant.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) | (Self::Exact(_), Self::Prefix(_)) => false,
            (Self::Prefix(head), Self::Prefix(name) | Self::Exact(name)) => name.starts_with(head.as_str()),
            (Self::Exact(only), Self::Exact(name)) => only == name,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => write!(f, "{REST}"),
            Self::Prefix(head) => write!(f, "{head}{REST}"),
            Self::Exact(name) => f.write_str(name),
        }
    }
}

/// A part of the registry: these services of these namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Realm {
    /// Which namespaces.
    pub namespace: Pattern,
    /// Which of their services, and of their backends, frontends and applications.
    pub service: Pattern,
}

impl Realm {
    /// All of it.
    pub const ALL: Self = Self { namespace: Pattern::Any, service: Pattern::Any };

    /// Reads `namespace/services`; without `/services` it is all of the namespace.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, service) = text.split_once('/').unwrap_or((text, "*"));
        Some(Self { namespace: Pattern::parse(namespace).ok()?, service: Pattern::parse(service).ok()? })
    }

    /// Whether a namespace's service is in it.
    #[must_use]
    pub fn contains(&self, namespace: &str, service: &str) -> bool {
        self.namespace.matches(namespace) && self.service.matches(service)
    }

    /// Whether all of a namespace is in it.
    #[must_use]
    pub fn contains_all_of(&self, namespace: &str) -> bool {
        self.service == Pattern::Any && self.namespace.matches(namespace)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.namespace.covers(&other.namespace) && self.service.covers(&other.service)
    }
}

/// `namespace/service`, as patterns; names have no `/`.
impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_names() {
        for (pattern, name, meant) in [
            ("*", "web", true),
            ("*", "", true),
            ("web", "web", true),
            ("web", "web-1", false),
            ("web", "Web", false),
            ("orders-*", "orders-eu", true),
            ("orders-*", "orders-", true),
            ("orders-*", "orders", false),
            ("o*", "orders", true),
        ] {
            let read = Pattern::parse(pattern).expect("a pattern");
            assert_eq!((read.matches(name), read.to_string()), (meant, pattern.to_owned()), "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for (text, fault) in [
            ("", "must not be empty"),
            ("a*b", "may have a `*` at its end only"),
            ("**", "may have a `*` at its end only"),
            ("a/b", "must not have `/`, has one at byte 1"),
            (" *", "must not begin or end with white space"),
            ("a\n*", "must not have control characters, has one at byte 1"),
        ] {
            assert_eq!(Pattern::parse(text), Err(fault.to_owned()), "{text:?}");
        }
    }

    /// What covers another means every name that the other means.
    #[test]
    fn to_cover_is_to_mean_all_of_it() {
        let patterns = ["*", "a*", "ab*", "ab", "a", "b"].map(|text| Pattern::parse(text).expect("a pattern"));
        let names = ["", "a", "ab", "abc", "ac", "b", "bc", "c"];
        for one in &patterns {
            for other in &patterns {
                let all = names.iter().all(|name| !other.matches(name) || one.matches(name));
                assert_eq!(one.covers(other), all, "{one} {other}");
            }
        }
    }

    #[test]
    fn realms() {
        let realm = |namespace: &str, service: &str| Realm {
            namespace: Pattern::parse(namespace).expect("a pattern"),
            service: Pattern::parse(service).expect("a pattern"),
        };
        let orders = realm("team-*", "orders-*");
        assert!(orders.contains("team-a", "orders-eu") && !orders.contains("team-a", "web"));
        assert!(!orders.contains("default", "orders-eu") && !orders.contains_all_of("team-a"));
        assert!(realm("team-a", "*").contains_all_of("team-a"));
        assert!(orders.covers(&realm("team-a", "orders-*")) && !orders.covers(&realm("team-a", "*")));
        assert!(Realm::ALL.covers(&orders) && !orders.covers(&Realm::ALL));
        assert_eq!(orders.to_string(), "team-*/orders-*");
    }
}
