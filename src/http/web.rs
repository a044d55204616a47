//! gRPC-Web: calls of gRPC as browsers can make them, over HTTP/1.1 and HTTP/2, binary and as text. A call is read whole,
//! in time and within the limit, and goes the way of any other. Knows no method.

use axum::body::Body as AnyBody;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::Full;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer as _, ServiceExt as _};

use super::body;
use crate::{
    framed,
    grpc::{
        Dispatch, deadline,
        status::{self, Reason},
    },
};

/// The forms there are, and how each is written.
const BINARY: [&str; 2] = ["application/grpc-web", "application/grpc-web+proto"];
const TEXT: [&str; 2] = ["application/grpc-web-text", "application/grpc-web-text+proto"];
/// What the layer that reads the calls says before its own complaints.
const COMPLAINT: &str = "tonic-web: ";

/// How a request of gRPC-Web is written, and how its answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form(&'static str);

impl Form {
    /// That of a request, if it is one of gRPC-Web.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::read(headers.get(header::CONTENT_TYPE)?)
    }

    fn read(kind: &HeaderValue) -> Option<Self> {
        let kind = kind.to_str().ok()?.split(';').next()?.trim();
        BINARY.into_iter().chain(TEXT).find(|known| known.eq_ignore_ascii_case(kind)).map(Self)
    }

    /// How the answer is wanted: as the request is written, unless it says otherwise.
    fn of_answer(self, headers: &HeaderMap) -> Self {
        headers.get(header::ACCEPT).and_then(Self::read).unwrap_or(self)
    }

    fn is_text(self) -> bool {
        TEXT.contains(&self.0)
    }

    /// The answer of a call that comes to nothing.
    #[must_use]
    pub fn refusal(self, status: &Status) -> Response<Body> {
        let mut response = status.clone().into_http::<Body>();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.0));
        response
    }
}

/// The gRPC services as gRPC-Web.
#[derive(Clone, Debug)]
pub struct Web {
    services: GrpcWebService<Dispatch>,
    max_message_bytes: usize,
}

impl Web {
    /// These services; a message has at most so many bytes.
    #[must_use]
    pub fn new(services: Dispatch, max_message_bytes: usize) -> Self {
        Self { services: GrpcWebLayer::new().layer(services), max_message_bytes }
    }

    /// Answers a call. Any method but POST is for the caller to refuse.
    pub async fn call(&self, form: Form, request: Request<AnyBody>) -> Response<Body> {
        let answer_form = form.of_answer(request.headers());
        let answer = self.ask(form, answer_form, request).await;
        answer.unwrap_or_else(|status| answer_form.refusal(&status))
    }

    async fn ask(&self, form: Form, answer_form: Form, request: Request<AnyBody>) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        if !body::is_plain(&parts.headers) {
            return Err(status::plain(Reason::UnsupportedMediaType, "a body is sent as it is: no Content-Encoding"));
        }
        let limit = framed::HEAD + self.max_message_bytes;
        let limit = if form.is_text() { limit.div_ceil(3) * 4 } else { limit };
        let mut message = body::read(body, limit).await.map_err(|status| self.as_message(status))?;
        if form.is_text() {
            message = decode(&message)?;
        }
        // As text it would have to be in one piece.
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(BINARY[0]));
        parts.headers.insert(header::ACCEPT, HeaderValue::from_static(answer_form.0));
        parts.extensions.insert(crate::metrics::Front::GrpcWeb);
        let time = deadline::timeout(&parts.headers);
        let call = self.services.clone().oneshot(Request::from_parts(parts, Full::new(message)));
        let response = match time {
            Some(time) => timeout(time, call).await.map_err(|_| status::out_of_time())?,
            None => call.await,
        };
        let Ok(response) = response;
        let told = Status::from_header_map(response.headers());
        match told.as_ref().and_then(|status| status.message().strip_prefix(COMPLAINT)) {
            Some(complaint) => Err(malformed(&complaint)),
            None => Ok(response),
        }
    }

    /// The limit that is told is that of messages.
    fn as_message(&self, status: Status) -> Status {
        let is_large = status.code() == Code::ResourceExhausted;
        if is_large { status::too_large(self.max_message_bytes as u64) } else { status }
    }
}

/// What base64 says, in one piece or in several, each padded by itself, as frames are when each is sent as it comes.
fn decode(text: &[u8]) -> Result<Bytes, Status> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len() / 4 * 3), text);
    while !rest.is_empty() {
        let padding = rest.iter().position(|byte| *byte == b'=');
        let piece = rest.len().min(padding.map_or(usize::MAX, |at| (at / 4 + 1) * 4));
        let (piece, after) = rest.split_at(piece);
        BASE64_STANDARD.decode_vec(piece, &mut bytes).map_err(|error| malformed(&error))?;
        rest = after;
    }
    Ok(bytes.into())
}

fn malformed(complaint: &dyn std::fmt::Display) -> Status {
    status::plain(Reason::Malformed, format!("the body is no gRPC-Web: {complaint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_may_come_in_pieces() {
        for (text, bytes) in [
            ("", Some("")),
            ("YQ==", Some("a")),
            ("YQ==YmM=", Some("abc")),
            ("YWJjZA==ZQ==Zmdo", Some("abcdefgh")),
            ("YQ", None),
            ("YQ==YQ", None),
            ("YQ==Y", None),
            ("Y=Q=", None),
            ("=", None),
            ("YQ=======", None),
            ("Y Q==", None),
        ] {
            assert_eq!(decode(text.as_bytes()).ok().as_deref(), bytes.map(str::as_bytes), "{text}");
        }
    }
}
