//! Wakes one reader when something it may care about was published. The publisher never learns what became of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

/// The part of a reader that has one subscription only.
pub const ONLY_PART: u32 = u32::MAX;

/// A reader that sleeps until it is woken. A wake-up that comes while it works is not lost.
#[derive(Debug, Default)]
pub struct Listener {
    woken: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// Which of the reader's subscriptions may have something, when it has several.
    dirty: Mutex<BTreeSet<u32>>,
}

impl Listener {
    /// A listener that was not woken yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Wakes the reader.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(waker) = lock(&self.waker).take()
        {
            waker.wake();
        }
    }

    /// Wakes the reader for its subscription `part`, or for its only one.
    pub fn wake_for(&self, part: u32) {
        if part != ONLY_PART {
            lock(&self.dirty).insert(part);
        }
        self.wake();
    }

    /// Takes the subscriptions that the reader was woken for, in order, each once.
    #[must_use]
    pub fn take_dirty(&self) -> Vec<u32> {
        std::mem::take(&mut *lock(&self.dirty)).into_iter().collect()
    }

    /// Whether it was woken since the last call; if not, `context` is woken when it is.
    pub fn poll_woken(&self, context: &Context<'_>) -> bool {
        if self.woken.swap(false, Ordering::AcqRel) {
            return true;
        }
        let mut waker = lock(&self.waker);
        if waker.as_ref().is_none_or(|held| !held.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        drop(waker);
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
