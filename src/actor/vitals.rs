//! Whether the task lives, and how much there is of everything: what probes and scrapes ask, from any runtime. It costs
//! the task nothing but one short turn.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{RegistryHandle, request};
use crate::metrics::Lane;

/// Why the task did not answer, as a sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lifeless {
    /// Its lane is full.
    #[error("the beats' lane is full")]
    Full,
    /// It has ended.
    #[error("the registry's task has ended")]
    Ended,
    /// It was too slow.
    #[error("the registry's task did not answer within {0:?}")]
    Silent(Duration),
}

impl RegistryHandle {
    /// How long a turn of the task takes now, through the lane that comes first.
    ///
    /// # Errors
    /// `Lifeless` when it does not answer within `patience`.
    pub async fn turn(&self, patience: Duration) -> Result<Duration, Lifeless> {
        let begun = Instant::now();
        let (answer, answered) = oneshot::channel();
        if self.lane.try_send(request::Lane::Turn { answer }).is_err() {
            return Err(if self.lane.is_closed() { Lifeless::Ended } else { Lifeless::Full });
        }
        match timeout(patience, answered).await {
            Ok(Ok(())) => Ok(begun.elapsed()),
            Ok(Err(_)) => Err(Lifeless::Ended),
            Err(_) => Err(Lifeless::Silent(patience)),
        }
    }

    /// Brings those gauges up to date that nobody keeps while working.
    pub fn read_gauges(&self) {
        let (hub, metrics) = (&self.hub, self.metrics());
        for (lane, room, free) in [
            (Lane::Commands, self.inbox.max_capacity(), self.inbox.capacity()),
            (Lane::Beats, self.lane.max_capacity(), self.lane.capacity()),
        ] {
            metrics.inbox_room.of((lane,)).set(room as u64);
            metrics.inbox.of((lane,)).set((room - free) as u64);
        }
        metrics.leases.set(self.lease_count.get() as u64);
        {
            let registry = hub.registry();
            metrics.instances.set(registry.instances());
            metrics.services.set(registry.services());
            metrics.namespaces.set(registry.namespaces().len() as u64);
            metrics.revision.set(registry.revision());
        }
        let log = hub.log().extent();
        metrics.log_bytes.set(log.bytes);
        metrics.log_records.set(log.records);
        metrics.log_oldest.set(log.oldest);
        metrics.watches.set(hub.watches());
        let lagging = hub.lags().behind(log.head);
        metrics.readers.set(lagging.readers);
        metrics.lagging.set(lagging.behind);
        metrics.lag_total.set(lagging.revisions);
        metrics.lag_max.set(lagging.oldest.map_or(0, |oldest| log.head - oldest + 1));
        metrics.lag_bytes.set(lagging.oldest.map_or(0, |oldest| hub.log().bytes_from(oldest)));
    }
}
