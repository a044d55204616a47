//! Streams that go on as long as their caller may have them, where what they show does not depend on who that is.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use tokio_stream::Stream;
use tonic::Status;

use crate::{
    access::{Gate, Tenure, Who},
    registry::Error,
};

/// A stream, and what its caller needs for it.
pub struct Allowed<S> {
    stream: S,
    /// None: nothing can end it.
    tenure: Option<(Tenure, Check)>,
    ended: bool,
}

type Check = Box<dyn Fn(&Who) -> Result<(), Error> + Send>;

impl<S> Allowed<S> {
    /// For a caller whom `check` let through, as long as it does.
    pub fn new(stream: S, gate: &Gate, who: &Who, check: impl Fn(&Who) -> Result<(), Error> + Send + 'static) -> Self {
        let tenure = Tenure::of(gate, who).map(|tenure| (tenure, Box::new(check) as Check));
        Self { stream, tenure, ended: false }
    }

    /// The stream.
    #[cfg(test)]
    pub fn inner(&self) -> &S {
        &self.stream
    }
}

impl<S> fmt::Debug for Allowed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowed").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for Allowed<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some((tenure, check)) = &mut this.tenure {
            while let Poll::Ready(judged) = tenure.poll(context) {
                if let Err(error) = judged.and_then(|who| check(&who)) {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        Pin::new(&mut this.stream).poll_next(context)
    }
}
