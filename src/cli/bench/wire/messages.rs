//! gRPC messages in a stream of bytes.

use prost::Message;

use crate::{
    cli::bench::Error,
    framed::{Framed, HEAD},
};

/// The longest message that is put together: the longest reply anything sends here.
const MESSAGE_MAX: usize = 8 << 20;

/// A message as it goes on the wire.
pub(in crate::cli::bench) fn framed(message: &impl Message) -> Vec<u8> {
    Framed::encoded(message).into_bytes().into()
}

/// Puts together the messages of one stream. Whole ones are handed on in place, without a copy.
#[derive(Default)]
pub(in crate::cli::bench) struct Messages {
    partial: Vec<u8>,
}

impl Messages {
    /// Hands on every message that is complete with `data`.
    pub(in crate::cli::bench) fn feed(
        &mut self,
        data: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.partial.is_empty() {
            let used = split(data, &mut each)?;
            self.partial.extend_from_slice(&data[used..]);
            return Ok(());
        }
        self.partial.extend_from_slice(data);
        let used = split(&self.partial, &mut each)?;
        self.partial.drain(..used);
        if self.partial.is_empty() {
            self.partial = Vec::new(); // thousands of idle streams keep no buffers
        }
        Ok(())
    }
}

/// Hands on the whole messages at the start of `data`; answers how long they are.
fn split(data: &[u8], each: &mut impl FnMut(&[u8]) -> Result<(), Error>) -> Result<usize, Error> {
    let mut used = 0;
    while let Some(&[flag, a, b, c, d]) = data[used..].first_chunk::<HEAD>() {
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag != 0 || len > MESSAGE_MAX {
            return Err(Error::Protocol(format!("a message with flag {flag} of {len} bytes")));
        }
        let Some(body) = data.get(used + HEAD..used + HEAD + len) else { break };
        each(body)?;
        used += HEAD + len;
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes are cut, the same messages come out.
    #[test]
    fn cut_anywhere() {
        let texts = ["", "a", "message", "another one"];
        let bytes: Vec<u8> = texts.iter().flat_map(|text| framed(&(*text).to_owned())).collect();
        for size in 1..=bytes.len() {
            let (mut messages, mut seen) = (Messages::default(), Vec::new());
            for part in bytes.chunks(size) {
                let each = |body: &[u8]| {
                    seen.push(String::decode(body).unwrap());
                    Ok(())
                };
                messages.feed(part, each).unwrap();
            }
            assert_eq!(seen, texts, "in parts of {size}");
            assert!(messages.partial.is_empty());
        }
    }
}
