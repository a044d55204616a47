//! Calls that are let in nowhere: what wrong credentials cost the server.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::Code;

use super::{
    Error,
    leases::HEARTBEAT,
    measure::{Figures, Side, Work, compare},
    session::Session,
    wire::{Pace, Pump, Requests, framed},
};
use crate::proto::{Beat, HeartbeatRequest};

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Calls a second in all, at fixed times; without it as many as the server refuses.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
}

/// Measures refusals of heartbeats: with the token that was given, but for one character.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let session = session.wrong();
    let beats = vec![Beat { lease_token: "nobody's".to_owned(), status: 0 }];
    let message = Arc::new(framed(&HeartbeatRequest { beats, ..HeartbeatRequest::default() }));
    match session.call(HEARTBEAT, &message).await {
        Err(status) if status.code() == Code::Unauthenticated => {}
        Err(status) => return Err(Error::Call("be refused for what it proves", Box::new(status))),
        Ok(_) => {
            let why = "the server lets everybody in: start it with `onair serve --auth`";
            return Err(Error::Usage(why.to_owned()));
        }
    }
    let connections = session.options.connections.unwrap_or(4);
    let in_flight = session.options.in_flight.unwrap_or(16);
    let every = args.rate.map(|rate| Duration::from_secs(1) * connections as u32 / rate);
    let job = Side {
        name: "refused",
        path: HEARTBEAT,
        connections,
        load: Work::Grpc(Arc::new(move |index, slice, tally| {
            let pace =
                every.map(|every| Pace { every, due: Instant::now() + every * index as u32 / connections as u32 });
            Box::new(Pump::new(Refused(message.clone()), in_flight, pace, slice, tally))
        })),
    };
    Ok(vec![compare(&session, job, None, "refusals").await?])
}

/// The same call again and again.
struct Refused(Arc<Vec<u8>>);

impl Requests for Refused {
    fn next(&mut self) -> Option<usize> {
        Some(0)
    }

    fn write(&self, _request: usize, message: &mut Vec<u8>) {
        message.extend_from_slice(&self.0);
    }

    fn reply(&mut self, _request: usize, _body: &[u8]) -> Result<u64, String> {
        Err("a call with wrong credentials was answered".to_owned())
    }

    fn refusal(&self) -> Option<u64> {
        Some(1)
    }
}
