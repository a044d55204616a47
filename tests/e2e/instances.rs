//! Many instances: all there, found page by page, in one watch's snapshot, and again after kill -9; gone when a service
//! is taken away. `ONAIR_INSTANCES` says how many, default 100,000.

use std::{collections::HashSet, time::Instant};

use onair::{
    proto::{
        DeregisterRequest, EventType, LookupRequest, RegisterRequest, WatchRequest, registry_client::RegistryClient,
    },
    registry::Instance,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::harness::{Server, alone, bulk, everything, register_with, within};

/// Registrations in flight.
const FLIGHT: usize = 64;
/// Instances of a service.
const SERVICE: usize = 1_000;
/// Leases that are not the subject.
const HOUR: f64 = 3_600.0;

fn count() -> usize {
    std::env::var("ONAIR_INSTANCES").map_or(100_000, |text| text.parse().expect("ONAIR_INSTANCES is a number"))
}

fn one(number: usize) -> RegisterRequest {
    let service = format!("s{}", number / SERVICE);
    register_with(&service, &number.to_string(), HOUR, |instance| {
        instance.namespace = "many".to_owned();
        instance.metadata = bulk(100);
    })
}

async fn fill(server: &Server, count: usize) {
    let channel = server.channel().await;
    let mut work = JoinSet::new();
    for first in 0..FLIGHT {
        let mut api = RegistryClient::new(channel.clone());
        work.spawn(async move {
            for number in (first..count).step_by(FLIGHT) {
                api.register(one(number)).await.unwrap();
            }
        });
    }
    work.join_all().await;
}

/// Every instance, page by page, in order and each once.
async fn pages(api: &mut RegistryClient<Channel>) -> Vec<Instance> {
    let (mut found, mut page_token) = (Vec::<Instance>::new(), String::new());
    loop {
        let request = LookupRequest { namespace: "many".to_owned(), page_token, ..LookupRequest::default() };
        let page = api.lookup(request).await.unwrap().into_inner();
        found.extend(page.instances);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

/// The ids of a snapshot.
async fn snapshot(api: &mut RegistryClient<Channel>) -> HashSet<String> {
    let mut stream = api.watch(WatchRequest { ..everything() }).await.unwrap().into_inner();
    let mut ids = HashSet::new();
    loop {
        let message = within("the snapshot", stream.message()).await.unwrap().unwrap();
        for event in message.events {
            assert_eq!(event.r#type(), EventType::Online);
            assert!(ids.insert(event.instance.unwrap().id), "each once");
        }
        if message.snapshot_end {
            return ids;
        }
    }
}

#[tokio::test]
async fn many_instances_are_found_watched_and_kept_over_kill_9() {
    let _alone = alone().await;
    let count = count();
    let most = (2 * count).to_string();
    let mut server = Server::start(&["--max-instances", &most, "--max-services", &most]).await;
    let start = Instant::now();
    fill(&server, count).await;
    println!("{count} registered in {:.1?}", start.elapsed());
    let mut api = server.api().await;
    let before = pages(&mut api).await;
    assert_eq!(before.len(), count);
    let key = |instance: &Instance| (instance.service.clone(), instance.id.clone());
    assert!(before.is_sorted_by(|a, b| key(a) < key(b)), "in order, each once");
    assert_eq!(snapshot(&mut api).await.len(), count);

    server.kill().await;
    let start = Instant::now();
    server.again().await;
    println!("serving again after {:.1?}", start.elapsed());
    let mut api = server.api().await;
    assert!(pages(&mut api).await == before, "everything is there, and as it was");

    let request = DeregisterRequest {
        namespace: "many".to_owned(),
        service: "s0".to_owned(),
        all: true,
        ..DeregisterRequest::default()
    };
    let removed = api.deregister(request).await.unwrap().into_inner().removed;
    assert_eq!(removed, SERVICE.min(count) as u64);
    assert_eq!(server.info().await.counts.unwrap().instances, (count as u64) - removed);
}
