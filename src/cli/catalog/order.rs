//! `onair start-order` and `onair ports`: what follows from the catalog.

use std::time::Duration;

use tokio::time::Instant;

use super::{Client, ask, joined};
use crate::{
    cli::{
        deploy::answer,
        failure::Failure,
        session::{Session, duration_argument, to_wire},
        text::{Table, safe},
    },
    config::{ClientSettings, Given},
    proto::{
        GetStartOrderRequest, GetStartOrderResponse, ListPortsRequest, LookupRequest, registry_client::RegistryClient,
    },
};

const ORDER_EXAMPLES: &str = "\
Examples:
  onair start-order
  onair start-order shop-www shop-admin
  onair start-order --wait=2m | while read -r word level apps; do …; done

Everything on a line can be started together once everything on the lines before it is up. With --wait a level is
printed only when all of the level before it is online, as services of the applications' names.";

/// Arguments of `start-order`.
#[derive(Debug, clap::Args)]
#[command(after_help = ORDER_EXAMPLES)]
pub struct OrderArgs {
    /// Start these, and all that they need. Default: every application.
    applications: Vec<String>,
    /// After each level wait until all of it is online, so long in all. Without a value: 1m.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, num_args = 0..=1, require_equals = true,
        default_missing_value = "1m")]
    wait: Option<Duration>,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Arguments of `ports`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  onair ports --first 6000 --last 6099")]
pub struct PortsArgs {
    /// From this external port up.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    first: u32,
    /// Up to this external port.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    last: u32,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Prints in which order to start applications, and with `--wait` what has started.
///
/// # Errors
/// What went wrong.
pub async fn start_order(OrderArgs { applications, wait, given }: OrderArgs) -> Result<(), Failure> {
    let mut session = Session::open(&given)?;
    if wait.is_some() {
        session.print.is_no_call("waiting for a start")?;
    }
    let request = GetStartOrderRequest { namespace: session.namespace.clone(), applications };
    let send = async |channel, request| Client::new(channel).get_start_order(request).await;
    let asked = answer(&mut session, "GetStartOrder", "find the start order", request, send).await?;
    let Some(order) = asked else { return Ok(()) };
    if let Some(wait) = wait {
        return see_start(&mut session, order, wait).await;
    }
    if session.print.is_json() {
        return session.print.message("GetStartOrderResponse", &order);
    }
    let mut table = Table::new(["LEVEL", "APPLICATIONS"]);
    for (level, start) in (1..).zip(order.levels) {
        table.row([level.to_string(), joined(start.applications)]);
    }
    session.print.table(&table)
}

/// Prints each level when all before it is online, and each application when it is.
async fn see_start(session: &mut Session, order: GetStartOrderResponse, wait: Duration) -> Result<(), Failure> {
    let until = Instant::now() + wait;
    let total: usize = order.levels.iter().map(|level| level.applications.len()).sum();
    let mut online = 0;
    for (level, start) in (1..).zip(order.levels) {
        let names = joined(start.applications.iter().map(|name| safe(name).into_owned()));
        session.print.line(&format!("level {level} {names}"))?;
        let mut missing = Vec::new();
        for name in start.applications {
            // When the time is up, those that are online all the same are still told from those that are not.
            let left = until.saturating_duration_since(Instant::now());
            if is_online(session, &name, left).await? {
                online += 1;
                session.print.line(&format!("online {} {online}/{total}", safe(&name)))?;
            } else {
                missing.push(safe(&name).into_owned());
            }
        }
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(Failure::Nothing(format!("of level {level}, not online within {wait:?}: {missing}")));
        }
    }
    Ok(())
}

/// Whether somebody takes calls under the name of an application, within this time.
async fn is_online(session: &mut Session, name: &str, wait: Duration) -> Result<bool, Failure> {
    let request = LookupRequest {
        namespace: session.namespace.clone(),
        service: name.to_owned(),
        limit: 1,
        wait: to_wire(wait),
        ..LookupRequest::default()
    };
    let send = async |channel, request| RegistryClient::new(channel).lookup(request).await;
    let (what, limit) = (format!("wait for {}", safe(name)), session.line.timeout() + wait);
    Ok(!session.line.call(&what, limit, request, send).await?.instances.is_empty())
}

/// Prints who has which port, and which are free beside them.
///
/// # Errors
/// What went wrong.
pub async fn ports(PortsArgs { first, last, given }: PortsArgs) -> Result<(), Failure> {
    let send = async |mut client: Client, request| client.list_ports(request).await;
    let request = |namespace| ListPortsRequest { namespace, first, last };
    let asked = ask(&given, "ListPorts", "list the ports", request, send).await?;
    let Some((print, found)) = asked else { return Ok(()) };
    if print.is_json() {
        return print.message("ListPortsResponse", &found);
    }
    let mut table = Table::new(["PORT", "APPLICATION", "SERVICE TYPE", "INTERNAL", "FREE BESIDE IT"]);
    for block in found.blocks {
        let mut free = joined(block.free.iter().map(u32::to_string));
        for port in block.ports {
            // Once a block.
            let free = std::mem::take(&mut free);
            table.row([port.external.to_string(), port.application, port.service, port.internal.to_string(), free]);
        }
    }
    print.table(&table)
}
