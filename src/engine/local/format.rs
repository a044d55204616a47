//! The stored forms, as protobuf messages: what is on disk can be read by any later onair and by a person with the
//! field numbers below. Nothing of this process is in them: no slots, no addresses, no `usize`. A field number is never
//! used again for something else; what a reader of this format does not know, it may skip.
//!
//! | format | what a reader of the one before would lose |
//! | --- | --- |
//! | 1 | |
//! | 2 | documents: backends and frontends, and their changes in the log; the catalog; tokens; which leases nobody holds a token of |

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use smol_str::SmolStr;

use crate::{
    engine::TailEntry,
    registry::{
        Cause, Change, Document, DocumentEvent, DocumentKey, DocumentPut, Event, Guarded, Kind, Lease, Put, Record,
        Revision, SecretHash, names, put_cause,
    },
};

/// The version of everything in this file. A change that a reader of it cannot skip makes it one more, with an upgrade.
pub(super) const FORMAT: u32 = 2;

/// The `meta` key of `StoredLast`. No key of another keyspace is so: the others have a NUL or 8 bytes.
pub(super) const LAST: &str = "last";

/// Ends a name in a key: names have no control characters, so keys sort by namespace, service and id.
const END: u8 = 0;

/// Value of the `state` keyspace: an instance and its lease.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredRecord {
    /// The encoded `Instance` without incarnation and revision.
    #[prost(bytes = "bytes", tag = "1")]
    description: Bytes,
    /// Revision of the registration.
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    /// Revision of the last change that watchers see.
    #[prost(uint64, tag = "3")]
    revision: u64,
    /// The registration's place in its revision.
    #[prost(uint32, tag = "4")]
    ordinal: u32,
    /// The lease's time to live in milliseconds.
    #[prost(uint32, tag = "5")]
    ttl: u32,
    /// First half of the hash of the lease's secret, big-endian.
    #[prost(fixed64, tag = "6")]
    secret_high: u64,
    /// Second half.
    #[prost(fixed64, tag = "7")]
    secret_low: u64,
    /// Fingerprint of the request that made or last confirmed the registration; 0 for none.
    #[prost(fixed64, tag = "8")]
    request: u64,
    /// Who registered it; absent when everyone is one principal.
    #[prost(string, optional, tag = "9")]
    principal: Option<String>,
    /// Nobody holds a token of it.
    #[prost(bool, tag = "10")]
    unfenced: bool,
}

/// One change in a `StoredRevision`.
#[derive(Clone, PartialEq, Message)]
struct StoredEvent {
    /// An encoded `StoredRecord`: before the change; absent if the key was free.
    #[prost(bytes = "bytes", optional, tag = "1")]
    before: Option<Bytes>,
    /// An encoded `StoredRecord`: after the change; absent if the key is free.
    #[prost(bytes = "bytes", optional, tag = "2")]
    after: Option<Bytes>,
    /// `onair.v1.Cause`.
    #[prost(enumeration = "Cause", tag = "3")]
    cause: i32,
}

/// Value of the `documents` keyspace: what its key names, and what it says.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredDocument {
    /// `Kind::number`.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    name: String,
    /// As its kind has it.
    #[prost(bytes = "bytes", tag = "4")]
    body: Bytes,
    /// Of its last change.
    #[prost(uint64, tag = "5")]
    revision: u64,
}

/// A watched document's change in a `StoredRevision`.
#[derive(Clone, PartialEq, Message)]
struct StoredTurn {
    /// Absent if there was none.
    #[prost(message, optional, tag = "1")]
    before: Option<StoredDocument>,
    /// Absent if there is none.
    #[prost(message, optional, tag = "2")]
    after: Option<StoredDocument>,
}

/// Value of the `log` keyspace: what watchers could see of one revision, in order.
#[derive(Clone, PartialEq, Message)]
struct StoredRevision {
    #[prost(message, repeated, tag = "1")]
    events: Vec<StoredEvent>,
    #[prost(message, repeated, tag = "2")]
    turns: Vec<StoredTurn>,
}

/// Value of `meta/last`: where the history stands.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StoredLast {
    /// The last committed revision.
    #[prost(uint64, tag = "1")]
    pub(super) revision: u64,
    /// The log is complete for every revision after this one.
    #[prost(uint64, tag = "2")]
    pub(super) tail_after: u64,
    /// What had been acknowledged when this was written: everything up to it was on disk.
    #[prost(uint64, tag = "3")]
    pub(super) acknowledged: u64,
}

/// Value of `meta/epochs`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredEpochs {
    /// Oldest first.
    #[prost(message, repeated, tag = "1")]
    pub(super) epochs: Vec<StoredEpoch>,
}

/// A stretch of history.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StoredEpoch {
    /// Random.
    #[prost(fixed64, tag = "1")]
    pub(super) id: u64,
    /// It begins after this revision.
    #[prost(uint64, tag = "2")]
    pub(super) after: u64,
}

/// A value that is not what it should be.
#[derive(Debug)]
pub(super) struct Undecodable;

impl From<prost::DecodeError> for Undecodable {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

/// The `state` key of an instance.
pub(super) fn state_key(namespace: &str, service: &str, id: &str) -> Vec<u8> {
    let mut key = known_key(namespace, service);
    key.push(END);
    key.extend_from_slice(id.as_bytes());
    key
}

/// The `known` key of a service.
pub(super) fn known_key(namespace: &str, service: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(namespace.len() + service.len() + 64);
    key.extend_from_slice(namespace.as_bytes());
    key.push(END);
    key.extend_from_slice(service.as_bytes());
    key
}

/// The `documents` key of a document.
pub(super) fn document_key(key: &DocumentKey) -> Vec<u8> {
    let mut bytes = vec![key.kind.number()];
    bytes.extend_from_slice(&known_key(&key.namespace, &key.name));
    bytes
}

/// The entry that a `known` key and value stand for.
pub(super) fn decode_known(key: &[u8], value: &[u8]) -> Result<(SmolStr, SmolStr, u64), Undecodable> {
    let text = std::str::from_utf8(key).map_err(|_| Undecodable)?;
    let (namespace, service) = text.split_once('\0').ok_or(Undecodable)?;
    Ok((namespace.into(), service.into(), decode_u64(value)?))
}

/// A number whose bytes sort as it does: `log` keys, and seconds in `known`.
pub(super) fn encode_u64(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number back.
pub(super) fn decode_u64(bytes: &[u8]) -> Result<u64, Undecodable> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| Undecodable)
}

impl StoredDocument {
    fn of(document: &Document) -> Self {
        Self {
            kind: document.key.kind.number().into(),
            namespace: document.key.namespace.to_string(),
            name: document.key.name.to_string(),
            body: document.body.clone(),
            revision: document.revision,
        }
    }

    /// The document back; none if this onair does not know its kind.
    pub(super) fn document(self) -> Result<Arc<Document>, Undecodable> {
        let kind = u8::try_from(self.kind).ok().and_then(Kind::of).ok_or(Undecodable)?;
        let key = DocumentKey { kind, namespace: self.namespace.into(), name: self.name.into() };
        Ok(Arc::new(Document { key, body: self.body, revision: self.revision }))
    }
}

/// The document that a `documents` value stands for.
pub(super) fn decode_document(value: Bytes) -> Result<Arc<Document>, Undecodable> {
    StoredDocument::decode(value)?.document()
}

impl StoredRecord {
    fn new(description: Bytes, lease: &Lease, incarnation: Revision, ordinal: u32, revision: Revision) -> Self {
        let secret = u128::from_be_bytes(lease.secret.0);
        Self {
            description,
            incarnation,
            revision,
            ordinal,
            ttl: lease.ttl,
            secret_high: (secret >> 64) as u64,
            secret_low: secret as u64,
            request: lease.request,
            principal: lease.principal.as_deref().map(Into::into),
            unfenced: lease.unfenced,
        }
    }

    fn of_record(record: &Record) -> Self {
        let description = Bytes::copy_from_slice(record.description());
        Self::new(description, &record.lease, record.incarnation, record.ordinal, record.revision)
    }

    /// What `put.record(commit, place)` would be, without making it.
    fn of_put(put: &Put, commit: Revision, place: u32) -> Self {
        let incarnation = put.incarnation.resolve(commit);
        let ordinal = put.ordinal(place);
        Self::new(put.description.clone(), &put.lease, incarnation, ordinal, put.revision.resolve(commit))
    }

    fn encoded(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// Makes records of stored ones; principals that repeat are shared.
#[derive(Default)]
pub(super) struct Decoder {
    principal: Option<Arc<str>>,
}

impl Decoder {
    /// The record that `stored` is the encoded form of.
    pub(super) fn record(&mut self, stored: Bytes) -> Result<Record, Undecodable> {
        let stored = StoredRecord::decode(stored)?;
        if names(&stored.description).1.is_empty() {
            return Err(Undecodable);
        }
        let secret = u128::from(stored.secret_high) << 64 | u128::from(stored.secret_low);
        let lease = Lease {
            ttl: stored.ttl,
            secret: SecretHash(secret.to_be_bytes()),
            request: stored.request,
            principal: stored.principal.map(|principal| self.shared(&principal)),
            unfenced: stored.unfenced,
        };
        Ok(Record::new(&stored.description, lease, stored.incarnation, stored.ordinal, stored.revision))
    }

    /// What a `log` value tells of its revision.
    pub(super) fn entry(&mut self, revision: Revision, stored: Bytes) -> Result<TailEntry, Undecodable> {
        let StoredRevision { events, turns } = StoredRevision::decode(stored)?;
        let events = events.into_iter().map(|event| self.event(event)).collect::<Result<_, _>>()?;
        let document = |stored: Option<StoredDocument>| stored.map(StoredDocument::document).transpose();
        let turn =
            |StoredTurn { before, after }| Ok(DocumentEvent { before: document(before)?, after: document(after)? });
        let documents = turns.into_iter().map(turn).collect::<Result<_, Undecodable>>()?;
        Ok(TailEntry { revision, events, documents })
    }

    fn event(&mut self, stored: StoredEvent) -> Result<Event, Undecodable> {
        let cause = stored.cause();
        let mut record = |bytes: Option<Bytes>| bytes.map(|bytes| self.record(bytes)).transpose();
        Ok(Event { before: record(stored.before)?, after: record(stored.after)?, cause, slot: 0 })
    }

    fn shared(&mut self, principal: &str) -> Arc<str> {
        match &self.principal {
            Some(held) if **held == *principal => Arc::clone(held),
            _ => Arc::clone(self.principal.insert(principal.into())),
        }
    }
}

/// Gathers the `log` value of a revision while its changes are written.
#[derive(Default)]
pub(super) struct LogEntry(StoredRevision);

impl LogEntry {
    /// Notes a put and gives the `state` key and value that it makes.
    pub(super) fn put(&mut self, guarded: &Guarded, put: &Put, commit: Revision, place: u32) -> (Vec<u8>, Bytes) {
        let stored = StoredRecord::of_put(put, commit, place);
        let value = stored.encoded();
        let before = guarded.record();
        if before.is_none_or(|before| before.revision != stored.revision) {
            let cause = put_cause(before, stored.incarnation);
            self.note(before, Some(value.clone()), cause);
        }
        let (namespace, service, id) = names(&put.description);
        (state_key(namespace, service, id), value)
    }

    /// Notes a removal.
    pub(super) fn delete(&mut self, before: Option<&Record>, cause: Cause) {
        if before.is_some() {
            self.note(before, None, cause);
        }
    }

    /// Notes a document's change and gives the `documents` key and value that it makes; no value: it is no more.
    pub(super) fn document(
        &mut self,
        guarded: &Guarded,
        put: &DocumentPut,
        commit: Revision,
    ) -> (Vec<u8>, Option<Vec<u8>>) {
        let after = put.document(commit).map(|document| StoredDocument::of(&document));
        let value = after.as_ref().map(StoredDocument::encode_to_vec);
        if put.key.kind.is_watched() {
            let before = guarded.document().map(|document| StoredDocument::of(document));
            self.0.turns.push(StoredTurn { before, after });
        }
        (document_key(&put.key), value)
    }

    fn note(&mut self, before: Option<&Record>, after: Option<Bytes>, cause: Cause) {
        let before = before.map(|record| StoredRecord::of_record(record).encoded());
        self.0.events.push(StoredEvent { before, after, cause: cause.into() });
    }

    /// The value; none if watchers see nothing of this revision.
    pub(super) fn encoded(&self) -> Option<Vec<u8>> {
        (!self.0.events.is_empty() || !self.0.turns.is_empty()).then(|| self.0.encode_to_vec())
    }
}

/// Whether a change keeps a service's entry in `known`, as (namespace, service, seconds), or takes it away.
pub(super) fn known_change(change: &Change) -> Option<(Vec<u8>, Option<u64>)> {
    match change {
        Change::Put(_) | Change::Document(_) => None,
        Change::Delete(delete) => Some((known_key(&delete.key.namespace, &delete.key.service), Some(delete.at))),
        Change::Forget { namespace, service } => Some((known_key(namespace, service), None)),
    }
}
