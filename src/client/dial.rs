//! How a connection comes about: a socket, TLS if it is wanted, and a channel over it. Knows no call, and nothing of when
//! to dial.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};
use tower::{ServiceExt as _, service_fn};

use super::{connection::Host, error::Cause, means::Tls};

/// How long a connection may take to come about.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What bytes go over.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Why a connection ended that had come about: a server that does not believe a client's certificate says so after the
/// handshake, to a connection that no call may have taken yet.
pub(super) type Fault = Arc<Mutex<Option<Cause>>>;

/// What the connection that there is now failed by.
pub(super) fn told(fault: &Fault) -> Option<Cause> {
    fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn tell(fault: &Fault, what: Option<Cause>) {
    *fault.lock().unwrap_or_else(PoisonError::into_inner) = what;
}

/// A socket that remembers what it failed by.
struct Remembering {
    socket: Box<dyn Socket>,
    fault: Fault,
}

impl AsyncRead for Remembering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read {
            tell(&self.fault, Some(Cause::from_error(error)));
        }
        read
    }
}

impl AsyncWrite for Remembering {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// Where to dial, and how.
#[derive(Clone, Debug)]
pub(super) struct Dialler {
    pub(super) host: Host,
    /// Given if the host wants it.
    pub(super) tls: Option<Arc<Tls>>,
    /// How long it may take.
    pub(super) limit: Duration,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Dialler {
    /// A channel over a connection that has come about. Should that end, the next call dials by itself.
    pub(super) async fn channel(self, fault: Fault) -> Result<Channel, Cause> {
        let socket = self.socket().await?;
        let mut first = Some(socket);
        let endpoint = endpoint(&self.host.to_string())?;
        Ok(endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (ready, again, fault) = (first.take(), self.clone(), Arc::clone(&fault));
            async move {
                let socket = match ready {
                    Some(socket) => socket,
                    None => again.connected().await?,
                };
                // What the one before failed by says nothing of this one.
                tell(&fault, None);
                Ok::<_, Error>(TokioIo::new(Remembering { socket, fault }))
            }
        })))
    }

    /// A channel that dials when it is first called.
    pub(super) fn lazy(self) -> Result<Channel, Cause> {
        let endpoint = endpoint(&self.host.to_string())?;
        Ok(endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let dialler = self.clone();
            async move { dialler.connected().await.map(TokioIo::new) }
        })))
    }

    async fn socket(&self) -> Result<Box<dyn Socket>, Cause> {
        match timeout(self.limit, self.connected()).await {
            Ok(connected) => connected.map_err(|error| Cause::from_error(error.as_ref())),
            Err(_) => Err(Cause::Timeout(self.limit)),
        }
    }

    async fn connected(&self) -> Result<Box<dyn Socket>, Error> {
        let socket = self.plain().await?;
        Ok(match &self.tls {
            Some(tls) => Box::new(tls.now()?.connect(&self.host.name, socket).await?),
            None => Box::new(socket),
        })
    }

    /// To whichever address of the host answers.
    async fn plain(&self) -> Result<TcpStream, Error> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(self.limit));
        let address: Uri = self.host.to_string().parse().map_err(io::Error::other)?;
        Ok(connector.ready().await?.call(address).await?.into_inner())
    }
}

/// What every channel is made of. Without HTTP/2 keepalive: some servers and proxies punish pings, so silence is noticed
/// by deadlines and bookmarks.
fn endpoint(address: &str) -> Result<Endpoint, Cause> {
    let refused = |error: tonic::transport::Error| Cause::from_error(&error);
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(refused)?;
    let endpoint = endpoint.user_agent(concat!("onair/", env!("CARGO_PKG_VERSION"))).map_err(refused)?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT))
}
