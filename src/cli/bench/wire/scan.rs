//! Reads single fields of encoded messages without decoding the rest.

/// A field's number and value.
pub(in crate::cli::bench) enum Field<'a> {
    /// A number, boolean or enum.
    Number(u32, u64),
    /// A message, text or bytes.
    Bytes(u32, &'a [u8]),
}

/// The fields of an encoded message, in its order. Ends at the first thing that is not protobuf; fixed-size fields,
/// which the API does not have at these places, are passed over.
pub(in crate::cli::bench) struct Fields<'a>(pub(in crate::cli::bench) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    #[inline]
    fn next(&mut self) -> Option<Field<'a>> {
        loop {
            let key = varint(&mut self.0)?;
            let number = (key >> 3) as u32;
            match key & 7 {
                0 => return Some(Field::Number(number, varint(&mut self.0)?)),
                2 => {
                    let len = varint(&mut self.0)? as usize;
                    let (value, rest) = self.0.split_at_checked(len)?;
                    self.0 = rest;
                    return Some(Field::Bytes(number, value));
                }
                1 => self.0 = self.0.get(8..)?,
                5 => self.0 = self.0.get(4..)?,
                _ => return None,
            }
        }
    }
}

#[inline]
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// How many of the results of a `HeartbeatResponse` are RENEWED, and how many are not.
pub(in crate::cli::bench) fn renewed(reply: &[u8]) -> (u64, u64) {
    let (mut good, mut bad) = (0, 0);
    for field in Fields(reply) {
        if let Field::Bytes(1, result) = field {
            match Fields(result).any(|field| matches!(field, Field::Number(1, 1))) {
                true => good += 1,
                false => bad += 1,
            }
        }
    }
    (good, bad)
}

/// How many submessages `number` there are (the instances of a `LookupResponse`).
pub(in crate::cli::bench) fn records(reply: &[u8], number: u32) -> usize {
    Fields(reply).filter(|field| matches!(field, Field::Bytes(n, _) if *n == number)).count()
}

/// The event type, the cause and the encoded instance of an `Event`.
pub(in crate::cli::bench) fn event_records(event: &[u8]) -> (u64, u64, &[u8]) {
    let (mut kind, mut cause, mut instance) = (0, 0, &[][..]);
    for field in Fields(event) {
        match field {
            Field::Number(1, value) => kind = value,
            Field::Number(2, value) => cause = value,
            Field::Bytes(3, value) => instance = value,
            _ => {}
        }
    }
    (kind, cause, instance)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::{BeatResult, BeatState, Event, EventType, HeartbeatResponse, Instance};

    #[test]
    fn counts_renewals() {
        let result = |state: BeatState| BeatResult { state: state.into(), ..BeatResult::default() };
        let results = vec![result(BeatState::Renewed), result(BeatState::Expired), result(BeatState::Renewed)];
        let reply = HeartbeatResponse { results, revision: 300 };
        assert_eq!(renewed(&reply.encode_to_vec()), (2, 1));
        assert_eq!(records(&reply.encode_to_vec(), 1), 3);
    }

    #[test]
    fn reads_events() {
        let instance = Instance { service: "web".to_owned(), ..Instance::default() };
        let event = Event { r#type: EventType::Offline.into(), cause: 5, instance: Some(instance.clone()) };
        let bytes = event.encode_to_vec();
        assert_eq!(event_records(&bytes), (3, 5, &instance.encode_to_vec()[..]));
        assert_eq!(event_records(&[0xff; 3]), (0, 0, &[][..]));
    }
}
