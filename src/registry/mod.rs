//! The registry's committed state and every rule that changes it.
//!
//! Nothing here awaits, reads a clock, draws a random number or knows gRPC. `decide` says what should become of a
//! command; `fold` takes in what was committed, whoever proposed it.

mod change;
mod error;
mod instance;
mod key;
mod record;
mod token;

pub use change::{Change, Delete, Event, Guarded, Put, Stamp};
pub use error::{Error, Violation};
pub use instance::{Cause, EventType, Instance, Status};
pub use key::{Fingerprint, Key, Revision, request_fingerprint};
pub use record::{Lease, Record};
pub use token::{LeaseId, LeaseToken, Secret, SecretHash};
