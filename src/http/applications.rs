//! `/applications` and `/services`: the catalog as clients of Flow Commerce's registry ask for it, by forms and JSON, with
//! its statuses and sentences. Each request is a call of `onair.v1.Catalog` in the namespace `default`; no rule is here.

mod form;
mod lists;
mod shapes;
mod whole;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::Response,
    routing::{get, put},
};
use bytes::Bytes;
use http::{
    HeaderValue, StatusCode, Uri,
    header::{CONTENT_TYPE, LOCATION},
    request::Parts,
    uri::PathAndQuery,
};
use prost::Message;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt as _};

use self::form::{Fields, Read};
use super::{
    api::{ApiOptions, JSON},
    body,
    call::{Caller, Grpc},
    problem,
};
use crate::{
    grpc::{
        Dispatch,
        status::{self, Reason},
    },
    metrics::Front,
    proto::*,
};

/// What a handler needs.
#[derive(Clone)]
struct Catalog {
    grpc: Grpc,
    max_bytes: usize,
}

/// An answer, or the status of the call that has none.
type Answer = Result<Response<Body>, Status>;

/// The routes, over these services.
pub fn router(services: Dispatch, options: ApiOptions) -> Router {
    let catalog = Arc::new(Catalog { grpc: Grpc::new(services), max_bytes: options.max_message_bytes });
    Router::new()
        .route("/applications", get(list_applications).post(create_application))
        .route("/applications/versions", get(application_versions))
        .route("/applications/yaml", get(yaml))
        .route("/applications/{id}", get(application).put(put_application).delete(delete_application))
        .route("/applications/{id}/dependencies/{dependency}", put(add_dependency).delete(remove_dependency))
        .route("/services", get(list_services).post(create_service))
        .route("/services/versions", get(service_versions))
        .route("/services/{id}", get(service).put(put_service).delete(delete_service))
        .with_state(catalog)
}

impl Catalog {
    async fn call<Q: Message, R: Message + Default>(
        &self,
        parts: &mut Parts,
        method: &'static str,
        request: &Q,
    ) -> Result<R, Status> {
        let internal = |error: &dyn std::fmt::Display| status::plain(Reason::Internal, error.to_string());
        let path: PathAndQuery = format!("/onair.v1.Catalog/{method}").parse().map_err(|error| internal(&error))?;
        let caller = Caller::of(parts, Front::Http);
        let reply = self.grpc.unary(&path, caller, &request.encode_to_vec()).await?;
        R::decode(reply).map_err(|error| internal(&error))
    }

    async fn fields(&self, parts: &Parts, body: Body) -> Result<Fields, Status> {
        let bytes: Bytes = body::read(body, self.max_bytes).await?;
        Fields::of_body(&parts.headers, &bytes)
    }
}

/// The answer of a handler: refusals in the manner of these routes.
fn answered(answer: Answer) -> Response<Body> {
    answer.unwrap_or_else(|status| match status.code() {
        _ if status::reason_of(&status) == Reason::UnsupportedMediaType => problem::response(&status),
        Code::NotFound => empty(StatusCode::NOT_FOUND),
        Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition => {
            let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
            // The catalog's own sentences say of what they are; those of every call leave that to the field.
            let message = |FieldViolation { field, description, .. }| match description.starts_with("must ") {
                true => format!("{field} {description}"),
                false => description,
            };
            let mut messages: Vec<String> = violations.into_iter().map(message).collect();
            if messages.is_empty() {
                messages.push(status.message().to_owned());
            }
            body_of(StatusCode::UNPROCESSABLE_ENTITY, &json!({"code": "generic_error", "messages": messages}))
        }
        _ => problem::of_call(&status),
    })
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn body_of(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// What was made, and where it is.
fn made(created: bool, path: &str, value: &Value) -> Response<Body> {
    let mut response = body_of(if created { StatusCode::CREATED } else { StatusCode::OK }, value);
    // An id that the catalog takes is one that a header takes.
    if let (true, Ok(at)) = (created, HeaderValue::try_from(path)) {
        response.headers_mut().insert(LOCATION, at);
    }
    response
}

fn application_made(created: bool, application: Option<Application>) -> Response<Body> {
    let application = application.unwrap_or_default();
    made(created, &format!("/applications/{}", application.id), &shapes::application(&application))
}

fn service_made(created: bool, service: Option<ServiceType>) -> Response<Body> {
    let service = service.unwrap_or_default();
    made(created, &format!("/services/{}", service.id), &shapes::service(&service))
}

/// The answer to what a request asks for without a body.
async fn asked<Q: Message, R: Message + Default>(
    catalog: &Catalog,
    request: Request,
    method: &'static str,
    read: impl FnOnce(&Uri) -> Result<Q, Status>,
    show: impl FnOnce(R) -> Response<Body>,
) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let answer = async {
        let wanted = read(&parts.uri)?;
        catalog.call(&mut parts, method, &wanted).await.map(show)
    };
    answered(answer.await)
}

/// The answer to what a request's body wants to be so.
async fn changed<Q: Message, R: Message + Default>(
    catalog: &Catalog,
    request: Request,
    method: &'static str,
    read: impl FnOnce(Fields) -> Read<Q>,
    show: impl FnOnce(R) -> Response<Body>,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let answer = async {
        let Read { request, faults } = read(catalog.fields(&parts, body).await?);
        faults.told(catalog.call(&mut parts, method, &request).await).map(show)
    };
    answered(answer.await)
}

async fn list_applications(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    if let Some(form) = whole::Form::wanted(request.headers()) {
        let (parts, _) = request.into_parts();
        return answered(whole::answer(catalog, parts, form).await);
    }
    lists::answer(&catalog, request, |fields| fields.applications()).await
}

async fn application(State(catalog): State<Arc<Catalog>>, Path(id): Path<String>, request: Request) -> Response<Body> {
    let wanted = GetApplicationRequest { id, ..Default::default() };
    let show = |found: GetApplicationResponse| {
        body_of(StatusCode::OK, &shapes::application(&found.application.unwrap_or_default()))
    };
    asked(&catalog, request, "GetApplication", |_| Ok(wanted), show).await
}

async fn create_application(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let show = |made: CreateApplicationResponse| application_made(true, made.application);
    changed(&catalog, request, "CreateApplication", |fields| fields.create(), show).await
}

async fn put_application(
    State(catalog): State<Arc<Catalog>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let show = |made: PutApplicationResponse| application_made(made.created, made.application);
    changed(&catalog, request, "PutApplication", |fields| fields.put(id), show).await
}

async fn delete_application(
    State(catalog): State<Arc<Catalog>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let wanted = DeleteApplicationRequest { id, ..Default::default() };
    let show = |_: DeleteApplicationResponse| empty(StatusCode::NO_CONTENT);
    asked(&catalog, request, "DeleteApplication", |_| Ok(wanted), show).await
}

async fn add_dependency(
    State(catalog): State<Arc<Catalog>>,
    Path((id, dependency)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let wanted = AddDependencyRequest { id, dependency, ..Default::default() };
    let show = |made: AddDependencyResponse| application_made(false, made.application);
    asked(&catalog, request, "AddDependency", |_| Ok(wanted), show).await
}

async fn remove_dependency(
    State(catalog): State<Arc<Catalog>>,
    Path((id, dependency)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let wanted = RemoveDependencyRequest { id, dependency, ..Default::default() };
    let show = |made: RemoveDependencyResponse| application_made(false, made.application);
    asked(&catalog, request, "RemoveDependency", |_| Ok(wanted), show).await
}

async fn application_versions(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    lists::answer(&catalog, request, |fields| fields.versions(CatalogKind::Application, "application")).await
}

async fn service_versions(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    lists::answer(&catalog, request, |fields| fields.versions(CatalogKind::ServiceType, "service")).await
}

async fn yaml(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    answered(whole::answer(catalog, parts, whole::Form::Plain).await)
}

async fn list_services(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    lists::answer(&catalog, request, |fields| fields.services()).await
}

async fn service(State(catalog): State<Arc<Catalog>>, Path(id): Path<String>, request: Request) -> Response<Body> {
    let wanted = GetServiceTypeRequest { id, ..Default::default() };
    let show = |found: GetServiceTypeResponse| {
        body_of(StatusCode::OK, &shapes::service(&found.service_type.unwrap_or_default()))
    };
    asked(&catalog, request, "GetServiceType", |_| Ok(wanted), show).await
}

async fn create_service(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let show = |made: CreateServiceTypeResponse| service_made(true, made.service_type);
    changed(&catalog, request, "CreateServiceType", |fields| fields.create_service(), show).await
}

async fn put_service(State(catalog): State<Arc<Catalog>>, Path(id): Path<String>, request: Request) -> Response<Body> {
    let show = |made: PutServiceTypeResponse| service_made(made.created, made.service_type);
    changed(&catalog, request, "PutServiceType", |fields| fields.put_service(id), show).await
}

async fn delete_service(
    State(catalog): State<Arc<Catalog>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let wanted = DeleteServiceTypeRequest { id, ..Default::default() };
    let show = |_: DeleteServiceTypeResponse| empty(StatusCode::NO_CONTENT);
    asked(&catalog, request, "DeleteServiceType", |_| Ok(wanted), show).await
}
