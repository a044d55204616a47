//! The messages of heartbeats, read and written without the generated types: tokens are parsed where they lie, results
//! are put together from parts made once. Renewals are the hot path; a test compares both with the generated types.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{
        DecodeContext, WireType, check_wire_type, decode_key, decode_varint, encode_varint, encoded_len_varint,
        message, skip_field, string,
    },
};

use crate::{
    actor::{Beat, BeatOutcome, BeatReply},
    proto::{self, BeatState},
    registry::{LeaseToken, Status},
};

/// A `HeartbeatRequest` as it came: it is read when it is known how many beats it may have, so that a message of many
/// empty ones is refused before any memory is spent on them.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatRequest(Bytes);

/// What a `HeartbeatRequest` says.
#[derive(Clone, Debug, Default)]
pub struct Beats {
    /// In order; those beyond the most that are taken are only counted.
    pub beats: Vec<Beat>,
    /// How many there are.
    pub count: usize,
    /// Statuses that no registrant may send, or that are none: the beat's place, and the number.
    pub refused: Vec<(usize, i32)>,
    /// Of the key that all beats are to be of; empty, if none is named.
    pub namespace: String,
    /// See `namespace`.
    pub service: String,
    /// See `namespace`.
    pub id: String,
}

impl Message for HeartbeatRequest {
    /// Requests are only read here.
    fn encode_raw(&self, _: &mut impl BufMut) {}

    fn decode(mut buffer: impl Buf) -> Result<Self, DecodeError> {
        Ok(Self(buffer.copy_to_bytes(buffer.remaining())))
    }

    /// It is taken whole.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        0
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl HeartbeatRequest {
    /// Reads it, at most `max` beats of it.
    ///
    /// # Errors
    /// When it is no such message.
    pub fn read(&self, max: usize) -> Result<Beats, DecodeError> {
        let (mut read, mut rest) = (Beats::default(), &self.0[..]);
        while !rest.is_empty() {
            let (tag, wire_type) = decode_key(&mut rest)?;
            let context = DecodeContext::default();
            match tag {
                1 => {
                    check_wire_type(WireType::LengthDelimited, wire_type)?;
                    let len = checked_len(&mut rest)?;
                    let (beat, after) = rest.split_at(len);
                    if read.count < max {
                        read.push(beat)?;
                    }
                    read.count += 1;
                    rest = after;
                }
                16 => string::merge(wire_type, &mut read.namespace, &mut rest, context)?,
                17 => string::merge(wire_type, &mut read.service, &mut rest, context)?,
                18 => string::merge(wire_type, &mut read.id, &mut rest, context)?,
                _ => skip_field(wire_type, tag, &mut rest, context)?,
            }
        }
        Ok(read)
    }
}

/// The length of what follows, which is there.
fn checked_len(buffer: &mut impl Buf) -> Result<usize, DecodeError> {
    let len = decode_varint(buffer)?;
    if len > buffer.remaining() as u64 {
        // What the library says of a message that is cut off.
        return decode_varint(&mut &[][..]).map(|_| 0);
    }
    Ok(len as usize)
}

impl Beats {
    /// Reads one `Beat`.
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), DecodeError> {
        let mut beat = Beat { token: None, status: Status::Unspecified };
        while !bytes.is_empty() {
            match decode_key(&mut bytes)? {
                (1, WireType::LengthDelimited) => {
                    let len = checked_len(&mut bytes)?;
                    let (text, rest) = bytes.split_at(len);
                    beat.token = LeaseToken::decode(text);
                    bytes = rest;
                }
                (2, WireType::Varint) => {
                    let number = decode_varint(&mut bytes)? as i32;
                    match Status::try_from(number) {
                        Ok(status @ (Status::Unspecified | Status::Starting | Status::Serving | Status::Draining)) => {
                            beat.status = status;
                        }
                        _ => self.refused.push((self.beats.len(), number)),
                    }
                }
                (tag, wire_type) => skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
            }
        }
        self.beats.push(beat);
        Ok(())
    }
}

/// A `HeartbeatResponse`.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatResponse {
    /// By position.
    pub outcomes: Vec<BeatOutcome>,
    /// See [`BeatReply::holders`].
    pub holders: Vec<(usize, String)>,
    /// A committed revision at or after the beats.
    pub revision: u64,
}

impl From<BeatReply> for HeartbeatResponse {
    fn from(reply: BeatReply) -> Self {
        let BeatReply { outcomes, holders, revision } = reply;
        let holders = holders.into_iter().map(|(place, holder)| (place, holder.address)).collect();
        Self { outcomes, holders, revision }
    }
}

/// An encoded element of `results`.
#[derive(Clone, Copy, Debug)]
struct EncodedResult {
    bytes: [u8; 24],
    len: usize,
}

impl EncodedResult {
    fn of(outcome: BeatOutcome) -> Self {
        let (state, ttl) = match outcome {
            BeatOutcome::Renewed(ttl) => (BeatState::Renewed, Some(ttl)),
            BeatOutcome::Expired => (BeatState::Expired, None),
            BeatOutcome::Unknown => (BeatState::Unknown, None),
            BeatOutcome::Superseded => (BeatState::Superseded, None),
            BeatOutcome::Denied => (BeatState::Denied, None),
            BeatOutcome::TryAgain => (BeatState::Unspecified, None),
        };
        let mut result = Self { bytes: [0; 24], len: 0 };
        // results = 1, a BeatResult of at most 20 bytes: its length comes when it is known.
        result.push(&[1 << 3 | 2, 0]);
        if state != BeatState::Unspecified {
            result.push(&[1 << 3, state as u8]);
        }
        if let Some(ttl) = ttl {
            result.push(&[2 << 3 | 2, 0]);
            let start = result.len;
            result.number(1, u64::from(ttl / 1_000));
            result.number(2, u64::from(ttl % 1_000) * 1_000_000);
            result.bytes[start - 1] = (result.len - start) as u8;
        }
        result.bytes[1] = (result.len - 2) as u8;
        result
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// A varint field; 0 is left out, as the generated types do.
    fn number(&mut self, field: u8, number: u64) {
        if number != 0 {
            self.push(&[field << 3]);
            let mut rest = &mut self.bytes[self.len..];
            encode_varint(number, &mut rest);
            self.len += encoded_len_varint(number);
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// An encoded element of `results` that names who has the key: too rare to be made ready.
fn superseded(holder: &str) -> Vec<u8> {
    let state = BeatState::Superseded.into();
    let result = proto::BeatResult { state, holder: holder.to_owned(), ..proto::BeatResult::default() };
    let mut bytes = Vec::new();
    message::encode(1, &result, &mut bytes);
    bytes
}

impl HeartbeatResponse {
    /// Calls `each` with every encoded result; neighbours that are alike are encoded once.
    fn for_each(&self, mut each: impl FnMut(&[u8])) {
        let mut last: Option<(BeatOutcome, EncodedResult)> = None;
        let mut holders = self.holders.iter().peekable();
        for (place, outcome) in self.outcomes.iter().enumerate() {
            if let Some((_, holder)) = holders.next_if(|(of, _)| *of == place) {
                each(&superseded(holder));
                continue;
            }
            let encoded = match last {
                Some((same, encoded)) if same == *outcome => encoded,
                _ => EncodedResult::of(*outcome),
            };
            last = Some((*outcome, encoded));
            each(encoded.bytes());
        }
    }
}

impl Message for HeartbeatResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        self.for_each(|result| buffer.put_slice(result));
        if self.revision != 0 {
            buffer.put_u8(2 << 3);
            encode_varint(self.revision, buffer);
        }
    }

    /// Responses are only written here.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        let mut len = if self.revision == 0 { 0 } else { 1 + encoded_len_varint(self.revision) };
        self.for_each(|result| len += result.len());
        len
    }

    fn clear(&mut self) {
        self.outcomes.clear();
        self.holders.clear();
        self.revision = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Fingerprint, LeaseId, Secret};

    fn token() -> LeaseToken {
        LeaseToken {
            registry: 7,
            key: Fingerprint(8),
            lease: LeaseId { revision: 9, ordinal: 1 },
            secret: Secret([3; 16]),
            hint: 2,
        }
    }

    fn read(bytes: &[u8], max: usize) -> Result<Beats, DecodeError> {
        HeartbeatRequest::decode(bytes)?.read(max)
    }

    #[test]
    fn requests_are_read_as_the_generated_types_write_them() {
        let beat = |lease_token: String, status: i32| proto::Beat { lease_token, status };
        let sent = proto::HeartbeatRequest {
            beats: vec![
                beat(token().encode(), 0),
                beat("garbage".into(), Status::Draining as i32),
                beat(String::new(), -1),
                beat(token().encode(), 77),
            ],
            namespace: "shop".into(),
            service: "web".into(),
            id: "web-1".into(),
        };
        let read = read(&sent.encode_to_vec(), 10).expect("readable");
        let got: Vec<_> = read.beats.iter().map(|beat| (beat.token, beat.status)).collect();
        let (unsaid, draining) = (Status::Unspecified, Status::Draining);
        assert_eq!(got, [(Some(token()), unsaid), (None, draining), (None, unsaid), (Some(token()), unsaid)]);
        assert_eq!(read.refused, [(2, -1), (3, 77)]);
        assert_eq!([read.namespace, read.service, read.id], ["shop", "web", "web-1"]);
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_no_panic() {
        let beats = vec![proto::Beat { lease_token: token().encode(), status: 2 }];
        let whole = proto::HeartbeatRequest { beats, ..Default::default() }.encode_to_vec();
        for end in 1..whole.len() {
            assert!(read(&whole[..end], 10).is_err(), "{end}");
        }
        let mut later = whole.clone();
        later.extend_from_slice(&[15 << 3, 1]);
        assert_eq!(read(&later, 10).expect("skipped").beats.len(), 1);
    }

    /// Four megabytes of empty beats are two million of them, and take no memory to be refused.
    #[test]
    fn beats_beyond_the_limit_are_counted_and_not_kept() {
        let many = [1 << 3 | 2, 0].repeat(2 << 20);
        let read = read(&many, 10_000).expect("readable");
        assert_eq!((read.beats.len(), read.count), (10_000, 2 << 20));
        assert!(read.beats.capacity() < 20_000, "{}", read.beats.capacity());
        // Nor is what is wrong with each.
        let wrong = [1 << 3 | 2, 2, 2 << 3, 77].repeat(1 << 20);
        let read = self::read(&wrong, 10_000).expect("readable");
        assert_eq!((read.refused.len(), read.count), (10_000, 1 << 20));
    }

    #[test]
    fn responses_are_what_the_generated_types_read() {
        use BeatOutcome::{Denied, Expired, Renewed, Superseded, TryAgain, Unknown};
        let outcomes = vec![
            Renewed(10_000),
            Renewed(10_000),
            Renewed(1_500),
            Expired,
            Unknown,
            Superseded,
            Denied,
            TryAgain,
            Renewed(3_600_000),
            Superseded,
        ];
        let holders = vec![(5, "a:80".to_owned()), (9, "h".repeat(300))];
        let response = HeartbeatResponse { outcomes, holders, revision: 300 };
        let bytes = response.encode_to_vec();
        assert_eq!(bytes.len(), response.encoded_len());
        let read = proto::HeartbeatResponse::decode(bytes.as_slice()).expect("readable");
        let states: Vec<_> = read.results.iter().map(proto::BeatResult::state).collect();
        assert_eq!(
            states,
            [
                BeatState::Renewed,
                BeatState::Renewed,
                BeatState::Renewed,
                BeatState::Expired,
                BeatState::Unknown,
                BeatState::Superseded,
                BeatState::Denied,
                BeatState::Unspecified,
                BeatState::Renewed,
                BeatState::Superseded
            ]
        );
        let named: Vec<_> = read.results.iter().map(|result| result.holder.len()).collect();
        assert_eq!((named, read.results[5].holder.as_str()), (vec![0, 0, 0, 0, 0, 4, 0, 0, 0, 300], "a:80"));
        let ttls: Vec<_> = read.results.iter().map(|result| result.ttl.map(|ttl| (ttl.seconds, ttl.nanos))).collect();
        assert_eq!(ttls[..4], [Some((10, 0)), Some((10, 0)), Some((1, 500_000_000)), None]);
        assert_eq!((ttls[8], read.revision), (Some((3_600, 0)), 300));
        assert_eq!(read.encode_to_vec(), bytes);
    }
}
