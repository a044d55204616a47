//! The codec of every call: prost, with small buffers (an idle stream keeps one) and the errors that we promise.

use std::marker::PhantomData;

use prost::{DecodeError, Message};
use tonic::{
    Status,
    codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::status::{self, Reason};

/// An idle stream keeps a buffer of this size; a larger message makes it grow for as long as it is needed.
const BUFFER: usize = 512;
/// How many bytes of ready messages are gathered before they are handed to the connection.
const YIELD: usize = 32 * 1024;

/// The codec.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encode<T>;
    type Decoder = Decode<U>;

    fn encoder(&mut self) -> Encode<T> {
        Encode(PhantomData)
    }

    fn decoder(&mut self) -> Decode<U> {
        Decode(PhantomData)
    }
}

/// Writes replies.
#[derive(Debug)]
pub struct Encode<T>(PhantomData<T>);

impl<T: Message> Encoder for Encode<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| status::plain(Reason::Internal, error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}

/// What is said of a message that cannot be decoded.
pub(super) fn unreadable(error: &DecodeError) -> Status {
    let text = error.to_string();
    // The only way that prost says it.
    if text.contains("recursion limit") {
        return status::plain(Reason::TooDeep, "the message is nested too deep");
    }
    status::plain(Reason::Malformed, format!("the message cannot be decoded: {text}"))
}

/// Reads requests.
#[derive(Debug)]
pub struct Decode<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for Decode<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer).map(Some).map_err(|error| unreadable(&error))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}
