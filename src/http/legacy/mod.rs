//! The routes of bender and Thalassa, on the same port: who used those goes on with nothing but another address.
//! Documents are plain objects, known fields beside any others, as JSON or as a form; refusals are problems, whose detail
//! is the sentence that these systems said. No rule of the registry lives here.

mod body;
mod deployments;
mod document;
mod refusal;
mod registrations;
mod status;

use std::{net::IpAddr, sync::Arc};

use axum::{Router, body::Body, routing::any};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use tonic::transport::server::TcpConnectInfo;

use self::{body::Fields, status::Rate};
use super::{
    api::{self, JSON},
    ops,
    problem::Refusal,
    query,
};
use crate::{
    access::{Gate, Who},
    actor::RegistryHandle,
    registry::{DEFAULT_NAMESPACE, Error},
};

/// What a segment of a path holds as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// What all threads share.
#[derive(Clone, Debug)]
pub struct Legacy {
    handle: RegistryHandle,
    /// Whether registrations without a token are taken.
    unfenced: bool,
    max_bytes: usize,
    rate: Arc<Rate>,
    gate: Gate,
}

impl Legacy {
    /// Over this registry, for those whom the gate let in; bodies have at most so many bytes.
    #[must_use]
    pub fn new(handle: RegistryHandle, unfenced: bool, max_bytes: usize, gate: Gate) -> Self {
        Self { handle, unfenced, max_bytes, rate: Arc::new(Rate::begin()), gate }
    }
}

/// A request as its route sees it.
#[derive(Debug)]
struct Asked {
    method: Method,
    /// The path after its first segment, decoded.
    names: Vec<String>,
    namespace: String,
    headers: HeaderMap,
    peer: IpAddr,
    who: Who,
    body: Body,
}

impl Asked {
    fn of(legacy: &Legacy, request: Request<Body>) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let who = legacy.gate.who(&parts.extensions).map_err(refusal::of)?;
        let decoded = |raw| query::decode(raw).map_err(|fault| Error::invalid("path", format!("a segment {fault}")));
        let names = parts.uri.path().split('/').skip(2).map(decoded).collect::<Result<_, _>>();
        let peer = parts.extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        Ok(Self {
            method: parts.method,
            names: names.map_err(refusal::of)?,
            namespace: namespace(&parts.uri)?,
            headers: parts.headers,
            who,
            peer: peer.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip()),
            body,
        })
    }

    async fn fields(&mut self, max_bytes: usize) -> Result<Fields, Refusal> {
        body::read(&self.headers, std::mem::take(&mut self.body), max_bytes).await
    }
}

/// The namespace that the query names.
fn namespace(uri: &Uri) -> Result<String, Refusal> {
    let mut namespace = DEFAULT_NAMESPACE.to_owned();
    for (name, value) in query::variables(uri.query().unwrap_or_default()) {
        match (name, value) {
            (Ok(name), Ok(value)) if name == "namespace" && !value.is_empty() => namespace = value,
            (Ok(name), _) => return Err(refusal::of(Error::invalid(&name, "is no query variable of this path"))),
            (Err(fault), _) => return Err(refusal::of(Error::invalid("query", format!("has a name that {fault}")))),
        }
    }
    Ok(namespace)
}

/// All of them.
pub fn router(legacy: &Legacy) -> Router {
    let registrations = |legacy: Legacy| {
        any(move |request: Request<Body>| {
            let legacy = legacy.clone();
            async move { answered(registrations::answer(&legacy, request).await) }
        })
    };
    let deployments = |legacy: Legacy| {
        any(move |request: Request<Body>| {
            let legacy = legacy.clone();
            async move { answered(deployments::answer(&legacy, request).await) }
        })
    };
    let rate = Arc::clone(&legacy.rate);
    let mut router = Router::new().route(
        "/status",
        ops::read_only(axum::routing::get(move || {
            let status = json(StatusCode::OK, &rate.status());
            async move { answered(Ok(status)) }
        })),
    );
    for path in ["", "/{app}", "/{app}/{version}", "/{app}/{version}/{host}/{port}"] {
        router = router.route(&format!("/registrations{path}"), registrations(legacy.clone()));
    }
    for path in ["/backends", "/backends/{name}", "/frontends", "/frontends/{name}"] {
        router = router.route(path, deployments(legacy.clone()));
    }
    router
}

fn answered(answer: Result<Response<Body>, Refusal>) -> Response<Body> {
    let mut response = answer.unwrap_or_else(Refusal::into_response);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    // Only maps with keys that are no text cannot be written.
    let mut response = Response::new(Body::from(serde_json::to_vec(document).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// What was made, and where it is.
fn created(collection: &str, names: &[&str], document: &impl Serialize) -> Response<Body> {
    let mut location = format!("/{collection}");
    for name in names {
        location.push('/');
        location.extend(utf8_percent_encode(name, SEGMENT));
    }
    let mut response = json(StatusCode::CREATED, document);
    response.headers_mut().extend(HeaderValue::try_from(location).map(|location| (LOCATION, location)));
    response
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The answer to a method that a path does not have, or to who asks for those that it has.
fn other_method(method: &Method, methods: &[&str]) -> Result<Response<Body>, Refusal> {
    let allow = [methods, &["OPTIONS"]].concat().join(", ");
    if method == Method::OPTIONS { Ok(api::options(&allow)) } else { Err(api::not_allowed(&allow)) }
}
