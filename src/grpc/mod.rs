//! The gRPC front.
