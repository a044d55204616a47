//! What a program finds in its environment: its port, and where everything is that it needs. Waits for what is not there.
//! Knows no process.

use std::{collections::BTreeMap, env, time::Duration};

use tokio::time::{Instant, sleep};

use super::{moves::Told, plan::Plan};
use crate::{
    cli::{
        failure::{CallFailed, Cause, Failure, Report as _},
        needs,
        print::note,
        session::{Backoff, to_wire},
        text::{human, safe},
    },
    client::Client,
    export::variable,
    proto::{IfMissing, ResolveRequest, ResolveResponse, ResolvedDependency},
};

/// How long one question waits: then it is told what is missing.
const ROUND: Duration = Duration::from_secs(10);
/// What is waited for is told again this often.
const REMINDER: Duration = Duration::from_secs(30);

/// What is told a program of what it needs.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `API_URL`, `API_HOST` and `API_PORT` of each. What is in the environment already stays as it is there, so that one
    /// can be put in the place of another by hand.
    pub(super) variables: BTreeMap<String, String>,
    /// Those among them that are online, and can move.
    pub(super) told: Vec<Told>,
}

/// Looks where everything is that is needed.
///
/// # Errors
/// Something is missing, where that is not waited for, or not any longer; or nobody can say.
pub(super) async fn of_needs(client: &Client, plan: &Plan) -> Result<Found, Failure> {
    if plan.needs.is_empty() {
        return Ok(Found::default());
    }
    // What is missing at first is told at once, before it is waited for.
    let first = if plan.if_missing == needs::IfMissing::Ignore { IfMissing::Ignore } else { IfMissing::Fail };
    let mut request = ResolveRequest {
        dependencies: plan.needs.clone(),
        mocks: plan.mocks.clone(),
        if_missing: first.into(),
        ..ResolveRequest::default()
    };
    let mut waiting = Waiting { since: Instant::now(), told: None, backoff: Backoff::default() };
    loop {
        let failed = match client.resolve(request.clone()).await {
            Ok(answer) => return Ok(found(plan, &answer)),
            Err(failed) => failed,
        };
        let waits = is_missing(&failed) && plan.if_missing == needs::IfMissing::Wait;
        if !waits && !failed.is_transient() {
            return Err(needs::failure(failed));
        }
        let left = plan.needs_timeout.map_or(Duration::MAX, |limit| limit.saturating_sub(waiting.since.elapsed()));
        if left.is_zero() {
            return Err(waiting.over(plan, failed));
        }
        waiting.tell(plan, &failed);
        if waits {
            (request.if_missing, request.wait) = (IfMissing::Wait.into(), to_wire(ROUND.min(left)));
        } else {
            sleep(waiting.backoff.pause().min(left)).await;
        }
    }
}

/// A wait, and what was told of it when.
struct Waiting {
    since: Instant,
    told: Option<(Instant, String)>,
    backoff: Backoff,
}

impl Waiting {
    /// Says what is waited for: at once, and again when it is something else or takes long.
    fn tell(&mut self, plan: &Plan, failed: &CallFailed) {
        let (name, why) = (safe(&plan.name), why(failed));
        let (now, waits) = (Instant::now(), human(self.since.elapsed()));
        let text = match &self.told {
            Some((told, before)) if *before == why && now - *told < REMINDER => return,
            Some((_, before)) if *before == why && is_missing(failed) => format!(
                "{name} is still waiting, for {waits} now: {why} (if that needs {name} in turn, start one of them with \
                 --if-missing ignore)"
            ),
            _ if is_missing(failed) => format!("{name} is waiting for what it needs: {why}"),
            _ => format!("{name} cannot look for what it needs, trying again: {why}"),
        };
        note(&text);
        self.told = Some((now, why));
    }

    /// It has waited long enough.
    fn over(&self, plan: &Plan, failed: CallFailed) -> Failure {
        if !is_missing(&failed) {
            return failed.into();
        }
        let waited = human(self.since.elapsed());
        Failure::Nothing(format!("{} has waited {waited} for what it needs: {}", plan.name, why(&failed)))
    }
}

fn is_missing(failed: &CallFailed) -> bool {
    failed.reason().as_deref() == Some("MISSING_DEPENDENCY")
}

fn why(failed: &CallFailed) -> String {
    match failed.last() {
        Some(Cause::Status(status)) if is_missing(failed) => safe(status.message()).into_owned(),
        _ => failed.short(),
    }
}

fn found(plan: &Plan, answer: &ResolveResponse) -> Found {
    let mut found = Found::default();
    for (name, at) in &answer.resolved {
        let variables = variables(name, at);
        if at.instance.is_some() && !variables.is_empty() {
            let version = plan.needs.get(name).cloned().unwrap_or_default();
            found.told.push(Told { name: name.clone(), version, url: at.url.clone() });
        }
        found.variables.extend(variables);
    }
    found
}

/// The variables of one thing that is needed, without those that are there.
fn variables(name: &str, at: &ResolvedDependency) -> Vec<(String, String)> {
    let prefix = variable(name);
    let (host, port) = match &at.instance {
        Some(instance) if instance.port != 0 => (instance.host.clone(), instance.port.to_string()),
        _ => of_url(&at.url),
    };
    [("URL", at.url.clone()), ("HOST", host), ("PORT", port)]
        .into_iter()
        .map(|(what, value)| (format!("{prefix}_{what}"), value))
        // A value with a zero byte cannot be in any environment.
        .filter(|(name, value)| !value.is_empty() && !value.contains('\0') && env::var_os(name).is_none())
        .collect()
}

/// Protocol, host and port of a url, as far as it says them.
fn parts(url: &str) -> (&str, &str, &str) {
    let (protocol, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (protocol, host, port)
        }
        _ => (protocol, authority, ""),
    }
}

/// The port that a url says, which is no usual one that goes without saying: somebody in front may listen there.
pub(super) fn said_port(url: &str) -> Option<u16> {
    parts(url).2.parse().ok().filter(|port| *port > 0)
}

/// Host and port of the url of a stand-in, as far as it has them.
fn of_url(url: &str) -> (String, String) {
    let (protocol, host, port) = parts(url);
    let usual = match protocol {
        "https" => "443",
        "http" => "80",
        _ => "",
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host.to_owned(), if port.is_empty() { usual } else { port }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_a_port() {
        for (url, host, port) in [
            ("http://h:80/x", "h", "80"),
            ("localhost:3000", "localhost", "3000"),
            ("https://api.example/v1?x=y:1", "api.example", "443"),
            ("http://[::1]:9", "::1", "9"),
            ("h", "h", ""),
        ] {
            assert_eq!(of_url(url), (host.to_owned(), port.to_owned()), "{url}");
        }
        assert_eq!(said_port("http://h:8080/x"), Some(8080));
        assert_eq!(["https://shop.example/", "http://h:0", "http://h:70000"].map(said_port), [None; 3]);
    }

    #[test]
    fn names_become_variables() {
        let at = ResolvedDependency { url: "http://h:8080".into(), instance: None };
        let expected = [("SHOP_DB_URL", "http://h:8080"), ("SHOP_DB_HOST", "h"), ("SHOP_DB_PORT", "8080")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables("shop-db", &at), expected);
    }
}
