//! A service as a client knows it: the instances that can take traffic, kept current by a watch, from which one is
//! chosen without asking anybody. While the registry is away what was known last stays, and says how old it is.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Inner,
    error::CallFailed,
    watch::{Standing, Watch},
};
use crate::{
    proto::{EventType, Instance, Selector, Status},
    registry::{Candidate, Choice, pick},
};

/// How one is chosen. Preferred are, in this order: healthy ones in the preferred zone, healthy ones elsewhere, `SUSPECT`
/// ones there, `SUSPECT` ones elsewhere. One of weight 0 is never chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick<'a> {
    /// Each as likely as any other.
    Random,
    /// In turn.
    RoundRobin,
    /// Each as likely as its weight is large.
    Weighted,
    /// The same for the same key, while it is there.
    Rendezvous(&'a str),
}

/// The instances of one moment.
#[derive(Clone, Debug, Default)]
pub struct Instances {
    /// All of them, by id.
    all: Vec<Arc<Instance>>,
    /// Those of the best rank that has any.
    best: Vec<Arc<Instance>>,
    /// Their weights, each with those before it.
    weights: Vec<u64>,
}

impl Instances {
    fn new(all: Vec<Arc<Instance>>, zone: &str) -> Self {
        let rank = |instance: &Instance| {
            let elsewhere = !zone.is_empty() && instance.zone != zone;
            (instance.status() == Status::Suspect, elsewhere)
        };
        let takes = all.iter().filter(|instance| weight(instance) > 0);
        let first = takes.clone().map(|instance| rank(instance)).min();
        let best: Vec<_> = takes.filter(|instance| Some(rank(instance)) == first).cloned().collect();
        let weights = best.iter().scan(0, |sum, instance| {
            *sum += u64::from(weight(instance));
            Some(*sum)
        });
        Self { weights: weights.collect(), best, all }
    }

    /// All of them, by id.
    #[must_use]
    pub fn all(&self) -> &[Arc<Instance>] {
        &self.all
    }

    fn pick(&self, how: Pick<'_>, turn: u64, random: u64) -> Option<&Arc<Instance>> {
        let count = self.best.len() as u64;
        let place = match how {
            _ if count == 0 => return None,
            Pick::Random => below(random, count),
            Pick::RoundRobin => turn % count,
            Pick::Weighted => {
                let drawn = below(random, *self.weights.last()?);
                self.weights.partition_point(|through| *through <= drawn) as u64
            }
            Pick::Rendezvous(key) => {
                let candidate = |instance: &'_ Arc<Instance>| (instance.id.clone(), weight(instance));
                let known: Vec<_> = self.best.iter().map(candidate).collect();
                let candidates: Vec<_> = known
                    .iter()
                    .map(|(id, weight)| Candidate { id, zone: "", weight: *weight, suspect: false })
                    .collect();
                *pick(Choice::Rendezvous { key }, &candidates, 1, "", &mut || random).first()? as u64
            }
        };
        self.best.get(usize::try_from(place).ok()?)
    }
}

fn weight(instance: &Instance) -> u32 {
    instance.weight.unwrap_or(1)
}

/// A number below `bound` of a random one; as even as 64 bits allow.
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// A service, for as long as it is held. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Service {
    known: watch::Receiver<Arc<Instances>>,
    standing: Arc<Mutex<Standing>>,
    began: Arc<Mutex<bool>>,
    turn: Arc<AtomicU64>,
    random: Arc<AtomicU64>,
    _follower: Arc<Follower>,
}

/// Ends the task that keeps it current, when nobody holds the service any more.
#[derive(Debug)]
struct Follower(tokio::task::AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Service {
    pub(super) fn start(client: &Arc<Inner>, selector: Selector, zone: String) -> Self {
        let watch = Watch::start(client, vec![selector]);
        let standing = watch.shared_standing();
        let (to, known) = watch::channel(Arc::default());
        let began = Arc::new(Mutex::new(false));
        let task = tokio::spawn(follow(watch, to, Arc::clone(&began), zone));
        let seed = getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15);
        Self {
            known,
            standing,
            began,
            turn: Arc::default(),
            random: Arc::new(AtomicU64::new(seed)),
            _follower: Arc::new(Follower(task.abort_handle())),
        }
    }

    /// One of the instances; none if none can take traffic, as far as is known. Asks nobody.
    #[must_use]
    pub fn pick(&self, how: Pick<'_>) -> Option<Arc<Instance>> {
        let turn = if how == Pick::RoundRobin { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        self.known.borrow().pick(how, turn, self.random()).cloned()
    }

    /// All instances that can take traffic, as far as is known.
    #[must_use]
    pub fn instances(&self) -> Arc<Instances> {
        Arc::clone(&self.known.borrow())
    }

    /// How old that is: 0 while the registry is heard, else how long ago it was.
    #[must_use]
    pub fn age(&self) -> Duration {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.failing.is_some() { standing.heard.elapsed() } else { Duration::ZERO }
    }

    /// Why the registry is not heard, while that is so.
    #[must_use]
    pub fn failing(&self) -> Option<CallFailed> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).failing.clone()
    }

    /// Waits until it is known who is there; or for ever, if the watch was refused: see `failing`.
    pub async fn known(&mut self) {
        let began = || *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        while !began() {
            if self.known.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until what is known changes.
    pub async fn changed(&mut self) {
        if self.known.changed().await.is_err() {
            // Nothing will change any more.
            std::future::pending::<()>().await;
        }
    }

    /// The next of a sequence of random numbers (SplitMix64): nobody waits for another's.
    fn random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

async fn follow(mut watch: Watch, to: watch::Sender<Arc<Instances>>, began: Arc<Mutex<bool>>, zone: String) {
    let mut there = std::collections::BTreeMap::new();
    while let Some(Ok(change)) = watch.next().await {
        for event in change.events {
            let kind = event.r#type();
            let Some(instance) = event.instance else { continue };
            let key = (instance.id.clone(), instance.namespace.clone(), instance.service.clone());
            if kind == EventType::Offline {
                there.remove(&key);
            } else {
                there.insert(key, Arc::new(instance));
            }
        }
        *began.lock().unwrap_or_else(PoisonError::into_inner) = true;
        to.send_replace(Arc::new(Instances::new(there.values().cloned().collect(), &zone)));
    }
    // It was refused: what was known stays.
    std::future::pending::<()>().await;
}
