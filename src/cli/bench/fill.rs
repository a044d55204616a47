//! Many instances that stay, to see what they take: memory now, time at the next start.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Error,
    leases::{self, Fleet},
    measure::Figures,
    session::Session,
};

/// How often memory is looked at until it stands still, and for how long at most.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_MAX: Duration = Duration::from_secs(10);

/// What the job is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Instances to register, ten a service; their leases live an hour.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Bytes of metadata of each instance.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(0..=16_000))]
    metadata_bytes: u32,
}

/// Registers them and tells what memory they take.
pub(super) async fn run(session: &Session, args: &Args) -> Result<Vec<Figures>, Error> {
    let metadata_bytes = args.metadata_bytes as usize;
    let fleet = Fleet { metadata_bytes, ttl_seconds: 3_600, ..Fleet::new(session, "fill") };
    let before = settled(session).await;
    let (cpu, begin) = (session.server_cpu(), Instant::now());
    let tokens = leases::register(session, &fleet, 0..args.count as usize).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = cpu.zip(session.server_cpu()).map(|(before, after)| (after - before).as_secs_f64());
    let count = tokens.len() as f64;
    let mut figures = Figures {
        job: "fill".to_owned(),
        unit: "registers",
        count: tokens.len() as u64,
        seconds,
        per_second: count / seconds,
        server_us: cpu.map(|cpu| cpu * 1e6 / count),
        server_share: cpu.map(|cpu| cpu / seconds),
        ..Figures::default()
    };
    memory(&mut figures, before, settled(session).await, count, "memory of an instance");
    figures.notes.push("the instances stay until their leases lapse, in an hour".to_owned());
    Ok(vec![figures])
}

/// Adds what the server's memory grew by, in all and for each.
pub(super) fn memory(figures: &mut Figures, before: Option<u64>, after: Option<u64>, count: f64, each: &'static str) {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let Some((before, after)) = before.zip(after) else {
        figures.notes.push("memory is measured with --server-pid only".to_owned());
        return;
    };
    figures.extra("server memory before", mebibytes(before), "MiB");
    figures.extra("server memory after", mebibytes(after), "MiB");
    figures.extra(each, (after.saturating_sub(before) as f64 / count).round(), "bytes");
    figures.notes.push("a server reuses memory that it held before: measure on a fresh one".to_owned());
}

/// The server's memory once it stands still (to a thousandth), or as it is after a while.
pub(super) async fn settled(session: &Session) -> Option<u64> {
    let mut last = session.server_memory()?;
    let begin = Instant::now();
    while begin.elapsed() < LOOK_MAX {
        sleep(LOOK).await;
        let now = session.server_memory()?;
        if now.abs_diff(last) <= last / 1_000 {
            return Some(now);
        }
        last = now;
    }
    Some(last)
}
