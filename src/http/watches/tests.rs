//! Watches of a front without a socket: what its clients get while the registry comes, changes and goes.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value as Json;
use tokio::time::Instant;
use tonic::Code;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::{
    access::Gate,
    actor::{ActorOptions, RegistryHandle},
    engine::memory::MemoryEngine,
    grpc::{
        CanonicalErrors, Dispatch, RegistryService, ServiceOptions, registry::fixed_limits,
        server::registry_server::RegistryServer,
    },
    http::{ApiOptions, router},
    metrics::{Front as Way, Rpc},
    proto::Limits,
};

const WATCH: &str = "/v1/namespaces/default/services/web/watch";

/// The routes over an empty registry.
fn front() -> (Router, RegistryHandle) {
    let recovered = MemoryEngine::recovered(Uuid::from_u128(7), 1);
    let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
    tokio::spawn(actor.run());
    let limits = Limits { max_selectors: 10, ..fixed_limits() };
    let options = ServiceOptions { limits, restart_grace: Duration::ZERO, durable: false, members: Vec::new() };
    let metrics = Arc::clone(handle.metrics());
    let service = RegistryServer::new(RegistryService::new(handle.clone(), options));
    let services = Dispatch::default().and(CanonicalErrors::new(service, 65_536, metrics));
    (
        router(services, ApiOptions { max_message_bytes: 65_536, max_json_values: 1_000 }, Gate::open())
            .expect("the protos are right"),
        handle,
    )
}

async fn get(front: &Router, target: &str, accept: &str) -> Response<Body> {
    let request = Request::get(target).header(header::ACCEPT, accept).body(Body::empty()).expect("a request");
    front.clone().oneshot(request).await.expect("never fails")
}

/// The next data of a body; none at its end.
async fn next(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.expect("a whole body");
    Some(String::from_utf8(frame.into_data().expect("data").to_vec()).expect("UTF-8"))
}

async fn json(response: Response<Body>) -> Json {
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test]
async fn who_comes_while_the_server_goes_is_cut_off_and_not_refused() {
    let (front, handle) = front();
    handle.hub().close();
    let response = get(&front, WATCH, "text/event-stream").await;
    assert_eq!(
        (response.status(), &response.headers()[header::CONTENT_TYPE]),
        (StatusCode::OK, &HeaderValue::from_static("text/event-stream"))
    );
    let mut body = response.into_body();
    let text = next(&mut body).await.expect("when to come back");
    assert_eq!(next(&mut body).await, None);
    let (retry, end) = text.split_once("\n\n").expect("two blocks");
    assert!(retry.starts_with("retry: ") && end.starts_with(": {\"type\":") && end.ends_with("\n\n"), "{text}");
    assert!(end.contains("\"reason\":\"SHUTTING_DOWN\"") && end.contains("\nretry: "), "{text}");
    // A poll is a call like any other: it has nothing to give, and says when it makes sense again.
    let response = get(&front, WATCH, "application/json").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
}

#[tokio::test(start_paused = true)]
async fn a_poll_is_held_for_as_long_as_it_asks_and_five_minutes_at_most() {
    let (front, _handle) = front();
    let token = json(get(&front, WATCH, "*/*").await).await["resumeToken"].as_str().expect("a token").to_owned();
    for (wait, seconds) in [("0s", 0), ("0.5s", 0), ("30s", 30), ("300s", 300), ("100000s", 300)] {
        let begun = Instant::now();
        let mut body = get(&front, &format!("{WATCH}?resume_token={token}&wait={wait}"), "*/*").await.into_body();
        let mut text = String::new();
        while let Some(part) = next(&mut body).await {
            text.push_str(&part);
        }
        assert_eq!((begun.elapsed().as_secs(), wait), (seconds, wait));
        // Bookmarks keep the connection alive meanwhile, and mean nothing.
        // And the answer ends a line.
        assert_eq!(text.matches('\n').count() as u64, 2 + seconds / 10, "{text}");
        let json: Json = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json, serde_json::json!({"responses": [], "resumeToken": token, "revision": "0"}));
    }
}

#[tokio::test]
async fn a_snapshot_that_is_cut_off_is_no_answer() {
    let (front, handle) = front();
    let mut body = get(&front, WATCH, "*/*").await.into_body();
    assert_eq!(next(&mut body).await.as_deref(), Some("{\"responses\":["));
    handle.hub().close();
    let error = body.frame().await.expect("no end").expect_err("an error");
    assert_eq!(error.to_string(), "operation interrupted");
}

#[tokio::test]
async fn a_watch_ends_when_its_reader_leaves() {
    let (front, handle) = front();
    for accept in ["text/event-stream", "application/json"] {
        let kind = HeaderValue::from_static(accept);
        let mut body = get(&front, WATCH, accept).await.into_body();
        next(&mut body).await;
        assert_eq!(handle.hub().watches(), 1, "{accept}");
        drop(body);
        assert_eq!(handle.hub().watches(), 0, "{accept}");
        let head = Request::head(WATCH).header(header::ACCEPT, accept).body(Body::empty()).expect("a request");
        let response = front.clone().oneshot(head).await.expect("never fails");
        assert_eq!((response.status(), &response.headers()[header::CONTENT_TYPE]), (StatusCode::OK, &kind));
        assert_eq!(handle.hub().watches(), 0, "{accept}");
    }
}

#[tokio::test]
async fn watches_are_counted_by_their_way_and_their_end() {
    let (front, handle) = front();
    let metrics = handle.metrics();
    let open = |way| metrics.streams.of((way, Rpc::Watch)).get();
    let ended = |way, code| metrics.calls.of((way, Rpc::Watch, code)).get();
    let mut events = get(&front, WATCH, "text/event-stream").await.into_body();
    next(&mut events).await;
    assert_eq!((open(Way::Sse), open(Way::Http)), (1, 0));
    // A poll that was answered; and one whose reader leaves before it is.
    let poll = json(get(&front, WATCH, "*/*").await).await;
    assert_eq!((ended(Way::Http, Code::Ok), ended(Way::Http, Code::Cancelled)), (1, 0), "{poll}");
    let mut left = get(&front, WATCH, "*/*").await.into_body();
    next(&mut left).await;
    drop(left);
    assert_eq!((ended(Way::Http, Code::Ok), ended(Way::Http, Code::Cancelled)), (1, 1));
    for accept in ["text/event-stream", "application/json"] {
        let head = Request::head(WATCH).header(header::ACCEPT, accept).body(Body::empty()).expect("a request");
        front.clone().oneshot(head).await.expect("never fails");
    }
    assert_eq!((ended(Way::Http, Code::Ok), ended(Way::Sse, Code::Ok)), (2, 1), "who asks for the head has all of it");
    drop(events);
    assert_eq!((open(Way::Sse), ended(Way::Sse, Code::Cancelled)), (0, 1));
}
