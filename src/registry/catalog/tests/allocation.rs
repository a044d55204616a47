//! Ports: examples by hand, the second implementation by random histories, and every order of going and coming back.

use proptest::prelude::*;

use super::{
    naive::{Naive, Settings},
    *,
};

const DEFAULT: Settings =
    Settings { block_size: 10, floor: 6000, ceiling: 65535, denied_blocks: &["*00", "8080"], denied_ports: &[8080] };
/// Few blocks, so that they are full soon, with holes in them.
const TIGHT: Settings =
    Settings { ceiling: 6065, denied_blocks: &["*00", "6038"], denied_ports: &[6012, 6021], ..DEFAULT };
/// Blocks that decimal digits do not show.
const WIDE: Settings =
    Settings { block_size: 16, floor: 6000, ceiling: 6150, denied_blocks: &["*16", "6050"], denied_ports: &[6009] };
/// The last blocks there are.
const LAST: Settings = Settings { floor: 65500, denied_blocks: &[], ..DEFAULT };

const TYPES: [&str; 5] = ["nodejs", "play", "postgresql", "rust", "redis"];
const IDS: [&str; 14] = [
    "shop",
    "shop-www",
    "shop-api",
    "shop-api-postgresql",
    "shop-api-x-y",
    "shopping",
    "shop.",
    "a-b",
    "a-b-c",
    "a-c",
    "ab",
    "a-",
    "--",
    "-x",
];

fn rules(settings: Settings) -> PortRules {
    let rules = PortRules {
        block_size: settings.block_size as u16,
        floor: settings.floor as u16,
        ceiling: settings.ceiling as u16,
        denied_blocks: settings.denied_blocks.iter().map(|pattern| pattern.parse().unwrap()).collect(),
        denied_ports: settings.denied_ports.iter().map(|port| *port as u16).collect(),
    };
    assert_eq!(rules.faults(), []);
    rules
}

fn held(catalog: &Catalog) -> Vec<(String, Vec<(String, u32)>)> {
    let ports = |application: &Application| {
        application.ports.iter().map(|port| (port.service.to_string(), u32::from(port.external))).collect()
    };
    catalog.applications().values().map(|application| (application.id.to_string(), ports(application))).collect()
}

#[test]
fn the_defaults_are_those_of_the_rules() {
    assert_eq!(rules(DEFAULT), PortRules::default());
}

#[test]
fn by_hand() {
    let (mut catalog, rules) = (catalog(&["rust"]), PortRules::default());
    for (id, service, external) in [
        ("shop", "nodejs", 6010), // the block of 6000 ends in 00
        ("shop", "nodejs", 6010), // the same again
        ("shop-postgresql", "postgresql", 6019),
        ("shop-worker", "rust", 6012), // 0, 1 and 9 stay free
        ("shop-web", "play", 6011),
        ("shop-admin", "nodejs", 6020), // the family's first place is taken: above everything
        ("blog", "postgresql", 6039),
        ("shop-mail", "rust", 6013), // holes below are the family's
        ("blog-x", "rust", 6032),
        ("blog-x-y", "rust", 6033), // of the family blog-x, which owns that block too
        ("blogging", "play", 6041),
    ] {
        let application = put(&mut catalog, &rules, &draft(id, service)).unwrap();
        assert_eq!(application.port(service).unwrap().external, external, "{id}");
    }
    assert_eq!(catalog.applications()["shop"].ports.len(), 1);
    catalog.remove_application("blogging");
    let again = put(&mut catalog, &rules, &draft("other", "nodejs")).unwrap();
    assert_eq!(again.ports[0].external, 6040);
}

/// An explicit port counts: what comes next is above it, and its block is the family's, if it may be given out at all.
#[test]
fn explicit_ports() {
    let (mut catalog, rules) = (catalog(&["rust"]), PortRules::default());
    let mut external = |id: &str, service, external| {
        let draft = ApplicationDraft { external, ..draft(id, service) };
        put(&mut catalog, &rules, &draft).unwrap().ports.last().unwrap().external
    };
    assert_eq!(external("low", "nodejs", Some(1025)), 1025);
    assert_eq!(external("first", "nodejs", None), 6010);
    assert_eq!(external("low-b", "rust", None), 6022); // the block of 1020 is below the floor
    assert_eq!(external("denied", "nodejs", Some(8080)), 8080);
    assert_eq!(external("denied-b", "rust", None), 8092);
    assert_eq!(external("round", "nodejs", Some(8999)), 8999);
    assert_eq!(external("after", "nodejs", None), 9010); // not 9000
    assert_eq!(external("round-b", "rust", None), 8992);
}

/// At the end of all ports: the last block is used as far as it goes, then nothing is given and nothing lost.
#[test]
fn full() {
    let (mut catalog, rules) = (catalog(&["rust"]), rules(LAST));
    for (id, service, external) in
        [("aa", "nodejs", 65500), ("bb", "nodejs", 65510), ("cc", "nodejs", 65520), ("dd", "rust", 65532)]
    {
        assert_eq!(put(&mut catalog, &rules, &draft(id, service)).unwrap().ports[0].external, external, "{id}");
    }
    let before = held(&catalog);
    let full = Refusal::Full(Full { highest: Some(65532), ceiling: 65535 });
    assert_eq!(put(&mut catalog, &rules, &draft("ee", "rust")), Err(full.clone()));
    assert_eq!(put(&mut catalog, &rules, &draft("dd", "postgresql")), Err(full));
    assert_eq!(held(&catalog), before);
    // Who has a block has room, and what goes makes room again.
    assert_eq!(put(&mut catalog, &rules, &draft("aa", "postgresql")).unwrap().ports[1].external, 65509);
    catalog.remove_application("dd");
    assert_eq!(put(&mut catalog, &rules, &draft("ee", "rust")).unwrap().ports[0].external, 65532);
}

#[derive(Clone, Debug)]
enum Op {
    Put(usize, usize, Option<u32>),
    Delete(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let external = prop_oneof![
        8 => Just(None),
        1 => (5990..6160u32).prop_map(Some),
        1 => (1025..65536u32).prop_map(Some),
    ];
    prop_oneof![
        4 => (0..IDS.len(), 0..TYPES.len(), external).prop_map(|(id, service, external)| Op::Put(id, service, external)),
        1 => (0..IDS.len()).prop_map(Op::Delete),
    ]
}

fn agree(settings: Settings, ops: &[Op]) {
    let (mut catalog, rules) = (catalog(&["rust", "redis"]), rules(settings));
    let mut naive = Naive { settings, applications: Vec::new() };
    for op in ops {
        match *op {
            Op::Put(id, service, external) => {
                let (id, service) = (IDS[id], TYPES[service]);
                let external = external.filter(|port| catalog.ports().owner(*port as u16).is_none());
                let draft = ApplicationDraft { external: external.map(i64::from), ..draft(id, service) };
                let done = put(&mut catalog, &rules, &draft);
                assert!(matches!(done, Ok(_) | Err(Refusal::Full(_))), "{done:?}");
                assert_eq!(done.is_ok(), naive.put(id, service, external), "{op:?}");
            }
            Op::Delete(id) => {
                catalog.remove_application(IDS[id]);
                naive.delete(IDS[id]);
            }
        }
        assert_eq!(held(&catalog), naive.sorted(), "after {op:?}");
        let owners: usize = catalog.applications().values().map(|application| application.ports.len()).sum();
        assert_eq!(catalog.ports().within(0, u16::MAX).count(), owners);
    }
    IDS.iter().for_each(|id| _ = catalog.remove_application(id));
    assert_eq!(format!("{:?}", catalog.ports()), format!("{:?}", Ports::default()));
    assert_eq!(TYPES.map(|service| catalog.users(service)), [0; 5]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any history of puts and deletions gives exactly the ports that the second implementation gives.
    #[test]
    fn agrees_with_the_second_implementation(
        settings in proptest::sample::select(vec![DEFAULT, TIGHT, WIDE, LAST]),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        agree(settings, &ops);
    }
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let rest = |first: usize| of.iter().copied().filter(move |one| *one != first).collect::<Vec<_>>();
    let with = |first: usize| {
        permutations(&rest(first)).into_iter().map(move |rest| [vec![first], rest].concat()).collect::<Vec<_>>()
    };
    of.iter().flat_map(|first| with(*first)).collect()
}

/// Whoever goes and comes back in whatever order gets what the rules say, and nothing is left of who went.
#[test]
fn every_order_of_deletion_and_creation() {
    let all = [1, 2, 3, 7]; // two families, three kinds
    for gone in permutations(&all) {
        for back in permutations(&all) {
            let ops = all.iter().map(|id| Op::Put(*id, *id % TYPES.len(), None));
            let ops = ops.chain(gone.iter().map(|id| Op::Delete(*id)));
            let ops = ops.chain(back.iter().map(|id| Op::Put(*id, *id % TYPES.len(), None)));
            let ops = ops.chain([Op::Delete(back[0]), Op::Put(back[1], 4, None), Op::Put(back[0], 0, None)]);
            agree(Settings { ceiling: 6199, ..DEFAULT }, &ops.collect::<Vec<_>>());
        }
    }
}

#[test]
fn patterns_of_blocks() {
    for text in ["*00", "*5", "8080", "*12345", "1"] {
        assert_eq!(text.parse::<BlockPattern>().unwrap().to_string(), text);
    }
    for text in ["", "*", "x", "*x", "-1", "65536", "123456", "00*", "*00 "] {
        assert_eq!(
            text.parse::<BlockPattern>(),
            Err(format!("`{text}` is neither a port nor an ending such as `*00`"))
        );
    }
}

#[test]
fn rules_that_cannot_be() {
    let rules = |block_size, floor, ceiling| PortRules { block_size, floor, ceiling, ..PortRules::default() };
    let settings = |rules: PortRules| rules.faults().into_iter().map(|(setting, _)| setting).collect::<Vec<_>>();
    assert_eq!(settings(rules(10, 6000, 65535)), [""; 0]);
    assert_eq!(settings(rules(16, 6001, 6000)), ["floor", "ceiling"]);
    let [nodejs, play, postgresql] = seeds();
    assert_eq!(rules(8, 6000, 65535).fault_of(&nodejs), None);
    assert_eq!(rules(8, 6000, 65535).fault_of(&play), None);
    assert_eq!(
        rules(8, 6000, 65535).fault_of(&postgresql).as_deref(),
        Some("the service type postgresql has the offset 9, beyond a block of 8")
    );
}

/// What is stored may be of other times and their ceiling.
#[test]
fn ports_above_the_ceiling_are_told() {
    let mut ports = Ports::default();
    ports.take(&"shop".into(), 20_019);
    ports.take(&"shop".into(), 20_010);
    ports.take(&"blog".into(), 7_000);
    let hint = |ceiling| PortRules { ceiling, ..PortRules::default() }.hint_of(&ports);
    assert_eq!(hint(20_019), None);
    assert_eq!(hint(u16::MAX), None);
    let told = "ports in use above catalog_ceiling 7000: 2, the first is 20010 of shop; new families get no port";
    assert_eq!(hint(7_000).as_deref(), Some(told));
}
