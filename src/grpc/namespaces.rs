//! What namespaces have and may have, as the API shows and sets it. A part of `onair.v1.Admin`.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use smol_str::SmolStr;
use tokio::time::Instant;

use super::admin::{AdminService, PAGE_MAX, REFUSED};
use crate::{
    access::{Permission, Who},
    actor::RegistryHandle,
    proto::{
        GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse, Namespace, Quotas, UpdateNamespaceRequest,
        UpdateNamespaceResponse, Usage,
    },
    registry::{Error, Quota, Settings, Whose, Write, check_name, check_new_namespace},
};

/// A quota as it is shown.
pub(super) fn shown(quota: &Quota) -> Quotas {
    let Quota { instances, watches, bytes, writes } = *quota;
    Quotas { instances, watches, bytes, writes_per_second: writes }
}

/// A quota as it is asked for.
pub(super) fn quota(asked: Quotas) -> Quota {
    let Quotas { instances, watches, bytes, writes_per_second: writes } = asked;
    Quota { instances, watches, bytes, writes }
}

/// What somebody has of a quota.
pub(super) fn usage(handle: &RegistryHandle, whose: &Whose, quota: &Quota) -> Usage {
    let used = handle.hub().registry().uses().of(whose);
    Usage {
        instances: used.instances,
        watches: handle.hub().seats().of(whose),
        bytes: used.bytes,
        writes: quota.writes.map_or(0, |maximum| handle.writes_used(whose, maximum)),
    }
}

/// The name of a namespace.
fn read(name: &str) -> Result<(), Error> {
    let mut violations = Vec::new();
    check_name("name", name, &mut violations);
    if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
}

impl AdminService {
    /// What is known of a namespace; none: nothing is.
    fn shown_namespace(&self, name: &str) -> Option<Namespace> {
        let (settings, services) = {
            let registry = self.handle.hub().registry();
            let services = registry.namespaces().get(name).map(|held| held.services.len() as u64);
            (registry.settings().get(name).cloned(), services)
        };
        if settings.is_none() && services.is_none() {
            return None;
        }
        let (quota, revision) = settings.map_or_else(Default::default, |held| (held.quota, held.document.revision));
        let usage = usage(&self.handle, &Whose::Namespace(name.into()), &quota);
        Some(Namespace {
            name: name.to_owned(),
            quotas: Some(shown(&quota)),
            usage: Some(usage),
            services: services.unwrap_or_default(),
            revision,
        })
    }

    pub(super) fn namespace(&self, who: &Who, name: &str) -> Result<GetNamespaceResponse, Error> {
        read(name)?;
        who.need_all(Permission::Read, name)?;
        let missing = || Error::NoSuch { kind: "Namespace", name: name.to_owned() };
        let namespace = self.shown_namespace(name).ok_or_else(missing)?;
        Ok(GetNamespaceResponse { namespace: Some(namespace), revision: self.handle.hub().registry().revision() })
    }

    pub(super) fn namespaces(&self, who: &Who, asked: ListNamespacesRequest) -> Result<ListNamespacesResponse, Error> {
        let ListNamespacesRequest { prefix, limit, page_token } = asked;
        let after = URL_SAFE_NO_PAD.decode(&page_token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let after = after.ok_or_else(|| Error::invalid("page_token", "is not one that a list gave"))?;
        let limit = if limit == 0 { PAGE_MAX } else { PAGE_MAX.min(limit as usize) };
        let (known, settings, revision) = {
            let registry = self.handle.hub().registry();
            (registry.namespaces().clone(), registry.settings().clone(), registry.revision())
        };
        let names: BTreeSet<&SmolStr> = known.keys().chain(settings.keys()).collect();
        let is_shown = |name: &&&SmolStr| {
            name.as_str() > after.as_str() && name.starts_with(&prefix) && who.may_all_of(Permission::Read, name)
        };
        let mut shown = names.iter().filter(is_shown);
        let namespaces: Vec<Namespace> =
            shown.by_ref().take(limit).filter_map(|name| self.shown_namespace(name)).collect();
        let last = namespaces.last().filter(|_| shown.next().is_some());
        let next_page_token = last.map_or_else(String::new, |last| URL_SAFE_NO_PAD.encode(&last.name));
        Ok(ListNamespacesResponse { namespaces, next_page_token, revision })
    }

    pub(super) async fn set_namespace(
        &self,
        who: &Who,
        asked: UpdateNamespaceRequest,
        deadline: Option<Instant>,
    ) -> Result<UpdateNamespaceResponse, Error> {
        let UpdateNamespaceRequest { name, quotas, expected_revision } = asked;
        let mut violations = Vec::new();
        check_new_namespace("name", &name, &mut violations);
        if !violations.is_empty() {
            return Err(Error::Invalid(violations));
        }
        who.is_about_namespace(&name);
        if !who.may_everywhere(Permission::Admin) {
            return Err(REFUSED);
        }
        let held = self.handle.hub().registry().settings().get(name.as_str()).cloned();
        let (was, at) = held.map_or_else(Default::default, |held| (held.quota, held.document.revision));
        if expected_revision > 0 && expected_revision != at {
            return Err(Error::StaleRevision { expected: expected_revision, revision: at });
        }
        let wanted = quotas.map_or(was, quota);
        let write = Write { key: Settings::key(&name), body: Settings::body(wanted), expected: at };
        let (_, revision) = self.handle.write(write, deadline).await?;
        Ok(UpdateNamespaceResponse { namespace: self.shown_namespace(&name), revision })
    }
}
