//! Many leases that lapse at once: how fast they go, how late, and whether the others notice.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    Error,
    heartbeat::{Beating, Beats},
    leases::{self, Fleet, HEARTBEAT},
    measure::{Crew, Figures, Gate, Latency, Side, Slice, Tally, Work, figures, measured, until},
    session::{Session, Target},
    watching::{Goal, Layout, Reader, Watching, Way},
    wire::{Field, Fields, Pace, Pump, drive, event_records},
};

/// Registrations between two looks at whether the first ones need a beat.
const CHUNK: usize = 5_000;
/// How long before the deadline the heartbeats begin to count.
const EARLY: Duration = Duration::from_millis(100);
/// How much later than their deadline all must have lapsed: design promises 100,000 a second at least.
const PATIENCE: Duration = Duration::from_secs(30);
/// Seconds of heartbeats before anything lapses, to compare with.
const BASELINE_SECONDS: f64 = 2.0;

/// Wire numbers of what is looked for in events.
const OFFLINE: u64 = 3;
const UPDATED: u64 = 2;
const EXPIRED: u64 = 5;

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Leases that lapse.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    leases: u32,
    /// Leases that are kept, and must not go offline.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    kept: u32,
    /// Seconds that a lease lives.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=3_600))]
    ttl: u32,
    /// Heartbeats a second of those that are kept.
    #[arg(long, default_value_t = 2_000, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=200_000))]
    rate: u32,
}

impl Default for Args {
    fn default() -> Self {
        Self { leases: 10_000, kept: 1_000, ttl: 10, rate: 2_000 }
    }
}

/// What a watcher of the namespace saw.
#[derive(Default)]
struct Seen {
    first: Option<Instant>,
    last: Option<Instant>,
    suspect: u64,
    otherwise: u64,
    kept_offline: u64,
    faults: Vec<String>,
}

/// Reads the events of both fleets.
struct Lapses {
    lapsing: String,
    kept: String,
    opened: Arc<Goal>,
    offline: Arc<Goal>,
    counter: Arc<AtomicU64>,
    untold: u64,
    seen: Arc<Mutex<Seen>>,
}

impl Lapses {
    fn see(&self, note: impl FnOnce(&mut Seen)) {
        if let Ok(mut seen) = self.seen.lock() {
            note(&mut seen);
        }
    }
}

impl Reader for Lapses {
    fn event(&mut self, _watcher: usize, event: &[u8], now: Instant) {
        let (kind, cause, instance) = event_records(event);
        if kind != OFFLINE && kind != UPDATED {
            return;
        }
        let service = Fields(instance).find_map(|f| if let Field::Bytes(2, text) = f { Some(text) } else { None });
        let is_of = |prefix: &str| service.is_some_and(|service| service.starts_with(prefix.as_bytes()));
        match kind {
            OFFLINE if is_of(&self.kept) => self.see(|seen| seen.kept_offline += 1),
            OFFLINE if is_of(&self.lapsing) => {
                self.untold += 1;
                self.see(|seen| {
                    seen.first.get_or_insert(now);
                    seen.last = Some(now);
                    seen.otherwise += u64::from(cause != EXPIRED);
                });
            }
            UPDATED if is_of(&self.lapsing) => self.see(|seen| seen.suspect += 1),
            _ => {}
        }
    }

    fn opened(&mut self, _watcher: usize) {
        self.opened.add(1);
    }

    fn fault(&mut self, _watcher: usize, what: &str) {
        self.see(|seen| seen.faults.push(format!("the watch {what}")));
    }

    fn turn(&mut self) {
        if self.untold > 0 {
            self.counter.fetch_add(self.untold, Ordering::Relaxed);
            self.offline.add(self.untold);
            self.untold = 0;
        }
    }
}

/// Measures lapses.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let ttl_seconds = i64::from(args.ttl);
    let kept = Fleet { ttl_seconds, ..Fleet::new(session, "kept") };
    if u64::from(args.kept) * 3 > u64::from(args.rate) * u64::from(args.ttl) {
        return Err(Error::Usage(format!(
            "--rate {}: too few to beat {} leases every third of {} s",
            args.rate, args.kept, args.ttl
        )));
    }
    let lapsing = Fleet { ttl_seconds, ..Fleet::new(session, "lapsing") };
    let tokens = leases::register(session, &kept, 0..args.kept as usize).await?;
    let beating = paced(args.rate, Arc::new(Beats::new(&tokens, 1)));
    let baseline = measured(session, &beating, BASELINE_SECONDS).await?;
    let baseline = figures(session, &beating, baseline, "beats").await;
    let doomed = register(session, &lapsing, args, &tokens).await?;
    let outcome = lapse(session, args, [&lapsing, &kept], &doomed, &tokens).await?;
    let all = summary(session, args, &beating, &baseline, outcome).await;
    leases::deregister(session, &tokens).await?;
    leases::deregister(session, &doomed).await?;
    Ok(vec![all])
}

/// Unary beats at fixed times on one connection.
fn paced(rate: u32, beats: Arc<Beats>) -> Side {
    let load = move |_, slice, tally| -> Box<dyn super::measure::Metered> {
        Box::new(pump(rate, beats.clone(), slice, tally))
    };
    Side { name: "beats of the kept", path: HEARTBEAT, connections: 1, load: Work::Grpc(Arc::new(load)) }
}

fn pump(rate: u32, beats: Arc<Beats>, slice: Slice, tally: Tally) -> Pump<Beating> {
    let pace = Pace { every: Duration::from_secs(1) / rate, due: Instant::now() };
    Pump::new(Beating::new(beats, 0, 1), 1_000, Some(pace), slice, tally)
}

/// Registers those that will lapse, beating the first and the kept while the last are not there yet.
async fn register(session: &Session, fleet: &Fleet, args: &Args, kept: &[String]) -> Result<Vec<String>, Error> {
    leases::beat(session, kept).await?;
    let (mut tokens, mut beaten) = (Vec::new(), Instant::now());
    let end = args.leases as usize;
    while tokens.len() < end {
        let part = tokens.len()..(tokens.len() + CHUNK).min(end);
        tokens.extend(leases::register(session, fleet, part).await?);
        if beaten.elapsed() > Duration::from_secs(u64::from(args.ttl)) / 4 {
            beaten = Instant::now();
            leases::beat(session, kept).await?;
            leases::beat(session, &tokens).await?;
        }
    }
    leases::beat(session, kept).await?;
    Ok(tokens)
}

/// What came of it.
struct Outcome {
    seen: Seen,
    offline: u64,
    beats: Tally,
    /// Before and after the last beats of those that lapse.
    last_beats: (Instant, Instant),
}

/// Beats all one last time, watches, and waits until all have lapsed.
async fn lapse(
    session: &Session,
    args: &Args,
    [lapsing, kept]: [&Fleet; 2],
    doomed: &[String],
    tokens: &[String],
) -> Result<Outcome, Error> {
    let (opened, offline) = (Arc::new(Goal::default()), Arc::new(Goal::default()));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let reader = Lapses {
        lapsing: lapsing.prefix.clone(),
        kept: kept.prefix.clone(),
        opened: opened.clone(),
        offline: offline.clone(),
        counter: session.progress.counter.clone(),
        untold: 0,
        seen: seen.clone(),
    };
    let layout = Layout::spread(session, 1, 1, Way::default(), Vec::new()).remove(0);
    let path = layout.path;
    let watcher = Watching::new(layout, reader);
    let inputs = vec![(session.target.clone(), path, watcher)];
    let watching = Crew::start(1, inputs, Arc::default(), watch).await?.ready().await?;
    watching.work_in(Slice::always());
    timeout(PATIENCE, opened.reach(1)).await.map_err(|_| Error::Protocol("a watch did not open".to_owned()))?;

    let before = Instant::now();
    leases::beat(session, doomed).await?;
    let after = Instant::now();
    let ttl = Duration::from_secs(u64::from(args.ttl));
    let slice = Slice { begin: before + ttl - EARLY, end: after + 2 * ttl + PATIENCE };
    let inputs = vec![(session.target.clone(), args.rate, Arc::new(Beats::new(tokens, 1)))];
    let beats = Crew::start(1, inputs, Arc::default(), keep).await?.ready().await?;
    beats.work_in(slice);
    let all = u64::from(args.leases);
    let lapsed = async {
        tokio::select! {
            _ = timeout(slice.end - after, offline.reach(all)) => {}
            () = beats.failed() => {}
            () = watching.failed() => {}
        }
    };
    session.progress.during("lapses", Some(all), lapsed).await;
    // What comes too often, or for the kept, comes now.
    until(Instant::now() + EARLY).await;
    beats.stop();
    watching.stop();
    watching.join().await?;
    let mut tally = Tally::default();
    beats.join().await?.into_iter().for_each(|part| tally.merge(part));
    let seen = seen.lock().map(|mut seen| std::mem::take(&mut *seen)).unwrap_or_default();
    Ok(Outcome { seen, offline: offline.count(), beats: tally, last_beats: (before, after) })
}

/// The watcher's connection, until it is told to stop.
async fn watch(
    (target, path, mut watching): (Arc<Target>, &'static str, Watching<Lapses>),
    mut gate: Gate,
) -> Result<(), Error> {
    let (mut socket, mut wire) = target.connect(path).await?;
    gate.wait().await?;
    tokio::select! {
        biased;
        ended = drive(&mut socket, &mut wire, &mut watching) => ended,
        () = gate.stopped() => Ok(()),
    }
}

/// The connection of those that are kept, until it is told to stop.
async fn keep((target, rate, beats): (Arc<Target>, u32, Arc<Beats>), mut gate: Gate) -> Result<Tally, Error> {
    let (mut socket, mut wire) = target.connect(HEARTBEAT).await?;
    let slice = gate.wait().await?;
    let mut pump = pump(rate, beats, slice, Tally::new(gate.counter.clone()));
    tokio::select! {
        biased;
        ended = drive(&mut socket, &mut wire, &mut pump) => ended?,
        () = gate.stopped() => {}
    }
    Ok(pump.tally)
}

async fn summary(session: &Session, args: &Args, beating: &Side, baseline: &Figures, outcome: Outcome) -> Figures {
    let Outcome { seen, offline, beats, last_beats: (before, after) } = outcome;
    let ttl = Duration::from_secs(u64::from(args.ttl));
    let span = seen.first.zip(seen.last).map_or(Duration::ZERO, |(first, last)| last - first);
    let took = seen.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(before + ttl));
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mut figures = Figures {
        job: "expire".to_owned(),
        unit: "lapses",
        count: offline,
        seconds: took.as_secs_f64(),
        per_second: if took.is_zero() { 0.0 } else { offline as f64 / took.as_secs_f64() },
        latency_us: Latency::of(&beats.latency),
        faults: seen.faults,
        ..Figures::default()
    };
    figures.notes.push("the rate is from the earliest deadline to the last OFFLINE".to_owned());
    figures.notes.push("p50, p99 and max are those of the heartbeats that went on meanwhile".to_owned());
    figures.extra("heartbeats meanwhile", beats.units as f64, "");
    if let Some(latency) = &baseline.latency_us {
        figures.extra("heartbeats before: p50", latency.p50, "µs");
        figures.extra("heartbeats before: p99", latency.p99, "µs");
    }
    figures.extra("first to last OFFLINE", millis(span), "ms");
    if let (Some(first), Some(last)) = (seen.first, seen.last) {
        figures.extra(
            "first OFFLINE after the earliest deadline",
            millis(first.saturating_duration_since(before + ttl)),
            "ms",
        );
        figures.extra(
            "last OFFLINE after the latest deadline",
            millis(last.saturating_duration_since(after + ttl)),
            "ms",
        );
        if first < before + ttl {
            figures.faults.push(format!("an instance went offline {:.1} ms early", millis(before + ttl - first)));
        }
    }
    if seen.suspect > 0 {
        figures.notes.push(format!(
            "{} lapses were held back as SUSPECT for another TTL: run the server with --breaker off",
            seen.suspect
        ));
    }
    let wanted = u64::from(args.leases);
    for (count, what) in [
        (wanted.saturating_sub(offline), "leases did not lapse"),
        (offline.saturating_sub(wanted), "instances went offline more than once"),
        (seen.otherwise, "lapses have another cause than EXPIRED"),
        (seen.kept_offline, "instances that were kept went offline"),
        (beats.wrong, "beats of the kept were not RENEWED"),
    ] {
        if count > 0 {
            figures.faults.push(format!("{count} {what}"));
        }
    }
    if beats.failed > 0 {
        let reason = session.explain(beating.path, &beats.failed_message).await;
        figures.faults.push(format!("{} beats of the kept failed: {reason}", beats.failed));
    }
    figures.faults.extend(baseline.faults.iter().cloned());
    figures
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::{Cause, Event, EventType, Instance};

    #[test]
    fn tells_lapses_from_everything_else() {
        let mut lapses = Lapses {
            lapsing: "lapsing-1".to_owned(),
            kept: "kept-1".to_owned(),
            opened: Arc::default(),
            offline: Arc::default(),
            counter: Arc::default(),
            untold: 0,
            seen: Arc::default(),
        };
        for (service, kind, cause) in [
            ("lapsing-1-0", EventType::Online, Cause::Snapshot),
            ("lapsing-1-0", EventType::Updated, Cause::Unspecified),
            ("lapsing-1-0", EventType::Offline, Cause::Expired),
            ("lapsing-1-1", EventType::Offline, Cause::Deregistered),
            ("kept-1-7", EventType::Offline, Cause::Expired),
            ("another", EventType::Offline, Cause::Expired),
        ] {
            let instance = Some(Instance { service: service.to_owned(), ..Instance::default() });
            let event = Event { r#type: kind.into(), cause: cause.into(), instance };
            lapses.event(0, &event.encode_to_vec(), Instant::now());
        }
        lapses.turn();
        let seen = lapses.seen.lock().unwrap();
        assert_eq!((lapses.offline.count(), seen.otherwise, seen.suspect, seen.kept_offline), (2, 1, 1, 1));
        assert!(seen.first.is_some() && seen.last >= seen.first);
    }
}
