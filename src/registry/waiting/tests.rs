//! Waiting registrations against a model that tries every subset. It must not know how the search goes.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use proptest::prelude::*;

use crate::registry::{
    Cause, Change, Command, Context, Decision, Delete, Error, Event, IfMissing, Instance, Key, Needs, Outcome,
    Principal, Register, Registration, Registry, Secret, StateLimits, Status, WaitId, Waiting,
};

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];
const VERSIONS: [&str; 2] = ["1.0.0", "2.0.0"];
const RANGES: [&str; 3] = ["", "^1", "2.0.0"];

/// A registration, small enough that many of them depend on one another.
#[derive(Clone, Debug)]
struct Spec {
    service: usize,
    version: usize,
    /// Not routable, once it is registered.
    starting: bool,
    /// Service and range.
    needs: BTreeMap<usize, usize>,
}

#[derive(Clone, Debug)]
enum Op {
    Wait(Spec),
    Leave(usize),
    Online(Spec),
    Offline(usize),
}

fn spec() -> impl Strategy<Value = Spec> {
    let needs = prop::collection::btree_map(0..4_usize, 0..3_usize, 0..4);
    (0..4_usize, 0..2_usize, prop::bool::weighted(0.1), needs).prop_map(|(service, version, starting, needs)| Spec {
        service,
        version,
        starting,
        needs,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => spec().prop_map(Op::Wait),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => spec().prop_map(Op::Online),
        1 => any::<usize>().prop_map(Op::Offline),
    ]
}

fn register(spec: &Spec, number: usize) -> Register {
    let status = if spec.starting { Status::Starting } else { Status::Unspecified };
    let instance = Instance {
        service: SERVICES[spec.service].into(),
        id: format!("i{number}"),
        version: VERSIONS[spec.version].into(),
        url: format!("http://{number}.test"),
        status: status.into(),
        ..Instance::default()
    };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let mut registration = Registration::parse(instance, None, context).expect("a registration");
    let named = |(service, range): (&usize, &usize)| (SERVICES[*service].to_owned(), RANGES[*range].to_owned());
    let dependencies = spec.needs.iter().map(named).collect();
    registration.needs = Needs::parse("", &dependencies, &BTreeMap::new(), IfMissing::Wait).expect("needs");
    Register {
        registration,
        token: None,
        principal: Principal::anyone(),
        secret: Secret([1; 16]),
        at: prost_types::Timestamp::default(),
    }
}

/// Whether an instance of `by` answers for `range` of `service`, by the sentences of the proto.
fn answers(by: &Spec, service: usize, range: usize) -> bool {
    let version = match range {
        0 => true,
        1 => by.version == 0,
        _ => by.version == 1,
    };
    by.service == service && version && !by.starting
}

/// The union of all sets of waiting ones that support themselves.
fn greatest(waiting: &BTreeMap<WaitId, Spec>, online: &BTreeMap<String, Spec>) -> BTreeSet<WaitId> {
    let ids: Vec<WaitId> = waiting.keys().copied().collect();
    let mut union = BTreeSet::new();
    for bits in 0..1_u32 << ids.len() {
        let members: Vec<WaitId> =
            ids.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, id)| *id).collect();
        let met = |id: &WaitId, service: usize, range: usize| {
            online.values().any(|spec| answers(spec, service, range))
                || members.iter().any(|other| other != id && answers(&waiting[other], service, range))
        };
        let supported = |id: &WaitId| waiting[id].needs.iter().all(|(service, range)| met(id, *service, *range));
        if members.iter().all(supported) {
            union.extend(members);
        }
    }
    union
}

struct Rig {
    registry: Registry,
    waiting: Waiting,
    revision: u64,
    specs: BTreeMap<WaitId, Spec>,
    online: BTreeMap<String, Spec>,
    next: usize,
}

impl Rig {
    fn new() -> Self {
        let registry = Registry::new(1, StateLimits::default());
        let (specs, online) = (BTreeMap::new(), BTreeMap::new());
        Self { registry, waiting: Waiting::default(), revision: 0, specs, online, next: 0 }
    }

    fn commit(&mut self, changes: &[Change]) -> Vec<WaitId> {
        self.revision += 3;
        let events: Vec<Event> = self.registry.fold(self.revision, changes).events;
        let mut stirred = BTreeSet::new();
        events.iter().for_each(|event| self.waiting.follow(event, &mut stirred));
        stirred.into_iter().collect()
    }

    fn run(&mut self, op: &Op) {
        let stirred = match op {
            // So many that the subsets can be tried.
            Op::Wait(_) if self.specs.len() >= 9 => return,
            Op::Wait(spec) => {
                self.next += 1;
                let id = self.next as WaitId;
                self.waiting.arrive(&self.registry, id, Arc::new(register(spec, self.next)));
                self.specs.insert(id, spec.clone());
                vec![id]
            }
            Op::Leave(which) => {
                if let Some(id) = self.specs.keys().nth(which % self.specs.len().max(1)).copied() {
                    self.specs.remove(&id);
                    assert!(self.waiting.leave(id).is_some() && self.waiting.leave(id).is_none());
                }
                Vec::new()
            }
            Op::Online(spec) => {
                self.next += 1;
                let mut register = register(spec, self.next);
                register.registration.needs = Needs::default();
                let id = register.registration.instance.id.clone();
                let decision = self.registry.decide(&Command::Register(Box::new(register)), 0);
                let Decision::Propose(changes, _) = decision else { panic!("{decision:?}") };
                self.online.insert(id, spec.clone());
                self.commit(&changes.into_iter().map(|guarded| guarded.change).collect::<Vec<_>>())
            }
            Op::Offline(which) => {
                let Some(id) = self.online.keys().nth(which % self.online.len().max(1)).cloned() else { return };
                let spec = self.online.remove(&id).expect("it is online");
                let key = Key::new("default", SERVICES[spec.service], id);
                self.commit(&[Change::Delete(Delete { key, cause: Cause::Deregistered, at: 0 })])
            }
        };
        self.admit(stirred);
    }

    /// Admits whom it may, and compares.
    fn admit(&mut self, stirred: Vec<WaitId>) {
        let expected = greatest(&self.specs, &self.online);
        let groups = self.waiting.admissible(&self.registry, stirred, &HashSet::new());
        let found: BTreeSet<WaitId> = groups.iter().flatten().copied().collect();
        assert_eq!(found.len(), groups.iter().map(Vec::len).sum::<usize>(), "nobody is in two groups");
        assert_eq!(found, expected);
        let mut stirred = Vec::new();
        for group in groups {
            let members: Vec<Arc<Register>> = group.iter().filter_map(|id| self.waiting.leave(*id)).collect();
            let decision = self.registry.decide(&Command::Admit { members, at: 0 }, 0);
            let Decision::Propose(changes, Outcome::Admitted(outcomes)) = decision else { panic!("{decision:?}") };
            assert_eq!(changes.len(), group.len());
            for (id, outcome) in group.iter().zip(outcomes) {
                self.check_answer(*id, &group, &outcome);
            }
            let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
            stirred.extend(self.commit(&changes));
            for id in group {
                let spec = self.specs.remove(&id).expect("it waited");
                self.online.insert(format!("i{id}"), spec);
            }
        }
        // Everything that became possible was done at once.
        assert_eq!(greatest(&self.specs, &self.online), BTreeSet::new());
        let none: Vec<Vec<WaitId>> = Vec::new();
        assert_eq!(self.waiting.admissible(&self.registry, stirred, &HashSet::new()), none);
        assert_eq!(self.waiting.ids(), self.specs.keys().copied().collect::<Vec<_>>());
    }

    /// Each need of a member is answered by what was online, or by another member of its group.
    fn check_answer(&self, id: WaitId, group: &[WaitId], outcome: &Outcome) {
        let Outcome::Registered { resolved, .. } = outcome else { panic!("{outcome:?}") };
        let needs = &self.specs[&id].needs;
        assert_eq!(resolved.len(), needs.len());
        for found in resolved {
            let service = SERVICES.iter().position(|name| *name == found.service).expect("a service");
            let number = found.url.trim_start_matches("http://").trim_end_matches(".test");
            let by = match &found.record {
                Some(_) => &self.online[&format!("i{number}")],
                None => {
                    let other: WaitId = number.parse().expect("a number");
                    assert!(other != id && group.contains(&other), "{other} for {id} in {group:?}");
                    &self.specs[&other]
                }
            };
            assert!(answers(by, service, needs[&service]), "{by:?} for {id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whoever arrives, leaves, comes online or goes, in whatever order: admitted is exactly the greatest set that
    /// supports itself, as soon as there is one.
    #[test]
    fn the_greatest_self_supporting_set_is_admitted(ops in prop::collection::vec(op(), 1..40)) {
        let mut rig = Rig::new();
        ops.iter().for_each(|op| rig.run(op));
        // Nothing is left of those who left.
        for id in rig.waiting.ids() {
            rig.waiting.leave(id);
        }
        prop_assert!(rig.waiting.services.is_empty() && rig.waiting.needs() == 0);
        prop_assert!(rig.waiting.wanted.iter().all(Option::is_none));
    }

    /// A ring comes online as one, whatever the order in which its members arrive.
    #[test]
    fn a_ring_is_admitted_together(order in Just((0..4_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut rig = Rig::new();
        for (arrived, service) in order.into_iter().enumerate() {
            let needs = [((service + 1) % 4, 1)].into();
            rig.run(&Op::Wait(Spec { service, version: 0, starting: false, needs }));
            prop_assert_eq!(rig.online.len(), if arrived == 3 { 4 } else { 0 });
        }
        prop_assert_eq!(rig.revision, 3, "one revision");
    }
}

/// Nobody is good enough for itself: not while it waits, and not by what it was before.
#[test]
fn an_instance_does_not_count_for_its_own_needs() {
    let mut rig = Rig::new();
    let peer = Spec { service: 0, version: 0, starting: false, needs: [(0, 0)].into() };
    rig.run(&Op::Wait(peer.clone()));
    assert_eq!(rig.online.len(), 0);
    rig.run(&Op::Wait(peer.clone()));
    assert_eq!(rig.online.len(), 2, "two are there for each other");
    // One of them anew, when the other has gone: its own record is no answer.
    rig.run(&Op::Offline(1));
    let again = register(&peer, 1);
    let decision = rig.registry.decide(&Command::Register(Box::new(again.clone())), 0);
    let Decision::Reply(Err(error)) = decision else { panic!("{decision:?}") };
    assert_eq!(error, Error::MissingDependency(vec!["a".to_owned()]));
    rig.waiting.arrive(&rig.registry, 9, Arc::new(again));
    assert!(rig.waiting.admissible(&rig.registry, [9], &HashSet::new()).is_empty());
}
