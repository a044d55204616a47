//! `onair lookup`, `list` and `leave`: one question, one answer.

use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use tonic::transport::Channel;

use super::{
    catalog, curl,
    failure::{CallFailed, Failure},
    print::{Printer, enum_name, note},
    session::{Session, duration_argument, to_wire},
    text::{Table, human, plural, safe},
};
use crate::{
    config::{ClientSettings, Given},
    proto::{
        DeregisterRequest, Emptiness, Fallback, Instance, ListServicesRequest, ListServicesResponse, LookupRequest,
        LookupResponse, Pick, registry_client::RegistryClient,
    },
};

/// The most that a server gives in one page.
const PAGE: usize = 1_000;

const LOOKUP_EXAMPLES: &str = "\
Examples:
  onair lookup web
  onair lookup web --version '^2.1' --selector 'zone=eu,metadata.tier in (gold,silver)'
  onair lookup web --pick rendezvous --pick-key user-42
  onair lookup web --wait 30s && echo up
  onair lookup shop-api --fallback catalog
  onair lookup --frontend www --pick weighted

Exit code 3: nothing found; the reason is told on standard error. So it is with --fallback catalog, which prints what is \
declared: a table of applications, not of instances.";

/// Arguments of `lookup`.
#[derive(Debug, clap::Args)]
#[command(after_help = LOOKUP_EXAMPLES)]
pub struct LookupArgs {
    /// The service's name.
    #[arg(required_unless_present = "frontend")]
    name: Option<String>,
    /// Instead of a service: what is behind this frontend.
    #[arg(long, value_name = "NAME", conflicts_with = "name")]
    frontend: Option<String>,
    /// A version, or a range in npm's grammar: `1.4.2`, `^1.4`, `>=1 <3`.
    #[arg(long, value_name = "RANGE", default_value = "", hide_default_value = true)]
    version: String,
    /// Terms joined by commas: `f=v`, `f!=v`, `f in (a,b)`, `f notin (a,b)`, `f`, `!f`; `status=*` shows all statuses.
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Which of the matches to give.
    #[arg(long, value_enum, default_value_t = Picked::All)]
    pick: Picked,
    /// What rendezvous hashes: the same key gives the same instance while it is there.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    pick_key: String,
    /// At most so many. Default: all of them; one for a pick.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Picks: instances of this zone first.
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
    prefer_zone: String,
    /// If nothing is there, wait so long for something.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    wait: Option<Duration>,
    /// Answer from this revision or a later one.
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    min_revision: u64,
    /// If nobody is online, show what the catalog has declared of it.
    #[arg(long, value_enum)]
    fallback: Option<FallsBack>,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// `Fallback` as the command line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FallsBack {
    /// The application of that id.
    Catalog,
}

/// `Pick` as the command line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Picked {
    /// All, in order.
    All,
    /// At random.
    Random,
    /// In turn.
    RoundRobin,
    /// At random by weight.
    Weighted,
    /// By hash of the pick key.
    Rendezvous,
}

impl From<Picked> for Pick {
    fn from(picked: Picked) -> Self {
        match picked {
            Picked::All => Self::All,
            Picked::Random => Self::Random,
            Picked::RoundRobin => Self::RoundRobin,
            Picked::Weighted => Self::Weighted,
            Picked::Rendezvous => Self::Rendezvous,
        }
    }
}

/// Finds instances, page by page.
///
/// # Errors
/// `Nothing` with the emptiness in words, or what went wrong.
pub async fn lookup(args: LookupArgs) -> Result<(), Failure> {
    let mut session = Session::open(&args.given)?;
    let request = LookupRequest {
        namespace: session.namespace.clone(),
        service: args.name.clone().unwrap_or_default(),
        frontend: args.frontend.clone().unwrap_or_default(),
        version: args.version,
        selector: args.selector,
        pick: Pick::from(args.pick).into(),
        pick_key: args.pick_key,
        limit: args.limit.unwrap_or(0),
        prefer_zone: args.prefer_zone,
        wait: args.wait.and_then(to_wire),
        min_revision: args.min_revision,
        fallback: args.fallback.map_or(Fallback::Unspecified, |FallsBack::Catalog| Fallback::Catalog).into(),
        ..LookupRequest::default()
    };
    if session.print.is_curl() {
        return curl::show(&session, "Lookup", &request);
    }
    let limit = session.line.timeout() + args.wait.unwrap_or_default();
    let name = args.name.or(args.frontend).unwrap_or_default();
    let name = name.as_str();
    let found = every_page(&mut session, name, request, limit).await?;
    if session.print.is_json() {
        session.print.message("LookupResponse", &found)?;
    } else if !found.instances.is_empty() {
        show_instances(&session.print, &found.instances, session.namespace == "*")?;
    }
    match &found.declared {
        Some(declared) if !session.print.is_json() => {
            catalog::show(&session.print, std::slice::from_ref(declared))?;
            let why = in_words(name, found.emptiness());
            Err(Failure::Nothing(format!("{why}; what is shown is what the catalog has of it")))
        }
        _ if found.instances.is_empty() => Err(Failure::Nothing(in_words(name, found.emptiness()))),
        Some(_) => Ok(()),
        None => Ok(()),
    }
}

/// All pages as one answer, or as many instances as were asked for.
async fn every_page(
    session: &mut Session,
    name: &str,
    mut request: LookupRequest,
    limit: Duration,
) -> Result<LookupResponse, CallFailed> {
    let what = format!("look up {name}");
    let (all, wanted) = (request.pick() == Pick::All, request.limit as usize);
    let mut instances = Vec::new();
    loop {
        if all {
            let rest = if wanted == 0 { PAGE } else { wanted - instances.len() };
            request.limit = u32::try_from(rest.min(PAGE)).unwrap_or_default();
        }
        let mut page = session.line.call(&what, limit, request.clone(), send_lookup).await?;
        instances.append(&mut page.instances);
        if page.next_page_token.is_empty() || (wanted > 0 && instances.len() >= wanted) {
            return Ok(LookupResponse { instances, ..page });
        }
        request.page_token = page.next_page_token;
        // Something is there: nothing to wait for.
        request.wait = None;
    }
}

/// One Lookup.
pub async fn send_lookup(
    channel: Channel,
    request: tonic::Request<LookupRequest>,
) -> Result<tonic::Response<LookupResponse>, tonic::Status> {
    RegistryClient::new(channel).lookup(request).await
}

fn show_instances(print: &Printer, instances: &[Instance], everywhere: bool) -> Result<(), Failure> {
    let now = SystemTime::now();
    // Only where there are some.
    let partitions = instances.iter().any(|instance| !instance.partition_key.is_empty());
    let mut heads = vec!["ID", "URL", "VERSION", "STATUS", "ZONE", "WEIGHT", "ONLINE"];
    heads.extend(partitions.then_some("PARTITION"));
    heads.extend(everywhere.then_some("NAMESPACE"));
    let mut table = Table::new(heads);
    for instance in instances {
        let since = instance.online_since.and_then(|since| SystemTime::try_from(since).ok());
        let age = since.map_or_else(String::new, |since| human(now.duration_since(since).unwrap_or_default()));
        let mut cells = vec![
            instance.id.clone(),
            instance.url.clone(),
            instance.version.clone(),
            status_name(instance.status),
            instance.zone.clone(),
            instance.weight.unwrap_or(1).to_string(),
            age,
        ];
        cells.extend(partitions.then(|| instance.partition_key.clone()));
        cells.extend(everywhere.then(|| instance.namespace.clone()));
        table.row(cells);
    }
    print.table(&table)
}

/// `SERVING`; a status of a newer server is its number.
#[must_use]
pub fn status_name(status: i32) -> String {
    enum_name("Status", status, "STATUS_")
}

/// The name of an enum's value without the prefix that the proto gives it.
#[must_use]
pub fn bare(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

fn in_words(name: &str, emptiness: Emptiness) -> String {
    let why = match emptiness {
        Emptiness::Unspecified => "there is nothing",
        Emptiness::UnknownNamespace => "there is no such namespace",
        Emptiness::UnknownService => "there is no such service",
        Emptiness::UnknownFrontend => "there is no such frontend",
        Emptiness::NoMatch => "no instance there matches",
        Emptiness::AllOffline => "it is known, but no instance of it can take traffic now",
    };
    format!("{name}: {why} ({})", bare(emptiness.as_str_name(), "EMPTINESS_"))
}

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  onair list\n  onair list shop- --output json\n  onair list --namespace '*'")]
pub struct ListArgs {
    /// Only names that begin so.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Lists the known services, page by page.
///
/// # Errors
/// What went wrong.
pub async fn list(args: ListArgs) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    let mut request =
        ListServicesRequest { namespace: session.namespace.clone(), prefix: args.prefix, ..Default::default() };
    if session.print.is_curl() {
        return curl::show(&session, "ListServices", &request);
    }
    let mut listed = ListServicesResponse::default();
    loop {
        let send = async |channel, request| RegistryClient::new(channel).list_services(request).await;
        let page = session.line.call("list the services", session.line.timeout(), request.clone(), send).await?;
        listed.services.extend(page.services);
        listed.revision = page.revision;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if session.print.is_json() {
        return session.print.message("ListServicesResponse", &listed);
    }
    let mut table = Table::new(["NAMESPACE", "SERVICE", "INSTANCES", "ROUTABLE"]);
    for summary in listed.services {
        let (instances, routable) = (summary.instances.to_string(), summary.routable.to_string());
        table.row([summary.namespace, summary.service, instances, routable]);
    }
    session.print.table(&table)
}

/// Arguments of `leave`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  onair leave web --id 10.0.0.1:8000
  onair leave web --all

What is still kept by its registrant comes back with its next heartbeat: this is no ban.",
    group(clap::ArgGroup::new("which").required(true).args(["id", "all"])))]
pub struct LeaveArgs {
    /// The service's name.
    name: String,
    /// The instance's id.
    #[arg(long)]
    id: Option<String>,
    /// Every instance of the service.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Takes instances away by key.
///
/// # Errors
/// What went wrong; that nothing was there is not an error.
pub async fn leave(args: LeaveArgs) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    let request = DeregisterRequest {
        namespace: session.namespace.clone(),
        service: args.name.clone(),
        id: args.id.unwrap_or_default(),
        all: args.all,
        ..DeregisterRequest::default()
    };
    if session.print.is_curl() {
        return curl::show(&session, "Deregister", &request);
    }
    let send = async |channel, request| RegistryClient::new(channel).deregister(request).await;
    let what = format!("take {} away", args.name);
    let answer = session.line.call(&what, session.line.timeout(), request, send).await?;
    if session.print.is_json() {
        return session.print.message("DeregisterResponse", &answer);
    }
    if answer.removed == 0 {
        note(&format!("{}: nothing was there to take away", safe(&args.name)));
        return Ok(());
    }
    session.print.line(&format!("{}: {} taken away", safe(&args.name), plural(answer.removed, "instance")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptiness_has_words() {
        assert_eq!(in_words("web", Emptiness::UnknownService), "web: there is no such service (UNKNOWN_SERVICE)");
        assert!(in_words("web", Emptiness::AllOffline).ends_with("(ALL_OFFLINE)"));
    }

    #[test]
    fn statuses_have_names() {
        assert_eq!(status_name(crate::proto::Status::Serving as i32), "SERVING");
        assert_eq!(status_name(77), "77");
    }
}
