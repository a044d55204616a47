//! Takes an instance out of traffic, then waits beside the actor for those who watch it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{RegistryHandle, lookup::end_of, request::Reply};
use crate::{
    metrics::Drain as Counted,
    registry::{Claim, Command, Error, Principal, Revision},
    watch::Standings,
};

/// What a drain came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How the watches stand to it.
    pub standings: Standings,
    /// What they had to acknowledge.
    pub revision: Revision,
}

impl RegistryHandle {
    /// Sets DRAINING, and waits up to `wait` for the watches that are told.
    ///
    /// # Errors
    /// `NotFound`, `Superseded`, `LeaseDenied`, `Permission`, those of every command; when the
    /// instance is DRAINING `Limit` of readers that are waited for, and `ShuttingDown` while it waits.
    pub async fn drain(
        &self,
        claim: Claim,
        principal: Principal,
        wait: Duration,
        deadline: Option<Instant>,
    ) -> Result<Drained, Error> {
        let end = end_of(wait, deadline);
        let Reply::Drained { record, places } = self.command(Command::Drain { claim, principal }, deadline).await?
        else {
            // The actor answers a command with what goes with it.
            return Err(Error::Deadline);
        };
        let drain = self.hub.drain(&record, places)?;
        let metrics = self.metrics();
        metrics.draining.inc();
        let _waits = Waits(metrics);
        let waited = async {
            tokio::select! {
                biased;
                () = drain.settled() => Ok(()),
                () = self.hub.closed() => Err(Error::ShuttingDown),
            }
        };
        // Time that is up is an answer as well.
        timeout_at(end, waited).await.unwrap_or(Ok(()))?;
        let standings = drain.standings(self.hub.log());
        for (outcome, watches) in [
            (Counted::Acked, standings.acked),
            (Counted::Sent, standings.sent),
            (Counted::Pending, standings.pending),
            (Counted::Lagging, standings.lagging),
        ] {
            metrics.drained.of((outcome,)).add(watches);
        }
        Ok(Drained { standings, revision: record.revision })
    }
}

/// A drain counts as one that waits as long as this lives.
struct Waits<'a>(&'a crate::metrics::Metrics);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.draining.dec();
    }
}
