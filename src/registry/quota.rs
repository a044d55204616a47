//! Quotas: how much a namespace may have, and how much a principal. What they have is counted when a record is folded, so
//! that a check looks at no instance. Knows no clock: how fast somebody writes is counted by who has one.

use std::{borrow::Borrow, collections::HashMap, fmt, hash::Hash, sync::Arc};

use prost::Message;
use smol_str::SmolStr;

use super::{
    Registry,
    change::{Change, Guarded},
    command::{Command, Decision, Outcome, Principal, Register},
    error::Error,
    key::Fingerprint,
    record::Record,
};

/// How much somebody may have; what is not said is bounded by the limits of the registry alone. It is stored as it is
/// encoded here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Quota {
    /// Instances.
    #[prost(uint64, optional, tag = "1")]
    pub instances: Option<u64>,
    /// Watches and subscriptions at once.
    #[prost(uint64, optional, tag = "2")]
    pub watches: Option<u64>,
    /// Bytes of what the instances say of themselves.
    #[prost(uint64, optional, tag = "3")]
    pub bytes: Option<u64>,
    /// Changes a second.
    #[prost(uint64, optional, tag = "4")]
    pub writes: Option<u64>,
}

impl Quota {
    /// As much as either of two allows.
    #[must_use]
    pub fn wider(self, other: Self) -> Self {
        let wider = |one: Option<u64>, other: Option<u64>| one.zip(other).map(|(one, other)| one.max(other));
        Self {
            instances: wider(self.instances, other.instances),
            watches: wider(self.watches, other.watches),
            bytes: wider(self.bytes, other.bytes),
            writes: wider(self.writes, other.writes),
        }
    }

    /// For somebody who has it; none: nothing is bounded.
    #[must_use]
    pub fn shared(self) -> Option<Arc<Self>> {
        (!self.is_empty()).then(|| Arc::new(self))
    }

    /// Whether nothing is bounded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a quota bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Instances.
    Instances,
    /// Watches and subscriptions at once.
    Watches,
    /// Bytes of what the instances say of themselves.
    Bytes,
    /// Changes a second.
    Writes,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Instances, Self::Watches, Self::Bytes, Self::Writes];

    /// Its name, as in the protos.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Watches => "watches",
            Self::Bytes => "bytes",
            Self::Writes => "writes_per_second",
        }
    }
}

/// Whose a quota is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// Of a namespace.
    Namespace(SmolStr),
    /// Of a principal.
    Principal(Arc<str>),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "the namespace {name}"),
            Self::Principal(name) => write!(f, "the principal {name}"),
        }
    }
}

/// A quota that what was asked for would exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Whose.
    pub whose: Whose,
    /// Of what.
    pub resource: Resource,
    /// Its value.
    pub maximum: u64,
    /// How much of it is used, what is about to be committed included.
    pub usage: u64,
    /// How much more was asked for.
    pub wanted: u64,
    /// In how many milliseconds there is room by itself, if that is known.
    pub room_in: Option<u64>,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whose, resource, maximum, usage, wanted, .. } = self;
        write!(f, "{whose} may have {maximum} {}, has {usage}, and would need {wanted} more", resource.name())
    }
}

/// What somebody has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Instances.
    pub instances: u64,
    /// Bytes of what they say of themselves: of the encoded `Instance` without what the commit adds.
    pub bytes: u64,
}

impl Use {
    fn of(record: Option<&Record>) -> Self {
        record.map_or_else(Self::default, |record| Self { instances: 1, bytes: record.description().len() as u64 })
    }

    fn add(&mut self, other: Self) {
        self.instances += other.instances;
        self.bytes += other.bytes;
    }

    fn take(&mut self, other: Self) {
        self.instances = self.instances.saturating_sub(other.instances);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What everybody has who has anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    namespaces: HashMap<SmolStr, Use>,
    principals: HashMap<Arc<str>, Use>,
}

/// Changes what is held under a name; nothing is held under that of somebody who has nothing.
fn shift<K: Borrow<str> + Eq + Hash>(
    held: &mut HashMap<K, Use>,
    name: &str,
    key: impl FnOnce() -> K,
    by: impl FnOnce(&mut Use),
) {
    if let Some(used) = held.get_mut(name) {
        by(used);
        if *used == Use::default() {
            held.remove(name);
        }
        return;
    }
    let mut used = Use::default();
    by(&mut used);
    if used != Use::default() {
        held.insert(key(), used);
    }
}

impl Uses {
    /// What a namespace has.
    #[must_use]
    pub fn of_namespace(&self, name: &str) -> Use {
        self.namespaces.get(name).copied().unwrap_or_default()
    }

    /// What a principal has.
    #[must_use]
    pub fn of_principal(&self, name: &str) -> Use {
        self.principals.get(name).copied().unwrap_or_default()
    }

    /// What somebody has.
    #[must_use]
    pub fn of(&self, whose: &Whose) -> Use {
        match whose {
            Whose::Namespace(name) => self.of_namespace(name),
            Whose::Principal(name) => self.of_principal(name),
        }
    }

    /// Takes in what became of a key.
    pub(super) fn follow(&mut self, before: Option<&Record>, after: Option<&Record>) {
        let Some(any) = after.or(before) else { return };
        let (was, is) = (Use::of(before), Use::of(after));
        let namespace = any.names().0;
        shift(
            &mut self.namespaces,
            namespace,
            || namespace.into(),
            |used| {
                used.add(is);
                used.take(was);
            },
        );
        // The one who has it first, so that who keeps it is looked for in a map that has them.
        let principal = |record: Option<&Record>| record.and_then(|record| record.lease.principal.clone());
        if let Some(name) = principal(after) {
            shift(&mut self.principals, &name, || Arc::clone(&name), |used| used.add(is));
        }
        if let Some(name) = principal(before) {
            shift(&mut self.principals, &name, || Arc::clone(&name), |used| used.take(was));
        }
    }

    /// Counts what is about to be there.
    pub fn pledge(&mut self, growth: &[(Whose, Use)]) {
        self.shift_all(growth, Use::add);
    }

    /// Counts it no longer: it is there, or came to nothing.
    pub fn redeem(&mut self, growth: &[(Whose, Use)]) {
        self.shift_all(growth, Use::take);
    }

    fn shift_all(&mut self, growth: &[(Whose, Use)], by: impl Fn(&mut Use, Use)) {
        for (whose, more) in growth {
            match whose {
                Whose::Namespace(name) => shift(&mut self.namespaces, name, || name.clone(), |used| by(used, *more)),
                Whose::Principal(name) => shift(&mut self.principals, name, || name.clone(), |used| by(used, *more)),
            }
        }
    }
}

/// What changes come to, for everybody whom they concern: what is added, and what is taken. At most one proposal's.
#[derive(Debug, Default)]
struct Sums(HashMap<Whose, (Use, Use)>);

impl Sums {
    fn note(&mut self, whose: Whose, was: Use, is: Use) {
        let (added, taken) = self.0.entry(whose).or_default();
        added.add(is);
        taken.add(was);
    }

    fn take_in(&mut self, guarded: &Guarded) {
        let before = guarded.record();
        let (was, principal_before) = (Use::of(before), before.and_then(|record| record.lease.principal.clone()));
        let (namespace, is, principal) = match &guarded.change {
            Change::Put(put) => {
                let bytes = put.description.len() as u64;
                (put.key().namespace, Use { instances: 1, bytes }, put.lease.principal.clone())
            }
            Change::Delete(delete) => (delete.key.namespace.clone(), Use::default(), None),
            Change::Forget { .. } | Change::Document(_) => return,
        };
        self.note(Whose::Namespace(namespace), was, is);
        principal.into_iter().for_each(|name| self.note(Whose::Principal(name), Use::default(), is));
        principal_before.into_iter().for_each(|name| self.note(Whose::Principal(name), was, Use::default()));
    }

    /// What somebody has more in the end.
    fn growth(&self, whose: &Whose) -> Use {
        let (mut added, taken) = self.0.get(whose).copied().unwrap_or_default();
        added.take(taken);
        added
    }
}

/// By how much what is used grows when `changes` are committed. What shrinks counts only then.
#[must_use]
pub fn growth(changes: &[Guarded]) -> Vec<(Whose, Use)> {
    let mut sums = Sums::default();
    changes.iter().for_each(|guarded| sums.take_in(guarded));
    let grows = sums.0.keys().map(|whose| (whose.clone(), sums.growth(whose)));
    grows.filter(|(_, more)| *more != Use::default()).collect()
}

impl Command {
    /// Whom it registers something for: nothing else makes what is used grow by itself.
    fn registers(&self) -> Vec<&Register> {
        match self {
            Self::Register(register) => vec![register],
            Self::Keep(keep) => vec![&keep.register],
            Self::Admit { members, .. } => members.iter().map(Arc::as_ref).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it is on behalf of somebody who has a quota.
    #[must_use]
    pub fn has_quota(&self) -> bool {
        let has = |register: &Register| register.principal.quota.is_some();
        match self {
            Self::Register(register) => has(register),
            Self::Keep(keep) => has(&keep.register),
            Self::Admit { members, .. } => members.iter().any(|member| has(member)),
            _ => false,
        }
    }
}

impl Registry {
    /// What everybody has.
    #[must_use]
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// A decision, unless it exceeds a quota; `pledged` is about to be there. Who has none is not looked for.
    #[must_use]
    pub fn within_quotas(&self, command: &Command, decision: Decision, pledged: &Uses) -> Decision {
        let Decision::Propose(changes, _) = &decision else { return decision };
        if !self.has_quotas() && !command.has_quota() {
            return decision;
        }
        match (self.exceeds(&command.registers(), changes, pledged), command) {
            (None, _) => decision,
            (Some((member, error)), Command::Admit { .. }) => Decision::Unfit { member, error },
            // No quota refuses a renewal: it stays nobody's.
            (Some(_), Command::Keep(keep)) if self.is_renewal(keep) => {
                let key = keep.place.key.clone();
                Decision::Reply(Ok(Outcome::Kept { key, says_otherwise: false, is_change: false }))
            }
            (Some((_, error)), _) => Decision::Reply(Err(error)),
        }
    }

    /// What a registration would exceed by itself, as far as a look at its own key tells: what it needs, and whom it
    /// displaces, is not looked for. Of anything else nothing is foreseen.
    #[must_use]
    pub fn foreseen(&self, command: &Command) -> Vec<Exceeded> {
        let decision = match command {
            Command::Register(register) if !register.registration.exclusive_url => self.register(register, 0),
            Command::Keep(keep) => self.keep(keep, 0),
            _ => return Vec::new(),
        };
        match self.within_quotas(command, decision, &Uses::default()) {
            Decision::Reply(Err(Error::Quota(exceeded))) => exceeded,
            _ => Vec::new(),
        }
    }

    /// The first of `members` whose change exceeds a quota, and each that it exceeds.
    pub(super) fn exceeds(&self, members: &[&Register], changes: &[Guarded], pledged: &Uses) -> Option<(usize, Error)> {
        let places: HashMap<Fingerprint, usize> = members
            .iter()
            .enumerate()
            .map(|(place, member)| (member.registration.key().fingerprint(), place))
            .collect();
        let mut sums = Sums::default();
        for guarded in changes {
            sums.take_in(guarded);
            let Some(place) = guarded.fingerprint().and_then(|key| places.get(&key)).copied() else { continue };
            let Change::Put(put) = &guarded.change else { continue };
            let member = members[place];
            // The registry tells of itself, whatever may be told.
            if member.is_own() {
                continue;
            }
            let mut exceeded = Vec::new();
            let namespace = Whose::Namespace(put.key().namespace);
            if let Whose::Namespace(name) = &namespace
                && let Some(quota) = self.quota(name)
            {
                self.judge_growth(namespace, quota, (guarded, &sums), pledged, &mut exceeded);
            }
            if let Some((name, quota)) =
                member.principal.bounded().filter(|_| put.lease.principal == member.principal.name)
            {
                self.judge_growth(Whose::Principal(name.clone()), quota, (guarded, &sums), pledged, &mut exceeded);
            }
            if !exceeded.is_empty() {
                return Some((place, Error::Quota(exceeded)));
            }
        }
        None
    }

    /// Notes what one change exceeds of a quota, with those before it. One that adds nothing is never refused.
    fn judge_growth(
        &self,
        whose: Whose,
        quota: &Quota,
        (guarded, sums): (&Guarded, &Sums),
        pledged: &Uses,
        exceeded: &mut Vec<Exceeded>,
    ) {
        let mut alone = Sums::default();
        alone.take_in(guarded);
        let (own, more) = (alone.growth(&whose), sums.growth(&whose));
        let mut used = self.uses.of(&whose);
        used.add(pledged.of(&whose));
        for (resource, maximum, own, more, usage) in [
            (Resource::Instances, quota.instances, own.instances, more.instances, used.instances),
            (Resource::Bytes, quota.bytes, own.bytes, more.bytes, used.bytes),
        ] {
            let grows = own > 0 && more > 0;
            let Some(maximum) = maximum.filter(|maximum| grows && usage + more > *maximum) else { continue };
            let whose = whose.clone();
            // Of those who come together, the ones before are there already.
            let (usage, wanted) = (usage + more.saturating_sub(own), own.min(more));
            exceeded.push(Exceeded { whose, resource, maximum, usage, wanted, room_in: None });
        }
    }
}

impl Principal {
    /// Its name and its quota, if it has both.
    #[must_use]
    pub fn bounded(&self) -> Option<(&Arc<str>, &Quota)> {
        self.name.as_ref().zip(self.quota.as_deref())
    }
}

#[cfg(test)]
mod tests;
