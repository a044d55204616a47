//! `onair env`: what a program finds in its environment of itself and of what it needs: where that is online, else where
//! the catalog says that it will be.

use std::collections::{BTreeMap, HashSet};

use tonic::transport::Channel;

use super::Client;
use crate::{
    cli::{
        failure::Failure,
        needs::{mock, once_each},
        session::Session,
        text::{host_port, safe},
    },
    config::{ClientSettings, Given},
    export::{distinct, dotenv, shell, variable, variables_json},
    proto::{Application, GetApplicationRequest, LookupRequest, Pick, registry_client::RegistryClient},
    registry::Instance,
};

const EXAMPLES: &str = "\
Examples:
  onair env shop-api > .env
  eval \"$(onair env shop-api --format shell)\" && ./shop-api
  onair env shop-api --format json --mock shop-pay=http://localhost:9999

For each application that it needs there is NAME_HOST, NAME_PORT and NAME_URL: of an instance that is online, else the
catalog's port on --host. PORT is its own external port. A variable that is set already keeps its value.";

/// Arguments of `env`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct EnvArgs {
    /// The application.
    application: String,
    /// As what.
    #[arg(long, value_enum, default_value_t = Format::Dotenv)]
    format: Format,
    /// Where programs of the catalog listen that are not online.
    #[arg(long, default_value = "localhost")]
    host: String,
    /// A url that stands in for an application that it needs, as `name=url`. Repeatable.
    #[arg(long = "mock", value_name = "NAME=URL", value_parser = mock)]
    mocks: Vec<(String, String)>,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// Lines of a .env file.
    Dotenv,
    /// Commands for a shell.
    Shell,
    /// An object.
    Json,
}

/// Prints the environment of an application.
///
/// # Errors
/// What went wrong, or a value that the format cannot carry.
pub async fn env(EnvArgs { application, format, host, mocks, given }: EnvArgs) -> Result<(), Failure> {
    let mut session = Session::open(&given)?;
    session.print.is_no_call("an environment")?;
    let mocks = once_each("--mock", mocks)?;
    let of = get(&mut session, &application).await?;
    // A name that is mistyped would lead the program to what is online in place of the mock.
    if let Some(name) = mocks.keys().find(|name| !of.dependencies.contains(name)) {
        let (name, application) = (safe(name), safe(&application));
        return Err(Failure::Usage(format!("--mock {name}: {application} does not need {name}")));
    }
    let mut variables = own(&of);
    for needed in &of.dependencies {
        let place = match mocks.get(needed) {
            Some(url) => Place::of_url(url),
            None => match online(&mut session, needed).await? {
                Some(instance) => Place::of(&instance),
                None => Place::declared(&get(&mut session, needed).await?, &host),
            },
        };
        variables.extend(place.variables(needed));
    }
    let variables = distinct(&safe(&application), variables).map_err(Failure::Other)?;
    // What somebody has set goes before what we found.
    let variables: BTreeMap<String, String> =
        variables.into_iter().map(|(name, value)| (name.clone(), std::env::var(&name).unwrap_or(value))).collect();
    match format {
        Format::Json => session.print.value(&variables_json(&variables)),
        Format::Shell => session.print.line(shell(&variables).map_err(Failure::Other)?.trim_end()),
        Format::Dotenv => session.print.line(dotenv(&variables).map_err(Failure::Other)?.trim_end()),
    }
}

async fn get(session: &mut Session, id: &str) -> Result<Application, Failure> {
    let request = GetApplicationRequest { namespace: session.namespace.clone(), id: id.to_owned() };
    let send = async |channel: Channel, request| Client::new(channel).get_application(request).await;
    let (what, limit) = (format!("get the application {}", safe(id)), session.line.timeout());
    Ok(session.line.call(&what, limit, request, send).await?.application.unwrap_or_default())
}

/// Somebody who takes calls under the name of an application.
async fn online(session: &mut Session, service: &str) -> Result<Option<Instance>, Failure> {
    let request = LookupRequest {
        namespace: session.namespace.clone(),
        service: service.to_owned(),
        pick: Pick::Random.into(),
        ..LookupRequest::default()
    };
    let send = async |channel, request| RegistryClient::new(channel).lookup(request).await;
    let (what, limit) = (format!("look up {}", safe(service)), session.line.timeout());
    Ok(session.line.call(&what, limit, request, send).await?.instances.into_iter().next())
}

/// Its own ports: where clients reach it on this machine.
fn own(of: &Application) -> Vec<(String, String)> {
    let first = of.ports.first().map(|port| ("PORT".to_owned(), port.external.to_string()));
    let more = of.ports.iter().skip(1);
    let more = more.map(|port| (format!("PORT_{}", variable(&port.service)), port.external.to_string()));
    first.into_iter().chain(more).collect()
}

/// Where an application is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    host: String,
    port: String,
    url: String,
    /// Further ports by their names.
    more: Vec<(String, String)>,
}

impl Place {
    fn of(instance: &Instance) -> Self {
        let more = instance.ports.iter().map(|(name, port)| (name.to_string(), port.to_string()));
        let (host, port) = (instance.host.to_string(), instance.port.to_string());
        Self { host, port, url: instance.url.to_string(), more: more.collect() }
    }

    /// What a url says of itself; the rest of it is empty.
    fn of_url(url: &str) -> Self {
        let uri: Option<http::Uri> = url.parse().ok();
        let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default().to_owned();
        let of_scheme = |uri: &http::Uri| match uri.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        };
        let port = uri.as_ref().and_then(|uri| uri.port_u16().or_else(|| of_scheme(uri)));
        let port = port.map(|port| port.to_string()).unwrap_or_default();
        Self { host, port, url: url.to_owned(), more: Vec::new() }
    }

    /// Where the catalog says that it will be.
    fn declared(of: &Application, host: &str) -> Self {
        let first = of.ports.first();
        let port = first.map_or(0, |port| port.external);
        let protocol = if first.is_some_and(|port| port.service == "postgresql") { "postgresql" } else { "http" };
        let more = of.ports.iter().skip(1).map(|port| (port.service.clone(), port.external.to_string()));
        let url = format!("{protocol}://{}", host_port(host, port));
        Self { host: host.to_owned(), port: port.to_string(), url, more: more.collect() }
    }

    fn variables(self, id: &str) -> Vec<(String, String)> {
        let name = variable(id);
        let more = self.more.into_iter().map(|(of, port)| (format!("{name}_PORT_{}", variable(&of)), port));
        // Of names that come to one, the first: whoever registered them spoils nobody's start.
        let mut seen = HashSet::new();
        let mut variables: Vec<(String, String)> = more.filter(|(name, _)| seen.insert(name.clone())).collect();
        variables.extend([
            (format!("{name}_HOST"), self.host),
            (format!("{name}_PORT"), self.port),
            (format!("{name}_URL"), self.url),
        ]);
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ApplicationPort;

    #[test]
    fn places_of_each_kind() {
        let place = |host: &str, port: &str, url: &str| Place {
            host: host.into(),
            port: port.into(),
            url: url.into(),
            more: Vec::new(),
        };
        assert_eq!(Place::of_url("http://localhost:9/x"), place("localhost", "9", "http://localhost:9/x"));
        assert_eq!(Place::of_url("https://a.example"), place("a.example", "443", "https://a.example"));
        assert_eq!(Place::of_url("not a url"), place("", "", "not a url"));
        let port = |service: &str, external| ApplicationPort { service: service.into(), external, internal: 1 };
        let db = Application { ports: vec![port("postgresql", 6019)], ..Application::default() };
        assert_eq!(Place::declared(&db, "::1"), place("::1", "6019", "postgresql://[::1]:6019"));
        let two = Application { ports: vec![port("play", 6011), port("redis", 6012)], ..Application::default() };
        let names: Vec<(String, String)> = Place::declared(&two, "ws").variables("shop-api");
        let wanted = [
            ("SHOP_API_PORT_REDIS", "6012"),
            ("SHOP_API_HOST", "ws"),
            ("SHOP_API_PORT", "6011"),
            ("SHOP_API_URL", "http://ws:6011"),
        ];
        let alike =
            Place { more: vec![("a-b".into(), "5".into()), ("a_b".into(), "6".into())], ..Place::of_url("http://h:1") };
        assert_eq!(alike.variables("x")[..2], [("X_PORT_A_B".into(), "5".into()), ("X_HOST".into(), "h".into())]);
        assert_eq!(names, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(own(&two), [("PORT".to_owned(), "6011".to_owned()), ("PORT_REDIS".to_owned(), "6012".to_owned())]);
    }
}
