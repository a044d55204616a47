//! Tokens: their text, what is kept of them, and whether one is good now. Pure: neither a clock nor randomness, and
//! nothing of how they come.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest as _, Sha256};
use smol_str::SmolStr;
use subtle::ConstantTimeEq as _;

use super::{Grant, Grants};
use crate::registry::{Document, DocumentKey, Kind, Quota, Revision};

/// With what the text of every token begins, so that it is known for one wherever it turns up.
const PREFIX: &str = "onair_";
/// Characters of a secret of 32 bytes.
const SECRET_CHARS: usize = 43;
/// The name of the operator's token, which only who may do everything may give to one.
pub const OPERATOR: &str = "operator";
/// The longest name of a token.
pub const NAME_MAX: usize = 64;
/// Most secrets of a token: the newest, and those that it replaces and that are still good for a while.
pub const SECRETS_MAX: usize = 4;
/// Most names of certificates of a token.
pub const CERTIFICATES_MAX: usize = 16;
/// Most grants of a token.
pub const GRANTS_MAX: usize = 100;

/// 256 random bits, known to whoever was shown the token.
#[derive(Clone, Copy)]
pub struct Secret(pub [u8; 32]);

/// What is kept of a secret: its SHA-256. The secret is random and as long, so a slow hash would protect nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

impl Secret {
    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0).into())
    }

    /// The text that proves it.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        format!("{PREFIX}{name}_{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The name and the secret that a text claims, if it is a token's at all.
#[must_use]
pub fn read(text: &str) -> Option<(&str, Secret)> {
    let rest = text.strip_prefix(PREFIX)?;
    // In bytes: the text is anyone's.
    let at = rest.len().checked_sub(SECRET_CHARS + 1)?;
    let (name, secret) = (rest.get(..at)?, rest.get(at..)?.strip_prefix('_')?);
    let mut bits = [0; 32];
    let len = URL_SAFE_NO_PAD.decode_slice(secret, &mut bits).ok()?;
    (len == bits.len() && !name.is_empty()).then_some((name, Secret(bits)))
}

/// What is wrong with the name of a token, which stands in logs, headers and file names.
#[must_use]
pub fn fault_of_name(name: &str) -> Option<String> {
    let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    let begins_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if begins_well && name.len() <= NAME_MAX && name.chars().all(is_fine) {
        return None;
    }
    Some(format!("must have 1 to {NAME_MAX} of a-z, 0-9, `-`, `.`, `_`, and begin with a letter or a digit"))
}

/// The key of a token's document.
#[must_use]
pub fn key(name: &str) -> DocumentKey {
    DocumentKey { kind: Kind::Token, namespace: SmolStr::default(), name: name.into() }
}

/// One of the secrets of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldSecret {
    /// What is kept of it.
    pub hash: SecretHash,
    /// When it was made, in Unix seconds.
    pub since: u64,
    /// Until when it is good, in Unix seconds; none: as long as the token is.
    pub until: Option<u64>,
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its name, which is its principal's.
    pub name: SmolStr,
    /// What its bearer may do.
    pub grants: Grants,
    /// Grants of a newer version, as they are written: they allow nothing here, and are kept as they are.
    pub unknown: Vec<String>,
    /// Newest first.
    pub secrets: Vec<HeldSecret>,
    /// Names of client certificates whose holders may do the same, as `AlternativeName` is shown.
    pub certificates: Vec<SmolStr>,
    /// How much its principal may have.
    pub quota: Quota,
    /// When it was made, in Unix seconds.
    pub since: u64,
    /// By which principal; empty: nobody had a name.
    pub by: String,
    /// Until when it is good, in Unix seconds; none: until it is revoked.
    pub until: Option<u64>,
    /// Of its last change.
    pub revision: Revision,
}

/// The bytes of a token's document. Field numbers are those of every store there is.
#[derive(Clone, PartialEq, Message)]
struct Body {
    /// As `Grant` is written.
    #[prost(string, repeated, tag = "1")]
    grants: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    secrets: Vec<SecretBody>,
    /// Unix seconds, as all times here.
    #[prost(uint64, tag = "3")]
    since: u64,
    #[prost(string, tag = "4")]
    by: String,
    #[prost(uint64, optional, tag = "5")]
    until: Option<u64>,
    #[prost(string, repeated, tag = "6")]
    certificates: Vec<String>,
    #[prost(message, optional, tag = "7")]
    quota: Option<Quota>,
}

#[derive(Clone, PartialEq, Message)]
struct SecretBody {
    #[prost(bytes = "bytes", tag = "1")]
    hash: Bytes,
    #[prost(uint64, tag = "2")]
    since: u64,
    #[prost(uint64, optional, tag = "3")]
    until: Option<u64>,
}

/// What of the same bytes says whether a secret is good, so that a wrong one costs no more than the look at that.
#[derive(Clone, PartialEq, Message)]
struct Proofs {
    #[prost(message, repeated, tag = "2")]
    secrets: Vec<SecretBody>,
    #[prost(uint64, optional, tag = "5")]
    until: Option<u64>,
}

/// What of the same bytes says whose certificates it names.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, repeated, tag = "6")]
    certificates: Vec<String>,
}

impl SecretBody {
    fn held(&self) -> Option<HeldSecret> {
        let hash = <[u8; 32]>::try_from(&self.hash[..]).ok()?;
        Some(HeldSecret { hash: SecretHash(hash), since: self.since, until: self.until })
    }
}

/// Whether a secret of this hash proves at `now` the token that a document is: then until when, if that is known. Each of
/// its secrets is compared in constant time.
#[must_use]
pub fn accepts(document: &Document, hash: &SecretHash, now: u64) -> Option<Option<u64>> {
    let Proofs { secrets, until } = Proofs::decode(document.body.clone()).ok()?;
    let is_it = |held: &HeldSecret| bool::from(held.hash.0.ct_eq(&hash.0));
    let held = secrets.iter().filter_map(SecretBody::held).find(is_it)?;
    let until = [until, held.until].into_iter().flatten().min();
    until.is_none_or(|until| now < until).then_some(until)
}

/// The names of certificates that the token names which a document is.
#[must_use]
pub fn certificates(document: &Document) -> Vec<String> {
    Named::decode(document.body.clone()).map(|named| named.certificates).unwrap_or_default()
}

impl Token {
    /// The token that a document is; none if its bytes are not one's.
    #[must_use]
    pub fn of(document: &Document) -> Option<Self> {
        let body = Body::decode(document.body.clone()).ok()?;
        let (mut grants, mut unknown) = (Vec::new(), Vec::new());
        for text in body.grants {
            match Grant::parse(&text) {
                Ok(grant) => grants.push(grant),
                Err(_) => unknown.push(text),
            }
        }
        Some(Self {
            name: document.key.name.clone(),
            grants: Grants::new(grants),
            unknown,
            secrets: body.secrets.iter().filter_map(SecretBody::held).collect(),
            certificates: body.certificates.into_iter().map(SmolStr::from).collect(),
            quota: body.quota.unwrap_or_default(),
            since: body.since,
            by: body.by,
            until: body.until,
            revision: document.revision,
        })
    }

    /// The bytes of its document.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let secret = |held: &HeldSecret| SecretBody {
            hash: Bytes::copy_from_slice(&held.hash.0),
            since: held.since,
            until: held.until,
        };
        let body = Body {
            grants: self.grants.grants().iter().map(ToString::to_string).chain(self.unknown.clone()).collect(),
            secrets: self.secrets.iter().map(secret).collect(),
            certificates: self.certificates.iter().map(ToString::to_string).collect(),
            quota: (!self.quota.is_empty()).then_some(self.quota),
            since: self.since,
            by: self.by.clone(),
            until: self.until,
        };
        body.encode_to_vec().into()
    }

    /// With a new secret, beside which the others are good for `overlap` seconds more. They may be more than there can be.
    #[must_use]
    pub fn rotated(&self, hash: SecretHash, now: u64, overlap: u64) -> Self {
        let old = |held: &HeldSecret| {
            let ends = now.saturating_add(overlap);
            HeldSecret { until: Some(held.until.map_or(ends, |until| until.min(ends))), ..*held }
        };
        let still = self.secrets.iter().map(old).filter(|held| held.until.is_none_or(|until| now < until));
        let fresh = HeldSecret { hash, since: now, until: None };
        let secrets = std::iter::once(fresh).chain(still).collect();
        Self { secrets, ..self.clone() }
    }

    /// Until when it is good for who proves to be somebody else than by its secrets; the outer none: it is not at `now`.
    #[must_use]
    pub fn lasts(&self, now: u64) -> Option<Option<u64>> {
        self.until.is_none_or(|until| now < until).then_some(self.until)
    }

    /// The name of the principal that bears it.
    #[must_use]
    pub fn principal(&self) -> Arc<str> {
        format!("token:{}", self.name).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(until: Option<u64>) -> Token {
        Token {
            name: "ci".into(),
            grants: Grants::new([Grant::parse("team-a/orders-*=read,register").expect("a grant")]),
            unknown: vec!["team-a=to-fly".into()],
            secrets: vec![HeldSecret { hash: Secret([1; 32]).hash(), since: 100, until: None }],
            certificates: vec!["dns:ci.example".into()],
            quota: Quota { instances: Some(3), writes: Some(0), ..Quota::default() },
            since: 100,
            by: "token:operator".into(),
            until,
            revision: 7,
        }
    }

    fn document(token: &Token) -> Document {
        Document { key: key(&token.name), body: token.body(), revision: token.revision }
    }

    fn accepts(token: &Token, hash: &SecretHash, now: u64) -> Option<Option<u64>> {
        super::accepts(&document(token), hash, now)
    }

    #[test]
    fn a_text_gives_name_and_secret_back() {
        for name in ["ci", "a_b", "x.y-z", "a__"] {
            let text = Secret([7; 32]).text(name);
            let (read, secret) = read(&text).expect("a token");
            assert_eq!((read, secret.0), (name, [7; 32]));
        }
        let good = Secret([7; 32]).text("ci");
        for bad in [
            "",
            "onair_",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}A"),
            &good.replace("onair_ci_", "onair__"),
            &good.replace("onair_ci_", "onair_ci-"),
            &format!("onair_é{}", "é".repeat(22)),
            "eyJhbGciOiJub25lIn0.e30.",
        ] {
            assert!(read(bad).is_none_or(|(name, secret)| (name, secret.0) != ("ci", [7; 32])), "{bad}");
        }
    }

    #[test]
    fn names_can_stand_anywhere() {
        for (name, fine) in [
            ("ci", true),
            ("0-a.b_c", true),
            (&*"a".repeat(64), true),
            (&*"a".repeat(65), false),
            ("", false),
            ("-a", false),
            ("A", false),
            ("a\r\nx: y", false),
            ("é", false),
            ("a/b", false),
        ] {
            assert_eq!(fault_of_name(name).is_none(), fine, "{name:?}");
        }
    }

    #[test]
    fn what_is_kept_gives_the_token_back_and_not_its_secret() {
        let kept = token(Some(500));
        let body = kept.body();
        assert!(!body.windows(32).any(|bytes| bytes == [1; 32]));
        assert_eq!(certificates(&document(&kept)), ["dns:ci.example"]);
        assert_eq!(Token::of(&document(&kept)), Some(kept), "what this version does not know is kept, too");
        assert_eq!(Token::of(&Document { key: key("ci"), body: Bytes::from_static(b"\xff"), revision: 1 }), None);
    }

    #[test]
    fn a_token_is_good_until_its_end() {
        let right = Secret([1; 32]).hash();
        assert_eq!(accepts(&token(None), &right, u64::MAX), Some(None));
        assert_eq!(accepts(&token(Some(500)), &right, 499), Some(Some(500)));
        assert_eq!(accepts(&token(Some(500)), &right, 500), None);
        assert_eq!(accepts(&token(None), &Secret([2; 32]).hash(), 1), None);
    }

    #[test]
    fn a_rotated_token_is_good_by_both_secrets_for_a_while() {
        let (old, new) = (Secret([1; 32]).hash(), Secret([2; 32]).hash());
        let rotated = token(Some(5_000)).rotated(new, 1_000, 60);
        assert_eq!(accepts(&rotated, &new, 1_000), Some(Some(5_000)));
        assert_eq!((accepts(&rotated, &old, 1_059), accepts(&rotated, &old, 1_060)), (Some(Some(1_060)), None));
        // Once more, later: the first is gone, and what was short stays short.
        let again = rotated.rotated(Secret([3; 32]).hash(), 1_050, 3_600);
        assert_eq!((accepts(&again, &old, 1_059), accepts(&again, &old, 1_060)), (Some(Some(1_060)), None));
        assert_eq!(token(None).rotated(new, 1_000, 0).secrets.len(), 1);
        let many = (0..10u8).fold(token(None), |token, n| token.rotated(Secret([n + 10; 32]).hash(), 1_000, 60));
        assert_eq!(many.secrets.len(), 11, "none is forgotten before its time");
        assert!(accepts(&many, &Secret([19; 32]).hash(), 1_000).is_some());
    }
}
