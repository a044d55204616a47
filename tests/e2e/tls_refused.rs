//! Who is refused by TLS itself: by the version that they speak, and by an authority that is believed no more.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    harness::{Authority, within},
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
