//! Where connections are that have not finished their TLS handshake. They have a place like all others, and are given no
//! more than a part of the places: when there are more of them, the one that has been here for longest has to go, since
//! who means it is done in a few round trips. So whoever opens connections and says nothing keeps nobody out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// One of so many places may be taken by somebody who has not finished.
const SHARE: usize = 4;

/// Everyone who has not finished.
#[derive(Debug)]
pub(super) struct Lobby {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// In the order of their coming.
    guests: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Lobby {
    /// For a server with so many places for connections.
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { most: (places / SHARE).max(1), waiting: Mutex::default() })
    }

    /// Lets one in, and asks the oldest to go if there are too many now.
    pub(super) fn enter(self: &Arc<Self>) -> Guest {
        let (ask, asked) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiting.next;
        waiting.next += 1;
        waiting.guests.insert(number, ask);
        if waiting.guests.len() > self.most
            && let Some((_, oldest)) = waiting.guests.pop_first()
        {
            // It may be about to leave by itself.
            let _ = oldest.send(());
        }
        Guest { lobby: Arc::clone(self), number, asked }
    }
}

/// Somebody who has not finished; gone when dropped.
#[derive(Debug)]
pub(super) struct Guest {
    lobby: Arc<Lobby>,
    number: u64,
    asked: oneshot::Receiver<()>,
}

impl Guest {
    /// Returns when it has to go.
    pub(super) async fn asked_to_go(&mut self) {
        let _ = (&mut self.asked).await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.lobby.waiting.lock().unwrap_or_else(PoisonError::into_inner).guests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let lobby = Lobby::new(9);
        let mut guests: Vec<_> = (0..4).map(|_| lobby.enter()).collect();
        let asked = |guests: &mut Vec<Guest>| -> Vec<bool> {
            guests.iter_mut().map(|guest| guest.asked_to_go().now_or_never().is_some()).collect()
        };
        assert_eq!(asked(&mut guests), [true, true, false, false]);
        drop(guests.remove(0));
        drop(guests.remove(2));
        guests.push(lobby.enter());
        assert_eq!(lobby.waiting.lock().unwrap().guests.len(), 2, "one left, one came, none has to go");
        assert!(guests[1..].iter_mut().all(|guest| guest.asked_to_go().now_or_never().is_none()));
    }
}
