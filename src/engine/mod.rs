//! Orders proposals, makes them durable and gives them their revision. Knows nothing of rules, leases or clients: it
//! stores what it is given and hands back what was committed, whoever proposed it.

use std::{
    collections::{HashSet, VecDeque},
    future::Future,
    sync::Arc,
};

use smol_str::SmolStr;
use uuid::Uuid;

use crate::registry::{Change, Document, DocumentEvent, Event, Fingerprint, Guarded, Record, Revision};

pub mod hostile;
pub mod local;
pub mod memory;
#[cfg(test)]
mod model;

/// Most commands that one revision carries.
pub const REVISION_COMMANDS_MAX: usize = 100;
/// Most changes that one revision carries, one larger command excepted: a slice of lapses fills one.
pub const REVISION_CHANGES_MAX: usize = 1_000;
/// Most bytes of changes that one revision carries, one oversized command excepted.
pub const REVISION_BYTES_MAX: usize = 512 * 1024;

/// Names a proposal until its outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Changes to commit together, in one revision.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Its name.
    pub ticket: Ticket,
    /// What to commit. No two proposals in flight touch the same key.
    pub changes: Vec<Guarded>,
    /// Guards alone: records by which it was decided and that it leaves as they are. At the revision of the proposal they
    /// are still so: none of their keys was in flight when it was proposed, so an engine that has one user and commits in
    /// order has only to put no later change of them into the same revision, as `next_group` does.
    pub reads: Vec<Record>,
}

impl Proposal {
    /// The instances that it changes.
    pub fn changed(&self) -> impl Iterator<Item = Fingerprint> + '_ {
        self.changes.iter().filter_map(Guarded::fingerprint)
    }
}

/// Something that happened in the engine.
#[derive(Debug)]
pub enum Step {
    /// Committed and durable. Changes of several proposals may share a revision, never two of one key.
    Committed {
        /// Larger than every one before; it may skip.
        revision: Revision,
        /// In order. Another node's proposals are here without a ticket.
        changes: Vec<Change>,
        /// Which of ours are in it.
        tickets: Vec<Ticket>,
    },
    /// A guard no longer held: decide again.
    Refused {
        /// Which of ours.
        ticket: Ticket,
    },
    /// The engine cannot commit. The outcome of every proposal in flight is unknown; none may be made until `Back`.
    Away {
        /// Why, as a sentence without a full stop.
        reason: SmolStr,
    },
    /// What the engine holds now is the truth: whatever differs from the state was or was not committed after all.
    Reload(Box<Recovered>),
    /// Commits go on.
    Back,
}

/// The engine can never go on; the process has to end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// Orders and commits.
pub trait Engine: Send + 'static {
    /// Takes the batch in; never waits.
    fn propose(&mut self, batch: Vec<Proposal>);

    /// The next thing that happened. Safe to drop and call again.
    fn next(&mut self) -> impl Future<Output = Result<Step, EngineError>> + Send;

    /// Commits what was proposed and lets go of the store.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// A stretch of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Random, so that a store brought back from a copy never continues another's history.
    pub id: u64,
    /// It begins after this revision.
    pub after: Revision,
}

/// Everything that an engine holds when it opens.
#[derive(Debug)]
pub struct Recovered {
    /// Identity of the data.
    pub registry_id: Uuid,
    /// All stretches of history, oldest first; the last is the current one. Never empty.
    pub epochs: Vec<Epoch>,
    /// The last committed revision; 0 for none.
    pub revision: Revision,
    /// Every instance.
    pub records: Vec<Record>,
    /// Services that had an instance once: namespace, service, Unix seconds of the last removal.
    pub known: Vec<(SmolStr, SmolStr, u64)>,
    /// Every document.
    pub documents: Vec<Arc<Document>>,
    /// The kept events of the last revisions, oldest first.
    pub tail: Vec<TailEntry>,
    /// The tail is complete for every revision after this one.
    pub tail_after: Revision,
}

/// The events of one revision.
#[derive(Clone, Debug)]
pub struct TailEntry {
    /// Which.
    pub revision: Revision,
    /// What watchers could see of it, in order; slots mean nothing here.
    pub events: Vec<Event>,
    /// The watched documents that changed in it, in order.
    pub documents: Vec<DocumentEvent>,
}

/// Takes from the queue what the next revision carries: at most `REVISION_COMMANDS_MAX` commands,
/// `REVISION_CHANGES_MAX` changes and `REVISION_BYTES_MAX` bytes, at least one command if there is one; and nothing that
/// changes what a command before it was decided by.
pub fn next_group(queue: &mut VecDeque<Proposal>) -> Vec<Proposal> {
    let (mut group, mut changes, mut bytes) = (Vec::new(), 0, 0);
    let mut read: HashSet<Fingerprint> = HashSet::new();
    while group.len() < REVISION_COMMANDS_MAX
        && let Some(proposal) = queue.front()
    {
        changes += proposal.changes.len();
        bytes += footprint(proposal);
        if (changes > REVISION_CHANGES_MAX || bytes > REVISION_BYTES_MAX) && !group.is_empty() {
            break;
        }
        // Most groups read nothing.
        if !read.is_empty() && proposal.changed().any(|key| read.contains(&key)) {
            break;
        }
        read.extend(proposal.reads.iter().map(|record| record.fingerprint));
        group.extend(queue.pop_front());
    }
    group
}

/// Roughly the bytes that a proposal adds to a store.
fn footprint(proposal: &Proposal) -> usize {
    let change = |guarded: &Guarded| match &guarded.change {
        Change::Put(put) => put.description.len() + 64,
        Change::Document(put) => put.body.as_ref().map_or(0, bytes::Bytes::len) + 96,
        Change::Delete(_) | Change::Forget { .. } => 96,
    };
    proposal.changes.iter().map(change).sum()
}

/// The committed step for a group.
#[must_use]
pub fn committed(revision: Revision, group: Vec<Proposal>) -> Step {
    let tickets = group.iter().map(|proposal| proposal.ticket).collect();
    let changes = group.into_iter().flat_map(|proposal| proposal.changes).map(|guarded| guarded.change).collect();
    Step::Committed { revision, changes, tickets }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::registry::{Cause, Delete, Instance, Key, Lease, Secret};

    #[test]
    fn slices_of_lapses_do_not_share_a_revision() {
        let delete = |at: usize| {
            let key = Key::new("default", "web", at.to_string());
            Guarded::of_instance(Change::Delete(Delete { key, cause: Cause::Expired, at: 0 }), None)
        };
        let proposal = |(ticket, count)| Proposal {
            ticket: Ticket(ticket),
            changes: (0..count).map(delete).collect(),
            reads: Vec::new(),
        };
        let mut queue: VecDeque<_> = (0..).zip([1_000, 1_000, 400, 600, 1, 2_000]).map(proposal).collect();
        let mut sizes = Vec::<usize>::new();
        while !queue.is_empty() {
            sizes.push(next_group(&mut queue).iter().map(|proposal| proposal.changes.len()).sum());
        }
        assert_eq!(sizes, [1_000, 1_000, 1_000, 1, 2_000]);
    }

    #[test]
    fn what_a_decision_was_made_by_does_not_change_in_its_revision() {
        let delete = |id: &str| Guarded {
            change: Change::Delete(Delete { key: Key::new("default", "web", id), cause: Cause::Expired, at: 0 }),
            before: None,
        };
        let (namespace, service, id) = ("default".into(), "web".into(), "read".into());
        let read = Instance { namespace, service, id, ..Instance::default() };
        let lease = Lease { ttl: 1_000, secret: Secret([0; 16]).hash(), request: 0, principal: None, unfenced: false };
        let read = Record::new(&read.encode_to_vec(), lease, 1, 0, 1);
        let proposal = |(ticket, (id, reads)): (u64, (&str, bool))| Proposal {
            ticket: Ticket(ticket),
            changes: vec![delete(id)],
            reads: if reads { vec![read.clone()] } else { Vec::new() },
        };
        let asked = [("a", true), ("b", true), ("c", false), ("read", false), ("d", false)];
        let mut queue: VecDeque<_> = (0..).zip(asked).map(proposal).collect();
        let sizes = std::iter::from_fn(|| Some(next_group(&mut queue).len()).filter(|len| *len > 0));
        assert_eq!(sizes.collect::<Vec<_>>(), [3, 2]);
    }
}
