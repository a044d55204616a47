//! The registry is an instance of its own service: where it is found, that nobody else takes it, and what becomes of it
//! when the server ends and comes back.

use onair::{
    proto::{DeregisterRequest, Instance, LookupRequest, RegisterRequest, Selector, WatchRequest, WatchResponse},
    registry::{Cause, EventType},
};
use tonic::{Code, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{Server, within};

const ON: [&str; 2] = ["--register-itself", "on"];

/// All of the service.
async fn found(server: &Server) -> Vec<Instance> {
    let request = LookupRequest { service: "onair".into(), ..LookupRequest::default() };
    server.api().await.lookup(request).await.unwrap().into_inner().instances
}

async fn only(server: &Server) -> Instance {
    let [instance] = <[Instance; 1]>::try_from(found(server).await).unwrap();
    instance
}

async fn watch(server: &Server, resume_token: String) -> Streaming<WatchResponse> {
    let selectors = vec![Selector { service: "onair".into(), ..Selector::default() }];
    let request = WatchRequest { selectors, resume_token, ..WatchRequest::default() };
    server.api().await.watch(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse, tonic::Status> {
    within("a message", stream.message()).await.map(|message| message.expect("no idle OK"))
}

fn told(message: &WatchResponse) -> Vec<(EventType, Cause, String)> {
    let kind = |kind: i32| EventType::try_from(kind).unwrap();
    let of = |event: &onair::proto::Event| {
        (kind(event.r#type), event.cause(), event.instance.as_ref().map_or_else(String::new, |one| one.url.clone()))
    };
    message.events.iter().map(of).collect()
}

#[tokio::test]
async fn it_is_found_at_its_real_address_and_is_nobody_elses() {
    let server = Server::ephemeral(&[&ON[..], &["--zone", "eu-1", "--ops-listen", "127.0.0.1:0"]].concat()).await;
    let (info, instance) = (server.info().await, only(&server).await);
    let at = server.address();
    assert_eq!((&*instance.namespace, &*instance.id), ("default", &*info.registry_id));
    assert_eq!((&*instance.host, instance.port), (&*at.ip().to_string(), u32::from(at.port())));
    assert_eq!((&instance.url, &*instance.zone), (&server.url(), "eu-1"));
    assert!(info.version.starts_with(&instance.version), "{} is of {}", instance.version, info.version);
    assert_eq!(info.members, [at.to_string()]);
    assert!(instance.ports["ops"] > 0);
    let mut health = HealthClient::new(server.channel().await);
    let health = health.check(HealthCheckRequest { service: "onair".into() }).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let mut api = server.api().await;
    let taken = Instance { service: "onair".into(), id: info.registry_id.clone(), port: 1, ..Instance::default() };
    let request = RegisterRequest { instance: Some(taken), ..RegisterRequest::default() };
    assert_eq!(api.register(request).await.unwrap_err().code(), Code::AlreadyExists);
    let by_key = DeregisterRequest { service: "onair".into(), id: info.registry_id, ..DeregisterRequest::default() };
    assert_eq!(api.deregister(by_key).await.unwrap_err().code(), Code::PermissionDenied);
    let all = DeregisterRequest { service: "onair".into(), all: true, ..DeregisterRequest::default() };
    assert_eq!(api.deregister(all).await.unwrap().into_inner().removed, 0);
    assert_eq!(only(&server).await, instance, "it is as it was");
}

#[tokio::test]
async fn it_is_advertised_as_configured() {
    let server = Server::ephemeral(&[&ON[..], &["--advertise", "registry.example:7000"]].concat()).await;
    let instance = only(&server).await;
    assert_eq!((&*instance.host, instance.port), ("registry.example", 7000));
    assert_eq!(server.info().await.members, ["registry.example:7000"]);
}

#[tokio::test]
async fn it_goes_with_the_last_bookmark_and_comes_back_as_itself() {
    let mut server = Server::start(&ON).await;
    let mut stream = watch(&server, String::new()).await;
    let first = next(&mut stream).await.unwrap();
    assert_eq!(told(&first), [(EventType::Online, Cause::Snapshot, server.url())]);

    server.terminate();
    let (mut last, mut token) = (Vec::new(), String::new());
    let end = loop {
        match next(&mut stream).await {
            Ok(message) => {
                last.extend(told(&message));
                token = message.resume_token;
            }
            Err(end) => break end,
        }
    };
    assert_eq!(last, [(EventType::Offline, Cause::Deregistered, server.url())]);
    assert_eq!(end.code(), Code::Unavailable);
    assert!(server.ended().await.success());

    server.again().await;
    let mut stream = watch(&server, token).await;
    let again = next(&mut stream).await.unwrap();
    assert!(again.reset.is_none());
    assert_eq!(told(&again), [(EventType::Online, Cause::Registered, server.url())]);
}

#[tokio::test]
async fn after_kill_9_it_replaces_what_it_was_wherever_it_listens_now() {
    let mut first = Server::start(&ON).await;
    let data = first.data_dir().to_str().unwrap().to_owned();
    let before = only(&first).await;
    let mut stream = watch(&first, String::new()).await;
    let token = next(&mut stream).await.unwrap().resume_token;
    first.kill().await;

    let mut second = Server::start(&[&ON[..], &["--data-dir", &data]].concat()).await;
    assert_ne!(second.address(), first.address());
    let after = only(&second).await;
    assert_eq!((&after.id, &after.url), (&before.id, &second.url()));
    assert!(after.incarnation > before.incarnation);
    let mut stream = watch(&second, token).await;
    let told = told(&next(&mut stream).await.unwrap());
    let expected =
        [(EventType::Offline, Cause::Replaced, before.url), (EventType::Online, Cause::Registered, after.url)];
    assert_eq!(told, expected, "one revision, one key");
    second.kill().await;

    // Whoever turns it off finds nothing left over.
    let third = Server::start(&["--data-dir", &data]).await;
    assert_eq!(found(&third).await, []);
}
