//! What a committed revision came to, for those who watch: events of instances, and turns of frontends. A turn has with
//! it the instances that it is about, so that a reader can say who joined and who left, however late it reads.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use smol_str::SmolStr;

use super::{
    Registry,
    change::Event,
    deployment::Frontend,
    document::{DocumentEvent, DocumentKey, Kind},
    key::Revision,
    record::Record,
    service::ServiceSet,
};

/// What an instance that a turn holds counts for in the log: it may be the last to hold it.
const INSTANCE_FOOTPRINT: usize = 384;

/// A frontend's change.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The frontend before; none: there was none.
    pub before: Option<Arc<Frontend>>,
    /// The frontend after; none: there is none.
    pub after: Option<Arc<Frontend>>,
    /// The services behind it before and after, as they were when the revision was over.
    pub sets: Vec<(SmolStr, ServiceSet)>,
}

/// What one revision came to.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// Of instances, in order.
    pub events: Vec<Event>,
    /// Of frontends, in order.
    pub turns: Vec<Turn>,
    /// Namespace and key of the partition keys that stand otherwise.
    pub keys: Vec<(SmolStr, SmolStr)>,
    /// Whether a token is another, or no more.
    pub tokens: bool,
}

impl From<Vec<Event>> for Folded {
    fn from(events: Vec<Event>) -> Self {
        Self { events, ..Self::default() }
    }
}

impl Turn {
    /// Its namespace and name.
    #[must_use]
    pub fn name(&self) -> (&str, &str) {
        self.after
            .as_ref()
            .or(self.before.as_ref())
            .map_or(("", ""), |frontend| (frontend.namespace().as_str(), frontend.name().as_str()))
    }

    /// The services behind it before and after, each once.
    fn services(&self) -> Vec<SmolStr> {
        let both = self.before.iter().chain(&self.after);
        let mut services: Vec<SmolStr> =
            both.flat_map(|frontend| frontend.live().map(|split| split.service.clone())).collect();
        services.sort();
        services.dedup();
        services
    }

    /// Roughly the memory it takes, in bytes.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let frontend = |one: &Option<Arc<Frontend>>| one.as_ref().map_or(0, |one| 256 + 2 * one.document.body.len());
        let held: usize = self.sets.iter().map(|(_, set)| set.len() as usize * INSTANCE_FOOTPRINT).sum();
        size_of::<Self>() + frontend(&self.before) + frontend(&self.after) + held
    }

    /// The turn that a change of a document is, if it is a frontend's; without the instances.
    pub(super) fn of(key: &DocumentKey, event: &DocumentEvent) -> Option<Self> {
        if key.kind != Kind::Frontend {
            return None;
        }
        let frontend = |document: &Option<_>| document.as_ref().and_then(Frontend::of).map(Arc::new);
        let (before, after) = (frontend(&event.before), frontend(&event.after));
        (before.is_some() || after.is_some()).then(|| Self { before, after, sets: Vec::new() })
    }
}

impl Turn {
    fn stored(event: &DocumentEvent) -> Option<Self> {
        let document = event.after.as_ref().or(event.before.as_ref())?;
        Self::of(&document.key, event)
    }
}

impl Registry {
    /// Adds the instances that a turn of this moment is about.
    pub(super) fn complete(&self, mut turn: Turn) -> Turn {
        let namespace = turn.name().0.to_owned();
        let services = turn.services().into_iter();
        turn.sets =
            services.filter_map(|name| Some((name.clone(), self.service(&namespace, &name)?.clone()))).collect();
        turn
    }
}

/// A stored revision: what watchers could see of it.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Which.
    pub revision: Revision,
    /// Of instances, in order.
    pub events: Vec<Event>,
    /// Of frontends, in order.
    pub documents: Vec<DocumentEvent>,
}

/// A stored tail as it was when it was committed.
#[derive(Debug, Default)]
pub struct Rewound {
    /// The frontends as they were before it.
    pub frontends: Vec<Arc<Frontend>>,
    /// What each revision came to.
    pub tail: Vec<(Revision, Folded)>,
}

/// Completes a stored tail that leads up to `registry`, by going back through it: a turn is stored without the
/// instances that it was about, since what happened to them afterwards is in the tail as well.
#[must_use]
pub fn rewind(registry: &Registry, tail: Vec<Stored>) -> Rewound {
    let mut frontends: BTreeMap<(SmolStr, SmolStr), Arc<Frontend>> = registry
        .deployments()
        .every_frontend()
        .map(|frontend| ((frontend.namespace().clone(), frontend.name().clone()), Arc::clone(frontend)))
        .collect();
    let mut sets = HashMap::new();
    for turn in tail.iter().flat_map(|stored| &stored.documents).filter_map(Turn::stored) {
        for service in turn.services() {
            let namespace = SmolStr::new(turn.name().0);
            let now = registry.service(&namespace, &service).cloned().unwrap_or_default();
            sets.insert((namespace, service), now);
        }
    }
    let mut rewound = Rewound::default();
    for Stored { revision, events, documents } in tail.into_iter().rev() {
        let mut turns: Vec<Turn> = documents.iter().filter_map(Turn::stored).collect();
        for turn in turns.iter_mut().rev() {
            let namespace = SmolStr::new(turn.name().0);
            let set = |name: SmolStr| Some((name.clone(), sets.get(&(namespace.clone(), name))?.clone()));
            turn.sets = turn.services().into_iter().filter_map(set).collect();
            let name = (namespace.clone(), SmolStr::new(turn.name().1));
            match &turn.before {
                Some(before) => _ = frontends.insert(name, Arc::clone(before)),
                None => _ = frontends.remove(&name),
            }
        }
        events.iter().rev().for_each(|event| undo(event, &mut sets));
        rewound.tail.push((revision, Folded { events, turns, ..Folded::default() }));
    }
    rewound.tail.reverse();
    rewound.frontends = frontends.into_values().collect();
    rewound
}

fn undo(event: &Event, sets: &mut HashMap<(SmolStr, SmolStr), ServiceSet>) {
    if sets.is_empty() {
        return;
    }
    let Some((namespace, service, id)) = event.any().map(Record::names) else { return };
    let Some(set) = sets.get_mut(&(namespace.into(), service.into())) else { return };
    // Which partitions that makes unknown nobody asks of what was.
    let _ = match &event.before {
        Some(before) => set.put(before.clone()),
        None => set.remove(id, 0, 0),
    };
}
