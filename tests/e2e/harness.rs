//! A registry as a process of its own: started on a free port, signalled, killed, and started again where it was; and
//! the ways to wait for what it does. Knows no behaviour: what has to hold is in the tests.

mod command;
mod follower;
mod http;
mod http2;
mod keeper;
mod pki;
mod requests;
mod server;
mod terminal;
mod way;

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

pub use command::{ONAIR, Running, onair, said, signal};
pub use follower::{Follower, Seen};
pub use http::{Http, Said};
pub use http2::Http2;
pub use keeper::Keeper;
pub use pki::{Authority, Files, channel, client_files, handshake, shows, write};
pub use requests::{all, beat, bulk, everything, lookup, register, register_with, seconds, selector};
pub use server::Server;
pub use terminal::Terminal;
pub use way::{Passage, Way};

/// How long anything may take that ought to come soon: only a test that fails waits for so long.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for `what`, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Lets time pass, where the passing of time is what the test is about.
pub async fn pass(time: Duration) {
    tokio::time::sleep_until(tokio::time::Instant::now() + time).await;
}

/// Tests that would starve others, or be starved by them, take turns.
pub async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// `later` is so long after `earlier`, in milliseconds with a sign.
pub fn millis_after(later: Instant, earlier: Instant) -> f64 {
    let (forth, back) = (later.saturating_duration_since(earlier), earlier.saturating_duration_since(later));
    (forth.as_secs_f64() - back.as_secs_f64()) * 1_000.0
}

/// Numbers that look random and are the same for the same seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// One below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*: good enough to choose between operations.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}
