//! The client's side: whom to believe, what to show, and a plain sentence for everything that a handshake can fail by.
//! Knows no command.

use std::{io, net::IpAddr, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, ClientConfig, InvalidMessage, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::pem::{self, Date, Fault, Look, Pem, TlsError};

/// How an alert of the other side is told, before its name.
const ALERT: &str = "received fatal alert: ";

/// What a client is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities that are believed; without them, those that this system believes.
    pub ca: Option<Pem>,
    /// The certificate to show, and its key.
    pub pair: Option<(Pem, Pem)>,
}

/// How a client speaks TLS.
#[derive(Clone, Debug)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientFiles {
    /// What tells whether a file may have changed, without reading it.
    #[must_use]
    pub fn look(&self) -> Vec<Option<Look>> {
        let (certificate, key) =
            self.pair.as_ref().map_or((None, None), |(certificate, key)| (Some(certificate), Some(key)));
        [self.ca.as_ref(), certificate, key].into_iter().flatten().map(Pem::look).collect()
    }

    /// Reads all of it, for a client that speaks one protocol: `h2` or `http/1.1`.
    ///
    /// # Errors
    /// Everything that is wrong, each naming its file.
    pub fn load(&self, protocol: &str) -> Result<ClientTls, Vec<TlsError>> {
        let roots = match &self.ca {
            Some(source) => pem::authorities("ca", source, false).map(|found| found.roots),
            None => Ok(of_this_system()),
        };
        let pair = self.pair.as_ref().map(|(certificate, key)| pem::pair(("cert", certificate), ("key", key)));
        let (roots, pair) = match (roots, pair.transpose()) {
            (Ok(roots), Ok(pair)) => (roots, pair),
            (roots, pair) => return Err(roots.err().into_iter().chain(pair.err().into_iter().flatten()).collect()),
        };
        let of = self.pair.as_ref().map(|(certificate, _)| certificate).or(self.ca.as_ref());
        let refused = |error: rustls::Error| {
            let of = of.cloned().unwrap_or_else(|| Pem::Text(String::new()));
            vec![TlsError::new("cert", &of, Fault::Refused(error.to_string()))]
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_root_certificates(roots);
        let mut config = match pair {
            Some(pair) => {
                let resolver = rustls::sign::SingleCertAndKey::from(pair.certified);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(ClientTls(Arc::new(config)))
    }
}

/// What this system believes, as far as it can be read; nothing at all is nobody.
fn of_this_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl ClientTls {
    /// Makes a handshake with `host`, a name or an address, IPv6 without brackets.
    ///
    /// # Errors
    /// What [`explain`] has a sentence for.
    pub async fn connect(&self, host: &str, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, socket).await
    }
}

/// A sentence on why TLS with a server failed, if `error`, or what it comes from, is of TLS.
#[must_use]
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(sentence(found));
        }
        // An error of I/O does not tell what it wraps as its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| wrapped.downcast_ref::<rustls::Error>()) {
            return Some(sentence(found));
        }
        let text = wrapped.map(ToString::to_string);
        if let Some(alert) = text.as_deref().and_then(|text| text.strip_prefix(ALERT)) {
            return Some(of_alert(alert));
        }
        next = error.source();
    }
    None
}

fn sentence(error: &rustls::Error) -> String {
    let date = |time: &UnixTime| Date(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs()));
    match error {
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::NotValidForNameContext { expected, presented } => {
                // Each is written with its kind: DnsName("registry.example").
                let bare = |name: &String| {
                    let name = name.split_once('(').map_or(name.as_str(), |(_, name)| name.trim_end_matches(')'));
                    let name = name.trim_matches('"');
                    // In as few characters as it has.
                    name.parse::<IpAddr>().map_or_else(|_| name.to_owned(), |address| address.to_string())
                };
                let names: Vec<_> = presented.iter().map(bare).collect();
                let names = if names.is_empty() { "no host".to_owned() } else { names.join(", ") };
                format!("the server's certificate is for {names}, and not for {}", expected.to_str())
            }
            CertificateError::NotValidForName => "the server's certificate is for another host".to_owned(),
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("the server's certificate expired on {}", date(not_after))
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                format!(
                    "the server's certificate is not valid before {}: is this machine's clock right?",
                    date(not_before)
                )
            }
            // Of another authority that has the same name, it is the signature that is wrong.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the server's certificate is of an authority that is not believed here: name its own with --ca"
                    .to_owned()
            }
            fault => format!("the server's certificate is not good: {fault}"),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS: call it with http://".to_owned()
        }
        rustls::Error::AlertReceived(alert) => of_alert(&format!("{alert:?}")),
        error => format!("TLS failed: {error}"),
    }
}

/// What the server ended it with. Alerts have names alone once HTTP/2 has passed them on.
fn of_alert(alert: &str) -> String {
    match alert {
        "CertificateRequired" => "the server wants a certificate of its clients: give --cert and --key".to_owned(),
        "CertificateExpired" => "the server says that the certificate of --cert has expired".to_owned(),
        "UnknownCA" => "the server does not believe the authority of the certificate of --cert".to_owned(),
        "BadCertificate" | "UnsupportedCertificate" | "CertificateRevoked" | "CertificateUnknown" | "DecryptError" => {
            format!("the server does not accept the certificate of --cert ({alert})")
        }
        "NoApplicationProtocol" => "the server does not speak HTTP/2 by TLS".to_owned(),
        "ProtocolVersion" => "the server speaks no version of TLS that is safe".to_owned(),
        alert => format!("the server ended TLS: {alert}"),
    }
}
