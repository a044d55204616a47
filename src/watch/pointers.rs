//! Where each frontend points, now and at every revision that the log still has: what an event is to a watch of a
//! frontend depends on it. Knows nothing of who watches.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use smol_str::SmolStr;

use crate::registry::{Event, Frontend, Record, Revision, Scope, Turn};

/// Namespace and name.
type Name = (SmolStr, SmolStr);

/// One frontend's way through the kept log.
#[derive(Debug, Default)]
struct Timeline {
    now: Option<Arc<Frontend>>,
    /// Its changes that the log has, oldest first.
    turns: VecDeque<(Revision, Arc<Turn>)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pointers {
    timelines: HashMap<Name, Timeline>,
    /// The frontends that point at a service now.
    users: HashMap<Name, Vec<SmolStr>>,
}

impl Pointers {
    /// As the frontends are.
    pub(super) fn new(frontends: impl IntoIterator<Item = Arc<Frontend>>) -> Self {
        let mut pointers = Self::default();
        for frontend in frontends {
            pointers.point(&frontend);
            let name = (frontend.namespace().clone(), frontend.name().clone());
            pointers.timelines.insert(name, Timeline { now: Some(frontend), turns: VecDeque::new() });
        }
        pointers
    }

    /// The topics of the frontends that a revision may concern: those that turn in it, and those that an instance is
    /// behind before or after its event.
    pub(super) fn concerned(&self, events: &[Event], turns: &[Arc<Turn>]) -> Box<[Scope]> {
        let mut scopes: Vec<Scope> = turns.iter().map(|turn| scope(turn.name())).collect();
        if !self.users.is_empty() {
            events.iter().for_each(|event| self.behind(event, &mut scopes));
        }
        if scopes.len() > 1 {
            scopes.sort();
            scopes.dedup();
        }
        scopes.into()
    }

    fn behind(&self, event: &Event, scopes: &mut Vec<Scope>) {
        let Some((namespace, service, _)) = event.any().map(Record::names) else { return };
        let namespace = SmolStr::new(namespace);
        let users = self.users.get(&(namespace.clone(), SmolStr::new(service)));
        for user in users.into_iter().flatten() {
            let Some(frontend) = self.now(&namespace, user) else { continue };
            if event.before.iter().chain(&event.after).any(|record| frontend.covers(record)) {
                scopes.push(Scope::Frontend(namespace.clone(), user.clone()));
            }
        }
    }

    /// Takes in what turned at `revision`.
    pub(super) fn turn(&mut self, revision: Revision, turns: &[Arc<Turn>]) {
        for turn in turns {
            let (namespace, name) = turn.name();
            let name = (SmolStr::new(namespace), SmolStr::new(name));
            if let Some(before) = self.now(&name.0, &name.1).cloned() {
                self.unpoint(&before);
            }
            if let Some(after) = &turn.after {
                self.point(after);
            }
            let timeline = self.timelines.entry(name).or_default();
            timeline.now.clone_from(&turn.after);
            timeline.turns.push_back((revision, Arc::clone(turn)));
        }
    }

    /// The log no longer has these, its oldest.
    pub(super) fn forget(&mut self, turns: &[Arc<Turn>]) {
        for turn in turns {
            let (namespace, name) = turn.name();
            let name = (SmolStr::new(namespace), SmolStr::new(name));
            if let Some(timeline) = self.timelines.get_mut(&name) {
                timeline.turns.pop_front();
                if timeline.now.is_none() && timeline.turns.is_empty() {
                    self.timelines.remove(&name);
                }
            }
        }
    }

    /// Where a frontend pointed when `revision` was over, if the log still has it or it has not changed since.
    pub(super) fn at(&self, name: &Name, revision: Revision) -> Option<Arc<Frontend>> {
        let timeline = self.timelines.get(name)?;
        let next = timeline.turns.partition_point(|(turned, _)| *turned <= revision);
        match (next.checked_sub(1).and_then(|last| timeline.turns.get(last)), timeline.turns.get(next)) {
            (Some((_, last)), _) => last.after.clone(),
            (None, Some((_, next))) => next.before.clone(),
            (None, None) => timeline.now.clone(),
        }
    }

    fn now(&self, namespace: &SmolStr, name: &SmolStr) -> Option<&Arc<Frontend>> {
        self.timelines.get(&(namespace.clone(), name.clone()))?.now.as_ref()
    }

    fn point(&mut self, frontend: &Frontend) {
        for split in frontend.live() {
            let users = self.users.entry((frontend.namespace().clone(), split.service.clone())).or_default();
            if !users.contains(frontend.name()) {
                users.push(frontend.name().clone());
            }
        }
    }

    fn unpoint(&mut self, frontend: &Frontend) {
        for split in frontend.live() {
            let service = (frontend.namespace().clone(), split.service.clone());
            if let Some(users) = self.users.get_mut(&service) {
                users.retain(|user| user != frontend.name());
                if users.is_empty() {
                    self.users.remove(&service);
                }
            }
        }
    }
}

/// The topic of a frontend.
fn scope((namespace, name): (&str, &str)) -> Scope {
    Scope::Frontend(SmolStr::new(namespace), SmolStr::new(name))
}
