//! `onair keep`: programs that know nothing of it are registered while they work, each by its own check, and taken away
//! with it, though they go on.

use std::{fs, net::TcpListener, time::Duration};

use onair::proto::LookupRequest;

use crate::{
    client::{of, one},
    harness::{Running, Server, onair, pass, said, within},
    metrics::Scrape,
    run::until,
};

fn keep(server: &Server, args: &[&str]) -> Running {
    let url = format!("{}?ttl=1s", server.url());
    Running::start(&[&["keep"], args, &["--check-interval", "50ms", "--url", &url]].concat())
}

#[tokio::test]
async fn foreign_programs_are_registered_while_they_work() {
    let mut server = Server::start(&["--restart-grace", "1s"]).await;
    let place = tempfile::tempdir().unwrap();
    let up = place.path().join("up");
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = foreign.local_addr().unwrap().port();
    let (db, cache) = (format!("db@16.4:{port}"), format!("cache:127.0.0.1:{port}"));
    let check = format!("cache=cmd:test -f {} -a $PORT = {port} -a $HOST = 127.0.0.1", up.display());
    let mut kept = keep(&server, &[&db, &cache, "--check", &check]);

    let client = of(&server);
    let (mut dbs, mut caches) = (client.service("db"), client.service("cache"));
    let at = &until(&mut dbs, "the database", |known| known.all().len() == 1).await[0];
    assert_eq!((u16::try_from(at.port).unwrap(), at.version.as_str()), (port, "16.4"));
    assert!(kept.out.line("cache does not work yet").await.contains("ends with exit status: 1"));
    assert!(caches.instances().all().is_empty());
    fs::write(&up, "").unwrap();
    until(&mut caches, "the cache", |known| known.all().len() == 1).await;

    // Out of traffic at once, gone a TTL later, back when it works.
    fs::remove_file(&up).unwrap();
    until(&mut caches, "no cache", |known| known.all().is_empty()).await;
    kept.out.line("out of traffic").await;
    let all = LookupRequest { service: "cache".into(), selector: "status=*".into(), ..LookupRequest::default() };
    within("the end of its lease", async {
        while !client.lookup_with(all.clone()).await.unwrap().is_empty() {
            pass(Duration::from_millis(20)).await;
        }
    })
    .await;
    fs::write(&up, "").unwrap();
    until(&mut caches, "the cache again", |known| known.all().len() == 1).await;
    assert_eq!(dbs.instances().all().len(), 1, "the other one never went");

    // All leases are on one stream, and live over a registry that was killed.
    let streams = Scrape::of(server.address()).await.get("onair_streams{front=\"grpc\",rpc=\"HeartbeatStream\"}");
    assert_eq!(streams, 1.0);
    server.kill().await;
    kept.err.line("trying again").await;
    server.again().await;
    kept.err.line("answers again").await;

    kept.signal("TERM");
    kept.out.line("took").await;
    kept.out.line("took").await;
    assert_eq!(kept.ended().await, 0);
    until(&mut dbs, "no database", |known| known.all().is_empty()).await;
    assert!(client.lookup("cache").await.unwrap().is_empty());
    drop(foreign);
}

#[tokio::test]
async fn what_another_process_has_registered_is_left_to_it_and_others_are_kept() {
    let server = Server::ephemeral(&[]).await;
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = foreign.local_addr().unwrap().port();
    let (db, web) = (format!("db:127.0.0.1:{port}"), format!("web:127.0.0.1:{port}"));
    let mut kept = keep(&server, &[&db, &web, "--output", "json"]);
    for _ in 0..2 {
        let line = kept.out.line("\"event\":\"REGISTERED\"").await;
        assert!(!line.contains("token"), "{line}");
    }
    let id = format!("127.0.0.1:{port}");
    let other = of(&server).join(one("db", &id)).await.unwrap();
    assert!(kept.err.line("db/").await.contains("was superseded"));
    let mut webs = of(&server).service("web");
    until(&mut webs, "the other program", |known| known.all().len() == 1).await;
    kept.signal("INT");
    assert!(kept.out.line("\"event\":\"LEFT\"").await.contains(&format!("\"name\":\"web/{id}\"")));
    assert_eq!(kept.ended().await, 4);
    assert!(!other.has_ended());
    until(&mut webs, "nobody", |known| known.all().is_empty()).await;
}

#[tokio::test]
async fn everything_that_is_wrong_with_the_words_is_told_at_once() {
    let args = ["keep", "web", "db:0", "a:1", "a:1", "--check", "udp", "--check", "b=tcp", "--url", "127.0.0.1:9"];
    let (code, _, errors) = said(&onair(&args).await);
    assert_eq!(code, 2);
    for part in ["`web`", "`db:0`", "a on port 1 is given twice", "`udp`", "`b=tcp`: none of the programs"] {
        assert!(errors.contains(part), "{part} is not in {errors}");
    }
    // What no registry would take is told before anything is looked at.
    let (code, _, errors) = said(&onair(&["keep", "a/b:1", "web:1", "c/d:2", "--url", "127.0.0.1:9"]).await);
    assert!(code == 2 && errors.contains("a/b: service: ") && errors.contains("c/d: service: "), "{code}: {errors}");
    let nobody = tokio::time::timeout(Duration::from_secs(20), onair(&["keep", "--url", "127.0.0.1:9"])).await;
    assert_eq!(said(&nobody.unwrap()).0, 2);
}
