//! How long a stream may go on: until its caller's credentials end, are revoked, or allow something else. Knows nothing of
//! what is streamed.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};
use tokio_stream::{Stream as _, wrappers::WatchStream};

use super::{
    caller::{Caller, Who},
    gate::{Gate, Keeper},
};
use crate::registry::Error;

/// The wall's clock is looked at this often: it may be set, and it goes on while a machine sleeps.
const LOOK: Duration = Duration::from_secs(30);

/// The right of a stream to go on.
pub struct Tenure {
    keeper: Arc<Keeper>,
    caller: Arc<Caller>,
    changes: WatchStream<u64>,
    /// When to look whether it is over; none: it has no end.
    look: Option<Pin<Box<Sleep>>>,
}

impl std::fmt::Debug for Tenure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenure").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Tenure {
    /// That of a caller who was let in; none where nothing can end it.
    #[must_use]
    pub fn of(gate: &Gate, who: &Who) -> Option<Self> {
        let (keeper, caller) = (gate.keeper()?, who.caller().filter(|caller| caller.name.is_some())?);
        let (keeper, caller) = (Arc::clone(keeper), Arc::clone(caller));
        let changes = keeper.changes();
        let mut tenure = Self { keeper, caller, changes, look: None };
        tenure.plan();
        Some(tenure)
    }

    /// Completes when something is other with the caller: who they are now, or why the stream ends. What changes with
    /// others costs a look.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Who, Error>> {
        while self.has_changed(context) || self.has_ended(context) {
            let now = match self.keeper.again(&self.caller) {
                Ok(now) => now,
                Err(error) => return Poll::Ready(Err(error)),
            };
            if !Arc::ptr_eq(&now, &self.caller) {
                self.caller = now;
                self.plan();
                // There may be another change, or the end, by now.
                context.waker().wake_by_ref();
                return Poll::Ready(Ok(Who::of(Arc::clone(&self.caller))));
            }
        }
        Poll::Pending
    }

    /// Whether anybody's rights did.
    fn has_changed(&mut self, context: &mut Context<'_>) -> bool {
        matches!(Pin::new(&mut self.changes).poll_next(context), Poll::Ready(Some(_)))
    }

    /// Whether the credentials are over; if not, it is looked again when they may be.
    fn has_ended(&mut self, context: &mut Context<'_>) -> bool {
        while let Some(look) = &mut self.look {
            if look.as_mut().poll(context).is_pending() {
                return false;
            }
            if self.keeper.has_ended(&self.caller) {
                return true;
            }
            self.plan();
        }
        false
    }

    fn plan(&mut self) {
        let left = self.caller.until.map(|until| Duration::from_secs(until.saturating_sub(self.keeper.now())));
        self.look = left.map(|left| Box::pin(sleep(left.min(LOOK))));
    }
}
