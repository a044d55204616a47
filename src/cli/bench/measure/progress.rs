//! The line on stderr that shows that something happens: rewritten on a terminal, a new one now and then elsewhere.

use std::{
    future::Future,
    io::{IsTerminal as _, Write as _, stderr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often a terminal's line is rewritten, and how often a log gets one.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const IN_LOG: Duration = Duration::from_secs(3);

/// Shows how far the work is.
#[derive(Clone)]
pub(in crate::cli::bench) struct Progress {
    /// Work done so far; reset for each step.
    pub(in crate::cli::bench) counter: Arc<AtomicU64>,
    terminal: bool,
}

impl Progress {
    /// Progress on stderr.
    pub(in crate::cli::bench) fn new() -> Self {
        Self { counter: Arc::default(), terminal: stderr().is_terminal() }
    }

    /// Runs `work`, called `what`, and shows what it counts meanwhile, out of `total` if that is known.
    pub(in crate::cli::bench) async fn during<T>(
        &self,
        what: &str,
        total: Option<u64>,
        work: impl Future<Output = T>,
    ) -> T {
        self.counter.store(0, Ordering::Relaxed);
        let every = if self.terminal { ON_TERMINAL } else { IN_LOG };
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut last, mut last_at) = (0, Instant::now());
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.clear();
                    return done;
                }
                now = ticks.tick() => {
                    let count = self.counter.load(Ordering::Relaxed);
                    let rate = count.saturating_sub(last) as f64 / (now - last_at).as_secs_f64().max(1e-9);
                    self.show(what, count, total, rate);
                    (last, last_at) = (count, now);
                }
            }
        }
    }

    fn show(&self, what: &str, count: u64, total: Option<u64>, rate: f64) {
        let of = total.map_or_else(String::new, |total| format!(" of {}", grouped(total)));
        let line = format!("{what}: {}{of}, {}/s", grouped(count), grouped(rate as u64));
        // Progress that cannot be shown is no reason to fail.
        let _ = match self.terminal {
            true => write!(stderr(), "\r\x1b[K{line}"),
            false => writeln!(stderr(), "{line}"),
        };
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(super::grouped(number), text);
        }
    }
}
