//! A service as a client knows it: the instances that can take traffic, kept current by a watch, from which one is
//! chosen without asking anybody. While the registry is away what was known last stays, and says how old it is.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Inner,
    error::CallFailed,
    keeping::{Keeping, Warning},
    known::{Aged, Instances, Known, Pick},
    watch::{Standing, Watch},
};
use crate::proto::{Instance, Selector};

/// A service, for as long as it is held. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Service {
    known: watch::Receiver<Arc<Instances>>,
    standing: Arc<Mutex<Standing>>,
    warning: Warning,
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
        let watch = Watch::start(client, vec![selector.clone()]);
        let standing = watch.shared_standing();
        let keeping = client.keep.as_deref().map(|directory| Keeping::new(directory, client.calls.hosts(), &selector));
        let mut of = Known::new(zone);
        if let Some((instances, age)) = keeping.as_ref().and_then(Keeping::restored) {
            of.restore(instances, age, Instant::now());
        }
        let (to, known) = watch::channel(Arc::new(of.instances()));
        let warning = keeping.as_ref().map(Keeping::warning).unwrap_or_default();
        let task = tokio::spawn(follow(watch, to, of, keeping));
        let seed = getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15);
        Self {
            known,
            standing,
            warning,
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

    /// How old what is known is: 0 while the registry is heard; else how long ago it was, or how long nothing is known. After
    /// a registry that has lost its data, until those who were there before have had time to register again: since then. Of
    /// what was kept on disk (`Means.keep`), until the registry is heard: since when that was last known to be so.
    #[must_use]
    pub fn age(&self) -> Duration {
        let held = self.known.borrow().aged().map_or(Duration::ZERO, Aged::age);
        self.standing().age().max(held)
    }

    /// Why the registry is not heard, while that is so.
    #[must_use]
    pub fn failing(&self) -> Option<CallFailed> {
        self.standing().failing.clone()
    }

    /// What was wrong last with the file in which it is kept (`Means.keep`): it was damaged, and is ignored, or cannot be
    /// written.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it is known who is there; what was kept on disk is known.
    ///
    /// # Errors
    /// The watch was refused: it will never be known.
    pub async fn known(&mut self) -> Result<(), CallFailed> {
        while !self.known.borrow_and_update().has_begun() {
            self.changed().await?;
        }
        Ok(())
    }

    /// Waits until what is known changes.
    ///
    /// # Errors
    /// The watch was refused: nothing will change any more.
    pub async fn changed(&mut self) -> Result<(), CallFailed> {
        let over = self.known.changed().await;
        let why = || self.failing().unwrap_or_else(|| CallFailed::here("watch", "the runtime is shutting down"));
        over.map_err(|_| why())
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next of a sequence of random numbers (SplitMix64): nobody waits for another's.
    pub(super) fn random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Until the watch is refused: what was known stays.
async fn follow(mut watch: Watch, to: watch::Sender<Arc<Instances>>, mut known: Known, mut keeping: Option<Keeping>) {
    let never = || Instant::now() + Duration::from_secs(24 * 3_600);
    loop {
        let (until, look) = (known.until(), keeping.as_ref().map(Keeping::next));
        tokio::select! {
            change = watch.next() => match change {
                Some(Ok(change)) => {
                    known.take(change, Instant::now());
                    if let Some(keeping) = &mut keeping {
                        keeping.changed();
                    }
                }
                Some(Err(_)) | None => return,
            },
            () = sleep_until(until.unwrap_or_else(never)) => known.let_go(Instant::now()),
            () = sleep_until(look.unwrap_or_else(never)) => {
                if let Some(keeping) = &mut keeping {
                    let is_heard = watch.standing().age().is_zero();
                    keeping.look(is_heard, || known.there()).await;
                }
                continue;
            }
        }
        to.send_replace(Arc::new(known.instances()));
    }
}
