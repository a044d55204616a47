//! What a registry is reached with, beside its address: how long to wait, and how TLS is spoken. The one place for what
//! every connection and every call is given. Dials nothing.

use std::{
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
};

use super::{connection::Connection, line::Line};
use crate::tls::{ClientFiles, ClientTls, Look};

/// How long a call may take, where nobody says.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a program gives beside a connection string.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// How long one call to one host may take. Default: as the connection string says, else 10 s.
    pub timeout: Option<Duration>,
    /// By whom a registry at `https://` is believed, and what is shown to it. Default: whom this system believes, and
    /// nothing. Files are read again for each connection, since certificates are renewed. Given, a connection string without a protocol means `https://`.
    pub tls: ClientFiles,
    /// What every call proves who it is with. Default: nothing.
    pub token: Option<Token>,
    /// A directory in which what is known of services is kept, a file each, readable to nobody else: so that a program that
    /// starts while the registry is away knows what was known last, and how old that is. A file that is damaged, or that
    /// another user may have written, is ignored: `Service::warning` says so. One directory is for programs that may read
    /// the same. Default: nothing is kept.
    pub keep: Option<PathBuf>,
    /// Whether it may also go to another machine without TLS, where whoever is on the way can read it. Default: no.
    pub token_in_clear: bool,
}

/// What proves to a registry who calls: a token of its own, or one that it believes. It is shown nowhere.
#[derive(Clone)]
pub struct Token {
    /// The last good one.
    held: Arc<Mutex<MetadataValue<Ascii>>>,
    source: Option<Source>,
}

/// Where the next one comes from.
type Source = Arc<dyn Fn() -> Option<String> + Send + Sync>;

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_asked_for() { "Token(asked for)" } else { "Token" })
    }
}

impl Token {
    /// Takes the text of one; none if it cannot be one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Some(Self { held: Arc::new(Mutex::new(header(text)?)), source: None })
    }

    /// One that is asked for whenever a call is made or a stream is opened, since it changes; none if the first cannot be
    /// one. Where later there is none, the last one is used. The closure must not block for long.
    #[must_use]
    pub fn asked_for(source: impl Fn() -> Option<String> + Send + Sync + 'static) -> Option<Self> {
        let first = Self::new(&source()?)?;
        Some(Self { source: Some(Arc::new(source)), ..first })
    }

    /// The one in a file, which is read anew as `asked_for`; none if there is none in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(path: impl Into<PathBuf>) -> io::Result<Option<Self>> {
        let path = path.into();
        fs::read_to_string(&path)?;
        Ok(Self::asked_for(move || fs::read_to_string(&path).ok()))
    }

    /// Whether it may be another one next time.
    pub(super) fn is_asked_for(&self) -> bool {
        self.source.is_some()
    }

    /// As it stands beside a request that is made now.
    #[must_use]
    pub(crate) fn header(&self) -> MetadataValue<Ascii> {
        let next = self.source.as_ref().and_then(|source| header(&source()?));
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = next {
            *held = next;
        }
        held.clone()
    }

    /// Puts it beside a request.
    pub(super) fn beside<Q>(&self, request: &mut Request<Q>) {
        request.metadata_mut().insert("authorization", self.header());
    }
}

/// As it stands beside a request.
fn header(text: &str) -> Option<MetadataValue<Ascii>> {
    let text = Some(text.trim()).filter(|text| !text.is_empty())?;
    let mut value = MetadataValue::try_from(format!("Bearer {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// How TLS is spoken: as its files say whenever a connection is made, since certificates are renewed while programs run.
#[derive(Debug)]
pub struct Tls {
    /// What it was told by.
    pub files: ClientFiles,
    /// What that came to last, and how the files looked then.
    last: Mutex<Option<(Vec<Option<Look>>, ClientTls)>>,
}

impl Tls {
    /// By these files, none of which is read yet.
    #[must_use]
    pub fn new(files: ClientFiles) -> Self {
        Self { files, last: Mutex::default() }
    }

    /// For a connection of gRPC that is made now. Where what is in the files is no good any more, what was good last.
    ///
    /// # Errors
    /// Everything that is wrong, and was from the beginning.
    pub fn now(&self) -> Result<ClientTls, InvalidConnection> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let look = self.files.look();
        if let Some((_, tls)) = last.as_ref().filter(|(before, _)| *before == look) {
            return Ok(tls.clone());
        }
        match self.files.load("h2") {
            Ok(tls) => Ok(last.insert((look, tls)).1.clone()),
            Err(wrong) => match &*last {
                Some((_, tls)) => Ok(tls.clone()),
                None => Err(InvalidConnection::Tls(wrong.iter().map(ToString::to_string).collect())),
            },
        }
    }
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
                let tls = Tls::new(means.tls);
                tls.now()?;
                Some(Arc::new(tls))
            }
            false if is_given => {
                let why = "it says http://, and certificates are for https://";
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
