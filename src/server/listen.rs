//! Sockets: binding them with a clear sentence when that fails, accepting, and handing connections to threads.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::ServeError;
use crate::proto::{GetServerInfoRequest, registry_client::RegistryClient};

/// Connections that the system queues for us.
const BACKLOG: i32 = 4_096;
/// How long to wait when the system has no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
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
        let mut client = RegistryClient::connect(format!("http://{address}")).await.ok()?;
        client.get_server_info(GetServerInfoRequest {}).await.ok()
    };
    match timeout(WHO_IS_THERE, ask).await {
        Ok(Some(info)) => format!(
            "{address} is in use by another onair, {}: stop it, or choose an address with --listen",
            info.into_inner().version
        ),
        _ => format!("{address} is in use by another program: choose an address with --listen"),
    }
}

/// Accepts until told to stop, giving connections to the threads in turn.
pub(super) async fn accept(
    listener: TcpListener,
    threads: Vec<mpsc::Sender<TcpStream>>,
    mut stopping: watch::Receiver<bool>,
) {
    for thread in threads.iter().cycle() {
        let connection = tokio::select! {
            connection = next(&listener) => connection,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        if thread.send(connection).await.is_err() {
            return;
        }
    }
}

async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                // A connection without these still works.
                let _ = connection.set_nodelay(true);
                let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
                let _ = socket2::SockRef::from(&connection).set_tcp_keepalive(&keepalive);
                return connection;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Moves a connection to the reactor of the current thread.
pub(super) fn adopt(connection: TcpStream) -> io::Result<TcpStream> {
    connection.into_std().and_then(TcpStream::from_std)
}
