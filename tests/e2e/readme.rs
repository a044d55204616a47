//! The README's tour, with the commands as they are written there: by the `onair` command, by grpcurl alone, and by curl
//! alone.

use std::{fs, net::TcpListener, path::Path};

use onair::registry::Cause;

use crate::{
    harness::{Follower, Server, Terminal, within},
    history::{Recorder, Settings},
    tools::tool,
};

/// The blocks of commands of a section of a document, with these texts put for others.
pub struct Tour(Vec<String>);

impl Tour {
    fn read(from: &str, to: &str, instead: &[(&str, &str)]) -> Self {
        Self::of("README.md", from, to, instead)
    }

    /// The same of another document.
    pub fn of(document: &str, from: &str, to: &str, instead: &[(&str, &str)]) -> Self {
        let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        let section = document.split_once(from).expect(from).1.split_once(to).expect(to).0;
        let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
        let changed = |block: &str| instead.iter().fold(block.to_owned(), |block, (old, new)| block.replace(old, new));
        Self(blocks.map(changed).collect())
    }

    /// The block that has all of these in it.
    pub fn block(&self, parts: &[&str]) -> &str {
        let mut found = self.0.iter().filter(|block| parts.iter().all(|part| block.contains(part)));
        let block = found.next().unwrap_or_else(|| panic!("there is no block with {parts:?}"));
        assert!(found.next().is_none(), "several blocks with {parts:?}");
        block
    }
}

pub fn is_there(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(program).exists())
}

/// Waits for a program that does not say when it listens.
async fn until_listening(address: &str) {
    let mut again = tokio::time::interval(std::time::Duration::from_millis(20));
    let connected = async {
        loop {
            again.tick().await;
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return;
            }
        }
    };
    within("a program that listens", connected).await;
}

#[tokio::test]
async fn the_five_minutes_go_as_the_readme_says() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let tour = Tour::read("## Five minutes", "### The same without", &[("8000", &port)]);
    let mut server = Server::start(&["--restart-grace", "2s", "--register-itself", "on"]).await;
    let dir = tempfile::tempdir().unwrap();
    // With a shorter TTL than the default, so that nobody has to wait long.
    let url = format!("{}?ttl=6s", server.url());
    let mut second = Terminal::open(dir.path(), &[], ("ONAIR_URL", &url));
    let mut third = Terminal::open(dir.path(), &[], ("ONAIR_URL", &url));
    let at = format!("web 127.0.0.1:{port} 127.0.0.1:{port}");

    second.begin(tour.block(&["onair watch"])).await;
    let itself = server.info().await;
    second.ends_with("ONLINE", &format!("ONLINE  onair {} {} SNAPSHOT", itself.registry_id, server.address())).await;
    // People are slower.
    within("a watch", async { while server.info().await.counts.unwrap().watches != 1 {} }).await;
    third.run(tour.block(&["python3 -m http.server"])).await;
    second.ends_with("ONLINE", &format!("ONLINE  {at} REGISTERED")).await;

    if is_there("python3") {
        until_listening(&format!("127.0.0.1:{port}")).await;
    }
    let said = third.run(tour.block(&["onair lookup web", "curl"])).await;
    assert!(said.contains(&format!("http://127.0.0.1:{port}")) && said.contains("\"version\":\"1.4.2\""), "{said}");
    assert!(said.contains("SERVING") && said.contains("INSTANCES"), "{said}");
    assert!(!is_there("curl") || !is_there("python3") || said.contains("200 OK"), "{said}");

    server.kill().await;
    second.ends_with("the stream broke", "resuming").await;
    server.again().await;
    second.line("onair: resumed at revision 3 after").await;
    second.ends_with("OFFLINE onair", "REPLACED").await;
    second.ends_with("ONLINE  onair", "REGISTERED").await;

    third.run(tour.block(&["kill -9 $JOIN"])).await;
    second.ends_with("OFFLINE", &format!("OFFLINE {at} EXPIRED")).await;
    third.run(tour.block(&["1.4.3"])).await;
    second.ends_with("ONLINE", &format!("ONLINE  {at} REGISTERED")).await;
    second.ends_with("OFFLINE", &format!("OFFLINE {at} DEREGISTERED")).await;
}

/// What a tour by grpcurl needs: two terminals in one directory.
async fn terminals(dir: &Path, server: &Server, grpcurl: &Path) -> (Terminal, Terminal) {
    let url = server.url();
    let open = || Terminal::open(dir, &[grpcurl], ("UNUSED", &url));
    (open(), open())
}

#[tokio::test]
async fn grpcurl_alone_is_a_complete_client() {
    let grpcurl = tool("grpcurl");
    let mut server = Server::start(&["--restart-grace", "1s"]).await;
    let address = server.address().to_string();
    let instead = [("127.0.0.1:6624", address.as_str()), ("\"30s\"", "\"5s\""), ("-max-time 5", "-max-time 2")];
    let tour = Tour::read("### The same without", "### And with curl", &instead);
    let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let dir = tempfile::tempdir().unwrap();
    let (mut second, mut third) = terminals(dir.path(), &server, &grpcurl).await;

    let said = third.run(tour.block(&["describe onair.v1.Registry\n"])).await;
    for expected in ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "rpc HeartbeatStream"] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    assert!(said.contains("Send it always."), "the proto's comments are there: {said}");

    second.begin(tour.block(&["Registry/Watch", "tee watch.json"])).await;
    second.line("\"snapshotEnd\": true").await;
    let said =
        third.run(tour.block(&["Registry/Register", "TOKEN=", "\"version\": \"1.4.2\"}, \"ttl\": \"5s\"}'"])).await;
    assert!(said.contains("\"heartbeatInterval\": \"1.666s\"") && said.contains("\"incarnation\": \"1\""), "{said}");
    second.line("EVENT_TYPE_ONLINE").await;
    second.line("CAUSE_REGISTERED").await;
    // Beats alone are a block of their own; with a registration they come again later.
    let beats = tour.0.iter().find(|block| block.contains("Registry/Heartbeat")).unwrap();
    assert!(third.run(beats).await.contains("BEAT_STATE_RENEWED"));
    let said = third.run(tour.block(&["Registry/Lookup"])).await;
    assert!(said.contains("\"url\": \"http://127.0.0.1:8000\""), "{said}");
    assert!(third.run(tour.block(&["Health/Check"])).await.contains("\"status\": \"SERVING\""));

    server.kill().await;
    let (said, _) = second.end().await;
    assert!(said.contains("Unavailable"), "{said}");
    server.again().await;
    follower.event("the end of the lease", |event| event.cause() == Cause::Expired).await;
    second.begin(tour.block(&["RESUME="])).await;
    second.line("EVENT_TYPE_OFFLINE").await;
    second.line("CAUSE_EXPIRED").await;

    let said = third.run(tour.block(&["Registry/Heartbeat", "Registry/Register"])).await;
    assert!(said.contains("BEAT_STATE_EXPIRED") && said.contains("\"incarnation\": \"3\""), "{said}");
    let next = second.line("EVENT_TYPE_").await;
    assert!(next.contains("EVENT_TYPE_ONLINE"), "{next}");
    let said = third.run(tour.block(&["Registry/Subscribe"])).await;
    assert!(said.contains("\"id\": \"a\"") && said.contains("\"id\": \"b\""), "{said}");
    assert_eq!(said.matches("\"snapshotEnd\": true").count(), 2, "{said}");
    let said = third.run(tour.block(&["Registry/Deregister", "GetServerInfo"])).await;
    assert!(said.contains("\"removed\": \"1\"") && said.contains("\"maxWatches\": \"100000\""), "{said}");
    second.line("CAUSE_DEREGISTERED").await;
    recorder.assert_clean();
}

#[tokio::test]
async fn curl_alone_is_enough() {
    if !is_there("curl") {
        println!("SKIPPED: there is no curl here");
        return;
    }
    let server = Server::start(&[]).await;
    let address = server.address().to_string();
    let tour = Tour::read("### And with curl", "### Two versions", &[("127.0.0.1:6624", address.as_str())]);
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let dir = tempfile::tempdir().unwrap();
    let mut second = Terminal::open(dir.path(), &[], ("UNUSED", &address));
    let mut third = Terminal::open(dir.path(), &[], ("UNUSED", &address));

    third.run(tour.block(&["SERVICE=http"])).await;
    second.begin(tour.block(&["curl -sSN"])).await;
    second.line("\"snapshotEnd\":true").await;
    second.line("id: ").await;
    let said = third.run(tour.block(&["PUT", "TOKEN="])).await;
    assert!(said.contains("\"heartbeatInterval\":\"10s\"") && said.contains("\"incarnation\":\"1\""), "{said}");
    let (_, online) = follower.event("ONLINE", |event| event.cause() == Cause::Registered).await;
    assert_eq!(online.instance.unwrap().id, "web-1");
    second.line("\"cause\":\"CAUSE_REGISTERED\"").await;
    assert!(third.run(tour.block(&["heartbeat"])).await.contains("BEAT_STATE_RENEWED"));
    let said = third.run(tour.block(&["-G", "services'"])).await;
    assert_eq!(said.matches("\"url\":\"http://127.0.0.1:8000\"").count(), 2, "{said}");
    assert!(said.contains("\"service\":\"web\",\"instances\":1,\"routable\":1"), "{said}");
    let said = third.run(tour.block(&["wait=10s"])).await;
    let (snapshot, change) = said.split_once("\"snapshotEnd\":true").unwrap();
    assert!(snapshot.contains("\"id\":\"web-1\"") && change.contains("\"id\":\"web-2\""), "{said}");
    assert!(change.contains("CAUSE_REGISTERED") && !change.contains("CAUSE_SNAPSHOT"), "{said}");
    let said = third.run(tour.block(&["colour=red"])).await;
    assert!(said.contains("\"field\":\"limit\"") && said.contains("\"field\":\"colour\""), "{said}");
    let said = third.run(tour.block(&["DELETE"])).await;
    assert!(said.contains("\"removed\":\"1\"") && said.contains("\"maxWatches\":\"100000\""), "{said}");
    follower.event("OFFLINE", |event| event.cause() == Cause::Deregistered).await;
    second.line("\"cause\":\"CAUSE_DEREGISTERED\"").await;
    recorder.assert_clean();
}

#[tokio::test]
async fn two_versions_behind_one_name_go_as_the_readme_says() {
    if !is_there("curl") {
        println!("SKIPPED: there is no curl here");
        return;
    }
    let server = Server::start(&[]).await;
    let (address, url) = (server.address().to_string(), server.url());
    let tour = Tour::read("### Two versions", "To tidy up", &[("127.0.0.1:6624", address.as_str())]);
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let dir = tempfile::tempdir().unwrap();
    let mut second = Terminal::open(dir.path(), &[], ("ONAIR_URL", &url));
    let mut third = Terminal::open(dir.path(), &[], ("ONAIR_URL", &url));

    third.run(tour.block(&["onair join shop", "frontend create"])).await;
    for _ in 0..2 {
        follower.event("ONLINE", |event| event.cause() == Cause::Registered).await;
    }
    second.begin(tour.block(&["watch?frontend=www"])).await;
    second.line("\"snapshotEnd\":true").await;
    third.run(tour.block(&["onair switch www --to green"])).await;
    let seen = second.line("CAUSE_SWITCHED").await;
    assert!(seen.find("CAUSE_MATCHED").unwrap() < seen.find("CAUSE_SWITCHED").unwrap(), "{seen}");
    let said = third.run(tour.block(&["onair frontend back"])).await;
    second.line("CAUSE_SWITCHED").await;
    assert!(said.contains("blue") && said.contains("green"), "{said}");
    let said = third.run(tour.block(&["blue=95,green=5"])).await;
    let found = |port: &str| {
        let line = said.lines().find(|line| line.ends_with(&format!("\"port\":{port}")));
        line.map_or(0, |line| line.trim().split(' ').next().unwrap().parse::<u32>().unwrap())
    };
    // Ten of 200 are due: more than 30 come once in a hundred million times.
    assert!(found("8001") + found("8002") == 200 && found("8002") <= 30, "{said}");
    recorder.assert_clean();
}

#[tokio::test]
async fn a_shop_starts_in_order_as_the_readme_says() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let tour = Tour::read("### A shop that starts", "To tidy up", &[]);
    let dir = tempfile::tempdir().unwrap();
    let mut second = Terminal::open(dir.path(), &[], ("ONAIR_URL", &url));
    let mut third = Terminal::open(dir.path(), &[], ("ONAIR_URL", &url));

    let said = third.run(tour.block(&["onair app create"])).await;
    for line in ["6010  shop-www     nodejs        7050      6012 6013", "6019  shop-db      postgresql    5432"] {
        assert!(said.contains(line), "{said}");
    }
    second.begin(tour.block(&["onair start-order"])).await;
    second.line("level 1 shop-db").await;
    third.run(tour.block(&["onair join shop-db"])).await;
    // Typed at once, they come in any order.
    let (said, status) = second.end().await;
    assert!(status == 0 && said.contains(" 3/3"), "{said}");
    let said = third.run(tour.block(&["onair status"])).await;
    assert!(said.contains("shop-api     MISSING  play:6011->9000        0     -          -"), "{said}");
    assert!(said.contains("2 online, 1 missing, 0 on an unexpected port"), "{said}");
    let said = third.run(tour.block(&["onair env"])).await;
    assert!(said.contains("PORT=6010") && said.contains("SHOP_API_URL=http://localhost:6011"), "{said}");
    assert!(said.contains("3 applications: would be 0 created, 0 updated, 3 unchanged, 0 refused"), "{said}");
}
