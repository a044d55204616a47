//! Tokens that are good, and all the ways in which one is not.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value as Json, json};

use super::*;
use crate::access::Permission;

const SECRET: &str = "a secret that is long enough for it";
/// The public key of a pair of which the other half is gone, and what it signed.
const RSA: &str = "vWYhCA79XcTmmjO8JP6JMT8qXUxnTNVWbaetqL2j6t1IXgQTPuEBUNTjGzXWNuDgZeS4kYBS9XWpJZZb7r0VVLzJT3qRva5iO_lK2owKJ9opIJZyQRH-o-7HwzUx7O9IvC6IlibBAULG5zdCVHxUqt4S6d_9Eo1W_OoPD80z_7xGEPBo3uLYtM50udpemRiljQ89qH1nM07IBwjMAVp5BLaqWBGvs76p1fti9ru1IKtkUWpLqRxMJz9F7UjnQyaJiV2LYuft_laIcLrhNi46jXeOCIPfZA5omI10W1f88uWLbEHA4B1uB6j_ViDa1JIJsWkV0otZRoR9x070EZnbPw";
const SIGNED_BY_RSA: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoib25haXIiLCJzdWIiOiJhbGljZSIsImV4cCI6MjAwMCwib25haXIiOlsidGVhbS1hPXJlYWQiXX0.NekvAmg0xau6M8wJHzqxP0WltBfQPTC8PAK6_wSNIXOMsrm4aQAVpHUp1W7wb-quvpQxFwnMEAaX9AVEYZgWu7qrywsWX9T8YjCEOXVG30zkzzylR77spu2gerkMWQfrPSJOyHgbqezuuJ4CMgXY7cC3M-ibNBTfsBwfRotuH4G1JLPmK6bSTV-OKha5f0hYgGKEjAJ1YIDmwvX_HoMYskc7e47oP0lhqZTSqPNyY2Z82LJOxnFyCJlXCDFaSKFGqXik4mOm5fRCJ8fKaWbLfn3E33uCrGpoaZHbQTe9UXsqLY8Wt6_GXs0PSHKR32nFj-i_PkGsdhccMClSQDUStA";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims() -> Json {
    json!({"iss": "https://issuer.example", "aud": "onair", "sub": "alice", "exp": 2_000, "onair": ["team-a=read"]})
}

/// The claims with some of them other, or gone where they are null.
fn claims_but(other: Json) -> Json {
    let (mut claims, Json::Object(other)) = (claims(), other) else { panic!("an object") };
    for (name, value) in other {
        claims[&name] = value;
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

/// A token of this header and claims, signed by `sign`.
fn token(header: &Json, claims: &Json, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
    let signature = base64(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn hs256(message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message).as_ref().to_vec()
}

fn expected() -> Expected {
    Expected { issuer: "https://issuer.example".to_owned(), audience: "onair".to_owned(), leeway: 60 }
}

/// Pairs that sign, and the file that verifies what they sign.
struct Pairs {
    es256: EcdsaKeyPair,
    eddsa: Ed25519KeyPair,
    jwt: Jwt,
}

impl Pairs {
    fn new() -> Self {
        let random = SystemRandom::new();
        let of = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(of, &random).expect("a key");
        let es256 = EcdsaKeyPair::from_pkcs8(of, pkcs8.as_ref(), &random).expect("a key");
        let eddsa = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
        let eddsa = Ed25519KeyPair::from_pkcs8(eddsa.as_ref()).expect("a key");
        let point = es256.public_key().as_ref();
        let set = json!({"keys": [
            {"kty": "RSA", "kid": "rsa", "n": RSA, "e": "AQAB", "use": "sig"},
            {"kty": "EC", "kid": "ec", "crv": "P-256", "x": base64(&point[1..33]), "y": base64(&point[33..]), "alg": "ES256"},
            {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": base64(eddsa.public_key().as_ref())},
            {"kty": "oct", "kid": "shared", "k": base64(SECRET)},
            {"kty": "EC", "kid": "other", "crv": "P-384", "x": "AA", "y": "AA"},
        ]});
        let jwt = Jwt::read(&set.to_string(), expected()).expect("keys");
        Self { es256, eddsa, jwt }
    }

    fn es256(&self, message: &[u8]) -> Vec<u8> {
        self.es256.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
    }

    fn eddsa(&self, message: &[u8]) -> Vec<u8> {
        self.eddsa.sign(message).as_ref().to_vec()
    }
}

#[test]
fn a_token_is_good_by_the_key_that_it_names() {
    let pairs = Pairs::new();
    let signed = [
        SIGNED_BY_RSA.to_owned(),
        token(&json!({"alg": "ES256", "kid": "ec"}), &claims(), |message| pairs.es256(message)),
        token(&json!({"alg": "EdDSA", "kid": "ed"}), &claims(), |message| pairs.eddsa(message)),
        token(&json!({"alg": "HS256", "kid": "shared", "typ": "JWT"}), &claims(), hs256),
    ];
    for token in &signed {
        let said = pairs.jwt.judge(token, 1_000).expect("it is good");
        assert_eq!((&*said.principal, said.until), ("jwt:alice", 2_060));
        assert!(crate::access::allows(&said.grants, Permission::Read, "team-a", "web"));
        // A character less, and one of each part another.
        assert_eq!(pairs.jwt.judge(&token[..token.len() - 1], 1_000), None);
        for (at, _) in token.match_indices('.').chain([(token.len(), "")]) {
            let mut other = token.clone().into_bytes();
            other[at - 9] = if other[at - 9] == b'A' { b'B' } else { b'A' };
            assert_eq!(pairs.jwt.judge(std::str::from_utf8(&other).expect("text"), 1_000), None);
        }
    }
}

#[test]
fn a_key_is_good_for_its_algorithm_alone() {
    let pairs = Pairs::new();
    let point = pairs.es256.public_key().as_ref().to_vec();
    let by_public_key =
        |message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &point), message).as_ref().to_vec();
    for (header, sign) in [
        (json!({"alg": "none", "kid": "ec"}), &(|_: &[u8]| Vec::new()) as &dyn Fn(&[u8]) -> Vec<u8>),
        (json!({"alg": "None", "kid": "shared"}), &|_| Vec::new()),
        // What everybody knows is no secret.
        (json!({"alg": "HS256", "kid": "ec"}), &by_public_key),
        (json!({"alg": "HS256", "kid": "rsa"}), &hs256),
        (json!({"alg": "HS384", "kid": "shared"}), &hs256),
        (json!({"alg": "ES256", "kid": "ed"}), &|message| pairs.es256(message)),
        (json!({"alg": "ES256", "kid": "shared"}), &|message| pairs.es256(message)),
        (json!({"alg": "HS256"}), &hs256),
        (json!({"alg": "HS256", "kid": ""}), &hs256),
        (json!({"alg": "HS256", "kid": "nobody"}), &hs256),
        (json!({"alg": "HS256", "kid": "shared", "crit": ["exp"]}), &hs256),
        (json!({"kid": "shared"}), &hs256),
    ] {
        assert_eq!(pairs.jwt.judge(&token(&header, &claims(), sign), 1_000), None, "{header}");
    }
    for text in ["", ".", "..", "...", "a.b.c", "eyJhbGciOiJIUzI1NiJ9", "é.é.é"] {
        assert_eq!(pairs.jwt.judge(text, 1_000), None, "{text}");
    }
}

#[test]
fn claims_have_to_be_ours_and_timely() {
    let jwt = Jwt::read(SECRET, expected()).expect("a secret");
    let header = json!({"alg": "HS256"});
    for (other, now, good) in [
        (json!({}), 1_000, true),
        (json!({}), 2_059, true),
        (json!({}), 2_060, false),
        (json!({"nbf": 1_060}), 1_000, true),
        (json!({"nbf": 1_061}), 1_000, false),
        (json!({"aud": ["else", "onair"]}), 1_000, true),
        (json!({"aud": "else"}), 1_000, false),
        (json!({"aud": null}), 1_000, false),
        (json!({"iss": "https://other.example"}), 1_000, false),
        (json!({"iss": null}), 1_000, false),
        (json!({"exp": null}), 1_000, false),
        (json!({"exp": "2000"}), 1_000, false),
        (json!({"nbf": "0"}), 1_000, false),
        (json!({"sub": null}), 1_000, false),
        (json!({"sub": ""}), 1_000, false),
        (json!({"sub": "a\r\nb: c"}), 1_000, false),
        (json!({"sub": "x".repeat(256)}), 1_000, false),
        (json!({"onair": ["everything"]}), 1_000, false),
        (json!({"onair": "team-a=read"}), 1_000, false),
        (json!({"onair": null}), 1_000, true),
    ] {
        let judged = jwt.judge(&token(&header, &claims_but(other.clone()), hs256), now);
        assert_eq!(judged.is_some(), good, "{other} at {now}");
    }
    // A secret without a name is not meant by who names one.
    assert_eq!(jwt.judge(&token(&json!({"alg": "HS256", "kid": "a"}), &claims(), hs256), 1_000), None);
}

#[test]
fn scopes_are_grants_too() {
    let jwt = Jwt::read(SECRET, expected()).expect("a secret");
    let scope = "openid onair:team-a/orders-*=read,register onair:team-b=operate profile";
    let claims = claims_but(json!({"onair": null, "scope": scope}));
    let said = jwt.judge(&token(&json!({"alg": "HS256"}), &claims, hs256), 1_000).expect("it is good");
    let texts: Vec<String> = said.grants.grants().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["team-a/orders-*=read,register", "team-b/*=operate"].map(str::to_owned));
}

#[test]
fn files_of_keys_that_cannot_be() {
    let refused = |text: &str| Jwt::read(text, expected()).err().unwrap_or_default();
    assert_eq!(refused("too short"), "a secret must have at least 32 bytes");
    assert!(refused("{").starts_with("it is no JWKS"));
    let keys = |keys: Json| refused(&json!({"keys": keys}).to_string());
    assert_eq!(keys(json!([])), "it has no key for HS256, RS256, ES256 or EdDSA");
    let oct = |id: &str| json!({"kty": "oct", "kid": id, "k": base64(SECRET)});
    assert_eq!(keys(json!([{"kty": "oct", "k": base64(SECRET)}])), "a key has no `kid`");
    assert_eq!(keys(json!([oct("a"), oct("a")])), "two keys are called \"a\"");
    assert_eq!(keys(json!([{"kty": "oct", "kid": "a", "k": "AAAA"}])), "the secret \"a\" must have at least 32 bytes");
    let of_another_kind = json!([{"kty": "oct", "kid": "a", "k": base64(SECRET), "alg": "RS256"}]);
    assert_eq!(keys(of_another_kind), "the key \"a\" is not of the kind that its `alg` says");
    // Nothing of the secret is told.
    assert!(!keys(json!([oct("a"), oct("a")])).contains(SECRET));
}
