//! bender's job by curl alone, as one of its users does it, on its own routes: registrations that are renewed by
//! registering again, backends, frontends and the switch between them.

use std::time::{Duration, Instant};

use onair::{
    proto::LookupRequest,
    registry::{Cause, EventType},
};
use serde_json::{Value as Json, json};
use tokio::process::Command;

use crate::{
    harness::{Follower, Server, register_with},
    history::{Recorder, Settings},
};

/// What curl was answered.
#[derive(Debug)]
struct Told {
    status: u16,
    location: String,
    body: Json,
}

impl Told {
    fn detail(&self) -> (u16, &str) {
        (self.status, self.body["detail"].as_str().unwrap_or_default())
    }
}

async fn curl(server: &Server, path: &str, args: &[&str]) -> Told {
    let url = format!("{}{path}", server.url());
    let output = Command::new("curl").args(["-sS", "-i", &url]).args(args).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path} {args:?}: {text}"));
    let header = |name: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_default().to_owned()
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    let body = if body.is_empty() { Json::Null } else { serde_json::from_str(body).unwrap() };
    Told { status, location: header("location"), body }
}

/// A JSON body, with a method.
async fn send(server: &Server, method: &str, path: &str, body: &Json) -> Told {
    curl(server, path, &["-X", method, "-H", "Content-Type: application/json", "-d", &body.to_string()]).await
}

async fn curl_is_missing() -> bool {
    let missing = Command::new("curl").arg("--version").output().await.is_err();
    if missing {
        println!("SKIPPED: there is no curl on this machine");
    }
    missing
}

const BLUE: [&str; 10] = ["-d", "app=web", "-d", "version=1.0", "-d", "host=10.0.0.1", "-d", "port=8000", "-d", "az=a"];

#[tokio::test]
async fn registering_again_renews_and_falling_silent_is_offline() {
    if curl_is_missing().await {
        return;
    }
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let nothing = curl(&server, "/registrations", &[]).await;
    assert_eq!((nothing.status, &nothing.body), (200, &json!([])));
    let made = curl(&server, "/registrations", &BLUE).await;
    let document = json!({"app": "web", "version": "1.0", "host": "10.0.0.1", "port": 8000, "az": "a"});
    assert_eq!((made.status, made.location.as_str()), (201, "/registrations/web/1.0/10.0.0.1/8000"));
    assert_eq!(made.body, document);
    follower.event("ONLINE", |event| event.cause() == Cause::Registered).await;
    // The same by its path and as JSON: a renewal, which tells nobody.
    let revision = server.info().await.revision;
    let again = send(&server, "POST", &made.location, &json!({"az": "a"})).await;
    assert_eq!((again.status, &again.body), (201, &document));
    assert_eq!(server.info().await.revision, revision);
    let other = send(&server, "POST", &made.location, &json!({"az": "b", "secondsToExpire": 1})).await;
    assert_eq!(other.body["az"], "b");
    follower.event("UPDATED", |event| event.r#type() == EventType::Updated).await;
    for (path, found) in [
        ("/registrations", 1),
        ("/registrations/web", 1),
        ("/registrations/web/1.0", 1),
        (made.location.as_str(), 1),
        ("/registrations/web/1", 0),
        ("/registrations/none", 0),
        ("/registrations/a%2Fb", 0),
    ] {
        let list = curl(&server, path, &[]).await;
        assert_eq!((list.status, list.body.as_array().unwrap().len()), (200, found), "{path}");
    }
    // Longer than its second, as long as it is renewed.
    let (begun, mut renewed) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_millis(2_500) {
        let renewal = send(&server, "POST", &made.location, &json!({"az": "b", "secondsToExpire": 1})).await;
        assert_eq!(renewal.status, 201);
        renewed += 1;
    }
    assert!(follower.gone().is_empty(), "after {renewed} renewals");
    let status = curl(&server, "/status", &[]).await;
    assert_eq!((status.status, &status.body["name"]), (200, &json!("onair")));
    assert!(status.body["registrationsPerSecond"].as_f64().unwrap() > 0.0 && status.body["uptime"].is_u64());
    assert!(status.body["version"].is_string());
    // Then nobody renews it. The event has the whole last record.
    let (_, gone) = follower.event("OFFLINE", |event| event.r#type() == EventType::Offline).await;
    assert_eq!((gone.cause(), gone.instance.unwrap().version.as_str()), (Cause::Expired, "1.0"));
    // And one that is taken away, once and again.
    curl(&server, "/registrations", &BLUE).await;
    for _ in 0..2 {
        assert_eq!(curl(&server, &made.location, &["-X", "DELETE"]).await.status, 204);
    }
    let (_, gone) = follower.event("OFFLINE", |event| event.cause() == Cause::Deregistered).await;
    assert_eq!(gone.instance.unwrap().port, 8000);
    recorder.assert_clean();
}

#[tokio::test]
async fn a_frontend_is_switched_by_a_put() {
    if curl_is_missing().await {
        return;
    }
    let server = Server::ephemeral(&[]).await;
    for version in ["1.0", "2.0"] {
        let path = format!("/registrations/web/{version}/10.0.0.1/8000");
        assert_eq!(curl(&server, &path, &["-X", "POST"]).await.status, 201);
    }
    let blue =
        curl(&server, "/backends", &["-d", "name=blue", "-d", "app=web", "-d", "version=1.0", "-d", "by=me"]).await;
    let document = json!({"name": "blue", "app": "web", "version": "1.0", "by": "me"});
    assert_eq!((blue.status, blue.location.as_str(), &blue.body), (201, "/backends/blue", &document));
    send(&server, "POST", "/backends", &json!({"name": "green", "app": "web", "version": "2.0"})).await;
    let www = send(&server, "POST", "/frontends", &json!({"name": "www", "backend": "blue", "tls": true})).await;
    assert_eq!((www.status, www.location.as_str()), (201, "/frontends/www"));
    let behind = async || {
        let request = LookupRequest { frontend: "www".into(), ..Default::default() };
        let found = server.api().await.lookup(request).await.unwrap().into_inner().instances;
        found.into_iter().map(|instance| instance.version).collect::<Vec<_>>()
    };
    assert_eq!(behind().await, ["1.0"]);
    let switched = curl(&server, "/frontends/www", &["-X", "PUT", "-d", "backend=green"]).await;
    assert_eq!((switched.status, &switched.body), (200, &json!({"name": "www", "backend": "green", "tls": true})));
    assert_eq!(behind().await, ["2.0"]);
    // A backend of another version is a switch as well, and other fields stay.
    let moved = send(&server, "PUT", "/backends/green", &json!({"version": "1.0", "note": [1, 2.5]})).await;
    assert_eq!(moved.body, json!({"name": "green", "app": "web", "version": "1.0", "note": [1, 2.5]}));
    assert_eq!(behind().await, ["1.0"]);
    let shared =
        send(&server, "PUT", "/frontends/www", &json!({"weights": {"blue": 95, "green": 5}, "tls": null})).await;
    assert_eq!(shared.body, json!({"name": "www", "backend": "blue", "weights": {"blue": 95, "green": 5}}));
    let by_form = curl(&server, "/frontends/www", &["-X", "PUT", "-d", "weights=blue%3D1%2Cgreen%3D1"]).await;
    assert_eq!(by_form.body["weights"], json!({"blue": 1, "green": 1}));
    let stale = send(&server, "PUT", "/frontends/www", &json!({"backend": "blue", "expectedRevision": 1})).await;
    assert_eq!((stale.status, &stale.body["reason"]), (409, &json!("STALE_REVISION")));
    assert_eq!(curl(&server, "/backends", &[]).await.body.as_array().unwrap().len(), 2);
    assert_eq!(curl(&server, "/frontends", &[]).await.body, json!([by_form.body]));
    let in_use = curl(&server, "/backends/blue", &["-X", "DELETE"]).await;
    assert_eq!((in_use.status, &in_use.body["reason"]), (409, &json!("IN_USE")));
    for path in ["/frontends/www", "/backends/blue"] {
        assert_eq!(curl(&server, path, &["-X", "DELETE"]).await.status, 204);
    }
    assert_eq!(curl(&server, "/frontends", &[]).await.body, json!([]));
}

#[tokio::test]
async fn refusals_have_the_sentences_and_statuses_that_are_owed() {
    if curl_is_missing().await {
        return;
    }
    let server = Server::ephemeral(&[]).await;
    send(&server, "POST", "/backends", &json!({"name": "blue", "app": "web", "version": "1"})).await;
    send(&server, "POST", "/frontends", &json!({"name": "www", "backend": "blue"})).await;
    let revision = server.info().await.revision;
    for (method, path, body, expected) in [
        ("POST", "/backends", json!({"app": "web", "version": "1"}), (400, "Backend name is required")),
        ("POST", "/backends", json!({"name": "b"}), (400, "Application name and version are required")),
        (
            "POST",
            "/backends",
            json!({"name": "blue", "app": "web", "version": "1"}),
            (409, "Backend with that name already exists"),
        ),
        ("GET", "/backends/none", Json::Null, (404, "Backend not found")),
        ("PUT", "/backends/none", json!({}), (404, "Backend not found")),
        ("DELETE", "/backends/none", Json::Null, (404, "Backend not found")),
        ("POST", "/frontends", json!({"backend": "blue"}), (400, "Frontend name is required")),
        ("POST", "/frontends", json!({"name": "f"}), (400, "Backend name is required")),
        ("POST", "/frontends", json!({"name": "f", "backend": "none"}), (400, "Backend not found")),
        (
            "POST",
            "/frontends",
            json!({"name": "www", "backend": "blue"}),
            (409, "Frontend with that name already exists"),
        ),
        ("GET", "/frontends/none", Json::Null, (404, "Frontend not found")),
        ("PUT", "/frontends/none", json!({"backend": "blue"}), (404, "Frontend not found")),
        ("DELETE", "/frontends/none", Json::Null, (404, "Frontend not found")),
        ("PUT", "/frontends/www", json!({"backend": "none"}), (400, "Backend not found")),
        ("PUT", "/frontends/www", json!({"name": "w"}), (400, "name contradicts the path")),
        (
            "POST",
            "/registrations",
            json!({"port": "notaport"}),
            (400, "Application name and version are required; port must be 1 to 65535"),
        ),
        ("POST", "/registrations/web/1/h/65536", Json::Null, (400, "port must be 1 to 65535")),
        ("POST", "/registrations/web/1/h/0", Json::Null, (400, "port must be 1 to 65535")),
        ("DELETE", "/registrations/web/1/h/notaport", Json::Null, (400, "port must be 1 to 65535")),
        ("POST", "/registrations/web/1/h/80", json!({"app": "api"}), (400, "app contradicts the path")),
        (
            "POST",
            "/registrations",
            json!({"app": "a", "version": "1", "host": "h", "port": 1, "secondsToExpire": -1}),
            (400, "secondsToExpire must be a number of seconds above 0"),
        ),
        ("POST", "/backends", json!([]), (400, "the body has to be an object")),
    ] {
        let told = match &body {
            Json::Null => curl(&server, path, &["-X", method]).await,
            body => send(&server, method, path, body).await,
        };
        assert_eq!(told.detail(), expected, "{method} {path} {body}: {told:?}");
    }
    let text = curl(&server, "/backends", &["-H", "Content-Type: text/plain", "-d", "x"]).await;
    assert_eq!((text.status, curl(&server, "/registrations", &["-X", "PUT"]).await.status), (415, 405));
    assert_eq!(server.info().await.revision, revision, "nothing changed");
}

#[tokio::test]
async fn what_has_a_lease_token_is_left_alone() {
    if curl_is_missing().await {
        return;
    }
    let server = Server::start(&[]).await;
    let mut api = server.api().await;
    let fenced = register_with("web", "", 600.0, |instance| {
        (instance.host, instance.port, instance.version) = ("10.0.0.1".into(), 8000, "1.0".into());
    });
    api.register(fenced.clone()).await.unwrap();
    let path = "/registrations/web/1.0/10.0.0.1/8000";
    for method in ["POST", "DELETE"] {
        let refused = curl(&server, path, &["-X", method]).await;
        assert_eq!((refused.status, &refused.body["reason"]), (409, &json!("KEY_HELD")), "{method}");
    }
    assert_eq!(curl(&server, "/registrations/web", &[]).await.body.as_array().unwrap().len(), 1);
    // Whoever does not want the kind turns it off; reading goes on.
    let strict = Server::ephemeral(&["--unfenced-http", "off"]).await;
    for method in ["POST", "DELETE"] {
        let refused = curl(&strict, path, &["-X", method]).await;
        assert_eq!((refused.status, &refused.body["reason"]), (403, &json!("PERMISSION")), "{method}");
    }
    assert_eq!(curl(&strict, "/registrations", &[]).await.status, 200);
}
