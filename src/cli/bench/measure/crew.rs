//! The threads that carry the load: each a single-threaded runtime with its share of the connections.
//!
//! The parts of a crew first make ready (connect, open streams), then wait until all are, then work in one common
//! slice of time.

use std::{
    future::Future,
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};

use super::{Slice, Thread};
use crate::cli::bench::Error;

/// Where a part of the crew meets the others.
#[derive(Clone)]
pub(in crate::cli::bench) struct Gate {
    arrived: Arc<Semaphore>,
    failed: watch::Sender<bool>,
    finished: Arc<Semaphore>,
    slice: watch::Receiver<Option<Slice>>,
    stop: watch::Receiver<bool>,
    /// Work done so far by all, for the progress line.
    pub(in crate::cli::bench) counter: Arc<AtomicU64>,
}

impl Gate {
    /// Says that this part is ready and waits for the slice in which to work.
    pub(in crate::cli::bench) async fn wait(&mut self) -> Result<Slice, Error> {
        self.arrived.add_permits(1);
        let slice = self.slice.wait_for(Option::is_some).await.map_err(|_| Error::Stopped)?;
        slice.ok_or(Error::Stopped)
    }

    /// Completes when the crew is told to stop.
    pub(in crate::cli::bench) async fn stopped(&mut self) {
        // An error means that nobody is left to wait for.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }
}

/// Threads at work.
pub(in crate::cli::bench) struct Crew<T> {
    parts: usize,
    arrived: Arc<Semaphore>,
    failed: watch::Sender<bool>,
    finished: Arc<Semaphore>,
    slice: watch::Sender<Option<Slice>>,
    stop: watch::Sender<bool>,
    threads: Vec<Option<Thread>>,
    results: Vec<oneshot::Receiver<Vec<Result<T, Error>>>>,
}

impl<T: Send + 'static> Crew<T> {
    /// Starts `part` for each of `inputs` on `threads` threads.
    pub(in crate::cli::bench) async fn start<I, F, Fut>(
        threads: usize,
        inputs: Vec<I>,
        counter: Arc<AtomicU64>,
        part: F,
    ) -> Result<Self, Error>
    where
        I: Send + 'static,
        F: Fn(I, Gate) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (slice, slice_seen) = watch::channel(None);
        let (stop, stop_seen) = watch::channel(false);
        let arrived = Arc::new(Semaphore::new(0));
        let (failed, finished) = (watch::Sender::new(false), Arc::new(Semaphore::new(0)));
        let gate = Gate {
            arrived: arrived.clone(),
            failed: failed.clone(),
            finished: finished.clone(),
            slice: slice_seen,
            stop: stop_seen,
            counter,
        };
        let parts = inputs.len();
        let mut shares: Vec<Vec<I>> = (0..threads.clamp(1, parts.max(1))).map(|_| Vec::new()).collect();
        let count = shares.len();
        inputs.into_iter().enumerate().for_each(|(index, input)| shares[index % count].push(input));
        let mut crew = Self { parts, arrived, failed, finished, slice, stop, threads: Vec::new(), results: Vec::new() };
        for share in shares {
            let (started, start) = oneshot::channel();
            let (finished, result) = oneshot::channel();
            let (gate, part) = (gate.clone(), part.clone());
            thread::Builder::new()
                .name("bench".to_owned())
                .spawn(move || {
                    let _ = started.send(Thread::current());
                    let _ = finished.send(work(share, &gate, &part));
                })
                .map_err(Error::Broken)?;
            crew.threads.push(start.await.map_err(|_| Error::Stopped)?);
            crew.results.push(result);
        }
        Ok(crew)
    }

    /// Waits until every part is ready. If one has failed, the others are stopped and the reason is the answer.
    pub(in crate::cli::bench) async fn ready(self) -> Result<Self, Error> {
        let parts = u32::try_from(self.parts).map_err(|_| Error::Stopped)?;
        self.arrived.acquire_many(parts).await.map(drop).map_err(|_| Error::Stopped)?;
        if *self.failed.borrow() {
            return Err(self.join().await.err().unwrap_or(Error::Stopped));
        }
        Ok(self)
    }

    /// Gives the slice in which to work.
    pub(in crate::cli::bench) fn work_in(&self, slice: Slice) {
        self.slice.send_replace(Some(slice));
    }

    /// Completes when a part fails; `join` then tells why.
    pub(in crate::cli::bench) async fn failed(&self) {
        // The crew itself keeps the channel open.
        let _ = self.failed.subscribe().wait_for(|failed| *failed).await;
    }

    /// Completes when all parts are done. The threads stay until `join`, so that their CPU time can be read.
    pub(in crate::cli::bench) async fn finished(&self) {
        let threads = u32::try_from(self.threads.len()).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.finished.acquire_many(threads).await;
    }

    /// Stops parts that would go on.
    pub(in crate::cli::bench) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The CPU time of each thread so far; empty where the system does not tell.
    pub(in crate::cli::bench) fn cpu(&self) -> Vec<Duration> {
        self.threads.iter().map_while(|thread| thread.as_ref()?.cpu()).collect()
    }

    /// Waits for all parts; the first failure is the answer if there is one.
    pub(in crate::cli::bench) async fn join(self) -> Result<Vec<T>, Error> {
        drop(self.slice); // whoever still waits for it gives up
        let mut done = Vec::with_capacity(self.parts);
        let mut failure = None;
        for result in self.results {
            for part in result.await.map_err(|_| Error::Stopped)? {
                match part {
                    Ok(part) => done.push(part),
                    // That others had to stop is not the reason.
                    Err(error) if failure.is_none() || matches!(failure, Some(Error::Stopped)) => failure = Some(error),
                    Err(_) => {}
                }
            }
        }
        failure.map_or(Ok(done), Err)
    }
}

/// One thread: runs its parts until all are done.
fn work<I, T, F, Fut>(inputs: Vec<I>, gate: &Gate, part: &F) -> Vec<Result<T, Error>>
where
    F: Fn(I, Gate) -> Fut,
    Fut: Future<Output = Result<T, Error>> + Send + 'static,
    T: Send + 'static,
{
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            gate.failed.send_replace(true);
            gate.arrived.add_permits(inputs.len());
            return vec![Err(Error::Broken(error))];
        }
    };
    runtime.block_on(async {
        let parts: Vec<_> = inputs
            .into_iter()
            .map(|input| {
                let (arrived, failed) = (gate.arrived.clone(), gate.failed.clone());
                let part = part(input, gate.clone());
                tokio::spawn(async move {
                    let result = part.await;
                    if result.is_err() {
                        failed.send_replace(true);
                    }
                    // Whoever fails before it is ready must not keep the others waiting; too many is no harm.
                    arrived.add_permits(1);
                    result
                })
            })
            .collect();
        let mut results = Vec::with_capacity(parts.len());
        for part in parts {
            results.push(part.await.unwrap_or(Err(Error::Stopped)));
        }
        gate.finished.add_permits(1);
        let mut slice = gate.slice.clone();
        while slice.changed().await.is_ok() {}
        results
    })
}

/// How busy the busiest thread was between two readings.
pub(in crate::cli::bench) fn busiest(before: &[Duration], after: &[Duration], took: Duration) -> Option<f64> {
    let used = before.iter().zip(after).map(|(before, after)| after.saturating_sub(*before));
    used.max().map(|used| used.as_secs_f64() / took.as_secs_f64().max(1e-9))
}

/// Sleeps until `at`, and not at all if that is past.
pub(in crate::cli::bench) async fn until(at: Instant) {
    tokio::time::sleep_until(at).await;
}
