//! What was found as tables, in Markdown that is also readable as it is: ratios first, then medians with the lowest and
//! highest.

use std::fmt::Write as _;

use crate::{
    bars,
    model::{Job, Middle, Run, Sample},
};

/// Against whom ratios are.
const OURS: &str = "onair";

/// The tables of a run.
pub fn of(run: &Run) -> String {
    let mut text = about(run);
    text.push_str(&bars::of(run));
    for job in Job::ALL {
        let peers: Vec<_> = run.peers.iter().filter(|peer| run.of(&peer.name, job).next().is_some()).collect();
        if peers.is_empty() {
            continue;
        }
        let mut rows = vec![TITLES.map(str::to_owned).to_vec()];
        rows.extend(peers.iter().map(|peer| row(run, &peer.name, job)));
        let _ = write!(text, "\n## {}\n\n{}", job.title(), aligned(&rows));
        for peer in peers {
            remarks(run, &peer.name, job, &mut text);
        }
    }
    text
}

const TITLES: [&str; 8] =
    ["", "onair against it", "headline (lowest–highest)", "server CPU each", "p50", "p99", "server", "load"];

fn about(run: &Run) -> String {
    let plan = &run.about.plan;
    let mut text = format!("# onair beside its peers\n\n{}", run.about.taken.told());
    let _ = writeln!(
        text,
        "- {} instances, {} calls in flight on {} connections, {} watchers by themselves and {} that share {} streams, {} rounds of {} s; one core for the server, another for the load.",
        plan.instances,
        plan.in_flight,
        plan.connections,
        plan.watchers,
        plan.sharing_watchers,
        plan.sharing_connections,
        plan.rounds,
        plan.seconds
    );
    for peer in &run.peers {
        let _ = match (&peer.version, &peer.skipped) {
            (_, Some(why)) => writeln!(text, "- {}: SKIPPED: {why}", peer.name),
            (Some(version), _) => writeln!(text, "- {}: {version}", peer.name),
            _ => writeln!(text, "- {}", peer.name),
        };
    }
    text
}

fn row(run: &Run, peer: &str, job: Job) -> Vec<String> {
    let headline = job.headline();
    let middle = run.middle(peer, job, headline.pick);
    let bound = run.of(peer, job).any(|sample| sample.load_bound);
    let span = |unit: &str, of: Option<Middle>| {
        of.map_or(String::new(), |m| format!("{} {unit} ({}–{})", short(m.median), short(m.min), short(m.max)))
    };
    let micros = |share: f64| {
        run.middle(peer, job, |sample| sample.quantile(share)).map_or(String::new(), |m| duration(m.median))
    };
    let percent = |pick: fn(&Sample) -> Option<f64>| {
        run.middle(peer, job, pick).map_or(String::new(), |m| format!("{:.0} %", m.median * 100.0))
    };
    vec![
        peer.to_owned(),
        ratio(run, peer, job).map_or(String::new(), |ratio| format!("{} ×", short(ratio))),
        format!("{}{}", if bound { "≥ " } else { "" }, span(headline.unit, middle)),
        span("µs", run.middle(peer, job, |sample| sample.server_us)),
        micros(0.5),
        micros(0.99),
        percent(|sample| sample.server_share),
        percent(|sample| sample.load_share),
    ]
}

/// How much better onair's headline is, in the middle of the rounds; a round's two see the same machine.
pub fn ratio(run: &Run, peer: &str, job: Job) -> Option<f64> {
    let headline = job.headline();
    let base = if job == Job::Floor { "tonic" } else { OURS };
    let rounds = 1..=run.about.plan.rounds;
    let in_round = |of: &str, round| run.of(of, job).find(|sample| sample.round == round).and_then(headline.pick);
    let ratios = rounds.filter_map(|round| {
        let (ours, theirs) = (in_round(base, round)?, in_round(peer, round)?);
        Some(if headline.more_is_better { ours / theirs } else { theirs / ours })
    });
    Middle::of(ratios).filter(|_| peer != base).map(|middle| middle.median)
}

/// What to know of a row.
fn remarks(run: &Run, peer: &str, job: Job, text: &mut String) {
    if run.of(peer, job).any(|sample| sample.load_bound) {
        let _ = writeln!(text, "\n{peer}: the load's core had nothing left while the server's had: it can do more.");
    }
    if let Some(floor) = run.middle(peer, job, |sample| sample.extra.get("floor cpu_ratio").copied()) {
        let _ = writeln!(
            text,
            "\n{peer}: {:.2} of the floor by server CPU ({:.2}–{:.2}), messages as long, in turn.",
            floor.median, floor.min, floor.max
        );
    }
    let faults: Vec<_> = run.of(peer, job).flat_map(|sample| &sample.faults).collect();
    for fault in faults {
        let _ = writeln!(text, "\n{peer}: FAULT: {fault}");
    }
}

/// Cells as wide as their columns.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:<width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule: Vec<_> = widths.iter().map(|&width| "-".repeat(width)).collect();
    let mut text = rows.first().map_or(String::new(), |head| line(head) + &line(&rule));
    rows.iter().skip(1).for_each(|row| text.push_str(&line(row)));
    text
}

/// Microseconds for people.
pub fn duration(micros: f64) -> String {
    match micros {
        m if m < 1_000.0 => format!("{} µs", short(m)),
        m if m < 1_000_000.0 => format!("{} ms", short(m / 1e3)),
        m => format!("{} s", short(m / 1e6)),
    }
}

/// About three digits, thousands apart.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) =
        text.split_once('.').map_or((&text[..], String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 && digit != '-' {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &rest
}
