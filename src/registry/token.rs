//! Lease tokens: who may act for an incarnation. The state keeps only a hash of the secret.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::key::{Fingerprint, Revision};

/// Bytes of a token before it becomes text.
const BYTES: usize = 1 + 4 + 8 + 8 + 4 + 16 + 4;
/// Characters of a token's text.
pub const TEXT_LEN: usize = 60;
/// Of the binary form, so that a later one can be told apart.
const FORMAT: u8 = 1;

/// Names one registration for ever: no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// The registration's revision, which is also its incarnation.
    pub revision: Revision,
    /// Its place in that revision.
    pub ordinal: u32,
}

/// 128 random bits, known to the registrant only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What is stored of a secret: the first 128 bits of its SHA-256. The secret is random and as long, so a slow hash
/// would protect nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 16]);

impl Secret {
    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        let mut head = [0; 16];
        head.copy_from_slice(&Sha256::digest(self.0)[..16]);
        SecretHash(head)
    }
}

impl SecretHash {
    /// Whether `secret` is the hashed one, in constant time.
    #[must_use]
    pub fn accepts(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&secret.hash().0).into()
    }
}

/// A lease token: what `Lease.token` is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseToken {
    /// 32 bits of the registry's id: a token of another registry is known as such.
    pub registry: u32,
    /// Of the key.
    pub key: Fingerprint,
    /// Which registration.
    pub lease: LeaseId,
    /// The right itself.
    pub secret: Secret,
    /// Where the record was when the token was made. Checked; may be wrong.
    pub hint: u32,
}

impl LeaseToken {
    /// The token's text: URL-safe base64 of its parts in network order.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut raw = [0; BYTES];
        raw[0] = FORMAT;
        raw[1..5].copy_from_slice(&self.registry.to_be_bytes());
        raw[5..13].copy_from_slice(&self.key.0.to_be_bytes());
        raw[13..21].copy_from_slice(&self.lease.revision.to_be_bytes());
        raw[21..25].copy_from_slice(&self.lease.ordinal.to_be_bytes());
        raw[25..41].copy_from_slice(&self.secret.0);
        raw[41..45].copy_from_slice(&self.hint.to_be_bytes());
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// The token that `text` is, if it is one at all. What is not counts as no token.
    #[must_use]
    pub fn decode(text: impl AsRef<[u8]>) -> Option<Self> {
        let text = text.as_ref();
        if text.len() != TEXT_LEN {
            return None;
        }
        let mut raw = [0; BYTES];
        URL_SAFE_NO_PAD.decode_slice(text, &mut raw).ok()?;
        if raw[0] != FORMAT {
            return None;
        }
        Some(Self {
            registry: u32::from_be_bytes(part(&raw, 1)),
            key: Fingerprint(u64::from_be_bytes(part(&raw, 5))),
            lease: LeaseId {
                revision: u64::from_be_bytes(part(&raw, 13)),
                ordinal: u32::from_be_bytes(part(&raw, 21)),
            },
            secret: Secret(part(&raw, 25)),
            hint: u32::from_be_bytes(part(&raw, 41)),
        })
    }
}

fn part<const N: usize>(raw: &[u8; BYTES], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&raw[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> LeaseToken {
        LeaseToken {
            registry: 0x0102_0304,
            key: Fingerprint::of("default", "web", "web-1"),
            lease: LeaseId { revision: 77, ordinal: 3 },
            secret: Secret([9; 16]),
            hint: 5,
        }
    }

    #[test]
    fn text_gives_the_token_back() {
        let text = token().encode();
        assert_eq!(text.len(), TEXT_LEN);
        assert_eq!(LeaseToken::decode(&text), Some(token()));
    }

    #[test]
    fn what_is_not_a_token_is_none() {
        let good = token().encode();
        for bad in ["", "x", &good[1..], &format!("{good}A"), &good.replace(&good[..2], "__"), &"é".repeat(30)] {
            assert_eq!(LeaseToken::decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_hash_accepts_its_secret_only() {
        let hash = Secret([1; 16]).hash();
        assert!(hash.accepts(&Secret([1; 16])));
        assert!(!hash.accepts(&Secret([2; 16])));
    }
}
