//! Watch streams on which nothing happens, to see what they take.

use std::{
    io::{Write as _, stderr},
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
    Error,
    fill::{memory, settled},
    http,
    measure::{Crew, Figures, Gate, Slice},
    session::{Session, Target},
    watching::{Goal, Layout, Reader, Watching, Way},
    wire::drive,
};

/// How long all watches may take to open.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Watches to open.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    watchers: u32,
    /// Services that they follow, in turn; none of them has an instance.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    services: u32,
    #[command(flatten)]
    way: Way,
    /// Seconds to hold them, 0 for not at all; without it until Ctrl-C.
    #[arg(long, value_name = "SECONDS")]
    hold: Option<u32>,
}

/// Counts the watches that opened.
struct Idle {
    opened: Arc<Goal>,
    counter: Arc<AtomicU64>,
    faults: u64,
}

impl Reader for Idle {
    fn event(&mut self, watcher: usize, _event: &[u8], _now: Instant) {
        self.fault(watcher, "got an event");
    }

    fn opened(&mut self, _watcher: usize) {
        self.counter.fetch_add(1, Ordering::Relaxed);
        self.opened.add(1);
    }

    fn fault(&mut self, _watcher: usize, _what: &str) {
        self.faults += 1;
    }
}

/// Opens them, tells what memory they take, and holds them.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let watchers = args.watchers as usize;
    let connections = args.way.connections(session, watchers, 100);
    let service = |index: u32| format!("idle-{}-{index}", session.run);
    let services = (0..args.services).map(service).collect();
    let layouts = Layout::spread(session, watchers, connections, args.way, services);
    let opened = Arc::new(Goal::default());
    let (target, goal, doors) = (session.target.clone(), opened.clone(), http::doors());
    let part = move |layout, gate| hold(target.clone(), layout, goal.clone(), doors.clone(), gate);
    let before = settled(session).await;
    let counter = session.progress.counter.clone();
    let crew = Crew::start(session.options.threads, layouts, counter, part).await?.ready().await?;
    let connected = settled(session).await;
    let begin = Instant::now();
    crew.work_in(Slice::always());
    let opening = async {
        tokio::select! {
            opened = timeout(PATIENCE, opened.reach(watchers as u64)) => opened.is_ok(),
            () = crew.failed() => false,
        }
    };
    let all = session.progress.during("opening", Some(watchers as u64), opening).await;
    let seconds = begin.elapsed().as_secs_f64();
    let count = opened.count();
    let mut figures = Figures {
        job: args.way.name("idle-watches"),
        unit: "opened",
        count,
        seconds,
        per_second: count as f64 / seconds,
        ..Figures::default()
    };
    if all {
        memory(&mut figures, connected, settled(session).await, watchers as f64, "memory of a watch");
        // By HTTP there is no connection before its watch.
        if let Some((before, connected)) = before.zip(connected).filter(|_| !args.way.http) {
            let each = connected.saturating_sub(before) as f64 / connections as f64;
            figures.extra("memory of a connection", each.round(), "bytes");
        }
        linger(session, args, &mut figures).await;
    }
    figures.extra("connections", connections as f64, "");
    crew.stop();
    let faults: u64 = crew.join().await?.into_iter().sum();
    if !all {
        figures.faults.push(format!("{count} of {watchers} watches opened in {} s", PATIENCE.as_secs()));
    }
    if faults > 0 {
        figures.faults.push(format!("{faults} watches got what they should not"));
    }
    Ok(vec![figures])
}

/// Holds the watches, and tells what is known while it does.
async fn linger(session: &Session, args: &Args, figures: &mut Figures) {
    let (interrupt, hold) = (tokio::signal::ctrl_c(), args.hold.map(|hold| Duration::from_secs(u64::from(hold))));
    if hold != Some(Duration::ZERO) {
        for extra in &figures.extra {
            let _ = writeln!(stderr(), "{}: {:.0} {}", extra.name, extra.value, extra.unit);
        }
        let until = if hold.is_some() { "for a while" } else { "until Ctrl-C" };
        let _ = writeln!(stderr(), "holding {} watches {until}", args.watchers);
    }
    let holding = async {
        tokio::select! {
            _ = interrupt => {}
            () = tokio::time::sleep(hold.unwrap_or(Duration::MAX)) => {}
        }
    };
    let (cpu, begin) = (session.server_cpu(), Instant::now());
    session.progress.during("holding", None, holding).await;
    let used = cpu.zip(session.server_cpu()).map(|(before, after)| (after - before).as_secs_f64());
    figures.server_share =
        used.map(|used| used / begin.elapsed().as_secs_f64()).filter(|_| hold != Some(Duration::ZERO));
}

/// One connection's watches, until the crew is told to stop.
async fn hold(
    target: Arc<Target>,
    layout: Layout,
    opened: Arc<Goal>,
    doors: Arc<Semaphore>,
    mut gate: Gate,
) -> Result<u64, Error> {
    let mut idle = Idle { opened, counter: gate.counter.clone(), faults: 0 };
    if layout.http {
        http::watch(&target, &layout, &doors, &mut gate, &mut idle).await?;
        return Ok(idle.faults);
    }
    let (mut socket, mut wire) = target.connect(layout.path).await?;
    let mut watching = Watching::new(layout, idle);
    gate.wait().await?;
    tokio::select! {
        biased;
        ended = drive(&mut socket, &mut wire, &mut watching) => ended?,
        () = gate.stopped() => {}
    }
    Ok(watching.reader.faults)
}
