//! Sockets: binding them with a clear sentence when that fails, accepting, and handing connections to threads.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::{ServeError, handshake::NOT_TLS_HTTP1};
use crate::{
    metrics::Metrics,
    proto::{GetServerInfoRequest, registry_client::RegistryClient},
};

/// Connections that the system queues for us.
const BACKLOG: i32 = 4_096;
/// How long to wait when the system has no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long nothing is said of what was said just now.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);
/// How long whoever has our port may take to say who it is.
const WHO_IS_THERE: Duration = Duration::from_millis(500);
/// Silence after which the system itself looks whether the other end is there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Listens on every address, or on none.
pub(super) async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = Vec::new();
    for address in addresses {
        match bind_one(*address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ServeError::Listen(in_use(*address).await));
            }
            Err(error) => return Err(ServeError::Listen(format!("{address} cannot be listened on: {error}"))),
        }
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Why an address is taken: by another onair, or by something else.
async fn in_use(address: SocketAddr) -> String {
    let ask = async {
        if speaks_our_tls(address).await.unwrap_or(false) {
            return Some("which speaks TLS".to_owned());
        }
        let mut client = RegistryClient::connect(format!("http://{address}")).await.ok()?;
        client.get_server_info(GetServerInfoRequest {}).await.ok().map(|info| info.into_inner().version)
    };
    match timeout(WHO_IS_THERE, ask).await {
        Ok(Some(which)) => {
            format!("{address} is in use by another onair, {which}: stop it, or choose an address with --listen")
        }
        _ => format!("{address} is in use by another program: choose an address with --listen"),
    }
}

/// Whether it says what we say where TLS is spoken, to who does not speak it.
async fn speaks_our_tls(address: SocketAddr) -> io::Result<bool> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut said = [0; NOT_TLS_HTTP1.len()];
    socket.read_exact(&mut said).await?;
    Ok(said == NOT_TLS_HTTP1)
}

/// Where connections are let in: as many as there are places, and no more.
#[derive(Clone, Debug)]
pub(super) struct Door {
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Door {
    /// With so many places.
    pub(super) fn new(places: usize, metrics: &Arc<Metrics>) -> Self {
        Self { places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))), metrics: Arc::clone(metrics) }
    }

    /// Gives a connection a place; none is left: it is closed, and counted.
    pub(super) fn admit(&self, stream: TcpStream) -> Option<Admitted> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.inspect_err(|_| self.metrics.connections_refused.inc()).ok()?;
        Some(Admitted { stream, place })
    }
}

/// A connection, and the place that it takes until it has ended.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) stream: TcpStream,
    pub(super) place: OwnedSemaphorePermit,
}

/// Accepts until told to stop, giving connections to the threads in turn.
pub(super) async fn accept(
    listener: TcpListener,
    door: Door,
    threads: Vec<mpsc::Sender<Admitted>>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut complaints = Seldom::default();
    for thread in threads.iter().cycle() {
        let connection = tokio::select! {
            connection = next(&listener, &door, &mut complaints) => connection,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        if thread.send(connection).await.is_err() {
            return;
        }
    }
}

async fn next(listener: &TcpListener, door: &Door, complaints: &mut Seldom) -> Admitted {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                // A connection without these still works.
                let _ = connection.set_nodelay(true);
                let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
                let _ = socket2::SockRef::from(&connection).set_tcp_keepalive(&keepalive);
                if let Some(admitted) = door.admit(connection) {
                    return admitted;
                }
                if let Some(times) = complaints.times() {
                    tracing::warn!(times, "a connection was closed at once: max_connections are open");
                }
            }
            Err(error) => {
                if let Some(times) = complaints.times() {
                    tracing::warn!(%error, times, "a connection could not be accepted");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What happens often is complained of seldom.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    last: Option<Instant>,
    times: u64,
}

impl Seldom {
    /// It happened once more: how often since it was said last, if it is to be said now.
    pub(super) fn times(&mut self) -> Option<u64> {
        self.times += 1;
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_PAUSE) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.times))
    }
}

/// Moves a connection to the reactor of the current thread.
pub(super) fn adopt(connection: TcpStream) -> io::Result<TcpStream> {
    connection.into_std().and_then(TcpStream::from_std)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_said_once_a_second() {
        let mut complaints = Seldom::default();
        let mut said = Vec::new();
        for _ in 0..100 {
            said.extend(complaints.times());
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert_eq!(said, [1, 20, 20, 20, 20]);
    }

    #[tokio::test]
    async fn who_finds_no_place_is_closed_at_once_and_counted() {
        let metrics = Arc::<Metrics>::default();
        let (listener, door) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Door::new(2, &metrics));
        let address = listener.local_addr().unwrap();
        let ((input, mut admitted), (_stop, stopping)) = (mpsc::channel(8), watch::channel(false));
        tokio::spawn(accept(listener, door, vec![input], stopping));
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let served = [admitted.recv().await.unwrap(), admitted.recv().await.unwrap()];
        for client in &mut clients[2..] {
            assert_eq!(tokio::io::AsyncReadExt::read(client, &mut [0]).await.unwrap(), 0, "it is closed");
        }
        assert_eq!(metrics.connections_refused.get(), 2);
        // Whoever leaves makes room.
        drop(served);
        clients.push(TcpStream::connect(address).await.unwrap());
        assert!(admitted.recv().await.is_some());
    }
}
