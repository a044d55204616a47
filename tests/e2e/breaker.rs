//! Promise 6 on real processes: most of a service's instances in a zone fall silent at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use onair::{
    proto::{BeatState, Breaker, Event},
    registry::{Cause, EventType, Status},
};

use crate::{
    harness::{Follower, Running, Server, beat, lookup, millis_after, onair, register_with, said},
    history::{Recorder, Settings},
};

/// What a busy machine adds to a deadline.
const NOISE: Duration = Duration::from_secs(1);
/// Of those who are held back: so long that a beat that comes late is not late.
const TTL: Duration = Duration::from_secs(3);

/// Starts `count` programs that keep an instance of `service` in `zone` each, and has seen them online.
async fn join(
    follower: &mut Follower,
    url: &str,
    (service, zone): (&str, &str),
    first_port: usize,
    count: usize,
) -> Vec<Running> {
    let start = |port: usize| {
        let (port, ttl) = (port.to_string(), format!("{}s", TTL.as_secs()));
        Running::start(&["join", service, "--port", &port, "--zone", zone, "--ttl", &ttl, "--url", url])
    };
    let joined: Vec<_> = (first_port..first_port + count).map(start).collect();
    let is_there = |follower: &Follower| {
        let all = follower.fold().instances().values();
        all.filter(|one| one.service == service && one.zone == zone).count()
    };
    while is_there(follower) < count {
        follower.message().await;
    }
    joined
}

/// Service and zone, id, and what happened: type, cause and status.
fn told(event: &Event) -> ((String, String), String, (EventType, Cause, Status)) {
    let one = event.instance.as_ref().unwrap();
    let what = (event.r#type(), event.cause(), one.status());
    ((one.service.clone(), one.zone.clone()), one.id.clone(), what)
}

fn is_suspect(event: &Event) -> bool {
    event.instance.as_ref().is_some_and(|one| one.status() == Status::Suspect)
}

async fn breaker(server: &Server) -> Breaker {
    server.info().await.breaker.expect("it says so")
}

#[tokio::test]
async fn six_of_a_zone_that_are_killed_are_held_back_for_a_ttl_and_no_others_are() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let url = server.url();
    let mut watch = Running::start(&["watch", "web", "--url", &url]);
    let six = join(&mut follower, &url, ("web", "eu"), 8_000, 6).await;
    let _alive = join(&mut follower, &url, ("web", "us"), 8_010, 2).await;
    let four = join(&mut follower, &url, ("few", "eu"), 8_020, 4).await;
    let mut killed = Instant::now();
    for join in six.into_iter().chain(four) {
        join.kill().await;
        killed = Instant::now();
    }
    // When each of the six was held back, and then went.
    let (mut held, mut gone, mut few) = (BTreeMap::new(), BTreeMap::new(), 0);
    let mut asked = false;
    while gone.len() < 6 || few < 4 {
        let (at, event) = follower.event("what becomes of the dead", |event| event.r#type() != EventType::Online).await;
        match told(&event) {
            ((service, zone), id, (EventType::Updated, Cause::Unspecified, Status::Suspect)) => {
                assert_eq!((service.as_str(), zone.as_str()), ("web", "eu"));
                assert!(held.insert(id, at).is_none());
            }
            ((service, zone), id, (EventType::Offline, Cause::Expired, Status::Suspect)) => {
                assert_eq!((service.as_str(), zone.as_str()), ("web", "eu"));
                gone.insert(id, at);
            }
            ((service, _), _, (EventType::Offline, Cause::Expired, Status::Serving)) if service == "few" => {
                assert!(millis_after(at, killed + TTL) <= NOISE.as_secs_f64() * 1_000.0);
                few += 1;
            }
            other => panic!("{other:?}"),
        }
        if held.len() == 6 && !asked {
            asked = true;
            shown(&server, &url).await;
        }
    }
    for (id, gone) in gone {
        let (early, late) = (Duration::from_millis(60), NOISE);
        let lasted = gone.duration_since(held[&id]);
        println!("{id} was SUSPECT for {lasted:?}");
        assert!(lasted >= TTL - early && lasted <= TTL + late, "{lasted:?}");
    }
    assert_eq!(breaker(&server).await, Breaker { enabled: true, trips: 1, gone: 6, ..Breaker::default() });
    watch.out.line("UPDATED web 127.0.0.1:8000 127.0.0.1:8000 SUSPECT").await;
    watch.out.line("OFFLINE web 127.0.0.1:8000 127.0.0.1:8000 EXPIRED").await;
    let log = server.log();
    assert!(log.contains(r#"namespace="default" service="web" zone="eu" silent="#), "{log}");
    assert!(log.contains("no lapse is held back there any more"), "{log}");
    recorder.assert_clean();
}

/// What is seen while six are SUSPECT and two are not.
async fn shown(server: &Server, url: &str) {
    let (code, out, _) = said(&onair(&["lookup", "web", "--url", url]).await);
    let of = |status: &str| out.lines().filter(|line| line.split_whitespace().any(|word| word == status)).count();
    assert_eq!((code, of("SUSPECT"), of("SERVING")), (0, 6, 2), "{out}");
    let pick = ["lookup", "web", "--pick", "random", "--limit", "2", "--prefer-zone", "eu", "--url", url];
    let (_, out, _) = said(&onair(&pick).await);
    assert!(!out.contains("SUSPECT") && out.lines().count() == 3, "{out}");
    let (_, out, _) = said(&onair(&["info", "--url", url]).await);
    assert!(out.contains("holds back 6 instances in 1 zone; so far 1 trip, 0 heard of again, 0 gone"), "{out}");
    assert_eq!(breaker(server).await, Breaker { enabled: true, held: 6, zones: 1, trips: 1, ..Breaker::default() });
}

#[tokio::test]
async fn a_zone_that_comes_back_is_as_it_was() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let six = join(&mut follower, &server.url(), ("web", "eu"), 8_000, 6).await;
    six.iter().for_each(|join| join.signal("STOP"));
    for _ in 0..6 {
        follower.event("SUSPECT", is_suspect).await;
    }
    six.iter().for_each(|join| join.signal("CONT"));
    for _ in 0..6 {
        let (_, event) = follower.event("what comes of a beat", |event| !is_suspect(event)).await;
        assert_eq!(told(&event).2, (EventType::Updated, Cause::Unspecified, Status::Serving));
    }
    assert!(follower.gone().is_empty());
    assert_eq!(breaker(&server).await, Breaker { enabled: true, trips: 1, released: 6, ..Breaker::default() });
    recorder.assert_clean();
}

#[tokio::test]
async fn a_restart_gives_the_suspects_their_grace_and_they_go() {
    const GRACE: Duration = Duration::from_secs(4);
    let mut server = Server::start(&["--restart-grace", "4s"]).await;
    let recorder = Recorder::new(Settings { cuts: true, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let mut tokens = Vec::new();
    for id in ["1", "2", "3", "4", "5", "6"] {
        let request = register_with("web", id, 1.0, |one| one.zone = "eu".into());
        tokens.push(client.register(request).await.unwrap().lease.unwrap().token);
    }
    for _ in 0..6 {
        follower.event("SUSPECT", is_suspect).await;
    }
    server.kill().await;
    server.again().await;
    let started = Instant::now();
    assert_eq!(breaker(&server).await, Breaker { enabled: true, held: 6, zones: 1, ..Breaker::default() });
    let client = server.client(&recorder).await;
    let answer = client.heartbeat(beat([&tokens[0]])).await.unwrap();
    assert_eq!(answer.results[0].state(), BeatState::Renewed);
    let found = client.lookup(lookup("web")).await.unwrap();
    let statuses: Vec<_> = found.instances.iter().map(onair::registry::Instance::status).collect();
    assert_eq!(statuses[0], Status::Serving);
    assert!(statuses[1..].iter().all(|status| *status == Status::Suspect), "{statuses:?}");
    while follower.gone().len() < 6 {
        let (at, event) = follower.event("OFFLINE", |event| event.r#type() == EventType::Offline).await;
        let (_, id, what) = told(&event);
        // The one that was heard of is an ordinary lease again.
        let (status, least) = if id == "1" { (Status::Serving, TTL / 3) } else { (Status::Suspect, GRACE) };
        assert_eq!(what, (EventType::Offline, Cause::Expired, status), "{id}");
        let lasted = at.duration_since(started);
        assert!(lasted + Duration::from_millis(100) >= least && lasted <= least + NOISE, "{id}: {lasted:?}");
    }
    recorder.assert_clean();
}

#[tokio::test]
async fn turned_off_nothing_is_held_back() {
    let server = Server::ephemeral(&["--breaker", "off"]).await;
    let recorder = Recorder::new(Settings { late: Some(NOISE), breaker: false, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    for id in 0..20 {
        client.register(register_with("web", &id.to_string(), 1.0, |one| one.zone = "eu".into())).await.unwrap();
    }
    while follower.gone().len() < 20 {
        follower.message().await;
    }
    assert_eq!(breaker(&server).await, Breaker::default());
    recorder.assert_clean();
}
