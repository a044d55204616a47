//! `onair watch`: follows services over any number of streams as if it were one. What is known is in `fold`.

mod fold;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime};

use tokio::time::{sleep, timeout};
use tonic::{Streaming, transport::Channel};

use super::{
    curl,
    failure::{CallFailed, Cause, Failure, Report as _},
    lookup::bare,
    print::{note, to_json},
    session::{Backoff, Session, chance, from_wire},
    text::{Tone, clock, human, safe, safe_json},
};
use crate::{
    client::{BOOKMARK_INTERVAL, silence},
    config::{ClientSettings, Given},
    proto::{
        EventType, Published, Reset, ResetReason, Selector, ServicePresence, WatchRequest, WatchResponse,
        registry_client::RegistryClient,
    },
};
use fold::{Fold, Step};

const EXAMPLES: &str = "\
Examples:
  onair watch
  onair watch web api --selector 'zone=eu'
  onair watch web --version '^2' --output json
  onair watch web --published
  onair watch --frontend www
  onair watch --prefix billing- --summaries
  onair watch web --resume-token \"$TOKEN\"

Prints a line for each event: time (UTC), what happened, service, id, address, cause, and a status that is news; for each \
summary: time, UP or DOWN, service, partition key. When the stream \
ends or is silent for too long it goes on by itself from the last resume token and says so on standard \
error: nothing is missed or printed twice. With --output json each line is a WatchResponse, whose resumeToken serves --resume-token.";

/// Arguments of `watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The services. Default: every service of the namespace.
    names: Vec<String>,
    /// Only this version, or this range in npm's grammar.
    #[arg(long, value_name = "RANGE", default_value = "", hide_default_value = true)]
    version: String,
    /// Only what matches these terms, as in `onair lookup --help`.
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// The frontends to follow, in place of services or besides, wherever they point.
    #[arg(long, value_name = "NAME")]
    frontend: Vec<String>,
    /// Every service whose name begins so, in place of services or besides.
    #[arg(long, value_name = "TEXT")]
    prefix: Vec<String>,
    /// Also tell when the first instance of a partition of a service comes, and when the last one goes.
    #[arg(long)]
    summaries: bool,
    /// Also what is published for these services.
    #[arg(long)]
    published: bool,
    /// Go on from here, with the same names, version and selector.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    resume_token: String,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// Watches until something ends it for good.
///
/// # Errors
/// The first attempt failed, or a later one in a way that trying again cannot mend.
pub async fn run(args: Args) -> Result<(), Failure> {
    let session = Session::open(&args.given)?;
    let request = request(&session.namespace, args);
    if session.print.is_curl() {
        return curl::show_stream(&session, "Watch", &request);
    }
    Watcher::new(session, request).run().await
}

/// What is asked for: a selector for each name, frontend and prefix; of none of these, one for everything.
fn request(namespace: &str, args: Args) -> WatchRequest {
    let any = Selector {
        namespace: namespace.to_owned(),
        version: args.version,
        selector: args.selector,
        published: args.published,
        ..Selector::default()
    };
    let services = args.names.into_iter().map(|service| Selector { service, ..any.clone() });
    // What is published is a service's.
    let of_frontend = |frontend| Selector { frontend, published: false, ..any.clone() };
    let under = |service_prefix| Selector { service_prefix, ..any.clone() };
    let mut selectors: Vec<Selector> = services.collect();
    selectors.extend(args.frontend.into_iter().map(of_frontend));
    selectors.extend(args.prefix.into_iter().map(under));
    if selectors.is_empty() {
        selectors.push(any);
    }
    WatchRequest { selectors, resume_token: args.resume_token, summaries: args.summaries, ..WatchRequest::default() }
}

struct Watcher {
    session: Session,
    /// What to watch; holds the last resume token.
    request: WatchRequest,
    fold: Fold,
    /// After this long without a message the connection counts as dead.
    silence: Duration,
    /// Since when there has been no stream.
    outage: Option<Instant>,
    /// JSON of a revision that goes on in the next message: if the stream breaks now, all of it comes again.
    held: Vec<serde_json::Value>,
    /// A message has come at some time.
    begun: bool,
}

/// How a stream ended.
enum End {
    Failed(CallFailed),
    Silent,
    /// Without a status that says why, which no server should do.
    Closed,
}

impl Watcher {
    fn new(session: Session, request: WatchRequest) -> Self {
        Self {
            session,
            request,
            fold: Fold::default(),
            silence: silence(BOOKMARK_INTERVAL),
            outage: None,
            held: Vec::new(),
            begun: false,
        }
    }

    async fn run(&mut self) -> Result<(), Failure> {
        let mut backoff = Backoff::default();
        loop {
            let (end, heard) = self.one_stream().await?;
            if heard {
                backoff.reset();
            }
            let (text, retry_after) = match end {
                End::Failed(failed) if !self.begun || failed.is_final() => return Err(failed.into()),
                End::Failed(failed) => (failed.short(), failed.last().and_then(Cause::retry_after)),
                End::Silent => (format!("{}: silent for {}", self.session.line.host(), human(self.silence)), None),
                End::Closed => (format!("{}: ended without a reason", self.session.line.host()), None),
            };
            if self.outage.is_none() {
                self.outage = Some(Instant::now());
                note(&format!("the stream broke ({text}); resuming"));
            }
            self.fold.broken();
            self.held.clear();
            let wait = retry_after.map_or_else(|| backoff.pause(), |delay| delay.mul_f64(1.0 + 0.5 * chance()));
            sleep(wait).await;
        }
    }

    /// Follows one stream to its end; also whether anything came.
    async fn one_stream(&mut self) -> Result<(End, bool), Failure> {
        let mut stream = match self.open().await {
            Ok(stream) => stream,
            Err(failed) => return Ok((End::Failed(failed), false)),
        };
        let mut heard = false;
        loop {
            let message = match timeout(self.silence, stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ok((End::Closed, heard)),
                Ok(Err(status)) => {
                    let causes = vec![(self.session.line.host(), Cause::from_status(status))];
                    let failed = CallFailed { what: "watch".to_owned(), causes };
                    if failed.last().is_some_and(Cause::is_of_this_host) {
                        self.session.line.hang_up();
                    }
                    return Ok((End::Failed(failed), heard));
                }
                Err(_) => {
                    self.session.line.hang_up();
                    return Ok((End::Silent, heard));
                }
            };
            if !heard {
                heard = true;
                self.opened(&message)?;
            }
            self.take(message)?;
        }
    }

    async fn open(&mut self) -> Result<Streaming<WatchResponse>, CallFailed> {
        let send = async |channel: Channel, request| RegistryClient::new(channel).watch(request).await;
        self.session.line.stream("watch", self.request.clone(), send).await
    }

    /// The first message of a stream has come.
    fn opened(&mut self, message: &WatchResponse) -> Result<(), Failure> {
        self.begun = true;
        let Some(since) = self.outage.take() else { return Ok(()) };
        let gap = human(since.elapsed());
        if message.reset.is_none() && !self.request.resume_token.is_empty() {
            note(&format!("resumed at revision {} after {gap}", message.revision));
            return Ok(());
        }
        note(&format!("connected again after {gap}"));
        if message.reset.is_none() {
            // The stream broke before its first token: a snapshot begins anew, and readers of JSON have to know.
            let reset = Some(Reset { reason: ResetReason::Unspecified.into(), oldest_revision: 0 });
            if self.session.print.is_json() {
                self.session.print.message("WatchResponse", &WatchResponse { reset, ..Default::default() })?;
            }
            self.fold.reset();
        }
        Ok(())
    }

    fn take(&mut self, message: WatchResponse) -> Result<(), Failure> {
        if let Some(interval) = from_wire(message.bookmark_interval).filter(|interval| !interval.is_zero()) {
            self.silence = silence(interval);
        }
        if let Some(reset) = &message.reset {
            let reason = bare(reset.reason().as_str_name(), "RESET_REASON_");
            note(&format!("the watch begins anew ({reason}): what was online stays until the snapshot has come"));
            // A token of before the reset is worth nothing from here on.
            self.request.resume_token.clear();
        }
        if !message.resume_token.is_empty() {
            self.request.resume_token.clone_from(&message.resume_token);
        }
        if !self.session.print.is_json() {
            if message.published_lost > 0 {
                note(&format!("this watch was too slow: {} published events are lost", message.published_lost));
            }
            let published =
                message.published.iter().map(|event| self.published(event)).collect::<Result<Vec<_>, _>>()?;
            let news = self.fold.take(message);
            let lines = news.steps.iter().map(|step| self.shown(step));
            let lines = lines.chain(news.summaries.iter().map(|summary| self.summary(summary)));
            let lines: Vec<_> = lines.chain(published).collect();
            return if lines.is_empty() { Ok(()) } else { self.session.print.line(&lines.join("\n")) };
        }
        self.held.push(to_json("WatchResponse", &message)?);
        self.fold.take(message);
        if self.fold.is_whole() {
            self.held.drain(..).try_for_each(|json| self.session.print.value(&json))?;
        }
        Ok(())
    }

    fn published(&self, event: &Published) -> Result<String, Failure> {
        let print = &self.session.print;
        let data = to_json("Published", event)?.get("data").map(ToString::to_string).unwrap_or_default();
        let line = format!(
            "{} {} {}{} {} {} {}",
            print.paint(Tone::Aside, &clock(SystemTime::now())),
            print.paint(Tone::Notice, "PUBLISHED"),
            namespace(&event.namespace),
            safe(&event.service),
            safe(if event.id.is_empty() { "-" } else { &event.id }),
            safe(&event.kind),
            safe_json(&data)
        );
        Ok(line.trim_end().to_owned())
    }

    fn summary(&self, summary: &ServicePresence) -> String {
        let print = &self.session.print;
        let (name, tone) = if summary.online { ("UP     ", Tone::Good) } else { ("DOWN   ", Tone::Bad) };
        let key = if summary.key.is_empty() { String::new() } else { format!(" {}", safe(&summary.key)) };
        format!(
            "{} {} {}{}{key}",
            print.paint(Tone::Aside, &clock(SystemTime::now())),
            print.paint(tone, name),
            namespace(&summary.namespace),
            safe(&summary.service),
        )
    }

    fn shown(&self, step: &Step) -> String {
        let print = &self.session.print;
        let (name, tone) = match step.event {
            EventType::Online => ("ONLINE ", Tone::Good),
            EventType::Updated => ("UPDATED", Tone::Notice),
            EventType::Offline => ("OFFLINE", Tone::Bad),
            EventType::Unspecified => ("UNKNOWN", Tone::Notice),
        };
        let mut line = format!(
            "{} {} {}{} {} {}",
            print.paint(Tone::Aside, &clock(SystemTime::now())),
            print.paint(tone, name),
            namespace(&step.namespace),
            safe(&step.service),
            safe(&step.id),
            safe(&step.address),
        );
        for word in [&step.cause, &step.status].into_iter().filter(|word| !word.is_empty()) {
            line.push(' ');
            line.push_str(word);
        }
        line
    }
}

/// What comes before a service's name.
fn namespace(name: &str) -> String {
    match name {
        "" | "default" => String::new(),
        name => format!("{}/", safe(name)),
    }
}
