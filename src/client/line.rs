//! The way to a registry: its hosts, one of which is in use, and the one place where a channel is made. Each call tries
//! every host once. Knows no call by name.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::{self, Handle},
    sync::watch,
    time::timeout,
};
use tonic::{Code, Request, Response, Status, transport::Channel};

use super::{
    connection::Host,
    dial::{self, CONNECT_TIMEOUT, Dialler, Fault},
    error::{CallFailed, Cause},
    means::{Tls, Token},
};

/// No call takes longer, whatever it is told.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// As protobuf has it: ten thousand years.
const LONGEST_ON_THE_WIRE: Duration = Duration::from_secs(315_576_000_000);
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

/// A host's connection, and how many it had before.
#[derive(Debug, Default)]
struct Held {
    dial: Option<Dial>,
    generation: u64,
}

/// A connection in the making, or made. It is made apart from the calls that wait for it: one whose time is over leaves
/// it to the next.
#[derive(Clone, Debug)]
struct Dial {
    made: watch::Receiver<Option<Result<Channel, Cause>>>,
    fault: Fault,
    /// Which carries it.
    runtime: runtime::Id,
}

impl Dial {
    fn start(dialler: Dialler) -> Self {
        let ((to, made), fault) = (watch::channel(None), Fault::default());
        let (runtime, told) = (Handle::current(), Arc::clone(&fault));
        runtime.spawn(async move { to.send_replace(Some(dialler.channel(told).await)) });
        Self { made, fault, runtime: runtime.id() }
    }

    fn is_in_the_making(&self) -> bool {
        self.made.borrow().is_none() && self.made.has_changed().is_ok()
    }

    /// What failed while nobody waited says nothing of now.
    fn is_of_use(&self) -> bool {
        let is_made = matches!(&*self.made.borrow(), Some(Ok(_)));
        self.runtime == Handle::current().id() && (is_made || self.is_in_the_making())
    }

    async fn channel(mut self) -> Result<Channel, Cause> {
        let gone = || Cause::Transport { text: "the runtime is shutting down".to_owned(), refused: false };
        let made = self.made.wait_for(Option::is_some).await.map_err(|_| gone())?;
        made.clone().unwrap_or_else(|| Err(gone()))
    }
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
        Self { hosts, channels, at: AtomicUsize::new(0), timeout: timeout.min(LONGEST), tls, token: None }
    }

    /// With a token beside every call.
    #[must_use]
    pub fn with(self, token: Option<Token>) -> Self {
        Self { token, ..self }
    }

    /// What goes beside every call.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
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

    /// Of a time that a call may take with all hosts, what it may take with each.
    pub(super) fn share(&self, limit: Duration) -> Duration {
        limit / u32::try_from(self.hosts.len()).unwrap_or(u32::MAX).max(1)
    }

    /// Whether it may be answered otherwise later. A token that is asked for may be a better one then.
    pub(super) fn may_pass(&self, failed: &CallFailed) -> bool {
        failed.is_transient() || failed.last().is_some_and(|cause| self.may_be_let_in(cause))
    }

    /// As `may_pass`, of what a host said.
    pub(super) fn is_final(&self, cause: &Cause) -> bool {
        cause.is_final() && !self.may_be_let_in(cause)
    }

    fn may_be_let_in(&self, cause: &Cause) -> bool {
        cause.code() == Some(Code::Unauthenticated) && self.token.as_ref().is_some_and(Token::is_asked_for)
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
        let limit = limit.min(LONGEST);
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
        let (place, dial) = {
            let mut held = self.held(at);
            let dial = held.dial.take().filter(Dial::is_of_use).unwrap_or_else(|| self.dial(at));
            held.dial = Some(dial.clone());
            (Place { at, generation: held.generation }, dial)
        };
        let fault = Arc::clone(&dial.fault);
        let work = async { send(dial.channel().await?).await.map(Response::into_inner).map_err(Cause::from_status) };
        let answer = timeout(limit, work).await.unwrap_or(Err(Cause::Timeout(limit)));
        let answer = answer.map_err(|cause| match (cause, dial::told(&fault)) {
            (Cause::Transport { .. }, Some(why)) => why,
            (cause, _) => cause,
        });
        if answer.is_ok() {
            self.at.store(at, Ordering::Relaxed);
        }
        (place, answer)
    }

    fn held(&self, at: usize) -> MutexGuard<'_, Held> {
        self.channels[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection to a host, whether anybody waits for it or not.
    fn dial(&self, at: usize) -> Dial {
        let host = self.hosts[at].clone();
        let tls = self.tls.as_ref().filter(|_| host.tls).cloned();
        Dial::start(Dialler { host, tls, limit: CONNECT_TIMEOUT.min(self.timeout) })
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
            // What takes longer than a call has may still be of use to the next.
            if !held.dial.as_ref().is_some_and(Dial::is_in_the_making) {
                *held = Held { dial: None, generation: generation + 1 };
            }
        }
        // Unless somebody has gone on already.
        let next = (at + 1) % self.hosts.len();
        let _ = self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn at(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }
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

/// A prost duration of a std one: of a very long one the longest that there is, which a server then refuses.
#[must_use]
pub fn to_wire(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration.min(LONGEST_ON_THE_WIRE)).ok()
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
        let mut sockets = Vec::new();
        let mut host = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            sockets.push(socket);
            Host { name: "127.0.0.1".to_owned(), port, tls: false }
        };
        let line = Line::new(vec![host(), host()], Duration::from_secs(1), None);
        let open = |channel: Channel| async move { Ok(Response::new(channel)) };
        let (_, first) = line.attempt_at("open", Duration::from_secs(1), open).await.unwrap();
        assert_eq!(line.at(), 0);
        (0..50).for_each(|_| line.give_up(first));
        assert_eq!(line.at(), 1, "it goes on once");
        let (_, second) = line.attempt_at("open", Duration::from_secs(1), open).await.unwrap();
        line.give_up(first);
        assert!(line.held(1).dial.is_some() && line.at() == 1);
        line.give_up(second);
        assert!(line.held(1).dial.is_none() && line.at() == 0);
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
