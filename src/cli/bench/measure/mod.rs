//! Measuring: slices of time, what was counted in them, and how it is told.

mod compare;
mod crew;
mod histogram;
mod probe;
mod progress;
mod report;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

pub(super) use compare::{Metered, Side, Work, compare, figures, measured, run_out};
pub(super) use crew::{Crew, Gate, busiest, until};
pub(super) use histogram::Histogram;
pub(super) use probe::{Process, Thread};
pub(super) use progress::Progress;
pub(super) use report::Latency;
pub use report::{Figures, Report};

/// After so many failed or wrong replies a measurement is stopped: it would only measure errors.
const HOPELESS: u64 = 1_000;

/// The time in which things count; what comes before is warm-up, what comes after is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// When counting begins.
    pub(super) begin: Instant,
    /// When it ends, and nothing new is begun.
    pub(super) end: Instant,
}

impl Slice {
    /// Everything counts, and nothing ends it.
    pub(super) fn always() -> Self {
        let now = Instant::now();
        Self { begin: now, end: now + Duration::from_secs(365 * 86_400) }
    }

    /// `seconds` that begin after a short warm-up.
    pub(super) fn of(seconds: f64) -> Self {
        let begin = Instant::now() + Duration::from_secs_f64((seconds / 10.0).clamp(0.05, 0.5));
        Self { begin, end: begin + Duration::from_secs_f64(seconds) }
    }

    /// Whether what happens at `now` counts.
    pub(super) fn contains(&self, now: Instant) -> bool {
        self.begin <= now && now < self.end
    }
}

/// What one connection counted.
#[derive(Default)]
pub(super) struct Tally {
    /// Time from request to reply, of the replies that count.
    pub(super) latency: Histogram,
    /// Units of work within the slice.
    pub(super) units: u64,
    /// Calls that ended without a reply, and the message of the first.
    pub(super) failed: u64,
    /// What to call again to learn why.
    pub(super) failed_message: Vec<u8>,
    /// Replies that were not what they had to be, and what was wrong with the first.
    pub(super) wrong: u64,
    /// What was wrong with the first.
    pub(super) wrong_example: String,
    /// Units of work that the progress line does not know yet.
    untold: u64,
    counter: Arc<AtomicU64>,
}

impl Tally {
    /// Nothing counted yet; `counter` is what the progress line shows.
    pub(super) fn new(counter: Arc<AtomicU64>) -> Self {
        Self { counter, ..Self::default() }
    }

    /// Counts a reply; `took` when it is within the slice.
    pub(super) fn reply(&mut self, judged: Result<u64, String>, took: Option<Duration>) {
        match judged {
            Ok(units) => {
                self.untold += units;
                if let Some(took) = took {
                    self.units += units;
                    self.latency.record(took);
                }
            }
            Err(what) => {
                if self.wrong == 0 {
                    self.wrong_example = what;
                }
                self.wrong += 1;
            }
        }
    }

    /// Counts a call that ended without a reply.
    pub(super) fn failed(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.failed == 0 {
            write(&mut self.failed_message);
        }
        self.failed += 1;
    }

    /// Whether going on makes no sense.
    pub(super) fn is_hopeless(&self) -> bool {
        self.failed + self.wrong >= HOPELESS
    }

    /// Tells the progress line.
    pub(super) fn tell(&mut self) {
        if self.untold > 0 {
            self.counter.fetch_add(self.untold, Ordering::Relaxed);
            self.untold = 0;
        }
    }

    /// Takes in another connection's counts.
    pub(super) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.units += other.units;
        if self.failed == 0 {
            self.failed_message = other.failed_message;
        }
        if self.wrong == 0 {
            self.wrong_example = other.wrong_example;
        }
        self.failed += other.failed;
        self.wrong += other.wrong;
    }
}
