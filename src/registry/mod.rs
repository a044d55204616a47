//! The registry's committed state and every rule that changes it.
mod instance;
pub use instance::{Cause, EventType, Instance, Status};
