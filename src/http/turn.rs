//! Turns: who has much to write lets others go on in between. Knows nothing of what is written.

use std::task::{Context, Poll};

/// A writer writes so much in a turn: JSON takes far longer to write than to send, and leases wait for the thread as well.
const TURN_BYTES: usize = 16 * 1024;

/// How much a writer wrote in its turn.
#[derive(Debug, Default)]
pub struct Turn(usize);

impl Turn {
    /// So much more was written.
    pub fn took(&mut self, bytes: usize) {
        self.0 += bytes;
    }

    /// Pending, once, when the turn is over.
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.0 < TURN_BYTES {
            return Poll::Ready(());
        }
        self.0 = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
