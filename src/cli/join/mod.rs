//! `onair join`: registers an instance and keeps it until a signal comes. The arguments are here, the lease in `keeper`.

mod keeper;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, mem, path::PathBuf, time::Duration};

use clap::ValueEnum;

use super::{
    curl,
    describe::Described,
    failure::Failure,
    needs::{self, IfMissing},
    package::{self, Package},
    print::note,
    session::{Session, duration_argument, to_wire},
    text::{human, safe},
};
use crate::{
    config::{ClientSettings, Given},
    proto::{Instance, RegisterRequest, Status},
};
use keeper::{Keeper, Stop};

const EXAMPLES: &str = "\
Examples:
  onair join web --port 8000
  onair join web --port 8000 --version 2.1.0 --zone eu --metadata '{\"tier\":\"gold\"}'
  onair join docs --service-url https://docs.example/v2 --ttl 30s
  onair join --package package.json --port 8000
  onair join shop --port 8100 --needs api@^2 --needs auth --mock auth=localhost:3000 --if-missing wait

It beats every third of the TTL, registers again by itself when its lease was lost, and takes the \
instance away on SIGINT and SIGTERM. What it needs has to be there when it registers first; later it is \
looked for again, but nothing ends for want of it. Exit code 3: something that it needs is missing; 4: another \
process has registered the same instance.";

/// Arguments of `join`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service's name, by which clients look it up.
    #[arg(required_unless_present = "package")]
    name: Option<String>,
    /// Take what is not given here from this `package.json`: name and version, and of its block `onair`, or `vasco`,
    /// `dependencies`, `mocks`, `url`, `port`, and `ttl` (or `aliveDuration` in seconds).
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
    /// The port it listens on.
    #[arg(long, value_name = "PORT", required_unless_present_any = ["service_url", "package"],
        value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    #[command(flatten)]
    described: Described,
    /// Whose replica it is: the partition of the service.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    partition_key: String,
    /// What of the metadata goes out: a path like `region` or `limits.burst`; may be repeated. Default: all of it.
    #[arg(long, value_name = "PATH")]
    metadata_field: Vec<String>,
    /// Its whole url, if it is not protocol://host:port.
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    service_url: String,
    /// Another port by name; may be repeated.
    #[arg(long, value_name = "NAME=PORT", value_parser = named_port)]
    named_port: Vec<(String, u32)>,
    /// What it says of itself at first.
    #[arg(long, value_enum, default_value_t = Initial::Serving)]
    status: Initial,
    /// What to do when something that it needs is not there.
    #[arg(long, value_enum, default_value_t = IfMissing::Fail)]
    if_missing: IfMissing,
    /// How long `--if-missing wait` waits.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration_argument)]
    wait: Duration,
    /// Take its url away from any other instance of the namespace that has it.
    #[arg(long)]
    exclusive_url: bool,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// The statuses that are a registrant's to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Initial {
    /// Not ready for traffic yet.
    Starting,
    /// Ready.
    Serving,
    /// Finishing what it has.
    Draining,
}

impl From<Initial> for Status {
    fn from(initial: Initial) -> Self {
        match initial {
            Initial::Starting => Self::Starting,
            Initial::Serving => Self::Serving,
            Initial::Draining => Self::Draining,
        }
    }
}

/// Registers and keeps the lease.
///
/// # Errors
/// It was refused, was superseded, or could not be taken away at the end.
pub async fn run(args: Args) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    let args = completed(args)?;
    if session.print.is_curl() {
        return curl::show_lease(&session, &request(args, &session)?);
    }
    // Before the registration, so that no signal in between leaves an instance behind.
    let stop = Stop::listen()?;
    if args.if_missing == IfMissing::Wait && !args.described.needs.is_empty() {
        let needs = args
            .described
            .needs
            .iter()
            .map(|(name, range)| if range.is_empty() { name.clone() } else { format!("{name}@{range}") });
        let needs: Vec<String> = needs.collect();
        note(&format!("needs {}: waits up to {} for what is missing", safe(&needs.join(", ")), human(args.wait)));
    }
    let request = request(args, &session)?;
    let mut keeper = Keeper::new(session, stop, request);
    keeper.keep().await?;
    keeper.leave().await
}

/// With what the package says where nothing was given; what is given goes before it, name by name.
fn completed(mut args: Args) -> Result<Args, Failure> {
    let Some(file) = args.package.take() else { return Ok(args) };
    let Package { name, version, url, port, ttl, dependencies, mocks } = package::read(&file)?;
    args.name = args.name.or(Some(name));
    if args.described.version.is_empty() {
        args.described.version = version;
    }
    if args.service_url.is_empty() && args.port.is_none() {
        (args.service_url, args.port) = (url, port);
    }
    if args.service_url.is_empty() && args.port.is_none() {
        return Err(Failure::Usage(
            "Need url of service: give --port or --service-url, or have it in the package".to_owned(),
        ));
    }
    args.described.ttl = args.described.ttl.or(ttl);
    let given = |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (needed, mocked) = (given(&args.described.needs), given(&args.described.mock));
    args.described.needs.extend(dependencies.into_iter().filter(|(name, _)| !needed.contains(name)));
    args.described.mock.extend(mocks.into_iter().filter(|(name, _)| !mocked.contains(name)));
    Ok(args)
}

fn request(mut args: Args, session: &Session) -> Result<RegisterRequest, Failure> {
    let ports: BTreeMap<_, _> = args.named_port.into_iter().collect();
    let Described { ttl, needs, mock, .. } = &mut args.described;
    let request = RegisterRequest {
        metadata_fields: args.metadata_field,
        ttl: ttl.or(session.ttl).and_then(to_wire),
        dependencies: needs::once_each("--needs", mem::take(needs))?,
        mocks: needs::once_each("--mock", mem::take(mock))?,
        if_missing: crate::proto::IfMissing::from(args.if_missing).into(),
        wait: to_wire(args.wait),
        exclusive_url: args.exclusive_url,
        ..RegisterRequest::default()
    };
    let instance = Instance {
        namespace: session.namespace.clone(),
        service: args.name.unwrap_or_default(),
        port: args.port.map_or(0, u32::from),
        partition_key: args.partition_key,
        status: Status::from(args.status).into(),
        url: args.service_url,
        ports,
        ..args.described.instance()
    };
    Ok(RegisterRequest { instance: Some(instance), ..request })
}

fn named_port(text: &str) -> Result<(String, u32), String> {
    let parts = text.rsplit_once('=').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
    match parts {
        Some((name, port)) if port != 0 => Ok((name.to_owned(), u32::from(port))),
        _ => Err("it is not NAME=PORT with a port from 1 to 65535".to_owned()),
    }
}
