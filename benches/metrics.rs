//! What counting costs on the hot path: `cargo bench --bench metrics`. A call may pay 100 ns for it.

use std::{sync::Arc, time::Instant};

use divan::{Bencher, black_box};
use onair::metrics::{BeatState, Format, Front, Metrics, Rpc};
use tonic::Code;

fn main() {
    divan::main();
}

/// Everything that is done for one unary call: `grpc/measured.rs`.
#[divan::bench]
fn a_call(bencher: Bencher<'_, '_>) {
    let metrics = Arc::<Metrics>::default();
    let extensions = http::Extensions::new();
    bencher.bench_local(|| {
        let metrics = Arc::clone(&metrics);
        let begun = Instant::now();
        let front = extensions.get().copied().unwrap_or(Front::Grpc);
        let rpc = Rpc::of_path(black_box("/onair.v1.Registry/Heartbeat"));
        metrics.call_duration.of((front, rpc)).observe(begun.elapsed());
        metrics.calls.of((front, rpc, Code::Ok)).inc();
    });
}

/// The clock alone, which is most of it.
#[divan::bench]
fn two_looks_at_the_clock() -> std::time::Duration {
    black_box(Instant::now()).elapsed()
}

/// What a message of beats adds to that, however many beats it has; and a message of a watch the same.
#[divan::bench]
fn an_addition(bencher: Bencher<'_, '_>) {
    let metrics = Metrics::default();
    bencher.bench_local(|| metrics.beats.of((black_box(BeatState::Renewed),)).add(100));
}

/// All of it as text, after something of everything happened.
#[divan::bench]
fn a_scrape(bencher: Bencher<'_, '_>) {
    let metrics = Arc::<Metrics>::default();
    for (front, rpc) in Front::ALL.iter().flat_map(|front| Rpc::ALL.iter().map(move |rpc| (*front, *rpc))) {
        metrics.calls.of((front, rpc, Code::Ok)).inc();
        metrics.call_duration.of((front, rpc)).observe(std::time::Duration::from_millis(1));
    }
    bencher.bench_local(|| metrics.text(Format::OpenMetrics).len());
}
