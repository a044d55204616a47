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
use x509_cert::{Certificate, der::Decode as _, ext::pkix::BasicConstraints};

use super::peer::Unreadable;

/// Longest file that is read: thousands of certificates.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// With what PEM begins, after whatever its writer puts before it.
const BEGIN: &str = "-----BEGIN";
/// Longest path that is shown: what is longer is none, and may be a key.
const SHOWN_MAX: usize = 255;

/// Where PEM comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// A file.
    File(PathBuf),
    /// The text itself, as a variable of the environment may have it.
    Text(String),
}

impl Pem {
    /// Takes text that has the beginning of PEM in it, or more than one line, for PEM, however broken it is; any other
    /// for a path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let is_text = text.contains(BEGIN) || text.contains(['\n', '\r']) || text.contains("\\n");
        if is_text { Self::Text(text.to_owned()) } else { Self::File(PathBuf::from(text)) }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::Text(_) => None,
        }
    }

    /// How its file looks; none of text, and of a file that is not there.
    #[must_use]
    pub fn look(&self) -> Option<Look> {
        fs::metadata(self.path()?).ok().and_then(|about| Look::of(&about))
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

/// How a file looks from outside: what tells whether it may have changed, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    modified: SystemTime,
    bytes: u64,
    /// Changes with the right to read it, too: seconds and nanoseconds.
    #[cfg(unix)]
    changed: (i64, i64),
    /// Another one if it was replaced by renaming, or by pointing a link elsewhere.
    #[cfg(unix)]
    inode: u64,
}

impl Look {
    fn of(about: &fs::Metadata) -> Option<Self> {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Some(Self {
            modified: about.modified().ok()?,
            bytes: about.len(),
            #[cfg(unix)]
            changed: (about.ctime(), about.ctime_nsec()),
            #[cfg(unix)]
            inode: about.ino(),
        })
    }
}

/// The path, or that it is text: a key is never shown.
impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) if path.as_os_str().len() > SHOWN_MAX => f.write_str("a path that is too long"),
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
    #[error("a certificate in it is no authority's: it may not sign others (basic constraints without CA)")]
    NoAuthority,
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

/// A certificate with what leads to its authority, and its key.
pub(super) struct Pair {
    pub(super) certified: CertifiedKey,
    /// When it, or the one that signed it, expires.
    pub(super) until: SystemTime,
    /// What leads on to an authority, and has expired: there may be another way that clients know.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "a client's own is its business"))]
    pub(super) expired: Option<Date>,
}

/// Certificates that nobody goes without: the one that is shown, and the one that signed it.
const NEEDED: usize = 2;

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
            .take(NEEDED)
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
    let until = chain.iter().take(NEEDED).map(|(_, validity)| validity.until).min();
    let until = until.unwrap_or(SystemTime::UNIX_EPOCH);
    let mut ends = chain.iter().skip(NEEDED).map(|(_, validity)| validity.until);
    let expired = ends.find(|end| *end < SystemTime::now()).map(Date);
    let certified = CertifiedKey::new(chain.into_iter().map(|(certificate, _)| certificate).collect(), key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Pair { certified, until, expired })
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(vec![of_key(Fault::Mismatch(certificate.1.to_string()))]),
        Err(error) => Err(vec![TlsError::new(certificate.0, certificate.1, Fault::Refused(error.to_string()))]),
    }
}

/// Who signs certificates.
#[cfg_attr(not(feature = "server"), expect(dead_code, reason = "a client does not read them again"))]
pub(super) struct Authorities {
    /// Those of them that have not expired: whoever verifies by them does not look at that.
    pub(super) roots: rustls::RootCertStore,
    /// When the first of these expires: they have to be read again by then.
    pub(super) first: SystemTime,
    /// When the last of them expires.
    pub(super) last: SystemTime,
}

/// The authorities of `source`, at least one of which is valid now. With `only`, each has to be one.
pub(super) fn authorities(setting: &'static str, source: &Pem, only: bool) -> Result<Authorities, TlsError> {
    let all = certificates(setting, source)?;
    let refused = |fault| TlsError::new(setting, source, fault);
    let now = SystemTime::now();
    let last = all.iter().map(|(_, validity)| validity.until).max().unwrap_or(SystemTime::UNIX_EPOCH);
    if last < now {
        return Err(refused(Fault::AllExpired(Date(last))));
    }
    let (mut roots, mut first) = (rustls::RootCertStore::empty(), last);
    for (certificate, validity) in all.into_iter().filter(|(_, validity)| validity.until >= now) {
        if only && !signs_others(&certificate) {
            return Err(refused(Fault::NoAuthority));
        }
        roots.add(certificate).map_err(|error| refused(Fault::Refused(error.to_string())))?;
        first = first.min(validity.until);
    }
    Ok(Authorities { roots, first, last })
}

/// Whether a certificate is an authority's: whoever verifies by it takes that for granted.
fn signs_others(der: &[u8]) -> bool {
    let Ok(certificate) = Certificate::from_der(der) else { return false };
    let constraints = certificate.tbs_certificate().get_extension::<BasicConstraints>();
    constraints.is_ok_and(|found| found.is_some_and(|(_, constraints)| constraints.ca))
}

/// Whether a certificate's key is RSA of more than 2048 bits.
#[cfg_attr(not(feature = "server"), expect(dead_code, reason = "a client's own is its business"))]
pub(super) fn is_long_rsa(der: &[u8]) -> bool {
    const RSA: &str = "1.2.840.113549.1.1.1";
    /// Of a key of 2048 bits there are 270 bytes, of one of 3072 bits 398.
    const BYTES: usize = 300;
    let Ok(certificate) = Certificate::from_der(der) else { return false };
    let key = certificate.tbs_certificate().subject_public_key_info();
    key.algorithm.oid.to_string() == RSA && key.subject_public_key.raw_bytes().len() > BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As environments and tools garble it: in quotes, after what was exported beside it, in one line, without its head.
    #[test]
    fn a_key_is_shown_nowhere_however_it_is_given() {
        let body = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg".repeat(8);
        let whole = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        for text in [
            whole.clone(),
            format!("\"{whole}\""),
            format!("Bag Attributes\n    friendlyName: web\n{whole}"),
            whole.replace('\n', "\\n"),
            whole.replace('\n', " "),
            body.clone(),
            format!("{}\n{}", &body[..64], &body[64..]),
        ] {
            let pem = Pem::parse(&text);
            let error = TlsError::new("tls_key", &pem, pem.read().err().unwrap_or(Fault::NoKey));
            for shown in [pem.to_string(), format!("{pem:?}"), error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("MIGHAgEAMBMGByq"), "{shown}");
            }
        }
        assert_eq!(Pem::parse("/etc/onair/server.key").to_string(), "/etc/onair/server.key");
    }
}
