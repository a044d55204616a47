//! Of which answers a line of the audit log is written, and with which revision. What an answer says is read as it passes;
//! nothing of it is changed or kept.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::Response;
use http_body::{Frame, SizeHint};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::DescriptorPool;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;

use crate::{access::audit, framed, metrics::Rpc};

/// Writes what there is to write of an answer: at once if it is a refusal, else as it passes. What is left belongs to the
/// stream, which may be ended yet.
pub(super) fn of_answer(
    response: Response<Body>,
    entry: audit::Request,
    path: &str,
) -> (Response<Body>, Option<audit::Request>) {
    if let Some(status) = Status::from_header_map(response.headers()) {
        refused(entry, &status);
        return (response, None);
    }
    if !entry.is_change() {
        return (response, Some(entry));
    }
    let field = if Rpc::of_path(path).is_stream() { None } else { revision_field(path) };
    let is_stream = Rpc::of_path(path).is_stream();
    (response.map(|body| Body::new(Entered { body, entry: Some(entry), field, is_stream })), None)
}

/// Writes how a request was refused.
pub(super) fn refused(entry: audit::Request, status: &Status) {
    if status.code() == Code::Ok {
        return entry.done(None);
    }
    let info = status.get_details_error_info();
    let permission = info.as_ref().and_then(|info| info.metadata.get("permission")).map_or("", String::as_str);
    match &info {
        Some(info) => entry.refused(&info.reason, permission),
        None => entry.refused(&format!("{:?}", status.code()), ""),
    }
}

/// An answer to a change.
struct Entered {
    body: Body,
    /// None: its line was written.
    entry: Option<audit::Request>,
    /// The field of the reply that has the revision.
    field: Option<u32>,
    is_stream: bool,
}

impl http_body::Body for Entered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let status = frame.trailers_ref().and_then(Status::from_header_map);
            match (status, frame.data_ref()) {
                (Some(status), _) => {
                    if let Some(entry) = self.entry.take() {
                        refused(entry, &status);
                    }
                }
                (None, Some(data)) if !self.is_stream => {
                    let revision = self.field.and_then(|field| number(data.get(framed::HEAD..)?, field));
                    if let Some(entry) = self.entry.take() {
                        entry.done(revision);
                    }
                }
                _ => {}
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The number that a message has in a field, as far as the message is there.
fn number(mut message: &[u8], field: u32) -> Option<u64> {
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message).ok()?;
        if tag == field && wire_type == WireType::Varint {
            return decode_varint(&mut message).ok();
        }
        skip_field(wire_type, tag, &mut message, DecodeContext::default()).ok()?;
    }
    None
}

/// The field `revision` of a call's reply.
fn revision_field(path: &str) -> Option<u32> {
    static FIELDS: OnceLock<HashMap<String, u32>> = OnceLock::new();
    let fields = FIELDS.get_or_init(|| {
        let pool = DescriptorPool::decode(crate::proto::BARE_DESCRIPTORS).unwrap_or_default();
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let field = |method: prost_reflect::MethodDescriptor| {
            let field = method.output().get_field_by_name("revision")?;
            Some((format!("/{}/{}", method.parent_service().full_name(), method.name()), field.number()))
        };
        methods.filter_map(field).collect()
    });
    fields.get(path).copied()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{
        access::{RPCS, audit::is_change},
        proto::{RegisterResponse, RevokeTokenResponse},
    };

    #[test]
    fn a_reply_to_a_change_has_its_revision() {
        for (path, rule) in RPCS.iter().filter(|(path, rule)| is_change(path, rule) && !Rpc::of_path(path).is_stream())
        {
            assert!(revision_field(path).is_some(), "{path} {rule:?}");
        }
        let reply = RegisterResponse {
            dependencies: [("db".to_owned(), "http://db".to_owned())].into(),
            revision: 1 << 40,
            ..Default::default()
        };
        let field = revision_field("/onair.v1.Registry/Register").expect("a field");
        assert_eq!(number(&reply.encode_to_vec(), field), Some(1 << 40));
        let field = revision_field("/onair.v1.Admin/RevokeToken").expect("a field");
        assert_eq!(number(&RevokeTokenResponse { revision: 7 }.encode_to_vec(), field), Some(7));
        // What is cut off has none.
        assert_eq!((number(&[0x0a, 0x7f], 3), number(&[0xff], 3), number(&[], 3)), (None, None, None));
    }
}
