//! Who is let in, by credentials that are good, wrong, late, and none; and how long their streams may go on.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderValue;
use ring::hmac;
use uuid::Uuid;

use super::*;
use crate::{
    access::{Tenure, jwt::Expected, of_rpc, token::HeldSecret},
    actor::{ActorOptions, RegistryHandle},
    engine::memory::MemoryEngine,
    registry::Write,
    tls::AlternativeName,
};

const WATCH: &str = "/onair.v1.Registry/Watch";
const REGISTER: &str = "/onair.v1.Registry/Register";

/// A registry with tokens, and a clock that is set.
struct Rig {
    handle: RegistryHandle,
    gate: Gate,
    now: Arc<AtomicU64>,
}

impl Rig {
    fn new(open: &[Realm]) -> Self {
        let recovered = MemoryEngine::recovered(Uuid::nil(), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        let now = Arc::new(AtomicU64::new(1_000));
        let clock = Arc::clone(&now);
        let keeper = Keeper::new(Arc::clone(handle.hub()), open, Arc::new(move || clock.load(Ordering::Relaxed)));
        Self { handle, gate: Gate::new(keeper), now }
    }

    /// Writes a token with this secret in place of what stands there, or takes it away; its text.
    async fn token(&self, grants: &[&str], bits: u8, until: Option<u64>) -> String {
        let secret = token::Secret([bits; 32]);
        let token = Token {
            name: "ci".into(),
            grants: Grants::new(grants.iter().map(|text| Grant::parse(text).expect("a grant"))),
            unknown: Vec::new(),
            secrets: vec![HeldSecret { hash: secret.hash(), since: 0, until: None }],
            certificates: vec!["dns:shop.example".into()],
            quota: crate::registry::Quota::default(),
            since: 0,
            by: String::new(),
            until,
            revision: 0,
        };
        let expected = self.handle.token("ci").0.map_or(0, |held| held.revision);
        let body = (!grants.is_empty()).then(|| token.body());
        self.handle.write(Write { key: token::key("ci"), body, expected }, None).await.expect("written");
        secret.text("ci")
    }

    fn admit(&self, path: &str, credentials: &[&str]) -> Result<Who, Error> {
        let mut headers = HeaderMap::new();
        for text in credentials {
            headers.append(AUTHORIZATION, HeaderValue::from_str(text).expect("a header"));
        }
        self.gate.admit(of_rpc(path), &headers, &Extensions::new())
    }

    /// Who comes by a connection with this certificate, and sends this token.
    fn admit_holder(&self, path: &str, certificate: PeerCertificate, token: Option<&str>) -> Result<Who, Error> {
        let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
        if let Some(token) = token {
            headers.append(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).expect("a header"));
        }
        extensions.insert(certificate);
        self.gate.admit(of_rpc(path), &headers, &extensions)
    }

    /// Whether a call with this token is let in.
    fn is_in(&self, text: &str) -> bool {
        self.admit(WATCH, &[&format!("Bearer {text}")]).is_ok()
    }
}

fn missing(permission: &'static str) -> Error {
    Error::Permission { permission }
}

#[tokio::test]
async fn credentials_are_good_or_refused() {
    let rig = Rig::new(&[]);
    let text = rig.token(&["team-a=read"], 1, None).await;
    let good = format!("Bearer {text}");
    let who = rig.admit(WATCH, &[&good]).expect("it is let in");
    assert_eq!((who.name(), who.may(Permission::Read, "team-a", "web")), ("token:ci", true));
    assert_eq!(rig.admit(REGISTER, &[&good]).err(), Some(missing("register")));
    let other = token::Secret([2; 32]).text("ci");
    let of_nobody = token::Secret([1; 32]).text("nobody");
    let long = format!("Bearer {}", "x".repeat(CREDENTIALS_MAX));
    for (credentials, refusal) in [
        (vec![], NONE),
        (vec![good.as_str(), good.as_str()], MALFORMED),
        (vec![""], MALFORMED),
        (vec![text.as_str()], MALFORMED),
        (vec!["Basic dXNlcjpwdw=="], MALFORMED),
        (vec!["Bearer "], MALFORMED),
        (vec!["Bearer a b"], MALFORMED),
        (vec![long.as_str()], MALFORMED),
        (vec![&good[..good.len() - 1]], NOT_GOOD),
        (vec![&format!("Bearer {other}")], NOT_GOOD),
        (vec![&format!("Bearer {of_nobody}")], NOT_GOOD),
        (vec!["Bearer eyJhbGciOiJub25lIn0.e30."], NOT_GOOD),
    ] {
        // Whatever it is remembered as, it is not good.
        for _ in 0..2 {
            assert_eq!(rig.admit(WATCH, &credentials).err(), Some(refusal.clone()), "{credentials:?}");
        }
    }
    // However it is written, it is remembered once.
    for spaces in 1..100 {
        assert!(rig.admit(WATCH, &[&format!("bearer{}{text}", " ".repeat(spaces))]).is_ok());
    }
    let post = rig.gate.post.as_ref().expect("it is closed");
    assert_eq!(post.remembered.lock().expect("no panic").found.len(), 1);
}

#[tokio::test]
async fn what_is_remembered_is_judged_anew_when_rights_change() {
    let rig = Rig::new(&[]);
    let old = rig.token(&["team-a=read"], 1, Some(2_000)).await;
    assert!(rig.is_in(&old) && rig.is_in(&old));
    rig.now.store(2_000, Ordering::Relaxed);
    assert!(!rig.is_in(&old), "it ended, remembered or not");
    let new = rig.token(&["team-b=register"], 2, None).await;
    assert!(!rig.is_in(&old));
    let allowed = rig.admit(REGISTER, &[&format!("Bearer {new}")]).expect("it is let in");
    assert!(allowed.may(Permission::Register, "team-b", "web") && !allowed.may(Permission::Read, "team-a", "web"));
    rig.token(&[], 2, None).await;
    assert!(rig.admit(REGISTER, &[&format!("Bearer {new}")]).is_err(), "it was revoked");
}

#[tokio::test]
async fn nobody_in_particular_may_read_what_is_open() {
    let open = Realm::parse("public/status-*").expect("a realm");
    let rig = Rig::new(&[open]);
    let who = rig.admit(WATCH, &[]).expect("it is let in");
    assert!(who.may(Permission::Read, "public", "status-eu") && !who.may(Permission::Read, "public", "web"));
    assert_eq!(rig.admit(REGISTER, &[]).err(), Some(NONE), "who says nothing is asked who they are");
    // Wrong credentials are no reason to be taken for nobody.
    assert_eq!(rig.admit(WATCH, &["Bearer x"]).err(), Some(NOT_GOOD));
    let admit = |gate: &Gate| gate.admit(None, &HeaderMap::new(), &Extensions::new()).err();
    assert_eq!((admit(&rig.gate), admit(&Rig::new(&[]).gate)), (None, Some(NONE)));
    let text = rig.token(&["team-a=register"], 1, None).await;
    let who = rig.admit(WATCH, &[&format!("Bearer {text}")]).expect("it is let in");
    assert!(who.may(Permission::Read, "public", "status-eu"), "nobody may less than anybody");
}

fn certificate(names: &[&str], expires: u64) -> PeerCertificate {
    let names = names.iter().map(|name| AlternativeName::parse(name).expect("a name")).collect();
    PeerCertificate { names, expires: UNIX_EPOCH + Duration::from_secs(expires), fingerprint: [9; 32] }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_good_for_what_the_tokens_allow_that_name_it() {
    let rig = Rig::new(&[]);
    let text = rig.token(&["team-a=read"], 1, None).await;
    let shop = || certificate(&["uri:spiffe://example.org/shop", "dns:shop.example"], 5_000);
    for _ in 0..2 {
        let who = rig.admit_holder(WATCH, shop(), None).expect("it is let in");
        assert_eq!(who.name(), "cert:uri:spiffe://example.org/shop");
        assert!(who.may(Permission::Read, "team-a", "web") && !who.may(Permission::Read, "team-b", "web"));
    }
    let who = rig.admit_holder(WATCH, shop(), Some(&text)).expect("it is let in");
    assert_eq!(who.name(), "token:ci", "who sends a token is its principal");
    assert_eq!(rig.admit_holder(WATCH, shop(), Some("x")).err(), Some(NOT_GOOD));
    // Nobody passes for a certificate whose fingerprint they know.
    let mut headers = HeaderMap::new();
    headers.append(AUTHORIZATION, HeaderValue::from_bytes(&[9; 32]).expect("a header"));
    assert_eq!(rig.gate.admit(of_rpc(WATCH), &headers, &Extensions::new()).err(), Some(MALFORMED));
    for (names, missing) in [(&["dns:other.example"][..], Error::Permission { permission: "read" }), (&[], NONE)] {
        let stranger = PeerCertificate { fingerprint: [names.len() as u8; 32], ..certificate(names, 6_000) };
        assert_eq!(rig.admit_holder(WATCH, stranger, None).err(), Some(missing), "{names:?}");
    }
    let mut tenure =
        Tenure::of(&rig.gate, &rig.admit_holder(WATCH, shop(), None).expect("it is let in")).expect("it ends");
    rig.token(&["team-b=read"], 1, None).await;
    let now = judged(&mut tenure).await.expect("it is judged").expect("it goes on");
    assert!(now.may(Permission::Read, "team-b", "web") && !now.may(Permission::Read, "team-a", "web"));
    rig.now.store(5_000, Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(judged(&mut tenure).await.expect("it is judged").err(), Some(ENDED), "so did the certificate");
    assert_eq!(rig.admit_holder(WATCH, shop(), None).err(), Some(ENDED));
}

#[tokio::test]
async fn a_request_that_came_by_no_check_is_refused() {
    let rig = Rig::new(&[Realm::ALL]);
    assert_eq!(rig.gate.who(&Extensions::new()).err(), Some(NONE));
    assert!(Gate::open().who(&Extensions::new()).is_ok());
}

#[tokio::test]
async fn a_thread_remembers_a_bounded_number() {
    let mut remembered = Remembered::default();
    let (grants, revisions) = (Grants::default(), [].into());
    let caller = Arc::new(Caller { name: None, grants, quota: None, until: None, revisions, proof: Proof::Nothing });
    let mut keep = |text: Vec<u8>| {
        let hash = remembered.hasher.hash_one(&text[..]);
        remembered.keep(Found { hash, text: text.into(), generation: 0, caller: Arc::clone(&caller) });
        let bytes: usize = remembered.found.iter().map(|found| found.text.len()).sum();
        assert_eq!((bytes, remembered.order.len()), (remembered.bytes, remembered.found.len()));
        (remembered.found.len(), bytes)
    };
    for number in 0..=REMEMBERED_MAX as u64 {
        keep(number.to_be_bytes().into());
        keep(number.to_be_bytes().into());
    }
    // Only the oldest was forgotten for the newest.
    assert_eq!(keep(1u64.to_be_bytes().into()).0, REMEMBERED_MAX);
    // Long ones are fewer.
    let (many, bytes) = (0..=255).map(|byte| keep(vec![byte; CREDENTIALS_MAX * 4])).last().expect("some");
    assert!(bytes <= REMEMBERED_BYTES_MAX && many < 256, "{many} of {bytes} bytes");
}

/// What becomes of a stream's right to go on, if anything does by now.
async fn judged(tenure: &mut Tenure) -> Option<Result<Who, Error>> {
    poll_fn(|context| {
        Poll::Ready(match tenure.poll(context) {
            Poll::Ready(judged) => Some(judged),
            Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_as_long_as_its_caller_may() {
    let rig = Rig::new(&[]);
    let text = rig.token(&["team-a=read"], 1, Some(1_100)).await;
    let who = rig.admit(WATCH, &[&format!("Bearer {text}")]).expect("it is let in");
    let mut tenure = Tenure::of(&rig.gate, &who).expect("it can end");
    assert!(judged(&mut tenure).await.is_none(), "nothing changed since it was let in");
    rig.handle.hub().rights_changed();
    assert!(judged(&mut tenure).await.is_none(), "somebody else's did");
    let again = rig.admit(WATCH, &[&format!("Bearer {text}")]).expect("it is let in");
    assert!(Arc::ptr_eq(who.caller().expect("it is closed"), again.caller().expect("it is closed")));
    rig.token(&["team-b=read"], 1, Some(1_100)).await;
    let mut late = Tenure::of(&rig.gate, &who).expect("it can end");
    let changed = judged(&mut late).await.expect("it is judged").expect("it goes on");
    assert!(!changed.may_the_same(&who), "what changed before it was looked at is not passed over");
    let other = judged(&mut tenure).await.expect("it is judged").expect("it goes on");
    assert!(other.may(Permission::Read, "team-b", "web") && !other.may(Permission::Read, "team-a", "web"));
    assert!(judged(&mut tenure).await.is_none(), "once");
    // The wall's clock says when it is over; a timer only looks.
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(judged(&mut tenure).await.is_none());
    rig.now.store(1_100, Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(judged(&mut tenure).await.expect("it is judged").err(), Some(ENDED));
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_revoked() {
    let rig = Rig::new(&[Realm::ALL]);
    let text = rig.token(&["team-a=read"], 1, None).await;
    let who = rig.admit(WATCH, &[&format!("Bearer {text}")]).expect("it is let in");
    let mut tenure = Tenure::of(&rig.gate, &who).expect("it can end");
    rig.token(&[], 1, None).await;
    assert_eq!(judged(&mut tenure).await.expect("it is judged").err(), Some(ENDED));
    let nobody = rig.admit(WATCH, &[]).expect("it is open");
    assert!(Tenure::of(&rig.gate, &nobody).is_none() && Tenure::of(&Gate::open(), &Who::anyone()).is_none());
}

const ISSUED_BY: [&str; 2] = ["a secret that is long enough for it", "another secret that is long enough"];

fn keys(secret: &str) -> Jwt {
    let (issuer, audience) = ("https://issuer.example".to_owned(), "onair".to_owned());
    Jwt::read(secret, Expected { issuer, audience, leeway: 0 }).expect("keys")
}

fn issued(secret: &str, onair: &str, exp: u64) -> String {
    let base64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims =
        format!(r#"{{"iss":"https://issuer.example","aud":"onair","sub":"alice","exp":{exp},"onair":["{onair}"]}}"#);
    let signed = format!("{}.{}", base64(r#"{"alg":"HS256"}"#), base64(&claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(start_paused = true)]
async fn what_others_issue_is_good_by_the_keys_of_now() {
    let rig = Rig::new(&[]);
    let keeper = rig.gate.keeper().expect("it is closed");
    let [of_first, of_second] = ISSUED_BY.map(|secret| issued(secret, "team-a=read", 2_000));
    assert!(!rig.is_in(&of_first), "nobody is believed");
    keeper.believe(keys(ISSUED_BY[0]));
    assert!(rig.is_in(&of_first) && rig.is_in(&of_first) && !rig.is_in(&of_second));
    let who = rig.admit(WATCH, &[&format!("Bearer {of_first}")]).expect("it is let in");
    assert_eq!((who.name(), who.may(Permission::Read, "team-b", "web")), ("jwt:alice", false));
    let mut tenure = Tenure::of(&rig.gate, &who).expect("it can end");
    rig.token(&["team-a=read"], 1, None).await;
    assert!(judged(&mut tenure).await.is_none(), "somebody else's rights changed");
    assert!(rig.is_in(&of_first));
    keeper.believe(keys(ISSUED_BY[1]));
    assert!(!rig.is_in(&of_first) && rig.is_in(&of_second));
    assert_eq!(judged(&mut tenure).await.expect("it is judged").err(), Some(ENDED));
    rig.now.store(2_000, Ordering::Relaxed);
    assert!(!rig.is_in(&of_second), "it ended, remembered or not");
    let long = issued(ISSUED_BY[1], &"x".repeat(CREDENTIALS_MAX), 3_000);
    assert_eq!(rig.admit(WATCH, &[&format!("Bearer {long}")]).err(), Some(MALFORMED));
}
