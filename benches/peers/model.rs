//! What is measured and what came of it, as it is kept in JSON: tables and pictures are made of this alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::taken::Taken;

/// Everything that one command found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Where, when and how.
    pub about: About,
    /// Who took part, and who could not.
    pub peers: Vec<Peer>,
    /// One entry a job, peer and round.
    pub samples: Vec<Sample>,
}

/// Where, when and how figures were taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// All that is the same for figures of every kind.
    #[serde(flatten)]
    pub taken: Taken,
    /// What was asked for.
    pub plan: Plan,
}

/// What every job is done with, the same for all.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
pub struct Plan {
    /// Instances, each with a lease of its own and ten to a service.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub instances: u32,
    /// Seconds that a job is measured for, in each round.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Rounds; every peer has its turn in each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Connections for calls.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub connections: u32,
    /// Calls in flight, on all connections together.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub in_flight: u32,
    /// Messages unanswered on a stream, or commands on a connection, where renewals are streamed.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub stream_depth: u32,
    /// Watchers of the one instance that changes.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub watchers: u32,
    /// Connections that those share, where a peer lets them.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub watch_connections: u32,
    /// Watchers of that instance that share streams, where a peer has such.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    #[serde(default)]
    pub sharing_watchers: u32,
    /// Connections, each with a stream, that those share.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    #[serde(default)]
    pub sharing_connections: u32,
    /// Leases that lapse at once.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub lapses: u32,
    /// Seconds that those live.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..=60))]
    pub ttl: u32,
}

impl Plan {
    /// Calls in flight on each connection.
    pub fn depth(&self) -> usize {
        self.in_flight.div_ceil(self.connections) as usize
    }

    /// Services, ten instances each.
    pub fn services(&self) -> usize {
        (self.instances / 10) as usize
    }
}

/// One who took part, or should have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// What it is called here.
    pub name: String,
    /// What it says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it did not take part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// What can be measured, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// A call that does nothing.
    Floor,
    /// What an instance takes of the server's memory.
    Memory,
    /// Registrations, each with its own lease.
    Register,
    /// Renewals, each a call of its own.
    Renew,
    /// Renewals on streams, one lease a message.
    RenewStream,
    /// The same, a hundred leases a message.
    RenewMany,
    /// Lookups of a service of ten.
    Lookup,
    /// One change told to all watchers, each on a stream or connection of its own where there is a choice.
    Fanout,
    /// The same, many watches sharing a stream.
    FanoutShared,
    /// From a deadline to the event that says so.
    Expire,
    /// From `kill -9` and a new start to the first right answer.
    Restart,
}

impl Job {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Floor,
        Self::Memory,
        Self::Register,
        Self::Renew,
        Self::RenewStream,
        Self::RenewMany,
        Self::Lookup,
        Self::Fanout,
        Self::FanoutShared,
        Self::Expire,
        Self::Restart,
    ];

    /// What it is called in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Memory => "memory",
            Self::Register => "register",
            Self::Renew => "renew",
            Self::RenewStream => "renew-stream",
            Self::RenewMany => "renew-many",
            Self::Lookup => "lookup",
            Self::Fanout => "fanout",
            Self::FanoutShared => "fanout-shared",
            Self::Expire => "expire",
            Self::Restart => "restart",
        }
    }

    /// What it is called above a table or picture.
    pub fn title(self) -> &'static str {
        match self {
            Self::Floor => "A call that does nothing",
            Self::Memory => "Memory of an instance",
            Self::Register => "Register, each with its own lease",
            Self::Renew => "Renew, a call each",
            Self::RenewStream => "Renew on a stream, one lease a message",
            Self::RenewMany => "Renew on a stream, 100 leases a message",
            Self::Lookup => "Look up a service of ten",
            Self::Fanout => "One change to all watchers",
            Self::FanoutShared => "One change to all watchers that share streams",
            Self::Expire => "From a deadline to the event",
            Self::Restart => "From kill -9 to the first right answer",
        }
    }

    /// Its headline: how many a second, or how long or much.
    pub fn headline(self) -> Headline {
        match self {
            Self::Memory => Headline { unit: "bytes", more_is_better: false, pick: |sample| sample.value },
            Self::Restart => Headline { unit: "s", more_is_better: false, pick: |sample| sample.value },
            Self::Expire => Headline { unit: "ms at most", more_is_better: false, pick: |sample| sample.value },
            _ => Headline { unit: "/s", more_is_better: true, pick: |sample| Some(sample.per_second) },
        }
    }
}

/// The figure of a job that is compared first.
pub struct Headline {
    /// What it counts.
    pub unit: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// Where it is.
    pub pick: fn(&Sample) -> Option<f64>,
}

/// One job of one peer in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Whose.
    pub peer: String,
    /// What.
    pub job: Job,
    /// Which round, from 1.
    pub round: u32,
    /// How many of what the job counts.
    pub count: u64,
    /// In how long.
    pub seconds: f64,
    /// How many a second.
    pub per_second: f64,
    /// The figure itself where that is no rate: bytes, seconds or milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Shares of all, and the microseconds that they took at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latency_us: Vec<(f64, f64)>,
    /// CPU time of the server for each, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_us: Option<f64>,
    /// How busy the server's core was with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_share: Option<f64>,
    /// How busy the load's core was with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_share: Option<f64>,
    /// Whether the load, not the server, is what was measured.
    #[serde(default)]
    pub load_bound: bool,
    /// What else was found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, f64>,
    /// What must not be: wrong replies, missing or repeated events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// A core as busy as this has nothing left.
const BUSY: f64 = 0.95;

impl Sample {
    /// One that nothing is known of yet.
    pub fn new(job: Job) -> Self {
        Self {
            peer: String::new(),
            job,
            round: 0,
            count: 0,
            seconds: 0.0,
            per_second: 0.0,
            value: None,
            latency_us: Vec::new(),
            server_us: None,
            server_share: None,
            load_share: None,
            load_bound: false,
            extra: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// Notes whether the load was the bottleneck: its core had nothing left while the server's had.
    pub fn judge(mut self) -> Self {
        let (load, server) = (self.load_share.unwrap_or(0.0), self.server_share.unwrap_or(1.0));
        self.load_bound = load >= BUSY && server < BUSY;
        self
    }

    /// The latency at a share of all.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        self.latency_us.iter().find(|(of, _)| *of == share).map(|(_, micros)| *micros)
    }
}

/// The middle of some figures, and the lowest and highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Middle {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Middle {
    /// Of figures, if there are any.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<_> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => return None,
            len if len % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }
}

impl Run {
    /// The samples of a peer's job.
    pub fn of<'a>(&'a self, peer: &'a str, job: Job) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.peer == peer && sample.job == job)
    }

    /// The middle of one figure of a peer's job.
    pub fn middle(&self, peer: &str, job: Job, pick: impl Fn(&Sample) -> Option<f64>) -> Option<Middle> {
        Middle::of(self.of(peer, job).filter_map(pick))
    }
}
