//! What a watch knows, and what is news: parts of revisions and of snapshots come in, whole changes come out, each once.
//! No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use crate::proto::{Cause, Event, EventType, Frontend, Instance, ResetReason, SubscriptionGroup};

/// All that happened at one revision; or what a snapshot has that was not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// At which revision. It never goes back, unless `reset` says that the history is, or may be, another one.
    pub revision: u64,
    /// Where to continue after it.
    pub token: String,
    /// What came, changed and went, in order. In a snapshot only what is news: what is another incarnation of the same key
    /// is updated, and what it lacks has gone, without a cause.
    pub events: Vec<Event>,
    /// Where watched frontends point, of those that changed.
    pub frontends: Vec<Frontend>,
    /// It is a snapshot: the first change, or one after a reset. From here on what is known is complete.
    pub snapshot: bool,
    /// Why the watch began anew with it.
    pub reset: Option<ResetReason>,
}

impl Change {
    /// Whether nothing happened up to its revision.
    pub(super) fn is_quiet(&self) -> bool {
        self.events.is_empty() && self.frontends.is_empty() && !self.snapshot
    }
}

type Key = (String, String, String);

/// The instances that are online as far as a watch knows.
#[derive(Debug, Default)]
pub(super) struct Fold {
    known: BTreeMap<Key, Instance>,
    token: String,
    revision: u64,
    /// Of a revision, or a snapshot, that goes on.
    unfinished: Change,
    /// A snapshot is being read.
    snapshot: bool,
}

/// What came of a part.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// Nothing that one could act on.
    Nothing,
    /// A whole change; a quiet one of a bookmark.
    Change(Change),
    /// The stream goes back behind what is known: it is not to be believed.
    Backward,
}

impl Fold {
    /// Where to continue; empty: from a snapshot.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Everything up to it was taken in.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// A stream begins: what came of an unfinished revision comes again, and without a token there is a snapshot.
    pub(super) fn begin(&mut self) {
        self.unfinished = Change::default();
        self.snapshot = self.token.is_empty();
    }

    /// What is new in a group of a message at `revision`.
    pub(super) fn take(&mut self, revision: u64, group: SubscriptionGroup) -> Taken {
        if let Some(reset) = &group.reset {
            self.unfinished = Change { reset: Some(reset.reason()), ..Change::default() };
            // The token stays until there is another: should the snapshot break, the next stream says why it begins anew.
            self.snapshot = true;
        }
        if revision < self.revision && self.unfinished.reset.is_none_or(is_of_this_history) {
            return Taken::Backward;
        }
        self.unfinished.events.extend(group.events);
        self.unfinished.frontends.extend(group.frontends);
        if group.resume_token.is_empty() {
            return Taken::Nothing;
        }
        if self.snapshot && !group.snapshot_end {
            // A token comes with the end only; whatever this is, it is no end.
            return Taken::Nothing;
        }
        (self.token, self.revision) = (group.resume_token, revision);
        let mut change = Change { revision, token: self.token.clone(), ..mem::take(&mut self.unfinished) };
        if mem::take(&mut self.snapshot) {
            change.snapshot = true;
            change.events = self.difference(mem::take(&mut change.events));
            return Taken::Change(change);
        }
        change.events.iter().for_each(|event| self.note(event));
        Taken::Change(change)
    }

    fn note(&mut self, event: &Event) {
        let Some(instance) = &event.instance else { return };
        match event.r#type() {
            EventType::Offline => _ = self.known.remove(&key(instance)),
            EventType::Online | EventType::Updated | EventType::Unspecified => {
                self.known.insert(key(instance), instance.clone());
            }
        }
    }

    /// What a snapshot tells beyond what is known.
    fn difference(&mut self, snapshot: Vec<Event>) -> Vec<Event> {
        let mut unnamed: BTreeSet<Key> = self.known.keys().cloned().collect();
        let mut news = Vec::new();
        for event in snapshot {
            let Some(instance) = event.instance else { continue };
            let key = key(&instance);
            unnamed.remove(&key);
            let before = self.known.insert(key, instance.clone());
            let kind = match before {
                None => EventType::Online,
                Some(before) if before == instance => continue,
                Some(_) => EventType::Updated,
            };
            news.push(Event { r#type: kind.into(), cause: Cause::Snapshot.into(), instance: Some(instance) });
        }
        let gone = unnamed.into_iter().filter_map(|key| self.known.remove(&key));
        let offline = |instance| Event {
            r#type: EventType::Offline.into(),
            cause: Cause::Unspecified.into(),
            instance: Some(instance),
        };
        // Who goes makes room before who comes.
        gone.map(offline).chain(news).collect()
    }
}

fn key(instance: &Instance) -> Key {
    (instance.namespace.clone(), instance.service.clone(), instance.id.clone())
}

/// Whether the history goes on, of which something was missed.
fn is_of_this_history(reset: ResetReason) -> bool {
    matches!(reset, ResetReason::TooOld | ResetReason::FellBehind | ResetReason::SelectorsChanged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Reset;

    fn event(kind: EventType, id: &str, port: u32) -> Event {
        let instance = Instance { service: "web".into(), id: id.into(), port, ..Instance::default() };
        Event { r#type: kind.into(), cause: Cause::Unspecified.into(), instance: Some(instance) }
    }

    fn part(events: Vec<Event>, token: &str) -> SubscriptionGroup {
        SubscriptionGroup { events, resume_token: token.into(), ..SubscriptionGroup::default() }
    }

    fn snapshot(ids: &[&str]) -> SubscriptionGroup {
        let events = ids.iter().map(|id| event(EventType::Online, id, 1)).collect();
        SubscriptionGroup { snapshot_end: true, ..part(events, "t") }
    }

    fn shown(taken: Taken) -> (u64, Vec<String>) {
        let Taken::Change(change) = taken else { panic!("{taken:?}") };
        let one = |event: &Event| {
            let instance = event.instance.as_ref().unwrap();
            format!("{:?} {} {}", event.r#type(), instance.id, instance.port)
        };
        (change.revision, change.events.iter().map(one).collect())
    }

    fn begun(ids: &[&str]) -> Fold {
        let mut fold = Fold::default();
        fold.begin();
        shown(fold.take(5, snapshot(ids)));
        fold
    }

    #[test]
    fn revisions_and_snapshots_are_given_whole_and_once() {
        let mut fold = Fold::default();
        fold.begin();
        assert_eq!(fold.take(5, part(vec![event(EventType::Online, "a", 1)], "")), Taken::Nothing);
        // It broke, and begins anew.
        fold.begin();
        assert_eq!(fold.take(6, part(vec![event(EventType::Online, "b", 1)], "")), Taken::Nothing);
        assert_eq!(shown(fold.take(6, snapshot(&["c"]))), (6, vec!["Online b 1".to_owned(), "Online c 1".to_owned()]));
        assert_eq!(fold.take(7, part(vec![event(EventType::Offline, "b", 1)], "")), Taken::Nothing);
        fold.begin();
        assert_eq!(fold.take(7, part(vec![event(EventType::Offline, "b", 1)], "")), Taken::Nothing);
        let rest = part(vec![event(EventType::Online, "d", 1)], "u");
        assert_eq!(shown(fold.take(7, rest)), (7, vec!["Offline b 1".to_owned(), "Online d 1".to_owned()]));
        assert_eq!((fold.token(), fold.revision()), ("u", 7));
        let bookmark = Change { revision: 9, token: "v".into(), ..Change::default() };
        assert!(bookmark.is_quiet());
        assert_eq!(fold.take(9, part(vec![], "v")), Taken::Change(bookmark));
        assert_eq!((fold.token(), fold.revision()), ("v", 9));
    }

    #[test]
    fn a_reset_tells_only_differences() {
        let mut fold = begun(&["a", "b", "c"]);
        fold.begin();
        let reset = Some(Reset { reason: ResetReason::AnotherRegistry.into(), oldest_revision: 0 });
        let first = vec![event(EventType::Online, "a", 1), event(EventType::Online, "b", 2)];
        assert_eq!(fold.take(2, SubscriptionGroup { reset, ..part(first.clone(), "") }), Taken::Nothing);
        // It breaks in the middle: the next stream begins where the first did, and says why it begins anew.
        fold.begin();
        assert_eq!((fold.token(), fold.revision()), ("t", 5));
        assert_eq!(fold.take(2, SubscriptionGroup { reset, ..part(first, "") }), Taken::Nothing);
        let taken = fold.take(2, snapshot(&["d"]));
        let Taken::Change(Change { reset: Some(ResetReason::AnotherRegistry), snapshot: true, .. }) = &taken else {
            panic!("{taken:?}");
        };
        let expected = ["Offline c 1", "Updated b 2", "Online d 1"].map(str::to_owned).to_vec();
        assert_eq!(shown(taken), (2, expected));
    }

    /// Replaced while nobody told of it: who folds what comes next has to know which one it is of.
    #[test]
    fn another_incarnation_is_news() {
        let mut fold = begun(&["a", "b"]);
        let reset = Some(Reset { reason: ResetReason::TooOld.into(), oldest_revision: 7 });
        let mut group = SubscriptionGroup { reset, ..snapshot(&["a", "b"]) };
        group.events[1].instance.as_mut().unwrap().incarnation = 9;
        let taken = fold.take(9, group);
        let Taken::Change(change) = &taken else { panic!("{taken:?}") };
        assert_eq!(change.events[0].instance.as_ref().unwrap().incarnation, 9);
        assert_eq!(shown(taken), (9, vec!["Updated b 1".to_owned()]));
    }

    #[test]
    fn it_never_goes_back() {
        let mut fold = begun(&["a"]);
        fold.begin();
        assert_eq!(fold.take(4, part(vec![event(EventType::Offline, "a", 1)], "t")), Taken::Backward);
        assert_eq!((fold.revision(), fold.known.len()), (5, 1));
        for (reason, goes_back) in [
            (ResetReason::TooOld, false),
            (ResetReason::FellBehind, false),
            (ResetReason::SelectorsChanged, false),
            (ResetReason::AnotherEpoch, true),
            (ResetReason::AnotherRegistry, true),
        ] {
            let mut fold = begun(&["a"]);
            fold.begin();
            let reset = Some(Reset { reason: reason.into(), oldest_revision: 0 });
            let taken = fold.take(4, SubscriptionGroup { reset, ..snapshot(&["b"]) });
            assert_eq!(taken != Taken::Backward, goes_back, "{reason:?}");
            assert_eq!(fold.known.contains_key(&(String::new(), "web".into(), "a".into())), !goes_back);
        }
    }
}
