//! The registry's committed state and every rule that changes it.
//!
//! Nothing here awaits, reads a clock, draws a random number or knows gRPC. `decide` says what should become of a
//! command; `fold` takes in what was committed, whoever proposed it.

mod change;
mod error;
mod filter;
mod instance;
mod key;
mod name;
mod pick;
mod record;
mod registration;
mod selector;
mod syntax;
mod token;
mod version;

pub use change::{Change, Delete, Event, Guarded, Put, Stamp, put_cause};
pub use error::{Error, Violation};
pub use filter::{Filter, FilterSet, Scope};
pub use instance::{Cause, EventType, Instance, Status};
pub use key::{Fingerprint, Key, Revision, request_fingerprint};
pub use name::{ALL_NAMESPACES, DEFAULT_NAMESPACE, MAX_NAME_BYTES, check_name, check_new_namespace};
pub use pick::{Candidate, Choice, MAX_PICK_KEY_BYTES, pick};
pub use record::{Lease, Record, names};
pub use registration::{Context, LeaseTtl, Registration};
pub use selector::{MAX_SELECTOR_BYTES, Selector};
pub use syntax::SyntaxError;
pub use token::{LeaseId, LeaseToken, Secret, SecretHash};
pub use version::{MAX_VERSION_BYTES, VersionMatch};
