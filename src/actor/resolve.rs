//! Looks for all that is needed at once: it reads what the actor published and never takes its time.

use tokio::time::{Instant, timeout_at};

use super::{RegistryHandle, lookup::end_of, sleeper::Sleeper};
use crate::registry::{Error, IfMissing, Needs, Resolved, Revision, Scope, ServiceSet};

/// What to resolve.
#[derive(Clone, Debug)]
pub struct ResolveQuery {
    /// What is needed.
    pub needs: Needs,
    /// The zone to prefer; may be empty.
    pub prefer_zone: String,
    /// The call's deadline, which cuts every wait.
    pub deadline: Option<Instant>,
}

/// Where things are.
#[derive(Debug)]
pub struct Resolution {
    /// What was found.
    pub resolved: Vec<Resolved>,
    /// What was not: `name@version` each.
    pub missing: Vec<String>,
    /// The revision that this shows.
    pub revision: Revision,
}

impl RegistryHandle {
    /// Finds an instance for everything that is needed, as of one revision.
    ///
    /// # Errors
    /// `MissingDependency` unless what is missing may be ignored; `ShuttingDown` while waiting.
    pub async fn resolve(&self, mut query: ResolveQuery) -> Result<Resolution, Error> {
        query.needs.seed = self.turns.random();
        let needs = &query.needs;
        let end = end_of(needs.wait, query.deadline);
        let (mut found, mut missing) = self.resolve_now(needs, &query.prefer_zone);
        while needs.if_missing == IfMissing::Wait && !missing.is_empty() {
            // What is there already wakes nobody.
            let scope = |place: &usize| Some(needs.wanted.get(*place)?.service.clone());
            let scope = |place| scope(place).map(|service| Scope::Service(needs.namespace.clone(), service));
            let scopes: Vec<Scope> = missing.iter().filter_map(scope).collect();
            let sleeper = Sleeper::new(&self.hub, &scopes);
            // It may have come while nobody listened.
            let before = missing.clone();
            (found, missing) = self.resolve_now(needs, &query.prefer_zone);
            while !missing.is_empty() && missing == before {
                if self.hub.is_closing() {
                    return Err(Error::ShuttingDown);
                }
                if timeout_at(end, sleeper.listener.woken()).await.is_err() {
                    return Err(Error::MissingDependency(needs.names(&missing)));
                }
                (found, missing) = self.resolve_now(needs, &query.prefer_zone);
            }
        }
        let missing = needs.names(&missing);
        if needs.if_missing == IfMissing::Fail && !missing.is_empty() {
            return Err(Error::MissingDependency(missing));
        }
        let (resolved, revision) = found;
        Ok(Resolution { resolved, missing, revision })
    }

    fn resolve_now(&self, needs: &Needs, zone: &str) -> ((Vec<Resolved>, Revision), Vec<usize>) {
        // A short look: the sets are read after the state is free again.
        let (sets, revision) = {
            let registry = self.hub.registry();
            let set = |service| registry.service(&needs.namespace, service).cloned();
            let sets: Vec<Option<ServiceSet>> = needs.wanted.iter().map(|need| set(&need.service)).collect();
            (sets, registry.revision())
        };
        let (resolved, missing) = needs.resolve(zone, |place| sets.get(place)?.as_ref(), |_| false);
        ((resolved, revision), missing)
    }
}
