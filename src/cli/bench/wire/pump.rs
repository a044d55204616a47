//! Unary calls on one connection: a number of them in flight all the time, or one whenever it is due.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Load, Messages, Turn, Wire};
use crate::cli::bench::{
    Error,
    measure::{Metered, Slice, Tally},
};

/// What is called, and what the reply has to be.
pub(in crate::cli::bench) trait Requests: Send {
    /// The next request; none when there are no more.
    fn next(&mut self) -> Option<usize>;
    /// Appends the message of a request, framed.
    fn write(&self, request: usize, message: &mut Vec<u8>);
    /// Judges the reply: how many units of work it stands for, or what is wrong with it.
    fn reply(&mut self, request: usize, body: &[u8]) -> Result<u64, String>;
    /// How many units of work a call stands for that ended with a status alone; none: it has failed.
    fn refusal(&self) -> Option<u64> {
        None
    }
}

/// Calls at fixed times, whether or not earlier ones were answered.
#[derive(Clone, Copy)]
pub(in crate::cli::bench) struct Pace {
    /// Time between two calls.
    pub(in crate::cli::bench) every: Duration,
    /// When the next one is due. Latency counts from here, so that a stalled server is seen for as long as it stalls.
    pub(in crate::cli::bench) due: Instant,
}

/// A call that is not over.
struct Call {
    request: usize,
    begun: Instant,
    answered: bool,
    messages: Messages,
}

/// Makes unary calls on a connection and counts what becomes of them.
pub(in crate::cli::bench) struct Pump<R> {
    /// What is called.
    pub(in crate::cli::bench) requests: R,
    /// What became of it.
    pub(in crate::cli::bench) tally: Tally,
    in_flight: usize,
    pace: Option<Pace>,
    slice: Slice,
    /// By stream id from `base` in steps of 2; a call that is over leaves a gap until it is the oldest.
    calls: VecDeque<Option<Call>>,
    base: u32,
    open: usize,
    /// The request whose message waits in `message` for the connection to take it.
    waiting: Option<usize>,
    message: Vec<u8>,
    exhausted: bool,
}

impl<R: Requests> Pump<R> {
    /// Calls until the end of `slice`, with `in_flight` calls at once at most.
    pub(in crate::cli::bench) fn new(
        requests: R,
        in_flight: usize,
        pace: Option<Pace>,
        slice: Slice,
        tally: Tally,
    ) -> Self {
        Self {
            requests,
            tally,
            in_flight,
            pace,
            slice,
            calls: VecDeque::new(),
            base: 1,
            open: 0,
            waiting: None,
            message: Vec::new(),
            exhausted: false,
        }
    }

    /// Writes the next message into `message`, unless one waits there already.
    fn prepare(&mut self) -> Option<usize> {
        if self.waiting.is_none() {
            self.waiting = self.requests.next();
            match self.waiting {
                Some(request) => {
                    self.message.clear();
                    self.requests.write(request, &mut self.message);
                }
                None => self.exhausted = true,
            }
        }
        self.waiting
    }

    fn send(&mut self, wire: &mut Wire, request: usize, begun: Instant) {
        let stream = wire.begin();
        debug_assert_eq!(stream, self.base + 2 * self.calls.len() as u32);
        wire.send(stream, &self.message, true);
        self.calls.push_back(Some(Call { request, begun, answered: false, messages: Messages::default() }));
        self.open += 1;
        self.waiting = None;
    }

    fn stopped(&self, now: Instant) -> bool {
        self.exhausted || now >= self.slice.end || self.tally.is_hopeless()
    }
}

impl<R: Requests> Load for Pump<R> {
    fn turn(&mut self, wire: &mut Wire, now: Instant) -> Result<Turn, Error> {
        self.tally.tell();
        let at_once = self.in_flight.min(wire.streams_max());
        while self.open < at_once && !self.stopped(now) {
            let begun = match &self.pace {
                Some(pace) if pace.due > now => return Ok(Turn::Until(pace.due)),
                Some(pace) => pace.due,
                None => now,
            };
            let Some(request) = self.prepare() else { break };
            let bytes = self.message.len() as i64;
            if bytes > wire.stream_window() {
                return Err(Error::Usage(format!(
                    "a request of {bytes} bytes is more than the server takes at once ({})",
                    wire.stream_window()
                )));
            }
            if bytes > wire.window() {
                return Ok(Turn::Wait);
            }
            self.send(wire, request, begun);
            if let Some(pace) = &mut self.pace {
                pace.due += pace.every;
            }
        }
        Ok(if self.open == 0 && self.stopped(now) { Turn::Done } else { Turn::Wait })
    }

    fn data(&mut self, _wire: &mut Wire, stream: u32, data: &[u8], now: Instant) -> Result<(), Error> {
        let position = (stream.wrapping_sub(self.base) / 2) as usize;
        let Some(Some(call)) = self.calls.get_mut(position) else { return Ok(()) };
        let (requests, tally, counts) = (&mut self.requests, &mut self.tally, self.slice.contains(now));
        let Call { request, begun, answered, messages } = call;
        messages.feed(data, |body| {
            *answered = true;
            tally.reply(requests.reply(*request, body), counts.then(|| now.saturating_duration_since(*begun)));
            Ok(())
        })
    }

    fn ended(&mut self, stream: u32, reset: Option<u32>) -> Result<(), Error> {
        let position = (stream.wrapping_sub(self.base) / 2) as usize;
        let Some(call) = self.calls.get_mut(position).and_then(Option::take) else { return Ok(()) };
        self.open -= 1;
        while let Some(None) = self.calls.front() {
            self.calls.pop_front();
            self.base += 2;
        }
        if call.answered {
            return Ok(());
        }
        let requests = &self.requests;
        match requests.refusal().filter(|_| reset.is_none()) {
            Some(units) => {
                let now = Instant::now();
                let took = self.slice.contains(now).then(|| now.saturating_duration_since(call.begun));
                self.tally.reply(Ok(units), took);
            }
            None => self.tally.failed(|message| requests.write(call.request, message)),
        }
        Ok(())
    }
}

impl<R: Requests> Metered for Pump<R> {
    fn into_tally(self: Box<Self>) -> Tally {
        self.tally
    }
}
