//! Streams over HTTP that come to an end: what they bring, one after the other, as server-sent events; or, as JSON, the
//! last message when all went well, else why it did not. Decides nothing of what is in them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, header::CONTENT_TYPE, request::Parts};
use http_body::Frame;
use prost_reflect::MessageDescriptor;
use tokio_stream::{Stream as _, StreamExt as _};
use tonic::Status;

use super::{
    api::JSON,
    call::{Caller, Grpc, Replies},
    negotiate,
    problem::{self, Refusal},
    reply,
    routes::Route,
    transcode,
    watches::{ANSWERS, EVENTS, streamed},
};
use crate::metrics::Front;

/// Answers a request that stands for a stream of messages.
///
/// # Errors
/// What refuses it before there is a call.
pub async fn answer(grpc: &Grpc, route: &Route, mut parts: Parts, message: &[u8]) -> Result<Response<Body>, Refusal> {
    let as_events = negotiate::accepted(&parts.headers, &ANSWERS)? == EVENTS;
    let caller = Caller::of(&mut parts, if as_events { Front::Sse } else { Front::Http });
    let mut replies = match grpc.stream(&route.grpc_path, caller, message).await {
        Ok(replies) => replies,
        Err(status) => return Ok(problem::of_call(&status)),
    };
    if parts.method == Method::HEAD {
        replies.enough();
        return Ok(streamed(if as_events { EVENTS } else { "application/json" }, Body::empty()));
    }
    let descriptor = route.rpc.output();
    if as_events {
        return Ok(streamed(EVENTS, Body::new(Events { replies: Some(replies), descriptor })));
    }
    let mut last = Bytes::new();
    while let Some(message) = replies.next().await {
        match message {
            Ok(message) => last = message,
            Err(status) => return Ok(problem::of_call(&status)),
        }
    }
    let mut response = Response::new(reply::body(&descriptor, last)?);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::clone(&JSON));
    Ok(response)
}

/// The messages as events; a comment says why there are no more, if that is no good end.
struct Events {
    /// None at the end.
    replies: Option<Replies>,
    descriptor: MessageDescriptor,
}

impl Events {
    fn event(&self, message: &Bytes) -> Result<Bytes, Status> {
        let json = transcode::to_json(&self.descriptor, message)?;
        Ok([b"data: ", json.as_slice(), b"\n\n"].concat().into())
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let Some(replies) = &mut this.replies else { return Poll::Ready(None) };
        let Some(message) = ready!(Pin::new(replies).poll_next(context)) else {
            this.replies = None;
            return Poll::Ready(None);
        };
        let data = message.and_then(|message| this.event(&message)).unwrap_or_else(|status| {
            this.replies = None;
            [b": ", problem::json(&status).as_slice(), b"\n\n"].concat().into()
        });
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.replies.is_none()
    }
}
