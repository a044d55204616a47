//! The body of a call of gRPC that has one message: it is waited for as long as any other body. Streams take their time.
//! Knows nothing of messages.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::body::{self, BODY_WAIT};

/// A body that may be awaited.
pub(super) struct Timely<B> {
    body: B,
    is_awaited: bool,
    /// When it is too late; there only when something is missing.
    late: Option<Pin<Box<Sleep>>>,
}

impl<B> Timely<B> {
    pub(super) fn new(body: B, is_awaited: bool) -> Self {
        Self { body, is_awaited, late: None }
    }
}

impl<B> Body for Timely<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(context);
        if frame.is_ready() || !this.is_awaited {
            return frame.map_err(Into::into);
        }
        ready!(this.late.get_or_insert_with(|| Box::pin(sleep(BODY_WAIT))).as_mut().poll(context));
        Poll::Ready(Some(Err(body::slow().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
