//! The catalog on an engine that refuses, reorders, goes away and takes changes of another node: what was answered is so, and
//! the versions tell all of it.

use std::collections::{BTreeMap, BTreeSet};

use onair::{
    actor::{RegistryHandle, Standing, anyone},
    engine::hostile::{HostileEngine, HostileHandle, Manners},
    registry::{
        Change, Command, Decision, Error, Principal, Registry, StateLimits,
        catalog::{ApplicationDraft, Book, CatalogAction, CatalogCommand, Recorded, ServiceTypeDraft, VersionChange},
    },
};

use super::rig::{Rig, settle, until, within, without_breaker};

/// Callers at one time.
const CALLERS: u64 = 6;
/// What each of them wants.
const CHANGES: u64 = 25;
const IDS: [&str; 8] = ["a", "a-b", "a-c", "a-b-d", "e", "e-f", "g", "h"];
const TYPES: [&str; 4] = ["postgresql", "play", "nodejs", "plain"];

/// Numbers by a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) % bound as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn action(&mut self) -> CatalogAction {
        let (id, other) = (self.of(&IDS), self.of(&IDS));
        let service = Some(self.of(&TYPES).to_owned());
        let draft = ApplicationDraft { id: id.into(), service, ..ApplicationDraft::default() };
        match self.below(10) {
            0..3 => CatalogAction::Create(draft),
            3 | 4 => CatalogAction::Put(ApplicationDraft { dependencies: Some(vec![other.into()]), ..draft }),
            5 | 6 => CatalogAction::Delete(id.into()),
            7 => CatalogAction::Depend(id.into(), other.into()),
            8 => CatalogAction::Undepend(id.into(), other.into()),
            _ => {
                let default_port = Some(4_000 + self.below(3) as i64);
                CatalogAction::PutType(ServiceTypeDraft {
                    id: "plain".into(),
                    default_port,
                    offset: None,
                    ..Default::default()
                })
            }
        }
    }
}

/// What another node would propose, decided on what is committed.
fn foreign(hostile: &HostileHandle, action: CatalogAction) {
    let truth = hostile.truth();
    let mut registry = Registry::new(1, StateLimits::default());
    registry.recover(truth.revision, truth.records, truth.known, truth.documents);
    let at = prost_types::Timestamp { seconds: 1, nanos: 0 };
    let command =
        CatalogCommand { namespace: "default".into(), action, expected: 0, principal: Principal::anyone(), at };
    if let Decision::Propose(changes, _) = registry.decide(&Command::Catalog(Box::new(command)), 0) {
        let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
        let _ = hostile.foreign(changes);
    }
}

/// Makes changes, and gives the entries that were answered, with the revision of each.
async fn calls(handle: RegistryHandle, seed: u64) -> Vec<(u64, Recorded)> {
    let (mut dice, mut answered) = (Dice(seed), Vec::new());
    for _ in 0..CHANGES {
        match within(handle.change_catalog("default".into(), dice.action(), 0, anyone(), None)).await {
            Ok(made) => match made.deployed {
                Standing::Application(entry) => {
                    let value = entry.value.as_ref().clone();
                    answered.push((entry.document.revision, Recorded::Application(value)));
                }
                Standing::ServiceType(entry) => {
                    let value = entry.value.as_ref().clone();
                    answered.push((entry.document.revision, Recorded::ServiceType(value)));
                }
                other => assert!(matches!(other, Standing::Gone), "{other:?}"),
            },
            Err(
                Error::Invalid(_)
                | Error::Taken { .. }
                | Error::NoSuch { .. }
                | Error::Needed { .. }
                | Error::StoreUnavailable { .. },
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }
    answered
}

/// What the versions come to, one after the other, is what there is; and that keeps the rules.
fn check(book: &Book, answered: &[(u64, Recorded)], seed: u64) {
    let numbers: Vec<u64> = book.versions().keys().copied().collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "seed {seed}: one number each");
    let mut told: BTreeMap<(bool, String), Recorded> = BTreeMap::new();
    for version in book.versions().values() {
        let is_type = matches!(version.value, Recorded::ServiceType(_));
        let key = (is_type, version.value.id().to_string());
        let before = match version.change {
            VersionChange::Delete => told.remove(&key),
            VersionChange::Insert | VersionChange::Update => told.insert(key, version.value.clone()),
        };
        assert_eq!(before.is_none(), version.change == VersionChange::Insert, "seed {seed}: {version:?}");
    }
    let applications = book.applications().values().map(|entry| Recorded::Application(entry.value.as_ref().clone()));
    let types = book.types().values().map(|entry| Recorded::ServiceType(entry.value.as_ref().clone()));
    let there: Vec<Recorded> = applications.chain(types).collect();
    assert_eq!(told.into_values().collect::<Vec<_>>(), there, "seed {seed}");
    let ports: Vec<u16> =
        book.applications().values().flat_map(|entry| entry.value.ports.iter().map(|port| port.external)).collect();
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len(), "seed {seed}: a port is one's");
    assert!(book.catalog().dependencies().start_order(None).is_ok(), "seed {seed}: a cycle");
    for (revision, value) in answered {
        let is_it =
            |version: &onair::registry::catalog::Version| version.revision == *revision && version.value == *value;
        assert!(
            book.versions().values().any(|version| is_it(version)),
            "seed {seed}: {value:?} at {revision} was answered"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_so_whatever_the_engine_does() {
    let mut told = 0;
    for seed in 0..24 {
        let (engine, hostile, recovered) = HostileEngine::new(seed, Manners::worst());
        let rig = Rig::start(engine, recovered, without_breaker());
        let callers: Vec<_> =
            (0..CALLERS).map(|caller| tokio::spawn(calls(rig.handle.clone(), seed * 1_000 + caller))).collect();
        let mut dice = Dice(seed);
        for _ in 0..30 {
            settle().await;
            foreign(&hostile, dice.action());
        }
        let mut answered = Vec::new();
        for caller in callers {
            answered.extend(caller.await.expect("a caller"));
        }
        hostile.behave(Manners::default());
        hostile.back();
        let truth = hostile.truth();
        until(|| rig.revision() >= truth.revision).await;
        let (book, _) = rig.handle.book("default");
        check(&book, &answered, seed);
        told += answered.len();
        let mut stored = Registry::new(1, StateLimits::default());
        stored.recover(truth.revision, truth.records, truth.known, truth.documents);
        check(stored.catalogs().book("default"), &answered, seed);
    }
    assert!(told > 240, "{told} answers");
}
