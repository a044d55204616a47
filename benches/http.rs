//! What JSON costs beside gRPC, without a socket: `cargo bench --bench http`. Calls inside the process by the bytes of
//! their messages, the same by HTTP and JSON, and the parts of the difference.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use divan::{Bencher, black_box};
use http::{HeaderMap, Request, header::CONTENT_TYPE, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use onair::{
    access::Gate,
    actor::{ActorOptions, RegistryHandle},
    engine::memory::MemoryEngine,
    grpc::{
        CanonicalErrors, Dispatch, RegistryService, ServiceOptions, registry::fixed_limits,
        server::registry_server::RegistryServer,
    },
    http::{
        ApiOptions,
        call::{Caller, Grpc},
        router,
        routes::{Route, Table},
        transcode,
    },
    proto::{Limits, LookupRequest},
};
use prost::Message as _;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

/// Values that a body may have.
const VALUES: usize = 60_000;
const WEB: &str = "/v1/namespaces/default/services/web/instances";
const LOOKUP: PathAndQuery = PathAndQuery::from_static("/onair.v1.Registry/Lookup");

fn main() {
    divan::main();
}

/// A registry with 10 instances of one service, and its API both ways.
struct Scene {
    runtime: Runtime,
    grpc: Grpc,
    api: Router,
    table: Table,
    /// The token of one of them.
    token: String,
}

impl Scene {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (handle, actor) = RegistryHandle::new(
            MemoryEngine::default(),
            MemoryEngine::recovered(uuid::Uuid::from_u128(7), 1),
            ActorOptions::default(),
        );
        runtime.spawn(actor.run());
        let limits = Limits { max_beats: 100, ..fixed_limits() };
        let options =
            ServiceOptions { limits, restart_grace: Duration::from_secs(30), durable: false, members: Vec::new() };
        let metrics = Arc::clone(handle.metrics());
        let service = RegistryServer::new(RegistryService::new(handle, options));
        let services = Dispatch::default().and(CanonicalErrors::new(service, 4 << 20, metrics));
        let grpc = Grpc::new(services.clone());
        let api = router(services, ApiOptions { max_message_bytes: 4 << 20, max_json_values: VALUES }, Gate::open())
            .expect("the protos are right");
        let table = Table::of_api().expect("the protos are right");
        let mut scene = Self { runtime, grpc, api: api.with_state(()), table, token: String::new() };
        for id in 0..10 {
            let body = format!(
                r#"{{"instance": {{"host": "10.0.0.{id}", "port": 8000, "version": "1.2.3", "zone": "a",
                    "metadata": {{"team": "shop", "tier": ["gold", 1, true]}}}}, "ttl": "3600s"}}"#
            );
            let answer: serde_json::Value =
                serde_json::from_slice(&scene.ask("PUT", &format!("{WEB}/web-{id}"), body)).expect("JSON");
            scene.token = answer["lease"]["token"].as_str().expect("a token").to_owned();
        }
        scene
    }

    fn ask(&self, method: &str, path: &str, body: impl Into<Body>) -> Bytes {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        let request = request.body(body.into()).expect("a request");
        self.runtime.block_on(async {
            let response = self.api.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
            assert!(response.status().is_success(), "{response:?}");
            response.into_body().collect().await.expect("a body").to_bytes()
        })
    }

    /// The reply to a lookup of all 10, as gRPC has it.
    fn lookup(&self, message: &[u8]) -> Bytes {
        self.runtime.block_on(self.grpc.unary(&LOOKUP, Caller::default(), message)).expect("a reply")
    }

    fn route(&self, method: &str, path_end: &str) -> &Route {
        let wanted = |route: &&Route| route.method == method && route.path.ends_with(path_end);
        self.table.routes().iter().find(wanted).expect("a route")
    }
}

fn lookup_of_web() -> Vec<u8> {
    LookupRequest { service: "web".into(), ..LookupRequest::default() }.encode_to_vec()
}

#[divan::bench]
fn lookup_of_10_by_bytes(bencher: Bencher<'_, '_>) {
    let (scene, message) = (Scene::new(), lookup_of_web());
    bencher.bench_local(|| scene.lookup(black_box(&message)));
}

#[divan::bench]
fn lookup_of_10_by_json(bencher: Bencher<'_, '_>) {
    let scene = Scene::new();
    bencher.bench_local(|| scene.ask("GET", black_box(WEB), Body::empty()));
}

#[divan::bench]
fn heartbeat_by_json(bencher: Bencher<'_, '_>) {
    let scene = Scene::new();
    let (path, body) = (format!("{WEB}/web-9/heartbeat"), format!(r#"{{"leaseToken": "{}"}}"#, scene.token));
    bencher.bench_local(|| scene.ask("POST", black_box(&path), body.clone()));
}

#[divan::bench]
fn part_request_of_a_lookup(bencher: Bencher<'_, '_>) {
    let scene = Scene::new();
    let route = scene.route("GET", "/{service}/instances");
    let (uri, headers) = (http::Uri::from_static(WEB), HeaderMap::new());
    bencher.bench_local(|| transcode::request(route, black_box(&uri), &headers, b"", VALUES));
}

#[divan::bench]
fn part_reply_of_a_lookup(bencher: Bencher<'_, '_>) {
    let scene = Scene::new();
    let reply = scene.lookup(&lookup_of_web());
    let descriptor = scene.route("GET", "/{service}/instances").rpc.output();
    bencher.bench_local(|| transcode::to_json(&descriptor, black_box(&reply)));
}

#[divan::bench]
fn part_request_of_a_registration(bencher: Bencher<'_, '_>) {
    let scene = Scene::new();
    let route = scene.route("PUT", "/{id}");
    let uri = http::Uri::from_static("/v1/namespaces/default/services/web/instances/web-1");
    let body = br#"{"instance": {"host": "10.0.0.1", "port": 8000, "version": "1.2.3", "zone": "a",
        "metadata": {"team": "shop", "tier": ["gold", 1, true]}}, "ttl": "3600s"}"#;
    bencher.bench_local(|| transcode::request(route, black_box(&uri), &HeaderMap::new(), body, VALUES));
}
