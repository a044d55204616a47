//! Load, kept and forsaken leases, watches of several kinds and faults of every kind, for as long as asked: no checker
//! finds a promise broken, and what the server holds does not grow. `ONAIR_SOAK` says how long, default 10s.

use std::{
    fs,
    time::{Duration, Instant},
};

use onair::proto::WatchRequest;

use crate::{
    harness::{Dice, Follower, Keeper, Server, alone, pass, register, selector},
    history::{Recorder, Settings},
    load::{Load, there},
};

/// Faults in one history; then it is judged, and a new one begun.
const FAULTS: u64 = 8;
/// Leases that are kept over all faults, and as many that nobody renews.
const LEASES: usize = 20;
/// Short, so that forsaken leases lapse while the run lasts.
const TTL: f64 = 2.0;
const GRACE: &str = "2s";

/// What befalls the server.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Terminated,
    /// For longer than a TTL, and killed afterwards.
    Frozen,
}

fn duration() -> Duration {
    let text = std::env::var("ONAIR_SOAK").unwrap_or_else(|_| "10s".to_owned());
    onair::config::duration(&text).unwrap_or_else(|why| panic!("ONAIR_SOAK: {why}"))
}

#[tokio::test]
async fn soak_no_promise_breaks_under_load_and_faults() {
    let _alone = alone().await;
    let (whole, seed, start) = (duration(), u64::from(std::process::id()), Instant::now());
    println!("{whole:?} with seed {seed}");
    let mut dice = Dice::new(seed);
    let mut server = Server::start(&["--restart-grace", GRACE, "--breaker", "off"]).await;
    let mut load = Load::new(seed);
    let (mut chapter, mut changes) = (0, 0);
    while chapter == 0 || start.elapsed() < whole {
        changes += one_chapter(&mut server, &mut load, &mut dice, chapter).await;
        chapter += 1;
        println!("{:>6.0?}: chapter {chapter}, {changes} changes, {}", start.elapsed(), footprint(server.pid()));
    }
}

/// Some faults under one history, which is judged at its end. How many changes were acknowledged.
async fn one_chapter(server: &mut Server, load: &mut Load, dice: &mut Dice, chapter: u64) -> usize {
    let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
    let mut everything = Follower::of_everything(server, &recorder).await;
    let filters = ["zone in (z,zz,zzz)", "version=^1,status=*", "!zone"];
    let _filtered = filters.map(|terms| {
        let request = WatchRequest { selectors: vec![selector("load", terms)], ..WatchRequest::default() };
        Follower::start(server, &recorder, request)
    });
    let leases = |service: &str| -> Vec<_> {
        (0..LEASES).map(|number| register(service, &format!("{chapter}-{number}"), TTL)).collect()
    };
    let mut keeper = Keeper::start(server, &recorder, leases("kept")).await;
    let forsaking = server.client(&recorder).await;
    for request in leases("forsaken") {
        forsaking.register(request).await.unwrap();
    }
    let mut changes = 0;
    for _ in 0..FAULTS {
        let running = load.run(server, &recorder, 1, 400).await;
        befall(server, [Fault::Killed, Fault::Terminated, Fault::Frozen][dice.below(3) as usize]).await;
        changes += load.failed(running).await.0;
        server.again().await;
        keeper.beats().await;
        let client = server.client(&recorder).await;
        let (revision, there) = there(&client).await;
        everything.reach(revision).await;
        load.settle(&there);
        load.repeat(&client).await;
    }
    let forsaken = |everything: &Follower| everything.fold().instances().values().any(|one| one.service == "forsaken");
    while forsaken(&everything) {
        everything.message().await;
    }
    keeper.stop().await;
    // Their leases lapse as well, so that each chapter begins with the same.
    while everything.fold().instances().values().any(|one| one.service == "kept") {
        everything.message().await;
    }
    recorder.assert_clean();
    changes
}

async fn befall(server: &mut Server, fault: Fault) {
    match fault {
        Fault::Killed => server.kill().await,
        Fault::Terminated => {
            server.terminate();
            assert!(server.ended().await.success());
        }
        Fault::Frozen => {
            server.signal("STOP");
            pass(Duration::from_secs_f64(TTL * 1.5)).await;
            server.signal("CONT");
            server.kill().await;
        }
    }
}

/// Memory and file descriptors: read by whoever runs it for hours.
fn footprint(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).map_or("?", str::trim);
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    format!("resident {resident}, {files} files")
}
