//! A channel of gRPC that follows a service: each call goes to the less busy of two of its instances, which are drawn by their
//! weights, and waits while there is none.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, HashMap},
    iter,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout};
use tonic::{
    Status, TimeoutExpired,
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
    means::Tls,
    service::Service,
};
use crate::{proto::Instance, tls::ClientFiles};

/// One that a call has failed to reach is passed over for so long, if there are others.
const SHUN: Duration = Duration::from_secs(1);
/// How long a call may take, beside it.
const TIMEOUT: &str = "grpc-timeout";

/// A channel of gRPC to the instances of a service, wherever they are; every stub can be made of it. Clones share their
/// connections.
///
/// Each call goes to the less busy of two instances of the best rank ([`Pick`] says which those are), drawn by their
/// weights. While there is none it waits, as long as its deadline is, or until the registry refuses to say who there is. One
/// that dies without a word is called until its lease ends: a call that does not reach it fails, and then it is tried once a
/// second while there are others. One whose call takes too long is passed over if it has answered nobody else meanwhile. While
/// the registry is away those are called that were known last.
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
    tls: Arc<Tls>,
}

/// Those that can be called, of one moment.
#[derive(Debug, Default)]
struct Ends {
    of: Arc<Instances>,
    /// As the best of them.
    best: Vec<Option<Weighed>>,
}

/// One that can be called, and how large its share is.
#[derive(Clone, Debug)]
struct Weighed {
    end: Arc<End>,
    weight: u64,
}

/// One address, and the connection to it.
#[derive(Debug)]
struct End {
    host: Host,
    channel: Result<Channel, String>,
    /// Those whose answer is not read to its end.
    calls: AtomicUsize,
    heard: Mutex<Heard>,
}

/// What came of the calls of one.
#[derive(Debug, Default)]
struct Heard {
    answered: Option<Instant>,
    failed: Option<Instant>,
}

impl Heard {
    /// A call that began then was answered, or is over without an answer: because its own time was, or because it broke.
    fn take(&mut self, began: Instant, answer: Result<(), &Error>) {
        match answer {
            Ok(()) => *self = Self { answered: Some(Instant::now()), failed: None },
            // What was called takes long, and others are answered.
            Err(error) if is_of_time(error) && self.answered.is_some_and(|at| at >= began) => {}
            Err(_) => self.failed = Some(Instant::now()),
        }
    }
}

fn is_of_time(error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error.as_ref();
    let mut chain = iter::successors(Some(first), |error| error.source());
    chain.any(<dyn std::error::Error>::is::<TimeoutExpired>)
}

impl Balanced {
    pub(super) fn over(service: Service, files: Option<ClientFiles>) -> Self {
        let files = ClientFiles { ca: files.and_then(|files| files.ca), pair: None };
        let shared = Shared { ends: Mutex::default(), tls: Arc::new(Tls::new(files)) };
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

    /// The one to call. Who had to wait for it has what is left of its time.
    async fn end_of(&self, request: &mut Request<Body>) -> Result<Arc<End>, Status> {
        if let Some(end) = self.choose() {
            return Ok(end);
        }
        let Some(limit) = deadline(request.headers()) else { return self.end().await };
        let began = Instant::now();
        let end = timeout(limit, self.end()).await.unwrap_or_else(|_| {
            let failed = self.service.failing().map_or_else(String::new, |failed| format!(": {failed}"));
            Err(Status::deadline_exceeded(format!("there was nobody to call{failed}")))
        })?;
        grant(request.headers_mut(), limit.saturating_sub(began.elapsed()));
        Ok(end)
    }

    fn choose(&self) -> Option<Arc<End>> {
        let now = self.service.instances();
        let mut ends = self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&ends.of, &now) {
            *ends = self.shared.follow(&ends, now);
        }
        ends.choose(|| self.service.random()).map(|one| Arc::clone(&one.end))
    }
}

impl Ends {
    fn choose(&self, random: impl Fn() -> u64) -> Option<&Weighed> {
        let drawn = || {
            let place = self.of.place(Pick::Weighted, 0, random())?;
            self.best.get(place)?.as_ref().filter(|one| !one.end.is_shunned())
        };
        let less_busy = |a: &Weighed, b: &Weighed| a.end.busy() * b.weight <= b.end.busy() * a.weight;
        match (drawn(), drawn()) {
            (Some(a), Some(b)) => Some(if less_busy(a, b) { a } else { b }),
            (Some(one), None) | (None, Some(one)) => Some(one),
            // Bad luck, or nobody is well: any who is, else whoever there is.
            (None, None) => self
                .any(random(), |end| !end.is_shunned())
                .or_else(|| self.any(random(), |end| end.channel.is_ok()))
                .or_else(|| self.any(random(), |_| true)),
        }
    }

    /// One of those who are fit, each as likely as any other.
    fn any(&self, random: u64, is_fit: fn(&End) -> bool) -> Option<&Weighed> {
        let fit = || self.best.iter().flatten().filter(|one| is_fit(&one.end));
        let count = fit().count().max(1);
        fit().nth(random as usize % count)
    }
}

impl Shared {
    /// Keeps the connections to those that are still there.
    fn follow(&self, ends: &Ends, now: Arc<Instances>) -> Ends {
        let same: HashMap<_, _> = ends.of.best().iter().map(Arc::as_ptr).zip(&ends.best).collect();
        let there: LazyCell<BTreeMap<_, _>, _> =
            LazyCell::new(|| ends.best.iter().flatten().map(|one| (&one.end.host, &one.end)).collect());
        let one = |instance: &Arc<Instance>| {
            if let Some(same) = same.get(&Arc::as_ptr(instance)) {
                return (*same).clone();
            }
            let host = address(instance)?;
            let before = there.get(&host).map(|end| Arc::clone(end));
            let end = before.unwrap_or_else(|| Arc::new(self.dial(host)));
            Some(Weighed { end, weight: u64::from(weight(instance)) })
        };
        let best = now.best().iter().map(one).collect();
        Ends { of: now, best }
    }

    fn dial(&self, host: Host) -> End {
        let tls = host.tls.then(|| Arc::clone(&self.tls));
        let dialler = Dialler { host: host.clone(), tls, limit: CONNECT_TIMEOUT };
        End::new(host, dialler.lazy().map_err(|cause| cause.sentence()))
    }
}

impl End {
    fn new(host: Host, channel: Result<Channel, String>) -> Self {
        Self { host, channel, calls: AtomicUsize::new(0), heard: Mutex::default() }
    }

    fn busy(&self) -> u64 {
        self.calls.load(Ordering::Relaxed) as u64
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether others are called rather than it: it failed just now, or cannot be called at all.
    fn is_shunned(&self) -> bool {
        self.channel.is_err() || self.heard().failed.is_some_and(|at| at.elapsed() < SHUN)
    }

    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Error> {
        let channel = self.channel.clone().map_err(Status::unavailable)?;
        let under_way = UnderWay::new(self);
        let began = Instant::now();
        // The channel itself counts from when there is a connection.
        let limit = deadline(request.headers()).unwrap_or(Duration::MAX);
        let answer = timeout(limit, channel.oneshot(request)).await;
        let answer = answer.map_or_else(|_| Err(TimeoutExpired(()).into()), |answer| answer.map_err(Error::from));
        under_way.0.heard().take(began, answer.as_ref().map(|_| ()));
        // It is under way until the last of its answer is read, or nobody reads it any more.
        Ok(answer?.map(|body| Body::new(body.map_frame(move |frame| under_way.passes(frame)))))
    }
}

/// A call that is counted.
struct UnderWay(Arc<End>);

impl UnderWay {
    fn new(end: Arc<End>) -> Self {
        end.calls.fetch_add(1, Ordering::Relaxed);
        Self(end)
    }

    fn passes<T>(&self, frame: T) -> T {
        frame
    }
}

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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let balanced = self.clone();
        Box::pin(async move { balanced.end_of(&mut request).await?.call(request).await })
    }
}

/// Gives a call so long.
fn grant(headers: &mut HeaderMap, left: Duration) {
    let mut request = tonic::Request::new(());
    request.set_timeout(left);
    if let Some(said) = request.metadata_mut().as_mut().remove(TIMEOUT) {
        headers.insert(TIMEOUT, said);
    }
}

/// How long a call may take, as gRPC says it: at most eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
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
    use crate::{
        client::{Change, known::Known},
        proto::{Event, EventType, Status::Serving},
    };

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

    fn of(weights: &[(&str, u32)]) -> Arc<Instances> {
        let mut known = Known::new(String::new());
        let event = |(id, weight): &(&str, u32)| {
            let weight = Some(*weight);
            let instance = Instance { id: (*id).into(), host: (*id).into(), port: 1, weight, ..Instance::default() };
            let instance = Some(Instance { status: Serving.into(), ..instance });
            Event { r#type: EventType::Online.into(), instance, ..Event::default() }
        };
        known.take(Change { events: weights.iter().map(event).collect(), ..Change::default() }, Instant::now());
        Arc::new(known.instances())
    }

    fn shared() -> Shared {
        Shared { ends: Mutex::default(), tls: Arc::new(Tls::new(ClientFiles::default())) }
    }

    fn drawn(ends: &Ends) -> BTreeMap<&str, u32> {
        let (mut drawn, turn) = (BTreeMap::new(), AtomicUsize::new(0));
        for _ in 0..6_000 {
            // As even as a sequence can be (of the golden ratio), so that nothing here is left to chance.
            let random = || (turn.fetch_add(1, Ordering::Relaxed) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *drawn.entry(ends.choose(random).unwrap().end.host.name.as_str()).or_default() += 1;
        }
        drawn
    }

    /// It is never busy: it would be drawn before all who are. And who is shunned leaves its calls to all others alike.
    #[tokio::test]
    async fn who_cannot_be_called_leaves_the_calls_to_all_others() {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut ends = shared().follow(&Ends::default(), of(&names.map(|name| (name, 1))));
        for at in 0..3 {
            let host = Host { name: "gone".into(), port: 1, tls: false };
            let gone = Arc::new(End::new(host, Err("the authority cannot be read".to_owned())));
            ends.best[at].as_mut().unwrap().end = gone;
        }
        let even = drawn(&ends);
        assert!(even.len() == 3 && even.values().all(|count| (1_400..2_600).contains(count)), "{even:?}");
        // None of those who can be called is well: they are called all the same.
        for one in ends.best.iter().flatten() {
            one.end.heard().failed = Some(Instant::now());
        }
        assert!(!drawn(&ends).contains_key("gone"));
    }

    #[tokio::test]
    async fn a_change_of_weight_keeps_the_connection_and_what_is_known_of_it() {
        let shared = shared();
        let before = shared.follow(&Ends::default(), of(&[("a", 1), ("b", 1)]));
        let after = shared.follow(&before, of(&[("a", 1), ("b", 9), ("c", 1)]));
        let [a, b, c] = &after.best[..] else { panic!("{after:?}") };
        for (now, then) in [a, b].into_iter().zip(&before.best) {
            assert!(Arc::ptr_eq(&now.as_ref().unwrap().end, &then.as_ref().unwrap().end));
        }
        assert_eq!([a, b, c].map(|one| one.as_ref().unwrap().weight), [1, 9, 1]);
    }

    /// Silent, and not slow alone.
    #[tokio::test]
    async fn who_answers_others_is_not_shunned_for_a_call_that_takes_too_long() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Host { name: "127.0.0.1".into(), port: silent.local_addr().unwrap().port(), tls: false };
        let end = Arc::new(shared().dial(host));
        let call = async |millis: u64| {
            let mut request = Request::new(Body::empty());
            grant(request.headers_mut(), Duration::from_millis(millis));
            assert!(Arc::clone(&end).call(request).await.is_err());
        };
        call(20).await;
        assert!(end.is_shunned() && end.busy() == 0);
        // Another one is answered meanwhile.
        let answered = async { end.heard().take(Instant::now(), Ok(())) };
        tokio::join!(call(20), answered);
        assert!(!end.is_shunned());
        call(20).await;
        assert!(end.is_shunned(), "nobody was answered since");
    }

    #[test]
    fn who_waited_has_what_is_left() {
        for left in [0, 100, 4_900] {
            let left = Duration::from_millis(left);
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, "5S".parse().unwrap());
            grant(&mut headers, left);
            assert_eq!((deadline(&headers), headers.len()), (Some(left), 1));
        }
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
            headers.insert(TIMEOUT, text.parse().unwrap());
            assert_eq!(deadline(&headers), expected, "{text}");
        }
    }
}
