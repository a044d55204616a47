//! Backends and frontends: every refusal, and histories against a model that is written from the design's sentences.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use prost_types::{Struct, Value, value::Kind};

use super::*;
use crate::registry::{Command, Decision, Error, Outcome, Principal, Registry, StateLimits, Violation};

/// A registry that commits at once.
struct Rig {
    registry: Registry,
    revision: u64,
}

type Read = Result<(SmolStr, Action), Vec<Violation>>;

impl Rig {
    fn new() -> Self {
        Self { registry: Registry::new(1, StateLimits::default()), revision: 0 }
    }

    fn run(&mut self, read: Read) -> Result<(), Error> {
        let (namespace, action) = read.map_err(Error::Invalid)?;
        let at = Timestamp { seconds: 1_000 + self.revision as i64, nanos: 0 };
        let deploy = Deploy { namespace, action, principal: Principal::anyone(), at };
        match self.registry.decide(&Command::Deploy(Box::new(deploy)), 0) {
            Decision::Reply(outcome) => outcome.map(|outcome| assert!(matches!(outcome, Outcome::Deployed(..)))),
            Decision::Unfit { error, .. } => Err(error),
            Decision::Propose(changes, _) => {
                self.revision += 1;
                let held = |guarded: &crate::registry::Guarded| match &guarded.change {
                    crate::registry::Change::Document(put) => self.registry.deployments().document(&put.key).cloned(),
                    other => panic!("{other:?}"),
                };
                assert!(changes.iter().all(|guarded| held(guarded).as_ref() == guarded.document()), "guards hold");
                let changes: Vec<_> = changes.into_iter().map(|guarded| guarded.change).collect();
                self.registry.fold(self.revision, &changes);
                assert!(self.registry.fold(self.revision, &changes).turns.is_empty(), "folded once");
                Ok(())
            }
        }
    }

    fn exists(&self) -> impl Fn(&str, &str) -> bool + '_ {
        |namespace, name| self.registry.deployments().backend(namespace, name).is_some()
    }

    fn backend(&mut self, name: &str, version: &str) {
        self.run(Action::create_backend("", name, ("web", version), None)).unwrap();
    }

    fn frontend(&self) -> Arc<Frontend> {
        Arc::clone(self.registry.deployments().frontend("default", "www").unwrap())
    }

    fn switch(&mut self, splits: &[(&str, u32)], expected: u64) -> Result<(), Error> {
        let read = Action::switch("", "www", ("", &texts(splits)), expected, &self.exists());
        self.run(read)
    }

    fn points(&self) -> Vec<(String, String, u32)> {
        let shown = |split: &Split| (split.backend.to_string(), split.version.to_string(), split.weight);
        self.frontend().splits.iter().map(shown).collect()
    }
}

fn texts(splits: &[(&str, u32)]) -> Vec<TargetText> {
    splits
        .iter()
        .map(|(backend, weight)| TargetText { backend: (*backend).to_owned(), weight: Some(*weight) })
        .collect()
}

fn object(fields: &[(&str, Option<f64>)]) -> Struct {
    let value = |number: &Option<f64>| Value { kind: Some(number.map_or(Kind::NullValue(0), Kind::NumberValue)) };
    Struct { fields: fields.iter().map(|(name, number)| ((*name).to_owned(), value(number))).collect() }
}

/// Two backends, and a frontend on the first.
fn blue_green() -> Rig {
    let mut rig = Rig::new();
    rig.backend("blue", "1");
    rig.backend("green", "2");
    rig.run(Action::create_frontend("", "www", &texts(&[("blue", 1)]), None, &|_, _| true)).unwrap();
    rig
}

fn told(read: &Read) -> Vec<(String, String)> {
    let violations = read.as_ref().expect_err("it is refused");
    violations.iter().map(|violation| (violation.field.clone(), violation.description.clone())).collect()
}

#[test]
fn what_breaks_rules_is_told_at_once_in_the_words_that_are_owed() {
    let nowhere = |_: &str, _: &str| false;
    let pair = |field: &str, why: &str| (field.to_owned(), why.to_owned());
    let application = "Application name and version are required";
    assert_eq!(
        told(&Action::create_backend("frontend", "", ("", ""), None)),
        [
            pair("namespace", "`frontend` is reserved"),
            pair("name", "Backend name is required"),
            pair("service", application),
            pair("version", application)
        ]
    );
    assert_eq!(told(&Action::update_backend("", "b", (None, Some("")), None, 0)), [pair("version", application)]);
    assert_eq!(
        told(&Action::create_frontend("", "", &[], None, &nowhere)),
        [pair("name", "Frontend name is required"), pair("splits", "at least one backend is required")]
    );
    let splits = texts(&[("blue", 1_000_001), ("blue", 0), ("", 0)]);
    assert_eq!(
        told(&Action::switch("", "a/b", ("", &splits), 0, &nowhere)),
        [
            pair("frontend", "must not have `/`, has one at byte 1"),
            pair("splits[0].weight", "must be 0 to 1000000, not 1000001"),
            pair("splits[1].backend", "must not be named twice"),
            pair("splits[2].backend", "Backend name is required"),
            pair("splits[0].backend", "Backend not found"),
            pair("splits[1].backend", "Backend not found"),
        ]
    );
    assert_eq!(
        told(&Action::switch("", "www", ("", &texts(&[("blue", 0), ("green", 0)])), 0, &|_, _| true)),
        [pair("splits", "must not all have weight 0")]
    );
    assert_eq!(
        told(&Action::switch("", "www", ("blue", &texts(&[("green", 1)])), 0, &|_, _| true)),
        [pair("to", "must not be given together with splits")]
    );
    let many: Vec<_> = (0..65).map(|name| TargetText { backend: name.to_string(), weight: None }).collect();
    assert_eq!(told(&Action::update_frontend("", "www", &many, None, 0, &nowhere))[0].1, "must be at most 64, not 65");
    let deep = (0..40).fold(Value { kind: Some(Kind::NullValue(0)) }, |inner, _| Value {
        kind: Some(Kind::StructValue(Struct { fields: [("a".to_owned(), inner)].into() })),
    });
    let Some(Kind::StructValue(deep)) = deep.kind else { unreachable!() };
    assert_eq!(told(&Action::create_backend("", "b", ("web", "1"), Some(deep)))[0].0, "fields");
}

#[test]
fn what_cannot_be_now_is_refused_and_nothing_changes() {
    let mut rig = blue_green();
    let revision = rig.revision;
    let everywhere = |_: &str, _: &str| true;
    for (read, sentence) in [
        (Action::create_backend("", "blue", ("web", "1"), None), "Backend with that name already exists"),
        (Action::update_backend("", "red", (None, None), None, 0), "Backend not found: default/red"),
        (Action::delete_backend("other", "blue", 0), "Backend not found: other/blue"),
        (Action::delete_backend("", "blue", 0), "default/blue is in use by www"),
        (
            Action::create_frontend("", "www", &texts(&[("blue", 1)]), None, &everywhere),
            "Frontend with that name already exists",
        ),
        (Action::delete_frontend("", "blog", 0), "Frontend not found: default/blog"),
        (Action::back("", "blog", 0, 0), "Frontend not found: default/blog"),
        (Action::back("", "www", 0, 0), "www has not pointed elsewhere before"),
        (Action::back("", "www", 77, 0), "the history of www has nothing that began at revision 77"),
        (
            Action::create_frontend("", "blog", &texts(&[("red", 1), ("blue", 1), ("gold", 1)]), None, &everywhere),
            "the frontend would name what is not there: splits[0].backend: Backend not found; splits[2].backend: Backend \
             not found",
        ),
        (
            Action::switch("", "www", ("green", &[]), 2, &everywhere),
            "it was changed since: revision 2 was expected, it is of 3",
        ),
    ] {
        assert_eq!(rig.run(read).expect_err(sentence).to_string(), sentence);
    }
    let namespace = SmolStr::new("default");
    let action = Action::DeleteFrontend { name: "www".into(), expected: 0 };
    let nobody = Principal { name: Some("someone".into()), operator: false, quota: None };
    let deploy = Deploy { namespace, action, principal: nobody, at: Timestamp::default() };
    let decision = rig.registry.decide(&Command::Deploy(Box::new(deploy)), 0);
    assert!(matches!(decision, Decision::Reply(Err(Error::Permission { permission: "deploy" }))));
    assert_eq!(rig.revision, revision);
}

#[test]
fn what_is_given_is_merged_and_what_is_the_same_is_no_revision() {
    let mut rig = blue_green();
    let fields = |rig: &Rig| decode_fields(&rig.registry.deployments().backend("default", "blue").unwrap().fields);
    let give = |given: &[(&str, Option<f64>)]| Action::update_backend("", "blue", (None, None), Some(object(given)), 0);
    rig.run(give(&[("a", Some(1.0)), ("b", Some(2.0))])).unwrap();
    rig.run(give(&[("b", Some(3.0)), ("c", Some(4.0)), ("a", None)])).unwrap();
    assert_eq!(fields(&rig), object(&[("b", Some(3.0)), ("c", Some(4.0))]));
    let (revision, since) = (rig.revision, rig.frontend().since);
    rig.run(give(&[("b", Some(3.0)), ("gone", None)])).unwrap();
    rig.run(Action::update_backend("", "blue", (Some("web"), Some("1")), None, 0)).unwrap();
    rig.switch(&[("blue", 1)], 0).unwrap();
    assert_eq!(rig.revision, revision);
    // Other fields of a frontend are a revision, and no switch.
    let read = Action::update_frontend("", "www", &[], Some(object(&[("x", Some(1.0))])), 0, &|_, _| true);
    rig.run(read).unwrap();
    let frontend = rig.frontend();
    assert_eq!((frontend.revision(), frontend.since, frontend.history.len()), (revision + 1, since, 0));
    assert!(fields::too_large(&Bytes::from(vec![0; 0])).is_none());
}

#[test]
fn a_switch_goes_into_the_history_and_back_is_a_switch() {
    let mut rig = blue_green();
    rig.switch(&[("blue", 95), ("green", 5)], 3).unwrap();
    rig.switch(&[("green", 1)], 4).unwrap();
    let pasts =
        |rig: &Rig| rig.frontend().history.iter().map(|past| (past.since, past.splits.len())).collect::<Vec<_>>();
    assert_eq!((rig.points(), pasts(&rig)), (vec![("green".into(), "2".into(), 1)], vec![(4, 2), (3, 1)]));
    rig.run(Action::back("", "www", 3, 5)).unwrap();
    assert_eq!(rig.points(), [("blue".into(), "1".into(), 1)]);
    rig.run(Action::back("", "www", 0, 0)).unwrap();
    assert_eq!(
        (rig.points(), pasts(&rig)),
        (vec![("green".into(), "2".into(), 1)], vec![(6, 1), (5, 1), (4, 2), (3, 1)])
    );
    // A backend that moved is gone back to as it is now.
    rig.run(Action::update_backend("", "blue", (None, Some("1.1")), None, 0)).unwrap();
    rig.run(Action::back("", "www", 0, 0)).unwrap();
    assert_eq!(rig.points(), [("blue".into(), "1.1".into(), 1)]);
    for round in 0..100 {
        rig.switch(&[("blue", 1 + round % 2), ("green", 1)], 0).unwrap();
    }
    assert_eq!(rig.frontend().history.len(), MAX_HISTORY);
    // What it pointed at may be gone.
    rig.switch(&[("green", 1)], 0).unwrap();
    rig.run(Action::delete_backend("", "blue", 0)).unwrap();
    assert!(
        matches!(rig.run(Action::back("", "www", 0, 0)), Err(Error::MissingBackends(missing)) if missing.len() == 1)
    );
}

/// The service of a backend is known without an instance, and forgotten when the last backend that names it goes.
#[test]
fn a_backend_makes_its_service_known() {
    let mut rig = blue_green();
    assert!(rig.registry.service("default", "web").is_some());
    assert_eq!(rig.registry.forgettable(u64::MAX, 10), []);
    rig.run(Action::delete_frontend("", "www", 0)).unwrap();
    rig.run(Action::delete_backend("", "blue", 0)).unwrap();
    let forget = crate::registry::Change::Forget { namespace: "default".into(), service: "web".into() };
    rig.revision += 1;
    rig.registry.fold(rig.revision, std::slice::from_ref(&forget));
    assert!(rig.registry.service("default", "web").is_some(), "green names it");
    rig.run(Action::update_backend("", "green", (Some("api"), None), None, 0)).unwrap();
    assert_eq!(rig.registry.forgettable(u64::MAX, 10), [("default".into(), "web".into())]);
    rig.revision += 1;
    rig.registry.fold(rig.revision, &[forget]);
    assert!(rig.registry.service("default", "web").is_none() && rig.registry.service("default", "api").is_some());
}

/// One thing that is wanted, of four backends and three frontends.
#[derive(Clone, Debug)]
enum Op {
    CreateBackend(u8, u8),
    UpdateBackend(u8, u8),
    DeleteBackend(u8),
    CreateFrontend(u8, Vec<(u8, u32)>),
    Switch(u8, Vec<(u8, u32)>, bool),
    DeleteFrontend(u8),
    Back(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let splits = || vec((0..4_u8, 0..3_u32), 1..4);
    prop_oneof![
        3 => (0..4_u8, 0..3_u8).prop_map(|(name, version)| Op::CreateBackend(name, version)),
        2 => (0..4_u8, 0..3_u8).prop_map(|(name, version)| Op::UpdateBackend(name, version)),
        2 => (0..4_u8).prop_map(Op::DeleteBackend),
        3 => (0..3_u8, splits()).prop_map(|(name, splits)| Op::CreateFrontend(name, splits)),
        4 => (0..3_u8, splits(), any::<bool>()).prop_map(|(name, splits, stale)| Op::Switch(name, splits, stale)),
        1 => (0..3_u8).prop_map(Op::DeleteFrontend),
        2 => (0..3_u8).prop_map(Op::Back),
    ]
}

/// Backend, weight and version of each split.
type Splits = Vec<(u8, u32, u8)>;

/// What a plain program would keep: backends' versions, and frontends as a stack of where they pointed.
#[derive(Default)]
struct Model {
    backends: BTreeMap<u8, u8>,
    frontends: BTreeMap<u8, Vec<Splits>>,
}

impl Model {
    fn resolve(&self, splits: &[(u8, u32)]) -> Option<Vec<(u8, u32, u8)>> {
        let mut names: Vec<u8> = splits.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        let good = names.len() == splits.len() && splits.iter().any(|(_, weight)| *weight > 0);
        splits
            .iter()
            .map(|(name, weight)| Some((*name, *weight, *self.backends.get(name)?)))
            .collect::<Option<_>>()
            .filter(|_| good)
    }

    fn point(&mut self, name: u8, splits: Vec<(u8, u32, u8)>) {
        let stack = self.frontends.entry(name).or_default();
        if stack.last() != Some(&splits) {
            stack.push(splits);
        }
    }

    /// Whether it is done.
    fn run(&mut self, op: &Op) -> bool {
        match op {
            Op::CreateBackend(name, version) => {
                let free = !self.backends.contains_key(name);
                self.backends.entry(*name).or_insert(*version);
                free
            }
            Op::UpdateBackend(name, version) => {
                let Some(held) = self.backends.get_mut(name) else { return false };
                *held = *version;
                for frontend in self.frontends.clone().into_keys() {
                    let mut splits = self.frontends[&frontend].last().unwrap().clone();
                    splits.iter_mut().filter(|split| split.0 == *name).for_each(|split| split.2 = *version);
                    self.point(frontend, splits);
                }
                true
            }
            Op::DeleteBackend(name) => {
                let used = |stack: &Vec<Splits>| stack.last().unwrap().iter().any(|split| split.0 == *name);
                !self.frontends.values().any(used) && self.backends.remove(name).is_some()
            }
            Op::CreateFrontend(name, splits) => match self.resolve(splits) {
                Some(splits) if !self.frontends.contains_key(name) => {
                    self.point(*name, splits);
                    true
                }
                _ => false,
            },
            Op::Switch(name, splits, stale) => match self.resolve(splits) {
                Some(splits) if self.frontends.contains_key(name) && !stale => {
                    self.point(*name, splits);
                    true
                }
                _ => false,
            },
            Op::DeleteFrontend(name) => self.frontends.remove(name).is_some(),
            Op::Back(name) => {
                let Some(stack) = self.frontends.get(name) else { return false };
                let now = stack.last().unwrap();
                for past in stack.iter().rev().skip(1) {
                    let wanted: Vec<_> = past.iter().map(|(name, weight, _)| (*name, *weight)).collect();
                    match self.resolve(&wanted) {
                        None => return false,
                        Some(splits) if splits == *now => {}
                        Some(splits) => {
                            self.point(*name, splits);
                            return true;
                        }
                    }
                }
                false
            }
        }
    }
}

impl Rig {
    fn run_op(&mut self, op: &Op) -> bool {
        let text = |name: &u8| name.to_string();
        let targets = |splits: &[(u8, u32)]| -> Vec<TargetText> {
            splits.iter().map(|(name, weight)| TargetText { backend: text(name), weight: Some(*weight) }).collect()
        };
        let everywhere = |_: &str, _: &str| true;
        let read = match op {
            Op::CreateBackend(name, version) => Action::create_backend("", &text(name), ("web", &text(version)), None),
            Op::UpdateBackend(name, version) => {
                Action::update_backend("", &text(name), (None, Some(&text(version))), None, 0)
            }
            Op::DeleteBackend(name) => Action::delete_backend("", &text(name), 0),
            Op::CreateFrontend(name, splits) => {
                Action::create_frontend("", &text(name), &targets(splits), None, &everywhere)
            }
            Op::Switch(name, splits, stale) => {
                let held = self.registry.deployments().frontend("default", &text(name));
                let revision = held.map_or(0, |frontend| frontend.revision());
                let expected = if *stale { revision + 1 } else { revision };
                Action::switch("", &text(name), ("", &targets(splits)), expected, &everywhere)
            }
            Op::DeleteFrontend(name) => Action::delete_frontend("", &text(name), 0),
            Op::Back(name) => Action::back("", &text(name), 0, 0),
        };
        self.run(read).is_ok()
    }
}

proptest! {
    /// Whatever is wanted in whatever order: it is done or refused as the model says, and everything held is the
    /// model's, also when it is recovered from its documents.
    #[test]
    fn any_history_agrees_with_the_model(ops in vec(op(), 1..60)) {
        let (mut rig, mut model) = (Rig::new(), Model::default());
        for op in ops {
            prop_assert_eq!(rig.run_op(&op), model.run(&op), "{:?}", op);
            let held = rig.registry.deployments();
            prop_assert_eq!(held.backends(), model.backends.len() as u64);
            prop_assert_eq!(held.frontends(), model.frontends.len() as u64);
            for (name, version) in &model.backends {
                prop_assert_eq!(held.backend("default", &name.to_string()).unwrap().version.as_str(), version.to_string());
            }
            let plain = |splits: &[Split]| -> Vec<(String, u32, String)> {
                splits.iter().map(|split| (split.backend.to_string(), split.weight, split.version.to_string())).collect()
            };
            let mut documents = Vec::new();
            for (name, stack) in &model.frontends {
                let frontend = held.frontend("default", &name.to_string()).unwrap();
                let shown: Vec<_> = std::iter::once(&frontend.splits).chain(frontend.history.iter().map(|past| &past.splits)).map(|splits| plain(splits)).collect();
                let text = |splits: &Vec<(u8, u32, u8)>| -> Vec<_> { splits.iter().map(|(name, weight, version)| (name.to_string(), *weight, version.to_string())).collect() };
                let kept: Vec<_> = stack.iter().rev().take(MAX_HISTORY + 1).map(text).collect();
                prop_assert_eq!(shown, kept);
                documents.push(Arc::clone(&frontend.document));
            }
            let mut recovered = Registry::new(1, StateLimits::default());
            recovered.recover(rig.revision, [], [], documents);
            prop_assert!(recovered.deployments().every_frontend().eq(held.every_frontend()));
        }
    }
}
