//! An engine for tests, as hostile as its contract allows: it delays, refuses, reorders, splits, skips revisions,
//! delivers what others propose, goes away and comes back. A seed makes a run repeatable. It keeps the truth of what it
//! committed, checks every guard against it, and panics when its user breaks the contract.
//!
//! Not for serving: it is in the library only so that integration tests can use it.

mod chance;
mod truth;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use self::{chance::Chance, truth::Truth};
use super::{Engine, EngineError, Epoch, Proposal, Recovered, Step, committed, next_group};
use crate::registry::{Change, Fingerprint, Record, Revision};

/// How hostile it is. The default commits at once and in order, one proposal a revision.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// When what was proposed is committed.
    pub delay: Delay,
    /// Of 100 proposals so many are refused although their guards hold.
    pub refuse: u8,
    /// Before so many of 100 commits it goes away and comes back by itself.
    pub leave: u8,
    /// At most so many revisions are skipped at a commit.
    pub skip: u64,
    /// Whether what is in flight is committed in any order.
    pub reorder: bool,
    /// At most so many proposals share a revision.
    pub group: usize,
}

impl Default for Manners {
    fn default() -> Self {
        Self { delay: Delay::None, refuse: 0, leave: 0, skip: 0, reorder: false, group: 1 }
    }
}

impl Manners {
    /// Everything at once.
    #[must_use]
    pub fn worst() -> Self {
        Self { delay: Delay::Polls(8), refuse: 10, leave: 3, skip: 3, reorder: true, group: 5 }
    }
}

/// When what was proposed is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// When it is asked for.
    None,
    /// After up to so many polls, in which other tasks have their turn.
    Polls(u32),
    /// After up to so much of tokio's time.
    Time(Duration),
    /// When the handle releases it.
    Held,
}

/// What becomes of proposals in flight when the engine goes away. Whoever proposed them is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They were committed, if their guards held.
    Committed,
    /// They were not.
    Dropped,
    /// Each by chance.
    Chance,
}

/// The engine.
#[derive(Debug)]
pub struct HostileEngine(HostileHandle);

/// The test's hold on it.
#[derive(Clone, Debug)]
pub struct HostileHandle {
    shared: Arc<Mutex<Shared>>,
    changed: Arc<Notify>,
}

impl HostileEngine {
    /// An engine without data, the handle to it, and what it holds. The same seed and calls give the same run.
    #[must_use]
    pub fn new(seed: u64, manners: Manners) -> (Self, HostileHandle, Recovered) {
        let truth = Truth::new(Uuid::from_u128(u128::from(seed)), Epoch { id: seed, after: 0 });
        let recovered = truth.recovered();
        let shared = Shared {
            manners,
            chance: Chance(seed),
            truth,
            in_flight: VecDeque::new(),
            steps: VecDeque::new(),
            wait: None,
            released: 0,
            refusals: 0,
            presence: Presence::Here,
            told_away: false,
            failed: None,
        };
        let handle = HostileHandle { shared: Arc::new(Mutex::new(shared)), changed: Arc::default() };
        (Self(handle.clone()), handle, recovered)
    }
}

impl HostileHandle {
    /// Changes its manners from now on.
    pub fn behave(&self, manners: Manners) {
        self.update(|shared| (shared.manners, shared.wait) = (manners, None));
    }

    /// Lets the next `commits` commits happen that [`Delay::Held`] holds back.
    pub fn release(&self, commits: usize) {
        self.update(|shared| shared.released += commits);
    }

    /// Refuses the next `proposals` although their guards hold.
    pub fn refuse(&self, proposals: usize) {
        self.update(|shared| shared.refusals += proposals);
    }

    /// Commits changes that another node proposed, at once, whatever is in flight. While the engine is away only the
    /// reload tells of them.
    pub fn foreign(&self, changes: Vec<Change>) -> Revision {
        self.update(|shared| {
            let revision = shared.next_revision();
            shared.truth.commit(revision, &changes);
            if matches!(shared.presence, Presence::Here) {
                shared.steps.push_back(Step::Committed { revision, changes, tickets: Vec::new() });
            }
            revision
        })
    }

    /// Goes away. What is in flight has the given fate.
    pub fn away(&self, reason: &str, fate: Fate) {
        self.update(|shared| shared.leave(reason, fate, Presence::Away));
    }

    /// Comes back, if it was away.
    pub fn back(&self) {
        self.update(Shared::come_back);
    }

    /// Ends this life as a crash does, and gives the engine of the next one with what it holds: what is in flight has
    /// the given fate, and a new epoch begins.
    #[must_use]
    pub fn restart(&self, fate: Fate) -> (HostileEngine, Recovered) {
        let recovered = self.update(|shared| {
            shared.leave("the process ended", fate, Presence::Away);
            (shared.presence, shared.told_away, shared.failed) = (Presence::Here, false, None);
            shared.steps.clear();
            let epoch = Epoch { id: shared.chance.below(u64::MAX), after: shared.truth.revision };
            shared.truth.epochs.push(epoch);
            shared.truth.recovered()
        });
        (HostileEngine(self.clone()), recovered)
    }

    /// Fails for good, at once.
    pub fn fail(&self, reason: &str) {
        self.update(|shared| shared.failed = Some(reason.into()));
    }

    /// How many proposals are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight.len()
    }

    /// Everything that it has committed, told or not.
    #[must_use]
    pub fn truth(&self) -> Recovered {
        self.lock().truth.recovered()
    }

    fn update<T>(&self, change: impl FnOnce(&mut Shared) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_one();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for HostileEngine {
    fn propose(&mut self, batch: Vec<Proposal>) {
        self.0.lock().take(batch);
    }

    async fn next(&mut self) -> Result<Step, EngineError> {
        loop {
            let turn = self.0.lock().turn();
            match turn {
                Turn::Step(step) => return step,
                Turn::Again => tokio::task::yield_now().await,
                Turn::Idle => self.0.changed.notified().await,
                Turn::Until(time) => tokio::select! {
                    () = tokio::time::sleep_until(time) => {}
                    () = self.0.changed.notified() => {}
                },
            }
        }
    }

    async fn close(self) {
        let mut shared = self.0.lock();
        while !shared.in_flight.is_empty() {
            shared.commit_group();
        }
    }
}

/// Where the engine is.
#[derive(Clone, Copy, Debug)]
enum Presence {
    Here,
    /// Until the handle says so.
    Away,
    /// Until so many polls have passed.
    Briefly(u32),
}

/// What `next` does.
enum Turn {
    Step(Result<Step, EngineError>),
    Again,
    Until(Instant),
    Idle,
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug)]
enum Wait {
    Polls(u32),
    Until(Instant),
}

#[derive(Debug)]
struct Shared {
    manners: Manners,
    chance: Chance,
    truth: Truth,
    in_flight: VecDeque<Proposal>,
    /// Happened, not yet told.
    steps: VecDeque<Step>,
    wait: Option<Wait>,
    released: usize,
    refusals: usize,
    presence: Presence,
    /// `Away` was told and `Back` was not.
    told_away: bool,
    failed: Option<String>,
}

impl Shared {
    fn take(&mut self, batch: Vec<Proposal>) {
        assert!(batch.is_empty() || !self.told_away, "proposed to an engine that had said that it is away");
        let keys = |proposal: &Proposal| -> Vec<Fingerprint> {
            proposal.changes.iter().filter_map(|guarded| guarded.change.latch()).collect()
        };
        for proposal in batch {
            let held: Vec<_> = self.in_flight.iter().flat_map(keys).collect();
            assert!(keys(&proposal).iter().all(|key| !held.contains(key)), "two proposals in flight touch one key");
            // Proposed before the news that the engine went away: in flight then, and dropped.
            if !self.steps.iter().any(|step| matches!(step, Step::Away { .. })) {
                self.in_flight.push_back(proposal);
            }
        }
    }

    fn turn(&mut self) -> Turn {
        if let Some(reason) = &self.failed {
            return Turn::Step(Err(EngineError(reason.clone())));
        }
        if let Some(step) = self.steps.pop_front() {
            self.told_away = match step {
                Step::Away { .. } => true,
                Step::Back => false,
                _ => self.told_away,
            };
            return Turn::Step(Ok(step));
        }
        match &mut self.presence {
            Presence::Away => return Turn::Idle,
            Presence::Briefly(0) => {
                self.come_back();
                return Turn::Again;
            }
            Presence::Briefly(polls) => {
                *polls -= 1;
                return Turn::Again;
            }
            Presence::Here if self.in_flight.is_empty() => return Turn::Idle,
            Presence::Here => {}
        }
        if let Some(turn) = self.delay() {
            return turn;
        }
        self.wait = None;
        if self.chance.percent(self.manners.leave) {
            let polls = self.chance.below(20) as u32;
            self.leave("the engine left by chance", Fate::Chance, Presence::Briefly(polls));
        } else {
            let step = self.commit_group();
            self.steps.extend(step);
        }
        Turn::Again
    }

    /// What the next commit still waits for.
    fn delay(&mut self) -> Option<Turn> {
        match (self.manners.delay, self.wait) {
            (Delay::None, _) => None,
            (Delay::Held, _) if self.released == 0 => Some(Turn::Idle),
            (Delay::Held, _) => {
                self.released -= 1;
                None
            }
            (Delay::Polls(most), None) => {
                self.wait = Some(Wait::Polls(self.chance.below(u64::from(most) + 1) as u32));
                Some(Turn::Again)
            }
            (Delay::Time(most), None) => {
                let time = most.mul_f64(self.chance.below(1_000_001) as f64 / 1e6);
                self.wait = Some(Wait::Until(Instant::now() + time));
                Some(Turn::Again)
            }
            (_, Some(Wait::Polls(0))) => None,
            (_, Some(Wait::Polls(polls))) => {
                self.wait = Some(Wait::Polls(polls - 1));
                Some(Turn::Again)
            }
            (_, Some(Wait::Until(time))) => (Instant::now() < time).then_some(Turn::Until(time)),
        }
    }

    /// Commits or refuses some of what is in flight. None if nothing is, or if nothing was left to commit.
    fn commit_group(&mut self) -> Option<Step> {
        if self.manners.reorder {
            self.chance.shuffle(self.in_flight.make_contiguous());
        }
        let most = self.manners.group.clamp(1, self.in_flight.len().max(1));
        let size = 1 + self.chance.below(most as u64) as usize;
        let mut chosen = VecDeque::new();
        while chosen.len() < size
            && let Some(proposal) = self.in_flight.pop_front()
        {
            let refused = self.refusals > 0 || self.chance.percent(self.manners.refuse);
            let stale = |read: &Record| chosen.iter().flat_map(Proposal::changed).any(|key| key == read.fingerprint);
            if refused || !self.truth.holds(&proposal) {
                self.refusals = self.refusals.saturating_sub(1);
                self.steps.push_back(Step::Refused { ticket: proposal.ticket });
            } else if proposal.reads.iter().any(stale) {
                // Its guards are judged when those before it are committed.
                self.in_flight.push_front(proposal);
                break;
            } else {
                chosen.push_back(proposal);
            }
        }
        let group = next_group(&mut chosen);
        // What is too large to share the revision goes first in the next.
        chosen.into_iter().rev().for_each(|proposal| self.in_flight.push_front(proposal));
        (!group.is_empty()).then(|| {
            let revision = self.next_revision();
            let step = committed(revision, group);
            if let Step::Committed { changes, .. } = &step {
                self.truth.commit(revision, changes);
            }
            step
        })
    }

    fn next_revision(&mut self) -> Revision {
        self.truth.revision + 1 + self.chance.below(self.manners.skip + 1)
    }

    fn leave(&mut self, reason: &str, fate: Fate, presence: Presence) {
        if !matches!(self.presence, Presence::Here) {
            return;
        }
        for proposal in std::mem::take(&mut self.in_flight) {
            let committed = match fate {
                Fate::Committed => true,
                Fate::Dropped => false,
                Fate::Chance => self.chance.percent(50),
            };
            if committed && self.truth.holds(&proposal) {
                let revision = self.next_revision();
                let changes: Vec<_> = proposal.changes.into_iter().map(|guarded| guarded.change).collect();
                self.truth.commit(revision, &changes);
            }
        }
        self.presence = presence;
        self.wait = None;
        self.steps.push_back(Step::Away { reason: reason.into() });
    }

    fn come_back(&mut self) {
        if !matches!(self.presence, Presence::Here) {
            self.presence = Presence::Here;
            self.steps.push_back(Step::Reload(Box::new(self.truth.recovered())));
            self.steps.push_back(Step::Back);
        }
    }
}

#[cfg(test)]
mod tests;
