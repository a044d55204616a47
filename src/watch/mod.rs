//! What watchers share: the log of events, the messages made from it, and each reader's place. Knows nothing of gRPC
//! beyond the bytes of a message, and nothing of commands.

mod board;
mod budget;
mod drain;
mod due;
mod feed;
mod frame;
mod hub;
mod judge;
mod lag;
mod listener;
mod log;
mod pages;
mod partitions;
mod pieces;
mod pointers;
mod rate;
mod ready;
mod recent;
mod relay;
mod resume;
mod seats;
mod snapshot;
mod stream;
mod subscription;
mod subscriptions;
#[cfg(test)]
mod tests;

pub use board::{BOX_BYTES_MAX, BOX_EVENTS_MAX, Board, Handed, Letterbox, Post};
pub use budget::{Budget, Charge};
pub use drain::{DRAIN_ASKS_MAX, Drain, Standings};
pub use feed::{Budgets, Feed, Message, Next};
pub use frame::{LOOKUP_FRONTENDS, push_frontend};
pub use hub::{Hub, HubOptions};
pub use judge::{Seen, judge, judge_turn};
pub use lag::{Lag, Lagging, Lags};
pub use listener::{Listener, ONLY_PART};
pub use log::{Entry, EventLog, Extent, Forgotten};
pub use partitions::Place;
pub use rate::{RATE_MAX, RATE_TOTAL_MAX, Rates};
pub use ready::{Progress, ReadyWatch};
pub use relay::Relay;
pub use resume::{ResetReason, ResumeToken};
pub use seats::{Seats, WatchPermit};
pub use stream::{Ending, WatchItem, WatchStream};
pub use subscriptions::Subscriptions;
