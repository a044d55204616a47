//! The load on peers that are no onair: so many calls in flight, each reply checked, what it took of both sides' cores.
//!
//! All of it runs on one thread. onair itself is loaded by `onair bench`, whose wire costs less than these clients do.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use crate::{
    Result,
    machine::Process,
    model::{Job, Sample},
};

/// After so many faults a measurement is stopped: it would only measure errors.
const HOPELESS: u64 = 100;
/// Faults that are told.
const TOLD: usize = 3;
/// What is told of how long things took.
const SHARES: [f64; 6] = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0];

/// What a measurement counted.
#[derive(Default)]
pub struct Meter {
    micros: RefCell<Vec<f64>>,
    count: Cell<u64>,
    faults: RefCell<Vec<String>>,
    faults_all: Cell<u64>,
}

impl Meter {
    /// So many were done, and it took so long.
    pub fn done(&self, units: u64, took: Duration) {
        self.count.set(self.count.get() + units);
        self.micros.borrow_mut().push(took.as_secs_f64() * 1e6);
    }

    /// Something happened that must not.
    pub fn fault(&self, what: impl Into<String>) {
        self.faults_all.set(self.faults_all.get() + 1);
        let mut faults = self.faults.borrow_mut();
        if faults.len() < TOLD {
            faults.push(what.into());
        }
    }

    /// How many were done.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Whether going on makes no sense.
    pub fn is_hopeless(&self) -> bool {
        self.faults_all.get() >= HOPELESS
    }
}

/// Measures `work`, which tells the meter what it does.
pub async fn measure(
    server: Process,
    job: Job,
    meter: Rc<Meter>,
    work: impl AsyncFnOnce(Rc<Meter>) -> Result<()>,
) -> Result<Sample> {
    let (server_before, own_before, begin) = (server.cpu(), Process::own().cpu(), Instant::now());
    work(meter.clone()).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let (server_cpu, own) = ((server.cpu() - server_before).as_secs_f64(), (Process::own().cpu() - own_before));
    let count = meter.count();
    let mut sample = Sample {
        count,
        seconds,
        per_second: count as f64 / seconds,
        server_us: (count > 0).then(|| server_cpu * 1e6 / count as f64),
        server_share: Some(server_cpu / seconds),
        load_share: Some(own.as_secs_f64() / seconds),
        latency_us: quantiles(&mut meter.micros.borrow_mut()),
        faults: meter.faults.borrow().clone(),
        ..Sample::new(job)
    };
    if meter.faults_all.get() > sample.faults.len() as u64 {
        sample.faults.push(format!("{} such faults in all", meter.faults_all.get()));
    }
    Ok(sample.judge())
}

/// What is told of how long things took; the least value that so many do not exceed.
fn quantiles(micros: &mut [f64]) -> Vec<(f64, f64)> {
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[((micros.len() as f64 * share).ceil() as usize).clamp(1, micros.len()) - 1];
    if micros.is_empty() { Vec::new() } else { SHARES.iter().map(|&share| (share, at(share))).collect() }
}

/// How long calls go on: for some time, and until they run out.
#[derive(Clone, Copy)]
pub struct Until {
    /// When nothing new is begun.
    pub end: Instant,
    /// How many there are.
    pub calls: usize,
}

impl Until {
    /// For so many seconds, over and over.
    pub fn seconds(seconds: f64) -> Self {
        Self::calls(usize::MAX, seconds)
    }

    /// So many calls, for so many seconds at most.
    pub fn calls(calls: usize, seconds: f64) -> Self {
        Self { end: Instant::now() + Duration::from_secs_f64(seconds), calls }
    }
}

/// Makes calls, `in_flight` at once. `call` is told who calls and which call it is, and answers how much was done.
pub async fn calls<F>(meter: &Meter, in_flight: usize, until: Until, call: F) -> Result<()>
where
    F: AsyncFn(usize, usize) -> std::result::Result<u64, String>,
{
    let next = Cell::new(0);
    let worker = async |index: usize| {
        while Instant::now() < until.end && next.get() < until.calls && !meter.is_hopeless() {
            let number = next.replace(next.get() + 1);
            let begin = Instant::now();
            match call(index, number).await {
                Ok(units) => meter.done(units, begin.elapsed()),
                Err(what) => meter.fault(what),
            }
        }
    };
    join_all((0..in_flight).map(worker)).await;
    Ok(())
}

/// One connection that makes calls in batches: writes as many as may be in flight, then reads as many replies. `turn`
/// makes calls from the first number on, so many, and answers how much was done.
pub async fn batches<C, F>(meter: &Meter, connections: &mut [C], depth: usize, until: Until, turn: F) -> Result<()>
where
    F: AsyncFn(&mut C, std::ops::Range<usize>) -> std::result::Result<u64, String>,
{
    let next = Cell::new(0);
    let worker = async |connection: &mut C| {
        while Instant::now() < until.end && next.get() < until.calls && !meter.is_hopeless() {
            let first = next.replace(next.get() + depth);
            let begin = Instant::now();
            match turn(connection, first..(first + depth).min(until.calls)).await {
                Ok(units) => meter.done(units, begin.elapsed()),
                Err(what) => meter.fault(what),
            }
        }
    };
    join_all(connections.iter_mut().map(worker)).await;
    Ok(())
}
