//! Registrations, each durable before it is answered, and taking them away again.

use std::sync::{Arc, Mutex};

use super::{
    Error,
    leases::{self, DEREGISTER, Fleet, REGISTER, Registrations},
    measure::{Figures, Side, Work, figures, run_out},
    session::Session,
    wire::{Pump, Requests, framed},
};
use crate::proto::DeregisterRequest;

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Stop after so many, if that is sooner than --seconds.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Bytes of metadata of each instance.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(0..=16_000))]
    metadata_bytes: u32,
}

impl Default for Args {
    fn default() -> Self {
        Self { count: 1_000_000, metadata_bytes: 150 }
    }
}

/// Measures registrations with 64 in flight, then deregistrations of the same.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let fleet = Arc::new(Fleet {
        metadata_bytes: args.metadata_bytes as usize,
        ttl_seconds: 3_600,
        ..Fleet::new(session, "register")
    });
    let connections = session.options.connections.unwrap_or(4).min(args.count as usize);
    let in_flight = session.options.in_flight.unwrap_or(64usize.div_ceil(connections));
    let share = args.count as usize / connections;
    let kept = Arc::new(Mutex::new(Vec::new()));
    let sink = kept.clone();
    let registering = Side {
        name: "register",
        path: REGISTER,
        connections,
        load: Work::Grpc(Arc::new(move |index, slice, tally| {
            let inner = Registrations::new(fleet.clone(), index * share..(index + 1) * share);
            Box::new(Pump::new(Registering { inner, kept: sink.clone() }, in_flight, None, slice, tally))
        })),
    };
    let registered = run_out(session, &registering, session.options.seconds).await?;
    let mut registered = figures(session, &registering, registered, "registers").await;
    registered.extra("in flight", (connections * in_flight) as f64, "");
    let tokens = kept.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
    let removed = Arc::new(Mutex::new(0));
    let (mine, counted) = (Arc::new(tokens), removed.clone());
    let held = mine.clone();
    let deregistering = Side {
        name: "deregister",
        path: DEREGISTER,
        connections,
        load: Work::Grpc(Arc::new(move |index, slice, tally| {
            let requests =
                Deregistering { tokens: held.clone(), next: index, step: connections, done: counted.clone() };
            Box::new(Pump::new(requests, in_flight, None, slice, tally))
        })),
    };
    let deregistered = run_out(session, &deregistering, session.options.seconds).await?;
    let deregistered = figures(session, &deregistering, deregistered, "deregisters").await;
    // What the time did not suffice for; gone ones are passed over.
    if removed.lock().is_ok_and(|removed| *removed < mine.len()) {
        leases::deregister(session, &mine).await?;
    }
    Ok(vec![registered, deregistered])
}

/// Registrations whose tokens outlive the connection.
struct Registering {
    inner: Registrations,
    kept: Arc<Mutex<Vec<String>>>,
}

impl Requests for Registering {
    fn next(&mut self) -> Option<usize> {
        self.inner.next()
    }

    fn write(&self, request: usize, message: &mut Vec<u8>) {
        self.inner.write(request, message);
    }

    fn reply(&mut self, request: usize, body: &[u8]) -> Result<u64, String> {
        let units = self.inner.reply(request, body)?;
        if let Ok(mut kept) = self.kept.lock() {
            kept.extend(self.inner.tokens.drain(..).map(|(_, token)| token));
        }
        Ok(units)
    }
}

/// One connection's share of the leases, each taken away by a call of its own.
struct Deregistering {
    tokens: Arc<Vec<String>>,
    next: usize,
    step: usize,
    done: Arc<Mutex<usize>>,
}

impl Requests for Deregistering {
    fn next(&mut self) -> Option<usize> {
        let next = self.next;
        self.next += self.step;
        (next < self.tokens.len()).then_some(next)
    }

    fn write(&self, request: usize, message: &mut Vec<u8>) {
        let lease_token = self.tokens[request].clone();
        message.extend_from_slice(&framed(&DeregisterRequest { lease_token, ..DeregisterRequest::default() }));
    }

    fn reply(&mut self, _request: usize, body: &[u8]) -> Result<u64, String> {
        match leases::removed(body) {
            1 => {
                if let Ok(mut done) = self.done.lock() {
                    *done += 1;
                }
                Ok(1)
            }
            other => Err(format!("a deregistration removed {other} instances")),
        }
    }
}
