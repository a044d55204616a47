//! What the state holds of one instance: its wire form, encoded once, and its lease. Knows neither time nor slots.

use std::{ops::Deref, sync::Arc};

use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_varint, encoded_len_varint, skip_field},
};
use triomphe::ThinArc;

use super::{
    Instance, Status,
    key::{Fingerprint, Key, Revision},
    token::{LeaseId, SecretHash},
};

/// Wire tags (field number and varint type) of the two fields that are known at commit only.
const INCARNATION_TAG: u8 = 10 << 3;
const REVISION_TAG: u8 = 11 << 3;

/// Field numbers of `Instance.version`, `Instance.zone` and `Instance.status`.
const VERSION_TAG: u32 = 6;
const ZONE_TAG: u32 = 7;
const STATUS_TAG: u32 = 9;
/// And of `Instance.partition_key`.
const PARTITION_KEY_TAG: u32 = 21;

/// Who may keep an instance, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Time to live in milliseconds.
    pub ttl: u32,
    /// Hash of the current token's secret.
    pub secret: SecretHash,
    /// Fingerprint of the request that made or last confirmed the registration; 0 for none.
    pub request: u64,
    /// Who registered it; none when everyone is one principal.
    pub principal: Option<Arc<str>>,
    /// Whether nobody holds a token of it: whoever registered it keeps it by naming its place.
    pub unfenced: bool,
}

impl Lease {
    /// Whose it is once `name` has renewed it: what nobody in particular registered is bound to who comes first.
    #[must_use]
    pub fn bound_to(&self, name: Option<&Arc<str>>) -> Option<Arc<str>> {
        self.principal.as_ref().or(name).cloned()
    }
}

/// An instance as committed: what the registry knows of it, and the encoded `Instance`, which begins with namespace, service
/// and id. Immutable: a change makes a new one. All of it is one piece of memory, which clones share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record(ThinArc<Head, u8>);

/// What the registry knows of an instance beside what that says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Its lease.
    pub lease: Lease,
    /// The revision of the registration.
    pub incarnation: Revision,
    /// The revision of the last change that a watcher can see.
    pub revision: Revision,
    /// The registration's place in its revision.
    pub ordinal: u32,
    /// Of its key.
    pub fingerprint: Fingerprint,
    /// Its status.
    pub status: Status,
}

impl Deref for Record {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.0.header.header
    }
}

impl Record {
    /// The record of `description` (an encoded `Instance` without incarnation and revision) as of the given revisions.
    /// A description that is not one gives a record without names; the state never makes such.
    #[must_use]
    pub fn new(description: &[u8], lease: Lease, incarnation: Revision, ordinal: u32, revision: Revision) -> Self {
        let tail = 2 + encoded_len_varint(incarnation) + encoded_len_varint(revision);
        let mut bytes = Vec::with_capacity(description.len() + tail);
        bytes.extend_from_slice(description);
        bytes.push(INCARNATION_TAG);
        encode_varint(incarnation, &mut bytes);
        bytes.push(REVISION_TAG);
        encode_varint(revision, &mut bytes);
        let status = status(description);
        let (namespace, service, id) = names(description);
        let fingerprint = Fingerprint::of(namespace, service, id);
        let head = Head { lease, incarnation, revision, ordinal, fingerprint, status };
        Self(ThinArc::from_header_and_slice(head, &bytes))
    }

    /// Whether both are the same piece of memory: nothing was put in between.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.heap_ptr() == other.0.heap_ptr()
    }

    /// How many hold it.
    #[must_use]
    pub fn holders(&self) -> usize {
        ThinArc::strong_count(&self.0)
    }

    /// The encoded `Instance`, complete.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.slice
    }

    /// The decoded instance.
    #[must_use]
    pub fn instance(&self) -> Instance {
        Instance::decode(self.bytes()).unwrap_or_default()
    }

    /// The encoded `Instance` as it was described: without incarnation and revision.
    #[must_use]
    pub fn description(&self) -> &[u8] {
        let tail = 2 + encoded_len_varint(self.incarnation) + encoded_len_varint(self.revision);
        let bytes = self.bytes();
        &bytes[..bytes.len() - tail]
    }

    /// Namespace, service and id.
    #[must_use]
    pub fn names(&self) -> (&str, &str, &str) {
        names(self.bytes())
    }

    /// The id alone, as bytes: UTF-8 sorts as its bytes do.
    #[must_use]
    pub fn id_bytes(&self) -> &[u8] {
        let (_, rest) = string_field(self.bytes());
        let (_, rest) = string_field(rest);
        string_field(rest).0
    }

    /// Where it runs.
    #[must_use]
    pub fn zone(&self) -> &str {
        std::str::from_utf8(zone(self.bytes())).unwrap_or_default()
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Key {
        let (namespace, service, id) = self.names();
        Key::new(namespace, service, id)
    }

    /// The version; empty if it has none.
    #[must_use]
    pub fn version(&self) -> &str {
        version(self.bytes())
    }

    /// Whose replica it is; empty for the partition without a name.
    #[must_use]
    pub fn partition_key(&self) -> &str {
        std::str::from_utf8(text_field(self.bytes(), PARTITION_KEY_TAG)).unwrap_or_default()
    }

    /// Which registration it is.
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        LeaseId { revision: self.incarnation, ordinal: self.ordinal }
    }

    /// Whether lookups and watches mean it unless asked otherwise.
    #[must_use]
    pub fn is_routable(&self) -> bool {
        self.status.is_routable()
    }

    /// Roughly the memory it takes, in bytes.
    #[must_use]
    pub fn footprint(&self) -> usize {
        // With the number of its clones and the number of its bytes.
        size_of::<Head>() + 16 + self.bytes().len()
    }
}

/// The status of an encoded instance. Decoding all of it would be most of the time that a restart takes.
fn status(mut encoded: &[u8]) -> Status {
    let mut status = Status::Unspecified;
    while let Ok((tag, wire_type)) = decode_key(&mut encoded) {
        if tag == STATUS_TAG && wire_type == WireType::Varint {
            let Ok(number) = decode_varint(&mut encoded) else { break };
            status = Status::try_from(number as i32).unwrap_or(Status::Unspecified);
        } else if skip_field(wire_type, tag, &mut encoded, DecodeContext::default()).is_err() {
            break;
        }
    }
    status
}

/// The zone of an encoded instance.
fn zone(encoded: &[u8]) -> &[u8] {
    text_field(encoded, ZONE_TAG)
}

/// The version of an encoded instance.
fn version(encoded: &[u8]) -> &str {
    std::str::from_utf8(text_field(encoded, VERSION_TAG)).unwrap_or_default()
}

/// A text of an encoded instance, found without decoding the rest.
fn text_field(mut encoded: &[u8], number: u32) -> &[u8] {
    while let Ok((tag, wire_type)) = decode_key(&mut encoded) {
        if tag == number && wire_type == WireType::LengthDelimited {
            let len = decode_varint(&mut encoded).unwrap_or_default() as usize;
            return encoded.get(..len).unwrap_or_default();
        }
        // Fields are written in the order of their numbers.
        if tag > number || skip_field(wire_type, tag, &mut encoded, DecodeContext::default()).is_err() {
            break;
        }
    }
    &[]
}

/// Namespace, service and id at the head of an encoded instance.
#[must_use]
pub fn names(encoded: &[u8]) -> (&str, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    let (namespace, rest) = string_field(encoded);
    let (service, rest) = string_field(rest);
    let (id, _) = string_field(rest);
    (text(namespace), text(service), text(id))
}

/// The string field at the head, and what follows it. Names are at most 255 bytes: their length takes one or two bytes.
fn string_field(encoded: &[u8]) -> (&[u8], &[u8]) {
    let (len, at) = match encoded {
        [_, low, ..] if *low < 0x80 => (usize::from(*low), 2),
        [_, low, high, ..] => (usize::from(*low & 0x7f) | usize::from(*high) << 7, 3),
        _ => return (&[], &[]),
    };
    match encoded.get(at..at + len) {
        Some(field) => (field, &encoded[at + len..]),
        None => (&[], &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_found_without_decoding() {
        for status in [Status::Unspecified, Status::Serving, Status::Maintenance] {
            let instance = Instance {
                id: "web-1".into(),
                weight: Some(3),
                status: status.into(),
                ports: [("admin".into(), 9000)].into(),
                metadata: Some(prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(9.0)) }),
                ..Instance::default()
            };
            let encoded = instance.encode_to_vec();
            assert_eq!(super::status(&encoded), status);
            assert_eq!(super::status(&encoded[..encoded.len() - 1]), status, "what cannot be read counts for nothing");
        }
        assert_eq!(super::status(b"\xff\xff"), Status::Unspecified);
    }

    #[test]
    fn the_zone_is_found_without_decoding() {
        for zone in ["", "eu", "eu-west-1a"] {
            let instance = Instance {
                id: "web-1".into(),
                port: 7,
                version: "7".into(),
                zone: zone.into(),
                weight: Some(7),
                url: "elsewhere".into(),
                ..Instance::default()
            };
            let encoded = instance.encode_to_vec();
            assert_eq!(super::zone(&encoded), zone.as_bytes());
            assert_eq!(super::zone(&encoded[..encoded.len() - 1]), zone.as_bytes());
        }
        assert_eq!(super::zone(b"\x3a\x07eu"), b"", "what is cut off counts for nothing");
    }
}
