//! What came out, as a table for people and as JSON for programs.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{Histogram, progress::grouped};

/// A share of one core above which a generator thread is called the bottleneck.
const BOTTLENECK: f64 = 0.9;

/// Everything one run found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The server's version and whether it keeps what it is told.
    pub server: String,
    /// One entry a measurement.
    pub jobs: Vec<Figures>,
}

impl Report {
    /// Whether anything was found that must not be.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.jobs.iter().any(|job| !job.faults.is_empty())
    }
}

/// One measurement.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// What was measured.
    pub job: String,
    /// What is counted.
    pub unit: &'static str,
    /// How many, in the measured time.
    pub count: u64,
    /// The measured time.
    pub seconds: f64,
    /// How many a second.
    pub per_second: f64,
    /// How long each took, where that is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
    /// CPU time of the server for each, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_us: Option<f64>,
    /// The same as a share of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_share: Option<f64>,
    /// How busy the busiest thread of this program was, as a share of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_share: Option<f64>,
    /// The comparison with the floor, or with another job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
    /// What else was found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<Extra>,
    /// What to know when reading the figures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What must not be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// Quantiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50: f64,
    /// 9 of 10 took no longer.
    pub p90: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// 999 of 1,000 took no longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    /// Of a histogram that holds something.
    pub(in crate::cli::bench) fn of(histogram: &Histogram) -> Option<Self> {
        let micros = |share| histogram.quantile(share).as_secs_f64() * 1e6;
        let max = histogram.max().as_secs_f64() * 1e6;
        (histogram.count() > 0).then(|| Self {
            p50: micros(0.5),
            p90: micros(0.9),
            p99: micros(0.99),
            p999: micros(0.999),
            max,
        })
    }
}

/// A job against what was measured in turn with it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Against {
    /// What that is.
    pub base: &'static str,
    /// Its calls a second, over all its slices.
    pub per_second: f64,
    /// The job's throughput as a share of that: median of the pairs.
    pub ratio: f64,
    /// The lowest of the pairs.
    pub ratio_min: f64,
    /// The highest of the pairs.
    pub ratio_max: f64,
    /// How many pairs.
    pub pairs: usize,
    /// CPU time of the server for each of its calls, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_us: Option<f64>,
    /// That CPU time as a share of the job's: median of the pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ratio: Option<f64>,
}

/// A figure that only some jobs have.
#[derive(Clone, Debug, Serialize)]
pub struct Extra {
    /// What it is.
    pub name: &'static str,
    /// The figure.
    pub value: f64,
    /// What it counts.
    pub unit: &'static str,
}

impl Figures {
    /// Adds a figure that only this job has.
    pub(in crate::cli::bench) fn extra(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.extra.push(Extra { name, value, unit });
    }

    /// Says so if the generator is what was measured.
    pub(in crate::cli::bench) fn judge_generator(&mut self) {
        if let Some(share) = self.generator_share.filter(|share| *share > BOTTLENECK) {
            self.notes.push(format!(
                "the load side was the bottleneck (a thread of it {:.0} % busy): use more --threads",
                share * 100.0
            ));
        }
    }

    fn cells(&self) -> [String; 8] {
        let micros = |pick: fn(&Latency) -> f64| self.latency_us.as_ref().map_or(String::new(), |l| duration(pick(l)));
        let percent = |share: Option<f64>| share.map_or(String::new(), |share| format!("{:.0} %", share * 100.0));
        [
            self.job.clone(),
            format!("{} {}/s", rate(self.per_second), self.unit),
            micros(|latency| latency.p50),
            micros(|latency| latency.p99),
            micros(|latency| latency.max),
            self.server_us.map_or(String::new(), |micros| format!("{} µs", short(micros))),
            percent(self.server_share),
            percent(self.generator_share),
        ]
    }
}

const TITLES: [&str; 8] = ["job", "rate", "p50", "p99", "max", "server each", "server", "load"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.server)?;
        let rows: Vec<_> = self.jobs.iter().map(Figures::cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([TITLES[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; 8] = std::array::from_fn(width);
        let line = |cells: [&str; 8]| {
            let mut line = String::new();
            for (column, cell) in cells.into_iter().enumerate() {
                let _ = match column {
                    0 => write!(line, "{cell:<width$}", width = widths[0]),
                    _ => write!(line, "  {cell:>width$}", width = widths[column]),
                };
            }
            line
        };
        writeln!(f, "{}", line(TITLES))?;
        for (row, job) in rows.iter().zip(&self.jobs) {
            writeln!(f, "{}", line(std::array::from_fn(|column| row[column].as_str())).trim_end())?;
            details(f, job)?;
        }
        Ok(())
    }
}

/// The lines below a job's row.
fn details(f: &mut fmt::Formatter<'_>, job: &Figures) -> fmt::Result {
    if let Some(base) = &job.against {
        write!(
            f,
            "    {:.2} of the {}'s {}/s (median of {} pairs, {:.2} to {:.2})",
            base.ratio,
            base.base,
            rate(base.per_second),
            base.pairs,
            base.ratio_min,
            base.ratio_max
        )?;
        if let (Some(micros), Some(ratio)) = (base.server_us, base.cpu_ratio) {
            write!(f, "; by server CPU {ratio:.2} ({} {} µs)", base.base, short(micros))?;
        }
        writeln!(f)?;
    }
    for extra in &job.extra {
        let value = if extra.value.fract() == 0.0 { grouped(extra.value as u64) } else { short(extra.value) };
        writeln!(f, "    {}", format!("{}: {value} {}", extra.name, extra.unit).trim_end())?;
    }
    for note in &job.notes {
        writeln!(f, "    {note}")?;
    }
    for fault in &job.faults {
        writeln!(f, "    FAULT: {fault}")?;
    }
    Ok(())
}

/// Microseconds for people.
fn duration(micros: f64) -> String {
    match micros {
        m if m < 1_000.0 => format!("{m:.0} µs"),
        m if m < 1_000_000.0 => format!("{} ms", short(m / 1e3)),
        m => format!("{:.2} s", m / 1e6),
    }
}

/// Whole numbers when large.
fn rate(value: f64) -> String {
    if value >= 100.0 { grouped(value.round() as u64) } else { short(value) }
}

/// About three digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1_000.0 => grouped(value.round() as u64),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
