//! What dependencies cost: finding them, waiting for them, admitting a ring, and taking a url over.
//! `cargo bench --bench dependencies`.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use divan::{Bencher, black_box};
use onair::{
    actor::{ActorOptions, LookupQuery, PickKind, RegistryHandle, ResolveQuery, anyone},
    engine::memory::MemoryEngine,
    proto::Instance,
    registry::{
        Change, Command, Context, Decision, Event, Filter, FilterSet, Guarded, IfMissing, Needs, Principal, Register,
        Registration, Registry, Secret, StateLimits, WaitId, Waiting,
    },
};
use uuid::Uuid;

fn main() {
    divan::main();
}

/// Dependencies of one service.
const NEEDS: usize = 50;
/// Instances of each of them.
const REPLICAS: usize = 10;

fn registration(service: &str, id: usize, needs: &[String]) -> Registration {
    let instance = Instance {
        service: service.into(),
        host: "10.0.0.1".into(),
        port: 1_024 + (id % 60_000) as u32,
        id: format!("instance-{id}"),
        version: "1.2.3".into(),
        url: format!("http://{service}-{id}.example:8080/some/path"),
        ..Instance::default()
    };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let registration = Registration::parse(instance, None, context).expect("a registration");
    Registration { needs: wanted(needs, IfMissing::Wait), ..registration }
}

fn wanted(needs: &[String], if_missing: IfMissing) -> Needs {
    let dependencies: BTreeMap<String, String> = needs.iter().map(|name| (name.clone(), "^1.2".to_owned())).collect();
    Needs::parse("", &dependencies, &BTreeMap::new(), if_missing).expect("needs")
}

fn register(service: &str, id: usize, needs: &[String]) -> Arc<Register> {
    let (principal, secret) = (Principal::anyone(), Secret([1; 16]));
    let at = prost_types::Timestamp::default();
    Arc::new(Register { registration: registration(service, id, needs), token: None, principal, secret, at })
}

/// Decides and folds.
fn commit(registry: &mut Registry, members: Vec<Arc<Register>>) -> Vec<Event> {
    let Decision::Propose(changes, _) = registry.decide(&Command::Admit { members, at: 0 }, 0) else {
        panic!("it cannot be admitted")
    };
    let changes: Vec<Change> = changes.into_iter().map(|Guarded { change, .. }| change).collect();
    let revision = registry.revision() + 1;
    registry.fold(revision, &changes).events
}

fn names() -> Vec<String> {
    (0..NEEDS).map(|number| format!("service-{number}")).collect()
}

/// A registry that runs, with all that is needed.
fn running() -> (tokio::runtime::Runtime, RegistryHandle) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let handle = runtime.block_on(async {
        let recovered = MemoryEngine::recovered(Uuid::from_u128(1), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        for name in names() {
            for id in 0..REPLICAS {
                handle.register(registration(&name, id, &[]), None, anyone(), None).await.expect("registered");
            }
        }
        handle
    });
    (runtime, handle)
}

/// All dependencies at once.
#[divan::bench]
fn resolve_of_50(bencher: Bencher<'_, '_>) {
    let (runtime, handle) = running();
    let query = ResolveQuery { needs: wanted(&names(), IfMissing::Fail), prefer_zone: String::new(), deadline: None };
    bencher.bench_local(|| runtime.block_on(handle.resolve(query.clone())).expect("all are there"));
}

/// One after the other, each with the pick that a resolve does.
#[divan::bench]
fn lookups_of_50(bencher: Bencher<'_, '_>) {
    let (runtime, handle) = running();
    let names = names();
    bencher.bench_local(|| {
        runtime.block_on(async {
            for name in &names {
                let query = LookupQuery {
                    filters: FilterSet::new([Filter::new("", name, "^1.2", "").expect("a filter")]),
                    pick: PickKind::Weighted,
                    pick_key: String::new(),
                    limit: 1,
                    page_token: String::new(),
                    prefer_zone: String::new(),
                    wait: std::time::Duration::ZERO,
                    min_revision: 0,
                    falls_back: false,
                    deadline: None,
                };
                black_box(handle.lookup(query).await.expect("it is there"));
            }
        });
    });
}

/// One more arrives who needs what so many wait for already, and leaves.
#[divan::bench(args = [1, 1_000, 10_000])]
fn one_more_waits(bencher: Bencher<'_, '_>, waiting: usize) {
    let (registry, mut set) = (Registry::new(1, StateLimits::default()), crowd(waiting));
    let one = register("late", 1, &["db".to_owned()]);
    let id = waiting as WaitId;
    bencher.bench_local(|| {
        set.arrive(&registry, id, Arc::clone(&one));
        black_box(set.admissible(&registry, [id], &HashSet::new()));
        set.leave(id)
    });
}

/// An event that is not of the service that so many wait for.
#[divan::bench(args = [1, 1_000, 10_000])]
fn an_event_of_another_service(bencher: Bencher<'_, '_>, waiting: usize) {
    let mut registry = Registry::new(1, StateLimits::default());
    let mut set = crowd(waiting);
    let events = commit(&mut registry, vec![register("web", 1, &[])]);
    bencher.bench_local(|| {
        let mut stirred = BTreeSet::new();
        set.follow(black_box(&events[0]), &mut stirred);
        stirred
    });
}

/// What they wait for comes online: all of them are found, decided and folded.
#[divan::bench(args = [1, 1_000, 10_000])]
fn what_all_wait_for_comes(bencher: Bencher<'_, '_>, waiting: usize) {
    bencher.with_inputs(|| (Registry::new(1, StateLimits::default()), crowd(waiting))).bench_local_values(
        |(mut registry, mut set)| {
            let events = commit(&mut registry, vec![register("db", 1, &[])]);
            let mut stirred = BTreeSet::new();
            set.follow(&events[0], &mut stirred);
            let groups = set.admissible(&registry, stirred, &HashSet::new());
            for pack in groups.chunks(100) {
                let members = pack.iter().flatten().filter_map(|id| set.leave(*id)).collect();
                black_box(commit(&mut registry, members));
            }
            assert!(set.is_empty());
            (registry, set)
        },
    );
}

fn crowd(waiting: usize) -> Waiting {
    let (registry, mut set) = (Registry::new(1, StateLimits::default()), Waiting::default());
    for id in 0..waiting {
        set.arrive(&registry, id as WaitId, register("client", id, &["db".to_owned()]));
    }
    set
}

/// The last member of a ring arrives: the search alone.
#[divan::bench(args = [100, 1_000, 10_000])]
fn a_ring_closes(bencher: Bencher<'_, '_>, members: usize) {
    let (registry, mut set) = (Registry::new(1, StateLimits::default()), Waiting::default());
    let name = |place: usize| format!("member-{}", place % members);
    for place in 0..members {
        set.arrive(&registry, place as WaitId, register(&name(place), place, &[name(place + 1)]));
    }
    bencher.bench_local(|| {
        let groups = set.admissible(&registry, [members as WaitId - 1], &HashSet::new());
        assert_eq!(groups.len(), 1);
        groups
    });
}

/// A url is taken from whoever has it, in registries of different sizes.
#[divan::bench(args = [1_000, 100_000])]
fn a_url_is_taken_over(bencher: Bencher<'_, '_>, size: usize) {
    let mut registry = Registry::new(1, StateLimits::default());
    for id in 0..size {
        commit(&mut registry, vec![register("web", id, &[])]);
    }
    let taking = |id: usize| {
        let mut register = Register::clone(&register("web", 7, &[]));
        register.registration.instance.id = format!("taker-{}", id % 2);
        register.registration.exclusive_url = true;
        Arc::new(register)
    };
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        commit(&mut registry, vec![taking(turn)])
    });
}
