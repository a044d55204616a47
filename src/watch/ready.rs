//! Waiting for services: what of them is online, every change of that, and the end when all of them are, at one revision.
//! Sleeps until something concerns one of them; knows no calls.

use std::{
    collections::{BTreeSet, HashSet},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use fixedbitset::FixedBitSet;
use smol_str::SmolStr;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;

use super::{hub::Hub, listener::Listener, seats::WatchPermit};
use crate::registry::{Error, Principal, Revision, Scope};

/// Services that are waited for as one watch: who names more counts as several.
const PERMIT_SERVICES: usize = 100;

/// What became of the services since it was told last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Those that came online; at first, all that are.
    pub online: Vec<SmolStr>,
    /// Those that were online, and are not.
    pub offline: Vec<SmolStr>,
    /// How many are online.
    pub ready: usize,
    /// How many are waited for.
    pub total: usize,
    /// At which revision those that are named stand so, and all of them when all are online.
    pub revision: Revision,
}

/// Progress at once, then whenever there is some. Ends after that with which all are online; at the end of the wait with
/// `NotReady`, when the server stops with `ShuttingDown`.
#[derive(Debug)]
pub struct ReadyWatch {
    hub: Arc<Hub>,
    scopes: Vec<Scope>,
    services: Vec<SmolStr>,
    /// Which of them were told as online.
    told: Vec<bool>,
    ready: usize,
    namespace: SmolStr,
    listener: Arc<Listener>,
    listening: u64,
    end: Pin<Box<Sleep>>,
    phase: Phase,
    _permits: Vec<WatchPermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was told.
    First,
    Waiting,
    Ended,
}

impl ReadyWatch {
    /// Waits for these services of a namespace, each once, until `end`.
    ///
    /// # Errors
    /// `Limit` or `Quota` of watches, `ShuttingDown`.
    pub fn new(
        hub: &Arc<Hub>,
        namespace: SmolStr,
        services: impl IntoIterator<Item = SmolStr>,
        end: Instant,
        principal: &Principal,
    ) -> Result<Self, Error> {
        let mut seen = HashSet::new();
        let services: Vec<SmolStr> = services.into_iter().filter(|service| seen.insert(service.clone())).collect();
        let scopes: Vec<Scope> =
            services.iter().map(|service| Scope::Service(namespace.clone(), service.clone())).collect();
        let listener = Listener::new();
        let permits: Result<Vec<_>, _> =
            scopes.chunks(PERMIT_SERVICES).map(|_| hub.permit(principal, [namespace.as_str()])).collect();
        let permits = permits?;
        let listening = hub.log().listen_in_parts(&scopes, &listener);
        Ok(Self {
            hub: Arc::clone(hub),
            told: vec![false; services.len()],
            scopes,
            services,
            ready: 0,
            namespace,
            listener,
            listening,
            end: Box::pin(sleep_until(end)),
            phase: Phase::First,
            _permits: permits,
        })
    }

    /// Looks at the services of these places, and at all of them if they seem to be ready: who came and who went in one
    /// revision is told of one after the other.
    fn look(&mut self, places: BTreeSet<usize>) -> Progress {
        // A short look: the services are read after the state is free again.
        let (services, revision) = {
            let registry = self.hub.registry();
            (registry.namespaces().get(&self.namespace).map(|held| held.services.clone()), registry.revision())
        };
        let is_online = |service: &SmolStr| {
            services.as_ref().and_then(|services| services.get(service)).is_some_and(|set| set.routable() > 0)
        };
        let mut progress = Progress { total: self.services.len(), revision, ..Progress::default() };
        let mut judge = |place: usize, (told, ready): (&mut Vec<bool>, &mut usize)| {
            let Some((service, told)) = self.services.get(place).zip(told.get_mut(place)) else { return };
            match (is_online(service), std::mem::replace(told, is_online(service))) {
                (true, false) => {
                    *ready += 1;
                    progress.online.push(service.clone());
                }
                (false, true) => {
                    *ready -= 1;
                    progress.offline.push(service.clone());
                }
                _ => {}
            }
        };
        for place in places {
            judge(place, (&mut self.told, &mut self.ready));
        }
        if self.ready == self.services.len() {
            for place in 0..self.services.len() {
                judge(place, (&mut self.told, &mut self.ready));
            }
        }
        progress.ready = self.ready;
        progress
    }

    fn missing(&self) -> Vec<String> {
        let offline = self.services.iter().zip(&self.told).filter(|(_, told)| !**told);
        offline.map(|(service, _)| service.to_string()).collect()
    }

    fn end_with(&mut self, error: Error) -> Poll<Option<Result<Progress, Error>>> {
        self.phase = Phase::Ended;
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for ReadyWatch {
    type Item = Result<Progress, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.phase == Phase::Ended {
                return Poll::Ready(None);
            }
            let woken = this.listener.poll_woken(context);
            if this.hub.is_closing() {
                return this.end_with(Error::ShuttingDown);
            }
            let mut dirty = FixedBitSet::new();
            this.listener.take_dirty(&mut dirty);
            let first = std::mem::replace(&mut this.phase, Phase::Waiting) == Phase::First;
            let places: BTreeSet<usize> = match first {
                true => (0..this.services.len()).collect(),
                false => dirty.ones().collect(),
            };
            if !places.is_empty() || first {
                let progress = this.look(places);
                if progress.ready == progress.total {
                    this.phase = Phase::Ended;
                }
                if first || !progress.online.is_empty() || !progress.offline.is_empty() {
                    return Poll::Ready(Some(Ok(progress)));
                }
            }
            if !woken {
                if this.end.as_mut().poll(context).is_ready() {
                    let missing = this.missing();
                    return this.end_with(Error::NotReady { missing });
                }
                return Poll::Pending;
            }
        }
    }
}

impl Drop for ReadyWatch {
    fn drop(&mut self) {
        self.hub.log().ignore(&self.scopes, self.listening);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use proptest::{collection::vec, prelude::*};
    use prost::Message as _;
    use tokio_stream::StreamExt as _;
    use uuid::Uuid;

    use super::*;
    use crate::{
        engine::memory::MemoryEngine,
        registry::{Cause, Change, Delete, Instance, Key, Lease, Put, SecretHash, Stamp, Status},
        watch::HubOptions,
    };

    const SERVICES: [&str; 3] = ["a", "b", "c"];

    fn change(service: &str, comes: bool) -> Change {
        if !comes {
            return Change::Delete(Delete { key: Key::new("default", service, "1"), cause: Cause::Expired, at: 0 });
        }
        let (namespace, service, id) = ("default".to_owned(), service.to_owned(), "1".to_owned());
        let instance = Instance { namespace, service, id, status: Status::Serving.into(), ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let (incarnation, revision) = (Stamp::Commit, Stamp::Commit);
        Change::Put(Put { description: instance.encode_to_vec().into(), lease, incarnation, ordinal: 0, revision })
    }

    fn is_all_online(hub: &Hub) -> bool {
        let registry = hub.registry();
        SERVICES.iter().all(|service| registry.service("default", service).is_some_and(|set| set.routable() > 0))
    }

    /// What it tells until it has no more to tell; whether it has ended.
    fn follow(watch: &mut ReadyWatch, online: &mut BTreeSet<SmolStr>) -> Result<bool, TestCaseError> {
        loop {
            match watch.next().now_or_never() {
                None => return Ok(false),
                Some(None) => return Ok(true),
                Some(Some(told)) => {
                    let told = told.map_err(|error| TestCaseError::fail(error.to_string()))?;
                    told.offline.iter().for_each(|name| assert!(online.remove(name), "{name} was not online"));
                    told.online.iter().for_each(|name| assert!(online.insert(name.clone()), "{name} was online"));
                    prop_assert_eq!(told.ready, online.len());
                    prop_assert!(told.ready < told.total || is_all_online(&watch.hub));
                }
            }
        }
    }

    proptest! {
        /// Whatever comes and goes in one revision, and whenever it is looked at: a wait ends when all are online together
        /// and not before, and what it tells is so.
        #[test]
        fn a_wait_ends_when_all_are_online_together(
            steps in vec((vec((0..3_usize, any::<bool>()), 1..4), any::<bool>(), any::<bool>()), 0..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _within = runtime.enter();
            let hub = Hub::new(MemoryEngine::recovered(Uuid::nil(), 1), HubOptions::default());
            let end = Instant::now() + Duration::from_secs(3_600);
            let services = SERVICES.map(SmolStr::new_static);
            let mut watch = ReadyWatch::new(&hub, "default".into(), services, end, &Principal::anyone()).unwrap();
            let (mut online, mut ended, mut revision) = (BTreeSet::new(), follow(&mut watch, &mut BTreeSet::new())?, 0);
            for (turns, peeks, reads) in steps {
                revision += 1;
                let turns: std::collections::BTreeMap<usize, bool> = turns.into_iter().collect();
                let changes: Vec<Change> = turns.iter().map(|(at, comes)| change(SERVICES[*at], *comes)).collect();
                let folded = hub.registry_mut().fold(revision, &changes);
                // Between the two it is there, and nobody was woken.
                if peeks && !ended {
                    ended = follow(&mut watch, &mut online)?;
                }
                hub.publish(revision, folded);
                if reads && !ended {
                    ended = follow(&mut watch, &mut online)?;
                    let registry = hub.registry();
                    let is_online = |name: &&str| registry.service("default", name).is_some_and(|set| set.routable() > 0);
                    let wanted: BTreeSet<SmolStr> = SERVICES.iter().filter(|name| is_online(name)).map(SmolStr::new).collect();
                    prop_assert_eq!(&online, &wanted);
                    prop_assert_eq!(ended, wanted.len() == SERVICES.len());
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_comes_when_the_time_is_up() {
        let hub = Hub::new(MemoryEngine::recovered(Uuid::nil(), 1), HubOptions::default());
        let end = Instant::now() + Duration::from_secs(60);
        let mut watch =
            ReadyWatch::new(&hub, "default".into(), ["a".into(), "a".into()], end, &Principal::anyone()).unwrap();
        assert_eq!(watch.next().await, Some(Ok(Progress { total: 1, ..Progress::default() })));
        assert_eq!(watch.next().await, Some(Err(Error::NotReady { missing: vec!["a".to_owned()] })));
        assert_eq!((watch.next().await, Instant::now()), (None, end));
        assert_eq!((hub.watches(), hub.log().sleepers()), (1, 1));
        drop(watch);
        assert_eq!((hub.watches(), hub.log().sleepers()), (0, 0), "nothing of it is left");
    }

    /// Who waits for many counts as several watches, and leaves nothing either way.
    #[tokio::test(start_paused = true)]
    async fn many_services_count_as_several_watches() {
        let options = HubOptions { max_watches: 3, ..HubOptions::default() };
        let hub = Hub::new(MemoryEngine::recovered(Uuid::nil(), 1), options);
        let names = |count: usize| (0..count).map(|number| SmolStr::new(format!("s{number}")));
        let wait = |count| ReadyWatch::new(&hub, "default".into(), names(count), Instant::now(), &Principal::anyone());
        let watch = wait(250).expect("there is room");
        assert_eq!((hub.watches(), hub.log().sleepers()), (3, 250));
        drop(watch);
        let refused = wait(301).expect_err("they would be four");
        assert_eq!(refused, Error::Limit { limit: "max_watches", maximum: 3, usage: 3 });
        assert_eq!((hub.watches(), hub.log().sleepers()), (0, 0));
    }
}
