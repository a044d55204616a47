//! What a client holds who acts on a watch's messages as the protocol says. Knows one watch or one subscription.

use std::{collections::BTreeMap, mem};

use onair::{
    proto::{Event, Reset, SubscribeResponse, WatchResponse},
    registry::{EventType, Instance, Key},
};

use super::key_of;

/// The set of a watch, kept up to date message by message. It changes by whole revisions and whole snapshots only.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    held: BTreeMap<Key, Instance>,
    /// What the snapshot that is under way has named.
    named: Option<BTreeMap<Key, Instance>>,
    /// Events of a revision that goes on.
    pending: Vec<Event>,
    revision: u64,
    resume_token: String,
}

impl Fold {
    /// Of a watch that begins with a snapshot.
    pub fn new() -> Self {
        Self { named: Some(BTreeMap::new()), ..Self::default() }
    }

    /// What is in the set at `revision`.
    pub fn instances(&self) -> &BTreeMap<Key, Instance> {
        &self.held
    }

    /// The last whole revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Where to continue; empty before the first snapshot is complete.
    pub fn resume_token(&self) -> &str {
        &self.resume_token
    }

    /// Whether a snapshot is under way.
    pub fn is_in_snapshot(&self) -> bool {
        self.named.is_some()
    }

    /// A new stream was opened with `resume_token`: what the old one left unfinished comes again.
    pub fn redial(&mut self) {
        self.pending.clear();
        self.named = self.resume_token.is_empty().then(BTreeMap::new);
    }

    /// Takes in a message of a Watch.
    pub fn watch(&mut self, message: &WatchResponse) {
        let WatchResponse { revision, resume_token, events, more, snapshot_end, reset, .. } = message;
        self.step(*revision, resume_token, events, *more, *snapshot_end, reset.as_ref());
    }

    /// Takes in a message of a Subscribe stream, for the subscription `id`.
    pub fn subscription(&mut self, id: &str, message: &SubscribeResponse) {
        for group in message.groups.iter().filter(|group| group.id == id) {
            let reset = group.reset.as_ref();
            self.step(message.revision, &group.resume_token, &group.events, true, group.snapshot_end, reset);
        }
        if !message.more && self.named.is_none() {
            let token = message.groups.iter().find(|group| group.id == id).map_or("", |group| &group.resume_token);
            if !token.is_empty() || !self.pending.is_empty() {
                self.step(message.revision, token, &[], false, false, None);
            }
        }
    }

    fn step(
        &mut self,
        revision: u64,
        token: &str,
        events: &[Event],
        more: bool,
        snapshot_end: bool,
        reset: Option<&Reset>,
    ) {
        if reset.is_some() {
            self.named = Some(BTreeMap::new());
            self.pending.clear();
        }
        if let Some(named) = &mut self.named {
            named.extend(events.iter().filter_map(|event| event.instance.clone()).map(|one| (key_of(&one), one)));
            if !snapshot_end {
                return;
            }
            self.held = mem::take(named);
            self.named = None;
        } else {
            self.pending.extend_from_slice(events);
            if more {
                return;
            }
            for event in mem::take(&mut self.pending) {
                let kind = event.r#type();
                let Some(instance) = event.instance else { continue };
                match kind {
                    EventType::Online | EventType::Updated => self.held.insert(key_of(&instance), instance),
                    EventType::Offline => self.held.remove(&key_of(&instance)),
                    EventType::Unspecified => None,
                };
            }
        }
        self.revision = revision;
        if !token.is_empty() {
            token.clone_into(&mut self.resume_token);
        }
    }
}
