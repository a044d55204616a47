//! What onair takes when nothing happens: memory and CPU with many instances or none, its size, the time to start, and the
//! time to build it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use onair::proto::{
    Beat, GetServerInfoRequest, HeartbeatRequest, Instance, RegisterRequest, registry_client::RegistryClient,
};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Builder,
    task::{JoinSet, LocalSet},
    time::{interval, sleep},
};

use crate::{
    Result,
    machine::keep_to,
    model::Middle,
    output::Output,
    server::{Cores, Home, Server},
    table::{aligned, short},
    taken::Taken,
};

/// What the command is told.
#[derive(clap::Args)]
pub struct Args {
    /// The most instances.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=10_000_000))]
    instances: u32,
    /// How often it is started; the median is told.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    starts: u32,
    /// Build it from nothing as well: minutes.
    #[arg(long)]
    build: bool,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    output: Output,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Footprint {
    /// Where, when and how.
    #[serde(flatten)]
    taken: Taken,
    figures: Vec<Figure>,
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figure {
    what: String,
    value: f64,
    unit: String,
    /// Lowest and highest, where it is a median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    span: Option<(f64, f64)>,
}

/// How long CPU time is counted for.
const IDLE: Duration = Duration::from_secs(10);
/// How long a server has to come to rest.
const REST: Duration = Duration::from_secs(12);
/// Services that beat, each on a connection of its own.
const BEATING: usize = 200;
/// A third of the time that their leases live.
const BEAT: Duration = Duration::from_millis(3_333);
const MIB: f64 = (1 << 20) as f64;

/// A server as it is by default.
fn launch(command: &mut Command, home: &Home) {
    command.args(["serve", "--listen", &home.address()]).arg("--data-dir").arg(home.data()).env("ONAIR_LOG", "warn");
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_onair"))
}

/// Measures, prints and keeps.
pub fn run(args: &Args) -> Result<bool> {
    let (mut taken, mut figures) = (Taken::now(), sizes()?);
    if args.build {
        // Before this thread keeps to one core.
        figures.push(build()?);
    }
    keep_to(args.cores.load)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    figures.extend(LocalSet::new().block_on(&runtime, measure(args))?);
    taken.finish();
    let found = Footprint { taken, figures };
    args.output.take(&found, told, render)?;
    Ok(true)
}

/// Makes of what was kept what people look at, beside it.
pub fn render(found: &Footprint, file: &Path) -> Result<()> {
    Ok(fs::write(file.with_extension("md"), told(found))?)
}

fn told(found: &Footprint) -> String {
    let mut rows = vec![["what", "figure", "lowest–highest"].map(str::to_owned).to_vec()];
    rows.extend(found.figures.iter().map(|figure| {
        let span = figure.span.map_or(String::new(), |(low, high)| format!("{}–{}", short(low), short(high)));
        vec![figure.what.clone(), format!("{} {}", short(figure.value), figure.unit), span]
    }));
    format!("# What onair takes\n\n{}\n{}", found.taken.told(), aligned(&rows))
}

fn figure(what: impl Into<String>, value: f64, unit: &str) -> Figure {
    Figure { what: what.into(), value, unit: unit.to_owned(), span: None }
}

/// How large the program is, as it was built and without what is for debuggers.
fn sizes() -> Result<Vec<Figure>> {
    let bytes = |path: &Path| fs::metadata(path).map(|file| file.len() as f64 / MIB);
    let mut figures = vec![figure("program, as it is built", bytes(program())?, "MiB")];
    let stripped = tempfile::NamedTempFile::new()?.into_temp_path();
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(program()).stderr(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        figures.push(figure("program, stripped", bytes(&stripped)?, "MiB"));
    }
    Ok(figures)
}

async fn measure(args: &Args) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut starts = Vec::new();
    for _ in 0..args.starts {
        let begin = Instant::now();
        let mut server = Server::start(program(), launch, args.cores)?;
        serving(&mut server).await?;
        starts.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    figures.extend(median("from exec to serving, nothing stored", starts, "ms"));
    for instances in [0, 10_000, args.instances] {
        let mut server = Server::start(program(), launch, args.cores)?;
        serving(&mut server).await?;
        let with = format!("with {} instances", short(instances.into()));
        if instances > 0 {
            fill(&server, instances)?;
        }
        figures.extend(idle(&server, &with).await);
        if instances == 0 {
            figures.push(beating(&server).await?);
        }
        if instances == args.instances {
            let mut starts = Vec::new();
            for _ in 0..args.starts {
                let begin = server.crash()?;
                serving(&mut server).await?;
                starts.push(begin.elapsed().as_secs_f64() * 1e3);
            }
            figures.extend(median(&format!("from exec to serving after kill -9, {with}"), starts, "ms"));
            figures.extend(idle(&server, &format!("{with}, started again")).await);
        }
    }
    Ok(figures)
}

fn median(what: &str, values: Vec<f64>, unit: &str) -> Option<Figure> {
    let middle = Middle::of(values)?;
    Some(Figure { span: Some((middle.min, middle.max)), ..figure(what, middle.median, unit) })
}

/// Waits until it answers a call.
async fn serving(server: &mut Server) -> Result<()> {
    server
        .until_right(async |home: &Home| {
            let connected = RegistryClient::connect(format!("http://{}", home.address())).await;
            let mut client = connected.map_err(|error| error.to_string())?;
            client.get_server_info(GetServerInfoRequest {}).await.map(drop).map_err(|status| status.to_string())
        })
        .await
}

/// Registers instances of 150 bytes of metadata, ten a service.
fn fill(server: &Server, instances: u32) -> Result<()> {
    let mut command = Command::new(program());
    command.args([
        "bench",
        "fill",
        "--count",
        &instances.to_string(),
        "--url",
        &format!("http://{}", server.home.address()),
    ]);
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

/// Memory, and CPU while nobody wants anything.
async fn idle(server: &Server, with: &str) -> [Figure; 2] {
    sleep(REST).await;
    let memory = server.process().memory() as f64 / MIB;
    let share = busy(server).await;
    [figure(format!("memory {with}"), memory, "MiB"), figure(format!("CPU idle {with}"), share, "% of a core")]
}

async fn busy(server: &Server) -> f64 {
    let (begin, before) = (Instant::now(), server.process().cpu_of_threads());
    sleep(IDLE).await;
    let used = server.process().cpu_of_threads().saturating_sub(before);
    used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0
}

/// CPU while services do nothing but beat.
async fn beating(server: &Server) -> Result<Figure> {
    let mut tasks = JoinSet::new();
    for number in 0..BEATING {
        let mut client = RegistryClient::connect(format!("http://{}", server.home.address())).await?;
        let instance = Instance {
            service: format!("beating-{number}"),
            id: "1".to_owned(),
            host: "10.0.0.1".to_owned(),
            port: 8080,
            ..Instance::default()
        };
        let request = RegisterRequest { instance: Some(instance), ..RegisterRequest::default() };
        let lease_token = client.register(request).await?.into_inner().lease.unwrap_or_default().token;
        // They do not all beat at the same moment.
        let offset = BEAT * number as u32 / BEATING as u32;
        tasks.spawn_local(async move {
            sleep(offset).await;
            let mut ticks = interval(BEAT);
            loop {
                ticks.tick().await;
                let beats = vec![Beat { lease_token: lease_token.clone(), ..Beat::default() }];
                if client.heartbeat(HeartbeatRequest { beats, ..HeartbeatRequest::default() }).await.is_err() {
                    return;
                }
            }
        });
    }
    sleep(BEAT * 2).await;
    let share = busy(server).await;
    let what = format!("CPU with {BEATING} services beating, a connection each");
    match tasks.len() == BEATING && tasks.try_join_next().is_none() {
        true => Ok(figure(what, share, "% of a core")),
        false => Err("a beat was refused".into()),
    }
}

/// How long it takes to build the program from nothing but fetched sources, on every core that there is.
fn build() -> Result<Figure> {
    let target = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--locked", "--bin", "onair", "--target-dir"]).arg(target.path());
    let begin = Instant::now();
    let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).status()?;
    match status.success() {
        true => Ok(figure("clean build for release", begin.elapsed().as_secs_f64(), "s")),
        false => Err("it does not build".into()),
    }
}
