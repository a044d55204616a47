//! `/applications` and `/services`: the catalog as clients of Flow Commerce's registry ask for it, by forms and JSON, with
//! its statuses and sentences. Each request is a call of `onair.v1.Catalog` in the namespace `default`; no rule is here.

mod form;
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
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
    request::Parts,
    uri::PathAndQuery,
};
use prost::Message;
use serde_json::{Value, json};
use tonic::{Code, Status, service::Routes};
use tonic_types::{FieldViolation, StatusExt as _};

use self::form::Fields;
use super::{
    api::{ApiOptions, JSON},
    body,
    call::{Caller, Grpc},
    problem,
};
use crate::{
    grpc::status::{self, Reason},
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
pub fn router(services: Routes, options: ApiOptions) -> Router {
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

async fn list_applications(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    if let Some(form) = whole::Form::wanted(&parts.headers) {
        return answered(whole::answer(catalog, parts, form).await);
    }
    let answer = async {
        let request = Fields::of_query(&parts.uri)?.applications()?;
        let found: ListApplicationsResponse = catalog.call(&mut parts, "ListApplications", &request).await?;
        Ok(body_of(StatusCode::OK, &found.applications.iter().map(shapes::application).collect()))
    };
    answered(answer.await)
}

async fn application(State(catalog): State<Arc<Catalog>>, Path(id): Path<String>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let answer = async {
        let request = GetApplicationRequest { id, ..Default::default() };
        let found: GetApplicationResponse = catalog.call(&mut parts, "GetApplication", &request).await?;
        Ok(body_of(StatusCode::OK, &shapes::application(&found.application.unwrap_or_default())))
    };
    answered(answer.await)
}

async fn create_application(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let answer = async {
        let request = catalog.fields(&parts, body).await?.create()?;
        let made: CreateApplicationResponse = catalog.call(&mut parts, "CreateApplication", &request).await?;
        Ok(application_made(true, made.application))
    };
    answered(answer.await)
}

async fn put_application(
    State(catalog): State<Arc<Catalog>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let answer = async {
        let request = catalog.fields(&parts, body).await?.put(id)?;
        let made: PutApplicationResponse = catalog.call(&mut parts, "PutApplication", &request).await?;
        Ok(application_made(made.created, made.application))
    };
    answered(answer.await)
}

async fn delete_application(
    State(catalog): State<Arc<Catalog>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let answer = async {
        let request = DeleteApplicationRequest { id, ..Default::default() };
        let _: DeleteApplicationResponse = catalog.call(&mut parts, "DeleteApplication", &request).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    };
    answered(answer.await)
}

async fn add_dependency(
    State(catalog): State<Arc<Catalog>>,
    Path((id, dependency)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let answer = async {
        let request = AddDependencyRequest { id, dependency, ..Default::default() };
        let made: AddDependencyResponse = catalog.call(&mut parts, "AddDependency", &request).await?;
        Ok(application_made(false, made.application))
    };
    answered(answer.await)
}

async fn remove_dependency(
    State(catalog): State<Arc<Catalog>>,
    Path((id, dependency)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let answer = async {
        let request = RemoveDependencyRequest { id, dependency, ..Default::default() };
        let made: RemoveDependencyResponse = catalog.call(&mut parts, "RemoveDependency", &request).await?;
        Ok(application_made(false, made.application))
    };
    answered(answer.await)
}

async fn versions(catalog: &Catalog, parts: &mut Parts, kind: CatalogKind, entries: &str) -> Answer {
    let request = Fields::of_query(&parts.uri)?.versions(kind, entries)?;
    let found: ListCatalogVersionsResponse = catalog.call(parts, "ListCatalogVersions", &request).await?;
    Ok(body_of(StatusCode::OK, &found.versions.iter().map(shapes::version).collect()))
}

async fn application_versions(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    answered(versions(&catalog, &mut parts, CatalogKind::Application, "application").await)
}

async fn service_versions(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    answered(versions(&catalog, &mut parts, CatalogKind::ServiceType, "service").await)
}

async fn yaml(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    answered(whole::answer(catalog, parts, whole::Form::Plain).await)
}

async fn list_services(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let answer = async {
        let request = Fields::of_query(&parts.uri)?.services()?;
        let found: ListServiceTypesResponse = catalog.call(&mut parts, "ListServiceTypes", &request).await?;
        Ok(body_of(StatusCode::OK, &found.service_types.iter().map(shapes::service).collect()))
    };
    answered(answer.await)
}

async fn service(State(catalog): State<Arc<Catalog>>, Path(id): Path<String>, request: Request) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let answer = async {
        let request = GetServiceTypeRequest { id, ..Default::default() };
        let found: GetServiceTypeResponse = catalog.call(&mut parts, "GetServiceType", &request).await?;
        Ok(body_of(StatusCode::OK, &shapes::service(&found.service_type.unwrap_or_default())))
    };
    answered(answer.await)
}

async fn create_service(State(catalog): State<Arc<Catalog>>, request: Request) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let answer = async {
        let request = catalog.fields(&parts, body).await?.create_service()?;
        let made: CreateServiceTypeResponse = catalog.call(&mut parts, "CreateServiceType", &request).await?;
        Ok(service_made(true, made.service_type))
    };
    answered(answer.await)
}

async fn put_service(State(catalog): State<Arc<Catalog>>, Path(id): Path<String>, request: Request) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let answer = async {
        let request = catalog.fields(&parts, body).await?.put_service(id)?;
        let made: PutServiceTypeResponse = catalog.call(&mut parts, "PutServiceType", &request).await?;
        Ok(service_made(made.created, made.service_type))
    };
    answered(answer.await)
}

async fn delete_service(
    State(catalog): State<Arc<Catalog>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    let (mut parts, _) = request.into_parts();
    let answer = async {
        let request = DeleteServiceTypeRequest { id, ..Default::default() };
        let _: DeleteServiceTypeResponse = catalog.call(&mut parts, "DeleteServiceType", &request).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    };
    answered(answer.await)
}
