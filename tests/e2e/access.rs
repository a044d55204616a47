//! Authentication and rights, by real processes: the first token, who may do what, and streams whose caller's rights change.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use onair::proto::{
    CreateTokenRequest, DeregisterRequest, GetInstanceRequest, GetServerInfoRequest, Grant, IfMissing, Instance,
    LookupRequest, Permission, RegisterRequest, RevokeTokenRequest, RotateTokenRequest, Selector, UpdateTokenRequest,
    WatchRequest, WatchResponse, admin_client::AdminClient, registry_client::RegistryClient,
};
use ring::hmac;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    harness::{Http, Server, within},
    input::refusal,
};

/// Puts a token beside each call.
#[derive(Clone)]
pub struct Bearer(pub String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            let value = MetadataValue::try_from(format!("Bearer {}", self.0)).expect("a header");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub type Line = InterceptedService<Channel, Bearer>;

/// A server that asks everybody who they are, and what its operator can do.
pub struct Guarded {
    pub server: Server,
    pub operator: String,
}

impl Guarded {
    pub async fn start(flags: &[&str]) -> Self {
        let server = Server::start(&[&["--auth"], flags].concat()).await;
        let operator = fs::read_to_string(server.data_dir().join("operator.token")).expect("the operator's token");
        Self { server, operator: operator.trim().to_owned() }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(self.server.url()).unwrap().connect().await.unwrap()
    }

    pub async fn registry(&self, token: &str) -> RegistryClient<Line> {
        RegistryClient::with_interceptor(self.channel().await, Bearer(token.to_owned()))
    }

    pub async fn admin(&self) -> AdminClient<Line> {
        AdminClient::with_interceptor(self.channel().await, Bearer(self.operator.clone()))
    }

    /// Waits until the log has `part`.
    pub async fn logged(&self, part: &str) {
        let waited = async {
            while !self.server.log().contains(part) {
                tokio::task::yield_now().await;
            }
        };
        within(&format!("{part:?} in the log"), waited).await;
    }

    /// A token with these permissions of services of a namespace.
    pub async fn token(&self, name: &str, namespace: &str, services: &str, permissions: &[Permission]) -> String {
        let request = CreateTokenRequest {
            name: name.into(),
            grants: vec![grant(namespace, services, permissions)],
            ..Default::default()
        };
        self.admin().await.create_token(request).await.unwrap().into_inner().secret
    }
}

pub fn grant(namespace: &str, services: &str, permissions: &[Permission]) -> Grant {
    let permissions = permissions.iter().map(|permission| i32::from(*permission)).collect();
    Grant { namespace: namespace.into(), services: services.into(), permissions }
}

pub fn instance(namespace: &str, service: &str, id: &str) -> RegisterRequest {
    let (namespace, service, id) = (namespace.to_owned(), service.to_owned(), id.to_owned());
    let instance = Instance { namespace, service, id, host: "10.0.0.1".into(), port: 80, ..Default::default() };
    RegisterRequest { instance: Some(instance), ..Default::default() }
}

pub fn watch(namespace: &str) -> WatchRequest {
    let selector = Selector { namespace: namespace.into(), ..Default::default() };
    WatchRequest { selectors: vec![selector], ..Default::default() }
}

/// A token that somebody else issued, signed with this secret.
fn issued(secret: &str, exp: u64) -> String {
    let base64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(
        r#"{{"iss":"https://issuer.example","aud":"onair","sub":"alice","exp":{exp},"onair":["team-a=read"]}}"#
    );
    let signed = format!("{}.{}", base64(r#"{"alg":"HS256"}"#), base64(&claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The next message that has events, or the end.
async fn next(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Status> {
    loop {
        let message = within("a message of a watch", stream.message()).await?.expect("it has no end without a status");
        if !message.events.is_empty() || message.reset.is_some() || message.snapshot_end {
            return Ok(message);
        }
    }
}

fn names(message: &WatchResponse) -> Vec<String> {
    message.events.iter().filter_map(|event| Some(event.instance.as_ref()?.service.clone())).collect()
}

#[tokio::test]
async fn the_first_start_writes_a_token_for_the_operator_alone() {
    let mut guarded = Guarded::start(&[]).await;
    let path = guarded.server.data_dir().join("operator.token");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let request = instance("team-a", "web", "a");
    guarded.registry(&guarded.operator).await.register(request.clone()).await.unwrap();
    let nobody = guarded.registry("").await.register(request.clone()).await.unwrap_err();
    assert_eq!((nobody.code(), refusal(&nobody).1.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    guarded.server.kill().await;
    guarded.server.again().await;
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), guarded.operator, "it is good, so there is no other");
    guarded.registry(&guarded.operator).await.register(request).await.unwrap();
    assert!(!guarded.server.log().contains(&guarded.operator), "a token stands in the log");
}

#[tokio::test]
async fn a_lease_belongs_to_the_principal_that_has_it() {
    let guarded = Guarded::start(&[]).await;
    let rights = [Permission::Register, Permission::Read];
    let (ours, theirs) = (
        guarded.token("ours", "team-a", "orders-*", &rights).await,
        guarded.token("theirs", "team-a", "*", &rights).await,
    );
    let (mut us, mut them) = (guarded.registry(&ours).await, guarded.registry(&theirs).await);
    let lease = us.register(instance("team-a", "orders-eu", "a")).await.unwrap().into_inner().lease.unwrap();
    let taken = them.register(instance("team-a", "orders-eu", "a")).await.unwrap_err();
    assert_eq!((taken.code(), refusal(&taken).1.as_str()), (Code::AlreadyExists, "KEY_HELD"));
    // By its key it is an operator's.
    let by_key = DeregisterRequest {
        namespace: "team-a".into(),
        service: "orders-eu".into(),
        id: "a".into(),
        ..Default::default()
    };
    let refused = them.deregister(by_key.clone()).await.unwrap_err();
    assert_eq!((refused.code(), refusal(&refused).1.as_str()), (Code::PermissionDenied, "PERMISSION"));
    // Who had it takes it over, and a rotated token is the same principal.
    let mut admin = guarded.admin().await;
    let rotated =
        admin.rotate_token(RotateTokenRequest { name: "ours".into(), overlap: None }).await.unwrap().into_inner();
    let mut us_again = guarded.registry(&rotated.secret).await;
    us_again.register(instance("team-a", "orders-eu", "a")).await.unwrap();
    us.lookup(LookupRequest::default()).await.expect_err("default is not theirs to read");
    let stale = RegisterRequest { lease_token: lease.token, ..instance("team-a", "orders-eu", "a") };
    assert_eq!(
        us.register(stale).await.unwrap_err().code(),
        Code::Aborted,
        "the old secret is good, the old lease is not"
    );
    // Nobody's url is taken away by who could not take its place.
    let url = |token: &str, service: &str| {
        let mut request = instance("team-a", service, token);
        request.instance.as_mut().unwrap().url = "http://10.0.0.9:80/x".into();
        (request.instance.as_mut().unwrap().host, request.exclusive_url) = (String::new(), true);
        request
    };
    us_again.register(url("a", "orders-url")).await.unwrap();
    let held = them.register(url("b", "web")).await.unwrap_err();
    assert_eq!(refusal(&held).1, "KEY_HELD");
    let mut operator = guarded.registry(&guarded.operator).await;
    operator.register(url("c", "web")).await.unwrap();
    assert_eq!(operator.deregister(by_key).await.unwrap().into_inner().removed, 1);
}

#[tokio::test]
async fn a_watch_shows_what_may_be_read_and_begins_anew_when_that_changes() {
    let guarded = Guarded::start(&[]).await;
    let mut operator = guarded.registry(&guarded.operator).await;
    for (namespace, service) in [("team-a", "orders-eu"), ("team-a", "web"), ("team-b", "web")] {
        operator.register(instance(namespace, service, "a")).await.unwrap();
    }
    let token = guarded.token("reader", "team-a", "orders-*", &[Permission::Read]).await;
    let mut reader = guarded.registry(&token).await;
    let mut stream = reader.watch(watch("*")).await.unwrap().into_inner();
    assert_eq!(names(&next(&mut stream).await.unwrap()), ["orders-eu"]);
    let refused = reader.watch(watch("team-b")).await.unwrap_err();
    assert_eq!(refusal(&refused).1, "PERMISSION");
    operator.register(instance("team-a", "orders-us", "a")).await.unwrap();
    operator.register(instance("team-b", "orders-us", "a")).await.unwrap();
    let told = next(&mut stream).await.unwrap();
    assert_eq!(
        (names(&told), told.events[0].instance.as_ref().unwrap().namespace.as_str()),
        (vec!["orders-us".into()], "team-a")
    );
    let token_before = told.resume_token.clone();
    let grants = vec![grant("team-b", "*", &[Permission::Read])];
    let update = UpdateTokenRequest { name: "reader".into(), grants, ..Default::default() };
    guarded.admin().await.update_token(update).await.unwrap();
    let anew = next(&mut stream).await.unwrap();
    assert_eq!(anew.reset.as_ref().map(|reset| reset.reason().as_str_name()), Some("RESET_REASON_SELECTORS_CHANGED"));
    let mut seen = names(&anew);
    seen.sort();
    assert_eq!(seen, ["orders-us", "web"]);
    // What was given for the old scope does not continue in the new one.
    let resumed = WatchRequest { resume_token: token_before, ..watch("*") };
    let mut resumed = reader.watch(resumed).await.unwrap().into_inner();
    assert!(next(&mut resumed).await.unwrap().reset.is_some());
}

#[tokio::test]
async fn a_revoked_token_ends_its_streams_within_a_second_and_no_others() {
    const OTHERS: usize = 1_000;
    let guarded = Guarded::start(&[]).await;
    let (revoked, kept) = (
        guarded.token("revoked", "team-a", "*", &[Permission::Read]).await,
        guarded.token("kept", "team-a", "*", &[Permission::Read]).await,
    );
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(guarded.registry(&kept).await);
    }
    let mut others = Vec::new();
    for number in 0..OTHERS {
        let mut stream = clients[number % 4].watch(watch("team-a")).await.unwrap().into_inner();
        next(&mut stream).await.unwrap();
        others.push(stream);
    }
    let mut ending = guarded.registry(&revoked).await.watch(watch("team-a")).await.unwrap().into_inner();
    next(&mut ending).await.unwrap();
    guarded.admin().await.revoke_token(RevokeTokenRequest { name: "revoked".into() }).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(1), next(&mut ending)).await.expect("within a second");
    let status = end.expect_err("it ends");
    assert_eq!((status.code(), refusal(&status).1.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    let again = guarded.registry(&revoked).await.watch(watch("team-a")).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
    guarded.registry(&guarded.operator).await.register(instance("team-a", "web", "a")).await.unwrap();
    for stream in &mut others {
        assert_eq!(names(&next(stream).await.expect("it goes on")), ["web"]);
    }
}

/// What waits for an answer is let in no longer than a stream is: nothing is registered for who may not any more.
#[tokio::test]
async fn a_call_that_waits_ends_with_its_token() {
    let guarded = Guarded::start(&[]).await;
    let token = guarded.token("waiting", "team-a", "*", &[Permission::Read, Permission::Register]).await;
    let kept = guarded.token("kept", "team-a", "*", &[Permission::Read]).await;
    let wait = Some(Duration::from_secs(60).try_into().unwrap());
    let lookup = || LookupRequest { namespace: "team-a".into(), service: "api".into(), wait, ..Default::default() };
    let register = RegisterRequest {
        dependencies: BTreeMap::from([("api".to_owned(), "*".to_owned())]),
        if_missing: IfMissing::Wait.into(),
        wait,
        ..instance("team-a", "web", "w")
    };
    let (mut first, mut second) = (guarded.registry(&token).await, guarded.registry(&token).await);
    let mut other = guarded.registry(&kept).await;
    let held = async { tokio::join!(first.lookup(lookup()), second.register(register), other.lookup(lookup())) };
    let revoke = async {
        let mut operator = guarded.registry(&guarded.operator).await;
        let until = async |operator: &mut RegistryClient<Line>, wanted: u64| {
            loop {
                let info = operator.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
                if info.counts.unwrap().waiting == wanted {
                    break;
                }
            }
        };
        within("the registration that waits", until(&mut operator, 1)).await;
        guarded.admin().await.revoke_token(RevokeTokenRequest { name: "waiting".into() }).await.unwrap();
        within("nobody waits", until(&mut operator, 0)).await;
        operator.register(instance("team-a", "api", "a")).await.unwrap();
    };
    let all = Box::pin(async { tokio::join!(held, revoke) });
    let ((lookup, registration, found), ()) = within("the answers", all).await;
    for status in [lookup.map(|_| ()).unwrap_err(), registration.map(|_| ()).unwrap_err()] {
        assert_eq!((status.code(), refusal(&status).1.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    }
    assert_eq!(found.unwrap().into_inner().instances.len(), 1, "whose token is good waits on");
    let web = GetInstanceRequest { namespace: "team-a".into(), service: "web".into(), id: "w".into() };
    let status = guarded.registry(&guarded.operator).await.get_instance(web).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn http_asks_who_calls_and_takes_no_token_from_a_url() {
    let guarded = Guarded::start(&["--anonymous-read", "public/status-*"]).await;
    let bearer = format!("Bearer {}", guarded.operator);
    let ask = async |path: &str, token: Option<&str>| {
        let mut http = Http::connect(guarded.server.address()).await;
        let credentials = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
        http.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{credentials}\r\n")).await
    };
    for (path, token, status) in [
        ("/v1/namespaces/default/services", None, 401),
        ("/v1/namespaces/default/services", Some(bearer.as_str()), 200),
        ("/v1/namespaces/default/services", Some("Bearer onair_operator_x"), 401),
        ("/v1/namespaces/public/services", None, 200),
        ("/v1/namespaces/public/services/status-eu/instances", None, 200),
        ("/v1/namespaces/public/services/web/instances", None, 401),
        ("/registrations", None, 401),
        ("/registrations", Some(bearer.as_str()), 200),
        ("/metrics", None, 401),
        ("/metrics", Some(bearer.as_str()), 200),
        ("/v1/tokens", None, 401),
        ("/healthz", None, 200),
    ] {
        let answer = ask(path, token).await;
        assert_eq!(answer.status, status, "{path} {token:?}: {}", answer.body);
        assert_eq!(answer.header("www-authenticate"), if status == 401 { "Bearer" } else { "" }, "{path}");
    }
    let in_url = format!("/v1/tokens?access_token={}", guarded.operator);
    assert_eq!(ask(&in_url, None).await.status, 401);
}

#[tokio::test]
async fn tokens_of_others_are_good_by_the_keys_that_the_file_has_now() {
    const SECRETS: [&str; 2] = ["a secret that is long enough for it", "another secret that is long enough"];
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    fs::write(&keys, SECRETS[0]).unwrap();
    let flags = ["--jwt-keys", keys.to_str().unwrap(), "--jwt-issuer", "https://issuer.example"];
    let guarded = Guarded::start(&flags).await;
    let [first, second] = SECRETS.map(|secret| issued(secret, 4_000_000_000));
    let mut stream = guarded.registry(&first).await.watch(watch("team-a")).await.unwrap().into_inner();
    next(&mut stream).await.unwrap();
    for refused in [&second, &issued(SECRETS[0], 1_000), &first[..first.len() - 2].to_owned()] {
        let told = guarded.registry(refused).await.watch(watch("team-a")).await.unwrap_err();
        assert_eq!((told.code(), refusal(&told).1.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    }
    // A file that has no keys changes nothing; one that has others does.
    fs::write(&keys, "too short").unwrap();
    guarded.server.signal("HUP");
    guarded.logged("those from before stay in force").await;
    next(&mut guarded.registry(&first).await.watch(watch("team-a")).await.unwrap().into_inner()).await.unwrap();
    fs::write(&keys, SECRETS[1]).unwrap();
    let end = next(&mut stream).await.expect_err("it ends");
    assert_eq!(end.code(), Code::Unauthenticated);
    next(&mut guarded.registry(&second).await.watch(watch("team-a")).await.unwrap().into_inner()).await.unwrap();
}

#[tokio::test]
async fn every_change_and_every_refusal_is_written_with_who_and_from_where() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let mut guarded = Guarded::start(&["--audit-log", path.to_str().unwrap()]).await;
    let token = guarded.token("ci", "team-a", "web", &[Permission::Register, Permission::Read]).await;
    let mut ci = guarded.registry(&token).await;
    let registered = ci.register(instance("team-a", "web", "a")).await.unwrap().into_inner();
    ci.register(instance("team-b", "web", "a")).await.unwrap_err();
    ci.lookup(LookupRequest::default()).await.unwrap_err();
    ci.watch(watch("team-a")).await.unwrap();
    guarded.registry("onair_ci_wrong").await.watch(watch("team-a")).await.unwrap_err();
    let mut http = Http::connect(guarded.server.address()).await;
    let (head, body) = (format!("Host: localhost\r\nAuthorization: Bearer {token}\r\nX-Request-Id: order-7"), "{}");
    let request = format!(
        "POST /registrations/web/1.0.0/10.0.0.9/80?namespace=team-a HTTP/1.1\r\n{head}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..2 {
        assert_eq!(http.ask(request.clone()).await.status, 201);
    }
    http.ask(format!("GET /v1/tokens HTTP/1.1\r\n{head}\r\n\r\n")).await;
    guarded.server.terminate();
    guarded.server.ended().await;
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for secret in [&token, &guarded.operator, &registered.lease.unwrap().token] {
        assert!(!text.contains(secret.as_str()), "a secret stands in it");
    }
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let written: Vec<[&str; 4]> =
        lines.iter().map(|line| ["who", "what", "about", "outcome"].map(|name| line[name].as_str().unwrap())).collect();
    let (register, tokens) = ("onair.v1.Registry/Register", "onair.v1.Admin/ListTokens");
    let wanted = [
        ["token:operator", "onair.v1.Admin/CreateToken", "token/ci", "OK"],
        ["token:ci", register, "team-a/web", "OK"],
        ["token:ci", register, "team-b/web", "PERMISSION"],
        ["token:ci", "onair.v1.Registry/Lookup", "default", "PERMISSION"],
        ["", "onair.v1.Registry/Watch", "", "UNAUTHENTICATED"],
    ];
    assert_eq!(written[..wanted.len()], wanted, "{text}");
    let by_http = &lines[wanted.len()];
    assert!(by_http["what"].as_str().unwrap().starts_with("POST /registrations/web"), "{text}");
    assert!(by_http["revision"].as_u64() > lines[1]["revision"].as_u64(), "{text}");
    assert_eq!(text.matches("POST /registrations").count(), 1, "a renewal that changes nothing is no change: {text}");
    assert_eq!((&by_http["who"], &by_http["request_id"]), (&"token:ci".into(), &"order-7".into()), "{text}");
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["what"], &last["outcome"], &last["permission"]),
        (&tokens.into(), &"PERMISSION".into(), &"admin".into())
    );
    assert_eq!(lines[1]["revision"].as_u64(), Some(registered.revision), "{text}");
    for line in &lines {
        assert!(line["from"].as_str().unwrap().starts_with("127.0.0.1:") && !line["time"].as_str().unwrap().is_empty());
    }
}
