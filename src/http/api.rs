//! The API as HTTP and JSON, by the routes that the protos describe. A request is read into the message of the method it
//! stands for (`transcode`), goes through the gRPC services inside the process (`call`), and what comes back is written
//! as JSON, or as a problem (`problem`). No rule of the registry lives here, and no method is written out.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Body, routing::any};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    request::Parts,
};
use tokio::sync::Semaphore;
use tonic::Status;

use super::{
    call::{Caller, Grpc},
    negotiate, pages,
    problem::{self, Refusal},
    progress, reply,
    routes::{self, Route, RouteError, Table},
    transcode,
    watches::{self, Watches},
};
use crate::{
    access::{self, Gate},
    grpc::{
        Dispatch,
        status::{self, Reason},
    },
    metrics::{Front, Rpc},
};

/// The content type of replies.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What it has to know of the server around it.
#[derive(Clone, Copy, Debug)]
pub struct ApiOptions {
    /// Most bytes of a body.
    pub max_message_bytes: usize,
    /// Most values of a body.
    pub max_json_values: usize,
}

/// Bodies beyond this are read apart, one at a time: who serves connections has no time for them. Not so beats:
/// the lease clock counts on it that they are heard in the turn in which they are read.
const APART_BYTES: usize = 64 * 1024;

/// The services, and what they allow.
#[derive(Debug)]
pub struct Api {
    grpc: Grpc,
    gate: Gate,
    options: ApiOptions,
    watches: Watches,
    /// The turn to read a large body.
    large: Arc<Semaphore>,
}

/// Serves every route of the API over these services, to those whom the gate lets in. One for each thread: nothing in it is shared.
///
/// # Errors
/// When the protos describe routes that cannot be.
pub fn router(services: Dispatch, options: ApiOptions, gate: Gate) -> Result<Router, RouteError> {
    let mut paths: BTreeMap<&str, Vec<&Route>> = BTreeMap::new();
    let table = Table::of_api()?;
    let api = Arc::new(Api {
        grpc: Grpc::new(services),
        gate,
        options,
        watches: Watches::new(&table)?,
        large: Arc::new(Semaphore::new(1)),
    });
    for route in table.routes() {
        paths.entry(&route.path).or_default().push(route);
    }
    let mut router = Router::new();
    for (path, routes) in paths {
        let (api, routes) = (Arc::clone(&api), routes.into_iter().cloned().collect::<Arc<[Route]>>());
        let serve = move |request: Request<Body>| {
            let (api, routes) = (Arc::clone(&api), Arc::clone(&routes));
            async move { api.serve(&routes, request).await }
        };
        router = router.route(path, any(serve));
    }
    Ok(router.merge(pages::router(table)).fallback(no_route))
}

/// The answer to a path that is not there.
pub async fn no_route() -> Response<Body> {
    let sentence = "there is no such path; the page at /docs has those that there are";
    problem::response(&status::plain(Reason::NoRoute, sentence))
}

impl Api {
    /// Answers a request to the path of these routes.
    async fn serve(&self, routes: &[Route], request: Request<Body>) -> Response<Body> {
        // The router leaves out the body of an answer to HEAD.
        let wanted = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let answer = match routes.iter().find(|route| route.method == wanted) {
            Some(route) => self.answer(route, request).await,
            None if request.method() == Method::OPTIONS => Ok(options(&allow(routes))),
            None => Err(not_allowed(&allow(routes))),
        };
        let mut response = answer.unwrap_or_else(Refusal::into_response);
        // What is online changes without notice.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    async fn answer(&self, route: &Route, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let (mut parts, body) = request.into_parts();
        // Before its body is read; the service asks again.
        let path = route.grpc_path.path();
        self.gate
            .judge(path, (access::of_rpc(path), false), &parts.headers, &parts.extensions)
            .map_err(Status::from)?;
        let message = self.message(route, &parts, body).await?;
        if route.rpc.is_server_streaming() && !self.watches.are(route) {
            return progress::answer(&self.grpc, route, parts, &message).await;
        }
        if route.rpc.is_server_streaming() {
            return self.watches.answer(&self.grpc, route, parts, &message).await;
        }
        let caller = Caller::of(&mut parts, Front::Http);
        let reply = match self.grpc.unary(&route.grpc_path, caller, &message).await {
            Ok(reply) => reply,
            Err(status) => return Ok(problem::of_call(&status)),
        };
        let mut response = Response::new(reply::body(&route.rpc.output(), reply)?);
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        Ok(response)
    }

    /// The bytes of the request message.
    async fn message(&self, route: &Route, parts: &Parts, body: Body) -> Result<Vec<u8>, Refusal> {
        negotiate::accepted(&parts.headers, answers(route))?;
        let body = match route.body {
            routes::Body::None => negotiate::none(&parts.headers, body).await.map(|()| Bytes::new())?,
            _ => negotiate::json(&parts.headers, body, self.options.max_message_bytes).await?,
        };
        let max_values = self.options.max_json_values;
        if body.len() <= APART_BYTES || Rpc::of_path(route.grpc_path.path()).brings_beats() {
            return Ok(transcode::request(route, &parts.uri, &parts.headers, &body, max_values)?);
        }
        let turn = Arc::clone(&self.large).acquire_owned().await;
        let (route, uri, headers) = (route.clone(), parts.uri.clone(), parts.headers.clone());
        let read = tokio::task::spawn_blocking(move || {
            // Kept until the end, also when nobody waits for it any more.
            let _turn = turn;
            transcode::request(&route, &uri, &headers, &body, max_values)
        });
        Ok(read.await.map_err(|error| status::plain(Reason::Internal, error.to_string()))??)
    }
}

/// What the answers to a route may be.
fn answers(route: &Route) -> &'static [&'static str] {
    if route.rpc.is_server_streaming() { &watches::ANSWERS } else { &["application/json"] }
}

/// The methods of a path, as `Allow` lists them.
fn allow(routes: &[Route]) -> String {
    let mut methods: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    methods.join(", ")
}

/// The answer to who asks for the methods.
pub fn options(allow: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().extend(HeaderValue::try_from(allow).map(|value| (ALLOW, value)));
    response
}

/// The answer to a method that the path does not have.
pub fn not_allowed(allow: &str) -> Refusal {
    let status = status::plain(Reason::MethodNotAllowed, format!("this path has the methods {allow}"));
    Refusal { status, header: HeaderValue::try_from(allow).ok().map(|value| (ALLOW, value)) }
}

#[cfg(test)]
mod tests;
