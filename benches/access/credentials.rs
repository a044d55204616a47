//! What clients prove who they are with: JSON Web Tokens of two kinds, and the files that servers verify them by.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::Result;

/// Who issues them.
pub const ISSUER: &str = "https://login.example";
/// What they allow, as what our own token allows.
pub const GRANT: &str = "bench=read,register";
const SECRET: &str = "a secret that is long enough for it";

/// A file of keys, and a token that is good by it.
pub struct Issued {
    pub keys: String,
    pub token: String,
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The part of a token that is signed.
fn signed(header: &Value) -> Result<String> {
    let ends = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(24 * 3_600);
    let claims = json!({"iss": ISSUER, "aud": "onair", "sub": "bench", "exp": ends.as_secs(), "onair": [GRANT]});
    Ok(format!("{}.{}", base64(header.to_string()), base64(claims.to_string())))
}

/// By a secret that both sides have.
pub fn hs256() -> Result<Issued> {
    let signed = signed(&json!({"alg": "HS256"}))?;
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    Ok(Issued { keys: SECRET.to_owned(), token: format!("{signed}.{}", base64(signature)) })
}

/// By a key of which the server has the public half.
pub fn es256() -> Result<Issued> {
    let (random, of) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let failed = |_| "no key can be made";
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(of, &random).map_err(failed)?;
    let pair = EcdsaKeyPair::from_pkcs8(of, pkcs8.as_ref(), &random).map_err(|error| error.to_string())?;
    let point = pair.public_key().as_ref();
    let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
    let keys = json!({"keys": [{"kty": "EC", "kid": "ec", "crv": "P-256", "x": x, "y": y, "alg": "ES256"}]});
    let signed = signed(&json!({"alg": "ES256", "kid": "ec"}))?;
    let signature = pair.sign(&random, signed.as_bytes()).map_err(failed)?;
    Ok(Issued { keys: keys.to_string(), token: format!("{signed}.{}", base64(signature)) })
}
