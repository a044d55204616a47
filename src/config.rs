//! Settings: one table per family that names every value, its unit, default, flag, variable and place in the file.
//!
//! Parsed, then checked, then passed whole. Knows neither the server nor the commands; reads files and the environment
//! only in `sources`, so that everything else can be tested with plain values.

mod authority;
mod kind;
mod lists;
mod pem;
mod places;
mod sources;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::OnceLock,
    time::Duration,
};

pub use authority::{Authority, Host, Namespace, WebOrigin};
pub use kind::{LogFormat, Output, Shape};
pub use places::{ConfigFile, in_order, nearest};
pub use sources::{Given, Origin, Refused, Resolved, TOKEN, locate, misspelt, platform_file, resolve};

use kind::{
    Addresses, Choice, Count, Directory, Filter, HostPort, Hosts, Kind, Location, Name, Namespaces, OnOff, Origins,
    Realms, Size, Span, Switch, Text, Zone,
};
use lists::{Blocks, Ports};
use pem::{FilePath, PemOrFile};

use crate::registry::{
    Realm,
    catalog::{BlockPattern, PortRules},
};

use crate::tls::{ClientAuth, ClientFiles, Pem, ServerFiles};

pub use crate::{
    client::DEFAULT_PORT,
    text::{duration, show_duration, show_size, size},
};

/// Longest zone, as of any instance.
const TEXT_BYTES_MAX: usize = 128;
const MIB: u64 = 1 << 20;
/// Bounds of `Span`, in milliseconds.
const HOUR: u64 = 3_600_000;

/// A family of settings that share a table of the file.
pub trait Settings: Default + 'static {
    /// Name of the table in the file, `serve` for `[serve]`.
    const SECTION: &'static str;
    /// What help calls the group.
    const HEADING: &'static str;
    /// Every setting, in the order of the fields.
    fn table() -> &'static [Setting<Self>];
    /// What is wrong with the settings as a whole, each in a sentence.
    fn check(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One row of a table: the same key gives the flag, the variable and the key in the file.
pub struct Setting<S> {
    /// The field's name, which is its key in the file.
    pub key: &'static str,
    /// `max-log-bytes`, without the dashes.
    pub flag: String,
    /// `ONAIR_MAX_LOG_BYTES`.
    pub variable: String,
    /// The field's documentation.
    pub help: String,
    /// What stands for the value in help.
    pub value_name: &'static str,
    /// How many values it takes.
    pub shape: Shape,
    /// Not shown in help.
    pub hidden: bool,
    pub(crate) read: fn(&mut S, &str) -> Result<(), String>,
    pub(crate) show: fn(&S) -> String,
}

/// Declares a struct of settings, its defaults and its table in one go.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident in $section:literal as $heading:literal checked by $check:path {
            $($(#[doc = $doc:literal])+ $([$hidden:ident])? $key:ident: $type:ty = $default:expr, $kind:ty;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl Settings for $name {
            const SECTION: &'static str = $section;
            const HEADING: &'static str = $heading;

            fn table() -> &'static [Setting<Self>] {
                static TABLE: OnceLock<Vec<Setting<$name>>> = OnceLock::new();
                TABLE.get_or_init(|| vec![$(Setting {
                    key: stringify!($key),
                    flag: stringify!($key).replace('_', "-"),
                    variable: format!("ONAIR_{}", stringify!($key).to_uppercase()),
                    help: concat!($($doc),+).trim().to_owned(),
                    value_name: <$kind as Kind<$type>>::VALUE_NAME,
                    shape: <$kind as Kind<$type>>::SHAPE,
                    hidden: stringify!($($hidden)?) == "hidden",
                    read: |settings, text| {
                        settings.$key = <$kind as Kind<$type>>::read(text)?;
                        Ok(())
                    },
                    show: |settings| <$kind as Kind<$type>>::show(&settings.$key),
                }),+])
            }

            fn check(&self) -> Vec<String> {
                $check(self)
            }
        }
    };
}

settings! {
    /// Everything that `onair serve` can be told.
    pub struct ServeSettings in "serve" as "Settings" checked by check_serve {
        /// Addresses to listen on: several by repeating the flag, or joined by commas; port 0 takes a free one, which is
        /// printed. Default 127.0.0.1:6624.
        listen: Vec<SocketAddr> = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT)], Addresses;
        /// Addresses on which probes and scrapes (/healthz, /readyz, /metrics) are answered by a thread of their own, in
        /// the manner of `listen`; without any they are answered where everything else is. Default: none.
        ops_listen: Vec<SocketAddr> = Vec::new(), Addresses;
        /// Directory of the registry's data, created if it is not there. Default: `onair` in the platform's directory
        /// for data, on Linux ~/.local/share/onair.
        data_dir: PathBuf = platform_data_dir(), Directory;
        /// Keep nothing on disk; `data_dir` is not used. Each start is then a new, empty registry. Default false.
        ephemeral: bool = false, Switch;
        /// Listen beyond loopback although nobody is asked for a certificate or a token, so that whoever reaches the port is
        /// an operator. Default false.
        insecure: bool = false, Switch;
        /// Certificate of this server in PEM, followed by what leads to its authority: a file, or the PEM itself. With it
        /// every address speaks TLS, and nothing else. `onair tls init` makes one. Default: none.
        tls_cert: Option<Pem> = None, PemOrFile;
        /// The private key of `tls_cert` in PEM: a file, or the PEM itself, which belongs in the environment and not on a
        /// command line. Default: none.
        tls_key: Option<Pem> = None, PemOrFile;
        /// Authorities in PEM whose certificates clients may show: a file, or the PEM itself. Default: none, so that no
        /// client is asked for one.
        tls_client_ca: Option<Pem> = None, PemOrFile;
        /// Whether a client needs a certificate where `tls_client_ca` is given: required, or optional, where one that is
        /// shown has to be good. Probes and scrapes on `ops_listen` need none. Default required.
        tls_client_auth: Option<ClientAuth> = None, Choice;
        /// Threads that serve connections, 1 to 256; with one, that thread owns the state too. Default 1.
        io_threads: usize = 1, Count<1, 256>;
        /// After a restart no lease ends sooner than this from when the port answers. Default 30s.
        restart_grace: Duration = Duration::from_secs(30), Span<0, HOUR>;
        /// Bytes of events kept in memory, so that watches can continue after a pause. Default 64MiB.
        max_log_bytes: u64 = 64 * MIB, Size<{ 64 << 10 }, { 1 << 40 }>;
        /// Hold lapses back for another TTL when most of a service's instances in a zone, and at least five, fall silent at
        /// once: on or off. Default on.
        breaker: bool = true, OnOff;
        /// Namespaces in which no lapse is held back, though `breaker` is on: several by repeating the flag, or joined by
        /// commas. Default none.
        breaker_off: Vec<Namespace> = Vec::new(), Namespaces;
        /// What to log, as tracing's filter: a level, or `target=level` joined by commas. Default info.
        log: String = "info".to_owned(), Filter;
        /// How to log: human, json, or auto, which is human on a terminal and json otherwise. Default auto.
        log_format: LogFormat = LogFormat::Auto, Choice;
        /// Address that other members and clients are told, as host:port. Default: the address listened on.
        advertise: Option<String> = None, HostPort;
        /// Whether the registry is an instance of its own service `onair`, in the namespace `default`: on or off. Default on.
        register_itself: bool = true, OnOff;
        /// Zone that the registry says it runs in, for its own instance. Default: none.
        zone: String = String::new(), Zone;
        /// Hosts, besides localhost and the addresses listened on, by which browsers and HTTP clients may call this server:
        /// names that lead to it, without ports. Default: that of `advertise`.
        http_hosts: Vec<Host> = Vec::new(), Hosts;
        /// Ask everybody who they are, and let them do what their token allows. The first start with it writes an operator's
        /// token to `operator_token`. Default false.
        auth: bool = false, Switch;
        /// The file for the operator's token, readable by its owner alone. It is written when no token that is good may do
        /// everything, and a file that is named here also when it has no good one. Default: operator.token in `data_dir`.
        operator_token: Option<PathBuf> = None, FilePath;
        /// What may be read by who has no token: namespaces, or parts of them, as in public/status-*; * is everything.
        /// Default none.
        anonymous_read: Vec<Realm> = Vec::new(), Realms;
        /// The file of the audit log: a line of JSON for every change and every refusal, who asked for it, and what became of
        /// it; `-` is standard output. Default: none.
        audit_log: Option<PathBuf> = None, FilePath;
        /// Bytes of a file of the audit log; then it is kept beside it, and a new one begun. Default 64MiB.
        audit_log_bytes: u64 = 64 * MIB, Size<{ 64 << 10 }, { 1 << 40 }>;
        /// How many files of the audit log there are; the oldest goes. Default 10.
        audit_log_files: usize = 10, Count<1, 1_000>;
        /// Keys by which JSON Web Tokens of `jwt_issuer` are verified, beside our own tokens: a file with a JWKS, or with a
        /// secret for HS256 of at least 32 bytes. It is read again when it changes. Default: none.
        jwt_keys: Option<PathBuf> = None, FilePath;
        /// Who issues them: their `iss`. Default: none.
        jwt_issuer: String = String::new(), Text;
        /// For whom they are issued: one of their `aud`. Default onair.
        jwt_audience: String = "onair".to_owned(), Text;
        /// By how much the issuer's clock may differ from ours. Default 30s.
        jwt_leeway: Duration = Duration::from_secs(30), Span<0, 600_000>;
        /// Take registrations without a lease token by the routes under `/registrations`: on or off. Default on.
        unfenced_http: bool = true, OnOff;
        /// Origins of other servers' pages that may call this one from a browser, like `https://shop.example`. Default
        /// none.
        cors_origins: Vec<WebOrigin> = Vec::new(), Origins;
        /// How long SIGTERM waits for open streams to end. Default 5s.
        drain_wait: Duration = Duration::from_secs(5), Span<0, HOUR>;
        /// Serve onair.bench.v1.Floor, with which benchmarks compare. Default false.
        [hidden] bench_floor: bool = false, Switch;
        /// How many external ports of the catalog are a block, 10 or more: the types it begins with have offsets up to 9.
        /// Default 10.
        catalog_block_size: u16 = 10, Count<10, 10_000>;
        /// Where the first block of the catalog begins, a multiple of its size. Default 6000.
        catalog_floor: u16 = 6_000, Count<1_025, 65_535>;
        /// The last external port that the catalog gives out. Default 65535.
        catalog_ceiling: u16 = 65_535, Count<1_025, 65_535>;
        /// Blocks that the catalog never gives out, by a port that is in them or, after a `*`, by what their number ends
        /// in. Default *00,8080.
        catalog_denied_blocks: Vec<BlockPattern> = PortRules::default().denied_blocks, Blocks;
        /// Ports that the catalog never gives out. Default 8080.
        catalog_denied_ports: Vec<u16> = PortRules::default().denied_ports.into_iter().collect(), Ports;
        /// Limit on instances in the whole registry. Default 2000000.
        max_instances: usize = 2_000_000, Count<1, { u32::MAX as u64 }>;
        /// Limit on services known in the whole registry. Default 1000000.
        max_services: usize = 1_000_000, Count<1, { u32::MAX as u64 }>;
        /// Limit on namespaces. Default 10000.
        max_namespaces: usize = 10_000, Count<1, { u32::MAX as u64 }>;
        /// Limit on watches and subscriptions open at once. Default 100000.
        max_watches: usize = 100_000, Count<1, { u32::MAX as u64 }>;
        /// Limit on the bytes of what the summaries of all watches are counted by. Default 256MiB.
        max_summary_bytes: u64 = 256 * MIB, Size<{ 1 << 10 }, { 1 << 40 }>;
        /// Limit on subscriptions of one Subscribe stream. Default 10000.
        max_subscriptions: usize = 10_000, Count<1, { u32::MAX as u64 }>;
        /// Limit on selectors of one watch or subscription. Default 100.
        max_selectors: usize = 100, Count<1, 100_000>;
        /// Limit on beats in one message, and on tokens in one Deregister. Default 10000.
        max_beats: usize = 10_000, Count<1, 1_000_000>;
        /// Limit on the bytes of a request. Default 4MiB.
        max_message_bytes: usize = 4 << 20, Size<{ 32 << 10 }, { 1 << 30 }>;
        /// Limit on the bytes of a request's headers. Default 16KiB.
        max_header_bytes: u32 = 16 << 10, Size<1024, { 1 << 24 }>;
        /// Limit on calls and streams open at once on one connection. Default 2000.
        max_concurrent_streams: u32 = 2_000, Count<1, { 1 << 31 }>;
        /// Limit on connections open at once; one more is closed at once. There are never more than the limit on open files
        /// leaves room for: a part of it is kept back for the store and for `ops_listen`. Default 100000.
        max_connections: usize = 100_000, Count<1, { u32::MAX as u64 }>;
        /// Limit on commands that wait for the state; one more is refused at once. Default 8192.
        max_inbox: usize = 8_192, Count<16, 1_000_000>;
    }
}

settings! {
    /// What every command that calls a registry can be told.
    pub struct ClientSettings in "client" as "Registry and output" checked by check_client {
        /// The registry: host:port, or http://host1,host2/namespace?ttl=5s&timeout=2s, whose hosts are tried in turn; by TLS
        /// with https://, or without a protocol where `ca` or `cert` is given. Default http://127.0.0.1:6624.
        url: String = format!("http://127.0.0.1:{DEFAULT_PORT}"), Location;
        /// The namespace to speak of; in reads * means all. Default: the url's, else `default`.
        namespace: String = String::new(), Name;
        /// File with the token that calls are made with. Without it the environment's ONAIR_TOKEN is the token itself, if it
        /// is set; no flag is, since everybody on a machine can read flags. Default: none.
        token_file: Option<PathBuf> = None, FilePath;
        /// Send the token also to other machines without TLS, where whoever is on the way can read it. Default false.
        token_in_clear: bool = false, Switch;
        /// How long one call to one host may take. Default 10s.
        timeout: Duration = Duration::from_secs(10), Span<1, { 24 * HOUR }>;
        /// Authorities in PEM by which a registry at https:// is believed: a file, or the PEM itself. Default: those that
        /// this system believes.
        ca: Option<Pem> = None, PemOrFile;
        /// Certificate to show to a registry at https://, in PEM, followed by what leads to its authority: a file, or the
        /// PEM itself. Default: none.
        cert: Option<Pem> = None, PemOrFile;
        /// The private key of `cert` in PEM: a file, or the PEM itself, which belongs in the environment and not on a
        /// command line. Default: none.
        key: Option<Pem> = None, PemOrFile;
        /// How to print: table, json (one object, for streams one a line), or curl: the command that makes the same call
        /// over HTTP, instead of making it. Default table.
        output: Output = Output::Table, Choice;
    }
}

impl ServeSettings {
    /// How the catalog gives ports out.
    #[must_use]
    pub fn port_rules(&self) -> PortRules {
        PortRules {
            block_size: self.catalog_block_size,
            floor: self.catalog_floor,
            ceiling: self.catalog_ceiling,
            denied_blocks: self.catalog_denied_blocks.clone(),
            denied_ports: self.catalog_denied_ports.iter().copied().collect(),
        }
    }
}

/// `~/.local/share/onair` and its like; empty where the platform knows no home.
fn platform_data_dir() -> PathBuf {
    directories::ProjectDirs::from("", "", "onair").map_or_else(PathBuf::new, |dirs| dirs.data_dir().to_owned())
}

fn check_serve(settings: &ServeSettings) -> Vec<String> {
    let mut wrong = Vec::new();
    let bound: Vec<_> = [("listen", &settings.listen), ("ops_listen", &settings.ops_listen)]
        .into_iter()
        .flat_map(|(setting, addresses)| addresses.iter().map(move |address| (setting, address)))
        .collect();
    if !settings.insecure && !settings.is_protected() {
        wrong.extend(bound.iter().filter(|(_, address)| !is_loopback(address)).map(|(setting, address)| {
            format!(
                "{setting}: {address} can be reached from other machines, and whoever reaches it may do everything: ask \
                 for client certificates with --tls-cert, --tls-key and --tls-client-ca (`onair tls init` makes all \
                 three), or for tokens with --auth, or add --insecure if that is meant"
            )
        }));
    }
    wrong.extend(check_tls(settings));
    for (position, (setting, address)) in bound.iter().enumerate() {
        if address.port() != 0 && bound[..position].iter().any(|(_, before)| before == address) {
            wrong.push(format!("{setting}: {address} is given twice"));
        }
    }
    if settings.breaker_off.iter().any(|namespace| namespace.as_str() == "*") {
        wrong.push("breaker_off: must be one namespace: `--breaker off` is for all of them".to_owned());
    }
    if settings.zone.len() > TEXT_BYTES_MAX || settings.zone.chars().any(char::is_control) {
        wrong.push(format!("zone: must be at most {TEXT_BYTES_MAX} bytes without control characters"));
    }
    if settings.data_dir.as_os_str().is_empty() && !settings.ephemeral {
        wrong.push("data_dir: this platform names no directory for data: give --data-dir, or --ephemeral".to_owned());
    }
    let faults = settings.port_rules().faults();
    wrong.extend(faults.into_iter().map(|(setting, fault)| format!("catalog_{setting}: {fault}")));
    if settings.auth && settings.ephemeral && settings.operator_token.is_none() {
        wrong.push(
            "operator_token: nothing is kept, so --auth needs --operator-token to say where the operator's goes"
                .to_owned(),
        );
    }
    if !settings.auth && settings.operator_token.is_some() {
        wrong.push("operator_token: says nothing without --auth: everybody may do everything".to_owned());
    }
    if !settings.auth && settings.jwt_keys.is_some() {
        wrong.push("jwt_keys: says nothing without --auth: everybody may do everything".to_owned());
    }
    if settings.jwt_keys.is_some() && (settings.jwt_issuer.is_empty() || settings.jwt_audience.is_empty()) {
        wrong.push(
            "jwt_keys: needs --jwt-issuer and --jwt-audience: keys say neither who has them nor for whom".to_owned(),
        );
    }
    if settings.jwt_keys.is_none() && !settings.jwt_issuer.is_empty() {
        wrong.push("jwt_issuer: without jwt_keys it is of no use".to_owned());
    }
    if !settings.auth && !settings.anonymous_read.is_empty() {
        wrong.push("anonymous_read: says nothing without --auth: everybody may do everything".to_owned());
    }
    wrong
}

fn check_tls(settings: &ServeSettings) -> Vec<String> {
    let needs = [
        ("tls_cert", settings.tls_cert.is_some(), "tls_key", settings.tls_key.is_some()),
        ("tls_key", settings.tls_key.is_some(), "tls_cert", settings.tls_cert.is_some()),
        ("tls_client_ca", settings.tls_client_ca.is_some(), "tls_cert", settings.tls_cert.is_some()),
        ("tls_client_auth", settings.tls_client_auth.is_some(), "tls_client_ca", settings.tls_client_ca.is_some()),
    ];
    let missing = needs.into_iter().filter(|(_, given, _, there)| *given && !there);
    missing.map(|(setting, _, other, _)| format!("{setting}: without {other} it is of no use")).collect()
}

impl ServeSettings {
    /// Whether somebody who only reaches the port can do nothing: the one place that says what is enough (promise 19).
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let auth = self.tls_client_auth.unwrap_or(ClientAuth::Required);
        let asks_for_certificates = self.tls_client_ca.is_some() && auth == ClientAuth::Required;
        self.auth || self.tls_cert.is_some() && asks_for_certificates
    }

    /// What TLS is made of, if it is spoken.
    #[must_use]
    pub fn tls(&self) -> Option<ServerFiles> {
        let auth = self.tls_client_auth.unwrap_or(ClientAuth::Required);
        let clients = self.tls_client_ca.clone().map(|authorities| (authorities, auth));
        Some(ServerFiles { certificate: self.tls_cert.clone()?, key: self.tls_key.clone()?, clients })
    }
}

fn check_client(settings: &ClientSettings) -> Vec<String> {
    match (&settings.cert, &settings.key) {
        (Some(_), None) => vec!["cert: without key it is of no use".to_owned()],
        (None, Some(_)) => vec!["key: without cert it is of no use".to_owned()],
        _ => Vec::new(),
    }
}

impl ClientSettings {
    /// What TLS is made of, if it is spoken.
    #[must_use]
    pub fn tls(&self) -> ClientFiles {
        ClientFiles { ca: self.ca.clone(), pair: self.cert.clone().zip(self.key.clone()) }
    }
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests;
