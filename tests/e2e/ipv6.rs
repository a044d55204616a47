//! IPv6 from end to end: listened on, dialled, and in what is registered.

use std::net::TcpListener;

use crate::{
    harness::{Follower, Server, lookup, onair, register_with, said},
    history::{Recorder, Settings},
};

#[tokio::test]
async fn everything_works_over_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("SKIPPED: there is no IPv6 here");
        return;
    }
    let mut server = Server::start(&["--listen", "[::1]:0"]).await;
    assert!(server.address().is_ipv6());
    let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    // Its address is where the call came from, and stands in brackets where a port follows.
    let request = register_with("web", "", 60.0, |instance| instance.host = "::".into());
    let instance = client.register(request).await.unwrap().instance.unwrap();
    assert_eq!(
        (instance.host.as_str(), instance.id.as_str(), instance.url.as_str()),
        ("::1", "[::1]:8000", "http://[::1]:8000")
    );
    let given = register_with("web", "", 60.0, |instance| (instance.host, instance.port) = ("[2001:db8::1]".into(), 0));
    let given = client.register(given).await.unwrap().instance.unwrap();
    assert_eq!((given.host.as_str(), given.url.as_str()), ("2001:db8::1", "http://[2001:db8::1]"));

    let url = server.url();
    let (code, out, err) = said(&onair(&["lookup", "web", "--url", &url]).await);
    assert!(code == 0 && out.contains("http://[::1]:8000"), "{code} {out} {err}");
    let (code, out, _) = said(&onair(&["doctor", "--url", &url]).await);
    assert!(code == 0 && out.contains(&url), "{out}");
    server.kill().await;
    server.again().await;
    let client = server.client(&recorder).await;
    let found = client.lookup(lookup("web")).await.unwrap();
    follower.reach(found.revision).await;
    assert_eq!((found.instances.len(), follower.resets()), (2, &[][..]));
    recorder.assert_clean();
}

#[tokio::test]
async fn both_families_at_once() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("SKIPPED: there is no IPv6 here");
        return;
    }
    let mut server = crate::harness::Running::start(&["serve", "--ephemeral", "--listen", "127.0.0.1:0,[::1]:0"]);
    for family in ["127.0.0.1:", "[::1]:"] {
        let line = server.out.line(&format!("is listening on {family}")).await;
        let address = line.split_once("is listening on ").unwrap().1.split_once(' ').unwrap().0.to_owned();
        let (code, out, err) = said(&onair(&["health", "--url", &format!("http://{address}")]).await);
        assert_eq!((code, out.trim()), (0, "SERVING"), "{err}");
    }
    server.signal("TERM");
    assert_eq!(server.ended().await, 0);
}
