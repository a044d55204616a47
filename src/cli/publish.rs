//! `onair publish`: an event of an application, for those who watch its service now.

use super::{
    curl,
    describe::json_argument,
    failure::Failure,
    session::Session,
    text::{human_count, safe},
};
use crate::{
    config::{ClientSettings, Given},
    proto::{PublishRequest, registry_client::RegistryClient},
};

const EXAMPLES: &str = "\
Examples:
  onair publish web deployed
  onair publish shop order.created '{\"order\": 7}'
  onair watch shop --published

It goes to the watches that are open now and asked for it; nothing is kept for those who come later.";

/// Arguments of `publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service that it belongs to.
    name: String,
    /// What kind of event it is.
    kind: String,
    /// What there is to tell, as JSON.
    #[arg(value_parser = json_argument)]
    data: Option<prost_types::Value>,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Publishes it once.
///
/// # Errors
/// It was refused.
pub async fn run(args: Args) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    let request = PublishRequest {
        namespace: session.namespace.clone(),
        service: args.name,
        kind: args.kind,
        data: args.data,
        ..PublishRequest::default()
    };
    if session.print.is_curl() {
        return curl::show(&session, "Publish", &request);
    }
    let told = format!("published {} of {}", safe(&request.kind), safe(&request.service));
    let limit = session.line.timeout();
    let send = async |channel, request| RegistryClient::new(channel).publish(request).await;
    let published = session.line.call("publish", limit, request, send).await?;
    if session.print.is_json() {
        return session.print.message("PublishResponse", &published);
    }
    let to = match published.watches {
        1 => "1 watch".to_owned(),
        many => format!("{} watches", human_count(many)),
    };
    session.print.line(&format!("{told} to {to}"))
}
