//! The one check: credentials in, the caller out, or a refusal. Every front asks here before it reads a body, by the rule
//! of the call or path. What was found good is remembered by each thread for itself, so that a call costs no more than a
//! look-up; what is not good costs a hash and a look at what is kept of the secrets.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

use hashbrown::HashTable;
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use smol_str::{SmolStr, ToSmolStr};
use subtle::ConstantTimeEq as _;
use tokio_stream::wrappers::WatchStream;

use super::{
    Entry, Grant, Grants, Permission, Reach, Rule,
    audit::{self, Audit},
    caller::{Caller, Issued, NONE, Proof, Who},
    jwt::{Jwt, Said},
    token::{self, SecretHash, Token},
};
use crate::{
    registry::{Document, Error, Quota, Realm, Revision},
    tls::PeerCertificate,
    watch::Hub,
};

/// The longest credentials.
const CREDENTIALS_MAX: usize = 8 * 1024;
/// Most credentials that a thread remembers; then it forgets those that it has known the longest.
const REMEMBERED_MAX: usize = 4_096;
/// Most bytes of them.
const REMEMBERED_BYTES_MAX: usize = 4 << 20;

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
    named: Mutex<Named>,
    jwt: RwLock<Option<Arc<Jwt>>>,
}

/// Which tokens name a certificate, as of a generation of the rights.
#[derive(Default)]
struct Named {
    generation: Option<u64>,
    tokens: HashMap<SmolStr, Vec<SmolStr>>,
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
        let anonymous =
            Caller { name: None, grants, quota: None, until: None, revisions: [].into(), proof: Proof::Nothing };
        let anonymous = Arc::new(anonymous);
        Arc::new(Self { hub, anonymous, clock, named: Mutex::default(), jwt: RwLock::default() })
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

    /// Says when to judge anew: first of all at once, since something may have changed since a caller was judged.
    pub(super) fn changes(&self) -> WatchStream<u64> {
        WatchStream::new(self.hub.rights_changes())
    }

    /// From now on what was issued elsewhere is judged by these keys, that which streams go on by, too.
    pub fn believe(&self, jwt: Jwt) {
        *self.jwt.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(jwt));
        self.hub.rights_changed();
    }

    fn jwt(&self) -> Option<Arc<Jwt>> {
        self.jwt.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whom a text stands for.
    fn judge(&self, text: &str) -> Result<Arc<Caller>, Error> {
        match token::read(text) {
            Some((name, secret)) => self.by_token(name, secret.hash(), None),
            None => self.by_jwt(text, self.jwt().ok_or(NOT_GOOD)?),
        }
    }

    fn by_jwt(&self, text: &str, jwt: Arc<Jwt>) -> Result<Arc<Caller>, Error> {
        let Said { principal, grants, until } = jwt.judge(text, self.now()).ok_or(NOT_GOOD)?;
        let grants = self.and_open(grants.grants());
        let proof = Proof::Jwt(Issued(text.into()), jwt);
        Ok(Arc::new(Caller {
            name: Some(principal),
            grants,
            quota: None,
            until: Some(until),
            revisions: [].into(),
            proof,
        }))
    }

    /// Whom a secret of a token stands for: who it stood for `before`, if nothing is other since.
    fn by_token(&self, name: &str, hash: SecretHash, before: Option<&Arc<Caller>>) -> Result<Arc<Caller>, Error> {
        let document = self.hub.registry().tokens().get(name).cloned().ok_or(NOT_GOOD)?;
        if let Some(same) = before.filter(|caller| *caller.revisions == [document.revision] && !self.has_ended(caller))
        {
            return Ok(Arc::clone(same));
        }
        // Grants are read of who has a right to them.
        let until = token::accepts(&document, &hash, self.now()).ok_or(NOT_GOOD)?;
        let token = Token::of(&document).ok_or(NOT_GOOD)?;
        Ok(Arc::new(Caller {
            name: Some(token.principal()),
            grants: self.and_open(token.grants.grants()),
            quota: token.quota.shared(),
            until,
            revisions: [token.revision].into(),
            proof: Proof::Token(token.name.clone(), hash),
        }))
    }

    /// These, and what anybody may do besides.
    fn and_open<'a>(&self, theirs: impl IntoIterator<Item = &'a Grant>) -> Grants {
        Grants::new(theirs.into_iter().cloned().chain(self.anonymous.grants.grants().iter().cloned()))
    }

    /// Who holds a certificate may do what the tokens allow that name it. Without a name it is nobody's in particular.
    fn by_certificate(
        &self,
        certificate: &PeerCertificate,
        before: Option<&Arc<Caller>>,
    ) -> Result<Arc<Caller>, Error> {
        let expires = certificate.expires.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = self.now();
        if expires <= now {
            return Err(ENDED);
        }
        let names: Vec<SmolStr> = certificate.names.iter().map(ToSmolStr::to_smolstr).collect();
        let Some(first) = names.first() else { return Ok(Arc::clone(&self.anonymous)) };
        let documents = self.naming(&names);
        let revisions: Box<[Revision]> = documents.iter().map(|document| document.revision).collect();
        if let Some(same) = before.filter(|caller| caller.revisions == revisions && !self.has_ended(caller)) {
            return Ok(Arc::clone(same));
        }
        let tokens = documents.iter().filter_map(|document| Token::of(document));
        let tokens: Vec<Token> = tokens.filter(|token| token.lasts(now).is_some()).collect();
        let until = tokens.iter().filter_map(|token| token.until).chain([expires]).min();
        let name = Some(format!("cert:{first}").into());
        let grants = self.and_open(tokens.iter().flat_map(|token| token.grants.grants()));
        let proof = Proof::Certificate(certificate.clone());
        // As much as one of them allows, as it is with what they allow.
        let quota = tokens.iter().map(|token| token.quota).reduce(Quota::wider).and_then(Quota::shared);
        Ok(Arc::new(Caller { name, grants, quota, until, revisions, proof }))
    }

    /// The tokens that name one of these.
    fn naming(&self, names: &[SmolStr]) -> Vec<Arc<Document>> {
        let generation = self.hub.rights_generation();
        let documents = self.hub.registry().tokens().clone();
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.generation != Some(generation) {
            let mut tokens = HashMap::<SmolStr, Vec<SmolStr>>::new();
            for document in documents.values() {
                for certificate in token::certificates(document) {
                    tokens.entry(certificate.into()).or_default().push(document.key.name.clone());
                }
            }
            *named = Named { generation: Some(generation), tokens };
        }
        let mut found: Vec<&SmolStr> = names.iter().filter_map(|name| named.tokens.get(name)).flatten().collect();
        found.sort();
        found.dedup();
        found.into_iter().filter_map(|name| documents.get(name).cloned()).collect()
    }

    /// Whom the same proof stands for by now: the same caller, if nothing is other.
    ///
    /// # Errors
    /// `Unauthenticated`: it proves nothing any more.
    pub(super) fn again(&self, caller: &Arc<Caller>) -> Result<Arc<Caller>, Error> {
        match &caller.proof {
            Proof::Nothing => Ok(Arc::clone(caller)),
            Proof::Token(name, hash) => self.by_token(name, *hash, Some(caller)).map_err(|_| ENDED),
            // The same keys say the same: to verify is dear, and there may be many streams.
            Proof::Jwt(_, by) if !self.has_ended(caller) && self.jwt().is_some_and(|now| Arc::ptr_eq(&now, by)) => {
                Ok(Arc::clone(caller))
            }
            Proof::Jwt(Issued(text), _) => self.by_jwt(text, self.jwt().ok_or(ENDED)?).map_err(|_| ENDED),
            Proof::Certificate(certificate) => self.by_certificate(certificate, Some(caller)),
        }
    }

    pub(super) fn has_ended(&self, caller: &Caller) -> bool {
        caller.until.is_some_and(|until| until <= self.now())
    }
}

/// The check, as a thread has it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// None: authentication is off.
    post: Option<Arc<Post>>,
    /// None: nothing is written down.
    audit: Option<Arc<Audit>>,
}

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
    /// What is in it by its hash, oldest first.
    order: VecDeque<u64>,
    bytes: usize,
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
        Self::default()
    }

    /// A check of its own over what all threads know.
    #[must_use]
    pub fn new(keeper: Arc<Keeper>) -> Self {
        Self { post: Some(Arc::new(Post { keeper, remembered: Mutex::default() })), audit: None }
    }

    /// With a log of what it judges.
    #[must_use]
    pub fn audited(self, audit: Option<Arc<Audit>>) -> Self {
        Self { audit, ..self }
    }

    /// Whether it lets everybody in, and writes nothing down.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.post.is_none() && self.audit.is_none()
    }

    /// As `admit`, of what is called `what`. If a log is kept: what there is to write when the request has ended; a refusal
    /// here is written at once.
    ///
    /// # Errors
    /// As of `admit`.
    pub fn judge(
        &self,
        what: &str,
        (rule, is_change): (Option<&Rule>, bool),
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<(Who, Option<audit::Request>), Error> {
        let judged = self.identified(rule, headers, extensions);
        let Some(audit) = &self.audit else {
            let (who, passed) = judged?;
            return passed.map(|()| (who, None));
        };
        let mut request = audit::Request::begin(audit, what, headers, extensions);
        let passed = match judged {
            Ok((who, passed)) => {
                request.by(who.name(), is_change);
                passed.map(|()| who)
            }
            Err(error) => Err(error),
        };
        match passed {
            Ok(who) => Ok((who.noting(request.trail()), Some(request))),
            Err(error) => {
                request.refused_for(&error);
                Err(error)
            }
        }
    }

    /// What all threads know; none with authentication off.
    #[must_use]
    pub fn keeper(&self) -> Option<&Arc<Keeper>> {
        self.post.as_ref().map(|post| &post.keeper)
    }

    /// Who sends a request with these headers by a connection that these extensions tell of, if its rule lets them in.
    /// Without a rule it is as for what shows nothing.
    ///
    /// # Errors
    /// `Unauthenticated`: there are no credentials, or they are not good. `Permission`: the rule wants another.
    pub fn admit(&self, rule: Option<&Rule>, headers: &HeaderMap, extensions: &Extensions) -> Result<Who, Error> {
        let (who, passed) = self.identified(rule, headers, extensions)?;
        passed.map(|()| who)
    }

    /// Who sends it, and whether the rule lets them in.
    fn identified(
        &self,
        rule: Option<&Rule>,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<(Who, Result<(), Error>), Error> {
        const UNRULED: Rule = Rule { entry: Entry::Known, reach: Reach::Nothing };
        let Some(post) = &self.post else { return Ok((Who::anyone(), Ok(()))) };
        let rule = rule.unwrap_or(&UNRULED);
        if rule.entry == Entry::Open && rule.reach == Reach::Nothing {
            return Ok((Who::of(Arc::clone(&post.keeper.anonymous)), Ok(())));
        }
        let who = Who::of(post.identify(headers, extensions.get())?);
        let passed = who.passes(rule);
        Ok((who, passed))
    }

    /// Who was let in with this request.
    ///
    /// # Errors
    /// `Unauthenticated`: nobody was; the request came by a way without a check.
    pub fn who(&self, extensions: &Extensions) -> Result<Who, Error> {
        match extensions.get::<Who>() {
            Some(who) => Ok(who.clone()),
            None if self.post.is_none() => Ok(Who::anyone()),
            None => Err(NONE),
        }
    }
}

impl Post {
    /// By the token that is sent; without one by the certificate of the connection.
    fn identify(&self, headers: &HeaderMap, certificate: Option<&PeerCertificate>) -> Result<Arc<Caller>, Error> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (value, certificate) = match (given.next(), certificate) {
            (Some(_), _) if given.next().is_some() => return Err(MALFORMED),
            (Some(value), _) => (Cow::Borrowed(bearer(value.as_bytes()).ok_or(MALFORMED)?.as_bytes()), None),
            // No token has a zero.
            (None, Some(of)) => (Cow::Owned([&[0], &of.fingerprint[..]].concat()), Some(of)),
            (None, None) => return Ok(Arc::clone(&self.keeper.anonymous)),
        };
        let value = &value[..];
        let generation = self.keeper.hub.rights_generation();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = remembered.hasher.hash_one(value);
        let found = remembered.find(hash, value);
        let caller = match (found, certificate) {
            (Some(found), _) if found.generation == generation && !self.keeper.has_ended(&found.caller) => {
                return Ok(Arc::clone(&found.caller));
            }
            (Some(found), _) => self.keeper.again(&found.caller)?,
            (None, Some(certificate)) => self.keeper.by_certificate(certificate, None)?,
            (None, None) => self.keeper.judge(std::str::from_utf8(value).map_err(|_| MALFORMED)?)?,
        };
        remembered.keep(Found { hash, text: value.into(), generation, caller: Arc::clone(&caller) });
        Ok(caller)
    }
}

impl Remembered {
    fn find(&self, hash: u64, text: &[u8]) -> Option<&Found> {
        // How much of a text is right shows neither in the hash, which is keyed, nor in the comparison.
        let is = |found: &Found| found.hash == hash && bool::from(found.text.ct_eq(text));
        self.found.find(hash, is)
    }

    fn keep(&mut self, found: Found) {
        let is = |held: &Found| held.hash == found.hash && bool::from(held.text.ct_eq(&found.text));
        if let Some(held) = self.found.find_mut(found.hash, is) {
            *held = found;
            return;
        }
        while self.found.len() >= REMEMBERED_MAX || self.bytes + found.text.len() > REMEMBERED_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Ok(entry) = self.found.find_entry(oldest, |held| held.hash == oldest) {
                self.bytes -= entry.remove().0.text.len();
            }
        }
        self.bytes += found.text.len();
        self.order.push_back(found.hash);
        self.found.insert_unique(found.hash, found, |held| held.hash);
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
