//! Wakes one reader when something it may care about was published. The publisher never learns what became of it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Context,
};

use fixedbitset::FixedBitSet;

use super::{
    drain::{Ask, Standing},
    lag::{Lag, Lags},
    relay::Sleeper,
};
use crate::registry::Revision;

/// The part of a reader that has one subscription only.
pub const ONLY_PART: u32 = u32::MAX;

/// A reader that sleeps until it is woken. A wake-up that comes while it works is not lost.
#[derive(Debug, Default)]
pub struct Listener {
    woken: AtomicBool,
    sleeper: Mutex<Option<Sleeper>>,
    /// Which of the reader's subscriptions may have something, when it has several.
    dirty: Mutex<FixedBitSet>,
    /// How far it is behind, if it is one of those that this is asked of.
    lag: Option<Lag>,
    /// Whether there are any of these.
    asked: AtomicBool,
    /// What drains want to know of the reader; mostly nothing.
    asks: Mutex<Option<Box<Asks>>>,
}

/// What is asked of a reader, each list in order of revision.
#[derive(Debug, Default)]
struct Asks {
    unread: Vec<Ask>,
    /// They were read; whether they are acknowledged may be open.
    read: Vec<Ask>,
    /// What was acknowledged when they were looked at.
    acknowledged: Option<Revision>,
    /// How many there are when those that nobody wants to know are dropped.
    sweep_at: usize,
}

/// The least of them at which that is done.
const SWEEP_MIN: usize = 64;

impl Asks {
    fn add(&mut self, ask: Ask) {
        if self.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.unread.retain(Ask::is_open);
            self.read.retain(Ask::is_open);
            self.sweep_at = 2 * self.len();
        }
        insert(&mut self.unread, ask);
    }

    fn len(&self) -> usize {
        self.unread.len() + self.read.len()
    }

    /// Looks at those that may stand otherwise: what was not read up to `reached`, and what is acknowledged by now.
    fn answer(
        &mut self,
        reached: Revision,
        acknowledged: Option<Revision>,
        standing: &impl Fn(&Ask) -> Option<Standing>,
    ) {
        if acknowledged != self.acknowledged {
            // With the first it is known that the reader acknowledges at all, which concerns each of them.
            let through = if self.acknowledged.is_some() { acknowledged } else { None };
            let before = self.read.partition_point(|ask| through.is_none_or(|through| ask.revision() <= through));
            let looked: Vec<Ask> = self.read.drain(..before).collect();
            self.acknowledged = acknowledged;
            looked.into_iter().for_each(|ask| self.put(ask, standing));
        }
        let before = self.unread.partition_point(|ask| ask.revision() <= reached);
        let looked: Vec<Ask> = self.unread.drain(..before).collect();
        looked.into_iter().for_each(|ask| self.put(ask, standing));
    }

    /// Looks at all of them.
    fn answer_all(&mut self, standing: &impl Fn(&Ask) -> Option<Standing>) {
        let all: Vec<Ask> = self.unread.drain(..).chain(self.read.drain(..)).collect();
        all.into_iter().for_each(|ask| self.put(ask, standing));
    }

    /// Keeps an ask by how it stands, unless there is nothing more to say.
    fn put(&mut self, mut ask: Ask, standing: &impl Fn(&Ask) -> Option<Standing>) {
        let Some(stands) = Some(&ask).filter(|ask| ask.is_open()).and_then(standing) else { return };
        if ask.stands(stands) {
            insert(if stands == Standing::Unread { &mut self.unread } else { &mut self.read }, ask);
        }
    }
}

fn insert(asks: &mut Vec<Ask>, ask: Ask) {
    let place = asks.partition_point(|other| other.revision() <= ask.revision());
    asks.insert(place, ask);
}

impl Listener {
    /// A listener that was not woken yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The listener of a stream, whose lag is told among `lags`.
    #[must_use]
    pub fn of_stream(lags: &Arc<Lags>) -> Arc<Self> {
        Arc::new(Self { lag: Some(lags.place()), ..Self::default() })
    }

    /// Everything up to `cursor` was read, and there may be more.
    pub fn has_read(&self, cursor: Revision) {
        if let Some(lag) = &self.lag {
            lag.read(cursor);
        }
    }

    /// Everything was read.
    pub fn has_caught_up(&self) {
        if let Some(lag) = &self.lag {
            lag.caught_up();
        }
    }

    /// Lets the reader say how it stands to a drain.
    pub(super) fn ask(&self, ask: Ask) {
        let parts: Vec<u32> = ask.parts().iter().map(|(part, _)| *part).collect();
        let mut asks = lock(&self.asks);
        asks.get_or_insert_default().add(ask);
        self.asked.store(true, Ordering::Release);
        drop(asks);
        parts.into_iter().for_each(|part| self.wake_for(part));
    }

    /// Answers what is asked of the reader, if anything is and may stand otherwise than when it was looked at last: it has
    /// read nothing beyond `reached`, and acknowledged so much. Each stands as `standing` says, or what it was asked for
    /// has ended.
    pub(super) fn answer(
        &self,
        reached: Revision,
        acknowledged: Option<Revision>,
        standing: impl Fn(&Ask) -> Option<Standing>,
    ) {
        self.with_asks(|asks| asks.answer(reached, acknowledged, &standing));
    }

    /// Answers all that is asked of it: one of its watches has ended.
    pub(super) fn answer_all(&self, standing: impl Fn(&Ask) -> Option<Standing>) {
        self.with_asks(|asks| asks.answer_all(&standing));
    }

    fn with_asks(&self, answer: impl FnOnce(&mut Asks)) {
        if self.asked.load(Ordering::Acquire) {
            let mut held = lock(&self.asks);
            let Some(asks) = held.as_deref_mut() else { return };
            answer(asks);
            if asks.len() == 0 {
                *held = None;
                self.asked.store(false, Ordering::Release);
            }
        }
    }

    /// The watch of this number begins anew, having read up to `cursor`: what it has not read it finds in a snapshot.
    pub(super) fn begins_anew(&self, number: u64, cursor: Revision) {
        self.answer_all(|ask| {
            let misses = ask.revision() > cursor && ask.parts().iter().any(|(_, asked)| *asked == number);
            Some(if misses { Standing::Lagging } else { ask.standing() })
        });
    }

    /// Wakes the reader.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(sleeper) = lock(&self.sleeper).take()
        {
            sleeper.wake();
        }
    }

    /// Wakes the reader since `revision` has something for its subscription `part`, or for its only one.
    pub fn tell(&self, part: u32, revision: Revision) {
        if let Some(lag) = &self.lag {
            lag.told(revision);
        }
        self.wake_for(part);
    }

    /// Wakes the reader for its subscription `part`, or for its only one.
    pub fn wake_for(&self, part: u32) {
        if part != ONLY_PART {
            lock(&self.dirty).grow_and_insert(part as usize);
        }
        self.wake();
    }

    /// Takes the subscriptions that the reader was woken for; they are added to those that are there.
    pub fn take_dirty(&self, dirty: &mut FixedBitSet) {
        let mut taken = lock(&self.dirty);
        if !taken.is_clear() {
            dirty.union_with(&taken);
            taken.clear();
        }
    }

    /// Whether it was woken since the last call; if not, `context` is woken when it is.
    pub fn poll_woken(&self, context: &Context<'_>) -> bool {
        if self.woken.swap(false, Ordering::AcqRel) {
            return true;
        }
        let mut sleeper = lock(&self.sleeper);
        if sleeper.as_ref().is_none_or(|held| !held.is_of(context)) {
            *sleeper = Some(Sleeper::of(context));
        }
        drop(sleeper);
        // Woken between the first look and the registration?
        self.woken.swap(false, Ordering::AcqRel)
    }

    /// Waits until it is woken.
    pub async fn woken(&self) {
        std::future::poll_fn(|context| {
            if self.poll_woken(context) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
