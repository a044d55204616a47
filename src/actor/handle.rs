//! The cheap handle that every front holds: commands and beats through the actor's lanes, reads of what it published.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost_types::Timestamp;
use smol_str::SmolStr;
use tokio::{
    sync::{mpsc, oneshot},
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Actor, LeaseClock, MARK_INTERVAL,
    expiry::Breaker,
    latch::Latches,
    leases::{LeaseCount, Leases},
    lookup::end_of,
    publish::Pace,
    request::{Beat, BeatReply, Lane, Reply, Request},
    toll::{Charged, Paid, Tolls},
    waiting::{Call, WaitingRoom},
};
use crate::{
    engine::{Engine, Recovered},
    laps::Laps,
    metrics::{BeatState, Metrics},
    registry::{
        Command, Error, FilterSet, IfMissing, LeaseToken, Principal, Register, Registration, Secret, Target, Uses,
        WaitId,
    },
    watch::{Hub, HubOptions, WatchStream},
};

/// Places in the beats' lane beyond those of the inbox: marks and beats always find room before commands do.
const LANE_ROOM: usize = 4;
/// Turns of a runtime in which what waits in its sockets gets into the lane: its sockets are looked at, a connection
/// reads, a call reads and sends; one more for a call that is new. That is HTTP/2's way, of gRPC, gRPC-Web and JSON; a
/// connection of HTTP/1 runs its calls itself. No way takes more than two, as the connections' tests count.
pub(crate) const TURNS_TO_LANE: usize = 4;

/// Completes when the beats that wait in the sockets of this runtime, whose connections go in `laps`, are in the lane.
pub(crate) async fn all_read(laps: &Laps) {
    turns_to_lane().await;
    // On connections that have to wait for their turn, beats may have come.
    if laps.all_read().await {
        turns_to_lane().await;
    }
}

async fn turns_to_lane() {
    for _ in 0..TURNS_TO_LANE {
        yield_now().await;
    }
}

/// How the actor is set up.
#[derive(Clone, Debug)]
pub struct ActorOptions {
    /// How many runtimes read sockets; each has to run `RegistryHandle::keep_marking`.
    pub runtimes: usize,
    /// The least first deadline of a recovered lease. Default 30 s.
    pub restart_grace: Duration,
    /// Commands that may wait; the beats' lane has four times as many places. Default 8,192.
    pub max_inbox: usize,
    /// Whether lapses are held back when most of a service's instances in a zone fall silent at once. Default true.
    pub breaker: bool,
    /// Namespaces in which they are not. Default none.
    pub breaker_off: Vec<SmolStr>,
    /// What readers are promised.
    pub hub: HubOptions,
}

impl Default for ActorOptions {
    fn default() -> Self {
        let hub = HubOptions::default();
        Self {
            runtimes: 1,
            restart_grace: Duration::from_secs(30),
            max_inbox: 8_192,
            breaker: true,
            breaker_off: Vec::new(),
            hub,
        }
    }
}

/// The way to the registry.
#[derive(Clone, Debug)]
pub struct RegistryHandle {
    pub(super) inbox: mpsc::Sender<Request>,
    pub(super) lane: mpsc::Sender<Lane>,
    pub(super) hub: Arc<Hub>,
    leases: Leases,
    pub(super) lease_count: Arc<LeaseCount>,
    pub(super) turns: Arc<super::lookup::Turns>,
    waits: Arc<Waits>,
    pub(super) pace: Arc<Pace>,
    pub(super) tolls: Arc<Tolls>,
}

/// Names for those who wait, and the way to say that one left.
#[derive(Debug)]
struct Waits {
    next: AtomicU64,
    left: mpsc::UnboundedSender<WaitId>,
}

/// Tells the actor that the caller is gone, if it goes before its answer came.
struct Attendance<'a> {
    waits: &'a Waits,
    id: WaitId,
    answered: bool,
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // An actor that ended waits for nobody.
            let _ = self.waits.left.send(self.id);
        }
    }
}

impl RegistryHandle {
    /// The handle, and the actor to be run: on the state that `engine` recovered.
    #[must_use]
    pub fn new<E: Engine>(engine: E, recovered: Recovered, options: ActorOptions) -> (Self, Actor<E>) {
        let hub = Hub::new(recovered, options.hub);
        let (inbox_in, inbox) = mpsc::channel(options.max_inbox.max(1));
        let (left, departures) = mpsc::unbounded_channel();
        let (lane_in, lane) = mpsc::channel(options.max_inbox.max(1) * LANE_ROOM);
        let (leases, lease_count) = (Leases::default(), Arc::<LeaseCount>::default());
        let metrics = Arc::clone(hub.metrics());
        let turns = Arc::new(super::lookup::Turns::new());
        let handle = Self {
            inbox: inbox_in,
            lane: lane_in,
            hub: Arc::clone(&hub),
            leases: leases.clone(),
            lease_count: Arc::clone(&lease_count),
            turns,
            waits: Arc::new(Waits { next: AtomicU64::new(0), left }),
            pace: Arc::new(Pace::new()),
            tolls: Arc::new(Tolls::new()),
        };
        let mut actor = Actor {
            hub,
            engine,
            inbox,
            lane,
            clock: LeaseClock::new(options.runtimes),
            latches: Latches::default(),
            sweeps: super::sweep::Sweeps::default(),
            in_flight: std::collections::HashMap::new(),
            new_instances: 0,
            new_applications: 0,
            pledged: Uses::default(),
            pledges: false,
            expiries: 0,
            held_up: super::beats::HeldUp::default(),
            breaker: Breaker::new(options.breaker, options.breaker_off, Arc::clone(&metrics)),
            next_ticket: 0,
            batch: Vec::new(),
            open_beats: std::collections::HashMap::new(),
            next_batch: 0,
            away: None,
            leases,
            lease_count,
            metrics,
            restart_grace: options.restart_grace.as_millis() as u32,
            waiting: WaitingRoom::new(departures),
            stopping: None,
        };
        actor.recover_leases();
        (handle, actor)
    }

    /// What is published.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.hub.metrics()
    }

    /// How many marks and messages of beats are in the lane.
    #[cfg(test)]
    pub(crate) fn in_lane(&self) -> usize {
        self.lane.max_capacity() - self.lane.capacity()
    }

    /// Sends marks on behalf of `runtime` for ever, while there are leases. Has to run on that runtime, whose connections go
    /// in `laps`: the lease clock moves only as long as this does.
    pub async fn keep_marking(&self, runtime: usize, laps: &Laps) {
        let mut ticks = interval(MARK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.lease_count.get() == 0 {
                self.lease_count.some().await;
                ticks.reset();
            }
            ticks.tick().await;
            if self.lease_count.get() == 0 {
                continue;
            }
            let at = Instant::now();
            all_read(laps).await;
            // A full lane stops the clock, as it should: beats are waiting.
            if self.lane.try_send(Lane::Mark { runtime, at }).is_err() && self.lane.is_closed() {
                return;
            }
        }
    }

    /// Registers, or updates what `token` stands for. It may wait for what it needs; a caller that
    /// drops this call leaves.
    ///
    /// # Errors
    /// Every refusal of a registration; see `Error`.
    pub async fn register(
        &self,
        mut registration: Registration,
        token: Option<LeaseToken>,
        principal: Principal,
        deadline: Option<Instant>,
    ) -> Result<Reply, Error> {
        registration.needs.seed = self.turns.random();
        let waits = registration.needs.if_missing == IfMissing::Wait;
        let register = Register { registration, token, principal, secret: fresh_secret()?, at: wall_clock() };
        if !waits {
            return self.command(Command::Register(Box::new(register)), deadline).await;
        }
        let place = self.place()?;
        let command = Command::Register(Box::new(register));
        let (answer, answered) = Charged::new(self.charge(&command)?);
        let Command::Register(register) = command else { return Err(Error::Deadline) };
        let id = self.waits.next.fetch_add(1, Ordering::Relaxed);
        let mut attendance = Attendance { waits: &self.waits, id, answered: false };
        let until = end_of(register.registration.needs.wait, deadline);
        place.send(Request::Wait(Box::new(Call { id, register: Arc::from(register), until, answer })));
        let reply = answered.await;
        attendance.answered = true;
        reply.map_err(|_| Error::ShuttingDown)?
    }

    /// Takes instances away.
    ///
    /// # Errors
    /// `Superseded`, `LeaseDenied`, `Permission`, and those of every command.
    pub async fn deregister(
        &self,
        target: Target,
        principal: Principal,
        deadline: Option<Instant>,
    ) -> Result<Reply, Error> {
        self.command(Command::Deregister { target, principal, at: super::unix_seconds() }, deadline).await
    }

    /// Renews leases; one bad token never fails the others.
    ///
    /// # Errors
    /// `Overloaded`, `ShuttingDown`.
    pub async fn beat(&self, beats: Vec<Beat>) -> Result<BeatReply, Error> {
        if let Some(reply) = self.leases.renew(&beats, &self.hub) {
            // All of them were renewed: one addition, however many there are.
            self.metrics().beats.of((BeatState::Renewed,)).add(beats.len() as u64);
            return Ok(reply);
        }
        let (answer, answered) = oneshot::channel();
        self.lane.try_send(Lane::Beats { beats, answer }).map_err(|refused| refusal(&refused, &self.lane))?;
        let reply: BeatReply = answered.await.map_err(|_| Error::ShuttingDown)?;
        reply.outcomes.iter().for_each(|outcome| self.metrics().beats.of((outcome.state(),)).inc());
        Ok(reply)
    }

    /// Begins a watch.
    ///
    /// # Errors
    /// `Limit` or `Quota` of watches, `Overloaded`, `ShuttingDown`.
    pub async fn watch(
        &self,
        filters: FilterSet,
        resume_token: String,
        principal: Principal,
    ) -> Result<WatchStream, Error> {
        let (answer, answered) = oneshot::channel();
        self.place()?.send(Request::Watch { filters, resume_token, principal, answer, since: Instant::now() });
        answered.await.map_err(|_| Error::ShuttingDown)?
    }

    /// Commits what is under way, closes the store and ends the actor.
    pub async fn stop(&self) {
        let (answer, answered) = oneshot::channel();
        if self.inbox.send(Request::Stop { answer }).await.is_ok() {
            // An actor that ended by itself has closed the store.
            let _ = answered.await;
        }
    }

    /// A change that somebody wants, as fast as they may.
    pub(super) async fn command(&self, command: Command, deadline: Option<Instant>) -> Result<Reply, Error> {
        // Who finds no room has paid nothing.
        let place = self.place()?;
        let (answer, answered) = Charged::new(self.charge(&command)?);
        place.send(Request::Command { command, deadline, answer, since: Instant::now() });
        answered.await.map_err(|_| Error::ShuttingDown)?
    }

    /// A change that is a part of one that was charged.
    pub(super) async fn run(&self, command: Command, deadline: Option<Instant>) -> Result<Reply, Error> {
        let (answer, answered) = Charged::new(Paid::Free);
        self.place()?.send(Request::Command { command, deadline, answer, since: Instant::now() });
        answered.await.map_err(|_| Error::ShuttingDown)?
    }

    /// A place in the inbox. Refused at once when there is no room, never queued silently.
    fn place(&self) -> Result<mpsc::Permit<'_, Request>, Error> {
        self.inbox.try_reserve().map_err(|refused| refusal(&refused, &self.inbox))
    }
}

pub(super) fn refusal<S, T>(refused: &mpsc::error::TrySendError<S>, lane: &mpsc::Sender<T>) -> Error {
    match refused {
        mpsc::error::TrySendError::Full(_) => Error::Overloaded { maximum: lane.max_capacity() as u64 },
        mpsc::error::TrySendError::Closed(_) => Error::ShuttingDown,
    }
}

pub(super) fn fresh_secret() -> Result<Secret, Error> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| Error::StoreUnavailable {
        reason: smol_str::format_smolstr!("no random numbers: {error}"),
        outcome_unknown: false,
    })?;
    Ok(Secret(bits))
}

/// The wall clock, for what is told to people.
pub(super) fn wall_clock() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}
