//! Leases in real time: nobody early, nobody late, whoever is stopped or killed.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use onair::{
    proto::{BeatResult, BeatState, DeregisterRequest, GetInstanceRequest, HeartbeatResponse, RegisterRequest},
    registry::{Cause, EventType},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::{
    harness::{
        Dice, Follower, Running, Server, alone, beat, lookup, millis_after, pass, register, register_with, within,
    },
    history::{Client, Recorder, Settings},
    input::{is_invalid, refusal},
};

/// What a busy machine adds to the 100 ms that are promised.
const NOISE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn never_late_a_killed_join_is_offline_when_its_ttl_has_passed() {
    const TTL: Duration = Duration::from_secs(3);
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let (url, started) = (server.url(), Instant::now());
    let mut killed = Vec::new();
    for (name, port) in [("web", "8000"), ("api", "8001"), ("db", "8002")] {
        let join = Running::start(&["join", name, "--port", port, "--ttl", "3s", "--url", &url]);
        let is_it = |event: &onair::proto::Event| event.instance.as_ref().is_some_and(|one| one.service == name);
        let (online, _) = follower.event("ONLINE of a join", is_it).await;
        join.kill().await; // long before its first beat: the registration is what its TTL counts from
        killed.push((name, online));
    }
    for (name, online) in killed {
        let (offline, event) = follower.event("OFFLINE", |event| event.r#type() == EventType::Offline).await;
        assert_eq!((event.cause(), event.instance.unwrap().service.as_str()), (Cause::Expired, name));
        let late = millis_after(offline, online + TTL);
        println!("{name}: OFFLINE {late:.1} ms after its TTL had passed");
        assert!(offline.duration_since(started) >= TTL, "{name} was early");
        assert!(late <= NOISE.as_secs_f64() * 1_000.0, "{name} was {late} ms late");
    }
    recorder.assert_clean();
}

#[tokio::test]
async fn never_late_and_never_early_whenever_a_client_falls_silent() {
    let server = Server::start(&["--breaker", "off"]).await;
    let recorder = Recorder::new(Settings { late: Some(NOISE), breaker: false, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let mut dice = Dice::new(1);
    let mut silent = Vec::new();
    for number in 0..100 {
        let request = register("fleet", &format!("i{number}"), 1.0 + dice.below(1_000) as f64 / 1_000.0);
        let token = client.register(request).await.unwrap().lease.unwrap().token;
        let (client, after) = (client.clone(), Duration::from_millis(dice.below(900)));
        silent.push(async move {
            pass(after).await;
            client.heartbeat(beat([token])).await.unwrap();
        });
    }
    stream::iter(silent).buffer_unordered(100).collect::<Vec<_>>().await;
    while follower.gone().len() < 100 {
        follower.message().await;
    }
    assert!(follower.gone().iter().all(|event| event.cause() == Cause::Expired));
    recorder.assert_clean();
}

/// One of many: beats in every round, whether the last beat was answered or not.
async fn keep_one(client: Client, token: String, by_stream: bool, mut rounds: watch::Receiver<u64>) {
    let renewed = |answer: Result<HeartbeatResponse, Status>| {
        assert_eq!(answer.unwrap().results[0].state(), BeatState::Renewed);
    };
    if by_stream {
        let mut beating = client.heartbeat_stream().await.unwrap();
        loop {
            tokio::select! {
                round = rounds.changed() => match round {
                    Ok(()) => beating.beat(beat([&token])).await,
                    Err(_) => return,
                },
                answer = beating.next() => renewed(answer.expect("a stream has no end of its own")),
            }
        }
    }
    let mut pending = stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            round = rounds.changed() => match round {
                Ok(()) => pending.push(client.heartbeat(beat([&token]))),
                Err(_) => return,
            },
            Some(answer) = pending.next() => renewed(answer),
        }
    }
}

/// Registers `count` leases over one connection.
async fn register_many(client: &Client, count: usize, ttl: f64) -> Vec<String> {
    let registering = (0..count).map(async |number| {
        let granted = client.register(register("fleet", &format!("i{number:04}"), ttl)).await.unwrap();
        granted.lease.unwrap().token
    });
    stream::iter(registering).buffered(64).collect().await
}

#[tokio::test]
async fn never_early_a_frozen_server_expires_none_of_1000_who_keep_beating() {
    const CLIENTS: usize = 1_000;
    const TTL: Duration = Duration::from_secs(3);
    let _alone = alone().await;
    let server = Server::start(&["--breaker", "off"]).await;
    let recorder = Recorder::new(Settings { breaker: false, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let tokens = register_many(&client, CLIENTS, TTL.as_secs_f64()).await;
    // A tenth beats by calls, the others by a stream each.
    let (round, rounds) = watch::channel(0_u64);
    let mut clients = tokio::task::JoinSet::new();
    for (number, token) in tokens.into_iter().enumerate() {
        clients.spawn(keep_one(client.clone(), token, number % 10 > 0, rounds.clone()));
    }
    drop(rounds);
    let mut ticks = interval(TTL / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0..=18_u64 {
        ticks.tick().await;
        round.send_replace(tick);
        match tick {
            3 => server.signal("STOP"),
            // Nine intervals are three TTLs.
            12 => server.signal("CONT"),
            _ => {}
        }
    }
    let found = within("a lookup", client.lookup(lookup("fleet"))).await.unwrap();
    follower.reach(found.revision).await;
    assert_eq!((found.instances.len(), follower.gone().len()), (CLIENTS, 0), "somebody went offline");
    assert!(server.log().contains("held up"), "the server was not stopped at all");

    // They fall silent: the clock that stood still goes on.
    drop(round);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let silent = Instant::now();
    while follower.gone().len() < CLIENTS {
        follower.message().await;
    }
    let late = millis_after(Instant::now(), silent + TTL);
    println!("{CLIENTS} who fell silent were offline {late:.0} ms after their TTL");
    assert!(late <= NOISE.as_secs_f64() * 1_000.0 + 250.0);
    recorder.assert_clean();
}

#[tokio::test]
async fn never_early_a_suspend_of_server_and_clients_expires_nobody() {
    const TTL: Duration = Duration::from_secs(2);
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let tokens = register_many(&client, 50, TTL.as_secs_f64()).await;
    // Nobody sends anything: no beat waits in a socket when the server wakes up.
    server.signal("STOP");
    pass(TTL * 3).await;
    server.signal("CONT");
    let mut ticks = interval(TTL / 4);
    for _ in 0..10 {
        ticks.tick().await;
        let answer = client.heartbeat(beat(&tokens)).await.unwrap();
        assert!(answer.results.iter().all(|one| one.state() == BeatState::Renewed), "{:?}", answer.results);
    }
    let found = client.lookup(lookup("fleet")).await.unwrap();
    follower.reach(found.revision).await;
    assert_eq!((found.instances.len(), follower.gone().len()), (50, 0));
    recorder.assert_clean();
}

#[tokio::test]
async fn a_client_that_was_suspended_heals_by_itself() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let url = server.url();
    let mut join = Running::start(&["join", "web", "--port", "8000", "--ttl", "1s", "--url", &url]);
    let (_, first) = follower.event("ONLINE", |event| event.r#type() == EventType::Online).await;
    join.signal("STOP");
    let (_, gone) = follower.event("OFFLINE", |event| event.r#type() == EventType::Offline).await;
    assert_eq!((gone.cause(), &gone.instance), (Cause::Expired, &first.instance));
    join.signal("CONT");
    let (_, again) = follower.event("ONLINE", |event| event.r#type() == EventType::Online).await;
    let (first, again) = (first.instance.unwrap(), again.instance.unwrap());
    assert!(again.incarnation > first.incarnation && again.url == first.url);
    join.signal("TERM");
    assert_eq!(join.ended().await, 0);
    let (_, left) = follower.event("OFFLINE", |event| event.r#type() == EventType::Offline).await;
    assert_eq!(left.cause(), Cause::Deregistered);
    recorder.assert_clean();
}

#[tokio::test]
async fn fencing_and_healing_each_token_is_answered_for_itself() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let granted = async |request: RegisterRequest| client.register(request).await.unwrap().lease.unwrap().token;
    let kept = granted(register("web", "kept", 10.0)).await;
    let replaced = granted(register("web", "replaced", 10.0)).await;
    let newer = granted(register("web", "replaced", 10.0)).await;
    let removed = granted(register("web", "removed", 10.0)).await;
    client.deregister(DeregisterRequest { lease_token: removed.clone(), ..Default::default() }).await.unwrap();
    let mut forged = kept.clone().into_bytes();
    let place = forged.len() / 2;
    forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let elsewhere = Server::ephemeral(&[]).await;
    let foreign = elsewhere.api().await.register(register("web", "kept", 10.0)).await.unwrap().into_inner();
    let foreign = foreign.lease.unwrap().token;
    let tokens = [&kept, &replaced, &newer, &removed, &foreign, "", "nonsense", &forged];
    let answer = client.heartbeat(beat(tokens)).await.unwrap();
    use BeatState::{Expired, Renewed, Superseded, Unknown};
    let states: Vec<_> = answer.results.iter().map(BeatResult::state).collect();
    assert_eq!(states[..7], [Renewed, Superseded, Renewed, Expired, Unknown, Unknown, Unknown]);
    assert_ne!(states[7], Renewed, "a token with another letter in it");
    // An old incarnation's deregistration changes nothing.
    let late = client.deregister(DeregisterRequest { lease_token: replaced, ..Default::default() }).await;
    assert_eq!(late.unwrap_err().code(), tonic::Code::Aborted);
    let several = DeregisterRequest { lease_tokens: vec![removed, newer], ..Default::default() };
    assert_eq!(client.deregister(several).await.unwrap().removed, 1);
    assert_eq!(client.lookup(lookup("web")).await.unwrap().instances.len(), 1);
    drop(follower);
    recorder.assert_clean();
}

#[tokio::test]
async fn an_instance_is_read_by_its_key_until_it_is_gone() {
    let server = Server::start(&[]).await;
    let mut api = server.api().await;
    let draining = register_with("web", "a", 10.0, |instance| instance.set_status(onair::registry::Status::Draining));
    let registered = api.register(draining).await.unwrap().into_inner();
    let of = |namespace: &str, id: &str| GetInstanceRequest {
        namespace: namespace.into(),
        service: "web".into(),
        id: id.into(),
    };
    for namespace in ["", "default"] {
        let found = api.get_instance(of(namespace, "a")).await.unwrap().into_inner();
        assert_eq!((found.instance, found.revision), (registered.instance.clone(), registered.revision));
    }
    let token = registered.lease.unwrap().token;
    // With its key, a token is taken for that key only.
    let by_token = |id: &str| DeregisterRequest {
        lease_token: token.clone(),
        service: "web".into(),
        id: id.into(),
        ..DeregisterRequest::default()
    };
    assert_eq!(api.deregister(by_token("b")).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(api.deregister(by_token("a")).await.unwrap().into_inner().removed, 1);
    assert_eq!(api.deregister(by_token("a")).await.unwrap().into_inner().removed, 0);
    for (namespace, id) in [("", "a"), ("", "b"), ("elsewhere", "a")] {
        let status = api.get_instance(of(namespace, id)).await.unwrap_err();
        assert_eq!(refusal(&status), (tonic::Code::NotFound, "NOT_FOUND".to_owned(), vec![]));
        let resource = status.get_details_resource_info().unwrap();
        let namespace = if namespace.is_empty() { "default" } else { namespace };
        assert_eq!(resource.resource_name, format!("{namespace}/web/{id}"));
    }
    is_invalid("a key", api.get_instance(of("a/b", "")).await, &["id", "namespace"]);
}

#[tokio::test]
async fn the_end_of_a_heartbeat_stream_expires_nothing() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { late: Some(NOISE), ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let token = client.register(register_with("web", "a", 2.0, |_| {})).await.unwrap().lease.unwrap().token;
    let mut beating = client.heartbeat_stream().await.unwrap();
    beating.beat(beat([token])).await;
    assert_eq!(beating.next().await.unwrap().unwrap().results[0].state(), BeatState::Renewed);
    drop(beating);
    let early =
        timeout(Duration::from_millis(1_500), follower.event("OFFLINE", |one| one.r#type() == EventType::Offline));
    assert!(early.await.is_err(), "it went with its stream");
    let (_, event) = follower.event("OFFLINE", |one| one.r#type() == EventType::Offline).await;
    assert_eq!(event.cause(), Cause::Expired);
    recorder.assert_clean();
}
