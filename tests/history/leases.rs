//! Leases as their holders know them: who was granted what, when it was last renewed, and when it was known to be over.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use onair::{
    proto::{BeatResult, BeatState, HeartbeatRequest, HeartbeatResponse, RegisterRequest},
    registry::{Cause, EventType, Instance, Key, LeaseToken, Status},
};

use super::{Fault, History, Operation, Place, Reply, Request, View, fault, feed::Feed, key_of, legal::is_end};

/// The shortest TTL that there is.
const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest.
const TTL_MAX: Duration = Duration::from_secs(3_600);

/// One registration of a key.
#[derive(Debug, Default)]
pub struct Life<'h> {
    /// Every token that was given for it.
    pub tokens: BTreeSet<&'h str>,
    /// Every TTL that was given for it, and what may have been asked for without an answer.
    ttls: BTreeSet<Duration>,
    /// Calls that renewed it: when they were sent, and answered.
    pub renewed: Vec<(Duration, Duration)>,
    /// Whether it may have been renewed by a call without answer.
    unsure: bool,
    /// When it was first known to be over, and by what.
    over: Option<(Duration, Place)>,
}

impl Life<'_> {
    /// The shortest TTL that it may have had.
    pub fn ttl_min(&self) -> Duration {
        self.ttls.first().copied().unwrap_or(TTL_MIN)
    }

    /// The longest that it may have had.
    pub fn ttl_max(&self) -> Duration {
        self.ttls.last().copied().unwrap_or(TTL_MAX)
    }

    /// Whether it may have been renewed by a call without answer.
    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// When the last call that renewed it was sent, of those sent by `at`.
    pub fn last_sent(&self, at: Duration) -> Option<Duration> {
        self.renewed.iter().map(|(start, _)| *start).filter(|start| *start <= at).max()
    }

    /// When the last call that renewed it was answered, of those sent by `at`.
    pub fn last_heard(&self, at: Duration) -> Option<Duration> {
        self.renewed.iter().filter(|(start, _)| *start <= at).map(|(_, end)| *end).max()
    }

    fn over_at(&mut self, at: Duration, place: Place) {
        if self.over.is_none_or(|(earlier, _)| at < earlier) {
            self.over = Some((at, place));
        }
    }
}

/// Everything that was granted.
#[derive(Debug, Default)]
pub struct Leases<'h> {
    /// By key and incarnation.
    pub lives: BTreeMap<(Key, u64), Life<'h>>,
    /// Which of them a token is for.
    pub by_token: HashMap<&'h str, (Key, u64)>,
    /// Services in which a registration had no answer: its token, and what it may have replaced, is not known.
    unanswered: BTreeSet<(&'h str, &'h str)>,
}

impl<'h> Leases<'h> {
    /// Reads a history.
    pub fn of(history: &'h History, feeds: &[Feed<'h>]) -> Self {
        let mut leases = Self::default();
        for operation in &history.operations {
            leases.grant(operation);
        }
        for operation in &history.operations {
            leases.renew(operation);
        }
        for (number, operation) in history.operations.iter().enumerate() {
            leases.end(Place::Operation(number), operation);
        }
        for feed in feeds {
            for part in &feed.parts {
                for event in part.events {
                    let Some(instance) = &event.instance else { continue };
                    let (key, place) = (key_of(instance), feed.place(part.message));
                    leases.before(&key, instance.incarnation, part.at, place);
                    if event.r#type() == EventType::Offline
                        && is_end(event.cause())
                        && let Some(life) = leases.lives.get_mut(&(key, instance.incarnation))
                    {
                        life.over_at(part.at, place);
                    }
                }
            }
        }
        leases
    }

    /// The registration that a token is for.
    pub fn life(&self, token: &str) -> Option<&Life<'h>> {
        self.lives.get(self.by_token.get(token)?)
    }

    fn grant(&mut self, operation: &'h Operation) {
        let Request::Register(request) = &operation.request else { return };
        let Some((end, Reply::Register(reply))) = operation.reply() else {
            let instance = request.instance.as_ref();
            self.unanswered.extend(instance.map(|one| (one.namespace.as_str(), one.service.as_str())));
            return;
        };
        let (Some(instance), Some(lease)) = (&reply.instance, &reply.lease) else { return };
        let name = (key_of(instance), instance.incarnation);
        let life = self.lives.entry(name.clone()).or_default();
        life.tokens.insert(&lease.token);
        life.ttls.insert(lease.ttl.and_then(|ttl| ttl.try_into().ok()).unwrap_or(TTL_MIN));
        life.renewed.push((operation.start, end));
        self.by_token.insert(&lease.token, name);
    }

    fn renew(&mut self, operation: &Operation) {
        match &operation.request {
            Request::Heartbeat(request) => {
                for (place, beat) in request.beats.iter().enumerate() {
                    let name = self.by_token.get(beat.lease_token.as_str()).cloned();
                    let Some(life) = name.and_then(|name| self.lives.get_mut(&name)) else { continue };
                    match operation.reply() {
                        Some((end, Reply::Heartbeat(reply))) if is_renewed(request, reply, place) => {
                            life.renewed.push((operation.start, end));
                        }
                        Some((_, Reply::Heartbeat(reply))) if state(reply, place) != Some(BeatState::Unspecified) => {}
                        _ => life.unsure = true,
                    }
                }
            }
            Request::Register(RegisterRequest { lease_token, .. }) if operation.reply().is_none() => {
                let name = self.by_token.get(lease_token.as_str()).cloned();
                if let Some(life) = name.and_then(|name| self.lives.get_mut(&name)) {
                    life.unsure = true;
                    life.ttls.insert(TTL_MIN);
                }
            }
            _ => {}
        }
    }

    /// What an answer says of registrations that are over.
    fn end(&mut self, place: Place, operation: &Operation) {
        match (&operation.request, operation.reply()) {
            (_, Some((end, Reply::Register(reply)))) => {
                if let Some(instance) = &reply.instance {
                    self.before(&key_of(instance), instance.incarnation, end, place);
                }
            }
            (_, Some((end, Reply::Lookup(reply)))) => {
                for instance in &reply.instances {
                    self.before(&key_of(instance), instance.incarnation, end, place);
                }
            }
            (Request::Deregister(request), Some((end, Reply::Deregister(reply)))) if reply.removed > 0 => {
                let name = self.by_token.get(request.lease_token.as_str()).cloned();
                if let Some(life) = name.and_then(|name| self.lives.get_mut(&name)) {
                    life.over_at(end, place);
                }
            }
            _ => {}
        }
    }

    /// An incarnation of a key was seen: all smaller ones are over.
    fn before(&mut self, key: &Key, incarnation: u64, at: Duration, place: Place) {
        for (_, life) in self.lives.range_mut((key.clone(), 0)..(key.clone(), incarnation)) {
            life.over_at(at, place);
        }
    }
}

/// The state of one beat, if it is a known one.
fn state(reply: &HeartbeatResponse, place: usize) -> Option<BeatState> {
    reply.results.get(place).and_then(|result| BeatState::try_from(result.state).ok())
}

fn is_renewed(request: &HeartbeatRequest, reply: &HeartbeatResponse, place: usize) -> bool {
    request.beats.len() == reply.results.len() && state(reply, place) == Some(BeatState::Renewed)
}

/// Promise 1: nobody is seen to expire before a TTL has passed since the sending of the last call that renewed him.
pub fn never_early(view: &View<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for feed in &view.feeds {
        for part in feed.spoken() {
            for event in part.events.iter().filter(|event| event.cause() == Cause::Expired) {
                let Some(instance) = &event.instance else { continue };
                let key = key_of(instance);
                let Some(life) = view.leases.lives.get(&(key.clone(), instance.incarnation)) else { continue };
                let Some(early) = life.last_sent(part.at).filter(|sent| part.at < *sent + life.ttl_min()) else {
                    continue;
                };
                let what = format!(
                    "{key} expired {:?} after it was renewed, its TTL is {:?}",
                    part.at - early,
                    life.ttl_min()
                );
                faults.push(fault(1, feed.place(part.message), what));
            }
        }
    }
    faults
}

/// Promise 2: who is no longer renewed is seen offline within the run's bound after his TTL; who is SUSPECT by then, a TTL
/// later.
pub fn never_late(view: &View<'_>) -> Vec<Fault> {
    let Some(bound) = view.history.settings.late else { return Vec::new() };
    // With whether it is the deadline of one that is held back.
    let mut due: Vec<(Duration, &(Key, u64), bool)> = Vec::new();
    for (name, life) in view.leases.lives.iter().filter(|(_, life)| !life.unsure) {
        let (last, ttl) = (life.last_heard(Duration::MAX), life.ttl_max());
        due.extend(last.map(|last| (last + ttl + bound, name, false)));
        due.extend(last.map(|last| (last + 2 * ttl + bound, name, true)));
    }
    due.sort();
    let mut faults = Vec::new();
    for feed in view.feeds.iter().filter(|feed| feed.clear) {
        let until = feed.closed.unwrap_or(view.history.end);
        let mut held: HashMap<Key, (u64, bool)> = HashMap::new();
        let mut turns = feed.turns().into_iter().peekable();
        let mut last = None;
        for (limit, name, extended) in due.iter().take_while(|(limit, ..)| *limit < until) {
            while let Some(turn) = turns.next_if(|turn| turn.at <= *limit) {
                last = Some(turn.message);
                follow(&mut held, &turn.what);
            }
            let late = held.get(&name.0).is_some_and(|(one, suspect)| *one == name.1 && *suspect == *extended);
            if late {
                let place = last.map_or(Place::Stream(feed.stream), |message| feed.place(message));
                faults.push(fault(2, place, format!("{} should have been seen offline by {limit:?}", name.0)));
            }
        }
    }
    faults
}

/// Incarnations, and whether they are SUSPECT.
fn follow(held: &mut HashMap<Key, (u64, bool)>, what: &super::feed::What<'_>) {
    use super::feed::What;
    let shown = |one: &Instance| (one.incarnation, one.status() == Status::Suspect);
    match what {
        What::Snapshot(all, _) => *held = all.iter().map(|(key, one)| (key.clone(), shown(one))).collect(),
        What::Events(events) => {
            for event in events {
                let Some(instance) = &event.instance else { continue };
                match event.r#type() {
                    EventType::Offline => held.remove(&key_of(instance)),
                    _ => held.insert(key_of(instance), shown(instance)),
                };
            }
        }
    }
}

/// Promise 4: the token of a registration that is known to be over does nothing any more.
pub fn fencing(view: &View<'_>) -> Vec<Fault> {
    let over = |token: &str, start: Duration| {
        let (at, place) = view.leases.life(token)?.over?;
        (at < start).then_some((view.leases.by_token[token].clone(), place))
    };
    let mut faults = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        let acted: Vec<&str> = match (&operation.request, operation.reply()) {
            (Request::Heartbeat(request), Some((_, Reply::Heartbeat(reply)))) => {
                let renewed = (0..request.beats.len()).filter(|place| is_renewed(request, reply, *place));
                renewed.map(|place| request.beats[place].lease_token.as_str()).collect()
            }
            (Request::Deregister(request), Some((_, Reply::Deregister(reply)))) if reply.removed > 0 => {
                vec![&request.lease_token]
            }
            (Request::Register(request), Some((_, Reply::Register(reply)))) => {
                // With the token of one that is over, a free key gets a new incarnation: the old one must not live on.
                let old = view.leases.by_token.get(request.lease_token.as_str());
                let same = |one: &&onair::registry::Instance| {
                    old.is_some_and(|(key, incarnation)| *key == key_of(one) && *incarnation == one.incarnation)
                };
                reply.instance.as_ref().filter(same).map(|_| request.lease_token.as_str()).into_iter().collect()
            }
            _ => continue,
        };
        for token in acted {
            if let Some(((key, incarnation), by)) = over(token, operation.start) {
                let what =
                    format!("the token of {key}, incarnation {incarnation}, was good, though that was over ({by:?})");
                faults.push(fault(4, Place::Operation(number), what));
            }
        }
    }
    faults
}

/// Promise 5: beats are answered by position, each as its token deserves.
pub fn healing(view: &View<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        let (Request::Heartbeat(request), Some((_, Reply::Heartbeat(reply)))) = (&operation.request, operation.reply())
        else {
            continue;
        };
        let place = Place::Operation(number);
        if request.beats.len() != reply.results.len() {
            let what = format!("{} beats, {} results", request.beats.len(), reply.results.len());
            faults.push(fault(5, place, what));
            continue;
        }
        for (at, (beat, result)) in request.beats.iter().zip(&reply.results).enumerate() {
            if let Some(why) = wrong(view, &beat.lease_token, result) {
                faults.push(fault(5, place, format!("result {at}: {why}")));
            }
        }
    }
    faults
}

fn wrong(view: &View<'_>, token: &str, result: &BeatResult) -> Option<String> {
    let Ok(state) = BeatState::try_from(result.state) else { return Some(format!("state {}", result.state)) };
    let life = view.leases.life(token);
    let ttl = result.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
    match state {
        BeatState::Renewed if ttl.is_none_or(|ttl| !(TTL_MIN..=TTL_MAX).contains(&ttl)) => {
            Some(format!("RENEWED with a TTL of {ttl:?}"))
        }
        BeatState::Renewed if LeaseToken::decode(token).is_none() && life.is_none() => {
            Some("RENEWED by what is no token".to_owned())
        }
        BeatState::Renewed => {
            let ttls = &life.filter(|life| !life.unsure)?.ttls;
            (!ttls.contains(&ttl?)).then(|| format!("RENEWED for {ttl:?}, granted were {ttls:?}"))
        }
        BeatState::Unknown if life.is_some() => Some("UNKNOWN, and this registry gave it".to_owned()),
        BeatState::Denied => {
            let life = life?;
            let (key, _) = &view.leases.by_token[token];
            let unsure = view.leases.unanswered.iter().any(|(namespace, service)| {
                *service == key.service && (*namespace == key.namespace || namespace.is_empty())
            });
            (life.tokens.len() == 1 && !unsure).then(|| "DENIED, and it is the only token that was given".to_owned())
        }
        BeatState::Expired | BeatState::Superseded if LeaseToken::decode(token).is_none() && life.is_none() => {
            Some(format!("{state:?}, and it is no token"))
        }
        _ => None,
    }
}
