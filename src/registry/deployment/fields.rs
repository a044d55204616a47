//! The further fields of backends and frontends: any JSON object, checked, merged, and kept encoded.

use bytes::Bytes;
use prost::Message;
use prost_types::{Struct, Value, value::Kind};

use crate::registry::{error::Violation, registration::check_metadata};

/// What is kept of no fields.
const NONE: Bytes = Bytes::new();

/// The object that kept bytes are.
#[must_use]
pub fn decode(fields: &Bytes) -> Struct {
    Struct::decode(fields.clone()).unwrap_or_default()
}

/// Checks given fields as metadata is checked, and gives what is kept of them.
pub(super) fn check(given: Option<Struct>, violations: &mut Vec<Violation>) -> Option<Struct> {
    let mut value = Value { kind: Some(Kind::StructValue(given?)) };
    let broken = check_metadata(&mut value);
    violations.extend(broken.into_iter().map(|description| Violation { field: "fields".to_owned(), description }));
    match value.kind {
        Some(Kind::StructValue(fields)) => Some(fields),
        _ => None,
    }
}

/// The kept bytes of given fields.
pub(super) fn encode(fields: &Struct) -> Bytes {
    if fields.fields.is_empty() { NONE } else { fields.encode_to_vec().into() }
}

/// What is kept when `given` is merged into `kept`: what is given replaces what has its name, null takes it away.
pub(super) fn merged(kept: &Bytes, given: &Struct) -> Bytes {
    let mut fields = decode(kept);
    for (name, value) in &given.fields {
        match &value.kind {
            None | Some(Kind::NullValue(_)) => _ = fields.fields.remove(name),
            Some(_) => _ = fields.fields.insert(name.clone(), value.clone()),
        }
    }
    encode(&fields)
}

/// Whether kept fields are larger than fields may be: merging adds up.
pub(super) fn too_large(fields: &Bytes) -> Option<Violation> {
    let mut value = Value { kind: Some(Kind::StructValue(decode(fields))) };
    let description = check_metadata(&mut value).into_iter().next()?;
    Some(Violation { field: "fields".to_owned(), description: format!("merged, {description}") })
}
