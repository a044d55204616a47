//! docs/migrating.md: what users of older registries try first goes as it is written there.

use std::net::TcpListener;

use crate::{
    client::of,
    harness::{Server, Terminal},
    readme::{Tour, is_there},
};

/// What the document runs besides `onair`.
fn can_run() -> bool {
    let missing = ["node", "curl"].into_iter().find(|program| !is_there(program));
    if let Some(program) = missing {
        println!("SKIPPED: there is no {program} here");
    }
    missing.is_none()
}

fn tour(from: &str, to: &str, instead: &[(&str, &str)]) -> Tour {
    Tour::of("docs/migrating.md", from, to, instead)
}

async fn terminal() -> (Server, tempfile::TempDir, Terminal) {
    let server = Server::ephemeral(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let terminal = Terminal::open(dir.path(), &[], ("ONAIR_URL", &server.url()));
    (server, dir, terminal)
}

#[tokio::test]
async fn an_etcd_registry_user_joins_and_looks_up() {
    if !can_run() {
        return;
    }
    let tour = tour("## From etcd-registry", "## From feathers", &[]);
    let (server, _dir, mut terminal) = terminal().await;
    let said = terminal.run(tour.block(&["onair join my-service-name"])).await;
    assert!(said.contains("\"url\":\"http://127.0.0.1:8080\"") && said.contains("my-service-name"), "{said}");
    let said = terminal.run(tour.block(&["onair run my-service-name"])).await;
    assert!(said.contains("hello\n"), "{said}");
    assert!(of(&server).lookup("my-service-name").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_feathers_user_has_a_service_behind_a_gateway() {
    if !can_run() {
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let tour = tour("## From feathers-distributed", "## From vasco", &[("3030", &port)]);
    let (server, _dir, mut terminal) = terminal().await;
    let said = terminal.run(tour.block(&["onair run --file"])).await;
    assert!(said.contains("Water the plants"), "{said}");
    let (gateway, todos) = (said.find("took gateway/"), said.find("took todos/"));
    assert!(gateway.is_some() && gateway < todos, "{said}");
    assert!(of(&server).list("").await.unwrap().iter().all(|service| service.instances == 0));
}

#[tokio::test]
async fn a_vasco_user_brings_the_package() {
    if !can_run() {
        return;
    }
    let tour = tour("## From vasco", "`onair join --package", &[]);
    let (server, _dir, mut terminal) = terminal().await;
    terminal.begin(tour.block(&["--if-missing fail"])).await;
    let (said, status) = terminal.end().await;
    assert!(status == 3 && said.contains("No url for: api@2.0.1") && !said.contains("auth at"), "{said}");
    let said = terminal.run(tour.block(&["onair join api"])).await;
    assert!(said.contains("api is at http://127.0.0.1:8001, auth at http://localhost:3000"), "{said}");
    assert!(said.contains("1.0.0"), "{said}");
    assert!(of(&server).lookup("shop").await.unwrap().is_empty());
}
