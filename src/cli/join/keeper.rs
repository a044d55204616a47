//! A lease and what keeps it: beats, retries, registering again, leaving. The state machine of docs/protocol.md.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::timeout;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::{
    cli::{
        failure::{CallFailed, Cause, Failure, Report as _},
        lookup::{bare, send_lookup},
        needs,
        print::{note, to_json},
        session::{Backoff, Session, chance, from_wire},
        text::{host_port, human, safe},
    },
    proto::{
        Beat, BeatResult, BeatState, DeregisterRequest, HeartbeatRequest, IfMissing, Instance, LookupRequest,
        RegisterRequest, RegisterResponse, registry_client::RegistryClient,
    },
};

/// How long a call under way, and the deregistration after it, may take once we are told to stop.
const GOODBYE: Duration = Duration::from_secs(3);
/// An outage that goes on is told again this often.
const REMINDER: Duration = Duration::from_secs(30);
/// Never beat more often, whatever a server says.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// The beat after a registration whose interval is not told: a third of the default TTL.
const DEFAULT_INTERVAL: Duration = Duration::from_millis(3_333);

/// SIGINT and SIGTERM. Once one has come it stays.
pub(super) struct Stop {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 2],
    told: bool,
}

impl Stop {
    #[cfg(unix)]
    pub(super) fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?], told: false })
    }

    #[cfg(not(unix))]
    pub(super) fn listen() -> Result<Self, Failure> {
        Ok(Self { told: false })
    }

    async fn wait(&mut self) {
        if self.told {
            return;
        }
        #[cfg(unix)]
        {
            let [interrupt, terminate] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.told = true;
    }

    /// Whether it came within `pause`.
    async fn within(&mut self, pause: Duration) -> bool {
        timeout(pause, self.wait()).await.is_ok()
    }

    /// Lets `call` end, but not for long once we are told to stop: it may be a registration that is made already.
    async fn let_end<T>(&mut self, call: impl Future<Output = T>) -> Option<T> {
        let mut call = pin!(call);
        tokio::select! {
            biased;
            answer = &mut call => Some(answer),
            () = self.wait() => timeout(GOODBYE, call).await.ok(),
        }
    }
}

/// Keeps one instance registered.
pub(super) struct Keeper {
    session: Session,
    stop: Stop,
    /// What to register; holds the last token and, once known, the id.
    request: RegisterRequest,
    /// How long a registration may take.
    patience: Duration,
    /// Where watchers see us.
    address: String,
    interval: Duration,
    outage: Option<Outage>,
    backoff: Backoff,
}

/// A time without an answer.
struct Outage {
    since: Instant,
    told: Instant,
    text: String,
}

/// Why the beats have come to an end.
enum Ended {
    Stopped,
    /// The lease is gone; what the registry called that.
    Lost(&'static str),
}

impl Keeper {
    pub(super) fn new(session: Session, stop: Stop, request: RegisterRequest, patience: Duration) -> Self {
        let (interval, backoff) = (DEFAULT_INTERVAL, Backoff::default());
        Self { session, stop, request, patience, address: String::new(), interval, outage: None, backoff }
    }

    /// Registers, beats, and registers again whenever the lease is lost; until we are told to stop.
    ///
    /// # Errors
    /// The registration was refused, or somebody else has our key.
    pub(super) async fn keep(&mut self) -> Result<(), Failure> {
        let mut lost = None;
        while let Some(response) = self.register().await? {
            self.accept(response, lost)?;
            match self.beat().await? {
                Ended::Stopped => break,
                Ended::Lost(why) => lost = Some(why),
            }
        }
        Ok(())
    }

    /// Registers, as often as it takes; nothing if we are told to stop first.
    async fn register(&mut self) -> Result<Option<RegisterResponse>, Failure> {
        // The same for every attempt at this registration: it is made once, however often it is sent.
        self.request.request_id = Uuid::now_v7().to_string();
        loop {
            let what = format!("register {}", self.name());
            let limit = self.patience;
            let send = async |channel: Channel, request| RegistryClient::new(channel).register(request).await;
            let call = self.session.line.call(&what, limit, self.request.clone(), send);
            match self.stop.let_end(call).await {
                None => return Ok(None),
                Some(Ok(response)) => return Ok(Some(response)),
                Some(Err(failed)) if is_superseded(&failed) => return Err(self.superseded().await),
                Some(Err(failed)) if !failed.is_transient() => return Err(needs::failure(failed)),
                Some(Err(failed)) => {
                    if self.pause(&failed.short(), failed.last().and_then(Cause::retry_after)).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn accept(&mut self, mut response: RegisterResponse, lost: Option<&'static str>) -> Result<(), Failure> {
        let (Some(instance), Some(mut lease)) = (response.instance.take(), response.lease.take()) else {
            return Err(Failure::Other("the server's answer lacks the instance or the lease".to_owned()));
        };
        self.recovered();
        self.request.lease_token = std::mem::take(&mut lease.token);
        // It runs: whatever becomes of what it needs, it is registered again when its lease is lost.
        self.request.if_missing = IfMissing::Ignore.into();
        self.patience = self.session.line.timeout();
        // The id that it has now, so that a registration after a change of address is still this instance.
        if let Some(ours) = &mut self.request.instance {
            ours.id.clone_from(&instance.id);
        }
        self.address = address(&instance);
        let ttl = from_wire(lease.ttl).unwrap_or(DEFAULT_INTERVAL * 3);
        self.interval = from_wire(lease.heartbeat_interval).unwrap_or(ttl / 3).max(SHORTEST_INTERVAL);
        let again = lost.map_or_else(String::new, |why| format!(" again, since its lease was {why}"));
        let text = format!(
            "registered {} at {}{again}; its lease lasts {}, a beat every {}",
            safe(&self.name()),
            safe(&self.address),
            human(ttl),
            human(self.interval)
        );
        let needed = response.dependencies.iter().map(|(name, url)| format!("\n  {} is at {}", safe(name), safe(url)));
        let text = text + &needed.collect::<String>();
        // Without the token, which is a secret.
        response.lease = Some(lease);
        response.instance = Some(instance);
        let mut json = to_json("RegisterResponse", &response)?;
        json["event"] = json!("REGISTERED");
        self.say(&text, &json)
    }

    /// Beats until the lease is lost or we are told to stop.
    async fn beat(&mut self) -> Result<Ended, Failure> {
        loop {
            if self.stop.within(self.interval.mul_f64(1.0 - 0.1 * chance())).await {
                return Ok(Ended::Stopped);
            }
            loop {
                let Some(answer) = self.beat_once().await else { return Ok(Ended::Stopped) };
                let (trouble, retry_after) = match answer {
                    Ok(result) => match result.state() {
                        BeatState::Renewed => {
                            if let Some(ttl) = from_wire(result.ttl) {
                                self.interval = (ttl / 3).max(SHORTEST_INTERVAL);
                            }
                            self.recovered();
                            break;
                        }
                        state @ (BeatState::Expired | BeatState::Unknown | BeatState::Denied) => {
                            return Ok(Ended::Lost(bare(state.as_str_name(), "BEAT_STATE_")));
                        }
                        BeatState::Superseded => return Err(self.superseded().await),
                        BeatState::Unspecified => ("the registry could not judge the beat".to_owned(), None),
                    },
                    Err(failed) => (failed.short(), failed.last().and_then(Cause::retry_after)),
                };
                if self.pause(&trouble, retry_after).await? {
                    return Ok(Ended::Stopped);
                }
            }
        }
    }

    async fn beat_once(&mut self) -> Option<Result<BeatResult, CallFailed>> {
        let what = format!("renew the lease of {}", self.name());
        // A beat that hangs is worth less than the next attempt.
        let limit = self.session.line.timeout().min(self.interval.max(Duration::from_millis(500)));
        let beat = Beat { lease_token: self.request.lease_token.clone(), status: 0 };
        let send = async |channel: Channel, request| RegistryClient::new(channel).heartbeat(request).await;
        let call =
            self.session.line.call(&what, limit, HeartbeatRequest { beats: vec![beat], ..Default::default() }, send);
        let answer = self.stop.let_end(call).await?;
        // An answer without a result reads as one that was not judged.
        Some(answer.map(|response| response.results.first().cloned().unwrap_or_default()))
    }

    /// Tells of trouble, once in a while, and waits before the next attempt. True if we are told to stop.
    async fn pause(&mut self, trouble: &str, retry_after: Option<Duration>) -> Result<bool, Failure> {
        let now = Instant::now();
        let outage = self.outage.get_or_insert_with(|| Outage { since: now, told: now, text: String::new() });
        if outage.text != trouble || now.duration_since(outage.told) >= REMINDER {
            outage.told = now;
            trouble.clone_into(&mut outage.text);
            let deed = if self.request.lease_token.is_empty() { "register" } else { "renew the lease of" };
            note(&format!("cannot {deed} {}, trying again: {trouble}", safe(&self.name())));
            if self.session.print.is_json() {
                self.session.print.value(&json!({"event": "FAILING", "error": trouble}))?;
            }
        }
        let wait = self.backoff.pause().max(retry_after.unwrap_or_default());
        Ok(self.stop.within(wait).await)
    }

    fn recovered(&mut self) {
        self.backoff.reset();
        if let Some(outage) = self.outage.take() {
            note(&format!("the registry answers again, after {}", human(outage.since.elapsed())));
        }
    }

    /// Takes the instance away, if it is ours.
    ///
    /// # Errors
    /// It could not be taken away, or it is somebody else's.
    pub(super) async fn leave(&mut self) -> Result<(), Failure> {
        let lease_token = std::mem::take(&mut self.request.lease_token);
        if lease_token.is_empty() {
            return Err(Failure::Other(format!("{} was never registered", self.name())));
        }
        let what = format!("take {} away (its lease will end by itself)", self.name());
        let request = DeregisterRequest { lease_token, ..DeregisterRequest::default() };
        let send = async |channel: Channel, request| RegistryClient::new(channel).deregister(request).await;
        let answer = match self.session.line.call(&what, GOODBYE, request, send).await {
            Ok(answer) => answer,
            Err(failed) if is_superseded(&failed) => return Err(self.superseded().await),
            Err(failed) => return Err(failed.into()),
        };
        let gone = if answer.removed == 0 { ", its lease had ended already" } else { "" };
        let mut json = to_json("DeregisterResponse", &answer)?;
        json["event"] = json!("LEFT");
        self.say(&format!("took {} away{gone}", safe(&self.name())), &json)
    }

    /// The end: another process has our key. Names both addresses, if the other's can be found out.
    async fn superseded(&mut self) -> Failure {
        let instance = self.request.instance.clone().unwrap_or_default();
        let id = serde_json::Value::String(instance.id);
        let request = LookupRequest {
            namespace: instance.namespace,
            service: instance.service,
            selector: format!("id={id},status=*"),
            ..LookupRequest::default()
        };
        let found = timeout(GOODBYE, self.session.line.call("find the newer one", GOODBYE, request, send_lookup)).await;
        let newer = found.ok().and_then(Result::ok).and_then(|found| found.instances.first().map(address));
        let newer =
            newer.map_or_else(|| "a newer registration".to_owned(), |at| format!("a newer registration at {at}"));
        let ours = if self.address.is_empty() { String::new() } else { format!(" at {}", self.address) };
        Failure::Superseded(format!(
            "{}{ours} was superseded by {newer}: this process stops, and does not register again",
            self.name()
        ))
    }

    fn name(&self) -> String {
        let instance = self.request.instance.as_ref();
        let (service, id) = instance.map_or(("", ""), |instance| (&instance.service, &instance.id));
        if id.is_empty() { service.to_owned() } else { format!("{service}/{id}") }
    }

    fn say(&self, text: &str, json: &serde_json::Value) -> Result<(), Failure> {
        if self.session.print.is_json() { self.session.print.value(json) } else { self.session.print.line(text) }
    }
}

fn is_superseded(failed: &CallFailed) -> bool {
    failed.last().and_then(Cause::reason).as_deref() == Some("SUPERSEDED")
}

/// Where an instance is, for people.
pub(in crate::cli) fn address(instance: &Instance) -> String {
    if instance.port == 0 { instance.url.clone() } else { host_port(&instance.host, instance.port) }
}
