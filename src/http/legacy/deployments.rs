//! `/backends` and `/frontends`: which version a public name stands for, as bender's users say it, with weights besides.

use axum::body::Body;
use http::{Method, Response, StatusCode};
use serde_json::Value as Json;

use super::{
    Asked, Legacy,
    body::{Fields, number, text, to_struct},
    created, document, json, no_content, other_method, refusal,
};
use crate::{
    access::{Permission, Who},
    actor::{ListQuery, Standing},
    grpc::{
        may_deploy,
        status::{self, Reason},
    },
    http::problem::Refusal,
    registry::{Action, Error, TargetText, Violation},
};

/// A change as it was read, or everything that is wrong with it.
type Read = Result<(smol_str::SmolStr, Action), Vec<Violation>>;

/// What a path is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Backends,
    Frontends,
}

impl Kind {
    fn collection(self) -> &'static str {
        match self {
            Self::Backends => "backends",
            Self::Frontends => "frontends",
        }
    }
}

/// Answers a request.
pub(super) async fn answer(legacy: &Legacy, request: http::Request<Body>) -> Result<Response<Body>, Refusal> {
    let kind = if request.uri().path().starts_with("/backends") { Kind::Backends } else { Kind::Frontends };
    let mut asked = Asked::of(legacy, request)?;
    let (method, name) = (asked.method.clone(), asked.names.first().cloned());
    match (&method, name) {
        (&Method::GET | &Method::HEAD, None) => list(legacy, kind, &asked),
        (&Method::GET | &Method::HEAD, Some(name)) => one(legacy, kind, &asked, &name),
        (&Method::POST, None) => {
            let fields = asked.fields(legacy.max_bytes).await?;
            let (name, document) = change(legacy, &asked.who, created_by(legacy, kind, &asked, fields)).await?;
            Ok(created(kind.collection(), &[&name], &document))
        }
        (&Method::PUT, Some(name)) => {
            let fields = asked.fields(legacy.max_bytes).await?;
            let (_, document) = change(legacy, &asked.who, updated_by(legacy, kind, &asked, &name, fields)).await?;
            Ok(json(StatusCode::OK, &document))
        }
        (&Method::DELETE, Some(name)) => {
            let read = match kind {
                Kind::Backends => Action::delete_backend(&asked.namespace, &name, 0),
                Kind::Frontends => Action::delete_frontend(&asked.namespace, &name, 0),
            };
            let read = read.map_err(|violations| refusal::of(Error::Invalid(violations)))?;
            may_deploy(&legacy.handle, &asked.who, &read).map_err(refusal::of)?;
            let done = legacy.handle.deploy(read, asked.who.allowed(), None).await;
            let done = done.map_err(|error| refusal::of(asked.who.told(error)))?;
            asked.who.came_to(Some(done.revision));
            Ok(no_content())
        }
        (method, None) => other_method(method, &["GET", "HEAD", "POST"]),
        (method, Some(_)) => other_method(method, &["GET", "HEAD", "PUT", "DELETE"]),
    }
}

fn list(legacy: &Legacy, kind: Kind, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let namespace: Option<smol_str::SmolStr> = Some(asked.namespace.as_str().into());
    let within = asked.who.lists(namespace.as_deref()).map_err(refusal::of)?;
    let mut query = ListQuery { namespace, within, ..ListQuery::default() };
    let mut documents: Vec<Json> = Vec::new();
    loop {
        let next = match kind {
            Kind::Backends => {
                let page = legacy.handle.list_backends(&query).map_err(refusal::of)?;
                documents.extend(page.found.iter().map(|one| document::backend(one)));
                page.next_page_token
            }
            Kind::Frontends => {
                let page = legacy.handle.list_frontends(&query).map_err(refusal::of)?;
                documents.extend(page.found.iter().map(|one| document::frontend(one)));
                page.next_page_token
            }
        };
        if next.is_empty() {
            return Ok(json(StatusCode::OK, &documents));
        }
        query.page_token = next;
    }
}

fn one(legacy: &Legacy, kind: Kind, asked: &Asked, name: &str) -> Result<Response<Body>, Refusal> {
    asked.who.need(Permission::Read, &asked.namespace, name).map_err(refusal::of)?;
    let document = match kind {
        Kind::Backends => legacy.handle.backend(&asked.namespace, name).map(|(found, _)| document::backend(&found)),
        Kind::Frontends => legacy.handle.frontend(&asked.namespace, name).map(|(found, _)| document::frontend(&found)),
    };
    document.map(|document| json(StatusCode::OK, &document)).map_err(refusal::of)
}

/// Makes a change; the name and the whole document of what stands there now.
async fn change(legacy: &Legacy, who: &Who, read: Read) -> Result<(String, Json), Refusal> {
    let read = read.map_err(|violations| refusal::of(Error::Invalid(violations)))?;
    may_deploy(&legacy.handle, who, &read).map_err(refusal::of)?;
    let done = legacy.handle.deploy(read, who.allowed(), None).await;
    let done = done.map_err(|error| refusal::of(who.told(error)))?;
    who.came_to(Some(done.revision));
    match done.deployed {
        Standing::Backend(made) => Ok((made.name().to_string(), document::backend(&made))),
        Standing::Frontend(made) => Ok((made.name().to_string(), document::frontend(&made))),
        _ => Err(status::plain(Reason::Internal, "what was changed is not there").into()),
    }
}

/// Takes known fields out of a document, and notes what is wrong with them.
struct Taking {
    fields: Fields,
    violations: Vec<Violation>,
}

impl Taking {
    fn refuse(&mut self, field: &str, description: &str) {
        self.violations.push(Violation { field: field.to_owned(), description: description.to_owned() });
    }

    /// A text; none if it is not given.
    fn word(&mut self, name: &str) -> Option<String> {
        match self.fields.remove(name)? {
            // Given as nothing: what is required is missing.
            Json::Null => Some(String::new()),
            given => text(&given).or_else(|| {
                self.refuse(name, "must be a text");
                None
            }),
        }
    }

    fn expected(&mut self) -> u64 {
        let Some(given) = self.fields.remove("expectedRevision") else { return 0 };
        match number(&given).filter(|number| *number >= 0.0 && number.fract() == 0.0) {
            Some(revision) => revision as u64,
            None => {
                self.refuse("expectedRevision", "must be a revision");
                0
            }
        }
    }

    /// Where a frontend is to point: `weights`, or all of it to `backend`; nothing if neither is given.
    fn splits(&mut self) -> Vec<TargetText> {
        let backend = self.word("backend");
        let Some(weights) = self.fields.remove("weights") else {
            return backend.map(|backend| TargetText { backend, weight: None }).into_iter().collect();
        };
        let shares: Option<Vec<TargetText>> = match &weights {
            Json::Object(shares) => shares.iter().map(|(backend, weight)| share(backend, number(weight))).collect(),
            // A form's: blue=95,green=5.
            Json::String(text) => {
                let pairs = text.split(',').map(|pair| pair.split_once('='));
                pairs.map(|pair| pair.and_then(|(backend, weight)| share(backend, weight.parse().ok()))).collect()
            }
            _ => None,
        };
        shares.unwrap_or_else(|| {
            self.refuse("weights", "must be a weight of 0 to 1000000 for each backend, such as blue=95,green=5");
            Vec::new()
        })
    }

    /// What was read, if nothing was wrong before.
    fn or_all(self, read: impl FnOnce(Fields) -> Read) -> Read {
        let Self { fields, mut violations } = self;
        let read = read(fields);
        if violations.is_empty() {
            return read;
        }
        violations.extend(read.err().into_iter().flatten());
        Err(violations)
    }
}

fn share(backend: &str, weight: Option<f64>) -> Option<TargetText> {
    let weight = weight.filter(|weight| weight.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(weight))?;
    Some(TargetText { backend: backend.trim().to_owned(), weight: Some(weight as u32) })
}

fn created_by(legacy: &Legacy, kind: Kind, asked: &Asked, fields: Fields) -> Read {
    let mut taking = Taking { fields, violations: Vec::new() };
    let name = taking.word("name").unwrap_or_default();
    let namespace = asked.namespace.as_str();
    match kind {
        Kind::Backends => {
            let (app, version) = (taking.word("app").unwrap_or_default(), taking.word("version").unwrap_or_default());
            taking.or_all(|fields| Action::create_backend(namespace, &name, (&app, &version), Some(to_struct(fields))))
        }
        Kind::Frontends => {
            let splits = match taking.splits() {
                // It has to name one.
                splits if splits.is_empty() => vec![TargetText { backend: String::new(), weight: None }],
                splits => splits,
            };
            let exists = |namespace: &str, name: &str| {
                !asked.who.may(Permission::Read, namespace, name) || legacy.handle.has_backend(namespace, name)
            };
            taking.or_all(|fields| Action::create_frontend(namespace, &name, &splits, Some(to_struct(fields)), &exists))
        }
    }
}

fn updated_by(legacy: &Legacy, kind: Kind, asked: &Asked, name: &str, fields: Fields) -> Read {
    let mut taking = Taking { fields, violations: Vec::new() };
    if taking.word("name").is_some_and(|given| given != name) {
        taking.refuse("name", "contradicts the path");
    }
    let (namespace, expected) = (asked.namespace.as_str(), taking.expected());
    match kind {
        Kind::Backends => {
            let (app, version) = (taking.word("app"), taking.word("version"));
            let words = (app.as_deref(), version.as_deref());
            taking.or_all(|fields| Action::update_backend(namespace, name, words, Some(to_struct(fields)), expected))
        }
        Kind::Frontends => {
            let splits = taking.splits();
            let exists = |namespace: &str, name: &str| {
                !asked.who.may(Permission::Read, namespace, name) || legacy.handle.has_backend(namespace, name)
            };
            taking.or_all(|fields| {
                Action::update_frontend(namespace, name, &splits, Some(to_struct(fields)), expected, &exists)
            })
        }
    }
}
