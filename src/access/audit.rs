//! What is written of every change and every refusal: who, from where, what, and what came of it. A line holds names that
//! were judged, and never a message or a credential. Knows neither files nor threads: whoever has the other end writes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::SystemTime,
};

use http::{Extensions, HeaderMap, Method, StatusCode};
use prost_types::Timestamp;
use serde::Serialize;
use tonic::transport::server::TcpConnectInfo;
use uuid::Uuid;

use super::{Entry, Permission, Reach, Rule};
use crate::{
    metrics::Metrics,
    registry::{Error, Revision},
};

/// Lines that wait to be written. There is no room for more when the disk is slow: what is lost is counted.
const WAITING_MAX: usize = 16_384;
/// The header by which a caller names a request, and the longest such name.
const REQUEST_ID: &str = "x-request-id";
const REQUEST_ID_MAX: usize = 128;

/// One line.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    /// When it ended.
    pub time: String,
    /// The principal; empty: nobody said who they are.
    pub who: String,
    /// The address at the other end of the connection.
    pub from: String,
    /// The call, or the method and path of HTTP.
    pub what: String,
    /// What it was about, as far as that was judged: `namespace/service`.
    pub about: String,
    /// `OK`, or the reason of the refusal.
    pub outcome: String,
    /// Which permission was missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub permission: String,
    /// The revision that was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// As the caller named the request, or as we do.
    pub request_id: String,
}

/// What goes to whoever writes.
#[derive(Debug)]
pub enum Entered {
    /// Something to write.
    Line(Box<Line>),
    /// Nothing comes after it.
    End,
}

/// Where lines are handed in. Nobody waits for them to be written.
#[derive(Debug)]
pub struct Audit {
    lines: SyncSender<Entered>,
    metrics: Arc<Metrics>,
    is_losing: AtomicBool,
}

impl Audit {
    /// A place to hand lines in, and its other end.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> (Arc<Self>, Receiver<Entered>) {
        let (lines, entered) = sync_channel(WAITING_MAX);
        (Arc::new(Self { lines, metrics, is_losing: AtomicBool::new(false) }), entered)
    }

    /// Hands a line in.
    pub fn enter(&self, line: Line) {
        self.metrics.audit_lines.inc();
        match self.lines.try_send(Entered::Line(Box::new(line))) {
            Ok(()) => self.is_losing.store(false, Ordering::Relaxed),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.audit_lost.inc();
                if !self.is_losing.swap(true, Ordering::Relaxed) {
                    tracing::error!("lines of the audit log are lost: they come faster than they are written");
                }
            }
        }
    }

    /// Has what was handed in written, and nothing after it.
    pub fn end(&self) {
        // Who writes may have ended by itself.
        let _ = self.lines.send(Entered::End);
    }
}

/// What a request was about and what came of it, filled in where that is known.
#[derive(Clone, Debug, Default)]
pub struct Trail(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    about: String,
    /// At which revision something changed; the inner none: nothing did.
    came_to: Option<Option<Revision>>,
}

impl Trail {
    /// It is about this; the first that is said of it stands.
    pub(super) fn note(&self, namespace: &str, service: &str) {
        let about = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner).about;
        if about.is_empty() && !namespace.is_empty() {
            *about = if service.is_empty() { namespace.to_owned() } else { format!("{namespace}/{service}") };
        }
    }

    /// Where its answer does not say so: at which revision something changed, or that nothing did.
    pub(super) fn came_to(&self, revision: Option<Revision>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).came_to = Some(revision);
    }

    fn noted(&self) -> (String, Option<Option<Revision>>) {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (noted.about.clone(), noted.came_to)
    }
}

/// A request as it began, of which there may be something to write.
#[derive(Debug)]
pub struct Request {
    audit: Arc<Audit>,
    line: Line,
    trail: Trail,
    is_change: bool,
    /// Its line was written.
    is_over: bool,
}

impl Request {
    pub(super) fn begin(audit: &Arc<Audit>, what: &str, headers: &HeaderMap, extensions: &Extensions) -> Self {
        let peer = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let line = Line {
            what: what.trim_start_matches('/').to_owned(),
            from: peer.as_ref().map_or_else(String::new, SocketAddr::to_string),
            request_id: request_id(headers),
            ..Line::default()
        };
        Self { audit: Arc::clone(audit), line, trail: Trail::default(), is_change: false, is_over: false }
    }

    /// Who sent it.
    pub(super) fn by(&mut self, who: &str, is_change: bool) {
        (self.line.who, self.is_change) = (who.to_owned(), is_change);
    }

    /// Where what it is about is noted.
    pub(super) fn trail(&self) -> Trail {
        self.trail.clone()
    }

    /// Whether it is to change something.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.is_change
    }

    /// It ended well. What changed nothing after all is no change: a renewal by who has no lease token is one of these.
    pub fn done(mut self, revision: Option<u64>) {
        match self.trail.noted().1 {
            Some(None) => self.is_over = true,
            noted if self.is_change => self.enter("OK", "", revision.or(noted.flatten())),
            _ => {}
        }
    }

    /// It was refused for this reason, by its name in the protos; of a permission, which was missing.
    pub fn refused(mut self, reason: &str, permission: &str) {
        if self.is_change || is_of_rights(reason) {
            self.enter(reason, permission, None);
        }
    }

    /// It was answered with this status of HTTP.
    pub fn answered(self, status: StatusCode) {
        match status {
            StatusCode::UNAUTHORIZED => self.refused("UNAUTHENTICATED", ""),
            StatusCode::FORBIDDEN => self.refused("PERMISSION", ""),
            status if status.is_success() => self.done(None),
            status => self.refused(status.as_str(), ""),
        }
    }

    /// It was refused at the gate.
    pub(super) fn refused_for(self, error: &Error) {
        match error {
            Error::Permission { permission } => self.refused("PERMISSION", permission),
            _ => self.refused("UNAUTHENTICATED", ""),
        }
    }

    fn enter(&mut self, outcome: &str, permission: &str, revision: Option<u64>) {
        self.is_over = true;
        let (outcome, permission) = (outcome.to_owned(), permission.to_owned());
        let (time, (about, _)) = (Timestamp::from(SystemTime::now()).to_string(), self.trail.noted());
        let line = std::mem::take(&mut self.line);
        self.audit.enter(Line { time, about, outcome, permission, revision, ..line });
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // Nobody waited for what came of it.
        if self.is_change && !self.is_over {
            self.enter("CANCELLED", "", None);
        }
    }
}

/// Whether a refusal is one for want of a right.
fn is_of_rights(reason: &str) -> bool {
    matches!(reason, "UNAUTHENTICATED" | "PERMISSION" | "LEASE_DENIED" | "KEY_HELD")
}

/// Whether a call of this path changes what is stored. Renewals do not, and neither do events that are not kept.
#[must_use]
pub fn is_change(path: &str, rule: &Rule) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let reads = ["Get", "List"].iter().any(|verb| name.starts_with(verb));
    let keeps = |permission: &Permission| !matches!(permission, Permission::Read | Permission::Publish);
    match rule.entry {
        Entry::Any(permissions) => permissions.iter().all(keeps) && rule.reach != Reach::Lease && !reads,
        Entry::Open | Entry::Known | Entry::Everywhere(_) => false,
    }
}

/// The paths of HTTP that stand for no call; the others are written as the calls that they stand for.
const OWN: [&str; 3] = ["/registrations", "/backends", "/frontends"];

/// Whether a request of HTTP changes what is stored, by itself.
#[must_use]
pub fn is_change_by_http(method: &Method, path: &str) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && is_of_its_own(path)
}

/// Whether a path of HTTP stands for no call.
#[must_use]
pub fn is_of_its_own(path: &str) -> bool {
    let is_within = |of: &&str| path.strip_prefix(*of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    OWN.iter().any(is_within)
}

/// The caller's name for a request, if it can stand anywhere; else one of ours.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let fits = |id: &&str| (1..=REQUEST_ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    given.filter(fits).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::of_rpc;

    #[test]
    fn what_changes_something() {
        for (call, changes) in [
            ("Registry/Register", true),
            ("Registry/Deregister", true),
            ("Registry/Heartbeat", false),
            ("Registry/Publish", false),
            ("Registry/Lookup", false),
            ("Catalog/ImportApplicationsStream", true),
            ("Deployments/SwitchBack", true),
            ("Admin/CreateToken", true),
            ("Admin/ListTokens", false),
        ] {
            let path = format!("/onair.v1.{call}");
            assert_eq!(is_change(&path, of_rpc(&path).expect("a rule")), changes, "{call}");
        }
    }

    #[test]
    fn lines_are_of_changes_and_of_refusals() {
        let (audit, entered) = Audit::new(Arc::default());
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", http::HeaderValue::from_static("order-7"));
        headers.insert("authorization", http::HeaderValue::from_static("Bearer secret"));
        let begin = |is_change: bool| {
            let mut request = Request::begin(&audit, "/onair.v1.Registry/Register", &headers, &Extensions::new());
            request.by("token:ci", is_change);
            request.trail().note("team-a", "web");
            request.trail().note("team-b", "");
            request
        };
        begin(true).done(Some(7));
        let (told, renewed) = (begin(true), begin(true));
        told.trail().came_to(Some(8));
        told.done(None);
        renewed.trail().came_to(None);
        renewed.done(None);
        begin(false).done(None);
        begin(false).refused("INVALID", "");
        begin(true).refused("LIMIT", "");
        begin(false).refused("PERMISSION", "read");
        audit.end();
        let lines: Vec<String> = entered
            .into_iter()
            .map_while(|entered| match entered {
                Entered::Line(line) => Some(serde_json::to_string(&line).expect("a line")),
                Entered::End => None,
            })
            .map(|line| line.split_once(',').expect("a time first").1.to_owned())
            .collect();
        let line = |rest: &str| {
            format!(
                r#""who":"token:ci","from":"","what":"onair.v1.Registry/Register","about":"team-a/web",{rest},"request_id":"order-7"}}"#
            )
        };
        assert_eq!(
            lines,
            [
                line(r#""outcome":"OK","revision":7"#),
                line(r#""outcome":"OK","revision":8"#),
                line(r#""outcome":"LIMIT""#),
                line(r#""outcome":"PERMISSION","permission":"read""#)
            ]
        );
    }

    #[test]
    fn a_request_is_named_by_what_can_stand_anywhere() {
        let named = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, http::HeaderValue::from_bytes(text).expect("a header"));
            request_id(&headers)
        };
        assert_eq!(named(b"a-1"), "a-1");
        for text in [&b""[..], b"a b", b"\xff", &[b'x'; 129]] {
            assert_eq!(named(text).len(), 36, "{text:?}");
        }
    }
}
