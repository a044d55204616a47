//! Lookups and lists over real connections: pages, picks, zones, and what is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use onair::{
    proto::{DeregisterRequest, ListServicesRequest, LookupRequest, Pick},
    registry::Instance,
};

use crate::{
    harness::{Server, bulk, lookup, register, register_with, seconds, within},
    history::{Client, Recorder, Settings},
};

/// Registers `count` instances of `service`, over one connection.
async fn fill(client: &Client, service: &str, count: usize, more: impl Fn(usize, &mut Instance)) {
    let registering = (0..count).map(async |number| {
        let request = register_with(service, &format!("i{number:05}"), 3_600.0, |instance| more(number, instance));
        client.register(request).await.unwrap();
    });
    stream::iter(registering).buffer_unordered(64).collect::<Vec<_>>().await;
}

/// All pages of a lookup, and how many they were.
async fn pages(client: &Client, mut request: LookupRequest) -> (Vec<Instance>, usize) {
    let (mut all, mut count) = (Vec::new(), 0);
    loop {
        let page = client.lookup(request.clone()).await.unwrap();
        assert!(prost::Message::encoded_len(&page) <= 1 << 20, "a page of more than 1 MiB");
        all.extend(page.instances);
        count += 1;
        if page.next_page_token.is_empty() {
            return (all, count);
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn pages_give_each_instance_once_in_order() {
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    fill(&client, "many", 2_300, |_, _| {}).await;
    fill(&client, "heavy", 150, |_, instance| instance.metadata = bulk(14_000)).await;
    let ids = |instances: &[Instance]| instances.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    let (many, count) = pages(&client, lookup("many")).await;
    assert_eq!((many.len(), count), (2_300, 3));
    assert!(ids(&many).is_sorted() && ids(&many).iter().collect::<BTreeSet<_>>().len() == 2_300);
    let (same, count) = pages(&client, LookupRequest { limit: 500, ..lookup("many") }).await;
    assert_eq!((ids(&same), count), (ids(&many), 5));
    // Few but large ones are cut by their bytes.
    let (heavy, count) = pages(&client, lookup("heavy")).await;
    assert!(heavy.len() == 150 && count >= 3, "{count} pages");
    // All of a namespace, service by service.
    let (all, _) = pages(&client, lookup("")).await;
    let names: Vec<_> = all.iter().map(|one| (one.service.clone(), one.id.clone())).collect();
    assert!(names.len() == 2_450 && names.is_sorted());
    recorder.assert_clean();
}

#[tokio::test]
async fn picks_go_by_weight_zone_and_key() {
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    fill(&client, "web", 10, |number, instance| {
        instance.zone = ["eu", "us"][number % 2].into();
        instance.weight = Some(if number == 9 { 0 } else { 1 + 9 * u32::from(number == 0) });
    })
    .await;
    let pick = async |pick: Pick, more: LookupRequest| -> Vec<String> {
        let found = client.lookup(LookupRequest { service: "web".into(), pick: pick.into(), ..more }).await.unwrap();
        found.instances.into_iter().map(|one| one.id).collect()
    };
    let none = LookupRequest::default;
    let mut turns = BTreeMap::<String, usize>::new();
    for _ in 0..18 {
        let [one] = &pick(Pick::RoundRobin, none()).await[..] else { panic!("one, unless asked for more") };
        *turns.entry(one.clone()).or_default() += 1;
    }
    assert!(turns.len() == 9 && turns.values().all(|count| *count == 2), "in turn, without weight 0: {turns:?}");
    let mut heavy = 0;
    for _ in 0..200 {
        heavy += usize::from(pick(Pick::Weighted, none()).await == ["i00000"]);
    }
    // 10 of 18 shares: 111 of 200, and 60 is seven deviations away.
    assert!((60..=160).contains(&heavy), "{heavy} of 200");
    for key in ["a", "b", "c"] {
        let by_key = || LookupRequest { pick_key: key.into(), limit: 3, ..none() };
        let first = pick(Pick::Rendezvous, by_key()).await;
        assert_eq!(
            (first.len(), pick(Pick::Rendezvous, by_key()).await),
            (3, first.clone()),
            "the same for the same key"
        );
        // One that is not among them goes, and nothing changes for the key.
        let other = (1..9).map(|number| format!("i{number:05}")).find(|id| !first.contains(id)).unwrap();
        let gone = DeregisterRequest { service: "web".into(), id: other.clone(), ..Default::default() };
        client.deregister(gone).await.unwrap();
        assert_eq!(pick(Pick::Rendezvous, by_key()).await, first);
        client.register(register("web", &other, 3_600.0)).await.unwrap();
    }
    // Those of the zone come first, all of them, and others only because there are not enough.
    let zone = LookupRequest { selector: "zone=us".into(), ..lookup("web") };
    let us = client.lookup(zone).await.unwrap().instances;
    let us: Vec<_> = us.into_iter().filter(|one| one.weight != Some(0)).map(|one| one.id).collect();
    let near = pick(Pick::Random, LookupRequest { prefer_zone: "us".into(), limit: 5, ..none() }).await;
    assert!(near.len() == 5 && us.len() < 5 && near[..us.len()].iter().all(|id| us.contains(id)), "{near:?}, {us:?}");
    recorder.assert_clean();
}

#[tokio::test]
async fn an_empty_answer_is_held_until_something_matches_or_time_is_up() {
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let begun = Instant::now();
    let found = client.lookup(LookupRequest { wait: Some(seconds(0.3)), ..lookup("web") }).await.unwrap();
    assert!(found.instances.is_empty() && begun.elapsed() >= Duration::from_millis(300));
    // Many wait, and all are answered by one registration.
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(
                async move { client.lookup(LookupRequest { wait: Some(seconds(60.0)), ..lookup("web") }).await },
            )
        })
        .collect();
    server.info().await;
    client.register(register("other", "a", 60.0)).await.unwrap();
    client.register(register("web", "a", 60.0)).await.unwrap();
    for waiting in waiting {
        assert_eq!(within("an answer", waiting).await.unwrap().unwrap().instances.len(), 1);
    }
    // The call's own deadline cuts the wait, with an answer and not an error.
    let mut api = server.api().await;
    let mut request = tonic::Request::new(LookupRequest { wait: Some(seconds(60.0)), ..lookup("nobody") });
    request.set_timeout(Duration::from_millis(400));
    let begun = Instant::now();
    match api.lookup(request).await {
        Ok(found) => assert!(found.into_inner().instances.is_empty()),
        Err(status) => assert!(matches!(status.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled)),
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    recorder.assert_clean();
}

#[tokio::test]
async fn services_are_listed_by_prefix_and_page_with_their_counts() {
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    for name in ["shop-api", "shop-web", "shop-db", "mail"] {
        client.register(register(name, "a", 60.0)).await.unwrap();
    }
    let draining = register_with("shop-web", "b", 60.0, |one| one.status = onair::registry::Status::Draining.into());
    client.register(draining).await.unwrap();
    let elsewhere = register_with("shop-far", "a", 60.0, |one| one.namespace = "elsewhere".into());
    client.register(elsewhere).await.unwrap();
    let mut api = server.api().await;
    let mut list = async |request: ListServicesRequest| api.list_services(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    let mut request = ListServicesRequest { prefix: "shop-".into(), limit: 2, ..Default::default() };
    loop {
        let page = list(request.clone()).await;
        names.extend(page.services.into_iter().map(|one| (one.service, one.instances, one.routable)));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let expected = [("shop-api", 1, 1), ("shop-db", 1, 1), ("shop-web", 2, 1)];
    assert_eq!(names, expected.map(|(name, instances, routable)| (name.to_owned(), instances, routable)));
    let all = list(ListServicesRequest { namespace: "*".into(), ..Default::default() }).await;
    assert_eq!(all.services.len(), 5);
    assert_eq!((all.services[4].namespace.as_str(), all.services[4].service.as_str()), ("elsewhere", "shop-far"));
    let none = list(ListServicesRequest { namespace: "nowhere".into(), ..Default::default() }).await;
    assert!(none.services.is_empty() && none.revision > 0);
    recorder.assert_clean();
}
