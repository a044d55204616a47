//! What is declared beside what is online: waits that end when services are ready at one revision, lookups that fall back
//! to the catalog, how applications stand, and a shop of thirty programs that are started in order.

use std::collections::{BTreeMap, BTreeSet};

use onair::proto::{
    ApplicationState, ApplicationStatus, CreateApplicationRequest, CreateServiceTypeRequest, DeregisterRequest,
    Emptiness, Fallback, GetCatalogStatusRequest, LookupRequest, WaitReadyRequest, WaitReadyResponse,
    catalog_client::CatalogClient,
};
use serde_json::{Value as Json, json};
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    harness::{Http, Running, Server, onair, register, register_with, said, seconds},
    input::refusal,
};

type Client = CatalogClient<Channel>;

async fn client(server: &Server) -> Client {
    CatalogClient::new(server.channel().await)
}

async fn create(client: &Client, id: &str, service: &str, dependencies: &[&str]) -> u32 {
    let dependencies = dependencies.iter().map(|id| (*id).to_owned()).collect();
    let request =
        CreateApplicationRequest { id: id.into(), service: service.into(), dependencies, ..Default::default() };
    let made = client.clone().create_application(request).await.unwrap().into_inner();
    made.application.unwrap().ports[0].external
}

/// db, api that needs it, www that needs that.
async fn shop(client: &Client) {
    create(client, "shop-db", "postgresql", &[]).await;
    create(client, "shop-api", "play", &["shop-db"]).await;
    create(client, "shop-www", "nodejs", &["shop-api"]).await;
}

async fn online(server: &Server, service: &str) {
    server.api().await.register(register(service, "one", 600.0)).await.unwrap();
}

async fn offline(server: &Server, service: &str) {
    let gone = DeregisterRequest { service: service.into(), all: true, ..Default::default() };
    server.api().await.deregister(gone).await.unwrap();
}

async fn wait(client: &Client, services: &[&str], wait: f64) -> Result<Streaming<WaitReadyResponse>, Status> {
    let services = services.iter().map(|&service| service.into()).collect();
    let request = WaitReadyRequest { services, wait: Some(seconds(wait)), ..Default::default() };
    Ok(client.clone().wait_ready(request).await?.into_inner())
}

/// Who came and who went in the next message, and how many are ready.
async fn next(replies: &mut Streaming<WaitReadyResponse>) -> (Vec<String>, Vec<String>, u32) {
    let message = replies.message().await.unwrap().expect("another message");
    assert!(message.revision > 0 && message.total > 0, "{message:?}");
    (message.online, message.offline, message.ready)
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn who_waits_is_told_of_each_that_comes_or_goes() {
    let server = Server::ephemeral(&[]).await;
    let client = client(&server).await;
    online(&server, "b").await;
    let mut replies = wait(&client, &["a", "b", "c", "b"], 60.0).await.unwrap();
    assert_eq!(next(&mut replies).await, (texts(&["b"]), texts(&[]), 1));
    online(&server, "c").await;
    assert_eq!(next(&mut replies).await, (texts(&["c"]), texts(&[]), 2));
    offline(&server, "b").await;
    assert_eq!(next(&mut replies).await, (texts(&[]), texts(&["b"]), 1));
    online(&server, "a").await;
    assert_eq!(next(&mut replies).await, (texts(&["a"]), texts(&[]), 2));
    // Another instance of one that is there is no news, nor is another service.
    online(&server, "z").await;
    server.api().await.register(register("a", "two", 600.0)).await.unwrap();
    online(&server, "b").await;
    assert_eq!(next(&mut replies).await, (texts(&["b"]), texts(&[]), 3));
    assert!(replies.message().await.unwrap().is_none(), "all of them are ready");
    // It is as it was: one message.
    let mut replies = wait(&client, &["a", "b"], 60.0).await.unwrap();
    assert_eq!(next(&mut replies).await, (texts(&["a", "b"]), texts(&[]), 2));
    assert!(replies.message().await.unwrap().is_none());
}

#[tokio::test]
async fn the_end_of_a_wait_names_who_is_missing() {
    let mut server = Server::start(&[]).await;
    let client = client(&server).await;
    online(&server, "b").await;
    let mut replies = wait(&client, &["a", "b", "c"], 0.0).await.unwrap();
    assert_eq!(next(&mut replies).await, (texts(&["b"]), texts(&[]), 1));
    let status = replies.message().await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::FailedPrecondition, "NOT_READY".to_owned()));
    assert_eq!(status.message(), "not online in time: a, c");
    let failure = status.get_details_precondition_failure().unwrap();
    let missing: Vec<_> = failure.violations.iter().map(|violation| violation.subject.as_str()).collect();
    assert_eq!(missing, ["a", "c"]);
    let status = wait(&client, &[], 1.0).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::InvalidArgument, "INVALID".to_owned()));
    let wrong = WaitReadyRequest {
        namespace: "a/b".into(),
        services: vec!["a b/".into(), String::new()],
        wait: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
    };
    let status = client.clone().wait_ready(wrong).await.unwrap_err();
    let fields: BTreeSet<String> =
        status.get_details_bad_request().unwrap().field_violations.into_iter().map(|one| one.field).collect();
    assert_eq!(fields, ["namespace", "services[0]", "services[1]", "wait"].map(str::to_owned).into());
    // Who waits when the server stops is told so.
    let mut replies = wait(&client, &["a"], 60.0).await.unwrap();
    assert_eq!(next(&mut replies).await.2, 0);
    server.terminate();
    let status = replies.message().await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
    server.ended().await;
}

#[tokio::test]
async fn a_lookup_falls_back_to_the_catalog() {
    let server = Server::ephemeral(&[]).await;
    shop(&client(&server).await).await;
    let look = async |service: &str, fallback: Fallback| {
        let request = LookupRequest { service: service.into(), fallback: fallback.into(), ..Default::default() };
        server.api().await.lookup(request).await.map(tonic::Response::into_inner)
    };
    let found = look("shop-api", Fallback::Catalog).await.unwrap();
    let declared = found.declared.as_ref().unwrap();
    assert_eq!((found.instances.len(), found.emptiness()), (0, Emptiness::AllOffline));
    assert_eq!((declared.id.as_str(), declared.ports[0].external), ("shop-api", 6011));
    assert_eq!(look("shop-api", Fallback::Unspecified).await.unwrap().declared, None);
    assert_eq!(look("shop-api", Fallback::None).await.unwrap().declared, None);
    let unknown = look("nothing", Fallback::Catalog).await.unwrap();
    assert_eq!((unknown.declared.as_ref(), unknown.emptiness()), (None, Emptiness::UnknownService));
    // A wait comes first.
    let request = LookupRequest {
        service: "shop-db".into(),
        fallback: Fallback::Catalog.into(),
        wait: Some(seconds(0.05)),
        ..Default::default()
    };
    assert_eq!(server.api().await.lookup(request).await.unwrap().into_inner().declared.unwrap().id, "shop-db");
    // Who does not match is there all the same.
    online(&server, "shop-api").await;
    let request = LookupRequest {
        service: "shop-api".into(),
        selector: "zone=elsewhere".into(),
        fallback: Fallback::Catalog.into(),
        ..Default::default()
    };
    let found = server.api().await.lookup(request).await.unwrap().into_inner();
    assert_eq!((found.declared.as_ref(), found.emptiness()), (None, Emptiness::NoMatch));
    let found = look("shop-api", Fallback::Catalog).await.unwrap();
    assert_eq!((found.instances.len(), found.declared), (1, None));
    let status = look("", Fallback::Catalog).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::InvalidArgument, "INVALID".to_owned()));
    let url = server.url();
    let (code, out, err) = said(&onair(&["lookup", "shop-www", "--fallback", "catalog", "--url", &url]).await);
    assert!(code == 3 && out.contains("nodejs:6010->7050") && err.contains("ALL_OFFLINE"), "{out}{err}");
}

/// State, instances on each port, who is elsewhere, and which dependencies are missing.
fn stands(status: &ApplicationStatus) -> (ApplicationState, Vec<u32>, Vec<u32>, Vec<&str>) {
    (
        status.state(),
        status.ports.iter().map(|port| port.instances).collect(),
        status.unexpected.iter().map(|instance| instance.port).collect(),
        status.missing_dependencies.iter().map(String::as_str).collect(),
    )
}

#[tokio::test]
async fn applications_stand_as_declared_or_otherwise() {
    use ApplicationState::{Missing, Online, UnexpectedPort};
    let server = Server::ephemeral(&[]).await;
    let client = client(&server).await;
    shop(&client).await;
    create(&client, "blog", "nodejs", &[]).await;
    let ask = async |request: GetCatalogStatusRequest| client.clone().get_catalog_status(request).await;
    let at = async |service: &str, id: &str, port: u32| {
        let request = register_with(service, id, 600.0, |instance| instance.port = port);
        server.api().await.register(request).await.unwrap();
    };
    at("shop-db", "host", 6019).await;
    at("shop-db", "container", 5432).await;
    at("shop-api", "right", 6011).await;
    at("shop-api", "wrong", 6111).await;
    at("nobody-declared", "one", 6010).await;
    let prefix = "shop".to_owned();
    let all = ask(GetCatalogStatusRequest { prefix: prefix.clone(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((all.total, all.online, all.missing, all.unexpected_port), (3, 1, 1, 1));
    let stood: Vec<_> = all.applications.iter().map(|status| (status.id.as_str(), stands(status))).collect();
    let wanted = [
        ("shop-api", (UnexpectedPort, vec![1], vec![6111], vec![])),
        ("shop-db", (Online, vec![2], vec![], vec![])),
        ("shop-www", (Missing, vec![0], vec![], vec![])),
    ];
    assert_eq!(stood, wanted);
    offline(&server, "shop-api").await;
    let missing = GetCatalogStatusRequest { states: vec![Missing.into()], limit: 1, offset: 2, ..Default::default() };
    let missing = ask(missing).await.unwrap().into_inner();
    assert_eq!((missing.total, missing.online, missing.missing), (3, 1, 3));
    assert_eq!(stands(&missing.applications[0]), (Missing, vec![0], vec![], vec!["shop-api"]));
    let wrong = GetCatalogStatusRequest { states: vec![0, 9], limit: 101, ..Default::default() };
    let status = ask(wrong).await.unwrap_err();
    let fields: Vec<String> =
        status.get_details_bad_request().unwrap().field_violations.into_iter().map(|one| one.field).collect();
    assert_eq!(fields, ["states[0]", "states[1]", "limit"]);
    let url = server.url();
    let (code, out, err) = said(&onair(&["status", "shop", "--url", &url]).await);
    assert!(code == 0 && out.ends_with("1 online, 2 missing, 0 on an unexpected port\n"), "{out}{err}");
    let (code, out, _) = said(&onair(&["status", "--state", "online", "--output", "json", "--url", &url]).await);
    let status: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &status["applications"][0]["id"], &status["missing"]), (0, &"shop-db".into(), &"3".into()));
}

async fn ask(server: &Server, path: &str, accept: &str) -> (u16, String) {
    let request = format!("GET /v1/namespaces/default/{path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    let said = Http::connect(server.address()).await.ask(request).await;
    (said.status, said.body)
}

#[tokio::test]
async fn by_http_a_wait_is_one_answer_or_events() {
    let server = Server::ephemeral(&[]).await;
    let json = "application/json";
    let (status, body) = ask(&server, "catalog/ready?services=a&wait=0s", json).await;
    let problem: Json = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &problem["reason"], &problem["metadata"]["missing"]), (424, &"NOT_READY".into(), &"1".into()));
    let (status, body) = ask(&server, "catalog/ready?wait=0s", json).await;
    assert!(status == 400 && body.contains("services"), "{body}");
    let waiting = ask(&server, "catalog/ready?services=a&services=b", json);
    let events = ask(&server, "catalog/ready?services=a&services=b&wait=5s", "text/event-stream");
    let come = async {
        online(&server, "a").await;
        online(&server, "b").await;
    };
    let ((status, body), (_, events), ()) = tokio::join!(waiting, events, come);
    let last: Json = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &last["ready"], &last["total"]), (200, &2.into(), &2.into()));
    let messages: Vec<Json> = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(messages.last().unwrap()["ready"], 2, "{events}");
    let (status, body) = ask(&server, "catalog/status?states=APPLICATION_STATE_MISSING", json).await;
    assert!(status == 200 && body.contains("revision"), "{body}");
}

/// Levels are told one after the other, as what they name comes online; who does not is named at the end.
#[tokio::test]
async fn a_start_is_seen_level_by_level() {
    let server = Server::ephemeral(&[]).await;
    shop(&client(&server).await).await;
    let url = server.url();
    let mut start = Running::start(&["start-order", "--wait=30s", "--url", &url]);
    let mut lines = Running::start(&["start-order", "--wait=30s", "--output", "json", "--url", &url]);
    start.out.line("level 1 shop-db").await;
    let mut events: Vec<Json> = vec![serde_json::from_str(&lines.out.line("level").await).unwrap()];
    online(&server, "shop-db").await;
    start.out.line("level 2 shop-api").await;
    online(&server, "shop-api").await;
    start.out.line("level 3 shop-www").await;
    // One that goes is no longer there when the rest has come.
    offline(&server, "shop-db").await;
    start.out.line("offline shop-db 1/3").await;
    online(&server, "shop-www").await;
    start.out.line("online shop-www 2/3").await;
    online(&server, "shop-db").await;
    start.out.line("online shop-db 3/3").await;
    assert_eq!((start.ended().await, lines.ended().await), (0, 0));
    while !events.last().is_some_and(|event| event["online"] == 3) {
        events.push(serde_json::from_str(&lines.out.line("").await).unwrap());
    }
    assert_eq!(events[0], json!({"event": "level", "level": 1, "applications": ["shop-db"]}));
    assert_eq!(events[1], json!({"event": "online", "application": "shop-db", "online": 1, "total": 3}));
    assert!(events.contains(&json!({"event": "offline", "application": "shop-db", "online": 1, "total": 3})));
    // Whoever starts what it is told to starts nothing twice.
    let (code, out, _) = said(&onair(&["start-order", "--wait", "9s", "--url", &url]).await);
    assert!(code == 0 && out.lines().all(|line| line.starts_with("online ")), "{out}");
    offline(&server, "shop-api").await;
    let (code, out, err) = said(&onair(&["start-order", "shop-www", "--wait=0s", "--url", &url]).await);
    assert!(code == 3 && !out.contains("level 1") && out.contains("level 2 shop-api"), "{out}{err}");
    assert!(!out.contains("level 3") && err.contains("not online within 0s: shop-api"), "{out}{err}");
    let (code, _, err) = said(&onair(&["start-order", "shop-www", "typo", "--url", &url]).await);
    assert!(code == 1 && err.contains(": NOT_FOUND: Application not found: default/typo"), "{err}");
}

/// Who needs whom in a shop.
const SHOP: [(&str, &str, &[&str]); 30] = [
    ("shop-db", "postgresql", &[]),
    ("shop-cache", "redis", &[]),
    ("shop-queue", "rabbitmq", &[]),
    ("shop-files", "minio", &[]),
    ("shop-config", "nodejs", &["shop-db"]),
    ("shop-auth", "play", &["shop-db", "shop-config"]),
    ("shop-users", "play", &["shop-db", "shop-config", "shop-auth"]),
    ("shop-goods", "play", &["shop-db", "shop-config", "shop-cache"]),
    ("shop-prices", "play", &["shop-goods", "shop-cache"]),
    ("shop-stock", "play", &["shop-goods", "shop-queue"]),
    ("shop-images", "nodejs", &["shop-files", "shop-cache"]),
    ("shop-search", "elastic", &[]),
    ("shop-index", "play", &["shop-search", "shop-goods", "shop-queue"]),
    ("shop-reviews", "play", &["shop-db", "shop-users", "shop-goods"]),
    ("shop-cart", "nodejs", &["shop-cache", "shop-prices", "shop-stock"]),
    ("payments-db", "postgresql", &[]),
    ("payments", "play", &["payments-db", "shop-config", "shop-auth"]),
    ("payments-fraud", "python", &["payments-db", "shop-users"]),
    ("payments-tax", "python", &["shop-config"]),
    ("shipping-db", "postgresql", &[]),
    ("shipping", "play", &["shipping-db", "shop-stock", "shop-config"]),
    ("shipping-labels", "nodejs", &["shipping", "shop-files"]),
    ("orders-db", "postgresql", &[]),
    ("orders", "play", &["orders-db", "payments", "payments-fraud", "payments-tax", "shipping", "shop-cart"]),
    ("orders-mail", "nodejs", &["orders", "shop-queue", "shop-users"]),
    ("orders-invoices", "python", &["orders", "shop-files", "payments-tax"]),
    ("shop-advice", "python", &["orders", "shop-goods", "shop-reviews"]),
    ("shop-api", "play", &["orders", "shop-index", "shop-reviews", "shop-cart", "shop-images", "shop-advice"]),
    ("shop-www", "nodejs", &["shop-api", "shop-images", "shop-auth"]),
    ("shop-admin", "nodejs", &["shop-api", "orders-invoices", "shipping-labels", "orders-mail"]),
];

/// Thirty programs, each started when `onair start-order --wait` names it; then one is killed.
#[tokio::test]
async fn a_shop_of_thirty_programs_starts_in_order() {
    let server = Server::start(&["--restart-grace", "1s"]).await;
    let (client, url) = (client(&server).await, server.url());
    for (id, port) in [("redis", 6379), ("rabbitmq", 5672), ("minio", 9000), ("elastic", 9200), ("python", 8000)] {
        let service_type = CreateServiceTypeRequest { id: id.into(), default_port: Some(port), ..Default::default() };
        client.clone().create_service_type(service_type).await.unwrap();
    }
    let mut external = BTreeMap::new();
    for (id, service, dependencies) in SHOP {
        external.insert(id, create(&client, id, service, dependencies).await);
    }
    let distinct: BTreeSet<u32> = external.values().copied().collect();
    assert_eq!(distinct.len(), 30, "a port each: {external:?}");

    let mut start = Running::start(&["start-order", "--wait=90s", "--url", &url]);
    let mut programs: BTreeMap<String, Running> = BTreeMap::new();
    let mut levels = 0;
    while programs.len() < 30 {
        let line = start.out.line("level ").await;
        levels += 1;
        for name in line.split_whitespace().skip(2) {
            let port = external[name].to_string();
            let program = ["join", name, "--port", &port, "--ttl", "1s", "--url", &url];
            assert!(programs.insert(name.to_owned(), Running::start(&program)).is_none(), "{name} twice");
        }
    }
    assert!(levels >= 6, "{levels} levels");
    start.out.line("30/30").await;
    assert_eq!(start.ended().await, 0);
    // Nobody came before what it needs.
    let mut came = BTreeMap::new();
    for (id, ..) in SHOP {
        let found =
            server.api().await.lookup(LookupRequest { service: id.into(), ..Default::default() }).await.unwrap();
        came.insert(id, found.into_inner().instances[0].incarnation);
    }
    for (id, _, dependencies) in SHOP {
        assert!(dependencies.iter().all(|dependency| came[dependency] < came[id]), "{id} of {came:?}");
    }
    let (_, out, err) = said(&onair(&["status", "--url", &url]).await);
    assert!(out.ends_with("30 online, 0 missing, 0 on an unexpected port\n"), "{out}{err}");

    let all: Vec<&str> = SHOP.iter().map(|(id, ..)| *id).collect();
    let mut services = all.clone();
    services.push("somebody-else");
    let mut replies = wait(&client, &services, 90.0).await.unwrap();
    assert_eq!(next(&mut replies).await.2, 30);
    programs.remove("payments").unwrap().kill().await;
    assert_eq!(next(&mut replies).await.1, ["payments"]);
    let (_, out, err) = said(&onair(&["status", "--url", &url]).await);
    let line = |id: &str| out.lines().find(|line| line.split(' ').next() == Some(id)).unwrap_or_default().to_owned();
    assert!(line("payments").contains("MISSING"), "{out}{err}");
    assert!(line("orders").contains("online") && line("orders").contains("payments (missing)"), "{out}");
    assert!(out.ends_with("29 online, 1 missing, 0 on an unexpected port\n"), "{out}");
    for program in programs.into_values() {
        program.kill().await;
    }
}
