//! One watch: a snapshot that joins the live events, bookmarks while it is quiet, a reset when its reader fell behind,
//! and an end that loses nothing. Yields framed `WatchResponse`s.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio_stream::Stream;

use super::{
    board::Letterbox,
    budget::Charge,
    drain::Standing,
    due::Due,
    feed::{Feed, Next},
    frame::{EVENTS_BYTES_MAX, Trailer, watch_response},
    hub::Hub,
    listener::{Listener, ONLY_PART},
    partitions::{Counting, Place, Turn},
    resume::ResetReason,
    seats::WatchPermit,
    snapshot::{Part, SnapshotPart},
};
use crate::{
    framed::Framed,
    registry::{Error, Filter, FilterSet, Principal, Revision},
};

/// What a watch yields.
#[derive(Debug)]
pub enum WatchItem {
    /// A `WatchResponse` or a `SubscribeResponse`.
    Frame(Framed),
    /// The last thing.
    End(Ending),
}

/// Why a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server goes away; the last frame had the token to continue with.
    ShuttingDown,
}

#[derive(Debug)]
enum Phase {
    Snapshot(Box<SnapshotPart>),
    /// It is to be told summaries, and has to know what is there at its cursor.
    Counting(Box<Counting>),
    Live,
    /// The last frames are queued.
    Closing,
    Ended,
}

/// One open watch.
#[derive(Debug)]
pub struct WatchStream {
    hub: Arc<Hub>,
    feed: Arc<Feed>,
    listener: Arc<Listener>,
    listening: u64,
    generation: u64,
    phase: Phase,
    /// Everything up to it was queued.
    cursor: Revision,
    /// The revision of what it began with: a resume token or the first snapshot.
    began: Revision,
    /// What is there at it, while it is far behind.
    place: Option<Place>,
    queue: VecDeque<Framed>,
    /// Of the part of a snapshot that is queued, or was taken last.
    waits: Option<Box<Charge>>,
    /// Something has to be said at once, even if there is nothing.
    greet: bool,
    /// When a bookmark is.
    due: Due,
    /// What is published for those who asked.
    published: Option<Box<Letterbox>>,
    permit: WatchPermit,
}

impl WatchStream {
    /// Begins a watch of `filters`, after what `resume_token` stands for if it is not empty.
    ///
    /// # Errors
    /// `Limit` or `Quota` when too many are open, or no room is left for summaries, `ShuttingDown`.
    pub fn start(hub: &Arc<Hub>, filters: FilterSet, resume_token: &str, principal: &Principal) -> Result<Self, Error> {
        let permit = hub.permit(principal, filters.namespaces())?;
        let listener = Listener::of_stream(hub.lags());
        let generation = hub.generation();
        let resumed = match resume_token {
            "" => Err(None),
            token => hub.resume(token, &filters).map_err(Some),
        };
        let feed = hub.feed_for_one_more(filters)?;
        // Listening comes before looking, so that nothing falls between.
        let listening = hub.log().follow(feed.matcher(), &listener, ONLY_PART);
        let (phase, cursor) = match resumed {
            Ok(revision) if feed.matcher().set().summaries() => (Phase::Counting(Box::default()), revision),
            Ok(revision) => (Phase::Live, revision),
            Err(reset) => (snapshot(hub, &feed, reset), 0),
        };
        let began = match &phase {
            Phase::Snapshot(snapshot) => snapshot.revision(),
            _ => cursor,
        };
        let due = Due::after(hub.options().bookmark_interval);
        Ok(Self {
            hub: Arc::clone(hub),
            feed,
            listener,
            listening,
            generation,
            phase,
            cursor,
            began,
            place: None,
            // Mostly there is one at a time, and a queue's first growth would make room for four.
            queue: VecDeque::with_capacity(1),
            waits: None,
            greet: true,
            due,
            published: None,
            permit,
        })
    }

    /// Also yields what is published for services that `filters` match, from now on; nothing if there are none.
    #[must_use]
    pub fn with_published(mut self, filters: Vec<Filter>) -> Self {
        self.publish_to(filters);
        self
    }

    fn publish_to(&mut self, filters: Vec<Filter>) {
        let is_any = !filters.is_empty();
        self.published = is_any.then(|| Box::new(self.hub.board().open(filters, &self.listener, ONLY_PART)));
    }

    /// Tells drains how far it is. It has no way to acknowledge anything: what was handed over is all there is to know.
    fn account(&self) {
        self.listener.answer(self.cursor, None, |ask| {
            // Who began after the change had it in what it began with.
            let asked = self.began < ask.revision();
            asked.then_some(if self.cursor >= ask.revision() { Standing::Sent } else { Standing::Unread })
        });
    }

    /// From now on it is a watch of other filters, by `whose` rights: it begins anew with a reset, and what was not sent
    /// yet never is.
    pub fn refocus(&mut self, filters: FilterSet, published: Vec<Filter>, whose: &Principal) {
        let is_same = *self.feed.matcher().set() == filters;
        if is_same || matches!(self.phase, Phase::Closing | Phase::Ended) {
            return;
        }
        self.hub.reseat(&mut self.permit, whose, filters.namespaces());
        self.listener.begins_anew(self.listening, self.cursor);
        self.hub.log().ignore(self.feed.matcher().scopes(), self.listening);
        self.feed = self.hub.feed(filters);
        // Listening comes before looking, so that nothing falls between.
        self.listening = self.hub.log().follow(self.feed.matcher(), &self.listener, ONLY_PART);
        self.queue.clear();
        self.publish_to(published);
        self.reset(ResetReason::SelectorsChanged, 0);
    }

    /// The state was replaced: the watch begins anew with a feed of the new history.
    fn begin_anew(&mut self) {
        self.generation = self.hub.generation();
        self.feed = self.hub.feed(self.feed.matcher().set().clone());
        self.reset(ResetReason::AnotherEpoch, 0);
    }

    /// What it has not read it finds in a snapshot.
    fn reset(&mut self, reason: ResetReason, oldest: Revision) {
        self.listener.begins_anew(self.listening, self.cursor);
        self.place = None;
        self.phase = snapshot(&self.hub, &self.feed, Some((reason, oldest)));
    }

    /// Goes on to count what is there. False: there is more to do, on another turn.
    fn count(&mut self) -> bool {
        let Phase::Counting(counting) = &mut self.phase else { return true };
        match self.hub.count(&self.feed, self.cursor, counting) {
            Ok(Turn::More) => return false,
            Ok(Turn::Done(place)) => (self.phase, self.place) = (Phase::Live, place),
            Err(forgotten) => self.reset(ResetReason::FellBehind, forgotten.oldest),
        }
        true
    }

    /// Queues the next part of the snapshot. False: it has to be asked again, on another turn.
    fn read_snapshot(&mut self) -> bool {
        let Phase::Snapshot(snapshot) = &mut self.phase else { return true };
        let Some(Part { events, reset, end, waits }) = snapshot.read(&self.hub, &self.feed) else {
            self.phase = Phase::Snapshot(Box::new(snapshot.again(&self.hub, &self.feed)));
            return true;
        };
        if events.is_empty() && !end {
            return false;
        }
        let revision = snapshot.revision();
        let token = if end { self.feed.token(revision) } else { String::new() };
        let trailer = Trailer { revision, token: &token, more: !end, snapshot_end: end, reset };
        self.queue.push_back(watch_response(&events, trailer));
        self.waits = Some(waits);
        self.listener.has_read(revision);
        if end {
            (self.phase, self.cursor) = (Phase::Live, revision);
        }
        true
    }

    fn bookmark(&mut self) {
        self.bookmark_with(&[]);
    }

    /// Queues a bookmark that brings more fields.
    fn bookmark_with(&mut self, fields: &[u8]) {
        let token = self.feed.token(self.cursor);
        let trailer = Trailer { revision: self.cursor, token: &token, ..Trailer::default() };
        self.queue.push_back(watch_response(fields, trailer));
    }

    /// Queues what was published. False: nothing was.
    fn read_published(&mut self) -> bool {
        let Some(published) = self.published.as_ref().filter(|published| !published.is_empty()) else { return false };
        let fields = published.take(EVENTS_BYTES_MAX);
        self.bookmark_with(&fields);
        true
    }

    /// Queues what is new. False: nothing is, for now.
    fn read_log(&mut self) -> bool {
        match self.hub.next(&self.feed, self.cursor, &mut self.place) {
            Ok(Next::Message(message)) => {
                self.cursor = message.revision;
                self.listener.has_read(self.cursor);
                self.queue.extend(message.watch_frames().iter().cloned());
                true
            }
            Ok(Next::UpToDate(revision)) => {
                self.cursor = revision;
                self.listener.has_caught_up();
                false
            }
            Ok(Next::Uncounted) => {
                self.phase = Phase::Counting(Box::default());
                true
            }
            Err(forgotten) => {
                self.reset(ResetReason::FellBehind, forgotten.oldest);
                true
            }
        }
    }
}

fn snapshot(hub: &Hub, feed: &Arc<Feed>, reset: Option<(ResetReason, Revision)>) -> Phase {
    Phase::Snapshot(Box::new(SnapshotPart::new(hub, feed, reset)))
}

impl Stream for WatchStream {
    type Item = WatchItem;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchItem>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.queue.pop_front() {
                this.greet = false;
                this.due.put_off(this.hub.options().bookmark_interval);
                this.hub.metrics().sent(frame.len());
                return Poll::Ready(Some(WatchItem::Frame(frame)));
            }
            this.waits = None;
            match this.phase {
                Phase::Ended => return Poll::Ready(None),
                Phase::Closing => {
                    this.phase = Phase::Ended;
                    return Poll::Ready(Some(WatchItem::End(Ending::ShuttingDown)));
                }
                Phase::Snapshot(_) if this.hub.is_closing() => {
                    this.phase = Phase::Closing;
                    continue;
                }
                Phase::Counting(_) if this.hub.is_closing() => {
                    // What it has not read it reads from the next server.
                    this.bookmark();
                    this.phase = Phase::Closing;
                    continue;
                }
                Phase::Snapshot(_) | Phase::Counting(_) | Phase::Live => {}
            }
            if this.generation != this.hub.generation() {
                this.begin_anew();
            }
            if !matches!(this.phase, Phase::Live) {
                if !this.read_snapshot() || !this.count() {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            let woken = this.listener.poll_woken(context);
            this.account();
            if this.hub.is_closing() {
                // What happened last is told: that this server's own instance went. A reader that lags goes on from there
                // with the next server.
                this.read_log();
                if matches!(this.phase, Phase::Live) {
                    this.bookmark();
                }
                this.phase = Phase::Closing;
            } else if this.read_log() || this.read_published() {
                // Queued.
            } else if this.greet || this.due.is_over(context) {
                this.bookmark();
            } else if !woken {
                this.account();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.hub.log().ignore(self.feed.matcher().scopes(), self.listening);
    }
}
