//! `onair run`: a program that is registered while it runs and works. The arguments are here, its life in `life`.

mod check;
mod environment;
mod inside;
mod life;
mod program;
mod signals;

use std::{ffi::OsString, net::TcpListener, path::PathBuf, time::Duration};

use super::{
    failure::Failure,
    join::json_argument,
    needs::{self, IfMissing},
    package,
    session::{Session, duration_argument, to_wire},
};
use crate::{
    config::{ClientSettings, Given},
    proto::{Instance, RegisterRequest},
};
use check::Check;
pub(in crate::cli) use inside::{Args as InsideArgs, VERB as INSIDE, run as inside};
use life::{Life, Times};
use signals::{Signals, Told};

const EXAMPLES: &str = "\
Examples:
  onair run api -- node api.js
  onair run web --needs api@^2 -- node web.js
  onair run web --port 8000 --check http:/healthz -- ./web --listen :8000
  onair run --package package.json -- npm start

The program finds its port in PORT, and what it needs in API_URL, API_HOST and API_PORT (of a service `api`); what is in \
the environment already stays. It starts when everything that it needs is online, in whatever order that comes. It is \
registered once the check passes; while the check fails it is out of traffic and its lease is not kept.

SIGTERM: it is drained, taken away, and told to end. SIGINT: without the drain. What has not ended after the slack is \
killed, and so is whatever it leaves behind. A second signal kills at once. The program has to stay in the foreground. \
The exit code is the program's; of one that a signal ended, 128 and its number. 4: another process has registered the \
same instance.";

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service's name, by which clients look it up.
    #[arg(required_unless_present = "package")]
    name: Option<String>,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Take what is not given here from this `package.json`, as `onair join` does.
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
    /// The port it listens on. Default: one that is free.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Its host name or address for others. Default: the address that the registration comes from.
    #[arg(long, default_value = "", hide_default_value = true)]
    host: String,
    /// Its version; semantic versions can be looked up by range.
    #[arg(long, default_value = "", hide_default_value = true)]
    version: String,
    /// How long it stays registered after its last heartbeat, 1s to 1h. Default: the url's `ttl`, else 10s.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, allow_hyphen_values = true)]
    ttl: Option<Duration>,
    /// Where it runs.
    #[arg(long, default_value = "", hide_default_value = true)]
    zone: String,
    /// Its share of the traffic for weighted picks; 0 is none. Default: 1.
    #[arg(long)]
    weight: Option<u32>,
    /// Anything else to know about it, as JSON.
    #[arg(long, value_name = "JSON", value_parser = json_argument)]
    metadata: Option<prost_types::Value>,
    /// Which copy of the service it is. Default: host:port.
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    /// Scheme of its url. Default: http.
    #[arg(long, default_value = "", hide_default_value = true)]
    protocol: String,
    /// A service that it needs, with a version or range after `@` if not any will do; may be repeated.
    #[arg(long, value_name = "NAME[@RANGE]", value_parser = needs::need)]
    needs: Vec<(String, String)>,
    /// A stand-in for something that it needs; may be repeated.
    #[arg(long, value_name = "NAME=URL", value_parser = needs::mock)]
    mock: Vec<(String, String)>,
    /// What to do when something that it needs is not there.
    #[arg(long, value_enum, default_value_t = IfMissing::Wait)]
    if_missing: IfMissing,
    /// When it works: `tcp`, it takes connections; `http:/PATH`, it answers well; `grpc[:SERVICE]`, its health is serving;
    /// `cmd:COMMAND`, a command of the shell ends with 0.
    #[arg(long, value_name = "CHECK", default_value = "tcp")]
    check: Check,
    /// How often it is checked.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration_argument)]
    check_interval: Duration,
    /// How long it may take until the check passes first.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration_argument)]
    start_timeout: Duration,
    /// How long it is drained at the most.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration_argument)]
    wait: Duration,
    /// How long it may take to end when it is told to.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration_argument)]
    slack: Duration,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Runs the program to its end.
///
/// # Errors
/// It did not end with 0, or could not be started, or its registration was refused.
pub async fn run(args: Args) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    if session.print.is_curl() || session.print.is_json() {
        return Err(Failure::Usage("the output is the program's: there is no --output for `run`".to_owned()));
    }
    let mut args = completed(args)?;
    // Before anything is started, so that no signal leaves it behind.
    let mut signals = Signals::listen()?;
    let client = session.client();
    let needs = needs::once_each("--needs", std::mem::take(&mut args.needs))?;
    let mocks = needs::once_each("--mock", std::mem::take(&mut args.mock))?;
    let mut variables = tokio::select! {
        variables = environment::of_needs(&client, needs, mocks, args.if_missing) => variables?,
        told = signals.end() => {
            return Err(Failure::Program { what: None, code: if told == Told::Terminate { 143 } else { 130 } });
        }
    };
    let port = port(args.port).await?;
    variables.insert("PORT".to_owned(), port.to_string());
    let program = program::Program::start(&args.command, &variables).await?;
    let times = Times {
        interval: args.check_interval.max(Duration::from_millis(10)),
        start: args.start_timeout,
        wait: args.wait,
        slack: args.slack,
    };
    let check = args.check.clone();
    let request = request(args, &session, port);
    Life::new(client, request, program, signals, check, port, times).run().await
}

/// With what the package says where nothing was given.
fn completed(mut args: Args) -> Result<Args, Failure> {
    let Some(file) = args.package.take() else { return Ok(args) };
    let package = package::read(&file)?;
    args.name = args.name.or(Some(package.name));
    if args.version.is_empty() {
        args.version = package.version;
    }
    args.port = args.port.or(package.port);
    args.ttl = args.ttl.or(package.ttl);
    let given = |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let (needed, mocked) = (given(&args.needs), given(&args.mock));
    args.needs.extend(package.dependencies.into_iter().filter(|(name, _)| !needed.contains(name)));
    args.mock.extend(package.mocks.into_iter().filter(|(name, _)| !mocked.contains(name)));
    Ok(args)
}

/// The port that is given, if nobody listens there, else one that is free.
async fn port(given: Option<u16>) -> Result<u16, Failure> {
    let Some(port) = given else {
        return Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port());
    };
    // Whoever answers there would pass for the program.
    match Check::Tcp.look(port).await {
        Ok(()) => Err(Failure::Other(format!("port {port} is in use already"))),
        Err(_) => Ok(port),
    }
}

fn request(args: Args, session: &Session, port: u16) -> RegisterRequest {
    let instance = Instance {
        namespace: session.namespace.clone(),
        service: args.name.unwrap_or_default(),
        id: args.id,
        host: args.host,
        port: u32::from(port),
        version: args.version,
        zone: args.zone,
        weight: args.weight,
        protocol: args.protocol,
        metadata: args.metadata,
        ..Instance::default()
    };
    let ttl = args.ttl.or(session.ttl).and_then(to_wire);
    RegisterRequest { instance: Some(instance), ttl, ..RegisterRequest::default() }
}
