//! The bars that onair set itself, and whether a run reached them.

use std::fmt::Write as _;

use crate::{
    model::{Job, Middle, Run, Sample},
    table::{aligned, duration, short},
};

/// What has to be reached.
struct Bar {
    what: &'static str,
    wanted: &'static str,
    /// Whether the figure is enough, and how it is told, as far as the run has it.
    measured: fn(&Run) -> Option<(bool, String)>,
}

const OURS: &str = "onair";

fn ours(run: &Run, job: Job, pick: impl Fn(&Sample) -> Option<f64>) -> Option<Middle> {
    run.middle(OURS, job, pick)
}

/// A figure beside the floor, which is measured in turn with it.
fn of_floor(run: &Run, job: Job, name: &str) -> Option<(bool, String)> {
    let share = ours(run, job, |sample| sample.extra.get(name).copied())?;
    let told = format!("{:.2} ({:.2}–{:.2})", share.median, share.min, share.max);
    Some((share.median >= 0.90, told))
}

/// How many a second one core of the server would do: the rate over how busy it was.
fn a_core(run: &Run, job: Job, wanted: f64) -> Option<(bool, String)> {
    let rate = ours(run, job, |sample| Some(sample.per_second / sample.server_share.filter(|share| *share > 0.0)?))?;
    let told = format!("{}/s a core ({}–{})", short(rate.median), short(rate.min), short(rate.max));
    Some((rate.median >= wanted, told))
}

/// How many times a peer's rate ours is, in the middle of the rounds.
fn times(run: &Run, job: Job, peer: &str, theirs: Job) -> Option<(bool, String)> {
    let rounds = (1..=run.about.plan.rounds).filter_map(|round| {
        let of = |peer, job| run.of(peer, job).find(|sample| sample.round == round).map(|sample| sample.per_second);
        Some(of(OURS, job)? / of(peer, theirs).filter(|rate| *rate > 0.0)?)
    });
    let ratio = Middle::of(rounds)?;
    let told = format!("{} × ({}–{})", short(ratio.median), short(ratio.min), short(ratio.max));
    Some((ratio.median >= 10.0, told))
}

/// The bars that a run of all jobs has figures for.
const BARS: [Bar; 11] = [
    Bar {
        what: "unary Heartbeat against the floor, by throughput",
        wanted: "≥ 0.90",
        measured: |run| of_floor(run, Job::Renew, "floor ratio"),
    },
    Bar {
        what: "the same by the server's CPU",
        wanted: "≥ 0.90",
        measured: |run| of_floor(run, Job::Renew, "floor cpu_ratio"),
    },
    Bar {
        what: "Lookup of 10 against the floor, by throughput",
        wanted: "≥ 0.90",
        measured: |run| of_floor(run, Job::Lookup, "floor ratio"),
    },
    Bar {
        what: "the same by the server's CPU",
        wanted: "≥ 0.90",
        measured: |run| of_floor(run, Job::Lookup, "floor cpu_ratio"),
    },
    Bar {
        what: "renewals by stream, one lease a message",
        wanted: "≥ 1,000,000/s a core",
        measured: |run| a_core(run, Job::RenewStream, 1e6),
    },
    Bar {
        what: "renewals by stream, 100 leases a message",
        wanted: "≥ 10,000,000/s a core",
        measured: |run| a_core(run, Job::RenewMany, 1e7),
    },
    Bar {
        what: "renewals by stream against etcd's keep-alives",
        wanted: "≥ 10 ×",
        measured: |run| times(run, Job::RenewStream, "etcd", Job::RenewStream),
    },
    Bar {
        what: "durable Register against etcd's grant and put",
        wanted: "≥ 10 ×",
        measured: |run| times(run, Job::Register, "etcd", Job::Register),
    },
    Bar {
        what: "fan-out, watchers that share streams",
        wanted: "≥ 1,000,000/s a core",
        measured: |run| a_core(run, Job::FanoutShared, 1e6),
    },
    Bar {
        what: "fan-out: p99 from the change to the watcher",
        wanted: "≤ 20 ms",
        measured: |run| {
            let late = ours(run, Job::FanoutShared, |sample| sample.quantile(0.99))?;
            Some((late.median <= 20_000.0, duration(late.median)))
        },
    },
    Bar {
        what: "fan-out: p50 as a share of etcd's",
        wanted: "≤ 0.10",
        measured: |run| {
            let late = |peer| run.middle(peer, Job::FanoutShared, |sample| sample.quantile(0.5));
            let share = late(OURS)?.median / late("etcd")?.median;
            Some((share <= 0.10, short(share)))
        },
    },
];

/// The bars as a table; nothing if the run has none of the figures.
pub fn of(run: &Run) -> String {
    let mut rows = vec![["bar", "wanted", "measured", ""].map(str::to_owned).to_vec()];
    for bar in BARS {
        if let Some((reached, told)) = (bar.measured)(run) {
            let judged = if reached { "reached" } else { "**not reached**" };
            rows.push([bar.what, bar.wanted, &told, judged].map(str::to_owned).to_vec());
        }
    }
    let mut text = String::new();
    if rows.len() > 1 {
        let _ = write!(text, "\n## Bars\n\n{}", aligned(&rows));
    }
    text
}
