//! Quotas against a count by hand, over histories of everything that comes and goes, with commits under way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
};

use proptest::{collection::vec, prelude::*};
use prost_types::{Timestamp, Value, value};

use super::*;
use crate::registry::{
    Context, Instance, Keep, Key, Lapse, Outcome, Place, Registration, Secret, Settings, StateLimits, Target, Write,
};

const NAMESPACES: [&str; 2] = ["a", "b"];
const PRINCIPALS: [&str; 2] = ["token:one", "token:two"];

#[derive(Clone, Debug)]
struct Wanted {
    namespace: usize,
    id: u32,
    who: usize,
    bytes: usize,
    takes_url: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Register(Wanted),
    Keep(Wanted),
    Together(Vec<Wanted>),
    Remove(usize, u32),
    RemoveAll(usize),
    Expire(usize),
    /// Of a namespace; none: of the principal.
    Bound(Option<usize>, usize, Quota),
    Commit,
    Fail,
    Restart,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let fields = (0..2_usize, 0..6_u32, 0..2_usize, 0..40_usize, proptest::bool::weighted(0.2));
    fields.prop_map(|(namespace, id, who, bytes, takes_url)| Wanted { namespace, id, who, bytes, takes_url })
}

fn op() -> impl Strategy<Value = Op> {
    let quota = (proptest::option::of(0..6_u64), proptest::option::of(0..400_u64))
        .prop_map(|(instances, bytes)| Quota { instances, bytes, ..Quota::default() });
    prop_oneof![
        8 => wanted().prop_map(Op::Register),
        2 => wanted().prop_map(Op::Keep),
        2 => vec(wanted(), 2..5).prop_map(Op::Together),
        2 => (0..2_usize, 0..6_u32).prop_map(|(namespace, id)| Op::Remove(namespace, id)),
        1 => (0..2_usize).prop_map(Op::RemoveAll),
        1 => (0..6_usize).prop_map(Op::Expire),
        3 => (proptest::option::of(0..2_usize), 0..2_usize, quota).prop_map(|(of, who, quota)| Op::Bound(of, who, quota)),
        8 => Just(Op::Commit),
        1 => Just(Op::Fail),
        1 => Just(Op::Restart),
    ]
}

fn registration(wanted: &Wanted) -> Registration {
    let instance = Instance {
        namespace: NAMESPACES[wanted.namespace].into(),
        service: "web".into(),
        id: wanted.id.to_string(),
        host: "10.0.0.1".into(),
        // Two of them share a url.
        port: 80 + wanted.id / 2,
        metadata: Some(Value { kind: Some(value::Kind::StringValue("x".repeat(wanted.bytes))) }),
        ..Instance::default()
    };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let mut registration = Registration::parse(instance, None, context).expect("a registration");
    registration.exclusive_url = wanted.takes_url;
    registration
}

/// The state with proposals in flight, as its task has it.
struct Rig {
    registry: Registry,
    in_flight: VecDeque<Vec<Guarded>>,
    pledged: Uses,
    quotas: [Quota; 2],
}

/// What is counted by hand, for namespaces and principals alike.
type Counted = BTreeMap<String, (i64, i64)>;

fn count(into: &mut Counted, record: &Record, sign: i64) {
    let bytes = sign * record.description().len() as i64;
    let names = [Some(record.names().0.to_owned()), record.lease.principal.as_deref().map(str::to_owned)];
    for name in names.into_iter().flatten() {
        let held = into.entry(name).or_default();
        *held = (held.0 + sign, held.1 + bytes);
    }
}

impl Rig {
    fn new() -> Self {
        let registry = Registry::new(1, StateLimits::default());
        Self { registry, in_flight: VecDeque::new(), pledged: Uses::default(), quotas: Default::default() }
    }

    fn register(&self, wanted: &Wanted) -> Register {
        let principal = Principal {
            name: Some(PRINCIPALS[wanted.who].into()),
            operator: true,
            quota: self.quotas[wanted.who].shared(),
        };
        let (secret, at) = (Secret([7; 16]), Timestamp::default());
        Register { registration: registration(wanted), token: None, principal, secret, at }
    }

    /// By a walk over everything.
    fn recount(&self) -> Counted {
        let mut counted = Counted::new();
        self.registry.records().for_each(|(_, record)| count(&mut counted, record, 1));
        counted
    }

    /// How much more everybody has when all that is in flight is committed, and nothing of it makes room.
    fn grown(&self) -> Counted {
        let mut grown = Counted::new();
        for changes in &self.in_flight {
            for (name, (instances, bytes)) in by_hand(changes) {
                let held = grown.entry(name).or_default();
                *held = (held.0 + instances.max(0), held.1 + bytes.max(0));
            }
        }
        grown
    }

    fn is_latched(&self, changes: &[Guarded]) -> bool {
        let held: BTreeSet<_> = self.in_flight.iter().flatten().filter_map(Guarded::fingerprint).collect();
        changes.iter().filter_map(Guarded::fingerprint).any(|key| held.contains(&key))
    }

    fn propose(&mut self, changes: Vec<Guarded>) {
        self.pledged.pledge(&growth(&changes));
        self.in_flight.push_back(changes);
    }

    fn land(&mut self, commits: bool) {
        let Some(changes) = self.in_flight.pop_front() else { return };
        self.pledged.redeem(&growth(&changes));
        if commits {
            let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
            self.registry.fold(self.registry.revision() + 1, &changes);
        }
    }

    /// What a quota says to `changes`, by hand: whether one is exceeded that they would make more of.
    fn is_too_much(&self, changes: &[Guarded]) -> bool {
        let (used, grown, own) = (self.recount(), self.grown(), by_hand(changes));
        own.iter().any(|(name, more)| {
            let quota = match PRINCIPALS.iter().position(|principal| principal == name) {
                Some(who) => self.quotas[who],
                None => self.registry.quota(name).copied().unwrap_or_default(),
            };
            let of = |counted: &Counted| counted.get(name).copied().unwrap_or_default();
            let ((used, bytes), (grown, grown_bytes)) = (of(&used), of(&grown));
            let over =
                |quota: Option<u64>, more: i64, all: i64| more > 0 && quota.is_some_and(|quota| all > quota as i64);
            over(quota.instances, more.0, used + grown + more.0)
                || over(quota.bytes, more.1, bytes + grown_bytes + more.1)
        })
    }

    fn decide(&mut self, command: &Command) -> Result<(), TestCaseError> {
        let plain = self.registry.decide(command, 0);
        let Decision::Propose(changes, _) = &plain else { return Ok(()) };
        if self.is_latched(changes) {
            return Ok(());
        }
        let (changes, registers) = (changes.clone(), !command.registers().is_empty());
        let is_group = matches!(command, Command::Admit { .. });
        let too_much = registers && self.is_too_much(&changes);
        match self.registry.within_quotas(command, plain, &self.pledged) {
            Decision::Propose(now, _) => {
                prop_assert!(!too_much, "more than a quota allows: {:?}", changes);
                prop_assert_eq!(now.len(), changes.len());
                self.propose(now);
            }
            Decision::Reply(Err(Error::Quota(exceeded))) if !is_group => {
                prop_assert!(too_much, "refused for nothing: {:?}", exceeded);
                for one in exceeded {
                    prop_assert!(one.usage + one.wanted > one.maximum && one.wanted > 0, "{:?}", one);
                }
            }
            // Who is in the way goes without the others: it may be that all together come to less than those before it.
            Decision::Unfit { error: Error::Quota(exceeded), .. } if is_group => {
                prop_assert!(exceeded.iter().all(|one| one.usage + one.wanted > one.maximum), "{:?}", exceeded);
            }
            other => prop_assert!(false, "{:?}", other),
        }
        Ok(())
    }

    fn run(&mut self, op: Op) -> Result<(), TestCaseError> {
        let at = 1;
        match op {
            Op::Register(wanted) => self.decide(&Command::Register(Box::new(self.register(&wanted)))),
            Op::Keep(wanted) => {
                let mut register = self.register(&Wanted { takes_url: false, ..wanted });
                let place = Place::of(&mut register.registration);
                self.decide(&Command::Keep(Box::new(Keep { register, place })))
            }
            Op::Together(wanted) => {
                let mut seen = BTreeSet::new();
                let is_first = |wanted: &&Wanted| seen.insert((wanted.namespace, wanted.id));
                let members = wanted.iter().filter(is_first).map(|wanted| Arc::new(self.register(wanted))).collect();
                self.decide(&Command::Admit { members, at })
            }
            Op::Remove(namespace, id) => {
                let target = Target::Key(Key::new(NAMESPACES[namespace], "web", id.to_string()));
                self.decide(&Command::Deregister { target, principal: Principal::anyone(), at: 1 })
            }
            Op::RemoveAll(namespace) => {
                let target = Target::Service { namespace: NAMESPACES[namespace].into(), service: "web".into() };
                self.decide(&Command::Deregister { target, principal: Principal::anyone(), at: 1 })
            }
            Op::Expire(nth) => {
                let lapse = |(slot, record): (u32, &Record)| Lapse { slot, record: record.clone(), hold: false };
                let lapses = self.registry.records().nth(nth).map(lapse).into_iter().collect();
                self.decide(&Command::Expire { lapses, at })
            }
            Op::Bound(None, who, quota) => {
                self.quotas[who] = quota;
                Ok(())
            }
            Op::Bound(Some(namespace), _, quota) => {
                let name = NAMESPACES[namespace];
                let expected = self.registry.settings().get(name).map_or(0, |held| held.document.revision);
                let write = Write { key: Settings::key(name), body: Settings::body(quota), expected };
                self.decide(&Command::Write(Box::new(write)))
            }
            Op::Commit => {
                self.land(true);
                Ok(())
            }
            Op::Fail => {
                self.land(false);
                Ok(())
            }
            Op::Restart => {
                while !self.in_flight.is_empty() {
                    self.land(false);
                }
                let records: Vec<Record> = self.registry.records().map(|(_, record)| record.clone()).collect();
                let documents: Vec<_> =
                    self.registry.settings().values().map(|held| Arc::clone(&held.document)).collect();
                let mut registry = Registry::new(1, StateLimits::default());
                registry.recover(self.registry.revision(), records, [], documents);
                prop_assert_eq!(registry.uses(), self.registry.uses());
                self.registry = registry;
                Ok(())
            }
        }
    }
}

/// What changes add to everybody and take from them, by hand.
fn by_hand(changes: &[Guarded]) -> Counted {
    let mut counted = Counted::new();
    for guarded in changes {
        guarded.record().into_iter().for_each(|record| count(&mut counted, record, -1));
        if let Change::Put(put) = &guarded.change {
            count(&mut counted, &put.record(1, 0), 1);
        }
    }
    counted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever comes, goes, is taken over, moved, under way, refused by the store or recovered: what is counted is what is
    /// there, and nothing is let through that a quota does not allow, or refused that it does.
    #[test]
    fn what_is_counted_is_what_is_there(ops in vec(op(), 0..60)) {
        let mut rig = Rig::new();
        for op in ops {
            rig.run(op)?;
            let used = rig.registry.uses();
            let mut counted = rig.recount();
            counted.retain(|_, held| *held != (0, 0));
            prop_assert_eq!(counted.len(), used.namespaces.len() + used.principals.len(), "nobody is kept who has nothing");
            for (name, (instances, bytes)) in counted {
                let held = if PRINCIPALS.contains(&name.as_str()) { used.of_principal(&name) } else { used.of_namespace(&name) };
                prop_assert_eq!((held.instances as i64, held.bytes as i64), (instances, bytes), "{}", name);
            }
            if rig.in_flight.is_empty() {
                prop_assert_eq!(&rig.pledged, &Uses::default());
            }
        }
    }
}

fn wants(id: u32, who: usize, bytes: usize) -> Wanted {
    Wanted { namespace: 0, id, who, bytes, takes_url: false }
}

impl Rig {
    /// Decides and commits at once.
    fn at_once(&mut self, wanted: &Wanted) -> Result<Outcome, Error> {
        let command = Command::Register(Box::new(self.register(wanted)));
        match self.registry.within_quotas(&command, self.registry.decide(&command, 0), &self.pledged) {
            Decision::Propose(changes, outcome) => {
                self.propose(changes);
                self.land(true);
                Ok(outcome)
            }
            Decision::Reply(outcome) => outcome,
            Decision::Unfit { error, .. } => Err(error),
        }
    }

    fn bound(&mut self, quota: Quota) {
        self.run(Op::Bound(Some(0), 0, quota)).expect("it may be set");
        self.land(true);
    }
}

/// Everything that is in the way is told at once, by its name, its value and what is used of it.
#[test]
fn a_refusal_names_every_quota_that_is_in_the_way() {
    let mut rig = Rig::new();
    rig.at_once(&wants(1, 0, 10)).expect("there is no quota");
    let one = rig.registry.uses().of_namespace("a");
    rig.bound(Quota { instances: Some(1), bytes: Some(one.bytes + 5), ..Quota::default() });
    rig.quotas[0] = Quota { instances: Some(0), ..Quota::default() };
    let Err(Error::Quota(exceeded)) = rig.at_once(&wants(2, 0, 10)) else { panic!("it has room") };
    let told: Vec<String> = exceeded.iter().map(ToString::to_string).collect();
    let bytes = format!(
        "the namespace a may have {} bytes, has {}, and would need {} more",
        one.bytes + 5,
        one.bytes,
        one.bytes
    );
    assert_eq!(
        told,
        [
            "the namespace a may have 1 instances, has 1, and would need 1 more",
            &bytes,
            "the principal token:one may have 0 instances, has 1, and would need 1 more"
        ]
    );
    assert_eq!(rig.registry.instances(), 1);
}

/// A quota that is less than what is there takes nothing away, and lets everybody go on who does not want more.
#[test]
fn who_has_more_than_a_quota_keeps_it() {
    let mut rig = Rig::new();
    (1..=3).for_each(|id| _ = rig.at_once(&wants(id, 0, 20)).expect("there is no quota"));
    rig.bound(Quota { instances: Some(1), bytes: Some(1), ..Quota::default() });
    assert_eq!(rig.registry.instances(), 3);
    assert!(rig.at_once(&wants(2, 0, 20)).is_ok(), "the same again");
    assert!(rig.at_once(&wants(2, 0, 5)).is_ok(), "less than before");
    assert!(matches!(rig.at_once(&wants(2, 0, 6)), Err(Error::Quota(exceeded)) if exceeded.len() == 1));
    assert!(matches!(rig.at_once(&wants(4, 0, 0)), Err(Error::Quota(exceeded)) if exceeded.len() == 2));
    let elsewhere = Wanted { namespace: 1, ..wants(4, 0, 0) };
    assert!(rig.at_once(&elsewhere).is_ok(), "another namespace is not concerned");
    rig.bound(Quota::default());
    assert!(rig.at_once(&wants(4, 0, 0)).is_ok(), "there is none any more");
    assert!(!rig.registry.has_quotas());
}

/// An instance that changes hands counts for who has it now.
#[test]
fn who_takes_over_has_it() {
    let mut rig = Rig::new();
    rig.at_once(&wants(1, 0, 0)).expect("there is no quota");
    rig.quotas[1] = Quota { instances: Some(0), ..Quota::default() };
    assert!(matches!(rig.at_once(&wants(1, 1, 0)), Err(Error::Quota(_))));
    rig.quotas[1] = Quota { instances: Some(1), ..Quota::default() };
    rig.at_once(&wants(1, 1, 0)).expect("it may have one");
    let uses = rig.registry.uses();
    assert_eq!((uses.of_principal(PRINCIPALS[0]).instances, uses.of_principal(PRINCIPALS[1]).instances), (0, 1));
}

/// Who moves to a url makes room there first.
#[test]
fn what_is_displaced_makes_room() {
    let mut rig = Rig::new();
    rig.bound(Quota { instances: Some(1), ..Quota::default() });
    rig.at_once(&wants(2, 0, 0)).expect("there is room for one");
    assert!(rig.at_once(&wants(3, 0, 0)).is_err());
    let takes = Wanted { takes_url: true, ..wants(3, 0, 0) };
    assert!(rig.registry.refuses(&rig.register(&takes), 0, &rig.pledged).is_none());
    rig.at_once(&takes).expect("the other goes");
    assert_eq!(rig.registry.uses().of_namespace("a").instances, 1);
}
