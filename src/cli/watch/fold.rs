//! What a watch has told so far, and what is new in the next message. Pure: no clock, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    mem,
};

use prost::Message;

use crate::{
    cli::{lease::address, lookup::status_name, print::enum_name},
    proto::{Cause, Event, EventType, Instance, ServicePresence, Status, WatchResponse},
};

/// The cause of an OFFLINE that nobody sent: a snapshot after a reset did not name the instance any more.
const RESET: &str = "RESET";

/// A line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) event: EventType,
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) id: String,
    pub(super) address: String,
    pub(super) cause: String,
    /// Where it is another than before, or one that not everybody has.
    pub(super) status: String,
}

/// What a message brought that was not known.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) steps: Vec<Step>,
    pub(super) summaries: Vec<ServicePresence>,
}

type Key = (String, String, String);

/// What is known of an instance: where it is, and a hash of its description.
struct Known {
    address: String,
    status: Status,
    description: u64,
}

/// The instances that are online as far as this watch knows.
#[derive(Default)]
pub(super) struct Fold {
    known: BTreeMap<Key, Known>,
    /// After a reset: what was known before and is not named by the snapshot yet.
    unnamed: Option<BTreeSet<Key>>,
    /// The partitions of services that are there, as far as summaries have told.
    partitions: BTreeSet<Key>,
    /// As `unnamed`.
    unnamed_partitions: Option<BTreeSet<Key>>,
    /// Events and summaries of a revision that goes on in the next message.
    unfinished: (Vec<Event>, Vec<ServicePresence>),
    /// The snapshot has ended: from here on revisions are acted on whole.
    live: bool,
    /// A revision goes on in the next message.
    partial: bool,
}

impl Fold {
    /// A stream has ended: what came of an unfinished revision comes again.
    pub(super) fn broken(&mut self) {
        self.unfinished = Default::default();
        self.partial = false;
    }

    /// Whether everything that has come may be acted on.
    pub(super) fn is_whole(&self) -> bool {
        !self.partial
    }

    /// A snapshot begins: keep what is known, and drop at its end what it did not name.
    pub(super) fn reset(&mut self) {
        self.unfinished = Default::default();
        self.live = false;
        self.unnamed = Some(self.known.keys().cloned().collect());
        self.unnamed_partitions = Some(self.partitions.clone());
    }

    /// What is new in `message`.
    pub(super) fn take(&mut self, message: WatchResponse) -> News {
        if message.reset.is_some() {
            self.reset();
        }
        if !message.resume_token.is_empty() || message.snapshot_end {
            // Tokens come with whole revisions, and only outside a snapshot.
            self.live = true;
        }
        self.unfinished.0.extend(message.events);
        self.unfinished.1.extend(message.services);
        self.partial = self.live && message.more;
        if self.partial {
            return News::default();
        }
        let (events, told) = mem::take(&mut self.unfinished);
        let mut steps: Vec<Step> = events.into_iter().filter_map(|event| self.event(event)).collect();
        let mut summaries: Vec<ServicePresence> = told.into_iter().filter(|summary| self.summary(summary)).collect();
        if message.snapshot_end {
            for key in self.unnamed.take().unwrap_or_default() {
                if let Some(gone) = self.known.remove(&key) {
                    let (namespace, service, id) = key;
                    let event = EventType::Offline;
                    let (address, cause, status) = (gone.address, RESET.to_owned(), String::new());
                    steps.push(Step { event, namespace, service, id, address, cause, status });
                }
            }
            for (namespace, service, key) in self.unnamed_partitions.take().unwrap_or_default() {
                self.partitions.remove(&(namespace.clone(), service.clone(), key.clone()));
                summaries.push(ServicePresence { namespace, service, key, online: false });
            }
        }
        News { steps, summaries }
    }

    /// Takes in a summary; whether it is news.
    fn summary(&mut self, summary: &ServicePresence) -> bool {
        let ServicePresence { namespace, service, key, online } = summary;
        let partition = (namespace.clone(), service.clone(), key.clone());
        if let Some(unnamed) = &mut self.unnamed_partitions {
            unnamed.remove(&partition);
        }
        if *online { self.partitions.insert(partition) } else { self.partitions.remove(&partition) }
    }

    fn event(&mut self, event: Event) -> Option<Step> {
        let (kind, cause) = (event.r#type(), event.cause());
        let instance = event.instance?;
        let key = (instance.namespace.clone(), instance.service.clone(), instance.id.clone());
        let status = instance.status();
        let known = Known { address: address(&instance), status, description: described(&instance) };
        let mut plain = matches!(status, Status::Unspecified | Status::Serving);
        let address = known.address.clone();
        if let Some(unnamed) = &mut self.unnamed {
            unnamed.remove(&key);
        }
        let kind = match kind {
            EventType::Offline => {
                self.known.remove(&key);
                // Its cause says all there is to say.
                plain = true;
                kind
            }
            EventType::Online | EventType::Updated | EventType::Unspecified => {
                let description = known.description;
                let before = self.known.insert(key, known);
                plain &= before.as_ref().is_none_or(|before| before.status == status);
                match before {
                    // A snapshot after a reset names what is known already: only differences are news.
                    Some(before) if cause == Cause::Snapshot && before.description == description => return None,
                    Some(_) if cause == Cause::Snapshot => EventType::Updated,
                    _ => kind,
                }
            }
        };
        let Instance { namespace, service, id, .. } = instance;
        let cause = match cause {
            Cause::Unspecified => String::new(),
            known => enum_name("Cause", known.into(), "CAUSE_"),
        };
        let status = if plain { String::new() } else { status_name(status.into()) };
        Some(Step { event: kind, namespace, service, id, address, cause, status })
    }
}

/// What the instance says of itself, without the registry's numbering, which may begin anew.
fn described(instance: &Instance) -> u64 {
    let plain = Instance { incarnation: 0, revision: 0, online_since: None, ..instance.clone() };
    let mut hasher = DefaultHasher::new();
    plain.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Reset;

    fn event(kind: EventType, cause: Cause, id: &str, port: u32) -> Event {
        let instance = Instance {
            namespace: "default".into(),
            service: "web".into(),
            id: id.into(),
            host: "h".into(),
            port,
            ..Instance::default()
        };
        Event { r#type: kind.into(), cause: cause.into(), instance: Some(instance) }
    }

    fn online(cause: Cause, id: &str) -> Event {
        event(EventType::Online, cause, id, 1)
    }

    fn shown(steps: &[Step]) -> Vec<String> {
        steps.iter().map(|step| format!("{:?} {} {} {}", step.event, step.id, step.address, step.cause)).collect()
    }

    fn snapshot(ids: &[&str]) -> WatchResponse {
        let events = ids.iter().map(|id| online(Cause::Snapshot, id)).collect();
        WatchResponse { events, snapshot_end: true, resume_token: "t".into(), ..Default::default() }
    }

    #[test]
    fn a_reset_tells_only_differences() {
        let mut fold = Fold::default();
        assert_eq!(fold.take(snapshot(&["a", "b", "c"])).steps.len(), 3);
        let begins = WatchResponse {
            reset: Some(Reset::default()),
            events: vec![online(Cause::Snapshot, "a"), event(EventType::Online, Cause::Snapshot, "b", 2)],
            more: true,
            ..Default::default()
        };
        assert_eq!(shown(&fold.take(begins).steps), ["Updated b h:2 SNAPSHOT"]);
        assert_eq!(shown(&fold.take(snapshot(&["d"])).steps), ["Online d h:1 SNAPSHOT", "Offline c h:1 RESET"]);
        assert_eq!(fold.known.len(), 3);
    }

    #[test]
    fn a_status_is_told_where_it_is_news() {
        let mut fold = Fold::default();
        let mut tell = |kind, cause, status: Status| {
            let mut event = event(kind, cause, "a", 1);
            event.instance.as_mut().unwrap().status = status.into();
            let message = WatchResponse { events: vec![event], resume_token: "t".into(), ..Default::default() };
            fold.take(message).steps.pop().map(|step| step.status)
        };
        for (kind, cause, status, told) in [
            (EventType::Online, Cause::Registered, Status::Serving, ""),
            (EventType::Updated, Cause::Unspecified, Status::Serving, ""),
            (EventType::Updated, Cause::Unspecified, Status::Suspect, "SUSPECT"),
            (EventType::Updated, Cause::Unspecified, Status::Serving, "SERVING"),
            (EventType::Updated, Cause::Unspecified, Status::Suspect, "SUSPECT"),
            (EventType::Offline, Cause::Expired, Status::Suspect, ""),
            (EventType::Online, Cause::Matched, Status::Draining, "DRAINING"),
        ] {
            assert_eq!(tell(kind, cause, status).as_deref(), Some(told), "{kind:?} {cause:?} {status:?}");
        }
    }

    #[test]
    fn revisions_are_taken_whole() {
        let mut fold = Fold::default();
        fold.take(snapshot(&[]));
        let part = |id, more| WatchResponse { events: vec![online(Cause::Registered, id)], more, ..Default::default() };
        assert!(fold.take(part("a", true)).steps.is_empty());
        fold.broken();
        assert!(fold.take(part("a", true)).steps.is_empty());
        assert_eq!(shown(&fold.take(part("b", false)).steps), ["Online a h:1 REGISTERED", "Online b h:1 REGISTERED"]);
    }

    #[test]
    fn a_snapshot_is_shown_as_it_comes() {
        let mut fold = Fold::default();
        let part = WatchResponse { events: vec![online(Cause::Snapshot, "a")], more: true, ..Default::default() };
        assert_eq!(fold.take(part).steps.len(), 1);
        // It broke before its end, and begins anew.
        fold.broken();
        fold.reset();
        assert_eq!(shown(&fold.take(snapshot(&["b"])).steps), ["Online b h:1 SNAPSHOT", "Offline a h:1 RESET"]);
    }

    #[test]
    fn a_resumed_stream_is_live_from_its_first_token() {
        let mut fold = Fold::default();
        fold.take(WatchResponse { resume_token: "t".into(), ..Default::default() });
        let part = WatchResponse { events: vec![online(Cause::Registered, "a")], more: true, ..Default::default() };
        assert!(fold.take(part).steps.is_empty());
    }
}
