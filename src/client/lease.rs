//! A registration and the task that keeps it: beats, retries, registering again, leaving. The state machine of
//! docs/protocol.md.

use std::{
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tonic::transport::Channel;
use uuid::Uuid;

use super::{
    Inner,
    error::{CallFailed, Cause},
    line::{Backoff, chance, from_wire, to_wire},
};
use crate::proto::{
    Beat, BeatState, DeregisterRequest, DeregisterResponse, DrainRequest, DrainResponse, IfMissing, Instance,
    RegisterRequest, RegisterResponse, Status, registry_client::RegistryClient,
};

/// How long a call under way, and the deregistration after it, may take once it is to end.
const GOODBYE: Duration = Duration::from_secs(3);
/// Never beat more often, whatever a server says.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// The beat after a registration whose interval is not told: a third of the default TTL.
const DEFAULT_INTERVAL: Duration = Duration::from_millis(3_333);
/// What is told and not taken yet; later ones are not told.
const EVENTS_MAX: usize = 64;

/// What happens to a kept registration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LeaseEvent {
    /// It was registered again, since its lease was lost.
    Registered {
        /// The answer.
        response: Box<RegisterResponse>,
        /// What the registry called it: `EXPIRED`, `UNKNOWN` or `DENIED`.
        lost: &'static str,
    },
    /// A beat, or a registration, failed; it is tried again.
    Failing(CallFailed),
    /// The registry answers again.
    Recovered {
        /// After so long.
        outage: Duration,
    },
    /// Another process has registered the same instance. This is the end: nothing is tried any more.
    Superseded {
        /// Where that one is, if the registry tells.
        holder: String,
    },
    /// It was refused, and trying again is no use. This is the end.
    Refused(CallFailed),
}

/// What the guard and the task share.
#[derive(Debug)]
struct Held {
    instance: Arc<Instance>,
    token: String,
    status: Status,
    /// Beats come by themselves.
    kept: bool,
    ended: bool,
}

/// What the guard asks of the task.
#[derive(Debug)]
enum Command {
    Leave(oneshot::Sender<Result<DeregisterResponse, CallFailed>>),
    Beat(oneshot::Sender<Result<(), CallFailed>>),
}

/// A registration that is kept as long as this lives. Dropped, it is taken away in the background, if the runtime still
/// runs; `leave` says what came of it.
#[derive(Debug)]
pub struct Joined {
    client: Arc<Inner>,
    held: Arc<Mutex<Held>>,
    response: RegisterResponse,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<LeaseEvent>,
}

impl Joined {
    /// The instance as the registry has it, id and all.
    #[must_use]
    pub fn instance(&self) -> Arc<Instance> {
        Arc::clone(&lock(&self.held).instance)
    }

    /// The answer to the first registration: where its dependencies are, for instance.
    #[must_use]
    pub fn response(&self) -> &RegisterResponse {
        &self.response
    }

    /// Whether nothing is tried any more: it was superseded, or refused.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        lock(&self.held).ended
    }

    /// What happens next; none after the end. Who does not ask loses what comes after the first 64, but for the end.
    pub async fn event(&mut self) -> Option<LeaseEvent> {
        self.events.recv().await
    }

    /// Sets the status, which stays over losses of the lease: `STARTING`, `SERVING` or `DRAINING`.
    ///
    /// # Errors
    /// No host answered, or it was refused: beats go on with the new status all the same. Or it is another status, which
    /// no registrant may say, and nothing is changed.
    pub async fn set_status(&self, status: Status) -> Result<(), CallFailed> {
        if !matches!(status, Status::Starting | Status::Serving | Status::Draining) {
            // It would be refused with the beats of all other leases, which go in the same message.
            let refused = tonic::Status::invalid_argument("status: must be STARTING, SERVING or DRAINING");
            let causes = vec![(self.client.calls.host(), Cause::Status(Box::new(refused)))];
            return Err(CallFailed { what: "set the status".to_owned(), causes });
        }
        lock(&self.held).status = status;
        self.ask(Command::Beat).await
    }

    /// Whether beats come by themselves.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        lock(&self.held).kept
    }

    /// Lets beats come by themselves, or not: then the lease ends by itself when its TTL has passed, unless this is called
    /// again. Whoever sets a status beats.
    pub fn keep(&self, kept: bool) {
        lock(&self.held).kept = kept;
    }

    /// Takes it out of traffic, and waits up to `wait` until those who watch it know. It is beaten for meanwhile. Then
    /// finish what there is, and `leave`.
    ///
    /// # Errors
    /// No host answered, or the lease is lost.
    pub async fn drain(&self, wait: Duration) -> Result<DrainResponse, CallFailed> {
        let (name, lease_token) = {
            let mut held = lock(&self.held);
            held.status = Status::Draining;
            (held.instance.service.clone(), held.token.clone())
        };
        let request = DrainRequest { lease_token, wait: to_wire(wait), ..DrainRequest::default() };
        let send = |channel: Channel, request| async move { RegistryClient::new(channel).drain(request).await };
        let line = &self.client.calls;
        line.call(&format!("drain {name}"), line.timeout() + wait, request, send).await
    }

    /// Takes it away.
    ///
    /// # Errors
    /// No host answered: its lease will end by itself. Or it is somebody else's by now.
    pub async fn leave(self) -> Result<DeregisterResponse, CallFailed> {
        self.ask(Command::Leave).await
    }

    async fn ask<T: Default>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, CallFailed>>) -> Command,
    ) -> Result<T, CallFailed> {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(command(answer)).await.is_err() {
            // It has ended: there is nothing to do any more.
            return Ok(T::default());
        }
        answered.await.unwrap_or_else(|_| Ok(T::default()))
    }
}

/// Keeps one instance registered.
struct Keeper {
    client: Arc<Inner>,
    held: Arc<Mutex<Held>>,
    /// What to register; holds the last token and the id.
    request: RegisterRequest,
    /// The status that the registry has.
    said: Status,
    interval: Duration,
    outage: Option<Instant>,
    backoff: Backoff,
    commands: mpsc::Receiver<Command>,
    /// Beats that were asked for while a call was under way.
    asked: Vec<oneshot::Sender<Result<(), CallFailed>>>,
    events: mpsc::Sender<LeaseEvent>,
}

/// To whom it is told what came of leaving.
type Left = Option<oneshot::Sender<Result<DeregisterResponse, CallFailed>>>;

/// What came of a call.
enum Called<T> {
    Answered(T),
    /// The guard left meanwhile; the answer, if it came soon.
    Left(Left, Option<T>),
}

/// Why the beats have come to an end.
enum Ended {
    /// The guard is gone, or asks to leave.
    Leave(Left),
    /// The lease is gone; what the registry called that.
    Lost(&'static str),
    /// Nothing is to be done any more.
    Over(LeaseEvent),
}

/// Registers once, with each host tried once, and keeps what was registered.
pub(super) async fn join(client: &Arc<Inner>, mut request: RegisterRequest) -> Result<Joined, CallFailed> {
    if request.request_id.is_empty() {
        request.request_id = Uuid::now_v7().to_string();
    }
    let waits = request.if_missing == i32::from(IfMissing::Wait);
    let patience = if waits { from_wire(request.wait).unwrap_or(Duration::from_secs(30)) } else { Duration::ZERO };
    let response = register(client, &request, patience).await?;
    let (commands, taken) = mpsc::channel(8);
    let (events, told) = mpsc::channel(EVENTS_MAX);
    let status = request.instance.as_ref().map_or(Status::Unspecified, Instance::status);
    let held = Held { instance: Arc::default(), token: String::new(), status, kept: true, ended: false };
    let mut keeper = Keeper {
        client: Arc::clone(client),
        held: Arc::new(Mutex::new(held)),
        request,
        said: status,
        interval: DEFAULT_INTERVAL,
        outage: None,
        backoff: Backoff::default(),
        commands: taken,
        asked: Vec::new(),
        events,
    };
    keeper.accept(&response);
    let held = Arc::clone(&keeper.held);
    tokio::spawn(keeper.run());
    Ok(Joined { client: Arc::clone(client), held, response, commands, events: told })
}

async fn register(
    client: &Inner,
    request: &RegisterRequest,
    patience: Duration,
) -> Result<RegisterResponse, CallFailed> {
    let what = format!("register {}", request.instance.as_ref().map_or("", |instance| &instance.service));
    let send = |channel: Channel, request| async move { RegistryClient::new(channel).register(request).await };
    let line = &client.calls;
    line.call(&what, line.timeout() + patience, request.clone(), send).await
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let lost = match self.beats().await {
                Ended::Lost(lost) => lost,
                Ended::Leave(answer) => return self.leave(answer).await,
                Ended::Over(event) => return self.end(event).await,
            };
            match self.register_again(lost).await {
                None | Some(Ended::Lost(_)) => {}
                Some(Ended::Leave(answer)) => return self.leave(answer).await,
                Some(Ended::Over(event)) => return self.end(event).await,
            }
        }
    }

    /// Takes in what the registry made of it.
    fn accept(&mut self, response: &RegisterResponse) {
        let mut held = lock(&self.held);
        if let Some(instance) = &response.instance {
            held.instance = Arc::new(instance.clone());
            // The id that it has now, so that a registration after a change of address is still this instance.
            if let Some(ours) = &mut self.request.instance {
                ours.id.clone_from(&instance.id);
            }
        }
        let lease = response.lease.clone().unwrap_or_default();
        held.token.clone_from(&lease.token);
        self.request.lease_token = lease.token;
        // It runs: whatever becomes of what it needs, it is registered again when its lease is lost.
        self.request.if_missing = IfMissing::Ignore.into();
        let ttl = from_wire(lease.ttl).unwrap_or(DEFAULT_INTERVAL * 3);
        self.interval = from_wire(lease.heartbeat_interval).unwrap_or(ttl / 3).max(SHORTEST_INTERVAL);
    }

    /// Beats until the lease is lost or nobody wants it any more.
    async fn beats(&mut self) -> Ended {
        let mut wait = self.interval.mul_f64(1.0 - 0.1 * chance());
        loop {
            if let Some(left) = self.within(wait).await {
                return Ended::Leave(left);
            }
            let asked = mem::take(&mut self.asked);
            if asked.is_empty() && !lock(&self.held).kept {
                wait = self.interval;
                continue;
            }
            let (beat, status) = self.news();
            let (client, limit) = (Arc::clone(&self.client), self.patience());
            let beaten = match self.let_end(async move { client.beater().beat(beat, limit).await }).await {
                Called::Answered(beaten) => beaten,
                Called::Left(left, _) => return Ended::Leave(left),
            };
            for answer in asked {
                let _ = answer.send(beaten.as_ref().map(|_| ()).map_err(Clone::clone));
            }
            let failed = match beaten {
                Ok(result) => match result.state() {
                    BeatState::Renewed => {
                        self.said = status;
                        if let Some(ttl) = from_wire(result.ttl) {
                            self.interval = (ttl / 3).max(SHORTEST_INTERVAL);
                        }
                        self.recovered();
                        wait = self.interval.mul_f64(1.0 - 0.1 * chance());
                        continue;
                    }
                    BeatState::Expired => return Ended::Lost("EXPIRED"),
                    BeatState::Unknown => return Ended::Lost("UNKNOWN"),
                    BeatState::Denied => return Ended::Lost("DENIED"),
                    BeatState::Superseded => return Ended::Over(LeaseEvent::Superseded { holder: result.holder }),
                    BeatState::Unspecified => self.unjudged(),
                },
                Err(failed) => failed,
            };
            wait = self.trouble(failed);
        }
    }

    /// The next beat, with the status if that is news, and the status.
    fn news(&self) -> (Beat, Status) {
        let held = lock(&self.held);
        let status = if held.status == self.said { Status::Unspecified } else { held.status };
        (Beat { lease_token: held.token.clone(), status: status.into() }, held.status)
    }

    /// A beat that hangs is worth less than the next attempt.
    fn patience(&self) -> Duration {
        self.client.calls.timeout().min(self.interval.max(Duration::from_millis(500)))
    }

    /// Registers, as often as it takes; none when it is done.
    async fn register_again(&mut self, lost: &'static str) -> Option<Ended> {
        // The same for every attempt at this registration: it is made once, however often it is sent.
        self.request.request_id = Uuid::now_v7().to_string();
        loop {
            let status = lock(&self.held).status;
            if let Some(instance) = &mut self.request.instance {
                instance.set_status(status);
            }
            let (client, request) = (Arc::clone(&self.client), self.request.clone());
            let registered = self.let_end(async move { register(&client, &request, Duration::ZERO).await }).await;
            let registered = match registered {
                Called::Answered(registered) => registered,
                Called::Left(left, registered) => {
                    // What was made is taken away.
                    if let Some(Ok(response)) = registered {
                        self.accept(&response);
                    }
                    return Some(Ended::Leave(left));
                }
            };
            let failed = match registered {
                Ok(response) => {
                    self.recovered();
                    self.accept(&response);
                    self.said = status;
                    self.tell(LeaseEvent::Registered { response: Box::new(response), lost });
                    return None;
                }
                Err(failed) if failed.reason().as_deref() == Some("SUPERSEDED") => {
                    let holder = failed.holder().unwrap_or_default();
                    return Some(Ended::Over(LeaseEvent::Superseded { holder }));
                }
                Err(failed) if failed.is_final() => return Some(Ended::Over(LeaseEvent::Refused(failed))),
                Err(failed) => failed,
            };
            let wait = self.trouble(failed.clone());
            for answer in self.asked.drain(..) {
                let _ = answer.send(Err(failed.clone()));
            }
            if let Some(left) = self.within(wait).await {
                return Some(Ended::Leave(left));
            }
        }
    }

    /// Lets `pause` pass, unless the guard wants a beat. Or it leaves.
    async fn within(&mut self, pause: Duration) -> Option<Left> {
        let until = Instant::now() + pause;
        while self.asked.is_empty() {
            match timeout_at(until, self.commands.recv()).await {
                Err(_) => return None,
                Ok(None) => return Some(None),
                Ok(Some(Command::Leave(answer))) => return Some(Some(answer)),
                Ok(Some(Command::Beat(answer))) => self.asked.push(answer),
            }
        }
        None
    }

    /// Lets `call` end; not for long if the guard leaves meanwhile: it may have changed something already.
    async fn let_end<T>(&mut self, call: impl Future<Output = T>) -> Called<T> {
        let mut call = pin!(call);
        let left = loop {
            tokio::select! {
                biased;
                answer = &mut call => return Called::Answered(answer),
                command = self.commands.recv() => match command {
                    None => break None,
                    Some(Command::Leave(answer)) => break Some(answer),
                    Some(Command::Beat(answer)) => self.asked.push(answer),
                },
            }
        };
        Called::Left(left, timeout(GOODBYE, call).await.ok())
    }

    /// Tells of trouble. How long to wait before the next attempt.
    fn trouble(&mut self, failed: CallFailed) -> Duration {
        self.outage.get_or_insert_with(Instant::now);
        let wait = self.backoff.pause().max(failed.last().and_then(Cause::retry_after).unwrap_or_default());
        self.tell(LeaseEvent::Failing(failed));
        wait
    }

    fn recovered(&mut self) {
        self.backoff.reset();
        if let Some(since) = self.outage.take() {
            self.tell(LeaseEvent::Recovered { outage: since.elapsed() });
        }
    }

    fn unjudged(&self) -> CallFailed {
        let text = "the registry could not judge the beat".to_owned();
        let causes = vec![(self.client.calls.host(), Cause::Transport { text, refused: false })];
        CallFailed { what: "renew a lease".to_owned(), causes }
    }

    fn tell(&self, event: LeaseEvent) {
        // Nobody has to listen.
        let _ = self.events.try_send(event);
    }

    /// Nobody is to miss how it ended, and nobody has to wait for anything after it.
    async fn end(&mut self, event: LeaseEvent) {
        lock(&self.held).ended = true;
        self.commands.close();
        while self.commands.recv().await.is_some() {}
        self.asked.clear();
        let _ = self.events.send(event).await;
    }

    /// Takes the instance away.
    async fn leave(&mut self, answer: Left) {
        let (service, lease_token) = {
            let mut held = lock(&self.held);
            held.ended = true;
            (held.instance.service.clone(), held.token.clone())
        };
        let what = format!("take {service} away (its lease will end by itself)");
        let request = DeregisterRequest { lease_token, ..DeregisterRequest::default() };
        let send = |channel: Channel, request| async move { RegistryClient::new(channel).deregister(request).await };
        let left = self.client.calls.call(&what, GOODBYE, request, send).await;
        if let Some(answer) = answer {
            let _ = answer.send(left);
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
