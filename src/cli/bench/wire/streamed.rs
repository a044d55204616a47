//! One long bidirectional stream on a connection: requests out, a reply for each, in order.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{GIVE_AFTER, Load, Messages, Turn, Wire, pump::Requests};
use crate::cli::bench::{
    Error,
    measure::{Metered, Slice, Tally},
};

/// Bytes of messages that are sent as one frame, as a busy client would.
const BATCH_BYTES: usize = 16_384;

/// Sends requests on one stream and counts what becomes of them.
pub(in crate::cli::bench) struct Streamed<R> {
    requests: R,
    /// What became of them.
    pub(in crate::cli::bench) tally: Tally,
    in_flight: usize,
    slice: Slice,
    stream: Option<u32>,
    /// What the server takes on the stream now.
    window: i64,
    /// When each unanswered request was sent.
    sent: VecDeque<(usize, Instant)>,
    messages: Messages,
    consumed: u32,
    batch: Vec<u8>,
    /// The request whose message waits at the end of `batch` for the windows to open.
    waiting: Option<usize>,
    ended: bool,
}

impl<R: Requests> Streamed<R> {
    /// Sends until the end of `slice`, with `in_flight` unanswered requests at most.
    pub(in crate::cli::bench) fn new(requests: R, in_flight: usize, slice: Slice, tally: Tally) -> Self {
        Self {
            requests,
            tally,
            in_flight,
            slice,
            stream: None,
            window: 0,
            sent: VecDeque::with_capacity(in_flight),
            messages: Messages::default(),
            consumed: 0,
            batch: Vec::with_capacity(2 * BATCH_BYTES),
            waiting: None,
            ended: false,
        }
    }

    /// Fills `batch` with what may be sent as one frame; false when that is nothing.
    fn fill(&mut self, wire: &Wire, now: Instant) -> bool {
        let room = self.window.min(wire.window());
        let mut fits = 0;
        if self.waiting.is_none() {
            self.batch.clear();
        }
        while self.sent.len() < self.in_flight && fits < BATCH_BYTES {
            let request = match self.waiting.take() {
                Some(request) => request,
                None => {
                    let Some(request) = self.requests.next() else { break };
                    self.requests.write(request, &mut self.batch);
                    request
                }
            };
            if self.batch.len() as i64 > room {
                self.waiting = Some(request);
                break;
            }
            fits = self.batch.len();
            self.sent.push_back((request, now));
        }
        fits > 0
    }

    /// Sends one batch; a message that had to wait stays behind in it.
    fn send(&mut self, wire: &mut Wire, stream: u32) {
        let Some(request) = self.waiting else {
            self.window -= self.batch.len() as i64;
            return wire.send(stream, &self.batch, false);
        };
        let mut message = Vec::new();
        self.requests.write(request, &mut message);
        let fits = self.batch.len() - message.len();
        self.window -= fits as i64;
        wire.send(stream, &self.batch[..fits], false);
        self.batch = message;
    }
}

impl<R: Requests> Load for Streamed<R> {
    fn turn(&mut self, wire: &mut Wire, now: Instant) -> Result<Turn, Error> {
        self.tally.tell();
        let stream = match self.stream {
            Some(stream) => stream,
            None => {
                self.window = wire.stream_window();
                *self.stream.insert(wire.begin())
            }
        };
        if self.ended || self.tally.is_hopeless() {
            return Ok(Turn::Done);
        }
        if now >= self.slice.end {
            return Ok(if self.sent.is_empty() { Turn::Done } else { Turn::Wait });
        }
        while self.fill(wire, now) {
            self.send(wire, stream);
        }
        Ok(Turn::Wait)
    }

    fn data(&mut self, wire: &mut Wire, stream: u32, data: &[u8], now: Instant) -> Result<(), Error> {
        self.consumed += data.len() as u32;
        if self.consumed >= GIVE_AFTER {
            wire.give(stream, self.consumed);
            self.consumed = 0;
        }
        let (requests, sent, tally) = (&mut self.requests, &mut self.sent, &mut self.tally);
        let counts = self.slice.contains(now);
        self.messages.feed(data, |body| {
            let Some((request, begun)) = sent.pop_front() else {
                return Err(Error::Protocol("a reply that nothing asked for".to_owned()));
            };
            tally.reply(requests.reply(request, body), counts.then(|| now.saturating_duration_since(begun)));
            Ok(())
        })
    }

    fn ended(&mut self, _stream: u32, _reset: Option<u32>) -> Result<(), Error> {
        self.ended = true;
        if let Some((request, _)) = self.sent.front() {
            let requests = &self.requests;
            self.tally.failed(|message| requests.write(*request, message));
        }
        Ok(())
    }

    fn window(&mut self, _stream: u32, bytes: u32) {
        self.window += i64::from(bytes);
    }
}

impl<R: Requests> Metered for Streamed<R> {
    fn into_tally(self: Box<Self>) -> Tally {
        self.tally
    }
}
