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
    keeping::{Keeping, Told},
    known::{Aged, Instances, Known, Pick},
    watch::{Standing, Watch},
};
use crate::proto::{Instance, Selector};

/// A service, for as long as it is held. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Service {
    known: watch::Receiver<Arc<Instances>>,
    standing: Arc<Mutex<Standing>>,
    file: watch::Receiver<Told>,
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
        let file = keeping.as_ref().map_or_else(|| watch::Sender::default().subscribe(), Keeping::told);
        let task = tokio::spawn(follow(watch, to, of, keeping));
        let seed = getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15);
        Self {
            known,
            standing,
            file,
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
    /// what was kept on disk (`Means.keep`), until the registry is heard: since when that was last known to be so, and
    /// `Duration::MAX` if nobody knows, since the clock was put back.
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

    /// What is wrong with the file in which it is kept (`Means.keep`): it is damaged or may be somebody else's, and is
    /// ignored, or it cannot be written, which is tried again every minute.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.file.borrow().warning.clone()
    }

    /// Waits until what has changed is in the file in which it is kept; done at once where it is not kept.
    ///
    /// # Errors
    /// The `warning`, if it cannot be written.
    pub async fn kept(&mut self) -> Result<(), String> {
        let over = || "nothing is followed any more".to_owned();
        let told = self.file.wait_for(|told| !told.is_due).await.map_err(|_| over())?;
        told.warning.clone().map_or(Ok(()), Err)
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
        let until = known.until();
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
            () = Keeping::due(&mut keeping) => {
                if let Some(keeping) = &mut keeping {
                    match until {
                        // What is on disk is what they are held for, should this program start again.
                        Some(until) => keeping.put_off(until),
                        None => keeping.begin(known.there().cloned().collect(), watch.standing().heard),
                    }
                }
                continue;
            }
        }
        to.send_replace(Arc::new(known.instances()));
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::mpsc::channel};

    use tokio::{runtime::Builder, sync::mpsc, task::spawn_blocking, time::advance};

    use super::*;
    use crate::{
        client::{self, Change},
        proto::{Event, EventType, ResetReason, Status},
    };

    /// A service that is told what happens, and kept in a directory.
    struct Followed {
        told: mpsc::Sender<Result<client::Told, CallFailed>>,
        known: watch::Receiver<Arc<Instances>>,
        file: watch::Receiver<Told>,
    }

    fn keeping(place: &Path) -> Keeping {
        Keeping::new(place, &[], &Selector::default())
    }

    impl Followed {
        fn start(place: &Path) -> Self {
            let (told, changes) = mpsc::channel(1);
            let (of, keeping) = (Known::new(String::new()), keeping(place));
            let (to, known) = watch::channel(Arc::new(of.instances()));
            let file = keeping.told();
            tokio::spawn(follow(Watch::of(changes), to, of, Some(keeping)));
            Self { told, known, file }
        }

        async fn happens(&mut self, reset: Option<ResetReason>, kind: EventType, id: &str) {
            let status = Status::Serving.into();
            let instance = Some(Instance { id: id.into(), status, ..Instance::default() });
            let events = vec![Event { r#type: kind.into(), instance, ..Event::default() }];
            let change = Change { reset, events, ..Change::default() };
            self.told.send(Ok(client::Told::Change(change))).await.unwrap();
            self.known.changed().await.unwrap();
        }

        fn count(&self) -> usize {
            self.known.borrow().all().len()
        }

        async fn is_written(&mut self) {
            assert_eq!(self.file.wait_for(|told| !told.is_due).await.unwrap().warning, None);
        }
    }

    fn on_disk(place: &Path) -> usize {
        keeping(place).restored().map_or(0, |(instances, _)| instances.len())
    }

    #[test]
    fn a_disk_that_hangs_holds_nothing_up() {
        let place = tempfile::tempdir().unwrap();
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).max_blocking_threads(1).build();
        runtime.unwrap().block_on(async {
            let mut followed = Followed::start(place.path());
            let (release, hangs) = channel::<()>();
            let hung = spawn_blocking(move || hangs.recv());
            for turn in 1..=5 {
                followed.happens(None, EventType::Online, &turn.to_string()).await;
                assert_eq!(followed.count(), turn);
                advance(Duration::from_secs(10)).await;
            }
            assert_eq!(on_disk(place.path()), 0);
            release.send(()).unwrap();
            hung.await.unwrap().unwrap();
            followed.is_written().await;
            assert_eq!(on_disk(place.path()), 5);
        });
    }

    /// A program that starts again meanwhile is to know them, too.
    #[tokio::test(start_paused = true)]
    async fn what_is_held_for_another_registry_stays_on_disk() {
        let place = tempfile::tempdir().unwrap();
        let mut followed = Followed::start(place.path());
        followed.happens(None, EventType::Online, "a").await;
        followed.is_written().await;
        followed.happens(Some(ResetReason::AnotherRegistry), EventType::Offline, "a").await;
        sleep_until(Instant::now() + Duration::from_secs(20)).await;
        assert_eq!((followed.count(), on_disk(place.path())), (1, 1));
        followed.is_written().await;
        assert_eq!((followed.count(), on_disk(place.path())), (0, 0));
    }
}
