//! What a stream says that is not of the log: what was published, and bookmarks while nothing happens.

use super::{EVENTS_BYTES_MAX, Group, Phase, Revision, Subscriptions, push_group, subscribe_response};

impl Subscriptions {
    /// Queues what was published, a group for each subscription that it is for, with what it has seen. Called when all of
    /// them have seen everything up to `head`. False: nothing was.
    pub(super) fn read_published(&mut self, head: Revision) -> bool {
        let reading = |part: &u32| match self.parts.get(*part as usize) {
            Some(Some(subscription)) => !matches!(subscription.phase, Phase::Live),
            _ => false,
        };
        // What comes while a snapshot is read comes after it.
        let ready = self.published.iter().copied().find(|part| !reading(part));
        let Some(part) = ready else { return false };
        self.published.remove(&part);
        let Some(Some(subscription)) = self.parts.get_mut(part as usize) else { return true };
        let Some(published) = subscription.published.as_ref().filter(|published| !published.is_empty()) else {
            return true;
        };
        let fields = published.take(EVENTS_BYTES_MAX - 1_024);
        if !published.is_empty() {
            self.published.insert(part);
        }
        subscription.cursor = subscription.cursor.max(head);
        let token = subscription.feed.token(subscription.cursor);
        let mut groups = Vec::new();
        push_group(Group { id: &subscription.id, events: &fields, token: &token, ..Group::default() }, &mut groups);
        let reached = self.parts.iter().flatten().map(|part| part.cursor).max().unwrap_or(head);
        self.given = self.given.max(reached);
        self.queue.push_back(subscribe_response(reached, &groups, false));
        true
    }

    /// Queues a group for each subscription that has its snapshot: with what it has seen, which for all of them is
    /// everything up to `head`.
    pub(super) fn bookmark(&mut self, head: Revision) {
        let live = self.parts.iter().flatten().filter(|part| matches!(part.phase, Phase::Live));
        let reached = live.map(|part| part.cursor).max().unwrap_or(head).max(head);
        self.given = self.given.max(reached);
        let mut groups = Vec::new();
        for subscription in self.parts.iter_mut().flatten() {
            if !matches!(subscription.phase, Phase::Live) {
                continue;
            }
            subscription.cursor = subscription.cursor.max(head);
            let token = subscription.feed.token(subscription.cursor);
            push_group(Group { id: &subscription.id, token: &token, ..Group::default() }, &mut groups);
            if groups.len() > EVENTS_BYTES_MAX - 1_024 {
                self.queue.push_back(subscribe_response(reached, &groups, false));
                groups.clear();
            }
        }
        if !groups.is_empty() || self.queue.is_empty() {
            self.queue.push_back(subscribe_response(reached, &groups, false));
        }
    }
}
