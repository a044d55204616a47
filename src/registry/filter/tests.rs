//! Tables and properties of filters and their unions.

use proptest::prelude::*;

use super::*;
use crate::registry::Status;

fn filter(namespace: &str, service: &str, version: &str, selector: &str) -> Filter {
    Filter::new(namespace, service, version, selector).unwrap_or_else(|violations| panic!("{violations:?}"))
}

fn instance(namespace: &str, service: &str, version: &str, zone: &str, status: Status) -> Instance {
    Instance {
        namespace: namespace.into(),
        service: service.into(),
        id: "1".into(),
        version: version.into(),
        zone: zone.into(),
        status: status.into(),
        ..Instance::default()
    }
}

#[test]
fn filters_against_instances() {
    let web = instance("default", "web", "1.2.3", "a", Status::Serving);
    let draining = instance("default", "web", "1.2.3", "a", Status::Draining);
    let suspect = instance("team", "web", "", "", Status::Suspect);
    for (namespace, service, version, selector, expected) in [
        ("", "", "", "", [true, false, false]),
        ("default", "web", "", "", [true, false, false]),
        ("*", "", "", "", [true, false, true]),
        ("*", "web", "", "", [true, false, true]),
        ("*", "api", "", "", [false, false, false]),
        ("team", "", "", "", [false, false, true]),
        ("", "web", "^1", "", [true, false, false]),
        ("*", "web", "*", "", [true, false, false]),
        ("", "web", "^1", "zone=a", [true, false, false]),
        ("", "web", "^2", "zone=a", [false, false, false]),
        ("*", "", "", "status=*", [true, true, true]),
        ("*", "", "", "status=draining", [false, true, false]),
        ("*", "", "", "status!=suspect,version=1.x", [true, true, false]),
        ("*", "", "", "zone!=a", [false, false, true]),
    ] {
        let filter = filter(namespace, service, version, selector);
        let found = [&web, &draining, &suspect].map(|instance| filter.matches(instance));
        assert_eq!(found, expected, "{filter}");
    }
}

#[test]
fn all_violations_at_once() {
    let violations = Filter::new("a/b", " web", "^x.y", "zone=").expect_err("four faults");
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["namespace", "service", "version", "selector"]);
    assert!(violations[3].description.ends_with("found the end (at byte 5)"), "{violations:?}");
}

#[test]
fn scopes_and_plainness() {
    let all = filter("*", "", "", "");
    assert_eq!((all.scope(), all.is_plain()), (Scope::All, true));
    let namespace = filter("", "", "", "");
    assert_eq!((namespace.scope(), namespace.is_plain()), (Scope::Namespace("default".into()), true));
    let service = filter("team", "web", "", "");
    assert_eq!((service.scope(), service.is_plain()), (Scope::Service("team".into(), "web".into()), true));
    let everywhere = filter("*", "web", "", "");
    assert_eq!((everywhere.scope(), everywhere.is_plain()), (Scope::All, false));
    assert!(!filter("", "web", "*", "").is_plain());
    assert!(!filter("", "web", "", "status").is_plain());
}

#[test]
fn canonical_texts() {
    for (filter, text) in [
        (filter("", "", "", ""), "default/*"),
        (filter("*", "", "", ""), "*/*"),
        (filter("*", "*", "", ""), "*/\"*\""),
        (filter("team", "web", "1.x", "zone=b,id=a"), "team/web version \"=1\" selector id=a,zone=b"),
        (filter("", "web version \"1\"", "", ""), "default/\"web version \\\"1\\\"\""),
    ] {
        assert_eq!(filter.to_string(), text);
    }
}

#[test]
fn the_fingerprint_is_fixed() {
    // Resume tokens carry it across restarts and upgrades: a change makes every watch begin anew.
    assert_eq!(FilterSet::default().fingerprint(), 0x6bb1_abce_798a_418d);
    let set = FilterSet::new([filter("", "web", "^1 || ^3", "zone in (a,b)"), filter("*", "api", "", "")]);
    assert_eq!(set.to_string(), "*/api\ndefault/web version \"^1||^3\" selector zone in (a,b)");
    assert_eq!(set.fingerprint(), 0xf06d_c40b_1c6a_c357);
}

#[test]
fn no_selector_is_every_service_of_default() {
    assert_eq!(FilterSet::new([]), FilterSet::new([filter("", "", "", "")]));
    assert_eq!(FilterSet::default(), FilterSet::new([filter("default", "", "", "")]));
}

fn filters() -> impl Strategy<Value = Filter> {
    let namespace = prop::sample::select(vec!["", "*", "team"]);
    let service = prop::sample::select(vec!["", "web", "api"]);
    let version = prop::sample::select(vec!["", "^1", "2.0.0", "*"]);
    let selector =
        prop::sample::select(vec!["", "zone=a", "zone!=a", "status=*", "status=draining,zone", "weight in (1,0)"]);
    (namespace, service, version, selector).prop_map(|(n, s, v, t)| filter(n, s, v, t))
}

fn instances() -> impl Strategy<Value = Instance> {
    let namespace = prop::sample::select(vec!["default", "team"]);
    let service = prop::sample::select(vec!["web", "api"]);
    let version = prop::sample::select(vec!["", "1.2.3", "2.0.0", "2.0.0-a"]);
    let zone = prop::sample::select(vec!["", "a", "b"]);
    let status = prop::sample::select(vec![Status::Serving, Status::Suspect, Status::Draining, Status::Starting]);
    (namespace, service, version, zone, status).prop_map(|(n, s, v, z, t)| instance(n, s, v, z, t))
}

proptest! {
    #[test]
    fn a_union_matches_what_any_part_matches(parts in prop::collection::vec(filters(), 1..5), instance in instances()) {
        let set = FilterSet::new(parts.clone());
        prop_assert_eq!(set.matches(&instance), parts.iter().any(|part| part.matches(&instance)));
    }

    #[test]
    fn order_and_repetition_do_not_matter(parts in prop::collection::vec(filters(), 1..5), turn in 0..5usize) {
        let set = FilterSet::new(parts.clone());
        let mut turned = parts.clone();
        turned.rotate_left(turn % parts.len());
        turned.extend(parts);
        let turned = FilterSet::new(turned);
        prop_assert_eq!(set.fingerprint(), turned.fingerprint());
        prop_assert_eq!(set, turned);
    }

    #[test]
    fn nothing_matches_outside_the_scope(filter in filters(), instance in instances()) {
        let covered = filter.scope().covers(&instance.namespace, &instance.service);
        prop_assert!(covered || !filter.matches(&instance));
        if filter.is_plain() {
            prop_assert_eq!(filter.matches(&instance), covered && instance.status().is_routable());
        }
    }
}

/// Whose places a watch takes.
#[test]
fn one_of_every_namespace_names_those_that_it_is_narrowed_to() {
    let realms = |namespaces: &[&str]| -> Vec<Realm> {
        namespaces.iter().map(|namespace| Realm::parse(namespace).unwrap()).collect()
    };
    let named = |namespace: &str, within: &[&str]| -> Vec<String> {
        let filter = filter(namespace, "", "", "").within(&realms(within)).unwrap();
        FilterSet::new([filter]).namespaces().map(str::to_owned).collect()
    };
    assert_eq!(named("*", &["team-b", "team-a", "x-*"]), ["team-a", "team-b"]);
    assert_eq!(named("*", &["*", "team-a"]), [""; 0]);
    assert_eq!(named("team-a", &["team-b", "team-*"]), ["team-a"]);
}
