//! What is committed, and what follows from it. A change is absolute: it says what is, never a difference, so that
//! folding a revision twice equals folding it once.

use std::sync::Arc;

use bytes::Bytes;
use smol_str::SmolStr;

use super::{
    Cause,
    document::{Document, DocumentPut, Kind},
    key::{Fingerprint, Key, Revision},
    record::{Lease, Record, names},
};

/// A revision that is either known, or the one that the commit will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The revision that this change is committed at.
    Commit,
    /// An earlier one.
    At(Revision),
}

impl Stamp {
    /// The revision meant by a change committed at `commit`.
    #[must_use]
    pub fn resolve(self, commit: Revision) -> Revision {
        match self {
            Self::Commit => commit,
            Self::At(revision) => revision,
        }
    }
}

/// One committed change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This instance is registered so.
    Put(Put),
    /// This key is free.
    Delete(Delete),
    /// This service, which has no instance, is no longer known.
    Forget {
        /// Its namespace.
        namespace: SmolStr,
        /// Its name.
        service: SmolStr,
    },
    /// This document says so from now on, or is no more.
    Document(DocumentPut),
}

/// A record to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The encoded `Instance` without incarnation and revision.
    pub description: Bytes,
    /// Its lease.
    pub lease: Lease,
    /// Of which registration. `Commit`: a new one.
    pub incarnation: Stamp,
    /// The registration's place in its revision; with `Stamp::Commit` the place of this change is taken.
    pub ordinal: u32,
    /// Of the last change that watchers see. Not `Commit`: only the lease changes, and nobody is told.
    pub revision: Stamp,
}

impl Put {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> Key {
        let (namespace, service, id) = names(&self.description);
        Key::new(namespace, service, id)
    }

    /// The registration's place in its revision, if this is change number `place`.
    #[must_use]
    pub fn ordinal(&self, place: u32) -> u32 {
        if self.incarnation == Stamp::Commit { place } else { self.ordinal }
    }

    /// The record it makes, committed at `commit` as change number `place`.
    #[must_use]
    pub fn record(&self, commit: Revision, place: u32) -> Record {
        let ordinal = self.ordinal(place);
        let (incarnation, revision) = (self.incarnation.resolve(commit), self.revision.resolve(commit));
        Record::new(&self.description, self.lease.clone(), incarnation, ordinal, revision)
    }
}

/// The cause of the event that a put makes: what was there before decides it.
#[must_use]
pub fn put_cause(before: Option<&Record>, incarnation: Revision) -> Cause {
    match before {
        None => Cause::Registered,
        Some(before) if before.incarnation != incarnation => Cause::Replaced,
        Some(_) => Cause::Unspecified,
    }
}

/// A key to free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Which.
    pub key: Key,
    /// Why.
    pub cause: Cause,
    /// When, in seconds of Unix time: a service stays known for a day after its last instance.
    pub at: u64,
}

impl Change {
    /// The instance's key that it changes, if it changes one.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Put(put) => Some(put.key()),
            Self::Delete(delete) => Some(delete.key.clone()),
            Self::Forget { .. } | Self::Document(_) => None,
        }
    }

    /// The latch that is held while it is in flight, if there is one.
    #[must_use]
    pub fn latch(&self) -> Option<Fingerprint> {
        match self {
            Self::Document(put) => Some(put.key.latch()),
            _ => self.key().map(|key| key.fingerprint()),
        }
    }
}

/// What a key has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// An instance's.
    Record(Record),
    /// A document's.
    Document(Arc<Document>),
}

/// A change, good only as long as its key still has what it was decided by.
#[derive(Clone, Debug)]
pub struct Guarded {
    /// What to commit.
    pub change: Change,
    /// What the key had when it was decided. It is also what a log entry holds as "before".
    pub before: Option<Held>,
}

impl Guarded {
    /// A change of an instance that has, or had, this record.
    #[must_use]
    pub fn of_instance(change: Change, before: Option<&Record>) -> Self {
        Self { change, before: before.map(|record| Held::Record(record.clone())) }
    }

    /// Whether it makes an application that is not there yet.
    #[must_use]
    pub fn makes_application(&self) -> bool {
        let is_one = |put: &DocumentPut| put.key.kind == Kind::Application && put.body.is_some();
        self.before.is_none() && matches!(&self.change, Change::Document(put) if is_one(put))
    }

    /// The instance's record when it was decided.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match &self.before {
            Some(Held::Record(record)) => Some(record),
            _ => None,
        }
    }

    /// The document when it was decided.
    #[must_use]
    pub fn document(&self) -> Option<&Arc<Document>> {
        match &self.before {
            Some(Held::Document(document)) => Some(document),
            _ => None,
        }
    }

    /// The latch that is held while it is in flight: of the instance that it changes, or of a namespace's deployments;
    /// none for a `Forget`.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.record().map(|record| record.fingerprint).or_else(|| self.change.latch())
    }
}

/// What happened to one key by one committed change.
#[derive(Clone, Debug)]
pub struct Event {
    /// The record before; none: the key was free.
    pub before: Option<Record>,
    /// The record after; none: the key is free.
    pub after: Option<Record>,
    /// Why the instance went, if it did.
    pub cause: Cause,
    /// Where the state keeps (or kept) the record: this node's own business, never sent.
    pub slot: u32,
}

impl Event {
    /// The record that names the key.
    #[must_use]
    pub fn any(&self) -> Option<&Record> {
        self.after.as_ref().or(self.before.as_ref())
    }

    /// Whether watchers can see it: a new token for the same registration is no event.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => before.revision != after.revision,
            (None, None) => false,
            _ => true,
        }
    }

    /// Roughly the memory it takes, in bytes.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let record = |record: &Option<Record>| record.as_ref().map_or(0, Record::footprint);
        size_of::<Self>() + record(&self.before) + record(&self.after)
    }
}
