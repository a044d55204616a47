//! `onair app export`: the whole catalog, page by page, as one text.

use crate::{
    cli::{curl, failure::Failure, session::Session, text::safe},
    config::{ClientSettings, Given},
    export,
    proto::{ListCatalogRequest, ListedApplication, ListedServiceType},
};

const EXAMPLES: &str = "\
Examples:
  onair app export > catalog.json
  onair app export --format yaml
  onair app export --format dot | dot -Tsvg > catalog.svg

JSON is what `onair app import` takes.";

/// Arguments of `app export`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// As what.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// What an import takes.
    Json,
    /// Ports with their health checks.
    Yaml,
    /// The graph of the dependencies, for Graphviz.
    Dot,
}

/// The catalog as it stands.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// The service types, but for those that every catalog begins with.
    pub(super) types: Vec<ListedServiceType>,
    /// The applications, in order of id.
    pub(super) applications: Vec<ListedApplication>,
}

/// Reads the whole catalog; none where the call was only to be shown.
pub(super) async fn whole(session: &mut Session) -> Result<Option<Catalog>, Failure> {
    let mut request = ListCatalogRequest { namespace: session.namespace.clone(), ..ListCatalogRequest::default() };
    if session.print.is_curl() {
        return curl::show(session, "ListCatalog", &request).map(|()| None);
    }
    let mut catalog = Catalog::default();
    loop {
        let send = async |channel, request| super::Client::new(channel).list_catalog(request).await;
        let limit = session.line.timeout();
        let page = session.line.call("export the catalog", limit, request.clone(), send).await?;
        catalog.types.extend(page.service_types);
        catalog.applications.extend(page.applications);
        if page.next_page_token.is_empty() {
            return Ok(Some(catalog));
        }
        request.page_token = page.next_page_token;
    }
}

/// Prints the catalog.
///
/// # Errors
/// What went wrong.
pub(super) async fn run(Args { format, given }: Args) -> Result<(), Failure> {
    let mut session = Session::open(&given)?;
    let Some(Catalog { types, applications }) = whole(&mut session).await? else { return Ok(()) };
    let text = match format {
        Format::Json => export::json(&types, &applications),
        Format::Yaml => export::yaml(&applications).map_err(Failure::Internal)?,
        Format::Dot => export::dot(&applications),
    };
    told(&session, &text)
}

/// Prints a text of several lines, each made safe.
pub(super) fn told(session: &Session, text: &str) -> Result<(), Failure> {
    let lines: Vec<_> = text.trim_end_matches('\n').split('\n').map(safe).collect();
    session.print.line(&lines.join("\n"))
}
