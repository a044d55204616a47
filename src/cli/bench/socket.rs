//! A connection's bytes without waiting, in the clear or by TLS. Knows nothing of what they say.

use std::io::{self, Read as _, Write as _};

use tokio::{io::Interest, net::TcpStream};
use tokio_rustls::{client::TlsStream, rustls::ClientConnection};

/// A connection.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// A connection by TLS, whose handshake is done.
pub(super) struct Tls {
    tcp: TcpStream,
    session: ClientConnection,
    /// There may be more that has been decrypted and not been read.
    is_full: bool,
}

impl From<TlsStream<TcpStream>> for Socket {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        let (tcp, session) = stream.into_inner();
        Self::Tls(Box::new(Tls { tcp, session, is_full: true }))
    }
}

impl Socket {
    /// Waits until it may be read or written.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Self::Tls(tls) if tls.is_full => Ok(()),
            Self::Plain(tcp) => tcp.ready(interest).await.map(drop),
            Self::Tls(tls) => tls.tcp.ready(interest).await.map(drop),
        }
    }

    /// Reads what is there; nothing is `WouldBlock`.
    pub(super) fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_read(bytes),
            Self::Tls(tls) => tls.try_read(bytes),
        }
    }

    /// Writes what it takes; nothing is `WouldBlock`.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            Self::Tls(tls) => match tls.send()? {
                true => tls.session.writer().write(bytes),
                false => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    /// Sends what was taken and has not left; answers whether that was all.
    pub(super) fn send(&mut self) -> io::Result<bool> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Tls(tls) => tls.send(),
        }
    }
}

impl Tls {
    fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < bytes.len() {
            match self.session.reader().read(&mut bytes[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.receive() {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && read > 0 => break,
                    Err(error) => {
                        self.is_full = false;
                        return Err(error);
                    }
                },
                Err(error) => return Err(error),
            }
        }
        self.is_full = read == bytes.len();
        Ok(read)
    }

    /// Takes in what the socket has.
    fn receive(&mut self) -> io::Result<()> {
        if self.session.read_tls(&mut Bare(&self.tcp))? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.session.process_new_packets().map(drop).map_err(io::Error::other)
    }

    fn send(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Bare(&self.tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The socket as the session reads and writes it.
struct Bare<'a>(&'a TcpStream);

impl io::Read for Bare<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl io::Write for Bare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
