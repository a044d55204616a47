//! What is registered and deployed as documents of these routes: known fields beside any others. Knows no requests.

use serde_json::{Value as Json, json};

use super::body::{Fields, of_struct, of_value};
use crate::registry::{Backend, Frontend, Instance, decode_fields};

/// Known fields go before others of their names.
fn with(mut others: Fields, known: impl IntoIterator<Item = (&'static str, Json)>) -> Json {
    others.extend(known.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Json::Object(others)
}

/// A registration. Metadata that is no object is the field `metadata`.
pub(super) fn registration(instance: Instance) -> Json {
    let others = match instance.metadata.map(of_value) {
        Some(Json::Object(others)) => others,
        Some(value) => Fields::from_iter([("metadata".to_owned(), value)]),
        None => Fields::new(),
    };
    let known = [
        ("app", Json::from(instance.service)),
        ("version", Json::from(instance.version)),
        ("host", Json::from(instance.host)),
        ("port", Json::from(instance.port)),
    ];
    with(others, known)
}

/// A backend.
pub(super) fn backend(backend: &Backend) -> Json {
    let known = [
        ("name", Json::from(backend.name().as_str())),
        ("app", Json::from(backend.service.as_str())),
        ("version", Json::from(backend.version.as_str())),
    ];
    with(of_struct(decode_fields(&backend.fields)), known)
}

/// A frontend: the backend that has its traffic, or most of it, and the shares if there are several.
pub(super) fn frontend(frontend: &Frontend) -> Json {
    let mut fields = of_struct(decode_fields(&frontend.fields));
    if frontend.live().count() > 1 {
        let share = |split: &crate::registry::Split| (split.backend.to_string(), json!(split.weight));
        fields.insert("weights".to_owned(), Json::Object(frontend.live().map(share).collect()));
    }
    // Of equal ones the first.
    let first = frontend.live().fold(None, |most: Option<&crate::registry::Split>, split| match most {
        Some(most) if most.weight >= split.weight => Some(most),
        _ => Some(split),
    });
    let backend = first.map_or("", |split| split.backend.as_str());
    with(fields, [("name", Json::from(frontend.name().as_str())), ("backend", Json::from(backend))])
}
