//! The client for programs in Rust against the real server: leases that are kept, calls that find a host, and what is
//! wrong with connection strings. What it follows is in `following`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use onair::{
    client::{Cause, Client, Joined, LeaseEvent, Lost, Registration},
    proto::{DeregisterRequest, Instance, LookupRequest, ResolveRequest, Status},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    harness::{Server, pass, register, selector, within},
    metrics::Scrape,
};

/// A client of `server` whose leases are short.
pub fn of(server: &Server) -> Client {
    Client::connect(&format!("{}?ttl=1s", server.url())).unwrap()
}

/// An instance of a service on loopback.
pub fn one(service: &str, id: &str) -> Registration {
    Registration::new(service).host("127.0.0.1").port(8_000).id(id)
}

pub fn ids(mut instances: Vec<Instance>) -> Vec<String> {
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.into_iter().map(|instance| instance.id).collect()
}

/// The next event of a lease that is no trouble with the connection.
pub async fn told(joined: &mut Joined) -> Option<LeaseEvent> {
    loop {
        match within("what becomes of the lease", joined.event()).await {
            Some(LeaseEvent::Lost(_) | LeaseEvent::Failing(_) | LeaseEvent::Recovered { .. }) => {}
            event => return event,
        }
    }
}

#[tokio::test]
async fn a_join_outlives_its_lease_and_its_registry_and_yields_to_another_program() {
    let mut server = Server::ephemeral(&[]).await;
    let client = of(&server);
    let mut joined = client.join(one("orders", "a").status(Status::Starting)).await.unwrap();
    assert_eq!(ids(client.lookup("orders").await.unwrap()), [""; 0], "it is starting");
    joined.set_status(Status::Serving).await.unwrap();
    let first = joined.instance();
    assert_eq!(ids(client.lookup("orders").await.unwrap()), ["a"]);

    // Somebody takes it away.
    let gone = DeregisterRequest { service: "orders".into(), id: "a".into(), ..DeregisterRequest::default() };
    assert_eq!(server.api().await.deregister(gone).await.unwrap().into_inner().removed, 1);
    let Some(LeaseEvent::Registered { lost: Some(Lost::Expired), .. }) = told(&mut joined).await else {
        panic!("not again")
    };
    assert!(joined.instance().incarnation > first.incarnation);
    assert_eq!(client.lookup("orders").await.unwrap()[0].status(), Status::Serving, "it is as it said last");

    // The registry loses everything.
    server.kill().await;
    server.again().await;
    let Some(LeaseEvent::Registered { lost: Some(Lost::Unknown), .. }) = told(&mut joined).await else {
        panic!("not again")
    };
    assert_eq!(ids(client.lookup("orders").await.unwrap()), ["a"]);
    assert!(!joined.has_ended());

    // Another program registers the same instance.
    server.api().await.register(register("orders", "a", 60.0)).await.unwrap();
    let Some(LeaseEvent::Superseded { .. }) = told(&mut joined).await else { panic!("it fights") };
    assert!(joined.event().await.is_none() && joined.has_ended());
    joined.leave().await.unwrap();
    assert_eq!(ids(client.lookup("orders").await.unwrap()), ["a"], "the other one's stays");
}

#[tokio::test]
async fn leaving_and_dropping_take_away_what_was_joined_and_nothing_else() {
    let server = Server::ephemeral(&[]).await;
    let client = of(&server);
    let mut joined = Vec::new();
    for id in ["a", "b", "c"] {
        joined.push(client.join(one("orders", id)).await.unwrap());
    }
    let mut watch = client.watch([selector("orders", "")]);
    assert_eq!(within("the snapshot", watch.next()).await.unwrap().unwrap().events.len(), 3);
    let left = joined.remove(0).leave().await.unwrap();
    assert_eq!(left.removed, 1);
    let change = within("a leaves", watch.next()).await.unwrap().unwrap();
    assert_eq!((change.events[0].instance.as_ref().unwrap().id.as_str(), change.revision), ("a", left.revision));
    drop(joined.remove(0));
    let change = within("b leaves", watch.next()).await.unwrap().unwrap();
    assert_eq!(change.events[0].instance.as_ref().unwrap().id, "b");
    assert_eq!(ids(client.lookup("orders").await.unwrap()), ["c"]);
    // The client stays of use.
    let again = client.join(one("orders", "a")).await.unwrap();
    assert_eq!(again.instance().id, "a");
    assert_eq!(ids(client.lookup("orders").await.unwrap()), ["a", "c"]);
}

#[tokio::test]
async fn calls_find_what_is_there_and_refusals_have_all_their_reasons() {
    let server = Server::ephemeral(&[]).await;
    let client = Client::connect(&format!("{}/shop/", server.url())).unwrap();
    let mut joined = Vec::new();
    for (id, version) in [("a", "1.0.0"), ("b", "1.4.0"), ("c", "2.0.0")] {
        joined.push(client.join(one("orders", id).version(version).ttl(Duration::from_secs(60))).await.unwrap());
    }
    joined.push(client.join(one("users", "a")).await.unwrap());
    assert_eq!(ids(client.lookup("orders").await.unwrap()), ["a", "b", "c"]);
    let range = LookupRequest {
        namespace: "shop".into(),
        service: "orders".into(),
        version: "^1".into(),
        ..LookupRequest::default()
    };
    assert_eq!(ids(client.lookup_with(range).await.unwrap()), ["a", "b"]);
    assert_eq!(ids(client.lookup("nobody").await.unwrap()), [""; 0], "which is no error");
    let listed = client.list("").await.unwrap();
    let names: Vec<_> = listed.iter().map(|service| (service.service.as_str(), service.instances)).collect();
    assert_eq!(names, [("orders", 3), ("users", 1)]);
    assert_eq!(client.list("or").await.unwrap().len(), 1);

    let needs = |names: &[(&str, &str)]| ResolveRequest {
        dependencies: names.iter().map(|(name, range)| ((*name).to_owned(), (*range).to_owned())).collect(),
        ..ResolveRequest::default()
    };
    let found = client.resolve(needs(&[("orders", "^2"), ("users", "")])).await.unwrap();
    assert_eq!(found.resolved["orders"].instance.as_ref().unwrap().id, "c");
    let failed = client.resolve(needs(&[("orders", "^3"), ("mail", ""), ("users", "")])).await.unwrap_err();
    assert_eq!(failed.reason().as_deref(), Some("MISSING_DEPENDENCY"), "{failed}");
    assert!(!failed.is_transient() && failed.to_string().contains("orders@^3"), "{failed}");
    // Both are told, and nothing was registered.
    let bad = one("orders", "d").url("nonsense url").needs("mail", ">=");
    let failed = client.join(bad).await.unwrap_err();
    let fields: Vec<_> = failed.last().unwrap().violations().into_iter().map(|(field, _)| field).collect();
    assert!(fields.len() >= 2, "{fields:?}: {failed}");
    assert_eq!(client.lookup("orders").await.unwrap().len(), 3);
}

/// Accepts, counts, and does something with each connection.
async fn host<F: Future<Output = ()> + Send + 'static>(does: fn(TcpStream) -> F) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(does(stream));
        }
    });
    (address, count)
}

/// Takes everything and never says anything.
async fn silent(mut stream: TcpStream) {
    let mut bytes = [0; 1_024];
    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
}

/// A web server of another time.
async fn old(mut stream: TcpStream) {
    let mut bytes = [0; 1_024];
    let _ = stream.read(&mut bytes).await;
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
}

/// Nobody can speak with it.
async fn rude(stream: TcpStream) {
    drop(stream);
}

#[tokio::test]
async fn every_host_is_tried_once_and_an_error_has_all_causes() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (silent, old, rude) = (host(silent).await, host(old).await, host(rude).await);
    let dead = format!("{closed},{},{},{}", silent.0, old.0, rude.0);
    let counts = || [&silent.1, &old.1, &rude.1].map(|count| count.load(Ordering::SeqCst));

    let client = Client::connect(&format!("http://{dead}?timeout=500ms")).unwrap();
    let failed = client.lookup("orders").await.unwrap_err();
    assert_eq!(failed.causes.len(), 4, "{failed}");
    assert!(matches!(failed.causes[0].1, Cause::Transport { refused: true, .. }), "{failed}");
    assert!(matches!(failed.causes[1].1, Cause::Timeout(_)), "{failed}");
    assert!(failed.is_transient() && failed.to_string().contains(&closed) && failed.to_string().contains(&rude.0));
    assert_eq!(counts(), [1, 1, 1], "{failed}");

    // The one that lives is found behind them, and kept.
    let server = Server::ephemeral(&[]).await;
    let client = Client::connect(&format!("http://{dead},{}?timeout=500ms&ttl=1s", server.address())).unwrap();
    let joined = client.join(one("orders", "a")).await.unwrap();
    assert_eq!(counts(), [2, 2, 2]);
    for _ in 0..3 {
        assert_eq!(client.lookup("orders").await.unwrap().len(), 1);
    }
    assert_eq!(counts(), [2, 2, 2], "the one that answered is asked first");
    // A status goes there, too; beats find their own way, once.
    joined.set_status(Status::Serving).await.unwrap();
    within("a beat", async {
        while Scrape::of(server.address()).await.get("onair_beats_total{state=\"RENEWED\"}") < 4.0 {
            pass(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(counts(), [3, 3, 3]);
}

#[tokio::test]
async fn a_registry_by_tls_alone_and_one_without_are_told_apart() {
    let server = Server::ephemeral(&[]).await;
    let client = Client::connect(&format!("https://{}?timeout=2s", server.address())).unwrap();
    let failed = client.lookup("orders").await.unwrap_err();
    assert!(matches!(failed.last(), Some(Cause::Tls(_))), "{failed}");
    assert!(failed.to_string().contains("does not speak TLS"), "{failed}");
}

#[test]
fn a_connection_string_is_refused_with_all_that_is_wrong_with_it() {
    for (text, all) in [
        ("ftp://h:0,a b/x/y?ttl=5&colour=red", &["`ftp`", "`h:0`", "`a b`", "`x/y`", "ttl: `5`", "`colour`"][..]),
        ("http://?token=x&timeout=0", &["`` is not a host", "token", "timeout: 0"]),
        ("me:secret@h", &["user names and passwords"]),
        ("http://h1,,[::1/%zz?ttl=1s&ttl=2s", &["`` is not a host", "`[::1`", "`%zz`", "ttl is given twice"]),
    ] {
        let error = Client::connect(text).unwrap_err().to_string();
        assert!(error.starts_with("Invalid connection string: "), "{text}: {error}");
        all.iter().for_each(|part| assert!(error.contains(part), "{text}: {part} is not in: {error}"));
        assert!(!error.contains("secret"), "{error}");
    }
}
