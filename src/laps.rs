//! Who goes when more is asked for than one thread can do: beats at once, and everything else in laps. A lap has a few
//! places; between two of them the sockets are looked at, and the beats in them are answered. Whoever finds no place in a
//! lap waits for a later one, connections, calls and parts of streams each for themselves: thousands of snapshots hold up no
//! lookup, and thousands of callers who come back no snapshot. While there is little to do nobody waits, and it costs a lock that
//! nobody else holds. Knows nothing of what is done in a turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::Notify, task::yield_now};

/// When the call that waits longest has waited so long, most places go to those who came last: who came first has almost
/// given up, and to serve everybody in the order of coming would be to serve everybody too late.
const PATIENCE: Duration = Duration::from_millis(100);
/// Of so many places one is still for the call that waits longest.
const OLDEST: usize = 4;

/// What somebody asks for a turn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection reads what came on it.
    Connection,
    /// A connection reads on, on which more came than it read in its last turn.
    Backlog,
    /// A call with one answer.
    Call,
    /// A part of a stream.
    Part,
}

const ALL: [Kind; 4] = [Kind::Connection, Kind::Backlog, Kind::Call, Kind::Part];

impl Kind {
    /// How many may go between two looks at the sockets while nobody waits, of whatever kind.
    fn free(self) -> u32 {
        match self {
            Self::Call => 256,
            Self::Connection | Self::Backlog | Self::Part => 32,
        }
    }

    /// How many go in a lap while somebody waits. A connection with a backlog has a hundred calls in each turn, others mostly
    /// one, and a part may have 190 KiB.
    fn places(self) -> usize {
        match self {
            Self::Connection | Self::Part => 8,
            Self::Backlog => 2,
            Self::Call => 32,
        }
    }
}

/// The laps of one thread.
#[derive(Clone, Debug)]
pub struct Laps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lap: Mutex<Lap>,
    /// The laps begin.
    rush: Notify,
}

#[derive(Debug)]
struct Lap {
    queues: [Queue; ALL.len()],
    /// Of whoever waits next.
    number: u64,
    /// Whether the task that begins them is told to.
    rushing: bool,
    /// Whether there is one.
    kept: bool,
    /// Connections on which there may be what was not read.
    unread: BTreeSet<u64>,
    /// Who waits until some of them have read it.
    waits_for_them: Option<Waker>,
}

/// Those of a kind.
#[derive(Debug)]
struct Queue {
    /// Who waits, since when, in the order of coming.
    waiting: BTreeMap<u64, (Instant, Waker)>,
    /// Places that nobody has taken.
    left: u32,
}

/// Whether somebody waits. Who gives it up waits no more.
#[derive(Debug, Default)]
pub struct Place(Option<Waiting>);

#[derive(Debug)]
struct Waiting {
    laps: Laps,
    kind: Kind,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let waker = self.laps.lock().queues[self.kind as usize].waiting.remove(&self.number);
        // Not while the lock is held: what is dropped with it may wait as well.
        drop(waker);
    }
}

/// A connection on which there may be what was not read, for as long as this is kept.
#[derive(Debug)]
pub struct Unread {
    laps: Laps,
    number: u64,
}

impl Drop for Unread {
    fn drop(&mut self) {
        let mut lap = self.laps.lock();
        lap.unread.remove(&self.number);
        let waker = lap.waits_for_them.take();
        drop(lap);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Queue {
    /// Who may go in the lap that begins at `now`.
    fn go(&mut self, kind: Kind, now: Instant, woken: &mut Vec<Waker>) {
        let oldest = self.waiting.first_key_value();
        let newest_first = kind == Kind::Call
            && oldest.is_some_and(|(_, (since, _))| now.saturating_duration_since(*since) > PATIENCE);
        let before = woken.len();
        woken.extend((1..=kind.places()).map_while(|nth| {
            let next = match newest_first && !nth.is_multiple_of(OLDEST) {
                true => self.waiting.pop_last(),
                false => self.waiting.pop_first(),
            };
            next.map(|(_, (_, waker))| waker)
        }));
        // Of these there are some for who comes in this lap.
        self.left = (kind.places() + before - woken.len()) as u32;
    }
}

impl Lap {
    /// Begins anew at `now`. Gives those who have waited and may go; if there is nobody it is the last lap.
    fn next(&mut self, now: Instant) -> Vec<Waker> {
        let mut woken = Vec::new();
        for (queue, kind) in self.queues.iter_mut().zip(ALL) {
            queue.go(kind, now, &mut woken);
        }
        self.rushing = !woken.is_empty();
        if !self.rushing {
            self.queues.iter_mut().zip(ALL).for_each(|(queue, kind)| queue.left = kind.free());
        }
        woken
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }
}

impl Default for Laps {
    fn default() -> Self {
        let queues = ALL.map(|kind| Queue { waiting: BTreeMap::new(), left: kind.free() });
        let (number, unread) = (0, BTreeSet::new());
        let lap = Lap { queues, number, rushing: false, kept: false, unread, waits_for_them: None };
        Self(Arc::new(Shared { lap: Mutex::new(lap), rush: Notify::new() }))
    }
}

impl Laps {
    fn lock(&self) -> MutexGuard<'_, Lap> {
        self.0.lock()
    }

    /// Ready when it is somebody's turn, who has to ask with the same place until then.
    pub fn poll(&self, place: &mut Place, kind: Kind, context: &Context<'_>) -> Poll<()> {
        let mut lap = self.lock();
        if let Some(waiting) = &place.0 {
            if let Some((_, waker)) = lap.queues[waiting.kind as usize].waiting.get_mut(&waiting.number) {
                let before = (!waker.will_wake(context.waker())).then(|| mem::replace(waker, context.waker().clone()));
                drop((lap, before));
                return Poll::Pending;
            }
            drop(lap);
            place.0 = None;
            return Poll::Ready(());
        }
        let queue = &mut lap.queues[kind as usize];
        if queue.left > 0 {
            queue.left -= 1;
            // The sockets are to be looked at before they are all gone.
            if queue.left == kind.free() / 2 {
                self.0.rush(&mut lap);
            }
            return Poll::Ready(());
        }
        drop(lap);
        if self.wait(place, kind, context) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Begins to wait for a turn, although there may be one at once. False: without a runtime there is none to wait for.
    pub fn wait(&self, place: &mut Place, kind: Kind, context: &Context<'_>) -> bool {
        let mut lap = self.lock();
        if !self.0.rush(&mut lap) {
            return false;
        }
        let number = lap.next_number();
        lap.queues[kind as usize].waiting.insert(number, (Instant::now(), context.waker().clone()));
        drop(lap);
        place.0 = Some(Waiting { laps: self.clone(), kind, number });
        true
    }

    /// There may be something on a connection that is not read yet.
    #[must_use]
    pub fn unread(&self) -> Unread {
        let mut lap = self.lock();
        let number = lap.next_number();
        lap.unread.insert(number);
        drop(lap);
        Unread { laps: self.clone(), number }
    }

    /// Completes when all connections have read what is unread now. False: none had.
    pub async fn all_read(&self) -> bool {
        let (number, mut has_waited) = (self.lock().number, false);
        poll_fn(|context| {
            let mut lap = self.lock();
            if lap.unread.first().is_none_or(|first| *first >= number) {
                return Poll::Ready(());
            }
            has_waited = true;
            let before = lap.waits_for_them.replace(context.waker().clone());
            drop((lap, before));
            Poll::Pending
        })
        .await;
        has_waited
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lap> {
        self.lap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that another lap begins when the sockets were looked at. False: without a runtime none does.
    fn rush(self: &Arc<Self>, lap: &mut Lap) -> bool {
        if !lap.kept {
            let Ok(runtime) = Handle::try_current() else { return false };
            lap.kept = true;
            runtime.spawn(keep_going(Arc::clone(self)));
        }
        if !mem::replace(&mut lap.rushing, true) {
            self.rush.notify_one();
        }
        true
    }
}

/// Lets lap follow lap while somebody waits. It ends with the runtime.
async fn keep_going(shared: Arc<Shared>) {
    loop {
        shared.rush.notified().await;
        loop {
            // Until all who were ready had their turn, and the sockets were looked at.
            yield_now().await;
            let woken = shared.lock().next(Instant::now());
            if woken.is_empty() {
                break;
            }
            woken.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
        task::{JoinHandle, JoinSet},
    };

    use super::*;

    /// Two who talk over sockets as long as those are looked at, and how often.
    pub(crate) fn talk() -> (JoinHandle<()>, Arc<AtomicUsize>) {
        let (mut near, mut far) = UnixStream::pair().expect("sockets");
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        let talk = tokio::spawn(async move {
            while near.write_all(b"?").await.is_ok() && far.read_exact(&mut [0]).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        (talk, heard)
    }

    async fn turn(laps: &Laps, kind: Kind) {
        let mut place = Place::default();
        poll_fn(|context| laps.poll(&mut place, kind, context)).await;
    }

    /// A call among others that wait, of which each, when it has its turn, tells its number.
    struct Scene {
        laps: Laps,
        places: Vec<Place>,
    }

    impl Scene {
        /// Of so many that wait.
        fn of(kind: Kind, count: usize) -> Self {
            let mut scene = Self { laps: Laps::default(), places: Vec::new() };
            scene.laps.lock().kept = true;
            (0..kind.free()).for_each(|_| assert!(scene.asks(&mut Place::default(), kind)));
            for _ in 0..count {
                let mut place = Place::default();
                assert!(!scene.asks(&mut place, kind));
                scene.places.push(place);
            }
            scene
        }

        fn asks(&self, place: &mut Place, kind: Kind) -> bool {
            self.laps.poll(place, kind, &Context::from_waker(Waker::noop())).is_ready()
        }

        /// Begins a lap; answers who of them go.
        fn lap(&mut self, kind: Kind, now: Instant) -> Vec<usize> {
            self.laps.lock().next(now).into_iter().for_each(drop);
            let laps = self.laps.clone();
            let is_over = |place: &mut Place| {
                place.0.is_some() && laps.poll(place, kind, &Context::from_waker(Waker::noop())).is_ready()
            };
            self.places.iter_mut().enumerate().filter_map(|(number, place)| is_over(place).then_some(number)).collect()
        }
    }

    #[test]
    fn who_waits_goes_in_the_order_of_coming_and_those_who_have_gone_take_no_place() {
        for kind in ALL {
            let (places, now) = (kind.places(), Instant::now());
            let mut scene = Scene::of(kind, 3 * places);
            assert_eq!(scene.lap(kind, now), (0..places).collect::<Vec<_>>(), "{kind:?}");
            // Of the next two, each second one gives up.
            (places..3 * places).step_by(2).for_each(|number| scene.places[number] = Place::default());
            assert_eq!(scene.lap(kind, now), (places + 1..3 * places).step_by(2).collect::<Vec<_>>(), "{kind:?}");
            assert!(scene.lap(kind, now).is_empty() && !scene.laps.lock().rushing, "{kind:?}");
            let mut free = (0..=kind.free()).map(|_| scene.asks(&mut Place::default(), kind));
            assert_eq!(free.position(|goes| !goes), Some(kind.free() as usize), "{kind:?}");
        }
    }

    #[test]
    fn when_calls_wait_for_too_long_most_places_go_to_those_who_came_last() {
        for kind in ALL {
            let mut scene = Scene::of(kind, 100);
            let late = Instant::now() + PATIENCE + Duration::from_millis(1);
            let (first, last): (Vec<_>, Vec<_>) = scene.lap(kind, late).into_iter().partition(|number| *number < 50);
            let newest = if kind == Kind::Call { kind.places() / OLDEST * (OLDEST - 1) } else { 0 };
            assert_eq!((first.len(), last.len()), (kind.places() - newest, newest), "{kind:?}");
            assert_eq!(first, (0..first.len()).collect::<Vec<_>>(), "{kind:?}");
            assert_eq!(last, (100 - newest..100).collect::<Vec<_>>(), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn sockets_are_looked_at_between_laps_and_everybody_has_a_turn() {
        let laps = Laps::default();
        let (talk, heard) = talk();
        let mut all = JoinSet::new();
        for number in 0..3_000 {
            let laps = laps.clone();
            all.spawn(async move { turn(&laps, ALL[number % ALL.len()]).await });
        }
        while let Some(done) = all.join_next().await {
            done.expect("no panic");
        }
        talk.abort();
        let heard = heard.load(Ordering::Relaxed);
        assert!(heard >= 100, "{heard} times in about 240 laps");
        // When the rush is over nobody waits.
        while laps.lock().rushing {
            yield_now().await;
        }
        let mut place = Place::default();
        assert!(poll_fn(|context| Poll::Ready(laps.poll(&mut place, Kind::Call, context))).await.is_ready());
    }

    #[tokio::test]
    async fn who_waits_until_all_is_read_waits_for_what_was_unread_then() {
        let laps = Laps::default();
        assert!(!laps.all_read().await, "nothing is unread");
        let mut before: Vec<Unread> = (0..3).map(|_| laps.unread()).collect();
        let waits = laps.clone();
        let mut waiting = tokio::spawn(async move { waits.all_read().await });
        let mut later = Vec::new();
        for _ in 0..3 {
            yield_now().await;
            assert!(!waiting.is_finished());
            // What comes later is not waited for.
            later.push(laps.unread());
            drop(before.swap_remove(0));
        }
        assert!((&mut waiting).await.expect("no panic"));
    }
}
