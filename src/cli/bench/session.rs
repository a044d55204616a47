//! The server that is measured, and what every job does with it: connect, ask who it is, learn why a call failed.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, BufMut as _};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::client::TlsStream;
use tokio_stream::once;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{InterceptedService, http::uri::PathAndQuery},
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{
    Error, Options,
    floor::ECHO,
    measure::{Process, Progress},
    socket::Socket,
    wire::{Caller, Wire, framed},
};
use crate::{
    client::{Tls, Token},
    framed::HEAD,
    proto::{GetServerInfoRequest, GetServerInfoResponse, bench::EchoRequest, registry_client::RegistryClient},
    tls::{ClientTls, explain},
};

/// How long a call outside the measurements may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the load goes.
pub(super) struct Target {
    address: SocketAddr,
    /// Whom requests are for, and from.
    pub(super) caller: Caller,
    /// How TLS is spoken, if it is.
    tls: Option<Secured>,
}

/// The host as certificates have it, and how TLS is spoken by each protocol.
#[derive(Clone)]
struct Secured {
    host: String,
    http2: ClientTls,
    http1: ClientTls,
}

impl Secured {
    fn new(authority: &str, tls: &Tls) -> Result<Self, Error> {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let http1 = tls.files.load("http/1.1");
        let http1 = http1
            .map_err(|wrong| Error::Usage(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let http2 = tls.now().map_err(|error| Error::Usage(error.to_string()))?;
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), http2, http1 })
    }
}

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Target {
    /// A connection for calls of one method.
    pub(super) async fn connect(&self, path: &str) -> Result<(Socket, Wire), Error> {
        let socket = match &self.tls {
            None => Socket::Plain(self.tcp().await?),
            Some(tls) => self.handshake(tls, &tls.http2).await?.into(),
        };
        Ok((socket, Wire::new(&self.caller, path)))
    }

    /// A connection for HTTP/1.1.
    pub(super) async fn stream(&self) -> Result<Box<dyn Duplex>, Error> {
        Ok(match &self.tls {
            None => Box::new(self.tcp().await?),
            Some(tls) => Box::new(self.handshake(tls, &tls.http1).await?),
        })
    }

    async fn handshake(&self, tls: &Secured, protocol: &ClientTls) -> Result<TlsStream<TcpStream>, Error> {
        let made = protocol.connect(&tls.host, self.tcp().await?).await;
        made.map_err(|error| {
            let error = explain(&error).map_or(error, io::Error::other);
            Error::Connect(self.caller.authority.clone(), error)
        })
    }

    async fn tcp(&self) -> Result<TcpStream, Error> {
        let failed = |error| Error::Connect(self.caller.authority.clone(), error);
        let socket = TcpStream::connect(self.address).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        Ok(socket)
    }
}

/// One run against one server.
#[derive(Clone)]
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
    proof: Proof,
}

/// A channel whose calls say who makes them.
pub(super) type Calls = InterceptedService<Channel, Proof>;

/// What each call proves who makes it with, if anything.
#[derive(Clone)]
pub(super) struct Proof(Option<MetadataValue<Ascii>>);

impl Interceptor for Proof {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(proof) = &self.0 {
            request.metadata_mut().insert("authorization", proof.clone());
        }
        Ok(request)
    }
}

/// What the server is shown.
#[derive(Clone, Copy, Default)]
pub(super) struct Shown<'a> {
    /// How TLS is spoken, if it is.
    pub(super) tls: Option<&'a Tls>,
    /// Who calls.
    pub(super) token: Option<&'a Token>,
}

impl Session {
    /// Connects and asks the server who it is.
    pub(super) async fn open(url: &str, shown: Shown<'_>, namespace: String, options: Options) -> Result<Self, Error> {
        let mut session = Self::connect(url, shown, namespace, options).await?;
        let info = session.client().get_server_info(GetServerInfoRequest {}).await;
        session.info = info.map_err(|status| Error::Call("ask the server who it is", Box::new(status)))?.into_inner();
        Ok(session)
    }

    /// Connects, and finds out whether the floor is there.
    pub(super) async fn connect(
        url: &str,
        shown: Shown<'_>,
        namespace: String,
        options: Options,
    ) -> Result<Self, Error> {
        let (address, authority) = resolve(url, options.remote).await?;
        if let Some(pid) = options.server_pid
            && Process(pid).memory().is_none()
        {
            return Err(Error::Usage(format!("--server-pid {pid}: there is no such process, or not on Linux")));
        }
        let tls = shown.tls.map(|tls| Secured::new(&authority, tls)).transpose()?;
        let protocol = if tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{protocol}://{authority}"))
            .map_err(|error| Error::Usage(format!("{url}: {error}")))?
            .connect_timeout(CALL_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        let proof = shown.token.map(Token::header);
        let authorization = proof.as_ref().and_then(|proof| proof.to_str().ok()).map(str::to_owned);
        let caller = Caller { authority, by_tls: tls.is_some(), authorization };
        let target = Arc::new(Target { address, caller, tls });
        // Only to say so in one sentence, before anything else fails in a longer one.
        target.connect(ECHO).await?;
        let channel = match target.tls {
            None => endpoint.connect_lazy(),
            Some(_) => endpoint.connect_with_connector_lazy(service_fn({
                let target = Arc::clone(&target);
                move |_| {
                    let target = Arc::clone(&target);
                    async move {
                        let Some(tls) = &target.tls else { return Err(Error::Stopped) };
                        target.handshake(tls, &tls.http2).await.map(TokioIo::new)
                    }
                }
            })),
        };
        let mut tag = [0; 4];
        getrandom::fill(&mut tag).map_err(|error| Error::Broken(io::Error::other(error.to_string())))?;
        let mut session = Self {
            target,
            options,
            namespace,
            progress: Progress::new(),
            run: format!("{:08x}", u32::from_be_bytes(tag)),
            has_floor: false,
            info: GetServerInfoResponse::default(),
            channel,
            proof: Proof(proof),
        };
        let echo = framed(&EchoRequest::default());
        session.has_floor = session.call(ECHO, &echo).await.is_ok();
        Ok(session)
    }

    fn calls(&self) -> Calls {
        InterceptedService::new(self.channel.clone(), self.proof.clone())
    }

    /// The same by who is let in nowhere: with the token that was given, but for one character of it; without one nothing
    /// is proved.
    pub(super) fn wrong(&self) -> Self {
        let target = &self.target;
        let authorization = target.caller.authorization.as_deref().map(tampered);
        let proof = authorization.as_ref().and_then(|text| MetadataValue::try_from(text).ok());
        let caller = Caller { authorization, ..target.caller.clone() };
        let target = Target { address: target.address, caller, tls: target.tls.clone() };
        Self { target: Arc::new(target), proof: Proof(proof), ..self.clone() }
    }

    /// A client for the calls that are not measured.
    pub(super) fn client(&self) -> RegistryClient<Calls> {
        RegistryClient::new(self.calls())
    }

    /// One line on what is measured.
    pub(super) fn describe(&self) -> String {
        let kept = if self.info.durable { "durable" } else { "not durable" };
        let floor = if self.has_floor { "with the floor" } else { "without the floor (serve --bench-floor)" };
        format!("onair {} at {}, {kept}, {floor}", self.info.version, self.target.caller.authority)
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
        let mut grpc = Grpc::new(self.calls()).max_decoding_message_size(16 << 20);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let body = message.get(HEAD..).unwrap_or_default().to_vec();
        let mut request = Request::new(once(body));
        request.set_timeout(CALL_TIMEOUT);
        let replies = grpc.streaming(request, PathAndQuery::from_static(path), AsBytes).await?;
        let reply = replies.into_inner().message().await?;
        reply.ok_or_else(|| Status::new(Code::Unknown, "it ended without a reply"))
    }
}

/// The same text with another character near its end: what a secret, or a signature, is not.
fn tampered(text: &str) -> String {
    let at = text.len().saturating_sub(10);
    let other = if text[at..].starts_with('A') { "B" } else { "A" };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

/// The address and the authority that a url stands for; loopback unless anything is allowed.
async fn resolve(url: &str, remote: bool) -> Result<(SocketAddr, String), Error> {
    let (protocol, rest) = url.trim().split_once("://").unwrap_or(("http", url.trim()));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if !["http", "https"].contains(&protocol) || authority.is_empty() || authority.contains([',', '@']) {
        return Err(Error::Usage(format!(
            "--url {url}: the load goes to one server, as http://host:port or https://host:port"
        )));
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

#[cfg(test)]
mod tests {
    use super::tampered;

    #[test]
    fn a_wrong_credential_is_as_long_as_the_right_one_and_another() {
        for good in
            ["Bearer onair_web_AAAAAAAAAAAAAAAAAAAAAAAAAAA", "Bearer onair_web_BBBBBBBBBBBBBBBBBBBB", "Bearer x"]
        {
            let wrong = tampered(good);
            let others = good.bytes().zip(wrong.bytes()).filter(|(one, other)| one != other).count();
            assert_eq!((others, wrong.len()), (1, good.len()), "{wrong}");
        }
    }
}
