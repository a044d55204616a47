//! Lists of applications: what is taken in which order, everything that is wrong at once, circles by name, whole
//! catalogs out and in again.

use proptest::prelude::*;
use prost_types::Timestamp;

use super::*;
use crate::registry::{Change, Command, Decision, Error, Principal, Registry, StateLimits};

fn listed(id: &str, ports: &[(&str, Option<i64>)], dependencies: &[&str]) -> Listed {
    let port = |(service, external): &(&str, Option<i64>)| ListedPort {
        service: (*service).into(),
        external: *external,
        internal: None,
    };
    let dependencies = dependencies.iter().map(|id| SmolStr::new(*id)).collect();
    Listed { id: id.into(), ports: ports.iter().map(port).collect(), dependencies, ..Listed::default() }
}

fn plan(catalog: &Catalog, applications: Vec<Listed>) -> ImportPlan {
    planned(catalog, &List { types: Vec::new(), applications }, around())
}

/// Nothing else is there, and somebody waits.
fn around() -> Around<'static> {
    Around { applications: MAX_APPLICATIONS, services: (1 << 20, 1 << 20), knows: &|_| false, is_awaited: &|| true }
}

fn planned(catalog: &Catalog, list: &List, around: Around<'_>) -> ImportPlan {
    catalog.plan(&PortRules::default(), list, around).unwrap()
}

/// The catalog with what was planned.
fn taken(catalog: &Catalog, plan: &ImportPlan) -> Catalog {
    let mut catalog = catalog.clone();
    for draft in &plan.types {
        if let Drafted::New(made) = catalog.put_type_draft(&PortRules::default(), draft).unwrap() {
            catalog.put_type(made.into());
        }
    }
    for Planned { application, .. } in &plan.applications {
        let Some(Drafted::New(application)) = catalog.retake(application, true) else { panic!("{application:?}") };
        catalog.put_application(application.into());
    }
    catalog
}

fn ids(plan: &ImportPlan) -> Vec<&str> {
    plan.applications.iter().map(|planned| planned.application.id.as_str()).collect()
}

fn faults(plan: &ImportPlan) -> Vec<String> {
    let refused = plan.refused.clone().into_entries();
    let violations = refused.iter().flat_map(|refused| &refused.violations);
    violations.map(|violation| format!("{}: {}", violation.field, violation.description)).collect()
}

#[test]
fn what_is_needed_comes_first_however_it_is_listed() {
    let list = vec![
        listed("www", &[("nodejs", None)], &["api", "mail"]),
        listed("api", &[("play", Some(7011))], &["db"]),
        listed("mail", &[("play", None)], &[]),
        listed("db", &[("postgresql", None)], &[]),
    ];
    let plan = plan(&catalog(&[]), list.clone());
    assert_eq!((ids(&plan), faults(&plan)), (vec!["db", "api", "mail", "www"], vec![]));
    let after = taken(&catalog(&[]), &plan);
    // What the list names is taken before anything is given out.
    let external = |id: &str| after.applications()[id].ports[0].external;
    assert_eq!(["api", "db", "mail", "www"].map(external), [7011, 7029, 7031, 7040]);
    let again = super::import::plan(&after, list);
    assert_eq!((ids(&again), faults(&again)), (vec![], vec![]), "the same list again changes nothing");
}

#[test]
fn everything_that_is_wrong_with_every_entry() {
    let mut catalog = catalog(&[]);
    let rules = PortRules::default();
    put(&mut catalog, &rules, &draft("old", "play")).unwrap();
    let list = vec![
        listed("A b", &[("cobol", Some(80))], &["gone", "A b"]),
        listed("", &[], &[]),
        listed("good", &[("play", Some(7001))], &["old"]),
        listed("good", &[("play", None)], &[]),
        listed("late", &[("play", Some(7001)), ("play", Some(70_000))], &["A b"]),
        listed("old", &[("play", Some(7_777)), ("nodejs", Some(6001))], &[]),
        listed("twice", &[("play", Some(8001)), ("nodejs", Some(8001))], &[]),
        listed("later", &[("play", None)], &["twice"]),
    ];
    let plan = plan(&catalog, list);
    assert_eq!(ids(&plan), ["good"]);
    let letters = "Key must be in all lower case and contain alphanumerics only (-, _, and . are supported). A valid key \
                   would be: ab";
    let wanted = [
        format!("applications[0].id: {letters}"),
        "applications[0].ports[0].service: Service not found".to_owned(),
        "applications[0].ports[0].external: External port must be > 1024".to_owned(),
        "applications[0].dependencies[0]: Dependency[gone] references a non existing application".to_owned(),
        "applications[0].dependencies[1]: Cannot declare dependency[A b] on self".to_owned(),
        "applications[1].id: Id cannot be empty".to_owned(),
        "applications[1].ports: Must specify service when creating application".to_owned(),
        "applications[3].id: Application[good] is in the list more than once".to_owned(),
        "applications[4].ports[0].external: External port 7001 is already assigned to the application good".to_owned(),
        "applications[4].ports[1].service: Service[play] is in the application more than once".to_owned(),
        "applications[4].ports[1].external: External port must be <= 65535".to_owned(),
        "applications[4].dependencies[0]: Dependency[A b] references a non existing application".to_owned(),
        "applications[5].ports[0].external: External port of play is 6011 and does not change".to_owned(),
        "applications[6].ports[1].external: External port 8001 is already assigned to the application twice".to_owned(),
        "applications[7].dependencies[0]: Dependency[twice] references a non existing application".to_owned(),
    ];
    assert_eq!(faults(&plan), wanted);
}

#[test]
fn circles_are_told_by_name_and_take_with_them_who_needs_them() {
    let node = |id: &str, needs: &[&str]| listed(id, &[("nodejs", None)], needs);
    let list = vec![
        node("top", &["aa"]),
        node("aa", &["bb", "free"]),
        node("bb", &["cc"]),
        node("cc", &["aa"]),
        node("free", &[]),
        node("me", &["me"]),
    ];
    let plan = plan(&catalog(&[]), list);
    assert_eq!(ids(&plan), ["free"]);
    assert_eq!(
        faults(&plan),
        [
            "applications[0].dependencies[0]: Dependency[aa] references a non existing application",
            "applications[1].dependencies[0]: Application[aa] Cannot declare a circular dependency on[bb]",
            "applications[2].dependencies[0]: Application[bb] Cannot declare a circular dependency on[cc]",
            "applications[3].dependencies[0]: Application[cc] Cannot declare a circular dependency on[aa]",
            "applications[5].dependencies[0]: Cannot declare dependency[me] on self",
        ]
    );
    // By way of what is there; and by what stays because the entry that would change it is refused.
    let mut there = catalog(&[]);
    let rules = PortRules::default();
    for (id, needs) in [("db", &[][..]), ("api", &["db"]), ("www", &["api"])] {
        let dependencies = Some(needs.iter().map(|id| (*id).to_owned()).collect());
        put(&mut there, &rules, &ApplicationDraft { dependencies, ..draft(id, "nodejs") }).unwrap();
    }
    let closing = super::import::plan(&there, vec![listed("db", &[], &["www"])]);
    assert_eq!(
        faults(&closing),
        ["applications[0].dependencies[0]: Application[db] Cannot declare a circular dependency on[www]"]
    );
    let turned = vec![listed("api", &[], &[]), listed("db", &[], &["www"])];
    assert_eq!(ids(&super::import::plan(&there, turned)), ["api", "db"], "the list goes before what is there");
    let refused = vec![listed("api", &[("cobol", None)], &[]), listed("db", &[], &["www"])];
    assert_eq!(ids(&super::import::plan(&there, refused)), Vec::<&str>::new());
}

#[test]
fn long_circles_and_deep_chains() {
    const LONG: usize = 20_000;
    let node = |number: usize, next: usize| {
        let needs = format!("n-{next}");
        Listed { id: format!("n-{number}").into(), dependencies: vec![needs.into()], ..listed("", &[("t", None)], &[]) }
    };
    let mut chain: Vec<Listed> = (0..LONG).map(|number| node(number, number + 1)).collect();
    chain.push(listed(&format!("n-{LONG}"), &[("t", None)], &[]));
    let deep = plan(&catalog(&["t"]), chain.clone());
    assert_eq!((deep.applications.len(), deep.refused.count()), (LONG + 1, 0));
    chain[LONG] = node(LONG, 0);
    let circle = plan(&catalog(&["t"]), chain);
    assert_eq!((circle.applications.len(), circle.refused.count()), (0, LONG + 1));
}

#[test]
fn a_full_catalog_takes_what_it_can() {
    let list = || (0..5).map(|number| listed(&format!("app{number}"), &[("play", None)], &[])).collect::<Vec<_>>();
    let rules = PortRules { ceiling: 6029, ..PortRules::default() };
    let full = catalog(&[]).plan(&rules, &List { types: Vec::new(), applications: list() }, around()).unwrap();
    assert_eq!(ids(&full), ["app0", "app1"]);
    assert_eq!(
        faults(&full)[0],
        "applications[2].ports[0].external: the limit catalog_ceiling of 6029 is reached (6021)"
    );
    let three = Around { applications: 3, ..around() };
    let few = planned(&catalog(&[]), &List { types: Vec::new(), applications: list() }, three);
    assert_eq!(ids(&few), ["app0", "app1", "app2"]);
    assert!(faults(&few)[0].starts_with("applications[3].id: the limit max_applications of 100000 is reached"));
}

/// An entry of a long chain is refused: nobody looks through the whole chain for every one behind it.
#[test]
fn a_refused_entry_costs_no_more_than_the_list() {
    const LONG: usize = 20_000;
    let id = |number: usize| format!("n-{number:05}");
    let node = |number: usize, needs: &[&str]| listed(&id(number), &[("t", None)], needs);
    let mut chain: Vec<Listed> = (1..LONG).map(|number| node(number, &[&id(number - 1)])).collect();
    chain.insert(0, node(0, &[]));
    let there = taken(&catalog(&["t"]), &plan(&catalog(&["t"]), chain.clone()));
    chain[0].ports[0].service = "unknown".into();
    let again = plan(&there, chain.clone());
    assert_eq!(
        (again.applications.len(), faults(&again)),
        (0, vec!["applications[0].ports[0].service: Service not found".to_owned()])
    );
    // The same chain the other way round: of each it is asked whether it closes a circle with what was refused, until that
    // takes too long.
    for (number, listed) in chain.iter_mut().enumerate() {
        listed.dependencies = if number + 1 < LONG { vec![id(number + 1).into()] } else { Vec::new() };
    }
    let turned = plan(&there, chain);
    assert!(!turned.refused.is_empty());
    let after = taken(&there, &turned);
    assert!(after.dependencies().start_order(None).is_ok());
}

/// Entries that are refused keep what they needed before, and what others then need closes no circle.
#[test]
fn what_is_refused_closes_no_circle() {
    let there = {
        let list = vec![listed("aa", &[("play", None)], &["bb"]), listed("bb", &[("play", None)], &[])];
        taken(&catalog(&[]), &plan(&catalog(&[]), list))
    };
    // Turned round, but for the one that is refused.
    let list = vec![listed("aa", &[("cobol", None)], &[]), listed("bb", &[("play", None)], &["aa"])];
    let turned = plan(&there, list);
    let told = [
        "applications[0].ports[0].service: Service not found",
        "applications[1].dependencies[0]: Application[bb] Cannot declare a circular dependency on[aa]",
    ];
    assert_eq!((ids(&turned), faults(&turned)), (vec![], told.map(str::to_owned).to_vec()));
}

#[test]
fn what_is_left_out_stays() {
    let list = vec![listed("aa", &[("play", None)], &["bb"]), listed("bb", &[("play", None)], &[])];
    let there = taken(&catalog(&[]), &plan(&catalog(&[]), list));
    let left_out = || vec![Listed { keeps: true, ..listed("aa", &[("nodejs", None)], &[]) }];
    let after = taken(&there, &plan(&there, left_out()));
    let aa = &after.applications()["aa"];
    assert_eq!((aa.ports.len(), &*aa.dependencies), (2, &[SmolStr::new("bb")][..]));
    let gone = taken(&after, &plan(&after, vec![listed("aa", &[], &[])]));
    assert!(gone.applications()["aa"].dependencies.is_empty());
}

/// Services that are known already take no room.
#[test]
fn services_have_to_have_room() {
    let entries = ["aa", "bb", "cc", "dd"].map(|id| listed(id, &[("play", None)], &[])).to_vec();
    let knows = |id: &str| id == "bb";
    let few = Around { services: (2, 300), knows: &knows, ..around() };
    let plan = planned(&catalog(&[]), &List { types: Vec::new(), applications: entries.clone() }, few);
    assert_eq!(ids(&plan), ["aa", "bb", "cc"]);
    assert_eq!(faults(&plan), ["applications[3].id: the limit max_services of 300 is reached (300)"]);
    let left = Around { is_awaited: &|| false, ..around() };
    let list = List { types: Vec::new(), applications: entries };
    assert_eq!(catalog(&[]).plan(&PortRules::default(), &list, left), None, "nobody waits");
}

#[test]
fn pieces_are_bounded_in_all_they_have() {
    let needs: Vec<SmolStr> = (0..900).map(|number| format!("needed-{number}").into()).collect();
    let planned = |dependencies: &[SmolStr]| Planned {
        application: Application { id: "x".into(), ports: Box::default(), dependencies: dependencies.into() },
        is_new: true,
    };
    let sizes = |applications: Vec<Planned>| -> Vec<usize> {
        ImportPlan { applications, ..ImportPlan::default() }.pieces().iter().map(|piece| piece.len()).collect()
    };
    assert_eq!(sizes(vec![planned(&[]); 600]), [250, 250, 100]);
    assert_eq!(sizes(vec![planned(&needs); 5]), [2, 2, 1]);
    assert_eq!(sizes(Vec::new()), Vec::<usize>::new());
    let only_types = ImportPlan { types: vec![ServiceTypeDraft::default()], ..ImportPlan::default() };
    assert_eq!(only_types.pieces().len(), 1);
}

fn decide(registry: &Registry, applications: Vec<Application>, after: u64) -> Decision {
    let action = CatalogAction::Import { types: Vec::new(), applications, after };
    let (namespace, at) = ("default".into(), Timestamp::default());
    let command = CatalogCommand { namespace, action, expected: 0, principal: Principal::anyone(), at };
    registry.decide(&Command::Catalog(Box::new(command)), 0)
}

#[test]
fn a_piece_is_all_or_nothing_and_respects_what_others_did() {
    let mut registry = Registry::new(1, StateLimits::default());
    let node = |id: &str, external| listed(id, &[("nodejs", Some(external))], &[]);
    let list = vec![node("one", 7000), node("two", 7010)];
    let planned = plan(registry.catalogs().book("default").catalog(), list);
    let piece: Vec<Application> = planned.applications.iter().map(|planned| planned.application.clone()).collect();
    let stolen = CatalogAction::Create(ApplicationDraft { external: Some(7010), ..draft("thief", "nodejs") });
    let (namespace, at) = ("default".into(), Timestamp::default());
    let stolen = CatalogCommand { namespace, action: stolen, expected: 0, principal: Principal::anyone(), at };
    let Decision::Propose(changes, _) = registry.decide(&Command::Catalog(Box::new(stolen)), 0) else { panic!() };
    registry.fold(1, &changes.into_iter().map(|guarded| guarded.change).collect::<Vec<Change>>());
    let refused = decide(&registry, piece.clone(), 0);
    assert!(matches!(refused, Decision::Reply(Err(Error::StaleRevision { .. }))), "{refused:?}");
    // What goes with it all the same is taken, and found again as it is.
    let Decision::Propose(changes, _) = decide(&registry, piece[..1].to_vec(), 0) else { panic!() };
    registry.fold(2, &changes.into_iter().map(|guarded| guarded.change).collect::<Vec<Change>>());
    assert!(matches!(decide(&registry, piece[..1].to_vec(), 0), Decision::Reply(Ok(_))));
}

/// As an export has it.
fn export(catalog: &Catalog) -> List {
    let seeds = seeds();
    let types = catalog.types().values().filter(|of| !seeds.contains(of));
    let draft = |of: &Arc<ServiceType>| ServiceTypeDraft {
        id: of.id.to_string(),
        default_port: Some(of.default_port.into()),
        offset: of.offset.map(Into::into),
        ..Default::default()
    };
    let port = |port: &Port| ListedPort {
        service: port.service.clone(),
        external: Some(port.external.into()),
        internal: Some(port.internal.into()),
    };
    let application = |of: &Arc<Application>| Listed {
        id: of.id.clone(),
        ports: of.ports.iter().map(port).collect(),
        dependencies: of.dependencies.to_vec(),
        ..Listed::default()
    };
    List { types: types.map(draft).collect(), applications: catalog.applications().values().map(application).collect() }
}

fn any_list() -> impl Strategy<Value = Vec<Listed>> {
    let id = || prop::sample::select(vec!["aa", "aa-b", "aa-b-c", "bb", "bb-x", "cc", "A", "dd-1", "ee"]);
    let service = prop::sample::select(vec!["nodejs", "play", "postgresql", "plain", "redis", "cobol"]);
    let external = prop::option::of(prop_oneof![6000..6060_i64, Just(80), Just(70_000)]);
    let ports = prop::collection::vec((service, external), 0..4);
    let entry = (id(), ports, prop::collection::vec(id(), 0..3));
    let entry = entry.prop_map(|(id, ports, needs)| listed(id, &ports, &needs));
    prop::collection::vec(entry, 0..12)
}

proptest! {
    /// Whatever is imported: what is taken can be taken one after the other, no rule is broken, an export imported into
    /// an empty catalog is the same again, and the same list again finds itself.
    #[test]
    fn an_export_is_what_was_imported(first in any_list(), second in any_list(), seed in any::<u64>()) {
        let (start, rules) = (catalog(&["plain", "redis"]), PortRules::default());
        let mut there = taken(&start, &plan(&start, first));
        there = taken(&there, &plan(&there, second.clone()));
        prop_assert!(there.dependencies().start_order(None).is_ok());
        let again = plan(&there, second);
        prop_assert!(again.applications.is_empty() || !again.refused.is_empty(), "{again:?}");
        let mut list = export(&there);
        // In whatever order.
        list.applications.sort_by_key(|listed| {
            listed.id.bytes().fold(seed | 1, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
        });
        let empty = Catalog::seeded();
        let whole = empty.plan(&rules, &list, around()).unwrap();
        prop_assert_eq!(&whole.refused, &Refusals::default());
        prop_assert_eq!(export(&taken(&empty, &whole)), export(&there));
    }
}
