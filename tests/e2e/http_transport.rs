//! HTTP below the routes: both versions on the port of gRPC, and everything hostile that can be done with connections,
//! heads and bodies. Each is answered as documented, costs a bounded amount, and nobody else notices.

use std::time::Duration;

use crate::harness::{Http, Server, within};

#[tokio::test]
async fn http_1_is_spoken_on_the_port_of_grpc() {
    let server = Server::ephemeral(&[]).await;
    let host = server.address();
    let mut http = Http::connect(host).await;
    // One connection, several requests, also such that wait for nothing.
    let request = format!("GET /nowhere HTTP/1.1\r\nHost: {host}\r\n\r\n");
    http.send(request.repeat(3)).await;
    for _ in 0..3 {
        let said = http.answer().await.unwrap();
        assert_eq!((said.status, said.header("content-type")), (404, "application/problem+json"), "{said:?}");
        assert_eq!((said.json()["status"].as_u64(), said.json()["title"].as_str()), (Some(404), Some("Not Found")));
    }
    // One byte at a time.
    let mut http = Http::connect(host).await;
    for byte in request.as_bytes() {
        http.send([*byte]).await;
    }
    assert_eq!(http.answer().await.unwrap().status, 404);
    // The oldest that still lives, which ends with its answer.
    let mut http = Http::connect(host).await;
    assert_eq!(http.ask("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").await.status, 404);
    assert_eq!(http.rest().await, "");
}

#[tokio::test]
async fn idle_connections_end_with_the_server() {
    let mut server = Server::ephemeral(&[]).await;
    let api = server.api().await;
    // Connections that wait for nothing do not hold up the end: one that asked, one that never did, one of each kind.
    let mut kept = Http::connect(server.address()).await;
    assert_eq!(kept.ask(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", server.address())).await.status, 404);
    let mut silent = Http::connect(server.address()).await;
    let begun = std::time::Instant::now();
    server.terminate();
    assert_eq!((kept.rest().await, silent.rest().await), (String::new(), String::new()));
    assert!(within("the end", server.ended()).await.success());
    drop(api);
    assert!(begun.elapsed() < Duration::from_secs(4), "it waited for idle connections: {:?}", begun.elapsed());
}
