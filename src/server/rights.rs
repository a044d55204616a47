//! Every call and every path, by callers with other rights, through the front of a server: what is refused, to whom, and
//! in which words.

use std::{collections::BTreeMap, sync::Arc};

use ::http::{HeaderValue, Method, Request, StatusCode, Version, header};
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde_json::{Value as Json, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::*;
use crate::{
    access::{
        Entry, Grant, Grants, HTTP, Permission, RPCS, Reach, of_rpc,
        token::{self, HeldSecret, Secret, Token},
    },
    http::{ops::Ops, routes::Table},
    laps::Laps,
    registry::Write,
};

/// A front with authentication on, and a way to make tokens.
struct Rig {
    handle: RegistryHandle,
    front: Front,
}

impl Rig {
    fn new() -> Self {
        let recovered = MemoryEngine::recovered(Uuid::nil(), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        let settings = ServeSettings { bench_floor: true, ..ServeSettings::default() };
        let keeper = Keeper::new(Arc::clone(handle.hub()), &[], Keeper::wall());
        let ops = Ops::new(Arc::clone(handle.metrics()));
        ops.recovered(handle.clone());
        let services = Services {
            handle: handle.clone(),
            members: vec![],
            guard: Arc::new(Guard::new(&[], &settings, None)),
            ops: http::ops::router(ops),
            legacy: Legacy::new(handle.clone(), true, 1_000_000, Gate::new(Arc::clone(&keeper))),
            keeper: Some(keeper),
            audit: None,
            settings,
        };
        let front = services.front(&Laps::default()).expect("a front");
        Self { handle, front }
    }

    /// A token with these grants: its text.
    async fn token(&self, name: &str, grants: impl IntoIterator<Item = String>) -> String {
        let secret = Secret([7; 32]);
        let token = Token {
            name: name.into(),
            grants: Grants::new(grants.into_iter().map(|text| Grant::parse(&text).expect("a grant"))),
            unknown: Vec::new(),
            secrets: vec![HeldSecret { hash: secret.hash(), since: 0, until: None }],
            certificates: Vec::new(),
            quota: crate::registry::Quota::default(),
            since: 0,
            by: String::new(),
            until: None,
            revision: 0,
        };
        let write = Write { key: token::key(name), body: Some(token.body()), expected: 0 };
        self.handle.write(write, None).await.expect("written");
        secret.text(name)
    }

    /// How a call of gRPC begins: its refusal, if it is refused at once.
    async fn call(&self, path: &str, message: &[u8], token: Option<&str>) -> Status {
        self.first(path, message, token).await.0
    }

    /// The same, and the bytes of the first message.
    async fn first(&self, path: &str, message: &[u8], token: Option<&str>) -> (Status, Bytes) {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put_slice(message);
        let mut request =
            Request::post(path).version(Version::HTTP_2).body(Full::new(framed.freeze())).expect("a request");
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"));
        }
        let mut response = self.front.call(request).await.expect("an answer");
        if let Some(status) = Status::from_header_map(response.headers()) {
            return (status, Bytes::new());
        }
        // A stream may be refused in place of its first message.
        let first = response.body_mut().frame().await.and_then(Result::ok);
        let trailers = first.as_ref().and_then(|frame| frame.trailers_ref());
        let status = trailers.and_then(Status::from_header_map).unwrap_or_else(|| Status::new(Code::Ok, ""));
        let data = first.and_then(|frame| frame.into_data().ok()).unwrap_or_default();
        (status, data.slice(data.len().min(5)..))
    }

    /// The status of a request of HTTP.
    async fn ask(&self, method: &Method, path: &str, token: Option<&str>) -> StatusCode {
        self.answer(method, path, token, None).await.0
    }

    /// Status and body of a request of HTTP.
    async fn answer(
        &self,
        method: &Method,
        path: &str,
        token: Option<&str>,
        body: Option<&str>,
    ) -> (StatusCode, String) {
        let full = Full::from(body.unwrap_or_default().to_owned());
        let mut request = Request::builder().method(method).uri(path).body(full).expect("a request");
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        if body.is_some() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"));
        }
        let response = self.front.call(request).await.expect("an answer");
        let (status, body) = (response.status(), response.into_body().collect().await.expect("a body"));
        (status, String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }
}

/// Every message that is spoken of.
fn pool() -> DescriptorPool {
    let mut pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("descriptors");
    pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET).expect("descriptors");
    pool
}

/// Every method, by the path of its call.
fn methods() -> BTreeMap<String, MethodDescriptor> {
    let methods = pool().services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect::<Vec<_>>();
    let path = |method: &MethodDescriptor| format!("/{}/{}", method.parent_service().full_name(), method.name());
    methods.into_iter().map(|method| (path(&method), method)).collect()
}

/// What an answer tells, but for when it was.
fn told(answer: &mut Json) {
    match answer {
        Json::Object(fields) => {
            for place in ["revision", "resumeToken", "nextPageToken"] {
                fields.remove(place);
            }
            fields.values_mut().for_each(told);
        }
        Json::Array(items) => items.iter_mut().for_each(told),
        _ => {}
    }
}

/// The same of JSON, or of a line of an event stream.
fn told_of(text: &str) -> String {
    let Ok(mut json) = serde_json::from_str(text) else { return text.to_owned() };
    told(&mut json);
    json.to_string()
}

/// Asks for everything that can be seen, where the message of a call has a place for that.
fn widened(method: &MethodDescriptor) -> Json {
    let everything = json!([{"namespace": "*"}]);
    let has = |field: &str| method.input().get_field_by_name(field).is_some();
    match () {
        () if has("add") => json!({"add": {"id": "a", "selectors": everything}}),
        () if has("selectors") => json!({"selectors": everything}),
        () if has("namespace") => json!({"namespace": "*"}),
        () => json!({}),
    }
}

/// All permissions but these, where `realm` says.
fn all_but(permissions: &[Permission], realm: &str) -> Option<String> {
    let rest: Vec<_> =
        Permission::ALL.into_iter().filter(|one| !permissions.contains(one)).map(Permission::name).collect();
    (!rest.is_empty()).then(|| format!("{realm}={}", rest.join(",")))
}

/// Reason, and the permission that is said to be missing.
fn refusal(status: &Status) -> (Code, String, String) {
    let info = status.get_details_error_info();
    let permission = info.as_ref().and_then(|info| info.metadata.get("permission").cloned()).unwrap_or_default();
    (status.code(), info.map(|info| info.reason).unwrap_or_default(), permission)
}

/// A message that each call takes, by its path.
fn examples() -> BTreeMap<String, Vec<u8>> {
    let message = |(path, method): (String, MethodDescriptor)| (path, encoded(&method, example(&method)));
    methods().into_iter().map(message).collect()
}

fn example(method: &MethodDescriptor) -> Json {
    match method.full_name() {
        // By what it names, not by a token.
        "onair.v1.Registry.Deregister" | "onair.v1.Registry.Drain" => json!({"service": "web", "id": "web-1"}),
        "grpc.health.v1.Health.Check" | "grpc.health.v1.Health.Watch" => json!({"service": "web"}),
        "onair.v1.Deployments.GetFrontendHistory" => json!({"frontend": "shop"}),
        "onair.v1.Registry.Publish" => json!({"service": "web", "kind": "moved"}),
        "onair.v1.Registry.Subscribe" => json!({"add": {"id": "a", "selectors": [{"service": "web"}]}}),
        _ => crate::http::example_of_request(&method.input()).unwrap_or_else(|| json!({})),
    }
}

fn encoded(method: &MethodDescriptor, example: Json) -> Vec<u8> {
    DynamicMessage::deserialize(method.input(), example).expect("an example").encode_to_vec()
}

#[tokio::test]
async fn every_call_is_refused_to_who_may_not_make_it() {
    let rig = Rig::new();
    let examples = examples();
    assert!(examples.len() > 40 && examples.keys().all(|path| of_rpc(path).is_some()));
    let everything = rig.token("everything", all_but(&[], "*")).await;
    let elsewhere = rig.token("elsewhere", all_but(&[], "elsewhere")).await;
    let (mut answers, mut faults) = (Vec::new(), Vec::new());
    for round in ["nothing is there", "much is there"] {
        let mut refused = Vec::new();
        for (path, message) in &examples {
            let rule = of_rpc(path).expect("a rule");
            let told = rig.call(path, message, Some(&elsewhere)).await;
            let (code, reason, permission) = refusal(&told);
            let is_named = Permission::of_name(&permission).is_some();
            let fits = match rule.reach {
                Reach::Named => (code, reason.as_str()) == (Code::PermissionDenied, "PERMISSION") && is_named,
                Reach::Narrowed => matches!(code, Code::Ok | Code::PermissionDenied),
                Reach::Nothing | Reach::Lease => reason != "PERMISSION",
            };
            if !fits {
                faults.push(format!("{round}, {path}: {told:?}"));
            }
            refused.push((path, code, told.message().to_owned()));
        }
        // Who may do everything is refused nothing for want of a permission, and leaves something behind.
        for (path, message) in &examples {
            let told = rig.call(path, message, Some(&everything)).await;
            if ["PERMISSION", "UNAUTHENTICATED"].contains(&refusal(&told).1.as_str()) {
                faults.push(format!("{round}, {path}, to who may do everything: {told:?}"));
            }
        }
        answers.push(refused);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(answers[0], answers[1], "a refusal tells of what is there");
    assert!(rig.handle.hub().registry().instances() > 0, "there was something to be told of");
}

#[tokio::test]
async fn every_call_says_which_permission_is_missing() {
    let rig = Rig::new();
    let examples = examples();
    for (number, (path, rule)) in RPCS.iter().enumerate() {
        let Some(message) = examples.get(*path) else { continue };
        let nobody = refusal(&rig.call(path, message, None).await);
        let wrong = refusal(&rig.call(path, message, Some("onair_ci_wrong")).await);
        let unauthenticated = (Code::Unauthenticated, "UNAUTHENTICATED".to_owned(), String::new());
        match rule.entry {
            Entry::Open | Entry::Everywhere(_) => {}
            Entry::Known => assert_eq!((&nobody, &wrong), (&unauthenticated, &unauthenticated), "{path}"),
            Entry::Any(permissions) => {
                assert_eq!((&nobody, &wrong), (&unauthenticated, &unauthenticated), "{path}");
                let token = rig.token(&format!("t{number}"), all_but(permissions, "*")).await;
                let told = refusal(&rig.call(path, message, Some(&token)).await);
                let missing = permissions[0].name().to_owned();
                assert_eq!(told, (Code::PermissionDenied, "PERMISSION".to_owned(), missing), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn every_path_of_http_is_refused_to_who_says_nothing() {
    let rig = Rig::new();
    let reader = rig.token("reader", ["elsewhere=read".to_owned()]).await;
    let everything = rig.token("everything", all_but(&[], "*")).await;
    let writer = rig.token("writer", all_but(&[Permission::Read], "elsewhere")).await;
    for (path, reads, changes) in HTTP {
        for (method, rule) in [(Method::GET, reads), (Method::POST, changes)] {
            let told = rig.ask(&method, path, None).await;
            assert_eq!(told == StatusCode::UNAUTHORIZED, rule.entry != Entry::Open, "{method} {path}: {told}");
            if let Entry::Any(permissions) = rule.entry {
                let other = if permissions.contains(&Permission::Read) { &writer } else { &reader };
                assert_eq!(rig.ask(&method, path, Some(other)).await, StatusCode::FORBIDDEN, "{method} {path}");
            }
            if let Entry::Everywhere(_) = rule.entry {
                assert_eq!(rig.ask(&method, path, Some(&reader)).await, StatusCode::FORBIDDEN, "{method} {path}");
                assert_eq!(rig.ask(&method, path, Some(&everything)).await, StatusCode::OK, "{method} {path}");
            }
        }
        assert_ne!(rig.ask(&Method::OPTIONS, path, None).await, StatusCode::UNAUTHORIZED, "{path}");
    }
    for route in Table::of_api().expect("the protos are right").routes() {
        let path = route.path.replace(['{', '}'], "");
        let told = rig.ask(&route.method, &path, None).await;
        assert_eq!(told, StatusCode::UNAUTHORIZED, "{} {path}", route.method);
        let Entry::Any(permissions) = of_rpc(route.grpc_path.path()).expect("a rule").entry else { continue };
        // Before the body is read, which is none.
        let other = if permissions.contains(&Permission::Read) { &writer } else { &reader };
        assert_eq!(rig.ask(&route.method, &path, Some(other)).await, StatusCode::FORBIDDEN, "{} {path}", route.method);
    }
    assert_eq!(rig.ask(&Method::GET, "/nowhere", None).await, StatusCode::NOT_FOUND);
}

/// What is narrowed tells who may see none of it the same, whatever is there; and who may see it, something else.
#[tokio::test]
async fn every_answer_that_is_narrowed_is_the_same_whatever_else_is_there() {
    let rig = Rig::new();
    let (methods, examples) = (methods(), examples());
    let everything = rig.token("everything", all_but(&[], "*")).await;
    let elsewhere = rig.token("elsewhere", all_but(&[], "elsewhere")).await;
    let narrowed: Vec<&str> =
        RPCS.iter().filter(|(_, rule)| rule.reach == Reach::Narrowed).map(|(path, _)| *path).collect();
    let ask = async |path: &str, token: &str| {
        let method = &methods[path];
        let (status, bytes) = rig.first(path, &encoded(method, widened(method)), Some(token)).await;
        let message = DynamicMessage::decode(method.output(), bytes).expect("a message");
        let mut json = serde_json::to_value(message).expect("JSON");
        told(&mut json);
        (status.code(), json)
    };
    let mut empty = Vec::new();
    for path in &narrowed {
        empty.push(ask(path, &elsewhere).await);
    }
    for (path, message) in &examples {
        if !path.contains("Delete") && !path.contains("Deregister") {
            rig.call(path, message, Some(&everything)).await;
        }
    }
    let mut shown = Vec::new();
    for (path, before) in narrowed.iter().zip(&empty) {
        let now = ask(path, &elsewhere).await;
        assert_eq!(&now, before, "{path} tells of what is there");
        if now.0 == Code::Ok && ask(path, &everything).await != now {
            shown.push(path.rsplit('/').next().unwrap_or_default());
        }
    }
    let wanted = "Lookup ListServices Watch Subscribe ListBackends ListFrontends ListTokens ListNamespaces";
    assert_eq!(shown.join(" "), wanted, "there was something to be told of");
}

/// By HTTP, with bodies: each path's handler asks, not the gate alone.
#[tokio::test]
async fn every_path_of_http_asks_for_what_it_names() {
    let rig = Rig::new();
    let table = Table::of_api().expect("the protos are right");
    let everything = rig.token("everything", all_but(&[], "*")).await;
    let elsewhere = rig.token("elsewhere", all_but(&[], "elsewhere")).await;
    let mut asked: Vec<(String, String, Option<String>, bool)> = Vec::new();
    for (path, method) in methods() {
        let rule = of_rpc(&path).expect("a rule");
        let message = DynamicMessage::deserialize(method.input(), example(&method)).expect("an example");
        // Streams stay open; who watches is told of elsewhere.
        let streams = method.is_server_streaming() || method.is_client_streaming();
        let composed = crate::http::compose::compose(&table, method.name(), &message).filter(|_| !streams);
        let Some(composed) = composed.filter(|_| matches!(rule.reach, Reach::Named | Reach::Narrowed)) else {
            continue;
        };
        asked.push((composed.method, composed.target, composed.body, rule.reach == Reach::Named));
    }
    assert!(asked.len() > 35, "{}", asked.len());
    let own = |method: &str, path: &str, body: &str| {
        let body = (method != "GET" && method != "DELETE").then(|| body.to_owned());
        (method.to_owned(), path.to_owned(), body, method != "GET" || path.matches('/').count() > 1)
    };
    asked.extend([
        own("POST", "/registrations/web/1.0.0/10.0.0.1/80", "{}"),
        own("POST", "/registrations", r#"{"app":"web","version":"1.0.0","host":"10.0.0.2","port":80}"#),
        own("POST", "/backends", r#"{"name":"teal","app":"web","version":"1.0.0"}"#),
        own("GET", "/backends/teal", ""),
        own("PUT", "/backends/teal", r#"{"version":"1.0.1"}"#),
        own("POST", "/frontends", r#"{"name":"till","backend":"teal"}"#),
        own("GET", "/frontends/till", ""),
        own("PUT", "/frontends/till", r#"{"backend":"teal"}"#),
        own("POST", "/applications", r#"{"id":"till","service":"nodejs"}"#),
        own("GET", "/applications/till", ""),
        own("PUT", "/applications/till", r#"{"service":["nodejs"]}"#),
        own("POST", "/services", r#"{"id":"zig","default_port":7050}"#),
        own("GET", "/services/zig", ""),
        own("DELETE", "/services/zig", ""),
        own("DELETE", "/applications/till", ""),
        own("DELETE", "/frontends/till", ""),
        own("DELETE", "/backends/teal", ""),
        own("DELETE", "/registrations/web/1.0.0/10.0.0.1/80", ""),
    ]);
    let mut answers = Vec::new();
    for round in ["nothing is there", "much is there"] {
        let mut told = Vec::new();
        for (method, path, body, is_named) in &asked {
            let name = Method::from_bytes(method.as_bytes()).expect("a method");
            let (status, answer) = rig.answer(&name, path, Some(&elsewhere), body.as_deref()).await;
            let fits = status == StatusCode::FORBIDDEN || !is_named && status == StatusCode::OK;
            assert!(fits, "{round}, {method} {path}: {status} {answer}");
            told.push((path, status, told_of(&answer)));
        }
        let mut done = 0;
        for (method, path, body, _) in asked.iter().filter(|(method, ..)| method != "DELETE") {
            let name = Method::from_bytes(method.as_bytes()).expect("a method");
            let (status, answer) = rig.answer(&name, path, Some(&everything), body.as_deref()).await;
            assert!(status != StatusCode::FORBIDDEN, "{round}, {method} {path}: {answer}");
            done += usize::from(status.is_success());
        }
        assert!(done > 25, "{done} of {}", asked.len());
        answers.push(told);
    }
    assert_eq!(answers[0], answers[1], "an answer tells of what is there");
}
