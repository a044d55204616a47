//! What should become of a change of the deployments, judged on committed state alone. Changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use smol_str::SmolStr;

use super::{
    Action, Backend, BackendDraft, BackendPatch, Deploy, Frontend, FrontendDraft, FrontendPatch, MAX_BACKENDS,
    MAX_FRONTENDS, MAX_HISTORY, Past, Split, Target, command::missing, fields, stored,
};
use crate::registry::{
    Change, Decision, Error, Guarded, Held, Outcome, Registry,
    document::{Document, DocumentKey, DocumentPut, Kind},
    key::Revision,
};

/// What a frontend says now, and what it would say: for whoever asks before they switch.
#[derive(Clone, Debug)]
pub struct Unmoved {
    /// As it is.
    pub before: Arc<Frontend>,
    /// Where it would point.
    pub splits: Box<[Split]>,
}

type Refusable<T> = Result<T, Error>;

/// What is kept under a key from now on, and what it replaces.
fn put(key: DocumentKey, body: Option<Bytes>, before: Option<&Arc<Document>>) -> Guarded {
    let change = Change::Document(DocumentPut { key, body });
    Guarded { change, before: before.map(|document| Held::Document(Arc::clone(document))) }
}

fn expect(expected: Revision, revision: Revision) -> Refusable<()> {
    if expected == 0 || expected == revision { Ok(()) } else { Err(Error::StaleRevision { expected, revision }) }
}

impl Registry {
    /// What `deploy` leads to.
    pub(in crate::registry) fn deploy(&self, deploy: &Deploy) -> Decision {
        if !deploy.principal.operator {
            return Decision::Reply(Err(Error::Permission { permission: "deploy" }));
        }
        let decided = match &deploy.action {
            Action::CreateBackend(draft) => self.create_backend(deploy, draft),
            Action::UpdateBackend(patch) => self.update_backend(deploy, patch),
            Action::DeleteBackend { name, expected } => self.delete_backend(deploy, name, *expected),
            Action::CreateFrontend(draft) => self.create_frontend(deploy, draft),
            Action::UpdateFrontend(patch) => self.update_frontend(deploy, patch),
            Action::DeleteFrontend { name, expected } => self.delete_frontend(deploy, name, *expected),
            Action::Switch { name, targets, expected } => self.switch(deploy, name, targets, *expected),
            Action::Back { name, to, expected } => self.back(deploy, name, *to, *expected),
        };
        match decided {
            Err(error) => Decision::Reply(Err(error)),
            Ok((key, changes)) => {
                let before = self.deployments.document(&key).cloned();
                let outcome = Outcome::Deployed(key, before);
                // Without changes it is so already.
                if changes.is_empty() { Decision::Reply(Ok(outcome)) } else { Decision::Propose(changes, outcome) }
            }
        }
    }

    /// What a switch would do now.
    ///
    /// # Errors
    /// What the switch itself would be refused with.
    pub fn try_deploy(&self, deploy: &Deploy) -> Refusable<Unmoved> {
        match &deploy.action {
            Action::Switch { name, targets, expected } => {
                let before = self.expected_frontend(deploy, name, *expected)?;
                Ok(Unmoved { before: Arc::clone(before), splits: self.splits_of(&deploy.namespace, targets)? })
            }
            Action::Back { name, to, expected } => {
                let before = self.expected_frontend(deploy, name, *expected)?;
                Ok(Unmoved { before: Arc::clone(before), splits: self.earlier(before, *to)? })
            }
            _ => Err(Error::invalid("dry_run", "is for switches only")),
        }
    }

    fn create_backend(&self, deploy: &Deploy, draft: &BackendDraft) -> Refusable<(DocumentKey, Vec<Guarded>)> {
        let BackendDraft { name, service, version, fields } = draft;
        if self.deployments.backend(&deploy.namespace, name).is_some() {
            return Err(Error::AlreadyExists { kind: "Backend", name: named(deploy, name) });
        }
        check_room("max_backends", MAX_BACKENDS, self.deployments.backends())?;
        self.check_service_room(&deploy.namespace, service, 0)?;
        let key = key(deploy, Kind::Backend, name);
        let body = stored::backend(service, version, fields::encode(fields));
        Ok((key.clone(), vec![put(key, Some(body), None)]))
    }

    fn update_backend(&self, deploy: &Deploy, patch: &BackendPatch) -> Refusable<(DocumentKey, Vec<Guarded>)> {
        let current = self.expected_backend(deploy, &patch.name, patch.expected)?;
        let key = key(deploy, Kind::Backend, &patch.name);
        let service = patch.service.as_ref().unwrap_or(&current.service);
        let version = patch.version.as_ref().unwrap_or(&current.version);
        let fields = merged(&current.fields, patch.fields.as_ref())?;
        let moves = (service, version) != (&current.service, &current.version);
        if !moves && fields == current.fields {
            return Ok((key, Vec::new()));
        }
        if moves {
            self.check_service_room(&deploy.namespace, service, 0)?;
        }
        let body = stored::backend(service, version, fields);
        let mut changes = vec![put(key.clone(), Some(body), Some(&current.document))];
        if moves {
            for frontend in self.deployments.users(&deploy.namespace, &patch.name) {
                let follow = |split: &Split| match split.backend == patch.name {
                    true => Split { service: service.clone(), version: version.clone(), ..split.clone() },
                    false => split.clone(),
                };
                let splits = frontend.splits.iter().map(follow).collect();
                changes.push(pointed(deploy, frontend, splits, frontend.fields.clone()));
            }
        }
        Ok((key, changes))
    }

    fn delete_backend(
        &self,
        deploy: &Deploy,
        name: &SmolStr,
        expected: Revision,
    ) -> Refusable<(DocumentKey, Vec<Guarded>)> {
        let current = self.expected_backend(deploy, name, expected)?;
        let users: Vec<String> =
            self.deployments.users(&deploy.namespace, name).map(|user| user.name().to_string()).collect();
        if !users.is_empty() {
            return Err(Error::InUse { name: named(deploy, name), by: users });
        }
        let key = key(deploy, Kind::Backend, name);
        Ok((key.clone(), vec![put(key, None, Some(&current.document))]))
    }

    fn create_frontend(&self, deploy: &Deploy, draft: &FrontendDraft) -> Refusable<(DocumentKey, Vec<Guarded>)> {
        if self.deployments.frontend(&deploy.namespace, &draft.name).is_some() {
            return Err(Error::AlreadyExists { kind: "Frontend", name: named(deploy, &draft.name) });
        }
        let splits = self.splits_of(&deploy.namespace, &draft.targets)?;
        check_room("max_frontends", MAX_FRONTENDS, self.deployments.frontends())?;
        let key = key(deploy, Kind::Frontend, &draft.name);
        let body = stored::frontend(&splits, fields::encode(&draft.fields), None, deploy.at, &[]);
        Ok((key.clone(), vec![put(key, Some(body), None)]))
    }

    fn update_frontend(&self, deploy: &Deploy, patch: &FrontendPatch) -> Refusable<(DocumentKey, Vec<Guarded>)> {
        let current = self.expected_frontend(deploy, &patch.name, patch.expected)?;
        let splits = match &patch.targets {
            Some(targets) => self.splits_of(&deploy.namespace, targets)?,
            None => current.splits.clone(),
        };
        let fields = merged(&current.fields, patch.fields.as_ref())?;
        Ok(self.moved(deploy, current, splits, fields))
    }

    fn delete_frontend(
        &self,
        deploy: &Deploy,
        name: &SmolStr,
        expected: Revision,
    ) -> Refusable<(DocumentKey, Vec<Guarded>)> {
        let current = self.expected_frontend(deploy, name, expected)?;
        let key = key(deploy, Kind::Frontend, name);
        Ok((key.clone(), vec![put(key, None, Some(&current.document))]))
    }

    fn switch(
        &self,
        deploy: &Deploy,
        name: &SmolStr,
        targets: &[Target],
        expected: Revision,
    ) -> Refusable<(DocumentKey, Vec<Guarded>)> {
        let current = self.expected_frontend(deploy, name, expected)?;
        let splits = self.splits_of(&deploy.namespace, targets)?;
        Ok(self.moved(deploy, current, splits, current.fields.clone()))
    }

    fn back(
        &self,
        deploy: &Deploy,
        name: &SmolStr,
        to: Revision,
        expected: Revision,
    ) -> Refusable<(DocumentKey, Vec<Guarded>)> {
        let current = self.expected_frontend(deploy, name, expected)?;
        let splits = self.earlier(current, to)?;
        Ok(self.moved(deploy, current, splits, current.fields.clone()))
    }

    fn moved(
        &self,
        deploy: &Deploy,
        current: &Frontend,
        splits: Box<[Split]>,
        fields: Bytes,
    ) -> (DocumentKey, Vec<Guarded>) {
        let key = current.document.key.clone();
        if splits == current.splits && fields == current.fields {
            return (key, Vec::new());
        }
        (key, vec![pointed(deploy, current, splits, fields)])
    }

    /// What targets stand for now; refused with all that are missing.
    fn splits_of(&self, namespace: &str, targets: &[Target]) -> Refusable<Box<[Split]>> {
        let mut lost = Vec::new();
        let mut splits = Vec::with_capacity(targets.len());
        for (place, target) in targets.iter().enumerate() {
            match self.deployments.backend(namespace, &target.backend) {
                Some(backend) => splits.push(Split {
                    backend: target.backend.clone(),
                    service: backend.service.clone(),
                    version: backend.version.clone(),
                    weight: target.weight,
                }),
                None => lost.push(missing(place)),
            }
        }
        if lost.is_empty() { Ok(splits.into()) } else { Err(Error::MissingBackends(lost)) }
    }

    /// Where a frontend pointed earlier, as its backends are now. They may have moved since: of those places that are no
    /// other than today's none is one to go back to.
    fn earlier(&self, frontend: &Frontend, to: Revision) -> Refusable<Box<[Split]>> {
        let nothing = || Error::NothingBefore { name: frontend.name().to_string(), to };
        let targets = |past: &Past| -> Vec<Target> {
            let target = |split: &Split| Target { backend: split.backend.clone(), weight: split.weight };
            past.splits.iter().map(target).collect()
        };
        if to != 0 {
            let past = frontend.history.iter().find(|past| past.since == to).ok_or_else(nothing)?;
            return self.splits_of(frontend.namespace(), &targets(past));
        }
        for past in &frontend.history {
            let splits = self.splits_of(frontend.namespace(), &targets(past))?;
            if splits != frontend.splits {
                return Ok(splits);
            }
        }
        Err(nothing())
    }

    fn expected_backend(&self, deploy: &Deploy, name: &SmolStr, expected: Revision) -> Refusable<&Arc<Backend>> {
        let found = self.deployments.backend(&deploy.namespace, name);
        let current = found.ok_or_else(|| Error::NoSuch { kind: "Backend", name: named(deploy, name) })?;
        expect(expected, current.revision()).map(|()| current)
    }

    fn expected_frontend(&self, deploy: &Deploy, name: &SmolStr, expected: Revision) -> Refusable<&Arc<Frontend>> {
        let found = self.deployments.frontend(&deploy.namespace, name);
        let current = found.ok_or_else(|| Error::NoSuch { kind: "Frontend", name: named(deploy, name) })?;
        expect(expected, current.revision()).map(|()| current)
    }
}

fn key(deploy: &Deploy, kind: Kind, name: &SmolStr) -> DocumentKey {
    DocumentKey { kind, namespace: deploy.namespace.clone(), name: name.clone() }
}

fn named(deploy: &Deploy, name: &SmolStr) -> String {
    format!("{}/{name}", deploy.namespace)
}

fn check_room(limit: &'static str, maximum: u64, usage: u64) -> Refusable<()> {
    if usage < maximum { Ok(()) } else { Err(Error::Limit { limit, maximum, usage }) }
}

fn merged(kept: &Bytes, given: Option<&prost_types::Struct>) -> Refusable<Bytes> {
    let Some(given) = given else { return Ok(kept.clone()) };
    let merged = fields::merged(kept, given);
    match fields::too_large(&merged) {
        Some(violation) => Err(Error::Invalid(vec![violation])),
        None => Ok(merged),
    }
}

/// The frontend with other splits or fields. Only other splits are another entry of its history.
fn pointed(deploy: &Deploy, current: &Frontend, splits: Box<[Split]>, fields: Bytes) -> Guarded {
    let body = if splits == current.splits {
        stored::frontend(&splits, fields, Some(current.since), current.at, &current.history)
    } else {
        let history: Vec<Past> =
            std::iter::once(current.past()).chain(current.history.iter().cloned()).take(MAX_HISTORY).collect();
        stored::frontend(&splits, fields, None, deploy.at, &history)
    };
    put(current.document.key.clone(), Some(body), Some(&current.document))
}
