//! The client of a registry, for programs in Rust: joins and keeps the lease, finds others, follows them.
//!
//! Needs the feature `client` alone, which has none of the server's dependencies. It lives in a runtime of tokio; what was
//! begun in one that has ended is begun anew in the next. The types of the API are in [`proto`](crate::proto); [`tonic`]
//! and [`prost_types`] are here in the versions that it speaks.
//!
//! ```no_run
//! use onair::client::{Client, Pick, Registration};
//!
//! # async fn program() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("http://127.0.0.1:6624/shop?ttl=5s")?;
//!
//! // Registered, and kept so, for as long as `joined` lives.
//! let joined = client.join(Registration::new("orders").port(8080).version("1.4.2")).await?;
//!
//! // Others: one look, or known at any moment without asking.
//! for instance in client.lookup("users").await? {
//!     println!("{} at {}", instance.id, instance.url);
//! }
//! let mut users = client.service("users");
//! users.known().await?;
//! if let Some(instance) = users.pick(Pick::Random) {
//!     println!("call {}", instance.url);
//! }
//!
//! // At the end: out of traffic first, then away.
//! joined.drain(std::time::Duration::from_secs(2)).await?;
//! joined.leave().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every call tries all hosts of the connection string, each once, and fails with all causes ([`CallFailed`]). What goes
//! on in the background (leases, watches, services, channels) tries again by itself, with growing pauses, for as long as
//! it is wanted.
//!
//! | what | how it behaves when the registry is away |
//! | --- | --- |
//! | [`Joined`] | beats again and again; registers again when the lease was lost, also with a registry that lost everything; ends when another process has registered the same instance |
//! | [`Watch`] | continues where it was, without gap or repeat; after a reset it tells only what is news |
//! | [`Service`] | has what was known last, and says how old that is; with [`Means::keep`] also a program that starts meanwhile |
//! | [`Client::channel`] | goes on calling those that were known last |

mod beats;
mod channel;
mod connection;
mod dial;
mod error;
mod fold;
mod keeper;
mod keeping;
mod kept;
mod known;
mod lease;
mod line;
mod means;
mod registration;
mod service;
mod watch;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::transport::Channel;
pub use {prost_types, tonic};

use self::beats::Beater;
#[cfg(feature = "server")]
pub(crate) use self::watch::{BOOKMARK_INTERVAL, silence};
pub use self::{
    channel::Balanced,
    connection::{Connection, DEFAULT_PORT, Host},
    error::{CallFailed, Cause},
    fold::Change,
    known::{Instances, Pick},
    lease::{Joined, LeaseEvent, Lost},
    means::{InvalidConnection, Means, Token},
    registration::Registration,
    service::Service,
    watch::{Following, Standing, Told, Watch},
};
// What the `onair` command is made of as well; it may change with that.
#[doc(hidden)]
pub use self::{
    line::{Backoff, Line, chance, from_wire, to_wire},
    means::Tls,
};
use crate::proto::{
    Instance, ListServicesRequest, LookupRequest, LookupResponse, RegisterRequest, ResolveRequest, ResolveResponse,
    Selector, ServiceSummary, registry_client::RegistryClient,
};
pub use crate::tls::{ClientFiles, Pem};

/// A client of one registry. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    namespace: String,
    ttl: Option<Duration>,
    calls: Line,
    /// Connections of their own: neither holds up the other.
    watches: Line,
    beater: Mutex<Option<Beater>>,
    /// Where services that are known are kept.
    keep: Option<PathBuf>,
}

impl Inner {
    /// All leases beat together, in whatever runtime there is now.
    fn beater(&self) -> Beater {
        let mut held = self.beater.lock().unwrap_or_else(PoisonError::into_inner);
        let beater = held.take().filter(|beater| !beater.is_gone());
        held.insert(beater.unwrap_or_else(|| Beater::start(self.calls.another()))).clone()
    }
}

impl Client {
    /// A client of the registry that a connection string names: `http://host1,host2/namespace?ttl=5s&timeout=2s`, or just
    /// `host:port`; by TLS with `https://`. Ports are 6624 unless given, the namespace is `default`, `ttl` is that of what is joined, `timeout`
    /// that of a call. Dials nothing yet.
    ///
    /// # Errors
    /// A sentence that begins with `Invalid connection string` and names everything that is wrong.
    pub fn connect(text: &str) -> Result<Self, InvalidConnection> {
        Self::connect_with(text, Means::default())
    }

    /// The same, with what a connection string cannot say.
    ///
    /// # Errors
    /// As `connect`, and everything that is wrong with the files of TLS.
    pub fn connect_with(text: &str, means: Means) -> Result<Self, InvalidConnection> {
        let connection = Connection::parse(text).map_err(InvalidConnection::Text)?;
        let keep = means.keep.clone();
        Ok(Self::keeping(connection.line(means)?, connection.namespace, connection.ttl, keep))
    }

    /// A client over a line that is there.
    #[doc(hidden)]
    #[must_use]
    pub fn new(line: Line, namespace: String, ttl: Option<Duration>) -> Self {
        Self::keeping(line, namespace, ttl, None)
    }

    fn keeping(calls: Line, namespace: String, ttl: Option<Duration>, keep: Option<PathBuf>) -> Self {
        let watches = calls.another();
        Self(Arc::new(Inner { namespace, ttl, watches, calls, beater: Mutex::default(), keep }))
    }

    /// The namespace that it speaks of; empty is `default`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Registers an instance, and keeps it registered as long as the result lives. Namespace and TTL are the client's
    /// where the registration has none.
    ///
    /// # Errors
    /// No host answered, or it was refused. To try again, give the same registration.
    pub async fn join(&self, registration: impl Into<RegisterRequest>) -> Result<Joined, CallFailed> {
        let request = self.completed(registration.into());
        // What a call takes is large; who joins many keeps only the result.
        Box::pin(lease::join(&self.0, request)).await
    }

    /// The same for who does not wait: it is registered in the background, as often as it takes, and the first event says
    /// what came of that. `Refused`, if the registry says that it never will be; also if something is missing that is not
    /// to be waited for.
    #[must_use]
    pub fn join_soon(&self, registration: impl Into<RegisterRequest>) -> Joined {
        lease::join_soon(&self.0, self.completed(registration.into()))
    }

    fn completed(&self, mut request: RegisterRequest) -> RegisterRequest {
        let instance = request.instance.get_or_insert_default();
        if instance.namespace.is_empty() {
            instance.namespace.clone_from(&self.0.namespace);
        }
        request.ttl = request.ttl.or(self.0.ttl.and_then(to_wire));
        request
    }

    /// The instances of a service that can take traffic now.
    ///
    /// # Errors
    /// No host answered.
    pub async fn lookup(&self, service: &str) -> Result<Vec<Instance>, CallFailed> {
        let request = LookupRequest {
            namespace: self.0.namespace.clone(),
            service: service.to_owned(),
            ..LookupRequest::default()
        };
        self.lookup_with(request).await
    }

    /// What a request finds: by version, selector, pick and whatever else it says. The namespace is the client's where the
    /// request has none. All pages, each of its own revision; with a `limit`, the first of so many.
    ///
    /// # Errors
    /// No host answered, or it was refused.
    pub async fn lookup_with(&self, mut request: LookupRequest) -> Result<Vec<Instance>, CallFailed> {
        let mut found = Vec::new();
        loop {
            let page = self.lookup_page(request.clone()).await?;
            found.extend(page.instances);
            if page.next_page_token.is_empty() || request.limit > 0 {
                return Ok(found);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// One page of it, as the registry answers: of which revision it is, and why there is nobody.
    ///
    /// # Errors
    /// No host answered, or it was refused.
    pub async fn lookup_page(&self, mut request: LookupRequest) -> Result<LookupResponse, CallFailed> {
        if request.namespace.is_empty() {
            request.namespace.clone_from(&self.0.namespace);
        }
        let what = format!("look up {}{}", request.service, request.frontend);
        let limit = self.0.calls.timeout().saturating_add(from_wire(request.wait).unwrap_or_default());
        let send = |channel: Channel, request| async move { RegistryClient::new(channel).lookup(request).await };
        self.0.calls.call(&what, limit, request, send).await
    }

    /// The known services whose names begin so, with their counts.
    ///
    /// # Errors
    /// No host answered.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ServiceSummary>, CallFailed> {
        let mut request = ListServicesRequest {
            namespace: self.0.namespace.clone(),
            prefix: prefix.to_owned(),
            ..ListServicesRequest::default()
        };
        let send = |channel: Channel, request| async move { RegistryClient::new(channel).list_services(request).await };
        let mut listed = Vec::new();
        loop {
            let page = self.0.calls.call("list the services", self.0.calls.timeout(), request.clone(), send).await?;
            listed.extend(page.services);
            if page.next_page_token.is_empty() {
                return Ok(listed);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Finds where dependencies are, all as of one revision. The namespace is the client's where the request has none.
    ///
    /// # Errors
    /// No host answered, or it was refused: `MISSING_DEPENDENCY`, unless they are to be ignored.
    pub async fn resolve(&self, mut request: ResolveRequest) -> Result<ResolveResponse, CallFailed> {
        if request.namespace.is_empty() {
            request.namespace.clone_from(&self.0.namespace);
        }
        let limit = self.0.calls.timeout().saturating_add(from_wire(request.wait).unwrap_or_default());
        let send = |channel: Channel, request| async move { RegistryClient::new(channel).resolve(request).await };
        self.0.calls.call("resolve dependencies", limit, request, send).await
    }

    /// Follows the union of these selectors: first what is there, then every change, whole and once.
    ///
    /// # Panics
    /// Outside a runtime of tokio; so do `service`, `channel` and `join_soon`.
    #[must_use]
    pub fn watch(&self, selectors: impl IntoIterator<Item = Selector>) -> Watch {
        Watch::start(&self.0, selectors.into_iter().map(|selector| self.own(selector)).collect())
    }

    /// The same, and tells of its streams and of every bookmark as well.
    #[must_use]
    pub fn follow(&self, selectors: impl IntoIterator<Item = Selector>) -> Following {
        Following::start(&self.0, selectors.into_iter().map(|selector| self.own(selector)).collect(), true)
    }

    /// A service, known from now on without asking.
    #[must_use]
    pub fn service(&self, name: &str) -> Service {
        self.service_with(selector(name), "")
    }

    /// What a selector means, known from now on without asking; picks prefer a zone, unless that is empty.
    #[must_use]
    pub fn service_with(&self, selector: Selector, zone: &str) -> Service {
        Service::start(&self.0, self.own(selector), zone.to_owned())
    }

    /// A channel of gRPC to the instances of a service, wherever they are.
    #[must_use]
    pub fn channel(&self, service: &str) -> Balanced {
        self.channel_with(selector(service), "")
    }

    /// The same to what a selector means; a zone is preferred, unless that is empty.
    #[must_use]
    pub fn channel_with(&self, selector: Selector, zone: &str) -> Balanced {
        Balanced::over(self.service_with(selector, zone), self.0.calls.tls().map(|tls| tls.files.clone()))
    }

    /// As `selector`, of the client's namespace where it has none.
    fn own(&self, selector: Selector) -> Selector {
        let namespace = if selector.namespace.is_empty() { self.0.namespace.clone() } else { selector.namespace };
        Selector { namespace, ..selector }
    }
}

/// Of a service alone.
fn selector(service: &str) -> Selector {
    Selector { service: service.to_owned(), ..Selector::default() }
}
