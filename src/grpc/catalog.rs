//! `onair.v1.Catalog`: each call is read, handed to the registry, and answered. No rule of it lives here.

mod answer;
mod import;
mod live;
mod read;

use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::{Request, Response, Status, Streaming};

pub(super) use self::answer::application;
pub use self::{
    answer::REPLY_BYTES_MAX,
    import::{IMPORTS_MAX, LIST_BYTES_MAX},
    live::ReadyReplies,
    read::{FILTER_MAX, START_MAX},
};
use super::{
    allowed::Allowed,
    deadline,
    server::catalog_server::Catalog,
    status::{self, Reason},
};
use crate::{
    access::{Gate, Permission, Who},
    actor::{CatalogList, Deployment, RegistryHandle, Standing},
    proto::*,
    registry::{
        ALL_NAMESPACES, Error, Kind,
        catalog::{self, Book, CatalogAction},
    },
};

/// The service.
#[derive(Clone, Debug)]
pub struct CatalogService {
    handle: RegistryHandle,
    gate: Gate,
}

/// Which entry a change is about, and of which revision it has to be.
struct About {
    namespace: smol_str::SmolStr,
    expected: u64,
    asked: Asked,
}

/// Who asks, and until when they wait.
struct Asked {
    who: Who,
    deadline: Option<tokio::time::Instant>,
}

impl CatalogService {
    /// The service over `handle`, for those whom the gate let in.
    #[must_use]
    pub fn new(handle: RegistryHandle, gate: Gate) -> Self {
        Self { handle, gate }
    }

    /// Who asks, and until when they wait.
    fn asked<T>(&self, request: &Request<T>) -> Result<Asked, Status> {
        Ok(Asked { who: self.gate.who(request.extensions())?, deadline: deadline::of(request) })
    }

    async fn change(&self, about: About, action: CatalogAction) -> Result<Deployment, Status> {
        let About { namespace, expected, asked: Asked { who, deadline } } = about;
        // An application is judged by its name, as a service is; the kinds of programs are all of the namespace's.
        match action.subject() {
            (Kind::Application, id) => who.need(Permission::Catalog, &namespace, id)?,
            _ => who.need_all(Permission::Catalog, &namespace)?,
        }
        Ok(self.handle.change_catalog(namespace, action, expected, who.allowed(), deadline).await?)
    }

    async fn change_application(&self, about: About, action: CatalogAction) -> Result<Changed<Application>, Status> {
        let Deployment { deployed, before, revision } = self.change(about, action).await?;
        match deployed {
            Standing::Application(entry) => {
                let namespace = &entry.document.key.namespace;
                Ok(Changed { now: answer::application(namespace, &entry), created: before.is_none(), revision })
            }
            _ => Err(misanswered()),
        }
    }

    async fn change_type(&self, about: About, action: CatalogAction) -> Result<Changed<ServiceType>, Status> {
        let Deployment { deployed, before, revision } = self.change(about, action).await?;
        match deployed {
            Standing::ServiceType(entry) => {
                let namespace = &entry.document.key.namespace;
                Ok(Changed { now: answer::service_type(namespace, &entry), created: before.is_none(), revision })
            }
            _ => Err(misanswered()),
        }
    }

    /// The catalog of a namespace that a read names, for who may read this entry of it, or all.
    fn book(&self, who: &Who, namespace: &str, id: Option<&str>) -> Result<(smol_str::SmolStr, Book, u64), Status> {
        let namespace = read::namespace_to_read(namespace)?;
        match id {
            Some(id) => who.need(Permission::Read, &namespace, id)?,
            None => who.need_all(Permission::Read, &namespace)?,
        }
        let (book, revision) = self.handle.book(&namespace);
        Ok((namespace, book, revision))
    }
}

/// An entry after a change.
struct Changed<T> {
    now: T,
    created: bool,
    revision: u64,
}

fn misanswered() -> Status {
    status::plain(Reason::Internal, "a change of the catalog was answered as something else")
}

fn no_such(kind: &'static str, namespace: &str, id: &str) -> Status {
    Error::NoSuch { kind, name: format!("{namespace}/{id}") }.into()
}

#[tonic::async_trait]
impl Catalog for CatalogService {
    async fn create_service_type(
        &self,
        request: Request<CreateServiceTypeRequest>,
    ) -> Result<Response<CreateServiceTypeResponse>, Status> {
        let asked = self.asked(&request)?;
        let CreateServiceTypeRequest { namespace, id, default_port, offset } = request.into_inner();
        let (namespace, draft) = read::service_type(&namespace, id, default_port, offset);
        let (about, action) = (About { namespace, expected: 0, asked }, CatalogAction::CreateType(draft));
        let Changed { now, revision, .. } = self.change_type(about, action).await?;
        Ok(Response::new(CreateServiceTypeResponse { service_type: Some(now), revision }))
    }

    async fn get_service_type(
        &self,
        request: Request<GetServiceTypeRequest>,
    ) -> Result<Response<GetServiceTypeResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let GetServiceTypeRequest { namespace, id } = request.into_inner();
        let (namespace, book, revision) = self.book(&who, &namespace, Some(&id))?;
        let entry = book.types().get(id.as_str()).ok_or_else(|| no_such("ServiceType", &namespace, &id))?;
        let service_type = Some(answer::service_type(&namespace, entry));
        Ok(Response::new(GetServiceTypeResponse { service_type, revision }))
    }

    async fn list_service_types(
        &self,
        request: Request<ListServiceTypesRequest>,
    ) -> Result<Response<ListServiceTypesResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let mut request = request.into_inner();
        let namespace = std::mem::take(&mut request.namespace);
        let namespace = read::namespace_to_read(&namespace)?;
        let (ids, read::Part { sort, page, after }) = read::service_types(request)?;
        who.need_all(Permission::Read, &namespace)?;
        let list = self.handle.list_service_types(namespace, &ids, sort, page, after).await;
        let CatalogList { found, total, next_page_token, revision } = list;
        let service_types = found.iter().map(|(of, entry)| answer::service_type(of, entry)).collect();
        Ok(Response::new(ListServiceTypesResponse { service_types, total, revision, next_page_token }))
    }

    async fn put_service_type(
        &self,
        request: Request<PutServiceTypeRequest>,
    ) -> Result<Response<PutServiceTypeResponse>, Status> {
        let asked = self.asked(&request)?;
        let PutServiceTypeRequest { namespace, id, default_port, offset, expected_revision } = request.into_inner();
        let (namespace, draft) = read::service_type(&namespace, id, default_port, offset);
        let about = About { namespace, expected: expected_revision, asked };
        let action = CatalogAction::PutType(draft);
        let Changed { now, created, revision } = self.change_type(about, action).await?;
        Ok(Response::new(PutServiceTypeResponse { service_type: Some(now), revision, created }))
    }

    async fn delete_service_type(
        &self,
        request: Request<DeleteServiceTypeRequest>,
    ) -> Result<Response<DeleteServiceTypeResponse>, Status> {
        let asked = self.asked(&request)?;
        let DeleteServiceTypeRequest { namespace, id, expected_revision } = request.into_inner();
        let about = About { namespace: read::namespace(&namespace)?, expected: expected_revision, asked };
        let Deployment { revision, .. } = self.change(about, CatalogAction::DeleteType(id.into())).await?;
        Ok(Response::new(DeleteServiceTypeResponse { revision }))
    }

    async fn create_application(
        &self,
        request: Request<CreateApplicationRequest>,
    ) -> Result<Response<CreateApplicationResponse>, Status> {
        let asked = self.asked(&request)?;
        let (namespace, draft) = read::create(request.into_inner());
        let about = About { namespace, expected: 0, asked };
        let Changed { now, revision, .. } = self.change_application(about, CatalogAction::Create(draft)).await?;
        Ok(Response::new(CreateApplicationResponse { application: Some(now), revision }))
    }

    async fn get_application(
        &self,
        request: Request<GetApplicationRequest>,
    ) -> Result<Response<GetApplicationResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let GetApplicationRequest { namespace, id } = request.into_inner();
        let (namespace, book, revision) = self.book(&who, &namespace, Some(&id))?;
        let entry = book.applications().get(id.as_str()).ok_or_else(|| no_such("Application", &namespace, &id))?;
        let application = Some(answer::application(&namespace, entry));
        Ok(Response::new(GetApplicationResponse { application, revision }))
    }

    async fn list_applications(
        &self,
        request: Request<ListApplicationsRequest>,
    ) -> Result<Response<ListApplicationsResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let mut request = request.into_inner();
        let namespace = std::mem::take(&mut request.namespace);
        let one = (namespace != ALL_NAMESPACES).then(|| read::namespace_to_read(&namespace)).transpose()?;
        let (query, read::Part { sort, page, after }) = read::applications(request)?;
        match &one {
            Some(namespace) => who.need_all(Permission::Read, namespace)?,
            None => who.need_everywhere(Permission::Read)?,
        }
        let list = self.handle.list_applications(one, &query, sort, page, after).await;
        let CatalogList { found, total, next_page_token, revision } = list;
        let applications = found.iter().map(|(of, entry)| answer::application(of, entry)).collect();
        Ok(Response::new(ListApplicationsResponse { applications, total, revision, next_page_token }))
    }

    async fn put_application(
        &self,
        request: Request<PutApplicationRequest>,
    ) -> Result<Response<PutApplicationResponse>, Status> {
        let asked = self.asked(&request)?;
        let request = request.into_inner();
        let expected = request.expected_revision;
        let (namespace, draft) = read::put(request);
        let about = About { namespace, expected, asked };
        let Changed { now, created, revision } = self.change_application(about, CatalogAction::Put(draft)).await?;
        Ok(Response::new(PutApplicationResponse { application: Some(now), revision, created }))
    }

    async fn delete_application(
        &self,
        request: Request<DeleteApplicationRequest>,
    ) -> Result<Response<DeleteApplicationResponse>, Status> {
        let asked = self.asked(&request)?;
        let DeleteApplicationRequest { namespace, id, expected_revision } = request.into_inner();
        let about = About { namespace: read::namespace(&namespace)?, expected: expected_revision, asked };
        let Deployment { revision, .. } = self.change(about, CatalogAction::Delete(id.into())).await?;
        Ok(Response::new(DeleteApplicationResponse { revision }))
    }

    async fn add_dependency(
        &self,
        request: Request<AddDependencyRequest>,
    ) -> Result<Response<AddDependencyResponse>, Status> {
        let asked = self.asked(&request)?;
        let AddDependencyRequest { namespace, id, dependency, expected_revision } = request.into_inner();
        let about = About { namespace: read::namespace(&namespace)?, expected: expected_revision, asked };
        let action = CatalogAction::Depend(id.into(), dependency.into());
        let Changed { now, revision, .. } = self.change_application(about, action).await?;
        Ok(Response::new(AddDependencyResponse { application: Some(now), revision }))
    }

    async fn remove_dependency(
        &self,
        request: Request<RemoveDependencyRequest>,
    ) -> Result<Response<RemoveDependencyResponse>, Status> {
        let asked = self.asked(&request)?;
        let RemoveDependencyRequest { namespace, id, dependency, expected_revision } = request.into_inner();
        let about = About { namespace: read::namespace(&namespace)?, expected: expected_revision, asked };
        let action = CatalogAction::Undepend(id.into(), dependency.into());
        let Changed { now, revision, .. } = self.change_application(about, action).await?;
        Ok(Response::new(RemoveDependencyResponse { application: Some(now), revision }))
    }

    async fn list_catalog_versions(
        &self,
        request: Request<ListCatalogVersionsRequest>,
    ) -> Result<Response<ListCatalogVersionsResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let mut request = request.into_inner();
        let namespace = std::mem::take(&mut request.namespace);
        let namespace = read::namespace_to_read(&namespace)?;
        let (query, page, after) = read::versions(request)?;
        who.need_all(Permission::Read, &namespace)?;
        let list = self.handle.list_catalog_versions(&namespace, &query, page, after).await;
        let CatalogList { found, total, next_page_token, revision } = list;
        let versions = found.iter().map(|version| answer::version(&namespace, version)).collect();
        Ok(Response::new(ListCatalogVersionsResponse { versions, total, revision, next_page_token }))
    }

    async fn get_start_order(
        &self,
        request: Request<GetStartOrderRequest>,
    ) -> Result<Response<GetStartOrderResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let GetStartOrderRequest { namespace, applications } = request.into_inner();
        let wanted = read::start(applications)?;
        let (namespace, book, revision) = self.book(&who, &namespace, None)?;
        let missing = wanted.iter().flatten().find(|id| !book.applications().contains_key(*id));
        if let Some(missing) = missing {
            return Err(no_such("Application", &namespace, missing));
        }
        let levels = aside(move || book.catalog().dependencies().start_order(wanted.as_deref())).await?;
        let levels = levels.map_err(answer::cycle)?;
        let response = GetStartOrderResponse { levels: answer::levels(levels), revision };
        answer::bounded(response, "ask for some applications")
    }

    async fn get_dependency_report(
        &self,
        request: Request<GetDependencyReportRequest>,
    ) -> Result<Response<GetDependencyReportResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let GetDependencyReportRequest { namespace, application, numbers_only } = request.into_inner();
        let (namespace, book, revision) = self.book(&who, &namespace, None)?;
        if !application.is_empty() && !book.applications().contains_key(application.as_str()) {
            return Err(no_such("Application", &namespace, &application));
        }
        let look = move || {
            let dependencies = book.catalog().dependencies();
            (dependencies.shape(), dependencies.affected_by(&application))
        };
        let (shape, affected) = aside(look).await?;
        let response = answer::report(shape.map_err(answer::cycle)?, answer::levels(affected), revision, numbers_only);
        answer::bounded(response, "ask for numbers_only")
    }

    type WaitReadyStream = Allowed<ReadyReplies>;

    async fn wait_ready(&self, request: Request<WaitReadyRequest>) -> Result<Response<Self::WaitReadyStream>, Status> {
        let (who, deadline) = (self.gate.who(request.extensions())?, deadline::of(&request));
        let (namespace, services, wait) = read::wait_ready(request.into_inner())?;
        let (within, named) = (namespace.clone(), services.clone());
        let shown = move |who: &Who| named.iter().try_for_each(|name| who.need(Permission::Read, &within, name));
        shown(&who)?;
        let replies = ReadyReplies(self.handle.wait_ready(namespace, services, wait, deadline, &who.allowed())?);
        Ok(Response::new(Allowed::new(replies, &self.gate, &who, shown)))
    }

    async fn get_catalog_status(
        &self,
        request: Request<GetCatalogStatusRequest>,
    ) -> Result<Response<GetCatalogStatusResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let mut request = request.into_inner();
        let namespace = read::namespace_to_read(&std::mem::take(&mut request.namespace))?;
        let (query, states, page, after) = read::status(request)?;
        who.need_all(Permission::Read, &namespace)?;
        let standings = self.handle.standings(&namespace, &query, &states, page, after).await;
        Ok(Response::new(live::standings(standings)))
    }

    type ImportApplicationsStreamStream = import::Progressing;

    async fn import_applications(
        &self,
        request: Request<ImportApplicationsRequest>,
    ) -> Result<Response<ImportApplicationsResponse>, Status> {
        Ok(Response::new(import::whole(&self.handle, &self.gate.who(request.extensions())?, request).await?))
    }

    async fn import_applications_stream(
        &self,
        request: Request<Streaming<ImportApplicationsStreamRequest>>,
    ) -> Result<Response<import::Progressing>, Status> {
        Ok(Response::new(import::streamed(self.handle.clone(), self.gate.who(request.extensions())?, request)))
    }

    async fn list_catalog(
        &self,
        request: Request<ListCatalogRequest>,
    ) -> Result<Response<ListCatalogResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let (namespace, limit, page_token) = read::page_of_catalog(request.into_inner())?;
        who.need_all(Permission::Read, &namespace)?;
        Ok(Response::new(answer::page_of_catalog(self.handle.catalog_page(&namespace, limit, &page_token)?)))
    }

    async fn list_ports(&self, request: Request<ListPortsRequest>) -> Result<Response<ListPortsResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let (namespace, first, last) = read::ports(request.into_inner())?;
        who.need_all(Permission::Read, &namespace)?;
        let (book, revision) = self.handle.book(&namespace);
        let (blocks, next) = catalog::blocks(&book, &self.handle.port_rules(), first, last);
        let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
        let blocks = blocks.into_iter().map(|block| answer::block(&book, block)).collect();
        Ok(Response::new(ListPortsResponse { blocks, revision, next_page_token }))
    }
}

/// Walks of the whole graph at one moment. More of them wait: each keeps a processor for itself as long as it takes.
static WALKS: Semaphore = Semaphore::const_new(2);

/// Looks at a whole catalog beside those who serve connections, who have no time for it.
async fn aside<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    // Never closed.
    let turn = WALKS.acquire().await.map_err(|_| Error::ShuttingDown)?;
    let looked = spawn_blocking(move || {
        // Kept until the end, also when nobody waits for it any more.
        let _turn = turn;
        look()
    });
    Ok(looked.await.map_err(|_| Error::ShuttingDown)?)
}
