//! What is the same for whoever asks: the OpenAPI document, and the page of it for people. Made once, by the first who
//! asks; whoever has it already is told so by its tag.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use axum::{Router, body::Body, routing::any};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::{
    api::{self, JSON},
    docs, openapi,
    routes::Table,
};

/// Where the document is.
pub const DOCUMENT: &str = "/v1/openapi.json";
/// Where the page is.
pub const PAGE: &str = "/docs";

/// The methods of both.
const ALLOW: &str = "GET, HEAD, OPTIONS";

/// An answer that never changes.
#[derive(Debug)]
struct Kept {
    body: Bytes,
    headers: HeaderMap,
}

#[derive(Debug)]
struct Made {
    document: Kept,
    page: Kept,
}

/// Serves both.
pub fn router(table: Table) -> Router {
    // They are large, and the same on every thread.
    static MADE: OnceLock<Made> = OnceLock::new();
    let table = Arc::new(table);
    let serve = |pick: fn(&Made) -> &Kept| {
        let table = Arc::clone(&table);
        any(move |request: Request<Body>| async move { pick(MADE.get_or_init(|| make(&table))).answer(&request) })
    };
    Router::new().route(DOCUMENT, serve(|made| &made.document)).route(PAGE, serve(|made| &made.page))
}

fn make(table: &Table) -> Made {
    // The comments are not kept beyond this.
    let commented = Table::with_comments();
    let document = openapi::document(commented.as_ref().unwrap_or(table));
    // Only maps with keys that are no text cannot be written.
    let mut json = serde_json::to_vec(&document).unwrap_or_default();
    json.push(b'\n');
    let page = docs::page(&document).into_bytes();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let mut page = Kept::new(page, html);
    if let Ok(policy) = HeaderValue::try_from(docs::policy()) {
        page.headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    page.headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Made { document: Kept::new(json, JSON), page }
}

impl Kept {
    fn new(body: Vec<u8>, kind: HeaderValue) -> Self {
        let mut tag = Sha256::digest(&body)[..16].iter().fold("\"".to_owned(), |mut tag, byte| {
            // A text takes what is written to it.
            let _ = write!(tag, "{byte:02x}");
            tag
        });
        tag.push('"');
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (header::ETAG, tag)));
        Self { body: body.into(), headers }
    }

    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => return api::options(ALLOW),
            _ => return api::not_allowed(ALLOW).into_response(),
        }
        let known = self.is_known(request.headers());
        let mut response = Response::new(if known { Body::empty() } else { Body::from(self.body.clone()) });
        *response.status_mut() = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        *response.headers_mut() = self.headers.clone();
        response
    }

    /// Whether the asker names its tag, or any.
    fn is_known(&self, headers: &HeaderMap) -> bool {
        let Some(ours) = self.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()) else { return false };
        let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = given.flat_map(|tags| tags.split(',')).map(str::trim);
        tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == ours)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(method: &str, path: &str, tag: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        if let Some(tag) = tag {
            request.headers_mut().insert(header::IF_NONE_MATCH, HeaderValue::try_from(tag).unwrap());
        }
        let response = router(Table::of_api().unwrap()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn who_has_it_is_told_so() {
        for path in [DOCUMENT, PAGE] {
            let (status, headers, body) = ask("GET", path, None).await;
            assert_eq!(status, StatusCode::OK);
            assert!(body.len() > 10_000, "{path}: {}", body.len());
            let tag = headers[header::ETAG].to_str().unwrap();
            for (given, expected) in [
                (tag.to_owned(), StatusCode::NOT_MODIFIED),
                (format!("\"x\", W/{tag}"), StatusCode::NOT_MODIFIED),
                ("*".to_owned(), StatusCode::NOT_MODIFIED),
                ("\"x\"".to_owned(), StatusCode::OK),
            ] {
                let (status, headers, again) = ask("GET", path, Some(&given)).await;
                assert_eq!(status, expected, "{path} {given}");
                assert_eq!(headers[header::ETAG], tag);
                assert_eq!(again.is_empty(), status == StatusCode::NOT_MODIFIED);
            }
        }
    }

    #[tokio::test]
    async fn other_methods_are_refused() {
        let (status, headers, body) = ask("POST", DOCUMENT, None).await;
        assert_eq!(
            (status, &headers[header::ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static(ALLOW))
        );
        assert!(body.contains("METHOD_NOT_ALLOWED"), "{body}");
    }

    #[tokio::test]
    async fn the_page_can_do_nothing_but_be_read() {
        let (_, headers, body) = ask("GET", PAGE, None).await;
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!body.contains("<script") && !body.contains("style=\""), "it would be refused by its own policy");
    }
}
