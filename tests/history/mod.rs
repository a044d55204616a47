//! What a test saw of a registry, and one checker for each promise that can be judged from it. Knows the API's messages
//! and nothing of how the server makes them. One history is of one registry: who throws its data away records anew.
//!
//! A checker never accuses wrongly: where the order of two things is not known it takes the one that excuses.
// Every test binary includes all of this and uses a part; and a history is too short-lived to box its messages.
#![allow(dead_code, unused_imports, clippy::large_enum_variant)]

use std::time::Duration;

use onair::{
    proto::{
        DeregisterRequest, DeregisterResponse, HeartbeatRequest, HeartbeatResponse, LookupRequest, LookupResponse,
        RegisterRequest, RegisterResponse, SubscribeRequest, SubscribeResponse, WatchRequest, WatchResponse,
    },
    registry::{Instance, Key},
};
use tonic::Status;

mod breaker;
mod client;
mod crossing;
mod errors;
mod feed;
mod fold;
mod http;
mod json;
mod leases;
mod legal;
mod needs;
mod order;
mod print;
mod reads;
mod recorder;
mod silence;
mod span;
mod sse;
mod summaries;
mod writes;

pub use client::{Beating, Client, Subscribed, Watched};
pub use fold::Fold;
pub use http::{AnyWatched, HttpClient, Said, Way, said};
pub use json::{message as of_json, of_message};
pub use print::report;
pub use recorder::{OperationId, Recorder, StreamId};
pub use sse::{Block, Parser};

/// What a run may do, and how fast it has to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first message of a stream comes within this.
    pub first_message: Duration,
    /// No stream is silent for longer: the bookmark interval and what a busy machine adds.
    pub silence: Duration,
    /// An expiry is seen within this after its TTL. None: not judged, as where the server was stopped or restarted.
    pub late: Option<Duration>,
    /// Whether lapses are held back when too many come at once.
    pub breaker: bool,
    /// Whether a resumed stream may begin anew.
    pub resets: bool,
    /// Whether the server was killed or a connection cut: then a stream may end without a status of the server's.
    pub cuts: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let (first_message, silence) = (Duration::from_secs(2), Duration::from_secs(20));
        Self { first_message, silence, late: None, breaker: true, resets: true, cuts: false }
    }
}

/// Everything that was sent and received. Times are since the recorder was made.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// How to judge it.
    pub settings: Settings,
    /// In the order they were begun.
    pub operations: Vec<Operation>,
    /// In the order they were opened.
    pub streams: Vec<Stream>,
    /// When the recording ended.
    pub end: Duration,
}

/// One call, or one request and response of a heartbeat stream.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What was asked.
    pub request: Request,
    /// When it was sent, or earlier.
    pub start: Duration,
    /// When the answer was there, or later, and what it was. None: it never came, and the outcome is unknown.
    pub outcome: Option<(Duration, Result<Reply, Status>)>,
}

impl Operation {
    /// When it was answered, if it went well.
    pub fn reply(&self) -> Option<(Duration, &Reply)> {
        match &self.outcome {
            Some((end, Ok(reply))) => Some((*end, reply)),
            _ => None,
        }
    }
}

/// What was asked.
#[derive(Clone, Debug)]
pub enum Request {
    Register(RegisterRequest),
    Heartbeat(HeartbeatRequest),
    Deregister(DeregisterRequest),
    Lookup(LookupRequest),
    /// Another call, by its name.
    Other(&'static str),
}

/// What was answered.
#[derive(Clone, Debug)]
pub enum Reply {
    Register(RegisterResponse),
    Heartbeat(HeartbeatResponse),
    Deregister(DeregisterResponse),
    Lookup(LookupResponse),
    Other,
}

macro_rules! from {
    ($($of:ident($inner:ident) for $into:ident),* $(,)?) => {
        $(impl From<$inner> for $into {
            fn from(message: $inner) -> Self {
                Self::$of(message)
            }
        })*
    };
}
from! {
    Register(RegisterRequest) for Request, Heartbeat(HeartbeatRequest) for Request,
    Deregister(DeregisterRequest) for Request, Lookup(LookupRequest) for Request,
    Register(RegisterResponse) for Reply, Heartbeat(HeartbeatResponse) for Reply,
    Deregister(DeregisterResponse) for Reply, Lookup(LookupResponse) for Reply,
    Watch(WatchResponse) for Message, Subscribe(SubscribeResponse) for Message,
}

impl Reply {
    /// The committed revision that it carries.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Register(reply) => Some(reply.revision),
            Self::Heartbeat(reply) => Some(reply.revision),
            Self::Deregister(reply) => Some(reply.revision),
            Self::Lookup(reply) => Some(reply.revision),
            Self::Other => None,
        }
    }
}

/// One Watch or Subscribe stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// What began it.
    pub opening: Opening,
    /// When it was asked for, or earlier.
    pub opened: Duration,
    /// What was sent on it, and when, or earlier.
    pub commands: Vec<(Duration, SubscribeRequest)>,
    /// What was received, and when, or later.
    pub messages: Vec<(Duration, Message)>,
    /// How it ended, if it did.
    pub end: Option<(Duration, End)>,
}

/// How a stream begins.
#[derive(Clone, Debug)]
pub enum Opening {
    Watch(WatchRequest),
    Subscribe,
}

/// A message of the server's on a stream.
#[derive(Clone, Debug)]
pub enum Message {
    Watch(WatchResponse),
    Subscribe(SubscribeResponse),
}

/// How a stream ended.
#[derive(Clone, Debug)]
pub enum End {
    /// The client left.
    ByClient,
    /// The server ended it with OK.
    Ok,
    /// The server, or the transport.
    Error(Status),
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its number in the design.
    pub promise: u8,
    /// How it was broken.
    pub what: String,
    /// Where that shows.
    pub place: Place,
}

/// Where something is in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A call.
    Operation(usize),
    /// A message of a stream.
    Message(usize, usize),
    /// A stream as a whole.
    Stream(usize),
}

fn fault(promise: u8, place: Place, what: impl Into<String>) -> Fault {
    Fault { promise, what: what.into(), place }
}

/// Whether a status was made by the client's side: the server said nothing.
fn is_local(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn key_of(instance: &Instance) -> Key {
    Key::new(instance.namespace.as_str(), instance.service.as_str(), instance.id.as_str())
}

/// A history and what several checkers need of it.
pub struct View<'h> {
    history: &'h History,
    feeds: Vec<feed::Feed<'h>>,
    strays: Vec<Fault>,
    spans: Vec<span::Span<'h>>,
    leases: leases::Leases<'h>,
}

impl<'h> View<'h> {
    /// Sorts a history out.
    pub fn of(history: &'h History) -> Self {
        let (feeds, strays) = feed::feeds(history);
        let spans = span::spans(&feeds);
        let leases = leases::Leases::of(history, &feeds);
        Self { history, feeds, strays, spans, leases }
    }
}

/// A checker.
pub type Check = fn(&View<'_>) -> Vec<Fault>;

/// Every checker, by the promise it is for.
pub const CHECKERS: [(u8, &str, Check); 16] = [
    (1, "never early", leases::never_early),
    (2, "never late", leases::never_late),
    (4, "fencing", leases::fencing),
    (5, "healing", leases::healing),
    (6, "breaker", breaker::held_back),
    (7, "snapshot joins live", crossing::snapshot_joins_live),
    (8, "ordered, atomic", order::ordered_atomic),
    (9, "exact resume", crossing::exact_resume),
    (10, "filters cross", legal::filters_cross),
    (11, "bookmarks", silence::bookmarks),
    (13, "every stream ends well", silence::ends_well),
    (14, "durable, then visible, then answered", writes::visible_then_answered),
    (15, "read your writes", writes::read_your_writes),
    (16, "typed emptiness", reads::typed_emptiness),
    (18, "every error", errors::every_error),
    (20, "needs are met at once", needs::needs_met_at_once),
];

/// Every promise that `history` shows broken.
pub fn check_all(history: &History) -> Vec<Fault> {
    let view = View::of(history);
    CHECKERS.iter().flat_map(|(.., check)| check(&view)).collect()
}

/// Panics with the faults and what happened around them, if there are any.
pub fn assert_clean(history: &History) {
    let faults = check_all(history);
    assert!(faults.is_empty(), "{}", report(history, &faults));
}
