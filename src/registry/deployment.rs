//! Backends, frontends, the switch and weighted splits. Knows nothing of who watches them.

mod command;
mod decide;
mod fields;
mod held;
mod stored;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use prost_types::Timestamp;
use smol_str::SmolStr;

pub use self::{
    command::{Action, BackendDraft, BackendPatch, Deploy, FrontendDraft, FrontendPatch, Target, TargetText},
    decide::Unmoved,
    fields::decode as decode_fields,
    held::{Deployed, Deployments},
};
use super::{document::Document, key::Revision, record::Record};

/// Most splits of a frontend.
pub const MAX_SPLITS: usize = 64;
/// The largest weight of a split.
pub const MAX_SPLIT_WEIGHT: u32 = 1_000_000;
/// Most entries of a frontend's history.
pub const MAX_HISTORY: usize = 50;
/// Most backends in the registry.
pub const MAX_BACKENDS: u64 = 10_000;
/// Most frontends in the registry.
pub const MAX_FRONTENDS: u64 = 10_000;

/// The instances of one service at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// As committed.
    pub document: Arc<Document>,
    /// The service.
    pub service: SmolStr,
    /// Its version, exactly.
    pub version: SmolStr,
    /// Whatever else is kept with it: an encoded `google.protobuf.Struct`.
    pub fields: Bytes,
}

/// A backend's share of a frontend's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The backend's name.
    pub backend: SmolStr,
    /// The service behind it.
    pub service: SmolStr,
    /// The version of that service.
    pub version: SmolStr,
    /// Its share, relative to the others.
    pub weight: u32,
}

/// Where a frontend pointed once.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The revision at which it began.
    pub since: Revision,
    /// When, on the wall clock.
    pub at: Timestamp,
    /// Where to.
    pub splits: Box<[Split]>,
}

/// A public name that points at backends. It holds what its backends said when they last changed, so that it says by
/// itself which instances are behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    /// As committed.
    pub document: Arc<Document>,
    /// Where it points. A split of weight 0 is kept and takes no traffic.
    pub splits: Box<[Split]>,
    /// Whatever else is kept with it: an encoded `google.protobuf.Struct`.
    pub fields: Bytes,
    /// The revision at which it came to point there.
    pub since: Revision,
    /// When, on the wall clock.
    pub at: Timestamp,
    /// Where it pointed before, newest first, at most `MAX_HISTORY`.
    pub history: Box<[Past]>,
}

/// What both have of their document.
macro_rules! documented {
    ($($of:ident),+) => {
        $(impl $of {
            /// Its namespace.
            #[must_use]
            pub fn namespace(&self) -> &SmolStr {
                &self.document.key.namespace
            }

            /// Its name.
            #[must_use]
            pub fn name(&self) -> &SmolStr {
                &self.document.key.name
            }

            /// The revision of its last change.
            #[must_use]
            pub fn revision(&self) -> Revision {
                self.document.revision
            }
        })+
    };
}
documented!(Backend, Frontend);

impl Frontend {
    /// The splits that take traffic.
    pub fn live(&self) -> impl Iterator<Item = &Split> {
        self.splits.iter().filter(|split| split.weight > 0)
    }

    /// Whether the backend is named in it, with whatever weight.
    #[must_use]
    pub fn uses(&self, backend: &str) -> bool {
        self.splits.iter().any(|split| split.backend == backend)
    }

    /// Whether an instance of its namespace is behind it.
    #[must_use]
    pub fn covers(&self, record: &Record) -> bool {
        let service = record.names().1;
        self.live().any(|split| split.service == service && split.version == record.version())
    }

    /// Where it points, and since when.
    fn past(&self) -> Past {
        Past { since: self.since, at: self.at, splits: self.splits.clone() }
    }
}
