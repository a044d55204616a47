//! Changes of one instance, told to many watchers: how fast, how late, and that each gets each exactly once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    Error, http,
    leases::{self, Fleet},
    measure::{Crew, Figures, Gate, Histogram, Latency, Slice, busiest},
    session::{Calls, Session, Target},
    watching::{Goal, Layout, Reader, Watching, Way},
    wire::{Field, Fields, drive, event_records},
};
use crate::proto::{RegisterRequest, registry_client::RegistryClient};

/// How long all watchers may take to open, and to get one change.
const PATIENCE: Duration = Duration::from_secs(60);
/// More changes than this are not made: each has a place for its time.
const CHANGES_MAX: usize = 1 << 20;
/// Faults that are told one by one.
const FAULTS_TOLD: usize = 5;

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Watchers of the service that changes.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    watchers: u32,
    /// Changes a second; without it, each change waits until all watchers got the one before.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    #[command(flatten)]
    way: Way,
}

impl Default for Args {
    fn default() -> Self {
        Self { watchers: 1_000, rate: None, way: Way::default() }
    }
}

/// When each change was sent, in nanoseconds since the start.
struct Sent {
    start: Instant,
    times: Vec<AtomicU64>,
}

impl Sent {
    fn new() -> Self {
        Self { start: Instant::now(), times: (0..CHANGES_MAX).map(|_| AtomicU64::new(0)).collect() }
    }

    fn note(&self, change: usize) {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.times[change].store(nanos, Ordering::Relaxed);
    }

    /// How long ago a change was sent.
    fn delay(&self, change: u64, now: Instant) -> Duration {
        let sent = self.times.get(change as usize).map_or(0, |time| time.load(Ordering::Relaxed));
        (now - self.start).saturating_sub(Duration::from_nanos(sent))
    }
}

/// What one connection's watchers heard.
struct Hearing {
    /// The last change that each watcher got; none before its snapshot.
    last: Vec<Option<u64>>,
    opened: Arc<Goal>,
    delivered: Arc<Goal>,
    counter: Arc<AtomicU64>,
    sent: Arc<Sent>,
    /// Deliveries that the goal does not know yet.
    untold: u64,
    delays: Histogram,
    faults: Vec<String>,
    faults_all: u64,
}

impl Hearing {
    fn new(watchers: usize, shared: &Shared, counter: Arc<AtomicU64>) -> Self {
        Self {
            last: vec![None; watchers],
            opened: shared.opened.clone(),
            delivered: shared.delivered.clone(),
            counter,
            sent: shared.sent.clone(),
            untold: 0,
            delays: Histogram::default(),
            faults: Vec::new(),
            faults_all: 0,
        }
    }
}

/// The number of the change in an instance: its version says it.
fn change(instance: &[u8]) -> Option<u64> {
    let version = Fields(instance).find_map(|field| if let Field::Bytes(6, text) = field { Some(text) } else { None });
    std::str::from_utf8(version?).ok()?.parse().ok()
}

impl Reader for Hearing {
    fn event(&mut self, watcher: usize, event: &[u8], now: Instant) {
        let (_, _, instance) = event_records(event);
        self.change(watcher, change(instance), now);
    }

    fn change(&mut self, watcher: usize, change: Option<u64>, now: Instant) {
        let (Some(last), Some(change)) = (self.last.get_mut(watcher), change) else {
            return self.fault(watcher, "got an event that nothing caused");
        };
        match *last {
            None => *last = Some(change),
            Some(before) if change == before + 1 => {
                *last = Some(change);
                self.delays.record(self.sent.delay(change, now));
                self.untold += 1;
            }
            Some(before) => {
                *last = Some(change.max(before));
                self.fault(watcher, &format!("got change {change} after {before}"));
            }
        }
    }

    fn opened(&mut self, watcher: usize) {
        match self.last.get(watcher) {
            Some(Some(_)) => self.opened.add(1),
            _ => self.fault(watcher, "got a snapshot without the instance"),
        }
    }

    fn fault(&mut self, watcher: usize, what: &str) {
        if self.faults.len() < FAULTS_TOLD {
            self.faults.push(format!("a watcher ({watcher} of its connection) {what}"));
        }
        self.faults_all += 1;
    }

    fn turn(&mut self) {
        if self.untold > 0 {
            self.counter.fetch_add(self.untold, Ordering::Relaxed);
            self.delivered.add(self.untold);
            self.untold = 0;
        }
    }
}

/// What the connections and the one who changes share.
#[derive(Clone)]
struct Shared {
    opened: Arc<Goal>,
    delivered: Arc<Goal>,
    sent: Arc<Sent>,
    /// For those that open a connection of their own.
    doors: Arc<Semaphore>,
}

impl Shared {
    fn new() -> Self {
        let (opened, delivered) = (Arc::default(), Arc::default());
        Self { opened, delivered, sent: Arc::new(Sent::new()), doors: http::doors() }
    }
}

/// Measures the fan-out.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let fleet = Fleet { ttl_seconds: 3_600, ..Fleet::new(session, "fanout") };
    let mut changer = Changer::register(session, &fleet).await?;
    let watchers = args.watchers as usize;
    let connections = args.way.connections(session, watchers, watchers.div_ceil(100));
    let layouts = Layout::spread(session, watchers, connections, args.way, vec![fleet.service(0)]);
    let shared = Shared::new();
    let (target, there) = (session.target.clone(), shared.clone());
    let part = move |layout: Layout, gate: Gate| watch(target.clone(), layout, there.clone(), gate);
    let counter = session.progress.counter.clone();
    let crew = Crew::start(session.options.threads, layouts.clone(), counter, part).await?.ready().await?;
    crew.work_in(Slice::always());
    let made = session.progress.during("fanout", None, measure(session, args, &shared, &crew, &mut changer)).await;
    crew.stop();
    let heard = match crew.join().await {
        Ok(heard) => heard,
        Err(error) => return Err(why(session, &layouts, error).await),
    };
    let figures = summary(args, connections, made?, heard);
    leases::deregister(session, &[changer.token]).await?;
    Ok(vec![figures])
}

/// A watch that ended says more when it is opened alone.
async fn why(session: &Session, layouts: &[Layout], error: Error) -> Error {
    match (error, layouts.first()) {
        (Error::Protocol(what), Some(layout)) if !layout.http => {
            let reason = session.explain(layout.path, &layout.message(0)).await;
            Error::Protocol(format!("{what}: {reason}"))
        }
        (error, _) => error,
    }
}

/// One connection's watchers, until the crew is told to stop.
async fn watch(target: Arc<Target>, layout: Layout, shared: Shared, mut gate: Gate) -> Result<Hearing, Error> {
    let mut hearing = Hearing::new(layout.watchers(), &shared, gate.counter.clone());
    if layout.http {
        http::watch(&target, &layout, &shared.doors, &mut gate, &mut hearing).await?;
        return Ok(hearing);
    }
    let (mut socket, mut wire) = target.connect(layout.path).await?;
    let mut watching = Watching::new(layout, hearing);
    gate.wait().await?;
    tokio::select! {
        biased;
        ended = drive(&mut socket, &mut wire, &mut watching) => ended?,
        () = gate.stopped() => {}
    }
    Ok(watching.reader)
}

/// What the side that changes found.
struct Made {
    changes: u64,
    seconds: f64,
    server_cpu: Option<f64>,
    generator: Option<f64>,
    missing: u64,
}

/// Waits until all watch, then makes changes for `--seconds`.
async fn measure(
    session: &Session,
    args: &Args,
    shared: &Shared,
    crew: &Crew<Hearing>,
    changer: &mut Changer,
) -> Result<Made, Error> {
    let watchers = u64::from(args.watchers);
    tokio::select! {
        opened = timeout(PATIENCE, shared.opened.reach(watchers)) => opened.map_err(|_| {
            Error::Protocol(format!("{} of {watchers} watches opened in {} s", shared.opened.count(), PATIENCE.as_secs()))
        })?,
        () = crew.failed() => return Err(Error::Stopped),
    }
    let (server, generator, begin) = (session.server_cpu(), crew.cpu(), Instant::now());
    let end = begin + Duration::from_secs_f64(session.options.seconds);
    let every = args.rate.map(|rate| Duration::from_secs(1) / rate);
    let mut due = begin;
    let mut changes = 0;
    while Instant::now() < end && changes + 1 < CHANGES_MAX as u64 {
        changes += 1;
        shared.sent.note(changes as usize);
        changer.change(changes).await?;
        match every {
            Some(every) => {
                due += every;
                tokio::time::sleep_until(due).await;
            }
            None if arrive(shared, crew, changes * watchers).await? => {}
            None => break,
        }
    }
    arrive(shared, crew, changes * watchers).await?;
    let took = begin.elapsed();
    Ok(Made {
        changes,
        seconds: took.as_secs_f64(),
        server_cpu: server.zip(session.server_cpu()).map(|(before, after)| (after - before).as_secs_f64()),
        generator: busiest(&generator, &crew.cpu(), took),
        missing: (changes * watchers).saturating_sub(shared.delivered.count()),
    })
}

/// Waits until so many deliveries were made; false if they do not come.
async fn arrive(shared: &Shared, crew: &Crew<Hearing>, deliveries: u64) -> Result<bool, Error> {
    tokio::select! {
        biased;
        arrived = timeout(PATIENCE, shared.delivered.reach(deliveries)) => Ok(arrived.is_ok()),
        () = crew.failed() => Err(Error::Stopped),
    }
}

fn summary(args: &Args, connections: usize, made: Made, heard: Vec<Hearing>) -> Figures {
    let (mut delays, mut faults, mut faults_all) = (Histogram::default(), Vec::new(), 0);
    for hearing in heard {
        delays.merge(&hearing.delays);
        faults.extend(hearing.faults);
        faults_all += hearing.faults_all;
    }
    faults.truncate(FAULTS_TOLD);
    if faults_all > faults.len() as u64 {
        faults.push(format!("{faults_all} such faults in all"));
    }
    if made.missing > 0 {
        faults.push(format!("{} deliveries are missing after {} s", made.missing, PATIENCE.as_secs()));
    }
    let count = delays.count();
    let mut figures = Figures {
        job: args.way.name("fanout"),
        unit: "deliveries",
        count,
        seconds: made.seconds,
        per_second: count as f64 / made.seconds,
        latency_us: Latency::of(&delays),
        server_us: made.server_cpu.filter(|_| count > 0).map(|cpu| cpu * 1e6 / count as f64),
        server_share: made.server_cpu.map(|cpu| cpu / made.seconds),
        generator_share: made.generator,
        faults,
        ..Figures::default()
    };
    figures.extra("watchers", f64::from(args.watchers), "");
    figures.extra("connections", connections as f64, "");
    figures.extra("changes", made.changes as f64, "");
    figures.extra("changes a second", made.changes as f64 / made.seconds, "");
    figures.judge_generator();
    figures
}

/// The one who changes: updates its own instance, with the number of the change as its version.
struct Changer {
    client: RegistryClient<Calls>,
    request: RegisterRequest,
    token: String,
}

impl Changer {
    async fn register(session: &Session, fleet: &Fleet) -> Result<Self, Error> {
        let mut changer = Self { client: session.client(), request: fleet.request(0), token: String::new() };
        changer.change(0).await?;
        Ok(changer)
    }

    async fn change(&mut self, number: u64) -> Result<(), Error> {
        let mut request = self.request.clone();
        request.lease_token.clone_from(&self.token);
        if let Some(instance) = &mut request.instance {
            instance.version = number.to_string();
        }
        let reply = self.client.register(request).await.map_err(|status| Error::Call("change", Box::new(status)))?;
        self.token = reply.into_inner().lease.map(|lease| lease.token).unwrap_or_default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::{Event, Instance};

    /// What watchers make of a snapshot at change 3 and of `changes` after it: deliveries, and faults.
    fn heard(changes: &[u64]) -> (u64, u64) {
        let shared = Shared::new();
        let mut hearing = Hearing::new(1, &shared, Arc::default());
        let mut hear = |change: u64| {
            let instance = Some(Instance { version: change.to_string(), ..Instance::default() });
            hearing.event(0, &Event { instance, ..Event::default() }.encode_to_vec(), Instant::now());
        };
        hear(3);
        changes.iter().for_each(|change| hear(*change));
        hearing.turn();
        hearing.opened(0);
        assert_eq!(shared.opened.count(), 1);
        (shared.delivered.count(), hearing.faults_all)
    }

    #[test]
    fn each_change_comes_once_and_in_order() {
        for (changes, expected) in [
            (&[4, 5, 6][..], (3, 0)),
            (&[], (0, 0)),
            (&[4, 6], (1, 1)),    // a gap
            (&[4, 4, 5], (2, 1)), // a repeat
            (&[5, 4, 6], (1, 2)), // another order
            (&[3, 4], (1, 1)),    // what the snapshot held already
        ] {
            assert_eq!(heard(changes), expected, "{changes:?}");
        }
    }

    #[test]
    fn a_watcher_without_the_instance_is_a_fault() {
        let shared = Shared::new();
        let mut hearing = Hearing::new(1, &shared, Arc::default());
        hearing.opened(0);
        hearing.event(0, b"", Instant::now());
        hearing.event(1, b"", Instant::now());
        assert_eq!((shared.opened.count(), hearing.faults_all), (0, 3));
    }
}
