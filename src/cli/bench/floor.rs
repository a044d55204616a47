//! The floor: unary calls that cost the server nothing but the transport.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::{
    Error,
    measure::{Figures, Side, Work, compare},
    session::Session,
    wire::{Pump, Requests, Streamed, framed},
};
use crate::proto::bench::{EchoRequest, EchoResponse};

/// Path of the call.
pub(super) const ECHO: &str = "/onair.bench.v1.Floor/Echo";
/// The same as a stream.
pub(super) const ECHO_STREAM: &str = "/onair.bench.v1.Floor/EchoStream";

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Bytes of a request.
    #[arg(long, default_value_t = 80)]
    request_bytes: usize,
    /// Bytes of a reply.
    #[arg(long, default_value_t = 16)]
    reply_bytes: usize,
}

/// Measures the floor alone.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    if !session.has_floor {
        return Err(Error::Usage("the server has no floor: start it with `onair serve --bench-floor`".to_owned()));
    }
    let shape = Shape::of(session, args.request_bytes, args.reply_bytes, 4, 16);
    Ok(vec![compare(session, shape.unary(), None, "calls").await?])
}

/// The size of the calls that the floor is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    request_bytes: usize,
    reply_bytes: usize,
    connections: usize,
    in_flight: usize,
    /// What each call of the job counts for.
    units: u64,
}

impl Shape {
    /// Calls of these sizes, on as many connections as options or `connections` say, and as many in flight on each.
    pub(super) fn of(
        session: &Session,
        request_bytes: usize,
        reply_bytes: usize,
        connections: usize,
        in_flight: usize,
    ) -> Self {
        let connections = session.options.connections.unwrap_or(connections);
        let in_flight = session.options.in_flight.unwrap_or(in_flight);
        Self { request_bytes, reply_bytes, connections, in_flight, units: 1 }
    }

    /// Each counts as so many.
    pub(super) fn units(self, units: u64) -> Self {
        Self { units, ..self }
    }

    /// The floor as unary calls.
    pub(super) fn unary(self) -> Side {
        let echo = Arc::new(Echo::new(self));
        Side {
            name: "floor",
            path: ECHO,
            connections: self.connections,
            load: Work::Grpc(Arc::new(move |_, slice, tally| {
                Box::new(Pump::new(EchoAgain(echo.clone()), self.in_flight, None, slice, tally))
            })),
        }
    }

    /// The floor on streams.
    pub(super) fn streamed(self) -> Side {
        let echo = Arc::new(Echo::new(self));
        Side {
            name: "floor, streamed",
            path: ECHO_STREAM,
            connections: self.connections,
            load: Work::Grpc(Arc::new(move |_, slice, tally| {
                Box::new(Streamed::new(EchoAgain(echo.clone()), self.in_flight, slice, tally))
            })),
        }
    }
}

/// One echo call.
struct Echo {
    message: Vec<u8>,
    reply_bytes: usize,
    units: u64,
}

impl Echo {
    fn new(shape: Shape) -> Self {
        let reply = |payload: usize| EchoResponse { payload: Bytes::from(vec![0; payload]) }.encoded_len();
        let payload = filler(shape.reply_bytes, reply);
        let request = |filler: usize| EchoRequest {
            payload: Bytes::from(vec![0; filler]),
            reply_bytes: u32::try_from(payload).unwrap_or(u32::MAX),
        };
        let filler = filler(shape.request_bytes, |filler| request(filler).encoded_len());
        Self { message: framed(&request(filler)), reply_bytes: reply(payload), units: shape.units }
    }
}

/// How much filler makes a message `wanted` bytes long, or as near below as that can be.
fn filler(wanted: usize, encoded: impl Fn(usize) -> usize) -> usize {
    let overhead = encoded(wanted).saturating_sub(wanted);
    let filler = wanted.saturating_sub(overhead);
    if encoded(filler + 1) <= wanted { filler + 1 } else { filler }
}

/// The same call again and again.
struct EchoAgain(Arc<Echo>);

impl Requests for EchoAgain {
    fn next(&mut self) -> Option<usize> {
        Some(0)
    }

    fn write(&self, _request: usize, message: &mut Vec<u8>) {
        message.extend_from_slice(&self.0.message);
    }

    fn reply(&mut self, _request: usize, body: &[u8]) -> Result<u64, String> {
        match body.len() == self.0.reply_bytes {
            true => Ok(self.0.units),
            false => Err(format!("the floor answered {} bytes, not {}", body.len(), self.0.reply_bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framed::HEAD;

    #[test]
    fn sizes_are_those_asked_for() {
        for bytes in [8, 16, 80, 127, 128, 129, 130, 131, 2_000, 20_000] {
            let shape = Shape { request_bytes: bytes, reply_bytes: bytes, connections: 1, in_flight: 1, units: 1 };
            let echo = Echo::new(shape);
            assert!(bytes - echo.reply_bytes <= 1, "{bytes}: {}", echo.reply_bytes);
            assert!((echo.message.len() - HEAD).abs_diff(bytes) <= 1, "{bytes}: {}", echo.message.len() - HEAD);
        }
    }
}
