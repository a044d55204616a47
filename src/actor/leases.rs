//! The lease table: deadlines and verified tokens, shared by the actor and the handlers. A handler renews what the actor
//! has verified before by a few stores, without a turn of the actor; whatever needs judgement goes through the lane. Only
//! the actor arms, expires and frees leases, so a renewal can at most come too late, never bring one back.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use super::{
    request::{Beat, BeatOutcome, BeatReply},
    verified::Verified,
};
use crate::{
    registry::{Event, Status, Timekeeping},
    watch::Hub,
};

/// Deadlines and verified tokens, by slot.
#[derive(Debug, Default)]
pub(super) struct LeaseTable {
    pub(super) time: Timekeeping,
    pub(super) verified: Verified,
}

impl LeaseTable {
    /// Takes in what was folded.
    pub(super) fn follow(&mut self, events: &[Event]) {
        for event in events {
            self.verified.forget(event.slot);
            self.time.follow(event);
        }
    }
}

/// How many leases there are: while there are none, nobody has to wake up for them.
#[derive(Debug, Default)]
pub(super) struct LeaseCount {
    count: AtomicUsize,
    first: Notify,
}

impl LeaseCount {
    pub(super) fn get(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn set(&self, count: usize) {
        if self.count.swap(count, Ordering::SeqCst) == 0 && count > 0 {
            self.first.notify_waiters();
        }
    }

    /// Waits until there are some.
    pub(super) async fn some(&self) {
        let first = self.first.notified();
        let mut first = std::pin::pin!(first);
        // Before it is looked: what comes in between is not missed.
        first.as_mut().enable();
        if self.get() == 0 {
            first.await;
        }
    }
}

/// The table behind its lock, which is held for stores only.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(Arc<Mutex<LeaseTable>>);

impl Leases {
    /// The table.
    ///
    /// # Panics
    /// When another holder panicked: the table may be half changed, and the process must not serve from it.
    pub(super) fn lock(&self) -> MutexGuard<'_, LeaseTable> {
        self.0.lock().expect("whoever held the lease table panicked; it cannot be trusted")
    }

    /// Renews plain beats of verified tokens. None: at least one beat needs the actor's judgement, and all should go
    /// there; that some are heard twice then changes nothing. The revision is one at which all of them were live.
    pub(super) fn renew(&self, beats: &[Beat], hub: &Hub) -> Option<BeatReply> {
        let mut table = self.lock();
        let LeaseTable { time, verified } = &mut *table;
        let renew = |beat: &Beat| {
            let token =
                beat.token.as_ref().filter(|token| beat.status == Status::Unspecified && verified.knows(token))?;
            if time.is_awaited(token.hint) {
                return None;
            }
            time.hear(token.hint);
            Some(BeatOutcome::Renewed(time.ttl(token.hint)))
        };
        let outcomes = beats.iter().map(renew).collect::<Option<_>>()?;
        Some(BeatReply { outcomes, holders: Vec::new(), revision: hub.registry().revision() })
    }
}
