//! What bursts there are and what came of them, as it is kept in JSON: table and picture are made of this alone.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Sizes, beside::Sample};
use crate::taken::Taken;

/// Everything that one command found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bursts {
    /// Where, when and how.
    #[serde(flatten)]
    pub taken: Taken,
    /// How large they were.
    pub sizes: Sizes,
    /// One after the other, each on a fresh server.
    pub bursts: Vec<Burst>,
}

/// What may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// Leases that lapse at once.
    Expire,
    /// Watchers that come back and resume, sharing connections.
    Resume,
    /// The same, each on a connection of its own.
    ResumeAlone,
    /// Snapshots of a large service.
    Snapshots,
    /// Lookups of it.
    Lookups,
    /// A service that flaps before many watchers.
    Flap,
    /// Changes while some of the watchers do not read.
    Stalled,
    /// Several times as many calls as the server can answer.
    Overload,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Expire,
        Self::Resume,
        Self::ResumeAlone,
        Self::Snapshots,
        Self::Lookups,
        Self::Flap,
        Self::Stalled,
        Self::Overload,
    ];

    /// What it is, and of what it is so many.
    pub fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Expire => ("Leases that lapse at once", "lapses"),
            Self::Resume => ("Watchers that come back and resume", "watchers"),
            Self::ResumeAlone => ("The same, a connection each", "watchers"),
            Self::Snapshots => ("Snapshots of a large service", "snapshots"),
            Self::Lookups => ("Lookups of a large service", "lookups"),
            Self::Flap => ("A service that flaps", "deliveries"),
            Self::Stalled => ("Watchers that stop reading", "deliveries"),
            Self::Overload => ("More calls than can be answered", "answers"),
        }
    }
}

/// What came of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Burst {
    /// Which.
    pub name: Name,
    /// How many of what it counts.
    pub count: u64,
    /// How long it took until all that was asked for was answered.
    pub seconds: f64,
    /// Seconds after it until everything took no longer than before; none: not while it was looked at.
    pub recovery: Option<f64>,
    /// How long beats took before it…
    pub beats_before: Latency,
    /// …and from its beginning until all was as before.
    pub beats: Latency,
    /// The same of lookups and registrations that others made beside it.
    pub probes_before: Latency,
    /// From its beginning until all was as before.
    pub probes: Latency,
    /// How late those who beat were to send at most but for one in a hundred, in microseconds: the load's own fault.
    pub late: f64,
    /// Bytes of the server's memory before, at most, and afterwards.
    pub memory: [u64; 3],
    /// How busy the server's core was.
    pub server_share: f64,
    /// How busy the load's core was.
    pub load_share: f64,
    /// What was refused, by reason; all of it came again.
    pub refused: BTreeMap<String, u64>,
    /// What else was found.
    pub notes: BTreeMap<String, f64>,
    /// How long beats took as time went by.
    pub curve: Vec<Point>,
    /// What must not be.
    pub faults: Vec<String>,
}

/// How long things took, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many there were.
    pub count: usize,
    /// Half of them.
    pub p50: f64,
    /// All but one in a hundred.
    pub p99: f64,
    /// All.
    pub max: f64,
}

impl Latency {
    /// Of these.
    pub fn of(samples: &[Sample]) -> Self {
        Self::of_micros(samples.iter().map(|sample| sample.micros).collect())
    }

    /// Of these.
    pub fn of_durations(times: Vec<Duration>) -> Self {
        Self::of_micros(times.into_iter().map(|time| time.as_secs_f64() * 1e6).collect())
    }

    fn of_micros(mut micros: Vec<f64>) -> Self {
        micros.sort_by(f64::total_cmp);
        let at = |share: f64| match micros.len() {
            0 => 0.0,
            count => micros[((count as f64 * share).ceil() as usize).clamp(1, count) - 1],
        };
        Self { count: micros.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// How long beats took at a moment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the burst began.
    pub at: f64,
    /// Half of them, in microseconds.
    pub p50: f64,
    /// All of them.
    pub max: f64,
}

/// The longest that all beats but one in a hundred may take, in microseconds.
const BEATS_MAX: f64 = 50_000.0;
/// The most seconds until everything is as before.
const RECOVERY_MAX: f64 = 5.0;
/// What memory may grow by whatever comes: what is kept of events and messages (64 MiB each), of replies, and room for
/// what is open.
pub const GROWTH_MAX: u64 = 512 << 20;

impl Burst {
    /// The bars, and whether each was reached.
    pub fn bars(&self) -> [(&'static str, bool); 4] {
        let offline = self.faults.is_empty();
        let grown = self.memory[1].saturating_sub(self.memory[0]);
        [
            ("beats", self.beats.p99 < BEATS_MAX),
            ("memory", grown <= GROWTH_MAX),
            ("no fault", offline),
            ("recovery", self.recovery.is_some_and(|seconds| seconds <= RECOVERY_MAX)),
        ]
    }
}
