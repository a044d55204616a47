//! What the certificate at the other end of a connection says. Reads certificates whose chain was verified by whoever did
//! the handshake, and judges nobody: what a name is allowed to do is not known here.

use std::{fmt, net::IpAddr, sync::Arc, time::SystemTime};

use sha2::{Digest as _, Sha256};
use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// Names that are read of one certificate; the rest are passed over.
const NAMES_MAX: usize = 64;
/// Longest name that is read; a longer one is passed over.
const NAME_BYTES_MAX: usize = 512;

/// The certificate that the client of a connection has proved to hold, verified against the configured authorities. It is
/// in the extensions of each request of such a connection, beside the client's address, whatever the front; a request
/// without it came over a connection without a client certificate.
///
/// Nothing in it is a right. It is cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Its subject alternative names, in the certificate's order; never the subject's common name. Each is printable
    /// ASCII without spaces, so that it can stand in a log or a header. May be empty.
    pub names: Arc<[AlternativeName]>,
    /// When it is no longer valid. The connection may outlast that.
    pub expires: SystemTime,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AlternativeName {
    /// A host's name, in lower case; it may begin with `*.`.
    Dns(String),
    /// A URI, as it is written: `spiffe://example.org/shop/web`.
    Uri(String),
    /// An address of mail, as it is written.
    Email(String),
    /// An address of a host.
    Address(IpAddr),
}

/// The certificate cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a readable X.509 certificate")]
pub struct Unreadable;

impl PeerCertificate {
    /// Reads a certificate that has been verified.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let certificate = Certificate::from_der(der).map_err(|_| Unreadable)?;
        let said = certificate.tbs_certificate();
        let names = said.get_extension::<SubjectAltName>().map_err(|_| Unreadable)?;
        let names = names.into_iter().flat_map(|(_, names)| names.0).filter_map(|name| AlternativeName::read(&name));
        Ok(Self {
            names: names.take(NAMES_MAX).collect(),
            expires: said.validity().not_after.to_system_time(),
            fingerprint: Sha256::digest(der).into(),
        })
    }
}

impl AlternativeName {
    /// Reads what this is shown as.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence without a full stop.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str =
            "must be like dns:web.example, uri:spiffe://example.org/web, email:ops@example.org or ip:192.0.2.1";
        let (kind, name) = text.split_once(':').ok_or(FORM)?;
        let name = plain(name).ok_or("must be printable, without spaces, and not longer than 512 bytes")?;
        match kind {
            "dns" => Ok(Self::Dns(name.to_ascii_lowercase())),
            "uri" => Ok(Self::Uri(name)),
            "email" => Ok(Self::Email(name)),
            "ip" => name.parse().map(Self::Address).map_err(|_| FORM),
            _ => Err(FORM),
        }
    }

    /// None for other kinds of names, and for those that could not be shown as they are.
    fn read(name: &GeneralName) -> Option<Self> {
        match name {
            GeneralName::DnsName(name) => plain(name.as_str()).map(|name| Self::Dns(name.to_ascii_lowercase())),
            GeneralName::UniformResourceIdentifier(uri) => plain(uri.as_str()).map(Self::Uri),
            GeneralName::Rfc822Name(address) => plain(address.as_str()).map(Self::Email),
            GeneralName::IpAddress(bytes) => match *bytes.as_bytes() {
                [a, b, c, d] => Some(Self::Address([a, b, c, d].into())),
                ref bytes => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Self::Address(IpAddr::from(bytes))),
            },
            _ => None,
        }
    }
}

/// The kind and the name: `dns:web.example`, `uri:spiffe://example.org/web`, `email:ops@example.org`, `ip:192.0.2.1`.
impl fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Uri(uri) => write!(f, "uri:{uri}"),
            Self::Email(address) => write!(f, "email:{address}"),
            Self::Address(address) => write!(f, "ip:{address}"),
        }
    }
}

/// The text, if it is printable, has no space, and is not too long.
fn plain(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names;
        parameters.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn every_kind_of_name_is_read() {
        let der = certificate(vec![
            SanType::DnsName("Web.Example".try_into().unwrap()),
            SanType::URI("spiffe://example.org/shop/web".try_into().unwrap()),
            SanType::Rfc822Name("ops@example.org".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            SanType::OtherName((vec![1, 3, 6], rcgen::OtherNameValue::Utf8String("x".to_owned()))),
        ]);
        let peer = PeerCertificate::read(&der).unwrap();
        let names: Vec<_> = peer.names.iter().map(ToString::to_string).collect();
        let expected = [
            "dns:web.example",
            "uri:spiffe://example.org/shop/web",
            "email:ops@example.org",
            "ip:192.0.2.1",
            "ip:2001:db8::1",
        ];
        assert_eq!(names, expected);
        let until = peer.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(until.as_secs(), 1_927_843_200, "2031-02-03T00:00:00Z");
        assert_eq!(peer.fingerprint, <[u8; 32]>::from(Sha256::digest(&der)));
    }

    #[test]
    fn a_name_that_cannot_be_shown_is_passed_over() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let hostile = ["a\r\nx-principal: admin", "a b", "", "\u{1b}[2J", &"x".repeat(NAME_BYTES_MAX + 1)];
        let names = hostile.iter().map(|text| uri(text)).chain([uri("spiffe://ok")]).collect();
        let peer = PeerCertificate::read(&certificate(names)).unwrap();
        assert_eq!(*peer.names, [AlternativeName::Uri("spiffe://ok".to_owned())]);
        let many = (0..1_000).map(|number| uri(&format!("spiffe://{number}"))).collect();
        assert_eq!(PeerCertificate::read(&certificate(many)).unwrap().names.len(), NAMES_MAX);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let der = certificate(vec![]);
        assert!(PeerCertificate::read(&der).unwrap().names.is_empty());
        for broken in [&[][..], b"-----BEGIN CERTIFICATE-----", &der[..der.len() - 1], &[&der[..], b"x"].concat()] {
            assert_eq!(PeerCertificate::read(broken), Err(Unreadable));
        }
    }
}
