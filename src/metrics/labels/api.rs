//! Labels whose values are the API's own words: what can be called, and how it is answered.

use tonic::Code;

use super::{Key, Label};
use crate::proto::{ErrorReason, Limits};

label! {
    /// What was called.
    Rpc as "rpc" {
        /// `onair.v1.Registry/Register`.
        Register = "Register",
        /// `onair.v1.Registry/Heartbeat`.
        Heartbeat = "Heartbeat",
        /// `onair.v1.Registry/HeartbeatStream`.
        HeartbeatStream = "HeartbeatStream",
        /// `onair.v1.Registry/Deregister`.
        Deregister = "Deregister",
        /// `onair.v1.Registry/Drain`.
        Drain = "Drain",
        /// `onair.v1.Registry/Lookup`.
        Lookup = "Lookup",
        /// `onair.v1.Registry/GetInstance`.
        GetInstance = "GetInstance",
        /// `onair.v1.Registry/Resolve`.
        Resolve = "Resolve",
        /// `onair.v1.Registry/Publish`.
        Publish = "Publish",
        /// `onair.v1.Registry/ListServices`.
        ListServices = "ListServices",
        /// `onair.v1.Registry/Watch`.
        Watch = "Watch",
        /// `onair.v1.Registry/Subscribe`.
        Subscribe = "Subscribe",
        /// `onair.v1.Registry/GetServerInfo`.
        GetServerInfo = "GetServerInfo",
        /// `onair.v1.Deployments/Switch` and `SwitchBack`.
        Switch = "Deployments.Switch",
        /// Any other of `onair.v1.Deployments`.
        Deployments = "Deployments",
        /// `onair.v1.Catalog/WaitReady`.
        WaitReady = "Catalog.WaitReady",
        /// Any other of `onair.v1.Catalog`.
        Catalog = "Catalog",
        /// `onair.v1.Catalog/ImportApplicationsStream`.
        CatalogImport = "Catalog.Import",
        /// `grpc.health.v1.Health/Check`.
        HealthCheck = "Health.Check",
        /// `grpc.health.v1.Health/List`.
        HealthList = "Health.List",
        /// `grpc.health.v1.Health/Watch`.
        HealthWatch = "Health.Watch",
        /// Anything else.
        Other = "other",
    }
}

impl Rpc {
    /// The call that a request's path names.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        match path {
            "/onair.v1.Registry/Register" => Self::Register,
            "/onair.v1.Registry/Heartbeat" => Self::Heartbeat,
            "/onair.v1.Registry/HeartbeatStream" => Self::HeartbeatStream,
            "/onair.v1.Registry/Deregister" => Self::Deregister,
            "/onair.v1.Registry/Drain" => Self::Drain,
            "/onair.v1.Registry/Lookup" => Self::Lookup,
            "/onair.v1.Registry/GetInstance" => Self::GetInstance,
            "/onair.v1.Registry/Resolve" => Self::Resolve,
            "/onair.v1.Registry/Publish" => Self::Publish,
            "/onair.v1.Registry/ListServices" => Self::ListServices,
            "/onair.v1.Registry/Watch" => Self::Watch,
            "/onair.v1.Registry/Subscribe" => Self::Subscribe,
            "/onair.v1.Registry/GetServerInfo" => Self::GetServerInfo,
            "/onair.v1.Deployments/Switch" | "/onair.v1.Deployments/SwitchBack" => Self::Switch,
            path if path.starts_with("/onair.v1.Deployments/") => Self::Deployments,
            "/onair.v1.Catalog/WaitReady" => Self::WaitReady,
            "/onair.v1.Catalog/ImportApplicationsStream" => Self::CatalogImport,
            path if path.starts_with("/onair.v1.Catalog/") => Self::Catalog,
            "/grpc.health.v1.Health/Check" => Self::HealthCheck,
            "/grpc.health.v1.Health/List" => Self::HealthList,
            "/grpc.health.v1.Health/Watch" => Self::HealthWatch,
            _ => Self::Other,
        }
    }

    /// Whether it brings beats.
    #[must_use]
    pub fn brings_beats(self) -> bool {
        matches!(self, Self::Heartbeat | Self::HeartbeatStream)
    }

    /// Whether it goes before all others: what keeps instances there, what takes them away in order, and what tells whether
    /// the server is there.
    #[must_use]
    pub fn goes_first(self) -> bool {
        let is_health = matches!(self, Self::HealthCheck | Self::HealthList | Self::HealthWatch);
        self.brings_beats() || is_health || matches!(self, Self::Deregister | Self::Drain)
    }

    /// Whether it is known, and its request is a single message.
    #[must_use]
    pub fn has_one_request(self) -> bool {
        !matches!(self, Self::HeartbeatStream | Self::Subscribe | Self::CatalogImport | Self::Other)
    }

    /// Whether its answer is a stream, which lasts as long as the caller likes.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(
            self,
            Self::HeartbeatStream
                | Self::Watch
                | Self::Subscribe
                | Self::WaitReady
                | Self::CatalogImport
                | Self::HealthWatch
        )
    }
}

impl Key for Code {
    const LABEL: Label = Label {
        name: "code",
        values: &[
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ],
    };

    fn place(self) -> usize {
        self as usize
    }
}

/// Reasons are numbered with gaps; here each has a place. A new one gets its own before this compiles.
macro_rules! reasons {
    ($($reason:ident = $name:literal,)+) => {
        impl Key for ErrorReason {
            const LABEL: Label = Label { name: "reason", values: &[$($name),+] };

            fn place(self) -> usize {
                enum Place {
                    $($reason,)+
                }
                match self {
                    $(Self::$reason => Place::$reason as usize,)+
                }
            }
        }
    };
}

reasons! {
    Unspecified = "UNSPECIFIED",
    Invalid = "INVALID",
    TooDeep = "TOO_DEEP",
    Malformed = "MALFORMED",
    TooLarge = "TOO_LARGE",
    Limit = "LIMIT",
    Overloaded = "OVERLOADED",
    KeyHeld = "KEY_HELD",
    Superseded = "SUPERSEDED",
    LeaseDenied = "LEASE_DENIED",
    Permission = "PERMISSION",
    RevisionAhead = "REVISION_AHEAD",
    StoreUnavailable = "STORE_UNAVAILABLE",
    ShuttingDown = "SHUTTING_DOWN",
    Deadline = "DEADLINE",
    NotSupported = "NOT_SUPPORTED",
    Internal = "INTERNAL",
    MissingDependency = "MISSING_DEPENDENCY",
    NotFound = "NOT_FOUND",
    NoRoute = "NO_ROUTE",
    MethodNotAllowed = "METHOD_NOT_ALLOWED",
    NotAcceptable = "NOT_ACCEPTABLE",
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE",
    SlowBody = "SLOW_BODY",
    HostNotAllowed = "HOST_NOT_ALLOWED",
    OriginNotAllowed = "ORIGIN_NOT_ALLOWED",
    Repeated = "REPEATED",
    AlreadyExists = "ALREADY_EXISTS",
    MissingBackend = "MISSING_BACKEND",
    InUse = "IN_USE",
    StaleRevision = "STALE_REVISION",
    NothingBefore = "NOTHING_BEFORE",
    NotReady = "NOT_READY",
    Unauthenticated = "UNAUTHENTICATED",
    Quota = "QUOTA",
}

/// Statuses of HTTP, each as its own label.
macro_rules! statuses {
    ($($status:literal => $name:literal,)+) => {
        /// The status of an answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct HttpStatus(u16);

        impl Key for HttpStatus {
            const LABEL: Label = Label { name: "status", values: &["other", $($name),+] };

            fn place(self) -> usize {
                [$($status),+].iter().position(|status| *status == self.0).map_or(0, |place| place + 1)
            }
        }
    };
}

statuses! {
    200 => "200",
    204 => "204",
    304 => "304",
    400 => "400",
    401 => "401",
    403 => "403",
    404 => "404",
    405 => "405",
    406 => "406",
    408 => "408",
    409 => "409",
    412 => "412",
    413 => "413",
    415 => "415",
    422 => "422",
    424 => "424",
    429 => "429",
    431 => "431",
    499 => "499",
    500 => "500",
    501 => "501",
    503 => "503",
    504 => "504",
}

impl From<http::StatusCode> for HttpStatus {
    fn from(status: http::StatusCode) -> Self {
        Self(status.as_u16())
    }
}

label! {
    /// The limits that are advertised, as `GetServerInfo` names them.
    Limit as "limit" {
        /// Instances.
        Instances = "max_instances",
        /// Services.
        Services = "max_services",
        /// Namespaces.
        Namespaces = "max_namespaces",
        /// Watches and subscriptions.
        Watches = "max_watches",
        /// Subscriptions of one stream.
        Subscriptions = "max_subscriptions",
        /// Selectors of one watch.
        Selectors = "max_selectors",
        /// Beats of one message.
        Beats = "max_beats",
        /// Bytes of a request.
        MessageBytes = "max_message_bytes",
        /// Bytes of a request's headers.
        HeaderBytes = "max_header_bytes",
        /// Calls at once on one connection.
        ConcurrentStreams = "max_concurrent_streams",
        /// Bytes of metadata.
        MetadataBytes = "max_metadata_bytes",
        /// Nesting of metadata.
        MetadataDepth = "max_metadata_depth",
        /// Instances of a page.
        PageSize = "max_page_size",
        /// Bytes of kept events.
        LogBytes = "max_log_bytes",
        /// Commands that wait.
        Inbox = "max_inbox",
        /// Bytes of a name.
        NameBytes = "max_name_bytes",
        /// Bytes of a selector.
        SelectorBytes = "max_selector_bytes",
        /// Dependencies in one request.
        Dependencies = "max_dependencies",
        /// Registrations that wait for dependencies.
        Waiting = "max_waiting",
        /// Dependencies that they have together.
        WaitingDependencies = "max_waiting_dependencies",
        /// Backends.
        Backends = "max_backends",
        /// Frontends.
        Frontends = "max_frontends",
        /// Splits of a frontend.
        Splits = "max_splits",
        /// Entries of a frontend's history.
        History = "max_history",
        /// Values of a body of JSON.
        JsonValues = "max_json_values",
        /// Connections.
        Connections = "max_connections",
        /// Bytes of what is published.
        PublishedBytes = "max_published_bytes",
        /// Events of a service in a second.
        PublishedRate = "max_published_rate",
        /// Events of all services in a second.
        PublishedRateTotal = "max_published_rate_total",
        /// Applications of the catalog.
        Applications = "max_applications",
        /// Service types of a namespace's catalog.
        ServiceTypes = "max_service_types",
        /// Versions of a namespace's catalog.
        CatalogVersions = "max_catalog_versions",
        /// The last external port.
        CatalogCeiling = "catalog_ceiling",
        /// Bytes of the versions of a namespace's catalog.
        CatalogVersionBytes = "max_catalog_version_bytes",
        /// Dependencies of an application.
        ApplicationDependencies = "max_application_dependencies",
        /// Values of a filter.
        FilterValues = "max_filter_values",
        /// Applications that are named.
        NamedApplications = "max_named_applications",
        /// Bytes of an answer.
        ReplyBytes = "max_reply_bytes",
        /// Imports.
        Imports = "max_imports",
        /// Bytes of an imported list.
        ImportBytes = "max_import_bytes",
        /// Bytes of what summaries are counted by.
        SummaryBytes = "max_summary_bytes",
        /// Tokens.
        Tokens = "max_tokens",
        /// Streams that drains wait for.
        DrainAsks = "max_drain_asks",
        /// Secrets of a token.
        TokenSecrets = "max_token_secrets",
    }
}

impl Limit {
    /// What it is set to.
    #[must_use]
    pub fn value(self, limits: &Limits) -> u64 {
        match self {
            Self::Instances => limits.max_instances,
            Self::Services => limits.max_services,
            Self::Namespaces => limits.max_namespaces,
            Self::Watches => limits.max_watches,
            Self::Subscriptions => limits.max_subscriptions,
            Self::Selectors => limits.max_selectors,
            Self::Beats => limits.max_beats,
            Self::MessageBytes => limits.max_message_bytes,
            Self::HeaderBytes => limits.max_header_bytes,
            Self::ConcurrentStreams => limits.max_concurrent_streams,
            Self::MetadataBytes => limits.max_metadata_bytes,
            Self::MetadataDepth => limits.max_metadata_depth,
            Self::PageSize => limits.max_page_size,
            Self::LogBytes => limits.max_log_bytes,
            Self::Inbox => limits.max_inbox,
            Self::NameBytes => limits.max_name_bytes,
            Self::SelectorBytes => limits.max_selector_bytes,
            Self::Dependencies => limits.max_dependencies,
            Self::Waiting => limits.max_waiting,
            Self::WaitingDependencies => limits.max_waiting_dependencies,
            Self::Backends => limits.max_backends,
            Self::Frontends => limits.max_frontends,
            Self::Splits => limits.max_splits,
            Self::History => limits.max_history,
            Self::JsonValues => limits.max_json_values,
            Self::Connections => limits.max_connections,
            Self::PublishedBytes => limits.max_published_bytes,
            Self::PublishedRate => limits.max_published_rate,
            Self::PublishedRateTotal => limits.max_published_rate_total,
            Self::Applications => limits.max_applications,
            Self::ServiceTypes => limits.max_service_types,
            Self::CatalogVersions => limits.max_catalog_versions,
            Self::CatalogCeiling => limits.catalog_ceiling,
            Self::CatalogVersionBytes => limits.max_catalog_version_bytes,
            Self::ApplicationDependencies => limits.max_application_dependencies,
            Self::FilterValues => limits.max_filter_values,
            Self::NamedApplications => limits.max_named_applications,
            Self::ReplyBytes => limits.max_reply_bytes,
            Self::Imports => limits.max_imports,
            Self::ImportBytes => limits.max_import_bytes,
            Self::SummaryBytes => limits.max_summary_bytes,
            Self::Tokens => limits.max_tokens,
            Self::DrainAsks => limits.max_drain_asks,
            Self::TokenSecrets => limits.max_token_secrets,
        }
    }

    /// The limit of this name, if it is one.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let place = Self::LABEL.values.iter().position(|value| *value == name)?;
        Self::ALL.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    fn places<K: Key>(all: impl IntoIterator<Item = (K, String)>) {
        let names: Vec<_> = all.into_iter().map(|(key, name)| (key.place(), name)).collect();
        let values = K::LABEL.values.iter().enumerate().map(|(place, name)| (place, (*name).to_owned()));
        assert_eq!(names, values.collect::<Vec<_>>(), "{}", K::LABEL.name);
    }

    #[test]
    fn labels_are_named_as_the_api_names_them() {
        let reasons = (0..1_000).filter_map(|number| ErrorReason::try_from(number).ok());
        places(reasons.map(|reason| (reason, reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned())));
        // `InvalidArgument` is INVALID_ARGUMENT.
        let shouted = |code: Code| {
            let camel = format!("{code:?}");
            let parted = camel.chars().flat_map(|c| [c.is_ascii_uppercase().then_some('_'), Some(c)]).flatten();
            parted.collect::<String>().trim_start_matches('_').to_ascii_uppercase()
        };
        places((0..17).map(Code::from).map(|code| (code, shouted(code))));
    }

    #[test]
    fn every_call_of_the_api_has_a_name() {
        let pool = DescriptorPool::decode(crate::proto::DESCRIPTORS).expect("descriptors");
        let registry = pool.get_service_by_name("onair.v1.Registry").expect("the service");
        for method in registry.methods() {
            let rpc = Rpc::of_path(&format!("/onair.v1.Registry/{}", method.name()));
            assert_eq!(Rpc::LABEL.values[rpc.place()], method.name());
            assert_eq!(rpc.is_stream(), method.is_server_streaming(), "{}", method.name());
            assert_eq!(rpc.has_one_request(), !method.is_client_streaming(), "{}", method.name());
        }
        let limits = pool.get_message_by_name("onair.v1.Limits").expect("the message");
        let mut fields: Vec<_> = limits.fields().collect();
        fields.sort_by_key(prost_reflect::FieldDescriptor::number);
        let names: Vec<_> = fields.iter().map(|field| field.name().to_owned()).collect();
        assert_eq!(names, Limit::LABEL.values);
    }
}
