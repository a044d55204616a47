//! Tokens that were judged good, so that the next beat of the same lease costs one comparison.
//!
//! A slot remembers a keyed hash of the whole token (SipHash with a key drawn by this process), never the token. To be
//! taken for a good one, another token would have to hit 64 bits that nobody outside can compute. Any change of the
//! slot's record forgets it.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::registry::LeaseToken;

/// What was found good, by slot.
#[derive(Debug, Default)]
pub(super) struct Verified {
    key: RandomState,
    /// 0: nothing.
    checks: Vec<u64>,
}

impl Verified {
    /// Whether `token` was found good for the record in its slot, which has not changed since.
    pub(super) fn knows(&self, token: &LeaseToken) -> bool {
        self.checks.get(token.hint as usize).is_some_and(|check| *check != 0 && *check == self.check(token))
    }

    /// `token` was judged good for the record in `slot`.
    pub(super) fn remember(&mut self, slot: u32, token: &LeaseToken) {
        if token.hint != slot {
            return;
        }
        let at = slot as usize;
        if at >= self.checks.len() {
            self.checks.resize(at + 1, 0);
        }
        self.checks[at] = self.check(token);
    }

    /// The record in `slot` changed.
    pub(super) fn forget(&mut self, slot: u32) {
        if let Some(check) = self.checks.get_mut(slot as usize) {
            *check = 0;
        }
    }

    fn check(&self, token: &LeaseToken) -> u64 {
        let LeaseToken { registry, key, lease, secret, hint } = token;
        // In one piece: the hasher is slow with many small ones.
        let mut whole = [0; 44];
        whole[..4].copy_from_slice(&registry.to_ne_bytes());
        whole[4..8].copy_from_slice(&hint.to_ne_bytes());
        whole[8..16].copy_from_slice(&key.0.to_ne_bytes());
        whole[16..24].copy_from_slice(&lease.revision.to_ne_bytes());
        whole[24..28].copy_from_slice(&lease.ordinal.to_ne_bytes());
        whole[28..].copy_from_slice(&secret.0);
        let mut hasher = self.key.build_hasher();
        hasher.write(&whole);
        hasher.finish()
    }
}
