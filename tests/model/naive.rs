//! The registry as the design's sentences have it, over plain maps: no slots, no pages, no hashes, no wheel. It must
//! not know how `onair::registry` does any of it.

use std::collections::BTreeMap;

use onair::registry::{Cause, Instance, Key, Status};

/// A service stays known for so many seconds after its last instance.
const DAY: u64 = 24 * 60 * 60;

/// A registration that is held.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Complete, with incarnation and revision.
    pub instance: Instance,
    /// Its place in the revision of its registration.
    pub ordinal: u32,
    pub ttl: u32,
    pub secret: [u8; 16],
    pub request: Option<String>,
    pub principal: Option<&'static str>,
    /// Of the record: each put has another.
    pub edition: u64,
}

/// A token as somebody sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub ours: bool,
    pub key: Key,
    pub lease: (u64, u32),
    pub secret: [u8; 16],
}

/// What a token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    Unknown,
    Expired,
    Superseded,
    Denied,
    Live,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    pub name: Option<&'static str>,
    pub operator: bool,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    Register {
        /// Without what the server sets.
        instance: Box<Instance>,
        ttl: u32,
        token: Option<Sent>,
        request: Option<String>,
        who: Who,
        secret: [u8; 16],
        at: prost_types::Timestamp,
    },
    SetStatus {
        token: Sent,
        status: Status,
    },
    DrainByToken(Sent),
    DrainByKey(Key, Who),
    ByToken(Option<Sent>, u64),
    ByTokens(Vec<Sent>, u64),
    ByKey(Key, Who, u64),
    ByService(String, String, Who, u64),
    /// Keys with the edition that lapsed, and whether too many did.
    Expire(Vec<(Key, u64, bool)>, u64),
    Forget(String, String),
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Registered(Key, [u8; 16]),
    Renewed(u32),
    NotRenewed(Worth),
    Removed(u64),
    Drained(Key, bool),
    NotFound,
    Done,
    Superseded,
    KeyHeld,
    Denied,
    NotPermitted,
    /// Any of these: name, maximum, usage.
    Limit(Vec<(&'static str, u64, u64)>),
}

/// One change of the state.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Put { held: Box<Held>, new: bool, visible: bool },
    Delete { key: Key, cause: Cause, at: u64 },
    Forget(String, String),
}

impl Step {
    pub fn key(&self) -> Option<Key> {
        match self {
            Self::Put { held, .. } => Some(key_of(&held.instance)),
            Self::Delete { key, .. } => Some(key.clone()),
            Self::Forget(..) => None,
        }
    }
}

/// What a step did to its key.
#[derive(Clone, Debug)]
pub struct Crossing {
    pub before: Option<Held>,
    pub after: Option<Held>,
    pub cause: Cause,
}

pub type Live = BTreeMap<Key, Held>;

/// The model.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub revision: u64,
    pub live: Live,
    /// With the second since which the service has no instance.
    pub known: BTreeMap<(String, String), Option<u64>>,
    /// Of instances, services, namespaces.
    pub limits: (u64, u64, u64),
    editions: u64,
}

pub fn key_of(instance: &Instance) -> Key {
    Key::new(&*instance.namespace, &*instance.service, &*instance.id)
}

/// Whoever is heard of is not SUSPECT any more, but what he was before.
fn heard_of(held: &mut Held) {
    if held.instance.status() == Status::Suspect {
        held.instance.set_status(Status::Serving);
    }
}

impl Model {
    pub fn new(limits: (u64, u64, u64)) -> Self {
        Self { limits, ..Self::default() }
    }

    /// "Certain without tombstones".
    pub fn worth(&self, token: Option<&Sent>) -> Worth {
        let Some(token) = token.filter(|token| token.ours && token.lease.0 <= self.revision) else {
            return Worth::Unknown;
        };
        let Some(held) = self.live.get(&token.key) else { return Worth::Expired };
        let lease = (held.instance.incarnation, held.ordinal);
        if lease > token.lease {
            Worth::Superseded
        } else if lease < token.lease {
            Worth::Unknown
        } else if held.secret == token.secret {
            Worth::Live
        } else {
            Worth::Denied
        }
    }

    pub fn namespaces(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.known.keys().map(|(namespace, _)| namespace.as_str()).collect();
        names.push("default");
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Services whose day has passed.
    pub fn forgettable(&self, now: u64) -> Vec<(String, String)> {
        let passed = |at: &Option<u64>| at.is_some_and(|at| at + DAY <= now);
        self.known.iter().filter(|(_, at)| passed(at)).map(|(name, _)| name.clone()).collect()
    }

    /// What is to become of `ask`. So many new instances are on their way already.
    pub fn decide(&mut self, ask: &Ask, on_their_way: u64) -> (Answer, Vec<Step>) {
        match ask {
            Ask::Register { .. } => self.register(ask, on_their_way),
            Ask::SetStatus { token, status } => match (self.worth(Some(token)), self.live.get(&token.key)) {
                (Worth::Live, Some(held)) => {
                    let answer = Answer::Renewed(held.ttl);
                    let mut now = held.clone();
                    heard_of(&mut now);
                    if *status != Status::Unspecified {
                        now.instance.set_status(*status);
                    }
                    if now == *held {
                        return (answer, vec![]);
                    }
                    (answer, vec![self.put(now, false, true)])
                }
                (worth, _) => (Answer::NotRenewed(worth), vec![]),
            },
            Ask::DrainByToken(token) => match self.worth(Some(token)) {
                Worth::Live => self.drain(&token.key, true),
                Worth::Superseded => (Answer::Superseded, vec![]),
                Worth::Denied => (Answer::Denied, vec![]),
                Worth::Expired | Worth::Unknown => (Answer::NotFound, vec![]),
            },
            Ask::DrainByKey(_, who) if !who.operator => (Answer::NotPermitted, vec![]),
            Ask::DrainByKey(key, _) => self.drain(key, false),
            Ask::ByToken(token, at) => match (self.worth(token.as_ref()), token) {
                (Worth::Live, Some(token)) => self.remove(vec![token.key.clone()], Cause::Deregistered, *at),
                (Worth::Superseded, _) => (Answer::Superseded, vec![]),
                (Worth::Denied, _) => (Answer::Denied, vec![]),
                _ => (Answer::Removed(0), vec![]),
            },
            Ask::ByTokens(tokens, at) => {
                let mine = tokens.iter().filter(|token| self.worth(Some(token)) == Worth::Live);
                self.remove(mine.map(|token| token.key.clone()).collect(), Cause::Deregistered, *at)
            }
            Ask::ByKey(_, who, _) | Ask::ByService(_, _, who, _) if !who.operator => (Answer::NotPermitted, vec![]),
            Ask::ByKey(key, _, at) => self.remove(vec![key.clone()], Cause::Operator, *at),
            Ask::ByService(namespace, service, _, at) => {
                let all = self.live.keys().filter(|key| key.namespace == *namespace && key.service == *service);
                self.remove(all.cloned().collect(), Cause::Operator, *at)
            }
            Ask::Expire(lapsed, at) => self.expire(lapsed, *at),
            Ask::Forget(namespace, service) => (Answer::Done, vec![Step::Forget(namespace.clone(), service.clone())]),
        }
    }

    /// Whatever it was, it is DRAINING, and nothing else of it changes.
    fn drain(&mut self, key: &Key, by_lease: bool) -> (Answer, Vec<Step>) {
        let Some(held) = self.live.get(key) else { return (Answer::NotFound, vec![]) };
        let answer = Answer::Drained(key.clone(), by_lease);
        if held.instance.status() == Status::Draining {
            return (answer, vec![]);
        }
        let mut now = held.clone();
        now.instance.set_status(Status::Draining);
        (answer, vec![self.put(now, false, true)])
    }

    /// What takes no traffic goes, and so does who was held back before.
    fn expire(&mut self, lapsed: &[(Key, u64, bool)], at: u64) -> (Answer, Vec<Step>) {
        let (mut gone, mut steps) = (Vec::new(), Vec::new());
        for (key, edition, hold) in lapsed {
            let Some(held) = self.live.get(key).filter(|held| held.edition == *edition) else { continue };
            if *hold && held.instance.status() == Status::Serving {
                let mut held = held.clone();
                held.instance.set_status(Status::Suspect);
                steps.push(self.put(held, false, true));
            } else {
                gone.push(key.clone());
            }
        }
        let (answer, removals) = self.remove(gone, Cause::Expired, at);
        steps.extend(removals);
        (answer, steps)
    }

    fn register(&mut self, ask: &Ask, on_their_way: u64) -> (Answer, Vec<Step>) {
        let Ask::Register { instance, ttl, token, request, who, secret, at } = ask else { unreachable!() };
        let key = key_of(instance);
        let mut wanted = Held {
            instance: (**instance).clone(),
            ordinal: 0,
            ttl: *ttl,
            secret: *secret,
            request: request.clone(),
            principal: who.name,
            edition: 0,
        };
        let token = token.as_ref().filter(|token| token.key == key);
        let worth = self.worth(token);
        let answer = Answer::Registered(key.clone(), *secret);
        let Some(held) = self.live.get(&key).cloned() else {
            if let Some(limit) = self.no_room(&key, on_their_way) {
                return (limit, vec![]);
            }
            return (answer, vec![self.insert(wanted, *at)]);
        };
        if worth == Worth::Live {
            wanted.instance.incarnation = held.instance.incarnation;
            wanted.instance.revision = held.instance.revision;
            wanted.instance.online_since = held.instance.online_since;
            if wanted.instance.status() == Status::Unspecified {
                wanted.instance.status = held.instance.status;
                heard_of(&mut wanted);
            }
            let visible = wanted.instance != held.instance;
            // Nobody's becomes theirs who has its token.
            let principal = held.principal.or(who.name);
            let changed = visible || wanted.ttl != held.ttl || principal != held.principal;
            let now = Held { instance: wanted.instance, ttl: wanted.ttl, principal, ..held };
            let answer = Answer::Registered(key, now.secret);
            return (answer, if changed { vec![self.put(now, false, visible)] } else { vec![] });
        }
        // What was registered when nobody was asked who they are is theirs who may register there.
        let own = held.principal.is_none() || held.principal == who.name;
        if own && request.is_some() && *request == held.request {
            // The same call again: the same incarnation, a new token, no event, unless it ends SUSPECT.
            let principal = held.principal.or(who.name);
            let mut now = Held { secret: *secret, principal, ..held.clone() };
            heard_of(&mut now);
            let visible = now.instance != held.instance;
            return (answer, vec![self.put(now, false, visible)]);
        }
        match worth {
            Worth::Superseded => (Answer::Superseded, vec![]),
            _ if own || who.operator => (answer, vec![self.insert(wanted, *at)]),
            _ => (Answer::KeyHeld, vec![]),
        }
    }

    fn no_room(&self, key: &Key, on_their_way: u64) -> Option<Answer> {
        let service = (key.namespace.to_string(), key.service.to_string());
        let mut reached = Vec::new();
        let mut check = |name, maximum, usage| {
            if usage >= maximum {
                reached.push((name, maximum, usage));
            }
        };
        check("max_instances", self.limits.0, self.live.len() as u64 + on_their_way);
        if !self.known.contains_key(&service) {
            check("max_services", self.limits.1, self.known.len() as u64);
        }
        if !self.namespaces().contains(&key.namespace.as_str()) {
            check("max_namespaces", self.limits.2, self.namespaces().len() as u64);
        }
        (!reached.is_empty()).then_some(Answer::Limit(reached))
    }

    fn insert(&mut self, mut held: Held, at: prost_types::Timestamp) -> Step {
        held.instance.online_since = Some(at);
        if held.instance.status() == Status::Unspecified {
            held.instance.set_status(Status::Serving);
        }
        self.put(held, true, true)
    }

    fn put(&mut self, mut held: Held, new: bool, visible: bool) -> Step {
        self.editions += 1;
        held.edition = self.editions;
        Step::Put { held: Box::new(held), new, visible }
    }

    fn remove(&self, mut keys: Vec<Key>, cause: Cause, at: u64) -> (Answer, Vec<Step>) {
        keys.retain(|key| self.live.contains_key(key));
        keys.sort();
        keys.dedup();
        let steps: Vec<_> = keys.into_iter().map(|key| Step::Delete { key, cause, at }).collect();
        (Answer::Removed(steps.len() as u64), steps)
    }

    /// Takes in what was committed, each step with its place in the revision.
    pub fn commit(&mut self, revision: u64, steps: Vec<(u32, Step)>) -> Vec<Crossing> {
        self.revision = revision;
        steps.into_iter().filter_map(|(place, step)| self.take(revision, place, step)).collect()
    }

    fn take(&mut self, revision: u64, place: u32, step: Step) -> Option<Crossing> {
        match step {
            Step::Put { mut held, new, visible } => {
                let key = key_of(&held.instance);
                if new {
                    (held.instance.incarnation, held.ordinal) = (revision, place);
                }
                if visible {
                    held.instance.revision = revision;
                }
                self.known.insert((key.namespace.to_string(), key.service.to_string()), None);
                let before = self.live.insert(key, (*held).clone());
                visible.then_some(Crossing { before, after: Some(*held), cause: Cause::Unspecified })
            }
            Step::Delete { key, cause, at } => {
                let before = self.live.remove(&key);
                let same = |other: &Key| other.namespace == key.namespace && other.service == key.service;
                if !self.live.keys().any(same) {
                    self.known.insert((key.namespace.to_string(), key.service.to_string()), Some(at));
                }
                Some(Crossing { before, after: None, cause })
            }
            Step::Forget(namespace, service) => {
                let name = (namespace, service);
                if self.known.get(&name).is_some_and(Option::is_some) {
                    self.known.remove(&name);
                }
                None
            }
        }
    }
}
