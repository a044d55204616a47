//! What a switch costs, by how many watch the frontend: decided, committed, published, and taken by every watcher.
//! `cargo bench --bench switch`.

use std::net::Ipv4Addr;

use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use futures_util::stream::SelectAll;
use onair::{
    actor::{ActorOptions, RegistryHandle, anyone},
    engine::memory::MemoryEngine,
    proto::Instance,
    registry::{Action, Context, Filter, FilterSet, Registration, TargetText},
    watch::{WatchItem, WatchStream},
};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt as _;
use uuid::Uuid;

fn main() {
    divan::main();
}

/// Instances of each of the two versions.
const INSTANCES: u32 = 10;

/// A registry with two versions of a service, a frontend on the first, and so many who watch it.
struct Scene {
    runtime: Runtime,
    handle: RegistryHandle,
    /// Each with a waker of its own, as connections have them: who is published to is woken, polled, and sleeps again.
    watchers: SelectAll<WatchStream>,
    turn: usize,
}

fn registration(version: &str, port: u32) -> Registration {
    let (service, version) = ("web".to_owned(), version.to_owned());
    let instance = Instance { service, version, port, host: "10.0.0.1".into(), ..Instance::default() };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    Registration::parse(instance, None, context).expect("a registration")
}

fn only(backend: &str) -> [TargetText; 1] {
    [TargetText { backend: backend.to_owned(), weight: None }]
}

impl Scene {
    fn new(watchers: usize) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let recovered = MemoryEngine::recovered(Uuid::nil(), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        let streams = runtime.block_on(async {
            tokio::spawn(actor.run());
            for (name, version) in [("blue", "1.0"), ("green", "2.0")] {
                for port in 1..=INSTANCES {
                    let port = port + if name == "blue" { 0 } else { 1_000 };
                    handle.register(registration(version, port), None, anyone(), None).await.expect("registered");
                }
                let read = Action::create_backend("", name, ("web", version), None).expect("a backend");
                handle.deploy(read, anyone(), None).await.expect("made");
            }
            let read = Action::create_frontend("", "www", &only("blue"), None, &|_, _| true).expect("a frontend");
            handle.deploy(read, anyone(), None).await.expect("made");
            let mut streams = SelectAll::new();
            for _ in 0..watchers {
                let filter = Filter::of_frontend("default", "www", "", "").expect("a filter");
                let mut stream =
                    handle.watch(FilterSet::new([filter]), String::new(), anyone()).await.expect("a watch");
                black_box(stream.next().await);
                streams.push(stream);
            }
            streams
        });
        Self { runtime, handle, watchers: streams, turn: 0 }
    }

    /// A switch, until every watcher has it; the bytes that they took.
    fn switch(&mut self) -> usize {
        self.turn += 1;
        let to = ["blue", "green"][self.turn % 2];
        let (handle, watchers) = (&self.handle, &mut self.watchers);
        self.runtime.block_on(async {
            let read = Action::switch("", "www", ("", &only(to)), 0, &|_, _| true).expect("a switch");
            black_box(handle.deploy(read, anyone(), None).await.expect("switched"));
            let mut bytes = 0;
            for _ in 0..watchers.len() {
                match watchers.next().await {
                    Some(WatchItem::Frame(frame)) => bytes += frame.len(),
                    other => panic!("{other:?}"),
                }
            }
            bytes
        })
    }
}

#[divan::bench(args = [0, 100, 1_000, 10_000], sample_count = 50)]
fn a_switch_that_all_watchers_take(bencher: Bencher<'_, '_>, watchers: usize) {
    let mut scene = Scene::new(watchers);
    let bytes = scene.switch();
    bencher
        .counter(ItemsCount::new(watchers))
        .counter(BytesCount::new(bytes))
        .bench_local(|| black_box(scene.switch()));
}

/// As many who watch another frontend: nobody is woken.
#[divan::bench(args = [10_000], sample_count = 50)]
fn a_switch_that_concerns_nobody(bencher: Bencher<'_, '_>, others: usize) {
    let scene = Scene::new(others);
    let read = Action::create_frontend("", "other", &only("blue"), None, &|_, _| true).expect("a frontend");
    scene.runtime.block_on(scene.handle.deploy(read, anyone(), None)).expect("made");
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        let read = Action::switch("", "other", ("", &only(["blue", "green"][turn % 2])), 0, &|_, _| true);
        let read = read.expect("a switch");
        black_box(scene.runtime.block_on(scene.handle.deploy(read, anyone(), None)).expect("switched"));
    });
}
