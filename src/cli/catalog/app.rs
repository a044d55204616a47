//! `onair app`: applications of the catalog, their ports, what they need, and what changed.

use super::{ask, export, import, joined, ports_of, told_gone};
use crate::{
    cli::{
        deploy::{Expected, ago},
        failure::Failure,
        print::Printer,
        text::Table,
    },
    config::{ClientSettings, Given},
    proto::{
        AddDependencyRequest, Application, CatalogChange, CatalogVersion, CreateApplicationRequest,
        DeleteApplicationRequest, GetApplicationRequest, GetDependencyReportRequest, GetDependencyReportResponse,
        ListApplicationsRequest, ListCatalogVersionsRequest, PutApplicationRequest, RemoveDependencyRequest,
        catalog_version::Value,
    },
};

const EXAMPLES: &str = "\
Examples:
  onair app create shop-db --service postgresql
  onair app create shop-api --service play --depends-on shop-db
  onair app put shop-api --service postgresql
  onair app list shop --sort port
  onair app depend shop-api shop-mail
  onair app report shop-db
  onair app export > catalog.json
  onair app import catalog.json --strict

An application's external port is the next one of its family, unless --external names one.";

/// Arguments of `app`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make one.
    Create {
        /// Its id.
        id: String,
        /// The service type that it gets a port for.
        #[arg(long)]
        service: String,
        #[command(flatten)]
        ports: Ports,
        /// An application that it needs. Repeatable.
        #[arg(long = "depends-on", value_name = "APP")]
        dependencies: Vec<String>,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Show one.
    Get {
        /// Its id.
        id: String,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// List them.
    List(ListArgs),
    /// Make one, or change what is given of one. Another service type gets a port beside.
    Put {
        /// Its id.
        id: String,
        /// A service type that it is to have a port of.
        #[arg(long)]
        service: Option<String>,
        #[command(flatten)]
        ports: Ports,
        /// An application that it needs, in place of those before. Repeatable.
        #[arg(long = "depends-on", value_name = "APP", conflicts_with = "no_dependencies")]
        dependencies: Vec<String>,
        /// It needs no application any more.
        #[arg(long)]
        no_dependencies: bool,
        /// A service type that it is to have no port of any more. Repeatable.
        #[arg(long = "without", value_name = "TYPE")]
        without: Vec<String>,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Take one away that no other needs.
    Delete {
        /// Its id.
        id: String,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// One needs another one too.
    Depend(Pair),
    /// One does not need another one any more.
    Undepend(Pair),
    /// List what changed in the catalog.
    Versions {
        /// Only changes of this application or service type.
        id: Option<String>,
        /// At most so many, the newest first.
        #[arg(long, default_value_t = 25)]
        limit: u32,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Take a list of applications, as it was exported here or by another registry.
    Import(import::Args),
    /// Print the whole catalog, for an import, for other programs, or to be drawn.
    Export(export::Args),
    /// Show what the dependencies look like, and who is affected if an application goes.
    Report {
        /// The application.
        id: Option<String>,
        /// Only how many and how deep, not who.
        #[arg(long)]
        numbers_only: bool,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
}

#[derive(Debug, clap::Args)]
struct Ports {
    /// The external port, 1025 to 65535.
    #[arg(long, allow_negative_numbers = true)]
    external: Option<i32>,
    /// The internal port, if not that of the service type.
    #[arg(long, allow_negative_numbers = true)]
    internal: Option<i32>,
}

#[derive(Debug, clap::Args)]
struct Pair {
    /// The application.
    id: String,
    /// The one that it needs.
    dependency: String,
    #[command(flatten)]
    expected: Expected,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only those called so, or so followed by `-` and more.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only those with this in their id.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    search: String,
    /// Only those with a port of this service type. Repeatable.
    #[arg(long = "service", value_name = "TYPE")]
    services: Vec<String>,
    /// Only that with this external port. Repeatable.
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u32>,
    /// created_at, id or port, with - before it the other way round.
    #[arg(long, default_value = "id", allow_hyphen_values = true)]
    sort: String,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Does what was asked of an application.
///
/// # Errors
/// What went wrong.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Create { id, service, ports, dependencies, given } => {
            let (what, Ports { external, internal }) = (format!("create the application {id}"), ports);
            let request =
                |namespace| CreateApplicationRequest { namespace, id, service, external, internal, dependencies };
            let send = async |mut client: super::Client, request| client.create_application(request).await;
            let asked = ask(&given, "CreateApplication", &what, request, send).await?;
            asked.map_or(Ok(()), |(print, made)| show_one(&print, made.application))
        }
        Action::Get { id, given } => {
            let what = format!("get the application {id}");
            let send = async |mut client: super::Client, request| client.get_application(request).await;
            let request = |namespace| GetApplicationRequest { namespace, id };
            let asked = ask(&given, "GetApplication", &what, request, send).await?;
            asked.map_or(Ok(()), |(print, found)| show_one(&print, found.application))
        }
        Action::List(args) => list(args).await,
        Action::Put { id, service, ports, dependencies, no_dependencies, without, expected, given } => {
            let (what, Ports { external, internal }) = (format!("put the application {id}"), ports);
            let request = |namespace| PutApplicationRequest {
                namespace,
                id,
                service,
                external,
                internal,
                dependencies,
                no_dependencies,
                expected_revision: expected.expected_revision,
                without_services: without,
            };
            let send = async |mut client: super::Client, request| client.put_application(request).await;
            let asked = ask(&given, "PutApplication", &what, request, send).await?;
            asked.map_or(Ok(()), |(print, made)| show_one(&print, made.application))
        }
        Action::Delete { id, expected, given } => {
            let what = format!("delete the application {id}");
            let send = async |mut client: super::Client, request| client.delete_application(request).await;
            let request = |namespace| DeleteApplicationRequest {
                namespace,
                id: id.clone(),
                expected_revision: expected.expected_revision,
            };
            let asked = ask(&given, "DeleteApplication", &what, request, send).await?;
            asked.map_or(Ok(()), |(print, gone)| told_gone(&print, "DeleteApplicationResponse", &gone, &id))
        }
        Action::Depend(pair) => depend(pair).await,
        Action::Undepend(pair) => undepend(pair).await,
        Action::Versions { id, limit, given } => versions(id, limit, &given).await,
        Action::Import(args) => import::run(args).await,
        Action::Export(args) => export::run(args).await,
        Action::Report { id, numbers_only, given } => report(id, numbers_only, &given).await,
    }
}

async fn depend(Pair { id, dependency, expected, given }: Pair) -> Result<(), Failure> {
    let what = format!("add a dependency of {id}");
    let send = async |mut client: super::Client, request| client.add_dependency(request).await;
    let expected_revision = expected.expected_revision;
    let request = |namespace| AddDependencyRequest { namespace, id, dependency, expected_revision };
    let asked = ask(&given, "AddDependency", &what, request, send).await?;
    asked.map_or(Ok(()), |(print, made)| show_one(&print, made.application))
}

async fn undepend(Pair { id, dependency, expected, given }: Pair) -> Result<(), Failure> {
    let what = format!("remove a dependency of {id}");
    let send = async |mut client: super::Client, request| client.remove_dependency(request).await;
    let expected_revision = expected.expected_revision;
    let request = |namespace| RemoveDependencyRequest { namespace, id, dependency, expected_revision };
    let asked = ask(&given, "RemoveDependency", &what, request, send).await?;
    asked.map_or(Ok(()), |(print, made)| show_one(&print, made.application))
}

/// How many applications one call asks for.
const PAGE: u32 = 100;

async fn list(args: ListArgs) -> Result<(), Failure> {
    let ListArgs { prefix, search, services, ports, sort, given } = args;
    let (mut all, mut page_token, mut of_all) = (Vec::new(), String::new(), false);
    loop {
        let request = |namespace: String| ListApplicationsRequest {
            // Then their names alone do not tell them apart.
            namespace: {
                of_all = namespace == "*";
                namespace
            },
            prefix: prefix.clone(),
            q: search.clone(),
            services: services.clone(),
            ports: ports.clone(),
            sort: sort.clone(),
            limit: PAGE,
            page_token,
            ..ListApplicationsRequest::default()
        };
        let send = async |mut client: super::Client, request| client.list_applications(request).await;
        let asked = ask(&given, "ListApplications", "list the applications", request, send).await?;
        let Some((print, page)) = asked else { return Ok(()) };
        all.extend(page.applications);
        if page.next_page_token.is_empty() {
            return show_of(&print, &all, of_all);
        }
        page_token = page.next_page_token;
    }
}

fn show_one(print: &Printer, application: Option<Application>) -> Result<(), Failure> {
    let all: Vec<Application> = application.into_iter().collect();
    show(print, &all)
}

/// Shows applications of one namespace.
///
/// # Errors
/// They cannot be written.
pub fn show(print: &Printer, all: &[Application]) -> Result<(), Failure> {
    show_of(print, all, false)
}

fn show_of(print: &Printer, all: &[Application], of_all: bool) -> Result<(), Failure> {
    if print.is_json() {
        return all.iter().try_for_each(|application| print.message("Application", application));
    }
    let row = |application: &Application| {
        let needs = joined(application.dependencies.iter().cloned());
        [application.id.clone(), ports_of(application), needs, application.revision.to_string()]
    };
    if of_all {
        let mut table = Table::new(["NAMESPACE", "APPLICATION", "PORTS", "NEEDS", "REVISION"]);
        for application in all {
            let [id, ports, needs, revision] = row(application);
            table.row([application.namespace.clone(), id, ports, needs, revision]);
        }
        return print.table(&table);
    }
    let mut table = Table::new(["APPLICATION", "PORTS", "NEEDS", "REVISION"]);
    all.iter().for_each(|application| table.row(row(application)));
    print.table(&table)
}

async fn versions(id: Option<String>, limit: u32, given: &Given<ClientSettings>) -> Result<(), Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let entries: Vec<String> = id.iter().cloned().collect();
        let request = |namespace| ListCatalogVersionsRequest {
            namespace,
            entries,
            sort: "-timestamp".to_owned(),
            // 0 is as many as the server likes.
            limit: limit.saturating_sub(u32::try_from(all.len()).unwrap_or(u32::MAX)),
            page_token,
            ..ListCatalogVersionsRequest::default()
        };
        let send = async |mut client: super::Client, request| client.list_catalog_versions(request).await;
        let asked = ask(given, "ListCatalogVersions", "list what changed", request, send).await?;
        let Some((print, page)) = asked else { return Ok(()) };
        all.extend(page.versions);
        // A page has fewer when they are large.
        if page.next_page_token.is_empty() || all.len() >= limit as usize {
            return show_versions(&print, &all);
        }
        page_token = page.next_page_token;
    }
}

fn show_versions(print: &Printer, all: &[CatalogVersion]) -> Result<(), Failure> {
    if print.is_json() {
        return all.iter().try_for_each(|version| print.message("CatalogVersion", version));
    }
    let mut table = Table::new(["VERSION", "AGO", "CHANGE", "OF", "PORTS", "NEEDS"]);
    for version in all {
        table.row(row_of(version));
    }
    print.table(&table)
}

fn row_of(version: &CatalogVersion) -> [String; 6] {
    let change = match version.change() {
        CatalogChange::Insert => "insert",
        CatalogChange::Update => "update",
        CatalogChange::Delete => "delete",
        CatalogChange::Unspecified => "",
    };
    let (of, ports, needs) = match &version.value {
        Some(Value::Application(of)) => (of.id.clone(), ports_of(of), joined(of.dependencies.iter().cloned())),
        Some(Value::ServiceType(of)) => {
            (format!("{} (service type)", of.id), of.default_port.to_string(), String::new())
        }
        None => (String::new(), String::new(), String::new()),
    };
    [version.id.to_string(), ago(version.at), change.to_owned(), of, ports, needs]
}

/// Tells what the dependencies look like.
pub(super) async fn report(
    id: Option<String>,
    numbers_only: bool,
    given: &Given<ClientSettings>,
) -> Result<(), Failure> {
    let application = id.unwrap_or_default();
    let request = |namespace| GetDependencyReportRequest { namespace, application: application.clone(), numbers_only };
    let send = async |mut client: super::Client, request| client.get_dependency_report(request).await;
    let asked = ask(given, "GetDependencyReport", "report the dependencies", request, send).await?;
    let Some((print, report)) = asked else { return Ok(()) };
    if print.is_json() {
        return print.message("GetDependencyReportResponse", &report);
    }
    let GetDependencyReportResponse { applications, dependencies, roots, leaves, depth, affected, .. } = report;
    let mut table = Table::new(["WHAT", "HOW MANY, OR WHO"]);
    table.row(["applications".to_owned(), applications.to_string()]);
    table.row(["dependencies".to_owned(), dependencies.to_string()]);
    table.row(["levels".to_owned(), depth.to_string()]);
    if !numbers_only {
        table.row(["nobody needs".to_owned(), joined(roots)]);
        table.row(["need nobody".to_owned(), joined(leaves)]);
    }
    for (distance, ring) in (1..).zip(affected) {
        table.row([format!("without {application}, {distance}"), joined(ring.applications)]);
    }
    print.table(&table)
}
