//! Certificates and keys in PEM, from a file or as text, with a sentence that names the file for everything that can be
//! wrong with them. Knows nothing of handshakes.

use std::{
    fmt, fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rustls::{
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_cert::{Certificate, der::Decode as _};

use super::peer::Unreadable;

/// Longest file that is read: thousands of certificates.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// With what PEM begins.
const BEGIN: &str = "-----BEGIN ";

/// Where PEM comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// A file.
    File(PathBuf),
    /// The text itself, as a variable of the environment may have it.
    Text(String),
}

impl Pem {
    /// Takes text that begins as PEM does for PEM, and any other for a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.trim_start() {
            text if text.starts_with(BEGIN) => Self::Text(text.to_owned()),
            _ => Self::File(PathBuf::from(text)),
        }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::Text(_) => None,
        }
    }

    fn read(&self) -> Result<Vec<u8>, Fault> {
        let path = match self {
            Self::File(path) => path,
            Self::Text(text) => return Ok(text.as_bytes().to_vec()),
        };
        let about = fs::metadata(path).map_err(Fault::NoFile)?;
        if !about.is_file() || about.len() > FILE_BYTES_MAX {
            return Err(Fault::NotPem);
        }
        fs::read(path).map_err(Fault::NoFile)
    }
}

/// The path, or that it is text: a key is never shown.
impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(_) => f.write_str("the PEM that is given as text"),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({self})")
    }
}

/// What is wrong with a file, in one sentence that names it and the setting that it was given by.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {of}: {fault}")]
pub struct TlsError {
    setting: &'static str,
    of: String,
    fault: Fault,
}

impl TlsError {
    pub(super) fn new(setting: &'static str, of: &Pem, fault: Fault) -> Self {
        Self { setting, of: of.to_string(), fault }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("cannot be read: {0}")]
    NoFile(io::Error),
    #[error("it is no file of PEM")]
    NotPem,
    #[error("there is no certificate in it: PEM with BEGIN CERTIFICATE is wanted")]
    NoCertificate,
    #[error("a certificate in it cannot be read")]
    BrokenCertificate,
    #[error("there is no private key in it: PEM with BEGIN PRIVATE KEY is wanted, not encrypted")]
    NoKey,
    #[error("the private key in it is broken, or of a kind that is not known here: RSA, ECDSA and Ed25519 are")]
    UnusableKey,
    #[error("it is not the key of the certificate in {0}")]
    Mismatch(String),
    #[error("the certificate expired on {0}")]
    Expired(Date),
    #[error("the certificate is not valid before {0}")]
    NotYet(Date),
    #[error("all certificates in it have expired, the last on {0}")]
    AllExpired(Date),
    #[error("it cannot be used: {0}")]
    Refused(String),
}

impl From<Unreadable> for Fault {
    fn from(_: Unreadable) -> Self {
        Self::BrokenCertificate
    }
}

/// A time as people and programs read it: `2031-02-03T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date(pub SystemTime);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match x509_cert::der::DateTime::try_from(self.0) {
            Ok(date) => date.fmt(f),
            Err(_) => f.write_str("a time that no calendar has"),
        }
    }
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

impl Validity {
    pub(super) fn of(der: &[u8]) -> Result<Self, Unreadable> {
        let certificate = Certificate::from_der(der).map_err(|_| Unreadable)?;
        let validity = certificate.tbs_certificate().validity();
        Ok(Self { from: validity.not_before.to_system_time(), until: validity.not_after.to_system_time() })
    }

    /// Fine now; a clock that differs a little is no reason to refuse what begins just now.
    fn judge(self, now: SystemTime) -> Result<(), Fault> {
        const SKEW: Duration = Duration::from_secs(60);
        match () {
            () if self.until < now => Err(Fault::Expired(Date(self.until))),
            () if self.from > now + SKEW => Err(Fault::NotYet(Date(self.from))),
            () => Ok(()),
        }
    }
}

/// Every certificate of `source`; at least one, each readable.
pub(super) fn certificates(
    setting: &'static str,
    source: &Pem,
) -> Result<Vec<(CertificateDer<'static>, Validity)>, TlsError> {
    let read = || {
        let bytes = source.read()?;
        let each = CertificateDer::pem_slice_iter(&bytes).map(|certificate| {
            let certificate = certificate.map_err(|_| Fault::BrokenCertificate)?;
            let validity = Validity::of(&certificate)?;
            Ok((certificate, validity))
        });
        let all = each.collect::<Result<Vec<_>, Fault>>()?;
        if all.is_empty() { Err(Fault::NoCertificate) } else { Ok(all) }
    };
    read().map_err(|fault| TlsError::new(setting, source, fault))
}

/// A certificate with what leads to its authority, and its key; and when the first of them expires.
pub(super) struct Pair {
    pub(super) certified: CertifiedKey,
    pub(super) until: SystemTime,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("until", &self.until).finish_non_exhaustive()
    }
}

/// Reads and checks a pair: both are readable, belong together, and are valid now.
pub(super) fn pair(certificate: (&'static str, &Pem), key: (&'static str, &Pem)) -> Result<Pair, Vec<TlsError>> {
    let chain = certificates(certificate.0, certificate.1).and_then(|chain| {
        let now = SystemTime::now();
        chain
            .iter()
            .try_for_each(|(_, validity)| validity.judge(now))
            .map_err(|fault| TlsError::new(certificate.0, certificate.1, fault))?;
        Ok(chain)
    });
    let of_key = |fault| TlsError::new(key.0, key.1, fault);
    let read = key.1.read().and_then(|bytes| PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| Fault::NoKey));
    let read =
        read.and_then(|key| default_provider().key_provider.load_private_key(key).map_err(|_| Fault::UnusableKey));
    let (chain, key) = match (chain, read) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, read) => return Err(chain.err().into_iter().chain(read.map_err(of_key).err()).collect()),
    };
    let until = chain.iter().map(|(_, validity)| validity.until).min().unwrap_or(SystemTime::UNIX_EPOCH);
    let certified = CertifiedKey::new(chain.into_iter().map(|(certificate, _)| certificate).collect(), key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Pair { certified, until })
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(vec![of_key(Fault::Mismatch(certificate.1.to_string()))]),
        Err(error) => Err(vec![TlsError::new(certificate.0, certificate.1, Fault::Refused(error.to_string()))]),
    }
}

/// The authorities of `source`, one of which is valid now; and when the last of them expires.
pub(super) fn authorities(
    setting: &'static str,
    source: &Pem,
) -> Result<(rustls::RootCertStore, SystemTime), TlsError> {
    let all = certificates(setting, source)?;
    let refused = |fault| TlsError::new(setting, source, fault);
    let until = all.iter().map(|(_, validity)| validity.until).max().unwrap_or(SystemTime::UNIX_EPOCH);
    if until < SystemTime::now() {
        return Err(refused(Fault::AllExpired(Date(until))));
    }
    let mut roots = rustls::RootCertStore::empty();
    for (certificate, _) in all {
        roots.add(certificate).map_err(|error| refused(Fault::Refused(error.to_string())))?;
    }
    Ok((roots, until))
}
