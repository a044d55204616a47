//! What browsers are for: calls of gRPC-Web, whom they may come from, and what they are told of it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use onair::proto::{LookupRequest, LookupResponse, RegisterRequest, WatchResponse};
use prost::Message;
use tonic::{
    Code, Status,
    codegen::http::{HeaderMap, HeaderName, HeaderValue, Request},
};

use crate::{
    harness::{Http, Http2, Server, everything, lookup, register, register_with},
    history::{Recorder, Settings},
    input::refusal,
};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text";

/// A message as gRPC frames it.
fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

/// A body in text: each piece that was encoded may end in padding.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|four| BASE64_STANDARD.decode(four).unwrap()).collect()
}

/// The frames of an answer: messages, and the trailers as headers.
fn frames(mut bytes: &[u8]) -> (Vec<Vec<u8>>, Option<HeaderMap>) {
    let (mut messages, mut trailers) = (Vec::new(), None);
    while let [kind, a, b, c, d, rest @ ..] = bytes {
        let (frame, after) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        match kind {
            0 => messages.push(frame.to_vec()),
            0x80 => trailers = Some(headers(std::str::from_utf8(frame).unwrap())),
            _ => panic!("a frame of kind {kind}"),
        }
        bytes = after;
    }
    assert!(bytes.is_empty(), "half a frame: {bytes:?}");
    (messages, trailers)
}

fn headers(lines: &str) -> HeaderMap {
    let pairs = lines.lines().map(|line| line.split_once(':').unwrap());
    pairs
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap()))
        .collect()
}

/// A POST of HTTP/1.1 to a method, with lines of its own.
fn post(server: &Server, method: &str, content_type: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let (host, length) = (server.address(), body.len());
    let head = format!(
        "POST /onair.v1.Registry/{method} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n{more}\
         Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn a_call_of_grpc_web_is_a_call_over_both_versions_binary_and_as_text() {
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    server.client(&recorder).await.register(register("web", "a", 60.0)).await.unwrap();
    let (asked, http2) = (framed(&lookup("web")), Http2::connect(server.address()).await);
    let mut http = Http::connect(server.address()).await;
    for (content_type, accept, answered) in [
        ("application/grpc-web", "", "application/grpc-web+proto"),
        (BINARY, "*/*", "application/grpc-web+proto"),
        ("Application/gRPC-Web+Proto; charset=utf-8", "", "application/grpc-web+proto"),
        (TEXT, "", "application/grpc-web-text+proto"),
        ("application/grpc-web-text+proto", TEXT, "application/grpc-web-text+proto"),
        (BINARY, TEXT, "application/grpc-web-text+proto"),
    ] {
        let body = if content_type.contains("text") { BASE64_STANDARD.encode(&asked).into() } else { asked.clone() };
        let more = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
        let one = http.ask(post(&server, "Lookup", content_type, &more, &body)).await;
        let mut request = Request::post(format!("{}/onair.v1.Registry/Lookup", server.url())).body(&body[..]).unwrap();
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        if !accept.is_empty() {
            request.headers_mut().insert("accept", accept.parse().unwrap());
        }
        let two = http2.ask(request).await;
        for (status, kind, bytes) in
            [(one.status, one.header("content-type"), &one.bytes), (two.status, two.header("content-type"), &two.body)]
        {
            assert_eq!((status, kind), (200, answered), "{content_type} {accept}");
            let (messages, trailers) = frames(&if answered.contains("text") { decoded(bytes) } else { bytes.clone() });
            let found = LookupResponse::decode(&messages[0][..]).unwrap();
            assert_eq!((messages.len(), found.instances[0].id.as_str()), (1, "a"));
            assert_eq!(trailers.unwrap()["grpc-status"], "0");
        }
        // There is no CORS.
        assert!(one.headers.iter().all(|(name, _)| !name.starts_with("access-control")), "{one:?}");
    }
    recorder.assert_clean();
}

#[tokio::test]
async fn a_watch_by_grpc_web_streams() {
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let mut http = Http::connect(server.address()).await;
    http.send(post(&server, "Watch", BINARY, "", &framed(&everything()))).await;
    assert_eq!(http.head().await.unwrap().status, 200);
    let mut next = async || {
        let (messages, trailers) = frames(&http.chunk().await.unwrap());
        assert!(trailers.is_none());
        WatchResponse::decode(&messages[0][..]).unwrap()
    };
    assert!(next().await.snapshot_end);
    let registered = client.register(register("web", "a", 60.0)).await.unwrap();
    assert_eq!(next().await.revision, registered.revision);
    // The page is left: the server notices.
    assert_eq!(server.info().await.counts.unwrap().watches, 1);
    drop(http);
    crate::hostile::until_watches(&server, 0).await;
    recorder.assert_clean();
}

#[tokio::test]
async fn a_refusal_by_grpc_web_has_its_status_and_details_in_headers() {
    let server = Server::ephemeral(&["--max-message-bytes", "32KiB"]).await;
    let mut http = Http::connect(server.address()).await;
    let refused = |said: &crate::harness::Said| {
        let lines: String = said.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        assert_eq!((said.status, said.bytes.len()), (200, 0), "{said:?}");
        refusal(&Status::from_header_map(&headers(&lines)).unwrap())
    };
    let empty = framed(&RegisterRequest::default());
    let said = http.ask(post(&server, "Register", BINARY, "", &empty)).await;
    assert_eq!(refused(&said), (Code::InvalidArgument, "INVALID".into(), vec!["instance".into()]));
    assert_eq!(said.header("content-type"), BINARY);
    let large = framed(&register_with("web", "a", 60.0, |instance| instance.version = "v".repeat(40 << 10)));
    let large = BASE64_STANDARD.encode(large);
    for (body, more, wanted) in [
        (&b"no base64"[..], "", (Code::InvalidArgument, "MALFORMED")),
        (b"AAAA", "", (Code::InvalidArgument, "MALFORMED")), // half a frame
        (b"AA=A", "", (Code::InvalidArgument, "MALFORMED")),
        (large.as_bytes(), "", (Code::ResourceExhausted, "TOO_LARGE")),
        (b"AAAAAAA=", "Content-Encoding: gzip\r\n", (Code::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE")),
    ] {
        // What is not read ends the connection.
        let mut http = Http::connect(server.address()).await;
        let (code, reason, _) = refused(&http.ask(post(&server, "Register", TEXT, more, body)).await);
        assert_eq!((code, reason.as_str()), wanted, "{more}{}", body.len());
    }
    // What is no call.
    let get = format!(
        "GET /onair.v1.Registry/Lookup HTTP/1.1\r\nHost: {}\r\nContent-Type: {BINARY}\r\n\r\n",
        server.address()
    );
    let said = http.ask(get).await;
    assert_eq!((said.status, said.header("allow")), (405, "POST"));
    for kind in ["application/grpc", "application/grpc-web+json"] {
        let said = http.ask(post(&server, "Lookup", kind, "", &framed(&LookupRequest::default()))).await;
        assert_eq!((said.status, said.json()["reason"].as_str()), (415, Some("UNSUPPORTED_MEDIA_TYPE")), "{kind}");
    }
    // As much as a call of gRPC, it is given no more time than it asks for.
    let mut waiting = lookup("web");
    waiting.wait = Some(crate::harness::seconds(60.0));
    let said = http.ask(post(&server, "Lookup", BINARY, "grpc-timeout: 300m\r\n", &framed(&waiting))).await;
    assert_eq!(said.status, 200);
}

#[tokio::test]
async fn pages_of_configured_origins_may_call_and_nobody_elses() {
    let flags = ["--cors-origins", "https://shop.example,http://localhost:3000", "--http-hosts", "registry.example"];
    let server = Server::ephemeral(&flags).await;
    let (host, mut http) = (server.address(), Http::connect(server.address()).await);
    let mut ask = async |method: &str, host: &str, more: &str| {
        http.ask(format!("{method} /v1/info HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")).await
    };
    let own = host.to_string();
    // The question before the call, and the call.
    let asking = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-grpc-web\r\n";
    let said = ask("OPTIONS", &own, &format!("Origin: https://shop.example\r\n{asking}")).await;
    assert_eq!((said.status, said.header("access-control-allow-origin")), (200, "https://shop.example"), "{said:?}");
    assert_eq!(said.header("access-control-allow-headers"), "content-type,x-grpc-web");
    // Who only asks for the methods is answered as without any origins.
    for more in ["", "Origin: https://shop.example\r\n"] {
        let said = ask("OPTIONS", &own, more).await;
        assert_eq!((said.status, said.header("allow")), (204, "GET, HEAD, OPTIONS"), "{more}");
    }
    let said = ask("GET", &own, "Origin: http://localhost:3000\r\n").await;
    assert_eq!((said.status, said.header("access-control-allow-origin")), (200, "http://localhost:3000"), "{said:?}");
    assert!(said.header("access-control-expose-headers").contains("grpc-status-details-bin"));
    assert!(said.header("vary").contains("origin"), "{said:?}");
    // Our own pages, by a name of ours; and who is no browser.
    assert_eq!(ask("GET", "registry.example", "Origin: https://registry.example\r\n").await.status, 200);
    assert_eq!(ask("GET", "localhost:1", "").await.status, 200);
    for (host, more, reason) in [
        ("evil.example", "", "HOST_NOT_ALLOWED"),
        (&own, "Origin: https://evil.example\r\n", "ORIGIN_NOT_ALLOWED"),
        (&own, "Origin: null\r\n", "ORIGIN_NOT_ALLOWED"),
        (&own, &format!("Origin: https://evil.example\r\n{asking}"), "ORIGIN_NOT_ALLOWED"),
    ] {
        for method in ["GET", "OPTIONS", "POST"] {
            let said = ask(method, host, more).await;
            assert_eq!((said.status, said.json()["reason"].as_str()), (403, Some(reason)), "{method} {host} {more}");
            assert_eq!(said.json()["code"], "PERMISSION_DENIED");
            assert_eq!(said.header("access-control-allow-origin"), "");
        }
    }
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n", "Host: a@localhost\r\n"] {
        let said = http.ask(format!("GET /v1/info HTTP/1.1\r\n{hosts}\r\n")).await;
        assert_eq!((said.status, said.json()["reason"].as_str()), (400, Some("INVALID")), "{hosts}");
    }
    let said = http.ask(format!("GET http://evil.example/v1/info HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(said.status, 400, "{said:?}");
}

#[tokio::test]
async fn grpc_itself_is_judged_only_if_a_browser_may_have_sent_it() {
    let server = Server::ephemeral(&[]).await;
    let http2 = Http2::connect(server.address()).await;
    let (body, path) = (framed(&lookup("web")), "onair.v1.Registry/Lookup");
    let ask = async |authority: &str, kind: &str, origin: &str| {
        let mut request = Request::post(format!("http://{authority}/{path}")).body(&body[..]).unwrap();
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        if !origin.is_empty() {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let answer = http2.ask(request).await;
        let status = answer.trailers.as_ref().unwrap_or(&answer.headers).clone();
        (answer.status, Status::from_header_map(&status).filter(|status| status.code() != Code::Ok))
    };
    let refused = |(status, grpc): (u16, Option<Status>)| (status, grpc.map(|grpc| refusal(&grpc).1));
    let (grpc, web) = ("application/grpc", BINARY);
    let own = server.address().to_string();
    // A name that leads here by whatever means: no browser, no danger.
    assert_eq!(refused(ask("registry.example", grpc, "").await), (200, None));
    assert_eq!(refused(ask(&own, grpc, &server.url()).await), (200, None));
    let refused_origin = (200, Some("ORIGIN_NOT_ALLOWED".to_owned()));
    assert_eq!(refused(ask(&own, grpc, "https://evil.example").await), refused_origin);
    assert_eq!(refused(ask(&own, web, "https://evil.example").await), refused_origin);
    let refused_host = (200, Some("HOST_NOT_ALLOWED".to_owned()));
    assert_eq!(refused(ask("evil.example", grpc, "http://evil.example").await), refused_host);
    assert_eq!(refused(ask("evil.example", web, "").await), refused_host);
}
