//! The messages of the world's streams. Know nothing of what is in them.

use onair::{
    proto::{Event, SubscribeResponse, SubscriptionGroup, WatchResponse},
    registry::FilterSet,
};

/// Events in a message: few, so that revisions span some.
const EVENTS_MAX: usize = 2;

/// A place in the history.
pub(super) fn token(revision: u64, filters: &FilterSet) -> String {
    format!("r{revision}-{:x}", filters.fingerprint())
}

/// Nothing but how far a watch is.
pub(super) fn bookmark(revision: u64, filters: &FilterSet) -> WatchResponse {
    WatchResponse { revision, resume_token: token(revision, filters), ..WatchResponse::default() }
}

/// The events of a revision or snapshot as messages: none if there are none.
pub(super) fn pieces(revision: u64, filters: &FilterSet, events: &[Event]) -> impl Iterator<Item = WatchResponse> {
    let count = events.len().div_ceil(EVENTS_MAX);
    events.chunks(EVENTS_MAX).enumerate().map(move |(at, events)| {
        let more = at + 1 < count;
        let resume_token = if more { String::new() } else { token(revision, filters) };
        WatchResponse { revision, resume_token, events: events.to_vec(), more, ..WatchResponse::default() }
    })
}

/// The groups of a revision as messages: each group's events in a message of their own, all tokens in the last.
pub(super) fn grouped(revision: u64, mut groups: Vec<SubscriptionGroup>) -> Vec<SubscribeResponse> {
    let Some(last) = groups.pop() else { return vec![] };
    let mut ends = vec![last];
    for group in &mut groups {
        let (id, resume_token) = (group.id.clone(), std::mem::take(&mut group.resume_token));
        ends.push(SubscriptionGroup { id, resume_token, ..SubscriptionGroup::default() });
    }
    let firsts = groups.into_iter().map(|group| (vec![group], true));
    let all = firsts.chain([(ends, false)]);
    all.map(|(groups, more)| subscribed(revision, groups, more)).collect()
}

/// A message of a stream of subscriptions.
pub(super) fn subscribed(revision: u64, groups: Vec<SubscriptionGroup>, more: bool) -> SubscribeResponse {
    SubscribeResponse { revision, groups, more, bookmark_interval: None }
}
