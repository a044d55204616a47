//! Partitions and visibility: a service is there until its last replica goes, by service and key; what goes out of
//! metadata, and which services are watched, is on lists.

use onair::proto::{
    DeregisterRequest, Instance, ListServicesRequest, LookupRequest, RegisterRequest, Selector, ServicePresence,
    WatchRequest, WatchResponse,
};
use serde_json::json;
use tonic::{Code, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

use crate::{
    events::{get, poll, token},
    harness::{Follower, Http, Running, Server, register_with, within},
    history::{Recorder, Settings},
};

fn replica(service: &str, id: &str, key: &str) -> RegisterRequest {
    register_with(service, id, 60.0, |instance| instance.partition_key = key.to_owned())
}

async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    within("a message", stream.message()).await.unwrap().expect("no end")
}

/// Service, key and whether it is there.
fn told(message: &WatchResponse) -> Vec<(&str, &str, bool)> {
    let of = |one: &ServicePresence| (one.service.clone(), one.key.clone(), one.online);
    assert!(message.services.iter().map(of).is_sorted_by(|one, next| (!one.2, one) < (!next.2, next)));
    message.services.iter().map(|one| (one.service.as_str(), one.key.as_str(), one.online)).collect()
}

async fn register(server: &Server, request: RegisterRequest) -> String {
    server.api().await.register(request).await.unwrap().into_inner().lease.unwrap().token
}

async fn leave(server: &Server, lease_token: String) {
    let request = DeregisterRequest { lease_token, ..DeregisterRequest::default() };
    server.api().await.deregister(request).await.unwrap();
}

#[tokio::test]
async fn a_service_goes_when_the_last_replica_of_its_key_goes() {
    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { cuts: true, ..Settings::default() });
    let mut truth = Follower::of_everything(&server, &recorder).await;
    let first = register(&server, replica("users", "1", "a")).await;
    let request = WatchRequest {
        selectors: vec![Selector { service: "users".into(), ..Selector::default() }],
        summaries: true,
        ..WatchRequest::default()
    };
    let mut stream = server.api().await.watch(request.clone()).await.unwrap().into_inner();
    let snapshot = next(&mut stream).await;
    assert_eq!((told(&snapshot), snapshot.snapshot_end), (vec![("users", "a", true)], true));
    let second = register(&server, replica("users", "2", "a")).await;
    assert_eq!(told(&next(&mut stream).await), [], "one more is no news");
    let other = register(&server, replica("users", "3", "b")).await;
    assert_eq!(told(&next(&mut stream).await), [("users", "b", true)]);
    leave(&server, first).await;
    let message = next(&mut stream).await;
    assert_eq!((told(&message), message.events.len()), (vec![], 1), "one of two goes");

    // What is missed while the server is away and its client is gone is told exactly.
    drop(stream);
    leave(&server, second).await;
    server.kill().await;
    server.again().await;
    let of_kept = WatchRequest { resume_token: message.resume_token, ..request };
    let mut stream = server.api().await.watch(of_kept).await.unwrap().into_inner();
    assert_eq!(told(&next(&mut stream).await), [("users", "a", false)], "though b lives on");
    let moved = RegisterRequest { lease_token: other.clone(), ..replica("users", "3", "c") };
    register(&server, moved).await;
    assert_eq!(told(&next(&mut stream).await), [("users", "c", true), ("users", "b", false)]);
    leave(&server, other).await;
    assert_eq!(told(&next(&mut stream).await), [("users", "c", false)]);
    let now = server.info().await.revision;
    truth.reach(now).await;
    recorder.assert_clean();
}

#[tokio::test]
async fn summaries_come_by_http_and_on_the_terminal_too() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut followers = Follower::of_everything_by_http(&server, &recorder).await;
    let target = "/v1/namespaces/default/watch?servicePrefix=us&summaries=true";
    let empty = poll(&server, target).await;
    let mut watch = Running::start(&["watch", "--prefix", "us", "--summaries", "--url", &server.url()]);
    within("a watch", async { while server.info().await.counts.unwrap().watches < 3 {} }).await;
    let lease = register(&server, replica("users", "1", "a")).await;
    register(&server, replica("orders", "1", "a")).await;
    watch.out.line("UP      users a").await;
    let changed = poll(&server, &format!("{target}&wait=10s&resumeToken={}", token(&empty))).await;
    let expected = json!([{"namespace": "default", "service": "users", "key": "a", "online": true}]);
    assert_eq!(changed["responses"][0]["services"], expected, "{changed}");
    leave(&server, lease).await;
    watch.out.line("DOWN    users a").await;
    let now = server.info().await.revision;
    for follower in &mut followers {
        follower.reach(now).await;
    }
    recorder.assert_clean();
}

#[tokio::test]
async fn lists_say_what_goes_out_and_what_is_looked_at() {
    let server = Server::ephemeral(&[]).await;
    let mut request = replica("billing-api", "1", "west");
    let metadata = json!({"region": "eu", "secret": "s3cret", "limits": {"burst": 5, "cost": 1}});
    let body = json!({
        "instance": {"port": 80, "metadata": metadata, "partitionKey": "west"},
        "metadataFields": ["region", "limits.burst"],
    });
    let text = body.to_string();
    let put = "/v1/namespaces/default/services/billing-api/instances/0";
    let head = format!("PUT {put} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    let said =
        Http::connect(server.address()).await.ask(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len())).await;
    assert_eq!(said.json()["instance"]["metadata"], json!({"region": "eu", "limits": {"burst": 5}}), "{said:?}");
    register(&server, request.clone()).await;
    register(&server, replica("billing-web", "1", "")).await;
    register(&server, replica("shop", "1", "west")).await;

    let mut api = server.api().await;
    let find = |service_prefix: &str, selector: &str| LookupRequest {
        service_prefix: service_prefix.into(),
        selector: selector.into(),
        ..LookupRequest::default()
    };
    let names = |found: Vec<Instance>| found.into_iter().map(|one| one.service + "/" + &one.id).collect::<Vec<_>>();
    for (prefix, selector, expected) in [
        ("billing-", "", &["billing-api/0", "billing-api/1", "billing-web/1"][..]),
        ("billing-", "partition_key=west", &["billing-api/0", "billing-api/1"]),
        ("", "partition_key in (west,east)", &["billing-api/0", "billing-api/1", "shop/1"]),
        ("b", "!partition_key", &["billing-web/1"]),
        ("x", "", &[]),
    ] {
        let found = api.lookup(find(prefix, selector)).await.unwrap().into_inner();
        assert_eq!(names(found.instances), expected, "{prefix} {selector}");
    }

    // What is wrong with lists, all of it.
    request.metadata_fields = vec!["a..b".into(), "ok".into(), "".into()];
    request.instance.as_mut().unwrap().port = 70_000;
    let refused = api.register(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for field in ["metadata_fields[0]", "metadata_fields[2]", "instance.port"] {
        assert!(refused.message().contains(field), "{}", refused.message());
    }
    let both = LookupRequest { service: "shop".into(), ..find("s", "") };
    assert!(api.lookup(both).await.unwrap_err().message().contains("service_prefix"));
    assert!(api.lookup(find("a/b", "")).await.unwrap_err().message().contains("service_prefix"));
    let all = LookupRequest { service: "shop".into(), version: ">>1".into(), ..find("a/b", "") };
    let refused = api.lookup(all).await.unwrap_err();
    let fields: Vec<_> = refused.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["version", "service_prefix", "service_prefix"]);
    let by_http = get("/v1/namespaces/default/watch?servicePrefix=a%2Fb", "1.1", "");
    assert_eq!(Http::connect(server.address()).await.ask(by_http).await.status, 400);
}

/// All up, one down, never seen.
#[tokio::test]
async fn health_of_a_key_has_three_outcomes() {
    let server = Server::ephemeral(&[]).await;
    let mut health = HealthClient::new(server.channel().await);
    let mut ask = async |service: &str| {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await;
        answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
    };
    assert_eq!(ask("key/main").await, Err(Code::NotFound));
    let users = register(&server, replica("users", "1", "main")).await;
    register(&server, replica("orders", "1", "main")).await;
    register(&server, replica("users", "2", "other")).await;
    assert_eq!(ask("key/main").await, Ok(ServingStatus::Serving));
    let watch = HealthCheckRequest { service: "default/key/main".into() };
    let mut watch = HealthClient::new(server.channel().await).watch(watch).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    leave(&server, users).await;
    let said = within("the change", watch.message()).await.unwrap().unwrap();
    assert_eq!(said.status(), ServingStatus::NotServing, "users is down, though it is up under another key");
    assert_eq!(
        (ask("key/main").await, ask("key/other").await),
        (Ok(ServingStatus::NotServing), Ok(ServingStatus::Serving))
    );
    assert_eq!(ask("shop/key/main").await, Err(Code::NotFound));

    // Which it is.
    let request = ListServicesRequest { partition_key: "main".into(), ..ListServicesRequest::default() };
    let listed = server.api().await.list_services(request).await.unwrap().into_inner();
    let of: Vec<_> = listed.services.iter().map(|one| (one.service.as_str(), one.routable > 0)).collect();
    assert_eq!(of, [("orders", true), ("users", false)]);
    let long = ListServicesRequest { partition_key: "x".repeat(129), ..ListServicesRequest::default() };
    let refused = server.api().await.list_services(long).await.unwrap_err();
    assert_eq!((refused.code(), refused.message().contains("partition_key")), (Code::InvalidArgument, true));
    let reserved = register_with("web", "1", 60.0, |instance| instance.namespace = "key".to_owned());
    assert_eq!(server.api().await.register(reserved).await.unwrap_err().code(), Code::InvalidArgument);
}
