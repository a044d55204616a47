//! What connections read, in laps: one on which beats may come reads whatever is there, any other so much in each of its turns.
//! What is to be written is written at once. So it is while more comes on all of them than can be read at once. Knows
//! nothing of what is called.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

use super::gather::Turns;
use crate::laps::{Kind, Laps, Place, Unread};

/// Whether beats may come on a connection, since one did or since it cannot be told.
#[derive(Clone, Debug, Default)]
pub(super) struct Beats(Arc<AtomicBool>);

impl Beats {
    /// They may.
    pub(super) fn expect(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn may_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes that are read of a connection in a turn: about a hundred small calls.
const READ_MAX: usize = 8 << 10;
/// After so many turns a connection has read all that its socket can have held when the first of them was asked for.
const TURNS_MAX: u32 = (64 << 20) / READ_MAX as u32;

/// A connection in its laps.
pub(super) struct Paced<C, S> {
    turns: Turns<C, S>,
    laps: Laps,
    place: Place,
    /// Something may have come that it has not read, and how often it has read since.
    unread: Option<(Unread, u32)>,
    beats: Beats,
}

impl<C, S> Paced<C, S> {
    pub(super) fn new(turns: Turns<C, S>, laps: Laps, beats: Beats) -> Self {
        Self { turns, laps, place: Place::default(), unread: None, beats }
    }

    pub(super) fn connection(self: Pin<&mut Self>) -> Pin<&mut C>
    where
        C: Unpin,
    {
        Pin::new(&mut self.get_mut().turns).connection()
    }
}

impl<C: Future + Unpin, S: AsyncWrite + Unpin> Future for Paced<C, S> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        if this.beats.may_come() {
            let (ended, _) = this.turns.turn(usize::MAX, context);
            (this.place, this.unread) = (Place::default(), None);
            return ended;
        }
        let has_turn = this.laps.poll(&mut this.place, Kind::Connection, context).is_ready();
        let (ended, is_cut) = this.turns.turn(if has_turn { READ_MAX } else { 0 }, context);
        if has_turn && !is_cut {
            this.unread = None;
            return ended;
        }
        let (_, turns) = this.unread.get_or_insert_with(|| (this.laps.unread(), 0));
        *turns += u32::from(has_turn);
        if *turns >= TURNS_MAX {
            this.unread = Some((this.laps.unread(), 0));
        }
        // It may have turned out just now that beats come.
        if this.beats.may_come() || has_turn && !this.laps.wait(&mut this.place, Kind::Backlog, context) {
            context.waker().wake_by_ref();
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        task::JoinSet,
    };

    use super::*;
    use crate::server::gather::Gathering;

    #[tokio::test]
    async fn those_with_beats_go_at_once_and_the_others_in_their_turn() {
        let (laps, mut all) = (Laps::default(), JoinSet::new());
        let gone = [Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default()];
        for number in 0..600 {
            let has_beats = number >= 400;
            let (beats, gone) = (Beats::default(), Arc::clone(&gone[usize::from(has_beats)]));
            if has_beats {
                beats.expect();
            }
            let (mut theirs, ours) = duplex(1);
            theirs.write_all(b"?").await.expect("room");
            let mut stream = Gathering::new(ours);
            let shared = stream.share();
            let reads = Box::pin(async move {
                stream.read_u8().await.expect("a byte");
                gone.fetch_add(1, Ordering::Relaxed);
            });
            all.spawn(Paced::new(Turns::new(reads, shared), laps.clone(), beats));
        }
        let counts = move || gone.each_ref().map(|gone| gone.load(Ordering::Relaxed));
        // As a task behind all of them.
        let counted = counts.clone();
        let [others, with_beats] = tokio::spawn(async move { counted() }).await.expect("no panic");
        assert!(with_beats == 200 && others < 100, "{with_beats} of 200 with beats, {others} of 400 others");
        while let Some(done) = all.join_next().await {
            done.expect("no panic");
        }
        assert_eq!(counts(), [400, 200]);
    }

    #[tokio::test]
    async fn what_is_more_than_a_turn_reads_takes_several_and_beats_take_one() {
        const SENT: usize = 10 * READ_MAX;
        for has_beats in [false, true] {
            let beats = Beats::default();
            if has_beats {
                beats.expect();
            }
            let (mut theirs, ours) = duplex(2 * SENT);
            theirs.write_all(&[7; SENT]).await.expect("room");
            drop(theirs);
            let mut stream = Gathering::new(ours);
            let shared = stream.share();
            let reads = Box::pin(async move {
                let mut read = [0; READ_MAX / 4];
                let mut all = 0;
                while let count @ 1.. = stream.read(&mut read).await.expect("bytes") {
                    all += count;
                }
                all
            });
            let mut paced = Paced::new(Turns::new(reads, shared), Laps::default(), beats);
            let mut turns = 0;
            let read = std::future::poll_fn(|context| {
                turns += 1;
                Pin::new(&mut paced).poll(context)
            });
            assert_eq!(read.await, SENT);
            assert!(if has_beats { turns == 1 } else { (9..=12).contains(&turns) }, "{turns} turns");
        }
    }
}
