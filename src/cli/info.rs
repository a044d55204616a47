//! `onair info`: what the server says of itself.

use tonic::transport::Channel;

use super::{
    curl,
    failure::{CallFailed, Failure},
    session::{Line, Session, from_wire},
    text::{Table, human, human_bytes, human_count, plural},
};
use crate::{
    config::{ClientSettings, Given},
    proto::{Breaker, GetServerInfoRequest, GetServerInfoResponse, Limits, registry_client::RegistryClient},
};

/// Arguments of `info`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  onair info\n  onair info --url registry.example:6624 --output json")]
pub struct Args {
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Asks and shows.
///
/// # Errors
/// What went wrong.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut session = Session::open(&args.given)?;
    if session.print.is_curl() {
        return curl::show(&session, "GetServerInfo", &GetServerInfoRequest {});
    }
    let info = server_info(&mut session.line).await?;
    if session.print.is_json() {
        return session.print.message("GetServerInfoResponse", &info);
    }
    let mut table = Table::new(["SERVER", &session.line.host()]);
    for (name, value) in rows(&info) {
        table.row([name, value]);
    }
    session.print.table(&table)
}

/// One GetServerInfo.
///
/// # Errors
/// The call failed.
pub async fn server_info(line: &mut Line) -> Result<GetServerInfoResponse, CallFailed> {
    let send = async |channel: Channel, request| RegistryClient::new(channel).get_server_info(request).await;
    line.call("ask the server about itself", line.timeout(), GetServerInfoRequest {}, send).await
}

fn rows(info: &GetServerInfoResponse) -> Vec<(String, String)> {
    let counts = info.counts.unwrap_or_default();
    let mut rows: Vec<(&str, String)> = vec![
        ("registry", info.registry_id.clone()),
        ("version", info.version.clone()),
        ("durable", if info.durable { "yes".to_owned() } else { "no, what is registered ends with it".to_owned() }),
        ("store", if info.store_unavailable.is_empty() { "ok".to_owned() } else { info.store_unavailable.clone() }),
        ("epoch", info.epoch.to_string()),
        ("revision", info.revision.to_string()),
        ("oldest resumable revision", info.oldest_resumable_revision.to_string()),
        ("features", info.features.join(", ")),
        ("members", info.members.join(", ")),
        ("instances", human_count(counts.instances)),
        ("services", human_count(counts.services)),
        ("namespaces", human_count(counts.namespaces)),
        ("watches", human_count(counts.watches)),
        ("waiting", human_count(counts.waiting)),
        ("applications", human_count(counts.applications)),
    ];
    rows.push(("breaker", breaker(&info.breaker.unwrap_or_default())));
    let intervals = info.intervals.unwrap_or_default();
    for (name, value) in [
        ("default ttl", intervals.default_ttl),
        ("min ttl", intervals.min_ttl),
        ("max ttl", intervals.max_ttl),
        ("bookmark interval", intervals.bookmark_interval),
        ("restart grace", intervals.restart_grace),
    ] {
        rows.push((name, from_wire(value).map_or_else(String::new, human)));
    }
    rows.extend(limits(&info.limits.unwrap_or_default()));
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What the server says of lapses that it holds back, in a line.
fn breaker(breaker: &Breaker) -> String {
    let Breaker { enabled, held, zones, trips, released, gone } = *breaker;
    let state = match (enabled, held) {
        (_, 1..) => format!("holds back {} in {}", plural(held, "instance"), plural(zones, "zone")),
        (true, 0) => "on, holds nothing back".to_owned(),
        (false, 0) => "off".to_owned(),
    };
    match trips {
        0 => state,
        _ => format!("{state}; so far {}, {released} heard of again, {gone} gone", plural(trips, "trip")),
    }
}

fn limits(limits: &Limits) -> [(&'static str, String); 23] {
    [
        ("max instances", human_count(limits.max_instances)),
        ("max services", human_count(limits.max_services)),
        ("max namespaces", human_count(limits.max_namespaces)),
        ("max watches", human_count(limits.max_watches)),
        ("max subscriptions", human_count(limits.max_subscriptions)),
        ("max selectors", human_count(limits.max_selectors)),
        ("max beats", human_count(limits.max_beats)),
        ("max message", human_bytes(limits.max_message_bytes)),
        ("max headers", human_bytes(limits.max_header_bytes)),
        ("max concurrent streams", human_count(limits.max_concurrent_streams)),
        ("max metadata", human_bytes(limits.max_metadata_bytes)),
        ("max metadata depth", human_count(limits.max_metadata_depth)),
        ("max page size", human_count(limits.max_page_size)),
        ("max log", human_bytes(limits.max_log_bytes)),
        ("max summaries", human_bytes(limits.max_summary_bytes)),
        ("max inbox", human_count(limits.max_inbox)),
        ("max name", human_bytes(limits.max_name_bytes)),
        ("max selector", human_bytes(limits.max_selector_bytes)),
        ("max dependencies", human_count(limits.max_dependencies)),
        ("max waiting", human_count(limits.max_waiting)),
        ("max waiting dependencies", human_count(limits.max_waiting_dependencies)),
        ("max json values", human_count(limits.max_json_values)),
        ("max connections", human_count(limits.max_connections)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_has_words() {
        let off = Breaker::default();
        let on = Breaker { enabled: true, ..off };
        let holds = Breaker { held: 1, zones: 1, trips: 1, ..on };
        // Held back before it was turned off, or by another server.
        let left = Breaker { held: 6, zones: 2, ..off };
        let over = Breaker { trips: 3, released: 10, gone: 2, ..on };
        for (given, words) in [
            (off, "off"),
            (on, "on, holds nothing back"),
            (holds, "holds back 1 instance in 1 zone; so far 1 trip, 0 heard of again, 0 gone"),
            (left, "holds back 6 instances in 2 zones"),
            (over, "on, holds nothing back; so far 3 trips, 10 heard of again, 2 gone"),
        ] {
            assert_eq!(breaker(&given), words);
        }
    }
}
