//! onair.
pub mod proto;
pub mod registry;
