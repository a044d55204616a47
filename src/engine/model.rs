//! What an engine should hold, kept the simple way: the tests of every engine drive it with this.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use prost::Message;
use smol_str::SmolStr;
use uuid::Uuid;

use super::{Engine, Epoch, Proposal, Recovered, Step, TailEntry, Ticket};
use crate::registry::{
    Cause, Change, Delete, Document, DocumentEvent, DocumentKey, DocumentPut, Event, Guarded, Held, Instance, Key,
    Kind, Lease, Put, Record, Revision, SecretHash, Stamp, Status, put_cause,
};

/// What a test does to a key.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Register {
        key: u8,
        size: usize,
    },
    Update {
        key: u8,
    },
    Renew {
        key: u8,
    },
    Delete {
        key: u8,
    },
    Forget {
        key: u8,
    },
    /// A document, watched or not.
    Write {
        key: u8,
        size: usize,
    },
    Erase {
        key: u8,
    },
}

impl Op {
    fn key(&self) -> u8 {
        match *self {
            Self::Register { key, .. } | Self::Update { key } | Self::Renew { key } => key,
            Self::Delete { key } | Self::Forget { key } => key,
            Self::Write { key, .. } | Self::Erase { key } => key,
        }
    }

    /// What no two of in one batch may share: a service, or the documents of a namespace.
    fn latch(&self) -> u8 {
        match self {
            Self::Write { .. } | Self::Erase { .. } => u8::MAX,
            _ => self.key() / 2,
        }
    }
}

fn document_key(key: u8) -> DocumentKey {
    let kind = if key.is_multiple_of(2) { Kind::Backend } else { Kind::Frontend };
    DocumentKey { kind, namespace: "default".into(), name: format!("document-{}", key / 2).into() }
}

/// Two keys a service.
fn name(key: u8) -> Key {
    Key::new("default", format!("service-{}", key / 2), format!("id-{key}"))
}

fn documents_of(recovered: &Recovered) -> BTreeMap<DocumentKey, Arc<Document>> {
    recovered.documents.iter().map(|document| (document.key.clone(), Arc::clone(document))).collect()
}

fn lease(ttl: u32, principal: Option<&str>) -> Lease {
    let secret = SecretHash([ttl as u8; 16]);
    Lease {
        ttl,
        secret,
        request: u64::MAX - u64::from(ttl),
        principal: principal.map(Into::into),
        unfenced: ttl.is_multiple_of(2),
    }
}

fn describe(key: &Key, status: Status, size: usize) -> bytes::Bytes {
    let instance = Instance {
        namespace: key.namespace.to_string(),
        service: key.service.to_string(),
        id: key.id.to_string(),
        version: "v".repeat(size),
        status: status.into(),
        ..Instance::default()
    };
    instance.encode_to_vec().into()
}

/// What an engine should hold, kept the simple way.
pub(super) struct Model {
    registry_id: Uuid,
    pub(super) revision: Revision,
    pub(super) records: BTreeMap<Key, Record>,
    pub(super) known: BTreeMap<(SmolStr, SmolStr), u64>,
    pub(super) documents: BTreeMap<DocumentKey, Arc<Document>>,
    pub(super) log: Vec<TailEntry>,
    pub(super) epochs: Vec<Epoch>,
    /// Proposed so far.
    tickets: u64,
}

impl Model {
    /// No history yet.
    pub(super) fn new(registry_id: Uuid, epochs: Vec<Epoch>) -> Self {
        Self {
            registry_id,
            revision: 0,
            records: BTreeMap::new(),
            known: BTreeMap::new(),
            documents: BTreeMap::new(),
            log: Vec::new(),
            epochs,
            tickets: 0,
        }
    }

    /// The proposal that `op` is in this state, if it is one.
    pub(super) fn propose(&mut self, op: &Op) -> Option<Proposal> {
        if let Op::Write { .. } | Op::Erase { .. } = op {
            return self.propose_document(op);
        }
        let key = name(op.key());
        let before = self.records.get(&key).cloned();
        let put = |description, lease, incarnation, ordinal, revision| {
            Change::Put(Put { description, lease, incarnation, ordinal, revision })
        };
        let change = match (op, &before) {
            (Op::Register { size, .. }, _) => {
                let lease = lease(10_000 + *size as u32, (size % 2 == 0).then_some("someone"));
                put(describe(&key, Status::Serving, *size), lease, Stamp::Commit, 0, Stamp::Commit)
            }
            (Op::Update { .. }, Some(held)) => {
                let incarnation = Stamp::At(held.incarnation);
                let description = describe(&key, Status::Draining, 3);
                put(description, held.lease.clone(), incarnation, held.ordinal, Stamp::Commit)
            }
            (Op::Renew { .. }, Some(held)) => {
                let (incarnation, revision) = (Stamp::At(held.incarnation), Stamp::At(held.revision));
                let description = bytes::Bytes::copy_from_slice(held.description());
                put(description, lease(5, None), incarnation, held.ordinal, revision)
            }
            (Op::Delete { .. }, Some(_)) => {
                let at = 1_000 + self.revision;
                Change::Delete(Delete { key, cause: Cause::Expired, at })
            }
            (Op::Forget { .. }, _) => Change::Forget { namespace: key.namespace, service: key.service },
            _ => return None,
        };
        self.tickets += 1;
        Some(Proposal {
            ticket: Ticket(self.tickets),
            changes: vec![Guarded::of_instance(change, before.as_ref())],
            reads: Vec::new(),
        })
    }

    fn propose_document(&mut self, op: &Op) -> Option<Proposal> {
        let key = document_key(op.key());
        let before = self.documents.get(&key).cloned();
        let body = match op {
            Op::Write { size, .. } => Some(vec![b'x'; *size].into()),
            _ if before.is_none() => return None,
            _ => None,
        };
        self.tickets += 1;
        let change = Change::Document(DocumentPut { key, body });
        let changes = vec![Guarded { change, before: before.map(Held::Document) }];
        Some(Proposal { ticket: Ticket(self.tickets), changes, reads: Vec::new() })
    }

    /// Takes in what was committed.
    pub(super) fn fold(&mut self, revision: Revision, changes: &[Change]) {
        assert!(revision > self.revision);
        self.revision = revision;
        let (mut events, mut documents) = (Vec::new(), Vec::new());
        for (place, change) in changes.iter().enumerate() {
            match change {
                Change::Put(put) => {
                    let record = put.record(revision, place as u32);
                    let before = self.records.insert(put.key(), record.clone());
                    let cause = put_cause(before.as_ref(), record.incarnation);
                    events.push(Event { before, after: Some(record), cause, slot: 0 });
                }
                Change::Delete(delete) => {
                    let before = self.records.remove(&delete.key);
                    self.known.insert((delete.key.namespace.clone(), delete.key.service.clone()), delete.at);
                    events.push(Event { before, after: None, cause: delete.cause, slot: 0 });
                }
                Change::Forget { namespace, service } => {
                    self.known.remove(&(namespace.clone(), service.clone()));
                }
                Change::Document(put) => {
                    let after = put.document(revision).map(Arc::new);
                    let before = self.documents.remove(&put.key);
                    self.documents.extend(after.clone().map(|after| (put.key.clone(), after)));
                    if put.key.kind == Kind::Frontend {
                        documents.push(DocumentEvent { before, after });
                    }
                }
            }
        }
        events.retain(Event::is_visible);
        if !events.is_empty() || !documents.is_empty() {
            self.log.push(TailEntry { revision, events, documents });
        }
    }

    /// Takes what the engine holds after a failure for the truth, and panics if it cannot be: only keys of `in_flight`
    /// may differ, and only as these would have it.
    pub(super) fn reload(&mut self, recovered: Recovered, in_flight: &[Proposal]) {
        assert!(recovered.revision >= self.revision, "{} after {}", recovered.revision, self.revision);
        assert_eq!(recovered.epochs, self.epochs);
        let found: BTreeMap<_, _> = recovered.records.iter().map(|record| (record.key(), record.clone())).collect();
        for guarded in in_flight.iter().flat_map(|proposal| &proposal.changes) {
            let Some(key) = guarded.change.key() else { continue };
            let as_wanted = match (&guarded.change, found.get(&key)) {
                (Change::Put(put), Some(held)) => held.description() == put.description && held.lease == put.lease,
                (Change::Delete(_), None) => true,
                _ => false,
            };
            assert!(as_wanted || found.get(&key) == self.records.get(&key), "{key}: {:?}", found.get(&key));
            match found.get(&key) {
                Some(held) => self.records.insert(key, held.clone()),
                None => self.records.remove(&key),
            };
        }
        assert_eq!(self.records, found);
        let wanted = |key: &DocumentKey, found: Option<&Arc<Document>>| {
            let changes = in_flight.iter().flat_map(|proposal| &proposal.changes);
            changes
                .filter_map(|guarded| match &guarded.change {
                    Change::Document(put) if put.key == *key => Some(put.body.as_ref()),
                    _ => None,
                })
                .any(|body| body == found.map(|document| &document.body))
        };
        let found = documents_of(&recovered);
        for key in self.documents.keys().chain(found.keys()) {
            let (was, is) = (self.documents.get(key), found.get(key));
            assert!(was == is || wanted(key, is), "{key:?}: {was:?} became {is:?}");
        }
        self.adopt(recovered);
    }

    /// Takes what an engine holds for the truth.
    pub(super) fn adopt(&mut self, recovered: Recovered) {
        self.documents = documents_of(&recovered);
        self.records = recovered.records.into_iter().map(|record| (record.key(), record)).collect();
        self.revision = recovered.revision;
        self.known = recovered.known.into_iter().map(|(namespace, service, at)| ((namespace, service), at)).collect();
        self.log = recovered.tail;
    }

    /// Panics where `recovered` differs.
    pub(super) fn check(&self, recovered: &Recovered) {
        assert_eq!(recovered.registry_id, self.registry_id);
        assert_eq!(recovered.epochs, self.epochs);
        assert_eq!(recovered.revision, self.revision);
        let by_key = recovered.records.iter().map(|record| (record.key(), record.clone())).collect();
        assert_eq!(self.records, by_key);
        assert_eq!(self.documents, documents_of(recovered));
        let known = recovered.known.iter().map(|(namespace, service, at)| ((namespace.clone(), service.clone()), *at));
        assert_eq!(self.known, known.collect());
        let kept: Vec<_> = self.log.iter().filter(|entry| entry.revision > recovered.tail_after).collect();
        assert_eq!(format!("{kept:?}"), format!("{:?}", recovered.tail.iter().collect::<Vec<_>>()));
    }
}

/// Proposes each batch and folds what is committed of it into the model. When the engine goes away: why, and what was
/// in flight.
pub(super) async fn drive<E: Engine>(
    engine: &mut E,
    model: &mut Model,
    batches: &[Vec<Op>],
) -> Result<(), (SmolStr, Vec<Proposal>)> {
    for batch in batches {
        let mut taken = Vec::new();
        let mut waiting = Vec::new();
        for op in batch {
            // One proposal a service: a latch holds a key, and `Forget` is about a service.
            if !taken.contains(&op.latch()) {
                taken.push(op.latch());
                waiting.extend(model.propose(op));
            }
        }
        engine.propose(waiting.clone());
        while !waiting.is_empty() {
            match engine.next().await {
                Ok(Step::Committed { revision, changes, tickets }) => {
                    model.fold(revision, &changes);
                    waiting.retain(|proposal| !tickets.contains(&proposal.ticket));
                }
                Ok(Step::Away { reason }) => return Err((reason, waiting)),
                other => panic!("{other:?}"),
            }
        }
    }
    Ok(())
}

/// Waits until the engine is back, and takes what it holds for the truth.
pub(super) async fn come_back<E: Engine>(engine: &mut E, model: &mut Model, in_flight: &[Proposal]) {
    match engine.next().await {
        Ok(Step::Reload(recovered)) => model.reload(*recovered, in_flight),
        other => panic!("{other:?}"),
    }
    assert!(matches!(engine.next().await, Ok(Step::Back)));
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let key = 0..12u8;
    prop_oneof![
        4 => (key.clone(), 0..2_000usize).prop_map(|(key, size)| Op::Register { key, size }),
        2 => key.clone().prop_map(|key| Op::Update { key }),
        2 => key.clone().prop_map(|key| Op::Renew { key }),
        3 => key.clone().prop_map(|key| Op::Delete { key }),
        2 => (key.clone(), 0..2_000usize).prop_map(|(key, size)| Op::Write { key, size }),
        1 => key.clone().prop_map(|key| Op::Erase { key }),
        1 => key.prop_map(|key| Op::Forget { key }),
    ]
}
