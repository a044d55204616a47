//! `GET /v1/prometheus/sd`: what is registered, as Prometheus' HTTP service discovery reads it: one group of targets for
//! each instance. It is a Lookup like any other, page by page, each page of its own revision; what is sent is never held
//! as a whole. Knows no rule of the registry: `labels` says what becomes of an instance.

mod labels;

use std::{io, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::stream;
use http::{
    HeaderMap, HeaderValue, Request, Response, Uri,
    header::{CACHE_CONTROL, CONTENT_TYPE},
    uri::PathAndQuery,
};
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{
    api::JSON,
    call::{Caller, Grpc},
    negotiate, ops, problem, query,
};
use crate::{
    grpc::{
        Dispatch,
        status::{self, Reason},
    },
    metrics::Front,
    proto::{Instance, LookupRequest},
    registry::{Error, Violation},
};

/// Where it is asked for.
pub const PATH: &str = "/v1/prometheus/sd";
static LOOKUP: PathAndQuery = PathAndQuery::from_static("/onair.v1.Registry/Lookup");
/// What Prometheus says of how often it asks; it stops waiting for an answer after as long.
pub const INTERVAL: &str = "x-prometheus-refresh-interval-seconds";
/// How long an answer may take: for one who does not say, and bounds for one who does.
const TIME: (Duration, Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(1), Duration::from_secs(3_600));
/// Bytes after which a part of the answer is sent.
const PART_BYTES: usize = 32 * 1024;
/// So much of what was found is read and written; then others have their turn.
const TURN_BYTES: usize = 16 * 1024;

/// The route, over these services.
pub fn router(services: Dispatch) -> Router {
    let grpc = Arc::new(Grpc::new(services));
    let list = move |request: Request<Body>| {
        let grpc = Arc::clone(&grpc);
        async move { discover(&grpc, request).await }
    };
    Router::new().route(PATH, ops::read_only(get(list)))
}

async fn discover(grpc: &Grpc, request: Request<Body>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let taken = match negotiate::accepted(&parts.headers, &["application/json"]) {
        Ok(_) => negotiate::none(&parts.headers, body).await,
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = taken {
        return refusal.into_response();
    }
    let wanted = Wanted::of(&parts.uri);
    let until = Instant::now() + time(&parts.headers);
    let caller = Caller::of(&mut parts, Front::Http);
    let mut listing = Listing {
        grpc: grpc.clone(),
        caller,
        wanted,
        page: Vec::new().into_iter(),
        part: b"[".to_vec(),
        read: 0,
        until,
        phase: Phase::First,
    };
    // With the first page it is known whether there is an answer, so that a refusal is one.
    if let Err(refusal) = listing.turn_page().await {
        return listing.refusal(refusal);
    }
    if !listing.wanted.violations.is_empty() {
        return problem::response(&Error::Invalid(listing.wanted.violations).into());
    }
    let parts = stream::try_unfold(listing, |mut listing| async move {
        Ok::<_, io::Error>(listing.part().await?.map(|part| (part, listing)))
    });
    let mut response = Response::new(Body::from_stream(parts));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// How long the answer may take.
fn time(headers: &HeaderMap) -> Duration {
    let (default, least, most) = TIME;
    let said = headers.get(INTERVAL).and_then(|value| value.to_str().ok()?.trim().parse::<f64>().ok());
    let said = said.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    said.unwrap_or(default).clamp(least, most)
}

/// What is asked for.
#[derive(Debug, Default)]
struct Wanted {
    lookup: LookupRequest,
    /// The name of the port to reach; none: the main one.
    port: Option<String>,
    /// What is wrong with the query itself.
    violations: Vec<Violation>,
}

impl Wanted {
    fn of(uri: &Uri) -> Self {
        let mut wanted = Self::default();
        let mut seen = Vec::new();
        for (name, value) in query::variables(uri.query().unwrap_or_default()) {
            let name = name.unwrap_or_else(|fault| {
                wanted.refuse("query", format!("has a name that {fault}"));
                String::new()
            });
            if name.is_empty() {
                continue;
            }
            let value = value.unwrap_or_else(|fault| {
                wanted.refuse(&name, fault.to_owned());
                String::new()
            });
            if seen.contains(&name) {
                wanted.refuse(&name, "is given twice".to_owned());
            }
            match name.as_str() {
                "namespace" => wanted.lookup.namespace = value,
                "service" => wanted.lookup.service = value,
                "version" => wanted.lookup.version = value,
                "selector" => wanted.lookup.selector = value,
                "port" if value.is_empty() => wanted.refuse("port", "must be the name of a port".to_owned()),
                "port" => wanted.port = Some(value),
                _ => {
                    let known = "is not one of namespace, service, version, selector, port";
                    wanted.refuse(&name, known.to_owned());
                }
            }
            seen.push(name);
        }
        wanted
    }

    fn refuse(&mut self, field: &str, description: String) {
        // A query is as long as headers may be; what is told of it is limited by the status.
        self.violations.push(Violation { field: field.to_owned(), description });
    }
}

/// What a page of a lookup says to us.
#[derive(Clone, PartialEq, prost::Message)]
struct Page {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    instances: Vec<Bytes>,
    #[prost(string, tag = "4")]
    next_page_token: String,
}

fn unreadable(error: prost::DecodeError) -> Status {
    status::plain(Reason::Internal, format!("a page that cannot be read: {error}"))
}

/// How far an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No group was written yet.
    First,
    /// More follow.
    Groups,
    /// All was sent.
    Ended,
}

/// An answer under way.
#[derive(Debug)]
struct Listing {
    grpc: Grpc,
    caller: Caller,
    wanted: Wanted,
    /// The instances that are left of it, as they came: one is read when it is written.
    page: std::vec::IntoIter<Bytes>,
    /// Written, and not yet sent.
    part: Vec<u8>,
    /// Bytes of instances that were read in this turn.
    read: usize,
    until: Instant,
    phase: Phase,
}

impl Listing {
    /// Fetches the next page.
    async fn turn_page(&mut self) -> Result<(), Status> {
        let lookup = self.wanted.lookup.encode_to_vec();
        let call = self.grpc.unary(&LOOKUP, self.caller.clone(), &lookup);
        let reply = timeout_at(self.until, call).await.map_err(|_| status::out_of_time())??;
        let found = Page::decode(reply).map_err(unreadable)?;
        self.page = found.instances.into_iter();
        self.wanted.lookup.page_token = found.next_page_token;
        Ok(())
    }

    /// The next part; none after the last.
    async fn part(&mut self) -> io::Result<Option<Bytes>> {
        if self.phase == Phase::Ended {
            return Ok(None);
        }
        while self.part.len() < PART_BYTES {
            if let Some(instance) = self.page.next() {
                self.read += instance.len();
                self.write(&Instance::decode(instance).map_err(|error| io::Error::other(unreadable(error)))?);
                if self.read >= TURN_BYTES {
                    self.read = 0;
                    tokio::task::yield_now().await;
                }
            } else if self.wanted.lookup.page_token.is_empty() {
                self.part.extend_from_slice(b"]\n");
                self.phase = Phase::Ended;
                break;
            } else {
                // A list that breaks off is none: Prometheus keeps what it knows.
                self.turn_page().await.map_err(io::Error::other)?;
            }
        }
        if Instant::now() > self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(std::mem::take(&mut self.part).into()))
    }

    fn write(&mut self, instance: &Instance) {
        let Some(group) = labels::group(instance, self.wanted.port.as_deref()) else { return };
        if std::mem::replace(&mut self.phase, Phase::Groups) != Phase::First {
            self.part.extend_from_slice(b",\n");
        }
        // Text can always be written.
        let _ = serde_json::to_writer(&mut self.part, &group);
    }

    /// The answer to a query that the lookup refused: with everything that is wrong with it.
    fn refusal(self, refusal: Status) -> Response<Body> {
        let found = refusal.get_details_bad_request().filter(|_| !self.wanted.violations.is_empty());
        let Some(found) = found else { return problem::of_call(&refusal) };
        let of_lookup = found
            .field_violations
            .into_iter()
            .map(|violation| Violation { field: violation.field, description: violation.description });
        problem::of_call(&Error::Invalid(self.wanted.violations.into_iter().chain(of_lookup).collect()).into())
    }
}

#[cfg(test)]
mod tests;
