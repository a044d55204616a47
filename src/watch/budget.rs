//! How much of something all who keep it may keep together, in bytes, and what each of them keeps of it.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What is kept, and how much that may be.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: usize,
}

/// What one of those who share a budget keeps; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Whether more is kept than may be.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.used() > self.max
    }

    /// How much is kept.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How much more that may be.
    #[must_use]
    pub fn left(&self) -> usize {
        self.max.saturating_sub(self.used())
    }

    /// How much that may be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// So much, if there is room for it.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let charge = self.charge(bytes);
        if self.is_exceeded() { None } else { Some(charge) }
    }

    /// So much, whether there is room or not.
    #[must_use]
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let mut charge = Charge { budget: Arc::clone(self), bytes: 0 };
        charge.set(bytes);
        charge
    }
}

impl Charge {
    /// It is so much from now on.
    pub fn set(&mut self, bytes: usize) {
        let before = mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.budget.used.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}
