//! Connections from the client's side of the socket: what becomes of calls that nobody waits for, and how many turns of
//! its runtime lie between a socket and the beats' lane, on which the lease clock counts. There the server is real but for
//! the actor, which does not run: what is in its lane stays there.

use std::{
    io::Write as _,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use prost::Message as _;
use tokio::task::yield_now;

use super::*;
use crate::{
    access::Gate,
    actor::{ActorOptions, RegistryHandle, TURNS_TO_LANE, all_read},
    engine::memory::MemoryEngine,
    grpc::answering,
    http::{ApiOptions, Guard},
    proto::{Beat, HeartbeatRequest},
    server::{Services, listen::Door},
    tls::{ClientFiles, Live, Pem, ServerFiles, mint::Mint},
};

/// Connections on which a beat waits, at once: more than a runtime runs tasks before it looks at its sockets again.
const CROWD: usize = 200;
/// So many of them have no need to wait for their turn.
const FEW: usize = 30;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The head of a POST, as HTTP/2 writes it without a table and without Huffman's code.
fn head(stream: u8, path: &str, content_type: &str) -> Vec<u8> {
    let field = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap();
        [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", content_type),
        ("te", "trailers"),
    ];
    frame(1, 4, stream, &fields.map(|(name, value)| field(name, value)).concat())
}

/// A beat as gRPC frames it.
fn beat() -> Vec<u8> {
    let beats = vec![Beat { lease_token: "nobody's".into(), status: 0 }];
    let message = HeartbeatRequest { beats, ..Default::default() }.encode_to_vec();
    [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat()
}

/// The server's side of connections, and what of it is looked at.
struct Rig {
    handle: RegistryHandle,
    sockets: Sockets,
}

/// Where clients connect to.
struct Sockets {
    connections: mpsc::Sender<Admitted>,
    door: Door,
    listener: TcpListener,
    laps: Laps,
    _stop: watch::Sender<bool>,
}

impl Sockets {
    fn serve(front: Front, laps: Laps, protocols: Protocols) -> Self {
        let (input, connections) = mpsc::channel(CROWD);
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(serve((front, laps.clone()), protocols, connections, stopping));
        let door = Door::new(CROWD, &Arc::default());
        Self { connections: input, door, listener: TcpListener::bind("127.0.0.1:0").unwrap(), laps, _stop: stop }
    }

    /// The client's side of a connection that the server is about to take over.
    fn connect(&self) -> std::net::TcpStream {
        let client = std::net::TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (server, _) = self.listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let admitted = self.door.admit(TcpStream::from_std(server).unwrap()).unwrap();
        self.connections.try_send(admitted).unwrap();
        client
    }
}

impl Rig {
    fn start() -> Self {
        Self::start_by(None)
    }

    /// By TLS, if there is something for it.
    fn start_by(tls: Option<Arc<Live>>) -> Self {
        let recovered = MemoryEngine::recovered(uuid::Uuid::nil(), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        // It is never run, and its ends of the lanes have to stay.
        std::mem::forget(actor);
        let settings = ServeSettings::default();
        let handshakes = tls.map(|live| Handshakes::new(live, false, (4 * CROWD, 1), handle.metrics()));
        let protocols = Protocols::new(&settings, handshakes, Arc::clone(handle.metrics()));
        let guard = Arc::new(Guard::new(&[], &settings, None));
        let legacy = crate::http::legacy::Legacy::new(handle.clone(), true, 1_000, Gate::open());
        let ops = axum::Router::new();
        let services = Services {
            handle: handle.clone(),
            settings,
            members: vec![],
            guard,
            ops,
            legacy,
            keeper: None,
            audit: None,
        };
        let laps = Laps::default();
        let sockets = Sockets::serve(services.front(&laps).unwrap(), laps, protocols);
        Self { handle, sockets }
    }

    /// Lets everyone act who can, in however many laps.
    async fn settle(&self) {
        settle().await;
        while self.sockets.laps.all_read().await {}
        settle().await;
    }

    /// All beats are in the lane when a mark would be: of a few connections within the turns that it waits in any case.
    async fn assert_heard(&self, beats: usize, what: &str) {
        let (handle, laps) = (self.handle.clone(), self.sockets.laps.clone());
        // As a task counts them: the main future of a runtime has others.
        let counted = tokio::spawn(async move {
            if beats > FEW {
                all_read(&laps).await;
                return (handle.in_lane(), 0);
            }
            let mut turns = 0;
            while turns < 100 && handle.in_lane() < beats {
                yield_now().await;
                turns += 1;
            }
            (handle.in_lane(), turns)
        });
        let (heard, turns) = counted.await.unwrap();
        println!("{what}: {heard} beats in {turns} turns");
        assert_eq!(heard, beats, "{what}");
        assert!(turns <= TURNS_TO_LANE, "{what}: {turns}");
    }
}

/// Lets everyone act who can.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// A request of HTTP/1.1.
fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn a_beat_is_in_the_lane_within_the_turns_that_a_mark_waits() {
    let (unary, route) = ("/onair.v1.Registry/Heartbeat", "/v1/heartbeat");
    let (grpc, web, json) = ("application/grpc", "application/grpc-web+proto", "application/json");
    let body = br#"{"beats": [{"leaseToken": "nobody's"}]}"#;
    let two = |path, content_type, body: &[u8]| [head(1, path, content_type), frame(0, 1, 1, body)].concat();
    let opened = [PREFACE.to_vec(), head(1, "/onair.v1.Registry/HeartbeatStream", grpc)].concat();
    let asked = post(route, json, b"nonsense");
    let at_once = [PREFACE.to_vec(), two(unary, grpc, &beat())].concat();
    for (what, first, then) in [
        ("a call of gRPC", PREFACE.to_vec(), two(unary, grpc, &beat())),
        ("a call of gRPC, all of a new connection", vec![], at_once),
        ("a message on a stream", opened, frame(0, 0, 1, &beat())),
        ("JSON over HTTP/2", PREFACE.to_vec(), two(route, json, body)),
        ("gRPC-Web over HTTP/2", PREFACE.to_vec(), two(unary, web, &beat())),
        ("JSON over HTTP/1, all of a new connection", vec![], post(route, json, body)),
        ("JSON over HTTP/1", asked.clone(), post(route, json, body)),
        ("gRPC-Web over HTTP/1", asked, post(unary, web, &beat())),
    ] {
        for crowd in [FEW, CROWD] {
            let rig = Rig::start();
            let mut clients: Vec<_> = (0..crowd).map(|_| rig.sockets.connect()).collect();
            clients.iter_mut().for_each(|client| client.write_all(&first).unwrap());
            rig.settle().await;
            assert_eq!(rig.handle.in_lane(), 0, "{what}");
            clients.iter_mut().for_each(|client| client.write_all(&then).unwrap());
            rig.assert_heard(crowd, what).await;
        }
    }
}

/// A beat that came behind much else on its connection is heard before the mark, whatever the connection reads in a turn.
#[tokio::test]
async fn a_mark_waits_until_connections_that_read_in_turns_have_read_everything() {
    // Nearly as much as a stream may send before it is answered.
    let bulk = vec![0; 15 << 10];
    let before: Vec<u8> = (0..2)
        .flat_map(|nth| {
            let stream = 2 * nth + 1;
            let parts = (0..4).flat_map(|_| frame(0, 0, stream, &bulk));
            head(stream, "/onair.v1.Registry/Register", "application/grpc").into_iter().chain(parts).collect::<Vec<_>>()
        })
        .collect();
    let call = [head(99, "/onair.v1.Registry/Heartbeat", "application/grpc"), frame(0, 1, 99, &beat())].concat();
    for crowd in [1, 2, 3, 40] {
        let rig = Rig::start();
        // All of it has reached the server before it is looked for.
        socket2::SockRef::from(&rig.sockets.listener).set_recv_buffer_size(4 << 20).unwrap();
        let mut clients: Vec<_> = (0..crowd).map(|_| rig.sockets.connect()).collect();
        clients.iter_mut().for_each(|client| client.write_all(PREFACE).unwrap());
        rig.settle().await;
        for client in &mut clients {
            client.write_all(&before).unwrap();
            client.write_all(&call).unwrap();
        }
        let (handle, laps) = (rig.handle.clone(), rig.sockets.laps.clone());
        // As the task that sends marks does.
        let heard = tokio::spawn(async move {
            all_read(&laps).await;
            handle.in_lane()
        });
        assert_eq!(heard.await.unwrap(), crowd, "of {crowd}");
    }
}

#[tokio::test]
async fn by_tls_a_beat_takes_no_more_turns() {
    let mint = Mint::new(1).unwrap();
    let server = mint.server(&["localhost".to_owned()], 1).unwrap();
    let (certificate, key) = (Pem::parse(&server.certificate), Pem::parse(&server.key));
    let live = Arc::new(Live::load(ServerFiles { certificate, key, clients: None }).unwrap());
    let ca = Some(Pem::parse(&mint.itself.certificate));
    let call = [head(1, "/onair.v1.Registry/Heartbeat", "application/grpc"), frame(0, 1, 1, &beat())].concat();
    let json = post("/v1/heartbeat", "application/json", br#"{"beats": [{"leaseToken": "nobody's"}]}"#);
    let (of_grpc, of_http) =
        (("a call of gRPC", "h2", PREFACE, call), ("JSON over HTTP/1, all new", "http/1.1", &b""[..], json));
    for (crowd, (what, protocol, first, then)) in [(FEW, of_grpc.clone()), (CROWD, of_grpc), (CROWD, of_http)] {
        let rig = Rig::start_by(Some(Arc::clone(&live)));
        let tls = ClientFiles { ca: ca.clone(), pair: None }.load(protocol).unwrap();
        let mut clients = Vec::new();
        for _ in 0..crowd {
            let socket = rig.sockets.connect();
            socket.set_nonblocking(true).unwrap();
            let stream = tls.connect("localhost", TcpStream::from_std(socket).unwrap()).await.unwrap();
            let (socket, session) = stream.into_inner();
            clients.push((socket.into_std().unwrap(), session));
        }
        // Between two writes nobody else has a turn.
        let mut write_to_all = |bytes: &[u8]| {
            for (socket, session) in &mut clients {
                session.writer().write_all(bytes).unwrap();
                while session.wants_write() {
                    session.write_tls(socket).unwrap();
                }
            }
        };
        write_to_all(first);
        rig.settle().await;
        assert_eq!(rig.handle.in_lane(), 0, "{what}");
        write_to_all(&then);
        rig.assert_heard(crowd, &format!("{what} by TLS")).await;
    }
}

/// Counted as long as it is there.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_dropped() {
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    let endless = move || {
        let held = Held::new(&counted);
        async move {
            let _held = held;
            std::future::pending().await
        }
    };
    let grpc = answering("v1", {
        let endless = endless.clone();
        move |_| endless()
    });
    let routes = axum::Router::new().fallback(async move || endless().await.map(axum::body::Body::new));
    let settings = ServeSettings::default();
    let guard = Arc::new(Guard::new(&[], &settings, None));
    let options = ApiOptions { max_message_bytes: 1_000, max_json_values: 1_000 };
    let front = Front::new(grpc, routes, guard, options, Arc::default());
    let sockets = Sockets::serve(front, Laps::default(), Protocols::new(&settings, None, Arc::default()));
    let two = |kind| [PREFACE.to_vec(), head(1, "/v1/a", kind), frame(0, 1, 1, b"{}")].concat();
    let (one, reset) = (post("/v1/a", "application/json", b"{}"), frame(3, 0, 1, &[0, 0, 0, 8]));
    for (what, request, end) in [
        ("HTTP/1", one, None),
        ("HTTP/2", two("application/json"), None),
        ("HTTP/2, reset", two("application/json"), Some(reset.clone())),
        ("gRPC", two("application/grpc"), None),
        ("gRPC, reset", two("application/grpc"), Some(reset)),
    ] {
        let mut client = sockets.connect();
        client.write_all(&request).unwrap();
        settle().await;
        assert_eq!(calls.load(Ordering::Relaxed), 1, "{what}: it is under way");
        let open = end.map(|end| {
            client.write_all(&end).unwrap();
            client.try_clone().unwrap()
        });
        drop(client);
        settle().await;
        assert_eq!(calls.load(Ordering::Relaxed), 0, "{what}: it goes on");
        drop(open);
    }
}
