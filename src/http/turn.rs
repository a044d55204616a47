//! Turns: who has much to write lets others go on in between. Knows nothing of what is written.

use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Poll},
};

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

    /// Pending, once, when the turn is over: until the runtime has looked at its sockets. Who just wakes itself goes on
    /// before that, dozens of times.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.0 < TURN_BYTES {
            return Poll::Ready(());
        }
        self.0 = 0;
        pin!(tokio::task::yield_now()).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::Ordering};

    use super::*;
    use crate::laps::tests::talk;

    #[tokio::test]
    async fn sockets_are_read_between_turns() {
        let (talk, heard) = talk();
        let writes = tokio::spawn(async move {
            let mut turn = Turn::default();
            for _ in 0..100 {
                turn.took(TURN_BYTES);
                poll_fn(|context| turn.poll(context)).await;
            }
        });
        writes.await.expect("it ends");
        assert!(heard.load(Ordering::Relaxed) >= 50, "{heard:?} in a hundred turns");
        talk.abort();
    }
}
