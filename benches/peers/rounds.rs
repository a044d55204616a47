//! The run itself: who takes part, whose turn it is, and where what they did is kept.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::ValueEnum;
use tokio::{runtime::Builder, task::LocalSet};

use crate::{
    Result,
    bursts::{self, Bursts},
    consul::{self, Consul},
    etcd::{self, Etcd},
    footprint::{self, Footprint},
    machine::keep_to,
    model::{About, Job, Peer, Plan, Run, Sample},
    onair::{self, Onair},
    output::Output,
    picture,
    redis::{self, Redis},
    scale::{self, Scale},
    server::{Cores, Server},
    table,
    taken::{Taken, said},
    zookeeper::{self, ZooKeeper},
};

/// What a run is told.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    plan: Plan,
    /// Who takes part; onair and the floors are no peers, and there with every choice that names them.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Who::value_variants().to_vec())]
    peers: Vec<Who>,
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Job::ALL)]
    jobs: Vec<Job>,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    output: Output,
}

/// Who can take part.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Who {
    /// The registry.
    Onair,
    /// The floor of its transport.
    Tonic,
    /// The floor of another.
    GrpcGo,
    Etcd,
    Redis,
    #[value(name = "zookeeper")]
    ZooKeeper,
    Consul,
}

impl Who {
    /// What it is called.
    fn name(self) -> &'static str {
        match self {
            Self::Onair => "onair",
            Self::Tonic => "tonic",
            Self::GrpcGo => "grpc-go",
            Self::Etcd => "etcd",
            Self::Redis => "Redis",
            Self::ZooKeeper => "ZooKeeper",
            Self::Consul => "Consul",
        }
    }

    /// What it is fetched as, and how it is asked for its version; ours is here already.
    fn package(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Onair | Self::Tonic => None,
            Self::GrpcGo => Some(("floor-go", &[])),
            Self::Etcd => Some(("etcd", &["--version"])),
            Self::Redis => Some(("redis", &["--version"])),
            Self::ZooKeeper => Some(("zookeeper", &[])),
            Self::Consul => Some(("consul", &["version"])),
        }
    }

    /// Whether it can do a job at all: floors do nothing else.
    fn does(self, job: Job) -> bool {
        matches!(self, Self::Tonic | Self::GrpcGo) == (job == Job::Floor)
    }
}

/// One who takes part, and its program.
struct Present {
    who: Who,
    program: PathBuf,
}

/// A server under load.
enum Loaded {
    Onair(Onair),
    Etcd(Etcd),
    Redis(Redis),
    ZooKeeper(ZooKeeper),
    Consul(Consul),
}

impl Loaded {
    async fn start(present: &Present, plan: &Plan, cores: Cores) -> Result<Self> {
        let start = |launch| Server::start(&present.program, launch, cores);
        let ours = Path::new(env!("CARGO_BIN_EXE_onair"));
        Ok(match present.who {
            Who::Onair | Who::Tonic => Self::Onair(Onair::new(ours, start(onair::launch)?).await?),
            Who::GrpcGo => Self::Onair(Onair::new(ours, start(onair::launch_floor)?).await?),
            Who::Etcd => Self::Etcd(Etcd::new(start(etcd::launch)?, plan).await?),
            Who::Redis => Self::Redis(Redis::new(start(redis::launch)?, plan).await?),
            Who::ZooKeeper => Self::ZooKeeper(ZooKeeper::new(start(zookeeper::launch)?, plan).await?),
            Who::Consul => Self::Consul(Consul::new(start(consul::launch)?, plan).await?),
        })
    }

    async fn job(&mut self, job: Job, plan: &Plan) -> Result<Option<Sample>> {
        match self {
            Self::Onair(onair) => onair.job(job, plan).await,
            Self::Etcd(etcd) => etcd.job(job, plan).await,
            Self::Redis(redis) => redis.job(job, plan).await,
            Self::ZooKeeper(zookeeper) => zookeeper.job(job, plan).await,
            Self::Consul(consul) => consul.job(job, plan).await,
        }
    }

    fn server(&self) -> &Server {
        match self {
            Self::Onair(onair) => &onair.server,
            Self::Etcd(etcd) => etcd.server(),
            Self::Redis(redis) => redis.server(),
            Self::ZooKeeper(zookeeper) => zookeeper.server(),
            Self::Consul(consul) => consul.server(),
        }
    }
}

/// Fetches, runs, prints and keeps; whether nothing was found that must not be.
pub fn run(args: &Args) -> Result<bool> {
    let mut about = About { taken: Taken::now(), plan: args.plan.clone() };
    let (present, peers) = gather(&args.peers)?;
    keep_to(args.cores.load)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut samples = Vec::new();
    for round in 1..=args.plan.rounds {
        for present in &present {
            let played = LocalSet::new().block_on(&runtime, play(present, args));
            samples.extend(played.into_iter().map(|sample| Sample { round, ..sample }));
        }
    }
    about.taken.finish();
    let run = Run { about, peers, samples };
    args.output.take(&run, table::of, draw)?;
    Ok(run.samples.iter().all(|sample| sample.faults.is_empty()))
}

/// Makes of a file of JSON what people look at, beside it.
pub fn render(file: &Path) -> Result<bool> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    if let Ok(scale) = serde_json::from_str::<Scale>(&text) {
        scale::draw(&scale, file)?;
        return Ok(true);
    }
    if let Ok(found) = serde_json::from_str::<Bursts>(&text) {
        bursts::render(&found, file)?;
        return Ok(true);
    }
    if let Ok(footprint) = serde_json::from_str::<Footprint>(&text) {
        footprint::render(&footprint, file)?;
        return Ok(true);
    }
    draw(&serde_json::from_str(&text)?, file)?;
    Ok(true)
}

/// The same of a run.
fn draw(run: &Run, file: &Path) -> Result<()> {
    fs::write(file.with_extension("md"), table::of(run))?;
    fs::write(beside(file, "headlines"), picture::headlines(run)?)?;
    fs::write(beside(file, "cpu"), picture::cpu(run)?)?;
    Ok(fs::write(beside(file, "latencies"), picture::latencies(run)?)?)
}

/// The picture of that name.
fn beside(file: &Path, name: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{stem}-{name}.svg"))
}

/// Fetches who is to take part.
fn gather(wanted: &[Who]) -> Result<(Vec<Present>, Vec<Peer>)> {
    let (mut present, mut peers) = (Vec::new(), Vec::new());
    for &who in wanted {
        let name = who.name().to_owned();
        let Some((package, asked)) = who.package() else {
            present.push(Present { who, program: PathBuf::from(env!("CARGO_BIN_EXE_onair")) });
            peers.push(Peer { name, version: Some(::onair::VERSION.to_owned()), skipped: None });
            continue;
        };
        let fetch = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/fetch");
        let output = Command::new(fetch).arg(package).stdin(Stdio::null()).output()?;
        let (found, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.success() {
            true => {
                let program = PathBuf::from(found.trim());
                let stamp = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/tools/peers").join(format!(".{package}"));
                let version = match asked {
                    [] => fs::read_to_string(stamp).ok().map(|version| version.trim().to_owned()),
                    asked => said(Command::new(&program).args(asked)),
                };
                present.push(Present { who, program });
                peers.push(Peer { name, version, skipped: None });
            }
            false => {
                let why = told.lines().find_map(|line| line.strip_prefix("SKIPPED ")).unwrap_or("cannot be fetched");
                eprintln!("SKIPPED {why}");
                peers.push(Peer { name, version: None, skipped: Some(why.to_owned()) });
            }
        }
    }
    Ok((present, peers))
}

/// One turn of one who takes part: a fresh server, and all that it can do. What fails is a fault of that job.
async fn play(present: &Present, args: &Args) -> Vec<Sample> {
    let (name, mut samples) = (present.who.name(), Vec::new());
    let mut jobs: Vec<_> = args.jobs.iter().copied().filter(|job| present.who.does(*job)).collect();
    jobs.sort_unstable();
    let Some(&first) = jobs.first() else { return samples };
    let broken = |job, why: Box<dyn std::error::Error>| Sample { faults: vec![why.to_string()], ..Sample::new(job) };
    match Loaded::start(present, &args.plan, args.cores).await {
        Err(why) => samples.push(broken(first, why)),
        Ok(mut loaded) => {
            for job in jobs {
                eprintln!("{name}: {}", job.name());
                let before = loaded.server().process().memory();
                match loaded.job(job, &args.plan).await {
                    Ok(sample) => samples.extend(sample),
                    Err(why) => samples.push(broken(job, why)),
                }
                if job == Job::Register && !matches!(loaded, Loaded::Onair(_)) {
                    samples.extend(memory(&loaded, before, samples.last()));
                }
            }
        }
    }
    samples.into_iter().map(|sample| Sample { peer: name.to_owned(), ..sample }).collect()
}

/// What the instances that were registered last took of the server's memory.
fn memory(loaded: &Loaded, before: u64, registered: Option<&Sample>) -> Option<Sample> {
    let count = registered.filter(|sample| sample.count > 0)?.count;
    let grown = loaded.server().process().memory().saturating_sub(before);
    Some(Sample { count, value: Some(grown as f64 / count as f64), ..Sample::new(Job::Memory) })
}
