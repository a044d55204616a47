//! Connections: each speaks HTTP/1 or HTTP/2, is limited in what it may cost, and ends in order when the server does.
//! Knows nothing of what is called on it.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tonic::{body::Body, transport::server::TcpConnectInfo};

use super::{
    gather::{Gathering, Turns},
    greeting::{Greeted, Spoken, greet},
    handshake::Handshakes,
    listen::{self, Admitted, Seldom},
    paced::{Beats, Paced},
    stream::Stream,
};
use crate::{
    config::ServeSettings,
    http::{Answer, Front},
    laps::Laps,
    metrics::{Connection, Metrics, Protocol, Rpc},
    tls::PeerCertificate,
};

/// The server pings a silent HTTP/2 connection after this long…
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// …and closes it if there is no answer within this: half-open connections are found.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a connection's clients may have sent and we have not read. The transport closes a connection on which small
/// messages wait whose overhead is half of this; after a pause of ours that is what thousands of beats on one
/// connection look like, and they are the ones that must pass.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How long an HTTP/1 request's head may take, and how long a connection may be kept without the next one.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// Headers of one HTTP/1 request; HTTP/2 counts 32 bytes for each, which limits them by `max_header_bytes`.
const HEADERS_MAX: usize = 100;
/// Bytes that are read ahead on an HTTP/1 connection, beyond what headers may have: a body is read in pieces of this.
const READ_AHEAD: usize = 64 << 10;

/// How long the calls of a connection go on after its client's certificate has expired.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// How the two protocols are spoken.
#[derive(Clone, Debug)]
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    /// If TLS is spoken, and then nothing else.
    tls: Option<Handshakes>,
    /// Of clients that speak it where nobody does.
    complaints: Arc<Mutex<Seldom>>,
    metrics: Arc<Metrics>,
}

impl Protocols {
    /// With the limits of `settings`.
    pub(super) fn new(settings: &ServeSettings, tls: Option<Handshakes>, metrics: Arc<Metrics>) -> Self {
        let header_bytes = settings.max_header_bytes as usize;
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_headers(HEADERS_MAX)
            .max_header_size(header_bytes)
            .max_buf_size(header_bytes.max(READ_AHEAD));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(settings.max_concurrent_streams)
            .max_header_list_size(settings.max_header_bytes);
        Self { http1, http2, tls, complaints: Arc::default(), metrics }
    }
}

/// Serves every connection that comes until the server stops, and then until the last of them has ended. Those of HTTP/2 go
/// in these laps.
pub(super) async fn serve(
    (front, laps): (Front, Laps),
    protocols: Protocols,
    mut connections: mpsc::Receiver<Admitted>,
    mut stopping: watch::Receiver<bool>,
) {
    // Each connection holds a sender of this until it ends; nothing is ever sent.
    let (open, mut all_ended) = mpsc::channel::<()>(1);
    loop {
        let connection = tokio::select! {
            connection = connections.recv() => connection,
            () = told(&mut stopping) => None,
        };
        let Some(Admitted { stream, place }) = connection else { break };
        // A stream accepted on another thread belongs to that thread's reactor until it is moved to this one.
        let connection = match listen::adopt(stream) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken over");
                continue;
            }
        };
        let (served, protocols) = ((front.clone(), laps.clone()), protocols.clone());
        let (stopping, open) = (stopping.clone(), open.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_one(connection, served, &protocols, stopping).await {
                tracing::debug!(%error, "a connection failed");
            }
            drop((open, place));
        });
    }
    drop((connections, open));
    // Nobody sends: this is the end of the last connection.
    let _ = all_ended.recv().await;
}

/// Returns when the server stops.
async fn told(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn serve_one(
    connection: TcpStream,
    (front, laps): (Front, Laps),
    protocols: &Protocols,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let (spoken, connection, certificate) = tokio::select! {
        begun = begin(connection, protocols) => begun?,
        // It has asked for nothing yet.
        () = told(&mut stopping) => return Ok(()),
    };
    let _open = Connection::open(
        &protocols.metrics,
        match spoken {
            Spoken::Http1 => Protocol::Http1,
            Spoken::Http2 => Protocol::Http2,
        },
    );
    let expires = certificate.as_ref().map(|certificate| certificate.expires);
    let beats = Beats::default();
    let calls = Calls { front, peer: connection.peer(), certificate, beats: beats.clone() };
    match spoken {
        // It gathers by itself, and has to know when an answer is really sent: from then on it waits for the next request.
        Spoken::Http1 => {
            let connection = pin!(protocols.http1.serve_connection(TokioIo::new(connection), calls));
            drive(connection, http1::Connection::graceful_shutdown, stopping, expires).await
        }
        Spoken::Http2 => {
            let stream = Gathering::new(connection);
            let written = stream.share();
            let connection = protocols.http2.serve_connection(TokioIo::new(stream), calls);
            let paced = pin!(Paced::new(Turns::new(connection, written), laps, beats));
            drive(paced, |paced| paced.connection().graceful_shutdown(), stopping, expires).await
        }
    }
    .map_err(io::Error::other)
}

/// All that comes before the first request.
async fn begin(socket: TcpStream, protocols: &Protocols) -> io::Result<(Spoken, Greeted, Option<PeerCertificate>)> {
    let (stream, certificate) = match &protocols.tls {
        Some(handshakes) => handshakes.shake(socket).await?,
        None => (Stream::Plain(socket), None),
    };
    let (spoken, connection) = greet(stream).await?;
    if connection.is_tls_by_mistake() {
        let from = connection.peer().remote_addr();
        if let Some(times) = protocols.complaints.lock().unwrap_or_else(PoisonError::into_inner).times() {
            tracing::warn!(?from, times, "a client tried to speak TLS, and this server has no certificate (tls_cert)");
        }
    }
    Ok((spoken, connection, certificate))
}

/// Runs a connection to its end. When the server stops it takes no more calls: an idle one ends at once, any other with
/// its last call. So it does when its client's certificate expires, but then a stream has only a moment more.
async fn drive<C: Future<Output = Result<(), E>>, E>(
    mut connection: Pin<&mut C>,
    shut_down: impl FnOnce(Pin<&mut C>),
    mut stopping: watch::Receiver<bool>,
    expires: Option<SystemTime>,
) -> Result<(), E> {
    let over = async {
        match expires {
            Some(end) => sleep(end.duration_since(SystemTime::now()).unwrap_or_default()).await,
            None => std::future::pending().await,
        }
    };
    let has_expired = tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        () = told(&mut stopping) => false,
        () = over => true,
    };
    shut_down(connection.as_mut());
    match has_expired {
        false => connection.await,
        true => timeout(LAST_MOMENT, connection).await.unwrap_or(Ok(())),
    }
}

/// What one connection's requests are given to.
struct Calls {
    front: Front,
    peer: TcpConnectInfo,
    /// The client's, if it has proved to hold one.
    certificate: Option<PeerCertificate>,
    beats: Beats,
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<Incoming>) -> Answer {
        if !self.beats.may_come() && may_bring_beats(request.uri().path()) {
            self.beats.expect();
        }
        request.extensions_mut().insert(self.peer.clone());
        if let Some(certificate) = &self.certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        self.front.call(request)
    }
}

/// Whether a request to this path may bring beats: of one that is not to a service of gRPC only its route knows.
fn may_bring_beats(path: &str) -> bool {
    let is_grpc = path.starts_with("/onair.") || path.starts_with("/grpc.");
    !is_grpc || Rpc::of_path(path).brings_beats()
}

#[cfg(test)]
mod tests;
