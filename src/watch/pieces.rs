//! Fields of a message that may be larger than one may be: cut into pieces that fit.

use bytes::Bytes;

use super::frame::EVENTS_BYTES_MAX;

/// Elements of a message's fields, in pieces that fit into a message.
#[derive(Default)]
pub(super) struct Pieces {
    full: Vec<Bytes>,
    /// The one that is being filled.
    pub(super) last: Vec<u8>,
}

impl Pieces {
    /// Begins another piece if so many bytes do not fit into this one.
    pub(super) fn make_room(&mut self, bytes: usize) {
        if !self.last.is_empty() && self.last.len() + bytes > EVENTS_BYTES_MAX {
            self.full.push(Bytes::from(std::mem::take(&mut self.last)));
        }
    }

    /// All of them; none if there is nothing in them.
    pub(super) fn done(mut self) -> Option<Box<[Bytes]>> {
        if !self.last.is_empty() {
            self.full.push(self.last.into());
        }
        (!self.full.is_empty()).then(|| self.full.into())
    }
}
