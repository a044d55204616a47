//! What the hostile engine committed: the account that it keeps beside its user's, and checks every guard against.

use std::{collections::BTreeMap, sync::Arc};

use smol_str::SmolStr;
use uuid::Uuid;

use crate::{
    engine::{Epoch, Proposal, Recovered, TailEntry},
    registry::{Change, Document, DocumentEvent, DocumentKey, Event, Guarded, Held, Key, Record, Revision, put_cause},
};

/// Everything that was committed.
#[derive(Debug, Default)]
pub(super) struct Truth {
    registry_id: Uuid,
    pub(super) epochs: Vec<Epoch>,
    pub(super) revision: Revision,
    records: BTreeMap<Key, Record>,
    known: BTreeMap<(SmolStr, SmolStr), u64>,
    documents: BTreeMap<DocumentKey, Arc<Document>>,
    log: Vec<TailEntry>,
}

impl Truth {
    /// Nothing yet.
    pub(super) fn new(registry_id: Uuid, epoch: Epoch) -> Self {
        Self { registry_id, epochs: vec![epoch], ..Self::default() }
    }

    /// Whether every guard of the proposal holds: what it was decided by is still there.
    pub(super) fn holds(&self, proposal: &Proposal) -> bool {
        let held = |change: &Change| match change {
            Change::Document(put) => self.documents.get(&put.key).cloned().map(Held::Document),
            _ => change.key().and_then(|key| self.records.get(&key)).cloned().map(Held::Record),
        };
        let holds = |guarded: &Guarded| match &guarded.change {
            Change::Forget { namespace, service } => {
                !self.records.keys().any(|key| key.namespace == *namespace && key.service == *service)
            }
            change => held(change) == guarded.before,
        };
        let stands = |read: &Record| self.records.get(&read.key()) == Some(read);
        proposal.changes.iter().all(holds) && proposal.reads.iter().all(stands)
    }

    /// Takes in what is committed.
    pub(super) fn commit(&mut self, revision: Revision, changes: &[Change]) {
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
                    let before = match &after {
                        Some(after) => self.documents.insert(put.key.clone(), Arc::clone(after)),
                        None => self.documents.remove(&put.key),
                    };
                    documents.extend(put.key.kind.is_watched().then_some(DocumentEvent { before, after }));
                }
            }
        }
        events.retain(Event::is_visible);
        if !events.is_empty() || !documents.is_empty() {
            self.log.push(TailEntry { revision, events, documents });
        }
    }

    /// As a store would be opened.
    pub(super) fn recovered(&self) -> Recovered {
        let known = self.known.iter().map(|((namespace, service), at)| (namespace.clone(), service.clone(), *at));
        Recovered {
            registry_id: self.registry_id,
            epochs: self.epochs.clone(),
            revision: self.revision,
            records: self.records.values().cloned().collect(),
            known: known.collect(),
            documents: self.documents.values().cloned().collect(),
            tail: self.log.clone(),
            tail_after: 0,
        }
    }
}
