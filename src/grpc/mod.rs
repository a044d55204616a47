//! The gRPC front: requests become domain types, the handle is called, and what comes back becomes messages. No rule of
//! the registry lives here.

mod admin;
mod allowed;
pub mod beats;
pub mod catalog;
pub mod codec;
mod convert;
pub mod deadline;
pub mod deployments;
mod dispatch;
mod drain;
mod entered;
mod errors;
pub mod floor;
mod handed;
pub mod health;
mod heartbeats;
mod measured;
mod namespaces;
pub mod raw;
pub mod registry;
pub mod status;
mod subscribe;
mod unary;

/// The server side of the API, as generated: hot replies are `raw` bytes.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/onair.v1.rs"));
}

pub use admin::AdminService;
pub use catalog::CatalogService;
pub use convert::wait;
pub use deployments::{DeploymentsService, may_deploy};
#[cfg(test)]
pub(crate) use dispatch::answering;
pub use dispatch::{Answering, Dispatch};
pub use errors::CanonicalErrors;
pub(crate) use measured::{Enough, count_refusal};
pub use registry::{RegistryService, ServiceOptions};
pub use unary::Unary;
