//! Whether a program does its work, as far as that can be seen from outside: it listens, answers, or a command says so.
//! Looks once, or again and again. Knows neither the registry nor whose program it is.

use std::{fmt, path::PathBuf, pin::pin, process::Stdio, str::FromStr, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    net::TcpStream,
    process::Command,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    client::chance,
    text::{code_name, host_port},
};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The loopbacks: programs that listen on `localhost` take either.
const HERE: [&str; 2] = ["127.0.0.1", "::1"];

/// Where a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Empty: on this machine.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// Where commands that look at it run, if not here.
    pub dir: Option<PathBuf>,
}

impl Place {
    /// A port of this machine.
    #[must_use]
    pub fn here(port: u16) -> Self {
        Self { host: String::new(), port, dir: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.host {
            "" => write!(f, "port {}", self.port),
            host => f.write_str(&host_port(host, self.port.into())),
        }
    }
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It takes connections.
    Tcp,
    /// It answers `GET` of this path with a status from 200 to 399.
    Http(String),
    /// `grpc.health.v1` says that this service serves; empty: the server.
    Grpc(String),
    /// A command of the shell ends with 0.
    Command(String),
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("tcp", "") => Ok(Self::Tcp),
            ("http", "") => Ok(Self::Http("/".to_owned())),
            ("http", path) if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Self::Http(path.to_owned()))
            }
            ("grpc", service) => Ok(Self::Grpc(service.to_owned())),
            ("cmd", command) if !command.trim().is_empty() => Ok(Self::Command(command.to_owned())),
            _ => Err("it is not tcp, http:/PATH, grpc[:SERVICE] or cmd:COMMAND".to_owned()),
        }
    }
}

impl Check {
    /// Looks once.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    pub async fn look(&self, place: &Place) -> Result<(), String> {
        let look = async {
            match self {
                Self::Tcp => connected(place).await.map(|_| ()),
                Self::Http(path) => http(place, path).await,
                Self::Grpc(service) => grpc(place, service).await,
                Self::Command(command) => shell(command, place).await,
            }
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| Err(format!("no answer within {}s", PATIENCE.as_secs())))
    }
}

/// Looks at a program again and again, as long as this lives.
pub struct Looks {
    seen: watch::Receiver<Result<(), String>>,
    task: JoinHandle<()>,
}

impl Looks {
    /// Begins: with these pauses until it works first, and between later looks.
    #[must_use]
    pub fn start(check: Check, place: Place, first: Duration, then: Duration) -> Self {
        let (to, seen) = watch::channel(Err("it was not looked at yet".to_owned()));
        let task = tokio::spawn(async move {
            let mut pause = first;
            loop {
                let now = check.look(&place).await;
                if now.is_ok() {
                    pause = then;
                }
                to.send_if_modified(|before| {
                    let is_news = before.is_ok() != now.is_ok();
                    *before = now;
                    is_news
                });
                // Many that were begun together are not looked at together for ever.
                sleep(pause.mul_f64(1.0 - 0.1 * chance())).await;
            }
        });
        Self { seen, task }
    }

    /// What was seen last.
    ///
    /// # Errors
    /// Why it does not work.
    pub fn last(&self) -> Result<(), String> {
        self.seen.borrow().clone()
    }

    /// Waits until it works, or does no more.
    pub async fn news(&mut self) -> Result<(), String> {
        if self.seen.changed().await.is_err() {
            // The task looks as long as this lives.
            std::future::pending::<()>().await;
        }
        self.seen.borrow_and_update().clone()
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connected(place: &Place) -> Result<(TcpStream, String), String> {
    let Place { host, port, .. } = place;
    let hosts = if host.is_empty() { &HERE[..] } else { &[host.trim_start_matches('[').trim_end_matches(']')] };
    for host in hosts {
        if let Ok(stream) = TcpStream::connect((*host, *port)).await {
            return Ok((stream, host_port(host, (*port).into())));
        }
    }
    Err(format!("nothing listens on {place}"))
}

async fn http(place: &Place, path: &str) -> Result<(), String> {
    let (stream, at) = connected(place).await?;
    let at = if place.host.is_empty() { format!("localhost:{}", place.port) } else { at };
    let wrong = |error: hyper::Error| format!("it does not answer as HTTP does: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(wrong)?;
    let request = http::Request::get(path).header("host", at).body(Empty::<&[u8]>::new());
    let request = request.map_err(|error| error.to_string())?;
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer.map_err(wrong)?,
        // Servers may end the connection with the answer, which is there then.
        ended = connection => answer.await.map_err(|error| wrong(ended.err().unwrap_or(error)))?,
    };
    let status = answer.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("GET {path} is answered {status}"))
    }
}

async fn grpc(place: &Place, service: &str) -> Result<(), String> {
    let (_, at) = connected(place).await?;
    let endpoint = Endpoint::from_shared(format!("http://{at}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|_| format!("nothing speaks gRPC on {place}"))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|status| match status.message() {
        "" => format!("its health is {}", code_name(status.code())),
        said => format!("its health is {}: {said}", code_name(status.code())),
    })?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        status => Err(format!("its health is {}", status.as_str_name())),
    }
}

/// Whatever a command has started goes with it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // They may be gone.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn shell(command: &str, place: &Place) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("PORT", place.port.to_string()).process_group(0).kill_on_drop(true);
    if !place.host.is_empty() {
        shell.env("HOST", &place.host);
    }
    if let Some(dir) = &place.dir {
        shell.current_dir(dir);
    }
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut started = shell.spawn().map_err(|error| error.to_string())?;
    let _group = Group(started.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)));
    let status = started.wait().await.map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("`{command}` ends with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_is_read() {
        for (text, check) in [
            ("tcp", Check::Tcp),
            ("http", Check::Http("/".into())),
            ("http:/healthz?deep=1", Check::Http("/healthz?deep=1".into())),
            ("grpc", Check::Grpc(String::new())),
            ("grpc:my.Service", Check::Grpc("my.Service".into())),
            ("cmd:test -f up", Check::Command("test -f up".into())),
        ] {
            assert_eq!(text.parse(), Ok(check), "{text}");
        }
        for text in ["", "udp", "tcp:1", "http:healthz", "http:/a b", "cmd", "cmd: "] {
            assert!(text.parse::<Check>().is_err(), "{text}");
        }
    }

    /// A server that speaks HTTP/1.0 ends its connections with the answer.
    #[tokio::test]
    async fn an_answer_counts_though_the_connection_ends_with_it() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in ["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.0 404 Not Found\r\n\r\n", "", "SSH-2.0\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1_024]).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let (check, place) = (Check::Http("/".into()), Place::here(port));
        assert_eq!(check.look(&place).await, Ok(()));
        assert_eq!(check.look(&place).await, Err("GET / is answered 404 Not Found".to_owned()));
        for _ in 0..2 {
            assert!(check.look(&place).await.unwrap_err().starts_with("it does not answer as HTTP does"));
        }
    }
}
