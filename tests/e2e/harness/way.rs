//! A way to a server that can be closed, go dead without a word, and swallow answers. Knows no protocol.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What becomes of what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It arrives.
    Open,
    /// What the server says does not, on any connection.
    NoAnswers,
    /// Connections end, also new ones.
    Closed,
}

/// The way, as long as it is held.
pub struct Way {
    address: SocketAddr,
    passage: watch::Sender<Passage>,
    /// Connections before this one carry nothing, and stay open.
    dead: watch::Sender<usize>,
    connections: Arc<AtomicUsize>,
}

impl Way {
    pub async fn to(server: SocketAddr, passage: Passage) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Self {
            address: listener.local_addr().unwrap(),
            passage: watch::Sender::new(passage),
            dead: watch::Sender::new(0),
            connections: Arc::default(),
        };
        let (passage, dead, connections) =
            (way.passage.subscribe(), way.dead.subscribe(), Arc::clone(&way.connections));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(carry(client, server, number, passage.clone(), dead.clone()));
            }
        });
        way
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }

    /// What is open now carries nothing any more, and stays open. New connections work.
    pub fn dead_end(&self) {
        self.dead.send_replace(self.connections());
    }
}

async fn carry(
    client: TcpStream,
    server: SocketAddr,
    number: usize,
    passage: watch::Receiver<Passage>,
    dead: watch::Receiver<usize>,
) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut closing = passage.clone();
    let is_dead = || {
        let dead = dead.clone();
        move || *dead.borrow() > number
    };
    let (is_dead, is_dead_too) = (is_dead(), is_dead());
    let is_mute = move || is_dead_too() || *passage.borrow() == Passage::NoAnswers;
    tokio::select! {
        // Without a way there is nothing to end either.
        _ = closing.wait_for(|passage| *passage == Passage::Closed) => {}
        () = copy(from_client, to_server, is_dead) => {}
        () = copy(from_server, to_client, is_mute) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: impl Fn() -> bool) {
    let mut buffer = vec![0; 16 * 1_024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !swallows() && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
