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
        pub struct $name {
            /// What other replies may say too: it is encoded once.
            pub shared: Bytes,
            /// The fields that are this reply's own.
            pub own: Vec<u8>,
        }

        impl Message for $name {
            fn encode_raw(&self, buffer: &mut impl BufMut) {
                buffer.put_slice(&self.shared);
                buffer.put_slice(&self.own);
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
                self.shared.len() + self.own.len()
            }

            fn clear(&mut self) {
                self.shared.clear();
                self.own.clear();
            }
        }
    )+};
}

raw! {
    /// An encoded `onair.v1.GetInstanceResponse`.
    GetInstanceResponse,
    /// An encoded `onair.v1.LookupResponse`: the instances, and the rest.
    LookupResponse,
}
