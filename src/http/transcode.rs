//! Between HTTP and the messages of the API, by descriptor: a request's path, query, headers and body become the bytes
//! of the request message, a reply's bytes become canonical proto JSON. Nothing here is written for one method, and no
//! rule of the registry lives here.

use std::io;

use http::{HeaderMap, Uri};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, SerializeOptions, Value};
use tonic::Status;

use super::{
    json::{self, Path},
    query,
    routes::{Body, Place, Route, Segment},
};
use crate::{
    grpc::status::{self, Reason},
    registry::{Error, Violation},
};

/// The bytes of the request message, or everything that is wrong with the request.
///
/// # Errors
/// INVALID_ARGUMENT: `MALFORMED` or `TOO_DEEP` of the body, `INVALID` with all violations. `TOO_LARGE`, if the body has
/// more than `max_values`.
pub fn request(
    route: &Route,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
    max_values: usize,
) -> Result<Vec<u8>, Status> {
    let mut reading = Reading { message: DynamicMessage::new(route.rpc.input()), violations: Vec::new() };
    reading.body(&route.body, body, max_values)?;
    reading.path(route, uri.path());
    reading.headers(route, headers);
    reading.query(route, uri.query().unwrap_or_default());
    reading.overrides(route, headers);
    let Reading { message, violations } = reading;
    if violations.is_empty() { Ok(message.encode_to_vec()) } else { Err(Error::Invalid(violations).into()) }
}

/// A message's bytes as canonical proto JSON.
///
/// # Errors
/// INTERNAL, when they are not of this type.
pub fn to_json(descriptor: &MessageDescriptor, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let message = DynamicMessage::decode(descriptor.clone(), bytes).map_err(|error| unwritable(descriptor, &error))?;
    let mut json = serde_json::Serializer::with_formatter(Vec::with_capacity(bytes.len() * 3), Numbers);
    message
        .serialize_with_options(&mut json, &SerializeOptions::new())
        .map_err(|error| unwritable(descriptor, &error))?;
    Ok(json.into_inner())
}

/// What is told of a reply that cannot be written; why, the log says.
pub(super) fn unwritable(descriptor: &MessageDescriptor, error: &dyn std::fmt::Display) -> Status {
    tracing::error!(message = descriptor.full_name(), %error, "a reply cannot be written as JSON");
    status::plain(Reason::Internal, "the reply cannot be written as JSON")
}

/// Writes whole numbers without a fraction: a 1 in metadata comes back as 1, which is an integer to those readers to whom
/// 1.0 is none.
struct Numbers;

/// Beyond this doubles are no longer exact as integers.
const INTEGERS: f64 = 9_007_199_254_740_992.0;

impl serde_json::ser::Formatter for Numbers {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if value.fract() == 0.0 && value.abs() <= INTEGERS && (value != 0.0 || value.is_sign_positive()) {
            return write!(writer, "{}", value as i64);
        }
        serde_json::ser::CompactFormatter.write_f64(writer, value)
    }
}

struct Reading {
    message: DynamicMessage,
    violations: Vec<Violation>,
}

impl Reading {
    fn refuse(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.violations.push(Violation { field: field.into(), description: description.into() });
    }

    fn body(&mut self, what: &Body, bytes: &[u8], max_values: usize) -> Result<(), Status> {
        let violations = &mut self.violations;
        match what {
            Body::None => {}
            Body::Whole => {
                self.message = json::message(&self.message.descriptor(), bytes, max_values, &Path::Root, violations)?;
            }
            Body::Field(field, descriptor) => {
                let all = Path::Field(&Path::Root, field.name());
                let one = Path::Index(&all, 0);
                let path = if field.is_list() { &one } else { &all };
                let member = Value::Message(json::message(descriptor, bytes, max_values, path, violations)?);
                self.message.set_field(field, if field.is_list() { Value::List(vec![member]) } else { member });
            }
        }
        Ok(())
    }

    fn path(&mut self, route: &Route, path: &str) {
        for (segment, raw) in route.segments.iter().zip(path.split('/').skip(1)) {
            let Segment::Variable(place) = segment else { continue };
            match query::decode(raw) {
                // An empty variable of a script, more likely than what an empty field means.
                Ok(text) if text.is_empty() => self.refuse(place.name(), "must not be empty in the path"),
                Ok(text) => self.put(place, &text),
                Err(fault) => self.refuse(place.name(), format!("the path's segment {fault}")),
            }
        }
    }

    fn headers(&mut self, route: &Route, headers: &HeaderMap) {
        for (name, place) in &route.headers {
            let mut values = headers.get_all(name).iter();
            let Some(value) = values.next() else { continue };
            match (value.to_str(), values.next()) {
                (_, Some(_)) => self.refuse(place.name(), format!("the header {name} is given twice")),
                (Err(_), _) => self.refuse(place.name(), format!("the header {name} is not ASCII")),
                // As in the path: without the variable it would be another request, and that of an operator.
                (Ok(""), None) => self.refuse(place.name(), format!("the header {name} is empty: leave it out")),
                (Ok(text), None) => self.put(place, text),
            }
        }
    }

    /// What a header says instead of all else, readable or not: whether it means anything, the call finds out.
    fn overrides(&mut self, route: &Route, headers: &HeaderMap) {
        for (name, place) in &route.overrides {
            let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            let text = values.collect::<Vec<_>>().join(", ");
            if !text.is_empty()
                && let Some(message) = self.holder(place)
            {
                message.set_field(&place.field, Value::String(text));
            }
        }
    }

    fn query(&mut self, route: &Route, query: &str) {
        let mut given: Vec<&Place> = Vec::new();
        for (name, value) in query::variables(query) {
            let name = match name {
                Ok(name) => name,
                Err(fault) => {
                    self.refuse("query", format!("has a name that {fault}"));
                    continue;
                }
            };
            if route.names_a_secret(&name) {
                self.refuse(name, "is a secret, which must not stand in a URL");
                continue;
            }
            let Some(place) = route.query.iter().find(|place| place.is_named(&name)) else {
                self.refuse(name, "is no query variable of this path");
                continue;
            };
            let again = given.iter().any(|other| std::ptr::eq(*other, place));
            given.push(place);
            match value {
                Err(fault) => self.refuse(place.name(), fault),
                Ok(_) if again && !place.field.is_list() => self.refuse(place.name(), "is given twice"),
                Ok(text) => self.put(place, &text),
            }
        }
        for name in route.required.iter().filter(|name| !given.iter().any(|place| place.is_named(name))) {
            self.refuse(name, "is a query variable that has to be given");
        }
    }

    /// Puts the value that `text` is into its place; one that is there already has to be the same.
    fn put(&mut self, place: &Place, text: &str) {
        let value = match json::text(&place.field, text) {
            Ok(value) => value,
            Err(fault) => return self.refuse(place.name(), fault),
        };
        let Some(message) = self.holder(place) else {
            return self.refuse(place.name(), "has to be of one element");
        };
        if place.field.is_list() {
            if let Some(list) = message.get_field_mut(&place.field).as_list_mut() {
                list.push(value);
            }
        } else if message.has_field(&place.field) && *message.get_field(&place.field) != value {
            self.refuse(place.name(), "contradicts the path");
        } else {
            message.set_field(&place.field, value);
        }
    }

    /// The message that the place's field is a field of.
    fn holder(&mut self, place: &Place) -> Option<&mut DynamicMessage> {
        let Some(within) = &place.within else { return Some(&mut self.message) };
        let value = self.message.get_field_mut(within);
        match value {
            Value::Message(message) => Some(message),
            Value::List(list) => {
                if list.is_empty()
                    && let Kind::Message(descriptor) = within.kind()
                {
                    list.push(Value::Message(DynamicMessage::new(descriptor)));
                }
                let [only] = list.as_mut_slice() else { return None };
                only.as_message_mut()
            }
            _ => None,
        }
    }
}
