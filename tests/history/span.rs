//! Stretches of history as one watch saw them, with what its predecessors saw where it continued theirs: what is compared
//! with one another, and with lookups.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Duration,
};

use onair::{
    proto::Event,
    registry::{EventType, FilterSet, Instance, Key},
};

use super::{
    Place,
    feed::{Feed, What},
    key_of,
};

/// The set of a watch.
pub type Held<'h> = BTreeMap<Key, &'h Instance>;

/// The events of one revision, and where they were received.
#[derive(Clone, Debug)]
pub struct Seen<'h> {
    pub place: Place,
    pub events: Vec<&'h Event>,
}

/// Everything that a watch saw after one revision and up to another.
#[derive(Clone, Debug)]
pub struct Span<'h> {
    /// The feed that saw the end of it.
    pub feed: usize,
    pub filters: FilterSet,
    /// All events after this revision are there…
    pub from: u64,
    /// …up to this one.
    pub to: u64,
    /// What comes after this revision was seen by `feed` itself, the rest by those it continues.
    pub own: u64,
    /// Whether it continues another.
    pub resumed: bool,
    /// The set at `from`; None if it is not known.
    pub base: Option<Rc<Held<'h>>>,
    /// Where the set was complete, and when.
    pub began: (Place, Duration),
    pub events: BTreeMap<u64, Seen<'h>>,
}

/// The spans of all feeds that can be judged by what they saw.
pub fn spans<'h>(feeds: &[Feed<'h>]) -> Vec<Span<'h>> {
    let mut made = Maker { spans: Vec::new(), tokens: HashMap::new() };
    for (number, feed) in feeds.iter().enumerate().filter(|(_, feed)| feed.clear && !feed.coalesce) {
        if let Some(filters) = &feed.filters {
            made.feed(number, feed, filters);
        }
    }
    made.spans
}

struct Maker<'h> {
    spans: Vec<Span<'h>>,
    /// Which span gave a token, and at which revision.
    tokens: HashMap<&'h str, (usize, u64)>,
}

impl<'h> Maker<'h> {
    fn feed(&mut self, number: usize, feed: &Feed<'h>, filters: &FilterSet) {
        let mut current = self.continued(number, feed, filters);
        for turn in feed.turns() {
            let place = feed.place(turn.message);
            match turn.what {
                What::Snapshot(base, _) => {
                    self.spans.extend(current.take());
                    let base = Some(Rc::new(base));
                    let (at, began) = (turn.revision, (place, turn.at));
                    let filters = filters.clone();
                    let events = BTreeMap::new();
                    current = Some(Span {
                        feed: number,
                        filters,
                        from: at,
                        to: at,
                        own: at,
                        resumed: false,
                        base,
                        began,
                        events,
                    });
                }
                What::Events(events) => {
                    let (at, began) = (turn.revision, (place, turn.at));
                    // Continued from a token whose origin was not seen: what came before is not known.
                    let span = current.get_or_insert_with(|| {
                        let (filters, events) = (filters.clone(), BTreeMap::new());
                        Span {
                            feed: number,
                            filters,
                            from: at,
                            to: at,
                            own: at,
                            resumed: true,
                            base: None,
                            began,
                            events,
                        }
                    });
                    if turn.revision > span.to {
                        span.to = turn.revision;
                        if !events.is_empty() {
                            span.events.insert(turn.revision, Seen { place, events });
                        }
                    }
                }
            }
            if !turn.token.is_empty() {
                self.tokens.entry(turn.token).or_insert((self.spans.len(), turn.revision));
            }
        }
        self.spans.extend(current);
    }

    /// The span that `feed` continues, cut where it does, if that was seen.
    fn continued(&self, number: usize, feed: &Feed<'h>, filters: &FilterSet) -> Option<Span<'h>> {
        let (origin, at) = *self.tokens.get(feed.token)?;
        let origin = &self.spans[origin];
        if origin.filters != *filters {
            return None;
        }
        let mut span = origin.clone();
        span.events.retain(|revision, _| *revision <= at);
        (span.feed, span.to, span.own, span.resumed) = (number, at, at, true);
        Some(span)
    }
}

impl<'h> Span<'h> {
    /// Whether it says what happened at `revision`.
    pub fn covers(&self, revision: u64) -> bool {
        self.from < revision && revision <= self.to
    }

    /// Whether it says what was there at `revision`.
    pub fn knows(&self, revision: u64) -> bool {
        self.base.is_some() && self.from <= revision && revision <= self.to
    }

    /// The set at `from`, to be led on.
    pub fn replay(&self) -> Option<Replay<'_, 'h>> {
        let held = self.base.as_ref()?.as_ref().clone();
        Some(Replay { span: self, at: self.from, held })
    }

    /// What was there at `revision`.
    pub fn at(&self, revision: u64) -> Option<Held<'h>> {
        let mut replay = self.knows(revision).then(|| self.replay())??;
        replay.advance(revision);
        Some(replay.held)
    }

    /// Where it saw what happened at `revision`, or else where it began.
    pub fn place_of(&self, revision: u64) -> Place {
        self.events.range(..=revision).next_back().map_or(self.began.0, |(_, seen)| seen.place)
    }
}

/// The set of a span as it grows.
pub struct Replay<'s, 'h> {
    span: &'s Span<'h>,
    at: u64,
    pub held: Held<'h>,
}

impl<'h> Replay<'_, 'h> {
    /// Leads the set on to `revision`.
    pub fn advance(&mut self, revision: u64) {
        if revision <= self.at {
            return;
        }
        for seen in self.span.events.range(self.at + 1..=revision).map(|(_, seen)| seen) {
            apply(&mut self.held, &seen.events);
        }
        self.at = revision;
    }
}

/// Takes a revision's events into a set.
pub fn apply<'h>(held: &mut Held<'h>, events: &[&'h Event]) {
    for event in events {
        let Some(instance) = &event.instance else { continue };
        match event.r#type() {
            EventType::Online | EventType::Updated => held.insert(key_of(instance), instance),
            EventType::Offline => held.remove(&key_of(instance)),
            EventType::Unspecified => None,
        };
    }
}
