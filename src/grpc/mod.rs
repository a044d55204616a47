//! The gRPC front.
pub mod floor;
