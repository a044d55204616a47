//! What a request says of its body and of the answer that it takes: JSON, as it is, or no body at all. Knows nothing of
//! what is in it.

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE},
};
use http_body::Body as _;

use super::{body, problem::Refusal};
use crate::{
    grpc::status::{self, Reason},
    registry::Error,
};

/// The JSON of a request that has to have some.
///
/// # Errors
/// Its type or encoding is another, it is too large, or it does not come in time.
pub async fn json(headers: &HeaderMap, body: Body, max_bytes: usize) -> Result<Bytes, Refusal> {
    not_encoded(headers)?;
    let types: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
    if !matches!(types.as_slice(), [only] if only.to_str().is_ok_and(is_json)) {
        let sentence = "the body has to be JSON in UTF-8, declared as Content-Type: application/json";
        let accepted = HeaderValue::from_static("application/json");
        return Err(Refusal::with(status::plain(Reason::UnsupportedMediaType, sentence), ACCEPT, accepted));
    }
    Ok(body::read(body, max_bytes).await?)
}

/// Sees that a request without a use for a body has none.
///
/// # Errors
/// It has one.
pub async fn none(headers: &HeaderMap, body: Body) -> Result<(), Refusal> {
    not_encoded(headers)?;
    if body.is_end_stream() || body::read(body, 0).await.is_ok() {
        return Ok(());
    }
    let sentence = "must be left out: everything that this request says is in its path, query and headers";
    Err(Refusal::from(tonic::Status::from(Error::invalid("body", sentence))))
}

fn not_encoded(headers: &HeaderMap) -> Result<(), Refusal> {
    if body::is_plain(headers) {
        return Ok(());
    }
    let status = status::plain(Reason::UnsupportedMediaType, "bodies are taken as they are, not compressed");
    Err(Refusal::with(status, ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// `application/json`, which is UTF-8 whether it says so or not.
fn is_json(value: &str) -> bool {
    let mut parts = value.split(';').map(str::trim);
    let is_utf_8 = |parameter: &str| {
        parameter.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("charset") && value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    };
    parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) && parts.all(is_utf_8)
}

/// Sees that the answer may be of this type, which has no parameters.
///
/// # Errors
/// `Accept` excludes it.
pub fn accepts(headers: &HeaderMap, kind: &'static str) -> Result<(), Refusal> {
    // The closest range decides: the type itself, then all of its family, then everything.
    let (family, _) = kind.split_once('/').unwrap_or((kind, ""));
    let (mut closest, mut any) = ([None; 3], false);
    for value in headers.get_all(ACCEPT) {
        let Ok(value) = value.to_str() else { continue };
        for range in value.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            any = true;
            let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
            let place = match name.trim() {
                name if name.eq_ignore_ascii_case(kind) => 0,
                name if name.strip_suffix("/*").is_some_and(|name| name.eq_ignore_ascii_case(family)) => 1,
                "*/*" => 2,
                _ => continue,
            };
            closest[place] = Some(closest[place].unwrap_or(false) || !is_zero(parameters));
        }
    }
    if !any || closest.into_iter().flatten().next().unwrap_or(false) {
        return Ok(());
    }
    Err(status::plain(Reason::NotAcceptable, format!("the answer is {kind}, which Accept excludes")).into())
}

/// Whether the parameters of a range say `q=0`: by no means.
fn is_zero(parameters: &str) -> bool {
    let quality = parameters
        .split(';')
        .filter_map(|one| one.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    quality.is_some_and(|(_, value)| value.trim().parse::<f32>().is_ok_and(|value| value == 0.0))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn json_is_in_utf_8() {
        for (value, taken) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/json;Charset=\"UTF-8\"", true),
            ("application/json; charset=latin1", false),
            ("application/json; boundary=x", false),
            ("application/json-seq", false),
            ("application/x-www-form-urlencoded", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_json(value), taken, "{value}");
        }
    }

    #[test]
    fn accept_is_read_by_its_closest_range() {
        for (values, taken) in [
            (&[][..], true),
            (&[""], true),
            (&["application/json"], true),
            (&["*/*"], true),
            (&["application/*"], true),
            (&["text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8"], true),
            (&["text/html", "Application/Json"], true),
            (&["text/html"], false),
            (&["text/event-stream"], false),
            (&["application/json;q=0"], false),
            (&["application/json;q=0.0, */*"], false),
            (&["application/*;q=0, */*"], false),
            (&["*/*;q=0, application/json;q=0.1"], true),
        ] {
            assert_eq!(accepts(&headers(ACCEPT, values), "application/json").is_ok(), taken, "{values:?}");
        }
    }
}
