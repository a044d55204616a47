//! The durable engine of a single node: a directory, an embedded store in it, and one thread that owns the store.
//! What gathers while the disk is busy is committed together. Why this store, and what was measured:
//! `docs/decisions/0002-engine.md`.

mod format;
mod home;
mod journal;
mod recovery;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Instant,
};

use tokio::sync::mpsc;
use uuid::Uuid;

use self::{
    format::FORMAT,
    home::{Committed, Home},
    store::{FjallStore, Group, StoreError},
    worker::{Batch, Begin, Opener, Store, Worker},
};
use super::{Engine, EngineError, Proposal, Recovered, Step};
use crate::metrics::Metrics;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most bytes of events, as stored, that are kept for watchers who come back. Default of `serve`: see its flags.
    pub max_log_bytes: u64,
    /// Id of the epoch that begins now; drawn at random.
    pub epoch: u64,
    /// The registry's id, used if the store is new; drawn at random.
    pub fresh_registry_id: Uuid,
    /// Where commits are counted.
    pub metrics: Arc<Metrics>,
}

/// Why a store does not open. Each is one sentence for a person.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another engine of this one, has it.
    #[error("another onair serves from {}: stop it, or give this one a data directory of its own", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// It was written by a newer onair.
    #[error(
        "the store in {} has format {found}, but this onair knows formats up to {supported}: use the newer onair that \
         wrote it", dir.display()
    )]
    Newer {
        /// The data directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The latest that is known here.
        supported: u32,
    },
    /// It is damaged. Nothing was thrown away.
    #[error("the store in {} is damaged: {what}; {advice}", dir.display())]
    Corrupt {
        /// The data directory.
        dir: PathBuf,
        /// What is known.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The system refused: permission, full disk, not a directory.
    #[error("the data directory {} cannot be used: {source}", dir.display())]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds something else.
    #[error("{} is not empty and holds no onair store: give an empty directory, or one that does not exist", dir.display())]
    NotOurs {
        /// The data directory.
        dir: PathBuf,
    },
}

/// Why an engine does not start.
#[derive(Debug)]
enum StartError {
    Open(OpenError),
    Thread(io::Error),
}

/// Commits to a directory.
#[derive(Debug)]
pub struct LocalEngine {
    inbox: std_mpsc::Sender<Batch>,
    steps: mpsc::UnboundedReceiver<Result<Step, EngineError>>,
    /// How often we were told that the engine went away: the thread drops what was proposed before.
    generation: u64,
}

impl LocalEngine {
    /// Opens the store in `dir`, or makes one, and begins an epoch in it. Blocks while it reads.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovered), OpenError> {
        let home = Home::claim(dir)?;
        let Options { max_log_bytes, epoch, fresh_registry_id, metrics } = options;
        let opener = Fjall { home, max_log_bytes, fresh_registry_id };
        Self::start(opener, epoch, metrics).map_err(|error| match error {
            StartError::Open(error) => error,
            StartError::Thread(source) => OpenError::Io { dir: dir.into(), source },
        })
    }

    fn start<O: Opener>(mut opener: O, epoch: u64, metrics: Arc<Metrics>) -> Result<(Self, Recovered), StartError> {
        let (store, recovered) = opener.open(Begin::Epoch(epoch)).map_err(StartError::Open)?;
        let (inbox, proposed) = std_mpsc::channel();
        let (told, steps) = mpsc::unbounded_channel();
        let worker = Worker::new(opener, proposed, told, recovered.revision, metrics);
        let run = move || worker.run(store);
        thread::Builder::new().name("onair-store".into()).spawn(run).map_err(StartError::Thread)?;
        Ok((Self { inbox, steps, generation: 0 }, recovered))
    }
}

impl Engine for LocalEngine {
    fn propose(&mut self, batch: Vec<Proposal>) {
        // The thread ends only when this sender is gone; if it died, `next` says so.
        let _ = self.inbox.send((self.generation, batch));
    }

    async fn next(&mut self) -> Result<Step, EngineError> {
        let Some(step) = self.steps.recv().await else {
            return Err(EngineError("the thread that owns the store has ended".into()));
        };
        if matches!(step, Ok(Step::Away { .. })) {
            self.generation += 1;
        }
        step
    }

    async fn close(self) {
        let Self { inbox, mut steps, .. } = self;
        drop(inbox);
        while steps.recv().await.is_some() {}
    }
}

/// Opens the embedded store in a directory that is held all the while.
struct Fjall {
    home: Home,
    max_log_bytes: u64,
    fresh_registry_id: Uuid,
}

/// The embedded store and the note of what it acknowledged.
struct Noted {
    store: FjallStore,
    committed: Committed,
}

impl Store for Noted {
    fn commit(&mut self, groups: &[Group]) -> Result<(), StoreError> {
        self.store.commit(groups)?;
        if let Some(last) = groups.last() {
            self.committed.note(last.revision);
        }
        Ok(())
    }
}

impl Opener for Fjall {
    type Store = Noted;

    fn open(&mut self, begin: Begin) -> Result<(Noted, Recovered), OpenError> {
        match self.home.format()? {
            Some(FORMAT) => {}
            Some(older @ 1..FORMAT) => self.upgrade(older)?,
            Some(found) => {
                return Err(OpenError::Newer { dir: self.home.dir().into(), found, supported: FORMAT });
            }
            None => {
                let make = |dir: &Path| store::create(dir, self.fresh_registry_id).map_err(|error| self.error(error));
                self.home.create(make)?;
            }
        }
        let began = Instant::now();
        if let Begin::IfLost(_) = begin {
            self.home.probe()?;
        }
        self.home.trust_again(journal::rewrite)?;
        let (mut store, mut recovered) = self.read()?;
        let mut committed = self.home.committed()?;
        if let (Begin::Epoch(_), Some(acknowledged)) = (begin, committed.revision())
            && recovered.revision < acknowledged
        {
            return Err(self.home.lost(recovered.revision, acknowledged));
        }
        // Written in any case: a store that cannot be written is not open.
        store.begin(&mut recovered.epochs, begin.epoch(recovered.revision)).map_err(|error| self.error(error))?;
        committed.note(recovered.revision);
        let Recovered { revision, records, tail, .. } = &recovered;
        let (records, tail) = (records.len(), tail.len());
        tracing::info!(
            "read {records} instances at revision {revision} and {tail} revisions of the log in {:?}",
            began.elapsed()
        );
        Ok((Noted { store, committed }, recovered))
    }

    fn failed(&mut self, error: StoreError) -> String {
        // A worker of the library that failed may have failed at a sync.
        if matches!(error, StoreError::Sync(_) | StoreError::Poisoned) {
            self.home.distrust();
        }
        self.error(error).to_string()
    }
}

impl Fjall {
    fn upgrade(&self, from: u32) -> Result<(), OpenError> {
        let kept = self.home.upgrade(from, |dir| {
            journal::mend(dir, store::keyspaces_of(from))
                .and_then(|()| store::upgrade(dir))
                .map_err(|error| self.error(error))
        })?;
        tracing::info!(
            "the store was of format {from} and is of {FORMAT} now; the earlier one is kept in {}",
            kept.display()
        );
        Ok(())
    }

    fn read(&self) -> Result<(FjallStore, Recovered), OpenError> {
        journal::mend(&self.home.store(), store::KEYSPACES).map_err(|error| self.error(error))?;
        // The library panics over some kinds of damage. What it had open is closed as the panic unwinds.
        let open = AssertUnwindSafe(|| FjallStore::open(&self.home.store(), self.max_log_bytes));
        match catch_unwind(open) {
            Ok(opened) => opened.map_err(|error| self.error(error)),
            Err(_) => Err(self.home.corrupt("its files do not fit together".into())),
        }
    }

    fn error(&self, error: StoreError) -> OpenError {
        match error {
            StoreError::Locked => OpenError::InUse { dir: self.home.dir().into() },
            StoreError::Io(source) | StoreError::Sync(source) => self.home.io_error(source),
            StoreError::Poisoned => self.home.io_error(io::Error::other("an earlier write failed")),
            StoreError::Corrupt(what) => self.home.corrupt(what),
        }
    }
}
