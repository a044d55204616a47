//! A gRPC client that costs next to nothing, so that the server is what is measured.
//!
//! A general client pays more for a call than the server does, and would be the bottleneck of most jobs. This one
//! speaks just enough HTTP/2: all calls of a connection are of one method, frames are written into one
//! buffer a turn and sent by one write, replies are judged in place. It must not know what any message means.

mod drive;
mod frame;
mod messages;
mod pump;
mod scan;
mod streamed;

use std::io;

use tokio::time::Instant;

pub(super) use drive::drive;
pub(super) use frame::Caller;
pub(super) use messages::{Messages, framed};
pub(super) use pump::{Pace, Pump, Requests};
pub(super) use scan::{Field, Fields, event_records, records, renewed};
pub(super) use streamed::Streamed;

use super::{Error, socket::Socket};
use frame::{HEAD_BYTES, Head, RequestHeaders};

/// What one read takes at most; longer than any frame.
const READ_BYTES: usize = 64 << 10;
/// What the server may send on one stream before it is given more: longer than any unary reply.
const STREAM_WINDOW: u32 = 8 << 20;
/// The same for the connection.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Both sides' windows before anything is said.
const WINDOW_DEFAULT: i64 = 65_535;

/// What a job does with one connection.
pub(super) trait Load: Send {
    /// Sends what is to be sent now. Called when the connection opens, and after whatever was read.
    fn turn(&mut self, wire: &mut Wire, now: Instant) -> Result<Turn, Error>;
    /// Bytes of a reply: a part of a message, or several.
    fn data(&mut self, wire: &mut Wire, stream: u32, data: &[u8], now: Instant) -> Result<(), Error>;
    /// The server ended the stream: with a status, or with the code of a reset.
    fn ended(&mut self, stream: u32, reset: Option<u32>) -> Result<(), Error>;
    /// The server takes more bytes on the stream.
    fn window(&mut self, _stream: u32, _bytes: u32) {}
}

/// When a load wants its next turn.
pub(super) enum Turn {
    /// After the next bytes.
    Wait,
    /// At this time, or after the next bytes.
    Until(Instant),
    /// Never: it is done.
    Done,
}

/// One connection's protocol state; it moves no bytes itself.
pub(super) struct Wire {
    out: Vec<u8>,
    written: usize,
    /// What was read and is not yet a whole frame, in its first `filled` bytes.
    input: Vec<u8>,
    filled: usize,
    headers: RequestHeaders,
    may_enter: bool,
    next_stream: u32,
    /// What the server takes on this connection now, and on a new stream.
    window: i64,
    stream_window: i64,
    payload_max: usize,
    streams_max: u32,
    ready: bool,
    /// What was read since the server was last given more.
    consumed: u32,
}

impl Wire {
    /// A connection for calls of `path`.
    pub(super) fn new(caller: &Caller, path: &str) -> Self {
        let mut out = frame::PREFACE.to_vec();
        frame::put_settings(&mut out, &[(frame::SETTING_ENABLE_PUSH, 0), (frame::SETTING_WINDOW, STREAM_WINDOW)]);
        frame::put_window(&mut out, 0, CONNECTION_WINDOW - WINDOW_DEFAULT as u32);
        Self {
            out,
            written: 0,
            input: vec![0; READ_BYTES],
            filled: 0,
            headers: RequestHeaders::new(caller, path),
            may_enter: true,
            next_stream: 1,
            window: WINDOW_DEFAULT,
            stream_window: WINDOW_DEFAULT,
            payload_max: frame::PAYLOAD_MAX,
            streams_max: u32::MAX,
            ready: false,
            consumed: 0,
        }
    }

    /// How many bytes of messages the connection takes now.
    pub(super) fn window(&self) -> i64 {
        self.window
    }

    /// How many bytes a new stream takes.
    pub(super) fn stream_window(&self) -> i64 {
        self.stream_window
    }

    /// How many streams may be open at once.
    pub(super) fn streams_max(&self) -> usize {
        self.streams_max as usize
    }

    /// Begins a call; its id is 2 more than the last one's, and the first one's is 1.
    pub(super) fn begin(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let block = self.headers.block(stream == 1, self.may_enter);
        frame::put_head(&mut self.out, block.len(), frame::HEADERS, frame::END_HEADERS, stream);
        self.out.extend_from_slice(block);
        stream
    }

    /// Sends bytes on a stream. The caller has seen to the windows.
    pub(super) fn send(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.window -= bytes.len() as i64;
        let mut rest = bytes;
        loop {
            let (part, after) = rest.split_at(rest.len().min(self.payload_max));
            let flags = if end && after.is_empty() { frame::END_STREAM } else { 0 };
            frame::put_head(&mut self.out, part.len(), frame::DATA, flags, stream);
            self.out.extend_from_slice(part);
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Lets the server send more on a long stream.
    pub(super) fn give(&mut self, stream: u32, bytes: u32) {
        frame::put_window(&mut self.out, stream, bytes);
    }

    /// Reads once; answers whether there was anything.
    fn read(&mut self, socket: &mut Socket) -> Result<bool, Error> {
        match socket.try_read(&mut self.input[self.filled..]) {
            Ok(0) => Err(Error::Protocol("it closed the connection".to_owned())),
            Ok(bytes) => {
                self.filled += bytes;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(Error::Broken(error)),
        }
    }

    /// Takes in the whole frames of what was read.
    fn digest(&mut self, load: &mut dyn Load, now: Instant) -> Result<(), Error> {
        let mut input = std::mem::take(&mut self.input);
        let used = self.frames(&input[..self.filled], load, now);
        if let Ok(used) = used {
            input.copy_within(used..self.filled, 0);
            self.filled -= used;
        }
        self.input = input;
        used.map(drop)
    }

    /// Takes in whole frames; answers how long they were.
    fn frames(&mut self, input: &[u8], load: &mut dyn Load, now: Instant) -> Result<usize, Error> {
        let mut used = 0;
        while let Some(head) = Head::read(&input[used..]) {
            if head.len > frame::PAYLOAD_MAX {
                return Err(Error::Protocol(format!("a frame of {} bytes", head.len)));
            }
            let Some(payload) = input.get(used + HEAD_BYTES..used + HEAD_BYTES + head.len) else { break };
            self.frame(&head, payload, load, now)?;
            used += HEAD_BYTES + head.len;
        }
        Ok(used)
    }

    fn frame(&mut self, head: &Head, payload: &[u8], load: &mut dyn Load, now: Instant) -> Result<(), Error> {
        match head.kind {
            frame::DATA => {
                self.consume(head.len);
                load.data(self, head.stream, unpadded(head, payload), now)?;
                if head.flags & frame::END_STREAM != 0 {
                    load.ended(head.stream, None)?;
                }
            }
            frame::HEADERS if head.flags & frame::END_STREAM != 0 => load.ended(head.stream, None)?,
            frame::RST_STREAM => load.ended(head.stream, Some(frame::number(payload)))?,
            frame::SETTINGS if head.flags & frame::ACK == 0 => self.settings(payload),
            frame::PING if head.flags & frame::ACK == 0 => {
                frame::put_head(&mut self.out, payload.len(), frame::PING, frame::ACK, 0);
                self.out.extend_from_slice(payload);
            }
            frame::WINDOW_UPDATE if head.stream == 0 => self.window += i64::from(frame::number(payload)),
            frame::WINDOW_UPDATE => load.window(head.stream, frame::number(payload)),
            frame::GOAWAY => return Err(Error::Protocol(goaway(payload))),
            _ => {}
        }
        Ok(())
    }

    /// Counts what was read and gives the connection more in time.
    fn consume(&mut self, bytes: usize) {
        self.consumed += bytes as u32;
        if self.consumed >= CONNECTION_WINDOW / 2 {
            frame::put_window(&mut self.out, 0, self.consumed);
            self.consumed = 0;
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        for (name, value) in frame::settings(payload) {
            match name {
                frame::SETTING_HEADER_TABLE => self.may_enter = value >= frame::HEADER_TABLE_DEFAULT,
                frame::SETTING_STREAMS => self.streams_max = value,
                frame::SETTING_WINDOW => self.stream_window = i64::from(value),
                frame::SETTING_FRAME => self.payload_max = (value as usize).min(frame::PAYLOAD_MAX),
                _ => {}
            }
        }
        frame::put_head(&mut self.out, 0, frame::SETTINGS, frame::ACK, 0);
        self.ready = true;
    }

    /// Writes as much as the socket takes; answers whether that was all.
    fn flush(&mut self, socket: &mut Socket) -> io::Result<bool> {
        while self.written < self.out.len() {
            match socket.try_write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        socket.send()
    }
}

/// How much may be read from a long stream before the server has to be given more.
pub(super) const GIVE_AFTER: u32 = STREAM_WINDOW / 2;

/// What a DATA frame holds besides padding.
fn unpadded<'a>(head: &Head, payload: &'a [u8]) -> &'a [u8] {
    if head.flags & frame::PADDED == 0 {
        return payload;
    }
    let Some((&pad, rest)) = payload.split_first() else { return &[] };
    &rest[..rest.len().saturating_sub(usize::from(pad))]
}

/// Why the server says farewell.
fn goaway(payload: &[u8]) -> String {
    let code = payload.get(4..).map_or(0, frame::number);
    let text = payload.get(8..).map(String::from_utf8_lossy).unwrap_or_default();
    match (code, text.is_empty()) {
        (0, _) => "it is going away".to_owned(),
        (code, true) => format!("code {code}"),
        (code, false) => format!("code {code}, {text}"),
    }
}
