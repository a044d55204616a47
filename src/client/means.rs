//! What a registry is reached with, beside its address: how long to wait, and how TLS is spoken. The one place for what
//! every connection and every call is given. Dials nothing.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::{
    Request,
    codegen::{Service, http::Uri},
    metadata::{Ascii, MetadataValue},
};
use tower::service_fn;

use super::{
    connection::{Connection, Host},
    line::Line,
};
use crate::tls::{ClientFiles, ClientTls};

/// How long a call may take, where nobody says.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a program gives beside a connection string.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// How long one call to one host may take. Default: as the connection string says, else 10 s.
    pub timeout: Option<Duration>,
    /// By whom a registry at `https://` is believed, and what is shown to it. Default: whom this system believes, and
    /// nothing. Given, a connection string without a protocol means `https://`.
    pub tls: ClientFiles,
    /// What every call proves who it is with. Default: nothing.
    pub token: Option<Token>,
    /// Whether it may also go to another machine without TLS, where whoever is on the way can read it. Default: no.
    pub token_in_clear: bool,
}

/// What proves to a registry who calls: a token of its own, or one that it believes. It is shown nowhere.
#[derive(Clone, Debug)]
pub struct Token(MetadataValue<Ascii>);

impl Token {
    /// Takes the text of one; none if it cannot be one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = Some(text.trim()).filter(|text| !text.is_empty())?;
        let mut value = MetadataValue::try_from(format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// Puts it beside a request.
    pub(super) fn beside<Q>(&self, request: &mut Request<Q>) {
        request.metadata_mut().insert("authorization", self.0.clone());
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

/// Why there is no way to a registry, before anybody was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConnection {
    /// The connection string is none: a sentence that begins with `Invalid connection string` and names everything that
    /// is wrong.
    #[error("{0}")]
    Text(String),
    /// TLS is wanted, and cannot be spoken: everything that is wrong with its files.
    #[error("{}", .0.join("; "))]
    Tls(Vec<String>),
}

impl Connection {
    /// The way there. Reads the files of TLS, and dials nothing yet.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn line(&self, means: Means) -> Result<Line, InvalidConnection> {
        let (mut hosts, is_given) = (self.hosts.clone(), means.tls != ClientFiles::default());
        if is_given && !self.says_protocol {
            hosts.iter_mut().for_each(|host| host.tls = true);
        }
        let tls = match hosts.iter().any(|host| host.tls) {
            true => {
                let config = means.tls.load("h2");
                let config =
                    config.map_err(|wrong| InvalidConnection::Tls(wrong.iter().map(ToString::to_string).collect()))?;
                Some(Arc::new(Tls { files: means.tls, config }))
            }
            false if is_given => {
                let why = "it says http://, and --ca, --cert and --key are for https://";
                return Err(InvalidConnection::Text(why.to_owned()));
            }
            false => None,
        };
        let reader = hosts.iter().find(|host| !host.tls && !host.is_this_machine());
        if let Some(host) = reader.filter(|_| means.token.is_some() && !means.token_in_clear) {
            let why = format!(
                "the token would go to {host} in the clear, where whoever is on the way can read it: say https://, or give \
                 --token-in-clear if they may"
            );
            return Err(InvalidConnection::Text(why));
        }
        Ok(Line::new(hosts, means.timeout.or(self.timeout).unwrap_or(TIMEOUT), tls).with(means.token))
    }
}

/// Connects to a host by TLS, whatever the uri says.
pub(super) fn by_tls(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_in_the_clear_to_this_machine_alone() {
        let line = |url: &str, token_in_clear: bool| {
            let means = Means { token: Token::new("onair_ci_x"), token_in_clear, ..Means::default() };
            Connection::parse(url).expect("a connection").line(means).map(|_| ()).map_err(|error| error.to_string())
        };
        for (url, fine) in [
            ("127.0.0.1:1", true),
            ("http://localhost:1,[::1]:1,127.8.9.1:1", true),
            ("http://localhost:1,10.0.0.1:1", false),
            ("http://registry.example:1", false),
            ("http://localhost.example:1", false),
            ("https://registry.example:1", true),
        ] {
            assert_eq!(line(url, false).is_ok(), fine, "{url}");
            assert_eq!(line(url, true), Ok(()), "{url}");
        }
        let why = line("http://10.0.0.1:1", false).expect_err("it is refused");
        assert!(why.contains("http://10.0.0.1:1") && !why.contains("onair_ci_x"), "{why}");
    }
}
