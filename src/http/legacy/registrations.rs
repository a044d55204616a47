//! `/registrations`: what is online, and registrations without a token, which whoever names the place renews.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Response, header::CONTENT_TYPE};
use prost_types::Duration;
use serde_json::Value as Json;

use super::{
    Asked, JSON, Legacy,
    body::{Fields, number, text, to_value},
    created, document, no_content, other_method, refusal,
};
use crate::{
    access::Permission,
    actor::{LookupQuery, PickKind, RegistryHandle, Reply},
    http::problem::Refusal,
    registry::{Context, Error, Filter, FilterSet, Instance, Place, Record, Registration, Violation},
};

/// How long a registration is good for, in seconds, as Thalassa's clients say it.
const SECONDS: &str = "secondsToExpire";

/// Answers a request.
pub(super) async fn answer(legacy: &Legacy, request: http::Request<Body>) -> Result<Response<Body>, Refusal> {
    let mut asked = Asked::of(legacy, request)?;
    let method = asked.method.clone();
    match (&method, asked.names.len()) {
        (&Method::GET | &Method::HEAD, _) => list(legacy, &asked),
        (&Method::POST, 0 | 4) => register(legacy, &mut asked).await,
        (&Method::DELETE, 4) => remove(legacy, &mut asked).await,
        (method, 0) => other_method(method, &["GET", "HEAD", "POST"]),
        (method, 4) => other_method(method, &["GET", "HEAD", "POST", "DELETE"]),
        (method, _) => other_method(method, &["GET", "HEAD"]),
    }
}

/// A list under way, page by page: each page is of its own revision.
struct Listing {
    handle: RegistryHandle,
    query: LookupQuery,
    /// Version, host and port, as far as the path names them.
    wanted: Vec<String>,
    begun: bool,
    ended: bool,
}

/// Whatever is asked for, there is a list of it.
fn list(legacy: &Legacy, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let (service, wanted) = asked.names.split_first().map_or(("", &[][..]), |(app, rest)| (app.as_str(), rest));
    let empty = || {
        let mut response = Response::new(Body::from("[]"));
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        Ok(response)
    };
    // What cannot be a name is nobody's.
    let Ok(filter) = Filter::new(&asked.namespace, service, "", "") else { return empty() };
    let filters = asked.who.reads(FilterSet::new(vec![filter])).map_err(refusal::of)?;
    let query = LookupQuery {
        filters,
        pick: PickKind::All,
        pick_key: String::new(),
        limit: 0,
        page_token: String::new(),
        prefer_zone: String::new(),
        wait: std::time::Duration::ZERO,
        min_revision: 0,
        falls_back: false,
        deadline: None,
    };
    let handle = legacy.handle.clone();
    let listing = Listing { handle, query, wanted: wanted.to_vec(), begun: false, ended: false };
    let parts = stream::try_unfold(listing, |mut listing| async move {
        let part = listing.part().await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(part.map(|part| (part, listing)))
    });
    let mut response = Response::new(Body::from_stream(parts));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

impl Listing {
    /// The next page; none after the last.
    async fn part(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        let found = self.handle.lookup(self.query.clone()).await?;
        let mut part = if self.query.page_token.is_empty() { b"[".to_vec() } else { Vec::new() };
        for instance in found.records.iter().map(Record::instance) {
            if !self.is_wanted(&instance) {
                continue;
            }
            if std::mem::replace(&mut self.begun, true) {
                part.push(b',');
            }
            // Only maps with keys that are no text cannot be written.
            let _ = serde_json::to_writer(&mut part, &document::registration(instance));
        }
        self.ended = found.next_page_token.is_empty();
        self.query.page_token = found.next_page_token;
        if self.ended {
            part.push(b']');
        }
        Ok(Some(part.into()))
    }

    fn is_wanted(&self, instance: &Instance) -> bool {
        let port = instance.port.to_string();
        let has = [&instance.version, &instance.host, &port];
        self.wanted.iter().zip(has).all(|(wanted, has)| wanted == has)
    }
}

/// What a request says of a registration, checked. The fields that are not known are its metadata.
fn wanted(asked: &Asked, mut fields: Fields) -> Result<Registration, Refusal> {
    let mut violations = Vec::new();
    for (name, value) in ["app", "version", "host", "port"].into_iter().zip(&asked.names) {
        let value = Json::from(value.as_str());
        let same = |given: &Json| text(given) == text(&value);
        if fields.insert(name.to_owned(), value.clone()).is_some_and(|given| !same(&given)) {
            violations.push(violation(name, "contradicts the path"));
        }
    }
    let mut word = |name: &str| match fields.remove(name) {
        None | Some(Json::Null) => String::new(),
        Some(value) => text(&value).unwrap_or_else(|| {
            violations.push(violation(name, "must be a text"));
            String::new()
        }),
    };
    let (service, version, host) = (word("app"), word("version"), word("host"));
    for (name, given) in [("app", &service), ("version", &version)] {
        if given.is_empty() && !violations.iter().any(|violation| violation.field == name) {
            violations.push(violation(name, "Application name and version are required"));
        }
    }
    let port = fields.remove("port").as_ref().and_then(number).filter(|port| port.fract() == 0.0);
    let port = port.filter(|port| (1.0..=65_535.0).contains(port)).unwrap_or_else(|| {
        violations.push(violation("port", "must be 1 to 65535"));
        0.0
    }) as u32;
    let seconds = fields.get(SECONDS).map(|given| number(given).filter(|seconds| *seconds > 0.0));
    if seconds == Some(None) {
        violations.push(violation(SECONDS, "must be a number of seconds above 0"));
    }
    let ttl = seconds.flatten().map(|seconds| {
        let millis = (seconds * 1_000.0).clamp(1.0, 1e12) as i64;
        Duration { seconds: millis / 1_000, nanos: (millis % 1_000) as i32 * 1_000_000 }
    });
    let metadata = (!fields.is_empty()).then(|| to_value(Json::Object(fields)));
    let namespace = asked.namespace.clone();
    let instance = Instance { namespace, service, version, host, port, metadata, ..Instance::default() };
    // A port gives an id.
    let context = Context { peer: asked.peer, fresh_id: &mut String::new, request_id: "" };
    let parsed = Registration::parse(instance, ttl, context);
    match parsed {
        Ok(registration) if violations.is_empty() => Ok(registration),
        Ok(_) => Err(refusal::of(Error::Invalid(violations))),
        Err(others) => {
            // What is missing is not wrong as well.
            let told: Vec<String> = violations.iter().map(|one| one.field.clone()).collect();
            let is_told = |field: &str| told.iter().any(|told| told == refusal::renamed_field(field).as_str());
            violations.extend(others.into_iter().filter(|other| !is_told(&other.field)));
            Err(refusal::of(Error::Invalid(violations)))
        }
    }
}

fn violation(field: &str, description: &str) -> Violation {
    Violation { field: field.to_owned(), description: description.to_owned() }
}

fn taken(legacy: &Legacy) -> Result<(), Refusal> {
    // Whoever turned the kind off wants a token from everybody.
    if legacy.unfenced { Ok(()) } else { Err(refusal::of(Error::Permission { permission: "unfenced_http" })) }
}

async fn register(legacy: &Legacy, asked: &mut Asked) -> Result<Response<Body>, Refusal> {
    taken(legacy)?;
    let fields = asked.fields(legacy.max_bytes).await?;
    let registration = wanted(asked, fields)?;
    let (namespace, service) = (&registration.instance.namespace, &registration.instance.service);
    asked.who.need(Permission::Register, namespace, service).map_err(refusal::of)?;
    let principal = asked.who.principal(namespace, service, false);
    let (record, changed_at) = legacy.handle.keep(registration, principal).await.map_err(refusal::of)?;
    asked.who.came_to(changed_at);
    legacy.rate.count();
    let instance = record.instance();
    let port = instance.port.to_string();
    let names = [instance.service.clone(), instance.version.clone(), instance.host.clone(), port];
    let names = names.each_ref().map(String::as_str);
    Ok(created("registrations", &names, &document::registration(instance)))
}

async fn remove(legacy: &Legacy, asked: &mut Asked) -> Result<Response<Body>, Refusal> {
    taken(legacy)?;
    let mut registration = wanted(asked, Fields::new())?;
    let (namespace, service) = (&registration.instance.namespace, &registration.instance.service);
    asked.who.need(Permission::Register, namespace, service).map_err(refusal::of)?;
    let principal = asked.who.principal(namespace, service, false);
    let target = crate::registry::Target::Place(Place::of(&mut registration));
    if let Reply::Removed { revision, .. } =
        legacy.handle.deregister(target, principal, None).await.map_err(refusal::of)?
    {
        asked.who.came_to(Some(revision));
    }
    Ok(no_content())
}
