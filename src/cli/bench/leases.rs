//! Instances for the jobs to work on: registered in bulk before, taken away after.

use std::{ops::Range, sync::Arc};

use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};

use super::{
    Error,
    measure::{Crew, Gate, Slice, Tally},
    session::{Session, Target},
    wire::{Field, Fields, Pump, Requests, drive, framed},
};
use crate::proto::{Beat, DeregisterRequest, HeartbeatRequest, Instance, RegisterRequest};

/// Path of the call.
pub(super) const REGISTER: &str = "/onair.v1.Registry/Register";
/// Path of the call.
pub(super) const DEREGISTER: &str = "/onair.v1.Registry/Deregister";
/// Path of the call.
pub(super) const HEARTBEAT: &str = "/onair.v1.Registry/Heartbeat";

/// Registrations in flight while filling: enough for large commits.
const FILL_IN_FLIGHT: usize = 512;
/// Tokens in one call that takes them away: well below any window and any limit.
const TOKENS_A_CALL: usize = 400;

/// What is registered: instance `n` of a job, always the same.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    /// Before the names of its services.
    pub(super) prefix: String,
    /// The namespace.
    pub(super) namespace: String,
    /// Instances in a service.
    pub(super) per_service: usize,
    /// Bytes of metadata, encoded.
    pub(super) metadata_bytes: usize,
    /// Seconds that the leases live.
    pub(super) ttl_seconds: i64,
}

impl Fleet {
    /// Ten instances a service, as a job's fleet is unless it says otherwise.
    pub(super) fn new(session: &Session, job: &str) -> Self {
        Self {
            prefix: format!("{job}-{}", session.run),
            namespace: session.namespace.clone(),
            per_service: 10,
            metadata_bytes: 0,
            ttl_seconds: 60,
        }
    }

    /// The service of an instance.
    pub(super) fn service(&self, instance: usize) -> String {
        format!("{}-{}", self.prefix, instance / self.per_service)
    }

    /// The request that registers an instance.
    pub(super) fn request(&self, instance: usize) -> RegisterRequest {
        let [_, a, b, c] = (instance as u32).to_be_bytes();
        let record = Instance {
            namespace: self.namespace.clone(),
            service: self.service(instance),
            id: format!("i-{instance}"),
            host: format!("10.{a}.{b}.{c}"),
            port: 8080,
            version: "1.4.2".to_owned(),
            zone: "z1".to_owned(),
            metadata: (self.metadata_bytes > 0).then(|| metadata(self.metadata_bytes)),
            ..Instance::default()
        };
        let ttl = prost_types::Duration { seconds: self.ttl_seconds, nanos: 0 };
        RegisterRequest { instance: Some(record), ttl: Some(ttl), ..RegisterRequest::default() }
    }
}

/// A JSON object that is `bytes` long when encoded, or as near as that can be.
fn metadata(bytes: usize) -> Value {
    let of = |filler: usize| {
        let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
        let fields = [("team".to_owned(), text("platform".to_owned())), ("note".to_owned(), text("x".repeat(filler)))];
        Value { kind: Some(Kind::StructValue(Struct { fields: fields.into_iter().collect() })) }
    };
    let empty = of(0).encoded_len();
    let filler = bytes.saturating_sub(empty);
    // Longer texts need longer lengths before them.
    let excess = of(filler).encoded_len().saturating_sub(bytes.max(empty));
    of(filler.saturating_sub(excess))
}

/// Registrations one after the other, and the tokens that come of them.
pub(super) struct Registrations {
    fleet: Arc<Fleet>,
    next: usize,
    end: usize,
    /// The token of each, by its number in the fleet.
    pub(super) tokens: Vec<(usize, String)>,
}

impl Registrations {
    /// Of a part of the fleet.
    pub(super) fn new(fleet: Arc<Fleet>, part: Range<usize>) -> Self {
        Self { fleet, next: part.start, end: part.end, tokens: Vec::with_capacity(part.len().min(1 << 20)) }
    }
}

impl Requests for Registrations {
    fn next(&mut self) -> Option<usize> {
        let next = self.next;
        self.next += 1;
        (next < self.end).then_some(next)
    }

    fn write(&self, request: usize, message: &mut Vec<u8>) {
        message.extend_from_slice(&framed(&self.fleet.request(request)));
    }

    fn reply(&mut self, request: usize, body: &[u8]) -> Result<u64, String> {
        let token = lease_token(body).ok_or_else(|| "a registration without a lease token".to_owned())?;
        self.tokens.push((request, token));
        Ok(1)
    }
}

/// The token in a `RegisterResponse`.
fn lease_token(reply: &[u8]) -> Option<String> {
    Fields(reply).find_map(|field| match field {
        Field::Bytes(2, lease) => Fields(lease).find_map(|field| match field {
            Field::Bytes(1, token) => String::from_utf8(token.to_vec()).ok(),
            _ => None,
        }),
        _ => None,
    })
}

/// Prepared requests whose replies only count: each has a number of units.
pub(super) struct Batches {
    messages: Arc<Vec<Vec<u8>>>,
    next: usize,
    units: fn(&[u8]) -> Result<u64, String>,
}

impl Requests for Batches {
    fn next(&mut self) -> Option<usize> {
        let next = self.next;
        self.next += 1;
        (next < self.messages.len()).then_some(next)
    }

    fn write(&self, request: usize, message: &mut Vec<u8>) {
        message.extend_from_slice(&self.messages[request]);
    }

    fn reply(&mut self, _request: usize, body: &[u8]) -> Result<u64, String> {
        (self.units)(body)
    }
}

/// Registers a part of a fleet as fast as the server lets; answers the tokens in the fleet's order.
pub(super) async fn register(session: &Session, fleet: &Fleet, part: Range<usize>) -> Result<Vec<String>, Error> {
    let requests = Registrations::new(Arc::new(fleet.clone()), part.clone());
    let total = part.len() as u64;
    let done = finite(session, "registering", REGISTER, total, FILL_IN_FLIGHT, requests).await?;
    let mut tokens = done.tokens;
    tokens.sort_unstable_by_key(|(instance, _)| *instance);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// Takes leases away.
pub(super) async fn deregister(session: &Session, tokens: &[String]) -> Result<(), Error> {
    let message = |tokens: &[String]| {
        framed(&DeregisterRequest { lease_tokens: tokens.to_vec(), ..DeregisterRequest::default() })
    };
    let messages = Arc::new(tokens.chunks(TOKENS_A_CALL).map(message).collect());
    let requests = Batches { messages, next: 0, units: |reply| Ok(removed(reply)) };
    finite(session, "deregistering", DEREGISTER, tokens.len() as u64, 4, requests).await.map(drop)
}

/// How many instances a `DeregisterResponse` says were removed.
pub(super) fn removed(reply: &[u8]) -> u64 {
    Fields(reply)
        .find_map(|field| if let Field::Number(1, removed) = field { Some(removed) } else { None })
        .unwrap_or(0)
}

/// Renews leases once, many a message.
pub(super) async fn beat(session: &Session, tokens: &[String]) -> Result<(), Error> {
    let messages = tokens.chunks(TOKENS_A_CALL.min(session.beats_max())).map(beats).collect();
    let requests = Batches { messages: Arc::new(messages), next: 0, units: all_renewed };
    finite(session, "beating", HEARTBEAT, tokens.len() as u64, 16, requests).await.map(drop)
}

/// A message that renews leases.
pub(super) fn beats(tokens: &[String]) -> Vec<u8> {
    let beat = |token: &String| Beat { lease_token: token.clone(), ..Beat::default() };
    framed(&HeartbeatRequest { beats: tokens.iter().map(beat).collect(), ..Default::default() })
}

/// How many leases a reply renewed; any that it did not is wrong.
pub(super) fn all_renewed(reply: &[u8]) -> Result<u64, String> {
    match super::wire::renewed(reply) {
        (0, 0) => Err("a heartbeat was answered without a result".to_owned()),
        (renewed, 0) => Ok(renewed),
        (_, other) => Err(format!("{other} beats of a message were not RENEWED")),
    }
}

/// Makes all of `requests` on one connection, however long it takes; anything that goes wrong is an error.
async fn finite<R: Requests + 'static>(
    session: &Session,
    what: &str,
    path: &'static str,
    total: u64,
    in_flight: usize,
    requests: R,
) -> Result<R, Error> {
    let counter = session.progress.counter.clone();
    let part = move |(target, requests): (Arc<Target>, R), gate: Gate| async move {
        let (mut socket, mut wire) = target.connect(path).await?;
        let mut pump = Pump::new(requests, in_flight, None, Slice::always(), Tally::new(gate.counter.clone()));
        drive(&mut socket, &mut wire, &mut pump).await?;
        Ok((pump.requests, pump.tally))
    };
    let work = async { Crew::start(1, vec![(session.target.clone(), requests)], counter, part).await?.join().await };
    let done = session.progress.during(what, Some(total), work).await?;
    let Some((requests, tally)) = done.into_iter().next() else { return Err(Error::Stopped) };
    if tally.failed > 0 {
        let reason = session.explain(path, &tally.failed_message).await;
        return Err(Error::Protocol(format!("{what}: {} calls failed: {reason}", tally.failed)));
    }
    if tally.wrong > 0 {
        return Err(Error::Protocol(format!("{what}: {} wrong replies: {}", tally.wrong, tally.wrong_example)));
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_has_the_size_asked_for() {
        for bytes in [40, 100, 149, 150, 151, 200, 1_000] {
            assert!(metadata(bytes).encoded_len().abs_diff(bytes) <= 3, "{bytes}: {}", metadata(bytes).encoded_len());
        }
    }
}
