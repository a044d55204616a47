//! The bytes of watch messages, put together from parts that are encoded once. Field numbers are those of
//! `WatchResponse` and `SubscriptionGroup`, which share the ones used here; a test decodes them with the generated types.

use bytes::{BufMut, Bytes};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::resume::ResetReason;
use crate::{
    framed::Framed,
    registry::{Cause, EventType, Frontend, Partition, Record, Revision, Split},
};

/// Most bytes of events in a message (a single larger event excepted), with room for the rest of a message of 256 KiB.
pub const EVENTS_BYTES_MAX: usize = 250 * 1024;

/// Most bytes of tags and lengths in a group.
const GROUP_HEAD: usize = 16;

const VARINT: u32 = 0;
const LEN: u32 = 2;

pub(super) fn key(field: u32, wire: u32, buffer: &mut impl BufMut) {
    encode_varint(u64::from(field << 3 | wire), buffer);
}

fn len_of_enum(value: i32) -> usize {
    1 + encoded_len_varint(value as u64)
}

/// Appends `Event{type, cause, instance}` as an element of the field `events` (3).
pub fn push_event(kind: EventType, cause: Cause, record: &Record, buffer: &mut Vec<u8>) {
    let instance = record.bytes();
    let body = len_of_enum(kind as i32)
        + if cause == Cause::Unspecified { 0 } else { len_of_enum(cause as i32) }
        + 1
        + encoded_len_varint(instance.len() as u64)
        + instance.len();
    buffer.reserve(body + 8);
    key(3, LEN, buffer);
    encode_varint(body as u64, buffer);
    key(1, VARINT, buffer);
    encode_varint(kind as u64, buffer);
    if cause != Cause::Unspecified {
        key(2, VARINT, buffer);
        encode_varint(cause as u64, buffer);
    }
    key(3, LEN, buffer);
    encode_varint(instance.len() as u64, buffer);
    buffer.extend_from_slice(instance);
}

/// Field number of `frontends`: in `LookupResponse`, and in a watch's and a subscription's message.
pub const LOOKUP_FRONTENDS: u32 = 2;
/// See `LOOKUP_FRONTENDS`.
pub const WATCH_FRONTENDS: u32 = 4;

/// Appends a `ServicePresence` as an element of the field `services` (17).
pub fn push_summary(of: &Partition, online: bool, buffer: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(of.namespace.len() + of.service.len() + of.key.len() + 12);
    push_text(1, &of.namespace, &mut body);
    push_text(2, &of.service, &mut body);
    push_text(3, &of.key, &mut body);
    push_flag(4, online, &mut body);
    push_bytes(17, &body, buffer);
}

/// Appends where a frontend points, as an element of `field`. One that is not there points nowhere.
pub fn push_frontend(field: u32, (namespace, name): (&str, &str), frontend: Option<&Frontend>, buffer: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(namespace.len() + name.len() + 64);
    push_text(1, namespace, &mut body);
    push_text(2, name, &mut body);
    if let Some(frontend) = frontend {
        key(3, VARINT, &mut body);
        encode_varint(frontend.revision(), &mut body);
        frontend.live().for_each(|split| push_split(split, &mut body));
    }
    push_bytes(field, &body, buffer);
}

fn push_split(split: &Split, buffer: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(split.backend.len() + split.service.len() + split.version.len() + 16);
    push_text(1, &split.backend, &mut body);
    push_text(2, &split.service, &mut body);
    push_text(3, &split.version, &mut body);
    key(4, VARINT, &mut body);
    encode_varint(u64::from(split.weight), &mut body);
    push_bytes(4, &body, buffer);
}

/// What a `WatchResponse` says beside its events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trailer<'a> {
    /// Revision of every event in it, or what the stream has reached.
    pub revision: Revision,
    /// Where to continue; empty while more is to come.
    pub token: &'a str,
    /// More of this revision or snapshot follows.
    pub more: bool,
    /// The snapshot is complete.
    pub snapshot_end: bool,
    /// The watch begins anew: why, and the oldest revision that could have been continued from.
    pub reset: Option<(ResetReason, Revision)>,
}

/// A whole `WatchResponse`.
#[must_use]
pub fn watch_response(events: &[u8], trailer: Trailer<'_>) -> Framed {
    let mut buffer = Framed::room(events.len() + trailer.token.len() + 32);
    if trailer.revision != 0 {
        key(1, VARINT, &mut buffer);
        encode_varint(trailer.revision, &mut buffer);
    }
    push_text(2, trailer.token, &mut buffer);
    buffer.extend_from_slice(events);
    push_flag(5, trailer.more, &mut buffer);
    push_flag(6, trailer.snapshot_end, &mut buffer);
    if let Some(reset) = trailer.reset {
        push_reset(7, reset, &mut buffer);
    }
    Framed::of(buffer)
}

/// One subscription's part of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group<'a> {
    /// Which subscription.
    pub id: &'a str,
    /// Its events.
    pub events: &'a [u8],
    /// Where to continue; empty while more is to come.
    pub token: &'a str,
    /// The snapshot is complete.
    pub snapshot_end: bool,
    /// The subscription begins anew.
    pub reset: Option<(ResetReason, Revision)>,
    /// An encoded `google.rpc.Status`; empty for none.
    pub error: &'a [u8],
    /// The subscription has ended as asked.
    pub dropped: bool,
}

/// Bytes of a field of so many bytes, whose number is below 16; nothing for an empty one.
fn len_of_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { 1 + encoded_len_varint(bytes as u64) + bytes }
}

/// Bytes of a `Reset`, with what is before it.
fn len_of_reset((_, oldest): (ResetReason, Revision)) -> usize {
    4 + if oldest == 0 { 0 } else { 1 + encoded_len_varint(oldest) }
}

/// Appends a `SubscriptionGroup` as an element of the field `groups` (2) of a `SubscribeResponse`.
pub fn push_group(group: Group<'_>, buffer: &mut Vec<u8>) {
    let texts = [group.id.len(), group.token.len(), group.error.len()].map(len_of_bytes);
    let flags = 2 * (usize::from(group.snapshot_end) + usize::from(group.dropped));
    let reset = group.reset.map_or(0, len_of_reset);
    let body = texts.iter().sum::<usize>() + group.events.len() + flags + reset;
    buffer.reserve(body + 8);
    key(2, LEN, buffer);
    encode_varint(body as u64, buffer);
    let start = buffer.len();
    push_text(1, group.id, buffer);
    push_text(2, group.token, buffer);
    buffer.extend_from_slice(group.events);
    push_flag(5, group.snapshot_end, buffer);
    if let Some(reset) = group.reset {
        push_reset(6, reset, buffer);
    }
    push_bytes(7, group.error, buffer);
    push_flag(8, group.dropped, buffer);
    debug_assert_eq!(buffer.len(), start + body);
}

/// A whole `SubscribeResponse`.
#[must_use]
pub fn subscribe_response(revision: Revision, groups: &[u8], more: bool) -> Framed {
    let mut buffer = Framed::room(groups.len() + 16);
    if revision != 0 {
        key(1, VARINT, &mut buffer);
        encode_varint(revision, &mut buffer);
    }
    buffer.extend_from_slice(groups);
    push_flag(3, more, &mut buffer);
    Framed::of(buffer)
}

/// What one revision is to one subscription.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    /// Which subscription.
    pub id: &'a str,
    /// Its events, in pieces that fit into a message.
    pub pieces: &'a [Bytes],
    /// Where to continue after them.
    pub token: &'a str,
}

/// The `SubscribeResponse`s of a revision. All but the last carry `more`, and none of those a token: who has only a part
/// of a revision must not continue after it. Tokens that do not fit into the last one follow as bookmarks.
#[must_use]
pub fn subscribe_responses(revision: Revision, shares: &[Share<'_>]) -> Vec<Framed> {
    let mut frames = vec![Vec::new()];
    let mut bytes = 0;
    for (of, share) in shares.iter().enumerate() {
        for (place, events) in share.pieces.iter().enumerate() {
            let size = events.len() + share.id.len() + share.token.len() + GROUP_HEAD;
            if bytes > 0 && bytes + size > EVENTS_BYTES_MAX {
                frames.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            let is_last = place + 1 == share.pieces.len();
            frames.last_mut().into_iter().for_each(|frame| frame.push((of, events, is_last)));
        }
    }
    let (mut responses, mut waiting) = (Vec::new(), Vec::new());
    let last = frames.len() - 1;
    let mut groups = Vec::new();
    for (place, frame) in frames.into_iter().enumerate() {
        for (of, events, is_last) in frame {
            let Share { id, token, .. } = shares[of];
            let token = match (is_last, place == last) {
                (true, true) => token,
                (true, false) => {
                    waiting.push(Group { id, token, ..Group::default() });
                    ""
                }
                (false, _) => "",
            };
            push_group(Group { id, events, token, ..Group::default() }, &mut groups);
        }
        if place < last {
            responses.push(subscribe_response(revision, &groups, true));
            groups.clear();
        }
    }
    for group in waiting {
        if groups.len() > EVENTS_BYTES_MAX {
            responses.push(subscribe_response(revision, &groups, false));
            groups.clear();
        }
        push_group(group, &mut groups);
    }
    responses.push(subscribe_response(revision, &groups, false));
    responses
}

pub(super) fn push_bytes(field: u32, bytes: &[u8], buffer: &mut Vec<u8>) {
    if !bytes.is_empty() {
        key(field, LEN, buffer);
        encode_varint(bytes.len() as u64, buffer);
        buffer.extend_from_slice(bytes);
    }
}

pub(super) fn push_text(field: u32, text: &str, buffer: &mut Vec<u8>) {
    push_bytes(field, text.as_bytes(), buffer);
}

pub(super) fn push_flag(field: u32, flag: bool, buffer: &mut Vec<u8>) {
    if flag {
        key(field, VARINT, buffer);
        buffer.push(1);
    }
}

/// Appends a `Reset{reason, oldest_revision}`.
pub(super) fn push_reset(field: u32, (reason, oldest): (ResetReason, Revision), buffer: &mut Vec<u8>) {
    let number: u64 = match reason {
        ResetReason::TooOld => 1,
        ResetReason::AnotherEpoch => 2,
        ResetReason::AnotherRegistry => 3,
        ResetReason::SelectorsChanged => 4,
        ResetReason::FellBehind => 5,
        ResetReason::Malformed => 6,
    };
    key(field, LEN, buffer);
    let body = 2 + if oldest == 0 { 0 } else { 1 + encoded_len_varint(oldest) };
    encode_varint(body as u64, buffer);
    key(1, VARINT, buffer);
    encode_varint(number, buffer);
    if oldest != 0 {
        key(2, VARINT, buffer);
        encode_varint(oldest, buffer);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::{
        proto::{ResetReason as WireReason, SubscribeResponse, WatchResponse},
        registry::{Instance, Lease, SecretHash},
    };

    /// An event of about `size` bytes.
    fn piece(size: &usize) -> Bytes {
        let instance = Instance { zone: "x".repeat(*size), ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let record = Record::new(&instance.encode_to_vec(), lease, 1, 0, 1);
        let mut events = Vec::new();
        push_event(EventType::Online, Cause::Registered, &record, &mut events);
        events.into()
    }

    /// The messages of shares whose pieces have the given sizes.
    fn responses(shares: &[(&str, &[usize])]) -> Vec<SubscribeResponse> {
        let pieces = |sizes: &[usize]| sizes.iter().map(piece).collect::<Vec<_>>();
        let owned: Vec<_> = shares.iter().map(|(id, sizes)| (*id, pieces(sizes), format!("token of {id}"))).collect();
        let shares: Vec<_> = owned.iter().map(|(id, pieces, token)| Share { id, pieces, token }).collect();
        let decode = |framed: Framed| SubscribeResponse::decode(framed.message()).expect("a message");
        subscribe_responses(7, &shares).into_iter().map(decode).collect()
    }

    #[test]
    fn the_generated_types_read_what_is_put_together_here() {
        let instance =
            Instance { namespace: "default".into(), service: "web".into(), id: "a".into(), ..Instance::default() };
        let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let record = Record::new(&instance.encode_to_vec(), lease, 300, 0, 301);
        let mut events = Vec::new();
        push_event(EventType::Online, Cause::Registered, &record, &mut events);
        push_event(EventType::Updated, Cause::Unspecified, &record, &mut events);
        let reset = Some((ResetReason::FellBehind, 12));
        let trailer = Trailer { revision: 301, token: "t", more: true, snapshot_end: true, reset };
        let read = WatchResponse::decode(watch_response(&events, trailer).message()).expect("a message");
        assert_eq!((read.revision, read.resume_token.as_str(), read.more, read.snapshot_end), (301, "t", true, true));
        let reset = read.reset.as_ref().expect("a reset");
        assert_eq!((reset.reason(), reset.oldest_revision), (WireReason::FellBehind, 12));
        assert_eq!(read.events.len(), 2);
        assert_eq!((read.events[0].r#type(), read.events[0].cause()), (EventType::Online, Cause::Registered));
        assert_eq!(read.events[1].cause(), Cause::Unspecified);
        let expected = Instance { incarnation: 300, revision: 301, ..instance };
        assert_eq!(read.events[1].instance.as_ref(), Some(&expected));
        // Nothing in it that the types do not know: encoding them again gives as many bytes.
        assert_eq!(read.encoded_len(), watch_response(&events, trailer).len());
        let more = WatchResponse { bookmark_interval: Some(Default::default()), ..Default::default() };
        let framed = watch_response(&events, trailer).with(&more.encode_to_vec());
        let read = WatchResponse { bookmark_interval: more.bookmark_interval, ..read };
        assert_eq!(WatchResponse::decode(framed.message()), Ok(read));
    }

    #[test]
    fn only_the_last_message_of_a_revision_has_tokens() {
        const HALF: usize = EVENTS_BYTES_MAX / 2 + 1;
        for shares in [
            &[("a", &[1][..]), ("b", &[1])][..],
            &[("a", &[HALF]), ("b", &[HALF])],
            &[("a", &[HALF, HALF]), ("b", &[1]), ("c", &[HALF])],
            &[("a", &[1]), ("b", &[HALF * 2, 1, HALF])],
        ] {
            let responses = responses(shares);
            let (last, earlier) = responses.split_last().expect("a message");
            assert!(earlier.iter().all(|one| one.more && one.groups.iter().all(|group| group.resume_token.is_empty())));
            assert!(!last.more);
            for (id, sizes) in shares {
                let groups = responses.iter().flat_map(|one| &one.groups).filter(|group| group.id == *id);
                assert_eq!(groups.map(|group| group.events.len()).sum::<usize>(), sizes.len());
                let tokens = last.groups.iter().filter(|group| group.id == *id).map(|group| &group.resume_token);
                assert_eq!(tokens.filter(|token| !token.is_empty()).collect::<Vec<_>>(), [&format!("token of {id}")]);
            }
            assert!(responses.iter().all(|one| one.encoded_len() <= 256 * 1024));
        }
    }

    #[test]
    fn more_tokens_than_fit_follow_as_bookmarks() {
        const HALF: usize = EVENTS_BYTES_MAX / 2 + 1;
        let ids: Vec<_> = (0..5_000).map(|id| format!("{id:0>100}")).collect();
        let mut shares: Vec<(&str, &[usize])> = ids.iter().map(|id| (id.as_str(), &[1][..])).collect();
        shares.push(("z", &[HALF, HALF]));
        let responses = responses(&shares);
        assert!(responses.iter().all(|one| one.encoded_len() <= 256 * 1024));
        let whole = responses.iter().position(|one| !one.more).expect("a last one");
        assert!(responses[..whole].iter().all(|one| one.more) && responses[whole..].iter().all(|one| !one.more));
        assert!(responses[whole + 1..].iter().flat_map(|one| &one.groups).all(|group| group.events.is_empty()));
        let tokens = responses.iter().flat_map(|one| &one.groups).filter(|group| !group.resume_token.is_empty());
        assert_eq!(tokens.count(), shares.len());
    }
}
