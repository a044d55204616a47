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
//! - [`framed`]: a message of gRPC, and the bytes before it.
//! - [`grpc`]: the gRPC front.
//! - [`laps`]: who goes when more is asked for than can be done.
//! - [`http`]: what a port answers, and the fronts that are not gRPC.
//! - [`tls`]: certificates, and what they say.
//! - [`server`]: binds every listener and stops them in order.
//! - [`config`]: settings, their defaults and units.
//! - [`client`]: the client for programs in Rust; with the feature `client` alone it is there without what servers need.
//! - [`cli`]: the `onair` command.
//! - [`text`]: how a few things are written, wherever they are.

// The modules of the server are named above, and are not there for the client alone.
#![cfg_attr(not(feature = "server"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "server")]
pub mod access;
#[cfg(feature = "server")]
pub mod actor;
#[cfg(feature = "server")]
pub mod cli;
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod export;
#[cfg(feature = "server")]
pub mod framed;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod laps;
#[cfg(feature = "server")]
pub mod metrics;
mod private;
pub mod proto;
#[cfg(feature = "server")]
pub mod registry;

/// The parts of the registry that a client has as well.
#[cfg(not(feature = "server"))]
pub mod registry {
    mod instance;
    mod pick;

    pub use instance::{Cause, EventType, Instance, Status};
    pub use pick::{Candidate, Choice, MAX_PICK_KEY_BYTES, Share, pick, pick_behind};
}

#[cfg(feature = "server")]
pub mod server;
pub mod text;
pub mod tls;
#[cfg(feature = "server")]
pub mod watch;

/// The version with the commit that it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ONAIR_COMMIT"), ")");
