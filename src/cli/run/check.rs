//! Whether a program does its work, as far as that can be seen from outside: it listens, answers, or a command says so.
//! Knows neither the registry nor whose program it is.

use std::{process::Stdio, str::FromStr, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, process::Command, time::timeout};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The loopbacks: programs that listen on `localhost` take either.
const HERE: [&str; 2] = ["127.0.0.1", "::1"];

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
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
    pub(super) async fn look(&self, port: u16) -> Result<(), String> {
        let look = async {
            match self {
                Self::Tcp => connected(port).await.map(|_| ()),
                Self::Http(path) => http(connected(port).await?, port, path).await,
                Self::Grpc(service) => grpc(port, service).await,
                Self::Command(command) => shell(command, port).await,
            }
        };
        timeout(PATIENCE, look).await.unwrap_or_else(|_| Err(format!("no answer within {}s", PATIENCE.as_secs())))
    }
}

async fn connected(port: u16) -> Result<TcpStream, String> {
    for here in HERE {
        if let Ok(stream) = TcpStream::connect((here, port)).await {
            return Ok(stream);
        }
    }
    Err(format!("nothing listens on port {port}"))
}

async fn http(stream: TcpStream, port: u16, path: &str) -> Result<(), String> {
    let wrong = |error: hyper::Error| format!("it does not answer as HTTP does: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(wrong)?;
    let request = http::Request::get(path).header("host", format!("localhost:{port}")).body(Empty::<&[u8]>::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = async { sender.send_request(request).await.map_err(wrong) };
    let answer = tokio::select! {
        biased;
        answer = answer => answer?,
        ended = connection => {
            ended.map_err(wrong)?;
            return Err("it ends the connection without an answer".to_owned());
        }
    };
    let status = answer.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("GET {path} is answered {status}"))
    }
}

async fn grpc(port: u16, service: &str) -> Result<(), String> {
    let host = if connected_to_v4(port).await { HERE[0] } else { "[::1]" };
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|_| format!("nothing speaks gRPC on port {port}"))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await.map_err(|status| status.message().to_owned())?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        status => Err(format!("its health is {}", status.as_str_name())),
    }
}

async fn connected_to_v4(port: u16) -> bool {
    TcpStream::connect((HERE[0], port)).await.is_ok()
}

async fn shell(command: &str, port: u16) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("PORT", port.to_string()).kill_on_drop(true);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = shell.status().await.map_err(|error| error.to_string())?;
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
}
