//! How often the server asks for memory in a call, between the transport's frames: counts, which are the same on every
//! machine. Each bound is a little above what it is today, where something new in the way of every call does not pass.

use std::{alloc::System, hint::black_box, sync::Arc, time::Duration};

use http::uri::PathAndQuery;
use onair::{
    actor::{ActorOptions, RegistryHandle},
    engine::memory::MemoryEngine,
    grpc::{CanonicalErrors, Dispatch, RegistryService, ServiceOptions, Unary, registry::fixed_limits},
    http::call::{Caller, Grpc},
    proto::{
        Beat, HeartbeatRequest, HeartbeatResponse, Instance, Limits, LookupRequest, LookupResponse, RegisterRequest,
        RegisterResponse,
    },
};
use prost::Message;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REGISTER: PathAndQuery = PathAndQuery::from_static("/onair.v1.Registry/Register");
const HEARTBEAT: PathAndQuery = PathAndQuery::from_static("/onair.v1.Registry/Heartbeat");
const LOOKUP: PathAndQuery = PathAndQuery::from_static("/onair.v1.Registry/Lookup");

/// Calls that are counted at once; what the first ones keep for the others is not.
const CALLS: usize = 100;

/// A registry without a socket.
struct Scene {
    runtime: Runtime,
    grpc: Grpc,
}

impl Scene {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let recovered = MemoryEngine::recovered(uuid::Uuid::from_u128(7), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        runtime.spawn(actor.run());
        let limits = Limits { max_beats: 100, ..fixed_limits() };
        let restart_grace = Duration::from_secs(30);
        let options = ServiceOptions { limits, restart_grace, durable: false, members: Vec::new() };
        let metrics = Arc::clone(handle.metrics());
        let service = Unary::new(RegistryService::new(handle, options), 4 << 20);
        let grpc = Grpc::new(Dispatch::default().and(CanonicalErrors::new(service, 4 << 20, metrics)));
        Self { runtime, grpc }
    }

    fn call<R: Message + Default>(&self, path: &PathAndQuery, request: &[u8]) -> R {
        let reply = self.runtime.block_on(self.grpc.unary(path, Caller::default(), request)).unwrap();
        R::decode(reply).unwrap()
    }

    fn register(&self, id: usize) -> String {
        let (service, host) = ("web".to_owned(), "10.0.0.1".to_owned());
        let instance = Instance { service, id: format!("web-{id}"), host, port: 80, ..Instance::default() };
        let ttl = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
        let request = RegisterRequest { instance: Some(instance), ttl, ..RegisterRequest::default() };
        let reply: RegisterResponse = self.call(&REGISTER, &request.encode_to_vec());
        reply.lease.unwrap().token
    }

    /// How often memory is asked for in a call, to the nearest whole: the fewest of some tries, because the test's own
    /// frame asks for some at times.
    fn allocations(&self, path: &PathAndQuery, request: &[u8]) -> usize {
        let try_once = |_| {
            let region = Region::new(MEMORY);
            for _ in 0..CALLS {
                black_box(self.runtime.block_on(self.grpc.unary(path, Caller::default(), request)).unwrap());
            }
            let change = region.change();
            (change.allocations + change.reallocations).div_ceil(CALLS)
        };
        (0..10).map(try_once).min().unwrap()
    }
}

/// One test, because all threads are counted together.
#[test]
fn calls_ask_for_memory_as_often_as_they_did() {
    let scene = Scene::new();
    let tokens: Vec<_> = (0..100).map(|id| scene.register(id)).collect();
    let beats = |tokens: &[String]| {
        let beat = |token: &String| Beat { lease_token: token.clone(), ..Beat::default() };
        HeartbeatRequest { beats: tokens.iter().map(beat).collect(), ..HeartbeatRequest::default() }.encode_to_vec()
    };
    let (one, hundred) = (beats(&tokens[..1]), beats(&tokens));
    let lookup = LookupRequest { service: "web".to_owned(), ..LookupRequest::default() }.encode_to_vec();
    assert_eq!(scene.call::<HeartbeatResponse>(&HEARTBEAT, &hundred).results.len(), 100);
    assert_eq!(scene.call::<LookupResponse>(&LOOKUP, &lookup).instances.len(), 100);
    for (what, path, request, most) in [
        ("a beat", &HEARTBEAT, &one, 26),
        ("a message of 100 beats", &HEARTBEAT, &hundred, 37),
        ("a lookup of 100 instances", &LOOKUP, &lookup, 26),
    ] {
        let count = scene.allocations(path, request);
        println!("{what}: {count} allocations");
        assert!(count <= most, "{what}: {count} allocations, not {most} at most");
    }
}
