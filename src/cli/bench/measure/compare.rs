//! One job in slices of time, in turn with the floor, so that both see the same machine.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Crew, Figures, Gate, Latency, Slice, Tally, busiest, report::Against, until};
use crate::cli::bench::{
    Error, http,
    session::{Session, Target},
    wire::{Load, drive},
};

/// How long replies are waited for after a slice ended.
const DRAIN: Duration = Duration::from_secs(15);

/// A load whose counts can be taken when it is done.
pub(in crate::cli::bench) trait Metered: Load {
    /// What it counted.
    fn into_tally(self: Box<Self>) -> Tally;
}

/// Makes the load of a connection.
type Make = Arc<dyn Fn(usize, Slice, Tally) -> Box<dyn Metered> + Send + Sync>;

/// What the connections of a side do.
#[derive(Clone)]
pub(in crate::cli::bench) enum Work {
    /// Calls of gRPC.
    Grpc(Make),
    /// Requests by HTTP.
    Http(Arc<http::Lookups>),
}

/// One side of a comparison.
#[derive(Clone)]
pub(in crate::cli::bench) struct Side {
    /// What it is called while it runs.
    pub(in crate::cli::bench) name: &'static str,
    /// The method that it calls.
    pub(in crate::cli::bench) path: &'static str,
    /// On how many connections.
    pub(in crate::cli::bench) connections: usize,
    /// What each of them does.
    pub(in crate::cli::bench) load: Work,
}

/// What one slice found.
pub(in crate::cli::bench) struct Measured {
    pub(in crate::cli::bench) tally: Tally,
    pub(in crate::cli::bench) seconds: f64,
    pub(in crate::cli::bench) server_cpu: Option<f64>,
    pub(in crate::cli::bench) generator: Option<f64>,
}

impl Measured {
    fn per_second(&self) -> f64 {
        self.tally.units as f64 / self.seconds
    }

    fn server_us(&self) -> Option<f64> {
        self.server_cpu.filter(|_| self.tally.units > 0).map(|cpu| cpu * 1e6 / self.tally.units as f64)
    }

    /// Takes in another slice of the same side.
    fn merge(&mut self, other: Self) {
        self.tally.merge(other.tally);
        self.seconds += other.seconds;
        self.server_cpu = self.server_cpu.zip(other.server_cpu).map(|(a, b)| a + b);
        self.generator = self.generator.zip(other.generator).map(|(a, b)| a.max(b));
    }
}

/// Runs one slice of a side.
pub(in crate::cli::bench) async fn measured(session: &Session, side: &Side, seconds: f64) -> Result<Measured, Error> {
    let counter = session.progress.counter.clone();
    let (target, side_there) = (session.target.clone(), side.clone());
    let part = move |index, gate: Gate| connection(target.clone(), side_there.clone(), index, gate);
    let work = async {
        let inputs = (0..side.connections).collect();
        let crew = Crew::start(session.options.threads, inputs, counter, part).await?.ready().await?;
        let slice = Slice::of(seconds);
        crew.work_in(slice);
        until(slice.begin).await;
        let (server, generator) = (session.server_cpu(), crew.cpu());
        until(slice.end).await;
        let server_cpu = server.zip(session.server_cpu()).map(|(before, after)| (after - before).as_secs_f64());
        let generator = busiest(&generator, &crew.cpu(), slice.end - slice.begin);
        let mut tally = Tally::default();
        crew.join().await?.into_iter().for_each(|part| tally.merge(part));
        Ok(Measured { tally, seconds, server_cpu, generator })
    };
    session.progress.during(side.name, None, work).await
}

/// Runs a side until its requests run out, for `seconds` at most, and measures the time that this takes.
pub(in crate::cli::bench) async fn run_out(session: &Session, side: &Side, seconds: f64) -> Result<Measured, Error> {
    let counter = session.progress.counter.clone();
    let (target, side_there) = (session.target.clone(), side.clone());
    let part = move |index, gate: Gate| connection(target.clone(), side_there.clone(), index, gate);
    let work = async {
        let inputs = (0..side.connections).collect();
        let crew = Crew::start(session.options.threads, inputs, counter, part).await?.ready().await?;
        let (server, generator, begin) = (session.server_cpu(), crew.cpu(), Instant::now());
        crew.work_in(Slice { begin, end: begin + Duration::from_secs_f64(seconds) });
        crew.finished().await;
        let took = begin.elapsed();
        let server_cpu = server.zip(session.server_cpu()).map(|(before, after)| (after - before).as_secs_f64());
        let generator = busiest(&generator, &crew.cpu(), took);
        let mut tally = Tally::default();
        crew.join().await?.into_iter().for_each(|part| tally.merge(part));
        Ok(Measured { tally, seconds: took.as_secs_f64().min(seconds), server_cpu, generator })
    };
    session.progress.during(side.name, None, work).await
}

/// One connection of a side.
async fn connection(target: Arc<Target>, side: Side, index: usize, mut gate: Gate) -> Result<Tally, Error> {
    let mut tally = Tally::new(gate.counter.clone());
    match side.load {
        Work::Grpc(make) => {
            let (mut socket, mut wire) = target.connect(side.path).await?;
            let slice = gate.wait().await?;
            let mut load = make(index, slice, tally);
            in_time(slice, drive(&mut socket, &mut wire, &mut *load)).await?;
            Ok(load.into_tally())
        }
        Work::Http(lookups) => {
            let mut http = http::Connection::open(&target).await?;
            let slice = gate.wait().await?;
            in_time(slice, lookups.run(&mut http, index, side.connections, slice, &mut tally)).await?;
            Ok(tally)
        }
    }
}

/// Waits for the last replies, but not for ever.
async fn in_time(slice: Slice, work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let late = tokio::time::timeout_at(slice.end + DRAIN, work).await;
    late.map_err(|_| Error::Protocol(format!("replies were still missing {} s after the end", DRAIN.as_secs())))?
}

/// Measures a job for `--seconds` in all, in turn with another to compare it with (the floor, mostly) if there is one.
pub(in crate::cli::bench) async fn compare(
    session: &Session,
    job: Side,
    base: Option<Side>,
    unit: &'static str,
) -> Result<Figures, Error> {
    let pairs = session.options.pairs;
    let seconds = session.options.seconds / pairs as f64;
    let (mut job_all, mut base_all) = (None, None);
    let (mut ratios, mut cpu_ratios) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        let below = match &base {
            Some(base) => Some(measured(session, base, seconds).await?),
            None => None,
        };
        let above = measured(session, &job, seconds).await?;
        if let Some(below) = below {
            ratios.push(above.per_second() / below.per_second().max(1e-9));
            cpu_ratios.extend(below.server_us().zip(above.server_us()).map(|(base, job)| base / job));
            add(&mut base_all, below);
        }
        add(&mut job_all, above);
    }
    let Some(all) = job_all else { return Err(Error::Usage("--pairs: 0".to_owned())) };
    let mut figures = figures(session, &job, all, unit).await;
    if let Some((base, all)) = base.zip(base_all) {
        ratios.sort_by(f64::total_cmp);
        cpu_ratios.sort_by(f64::total_cmp);
        figures.against = Some(Against {
            base: base.name,
            per_second: all.per_second(),
            ratio: median(&ratios).unwrap_or(0.0),
            ratio_min: ratios.first().copied().unwrap_or(0.0),
            ratio_max: ratios.last().copied().unwrap_or(0.0),
            pairs: ratios.len(),
            server_us: all.server_us(),
            cpu_ratio: median(&cpu_ratios),
        });
        faults(session, &base, &all.tally, &mut figures.faults).await;
    }
    Ok(figures)
}

fn add(all: &mut Option<Measured>, one: Measured) {
    match all {
        Some(all) => all.merge(one),
        None => *all = Some(one),
    }
}

/// The middle of a sorted list.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// What the slices of one side come to.
pub(in crate::cli::bench) async fn figures(
    session: &Session,
    side: &Side,
    all: Measured,
    unit: &'static str,
) -> Figures {
    let mut figures = Figures {
        job: side.name.to_owned(),
        unit,
        count: all.tally.units,
        seconds: all.seconds,
        per_second: all.per_second(),
        latency_us: Latency::of(&all.tally.latency),
        server_us: all.server_us(),
        server_share: all.server_cpu.map(|cpu| cpu / all.seconds),
        generator_share: all.generator,
        ..Figures::default()
    };
    figures.judge_generator();
    faults(session, side, &all.tally, &mut figures.faults).await;
    figures
}

/// What must not be: failed calls, with the reason of the first, and wrong replies.
async fn faults(session: &Session, side: &Side, tally: &Tally, faults: &mut Vec<String>) {
    if tally.failed > 0 {
        let reason = session.explain(side.path, &tally.failed_message).await;
        faults.push(format!("{}: {} calls failed: {reason}", side.name, tally.failed));
    }
    if tally.wrong > 0 {
        faults.push(format!("{}: {} wrong replies: {}", side.name, tally.wrong, tally.wrong_example));
    }
}
