//! `onair switch` and `onair frontend back`: shows what it would come to, asks, and does it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::{
    curl,
    deploy::{Expected, Pointing, shares, versions},
    failure::Failure,
    print::Printer,
    session::Session,
    text::{Table, plural, safe},
};
use crate::{
    config::{ClientSettings, Given},
    proto::{
        Frontend, SwitchBackRequest, SwitchBackResponse, SwitchRequest, SwitchResponse,
        deployments_client::DeploymentsClient,
    },
};

const EXAMPLES: &str = "\
Examples:
  onair switch www --to green
  onair switch www --to green --weights blue=95,green=5
  onair switch www --to green --yes --output json

On a terminal it shows what the switch comes to, and asks; elsewhere it needs --yes. What it shows is what it does: if
the frontend was changed meanwhile, nothing is.";

/// Arguments of `switch`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The frontend.
    name: String,
    #[command(flatten)]
    pointing: Pointing,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Arguments of `frontend back`.
#[derive(Debug, clap::Args)]
pub struct BackArgs {
    /// The frontend.
    name: String,
    /// Where it came to point at this revision, as `frontend history` shows it. Left out: the last place.
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    to_revision: u64,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

#[derive(Debug, clap::Args)]
struct Consent {
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Only show what it would come to.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    expected: Expected,
}

/// Points a frontend elsewhere.
///
/// # Errors
/// What went wrong; `Usage` where nobody can be asked.
pub async fn run(args: Args) -> Result<(), Failure> {
    let splits = args.pointing.targets()?;
    let mut session = Session::open(&args.given)?;
    let request = SwitchRequest {
        namespace: session.namespace.clone(),
        frontend: args.name.clone(),
        splits,
        expected_revision: args.consent.expected.expected_revision,
        ..SwitchRequest::default()
    };
    if session.print.is_curl() {
        return curl::show(&session, "Switch", &SwitchRequest { dry_run: args.consent.dry_run, ..request });
    }
    let ask = async |session: &mut Session, expected: u64, dry_run: bool| {
        let mut request = SwitchRequest { dry_run, ..request.clone() };
        request.expected_revision = if expected == 0 { request.expected_revision } else { expected };
        let send = async |channel, request| DeploymentsClient::new(channel).switch(request).await;
        session.line.call(&format!("switch {}", args.name), session.line.timeout(), request, send).await
    };
    consented(&mut session, &args.consent, &ask).await
}

/// Points a frontend where it pointed before.
///
/// # Errors
/// As `run`.
pub async fn back(args: BackArgs) -> Result<(), Failure> {
    let mut session = Session::open(&args.given)?;
    let asked = SwitchBackRequest {
        namespace: session.namespace.clone(),
        frontend: args.name.clone(),
        to_revision: args.to_revision,
        expected_revision: args.consent.expected.expected_revision,
        dry_run: args.consent.dry_run,
    };
    if session.print.is_curl() {
        return curl::show(&session, "SwitchBack", &asked);
    }
    let ask = async |session: &mut Session, expected: u64, dry_run: bool| {
        let mut request = SwitchBackRequest { dry_run, ..asked.clone() };
        request.expected_revision = if expected == 0 { request.expected_revision } else { expected };
        let send = async |channel, request| DeploymentsClient::new(channel).switch_back(request).await;
        let what = format!("switch {} back", args.name);
        let SwitchBackResponse { before, after, joined, left, watchers, revision } =
            session.line.call(&what, session.line.timeout(), request, send).await?;
        Ok(SwitchResponse { before, after, joined, left, watchers, revision })
    };
    consented(&mut session, &args.consent, &ask).await
}

/// Shows, asks, does. What was shown is what is done: the revision that was shown is expected.
async fn consented(
    session: &mut Session,
    consent: &Consent,
    ask: &impl AsyncFn(&mut Session, u64, bool) -> Result<SwitchResponse, super::failure::CallFailed>,
) -> Result<(), Failure> {
    let asks = !consent.yes && !consent.dry_run;
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::Usage("there is nobody to ask: --yes does it, --dry-run shows it".to_owned()));
    }
    let would = ask(session, 0, true).await?;
    if consent.dry_run {
        show(&session.print, &would)?;
        return if session.print.is_json() { Ok(()) } else { session.print.line("nothing was switched: --dry-run") };
    }
    if asks {
        let mut terminal = io::stderr().lock();
        write!(terminal, "{}\nSwitch? [y/N] ", table(&would).render())?;
        terminal.flush()?;
        drop(terminal);
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::Nothing("nothing was switched".to_owned()));
        }
    }
    let expected = would.before.as_ref().map_or(0, |before| before.revision);
    let done = ask(session, expected, false).await?;
    if session.print.is_json() || !asks {
        show(&session.print, &done)?;
    }
    if session.print.is_json() {
        return Ok(());
    }
    let after = done.after.unwrap_or_default();
    let line = format!("{} points at {} since revision {}", after.name, shares(&after.splits), after.since);
    session.print.line(&safe(&line))
}

fn show(print: &Printer, switched: &SwitchResponse) -> Result<(), Failure> {
    if print.is_json() { print.message("SwitchResponse", switched) } else { print.table(&table(switched)) }
}

/// How many instances come and go.
fn moves(joined: u64, left: u64) -> String {
    let does = |verb: &str, count: u64| if count == 1 { format!("{verb}s") } else { verb.to_owned() };
    format!("{} {}, {left} {}", plural(joined, "instance"), does("join", joined), does("leave", left))
}

fn table(switched: &SwitchResponse) -> Table {
    let name = switched.before.as_ref().map(|before| before.name.clone()).unwrap_or_default();
    let mut table = Table::new([&*safe(&name), "BACKENDS", "VERSIONS"]);
    let row = |what: &str, frontend: &Option<Frontend>| {
        let splits = frontend.as_ref().map(|frontend| frontend.splits.clone()).unwrap_or_default();
        [what.to_owned(), shares(&splits), versions(&splits)]
    };
    table.row(row("before", &switched.before));
    table.row(row("after", &switched.after));
    let instances = moves(switched.joined, switched.left);
    table.row(["concerns".to_owned(), instances, plural(switched.watchers, "watcher")]);
    table
}

#[cfg(test)]
mod tests {
    use super::moves;

    #[test]
    fn one_joins_and_several_join() {
        assert_eq!(moves(1, 1), "1 instance joins, 1 leaves");
        assert_eq!(moves(2, 0), "2 instances join, 0 leave");
    }
}
