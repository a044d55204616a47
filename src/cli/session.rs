//! What every client command starts with: its settings, and the line to the registry that they name. Knows no command.

use std::{env, path::PathBuf, time::Duration};

use super::{failure::Failure, print::Printer};
pub use crate::client::{Backoff, Line, chance, from_wire, to_wire};
use crate::{
    client::{Client, Connection, InvalidConnection, Means, Token},
    config::{self, ClientSettings, Given, Origin, Refused},
};

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
    /// The file of the token that calls are made with, if it is from one.
    pub token_file: Option<PathBuf>,
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
        // A default says nothing.
        connection.says_protocol &= resolved.origin("url") != Origin::Default;
        let timeout = match (resolved.origin("timeout"), connection.timeout) {
            (Origin::Default, Some(of_url)) => of_url,
            _ => settings.timeout,
        };
        let means = Means {
            timeout: Some(timeout),
            tls: settings.tls(),
            token: token(settings)?,
            token_in_clear: settings.token_in_clear,
            ..Means::default()
        };
        let line = connection.line(means).map_err(|invalid| match invalid {
            InvalidConnection::Text(why) => wrong(why),
            InvalidConnection::Tls(why) => Refused(why).into(),
        })?;
        Ok(Self {
            line,
            namespace: if settings.namespace.is_empty() { connection.namespace } else { settings.namespace.clone() },
            ttl: connection.ttl,
            print: Printer::new(settings.output),
            token_file: settings.token_file.clone(),
        })
    }
}

impl Session {
    /// A client over connections of its own.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.line.another(), self.namespace.clone(), self.ttl)
    }
}

/// The token of the settings, or of the environment.
fn token(settings: &ClientSettings) -> Result<Option<Token>, Failure> {
    let (token, place) = match &settings.token_file {
        Some(path) => {
            let unread = |error| Failure::Usage(format!("token_file: {} cannot be read: {error}", path.display()));
            // Whatever goes on for long uses what is in it then.
            (Token::of_file(path).map_err(unread)?, path.display().to_string())
        }
        None => match env::var(config::TOKEN) {
            Ok(text) => (Token::new(&text), config::TOKEN.to_owned()),
            Err(_) => return Ok(None),
        },
    };
    // What is wrong with it is not said: it would be shown.
    token.map(Some).ok_or_else(|| Failure::Usage(format!("{place} has no token")))
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
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;
    use crate::{
        cli::{
            failure::{CallFailed, Report as _},
            fake::{Call, Fake, answer, line},
            lookup::send_lookup,
        },
        proto::{LookupRequest, LookupResponse},
    };

    /// A port where nobody listens.
    async fn closed() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    }

    async fn look_up(line: &Line) -> Result<LookupResponse, CallFailed> {
        line.call("look up web", line.timeout(), LookupRequest::default(), send_lookup).await
    }

    #[tokio::test]
    async fn hosts_are_tried_in_turn() {
        let (mut fake, closed) = (Fake::start().await, closed().await);
        let line = line(&format!("{closed},{}", fake.address));
        for _ in 0..2 {
            let script = async { answer!(fake, Lookup, |_| Ok(LookupResponse::default())) };
            let (found, ()) = tokio::join!(look_up(&line), script);
            found.unwrap();
            assert_eq!(line.host(), format!("http://{}", fake.address), "the one that answers stays");
        }
        let script = async { answer!(fake, Lookup, |_| Err(tonic::Status::unavailable("going"))) };
        let (found, ()) = tokio::join!(look_up(&line), script);
        let failed = found.unwrap_err();
        assert_eq!(failed.causes.len(), 2, "{}", failed.report());
        assert!(failed.report().contains("UNAVAILABLE: going") && failed.report().contains("connection refused"));
    }

    /// A registry's is; what a proxy says, or another program that listens there, is not.
    #[tokio::test]
    async fn an_answer_is_an_answer() {
        for (domain, causes) in [("onair", 1), ("a proxy", 2), ("", 2)] {
            let mut fake = Fake::start().await;
            let line = line(&format!("{},{}", fake.address, closed().await));
            let details = ErrorDetails::with_error_info("INVALID", domain, []);
            let refusal = tonic::Status::with_error_details(tonic::Code::InvalidArgument, "no", details);
            let script = async { answer!(fake, Lookup, |_| Err(refusal)) };
            let (found, ()) = tokio::join!(look_up(&line), script);
            assert_eq!(found.unwrap_err().causes.len(), causes, "{domain:?}");
        }
    }

    #[tokio::test]
    async fn silence_has_an_end() {
        let mut fake = Fake::start().await;
        let line = line(&fake.address);
        let call = line.call("look up web", Duration::from_millis(50), LookupRequest::default(), send_lookup);
        let (found, _unanswered) = tokio::join!(call, fake.next());
        let failed = found.unwrap_err();
        assert!(failed.is_transient() && failed.report().ends_with("no answer within 50ms"), "{}", failed.report());
    }
}
