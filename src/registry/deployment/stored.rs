//! The bytes of backends and frontends as documents hold them. Field numbers are those of every store there is: one that
//! was used is never used again for something else.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;
use smol_str::SmolStr;

use super::{Backend, Frontend, Past, Split};
use crate::registry::document::Document;

#[derive(Clone, PartialEq, Message)]
struct BackendBody {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    version: String,
    /// An encoded `google.protobuf.Struct`.
    #[prost(bytes = "bytes", tag = "3")]
    fields: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct SplitBody {
    #[prost(string, tag = "1")]
    backend: String,
    #[prost(string, tag = "2")]
    service: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(uint32, tag = "4")]
    weight: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PastBody {
    #[prost(uint64, tag = "1")]
    since: u64,
    #[prost(message, optional, tag = "2")]
    at: Option<Timestamp>,
    #[prost(message, repeated, tag = "3")]
    splits: Vec<SplitBody>,
}

#[derive(Clone, PartialEq, Message)]
struct FrontendBody {
    #[prost(message, repeated, tag = "1")]
    splits: Vec<SplitBody>,
    /// An encoded `google.protobuf.Struct`.
    #[prost(bytes = "bytes", tag = "2")]
    fields: Bytes,
    /// 0: the document's own revision. A commit does not know it beforehand.
    #[prost(uint64, tag = "3")]
    since: u64,
    #[prost(message, optional, tag = "4")]
    at: Option<Timestamp>,
    #[prost(message, repeated, tag = "5")]
    history: Vec<PastBody>,
}

fn split_bodies(splits: &[Split]) -> Vec<SplitBody> {
    let body = |split: &Split| SplitBody {
        backend: split.backend.to_string(),
        service: split.service.to_string(),
        version: split.version.to_string(),
        weight: split.weight,
    };
    splits.iter().map(body).collect()
}

fn splits_of(bodies: Vec<SplitBody>) -> Box<[Split]> {
    let split = |body: SplitBody| Split {
        backend: body.backend.into(),
        service: body.service.into(),
        version: body.version.into(),
        weight: body.weight,
    };
    bodies.into_iter().map(split).collect()
}

/// The bytes of a backend.
pub(super) fn backend(service: &SmolStr, version: &SmolStr, fields: Bytes) -> Bytes {
    BackendBody { service: service.to_string(), version: version.to_string(), fields }.encode_to_vec().into()
}

/// The bytes of a frontend; without `since` it points there from the commit on.
pub(super) fn frontend(splits: &[Split], fields: Bytes, since: Option<u64>, at: Timestamp, history: &[Past]) -> Bytes {
    let past = |past: &Past| PastBody { since: past.since, at: Some(past.at), splits: split_bodies(&past.splits) };
    let body = FrontendBody {
        splits: split_bodies(splits),
        fields,
        since: since.unwrap_or(0),
        at: Some(at),
        history: history.iter().map(past).collect(),
    };
    body.encode_to_vec().into()
}

impl Backend {
    /// The backend that a document is; none if its bytes are not one's.
    #[must_use]
    pub fn of(document: &Arc<Document>) -> Option<Self> {
        let body = BackendBody::decode(document.body.clone()).ok()?;
        let (service, version) = (body.service.into(), body.version.into());
        Some(Self { document: Arc::clone(document), service, version, fields: body.fields })
    }
}

impl Frontend {
    /// The frontend that a document is; none if its bytes are not one's.
    #[must_use]
    pub fn of(document: &Arc<Document>) -> Option<Self> {
        let body = FrontendBody::decode(document.body.clone()).ok()?;
        let past = |past: PastBody| Past {
            since: past.since,
            at: past.at.unwrap_or_default(),
            splits: splits_of(past.splits),
        };
        Some(Self {
            document: Arc::clone(document),
            splits: splits_of(body.splits),
            fields: body.fields,
            since: if body.since == 0 { document.revision } else { body.since },
            at: body.at.unwrap_or_default(),
            history: body.history.into_iter().map(past).collect(),
        })
    }
}
