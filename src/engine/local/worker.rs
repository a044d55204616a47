//! The thread that owns the store: it gathers what was proposed, gives it revisions, commits, and after a failure
//! closes and reopens until what the store holds is known again. Knows neither the library nor the directory.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

use super::{OpenError, store::Group, store::StoreError};
use crate::{
    engine::{EngineError, Epoch, Proposal, Recovered, Step, committed, next_group},
    metrics::Metrics,
    registry::Revision,
};

/// Most revisions that wait for one sync: more would only delay the first of them.
const SYNC_GROUPS_MAX: usize = 16;
/// The first and the longest pause before a store is opened again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A store that fails again sooner than this goes on with longer pauses: what its user does to reload is not cheap.
const STEADY: Duration = Duration::from_secs(10);

/// A batch and the generation of the engine's comings and goings that it was proposed in.
pub(super) type Batch = (u64, Vec<Proposal>);

/// An open store.
pub(super) trait Store: Send + 'static {
    /// Writes the groups in order, each atomically; all are on disk when this returns. After an error the store is only
    /// good for being dropped, and whether a group was written is known when it is opened again.
    fn commit(&mut self, groups: &[Group]) -> Result<(), StoreError>;
}

/// Opens the store, again and again if need be.
pub(super) trait Opener: Send + 'static {
    /// What it opens.
    type Store: Store;

    /// Opens the store and begins the epochs that `begin` asks for; they are on disk when this returns.
    fn open(&mut self, begin: Begin) -> Result<(Self::Store, Recovered), OpenError>;

    /// Takes note of a failure, and says it as a sentence without a full stop.
    fn failed(&mut self, error: StoreError) -> String;
}

/// When an opened store begins a new stretch of history.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// Always: the process is new.
    Epoch(u64),
    /// Only if the store ends before this revision, which had been acknowledged.
    IfLost(Revision),
}

impl Begin {
    /// The epoch to begin in a store whose last revision is `found`.
    pub(super) fn epoch(self, found: Revision) -> Option<Epoch> {
        match self {
            Self::Epoch(id) => Some(Epoch { id, after: found }),
            Self::IfLost(acknowledged) if found < acknowledged => {
                Some(Epoch { id: getrandom::u64().unwrap_or(acknowledged), after: found })
            }
            Self::IfLost(_) => None,
        }
    }
}

/// The pause after `pause`.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(BACKOFF.1)
}

/// The engine can no longer be asked for anything.
struct Closed;

/// The state of the thread.
pub(super) struct Worker<O: Opener> {
    pub(super) opener: O,
    pub(super) inbox: Receiver<Batch>,
    pub(super) steps: UnboundedSender<Result<Step, EngineError>>,
    /// The last revision that was acknowledged.
    pub(super) revision: Revision,
    /// Counts how often the engine went away: what was proposed before is dropped.
    generation: u64,
    queue: VecDeque<Proposal>,
    /// The last pause, and when the store was opened after it.
    paused: Option<(Duration, Instant)>,
    metrics: Arc<Metrics>,
}

impl<O: Opener> Worker<O> {
    pub(super) fn new(
        opener: O,
        inbox: Receiver<Batch>,
        steps: UnboundedSender<Result<Step, EngineError>>,
        revision: Revision,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { opener, inbox, steps, revision, generation: 0, queue: VecDeque::new(), paused: None, metrics }
    }

    /// Commits until the engine is closed, and what was proposed before that.
    pub(super) fn run(mut self, store: O::Store) {
        let mut store = Some(store);
        while let Some(open) = &mut store
            && let Ok(batch) = self.inbox.recv()
        {
            self.take(batch);
            if let Err(error) = self.commit_gathered(open) {
                drop(store.take()); // fully closed before it is opened again
                store = self.reopen(error).ok();
            }
        }
    }

    fn take(&mut self, (generation, batch): Batch) {
        if generation == self.generation {
            self.queue.extend(batch);
        }
    }

    /// Commits what is queued and what gathers meanwhile.
    fn commit_gathered(&mut self, store: &mut O::Store) -> Result<(), StoreError> {
        loop {
            while let Ok(batch) = self.inbox.try_recv() {
                self.take(batch);
            }
            if self.queue.is_empty() {
                return Ok(());
            }
            let (mut groups, mut revision) = (Vec::new(), self.revision);
            while groups.len() < SYNC_GROUPS_MAX && !self.queue.is_empty() {
                revision += 1;
                groups.push(Group { revision, proposals: next_group(&mut self.queue) });
            }
            let begun = Instant::now();
            store.commit(&groups).inspect_err(|_| self.metrics.commit_failures.inc())?;
            self.metrics.commit.observe(begun.elapsed());
            self.metrics.commit_commands.observe(groups.iter().map(|group| group.proposals.len() as u64).sum());
            self.revision = revision;
            for Group { revision, proposals } in groups {
                self.tell(committed(revision, proposals));
            }
        }
    }

    /// Says that the engine is away, opens the store until it opens, and says what it holds.
    fn reopen(&mut self, error: StoreError) -> Result<O::Store, Closed> {
        let reason = self.opener.failed(error);
        tracing::error!("{reason}; nothing is committed until the store has been opened again");
        self.tell(Step::Away { reason: reason.into() });
        self.generation += 1;
        self.queue.clear();
        let mut pause = match self.paused {
            Some((pause, opened)) if opened.elapsed() < STEADY => longer(pause),
            _ => BACKOFF.0,
        };
        loop {
            self.wait(pause)?;
            match self.opener.open(Begin::IfLost(self.revision)) {
                Ok((store, recovered)) => {
                    tracing::info!("the store is open again, at revision {}", recovered.revision);
                    self.revision = recovered.revision;
                    self.paused = Some((pause, Instant::now()));
                    self.tell(Step::Reload(Box::new(recovered)));
                    self.tell(Step::Back);
                    return Ok(store);
                }
                Err(error) => {
                    pause = longer(pause);
                    tracing::warn!("{error}; trying again in {pause:?}");
                }
            }
        }
    }

    /// Lets `pause` pass; what is proposed meanwhile is dropped.
    fn wait(&mut self, pause: Duration) -> Result<(), Closed> {
        let end = Instant::now() + pause;
        loop {
            match self.inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Closed),
            }
        }
    }

    fn tell(&self, step: Step) {
        // Nobody listens any more: what is queued is still committed, and then the inbox is closed too.
        let _ = self.steps.send(Ok(step));
    }
}
