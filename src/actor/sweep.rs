//! The removal of a whole service, whose keys are known only when it is judged. Where some of them are in flight it takes
//! the others at once, and each of those as soon as it is free, before anyone who waits for it. So it waits for what was
//! under way when it came, however much goes on there. One at a time, so that no two wait for each other. It knows no
//! rule.

use std::collections::{HashSet, VecDeque};

use tokio::time::Instant;

use super::{Actor, Recipient};
use crate::{
    engine::Engine,
    registry::{Command, Decision, Error, Fingerprint, Guarded, Outcome, Target},
};

/// A removal that has some of its keys.
#[derive(Debug)]
struct Sweep {
    command: Command,
    recipient: Recipient,
    keys: Vec<Fingerprint>,
    /// Those that are in flight.
    missing: HashSet<Fingerprint>,
}

/// The removals of whole services that wait.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    under_way: Option<Sweep>,
    later: VecDeque<(Command, Recipient)>,
}

impl Sweeps {
    /// How many there are.
    pub(super) fn waiting(&self) -> usize {
        usize::from(self.under_way.is_some()) + self.later.len()
    }
}

/// Whether it is one of them.
pub(super) fn is_of_a_service(command: &Command) -> bool {
    matches!(command, Command::Deregister { target: Target::Service { .. }, .. })
}

impl<E: Engine> Actor<E> {
    /// Begins to take these keys, some of which are in flight.
    pub(super) fn sweep(&mut self, command: Command, recipient: Recipient, keys: Vec<Fingerprint>) {
        if self.sweeps.under_way.is_some() {
            return self.sweeps.later.push_back((command, recipient));
        }
        let (missing, free): (Vec<_>, Vec<_>) = keys.iter().copied().partition(|key| self.latches.is_held(*key));
        self.latches.hold(&free);
        self.sweeps.under_way = Some(Sweep { command, recipient, keys, missing: missing.into_iter().collect() });
    }

    /// These keys are free: those that a removal waits for it has before anyone else.
    pub(super) fn sweep_on(&mut self, freed: &[Fingerprint]) {
        let Some(sweep) = &mut self.sweeps.under_way else { return };
        let taken: Vec<_> = freed.iter().copied().filter(|key| sweep.missing.remove(key)).collect();
        self.latches.hold(&taken);
        if let Some(sweep) = self.sweeps.under_way.take_if(|sweep| sweep.missing.is_empty()) {
            self.finish_sweep(sweep);
        }
        while self.sweeps.under_way.is_none()
            && let Some((command, recipient)) = self.sweeps.later.pop_front()
        {
            self.run_command(command, recipient);
        }
    }

    /// It has all of its keys: what came to the service meanwhile stays.
    fn finish_sweep(&mut self, Sweep { command, recipient, keys, .. }: Sweep) {
        let mut refusal = self.away.clone().map(|reason| Error::StoreUnavailable { reason, outcome_unknown: false });
        if let Recipient::Caller { answer, deadline } = &recipient
            && (answer.is_closed() || deadline.is_some_and(|deadline| deadline <= Instant::now()))
        {
            refusal = Some(Error::Deadline);
        }
        let decision = match refusal {
            Some(error) => Decision::Reply(Err(error)),
            None => self.decide(&command),
        };
        let wanted: HashSet<Fingerprint> = keys.iter().copied().collect();
        match decision {
            Decision::Propose(mut changes, _) => {
                changes.retain(|guarded: &Guarded| guarded.fingerprint().is_some_and(|key| wanted.contains(&key)));
                let outcome = Outcome::Removed(changes.len() as u64);
                if changes.is_empty() {
                    self.reply(&command, recipient, Ok(outcome));
                    self.release(&keys);
                } else {
                    self.send(command, recipient, changes, outcome, keys);
                }
            }
            Decision::Reply(outcome) => {
                self.reply(&command, recipient, outcome);
                self.release(&keys);
            }
            Decision::Unfit { error, .. } => {
                self.reply(&command, recipient, Err(error));
                self.release(&keys);
            }
        }
    }
}
