//! A reply as JSON, written a piece at a time: the elements of its lists one by one, at the pace of whoever reads them. So
//! a large reply takes no more memory than one of its elements, and who writes it lets others have their turn. Knows no
//! message by name.

use std::{
    collections::{BTreeMap, btree_map},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use http_body::Frame;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{Kind, MessageDescriptor};
use tonic::Status;

use super::{transcode, turn::Turn};

/// Bytes of a part, and one element more. What is no larger as a message is written at once.
const PART_BYTES: usize = 16 * 1024;

/// The body that says `reply`, which is of this type. It ends a line, for those who read it on a terminal.
///
/// # Errors
/// INTERNAL, when it is not.
pub fn body(descriptor: &MessageDescriptor, reply: Bytes) -> Result<Body, Status> {
    if reply.len() <= PART_BYTES {
        let mut json = transcode::to_json(descriptor, &reply)?;
        json.push(b'\n');
        return Ok(Body::from(json));
    }
    let members = members(descriptor, reply).ok_or_else(|| transcode::unwritable(descriptor, &"it is cut off"))?;
    Ok(Body::new(Written { members: members.into_values(), list: None, phase: Phase::Begin, turn: Turn::default() }))
}

/// What a reply says with one of its fields.
enum Member {
    /// Its bytes, of a message that has no more.
    Plain(MessageDescriptor, Vec<u8>),
    /// The elements of a list of messages.
    List { name: String, descriptor: MessageDescriptor, elements: Vec<Bytes> },
}

/// The members, in the order of their numbers.
fn members(descriptor: &MessageDescriptor, mut reply: Bytes) -> Option<BTreeMap<u32, Member>> {
    let mut members = BTreeMap::new();
    while reply.has_remaining() {
        let field = reply.clone();
        let (number, wire_type) = decode_key(&mut reply).ok()?;
        let member = members.entry(number).or_insert_with(|| Member::of(descriptor, number));
        match member {
            Member::List { elements, .. } if wire_type == WireType::LengthDelimited => {
                let len = usize::try_from(decode_varint(&mut reply).ok()?).ok()?;
                if len > reply.len() {
                    return None;
                }
                elements.push(reply.split_to(len));
            }
            // Lists of messages have no other form.
            Member::List { .. } => return None,
            Member::Plain(_, bytes) => {
                skip_field(wire_type, number, &mut reply, DecodeContext::default()).ok()?;
                bytes.extend_from_slice(&field[..field.len() - reply.len()]);
            }
        }
    }
    Some(members)
}

impl Member {
    fn of(descriptor: &MessageDescriptor, number: u32) -> Self {
        let list = descriptor.get_field(number).filter(prost_reflect::FieldDescriptor::is_list);
        match list.as_ref().map(|field| (field, field.kind())) {
            Some((field, Kind::Message(element))) => {
                Self::List { name: field.json_name().to_owned(), descriptor: element, elements: Vec::new() }
            }
            _ => Self::Plain(descriptor.clone(), Vec::new()),
        }
    }
}

/// How far the writing is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was written.
    Begin,
    /// No member was written.
    First,
    /// More may follow.
    Members,
    /// All was written.
    End,
}

/// The body.
struct Written {
    members: btree_map::IntoValues<u32, Member>,
    /// What is left of the list that is being written.
    list: Option<(MessageDescriptor, vec::IntoIter<Bytes>)>,
    phase: Phase,
    turn: Turn,
}

impl Written {
    /// Writes the next piece.
    fn piece(&mut self, part: &mut Vec<u8>) -> Result<(), Status> {
        if let Some((descriptor, elements)) = &mut self.list {
            if let Some(element) = elements.next() {
                if !part.ends_with(b"[") {
                    part.push(b',');
                }
                part.extend(transcode::to_json(descriptor, &element)?);
            } else {
                part.push(b']');
                self.list = None;
            }
            return Ok(());
        }
        if self.phase == Phase::Begin {
            part.push(b'{');
            self.phase = Phase::First;
        }
        match self.members.next() {
            None => {
                part.extend(b"}\n");
                self.phase = Phase::End;
            }
            Some(Member::Plain(descriptor, bytes)) => {
                let json = transcode::to_json(&descriptor, &bytes)?;
                // In its braces; none, if it is one that this version does not know.
                let member = json.get(1..json.len() - 1).unwrap_or_default();
                if !member.is_empty() {
                    self.comma(part);
                    part.extend_from_slice(member);
                }
            }
            Some(Member::List { name, descriptor, elements }) => {
                self.comma(part);
                // Names of fields need no escapes.
                part.extend([b"\"", name.as_bytes(), b"\":["].concat());
                let mut elements = elements.into_iter();
                if let Some(first) = elements.next() {
                    part.extend(transcode::to_json(&descriptor, &first)?);
                }
                self.list = Some((descriptor, elements));
            }
        }
        Ok(())
    }

    fn comma(&mut self, part: &mut Vec<u8>) {
        if std::mem::replace(&mut self.phase, Phase::Members) == Phase::Members {
            part.push(b',');
        }
    }
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if this.phase == Phase::End {
            return Poll::Ready(None);
        }
        ready!(this.turn.poll(context));
        let mut part = Vec::with_capacity(2 * PART_BYTES);
        while part.len() < PART_BYTES && this.phase != Phase::End {
            if let Err(status) = this.piece(&mut part) {
                // What breaks off is no JSON, so nobody takes it for an answer.
                this.phase = Phase::End;
                return Poll::Ready(Some(Err(io::Error::other(status))));
            }
        }
        this.turn.took(part.len());
        Poll::Ready(Some(Ok(Frame::data(part.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.phase == Phase::End
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use http_body::Body as _;
    use http_body_util::BodyExt as _;
    use prost::Message as _;
    use serde_json::Value as Json;

    use super::*;
    use crate::{
        http::routes::Table,
        proto::{Instance, LookupResponse},
    };

    fn descriptor() -> MessageDescriptor {
        Table::of_api().expect("the protos are right").message("onair.v1.LookupResponse").expect("it is there")
    }

    fn found(instances: usize) -> LookupResponse {
        let values = vec![prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) }; 1_000];
        let list = prost_types::value::Kind::ListValue(prost_types::ListValue { values });
        let metadata = Some(prost_types::Value { kind: Some(list) });
        let instance = |n| Instance { id: format!("i{n}"), metadata: metadata.clone(), ..Instance::default() };
        LookupResponse {
            revision: 7,
            instances: (0..instances).map(instance).collect(),
            next_page_token: "p".into(),
            ..LookupResponse::default()
        }
    }

    /// Reads a body as a connection does that has room for all of it; says its parts, and how often it gave up its turn.
    fn read(mut body: Body) -> (Vec<Result<Bytes, String>>, usize) {
        struct Wakes(AtomicUsize);
        impl std::task::Wake for Wakes {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
        let waker = Arc::clone(&wakes).into();
        let (mut context, mut parts, mut turns) = (Context::from_waker(&waker), Vec::new(), 0);
        loop {
            match Pin::new(&mut body).poll_frame(&mut context) {
                Poll::Ready(None) => return (parts, turns),
                Poll::Ready(Some(frame)) => {
                    parts.push(frame.map(|frame| frame.into_data().expect("data")).map_err(|error| error.to_string()));
                }
                Poll::Pending => {
                    turns += 1;
                    assert_eq!(wakes.0.load(Ordering::Relaxed), turns, "it says that it can go on");
                }
            }
        }
    }

    #[test]
    fn a_large_reply_is_written_element_by_element_and_in_turns() {
        let (descriptor, message) = (descriptor(), found(100));
        let bytes = Bytes::from(message.encode_to_vec());
        let whole: Json =
            serde_json::from_slice(&transcode::to_json(&descriptor, &bytes).expect("JSON")).expect("JSON");
        let one = transcode::to_json(&descriptor, &found(1).encode_to_vec()).expect("JSON").len();
        let (parts, turns) = read(body(&descriptor, bytes).expect("a reply"));
        let parts: Vec<Bytes> = parts.into_iter().collect::<Result<_, _>>().expect("all of it");
        assert!(parts.iter().all(|part| part.len() < PART_BYTES + one), "no part is much larger than a part");
        assert!(parts.len() > 20 && turns + 2 >= parts.len(), "{turns} turns for {} parts", parts.len());
        assert_eq!(serde_json::from_slice::<Json>(&parts.concat()).expect("JSON"), whole);
    }

    #[tokio::test]
    async fn however_its_fields_are_ordered_a_reply_says_the_same() {
        let (descriptor, message) = (descriptor(), found(40));
        let whole = transcode::to_json(&descriptor, &message.encode_to_vec()).expect("JSON");
        // The fields of the one between those of the other, and one that nobody knows.
        let mut mixed = LookupResponse { instances: message.instances[..20].to_vec(), ..LookupResponse::default() };
        let mut bytes = mixed.encode_to_vec();
        bytes.extend(LookupResponse { instances: Vec::new(), ..message.clone() }.encode_to_vec());
        bytes.extend([0xfa, 0x7f, 0x01, b'x']);
        mixed.instances = message.instances[20..].to_vec();
        bytes.extend(mixed.encode_to_vec());
        let written = body(&descriptor, bytes.into()).expect("a reply").collect().await.expect("all of it").to_bytes();
        let json = |bytes: &[u8]| serde_json::from_slice::<Json>(bytes).expect("JSON");
        assert_eq!(json(&written), json(&whole));
    }

    #[test]
    fn what_cannot_be_written_is_no_answer() {
        let (descriptor, message) = (descriptor(), found(40));
        let mut bytes = message.encode_to_vec();
        bytes.truncate(bytes.len() - 1);
        assert!(body(&descriptor, bytes.clone().into()).is_err(), "it is cut off");
        // An element that is none, between others.
        let mut bytes = message.encode_to_vec();
        let instances = descriptor.get_field_by_name("instances").expect("the field").number();
        bytes.extend([(instances << 3 | 2) as u8, 1, 0xff]);
        let (parts, _) = read(body(&descriptor, bytes.into()).expect("it begins well"));
        let (last, before) = parts.split_last().expect("parts");
        assert!(last.is_err() && before.iter().all(Result::is_ok));
    }
}
