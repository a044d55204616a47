//! The one task that owns the state: it takes commands and beats from its lanes, judges them on committed state, hands
//! changes to the engine, takes in what was committed, publishes it, and answers, in that order. It knows no front.

mod beats;
mod catalog;
mod clock;
mod deploy;
mod drain;
mod expiry;
mod handle;
mod import;
mod latch;
mod leases;
mod list;
mod lists;
mod lookup;
mod publish;
mod reply;
mod request;
mod resolve;
mod sleeper;
mod sweep;
#[cfg(test)]
mod tests;
mod together;
mod toll;
mod unfenced;
mod verified;
mod vitals;
mod waiting;
mod write;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smol_str::SmolStr;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};

#[cfg(test)]
pub(crate) use self::handle::{TURNS_TO_LANE, all_read};
use self::{
    beats::{OpenBeats, WaitingBeat},
    expiry::Breaker,
    latch::Latches,
    leases::{LeaseCount, LeaseTable, Leases},
    request::{Lane, Request},
    sweep::Sweeps,
    together::Member,
    toll::Charged,
    waiting::{Call, WaitingRoom},
};
pub use self::{
    clock::{LeaseClock, MARK_INTERVAL},
    deploy::{DeployedPage, Deployment, Impact},
    drain::Drained,
    handle::{ActorOptions, RegistryHandle},
    import::{CatalogPage, Import, Imported, Progress},
    list::ListQuery,
    lists::{BY_ID, CatalogList, Standings},
    lookup::{Found, Listed, LookupQuery, PickKind, WhyEmpty},
    request::{Beat, BeatOutcome, BeatReply, Holder, Reply, Standing},
    resolve::{Resolution, ResolveQuery},
    vitals::Lifeless,
    waiting::{WAITING_MAX, WAITING_NEEDS_MAX},
};
use crate::{
    engine::{Engine, EngineError, Proposal, Recovered, Step, Ticket},
    metrics::{self, Metrics},
    registry::{
        Change, Command, Decision, Error, Fingerprint, Guarded, Outcome, Principal, Revision, Use, Uses, WaitId, Whose,
        growth,
    },
    watch::{Hub, WatchStream},
};

/// Most requests taken from a lane before the engine and the other lane have their turn.
const LANE_TURN: usize = 512;
/// How often services whose day has passed are forgotten, and snapshots given up that nobody reads.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// To whom a command's outcome goes.
#[derive(Debug)]
enum Recipient {
    /// A caller.
    Caller { answer: Charged, deadline: Option<Instant> },
    /// Callers that waited, and were admitted together.
    Admitted(Vec<Call>),
    /// Callers whose changes of a catalog were decided together.
    Together(Vec<Member>),
    /// A beat that brought a status.
    Beat { batch: u64, place: usize },
    /// Nobody: the registry's own doing.
    Nobody,
}

/// What waits for a latch, and since when.
#[derive(Debug)]
struct Waiter {
    since: Instant,
    waiting: Waiting,
}

#[derive(Debug)]
enum Waiting {
    Command(Command, Recipient),
    Beat(WaitingBeat),
    /// A registration that waits for what it needs, and has not been looked at yet.
    Call(Box<Call>),
    /// Those who could be admitted together.
    Group(Vec<WaitId>),
}

impl From<Waiting> for Waiter {
    fn from(waiting: Waiting) -> Self {
        Self { since: Instant::now(), waiting }
    }
}

/// A proposal in flight.
#[derive(Debug)]
struct InFlight {
    keys: Vec<Fingerprint>,
    command: Command,
    outcome: Outcome,
    recipient: Recipient,
    new_instances: u64,
    new_applications: u64,
    growth: Vec<(Whose, Use)>,
}

/// The task.
#[derive(Debug)]
pub struct Actor<E> {
    hub: Arc<Hub>,
    engine: E,
    inbox: mpsc::Receiver<Request>,
    lane: mpsc::Receiver<Lane>,
    leases: Leases,
    clock: LeaseClock,
    latches: Latches<Waiter>,
    sweeps: Sweeps,
    in_flight: HashMap<Ticket, InFlight>,
    new_instances: u64,
    new_applications: u64,
    /// By how much what is used grows when all of it is committed.
    pledged: Uses,
    /// Whether that is counted: somebody has, or is about to have, a quota.
    pledges: bool,
    /// Expiries in flight.
    expiries: usize,
    breaker: Breaker,
    held_up: beats::HeldUp,
    next_ticket: u64,
    batch: Vec<Proposal>,
    open_beats: HashMap<u64, OpenBeats>,
    next_batch: u64,
    /// Why the engine is away, while it is.
    away: Option<SmolStr>,
    /// How many leases there are, for those who send marks.
    lease_count: Arc<LeaseCount>,
    metrics: Arc<Metrics>,
    restart_grace: u32,
    waiting: WaitingRoom,
    stopping: Option<oneshot::Sender<()>>,
}

impl<E: Engine> Actor<E> {
    /// Runs until it is told to stop or every handle is gone. Nothing in the loop waits for a disk, a client or a watcher.
    ///
    /// # Errors
    /// When the engine can never go on.
    pub async fn run(mut self) -> Result<(), EngineError> {
        let mut forget = interval(FORGET_INTERVAL);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                step = self.engine.next() => self.take(step?),
                next = self.lane.recv() => match next {
                    Some(next) => self.serve_lane(next),
                    None => break,
                },
                next = self.inbox.recv() => match next {
                    Some(next) => self.serve_inbox(next),
                    None => break,
                },
                () = self.waiting.next() => self.attend(),
                _ = forget.tick() => {
                    self.forget();
                    self.hub.give_up_snapshots();
                }
            }
            // Whatever it was, the others have their turn: a queue of commits does not hold up beats, nor beats commands.
            if let Ok(next) = self.lane.try_recv() {
                self.serve_lane(next);
            }
            if let Ok(next) = self.inbox.try_recv() {
                self.serve_inbox(next);
            }
            if !self.batch.is_empty() {
                self.engine.propose(std::mem::take(&mut self.batch));
            }
            if self.stopping.is_some() && (self.in_flight.is_empty() || self.away.is_some()) {
                break;
            }
        }
        self.engine.close().await;
        if let Some(answer) = self.stopping {
            // Whoever asked may be gone.
            let _ = answer.send(());
        }
        Ok(())
    }

    fn serve_lane(&mut self, first: Lane) {
        let (mut next, mut served) = (Some(first), 0);
        while let Some(item) = next {
            match item {
                Lane::Beats { beats, answer } => self.beats(beats, answer),
                Lane::Mark { runtime, at } => self.mark(runtime, at),
                Lane::Keep { keep, answer, since } => self.keep(keep, answer, since),
                // Whoever asked may be gone.
                Lane::Turn { answer } => _ = answer.send(()),
            }
            served += 1;
            next = if served < LANE_TURN { self.lane.try_recv().ok() } else { None };
        }
    }

    fn serve_inbox(&mut self, first: Request) {
        self.request(first);
        for _ in 1..LANE_TURN {
            let Ok(request) = self.inbox.try_recv() else { break };
            self.request(request);
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Command { answer, .. } if self.stopping.is_some() => {
                answer.send(Err(Error::ShuttingDown));
            }
            // What waits for the store or for a latch waits for the state, as what is in the inbox does.
            Request::Command { answer, .. }
                if self.in_flight.len() + self.latches.waiting() + self.sweeps.waiting()
                    >= self.inbox.max_capacity() =>
            {
                answer.send(Err(Error::Overloaded { maximum: self.inbox.max_capacity() as u64 }));
            }
            Request::Command { command, deadline, answer, since } => {
                self.came_through(since);
                self.run_command(command, Recipient::Caller { answer, deadline });
            }
            Request::Wait(call) => self.receive(*call),
            Request::Watch { filters, resume_token, principal, answer, since } => {
                self.came_through(since);
                if !answer.is_closed() {
                    let _ = answer.send(WatchStream::start(&self.hub, filters, &resume_token, &principal));
                }
            }
            Request::Stop { answer } => {
                self.stopping = Some(answer);
                self.dismiss_all();
            }
        }
    }

    fn came_through(&self, since: Instant) {
        self.metrics.inbox_wait.of((metrics::Lane::Commands,)).observe(since.elapsed());
    }

    /// Judges a command, and answers, proposes or lets it wait.
    fn run_command(&mut self, command: Command, recipient: Recipient) {
        if let Recipient::Caller { answer, deadline } = &recipient {
            // Nobody waits for it any more: dropped, not run.
            if answer.is_closed() {
                return;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return self.reply(&command, recipient, Err(Error::Deadline));
            }
        }
        if let Some(key) = command.fingerprints().into_iter().find(|key| self.latches.is_held(*key)) {
            return self.latches.wait(key, Waiting::Command(command, recipient).into());
        }
        if let Some(error) = self.too_fast(&command, &recipient) {
            return self.reply(&command, recipient, Err(error));
        }
        match self.decide(&command) {
            Decision::Reply(outcome) => self.reply(&command, recipient, outcome),
            Decision::Propose(changes, outcome) => self.propose(command, recipient, changes, outcome),
            Decision::Unfit { error, .. } => self.reply(&command, recipient, Err(error)),
        }
    }

    /// What should become of a command, beside what is in flight.
    fn decide(&self, command: &Command) -> Decision {
        let in_flight = match command {
            Command::Catalog(_) => self.new_applications,
            _ => self.new_instances,
        };
        let registry = self.hub.registry();
        registry.within_quotas(command, registry.decide(command, in_flight), &self.pledged)
    }

    fn propose(&mut self, command: Command, recipient: Recipient, changes: Vec<Guarded>, outcome: Outcome) {
        let keys: Vec<Fingerprint> = changes.iter().filter_map(Guarded::fingerprint).collect();
        // Only commands whose keys were not known beforehand get here with one that is held.
        if let Some(key) = self.held_key(&keys, &outcome) {
            if sweep::is_of_a_service(&command) {
                return self.sweep(command, recipient, keys);
            }
            return self.latches.wait(key, Waiting::Command(command, recipient).into());
        }
        if let Some(reason) = self.away.clone() {
            return self.reply(&command, recipient, Err(Error::StoreUnavailable { reason, outcome_unknown: false }));
        }
        self.send(command, recipient, changes, outcome, keys);
    }

    /// Hands changes to the engine, which holds `keys` until it is done with them.
    fn send(
        &mut self,
        command: Command,
        recipient: Recipient,
        changes: Vec<Guarded>,
        outcome: Outcome,
        keys: Vec<Fingerprint>,
    ) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.latches.hold(&keys);
        self.expiries += usize::from(matches!(command, Command::Expire { .. }));
        let new = |guarded: &&Guarded| guarded.before.is_none() && matches!(guarded.change, Change::Put(_));
        let new_instances = changes.iter().filter(new).count() as u64;
        self.new_instances += new_instances;
        let new_applications = changes.iter().filter(|guarded| guarded.makes_application()).count() as u64;
        self.new_applications += new_applications;
        // From here on it may be that somebody has a quota when this is committed.
        self.pledges |= matches!(command, Command::Write(_));
        let growth = if self.pledges || command.has_quota() { growth(&changes) } else { Vec::new() };
        self.pledged.pledge(&growth);
        let reads = outcome.decided_by().cloned().collect();
        self.batch.push(Proposal { ticket, changes, reads });
        let in_flight = InFlight { keys, command, outcome, recipient, new_instances, new_applications, growth };
        self.in_flight.insert(ticket, in_flight);
        self.metrics.proposals.set(self.in_flight.len() as u64);
    }

    /// What happened in the engine.
    fn take(&mut self, step: Step) {
        match step {
            Step::Committed { revision, changes, tickets } => self.committed(revision, &changes, &tickets),
            Step::Refused { ticket } => {
                if let Some(refused) = self.land(ticket) {
                    self.retry_expiry(&refused.command);
                    match (refused.command, refused.recipient) {
                        (Command::Expire { .. }, _) => {}
                        (_, Recipient::Admitted(calls)) => calls.into_iter().for_each(|call| self.enter(call)),
                        (_, Recipient::Together(members)) => self.again(members),
                        (command, recipient) => self.run_command(command, recipient),
                    }
                    self.release(&refused.keys);
                }
            }
            Step::Away { reason } => self.engine_away(&reason),
            Step::Reload(recovered) => self.reload(*recovered),
            Step::Back => {
                tracing::info!("the store is back");
                self.away = None;
                self.hub.set_away(None);
                self.admit(self.waiting.ids());
            }
        }
    }

    fn committed(&mut self, revision: Revision, changes: &[Change], tickets: &[Ticket]) {
        let folded = {
            // Together, so that no handler renews a lease that is over at the revision that it answers with.
            let mut table = self.leases.lock();
            let folded = self.hub.registry_mut().fold(revision, changes);
            table.follow(&folded.events);
            self.breaker.follow(&folded.events, &table.time);
            folded
        };
        self.count_leases();
        let stirred = self.waiting.follow(&folded.events);
        self.count_waiting();
        self.hub.publish(revision, folded);
        self.tell_forgotten(changes);
        self.metrics.commits.inc();
        let landed: Vec<InFlight> = tickets.iter().filter_map(|ticket| self.land(*ticket)).collect();
        for InFlight { keys, command, outcome, recipient, .. } in landed {
            self.reply(&command, recipient, Ok(outcome));
            self.release(&keys);
        }
        self.admit(stirred);
        // What lapsed in earlier rounds and found no room.
        self.expire();
    }

    fn count_leases(&mut self) {
        let leases = self.leases.lock().time.len();
        self.lease_count.set(leases);
        if leases == 0 {
            self.clock.rest();
        }
    }

    /// Takes a proposal out of flight.
    fn land(&mut self, ticket: Ticket) -> Option<InFlight> {
        let landed = self.in_flight.remove(&ticket)?;
        self.metrics.proposals.set(self.in_flight.len() as u64);
        self.new_instances -= landed.new_instances;
        self.new_applications -= landed.new_applications;
        self.pledged.redeem(&landed.growth);
        self.expiries -= usize::from(matches!(landed.command, Command::Expire { .. }));
        Some(landed)
    }

    fn release(&mut self, keys: &[Fingerprint]) {
        let freed = self.latches.release(keys);
        self.sweep_on(keys);
        let mut catalog = Vec::new();
        for Waiter { since, waiting } in freed {
            self.metrics.latch_wait.observe(since.elapsed());
            match waiting {
                Waiting::Command(Command::Catalog(command), recipient) => catalog.push((command, recipient)),
                Waiting::Command(command, recipient) => self.run_command(command, recipient),
                Waiting::Beat(beat) => self.beat_again(beat),
                Waiting::Call(call) => self.enter(*call),
                Waiting::Group(ids) => self.admit(ids),
            }
        }
        self.change_catalog(catalog);
    }

    fn engine_away(&mut self, reason: &SmolStr) {
        tracing::error!(%reason, "the store is away; changes are refused until it is back");
        self.away = Some(reason.clone());
        self.hub.set_away(Some(reason.clone()));
        let mut tickets: Vec<Ticket> = self.in_flight.keys().copied().collect();
        tickets.sort_unstable();
        let landed: Vec<InFlight> = tickets.into_iter().filter_map(|ticket| self.land(ticket)).collect();
        for InFlight { keys, command, recipient, .. } in landed {
            self.retry_expiry(&command);
            let error = Error::StoreUnavailable { reason: reason.clone(), outcome_unknown: true };
            self.reply(&command, recipient, Err(error));
            self.release(&keys);
        }
    }

    /// What the engine holds now is the truth. Deadlines are rebuilt with full grace, as after a restart.
    fn reload(&mut self, recovered: Recovered) {
        tracing::warn!(revision = recovered.revision, "the store was opened anew; its state is taken over");
        // From here on no handler renews by what was verified before.
        *self.leases.lock() = LeaseTable::default();
        self.hub.reload(recovered);
        self.waiting.rebuild(&self.hub.registry());
        self.recover_leases();
    }

    fn recover_leases(&mut self) {
        let now = self.clock.reading_at(Instant::now());
        let hub = Arc::clone(&self.hub);
        let registry = hub.registry();
        self.leases.lock().time.recover(registry.records(), now, self.restart_grace);
        self.pledges |= registry.has_quotas();
        self.breaker.recover(registry.records().map(|(_, record)| record));
        self.count_leases();
    }
}

/// The wall clock in whole seconds: for records, never for deadlines.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Everyone's principal while no authentication is configured.
#[must_use]
pub fn anyone() -> Principal {
    Principal::anyone()
}
