//! What is around every burst: a fresh server, those who beat beside it, and what is noted while it lasts.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use hyper::Method;
use tokio::{net::TcpStream, time::sleep};

use super::{
    Sizes,
    beside::{Beside, Kind, Sample},
    fleet::{self, Client},
    model::{Burst, Latency, Name, Point},
    wire::Refusal,
};
use crate::{
    Result, http,
    onair::launch,
    server::{Cores, Home, Server},
};

/// How long nothing happens before a burst, to compare with.
const CALM: Duration = Duration::from_secs(3);
/// How long is looked on afterwards.
const AFTER: Duration = Duration::from_secs(5);
/// A time in which all has to be as before.
const QUIET: Duration = Duration::from_millis(250);
/// Points of the curve that is kept.
const POINTS: f64 = 240.0;
/// Faults that are told one by one.
const TOLD: usize = 8;
/// Counters of the server that explain what happened.
const COUNTERS: [&str; 10] = [
    "onair_lease_clock_late_rounds_total",
    "onair_lease_clock_lag_seconds_total",
    "onair_watch_resets_total",
    "onair_watch_snapshots_total",
    "onair_watch_messages_total",
    "onair_limit_refusals_total",
    "onair_lapses_total",
    "onair_connections_refused_total",
    "onair_calls_total{front=\"grpc\",rpc=\"Lookup\"",
    "onair_calls_total{front=\"grpc\",rpc=\"Register\"",
];

/// A server with a burst to come.
pub struct Stage {
    /// The server.
    pub server: Server,
    /// How large bursts are.
    pub sizes: Sizes,
    /// Where the server is.
    pub address: String,
    /// For what has to be there before.
    pub client: Client,
    beside: Cell<Option<Beside>>,
    refused: RefCell<BTreeMap<String, u64>>,
    faults: RefCell<Vec<String>>,
    faults_all: Cell<usize>,
    notes: RefCell<BTreeMap<String, f64>>,
    begun: Cell<Option<Mark>>,
    ended: Cell<Option<Mark>>,
}

/// How things stood at a moment.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    memory: u64,
    cpu: Duration,
    own: Duration,
}

impl Stage {
    /// Starts the server and those who beat beside the burst.
    pub async fn open(sizes: &Sizes, cores: Cores) -> Result<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_onair"));
        let mut server = Server::start(program, launch, cores)?;
        server.until_right(async |home: &Home| TcpStream::connect(home.address()).await).await?;
        let address = server.home.address();
        let (client, beside) = (fleet::connect(&address).await?, Beside::start(&address).await?);
        let (sizes, faults_all) = (sizes.clone(), Cell::new(0));
        let (refused, faults, notes) = (RefCell::default(), RefCell::default(), RefCell::default());
        let (begun, ended, beside) = (Cell::new(None), Cell::new(None), Cell::new(Some(beside)));
        Ok(Self { server, sizes, address, client, beside, refused, faults, faults_all, notes, begun, ended })
    }

    fn mark(&self) -> Mark {
        let (process, own) = (self.server.process(), crate::machine::Process::own());
        Mark { at: Instant::now(), memory: process.memory(), cpu: process.cpu(), own: own.cpu() }
    }

    /// Nothing happens for a while.
    pub async fn calm(&self) {
        sleep(CALM).await;
    }

    /// The burst begins.
    pub fn begin(&self) {
        self.begun.set(Some(self.mark()));
    }

    /// Nothing is asked for any more, and everything that was is answered.
    pub fn over(&self) {
        self.ended.set(Some(self.mark()));
    }

    /// A call of the burst was refused. Anything but a limit that names itself is a fault.
    pub fn refused(&self, refusal: &Refusal) {
        *self.refused.borrow_mut().entry(refusal.reason.clone()).or_default() += 1;
        if !refusal.proper {
            self.fault(format!("refused as no limit refuses: {}", refusal.reason));
        }
    }

    /// Something happened that must not.
    pub fn fault(&self, what: impl Into<String>) {
        self.faults_all.set(self.faults_all.get() + 1);
        let (mut faults, what) = (self.faults.borrow_mut(), what.into());
        if faults.len() < TOLD && !faults.contains(&what) {
            faults.push(what);
        }
    }

    /// A figure of the burst's own.
    pub fn note(&self, name: &str, value: f64) {
        self.notes.borrow_mut().insert(name.to_owned(), value);
    }

    /// What came of it.
    pub async fn close(&self, name: Name) -> Result<Burst> {
        sleep(AFTER).await;
        let (process, after) = (self.server.process(), self.mark());
        self.count().await?;
        let seen = match self.beside.take() {
            Some(beside) => beside.stop().await?,
            None => return Err("a burst ended twice".into()),
        };
        let (begun, ended) = (self.begun.get().unwrap_or(after), self.ended.get().unwrap_or(after));
        let seconds = (ended.at - begun.at).as_secs_f64();
        let mut refused = self.refused.take();
        let mut faults = self.faults.take();
        if self.faults_all.get() > faults.len() {
            faults.push(format!("{} faults in all", self.faults_all.get()));
        }
        faults.extend(seen.faults);
        for (reason, count) in seen.refused {
            faults.push(format!("beside the burst: {count} × {reason}"));
            *refused.entry(format!("beside: {reason}")).or_default() += count;
        }
        let within = |from: Instant, to: Instant, kinds: &[Kind]| -> Vec<Sample> {
            let of = |sample: &&Sample| kinds.contains(&sample.kind) && sample.at >= from && sample.at < to;
            seen.samples.iter().filter(of).copied().collect()
        };
        let calm = begun.at.checked_sub(CALM).unwrap_or(begun.at);
        let end = recovered(&seen.samples, calm, begun.at, ended.at);
        let until = end.unwrap_or(after.at);
        let count = self.notes.borrow_mut().remove("count").unwrap_or(0.0);
        Ok(Burst {
            name,
            count: count as u64,
            seconds,
            recovery: end.map(|end| (end - ended.at).as_secs_f64()),
            beats_before: Latency::of(&within(calm, begun.at, &Kind::BEATS)),
            beats: Latency::of(&within(begun.at, until.max(ended.at), &Kind::BEATS)),
            probes_before: Latency::of(&within(calm, begun.at, &Kind::PROBES)),
            probes: Latency::of(&within(begun.at, until.max(ended.at), &Kind::PROBES)),
            late: seen.late,
            memory: [begun.memory, process.peak(), after.memory],
            server_share: (ended.cpu - begun.cpu).as_secs_f64() / seconds.max(1e-3),
            load_share: (ended.own - begun.own).as_secs_f64() / seconds.max(1e-3),
            refused,
            notes: self.notes.take(),
            curve: curve(&seen.samples, calm, begun.at, after.at),
            faults,
        })
    }

    /// Notes what the server counted.
    async fn count(&self) -> Result<()> {
        let mut connection = http::Connection::open(&self.address).await?;
        let answer = connection.ask(Method::GET, "/metrics", Vec::new()).await?;
        for line in String::from_utf8_lossy(&answer.body).lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let is_wanted = COUNTERS.iter().any(|wanted| name.starts_with(wanted));
            if let Some(value) = value.parse::<f64>().ok().filter(|value| is_wanted && *value > 0.0) {
                self.note(name, value);
            }
        }
        Ok(())
    }
}

/// When everything took no longer than before for a while; the first moment after `over` from which that was so.
fn recovered(samples: &[Sample], calm: Instant, begun: Instant, over: Instant) -> Option<Instant> {
    let before: Vec<_> = samples.iter().filter(|sample| sample.at >= calm && sample.at < begun).copied().collect();
    let usual = Latency::of(&before).p99.max(3_000.0) * 3.0;
    let last = samples.iter().map(|sample| sample.at).max()?;
    let mut from = over;
    while from + QUIET < last {
        let slow = samples.iter().filter(|sample| {
            let end = sample.at + Duration::from_secs_f64(sample.micros / 1e6);
            sample.micros > usual && end >= from && sample.at < from + QUIET
        });
        match slow.map(|sample| sample.at + Duration::from_secs_f64(sample.micros / 1e6)).max() {
            None => return Some(from),
            Some(end) => from = end + Duration::from_millis(1),
        }
    }
    None
}

/// How long beats took as time went by, in seconds since the burst began.
fn curve(samples: &[Sample], from: Instant, zero: Instant, to: Instant) -> Vec<Point> {
    let step = ((to - from).as_secs_f64() / POINTS).max(0.05);
    let mut buckets: BTreeMap<u64, Vec<Sample>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| Kind::BEATS.contains(&sample.kind) && sample.at >= from) {
        buckets.entry(((sample.at - from).as_secs_f64() / step) as u64).or_default().push(*sample);
    }
    let offset = (zero - from).as_secs_f64();
    let point = |(bucket, samples): (u64, Vec<Sample>)| {
        let latency = Latency::of(&samples);
        Point { at: bucket as f64 * step - offset, p50: latency.p50, max: latency.max }
    };
    buckets.into_iter().map(point).collect()
}
