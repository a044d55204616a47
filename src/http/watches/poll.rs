//! Watches over HTTP as long polls: what a stream would have brought by now, as one JSON object with the token to go on
//! with; if there is nothing yet, it is waited for. The object is written as it comes, at its reader's pace, so it may
//! be of any size. Its fields are those of `WatchPoll`, which a test reads it as.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll as Polled, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::Frame;
use prost::Message as _;
use serde_json::Value as Json;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream as _;
use tonic::Status;

use super::{
    JSON, streamed,
    told::{Teller, Told},
};
use crate::{
    grpc::{
        self,
        status::{self, Reason},
    },
    http::{call::Replies, turn::Turn},
    proto::WatchRequest,
};

/// An answer to who continues ends after so many bytes, with what belongs to the last revision; else a registry that
/// never rests would keep it going.
const POLL_BYTES: usize = 1024 * 1024;

/// How long the request's sender would wait for something.
///
/// # Errors
/// INTERNAL, when the bytes are no `WatchRequest`. What cannot be waited for, the call refuses.
pub(super) fn wait(message: &[u8]) -> Result<Duration, Status> {
    let request = WatchRequest::decode(message)
        .map_err(|error| status::plain(Reason::Internal, format!("a request that cannot be read: {error}")))?;
    Ok(grpc::wait(request.wait, &mut Vec::new()))
}

/// The answer to a watch that was opened: what comes until nothing more is there, or, if that is nothing, the first
/// thing that comes within `wait`.
#[must_use]
pub(super) fn answer(replies: Replies, teller: Arc<Teller>, wait: Duration) -> Response<Body> {
    let wait = (!wait.is_zero()).then(|| Box::pin(sleep(wait)));
    let replies = Some(replies);
    let poll = Poll { replies, teller, turn: Turn::default(), wait, begun: false, given: 0, place: None, whole: false };
    streamed(JSON, Body::new(poll))
}

/// The body.
struct Poll {
    /// None at the end.
    replies: Option<Replies>,
    teller: Arc<Teller>,
    turn: Turn,
    /// How long nothing is waited for.
    wait: Option<Pin<Box<Sleep>>>,
    begun: bool,
    /// Bytes of messages so far.
    given: usize,
    /// The last message after which the reader can continue.
    place: Option<Arc<Told>>,
    /// Whether nothing came after that one.
    whole: bool,
}

impl Poll {
    /// What to send of a message.
    fn take(&mut self, told: &Arc<Told>) -> Bytes {
        self.whole = !told.token.is_empty();
        if self.whole {
            self.place = Some(Arc::clone(told));
        }
        if told.bookmark {
            // White space means nothing, and shows everyone on the way that the answer is still coming.
            return Bytes::from_static(b"\n");
        }
        let comma: &[u8] = if self.given > 0 { b"," } else { b"" };
        self.given += told.json.len();
        let ends = told.snapshot_end || self.whole && self.given > POLL_BYTES;
        let closing = if ends { self.close() } else { String::new() };
        [comma, &told.json, closing.as_bytes()].concat().into()
    }

    /// Completes when nothing more is ready and what was given can be answered with.
    fn poll_done(&mut self, context: &mut Context<'_>) -> Polled<()> {
        match &mut self.wait {
            _ if !self.whole => Polled::Pending,
            Some(wait) if self.given == 0 => wait.as_mut().poll(context),
            _ => Polled::Ready(()),
        }
    }

    /// Ends the watch, and says what comes after the last message.
    fn close(&mut self) -> String {
        if let Some(replies) = self.replies.take().filter(|_| self.whole) {
            replies.enough();
        }
        self.place.take().map_or_else(String::new, |place| {
            let (token, revision) = (Json::from(place.token.as_str()), place.revision);
            format!("],\"resumeToken\":{token},\"revision\":\"{revision}\"}}\n")
        })
    }

    /// The last data. What is not whole is not closed either, so that nobody takes it for an answer.
    fn end(&mut self) -> Result<Frame<Bytes>, io::Error> {
        let closing = self.close();
        if self.whole { Ok(Frame::data(closing.into())) } else { Err(io::ErrorKind::Interrupted.into()) }
    }
}

impl http_body::Body for Poll {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Polled<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if !std::mem::replace(&mut this.begun, true) {
            return Polled::Ready(Some(Ok(Frame::data(Bytes::from_static(b"{\"responses\":[")))));
        }
        let Some(replies) = &mut this.replies else { return Polled::Ready(None) };
        ready!(this.turn.poll(context));
        let reply = match Pin::new(replies).poll_next(context) {
            Polled::Ready(reply) => reply,
            Polled::Pending => {
                ready!(this.poll_done(context));
                None
            }
        };
        // What ends the watch before it is whole ends the answer, too.
        let told = reply.and_then(Result::ok).and_then(|message| this.teller.tell(&message, &mut this.turn).ok());
        Polled::Ready(Some(match told {
            Some(told) => Ok(Frame::data(this.take(&told))),
            None => this.end(),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.begun && self.replies.is_none()
    }
}
