//! What operators' programs ask: `/metrics`, `/healthz`, `/readyz`. They answer from any runtime, also while the store is
//! still read, and take nothing of the registry's task but one short turn. Knows no metric by name.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    routing::{MethodRouter, get},
};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use serde::Serialize;

use super::problem;
use crate::{
    actor::RegistryHandle,
    grpc::status::{self, Reason},
    metrics::{Format, Metrics},
};

/// How long the registry's task may take for a turn before it is said to be dead.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// What is asked about. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ops {
    metrics: Arc<Metrics>,
    registry: Arc<OnceLock<RegistryHandle>>,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into() }
    }

    fn failed(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: false, detail: detail.into() }
    }
}

/// The answer of a probe.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

impl Ops {
    /// Of a server that is about to open its store.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, registry: Arc::default() }
    }

    /// The state is there, and this is the way to it.
    pub fn recovered(&self, handle: RegistryHandle) {
        // It is said once.
        let _ = self.registry.set(handle);
    }

    async fn task(&self) -> Check {
        let Some(handle) = self.registry.get() else { return Check::ok("task", "not there yet: the store is read") };
        match handle.turn(PATIENCE).await {
            Ok(took) => Check::ok("task", format!("a turn took {took:?}")),
            Err(lifeless) => Check::failed("task", lifeless.to_string()),
        }
    }

    fn state(&self) -> Vec<Check> {
        let Some(handle) = self.registry.get() else {
            return vec![Check::failed("recovered", "the store is read")];
        };
        let hub = handle.hub();
        let revision = hub.registry().revision();
        let serving = if hub.is_leaving() {
            Check::failed("serving", "the server is shutting down")
        } else {
            Check::ok("serving", "calls are answered")
        };
        let store = match hub.away() {
            None => Check::ok("store", "changes are committed"),
            Some(why) => Check::failed("store", format!("away: {why}; reads, beats and watches go on")),
        };
        vec![Check::ok("recovered", format!("revision {revision}")), serving, store]
    }
}

/// The routes.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/metrics", read_only(get(metrics)))
        .route("/healthz", read_only(get(healthz)))
        .route("/readyz", read_only(get(readyz)))
        .with_state(ops)
}

/// A path that can only be read: other methods are refused as everywhere.
pub(super) fn read_only<S: Clone + Send + Sync + 'static>(methods: MethodRouter<S>) -> MethodRouter<S> {
    const METHODS: &str = "GET, HEAD, OPTIONS";
    methods.fallback(|method: Method| async move {
        let mut response = if method == Method::OPTIONS {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        } else {
            let sentence = format!("this path has the methods {METHODS}");
            problem::response(&status::plain(Reason::MethodNotAllowed, sentence))
        };
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
        response
    })
}

async fn metrics(State(ops): State<Ops>, headers: HeaderMap) -> Response<Body> {
    ops.metrics.read_process();
    if let Some(handle) = ops.registry.get() {
        handle.read_gauges();
    }
    let format = if accepts_open_metrics(&headers) { Format::OpenMetrics } else { Format::Prometheus };
    answer(StatusCode::OK, HeaderValue::from_static(format.content_type()), ops.metrics.text(format))
}

/// Whether any `Accept` names OpenMetrics and does not rule it out.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let named = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let refused = |part: &str| {
            let quality = part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
            quality.is_some_and(|(_, value)| value.trim().parse::<f32>().is_ok_and(|quality| quality <= 0.0))
        };
        kind.eq_ignore_ascii_case("application/openmetrics-text") && !parts.any(refused)
    };
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| value.split(',').any(named))
}

/// The process answers, and the registry's task lives.
async fn healthz(State(ops): State<Ops>) -> Response<Body> {
    report(vec![ops.task().await])
}

/// Everything that is served can be served.
async fn readyz(State(ops): State<Ops>) -> Response<Body> {
    let mut checks = ops.state();
    checks.push(ops.task().await);
    report(checks)
}

fn report(checks: Vec<Check>) -> Response<Body> {
    let report = Report { ok: checks.iter().all(|check| check.ok), checks };
    let status = if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Strings and booleans can be written.
    let mut text = serde_json::to_string(&report).unwrap_or_default();
    text.push('\n');
    let mut response = answer(status, HeaderValue::from_static("application/json"), text);
    if !report.ok {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What is true now, and not to be kept.
fn answer(status: StatusCode, kind: HeaderValue, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;
    use uuid::Uuid;

    use super::*;
    use crate::{
        actor::{Actor, ActorOptions},
        engine::memory::MemoryEngine,
        watch::HubOptions,
    };

    fn server() -> (Ops, RegistryHandle, Actor<MemoryEngine>) {
        let metrics = Arc::<Metrics>::default();
        let hub = HubOptions { metrics: Arc::clone(&metrics), ..HubOptions::default() };
        let options = ActorOptions { hub, ..ActorOptions::default() };
        let (handle, actor) =
            RegistryHandle::new(MemoryEngine::default(), MemoryEngine::recovered(Uuid::nil(), 1), options);
        (Ops::new(metrics), handle, actor)
    }

    async fn ask(ops: &Ops, method: Method, path: &str, accept: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::builder().method(method).uri(path).header(ACCEPT, accept).body(Body::empty()).unwrap();
        let (head, body) = router(ops.clone()).oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn probe(ops: &Ops, path: &str) -> (u16, Vec<(String, bool)>) {
        let (status, headers, body) = ask(ops, Method::GET, path, "*/*").await;
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        let report: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(report["ok"], json!(status == StatusCode::OK), "{body}");
        let checks = report["checks"].as_array().unwrap().iter();
        let checks = checks.map(|check| (check["name"].as_str().unwrap().to_owned(), check["ok"] == json!(true)));
        (status.as_u16(), checks.collect())
    }

    fn all_ok() -> Vec<(String, bool)> {
        ["recovered", "serving", "store", "task"].map(|name| (name.to_owned(), true)).to_vec()
    }

    fn but(name: &str) -> Vec<(String, bool)> {
        all_ok().into_iter().map(|(check, _)| (check.clone(), check != name)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn probes_say_what_is_wrong_by_name() {
        let (ops, handle, actor) = server();
        // The store is still read: the process lives, and is not ready.
        assert_eq!(probe(&ops, "/healthz").await, (200, vec![("task".to_owned(), true)]));
        let (status, checks) = probe(&ops, "/readyz").await;
        assert_eq!((status, &checks[0]), (503, &("recovered".to_owned(), false)));
        // The task has no turn: time passes by itself here.
        ops.recovered(handle.clone());
        assert_eq!(probe(&ops, "/healthz").await, (503, vec![("task".to_owned(), false)]));
        assert_eq!(probe(&ops, "/readyz").await, (503, but("task")));
        let task = tokio::spawn(actor.run());
        assert_eq!(probe(&ops, "/healthz").await, (200, vec![("task".to_owned(), true)]));
        assert_eq!(probe(&ops, "/readyz").await, (200, all_ok()));
        handle.hub().set_away(Some("no space".into()));
        assert_eq!(probe(&ops, "/readyz").await, (503, but("store")));
        assert_eq!(probe(&ops, "/healthz").await.0, 200);
        handle.hub().set_away(None);
        handle.hub().close();
        assert_eq!(probe(&ops, "/readyz").await, (503, but("serving")));
        task.abort();
        assert!(task.await.is_err_and(|ended| ended.is_cancelled()));
        assert_eq!(probe(&ops, "/healthz").await, (503, vec![("task".to_owned(), false)]));
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_is_asked_for() {
        let (ops, handle, _actor) = server();
        ops.recovered(handle);
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, open_metrics) in [
            (prometheus, true),
            ("Application/OpenMetrics-Text; version=1.0.0 ; q=0.3", true),
            ("application/openmetrics-text;q=0, text/plain", false),
            ("*/*", false),
            ("text/html,application/xhtml+xml", false),
            ("", false),
        ] {
            let (status, headers, body) = ask(&ops, Method::GET, "/metrics", accept).await;
            let kind = headers[CONTENT_TYPE].to_str().unwrap();
            assert_eq!((status, kind.starts_with("application/openmetrics-text")), (StatusCode::OK, open_metrics));
            assert_eq!(body.ends_with("# EOF\n"), open_metrics, "{accept}");
            assert!(body.contains("\nonair_inbox_room{lane=\"beats\"} 32768\n"), "gauges are read: {body}");
        }
    }

    #[tokio::test]
    async fn other_methods_are_refused() {
        let (ops, handle, _actor) = server();
        ops.recovered(handle);
        let (status, headers, body) = ask(&ops, Method::POST, "/metrics", "*/*").await;
        let allowed = HeaderValue::from_static("GET, HEAD, OPTIONS");
        assert_eq!((status, &headers[ALLOW]), (StatusCode::METHOD_NOT_ALLOWED, &allowed));
        assert_eq!(headers[CONTENT_TYPE], problem::TYPE);
        assert!(body.contains("Method Not Allowed"), "{body}");
        let (status, headers, _) = ask(&ops, Method::OPTIONS, "/readyz", "*/*").await;
        assert_eq!((status, &headers[ALLOW]), (StatusCode::NO_CONTENT, &allowed));
        let (status, headers, body) = ask(&ops, Method::HEAD, "/metrics", "*/*").await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, ""));
        assert!(headers[CONTENT_TYPE].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    }
}
