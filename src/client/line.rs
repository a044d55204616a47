//! The way to a registry: its hosts, one of which is in use, and the one place where a channel is made. Each call tries
//! every host once. Knows no call by name.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use super::{
    connection::Host,
    error::{CallFailed, Cause},
    means::{Tls, Token, by_tls},
};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The server is told this much more than we wait ourselves, so that it is we who say that time is up.
const DEADLINE_MARGIN: Duration = Duration::from_millis(500);

/// Hosts of one registry, one of which is in use. Many may call at once.
#[derive(Debug)]
pub struct Line {
    hosts: Arc<[Host]>,
    channels: Box<[Mutex<Held>]>,
    at: AtomicUsize,
    timeout: Duration,
    tls: Option<Arc<Tls>>,
    token: Option<Token>,
}

/// A host's channel, and how many it had before.
#[derive(Debug, Default)]
struct Held {
    channel: Option<Channel>,
    generation: u64,
}

/// The channel that something came by: which host's, and which of its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    at: usize,
    generation: u64,
}

impl Line {
    /// A line to these hosts; at least one, and TLS if one of them wants it. Dials nothing yet.
    #[must_use]
    pub fn new(hosts: impl Into<Arc<[Host]>>, timeout: Duration, tls: Option<Arc<Tls>>) -> Self {
        let hosts = hosts.into();
        let channels = hosts.iter().map(|_| Mutex::default()).collect();
        Self { hosts, channels, at: AtomicUsize::new(0), timeout, tls, token: None }
    }

    /// With a token beside every call.
    #[must_use]
    pub fn with(self, token: Option<Token>) -> Self {
        Self { token, ..self }
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Another line to the same hosts, with connections of its own.
    #[must_use]
    pub fn another(&self) -> Self {
        self.to(Arc::clone(&self.hosts))
    }

    /// A line to one of the hosts alone.
    #[must_use]
    pub fn only(&self, host: &Host) -> Self {
        self.to(vec![host.clone()])
    }

    fn to(&self, hosts: impl Into<Arc<[Host]>>) -> Self {
        Self::new(hosts, self.timeout, self.tls.clone()).with(self.token.clone())
    }

    /// How TLS is spoken, if it is.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Every host.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host that was used last.
    #[must_use]
    pub fn host(&self) -> String {
        self.hosts[self.at()].to_string()
    }

    /// How long a call may take that does not wait on purpose.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A request as every call makes it.
    pub(super) fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            token.beside(&mut request);
        }
        request
    }

    /// A unary call, each host tried once, beginning with the one in use; `what` is for the error: `look up web`.
    ///
    /// # Errors
    /// The first answer that another host would not give differently, else every host's cause.
    pub async fn call<Q: Clone, R, F: Future<Output = Result<Response<R>, Status>>>(
        &self,
        what: &str,
        limit: Duration,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, CallFailed> {
        let request = || {
            let mut request = self.request(request.clone());
            request.set_timeout(limit + DEADLINE_MARGIN);
            request
        };
        self.attempt(what, limit, |channel| send(channel, request())).await
    }

    /// Opens a stream; the same, without a deadline for what comes.
    ///
    /// # Errors
    /// As `call`.
    pub async fn stream<Q: Clone, R, F: Future<Output = Result<Response<R>, Status>>>(
        &self,
        what: &str,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, CallFailed> {
        let limit = self.timeout;
        self.attempt(what, limit, |channel| send(channel, self.request(request.clone()))).await
    }

    /// Whatever `send` does, with a channel to each host in turn, until one answers within `limit`.
    ///
    /// # Errors
    /// As `call`.
    pub async fn attempt<R, F: Future<Output = Result<Response<R>, Status>>>(
        &self,
        what: &str,
        limit: Duration,
        send: impl Fn(Channel) -> F,
    ) -> Result<R, CallFailed> {
        self.attempt_at(what, limit, send).await.map(|(answer, _)| answer)
    }

    /// The same, and by which channel the answer came: what it opened is given up with that one.
    ///
    /// # Errors
    /// As `call`.
    pub async fn attempt_at<R, F: Future<Output = Result<Response<R>, Status>>>(
        &self,
        what: &str,
        limit: Duration,
        send: impl Fn(Channel) -> F,
    ) -> Result<(R, Place), CallFailed> {
        let (first, mut causes) = (self.at(), Vec::new());
        for turn in 0..self.hosts.len() {
            let at = (first + turn) % self.hosts.len();
            let (place, answer) = self.once(at, limit, &send).await;
            let cause = match answer {
                Ok(answer) => return Ok((answer, place)),
                Err(cause) => cause,
            };
            let elsewhere = cause.is_of_this_host();
            causes.push((self.hosts[at].to_string(), cause));
            if !elsewhere {
                // The others' silence is not worth telling beside an answer.
                causes.drain(..causes.len() - 1);
                break;
            }
            self.give_up(place);
        }
        Err(CallFailed { what: what.to_owned(), causes })
    }

    async fn once<R, F: Future<Output = Result<Response<R>, Status>>>(
        &self,
        at: usize,
        limit: Duration,
        send: &impl Fn(Channel) -> F,
    ) -> (Place, Result<R, Cause>) {
        let (place, channel) = {
            let mut held = self.held(at);
            let place = Place { at, generation: held.generation };
            let dialled = match held.channel.take() {
                Some(channel) => Ok(channel),
                None => self.dial(at),
            };
            match dialled {
                Ok(channel) => (place, held.channel.insert(channel).clone()),
                Err(cause) => return (place, Err(cause)),
            }
        };
        let answer = timeout(limit, send(channel)).await;
        let answer = match answer {
            Ok(answer) => answer.map(Response::into_inner).map_err(Cause::from_status),
            Err(_) => Err(Cause::Timeout(limit)),
        };
        if answer.is_ok() {
            self.at.store(at, Ordering::Relaxed);
        }
        (place, answer)
    }

    fn held(&self, at: usize) -> MutexGuard<'_, Held> {
        self.channels[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel to a host, which connects when it is used.
    fn dial(&self, at: usize) -> Result<Channel, Cause> {
        let host = &self.hosts[at];
        let endpoint = endpoint(&host.to_string()).map_err(|error| Cause::from_error(&error))?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT.min(self.timeout));
        Ok(match &self.tls {
            Some(tls) if host.tls => endpoint.connect_with_connector_lazy(by_tls(host, &tls.config)),
            _ => endpoint.connect_lazy(),
        })
    }

    /// Leaves the connection in use; the next call begins with the next host.
    pub fn hang_up(&self) {
        let at = self.at();
        let generation = self.held(at).generation;
        self.give_up(Place { at, generation });
    }

    /// Leaves the connection that something failed on, unless somebody has done so already: what others have dialled
    /// since is left alone.
    pub fn give_up(&self, Place { at, generation }: Place) {
        {
            let mut held = self.held(at);
            if held.generation != generation {
                return;
            }
            *held = Held { channel: None, generation: generation + 1 };
        }
        // Unless somebody has gone on already.
        let next = (at + 1) % self.hosts.len();
        let _ = self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn at(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }
}

/// How to reach an address; every channel is made of one of these. Without HTTP/2 keepalive: some servers and proxies
/// punish pings, so silence is noticed by deadlines and bookmarks.
pub(super) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?;
    Ok(endpoint.user_agent(concat!("onair/", env!("CARGO_PKG_VERSION")))?.connect_timeout(CONNECT_TIMEOUT))
}

/// Delays between attempts: from 100 ms doubling to 2 s, each with up to half as much again at random.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub fn pause(&mut self) -> Duration {
        let base = Duration::from_millis(100 << self.failures.min(5)).min(Duration::from_secs(2));
        self.failures += 1;
        base + base.mul_f64(0.5 * chance())
    }

    /// The last attempt went well.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Between 0 and 1, at random; so that what failed together is not tried again together.
#[must_use]
pub fn chance() -> f64 {
    getrandom::u32().map_or(0.5, |drawn| f64::from(drawn) / f64::from(u32::MAX))
}

/// A prost duration of a std one.
#[must_use]
pub fn to_wire(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

/// A std duration of a prost one; none if it is absent or negative.
#[must_use]
pub fn from_wire(duration: Option<prost_types::Duration>) -> Option<Duration> {
    duration.and_then(|duration| Duration::try_from(duration).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many that break together leave one connection, once.
    #[tokio::test]
    async fn what_was_dialled_since_is_left_alone() {
        let host = |port| Host { name: "127.0.0.1".to_owned(), port, tls: false };
        let line = Line::new(vec![host(1), host(2)], Duration::from_secs(1), None);
        let open = |channel: Channel| async move { Ok(Response::new(channel)) };
        let (_, first) = line.attempt_at("open", Duration::from_secs(1), open).await.unwrap();
        assert_eq!(line.at(), 0);
        (0..50).for_each(|_| line.give_up(first));
        assert_eq!(line.at(), 1, "it goes on once");
        let (_, second) = line.attempt_at("open", Duration::from_secs(1), open).await.unwrap();
        line.give_up(first);
        assert!(line.held(1).channel.is_some() && line.at() == 1);
        line.give_up(second);
        assert!(line.held(1).channel.is_none() && line.at() == 0);
    }

    #[test]
    fn backoff_doubles_to_two_seconds() {
        let mut backoff = Backoff::default();
        for base in [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000] {
            let millis = backoff.pause().as_millis();
            assert!((base..=base * 3 / 2).contains(&millis), "{millis} for {base}");
        }
        backoff.reset();
        assert!(backoff.pause().as_millis() <= 150);
    }
}
