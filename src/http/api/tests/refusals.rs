//! Bad requests: each gets its documented answer, with everything that is wrong named at once, and changes nothing.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;

use super::*;

/// (field, description) of each violation, in order.
fn violations(answer: &Answer) -> Vec<(String, String)> {
    let text = |value: &Json| value.as_str().expect("a text").to_owned();
    let all = answer.json["violations"].as_array().into_iter().flatten();
    all.map(|one| (text(&one["field"]), text(&one["description"]))).collect()
}

/// A refusal: 400 `INVALID` with these violations.
async fn is_invalid(api: &Router, request: Request<Body>, expected: &[(&str, &str)]) {
    let what = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
    let answer = send(api, request).await;
    assert_eq!((answer.status(), answer.json["reason"].as_str()), (400, Some("INVALID")), "{what}: {}", answer.json);
    let expected: Vec<_> = expected.iter().map(|(field, what)| ((*field).to_owned(), (*what).to_owned())).collect();
    assert_eq!(violations(&answer), expected, "{what}");
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).expect("a request")
}

fn put(path: &str, body: &Json) -> Request<Body> {
    let request = Request::put(path).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_string())).expect("a request")
}

#[tokio::test]
async fn what_path_query_headers_and_body_say_has_to_agree() {
    let api = api();
    let body = json!({"instance": {"namespace": "shop", "id": "b", "port": 80}});
    is_invalid(&api, put(&format!("{WEB}/a"), &body), &[("instance.id", "contradicts the path")]).await;
    let same = json!({"instance": {"namespace": "shop", "service": "web", "id": "a", "port": 80}});
    assert_eq!(send(&api, put(&format!("{WEB}/a"), &same)).await.status(), 200);
    let before = ok(&api, "GET", "/v1/info", None).await["revision"].clone();

    let no_hex = "the path's segment has a percent sign that two hexadecimal digits do not follow";
    let not_utf_8 = "the path's segment is not UTF-8 when percent-decoded";
    let path = "/v1/namespaces/%zz/services/%ff/instances";
    is_invalid(&api, get(path), &[("namespace", no_hex), ("service", not_utf_8)]).await;
    let path = format!("{WEB}?limit=x&colour=red&limit=2&pick=ANY&wait=10&min_revision=-1&a%zz=1&version=%c3&zone");
    let limit = "must be an integer from 0 to 4294967295";
    let expected = [
        ("limit", limit),
        ("colour", "is no query variable of this path"),
        ("limit", "is given twice"),
        ("pick", "must be one of PICK_ALL, PICK_RANDOM, PICK_ROUND_ROBIN, PICK_WEIGHTED, PICK_RENDEZVOUS"),
        ("wait", "must be a duration such as \"1.5s\", of at most 315576000000s"),
        ("min_revision", "must be an integer from 0 to 18446744073709551615"),
        ("query", "has a name that has a percent sign that two hexadecimal digits do not follow"),
        ("version", "is not UTF-8 when percent-decoded"),
        ("zone", "is no query variable of this path"),
    ];
    is_invalid(&api, get(&path), &expected).await;
    // What the path says already, and what only a body could say, is no query variable.
    let request = put(&format!("{WEB}/a?id=a&ttl=1s"), &same);
    let none = "is no query variable of this path";
    is_invalid(&api, request, &[("id", none), ("ttl", none)]).await;
    // What the JSON breaks and what the path breaks come together.
    let request = put(&format!("{WEB}/%2"), &json!({"instance": {"port": "x", "colour": 1}, "ttl": 1}));
    let answer = send(&api, request).await;
    let fields: Vec<_> = violations(&answer).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["instance.colour", "instance.port", "ttl", "instance.id"]);
    assert_eq!(ok(&api, "GET", "/v1/info", None).await["revision"], before, "nothing changed");
}

#[tokio::test]
async fn a_secret_in_a_url_is_refused_and_not_repeated() {
    let api = api();
    let secret = "is a secret, which must not stand in a URL";
    for name in ["leaseToken", "lease_token", "lease_tokens", "lease%54oken"] {
        let request = Request::delete(format!("{WEB}/a?{name}=hush-hush&lease_token=hush-hush"));
        let answer = send(&api, request.body(Body::empty()).expect("a request")).await;
        assert_eq!(answer.status(), 400);
        assert_eq!(violations(&answer).iter().filter(|(_, what)| what == secret).count(), 2, "{}", answer.json);
        assert!(!answer.json.to_string().contains("hush-hush"), "{}", answer.json);
    }
    let request = Request::post(format!("{WEB}/a/heartbeat?leaseToken=hush-hush"));
    let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from("{}"));
    is_invalid(&api, request.expect("a request"), &[("leaseToken", secret)]).await;
    for (values, what) in [
        (&[&b"a"[..], b"a"][..], "the header onair-lease-token is given twice"),
        (&[b"\xe4"], "the header onair-lease-token is not ASCII"),
    ] {
        let mut request = Request::delete(format!("{WEB}/a")).body(Body::empty()).expect("a request");
        for value in values {
            let value = header::HeaderValue::from_bytes(value).expect("a value");
            request.headers_mut().append("onair-lease-token", value);
        }
        is_invalid(&api, request, &[("lease_token", what)]).await;
    }
}

#[tokio::test]
async fn a_body_is_json_and_says_so_or_there_is_none() {
    let api = api();
    let request = |method: &str, path: &str, headers: &[(&str, &str)], body: &'static str| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::from(body)).expect("a request")
    };
    let kind = ("content-type", "application/json");
    for headers in [&[][..], &[("content-type", "text/plain")], &[kind, kind], &[("content-type", "text/json")]] {
        let answer = send(&api, request("POST", "/v1/deregister", headers, "{}")).await;
        let expected = (415, Some("UNSUPPORTED_MEDIA_TYPE"), "application/json");
        let got = (answer.status(), answer.json["reason"].as_str(), answer.header(header::ACCEPT));
        assert_eq!(got, expected, "{headers:?}");
    }
    for coding in ["gzip", "br, identity", "zstd"] {
        for (method, path) in [("POST", "/v1/deregister"), ("GET", WEB)] {
            let answer = send(&api, request(method, path, &[kind, ("content-encoding", coding)], "{}")).await;
            let expected = (415, Some("UNSUPPORTED_MEDIA_TYPE"), "identity");
            let got = (answer.status(), answer.json["reason"].as_str(), answer.header(header::ACCEPT_ENCODING));
            assert_eq!(got, expected, "{coding}");
        }
    }
    for body in ["", "{", "{} {}"] {
        let answer = send(&api, request("POST", "/v1/deregister", &[kind], body)).await;
        assert_eq!((answer.status(), answer.json["reason"].as_str()), (400, Some("MALFORMED")), "{body}");
    }
    let needless = "must be left out: everything that this request says is in its path, query and headers";
    for (method, path) in [("GET", WEB), ("DELETE", WEB), ("GET", "/v1/info")] {
        is_invalid(&api, request(method, path, &[kind], "{}"), &[("body", needless)]).await;
        let empty = send(&api, request(method, &format!("{path}?all=true"), &[kind], "")).await;
        assert_eq!(empty.status(), if method == "DELETE" { 200 } else { 400 }, "{method} {path}");
    }
    for (accept, status) in [("application/json", 200), ("text/html, */*;q=0.1", 200), ("text/html", 406)] {
        let answer = send(&api, request("GET", "/v1/info", &[("accept", accept)], "")).await;
        assert_eq!(answer.status(), status, "{accept}");
    }
}

/// A body that goes on for as long as it is read.
struct Endless {
    read: Arc<AtomicUsize>,
    /// After so many bytes nothing more comes.
    stalls: usize,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        const CHUNK: &[u8] = &[b' '; 1_000];
        if self.read.fetch_add(CHUNK.len(), Ordering::Relaxed) >= self.stalls {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(CHUNK)))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_cut_while_it_is_read() {
    let api = api();
    let endless = |stalls: usize| {
        let read = Arc::<AtomicUsize>::default();
        let body = Body::new(Endless { read: Arc::clone(&read), stalls });
        let request = Request::post("/v1/heartbeat").header(header::CONTENT_TYPE, "application/json");
        (read, request.body(body).expect("a request"))
    };
    let (read, request) = endless(usize::MAX);
    let answer = send(&api, request).await;
    assert_eq!((answer.status(), answer.json["reason"].as_str()), (413, Some("TOO_LARGE")));
    assert_eq!(answer.json["metadata"]["limit"], "max_message_bytes");
    assert!(read.load(Ordering::Relaxed) <= MAX_MESSAGE_BYTES + 2_000);

    let begun = Instant::now();
    let (_, request) = endless(3_000);
    let answer = send(&api, request).await;
    assert_eq!((answer.status(), answer.json["reason"].as_str()), (408, Some("SLOW_BODY")));
    assert_eq!(begun.elapsed(), Duration::from_secs(30));

    // What is announced as too large is not read.
    let large = "x".repeat(MAX_MESSAGE_BYTES + 1);
    let answer = ask(&api, "POST", "/v1/heartbeat", Some(json!(large))).await;
    assert_eq!(answer.status(), 413);
    // Where none is wanted, the first bytes are enough.
    let (read, mut request) = endless(usize::MAX);
    (*request.method_mut(), *request.uri_mut()) = (http::Method::GET, http::Uri::from_static("/v1/info"));
    assert_eq!(send(&api, request).await.status(), 400);
    assert!(read.load(Ordering::Relaxed) <= 2_000);
}

#[tokio::test]
async fn an_empty_token_is_not_taken_for_none() {
    let api = api();
    let put = put(&format!("{WEB}/a"), &json!({"instance": {"port": 80}}));
    assert_eq!(send(&api, put).await.status(), 200);
    let leave = |token: &str| {
        let request = Request::delete(format!("{WEB}/a")).header("onair-lease-token", token);
        request.body(Body::empty()).expect("a request")
    };
    is_invalid(&api, leave(""), &[("lease_token", "the header onair-lease-token is empty: leave it out")]).await;
    assert_eq!(ask(&api, "GET", &format!("{WEB}/a"), None).await.status(), 200, "it is still there");
}
