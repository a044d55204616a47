//! The messages of watches as their readers over HTTP get them. Each is written once, however many it goes to: equal
//! watches have equal messages, so what was written is found again by the bytes of the message. Knows nothing of
//! requests and streams.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{BufMut as _, Bytes};
use hashbrown::HashMap;
use prost::Message as _;
use prost_reflect::MessageDescriptor;
use tonic::Status;

use crate::{
    grpc::status::{self, Reason},
    http::{transcode, turn::Turn},
};

/// Most bytes of messages, and of what was written of them, that are kept.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a kept message takes beside its bytes.
const KEPT_EACH: usize = size_of::<Told>() + 128;

/// What a `WatchResponse` says of its reader's place; its events are only counted.
#[derive(Clone, PartialEq, prost::Message)]
struct Head {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(string, tag = "2")]
    resume_token: String,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    events: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    frontends: Vec<Bytes>,
    #[prost(bool, tag = "5")]
    more: bool,
    #[prost(bool, tag = "6")]
    snapshot_end: bool,
    #[prost(bytes = "bytes", optional, tag = "7")]
    reset: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    published: Vec<Bytes>,
    #[prost(uint64, tag = "16")]
    published_lost: u64,
}

/// One message.
#[derive(Debug)]
pub(super) struct Told {
    /// As server-sent events have it.
    pub(super) event: Bytes,
    /// Its JSON.
    pub(super) json: Bytes,
    /// What it is of.
    pub(super) revision: u64,
    /// Where to continue after it; empty if that is not possible.
    pub(super) token: String,
    /// Whether it only says how far the watch is.
    pub(super) bookmark: bool,
    /// Whether a snapshot is complete with it.
    pub(super) snapshot_end: bool,
}

/// Writes messages, and keeps what it wrote last.
#[derive(Debug)]
pub(super) struct Teller {
    descriptor: MessageDescriptor,
    kept: Mutex<Kept>,
}

/// What was written last, the oldest first.
#[derive(Debug, Default)]
struct Kept {
    by_message: HashMap<Bytes, Arc<Told>>,
    order: VecDeque<Bytes>,
    bytes: usize,
}

impl Teller {
    /// Of messages of this type, which is `WatchResponse`.
    #[must_use]
    pub(super) fn new(descriptor: MessageDescriptor) -> Self {
        Self { descriptor, kept: Mutex::default() }
    }

    /// A message as its readers get it.
    ///
    /// # Errors
    /// INTERNAL, when the bytes are no such message.
    pub(super) fn tell(&self, message: &Bytes, turn: &mut Turn) -> Result<Arc<Told>, Status> {
        if let Some(told) = self.kept().by_message.get(message) {
            return Ok(Arc::clone(told));
        }
        let told = Arc::new(self.write(message)?);
        turn.took(told.event.len());
        self.kept().keep(message, &told);
        Ok(told)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, message: &Bytes) -> Result<Told, Status> {
        let head = Head::decode(message.clone())
            .map_err(|error| status::plain(Reason::Internal, format!("a message that cannot be read: {error}")))?;
        let Head { revision, resume_token: token, events, frontends, more, snapshot_end, reset, .. } = &head;
        let (revision, token, more, snapshot_end) = (*revision, token.clone(), *more, *snapshot_end);
        let json = transcode::to_json(&self.descriptor, message)?;
        let bookmark = events.is_empty() && frontends.is_empty() && reset.is_none() && !more && !snapshot_end;
        let published = !head.published.is_empty() || head.published_lost > 0;
        let begin = match (published, bookmark) {
            // Of a kind of its own: who does not listen for it never sees it.
            (true, _) => "event: published\ndata: ",
            (false, true) => ": ",
            (false, false) => "data: ",
        };
        let bookmark = bookmark && !published;
        let mut event = Vec::with_capacity(begin.len() + json.len() + token.len() + 8);
        event.put_slice(begin.as_bytes());
        event.put_slice(&json);
        if !token.is_empty() {
            event.put_slice(b"\nid: ");
            event.put_slice(token.as_bytes());
        }
        event.put_slice(b"\n\n");
        let event = Bytes::from(event);
        let json = event.slice(begin.len()..begin.len() + json.len());
        Ok(Told { event, json, revision, token, bookmark, snapshot_end })
    }
}

impl Kept {
    fn keep(&mut self, message: &Bytes, told: &Arc<Told>) {
        // A copy of its own: the message may be a part of something far larger.
        let message = Bytes::copy_from_slice(message);
        let size = size_of_kept(&message, told);
        if size > KEPT_BYTES_MAX || self.by_message.insert(message.clone(), Arc::clone(told)).is_some() {
            return;
        }
        self.bytes += size;
        self.order.push_back(message);
        while self.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(told) = self.by_message.remove(&oldest) {
                self.bytes -= size_of_kept(&oldest, &told);
            }
        }
    }
}

fn size_of_kept(message: &Bytes, told: &Told) -> usize {
    message.len() + told.event.len() + told.token.len() + KEPT_EACH
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;
    use crate::{
        http::routes::Table,
        proto::{Event, Instance, Published, Reset, WatchResponse},
    };

    fn teller() -> Teller {
        let table = Table::of_api().expect("the protos are right");
        let descriptor = table.pool().get_message_by_name("onair.v1.WatchResponse").expect("it is there");
        Teller::new(descriptor)
    }

    fn told(teller: &Teller, message: &WatchResponse) -> Arc<Told> {
        teller.tell(&message.encode_to_vec().into(), &mut Turn::default()).expect("a message")
    }

    fn change(revision: u64) -> WatchResponse {
        let instance = Instance { id: "a\nb".into(), host: "x".repeat(100_000), ..Instance::default() };
        let events = vec![Event { r#type: 1, cause: 1, instance: Some(instance) }];
        WatchResponse { revision, resume_token: format!("t{revision}"), events, ..WatchResponse::default() }
    }

    #[test]
    fn an_event_has_an_id_where_one_can_continue_and_a_bookmark_has_no_data() {
        let teller = teller();
        let small = |message: WatchResponse| String::from_utf8(told(&teller, &message).event.to_vec()).expect("UTF-8");
        let part = WatchResponse { revision: 3, more: true, ..WatchResponse::default() };
        assert_eq!(small(part), "data: {\"revision\":\"3\",\"more\":true}\n\n");
        let empty = WatchResponse { revision: 3, resume_token: "t".into(), snapshot_end: true, ..Default::default() };
        let expected = "data: {\"revision\":\"3\",\"resumeToken\":\"t\",\"snapshotEnd\":true}\nid: t\n\n";
        assert_eq!(small(empty), expected);
        let bookmark = WatchResponse { revision: 3, resume_token: "t".into(), ..WatchResponse::default() };
        assert_eq!(small(bookmark), ": {\"revision\":\"3\",\"resumeToken\":\"t\"}\nid: t\n\n");
        let reset = Reset { reason: 6, oldest_revision: 0 };
        let reset = WatchResponse { reset: Some(reset), more: true, ..WatchResponse::default() };
        assert_eq!(small(reset), "data: {\"more\":true,\"reset\":{\"reason\":\"RESET_REASON_MALFORMED\"}}\n\n");
        // What is published has a name that one can listen for.
        let published = Published { service: "web".into(), kind: "k".into(), ..Published::default() };
        let published = WatchResponse {
            revision: 3,
            resume_token: "t".into(),
            published: vec![published],
            published_lost: 2,
            ..WatchResponse::default()
        };
        let expected = concat!(
            "event: published\ndata: {\"revision\":\"3\",\"resumeToken\":\"t\",",
            "\"published\":[{\"service\":\"web\",\"kind\":\"k\"}],\"publishedLost\":\"2\"}\nid: t\n\n"
        );
        assert_eq!(small(published.clone()), expected);
        assert!(!told(&teller, &published).bookmark);
        // Whatever registrants put into their texts, an event is of one line.
        let change = told(&teller, &change(1));
        let event = std::str::from_utf8(&change.event).expect("UTF-8");
        assert_eq!(event.lines().count(), 3, "data, id, and nothing");
        assert!(event.starts_with("data: {") && event.ends_with("\nid: t1\n\n"));
        let json: serde_json::Value = serde_json::from_slice(&change.json).expect("JSON");
        assert_eq!(json["events"][0]["instance"]["id"], "a\nb");
        assert_eq!((change.revision, change.token.as_str(), change.bookmark), (1, "t1", false));
    }

    #[test]
    fn a_message_is_written_once_and_what_is_kept_is_bounded() {
        let teller = teller();
        let first = told(&teller, &change(1));
        assert!(Arc::ptr_eq(&first, &told(&teller, &change(1))), "it is the same");
        for revision in 2..100 {
            told(&teller, &change(revision));
            let kept = teller.kept();
            assert!(kept.bytes <= KEPT_BYTES_MAX && kept.by_message.len() == kept.order.len());
        }
        let kept = teller.kept();
        let bytes: usize = kept.by_message.iter().map(|(message, told)| size_of_kept(message, told)).sum();
        assert_eq!(bytes, kept.bytes);
        assert!((10..50).contains(&kept.order.len()), "{} are kept", kept.order.len());
        drop(kept);
        assert!(!Arc::ptr_eq(&first, &told(&teller, &change(1))), "it was forgotten");
        assert!(teller.tell(&Bytes::from_static(b"\x0a\xff"), &mut Turn::default()).is_err());
    }

    #[test]
    fn who_writes_much_lets_others_have_their_turn() {
        let (teller, mut turn) = (teller(), Turn::default());
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut rests = 0;
        for revision in 1..=10 {
            for _ in 0..3 {
                rests += usize::from(turn.poll(&mut context).is_pending());
                // What is kept already costs nothing.
                teller.tell(&change(revision).encode_to_vec().into(), &mut turn).expect("a message");
            }
        }
        assert_eq!(rests, 10);
    }
}
