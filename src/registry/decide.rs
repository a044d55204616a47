//! What should become of a command, judged on committed state alone. Changes nothing.

use bytes::Bytes;
use prost::Message;

use super::{
    Cause, Instance, Registry, Status,
    change::{Change, Delete, Guarded, Put, Stamp},
    command::{Command, Decision, Lapse, Outcome, Principal, Register, Target, Verdict, cause_of},
    error::Error,
    key::Key,
    own::may_take_from,
    record::{Lease, Record},
    service::ServiceSet,
    token::{LeaseToken, Secret},
};

impl Registry {
    /// What `command` leads to. `in_flight` new instances, or for a catalog new applications, are proposed already and
    /// count against the limits.
    #[must_use]
    pub fn decide(&self, command: &Command, in_flight: u64) -> Decision {
        match command {
            Command::Register(register) => self.register_with_needs(register, in_flight),
            Command::Keep(keep) => self.keep(keep, in_flight),
            Command::Admit { members, at } => self.admit(members, in_flight, *at),
            Command::SetStatus { token, status } => self.set_status(token, *status),
            Command::Drain { claim, principal } => self.drain(claim, principal),
            Command::Deregister { target, principal, at } => self.deregister(target, principal, *at),
            Command::Expire { lapses, at } => self.expire(lapses, *at),
            Command::Forget { namespace, service } => {
                let change = Change::Forget { namespace: namespace.clone(), service: service.clone() };
                Decision::Propose(vec![Guarded::of_instance(change, None)], Outcome::Done)
            }
            Command::Deploy(deploy) => self.deploy(deploy),
            Command::Catalog(command) => self.change_catalog(command, in_flight),
            Command::Write(write) => self.write(write),
        }
    }

    /// What a lease token is worth now.
    #[must_use]
    pub fn judge(&self, token: Option<&LeaseToken>) -> Verdict {
        let Some(token) = token.filter(|token| token.registry == self.tag && token.lease.revision <= self.revision)
        else {
            return Verdict::Unknown;
        };
        let Some(slot) = self.slot_for(token) else { return Verdict::Expired };
        let Some(record) = self.record(slot) else { return Verdict::Expired };
        match record.lease_id().cmp(&token.lease) {
            std::cmp::Ordering::Equal if !record.lease.unfenced && record.lease.secret.accepts(&token.secret) => {
                Verdict::Live(slot)
            }
            std::cmp::Ordering::Equal => Verdict::Denied,
            std::cmp::Ordering::Greater => Verdict::Superseded(slot),
            // Made by nobody: the key has an older lease than the token claims.
            std::cmp::Ordering::Less => Verdict::Unknown,
        }
    }

    /// The token of the record in `slot`.
    #[must_use]
    pub fn token_of(&self, slot: u32, record: &Record, secret: Secret) -> LeaseToken {
        LeaseToken { registry: self.tag, key: record.fingerprint, lease: record.lease_id(), secret, hint: slot }
    }

    /// The slot of the token's key: by its hint, else by its fingerprint, of colliding keys the one of its lease.
    fn slot_for(&self, token: &LeaseToken) -> Option<u32> {
        let hinted = self.record(token.hint).filter(|record| record.fingerprint == token.key);
        if hinted.is_some_and(|record| record.lease_id() == token.lease) {
            return Some(token.hint);
        }
        self.find(token.key, |record| record.lease_id() == token.lease).or_else(|| self.find(token.key, |_| true))
    }

    fn at(&self, key: &Key) -> Option<&Record> {
        self.slot_of(key).and_then(|slot| self.record(slot))
    }

    fn holds(&self, slot: u32, record: &Record) -> bool {
        self.record(slot).is_some_and(|held| held.is(record))
    }

    /// The registration itself, whatever it needs.
    pub(super) fn register(&self, register: &Register, in_flight: u64) -> Decision {
        let key = register.registration.key();
        let current = self.at(&key);
        // A token of another key is left to its lease and counts as none here.
        let token = register.token.as_ref().filter(|token| token.key == key.fingerprint());
        match (self.judge(token), current) {
            // Whoever lost the answer to its registration repeats it with the token from before: that is no newcomer's.
            (Verdict::Superseded(_), Some(current)) if !repeats(register, current) => {
                Decision::Reply(Err(superseded(current)))
            }
            (Verdict::Live(_), Some(current)) => match token {
                Some(token) => update(register, key, token.secret, current),
                None => Decision::Reply(Err(Error::LeaseDenied)),
            },
            (_, Some(current)) => take_over(register, key, current),
            // A registry that is full serves nevertheless, and says so.
            (_, None) if register.is_own() => insert(register, key, None),
            (_, None) => match self.check_room(&key, in_flight) {
                Ok(()) => insert(register, key, None),
                Err(error) => Decision::Reply(Err(error)),
            },
        }
    }

    pub(super) fn check_room(&self, key: &Key, in_flight: u64) -> Result<(), Error> {
        let limits = &self.limits;
        let check =
            |limit, maximum, usage| if usage < maximum { Ok(()) } else { Err(Error::Limit { limit, maximum, usage }) };
        check("max_instances", limits.instances, self.instances() + in_flight)?;
        self.check_service_room(&key.namespace, &key.service, 0)
    }

    /// Whether the service is known already, or may become so beside others that are about to.
    pub(super) fn check_service_room(&self, namespace: &str, service: &str, others: u64) -> Result<(), Error> {
        let limits = &self.limits;
        let check =
            |limit, maximum, usage| if usage < maximum { Ok(()) } else { Err(Error::Limit { limit, maximum, usage }) };
        match self.namespaces.get(namespace) {
            None => check("max_namespaces", limits.namespaces, self.namespaces.len() as u64)
                .and_then(|()| check("max_services", limits.services, self.services + others)),
            Some(namespace) if !namespace.services.contains_key(service) => {
                check("max_services", limits.services, self.services + others)
            }
            Some(_) => Ok(()),
        }
    }

    /// How many more services may become known, of how many in all.
    #[must_use]
    pub fn service_room(&self) -> (u64, u64) {
        (self.limits.services.saturating_sub(self.services), self.limits.services)
    }

    fn set_status(&self, token: &LeaseToken, status: Status) -> Decision {
        let Verdict::Live(slot) = self.judge(Some(token)) else {
            return Decision::Reply(Ok(Outcome::NotRenewed(self.judge(Some(token)))));
        };
        let Some(current) = self.record(slot) else {
            return Decision::Reply(Ok(Outcome::NotRenewed(Verdict::Expired)));
        };
        let outcome = Outcome::Renewed { ttl: current.lease.ttl };
        let status = if status == Status::Unspecified { heard_of(current.status) } else { status };
        if current.status == status {
            return Decision::Reply(Ok(outcome));
        }
        Decision::Propose(vec![with_status(current, status)], outcome)
    }

    /// What lapsed goes, or is held back for another TTL: then the record says so, and a beat ends it. Nobody sends
    /// traffic to what is not SERVING, so nobody is helped by holding that; and whoever is SUSPECT was SERVING before.
    fn expire(&self, lapses: &[Lapse], at: u64) -> Decision {
        let mut gone = 0;
        let change = |lapse: &Lapse| {
            let Lapse { record, hold, .. } = lapse;
            if *hold && record.status == Status::Serving {
                return with_status(record, Status::Suspect);
            }
            gone += 1;
            removal(record, Cause::Expired, at)
        };
        let standing = lapses.iter().filter(|lapse| self.holds(lapse.slot, &lapse.record));
        let changes: Vec<Guarded> = standing.map(change).collect();
        let outcome = Outcome::Removed(gone);
        if changes.is_empty() { Decision::Reply(Ok(outcome)) } else { Decision::Propose(changes, outcome) }
    }

    fn deregister(&self, target: &Target, principal: &Principal, at: u64) -> Decision {
        let cause = cause_of(target);
        match target {
            Target::Lease(token) => match self.judge(token.as_ref()) {
                Verdict::Live(slot) => propose_removal(self.record(slot), cause, at),
                Verdict::Unknown | Verdict::Expired => Decision::Reply(Ok(Outcome::Removed(0))),
                Verdict::Denied => Decision::Reply(Err(Error::LeaseDenied)),
                Verdict::Superseded(slot) => match self.record(slot) {
                    Some(current) => Decision::Reply(Err(superseded(current))),
                    None => Decision::Reply(Ok(Outcome::Removed(0))),
                },
            },
            Target::Leases(tokens) => {
                let mut slots: Vec<u32> = tokens
                    .iter()
                    .filter_map(|token| match self.judge(Some(token)) {
                        Verdict::Live(slot) => Some(slot),
                        _ => None,
                    })
                    .collect();
                slots.sort_unstable();
                slots.dedup();
                propose_removal(slots.into_iter().filter_map(|slot| self.record(slot)), cause, at)
            }
            Target::Place(place) => self.let_go(place, principal, at),
            Target::Key(_) | Target::Service { .. } if !principal.operator => {
                Decision::Reply(Err(Error::Permission { permission: "operate" }))
            }
            Target::Key(key) => match self.at(key) {
                Some(current) if current.lease.is_own() => {
                    Decision::Reply(Err(Error::Permission { permission: "registry" }))
                }
                current => propose_removal(current, cause, at),
            },
            Target::Own(key) => propose_removal(self.at(key).filter(|current| current.lease.is_own()), cause, at),
            Target::Service { namespace, service } => {
                let all = self.service(namespace, service).into_iter().flat_map(ServiceSet::iter);
                propose_removal(all.filter(|record| !record.lease.is_own()), cause, at)
            }
        }
    }
}

fn update(register: &Register, key: Key, secret: Secret, current: &Record) -> Decision {
    let outcome = Outcome::Registered { key, secret, resolved: Vec::new() };
    match renewed(register, current) {
        None => Decision::Reply(Ok(outcome)),
        Some(changed) => Decision::Propose(vec![changed], outcome),
    }
}

/// The whole description is replaced; what the server set, and an omitted status, stay. None: nothing is other.
pub(super) fn renewed(register: &Register, current: &Record) -> Option<Guarded> {
    let was = current.instance();
    let mut instance = register.registration.instance.clone();
    instance.online_since = was.online_since;
    if instance.status() == Status::Unspecified {
        instance.set_status(heard_of(was.status()));
    }
    let description = describe(instance);
    let same = description == current.description();
    let principal = current.lease.bound_to(register.principal.name.as_ref());
    let lease = Lease { ttl: register.registration.ttl.millis(), principal, ..current.lease.clone() };
    if same && lease == current.lease {
        return None;
    }
    let revision = if same { Stamp::At(current.revision) } else { Stamp::Commit };
    let (incarnation, ordinal) = (Stamp::At(current.incarnation), current.ordinal);
    Some(guarded(Put { description, lease, incarnation, ordinal, revision }, Some(current)))
}

/// Whether it is the same call again that made the current registration.
fn repeats(register: &Register, current: &Record) -> bool {
    let name = register.principal.name.as_ref();
    name == current.lease.bound_to(name).as_ref()
        && register.registration.request_id.is_some_and(|request| request == current.lease.request)
}

/// A live key, and no current token.
fn take_over(register: &Register, key: Key, current: &Record) -> Decision {
    if !may_take_from(register, current) {
        return Decision::Reply(Err(Error::KeyHeld { key: key.to_string() }));
    }
    if repeats(register, current) {
        // The same incarnation, a new token; nothing to tell, unless it was given up for lost.
        let status = heard_of(current.status);
        let revision = if status == current.status { Stamp::At(current.revision) } else { Stamp::Commit };
        let put = Put {
            description: described_with(current, status),
            lease: Lease {
                secret: register.secret.hash(),
                principal: current.lease.bound_to(register.principal.name.as_ref()),
                ..current.lease.clone()
            },
            incarnation: Stamp::At(current.incarnation),
            ordinal: current.ordinal,
            revision,
        };
        let outcome = Outcome::Registered { key, secret: register.secret, resolved: Vec::new() };
        return Decision::Propose(vec![guarded(put, Some(current))], outcome);
    }
    insert(register, key, Some(current))
}

fn insert(register: &Register, key: Key, current: Option<&Record>) -> Decision {
    let outcome = Outcome::Registered { key, secret: register.secret, resolved: Vec::new() };
    Decision::Propose(vec![fresh(register, current, false)], outcome)
}

/// A new incarnation.
pub(super) fn fresh(register: &Register, current: Option<&Record>, unfenced: bool) -> Guarded {
    let mut instance = register.registration.instance.clone();
    instance.online_since = Some(register.at);
    if instance.status() == Status::Unspecified {
        instance.set_status(Status::Serving);
    }
    let put = Put {
        description: describe(instance),
        lease: Lease {
            ttl: register.registration.ttl.millis(),
            secret: register.secret.hash(),
            request: register.registration.request_id.unwrap_or(0),
            principal: register.principal.name.clone(),
            unfenced,
        },
        incarnation: Stamp::Commit,
        ordinal: 0,
        revision: Stamp::Commit,
    };
    guarded(put, current)
}

fn describe(mut instance: Instance) -> Bytes {
    (instance.incarnation, instance.revision) = (0, 0);
    instance.encode_to_vec().into()
}

fn guarded(put: Put, before: Option<&Record>) -> Guarded {
    Guarded::of_instance(Change::Put(put), before)
}

/// The status of an instance of which something was heard: it was SERVING before it was SUSPECT.
pub(super) fn heard_of(status: Status) -> Status {
    if status == Status::Suspect { Status::Serving } else { status }
}

/// What `record` describes, with another status.
pub(super) fn described_with(record: &Record, status: Status) -> Bytes {
    if status == record.status {
        return Bytes::copy_from_slice(record.description());
    }
    let mut instance = record.instance();
    instance.set_status(status);
    describe(instance)
}

/// The same registration with another status, which watchers see.
pub(super) fn with_status(current: &Record, status: Status) -> Guarded {
    let put = Put {
        description: described_with(current, status),
        lease: current.lease.clone(),
        incarnation: Stamp::At(current.incarnation),
        ordinal: current.ordinal,
        revision: Stamp::Commit,
    };
    guarded(put, Some(current))
}

fn removal(record: &Record, cause: Cause, at: u64) -> Guarded {
    Guarded::of_instance(Change::Delete(Delete { key: record.key(), cause, at }), Some(record))
}

pub(super) fn propose_removal<'a>(records: impl IntoIterator<Item = &'a Record>, cause: Cause, at: u64) -> Decision {
    let changes: Vec<Guarded> = records.into_iter().map(|record| removal(record, cause, at)).collect();
    let outcome = Outcome::Removed(changes.len() as u64);
    if changes.is_empty() { Decision::Reply(Ok(outcome)) } else { Decision::Propose(changes, outcome) }
}

/// A newer incarnation has the key, or the url, of whoever is told this.
#[must_use]
pub fn superseded(current: &Record) -> Error {
    Error::Superseded { key: current.key().to_string(), holder: current.instance().address() }
}
