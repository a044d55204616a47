//! What the catalog costs: applications made, durable, by one caller and by 64; the start order and the look for cycles in
//! a catalog of 1,000 and of 10,000 applications. `cargo bench --bench catalog -- DIR`: DIR is made, must be on the disk to
//! be measured, and is left there. The figures are in `docs/decisions/0013-catalog.md`.

use std::{
    hint::black_box,
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use onair::{
    actor::{ActorOptions, RegistryHandle, anyone},
    engine::local::{LocalEngine, Options},
    proto::Instance,
    registry::{
        Context, Registration,
        catalog::{ApplicationDraft, Catalog, CatalogAction, Dependencies, Drafted, PortRules, ServiceTypeDraft},
    },
};
use smol_str::SmolStr;
use uuid::Uuid;

/// Applications made for each number of callers, and instances registered.
const MADE: [(usize, usize); 2] = [(1, 1_000), (64, 10_000)];
/// Sizes of graphs.
const SIZES: [usize; 2] = [1_000, 10_000];
/// How often each look is repeated.
const REPEATS: u32 = 50;

fn main() {
    let dir = std::env::args().skip(1).find(|argument| argument != "--bench");
    let Some(dir) = dir else {
        eprintln!("usage: cargo bench --bench catalog -- DIR");
        return;
    };
    for size in SIZES {
        graph(size);
        decide(size);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    for (callers, count) in MADE {
        runtime.block_on(durable(&Path::new(&dir).join(format!("callers-{callers}")), callers, count));
    }
}

fn name(number: usize) -> SmolStr {
    SmolStr::new(format!("family-{}-{number}", number / 5))
}

/// As programs are: each needs up to five of those that came shortly before it.
fn needs(number: usize) -> Arc<[SmolStr]> {
    (1..=5).filter_map(|step| number.checked_sub(step * step * 3)).map(name).collect()
}

/// Any free port of a block.
fn plain() -> ServiceTypeDraft {
    ServiceTypeDraft { id: "plain".into(), default_port: Some(4_000), offset: None, ..Default::default() }
}

fn timed(what: &str, mut act: impl FnMut()) {
    let start = Instant::now();
    (0..REPEATS).for_each(|_| act());
    println!("{what:<60} {:>10.1} µs", (start.elapsed() / REPEATS).as_nanos() as f64 / 1e3);
}

fn graph(size: usize) {
    let mut dependencies = Dependencies::default();
    (0..size).for_each(|number| dependencies.set(&name(number), needs(number)));
    timed(&format!("{size} applications: start order of all"), || _ = black_box(dependencies.start_order(None)));
    let (first, last) = ([name(0)], [name(size - 1)]);
    timed(&format!("{size} applications: start order of the last"), || {
        _ = black_box(dependencies.start_order(Some(&last)));
    });
    // The first needs nobody and is needed by all: what it would need closes a cycle. A new one can close none.
    timed(&format!("{size} applications: a cycle through all of them"), || {
        assert_eq!(black_box(dependencies.circular(&first[0], &last)).len(), 1);
    });
    timed(&format!("{size} applications: no cycle, by a new one"), || {
        assert!(black_box(dependencies.circular("new", &last)).is_empty());
    });
    let mut chain = Dependencies::default();
    (0..size).for_each(|number| chain.set(&name(number), number.checked_sub(1).map(name).into_iter().collect()));
    timed(&format!("a chain of {size}: the cycle of its ends"), || {
        assert_eq!(black_box(chain.circular(&first[0], &last)).len(), 1);
    });
    timed(&format!("a chain of {size}: start order"), || _ = black_box(chain.start_order(None)));
}

/// One more application in a catalog of this size, as it is decided: ports, dependencies, everything that could be wrong.
fn decide(size: usize) {
    let (rules, mut catalog) = (PortRules::default(), Catalog::seeded());
    let plain = catalog.create_type(&rules, &plain()).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    catalog.put_type(Arc::new(plain));
    let draft = |number: usize| ApplicationDraft {
        id: name(number).into(),
        service: Some("plain".into()),
        dependencies: Some(needs(number).iter().map(SmolStr::to_string).collect()),
        ..ApplicationDraft::default()
    };
    for number in 0..size {
        let made = catalog.create(&rules, &draft(number)).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        catalog.put_application(Arc::new(made));
    }
    timed(&format!("{size} applications: one more is decided"), || {
        assert!(black_box(catalog.create(&rules, &draft(size))).is_ok());
    });
    let again = ApplicationDraft { id: name(size / 2).into(), service: Some("nodejs".into()), ..Default::default() };
    timed(&format!("{size} applications: a port beside is decided"), || {
        assert!(matches!(black_box(catalog.put(&rules, &again)), Ok(Drafted::New(_))));
    });
}

/// Applications made by so many callers at a time, and as many instances registered by as many, each durable.
async fn durable(dir: &Path, callers: usize, count: usize) {
    let epoch = 1;
    let options = Options { max_log_bytes: 64 << 20, epoch, fresh_registry_id: Uuid::nil(), metrics: Arc::default() };
    let (engine, recovered) = LocalEngine::open(dir, options).unwrap_or_else(|error| panic!("{error}"));
    let (handle, actor) = RegistryHandle::new(engine, recovered, ActorOptions::default());
    let actor = tokio::spawn(actor.run());
    change(&handle, CatalogAction::CreateType(plain())).await;
    let rate = |count: usize, took: Duration| count as f64 / took.as_secs_f64();
    let start = Instant::now();
    let made = stream::iter(0..count).map(|number| create(handle.clone(), number));
    made.buffer_unordered(callers).for_each(|()| async {}).await;
    let applications = rate(count, start.elapsed());
    let start = Instant::now();
    let registered = stream::iter(0..count).map(|number| register(handle.clone(), number));
    registered.buffer_unordered(callers).for_each(|()| async {}).await;
    let instances = rate(count, start.elapsed());
    let ratio = applications / instances;
    println!(
        "{callers:>3} callers: {applications:.0} applications/s, {instances:.0} registrations/s: a ratio of {ratio:.2}"
    );
    drop(handle);
    let _ = actor.await;
}

async fn change(handle: &RegistryHandle, action: CatalogAction) {
    let changed = handle.change_catalog("default".into(), action, 0, anyone(), None).await;
    changed.unwrap_or_else(|error| panic!("{error}"));
}

async fn create(handle: RegistryHandle, number: usize) {
    let (id, service) = (name(number).into(), Some("plain".to_owned()));
    // Without dependencies: of callers at one instant, those that are needed may still be on their way.
    let draft = ApplicationDraft { id, service, ..ApplicationDraft::default() };
    change(&handle, CatalogAction::Create(draft)).await;
}

async fn register(handle: RegistryHandle, number: usize) {
    let instance = Instance {
        service: format!("service-{}", number / 10),
        id: number.to_string(),
        host: "10.0.0.1".into(),
        port: 8080,
        ..Instance::default()
    };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let registration = Registration::parse(instance, None, context).unwrap_or_else(|error| panic!("{error:?}"));
    handle.register(registration, None, anyone(), None).await.unwrap_or_else(|error| panic!("{error}"));
}
