//! HTTP below the routes: both versions on the port of gRPC, and everything hostile that can be done with connections,
//! heads and bodies. Each is answered as documented, costs a bounded amount, and nobody else notices.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::{
    Code, Status,
    codegen::http::{HeaderName, HeaderValue, Request},
};

use crate::{
    harness::{Http, Http2, Server, within},
    hostile::resident,
};

const HEARTBEAT: &str = "POST /v1/heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
const INFO: &str = "GET /v1/info HTTP/1.1\r\nHost: localhost\r\n";

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
    let begun = Instant::now();
    server.terminate();
    assert_eq!((kept.rest().await, silent.rest().await), (String::new(), String::new()));
    assert!(within("the end", server.ended()).await.success());
    drop(api);
    assert!(begun.elapsed() < Duration::from_secs(4), "it waited for idle connections: {:?}", begun.elapsed());
}

/// That the server is there, for those who do nothing wrong.
async fn is_well(server: &Server) {
    let said = Http::connect(server.address()).await.ask(format!("{INFO}\r\n")).await;
    assert_eq!(said.status, 200, "{said:?}");
    assert!(!server.info().await.version.is_empty());
}

#[tokio::test]
async fn heads_that_are_too_large_or_have_too_many_lines_are_431() {
    let server = Server::ephemeral(&["--max-header-bytes", "8KiB"]).await;
    let long = "x".repeat(9 << 10);
    let many: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    for request in [
        format!("{INFO}X-Long: {long}\r\n\r\n"),
        format!("GET /v1/info?{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("{INFO}{many}\r\n"),
        format!("{INFO}X-Long: {long}"), // it need not end
    ] {
        let mut http = Http::connect(server.address()).await;
        assert_eq!(http.ask(&request).await.status, 431, "{}", request.len());
        assert_eq!(http.rest().await, "");
    }
    // Nor is it read for ever.
    let mut http = Http::connect(server.address()).await;
    http.send(format!("{INFO}X-Endless: ")).await;
    let taken = http.send_until_refused(&[b'x'; 4096]).await;
    assert!(taken < 8 << 20, "{taken} bytes"); // what the system itself has room for
    let http2 = Http2::connect(server.address()).await;
    let mut request = Request::get(format!("{}/v1/info", server.url())).body(&b""[..]).unwrap();
    for number in 0..8 {
        let name: HeaderName = format!("x-{number}").parse().unwrap();
        request.headers_mut().insert(name, HeaderValue::from_str(&"x".repeat(1_024)).unwrap());
    }
    assert_eq!(http2.ask(request).await.status, 431);
    is_well(&server).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_not_read() {
    const LIMIT: usize = 64 << 10;
    let server = Server::ephemeral(&["--max-message-bytes", "64KiB"]).await;
    let before = resident(&server);
    // Said beforehand: it is not even asked for.
    let mut http = Http::connect(server.address()).await;
    let said = http.ask(format!("{HEARTBEAT}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", LIMIT + 1)).await;
    assert_eq!((said.status, said.json()["reason"].as_str()), (413, Some("TOO_LARGE")), "{said:?}");
    // Never said, and it never ends.
    let mut http = Http::connect(server.address()).await;
    http.send(format!("{HEARTBEAT}Transfer-Encoding: chunked\r\n\r\n")).await;
    let piece = [b"1000\r\n", &[b' '; 4096][..], b"\r\n"].concat();
    let taken = http.send_until_refused(&piece).await;
    assert!(taken > LIMIT && taken < 16 << 20, "{taken} bytes");
    assert_eq!(http.answer().await.map(|said| said.status), Some(413));
    assert_eq!(http.rest().await, "", "it is closed");
    // By HTTP/2 as much is taken as may be under way, and no more.
    let request = Request::post(format!("{}/v1/heartbeat", server.url())).header("content-type", "application/json");
    let (reply, mut body) = Http2::connect(server.address()).await.begin(request.body(()).unwrap(), false).await;
    body.reserve_capacity(usize::MAX >> 1);
    let mut taken = 0;
    while let Some(Ok(room)) = within("room", std::future::poll_fn(|context| body.poll_capacity(context))).await {
        taken += room;
        if body.send_data(Bytes::from(vec![b' '; room]), false).is_err() {
            break;
        }
    }
    assert!(taken > LIMIT && taken < 16 << 20, "{taken} bytes");
    assert_eq!(reply.whole().await.unwrap().status, 413);
    if let (Some(before), Some(after)) = (before, resident(&server)) {
        assert!(after < before + (64 << 10), "{before} KiB became {after}");
    }
    is_well(&server).await;
}

#[tokio::test]
async fn a_body_is_asked_for_when_its_client_waits_to_be_asked() {
    let server = Server::ephemeral(&[]).await;
    let mut http = Http::connect(server.address()).await;
    let body = r#"{"beats": [{"leaseToken": "nobody's"}]}"#;
    http.send(format!("{HEARTBEAT}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    assert_eq!(http.through("\r\n\r\n").await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    let said = http.ask(body).await;
    assert_eq!(
        (said.status, said.json()["results"][0]["state"].as_str()),
        (200, Some("BEAT_STATE_UNKNOWN")),
        "{said:?}"
    );
}

#[tokio::test]
async fn bodies_that_are_compressed_are_refused() {
    let server = Server::ephemeral(&[]).await;
    let gzip = "\x1f\u{8b}";
    for coding in ["gzip", "br", "zstd", "identity, gzip"] {
        let mut http = Http::connect(server.address()).await;
        let said = http.ask(format!("{HEARTBEAT}Content-Encoding: {coding}\r\nContent-Length: 3\r\n\r\n{gzip}")).await;
        assert_eq!((said.status, said.json()["reason"].as_str()), (415, Some("UNSUPPORTED_MEDIA_TYPE")), "{coding}");
    }
    let request = Request::post(format!("{}/onair.v1.Registry/Heartbeat", server.url()))
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .body(&b"\x01\0\0\0\x02\x1f\x8b"[..])
        .unwrap();
    let answer = Http2::connect(server.address()).await.ask(request).await;
    assert_eq!(Status::from_header_map(&answer.headers).unwrap().code(), Code::Unimplemented, "{answer:?}");
}

#[tokio::test]
async fn a_request_ends_where_everyone_says_that_it_ends() {
    let server = Server::ephemeral(&[]).await;
    // What stands behind a request must not be taken for another one, by us or by a proxy in front of us.
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (lines, body) in [
        ("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"),
        ("Content-Length: 2, 3\r\n", "{}"),
        ("Content-Length: +2\r\n", "{}"),
        ("Content-Length: 0x2\r\n", "{}"),
        ("Content-Length: -1\r\n", ""),
        ("Content-Length: 99999999999999999999\r\n", ""),
        ("Content-Length : 2\r\n", "{}"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("X: a\0b\r\n", ""),
        ("X: a\rb\r\n", ""),
        ("X\r\n", ""),
        (": y\r\n", ""),
    ] {
        let mut http = Http::connect(server.address()).await;
        http.send(format!("{HEARTBEAT}{lines}\r\n{body}{smuggled}")).await;
        assert_eq!(http.answer().await.map(|said| said.status), Some(400), "{lines:?}");
        assert_eq!(http.rest().await, "", "{lines:?}: nothing more is answered");
    }
    // Both, of which chunked holds; but who else believed what? The connection ends.
    for lines in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"]
    {
        let mut http = Http::connect(server.address()).await;
        http.send(format!("{HEARTBEAT}{lines}\r\n2\r\n{{}}\r\n0\r\n\r\n{smuggled}")).await;
        let said = http.answer().await.unwrap();
        assert_eq!((said.status, said.header("connection")), (400, "close"), "{said:?}"); // no beats
        assert_eq!(said.json()["reason"], "INVALID");
        assert_eq!(http.rest().await, "", "{lines:?}: nothing more is answered");
    }
    // A size of a piece that is none, and one beyond everything.
    for chunk in ["g\r\n{}\r\n", "fffffffffffffffff\r\n", "-2\r\n{}\r\n", "2\r\n{}x"] {
        let mut http = Http::connect(server.address()).await;
        http.send(format!("{HEARTBEAT}Transfer-Encoding: chunked\r\n\r\n{chunk}{smuggled}")).await;
        let said = http.answer().await;
        assert!(said.as_ref().is_none_or(|said| said.status == 400), "{chunk:?}: {said:?}");
        assert_eq!(http.rest().await, "", "{chunk:?}: nothing more is answered");
    }
    is_well(&server).await;
}

#[tokio::test]
async fn a_connection_never_becomes_another_protocols() {
    let server = Server::ephemeral(&[]).await;
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ] {
        let mut http = Http::connect(server.address()).await;
        for _ in 0..2 {
            let said = http.ask(format!("{INFO}{lines}\r\n")).await;
            assert_eq!((said.status, said.header("upgrade")), (200, ""), "{said:?}");
        }
    }
    let mut http = Http::connect(server.address()).await;
    let said = http.ask("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n").await;
    assert!([404, 405].contains(&said.status), "{said:?}");
    // HTTP/2's own preface, too late.
    let mut http = Http::connect(server.address()).await;
    assert_eq!(http.ask(format!("{INFO}\r\n")).await.status, 200);
    http.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!http.rest().await.contains(" 200 "));
    is_well(&server).await;
}
