//! Instances and the enums that speak of them. The wire form is the stored form: the structs here are what
//! `proto/onair/v1/instance.proto` describes (a test compares them with its descriptor).

use std::collections::BTreeMap;

/// One running copy of a service; see the proto for the meaning of each field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Instance {
    /// The tenant's world.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// The name that clients look up.
    #[prost(string, tag = "2")]
    pub service: String,
    /// Which copy this is.
    #[prost(string, tag = "3")]
    pub id: String,
    /// A DNS name or IP address, IPv6 without brackets.
    #[prost(string, tag = "4")]
    pub host: String,
    /// The main port; 0 is none.
    #[prost(uint32, tag = "5")]
    pub port: u32,
    /// Free text; ranges apply to semantic versions only.
    #[prost(string, tag = "6")]
    pub version: String,
    /// Where it runs.
    #[prost(string, tag = "7")]
    pub zone: String,
    /// Share of the traffic; absent is 1.
    #[prost(uint32, optional, tag = "8")]
    pub weight: Option<u32>,
    /// What it says of itself, or the registry of it.
    #[prost(enumeration = "Status", tag = "9")]
    pub status: i32,
    /// The revision of its registration.
    #[prost(uint64, tag = "10")]
    pub incarnation: u64,
    /// The revision of its last change.
    #[prost(uint64, tag = "11")]
    pub revision: u64,
    /// Scheme of the url.
    #[prost(string, tag = "16")]
    pub protocol: String,
    /// Where to reach it.
    #[prost(string, tag = "17")]
    pub url: String,
    /// More named ports.
    #[prost(btree_map = "string, uint32", tag = "18")]
    pub ports: BTreeMap<String, u32>,
    /// Any JSON document.
    #[prost(message, optional, tag = "19")]
    pub metadata: Option<prost_types::Value>,
    /// Wall-clock time of the registration.
    #[prost(message, optional, tag = "20")]
    pub online_since: Option<prost_types::Timestamp>,
    /// Whose replica it is.
    #[prost(string, tag = "21")]
    pub partition_key: String,
}

impl Instance {
    /// `host:port`, IPv6 in brackets; without a port the host alone.
    #[must_use]
    pub fn address(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 0 { host } else { format!("{host}:{}", self.port) }
    }
}

/// The status of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Status {
    /// Not said.
    Unspecified = 0,
    /// Registered, not ready.
    Starting = 1,
    /// Ready for traffic.
    Serving = 2,
    /// Finishing what it has.
    Draining = 3,
    /// Held by the breaker.
    Suspect = 4,
    /// Taken out by an operator.
    Maintenance = 5,
}

impl Status {
    /// Whether Lookup and Watch mean it unless asked otherwise.
    #[must_use]
    pub fn is_routable(self) -> bool {
        matches!(self, Self::Serving | Self::Suspect)
    }
}

/// What happened to an instance, as seen through a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EventType {
    /// Never sent.
    Unspecified = 0,
    /// Now in the set.
    Online = 1,
    /// Still in the set, changed.
    Updated = 2,
    /// No longer in the set.
    Offline = 3,
}

/// Why it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Cause {
    /// None given.
    Unspecified = 0,
    /// A new registration.
    Registered = 1,
    /// There when the watch began.
    Snapshot = 2,
    /// An existing instance came to match.
    Matched = 3,
    /// Its registrant took it away.
    Deregistered = 4,
    /// No heartbeat within its TTL.
    Expired = 5,
    /// A new incarnation took its key.
    Replaced = 6,
    /// Another service took its url.
    Moved = 7,
    /// No longer matches.
    Filtered = 8,
    /// The frontend points elsewhere.
    Switched = 9,
    /// No longer matches: draining.
    Draining = 10,
    /// No longer matches: in maintenance.
    Maintenance = 11,
    /// An operator removed it.
    Operator = 12,
    /// A quota was lowered.
    Quota = 13,
}
