//! The server's side: what handshakes are made with, replaced as a whole while connections go on. Reads files; knows no
//! sockets and no signals.

use std::{
    fs,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring::default_provider},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};

use super::{
    ALPN_ALL,
    peer::{AlternativeName, PeerCertificate},
    pem::{self, Date, Fault, Look, Pem, TlsError},
};

/// Whether who connects has to show a certificate, where an authority for them is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without one there is no connection.
    Required,
    /// One that is shown has to be good; who has none comes in without.
    Optional,
}

/// What a server is given.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// Its certificate, followed by what leads to its authority.
    pub certificate: Pem,
    /// The certificate's key.
    pub key: Pem,
    /// Who signs clients' certificates, and whether they need one.
    pub clients: Option<(Pem, ClientAuth)>,
}

/// What handshakes are made with now.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// For everything.
    pub config: Arc<ServerConfig>,
    /// The same for probes and scrapes, who need no certificate of their own.
    pub ops_config: Arc<ServerConfig>,
    /// When the first certificate of the chain expires.
    pub expires: SystemTime,
    /// When the last authority of clients expires, if there is one.
    pub clients_expire: Option<SystemTime>,
    /// When the first authority of clients expires, and is not to be believed from then on.
    pub read_again: Option<SystemTime>,
    /// Whom the certificate is for.
    pub names: Arc<[AlternativeName]>,
    /// Whether its key takes milliseconds to sign with.
    pub is_slow: bool,
    /// Whether everybody on this machine can read the file of the key.
    pub is_open: bool,
    /// When a certificate expired that leads on to an authority: there may be another way that clients know.
    pub expired: Option<Date>,
}

impl ServerFiles {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// Everything that is wrong, each naming its file.
    pub fn load(&self) -> Result<Loaded, Vec<TlsError>> {
        let pair = pem::pair(("tls_cert", &self.certificate), ("tls_key", &self.key));
        let clients = self.clients.as_ref().map(|(source, auth)| {
            let pem::Authorities { roots, first, last } = pem::authorities("tls_client_ca", source, true)?;
            Ok((Arc::new(roots), (first, last), *auth, source))
        });
        let (pair, clients) = match (pair, clients.transpose()) {
            (Ok(pair), Ok(clients)) => (pair, clients),
            (pair, clients) => return Err(pair.err().into_iter().flatten().chain(clients.err()).collect()),
        };
        let wrong = |setting, of: &Pem, error: &dyn ToString| {
            vec![TlsError::new(setting, of, Fault::Refused(error.to_string()))]
        };
        let provider = Arc::new(default_provider());
        let verifier = |needs_one: bool| -> Result<Arc<dyn ClientCertVerifier>, Vec<TlsError>> {
            let Some((roots, _, _, source)) = &clients else { return Ok(WebPkiClientVerifier::no_client_auth()) };
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider));
            let builder = if needs_one { builder } else { builder.allow_unauthenticated() };
            builder.build().map_err(|error| wrong("tls_client_ca", source, &error))
        };
        let is_slow = pair.certified.end_entity_cert().is_ok_and(|leaf| pem::is_long_rsa(leaf));
        let leaf = pair.certified.end_entity_cert().map(|leaf| PeerCertificate::read(leaf));
        let expired = pair.expired;
        let names = match leaf {
            Ok(Ok(leaf)) => leaf.names,
            _ => return Err(wrong("tls_cert", &self.certificate, &"its first certificate cannot be read")),
        };
        let resolver = Arc::new(SingleCertAndKey::from(pair.certified));
        let config = |needs_one| {
            let config = config(&provider, verifier(needs_one)?, Arc::clone(&resolver), clients.is_some());
            config.map_err(|error| wrong("tls_cert", &self.certificate, &error))
        };
        let needed = clients.as_ref().is_some_and(|(_, _, auth, _)| *auth == ClientAuth::Required);
        Ok(Loaded {
            config: config(needed)?,
            ops_config: config(false)?,
            expires: pair.until,
            clients_expire: clients.as_ref().map(|(_, (_, last), ..)| *last),
            read_again: clients.as_ref().map(|(_, (first, _), ..)| *first),
            names,
            is_slow,
            is_open: self.key.path().is_some_and(|path| is_open(path)),
            expired,
        })
    }

    /// What tells whether a file may have changed, without reading it.
    #[must_use]
    pub fn look(&self) -> Vec<Option<Look>> {
        let clients = self.clients.as_ref().map(|(source, _)| source);
        [Some(&self.certificate), Some(&self.key), clients].into_iter().flatten().map(Pem::look).collect()
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    resolver: Arc<SingleCertAndKey>,
    knows_clients: bool,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = ALPN_ALL.map(<[u8]>::to_vec).into();
    if knows_clients {
        // A resumed session would not be verified again: its certificate may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

impl Loaded {
    /// Whether the certificate is for the host of this name or address, as a verifier reads it.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name {
            AlternativeName::Dns(pattern) => match pattern.strip_prefix("*.") {
                Some(rest) => host.split_once('.').is_some_and(|(first, parent)| !first.is_empty() && parent == rest),
                None => pattern == host,
            },
            AlternativeName::Address(address) => {
                host.trim_start_matches('[').trim_end_matches(']').parse() == Ok(*address)
            }
            AlternativeName::Uri(_) | AlternativeName::Email(_) => false,
        })
    }
}

/// What is in force, until it is replaced by what the same files say later.
#[derive(Debug)]
pub struct Live {
    files: ServerFiles,
    loaded: RwLock<Arc<Loaded>>,
}

impl Live {
    /// Loads for the first time.
    ///
    /// # Errors
    /// Everything that is wrong, each naming its file.
    pub fn load(files: ServerFiles) -> Result<Self, Vec<TlsError>> {
        let loaded = RwLock::new(Arc::new(files.load()?));
        Ok(Self { files, loaded })
    }

    /// What is in force.
    #[must_use]
    pub fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads again: handshakes from now on use what is there now. If anything is wrong, all stays as it was.
    ///
    /// # Errors
    /// Everything that is wrong, each naming its file.
    pub fn reload(&self) -> Result<Arc<Loaded>, Vec<TlsError>> {
        let loaded = Arc::new(self.files.load()?);
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&loaded);
        Ok(loaded)
    }

    /// See [`ServerFiles::look`].
    #[must_use]
    pub fn look(&self) -> Vec<Option<Look>> {
        self.files.look()
    }
}

/// Whether everybody on this machine can read a file.
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o004 != 0)
}
