//! What pages of other origins may do from a browser: nothing, unless their origins are configured; then everything that
//! anyone may. Owns the headers that say so, and not the judgement.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, Request, header};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, AllowPrivateNetwork, CorsLayer};

use super::guard::Guard;
use crate::grpc::status;

/// How long a browser need not ask again.
const MAX_AGE: Duration = Duration::from_secs(3_600);
/// Headers of answers that a page may read: how a call of gRPC-Web ended, and what the API's answers say in headers.
const EXPOSED: [HeaderName; 8] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    HeaderName::from_static(status::REASON),
    HeaderName::from_static(status::RETRY_PUSHBACK),
    header::ALLOW,
    header::LOCATION,
    header::RETRY_AFTER,
];

/// Whether the layer has something to say to a request. It takes every OPTIONS for the question before a call; what
/// asks for the methods of a path is answered as everywhere.
#[must_use]
pub fn concerns<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() != Method::OPTIONS
        || headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The headers for the origins that `guard` lets in; none if there are none.
#[must_use]
pub fn layer(guard: &Arc<Guard>) -> Option<CorsLayer> {
    if !guard.has_origins() {
        return None;
    }
    let judge = Arc::clone(guard);
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| judge.is_configured(origin)))
        // Who may call at all may use every method and header, also those that tracing or a client's library add.
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        // A registry is seldom anywhere else.
        .allow_private_network(AllowPrivateNetwork::yes())
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE);
    Some(layer)
}
