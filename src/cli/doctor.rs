//! `onair doctor`: one look at everything between this machine and a working registry, with advice.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    failure::{CallFailed, Cause, Failure, Report as _, hint},
    health,
    info::server_info,
    print::Printer,
    session::{Line, Session},
    text::{Tone, human, human_count, plural, safe},
};
use crate::{
    config::{ClientSettings, Given},
    proto::GetServerInfoResponse,
};

/// How often the latency is measured.
const SAMPLES: usize = 20;
/// A p99 above this deserves a look.
const SLOW: Duration = Duration::from_millis(50);
/// Each connection takes a file descriptor.
const FEW_FILES: u64 = 4_096;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  onair doctor\n  onair doctor --url http://h1,h2 --output json\n\n\
    Exit code 1: a check failed.")]
pub struct Args {
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the examination.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    level: Level,
    detail: String,
    advice: &'static str,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, detail: detail.into(), advice: "" }
    }

    fn warn(name: &'static str, detail: impl Into<String>, advice: &'static str) -> Self {
        Self { name, level: Level::Warn, detail: detail.into(), advice }
    }

    fn fail(name: &'static str, detail: impl Into<String>, advice: &'static str) -> Self {
        Self { name, level: Level::Fail, detail: detail.into(), advice }
    }
}

/// Examines and shows.
///
/// # Errors
/// A check failed.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut session = Session::open(&args.given)?;
    session.print.is_no_call("doctor")?;
    let mut checks = Vec::new();
    let mut reached = None;
    for host in session.line.hosts().to_vec() {
        let mut line = session.line.only(&host);
        match server_info(&mut line).await {
            Ok(info) => {
                checks.push(Check::ok("reachable", format!("{host}, registry {}", info.registry_id)));
                reached = reached.or(Some((line, info)));
            }
            Err(failed) => checks.push(Check::fail("reachable", failed.short(), unreachable_advice(&failed))),
        }
    }
    if let Some((line, info)) = reached {
        session.line = line;
        checks.extend([
            version(&info.version),
            serving(&mut session).await,
            protocol(&info),
            durable(&info),
            store(&info),
        ]);
        checks.extend(usage(&info));
        checks.push(latency(&mut session.line).await);
    }
    checks.extend(open_files());
    show(&session.print, &checks)?;
    match checks.iter().filter(|check| check.level == Level::Fail).count() {
        0 => Ok(()),
        failed => Err(Failure::Other(format!("{} failed", plural(failed as u64, "check")))),
    }
}

/// Something that listens need not be an onair.
fn unreachable_advice(failed: &CallFailed) -> &'static str {
    match failed.last() {
        None | Some(Cause::Transport { refused: true, .. }) => {
            "start it with `onair serve`, or give its address with --url or ONAIR_URL"
        }
        Some(cause) => hint(cause).unwrap_or("give the address of an onair server with --url or ONAIR_URL"),
    }
}

fn version(server: &str) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = server.split_whitespace().next().unwrap_or_default();
    let detail = format!("client {}, server {server}", crate::VERSION);
    if theirs == ours {
        Check::ok("versions", detail)
    } else {
        Check::warn("versions", detail, "use the same version on both sides when something behaves oddly")
    }
}

async fn serving(session: &mut Session) -> Check {
    match health::check(session, String::new()).await {
        Ok(ServingStatus::Serving) => Check::ok("health", "SERVING"),
        Ok(status) => Check::fail("health", status.as_str_name(), "it is starting or shutting down: look at its log"),
        Err(failed) if failed.last().and_then(Cause::code) == Some(Code::Unimplemented) => {
            Check::warn("health", "not offered", "something between may pass on only some services")
        }
        Err(failed) => Check::fail("health", failed.short(), "look at the server's log"),
    }
}

fn protocol(info: &GetServerInfoResponse) -> Check {
    let features = if info.features.is_empty() { "the basics".to_owned() } else { info.features.join(", ") };
    Check::ok("protocol", format!("onair.v1 with {features}"))
}

fn durable(info: &GetServerInfoResponse) -> Check {
    if info.durable {
        Check::ok("durable", format!("yes, epoch {}, revision {}", info.epoch, info.revision))
    } else {
        let advice = "fine for a try; without --ephemeral it keeps its data";
        Check::warn("durable", "no: what is registered ends with the server", advice)
    }
}

fn store(info: &GetServerInfoResponse) -> Check {
    if info.store_unavailable.is_empty() {
        return Check::ok("store", "changes are committed");
    }
    let detail = format!("away: {}; changes are refused, reads, beats and watches go on", info.store_unavailable);
    Check::fail("store", detail, "make room where its data is, or look at the disk: it heals by itself")
}

/// What is near its limit; one line if nothing is.
fn usage(info: &GetServerInfoResponse) -> Vec<Check> {
    let (counts, limits) = (info.counts.unwrap_or_default(), info.limits.unwrap_or_default());
    let pairs = [
        ("instances", counts.instances, limits.max_instances),
        ("services", counts.services, limits.max_services),
        ("namespaces", counts.namespaces, limits.max_namespaces),
        ("watches", counts.watches, limits.max_watches),
    ];
    let said =
        |(name, count, limit): &(&str, u64, u64)| format!("{} of {} {name}", human_count(*count), human_count(*limit));
    let near: Vec<_> =
        pairs.iter().filter(|(_, count, limit)| *limit > 0 && count.saturating_mul(5) >= limit * 4).collect();
    if near.is_empty() {
        return vec![Check::ok("limits", pairs.iter().map(said).collect::<Vec<_>>().join(", "))];
    }
    near.into_iter()
        .map(|pair| Check::warn("limits", said(pair), "raise it: `onair serve --help` names the flag"))
        .collect()
}

/// Measured by the monotonic clock here, so that nobody's wall clock matters.
async fn latency(line: &mut Line) -> Check {
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let begun = Instant::now();
        if let Err(failed) = server_info(line).await {
            return Check::fail("latency", failed.short(), "the connection broke during the examination");
        }
        samples.push(begun.elapsed());
    }
    samples.sort_unstable();
    let at = |percent: usize| samples[(samples.len() * percent).div_ceil(100).max(1) - 1];
    let detail = format!("p50 {}, p99 {} of {SAMPLES} calls", fine(at(50)), fine(at(99)));
    if at(99) > SLOW {
        Check::warn("latency", detail, "a far or busy server; leases want a TTL of many round trips")
    } else {
        Check::ok("latency", detail)
    }
}

/// Below a millisecond `human` says too little.
fn fine(duration: Duration) -> String {
    if duration < Duration::from_millis(10) {
        format!("{:.2}ms", duration.as_secs_f64() * 1e3)
    } else {
        human(duration)
    }
}

/// What a server started from here could serve; nothing where the system does not say.
fn open_files() -> Option<Check> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let soft = soft_open_files(&limits)?;
    let detail = format!("{} for programs started from here", human_count(soft));
    Some(if soft < FEW_FILES {
        Check::warn("open files", detail, "each connection takes one: `ulimit -n 65536` before `onair serve`")
    } else {
        Check::ok("open files", detail)
    })
}

fn soft_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        figure => figure.parse().ok(),
    }
}

fn show(print: &Printer, checks: &[Check]) -> Result<(), Failure> {
    if print.is_json() {
        let healthy = checks.iter().all(|check| check.level != Level::Fail);
        let lines: Vec<_> = checks
            .iter()
            .map(|check| {
                let level = format!("{:?}", check.level).to_lowercase();
                json!({"name": check.name, "level": level, "detail": check.detail, "advice": check.advice})
            })
            .collect();
        return print.value(&json!({"checks": lines, "healthy": healthy}));
    }
    for check in checks {
        let level = match check.level {
            Level::Ok => print.paint(Tone::Good, "ok  "),
            Level::Warn => print.paint(Tone::Notice, "warn"),
            Level::Fail => print.paint(Tone::Bad, "fail"),
        };
        print.line(&format!("{level}  {:<10}  {}", check.name, safe(&check.detail)))?;
        if !check.advice.is_empty() {
            print.line(&print.paint(Tone::Aside, &format!("{:18}{}", "", check.advice)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Counts, Limits};

    #[test]
    fn near_a_limit_is_told() {
        let info = |instances| GetServerInfoResponse {
            counts: Some(Counts { instances, ..Counts::default() }),
            limits: Some(Limits { max_instances: 10, ..Limits::default() }),
            ..GetServerInfoResponse::default()
        };
        assert_eq!(usage(&info(7))[0].level, Level::Ok);
        assert_eq!(usage(&info(8))[0].level, Level::Warn);
        assert_eq!(usage(&info(8))[0].detail, "8 of 10 instances");
    }

    #[test]
    fn a_store_that_is_away_is_told() {
        let info = |reason: &str| GetServerInfoResponse { store_unavailable: reason.into(), ..Default::default() };
        assert_eq!(store(&info("")).level, Level::Ok);
        let away = store(&info("No space left on device (os error 28)"));
        assert_eq!(away.level, Level::Fail);
        assert!(away.detail.starts_with("away: No space left on device"), "{}", away.detail);
    }

    #[test]
    fn versions_compare_without_the_commit() {
        assert_eq!(version(concat!(env!("CARGO_PKG_VERSION"), " (abc)")).level, Level::Ok);
        assert_eq!(version("99.0.0 (abc)").level, Level::Warn);
        assert_eq!(version("").level, Level::Warn);
    }

    #[test]
    fn open_files_are_read() {
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288   files\n";
        assert_eq!(soft_open_files(limits), Some(1024));
        assert_eq!(soft_open_files(""), None);
    }
}
