//! JSON and single texts as values of the API's messages, by descriptor, read strictly: one pass, every violation with
//! its path, nothing passed over and nothing kept that will not be used. Knows nothing of requests.

mod found;
mod path;
mod read;
mod tree;
mod value;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde::de::DeserializeSeed as _;
use tonic::Status;

pub use self::path::Path;
use self::{found::Found, read::MessageSeed};
use crate::{
    grpc::status::{self, Reason},
    registry::Violation,
};

/// The message that `bytes` are the JSON of. What breaks a rule is added to `violations`, and is not in the message.
///
/// # Errors
/// `MALFORMED` or `TOO_DEEP`: there is no telling what it says; the sentence says where. `TOO_LARGE` if there are more
/// than `max_values`.
pub fn message(
    descriptor: &MessageDescriptor,
    bytes: &[u8],
    max_values: usize,
    at: &Path<'_>,
    violations: &mut Vec<Violation>,
) -> Result<DynamicMessage, Status> {
    if bytes.is_empty() {
        return Err(status::plain(Reason::Malformed, "the body is empty; it has to be JSON"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let sentence = format!("the body is not UTF-8 from byte {} on", error.valid_up_to());
        status::plain(Reason::Malformed, sentence)
    })?;
    let found = Found::new(max_values);
    let mut json = serde_json::Deserializer::from_str(text);
    let seed = MessageSeed { descriptor, path: at, found: &found };
    let read = seed.deserialize(&mut json).and_then(|read| json.end().map(|()| read));
    match read {
        Ok(read) => {
            violations.extend(found.into_violations());
            Ok(read.unwrap_or_else(|| DynamicMessage::new(descriptor.clone())))
        }
        Err(_) if found.has_too_much() => Err(status::too_many_values(max_values as u64)),
        // Ours: there are more violations than anyone wants to read.
        Err(error) if error.is_data() => {
            violations.extend(found.into_violations());
            Ok(DynamicMessage::new(descriptor.clone()))
        }
        Err(error) => Err(unreadable(&error)),
    }
}

fn unreadable(error: &serde_json::Error) -> Status {
    let said = error.to_string();
    // The only way that the library says it.
    if said.starts_with("recursion limit exceeded") {
        let place = format!("line {} column {}", error.line(), error.column());
        return status::plain(Reason::TooDeep, format!("the body is nested too deep at {place}"));
    }
    status::plain(Reason::Malformed, format!("the body is not JSON: {said}"))
}

/// The value that `text` is of a field, or of one of its elements.
///
/// # Errors
/// What it has to be, as a sentence.
pub fn text(field: &FieldDescriptor, text: &str) -> Result<Value, String> {
    let kind = field.kind();
    let value = match (&kind, text) {
        (Kind::Bool, "true") => Some(Value::Bool(true)),
        (Kind::Bool, "false") => Some(Value::Bool(false)),
        (Kind::Enum(_), text) => value::of_text(&kind, text).or_else(|| value::of_number(&kind, text)),
        (Kind::Message(descriptor), text) => value::well_known(descriptor, serde_json::Value::from(text)),
        (kind, text) => value::of_text(kind, text),
    };
    value.ok_or_else(|| value::wanted(&kind))
}

#[cfg(test)]
mod tests;
