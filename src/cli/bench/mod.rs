//! `onair bench`: a load program that drives a running server, for sizing and for comparing versions.
//!
//! Each job measures one thing and checks what it gets: a reply that is wrong, or an event that is missing or comes
//! twice, is a fault and makes the command fail. It uses the public API alone and must not know the server's insides.

mod expire;
mod fanout;
mod fill;
mod floor;
mod heartbeat;
mod http;
mod idle_watches;
mod leases;
mod lookup;
mod measure;
mod refused;
mod register;
mod session;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod watching;
mod wire;

use std::io;

use clap::{Subcommand, builder::RangedU64ValueParser};
use tonic::Status;

use super::{failure::Failure, session::Session as Client};
use crate::config::{ClientSettings, Given};
use measure::{Figures, Report};
use session::{Session, Shown};

/// Where everything is registered unless a namespace is given.
const NAMESPACE: &str = "bench";

/// What `onair bench` is told.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  onair bench all\n  onair bench heartbeat --leases 100000 --server-pid 4711\n  \
    onair bench fanout --watchers 10000 --connections 100 --output json\n\n\
    Everything is registered in the namespace `bench` unless another is given.\n\
    Exit code 1: a reply was wrong, or an event was missing or came twice.")]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    job: Job,
}

/// A job's own arguments, and what holds for every job.
#[derive(Debug, clap::Args)]
struct With<A: clap::Args> {
    #[command(flatten)]
    own: A,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// What holds for every job.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Load")]
struct Options {
    /// Seconds to measure each job for, in all.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Slices to measure in; each is preceded by one of what it is compared with: the floor if the server has it
    /// (`serve --bench-floor`), and for HTTP the same by gRPC.
    #[arg(long, default_value_t = 5, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000))]
    pairs: usize,
    /// Threads that make the load.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    threads: usize,
    /// Connections; each job has its own default.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=15_000))]
    connections: Option<usize>,
    /// Calls in flight on each connection; each job has its own default. By HTTP there are as many connections instead.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    in_flight: Option<usize>,
    /// Process id of the server, if it runs on this machine: its CPU time and memory are measured too.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Allow a server that is not on this machine.
    #[arg(long)]
    remote: bool,
}

/// What to measure.
#[derive(Debug, Subcommand)]
enum Job {
    /// The transport alone: the floor that the other jobs are compared with.
    Floor(Box<With<floor::Args>>),
    /// Renewals of leases by unary calls.
    Heartbeat(Box<With<heartbeat::Args>>),
    /// Renewals of leases on streams.
    Stream(Box<With<stream::Args>>),
    /// Lookups of a service.
    Lookup(Box<With<lookup::Args>>),
    /// Registrations, each a durable write, and deregistrations.
    Register(Box<With<register::Args>>),
    /// Changes told to many watchers.
    Fanout(Box<With<fanout::Args>>),
    /// Many leases that lapse at once, and what that does to the others.
    Expire(Box<With<expire::Args>>),
    /// Memory of instances; they stay when it is done.
    Fill(Box<With<fill::Args>>),
    /// Memory of watch streams on which nothing happens.
    IdleWatches(Box<With<idle_watches::Args>>),
    /// Calls with a token that is wrong by one character, where the server asks for tokens.
    Refused(Box<With<refused::Args>>),
    /// Everything but fill, idle-watches and refused, each with its defaults.
    All(Box<With<Nothing>>),
}

/// No arguments of its own.
#[derive(Debug, clap::Args)]
struct Nothing {}

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be.
    #[error("{0}")]
    Usage(String),
    /// There is no server.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    /// The system refused something.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// The server did something that the protocol does not have.
    #[error("the server ended it: {0}")]
    Protocol(String),
    /// The server refused a call.
    #[error("cannot {0}: {status}", status = status_text(.1))]
    Call(&'static str, Box<Status>),
    /// Another part failed, with a reason of its own.
    #[error("stopped")]
    Stopped,
}

/// Runs what was asked for and prints what it found.
///
/// # Errors
/// The server cannot be reached, refuses what the job needs, or is not on this machine and `--remote` is not given; or
/// it did what it must not do.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.job {
        Job::Floor(args) => report(*args, floor::run).await,
        Job::Heartbeat(args) => report(*args, heartbeat::run).await,
        Job::Stream(args) => report(*args, stream::run).await,
        Job::Lookup(args) => report(*args, lookup::run).await,
        Job::Register(args) => report(*args, register::run).await,
        Job::Fanout(args) => report(*args, fanout::run).await,
        Job::Expire(args) => report(*args, expire::run).await,
        Job::Fill(args) => report(*args, fill::run).await,
        Job::IdleWatches(args) => report(*args, idle_watches::run).await,
        Job::Refused(args) => report(*args, refused::run).await,
        Job::All(args) => report(*args, all).await,
    }
}

async fn report<A: clap::Args>(
    args: With<A>,
    job: impl AsyncFnOnce(&Session, &A) -> Result<Vec<Figures>, Error>,
) -> Result<(), Failure> {
    let client = Client::open(&args.given)?;
    client.print.is_no_call("bench")?;
    let [host] = client.line.hosts() else {
        return Err(Failure::Usage("a load goes to one server: give one host".to_owned()));
    };
    let namespace = Some(client.namespace).filter(|name| !name.is_empty()).unwrap_or_else(|| NAMESPACE.to_owned());
    let shown = Shown { tls: client.line.tls().filter(|_| host.tls), token: client.line.token() };
    let session = Session::open(&host.to_string(), shown, namespace, args.options).await?;
    let jobs = job(&session, &args.own).await?;
    let report = Report { server: session.describe(), jobs };
    match client.print.is_json() {
        true => client.print.value(&serde_json::to_value(&report).unwrap_or_default())?,
        false => client.print.line(report.to_string().trim_end())?,
    }
    match report.has_faults() {
        true => Err(Failure::Other("the server did what it must not do: see FAULT above".to_owned())),
        false => Ok(()),
    }
}

/// Every job with its defaults.
async fn all(session: &Session, _: &Nothing) -> Result<Vec<Figures>, Error> {
    let mut all = heartbeat::run(session, &heartbeat::Args::default()).await?;
    all.extend(stream::run(session, &stream::Args::default()).await?);
    all.extend(lookup::run(session, &lookup::Args::default()).await?);
    all.extend(register::run(session, &register::Args::default()).await?);
    all.extend(fanout::run(session, &fanout::Args::default()).await?);
    all.extend(expire::run(session, &expire::Args::default()).await?);
    Ok(all)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Usage(sentence) => Self::Usage(sentence),
            error => Self::Other(error.to_string()),
        }
    }
}

/// Seconds from the command line, within reason.
fn seconds(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('s').parse::<f64>() {
        Ok(seconds) if (0.1..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err("between 0.1 and 3600".to_owned()),
    }
}

/// A status in one sentence.
fn status_text(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
