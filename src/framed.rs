//! A message as gRPC sends it: behind five bytes that say whether it is compressed, and how long it is. Nothing of ours ever
//! is compressed. Knows nothing of what messages say.

use bytes::{Buf as _, Bytes};
use prost::Message;

/// Bytes before a message.
pub const HEAD: usize = 5;

/// An encoded message with its head: it can go to the wire as it is, however many read it.
#[derive(Clone, Debug)]
pub struct Framed(Bytes);

impl Framed {
    /// Room for a message of about so many bytes; it is appended to what this gives.
    #[must_use]
    pub fn room(bytes: usize) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(HEAD + bytes);
        buffer.resize(HEAD, 0);
        buffer
    }

    /// The message that was appended to a room.
    #[must_use]
    pub fn of(mut room: Vec<u8>) -> Self {
        let length = room.len() - HEAD;
        room[..HEAD].copy_from_slice(&head(length));
        Self(room.into())
    }

    /// A message, which is encoded.
    #[must_use]
    pub fn encoded(message: &impl Message) -> Self {
        let mut room = Self::room(message.encoded_len());
        message.encode_raw(&mut room);
        Self::of(room)
    }

    /// A message that is encoded already.
    #[must_use]
    pub fn copied(message: &[u8]) -> Self {
        let mut room = Self::room(message.len());
        room.extend_from_slice(message);
        Self::of(room)
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> Bytes {
        self.0.slice(HEAD..)
    }

    /// As it goes to the wire.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// It has these encoded fields, too.
    #[must_use]
    pub fn with(&self, fields: &[u8]) -> Self {
        let mut room = Self::room(self.len() + fields.len());
        room.extend_from_slice(&self.0[HEAD..]);
        room.extend_from_slice(fields);
        Self::of(room)
    }

    /// Bytes of the message.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len() - HEAD
    }
}

/// What stands before a message of so many bytes.
#[must_use]
pub fn head(length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// The message that some bytes are: all of it, nothing more, and not compressed.
#[must_use]
pub fn only(came: &Bytes) -> Option<Bytes> {
    let (&[compressed, ref length @ ..], message) = came.split_first_chunk::<HEAD>()?;
    let is_whole = u32::from_be_bytes(*length) as usize == message.len();
    (compressed == 0 && is_whole).then(|| came.slice(HEAD..))
}

/// Takes the first message out of what came, once all of it is there.
pub fn take(came: &mut Bytes) -> Option<Bytes> {
    let length = came.get(1..HEAD)?.get_u32() as usize;
    if came.len() - HEAD < length {
        return None;
    }
    came.advance(HEAD);
    Some(came.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_framed_is_taken_out_again() {
        let framed = Framed::copied(b"ab").with(b"c");
        assert_eq!((framed.len(), framed.message()), (3, Bytes::from_static(b"abc")));
        let whole = framed.into_bytes();
        assert_eq!(Framed::encoded(&"abc".to_owned()).message(), "abc".to_owned().encode_to_vec());
        assert_eq!(&whole[..], b"\0\0\0\0\x03abc");
        for cut in 0..whole.len() {
            assert_eq!(take(&mut whole.slice(..cut)), None, "the first {cut} bytes of it");
        }
        assert_eq!(only(&whole).as_deref(), Some(&b"abc"[..]));
        for other in [&whole[..7], &[&whole[..], b"d"].concat(), b"\x01\0\0\0\x03abc", b"\0\0", b""] {
            assert_eq!(only(&Bytes::copy_from_slice(other)), None, "{other:?}");
        }
        assert_eq!(head(1 << 20), [0, 0, 16, 0, 0]);
        let mut both = Bytes::from([&whole[..], &Framed::copied(b"").into_bytes()[..]].concat());
        assert_eq!(take(&mut both).as_deref(), Some(&b"abc"[..]));
        assert_eq!((take(&mut both), take(&mut both)), (Some(Bytes::new()), None));
    }
}
