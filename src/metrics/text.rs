//! The two text formats in which metrics are asked for: OpenMetrics, and Prometheus' older one.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use super::Metrics;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    /// The media type of an answer in it.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The table as the encoder asks for it.
#[derive(Debug)]
struct Table(Arc<Metrics>);

impl Collector for Table {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (row, value) in self.0.rows() {
            value.encode(encoder.encode_descriptor(row.name, row.help, row.unit.as_ref(), value.kind())?)?;
        }
        Ok(())
    }
}

impl Metrics {
    /// All values now, in this format.
    #[must_use]
    pub fn text(self: &Arc<Self>, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Table(Arc::clone(self))));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &registry);
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => as_prometheus(&text),
        }
    }
}

/// The same samples in the older format, whose families of counters and infos are named with their suffix, and which
/// has neither units nor an end.
fn as_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            help = told;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.rsplit_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            let help = help.strip_prefix(name).unwrap_or_default();
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name}{suffix}{help}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::metrics::{BeatState, Front, Rpc};

    fn sample() -> Arc<Metrics> {
        let metrics = Arc::new(Metrics::default());
        metrics.beats.of((BeatState::Renewed,)).add(7);
        metrics.calls.of((Front::Grpc, Rpc::Lookup, Code::NotFound)).inc();
        metrics.call_duration.of((Front::Grpc, Rpc::Lookup)).observe(Duration::from_micros(30));
        metrics.clock_lag.add(Duration::from_millis(1_500));
        metrics
    }

    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn open_metrics_has_units_and_an_end() {
        let text = sample().text(Format::OpenMetrics);
        has(
            &text,
            &[
                "# TYPE onair_beats counter\nonair_beats_total{state=\"RENEWED\"} 7",
                "onair_calls_total{front=\"grpc\",rpc=\"Lookup\",code=\"NOT_FOUND\"} 1",
                "# UNIT onair_call_duration_seconds seconds",
                "onair_call_duration_seconds_bucket{le=\"0.00005\",front=\"grpc\",rpc=\"Lookup\"} 1",
                "onair_lease_clock_lag_seconds_total 1.5",
                "# EOF",
            ],
        );
        assert_eq!(text.matches("onair_calls_total{").count(), 1, "what never occurred is not shown");
    }

    #[test]
    fn the_older_format_names_families_by_their_samples() {
        let text = sample().text(Format::Prometheus);
        has(
            &text,
            &[
                "# HELP onair_beats_total Beats by what became of them",
                "# TYPE onair_beats_total counter\nonair_beats_total{state=\"RENEWED\"} 7",
                "# TYPE onair_build_info gauge",
                "# TYPE onair_call_duration_seconds histogram",
                "onair_lease_clock_lag_seconds_total 1.5",
            ],
        );
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
    }
}
