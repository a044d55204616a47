//! Bad input below the calls: what is no message, no HTTP, too large, half a stream, or thousands of idle ones. Each is
//! answered as documented, and nobody else notices.

use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use onair::proto::{GetServerInfoRequest, HeartbeatResponse, RegisterResponse, WatchRequest};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::interval,
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

use crate::{
    harness::{Keeper, Running, Server, alone, beat, everything, register, register_with, within},
    history::{Recorder, Settings},
    input::refusal,
};

/// Sends bytes as they are, and reads a message.
struct Raw<R>(std::marker::PhantomData<R>);

impl<R> Default for Raw<R> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<R: Message + Default + 'static> Codec for Raw<R> {
    type Encode = Vec<u8>;
    type Decode = R;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<R: Message + 'static> Encoder for Raw<R> {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl<R: Message + Default + 'static> Decoder for Raw<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        R::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/onair.v1.Registry/{method}").parse().unwrap()
}

async fn call<R: Message + Default + 'static>(channel: Channel, method: &str, body: Vec<u8>) -> Result<R, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(body), path(method), Raw::<R>::default()).await;
    answer.map(tonic::Response::into_inner)
}

/// A stream of raw messages, and its first answers.
async fn call_stream<R: Message + Default + 'static>(
    channel: Channel,
    method: &str,
    bodies: Vec<Vec<u8>>,
) -> Vec<Result<R, Status>> {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let request = Request::new(stream::iter(bodies).chain(stream::pending()));
    match client.streaming(request, path(method), Raw::<R>::default()).await {
        Ok(answers) => {
            let answers = answers.into_inner();
            within("an answer", answers.collect()).await
        }
        Err(status) => vec![Err(status)],
    }
}

/// A registration that is encoded in exactly so many bytes.
fn of_size(bytes: usize) -> Vec<u8> {
    let sized = |filler: usize| {
        register_with("web", "big", 60.0, |instance| instance.version = "v".repeat(filler)).encode_to_vec()
    };
    let room = bytes - sized(bytes).len().abs_diff(bytes);
    let message = sized(room);
    assert_eq!(message.len(), bytes);
    message
}

#[tokio::test]
async fn a_message_over_the_limit_is_too_large_and_one_of_the_limit_is_read() {
    const LIMIT: usize = 4 << 20;
    let server = Server::start(&[]).await;
    let channel = server.channel().await;
    let revision = server.info().await.revision;
    let too_large = |status: &Status| {
        let (code, reason, _) = refusal(status);
        assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "TOO_LARGE"), "{status:?}");
    };
    let answer = call::<RegisterResponse>(channel.clone(), "Register", of_size(LIMIT)).await.unwrap_err();
    assert_eq!(refusal(&answer).2, ["instance.version"], "it was read");
    too_large(&call::<RegisterResponse>(channel.clone(), "Register", of_size(LIMIT + 1)).await.unwrap_err());
    too_large(&call::<RegisterResponse>(channel.clone(), "Register", vec![0; 3 * LIMIT]).await.unwrap_err());
    // On streams too, after the answers to what came before.
    for method in ["HeartbeatStream", "Subscribe"] {
        let answers = call_stream::<HeartbeatResponse>(channel.clone(), method, vec![vec![0; LIMIT + 1]]).await;
        too_large(answers.last().unwrap().as_ref().unwrap_err());
    }
    let bodies = vec![beat(["nonsense"]).encode_to_vec(), vec![0; LIMIT + 1]];
    let answers = call_stream::<HeartbeatResponse>(channel.clone(), "HeartbeatStream", bodies).await;
    assert_eq!(answers[0].as_ref().unwrap().results.len(), 1);
    too_large(answers[1].as_ref().unwrap_err());
    assert_eq!(server.info().await.revision, revision);
    // The connection is as good as before.
    call::<RegisterResponse>(channel, "Register", register("web", "a", 60.0).encode_to_vec()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_message_is_malformed() {
    let server = Server::start(&[]).await;
    let channel = server.channel().await;
    let bodies = [vec![0xff; 64], b"\x0a\xff\xff\xff\xff\x0fxx".to_vec(), b"{\"instance\":{}}".to_vec(), vec![0x0a]];
    let malformed = |status: &Status| {
        let (code, reason, _) = refusal(status);
        assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "MALFORMED"), "{status:?}");
    };
    for body in bodies {
        malformed(&call::<RegisterResponse>(channel.clone(), "Register", body.clone()).await.unwrap_err());
        for method in ["HeartbeatStream", "Subscribe"] {
            let answers = call_stream::<HeartbeatResponse>(channel.clone(), method, vec![body.clone()]).await;
            malformed(answers[0].as_ref().unwrap_err());
        }
    }
    let not_utf8 = b"\x0a\x04\x12\x02\xc3\x28".to_vec();
    malformed(&call::<RegisterResponse>(channel.clone(), "Register", not_utf8).await.unwrap_err());
    let status = call::<RegisterResponse>(channel.clone(), "Explode", Vec::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    // Headers beyond the limit fail their call alone.
    let mut request = Request::new(Vec::new());
    request.metadata_mut().insert("x-large", "h".repeat(20_000).parse().unwrap());
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let status = client.unary(request, path("Register"), Raw::<RegisterResponse>::default()).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    call::<RegisterResponse>(channel, "Register", register("web", "a", 60.0).encode_to_vec()).await.unwrap();
}

#[tokio::test]
async fn whoever_speaks_no_http_is_cut_off_and_harms_nobody() {
    let server = Server::start(&[]).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let half_a_frame = [&preface[..], b"\0\0\x40\x04"].concat();
    let bad_frame = [&preface[..], b"\0\0\x05\x04\0\0\0\0\0\0\0\0\0\0"].concat();
    let huge_frame = [&preface[..], b"\xff\xff\xff\0\0\0\0\0\x01"].concat();
    let noise: Vec<u8> = (0..10_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut open = Vec::new();
    for (bytes, is_ended) in [
        (&b"GET /\r\n\r\n"[..], true),                       // HTTP/0.9
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", true), // TLS
        (&noise, true),
        (b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n", true),
        (&bad_frame, true),
        (&huge_frame, true),
        (&half_a_frame, false),
        (b"PRI", false),
        (b"", false),
    ] {
        let mut connection = TcpStream::connect(server.address()).await.unwrap();
        connection.write_all(bytes).await.unwrap();
        if is_ended {
            let mut rest = Vec::new();
            // It may also be reset.
            let _ = within("the end of the connection", connection.read_to_end(&mut rest)).await;
        } else {
            open.push(connection);
        }
    }
    assert!(!server.info().await.version.is_empty());
    drop(open);
    assert!(!server.info().await.version.is_empty());
}

#[tokio::test]
async fn connections_that_fall_silent_are_closed() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // Ten seconds for the preface, then pings every twenty that have ten to be answered.
    let connections = [("silent", &b""[..], 10), ("half a preface", b"PRI", 10), ("no pong", preface, 30)];
    let closed = connections.map(|(what, bytes, seconds)| {
        let address = server.address();
        tokio::spawn(async move {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(bytes).await.unwrap();
            let (begun, mut rest) = (Instant::now(), Vec::new());
            let _ = within(what, connection.read_to_end(&mut rest)).await;
            println!("{what}: closed after {:?}", begun.elapsed());
            assert!(begun.elapsed() < Duration::from_secs(seconds + 10), "{what}");
        })
    });
    // A client that is frozen in the middle of a watch: its system answers, and it does not.
    let mut watch = Running::start(&["watch", "--url", &server.url(), "--output", "json"]);
    watch.out.line("snapshotEnd").await;
    watch.signal("STOP");
    assert_eq!(server.info().await.counts.unwrap().watches, 1);
    until_watches(&server, 0).await;
    for closed in closed {
        closed.await.unwrap();
    }
    // It goes on where it was, once it can.
    watch.signal("CONT");
    watch.err.line("resumed at revision").await;
    recorder.assert_clean();
}

/// Knocks until it is let in and answered.
pub async fn until_let_in(server: &Server) {
    let asked = b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut said = Vec::new();
    while !said.starts_with(b"HTTP/1.1 200") {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        said.clear();
        // Whoever has no place is cut off in the middle of it.
        if stream.write_all(asked).await.is_ok() {
            let _ = stream.read_to_end(&mut said).await;
        }
    }
}

#[tokio::test]
async fn without_file_descriptors_those_who_are_there_are_served_on() {
    let few = ["sh", "-c", "ulimit -n 80 && exec \"$@\"", "sh"];
    let server = Server::start_under(&few, &[]).await;
    let recorder = Recorder::new(Settings::default());
    let fleet = (0..10).map(|number| register("fleet", &format!("i{number}"), 2.0)).collect();
    let mut keeper = Keeper::start(&server, &recorder, fleet).await;
    let client = server.client(&recorder).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(server.address()).await.unwrap());
    }
    for number in 0..4 {
        keeper.beats().await;
        client.register(register("web", &format!("i{number}"), 60.0)).await.unwrap();
    }
    assert!(server.log().contains("max_connections are open"), "there were enough after all");
    assert_eq!(client.lookup(crate::harness::lookup("fleet")).await.unwrap().instances.len(), 10);
    // They go, and others are let in.
    drop(crowd);
    within("a place", until_let_in(&server)).await;
    assert_eq!(server.info().await.counts.unwrap().instances, 14);
    keeper.stop().await;
    recorder.assert_clean();
}

#[tokio::test]
async fn half_closed_streams_go_on_and_cut_ones_leave_nothing() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { cuts: true, ..Settings::default() });
    let client = server.client(&recorder).await;
    let token = client.register(register("web", "a", 60.0)).await.unwrap().lease.unwrap().token;
    // The client's half ends at once: all it said is answered.
    let mut api = server.api().await;
    let beats = stream::iter(vec![beat([&token]), beat([&token, ""])]);
    let answers = api.heartbeat_stream(beats).await.unwrap().into_inner();
    let answers: Vec<_> = within("the stream's end", answers.try_collect()).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.results.len()).collect::<Vec<_>>(), [1, 2]);
    // What was subscribed to goes on, whatever becomes of the client's half.
    use onair::proto::{AddSubscription, SubscribeRequest, subscribe_request::Command};
    let add = AddSubscription { id: "all".into(), selectors: everything().selectors, ..Default::default() };
    let commands = stream::iter(vec![SubscribeRequest { command: Some(Command::Add(add)) }]);
    let mut groups = api.subscribe(commands).await.unwrap().into_inner();
    assert!(within("a snapshot", groups.message()).await.unwrap().unwrap().groups[0].snapshot_end);
    let next = client.register(register("web", "b", 60.0)).await.unwrap();
    assert_eq!(within("an event", groups.message()).await.unwrap().unwrap().revision, next.revision);
    // Connections that vanish take their streams with them.
    let mut watches = Vec::new();
    for _ in 0..10 {
        let mut api = server.api().await;
        watches.push(api.watch(everything()).await.unwrap());
    }
    assert_eq!(server.info().await.counts.unwrap().watches, 11);
    drop((watches, groups, api));
    until_watches(&server, 0).await;
    recorder.assert_clean();
}

/// Waits until so many watches are open.
pub async fn until_watches(server: &Server, wanted: u64) {
    let (mut again, mut api) = (interval(Duration::from_millis(20)), server.api().await);
    let count = async {
        loop {
            again.tick().await;
            let info = api.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
            if info.counts.unwrap().watches == wanted {
                return;
            }
        }
    };
    within(&format!("{wanted} watches"), count).await;
}

/// What the server holds in memory, in KiB.
pub fn resident(server: &Server) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[tokio::test]
async fn idle_streams_50000_of_them_leave_the_server_quick() {
    const COUNT: usize = 50_000;
    /// Streams on a connection, of the 2,000 that may be.
    const EACH: usize = 1_900;
    let _alone = alone().await;
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let (mut idle, before) = (Vec::new(), resident(&server));
    for first in (0..COUNT).step_by(EACH) {
        let api = server.api().await;
        let watches = (first..COUNT.min(first + EACH)).map(|number| {
            let mut api = api.clone();
            async move {
                let selectors = vec![crate::harness::selector(&format!("nobody-{}", number % 100), "")];
                let mut watch = api.watch(WatchRequest { selectors, ..Default::default() }).await.unwrap().into_inner();
                assert!(watch.message().await.unwrap().unwrap().snapshot_end);
                watch
            }
        });
        idle.extend(stream::iter(watches).buffer_unordered(50).collect::<Vec<_>>().await);
    }
    assert_eq!(server.info().await.counts.unwrap().watches, COUNT as u64);
    if let (Some(before), Some(after)) = (before, resident(&server)) {
        println!("{COUNT} idle streams on {} connections take {} KiB", COUNT.div_ceil(EACH), after - before);
    }
    // None of them is woken, and nobody waits for them.
    let begun = Instant::now();
    for number in 0..50 {
        client.register(register("web", &format!("i{number}"), 60.0)).await.unwrap();
    }
    println!("50 registrations beside {COUNT} idle streams: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(idle);
    until_watches(&server, 0).await;
    recorder.assert_clean();
}
