//! What calls cost the server beside the floor of its transport in the same run, and how many messages a change makes:
//! ratios and counts, never times. Each bound lies where something that costs twice as much does not pass.

use serde_json::Value;

use crate::{
    bench::bench_for,
    harness::{Server, alone},
    metrics::Scrape,
};

/// Server CPU of the floor as a share of the job's. Other work on the machine changes it little, and a build that is not
/// for speed makes our part larger: these are below what docs/benchmarks shows.
async fn shares(server: &Server, job: &str) -> Vec<f64> {
    let figures = bench_for(server, job, ["3", "10"]).await;
    figures.iter().map(|figures: &Value| figures["against"]["cpu_ratio"].as_f64().unwrap()).collect()
}

#[tokio::test]
async fn calls_cost_little_beside_the_floor() {
    let _turn = alone().await;
    let server = Server::ephemeral(&["--bench-floor", "--breaker", "off"]).await;
    for (job, least) in [
        ("heartbeat --leases 1000", &[0.45][..]),
        ("lookup --services 100", &[0.5]),
        // A message costs nearly nothing, so that the floor is a smaller share; of a hundred leases hardly any.
        ("stream --leases 1000", &[0.2, 0.025]),
    ] {
        let enough =
            |shares: &[f64]| shares.len() == least.len() && shares.iter().zip(least).all(|(got, least)| got >= least);
        let first = shares(&server, job).await;
        if !enough(&first) {
            // What the machine does besides is not there twice.
            let again = shares(&server, job).await;
            assert!(enough(&again), "{job}: the floor is {first:?}, then {again:?} of its CPU, not {least:?}");
        }
    }
}

/// Each watcher is given one message for each change: also when many share a stream, and then those as one.
#[tokio::test]
async fn a_change_is_one_message_a_stream() {
    let _turn = alone().await;
    let server = Server::ephemeral(&["--breaker", "off"]).await;
    for (kind, streams) in [("", 100.0), ("--multiplexed", 5.0)] {
        let before = Scrape::of(server.address()).await;
        let job = format!("fanout --watchers 100 --connections 5 --rate 100 {kind}");
        let [figures] = &bench_for(&server, &job, ["1", "1"]).await[..] else { panic!() };
        assert!(figures.get("faults").is_none(), "{figures}");
        let changes = figures["count"].as_f64().unwrap() / 100.0;
        let after = Scrape::of(server.address()).await;
        let messages = after.get("onair_watch_messages_total") - before.get("onair_watch_messages_total");
        // A snapshot comes besides for each watcher, and a bookmark at times.
        let most = changes * streams + 2.0 * 100.0;
        assert!(
            changes >= 10.0 && messages >= changes * streams && messages <= most,
            "{kind}: {messages} messages of {changes} changes to {streams} streams"
        );
    }
}
