//! Renewals on HeartbeatStream.

use std::sync::Arc;

use super::{
    Error,
    floor::Shape,
    heartbeat::{Beating, Beats},
    leases::{self, Fleet},
    measure::{Figures, Side, Work, compare},
    session::Session,
    wire::Streamed,
};
use crate::framed::HEAD;

const HEARTBEAT_STREAM: &str = "/onair.v1.Registry/HeartbeatStream";

/// Messages that are unanswered on a stream unless options say otherwise: about 128 KiB of requests each way, so that
/// neither side waits for the other.
const IN_FLIGHT_BYTES: usize = 128 << 10;

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Leases to renew, in random order.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    leases: u32,
    /// Leases in a message; several to measure one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100], value_parser = clap::value_parser!(u32).range(1..=10_000))]
    leases_per_message: Vec<u32>,
}

impl Default for Args {
    fn default() -> Self {
        Self { leases: 10_000, leases_per_message: vec![1, 100] }
    }
}

/// Measures renewals by stream, against an echo on a stream with messages as long.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let fleet = Fleet::new(session, "stream");
    let tokens = leases::register(session, &fleet, 0..args.leases as usize).await?;
    let mut all = Vec::new();
    for per_message in &args.leases_per_message {
        let mut figures = one(session, &tokens, *per_message as usize).await?;
        figures.job = format!("stream, {per_message} a message");
        all.push(figures);
    }
    leases::deregister(session, &tokens).await?;
    Ok(all)
}

async fn one(session: &Session, tokens: &[String], per_message: usize) -> Result<Figures, Error> {
    if per_message > session.beats_max() {
        return Err(Error::Usage(format!("--leases-per-message: the server takes {} at most", session.beats_max())));
    }
    let per_message = per_message.min(tokens.len());
    let beats = Arc::new(Beats::new(tokens, per_message));
    let message = beats.message(0);
    let reply = session
        .call(HEARTBEAT_STREAM, message)
        .await
        .map_err(|status| Error::Call("beat on a stream", Box::new(status)))?;
    let in_flight = session.options.in_flight.unwrap_or(IN_FLIGHT_BYTES / message.len()).clamp(4, 4_096);
    let connections = session.options.connections.unwrap_or(2).min(beats.len());
    let shape = Shape::of(session, message.len() - HEAD, reply.len(), connections, in_flight).units(per_message as u64);
    let beating = beats.clone();
    let job = Side {
        name: "stream",
        path: HEARTBEAT_STREAM,
        connections,
        load: Work::Grpc(Arc::new(move |index, slice, tally| {
            Box::new(Streamed::new(Beating::new(beating.clone(), index, connections), in_flight, slice, tally))
        })),
    };
    compare(session, job, session.has_floor.then(|| shape.streamed()), "renewals").await
}
