//! Streams whose messages were framed when they were made, for all who read them: a handler hands them past the encoder
//! and its buffer, and they are the answer's body as they are. Knows nothing of what they say.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Frame;
use prost::Message as _;
use tokio_stream::{Once, Stream};
use tonic::{Response, Status};

use super::{
    convert,
    registry::{BOOKMARK_INTERVAL, WatchReplies},
    status::{self, Reason},
    subscribe::SubscribeReplies,
};
use crate::{framed::Framed, proto};

/// The replies of a stream.
#[derive(Debug)]
pub(super) enum Replies {
    Watch(WatchReplies),
    Subscribe(Box<SubscribeReplies>),
    Ended,
}

/// On its way from the handler to the body, among the extensions of the answer.
#[derive(Clone)]
struct Handed(Arc<Mutex<Replies>>);

/// What the encoder gets in its place, and nobody is to see.
pub type Elsewhere<T> = Once<Result<T, Status>>;

impl Replies {
    /// Hands them past the encoder.
    pub(super) fn hand<T>(self) -> Response<Elsewhere<T>> {
        let nobody = status::plain(Reason::Internal, "nobody took the replies over");
        let mut response = Response::new(tokio_stream::once(Err(nobody)));
        response.extensions_mut().insert(Handed(Arc::new(Mutex::new(self))));
        response
    }

    /// Takes them out of an answer, if they are there.
    pub(super) fn of<B>(answer: &mut http::Response<B>) -> Option<Self> {
        let Handed(handed) = answer.extensions_mut().remove()?;
        let mut replies = handed.lock().unwrap_or_else(PoisonError::into_inner);
        Some(mem::replace(&mut *replies, Self::Ended))
    }
}

impl http_body::Body for Replies {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = match &mut *self {
            Self::Watch(replies) => Pin::new(replies).poll_next(context),
            Self::Subscribe(replies) => Pin::new(&mut **replies).poll_next(context),
            Self::Ended => return Poll::Ready(None),
        };
        let status = match ready!(next) {
            Some(Ok(framed)) => return Poll::Ready(Some(Ok(Frame::data(framed.into_bytes())))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        *self = Self::Ended;
        Poll::Ready(Some(status::trailers(&status)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

/// What the first message of a stream says of it beside.
#[derive(Debug)]
pub(super) struct Opening {
    is_said: bool,
}

impl Opening {
    pub(super) fn new() -> Self {
        Self { is_said: false }
    }

    /// The message, with that if it is the first.
    pub(super) fn before(&mut self, message: Framed) -> Framed {
        match mem::replace(&mut self.is_said, true) {
            true => message,
            false => message.with(&Self::fields()),
        }
    }

    /// As fields of `WatchResponse` and of `SubscribeResponse` alike.
    fn fields() -> Vec<u8> {
        let bookmark_interval = Some(convert::duration(BOOKMARK_INTERVAL));
        proto::WatchResponse { bookmark_interval, ..proto::WatchResponse::default() }.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_say_the_same_of_themselves() {
        let watch = proto::WatchResponse::decode(&Opening::fields()[..]).expect("a message");
        let subscribe = proto::SubscribeResponse::decode(&Opening::fields()[..]).expect("a message");
        assert_eq!(watch.bookmark_interval.map(|said| said.seconds), Some(15));
        assert_eq!(subscribe.bookmark_interval, watch.bookmark_interval);
    }
}
