//! A connection that has to say in time what it speaks. One that is opened and stays silent, or stops in the middle of
//! HTTP/2's preface, would keep its file descriptor for ever; after the preface the transport's pings find it. Knows
//! nothing of what is spoken but how long its beginning is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long the preface may take: many round trips of the slowest network.
const GREETING_WAIT: Duration = Duration::from_secs(10);
/// Bytes of HTTP/2's preface.
const PREFACE_BYTES: usize = 24;

/// The connection.
#[derive(Debug)]
pub(super) struct Greeting {
    stream: TcpStream,
    /// None once the preface has come.
    missing: Option<Missing>,
}

#[derive(Debug)]
struct Missing {
    bytes: usize,
    end: Pin<Box<Sleep>>,
}

impl Greeting {
    /// Begins to wait for the preface.
    pub(super) fn of(stream: TcpStream) -> Self {
        let missing = Missing { bytes: PREFACE_BYTES, end: Box::pin(sleep(GREETING_WAIT)) };
        Self { stream, missing: Some(missing) }
    }
}

impl Connected for Greeting {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Greeting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some(missing) = &mut this.missing else { return read };
        if read.is_pending() {
            ready!(missing.end.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface came")));
        }
        missing.bytes = missing.bytes.saturating_sub(buffer.filled().len() - before);
        if missing.bytes == 0 {
            this.missing = None;
        }
        read
    }
}

impl AsyncWrite for Greeting {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
