//! What somebody may do: permissions, each in a part of the registry. Pure; knows neither credentials nor requests.

use std::fmt;

use crate::registry::{Filter, FilterSet, Pattern, Realm};

/// What can be allowed. None includes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// Look up, list, watch, resolve; the health of services.
    Read,
    /// Register, renew and take away instances of one's own.
    Register,
    /// Publish events of an application.
    Publish,
    /// Change backends and frontends, and switch.
    Deploy,
    /// Change the catalog.
    Catalog,
    /// Act by key on what others registered.
    Operate,
    /// Make, change and revoke tokens.
    Admin,
}

impl Permission {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Register, Self::Publish, Self::Deploy, Self::Catalog, Self::Operate, Self::Admin];

    /// Its name, the same everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Register => "register",
            Self::Publish => "publish",
            Self::Deploy => "deploy",
            Self::Catalog => "catalog",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    /// The permission of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some of the permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permissions(u8);

impl Permissions {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// Whether it is among them.
    #[must_use]
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

/// `read,register`.
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, permission) in self.iter().enumerate() {
            write!(f, "{}{}", if place > 0 { "," } else { "" }, permission.name())?;
        }
        Ok(())
    }
}

/// Permissions in one part of the registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Where.
    pub realm: Realm,
    /// What.
    pub permissions: Permissions,
}

impl Grant {
    /// Reads `namespace/services=permission,permission`; without `/services` it is all services of the namespace.
    ///
    /// # Errors
    /// What is wrong with `text`, as a sentence without a full stop.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = "must be like team-a/orders-*=read,register";
        // A name may have a `=`, a permission has none.
        let (realm, permissions) = text.rsplit_once('=').ok_or(form)?;
        let (namespace, service) = realm.split_once('/').unwrap_or((realm, "*"));
        let pattern =
            |what: &str, text: &str| Pattern::parse(text).map_err(|fault| format!("{form}: the {what} {fault}"));
        let realm = Realm { namespace: pattern("namespace", namespace)?, service: pattern("service", service)? };
        let permission = |name: &str| Permission::of_name(name.trim()).ok_or_else(|| unknown(name));
        let permissions = permissions.split(',').map(permission).collect::<Result<Permissions, _>>()?;
        Ok(Self { realm, permissions })
    }
}

/// The sentence on what is no permission.
#[must_use]
pub fn unknown(name: &str) -> String {
    let names = Permission::ALL.map(Permission::name).join(", ");
    format!("`{}` is not one of {names}", name.escape_debug())
}

/// As it is read.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.realm, self.permissions)
    }
}

/// All that somebody may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// In order, each once.
    grants: Box<[Grant]>,
    /// The permissions that there is any of.
    somewhere: Permissions,
}

/// Whether `grants` allow something to be done to a namespace's service.
#[must_use]
pub fn allows(grants: &Grants, permission: Permission, namespace: &str, service: &str) -> bool {
    grants.realms(permission).any(|realm| realm.contains(namespace, service))
}

impl Grants {
    /// These together.
    #[must_use]
    pub fn new(grants: impl IntoIterator<Item = Grant>) -> Self {
        let mut grants: Vec<Grant> = grants.into_iter().filter(|grant| !grant.permissions.is_empty()).collect();
        grants.sort();
        grants.dedup();
        let somewhere = grants.iter().flat_map(|grant| grant.permissions.iter()).collect();
        Self { grants: grants.into(), somewhere }
    }

    /// Everything, everywhere.
    #[must_use]
    pub fn all() -> Self {
        Self::new([Grant { realm: Realm::ALL, permissions: Permissions::all() }])
    }

    /// Each of them.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Whether there is a part of the registry in which it is allowed.
    #[must_use]
    pub fn anywhere(&self, permission: Permission) -> bool {
        self.somewhere.contains(permission)
    }

    /// Whether it is allowed in all of a namespace.
    #[must_use]
    pub fn all_of(&self, permission: Permission, namespace: &str) -> bool {
        self.realms(permission).any(|realm| realm.contains_all_of(namespace))
    }

    /// Whether it is allowed everywhere.
    #[must_use]
    pub fn everywhere(&self, permission: Permission) -> bool {
        self.realms(permission).any(|realm| *realm == Realm::ALL)
    }

    /// Whether it is allowed in all of a part.
    #[must_use]
    pub fn covers(&self, permission: Permission, part: &Realm) -> bool {
        self.realms(permission).any(|realm| realm.covers(part))
    }

    /// The parts in which it is allowed.
    pub fn realms(&self, permission: Permission) -> impl Iterator<Item = &Realm> {
        self.grants.iter().filter(move |grant| grant.permissions.contains(permission)).map(|grant| &grant.realm)
    }

    /// What may be read of what `filters` mean, none if one of them means what may not be read at all. A filter of all
    /// namespaces is never refused: it means what may be seen of them.
    #[must_use]
    pub fn readable(&self, filters: &FilterSet) -> Option<FilterSet> {
        if self.everywhere(Permission::Read) {
            return Some(filters.clone());
        }
        let realms: Vec<Realm> = self.realms(Permission::Read).cloned().collect();
        let narrowed = filters.filters().iter().map(|filter| filter.within(&realms));
        let narrowed = narrowed.collect::<Option<Vec<Filter>>>()?;
        Some(FilterSet::new(narrowed).with_summaries(filters.summaries()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> Grants {
        Grants::new(texts.iter().map(|text| Grant::parse(text).expect("a grant")))
    }

    #[test]
    fn a_permission_holds_where_it_is_granted_and_nowhere_else() {
        let held = grants(&["team-a/orders-*=read,register", "team-a=deploy", "*/status=read"]);
        for (permission, namespace, service, allowed) in [
            (Permission::Read, "team-a", "orders-eu", true),
            (Permission::Register, "team-a", "orders-eu", true),
            (Permission::Register, "team-a", "payments", false),
            (Permission::Register, "team-b", "orders-eu", false),
            (Permission::Deploy, "team-a", "payments", true),
            (Permission::Read, "team-a", "payments", false),
            (Permission::Read, "team-b", "status", true),
            (Permission::Operate, "team-a", "orders-eu", false),
        ] {
            assert_eq!(allows(&held, permission, namespace, service), allowed, "{permission:?} {namespace}/{service}");
        }
        assert!(held.anywhere(Permission::Deploy) && !held.anywhere(Permission::Admin));
        assert!(held.all_of(Permission::Deploy, "team-a") && !held.all_of(Permission::Read, "team-a"));
        let all = Grants::all();
        assert!(Permission::ALL.into_iter().all(|permission| all.everywhere(permission)));
        assert!(Permission::ALL.into_iter().all(|permission| !allows(&Grants::default(), permission, "a", "b")));
    }

    #[test]
    fn a_grant_is_read_as_it_is_written() {
        for (text, written) in [
            ("team-a/orders-*=read,register", "team-a/orders-*=read,register"),
            ("team-a=register,read", "team-a/*=read,register"),
            ("*=admin", "*/*=admin"),
            ("a=b/c=read", "a=b/c=read"),
        ] {
            assert_eq!(Grant::parse(text).map(|grant| grant.to_string()), Ok(written.to_owned()), "{text}");
        }
        for text in ["", "team-a", "team-a=", "team-a=write", "/x=read", "team-a/=read", "a/b/c=read", "a*b=read"] {
            assert!(Grant::parse(text).is_err(), "{text}");
        }
        let fault = Grant::parse("a=Read").expect_err("no permission");
        assert_eq!(fault, "`Read` is not one of read, register, publish, deploy, catalog, operate, admin");
    }

    #[test]
    fn reads_are_narrowed_or_refused() {
        let held = grants(&["team-a/orders-*=read", "team-b=read", "team-c=register"]);
        for (namespace, service, seen) in [
            ("team-a", "orders-eu", Some("team-a/orders-eu")),
            ("team-a", "payments", None),
            ("team-a", "", Some("team-a/* within \"team-a/orders-*\"")),
            ("team-b", "", Some("team-b/*")),
            ("team-b", "payments", Some("team-b/payments")),
            ("team-c", "", None),
            ("*", "", Some("*/* within \"team-a/orders-*\" \"team-b/*\"")),
            ("*", "payments", Some("*/payments within \"team-b/*\"")),
        ] {
            let asked = FilterSet::new([Filter::new(namespace, service, "", "").expect("a filter")]);
            let readable = held.readable(&asked).map(|filters| filters.to_string());
            assert_eq!(readable.as_deref(), seen, "{namespace}/{service}");
            assert_eq!(Grants::all().readable(&asked), Some(asked.clone()));
            let summaries = held.readable(&asked.with_summaries(true)).is_none_or(|filters| filters.summaries());
            assert!(summaries, "{namespace}/{service} is still told which partitions there are");
        }
        // One that may not be read refuses all: the answer must not depend on what else is asked for.
        let filter = |namespace: &str| Filter::new(namespace, "web", "", "").expect("a filter");
        assert_eq!(held.readable(&FilterSet::new([filter("team-b"), filter("team-c")])), None);
        assert_eq!(grants(&["team-c=register"]).readable(&FilterSet::default()), None);
    }
}
