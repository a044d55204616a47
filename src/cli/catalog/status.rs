//! `onair status`: which applications of the catalog are online, which are missing, and which are where nobody would look
//! for them.

use super::{ask, joined, nothing_declared};
use crate::{
    cli::{
        failure::Failure,
        print::Printer,
        text::{Table, Tone, host_port, safe},
    },
    config::{ClientSettings, Given},
    proto::{ApplicationState, ApplicationStatus, GetCatalogStatusRequest, GetCatalogStatusResponse, PortStatus},
};

const EXAMPLES: &str = "\
Examples:
  onair status
  onair status shop
  onair status --state missing
  onair status --check && echo all up

An application is online while an instance of the service of its name takes calls. One whose instances are on another \
port than the catalog has, external or internal, is told as UNEXPECTED_PORT with where they are.

Exit code 3: there is no such application; with --check, some are missing or elsewhere.";

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// Only applications called so, or so followed by `-` and more.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only those that stand so. Repeatable.
    #[arg(long = "state", value_enum)]
    states: Vec<State>,
    /// Fail unless all of them are online, each on its ports.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// `ApplicationState` as the command line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum State {
    /// Online, on its ports.
    Online,
    /// Nobody is online.
    Missing,
    /// Somebody is on another port.
    UnexpectedPort,
}

impl From<State> for ApplicationState {
    fn from(state: State) -> Self {
        match state {
            State::Online => Self::Online,
            State::Missing => Self::Missing,
            State::UnexpectedPort => Self::UnexpectedPort,
        }
    }
}

/// How many applications one call asks for.
const PAGE: u32 = 100;

/// Prints how applications stand.
///
/// # Errors
/// What went wrong.
pub async fn status(StatusArgs { prefix, states, check, given }: StatusArgs) -> Result<(), Failure> {
    let states: Vec<i32> = states.into_iter().map(|state| ApplicationState::from(state).into()).collect();
    let (mut all, mut asked_of): (Option<GetCatalogStatusResponse>, _) = (None, String::new());
    loop {
        let page_token = all.as_ref().map(|all| all.next_page_token.clone()).unwrap_or_default();
        let request = |namespace: String| {
            asked_of.clone_from(&namespace);
            let (prefix, states) = (prefix.clone(), states.clone());
            GetCatalogStatusRequest { namespace, prefix, states, limit: PAGE, page_token, ..Default::default() }
        };
        let send = async |mut client: super::Client, request| client.get_catalog_status(request).await;
        let asked = ask(&given, "GetCatalogStatus", "ask how the applications stand", request, send).await?;
        let Some((print, mut page)) = asked else { return Ok(()) };
        // The first page has the counts of all.
        if let Some(all) = &mut all {
            all.applications.append(&mut page.applications);
            all.next_page_token = page.next_page_token;
        } else {
            all = Some(page);
        }
        let Some(all) = all.as_ref().filter(|all| all.next_page_token.is_empty()) else { continue };
        if all.applications.is_empty() && states.is_empty() {
            return Err(match prefix.as_str() {
                "" => nothing_declared(&asked_of),
                _ => Failure::Nothing(format!("no application is called {0}, or {0}-…", safe(&prefix))),
            });
        }
        show(&print, all)?;
        return match all.missing + all.unexpected_port {
            others if check && others > 0 => Err(Failure::Nothing(format!("{others} are not online on their ports"))),
            _ => Ok(()),
        };
    }
}

fn show(print: &Printer, found: &GetCatalogStatusResponse) -> Result<(), Failure> {
    if print.is_json() {
        return print.message("GetCatalogStatusResponse", found);
    }
    let mut table = Table::new(["APPLICATION", "STATE", "DECLARED", "LIVE", "ELSEWHERE", "NEEDS"]);
    for application in &found.applications {
        table.row(row_of(application));
    }
    print.table(&table)?;
    let GetCatalogStatusResponse { online, missing, unexpected_port, .. } = found;
    let tone = if *missing + *unexpected_port > 0 { Tone::Notice } else { Tone::Good };
    let sum = format!("{online} online, {missing} missing, {unexpected_port} on an unexpected port");
    print.line(&print.paint(tone, &sum))
}

fn row_of(application: &ApplicationStatus) -> [String; 6] {
    let state = match application.state() {
        ApplicationState::Online => "online",
        ApplicationState::Missing => "MISSING",
        ApplicationState::UnexpectedPort => "UNEXPECTED PORT",
        ApplicationState::Unspecified => "",
    };
    let declared = |port: &PortStatus| format!("{}:{}->{}", port.service, port.external, port.internal);
    let mut elsewhere: Vec<String> =
        application.unexpected.iter().map(|instance| host_port(&instance.host, instance.port)).collect();
    if application.unexpected_instances as usize > elsewhere.len() {
        elsewhere.push(format!("and {} more", application.unexpected_instances as usize - elsewhere.len()));
    }
    let needs = application.missing_dependencies.iter().map(|id| format!("{id} (missing)"));
    [
        application.id.clone(),
        state.to_owned(),
        joined(application.ports.iter().map(declared)),
        application.instances.to_string(),
        joined(elsewhere),
        joined(needs),
    ]
}
