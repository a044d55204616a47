//! What the durable engine costs. `cargo bench --bench engine -- DIR` measures commits, and with numbers of instances
//! after DIR the time until a restart has read so many back. DIR is made, must be on the disk to be measured, and is left
//! there, so that a store that was filled once is only read the next time.
//! The figures are in `docs/decisions/0002-engine.md`.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use onair::{
    engine::{
        Engine, Proposal, Step, Ticket,
        local::{LocalEngine, Options},
    },
    registry::{Change, Guarded, Instance, Lease, Put, SecretHash, Stamp, Status},
};
use prost::Message;
use uuid::Uuid;

/// Commits measured for each depth.
const COMMITS: u64 = 20_000;
/// Instances proposed before an answer is awaited, when a store is filled.
const FILL_DEPTH: u64 = 5_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some((dir, sizes)) = arguments.split_first() else {
        eprintln!("usage: cargo bench --bench engine -- DIR [INSTANCES…]");
        return;
    };
    if sizes.is_empty() {
        for depth in [1, 64, 1_000] {
            commits(&Path::new(dir).join(format!("commit-{depth}")), depth).await;
        }
    }
    for size in sizes.iter().filter_map(|size| size.parse().ok()) {
        restart(&Path::new(dir).join(format!("restart-{size}")), size).await;
    }
}

fn options() -> Options {
    Options { max_log_bytes: 64 << 20, epoch: 1, fresh_registry_id: Uuid::nil(), metrics: Arc::default() }
}

/// The registration of instance `number`: 10 a service, 150 bytes of metadata.
fn registration(number: u64, round: u64) -> Proposal {
    let text =
        |length: usize| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("x".repeat(length))) };
    let fields = [("commit", 40), ("owner", 30), ("description", 30)].map(|(name, length)| (name.into(), text(length)));
    let metadata = prost_types::Struct { fields: fields.into_iter().collect() };
    let instance = Instance {
        namespace: "default".into(),
        service: format!("service-{}", number / 10),
        id: format!("10.{}.{}.{}:8080", number >> 16 & 255, number >> 8 & 255, number & 255),
        host: format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255),
        port: 8080,
        version: format!("1.2.{round}"),
        status: Status::Serving.into(),
        protocol: "http".into(),
        metadata: Some(prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(metadata)) }),
        ..Instance::default()
    };
    let put = Put {
        description: Bytes::from(instance.encode_to_vec()),
        lease: Lease {
            ttl: 10_000,
            secret: SecretHash([number as u8; 16]),
            request: number,
            principal: None,
            unfenced: false,
        },
        incarnation: Stamp::Commit,
        ordinal: 0,
        revision: Stamp::Commit,
    };
    let changes = vec![Guarded::of_instance(Change::Put(put), None)];
    Proposal { ticket: Ticket(number), changes, reads: Vec::new() }
}

/// Keeps `depth` proposals in flight and says how long each took.
async fn commits(dir: &Path, depth: u64) {
    let (mut engine, _) = LocalEngine::open(dir, options()).unwrap_or_else(|error| panic!("{error}"));
    let count = if depth == 1 { COMMITS / 4 } else { COMMITS };
    let (mut proposed, mut begun, mut took) = (0, HashMap::new(), Vec::new());
    let start = Instant::now();
    while took.len() < count as usize {
        let batch: Vec<_> = (proposed..count.min(took.len() as u64 + depth)).map(|n| registration(n, 0)).collect();
        proposed += batch.len() as u64;
        let now = Instant::now();
        begun.extend(batch.iter().map(|proposal| (proposal.ticket, now)));
        engine.propose(batch);
        if let Ok(Step::Committed { tickets, .. }) = engine.next().await {
            took.extend(tickets.iter().filter_map(|ticket| Some(begun.remove(ticket)?.elapsed())));
        }
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| milliseconds(took[(took.len() - 1) * percent / 100]);
    println!("{depth:>5} in flight: p50 {}  p99 {}  max {}  {rate:.0}/s", at(50), at(99), at(100));
    engine.close().await;
}

/// Fills a store, closes it, and opens it again.
async fn restart(dir: &Path, size: u64) {
    let (mut engine, recovered) = LocalEngine::open(dir, options()).unwrap_or_else(|error| panic!("{error}"));
    let present = recovered.records.len() as u64;
    drop(recovered);
    let (start, mut committed) = (Instant::now(), present);
    // A second round leaves tables that overlap, as life does.
    let rounds = if present == 0 { size + size / 5 } else { present };
    let mut proposed = present;
    while committed < rounds {
        let upto = rounds.min(committed + FILL_DEPTH);
        engine.propose(
            (proposed..upto).map(|n| registration(if n < size { n } else { (n - size) * 5 }, n / size)).collect(),
        );
        proposed = upto;
        if let Ok(Step::Committed { tickets, .. }) = engine.next().await {
            committed += tickets.len() as u64;
        }
    }
    println!("{size} instances: filled in {}", milliseconds(start.elapsed()));
    engine.close().await;
    for _ in 0..3 {
        let start = Instant::now();
        let (engine, recovered) = LocalEngine::open(dir, options()).unwrap_or_else(|error| panic!("{error}"));
        let took = start.elapsed();
        let events: usize = recovered.tail.iter().map(|entry| entry.events.len()).sum();
        println!("{:>8} records, {events} events of the log: open in {}", recovered.records.len(), milliseconds(took));
        engine.close().await;
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
