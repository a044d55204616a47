//! `onair run`: programs that are registered while they run and work. The arguments are here, a program's life in `life`,
//! that of several in `several`.

mod environment;
mod file;
mod inside;
mod life;
mod moves;
mod order;
mod output;
mod plan;
mod port;
mod program;
mod several;
mod signals;

use std::{collections::BTreeSet, ffi::OsString, mem, path::PathBuf, time::Duration};

use tokio::sync::watch;
use tonic::transport::Channel;

use super::{
    check::Check,
    describe::Described,
    failure::{Failure, Report as _},
    kept::Stands,
    needs::{self, IfMissing},
    package,
    print::note,
    session::{Session, duration_argument},
};
use crate::{
    config::{self, ClientSettings, Given, Refused},
    proto::{GetStartOrderRequest, catalog_client::CatalogClient},
};
use file::Programs;
pub(in crate::cli) use inside::{Args as InsideArgs, VERB as INSIDE, run as inside};
use life::Times;
use plan::{OnMove, Plan};
pub(in crate::cli) use signals::Signals;

/// Nothing is looked at more often.
pub(in crate::cli) const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

const EXAMPLES: &str = "\
Examples:
  onair run api -- node api.js
  onair run web --needs api@^2 -- node web.js
  onair run web --port 8000 --check http:/healthz -- ./web --listen :8000
  onair run --package package.json -- npm start
  onair run --file onair.toml

The program finds its port in PORT, and what it needs in API_URL, API_HOST and API_PORT (of a service `api`); what is in \
the environment already stays: a PORT there is its port, as if it were given. Without, the port is the same at each start \
where it is free. It starts when everything that it \
needs is online, in whatever order that comes; when that is elsewhere later, it is told, or started again with --on-move \
restart. It is registered once the check passes; while the check fails it is out \
of traffic and its lease is not kept.

SIGTERM: it is drained, taken away, and told to end, however long the registry takes. SIGINT: without the drain. What has \
not ended after the slack is killed, and so is whatever it has started, unless that left its process group (setsid, a \
daemon). A second signal kills at once. The program has to stay in the foreground. \
The exit code is the program's; of one that a signal ended, 128 and its number. 4: another process has registered the \
same instance.

A file has a table for each program, whose keys are these options with _ for -, and `command`, `dir` and `env`:
  [run.api]
  command = [\"node\", \"api.js\"]
  check = \"http:/healthz\"
  [run.web]
  command = \"node web.js | tee web.log\"
  needs = [\"api@^2\"]
  env = { LOG = \"debug\" }
They start in the order of their needs, and of the catalog's where it knows them. When one ends, or a signal comes, all \
stop in reverse. What they print comes in lines with their names; one longer than 16 KiB comes in pieces. The exit code is that of the one that ended first, and 128 and the signal's number after a signal.";

/// What a file says of each program itself, by these names or nearly, and the command line therefore does not.
const OWN: [&str; 21] = [
    "command",
    "package",
    "port",
    "host",
    "version",
    "ttl",
    "zone",
    "weight",
    "metadata",
    "id",
    "protocol",
    "needs",
    "mock",
    "if_missing",
    "needs_timeout",
    "on_move",
    "check",
    "check_interval",
    "start_timeout",
    "wait",
    "slack",
];

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service's name, by which clients look it up. With --file: which of its programs; default: all.
    name: Vec<String>,
    /// The program and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Run the programs of this file, which says everything of them.
    #[arg(long, value_name = "FILE", conflicts_with_all = OWN)]
    file: Option<PathBuf>,
    #[command(flatten)]
    own: Own,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// What there is to say of one program.
#[derive(Debug, clap::Args)]
struct Own {
    /// Take what is not given here from this `package.json`, as `onair join` does.
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
    /// The port it listens on. Default: PORT in the environment, else the name's own, or another if that is not free.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    #[command(flatten)]
    described: Described,
    /// What to do when something that it needs is not there.
    #[arg(long, value_enum, default_value_t = IfMissing::Wait)]
    if_missing: IfMissing,
    /// How long `--if-missing wait` waits, and any of them for a registry that does not answer. Default: as long as it takes.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    needs_timeout: Option<Duration>,
    /// What to do when something that it needs is online elsewhere, and no more where the program was told.
    #[arg(long, value_enum, default_value_t = OnMove::Tell)]
    on_move: OnMove,
    /// When it works: `tcp`, it takes connections; `http:/PATH`, it answers well; `grpc[:SERVICE]`, its health is serving;
    /// `cmd:COMMAND`, a command of the shell ends with 0.
    #[arg(long, value_name = "CHECK", default_value = "tcp")]
    check: Check,
    /// How often it is checked.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration_argument)]
    check_interval: Duration,
    /// How long it may take until the check passes first.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_time)]
    start_timeout: Duration,
    /// How long those who watch it may take to hear that it goes. Who only looks it up is not waited for.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration_argument)]
    wait: Duration,
    /// How long it may take to end when it is told to.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration_argument)]
    slack: Duration,
}

/// Runs the programs to their end.
///
/// # Errors
/// One did not end with 0, or could not be started, or its registration was refused.
pub async fn run(args: Args) -> Result<(), Failure> {
    let Args { name, command, file, own, mut given } = args;
    if let Some(path) = file {
        let Programs { plans, mut order, has_client } = file::read(&path, &name)?;
        // What a file says of clients is for its own programs.
        if has_client && given.config.is_none() {
            given.config = Some(path);
        }
        let session = opened(&given)?;
        let plans: Vec<Plan> = plans.into_iter().map(|plan| plan.within(&session)).collect();
        known_good(&plans)?;
        // Before anything is started, so that no signal leaves it behind.
        let mut signals = Signals::listen()?;
        let levels = tokio::select! {
            levels = levels(&session, &plans) => levels,
            told = signals.cancel() => return Err(Failure::Program { what: None, code: told.code() }),
        };
        order.refine(&levels);
        return several::run(plans, order, &session.client(), signals).await;
    }
    let name = one_name(name, &command, own.package.is_some())?;
    let session = opened(&given)?;
    let plan = own.plan(name, command)?.within(&session);
    known_good(std::slice::from_ref(&plan))?;
    let signals = Signals::listen()?;
    let (to, orders) = signals::orders();
    tokio::spawn(signals.tell(to));
    let (stands, _) = watch::channel(Stands::default());
    life::live(plan, session.client(), orders, stands, None).await
}

/// The one name of one program: what is meant by words without `--` is told.
fn one_name(mut name: Vec<String>, command: &[OsString], has_package: bool) -> Result<String, Failure> {
    let usage = |text: String| Err(Failure::Usage(text));
    match (&name[..], command) {
        ([], _) if !has_package => usage("it has no name: onair run NAME -- COMMAND, like `api -- node api.js`".into()),
        ([..], []) => {
            let (name, command) = name.split_first().map_or(("NAME", &[][..]), |(name, rest)| (name, rest));
            let command = if command.is_empty() { "COMMAND".to_owned() } else { command.join(" ") };
            usage(format!("there is no program: `--` is put before it, as in `onair run {name} -- {command}`"))
        }
        ([_, _, ..], _) => usage(format!("one program has one name, and these are {}: see --file", name.len())),
        _ => Ok(name.pop().unwrap_or_default()),
    }
}

/// # Errors
/// Everything that no registry would take: nothing is started for that.
fn known_good(plans: &[Plan]) -> Result<(), Failure> {
    let wrong: Vec<_> = plans.iter().flat_map(Plan::refused).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Settings(Refused(wrong))) }
}

fn opened(given: &Given<ClientSettings>) -> Result<Session, Failure> {
    let session = Session::open(given)?;
    if session.print.is_curl() || session.print.is_json() {
        return Err(Failure::Usage("the output is the program's: there is no --output for `run`".to_owned()));
    }
    Ok(session)
}

impl Own {
    fn plan(mut self, name: String, command: Vec<OsString>) -> Result<Plan, Failure> {
        let mut plan = Plan::new(name, command);
        plan.port = match self.port {
            Some(port) => Some(port),
            None => own_port()?,
        };
        plan.check = self.check;
        plan.times = Times {
            interval: self.check_interval.max(SHORTEST_INTERVAL),
            start: self.start_timeout,
            wait: self.wait,
            slack: self.slack,
        };
        plan.ttl = self.described.ttl;
        plan.needs = needs::once_each("--needs", mem::take(&mut self.described.needs))?;
        plan.mocks = needs::once_each("--mock", mem::take(&mut self.described.mock))?;
        plan.if_missing = self.if_missing;
        plan.needs_timeout = self.needs_timeout;
        plan.on_move = self.on_move;
        plan.instance = self.described.instance();
        Ok(match self.package {
            Some(path) => plan.completed(package::read(&path)?),
            None => plan,
        })
    }
}

/// A duration that is none is no time to start in.
fn some_time(text: &str) -> Result<Duration, String> {
    config::duration(text).and_then(|time| if time.is_zero() { Err("0 is too short".to_owned()) } else { Ok(time) })
}

/// The port that the environment gives to one program.
fn own_port() -> Result<Option<u16>, Failure> {
    let Some(said) = std::env::var_os("PORT").filter(|said| !said.is_empty()) else { return Ok(None) };
    let port = said.to_str().and_then(|said| said.parse().ok()).filter(|port: &u16| *port > 0);
    let why = || Failure::Usage(format!("PORT in the environment is no port: {}", said.display()));
    port.map(Some).ok_or_else(why)
}

/// The catalog's levels of these programs, as far as it has them.
async fn levels(session: &Session, plans: &[Plan]) -> Vec<BTreeSet<usize>> {
    let request = GetStartOrderRequest { namespace: session.namespace.clone(), ..GetStartOrderRequest::default() };
    let send = |channel: Channel, request| async move { CatalogClient::new(channel).get_start_order(request).await };
    let order = session.line.call("find the start order", session.line.timeout(), request, send).await;
    match order {
        Ok(order) => {
            let number = |name: &String| plans.iter().position(|plan| plan.name == *name);
            order.levels.iter().map(|level| level.applications.iter().filter_map(number).collect()).collect()
        }
        Err(failed) => {
            note(&format!("the catalog's order is not known, and the file's counts: {}", failed.short()));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_one_program_is_not_said_beside_a_file() {
        let own = <Own as clap::Args>::augment_args(clap::Command::new("run"));
        let ids: Vec<_> = own.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        assert_eq!(ids, OWN[1..]);
    }

    #[test]
    fn a_program_stands_behind_two_dashes() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let read = |name: &[&str], command: &[&str], has_package| {
            let command: Vec<_> = command.iter().map(OsString::from).collect();
            one_name(words(name), &command, has_package).map_err(|failure| failure.report().unwrap_or_default())
        };
        assert_eq!(read(&["api"], &["node"], false), Ok("api".to_owned()));
        assert_eq!(read(&[], &["node"], true), Ok(String::new()));
        for (name, command, part) in [
            (&[][..], &["node", "api.js"][..], "it has no name"),
            (&["api", "node", "api.js"], &[], "`onair run api -- node api.js`"),
            (&["api"], &[], "`onair run api -- COMMAND`"),
            (&["api", "web"], &["node"], "one program has one name"),
        ] {
            let told = read(name, command, false).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
    }
}
