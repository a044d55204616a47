//! Registrations without a token: whoever names the place keeps it, renews it and takes it away, if they are the principal
//! that registered it. Such a lease is so from birth: one that somebody holds a token of never becomes one, and nothing
//! here touches it.

use smol_str::SmolStr;
use uuid::Uuid;

use super::{
    Cause, Registry,
    change::{Change, Guarded},
    command::{Decision, Outcome, Principal, Register},
    decide::{described_with, fresh, heard_of, propose_removal, renewed},
    error::Error,
    key::{Fingerprint, Key},
    name::check_name,
    record::Record,
    registration::Registration,
};

/// Where an instance is that nobody holds a token of: a version of a service, on a host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its key. The id has the version in it, so that two versions at one address are two.
    pub key: Key,
    /// The key of who is there with a token, and left its id to the server.
    pub fenced: Key,
    /// The version.
    pub version: SmolStr,
}

/// A registration that nobody gets a token of.
#[derive(Clone, Debug)]
pub struct Keep {
    /// What.
    pub register: Register,
    /// Where.
    pub place: Place,
}

impl Place {
    /// The place of a registration that left its id to the server; from now on it has that of the place.
    #[must_use]
    pub fn of(registration: &mut Registration) -> Self {
        let fenced = registration.key();
        let id = format!("{}@{}", registration.instance.version, fenced.id);
        let mut faults = Vec::new();
        check_name("id", &id, &mut faults);
        // A version may be longer than a name, and have what a name has not.
        let id = if faults.is_empty() { id } else { Uuid::new_v5(&Uuid::NAMESPACE_URL, id.as_bytes()).to_string() };
        registration.instance.id = id;
        Self { key: registration.key(), fenced, version: registration.instance.version.as_str().into() }
    }

    /// The keys that decide whose it is.
    pub(super) fn fingerprints(&self) -> Vec<Fingerprint> {
        vec![self.key.fingerprint(), self.fenced.fingerprint()]
    }
}

impl Registry {
    /// Who is at the place without a token.
    ///
    /// # Errors
    /// `Fenced`: somebody with a token is there. `KeyHeld`: another principal without one.
    pub fn unfenced_at(&self, place: &Place, principal: &Principal) -> Result<Option<&Record>, Error> {
        let held = |key: &Key| self.slot_of(key).and_then(|slot| self.record(slot));
        let is_there = |record: &&Record| !record.lease.unfenced && record.version() == place.version;
        if held(&place.fenced).is_some_and(|record| is_there(&record)) {
            return Err(Error::Fenced { key: place.fenced.to_string() });
        }
        match held(&place.key) {
            Some(record) if !record.lease.unfenced => Err(Error::Fenced { key: place.key.to_string() }),
            // Who was not asked for a name, then or now, is anybody.
            Some(record)
                if principal.name != record.lease.bound_to(principal.name.as_ref()) && principal.name.is_some() =>
            {
                Err(Error::KeyHeld { key: place.key.to_string() })
            }
            found => Ok(found),
        }
    }

    /// The registration, or its renewal: only another description is a change.
    pub(super) fn keep(&self, keep: &Keep, in_flight: u64) -> Decision {
        let Keep { register, place } = keep;
        let (changed, says_otherwise) = match self.unfenced_at(place, &register.principal) {
            Err(error) => return Decision::Reply(Err(error)),
            Ok(Some(current)) => {
                let changed = renewed(register, current);
                let says_otherwise = changed.as_ref().is_some_and(|changed| says_otherwise(changed, current));
                (changed, says_otherwise)
            }
            Ok(None) => match self.check_room(&place.key, in_flight) {
                Err(error) => return Decision::Reply(Err(error)),
                Ok(()) => (Some(fresh(register, None, true)), true),
            },
        };
        let outcome = Outcome::Kept { key: place.key.clone(), says_otherwise, is_change: changed.is_some() };
        match changed {
            None => Decision::Reply(Ok(outcome)),
            Some(changed) => Decision::Propose(vec![changed], outcome),
        }
    }

    /// Whether it says nothing else than what was said before.
    #[must_use]
    pub fn is_renewal(&self, keep: &Keep) -> bool {
        let held = self.unfenced_at(&keep.place, &keep.register.principal).ok().flatten();
        held.is_some_and(|held| renewed(&keep.register, held).is_none_or(|changed| !says_otherwise(&changed, held)))
    }

    /// The removal by whoever names the place.
    pub(super) fn let_go(&self, place: &Place, principal: &Principal, at: u64) -> Decision {
        match self.unfenced_at(place, principal) {
            Err(error) => Decision::Reply(Err(error)),
            Ok(found) => propose_removal(found, Cause::Deregistered, at),
        }
    }
}

/// Whether a renewal says what was not said before. Whose it is from then on is told to nobody, and that it is no more
/// given up for lost is what every renewal says.
fn says_otherwise(changed: &Guarded, current: &Record) -> bool {
    match &changed.change {
        Change::Put(put) => {
            let before = described_with(current, heard_of(current.status));
            put.description != before || put.lease.ttl != current.lease.ttl
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use prost_types::Timestamp;

    use super::*;
    use crate::registry::{
        Command, Context, Instance, LeaseId, LeaseToken, Secret, StateLimits, Status, Target, Verdict,
        decide::with_status,
    };

    struct Rig {
        registry: Registry,
        revision: u64,
    }

    fn registration(version: &str, port: u32) -> Registration {
        let instance = Instance { service: "web".into(), version: version.into(), port, ..Instance::default() };
        let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
        Registration::parse(instance, None, context).unwrap()
    }

    fn place(version: &str) -> Place {
        Place::of(&mut registration(version, 80))
    }

    fn someone(name: &str) -> Principal {
        Principal { name: Some(name.into()), operator: false, quota: None }
    }

    fn register(registration: Registration, principal: Principal) -> Register {
        Register { registration, token: None, principal, secret: Secret([7; 16]), at: Timestamp::default() }
    }

    fn keep(version: &str, zone: &str, principal: Principal) -> Keep {
        let mut registration = registration(version, 80);
        registration.instance.zone = zone.into();
        let place = Place::of(&mut registration);
        Keep { register: register(registration, principal), place }
    }

    impl Rig {
        fn run(&mut self, command: &Command) -> Result<(Outcome, usize), Error> {
            match self.registry.decide(command, 0) {
                Decision::Reply(outcome) => outcome.map(|outcome| (outcome, 0)),
                Decision::Unfit { error, .. } => Err(error),
                Decision::Propose(changes, outcome) => {
                    self.revision += 1;
                    let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
                    Ok((outcome, self.registry.fold(self.revision, &changes).events.len()))
                }
            }
        }

        fn keep(&mut self, version: &str, zone: &str, principal: Principal) -> Result<usize, Error> {
            let keep = keep(version, zone, principal);
            let is_renewal = self.registry.is_renewal(&keep);
            let before = self.revision;
            let (outcome, events) = self.run(&Command::Keep(Box::new(keep)))?;
            let Outcome::Kept { says_otherwise, is_change, .. } = outcome else { panic!("{outcome:?}") };
            assert_ne!(says_otherwise, is_renewal, "it comes to what was foreseen");
            assert_eq!(is_change, self.revision > before, "whatever is stored is a change");
            Ok(events)
        }

        fn let_go(&mut self, version: &str, principal: Principal) -> Result<Outcome, Error> {
            let target = Target::Place(place(version));
            self.run(&Command::Deregister { target, principal, at: 0 }).map(|(outcome, _)| outcome)
        }
    }

    fn rig() -> Rig {
        Rig { registry: Registry::new(1, StateLimits::default()), revision: 0 }
    }

    #[test]
    fn whoever_registered_it_keeps_it_and_takes_it_away() {
        let mut rig = rig();
        assert_eq!(rig.keep("1", "a", someone("me")), Ok(1));
        assert_eq!(rig.keep("1", "a", someone("me")), Ok(0), "a renewal tells nobody");
        assert_eq!(rig.keep("1", "b", someone("me")), Ok(1), "another description does");
        assert_eq!(rig.keep("2", "a", someone("me")), Ok(1), "another version at the same address is another instance");
        let held = Err(Error::KeyHeld { key: "default/web/1@127.0.0.1:80".into() });
        assert_eq!(rig.keep("1", "a", someone("you")), held);
        assert!(rig.let_go("1", someone("you")).is_err());
        assert_eq!(rig.let_go("1", someone("me")), Ok(Outcome::Removed(1)));
        assert_eq!(rig.let_go("1", someone("me")), Ok(Outcome::Removed(0)));
        assert_eq!(rig.registry.instances(), 1);
    }

    /// Who fell silent and says the same again asks for nothing.
    #[test]
    fn what_was_given_up_for_lost_is_renewed_by_the_same() {
        let mut rig = rig();
        assert_eq!(rig.keep("1", "a", someone("me")), Ok(1));
        let held = rig.registry.records().next().map(|(_, record)| record.clone()).unwrap();
        rig.revision += 1;
        let folded = rig.registry.fold(rig.revision, &[with_status(&held, Status::Suspect).change]);
        assert_eq!(folded.events.len(), 1);
        assert!(rig.registry.is_renewal(&keep("1", "a", someone("me"))));
        assert!(!rig.registry.is_renewal(&keep("1", "b", someone("me"))));
        assert_eq!(rig.keep("1", "a", someone("me")), Ok(1), "it is SERVING again, which is told");
        assert_eq!(rig.registry.records().next().map(|(_, record)| record.status), Some(Status::Serving));
    }

    /// Authentication may be turned on, and off again, under whoever is registered.
    #[test]
    fn what_was_registered_when_nobody_was_asked_is_bound_to_who_renews_it() {
        let mut rig = rig();
        let lease =
            |rig: &Rig| rig.registry.records().next().map(|(_, record)| record.lease.principal.clone()).unwrap();
        assert_eq!(rig.keep("1", "a", Principal::anyone()), Ok(1));
        let shown = |rig: &Rig| rig.registry.records().next().map(|(_, record)| record.bytes().to_vec()).unwrap();
        let before = shown(&rig);
        assert!(lease(&rig).is_none() && rig.keep("1", "a", someone("me")).is_ok());
        assert_eq!(shown(&rig), before, "nothing that is shown has changed");
        assert_eq!((lease(&rig).as_deref(), rig.revision), (Some("me"), 2), "and it is kept");
        assert!(rig.keep("1", "a", someone("you")).is_err());
        assert_eq!(rig.keep("1", "a", Principal::anyone()), Ok(0), "nobody is asked any more");
        assert_eq!((lease(&rig).as_deref(), rig.revision), (Some("me"), 2));
        assert_eq!(rig.let_go("1", Principal::anyone()), Ok(Outcome::Removed(1)));
    }

    /// The same of leases with a token, which a restarted program may have lost.
    #[test]
    fn what_was_registered_when_nobody_was_asked_gives_way_at_its_place() {
        let fenced = |port, url: bool, principal| {
            let mut registration = registration("1", port);
            registration.exclusive_url = url;
            let service = if port == 80 { "web" } else { "other" };
            registration.instance.service = service.into();
            registration.instance.url = "http://127.0.0.1:80".into();
            Command::Register(Box::new(register(registration, principal)))
        };
        let mut rig = rig();
        rig.run(&fenced(80, false, Principal::anyone())).unwrap();
        let taken = rig.run(&fenced(81, true, someone("you"))).unwrap_err();
        assert_eq!(taken, Error::KeyHeld { key: "http://127.0.0.1:80".into() }, "of a service that is not named");
        rig.run(&fenced(80, false, someone("me"))).unwrap();
        let (_, record) = rig.registry.records().next().unwrap();
        assert_eq!(record.lease.principal.as_deref(), Some("me"));
        assert!(rig.run(&fenced(80, false, someone("you"))).is_err());
    }

    #[test]
    fn what_somebody_holds_a_token_of_is_left_alone() {
        let mut rig = rig();
        let fenced = register(registration("1", 80), someone("me"));
        rig.run(&Command::Register(Box::new(fenced))).unwrap();
        let refused = Error::Fenced { key: "default/web/127.0.0.1:80".into() };
        assert_eq!(rig.keep("1", "", someone("me")), Err(refused.clone()));
        assert_eq!(rig.let_go("1", someone("me")), Err(refused));
        assert_eq!(rig.keep("2", "", someone("me")), Ok(1), "it is of another version");
        // The key itself, by a token.
        let mut named = registration("3", 80);
        let place = Place::of(&mut named);
        rig.run(&Command::Register(Box::new(register(named, someone("me"))))).unwrap();
        assert_eq!(rig.keep("3", "", someone("me")), Err(Error::Fenced { key: place.key.to_string() }));
    }

    /// Nobody was given its secret, and a token made up for it is worth nothing.
    #[test]
    fn no_token_is_good_for_it() {
        let mut rig = rig();
        rig.keep("1", "", someone("me")).unwrap();
        let (slot, record) = rig.registry.records().next().map(|(slot, record)| (slot, record.clone())).unwrap();
        assert!(record.lease.unfenced);
        let lease = LeaseId { revision: record.incarnation, ordinal: record.ordinal };
        for secret in [Secret([7; 16]), Secret([0; 16])] {
            let token = LeaseToken { registry: 1, key: record.fingerprint, lease, secret, hint: slot };
            assert_eq!(rig.registry.judge(Some(&token)), Verdict::Denied);
        }
    }

    #[test]
    fn ids_are_names_whatever_the_version() {
        assert_eq!(place("1.0").key.id, "1.0@127.0.0.1:80");
        for odd in ["feature/x", " 1", &"v".repeat(128)] {
            let place = place(odd);
            let mut faults = Vec::new();
            check_name("id", &place.key.id, &mut faults);
            assert_eq!((faults, place.fenced.id.as_str()), (vec![], "127.0.0.1:80"));
        }
        assert_ne!(place("a/b").key, place("a/c").key);
    }
}
