//! Bodies as fields: a JSON object, or a form, whose values are all text. Knows no field by name.

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::{Map, Value as Json};

use super::refusal;
use crate::{
    grpc::status::{self, Reason},
    http::{
        body::{is_plain, read as read_body},
        problem::Refusal,
        query,
    },
    registry::{Error, Violation},
};

/// The fields of a document.
pub(super) type Fields = Map<String, Json>;

/// The largest integer below which every one is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The fields of a body; no body has none.
///
/// # Errors
/// It is neither a JSON object nor a form, is too large, or does not come in time.
pub(super) async fn read(headers: &HeaderMap, body: Body, max_bytes: usize) -> Result<Fields, Refusal> {
    if !is_plain(headers) {
        return Err(status::plain(Reason::UnsupportedMediaType, "bodies are taken as they are, not compressed").into());
    }
    let body = read_body(body, max_bytes).await?;
    let kind = headers.get(CONTENT_TYPE).map_or(Ok(""), HeaderValue::to_str).unwrap_or("?");
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        _ if body.is_empty() => Ok(Fields::new()),
        "application/json" => object(&body),
        "application/x-www-form-urlencoded" => form(&body),
        _ => {
            let sentence = "the body has to be an object as application/json, or application/x-www-form-urlencoded";
            let accepted = HeaderValue::from_static("application/json, application/x-www-form-urlencoded");
            Err(Refusal::with(status::plain(Reason::UnsupportedMediaType, sentence), ACCEPT, accepted))
        }
    }
}

fn malformed(sentence: String) -> Refusal {
    status::plain(Reason::Malformed, sentence).into()
}

fn object(body: &Bytes) -> Result<Fields, Refusal> {
    match serde_json::from_slice(body) {
        Ok(Json::Object(fields)) => Ok(fields),
        Ok(_) => Err(malformed("the body has to be an object".to_owned())),
        Err(error) => Err(malformed(format!("the body is not JSON: {error}"))),
    }
}

fn form(body: &Bytes) -> Result<Fields, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| malformed("the form is not UTF-8".to_owned()))?;
    let (mut fields, mut violations) = (Fields::new(), Vec::new());
    for (name, value) in query::variables(text.trim_end_matches(['\r', '\n'])) {
        match (name, value) {
            (Ok(name), Ok(value)) => {
                if fields.insert(name.clone(), Json::String(value)).is_some() {
                    violations.push(Violation { field: name, description: "is given twice".to_owned() });
                }
            }
            (Ok(field), Err(fault)) => violations.push(Violation { field, description: fault.to_owned() }),
            (Err(fault), _) => {
                violations
                    .push(Violation { field: "body".to_owned(), description: format!("has a name that {fault}") });
            }
        }
    }
    if violations.is_empty() { Ok(fields) } else { Err(refusal::of(Error::Invalid(violations))) }
}

/// A field that is a text: also a number, which a hand-written version often is.
pub(super) fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A field that is a number: also one that is written as a text, as all of a form is.
pub(super) fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

/// As the registry keeps it.
pub(super) fn to_value(json: Json) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(bool) => Kind::BoolValue(bool),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(list) => {
            Kind::ListValue(prost_types::ListValue { values: list.into_iter().map(to_value).collect() })
        }
        Json::Object(fields) => Kind::StructValue(to_struct(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// As the registry keeps them.
pub(super) fn to_struct(fields: Fields) -> prost_types::Struct {
    prost_types::Struct { fields: fields.into_iter().map(|(name, value)| (name, to_value(value))).collect() }
}

/// As JSON has it.
pub(super) fn of_value(value: prost_types::Value) -> Json {
    use prost_types::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(bool)) => Json::Bool(bool),
        // 80, not 80.0.
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < EXACT => Json::from(number as i64),
        Some(Kind::NumberValue(number)) => Json::from(number),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::ListValue(list)) => Json::Array(list.values.into_iter().map(of_value).collect()),
        Some(Kind::StructValue(fields)) => Json::Object(of_struct(fields)),
    }
}

/// As JSON has them.
pub(super) fn of_struct(fields: prost_types::Struct) -> Fields {
    fields.fields.into_iter().map(|(name, value)| (name, of_value(value))).collect()
}
