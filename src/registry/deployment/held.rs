//! The backends and frontends that are committed, by namespace and name, and how a committed change is taken in.

use std::{collections::HashMap, sync::Arc};

use imbl::OrdMap;
use smol_str::SmolStr;

use super::{Backend, Frontend};
use crate::registry::document::{Document, DocumentKey, Kind};

/// Those of one namespace, by name. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct Deployed {
    /// The backends.
    pub backends: OrdMap<SmolStr, Arc<Backend>>,
    /// The frontends.
    pub frontends: OrdMap<SmolStr, Arc<Frontend>>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Deployments {
    namespaces: OrdMap<SmolStr, Deployed>,
    backends: u64,
    frontends: u64,
    /// How many backends name a service.
    named: HashMap<(SmolStr, SmolStr), u64>,
}

impl Deployments {
    /// All namespaces that have some. Cloning it is O(1).
    #[must_use]
    pub fn namespaces(&self) -> &OrdMap<SmolStr, Deployed> {
        &self.namespaces
    }

    /// How many backends there are.
    #[must_use]
    pub fn backends(&self) -> u64 {
        self.backends
    }

    /// How many frontends there are.
    #[must_use]
    pub fn frontends(&self) -> u64 {
        self.frontends
    }

    /// The backend of this name.
    #[must_use]
    pub fn backend(&self, namespace: &str, name: &str) -> Option<&Arc<Backend>> {
        self.namespaces.get(namespace)?.backends.get(name)
    }

    /// The frontend of this name.
    #[must_use]
    pub fn frontend(&self, namespace: &str, name: &str) -> Option<&Arc<Frontend>> {
        self.namespaces.get(namespace)?.frontends.get(name)
    }

    /// The document of this key.
    #[must_use]
    pub fn document(&self, key: &DocumentKey) -> Option<&Arc<Document>> {
        match key.kind {
            Kind::Backend => self.backend(&key.namespace, &key.name).map(|backend| &backend.document),
            Kind::Frontend => self.frontend(&key.namespace, &key.name).map(|frontend| &frontend.document),
            Kind::ServiceType | Kind::Application | Kind::CatalogVersion | Kind::Token | Kind::Namespace => None,
        }
    }

    /// Every frontend.
    pub fn every_frontend(&self) -> impl Iterator<Item = &Arc<Frontend>> {
        self.namespaces.values().flat_map(|held| held.frontends.values())
    }

    /// The frontends of a namespace that name a backend, in order of name.
    pub fn users<'a>(&'a self, namespace: &str, backend: &'a str) -> impl Iterator<Item = &'a Arc<Frontend>> {
        let frontends = self.namespaces.get(namespace).into_iter().flat_map(|held| held.frontends.values());
        frontends.filter(move |frontend| frontend.uses(backend))
    }

    /// Whether a backend names the service.
    #[must_use]
    pub fn names(&self, namespace: &str, service: &str) -> bool {
        // Most registries have none, and this is asked of every service.
        !self.named.is_empty() && self.named.contains_key(&(namespace.into(), service.into()))
    }

    /// Holds `document` under `key`, or frees the key, and gives the document that was there. Bytes that are none of
    /// the kind's are passed over: no command makes such.
    pub(in crate::registry) fn hold(
        &mut self,
        key: &DocumentKey,
        document: Option<&Arc<Document>>,
    ) -> Option<Arc<Document>> {
        let mut held = self.namespaces.remove(&key.namespace).unwrap_or_default();
        let before = match key.kind {
            Kind::Backend => {
                let now = document.and_then(Backend::of).map(Arc::new);
                let before = replace(&mut held.backends, &key.name, now.clone());
                self.backends = self.backends + u64::from(now.is_some()) - u64::from(before.is_some());
                self.count_named(now.as_deref(), before.as_deref());
                before.map(|backend| Arc::clone(&backend.document))
            }
            Kind::Frontend => {
                let now = document.and_then(Frontend::of).map(Arc::new);
                let is_there = u64::from(now.is_some());
                let before = replace(&mut held.frontends, &key.name, now);
                self.frontends = self.frontends + is_there - u64::from(before.is_some());
                before.map(|frontend| Arc::clone(&frontend.document))
            }
            Kind::ServiceType | Kind::Application | Kind::CatalogVersion | Kind::Token | Kind::Namespace => None,
        };
        if !held.backends.is_empty() || !held.frontends.is_empty() {
            self.namespaces.insert(key.namespace.clone(), held);
        }
        before
    }

    fn count_named(&mut self, now: Option<&Backend>, before: Option<&Backend>) {
        let name = |backend: &Backend| (backend.namespace().clone(), backend.service.clone());
        if let Some(now) = now {
            *self.named.entry(name(now)).or_insert(0) += 1;
        }
        if let Some(before) = before.map(name)
            && let Some(count) = self.named.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.named.remove(&before);
            }
        }
    }
}

fn replace<T: Clone>(map: &mut OrdMap<SmolStr, T>, name: &SmolStr, now: Option<T>) -> Option<T> {
    match now {
        Some(now) => map.insert(name.clone(), now),
        None => map.remove(name),
    }
}
