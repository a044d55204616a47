//! The form of a stream: revisions in order, whole or marked as not, tokens where one may continue, messages of bounded
//! size.

use std::collections::{BTreeMap, BTreeSet};

use onair::{
    proto::{Event, ResetReason},
    registry::{Cause, EventType},
};
use prost::Message as _;

use super::{
    Fault, Message, Place, View,
    crossing::origins,
    fault,
    feed::{Feed, Part},
    key_of,
};

/// Most bytes of a message of several events.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Promise 8: in revision order, each revision whole.
pub fn ordered_atomic(view: &View<'_>) -> Vec<Fault> {
    let mut faults = view.strays.clone();
    for (number, stream) in view.history.streams.iter().enumerate() {
        for (at, (_, message)) in stream.messages.iter().enumerate() {
            let (bytes, events) = match message {
                Message::Watch(message) => (message.encoded_len(), message.events.len()),
                Message::Subscribe(message) => {
                    (message.encoded_len(), message.groups.iter().map(|group| group.events.len()).sum())
                }
            };
            if bytes > MESSAGE_BYTES_MAX && events != 1 {
                let what = format!("a message of {bytes} bytes with {events} events");
                faults.push(fault(8, Place::Message(number, at), what));
            }
        }
    }
    let origins = origins(view);
    for feed in view.feeds.iter().filter(|feed| feed.clear) {
        let last = origins.get(feed.token).map_or(0, |(_, revision)| *revision);
        let mut walk =
            Walk { feed, in_snapshot: feed.token.is_empty(), snapshot: None, open: None, last, seen: Vec::new() };
        for part in feed.parts.iter().take_while(|part| !part.last) {
            faults.extend(walk.step(part).into_iter().map(|what| fault(8, feed.place(part.message), what)));
        }
    }
    faults
}

/// Where a feed is.
struct Walk<'f, 'h> {
    feed: &'f Feed<'h>,
    in_snapshot: bool,
    /// The revision of the snapshot under way.
    snapshot: Option<u64>,
    /// The revision that goes on.
    open: Option<u64>,
    /// The last whole revision.
    last: u64,
    /// The events of what goes on.
    seen: Vec<&'h Event>,
}

impl<'h> Walk<'_, 'h> {
    fn step(&mut self, part: &Part<'h>) -> Vec<String> {
        let mut broken = Vec::new();
        if let Some(reset) = part.reset {
            (self.in_snapshot, self.snapshot, self.open) = (true, None, None);
            self.seen.clear();
            if matches!(reset.reason(), ResetReason::AnotherEpoch | ResetReason::AnotherRegistry) {
                self.last = 0;
            }
        }
        if self.in_snapshot {
            if !part.silent {
                self.snapshot(part, &mut broken);
            }
        } else {
            self.live(part, &mut broken);
        }
        broken
    }

    fn snapshot(&mut self, part: &Part<'h>, broken: &mut Vec<String>) {
        let mut rule = |holds: bool, why: &str| {
            if !holds {
                broken.push(why.to_owned());
            }
        };
        let opens_only = part.events.is_empty() && !part.snapshot_end;
        let is_watch = self.feed.id.is_none();
        let snapshots = |event: &Event| event.r#type() == EventType::Online && event.cause() == Cause::Snapshot;
        rule(part.events.iter().all(snapshots), "a snapshot has ONLINE(SNAPSHOT) only");
        rule(opens_only || part.revision >= self.last, "the revision goes back");
        if !opens_only {
            let revision = *self.snapshot.get_or_insert(part.revision);
            rule(part.revision == revision, "a snapshot is of one revision");
        }
        self.seen.extend(part.events);
        if part.snapshot_end {
            rule(!part.token.is_empty(), "`snapshot_end` without a token");
            rule(!is_watch || !part.more, "`snapshot_end` with `more`");
            let keys: BTreeSet<_> = self.seen.iter().filter_map(|event| event.instance.as_ref()).map(key_of).collect();
            rule(keys.len() == self.seen.len(), "a snapshot names each instance once");
            (self.in_snapshot, self.last) = (false, part.revision);
            self.seen.clear();
        } else {
            rule(part.token.is_empty(), "a token before `snapshot_end`");
            rule(!is_watch || part.more || opens_only, "a part of a snapshot that goes on has `more`");
        }
    }

    fn live(&mut self, part: &Part<'h>, broken: &mut Vec<String>) {
        let mut rule = |holds: bool, why: &str| {
            if !holds {
                broken.push(why.to_owned());
            }
        };
        rule(!part.snapshot_end, "`snapshot_end` without a snapshot");
        match self.open {
            Some(open) => rule(part.revision == open, "another revision before the last one was whole"),
            None if part.silent => return,
            None if part.events.is_empty() => rule(part.revision >= self.last, "the revision goes back"),
            None => rule(part.revision > self.last, "a revision that was whole already"),
        }
        self.seen.extend(part.events);
        if part.more {
            rule(part.token.is_empty(), "`more` with a token");
            self.open = Some(part.revision);
            return;
        }
        rule(part.silent || !part.token.is_empty(), "a whole revision without a token");
        (self.open, self.last) = (None, self.last.max(part.revision));
        let mut steps: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for event in self.seen.drain(..) {
            steps.entry(event.instance.as_ref().map(key_of)).or_default().push((event.r#type(), event.cause()));
        }
        let replaced = [(EventType::Offline, Cause::Replaced), (EventType::Online, Cause::Registered)];
        for (key, steps) in steps {
            if steps.len() > 1 && steps != replaced {
                let key = key.map_or_else(String::new, |key| key.to_string());
                broken.push(format!(
                    "a revision has one event of a key, or REPLACED and REGISTERED: {key} has {steps:?}"
                ));
            }
        }
    }
}
