//! `onair start-order` and `onair ports`: what follows from the catalog.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Client, ask, joined, nothing_declared, start::Start};
use crate::{
    cli::{
        deploy::answer,
        failure::{CallFailed, Cause, Failure, Report as _},
        print::note,
        session::{Backoff, Session, duration_argument, to_wire},
        text::{Table, safe},
    },
    config::{ClientSettings, Given, show_duration},
    proto::{GetStartOrderRequest, GetStartOrderResponse, ListPortsRequest, ListPortsResponse, WaitReadyRequest},
};

const ORDER_EXAMPLES: &str = "\
Examples:
  onair start-order
  onair start-order shop-www shop-admin
  onair start-order --wait=2m | while read -r word level apps; do
    [ \"$word\" = level ] && for app in $apps; do ./start \"$app\" & done
  done

Everything on a line can be started together once everything on the lines before it is up. With --wait a level is
printed only when all of the levels before it are online, as services of the applications' names: `level`, its number, and
those of it that are not online already; a level of which all are is not printed. Beside that, every application that
comes or goes: `online` or `offline`, its name, how many of how many are. Done when all of them are online together, on
whatever port (`onair status` tells who is on another). With --output json each of these is an object
on a line of its own: {\"event\":\"level\",…}, {\"event\":\"online\",…}, {\"event\":\"offline\",…}.

Exit code 3: with --wait, some are not online when the time is up; they are told on standard error.";

/// Arguments of `start-order`.
#[derive(Debug, clap::Args)]
#[command(after_help = ORDER_EXAMPLES)]
pub struct OrderArgs {
    /// Start these, and all that they need. Default: every application.
    applications: Vec<String>,
    /// After each level wait until all of it is online, so long in all. Without a value: 1m.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, num_args = 0..=1, require_equals = true)]
    wait: Option<Option<Duration>>,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// How long a start is waited for by who does not say.
const WAIT: Duration = Duration::from_secs(60);

/// How long to wait, and for what: `--wait 3s` reads as `--wait=3s`, although an application could be called so.
fn waited(wait: Option<Option<Duration>>, mut applications: Vec<String>) -> (Option<Duration>, Vec<String>) {
    let first = applications.first().and_then(|first| duration_argument(first).ok());
    match (wait, first) {
        (Some(None), Some(span)) => {
            applications.remove(0);
            (Some(span), applications)
        }
        (wait, _) => (wait.map(|wait| wait.unwrap_or(WAIT)), applications),
    }
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
    let (wait, applications) = waited(wait, applications);
    if wait.is_some() {
        session.print.is_no_call("waiting for a start")?;
    }
    let request = GetStartOrderRequest { namespace: session.namespace.clone(), applications };
    let send = async |channel, request| Client::new(channel).get_start_order(request).await;
    let asked = answer(&mut session, "GetStartOrder", "find the start order", request, send).await?;
    let Some(order) = asked else { return Ok(()) };
    // Whoever waits for nothing would take a name that is mistyped for a start that is over.
    if order.levels.is_empty() {
        return Err(nothing_declared(&session.namespace));
    }
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

/// Prints each level when all before it is online, and each application when it comes or goes. A stream that ends before
/// the time is up is followed by another.
async fn see_start(session: &mut Session, order: GetStartOrderResponse, wait: Duration) -> Result<(), Failure> {
    let until = Instant::now() + wait;
    let print = session.print.clone();
    let mut start = Start::new(&print, order.levels.into_iter().map(|level| level.applications).collect());
    let mut backoff = Backoff::default();
    while !start.is_over() {
        let left = until.saturating_duration_since(Instant::now());
        match follow(session, &mut start, left).await? {
            Ok(()) => backoff.reset(),
            Err(failed) if !failed.is_transient() => return Err(Failure::Call(failed)),
            Err(failed) => {
                note(&format!("{}; asking again", failed.short()));
                session.line.hang_up();
                sleep(backoff.pause().min(left)).await;
            }
        }
        if !start.is_over() && Instant::now() >= until {
            let missing: Vec<String> = start.missing().iter().map(|name| safe(name).into_owned()).collect();
            let (wait, missing) = (show_duration(wait), missing.join(", "));
            return Err(Failure::Nothing(format!("not online within {wait}: {missing}")));
        }
    }
    Ok(())
}

/// Tells what one stream brings, until all are online or it ends; a server may end it earlier than asked.
async fn follow(
    session: &mut Session,
    start: &mut Start<'_>,
    left: Duration,
) -> Result<Result<(), CallFailed>, Failure> {
    const WHAT: &str = "wait for the start";
    let request =
        WaitReadyRequest { namespace: session.namespace.clone(), services: start.names(), wait: to_wire(left) };
    let send = async |channel, request| Client::new(channel).wait_ready(request).await;
    let mut replies = match session.line.stream(WHAT, request, send).await {
        Ok(replies) => replies,
        Err(failed) => return Ok(Err(failed)),
    };
    let end = Instant::now() + left + session.line.timeout();
    let mut first = true;
    let cause = loop {
        match timeout_at(end, replies.message()).await {
            Ok(Ok(Some(message))) => start.tell(std::mem::take(&mut first), &message)?,
            Ok(Ok(None)) => return Ok(Ok(())),
            Ok(Err(status)) => break Cause::from_status(status),
            Err(_) => break Cause::Timeout(left + session.line.timeout()),
        }
    };
    if cause.reason().as_deref() == Some("NOT_READY") {
        return Ok(Ok(()));
    }
    Ok(Err(CallFailed { what: WHAT.to_owned(), causes: vec![(session.line.host(), cause)] }))
}

/// Prints who has which port, and which are free beside them.
///
/// # Errors
/// What went wrong.
pub async fn ports(PortsArgs { first, last, given }: PortsArgs) -> Result<(), Failure> {
    let mut found = ListPortsResponse::default();
    let print = loop {
        let send = async |mut client: Client, request| client.list_ports(request).await;
        let page_token = found.next_page_token;
        let request = |namespace| ListPortsRequest { namespace, first, last, page_token };
        let asked = ask(&given, "ListPorts", "list the ports", request, send).await?;
        let Some((print, page)) = asked else { return Ok(()) };
        found = ListPortsResponse { blocks: [found.blocks, page.blocks].concat(), ..page };
        if found.next_page_token.is_empty() {
            break print;
        }
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_said_with_a_space_too() {
        let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let seconds = Duration::from_secs;
        for (wait, given, reads) in [
            (None, &["3s"][..], (None, texts(&["3s"]))),
            (Some(None), &[], (Some(WAIT), texts(&[]))),
            (Some(None), &["3s", "shop"], (Some(seconds(3)), texts(&["shop"]))),
            (Some(None), &["shop"], (Some(WAIT), texts(&["shop"]))),
            (Some(Some(seconds(5))), &["3s"], (Some(seconds(5)), texts(&["3s"]))),
        ] {
            assert_eq!(waited(wait, texts(given)), reads, "{wait:?} {given:?}");
        }
    }
}
