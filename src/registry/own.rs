//! The registry's own instance: an instance like any other for whoever looks, but it lives as long as the process does.
//! It has no deadline, and its key is the registry's: nobody else takes it over or frees it, not even an operator, for
//! the server would have to enter it again at once.

use super::{
    command::Register,
    record::{Lease, Record},
    registration::LeaseTtl,
};

impl Lease {
    /// Whether it is the registry's of itself.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.ttl == LeaseTtl::OWN.millis()
    }
}

impl Register {
    /// Whether the registry registers itself.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.registration.ttl == LeaseTtl::OWN
    }
}

/// Whether what is registered gives way: to its own principal or to an operator, the registry's own to the registry alone;
/// what was registered when nobody was asked who they are, to whoever may register there.
pub(super) fn may_take_from(register: &Register, current: &Record) -> bool {
    if register.is_own() || current.lease.is_own() {
        return register.is_own();
    }
    let (namespace, service, _) = current.names();
    let instance = &register.registration.instance;
    let is_there = (namespace, service) == (instance.namespace.as_str(), instance.service.as_str());
    register.principal.operator
        || register.principal.name == current.lease.principal
        || is_there && current.lease.principal.is_none()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use prost_types::Timestamp;

    use crate::registry::{
        Cause, Change, Claim, Command, Context, Decision, Error, Event, Instance, Key, LeaseTime, LeaseToken, LeaseTtl,
        Outcome, Principal, Register, Registration, Registry, Secret, StateLimits, Target, Timekeeping, Verdict,
    };

    struct Rig {
        registry: Registry,
        time: Timekeeping,
        revision: u64,
    }

    /// Of a service, with an id, by somebody with every right; the registry's own if there is no TTL.
    fn register(service: &str, id: &str, url: &str, own: bool) -> Register {
        let instance = Instance { service: service.into(), id: id.into(), url: url.into(), ..Instance::default() };
        let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
        let mut registration = Registration::parse(instance, None, context).unwrap();
        if own {
            registration.ttl = LeaseTtl::OWN;
        }
        let principal = Principal::anyone();
        Register { registration, token: None, principal, secret: Secret([7; 16]), at: Timestamp::default() }
    }

    impl Rig {
        fn new() -> Self {
            Self::with_room(100)
        }

        /// The registry's own is in it.
        fn with_room(instances: u64) -> Self {
            let limits = StateLimits { instances, ..StateLimits::default() };
            let mut rig = Self { registry: Registry::new(1, limits), time: Timekeeping::default(), revision: 0 };
            rig.register(register("onair", "id", "http://a:1", true)).unwrap();
            rig
        }

        fn run(&mut self, command: &Command) -> Result<(Outcome, Vec<Event>), Error> {
            match self.registry.decide(command, 0) {
                Decision::Reply(outcome) => outcome.map(|outcome| (outcome, Vec::new())),
                Decision::Unfit { error, .. } => Err(error),
                Decision::Propose(changes, outcome) => {
                    self.revision += 1;
                    let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
                    let events = self.registry.fold(self.revision, &changes).events;
                    events.iter().for_each(|event| self.time.follow(event));
                    Ok((outcome, events))
                }
            }
        }

        fn register(&mut self, register: Register) -> Result<Vec<Event>, Error> {
            self.run(&Command::Register(Box::new(register))).map(|(_, events)| events)
        }

        fn remove(&mut self, target: Target) -> Result<Outcome, Error> {
            let command = Command::Deregister { target, principal: Principal::anyone(), at: 0 };
            self.run(&command).map(|(outcome, _)| outcome)
        }
    }

    fn key() -> Key {
        Key::new("default", "onair", "id")
    }

    #[test]
    fn it_has_no_deadline() {
        let mut rig = Rig::new();
        assert_eq!((rig.registry.instances(), rig.time.len()), (1, 0));
        rig.time.advance(LeaseTime(7_200_000));
        assert!(rig.time.take_due(9).is_empty());
        let mut recovered = Timekeeping::default();
        recovered.recover(rig.registry.records(), LeaseTime(0), 30_000);
        assert!(recovered.is_empty());
        // Somebody else had the key before, with a lease.
        let mut rig = Rig::new();
        rig.remove(Target::Own(key())).unwrap();
        rig.register(register("onair", "id", "http://b:1", false)).unwrap();
        assert_eq!(rig.time.len(), 1);
        rig.register(register("onair", "id", "http://a:1", true)).unwrap();
        assert_eq!((rig.registry.instances(), rig.time.len()), (1, 0));
    }

    #[test]
    fn started_again_it_replaces_itself_wherever_it_is_now_and_however_full_the_registry_is() {
        let mut rig = Rig::with_room(1);
        let events = rig.register(register("onair", "id", "http://a:2", true)).unwrap();
        assert_eq!(rig.registry.instances(), 1);
        let [event] = &events[..] else { panic!("{events:?}") };
        assert_eq!((event.cause, event.after.as_ref().unwrap().instance().port), (Cause::Replaced, 2));
        // Full, and it comes nevertheless.
        assert_eq!(rig.remove(Target::Own(key())), Ok(Outcome::Removed(1)));
        rig.register(register("web", "web-1", "http://b:1", false)).unwrap();
        assert!(rig.register(register("web", "web-2", "http://b:2", false)).is_err());
        rig.register(register("onair", "id", "http://a:2", true)).unwrap();
        assert_eq!(rig.registry.instances(), 2);
    }

    #[test]
    fn nobody_else_takes_it() {
        let mut rig = Rig::new();
        let held = Err(Error::KeyHeld { key: key().to_string() });
        assert_eq!(rig.register(register("onair", "id", "http://b:1", false)).map(|_| ()), held);
        let mut greedy = register("web", "web-1", "http://a:1", false);
        greedy.registration.exclusive_url = true;
        assert_eq!(rig.register(greedy).map(|_| ()), held);
        assert_eq!(rig.remove(Target::Key(key())), Err(Error::Permission { permission: "registry" }));
        let drain = Command::Drain { claim: Claim::Key(key()), principal: Principal::anyone() };
        let refused = rig.registry.decide(&drain, 0);
        assert!(matches!(refused, Decision::Reply(Err(Error::Permission { permission: "registry" }))));
        let all = Target::Service { namespace: "default".into(), service: "onair".into() };
        assert_eq!(rig.remove(all), Ok(Outcome::Removed(0)));
        // No token is good for it.
        let (slot, record) = rig.registry.records().next().unwrap();
        let (key, lease) = (record.fingerprint, record.lease_id());
        let token = LeaseToken { registry: 1, key, lease, secret: Secret([8; 16]), hint: slot };
        assert_eq!(rig.registry.judge(Some(&token)), Verdict::Denied);
        // And the registry takes no more than its own.
        rig.remove(Target::Own(self::key())).unwrap();
        rig.register(register("onair", "id", "http://b:1", false)).unwrap();
        assert_eq!(rig.remove(Target::Own(self::key())), Ok(Outcome::Removed(0)));
    }
}
