//! `grpc.health.v1` and reflection, as other people's programs ask for them.

use onair::{
    proto::{Beat, DeregisterRequest, HeartbeatRequest},
    registry::Status as InstanceStatus,
};
use tokio_stream::StreamExt as _;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{self, NotServing, ServiceUnknown, Serving},
    health_client::HealthClient,
};

use crate::{
    harness::{Server, register, register_with, within},
    history::{Recorder, Settings},
    input::refusal,
};

async fn check(health: &HealthClient<Channel>, service: &str) -> Result<ServingStatus, Code> {
    let answer = health.clone().check(HealthCheckRequest { service: service.to_owned() }).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| {
        assert_eq!(refusal(&status).1, "NOT_FOUND");
        status.code()
    })
}

async fn watch(health: &HealthClient<Channel>, service: &str) -> Streaming<HealthCheckResponse> {
    health.clone().watch(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    within("a status", stream.message()).await.unwrap().expect("no end").status()
}

#[tokio::test]
async fn health_of_the_server_and_of_every_service_by_name() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let health = HealthClient::new(server.channel().await);
    for own in ["", "onair.v1.Registry", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert_eq!(check(&health, own).await, Ok(Serving), "{own:?}");
    }
    for unknown in ["web", "default/web", "other/web", "frontend/web", "a/b/c", "onair.v1.Nothing", "\u{0}"] {
        assert_eq!(check(&health, unknown).await, Err(Code::NotFound), "{unknown:?}");
    }
    let (mut web, mut other) = (watch(&health, "web").await, watch(&health, "other/web").await);
    assert_eq!((next(&mut web).await, next(&mut other).await), (ServiceUnknown, ServiceUnknown));

    let token = client.register(register("web", "a", 60.0)).await.unwrap().lease.unwrap().token;
    assert_eq!(next(&mut web).await, Serving);
    let status = |status: InstanceStatus| HeartbeatRequest {
        beats: vec![Beat { lease_token: token.clone(), status: status.into() }],
        ..Default::default()
    };
    for (said, means) in [
        (InstanceStatus::Draining, NotServing),
        (InstanceStatus::Serving, Serving),
        (InstanceStatus::Starting, NotServing),
        (InstanceStatus::Serving, Serving),
    ] {
        client.heartbeat(status(said)).await.unwrap();
        assert_eq!((next(&mut web).await, check(&health, "web").await), (means, Ok(means)));
    }
    // A second instance changes nothing: there is nothing to say.
    let second = client.register(register("web", "b", 60.0)).await.unwrap().lease.unwrap().token;
    let elsewhere = register_with("web", "a", 60.0, |instance| instance.namespace = "other".into());
    client.register(elsewhere).await.unwrap();
    assert_eq!((next(&mut other).await, check(&health, "other/web").await), (Serving, Ok(Serving)));
    client.deregister(DeregisterRequest { lease_tokens: vec![token, second], ..Default::default() }).await.unwrap();
    // Known, though nobody is there.
    assert_eq!((next(&mut web).await, check(&health, "default/web").await), (NotServing, Ok(NotServing)));
    recorder.assert_clean();
}

#[tokio::test]
async fn reflection_speaks_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let server = Server::ephemeral(&[]).await;
    let channel = server.channel().await;
    let expected = ["grpc.health.v1.Health", "onair.v1.Registry"];
    macro_rules! listed {
        ($version:ident) => {{
            use $version::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
            let ask = |message_request| $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message_request),
            };
            let requests = vec![
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("onair.v1.Registry".to_owned())),
            ];
            let mut client = $version::server_reflection_client::ServerReflectionClient::new(channel.clone());
            let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();
            let answers: Vec<_> = answers.map(|answer| answer.unwrap().message_response.unwrap()).collect().await;
            let [MessageResponse::ListServicesResponse(list), MessageResponse::FileDescriptorResponse(files)] =
                &answers[..]
            else {
                panic!("{answers:?}");
            };
            assert!(!files.file_descriptor_proto.is_empty());
            list.service.iter().map(|service| service.name.clone()).collect::<Vec<_>>()
        }};
    }
    for names in [listed!(v1), listed!(v1alpha)] {
        assert!(expected.iter().all(|name| names.iter().any(|one| one == name)), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("bench")), "hidden unless asked for: {names:?}");
    }
}
