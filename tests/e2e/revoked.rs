//! Every way of being told things as they happen ends when its caller's token is revoked: streams of gRPC and gRPC-Web,
//! event streams, and polls that are held.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use onair::proto::{
    AddSubscription, HeartbeatRequest, RevokeTokenRequest, SubscribeRequest, WaitReadyRequest,
    catalog_client::CatalogClient, subscribe_request::Command as Asked,
};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    access::{Bearer, Guarded, instance, watch},
    harness::{Http, beat, within},
};
use onair::proto::Permission;

/// Something that goes on, and how it ended.
type Ending = Pin<Box<dyn Future<Output = String> + Send>>;

/// How a stream of gRPC ends.
async fn end<T>(mut stream: Streaming<T>) -> String {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return "without a word".to_owned(),
            Err(status) => return ended(&status),
        }
    }
}

fn ended(status: &Status) -> String {
    if status.code() == Code::Unauthenticated { "UNAUTHENTICATED".to_owned() } else { format!("{status:?}") }
}

/// What HTTP says until its connection ends.
async fn rest(mut http: Http) -> String {
    http.all().await
}

/// A poll has begun to answer by the time that it is held, so that it ends with nothing, and the next one is told why.
async fn poll(mut http: Http, address: SocketAddr, again: String) -> String {
    let told = http.all().await;
    assert!(!told.contains("events"), "{told}");
    let mut next = Http::connect(address).await;
    next.send(again).await;
    next.all().await
}

#[tokio::test]
async fn every_way_of_streaming_ends_within_a_second() {
    let guarded = Guarded::start(&[]).await;
    let rights = [Permission::Read, Permission::Register, Permission::Catalog];
    let (revoked, kept) =
        (guarded.token("revoked", "team-a", "*", &rights).await, guarded.token("kept", "team-a", "*", &rights).await);
    // Before anybody polls: nothing happens then.
    let (of_kept, of_revoked) = (lease(&guarded, &kept).await, lease(&guarded, &revoked).await);
    let mut going = ways(&guarded, &kept, of_kept).await;
    let ending = ways(&guarded, &revoked, of_revoked).await;
    guarded.admin().await.revoke_token(RevokeTokenRequest { name: "revoked".into() }).await.unwrap();
    let tasks: Vec<_> = ending.into_iter().map(|(way, ending)| (way, tokio::spawn(ending))).collect();
    let all = async {
        for (way, task) in tasks {
            let told = task.await.unwrap();
            assert!(told.contains("UNAUTHENTICATED"), "{way}: {told}");
        }
    };
    tokio::time::timeout(Duration::from_secs(1), all).await.expect("within a second");
    for (way, going) in &mut going {
        let over = futures_util::FutureExt::now_or_never(going);
        assert!(over.is_none(), "{way} ended with somebody else's token: {over:?}");
    }
}

/// That of an instance.
async fn lease(guarded: &Guarded, token: &str) -> String {
    let request = instance("team-a", "web", &format!("w{}", token.len()));
    guarded.registry(token).await.register(request).await.unwrap().into_inner().lease.unwrap().token
}

type Ways = Vec<(&'static str, Ending)>;

/// All of them, each begun.
async fn ways(guarded: &Guarded, token: &str, lease: String) -> Ways {
    let mut ways = by_grpc(guarded, token, lease).await;
    ways.extend(by_http(guarded, token).await);
    ways
}

async fn by_grpc(guarded: &Guarded, token: &str, lease: String) -> Ways {
    let mut ways: Ways = Vec::new();
    let mut registry = guarded.registry(token).await;
    let mut stream = registry.watch(watch("team-a")).await.unwrap().into_inner();
    within("a snapshot", stream.message()).await.unwrap();
    ways.push(("Watch", Box::pin(end(stream))));

    let add = AddSubscription { id: "a".into(), selectors: watch("team-a").selectors, ..AddSubscription::default() };
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    ask.send(SubscribeRequest { command: Some(Asked::Add(add)) }).await.unwrap();
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut stream = registry.subscribe(asked).await.unwrap().into_inner();
    within("a snapshot", stream.message()).await.unwrap();
    ways.push((
        "Subscribe",
        Box::pin(async move {
            let told = end(stream).await;
            drop(ask);
            told
        }),
    ));

    let (beats, beating) = tokio::sync::mpsc::channel::<HeartbeatRequest>(1);
    beats.send(beat([lease])).await.unwrap();
    let beating = tokio_stream::wrappers::ReceiverStream::new(beating);
    let mut stream = registry.heartbeat_stream(beating).await.unwrap().into_inner();
    within("an answer", stream.message()).await.unwrap();
    ways.push((
        "HeartbeatStream",
        Box::pin(async move {
            let told = end(stream).await;
            drop(beats);
            told
        }),
    ));

    let mut health = HealthClient::with_interceptor(guarded.channel().await, Bearer(token.to_owned()));
    let request = HealthCheckRequest { service: "team-a/web".into() };
    let mut stream = health.watch(request).await.unwrap().into_inner();
    within("a status", stream.message()).await.unwrap();
    ways.push(("Health/Watch", Box::pin(end(stream))));

    let mut catalog = CatalogClient::with_interceptor(guarded.channel().await, Bearer(token.to_owned()));
    let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let request = WaitReadyRequest { namespace: "team-a".into(), services: vec!["never".into()], wait };
    let mut stream = catalog.wait_ready(request).await.unwrap().into_inner();
    within("what is missing", stream.message()).await.unwrap();
    ways.push(("WaitReady", Box::pin(end(stream))));
    ways
}

async fn by_http(guarded: &Guarded, token: &str) -> Ways {
    let mut ways: Ways = Vec::new();
    let head = format!("Host: localhost\r\nAuthorization: Bearer {token}\r\n");
    let events = async |path: &str, sign: &str| {
        let mut http = Http::connect(guarded.server.address()).await;
        http.send(format!("GET {path} HTTP/1.0\r\n{head}Accept: text/event-stream\r\n\r\n")).await;
        within("an event", http.through(sign)).await.unwrap();
        http
    };
    let stream = events("/v1/namespaces/team-a/watch", "snapshotEnd").await;
    ways.push(("an event stream", Box::pin(rest(stream))));

    let path = "/v1/namespaces/team-a/watch";
    let mut http = Http::connect(guarded.server.address()).await;
    let first = http.ask(format!("GET {path}?wait=1s HTTP/1.1\r\n{head}\r\n")).await.json();
    let after = first["resumeToken"].as_str().unwrap().to_owned();
    // Its head is read, so that it is under way.
    http.send(format!("GET {path}?wait=60s&resume_token={after} HTTP/1.0\r\n{head}\r\n")).await;
    let again = format!("GET {path} HTTP/1.0\r\n{head}\r\n");
    ways.push(("a poll that is held", Box::pin(poll(http, guarded.server.address(), again))));

    let message = prost::Message::encode_to_vec(&watch("team-a"));
    let body = [&[0, 0, 0, 0, message.len() as u8][..], &message].concat();
    let mut http = Http::connect(guarded.server.address()).await;
    let request = format!(
        "POST /onair.v1.Registry/Watch HTTP/1.1\r\n{head}Connection: close\r\nContent-Type: \
         application/grpc-web+proto\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    http.send([request.as_bytes(), &body].concat()).await;
    within("its head", http.through("\r\n\r\n")).await.unwrap();
    ways.push(("gRPC-Web", Box::pin(rest(http))));
    ways
}
