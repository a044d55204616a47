//! The store on the embedded library: how revisions become key-value pairs, and how they are read back. Knows nothing
//! of threads, tickets or retries.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `state` | namespace NUL service NUL id | `StoredRecord` |
//! | `known` | namespace NUL service | Unix seconds of the last removal, 8 bytes big-endian |
//! | `log` | revision, 8 bytes big-endian | `StoredRevision`; none for a revision that no watcher sees |
//! | `documents` | kind, 1 byte; namespace NUL name | `StoredDocument` |
//! | `meta` | `last`, `epochs`, `registry` | `StoredLast`, `StoredEpochs`, the 16 bytes of the registry id |

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::Path,
    thread,
    time::Duration,
};

use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::{BlockSizePolicy, FilterPolicy},
};
use prost::Message;
use uuid::Uuid;

use super::{
    format::{LAST, LogEntry, StoredEpoch, StoredEpochs, StoredLast, encode_u64, known_change},
    recovery::{self, joined, logged_bytes},
};
use crate::{
    engine::{Epoch, Proposal, Recovered},
    registry::{Change, Revision},
};

/// Bytes that each keyspace gathers in memory before they become a table.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// Bytes of a table's block. Only recovery reads, and it reads everything: no small blocks, no filters, hardly a cache.
const BLOCK_BYTES: u32 = 16 << 10;
/// Cache of blocks.
const CACHE_BYTES: u64 = 1 << 20;
/// The library's threads: one makes tables of what is in memory while the other merges tables.
const WORKERS: usize = 2;
/// Journals may take so much; the library's least. What is in them is replayed at the start.
const JOURNAL_BYTES: u64 = 64 << 20;
/// The library halts a writer for ever when 4 memtables wait for a worker that has died, so we halt before that.
const SEALED_MAX: usize = 2;
/// The same for tables that wait for compaction, where it halts at 30.
const TABLES_WAITING_MAX: usize = 18;
/// How often a halted writer looks again.
const HALT: Duration = Duration::from_millis(2);
/// Epochs kept. A resume token of an older one is answered as one of another history: with a snapshot.
const EPOCHS_MAX: usize = 1024;

/// A revision to be written.
pub(super) struct Group {
    /// Its number.
    pub(super) revision: Revision,
    /// What it commits, in order.
    pub(super) proposals: Vec<Proposal>,
}

/// What went wrong in the store.
#[derive(Debug)]
pub(super) enum StoreError {
    /// Another process has it open.
    Locked,
    /// The system refused.
    Io(io::Error),
    /// A sync failed: what the system holds in memory may differ from the disk.
    Sync(io::Error),
    /// The library does not write any more since an earlier failure.
    Poisoned,
    /// What is stored is not what was stored.
    Corrupt(String),
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Locked => Self::Locked,
            fjall::Error::Poisoned => Self::Poisoned,
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
                // What only a file that is not as it was written leads to.
                if matches!(error.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof) {
                    Self::Corrupt(format!("reading it failed: {error}"))
                } else {
                    Self::Io(error)
                }
            }
            other => Self::Corrupt(other.to_string()),
        }
    }
}

/// An open store.
pub(super) struct FjallStore {
    db: Database,
    state: Keyspace,
    known: Keyspace,
    log: Keyspace,
    documents: Keyspace,
    meta: Keyspace,
    max_log_bytes: u64,
    /// What the log holds, oldest first: revision and bytes as stored.
    logged: VecDeque<(Revision, u64)>,
    log_bytes: u64,
    last: StoredLast,
}

/// Fills an empty directory with a store that has no history.
pub(super) fn create(dir: &Path, registry_id: Uuid) -> Result<(), StoreError> {
    let db = database(dir)?;
    let meta = keyspaces(&db)?[3].clone();
    let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&meta, "registry", registry_id.as_bytes().as_slice());
    batch.insert(&meta, LAST, StoredLast::default().encode_to_vec());
    batch.insert(&meta, "epochs", StoredEpochs::default().encode_to_vec());
    Ok(batch.commit()?)
}

fn database(dir: &Path) -> Result<Database, StoreError> {
    let builder = Database::builder(dir).manual_journal_persist(true);
    Ok(builder.cache_size(CACHE_BYTES).worker_threads(WORKERS).max_journaling_size(JOURNAL_BYTES).open()?)
}

/// Makes a store of an earlier format one of this: what it lacks is there, and empty. It is on disk when this returns.
pub(super) fn upgrade(dir: &Path) -> Result<(), StoreError> {
    let db = database(dir)?;
    let [.., meta, _] = keyspaces(&db)?;
    let last = meta.get(LAST)?.ok_or_else(|| StoreError::Corrupt("its entry meta/last is missing".into()))?;
    // Something has to be written, so that what was made is on disk with it.
    let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&meta, LAST, &*last);
    Ok(batch.commit()?)
}

/// How many keyspaces a store of this format has.
pub(super) fn keyspaces_of(format: u32) -> usize {
    if format == 1 { 4 } else { KEYSPACES }
}

/// Makes the store in `from` anew in `to`, without what format 2 brought.
#[cfg(test)]
pub(super) fn downgrade(from: &Path, to: &Path) {
    let (old, new) = (database(from).unwrap(), database(to).unwrap());
    for name in ["state", "known", "log", "meta"] {
        let (old, new) = (old.keyspace(name, options).unwrap(), new.keyspace(name, options).unwrap());
        for entry in old.iter() {
            let (key, value) = entry.into_inner().unwrap();
            new.insert(&*key, &*value).unwrap();
        }
    }
    new.persist(PersistMode::SyncAll).unwrap();
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .manual_journal_persist(true)
        .max_memtable_size(MEMTABLE_BYTES)
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .filter_policy(FilterPolicy::disabled())
}

/// How many keyspaces there are.
pub(super) const KEYSPACES: usize = 5;

fn keyspaces(db: &Database) -> Result<[Keyspace; KEYSPACES], StoreError> {
    let open = |name| db.keyspace(name, options);
    // In the order in which formats brought them.
    Ok([open("state")?, open("known")?, open("log")?, open("meta")?, open("documents")?])
}

impl FjallStore {
    /// Opens the store in `dir`, which has been created before, and reads all of it.
    pub(super) fn open(dir: &Path, max_log_bytes: u64) -> Result<(Self, Recovered), StoreError> {
        let db = database(dir)?;
        if db.keyspace_count() != KEYSPACES {
            return Err(StoreError::Corrupt(format!("it has {} of {KEYSPACES} keyspaces", db.keyspace_count())));
        }
        let [state, known, log, meta, documents] = keyspaces(&db)?;
        let (logged, log_bytes, last) = (VecDeque::new(), 0, StoredLast::default());
        let mut store = Self { db, state, known, log, documents, meta, max_log_bytes, logged, log_bytes, last };
        let recovered = store.recover()?;
        Ok((store, recovered))
    }

    fn recover(&mut self) -> Result<Recovered, StoreError> {
        let missing = |name: &str| StoreError::Corrupt(format!("its entry meta/{name} is missing or unreadable"));
        let get = |name: &str| self.meta.get(name)?.ok_or_else(|| missing(name));
        let registry_id = Uuid::from_slice(&get("registry")?).map_err(|_| missing("registry"))?;
        let last = StoredLast::decode(&*get(LAST)?).map_err(|_| missing(LAST))?;
        let epochs = StoredEpochs::decode(&*get("epochs")?).map_err(|_| missing("epochs"))?.epochs;
        self.last = StoredLast { acknowledged: last.revision, ..last };
        let (records, others) = thread::scope(|scope| {
            let log = scope.spawn(|| Ok((recovery::tail(&self.log, last.tail_after)?, recovery::known(&self.known)?)));
            (recovery::records(&self.state), joined(log))
        });
        let ((tail, logged), known) = others?;
        self.log_bytes = logged.iter().map(|(_, bytes)| bytes).sum();
        self.logged = logged;
        Ok(Recovered {
            registry_id,
            epochs: epochs.into_iter().map(|StoredEpoch { id, after }| Epoch { id, after }).collect(),
            revision: last.revision,
            records: records?,
            known,
            documents: recovery::documents(&self.documents)?,
            tail,
            tail_after: last.tail_after,
        })
    }

    /// Adds `epoch` to the epochs, if there is one; they are on disk when this returns.
    pub(super) fn begin(&mut self, epochs: &mut Vec<Epoch>, epoch: Option<Epoch>) -> Result<(), StoreError> {
        epochs.extend(epoch);
        epochs.drain(..epochs.len().saturating_sub(EPOCHS_MAX));
        let stored = epochs.iter().map(|&Epoch { id, after }| StoredEpoch { id, after }).collect();
        let mut batch = self.db.batch().durability(None);
        batch.insert(&self.meta, "epochs", StoredEpochs { epochs: stored }.encode_to_vec());
        batch.insert(&self.meta, LAST, self.last.encode_to_vec());
        batch.commit()?;
        self.sync()
    }

    /// Writes the groups in order, each atomically; all are on disk when this returns.
    pub(super) fn commit(&mut self, groups: &[Group]) -> Result<(), StoreError> {
        for group in groups {
            self.halt()?;
            self.write(group)?;
        }
        self.sync()?;
        self.last.acknowledged = self.last.revision;
        Ok(())
    }

    fn write(&mut self, group: &Group) -> Result<(), StoreError> {
        let mut batch = self.db.batch().durability(None);
        let mut entry = LogEntry::default();
        // Within one batch the library does not say which of two writes of one key is the later: the last wins here.
        let mut known = BTreeMap::new();
        let changes = group.proposals.iter().flat_map(|proposal| &proposal.changes);
        for (place, guarded) in changes.enumerate() {
            match &guarded.change {
                Change::Put(put) => {
                    let (key, value) = entry.put(guarded, put, group.revision, place as u32);
                    batch.insert(&self.state, key, &*value);
                }
                Change::Delete(delete) => {
                    let key = &delete.key;
                    entry.delete(guarded.record(), delete.cause);
                    batch.remove(&self.state, super::format::state_key(&key.namespace, &key.service, &key.id));
                }
                Change::Forget { .. } => {}
                Change::Document(put) => match entry.document(guarded, put, group.revision) {
                    (key, Some(value)) => batch.insert(&self.documents, key, value),
                    (key, None) => batch.remove(&self.documents, key),
                },
            }
            known.extend(known_change(&guarded.change));
        }
        for (key, at) in known {
            match at {
                Some(at) => batch.insert(&self.known, key, encode_u64(at).as_slice()),
                None => batch.remove(&self.known, key),
            }
        }
        self.log(&mut batch, group.revision, entry.encoded());
        self.last.revision = group.revision;
        batch.insert(&self.meta, LAST, self.last.encode_to_vec());
        Ok(batch.commit()?)
    }

    /// Adds a revision's events to the log and trims it to its size.
    fn log(&mut self, batch: &mut fjall::OwnedWriteBatch, revision: Revision, entry: Option<Vec<u8>>) {
        let Some(entry) = entry else { return };
        let bytes = logged_bytes(entry.len());
        while self.log_bytes + bytes > self.max_log_bytes
            && let Some((oldest, freed)) = self.logged.pop_front()
        {
            batch.remove(&self.log, encode_u64(oldest).as_slice());
            self.last.tail_after = oldest;
            self.log_bytes -= freed;
        }
        if bytes > self.max_log_bytes {
            self.last.tail_after = revision;
            return;
        }
        self.logged.push_back((revision, bytes));
        self.log_bytes += bytes;
        batch.insert(&self.log, encode_u64(revision).as_slice(), entry);
    }

    fn keyspaces(&self) -> [&Keyspace; KEYSPACES] {
        [&self.state, &self.known, &self.log, &self.documents, &self.meta]
    }

    /// Waits for the library's workers where it would wait itself, but not for dead ones.
    fn halt(&self) -> Result<(), StoreError> {
        let behind = |keyspace: &Keyspace| {
            keyspace.tree.sealed_memtable_count() > SEALED_MAX || keyspace.tree.l0_run_count() > TABLES_WAITING_MAX
        };
        while self.keyspaces().into_iter().any(behind) {
            self.db.persist(PersistMode::Buffer)?; // refused when a worker has died
            std::thread::sleep(HALT);
        }
        Ok(())
    }

    /// Makes tables of everything that is in memory.
    #[cfg(test)]
    pub(super) fn flush(&self) {
        for keyspace in self.keyspaces() {
            keyspace.rotate_memtable_and_wait().unwrap();
        }
    }

    /// Puts everything written so far on disk.
    fn sync(&self) -> Result<(), StoreError> {
        self.db.persist(PersistMode::Buffer)?;
        self.db.persist(PersistMode::SyncAll).map_err(|error| match error.into() {
            StoreError::Io(error) => StoreError::Sync(error),
            other => other,
        })
    }
}
