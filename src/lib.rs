//! onair: a service registry and discovery control plane.
//!
//! - [`proto`]: the API as generated from `proto/`.
//! - [`registry`]: the state and every rule, pure and synchronous.
//! - [`access`]: who may do what: grants, and the one check that all fronts pass.
//! - [`engine`]: orders proposals and makes them durable.
//! - [`actor`]: the one task that owns the state, and the handle to it.
//! - [`watch`]: the event log, what watchers share, and each one's stream.
//! - [`metrics`]: everything that is measured, in one table.
//! - [`export`]: the catalog as texts that other programs read.
//! - [`grpc`]: the gRPC front.
//! - [`http`]: what a port answers, and the fronts that are not gRPC.
//! - [`tls`]: certificates, and what they say.
//! - [`server`]: binds every listener and stops them in order.
//! - [`config`]: settings, their defaults and units.
//! - [`cli`]: the `onair` command.
pub mod access;
pub mod actor;
pub mod cli;
pub mod config;
pub mod engine;
pub mod export;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod proto;
pub mod registry;
pub mod server;
pub mod tls;
pub mod watch;

/// The version with the commit that it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ONAIR_COMMIT"), ")");
