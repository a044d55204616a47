//! `onair service-type`: the kinds of programs that applications of the catalog have ports of.

use super::{ask, told_gone};
use crate::{
    cli::{deploy::Expected, failure::Failure, print::Printer, text::Table},
    config::{ClientSettings, Given},
    proto::{
        CreateServiceTypeRequest, DeleteServiceTypeRequest, GetServiceTypeRequest, ListServiceTypesRequest,
        PutServiceTypeRequest, ServiceType,
    },
};

const EXAMPLES: &str = "\
Examples:
  onair service-type list
  onair service-type create redis --default-port 6379
  onair service-type put redis --offset 8
  onair service-type delete redis

With an offset, such a program's external port is always that place of a block of ports.";

/// Arguments of `service-type`.
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
        #[command(flatten)]
        numbers: Numbers,
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
    /// List them, by id.
    List {
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Make one, or change what is given of one. Ports that were given out stay.
    Put {
        /// Its id.
        id: String,
        #[command(flatten)]
        numbers: Numbers,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Take one away that no application has a port of.
    Delete {
        /// Its id.
        id: String,
        #[command(flatten)]
        expected: Expected,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
}

#[derive(Debug, clap::Args)]
struct Numbers {
    /// The port that such a program listens on.
    #[arg(long, allow_negative_numbers = true, value_name = "PORT")]
    default_port: Option<i32>,
    /// Its place in a block of external ports; without one, any that is free.
    #[arg(long, allow_negative_numbers = true)]
    offset: Option<i32>,
}

/// How many service types one call asks for.
const PAGE: u32 = 100;

/// Does what was asked of a service type.
///
/// # Errors
/// What went wrong.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Create { id, numbers: Numbers { default_port, offset }, given } => {
            let what = format!("create the service type {id}");
            let send = async |mut client: super::Client, request| client.create_service_type(request).await;
            let request = |namespace| CreateServiceTypeRequest { namespace, id, default_port, offset };
            let asked = ask(&given, "CreateServiceType", &what, request, send).await?;
            asked.map_or(Ok(()), |(print, made)| show(&print, made.service_type.as_slice()))
        }
        Action::Get { id, given } => {
            let what = format!("get the service type {id}");
            let send = async |mut client: super::Client, request| client.get_service_type(request).await;
            let request = |namespace| GetServiceTypeRequest { namespace, id };
            let asked = ask(&given, "GetServiceType", &what, request, send).await?;
            asked.map_or(Ok(()), |(print, found)| show(&print, found.service_type.as_slice()))
        }
        Action::List { given } => list(&given).await,
        Action::Put { id, numbers: Numbers { default_port, offset }, expected, given } => {
            let expected_revision = expected.expected_revision;
            let what = format!("put the service type {id}");
            let send = async |mut client: super::Client, request| client.put_service_type(request).await;
            let request = |namespace| PutServiceTypeRequest { namespace, id, default_port, offset, expected_revision };
            let asked = ask(&given, "PutServiceType", &what, request, send).await?;
            asked.map_or(Ok(()), |(print, made)| show(&print, made.service_type.as_slice()))
        }
        Action::Delete { id, expected, given } => {
            let expected_revision = expected.expected_revision;
            let what = format!("delete the service type {id}");
            let send = async |mut client: super::Client, request| client.delete_service_type(request).await;
            let request = |namespace| DeleteServiceTypeRequest { namespace, id: id.clone(), expected_revision };
            let asked = ask(&given, "DeleteServiceType", &what, request, send).await?;
            asked.map_or(Ok(()), |(print, gone)| told_gone(&print, "DeleteServiceTypeResponse", &gone, &id))
        }
    }
}

async fn list(given: &Given<ClientSettings>) -> Result<(), Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = |namespace| ListServiceTypesRequest {
            namespace,
            sort: "id".to_owned(),
            limit: PAGE,
            page_token,
            ..ListServiceTypesRequest::default()
        };
        let send = async |mut client: super::Client, request| client.list_service_types(request).await;
        let asked = ask(given, "ListServiceTypes", "list the service types", request, send).await?;
        let Some((print, page)) = asked else { return Ok(()) };
        all.extend(page.service_types);
        if page.next_page_token.is_empty() {
            return show(&print, &all);
        }
        page_token = page.next_page_token;
    }
}

fn show(print: &Printer, all: &[ServiceType]) -> Result<(), Failure> {
    if print.is_json() {
        return all.iter().try_for_each(|service_type| print.message("ServiceType", service_type));
    }
    let mut table = Table::new(["SERVICE TYPE", "DEFAULT PORT", "OFFSET", "REVISION"]);
    for ServiceType { id, default_port, offset, revision, .. } in all {
        let offset = offset.map_or_else(String::new, |offset| offset.to_string());
        table.row([id.clone(), default_port.to_string(), offset, revision.to_string()]);
    }
    print.table(&table)
}
