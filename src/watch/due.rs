//! When a quiet stream has to say something. Putting it off, which every message does, costs nothing: the timer is set
//! anew only when it fires, and asked only by another task than before.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// A time that is mostly put off before it comes.
#[derive(Debug)]
pub(super) struct Due {
    at: Instant,
    /// Fires then, or before.
    timer: Pin<Box<Sleep>>,
    /// Whom it wakes.
    wakes: Option<Waker>,
}

impl Due {
    /// After so long.
    pub(super) fn after(interval: Duration) -> Self {
        let at = Instant::now() + interval;
        Self { at, timer: Box::pin(sleep_until(at)), wakes: None }
    }

    /// It is to come so long from now, which is no earlier than it was to come.
    pub(super) fn put_off(&mut self, interval: Duration) {
        self.at = Instant::now() + interval;
    }

    /// Whether it came; if not, `context` is woken when it does.
    pub(super) fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let wakes = self.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(context.waker()));
        if wakes && !self.timer.is_elapsed() {
            return false;
        }
        // A task that has done much would be put off by the timer, and it would not know whom to wake.
        while let Poll::Ready(()) = pin!(unconstrained(self.timer.as_mut())).poll(context) {
            if self.timer.deadline() >= self.at {
                return true;
            }
            self.timer.as_mut().reset(self.at);
        }
        if !wakes {
            self.wakes = Some(context.waker().clone());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn comes(due: &mut Due) -> Duration {
        let begun = Instant::now();
        poll_fn(|context| if due.is_over(context) { Poll::Ready(()) } else { Poll::Pending }).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_comes_when_it_was_last_put_off_to_and_again_only_when_it_is_put_off_again() {
        let mut due = Due::after(10 * SECOND);
        assert_eq!(comes(&mut due).await, 10 * SECOND);
        assert_eq!(comes(&mut due).await, Duration::ZERO);
        due.put_off(10 * SECOND);
        for _ in 0..3 {
            tokio::time::advance(4 * SECOND).await;
            due.put_off(10 * SECOND);
        }
        assert_eq!(comes(&mut due).await, 10 * SECOND);
    }
}
