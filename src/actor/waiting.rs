//! Callers whose registrations wait for what they need: until others come, their time is up, or they leave. Who can be
//! admitted is the registry's to say; here is who asked, and until when.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Actor, Recipient, Waiting as Latched, toll::Charged, unix_seconds};
use crate::{
    engine::{Engine, REVISION_COMMANDS_MAX},
    registry::{
        Command, Decision, Error, Event, Fingerprint, Guarded, Outcome, Record, Register, Registry, WaitId, Waiting,
        shown_to, superseded,
    },
};

/// Most registrations that wait at once.
pub const WAITING_MAX: usize = 20_000;
/// Most dependencies that they have together.
pub const WAITING_NEEDS_MAX: usize = 200_000;

/// A caller whose registration may wait.
#[derive(Debug)]
pub struct Call {
    /// Its name, larger than those before.
    pub id: WaitId,
    /// What is to be registered.
    pub register: Arc<Register>,
    /// When waiting ends.
    pub until: Instant,
    /// The way back.
    pub answer: Charged,
}

impl Call {
    fn refuse(self, error: Error) {
        self.answer.send(Err(error));
    }

    fn key(&self) -> Fingerprint {
        self.register.registration.key().fingerprint()
    }

    fn place(&self) -> (String, String) {
        let instance = &self.register.registration.instance;
        (instance.namespace.clone(), instance.url.clone())
    }

    /// Tells it that a newer registration has its place.
    fn displaced(self, by_request: Option<u64>, superseded: impl FnOnce(String) -> Error) {
        let registration = &self.register.registration;
        let key = registration.key().to_string();
        let again = registration.request_id.is_some() && registration.request_id == by_request;
        self.refuse(if again { Error::Repeated { key } } else { superseded(key) });
    }
}

/// Everyone who waits.
#[derive(Debug)]
pub(super) struct WaitingRoom {
    set: Waiting,
    calls: HashMap<WaitId, Call>,
    /// One seat a key: two of one key could not come online together.
    seats: HashMap<Fingerprint, WaitId>,
    /// Who would be at a url: namespace and url.
    urls: HashMap<(String, String), BTreeSet<WaitId>>,
    due: BTreeSet<(Instant, WaitId)>,
    /// Callers that left.
    departures: mpsc::UnboundedReceiver<WaitId>,
    /// One that `next` took from there.
    departed: Option<WaitId>,
}

impl WaitingRoom {
    /// Nobody yet. Who leaves is told by `departures`: never more than have come.
    pub(super) fn new(departures: mpsc::UnboundedReceiver<WaitId>) -> Self {
        let (set, calls, seats, urls) = (Waiting::default(), HashMap::new(), HashMap::new(), HashMap::new());
        Self { set, calls, seats, urls, due: BTreeSet::new(), departures, departed: None }
    }

    /// Returns when a caller left, or the time of one is up. Safe to drop and call again.
    pub(super) async fn next(&mut self) {
        let first = self.due.first().map(|(until, _)| *until);
        let up = async || match first {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        };
        tokio::select! {
            // Also of those who are not let in yet, and are found to have left then: nothing may gather here.
            Some(departed) = self.departures.recv() => self.departed = Some(departed),
            () = up() => {}
        }
    }

    /// Everyone, in order of arrival.
    pub(super) fn ids(&self) -> Vec<WaitId> {
        self.set.ids()
    }

    /// Whoever these events may admit. Who waits at a key that somebody else has registered is told so: it is the older.
    pub(super) fn follow(&mut self, events: &[Event]) -> Vec<WaitId> {
        if self.set.is_empty() {
            return Vec::new();
        }
        let new = |event: &Event| {
            let before = event.before.as_ref().map(|record| record.incarnation);
            event.after.clone().filter(|record| before != Some(record.incarnation))
        };
        for record in events.iter().filter_map(new) {
            let seat = self.seats.get(&record.fingerprint).copied();
            if let Some(older) = seat.and_then(|id| self.let_go(id)) {
                older.displaced(Some(record.lease.request), |_| superseded(&record));
            }
        }
        let mut stirred = BTreeSet::new();
        events.iter().for_each(|event| self.set.follow(event, &mut stirred));
        stirred.into_iter().collect()
    }

    /// The state was replaced as a whole.
    pub(super) fn rebuild(&mut self, registry: &Registry) {
        self.set.rebuild(registry);
    }

    fn let_in(&mut self, registry: &Registry, call: Call) {
        self.set.arrive(registry, call.id, Arc::clone(&call.register));
        self.seats.insert(call.key(), call.id);
        self.urls.entry(call.place()).or_default().insert(call.id);
        self.due.insert((call.until, call.id));
        self.calls.insert(call.id, call);
    }

    fn let_go(&mut self, id: WaitId) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.set.leave(id);
        self.due.remove(&(call.until, id));
        if self.seats.get(&call.key()) == Some(&id) {
            self.seats.remove(&call.key());
        }
        if let Entry::Occupied(mut there) = self.urls.entry(call.place()) {
            there.get_mut().remove(&id);
            if there.get().is_empty() {
                there.remove();
            }
        }
        Some(call)
    }

    /// Who sits where `call` would: at its key, or at the url that it wants for itself.
    fn rivals(&self, call: &Call) -> Vec<WaitId> {
        let registration = &call.register.registration;
        let mut rivals: Vec<WaitId> = self.seats.get(&call.key()).copied().into_iter().collect();
        if registration.exclusive_url {
            rivals.extend(self.urls.get(&call.place()).into_iter().flatten());
        }
        rivals.sort_unstable();
        rivals.dedup();
        rivals
    }
}

/// Groups that fill a revision together: many who waited for the same are few proposals.
fn packed(groups: Vec<Vec<WaitId>>) -> Vec<Vec<WaitId>> {
    let mut packs: Vec<Vec<WaitId>> = Vec::new();
    for group in groups {
        match packs.last_mut() {
            Some(pack) if pack.len() + group.len() <= REVISION_COMMANDS_MAX => pack.extend(group),
            _ => packs.push(group),
        }
    }
    packs
}

/// What became of a group that was to be admitted.
enum Fate {
    /// Its members are on their way, or wait for a latch.
    Settled,
    /// Somebody in it could not be admitted, and is not in question any more: the others are looked at again.
    Without(WaitId),
}

impl<E: Engine> Actor<E> {
    /// A registration that waits for what it needs, if it has to.
    pub(super) fn receive(&mut self, call: Call) {
        let maximum = self.inbox.max_capacity();
        if self.stopping.is_some() {
            call.refuse(Error::ShuttingDown);
        } else if self.in_flight.len() + self.latches.waiting() >= maximum {
            call.refuse(Error::Overloaded { maximum: maximum as u64 });
        } else {
            self.enter(call);
        }
    }

    /// Lets a caller in, and admits it, with whoever waited for it, if that can be.
    pub(super) fn enter(&mut self, call: Call) {
        if call.answer.is_closed() {
            return;
        }
        let key = call.key();
        if self.latches.is_held(key) {
            return self.latches.wait(key, Latched::Call(Box::new(call)).into());
        }
        // Nobody waits for what is refused anyway.
        let refused = self.hub.registry().refuses(&call.register, self.new_instances, &self.pledged);
        if let Some(error) = refused.or_else(|| self.displace_rivals(&call).err()) {
            return call.refuse(error);
        }
        let (id, until) = (call.id, call.until);
        self.waiting.let_in(&self.hub.registry(), call);
        self.admit(vec![id]);
        let over = [
            ("max_waiting", WAITING_MAX, self.waiting.set.len()),
            ("max_waiting_dependencies", WAITING_NEEDS_MAX, self.waiting.set.needs()),
        ];
        let over = over.into_iter().find(|(_, maximum, usage)| usage > maximum);
        if let Some((limit, maximum, usage)) = over
            && let Some(call) = self.waiting.let_go(id)
        {
            call.refuse(Error::Limit { limit, maximum: maximum as u64, usage: usage as u64 });
        } else if until <= Instant::now() {
            self.dismiss(id);
        }
        self.count_waiting();
    }

    /// A newer registration of the same key, or one that wants the url for itself, takes the place of one that waits, as
    /// it would of one that is online.
    fn displace_rivals(&mut self, call: &Call) -> Result<(), Error> {
        let (newer, rivals) = (&call.register, self.waiting.rivals(call));
        let held = rivals.iter().filter_map(|id| self.waiting.set.get(*id));
        let of_another =
            |older: &&Arc<Register>| older.principal.name != newer.principal.name && !newer.principal.operator;
        if let Some(older) = held.clone().find(of_another) {
            return Err(Error::KeyHeld { key: shown_to(newer, &older.registration.key()) });
        }
        let newer = &newer.registration;
        let holder = newer.instance.address();
        for older in rivals.into_iter().filter_map(|id| self.waiting.let_go(id)) {
            older.displaced(newer.request_id, |key| Error::Superseded { key, holder: holder.clone() });
        }
        Ok(())
    }

    /// Admits whoever `stirred` may have made ready, together with whom they rely on.
    pub(super) fn admit(&mut self, stirred: Vec<WaitId>) {
        // When the store is back, everyone is looked at.
        if stirred.is_empty() || self.away.is_some() || self.waiting.calls.is_empty() {
            return;
        }
        let mut without = HashSet::new();
        let mut open = vec![stirred];
        while let Some(ids) = open.pop() {
            let groups = self.waiting.set.admissible(&self.hub.registry(), ids, &without);
            for group in packed(groups) {
                if let Fate::Without(id) = self.admit_group(&group) {
                    without.insert(id);
                    open.push(group);
                }
            }
        }
        self.count_waiting();
    }

    fn admit_group(&mut self, group: &[WaitId]) -> Fate {
        let calls = &self.waiting.calls;
        // Who left counts for nobody.
        let left = |id: &&WaitId| calls.get(id).is_none_or(|call| call.answer.is_closed());
        if let Some(id) = group.iter().find(left).copied() {
            self.waiting.let_go(id);
            return Fate::Without(id);
        }
        let keys: Vec<Fingerprint> = group.iter().filter_map(|id| calls.get(id)).map(Call::key).collect();
        if let Some(key) = keys.into_iter().find(|key| self.latches.is_held(*key)) {
            self.latches.wait(key, Latched::Group(group.to_vec()).into());
            return Fate::Settled;
        }
        let members = group.iter().filter_map(|id| self.waiting.set.get(*id).cloned()).collect();
        let command = Command::Admit { members, at: unix_seconds() };
        match self.decide(&command) {
            Decision::Propose(changes, outcome) => {
                let keys: Vec<Fingerprint> = changes.iter().filter_map(Guarded::fingerprint).collect();
                if let Some(key) = self.held_key(&keys, &outcome) {
                    self.latches.wait(key, Latched::Group(group.to_vec()).into());
                    return Fate::Settled;
                }
                let calls = group.iter().filter_map(|id| self.waiting.let_go(*id)).collect();
                self.propose(command, Recipient::Admitted(calls), changes, outcome);
                Fate::Settled
            }
            Decision::Reply(outcome) => {
                let calls = group.iter().filter_map(|id| self.waiting.let_go(*id)).collect();
                self.reply(&command, Recipient::Admitted(calls), outcome);
                Fate::Settled
            }
            Decision::Unfit { member, error } => {
                let Some(id) = group.get(member).copied() else { return Fate::Settled };
                // What it relied on goes with somebody of this group: it waits on, for another.
                if !matches!(error, Error::MissingDependency(_))
                    && let Some(call) = self.waiting.let_go(id)
                {
                    call.refuse(error);
                }
                Fate::Without(id)
            }
        }
    }

    /// A key that is in flight, of those that a decision changes or was made by.
    pub(super) fn held_key(&self, changed: &[Fingerprint], outcome: &Outcome) -> Option<Fingerprint> {
        let read = outcome.decided_by().map(|record: &Record| record.fingerprint);
        changed.iter().copied().chain(read).find(|key| self.latches.is_held(*key))
    }

    /// Lets go of callers that left, and of those whose time is up.
    pub(super) fn attend(&mut self) {
        let mut departed = self.waiting.departed.take();
        while let Some(id) = departed {
            self.waiting.let_go(id);
            departed = self.waiting.departures.try_recv().ok();
        }
        let now = Instant::now();
        while let Some((until, id)) = self.waiting.due.first().copied()
            && until <= now
        {
            self.dismiss(id);
        }
        self.count_waiting();
    }

    /// Ends the waiting of one whose time is up.
    fn dismiss(&mut self, id: WaitId) {
        let Some(call) = self.waiting.let_go(id) else { return };
        let command = Command::Register(Box::new(Register::clone(&call.register)));
        let error = match (self.decide(&command), &self.away) {
            (Decision::Reply(Err(error)), _) => error,
            // Nothing is missing, but nothing could be written either.
            (_, Some(reason)) => Error::StoreUnavailable { reason: reason.clone(), outcome_unknown: false },
            // It waited for another change of the same key, or of one that it needs.
            _ => Error::Deadline,
        };
        call.refuse(error);
    }

    /// Nobody is admitted any more.
    pub(super) fn dismiss_all(&mut self) {
        for id in self.waiting.ids() {
            if let Some(call) = self.waiting.let_go(id) {
                call.refuse(Error::ShuttingDown);
            }
        }
        self.count_waiting();
    }

    /// Hands each its outcome.
    pub(super) fn reply_to_all(&mut self, calls: Vec<Call>, outcome: Result<Outcome, Error>) {
        let outcomes: Vec<Result<Outcome, Error>> = match outcome {
            Ok(Outcome::Admitted(outcomes)) => outcomes.into_iter().map(Ok).collect(),
            other => calls.iter().map(|_| other.clone()).collect(),
        };
        for (call, outcome) in calls.into_iter().zip(outcomes) {
            call.answer.send(outcome.and_then(|outcome| self.reply_of(outcome)));
        }
    }

    pub(super) fn count_waiting(&self) {
        self.metrics.waiting.set(self.waiting.calls.len() as u64);
    }
}

#[cfg(test)]
mod tests;
