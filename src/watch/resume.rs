//! Resume tokens: where a watch can continue, and why it cannot.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use crate::{engine::Epoch, metrics::Reset, registry::Revision};

const FORMAT: u8 = 1;
const BYTES: usize = 1 + 16 + 8 + 8 + 8;

/// Why a watch begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// No longer in the kept log.
    TooOld,
    /// Of a stretch of history that this registry does not continue.
    AnotherEpoch,
    /// Of another registry.
    AnotherRegistry,
    /// Made for other selectors.
    SelectorsChanged,
    /// The reader was slower than the kept log.
    FellBehind,
    /// Not a token.
    Malformed,
}

impl From<ResetReason> for Reset {
    fn from(reason: ResetReason) -> Self {
        match reason {
            ResetReason::TooOld => Self::TooOld,
            ResetReason::AnotherEpoch => Self::AnotherEpoch,
            ResetReason::AnotherRegistry => Self::AnotherRegistry,
            ResetReason::SelectorsChanged => Self::SelectorsChanged,
            ResetReason::FellBehind => Self::FellBehind,
            ResetReason::Malformed => Self::Malformed,
        }
    }
}

/// A point from which a watch continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    /// Identity of the data.
    pub registry: Uuid,
    /// The stretch of history that `revision` is of.
    pub epoch: u64,
    /// Everything up to it was seen.
    pub revision: Revision,
    /// Of the selectors, and of what the caller may see through them.
    pub fingerprint: u64,
}

impl ResumeToken {
    /// Its text: URL-safe base64 of its parts in network order.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut raw = [0; BYTES];
        raw[0] = FORMAT;
        raw[1..17].copy_from_slice(self.registry.as_bytes());
        raw[17..25].copy_from_slice(&self.epoch.to_be_bytes());
        raw[25..33].copy_from_slice(&self.revision.to_be_bytes());
        raw[33..].copy_from_slice(&self.fingerprint.to_be_bytes());
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// The token that `text` is.
    ///
    /// # Errors
    /// `Malformed` if it is none.
    pub fn decode(text: &str) -> Result<Self, ResetReason> {
        let mut raw = [0; BYTES];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut raw) {
            Ok(BYTES) if raw[0] == FORMAT => {}
            _ => return Err(ResetReason::Malformed),
        }
        let number = |at: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&raw[at..at + 8]);
            u64::from_be_bytes(part)
        };
        let mut registry = [0; 16];
        registry.copy_from_slice(&raw[1..17]);
        let registry = Uuid::from_bytes(registry);
        Ok(Self { registry, epoch: number(17), revision: number(25), fingerprint: number(33) })
    }

    /// The revision to continue after.
    ///
    /// # Errors
    /// Why the token cannot be continued in the registry `registry` with this history, at `head`, for a watch with
    /// `fingerprint`.
    pub fn check(
        &self,
        registry: Uuid,
        epochs: &[Epoch],
        head: Revision,
        fingerprint: u64,
    ) -> Result<Revision, ResetReason> {
        if self.registry != registry {
            return Err(ResetReason::AnotherRegistry);
        }
        if self.fingerprint != fingerprint {
            return Err(ResetReason::SelectorsChanged);
        }
        let place = epochs.iter().position(|epoch| epoch.id == self.epoch).ok_or(ResetReason::AnotherEpoch)?;
        let last = epochs.get(place + 1).map_or(head, |next| next.after);
        if self.revision <= last { Ok(self.revision) } else { Err(ResetReason::AnotherEpoch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTORY: [Epoch; 2] = [Epoch { id: 7, after: 0 }, Epoch { id: 9, after: 100 }];

    fn token(epoch: u64, revision: Revision) -> ResumeToken {
        ResumeToken { registry: Uuid::from_u128(1), epoch, revision, fingerprint: 5 }
    }

    #[test]
    fn text_gives_the_token_back_and_nothing_else_does() {
        let good = token(7, 3).encode();
        assert_eq!(ResumeToken::decode(&good), Ok(token(7, 3)));
        for bad in ["", "garbage", &good[1..], &format!("{good}AAAA"), "ü"] {
            assert_eq!(ResumeToken::decode(bad), Err(ResetReason::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_token_continues_within_its_epoch() {
        let check = |token: ResumeToken| token.check(Uuid::from_u128(1), &HISTORY, 150, 5);
        assert_eq!(check(token(7, 100)), Ok(100));
        assert_eq!(check(token(9, 150)), Ok(150));
        assert_eq!(check(token(7, 101)), Err(ResetReason::AnotherEpoch));
        assert_eq!(check(token(9, 151)), Err(ResetReason::AnotherEpoch));
        assert_eq!(check(token(8, 1)), Err(ResetReason::AnotherEpoch));
        let other = ResumeToken { registry: Uuid::nil(), ..token(7, 1) };
        assert_eq!(check(other), Err(ResetReason::AnotherRegistry));
        assert_eq!(check(ResumeToken { fingerprint: 6, ..token(7, 1) }), Err(ResetReason::SelectorsChanged));
    }
}
