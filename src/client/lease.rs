//! A registration that is kept as long as its guard lives, and what happens to it meanwhile. How it is kept is in `keeper`.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};
use tonic::transport::Channel;
use uuid::Uuid;

use super::{
    Inner,
    error::{CallFailed, Cause},
    keeper::{Keeper, register},
    line::to_wire,
};
use crate::proto::{
    DeregisterResponse, DrainRequest, DrainResponse, Instance, RegisterRequest, RegisterResponse, Status,
    registry_client::RegistryClient,
};

/// What is told and not taken yet: the newest.
const EVENTS_MAX: usize = 64;
/// The longest that a server waits for a drain.
const DRAIN_MAX: Duration = Duration::from_secs(300);
/// Commands that may wait for the task.
const COMMANDS_MAX: usize = 8;

/// What happens to a kept registration. No lease token is in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LeaseEvent {
    /// It was registered: by `join_soon` for the first time, or again, since its lease was lost.
    Registered {
        /// The answer.
        response: Box<RegisterResponse>,
        /// What became of the lease before; none the first time.
        lost: Option<Lost>,
    },
    /// The lease is lost: it is registered again.
    Lost(Lost),
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

/// What a registry calls a lease that has to be registered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No beat came in time, or an operator took the instance away.
    Expired,
    /// The registry does not know it: it is another one, or has lost its data.
    Unknown,
    /// The token is another one by now: an answer was lost.
    Denied,
}

impl Lost {
    /// As the registry writes it: `EXPIRED`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "EXPIRED",
            Self::Unknown => "UNKNOWN",
            Self::Denied => "DENIED",
        }
    }
}

/// A lease token, which nobody is shown.
#[derive(Clone, Default)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What the guard and the task share.
#[derive(Debug)]
pub(super) struct Held {
    /// As the registry has it; before that, as it is asked for.
    pub(super) instance: Arc<Instance>,
    /// Empty until it is registered.
    pub(super) token: Secret,
    pub(super) status: Status,
    /// Beats come by themselves.
    pub(super) kept: bool,
    /// Why nothing is tried any more.
    pub(super) ended: Option<CallFailed>,
    /// The first answer.
    pub(super) response: Arc<RegisterResponse>,
    events: VecDeque<LeaseEvent>,
    /// No event comes any more.
    closed: bool,
}

/// The one place of what is shared.
#[derive(Debug)]
pub(super) struct Shared {
    held: Mutex<Held>,
    told: Notify,
    beaten: Notify,
}

impl Shared {
    /// A beat was answered well.
    pub(super) fn beaten(&self) {
        self.beaten.notify_waiters();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who listens, if anybody does.
    pub(super) fn tell(&self, event: LeaseEvent) {
        let mut held = self.lock();
        if held.events.len() == EVENTS_MAX {
            held.events.pop_front();
        }
        held.events.push_back(event);
        self.told.notify_one();
    }

    /// No event comes any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.told.notify_one();
    }
}

/// What the guard asks of the task.
#[derive(Debug)]
pub(super) enum Command {
    Leave(oneshot::Sender<Result<DeregisterResponse, CallFailed>>),
    Beat(oneshot::Sender<Result<(), CallFailed>>),
}

/// A registration that is kept as long as this lives. Dropped, it is taken away in the background, if the runtime still
/// runs; `leave` says what came of it.
#[derive(Debug)]
pub struct Joined {
    client: Arc<Inner>,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// Registers once, with each host tried once, and keeps what was registered.
pub(super) async fn join(client: &Arc<Inner>, mut request: RegisterRequest) -> Result<Joined, CallFailed> {
    name(&mut request);
    let response = register(client, &request).await?;
    let (joined, mut keeper) = prepare(client, request);
    keeper.accept(response);
    tokio::spawn(keeper.run());
    Ok(joined)
}

/// Registers in the background, as often as it takes, and keeps what was registered.
pub(super) fn join_soon(client: &Arc<Inner>, mut request: RegisterRequest) -> Joined {
    name(&mut request);
    let (joined, keeper) = prepare(client, request);
    tokio::spawn(keeper.run());
    joined
}

/// The same for every attempt at this registration: it is made once, however often it is sent.
fn name(request: &mut RegisterRequest) {
    if request.request_id.is_empty() {
        request.request_id = Uuid::now_v7().to_string();
    }
}

fn prepare(client: &Arc<Inner>, request: RegisterRequest) -> (Joined, Keeper) {
    let (commands, taken) = mpsc::channel(COMMANDS_MAX);
    let instance = request.instance.clone().unwrap_or_default();
    let held = Held {
        status: instance.status(),
        instance: Arc::new(instance),
        token: Secret::default(),
        kept: true,
        ended: None,
        response: Arc::default(),
        events: VecDeque::new(),
        closed: false,
    };
    let shared = Arc::new(Shared { held: Mutex::new(held), told: Notify::new(), beaten: Notify::new() });
    let keeper = Keeper::new(Arc::clone(client), Arc::clone(&shared), request, taken);
    (Joined { client: Arc::clone(client), shared, commands }, keeper)
}

impl Joined {
    /// The instance as the registry has it, id and all; before it has, as it was asked for.
    #[must_use]
    pub fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.shared.lock().instance)
    }

    /// The answer to the first registration: where its dependencies are, for instance. Without the lease's token, and
    /// empty before there is one.
    #[must_use]
    pub fn response(&self) -> Arc<RegisterResponse> {
        Arc::clone(&self.shared.lock().response)
    }

    /// Whether it was ever registered, which it always was by `join`.
    #[must_use]
    pub fn was_registered(&self) -> bool {
        self.shared.lock().response.lease.is_some()
    }

    /// Whether nothing is tried any more: it was superseded, or refused.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.lock().ended.is_some()
    }

    /// What happens next; none after the end. Who does not ask has the newest 64, the end among them.
    pub async fn event(&mut self) -> Option<LeaseEvent> {
        loop {
            {
                let mut held = self.shared.lock();
                match held.events.pop_front() {
                    None if held.closed => return None,
                    None => {}
                    event => return event,
                }
            }
            self.shared.told.notified().await;
        }
    }

    /// Waits until a beat is answered well from now on; for ever, if it has ended.
    pub fn renewed(&self) -> impl Future<Output = ()> + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.beaten.notified().await }
    }

    /// Sets the status, which stays over losses of the lease: `STARTING`, `SERVING` or `DRAINING`. Done when the registry
    /// has it.
    ///
    /// # Errors
    /// No host answered, or it was refused: beats go on with the new status all the same. Or nothing is kept any more. Or
    /// it is another status, which no registrant may say, and nothing is changed.
    pub async fn set_status(&self, status: Status) -> Result<(), CallFailed> {
        if !matches!(status, Status::Starting | Status::Serving | Status::Draining) {
            let refused = tonic::Status::invalid_argument("status: must be STARTING, SERVING or DRAINING");
            let causes = vec![(self.client.calls.host(), Cause::Status(Box::new(refused)))];
            return Err(CallFailed { what: "set the status".to_owned(), causes });
        }
        self.shared.lock().status = status;
        let (answer, answered) = oneshot::channel();
        let over = || {
            let ended = self.shared.lock().ended.clone();
            ended.unwrap_or_else(|| CallFailed::here("set the status", "the runtime is shutting down"))
        };
        self.commands.send(Command::Beat(answer)).await.map_err(|_| over())?;
        answered.await.unwrap_or_else(|_| Err(over()))
    }

    /// Whether beats come by themselves.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.shared.lock().kept
    }

    /// Lets beats come by themselves, or not: then the lease ends by itself when its TTL has passed, unless this is called
    /// again. Whoever sets a status beats.
    pub fn keep(&self, kept: bool) {
        self.shared.lock().kept = kept;
    }

    /// Takes it out of traffic, and waits up to `wait` (at most 5 minutes) until those who watch it know. It is beaten for
    /// meanwhile. Then finish what there is, and `leave`.
    ///
    /// # Errors
    /// No host answered, or the lease is lost, or it was never registered: then it will be out of traffic when it is.
    pub async fn drain(&self, wait: Duration) -> Result<DrainResponse, CallFailed> {
        let (name, lease_token) = {
            let mut held = self.shared.lock();
            held.status = Status::Draining;
            (held.instance.service.clone(), held.token.0.clone())
        };
        if lease_token.is_empty() {
            // It is registered as what is said now.
            return Err(CallFailed::here(&format!("drain {name}"), "it is not registered yet"));
        }
        let wait = wait.min(DRAIN_MAX);
        let request = DrainRequest { lease_token, wait: to_wire(wait), ..DrainRequest::default() };
        let send = |channel: Channel, request| async move { RegistryClient::new(channel).drain(request).await };
        let line = &self.client.calls;
        line.call(&format!("drain {name}"), line.timeout() + wait, request, send).await
    }

    /// Takes it away. What was never registered, or is kept no more, is not there to be taken away.
    ///
    /// # Errors
    /// No host answered: its lease will end by itself. Or it is somebody else's by now.
    pub async fn leave(self) -> Result<DeregisterResponse, CallFailed> {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Leave(answer)).await.is_err() {
            return Ok(DeregisterResponse::default());
        }
        answered.await.unwrap_or_else(|_| Ok(DeregisterResponse::default()))
    }
}

/// The answer without its secret, which comes apart.
pub(super) fn parted(mut response: RegisterResponse) -> (RegisterResponse, Secret) {
    let token = response.lease.as_mut().map(|lease| mem::take(&mut lease.token));
    (response, Secret(token.unwrap_or_default()))
}
