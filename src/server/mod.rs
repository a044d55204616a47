//! The server: opens the store, starts the actor, binds every listener, and stops all of it in order. Knows how the
//! pieces fit together and no rule of any of them.

mod certificates;
mod complaints;
mod connections;
mod files;
mod gather;
mod greeting;
mod handshake;
mod itself;
mod journal;
mod keys;
mod listen;
mod lobby;
mod logging;
mod operator;
mod ops;
mod paced;
#[cfg(test)]
mod rights;
mod stream;
mod workers;

use std::{io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tokio_stream::StreamExt as _;
use uuid::Uuid;

use self::{
    certificates::Certificates, connections::Protocols, itself::Itself, journal::Journal, listen::Door, operator::gate,
    ops::OpsServer, workers::Workers,
};
use crate::{
    access::{Gate, Keeper, audit::Audit},
    actor::{ActorOptions, RegistryHandle},
    config::ServeSettings,
    engine::{
        Engine, EngineError, Recovered,
        local::{LocalEngine, OpenError, Options},
        memory::MemoryEngine,
    },
    grpc::{
        AdminService, CanonicalErrors, CatalogService, DeploymentsService, Dispatch, RegistryService, ServiceOptions,
        Unary,
        floor::Floor,
        health::HealthService,
        registry::fixed_limits,
        server::{admin_server::AdminServer, catalog_server::CatalogServer, deployments_server::DeploymentsServer},
    },
    http::{self, ApiOptions, Front, Guard, legacy::Legacy},
    laps::Laps,
    metrics::Metrics,
    proto::{self, bench::floor_server::FloorServer},
    registry::StateLimits,
    tls::{ClientAuth, TlsError},
    watch::HubOptions,
};

/// How long the store may take for its last commit.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Why the server does not run. Each is one sentence for a person.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Certificates or keys cannot be used; at least one reason.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Tls(Vec<TlsError>),
    /// An address cannot be listened on.
    #[error("{0}")]
    Listen(String),
    /// What is stored does not go with the settings.
    #[error("the catalog does not go with catalog_block_size: {0}")]
    Catalog(String),
    /// The system refused a thread, a runtime or a signal handler.
    #[error("the system refused {what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no way to give out the first token.
    #[error("the operator's token: {0}")]
    Operator(String),
    /// The keys of tokens cannot be used.
    #[error("jwt_keys: {0}")]
    Keys(String),
    /// The audit log cannot be written.
    #[error("audit_log: {0}")]
    AuditLog(String),
    /// The store can never go on.
    #[error("the store failed for good: {0}")]
    Engine(#[from] EngineError),
    /// The actor panicked; its state cannot be trusted.
    #[error("the registry's task panicked: the process ends rather than serve from a broken state ({0})")]
    Broken(String),
}

impl ServeError {
    fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Serves until SIGTERM or SIGINT, then stops in order. Blocks.
///
/// # Errors
/// When it cannot start, or cannot go on.
pub fn run(mut settings: ServeSettings) -> Result<(), ServeError> {
    logging::init(&settings);
    let places = files::raise_limit(settings.max_connections);
    settings.max_connections = places.connections;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(ServeError::system("a runtime"))?;
    // Addresses come first: a second server on the same port must not touch the store.
    let listeners = runtime.block_on(listen::bind(&settings.listen))?;
    let (epoch, fresh_registry_id) = (random(), random_uuid());
    let metrics = Arc::<Metrics>::default();
    let certificates = Certificates::start(&settings, &metrics)?;
    // Before the store is read, so that somebody answers while it is.
    let ops = OpsServer::start(&settings, places.ops, certificates.live(), &metrics)?;
    let journal = Journal::start(&settings, &metrics)?;
    let opened =
        Opened { listeners, certificates, ops, audit: journal.audit().cloned(), metrics: Arc::clone(&metrics) };
    let serving = run_on(&runtime, settings, opened, (epoch, fresh_registry_id));
    // What was handed to other threads looks at whether anybody waits for it; nothing of it keeps the process.
    runtime.shutdown_timeout(STOP_WAIT);
    journal.stop();
    serving
}

fn run_on(
    runtime: &Runtime,
    settings: ServeSettings,
    opened: Opened,
    (epoch, fresh_registry_id): (u64, uuid::Uuid),
) -> Result<(), ServeError> {
    if settings.ephemeral {
        let recovered = MemoryEngine::recovered(fresh_registry_id, epoch);
        return runtime.block_on(serve(settings, MemoryEngine::default(), recovered, opened));
    }
    tracing::info!(data_dir = %settings.data_dir.display(), "opening the store");
    let options = Options {
        max_log_bytes: settings.max_log_bytes,
        epoch,
        fresh_registry_id,
        metrics: Arc::clone(&opened.metrics),
    };
    let (engine, recovered) = LocalEngine::open(&settings.data_dir, options)?;
    runtime.block_on(serve(settings, engine, recovered, opened))
}

/// What is there before the state is.
struct Opened {
    listeners: Vec<tokio::net::TcpListener>,
    certificates: Certificates,
    ops: OpsServer,
    /// None: nothing is written down.
    audit: Option<Arc<Audit>>,
    metrics: Arc<Metrics>,
}

/// A random number; without the system's random numbers the clock has to do.
fn random() -> u64 {
    let mut bits = [0; 8];
    if getrandom::fill(&mut bits).is_err() {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        return since.as_nanos() as u64;
    }
    u64::from_le_bytes(bits)
}

/// A random (version 4) UUID.
fn random_uuid() -> Uuid {
    let bits = u128::from(random()) << 64 | u128::from(random());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

async fn serve<E: Engine>(
    settings: ServeSettings,
    engine: E,
    recovered: Recovered,
    opened: Opened,
) -> Result<(), ServeError> {
    let Opened { listeners, certificates, ops, audit, metrics } = opened;
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let (instances, revision) = (recovered.records.len(), recovered.revision);
    let (handle, actor) = RegistryHandle::new(engine, recovered, actor_options(&settings, metrics));
    check_catalog(&handle)?;
    let mut actor = tokio::spawn(actor.run());
    let (keeper, keys) = operator::keeper(&settings, &handle).await?;
    let (stop, stopping) = watch::channel(false);
    let services = Arc::new(Services {
        handle: handle.clone(),
        settings: settings.clone(),
        members: itself::members(&settings, &addresses),
        guard: Arc::new(Guard::new(&addresses, &settings, certificates.live())),
        ops: ops.shared(),
        legacy: Legacy::new(handle.clone(), settings.unfenced_http, settings.max_message_bytes, gate(keeper.as_ref())),
        keeper,
        audit,
    });
    // Before anybody can ask.
    let itself = Itself::enter(&handle, &settings, &services.members, ops.addresses()).await;
    let handshakes = certificates.handshakes(&settings, handle.metrics());
    let protocols = Protocols::new(&settings, handshakes, Arc::clone(handle.metrics()));
    let (workers, inputs) = workers::start(&services, &protocols, &stopping)?;
    let door = Door::new(settings.max_connections, handle.metrics());
    for listener in listeners {
        tokio::spawn(listen::accept(listener, door.clone(), inputs.clone(), stopping.clone()));
    }
    drop(inputs);
    // Whoever reads that we listen may send a signal at once.
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::system("a signal handler"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::system("a signal handler"))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(ServeError::system("a signal handler"))?;
    ops.ops().recovered(handle.clone());
    announce(&settings, &addresses, ops.addresses(), instances, revision);
    loop {
        tokio::select! {
            ended = &mut actor => return ended_early(ended),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => if !(certificates.read_again() | keys.read_again()) {
                tracing::info!("SIGHUP: no certificates or keys of tokens are configured, nothing to reload");
            },
        }
    }
    say_that_we_stop(&handle);
    // The last that streams tell is that we go.
    itself.leave(&handle).await;
    if !end_streams(&handle, stop, workers, settings.drain_wait).await {
        return Ok(());
    }
    match actor.await {
        Ok(Ok(())) => {
            ops.stop();
            tracing::info!("stopped");
            Ok(())
        }
        failed => ended_early(failed),
    }
}

/// Refuses a catalog that cannot be as the settings are, and says what is strange in one that can.
fn check_catalog(handle: &RegistryHandle) -> Result<(), ServeError> {
    let faults = handle.catalog_faults();
    if !faults.is_empty() {
        return Err(ServeError::Catalog(faults.join("; ")));
    }
    handle.catalog_hints().iter().for_each(|hint| tracing::warn!("the catalog: {hint}"));
    Ok(())
}

/// Before anything ends: to the system, the log, and whoever asks for our health.
fn say_that_we_stop(handle: &RegistryHandle) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping: no longer serving");
    handle.hub().leave();
}

/// Ends every stream and connection, then closes the store. False: it did not close.
async fn end_streams(
    handle: &RegistryHandle,
    stop: watch::Sender<bool>,
    mut workers: Workers,
    drain_wait: Duration,
) -> bool {
    // Health says so, and every stream ends with a last bookmark.
    handle.hub().close();
    // Listeners close; connections end when their calls have.
    let _ = stop.send(true);
    let ended = async { while workers.next().await.is_some() {} };
    if timeout(drain_wait, ended).await.is_err() {
        tracing::warn!("some connections were still open after {drain_wait:?}");
    }
    let closed = timeout(STOP_WAIT, handle.stop()).await.is_ok();
    if !closed {
        tracing::error!("the store did not close within {STOP_WAIT:?}; what was acknowledged is on disk");
    }
    closed
}

/// The actor never ends by itself but by a fault.
fn ended_early(ended: Result<Result<(), EngineError>, tokio::task::JoinError>) -> Result<(), ServeError> {
    match ended {
        Ok(Ok(())) => Err(ServeError::Broken("it ended".to_owned())),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => Err(ServeError::Broken(panic.to_string())),
    }
}

fn actor_options(settings: &ServeSettings, metrics: Arc<Metrics>) -> ActorOptions {
    ActorOptions {
        runtimes: settings.io_threads,
        restart_grace: settings.restart_grace,
        max_inbox: settings.max_inbox,
        breaker: settings.breaker,
        breaker_off: settings.breaker_off.iter().map(|namespace| namespace.as_str().into()).collect(),
        hub: HubOptions {
            max_log_bytes: settings.max_log_bytes as usize,
            max_watches: settings.max_watches as u64,
            max_summary_bytes: settings.max_summary_bytes as usize,
            state: StateLimits {
                instances: settings.max_instances as u64,
                services: settings.max_services as u64,
                namespaces: settings.max_namespaces as u64,
            },
            port_rules: Arc::new(settings.port_rules()),
            metrics,
            ..HubOptions::default()
        },
    }
}

fn api_options(settings: &ServeSettings) -> ApiOptions {
    ApiOptions { max_message_bytes: settings.max_message_bytes, max_json_values: max_json_values(settings) }
}

/// Values of a body: as many as the most beats have, and more than anything else has.
fn max_json_values(settings: &ServeSettings) -> usize {
    20_000 + 4 * settings.max_beats
}

/// Tells people, programs and systemd that the port answers.
fn announce(settings: &ServeSettings, addresses: &[SocketAddr], ops: &[SocketAddr], instances: usize, revision: u64) {
    let data = if settings.ephemeral { "nothing is kept".to_owned() } else { settings.data_dir.display().to_string() };
    let by = match (&settings.tls_cert, &settings.tls_client_ca, settings.tls_client_auth) {
        (None, ..) => "",
        (Some(_), Some(_), None | Some(ClientAuth::Required)) => "by TLS, with client certificates ",
        (Some(_), ..) => "by TLS ",
    };
    tracing::info!(?addresses, %data, instances, revision, "serving");
    let is_reached = addresses.iter().any(|address| !address.ip().to_canonical().is_loopback());
    match settings.is_protected() {
        false if is_reached => tracing::warn!("whoever reaches the port may do everything (insecure)"),
        true if is_reached && settings.tls_cert.is_none() => tracing::warn!(
            "tokens come in the clear: whoever is on the way to this port can read them; TLS (tls_cert) hides them"
        ),
        _ => {}
    }
    let mut out = std::io::stdout().lock();
    for address in addresses {
        // Standard output may be closed; that is no reason not to serve.
        let _ = writeln!(out, "onair {} is listening on {address} {by}(data: {data})", crate::VERSION);
    }
    for address in ops {
        let _ = writeln!(out, "onair {} answers probes and scrapes on {address}", crate::VERSION);
    }
    let _ = out.flush();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// What every thread serves.
struct Services {
    handle: RegistryHandle,
    settings: ServeSettings,
    members: Vec<String>,
    guard: Arc<Guard>,
    /// Probes and scrapes, if they have no port of their own.
    ops: Router,
    legacy: Legacy,
    /// Who may do what; none with authentication off.
    keeper: Option<Arc<Keeper>>,
    /// None: nothing is written down.
    audit: Option<Arc<Audit>>,
}

impl Services {
    /// A service whose calls are counted, go in these laps, and are made by those alone whom the gate lets in.
    fn judged<S>(&self, service: S, gate: &Gate, laps: &Laps) -> CanonicalErrors<S> {
        let (max_message_bytes, metrics) = (self.settings.max_message_bytes as u64, self.handle.metrics());
        CanonicalErrors::new(service, max_message_bytes, Arc::clone(metrics)).behind(gate.clone()).paced(laps.clone())
    }

    fn front(&self, laps: &Laps) -> Result<Front, ServeError> {
        let settings = &self.settings;
        let limits = proto::Limits {
            max_instances: settings.max_instances as u64,
            max_services: settings.max_services as u64,
            max_namespaces: settings.max_namespaces as u64,
            max_watches: settings.max_watches as u64,
            max_subscriptions: settings.max_subscriptions as u64,
            max_selectors: settings.max_selectors as u64,
            max_beats: settings.max_beats as u64,
            max_message_bytes: settings.max_message_bytes as u64,
            max_header_bytes: u64::from(settings.max_header_bytes),
            max_concurrent_streams: u64::from(settings.max_concurrent_streams),
            max_log_bytes: settings.max_log_bytes,
            max_summary_bytes: settings.max_summary_bytes,
            max_inbox: settings.max_inbox as u64,
            max_json_values: max_json_values(settings) as u64,
            max_connections: settings.max_connections as u64,
            catalog_ceiling: u64::from(settings.catalog_ceiling),
            ..fixed_limits()
        };
        let metrics = self.handle.metrics();
        metrics.set_limits(&limits);
        let durable = !settings.ephemeral;
        let options =
            ServiceOptions { limits, restart_grace: settings.restart_grace, durable, members: self.members.clone() };
        let gate = gate(self.keeper.as_ref()).audited(self.audit.clone());
        let registry = RegistryService::new(self.handle.clone(), options).behind(gate.clone());
        let registry = Unary::new(registry, settings.max_message_bytes);
        let health = HealthService::new(Arc::clone(self.handle.hub())).behind(gate.clone());
        let health = tonic_health::pb::health_server::HealthServer::new(health);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // So that grpcurl can show the details of errors.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let unreadable = |error| ServeError::Broken(format!("the descriptors cannot be served: {error}"));
        let deployments = DeploymentsServer::new(DeploymentsService::new(self.handle.clone(), gate.clone()))
            .max_decoding_message_size(settings.max_message_bytes);
        let catalog = CatalogServer::new(CatalogService::new(self.handle.clone(), gate.clone()))
            .max_decoding_message_size(settings.max_message_bytes);
        let admin = AdminServer::new(AdminService::new(self.handle.clone(), gate.clone()))
            .max_decoding_message_size(settings.max_message_bytes);
        let mut grpc = Dispatch::default()
            .and(self.judged(registry, &gate, laps))
            .and(self.judged(deployments, &gate, laps))
            .and(self.judged(catalog, &gate, laps))
            .and(self.judged(admin, &gate, laps))
            .and(self.judged(health, &gate, laps))
            .and(reflection().build_v1().map_err(unreadable)?)
            .and(reflection().build_v1alpha().map_err(unreadable)?);
        if settings.bench_floor {
            grpc = grpc.and(FloorServer::new(Floor::new()));
        }
        let options = api_options(settings);
        let routes = http::router(grpc.clone(), options, gate.clone())
            .map_err(|error| ServeError::Broken(format!("the API cannot be served by HTTP: {error}")))?;
        let routes = routes
            .merge(http::prometheus::router(grpc.clone()))
            .merge(http::legacy::router(&self.legacy))
            .merge(http::applications::router(grpc.clone(), options))
            .merge(self.ops.clone());
        let guard = Arc::clone(&self.guard);
        Ok(Front::new(grpc, routes, guard, options, Arc::clone(metrics)).behind(gate))
    }
}
