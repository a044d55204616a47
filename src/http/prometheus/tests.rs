//! The route over a registry in the process: many pages, what is wrong with a query, and an answer that breaks off.

use std::net::Ipv4Addr;

use http::{Method, StatusCode};
use serde_json::Value;
use tokio_stream::StreamExt as _;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::*;
use crate::{
    actor::{ActorOptions, RegistryHandle, anyone},
    engine::memory::MemoryEngine,
    grpc::{
        CanonicalErrors, Dispatch, RegistryService, ServiceOptions, registry::fixed_limits,
        server::registry_server::RegistryServer,
    },
    registry::{Context, Registration},
};

async fn registry() -> (RegistryHandle, Router) {
    let recovered = MemoryEngine::recovered(Uuid::nil(), 1);
    let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
    tokio::spawn(actor.run());
    let options =
        ServiceOptions { limits: fixed_limits(), restart_grace: Duration::ZERO, durable: false, members: Vec::new() };
    let service = RegistryServer::new(RegistryService::new(handle.clone(), options));
    let services = Dispatch::default().and(CanonicalErrors::new(service, 1 << 20, Arc::clone(handle.metrics())));
    (handle, router(services))
}

async fn register(handle: &RegistryHandle, service: &str, id: String) {
    let ports = [("metrics".to_owned(), 9_100)].into();
    let instance = Instance { service: service.into(), id, port: 80, ports, ..Instance::default() };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let registration = Registration::parse(instance, None, context).expect("a registration");
    handle.register(registration, None, anyone(), None).await.expect("registered");
}

async fn ask(router: &Router, method: Method, query: &str) -> (StatusCode, HeaderMap, Value) {
    let request = Request::builder().method(method).uri(format!("{PATH}{query}")).body(Body::empty()).unwrap();
    let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    (head.status, head.headers, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn every_instance_is_a_group_over_all_pages() {
    let (handle, router) = registry().await;
    assert_eq!(ask(&router, Method::GET, "").await.2, serde_json::json!([]));
    for number in 0..2_500 {
        register(&handle, if number % 5 == 0 { "api" } else { "web" }, format!("i{number:04}")).await;
    }
    for (query, count) in [("", 2_500), ("?service=api", 500), ("?selector=id+in+(i0001,i0002)&port=metrics", 2)] {
        let (status, headers, list) = ask(&router, Method::GET, query).await;
        assert_eq!((status, &headers[CONTENT_TYPE]), (StatusCode::OK, &JSON));
        let list = list.as_array().unwrap();
        let mut ids: Vec<_> = list.iter().map(|group| group["labels"]["__meta_onair_id"].as_str().unwrap()).collect();
        ids.dedup();
        assert_eq!((list.len(), ids.len()), (count, count), "{query}");
        let target = if query.contains("port") { "127.0.0.1:9100" } else { "127.0.0.1:80" };
        assert!(list.iter().all(|group| group["targets"] == serde_json::json!([target])), "{query}");
    }
    assert_eq!(ask(&router, Method::GET, "?port=admin").await.2, serde_json::json!([]), "nobody has one");
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let (handle, router) = registry().await;
    let fields = |problem: &Value| {
        let all = problem["violations"].as_array().unwrap().iter();
        all.map(|violation| violation["field"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (query, wanted) in [
        ("?colour=red&port=&service=a&service=b", vec!["colour", "port", "service"]),
        ("?selector=!!&version=%3E%3E", vec!["version", "selector"]),
        ("?selector=!!&colour=red", vec!["colour", "selector"]),
        ("?selector=%zz", vec!["selector"]),
        ("?%zz=1", vec!["query"]),
    ] {
        let (status, headers, problem) = ask(&router, Method::GET, query).await;
        assert_eq!((status, &headers[CONTENT_TYPE]), (StatusCode::BAD_REQUEST, &problem::TYPE), "{query}");
        assert_eq!(
            (fields(&problem), problem["reason"].as_str()),
            (wanted.iter().map(|&field| field.to_owned()).collect(), Some("INVALID")),
            "{query}"
        );
    }
    assert_eq!(ask(&router, Method::POST, "").await.0, StatusCode::METHOD_NOT_ALLOWED);
    let with_body = Request::get(PATH).body(Body::from("{}")).unwrap();
    assert_eq!(router.oneshot(with_body).await.unwrap().status(), StatusCode::BAD_REQUEST);
    assert_eq!(handle.metrics().call_duration.of((Front::Http, crate::metrics::Rpc::Lookup)).count(), 5);
}

#[tokio::test]
async fn who_lists_much_lets_others_have_their_turn() {
    let (handle, router) = registry().await;
    for number in 0..1_000 {
        register(&handle, "web", format!("i{number}")).await;
    }
    let turns = Arc::<std::sync::atomic::AtomicUsize>::default();
    let other = tokio::spawn({
        let turns = Arc::clone(&turns);
        async move {
            loop {
                turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let body = router.oneshot(Request::get(PATH).body(Body::empty()).unwrap()).await.unwrap().into_body();
    let before = turns.load(std::sync::atomic::Ordering::Relaxed);
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let during = turns.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(during >= 3, "{during} turns while {} bytes were written", body.len());
    other.abort();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_too_long_breaks_off() {
    let (handle, router) = registry().await;
    for number in 0..500 {
        register(&handle, "web", format!("i{number}")).await;
    }
    let request = Request::get(PATH).header(INTERVAL, "15").body(Body::empty()).unwrap();
    let body = router.oneshot(request).await.unwrap().into_body();
    let mut body = body.into_data_stream();
    assert!(body.next().await.expect("a part").expect("in time").starts_with(b"[{"));
    tokio::time::advance(Duration::from_secs(16)).await;
    assert!(body.next().await.expect("an end").is_err(), "whoever asked asks again by now");
}

#[test]
fn the_interval_bounds_the_time() {
    for (said, wanted) in
        [("15", 15.0), ("0.5", 1.0), ("nonsense", 60.0), ("-1", 60.0), ("1e9", 3_600.0), ("inf", 60.0)]
    {
        let headers = [(http::HeaderName::from_static(INTERVAL), HeaderValue::from_static(said))].into_iter().collect();
        assert_eq!(time(&headers).as_secs_f64(), wanted, "{said}");
    }
}
