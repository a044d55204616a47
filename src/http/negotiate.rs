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

/// How much a client wants something: its weight in thousandths, then how exactly it was named.
type Wish = (u16, u8);

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

/// The one of these types that the client would rather have: the first, if it is all the same. What cannot be read says
/// nothing.
///
/// # Errors
/// `Accept` excludes them all.
pub fn accepted<'o>(headers: &HeaderMap, offers: &[&'o str]) -> Result<&'o str, Refusal> {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<_> = lines.flat_map(|line| line.split(',')).filter_map(range).collect();
    let mut best: Option<(Wish, &str)> = None;
    for offer in offers {
        let wish = if ranges.is_empty() { (1, 0) } else { wish(&ranges, offer) };
        if wish.0 > 0 && best.is_none_or(|(other, _)| other < wish) {
            best = Some((wish, offer));
        }
    }
    let offered = offers.join(" or ");
    let excluded = || status::plain(Reason::NotAcceptable, format!("the answer is {offered}, which Accept excludes"));
    best.map(|(_, offer)| offer).ok_or_else(|| excluded().into())
}

/// A media range without its parameters, and its weight.
fn range(text: &str) -> Option<(String, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.contains('/'))?.to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let thousandths = match weight {
        None => 1_000,
        Some(weight) => (weight.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight))? * 1_000.0) as u16,
    };
    Some((range, thousandths))
}

/// What the range that names an offer most exactly says of it.
fn wish(ranges: &[(String, u16)], offer: &str) -> Wish {
    let kind = offer.split('/').next().unwrap_or_default();
    let exactness = |range: &str| match range {
        "*/*" => 1,
        range if range == offer => 3,
        range => u8::from(range.strip_suffix("/*") == Some(kind)) * 2,
    };
    let named =
        ranges.iter().map(|(range, weight)| (exactness(range), *weight)).filter(|(exactness, _)| *exactness > 0);
    named.max().map_or((0, 0), |(exactness, weight)| (weight, exactness))
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
            assert_eq!(accepted(&headers(ACCEPT, values), &["application/json"]).is_ok(), taken, "{values:?}");
        }
    }

    #[test]
    fn of_several_types_the_client_chooses() {
        const JSON: &str = "application/json";
        const EVENTS: &str = "text/event-stream";
        for (values, wanted) in [
            (&[][..], Some(JSON)),
            (&[""], Some(JSON)),
            (&["text/event-stream"], Some(EVENTS)),
            (&["TEXT/Event-Stream; charset=utf-8"], Some(EVENTS)),
            (&["text/*"], Some(EVENTS)),
            (&["text/event-stream, */*"], Some(EVENTS)),
            (&["*/*;q=0.9, text/event-stream;q=0.8"], Some(JSON)),
            (&["*/*"], Some(JSON)),
            (&["application/json, text/event-stream"], Some(JSON)),
            (&["text/event-stream;q=0.9,application/json;q=0.8"], Some(EVENTS)),
            (&["text/event-stream; q=0.1, application/json; Q=0.2"], Some(JSON)),
            (&["application/json;q=0.5", "text/event-stream"], Some(EVENTS)),
            (&["text/event-stream;q=0, */*;q=0.1"], Some(JSON)),
            (&["text/event-stream;q=0.001"], Some(EVENTS)),
            (&["nonsense;;q=x,,;"], Some(JSON)),
            (&["text/event-stream;q=2"], Some(JSON)),
            (&["text/html"], None),
            (&["text/event-stream;q=0"], None),
        ] {
            assert_eq!(accepted(&headers(ACCEPT, values), &[JSON, EVENTS]).ok(), wanted, "{values:?}");
        }
    }
}
