//! Bursts: what a server does when very much comes at once, and whether those who only want to stay notice. Each burst has
//! a fresh server on its own core, and beside it leases that are renewed and timed.

mod beside;
mod expire;
mod flap;
mod fleet;
mod model;
mod overload;
mod picture;
mod resume;
mod snapshots;
mod stage;
mod told;
mod watcher;
mod wire;

use std::{fs, path::Path, rc::Rc};

use serde::{Deserialize, Serialize};
use tokio::{runtime::Builder, task::LocalSet};

pub use self::model::Bursts;
use self::{
    model::{Burst, Name},
    stage::Stage,
};
use crate::{Result, machine::keep_to, output::Output, server::Cores, taken::Taken};

/// What the command is told.
#[derive(clap::Args)]
pub struct Args {
    /// Which; all of them if none is named.
    #[arg(value_enum)]
    names: Vec<Name>,
    #[command(flatten)]
    sizes: Sizes,
    /// Every size divided by this: to see whether all works.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    part: u32,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    output: Output,
}

/// How large bursts are.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
pub struct Sizes {
    /// Leases that lapse at once.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    leases: u32,
    /// Watchers that come back at once.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    watchers: u32,
    /// Connections that they share, and those who want snapshots.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    connections: u32,
    /// Snapshots, and lookups, at once.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    snapshots: u32,
    /// Instances of the service that they are of.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    instances: u32,
    /// Watchers of the service that changes.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    flap_watchers: u32,
    /// How often it flaps in a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    flap_rate: u32,
    /// For how many seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    flap_seconds: u32,
    /// Of the watchers, those who do not read for as long.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    stalled: u32,
    /// Changes a second before them, of 1,000 bytes each.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    stalled_rate: u32,
    /// How many times as many calls are offered as can be answered.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    times: u32,
    /// For how many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    overload_seconds: u32,
}

impl Sizes {
    fn divided(&self, by: u32) -> Self {
        let part = |size: u32| (size / by).max(1);
        Self {
            leases: part(self.leases),
            watchers: part(self.watchers),
            connections: part(self.connections),
            snapshots: part(self.snapshots),
            instances: part(self.instances),
            flap_watchers: part(self.flap_watchers),
            flap_rate: part(self.flap_rate),
            flap_seconds: part(self.flap_seconds),
            stalled: self.stalled / by,
            stalled_rate: part(self.stalled_rate),
            times: self.times,
            overload_seconds: part(self.overload_seconds),
        }
    }
}

/// Plays them, prints and keeps; whether nothing was found that must not be.
pub fn run(args: &Args) -> Result<bool> {
    let (mut taken, sizes) = (Taken::now(), args.sizes.divided(args.part));
    keep_to(args.cores.load)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let names = if args.names.is_empty() { Name::ALL.to_vec() } else { args.names.clone() };
    let mut bursts = Vec::new();
    for name in names {
        eprintln!("{}", name.title().0);
        let burst = LocalSet::new().block_on(&runtime, play(name, &sizes, args.cores))?;
        burst.faults.iter().for_each(|fault| eprintln!("FAULT: {fault}"));
        bursts.push(burst);
    }
    taken.finish();
    let found = Bursts { taken, sizes, bursts };
    args.output.take(&found, told::of, render)?;
    Ok(found.bursts.iter().all(|burst| burst.faults.is_empty()))
}

/// Makes of what was kept what people look at, beside it.
pub fn render(found: &Bursts, file: &Path) -> Result<()> {
    fs::write(file.with_extension("md"), told::of(found))?;
    Ok(fs::write(file.with_extension("svg"), picture::of(found)?)?)
}

/// One of them, on a server of its own.
async fn play(name: Name, sizes: &Sizes, cores: Cores) -> Result<Burst> {
    let stage = Rc::new(Stage::open(sizes, cores).await?);
    match name {
        Name::Expire => expire::play(&stage).await?,
        Name::Resume => resume::play(&stage, sizes.connections as usize).await?,
        Name::ResumeAlone => resume::play(&stage, sizes.watchers as usize).await?,
        Name::Snapshots => snapshots::play(&stage, snapshots::Way::Watch).await?,
        Name::Lookups => snapshots::play(&stage, snapshots::Way::Lookup).await?,
        Name::Flap => flap::play(&stage, flap::Shape::flap(sizes.flap_rate)).await?,
        Name::Stalled => flap::play(&stage, flap::Shape::stalled(sizes.stalled_rate, sizes.stalled)).await?,
        Name::Overload => overload::play(&stage).await?,
    }
    stage.close(name).await
}
