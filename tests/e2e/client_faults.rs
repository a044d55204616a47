//! What the client for programs in Rust does when the way to the registry, or the registry, fails: other hosts, connections
//! that are dead, answers that are lost, restarts without the grace that hides who does not beat.

use std::{env, fs, thread, time::Duration};

use futures_util::FutureExt as _;
use onair::{
    client::{CallFailed, Cause, Change, Client, ClientFiles, LeaseEvent, Lost, Means, Pem, Watch},
    proto::{EventType, RegisterRequest, Status},
};
use tokio::{runtime, time::Instant};

use crate::{
    client::{ids, of, one, told},
    harness::{Authority, Passage, Server, Way, all, alone, pass, register, within, write},
    metrics::Scrape,
    tls::{Secured, authorities},
};

async fn next(watch: &mut Watch) -> Change {
    within("a change", watch.next()).await.expect("no end").unwrap()
}

/// Waits until the server has renewed so many leases in this life.
async fn renewed(server: &Server, count: f64) {
    within("beats", async {
        while Scrape::of(server.address()).await.get("onair_beats_total{state=\"RENEWED\"}") < count {
            pass(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Reads until an instance of this id comes; nobody may have gone before it.
async fn sees(watch: &mut Watch, id: &str) {
    loop {
        for event in next(watch).await.events {
            assert_ne!(event.r#type(), EventType::Offline, "{event:?}");
            if event.instance.unwrap().id == id {
                return;
            }
        }
    }
}

/// Two TTLs, and nobody has gone.
async fn lives_on(server: &Server, witness: &mut Watch, mark: &str) {
    let before = Scrape::of(server.address()).await.get("onair_beats_total{state=\"RENEWED\"}");
    renewed(server, before + 6.0).await;
    server.api().await.register(register("mark", mark, 60.0)).await.unwrap();
    sees(witness, mark).await;
}

#[tokio::test]
async fn leases_and_watches_go_over_to_another_host_and_back() {
    let server = Server::ephemeral(&[]).await;
    let ways = [Way::to(server.address(), Passage::Open).await, Way::to(server.address(), Passage::Open).await];
    let client = Client::connect(&format!("{},{}?ttl=2s", ways[0].address(), ways[1].address())).unwrap();
    let mut joined = client.join(one("orders", "a")).await.unwrap();
    let mut watch = client.watch([all()]);
    sees(&mut watch, "a").await;
    let mut witness = of(&server).watch([all()]);
    sees(&mut witness, "a").await;
    assert_eq!(ways[1].connections(), 0, "the first is well");
    for (turn, (gone, there)) in [(0, 1), (1, 0), (0, 1)].into_iter().enumerate() {
        ways[there].set(Passage::Open);
        ways[gone].set(Passage::Closed);
        let mark = format!("m{turn}");
        lives_on(&server, &mut witness, &mark).await;
        sees(&mut watch, &mark).await;
        assert!(ways[there].connections() >= 2, "a stream of beats and a watch");
        assert_eq!(client.lookup("orders").await.unwrap().len(), 1);
    }
    joined.set_status(Status::Draining).await.unwrap();
    assert!(!joined.has_ended());
    let registered_again = async { while !matches!(told(&mut joined).await, Some(LeaseEvent::Registered { .. })) {} };
    assert!(tokio::time::timeout(Duration::ZERO, registered_again).await.is_err(), "one registration is enough");
}

#[tokio::test]
async fn beats_leave_a_connection_that_is_dead_before_the_lease_ends() {
    let server = Server::ephemeral(&[]).await;
    let way = Way::to(server.address(), Passage::Open).await;
    let client = Client::connect(&format!("{}?ttl=3s", way.address())).unwrap();
    let joined = client.join(one("orders", "a")).await.unwrap();
    let mut witness = of(&server).watch([all()]);
    sees(&mut witness, "a").await;
    renewed(&server, 1.0).await;
    let before = way.connections();
    way.dead_end();
    lives_on(&server, &mut witness, "m1").await;
    assert!(way.connections() > before);
    // So does what says a status, which is a call of its own.
    way.dead_end();
    let mut tried = 0;
    while let Err(failed) = joined.set_status(Status::Starting).await {
        assert!(failed.is_transient() && tried < 5, "{failed}");
        tried += 1;
    }
    assert_eq!(ids(client.lookup("orders").await.unwrap()), [""; 0]);
    lives_on_hidden(&server).await;
}

/// It beats as before.
async fn lives_on_hidden(server: &Server) {
    let before = Scrape::of(server.address()).await.get("onair_beats_total{state=\"RENEWED\"}");
    renewed(server, before + 4.0).await;
}

#[tokio::test]
async fn a_registration_whose_answer_is_lost_is_made_once() {
    let server = Server::ephemeral(&[]).await;
    let mut witness = of(&server).watch([all()]);
    assert!(next(&mut witness).await.events.is_empty());
    let way = Way::to(server.address(), Passage::NoAnswers).await;
    let client = Client::connect(&format!("{}?ttl=30s&timeout=500ms", way.address())).unwrap();
    let failed = client.join(one("orders", "b")).await.unwrap_err();
    assert!(failed.is_transient(), "{failed}");
    let mut joined = client.join_soon(one("orders", "a"));
    assert!(!joined.was_registered());
    let mut online = Vec::new();
    while online.len() < 2 {
        online.extend(next(&mut witness).await.events.into_iter().map(|event| event.instance.unwrap()));
    }
    way.set(Passage::Open);
    let Some(LeaseEvent::Registered { response, lost: None }) = told(&mut joined).await else {
        panic!("not registered")
    };
    let first = online.into_iter().find(|instance| instance.id == "a").unwrap();
    assert_eq!(response.instance.unwrap().incarnation, first.incarnation, "it is the same");
    assert!(response.lease.unwrap().token.is_empty(), "which is nobody's business");
    // Its token is the one in force.
    joined.set_status(Status::Draining).await.unwrap();
    assert_eq!(joined.leave().await.unwrap().removed, 1);
}

#[tokio::test]
async fn what_is_denied_is_registered_again() {
    let server = Server::ephemeral(&[]).await;
    let request: RegisterRequest = one("orders", "a").into();
    let client = of(&server);
    let mut joined = client.join(request.clone()).await.unwrap();
    let instance = RegisterRequest { ttl: onair::client::to_wire(Duration::from_secs(1)), ..request };
    // The same request again, as of who has lost the answer: its token is the one in force now.
    let again = server.api().await.register(instance).await.unwrap().into_inner();
    assert_eq!(again.instance.unwrap().incarnation, joined.instance().incarnation);
    let Some(LeaseEvent::Registered { lost: Some(Lost::Denied), .. }) = told(&mut joined).await else {
        panic!("not again")
    };
    joined.set_status(Status::Draining).await.unwrap();
}

#[tokio::test]
async fn who_asks_for_a_status_is_told_when_it_is_so() {
    let mut server = Server::ephemeral(&[]).await;
    let client = of(&server);
    let joined = client.join(one("orders", "a")).await.unwrap();
    // The lease is lost, which only the beat with the status finds out: it is so when that is made again.
    let gone = onair::proto::DeregisterRequest { service: "orders".into(), id: "a".into(), ..Default::default() };
    server.api().await.deregister(gone).await.unwrap();
    joined.set_status(Status::Draining).await.unwrap();
    assert_eq!(ids(client.lookup("orders").await.unwrap()), [""; 0]);
    // Nobody is there: it is not so, and will be.
    server.kill().await;
    let failed = joined.set_status(Status::Serving).await.unwrap_err();
    assert!(failed.is_transient(), "{failed}");
    server.again().await;
    within("it serves", async {
        while client.lookup("orders").await.map_or(0, |found| found.len()) == 0 {
            pass(Duration::from_millis(50)).await;
        }
    })
    .await;
    // It is somebody else's.
    server.api().await.register(register("orders", "a", 60.0)).await.unwrap();
    let failed = joined.set_status(Status::Draining).await.unwrap_err();
    assert_eq!(failed.reason().as_deref(), Some("SUPERSEDED"), "{failed}");
    let failed = joined.set_status(Status::Draining).await.unwrap_err();
    assert!(failed.holder().is_some_and(|holder| !holder.is_empty()) && joined.has_ended(), "{failed}");
    assert_eq!(client.lookup("orders").await.unwrap().len(), 1, "the other one's stays");
}

#[tokio::test]
async fn who_leaves_is_not_held_up() {
    let mut server = Server::start(&[]).await;
    let way = Way::to(server.address(), Passage::Open).await;
    let client = Client::connect(&format!("{}?ttl=60s", way.address())).unwrap();
    let (away, soon) = (client.join(one("orders", "a")).await.unwrap(), client.join(one("orders", "b")).await.unwrap());
    // A beat that is under way is of no use any more.
    way.set(Passage::NoAnswers);
    let (began, leaving) = (Instant::now(), tokio::spawn(soon.leave()));
    let mut witness = of(&server).watch([all()]);
    while ids(of(&server).lookup("orders").await.unwrap()) != ["a"] {}
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(within("an end", leaving).await.unwrap().is_err(), "nothing said so");
    drop(next(&mut witness).await);
    server.kill().await;
    way.set(Passage::Closed);
    let failed = within("an end", away.leave()).await.unwrap_err();
    assert!(failed.is_transient() && failed.to_string().contains("its lease will end by itself"), "{failed}");
}

/// As a client that is a static, over the runtimes of several tests.
#[tokio::test]
async fn a_client_outlives_its_runtime() {
    let server = Server::ephemeral(&[]).await;
    let client = of(&server);
    for id in ["a", "b"] {
        let elsewhere = client.clone();
        let life = move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let joined = elsewhere.join(one("orders", id)).await.unwrap();
                joined.set_status(Status::Serving).await.unwrap();
                let mut service = elsewhere.service("orders");
                within("what is there", service.known()).await.unwrap();
                assert!(service.pick(onair::client::Pick::Random).is_some());
            });
        };
        within("its life", tokio::task::spawn_blocking(move || thread::spawn(life).join().unwrap())).await.unwrap();
        let before = Scrape::of(server.address()).await.get("onair_beats_total{state=\"RENEWED\"}");
        // And here, in a third.
        let joined = client.join(one("orders", "c")).await.unwrap();
        renewed(&server, before + 2.0).await;
        joined.leave().await.unwrap();
    }
}

#[test]
fn what_is_absurd_is_no_panic() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::ephemeral(&[]).await;
        let means = Means { timeout: Some(Duration::MAX), ..Means::default() };
        let client = Client::connect_with(&server.url(), means).unwrap();
        let joined = client.join(one("orders", "a").ttl(Duration::MAX)).await.unwrap();
        let ttl = joined.response().lease.as_ref().unwrap().ttl.unwrap();
        assert_eq!(ttl.seconds, 3_600, "the longest, and not the usual one");
        joined.drain(Duration::MAX).await.unwrap();
        let wait = onair::client::to_wire(Duration::MAX);
        let absurd = onair::proto::LookupRequest { service: "nobody".into(), wait, ..Default::default() };
        assert!(
            tokio::time::timeout(Duration::from_millis(100), client.lookup_with(absurd)).await.is_err(),
            "it waits"
        );
    });
}

/// What is registered is what was asked for before; what is asked for meanwhile is said by the first beat.
#[tokio::test]
async fn a_status_that_comes_while_it_registers_is_so_when_it_is_told() {
    let server = Server::ephemeral(&[]).await;
    let client = Client::connect(&format!("{}?ttl=60s", server.url())).unwrap();
    let waiting = one("orders", "a").needs("users", "").wait(Duration::from_secs(60));
    let joined = client.join_soon(waiting);
    let failed = joined.drain(Duration::ZERO).await.unwrap_err();
    assert!(failed.to_string().contains("it is not registered yet"), "{failed}");
    joined.set_status(Status::Serving).now_or_never();
    within("it waits", async {
        while Scrape::of(server.address()).await.get("onair_waiting_registrations") < 1.0 {
            pass(Duration::from_millis(20)).await;
        }
    })
    .await;
    let admitted = async { server.api().await.register(register("users", "u", 60.0)).await };
    let (drained, admitted) = tokio::join!(joined.set_status(Status::Draining), admitted);
    drained.unwrap();
    admitted.unwrap();
    assert_eq!(ids(client.lookup("orders").await.unwrap()), [""; 0]);
}

/// A program runs for longer than its certificate lasts.
#[tokio::test]
async fn a_client_shows_what_is_in_its_files_now() {
    let mut secured = Secured::start(&["--tls-client-ca", "CA"]).await;
    let show = |secured: &Secured, by: &Authority| {
        write(secured.dir.path(), "client", &by.client("spiffe://example.org/a", 9))
    };
    let (certificate, key) = show(&secured, &secured.ca);
    let pair = Some((Pem::parse(&certificate), Pem::parse(&key)));
    let means = Means { tls: ClientFiles { ca: Some(Pem::parse(&secured.ca.pem)), pair }, ..Means::default() };
    let client = Client::connect_with(&format!("https://localhost:{}", secured.address().port()), means).unwrap();
    client.lookup("web").await.unwrap();
    // Another authority signs those of clients from now on.
    let next = Authority::new();
    authorities(secured.dir.path(), &next);
    secured.server.kill().await;
    secured.server.again().await;
    let is_refused = |failed: CallFailed| assert!(matches!(failed.last(), Some(Cause::Tls(_))), "{failed}");
    is_refused(client.lookup("web").await.unwrap_err());
    // Half of a pair is none, and no reason to forget the one before.
    fs::write(&key, "half a key").unwrap();
    is_refused(client.lookup("web").await.unwrap_err());
    show(&secured, &next);
    client.lookup("web").await.unwrap();
}

/// The show: a thousand leases on one connection, and a server that is restarted again and again, with so short a grace that
/// who does not beat goes. `ONAIR_RESTARTS` is how often, `ONAIR_LIFE` how many seconds each life lasts.
#[tokio::test]
async fn a_thousand_on_one_connection_outlive_restart_after_restart() {
    let _alone = alone().await;
    let number = |name, usual| env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (restarts, life) = (number("ONAIR_RESTARTS", 3), Duration::from_secs(number("ONAIR_LIFE", 6)));
    let mut server = Server::start(&["--restart-grace", "2s", "--breaker", "off"]).await;
    let client = Client::connect(&format!("{}?ttl=2s", server.url())).unwrap();
    let watcher = Client::connect(&server.url()).unwrap();
    let mut joined = Vec::new();
    for turn in 0..1_000 {
        joined.push(client.join(one(&format!("s{}", turn % 50), &format!("i{turn}"))).await.unwrap());
    }
    let mut witness = watcher.watch([all()]);
    assert_eq!(next(&mut witness).await.events.len(), 1_000);
    let mut cpu = 0.0;
    for turn in 0..restarts {
        if turn % 3 == 1 {
            server.terminate();
            server.ended().await;
        } else {
            server.kill().await;
        }
        server.again().await;
        // More than the grace and a TTL: who does not beat has gone by then.
        pass(life).await;
        cpu = Scrape::of(server.address()).await.get("process_cpu_seconds_total");
        // Whatever happened before it is told before it.
        let mark = register("mark", &format!("m{turn}"), 3_600.0);
        let revision = server.api().await.register(mark).await.unwrap().into_inner().revision;
        let change = next(&mut witness).await;
        assert_eq!((change.events.len(), change.revision), (1, revision), "{change:?}");
    }
    println!(
        "1,000 leases, {restarts} restarts, lives of {life:?}: nobody went; the server's last life took {cpu} s of CPU"
    );
    assert!(joined.iter().all(|joined| !joined.has_ended()));
    assert_eq!(client.lookup("s7").await.unwrap().len(), 20);
}
