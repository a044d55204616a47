//! Renewals by unary calls, one lease a call.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Error,
    floor::Shape,
    leases::{self, Fleet, HEARTBEAT},
    measure::{Figures, Side, Work, compare},
    session::Session,
    wire::{Pace, Pump, Requests},
};
use crate::framed::HEAD;

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Leases to renew, in random order.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    leases: u32,
    /// Beats a second in all, at fixed times; without it as many as the server answers.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
}

impl Default for Args {
    fn default() -> Self {
        Self { leases: 10_000, rate: None }
    }
}

/// Measures renewals, against the floor unless they are paced.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let fleet = Fleet::new(session, "heartbeat");
    let tokens = leases::register(session, &fleet, 0..args.leases as usize).await?;
    let beats = Arc::new(Beats::new(&tokens, 1));
    let reply =
        session.call(HEARTBEAT, beats.message(0)).await.map_err(|status| Error::Call("beat", Box::new(status)))?;
    let shape = Shape::of(session, beats.message(0).len() - HEAD, reply.len(), 4, 16);
    let connections = session.options.connections.unwrap_or(4).min(beats.len());
    let in_flight = session.options.in_flight.unwrap_or(16);
    let every = args.rate.map(|rate| Duration::from_secs(1) * connections as u32 / rate);
    let beating = beats.clone();
    let job = Side {
        name: "heartbeat",
        path: HEARTBEAT,
        connections,
        load: Work::Grpc(Arc::new(move |index, slice, tally| {
            // Connections take turns, so that paced beats do not come in bursts.
            let pace =
                every.map(|every| Pace { every, due: Instant::now() + every * index as u32 / connections as u32 });
            Box::new(Pump::new(Beating::new(beating.clone(), index, connections), in_flight, pace, slice, tally))
        })),
    };
    let floor = (session.has_floor && args.rate.is_none()).then(|| shape.unary());
    let mut figures = compare(session, job, floor, "beats").await?;
    figures.extra("leases", f64::from(args.leases), "");
    leases::deregister(session, &tokens).await?;
    Ok(vec![figures])
}

/// Messages that renew leases, encoded once, in random order.
pub(super) struct Beats {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Leases in a message; the last may have fewer.
    per_message: u64,
}

impl Beats {
    /// Of `per_message` leases each.
    pub(super) fn new(tokens: &[String], per_message: usize) -> Self {
        let mut tokens = tokens.to_vec();
        shuffle(&mut tokens);
        let mut beats = Self { bytes: Vec::new(), ends: Vec::new(), per_message: per_message as u64 };
        for part in tokens.chunks(per_message) {
            beats.bytes.extend_from_slice(&leases::beats(part));
            beats.ends.push(beats.bytes.len());
        }
        beats
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// One of them, framed.
    pub(super) fn message(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}

/// Random enough that neighbours in memory are not renewed one after the other, and the same in every run.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for last in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(last, (state % (last as u64 + 1)) as usize);
    }
}

/// One connection's share of the messages, again and again.
pub(super) struct Beating {
    beats: Arc<Beats>,
    first: usize,
    next: usize,
    step: usize,
    /// The last reply that was found good: without writes all are alike, and comparing is cheaper than reading.
    good: Vec<u8>,
    good_units: u64,
}

impl Beating {
    /// Every `step`th message from `first` on.
    pub(super) fn new(beats: Arc<Beats>, first: usize, step: usize) -> Self {
        Self { beats, first, next: first, step, good: Vec::new(), good_units: 0 }
    }
}

impl Requests for Beating {
    fn next(&mut self) -> Option<usize> {
        if self.next >= self.beats.len() {
            self.next = self.first;
        }
        let next = self.next;
        self.next += self.step;
        Some(next)
    }

    fn write(&self, request: usize, message: &mut Vec<u8>) {
        message.extend_from_slice(self.beats.message(request));
    }

    fn reply(&mut self, request: usize, body: &[u8]) -> Result<u64, String> {
        if body != self.good {
            self.good_units = leases::all_renewed(body)?;
            self.good.clear();
            self.good.extend_from_slice(body);
        }
        let whole = request + 1 < self.beats.len();
        match whole && self.good_units != self.beats.per_message {
            true => Err(format!("{} results for {} beats", self.good_units, self.beats.per_message)),
            false => Ok(self.good_units),
        }
    }
}
