//! What may be registered: a request's instance is checked and completed here, once, into a type that cannot be wrong.
//! Knows neither the state nor a clock, a random number or a socket: what those supply is handed in.

use std::net::IpAddr;

use prost_types::Duration;
use uuid::Uuid;

use super::{
    Instance, Status,
    error::Violation,
    key::{Key, request_fingerprint},
    name::{DEFAULT_NAMESPACE, MAX_NAME_BYTES, check_name, check_new_namespace},
    needs::Needs,
};

mod location;
pub(super) mod metadata;
#[cfg(test)]
mod tests;
mod visible;

use location::Location;
pub use metadata::{BYTES_MAX as METADATA_BYTES_MAX, DEPTH_MAX as METADATA_DEPTH_MAX};
pub use visible::publish_only;

/// Makes metadata, or what is like it, canonical and tells which rules it breaks.
pub(super) fn check_metadata(value: &mut prost_types::Value) -> Vec<String> {
    metadata::check(value)
}

/// Health checks of these names speak of the server itself.
const SERVICES_RESERVED: [&str; 7] = [
    "onair.v1.Registry",
    "onair.v1.Deployments",
    "onair.v1.Catalog",
    "onair.v1.Admin",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
/// The protocol of those who name none.
const DEFAULT_PROTOCOL: &str = "http";
/// Longest version, zone and request id, in bytes.
const TEXT_BYTES_MAX: usize = 128;
/// Most named ports.
const PORTS_MAX: usize = 64;
/// Weight of what names none.
const DEFAULT_WEIGHT: u32 = 1;
/// Largest weight.
const WEIGHT_MAX: u32 = 1_000_000;

/// How long a lease lives without a heartbeat, in milliseconds: 1 s to 1 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseTtl(u32);

impl LeaseTtl {
    /// Of those who ask for none.
    pub const DEFAULT: Self = Self(10_000);
    /// The shortest.
    pub const MIN: Self = Self(1_000);
    /// The longest.
    pub const MAX: Self = Self(3_600_000);
    /// Of the registry's own instance, which lives as long as its process does. No request asks for it.
    pub const OWN: Self = Self(0);

    /// The TTL that `asked` gives: none or 0 is the default, anything else is rounded up to whole milliseconds and
    /// clamped. Refused are negative ones and what is not a duration (nanoseconds of a second or more).
    pub fn parse(asked: Option<Duration>) -> Result<Self, Violation> {
        let refused =
            |description: &str| Err(Violation { field: "ttl".to_owned(), description: description.to_owned() });
        let Duration { seconds, nanos } = asked.unwrap_or_default();
        if seconds < 0 || (seconds == 0 && nanos < 0) {
            return refused("must not be negative");
        }
        if !(0..1_000_000_000).contains(&nanos) {
            return refused("must have nanoseconds of less than a second, and of the same sign as its seconds");
        }
        if seconds == 0 && nanos == 0 {
            return Ok(Self::DEFAULT);
        }
        let part = u64::from(nanos.unsigned_abs()).div_ceil(1_000_000);
        let millis = seconds.unsigned_abs().saturating_mul(1_000).saturating_add(part);
        Ok(Self(u32::try_from(millis).unwrap_or(u32::MAX)).clamp(Self::MIN, Self::MAX))
    }

    /// In milliseconds.
    #[must_use]
    pub fn millis(self) -> u32 {
        self.0
    }
}

/// What completes a registration beside the request's fields.
pub struct Context<'a> {
    /// Where the call came from.
    pub peer: IpAddr,
    /// Makes a UUIDv7; asked only if nothing else gives an id.
    pub fresh_id: &'a mut dyn FnMut() -> String,
    /// The request's `request_id`.
    pub request_id: &'a str,
}

/// A registration that keeps every rule of one request alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// Completed and in canonical form: no name is empty, the host has no brackets, the weight is there, and an omitted
    /// status stays so (what it means depends on what is registered already). What the server sets is cleared.
    pub instance: Instance,
    /// How long its lease lives.
    pub ttl: LeaseTtl,
    /// Fingerprint of the request id; none if there is none.
    pub request_id: Option<u64>,
    /// What has to be there for it; nothing until somebody says so.
    pub needs: Needs,
    /// Whether nobody else in its namespace keeps its url.
    pub exclusive_url: bool,
}

impl Registration {
    /// The key of what is registered.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::new(&*self.instance.namespace, &*self.instance.service, &*self.instance.id)
    }

    /// Checks and completes what was asked for, or names everything that is wrong with it.
    ///
    /// A given url supplies what is left out of host, port and protocol; it supplies a port only if it names one, and
    /// is kept as it is but for a wildcard address in it, which becomes the host. Parsing what came out gives it again.
    pub fn parse(mut instance: Instance, ttl: Option<Duration>, context: Context<'_>) -> Result<Self, Vec<Violation>> {
        let mut check = Check::default();
        check.names(&mut instance);
        check.place(&mut instance, context.peer);
        check.description(&mut instance);
        if context.request_id.len() > TEXT_BYTES_MAX {
            check.add("request_id", too_long(context.request_id));
        }
        let ttl = LeaseTtl::parse(ttl).unwrap_or_else(|violation| {
            check.violations.push(violation);
            LeaseTtl::DEFAULT
        });
        if check.violations.is_empty() && instance.id.is_empty() {
            instance.id = (context.fresh_id)();
        }
        if !check.violations.is_empty() {
            return Err(check.violations);
        }
        (instance.incarnation, instance.revision, instance.online_since) = (0, 0, None);
        let request_id = (!context.request_id.is_empty()).then(|| request_fingerprint(context.request_id));
        Ok(Self { instance, ttl, request_id, needs: Needs::default(), exclusive_url: false })
    }
}

fn too_long(text: &str) -> String {
    format!("must be at most {TEXT_BYTES_MAX} bytes, not {}", text.len())
}

/// Gathers what is wrong.
#[derive(Default)]
struct Check {
    violations: Vec<Violation>,
}

impl Check {
    fn add(&mut self, field: &str, description: impl Into<String>) {
        self.violations.push(Violation { field: field.to_owned(), description: description.into() });
    }

    /// Namespace and service, and the id if it is given.
    fn names(&mut self, instance: &mut Instance) {
        if instance.namespace.is_empty() {
            instance.namespace = DEFAULT_NAMESPACE.to_owned();
        }
        check_new_namespace("instance.namespace", &instance.namespace, &mut self.violations);
        check_name("instance.service", &instance.service, &mut self.violations);
        if SERVICES_RESERVED.contains(&instance.service.as_str()) {
            self.add("instance.service", "is the name of a gRPC service of the server itself");
        }
        if !instance.id.is_empty() {
            check_name("instance.id", &instance.id, &mut self.violations);
        }
    }

    /// Host, port, protocol and url, which complete one another, and the id that they give.
    fn place(&mut self, instance: &mut Instance, peer: IpAddr) {
        let url = (!instance.url.is_empty()).then(|| Location::parse(&instance.url)).transpose();
        let url = url.unwrap_or_else(|why| {
            self.add("instance.url", why);
            None
        });
        self.host(instance, url.as_ref(), peer);
        if instance.port > u32::from(u16::MAX) {
            self.add("instance.port", "must be 1 to 65535, or 0 for none");
        } else if instance.port == 0 {
            instance.port = url.as_ref().map_or(0, |url| url.port);
        }
        if !instance.protocol.is_empty() {
            // Schemes are equal whatever their case.
            instance.protocol.make_ascii_lowercase();
            if let Err(why) = location::protocol(&instance.protocol) {
                self.add("instance.protocol", why);
            }
        } else {
            instance.protocol = url.as_ref().map_or(DEFAULT_PROTOCOL, |url| &url.protocol).to_owned();
        }
        if self.violations.is_empty() {
            self.complete(instance, url.as_ref());
        }
    }

    /// The host: given, else the url's, else the peer's address. A wildcard counts as left out, and one in the url
    /// becomes the host, for nobody else could reach it.
    fn host(&mut self, instance: &mut Instance, url: Option<&Location>, peer: IpAddr) {
        let given = location::host(&instance.host).unwrap_or_else(|why| {
            self.add("instance.host", why);
            None
        });
        let host =
            given.or_else(|| url.and_then(|url| url.host.clone())).unwrap_or_else(|| peer.to_canonical().to_string());
        if let Some(Location { host: None, span, .. }) = url {
            instance.url.replace_range(span.clone(), &location::bracketed(&host));
            if instance.url.len() > location::URL_BYTES_MAX {
                self.add("instance.url", format!("must be at most {} bytes with its host", location::URL_BYTES_MAX));
            }
        }
        instance.host = host;
    }

    /// Url and id, from a place without fault. The id stays empty if nothing gives one.
    fn complete(&mut self, instance: &mut Instance, url: Option<&Location>) {
        let authority = instance.address();
        if instance.id.is_empty() {
            if url.is_some_and(|url| url.has_path) {
                instance.id = Uuid::new_v5(&Uuid::NAMESPACE_URL, instance.url.as_bytes()).to_string();
            } else if instance.port != 0 {
                if authority.len() > MAX_NAME_BYTES {
                    self.add(
                        "instance.id",
                        format!("must be given: host and port are more than {MAX_NAME_BYTES} bytes"),
                    );
                }
                instance.id.clone_from(&authority);
            }
        }
        if url.is_none() {
            instance.url = format!("{}://{authority}", instance.protocol);
        }
    }

    /// Everything that names no place.
    fn description(&mut self, instance: &mut Instance) {
        for (field, text) in [
            ("instance.version", &instance.version),
            ("instance.zone", &instance.zone),
            ("instance.partition_key", &instance.partition_key),
        ] {
            if text.len() > TEXT_BYTES_MAX {
                self.add(field, too_long(text));
            }
            if text.chars().any(char::is_control) {
                self.add(field, "must not contain control characters");
            }
        }
        // Filled in, so that no reader takes an absent weight for 0, which means no traffic.
        if *instance.weight.get_or_insert(DEFAULT_WEIGHT) > WEIGHT_MAX {
            self.add("instance.weight", format!("must be at most {WEIGHT_MAX}"));
        }
        match Status::try_from(instance.status) {
            Ok(Status::Unspecified | Status::Starting | Status::Serving | Status::Draining) => {}
            Ok(Status::Suspect | Status::Maintenance) => {
                self.add("instance.status", "is set by the registry alone");
            }
            Err(_) => self.add("instance.status", format!("must be a known status, not {}", instance.status)),
        }
        self.ports(instance);
        if let Some(value) = &mut instance.metadata {
            for why in metadata::check(value) {
                self.add("instance.metadata", why);
            }
        }
    }

    /// The named ports. Of too many only the first are looked at, so that the answer stays small.
    fn ports(&mut self, instance: &Instance) {
        if instance.ports.len() > PORTS_MAX {
            self.add("instance.ports", format!("must be at most {PORTS_MAX}, not {}", instance.ports.len()));
        }
        for (name, port) in instance.ports.iter().take(PORTS_MAX) {
            let field = port_field(name);
            check_name(&field, name, &mut self.violations);
            if !(1..=u32::from(u16::MAX)).contains(port) {
                self.add(&field, "must be 1 to 65535");
            }
        }
    }
}

/// `instance.ports["name"]`, with what cannot be shown escaped and a long name cut.
fn port_field(name: &str) -> String {
    match name.char_indices().nth(32) {
        Some((end, _)) => format!("instance.ports[\"{}…\"]", name[..end].escape_debug()),
        None => format!("instance.ports[\"{}\"]", name.escape_debug()),
    }
}
