//! What names an instance, and the fixed hash of it that tokens and indexes carry.

use std::fmt;

use sha2::{Digest, Sha256};
use smol_str::SmolStr;

/// A committed step of the registry: compared, never computed. 0 is before the first.
pub type Revision = u64;

/// The key of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The tenant's world, never empty.
    pub namespace: SmolStr,
    /// The name that clients look up.
    pub service: SmolStr,
    /// Which copy.
    pub id: SmolStr,
}

impl Key {
    /// A key of validated parts.
    pub fn new(namespace: impl Into<SmolStr>, service: impl Into<SmolStr>, id: impl Into<SmolStr>) -> Self {
        Self { namespace: namespace.into(), service: service.into(), id: id.into() }
    }

    /// The key's fixed 64-bit hash.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.namespace, &self.service, &self.id)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.service, self.id)
    }
}

/// The first 64 bits of SHA-256 over the key's parts, each ended by a zero byte (names have no control characters, so
/// this is unambiguous). It is in lease tokens, so it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// The fingerprint of a key given by its parts.
    #[must_use]
    pub fn of(namespace: &str, service: &str, id: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [namespace, service, id] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let digest = hash.finalize();
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(head))
    }
}

/// The first 64 bits of SHA-256 of a client's request id, never 0.
#[must_use]
pub fn request_fingerprint(request_id: &str) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&Sha256::digest(request_id.as_bytes())[..8]);
    u64::from_be_bytes(head).max(1)
}
