//! What a committed event is to one watch: filters cross (promise 10).

use std::sync::Arc;

use crate::registry::{Cause, Event, EventType, Matcher, Record, Status};

/// An event as one watch sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What happened to the watch's set.
    pub kind: EventType,
    /// Why.
    pub cause: Cause,
    /// The record that goes with it.
    pub record: Arc<Record>,
}

/// What `event` is to a watch of `matcher`: nothing, one step, or a replacement's two.
#[must_use]
pub fn judge(matcher: &Matcher, event: &Event) -> [Option<Seen>; 2] {
    let matches = |record: &Option<Arc<Record>>| record.as_ref().filter(|record| matcher.matches(record)).cloned();
    let (was, is) = (matches(&event.before), matches(&event.after));
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
        (Some(_), None, _, Some(now)) => seen(EventType::Offline, cause_of_leaving(now), Arc::clone(now)),
        (Some(last), None, _, None) => seen(EventType::Offline, event.cause, last),
        (None, None, ..) => None,
    };
    [one, None]
}

/// Why a record that is still there no longer matches.
fn cause_of_leaving(now: &Record) -> Cause {
    match now.status {
        Status::Draining => Cause::Draining,
        Status::Maintenance => Cause::Maintenance,
        _ => Cause::Filtered,
    }
}
