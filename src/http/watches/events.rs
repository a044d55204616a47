//! Watches over HTTP as server-sent events, for `EventSource` and whoever else reads them. A stream goes on where its
//! reader was: the id of an event is the resume token after it. Who would rather have JSON is answered by `poll`.
//!
//! An `EventSource` that is refused once stays away for good. So a server that goes away refuses nobody: it says when to
//! come back and ends the stream.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::Frame;
use tokio_stream::Stream as _;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{EVENTS, streamed, told::Teller};
use crate::{
    grpc::status,
    http::{call::Replies, problem, turn::Turn},
};

/// The answer to a watch that was opened.
#[must_use]
pub(super) fn answer(replies: Replies, teller: Arc<Teller>) -> Response<Body> {
    let opening = Some(retry(status::retry_delay()).into());
    streamed(EVENTS, Body::new(Events { opening, replies: Some(replies), teller, turn: Turn::default() }))
}

/// The answer to a watch that could not be opened now.
#[must_use]
pub(super) fn come_back(status: &Status) -> Response<Body> {
    streamed(EVENTS, Body::from([retry(status::retry_delay()), end(status)].concat()))
}

/// When to come back.
fn retry(delay: Duration) -> Vec<u8> {
    format!("retry: {}\n\n", delay.as_millis()).into_bytes()
}

/// Why there is no more: for people, and for programs that read comments.
fn end(status: &Status) -> Vec<u8> {
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    [b": ", problem::json(status).as_slice(), b"\n", &delay.map_or_else(|| b"\n".to_vec(), retry)].concat()
}

/// The stream.
struct Events {
    /// What comes before all else.
    opening: Option<Bytes>,
    /// None at the end.
    replies: Option<Replies>,
    teller: Arc<Teller>,
    turn: Turn,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(opening) = self.opening.take() {
            return Poll::Ready(Some(Ok(Frame::data(opening))));
        }
        let this = &mut *self;
        let Some(replies) = &mut this.replies else { return Poll::Ready(None) };
        ready!(this.turn.poll(context));
        let Some(message) = ready!(Pin::new(replies).poll_next(context)) else { return Poll::Ready(None) };
        let data = match message.and_then(|message| this.teller.tell(&message, &mut this.turn)) {
            Ok(told) => told.event.clone(),
            Err(status) => {
                this.replies = None;
                end(&status).into()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.opening.is_none() && self.replies.is_none()
    }
}
