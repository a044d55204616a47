//! A load of registrations, updates and removals by several clients, each of which knows what was acknowledged to it and
//! which one change was not answered. Judges what is there after the server failed; knows nothing of how it failed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use onair::{
    proto::{DeregisterRequest, LookupRequest, RegisterRequest},
    registry::Instance,
};
use tokio::{sync::Notify, task::JoinSet};
use tonic::Status;

use crate::{
    harness::{Dice, Server, register_with, within},
    history::{Client, Recorder},
};

/// Clients at once, each with keys of its own.
const WORKERS: u64 = 8;
/// Keys of each.
const KEYS: u64 = 12;

/// What a client knows of its keys.
#[derive(Clone, Debug, Default)]
struct Known {
    /// What is registered, by id, with its token; an empty one if the registration was never answered.
    held: BTreeMap<String, (Instance, String)>,
    /// The change that was not answered.
    open: Option<Open>,
    /// A registration that was not answered, to be sent again, and what is known to have come of it.
    unanswered: Option<(RegisterRequest, Option<Instance>)>,
}

/// A change whose outcome is unknown: done as a whole, or not at all.
#[derive(Clone, Debug)]
enum Open {
    /// Of one id: a registration, or an update of all but the id.
    Register(Box<RegisterRequest>),
    /// Of several at once.
    Remove(Vec<String>),
}

impl Known {
    /// Does one thing after the other until one fails.
    async fn work(&mut self, client: Client, worker: u64, mut dice: Dice, pace: Arc<Pace>) -> Status {
        loop {
            match self.one(&client, worker, &mut dice).await {
                Ok(()) => pace.done(),
                Err(status) => return status,
            }
        }
    }

    async fn one(&mut self, client: &Client, worker: u64, dice: &mut Dice) -> Result<(), Status> {
        if dice.below(4) == 0 && self.held.values().any(|(_, token)| !token.is_empty()) {
            return self.remove(client, dice).await;
        }
        let id = format!("{worker}-{}", dice.below(KEYS));
        let version = format!("{}.{}.{}", dice.below(9), dice.below(9), dice.below(99));
        let mut request = register_with("load", &id, 3_600.0, |instance| {
            instance.version = version;
            instance.zone = "z".repeat(dice.below(100) as usize);
        });
        request.request_id = format!("{worker}-{}", dice.below(u64::MAX));
        // Half of those that are there are updated, the others replaced.
        if let Some((_, token)) = self.held.get(&id).filter(|_| dice.below(2) == 0) {
            request.lease_token.clone_from(token);
        }
        self.open = Some(Open::Register(Box::new(request.clone())));
        let reply = client.register(request).await?;
        self.open = None;
        self.held.insert(id, (reply.instance.unwrap(), reply.lease.unwrap().token));
        Ok(())
    }

    async fn remove(&mut self, client: &Client, dice: &mut Dice) -> Result<(), Status> {
        let count = if dice.below(2) == 0 { 1 } else { 1 + dice.below(5) as usize };
        let ours = self.held.iter().filter(|(_, (_, token))| !token.is_empty());
        let ids: Vec<String> = ours.map(|(id, _)| id.clone()).take(count).collect();
        let lease_tokens = ids.iter().map(|id| self.held[id].1.clone()).collect();
        self.open = Some(Open::Remove(ids.clone()));
        let reply = client.deregister(DeregisterRequest { lease_tokens, ..Default::default() }).await?;
        assert_eq!(reply.removed, ids.len() as u64);
        self.open = None;
        self.held.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    /// Compares with what is there after a restart, and goes on from that.
    fn settle(&mut self, there: BTreeMap<String, Instance>) {
        match self.open.take() {
            Some(Open::Register(request)) => {
                let wanted = request.instance.clone().unwrap();
                let before = self.held.get(&wanted.id).map(|(instance, _)| instance.clone());
                let after = there.get(&wanted.id).cloned();
                let done = after.as_ref().is_some_and(|after| {
                    (&after.version, &after.zone) == (&wanted.version, &wanted.zone)
                        && before.as_ref().is_none_or(|before| before.revision <= after.revision)
                });
                assert!(done || after == before, "half of a registration: {before:?}, {wanted:?}, {after:?}");
                if let Some(after) = &after
                    && before.as_ref() != Some(after)
                {
                    let token = before.as_ref().filter(|before| before.incarnation == after.incarnation);
                    let token = token.and_then(|_| self.held.get(&after.id)).map(|(_, token)| token.clone());
                    self.held.insert(after.id.clone(), (after.clone(), token.unwrap_or_default()));
                }
                self.unanswered = Some((*request, after.filter(|_| done)));
            }
            Some(Open::Remove(ids)) => {
                let left = ids.iter().filter(|id| there.contains_key(*id)).count();
                assert!(left == 0 || left == ids.len(), "{left} of {ids:?} are left of one removal");
                if left == 0 {
                    self.held.retain(|id, _| !ids.contains(id));
                }
            }
            None => {}
        }
        let held: BTreeMap<_, _> = self.held.iter().map(|(id, (instance, _))| (id.clone(), instance.clone())).collect();
        assert_eq!(there, held, "what was acknowledged is there, and nothing else");
    }
}

/// Every client of the load, before or after it.
pub struct Load {
    known: Vec<Known>,
    dice: Dice,
}

/// The load while it runs.
pub struct Running {
    working: JoinSet<(usize, Known, Status)>,
    pace: Arc<Pace>,
}

impl Load {
    pub fn new(seed: u64) -> Self {
        Self { known: vec![Known::default(); WORKERS as usize], dice: Dice::new(seed) }
    }

    /// Begins, and waits until `least` changes were acknowledged, or up to `more` beyond.
    pub async fn run(&mut self, server: &Server, recorder: &Recorder, least: u64, more: u64) -> Running {
        let enough = (least + self.dice.below(more)) as usize;
        let pace = Arc::new(Pace { enough, ..Pace::default() });
        let mut working = JoinSet::new();
        for (worker, mut known) in self.known.drain(..).enumerate() {
            let client = server.client(recorder).await;
            let (dice, pace) = (Dice::new(self.dice.below(u64::MAX)), Arc::clone(&pace));
            working.spawn(async move {
                let status = known.work(client, worker as u64, dice, pace).await;
                (worker, known, status)
            });
        }
        within("enough changes", pace.reached.notified()).await;
        Running { working, pace }
    }

    /// Takes the clients back once each has failed. How many changes were acknowledged, and how the clients failed.
    pub async fn failed(&mut self, running: Running) -> (usize, Vec<Status>) {
        let mut left = within("the clients' notice", running.working.join_all()).await;
        left.sort_by_key(|(worker, ..)| *worker);
        let (known, statuses) = left.into_iter().map(|(_, known, status)| (known, status)).unzip();
        self.known = known;
        (running.pace.count.load(Ordering::Relaxed), statuses)
    }

    /// Compares with what is there, and goes on from that. Panics if it cannot have come from what was done.
    pub fn settle(&mut self, there: &BTreeMap<String, Instance>) {
        for (worker, known) in self.known.iter_mut().enumerate() {
            let prefix = format!("{worker}-");
            let ours = there.iter().filter(|(id, _)| id.starts_with(&prefix));
            known.settle(ours.map(|(id, instance)| (id.clone(), instance.clone())).collect());
        }
    }
}

impl Load {
    /// Each client sends what was not answered to it again.
    pub async fn repeat(&mut self, client: &Client) {
        for known in &mut self.known {
            known.repeat(client).await;
        }
    }
}

/// The load's instances that are there, by id, and the revision they are of.
pub async fn there(client: &Client) -> (u64, BTreeMap<String, Instance>) {
    let request = LookupRequest { service: "load".into(), selector: "status=*".into(), ..Default::default() };
    let found = client.lookup(request).await.unwrap();
    assert_eq!(found.next_page_token, "");
    (found.revision, found.instances.into_iter().map(|instance| (instance.id.clone(), instance)).collect())
}

impl Known {
    /// Sends the registration that was not answered again: if it was done, nothing happens but that it is answered.
    async fn repeat(&mut self, client: &Client) {
        let Some((request, done)) = self.unanswered.take() else { return };
        let reply = client.register(request).await.unwrap();
        let instance = reply.instance.unwrap();
        if let Some(done) = done {
            assert_eq!(instance, done, "a registration that was repeated with its request id");
        }
        self.held.insert(instance.id.clone(), (instance, reply.lease.unwrap().token));
    }
}

/// Tells when enough was done.
#[derive(Default)]
struct Pace {
    count: AtomicUsize,
    enough: usize,
    reached: Notify,
}

impl Pace {
    fn done(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.enough {
            self.reached.notify_one();
        }
    }
}
