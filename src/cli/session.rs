//! A command's line to the registry: settings, the hosts tried in turn, timeouts, backoff. Knows no command.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;
use tonic::{
    Request, Response, Status,
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{
    connection::{Connection, Host},
    failure::{CallFailed, Cause, Failure},
    print::Printer,
};
use crate::{
    config::{self, ClientSettings, Given, Origin, Refused},
    tls::{ClientFiles, ClientTls},
};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The server is told this much more than we wait ourselves, so that it is we who say that time is up.
const DEADLINE_MARGIN: Duration = Duration::from_millis(500);

/// What every client command starts with.
pub struct Session {
    /// The way to the registry.
    pub line: Line,
    /// The namespace to speak of, empty for `default`.
    pub namespace: String,
    /// The TTL that the connection string asks for.
    pub ttl: Option<Duration>,
    /// Where results go.
    pub print: Printer,
}

impl Session {
    /// Reads the settings. Dials nothing yet.
    ///
    /// # Errors
    /// Everything that is wrong with the settings.
    pub fn open(given: &Given<ClientSettings>) -> Result<Self, Failure> {
        let resolved = super::resolved(given)?;
        let settings = &resolved.settings;
        let wrong = |why: String| match resolved.origin("url") {
            Origin::Default => Failure::Usage(why),
            origin => Failure::Usage(format!("{origin}: {why}")),
        };
        let mut connection = Connection::parse(&settings.url).map_err(wrong)?;
        let says_protocol = connection.says_protocol && resolved.origin("url") != Origin::Default;
        let tls = tls(&mut connection, says_protocol, settings.tls()).map_err(|failed| match failed {
            Failure::Usage(why) => wrong(why),
            failed => failed,
        })?;
        let timeout = match (resolved.origin("timeout"), connection.timeout) {
            (Origin::Default, Some(of_url)) => of_url,
            _ => settings.timeout,
        };
        Ok(Self {
            line: Line::new(connection.hosts, timeout, tls),
            namespace: if settings.namespace.is_empty() { connection.namespace } else { settings.namespace.clone() },
            ttl: connection.ttl,
            print: Printer::new(settings.output),
        })
    }
}

/// How TLS is spoken with the hosts, if it is: as they say, and where they say nothing, if there is something for it.
fn tls(connection: &mut Connection, says_protocol: bool, files: ClientFiles) -> Result<Option<Tls>, Failure> {
    let is_given = files != ClientFiles::default();
    if is_given && !says_protocol {
        connection.hosts.iter_mut().for_each(|host| host.tls = true);
    }
    match connection.hosts.iter().any(|host| host.tls) {
        true => {
            let config = files.load("h2");
            let config = config.map_err(|wrong| Refused(wrong.iter().map(ToString::to_string).collect()))?;
            Ok(Some(Tls { files, config }))
        }
        false if is_given => {
            Err(Failure::Usage("it says http://, and --ca, --cert and --key are for https://".to_owned()))
        }
        false => Ok(None),
    }
}

/// How TLS is spoken with a registry.
#[derive(Clone, Debug)]
pub struct Tls {
    /// What it was told by.
    pub files: ClientFiles,
    /// What that came to, for gRPC.
    pub config: ClientTls,
}

/// Hosts of one registry, one of which is in use.
pub struct Line {
    hosts: Vec<Host>,
    at: usize,
    channel: Option<Channel>,
    timeout: Duration,
    tls: Option<Tls>,
}

impl Line {
    /// A line to these hosts; at least one, and TLS if one of them wants it.
    #[must_use]
    pub fn new(hosts: Vec<Host>, timeout: Duration, tls: Option<Tls>) -> Self {
        Self { hosts, at: 0, channel: None, timeout, tls }
    }

    /// How TLS is spoken, if it is.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Every host.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host that was used last.
    #[must_use]
    pub fn host(&self) -> String {
        self.hosts[self.at].to_string()
    }

    /// A line to one of the hosts alone.
    #[must_use]
    pub fn only(&self, host: &Host) -> Self {
        Self::new(vec![host.clone()], self.timeout, self.tls.clone())
    }

    /// How long a call may take that does not wait on purpose.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A unary call, each host tried once, beginning with the one in use; `what` is for the error: `look up web`.
    ///
    /// # Errors
    /// The first answer that another host would not give differently, else every host's cause.
    pub async fn call<Q: Clone, R>(
        &mut self,
        what: &str,
        limit: Duration,
        request: Q,
        send: impl AsyncFn(Channel, Request<Q>) -> Result<Response<R>, Status>,
    ) -> Result<R, CallFailed> {
        let request = || {
            let mut request = Request::new(request.clone());
            request.set_timeout(limit + DEADLINE_MARGIN);
            request
        };
        self.attempt(what, limit, async |channel| send(channel, request()).await).await
    }

    /// Opens a stream; the same, without a deadline for what comes.
    ///
    /// # Errors
    /// As `call`.
    pub async fn stream<Q: Clone, R>(
        &mut self,
        what: &str,
        request: Q,
        send: impl AsyncFn(Channel, Request<Q>) -> Result<Response<R>, Status>,
    ) -> Result<R, CallFailed> {
        let limit = self.timeout;
        self.attempt(what, limit, async |channel| send(channel, Request::new(request.clone())).await).await
    }

    async fn attempt<R>(
        &mut self,
        what: &str,
        limit: Duration,
        send: impl AsyncFn(Channel) -> Result<Response<R>, Status>,
    ) -> Result<R, CallFailed> {
        let mut causes = Vec::new();
        for _ in 0..self.hosts.len() {
            let cause = match self.once(limit, &send).await {
                Ok(answer) => return Ok(answer),
                Err(cause) => cause,
            };
            let elsewhere = cause.is_of_this_host();
            causes.push((self.host(), cause));
            if !elsewhere {
                // The others' silence is not worth telling beside an answer.
                causes.drain(..causes.len() - 1);
                break;
            }
            self.hang_up();
        }
        Err(CallFailed { what: what.to_owned(), causes })
    }

    async fn once<R>(
        &mut self,
        limit: Duration,
        send: &impl AsyncFn(Channel) -> Result<Response<R>, Status>,
    ) -> Result<R, Cause> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                let patience = CONNECT_TIMEOUT.min(self.timeout);
                let tls = self.tls.as_ref().map(|tls| &tls.config);
                self.channel.insert(connect(&self.hosts[self.at], tls, patience).await?).clone()
            }
        };
        match timeout(limit, send(channel)).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(Cause::from_status),
            Err(_) => Err(Cause::Timeout(limit)),
        }
    }

    /// Leaves the current connection; the next call dials the next host.
    pub fn hang_up(&mut self) {
        self.channel = None;
        self.at = (self.at + 1) % self.hosts.len();
    }
}

/// Without HTTP/2 keepalive: some servers and proxies punish pings, so silence is noticed by deadlines and bookmarks.
async fn connect(host: &Host, tls: Option<&ClientTls>, patience: Duration) -> Result<Channel, Cause> {
    let endpoint = Endpoint::from_shared(host.to_string())
        .and_then(|endpoint| endpoint.user_agent(concat!("onair/", env!("CARGO_PKG_VERSION"))))
        .map_err(|error| Cause::from_error(&error))?;
    let endpoint = endpoint.connect_timeout(patience);
    let connecting = async {
        match tls {
            Some(tls) => endpoint.connect_with_connector(by_tls(host, tls)).await,
            None => endpoint.connect().await,
        }
    };
    match timeout(patience, connecting).await {
        Ok(connected) => connected.map_err(|error| Cause::from_error(&error)),
        Err(_) => Err(Cause::Timeout(patience)),
    }
}

/// Connects to a host by TLS, whatever the uri says.
pub fn by_tls(
    host: &Host,
    tls: &ClientTls,
) -> impl Service<Uri, Response = TokioIo<TlsStream<TcpStream>>, Error = io::Error, Future: Send> + Send + 'static {
    let (host, tls) = (host.clone(), tls.clone());
    service_fn(move |_| {
        let (host, tls) = (host.clone(), tls.clone());
        async move {
            let socket = TcpStream::connect((host.name.as_str(), host.port)).await?;
            socket.set_nodelay(true)?;
            tls.connect(&host.name, socket).await.map(TokioIo::new)
        }
    })
}

/// Delays between attempts: from 100 ms doubling to 2 s, each with up to half as much again at random.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub fn next(&mut self) -> Duration {
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

/// Reads a duration for clap.
///
/// # Errors
/// A sentence.
pub fn duration_argument(text: &str) -> Result<Duration, String> {
    config::duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{
            fake::{Call, Fake, answer, line},
            lookup::send_lookup,
        },
        proto::{LookupRequest, LookupResponse},
    };

    #[test]
    fn backoff_doubles_to_two_seconds() {
        let mut backoff = Backoff::default();
        for base in [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000] {
            let millis = backoff.next().as_millis();
            assert!((base..=base * 3 / 2).contains(&millis), "{millis} for {base}");
        }
        backoff.reset();
        assert!(backoff.next().as_millis() <= 150);
    }

    /// A port where nobody listens.
    async fn closed() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    }

    async fn look_up(line: &mut Line) -> Result<LookupResponse, CallFailed> {
        line.call("look up web", line.timeout(), LookupRequest::default(), send_lookup).await
    }

    #[tokio::test]
    async fn hosts_are_tried_in_turn() {
        let (mut fake, closed) = (Fake::start().await, closed().await);
        let mut line = line(&format!("{closed},{}", fake.address));
        for _ in 0..2 {
            let script = async { answer!(fake, Lookup, |_| Ok(LookupResponse::default())) };
            let (found, ()) = tokio::join!(look_up(&mut line), script);
            found.unwrap();
            assert_eq!(line.host(), format!("http://{}", fake.address), "the one that answers stays");
        }
        let script = async { answer!(fake, Lookup, |_| Err(tonic::Status::unavailable("going"))) };
        let (found, ()) = tokio::join!(look_up(&mut line), script);
        let failed = found.unwrap_err();
        assert_eq!(failed.causes.len(), 2, "{}", failed.report());
        assert!(failed.report().contains("UNAVAILABLE: going") && failed.report().contains("connection refused"));
    }

    #[tokio::test]
    async fn an_answer_is_an_answer() {
        let mut fake = Fake::start().await;
        let mut line = line(&format!("{},{}", fake.address, closed().await));
        let script = async { answer!(fake, Lookup, |_| Err(tonic::Status::invalid_argument("no"))) };
        let (found, ()) = tokio::join!(look_up(&mut line), script);
        assert_eq!(found.unwrap_err().causes.len(), 1);
    }

    #[tokio::test]
    async fn silence_has_an_end() {
        let mut fake = Fake::start().await;
        let mut line = line(&fake.address);
        let call = line.call("look up web", Duration::from_millis(50), LookupRequest::default(), send_lookup);
        let (found, _unanswered) = tokio::join!(call, fake.next());
        let failed = found.unwrap_err();
        assert!(failed.is_transient() && failed.report().ends_with("no answer within 50ms"), "{}", failed.report());
    }
}
