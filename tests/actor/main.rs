//! The task that owns the state, in paused time and without processes: one test for each promise that can be judged
//! here, then everything at once under a seed. Knows no front but for the last.

mod breaker;
mod catalog;
mod clock;
mod drain;
mod expiry;
mod fencing;
#[path = "../history/mod.rs"]
mod history;
mod quota;
mod removal;
mod rig;
mod slow;
mod watching;
