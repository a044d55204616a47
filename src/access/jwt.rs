//! Tokens that somebody else issued: JSON Web Tokens, verified by a shared secret or by the keys of a file (JWKS), and
//! what their claims allow. A key is good for one algorithm, whatever a token says of itself. Knows neither files nor the
//! clock.

use std::sync::Arc;

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{Error, ErrorKind},
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
    signature,
};
use ring::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};
use serde::Deserialize;

use super::{Grant, Grants, token::GRANTS_MAX};

/// The shortest secret, in bytes: what it signs can be tried offline.
const SECRET_MIN: usize = 32;
/// The longest subject, in bytes.
const SUBJECT_MAX: usize = 255;
/// With what a scope begins that speaks of us.
const SCOPE: &str = "onair:";

/// What tokens have to say to be ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The issuer (`iss`).
    pub issuer: String,
    /// One of their audiences (`aud`).
    pub audience: String,
    /// By how many seconds clocks may differ.
    pub leeway: u64,
}

/// One key.
#[derive(Debug)]
struct Key {
    /// Its name; none: a shared secret has none.
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The keys, and what is expected of tokens.
#[derive(Debug)]
pub struct Jwt {
    keys: Vec<Key>,
    expected: Expected,
}

/// What a good token says.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// The principal's name.
    pub principal: Arc<str>,
    /// What it allows.
    pub grants: Grants,
    /// Until when it is good, in Unix seconds.
    pub until: u64,
}

/// The claims that are read.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    /// Grants, each as it is written.
    #[serde(default)]
    onair: Vec<String>,
    /// Words; those that begin with `onair:` are grants.
    #[serde(default)]
    scope: String,
}

impl Jwt {
    /// Reads the text of a file of keys: a JWKS, or a secret for HS256.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence. Nothing of a secret is in it.
    pub fn read(text: &str, expected: Expected) -> Result<Self, String> {
        // There is one provider, whoever comes first.
        let _ = OVER_RING.install_default();
        let text = text.trim();
        if !text.starts_with('{') {
            if text.len() < SECRET_MIN {
                return Err(format!("a secret must have at least {SECRET_MIN} bytes"));
            }
            let key = DecodingKey::from_secret(text.as_bytes());
            return Ok(Self { keys: vec![Key { id: None, algorithm: Algorithm::HS256, key }], expected });
        }
        let set: JwkSet = serde_json::from_str(text).map_err(|error| format!("it is no JWKS: {error}"))?;
        let mut keys: Vec<Key> = Vec::new();
        for jwk in set.keys.iter().filter(|jwk| jwk.common.public_key_use != Some(PublicKeyUse::Encryption)) {
            let Some(key) = Key::read(jwk)? else { continue };
            if keys.iter().any(|other| other.id == key.id) {
                return Err(format!("two keys are called {:?}", key.id.unwrap_or_default()));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            Err("it has no key for HS256, RS256, ES256 or EdDSA".to_owned())
        } else {
            Ok(Self { keys, expected })
        }
    }

    /// What a token says, if it is good at `now`.
    #[must_use]
    pub fn judge(&self, token: &str, now: u64) -> Option<Said> {
        let header = decode_header(token).ok()?;
        // With an extension that it must not be read without, it must not be read.
        if header.crit.is_some() {
            return None;
        }
        let key = self.keys.iter().find(|key| match &key.id {
            Some(id) => header.kid.as_ref() == Some(id),
            // Who names a key does not mean the secret that has no name.
            None => header.kid.is_none(),
        })?;
        let mut validation = Validation::new(key.algorithm);
        // The wall's clock is ours to read.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.expected.issuer]);
        validation.set_audience(&[&self.expected.audience]);
        let claims = decode::<Claims>(token, &key.key, &validation).ok()?.claims;
        let (now, leeway) = (now as f64, self.expected.leeway as f64);
        let is_timely = claims.exp + leeway > now && claims.nbf.is_none_or(|nbf| nbf <= now + leeway);
        let is_name = |c: char| !c.is_control() && !c.is_whitespace();
        let named = (1..=SUBJECT_MAX).contains(&claims.sub.len()) && claims.sub.chars().all(is_name);
        if !is_timely || !named || !claims.exp.is_finite() {
            return None;
        }
        let until = (claims.exp + leeway).clamp(0.0, 1e15) as u64;
        Some(Said { principal: format!("jwt:{}", claims.sub).into(), grants: grants(&claims)?, until })
    }
}

/// What the claims allow; none if something in them is no grant: who issued it meant something else.
fn grants(claims: &Claims) -> Option<Grants> {
    let scopes = claims.scope.split(' ').filter_map(|word| word.strip_prefix(SCOPE));
    let texts: Vec<&str> = claims.onair.iter().map(String::as_str).chain(scopes).collect();
    if texts.len() > GRANTS_MAX {
        return None;
    }
    texts.into_iter().map(|text| Grant::parse(text).ok()).collect::<Option<Vec<_>>>().map(Grants::new)
}

impl Key {
    /// None: of a kind that is not for us.
    fn read(jwk: &Jwk) -> Result<Option<Self>, String> {
        let id = jwk.common.key_id.clone();
        let name = id.clone().unwrap_or_default();
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(of) if of.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(of) if of.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
            _ => return Ok(None),
        };
        let said = match jwk.common.key_algorithm {
            None => None,
            Some(KeyAlgorithm::RS256) => Some(Algorithm::RS256),
            Some(KeyAlgorithm::ES256) => Some(Algorithm::ES256),
            Some(KeyAlgorithm::EdDSA) => Some(Algorithm::EdDSA),
            Some(KeyAlgorithm::HS256) => Some(Algorithm::HS256),
            // RS512 and their like.
            Some(_) => return Ok(None),
        };
        if said.is_some_and(|said| said != algorithm) {
            return Err(format!("the key {name:?} is not of the kind that its `alg` says"));
        }
        if name.is_empty() {
            return Err("a key has no `kid`".to_owned());
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("the key {name:?} cannot be read: {error}"))?;
        if algorithm == Algorithm::HS256 && key.try_get_as_bytes().is_ok_and(|secret| secret.len() < SECRET_MIN) {
            return Err(format!("the secret {name:?} must have at least {SECRET_MIN} bytes"));
        }
        Ok(Some(Self { id, algorithm, key }))
    }
}

/// All cryptography is ring's.
static OVER_RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    match algorithm {
        Algorithm::HS256 | Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA => {
            Ok(Box::new(Verifier { algorithm: *algorithm, key: key.kind().clone() }))
        }
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

struct Verifier {
    algorithm: Algorithm,
    key: DecodingKeyKind,
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (self.algorithm, &self.key) {
            (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), message, signature)
            }
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ED25519, point).verify(message, signature)
            }
            _ => return Err(signature::Error::new()),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

#[cfg(test)]
mod tests;
