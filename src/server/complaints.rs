//! What happens often is complained of seldom: each reason for itself, at once when it is new, and from then on once in a
//! while how often it was held back. Knows nothing of what happens.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

/// How long nothing is said of what was said just now.
const PAUSE: Duration = Duration::from_secs(1);
/// Reasons that are told apart at once: some are of the client's own words.
const REASONS_MAX: usize = 32;
/// Under what all further ones are held back.
const OTHERS: &str = "";

/// Says why, who it was, and how often since it was said last.
type Say = dyn Fn(&str, SocketAddr, u64) + Send + Sync;

/// The reasons of the last while.
#[derive(Clone)]
pub(super) struct Complaints {
    held: Arc<Mutex<HashMap<String, Held>>>,
    say: Arc<Say>,
}

/// What was held back of a reason, and whom it concerned last.
struct Held {
    times: u64,
    reason: String,
    from: SocketAddr,
}

impl fmt::Debug for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Complaints").field("reasons", &self.held().len()).finish_non_exhaustive()
    }
}

impl Complaints {
    /// Nothing has happened yet; `say` is how it is told.
    pub(super) fn new(say: impl Fn(&str, SocketAddr, u64) + Send + Sync + 'static) -> Self {
        Self { held: Arc::default(), say: Arc::new(say) }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It happened once more. Has to run on a runtime, which tells later what is held back now.
    pub(super) fn note(&self, reason: String, from: SocketAddr) {
        let key = {
            let mut held = self.held();
            let is_one_too_many = held.len() >= REASONS_MAX && !held.contains_key(&reason);
            let key = if is_one_too_many { OTHERS } else { &reason };
            if let Some(known) = held.get_mut(key) {
                *known = Held { times: known.times + 1, reason, from };
                return;
            }
            let key = key.to_owned();
            held.insert(key.clone(), Held { times: 0, reason: reason.clone(), from });
            key
        };
        (self.say)(&reason, from, 1);
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                sleep(PAUSE).await;
                let Some((reason, from, times)) = this.take(&key) else { return };
                (this.say)(&reason, from, times);
            }
        });
    }

    /// What was held back; nothing was: then the next one is new.
    fn take(&self, key: &str) -> Option<(String, SocketAddr, u64)> {
        let mut held = self.held();
        let known = held.get_mut(key).filter(|known| known.times > 0);
        let taken = known.map(|known| (known.reason.clone(), known.from, std::mem::take(&mut known.times)));
        if taken.is_none() {
            held.remove(key);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use tokio::{task::yield_now, time::advance};

    use super::*;

    /// What was said, and how often it was so, in order.
    type Said = Arc<Mutex<Vec<(String, u64)>>>;

    /// Complaints, and what comes of them.
    fn heard() -> (Complaints, Said) {
        let said = Said::default();
        let to = Arc::clone(&said);
        (Complaints::new(move |why, _, times| to.lock().unwrap().push((why.to_owned(), times))), said)
    }

    async fn pass(time: Duration) {
        advance(time).await;
        for _ in 0..8 {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_said_at_once_and_then_once_a_second_and_none_is_lost() {
        let (complaints, said) = heard();
        let from = SocketAddr::from(([127, 0, 0, 1], 1));
        for number in 0..50 {
            complaints.note("often".to_owned(), from);
            if number == 30 {
                complaints.note("once".to_owned(), from);
            }
            pass(Duration::from_millis(50)).await;
        }
        for _ in 0..3 {
            pass(PAUSE).await;
        }
        let said = said.lock().unwrap();
        let of = |why: &str| said.iter().filter(|(said, _)| said == why).map(|(_, times)| *times).collect::<Vec<_>>();
        assert_eq!((of("often")[0], of("often").iter().sum::<u64>(), of("often").len()), (1, 50, 4), "{said:?}");
        assert_eq!(of("once"), [1]);
        assert!(complaints.held().is_empty(), "nothing is kept of what is over");
    }

    /// Whoever thinks of a new reason each time fills neither the log nor the memory.
    #[tokio::test(start_paused = true)]
    async fn of_too_many_reasons_the_rest_is_counted_together() {
        let (complaints, said) = heard();
        for number in 0..1_000 {
            complaints.note(format!("reason {number}"), SocketAddr::from(([127, 0, 0, 1], 1)));
        }
        assert_eq!(complaints.held().len(), REASONS_MAX + 1);
        for _ in 0..3 {
            pass(PAUSE).await;
        }
        let said = said.lock().unwrap();
        assert_eq!(said.last(), Some(&("reason 999".to_owned(), 1_000 - REASONS_MAX as u64 - 1)));
        assert_eq!(said.len(), REASONS_MAX + 2);
    }
}
