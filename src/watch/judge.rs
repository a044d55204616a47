//! What a committed event is to one watch: filters cross (promise 10).

use std::collections::HashSet;

use smol_str::SmolStr;

use crate::registry::{Cause, Event, EventType, Matcher, Record, Status, Turn};

/// An event as one watch sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What happened to the watch's set.
    pub kind: EventType,
    /// Why.
    pub cause: Cause,
    /// The record that goes with it.
    pub record: Record,
}

/// What `event` is to a watch that meant `old` before its revision and means `new` after it (the same, unless a frontend
/// turned in it): nothing, one step, or a replacement's two.
#[must_use]
pub fn judge(old: &Matcher, new: &Matcher, event: &Event) -> [Option<Seen>; 2] {
    let matches =
        |matcher: &Matcher, record: &Option<Record>| record.as_ref().filter(|record| matcher.matches(record)).cloned();
    let (was, is) = (matches(old, &event.before), matches(new, &event.after));
    let seen = |kind, cause, record| Some(Seen { kind, cause, record });
    let replaced = match (&event.before, &event.after) {
        (Some(before), Some(after)) => before.incarnation != after.incarnation,
        _ => false,
    };
    if replaced {
        return [
            was.and_then(|record| seen(EventType::Offline, Cause::Replaced, record)),
            is.and_then(|record| seen(EventType::Online, Cause::Registered, record)),
        ];
    }
    let one = match (was, is, &event.before, &event.after) {
        (None, Some(now), None, _) => seen(EventType::Online, Cause::Registered, now),
        (None, Some(now), Some(_), _) => seen(EventType::Online, Cause::Matched, now),
        (Some(_), Some(now), ..) => seen(EventType::Updated, Cause::Unspecified, now),
        // It would still be there, had the frontend not turned.
        (Some(_), None, _, Some(now)) if old.matches(now) => seen(EventType::Offline, Cause::Switched, now.clone()),
        (Some(_), None, _, Some(now)) => seen(EventType::Offline, cause_of_leaving(now), now.clone()),
        (Some(last), None, _, None) => seen(EventType::Offline, event.cause, last),
        (None, None, ..) => None,
    };
    [one, None]
}

/// What the turns of a revision are to a watch that meant `old` before and means `new` after: the instances that nothing
/// happened to in it, and that joined or left. Those that join come first, so that whoever acts at once is never without.
#[must_use]
pub fn judge_turn(old: &Matcher, new: &Matcher, turns: &[&Turn], events: &[Event]) -> Vec<Seen> {
    let told: HashSet<_> = events.iter().filter_map(|event| Some(event.any()?.names())).collect();
    let (mut joined, mut left) = (Vec::new(), Vec::new());
    let mut services: Vec<(&str, &SmolStr)> = Vec::new();
    for turn in turns {
        let namespace = turn.name().0;
        for (service, set) in &turn.sets {
            if services.contains(&(namespace, service)) {
                continue;
            }
            services.push((namespace, service));
            for record in set.iter().filter(|record| !told.contains(&record.names())) {
                match (old.matches(record), new.matches(record)) {
                    (false, true) => {
                        joined.push(Seen { kind: EventType::Online, cause: Cause::Matched, record: record.clone() });
                    }
                    (true, false) => {
                        left.push(Seen { kind: EventType::Offline, cause: Cause::Switched, record: record.clone() });
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
    }
    joined.append(&mut left);
    joined
}

/// Why a record that is still there no longer matches.
fn cause_of_leaving(now: &Record) -> Cause {
    match now.status {
        Status::Draining => Cause::Draining,
        Status::Maintenance => Cause::Maintenance,
        _ => Cause::Filtered,
    }
}
