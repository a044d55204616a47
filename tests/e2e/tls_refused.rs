//! Who is refused by TLS itself, by the version that they speak or by an authority that is believed no more; and what is
//! told of it, and of certificates that are not as they should be.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    harness::{Authority, Files, Server, client_files, handshake, onair, said, within, write},
    tls::{CLIENT, Secured, authorities},
};

/// An authority that is taken out of the file is believed no more, from the next connection on.
#[tokio::test]
async fn an_authority_that_is_taken_out_is_believed_no_more() {
    let secured = Secured::start(&["--tls-client-ca", "CA"]).await;
    let (old, next) = (secured.ca.client(CLIENT, 30), Authority::new());
    let other = next.client(CLIENT, 30);
    secured.info(Some(&old)).await.unwrap();
    secured.info(Some(&other)).await.unwrap_err();
    authorities(secured.dir.path(), &next);
    secured.server.signal("HUP");
    secured.logged("the certificates were read again").await;
    secured.info(Some(&other)).await.unwrap();
    let said = secured.info(Some(&old)).await.unwrap_err();
    assert!(said.contains("does not believe the authority"), "{said}");
}

/// Whoever wants its port is told who has it.
#[tokio::test]
async fn a_port_is_told_to_be_another_onairs_also_where_that_speaks_tls() {
    let secured = Secured::start(&["--tls-client-ca", "CA"]).await;
    let taken = secured.address().to_string();
    let (code, _, said) = said(&onair(&["serve", "--listen", &taken, "--ephemeral"]).await);
    assert!(code == 1 && said.contains("is in use by another onair, which speaks TLS"), "{code} {said}");
}

/// Each reason is in the log, also where another one comes all the time.
#[tokio::test]
async fn the_log_has_each_reason_for_which_handshakes_fail() {
    let secured = Secured::start(&["--tls-client-ca", "CA"]).await;
    let foreign = Authority::new().client(CLIENT, 30);
    let loud = async {
        loop {
            let mut socket = TcpStream::connect(secured.address()).await.unwrap();
            socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            // It is told why, and has gone by then.
            let _ = socket.read(&mut [0; 1024]).await;
        }
    };
    let others = async {
        secured.logged("the client does not speak TLS").await;
        secured.info(Some(&foreign)).await.unwrap_err();
        secured.info(None).await.unwrap_err();
        secured.logged("UnknownIssuer").await;
        secured.logged("peer sent no certificates").await;
    };
    tokio::select! {
        () = others => {}
        () = loud => {}
    }
}

/// Where a certificate further up has expired, those who know another way still believe ours; it is told all the same.
#[tokio::test]
async fn what_leads_on_may_have_expired_and_that_is_told() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let good = ca.server(&["localhost"], 30);
    let chain = [good.certificate.as_str(), &ca.pem, &Authority::expired().pem].concat();
    let (certificate, key) = write(dir.path(), "server", &Files { certificate: chain, key: good.key });
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let server = Server::ephemeral(&["--tls-cert", &certificate, "--tls-key", &key]).await;
    handshake(server.address(), &client_files(&ca, None, "h2")).await.unwrap();
    let log = server.log();
    assert!(
        log.contains("leads on from ours has expired") && log.contains("everybody on this machine can read"),
        "{log}"
    );
    // Not so the one that signed it.
    let stale = Authority::expired();
    let chain = [ca.server(&["localhost"], 30).certificate, stale.pem].concat();
    fs::write(&certificate, chain).unwrap();
    let (code, _, err) = said(&onair(&["serve", "--ephemeral", "--tls-cert", &certificate, "--tls-key", &key]).await);
    assert!(code == 2 && err.contains("the certificate expired on"), "{code} {err}");
}

/// What is older than TLS 1.2 is told so.
#[tokio::test]
async fn older_protocols_are_refused() {
    let secured = Secured::start(&[]).await;
    for (version, alert) in [(0x02, 70), (0x01, 70), (0x03, 40)] {
        // A hello of that version, and one suite that none of ours is.
        let hello = [&[3, version][..], &[7; 32], &[0, 0, 2, 0xc0, 0x14, 1, 0]].concat();
        let hello = [&[1, 0, 0, hello.len() as u8][..], &hello].concat();
        let record = [&[0x16, 3, 1, 0, hello.len() as u8][..], &hello].concat();
        let mut socket = TcpStream::connect(secured.address()).await.unwrap();
        socket.write_all(&record).await.unwrap();
        let mut answer = [0; 7];
        within("an alert", socket.read_exact(&mut answer)).await.unwrap();
        assert_eq!((answer[0], answer[5]), (0x15, 2), "{answer:?}");
        assert!([alert, 40].contains(&answer[6]), "TLS of 3.{version}: {answer:?}");
    }
}
