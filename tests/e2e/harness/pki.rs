//! Authorities and the certificates that they sign, good and bad, as files for servers and clients.

use std::{
    fs,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use onair::tls::{ClientFiles, ClientTls, Pem};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};
use tonic::transport::{Channel, Endpoint};

use super::{Http, within};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Files {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        Self::of(CertificateParams::default())
    }

    /// One that was good for a year, until yesterday.
    pub fn expired() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.not_before = (SystemTime::now() - 366 * DAY).into();
        parameters.not_after = (SystemTime::now() - DAY).into();
        Self::of(parameters)
    }

    fn of(mut parameters: CertificateParams) -> Self {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // Each has a name of its own, as those of different people have.
        let name: String = key.public_key_raw()[1..9].iter().map(|byte| format!("{byte:02x}")).collect();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// For a server of these names and addresses, that is valid from now for so many days; fewer than none are over.
    pub fn server(&self, hosts: &[&str], days: i32) -> Files {
        let names = hosts.iter().map(|host| match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*host).try_into().unwrap()),
        });
        self.sign(names.collect(), ExtendedKeyUsagePurpose::ServerAuth, days)
    }

    /// For a client that is called so.
    pub fn client(&self, uri: &str, days: i32) -> Files {
        self.sign(vec![SanType::URI(uri.try_into().unwrap())], ExtendedKeyUsagePurpose::ClientAuth, days)
    }

    /// For a server that is `localhost` from then on.
    pub fn server_from(&self, from: SystemTime) -> Files {
        let names = vec![SanType::DnsName("localhost".try_into().unwrap())];
        self.sign_for(names, ExtendedKeyUsagePurpose::ServerAuth, from..from + 9 * DAY)
    }

    /// For a client that is called so, until then.
    pub fn client_until(&self, uri: &str, until: SystemTime) -> Files {
        let names = vec![SanType::URI(uri.try_into().unwrap())];
        self.sign_for(names, ExtendedKeyUsagePurpose::ClientAuth, until - 9 * DAY..until)
    }

    /// For a client that is called so, from then on.
    pub fn client_from(&self, uri: &str, from: SystemTime) -> Files {
        let names = vec![SanType::URI(uri.try_into().unwrap())];
        self.sign_for(names, ExtendedKeyUsagePurpose::ClientAuth, from..from + 9 * DAY)
    }

    fn sign(&self, names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose, days: i32) -> Files {
        let (now, span) = (SystemTime::now(), DAY * days.unsigned_abs());
        self.sign_for(names, purpose, now - 100 * DAY..if days < 0 { now - span } else { now + span })
    }

    fn sign_for(&self, names: Vec<SanType>, purpose: ExtendedKeyUsagePurpose, valid: Range<SystemTime>) -> Files {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names;
        parameters.extended_key_usages = vec![purpose];
        (parameters.not_before, parameters.not_after) = (valid.start.into(), valid.end.into());
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        Files { certificate, key: key.serialize_pem() }
    }
}

/// Where the files of a pair called `name` are.
pub fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}

/// Writes a pair there, and gives its paths as text.
pub fn write(dir: &Path, name: &str, files: &Files) -> (String, String) {
    let (certificate, key) = paths(dir, name);
    fs::write(&certificate, &files.certificate).unwrap();
    fs::write(&key, &files.key).unwrap();
    (certificate.display().to_string(), key.display().to_string())
}

/// What a client of one protocol believes and shows.
pub fn client_files(ca: &Authority, pair: Option<&Files>, protocol: &str) -> ClientTls {
    let pair = pair.map(|pair| (Pem::parse(&pair.certificate), Pem::parse(&pair.key)));
    ClientFiles { ca: Some(Pem::parse(&ca.pem)), pair }.load(protocol).unwrap()
}

impl Http {
    /// HTTP/1.1 by TLS.
    pub async fn by_tls(address: SocketAddr, tls: &ClientTls) -> Self {
        Self::over_any(handshake(address, tls).await.unwrap())
    }
}

/// A handshake with whoever is at the address, under the name `localhost`.
pub async fn handshake(address: SocketAddr, tls: &ClientTls) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = within("a connection", TcpStream::connect(address)).await.unwrap();
    within("a handshake", tls.connect("localhost", socket)).await
}

/// What becomes of a client that shows this certificate, whatever it says.
pub async fn shows(address: SocketAddr, ca: &Authority, pair: &Files) -> std::io::Result<()> {
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&ca.pem)).unwrap();
    let (chain, key) = (vec![certificate(&pair.certificate)], PrivateKeyDer::from_pem_slice(pair.key.as_bytes()));
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key.unwrap())
        .unwrap();
    let socket = within("a connection", TcpStream::connect(address)).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stream = within("a handshake", TlsConnector::from(Arc::new(config)).connect(name, socket)).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    within("an answer", stream.read_u8()).await.map(drop)
}

/// gRPC by TLS.
pub async fn channel(address: SocketAddr, tls: &ClientTls) -> Result<Channel, tonic::transport::Error> {
    let tls = tls.clone();
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move { handshake(address, &tls).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", address.port())).unwrap();
    within("a channel", endpoint.connect_with_connector(connector)).await
}
