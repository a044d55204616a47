//! The one check: credentials in, the caller out, or a refusal. Every front asks here before it reads a body, by the rule
//! of the call or path. What was found good is remembered by each thread for itself, so that a call costs no more than a
//! look-up; what is not good costs a hash.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use hashbrown::HashTable;
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use subtle::ConstantTimeEq as _;
use tokio_stream::wrappers::WatchStream;

use super::{
    Entry, Grant, Grants, Permission, Reach, Rule,
    caller::{Caller, NONE, Proof, Who},
    token::{self, SecretHash, Token},
};
use crate::{
    registry::{Error, Realm},
    watch::Hub,
};

/// The longest credentials.
const CREDENTIALS_MAX: usize = 8 * 1024;
/// Most credentials that a thread remembers; then it begins anew.
const REMEMBERED_MAX: usize = 4_096;

const MALFORMED: Error =
    Error::Unauthenticated { why: "the credentials are not one `authorization: Bearer` with a token" };
const NOT_GOOD: Error = Error::Unauthenticated { why: "the credentials are not good" };
const ENDED: Error = Error::Unauthenticated { why: "the credentials are good no longer" };

/// Unix seconds, by the wall's clock.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What all threads know: where the tokens are, and what anybody may do.
pub struct Keeper {
    hub: Arc<Hub>,
    anonymous: Arc<Caller>,
    clock: Clock,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("anonymous", &self.anonymous).finish_non_exhaustive()
    }
}

impl Keeper {
    /// By the tokens that `hub` publishes. Anybody may read what is in one of `open`.
    #[must_use]
    pub fn new(hub: Arc<Hub>, open: &[Realm], clock: Clock) -> Arc<Self> {
        let read =
            |realm: &Realm| Grant { realm: realm.clone(), permissions: [Permission::Read].into_iter().collect() };
        let grants = Grants::new(open.iter().map(read));
        let anonymous = Arc::new(Caller { name: None, grants, until: None, proof: Proof::Nothing });
        Arc::new(Self { hub, anonymous, clock })
    }

    /// The wall's clock.
    #[must_use]
    pub fn wall() -> Clock {
        Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// Unix seconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Says when to judge anew.
    pub(super) fn changes(&self) -> WatchStream<u64> {
        WatchStream::from_changes(self.hub.rights_changes())
    }

    /// Whom a text stands for.
    fn judge(&self, text: &str) -> Result<Arc<Caller>, Error> {
        let (name, secret) = token::read(text).ok_or(NOT_GOOD)?;
        self.by_token(name, secret.hash())
    }

    fn by_token(&self, name: &str, hash: SecretHash) -> Result<Arc<Caller>, Error> {
        let document = self.hub.registry().tokens().get(name).cloned();
        let token = document.and_then(|document| Token::of(&document)).ok_or(NOT_GOOD)?;
        let until = token.accepts(&hash, self.now()).ok_or(NOT_GOOD)?;
        let proof = Proof::Token(token.name.clone(), hash);
        Ok(Arc::new(Caller { name: Some(token.principal()), grants: token.grants, until, proof }))
    }

    /// Whom the same proof stands for by now.
    ///
    /// # Errors
    /// `Unauthenticated`: it proves nothing any more.
    pub(super) fn again(&self, caller: &Arc<Caller>) -> Result<Arc<Caller>, Error> {
        match &caller.proof {
            Proof::Nothing => Ok(Arc::clone(caller)),
            Proof::Token(name, hash) => self.by_token(name, *hash).map_err(|_| ENDED),
        }
    }

    pub(super) fn has_ended(&self, caller: &Caller) -> bool {
        caller.until.is_some_and(|until| until <= self.now())
    }

    /// What a stream of a caller ends with when their credentials do.
    pub(super) fn ended(&self) -> Error {
        ENDED
    }
}

/// The check, as a thread has it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Gate(Option<Arc<Post>>);

/// A thread's own: nobody else takes its lock.
#[derive(Debug)]
struct Post {
    keeper: Arc<Keeper>,
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    hasher: RandomState,
    found: HashTable<Found>,
}

/// Credentials that were good when the rights were of this generation.
struct Found {
    hash: u64,
    text: Box<[u8]>,
    generation: u64,
    caller: Arc<Caller>,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Gate {
    /// Lets everybody in: authentication is off.
    #[must_use]
    pub fn open() -> Self {
        Self(None)
    }

    /// A check of its own over what all threads know.
    #[must_use]
    pub fn new(keeper: Arc<Keeper>) -> Self {
        Self(Some(Arc::new(Post { keeper, remembered: Mutex::default() })))
    }

    /// Whether it lets everybody in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// What all threads know; none with authentication off.
    #[must_use]
    pub fn keeper(&self) -> Option<&Arc<Keeper>> {
        self.0.as_ref().map(|post| &post.keeper)
    }

    /// Who sends a request with these headers, if its rule lets them in. Without a rule it is as for what shows nothing.
    ///
    /// # Errors
    /// `Unauthenticated`: there are no credentials, or they are not good. `Permission`: the rule wants another.
    pub fn admit(&self, rule: Option<&Rule>, headers: &HeaderMap) -> Result<Who, Error> {
        const UNRULED: Rule = Rule { entry: Entry::Known, reach: Reach::Nothing };
        let Some(post) = &self.0 else { return Ok(Who::anyone()) };
        let rule = rule.unwrap_or(&UNRULED);
        if rule.entry == Entry::Open && rule.reach == Reach::Nothing {
            return Ok(Who::of(Arc::clone(&post.keeper.anonymous)));
        }
        let caller = post.identify(headers)?;
        match rule.admits(&caller.grants) {
            Ok(()) => Ok(Who::of(caller)),
            // Who said nothing is asked who they are.
            Err(_) if caller.name.is_none() => Err(NONE),
            Err(missing) => Err(Error::Permission { permission: missing.map_or("any", Permission::name) }),
        }
    }

    /// Who was let in with this request.
    ///
    /// # Errors
    /// `Unauthenticated`: nobody was; the request came by a way without a check.
    pub fn who(&self, extensions: &Extensions) -> Result<Who, Error> {
        if self.0.is_none() {
            return Ok(Who::anyone());
        }
        extensions.get::<Who>().cloned().ok_or(NONE)
    }
}

impl Post {
    fn identify(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Error> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = given.next() else { return Ok(Arc::clone(&self.keeper.anonymous)) };
        if given.next().is_some() {
            return Err(MALFORMED);
        }
        let value = value.as_bytes();
        let generation = self.keeper.hub.rights_generation();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = remembered.hasher.hash_one(value);
        if let Some(caller) = remembered.find(hash, value, generation)
            && !self.keeper.has_ended(caller)
        {
            return Ok(Arc::clone(caller));
        }
        let caller = self.keeper.judge(bearer(value).ok_or(MALFORMED)?)?;
        remembered.keep(Found { hash, text: value.into(), generation, caller: Arc::clone(&caller) });
        Ok(caller)
    }
}

impl Remembered {
    fn find(&self, hash: u64, text: &[u8], generation: u64) -> Option<&Arc<Caller>> {
        // How much of a text is right shows neither in the hash, which is keyed, nor in the comparison.
        let is = |found: &Found| found.hash == hash && bool::from(found.text.ct_eq(text));
        let found = self.found.find(hash, is).filter(|found| found.generation == generation)?;
        Some(&found.caller)
    }

    fn keep(&mut self, found: Found) {
        if self.found.len() >= REMEMBERED_MAX {
            self.found.clear();
        }
        let is = |held: &Found| held.hash == found.hash && bool::from(held.text.ct_eq(&found.text));
        match self.found.find_mut(found.hash, is) {
            Some(held) => *held = found,
            None => _ = self.found.insert_unique(found.hash, found, |held| held.hash),
        }
    }
}

/// The text behind `Bearer`.
fn bearer(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= CREDENTIALS_MAX)?;
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ')).then_some(token)
}

#[cfg(test)]
mod tests;
