//! What the client for programs in Rust follows: watches that go on, services that are known without asking, and gRPC
//! channels to them, over restarts of the registry and of those that are followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use onair::{
    client::{Balanced, Change, Client, Means, Pick, Registration, Service, Watch},
    proto::{
        EventType, GetServerInfoRequest, Instance, LookupRequest, Pick as PickOf, Selector,
        registry_client::RegistryClient,
    },
};

use crate::{
    client::{of, one},
    harness::{Server, beat, register, register_with, selector, within},
};

async fn next(watch: &mut Watch) -> Change {
    within("a change", watch.next()).await.expect("no end").unwrap()
}

/// Waits until a service is as wanted.
async fn until(what: &str, service: &mut Service, wanted: impl Fn(&Service) -> bool) {
    within(what, async {
        while !wanted(service) {
            service.changed().await.unwrap();
        }
    })
    .await;
}

fn ids(service: &Service) -> Vec<String> {
    service.instances().all().iter().map(|instance| instance.id.clone()).collect()
}

/// Takes changes in until `mark` is online: each once, of a whole revision, and never back.
async fn fold(watch: &mut Watch, online: &mut BTreeMap<String, u64>, last: &mut u64, mark: &str) {
    loop {
        let change = next(watch).await;
        assert!(change.revision > *last || (change.snapshot && change.revision >= *last), "{change:?} after {last}");
        assert!(change.reset.is_none(), "{change:?}");
        *last = change.revision;
        let mut marked = false;
        for event in change.events {
            let instance = event.instance.clone().unwrap();
            marked |= instance.id == mark;
            match event.r#type() {
                EventType::Online => {
                    let before = online.insert(instance.id.clone(), instance.incarnation);
                    assert!(before.is_none_or(|before| before < instance.incarnation), "twice: {event:?}");
                }
                EventType::Offline => assert!(online.remove(&instance.id).is_some(), "never was: {event:?}"),
                _ => assert_eq!(online.get(&instance.id), Some(&instance.incarnation), "{event:?}"),
            }
        }
        if marked {
            return;
        }
    }
}

#[tokio::test]
async fn a_watch_goes_on_over_kills_and_goaways_without_gap_or_repeat() {
    let mut server = Server::start(&[]).await;
    let mut watch = of(&server).watch([selector("web", "")]);
    assert!(next(&mut watch).await.snapshot, "it begins at once, with nothing");
    let (mut online, mut last) = (BTreeMap::new(), 0);
    for turn in 0..6_u32 {
        let mut api = server.api().await;
        for at in 0..20 {
            let id = format!("i{}", (turn * 7 + at) % 31);
            let lease = api.register(register("web", &id, 60.0)).await.unwrap().into_inner().lease.unwrap();
            if at % 3 == 0 {
                let gone = onair::proto::DeregisterRequest { lease_token: lease.token, ..Default::default() };
                api.deregister(gone).await.unwrap();
            }
        }
        // While it is away, or while it goes: both are one to who watches.
        if turn % 2 == 0 {
            server.kill().await;
        } else {
            server.terminate();
            server.ended().await;
        }
        server.again().await;
        let mark = format!("mark{turn}");
        server.api().await.register(register("web", &mark, 60.0)).await.unwrap();
        fold(&mut watch, &mut online, &mut last, &mark).await;
        let there = server.api().await.lookup(crate::harness::lookup("web")).await.unwrap().into_inner();
        let there: BTreeMap<_, _> = there.instances.into_iter().map(|one| (one.id, one.incarnation)).collect();
        assert_eq!(online, there, "after restart {turn}");
    }
}

#[tokio::test]
async fn after_another_registry_only_what_is_news_is_told() {
    let mut server = Server::ephemeral(&[]).await;
    let mut api = server.api().await;
    for id in ["a", "b"] {
        api.register(register("web", id, 60.0)).await.unwrap();
    }
    let mut watch = of(&server).watch([selector("web", "")]);
    assert_eq!(next(&mut watch).await.events.len(), 2);
    server.kill().await;
    // Its own beginning may be seen before those that come back, as nothing that is there.
    server.again().await;
    let mut api = server.api().await;
    for id in ["b", "c"] {
        api.register(register("web", id, 60.0)).await.unwrap();
    }
    let mut online = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    let mut resets = 0;
    while online != BTreeSet::from(["b".to_owned(), "c".to_owned()]) {
        let change = next(&mut watch).await;
        resets += usize::from(change.reset.is_some());
        for event in change.events {
            let id = event.instance.as_ref().unwrap().id.clone();
            let is_news = match event.r#type() {
                EventType::Offline => online.remove(&id),
                // The same instance, of another registration.
                EventType::Updated => online.contains(&id),
                _ => online.insert(id),
            };
            assert!(is_news, "{event:?}");
        }
    }
    assert_eq!(resets, 1);
}

#[tokio::test]
async fn a_selector_that_cannot_be_read_ends_the_watch_with_its_reason() {
    let server = Server::ephemeral(&[]).await;
    let mut watch = of(&server).watch([selector("web", "zone ~ x")]);
    let failed = within("the refusal", watch.next()).await.unwrap().unwrap_err();
    assert!(!failed.is_transient() && !failed.last().unwrap().violations().is_empty(), "{failed}");
    assert!(within("the end", watch.next()).await.is_none());
}

#[tokio::test]
async fn who_acts_on_what_it_is_told_is_counted_by_a_drain() {
    let server = Server::ephemeral(&[]).await;
    let client = of(&server);
    let joined = client.join(one("web", "a")).await.unwrap();
    let other = of(&server);
    let mut service = other.service("web");
    within("what is there", service.known()).await.unwrap();
    let mut idle = other.watch([selector("web", "")]);
    assert_eq!(next(&mut idle).await.events.len(), 1);
    // It was given the change, and does not say that it acted on it.
    let counted = joined.drain(Duration::from_millis(200)).await.unwrap();
    assert_eq!((counted.acked, counted.sent, counted.pending), (1, 0, 1), "{counted:?}");
    assert!(service.pick(Pick::Random).is_none(), "who acknowledged does not call it any more");
    assert_eq!(next(&mut idle).await.events.len(), 1);
    tokio::spawn(async move { while idle.next().await.is_some() {} });
    let counted = joined.drain(Duration::from_secs(60)).await.unwrap();
    assert_eq!((counted.acked, counted.sent, counted.pending), (2, 0, 0), "{counted:?}");
    assert_eq!(joined.leave().await.unwrap().removed, 1);
}

async fn with_weights(server: &Server, weights: &[(&str, u32, &str)]) {
    let mut api = server.api().await;
    for (id, weight, zone) in weights {
        let weighed = register_with("web", id, 60.0, |instance: &mut Instance| {
            (instance.weight, instance.zone) = (Some(*weight), (*zone).to_owned());
        });
        api.register(weighed).await.unwrap();
    }
}

fn drawn(service: &Service, how: Pick<'_>) -> BTreeMap<String, u32> {
    let mut drawn = BTreeMap::new();
    for _ in 0..6_000 {
        *drawn.entry(service.pick(how).unwrap().id.clone()).or_default() += 1;
    }
    drawn
}

#[tokio::test]
async fn one_is_picked_in_every_way_there_is() {
    let server = Server::ephemeral(&[]).await;
    with_weights(&server, &[("a", 1, "z1"), ("b", 2, "z1"), ("c", 3, "z2"), ("d", 0, "z1")]).await;
    let client = of(&server);
    let mut service = client.service("web");
    within("what is there", service.known()).await.unwrap();
    assert_eq!(ids(&service), ["a", "b", "c", "d"]);

    assert!(drawn(&service, Pick::RoundRobin).values().all(|count| *count == 2_000), "in turn");
    // Six standard deviations of 6,000 draws are less than 300.
    let is_near = |drawn: &BTreeMap<String, u32>, id: &str, count: u32| drawn[id].abs_diff(count) < 300;
    let random = drawn(&service, Pick::Random);
    assert!(random.len() == 3 && ["a", "b", "c"].iter().all(|id| is_near(&random, id, 2_000)), "{random:?}");
    let weighted = drawn(&service, Pick::Weighted);
    let shares = [("a", 1_000), ("b", 2_000), ("c", 3_000)];
    assert!(weighted.len() == 3 && shares.iter().all(|(id, count)| is_near(&weighted, id, *count)), "{weighted:?}");

    // A key goes where the registry itself would send it.
    for key in (0..50).map(|at| format!("user {at}")) {
        let request = LookupRequest {
            service: "web".into(),
            pick: PickOf::Rendezvous.into(),
            pick_key: key.clone(),
            ..LookupRequest::default()
        };
        let by_registry = client.lookup_with(request).await.unwrap();
        assert_eq!(service.pick(Pick::Rendezvous(&key)).unwrap().id, by_registry[0].id, "{key}");
    }

    // Who is near is preferred, and the others are there when nobody is.
    let mut near = client.service_with(selector("web", ""), "z2");
    within("what is there", near.known()).await.unwrap();
    assert_eq!(drawn(&near, Pick::Random).into_keys().collect::<Vec<_>>(), ["c"]);
    let gone = onair::proto::DeregisterRequest { service: "web".into(), id: "c".into(), ..Default::default() };
    server.api().await.deregister(gone).await.unwrap();
    until("c is gone", &mut near, |near| near.instances().all().len() == 3).await;
    assert_eq!(drawn(&near, Pick::Random).into_keys().collect::<Vec<_>>(), ["a", "b"]);

    let nobody = client.service("nobody");
    assert!(nobody.pick(Pick::Random).is_none() && nobody.pick(Pick::Rendezvous("k")).is_none());
}

#[tokio::test]
async fn what_was_known_last_stays_while_the_registry_is_away_and_says_how_old_it_is() {
    let mut server = Server::start(&[]).await;
    let lease = server.api().await.register(register("web", "a", 60.0)).await.unwrap().into_inner().lease.unwrap();
    let mut service = of(&server).service("web");
    within("what is there", service.known()).await.unwrap();
    assert_eq!((service.age(), service.failing().is_none()), (Duration::ZERO, true));
    server.kill().await;
    within("an age", async {
        while service.age() < Duration::from_millis(300) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(service.failing().unwrap().to_string().contains("connection refused"), "{:?}", service.failing());
    assert_eq!(service.pick(Pick::Random).unwrap().id, "a");
    server.again().await;
    server.api().await.heartbeat(beat([lease.token])).await.unwrap();
    server.api().await.register(register("web", "b", 60.0)).await.unwrap();
    until("b is there", &mut service, |service| ids(service) == ["a", "b"]).await;
    assert_eq!(service.age(), Duration::ZERO);
}

#[tokio::test]
async fn what_was_known_last_is_kept_for_a_program_that_starts_while_the_registry_is_away() {
    let mut server = Server::start(&[]).await;
    let place = tempfile::tempdir().unwrap();
    let client = || {
        let means = Means { keep: Some(place.path().join("known")), ..Means::default() };
        Client::connect_with(&server.url(), means).unwrap()
    };
    let files = || -> Vec<_> {
        let found = std::fs::read_dir(place.path().join("known")).into_iter().flatten();
        found
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|of| of == "onair"))
            .collect()
    };
    server.api().await.register(register("web", "a", 60.0)).await.unwrap();
    let mut first = client().service("web");
    within("what is there", first.known()).await.unwrap();
    within("a file", first.kept()).await.unwrap();
    drop(first);
    let clients = [client(), client(), client()];
    server.kill().await;

    // It knows at once, and that it is old.
    let mut second = clients[0].service("web");
    within("what was there", second.known()).await.unwrap();
    assert_eq!((second.pick(Pick::Random).unwrap().id.as_str(), ids(&second)), ("a", vec!["a".to_owned()]));
    assert!(second.age() > Duration::ZERO && second.age() < Duration::from_secs(3_600));
    // Another service is none of it, and what is damaged is nothing.
    assert!(clients[1].service("mail").pick(Pick::Random).is_none());
    std::fs::write(&files()[0], "something else").unwrap();
    let mut third = clients[2].service("web");
    assert!(third.pick(Pick::Random).is_none() && third.warning().unwrap().contains("is ignored"));
    assert_eq!(second.warning(), None);

    server.again().await;
    server.api().await.register(register("web", "b", 60.0)).await.unwrap();
    for service in [&mut second, &mut third] {
        until("both are there", service, |service| ids(service) == ["a", "b"]).await;
        assert_eq!(service.age(), Duration::ZERO);
    }
}

/// Which registry answers on a channel.
async fn who(channel: &Balanced) -> String {
    let mut api = RegistryClient::new(channel.clone());
    within("an answer", api.get_server_info(GetServerInfoRequest {})).await.unwrap().into_inner().registry_id
}

#[tokio::test]
async fn a_channel_follows_a_service_and_waits_while_there_is_none() {
    let (registry, mut first, second) =
        (Server::start(&[]).await, Server::ephemeral(&[]).await, Server::ephemeral(&[]).await);
    let client = of(&registry);
    let channel = client.channel("info");
    // Nobody is there yet: the call waits until somebody is.
    let early = tokio::spawn({
        let channel = channel.clone();
        async move { who(&channel).await }
    });
    let at =
        |server: &Server, id: &str| Registration::new("info").host("127.0.0.1").port(server.address().port()).id(id);
    let one = client.join(at(&first, "first")).await.unwrap();
    let (of_first, of_second) = (first.info().await.registry_id, second.info().await.registry_id);
    assert_eq!(within("the early call", early).await.unwrap(), of_first);
    let two = client.join(at(&second, "second")).await.unwrap();
    // Both are called from the time on that the channel knows of both.
    within("calls to both", async {
        while who(&channel).await != of_second {}
        while who(&channel).await != of_first {}
    })
    .await;
    // Out of traffic before it goes: no call fails.
    one.drain(Duration::from_secs(30)).await.unwrap();
    first.kill().await;
    for _ in 0..50 {
        assert_eq!(who(&channel).await, of_second);
    }
    one.leave().await.unwrap();
    // The registry's own end is not the end of calls.
    drop(registry);
    for _ in 0..50 {
        assert_eq!(who(&channel).await, of_second);
    }
    assert!(!two.has_ended());
}

#[tokio::test]
async fn a_channel_calls_by_weight_passes_over_who_is_dead_and_says_why_there_is_nobody() {
    let (registry, first, second) =
        (Server::start(&[]).await, Server::ephemeral(&[]).await, Server::ephemeral(&[]).await);
    let client = of(&registry);
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let at = |port: u16, id: &str, weight: u32| {
        Registration::new("info").host("127.0.0.1").port(port).id(id).weight(weight).ttl(Duration::from_secs(60))
    };
    let mut joined = Vec::new();
    for (port, id, weight) in [(first.address().port(), "a", 1), (second.address().port(), "b", 0), (dead, "dead", 1)] {
        joined.push(client.join(at(port, id, weight)).await.unwrap());
    }
    let channel = client.channel("info");
    within("what is there", channel.service().clone().known()).await.unwrap();
    let of_first = first.info().await.registry_id;
    let mut failed = 0;
    for _ in 0..200 {
        let answer = RegistryClient::new(channel.clone()).get_server_info(GetServerInfoRequest {}).await;
        match answer {
            Ok(info) => assert_eq!(info.into_inner().registry_id, of_first, "who has no weight has no calls"),
            Err(_) => failed += 1,
        }
    }
    // One a second; the rest go to who lives.
    assert!((1..=20).contains(&failed), "{failed} of 200 calls failed");

    // Nobody, and a deadline.
    let mut nobody = RegistryClient::new(client.channel("nobody"));
    let mut request = tonic::Request::new(GetServerInfoRequest {});
    request.set_timeout(Duration::from_millis(50));
    let status = within("the deadline", nobody.get_server_info(request)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    // It will never be known who.
    let bad = Selector { service: "info".into(), selector: "zone ~ x".into(), ..Selector::default() };
    let mut refused = RegistryClient::new(client.channel_with(bad, ""));
    let status = within("the refusal", refused.get_server_info(GetServerInfoRequest {})).await.unwrap_err();
    assert!(
        status.code() == tonic::Code::FailedPrecondition && status.message().contains("selectors[0]"),
        "{status:?}"
    );
}

#[tokio::test]
async fn clones_and_readers_share_what_is_known() {
    let server = Server::ephemeral(&[]).await;
    let client = Client::connect(&server.url()).unwrap();
    let mut service = client.service_with(Selector { service: "web".into(), ..Selector::default() }, "");
    let clone = service.clone();
    server.api().await.register(register("web", "a", 60.0)).await.unwrap();
    until("a is there", &mut service, |service| !ids(service).is_empty()).await;
    assert!(Arc::ptr_eq(&clone.pick(Pick::Random).unwrap(), &service.pick(Pick::RoundRobin).unwrap()));
}
