//! Who may do what: grants, the rule of every call and route, and the one check that all fronts pass. Knows neither what
//! is registered nor how a request is served.

pub mod audit;
mod caller;
mod gate;
mod grants;
pub mod jwt;
mod rules;
mod tenure;
pub mod token;

pub use caller::{Caller, Wanted, Who};
pub use gate::{Clock, Gate, Keeper};
pub use grants::{Grant, Grants, Permission, Permissions, allows, unknown};
pub use rules::{Entry, HTTP, OPEN, RPCS, Reach, Rule, of_http, of_rpc};
pub use tenure::Tenure;
