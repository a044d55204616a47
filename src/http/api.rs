//! The API as HTTP and JSON, by the routes that the protos describe. A request is read into the message of the method it
//! stands for (`transcode`), goes through the gRPC services inside the process (`call`), and what comes back is written
//! as JSON, or as a problem (`problem`). No rule of the registry lives here, and no method is written out.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Body, routing::any};
use http::{HeaderValue, Method, Request, Response, header};
use tonic::{Status, service::Routes};

use super::{
    body,
    call::{Caller, Grpc},
    problem,
    routes::{Route, RouteError, Table},
    transcode,
};
use crate::{
    grpc::status::{self, Reason},
    metrics::Front,
};

/// The content type of replies.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What it has to know of the server around it.
#[derive(Clone, Copy, Debug)]
pub struct ApiOptions {
    /// Most bytes of a body.
    pub max_message_bytes: usize,
}

/// The services, and what they allow.
#[derive(Debug)]
pub struct Api {
    grpc: Grpc,
    options: ApiOptions,
}

/// Serves every route of the API over these services. One for each thread: nothing in it is shared.
///
/// # Errors
/// When the protos describe routes that cannot be.
pub fn router(services: Routes, options: ApiOptions) -> Result<Router, RouteError> {
    let api = Arc::new(Api { grpc: Grpc::new(services), options });
    let mut paths: BTreeMap<&str, Vec<&Route>> = BTreeMap::new();
    let table = Table::of_api()?;
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
    Ok(router.fallback(no_route))
}

/// The answer to a path that is not there.
pub async fn no_route() -> Response<Body> {
    problem::response(&status::plain(Reason::NoRoute, "there is no such path"))
}

impl Api {
    /// Answers a request to the path of these routes.
    async fn serve(&self, routes: &[Route], request: Request<Body>) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let wanted = if head { &Method::GET } else { request.method() };
        let Some(route) = routes.iter().find(|route| route.method == wanted) else {
            return not_allowed(routes);
        };
        let answer = self.answer(route, request).await.unwrap_or_else(|status| problem::response(&status));
        if head { answer.map(|_| Body::empty()) } else { answer }
    }

    async fn answer(&self, route: &Route, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::of(&mut parts, Front::Http);
        if !body::is_plain(&parts.headers) {
            let sentence = "a body is sent as it is: no Content-Encoding";
            return Err(status::plain(Reason::UnsupportedMediaType, sentence));
        }
        let body = body::read(body, self.options.max_message_bytes).await?;
        let message = transcode::request(route, &parts.uri, &parts.headers, &body)?;
        if route.rpc.is_server_streaming() {
            return Err(status::plain(Reason::NotSupported, "this server has no streams by HTTP yet; use gRPC"));
        }
        let reply = match self.grpc.unary(&route.grpc_path, caller, &message).await {
            Ok(reply) => reply,
            Err(status) => return Ok(problem::of_call(&status)),
        };
        let mut response = Response::new(Body::from(transcode::to_json(&route.rpc.output(), &reply)?));
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        Ok(response)
    }
}

/// The answer to a method that the path does not have.
fn not_allowed(routes: &[Route]) -> Response<Body> {
    let mut methods: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    let allow = methods.join(", ");
    let sentence = format!("this path has the methods {allow}");
    let mut response = problem::response(&status::plain(Reason::MethodNotAllowed, sentence));
    if let Ok(allow) = HeaderValue::try_from(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

#[cfg(test)]
mod tests;
