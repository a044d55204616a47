//! `onair backend` and `onair frontend`: which version of a service its public name stands for.

mod arguments;

use std::time::SystemTime;

use prost::Message;
use prost_types::Value;
use tonic::{Request, Response, Status, transport::Channel};

pub(super) use self::arguments::{Expected, Pointing};
use self::arguments::{field_argument, fields_of};
use super::{
    curl,
    failure::Failure,
    print::Printer,
    session::Session,
    text::{Table, human},
};
use crate::{
    config::{ClientSettings, Given},
    proto::{
        Backend, CreateBackendRequest, CreateFrontendRequest, DeleteBackendRequest, DeleteFrontendRequest, Frontend,
        GetBackendRequest, GetFrontendHistoryRequest, GetFrontendRequest, HistoryEntry, ListBackendsRequest,
        ListBackendsResponse, ListFrontendsRequest, ListFrontendsResponse, Split, UpdateBackendRequest,
        UpdateFrontendRequest, deployments_client::DeploymentsClient,
    },
};

const BACKEND_EXAMPLES: &str = "\
Examples:
  onair backend create blue --service web --version 2.1.0 --field owner=team-a
  onair backend update blue --version 2.1.1
  onair backend list
  onair backend delete blue

A backend is the instances of one service at one version. Another version of it switches every frontend that names it.";

/// Arguments of `backend`.
#[derive(Debug, clap::Args)]
#[command(after_help = BACKEND_EXAMPLES)]
pub struct BackendArgs {
    #[command(subcommand)]
    action: BackendAction,
}

#[derive(Debug, clap::Subcommand)]
enum BackendAction {
    /// Make one.
    Create {
        /// Its name.
        name: String,
        /// The service whose instances are behind it.
        #[arg(long)]
        service: String,
        /// The version of that service, exactly.
        #[arg(long)]
        version: String,
        #[command(flatten)]
        more: More,
    },
    /// Show one.
    Get(Named),
    /// List them.
    List(Listed),
    /// Change what is given of one.
    Update {
        /// Its name.
        name: String,
        /// Another service.
        #[arg(long)]
        service: Option<String>,
        /// Another version.
        #[arg(long)]
        version: Option<String>,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        more: More,
    },
    /// Take one away that no frontend names.
    Delete(Removed),
}

const FRONTEND_EXAMPLES: &str = "\
Examples:
  onair frontend create www --to blue
  onair frontend create www --weights blue=95,green=5 --field domain=www.example.com
  onair frontend get www
  onair frontend history www
  onair frontend back www

A frontend is a public name that points at backends; `onair switch` points it elsewhere.";

/// Arguments of `frontend`.
#[derive(Debug, clap::Args)]
#[command(after_help = FRONTEND_EXAMPLES)]
pub struct FrontendArgs {
    #[command(subcommand)]
    action: FrontendAction,
}

#[derive(Debug, clap::Subcommand)]
enum FrontendAction {
    /// Make one.
    Create {
        /// Its name.
        name: String,
        #[command(flatten)]
        pointing: Pointing,
        #[command(flatten)]
        more: More,
    },
    /// Show one.
    Get(Named),
    /// List them.
    List(Listed),
    /// Change the fields of one.
    Update {
        /// Its name.
        name: String,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        more: More,
    },
    /// Take one away. Its watchers see its instances leave.
    Delete(Removed),
    /// Show where one pointed before, newest first.
    History(Named),
    /// Point one where it pointed before.
    Back(super::switch::BackArgs),
}

/// Further fields, and how to reach the registry.
#[derive(Debug, clap::Args)]
struct More {
    /// A further field to keep, as `name=value`: JSON, or else a text. Empty or `null` takes it away. Repeatable.
    #[arg(long = "field", value_name = "NAME=VALUE", value_parser = field_argument)]
    fields: Vec<(String, Value)>,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// One of them.
#[derive(Debug, clap::Args)]
struct Named {
    /// Its name.
    name: String,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Which of them to list.
#[derive(Debug, clap::Args)]
struct Listed {
    /// Only names that begin so.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// One to take away.
#[derive(Debug, clap::Args)]
struct Removed {
    /// Its name.
    name: String,
    #[command(flatten)]
    expected: Expected,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// The answer to a call; none where it was only to be shown.
pub(super) async fn answer<Q: Message + Clone, R, F: Future<Output = Result<Response<R>, Status>>>(
    session: &mut Session,
    method: &str,
    what: &str,
    request: Q,
    send: impl Fn(Channel, Request<Q>) -> F,
) -> Result<Option<R>, Failure> {
    if session.print.is_curl() {
        return curl::show(session, method, &request).map(|()| None);
    }
    Ok(Some(session.line.call(what, session.line.timeout(), request, send).await?))
}

/// Asks for page after page, as long as `take` says that there is another, which it puts into the request.
pub(super) async fn every_page<Q: Message + Clone, R, F: Future<Output = Result<Response<R>, Status>>>(
    session: &mut Session,
    what: &str,
    request: &mut Q,
    send: impl Fn(Channel, Request<Q>) -> F,
    mut take: impl FnMut(R, &mut Q) -> bool,
) -> Result<(), Failure> {
    loop {
        let page = session.line.call(what, session.line.timeout(), request.clone(), &send).await?;
        if !take(page, request) {
            return Ok(());
        }
    }
}

/// Does what was asked of a backend.
///
/// # Errors
/// What went wrong.
pub async fn backend(args: BackendArgs) -> Result<(), Failure> {
    match args.action {
        BackendAction::Create { name, service, version, more: More { fields, given } } => {
            let mut session = Session::open(&given)?;
            let (what, namespace) = (format!("create the backend {name}"), session.namespace.clone());
            let request = CreateBackendRequest { namespace, name, service, version, fields: fields_of(fields) };
            let send = async |channel, request| DeploymentsClient::new(channel).create_backend(request).await;
            let Some(made) = answer(&mut session, "CreateBackend", &what, request, send).await? else { return Ok(()) };
            show_backends(&session.print, "Backend", made.backend)
        }
        BackendAction::Get(Named { name, given }) => {
            let mut session = Session::open(&given)?;
            let (what, namespace) = (format!("get the backend {name}"), session.namespace.clone());
            let send = async |channel, request| DeploymentsClient::new(channel).get_backend(request).await;
            let request = GetBackendRequest { namespace, name };
            let Some(found) = answer(&mut session, "GetBackend", &what, request, send).await? else { return Ok(()) };
            show_backends(&session.print, "Backend", found.backend)
        }
        BackendAction::List(Listed { prefix, given }) => list_backends(prefix, &given).await,
        BackendAction::Update { name, service, version, expected, more: More { fields, given } } => {
            let mut session = Session::open(&given)?;
            let (what, namespace) = (format!("update the backend {name}"), session.namespace.clone());
            let (fields, expected_revision) = (fields_of(fields), expected.expected_revision);
            let request = UpdateBackendRequest { namespace, name, service, version, fields, expected_revision };
            let send = async |channel, request| DeploymentsClient::new(channel).update_backend(request).await;
            let Some(made) = answer(&mut session, "UpdateBackend", &what, request, send).await? else { return Ok(()) };
            show_backends(&session.print, "Backend", made.backend)
        }
        BackendAction::Delete(Removed { name, expected, given }) => {
            let mut session = Session::open(&given)?;
            let (what, namespace) = (format!("delete the backend {name}"), session.namespace.clone());
            let expected_revision = expected.expected_revision;
            let request = DeleteBackendRequest { namespace, name: name.clone(), expected_revision };
            let send = async |channel, request| DeploymentsClient::new(channel).delete_backend(request).await;
            let Some(gone) = answer(&mut session, "DeleteBackend", &what, request, send).await? else { return Ok(()) };
            told_gone(&session.print, "DeleteBackendResponse", &gone, &name)
        }
    }
}

async fn list_backends(prefix: String, given: &Given<ClientSettings>) -> Result<(), Failure> {
    let mut session = Session::open(given)?;
    let namespace = session.namespace.clone();
    let mut request = ListBackendsRequest { namespace, prefix, ..Default::default() };
    if session.print.is_curl() {
        return curl::show(&session, "ListBackends", &request);
    }
    let mut listed = ListBackendsResponse::default();
    let send = async |channel, request| DeploymentsClient::new(channel).list_backends(request).await;
    every_page(&mut session, "list the backends", &mut request, send, |page, request| {
        listed.backends.extend(page.backends);
        (listed.revision, request.page_token) = (page.revision, page.next_page_token);
        !request.page_token.is_empty()
    })
    .await?;
    match session.print.is_json() {
        true => session.print.message("ListBackendsResponse", &listed),
        false => show_backends(&session.print, "", listed.backends),
    }
}

/// Does what was asked of a frontend.
///
/// # Errors
/// What went wrong.
pub async fn frontend(args: FrontendArgs) -> Result<(), Failure> {
    match args.action {
        FrontendAction::Create { name, pointing, more: More { fields, given } } => {
            let splits = pointing.targets()?;
            let mut session = Session::open(&given)?;
            let (what, namespace) = (format!("create the frontend {name}"), session.namespace.clone());
            let request = CreateFrontendRequest { namespace, name, splits, fields: fields_of(fields) };
            let send = async |channel, request| DeploymentsClient::new(channel).create_frontend(request).await;
            let Some(made) = answer(&mut session, "CreateFrontend", &what, request, send).await? else { return Ok(()) };
            show_frontends(&session.print, "Frontend", made.frontend)
        }
        FrontendAction::Get(Named { name, given }) => {
            let mut session = Session::open(&given)?;
            let (what, namespace) = (format!("get the frontend {name}"), session.namespace.clone());
            let send = async |channel, request| DeploymentsClient::new(channel).get_frontend(request).await;
            let request = GetFrontendRequest { namespace, name };
            let Some(found) = answer(&mut session, "GetFrontend", &what, request, send).await? else { return Ok(()) };
            show_frontends(&session.print, "Frontend", found.frontend)
        }
        FrontendAction::List(Listed { prefix, given }) => list_frontends(prefix, &given).await,
        FrontendAction::Update { name, expected, more: More { fields, given } } => {
            let mut session = Session::open(&given)?;
            let (what, namespace) = (format!("update the frontend {name}"), session.namespace.clone());
            let (fields, expected_revision) = (fields_of(fields), expected.expected_revision);
            let request = UpdateFrontendRequest { namespace, name, splits: Vec::new(), fields, expected_revision };
            let send = async |channel, request| DeploymentsClient::new(channel).update_frontend(request).await;
            let Some(made) = answer(&mut session, "UpdateFrontend", &what, request, send).await? else { return Ok(()) };
            show_frontends(&session.print, "Frontend", made.frontend)
        }
        FrontendAction::Delete(Removed { name, expected, given }) => {
            let mut session = Session::open(&given)?;
            let (what, namespace) = (format!("delete the frontend {name}"), session.namespace.clone());
            let expected_revision = expected.expected_revision;
            let request = DeleteFrontendRequest { namespace, name: name.clone(), expected_revision };
            let send = async |channel, request| DeploymentsClient::new(channel).delete_frontend(request).await;
            let Some(gone) = answer(&mut session, "DeleteFrontend", &what, request, send).await? else { return Ok(()) };
            told_gone(&session.print, "DeleteFrontendResponse", &gone, &name)
        }
        FrontendAction::History(Named { name, given }) => history(name, &given).await,
        FrontendAction::Back(args) => super::switch::back(args).await,
    }
}

async fn list_frontends(prefix: String, given: &Given<ClientSettings>) -> Result<(), Failure> {
    let mut session = Session::open(given)?;
    let namespace = session.namespace.clone();
    let mut request = ListFrontendsRequest { namespace, prefix, ..Default::default() };
    if session.print.is_curl() {
        return curl::show(&session, "ListFrontends", &request);
    }
    let mut listed = ListFrontendsResponse::default();
    let send = async |channel, request| DeploymentsClient::new(channel).list_frontends(request).await;
    every_page(&mut session, "list the frontends", &mut request, send, |page, request| {
        listed.frontends.extend(page.frontends);
        (listed.revision, request.page_token) = (page.revision, page.next_page_token);
        !request.page_token.is_empty()
    })
    .await?;
    match session.print.is_json() {
        true => session.print.message("ListFrontendsResponse", &listed),
        false => show_frontends(&session.print, "", listed.frontends),
    }
}

async fn history(name: String, given: &Given<ClientSettings>) -> Result<(), Failure> {
    let mut session = Session::open(given)?;
    let (what, namespace) = (format!("get the history of {name}"), session.namespace.clone());
    let request = GetFrontendHistoryRequest { namespace, frontend: name };
    let send = async |channel, request| DeploymentsClient::new(channel).get_frontend_history(request).await;
    let Some(found) = answer(&mut session, "GetFrontendHistory", &what, request, send).await? else { return Ok(()) };
    if session.print.is_json() {
        return session.print.message("GetFrontendHistoryResponse", &found);
    }
    let mut table = Table::new(["SINCE", "AGO", "BACKENDS", "VERSIONS"]);
    for HistoryEntry { since, at, splits } in &found.entries {
        table.row([since.to_string(), ago(*at), shares(splits), versions(splits)]);
    }
    session.print.table(&table)
}

fn told_gone(print: &Printer, message: &str, gone: &impl prost::Message, name: &str) -> Result<(), Failure> {
    if print.is_json() {
        print.message(message, gone)
    } else {
        print.line(&format!("{} is gone", super::text::safe(name)))
    }
}

pub(super) fn ago(at: Option<prost_types::Timestamp>) -> String {
    let at = at.and_then(|at| SystemTime::try_from(at).ok());
    at.map_or_else(String::new, |at| human(SystemTime::now().duration_since(at).unwrap_or_default()))
}

/// `blue=95,green=5`; of one that takes all, its name.
pub(super) fn shares(splits: &[Split]) -> String {
    match splits {
        [] => "(nowhere)".to_owned(),
        [only] => only.backend.clone(),
        _ => splits.iter().map(|split| format!("{}={}", split.backend, split.weight)).collect::<Vec<_>>().join(","),
    }
}

/// `web@2.1.0`, each once.
pub(super) fn versions(splits: &[Split]) -> String {
    let live = splits.iter().filter(|split| split.weight > 0);
    let mut versions: Vec<_> = live.map(|split| format!("{}@{}", split.service, split.version)).collect();
    versions.dedup();
    versions.join(",")
}

fn show_backends(print: &Printer, message: &str, backends: impl IntoIterator<Item = Backend>) -> Result<(), Failure> {
    let mut table = Table::new(["NAMESPACE", "BACKEND", "SERVICE", "VERSION", "REVISION"]);
    for backend in backends {
        if print.is_json() {
            return print.message(message, &backend);
        }
        let revision = backend.revision.to_string();
        table.row([backend.namespace, backend.name, backend.service, backend.version, revision]);
    }
    print.table(&table)
}

fn show_frontends(
    print: &Printer,
    message: &str,
    frontends: impl IntoIterator<Item = Frontend>,
) -> Result<(), Failure> {
    let mut table = Table::new(["NAMESPACE", "FRONTEND", "BACKENDS", "VERSIONS", "AGO", "REVISION"]);
    for frontend in frontends {
        if print.is_json() {
            return print.message(message, &frontend);
        }
        let (to, of) = (shares(&frontend.splits), versions(&frontend.splits));
        table.row([frontend.namespace, frontend.name, to, of, ago(frontend.at), frontend.revision.to_string()]);
    }
    print.table(&table)
}
