//! Changes as they are committed: what the first one writes down, versions, recovery, and changes decided together.

use proptest::prelude::*;
use prost_types::Timestamp;

use super::*;
use crate::registry::{Change, Command, Decision, Document, Error, Outcome, Principal, Registry, StateLimits};

fn command(action: CatalogAction) -> CatalogCommand {
    let (namespace, at) = ("default".into(), Timestamp { seconds: 7, nanos: 0 });
    CatalogCommand { namespace, action, expected: 0, principal: Principal::anyone(), at }
}

/// Commits what is proposed.
fn commit(registry: &mut Registry, changes: Vec<crate::registry::Guarded>) {
    let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
    let revision = registry.revision() + 1;
    registry.fold(revision, &changes);
}

fn run(registry: &mut Registry, action: CatalogAction) -> Result<(), Error> {
    match registry.decide(&Command::Catalog(Box::new(command(action))), 0) {
        Decision::Reply(outcome) => outcome.map(|_| ()),
        Decision::Propose(changes, _) => {
            commit(registry, changes);
            Ok(())
        }
        Decision::Unfit { .. } => unreachable!("nobody is admitted here"),
    }
}

fn book(registry: &Registry) -> &Book {
    registry.catalogs().book("default")
}

fn create(id: &str, service: &str) -> CatalogAction {
    CatalogAction::Create(draft(id, service))
}

/// What readers see of a book, but for revisions.
type Seen = (Vec<Application>, Vec<ServiceType>, Vec<(u64, VersionChange, Recorded)>);

fn seen(book: &Book) -> Seen {
    let versions = book.versions().values().map(|version| (version.number, version.change, version.value.clone()));
    (
        book.applications().values().map(|entry| Application::clone(&entry.value)).collect(),
        book.types().values().map(|entry| ServiceType::clone(&entry.value)).collect(),
        versions.collect(),
    )
}

fn documents(registry: &Registry) -> Vec<Arc<Document>> {
    let book = book(registry);
    let types = book.types().values().map(|entry| Arc::clone(&entry.document));
    let applications = book.applications().values().map(|entry| Arc::clone(&entry.document));
    let versions = book.versions().keys().map(|number| {
        let (kind, namespace) = (crate::registry::Kind::CatalogVersion, "default".into());
        let key = crate::registry::DocumentKey { kind, namespace, name: stored::version_name(*number) };
        Arc::clone(book.document(&key).unwrap())
    });
    types.chain(applications).chain(versions).collect()
}

#[test]
fn the_first_change_writes_down_what_was_there() {
    let mut registry = Registry::new(1, StateLimits::default());
    assert_eq!((book(&registry).types().len(), book(&registry).versions().len()), (3, 0));
    run(&mut registry, CatalogAction::DeleteType("play".into())).unwrap();
    let changes: Vec<_> =
        seen(book(&registry)).2.into_iter().map(|(number, change, of)| (number, change, of.id().clone())).collect();
    let insert = |number, id: &str| (number, VersionChange::Insert, SmolStr::new(id));
    let wanted =
        [insert(1, "nodejs"), insert(2, "play"), insert(3, "postgresql"), (4, VersionChange::Delete, "play".into())];
    assert_eq!(changes, wanted);
    assert_eq!(book(&registry).types().keys().collect::<Vec<_>>(), ["nodejs", "postgresql"]);
    // What is gone does not come back with what is stored.
    let mut again = Registry::new(1, StateLimits::default());
    again.recover(registry.revision(), [], [], documents(&registry));
    assert_eq!(seen(book(&again)), seen(book(&registry)));
}

#[test]
fn a_seed_is_as_old_as_the_first_change() {
    let mut registry = Registry::new(1, StateLimits::default());
    let draft =
        ServiceTypeDraft { id: "nodejs".to_owned(), default_port: Some(7_051), offset: None, ..Default::default() };
    run(&mut registry, CatalogAction::PutType(draft)).unwrap();
    assert!(book(&registry).types().values().all(|entry| entry.created_at.seconds == 7));
    let (_, last) = book(&registry).versions().get_max().unwrap();
    assert_eq!((last.number, last.change), (4, VersionChange::Update));
}

/// The oldest versions go when all are too large, and the newest stays, however large it is.
#[test]
fn versions_are_kept_up_to_a_size() {
    let dependencies: Vec<SmolStr> = (0..1_000).map(|n| format!("{n:0255}").into()).collect();
    let large = Application { id: "large".into(), ports: Vec::new().into(), dependencies: dependencies.into() };
    let body = stored::Stored::encode(&large, stored::Times::default());
    let count = MAX_CATALOG_VERSION_BYTES / body.len() as u64 + 3;
    let version = |number| {
        let (kind, namespace) = (crate::registry::Kind::CatalogVersion, "default".into());
        let key = crate::registry::DocumentKey { kind, namespace, name: stored::version_name(number) };
        let of = crate::registry::Kind::Application;
        let body = stored::version(VersionChange::Update, Timestamp::default(), of, &large.id, body.clone());
        Arc::new(Document { key, body, revision: 1 })
    };
    let mut registry = Registry::new(1, StateLimits::default());
    registry.recover(1, [], [], (1..=count).map(version));
    assert!(book(&registry).version_bytes() > MAX_CATALOG_VERSION_BYTES);
    run(
        &mut registry,
        CatalogAction::PutType(ServiceTypeDraft {
            id: "new".to_owned(),
            default_port: Some(7_051),
            offset: None,
            ..Default::default()
        }),
    )
    .unwrap();
    let numbers: Vec<u64> = book(&registry).versions().keys().copied().collect();
    assert_eq!((numbers[0], numbers[numbers.len() - 1]), (4, count + 1), "{numbers:?}");
    assert!(book(&registry).version_bytes() <= MAX_CATALOG_VERSION_BYTES);
}

/// What is decided at once is as much as a turn and a revision bear: the others have no outcome yet.
#[test]
fn no_turn_is_made_too_long() {
    let registry = Registry::new(1, StateLimits::default());
    let long = |n: usize| CatalogAction::Create(ApplicationDraft { id: format!("{n:0>250}"), ..draft("", "nodejs") });
    let commands: Vec<CatalogCommand> = (0..3_000).map(long).map(command).collect();
    let (changes, outcomes) = registry.change_catalog_all("default", &commands, 0);
    assert!(!outcomes.is_empty() && outcomes.len() < commands.len(), "{}", outcomes.len());
    let bytes = |guarded: &crate::registry::Guarded| match &guarded.change {
        Change::Document(put) => put.body.as_ref().map_or(0, bytes::Bytes::len),
        _ => 0,
    };
    assert!(changes.iter().map(bytes).sum::<usize>() < 600 * 1024);
}

/// What is in flight, and what the same turn makes, counts.
#[test]
fn limits_hold_for_what_is_on_its_way() {
    let made = |outcomes: &[Result<Outcome, Error>]| outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let commands: Vec<CatalogCommand> = ["aa", "bb", "cc", "dd"].map(|id| command(create(id, "nodejs"))).into();
    let registry = Registry::new(1, StateLimits::default());
    let (_, outcomes) = registry.change_catalog_all("default", &commands, MAX_APPLICATIONS - 3);
    assert_eq!(made(&outcomes), 3);
    let limit = Error::Limit { limit: "max_applications", maximum: MAX_APPLICATIONS, usage: MAX_APPLICATIONS };
    assert_eq!(outcomes[3].as_ref().unwrap_err(), &limit);
    let registry = Registry::new(1, StateLimits { services: 3, ..StateLimits::default() });
    let (changes, outcomes) = registry.change_catalog_all("default", &commands, 1);
    assert_eq!(made(&outcomes), 2);
    let limit = Error::Limit { limit: "max_services", maximum: 3, usage: 3 };
    assert_eq!(outcomes[2].as_ref().unwrap_err(), &limit);
    assert_eq!(changes.iter().filter(|guarded| guarded.makes_application()).count(), 2);
}

/// In a revision the one that takes a port may stand before the one that gave it up.
#[test]
fn a_port_that_changed_hands_stays_with_its_owner() {
    let mut ports = Ports::default();
    let (one, other) = (SmolStr::new("shop-a"), SmolStr::new("shop"));
    ports.take(&one, 6_010);
    ports.take(&other, 6_010);
    ports.free(&one, 6_010);
    assert_eq!(ports.owner(6_010), Some(&other));
    ports.free(&other, 6_010);
    assert_eq!(format!("{ports:?}"), format!("{:?}", Ports::default()));
}

/// A namespace that had a catalog once does not have it for ever, however much happened in it.
#[test]
fn a_catalog_that_is_as_it_began_is_given_back() {
    const DAY: i64 = 24 * 60 * 60;
    let mut registry = Registry::new(1, StateLimits { namespaces: 1, ..StateLimits::default() });
    let forget = |registry: &mut Registry, seconds| {
        let at = Timestamp { seconds, nanos: 0 };
        let wanted = CatalogCommand { at, ..command(CatalogAction::Forget) };
        match registry.decide(&Command::Catalog(Box::new(wanted)), 0) {
            Decision::Propose(changes, _) => commit(registry, changes),
            Decision::Reply(outcome) => assert!(outcome.is_ok()),
            Decision::Unfit { .. } => unreachable!("nobody is admitted here"),
        }
    };
    for _ in 0..600 {
        run(&mut registry, create("www", "nodejs")).unwrap();
        forget(&mut registry, 7 + DAY);
        run(&mut registry, CatalogAction::Delete("www".into())).unwrap();
    }
    assert_eq!(book(&registry).versions().len(), 1_203);
    assert_eq!(registry.catalogs().forgettable(6 + DAY, 9), [""; 0]);
    forget(&mut registry, 6 + DAY);
    assert_eq!(book(&registry).versions().len(), 1_203, "it is not yet a day");
    assert_eq!(registry.catalogs().forgettable(7 + DAY, 9), ["default"]);
    forget(&mut registry, 7 + DAY);
    assert_eq!((book(&registry).versions().len(), book(&registry).types().len()), (203, 3), "as much as goes at once");
    forget(&mut registry, 7 + DAY);
    assert!(registry.catalogs().books().is_empty() && registry.catalogs().forgettable(7 + DAY, 9).is_empty());
    assert_eq!(documents(&registry).iter().filter(|document| document.revision != 0).count(), 0, "nothing is stored");
    // Another one has room, and this one begins anew.
    run(&mut registry, CatalogAction::DeleteType("play".into())).unwrap();
    assert_eq!(book(&registry).versions().keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(registry.catalogs().forgettable(i64::MAX, 9), [""; 0], "a type is gone: it is not as it began");
}

#[test]
fn an_application_makes_its_service_known() {
    let mut registry = Registry::new(1, StateLimits::default());
    run(&mut registry, create("www", "nodejs")).unwrap();
    assert!(registry.service("default", "www").is_some());
    assert_eq!(registry.forgettable(u64::MAX, 10), []);
    run(&mut registry, CatalogAction::Delete("www".into())).unwrap();
    assert_eq!(registry.forgettable(u64::MAX, 10), [("default".into(), "www".into())]);
}

#[test]
fn only_what_is_of_the_expected_revision_changes() {
    let mut registry = Registry::new(1, StateLimits::default());
    run(&mut registry, create("www", "nodejs")).unwrap();
    let at = |expected| CatalogCommand { expected, ..command(CatalogAction::Delete("www".into())) };
    let decide = |registry: &Registry, expected| registry.decide(&Command::Catalog(Box::new(at(expected))), 0);
    let stale = Error::StaleRevision { expected: 9, revision: 1 };
    assert!(matches!(decide(&registry, 9), Decision::Reply(Err(error)) if error == stale));
    assert!(matches!(decide(&registry, 1), Decision::Propose(..)));
    let stranger = Principal { name: Some("x".into()), operator: false, quota: None };
    let wanted = CatalogCommand { principal: stranger, ..at(0) };
    let refused = registry.decide(&Command::Catalog(Box::new(wanted)), 0);
    assert!(matches!(refused, Decision::Reply(Err(Error::Permission { permission: "catalog" }))));
}

const IDS: [&str; 6] = ["shop", "shop-a", "shop-b", "blog", "blog-a", "A"];
const TYPES: [&str; 3] = ["nodejs", "plain", "gone"];

fn action() -> impl Strategy<Value = CatalogAction> {
    let id = || proptest::sample::select(IDS.to_vec());
    let service = proptest::sample::select(TYPES.to_vec());
    prop_oneof![
        3 => (id(), service.clone()).prop_map(|(id, service)| create(id, service)),
        2 => (id(), service).prop_map(|(id, service)| CatalogAction::Put(draft(id, service))),
        2 => (id(), id()).prop_map(|(id, other)| CatalogAction::Depend(id.into(), other.into())),
        1 => (id(), id()).prop_map(|(id, other)| CatalogAction::Undepend(id.into(), other.into())),
        1 => id().prop_map(|id| CatalogAction::Delete(id.into())),
        1 => (4_000..4_003i64).prop_map(|port| CatalogAction::PutType(ServiceTypeDraft {
            id: "plain".to_owned(),
            default_port: Some(port),
            offset: None, ..Default::default() })),
    ]
}

proptest! {
    /// Changes decided together come to what they come to one after the other, each for itself too; and what is stored
    /// of them makes the same book.
    #[test]
    fn together_is_as_one_after_the_other(groups in proptest::collection::vec(proptest::collection::vec(action(), 1..8), 1..8)) {
        let (mut one, mut all) = (Registry::new(1, StateLimits::default()), Registry::new(1, StateLimits::default()));
        for group in groups {
            let commands: Vec<CatalogCommand> = group.iter().cloned().map(command).collect();
            let (changes, outcomes) = all.change_catalog_all("default", &commands, 0);
            let mut keys: Vec<_> = changes.iter().map(|guarded| format!("{:?}", guarded.change.latch())).collect();
            keys.dedup();
            prop_assert!(keys.len() <= 1, "one latch for all of a catalog");
            if !changes.is_empty() {
                commit(&mut all, changes);
            }
            for (action, outcome) in group.into_iter().zip(outcomes) {
                let alone = run(&mut one, action);
                prop_assert_eq!(alone, outcome.map(|outcome| assert!(matches!(outcome, Outcome::Deployed(..)))));
            }
            prop_assert_eq!(seen(book(&one)), seen(book(&all)));
        }
        let mut again = Registry::new(1, StateLimits::default());
        again.recover(all.revision(), [], [], documents(&all));
        prop_assert_eq!(seen(book(&again)), seen(book(&all)));
    }
}

#[test]
fn lists_are_filtered_ordered_and_cut() {
    let mut registry = Registry::new(1, StateLimits::default());
    for (id, service) in [("shop", "nodejs"), ("shop-db", "postgresql"), ("shopping", "play"), ("blog", "nodejs")] {
        run(&mut registry, create(id, service)).unwrap();
    }
    let namespace = SmolStr::new("default");
    let list = |query: ApplicationQuery, sort: &str, offset| {
        let page = Page { limit: 3, offset };
        let sort = Sort::parse(sort).unwrap();
        let found = applications([(&namespace, book(&registry))], &query, sort, page, None).whole();
        (found.found.iter().map(|shown| shown.entry.value.id.to_string()).collect::<Vec<_>>(), found.total)
    };
    let all = ApplicationQuery::default;
    let texts = |ids: &[&str], total| (ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>(), total);
    assert_eq!(list(all(), "", 0), texts(&["blog", "shopping", "shop-db"], 4));
    assert_eq!(list(all(), "", 3), texts(&["shop"], 4));
    assert_eq!(list(all(), "created_at", 2), texts(&["shopping", "blog"], 4));
    assert_eq!(list(all(), "-port", 0), texts(&["blog", "shopping", "shop-db"], 4));
    assert_eq!(list(all(), "id", 9), texts(&[], 4));
    let prefix = ApplicationQuery { prefix: "shop".into(), ..all() };
    assert_eq!(list(prefix, "id", 0), texts(&["shop", "shop-db"], 2));
    let text = ApplicationQuery { text: "op".into(), ..all() };
    assert_eq!(list(text, "port", 0), texts(&["shop", "shop-db", "shopping"], 3));
    let services = ApplicationQuery { services: ["nodejs".into()].into(), ports: [6010, 6019].into(), ..all() };
    assert_eq!(list(services, "id", 0), texts(&["shop"], 1));
    assert!(Sort::parse("-").is_err() && Sort::parse("age").is_err());
}
