//! Lookups of whole services.

use std::sync::Arc;

use super::{
    Error,
    floor::Shape,
    http,
    leases::{self, Fleet},
    measure::{Figures, Side, Work, compare},
    session::Session,
    wire::{Pump, Requests, framed, records},
};
use crate::{framed::HEAD, proto::LookupRequest};

const LOOKUP: &str = "/onair.v1.Registry/Lookup";

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Services, looked up in turn.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    services: u32,
    /// Instances of each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    instances: u32,
    /// Bytes of metadata of each instance.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16_000))]
    metadata_bytes: u32,
    /// By HTTP/1.1 and JSON, in turn with the same by gRPC.
    #[arg(long)]
    http: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self { services: 1_000, instances: 10, metadata_bytes: 0, http: false }
    }
}

/// Measures lookups: by gRPC against the floor with replies as long, or by HTTP against those by gRPC.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let fleet = Fleet {
        per_service: args.instances as usize,
        metadata_bytes: args.metadata_bytes as usize,
        ttl_seconds: 3_600,
        ..Fleet::new(session, "lookup")
    };
    let tokens = leases::register(session, &fleet, 0..(args.services * args.instances) as usize).await?;
    let message = |service: usize| {
        framed(&LookupRequest {
            namespace: fleet.namespace.clone(),
            service: fleet.service(service * fleet.per_service),
            ..LookupRequest::default()
        })
    };
    let messages: Arc<Vec<_>> = Arc::new((0..args.services as usize).map(message).collect());
    let last = messages.last().map(Vec::as_slice).unwrap_or_default();
    let reply = session.call(LOOKUP, last).await.map_err(|status| Error::Call("look up", Box::new(status)))?;
    let floor = Shape::of(session, last.len() - HEAD, reply.len(), 4, 16).unary();
    let by_http = http::Lookups::new(&fleet, args.services as usize)?;
    let connections = session.options.connections.unwrap_or(4).min(messages.len());
    let in_flight = session.options.in_flight.unwrap_or(16);
    let instances = args.instances as usize;
    let by_grpc = Side {
        name: "lookup",
        path: LOOKUP,
        connections,
        load: Work::Grpc(Arc::new(move |index, slice, tally| {
            let requests =
                Lookups { messages: messages.clone(), first: index, next: index, step: connections, instances };
            Box::new(Pump::new(requests, in_flight, None, slice, tally))
        })),
    };
    let (job, base) = match args.http {
        false => (by_grpc, session.has_floor.then_some(floor)),
        true => (by_http.side(connections * in_flight), Some(by_grpc)),
    };
    let mut figures = compare(session, job, base, "lookups").await?;
    figures.extra("instances in a reply", f64::from(args.instances), "");
    figures.extra("bytes of a reply", reply.len() as f64, "");
    leases::deregister(session, &tokens).await?;
    Ok(vec![figures])
}

/// One connection's share of the services, again and again.
struct Lookups {
    messages: Arc<Vec<Vec<u8>>>,
    first: usize,
    next: usize,
    step: usize,
    instances: usize,
}

impl Requests for Lookups {
    fn next(&mut self) -> Option<usize> {
        if self.next >= self.messages.len() {
            self.next = self.first;
        }
        let next = self.next;
        self.next += self.step;
        Some(next)
    }

    fn write(&self, request: usize, message: &mut Vec<u8>) {
        message.extend_from_slice(&self.messages[request]);
    }

    fn reply(&mut self, _request: usize, body: &[u8]) -> Result<u64, String> {
        match records(body, 1) {
            found if found == self.instances => Ok(1),
            found => Err(format!("a lookup found {found} instances, not {}", self.instances)),
        }
    }
}
