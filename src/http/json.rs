//! JSON and single texts as values of the API's messages, by descriptor. Knows nothing of requests.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use tonic::Status;

use crate::grpc::status::{self, Reason};

/// The message that `bytes` are the JSON of.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn message(descriptor: &MessageDescriptor, bytes: &[u8]) -> Result<DynamicMessage, Status> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = DynamicMessage::deserialize(descriptor.clone(), &mut json).and_then(|read| json.end().map(|()| read));
    read.map_err(|error| status::plain(Reason::Malformed, format!("the body cannot be read: {error}")))
}

/// The value that `text` is of a field, or of one of its elements.
///
/// # Errors
/// What it has to be, as a sentence.
pub fn text(field: &FieldDescriptor, text: &str) -> Result<Value, String> {
    let kind = field.kind();
    let number = |parsed: Option<Value>| parsed.ok_or_else(|| "must be a number in range".to_owned());
    match &kind {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err("must be true or false".to_owned()),
        },
        Kind::Uint32 | Kind::Fixed32 => number(text.parse().ok().map(Value::U32)),
        Kind::Uint64 | Kind::Fixed64 => number(text.parse().ok().map(Value::U64)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => number(text.parse().ok().map(Value::I32)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => number(text.parse().ok().map(Value::I64)),
        Kind::Enum(known) => match known.get_value_by_name(text) {
            Some(value) => Ok(Value::EnumNumber(value.number())),
            None => Err(format!("is no {}", known.name())),
        },
        Kind::Message(descriptor) => {
            let read = DynamicMessage::deserialize(descriptor.clone(), serde_json::Value::from(text));
            read.map(Value::Message).map_err(|error| format!("is no {}: {error}", descriptor.name()))
        }
        Kind::Double | Kind::Float | Kind::Bytes => Err("cannot stand in a URL".to_owned()),
    }
}
