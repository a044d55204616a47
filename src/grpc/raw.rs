//! Replies as bytes that were encoded once: what the server sends where the generated types would encode every time.
//! Only ever sent, never read.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, skip_field},
};

macro_rules! raw {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default)]
        pub struct $name(pub Bytes);

        impl Message for $name {
            fn encode_raw(&self, buffer: &mut impl BufMut) {
                buffer.put_slice(&self.0);
            }

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
                self.0.len()
            }

            fn clear(&mut self) {
                self.0.clear();
            }
        }
    )+};
}

raw! {
    /// An encoded `onair.v1.GetInstanceResponse`.
    GetInstanceResponse,
    /// An encoded `onair.v1.WatchResponse`.
    WatchResponse,
    /// An encoded `onair.v1.SubscribeResponse`.
    SubscribeResponse,
}

/// An `onair.v1.LookupResponse`: the instances, encoded once, and the rest.
#[derive(Clone, Debug, Default)]
pub struct LookupResponse {
    /// Elements of `instances`.
    pub instances: Bytes,
    /// The other fields.
    pub rest: Vec<u8>,
}

impl Message for LookupResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.instances);
        buffer.put_slice(&self.rest);
    }

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
        self.instances.len() + self.rest.len()
    }

    fn clear(&mut self) {
        self.instances.clear();
        self.rest.clear();
    }
}
