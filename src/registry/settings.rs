//! What is set for a namespace, whether it is known or not. Knows who may set it as little as who asks for it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use smol_str::SmolStr;

use super::{
    Registry,
    document::{Document, DocumentKey, Kind},
    quota::Quota,
};

/// What is set for a namespace.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How much it may have.
    pub quota: Quota,
    /// As it is stored.
    pub document: Arc<Document>,
}

/// The bytes of its document. Field numbers are those of every store there is.
#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(message, optional, tag = "1")]
    quota: Option<Quota>,
}

impl Settings {
    /// The key of a namespace's document.
    #[must_use]
    pub fn key(namespace: &str) -> DocumentKey {
        DocumentKey { kind: Kind::Namespace, namespace: SmolStr::default(), name: namespace.into() }
    }

    /// The bytes of the document of a namespace that may have so much; none: nothing is set.
    #[must_use]
    pub fn body(quota: Quota) -> Option<Bytes> {
        (!quota.is_empty()).then(|| Body { quota: Some(quota) }.encode_to_vec().into())
    }

    fn of(document: &Arc<Document>) -> Option<Self> {
        let body = Body::decode(document.body.clone()).ok()?;
        Some(Self { quota: body.quota.unwrap_or_default(), document: Arc::clone(document) })
    }
}

impl Registry {
    /// What is set for namespaces, by name. Cloning it is O(1).
    #[must_use]
    pub fn settings(&self) -> &imbl::OrdMap<SmolStr, Settings> {
        &self.settings
    }

    /// Whether any namespace has a quota.
    #[must_use]
    pub fn has_quotas(&self) -> bool {
        !self.settings.is_empty()
    }

    /// How much a namespace may have, if that is set.
    #[must_use]
    pub fn quota(&self, namespace: &str) -> Option<&Quota> {
        self.settings.get(namespace).map(|held| &held.quota)
    }

    /// Holds a namespace's document, or frees its name. Bytes that are none of its kind are passed over: no command makes
    /// such.
    pub(super) fn hold_settings(&mut self, name: &SmolStr, document: Option<&Arc<Document>>) -> Option<Arc<Document>> {
        let before = match document.and_then(Settings::of) {
            Some(settings) => self.settings.insert(name.clone(), settings),
            None => self.settings.remove(name),
        };
        before.map(|held| held.document)
    }
}
