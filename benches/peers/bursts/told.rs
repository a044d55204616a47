//! What came of bursts as tables, in Markdown that is also readable as it is.

use std::fmt::Write as _;

use super::{
    Bursts,
    model::{Burst, GROWTH_MAX},
};
use crate::table::{aligned, duration, short};

/// The tables of a run.
pub fn of(found: &Bursts) -> String {
    let mut text = format!("# onair under bursts\n\n{}", found.taken.told());
    text.push_str(
        "- Beside each burst 1,064 leases are renewed, 500 beats a second, by calls and on ten streams; a watcher sees whether\n  \
         one of them goes offline. Others look up and register now and then.\n",
    );
    let _ = writeln!(
        text,
        "- Bars: beats p99 < 50 ms from the burst's beginning until all is as before; memory grows by less than {} MiB;\n  \
         nothing false goes offline, and whatever is refused names its limit and when to come again; all is as before\n  \
         within 5 s.\n",
        GROWTH_MAX >> 20
    );
    let mut rows = vec![TITLES.map(str::to_owned).to_vec()];
    rows.extend(found.bursts.iter().map(row));
    text.push_str(&aligned(&rows));
    for burst in &found.bursts {
        remarks(burst, &mut text);
    }
    text
}

const TITLES: [&str; 8] = [
    "burst",
    "took",
    "as before after",
    "beats before: p99, all",
    "beats meanwhile: p50, p99, all",
    "lookups and registrations: p50, p99",
    "MiB before, most, after",
    "bars",
];

fn row(burst: &Burst) -> Vec<String> {
    let (title, unit) = burst.name.title();
    let times = |micros: &[f64]| micros.iter().map(|micros| duration(*micros)).collect::<Vec<_>>().join(" · ");
    let (before, beats, probes) = (&burst.beats_before, &burst.beats, &burst.probes);
    let missed: Vec<_> = burst.bars().into_iter().filter(|(_, reached)| !reached).map(|(bar, _)| bar).collect();
    vec![
        format!("{title}: {} {unit}", short(burst.count as f64)),
        format!("{} s", short(burst.seconds)),
        burst.recovery.map_or_else(|| "not seen".to_owned(), |seconds| format!("{} s", short(seconds))),
        times(&[before.p99, before.max]),
        times(&[beats.p50, beats.p99, beats.max]),
        times(&[probes.p50, probes.p99]),
        burst.memory.map(|bytes| short((bytes >> 20) as f64)).join(" · "),
        if missed.is_empty() { "reached".to_owned() } else { format!("**missed: {}**", missed.join(", ")) },
    ]
}

/// What to know of a burst.
fn remarks(burst: &Burst, text: &mut String) {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let _ = writeln!(text, "\n## {}\n", burst.name.title().0);
    let _ = writeln!(
        text,
        "- Server's core {} busy, load's {}; those who beat were at most {} late to send, but for one in a hundred.",
        percent(burst.server_share),
        percent(burst.load_share),
        duration(burst.late)
    );
    for (reason, count) in &burst.refused {
        let _ = writeln!(text, "- Refused {} times: {reason}", short(*count as f64));
    }
    for (name, value) in &burst.notes {
        let _ = writeln!(text, "- {name}: {}", short(*value));
    }
    for fault in &burst.faults {
        let _ = writeln!(text, "- FAULT: {fault}");
    }
}
