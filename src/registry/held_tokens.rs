//! Documents that no other rule of the state speaks of, tokens and the settings of namespaces: what a token says is its
//! owner's business, and here is the one rule that they have. They are written by who knows what stood there, and by nobody else in between.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use smol_str::SmolStr;

use super::{
    Registry,
    change::{Change, Guarded, Held},
    command::{Decision, Outcome},
    document::{Document, DocumentKey, DocumentPut, Kind},
    error::Error,
    key::Revision,
};

/// Most tokens in the registry.
pub const MAX_TOKENS: u64 = 10_000;

/// A document to write.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which.
    pub key: DocumentKey,
    /// What it says from now on; none: it is no more.
    pub body: Option<Bytes>,
    /// Of which revision it is; 0: it is not there.
    pub expected: Revision,
}

impl Registry {
    /// The tokens, by name. Cloning it is O(1).
    #[must_use]
    pub fn tokens(&self) -> &OrdMap<SmolStr, Arc<Document>> {
        &self.tokens
    }

    /// What a write leads to.
    pub(super) fn write(&self, write: &Write) -> Decision {
        let Write { key, body, expected } = write;
        let is_setting = key.kind == Kind::Namespace;
        let (before, kind, (limit, maximum), usage) = if is_setting {
            let before = self.settings.get(&key.name).map(|held| &held.document);
            (before, "Namespace", ("max_namespaces", self.limits.namespaces), self.settings.len() as u64)
        } else {
            let before = self.tokens.get(&key.name).filter(|_| key.kind == Kind::Token);
            (before, "Token", ("max_tokens", MAX_TOKENS), self.tokens.len() as u64)
        };
        let refused = match before {
            // Of a namespace there is always one, whatever was set.
            Some(held) if *expected == 0 && is_setting => {
                Some(Error::StaleRevision { expected: 0, revision: held.revision })
            }
            None if *expected > 0 && is_setting => Some(Error::StaleRevision { expected: *expected, revision: 0 }),
            Some(_) if *expected == 0 => Some(Error::AlreadyExists { kind, name: key.name.to_string() }),
            None if *expected > 0 => Some(Error::NoSuch { kind, name: key.name.to_string() }),
            Some(held) if held.revision != *expected => {
                Some(Error::StaleRevision { expected: *expected, revision: held.revision })
            }
            None if body.is_some() && usage >= maximum => Some(Error::Limit { limit, maximum, usage }),
            _ => None,
        };
        if let Some(error) = refused {
            return Decision::Reply(Err(error));
        }
        let outcome = Outcome::Deployed(key.clone(), before.cloned());
        if before.map(|held| &held.body) == body.as_ref() {
            return Decision::Reply(Ok(outcome));
        }
        let change = Change::Document(DocumentPut { key: key.clone(), body: body.clone() });
        let before = before.map(|document| Held::Document(Arc::clone(document)));
        Decision::Propose(vec![Guarded { change, before }], outcome)
    }

    /// Holds a token's document, or frees its name.
    pub(super) fn hold_token(&mut self, name: &SmolStr, document: Option<&Arc<Document>>) -> Option<Arc<Document>> {
        match document {
            Some(document) => self.tokens.insert(name.clone(), Arc::clone(document)),
            None => self.tokens.remove(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Command, StateLimits};

    fn write(body: Option<&'static str>, expected: Revision) -> Write {
        let key = DocumentKey { kind: Kind::Token, namespace: SmolStr::default(), name: "ci".into() };
        Write { key, body: body.map(|body| Bytes::from_static(body.as_bytes())), expected }
    }

    /// The changes that it makes, or why it makes none.
    fn run(registry: &mut Registry, write: Write) -> Result<usize, Error> {
        match registry.decide(&Command::Write(Box::new(write)), 0) {
            Decision::Reply(reply) => reply.map(|_| 0),
            Decision::Propose(changes, _) => {
                let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
                let folded = registry.fold(registry.revision() + 1, &changes);
                assert!(folded.tokens && folded.events.is_empty() && folded.turns.is_empty(), "nobody watches it");
                Ok(changes.len())
            }
            Decision::Unfit { .. } => panic!("it admits nobody"),
        }
    }

    #[test]
    fn who_writes_knows_what_stood_there() {
        let mut registry = Registry::new(1, StateLimits::default());
        let name = || "ci".to_owned();
        let missing = Error::NoSuch { kind: "Token", name: name() };
        assert_eq!(run(&mut registry, write(Some("a"), 5)), Err(missing));
        assert_eq!(run(&mut registry, write(None, 0)), Ok(0), "it is not there anyway");
        assert_eq!(run(&mut registry, write(Some("a"), 0)), Ok(1));
        assert_eq!(run(&mut registry, write(Some("b"), 0)), Err(Error::AlreadyExists { kind: "Token", name: name() }));
        assert_eq!(run(&mut registry, write(Some("a"), 1)), Ok(0), "it says so already");
        assert_eq!(run(&mut registry, write(Some("b"), 1)), Ok(1));
        let stale = Error::StaleRevision { expected: 1, revision: 2 };
        assert_eq!(run(&mut registry, write(None, 1)), Err(stale));
        assert_eq!(registry.tokens().get("ci").map(|held| held.body.clone()), Some(Bytes::from_static(b"b")));
        assert_eq!(run(&mut registry, write(None, 2)), Ok(1));
        assert!(registry.tokens().is_empty());
    }
}
