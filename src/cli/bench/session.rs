//! The server that is measured, and what every job does with it: connect, ask who it is, learn why a call failed.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, BufMut as _};
use tokio::net::{TcpStream, lookup_host};
use tokio_stream::once;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use super::{
    Error, Options,
    floor::ECHO,
    measure::{Process, Progress},
    wire::{Wire, framed},
};
use crate::proto::{GetServerInfoRequest, GetServerInfoResponse, bench::EchoRequest, registry_client::RegistryClient};

/// How long a call outside the measurements may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the load goes.
pub(super) struct Target {
    address: SocketAddr,
    /// Whom requests are for.
    pub(super) authority: String,
}

impl Target {
    /// A connection for calls of one method.
    pub(super) async fn connect(&self, path: &str) -> Result<(TcpStream, Wire), Error> {
        Ok((self.socket().await?, Wire::new(&self.authority, path)))
    }

    /// A connection on which nothing is said yet.
    pub(super) async fn socket(&self) -> Result<TcpStream, Error> {
        let failed = |error| Error::Connect(self.authority.clone(), error);
        let socket = TcpStream::connect(self.address).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        Ok(socket)
    }
}

/// One run against one server.
pub(super) struct Session {
    pub(super) target: Arc<Target>,
    pub(super) options: Options,
    /// Where everything is registered.
    pub(super) namespace: String,
    pub(super) progress: Progress,
    /// Distinguishes what this run registers from what others do.
    pub(super) run: String,
    /// Whether the server has the floor.
    pub(super) has_floor: bool,
    info: GetServerInfoResponse,
    channel: Channel,
}

impl Session {
    /// Connects and asks the server who it is.
    pub(super) async fn open(url: &str, namespace: String, options: Options) -> Result<Self, Error> {
        let mut session = Self::connect(url, namespace, options).await?;
        let info = session.client().get_server_info(GetServerInfoRequest {}).await;
        session.info = info.map_err(|status| Error::Call("ask the server who it is", Box::new(status)))?.into_inner();
        Ok(session)
    }

    /// Connects, and finds out whether the floor is there.
    pub(super) async fn connect(url: &str, namespace: String, options: Options) -> Result<Self, Error> {
        let (address, authority) = resolve(url, options.remote).await?;
        if let Some(pid) = options.server_pid
            && Process(pid).memory().is_none()
        {
            return Err(Error::Usage(format!("--server-pid {pid}: there is no such process, or not on Linux")));
        }
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|error| Error::Usage(format!("{url}: {error}")))?
            .connect_timeout(CALL_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        // Only to say so in one sentence, before anything else fails in a longer one.
        TcpStream::connect(address).await.map_err(|error| Error::Connect(authority.clone(), error))?;
        let channel = endpoint.connect_lazy();
        let mut tag = [0; 4];
        getrandom::fill(&mut tag).map_err(|error| Error::Broken(io::Error::other(error.to_string())))?;
        let mut session = Self {
            target: Arc::new(Target { address, authority }),
            options,
            namespace,
            progress: Progress::new(),
            run: format!("{:08x}", u32::from_be_bytes(tag)),
            has_floor: false,
            info: GetServerInfoResponse::default(),
            channel,
        };
        let echo = framed(&EchoRequest::default());
        session.has_floor = session.call(ECHO, &echo).await.is_ok();
        Ok(session)
    }

    /// A client for the calls that are not measured.
    pub(super) fn client(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone())
    }

    /// One line on what is measured.
    pub(super) fn describe(&self) -> String {
        let kept = if self.info.durable { "durable" } else { "not durable" };
        let floor = if self.has_floor { "with the floor" } else { "without the floor (serve --bench-floor)" };
        format!("onair {} at {}, {kept}, {floor}", self.info.version, self.target.authority)
    }

    /// The server's limit on beats in a message.
    pub(super) fn beats_max(&self) -> usize {
        let limit = self.info.limits.as_ref().map_or(0, |limits| limits.max_beats);
        if limit == 0 { 10_000 } else { usize::try_from(limit).unwrap_or(10_000) }
    }

    /// The server's CPU time so far, if its process is known.
    pub(super) fn server_cpu(&self) -> Option<Duration> {
        Process(self.options.server_pid?).cpu()
    }

    /// The server's memory now, if its process is known.
    pub(super) fn server_memory(&self) -> Option<u64> {
        Process(self.options.server_pid?).memory()
    }

    /// Why a call fails: makes it again, with a client that reads the status.
    pub(super) async fn explain(&self, path: &'static str, message: &[u8]) -> String {
        match self.call(path, message).await {
            Ok(_) => "the same call succeeded when made again".to_owned(),
            Err(status) => super::status_text(&status),
        }
    }

    /// Calls a method, unary or streaming, with one message that is framed already; answers the first reply's bytes.
    pub(super) async fn call(&self, path: &'static str, message: &[u8]) -> Result<Vec<u8>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(16 << 20);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let body = message.get(5..).unwrap_or_default().to_vec();
        let mut request = Request::new(once(body));
        request.set_timeout(CALL_TIMEOUT);
        let replies = grpc.streaming(request, PathAndQuery::from_static(path), AsBytes).await?;
        let reply = replies.into_inner().message().await?;
        reply.ok_or_else(|| Status::new(Code::Unknown, "it ended without a reply"))
    }
}

/// The address and the authority that a url stands for; loopback unless anything is allowed.
async fn resolve(url: &str, remote: bool) -> Result<(SocketAddr, String), Error> {
    let (protocol, rest) = url.trim().split_once("://").unwrap_or(("http", url.trim()));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if protocol != "http" || authority.is_empty() || authority.contains([',', '@']) {
        return Err(Error::Usage(format!("--url {url}: the load goes to one server, as http://host:port")));
    }
    let addresses = lookup_host(authority).await.map_err(|error| Error::Connect(authority.to_owned(), error))?;
    let addresses: Vec<_> = addresses.collect();
    let local = addresses.iter().all(|address| address.ip().to_canonical().is_loopback());
    if !local && !remote {
        return Err(Error::Usage(format!(
            "{authority} is not on this machine: a load can take a server down; give --remote if it is yours to load"
        )));
    }
    let first = addresses.first().ok_or_else(|| Error::Usage(format!("{authority}: no such host")))?;
    Ok((*first, authority.to_owned()))
}

/// Messages as the bytes they are.
struct AsBytes;

impl Codec for AsBytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsBytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for AsBytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
