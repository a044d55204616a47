//! Who may do what: grants, the rule of every call and route, and the one check that all fronts pass. Knows neither what
//! is registered nor how a request is served.

mod grants;
mod rules;

pub use grants::{Grant, Grants, Permission, Permissions, allows, unknown};
pub use rules::{Entry, HTTP, RPCS, Reach, Rule, of_http, of_rpc};
