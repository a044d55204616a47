//! Changes of backends and frontends, and what can be read of them. Changes are commands like any other; reads never take
//! the actor's time.

use std::sync::Arc;

use smol_str::SmolStr;
use tokio::time::Instant;

use super::{
    ListQuery, RegistryHandle, Reply, Standing,
    handle::wall_clock,
    lookup::{page_start, page_token},
};
use crate::registry::{
    Action, Backend, Command, Deploy, Deployed, Document, Error, Frontend, LOOKUP_MAX, Principal, Registry, Revision,
    ServiceSet, Split, Unmoved,
};

/// What a switch means for those who are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Impact {
    /// Routable instances that come to be behind the frontend.
    pub joined: u64,
    /// Routable instances that are no longer.
    pub left: u64,
    /// Who follows the frontend here.
    pub watchers: u64,
}

/// What a change came to.
#[derive(Debug)]
pub struct Deployment {
    /// What stands there now.
    pub deployed: Standing,
    /// What it was before.
    pub before: Option<Arc<Document>>,
    /// At which revision.
    pub revision: Revision,
}

impl Deployment {
    pub(super) fn of(reply: Reply) -> Result<Self, Error> {
        match reply {
            Reply::Deployed { deployed, before, revision } => Ok(Self { deployed, before, revision }),
            // The actor answers a command with what goes with it.
            Reply::Registered { .. } | Reply::Removed { .. } | Reply::Kept { .. } | Reply::Drained { .. } => {
                Err(Error::Deadline)
            }
        }
    }
}

/// A page of backends or frontends.
#[derive(Debug)]
pub struct DeployedPage<T> {
    /// In order of namespace and name.
    pub found: Vec<Arc<T>>,
    /// Where to go on; empty at the end.
    pub next_page_token: String,
    /// The revision that this shows.
    pub revision: Revision,
}

impl RegistryHandle {
    /// Changes backends or frontends.
    ///
    /// # Errors
    /// Every refusal of such a change; see `Error`.
    pub async fn deploy(
        &self,
        (namespace, action): (SmolStr, Action),
        principal: Principal,
        deadline: Option<Instant>,
    ) -> Result<Deployment, Error> {
        let deploy = Deploy { namespace, action, principal, at: wall_clock() };
        Deployment::of(self.command(Command::Deploy(Box::new(deploy)), deadline).await?)
    }

    /// What a switch would come to: the frontend as it is, where it would point, and whom it concerns.
    ///
    /// # Errors
    /// What the switch itself would be refused with.
    pub fn try_switch(&self, (namespace, action): (SmolStr, Action)) -> Result<(Unmoved, Impact, Revision), Error> {
        let deploy = Deploy { namespace, action, principal: Principal::anyone(), at: wall_clock() };
        let registry = self.hub.registry();
        let would = registry.try_deploy(&deploy)?;
        let revision = registry.revision();
        drop(registry);
        let impact = self.impact(&would.before, &would.splits);
        Ok((would, impact, revision))
    }

    /// The services whose instances a change would show that were not to be seen by it before, as far as they are known.
    #[must_use]
    pub fn services_shown_by(&self, (namespace, action): &(SmolStr, Action)) -> Vec<SmolStr> {
        if let Action::Back { .. } = action {
            let would = self.try_switch((namespace.clone(), action.clone()));
            return would.map_or_else(
                |_| Vec::new(),
                |(would, ..)| would.splits.iter().map(|split| split.service.clone()).collect(),
            );
        }
        let registry = self.hub.registry();
        let backend = |name: &&SmolStr| registry.deployments().backend(namespace, name);
        action.named_backends().iter().filter_map(backend).map(|backend| backend.service.clone()).collect()
    }

    /// Whom it concerns that a frontend points to `after` instead of where it does in `before`.
    #[must_use]
    pub fn impact(&self, before: &Frontend, after: &[Split]) -> Impact {
        let after: Vec<&Split> = after.iter().filter(|split| split.weight > 0).collect();
        let namespace = before.namespace();
        let sets = {
            let registry = self.hub.registry();
            sets_of(&registry, namespace, before.live().chain(after.iter().copied()))
        };
        let watchers = self.hub.log().followers(namespace, before.name()) as u64;
        let mut impact = Impact { watchers, ..Impact::default() };
        for record in sets.iter().flat_map(ServiceSet::iter).filter(|record| record.is_routable()) {
            let (service, version) = (record.names().1, record.version());
            let is = after.iter().any(|split| split.service == service && split.version == version);
            match (before.covers(record), is) {
                (false, true) => impact.joined += 1,
                (true, false) => impact.left += 1,
                (true, true) | (false, false) => {}
            }
        }
        impact
    }

    /// The backend of this name, and the revision that this shows.
    ///
    /// # Errors
    /// `NoSuch`.
    pub fn backend(&self, namespace: &str, name: &str) -> Result<(Arc<Backend>, Revision), Error> {
        let registry = self.hub.registry();
        let found = registry.deployments().backend(namespace, name).cloned();
        let missing = || Error::NoSuch { kind: "Backend", name: format!("{namespace}/{name}") };
        found.ok_or_else(missing).map(|backend| (backend, registry.revision()))
    }

    /// The frontend of this name, and the revision that this shows.
    ///
    /// # Errors
    /// `NoSuch`.
    pub fn frontend(&self, namespace: &str, name: &str) -> Result<(Arc<Frontend>, Revision), Error> {
        let registry = self.hub.registry();
        let found = registry.deployments().frontend(namespace, name).cloned();
        let missing = || Error::NoSuch { kind: "Frontend", name: format!("{namespace}/{name}") };
        found.ok_or_else(missing).map(|frontend| (frontend, registry.revision()))
    }

    /// Whether there is a backend of this name.
    #[must_use]
    pub fn has_backend(&self, namespace: &str, name: &str) -> bool {
        self.hub.registry().deployments().backend(namespace, name).is_some()
    }

    /// Lists backends in order of (namespace, name).
    ///
    /// # Errors
    /// `Invalid` page token.
    pub fn list_backends(&self, query: &ListQuery) -> Result<DeployedPage<Backend>, Error> {
        self.list_deployed(query, |held| &held.backends)
    }

    /// Lists frontends in order of (namespace, name).
    ///
    /// # Errors
    /// `Invalid` page token.
    pub fn list_frontends(&self, query: &ListQuery) -> Result<DeployedPage<Frontend>, Error> {
        self.list_deployed(query, |held| &held.frontends)
    }

    fn list_deployed<T>(
        &self,
        query: &ListQuery,
        of: impl Fn(&Deployed) -> &imbl::OrdMap<SmolStr, Arc<T>>,
    ) -> Result<DeployedPage<T>, Error> {
        let after = page_start(&query.page_token)?.map(|[namespace, name, _]| (namespace, name));
        let limit = if query.limit == 0 { LOOKUP_MAX } else { query.limit.min(LOOKUP_MAX) };
        let (namespaces, revision) = {
            let registry = self.hub.registry();
            (registry.deployments().namespaces().clone(), registry.revision())
        };
        let mut page = DeployedPage { found: Vec::new(), next_page_token: String::new(), revision };
        let mut last = None;
        for (namespace, held) in &namespaces {
            if query.namespace.as_ref().is_some_and(|only| only != namespace) {
                continue;
            }
            for (name, one) in of(held).iter().filter(|(name, _)| name.starts_with(query.prefix.as_str())) {
                let is_before = after.as_ref().is_some_and(|(first, second)| (namespace, name) <= (first, second));
                if is_before || !query.shows(namespace, name) {
                    continue;
                }
                if let Some((namespace, name)) = last.filter(|_| page.found.len() >= limit) {
                    page.next_page_token = page_token(namespace, name, "");
                    return Ok(page);
                }
                page.found.push(Arc::clone(one));
                last = Some((namespace, name));
            }
        }
        Ok(page)
    }
}

/// The instances of the services behind some splits, each service once.
fn sets_of<'a>(registry: &Registry, namespace: &str, splits: impl Iterator<Item = &'a Split>) -> Vec<ServiceSet> {
    let mut services: Vec<&SmolStr> = splits.map(|split| &split.service).collect();
    services.sort();
    services.dedup();
    services.into_iter().filter_map(|service| registry.service(namespace, service).cloned()).collect()
}
