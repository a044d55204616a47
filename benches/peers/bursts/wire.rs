//! Calls by bare HTTP/2: thousands of streams at the price of their frames, and messages read field by field as they come,
//! so that what was sent is never held here as a whole. Knows no burst.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Request};
use onair::framed::{Framed, HEAD};
use prost::{Message, encoding::decode_varint};
use tokio::{net::TcpStream, sync::watch, task::spawn_local};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a call was not answered.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Code, reason and limit.
    pub reason: String,
    /// When to come again, if that was said.
    pub retry: Option<Duration>,
    /// Whether it was refused as limits refuse: by name, and with a time at which to come again.
    pub proper: bool,
}

impl Refusal {
    /// What a status tells.
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let limit = info.as_ref().and_then(|info| info.metadata.get("limit")).cloned();
        let retry = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        let proper = status.code() == Code::ResourceExhausted && limit.is_some() && retry.is_some();
        let mut words = vec![format!("{:?}", status.code())];
        words.extend(info.map(|info| info.reason));
        words.extend(limit);
        if !proper {
            words.push(status.message().to_owned());
        }
        Self { reason: words.join(" "), retry, proper }
    }

    /// The connection is no more, or cannot be had.
    pub fn broken(why: impl std::fmt::Display) -> Self {
        Self { reason: format!("connection: {why}"), retry: None, proper: false }
    }

    /// How long to wait before the next attempt.
    pub fn wait(&self) -> Duration {
        self.retry.unwrap_or(Duration::from_millis(200))
    }
}

/// A connection. It is driven by a task of its own until it is dropped.
pub struct Line {
    send: SendRequest<Bytes>,
    /// Calls that `ask` waits for.
    open: Cell<usize>,
    frozen: watch::Sender<bool>,
    driver: tokio::task::AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Line {
    /// Connects.
    pub async fn open(address: &str) -> Result<Rc<Self>, Refusal> {
        let socket = TcpStream::connect(address).await.map_err(Refusal::broken)?;
        socket.set_nodelay(true).map_err(Refusal::broken)?;
        let mut builder = h2::client::Builder::new();
        // As many libraries have it: a stream may be 64 KiB ahead of its reader. Readers that stop must not stop others.
        builder.initial_window_size(64 << 10).initial_connection_window_size(16 << 20);
        let (send, connection) = builder.handshake(socket).await.map_err(Refusal::broken)?;
        let (frozen, mut is_frozen) = watch::channel(false);
        let driver = spawn_local(async move {
            let mut connection = std::pin::pin!(connection);
            loop {
                tokio::select! {
                    _ = connection.as_mut() => return,
                    Ok(_) = is_frozen.wait_for(|frozen| *frozen) => {}
                }
                if is_frozen.wait_for(|frozen| !*frozen).await.is_err() {
                    return;
                }
            }
        });
        Ok(Rc::new(Self { send, open: Cell::new(0), frozen, driver: driver.abort_handle() }))
    }

    /// From now on nothing of it is read, or is again.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Whether one more call may be open.
    pub fn has_room(&self) -> bool {
        self.open.get() < self.send.current_max_send_streams()
    }

    /// Calls with one message that is framed already. What is answered before the first message is a refusal.
    pub async fn call(&self, path: &str, message: Bytes, timeout: Option<&str>) -> Result<RecvStream, Refusal> {
        let mut send = self.send.clone().ready().await.map_err(Refusal::broken)?;
        let mut request = Request::post(format!("http://onair{path}")).header("te", "trailers");
        request = request.header("content-type", "application/grpc");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let request = request.body(()).map_err(Refusal::broken)?;
        let (answer, mut body) = send.send_request(request, false).map_err(Refusal::broken)?;
        body.send_data(message, true).map_err(Refusal::broken)?;
        let answer = answer.await.map_err(Refusal::broken)?;
        refused(answer.headers())?;
        Ok(answer.into_body())
    }

    /// The same, of which only the whole answer matters: how many `counted` fields it has, and how many bytes.
    pub async fn ask(
        &self,
        path: &str,
        message: Bytes,
        timeout: Option<&str>,
        counted: u64,
    ) -> Result<(u64, u64), Refusal> {
        self.open.set(self.open.get() + 1);
        let answer = async {
            let mut body = self.call(path, message, timeout).await?;
            let (mut fields, mut found, mut bytes) = (Fields::default(), 0, 0);
            while let Some(data) = next(&mut body).await? {
                bytes += data.len() as u64;
                fields.feed(&data, &mut |field| {
                    found += u64::from(matches!(field, Field::Bytes(number, _) if number == counted));
                });
            }
            if let Some(trailers) = body.trailers().await.map_err(Refusal::broken)? {
                refused(&trailers)?;
            }
            Ok((found, bytes))
        };
        let answer = answer.await;
        self.open.set(self.open.get() - 1);
        answer
    }
}

/// The next bytes of a stream, for which as many may follow; None at its end.
pub async fn next(body: &mut RecvStream) -> Result<Option<Bytes>, Refusal> {
    let Some(data) = body.data().await else { return Ok(None) };
    let data = data.map_err(Refusal::broken)?;
    body.flow_control().release_capacity(data.len()).map_err(Refusal::broken)?;
    Ok(Some(data))
}

/// What headers or trailers tell of a call, if that is bad.
pub fn refused(headers: &HeaderMap) -> Result<(), Refusal> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(Refusal::of(&status)),
        _ => Ok(()),
    }
}

/// A message as it goes on the wire.
pub fn framed(message: &impl Message) -> Bytes {
    Framed::encoded(message).into_bytes()
}

/// What a message consists of.
pub enum Field<'a> {
    /// A number, boolean or enum.
    Number(u64, u64),
    /// A message, text or bytes.
    Bytes(u64, &'a [u8]),
    /// The message is over.
    End,
}

/// Reads the fields of messages, however they are cut.
#[derive(Default)]
pub struct Fields {
    /// What is left of the message that is being read.
    left: usize,
    /// The beginning of a field, or of a message, that is not there as a whole.
    partial: Vec<u8>,
}

impl Fields {
    /// Hands on every field that is complete with `data`.
    pub fn feed(&mut self, data: &[u8], each: &mut impl FnMut(Field<'_>)) {
        if self.partial.is_empty() {
            let used = self.take(data, each);
            self.partial.extend_from_slice(&data[used..]);
            return;
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(data);
        let used = self.take(&whole, each);
        self.partial = whole[used..].to_vec();
    }

    /// How many bytes of `data` are done with.
    fn take(&mut self, data: &[u8], each: &mut impl FnMut(Field<'_>)) -> usize {
        let mut used = 0;
        loop {
            let rest = &data[used..];
            if self.left == 0 {
                let Some(&[_, a, b, c, d]) = rest.first_chunk::<HEAD>() else { return used };
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                used += HEAD;
            } else {
                let Some((field, length)) = field(&rest[..rest.len().min(self.left)]) else { return used };
                each(field);
                used += length;
                self.left -= length;
            }
            if self.left == 0 {
                each(Field::End);
            }
        }
    }
}

/// The first field, and how long it is.
fn field(data: &[u8]) -> Option<(Field<'_>, usize)> {
    let mut rest = data;
    let key = decode_varint(&mut rest).ok()?;
    let field = match key & 7 {
        0 => Field::Number(key >> 3, decode_varint(&mut rest).ok()?),
        2 => {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            let (value, after) = rest.split_at_checked(length)?;
            rest = after;
            Field::Bytes(key >> 3, value)
        }
        // None of the messages here has others.
        _ => return None,
    };
    Some((field, data.len() - rest.len()))
}

/// Waits until something is so, for as long as that is reasonable.
pub async fn until(patience: Duration, mut there: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !there() {
        if begin.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}
