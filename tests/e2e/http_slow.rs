//! Clients that take their time, and those that are many: what does not come is not waited for, what is not taken is not
//! kept, and whoever keeps a connection busy with nothing loses it. Nobody else notices.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::interval,
};

use crate::{
    harness::{Http, Keeper, Server, alone, bulk, register, register_with, within},
    history::{Recorder, Settings},
    hostile::resident,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const INFO: &str = "GET /v1/info HTTP/1.1\r\nHost: localhost\r\n";

/// When a connection on which `begun` is sent, and then `more` again and again, is closed, and what was said on it.
async fn closed_after(server: &Server, begun: &str, more: &str) -> (Duration, String) {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(begun.as_bytes()).await.unwrap();
    let (since, mut again, mut said) = (Instant::now(), interval(Duration::from_millis(500)), Vec::new());
    loop {
        let mut buffer = [0; 4096];
        tokio::select! {
            read = within("the end", stream.read(&mut buffer)) => match read {
                Ok(read) if read > 0 => said.extend_from_slice(&buffer[..read]),
                _ => return (since.elapsed(), String::from_utf8(said).unwrap()),
            },
            _ = again.tick() => {
                // It may be closed by now, which is read in the next turn.
                let _ = stream.write_all(more.as_bytes()).await;
            }
        }
    }
}

/// When a client that asks for much and takes nothing is given up.
async fn given_up_after(server: &Server) -> Duration {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = "GET /v1/namespaces/default/services/big/instances HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.repeat(40).as_bytes()).await.unwrap();
    let since = Instant::now();
    // Writing goes on without an error until the server has closed: it reads nothing more.
    let mut again = interval(Duration::from_millis(500));
    loop {
        again.tick().await;
        if stream.write_all(b"\r\n").await.is_err() {
            return since.elapsed();
        }
        assert!(since.elapsed() < Duration::from_secs(60), "it is kept");
    }
}

#[tokio::test]
async fn who_is_slow_is_given_up() {
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    // 4 MB in an answer: more than the system takes for a client that does not read.
    let client = server.client(&recorder).await;
    for number in 0..300 {
        let big = |instance: &mut onair::proto::Instance| instance.metadata = bulk(15_000);
        client.register(register_with("big", &format!("i{number}"), 600.0, big)).await.unwrap();
    }
    let fleet = (0..20).map(|number| register("fleet", &format!("i{number}"), 2.0)).collect();
    let keeper = Keeper::start(&server, &recorder, fleet).await;
    let post = "POST /v1/heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let cases = [
        ("a head that never ends", INFO.to_owned(), "x", 10, ""),
        ("a head without more", INFO.to_owned(), "", 10, ""),
        ("a connection after its request", format!("{INFO}\r\n"), "", 10, "HTTP/1.1 200"),
        ("a body that drips", format!("{post}Content-Length: 1000\r\n\r\n"), " ", 30, "HTTP/1.1 408"),
        ("a body that does not come", format!("{post}Content-Length: 9\r\n\r\n"), "", 30, "HTTP/1.1 408"),
    ];
    let cases = cases.map(|(what, begun, more, seconds, wanted)| {
        let server = &server;
        async move {
            let (after, said) = closed_after(server, &begun, more).await;
            println!("{what}: closed after {after:?}");
            let (least, most) = (Duration::from_secs(seconds - 1), Duration::from_secs(seconds + 9));
            assert!(after > least && after < most, "{what}: {after:?}");
            assert!(said.starts_with(wanted) && wanted.is_empty() == said.is_empty(), "{what}: {said:?}");
        }
    });
    let (_, stalled) = tokio::join!(join_all(cases), given_up_after(&server));
    println!("who takes nothing: given up after {stalled:?}");
    assert!(stalled > Duration::from_secs(29) && stalled < Duration::from_secs(45), "{stalled:?}");
    keeper.stop().await;
    recorder.assert_clean();
}

/// `:method GET`, `:scheme http`, `:path /`, of HPACK's own table.
const GET: &[u8] = &[0x82, 0x86, 0x84];

/// What a client sends, piece by piece.
type Flood = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// How many bytes of `pieces` a connection takes until it is closed; all of them if it is not.
async fn taken(server: &Server, reads: bool, pieces: Flood) -> (usize, bool) {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (mut read_half, mut write_half) = stream.into_split();
    let reader = tokio::spawn(async move {
        let (mut buffer, mut open) = (vec![0; 64 << 10], reads);
        while open {
            open = read_half.read(&mut buffer).await.is_ok_and(|read| read > 0);
        }
        read_half
    });
    let (mut taken, mut is_closed) = (0, write_half.write_all(PREFACE).await.is_err());
    for piece in pieces {
        match tokio::time::timeout(Duration::from_secs(2), write_half.write_all(&piece)).await {
            Ok(Ok(())) => taken += piece.len(),
            Ok(Err(_)) => is_closed = true,
            Err(_) => {} // nothing is taken any more
        }
        if is_closed {
            break;
        }
    }
    reader.abort();
    (taken, is_closed)
}

#[tokio::test]
async fn floods_of_http_2_end_their_connection_or_are_not_read() {
    let _alone = alone().await;
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let fleet = (0..20).map(|number| register("fleet", &format!("i{number}"), 2.0)).collect();
    let mut keeper = Keeper::start(&server, &recorder, fleet).await;
    let before = resident(&server);
    let streams = (0..100_000).map(|number| number * 2 + 1);
    // Streams that are reset at once.
    let resets = streams.clone().map(|stream| [frame(1, 5, stream, GET), frame(3, 0, stream, &[0, 0, 0, 8])].concat());
    // Heads that never end, and such that break a rule, which the server resets.
    let endless = std::iter::once(frame(1, 1, 1, GET)).chain((0..10_000).map(|_| frame(9, 0, 1, &[0x40; 4_096])));
    let broken = streams.map(|stream| frame(1, 5, stream, &[0x82, 0x82, 0x86, 0x84]));
    let pings = (0..1_000_000).map(|_| frame(6, 0, 0, &[7; 8]));
    let settings = (0..1_000_000).map(|_| frame(4, 0, 0, &[]));
    let floods: [(&str, bool, Flood, bool); 5] = [
        ("rapid reset", true, Box::new(resets), true),
        ("an endless head", true, Box::new(endless), true),
        ("heads that break a rule", true, Box::new(broken), true),
        ("pings whose answers are not read", false, Box::new(pings.take(500_000)), false),
        ("settings whose answers are not read", false, Box::new(settings.take(500_000)), false),
    ];
    for (what, reads, flood, closes) in floods {
        let (bytes, is_closed) = taken(&server, reads, flood).await;
        println!("{what}: {bytes} bytes taken, {}", if is_closed { "closed" } else { "open" });
        assert!(is_closed || !closes, "{what} goes on");
        assert_eq!(Http::connect(server.address()).await.ask(format!("{INFO}\r\n")).await.status, 200);
    }
    keeper.beats().await;
    if let (Some(before), Some(after)) = (before, resident(&server)) {
        println!("{before} KiB before, {after} KiB after");
        assert!(after < before + (64 << 10), "{before} KiB became {after}");
    }
    keeper.stop().await;
    recorder.assert_clean();
}

#[tokio::test]
async fn connections_that_wait_cost_little() {
    const COUNT: usize = 1_000;
    let _alone = alone().await;
    let server = Server::ephemeral(&[]).await;
    let before = resident(&server);
    let mut silent = Vec::new();
    for _ in 0..COUNT {
        silent.push(Http::connect(server.address()).await);
    }
    assert_eq!(Http::connect(server.address()).await.ask(format!("{INFO}\r\n")).await.status, 200);
    let greeted = resident(&server);
    for http in &mut silent {
        http.send(format!("{INFO}\r\n")).await;
    }
    for http in &mut silent {
        assert_eq!(http.answer().await.unwrap().status, 200);
    }
    let asked = resident(&server);
    if let (Some(before), Some(greeted), Some(asked)) = (before, greeted, asked) {
        let each = |after: u64| (after.saturating_sub(before) << 10) / COUNT as u64;
        println!("a silent connection takes {} B, one of HTTP/1 that asked {} B", each(greeted), each(asked));
        assert!(each(asked) < 64 << 10);
    }
}
