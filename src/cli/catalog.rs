//! `onair app`, `service-type`, `start-order`, `status`, `ports`, `graph`, `env` and `export`: the catalog of
//! applications.

mod app;
mod env;
mod export;
mod graph;
mod import;
mod listing;
mod order;
mod service_type;
mod start;
mod status;

use prost::Message;
use tonic::{Request, Response, Status, transport::Channel};

pub use self::{
    app::{Args as AppArgs, run as app, show},
    env::{EnvArgs, env},
    graph::{ExportArgs, GraphArgs, export as export_for, graph},
    order::{OrderArgs, PortsArgs, ports, start_order},
    service_type::{Args as ServiceTypeArgs, run as service_type},
    status::{StatusArgs, status},
};
use super::{deploy::answer, failure::Failure, print::Printer, session::Session, text::safe};
use crate::{
    config::{ClientSettings, Given},
    proto::{Application, catalog_client::CatalogClient},
};

/// A client of the catalog on a channel.
type Client = CatalogClient<Channel>;

/// Asks the registry, in the namespace that was given; none where the call was only to be shown.
async fn ask<Q: Message + Clone, R, F: Future<Output = Result<Response<R>, Status>>>(
    given: &Given<ClientSettings>,
    method: &str,
    what: &str,
    request: impl FnOnce(String) -> Q,
    send: impl Fn(Client, Request<Q>) -> F,
) -> Result<Option<(Printer, R)>, Failure> {
    let mut session = Session::open(given)?;
    let request = request(session.namespace.clone());
    let send = |channel, request| send(CatalogClient::new(channel), request);
    let answered = answer(&mut session, method, what, request, send).await?;
    Ok(answered.map(|answered| (session.print, answered)))
}

/// There is no application: whoever mistyped a namespace must not take that for good news.
fn nothing_declared(namespace: &str) -> Failure {
    Failure::Nothing(format!("the catalog of {} has no application", safe(namespace)))
}

/// Says that something is no more.
fn told_gone(print: &Printer, message: &str, gone: &impl Message, id: &str) -> Result<(), Failure> {
    if print.is_json() { print.message(message, gone) } else { print.line(&format!("{} is gone", safe(id))) }
}

/// The ports of an application as a cell of a table.
fn ports_of(application: &Application) -> String {
    let port = |port: &crate::proto::ApplicationPort| format!("{}:{}->{}", port.service, port.external, port.internal);
    joined(application.ports.iter().map(port))
}

fn joined(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().collect::<Vec<_>>().join(" ")
}
