//! Who calls, and what that lets a call reach. Handlers ask here, with the names of their message, before they look at
//! anything. Knows no credentials beyond their proof, and no request.

use std::{fmt, sync::Arc};

use smol_str::SmolStr;

use super::{Grants, Permission, Rule, allows, audit::Trail, jwt::Jwt, token::SecretHash};
use crate::registry::{
    Action, Claim, Error, Filter, FilterSet, Key, Needs, Principal, Quota, Realm, Revision, Target, catalog::List,
};
use crate::tls::PeerCertificate;

/// Somebody with grants.
#[derive(Debug)]
pub struct Caller {
    /// The principal's name; none: nobody said who they are.
    pub name: Option<Arc<str>>,
    /// What they may do.
    pub grants: Grants,
    /// How much they may have; none: as much as there is room for.
    pub quota: Option<Arc<Quota>>,
    /// Until when that is proved, in Unix seconds.
    pub until: Option<u64>,
    /// Of which revisions the tokens were that say so.
    pub(super) revisions: Box<[Revision]>,
    pub(super) proof: Proof,
}

/// By what it is proved, so that it can be judged anew.
#[derive(Debug)]
pub(super) enum Proof {
    /// By nothing: what anybody may do.
    Nothing,
    /// A secret of the token of this name.
    Token(SmolStr, SecretHash),
    /// What somebody else has issued, as it was found good by these keys.
    Jwt(Issued, Arc<Jwt>),
    /// The certificate at the other end of the connection.
    Certificate(PeerCertificate),
}

/// The text of a JSON Web Token, which is shown nowhere.
pub(super) struct Issued(pub Box<str>);

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issued(…)")
    }
}

/// Who calls, as far as that is asked: with authentication off everybody is one, and may do everything.
#[derive(Clone, Debug, Default)]
pub struct Who {
    caller: Option<Arc<Caller>>,
    /// Where what the request is about is noted, if somebody wants to know.
    trail: Option<Trail>,
}

/// What who sends no credentials is told where that is not enough.
pub(super) const NONE: Error =
    Error::Unauthenticated { why: "there are no credentials: send `authorization: Bearer` with a token" };

impl Who {
    /// Everybody, with authentication off.
    #[must_use]
    pub fn anyone() -> Self {
        Self::default()
    }

    /// This caller.
    #[must_use]
    pub fn of(caller: Arc<Caller>) -> Self {
        Self { caller: Some(caller), trail: None }
    }

    /// Notes what is judged of it.
    #[must_use]
    pub(super) fn noting(self, trail: Trail) -> Self {
        Self { trail: Some(trail), ..self }
    }

    /// It is about a namespace.
    pub fn is_about_namespace(&self, name: &str) {
        self.note(name, "");
    }

    /// Whether it is allowed in all of a namespace.
    #[must_use]
    pub fn may_all_of(&self, permission: Permission, namespace: &str) -> bool {
        self.caller.as_ref().is_none_or(|caller| caller.grants.all_of(permission, namespace))
    }

    /// It is about a token.
    pub fn is_about_token(&self, name: &str) {
        self.note("token", name);
    }

    /// At which revision what was asked for changed something, where the answer does not say so; none: nothing changed.
    pub fn came_to(&self, revision: Option<Revision>) {
        if let Some(trail) = &self.trail {
            trail.came_to(revision);
        }
    }

    fn note(&self, namespace: &str, service: &str) {
        if let Some(trail) = &self.trail {
            trail.note(namespace, service);
        }
    }

    /// The caller; none with authentication off.
    #[must_use]
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.as_ref()
    }

    /// The refusal for want of a permission. Who said nothing is asked who they are.
    fn lacks(&self, permission: Permission) -> Error {
        match &self.caller {
            Some(caller) if caller.name.is_none() => NONE,
            _ => Error::Permission { permission: permission.name() },
        }
    }

    /// Refuses who is not let in by a rule.
    ///
    /// # Errors
    /// `Permission`; `Unauthenticated`, where who said nothing is asked who they are.
    pub fn passes(&self, rule: &Rule) -> Result<(), Error> {
        let Some(caller) = &self.caller else { return Ok(()) };
        match rule.admits(&caller.grants) {
            Ok(()) => Ok(()),
            Err(_) if caller.name.is_none() => Err(NONE),
            Err(missing) => Err(Error::Permission { permission: missing.map_or("any", Permission::name) }),
        }
    }

    /// Whether another may do just what this one may.
    #[must_use]
    pub fn may_the_same(&self, other: &Self) -> bool {
        match (&self.caller, &other.caller) {
            (Some(one), Some(other)) => one.grants == other.grants,
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// Whether it is allowed to do something to a namespace's service.
    #[must_use]
    pub fn may(&self, permission: Permission, namespace: &str, service: &str) -> bool {
        self.caller.as_ref().is_none_or(|caller| allows(&caller.grants, permission, namespace, service))
    }

    /// Refuses what is not allowed.
    ///
    /// # Errors
    /// `Permission`, whatever is there.
    pub fn need(&self, permission: Permission, namespace: &str, service: &str) -> Result<(), Error> {
        self.note(namespace, service);
        if self.may(permission, namespace, service) { Ok(()) } else { Err(self.lacks(permission)) }
    }

    /// Refuses what is not allowed in all of a namespace.
    ///
    /// # Errors
    /// `Permission`, whatever is there.
    pub fn need_all(&self, permission: Permission, namespace: &str) -> Result<(), Error> {
        self.note(namespace, "");
        if self.may_all_of(permission, namespace) { Ok(()) } else { Err(self.lacks(permission)) }
    }

    /// Refuses what is not allowed everywhere.
    ///
    /// # Errors
    /// `Permission`, whatever is there.
    pub fn need_everywhere(&self, permission: Permission) -> Result<(), Error> {
        if self.may_everywhere(permission) { Ok(()) } else { Err(self.lacks(permission)) }
    }

    /// Whether it is allowed everywhere.
    #[must_use]
    pub fn may_everywhere(&self, permission: Permission) -> bool {
        self.caller.as_ref().is_none_or(|caller| caller.grants.everywhere(permission))
    }

    /// Whether it is allowed in all of a part.
    #[must_use]
    pub fn may_in(&self, permission: Permission, part: &Realm) -> bool {
        self.caller.as_ref().is_none_or(|caller| caller.grants.covers(permission, part))
    }

    /// On whose behalf a command on a namespace's service is run. Who takes urls away acts on all of the namespace, so an
    /// operator of a part of it is none there.
    #[must_use]
    pub fn principal(&self, namespace: &str, service: &str, takes_urls: bool) -> Principal {
        self.note(namespace, service);
        let Some(caller) = &self.caller else { return Principal::anyone() };
        let operator = match takes_urls {
            true => caller.grants.all_of(Permission::Operate, namespace),
            false => allows(&caller.grants, Permission::Operate, namespace, service),
        };
        Principal { name: caller.name.clone(), operator, quota: caller.quota.clone() }
    }

    /// On whose behalf a command is run that was allowed already.
    #[must_use]
    pub fn allowed(&self) -> Principal {
        let Some(caller) = &self.caller else { return Principal::anyone() };
        Principal { name: caller.name.clone(), operator: true, quota: caller.quota.clone() }
    }

    /// The principal's name; empty where there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.caller.as_ref().and_then(|caller| caller.name.as_deref()).unwrap_or_default()
    }

    /// Refuses a change of backends and frontends that is not allowed by what it names: that takes the permission to deploy
    /// what it changes, and to read what it points at.
    ///
    /// # Errors
    /// `Permission`.
    pub fn deploys(&self, (namespace, action): &(SmolStr, Action)) -> Result<(), Error> {
        self.need(Permission::Deploy, namespace, action.subject())?;
        action.shows().into_iter().try_for_each(|name| self.need(Permission::Read, namespace, name))
    }

    /// Whether it is theirs to know who has a key: who may read there, or register.
    #[must_use]
    pub fn may_know(&self, key: &Key) -> bool {
        [Permission::Read, Permission::Register].into_iter().any(|one| self.may(one, &key.namespace, &key.service))
    }

    /// A refusal, without the names and addresses in it that are not theirs to know.
    #[must_use]
    pub fn told(&self, error: Error) -> Error {
        match error {
            Error::Superseded { key, holder } => {
                let mut parts = key.splitn(3, '/').map(SmolStr::from);
                let mut part = || parts.next().unwrap_or_default();
                let known = self.may_know(&Key { namespace: part(), service: part(), id: part() });
                Error::Superseded { key, holder: if known { holder } else { "another address".to_owned() } }
            }
            Error::InUse { name, mut by } => {
                let (namespace, all) = (name.split('/').next().unwrap_or_default(), by.len());
                by.retain(|user| self.may(Permission::Read, namespace, user));
                if by.len() < all {
                    by.push(format!("{} more", all - by.len()));
                }
                Error::InUse { name, by }
            }
            error => error,
        }
    }

    /// Refuses needs that may not be known: the answer says where they are.
    ///
    /// # Errors
    /// `Permission`.
    pub fn needs(&self, needs: &Needs) -> Result<(), Error> {
        needs.wanted.iter().try_for_each(|need| self.need(Permission::Read, &needs.namespace, &need.service))
    }

    /// On whose behalf something is taken away. By its tokens it is whoever sends them; by its key an operator.
    ///
    /// # Errors
    /// `Permission`.
    pub fn takes_away(&self, target: &Target) -> Result<Principal, Error> {
        let (namespace, service) = match target {
            Target::Lease(_) | Target::Leases(_) => return Ok(self.principal("", "", false)),
            Target::Place(place) => return Ok(self.principal(&place.key.namespace, &place.key.service, false)),
            Target::Key(key) | Target::Own(key) => (&key.namespace, &key.service),
            Target::Service { namespace, service } => (namespace, service),
        };
        self.need(Permission::Operate, namespace, service)?;
        Ok(self.principal(namespace, service, false))
    }

    /// On whose behalf an instance is drained. By its token it is whoever sends it; by its key an operator.
    ///
    /// # Errors
    /// `Permission`.
    pub fn claims(&self, claim: &Claim) -> Result<Principal, Error> {
        match claim {
            Claim::Lease(_) => Ok(self.principal("", "", false)),
            Claim::Key(key) => {
                self.need(Permission::Operate, &key.namespace, &key.service)?;
                Ok(self.principal(&key.namespace, &key.service, false))
            }
        }
    }

    /// Refuses a list for the catalog that is not allowed as a whole: an application is judged by its name, the kinds of
    /// programs are all of the namespace's.
    ///
    /// # Errors
    /// `Permission`.
    pub fn imports(&self, namespace: &str, list: &List) -> Result<(), Error> {
        if !list.types.is_empty() || list.applications.is_empty() {
            return self.need_all(Permission::Catalog, namespace);
        }
        list.applications.iter().try_for_each(|listed| self.need(Permission::Catalog, namespace, &listed.id))
    }

    /// What may be read of what `filters` mean.
    ///
    /// # Errors
    /// `Permission`, if one of them names what may not be read.
    pub fn reads(&self, filters: FilterSet) -> Result<FilterSet, Error> {
        if let (Some(_), Some(filter)) = (&self.trail, filters.filters().first()) {
            self.note(filter.namespace().unwrap_or("*"), filter.service().unwrap_or_default());
        }
        match &self.caller {
            None => Ok(filters),
            Some(caller) => caller.grants.readable(&filters).ok_or_else(|| self.lacks(Permission::Read)),
        }
    }

    /// The parts of which a list shows what there is, of a namespace or of all; none: it shows everything.
    ///
    /// # Errors
    /// `Permission`, if nothing of the namespace may be read.
    pub fn lists(&self, namespace: Option<&str>) -> Result<Option<Arc<[Realm]>>, Error> {
        self.note(namespace.unwrap_or("*"), "");
        let Some(caller) = &self.caller else { return Ok(None) };
        let grants = &caller.grants;
        let everything = match namespace {
            None => grants.everywhere(Permission::Read),
            Some(namespace) => grants.all_of(Permission::Read, namespace),
        };
        if everything {
            return Ok(None);
        }
        let is_of = |realm: &&Realm| namespace.is_none_or(|namespace| realm.namespace.matches(namespace));
        let realms: Arc<[Realm]> = grants.realms(Permission::Read).filter(is_of).cloned().collect();
        if realms.is_empty() && namespace.is_some() { Err(self.lacks(Permission::Read)) } else { Ok(Some(realms)) }
    }
}

/// What a watch was asked for, whoever asked.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What it follows.
    pub filters: FilterSet,
    /// What of that it also wants to have that is published.
    pub published: Vec<Filter>,
}

impl Wanted {
    /// What the caller may see of it.
    ///
    /// # Errors
    /// `Permission`.
    pub fn seen_by(&self, who: &Who) -> Result<Self, Error> {
        let filters = who.reads(self.filters.clone())?;
        if self.published.is_empty() {
            return Ok(Self { filters, published: Vec::new() });
        }
        let published = who.reads(FilterSet::new(self.published.iter().cloned()))?;
        Ok(Self { filters, published: published.filters().to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Grant;

    fn who(grants: &[&str]) -> Who {
        let grants = Grants::new(grants.iter().map(|text| Grant::parse(text).expect("a grant")));
        let name = Some("token:ci".into());
        Who::of(Arc::new(Caller {
            name,
            grants,
            quota: None,
            until: None,
            revisions: [].into(),
            proof: Proof::Nothing,
        }))
    }

    #[test]
    fn with_authentication_off_everybody_may_do_everything() {
        let anyone = Who::anyone();
        for permission in Permission::ALL {
            assert!(anyone.may(permission, "a", "b") && anyone.may_everywhere(permission));
        }
        assert_eq!(anyone.principal("a", "b", true), Principal::anyone());
        assert!(anyone.lists(Some("a")).expect("a list").is_none() && anyone.reads(FilterSet::default()).is_ok());
    }

    #[test]
    fn a_refusal_names_what_is_theirs_to_know() {
        let who = who(&["team-a/orders-*=register", "team-a/front-*=read"]);
        let moved = |service: &str, holder: &str| Error::Superseded {
            key: format!("team-a/{service}/1"),
            holder: holder.to_owned(),
        };
        assert_eq!(who.told(moved("orders-eu", "10.0.0.1:80")), moved("orders-eu", "10.0.0.1:80"));
        assert_eq!(who.told(moved("web", "10.0.0.1:80")), moved("web", "another address"));
        let used = |by: &[&str]| Error::InUse {
            name: "team-a/blue".to_owned(),
            by: by.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(who.told(used(&["front-eu", "secret", "web"])), used(&["front-eu", "2 more"]));
        assert_eq!(Who::anyone().told(used(&["web"])), used(&["web"]));
    }

    #[test]
    fn an_operator_is_one_where_they_are_one() {
        let who = who(&["team-a/orders-*=operate,register", "team-b=operate"]);
        let operator = |namespace, service, takes_urls| who.principal(namespace, service, takes_urls).operator;
        assert!(operator("team-a", "orders-eu", false) && !operator("team-a", "web", false));
        assert!(!operator("team-a", "orders-eu", true), "urls are the whole namespace's");
        assert!(operator("team-b", "web", true));
        assert_eq!(who.principal("team-a", "web", false).name.as_deref(), Some("token:ci"));
    }

    #[test]
    fn lists_show_what_may_be_read() {
        let who = who(&["team-a/orders-*=read", "team-b=read", "team-c=register"]);
        let shown = |namespace| {
            let realms = who.lists(namespace).map_err(|error| error.to_string())?;
            Ok(realms.map(|realms| realms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")))
        };
        assert_eq!(shown(None), Ok(Some("team-a/orders-* team-b/*".to_owned())));
        assert_eq!(shown(Some("team-a")), Ok(Some("team-a/orders-*".to_owned())));
        assert_eq!(shown(Some("team-b")), Ok(None));
        let refused = Err("the caller lacks the permission `read`".to_owned());
        assert_eq!((shown(Some("team-c")), shown(Some("nowhere"))), (refused.clone(), refused));
    }
}
