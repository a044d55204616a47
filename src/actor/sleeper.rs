//! Calls that wait for what is published: each has a place in the log, and looks at what happened, however much is there.
//! Knows no calls.

use std::sync::Arc;

use crate::{
    registry::{Matcher, Revision, Scope},
    watch::{EventLog, Hub, Listener, ONLY_PART},
};

/// Most log entries that are looked at in one go.
const READ_MAX: usize = 64;

/// Whether what happened after `seen` may have brought something that matches; moves `seen` to what was looked at.
pub(super) fn may_match(log: &EventLog, matcher: &Matcher, seen: &mut Revision) -> bool {
    let follows = !matcher.frontends().is_empty();
    loop {
        let Ok(batch) = log.read(matcher.scopes(), *seen, READ_MAX) else { return true };
        // What is behind a frontend is known to those who look at all of it.
        let turned = follows && !batch.entries.is_empty();
        let events = batch.entries.iter().flat_map(|entry| entry.events.iter());
        if turned || events.filter_map(|event| event.after.as_ref()).any(|record| matcher.matches(record)) {
            return true;
        }
        if batch.through <= *seen {
            return false;
        }
        *seen = batch.through;
    }
}

/// A place in the log for a call that waits, given back also when the caller leaves.
pub(super) struct Sleeper<'a> {
    hub: &'a Hub,
    scopes: &'a [Scope],
    pub(super) listener: Arc<Listener>,
    listening: u64,
}

impl<'a> Sleeper<'a> {
    pub(super) fn new(hub: &'a Hub, scopes: &'a [Scope]) -> Self {
        let listener = Listener::new();
        let listening = hub.log().listen(scopes, &listener, ONLY_PART);
        Self { hub, scopes, listener, listening }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.hub.log().ignore(self.scopes, self.listening);
    }
}
