//! A channel of gRPC that follows a service: each call goes to the less busy of two of its instances, which are drawn by their
//! weights, and waits while there is none.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service as Called,
        http::{HeaderMap, Request, Response, Uri},
    },
    transport::Channel,
};
use tower::ServiceExt as _;

use super::{
    connection::Host,
    dial::{CONNECT_TIMEOUT, Dialler},
    known::{Instances, Pick, weight},
    service::Service,
};
use crate::{
    proto::Instance,
    tls::{ClientFiles, ClientTls},
};

/// One that a call has failed to reach is passed over for so long, if there are others.
const SHUN: Duration = Duration::from_secs(1);

/// A channel of gRPC to the instances of a service, wherever they are; every stub can be made of it. Clones share their
/// connections.
///
/// Each call goes to the less busy of two instances of the best rank ([`Pick`] says which those are), drawn by their
/// weights. While there is none it waits, as long as its deadline is, or until the registry refuses to say who there is. One
/// that dies without a word is called until its lease ends: a call that does not reach it fails, and then it is tried once a
/// second while there are others. While the registry is away those are called that were known last.
///
/// One whose protocol is `https` or `grpcs`, or whose url begins with `https`, is called by TLS: believed are the authorities
/// by which the registry is believed, and nothing is shown to it. One that has no address of gRPC's is passed over.
#[derive(Clone, Debug)]
pub struct Balanced {
    service: Service,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ends: Mutex<Ends>,
    files: ClientFiles,
    tls: OnceLock<Result<ClientTls, String>>,
}

/// Those that can be called, of one moment.
#[derive(Debug, Default)]
struct Ends {
    of: Arc<Instances>,
    /// As the best of them.
    best: Vec<Option<Arc<End>>>,
}

/// One instance, and the connection to it.
#[derive(Debug)]
struct End {
    channel: Result<Channel, String>,
    weight: u64,
    calls: AtomicUsize,
    failed: Mutex<Option<Instant>>,
}

impl Balanced {
    pub(super) fn over(service: Service, files: Option<ClientFiles>) -> Self {
        let files = ClientFiles { ca: files.and_then(|files| files.ca), pair: None };
        let shared = Shared { ends: Mutex::default(), files, tls: OnceLock::new() };
        Self { service, shared: Arc::new(shared) }
    }

    /// The service that it follows.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Waits for one to call.
    async fn end(&self) -> Result<Arc<End>, Status> {
        let mut service = self.service.clone();
        loop {
            if let Some(end) = self.choose() {
                return Ok(end);
            }
            let over = |failed| Status::failed_precondition(format!("there is nobody to call: {failed}"));
            service.changed().await.map_err(over)?;
        }
    }

    fn choose(&self) -> Option<Arc<End>> {
        let now = self.service.instances();
        let mut ends = self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&ends.of, &now) {
            *ends = self.shared.follow(&ends, now);
        }
        let drawn = || {
            let place = ends.of.place(Pick::Weighted, 0, self.service.random())?;
            ends.best.get(place)?.as_ref().filter(|end| !end.is_shunned())
        };
        let less_busy = |a: &End, b: &End| a.busy() * b.weight <= b.busy() * a.weight;
        match (drawn(), drawn()) {
            (Some(a), Some(b)) => Some(if less_busy(a, b) { a } else { b }),
            (Some(one), None) | (None, Some(one)) => Some(one),
            // Bad luck, or nobody is well: the first who is, else whoever there is.
            (None, None) => {
                let well = ends.best.iter().flatten().find(|end| !end.is_shunned());
                well.or_else(|| {
                    let place = self.service.random() as usize % ends.best.len().max(1);
                    ends.best.iter().cycle().skip(place).take(ends.best.len()).flatten().next()
                })
            }
        }
        .cloned()
    }
}

impl Shared {
    /// Keeps the connections to those that are still there.
    fn follow(&self, ends: &Ends, now: Arc<Instances>) -> Ends {
        let mut there: BTreeMap<Host, &Arc<End>> = BTreeMap::new();
        for (instance, end) in ends.of.best().iter().zip(&ends.best) {
            there.extend(address(instance).zip(end.as_ref()));
        }
        let end = |instance: &Arc<Instance>| {
            let host = address(instance)?;
            let weight = u64::from(weight(instance));
            let before = there.get(&host).filter(|end| end.weight == weight);
            Some(before.map_or_else(|| Arc::new(self.dial(host, weight)), |end| Arc::clone(end)))
        };
        let best = now.best().iter().map(end).collect();
        Ends { of: now, best }
    }

    fn dial(&self, host: Host, weight: u64) -> End {
        let tls = host.tls.then(|| self.tls.get_or_init(|| self.load()).clone()).transpose();
        let limit = CONNECT_TIMEOUT;
        let channel = tls.and_then(|tls| Dialler { host, tls, limit }.lazy().map_err(|cause| cause.sentence()));
        End { channel, weight, calls: AtomicUsize::new(0), failed: Mutex::default() }
    }

    fn load(&self) -> Result<ClientTls, String> {
        let all = |wrong: Vec<_>| wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        self.files.load("h2").map_err(all)
    }
}

impl End {
    fn busy(&self) -> u64 {
        self.calls.load(Ordering::Relaxed) as u64
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether others are called rather than it: it failed just now, or cannot be called at all.
    fn is_shunned(&self) -> bool {
        self.channel.is_err() || self.failed().is_some_and(|at| at.elapsed() < SHUN)
    }

    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Error> {
        let channel = self.channel.clone().map_err(Status::unavailable)?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(self);
        let answer = channel.oneshot(request).await;
        *under_way.0.failed() = answer.is_err().then(Instant::now);
        Ok(answer?)
    }
}

/// A call that is counted.
struct UnderWay(Arc<End>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Called<Request<Body>> for Balanced {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let balanced = self.clone();
        Box::pin(async move {
            let end = match deadline(request.headers()) {
                None => balanced.end().await,
                Some(limit) => timeout(limit, balanced.end()).await.unwrap_or_else(|_| {
                    let failed = balanced.service.failing().map_or_else(String::new, |failed| format!(": {failed}"));
                    Err(Status::deadline_exceeded(format!("there was nobody to call{failed}")))
                }),
            };
            end?.call(request).await
        })
    }
}

/// How long a call may take, as gRPC says it: at most eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3_600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Where gRPC reaches it: its host and port, else what its url says.
fn address(instance: &Instance) -> Option<Host> {
    let is_tls = |protocol: &str| matches!(protocol.to_ascii_lowercase().as_str(), "https" | "grpcs");
    let url = instance.url.parse::<Uri>().ok();
    let tls = is_tls(&instance.protocol) || url.as_ref().and_then(Uri::scheme_str).is_some_and(is_tls);
    let (name, port) = match u16::try_from(instance.port) {
        Ok(port @ 1..) => (instance.host.clone(), port),
        _ => {
            let url = url.filter(|url| url.scheme().is_some())?;
            (url.host()?.to_owned(), url.port_u16().unwrap_or(if tls { 443 } else { 80 }))
        }
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    (!name.is_empty()).then_some(Host { name, port, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_where_grpc_is_spoken() {
        for (host, port, protocol, url, expected) in [
            ("h", 80, "http", "http://h:80", "http://h:80"),
            ("::1", 80, "", "", "http://[::1]:80"),
            ("[::1]", 443, "https", "", "https://[::1]:443"),
            ("h", 9, "GRPCS", "grpcs://h:9", "https://h:9"),
            ("", 0, "", "https://h.example/path", "https://h.example:443"),
            ("", 0, "", "http://[::1]:7/path", "http://[::1]:7"),
        ] {
            let [host, protocol, url] = [host, protocol, url].map(str::to_owned);
            let instance = Instance { host, port, protocol, url, ..Instance::default() };
            assert_eq!(address(&instance).unwrap().to_string(), expected);
        }
        for url in ["", "nonsense", "mailto:x"] {
            assert_eq!(address(&Instance { url: url.to_owned(), ..Instance::default() }), None, "{url}");
        }
    }

    /// It is never busy: it would be drawn before all who are.
    #[test]
    fn who_can_never_be_called_is_called_only_when_nobody_else_is_there() {
        let channel = Err("the authority cannot be read".to_owned());
        let end = End { channel, weight: 1, calls: AtomicUsize::new(0), failed: Mutex::default() };
        assert!(end.is_shunned());
    }

    #[test]
    fn deadlines_are_read() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("1M", Some(Duration::from_secs(60))),
            ("", None),
            ("S", None),
            ("5x", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(deadline(&headers), expected, "{text}");
        }
    }
}
