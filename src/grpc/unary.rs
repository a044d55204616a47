//! Calls with one message each way: read where it lies, answered as one frame. No stream is made of a single message, and
//! what is large and shared is not copied. Whatever does not come as nearly all clients send it (compressed, in pieces,
//! with trailers) is left to the generated service, as streams are. Knows nothing of what messages say.

use std::{
    array,
    convert::Infallible,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec::IntoIter,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE, request::Parts};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::{Status, body::Body, metadata::MetadataMap, server::NamedService};
use tower::Service;

use super::{
    Answering, RegistryService, codec, raw,
    server::registry_server::{Registry, RegistryServer},
    status,
};
use crate::{
    framed::{self, Framed},
    metrics::Front,
};

/// How the paths of its calls begin.
const SERVICE: &str = "/onair.v1.Registry/";
/// What is shared and at least as large is sent from where it is: a copy costs less than frames of its own below that.
const SHARED_MIN: usize = 16 * 1024;
/// How a message is compressed that says it is.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// `onair.v1.Registry`, as it is served. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unary(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Arc<RegistryService>,
    generated: RegistryServer<RegistryService>,
    max_message_bytes: usize,
}

impl Unary {
    /// Over `service`, whose requests are at most `max_message_bytes` long.
    #[must_use]
    pub fn new(service: RegistryService, max_message_bytes: usize) -> Self {
        let service = Arc::new(service);
        let generated = RegistryServer::from_arc(Arc::clone(&service)).max_decoding_message_size(max_message_bytes);
        Self(Arc::new(Inner { service, generated, max_message_bytes }))
    }
}

impl NamedService for Unary {
    const NAME: &'static str = RegistryServer::<RegistryService>::NAME;
}

/// A call to each of these methods, whose replies are put on the wire as it says; any other to the generated service.
macro_rules! call {
    ($this:expr, $request:ident, $($name:literal => $method:ident, $pieces:path;)+) => {
        // The whole path: rights, audit and measures know a call by it, and another is none of these calls.
        match $request.uri().path().strip_prefix(SERVICE).unwrap_or_default() {
            $($name => {
                let this = $this;
                Box::pin(async move {
                    let (parts, mut body) = $request.into_parts();
                    let message = match this.only_message(&parts.headers, &mut body).await {
                        Ok(message) => message,
                        Err(seen) => {
                            let body = Body::new(Replayed { seen: seen.into_iter(), rest: body });
                            return this.generated.clone().call(Request::from_parts(parts, body)).await;
                        }
                    };
                    // It is read to its end; what it lies in is not to be kept for as long as the call may wait.
                    drop(body);
                    // By HTTP and gRPC-Web a message is to be in one piece.
                    let to_wire = parts.extensions.get::<Front>().is_none();
                    let answer = match Message::decode(message) {
                        Ok(message) => this.service.$method(asked(parts, message)).await,
                        Err(error) => Err(codec::unreadable(&error)),
                    };
                    Ok(answer.map_or_else(Status::into_http, |answer| answered(answer, |reply| $pieces(reply, to_wire))))
                })
            })+
            _ => $this.generated.clone().call($request),
        }
    };
}

impl Service<Request<Body>> for Unary {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        call! { Arc::clone(&self.0), request,
            "Heartbeat" => beaten, whole;
            "Lookup" => looked_up, shared;
            "Register" => register, whole;
            "Deregister" => deregister, whole;
            "GetInstance" => get_instance, whole;
            "Resolve" => resolve, whole;
        }
    }
}

impl Inner {
    /// All that a body has, if that is one frame with a message as it is; else what was read of it.
    async fn only_message(&self, headers: &HeaderMap, body: &mut Body) -> Result<Bytes, Vec<Read>> {
        if headers.contains_key(ENCODING) {
            return Err(Vec::new());
        }
        let mut only: Option<(Read, Bytes)> = None;
        while let Some(read) = body.frame().await {
            let data = read.as_ref().ok().and_then(Frame::data_ref);
            // Many clients end with a frame that has nothing in it.
            if data.is_none_or(|data| !data.is_empty()) {
                match data.and_then(|data| self.message(data)).filter(|_| only.is_none()) {
                    Some(message) => only = Some((read, message)),
                    None => return Err(only.map(|(first, _)| first).into_iter().chain([read]).collect()),
                }
            }
            if body.is_end_stream() {
                break;
            }
        }
        only.map(|(_, message)| message).ok_or_else(Vec::new)
    }

    /// The message that some data are, and nothing more.
    fn message(&self, data: &Bytes) -> Option<Bytes> {
        framed::only(data).filter(|message| message.len() <= self.max_message_bytes)
    }
}

type Read = Result<Frame<Bytes>, Status>;

/// A body of which something was read already.
struct Replayed {
    seen: IntoIter<Read>,
    rest: Body,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Read>> {
        match self.seen.next() {
            Some(seen) => Poll::Ready(Some(seen)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.seen.as_slice().is_empty() && self.rest.is_end_stream()
    }
}

/// A request as handlers have it.
fn asked<T>(parts: Parts, message: T) -> tonic::Request<T> {
    tonic::Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, message)
}

/// What goes to the wire of a reply, in order: none of it is copied again.
type Pieces = [Bytes; 3];

/// A reply in one piece.
#[expect(clippy::needless_pass_by_value, reason = "as the others")]
fn whole<T: Message>(reply: T, _: bool) -> Pieces {
    [Framed::encoded(&reply).into_bytes(), Bytes::new(), Bytes::new()]
}

/// A reply of which others may have the same.
fn shared(reply: raw::LookupResponse, to_wire: bool) -> Pieces {
    if !to_wire || reply.shared.len() < SHARED_MIN {
        return whole(reply, to_wire);
    }
    [framed::head(reply.encoded_len()).to_vec().into(), reply.shared, reply.own.into()]
}

/// An answer with its reply.
fn answered<T>(answer: tonic::Response<T>, pieces: impl FnOnce(T) -> Pieces) -> Response<Body> {
    let (metadata, reply, extensions) = answer.into_parts();
    let reply = Reply { pieces: pieces(reply).into_iter(), is_ended: false };
    let mut response = Response::new(Body::new(reply));
    *response.headers_mut() = metadata.into_headers();
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    *response.extensions_mut() = extensions;
    response
}

/// A reply on its way, and that all went well.
struct Reply {
    pieces: array::IntoIter<Bytes, 3>,
    is_ended: bool,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Read>> {
        if let Some(piece) = self.pieces.find(|piece| !piece.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if mem::replace(&mut self.is_ended, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(status::trailers(&Status::ok(""))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::StreamBody;
    use uuid::Uuid;

    use super::*;
    use crate::{
        actor::{ActorOptions, RegistryHandle},
        engine::memory::MemoryEngine,
        grpc::{ServiceOptions, registry::fixed_limits},
        proto::{self, LookupRequest, RegisterRequest},
    };

    const MAX: usize = 4_000;

    fn service() -> RegistryService {
        let recovered = MemoryEngine::recovered(Uuid::nil(), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        let limits = proto::Limits { max_beats: 10, ..fixed_limits() };
        let restart_grace = Duration::ZERO;
        RegistryService::new(handle, ServiceOptions { limits, restart_grace, durable: false, members: Vec::new() })
    }

    fn request(method: &str, frames: Vec<Read>) -> Request<Body> {
        let request = Request::post(format!("/onair.v1.Registry/{method}")).version(http::Version::HTTP_2);
        request.body(Body::new(StreamBody::new(tokio_stream::iter(frames)))).expect("a request")
    }

    fn framed(message: &impl Message) -> Bytes {
        Framed::encoded(message).into_bytes()
    }

    /// Its headers, its pieces, and its trailers.
    type Answered = (HeaderMap, Vec<Bytes>, Option<HeaderMap>);

    async fn answer(
        mut service: impl Service<Request<Body>, Response = Response<Body>>,
        asked: Request<Body>,
    ) -> Answered {
        let Ok(response) = service.call(asked).await else { panic!("it never fails") };
        let (parts, mut body) = response.into_parts();
        let (mut pieces, mut trailers) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            match frame.expect("a frame").into_data() {
                Ok(data) => pieces.push(data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert!(body.is_end_stream());
        (parts.headers, pieces, trailers)
    }

    async fn register(service: &Unary, id: usize, tag: &str) {
        let metadata = Some(prost_types::Value::from(tag.to_owned()));
        let instance = proto::Instance {
            service: "web".into(),
            id: format!("web-{id}"),
            host: "10.0.0.1".into(),
            port: 80,
            metadata,
            ..Default::default()
        };
        let message = RegisterRequest { instance: Some(instance), ..Default::default() };
        let (_, pieces, trailers) = answer(service.clone(), request("Register", vec![data(framed(&message))])).await;
        assert_eq!((pieces.len(), trailers.map(|all| all["grpc-status"] == "0")), (1, Some(true)));
    }

    fn data(bytes: impl Into<Bytes>) -> Read {
        Ok(Frame::data(bytes.into()))
    }

    /// How a body comes, of some parts.
    type Form = fn(&[&[u8]]) -> Vec<Read>;

    /// Whatever a client sends is answered as the generated service answers it.
    #[tokio::test]
    async fn however_a_request_comes_its_answer_is_the_same() {
        let service = service();
        let generated = RegistryServer::new(service.clone()).max_decoding_message_size(MAX);
        let unary = Unary::new(service, MAX);
        register(&unary, 1, "").await;
        let asks = framed(&LookupRequest { service: "web".into(), ..Default::default() });
        let large = framed(&LookupRequest { service: "w".repeat(MAX), ..Default::default() });
        let (first, second) = asks.split_at(7);
        let twice = [&asks[..], &asks].concat();
        let mut compressed = asks.to_vec();
        compressed[0] = 1;
        let forms: [Form; 16] = [
            |of| vec![data(of[0].to_vec())],
            |of| vec![data(of[0].to_vec()), data(Bytes::new())],
            |of| vec![data(Bytes::new()), data(of[0].to_vec()), data(Bytes::new()), data(Bytes::new())],
            |of| vec![data(of[0].to_vec()), data(Bytes::new()), data(of[0].to_vec())],
            |of| vec![data(of[1].to_vec()), data(of[2].to_vec())],
            |of| vec![data(of[0].to_vec()), data(of[0].to_vec())],
            |of| vec![data(of[3].to_vec())],
            |of| vec![data(of[4].to_vec())],
            |of| vec![data(of[5].to_vec())],
            |of| vec![data(of[1].to_vec())],
            |of| vec![data(of[0].to_vec()), Ok(Frame::trailers(HeaderMap::new()))],
            |of| vec![data(of[0].to_vec()), Err(Status::cancelled("gone"))],
            |_| vec![data(&b"\0\0\0\0\x02\xff\xff"[..])],
            |_| vec![data(Bytes::new())],
            |_| vec![Err(Status::deadline_exceeded("slow"))],
            |_| Vec::new(),
        ];
        let parts: [&[u8]; 6] = [&asks, first, second, &twice, &compressed, &large];
        for (place, form) in forms.iter().enumerate() {
            for method in ["Lookup", "Heartbeat", "Watch", "None", "/Lookup", "x/Lookup", "Lookup/"] {
                let ours = answer(unary.clone(), request(method, form(&parts))).await;
                let theirs = answer(generated.clone(), request(method, form(&parts))).await;
                assert_eq!(ours, theirs, "{method}, form {place}");
            }
        }
        let mut gzip = request("Lookup", vec![data(asks)]);
        gzip.headers_mut().insert(ENCODING, HeaderValue::from_static("gzip"));
        let (headers, ..) = answer(unary, gzip).await;
        assert_eq!(Status::from_header_map(&headers).map(|status| status.code()), Some(tonic::Code::Unimplemented));
    }

    /// A large reply is sent from where it lies, but in one piece where somebody translates it.
    #[tokio::test]
    async fn what_is_shared_is_not_copied() {
        let unary = Unary::new(service(), MAX);
        for id in 0..20 {
            register(&unary, id, &"x".repeat(1_000)).await;
        }
        let asks =
            || request("Lookup", vec![data(framed(&LookupRequest { service: "web".into(), ..Default::default() }))]);
        let (_, one, _) = answer(unary.clone(), asks()).await;
        let (_, other, _) = answer(unary.clone(), asks()).await;
        assert_eq!((one.len(), &one), (3, &other));
        assert_eq!(one[1].as_ptr(), other[1].as_ptr(), "each has a copy");
        let mut translated = asks();
        translated.extensions_mut().insert(Front::GrpcWeb);
        let (_, whole, _) = answer(unary, translated).await;
        assert_eq!(whole, [Bytes::from(one.concat())]);
        let reply = proto::LookupResponse::decode(&whole[0][framed::HEAD..]).expect("a reply");
        assert_eq!(reply.instances.len(), 20);
    }
}
