//! Registrations that need others, or a url for themselves: what they need is looked for, and they are registered, in
//! one decision. Either all of it becomes true at one revision, or nothing does. Who waits for what is another's concern.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Cause, Registry,
    change::{Change, Delete, Guarded},
    command::{Decision, Outcome, Register, Verdict},
    decide::superseded,
    error::Error,
    key::{Fingerprint, Key},
    needs::{IfMissing, Need, Resolved},
    own::may_take_from,
    quota::Uses,
    record::Record,
};

/// Who of several offers a service: places in the command, by namespace and name.
type Offers<'a> = HashMap<(&'a str, &'a str), Vec<usize>>;

impl Registry {
    /// A registration by itself.
    pub(super) fn register_with_needs(&self, register: &Register, in_flight: u64) -> Decision {
        let registration = &register.registration;
        if registration.needs.is_empty() && !registration.exclusive_url {
            return self.register(register, in_flight);
        }
        let at = u64::try_from(register.at.seconds).unwrap_or_default();
        match self.admit_all(&[register], in_flight, at) {
            Decision::Propose(changes, outcome) => Decision::Propose(changes, only(outcome)),
            Decision::Reply(outcome) => Decision::Reply(outcome.map(only)),
            Decision::Unfit { error, .. } => Decision::Reply(Err(error)),
        }
    }

    /// Registrations that are good together or not at all: what one needs, another of them may be.
    pub(super) fn admit(&self, members: &[Arc<Register>], in_flight: u64, at: u64) -> Decision {
        let members: Vec<&Register> = members.iter().map(Arc::as_ref).collect();
        self.admit_all(&members, in_flight, at)
    }

    fn admit_all(&self, members: &[&Register], in_flight: u64, at: u64) -> Decision {
        let (mut changes, mut outcomes) = (Vec::new(), Vec::with_capacity(members.len()));
        let mut new = in_flight;
        for (member, register) in members.iter().enumerate() {
            match self.register(register, new) {
                Decision::Reply(Ok(outcome)) => outcomes.push(outcome),
                Decision::Propose(own, outcome) => {
                    new += own.iter().filter(|guarded| guarded.before.is_none()).count() as u64;
                    changes.extend(own);
                    outcomes.push(outcome);
                }
                Decision::Reply(Err(error)) | Decision::Unfit { error, .. } => {
                    return Decision::Unfit { member, error };
                }
            }
        }
        let displaced = match self.displaced_by_all(members) {
            Ok(displaced) => displaced,
            Err((member, error)) => return Decision::Unfit { member, error },
        };
        let offers = offers(members);
        // What stands there now is not there in the revision that takes these in.
        let own = members.iter().map(|register| register.registration.key().fingerprint());
        let replaced: HashSet<Fingerprint> = own.chain(displaced.keys().copied()).collect();
        for (member, outcome) in outcomes.iter_mut().enumerate() {
            match self.resolve_for(members, member, &offers, &replaced) {
                Ok(found) => {
                    if let Outcome::Registered { resolved, .. } = outcome {
                        *resolved = found;
                    }
                }
                Err(error) => return Decision::Unfit { member, error },
            }
        }
        // Who has to go goes first: within a revision its OFFLINE comes before the ONLINE.
        let removal = |record: &Record| {
            let delete = Delete { key: record.key(), cause: Cause::Moved, at };
            Guarded::of_instance(Change::Delete(delete), Some(record))
        };
        let mut all: Vec<Guarded> = displaced.values().map(|record| removal(record)).collect();
        all.sort_by_key(|guarded| guarded.change.key());
        all.extend(changes);
        let outcome = Outcome::Admitted(outcomes);
        if all.is_empty() { Decision::Reply(Ok(outcome)) } else { Decision::Propose(all, outcome) }
    }

    /// Why this registration is refused whatever it needs, if it is.
    #[must_use]
    pub fn refuses(&self, register: &Register, in_flight: u64, pledged: &Uses) -> Option<Error> {
        let exceeds = match self.register(register, in_flight) {
            Decision::Reply(Err(error)) => return Some(error),
            // Who takes a url away makes room.
            Decision::Propose(changes, _) if !register.registration.exclusive_url => {
                self.exceeds(&[register], &changes, pledged)
            }
            _ => None,
        };
        exceeds.or_else(|| self.displaced_by_all(&[register]).err()).map(|(_, error)| error)
    }

    /// Whether something online meets `need` for this registration: it itself and what it displaces do not count.
    pub(super) fn is_met(&self, register: &Register, need: &Need) -> bool {
        let needs = &register.registration.needs;
        let Some(set) = self.service(&needs.namespace, &need.service) else { return false };
        let own = register.registration.key().fingerprint();
        set.iter().any(|record| record.fingerprint != own && need.accepts(record) && !takes_url_of(register, record))
    }

    /// The instances whose urls these take. One that is registered anew by the same command gives its place up by that.
    fn displaced_by_all(&self, members: &[&Register]) -> Result<HashMap<Fingerprint, &Record>, (usize, Error)> {
        let mut displaced = HashMap::new();
        let exclusive = |(_, register): &(usize, &&Register)| register.registration.exclusive_url;
        if !members.iter().enumerate().any(|entry| exclusive(&entry)) {
            return Ok(displaced);
        }
        let own: HashSet<Fingerprint> =
            members.iter().map(|register| register.registration.key().fingerprint()).collect();
        for (member, register) in members.iter().enumerate().filter(exclusive) {
            let instance = &register.registration.instance;
            let held = self.at_url(&instance.namespace, &instance.url);
            for record in held.filter(|record| !own.contains(&record.fingerprint)) {
                may_displace(register, record, self).map_err(|error| (member, error))?;
                displaced.insert(record.fingerprint, record);
            }
        }
        Ok(displaced)
    }

    /// Where everything is that `members[member]` needs.
    fn resolve_for(
        &self,
        members: &[&Register],
        member: usize,
        offers: &Offers<'_>,
        replaced: &HashSet<Fingerprint>,
    ) -> Result<Vec<Resolved>, Error> {
        let registration = &members[member].registration;
        let needs = &registration.needs;
        let service = |place: usize| self.service(&needs.namespace, &needs.wanted.get(place)?.service);
        let except = |record: &Record| replaced.contains(&record.fingerprint);
        let (mut resolved, mut missing) = needs.resolve(&registration.instance.zone, service, except);
        missing.retain(|place| {
            let need = &needs.wanted[*place];
            let Some(offering) = offers.get(&(&*needs.namespace, &*need.service)) else { return true };
            // Any of them, from a random one on.
            let start = (needs.draw(*place).next() % offering.len() as u64) as usize;
            let (before, from) = offering.split_at(start);
            let fits = |other: &&usize| {
                **other != member && super::waiting::offers_to(&members[**other].registration.instance, need)
            };
            let Some(other) = from.iter().chain(before).find(fits) else { return true };
            let url = members[*other].registration.instance.url.as_str().into();
            resolved.push(Resolved { service: need.service.clone(), url, record: None });
            false
        });
        if missing.is_empty() || needs.if_missing == IfMissing::Ignore {
            return Ok(resolved);
        }
        Err(Error::MissingDependency(needs.names(&missing)))
    }
}

/// Whether `register` takes the url of this record away.
fn takes_url_of(register: &Register, record: &Record) -> bool {
    let registration = &register.registration;
    registration.exclusive_url
        && record.names().0 == registration.instance.namespace
        && super::Outline::of(record.bytes()).url == registration.instance.url
}

/// Only what could be taken over is displaced. And whoever comes back with the token of a lease that is over finds that
/// a newer registration has its url: were it to take it back, the two would go on so for ever.
fn may_displace(register: &Register, record: &Record, registry: &Registry) -> Result<(), Error> {
    if !may_take_from(register, record) {
        return Err(Error::KeyHeld { key: shown_to(register, &record.key()) });
    }
    let key = register.registration.key().fingerprint();
    let token = register.token.as_ref().filter(|token| token.key == key);
    match registry.judge(token) {
        Verdict::Expired if token.is_some_and(|token| token.lease.revision < record.incarnation) => {
            Err(superseded(record))
        }
        _ => Ok(()),
    }
}

/// What stands in the way of a registration, by a name that its caller knows: of another service's instance that is the
/// url that they want.
pub fn shown_to(register: &Register, rival: &Key) -> String {
    let own = register.registration.key();
    let is_known = register.principal.operator || (&own.namespace, &own.service) == (&rival.namespace, &rival.service);
    if is_known { rival.to_string() } else { register.registration.instance.url.clone() }
}

fn offers<'a>(members: &[&'a Register]) -> Offers<'a> {
    let mut offers = Offers::new();
    if members.len() > 1 {
        for (member, register) in members.iter().enumerate() {
            let instance = &register.registration.instance;
            offers.entry((instance.namespace.as_str(), instance.service.as_str())).or_default().push(member);
        }
    }
    offers
}

/// The outcome of the only one.
fn only(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Admitted(mut outcomes) if outcomes.len() == 1 => outcomes.remove(0),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use super::*;
    use crate::registry::{
        Command, Context, Instance, Needs, Principal, Registration, Secret, StateLimits, change::Change,
    };

    /// The only instance of a service, which needs others or does not.
    fn register(service: &str, version: &str, url: &str, needs: &[(&str, &str)]) -> Register {
        let instance = Instance {
            service: service.into(),
            id: "1".into(),
            version: version.into(),
            url: url.into(),
            ..Instance::default()
        };
        let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
        let mut registration = Registration::parse(instance, None, context).expect("a registration");
        let needs = needs.iter().map(|(service, range)| ((*service).to_owned(), (*range).to_owned())).collect();
        registration.needs = Needs::parse("", &needs, &BTreeMap::new(), IfMissing::Fail).expect("needs");
        let at = prost_types::Timestamp::default();
        Register { registration, token: None, principal: Principal::anyone(), secret: Secret([1; 16]), at }
    }

    /// Promise 20: what a service is told of is there in the revision that it comes online in.
    #[test]
    fn what_one_replaces_the_others_are_not_told_of() {
        let mut registry = Registry::new(1, StateLimits::default());
        let online = Command::Register(Box::new(register("api", "1.0.0", "http://old.test", &[])));
        let Decision::Propose(changes, _) = registry.decide(&online, 0) else { panic!("it is refused") };
        let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
        registry.fold(1, &changes);
        for (version, found) in [("1.2.0", Some("http://new.test")), ("2.0.0", None)] {
            for swapped in [false, true] {
                let web = Arc::new(register("web", "", "http://web.test", &[("api", "^1")]));
                let api = Arc::new(register("api", version, "http://new.test", &[]));
                let (members, place) = if swapped { (vec![api, web], 1) } else { (vec![web, api], 0) };
                match (registry.decide(&Command::Admit { members, at: 0 }, 0), found) {
                    (Decision::Propose(_, Outcome::Admitted(outcomes)), Some(url)) => {
                        let Outcome::Registered { resolved, .. } = &outcomes[place] else { panic!("{outcomes:?}") };
                        assert_eq!(resolved.iter().map(|one| one.url.as_str()).collect::<Vec<_>>(), [url]);
                    }
                    (Decision::Unfit { member, error: Error::MissingDependency(_) }, None) => assert_eq!(member, place),
                    (other, _) => panic!("{version}: {other:?}"),
                }
            }
        }
    }
}
