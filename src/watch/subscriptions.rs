//! Many watches on one stream: each with its own cursor, snapshot and reset, their groups of one revision together.
//! Yields encoded `SubscribeResponse`s.
//!
//! Why the groups of a revision are complete: the log marks every subscription that a revision concerns before anyone
//! can read that revision. So once marks have been taken until there are none, whatever was read is all there is of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use fixedbitset::FixedBitSet;

use super::{
    budget::Charge,
    drain::{Ask, Standing},
    due::Due,
    feed::{Message, Next},
    frame::{EVENTS_BYTES_MAX, Group, Share, push_group, subscribe_response, subscribe_responses},
    hub::Hub,
    listener::Listener,
    partitions::Turn,
    resume::ResetReason,
    seats::WatchPermit,
    snapshot::{Part, SnapshotPart},
    stream::{Ending, WatchItem},
    subscription::{Ids, Phase, State, Subscription},
};
use crate::{
    framed::Framed,
    registry::{Error, Filter, FilterSet, Principal, Revision, make_room},
};

mod quiet;
mod rights;

/// Messages that wait for a reader before no more is read from its requests.
const QUEUE_MAX: usize = 256;
/// For how many of them room is kept while there is none.
const QUEUE_KEPT: usize = 16;

/// The subscriptions of one stream.
#[derive(Debug)]
pub struct Subscriptions {
    hub: Arc<Hub>,
    /// Whose subscriptions they are.
    whose: Principal,
    listener: Arc<Listener>,
    max: usize,
    by_id: Ids,
    parts: Vec<Option<Subscription>>,
    free: Vec<u32>,
    /// Parts that may have something in the log.
    dirty: FixedBitSet,
    /// Room for them while they are looked at.
    looked_at: FixedBitSet,
    /// Parts that may have something in their letterboxes.
    published: BTreeSet<u32>,
    /// Parts that read a snapshot, or count.
    unready: VecDeque<u32>,
    /// Those of them for which the others wait, so that the groups of a revision come together.
    awaited: BTreeSet<u32>,
    /// What was read and not queued yet: at most one message of each part.
    pending: BTreeMap<Revision, Vec<(u32, Arc<Message>)>>,
    queue: VecDeque<Framed>,
    /// Of the part of a snapshot that is queued, or was taken last.
    waits: Option<Box<Charge>>,
    generation: u64,
    /// The last revision that was queued.
    given: Revision,
    /// Everything up to it was acknowledged; none: nothing ever was.
    acknowledged: Option<Revision>,
    state: State,
    /// When a bookmark is.
    due: Due,
}

impl Subscriptions {
    /// None yet, at most `max`.
    #[must_use]
    pub fn new(hub: &Arc<Hub>, max: usize) -> Self {
        Self {
            hub: Arc::clone(hub),
            whose: Principal::anyone(),
            listener: Listener::of_stream(hub.lags()),
            max,
            by_id: Ids::default(),
            parts: Vec::new(),
            free: Vec::new(),
            dirty: FixedBitSet::new(),
            looked_at: FixedBitSet::new(),
            published: BTreeSet::new(),
            unready: VecDeque::new(),
            awaited: BTreeSet::new(),
            pending: BTreeMap::new(),
            queue: VecDeque::new(),
            waits: None,
            generation: hub.generation(),
            given: 0,
            acknowledged: None,
            state: State::Open,
            due: Due::after(hub.options().bookmark_interval),
        }
    }

    /// Begins a subscription, in place of one of the same id.
    ///
    /// # Errors
    /// `Limit`, `Quota`, `ShuttingDown`.
    pub fn add(&mut self, id: &str, filters: FilterSet, resume_token: &str) -> Result<(), Error> {
        let held = self.by_id.remove(id, &self.parts).and_then(|part| self.remove(part));
        if self.by_id.len() >= self.max {
            let (maximum, usage) = (self.max as u64, self.by_id.len() as u64);
            return Err(Error::Limit { limit: "max_subscriptions", maximum, usage });
        }
        let permit = self.place(held, &filters)?;
        let resumed = match resume_token {
            "" => Err(None),
            token => self.hub.resume(token, &filters).map_err(Some),
        };
        let feed = self.hub.feed_for_one_more(filters)?;
        let part = self.free.pop().unwrap_or_else(|| {
            make_room(&mut self.parts);
            self.parts.push(None);
            (self.parts.len() - 1) as u32
        });
        // Listening comes before looking, so that nothing falls between.
        let listening = self.hub.log().follow(feed.matcher(), &self.listener, part);
        let (phase, cursor) = match resumed {
            Ok(revision) if feed.matcher().set().summaries() => (Phase::Counting(Box::default()), revision),
            Ok(revision) => (Phase::Live, revision),
            Err(reset) => (Phase::Snapshot(Box::new(SnapshotPart::new(&self.hub, &feed, reset))), 0),
        };
        match phase {
            Phase::Live => self.dirty.grow_and_insert(part as usize),
            Phase::Snapshot(_) | Phase::Counting(_) => self.unready.push_back(part),
        }
        let began = phase.revision().unwrap_or(cursor);
        let subscription = Subscription {
            id: id.into(),
            feed,
            listening,
            phase,
            cursor,
            began,
            place: None,
            greet: true,
            waits: false,
            published: None,
            permit,
        };
        self.parts[part as usize] = Some(subscription);
        self.by_id.insert(part, &self.parts);
        Ok(())
    }

    /// Ends a subscription; one that is not there is answered all the same.
    pub fn drop_subscription(&mut self, id: &str) {
        if let Some(part) = self.by_id.remove(id, &self.parts) {
            self.remove(part);
        }
        self.answer(Group { id, dropped: true, ..Group::default() });
    }

    /// A subscription could not begin: `error` is an encoded `google.rpc.Status`.
    pub fn refuse(&mut self, id: &str, error: &[u8]) {
        self.answer(Group { id, error, ..Group::default() });
    }

    /// Everything up to `revision` was received and acted on, as far as it was given.
    pub fn acknowledge(&mut self, revision: Revision) {
        self.acknowledged = self.acknowledged.max(Some(revision.min(self.given)));
    }

    /// Tells drains how far it is. What is queued was handed over by now.
    fn account(&self) {
        self.listener.answer(self.given, self.acknowledged, |ask| self.standing(ask));
    }

    /// How the subscriptions that are asked for stand together; none if all of them have ended.
    fn standing(&self, ask: &Ask) -> Option<Standing> {
        let asked = ask.parts().iter().filter_map(|(part, number)| {
            let subscription = self.parts.get(*part as usize)?.as_ref()?;
            // Who began after the change had it in what it began with.
            (subscription.listening == *number && subscription.began < ask.revision()).then_some(subscription)
        });
        let read = |one: &Subscription| matches!(one.phase, Phase::Live) && one.cursor >= ask.revision();
        let (read, unread): (Vec<_>, Vec<_>) = asked.partition(|subscription| read(subscription));
        match self.acknowledged {
            _ if read.is_empty() && unread.is_empty() => None,
            _ if !unread.is_empty() => Some(Standing::Unread),
            None => Some(Standing::Sent),
            Some(acknowledged) if acknowledged >= ask.revision() => Some(Standing::Acked),
            Some(_) => Some(Standing::Unacknowledged),
        }
    }

    /// Whether the reader is so far behind that no more requests should be taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_MAX
    }

    fn answer(&mut self, group: Group<'_>) {
        let revision = self.hub.log().head();
        self.answer_at(revision, group);
    }

    fn answer_at(&mut self, revision: Revision, group: Group<'_>) {
        let mut groups = Vec::new();
        push_group(group, &mut groups);
        self.queue.push_back(subscribe_response(revision, &groups, false));
    }

    fn remove(&mut self, part: u32) -> Option<WatchPermit> {
        let gone = self.parts[part as usize].take()?;
        self.hub.log().ignore(gone.feed.matcher().scopes(), gone.listening);
        self.listener.answer_all(|ask| self.standing(ask));
        self.forget(part);
        self.free.push(part);
        Some(gone.permit)
    }

    /// Drops what waits for a part.
    fn forget(&mut self, part: u32) {
        self.dirty.grow(part as usize + 1);
        self.dirty.remove(part as usize);
        self.published.remove(&part);
        self.awaited.remove(&part);
        self.unready.retain(|other| *other != part);
        for messages in self.pending.values_mut() {
            messages.retain(|(other, _)| *other != part);
        }
        self.pending.retain(|_, messages| !messages.is_empty());
        if let Some(Some(subscription)) = self.parts.get_mut(part as usize) {
            subscription.waits = false;
        }
    }

    /// The state was replaced: everything begins anew with feeds of the new history.
    fn begin_anew(&mut self) {
        self.generation = self.hub.generation();
        self.pending.clear();
        self.dirty.clear();
        self.unready.clear();
        self.awaited.clear();
        for part in 0..self.parts.len() {
            let Some(subscription) = &mut self.parts[part] else { continue };
            subscription.waits = false;
            subscription.feed = self.hub.feed(subscription.feed.matcher().set().clone());
            self.reset(part as u32, ResetReason::AnotherEpoch, 0);
        }
    }

    /// What a part has not read it finds in a snapshot.
    fn reset(&mut self, part: u32, reason: ResetReason, oldest: Revision) {
        let Some(Some(subscription)) = self.parts.get_mut(part as usize) else { return };
        self.listener.begins_anew(subscription.listening, subscription.cursor);
        subscription.place = None;
        let reset = Some((reason, oldest));
        subscription.phase = Phase::Snapshot(Box::new(SnapshotPart::new(&self.hub, &subscription.feed, reset)));
        self.unready.push_back(part);
    }

    /// Reads the log for every part that may have something, until no mark is left, and queues the oldest revision.
    fn read_log(&mut self) -> bool {
        loop {
            self.listener.take_dirty(&mut self.dirty);
            if self.dirty.is_clear() {
                break;
            }
            let parts = mem::replace(&mut self.dirty, mem::take(&mut self.looked_at));
            parts.ones().for_each(|part| self.fetch(part as u32));
            self.looked_at = parts;
            self.looked_at.clear();
        }
        let waits_at =
            self.awaited.iter().filter_map(|part| Some(self.parts.get(*part as usize)?.as_ref()?.cursor)).min();
        let Some(first) = self.pending.first_entry() else { return false };
        if waits_at.is_some_and(|cursor| cursor < *first.key()) {
            return false;
        }
        let (revision, messages) = first.remove_entry();
        self.queue_revision(revision, &messages);
        self.listener.has_read(revision);
        for (part, _) in messages {
            if let Some(Some(subscription)) = self.parts.get_mut(part as usize) {
                subscription.cursor = revision;
                (subscription.greet, subscription.waits) = (false, false);
                self.dirty.grow_and_insert(part as usize);
            }
        }
        true
    }

    /// Reads what comes next for one part.
    fn fetch(&mut self, part: u32) {
        let Some(Some(subscription)) = self.parts.get_mut(part as usize) else { return };
        if subscription.published.as_ref().is_some_and(|published| !published.is_empty()) {
            self.published.insert(part);
        }
        if !matches!(subscription.phase, Phase::Live) || subscription.waits {
            return;
        }
        match self.hub.next(&subscription.feed, subscription.cursor, &mut subscription.place) {
            Ok(Next::Message(message)) => {
                subscription.waits = true;
                self.pending.entry(message.revision).or_default().push((part, message));
            }
            Ok(Next::UpToDate(revision)) => {
                subscription.cursor = revision;
                if mem::take(&mut subscription.greet) {
                    let token = subscription.feed.token(revision);
                    let id = subscription.id.clone();
                    // From now on it may be acknowledged.
                    self.given = self.given.max(revision);
                    self.answer_at(revision, Group { id: &id, token: &token, ..Group::default() });
                }
            }
            Ok(Next::Uncounted) => {
                subscription.phase = Phase::Counting(Box::default());
                self.unready.push_back(part);
                if !subscription.greet {
                    self.awaited.insert(part);
                }
            }
            Err(forgotten) => self.reset(part, ResetReason::FellBehind, forgotten.oldest),
        }
    }

    /// Queues all groups of one revision.
    fn queue_revision(&mut self, revision: Revision, messages: &[(u32, Arc<Message>)]) {
        let mut shares = Vec::with_capacity(messages.len());
        for (part, message) in messages {
            let Some(Some(subscription)) = self.parts.get(*part as usize) else { continue };
            shares.push(Share { id: &subscription.id, pieces: &message.pieces, token: &message.token });
        }
        self.given = self.given.max(revision);
        self.queue.extend(subscribe_responses(revision, &shares));
    }

    /// Goes on to count what is there for a part. False: there is more to do, on another turn.
    fn count(&mut self, part: u32) -> bool {
        let Some(Some(subscription)) = self.parts.get_mut(part as usize) else { return true };
        let Phase::Counting(counting) = &mut subscription.phase else { return true };
        match self.hub.count(&subscription.feed, subscription.cursor, counting) {
            Ok(Turn::More) => {
                self.unready.push_back(part);
                return false;
            }
            Ok(Turn::Done(place)) => {
                (subscription.phase, subscription.place) = (Phase::Live, place);
                self.dirty.grow_and_insert(part as usize);
            }
            Err(forgotten) => self.reset(part, ResetReason::FellBehind, forgotten.oldest),
        }
        self.awaited.remove(&part);
        true
    }

    /// Queues the next part of a snapshot, or goes on to count. False: nothing came of it in this turn.
    fn make_ready(&mut self, part: u32) -> bool {
        let Some(Some(subscription)) = self.parts.get_mut(part as usize) else { return true };
        let Phase::Snapshot(snapshot) = &mut subscription.phase else { return self.count(part) };
        let Some(Part { events, reset, end, waits }) = snapshot.read(&self.hub, &subscription.feed) else {
            **snapshot = snapshot.again(&self.hub, &subscription.feed);
            self.unready.push_back(part);
            return true;
        };
        let revision = snapshot.revision();
        if events.is_empty() && !end {
            self.unready.push_back(part);
            return false;
        }
        let token = if end { subscription.feed.token(revision) } else { String::new() };
        let mut groups = Vec::new();
        let group = Group {
            id: &subscription.id,
            events: &events,
            token: &token,
            snapshot_end: end,
            reset,
            ..Group::default()
        };
        push_group(group, &mut groups);
        self.queue.push_back(subscribe_response(revision, &groups, false));
        self.waits = Some(waits);
        if end {
            self.given = self.given.max(revision);
            (subscription.phase, subscription.cursor, subscription.greet) = (Phase::Live, revision, false);
            self.dirty.grow_and_insert(part as usize);
        } else {
            self.unready.push_back(part);
        }
        true
    }

    /// Keeps no room that a burst has taken: nothing waits.
    fn let_go(&mut self) {
        if self.queue.capacity() > QUEUE_KEPT {
            self.queue = VecDeque::new();
        }
        if self.unready.capacity() > QUEUE_KEPT {
            self.unready = VecDeque::new();
        }
    }

    /// The next message, or the end.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<WatchItem>> {
        loop {
            if let Some(frame) = self.queue.pop_front() {
                self.due.put_off(self.hub.options().bookmark_interval);
                self.hub.metrics().sent(frame.len());
                return Poll::Ready(Some(WatchItem::Frame(frame)));
            }
            self.waits = None;
            match self.state {
                State::Ended => return Poll::Ready(None),
                State::Closing => {
                    self.state = State::Ended;
                    return Poll::Ready(Some(WatchItem::End(Ending::ShuttingDown)));
                }
                State::Open => {}
            }
            if self.generation != self.hub.generation() {
                self.begin_anew();
            }
            let woken = self.listener.poll_woken(context);
            self.account();
            if self.hub.is_closing() {
                // One revision more, and a reader that lags goes on from there with the next server.
                self.read_log();
                self.bookmark(0);
                self.state = State::Closing;
                continue;
            }
            let head = self.hub.log().bounds().0;
            if self.read_log() {
                // Snapshots have their turn, however much happens.
                if let Some(part) = self.unready.pop_front() {
                    self.make_ready(part);
                }
                continue;
            }
            if let Some(part) = self.unready.pop_front() {
                if !self.make_ready(part) && self.queue.is_empty() {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            if !self.queue.is_empty() || self.read_published(head) {
                continue;
            }
            self.listener.has_caught_up();
            if self.due.is_over(context) {
                self.bookmark(head);
            } else if !woken {
                self.account();
                self.let_go();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for subscription in self.parts.iter().flatten() {
            self.hub.log().ignore(subscription.feed.matcher().scopes(), subscription.listening);
        }
    }
}
