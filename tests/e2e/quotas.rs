//! Quotas of namespaces and of principals, by a real process: each exceeded by each front, the others untouched, and the
//! same after a restart.

use onair::proto::{
    CreateTokenRequest, GetNamespaceRequest, GetTokenRequest, Namespace, Permission, Quotas, RegisterRequest,
    UpdateNamespaceRequest, UpdateTokenRequest, Usage, admin_client::AdminClient,
};
use prost_types::{Value, value};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    access::{Guarded, Line, grant, instance, watch},
    harness::{Http, onair, said, within},
    input::refusal,
};

const RIGHTS: [Permission; 3] = [Permission::Read, Permission::Register, Permission::Catalog];

async fn bounded(admin: &mut AdminClient<Line>, name: &str, quotas: Quotas) -> Namespace {
    let request = UpdateNamespaceRequest { name: name.into(), quotas: Some(quotas), expected_revision: 0 };
    admin.update_namespace(request).await.expect("it may be set").into_inner().namespace.expect("a namespace")
}

async fn get(admin: &mut AdminClient<Line>, name: &str) -> Namespace {
    let found = admin.get_namespace(GetNamespaceRequest { name: name.into() }).await.expect("it is known").into_inner();
    found.namespace.expect("a namespace")
}

/// A token whose principal may have so much in `team-a` and `team-b`.
async fn token(admin: &mut AdminClient<Line>, name: &str, quotas: Quotas) -> String {
    let request = CreateTokenRequest {
        name: name.into(),
        grants: vec![grant("team-*", "*", &RIGHTS)],
        quotas: Some(quotas),
        ..Default::default()
    };
    admin.create_token(request).await.expect("it may be made").into_inner().secret
}

/// Whose quotas refused it, which, and their values.
fn exceeded(status: &Status) -> Vec<(String, String, i64)> {
    assert_eq!((status.code(), refusal(status).1.as_str()), (Code::ResourceExhausted, "QUOTA"), "{status:?}");
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{status:?}");
    let failure = status.get_details_quota_failure().expect("QuotaFailure");
    failure.violations.into_iter().map(|one| (one.subject, one.quota_metric, one.quota_value)).collect()
}

fn one(whose: &str, quota: &str, maximum: i64) -> Vec<(String, String, i64)> {
    vec![(whose.to_owned(), quota.to_owned(), maximum)]
}

fn large(namespace: &str, id: &str, bytes: usize) -> RegisterRequest {
    let mut request = instance(namespace, "web", id);
    let text = Value { kind: Some(value::Kind::StringValue("x".repeat(bytes))) };
    request.instance.as_mut().expect("an instance").metadata = Some(text);
    request
}

#[tokio::test]
async fn each_quota_refuses_who_has_it_and_nobody_else() {
    let mut guarded = Guarded::start(&[]).await;
    let mut admin = guarded.admin().await;
    let small = token(&mut admin, "small", Quotas { instances: Some(2), watches: Some(1), ..Quotas::default() }).await;
    let free = token(&mut admin, "free", Quotas::default()).await;
    let (mut small, mut free) = (guarded.registry(&small).await, guarded.registry(&free).await);
    // Set before anybody is there.
    let set =
        bounded(&mut admin, "team-a", Quotas { instances: Some(3), bytes: Some(2_000), ..Quotas::default() }).await;
    assert_eq!((set.services, set.usage), (0, Some(Usage::default())));

    for id in ["1", "2"] {
        small.register(instance("team-a", "web", id)).await.expect("there is room");
    }
    let refused = small.register(instance("team-b", "web", "3")).await.unwrap_err();
    assert_eq!(exceeded(&refused), one("principal:token:small", "instances", 2), "wherever it is");
    free.register(instance("team-a", "web", "3")).await.expect("the namespace has a place");
    let refused = free.register(instance("team-a", "web", "4")).await.unwrap_err();
    assert_eq!(exceeded(&refused), one("namespace:team-a", "instances", 3));
    let info = refused.get_details_error_info().expect("ErrorInfo").metadata;
    let told = ["quota", "namespace", "maximum", "usage", "wanted"].map(|key| info.get(key).map_or("", String::as_str));
    assert_eq!(told, ["instances", "team-a", "3", "3", "1"]);
    free.register(instance("team-b", "web", "4")).await.expect("another namespace is not concerned");
    let refused = free.register(large("team-a", "3", 2_000)).await.unwrap_err();
    assert_eq!(exceeded(&refused), one("namespace:team-a", "bytes", 2_000));
    free.register(instance("team-a", "web", "3")).await.expect("the same again");

    let stream = small.watch(watch("team-a")).await.expect("one watch").into_inner();
    assert_eq!(exceeded(&small.watch(watch("team-b")).await.unwrap_err()), one("principal:token:small", "watches", 1));
    let others = free.watch(watch("team-a")).await.expect("the others have theirs").into_inner();
    let now = get(&mut admin, "team-a").await;
    let usage = now.usage.expect("usage");
    assert_eq!((usage.instances, usage.watches, now.services), (3, 2, 1));
    drop((stream, others));
    let gone = async {
        while get(&mut admin, "team-a").await.usage.expect("usage").watches > 0 {
            tokio::task::yield_now().await;
        }
    };
    within("watches that give their places back", gone).await;

    // What is counted is what was recovered.
    guarded.server.kill().await;
    guarded.server.again().await;
    let mut admin = guarded.admin().await;
    let again = get(&mut admin, "team-a").await;
    assert_eq!((again.quotas, again.usage), (now.quotas, Some(Usage { watches: 0, ..usage })));
    let found = admin.get_token(GetTokenRequest { name: "small".into() }).await.unwrap().into_inner().token.unwrap();
    assert_eq!((found.quotas.unwrap().instances, found.usage.unwrap().instances), (Some(2), 2));
}

/// The same by JSON over HTTP, where the registration has no token; and by what a namespace has no right to.
#[tokio::test]
async fn http_is_told_which_quota_it_was() {
    let guarded = Guarded::start(&[]).await;
    let mut admin = guarded.admin().await;
    let secret = token(&mut admin, "ci", Quotas { writes_per_second: Some(0), ..Quotas::default() }).await;
    let mut http = Http::connect(guarded.server.address()).await;
    let body = r#"{"instance": {"host": "10.0.0.1", "port": 80}}"#;
    let ask = |method: &str, path: &str, body: &str| {
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let path = "/v1/namespaces/team-a/services/web/instances";
    let refused = http.ask(ask("POST", path, body)).await;
    assert_eq!((refused.status, refused.header("content-type")), (429, "application/problem+json"), "{}", refused.body);
    assert!(!refused.header("retry-after").is_empty());
    let problem = refused.json();
    assert_eq!((&problem["reason"], &problem["metadata"]["quota"]), (&"QUOTA".into(), &"writes_per_second".into()));
    assert_eq!(problem["quotas"][0]["subject"], "principal:token:ci");
    let unfenced = http.ask(ask("PUT", "/registrations/web/1.0.0/8080", "")).await;
    assert!(unfenced.status >= 400, "{}", unfenced.body);
    let application = r#"{"id": "shop", "service": "play"}"#;
    let catalog = http.ask(ask("POST", "/v1/namespaces/team-a/applications", application)).await;
    assert_eq!((catalog.status, &catalog.json()["reason"]), (429, &"QUOTA".into()), "{}", catalog.body);
    let none = http.ask(ask("GET", "/v1/namespaces/team-a", "")).await;
    assert_eq!(none.status, 404, "nothing of it came to be: {}", none.body);
    let raise = http.ask(ask("PATCH", "/v1/namespaces/team-a", r#"{"quotas": {}}"#)).await;
    assert_eq!((raise.status, &raise.json()["metadata"]["permission"]), (403, &"admin".into()));
    // Its owner lets it write.
    let quotas = Some(Quotas::default());
    let update = UpdateTokenRequest { name: "ci".into(), quotas, ..Default::default() };
    admin.update_token(update).await.expect("it may be changed");
    assert_eq!(http.ask(ask("POST", path, body)).await.status, 200);
    let shown = http.ask(ask("GET", "/v1/namespaces/team-a", "")).await.json();
    assert_eq!(shown["namespace"]["usage"]["instances"], "1", "{shown}");
    let metrics =
        format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n", guarded.operator);
    let metrics = Http::connect(guarded.server.address()).await.ask(metrics).await.body;
    assert!(metrics.contains("onair_quota_refusals_total{of=\"principal\",quota=\"writes_per_second\"} "), "{metrics}");
}

/// A quota is for who may not change it: an administrator of the namespace may not.
#[tokio::test]
async fn quotas_are_set_by_who_administers_everything() {
    let guarded = Guarded::start(&[]).await;
    let mut operator = guarded.admin().await;
    let rights = [Permission::Admin, Permission::Read];
    let request =
        CreateTokenRequest { name: "lead".into(), grants: vec![grant("team-a", "*", &rights)], ..Default::default() };
    let secret = operator.create_token(request).await.unwrap().into_inner().secret;
    let lead = Guarded { server: guarded.server, operator: secret };
    let mut admin = lead.admin().await;
    let request = |name: &str, revision| UpdateNamespaceRequest {
        name: name.into(),
        quotas: Some(Quotas { instances: Some(9), ..Quotas::default() }),
        expected_revision: revision,
    };
    let refused = admin.update_namespace(request("team-a", 0)).await.unwrap_err();
    assert_eq!((refused.code(), refusal(&refused).1.as_str()), (Code::PermissionDenied, "PERMISSION"));
    let set = operator.update_namespace(request("team-a", 0)).await.unwrap().into_inner().namespace.unwrap();
    let stale = operator.update_namespace(request("team-a", set.revision - 1)).await.unwrap_err();
    assert_eq!((stale.code(), refusal(&stale).1.as_str()), (Code::Aborted, "STALE_REVISION"));
    assert_eq!(get(&mut admin, "team-a").await.quotas.unwrap().instances, Some(9), "but may see it");
    let hidden = admin.get_namespace(GetNamespaceRequest { name: "team-b".into() }).await.unwrap_err();
    assert_eq!(hidden.code(), Code::PermissionDenied);
    let listed = admin.list_namespaces(onair::proto::ListNamespacesRequest::default()).await.unwrap().into_inner();
    let names: Vec<String> = listed.namespaces.into_iter().map(|namespace| namespace.name).collect();
    assert_eq!(names, ["team-a"], "and of the others not even the names");
    let all = operator.list_namespaces(onair::proto::ListNamespacesRequest { limit: 1, ..Default::default() }).await;
    let first = all.unwrap().into_inner();
    let rest = onair::proto::ListNamespacesRequest { page_token: first.next_page_token, ..Default::default() };
    let rest = operator.list_namespaces(rest).await.unwrap().into_inner();
    assert_eq!((first.namespaces[0].name.as_str(), rest.namespaces[0].name.as_str()), ("default", "team-a"));
    let wrong = operator.update_namespace(request("frontend", 0)).await.unwrap_err();
    assert_eq!(refusal(&wrong).2, ["name"]);
}

/// What is not named stays, or nothing is changed: also for who may set quotas, and not see them.
#[tokio::test]
async fn a_quota_that_is_not_named_is_not_lost() {
    let guarded = Guarded::start(&[]).await;
    let url = guarded.server.url();
    let operator = guarded.server.data_dir().join("operator.token").display().to_string();
    let blind = guarded.server.data_dir().join("blind.token").display().to_string();
    let run = async |token: &str, words: &str| {
        let args: Vec<&str> = words.split(' ').chain(["--url", &url, "--token-file", token]).collect();
        said(&onair(&args).await)
    };
    for words in [
        "namespace set team-a --instances 5 --watches 6",
        "namespace set team-a --writes 7",
        &format!("token create blind --grant *=admin --write {blind}"),
    ] {
        let (code, _, err) = run(&operator, words).await;
        assert_eq!(code, 0, "{words}: {err}");
    }
    for (token, words, code, why) in [
        (&blind, "namespace set team-a --bytes 4KiB", 1, "PERMISSION_DENIED"),
        (&operator, "namespace set team-a --bytes 4KiB --output curl", 2, "name --instances, --watches, --bytes"),
        (&operator, "token update blind --writes 4 --output curl", 2, "name --instances, --watches, --bytes"),
    ] {
        let (got, _, err) = run(token, words).await;
        assert!(got == code && err.contains(why), "{words}: {got} {err}");
    }
    let wanted = Quotas { instances: Some(5), watches: Some(6), writes_per_second: Some(7), ..Quotas::default() };
    assert_eq!(get(&mut guarded.admin().await, "team-a").await.quotas, Some(wanted));
    let (code, _, err) = run(&blind, "namespace set team-a --instances 1 --watches 2 --bytes none --writes none").await;
    assert_eq!(code, 0, "all are named: {err}");
}
