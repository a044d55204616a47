//! Watches and subscriptions as one thing: a feed of parts, and the whole revisions and snapshots that they make.

use std::{collections::BTreeMap, mem, time::Duration};

use onair::{
    proto::{
        Event, Reset, ResetReason, Selector, ServicePresence, SubscribeResponse, SubscriptionGroup, WatchResponse,
        subscribe_request::Command,
    },
    registry::{Filter, FilterSet, Instance, Key},
};

use super::{Fault, History, Message, Opening, Place, Stream, fault, key_of};

/// What one message says to one feed.
#[derive(Clone, Debug, Default)]
pub struct Part<'h> {
    pub at: Duration,
    /// Which message of the stream.
    pub message: usize,
    pub revision: u64,
    pub token: &'h str,
    pub events: &'h [Event],
    pub services: &'h [ServicePresence],
    /// The revision goes on.
    pub more: bool,
    pub snapshot_end: bool,
    pub reset: Option<&'h Reset>,
    /// The subscription's last: dropped, or an error.
    pub last: bool,
    /// The message has nothing for this feed, but it ends the revision that an earlier one began.
    pub silent: bool,
}

/// A watch, or one subscription from its Add to its end.
#[derive(Clone, Debug)]
pub struct Feed<'h> {
    pub stream: usize,
    /// The subscription's id; None for a watch.
    pub id: Option<&'h str>,
    /// What it follows; None if that cannot be read.
    pub filters: Option<FilterSet>,
    /// What it was to continue from.
    pub token: &'h str,
    pub coalesce: bool,
    /// Whether it is told which partitions of services are there.
    pub summaries: bool,
    pub opened: Duration,
    /// When its Drop was sent, if it was.
    pub drop_sent: Option<Duration>,
    /// When nothing more could come: its stream ended, it was dropped or replaced, or failed.
    pub closed: Option<Duration>,
    pub parts: Vec<Part<'h>>,
    /// Whether it is certain which parts are its own; not so if it replaced a live one of its id.
    pub clear: bool,
}

/// A whole revision or a whole snapshot.
#[derive(Clone, Debug)]
pub struct Turn<'h> {
    pub at: Duration,
    /// Its last message.
    pub message: usize,
    pub revision: u64,
    pub token: &'h str,
    pub what: What<'h>,
    pub services: Vec<&'h ServicePresence>,
}

/// What a turn brings.
#[derive(Clone, Debug)]
pub enum What<'h> {
    /// Everything that is there, and why it begins anew, if it does.
    Snapshot(BTreeMap<Key, &'h Instance>, Option<ResetReason>),
    /// The events of one revision; none in a bookmark.
    Events(Vec<&'h Event>),
}

impl<'h> Feed<'h> {
    /// The place of one of its messages.
    pub fn place(&self, message: usize) -> Place {
        Place::Message(self.stream, message)
    }

    /// The parts that say something.
    pub fn spoken(&self) -> impl Iterator<Item = &Part<'h>> {
        self.parts.iter().filter(|part| !part.silent)
    }

    /// All that was received whole.
    pub fn turns(&self) -> Vec<Turn<'h>> {
        let mut snapshot = self.token.is_empty().then(BTreeMap::new);
        let (mut reason, mut pending, mut services, mut turns) = (None, Vec::new(), Vec::new(), Vec::new());
        for part in self.parts.iter().filter(|part| !part.last) {
            let turn = |what, services| {
                let Part { at, message, revision, token, .. } = *part;
                Turn { at, message, revision, token, what, services }
            };
            if let Some(reset) = part.reset {
                (snapshot, reason) = (Some(BTreeMap::new()), Some(reset.reason()));
                pending.clear();
                services.clear();
            }
            services.extend(part.services);
            if let Some(named) = &mut snapshot {
                named.extend(part.events.iter().filter_map(|event| event.instance.as_ref()).map(|i| (key_of(i), i)));
                if part.snapshot_end {
                    turns.push(turn(What::Snapshot(mem::take(named), reason.take()), mem::take(&mut services)));
                    snapshot = None;
                }
            } else {
                pending.extend(part.events);
                let whole = !part.more;
                if whole && (!part.silent || !pending.is_empty()) {
                    turns.push(turn(What::Events(mem::take(&mut pending)), mem::take(&mut services)));
                }
            }
        }
        turns
    }
}

/// All feeds of a history, and groups that belong to none.
pub fn feeds(history: &History) -> (Vec<Feed<'_>>, Vec<Fault>) {
    let (mut feeds, mut strays) = (Vec::new(), Vec::new());
    for (number, stream) in history.streams.iter().enumerate() {
        match &stream.opening {
            Opening::Watch(request) => {
                let filters = filters(&request.selectors);
                let mut feed = feed(number, stream, None, filters, &request.resume_token, request.coalesce);
                (feed.opened, feed.summaries) = (stream.opened, request.summaries);
                feed.parts = parts_of_watch(stream);
                feeds.push(feed);
            }
            Opening::Subscribe => {
                let mut sorter = Sorter { number, stream, open: BTreeMap::new(), done: Vec::new(), strays: Vec::new() };
                sorter.run();
                feeds.extend(sorter.done);
                strays.extend(sorter.strays);
            }
        }
    }
    feeds.sort_by_key(|feed| feed.opened);
    (feeds, strays)
}

/// What the selectors mean; None if they cannot be read, or follow frontends.
pub fn filters(selectors: &[Selector]) -> Option<FilterSet> {
    let one = |selector: &Selector| match selector.frontend.as_str() {
        "" => {
            let filter = Filter::new(&selector.namespace, &selector.service, &selector.version, &selector.selector);
            filter.ok()?.under(&selector.service_prefix).ok()
        }
        _ => None,
    };
    Some(FilterSet::new(selectors.iter().map(one).collect::<Option<Vec<_>>>()?))
}

fn feed<'h>(
    number: usize,
    stream: &Stream,
    id: Option<&'h str>,
    filters: Option<FilterSet>,
    token: &'h str,
    coalesce: bool,
) -> Feed<'h> {
    let closed = stream.end.as_ref().map(|(at, _)| *at);
    let opened = Duration::ZERO;
    Feed {
        stream: number,
        id,
        filters,
        token,
        coalesce,
        summaries: false,
        opened,
        closed,
        drop_sent: None,
        parts: Vec::new(),
        clear: true,
    }
}

fn parts_of_watch(stream: &Stream) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for (message, (at, received)) in stream.messages.iter().enumerate() {
        let Message::Watch(response) = received else { continue };
        parts.push(Part {
            at: *at,
            message,
            revision: response.revision,
            token: &response.resume_token,
            events: &response.events,
            services: &response.services,
            more: response.more,
            snapshot_end: response.snapshot_end,
            reset: response.reset.as_ref(),
            ..Part::default()
        });
    }
    parts
}

/// Finds out which group is of which subscription.
struct Sorter<'h> {
    number: usize,
    stream: &'h Stream,
    /// By id, those that are added; the first is the one that groups belong to.
    open: BTreeMap<&'h str, Vec<Feed<'h>>>,
    done: Vec<Feed<'h>>,
    strays: Vec<Fault>,
}

impl<'h> Sorter<'h> {
    fn run(&mut self) {
        let mut commands = self.stream.commands.iter().peekable();
        for (message, (at, received)) in self.stream.messages.iter().enumerate() {
            while let Some((sent, command)) = commands.next_if(|(sent, _)| sent <= at) {
                self.command(*sent, command.command.as_ref());
            }
            if let Message::Subscribe(response) = received {
                self.response(message, *at, response);
            }
        }
        for (sent, command) in commands {
            self.command(*sent, command.command.as_ref());
        }
        let open = mem::take(&mut self.open).into_values().flatten();
        self.done.extend(open);
    }

    fn command(&mut self, at: Duration, command: Option<&'h Command>) {
        match command {
            Some(Command::Add(add)) => {
                let filters = filters(&add.selectors);
                let mut new = feed(self.number, self.stream, Some(&add.id), filters, &add.resume_token, add.coalesce);
                (new.opened, new.summaries) = (at, add.summaries);
                let queue = self.open.entry(&add.id).or_default();
                if let Some(old) = queue.last().filter(|old| old.drop_sent.is_none()) {
                    // Both may be what comes next.
                    new.clear = false;
                    let mut old = old.clone();
                    old.closed = Some(at);
                    queue.pop();
                    self.done.push(old);
                }
                queue.push(new);
            }
            Some(Command::Drop(drop)) => {
                if let Some(last) = self.open.entry(&drop.id).or_default().last_mut() {
                    last.drop_sent.get_or_insert(at);
                }
            }
            Some(Command::Ack(_)) | None => {}
        }
    }

    fn response(&mut self, message: usize, at: Duration, response: &'h SubscribeResponse) {
        for group in &response.groups {
            let Some(queue) = self.open.get_mut(group.id.as_str()).filter(|queue| !queue.is_empty()) else {
                self.stray(message, group);
                continue;
            };
            let last = group.dropped || group.error.is_some();
            queue[0].parts.push(part_of_group(message, at, response, group, last));
            if last {
                let mut feed = queue.remove(0);
                feed.closed = Some(at);
                self.done.push(feed);
            }
        }
        for open in self.open.values_mut().filter_map(|queue| queue.first_mut()) {
            let waits = open.parts.last().is_some_and(|last| last.more && last.message != message);
            if waits {
                let (revision, more) = (response.revision, response.more);
                open.parts.push(Part { at, message, revision, more, silent: true, ..Part::default() });
            }
        }
    }

    fn stray(&mut self, message: usize, group: &SubscriptionGroup) {
        let was_asked = self
            .stream
            .commands
            .iter()
            .any(|(_, command)| matches!(&command.command, Some(Command::Drop(drop)) if drop.id == group.id));
        if !(group.dropped && was_asked) {
            let place = Place::Message(self.number, message);
            self.strays.push(fault(8, place, format!("a group of `{}`, which is no subscription", group.id)));
        }
    }
}

fn part_of_group<'h>(
    message: usize,
    at: Duration,
    response: &'h SubscribeResponse,
    group: &'h SubscriptionGroup,
    last: bool,
) -> Part<'h> {
    Part {
        at,
        message,
        revision: response.revision,
        token: &group.resume_token,
        events: &group.events,
        services: &group.services,
        more: response.more,
        snapshot_end: group.snapshot_end,
        reset: group.reset.as_ref(),
        last,
        silent: false,
    }
}
