//! What the client for programs in Rust takes, against a real server on loopback. `cargo bench --bench client` is what one
//! pick takes; `cargo bench --bench client -- leases` the CPU of a thousand leases, and how soon another host hears a beat
//! when a server is killed.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use divan::{Bencher, black_box};
use onair::client::{Client, Joined, LeaseEvent, Pick, Registration, Service};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};

fn main() {
    if env::args().any(|argument| argument == "leases") {
        runtime().block_on(leases());
    } else {
        divan::main();
    }
}

/// One thread, which does what it does while somebody waits.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A server that keeps nothing.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onair"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--ephemeral", "--register-itself", "off"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a server");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line).expect("its first line");
        let address = line.split_once(" is listening on ").and_then(|(_, rest)| rest.split(' ').next());
        Self { address: address.expect("an address").trim().to_owned(), process }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn join(client: &Client, count: usize) -> Vec<Joined> {
    let mut joined = Vec::with_capacity(count);
    for at in 0..count {
        let registration = Registration::new("web").host("10.0.0.1").port(8_000).id(&format!("i{at:04}"));
        joined.push(client.join(registration.weight(at as u32 % 3 + 1)).await.expect("registered"));
    }
    joined
}

/// A service of so many instances, and what it needs to live.
struct Scene {
    service: Service,
    _joined: Vec<Joined>,
    _server: Server,
    runtime: Runtime,
}

impl Scene {
    fn of(count: usize) -> Self {
        let (runtime, server) = (runtime(), Server::start());
        let (service, joined) = runtime.block_on(async {
            let client = Client::connect(&server.address).expect("a connection string");
            let joined = join(&client, count).await;
            let mut service = client.service("web");
            service.known().await.expect("what is there");
            (service, joined)
        });
        Self { service, _joined: joined, _server: server, runtime }
    }
}

const COUNTS: [usize; 3] = [1, 10, 1_000];

fn picks(bencher: Bencher<'_, '_>, count: usize, how: Pick<'_>) {
    let scene = Scene::of(count);
    let _inside = scene.runtime.enter();
    bencher.bench_local(|| black_box(scene.service.pick(black_box(how))));
}

#[divan::bench(args = COUNTS)]
fn random(bencher: Bencher<'_, '_>, count: usize) {
    picks(bencher, count, Pick::Random);
}

#[divan::bench(args = COUNTS)]
fn round_robin(bencher: Bencher<'_, '_>, count: usize) {
    picks(bencher, count, Pick::RoundRobin);
}

#[divan::bench(args = COUNTS)]
fn weighted(bencher: Bencher<'_, '_>, count: usize) {
    picks(bencher, count, Pick::Weighted);
}

#[divan::bench(args = COUNTS)]
fn rendezvous(bencher: Bencher<'_, '_>, count: usize) {
    picks(bencher, count, Pick::Rendezvous("user 17"));
}

/// Of this process, all threads together.
fn cpu() -> f64 {
    let stat = procfs::process::Process::myself().and_then(|process| process.stat()).expect("/proc");
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

async fn leases() {
    for ttl in ["10s", "1s"] {
        let server = Server::start();
        let client = Client::connect(&format!("{}?ttl={ttl}", server.address)).expect("a connection string");
        let joined = join(&client, 1_000).await;
        let (before, began) = (cpu(), Instant::now());
        tokio::time::sleep(Duration::from_secs(30)).await;
        let share = (cpu() - before) / began.elapsed().as_secs_f64();
        let kept = joined.iter().filter(|joined| !joined.has_ended()).count();
        println!("{kept} leases of {ttl}: {:.2} % of a core", share * 100.0);
    }
    for ttl in ["10s", "1s"] {
        for _ in 0..5 {
            fail_over(ttl).await;
        }
    }
}

/// A lease is beaten for at the next host when its beat is due, so the longer it lives the later the first is.
async fn fail_over(ttl: &str) {
    let (mut first, second) = (Server::start(), Server::start());
    let client = Client::connect(&format!("{},{}?ttl={ttl}", first.address, second.address));
    let joined = join(&client.expect("a connection string"), 1_000).await;
    let (to, mut told) = mpsc::unbounded_channel();
    for mut joined in joined {
        let to = to.clone();
        tokio::spawn(async move {
            // The other server has none of them: it says so to the first beat of each.
            while let Some(event) = joined.event().await {
                if matches!(event, LeaseEvent::Registered { .. }) {
                    // Who counts may have enough.
                    let _ = to.send(Instant::now());
                }
            }
        });
    }
    // They beat at different times by then.
    tokio::time::sleep(Duration::from_secs(4)).await;
    first.process.kill().expect("a signal");
    let killed = Instant::now();
    let heard = told.recv().await.expect("a beat");
    let mut all = heard;
    for _ in 1..1_000 {
        all = told.recv().await.expect("a beat");
    }
    println!(
        "killed; leases of {ttl} at the next host: the first after {:?}, all after {:?}",
        heard - killed,
        all - killed
    );
}
