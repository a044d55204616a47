//! Canonical proto JSON, and problems, as the messages and statuses that they stand for.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use onair::proto::DESCRIPTORS;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::Value as Json;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

fn descriptor(name: &str) -> MessageDescriptor {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap());
    POOL.get_message_by_name(&format!("onair.v1.{name}")).unwrap_or_else(|| panic!("there is no message {name}"))
}

/// The message that `json` stands for.
///
/// # Errors
/// It is not the JSON of one.
pub fn message<M: Message + Default>(name: &str, json: &str) -> Result<M, String> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let read = DynamicMessage::deserialize(descriptor(name), &mut deserializer);
    let read = read.and_then(|read| deserializer.end().map(|()| read)).map_err(|error| format!("{error}: {json}"))?;
    read.transcode_to().map_err(|error| error.to_string())
}

/// A message as JSON.
pub fn of_message(name: &str, message: &impl Message) -> Json {
    let message = DynamicMessage::decode(descriptor(name), &message.encode_to_vec()[..]).unwrap();
    serde_json::to_value(&message).unwrap()
}

/// The status that a problem stands for.
pub fn status(problem: &str) -> Status {
    let problem: Json = serde_json::from_str(problem).unwrap_or_else(|error| panic!("{error}: {problem}"));
    let text = |of: &Json, name: &str| of[name].as_str().unwrap_or_default().to_owned();
    let metadata = problem["metadata"].as_object().into_iter().flatten();
    let metadata: HashMap<_, _> =
        metadata.map(|(name, value)| (name.clone(), value.as_str().unwrap().into())).collect();
    let mut details = ErrorDetails::with_error_info(text(&problem, "reason"), text(&problem, "domain"), metadata);
    if let Some(violations) = problem["violations"].as_array() {
        let one = |one: &Json| FieldViolation::new(text(one, "field"), text(one, "description"));
        details.set_bad_request(violations.iter().map(one).collect::<Vec<_>>());
    }
    if let Some(resource) = problem.get("resource") {
        details.set_resource_info(text(resource, "type"), text(resource, "name"), "", text(resource, "description"));
    }
    if let Some(delay) = problem["retryAfter"].as_str() {
        let seconds = delay.strip_suffix('s').and_then(|delay| delay.parse().ok()).expect("a duration");
        details.set_retry_info(Some(Duration::from_secs_f64(seconds)));
    }
    Status::with_error_details(code(&text(&problem, "code")), text(&problem, "detail"), details)
}

/// The code of a canonical name.
fn code(name: &str) -> Code {
    let names = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let place = names.iter().position(|one| *one == name);
    Code::from_i32(place.unwrap_or_else(|| panic!("{name:?} is no code")) as i32)
}
