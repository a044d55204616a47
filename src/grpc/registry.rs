//! `onair.v1.Registry`: each call is read, handed to the registry, and answered.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    beats::{HeartbeatRequest, HeartbeatResponse},
    catalog::{FILTER_MAX, IMPORTS_MAX, LIST_BYTES_MAX, REPLY_BYTES_MAX, START_MAX},
    convert, deadline, drain,
    handed::{Elsewhere, Opening, Replies},
    heartbeats::{BeatStream, Sender},
    raw,
    server::registry_server::Registry,
    status,
    subscribe::SubscribeReplies,
};
use crate::{
    access::{Gate, Permission, Tenure, Wanted, Who, token},
    actor::{ListQuery, RegistryHandle, Reply, WAITING_MAX, WAITING_NEEDS_MAX},
    framed::Framed,
    metrics::Metrics,
    proto::{
        Breaker, Counts, DeregisterRequest, DeregisterResponse, DrainRequest, DrainResponse, GetInstanceRequest,
        GetServerInfoRequest, GetServerInfoResponse, Intervals, Lease, Limits, ListServicesRequest,
        ListServicesResponse, LookupRequest, PublishRequest, PublishResponse, RegisterRequest, RegisterResponse,
        ResolveRequest, ResolveResponse, ServiceSummary, SubscribeRequest, SubscribeResponse, WatchRequest,
        WatchResponse,
    },
    registry::{
        Error, LeaseTtl, MAX_BACKENDS, MAX_DEPENDENCIES, MAX_FRONTENDS, MAX_HISTORY, MAX_NAME_BYTES,
        MAX_PUBLISHED_BYTES, MAX_SELECTOR_BYTES, MAX_SPLITS, MAX_TOKENS, METADATA_BYTES_MAX, METADATA_DEPTH_MAX,
        Record,
        catalog::{self, MAX_APPLICATIONS, MAX_CATALOG_VERSION_BYTES, MAX_CATALOG_VERSIONS, MAX_SERVICE_TYPES},
    },
    watch::{DRAIN_ASKS_MAX, Ending, RATE_MAX, RATE_TOTAL_MAX, WatchItem, WatchStream},
};

/// What the service has to know of the server around it.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Every limit, as advertised.
    pub limits: Limits,
    /// The least first deadline of a recovered lease.
    pub restart_grace: Duration,
    /// Whether changes survive the process.
    pub durable: bool,
    /// This server's addresses.
    pub members: Vec<String>,
}

/// A quiet watch says something at least this often; the server does so a little earlier.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(15);

/// The service.
#[derive(Clone, Debug)]
pub struct RegistryService {
    handle: RegistryHandle,
    gate: Gate,
    options: std::sync::Arc<ServiceOptions>,
}

impl RegistryService {
    /// The service over `handle`.
    #[must_use]
    pub fn new(handle: RegistryHandle, options: ServiceOptions) -> Self {
        Self { handle, gate: Gate::open(), options: std::sync::Arc::new(options) }
    }

    /// For those whom the gate let in.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    fn who<T>(&self, request: &Request<T>) -> Result<Who, Error> {
        self.gate.who(request.extensions())
    }

    fn max_beats(&self) -> usize {
        self.options.limits.max_beats as usize
    }

    /// `Heartbeat`, without the box that the generated trait puts around it.
    pub(super) async fn beaten(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let (sender, message) = Sender::of(&self.gate, request);
        let beats = convert::beats(&message, self.max_beats())?;
        drop(message);
        Ok(Response::new(sender.told(self.handle.beat(beats).await?).into()))
    }

    /// `Lookup`, as well.
    pub(super) async fn looked_up(
        &self,
        request: Request<LookupRequest>,
    ) -> Result<Response<raw::LookupResponse>, Status> {
        let who = self.who(&request)?;
        if let Some((namespace, service)) = convert::plain_lookup(request.get_ref())
            && who.may(Permission::Read, namespace, service)
            && let Some((instances, next_page_token, revision)) = self.handle.lookup_service(namespace, service)
        {
            return Ok(Response::new(convert::plain_response(instances, &next_page_token, revision)));
        }
        let deadline = deadline::of(&request);
        let mut query = convert::lookup(request.into_inner(), deadline)?;
        query.filters = who.reads(query.filters)?;
        let found = self.handle.lookup(query).await?;
        Ok(Response::new(convert::lookup_response(&found)))
    }
}

fn registered(reply: Reply) -> Result<RegisterResponse, Status> {
    match reply {
        Reply::Registered { record, token, dependencies, revision } => Ok(RegisterResponse {
            lease: Some(lease(&record, token.encode())),
            instance: Some(record.instance()),
            dependencies: dependencies.into_iter().map(|(name, url)| (name.into(), url.into())).collect(),
            revision,
        }),
        Reply::Removed { .. } | Reply::Deployed { .. } | Reply::Kept { .. } | Reply::Drained { .. } => {
            Err(status::plain(status::Reason::Internal, "a registration was answered as something else"))
        }
    }
}

fn lease(record: &Record, token: String) -> Lease {
    let ttl = record.lease.ttl;
    Lease { token, ttl: Some(convert::millis(ttl)), heartbeat_interval: Some(convert::millis(ttl / 3)) }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let (deadline, peer) = (deadline::of(&request), convert::peer(&request));
        let who = self.who(&request)?;
        let (registration, token) = convert::registration(request.into_inner(), peer)?;
        let (namespace, service) = (&registration.instance.namespace, &registration.instance.service);
        who.need(Permission::Register, namespace, service)?;
        who.needs(&registration.needs)?;
        let principal = who.principal(namespace, service, registration.exclusive_url);
        let reply = self.handle.register(registration, token, principal, deadline).await?;
        registered(reply).map(Response::new)
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        self.beaten(request).await
    }

    type HeartbeatStreamStream = BeatStream;

    async fn heartbeat_stream(
        &self,
        request: Request<Streaming<HeartbeatRequest>>,
    ) -> Result<Response<BeatStream>, Status> {
        let input = Sender::of(&self.gate, request);
        Ok(Response::new(BeatStream::new(input, self.handle.clone(), self.max_beats())))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterResponse>, Status> {
        let deadline = deadline::of(&request);
        let who = self.who(&request)?;
        let target = convert::target(request.into_inner(), self.max_beats())?;
        let principal = who.takes_away(&target)?;
        match self.handle.deregister(target, principal, deadline).await.map_err(|error| who.told(error))? {
            Reply::Removed { removed, revision } => Ok(Response::new(DeregisterResponse { removed, revision })),
            Reply::Registered { .. } | Reply::Deployed { .. } | Reply::Kept { .. } | Reply::Drained { .. } => {
                Err(status::plain(status::Reason::Internal, "a removal was answered as something else"))
            }
        }
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        let deadline = deadline::of(&request);
        let who = self.who(&request)?;
        let (claim, wait) = drain::read(request.into_inner())?;
        let principal = who.claims(&claim)?;
        let drained = self.handle.drain(claim, principal, wait, deadline).await.map_err(|error| who.told(error))?;
        Ok(Response::new(drain::answer(drained)))
    }

    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<raw::GetInstanceResponse>, Status> {
        let (who, key) = (self.who(&request)?, convert::instance_key(request.get_ref())?);
        who.need(Permission::Read, &key.namespace, &key.service)?;
        let (record, revision) = self.handle.instance(&key)?;
        Ok(Response::new(convert::instance_response(&record, revision)))
    }

    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<raw::LookupResponse>, Status> {
        self.looked_up(request).await
    }

    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        let deadline = deadline::of(&request);
        let who = self.who(&request)?;
        let query = convert::resolve(request.into_inner(), deadline)?;
        who.needs(&query.needs)?;
        Ok(Response::new(convert::resolve_response(self.handle.resolve(query).await?)))
    }

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let who = self.who(&request)?;
        let (publication, token) = convert::publication(request.into_inner())?;
        who.need(Permission::Publish, &publication.namespace, &publication.service)?;
        let handed = self.handle.publish(&publication, token.as_ref())?;
        Ok(Response::new(PublishResponse { watches: handed.watches }))
    }

    async fn list_services(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesResponse>, Status> {
        let who = self.who(&request)?;
        let query = convert::list(request.into_inner())?;
        let query = ListQuery { within: who.lists(query.namespace.as_deref())?, ..query };
        let listed = self.handle.list_services(&query)?;
        let summary =
            |(namespace, service, set): (smol_str::SmolStr, smol_str::SmolStr, crate::registry::ServiceSet)| {
                let of_key = set.partition(&query.partition_key).map(|of| (of.instances, of.routable));
                let (instances, routable) = of_key.unwrap_or((set.len(), set.routable()));
                ServiceSummary {
                    namespace: namespace.into(),
                    service: service.into(),
                    instances,
                    routable,
                    revision: set.revision(),
                }
            };
        Ok(Response::new(ListServicesResponse {
            services: listed.services.into_iter().map(summary).collect(),
            next_page_token: listed.next_page_token,
            revision: listed.revision,
        }))
    }

    type WatchStream = Elsewhere<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let who = self.who(&request)?;
        let request = request.into_inner();
        let filters = convert::watch(&request, self.options.limits.max_selectors as usize)?;
        let wanted = Wanted { filters, published: convert::published(&request.selectors)? };
        let Wanted { filters, published } = wanted.seen_by(&who)?;
        let stream = self.handle.watch(filters, request.resume_token, who.allowed()).await?.with_published(published);
        let tenure = Tenure::of(&self.gate, &who).map(|tenure| Box::new((tenure, wanted)));
        Ok(Replies::Watch(WatchReplies { stream, opening: Opening::new(), tenure, ended: false }).hand())
    }

    type SubscribeStream = Elsewhere<SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let who = self.who(&request)?;
        let replies = SubscribeReplies::new(request.into_inner(), self.handle.hub(), &self.options.limits);
        Ok(Replies::Subscribe(Box::new(replies.of(who, &self.gate))).hand())
    }

    async fn get_server_info(
        &self,
        request: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        // How much there is, is for those to know who may see it.
        let counted = self.who(&request)?.may_everywhere(Permission::Read);
        let hub = self.handle.hub();
        let (_, oldest) = hub.log().bounds();
        let registry = hub.registry();
        let counts = Counts {
            instances: registry.instances(),
            services: registry.services(),
            watches: hub.watches(),
            namespaces: registry.namespaces().len() as u64,
            waiting: self.handle.metrics().waiting.get().unsigned_abs(),
            backends: registry.deployments().backends(),
            frontends: registry.deployments().frontends(),
            applications: registry.catalogs().applications(),
        };
        Ok(Response::new(GetServerInfoResponse {
            registry_id: hub.id().to_string(),
            epoch: hub.epoch().id,
            version: crate::VERSION.to_owned(),
            revision: registry.revision(),
            oldest_resumable_revision: oldest,
            limits: Some(self.options.limits),
            intervals: Some(Intervals {
                default_ttl: Some(convert::millis(LeaseTtl::DEFAULT.millis())),
                min_ttl: Some(convert::millis(LeaseTtl::MIN.millis())),
                max_ttl: Some(convert::millis(LeaseTtl::MAX.millis())),
                bookmark_interval: Some(convert::duration(BOOKMARK_INTERVAL)),
                restart_grace: Some(convert::duration(self.options.restart_grace)),
            }),
            features: Vec::new(),
            members: self.options.members.clone(),
            durable: self.options.durable,
            counts: counted.then_some(counts),
            breaker: Some(breaker(self.handle.metrics())),
            store_unavailable: hub.away().map(Into::into).unwrap_or_default(),
        }))
    }
}

fn breaker(metrics: &Metrics) -> Breaker {
    Breaker {
        enabled: metrics.breaker.get() > 0,
        held: metrics.breaker_held.get().unsigned_abs(),
        zones: metrics.breaker_zones.get().unsigned_abs(),
        trips: metrics.breaker_trips.get(),
        released: metrics.breaker_released.get(),
        gone: metrics.breaker_gone.get(),
    }
}

/// The limits that no setting changes.
#[must_use]
pub fn fixed_limits() -> Limits {
    Limits {
        max_metadata_bytes: METADATA_BYTES_MAX as u64,
        max_metadata_depth: METADATA_DEPTH_MAX as u64,
        max_page_size: 1_000,
        max_name_bytes: MAX_NAME_BYTES as u64,
        max_selector_bytes: MAX_SELECTOR_BYTES as u64,
        max_dependencies: MAX_DEPENDENCIES as u64,
        max_waiting: WAITING_MAX as u64,
        max_waiting_dependencies: WAITING_NEEDS_MAX as u64,
        max_backends: MAX_BACKENDS,
        max_frontends: MAX_FRONTENDS,
        max_splits: MAX_SPLITS as u64,
        max_history: MAX_HISTORY as u64,
        max_published_bytes: MAX_PUBLISHED_BYTES as u64,
        max_published_rate: RATE_MAX,
        max_published_rate_total: RATE_TOTAL_MAX,
        max_applications: MAX_APPLICATIONS,
        max_service_types: MAX_SERVICE_TYPES,
        max_catalog_versions: MAX_CATALOG_VERSIONS,
        max_catalog_version_bytes: MAX_CATALOG_VERSION_BYTES,
        max_application_dependencies: catalog::MAX_DEPENDENCIES as u64,
        max_filter_values: FILTER_MAX as u64,
        max_named_applications: START_MAX as u64,
        max_drain_asks: DRAIN_ASKS_MAX as u64,
        max_reply_bytes: REPLY_BYTES_MAX as u64,
        max_imports: IMPORTS_MAX as u64,
        max_import_bytes: LIST_BYTES_MAX as u64,
        max_tokens: MAX_TOKENS,
        max_token_secrets: token::SECRETS_MAX as u64,
        ..Limits::default()
    }
}

/// A watch as the transport wants it.
#[derive(Debug)]
pub struct WatchReplies {
    stream: WatchStream,
    opening: Opening,
    /// What may end it or change what it shows, and what it was asked to show.
    tenure: Option<Box<(Tenure, Wanted)>>,
    ended: bool,
}

impl WatchReplies {
    /// Looks whether the caller's rights are others by now.
    fn judge(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some((tenure, wanted)) = self.tenure.as_deref_mut() else { return Ok(()) };
        while let Poll::Ready(judged) = tenure.poll(context) {
            let who = judged?;
            let Wanted { filters, published } = wanted.seen_by(&who)?;
            self.stream.refocus(filters, published, &who.allowed());
        }
        Ok(())
    }
}

impl Stream for WatchReplies {
    type Item = Result<Framed, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(error) = self.judge(context) {
            self.ended = true;
            return Poll::Ready(Some(Err(error.into())));
        }
        Pin::new(&mut self.stream).poll_next(context).map(|item| {
            item.map(|item| match item {
                WatchItem::Frame(message) => Ok(self.opening.before(message)),
                WatchItem::End(Ending::ShuttingDown) => Err(status::shutting_down()),
            })
        })
    }
}
