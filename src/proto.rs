//! The types that the protos describe, as generated; `Instance` and its enums are `registry`'s own.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

pub use crate::registry::{Cause, EventType, Instance, Status};

include!(concat!(env!("OUT_DIR"), "/onair.v1.rs"));

/// The floor that benchmarks compare with.
#[cfg(feature = "server")]
pub mod bench {
    include!(concat!(env!("OUT_DIR"), "/onair.bench.v1.rs"));
}

/// Every descriptor of the API with its comments, as a serialised `FileDescriptorSet`: what reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/onair.bin"));

/// The same without comments, which are most of what descriptors take in memory: what messages are read and written by.
pub const BARE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/onair-bare.bin"));
