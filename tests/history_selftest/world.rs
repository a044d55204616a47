//! A registry as small as it can be that keeps every promise, and writes down what its clients would. Knows nothing of
//! the checkers.

use std::{collections::BTreeMap, time::Duration};

use onair::{
    proto::{
        AddSubscription, Beat, BeatResult, BeatState, DeregisterRequest, DeregisterResponse, DropSubscription,
        Emptiness, Event, HeartbeatRequest, HeartbeatResponse, Lease, LookupRequest, LookupResponse, RegisterRequest,
        RegisterResponse, Reset, ResetReason, Selector, SubscribeRequest, SubscriptionGroup, WatchRequest,
        WatchResponse, subscribe_request::Command,
    },
    registry::{
        Cause, EventType, Filter, FilterSet, Instance, Key, LeaseId, LeaseToken, Secret, Status as InstanceStatus,
    },
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    history::{End, History, Message, Opening, Operation, Reply, Request, Stream},
    messages::{bookmark, grouped, pieces, subscribed, token},
};

/// What a call takes.
const STEP: Duration = Duration::from_millis(1);

/// An instance and its lease.
#[derive(Clone)]
struct Entry {
    instance: Instance,
    token: String,
    ttl: Duration,
}

/// Before, after, and why it went.
type Change = (Option<Instance>, Option<Instance>, Cause);

/// A watch or a subscription that is open.
struct Open {
    stream: usize,
    id: Option<String>,
    filters: FilterSet,
}

/// The registry, its clients' clock and what they saw.
#[derive(Default)]
pub struct World {
    pub history: History,
    now: Duration,
    revision: u64,
    entries: BTreeMap<Key, Entry>,
    log: Vec<(u64, Vec<Change>)>,
    open: Vec<Open>,
    secrets: u8,
}

/// A selector of a service; of every one, if it is empty.
pub fn of(service: &str) -> Vec<Selector> {
    vec![Selector { service: service.into(), ..Selector::default() }]
}

/// The selector of everything.
pub fn everything() -> Vec<Selector> {
    vec![Selector { namespace: "*".into(), selector: "status=*".into(), ..Selector::default() }]
}

fn filters(selectors: &[Selector]) -> FilterSet {
    let one = |s: &Selector| Filter::new(&s.namespace, &s.service, &s.version, &s.selector).unwrap();
    FilterSet::new(selectors.iter().map(one))
}

/// An error as the server makes them.
pub fn error(code: Code, reason: &str, metadata: &[(&str, &str)], add: impl FnOnce(&mut ErrorDetails)) -> Status {
    let metadata: Vec<_> = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut details = ErrorDetails::with_error_info(
        reason,
        "onair",
        metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
    );
    add(&mut details);
    Status::with_error_details(code, "a sentence", details)
}

/// What a change is to a filter set.
fn project((before, after, cause): &Change, filters: &FilterSet) -> Vec<Event> {
    let matching = |one: &Option<Instance>| one.clone().filter(|one| filters.matches(one));
    let event = |kind: EventType, cause: Cause, instance: Instance| Event {
        r#type: kind.into(),
        cause: cause.into(),
        instance: Some(instance),
    };
    match (matching(before), matching(after)) {
        (None, None) => vec![],
        (None, Some(now)) if before.is_none() || *cause == Cause::Replaced => {
            vec![event(EventType::Online, Cause::Registered, now)]
        }
        (None, Some(now)) => vec![event(EventType::Online, Cause::Matched, now)],
        (Some(old), Some(now)) if *cause == Cause::Replaced => {
            vec![event(EventType::Offline, *cause, old), event(EventType::Online, Cause::Registered, now)]
        }
        (Some(_), Some(now)) => vec![event(EventType::Updated, Cause::Unspecified, now)],
        (Some(old), None) => match after {
            Some(now) if *cause != Cause::Replaced => {
                let draining = now.status() == InstanceStatus::Draining;
                let cause = if draining { Cause::Draining } else { Cause::Filtered };
                vec![event(EventType::Offline, cause, now.clone())]
            }
            _ => vec![event(EventType::Offline, *cause, old)],
        },
    }
}

impl World {
    fn call(&mut self, request: impl Into<Request>) -> usize {
        let operation = Operation { request: request.into(), start: self.now, outcome: None };
        self.history.operations.push(operation);
        self.now += STEP;
        self.history.operations.len() - 1
    }

    fn answer(&mut self, call: usize, outcome: Result<impl Into<Reply>, Status>) {
        self.now += STEP;
        self.history.operations[call].outcome = Some((self.now, outcome.map(Into::into)));
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn token(&mut self, key: &Key, incarnation: u64) -> String {
        self.secrets += 1;
        let lease = LeaseId { revision: incarnation, ordinal: 0 };
        let secret = Secret([self.secrets; 16]);
        LeaseToken { registry: 1, key: key.fingerprint(), lease, secret, hint: 0 }.encode()
    }

    /// Commits changes, and tells the watchers.
    fn commit(&mut self, changes: Vec<Change>) {
        for open in self.open.iter().filter(|open| open.id.is_none()) {
            let events: Vec<_> = changes.iter().flat_map(|change| project(change, &open.filters)).collect();
            let messages = &mut self.history.streams[open.stream].messages;
            messages.extend(pieces(self.revision, &open.filters, &events).map(|message| (self.now, message.into())));
        }
        for stream in 0..self.history.streams.len() {
            let mut groups = Vec::new();
            for open in self.open.iter().filter(|open| open.stream == stream) {
                let events: Vec<_> = changes.iter().flat_map(|change| project(change, &open.filters)).collect();
                if let (Some(id), false) = (open.id.clone(), events.is_empty()) {
                    let resume_token = token(self.revision, &open.filters);
                    groups.push(SubscriptionGroup { id, events, resume_token, ..SubscriptionGroup::default() });
                }
            }
            let messages = &mut self.history.streams[stream].messages;
            messages.extend(grouped(self.revision, groups).into_iter().map(|message| (self.now, message.into())));
        }
        self.log.push((self.revision, changes));
    }

    /// Registers instances of a service by one call each, all in one revision. Their tokens.
    pub fn register(&mut self, service: &str, ids: &[&str], ttl: u64) -> Vec<String> {
        let calls: Vec<_> = ids.iter().map(|id| (self.call(register(service, id, ttl)), *id)).collect();
        self.revision += 3;
        let (mut changes, mut replies) = (Vec::new(), Vec::new());
        for (call, id) in calls {
            let (incarnation, revision) = (self.revision, self.revision);
            let asked = register(service, id, ttl).instance.unwrap();
            let instance = Instance { incarnation, revision, status: InstanceStatus::Serving.into(), ..asked };
            let key = Key::new("default", service, id);
            let (token, ttl) = (self.token(&key, revision), Duration::from_secs(ttl));
            let entry = Entry { instance: instance.clone(), token: token.clone(), ttl };
            let before = self.entries.insert(key, entry).map(|entry| entry.instance);
            let cause = if before.is_some() { Cause::Replaced } else { Cause::Unspecified };
            changes.push((before, Some(instance.clone()), cause));
            let lease = Lease { token, ttl: ttl.try_into().ok(), heartbeat_interval: (ttl / 3).try_into().ok() };
            let reply =
                RegisterResponse { instance: Some(instance), lease: Some(lease), revision, ..Default::default() };
            replies.push((call, reply));
        }
        self.commit(changes);
        let tokens = replies.iter().map(|(_, reply)| reply.lease.clone().unwrap().token).collect();
        replies.into_iter().for_each(|(call, reply)| self.answer(call, Ok(reply)));
        tokens
    }

    /// Registers an instance that needs others, each at a url that is given.
    pub fn register_with(&mut self, service: &str, id: &str, needs: &[(&str, &str)], mocks: &[(&str, &str)]) -> String {
        let first = self.history.operations.len();
        let token = self.register(service, &[id], 60).remove(0);
        let operation = &mut self.history.operations[first];
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        if let (Request::Register(request), Some((_, Ok(Reply::Register(reply))))) =
            (&mut operation.request, &mut operation.outcome)
        {
            (request.dependencies, request.mocks) = (map(needs), map(mocks));
            let at = |name: &&str| {
                let mut entries = self.entries.values().filter(|entry| entry.instance.service == **name);
                entries.next().map(|entry| entry.instance.url.clone())
            };
            reply.dependencies = needs.iter().filter_map(|(name, _)| Some(((*name).to_owned(), at(name)?))).collect();
            reply.dependencies.extend(request.mocks.clone());
        }
        token
    }

    /// Beats with tokens and the status that each brings.
    pub fn beat(&mut self, beats: &[(&str, InstanceStatus)]) {
        let beat = |(token, status): &(&str, InstanceStatus)| Beat {
            lease_token: (*token).to_owned(),
            status: (*status).into(),
        };
        let call = self.call(HeartbeatRequest { beats: beats.iter().map(beat).collect(), ..Default::default() });
        let mut results = Vec::new();
        for (token, status) in beats {
            let holder = LeaseToken::decode(token).map(|token| {
                let key = self.entries.iter().find(|(key, _)| key.fingerprint() == token.key);
                key.map(|(key, entry)| (key.clone(), entry.clone()))
            });
            let (state, ttl) = match holder {
                None => (BeatState::Unknown, None),
                Some(None) => (BeatState::Expired, None),
                Some(Some((_, entry))) if entry.token != *token => (BeatState::Superseded, None),
                Some(Some((key, entry))) => {
                    let suspect = entry.instance.status() == InstanceStatus::Suspect;
                    if *status != InstanceStatus::Unspecified && *status != entry.instance.status() {
                        self.set_status(&[key], *status);
                    } else if suspect {
                        self.set_status(&[key], InstanceStatus::Serving);
                    }
                    (BeatState::Renewed, entry.ttl.try_into().ok())
                }
            };
            results.push(BeatResult { state: state.into(), ttl, ..BeatResult::default() });
        }
        let revision = self.revision;
        self.answer(call, Ok(HeartbeatResponse { results, revision }));
    }

    fn set_status(&mut self, keys: &[Key], status: InstanceStatus) {
        self.revision += 2;
        let mut changes = Vec::new();
        for key in keys {
            let entry = self.entries.get_mut(key).unwrap();
            let before = entry.instance.clone();
            entry.instance.status = status.into();
            entry.instance.revision = self.revision;
            let after = entry.instance.clone();
            changes.push((Some(before), Some(after), Cause::Unspecified));
        }
        self.commit(changes);
    }

    /// A lease lapses.
    pub fn expire(&mut self, service: &str, id: &str) {
        self.remove(&Key::new("default", service, id), Cause::Expired);
        self.now += STEP;
    }

    /// Leases lapse, too many at once.
    pub fn hold_back(&mut self, service: &str, ids: &[&str]) {
        let keys: Vec<_> = ids.iter().map(|id| Key::new("default", service, *id)).collect();
        self.set_status(&keys, InstanceStatus::Suspect);
        self.now += STEP;
    }

    fn remove(&mut self, key: &Key, cause: Cause) {
        self.revision += 1;
        let entry = self.entries.remove(key).unwrap();
        self.commit(vec![(Some(entry.instance), None, cause)]);
    }

    /// Deregisters by token.
    pub fn deregister(&mut self, token: &str) {
        let call = self.call(DeregisterRequest { lease_token: token.into(), ..DeregisterRequest::default() });
        let (key, held) = {
            let of = LeaseToken::decode(token).unwrap().key;
            let entry = self.entries.iter().find(|(key, _)| key.fingerprint() == of);
            entry.map(|(key, entry)| (key.clone(), entry.token == token)).unwrap()
        };
        if !held {
            let refused = error(Code::Aborted, "SUPERSEDED", &[], |_| ());
            return self.answer(call, Err::<DeregisterResponse, _>(refused));
        }
        self.remove(&key, Cause::Deregistered);
        let revision = self.revision;
        self.answer(call, Ok(DeregisterResponse { removed: 1, revision }));
    }

    /// Looks up all matches.
    pub fn lookup(&mut self, selector: &Selector) {
        let Selector { namespace, service, selector: text, .. } = selector.clone();
        let min_revision = self.revision;
        let call = self.call(LookupRequest { namespace, service, selector: text, min_revision, ..Default::default() });
        let filters = filters(std::slice::from_ref(selector));
        let all = self.entries.values().map(|entry| entry.instance.clone());
        let instances: Vec<_> = all.filter(|one| filters.matches(one)).collect();
        let known = self
            .log
            .iter()
            .flat_map(|(_, changes)| changes)
            .any(|(before, after, _)| before.iter().chain(after).any(|one| one.service == selector.service));
        let emptiness = match (instances.is_empty(), known) {
            (false, _) => Emptiness::Unspecified,
            (true, true) => Emptiness::AllOffline,
            (true, false) => Emptiness::UnknownService,
        };
        let revision = self.revision;
        self.answer(
            call,
            Ok(LookupResponse { instances, emptiness: emptiness.into(), revision, ..Default::default() }),
        );
    }

    /// A call that is refused.
    pub fn refuse(&mut self, request: impl Into<Request>, status: Status) {
        let call = self.call(request);
        self.answer(call, Err::<LookupResponse, _>(status));
    }

    fn stream(&mut self, opening: Opening) -> usize {
        let (opened, commands, messages) = (self.now, Vec::new(), Vec::new());
        self.history.streams.push(Stream { opening, opened, commands, messages, end: None });
        self.now += STEP;
        self.history.streams.len() - 1
    }

    /// Opens a watch that begins with a snapshot, after a reset if there is a reason for one.
    pub fn watch(&mut self, selectors: Vec<Selector>, token: &str, reset: Option<(ResetReason, u64)>) -> usize {
        let filters = filters(&selectors);
        let request = WatchRequest { selectors, resume_token: token.to_owned(), ..WatchRequest::default() };
        let stream = self.stream(Opening::Watch(request));
        let mut messages: Vec<_> = pieces(self.revision, &filters, &self.snapshot(&filters)).collect();
        if messages.is_empty() {
            messages.push(bookmark(self.revision, &filters));
        }
        messages.last_mut().unwrap().snapshot_end = true;
        messages[0].reset = reset.map(|(reason, oldest_revision)| Reset { reason: reason.into(), oldest_revision });
        self.history.streams[stream].messages.extend(messages.into_iter().map(|message| (self.now, message.into())));
        self.open.push(Open { stream, id: None, filters });
        stream
    }

    /// Opens a watch that continues from a token.
    pub fn resume(&mut self, selectors: Vec<Selector>, token: &str) -> usize {
        let filters = filters(&selectors);
        let request = WatchRequest { selectors, resume_token: token.to_owned(), ..WatchRequest::default() };
        let stream = self.stream(Opening::Watch(request));
        let from: u64 = token[1..].split_once('-').unwrap().0.parse().unwrap();
        for (revision, changes) in self.log.iter().filter(|(revision, _)| *revision > from) {
            let events: Vec<_> = changes.iter().flat_map(|change| project(change, &filters)).collect();
            let messages = &mut self.history.streams[stream].messages;
            messages.extend(pieces(*revision, &filters, &events).map(|message| (self.now, message.into())));
        }
        let last = bookmark(self.revision, &filters);
        self.history.streams[stream].messages.push((self.now, last.into()));
        self.open.push(Open { stream, id: None, filters });
        stream
    }

    fn snapshot(&self, filters: &FilterSet) -> Vec<Event> {
        let all = self.entries.values().map(|entry| &entry.instance).filter(|one| filters.matches(one));
        let event = |instance: &Instance| Event {
            r#type: EventType::Online.into(),
            cause: Cause::Snapshot.into(),
            instance: Some(instance.clone()),
        };
        all.map(event).collect()
    }

    /// Opens a Subscribe stream.
    pub fn subscribe(&mut self) -> usize {
        self.stream(Opening::Subscribe)
    }

    fn command(&mut self, stream: usize, command: Command) {
        self.history.streams[stream].commands.push((self.now, SubscribeRequest { command: Some(command) }));
        self.now += STEP;
    }

    /// Adds a subscription, which begins with a snapshot in pieces.
    pub fn add(&mut self, stream: usize, id: &str, selectors: Vec<Selector>) {
        let filters = filters(&selectors);
        let add = AddSubscription { id: id.into(), selectors, ..AddSubscription::default() };
        self.command(stream, Command::Add(add));
        let mut pieces: Vec<_> = pieces(self.revision, &filters, &self.snapshot(&filters)).collect();
        if pieces.is_empty() {
            pieces.push(bookmark(self.revision, &filters));
        }
        pieces.last_mut().unwrap().snapshot_end = true;
        for piece in pieces {
            let WatchResponse { revision, resume_token, events, snapshot_end, .. } = piece;
            let group = SubscriptionGroup { id: id.into(), resume_token, events, snapshot_end, ..Default::default() };
            self.tell(stream, revision, group);
        }
        self.open.push(Open { stream, id: Some(id.into()), filters });
    }

    /// Drops a subscription.
    pub fn drop(&mut self, stream: usize, id: &str) {
        self.command(stream, Command::Drop(DropSubscription { id: id.into() }));
        self.open.retain(|open| open.stream != stream || open.id.as_deref() != Some(id));
        let group = SubscriptionGroup { id: id.into(), dropped: true, ..SubscriptionGroup::default() };
        self.tell(stream, self.revision, group);
    }

    fn tell(&mut self, stream: usize, revision: u64, group: SubscriptionGroup) {
        self.history.streams[stream].messages.push((self.now, subscribed(revision, vec![group], false).into()));
    }

    /// Every stream says how far it is.
    pub fn bookmarks(&mut self) {
        let revision = self.revision;
        for (number, stream) in self.history.streams.iter_mut().enumerate() {
            let open: Vec<_> = self.open.iter().filter(|open| open.stream == number).collect();
            let message: Message = match (&stream.opening, open.is_empty()) {
                (_, true) => continue,
                (Opening::Watch(_), false) => bookmark(revision, &open[0].filters).into(),
                (Opening::Subscribe, false) => {
                    let group = |open: &&Open| SubscriptionGroup {
                        id: open.id.clone().unwrap_or_default(),
                        resume_token: token(revision, &open.filters),
                        ..SubscriptionGroup::default()
                    };
                    subscribed(revision, open.iter().map(group).collect(), false).into()
                }
            };
            stream.messages.push((self.now, message));
        }
    }

    /// The client of a stream leaves.
    pub fn leave(&mut self, stream: usize) {
        self.open.retain(|open| open.stream != stream);
        self.history.streams[stream].end = Some((self.now, End::ByClient));
    }

    /// The last token of a watch.
    pub fn last_token(&self, stream: usize) -> String {
        let messages = self.history.streams[stream].messages.iter().rev();
        let token = |message: &Message| match message {
            Message::Watch(message) => Some(message.resume_token.clone()).filter(|token| !token.is_empty()),
            Message::Subscribe(_) => None,
        };
        messages.map(|(_, message)| token(message)).find_map(|token| token).unwrap()
    }

    /// The server goes away as it should.
    pub fn shut_down(&mut self) -> History {
        self.bookmarks();
        self.now += STEP;
        let status = error(Code::Unavailable, "SHUTTING_DOWN", &[], |details| {
            details.set_retry_info(Some(Duration::from_secs(1)));
        });
        for stream in self.history.streams.iter_mut().filter(|stream| stream.end.is_none()) {
            stream.end = Some((self.now, End::Error(status.clone())));
        }
        self.history.end = self.now;
        std::mem::take(&mut self.history)
    }
}

fn register(service: &str, id: &str, ttl: u64) -> RegisterRequest {
    let (service, id, host, url) = (service.to_owned(), id.to_owned(), id.to_owned(), format!("http://{id}"));
    let namespace = "default".to_owned();
    let instance = Instance { namespace, service, id, host, url, protocol: "http".into(), ..Instance::default() };
    let ttl = Duration::from_secs(ttl).try_into().ok();
    RegisterRequest { instance: Some(instance), ttl, ..RegisterRequest::default() }
}
