//! Writes down what a test sends and receives, with times. Many tasks share one recorder; it never waits for anyone.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use onair::proto::SubscribeRequest;
use tokio::time::Instant;
use tonic::{Response, Status};

use super::{End, History, Message, Opening, Operation, Reply, Request, Settings, Stream};

/// Names an operation in its recorder.
#[derive(Clone, Copy, Debug)]
pub struct OperationId(usize);

/// Names a stream in its recorder.
#[derive(Clone, Copy, Debug)]
pub struct StreamId(usize);

/// A cheap handle on a history in the making.
#[derive(Clone)]
pub struct Recorder {
    origin: Instant,
    history: Arc<Mutex<History>>,
}

impl Recorder {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        let history = History { settings, ..History::default() };
        Self { origin: Instant::now(), history: Arc::new(Mutex::new(history)) }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the recorder was made. Tokio's clock, so that it can be paused.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Call it before the request is sent.
    pub fn begin(&self, request: impl Into<Request>) -> OperationId {
        let mut history = self.lock();
        let operation = Operation { request: request.into(), start: self.now(), outcome: None };
        history.operations.push(operation);
        OperationId(history.operations.len() - 1)
    }

    /// Call it after the answer was received.
    pub fn end(&self, id: OperationId, outcome: Result<impl Into<Reply>, Status>) {
        let outcome = Some((self.now(), outcome.map(Into::into)));
        self.lock().operations[id.0].outcome = outcome;
    }

    /// Makes a call and records it. A call that is dropped stays without outcome.
    pub async fn call<Q, R, F>(&self, request: Q, call: impl FnOnce(Q) -> F) -> Result<R, Status>
    where
        Q: Into<Request> + Clone,
        R: Into<Reply> + Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let id = self.begin(request.clone());
        let outcome = call(request).await.map(Response::into_inner);
        self.end(id, outcome.clone());
        outcome
    }

    /// Call it before the stream is asked for.
    pub fn open(&self, opening: Opening) -> StreamId {
        let mut history = self.lock();
        let opened = self.now();
        history.streams.push(Stream { opening, opened, commands: Vec::new(), messages: Vec::new(), end: None });
        StreamId(history.streams.len() - 1)
    }

    /// Call it before a Subscribe stream's command is sent.
    pub fn command(&self, id: StreamId, command: SubscribeRequest) {
        let mut history = self.lock();
        let at = self.now();
        history.streams[id.0].commands.push((at, command));
    }

    /// Call it after a message was received.
    pub fn message(&self, id: StreamId, message: impl Into<Message>) {
        let mut history = self.lock();
        let at = self.now();
        history.streams[id.0].messages.push((at, message.into()));
    }

    /// Call it when a stream has ended; only the first end counts.
    pub fn ended(&self, id: StreamId, end: End) {
        let mut history = self.lock();
        let at = self.now();
        history.streams[id.0].end.get_or_insert((at, end));
    }

    /// What was recorded so far.
    pub fn history(&self) -> History {
        let mut history = self.lock().clone();
        history.end = self.now();
        history
    }

    /// Panics if anything that was recorded so far breaks a promise.
    pub fn assert_clean(&self) {
        super::assert_clean(&self.history());
    }
}
