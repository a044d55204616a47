//! `onair health`: the standard health service, as probes use it.

use serde_json::json;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    curl,
    failure::{CallFailed, Cause, Failure},
    print::Printer,
    session::Session,
    text::Tone,
};
use crate::{
    config::{ClientSettings, Given},
    http::compose::Composed,
};

const EXAMPLES: &str = "\
Examples:
  onair health
  onair health web
  onair health web --watch

Exit code 0: SERVING; 3: anything else.";

/// Arguments of `health`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A service: a registered one, or one of the server's own. Left out: the server as a whole.
    #[arg(default_value = "", hide_default_value = true)]
    service: String,
    /// Go on, and print each change.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Asks once, or follows.
///
/// # Errors
/// `Nothing` for any status but SERVING, or what went wrong.
pub async fn run(args: Args) -> Result<(), Failure> {
    let mut session = Session::open(&args.given)?;
    if session.print.is_curl() {
        return as_curl(&session, &args);
    }
    // A key and a frontend are of a namespace as well.
    let within = ["key/", "frontend/"].iter().any(|kind| args.service.starts_with(kind));
    let bare = args.service.is_empty() || session.namespace.is_empty() || (args.service.contains('/') && !within);
    let service = if bare { args.service } else { format!("{}/{}", session.namespace, args.service) };
    if args.watch {
        return follow(&mut session, service).await;
    }
    let subject = if service.is_empty() { "the registry".to_owned() } else { service.clone() };
    match check(&mut session, service).await {
        Ok(ServingStatus::Serving) => show(&session.print, ServingStatus::Serving),
        Ok(status) => {
            show(&session.print, status)?;
            Err(Failure::Nothing(format!("{subject} is {}", status.as_str_name())))
        }
        Err(failed) if failed.last().and_then(Cause::code) == Some(Code::NotFound) => {
            show(&session.print, ServingStatus::ServiceUnknown)?;
            Err(Failure::Nothing(format!("{subject}: no service of that name was ever seen")))
        }
        Err(failed) => Err(failed.into()),
    }
}

/// The probe over HTTP stands for the server as a whole, and for nothing else.
fn as_curl(session: &Session, args: &Args) -> Result<(), Failure> {
    if args.watch || !args.service.is_empty() {
        let what = if args.watch { "health is watched" } else { "the health of a service is asked for" };
        return Err(Failure::Usage(format!("{what} by gRPC alone: there is no curl command for it")));
    }
    let probe = Composed { method: "GET".to_owned(), target: "/readyz".to_owned(), headers: Vec::new(), body: None };
    session.print.line(&curl::curl(&session.line.host(), probe).to_string())
}

/// One Check.
///
/// # Errors
/// The call failed.
pub async fn check(session: &mut Session, service: String) -> Result<ServingStatus, CallFailed> {
    let limit = session.line.timeout();
    let send = async |channel: Channel, request| HealthClient::new(channel).check(request).await;
    let answer = session.line.call("check the health", limit, HealthCheckRequest { service }, send).await?;
    Ok(answer.status())
}

async fn follow(session: &mut Session, service: String) -> Result<(), Failure> {
    let send = async |channel: Channel, request| HealthClient::new(channel).watch(request).await;
    let mut stream = session.line.stream("watch the health", HealthCheckRequest { service }, send).await?;
    loop {
        match stream.message().await {
            Ok(Some(response)) => show(&session.print, response.status())?,
            Ok(None) => return Err(Failure::Other("the server ended the stream".to_owned())),
            Err(status) => {
                let causes = vec![(session.line.host(), Cause::from_status(status))];
                return Err(CallFailed { what: "go on watching the health".to_owned(), causes }.into());
            }
        }
    }
}

fn show(print: &Printer, status: ServingStatus) -> Result<(), Failure> {
    if print.is_json() {
        return print.value(&json!({"status": status.as_str_name()}));
    }
    let tone = if status == ServingStatus::Serving { Tone::Good } else { Tone::Bad };
    print.line(&print.paint(tone, status.as_str_name()))
}
