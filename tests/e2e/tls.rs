//! TLS on real sockets: one port for every front, clients with and without certificates, good and bad ones, handshakes
//! that never end, and certificates that are replaced while streams go on.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use onair::{
    proto::{GetServerInfoRequest, registry_client::RegistryClient},
    tls::{ClientTls, explain},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::transport::Channel;

use crate::harness::{
    Authority, Files, Http, Server, channel, client_files, everything, handshake, register, shows, within, write,
};

pub const CLIENT: &str = "spiffe://example.org/shop/web";

/// A server with certificates of an authority, in a directory that a test may change.
pub struct Secured {
    pub server: Server,
    pub dir: TempDir,
    pub ca: Authority,
}

impl Secured {
    pub async fn start(flags: &[&str]) -> Self {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
        let (certificate, key) = write(dir.path(), "server", &ca.server(&["localhost"], 30));
        let authorities = authorities(dir.path(), &ca);
        let mut all = vec!["--tls-cert", &certificate, "--tls-key", &key];
        all.extend(flags.iter().map(|flag| if *flag == "CA" { authorities.as_str() } else { *flag }));
        let server = Server::ephemeral(&all).await;
        Self { server, dir, ca }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn replace(&self, files: &Files) {
        write(self.dir.path(), "server", files);
    }

    /// A client that believes the authority.
    fn tls(&self, pair: Option<&Files>, protocol: &str) -> ClientTls {
        client_files(&self.ca, pair, protocol)
    }

    async fn channel(&self, pair: Option<&Files>) -> Result<Channel, tonic::transport::Error> {
        channel(self.address(), &self.tls(pair, "h2")).await
    }

    /// What the server says of itself, by gRPC; else why not.
    pub async fn info(&self, pair: Option<&Files>) -> Result<String, String> {
        info(self.channel(pair).await).await
    }

    /// Waits until the log has `part`.
    pub async fn logged(&self, part: &str) -> String {
        let waited = async {
            loop {
                let log = self.server.log();
                if let Some(line) = log.lines().find(|line| line.contains(part)) {
                    return line.to_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        within(&format!("{part:?} in the log"), waited).await
    }

    async fn metric(&self, name: &str) -> f64 {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", self.address().port());
        let said = Http::by_tls(self.address(), &self.tls(None, "http/1.1")).await.ask(request).await;
        let line =
            said.body.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{}", said.body));
        line.trim().parse().unwrap()
    }
}

pub fn authorities(dir: &Path, ca: &Authority) -> String {
    let path = dir.join("ca.pem");
    fs::write(&path, &ca.pem).unwrap();
    path.display().to_string()
}

async fn info(channel: Result<Channel, tonic::transport::Error>) -> Result<String, String> {
    let told = |error: &(dyn std::error::Error + 'static)| explain(error).unwrap_or_else(|| format!("{error:?}"));
    let channel = channel.map_err(|error| told(&error))?;
    let info = RegistryClient::new(channel).get_server_info(GetServerInfoRequest {}).await;
    info.map(|info| info.into_inner().version).map_err(|status| told(&status))
}

#[tokio::test]
async fn one_port_speaks_every_front_by_tls_and_nothing_in_the_clear() {
    let secured = Secured::start(&[]).await;
    secured.info(None).await.unwrap();
    let host = format!("localhost:{}", secured.address().port());
    let http1 = secured.tls(None, "http/1.1");
    let mut http = Http::by_tls(secured.address(), &http1).await;
    let said = http.ask(format!("GET /v1/info HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(said.status, 200, "{said:?}");
    // A page of this server's own is at https.
    let web = format!(
        "POST /onair.v1.Registry/GetServerInfo HTTP/1.1\r\nHost: {host}\r\nOrigin: https://{host}\r\n\
         Content-Type: application/grpc-web+proto\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0"
    );
    let said = http.ask(web).await;
    assert!(said.status == 200 && said.body.contains("grpc-status:0"), "{said:?}");
    http.send(format!(
        "GET /v1/namespaces/default/watch HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n"
    ))
    .await;
    assert_eq!(http.head().await.unwrap().header("content-type"), "text/event-stream");
    assert!(http.through("snapshotEnd").await.is_some());

    for (asked, agreed) in [("h2", Some("h2")), ("http/1.1", Some("http/1.1")), ("spdy/1", None)] {
        let agreement = handshake(secured.address(), &secured.tls(None, asked)).await;
        let got = agreement.ok().and_then(|stream| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
        assert_eq!(got.as_deref(), agreed.map(str::as_bytes), "{asked}");
    }
    // Names that the certificate does not have are nobody's.
    let said =
        Http::by_tls(secured.address(), &http1).await.ask("GET /v1/info HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert!(said.status == 403 && said.body.contains("HOST_NOT_ALLOWED"), "{said:?}");
}

#[tokio::test]
async fn who_speaks_the_wrong_way_is_told() {
    let secured = Secured::start(&[]).await;
    let mut plain = Http::connect(secured.address()).await;
    plain.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let said = plain.rest().await;
    assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("call it with https://"), "{said}");
    let error = channel_in_the_clear(secured.address()).await;
    assert!(error.contains("call it with https://"), "{error}");
    secured.logged("the client does not speak TLS").await;

    let plain = Server::ephemeral(&[]).await;
    let error = handshake(plain.address(), &client_files(&secured.ca, None, "h2")).await.unwrap_err();
    assert_eq!(explain(&error).unwrap(), "the server does not speak TLS: call it with http://");
    assert!(plain.log().contains("a client tried to speak TLS"), "{}", plain.log());
}

/// What comes of gRPC without TLS.
async fn channel_in_the_clear(address: SocketAddr) -> String {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let error = RegistryClient::new(channel).get_server_info(GetServerInfoRequest {}).await.unwrap_err();
    format!("{error:?}")
}

#[tokio::test]
async fn clients_need_a_good_certificate_where_they_need_one() {
    let secured = Secured::start(&["--tls-client-ca", "CA", "--ops-listen", "127.0.0.1:0"]).await;
    let (good, other) = (secured.ca.client(CLIENT, 30), Authority::new());
    secured.info(Some(&good)).await.unwrap();
    for (pair, why) in [
        (None, "the server wants a certificate of its clients: give --cert and --key"),
        (Some(other.client(CLIENT, 30)), "the server does not believe the authority of the certificate of --cert"),
        (Some(secured.ca.server(&["localhost"], 30)), "the server does not accept the certificate of --cert"),
    ] {
        let said = secured.info(pair.as_ref()).await.unwrap_err();
        assert!(said.starts_with(why), "{said} for {why}");
    }
    // Of a client that does not look at its certificate itself.
    let later = secured.ca.client_from(CLIENT, SystemTime::now() + Duration::from_secs(600));
    let over = secured.ca.client(CLIENT, -1);
    for pair in [&over, &later] {
        let told = shows(secured.address(), &secured.ca, pair).await.expect_err("it is refused").to_string();
        assert!(told.contains("CertificateExpired"), "{told}");
    }
    shows(secured.address(), &secured.ca, &good).await.unwrap();
    // Probes need none.
    let log = secured.server.log();
    let (_, ops) = log.split_once("answering probes and scrapes addresses=[").unwrap();
    let ops = ops.split_once(']').unwrap().0.parse().unwrap();
    let mut probe = Http::by_tls(ops, &secured.tls(None, "http/1.1")).await;
    assert_eq!(probe.ask("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);

    let optional = Secured::start(&["--tls-client-ca", "CA", "--tls-client-auth", "optional"]).await;
    optional.info(None).await.unwrap();
    optional.info(Some(&optional.ca.client(CLIENT, 30))).await.unwrap();
    let said = optional.info(Some(&good)).await.unwrap_err();
    assert!(said.contains("does not believe the authority"), "{said}");
}

/// A client's certificate is good for as long as it says, on a connection from before as well.
#[tokio::test]
async fn a_stream_ends_with_the_certificate_that_it_was_begun_with() {
    let secured = Secured::start(&["--tls-client-ca", "CA"]).await;
    let end = SystemTime::now() + Duration::from_secs(5);
    let (short, long) = (secured.ca.client_until(CLIENT, end), secured.ca.client(CLIENT, 30));
    let watch = async |pair: &Files| {
        let mut api = RegistryClient::new(secured.channel(Some(pair)).await.unwrap());
        let mut watch = api.watch(everything()).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();
        (api, watch)
    };
    let tls = secured.tls(Some(&short), "h2");
    let (_keep, mut over) = watch(&short).await;
    let (mut other, mut goes_on) = watch(&long).await;
    let ended = async { while let Ok(Some(_)) = over.message().await {} };
    within("the end of the certificate's stream", ended).await;
    // Certificates count in seconds.
    assert!(SystemTime::now() + Duration::from_secs(1) >= end);
    let said = info(channel(secured.address(), &tls).await).await.unwrap_err();
    assert!(said.contains("expired"), "{said}");
    other.register(register("web", "a", 60.0)).await.unwrap();
    assert_eq!(within("the event", goes_on.message()).await.unwrap().unwrap().events.len(), 1);
}

/// What signs clients' certificates has to be an authority, and one that is over is none any more.
#[tokio::test]
async fn clients_are_believed_by_authorities_alone() {
    let (dir, ca, over) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::expired());
    let (certificate, key) = write(dir.path(), "server", &ca.server(&["localhost"], 30));
    let authorities = dir.path().join("ca.pem").display().to_string();
    fs::write(&authorities, format!("{}{}", over.pem, ca.pem)).unwrap();
    let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-client-ca", &authorities];
    let server = Server::ephemeral(&flags).await;
    let ask = async |signer: &Authority| {
        let tls = client_files(&ca, Some(&signer.client(CLIENT, 30)), "h2");
        info(channel(server.address(), &tls).await).await
    };
    ask(&ca).await.unwrap();
    let said = ask(&over).await.unwrap_err();
    assert!(said.contains("does not believe the authority"), "{said}");

    fs::write(&authorities, format!("{}{}", ca.pem, ca.client(CLIENT, 30).certificate)).unwrap();
    let start: Vec<&str> = ["serve", "--ephemeral", "--listen", "127.0.0.1:0"].into_iter().chain(flags).collect();
    let (code, _, said) = crate::harness::said(&crate::harness::onair(&start).await);
    let sentence = "ca.pem: a certificate in it is no authority's";
    assert!(code == 2 && said.contains("tls_client_ca: ") && said.contains(sentence), "{code} {said}");
}

/// A certificate that is put there before it is valid is used once it is, though its file does not change then.
#[tokio::test]
async fn what_was_refused_is_tried_again() {
    let secured = Secured::start(&[]).await;
    // A minute is a difference of clocks.
    secured.replace(&secured.ca.server_from(SystemTime::now() + Duration::from_secs(64)));
    secured.logged("the certificate is not valid before").await;
    let line = secured.logged("the certificates were read again").await;
    assert!(line.contains("they were refused before"), "{line}");
    assert_eq!(secured.server.log().matches("the certificate is not valid before").count(), 1);
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_streams_go_on() {
    let secured = Secured::start(&[]).await;
    let old = secured.channel(None).await.unwrap();
    let mut watcher = RegistryClient::new(old.clone());
    let mut watch = watcher.watch(everything()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    let next = Authority::new();
    secured.replace(&next.server(&["localhost"], 60));
    // Nobody says so: it is seen.
    secured.logged("a file has changed").await;
    let trusted = client_files(&next, None, "h2");
    within("the new certificate", info(channel(secured.address(), &trusted).await)).await.unwrap();
    let said = secured.info(None).await.unwrap_err();
    assert!(said.contains("of an authority that is not believed here"), "{said}");

    let mut api = RegistryClient::new(old);
    api.register(register("web", "a", 60.0)).await.unwrap();
    let event = within("the event", watch.message()).await.unwrap().unwrap();
    assert_eq!(event.events.len(), 1, "the stream from before goes on");
}

#[tokio::test]
async fn what_is_wrong_at_a_reload_changes_nothing_and_is_said() {
    let secured = Secured::start(&[]).await;
    let expiry = "onair_tls_certificate_expiry_seconds{of=\"server\"}";
    let (before, good) = (secured.metric(expiry).await, secured.ca.server(&["localhost"], 90));
    let other = secured.ca.server(&["localhost"], 90);
    let broken = Files { certificate: good.certificate[..200].to_owned(), key: good.key.clone() };
    let mixed = Files { certificate: good.certificate.clone(), key: other.key };
    let empty = Files { certificate: String::new(), key: String::new() };
    let expired = secured.ca.server(&["localhost"], -1);
    for (count, files, why) in [
        (1.0, &mixed, "server.key: it is not the key of the certificate in "),
        (2.0, &broken, "server.pem: a certificate in it cannot be read"),
        (3.0, &empty, "server.pem: there is no certificate in it"),
        (4.0, &expired, "server.pem: the certificate expired on 20"),
    ] {
        secured.replace(files);
        secured.server.signal("HUP");
        let line = secured.logged(why).await;
        assert!(line.contains("ERROR") && line.contains("those from before stay in force"), "{line}");
        secured.info(None).await.unwrap();
        assert!(secured.metric("onair_tls_reloads_total{result=\"refused\"}").await >= count);
        assert_eq!(secured.metric(expiry).await.to_bits(), before.to_bits());
    }
    secured.replace(&good);
    secured.server.signal("HUP");
    secured.logged("the certificates were read again").await;
    assert!(secured.metric(expiry).await > before);
    secured.info(None).await.unwrap();
}

#[tokio::test]
async fn handshakes_that_never_end_keep_nobody_out() {
    let secured = Secured::start(&["--max-connections", "400"]).await;
    let mut crowd = Vec::new();
    for number in 0..1_000 {
        let mut silent = TcpStream::connect(secured.address()).await.unwrap();
        if number % 2 == 0 {
            // Half of a hello.
            silent.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
        }
        crowd.push(silent);
        if number % 250 == 249 {
            secured.info(None).await.unwrap();
        }
    }
    assert_eq!(within("its end", crowd[0].read(&mut [0])).await.unwrap_or(0), 0, "the oldest had to go");
    assert!(secured.metric("onair_tls_handshakes_total{result=\"pushed_out\"}").await >= 800.0);
    assert_eq!(secured.metric("onair_connections_refused_total").await.to_bits(), 0.0_f64.to_bits());
    let complaints = secured.server.log().matches("a TLS handshake was not finished").count();
    assert!((1..20).contains(&complaints), "{complaints} lines");
}

#[tokio::test]
async fn a_start_with_bad_files_is_refused_and_names_them() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let (good, other) = (ca.server(&["localhost"], 30), ca.server(&["localhost"], 30));
    let (certificate, key) = write(dir.path(), "good", &good);
    let (_, other_key) = write(dir.path(), "other", &other);
    let (expired, expired_key) = write(dir.path(), "expired", &ca.server(&["localhost"], -2));
    let nowhere = dir.path().join("nowhere.pem").display().to_string();
    for (certificate, key, wrong) in [
        (&certificate, &other_key, vec!["tls_key: ", "other.key: it is not the key of the certificate in "]),
        (&expired, &expired_key, vec!["tls_cert: ", "expired.pem: the certificate expired on 20"]),
        (
            &nowhere,
            &certificate,
            vec!["nowhere.pem: cannot be read: No such file", "good.pem: there is no private key"],
        ),
        (&key, &key, vec!["tls_cert: ", "good.key: there is no certificate in it"]),
    ] {
        let flags = ["serve", "--ephemeral", "--listen", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key];
        let (code, _, said) = crate::harness::said(&crate::harness::onair(&flags).await);
        assert!(code == 2 && wrong.iter().all(|part| said.contains(part)), "{code} {said} for {wrong:?}");
        assert!(said.lines().filter(|line| line.starts_with("onair: ")).count() == 1, "{said}");
    }
}

/// Speaks TLS with any pair, good or not, and says nothing.
async fn speak(pair: &Files) -> SocketAddr {
    use tokio_rustls::rustls::{
        ServerConfig,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    };
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(std::sync::Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Whatever becomes of it is the client's to say.
            let _ = acceptor.accept(socket).await;
        }
    });
    address
}

#[tokio::test]
async fn the_command_says_what_is_wrong_with_tls() {
    let secured = Secured::start(&["--tls-client-ca", "CA"]).await;
    let (dir, other) = (secured.dir.path(), Authority::new());
    let (cert, key) = write(dir, "client", &secured.ca.client(CLIENT, 30));
    let (ca, other_ca) = (authorities(dir, &secured.ca), dir.join("other.pem").display().to_string());
    fs::write(&other_ca, &other.pem).unwrap();
    let (foreign, foreign_key) = write(dir, "foreign", &other.client(CLIENT, 30));
    let expired = speak(&secured.ca.server(&["localhost"], -3)).await.port();
    let plain = Server::ephemeral(&[]).await;
    let port = secured.address().port();
    let with = ["--ca", &ca, "--cert", &cert, "--key", &key];
    let url = |host: &str, port: u16| format!("https://{host}:{port}");
    for (url, flags, code, part) in [
        (url("localhost", port), &with[..], 0, ""),
        (format!("localhost:{port}"), &with, 0, ""),
        (url("127.0.0.1", port), &with, 1, "the server's certificate is for localhost, and not for 127.0.0.1"),
        (url("localhost", expired), &with, 1, "the server's certificate expired on 20"),
        (
            url("localhost", port),
            &["--ca", &other_ca],
            1,
            "of an authority that is not believed here: name its own with --ca",
        ),
        (url("localhost", port), &[], 1, "of an authority that is not believed here"),
        (url("localhost", plain.address().port()), &with, 1, "the server does not speak TLS: call it with http://"),
        (format!("http://localhost:{port}"), &[], 1, ": the server speaks TLS: call it with https://"),
        (format!("http://localhost:{port}"), &with, 2, "it says http://, and certificates are for https://"),
        (
            url("localhost", port),
            &["--ca", &ca],
            1,
            "the server wants a certificate of its clients: give --cert and --key",
        ),
        (
            url("localhost", port),
            &["--ca", &ca, "--cert", &foreign, "--key", &foreign_key],
            1,
            "does not believe the authority",
        ),
        (
            url("localhost", port),
            &["--ca", &ca, "--cert", &foreign, "--key", &key],
            2,
            "it is not the key of the certificate in",
        ),
        (url("localhost", port), &["--ca", &key], 2, "client.key: there is no certificate in it"),
        (url("localhost", port), &["--ca", &ca, "--cert", &cert], 2, "cert: without key it is of no use"),
    ] {
        let output = crate::harness::onair(&[&["info", "--url", &url], flags].concat()).await;
        let (got, out, err) = crate::harness::said(&output);
        assert!(got == code && err.contains(part), "{url} {flags:?}: {got} {err}");
        assert_eq!(out.contains("registry"), code == 0, "{out}");
    }
    let output =
        crate::harness::onair(&[&["list", "--output", "curl", "--url", &url("localhost", port)], &with[..]].concat())
            .await;
    let (_, line, err) = crate::harness::said(&output);
    assert!(line.contains(&format!("--cacert {ca} --cert {cert} --key {key} ")), "{line}{err}");
    let run = tokio::process::Command::new("sh").args(["-c", &line]).output();
    let output = within("curl", run).await.unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_small_authority_is_made_and_used_as_its_lines_say() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("certs").display().to_string();
    let init = async |more: &[&str]| {
        crate::harness::said(&crate::harness::onair(&[&["tls", "init", "--dir", &at], more].concat()).await)
    };
    let (code, said, _) = init(&["--client", "shop"]).await;
    assert_eq!(code, 0);
    for name in ["ca", "server", "shop"] {
        let mode = |end: &str| fs::metadata(format!("{at}/{name}.{end}")).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("key"), mode("pem") & 0o600), (0o600, 0o600), "{name}");
    }
    let line = |start: &str| {
        let line = said.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start} in {said}"));
        line.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let serve = line("onair serve");
    let flags: Vec<_> = serve[4..].iter().map(String::as_str).collect();
    let server = Server::ephemeral(&flags).await;
    let port = server.address().port().to_string();
    let info: Vec<_> = line("onair info")[1..].iter().map(|word| word.replace("6624", &port)).collect();
    let info: Vec<_> = info.iter().map(String::as_str).collect();
    assert_eq!(crate::harness::onair(&info).await.status.code(), Some(0));
    let curl = line("curl ").join(" ").replace("6624", &port);
    let output = within("curl", tokio::process::Command::new("sh").args(["-c", &curl]).output()).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("registryId"), "{curl}: {output:?}");

    let ca = fs::read(format!("{at}/ca.pem")).unwrap();
    let (code, _, said) = init(&[]).await;
    assert!(code == 1 && said.contains("ca.pem is there already"), "{said}");
    let (code, said, _) = init(&["--keep-ca", "--client", "stock"]).await;
    assert!(code == 0 && said.contains("stock.pem") && !said.contains("server.pem, server.key"), "{said}");
    assert_eq!(fs::read(format!("{at}/ca.pem")).unwrap(), ca);
    let stock = info.iter().map(|word| word.replace("/shop.", "/stock.")).collect::<Vec<_>>();
    let stock: Vec<_> = stock.iter().map(String::as_str).collect();
    assert_eq!(crate::harness::onair(&stock).await.status.code(), Some(0));
    assert_eq!(init(&["--force"]).await.0, 0);
    assert_ne!(fs::read(format!("{at}/ca.pem")).unwrap(), ca);
    for bad in [&["--client", "ca"][..], &["--client", "a b"], &["--host", "ü"], &["--days", "0"]] {
        assert_eq!(init(bad).await.0, 2, "{bad:?}");
    }
}
