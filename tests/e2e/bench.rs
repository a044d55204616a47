//! `onair bench` against a real server: each job does its work, finds no fault, and takes away what it registered.

use serde_json::Value;

use crate::{
    access::Guarded,
    harness::{Authority, Server, alone, onair, said, write},
    tls::authorities,
};

/// Runs one job and answers its measurements.
async fn bench(server: &Server, job: &str) -> Vec<Value> {
    bench_for(server, job, ["0.3", "3"]).await
}

/// The same for so many seconds, in so many pairs with what it is compared with.
pub async fn bench_for(server: &Server, job: &str, [seconds, pairs]: [&str; 2]) -> Vec<Value> {
    let job = format!("{job} --url {} --seconds {seconds} --pairs {pairs}", server.url());
    found(server, &job).await
}

async fn found(server: &Server, job: &str) -> Vec<Value> {
    let pid = server.pid().to_string();
    let mut args = vec!["bench"];
    args.extend(job.split_whitespace());
    args.extend(["--output", "json", "--server-pid", &pid]);
    let (code, out, err) = said(&onair(&args).await);
    assert_eq!(code, 0, "{job}: {out}{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    report["jobs"].as_array().unwrap().clone()
}

fn extra(job: &Value, name: &str) -> f64 {
    let extras = job["extra"].as_array().unwrap();
    extras.iter().find(|extra| extra["name"] == name).unwrap()["value"].as_f64().unwrap()
}

#[tokio::test]
async fn bench_jobs_find_no_fault_and_leave_nothing() {
    let _turn = alone().await;
    let server = Server::ephemeral(&["--bench-floor", "--breaker", "off"]).await;
    for (job, measurements, compared) in [
        ("floor", 1, false),
        ("heartbeat --leases 50", 1, true),
        ("heartbeat --leases 50 --rate 200", 1, false),
        ("stream --leases 500", 2, true),
        ("lookup --services 20", 1, true),
        ("lookup --services 20 --http", 1, true),
        ("register --count 500", 2, false),
        ("fanout --watchers 60 --connections 3", 1, false),
        ("fanout --watchers 60 --connections 3 --multiplexed --rate 50", 1, false),
        ("fanout --watchers 60 --http", 1, false),
        ("expire --leases 300 --kept 30 --rate 200 --ttl 2", 1, false),
    ] {
        let found = bench(&server, job).await;
        assert_eq!(found.len(), measurements, "{job}");
        for figures in found {
            assert!(figures["count"].as_u64().unwrap() > 0 && figures.get("faults").is_none(), "{job}: {figures}");
            assert!(figures["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{job}: {figures}");
            assert_eq!(figures.get("against").is_some(), compared, "{job}: {figures}");
        }
        let left = server.info().await.counts.unwrap().instances;
        assert_eq!(left, 0, "{job} left instances behind");
    }
}

#[tokio::test]
async fn bench_goes_by_tls_and_says_who_it_is() {
    let _turn = alone().await;
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let (certificate, key) = write(dir.path(), "server", &ca.server(&["localhost"], 30));
    let (client, client_key) = write(dir.path(), "client", &ca.client("spiffe://example.org/bench", 30));
    let believed = authorities(dir.path(), &ca);
    let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-client-ca", &believed, "--bench-floor"];
    let guarded = Guarded::start(&flags).await;
    let (server, token) = (&guarded.server, guarded.server.data_dir().join("operator.token"));
    let shown = format!("--ca {believed} --cert {client} --key {client_key} --token-file {}", token.display());
    let way = format!("--url https://localhost:{} {shown} --seconds 0.3 --pairs 3", server.address().port());
    for (job, compared) in [
        ("heartbeat --leases 50", true),
        ("stream --leases 500", true),
        ("lookup --services 20", true),
        ("lookup --services 20 --http", true),
        ("fanout --watchers 60 --connections 3 --multiplexed", false),
        ("fanout --watchers 60 --http", false),
        ("refused", false),
        ("refused --rate 500", false),
    ] {
        for figures in found(server, &format!("{job} {way}")).await {
            assert!(figures["count"].as_u64().unwrap() > 0 && figures.get("faults").is_none(), "{job}: {figures}");
            assert!(figures["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{job}: {figures}");
            assert_eq!(figures.get("against").is_some(), compared, "{job}: {figures}");
        }
    }
    let open = Server::ephemeral(&[]).await;
    let (code, _, err) = said(&onair(&["bench", "refused", "--url", &open.url()]).await);
    assert!(code == 2 && err.contains("start it with `onair serve --auth`"), "{code} {err}");
}

#[tokio::test]
async fn bench_tells_what_instances_and_watches_take() {
    let server = Server::ephemeral(&[]).await;
    let [figures] = &bench(&server, "fill --count 2000").await[..] else { panic!() };
    assert!(extra(figures, "memory of an instance") > 0.0, "{figures}");
    assert_eq!(server.info().await.counts.unwrap().instances, 2_000);
    for kind in ["--connections 5", "--connections 5 --multiplexed", "--http"] {
        let job = format!("idle-watches --watchers 500 --hold 0 {kind}");
        let [figures] = &bench(&server, &job).await[..] else { panic!() };
        assert_eq!((figures["count"].as_u64(), figures.get("faults")), (Some(500), None), "{figures}");
    }
}

/// `ONAIR_IDLE_STREAMS` says how many, default 1,000.
#[tokio::test]
async fn idle_event_streams_take_little_and_do_nothing() {
    let _turn = alone().await;
    let count = std::env::var("ONAIR_IDLE_STREAMS").map_or(1_000, |text| text.parse().expect("a number"));
    let server = Server::ephemeral(&[]).await;
    let hold = if count > 1_000 { 60 } else { 3 };
    let job = format!("idle-watches --watchers {count} --http --hold {hold}");
    let [figures] = &bench(&server, &job).await[..] else { panic!() };
    assert_eq!((figures["count"].as_u64(), figures.get("faults")), (Some(count), None), "{figures}");
    let (each, busy) = (extra(figures, "memory of a watch"), figures["server_share"].as_f64().unwrap());
    println!("{count} idle streams: {each:.0} B each, {:.2} % of a core for {hold} s", busy * 100.0);
    assert!(each < 64.0 * 1024.0, "{figures}");
}

#[tokio::test]
async fn bench_says_what_it_needs() {
    let server = Server::ephemeral(&[]).await;
    let url = server.url();
    for (args, code, why) in [
        (&["floor"][..], 2, "start it with `onair serve --bench-floor`"),
        (&["expire", "--kept", "1000", "--rate", "1"], 2, "too few to beat 1000 leases"),
        (&["fanout", "--watchers", "5000", "--connections", "1"], 2, "use more --connections"),
        (&["heartbeat", "--server-pid", "4294967295"], 2, "there is no such process"),
    ] {
        let args: Vec<_> = [&["bench"][..], args, &["--url", &url]].concat();
        let (got, _, err) = said(&onair(&args).await);
        assert!(got == code && err.contains(why), "{args:?}: {got} {err}");
    }
}
