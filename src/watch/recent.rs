//! The part of a feed's history that it keeps for readers that are a little behind.

use std::{collections::VecDeque, sync::Arc};

use super::{
    budget::{Budget, Charge},
    feed::Message,
    partitions::Place,
};
use crate::registry::Revision;

/// Most messages that a feed keeps; who is further behind reads the log by itself.
const RECENT_MAX: usize = 256;
/// Most bytes of them.
const RECENT_BYTES_MAX: usize = 1024 * 1024;

/// The messages of a stretch of history.
#[derive(Debug)]
pub(super) struct Recent {
    /// Complete after this revision…
    pub(super) from: Revision,
    /// …up to this one.
    pub(super) through: Revision,
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    charge: Charge,
    /// The partitions that are there when `through` is over, if somebody counted them. While nobody did, no entry that
    /// concerns them is made a message of: whoever counts them as of a revision between the two has them for `through`.
    pub(super) place: Option<Place>,
}

impl Recent {
    /// What begins after `revision`, of which nothing is kept yet.
    pub(super) fn after(revision: Revision, budget: &Arc<Budget>) -> Self {
        let (messages, charge) = (VecDeque::new(), budget.charge(0));
        Self { from: revision, through: revision, messages, bytes: 0, charge, place: None }
    }

    /// Takes over what is there when `revision` is over, if it does not know that. Where it keeps nothing of then, it
    /// begins anew there.
    pub(super) fn take_over(&mut self, revision: Revision, place: Place) {
        if self.place.is_some() {
            return;
        }
        if !(self.from..=self.through).contains(&revision) {
            self.messages = VecDeque::new();
            (self.from, self.through, self.bytes) = (revision, revision, 0);
            self.charge.set(0);
        }
        self.place = Some(place);
    }

    pub(super) fn forget_through(&mut self, cursor: Revision) {
        while self.messages.front().is_some_and(|message| message.revision <= cursor) {
            self.forget_oldest();
        }
        if self.messages.is_empty() && self.messages.capacity() > 0 {
            self.messages = VecDeque::new();
        }
    }

    pub(super) fn first_after(&self, cursor: Revision) -> Option<Arc<Message>> {
        let place = self.messages.partition_point(|message| message.revision <= cursor);
        self.messages.get(place).cloned()
    }

    pub(super) fn push(&mut self, message: Message) {
        self.bytes += message.bytes();
        self.charge.set(self.bytes);
        self.messages.push_back(Arc::new(message));
        while self.messages.len() > RECENT_MAX || (self.bytes > RECENT_BYTES_MAX && self.messages.len() > 1) {
            self.forget_oldest();
        }
    }

    pub(super) fn forget_oldest(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.bytes -= oldest.bytes();
            self.charge.set(self.bytes);
            self.from = oldest.revision;
        }
    }

    /// Lets go of the older half of them.
    pub(super) fn shed(&mut self) {
        for _ in 0..self.messages.len().div_ceil(2) {
            self.forget_oldest();
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }
}
