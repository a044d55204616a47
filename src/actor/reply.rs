//! The ways back: what a command came to, told to whoever waits for it. It decides nothing.

use std::sync::Arc;

use super::{Actor, Recipient, Reply, Standing};
use crate::{
    engine::Engine,
    registry::{Command, DocumentKey, Error, Kind, Outcome, Registry},
};

impl<E: Engine> Actor<E> {
    /// Hands an outcome to whom it is due.
    pub(super) fn reply(&mut self, command: &Command, recipient: Recipient, outcome: Result<Outcome, Error>) {
        match recipient {
            Recipient::Nobody => {
                if let (Command::Expire { .. }, Err(_)) = (command, &outcome) {
                    self.retry_expiry(command);
                }
            }
            Recipient::Admitted(calls) => self.reply_to_all(calls, outcome),
            Recipient::Together(members) => self.reply_together(members, &outcome),
            Recipient::Beat { batch, place } => self.beat_done(batch, place, command, outcome),
            Recipient::Caller { answer, .. } => {
                answer.send(outcome.and_then(|outcome| self.reply_of(outcome)));
            }
        }
    }

    pub(super) fn reply_of(&mut self, outcome: Outcome) -> Result<Reply, Error> {
        let hub = Arc::clone(&self.hub);
        let registry = hub.registry();
        let revision = registry.revision();
        match outcome {
            Outcome::Registered { key, secret, resolved } => {
                let found = registry.slot_of(&key).and_then(|slot| Some((slot, registry.record(slot)?.clone())));
                // It was folded a moment ago, in this turn.
                let Some((slot, record)) = found else { return Err(Error::Deadline) };
                // A registration is as good as a beat.
                let token = registry.token_of(slot, &record, secret);
                let mut table = self.leases.lock();
                table.time.hear(slot);
                table.verified.remember(slot, &token);
                drop(table);
                let dependencies = resolved.into_iter().map(|found| (found.service, found.url)).collect();
                Ok(Reply::Registered { record, token, dependencies, revision })
            }
            Outcome::Kept { key, says_otherwise, is_change } => {
                let found = registry.slot_of(&key).and_then(|slot| Some((slot, registry.record(slot)?.clone())));
                let Some((slot, record)) = found else { return Err(Error::Deadline) };
                self.leases.lock().time.hear(slot);
                Ok(Reply::Kept { record, says_otherwise, changed_at: is_change.then_some(revision) })
            }
            Outcome::Drained { key, by_lease } => {
                let found = registry.slot_of(&key).and_then(|slot| Some((slot, registry.record(slot)?.clone())));
                let Some((slot, record)) = found else { return Err(Error::Deadline) };
                if by_lease {
                    self.leases.lock().time.hear(slot);
                }
                Ok(Reply::Drained { record, places: hub.log().places() })
            }
            Outcome::Removed(removed) => Ok(Reply::Removed { removed, revision }),
            Outcome::Deployed(key, before) => {
                Ok(Reply::Deployed { deployed: deployed(&registry, &key), before, revision })
            }
            Outcome::Admitted(_) | Outcome::Renewed { .. } | Outcome::NotRenewed(_) | Outcome::Done => {
                Ok(Reply::Removed { removed: 0, revision })
            }
        }
    }
}

/// The document of a key as it stands.
fn deployed(registry: &Registry, key: &DocumentKey) -> Standing {
    let (deployments, book) = (registry.deployments(), registry.catalogs().book(&key.namespace));
    let found = match key.kind {
        Kind::Backend => deployments.backend(&key.namespace, &key.name).cloned().map(Standing::Backend),
        Kind::Frontend => deployments.frontend(&key.namespace, &key.name).cloned().map(Standing::Frontend),
        Kind::ServiceType => book.types().get(&key.name).cloned().map(Standing::ServiceType),
        Kind::Application => book.applications().get(&key.name).cloned().map(Standing::Application),
        Kind::CatalogVersion => None,
        Kind::Token => registry.tokens().get(&key.name).cloned().map(Standing::Document),
        Kind::Namespace => {
            registry.settings().get(&key.name).map(|held| Standing::Document(Arc::clone(&held.document)))
        }
    };
    found.unwrap_or(Standing::Gone)
}
