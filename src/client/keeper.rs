//! The task that keeps a registration: beats, retries, registering again, leaving. The state machine of docs/protocol.md.

use std::{mem, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tonic::transport::Channel;
use uuid::Uuid;

use super::{
    Inner,
    beats::Beaten,
    error::{CallFailed, Cause},
    lease::{Command, LeaseEvent, Lost, Shared, parted},
    line::{Backoff, chance, from_wire},
};
use crate::proto::{
    Beat, BeatResult, BeatState, DeregisterRequest, DeregisterResponse, HeartbeatRequest, IfMissing, RegisterRequest,
    RegisterResponse, Status, registry_client::RegistryClient,
};

/// How long a registration under way, and the deregistration after it, may take once it is to end.
const GOODBYE: Duration = Duration::from_secs(3);
/// Never beat more often, whatever a server says.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// A beat has so long, even where beats come more often.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(500);
/// The beat after a registration whose interval is not told: a third of the default TTL.
const DEFAULT_INTERVAL: Duration = Duration::from_millis(3_333);
/// How long a server waits for dependencies that nobody says how long to wait for.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// To whom it is told what came of leaving.
type Left = Option<oneshot::Sender<Result<DeregisterResponse, CallFailed>>>;

/// What came of a call.
enum Called<T> {
    Answered(T),
    /// The guard left meanwhile; the answer, if it came soon.
    Left(Left, Option<T>),
}

/// Why a state has come to an end.
enum Ended {
    /// The guard is gone, or asks to leave.
    Leave(Left),
    /// The lease is gone.
    Lost(Lost),
    /// Nothing is to be done any more.
    Over(LeaseEvent),
}

/// Keeps one instance registered.
pub(super) struct Keeper {
    client: Arc<Inner>,
    shared: Arc<Shared>,
    /// What to register; holds the last token and the id.
    request: RegisterRequest,
    registered: bool,
    /// The status that the registry has.
    said: Status,
    interval: Duration,
    outage: Option<Instant>,
    backoff: Backoff,
    commands: mpsc::Receiver<Command>,
    /// Beats that were asked for while a call was under way.
    asked: Vec<oneshot::Sender<Result<(), CallFailed>>>,
}

/// However the task ends, nobody waits for what it would have told.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Registers once, with each host tried once.
pub(super) async fn register(client: &Inner, request: &RegisterRequest) -> Result<RegisterResponse, CallFailed> {
    let waits = request.if_missing == i32::from(IfMissing::Wait);
    let wait = if waits { from_wire(request.wait).unwrap_or(DEFAULT_WAIT) } else { Duration::ZERO };
    let what = format!("register {}", request.instance.as_ref().map_or("", |instance| &instance.service));
    let send = |channel: Channel, request| async move { RegistryClient::new(channel).register(request).await };
    let line = &client.calls;
    line.call(&what, line.timeout().saturating_add(wait), request.clone(), send).await
}

/// Beats once. With a status by a call of its own: a change waits for the disk, and the beats of other leases, which a
/// stream has in order, are not to wait with it.
async fn beat(client: Arc<Inner>, beat: Beat, limit: Duration) -> Beaten {
    if beat.status == i32::from(Status::Unspecified) {
        return client.beater().beat(beat, limit).await;
    }
    let request = HeartbeatRequest { beats: vec![beat], ..HeartbeatRequest::default() };
    let send = |channel: Channel, request| async move { RegistryClient::new(channel).heartbeat(request).await };
    let line = &client.calls;
    let response = line.call("renew a lease with a status", line.share(limit), request, send).await?;
    Ok(response.results.into_iter().next().unwrap_or_default())
}

impl Keeper {
    pub(super) fn new(
        client: Arc<Inner>,
        shared: Arc<Shared>,
        request: RegisterRequest,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let said = shared.lock().status;
        Self {
            client,
            shared,
            request,
            registered: false,
            said,
            interval: DEFAULT_INTERVAL,
            outage: None,
            backoff: Backoff::default(),
            commands,
            asked: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut lost = None;
        loop {
            let ended = if self.registered { self.beats().await } else { self.registering(lost).await };
            match ended {
                None => {}
                Some(Ended::Lost(how)) => {
                    (lost, self.registered) = (Some(how), false);
                    self.shared.tell(LeaseEvent::Lost(how));
                    // The same for every attempt at this registration: it is made once, however often it is sent.
                    self.request.request_id = Uuid::now_v7().to_string();
                }
                Some(Ended::Leave(answer)) => return self.leave(answer).await,
                Some(Ended::Over(event)) => return self.end(event).await,
            }
        }
    }

    /// Takes in what the registry made of it; the answer without its secret.
    pub(super) fn accept(&mut self, response: RegisterResponse) -> RegisterResponse {
        let (response, token) = parted(response);
        let mut held = self.shared.lock();
        if let Some(instance) = &response.instance {
            held.instance = Arc::new(instance.clone());
            // The id that it has now, so that a registration after a change of address is still this instance.
            if let Some(ours) = &mut self.request.instance {
                ours.id.clone_from(&instance.id);
            }
        }
        if held.response.lease.is_none() {
            held.response = Arc::new(response.clone());
        }
        self.request.lease_token.clone_from(&token.0);
        held.token = token;
        drop(held);
        // It runs: whatever becomes of what it needs, it is registered again when its lease is lost.
        self.request.if_missing = IfMissing::Ignore.into();
        let lease = response.lease.clone().unwrap_or_default();
        let ttl = from_wire(lease.ttl).unwrap_or(DEFAULT_INTERVAL * 3);
        self.interval = from_wire(lease.heartbeat_interval).unwrap_or(ttl / 3).max(SHORTEST_INTERVAL);
        self.registered = true;
        response
    }

    /// Beats until the lease is lost or nobody wants it any more.
    async fn beats(&mut self) -> Option<Ended> {
        // What came while it was registered is said at once.
        let mut wait = if self.news().1 == self.said { self.pause() } else { Duration::ZERO };
        loop {
            if let Some(left) = self.within(wait).await {
                return Some(Ended::Leave(left));
            }
            // A status that the registry has not heard is news of a lease that is not kept, too.
            if self.asked.is_empty() && !self.is_kept() && self.news().1 == self.said {
                wait = self.interval;
                continue;
            }
            let asked = mem::take(&mut self.asked);
            let (message, status) = self.news();
            let beaten = beat(Arc::clone(&self.client), message, self.patience());
            // Nothing is lost with a beat whose answer nobody waits for.
            let beaten = match self.let_end(beaten, Duration::ZERO).await {
                Called::Answered(beaten) => beaten,
                Called::Left(left, _) => return Some(Ended::Leave(left)),
            };
            let failed = match beaten {
                Ok(result) if result.state() == BeatState::Renewed => {
                    self.said = status;
                    if let Some(ttl) = from_wire(result.ttl) {
                        self.interval = (ttl / 3).max(SHORTEST_INTERVAL);
                    }
                    self.recovered();
                    self.shared.beaten();
                    answer(asked, &Ok(()));
                    wait = self.pause();
                    continue;
                }
                Ok(result) => {
                    if let Some(ended) = over(result) {
                        // They are told when it is registered again, or that it never will be.
                        self.asked.splice(0..0, asked);
                        return Some(ended);
                    }
                    CallFailed::here("renew a lease", "the registry could not judge the beat")
                }
                Err(failed) => failed,
            };
            answer(asked, &Err(failed.clone()));
            // However long it is asked to wait: a lease that is beaten for no more would end.
            wait = self.trouble(failed).min(self.interval);
        }
    }

    fn is_kept(&self) -> bool {
        self.shared.lock().kept
    }

    /// From one beat to the next.
    fn pause(&self) -> Duration {
        self.interval.mul_f64(1.0 - 0.1 * chance())
    }

    /// The next beat, with the status if that is news, and the status.
    fn news(&self) -> (Beat, Status) {
        let held = self.shared.lock();
        let status = if held.status == self.said { Status::Unspecified } else { held.status };
        (Beat { lease_token: held.token.0.clone(), status: status.into() }, held.status)
    }

    /// A beat that hangs is worth less than the next attempt.
    fn patience(&self) -> Duration {
        self.client.calls.timeout().min(self.interval.max(SHORTEST_PATIENCE))
    }

    /// Registers, as often as it takes; none when it is done.
    async fn registering(&mut self, lost: Option<Lost>) -> Option<Ended> {
        loop {
            let status = self.shared.lock().status;
            if let Some(instance) = &mut self.request.instance {
                instance.set_status(status);
            }
            let (client, request) = (Arc::clone(&self.client), self.request.clone());
            let registered = async move { register(&client, &request).await };
            let registered = match self.let_end(registered, GOODBYE).await {
                Called::Answered(registered) => registered,
                Called::Left(left, registered) => {
                    // What was made is taken away.
                    if let Some(Ok(response)) = registered {
                        self.accept(response);
                    }
                    return Some(Ended::Leave(left));
                }
            };
            let failed = match registered {
                Ok(response) => {
                    self.recovered();
                    let response = Box::new(self.accept(response));
                    self.said = status;
                    // A status that came meanwhile is news: who asked is told when the first beat has said it.
                    if self.news().1 == status {
                        answer(mem::take(&mut self.asked), &Ok(()));
                    }
                    self.shared.tell(LeaseEvent::Registered { response, lost });
                    return None;
                }
                Err(failed) => failed,
            };
            if failed.reason().as_deref() == Some("SUPERSEDED") {
                return Some(Ended::Over(LeaseEvent::Superseded { holder: failed.holder().unwrap_or_default() }));
            }
            if !self.client.calls.may_pass(&failed) {
                return Some(Ended::Over(LeaseEvent::Refused(failed)));
            }
            answer(mem::take(&mut self.asked), &Err(failed.clone()));
            let wait = self.trouble(failed);
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

    /// Lets `call` end; only for `goodbye` more if the guard leaves meanwhile.
    async fn let_end<T>(&mut self, call: impl Future<Output = T>, goodbye: Duration) -> Called<T> {
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
        Called::Left(left, timeout(goodbye, call).await.ok())
    }

    /// Tells of trouble. How long to wait before the next attempt.
    fn trouble(&mut self, failed: CallFailed) -> Duration {
        self.outage.get_or_insert_with(Instant::now);
        let wait = self.backoff.pause().max(failed.last().and_then(Cause::retry_after).unwrap_or_default());
        self.shared.tell(LeaseEvent::Failing(failed));
        wait
    }

    fn recovered(&mut self) {
        self.backoff.reset();
        if let Some(since) = self.outage.take() {
            self.shared.tell(LeaseEvent::Recovered { outage: since.elapsed() });
        }
    }

    /// Nobody is to miss how it ended, and nobody has to wait for anything after it.
    async fn end(&mut self, event: LeaseEvent) {
        let failed = match &event {
            LeaseEvent::Refused(failed) => failed.clone(),
            LeaseEvent::Superseded { holder } => CallFailed::superseded(&self.client.calls.host(), holder),
            _ => CallFailed::here("keep a lease", "it has ended"),
        };
        self.shared.lock().ended = Some(failed.clone());
        self.shared.tell(event);
        self.commands.close();
        answer(mem::take(&mut self.asked), &Err(failed.clone()));
        while let Some(command) = self.commands.recv().await {
            if let Command::Beat(asked) = command {
                answer(vec![asked], &Err(failed.clone()));
            }
        }
    }

    /// Takes the instance away.
    async fn leave(&mut self, answer: Left) {
        let left = self.deregister().await;
        if let Some(answer) = answer {
            // Nobody has to wait for it.
            let _ = answer.send(left);
        }
    }

    async fn deregister(&self) -> Result<DeregisterResponse, CallFailed> {
        let (service, lease_token) = {
            let held = self.shared.lock();
            (held.instance.service.clone(), held.token.0.clone())
        };
        if lease_token.is_empty() {
            return Ok(DeregisterResponse::default());
        }
        let what = format!("take {service} away (its lease will end by itself)");
        let request = DeregisterRequest { lease_token, ..DeregisterRequest::default() };
        let send = |channel: Channel, request| async move { RegistryClient::new(channel).deregister(request).await };
        self.client.calls.call(&what, GOODBYE, request, send).await
    }
}

/// What it comes to that a lease was not renewed; none if that is not known.
fn over(result: BeatResult) -> Option<Ended> {
    match result.state() {
        BeatState::Expired => Some(Ended::Lost(Lost::Expired)),
        BeatState::Unknown => Some(Ended::Lost(Lost::Unknown)),
        BeatState::Denied => Some(Ended::Lost(Lost::Denied)),
        BeatState::Superseded => Some(Ended::Over(LeaseEvent::Superseded { holder: result.holder })),
        BeatState::Unspecified | BeatState::Renewed => None,
    }
}

/// Tells all who asked for a beat what came of it.
fn answer(asked: Vec<oneshot::Sender<Result<(), CallFailed>>>, what: &Result<(), CallFailed>) {
    for one in asked {
        // Who asked may be gone.
        let _ = one.send(what.clone());
    }
}
