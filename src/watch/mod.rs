//! What watchers share: the log of events, the messages made from it, and each reader's place. Knows nothing of gRPC
//! beyond the bytes of a message, and nothing of commands.

mod feed;
mod frame;
mod hub;
mod judge;
mod lag;
mod listener;
mod log;
mod resume;
mod snapshot;
mod stream;
mod subscriptions;

pub use feed::{Feed, Message, Next};
pub use hub::WatchPermit;
pub use hub::{Hub, HubOptions};
pub use judge::{Seen, judge};
pub use lag::{Lag, Lagging, Lags};
pub use listener::{Listener, ONLY_PART};
pub use log::{Entry, EventLog, Extent, Forgotten};
pub use resume::{ResetReason, ResumeToken};
pub use stream::{Ending, WatchItem, WatchStream};
pub use subscriptions::Subscriptions;
