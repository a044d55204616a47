//! `onair.v1.Deployments`: each call is read, handed to the registry, and answered. No rule of it lives here.

use std::sync::Arc;

use prost_types::Struct;
use tonic::{Request, Response, Status};

use super::{
    convert, deadline,
    server::deployments_server::Deployments,
    status::{self, Reason},
};
use crate::{
    access::{Gate, Permission, Who},
    actor::{Deployment, Impact, ListQuery, RegistryHandle, Standing},
    proto::{self, *},
    registry::{
        self, Action, DEFAULT_NAMESPACE, Error, Frontend as Pointer, Past, TargetText, Unmoved, Violation, check_name,
        decode_fields,
    },
};

/// The service.
#[derive(Clone, Debug)]
pub struct DeploymentsService {
    handle: RegistryHandle,
    gate: Gate,
}

/// Who asks, and until when they wait.
struct Asked {
    who: Who,
    deadline: Option<tokio::time::Instant>,
}

/// A change as it was read, or everything that is wrong with it.
type Read = Result<(smol_str::SmolStr, Action), Vec<Violation>>;

impl DeploymentsService {
    /// The service over `handle`, for those whom the gate let in.
    #[must_use]
    pub fn new(handle: RegistryHandle, gate: Gate) -> Self {
        Self { handle, gate }
    }

    async fn change(&self, asked: &Asked, read: Read) -> Result<Deployment, Status> {
        let read = read.map_err(Error::Invalid)?;
        may_deploy(&self.handle, &asked.who, &read)?;
        let done = self.handle.deploy(read, asked.who.allowed(), asked.deadline).await;
        Ok(done.map_err(|error| asked.who.told(error))?)
    }

    /// Who asks, and until when they wait.
    fn asked<T>(&self, request: &Request<T>) -> Result<Asked, Status> {
        Ok(Asked { who: self.gate.who(request.extensions())?, deadline: deadline::of(request) })
    }

    /// Whether a backend is there, for all that the caller may know: who may not read it is refused later.
    fn has_backend(&self, asked: &Asked, namespace: &str, name: &str) -> bool {
        !asked.who.may(Permission::Read, namespace, name) || self.handle.has_backend(namespace, name)
    }

    async fn switch_to(&self, asked: &Asked, read: Read, dry_run: bool) -> Result<SwitchResponse, Status> {
        if dry_run {
            let read = read.map_err(Error::Invalid)?;
            may_deploy(&self.handle, &asked.who, &read)?;
            let (Unmoved { before, splits }, impact, revision) = self.handle.try_switch(read)?;
            let after = proto::Frontend {
                namespace: before.namespace().to_string(),
                name: before.name().to_string(),
                splits: splits.iter().map(split).collect(),
                fields: fields(&before.fields),
                ..proto::Frontend::default()
            };
            return Ok(switched(frontend(&before), after, impact, revision));
        }
        let Deployment { deployed, before, revision } = self.change(asked, read).await?;
        let (Standing::Frontend(after), Some(before)) = (deployed, before.as_ref().and_then(Pointer::of)) else {
            return Err(misanswered());
        };
        let impact = self.handle.impact(&before, &after.splits);
        Ok(switched(frontend(&before), frontend(&after), impact, revision))
    }
}

/// Refuses a change that is not allowed: the backends that it names, and the services behind them, are to be seen by it.
///
/// # Errors
/// `Permission`.
pub fn may_deploy(handle: &RegistryHandle, who: &Who, read: &(smol_str::SmolStr, Action)) -> Result<(), Error> {
    who.deploys(read)?;
    if who.caller().is_none() {
        return Ok(());
    }
    handle.services_shown_by(read).iter().try_for_each(|service| who.need(Permission::Read, &read.0, service))
}

fn misanswered() -> Status {
    status::plain(Reason::Internal, "a change of a backend or frontend was answered as something else")
}

fn switched(before: proto::Frontend, after: proto::Frontend, impact: Impact, revision: u64) -> SwitchResponse {
    let Impact { joined, left, watchers } = impact;
    SwitchResponse { before: Some(before), after: Some(after), joined, left, watchers, revision }
}

fn fields(kept: &bytes::Bytes) -> Option<Struct> {
    (!kept.is_empty()).then(|| decode_fields(kept))
}

fn backend(backend: &registry::Backend) -> proto::Backend {
    proto::Backend {
        namespace: backend.namespace().to_string(),
        name: backend.name().to_string(),
        service: backend.service.to_string(),
        version: backend.version.to_string(),
        revision: backend.revision(),
        fields: fields(&backend.fields),
    }
}

fn split(split: &registry::Split) -> proto::Split {
    proto::Split {
        backend: split.backend.to_string(),
        service: split.service.to_string(),
        version: split.version.to_string(),
        weight: split.weight,
    }
}

fn frontend(frontend: &Pointer) -> proto::Frontend {
    proto::Frontend {
        namespace: frontend.namespace().to_string(),
        name: frontend.name().to_string(),
        revision: frontend.revision(),
        splits: frontend.splits.iter().map(split).collect(),
        fields: fields(&frontend.fields),
        since: frontend.since,
        at: Some(frontend.at),
    }
}

fn history(frontend: &Pointer) -> Vec<HistoryEntry> {
    let entry = |since: u64, at, splits: &[registry::Split]| HistoryEntry {
        since,
        at: Some(at),
        splits: splits.iter().map(split).collect(),
    };
    let now = entry(frontend.since, frontend.at, &frontend.splits);
    let past = |past: &Past| entry(past.since, past.at, &past.splits);
    std::iter::once(now).chain(frontend.history.iter().map(past)).collect()
}

fn targets(targets: Vec<Target>) -> Vec<TargetText> {
    targets.into_iter().map(|Target { backend, weight }| TargetText { backend, weight }).collect()
}

/// Namespace and name of what is asked for.
fn named(namespace: String, field: &str, name: String, missing: &str) -> Result<(String, String), Error> {
    let mut violations = Vec::new();
    let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE.to_owned() } else { namespace };
    check_name("namespace", &namespace, &mut violations);
    if name.is_empty() {
        violations.push(Violation { field: field.to_owned(), description: missing.to_owned() });
    } else {
        check_name(field, &name, &mut violations);
    }
    if violations.is_empty() { Ok((namespace, name)) } else { Err(Error::Invalid(violations)) }
}

fn list(who: &Who, namespace: String, prefix: String, limit: u32, page_token: String) -> Result<ListQuery, Error> {
    let query = convert::list(ListServicesRequest { namespace, prefix, limit, page_token, ..Default::default() })?;
    let within = who.lists(query.namespace.as_deref())?;
    Ok(ListQuery { within, ..query })
}

fn made_backend(deployed: &Standing) -> Result<proto::Backend, Status> {
    match deployed {
        Standing::Backend(made) => Ok(backend(made)),
        _ => Err(misanswered()),
    }
}

fn made_frontend(deployed: &Standing) -> Result<proto::Frontend, Status> {
    match deployed {
        Standing::Frontend(made) => Ok(frontend(made)),
        _ => Err(misanswered()),
    }
}

#[tonic::async_trait]
impl Deployments for DeploymentsService {
    async fn create_backend(
        &self,
        request: Request<CreateBackendRequest>,
    ) -> Result<Response<CreateBackendResponse>, Status> {
        let asked = self.asked(&request)?;
        let CreateBackendRequest { namespace, name, service, version, fields } = request.into_inner();
        let read = Action::create_backend(&namespace, &name, (&service, &version), fields);
        let Deployment { deployed, revision, .. } = self.change(&asked, read).await?;
        Ok(Response::new(CreateBackendResponse { backend: Some(made_backend(&deployed)?), revision }))
    }

    async fn get_backend(&self, request: Request<GetBackendRequest>) -> Result<Response<GetBackendResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let GetBackendRequest { namespace, name } = request.into_inner();
        let (namespace, name) = named(namespace, "name", name, "Backend name is required")?;
        who.need(Permission::Read, &namespace, &name)?;
        let (found, revision) = self.handle.backend(&namespace, &name)?;
        Ok(Response::new(GetBackendResponse { backend: Some(backend(&found)), revision }))
    }

    async fn list_backends(
        &self,
        request: Request<ListBackendsRequest>,
    ) -> Result<Response<ListBackendsResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let ListBackendsRequest { namespace, prefix, limit, page_token } = request.into_inner();
        let page = self.handle.list_backends(&list(&who, namespace, prefix, limit, page_token)?)?;
        Ok(Response::new(ListBackendsResponse {
            backends: page.found.iter().map(|one| backend(one)).collect(),
            next_page_token: page.next_page_token,
            revision: page.revision,
        }))
    }

    async fn update_backend(
        &self,
        request: Request<UpdateBackendRequest>,
    ) -> Result<Response<UpdateBackendResponse>, Status> {
        let asked = self.asked(&request)?;
        let UpdateBackendRequest { namespace, name, service, version, fields, expected_revision } =
            request.into_inner();
        let words = (service.as_deref(), version.as_deref());
        let read = Action::update_backend(&namespace, &name, words, fields, expected_revision);
        let Deployment { deployed, revision, .. } = self.change(&asked, read).await?;
        Ok(Response::new(UpdateBackendResponse { backend: Some(made_backend(&deployed)?), revision }))
    }

    async fn delete_backend(
        &self,
        request: Request<DeleteBackendRequest>,
    ) -> Result<Response<DeleteBackendResponse>, Status> {
        let asked = self.asked(&request)?;
        let DeleteBackendRequest { namespace, name, expected_revision } = request.into_inner();
        let read = Action::delete_backend(&namespace, &name, expected_revision);
        let Deployment { revision, .. } = self.change(&asked, read).await?;
        Ok(Response::new(DeleteBackendResponse { revision }))
    }

    async fn create_frontend(
        &self,
        request: Request<CreateFrontendRequest>,
    ) -> Result<Response<CreateFrontendResponse>, Status> {
        let asked = self.asked(&request)?;
        let CreateFrontendRequest { namespace, name, splits, fields } = request.into_inner();
        let exists = |namespace: &str, name: &str| self.has_backend(&asked, namespace, name);
        let read = Action::create_frontend(&namespace, &name, &targets(splits), fields, &exists);
        let Deployment { deployed, revision, .. } = self.change(&asked, read).await?;
        Ok(Response::new(CreateFrontendResponse { frontend: Some(made_frontend(&deployed)?), revision }))
    }

    async fn get_frontend(
        &self,
        request: Request<GetFrontendRequest>,
    ) -> Result<Response<GetFrontendResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let GetFrontendRequest { namespace, name } = request.into_inner();
        let (namespace, name) = named(namespace, "name", name, "Frontend name is required")?;
        who.need(Permission::Read, &namespace, &name)?;
        let (found, revision) = self.handle.frontend(&namespace, &name)?;
        Ok(Response::new(GetFrontendResponse { frontend: Some(frontend(&found)), revision }))
    }

    async fn list_frontends(
        &self,
        request: Request<ListFrontendsRequest>,
    ) -> Result<Response<ListFrontendsResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let ListFrontendsRequest { namespace, prefix, limit, page_token } = request.into_inner();
        let page = self.handle.list_frontends(&list(&who, namespace, prefix, limit, page_token)?)?;
        Ok(Response::new(ListFrontendsResponse {
            frontends: page.found.iter().map(|one| frontend(one)).collect(),
            next_page_token: page.next_page_token,
            revision: page.revision,
        }))
    }

    async fn update_frontend(
        &self,
        request: Request<UpdateFrontendRequest>,
    ) -> Result<Response<UpdateFrontendResponse>, Status> {
        let asked = self.asked(&request)?;
        let UpdateFrontendRequest { namespace, name, splits, fields, expected_revision } = request.into_inner();
        let exists = |namespace: &str, name: &str| self.has_backend(&asked, namespace, name);
        let read = Action::update_frontend(&namespace, &name, &targets(splits), fields, expected_revision, &exists);
        let Deployment { deployed, revision, .. } = self.change(&asked, read).await?;
        Ok(Response::new(UpdateFrontendResponse { frontend: Some(made_frontend(&deployed)?), revision }))
    }

    async fn delete_frontend(
        &self,
        request: Request<DeleteFrontendRequest>,
    ) -> Result<Response<DeleteFrontendResponse>, Status> {
        let asked = self.asked(&request)?;
        let DeleteFrontendRequest { namespace, name, expected_revision } = request.into_inner();
        let read = Action::delete_frontend(&namespace, &name, expected_revision);
        let Deployment { revision, .. } = self.change(&asked, read).await?;
        Ok(Response::new(DeleteFrontendResponse { revision }))
    }

    async fn switch(&self, request: Request<SwitchRequest>) -> Result<Response<SwitchResponse>, Status> {
        let asked = self.asked(&request)?;
        let SwitchRequest { namespace, frontend, to, splits, expected_revision, dry_run } = request.into_inner();
        let exists = |namespace: &str, name: &str| self.has_backend(&asked, namespace, name);
        let wanted = (to.as_str(), &*targets(splits));
        let read = Action::switch(&namespace, &frontend, wanted, expected_revision, &exists);
        self.switch_to(&asked, read, dry_run).await.map(Response::new)
    }

    async fn switch_back(&self, request: Request<SwitchBackRequest>) -> Result<Response<SwitchBackResponse>, Status> {
        let asked = self.asked(&request)?;
        let SwitchBackRequest { namespace, frontend, to_revision, expected_revision, dry_run } = request.into_inner();
        let read = Action::back(&namespace, &frontend, to_revision, expected_revision);
        let SwitchResponse { before, after, joined, left, watchers, revision } =
            self.switch_to(&asked, read, dry_run).await?;
        Ok(Response::new(SwitchBackResponse { before, after, joined, left, watchers, revision }))
    }

    async fn get_frontend_history(
        &self,
        request: Request<GetFrontendHistoryRequest>,
    ) -> Result<Response<GetFrontendHistoryResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let GetFrontendHistoryRequest { namespace, frontend } = request.into_inner();
        let (namespace, name) = named(namespace, "frontend", frontend, "Frontend name is required")?;
        who.need(Permission::Read, &namespace, &name)?;
        let (found, revision): (Arc<Pointer>, u64) = self.handle.frontend(&namespace, &name)?;
        Ok(Response::new(GetFrontendHistoryResponse { entries: history(&found), revision }))
    }
}
