//! HTTP as its bytes: what a test writes is what the server gets, legal or not.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::within;

/// What bytes go over, in the clear or not.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A connection that speaks HTTP/1.1, or whatever a test makes of it.
pub struct Http {
    stream: Box<dyn Bytes>,
    /// Read, and not yet part of an answer.
    read: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What of it is no text is replaced.
    pub body: String,
    pub bytes: Vec<u8>,
}

impl Said {
    /// The value of a header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(one, _)| one == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Http {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        Self::over(stream)
    }

    /// On a connection that is there.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::over_any(stream)
    }

    /// On whatever carries bytes.
    pub fn over_any(stream: impl Bytes + 'static) -> Self {
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("room for what is sent", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends `piece` as long as somebody takes it; how many bytes were taken.
    pub async fn send_until_refused(&mut self, piece: &[u8]) -> usize {
        let (mut taken, mut reader) = (0, [0; 4096]);
        loop {
            let (mut read_half, mut write_half) = tokio::io::split(&mut self.stream);
            tokio::select! {
                biased;
                read = read_half.read(&mut reader) => {
                    let read = read.unwrap_or(0);
                    self.read.extend_from_slice(&reader[..read]);
                    return taken;
                }
                written = write_half.write(piece) => match written {
                    Ok(written) => taken += written,
                    Err(_) => return taken,
                },
            }
        }
    }

    /// The next answer, with its whole body; none if the connection ends before it.
    pub async fn answer(&mut self) -> Option<Said> {
        let mut said = self.head().await?;
        if said.header("transfer-encoding") == "chunked" {
            loop {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    break;
                }
                said.bytes.extend(chunk);
            }
        } else if let Ok(length) = said.header("content-length").parse() {
            said.bytes = self.take(length).await?;
        }
        said.body = String::from_utf8_lossy(&said.bytes).into_owned();
        Some(said)
    }

    /// The head of the next answer, whose body goes on.
    pub async fn head(&mut self) -> Option<Said> {
        let head = self.through("\r\n\r\n").await?;
        let mut lines = head.trim_end().lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("{line:?} in {head:?}")))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Said { status, headers, body: String::new(), bytes: Vec::new() })
    }

    /// The next piece of a body that is sent in pieces; the last is empty.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.through("\r\n").await?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = self.take(size + 2).await?;
        chunk.truncate(size);
        Some(chunk)
    }

    /// Sends a request and gives its answer.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Said {
        self.send(&request).await;
        let asked = String::from_utf8_lossy(request.as_ref()).into_owned();
        self.answer().await.unwrap_or_else(|| panic!("no answer to {asked:?}"))
    }

    /// What comes until the server closes the connection.
    pub async fn rest(&mut self) -> String {
        while self.more().await > 0 {}
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    /// All that comes until the connection ends, whatever it is.
    pub async fn all(&mut self) -> String {
        while self.more().await > 0 {}
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Through the next `end`, which is of ASCII.
    pub async fn through(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|part| part == end.as_bytes()) {
                let bytes = self.take(at + end.len()).await?;
                return Some(String::from_utf8(bytes).unwrap());
            }
            if self.more().await == 0 {
                return None;
            }
        }
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if self.more().await == 0 {
                return None;
            }
        }
        let rest = self.read.split_off(count);
        Some(std::mem::replace(&mut self.read, rest))
    }

    /// Reads on; 0 at the end, which may be a reset.
    async fn more(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let read = within("more of an answer", self.stream.read(&mut buffer)).await.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..read]);
        read
    }
}
