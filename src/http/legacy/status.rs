//! `/status`: what this server is, how long it runs, and how many registrations a second it is sent by these routes.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde::Serialize;

/// Seconds over which the rate is taken.
const SECONDS: usize = 10;

/// Registrations and renewals of the last seconds.
#[derive(Debug)]
pub(super) struct Rate {
    begun: Instant,
    counts: Mutex<Counts>,
}

/// One place a second, the last of which is the current one.
#[derive(Debug, Default)]
struct Counts {
    second: u64,
    counts: [u64; SECONDS],
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    name: &'static str,
    version: &'static str,
    /// Seconds.
    uptime: u64,
    registrations_per_second: f64,
}

impl Counts {
    fn move_to(&mut self, second: u64) {
        let passed = second.saturating_sub(self.second).min(SECONDS as u64) as usize;
        self.counts.rotate_left(passed % SECONDS);
        self.counts[SECONDS - passed..].fill(0);
        self.second = second.max(self.second);
    }

    /// A second, over the full seconds that there have been.
    fn rate(&mut self, second: u64) -> f64 {
        self.move_to(second);
        let over = (second + 1).min(SECONDS as u64);
        self.counts.iter().sum::<u64>() as f64 / over as f64
    }
}

impl Rate {
    /// From now on.
    pub(super) fn begin() -> Self {
        Self { begun: Instant::now(), counts: Mutex::default() }
    }

    /// One more.
    pub(super) fn count(&self) {
        let second = self.begun.elapsed().as_secs();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.move_to(second);
        counts.counts[SECONDS - 1] += 1;
    }

    /// As it is now.
    pub(super) fn status(&self) -> Status {
        let uptime = self.begun.elapsed().as_secs();
        let registrations_per_second = self.counts.lock().unwrap_or_else(PoisonError::into_inner).rate(uptime);
        Status { name: "onair", version: crate::VERSION, uptime, registrations_per_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_the_last_seconds() {
        let mut counts = Counts::default();
        assert_eq!(counts.rate(0), 0.0);
        counts.counts[SECONDS - 1] += 5;
        assert_eq!((counts.rate(0), counts.rate(4)), (5.0, 1.0));
        counts.counts[SECONDS - 1] += 15;
        assert_eq!((counts.rate(9), counts.rate(10), counts.rate(13), counts.rate(14)), (2.0, 1.5, 1.5, 0.0));
        assert_eq!(counts.rate(1_000), 0.0);
    }
}
