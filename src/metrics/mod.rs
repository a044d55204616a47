//! Everything that is measured: one table gives each metric its name, unit, labels and help, what is shown at `/metrics`,
//! and what docs/operating.md says. Whoever does the work is handed the values and counts there. Knows nobody who does,
//! and never waits for anyone.

pub mod labels;
mod process;
mod text;
mod value;

use std::sync::Arc;

use prometheus_client::{metrics::MetricType, registry::Unit};
use tonic::Code;

pub use self::{
    labels::{
        BeatState, Bounded, Certificate, Drain, Front, Handshake, Happened, HttpStatus, Lane, Limit, Protocol, QuotaOf,
        Reload, Reset, Rpc,
    },
    text::Format,
    value::{Amounts, Counter, Durations, Family, Gauge, Info, Moment, Seconds, Value},
};
use crate::proto::{ErrorReason, Limits};

/// One metric of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name without unit and suffix.
    name: &'static str,
    unit: Option<Unit>,
    /// What it counts, as a phrase without a full stop.
    pub help: &'static str,
}

impl Row {
    /// The name that its samples begin with.
    #[must_use]
    pub fn sample(&self, kind: MetricType) -> String {
        let unit = self.unit.as_ref().map_or_else(String::new, |unit| format!("_{}", unit.as_str()));
        let suffix = match kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("{}{unit}{suffix}", self.name)
    }
}

/// Declares the table, and the struct of its values.
macro_rules! metrics {
    ($($field:ident: $type:ty = $value:expr, $name:literal $(in $unit:ident)?, $help:literal;)+) => {
        /// The values, each by the name of what it counts; see the table for more.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $type,)+
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self { $($field: $value,)+ }
            }
        }

        impl Metrics {
            /// The table, in the order in which it is shown, with the values.
            pub fn rows(&self) -> Vec<(Row, &dyn Value)> {
                #[allow(unused_mut, unused_assignments)]
                let rows: Vec<(Row, &dyn Value)> = vec![$({
                    let mut unit = None;
                    $(unit = Some(Unit::$unit);)?
                    (Row { name: $name, unit, help: $help }, &self.$field as &dyn Value)
                },)+];
                rows
            }
        }
    };
}

/// What was built.
const BUILD: [(&str, &str); 2] = [("version", env!("CARGO_PKG_VERSION")), ("commit", env!("ONAIR_COMMIT"))];

metrics! {
    calls: Family<(Front, Rpc, Code), Counter> = Family::sparse(), "onair_calls",
        "Calls and streams that ended, by how they ended";
    call_duration: Family<(Front, Rpc), Durations> = Family::sparse(), "onair_call_duration" in Seconds,
        "From when a call was read until its answer was ready; streams are not in it";
    streams: Family<(Front, Rpc), Gauge> = Family::sparse(), "onair_streams",
        "Streams open now";
    refusals: Family<(ErrorReason,), Counter> = Family::default(), "onair_refusals",
        "Calls, streams, subscriptions and requests that ended with an error, by the reason that they were told";
    limit_refusals: Family<(Limit,), Counter> = Family::default(), "onair_limit_refusals",
        "Those that a limit refused, by the limit's name";
    quota_refusals: Family<(QuotaOf, Bounded), Counter> = Family::default(), "onair_quota_refusals",
        "Those that a quota refused, by whose it is and by its name; one that several refuse is counted for each";
    limits: Family<(Limit,), Gauge> = Family::default(), "onair_limit",
        "The limits as they are set, by the names that GetServerInfo tells";
    http_answers: Family<(HttpStatus,), Counter> = Family::sparse(), "onair_http_answers",
        "Answers of HTTP other than gRPC, by status; those that stand for a call are among the calls, too";
    connections: Family<(Protocol,), Gauge> = Family::default(), "onair_connections",
        "Connections open now, by what they speak";
    connections_opened: Family<(Protocol,), Counter> = Family::default(), "onair_connections_opened",
        "Connections that said what they speak";
    connections_refused: Counter = Counter::default(), "onair_connections_refused",
        "Connections that were closed at once: max_connections were open, or on the port of probes as many as it has places for";
    tls_handshakes: Family<(Handshake,), Counter> = Family::default(), "onair_tls_handshakes",
        "TLS handshakes that ended, by how they ended";
    tls_reloads: Family<(Reload,), Counter> = Family::default(), "onair_tls_reloads",
        "How often the certificates were read again";
    audit_lines: Counter = Counter::default(), "onair_audit_lines",
        "Lines of the audit log";
    audit_lost: Counter = Counter::default(), "onair_audit_lost",
        "Those of them that were not written: they came too fast, or their file could not be written";
    jwt_reloads: Family<(Reload,), Counter> = Family::default(), "onair_jwt_reloads",
        "How often the keys of JSON Web Tokens were read again";
    tls_expiry: Family<(Certificate,), Moment> = Family::sparse(), "onair_tls_certificate_expiry" in Seconds,
        "When the certificates in force expire, in Unix time: the first of the server's chain, the last authority of clients";

    inbox: Family<(Lane,), Gauge> = Family::default(), "onair_inbox",
        "What waits for the registry's task now";
    inbox_room: Family<(Lane,), Gauge> = Family::default(), "onair_inbox_room",
        "Places of each lane, taken or free: what finds none is refused OVERLOADED";
    inbox_wait: Family<(Lane,), Durations> = Family::default(), "onair_inbox_wait" in Seconds,
        "How long it waited there; of the beats' lane the lease clock's marks are timed";
    latch_wait: Durations = Durations::default(), "onair_latch_wait" in Seconds,
        "How long commands and beats waited for a commit on the same key";
    proposals: Gauge = Gauge::default(), "onair_proposals",
        "Changes that the store has and has not committed yet";

    published: Counter = Counter::default(), "onair_published",
        "Events that applications published";
    published_handed: Counter = Counter::default(), "onair_published_handed",
        "How often one of them was handed to a watch";
    published_lost: Counter = Counter::default(), "onair_published_lost",
        "Of those, the ones that a slow reader lost";

    waiting: Gauge = Gauge::default(), "onair_waiting_registrations",
        "Registrations that wait for what they need";

    draining: Gauge = Gauge::default(), "onair_drains",
        "Drains that wait for watches now";
    drained: Family<(Drain,), Counter> = Family::default(), "onair_drain_watches",
        "Watches that drains were about, by how they stood when the drain was answered";

    commit: Durations = Durations::default(), "onair_commit_duration" in Seconds,
        "How long each write with its fsync took; all that gathered meanwhile shares the next";
    commit_commands: Amounts = Amounts::default(), "onair_commit_commands",
        "Commands that shared a write";
    commits: Counter = Counter::default(), "onair_commits",
        "Revisions committed";
    commit_failures: Counter = Counter::default(), "onair_commit_failures",
        "Writes that failed, after which the store is away until it was opened again";
    store_away: Gauge = Gauge::default(), "onair_store_away",
        "1 while the store is away: changes are refused, reads, beats and watches go on";

    leases: Gauge = Gauge::default(), "onair_leases",
        "Leases kept";
    beats: Family<(BeatState,), Counter> = Family::default(), "onair_beats",
        "Beats by what became of them";
    lapses: Counter = Counter::default(), "onair_lapses",
        "Leases past their deadline that were proposed for removal; what became of it is among the events";
    lapse_delay: Durations = Durations::default(), "onair_lapse_delay" in Seconds,
        "How long after its deadline, on the lease clock, a lapse was found";
    breaker: Gauge = Gauge::default(), "onair_breaker",
        "1 if lapses are held back when most of a service's instances in a zone fall silent at once";
    breaker_held: Gauge = Gauge::default(), "onair_breaker_held",
        "Instances held back now: SUSPECT";
    breaker_zones: Gauge = Gauge::default(), "onair_breaker_zones",
        "How many services' zones they are of";
    breaker_trips: Counter = Counter::default(), "onair_breaker_trips",
        "How often a service's zone began to be held back";
    breaker_released: Counter = Counter::default(), "onair_breaker_released",
        "Instances that were held back and heard of again";
    breaker_gone: Counter = Counter::default(), "onair_breaker_gone",
        "Instances that were held back and went, unheard of";
    clock_lag: Seconds = Seconds::default(), "onair_lease_clock_lag" in Seconds,
        "Time that the lease clock did not count while there were leases";
    clock_rounds: Durations = Durations::default(), "onair_lease_clock_round" in Seconds,
        "From one complete round of marks to the next; more than 0.1 is a stall";
    late_rounds: Counter = Counter::default(), "onair_lease_clock_late_rounds",
        "Stalls: rounds of marks that came late, for which no lease pays";

    instances: Gauge = Gauge::default(), "onair_instances",
        "Instances registered";
    services: Gauge = Gauge::default(), "onair_services",
        "Services known";
    namespaces: Gauge = Gauge::default(), "onair_namespaces",
        "Namespaces";
    revision: Gauge = Gauge::default(), "onair_revision",
        "The last committed revision";
    events: Family<(Happened,), Counter> = Family::default(), "onair_events",
        "Changes of instances that watches can see, by cause; UPDATED where a change has none";

    watches: Gauge = Gauge::default(), "onair_watches",
        "Watches, subscriptions and health watches open now";
    readers: Gauge = Gauge::default(), "onair_watch_readers",
        "Streams of Watch and Subscribe open now";
    lagging: Gauge = Gauge::default(), "onair_watch_lagging",
        "Those of them that have something to read";
    lag_max: Gauge = Gauge::default(), "onair_watch_lag_max_revisions",
        "How many revisions the slowest of them is behind";
    lag_total: Gauge = Gauge::default(), "onair_watch_lag_revisions",
        "How many revisions all of them together are behind";
    lag_bytes: Gauge = Gauge::default(), "onair_watch_lag_max" in Bytes,
        "How many bytes of the log the slowest is behind: at the log's size it is reset";
    resets: Family<(Reset,), Counter> = Family::default(), "onair_watch_resets",
        "Watches and subscriptions that were told to begin anew";
    snapshots: Counter = Counter::default(), "onair_watch_snapshots",
        "Snapshots begun, by a new watch or after a reset";
    messages: Counter = Counter::default(), "onair_watch_messages",
        "Messages given to Watch and Subscribe streams";
    message_bytes: Counter = Counter::default(), "onair_watch_message" in Bytes,
        "Their bytes, before the transport's own";

    log_bytes: Gauge = Gauge::default(), "onair_log" in Bytes,
        "Kept events, as max_log_bytes counts them";
    log_records: Gauge = Gauge::default(), "onair_log_records",
        "Revisions with kept events";
    log_oldest: Gauge = Gauge::default(), "onair_log_oldest_revision",
        "A watch can continue from this revision or a later one";

    build: Info = Info::new(&BUILD), "onair_build",
        "What was built";
    process_cpu: Seconds = Seconds::default(), "process_cpu" in Seconds,
        "CPU time of the process, its own and the system's for it";
    process_start: Moment = Moment::default(), "process_start_time" in Seconds,
        "When the process began, in Unix time";
    process_resident: Gauge = Gauge::default(), "process_resident_memory" in Bytes,
        "Memory that it has";
    process_virtual: Gauge = Gauge::default(), "process_virtual_memory" in Bytes,
        "Addresses that it has";
    process_fds: Gauge = Gauge::default(), "process_open_fds",
        "File descriptors open now";
    process_max_fds: Gauge = Gauge::default(), "process_max_fds",
        "File descriptors that it may have";
    process_threads: Gauge = Gauge::default(), "process_threads",
        "Its threads";
}

impl Metrics {
    /// Shows the limits that the server advertises.
    pub fn set_limits(&self, limits: &Limits) {
        for limit in Limit::ALL {
            self.limits.of((*limit,)).set(limit.value(limits));
        }
    }

    /// A message of so many bytes was given to a stream of a watch.
    pub fn sent(&self, bytes: usize) {
        self.messages.inc();
        self.message_bytes.add(bytes as u64);
    }
}

/// A connection counts as open as long as this lives.
#[derive(Debug)]
pub struct Connection {
    metrics: Arc<Metrics>,
    protocol: Protocol,
}

impl Connection {
    /// One more, that speaks this.
    #[must_use]
    pub fn open(metrics: &Arc<Metrics>, protocol: Protocol) -> Self {
        metrics.connections_opened.of((protocol,)).inc();
        metrics.connections.of((protocol,)).inc();
        Self { metrics: Arc::clone(metrics), protocol }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connections.of((self.protocol,)).dec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_help_are_in_the_manner_of_prometheus() {
        let metrics = Metrics::default();
        let mut seen = HashSet::new();
        for (row, value) in metrics.rows() {
            let name = row.sample(value.kind());
            assert!(seen.insert(name.clone()), "{name} is there twice");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            // One line, nothing to escape in either format, and a phrase.
            assert!(!row.help.contains(['\n', '\\', '"', '|']) && !row.help.ends_with('.'), "{name}: {}", row.help);
            assert!(value.labels().iter().all(|label| *label != "le"), "{name}");
        }
    }
}
