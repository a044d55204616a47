//! Runs a history against `onair::registry` and the model side by side: with timekeeping as the actor keeps it, and an
//! engine that commits at once or in groups. Every answer, and after every commit the whole state, is compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use onair::registry::{
    Change, Claim, Command, Context, Decision, Event, Fingerprint, Guarded, Key, LeaseTime, LeaseToken, Matcher,
    Outcome, Principal, Record, Register, Registration, Registry, ReplyBudget, Secret, Snapshot, StateLimits, Status,
    Target, Timekeeping, Verdict,
};
use prost_types::{Duration, Timestamp};

#[path = "lapses.rs"]
mod lapses;

use self::lapses::Life;
use super::{
    compare::{self, Dump},
    filters::Union,
    naive::{Ask, Crossing, Live, Model, Sent, Step, Who, Worth},
    ops::{CALLERS, Drain, IDS, Leave, NAMESPACES, Op, Pick, SERVICES, STATUSES, Setting, TTLS, Tamper, Wanted},
};

pub const TAG: u32 = 0xfeed_0001;
/// First deadlines after a restart are at least so far away.
const GRACE: u32 = 30_000;
/// A lapse may be noticed so much later, as timekeeping goes in ticks.
const TICK: u64 = 8;

/// A proposal that is not committed yet.
struct Pending {
    changes: Vec<Guarded>,
    outcome: Outcome,
    steps: Vec<Step>,
}

/// One revision of the history.
pub struct Committed {
    pub revision: u64,
    pub changes: Vec<Change>,
    pub events: Vec<Event>,
    pub crossings: Vec<Crossing>,
    /// The model's instances after it.
    pub live: Live,
    /// The registry's, for each of the rig's matchers, taken then for reading later.
    pub snapshots: Vec<Snapshot>,
    /// Everything after it.
    pub dump: Dump,
}

pub struct Rig {
    pub registry: Registry,
    pub model: Model,
    pub history: Vec<Committed>,
    matchers: Vec<Matcher>,
    replies: Arc<ReplyBudget>,
    time: Timekeeping,
    leases: BTreeMap<Key, Life>,
    /// Of the lease clock, in milliseconds.
    clock: u64,
    /// In seconds.
    wall: u64,
    setting: Setting,
    pending: Vec<Pending>,
    held: BTreeSet<Fingerprint>,
    issued: Vec<(LeaseToken, Key)>,
    /// Every record that was held since the last restart, with its slot and edition.
    records: Vec<(u32, Record, Key, u64)>,
    drawn: u128,
}

impl Rig {
    pub fn new(setting: Setting) -> Self {
        let (instances, services, namespaces) = setting.limits;
        Self {
            registry: Registry::new(TAG, StateLimits { instances, services, namespaces }),
            model: Model::new(setting.limits),
            history: Vec::new(),
            matchers: Vec::new(),
            // Not enough for all of them.
            replies: ReplyBudget::new(2_000),
            time: Timekeeping::default(),
            leases: BTreeMap::new(),
            clock: 0,
            wall: 1_700_000_000,
            setting,
            pending: Vec::new(),
            held: BTreeSet::new(),
            issued: Vec::new(),
            records: Vec::new(),
            drawn: 0,
        }
    }

    /// Runs a whole history and commits what it leaves in flight.
    pub fn run_all(setting: Setting, ops: &[Op], watched: &[Union]) -> Self {
        let mut rig = Self::new(setting);
        rig.matchers = watched.iter().map(|union| Matcher::new(union.set())).collect();
        for op in ops {
            rig.run(op);
        }
        rig.commit(0);
        rig
    }

    pub fn run(&mut self, op: &Op) {
        match op {
            Op::Register(wanted) => self.register(wanted),
            Op::Status(pick, status) => {
                if self.beat(*pick) {
                    let (token, sent) = self.token(*pick);
                    let status = STATUSES[usize::from(*status)];
                    self.command(Command::SetStatus { token, status }, Ask::SetStatus { token: sent, status });
                }
            }
            Op::Beat(pick) => {
                if self.beat(*pick) {
                    let (token, sent) = self.token(*pick);
                    let suspect = self.model.live[&sent.key].instance.status() == Status::Suspect;
                    assert_eq!(self.leases[&sent.key].held_back, suspect);
                    if suspect {
                        let status = Status::Unspecified;
                        self.command(Command::SetStatus { token, status }, Ask::SetStatus { token: sent, status });
                    }
                }
            }
            Op::Leave(leave) => self.leave(leave),
            Op::Drain(drain) => self.drain(drain),
            Op::Round(millis) => self.round(*millis),
            Op::Crowd { zone } => self.crowd(*zone),
            Op::Lapse { max, refused } => self.lapse(*max, *refused),
            Op::LateExpiry(which, hold) => self.late_expiry(usize::from(*which), *hold),
            Op::Hours(hours) => self.hours(*hours),
            Op::Commit(skip) => self.commit(*skip),
            Op::Restart => self.restart(),
        }
        self.check_tokens();
    }

    fn token(&self, pick: Pick) -> (LeaseToken, Sent) {
        let nobodys = || {
            let key = Key::new("default", "web", "1");
            let lease = onair::registry::LeaseId { revision: 0, ordinal: 0 };
            let fingerprint = key.fingerprint();
            (LeaseToken { registry: TAG, key: fingerprint, lease, secret: Secret([0; 16]), hint: 0 }, key)
        };
        let place = usize::from(pick.issued) % self.issued.len().max(1);
        let (mut token, key) = self.issued.get(place).cloned().unwrap_or_else(nobodys);
        match pick.tamper {
            Tamper::No => {}
            Tamper::Hint => token.hint = token.hint.wrapping_sub(1),
            Tamper::Secret => token.secret.0[3] ^= 1,
            Tamper::Registry => token.registry ^= 1,
            Tamper::Ahead => token.lease.revision = self.model.revision + 1,
            Tamper::Ordinal => token.lease.ordinal += 1_000,
        }
        let token = LeaseToken::decode(token.encode()).expect("what was encoded is a token");
        let lease = (token.lease.revision, token.lease.ordinal);
        (token, Sent { ours: token.registry == TAG, key, lease, secret: token.secret.0 })
    }

    fn register(&mut self, wanted: &Wanted) {
        let picked = wanted.token.map(|pick| self.token(pick));
        let name = (
            NAMESPACES[usize::from(wanted.name.0)],
            SERVICES[usize::from(wanted.name.1)],
            IDS[usize::from(wanted.name.2)],
        );
        let instance = match &picked {
            Some((_, sent)) if wanted.honest => wanted.instance((&sent.key.namespace, &sent.key.service, &sent.key.id)),
            _ => wanted.instance(name),
        };
        let request = wanted.request.map(|request| format!("request-{request}"));
        let context = Context {
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            fresh_id: &mut || unreachable!("an id is given"),
            request_id: request.as_deref().unwrap_or_default(),
        };
        let millis = TTLS[usize::from(wanted.ttl)];
        let ttl = Duration { seconds: i64::from(millis / 1_000), nanos: (millis % 1_000 * 1_000_000) as i32 };
        let registration = Registration::parse(instance, Some(ttl), context).expect("nothing is wrong with it");
        self.drawn += 1;
        let (who, secret) = (CALLERS[usize::from(wanted.who)], Secret(self.drawn.to_be_bytes()));
        let at = Timestamp { seconds: self.wall as i64, nanos: 0 };
        let ask = Ask::Register {
            instance: Box::new(registration.instance.clone()),
            ttl: millis,
            token: picked.as_ref().map(|(_, sent)| sent.clone()),
            request,
            who,
            secret: secret.0,
            at,
        };
        let token = picked.map(|(token, _)| token);
        let register = Register { registration, token, principal: principal(who), secret, at };
        self.command(Command::Register(Box::new(register)), ask);
    }

    /// An operator registers all ids of one service.
    fn crowd(&mut self, zone: u8) {
        for id in 0..IDS.len() as u8 {
            self.register(&Wanted {
                name: (0, 0, id),
                token: None,
                honest: false,
                request: None,
                who: 0,
                ttl: 0,
                form: (1, zone, 0),
                status: 0,
            });
        }
    }

    fn leave(&mut self, leave: &Leave) {
        let at = self.wall;
        let text = |names: &[&str], place: u8| names[usize::from(place)].to_owned();
        let (target, who, ask) = match leave {
            Leave::Token(pick) => {
                let picked = pick.map(|pick| self.token(pick));
                let target = Target::Lease(picked.as_ref().map(|(token, _)| *token));
                (target, CALLERS[1], Ask::ByToken(picked.map(|(_, sent)| sent), at))
            }
            Leave::Tokens(picks) => {
                let (tokens, sent) = picks.iter().map(|pick| self.token(*pick)).unzip();
                (Target::Leases(tokens), CALLERS[1], Ask::ByTokens(sent, at))
            }
            Leave::Key((namespace, service, id), who) => {
                let who = CALLERS[usize::from(*who)];
                let key = Key::new(text(&NAMESPACES, *namespace), text(&SERVICES, *service), text(&IDS, *id));
                (Target::Key(key.clone()), who, Ask::ByKey(key, who, at))
            }
            Leave::Service((namespace, service), who) => {
                let (namespace, service) = (text(&NAMESPACES, *namespace), text(&SERVICES, *service));
                let target = Target::Service { namespace: (&*namespace).into(), service: (&*service).into() };
                let who = CALLERS[usize::from(*who)];
                (target, who, Ask::ByService(namespace, service, who, at))
            }
        };
        self.command(Command::Deregister { target, principal: principal(who), at }, ask);
    }

    fn drain(&mut self, drain: &Drain) {
        let (claim, who, ask) = match drain {
            Drain::Token(pick) => {
                let (token, sent) = self.token(*pick);
                (Claim::Lease(token), CALLERS[1], Ask::DrainByToken(sent))
            }
            Drain::Key((namespace, service, id), who) => {
                let text = |names: &[&str], place: &u8| names[usize::from(*place)].to_owned();
                let key = Key::new(text(&NAMESPACES, namespace), text(&SERVICES, service), text(&IDS, id));
                let who = CALLERS[usize::from(*who)];
                (Claim::Key(key.clone()), who, Ask::DrainByKey(key, who))
            }
        };
        self.command(Command::Drain { claim, principal: principal(who) }, ask);
    }

    /// Hears the token, if it is worth that. A beat whose expiry is in flight waits for it.
    fn beat(&mut self, pick: Pick) -> bool {
        let (token, sent) = self.token(pick);
        if let Verdict::Live(slot) = self.registry.judge(Some(&token)) {
            assert_eq!(self.time.is_expiring(slot), self.leases[&sent.key].expiring);
            if self.time.is_expiring(slot) && self.held.contains(&token.key) {
                self.commit(0);
            }
        }
        let verdict = self.registry.judge(Some(&token));
        let worth = self.model.worth(Some(&sent));
        assert_eq!(compare::worth(verdict), worth, "{pick:?}");
        if let Verdict::Live(slot) = verdict {
            self.hear(slot, &sent.key);
        }
        worth == Worth::Live
    }

    fn hear(&mut self, slot: u32, key: &Key) {
        self.time.hear(slot);
        if let Some(life) = self.leases.get_mut(key).filter(|life| !life.expiring) {
            life.heard = true;
        }
    }

    fn hours(&mut self, hours: u64) {
        self.wall += hours * 3_600;
        let given = self.registry.forgettable(self.wall, usize::MAX);
        assert!(given.starts_with(&self.registry.forgettable(self.wall, 1)));
        let mut names: Vec<_> =
            given.iter().map(|(namespace, service)| (namespace.to_string(), service.to_string())).collect();
        names.sort();
        assert_eq!(names, self.model.forgettable(self.wall));
        for (namespace, service) in given {
            let ask = Ask::Forget(namespace.to_string(), service.to_string());
            self.command(Command::Forget { namespace, service }, ask);
        }
        self.commit(0);
    }

    fn command(&mut self, command: Command, ask: Ask) {
        if command.fingerprints().iter().any(|key| self.held.contains(key)) {
            self.commit(0);
        }
        let new = |changes: &Vec<Guarded>| {
            changes.iter().filter(|one| one.before.is_none() && matches!(one.change, Change::Put(_))).count() as u64
        };
        let on_their_way = self.pending.iter().map(|pending| new(&pending.changes)).sum();
        let (answer, steps) = self.model.decide(&ask, on_their_way);
        match self.registry.decide(&command, on_their_way) {
            Decision::Reply(reply) => {
                assert_eq!(steps, [], "{command:?} has to change something, not {reply:?}");
                compare::answers(&reply, &answer);
                if let Ok(outcome) = reply {
                    self.answered(&outcome);
                }
            }
            Decision::Unfit { error, .. } => unreachable!("only an admission is unfit: {error}"),
            Decision::Propose(changes, outcome) => {
                compare::answers(&Ok(outcome.clone()), &answer);
                let keys = |keys: &mut dyn Iterator<Item = Option<Key>>| keys.collect::<BTreeSet<_>>();
                let proposed = keys(&mut changes.iter().map(|one| one.change.key()));
                assert_eq!(proposed, keys(&mut steps.iter().map(Step::key)), "{command:?}");
                assert_eq!(changes.len(), steps.len(), "{command:?}");
                let touched: Vec<_> = proposed.iter().flatten().map(Key::fingerprint).collect();
                if touched.iter().any(|key| self.held.contains(key)) {
                    self.commit(0);
                    return self.command(command, ask);
                }
                self.held.extend(touched);
                self.pending.push(Pending { changes, outcome, steps });
                if self.pending.len() >= self.setting.group {
                    self.commit(0);
                }
            }
        }
    }

    /// Commits what is in flight in one revision, and looks at everything.
    pub fn commit(&mut self, skip: u64) {
        if self.pending.is_empty() {
            return;
        }
        let revision = self.model.revision + 1 + skip;
        let (mut changes, mut steps, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
        for mut pending in std::mem::take(&mut self.pending) {
            for guarded in pending.changes {
                let before = guarded.record().cloned();
                let Guarded { change, .. } = guarded;
                if let Some(key) = change.key() {
                    let held = self.registry.slot_of(&key).and_then(|slot| self.registry.record(slot));
                    assert!(same(held, before.as_ref()), "the guard of {key} does not hold");
                }
                let place = pending.steps.iter().position(|step| step.key() == change.key()).expect("of equal keys");
                steps.push((changes.len() as u32, pending.steps.swap_remove(place)));
                changes.push(change);
            }
            outcomes.push(pending.outcome);
        }
        let events = self.registry.fold(revision, &changes).events;
        assert!(self.registry.fold(revision, &changes).events.is_empty(), "a revision is folded once");
        self.held.clear();
        self.follow(&events);
        let editions: BTreeMap<Key, u64> = steps.iter().filter_map(|(_, step)| self.live_through(step)).collect();
        let crossings = self.model.commit(revision, steps);
        for event in &events {
            if let Some(record) = &event.after {
                let key = record.key();
                let edition = editions[&key];
                self.records.push((event.slot, record.clone(), key, edition));
            }
        }
        compare::crossings(&events, &crossings);
        outcomes.iter().for_each(|outcome| self.answered(outcome));
        let dump = compare::states(&self.registry, &self.model, &self.replies);
        assert_eq!(self.time.len(), self.leases.len());
        let live = self.model.live.clone();
        let snapshots = self.matchers.iter().map(|matcher| self.registry.snapshot(matcher.scopes())).collect();
        self.history.push(Committed { revision, changes, events, crossings, live, snapshots, dump });
    }

    fn follow(&mut self, events: &[Event]) {
        events.iter().for_each(|event| self.time.follow(event));
    }

    /// What a committed step is to its lease, and the edition of what it puts.
    fn live_through(&mut self, step: &Step) -> Option<(Key, u64)> {
        let key = step.key()?;
        let Step::Put { held, new, .. } = step else {
            self.leases.remove(&key);
            return None;
        };
        let life = self.leases.entry(key.clone()).or_default();
        if *new {
            *life = Life { heard: true, ..Life::default() };
        }
        life.ttl = held.ttl;
        let suspect = held.instance.status() == Status::Suspect;
        if suspect && !life.held_back {
            // From its own deadline, which a beat of this round will replace.
            life.deadline = life.own.map(|own| own + u64::from(life.ttl));
            (life.expiring, life.fresh) = (false, true);
        }
        life.held_back = suspect;
        Some((key, held.edition))
    }

    /// A registrant has its token, and its call was as good as a beat.
    fn answered(&mut self, outcome: &Outcome) {
        if let Outcome::Drained { key, by_lease: true } = outcome {
            let slot = self.registry.slot_of(key).expect("it is there");
            return self.hear(slot, key);
        }
        let Outcome::Registered { key, secret, .. } = outcome else { return };
        let slot = self.registry.slot_of(key).expect("registered");
        let record = self.registry.record(slot).expect("registered");
        let token = self.registry.token_of(slot, record, *secret);
        assert_eq!(self.registry.judge(Some(&token)), Verdict::Live(slot));
        self.issued.push((token, key.clone()));
        self.hear(slot, key);
    }

    /// What is kept comes back: with other slots, and full grace.
    fn restart(&mut self) {
        self.commit(0);
        self.registry = compare::recovered(&self.registry, self.setting.limits, self.model.revision);
        self.records.clear();
        self.time = Timekeeping::default();
        self.time.recover(self.registry.records(), LeaseTime(self.clock), GRACE);
        for life in self.leases.values_mut() {
            let own = Some(self.clock + u64::from(life.ttl.max(GRACE)));
            *life = Life { ttl: life.ttl, own, deadline: own, held_back: life.held_back, ..Life::default() };
        }
        compare::states(&self.registry, &self.model, &self.replies);
    }

    /// All tokens ever issued, as they are and tampered with.
    fn check_tokens(&self) {
        assert_eq!(self.registry.judge(None), Verdict::Unknown);
        for issued in 0..self.issued.len() as u16 {
            for tamper in [Tamper::No, Tamper::Hint, Tamper::Secret, Tamper::Registry, Tamper::Ahead, Tamper::Ordinal] {
                let (token, sent) = self.token(Pick { issued, tamper });
                let verdict = self.registry.judge(Some(&token));
                assert_eq!(compare::worth(verdict), self.model.worth(Some(&sent)), "{tamper:?} of {sent:?}");
                if let Verdict::Live(slot) | Verdict::Superseded(slot) = verdict {
                    assert_eq!(self.registry.record(slot).map(Record::key), Some(sent.key));
                }
            }
        }
    }
}

fn same(one: Option<&Record>, other: Option<&Record>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is(other),
        (None, None) => true,
        _ => false,
    }
}

fn principal(who: Who) -> Principal {
    Principal { name: who.name.map(Into::into), operator: who.operator, quota: None }
}
