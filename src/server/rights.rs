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
        let front = services.front().expect("a front");
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
            return status;
        }
        // A stream may be refused in place of its first message.
        let first = response.body_mut().frame().await.and_then(Result::ok);
        let trailers = first.as_ref().and_then(|frame| frame.trailers_ref());
        trailers.and_then(Status::from_header_map).unwrap_or_else(|| Status::new(Code::Ok, ""))
    }

    /// The status of a request of HTTP.
    async fn ask(&self, method: &Method, path: &str, token: Option<&str>) -> StatusCode {
        let mut request =
            Request::builder().method(method).uri(path).body(Full::<Bytes>::default()).expect("a request");
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().expect("a header"));
        }
        self.front.call(request).await.expect("an answer").status()
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
    let mut pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("descriptors");
    pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET).expect("descriptors");
    let example = |method: &MethodDescriptor| match method.full_name() {
        // By what it names, not by a token.
        "onair.v1.Registry.Deregister" | "onair.v1.Registry.Drain" => json!({"service": "web", "id": "web-1"}),
        "grpc.health.v1.Health.Check" | "grpc.health.v1.Health.Watch" => json!({"service": "web"}),
        "onair.v1.Deployments.GetFrontendHistory" => json!({"frontend": "shop"}),
        "onair.v1.Registry.Publish" => json!({"service": "web", "kind": "moved"}),
        _ => crate::http::example_of_request(&method.input()).unwrap_or_else(|| json!({})),
    };
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .map(|method| {
            let json: Json = example(&method);
            let message = DynamicMessage::deserialize(method.input(), json).expect("an example");
            (format!("/{}/{}", method.parent_service().full_name(), method.name()), message.encode_to_vec())
        })
        .collect()
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
