//! The lease clock (promise 1): it moves only while every runtime that reads sockets gets its beats through to the
//! actor. A pause, a suspend, a full inbox or a slow turn stops this clock, not the instances.

use std::time::Duration;

use tokio::time::Instant;

use crate::registry::LeaseTime;

/// How often each runtime sends a mark while there are leases.
pub const MARK_INTERVAL: Duration = Duration::from_millis(20);
/// The most that one round advances the clock; a round that took longer is late.
const ROUND_MAX: Duration = Duration::from_millis(100);
/// How long the clock stands still after a late round, so that beats waiting in the sockets pass first.
const STAND_STILL: Duration = Duration::from_millis(250);

/// The clock that leases run on.
#[derive(Debug)]
pub struct LeaseClock {
    reading: Duration,
    last_round: Option<Instant>,
    still_until: Option<Instant>,
    /// When each runtime sent its last mark, if it did since the last round.
    marks: Vec<Option<Instant>>,
    missing: usize,
    /// How much real time passed, since leases are kept, that did not count.
    lag: Duration,
    /// How long the last round took.
    took: Duration,
}

/// A complete round of marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The clock's reading at its end: when the earliest of its marks was sent.
    pub now: LeaseTime,
    /// What the clock would read, had it gone on until the last mark was heard: nothing heard in this round came later.
    pub heard: LeaseTime,
    /// Whether leases may expire by it.
    pub may_expire: bool,
    /// Whether it came late.
    pub late: bool,
}

impl LeaseClock {
    /// A clock fed by so many runtimes.
    #[must_use]
    pub fn new(runtimes: usize) -> Self {
        Self {
            reading: Duration::ZERO,
            last_round: None,
            still_until: None,
            marks: vec![None; runtimes],
            missing: runtimes,
            lag: Duration::ZERO,
            took: Duration::ZERO,
        }
    }

    /// The reading at the end of the last round.
    #[must_use]
    pub fn now(&self) -> LeaseTime {
        LeaseTime(self.reading.as_millis() as u64)
    }

    /// What the clock may read when the next round has come, of which `now` is a part: what begins now ends a TTL after
    /// this, and never before.
    #[must_use]
    pub fn reading_at(&self, now: Instant) -> LeaseTime {
        let passed = self.last_round.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let reading = self.reading + passed.min(ROUND_MAX);
        LeaseTime(reading.as_micros().div_ceil(1_000) as u64)
    }

    /// How much real time did not count while there were leases.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.lag
    }

    /// How long the last complete round took.
    #[must_use]
    pub fn last_round(&self) -> Duration {
        self.took
    }

    /// There is no lease: the next round advances nothing and is not late.
    pub fn rest(&mut self) {
        self.last_round = None;
        self.marks.fill(None);
        self.missing = self.marks.len();
    }

    /// A mark that `runtime` sent came out of the inbox at `now`. Gives the round that it completes: one that reaches as
    /// far as all of them, for of what came after the earliest mark not everything has been heard.
    pub fn mark(&mut self, runtime: usize, sent: Instant, now: Instant) -> Option<Round> {
        if self.marks.get_mut(runtime)?.replace(sent).is_none() {
            self.missing -= 1;
        }
        if self.missing > 0 {
            return None;
        }
        let earliest = self.marks.iter().flatten().min().copied()?;
        self.marks.fill(None);
        self.missing = self.marks.len();
        let (may_expire, late) = self.round(earliest);
        let heard = self.reading + now.saturating_duration_since(earliest);
        let heard = LeaseTime(heard.as_micros().div_ceil(1_000) as u64);
        Some(Round { now: self.now(), heard, may_expire, late })
    }

    /// Whether leases may expire by the round that ends at `at`, and whether it is late.
    fn round(&mut self, at: Instant) -> (bool, bool) {
        self.took = Duration::ZERO;
        let Some(last) = self.last_round.replace(at) else { return (false, false) };
        let passed = at.saturating_duration_since(last);
        self.took = passed;
        let still = self.still_until.is_some_and(|until| at < until);
        let late = passed > ROUND_MAX;
        let counted = if still { Duration::ZERO } else { passed.min(ROUND_MAX) };
        self.reading += counted;
        self.lag += passed.saturating_sub(counted);
        if late {
            self.still_until = Some(at + STAND_STILL);
        } else if !still {
            self.still_until = None;
        }
        (!still && !late, late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A mark of `runtime` that is heard as it is sent.
    fn mark(clock: &mut LeaseClock, runtime: usize, at: Instant) -> Option<Round> {
        clock.mark(runtime, at, at)
    }

    fn round(reading: u64, may_expire: bool, late: bool) -> Round {
        Round { now: LeaseTime(reading), heard: LeaseTime(reading), may_expire, late }
    }

    #[test]
    fn a_round_needs_a_mark_of_every_runtime() {
        let (mut clock, start) = (LeaseClock::new(2), Instant::now());
        assert_eq!(mark(&mut clock, 0, start), None);
        assert_eq!(mark(&mut clock, 0, start), None);
        assert!(mark(&mut clock, 1, start).is_some());
        assert_eq!(mark(&mut clock, 1, start + ms(20)), None);
        // The other has told nothing of what came after 20 ms.
        let round = mark(&mut clock, 0, start + ms(30)).expect("both have sent one");
        assert_eq!((round.now, round.may_expire), (LeaseTime(20), true));
    }

    #[test]
    fn what_was_heard_on_the_way_of_a_mark_counts_from_its_end() {
        let (mut clock, start) = (LeaseClock::new(1), Instant::now());
        mark(&mut clock, 0, start);
        let on_its_way = clock.mark(0, start + ms(20), start + ms(75)).expect("one runtime");
        assert_eq!((on_its_way.now, on_its_way.heard), (LeaseTime(20), LeaseTime(75)));
        // Its way was not time in which nobody was heard.
        assert_eq!(mark(&mut clock, 0, start + ms(110)), Some(round(110, true, false)));
    }

    #[test]
    fn a_mark_from_before_a_rest_counts_no_more() {
        let (mut clock, start) = (LeaseClock::new(2), Instant::now());
        mark(&mut clock, 0, start);
        clock.rest();
        assert_eq!(mark(&mut clock, 1, start + ms(60_000)), None);
        assert!(mark(&mut clock, 0, start + ms(60_010)).is_some_and(|round| !round.late));
        assert_eq!(mark(&mut clock, 1, start + ms(60_020)), None);
        assert!(mark(&mut clock, 0, start + ms(60_030)).is_some_and(|round| round.now == LeaseTime(20) && !round.late));
    }

    #[test]
    fn a_pause_counts_for_100_ms_and_then_the_clock_stands_for_250() {
        let (mut clock, start) = (LeaseClock::new(1), Instant::now());
        let at = |clock: &mut LeaseClock, millis| mark(clock, 0, start + ms(millis)).expect("one runtime");
        at(&mut clock, 0);
        assert_eq!(at(&mut clock, 20).now, LeaseTime(20));
        let late = at(&mut clock, 30_020);
        assert_eq!(late, round(120, false, true));
        for millis in (30_040..30_270).step_by(20) {
            assert_eq!(at(&mut clock, millis), round(120, false, false));
        }
        let after = at(&mut clock, 30_280);
        assert_eq!((after.now, after.may_expire), (LeaseTime(140), true));
        assert_eq!(clock.lag(), ms(29_900 + 240));
    }

    #[test]
    fn the_first_round_after_a_rest_advances_nothing_and_is_not_late() {
        let (mut clock, start) = (LeaseClock::new(1), Instant::now());
        mark(&mut clock, 0, start);
        clock.rest();
        assert_eq!(mark(&mut clock, 0, start + ms(60_000)), Some(round(0, false, false)));
    }
}
