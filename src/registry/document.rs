//! Documents: what strict commands keep beside the instances, as bytes under a kind, a namespace and a name. What the
//! bytes say is the business of their kind.

use std::sync::Arc;

use bytes::Bytes;
use smol_str::SmolStr;

use super::key::{Fingerprint, Revision};

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The instances of one service at one version.
    Backend,
    /// A public name that points at backends.
    Frontend,
    /// A kind of program in the catalog.
    ServiceType,
    /// An application in the catalog.
    Application,
    /// What a change of the catalog did.
    CatalogVersion,
    /// What proves who somebody is, and what they may do.
    Token,
    /// What is set for a namespace.
    Namespace,
}

impl Kind {
    /// Its number in stores; one that was used is never used again for something else.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Backend => 1,
            Self::Frontend => 2,
            Self::ServiceType => 3,
            Self::Application => 4,
            Self::CatalogVersion => 5,
            Self::Token => 16,
            Self::Namespace => 17,
        }
    }

    /// The kind of this number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        const ALL: [Kind; 7] = [
            Kind::Backend,
            Kind::Frontend,
            Kind::ServiceType,
            Kind::Application,
            Kind::CatalogVersion,
            Kind::Token,
            Kind::Namespace,
        ];
        ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Whether it belongs to the catalog.
    #[must_use]
    pub fn is_of_catalog(self) -> bool {
        match self {
            Self::Backend | Self::Frontend | Self::Token | Self::Namespace => false,
            Self::ServiceType | Self::Application | Self::CatalogVersion => true,
        }
    }

    /// Whether watchers see its changes: the kept log has them.
    #[must_use]
    pub fn is_watched(self) -> bool {
        self == Self::Frontend
    }
}

/// What names a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey {
    /// What it is.
    pub kind: Kind,
    /// The tenant's world.
    pub namespace: SmolStr,
    /// Unique among those of its kind and namespace.
    pub name: SmolStr,
}

impl DocumentKey {
    /// The latch of all backends and frontends of its namespace, or of all of its catalog: they speak of each other, so
    /// that one command at a time decides by them. No instance has it: the middle part is no name.
    #[must_use]
    pub fn latch(&self) -> Fingerprint {
        match self.kind {
            Kind::Backend | Kind::Frontend => latch_of(&self.namespace),
            Kind::ServiceType | Kind::Application | Kind::CatalogVersion => catalog_latch_of(&self.namespace),
            // Tokens do not speak of each other.
            Kind::Token => Fingerprint::of("", "\u{1}token", &self.name),
            Kind::Namespace => Fingerprint::of("", "\u{1}namespace", &self.name),
        }
    }
}

/// The latch of a namespace's deployments.
#[must_use]
pub fn latch_of(namespace: &str) -> Fingerprint {
    Fingerprint::of(namespace, "\u{1}deployments", "")
}

/// The latch of a namespace's catalog.
#[must_use]
pub fn catalog_latch_of(namespace: &str) -> Fingerprint {
    Fingerprint::of(namespace, "\u{1}catalog", "")
}

/// A document as committed. Immutable: a change makes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name.
    pub key: DocumentKey,
    /// What it says.
    pub body: Bytes,
    /// Of its last change.
    pub revision: Revision,
}

/// A document to hold, or a name to free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentPut {
    /// Which.
    pub key: DocumentKey,
    /// What it says from now on; none: it is no more.
    pub body: Option<Bytes>,
}

impl DocumentPut {
    /// The document that it makes, committed at `commit`.
    #[must_use]
    pub fn document(&self, commit: Revision) -> Option<Document> {
        Some(Document { key: self.key.clone(), body: self.body.clone()?, revision: commit })
    }
}

/// What happened to one document by one committed change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentEvent {
    /// The document before; none: there was none.
    pub before: Option<Arc<Document>>,
    /// The document after; none: there is none.
    pub after: Option<Arc<Document>>,
}
