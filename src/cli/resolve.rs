//! `onair resolve`: where the dependencies of a service are.

use std::time::Duration;

use super::{
    curl,
    failure::Failure,
    needs,
    session::{Session, duration_argument, to_wire},
    text::Table,
};
use crate::{
    config::{ClientSettings, Given},
    proto::{IfMissing, ResolveRequest, registry_client::RegistryClient},
};

const EXAMPLES: &str = "\
Examples:
  onair resolve api@^2 auth
  onair resolve api@^2 auth --mock auth=localhost:3000
  onair resolve api@^2 --wait 30s && echo up

Exit code 3: something is missing; all that is missing is named on standard error.";

/// Arguments of `resolve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to find: a service's name, with a version or range after `@` if not any will do.
    #[arg(value_name = "NAME[@RANGE]", required = true, value_parser = needs::need)]
    wanted: Vec<(String, String)>,
    /// A stand-in, given back as it is without looking; may be repeated.
    #[arg(long, value_name = "NAME=URL", value_parser = needs::mock)]
    mock: Vec<(String, String)>,
    /// If something is missing, wait so long until everything is there.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    wait: Option<Duration>,
    /// Instances of this zone first.
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
    prefer_zone: String,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Finds all of it, as of one revision.
///
/// # Errors
/// `Nothing` with all that is missing, or what went wrong.
pub async fn run(args: Args) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    // Without a wait what is there is shown beside what is missing.
    let if_missing = if args.wait.is_some() { IfMissing::Wait } else { IfMissing::Ignore };
    let request = ResolveRequest {
        namespace: session.namespace.clone(),
        dependencies: needs::once_each("the name", args.wanted)?,
        mocks: needs::once_each("the mock of", args.mock)?,
        if_missing: if_missing.into(),
        wait: args.wait.and_then(to_wire),
        prefer_zone: args.prefer_zone,
    };
    if session.print.is_curl() {
        return curl::show(&session, "Resolve", &request);
    }
    let limit = session.line.timeout() + args.wait.unwrap_or_default();
    let send = async |channel, request| RegistryClient::new(channel).resolve(request).await;
    let found = session.line.call("resolve", limit, request, send).await.map_err(needs::failure)?;
    if session.print.is_json() {
        session.print.message("ResolveResponse", &found)?;
    } else {
        let mut table = Table::new(["NAME", "URL", "VERSION", "ID"]);
        for (name, dependency) in &found.resolved {
            let instance = dependency.instance.clone();
            let (version, id) = instance
                .map_or_else(|| (String::new(), "(mock)".to_owned()), |instance| (instance.version, instance.id));
            table.row([name.clone(), dependency.url.clone(), version, id]);
        }
        session.print.table(&table)?;
    }
    if found.missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Nothing(format!("No url for: {}", found.missing.join(", "))))
}
