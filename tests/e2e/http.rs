//! The API by HTTP and JSON, over real connections of both versions: what is true by gRPC is true here, and what clients
//! do wrong, on purpose or by dying, changes nothing.

use std::net::{Ipv4Addr, SocketAddr};

use onair::{
    proto::{BeatState, ErrorReason, GetInstanceRequest},
    registry::{Cause, EventType},
};
use serde_json::{Value as Json, json};
use tokio::net::TcpSocket;
use tonic::codegen::http::{HeaderName, Request};

use crate::{
    harness::{Follower, Http, Http2, Server, beat, lookup, register, within},
    history::{Recorder, Settings},
};

const WEB: &str = "/v1/namespaces/default/services/web/instances";

/// A request of HTTP/1.1, with lines of its own.
fn request(server: &Server, method: &str, path: &str, more: &str, body: Option<&Json>) -> String {
    let (host, body) = (server.address(), body.map(Json::to_string).unwrap_or_default());
    let of_body = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}{of_body}\r\n{body}")
}

/// A success by HTTP/1.1, as JSON.
async fn ok(server: &Server, method: &str, path: &str, more: &str, body: Option<&Json>) -> Json {
    let mut http = Http::connect(server.address()).await;
    let said = http.ask(request(server, method, path, more, body)).await;
    assert_eq!((said.status, said.header("content-type")), (200, "application/json"), "{method} {path}: {said:?}");
    said.json()
}

#[tokio::test]
async fn an_instance_by_http_is_an_instance_by_grpc() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let put = json!({"instance": {"port": 8000, "metadata": {"é": [null, 0.1]}}, "ttl": "20s", "requestId": "once"});
    let registered = ok(&server, "PUT", &format!("{WEB}/%C3%A9%20a"), "", Some(&put)).await;
    let token = registered["lease"]["token"].as_str().unwrap().to_owned();
    let (_, online) = follower.event("ONLINE", |event| event.cause() == Cause::Registered).await;
    let online = online.instance.unwrap();
    assert_eq!((online.id.as_str(), online.url.as_str()), ("é a", "http://127.0.0.1:8000"));
    // The token is worth as much there as here.
    assert_eq!(client.heartbeat(beat([&token])).await.unwrap().results[0].state(), BeatState::Renewed);
    let draining = json!({"leaseToken": token, "status": "STATUS_DRAINING"});
    let beaten = ok(&server, "POST", &format!("{WEB}/%C3%A9%20a/heartbeat"), "", Some(&draining)).await;
    assert_eq!(beaten["results"], json!([{"state": "BEAT_STATE_RENEWED", "ttl": "20s"}]));
    follower.event("the drain", |event| event.r#type() == EventType::Updated).await;
    // What gRPC registers, HTTP finds, and the other way round.
    client.register(register("web", "b", 60.0)).await.unwrap();
    let all = ok(&server, "GET", &format!("{WEB}?selector=status%3D*&limit=10"), "", None).await;
    let ids: Vec<_> = all["instances"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["b", "é a"]);
    assert_eq!(client.lookup(lookup("web")).await.unwrap().instances.len(), 2);
    let by_http_2 = Http2::connect(server.address()).await;
    let uri = format!("http://{}{WEB}/%c3%a9+a", server.address());
    let no_plus = by_http_2.ask(Request::get(uri.clone()).body(&b""[..]).unwrap()).await;
    assert_eq!(no_plus.status, 404, "in a path, a plus is a plus");
    let read = by_http_2.ask(Request::get(uri.replace('+', "%20")).body(&b""[..]).unwrap()).await;
    let read: Json = serde_json::from_slice(&read.body).unwrap();
    assert_eq!(read["instance"]["status"], "STATUS_DRAINING");
    assert_eq!(read["instance"]["metadata"], json!({"é": [null, 0.1]}));
    let name = HeaderName::from_static("onair-lease-token");
    let delete = Request::delete(uri.replace('+', "%20")).header(name, &token).body(&b""[..]).unwrap();
    let removed: Json = serde_json::from_slice(&by_http_2.ask(delete).await.body).unwrap();
    assert_eq!(removed["removed"], "1");
    let (_, gone) = follower.event("OFFLINE", |event| event.r#type() == EventType::Offline).await;
    assert_eq!(gone.cause(), Cause::Deregistered, "by its token, not by an operator");
    recorder.assert_clean();
}

#[tokio::test]
async fn the_host_of_a_registration_is_where_it_came_from() {
    let server = Server::ephemeral(&[]).await;
    let socket = TcpSocket::new_v4().unwrap();
    if socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), 0))).is_err() {
        println!("SKIPPED: this machine has one loopback address only");
        return;
    }
    let mut http = Http::over(within("a connection", socket.connect(server.address())).await.unwrap());
    let said = http.ask(request(&server, "POST", WEB, "", Some(&json!({"instance": {"port": 1}})))).await;
    assert_eq!(said.json()["instance"]["id"], "127.0.0.9:1", "{said:?}");
}

#[tokio::test]
async fn who_leaves_while_waiting_leaves_nothing_behind() {
    let server = Server::ephemeral(&[]).await;
    let waiting = format!("{WEB}?wait=300s");
    let mut one = Http::connect(server.address()).await;
    one.send(request(&server, "GET", &waiting, "", None)).await;
    let two = Http2::connect(server.address()).await;
    let (reply, _) =
        two.begin(Request::get(format!("http://{}{waiting}", server.address())).body(()).unwrap(), true).await;
    let calls = async |code: &str| {
        let scrape =
            Http::connect(server.address()).await.ask(request(&server, "GET", "/metrics", "", None)).await.body;
        let sample = format!("onair_calls_total{{front=\"http\",rpc=\"Lookup\",code=\"{code}\"}} ");
        let count = scrape.lines().find_map(|line| line.strip_prefix(&sample)?.parse::<f64>().ok());
        count.unwrap_or_default()
    };
    // Not before both are waiting: a call that comes later on the same connection is answered.
    let info = two.ask(Request::get(format!("http://{}/v1/info", server.address())).body(&b""[..]).unwrap()).await;
    assert_eq!(info.status, 200);
    drop((one, reply));
    while calls("CANCELLED").await < 2.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(calls("OK").await, 0.0);
}

#[tokio::test]
async fn what_is_cut_off_is_not_done() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let whole = request(&server, "PUT", &format!("{WEB}/a"), "", Some(&json!({"instance": {"port": 8000}})));
    let body = whole.find("\r\n\r\n").unwrap() + 4;
    for cut in [body - 3, body, body + 1, whole.len() - 1] {
        let mut http = Http::connect(server.address()).await;
        http.send(&whole[..cut]).await;
        drop(http);
    }
    // Also what would be whole if it were not announced as longer.
    let mut http = Http::connect(server.address()).await;
    http.send(whole.replace("Content-Length: ", "Content-Length: 1")).await;
    drop(http);
    let mut api = server.api().await;
    let key = GetInstanceRequest { service: "web".into(), id: "a".into(), ..Default::default() };
    assert_eq!(api.get_instance(key).await.unwrap_err().code(), tonic::Code::NotFound);
    let put = ok(&server, "PUT", &format!("{WEB}/b"), "", Some(&json!({"instance": {"port": 8000}}))).await;
    assert_eq!(put["revision"], "1", "the first that happened");
    follower.reach(1).await;
    recorder.assert_clean();
}

#[tokio::test]
async fn a_connection_is_good_for_more_after_each_refusal() {
    let server = Server::ephemeral(&["--max-message-bytes", "32KiB"]).await;
    let mut http = Http::connect(server.address()).await;
    let put = |body: &str, kind: &str| {
        let (host, length) = (server.address(), body.len());
        format!(
            "PUT {WEB}/a HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let bare = |method: &str, path: &str, more: &str| request(&server, method, path, more, None);
    for (asked, status, reason) in [
        (put("{}", "text/plain"), 415, ErrorReason::UnsupportedMediaType),
        (put("{\"instance\": {\"port\": 80}", "application/json"), 400, ErrorReason::Malformed),
        (put(&format!("{{\"instance\": {}", "[".repeat(9_000)), "application/json"), 400, ErrorReason::Malformed),
        (
            put(&format!("{{\"instance\": {{\"metadata\": {}", "[".repeat(9_000)), "application/json"),
            400,
            ErrorReason::TooDeep,
        ),
        (put("{\"instance\": {\"port\": 80, \"port\": 80}}", "application/json"), 400, ErrorReason::Invalid),
        (
            put("{\"instance\": {\"port\": 80}, \"dependencies\": {\"api\": \"\"}}", "application/json"),
            424,
            ErrorReason::MissingDependency,
        ),
        (bare("GET", &format!("{WEB}?leaseToken=abc"), ""), 400, ErrorReason::Invalid),
        (bare("GET", &format!("{WEB}/%zz"), ""), 400, ErrorReason::Invalid),
        (bare("GET", &format!("{WEB}/nobody"), ""), 404, ErrorReason::NotFound),
        (bare("GET", "/v1/namespaces//instances", ""), 400, ErrorReason::Invalid),
        (bare("DELETE", &format!("{WEB}/"), ""), 404, ErrorReason::NoRoute),
        (bare("TRACE", WEB, ""), 405, ErrorReason::MethodNotAllowed),
        (bare("BREW", WEB, ""), 405, ErrorReason::MethodNotAllowed),
        (bare("GET", "/v1/info", "Accept: text/html\r\n"), 406, ErrorReason::NotAcceptable),
        (bare("GET", "/v1/info", "Content-Encoding: gzip\r\n"), 415, ErrorReason::UnsupportedMediaType),
    ] {
        let said = http.ask(&asked).await;
        let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_");
        assert_eq!((said.status, said.json()["reason"].as_str()), (status, Some(reason)), "{asked}: {said:?}");
        assert_eq!(said.header("content-type"), "application/problem+json");
    }
    let info = http.ask(bare("GET", "/v1/info", "")).await.json();
    assert_eq!(info["revision"], Json::Null, "nothing happened: {info}");
    // Too much is refused on its announcement, and is the last of its connection.
    let said = http.ask(put(&" ".repeat(32 * 1_024 + 1), "application/json")).await;
    assert_eq!((said.status, said.json()["reason"].as_str()), (413, Some("TOO_LARGE")));
}
