//! The load program against a floor in this process.

use clap::Parser;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::{
    Error, Options,
    floor::Shape,
    measure::{Side, compare},
    session::{Session, Shown},
};
use crate::{
    grpc::{Dispatch, floor::Floor},
    proto::bench::floor_server::FloorServer,
};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

fn options() -> Options {
    options_for("0.1")
}

fn options_for(seconds: &str) -> Options {
    Command::parse_from(["bench", "--seconds", seconds, "--pairs", "1", "--threads", "2"]).options
}

/// A floor on a port of its own; it ends when the sender is dropped.
async fn floor() -> (String, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (running, ended) = oneshot::channel();
    let floor = Dispatch::default().and(FloorServer::new(Floor::new()));
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().serve_with_incoming_shutdown(floor, incoming, async { drop(ended.await) }));
    (url, running)
}

async fn session(url: &str) -> Session {
    session_for(url, options()).await
}

async fn session_for(url: &str, options: Options) -> Session {
    Session::connect(url, Shown::default(), "bench".to_owned(), options).await.unwrap()
}

#[tokio::test]
async fn calls_of_any_size_are_answered() {
    let (url, _running) = floor().await;
    for (request, reply) in [(0, 0), (80, 16), (300, 40_000), (60_000, 70_000), (20, 3 << 20)] {
        for is_streamed in [false, true] {
            // What is large takes longer, most of all on a machine that is busy.
            let mut ratio = 0.0;
            for seconds in ["0.1", "1", "20"] {
                let session = session_for(&url, options_for(seconds)).await;
                assert!(session.has_floor);
                let shape = |in_flight| Shape::of(&session, request, reply, 2, in_flight);
                let side = if is_streamed { shape(30).streamed() } else { shape(3).unary() };
                let figures = compare(&session, side, Some(shape(1).unary()), "calls").await.unwrap();
                assert!(figures.faults.is_empty(), "{request} for {reply}: {figures:?}");
                ratio = figures.against.map_or(0.0, |against| against.ratio);
                if figures.count > 0 && ratio > 0.0 {
                    break;
                }
            }
            assert!(ratio > 0.0, "{request} for {reply}: nothing was answered");
        }
    }
}

#[tokio::test]
async fn failures_are_faults_with_a_reason() {
    let (url, _running) = floor().await;
    let session = session(&url).await;
    let too_large = Shape::of(&session, 20, 5 << 20, 1, 4);
    for side in [too_large.unary(), too_large.streamed()] {
        let figures = compare(&session, side, None, "calls").await.unwrap();
        let faults = figures.faults.join("; ");
        assert!(faults.contains("InvalidArgument: reply_bytes: "), "{faults}");
    }
    let nowhere = Side { path: "/onair.bench.v1.Floor/Nothing", ..Shape::of(&session, 20, 20, 1, 4).unary() };
    let figures = compare(&session, nowhere, None, "calls").await.unwrap();
    assert!(figures.faults[0].contains("Unimplemented"), "{:?}", figures.faults);
}

#[tokio::test]
async fn other_machines_are_not_loaded_by_accident() {
    for (url, why) in [
        ("http://192.0.2.1:6624", "is not on this machine"),
        ("http://127.0.0.1:1,127.0.0.1:2", "the load goes to one server"),
        ("ftp://127.0.0.1:1", "the load goes to one server"),
    ] {
        match Session::open(url, Shown::default(), "bench".to_owned(), options()).await {
            Err(Error::Usage(sentence)) => assert!(sentence.contains(why), "{sentence}"),
            other => panic!("{url}: {:?}", other.map(|session| session.describe())),
        }
    }
}

#[tokio::test]
async fn a_server_that_leaves_is_an_error() {
    let (url, running) = floor().await;
    let session = session(&url).await;
    drop(running);
    let shape = Shape::of(&session, 20, 20, 1, 4);
    let error = compare(&session, shape.unary(), None, "calls").await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Connect(..) | Error::Protocol(_) | Error::Broken(_)), "{error}");
}
