//! TLS handshakes: each has a time by which it is done, counts among the connections, and ends with a word that the client
//! understands, also one that speaks no TLS. Knows nothing of what is spoken inside.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{complaints::Complaints, greeting::PREFACE, lobby::Lobby, stream::Stream};
use crate::{
    metrics::{Handshake, Metrics},
    tls::{Live, PeerCertificate},
};

/// How long a handshake may take: many round trips of the slowest network.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// How long a client that is told why may take to hear it.
const LAST_WORD_WAIT: Duration = Duration::from_secs(1);
/// How long HTTP/2 in the clear waits for its farewell: some clients take the settings before it for success, and come
/// again at once.
const FAREWELL_PAUSE: Duration = Duration::from_secs(1);
/// With what each record of a handshake begins.
const RECORD: u8 = 0x16;
/// What somebody is told who speaks HTTP/1 where TLS is spoken…
pub(super) const NOT_TLS_HTTP1: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n\
    Connection: close\r\n\r\nThis port speaks TLS: call it with https://.\n";
/// …and who speaks HTTP/2: no settings, and a farewell (INADEQUATE_SECURITY) with the same sentence.
const NOT_TLS_HTTP2: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x35\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cThis port speaks TLS: call it with https://.\n";

/// How handshakes are made on one port.
#[derive(Clone, Debug)]
pub(super) struct Handshakes {
    live: Arc<Live>,
    /// Probes and scrapes come without a certificate of their own.
    is_ops: bool,
    lobby: Arc<Lobby>,
    /// Whose work is done at once: the others wait, so that calls on the same thread come between.
    turns: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    complaints: Complaints,
}

impl Handshakes {
    /// With what is in force at the time of each; there are so many places for connections, and so many threads.
    pub(super) fn new(
        live: Arc<Live>,
        is_ops: bool,
        (places, threads): (usize, usize),
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (lobby, turns) = (Lobby::new(places), Arc::new(Semaphore::new(threads)));
        let complaints = Complaints::new(
            |error, from, times| tracing::warn!(%from, error, times, "a TLS handshake was not finished"),
        );
        Self { live, is_ops, lobby, turns, metrics: Arc::clone(metrics), complaints }
    }

    /// Makes one, and says what the client's certificate says, if it has one.
    pub(super) async fn shake(&self, socket: TcpStream) -> io::Result<(Stream, Option<PeerCertificate>)> {
        let from = socket.peer_addr()?;
        let mut guest = self.lobby.enter();
        let made = tokio::select! {
            biased;
            made = timeout(HANDSHAKE_WAIT, self.make(socket)) => {
                made.unwrap_or_else(|_| Err((Handshake::TimedOut, io::ErrorKind::TimedOut.into())))
            }
            () = guest.asked_to_go() => {
                Err((Handshake::PushedOut, io::Error::other("too many handshakes are under way")))
            }
        };
        let (result, answer) = match made {
            Ok(made) => (Handshake::Done, Ok(made)),
            Err((result, error)) => (result, Err(error)),
        };
        self.metrics.tls_handshakes.of((result,)).inc();
        if let Err(error) = &answer {
            self.complaints.note(error.to_string(), from);
        }
        answer
    }

    async fn make(&self, socket: TcpStream) -> Result<(Stream, Option<PeerCertificate>), (Handshake, io::Error)> {
        let failed = |error| (Handshake::Failed, error);
        let mut first = [0; PREFACE.len()];
        let read = socket.peek(&mut first).await.map_err(failed)?;
        match first[0] {
            _ if read == 0 => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
            RECORD => {}
            _ => {
                let is_http2 = read >= 4 && PREFACE.starts_with(&first[..read]);
                if is_http2 {
                    sleep(FAREWELL_PAUSE).await;
                }
                last_word(socket, if is_http2 { NOT_TLS_HTTP2 } else { NOT_TLS_HTTP1 }).await;
                return Err((Handshake::NotTls, io::Error::other("the client does not speak TLS, and this port does")));
            }
        }
        let loaded = self.live.now();
        let config = if self.is_ops { &loaded.ops_config } else { &loaded.config };
        let turn = self.turns.acquire().await.map_err(|closed| failed(io::Error::other(closed)))?;
        let mut accept = pin!(TlsAcceptor::from(Arc::clone(config)).accept(socket).into_fallible());
        // The client's first word is there, so that most of the work, the signature, is done at the first look.
        let begun = poll_fn(|context| Poll::Ready(accept.as_mut().poll(context))).await;
        // Whatever is ready comes before the next one's.
        yield_now().await;
        drop(turn);
        let made = match begun {
            Poll::Ready(made) => made,
            Poll::Pending => accept.await,
        };
        match made {
            Ok(stream) => {
                let certificate = client(&stream).map_err(failed)?;
                Ok((Stream::Tls(Box::new(stream)), certificate))
            }
            Err((error, socket)) => {
                // The alert that says why is on its way; closing while something is unread would take it back.
                last_word(socket, b"").await;
                Err(failed(error))
            }
        }
    }
}

/// What the client's certificate says. The handshake has verified it.
fn client(stream: &TlsStream<TcpStream>) -> io::Result<Option<PeerCertificate>> {
    let (_, session) = stream.get_ref();
    let Some(certificate) = session.peer_certificates().and_then(|chain| chain.first()) else { return Ok(None) };
    let read = PeerCertificate::read(certificate)
        .map_err(|why| io::Error::other(format!("the client's certificate: {why}")))?;
    if read.expires < SystemTime::now() {
        return Err(io::Error::other("the client's certificate has expired"));
    }
    Ok(Some(read))
}

/// Says it, and reads until the client has gone or has had time to hear it.
async fn last_word(mut socket: TcpStream, word: &[u8]) {
    let told = async {
        socket.write_all(word).await?;
        socket.shutdown().await?;
        let mut unread = [0; 1024];
        while socket.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // Whoever does not listen is not told.
    let _ = timeout(LAST_WORD_WAIT, told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_have_the_lengths_that_they_say() {
        let sentence = "This port speaks TLS: call it with https://.\n";
        assert!(NOT_TLS_HTTP1.ends_with(sentence.as_bytes()) && sentence.len() == 45);
        let (settings, farewell) = NOT_TLS_HTTP2.split_at(9);
        assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(usize::from(farewell[2]), farewell.len() - 9);
        assert!(farewell.ends_with(sentence.as_bytes()));
    }
}
