//! The bytes of the catalog's entries and versions as documents hold them. Field numbers are those of every store there
//! is: one that was used is never used again for something else.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;
use smol_str::SmolStr;

use super::{Application, Entry, Port, Recorded, ServiceType, Shelved, Version, VersionChange};
use crate::registry::document::{Document, Kind};

/// What every entry has beside its value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Times {
    /// The number of the version that made it.
    pub(super) number: u64,
    /// When it was made.
    pub(super) created_at: Timestamp,
    /// When it was changed last.
    pub(super) updated_at: Timestamp,
}

#[derive(Clone, PartialEq, Message)]
struct TimesBody {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(message, optional, tag = "2")]
    created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "3")]
    updated_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeBody {
    #[prost(message, optional, tag = "1")]
    times: Option<TimesBody>,
    #[prost(uint32, tag = "2")]
    default_port: u32,
    #[prost(uint32, optional, tag = "3")]
    offset: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct PortBody {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(uint32, tag = "2")]
    external: u32,
    #[prost(uint32, tag = "3")]
    internal: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ApplicationBody {
    #[prost(message, optional, tag = "1")]
    times: Option<TimesBody>,
    #[prost(message, repeated, tag = "2")]
    ports: Vec<PortBody>,
    #[prost(string, repeated, tag = "3")]
    dependencies: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct VersionBody {
    /// `VersionChange::number`.
    #[prost(uint32, tag = "1")]
    change: u32,
    #[prost(message, optional, tag = "2")]
    at: Option<Timestamp>,
    /// `Kind::number` of the entry.
    #[prost(uint32, tag = "3")]
    of: u32,
    /// The entry's id.
    #[prost(string, tag = "4")]
    id: String,
    /// The entry's body: after the change, or, of a deletion, before it.
    #[prost(bytes = "bytes", tag = "5")]
    body: Bytes,
}

fn times_body(times: Times) -> Option<TimesBody> {
    let Times { number, created_at, updated_at } = times;
    Some(TimesBody { number, created_at: Some(created_at), updated_at: Some(updated_at) })
}

fn times_of(body: Option<TimesBody>) -> Times {
    let TimesBody { number, created_at, updated_at } = body.unwrap_or_default();
    Times { number, created_at: created_at.unwrap_or_default(), updated_at: updated_at.unwrap_or_default() }
}

/// A kind of value that the catalog keeps.
pub(super) trait Stored: Shelved + Sized {
    /// Of which kind its documents are.
    const KIND: Kind;

    /// Its bytes.
    fn encode(&self, times: Times) -> Bytes;

    /// The value of these bytes, if they are one's.
    fn decode(id: &SmolStr, body: Bytes) -> Option<(Self, Times)>;

    /// As a version has it.
    fn recorded(self) -> Recorded;
}

impl Stored for ServiceType {
    const KIND: Kind = Kind::ServiceType;

    fn encode(&self, times: Times) -> Bytes {
        let (default_port, offset) = (self.default_port.into(), self.offset.map(u32::from));
        TypeBody { times: times_body(times), default_port, offset }.encode_to_vec().into()
    }

    fn decode(id: &SmolStr, body: Bytes) -> Option<(Self, Times)> {
        let body = TypeBody::decode(body).ok()?;
        let default_port = u16::try_from(body.default_port).ok()?;
        let offset = body.offset.map(u16::try_from).transpose().ok()?;
        Some((Self { id: id.clone(), default_port, offset }, times_of(body.times)))
    }

    fn recorded(self) -> Recorded {
        Recorded::ServiceType(self)
    }
}

impl Stored for Application {
    const KIND: Kind = Kind::Application;

    fn encode(&self, times: Times) -> Bytes {
        let port = |port: &Port| PortBody {
            service: port.service.to_string(),
            external: port.external.into(),
            internal: port.internal.into(),
        };
        let body = ApplicationBody {
            times: times_body(times),
            ports: self.ports.iter().map(port).collect(),
            dependencies: self.dependencies.iter().map(SmolStr::to_string).collect(),
        };
        body.encode_to_vec().into()
    }

    fn decode(id: &SmolStr, body: Bytes) -> Option<(Self, Times)> {
        let body = ApplicationBody::decode(body).ok()?;
        let port = |port: PortBody| {
            let (external, internal) = (u16::try_from(port.external).ok()?, u16::try_from(port.internal).ok()?);
            Some(Port { service: port.service.into(), external, internal })
        };
        let ports = body.ports.into_iter().map(port).collect::<Option<_>>()?;
        let dependencies = body.dependencies.into_iter().map(SmolStr::from).collect();
        Some((Self { id: id.clone(), ports, dependencies }, times_of(body.times)))
    }

    fn recorded(self) -> Recorded {
        Recorded::Application(self)
    }
}

/// The entry that a document is; none if its bytes are not one's.
pub(super) fn entry<T: Stored>(document: &Arc<Document>) -> Option<Entry<T>> {
    let (value, times) = T::decode(&document.key.name, document.body.clone())?;
    let Times { number, created_at, updated_at } = times;
    Some(Entry { document: Arc::clone(document), value: Arc::new(value), number, created_at, updated_at })
}

/// The bytes of a version.
pub(super) fn version(change: VersionChange, at: Timestamp, of: Kind, id: &SmolStr, body: Bytes) -> Bytes {
    let of = u32::from(of.number());
    VersionBody { change: change.number(), at: Some(at), of, id: id.to_string(), body }.encode_to_vec().into()
}

/// The name of a version's document: numbers in order of text.
pub(super) fn version_name(number: u64) -> SmolStr {
    format!("{number:020}").into()
}

impl Version {
    /// The version that a document is; none if its name or its bytes are not one's.
    pub(super) fn of(document: &Arc<Document>) -> Option<Self> {
        let number = document.key.name.parse().ok()?;
        let VersionBody { change, at, of, id, body } = VersionBody::decode(document.body.clone()).ok()?;
        let id = SmolStr::from(id);
        let value = match u8::try_from(of).ok().and_then(Kind::of)? {
            Kind::ServiceType => ServiceType::decode(&id, body)?.0.recorded(),
            Kind::Application => Application::decode(&id, body)?.0.recorded(),
            Kind::Backend | Kind::Frontend | Kind::CatalogVersion | Kind::Token | Kind::Namespace => return None,
        };
        let change = VersionChange::of(change)?;
        Some(Self { number, change, at: at.unwrap_or_default(), value, revision: document.revision })
    }
}
