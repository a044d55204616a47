//! The API as a service, without a socket: requests in, answers out, over a registry in memory.

mod refusals;

use std::sync::Arc;

use axum::{Router, body::Body};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value as Json, json};
use tower::ServiceExt as _;
use uuid::Uuid;

use super::{ApiOptions, router};
use crate::{
    access::Gate,
    actor::{ActorOptions, RegistryHandle},
    engine::memory::MemoryEngine,
    grpc::{
        CanonicalErrors, Dispatch, RegistryService, ServiceOptions, registry::fixed_limits,
        server::registry_server::RegistryServer,
    },
    proto::Limits,
};

const MAX_MESSAGE_BYTES: usize = 128 * 1024;
const MAX_JSON_VALUES: usize = 20_000;

/// The API over an empty registry.
fn api() -> Router {
    let recovered = MemoryEngine::recovered(Uuid::from_u128(7), 1);
    let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
    tokio::spawn(actor.run());
    let limits = Limits { max_beats: 100, max_selectors: 10, ..fixed_limits() };
    let restart_grace = std::time::Duration::from_secs(30);
    let options = ServiceOptions { limits, restart_grace, durable: false, members: Vec::new() };
    let metrics = Arc::clone(handle.metrics());
    let service = RegistryServer::new(RegistryService::new(handle, options));
    let services = Dispatch::default().and(CanonicalErrors::new(service, MAX_MESSAGE_BYTES as u64, metrics));
    let options = ApiOptions { max_message_bytes: MAX_MESSAGE_BYTES, max_json_values: MAX_JSON_VALUES };
    router(services, options, Gate::open()).expect("the protos are right")
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    head: Response<()>,
    json: Json,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.head.headers().get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }
}

async fn send(api: &Router, request: Request<Body>) -> Answer {
    let (head, body) = api.clone().oneshot(request).await.expect("never fails").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let json = if body.is_empty() { Json::Null } else { serde_json::from_slice(&body).expect("JSON") };
    Answer { head: Response::from_parts(head, ()), json }
}

async fn ask(api: &Router, method: &str, path: &str, body: Option<Json>) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = match body {
        Some(json) => request.header(header::CONTENT_TYPE, "application/json").body(Body::from(json.to_string())),
        None => request.body(Body::empty()),
    };
    send(api, request.expect("a request")).await
}

/// A success, as JSON.
async fn ok(api: &Router, method: &str, path: &str, body: Option<Json>) -> Json {
    let answer = ask(api, method, path, body).await;
    assert_eq!(answer.head.status(), StatusCode::OK, "{method} {path}: {}", answer.json);
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/json");
    answer.json
}

const WEB: &str = "/v1/namespaces/shop/services/web/instances";

#[tokio::test]
async fn an_instance_lives_by_http_alone() {
    let api = api();
    let put = ok(&api, "PUT", &format!("{WEB}/a"), Some(json!({"instance": {"port": 80}, "ttl": "20s"}))).await;
    assert_eq!(put["instance"]["url"], "http://127.0.0.1:80");
    assert_eq!(put["lease"]["ttl"], "20s");
    let token = put["lease"]["token"].as_str().expect("a token").to_owned();
    let posted = ok(&api, "POST", WEB, Some(json!({"instance": {"port": 81, "metadata": {"a": [1, null]}}}))).await;
    assert_eq!(posted["instance"]["id"], "127.0.0.1:81");

    let beat = ok(&api, "POST", &format!("{WEB}/a/heartbeat"), Some(json!({"leaseToken": token}))).await;
    assert_eq!(beat["results"], json!([{"state": "BEAT_STATE_RENEWED", "ttl": "20s"}]));
    let elsewhere = ok(&api, "POST", &format!("{WEB}/b/heartbeat"), Some(json!({"leaseToken": token}))).await;
    assert_eq!(elsewhere["results"], json!([{"state": "BEAT_STATE_UNKNOWN"}]));
    let both = json!({"beats": [{"leaseToken": token}, {"leaseToken": "nonsense"}]});
    assert_eq!(ok(&api, "POST", "/v1/heartbeat", Some(both)).await["results"].as_array().map(Vec::len), Some(2));

    let read = ok(&api, "GET", &format!("{WEB}/a"), None).await;
    assert_eq!(read["instance"], put["instance"]);
    let found = ok(&api, "GET", WEB, None).await;
    assert_eq!(found["instances"], json!([posted["instance"], put["instance"]]));
    let one = ok(&api, "GET", "/v1/namespaces/*/instances?selector=metadata.a&limit=5", None).await;
    assert_eq!(one["instances"], json!([posted["instance"]]));
    let picked = ok(&api, "GET", &format!("{WEB}?pick=1&limit=5"), None).await;
    assert_eq!(picked["instances"], found["instances"], "a number stands for the name");
    let listed = ok(&api, "GET", "/v1/namespaces/shop/services", None).await;
    assert_eq!(listed["services"][0]["routable"], 2);

    let other = Request::delete(format!("{WEB}/127.0.0.1:81")).header("onair-lease-token", &token);
    let other = send(&api, other.body(Body::empty()).expect("a request")).await;
    assert_eq!((other.status(), &other.json["violations"][0]["field"]), (400, &json!("lease_token")));
    let own = Request::delete(format!("{WEB}/a")).header("onair-lease-token", &token);
    assert_eq!(send(&api, own.body(Body::empty()).expect("a request")).await.json["removed"], "1");
    let gone = ask(&api, "GET", &format!("{WEB}/a"), None).await;
    assert_eq!(gone.status(), 404);
    let resource = json!({"type": "onair.v1.Instance", "name": "shop/web/a", "description": "not registered"});
    assert_eq!(gone.json["resource"], resource);
    assert_eq!(ok(&api, "DELETE", &format!("{WEB}?all=true"), None).await["removed"], "1");
    let late = ok(&api, "POST", "/v1/deregister", Some(json!({"leaseTokens": [token]}))).await;
    assert_eq!(late.get("removed"), None, "canonical JSON leaves 0 out");
}

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let api = api();
    let answer = ask(&api, "GET", "/v1/nothing", None).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json");
    let detail = "there is no such path; the page at /docs has those that there are";
    let expected = json!({"type": "about:blank", "title": "Not Found", "status": 404, "detail": detail,
        "code": "NOT_FOUND", "reason": "NO_ROUTE", "domain": "onair"});
    assert_eq!(answer.json, expected);
    let answer = ask(&api, "POST", "/v1/info", None).await;
    assert_eq!((answer.status(), answer.header(header::ALLOW)), (405, "GET, HEAD, OPTIONS"));
    assert_eq!(answer.json["reason"], "METHOD_NOT_ALLOWED");
    for path in ["/v1/info", "/v1/nothing"] {
        let (head, get) = (ask(&api, "HEAD", path, None).await, ask(&api, "GET", path, None).await);
        assert_eq!((head.status(), &head.json), (get.status(), &Json::Null));
        assert_eq!(
            head.header(header::CONTENT_LENGTH),
            (get.json.to_string().len() + 1).to_string(),
            "with the end of the line"
        );
    }
    let answer = ask(&api, "OPTIONS", WEB, None).await;
    assert_eq!((answer.status(), answer.header(header::ALLOW)), (204, "POST, DELETE, GET, HEAD, OPTIONS"));
}

#[tokio::test]
async fn a_refusal_has_what_the_calls_status_has() {
    let api = api();
    let bad = json!({"instance": {"port": 70_000, "version": "v".repeat(200)}, "ttl": "-1s"});
    let answer = ask(&api, "PUT", &format!("{WEB}/a"), Some(bad)).await;
    assert_eq!((answer.status(), &answer.json["code"]), (400, &json!("INVALID_ARGUMENT")));
    let fields = answer.json["violations"].as_array().expect("violations").iter().map(|one| &one["field"]);
    let mut fields: Vec<_> = fields.filter_map(Json::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["instance.port", "instance.version", "ttl"]);
    let ahead = ask(&api, "GET", &format!("{WEB}?minRevision=99&wait=0.01s"), None).await;
    assert_eq!((ahead.status(), &ahead.json["reason"]), (400, &json!("REVISION_AHEAD")));
    assert!(ahead.json["metadata"]["revision"].is_string(), "{}", ahead.json);
}

#[test]
fn who_sends_a_large_body_holds_up_nobody() {
    // With one thread for what is done apart, and that one taken.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let api = api();
        let (go_on, held_up) = std::sync::mpsc::channel::<()>();
        let holds_up = tokio::task::spawn_blocking(move || held_up.recv());
        let tokens = vec!["x".repeat(70); 1_000];
        let mut large = Box::pin(ask(&api, "POST", "/v1/deregister", Some(json!({"leaseTokens": tokens}))));
        for _ in 0..3 {
            let small = ok(&api, "GET", "/v1/info", None);
            tokio::select! {
                biased;
                answer = &mut large => panic!("it was read here: {answer:?}"),
                _ = small => {}
            }
        }
        // Beats are heard at once.
        let beats = json!({"beats": vec![json!({"leaseToken": "x".repeat(1_000)}); 100]});
        assert_eq!(ok(&api, "POST", "/v1/heartbeat", Some(beats)).await["results"].as_array().map(Vec::len), Some(100));
        go_on.send(()).expect("it waits");
        assert_eq!(large.await.status(), 400, "more tokens than max_beats");
        holds_up.await.expect("it ends").expect("it was told");
    });
}
