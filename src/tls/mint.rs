//! Makes certificates: a small authority, and pairs that it signs. Everything is text; who writes it where is not known
//! here, and nobody has to use it.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_cert::{Certificate, der::Decode as _};

use super::{Date, Pem, ServerFiles};

/// What the authority calls itself, followed by something that tells it from others. It signs by its name alone, so that
/// with its key and that it can be gone on with.
const AUTHORITY: &str = "onair CA";
/// Clocks differ.
const EARLIER: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An authority outlasts what it signs.
const AUTHORITY_DAYS: u32 = 3_650;

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Minted {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// An authority.
pub struct Mint {
    issuer: Issuer<'static, KeyPair>,
    /// Itself.
    pub itself: Minted,
}

/// Something that cannot be made, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MintError(String);

impl From<rcgen::Error> for MintError {
    fn from(error: rcgen::Error) -> Self {
        Self(format!("a certificate cannot be made: {error}"))
    }
}

impl Mint {
    /// A new one, whose own certificate is valid for ten years, or longer if what it signs is.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn new(days: u32) -> Result<Self, MintError> {
        let (mut parameters, key) = (parameters(days.max(AUTHORITY_DAYS)), KeyPair::generate()?);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let tag: String = key.public_key_raw().iter().skip(1).take(4).map(|byte| format!("{byte:02x}")).collect();
        parameters.distinguished_name.push(DnType::CommonName, format!("{AUTHORITY} {tag}"));
        let certificate = parameters.self_signed(&key)?.pem();
        let itself = Minted { certificate, key: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(parameters, key), itself })
    }

    /// One that was made here before.
    ///
    /// # Errors
    /// It was not made here, has expired, or this is not its key.
    pub fn again(itself: Minted) -> Result<Self, MintError> {
        let (certificate, key) = (Pem::parse(&itself.certificate), Pem::parse(&itself.key));
        let judged = ServerFiles { certificate, key, clients: None }.load();
        judged.map_err(|wrong| MintError(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let der = CertificateDer::from_pem_slice(itself.certificate.as_bytes()).ok();
        let subject = der.and_then(|der| Certificate::from_der(&der).ok());
        let subject = subject.map(|certificate| certificate.tbs_certificate().subject().to_string());
        let name = subject.as_deref().and_then(|subject| subject.strip_prefix("CN="));
        let Some(name) = name.filter(|name| name.starts_with(AUTHORITY)) else {
            return Err(MintError("the authority was not made by `onair tls init`".to_owned()));
        };
        let mut parameters = parameters(0);
        parameters.distinguished_name.push(DnType::CommonName, name);
        Ok(Self { issuer: Issuer::new(parameters, KeyPair::from_pem(&itself.key)?), itself })
    }

    /// A pair for a server that is called by these names and addresses.
    ///
    /// # Errors
    /// One of them is neither.
    pub fn server(&self, hosts: &[String], days: u32) -> Result<Minted, MintError> {
        let names = hosts.iter().map(|host| match host.trim_matches(['[', ']']).parse() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => dns(host),
        });
        self.sign(names.collect::<Result<_, _>>()?, &[ExtendedKeyUsagePurpose::ServerAuth], days)
    }

    /// A pair for a client of this name, which is then `dns:NAME`.
    ///
    /// # Errors
    /// It is no name.
    pub fn client(&self, name: &str, days: u32) -> Result<Minted, MintError> {
        self.sign(vec![dns(name)?], &[ExtendedKeyUsagePurpose::ClientAuth], days)
    }

    fn sign(&self, names: Vec<SanType>, uses: &[ExtendedKeyUsagePurpose], days: u32) -> Result<Minted, MintError> {
        let (mut parameters, key) = (parameters(days), KeyPair::generate()?);
        parameters.subject_alt_names = names;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = uses.to_vec();
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer)?.pem();
        Ok(Minted { certificate, key: key.serialize_pem() })
    }
}

fn parameters(days: u32) -> CertificateParams {
    let now = SystemTime::now();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.not_before = (now - EARLIER).into();
    parameters.not_after = (now + DAY * days).into();
    parameters
}

/// When something ends that is made now for so many days.
#[must_use]
pub fn ends(days: u32) -> Date {
    Date(SystemTime::now() + DAY * days)
}

fn dns(name: &str) -> Result<SanType, MintError> {
    let wrong = || MintError(format!("`{name}` is no name of a host, like registry.example or web-1"));
    let label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(fits)
    };
    let bare = name.strip_prefix("*.").unwrap_or(name);
    if name.len() > 253 || !bare.split('.').all(label) {
        return Err(wrong());
    }
    Ok(SanType::DnsName(name.try_into().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{AlternativeName, ClientFiles};

    fn load(pair: &Minted, ca: &Minted) -> crate::tls::Loaded {
        let (certificate, key) = (Pem::parse(&pair.certificate), Pem::parse(&pair.key));
        let clients = Some((Pem::parse(&ca.certificate), crate::tls::ClientAuth::Required));
        ServerFiles { certificate, key, clients }.load().unwrap()
    }

    #[tokio::test]
    async fn what_is_made_is_believed_also_by_an_authority_that_goes_on() {
        let first = Mint::new(30).unwrap();
        let hosts = ["localhost", "*.registry.example", "127.0.0.1", "[::1]"].map(str::to_owned);
        let server = first.server(&hosts, 30).unwrap();
        let again = Mint::again(first.itself.clone()).unwrap();
        let client = again.client("web-1", 30).unwrap();
        let loaded = load(&server, &first.itself);
        for (host, covered) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("[::1]", true),
            ("eu.registry.example", true),
            ("registry.example", false),
            ("a.eu.registry.example", false),
            ("evil.example", false),
        ] {
            assert_eq!(loaded.covers(host), covered, "{host}");
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pair = Some((Pem::parse(&client.certificate), Pem::parse(&client.key)));
        let tls = ClientFiles { ca: Some(Pem::parse(&first.itself.certificate)), pair }.load("h2").unwrap();
        let accept = async {
            let (socket, _) = listener.accept().await.unwrap();
            tokio_rustls::TlsAcceptor::from(loaded.config).accept(socket).await.unwrap()
        };
        let connect = async {
            let socket = tokio::net::TcpStream::connect(address).await.unwrap();
            tls.connect("127.0.0.1", socket).await.unwrap()
        };
        let (accepted, _connected) = tokio::join!(accept, connect);
        let shown = &accepted.get_ref().1.peer_certificates().unwrap()[0];
        let read = crate::tls::PeerCertificate::read(shown).unwrap();
        assert_eq!(*read.names, [AlternativeName::Dns("web-1".to_owned())]);
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        let mint = Mint::new(30).unwrap();
        for name in ["", "a b", "a..b", "x\ny", "ü", "*"] {
            assert!(mint.client(name, 1).is_err(), "{name}");
        }
        let other = Mint::new(30).unwrap();
        let mixed = Minted { certificate: mint.itself.certificate.clone(), key: other.itself.key };
        assert!(Mint::again(mixed).err().unwrap().to_string().contains("it is not the key of"));
        let foreign = Mint::again(mint.server(&["h".to_owned()], 1).unwrap()).err().unwrap();
        assert_eq!(foreign.to_string(), "the authority was not made by `onair tls init`");
    }
}
