//! What services need of each other: found, waited for, stood in for; urls that only one has. Over every front.

use onair::proto::{
    Cause, EventType, IfMissing, Instance, LookupRequest, RegisterRequest, ResolveRequest,
    registry_client::RegistryClient,
};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    harness::{Follower, Http, Running, Server, onair, register, register_with, said, seconds, within},
    history::{Client, Recorder, Settings},
    input::{is_invalid, refusal},
};

/// A registration at a port of its own that needs these, each with its range.
fn needing(service: &str, port: u32, needs: &[(&str, &str)], if_missing: IfMissing) -> RegisterRequest {
    let dependencies = needs.iter().map(|(name, range)| ((*name).to_owned(), (*range).to_owned())).collect();
    let request = register_with(service, "", 600.0, |instance| {
        instance.port = port;
        instance.version = "2.0.1".into();
    });
    RegisterRequest { dependencies, if_missing: if_missing.into(), ..request }
}

/// Until so many registrations wait.
async fn until_waiting(server: &Server, number: u64) {
    let counted = async { while server.info().await.counts.unwrap().waiting != number {} };
    within(&format!("{number} who wait"), counted).await;
}

/// FAILED_PRECONDITION for exactly these, in the sentence and in the details.
fn is_missing(status: &Status, missing: &[&str]) {
    let (code, reason, _) = refusal(status);
    assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "MISSING_DEPENDENCY"), "{status:?}");
    assert_eq!(status.message(), format!("No url for: {}", missing.join(", ")));
    let failure = status.get_details_precondition_failure().expect("what is missing");
    let named: Vec<&str> = failure.violations.iter().map(|violation| violation.subject.as_str()).collect();
    assert_eq!(named, missing);
    assert_eq!(status.get_details_error_info().unwrap().metadata["missing"], missing.len().to_string());
}

fn call(client: &Client, request: RegisterRequest) -> JoinHandle<Result<onair::proto::RegisterResponse, Status>> {
    let client = client.clone();
    tokio::spawn(async move { client.register(request).await })
}

/// Three services that need each other come up together in whatever order they start; without waiting the first is
/// refused.
#[tokio::test]
async fn a_ring_of_services_comes_up_in_one_revision() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let ring = [("api", "auth"), ("auth", "store"), ("store", "api")];
    let wants = |place: usize, if_missing| {
        let (service, needed) = ring[place];
        needing(service, 8_001 + place as u32, &[(needed, "^2.0")], if_missing)
    };
    is_missing(&client.register(wants(0, IfMissing::Fail)).await.unwrap_err(), &["auth@^2.0"]);
    is_missing(&client.register(wants(0, IfMissing::Unspecified)).await.unwrap_err(), &["auth@^2.0"]);
    for order in [[0, 1, 2], [2, 0, 1], [1, 0, 2]] {
        let mut calls = Vec::new();
        for (arrived, place) in order.into_iter().enumerate() {
            calls.push((place, call(&client, wants(place, IfMissing::Wait))));
            if arrived < 2 {
                until_waiting(&server, arrived as u64 + 1).await;
                assert_eq!(server.info().await.counts.unwrap().instances, 0);
            }
        }
        let mut revisions = Vec::new();
        let mut tokens = Vec::new();
        for (place, call) in calls {
            let granted = within("the ring", call).await.unwrap().unwrap();
            let needed = ring[place].1;
            assert_eq!(granted.dependencies[needed], format!("http://127.0.0.1:{}", 8_001 + (place + 1) % 3));
            revisions.push(granted.instance.unwrap().incarnation);
            tokens.push(granted.lease.unwrap().token);
        }
        assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
        follower.reach(revisions[0]).await;
        assert_eq!(follower.fold().instances().len(), 3);
        let gone = onair::proto::DeregisterRequest { lease_tokens: tokens, ..Default::default() };
        let removed = client.deregister(gone).await.unwrap();
        follower.reach(removed.revision).await;
        assert_eq!(removed.removed, 3);
    }
    until_waiting(&server, 0).await;
    recorder.assert_clean();
}

/// Callers that wait and go away, by gRPC and by HTTP: nothing was registered, nothing is left, and who comes later does
/// not rely on them.
#[tokio::test]
async fn callers_that_go_away_while_they_wait_leave_nothing() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let mut calls = Vec::new();
    for port in 1..=40 {
        let mut stub = RegistryClient::new(server.channel().await);
        let request = needing("api", port, &[("auth", "")], IfMissing::Wait);
        calls.push(tokio::spawn(async move { stub.register(request).await.map(|_| ()) }));
    }
    until_waiting(&server, 40).await;
    let mut connections = Vec::new();
    for port in 41..=60 {
        let body = format!(
            r#"{{"instance": {{"host": "127.0.0.1", "port": {port}}}, "dependencies": {{"auth": ""}}, "ifMissing": "IF_MISSING_WAIT"}}"#
        );
        let mut http = Http::connect(server.address()).await;
        let path = "/v1/namespaces/default/services/api/instances";
        http.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        connections.push(http);
    }
    until_waiting(&server, 60).await;
    drop(connections);
    until_waiting(&server, 40).await;
    calls.iter().for_each(JoinHandle::abort);
    until_waiting(&server, 0).await;
    let needs_api =
        RegisterRequest { wait: Some(seconds(0.0)), ..needing("auth", 90, &[("api", "")], IfMissing::Wait) };
    is_missing(&client.register(needs_api).await.unwrap_err(), &["api"]);
    let granted = client.register(register("auth", "a", 600.0)).await.unwrap();
    let everything = LookupRequest { namespace: "*".into(), min_revision: granted.revision, ..Default::default() };
    assert_eq!(client.lookup(everything).await.unwrap().instances.len(), 1);
    recorder.assert_clean();
}

/// The end of the wait, the call's deadline, mocks, what is ignored, and which instance answers.
#[tokio::test]
async fn what_is_needed_is_found_waited_for_or_stood_in_for() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let mut stub = RegistryClient::new(server.channel().await);
    let needs = [("api", "2.0.1"), ("auth", "^1"), ("store", "")];
    let wanted = needing("web", 80, &needs, IfMissing::Wait);
    let missing = ["api@2.0.1", "auth@^1", "store"];
    let short = RegisterRequest { wait: Some(seconds(0.2)), ..wanted.clone() };
    is_missing(&client.register(short).await.unwrap_err(), &missing);
    // The deadline of the call cuts the wait, in time for the answer.
    let mut hurried = tonic::Request::new(wanted.clone());
    hurried.set_timeout(std::time::Duration::from_millis(400));
    is_missing(&stub.register(hurried).await.unwrap_err(), &missing);

    let mocks = [("auth", "localhost:3000"), ("store", "http://s"), ("nobody", "x")];
    let mocks = mocks.map(|(name, url)| (name.to_owned(), url.to_owned())).into();
    let mocked = RegisterRequest { mocks, if_missing: IfMissing::Ignore.into(), ..wanted.clone() };
    let granted = client.register(mocked.clone()).await.unwrap();
    let expected = [("auth", "localhost:3000"), ("store", "http://s")].map(|(name, url)| (name.into(), url.into()));
    assert_eq!(granted.dependencies, expected.into());

    // Another version, nobody routable, and nobody with a weight do not answer; the last one does.
    let not_these = [
        (|i| i.version = "2.0.10".into()) as fn(&mut Instance),
        |i| i.status = onair::registry::Status::Starting.into(),
        |i| i.weight = Some(0),
        |i| i.namespace = "other".into(),
    ];
    for (port, spoil) in (8_001..).zip(not_these) {
        let api = |instance: &mut Instance| {
            (instance.port, instance.version) = (port, "2.0.1".into());
            spoil(instance);
        };
        client.register(register_with("api", "", 600.0, api)).await.unwrap();
    }
    let ask = |if_missing: IfMissing| ResolveRequest {
        dependencies: [("api".to_owned(), "2.0.1".to_owned())].into(),
        if_missing: if_missing.into(),
        ..ResolveRequest::default()
    };
    is_missing(&stub.resolve(ask(IfMissing::Fail)).await.unwrap_err(), &["api@2.0.1"]);
    let ignored = stub.resolve(ask(IfMissing::Ignore)).await.unwrap().into_inner();
    assert_eq!((ignored.resolved.len(), ignored.missing), (0, vec!["api@2.0.1".to_owned()]));
    let waiting = tokio::spawn(async move { stub.resolve(ask(IfMissing::Wait)).await });
    let api = |instance: &mut Instance| (instance.port, instance.version) = (8_080, "2.0.1".into());
    client.register(register_with("api", "", 600.0, api)).await.unwrap();
    let found = within("the dependency", waiting).await.unwrap().unwrap().into_inner();
    assert_eq!(found.resolved["api"].url, "http://127.0.0.1:8080");
    assert_eq!(found.resolved["api"].instance.as_ref().unwrap().port, 8_080);
    recorder.assert_clean();
}

/// A url that is wanted for one instance alone: watchers see the other go and this one come, in one revision.
#[tokio::test]
async fn a_url_is_taken_over_in_one_revision() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let old = client.register(register("old", "a", 600.0)).await.unwrap();
    client.register(register_with("old", "a", 600.0, |i| i.namespace = "other".into())).await.unwrap();
    let take = |service: &str| RegisterRequest { exclusive_url: true, ..register(service, "a", 600.0) };
    let new = client.register(take("new")).await.unwrap();
    let (_, gone) = follower.event("the end of the old one", |event| event.r#type() == EventType::Offline).await;
    let instance = gone.instance.as_ref().unwrap();
    assert_eq!((gone.cause(), instance.namespace.as_str()), (Cause::Moved, "default"));
    follower.reach(new.revision).await;
    let names: Vec<(String, String)> = follower
        .fold()
        .instances()
        .values()
        .map(|instance| (instance.namespace.clone(), instance.service.clone()))
        .collect();
    assert_eq!(names, [("default".into(), "new".into()), ("other".into(), "old".into())]);
    // It comes back with its token, and is told to stop.
    let token = old.lease.unwrap().token;
    let back = RegisterRequest { lease_token: token, ..take("old") };
    let (code, reason, _) = refusal(&client.register(back).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (Code::Aborted, "SUPERSEDED"));
    recorder.assert_clean();
}

#[tokio::test]
async fn bad_input_about_dependencies_is_named_at_once() {
    let server = Server::start(&[]).await;
    let client = server.client(&Recorder::new(Settings::default())).await;
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let bad = RegisterRequest {
        dependencies: pairs(&[("api", ">=1 ~"), ("a/b", ""), ("ok", "^1")]),
        mocks: pairs(&[("auth", ""), ("x", "has space"), ("", "http://h")]),
        if_missing: 9,
        wait: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..register_with("web", "a", 1.0, |instance| instance.port = 70_000)
    };
    let expected = [
        "dependencies[\"a/b\"]",
        "dependencies[\"api\"]",
        "if_missing",
        "instance.port",
        "mocks[\"\"]",
        "mocks[\"auth\"]",
        "mocks[\"x\"]",
        "wait",
    ];
    is_invalid("everything", client.register(bad).await, &expected);
    let many = |count: usize| (0..count).map(|number| (format!("d{number}"), "^1".to_owned())).collect();
    let limit = server.info().await.limits.unwrap().max_dependencies as usize;
    let too_many = RegisterRequest { dependencies: many(10_000), mocks: many(limit + 1), ..register("web", "a", 1.0) };
    is_invalid("too many", client.register(too_many).await, &["dependencies", "mocks"]);
    // As many as may be: what does not fit into headers is counted.
    let full = RegisterRequest { dependencies: many(limit), ..register("web", "a", 1.0) };
    let refused = client.register(full).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().metadata["missing"], limit.to_string());
    let mut stub = RegistryClient::new(server.channel().await);
    let nowhere = ResolveRequest { namespace: "*".into(), dependencies: many(1), ..ResolveRequest::default() };
    is_invalid("a resolve everywhere", stub.resolve(nowhere).await, &["namespace"]);
    assert_eq!(server.info().await.revision, 0);
}

/// The same by HTTP and by the command line.
#[tokio::test]
async fn dependencies_by_http_and_on_the_command_line() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let ask = async |args: &[&str]| said(&onair(&[args, &["--url", &url]].concat()).await);
    let (code, out, err) = ask(&["resolve", "api@^2", "auth", "--mock", "auth=localhost:3000"]).await;
    assert_eq!((code, err.trim()), (3, "onair: No url for: api@^2"));
    assert!(out.contains("localhost:3000") && out.contains("(mock)"), "{out}");
    let (code, _, err) = ask(&["join", "shop", "--port", "81", "--needs", "api@^2", "--needs", "x"]).await;
    assert_eq!((code, err.trim()), (3, "onair: No url for: api@^2, x"));

    let join = |args: &[&str]| Running::start(&[&["join"], args, &["--url", &url]].concat());
    let wait = ["--if-missing", "wait", "--wait", "60s"];
    let mut shop = join(&[&["shop", "--port", "81", "--needs", "api@^2", "--mock", "auth=x"], &wait[..]].concat());
    until_waiting(&server, 1).await;
    let mut api = join(&[&["api", "--port", "82", "--version", "2.1.0", "--needs", "shop"], &wait[..]].concat());
    shop.out.line("registered shop/").await;
    shop.out.line("api is at http://127.0.0.1:82").await;
    api.out.line("shop is at http://127.0.0.1:81").await;
    let (code, out, _) = ask(&["resolve", "api@^2", "shop", "--wait", "60s", "--output", "json"]).await;
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["resolved"]["api"]["url"]), (0, &"http://127.0.0.1:82".into()));
    assert_eq!(ask(&["resolve", "api", "--mock", "a=1", "--mock", "a=2"]).await.0, 2);

    let mut http = Http::connect(server.address()).await;
    let mut post = async |path: &str, body: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        http.ask(request).await
    };
    let path = "/v1/namespaces/default/resolve";
    let found = post(path, r#"{"dependencies": {"api": "^2"}}"#).await;
    assert_eq!((found.status, &found.json()["resolved"]["api"]["url"]), (200, &"http://127.0.0.1:82".into()));
    let refused = post(path, r#"{"dependencies": {"api": "^3", "auth": ""}}"#).await;
    assert_eq!(refused.status, 424);
    assert_eq!(refused.json()["detail"], "No url for: api@^3, auth");
    assert_eq!(refused.json()["reason"], "MISSING_DEPENDENCY");
    let preconditions = refused.json()["preconditions"].clone();
    let subjects: Vec<_> = preconditions.as_array().unwrap().iter().map(|one| one["subject"].clone()).collect();
    assert_eq!(subjects, ["api@^3", "auth"], "{preconditions}");
    // Whoever runs already is registered again without what it needs: the shop outlasts its api.
    api.signal("TERM");
    assert_eq!(api.ended().await, 0);
    assert_eq!(ask(&["leave", "shop", "--all"]).await.0, 0);
    shop.out.line("again, since its lease was EXPIRED").await;
}

/// What a package says, what is given beside it, and the sentences of what it lacks.
#[tokio::test]
async fn a_package_is_joined_with_what_it_needs() {
    let server = Server::ephemeral(&[]).await;
    let (url, home) = (server.url(), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &str| {
        let path = home.path().join(name).display().to_string();
        std::fs::write(&path, text).unwrap();
        path
    };
    let vasco = r#""vasco": {"dependencies": {"api": "2.0.1", "auth": "^1"}, "mocks": {"auth": "localhost:3000"}, "aliveDuration": 20}"#;
    let good = write("package.json", &format!(r#"{{"name": "shop", "version": "1.0.0", {vasco}}}"#));
    let bad = write("bad.json", r#"{"name": 7, "onair": {"dependencies": []}}"#);
    let join = async |arguments: &[&str]| said(&onair(&[&["join", "--url", &url], arguments].concat()).await);
    let (code, _, told) = join(&["--package", &bad, "--port", "80"]).await;
    assert_eq!(code, 2);
    for part in ["Invalid package", "`name` is not a text", "`version` is missing", "`onair.dependencies` is not"] {
        assert!(told.contains(part), "{told}");
    }
    let (code, _, told) = join(&["--package", &good]).await;
    assert!(code == 2 && told.contains("Need url of service"), "{told}");
    let (code, _, told) = join(&["--package", &good, "--port", "80"]).await;
    assert!(code == 3 && told.contains("No url for: api@2.0.1"), "{told}");

    let api = register_with("api", "1", 60.0, |instance| instance.version = "2.0.1".to_owned());
    server.api().await.register(api).await.unwrap();
    let mut shop = Running::start(&["join", "--package", &good, "--port", "80", "--url", &url]);
    shop.out.line("shop").await;
    let found = server
        .api()
        .await
        .lookup(LookupRequest { service: "shop".into(), ..LookupRequest::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((&*found.instances[0].version, found.instances[0].port), ("1.0.0", 80));
    shop.signal("INT");
    assert_eq!(shop.ended().await, 0);
}
