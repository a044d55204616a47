//! A registry for tests that does what the test says, behind a real socket. Knows the wire and no rule.

use std::{convert::Infallible, time::Duration};

use prost::Message;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming, body::Body, server::Grpc, transport::Server};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{
    print::Printer,
    session::{Line, Session},
};
use crate::client::{Connection, Means};
use crate::proto::{
    DeregisterRequest, DeregisterResponse, HeartbeatRequest, HeartbeatResponse, LookupRequest, LookupResponse,
    RegisterRequest, RegisterResponse, WatchRequest, WatchResponse,
};

/// What the test answers a call with.
pub type Answer<T> = oneshot::Sender<Result<T, Status>>;
/// The messages of a stream.
pub type Messages = mpsc::UnboundedReceiver<Result<WatchResponse, Status>>;

/// A call that waits for the test's answer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and only in tests")]
pub enum Call {
    Register(RegisterRequest, Answer<RegisterResponse>),
    Heartbeat(HeartbeatRequest, Answer<HeartbeatResponse>),
    Deregister(DeregisterRequest, Answer<DeregisterResponse>),
    Lookup(LookupRequest, Answer<LookupResponse>),
    Watch(WatchRequest, Answer<Messages>),
}

/// Answers the next call, which has to be of this kind: `answer!(fake, Register, |request| Ok(…))`.
macro_rules! answer {
    ($fake:expr, $kind:ident, $answer:expr) => {{
        match $fake.next().await {
            Call::$kind(request, answer) => answer.send(($answer)(request)).unwrap(),
            other => panic!("{other:?} instead of {}", stringify!($kind)),
        }
    }};
}
pub(super) use answer;

/// The test's end of the registry.
pub struct Fake {
    /// `127.0.0.1:port`.
    pub address: String,
    calls: mpsc::UnboundedReceiver<Call>,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, calls) = mpsc::unbounded_channel();
        let service = service_fn(move |request| {
            let calls = sender.clone();
            async move { Ok::<_, Infallible>(serve(request, calls).await) }
        });
        tokio::spawn(Server::builder().serve_with_incoming(service, TcpListenerStream::new(listener)));
        Self { address, calls }
    }

    pub async fn next(&mut self) -> Call {
        tokio::time::timeout(Duration::from_secs(20), self.calls.recv()).await.expect("a call").unwrap()
    }

    /// What a command would have opened with `--url`.
    pub fn session(&self, print: Printer) -> Session {
        Session { line: line(&self.address), namespace: String::new(), ttl: None, print, token_file: None }
    }
}

/// A line to the hosts of a connection string.
pub fn line(hosts: &str) -> Line {
    Connection::parse(hosts).unwrap().line(Means::default()).unwrap()
}

type Calls = mpsc::UnboundedSender<Call>;

async fn serve(request: http::Request<Body>, calls: Calls) -> http::Response<Body> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    match method.as_str() {
        "Register" => unary(request, calls, Call::Register).await,
        "Heartbeat" => unary(request, calls, Call::Heartbeat).await,
        "HeartbeatStream" => {
            let answers = service_fn(move |request: Request<Streaming<HeartbeatRequest>>| {
                std::future::ready(Ok::<_, Status>(Response::new(beats(request.into_inner(), calls.clone()))))
            });
            Grpc::new(ProstCodec::default()).streaming(answers, request).await
        }
        "Deregister" => unary(request, calls, Call::Deregister).await,
        "Lookup" => unary(request, calls, Call::Lookup).await,
        "Watch" => {
            let answer = service_fn(move |request: Request<WatchRequest>| {
                let answer = ask(request.into_inner(), calls.clone(), Call::Watch);
                async move { answer.await.map(|messages| Response::new(UnboundedReceiverStream::new(messages))) }
            });
            Grpc::new(ProstCodec::default()).server_streaming(answer, request).await
        }
        other => Status::unimplemented(other).into_http(),
    }
}

/// Each message is a call; a refusal ends the stream.
fn beats(
    mut requests: Streaming<HeartbeatRequest>,
    calls: Calls,
) -> UnboundedReceiverStream<Result<HeartbeatResponse, Status>> {
    let (to, answers) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(request)) = requests.message().await {
            let answer = ask(request, calls.clone(), Call::Heartbeat).await;
            let refused = answer.is_err();
            if to.send(answer).is_err() || refused {
                return;
            }
        }
    });
    UnboundedReceiverStream::new(answers)
}

async fn unary<Q, R>(request: http::Request<Body>, calls: Calls, call: fn(Q, Answer<R>) -> Call) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
{
    let answer = service_fn(move |request: Request<Q>| {
        let answer = ask(request.into_inner(), calls.clone(), call);
        async move { answer.await.map(Response::new) }
    });
    Grpc::new(ProstCodec::default()).unary(answer, request).await
}

async fn ask<Q, R>(request: Q, calls: Calls, call: fn(Q, Answer<R>) -> Call) -> Result<R, Status> {
    let (sender, answer) = oneshot::channel();
    calls.send(call(request, sender)).map_err(|_| Status::unavailable("the test is over"))?;
    answer.await.unwrap_or_else(|_| Err(Status::unavailable("the test does not answer")))
}
