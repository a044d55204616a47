//! `grpc.health.v1` over the registry: the server itself, our own services, and every registered service by name.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use super::{
    allowed::Allowed,
    status::{self, Reason},
};
use crate::{
    access::{Gate, Permission, Who},
    registry::{DEFAULT_NAMESPACE, Error, KNOWN_SECONDS, MAX_NAME_BYTES, Record, Scope},
    watch::{Hub, Listener, ONLY_PART, WatchPermit},
};

/// Names that speak of the server itself.
const OWN: [&str; 8] = [
    "",
    "onair.v1.Registry",
    "onair.v1.Deployments",
    "onair.v1.Catalog",
    "onair.v1.Admin",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The name that speaks of changes: reads, beats and watches go on while the store is away, so the server's own names
/// stay SERVING then, and this one does not.
pub const STORE: &str = "onair.v1.Registry.changes";

/// What the name of a frontend has before it.
const FRONTEND: &str = "frontend/";

/// What the name of a partition key has before it.
const KEY: &str = "key/";

/// The longest name: `namespace/frontend/name`.
const NAME_BYTES_MAX: usize = 2 * MAX_NAME_BYTES + 1 + FRONTEND.len();

/// The service.
#[derive(Clone, Debug)]
pub struct HealthService {
    hub: Arc<Hub>,
    gate: Gate,
}

/// What a health name stands for.
#[derive(Clone, Debug)]
enum Subject {
    /// The server.
    Own,
    /// Whether changes can be committed.
    Store,
    /// A registered service.
    Service { namespace: String, service: String },
    /// What is behind a frontend.
    Frontend { namespace: String, name: String },
    /// All services of a partition key.
    Key { namespace: String, key: String },
}

impl HealthService {
    /// Health of what `hub` publishes.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, gate: Gate::open() }
    }

    /// For those whom the gate let in.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }
}

fn subject(name: &str) -> Subject {
    if OWN.contains(&name) {
        return Subject::Own;
    }
    if name == STORE {
        return Subject::Store;
    }
    if let Some(name) = name.strip_prefix(FRONTEND) {
        return Subject::Frontend { namespace: DEFAULT_NAMESPACE.to_owned(), name: name.to_owned() };
    }
    if let Some(key) = name.strip_prefix(KEY) {
        return Subject::Key { namespace: DEFAULT_NAMESPACE.to_owned(), key: key.to_owned() };
    }
    let (namespace, service) = name.split_once('/').unwrap_or((DEFAULT_NAMESPACE, name));
    if let Some(key) = service.strip_prefix(KEY) {
        return Subject::Key { namespace: namespace.to_owned(), key: key.to_owned() };
    }
    if let Some(name) = service.strip_prefix(FRONTEND) {
        return Subject::Frontend { namespace: namespace.to_owned(), name: name.to_owned() };
    }
    Subject::Service { namespace: namespace.to_owned(), service: service.to_owned() }
}

impl Subject {
    /// None: never seen.
    fn status(&self, hub: &Hub) -> Option<ServingStatus> {
        let serving = |yes| if yes { ServingStatus::Serving } else { ServingStatus::NotServing };
        match self {
            Self::Own => Some(serving(!hub.is_leaving())),
            Self::Store => Some(serving(!hub.is_leaving() && hub.away().is_none())),
            Self::Service { namespace, service } => {
                let registry = hub.registry();
                registry.service(namespace, service).map(|set| serving(set.routable() > 0))
            }
            Self::Frontend { namespace, name } => {
                let registry = hub.registry();
                let frontend = Arc::clone(registry.deployments().frontend(namespace, name)?);
                let sets: Vec<_> = frontend
                    .live()
                    .filter_map(|split| registry.service(namespace, &split.service).cloned())
                    .filter(|set| set.routable() > 0)
                    .collect();
                drop(registry);
                let behind = |record: &Record| record.is_routable() && frontend.covers(record);
                Some(serving(sets.iter().any(|set| set.iter().any(behind))))
            }
            Self::Key { namespace, key } => {
                hub.registry().namespaces().get(namespace.as_str())?.key(key)?.is_up(unix_seconds()).map(serving)
            }
        }
    }

    /// Refuses who may not read it. How the server itself is, everybody may know.
    fn shown_to(&self, who: &Who) -> Result<(), Error> {
        match self {
            Self::Own | Self::Store => Ok(()),
            Self::Service { namespace, service: name } | Self::Frontend { namespace, name } => {
                who.need(Permission::Read, namespace, name)
            }
            // It tells of whatever has the key.
            Self::Key { namespace, .. } => who.need_all(Permission::Read, namespace),
        }
    }

    /// The namespace that it is of; none: it is of the server.
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Own | Self::Store => None,
            Self::Service { namespace, .. } | Self::Frontend { namespace, .. } | Self::Key { namespace, .. } => {
                Some(namespace)
            }
        }
    }

    /// Where its changes are; the server's own come with the end of everything.
    fn scope(&self) -> Scope {
        match self {
            Self::Own | Self::Store => Hub::own_scope(),
            Self::Service { namespace, service } => Scope::Service(namespace.into(), service.into()),
            Self::Frontend { namespace, name } => Scope::Frontend(namespace.into(), name.into()),
            Self::Key { namespace, key } => Scope::Key(namespace.into(), key.into()),
        }
    }

    /// When it may stand otherwise though nothing is committed.
    fn next(&self, hub: &Hub) -> Option<Instant> {
        let Self::Key { namespace, key } = self else { return None };
        let until = hub.registry().namespaces().get(namespace.as_str())?.key(key)?.known_until()?;
        let left = until.checked_sub(unix_seconds()).filter(|left| *left > 0)?;
        Some(Instant::now() + Duration::from_secs(left.min(KNOWN_SECONDS)))
    }
}

/// The wall clock, which measures the day that something stays known.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let who = self.gate.who(request.extensions())?;
        let subject = subject(&request.into_inner().service);
        subject.shown_to(&who)?;
        match subject.status(&self.hub) {
            Some(status) => Ok(Response::new(HealthCheckResponse { status: status.into() })),
            None => Err(status::plain(Reason::NotFound, "no service of that name is known")),
        }
    }

    type WatchStream = Allowed<HealthWatch>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let who = self.gate.who(request.extensions())?;
        let name = request.into_inner().service;
        if name.len() > NAME_BYTES_MAX {
            // It can never be known, and the watch would keep it.
            return Err(Error::invalid("service", format!("must be at most {NAME_BYTES_MAX} bytes")).into());
        }
        let subject = subject(&name);
        subject.shown_to(&who)?;
        let permit = self.hub.permit(&who.allowed(), subject.namespace())?;
        let listener = Listener::new();
        let listening = self.hub.log().listen(&[subject.scope()], &listener, ONLY_PART);
        let hub = Arc::clone(&self.hub);
        let shown = subject.clone();
        let watch = HealthWatch { hub, subject, listener, listening, timer: None, last: None, _permit: permit };
        Ok(Response::new(Allowed::new(watch, &self.gate, &who, move |who| shown.shown_to(who))))
    }
}

/// One health watch: a message at once, then one with each change.
#[derive(Debug)]
pub struct HealthWatch {
    hub: Arc<Hub>,
    subject: Subject,
    listener: Arc<Listener>,
    listening: u64,
    /// Until the day of a partition is over.
    timer: Option<Pin<Box<Sleep>>>,
    last: Option<ServingStatus>,
    _permit: WatchPermit,
}

impl Stream for HealthWatch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let woken = self.listener.poll_woken(context);
            let closing = self.hub.is_closing();
            let now = match self.subject.status(&self.hub) {
                _ if closing => ServingStatus::NotServing,
                Some(status) => status,
                // The protocol's word for a name that may come to be known.
                None => ServingStatus::ServiceUnknown,
            };
            if self.last != Some(now) {
                self.last = Some(now);
                return Poll::Ready(Some(Ok(HealthCheckResponse { status: now.into() })));
            }
            if closing {
                return Poll::Ready(Some(Err(status::shutting_down())));
            }
            if woken {
                continue;
            }
            self.timer = self.subject.next(&self.hub).map(|at| Box::pin(sleep_until(at)));
            if self.timer.as_mut().is_none_or(|timer| timer.as_mut().poll(context).is_pending()) {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        self.hub.log().ignore(&[self.subject.scope()], self.listening);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tokio::time::timeout;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::{
        actor::{ActorOptions, RegistryHandle},
        engine::hostile::{HostileEngine, Manners},
        registry::{Cause, Change, Delete, Instance, Key, Lease, Put, SecretHash, Stamp},
    };

    fn put() -> Change {
        keyed("web", "1", "")
    }

    fn keyed(service: &str, id: &str, key: &str) -> Change {
        let (namespace, partition_key) = ("default".to_owned(), key.to_owned());
        let status = crate::registry::Status::Serving.into();
        let (service, id) = (service.to_owned(), id.to_owned());
        let instance = Instance { namespace, service, id, status, partition_key, ..Instance::default() };
        let lease = Lease { ttl: 60_000, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let (incarnation, revision) = (Stamp::Commit, Stamp::Commit);
        Change::Put(Put { description: instance.encode_to_vec().into(), lease, incarnation, ordinal: 0, revision })
    }

    fn delete(service: &str, id: &str, at: u64) -> Change {
        Change::Delete(Delete { key: Key::new("default", service, id), cause: Cause::Operator, at })
    }

    async fn said(watch: &mut Allowed<HealthWatch>) -> ServingStatus {
        let said = timeout(Duration::from_secs(30), watch.next()).await.expect("it is said");
        said.expect("it goes on").expect("no error").status()
    }

    /// What a watch says follows what is committed, also where that is no event.
    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_forgotten_is_unknown_at_once() {
        let (engine, hostile, recovered) = HostileEngine::new(1, Manners::default());
        let (handle, actor) = RegistryHandle::new(engine, recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        let health = HealthService::new(Arc::clone(handle.hub()));
        let request = Request::new(HealthCheckRequest { service: "web".into() });
        let mut watch = health.watch(request).await.expect("there is room").into_inner();
        let forget = Change::Forget { namespace: "default".into(), service: "web".into() };
        for (change, status) in [
            (None, ServingStatus::ServiceUnknown),
            (Some(put()), ServingStatus::Serving),
            (Some(delete("web", "1", 0)), ServingStatus::NotServing),
            (Some(forget), ServingStatus::ServiceUnknown),
        ] {
            hostile.foreign(change.into_iter().collect());
            assert_eq!(said(&mut watch).await, status);
        }
    }
    /// That the server stops is said before anything ends.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_will_stop_says_so_first() {
        let (engine, _hostile, recovered) = HostileEngine::new(1, Manners::default());
        let (handle, actor) = RegistryHandle::new(engine, recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        let health = HealthService::new(Arc::clone(handle.hub()));
        let mut watch =
            health.watch(Request::new(HealthCheckRequest::default())).await.expect("there is room").into_inner();
        assert_eq!(said(&mut watch).await, ServingStatus::Serving);
        handle.hub().leave();
        assert_eq!(said(&mut watch).await, ServingStatus::NotServing);
        assert!(handle.hub().permit(&crate::actor::anyone(), None).is_ok(), "streams go on");
        handle.hub().close();
        let end = watch.next().await.expect("an end").expect_err("it is the end");
        assert_eq!(end.code(), tonic::Code::Unavailable);
    }

    /// A watch of a key sleeps while nothing becomes of the key, whatever happens beside it, and hears that a day is over.
    #[tokio::test]
    async fn a_key_is_heard_of_when_it_stands_otherwise() {
        let (engine, hostile, recovered) = HostileEngine::new(1, Manners::default());
        let (handle, actor) = RegistryHandle::new(engine, recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        let health = HealthService::new(Arc::clone(handle.hub()));
        let request = Request::new(HealthCheckRequest { service: "key/main".into() });
        let mut watch = health.watch(request).await.expect("there is room").into_inner();
        assert_eq!(said(&mut watch).await, ServingStatus::ServiceUnknown);
        hostile.foreign(vec![keyed("users", "1", "main")]);
        assert_eq!(said(&mut watch).await, ServingStatus::Serving);
        // Nothing of it is said, since nothing of it changes how the key stands; the last one tells that it is over.
        let mut everything =
            crate::watch::WatchStream::start(handle.hub(), Default::default(), "", &crate::actor::anyone())
                .expect("a watch");
        let quiet = [
            vec![keyed("users", "2", "main"), keyed("web", "1", "")],
            vec![keyed("orders", "1", "other"), delete("users", "2", 0)],
        ];
        let last = quiet.map(|changes| hostile.foreign(changes))[1];
        while handle.hub().log().bounds().0 < last {
            everything.next().await.expect("it goes on");
        }
        assert!(!watch.inner().listener.poll_woken(&Context::from_waker(std::task::Waker::noop())));
        let almost_a_day_ago = || unix_seconds() - KNOWN_SECONDS + 2;
        hostile.foreign(vec![keyed("orders", "2", "main")]);
        hostile.foreign(vec![delete("orders", "2", almost_a_day_ago())]);
        assert_eq!(said(&mut watch).await, ServingStatus::NotServing, "one of two services is gone");
        assert_eq!(said(&mut watch).await, ServingStatus::Serving, "which is known no longer");
        hostile.foreign(vec![delete("users", "1", almost_a_day_ago())]);
        assert_eq!(said(&mut watch).await, ServingStatus::NotServing);
        assert_eq!(said(&mut watch).await, ServingStatus::ServiceUnknown);
    }
}
