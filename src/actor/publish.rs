//! Hands out what applications publish. It is no change: the actor has no part in it, only the token of a publisher is
//! judged by the committed state.

use tokio::time::Instant;

use super::RegistryHandle;
use crate::{
    registry::{Error, Instance, LeaseToken, Publication, Verdict, superseded},
    watch::{Handed, Post, Rates},
};

/// How fast is published, in seconds since it was made.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    rates: Rates,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), rates: Rates::default() }
    }
}

impl RegistryHandle {
    /// Hands an event to all watches that asked for it. `token` proves which instance publishes it.
    ///
    /// # Errors
    /// `Limit` of rates; `NotFound`, `Superseded`, `LeaseDenied` or `Invalid` of the token; `ShuttingDown`.
    pub fn publish(&self, publication: &Publication, token: Option<&LeaseToken>) -> Result<Handed, Error> {
        if self.hub().is_closing() {
            return Err(Error::ShuttingDown);
        }
        let instance = token.map(|token| self.publisher(publication, token)).transpose()?;
        let (namespace, service) = (publication.namespace.as_str(), publication.service.as_str());
        self.pace.rates.count(self.pace.began.elapsed().as_secs(), namespace, service)?;
        let id = instance.as_ref().map_or("", |instance| &instance.id);
        let event = publication.encode(id, super::handle::wall_clock());
        let post = Post { namespace, service, instance: instance.as_ref(), event: &event };
        let handed = self.hub().board().hand_out(&post);
        let metrics = self.metrics();
        metrics.published.inc();
        metrics.published_handed.add(handed.watches);
        metrics.published_lost.add(handed.lost);
        Ok(handed)
    }

    /// The instance whose lease the token is for.
    fn publisher(&self, publication: &Publication, token: &LeaseToken) -> Result<Instance, Error> {
        let registry = self.hub().registry();
        let record = |slot| registry.record(slot);
        match registry.judge(Some(token)) {
            Verdict::Live(slot) => {
                let Some(record) = record(slot) else { return Err(not_found(publication)) };
                let (namespace, service, _) = record.names();
                if (namespace, service) != (&publication.namespace, &publication.service) {
                    return Err(Error::invalid("lease_token", "is of another service"));
                }
                Ok(record.instance())
            }
            Verdict::Superseded(slot) => Err(record(slot).map_or_else(|| not_found(publication), superseded)),
            Verdict::Denied => Err(Error::LeaseDenied),
            Verdict::Expired | Verdict::Unknown => Err(not_found(publication)),
        }
    }
}

fn not_found(publication: &Publication) -> Error {
    Error::NotFound { key: format!("{}/{}: the lease", publication.namespace, publication.service) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actor::ActorOptions,
        engine::memory::MemoryEngine,
        registry::Filter,
        watch::{Listener, ONLY_PART, RATE_MAX},
    };

    #[tokio::test(start_paused = true)]
    async fn more_than_may_be_in_a_second_is_refused_and_handed_to_nobody() {
        let recovered = MemoryEngine::recovered(uuid::Uuid::from_u128(1), 1);
        let (handle, _actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        let filter = Filter::new("", "shop", "", "").expect("a filter");
        let letterbox = handle.hub().board().open(vec![filter], &Listener::new(), ONLY_PART);
        let publication = Publication::parse("", "shop", "sold", None).expect("an event");
        for _ in 0..RATE_MAX {
            assert_eq!(handle.publish(&publication, None).map(|handed| handed.watches), Ok(1));
            let _ = letterbox.take(usize::MAX);
        }
        let refused = handle.publish(&publication, None);
        assert!(matches!(refused, Err(Error::Limit { limit: "max_published_rate", .. })), "{refused:?}");
        assert!(letterbox.is_empty());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert!(handle.publish(&publication, None).is_ok());
        handle.hub().close();
        assert_eq!(handle.publish(&publication, None), Err(Error::ShuttingDown));
    }
}
