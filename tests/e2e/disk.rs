//! The disk under the registry: full under load and with room again. Needs the right to mount a small file system.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use onair::registry::Cause;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{MissedTickBehavior, interval},
};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{NotServing, Serving},
    health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::{
    harness::{
        Follower, Keeper, Server, alone, bulk, everything, lookup, onair, register, register_with, said, within,
    },
    history::{Recorder, Settings},
    load::{Load, there},
};

/// Mounts a small file system on its first argument, for itself alone, and stays until its input ends.
const HOLD: &str = "mount -t tmpfs -o size=16m tmpfs \"$0\" && echo mounted && exec cat";

/// A small disk that outlives the servers on it, in a world of mounts of its own.
struct Disk {
    holder: Child,
    dir: TempDir,
}

impl Disk {
    /// One, if that is permitted here.
    async fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", HOLD]).arg(dir.path()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = command.spawn().ok()?;
        let mut said = BufReader::new(holder.stdout.take()?).lines();
        let mounted = within("a mount", said.next_line()).await.ok()?;
        if mounted.is_none() {
            println!("SKIPPED: no small disk can be mounted here (unshare -m)");
        }
        mounted.map(|_| Self { holder, dir })
    }

    /// A server on it.
    async fn serve(&self, flags: &[&str]) -> Server {
        let world = format!("--mount=/proc/{}/ns/mnt", self.holder.id().unwrap());
        let data = self.dir.path().join("data").display().to_string();
        Server::start_under(&["nsenter", &world, "--"], &[&["--data-dir", &data], flags].concat()).await
    }

    /// Takes all the room.
    fn fill(&self) -> Filler {
        // The disk as those on it see it.
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id().unwrap()));
        let path = root.join(self.dir.path().strip_prefix("/").unwrap()).join("filler");
        let mut filler = Filler { file: File::create(&path).unwrap(), path };
        filler.top_up();
        filler
    }
}

/// What takes all the room on a disk.
struct Filler {
    path: PathBuf,
    file: File,
}

impl Filler {
    /// Takes what has become free: a store that is opened again cuts off what it could not complete.
    fn top_up(&mut self) {
        for size in [1 << 20, 1 << 12, 1] {
            while self.file.write(&vec![b'x'; size]).is_ok_and(|written| written > 0) {}
        }
    }

    fn make_room(self) {
        fs::remove_file(self.path).unwrap();
    }
}

fn is_of_the_store(status: &Status) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    assert!(info.metadata.contains_key("outcome_unknown"), "{info:?}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
}

#[tokio::test]
async fn a_full_disk_loses_nothing_expires_nobody_and_heals_by_itself() {
    let Some(disk) = Disk::mount().await else { return };
    let _alone = alone().await;
    let server = disk.serve(&["--restart-grace", "3s"]).await;
    let recorder = Recorder::new(Settings { resets: false, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let fleet = (0..20).map(|number| register("fleet", &format!("i{number}"), 2.0)).collect();
    let mut keeper = Keeper::start(&server, &recorder, fleet).await;
    let mut load = Load::new(7);
    for round in 0..2 {
        let mortal = client.register(register("mortal", &format!("of-round-{round}"), 1.0)).await.unwrap();
        let running = load.run(&server, &recorder, 20, 100).await;
        let mut filler = disk.fill();
        let (changes, statuses) = load.failed(running).await;
        println!("{changes} changes until the disk was full");
        statuses.iter().for_each(is_of_the_store);

        // There is no room for longer than the kept leases' TTL, and everything but writing goes on.
        let (full, mut refused, mut told) = (Instant::now(), 0, false);
        let mut changes = health_of_changes(&server).await;
        while full.elapsed() < Duration::from_secs(3) {
            filler.top_up();
            keeper.beats().await;
            // More than a store that was just opened again may find in what it cut off.
            let large = register_with("probe", "full", 60.0, |instance| instance.metadata = bulk(12_000));
            if let Err(status) = client.register(large).await {
                is_of_the_store(&status);
                refused += 1;
                told |= away_is_told(&server).await;
            }
        }
        println!("{refused} registrations refused while it was full");
        assert!(refused > 0 && told);
        assert_eq!(client.lookup(lookup("fleet")).await.unwrap().instances.len(), 20);
        let mut watch = client.watch(everything()).await.unwrap();
        assert!(within("a snapshot", watch.next()).await.unwrap().unwrap().snapshot_end);

        filler.make_room();
        let healed = healed(&client).await;
        println!("written again {healed:?} after there was room");
        assert_eq!(server.info().await.store_unavailable, "");
        for wanted in [NotServing, Serving] {
            while within("health of changes", changes.message()).await.unwrap().unwrap().status() != wanted {}
        }
        assert!(healed < Duration::from_secs(10));
        let (revision, there) = there(&client).await;
        load.settle(&there);
        load.repeat(&client).await;
        follower.reach(revision).await;
        // Who fell silent meanwhile goes in his turn, and once.
        let is_mortal = |event: &onair::proto::Event| event.instance.as_ref().unwrap().service == "mortal";
        if !follower.gone().iter().any(|event| event.instance == mortal.instance) {
            follower.event("OFFLINE of the silent one", is_mortal).await;
        }
    }
    keeper.beats().await;
    keeper.stop().await;
    let expired: Vec<_> = follower.gone().iter().filter(|event| event.cause() == Cause::Expired).collect();
    let services: Vec<_> = expired.iter().map(|event| event.instance.as_ref().unwrap().service.as_str()).collect();
    assert_eq!(services, ["mortal", "mortal"], "nobody else lapsed, and none of them twice");
    assert_eq!(follower.resets(), []);
    recorder.assert_clean();
}

/// Follows whether changes can be made.
async fn health_of_changes(server: &Server) -> Streaming<HealthCheckResponse> {
    let service = "onair.v1.Registry.changes".to_owned();
    let watch = HealthClient::new(server.channel().await).watch(HealthCheckRequest { service }).await;
    watch.unwrap().into_inner()
}

/// A change was just refused: information, health and the doctor say so, unless the store was opened again meanwhile.
async fn away_is_told(server: &Server) -> bool {
    if server.info().await.store_unavailable.is_empty() {
        return false;
    }
    let (code, doctor, _) = said(&onair(&["doctor", "--url", &server.url(), "--output", "json"]).await);
    let checks: serde_json::Value = serde_json::from_str(&doctor).unwrap();
    let store = checks["checks"].as_array().unwrap().iter().find(|check| check["name"] == "store").unwrap();
    code == 1 && store["level"] == "fail"
}

/// How long it takes until something can be written.
async fn healed(client: &crate::history::Client) -> Duration {
    let since = Instant::now();
    let mut again = interval(Duration::from_millis(50));
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        match client.register(register("probe", "healed", 60.0)).await {
            Ok(_) => return since.elapsed(),
            Err(status) => is_of_the_store(&status),
        }
        assert!(since.elapsed() < Duration::from_secs(60), "it does not heal");
    }
}

#[tokio::test]
async fn kill_9_on_a_full_disk_loses_nothing_either() {
    let Some(disk) = Disk::mount().await else { return };
    let _alone = alone().await;
    let mut server = disk.serve(&[]).await;
    let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let mut load = Load::new(11);
    for _ in 0..3 {
        let running = load.run(&server, &recorder, 20, 100).await;
        let filler = disk.fill();
        load.failed(running).await.1.iter().for_each(is_of_the_store);
        server.kill().await;
        // It may need room to start: then it says so, and nothing is emptied.
        match server.try_again().await {
            Ok(()) => server.kill().await,
            Err(why) => assert!(why.starts_with("onair: ") && why.contains("No space left"), "{why}"),
        }
        filler.make_room();
        server.again().await;
        let client = server.client(&recorder).await;
        let (revision, there) = there(&client).await;
        follower.reach(revision).await;
        load.settle(&there);
        load.repeat(&client).await;
    }
    assert_eq!(follower.resets(), []);
    recorder.assert_clean();
}
