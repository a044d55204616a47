//! `onair namespace`: what namespaces have, and what they may have.

use tonic::Code;

use super::{
    curl,
    deploy::{answer, every_page},
    failure::Failure,
    print::Printer,
    session::Session,
    text::Table,
};
use crate::{
    client::Cause,
    config::{ClientSettings, Given},
    proto::{
        GetNamespaceRequest, ListNamespacesRequest, ListNamespacesResponse, Namespace, Quotas, UpdateNamespaceRequest,
        Usage, admin_client::AdminClient,
    },
    text::size,
};

const EXAMPLES: &str = "\
Examples:
  onair namespace list
  onair namespace get team-a
  onair namespace set team-a --instances 1000 --watches 200 --bytes 4MiB --writes 50
  onair namespace set team-a --writes none

What is there stays when a quota is lowered below it: only more is refused. Quotas of principals belong to their tokens:
onair token create, and onair token update.";

/// Arguments of `namespace`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show one: each quota, what is used of it, and its value.
    Get {
        /// Its name.
        name: String,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// List them, by name.
    List {
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
    /// Set quotas of one, known already or not; those that are not named stay.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        bounds: Bounds,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
}

/// Quotas, each as far as it is named.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Bounds {
    /// The most instances, or none for as many as there is room for.
    #[arg(long, value_parser = count, value_name = "COUNT")]
    instances: Option<Bound>,
    /// The most watches and subscriptions at once, or none.
    #[arg(long, value_parser = count, value_name = "COUNT")]
    watches: Option<Bound>,
    /// The most bytes of what instances say of themselves, like 4MiB, or none.
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    bytes: Option<Bound>,
    /// The most writes a second, or none.
    #[arg(long, value_parser = count, value_name = "COUNT")]
    writes: Option<Bound>,
}

/// A quota, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound(Option<u64>);

fn count(text: &str) -> Result<Bound, String> {
    let number = || text.replace('_', "").parse().map_err(|_| format!("`{text}` is neither a count nor none"));
    if text == "none" { Ok(Bound(None)) } else { number().map(|number| Bound(Some(number))) }
}

fn bytes(text: &str) -> Result<Bound, String> {
    if text == "none" { Ok(Bound(None)) } else { size(text).map(|size| Bound(Some(size))) }
}

impl Bounds {
    /// Whether one is named.
    #[must_use]
    pub fn is_given(&self) -> bool {
        [self.instances, self.watches, self.bytes, self.writes].iter().any(Option::is_some)
    }

    /// Whether each of them is.
    #[must_use]
    pub fn are_all_given(&self) -> bool {
        [self.instances, self.watches, self.bytes, self.writes].iter().all(Option::is_some)
    }

    /// Refuses a request that would be printed, and take away what is not named: what stands is not known.
    ///
    /// # Errors
    /// Which that are.
    pub fn fit(&self, print: &Printer) -> Result<(), Failure> {
        let why = "a request replaces all quotas: for --output curl name --instances, --watches, --bytes and --writes";
        match print.is_curl() && self.is_given() && !self.are_all_given() {
            true => Err(Failure::Usage(why.to_owned())),
            false => Ok(()),
        }
    }

    /// What stands, but for those that are named.
    #[must_use]
    pub fn over(&self, now: Quotas) -> Quotas {
        let of = |bound: Option<Bound>, now: Option<u64>| bound.map_or(now, |Bound(given)| given);
        Quotas {
            instances: of(self.instances, now.instances),
            watches: of(self.watches, now.watches),
            bytes: of(self.bytes, now.bytes),
            writes_per_second: of(self.writes, now.writes_per_second),
        }
    }
}

/// Does what was asked of a namespace.
///
/// # Errors
/// What went wrong.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Get { name, given } => {
            let mut session = Session::open(&given)?;
            let what = format!("get the namespace {name}");
            let send = async |channel, request| AdminClient::new(channel).get_namespace(request).await;
            let found = answer(&mut session, "GetNamespace", &what, GetNamespaceRequest { name }, send).await?;
            found.and_then(|found| found.namespace).map_or(Ok(()), |found| show(&session.print, &found))
        }
        Action::List { given } => list(&given).await,
        Action::Set { name, bounds, given } => set(name, bounds, &given).await,
    }
}

async fn set(name: String, bounds: Bounds, given: &Given<ClientSettings>) -> Result<(), Failure> {
    let mut session = Session::open(given)?;
    if !bounds.is_given() {
        return Err(Failure::Usage("name at least one of --instances, --watches, --bytes and --writes".to_owned()));
    }
    bounds.fit(&session.print)?;
    let what = format!("set the quotas of the namespace {name}");
    let mut request = UpdateNamespaceRequest { name: name.clone(), ..UpdateNamespaceRequest::default() };
    let mut quotas = Quotas::default();
    if !bounds.are_all_given() {
        // The others stay as they are: if somebody changes them meanwhile, the call is refused.
        let ask = GetNamespaceRequest { name: name.clone() };
        let send = async |channel, request| AdminClient::new(channel).get_namespace(request).await;
        let now = match session.line.call(&what, session.line.timeout(), ask, send).await {
            Ok(found) => found.namespace,
            Err(failed) if failed.last().and_then(Cause::code) == Some(Code::NotFound) => None,
            Err(failed) => return Err(failed.into()),
        };
        if let Some(now) = now {
            (quotas, request.expected_revision) = (now.quotas.unwrap_or_default(), now.revision);
        }
    }
    request.quotas = Some(bounds.over(quotas));
    let send = async |channel, request| AdminClient::new(channel).update_namespace(request).await;
    let now = answer(&mut session, "UpdateNamespace", &what, request, send).await?;
    now.and_then(|now| now.namespace).map_or(Ok(()), |now| show(&session.print, &now))
}

async fn list(given: &Given<ClientSettings>) -> Result<(), Failure> {
    let mut session = Session::open(given)?;
    let mut request = ListNamespacesRequest::default();
    if session.print.is_curl() {
        return curl::show(&session, "ListNamespaces", &request);
    }
    let mut all = ListNamespacesResponse::default();
    let send = async |channel, request| AdminClient::new(channel).list_namespaces(request).await;
    every_page(&mut session, "list the namespaces", &mut request, send, |page, request| {
        all.namespaces.extend(page.namespaces);
        (all.revision, request.page_token) = (page.revision, page.next_page_token);
        !request.page_token.is_empty()
    })
    .await?;
    if session.print.is_json() {
        return session.print.message("ListNamespacesResponse", &all);
    }
    let mut table = Table::new(["NAMESPACE", "SERVICES", "INSTANCES", "WATCHES", "BYTES", "WRITES/S"]);
    for namespace in &all.namespaces {
        let [instances, watches, bytes, writes] = rows(namespace.quotas.as_ref(), namespace.usage.as_ref());
        let cell = |(_, used, limit): (&str, u64, Option<u64>)| {
            limit.map_or_else(|| used.to_string(), |limit| format!("{used}/{limit}"))
        };
        table.row([
            namespace.name.clone(),
            namespace.services.to_string(),
            cell(instances),
            cell(watches),
            cell(bytes),
            cell(writes),
        ]);
    }
    session.print.table(&table)
}

/// Each quota by its name: what is used of it, and its value.
fn rows(quotas: Option<&Quotas>, usage: Option<&Usage>) -> [(&'static str, u64, Option<u64>); 4] {
    let (quotas, usage) = (quotas.copied().unwrap_or_default(), usage.copied().unwrap_or_default());
    [
        ("instances", usage.instances, quotas.instances),
        ("watches", usage.watches, quotas.watches),
        ("bytes", usage.bytes, quotas.bytes),
        ("writes/s", usage.writes, quotas.writes_per_second),
    ]
}

/// The quotas that there are, each with what is used of it, on one line.
#[must_use]
pub fn in_short(quotas: Option<&Quotas>, usage: Option<&Usage>) -> String {
    let told =
        rows(quotas, usage).into_iter().filter_map(|(name, used, limit)| Some(format!("{name} {used}/{}", limit?)));
    told.collect::<Vec<_>>().join(", ")
}

fn show(print: &Printer, namespace: &Namespace) -> Result<(), Failure> {
    if print.is_json() {
        return print.message("Namespace", namespace);
    }
    let mut table = Table::new(["QUOTA", "USED", "LIMIT"]);
    for (name, used, limit) in rows(namespace.quotas.as_ref(), namespace.usage.as_ref()) {
        table.row([name.to_owned(), used.to_string(), limit.map_or_else(String::new, |limit| limit.to_string())]);
    }
    print.table(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_changed() {
        let now = Quotas { instances: Some(5), watches: Some(6), ..Quotas::default() };
        let bounds = Bounds { instances: count("none").ok(), bytes: bytes("4KiB").ok(), ..Bounds::default() };
        let then = Quotas { watches: Some(6), bytes: Some(4_096), ..Quotas::default() };
        assert_eq!((bounds.over(now), bounds.is_given(), Bounds::default().is_given()), (then, true, false));
        assert_eq!((count("1_000"), count("0")), (Ok(Bound(Some(1_000))), Ok(Bound(Some(0)))));
        assert!(count("").is_err() && count("-1").is_err() && count("many").is_err() && bytes("4K B").is_err());
    }

    #[test]
    fn a_table_has_every_quota_and_what_is_used_of_it() {
        let (print, kept) = Printer::keeping(crate::config::Output::Table);
        let quotas = Quotas { instances: Some(10), writes_per_second: Some(0), ..Quotas::default() };
        let usage = Usage { instances: 3, watches: 1, bytes: 512, writes: 0 };
        let namespace = Namespace { quotas: Some(quotas), usage: Some(usage), ..Namespace::default() };
        show(&print, &namespace).expect("printed");
        assert_eq!(
            *kept.lock().expect("kept"),
            [
                "QUOTA      USED  LIMIT",
                "instances  3     10",
                "watches    1     -",
                "bytes      512   -",
                "writes/s   0     0"
            ]
        );
        assert_eq!(in_short(Some(&quotas), Some(&usage)), "instances 3/10, writes/s 0/0");
        assert_eq!(in_short(None, None), "");
    }
}
