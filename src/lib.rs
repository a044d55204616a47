//! onair: a service registry and discovery control plane.
//!
//! - [`proto`]: the API as generated from `proto/`.
//! - [`registry`]: the state and every rule, pure and synchronous.
//! - [`engine`]: orders proposals and makes them durable.
//! - [`grpc`]: the gRPC front.
//! - [`config`]: settings, their defaults and units.
//! - [`cli`]: the `onair` command.
pub mod cli;
pub mod config;
pub mod engine;
pub mod grpc;
pub mod proto;
pub mod registry;
