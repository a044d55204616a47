//! What is refused, in which words, and all of it at once; what changes nothing.

use super::*;

fn faults<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Vec<String> {
    let violations = match result {
        Err(Refusal::Invalid(violations)) => violations,
        Err(Refusal::Exists(violation)) => vec![violation],
        other => panic!("{other:?}"),
    };
    violations.into_iter().map(|violation| format!("{}: {}", violation.field, violation.description)).collect()
}

fn needing(id: &str, service: Option<&str>, dependencies: &[&str]) -> ApplicationDraft {
    ApplicationDraft {
        id: id.to_owned(),
        service: service.map(Into::into),
        dependencies: Some(dependencies.iter().map(|dependency| (*dependency).to_owned()).collect()),
        ..ApplicationDraft::default()
    }
}

/// api, which db, www and admin have to do with: www needs api, api needs db.
fn shop() -> (Catalog, PortRules) {
    let (mut catalog, rules) = (catalog(&[]), PortRules::default());
    for (id, service, dependencies) in
        [("db", "postgresql", &[][..]), ("api", "play", &["db"]), ("www", "nodejs", &["api"]), ("admin", "nodejs", &[])]
    {
        put(&mut catalog, &rules, &needing(id, Some(service), dependencies)).unwrap();
    }
    (catalog, rules)
}

#[test]
fn everything_that_is_wrong_with_a_new_application() {
    let (catalog, rules) = shop();
    let draft = ApplicationDraft {
        external: Some(6019),
        internal: Some(0),
        ..needing("My App", Some("cobol"), &["db", "gone", "My App", "gone"])
    };
    let letters = "Key must be in all lower case and contain alphanumerics only (-, _, and . are supported). A valid key \
                   would be: myapp";
    assert_eq!(
        faults(catalog.create(&rules, &draft)),
        [
            &format!("id: {letters}"),
            "service: Service not found",
            "dependencies[1]: Dependency[gone] references a non existing application",
            "dependencies[2]: Cannot declare dependency[My App] on self",
            "external: External port 6019 is already assigned to the application db",
            "internal: Internal port must be > 0",
        ]
    );
    let draft = ApplicationDraft { external: Some(1024), internal: Some(70_000), ..ApplicationDraft::default() };
    let wrong = [
        "id: Id cannot be empty",
        "service: Must specify service when creating application",
        "external: External port must be > 1024",
        "internal: Internal port must be <= 65535",
    ];
    assert_eq!(faults(catalog.create(&rules, &draft)), wrong);
    assert_eq!(faults(catalog.put(&rules, &draft)), wrong);
    let far = ApplicationDraft { external: Some(65_536), ..draft_of("new") };
    assert_eq!(faults(catalog.create(&rules, &far)), ["external: External port must be <= 65535"]);
    let negative = ApplicationDraft { external: Some(i64::MIN), internal: Some(-1), ..draft_of("new") };
    assert_eq!(
        faults(catalog.create(&rules, &negative)),
        ["external: External port must be > 1024", "internal: Internal port must be > 0"]
    );
}

/// What was wrong before the rules were asked is told with what they say.
#[test]
fn faults_of_the_request_are_told_too() {
    let (catalog, rules) = (catalog(&[]), PortRules::default());
    let fault = crate::registry::Violation { field: "namespace".into(), description: "is none".into() };
    let draft = ApplicationDraft { faults: vec![fault.clone()], ..needing("B", Some("cobol"), &[]) };
    let wanted = ["namespace: is none", "id: Key must be at least 2 characters", "service: Service not found"];
    assert_eq!(faults(catalog.create(&rules, &draft)), wanted);
    assert_eq!(faults(catalog.put(&rules, &draft)), wanted);
    let draft = ServiceTypeDraft { id: "nodejs".into(), faults: vec![fault], ..Default::default() };
    assert_eq!(faults(catalog.put_type_draft(&rules, &draft)), wanted[..1]);
    assert_eq!(faults(catalog.create_type(&rules, &draft)).len(), 3, "and being there is one of them");
}

#[test]
fn ports_are_given_up() {
    let (mut catalog, rules) = (catalog(&["redis"]), PortRules::default());
    for service in ["play", "redis", "postgresql"] {
        put(&mut catalog, &rules, &draft("api", service)).unwrap();
    }
    let without = |service: Option<&str>, without: &[&str]| ApplicationDraft {
        service: service.map(str::to_owned),
        without: without.iter().map(|&service| service.to_owned()).collect(),
        ..draft("api", "")
    };
    let wrong = faults(catalog.put(&rules, &without(Some("play"), &["play", "cobol"])));
    assert_eq!(
        wrong,
        ["without_services[0]: must not be the service that is given", "without_services[1]: Service not found",]
    );
    let all = faults(catalog.put(&rules, &without(None, &["play", "redis", "postgresql"])));
    assert_eq!(all, ["without_services: must leave a port"]);
    let left = put(&mut catalog, &rules, &without(Some("nodejs"), &["redis", "play"])).unwrap();
    let ports: Vec<_> = left.ports.iter().map(|port| (port.service.as_str(), port.external)).collect();
    assert_eq!(ports, [("postgresql", 6019), ("nodejs", 6010)]);
    assert_eq!((catalog.ports().owner(6011), catalog.users("play"), catalog.users("nodejs")), (None, 0, 1));
    // What it has no port of changes nothing.
    assert!(matches!(catalog.put(&rules, &without(None, &["redis"])), Ok(Drafted::Same(_))));
}

fn draft_of(id: &str) -> ApplicationDraft {
    draft(id, "nodejs")
}

#[test]
fn an_id_is_taken_once() {
    let (catalog, rules) = shop();
    let refused = catalog.create(&rules, &draft_of("api"));
    assert!(matches!(&refused, Err(Refusal::Exists(_))), "{refused:?}");
    assert_eq!(faults(refused), ["id: Application with this id already exists"]);
    let worse = ApplicationDraft { internal: Some(0), ..draft_of("api") };
    assert!(matches!(catalog.create(&rules, &worse), Err(Refusal::Invalid(violations)) if violations.len() == 2));
}

#[test]
fn no_cycle_of_any_length() {
    let (mut catalog, rules) = shop();
    let refused = catalog.put(&rules, &needing("db", None, &["admin", "www", "api", "db"]));
    assert_eq!(
        faults(refused),
        [
            "dependencies[1]: Application[db] Cannot declare a circular dependency on[www]",
            "dependencies[2]: Application[db] Cannot declare a circular dependency on[api]",
            "dependencies[3]: Cannot declare dependency[db] on self",
        ]
    );
    assert_eq!(
        faults(catalog.depend("db", "www")),
        ["dependency: Application[db] Cannot declare a circular dependency on[www]"]
    );
    assert_eq!(faults(catalog.depend("db", "db")), ["dependency: Cannot declare dependency[db] on self"]);
    // Turned round in one step: what it needed before does not count.
    put(&mut catalog, &rules, &needing("www", None, &[])).unwrap();
    assert_eq!(*put(&mut catalog, &rules, &needing("db", None, &["www"])).unwrap().dependencies, ["www"]);
}

#[test]
fn one_dependency_more_or_less() {
    let (mut catalog, _) = shop();
    let Ok(Drafted::New(more)) = catalog.depend("admin", "www") else { panic!() };
    assert_eq!(*more.dependencies, ["www"]);
    catalog.put_application(more.into());
    assert!(matches!(catalog.depend("admin", "www"), Ok(Drafted::Same(_))));
    let Ok(Drafted::New(less)) = catalog.undepend("admin", "www") else { panic!() };
    assert_eq!(*less.dependencies, [""; 0]);
    catalog.put_application(less.into());
    assert!(matches!(catalog.undepend("admin", "www"), Ok(Drafted::Same(_))));
    assert_eq!(catalog.depend("gone", "www"), Err(Refusal::NotFound));
    assert_eq!(catalog.undepend("gone", "www"), Err(Refusal::NotFound));
    assert_eq!(faults(catalog.depend("admin", "gone")), ["dependency: Application named[gone] not found"]);
    assert_eq!(faults(catalog.undepend("admin", "gone")), ["dependency: Application named[gone] not found"]);
}

#[test]
fn a_put_changes_what_is_given() {
    let (mut catalog, rules) = shop();
    let api = Arc::clone(&catalog.applications()["api"]);
    // A type that it has, whatever else is said of it, and what it needs already.
    for draft in [
        draft("api", "play"),
        ApplicationDraft { external: Some(7000), internal: Some(1), ..draft("api", "play") },
        ApplicationDraft { external: Some(6021), ..draft("api", "play") },
        needing("api", None, &["db", "db"]),
        ApplicationDraft { id: "api".to_owned(), ..ApplicationDraft::default() },
    ] {
        assert_eq!(catalog.put(&rules, &draft), Ok(Drafted::Same(Arc::clone(&api))), "{draft:?}");
    }
    let with = ApplicationDraft { internal: Some(5433), ..draft("api", "postgresql") };
    let with = put(&mut catalog, &rules, &with).unwrap();
    let ports: Vec<_> = with.ports.iter().map(|port| (&*port.service, port.external, port.internal)).collect();
    assert_eq!(ports, [("play", 6021, 9000), ("postgresql", 6029, 5433)]);
    assert_eq!(*with.dependencies, ["db"]);
    assert_eq!(*put(&mut catalog, &rules, &needing("api", None, &[])).unwrap().dependencies, [""; 0]);
    // Its own port of another type is somebody's too.
    let own = ApplicationDraft { external: Some(6029), ..draft("api", "nodejs") };
    let taken = ["external: External port 6029 is already assigned to the application api"];
    assert_eq!(faults(catalog.put(&rules, &own)), taken);
    let lost = ApplicationDraft { service: None, ..own };
    assert_eq!(faults(catalog.put(&rules, &lost))[0], "service: Must specify service when giving ports");
}

#[test]
fn what_others_need_stays() {
    let (mut catalog, _) = shop();
    let in_use =
        |sentence: &str, by: &[&str]| Refusal::InUse(sentence.to_owned(), by.iter().map(SmolStr::new).collect());
    assert_eq!(
        catalog.expendable("db").unwrap_err(),
        in_use("1 or more applications depend on this application", &["api"])
    );
    let sentence = "1 or more applications is using this service";
    assert_eq!(catalog.expendable_type("nodejs").unwrap_err(), in_use(sentence, &["admin", "www"]));
    assert_eq!(catalog.expendable("gone"), Err(Refusal::NotFound));
    assert_eq!(catalog.expendable_type("gone"), Err(Refusal::NotFound));
    for id in ["www", "api", "db", "admin"] {
        assert_eq!(catalog.expendable(id).unwrap().id, id);
        catalog.remove_application(id);
    }
    assert_eq!(catalog.expendable_type("nodejs").unwrap().default_port, 7050);
}

#[test]
fn service_types() {
    let (catalog, rules) = shop();
    let draft = |id: &str, default_port, offset| ServiceTypeDraft {
        id: id.to_owned(),
        default_port,
        offset,
        ..Default::default()
    };
    let redis = catalog.create_type(&rules, &draft("redis", Some(6379), None)).unwrap();
    assert_eq!((redis.default_port, redis.offset), (6379, None));
    assert_eq!(
        faults(catalog.create_type(&rules, &draft("db", Some(1024), Some(10)))),
        [
            "id: Key must be at least 3 characters",
            "default_port: Default port must be > 1024",
            "offset: Offset must be >= 0 and < 10"
        ]
    );
    assert_eq!(
        faults(catalog.create_type(&rules, &draft("redis", None, Some(-1)))),
        ["default_port: Default port must be > 1024", "offset: Offset must be >= 0 and < 10"]
    );
    let again = catalog.create_type(&rules, &draft("play", Some(9001), None));
    assert_eq!(faults(again), ["id: Service with this id already exists"]);
    let Ok(Drafted::New(play)) = catalog.put_type_draft(&rules, &draft("play", Some(9001), None)) else { panic!() };
    assert_eq!((play.default_port, play.offset), (9001, Some(1)));
    let same = catalog.put_type_draft(&rules, &draft("play", None, Some(1)));
    assert!(matches!(same, Ok(Drafted::Same(_))), "{same:?}");
}

#[test]
fn more_dependencies_than_are_kept() {
    let (catalog, rules) = shop();
    let many: Vec<String> = (0..=draft::MAX_DEPENDENCIES).map(|number| format!("app-{number}")).collect();
    let draft = ApplicationDraft { dependencies: Some(many), ..draft_of("new") };
    assert_eq!(faults(catalog.create(&rules, &draft)), ["dependencies: must be at most 1000, not 1001"]);
}
