//! A client of the registry that records all it does. Adds nothing else: no retries, no redialling.

use std::{collections::VecDeque, time::Duration};

use onair::proto::{
    DeregisterRequest, DeregisterResponse, HeartbeatRequest, HeartbeatResponse, LookupRequest, LookupResponse,
    RegisterRequest, RegisterResponse, SubscribeRequest, SubscribeResponse, WatchRequest, WatchResponse,
    registry_client::RegistryClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{End, Message, Opening, OperationId, Recorder, StreamId};

/// Commands of a Subscribe stream that may wait to be sent.
const COMMANDS_MAX: usize = 1_024;

/// A recorded client.
#[derive(Clone)]
pub struct Client {
    api: RegistryClient<Channel>,
    recorder: Recorder,
}

impl Client {
    /// Of a server behind `channel`.
    pub fn new(channel: Channel, recorder: Recorder) -> Self {
        Self { api: RegistryClient::new(channel), recorder }
    }

    /// Where it is written down.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub async fn register(&self, request: RegisterRequest) -> Result<RegisterResponse, Status> {
        let mut api = self.api.clone();
        self.recorder.call(request, async |request| api.register(request).await).await
    }

    pub async fn heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatResponse, Status> {
        let mut api = self.api.clone();
        self.recorder.call(request, async |request| api.heartbeat(request).await).await
    }

    pub async fn deregister(&self, request: DeregisterRequest) -> Result<DeregisterResponse, Status> {
        let mut api = self.api.clone();
        self.recorder.call(request, async |request| api.deregister(request).await).await
    }

    pub async fn lookup(&self, request: LookupRequest) -> Result<LookupResponse, Status> {
        let mut api = self.api.clone();
        self.recorder.call(request, async |request| api.lookup(request).await).await
    }

    /// Opens a stream of heartbeats.
    pub async fn heartbeat_stream(&self) -> Result<Beating, Status> {
        let (requests, outgoing) = mpsc::channel(COMMANDS_MAX);
        let responses = self.api.clone().heartbeat_stream(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Beating { requests, responses, recorder: self.recorder.clone(), unanswered: VecDeque::new() })
    }

    /// Opens a watch; a refusal is recorded as the stream's end.
    pub async fn watch(&self, request: WatchRequest) -> Result<Watched, Status> {
        let id = self.recorder.open(Opening::Watch(request.clone()));
        let opened = self.api.clone().watch(request).await;
        self.received(id, opened.map(tonic::Response::into_inner))
    }

    /// Opens a Subscribe stream, with its first commands on the way.
    pub async fn subscribe(&self, first: Vec<SubscribeRequest>) -> Result<Subscribed, Status> {
        let id = self.recorder.open(Opening::Subscribe);
        let (commands, outgoing) = mpsc::channel(COMMANDS_MAX);
        let recorder = self.recorder.clone();
        let send = Send { commands, recorder, id };
        for command in first {
            send.command(command).await;
        }
        let opened = self.api.clone().subscribe(ReceiverStream::new(outgoing)).await;
        let received = self.received(id, opened.map(tonic::Response::into_inner))?;
        Ok(Subscribed { send, received })
    }

    fn received<M>(&self, id: StreamId, opened: Result<Streaming<M>, Status>) -> Result<Received<M>, Status> {
        match opened {
            Ok(stream) => Ok(Received { stream, recorder: self.recorder.clone(), id }),
            Err(status) => {
                self.recorder.ended(id, End::Error(status.clone()));
                Err(status)
            }
        }
    }
}

/// A stream of heartbeats; each request is recorded as an operation of its own.
pub struct Beating {
    requests: mpsc::Sender<HeartbeatRequest>,
    responses: Streaming<HeartbeatResponse>,
    recorder: Recorder,
    unanswered: VecDeque<OperationId>,
}

impl Beating {
    /// Sends a request.
    pub async fn beat(&mut self, request: HeartbeatRequest) {
        self.unanswered.push_back(self.recorder.begin(request.clone()));
        // Nobody takes it any more: the next response says why.
        let _ = self.requests.send(request).await;
    }

    /// The next response, which answers the oldest request without one; None after an end with OK.
    pub async fn next(&mut self) -> Option<Result<HeartbeatResponse, Status>> {
        let response = self.responses.message().await.transpose()?;
        if let Some(id) = self.unanswered.pop_front() {
            self.recorder.end(id, response.clone());
        }
        Some(response)
    }
}

/// A watch that is recorded as it is read. Dropping it is the client's leaving.
pub type Watched = Received<WatchResponse>;

/// The receiving side of a stream.
pub struct Received<M> {
    stream: Streaming<M>,
    recorder: Recorder,
    id: StreamId,
}

impl<M: Into<Message> + Clone> Received<M> {
    /// The next message; None after an end with OK.
    pub async fn next(&mut self) -> Option<Result<M, Status>> {
        match self.stream.message().await {
            Ok(Some(message)) => {
                self.recorder.message(self.id, message.clone());
                Some(Ok(message))
            }
            Ok(None) => {
                self.recorder.ended(self.id, End::Ok);
                None
            }
            Err(status) => {
                self.recorder.ended(self.id, End::Error(status.clone()));
                Some(Err(status))
            }
        }
    }

    /// The next message, or None if there is none within `wait`.
    pub async fn next_within(&mut self, wait: Duration) -> Option<Result<M, Status>> {
        tokio::time::timeout(wait, self.next()).await.ok().flatten()
    }
}

impl<M> Drop for Received<M> {
    fn drop(&mut self) {
        self.recorder.ended(self.id, End::ByClient);
    }
}

/// The sending side of a Subscribe stream.
struct Send {
    commands: mpsc::Sender<SubscribeRequest>,
    recorder: Recorder,
    id: StreamId,
}

impl Send {
    async fn command(&self, command: SubscribeRequest) {
        self.recorder.command(self.id, command.clone());
        // Nobody takes it any more: the stream's end says why.
        let _ = self.commands.send(command).await;
    }
}

/// A Subscribe stream that is recorded as it is read.
pub struct Subscribed {
    send: Send,
    received: Received<SubscribeResponse>,
}

impl Subscribed {
    /// Sends a command.
    pub async fn command(&self, command: SubscribeRequest) {
        self.send.command(command).await;
    }

    /// The next message; None after an end with OK.
    pub async fn next(&mut self) -> Option<Result<SubscribeResponse, Status>> {
        self.received.next().await
    }

    /// The next message, or None if there is none within `wait`.
    pub async fn next_within(&mut self, wait: Duration) -> Option<Result<SubscribeResponse, Status>> {
        self.received.next_within(wait).await
    }
}
