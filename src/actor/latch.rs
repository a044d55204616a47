//! A latch per key: who has to wait until the proposal on a key is done. Nothing is ever decided by a key in flight.

use std::collections::{HashMap, VecDeque};

use crate::registry::Fingerprint;

/// The keys that proposals in flight touch, and what waits for each. By fingerprint: two keys that collide wait for
/// each other, which costs time and never truth.
#[derive(Debug)]
pub struct Latches<W> {
    held: HashMap<Fingerprint, VecDeque<W>>,
    waiting: usize,
}

impl<W> Default for Latches<W> {
    fn default() -> Self {
        Self { held: HashMap::new(), waiting: 0 }
    }
}

impl<W> Latches<W> {
    /// Whether a proposal in flight touches the key.
    #[must_use]
    pub fn is_held(&self, key: Fingerprint) -> bool {
        self.held.contains_key(&key)
    }

    /// Holds the keys until `release`.
    pub fn hold(&mut self, keys: &[Fingerprint]) {
        for key in keys {
            self.held.entry(*key).or_default();
        }
    }

    /// Lets `waiter` wait for the key, which is held.
    pub fn wait(&mut self, key: Fingerprint, waiter: W) {
        self.held.entry(key).or_default().push_back(waiter);
        self.waiting += 1;
    }

    /// Frees the keys and gives what waited for them, in order.
    pub fn release(&mut self, keys: &[Fingerprint]) -> Vec<W> {
        let freed: Vec<W> = keys.iter().filter_map(|key| self.held.remove(key)).flatten().collect();
        self.waiting -= freed.len();
        freed
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}
