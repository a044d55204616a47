//! Lookups and lists: they read what the actor published and never take its time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use imbl::OrdMap;
use smol_str::SmolStr;
use tokio::{
    task::yield_now,
    time::{Instant, timeout_at},
};

use super::{
    RegistryHandle,
    list::ListQuery,
    sleeper::{Sleeper, may_match},
};
use crate::registry::{
    Candidate, Choice, Error, Filter, FilterSet, FirstPage, Frontend, Key, LOOKUP_BYTES, LOOKUP_MAX, Matcher,
    Namespace, Record, Registry, Revision, Scope, ServiceSet, Share, Split, Status,
    catalog::{Application, Entry},
    pick, pick_behind,
};

/// How long a `min_revision` is waited for when no wait is asked for.
const REVISION_WAIT: Duration = Duration::from_secs(1);
/// Most records looked at in one turn of a thread: what matches little must not hold it.
const SCAN_MAX: usize = 4_096;
/// A wait that the call's deadline cuts ends so much earlier: its answer has to arrive in time.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);
/// Counters for round robin: services share one only if their fingerprints collide here.
const TURNS: usize = 1_024;

/// Which of the matches to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickKind {
    /// All, in pages.
    All,
    /// Uniformly at random.
    Random,
    /// In turn.
    RoundRobin,
    /// At random by weight.
    Weighted,
    /// By the hash of a key.
    Rendezvous,
}

/// What to find.
#[derive(Clone, Debug)]
pub struct LookupQuery {
    /// A single filter, as a set.
    pub filters: FilterSet,
    /// Which of the matches.
    pub pick: PickKind,
    /// The key of a rendezvous.
    pub pick_key: String,
    /// How many at most; 0 is the default of the pick.
    pub limit: usize,
    /// Where the last page ended.
    pub page_token: String,
    /// The zone to prefer in a pick; may be empty.
    pub prefer_zone: String,
    /// How long an empty answer is held.
    pub wait: Duration,
    /// The least revision to answer from.
    pub min_revision: Revision,
    /// Whether the catalog is to answer for a service that is offline.
    pub falls_back: bool,
    /// The call's deadline, which cuts every wait.
    pub deadline: Option<Instant>,
}

/// Why nothing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyEmpty {
    /// No such namespace.
    UnknownNamespace,
    /// No such service.
    UnknownService,
    /// No such frontend.
    UnknownFrontend,
    /// Instances, none of which matches.
    NoMatch,
    /// No instance that is routable.
    AllOffline,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The matches.
    pub records: Vec<Record>,
    /// The frontend that was looked behind.
    pub frontend: Option<Arc<Frontend>>,
    /// Why there are none.
    pub why_empty: Option<WhyEmpty>,
    /// What the catalog has of a service that is offline, if that was asked for.
    pub declared: Option<Arc<Entry<Application>>>,
    /// Where to go on; empty at the end.
    pub next_page_token: String,
    /// The revision that this shows.
    pub revision: Revision,
}

/// The services found.
#[derive(Debug)]
pub struct Listed {
    /// Namespace, name and set of each.
    pub services: Vec<(SmolStr, SmolStr, ServiceSet)>,
    /// Where to go on; empty at the end.
    pub next_page_token: String,
    /// The revision that this shows.
    pub revision: Revision,
}

/// Turns and random numbers for picks.
#[derive(Debug)]
pub struct Turns {
    turns: Box<[AtomicU64]>,
    random: AtomicU64,
}

impl Turns {
    pub(super) fn new() -> Self {
        let mut seed = [0; 8];
        // Picks need spread, not secrecy: without random numbers they begin anywhere.
        let _ = getrandom::fill(&mut seed);
        let turns = (0..TURNS).map(|_| AtomicU64::new(0)).collect();
        Self { turns, random: AtomicU64::new(u64::from_le_bytes(seed)) }
    }

    fn turn(&self, fingerprint: u64) -> u64 {
        self.turns[(fingerprint as usize) % TURNS].fetch_add(1, Ordering::Relaxed)
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    pub(super) fn random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// When a wait of this length ends, so that its answer arrives before the call's deadline.
pub(super) fn end_of(wait: Duration, deadline: Option<Instant>) -> Instant {
    let end = Instant::now() + wait;
    let answered = |deadline: Instant| deadline.checked_sub(ANSWER_MARGIN).unwrap_or(deadline);
    deadline.map_or(end, |deadline| end.min(answered(deadline)))
}

impl RegistryHandle {
    /// The first page of the routable instances of one service, if it has any: made once for each state of the service,
    /// with the page token that goes on and the revision that they show.
    #[must_use]
    pub fn lookup_service(&self, namespace: &str, service: &str) -> Option<(Bytes, String, Revision)> {
        let (set, revision) = {
            let registry = self.hub.registry();
            (registry.service(namespace, service)?.clone(), registry.revision())
        };
        // To look for few among very many takes a search that lets others go on.
        if set.routable() == 0 || (set.len() - set.routable()) as usize > SCAN_MAX {
            return None;
        }
        let FirstPage { instances, go_on_after } = set.first_page(self.hub.replies());
        let next_page_token = go_on_after.map_or_else(String::new, |id| page_token(namespace, service, &id));
        Some((instances, next_page_token, revision))
    }

    /// The instance of a key, whatever its status, with the revision that it shows.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn instance(&self, key: &Key) -> Result<(Record, Revision), Error> {
        let registry = self.hub.registry();
        let record = registry.slot_of(key).and_then(|slot| registry.record(slot));
        let record = record.ok_or_else(|| Error::NotFound { key: key.to_string() })?;
        Ok((record.clone(), registry.revision()))
    }

    /// Finds instances. An answer that would be empty is held for `wait`.
    ///
    /// # Errors
    /// `RevisionAhead`, `Invalid` page token, `ShuttingDown` while waiting.
    pub async fn lookup(&self, query: LookupQuery) -> Result<Found, Error> {
        // One wait, whatever is waited for.
        let wait = if query.wait.is_zero() { REVISION_WAIT } else { query.wait };
        let end = end_of(wait, query.deadline);
        if query.min_revision > self.hub.registry().revision() {
            self.reach(query.min_revision, end).await?;
        }
        let matcher = Matcher::new(query.filters.clone());
        let found = self.find(&query, &matcher).await?;
        if !found.records.is_empty() || query.wait.is_zero() {
            return Ok(found);
        }
        let sleeper = Sleeper::new(&self.hub, matcher.scopes());
        loop {
            let generation = self.hub.generation();
            let found = self.find(&query, &matcher).await?;
            if !found.records.is_empty() {
                return Ok(found);
            }
            let mut seen = found.revision;
            // What happened since is looked at, and not everything that is there.
            while generation == self.hub.generation() && !may_match(self.hub.log(), &matcher, &mut seen) {
                if self.hub.is_closing() {
                    return Err(Error::ShuttingDown);
                }
                if timeout_at(end, sleeper.listener.woken()).await.is_err() {
                    return self.find(&query, &matcher).await;
                }
            }
        }
    }

    /// Lists services in order of (namespace, service).
    ///
    /// # Errors
    /// `Invalid` page token.
    pub fn list_services(&self, query: &ListQuery) -> Result<Listed, Error> {
        let after = page_start(&query.page_token)?.map(|[namespace, service, _]| (namespace, service));
        let limit = if query.limit == 0 { LOOKUP_MAX } else { query.limit.min(LOOKUP_MAX) };
        let registry = self.hub.registry();
        let mut services = Vec::new();
        let first = match (&query.namespace, &after) {
            (Some(only), _) => only.clone(),
            (None, Some((namespace, _))) => namespace.clone(),
            (None, None) => SmolStr::default(),
        };
        'all: for (namespace, held) in registry.namespaces().range::<_, SmolStr>(first..) {
            if query.namespace.as_ref().is_some_and(|only| only != namespace) {
                break;
            }
            // From the prefix on, or from where the last page ended.
            let resumed = after.as_ref().filter(|(at, _)| at == namespace).map(|(_, service)| service.clone());
            let start = resumed.clone().unwrap_or_else(|| SmolStr::new(&query.prefix));
            let key = query.partition_key.as_str();
            let of_key = (!key.is_empty()).then(|| held.of_partition(key, start.clone())).into_iter().flatten();
            let all = key.is_empty().then(|| held.services.range::<_, SmolStr>(start..)).into_iter().flatten();
            for (service, set) in of_key.chain(all) {
                if !service.starts_with(&query.prefix) {
                    break;
                }
                if resumed.as_ref() == Some(service) || !query.shows(namespace, service) {
                    continue;
                }
                services.push((namespace.clone(), service.clone(), set.clone()));
                if services.len() > limit {
                    break 'all;
                }
            }
        }
        let more = services.len() > limit;
        services.truncate(limit);
        let next_page_token = match services.last() {
            Some((namespace, service, _)) if more => page_token(namespace, service, ""),
            _ => String::new(),
        };
        Ok(Listed { services, next_page_token, revision: registry.revision() })
    }

    async fn reach(&self, wanted: Revision, end: Instant) -> Result<(), Error> {
        let sleeper = Sleeper::new(&self.hub, &[Scope::All]);
        loop {
            let revision = self.hub.registry().revision();
            if revision >= wanted {
                return Ok(());
            }
            if self.hub.is_closing() {
                return Err(Error::ShuttingDown);
            }
            if timeout_at(end, sleeper.listener.woken()).await.is_err() {
                return Err(Error::RevisionAhead { wanted, revision });
            }
        }
    }

    async fn find(&self, query: &LookupQuery, matcher: &Matcher) -> Result<Found, Error> {
        let after = page_start(&query.page_token)?;
        // A short look: the snapshot is read after the state is free again.
        let (snapshot, namespaces, behind, declared) = {
            let registry = self.hub.registry();
            let declared = query.falls_back.then(|| declared(&registry, matcher)).flatten();
            let behind = Behind::of(&registry, matcher);
            let meant = behind.as_ref().map_or(matcher, |behind| &behind.matcher);
            (registry.snapshot(meant.scopes()).under(meant.prefix()), registry.namespaces().clone(), behind, declared)
        };
        let meant = behind.as_ref().map_or(matcher, |behind| &behind.matcher);
        let revision = snapshot.revision();
        let mut reader = match after {
            None => snapshot.reader(),
            Some([namespace, service, id]) => snapshot.reader_after(&namespace, &service, &id),
        };
        let mut records = Vec::new();
        let mut next_page_token = String::new();
        let limit = match (query.pick, query.limit) {
            (PickKind::All, 0) => LOOKUP_MAX,
            (PickKind::All, limit) => limit.min(LOOKUP_MAX),
            _ => usize::MAX,
        };
        let (mut bytes, mut seen) = (0, 0);
        while let Some(record) = reader.next_record() {
            seen += 1;
            if seen % SCAN_MAX == 0 {
                yield_now().await;
            }
            if !meant.matches(&record) {
                continue;
            }
            let full = records.len() >= limit || (query.pick == PickKind::All && bytes > LOOKUP_BYTES);
            if let Some(last) = records.last().filter(|_| full) {
                let last: &Record = last;
                let (namespace, service, id) = last.names();
                next_page_token = page_token(namespace, service, id);
                break;
            }
            bytes += record.bytes().len() + 4;
            records.push(record);
        }
        let none_match = records.is_empty();
        if query.pick != PickKind::All {
            records = self.choose(query, matcher, behind.as_ref(), records);
        }
        let why_empty = match (records.is_empty(), none_match) {
            (false, _) => None,
            (true, true) => Some(match &behind {
                Some(behind) => behind.why_empty(&namespaces, matcher),
                None => why_empty(&namespaces, query.filters.filters().first()),
            }),
            (true, false) => Some(WhyEmpty::NoMatch),
        };
        let frontend = behind.and_then(|behind| behind.frontend);
        let declared = declared.filter(|_| why_empty == Some(WhyEmpty::AllOffline));
        Ok(Found { records, frontend, why_empty, declared, next_page_token, revision })
    }

    fn choose(
        &self,
        query: &LookupQuery,
        matcher: &Matcher,
        behind: Option<&Behind>,
        records: Vec<Record>,
    ) -> Vec<Record> {
        let instances: Vec<_> = records.iter().map(Record::instance).collect();
        let candidate = |instance: &'_ crate::registry::Instance| {
            (instance.weight.unwrap_or(1), instance.status() == Status::Suspect)
        };
        let candidates: Vec<Candidate<'_>> = instances
            .iter()
            .map(|instance| {
                let (weight, suspect) = candidate(instance);
                Candidate { id: &instance.id, zone: &instance.zone, weight, suspect }
            })
            .collect();
        let fingerprint = matcher.set().fingerprint();
        let choice = match query.pick {
            PickKind::All | PickKind::Random => Choice::Random,
            PickKind::RoundRobin => Choice::RoundRobin { turn: self.turns.turn(fingerprint) },
            PickKind::Weighted => Choice::Weighted,
            PickKind::Rendezvous => Choice::Rendezvous { key: &query.pick_key },
        };
        let (n, zone, random) = (query.limit.clamp(1, LOOKUP_MAX), &query.prefer_zone, &mut || self.turns.random());
        let picked = match behind.and_then(|behind| behind.frontend.as_ref()) {
            None => pick(choice, &candidates, n, zone, random),
            Some(frontend) => {
                let shares = shares(frontend, &instances);
                // Each backend has its own turns, taken only when it is its turn.
                let turn = &mut |share: usize| self.turns.turn(fingerprint.wrapping_add(1 + share as u64));
                pick_behind(choice, &shares, &candidates, n, zone, random, turn)
            }
        };
        // There are no pages, but a reply has its size.
        let mut bytes = 0;
        let fits = |record: &Record| {
            bytes += record.bytes().len() + 4;
            bytes <= LOOKUP_BYTES
        };
        picked.into_iter().filter_map(|place| records.get(place).cloned()).filter(fits).collect()
    }
}

/// The application that the service of a lookup is named after.
fn declared(registry: &Registry, matcher: &Matcher) -> Option<Arc<Entry<Application>>> {
    let Scope::Service(namespace, service) = matcher.scopes().first()? else { return None };
    registry.catalogs().book(namespace).applications().get(service).cloned()
}

/// What is behind the frontend that a lookup follows.
struct Behind {
    frontend: Option<Arc<Frontend>>,
    matcher: Matcher,
}

impl Behind {
    /// None: the lookup follows no frontend.
    fn of(registry: &Registry, matcher: &Matcher) -> Option<Self> {
        let (namespace, name) = matcher.frontends().first()?;
        let frontend = registry.deployments().frontend(namespace, name).cloned();
        let matcher = matcher.resolved(std::slice::from_ref(&frontend));
        Some(Self { frontend, matcher })
    }

    fn why_empty(&self, namespaces: &OrdMap<SmolStr, Namespace>, matcher: &Matcher) -> WhyEmpty {
        let Some(held) = matcher.frontends().first().and_then(|(namespace, _)| namespaces.get(namespace)) else {
            return WhyEmpty::UnknownNamespace;
        };
        let Some(frontend) = &self.frontend else { return WhyEmpty::UnknownFrontend };
        let routable = frontend
            .live()
            .filter_map(|split| held.services.get(&split.service))
            .any(|set| set.routable() > 0 && set.iter().any(|record| record.is_routable() && frontend.covers(record)));
        if routable { WhyEmpty::NoMatch } else { WhyEmpty::AllOffline }
    }
}

/// Each backend's weight, and which of the instances are behind it.
fn shares<'a>(frontend: &'a Frontend, instances: &[crate::registry::Instance]) -> Vec<Share<'a>> {
    let share = |split: &'a Split| {
        let behind = |(_, instance): &(usize, &crate::registry::Instance)| {
            split.service == instance.service && split.version == instance.version
        };
        let members = instances.iter().enumerate().filter(behind).map(|(place, _)| place).collect();
        Share { name: &split.backend, weight: split.weight, members }
    };
    frontend.live().map(share).collect()
}

/// Why a lookup of this filter finds nothing.
fn why_empty(namespaces: &OrdMap<SmolStr, Namespace>, filter: Option<&Filter>) -> WhyEmpty {
    // What somebody may see but a part of is said to be empty, and no more.
    let Some(filter) = filter.filter(|filter| !filter.is_narrowed()) else { return WhyEmpty::NoMatch };
    let within = match filter.scope() {
        Scope::All => namespaces.values().collect(),
        Scope::Namespace(namespace)
        | Scope::Service(namespace, _)
        | Scope::Frontend(namespace, _)
        | Scope::Key(namespace, _) => match namespaces.get(&namespace) {
            None => return WhyEmpty::UnknownNamespace,
            Some(held) => vec![held],
        },
    };
    let routable = match filter.service() {
        None => within.iter().any(|held| held.services.values().any(|set| set.routable() > 0)),
        Some(service) => {
            let sets: Vec<_> = within.iter().filter_map(|held| held.services.get(service)).collect();
            if sets.is_empty() {
                return WhyEmpty::UnknownService;
            }
            sets.iter().any(|set| set.routable() > 0)
        }
    };
    if routable { WhyEmpty::NoMatch } else { WhyEmpty::AllOffline }
}

pub(super) fn page_token(namespace: &str, service: &str, id: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{namespace}\0{service}\0{id}"))
}

pub(super) fn page_start(token: &str) -> Result<Option<[SmolStr; 3]>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let invalid = || Error::invalid("page_token", "is not one that this server gave");
    let raw = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let text = String::from_utf8(raw).map_err(|_| invalid())?;
    let mut parts = text.splitn(3, '\0').map(SmolStr::new);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(service), Some(id)) => Ok(Some([namespace, service, id])),
        _ => Err(invalid()),
    }
}
