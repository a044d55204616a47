//! The first bytes of a connection: they say what it speaks, and they have to come in time. One that is opened and stays
//! silent, or stops in the middle of HTTP/2's preface, would keep its file descriptor for ever; later HTTP/1's limit on
//! headers finds it, and HTTP/2's pings. Nor is a client waited for that takes nothing of what is sent. Knows nothing of
//! what is spoken but how it begins.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::{Sleep, sleep, timeout},
};
use tonic::transport::server::{Connected as _, TcpConnectInfo};

use super::stream::Stream;

/// How long the first bytes may take: many round trips of the slowest network.
const GREETING_WAIT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what is sent to it. HTTP/1 has no pings by which it would be found.
const STALL_WAIT: Duration = Duration::from_secs(30);
/// With what HTTP/2 begins. No request of HTTP/1 begins like this.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a client begins that means to speak TLS: a record of its handshake, of any version.
const TLS_HELLO: [u8; 2] = [0x16, 0x03];

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/1, or nothing that we know: its parser says so.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A connection whose first bytes have been looked at; whoever reads it gets them first.
#[derive(Debug)]
pub(super) struct Greeted {
    stream: Stream,
    first: [u8; PREFACE.len()],
    /// How many of the first bytes were read from the stream, and how many of those from here.
    filled: usize,
    taken: usize,
    /// When to give up, while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Waits until it is clear what the connection speaks.
pub(super) async fn greet(stream: Stream) -> io::Result<(Spoken, Greeted)> {
    let mut connection = Greeted { stream, first: [0; PREFACE.len()], filled: 0, taken: 0, stalled: None };
    let spoken = timeout(GREETING_WAIT, connection.listen()).await??;
    Ok((spoken, connection))
}

impl Greeted {
    async fn listen(&mut self) -> io::Result<Spoken> {
        loop {
            let read = self.stream.read(&mut self.first[self.filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += read;
            if self.first[..self.filled] != PREFACE[..self.filled] {
                return Ok(Spoken::Http1);
            }
            if self.filled == PREFACE.len() {
                return Ok(Spoken::Http2);
            }
        }
    }

    /// What a write came to, or that nothing could be written for too long.
    fn written<T>(&mut self, write: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL_WAIT)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of what is sent")))
    }

    /// Who is at the other end, as handlers look for it.
    pub(super) fn peer(&self) -> TcpConnectInfo {
        self.stream.socket().connect_info()
    }

    /// Whether it is a client that means to speak TLS, where nobody does.
    pub(super) fn is_tls_by_mistake(&self) -> bool {
        !self.stream.is_tls() && self.first[..self.filled].starts_with(&TLS_HELLO)
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken == this.filled {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let end = this.filled.min(this.taken + buffer.remaining());
        buffer.put_slice(&this.first[this.taken..end]);
        this.taken = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(write, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(write, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What TLS has still to send waits here.
        let flush = Pin::new(&mut self.stream).poll_flush(context);
        self.written(flush, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(shutdown, context)
    }
}
