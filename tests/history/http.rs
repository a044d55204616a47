//! Watches over HTTP, recorded as those over gRPC are: as server-sent events, or as a chain of long polls, each of which
//! is a stream of its own that the client leaves. JSON becomes the messages of the API again, so that every checker
//! judges them alike. Adds nothing else: no retries, no redialling.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use onair::proto::{Selector, WatchRequest, WatchResponse};
use tokio::net::TcpStream;
use tonic::{Status, transport::Endpoint};

use super::{
    Client, End, Opening, Recorder, StreamId, Watched,
    json::{message, of_message, status},
    sse::{Block, Parser},
};

/// How to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// gRPC.
    Grpc,
    /// Server-sent events.
    Events,
    /// Long polls that are held for so long.
    Poll(Duration),
}

/// A recorded client over HTTP, with a connection of its own.
pub struct HttpClient {
    address: SocketAddr,
    connection: SendRequest<Full<Bytes>>,
    recorder: Recorder,
}

impl HttpClient {
    /// Of the server there.
    pub async fn connect(address: SocketAddr, recorder: Recorder) -> Result<Self, Status> {
        let stream = TcpStream::connect(address).await.map_err(cut)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
        // It ends with its last request; how, the request's answer says.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { address, connection: sender, recorder })
    }

    /// Opens a watch as server-sent events; a refusal is recorded as the stream's end.
    pub async fn events(mut self, request: WatchRequest) -> Result<Events, Status> {
        let id = self.recorder.open(Opening::Watch(request.clone()));
        let mut asked = asked(&request, None);
        asked.headers_mut().insert(header::ACCEPT, "text/event-stream".parse().unwrap());
        match send(&mut self.connection, asked).await {
            Ok(response) => {
                assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
                assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
                let (body, parser) = (response.into_body(), Parser::default());
                Ok(Events { client: self, body, parser, blocks: VecDeque::new(), id, ended: false })
            }
            Err(status) => {
                self.recorder.ended(id, End::Error(status.clone()));
                Err(status)
            }
        }
    }

    /// A chain of long polls, each of which is held for `wait` if need be. It goes on until one of them fails.
    pub fn polls(self, request: WatchRequest, wait: Duration) -> Polls {
        Polls { client: self, request, wait, given: VecDeque::new() }
    }
}

/// What the transport says, as a status that no server made.
fn cut(error: impl std::error::Error + Send + Sync + 'static) -> Status {
    Status::from_error(Box::new(error))
}

/// The answer, if it is none of a problem.
async fn send(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Status> {
    let response = connection.send_request(request).await.map_err(cut)?;
    if response.status().is_success() {
        return Ok(response);
    }
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let body = response.into_body().collect().await.map_err(cut)?.to_bytes();
    Err(status(std::str::from_utf8(&body).expect("JSON is UTF-8")))
}

/// The request of a watch, as people would write it: by the path if that can say it. A poll has a time to wait.
fn asked(request: &WatchRequest, wait: Option<Duration>) -> Request<Full<Bytes>> {
    let token = &request.resume_token;
    let wait = wait.map(|wait| format!("{}.{:03}s", wait.as_secs(), wait.subsec_millis()));
    let [selector] = request.selectors.as_slice() else {
        let mut body = of_message("WatchRequest", request);
        if let Some(wait) = wait {
            body["wait"] = wait.into();
        }
        let asked = Request::post("/v1/watch").header(header::HOST, "localhost");
        let asked = asked.header(header::CONTENT_TYPE, "application/json");
        return asked.body(Full::from(body.to_string())).unwrap();
    };
    let Selector { namespace, service, version, selector, frontend, published, service_prefix } = selector;
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let mut target = format!("/v1/namespaces/{}", percent(namespace));
    if !service.is_empty() {
        target.push_str(&format!("/services/{}", percent(service)));
    }
    target.push_str("/watch");
    let in_query = if wait.is_some() { token } else { "" };
    let wait = wait.unwrap_or_default();
    let variables = [
        ("version", version.as_str()),
        ("selector", selector),
        ("frontend", frontend),
        ("published", if *published { "true" } else { "" }),
        ("service_prefix", service_prefix),
        ("summaries", if request.summaries { "true" } else { "" }),
        ("resume_token", in_query),
        ("wait", &wait),
    ];
    for (number, (name, value)) in variables.into_iter().filter(|(_, value)| !value.is_empty()).enumerate() {
        target.push_str(&format!("{}{name}={}", if number == 0 { '?' } else { '&' }, percent(value)));
    }
    let asked = Request::get(target).header(header::HOST, "localhost");
    let asked = if in_query.is_empty() && !token.is_empty() { asked.header("last-event-id", token) } else { asked };
    asked.body(Full::default()).unwrap()
}

/// Every byte but letters and digits percent-encoded.
fn percent(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// What a block says.
#[derive(Debug)]
pub enum Said {
    /// A message, with the token that the `id` is.
    Message(WatchResponse),
    /// Why the stream ends.
    End(Status),
    /// Nothing of the watch.
    Nothing,
}

/// Reads a block as the protocol has it.
///
/// # Errors
/// What is not so.
pub fn said(block: &Block) -> Result<Said, String> {
    let Block { data, kind, id, comments, .. } = block;
    if !kind.is_empty() {
        return Err(format!("an event of the type {kind}, which `onmessage` does not hear"));
    }
    let (text, bookmark) = match (data, comments.as_slice()) {
        (Some(data), []) => (data, false),
        (None, [comment]) if id.is_some() => (comment, true),
        (None, [comment]) => return Ok(Said::End(status(comment))),
        (None, []) if id.is_none() => return Ok(Said::Nothing),
        _ => return Err(format!("{block:?} is neither an event, nor a bookmark, nor an end")),
    };
    let message: WatchResponse = message("WatchResponse", text)?;
    let quiet = message.events.is_empty() && message.frontends.is_empty() && message.reset.is_none();
    let is_bookmark = quiet && !message.more && !message.snapshot_end;
    if is_bookmark != bookmark {
        return Err(format!("a bookmark is a comment, and nothing else is: {block:?}"));
    }
    if message.resume_token != id.as_deref().unwrap_or_default() {
        return Err(format!("the id {id:?} is not the message's token `{}`", message.resume_token));
    }
    if id.as_deref() == Some("") {
        return Err("an empty id takes the place to continue from away".to_owned());
    }
    Ok(Said::Message(message))
}

/// A watch as server-sent events. Dropping it is the client's leaving.
pub struct Events {
    client: HttpClient,
    body: Incoming,
    parser: Parser,
    blocks: VecDeque<Block>,
    id: StreamId,
    ended: bool,
}

impl Events {
    /// The next message; None once the end was told.
    pub async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        if self.ended {
            return None;
        }
        let status = loop {
            if let Some(block) = self.blocks.pop_front() {
                match said(&block).unwrap_or_else(|fault| panic!("{fault}")) {
                    Said::Message(message) => {
                        self.client.recorder.message(self.id, message.clone());
                        return Some(Ok(message));
                    }
                    Said::End(status) => break status,
                    Said::Nothing => {}
                }
                continue;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.blocks.extend(self.parser.feed(&data));
                }
                Some(Err(error)) => break cut(error),
                None => break cut(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        };
        self.ended = true;
        self.client.recorder.ended(self.id, End::Error(status.clone()));
        Some(Err(status))
    }

    /// What a browser would continue with.
    pub fn last_event_id(&self) -> &str {
        self.parser.last_event_id()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.client.recorder.ended(self.id, End::ByClient);
    }
}

/// A chain of long polls.
pub struct Polls {
    client: HttpClient,
    request: WatchRequest,
    wait: Duration,
    /// Of the last poll, and not yet taken.
    given: VecDeque<WatchResponse>,
}

impl Polls {
    /// The next message.
    pub async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        loop {
            if let Some(message) = self.given.pop_front() {
                return Some(Ok(message));
            }
            // A connection on which nothing is asked for a while is closed.
            if self.client.connection.ready().await.is_err() {
                match HttpClient::connect(self.client.address, self.client.recorder.clone()).await {
                    Ok(client) => self.client = client,
                    Err(status) => return Some(Err(status)),
                }
            }
            let id = self.client.recorder.open(Opening::Watch(self.request.clone()));
            match self.poll().await {
                Ok(messages) => {
                    for message in &messages {
                        self.client.recorder.message(id, message.clone());
                    }
                    self.client.recorder.ended(id, End::ByClient);
                    self.given = messages.into();
                }
                Err(status) => {
                    self.client.recorder.ended(id, End::Error(status.clone()));
                    return Some(Err(status));
                }
            }
        }
    }

    /// What one poll gives; what it only reached is as a bookmark would be.
    async fn poll(&mut self) -> Result<Vec<WatchResponse>, Status> {
        let response = send(&mut self.client.connection, asked(&self.request, Some(self.wait))).await?;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let body = response.into_body().collect().await.map_err(cut)?.to_bytes();
        let body = std::str::from_utf8(&body).expect("JSON is UTF-8");
        let polled: onair::proto::WatchPoll = message("WatchPoll", body).unwrap();
        assert_ne!(polled.resume_token, "", "a poll says where to continue");
        let onair::proto::WatchPoll { mut responses, resume_token, revision } = polled;
        if responses.last().is_none_or(|last| last.resume_token != resume_token) {
            let resume_token = resume_token.clone();
            responses.push(WatchResponse { revision, resume_token, ..WatchResponse::default() });
        }
        self.request.resume_token = resume_token;
        Ok(responses)
    }
}

/// A watch, whichever way.
pub enum AnyWatched {
    Grpc(Watched),
    Events(Box<Events>),
    Polls(Box<Polls>),
}

impl AnyWatched {
    /// Opens a watch on a connection of its own; None if nobody answers there.
    pub async fn open(
        way: Way,
        address: SocketAddr,
        recorder: &Recorder,
        request: WatchRequest,
    ) -> Option<Result<Self, Status>> {
        if way == Way::Grpc {
            let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.ok()?;
            return Some(Client::new(channel, recorder.clone()).watch(request).await.map(Self::Grpc));
        }
        let client = HttpClient::connect(address, recorder.clone()).await.ok()?;
        Some(match way {
            Way::Poll(wait) => Ok(Self::Polls(Box::new(client.polls(request, wait)))),
            _ => client.events(request).await.map(Box::new).map(Self::Events),
        })
    }

    /// The next message; None after an end with OK.
    pub async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        match self {
            Self::Grpc(watched) => watched.next().await,
            Self::Events(events) => events.next().await,
            Self::Polls(polls) => polls.next().await,
        }
    }
}
