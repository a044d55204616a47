//! What things cost onair as there are more of them: instances that a call does not concern, and watchers of one change.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use tokio::{runtime::Builder, task::LocalSet};

use crate::{
    Result,
    machine::keep_to,
    model::{About, Job, Plan, Sample},
    onair::{self, Onair},
    picture,
    server::{Cores, Server},
    taken::Taken,
};

/// What the command is told.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    plan: Plan,
    /// The most instances: from 1,000 on, ten times as many each time.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    most_instances: u32,
    /// The most watchers: from 1 on, ten times as many each time.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    most_watchers: u32,
    #[command(flatten)]
    cores: Cores,
    /// Where to keep what is found, and to draw the picture beside it.
    #[arg(long, value_name = "FILE")]
    keep: PathBuf,
}

/// What was found.
#[derive(Serialize, Deserialize)]
pub struct Scale {
    /// Where, when and how.
    pub about: About,
    /// Beside how many instances.
    pub instances: Vec<Point>,
    /// With how many watchers.
    pub watchers: Vec<Point>,
}

/// A job where there were so many.
#[derive(Serialize, Deserialize)]
pub struct Point {
    /// How many.
    pub at: u32,
    /// What it took.
    pub sample: Sample,
}

/// What is done beside many instances: each works on a thousand of its own, so that only the others become more.
const BESIDE: [Job; 6] = [Job::Register, Job::Renew, Job::RenewStream, Job::Lookup, Job::FanoutShared, Job::Expire];
const OWN: u32 = 1_000;
const OWN_WATCHERS: u32 = 100;

/// Measures, and keeps what was found.
pub fn run(args: &Args) -> Result<bool> {
    let mut about = About { taken: Taken::now(), plan: args.plan.clone() };
    keep_to(args.cores.load)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut instances, mut watchers) = (Vec::new(), Vec::new());
    for at in tenfold(1_000, args.most_instances) {
        let samples = LocalSet::new().block_on(&runtime, beside(&args.plan, at, args.cores))?;
        instances.extend(samples.into_iter().map(|sample| Point { at, sample }));
    }
    for at in tenfold(1, args.most_watchers) {
        let samples = LocalSet::new().block_on(&runtime, watched(&args.plan, at, args.cores))?;
        watchers.extend(samples.into_iter().map(|sample| Point { at, sample }));
    }
    about.taken.finish();
    let scale = Scale { about, instances, watchers };
    fs::write(&args.keep, serde_json::to_string(&scale)? + "\n")?;
    draw(&scale, &args.keep)?;
    let points = scale.instances.iter().chain(&scale.watchers);
    let faults: Vec<_> = points.flat_map(|point| &point.sample.faults).collect();
    faults.iter().for_each(|fault| eprintln!("FAULT: {fault}"));
    Ok(faults.is_empty())
}

/// Draws what was found beside where it is kept.
pub fn draw(scale: &Scale, file: &std::path::Path) -> Result<()> {
    Ok(fs::write(file.with_extension("svg"), picture::scale(scale)?)?)
}

fn tenfold(from: u32, most: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(from), |at| at.checked_mul(10)).take_while(move |at| *at <= most)
}

async fn start(cores: Cores) -> Result<Onair> {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_onair"));
    Onair::new(program, Server::start(program, onair::launch, cores)?).await
}

/// Every job beside so many instances, and a restart with them.
async fn beside(plan: &Plan, instances: u32, cores: Cores) -> Result<Vec<Sample>> {
    let mut onair = start(cores).await?;
    eprintln!("{instances} instances");
    let mut samples: Vec<_> = onair.job(Job::Memory, &Plan { instances, ..plan.clone() }).await?.into_iter().collect();
    let own = Plan { instances: OWN, sharing_watchers: OWN_WATCHERS, sharing_connections: 1, ..plan.clone() };
    for job in BESIDE {
        samples.extend(onair.job(job, &own).await?);
    }
    samples.extend(onair.job(Job::Restart, &own).await?);
    Ok(samples)
}

/// One change to so many watchers, on a connection for each hundred.
async fn watched(plan: &Plan, watchers: u32, cores: Cores) -> Result<Vec<Sample>> {
    let mut onair = start(cores).await?;
    eprintln!("{watchers} watchers");
    let connections = watchers.div_ceil(100);
    let (watch_connections, sharing_connections) = (connections, connections);
    let plan = Plan { watchers, watch_connections, sharing_watchers: watchers, sharing_connections, ..plan.clone() };
    let mut samples = Vec::new();
    for job in [Job::Fanout, Job::FanoutShared] {
        samples.extend(onair.job(job, &plan).await?);
    }
    Ok(samples)
}
