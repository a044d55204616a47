//! `onair drain`: takes an instance out of traffic by its key, and says who knows.

use std::time::Duration;

use super::{
    curl,
    failure::Failure,
    print::note,
    session::{Session, duration_argument, to_wire},
    text::{human_count, safe},
};
use crate::{
    config::{ClientSettings, Given},
    proto::{DrainRequest, DrainResponse, registry_client::RegistryClient},
};

const EXAMPLES: &str = "\
Examples:
  onair drain web --id 10.0.0.1:8000
  onair drain web --id 10.0.0.1:8000 --wait 30s

It stays registered, and is DRAINING until its registrant says something else. The command ends when all \
who watch it have been told, and those that acknowledge have done so, or when the wait is over.";

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service's name.
    name: String,
    /// The instance's id.
    #[arg(long)]
    id: String,
    /// How long those who watch it are waited for.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration_argument)]
    wait: Duration,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Drains it.
///
/// # Errors
/// It was refused, or is not there.
pub async fn run(args: Args) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    let request = DrainRequest {
        namespace: session.namespace.clone(),
        service: args.name.clone(),
        id: args.id.clone(),
        wait: to_wire(args.wait),
        ..DrainRequest::default()
    };
    if session.print.is_curl() {
        return curl::show(&session, "Drain", &request);
    }
    let send = async |channel, request| RegistryClient::new(channel).drain(request).await;
    let what = format!("drain {}/{}", args.name, args.id);
    let answer = session.line.call(&what, session.line.timeout() + args.wait, request, send).await?;
    if session.print.is_json() {
        return session.print.message("DrainResponse", &answer);
    }
    if answer.pending + answer.lagging > 0 {
        note("those that did not acknowledge it, or are behind, may still send it traffic");
    }
    session.print.line(&format!("{}/{} is DRAINING: {}", safe(&args.name), safe(&args.id), in_words(&answer)))
}

/// `2 watches acknowledged it, 1 was told`.
pub fn in_words(answer: &DrainResponse) -> String {
    let parts = [
        (answer.acked, "acknowledged it"),
        (answer.sent, "told"),
        (answer.pending, "did not acknowledge it"),
        (answer.lagging, "behind"),
    ];
    let there: Vec<_> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{} {what}", watches(count)))
        .collect();
    if there.is_empty() { "nobody watches it".to_owned() } else { there.join(", ") }
}

fn watches(count: u64) -> String {
    format!("{} {}", human_count(count), if count == 1 { "watch" } else { "watches" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_words() {
        let answer = DrainResponse { acked: 2, sent: 1, ..DrainResponse::default() };
        assert_eq!(in_words(&answer), "2 watches acknowledged it, 1 watch told");
        assert_eq!(in_words(&DrainResponse::default()), "nobody watches it");
    }
}
