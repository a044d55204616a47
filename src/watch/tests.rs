//! Watches of frontends: folded to any revision they are what a lookup gives there, whoever reads from where, also in a
//! log that was recovered from what a store keeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fixedbitset::FixedBitSet;
use proptest::{collection::vec, prelude::*};
use prost::Message as _;
use prost_types::Timestamp;
use uuid::Uuid;

use super::{
    pages::Snapshots,
    partitions::{Counting, Turn},
    *,
};
use crate::{
    proto::{Cause, EventType, Frontend as Shown, ServicePresence, WatchResponse},
    registry::{
        Action, Cause as Why, Change, Command, Decision, Delete, Deploy, DocumentEvent, Event, Filter, FilterSet,
        Instance, Key, Lease, Matcher, Partition, Principal, Put, Registry, Revision, SecretHash, Stamp, StateLimits,
        Status, Stored, TargetText, rewind,
    },
};

/// What happens: some of it in one revision.
#[derive(Clone, Debug)]
enum Op {
    /// An instance of a service (0 or 1) at a version, in a zone, serving or draining.
    Put {
        id: u8,
        service: u8,
        version: u8,
        zone: u8,
        serving: bool,
    },
    Delete {
        id: u8,
        service: u8,
    },
    Backend {
        name: u8,
        service: u8,
        version: u8,
    },
    Switch {
        name: u8,
        splits: Vec<(u8, u32)>,
    },
    Remove {
        name: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..6_u8, 0..2_u8, 0..3_u8, 0..2_u8, prop::bool::weighted(0.85))
            .prop_map(|(id, service, version, zone, serving)| Op::Put { id, service, version, zone, serving }),
        2 => (0..6_u8, 0..2_u8).prop_map(|(id, service)| Op::Delete { id, service }),
        2 => (0..3_u8, 0..2_u8, 0..3_u8).prop_map(|(name, service, version)| Op::Backend { name, service, version }),
        4 => (0..2_u8, vec((0..3_u8, 0..3_u32), 1..4)).prop_map(|(name, splits)| Op::Switch { name, splits }),
        1 => (0..2_u8).prop_map(|name| Op::Remove { name }),
    ]
}

/// One revision of the truth.
struct Step {
    revision: Revision,
    events: Vec<Event>,
    documents: Vec<DocumentEvent>,
    /// What each filter set finds after it: instances by key, and frontends.
    found: Vec<View>,
}

type View = (BTreeMap<String, Instance>, Vec<(String, u64, Vec<(String, u32)>)>);

struct World {
    registry: Registry,
    revision: Revision,
    log: EventLog,
    steps: Vec<Step>,
}

fn service(place: u8) -> &'static str {
    ["web", "api"][usize::from(place)]
}

fn instance(id: u8, of: u8, version: u8, zone: u8, serving: bool) -> Instance {
    Instance {
        namespace: "default".into(),
        service: service(of).into(),
        id: id.to_string(),
        version: version.to_string(),
        zone: ["a", "b"][usize::from(zone)].into(),
        partition_key: ["", "k"][usize::from(id % 2)].into(),
        status: (if serving { Status::Serving } else { Status::Draining }).into(),
        ..Instance::default()
    }
}

impl World {
    fn new() -> Self {
        let registry = Registry::new(1, StateLimits::default());
        Self { registry, revision: 0, log: EventLog::new(1 << 20, 0), steps: Vec::new() }
    }

    /// The changes that `op` comes to in this state.
    fn changes(&self, op: &Op) -> Vec<Change> {
        let deployments = self.registry.deployments();
        let read = match op {
            Op::Put { id, service: of, version, zone, serving } => {
                let description = instance(*id, *of, *version, *zone, *serving).encode_to_vec().into();
                let lease = Lease { ttl: 1, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
                let held = self.registry.slot_of(&Key::new("default", service(*of), id.to_string()));
                let before = held.and_then(|slot| self.registry.record(slot));
                // The other zone is another registration.
                let again = before.filter(|record| record.instance().zone == ["a", "b"][usize::from(*zone)]);
                let incarnation = again.map_or(Stamp::Commit, |record| Stamp::At(record.incarnation));
                let ordinal = again.map_or(0, |record| record.ordinal);
                return vec![Change::Put(Put { description, lease, incarnation, ordinal, revision: Stamp::Commit })];
            }
            Op::Delete { id, service: of } => {
                let key = Key::new("default", service(*of), id.to_string());
                return vec![Change::Delete(Delete { key, cause: Why::Expired, at: 0 })];
            }
            Op::Backend { name, service: of, version } => {
                let (name, version) = (name.to_string(), version.to_string());
                match deployments.backend("default", &name) {
                    None => Action::create_backend("", &name, (service(*of), &version), None),
                    Some(_) => Action::update_backend("", &name, (Some(service(*of)), Some(&version)), None, 0),
                }
            }
            Op::Switch { name, splits } => {
                let text =
                    |(backend, weight): &(u8, u32)| TargetText { backend: backend.to_string(), weight: Some(*weight) };
                let splits: Vec<TargetText> = splits.iter().map(text).collect();
                match deployments.frontend("default", &name.to_string()) {
                    None => Action::create_frontend("", &name.to_string(), &splits, None, &|_, _| true),
                    Some(_) => Action::switch("", &name.to_string(), ("", &splits), 0, &|_, _| true),
                }
            }
            Op::Remove { name } => Action::delete_frontend("", &name.to_string(), 0),
        };
        let Ok((namespace, action)) = read else { return Vec::new() };
        let deploy = Deploy { namespace, action, principal: Principal::anyone(), at: Timestamp::default() };
        match self.registry.decide(&Command::Deploy(Box::new(deploy)), 0) {
            Decision::Propose(changes, _) => changes.into_iter().map(|guarded| guarded.change).collect(),
            Decision::Reply(_) | Decision::Unfit { .. } => Vec::new(),
        }
    }

    /// Commits several things in one revision, none of one key and only one of frontends.
    fn commit(&mut self, ops: &[Op], sets: &[FilterSet]) {
        let (mut changes, mut keys, mut deployed) = (Vec::new(), Vec::new(), false);
        for op in ops {
            let wanted = self.changes(op);
            let key = wanted.first().and_then(Change::key);
            if (key.is_none() && deployed) || (key.is_some() && keys.contains(&key)) {
                continue;
            }
            deployed |= key.is_none() && !wanted.is_empty();
            keys.push(key);
            changes.extend(wanted);
        }
        self.revision += 2;
        let folded = self.registry.fold(self.revision, &changes);
        let turned = folded.turns.iter().map(|turn| {
            let document =
                |one: &Option<Arc<crate::registry::Frontend>>| one.as_ref().map(|one| Arc::clone(&one.document));
            DocumentEvent { before: document(&turn.before), after: document(&turn.after) }
        });
        let (events, documents) = (folded.events.clone(), turned.collect());
        self.log.publish(self.revision, folded);
        let found = sets.iter().map(|set| look(&self.registry, set)).collect();
        self.steps.push(Step { revision: self.revision, events, documents, found });
    }
}

/// What a lookup of the set gives, found the plain way.
fn look(registry: &Registry, set: &FilterSet) -> View {
    let pointing: Vec<_> = set
        .frontends()
        .iter()
        .map(|(namespace, name)| registry.deployments().frontend(namespace, name).cloned())
        .collect();
    let meant = Matcher::new(set.clone()).resolved(&pointing);
    let records = registry.records().map(|(_, record)| record).filter(|record| meant.matches(record));
    let shown = set.frontends().into_iter().zip(&pointing).map(|((_, name), frontend)| {
        let splits = frontend.iter().flat_map(|frontend| frontend.live());
        let splits = splits.map(|split| (format!("{}@{}", split.service, split.version), split.weight)).collect();
        (name.to_string(), frontend.as_ref().map_or(0, |frontend| frontend.revision()), splits)
    });
    (records.map(|record| (record.key().to_string(), record.instance())).collect(), shown.collect())
}

/// A client that keeps what it is told.
struct Folder {
    view: View,
    /// As summaries tell.
    there: BTreeSet<Partition>,
}

/// The partitions of what is there.
fn partitions(view: &View) -> impl Iterator<Item = Partition> {
    view.0.values().map(|one| Partition {
        namespace: one.namespace.as_str().into(),
        service: one.service.as_str().into(),
        key: one.partition_key.as_str().into(),
    })
}

impl Folder {
    fn take(&mut self, message: &Message) {
        for frame in message.watch_frames() {
            let response = WatchResponse::decode(frame.message()).unwrap();
            assert_eq!(response.revision, message.revision);
            response.frontends.into_iter().for_each(|shown| self.show(shown));
            for ServicePresence { namespace, service, key, online } in response.services {
                let of = Partition { namespace: namespace.into(), service: service.into(), key: key.into() };
                let news = if online { self.there.insert(of) } else { self.there.remove(&of) };
                assert!(news, "a summary says what is other");
            }
            for event in response.events {
                let (kind, cause) = (event.r#type(), event.cause());
                let instance = event.instance.unwrap();
                let key = format!("{}/{}/{}", instance.namespace, instance.service, instance.id);
                match kind {
                    EventType::Online => {
                        assert!(matches!(cause, Cause::Registered | Cause::Matched), "{cause:?}");
                        assert_eq!(cause == Cause::Registered, instance.incarnation == message.revision, "{key}");
                        assert!(self.view.0.insert(key, instance).is_none(), "it was there");
                    }
                    EventType::Updated => assert!(self.view.0.insert(key, instance).is_some(), "it was not there"),
                    EventType::Offline => {
                        assert!(self.view.0.remove(&key).is_some(), "{key} was not there: {cause:?}");
                    }
                    EventType::Unspecified => panic!("no type"),
                }
            }
        }
    }

    fn show(&mut self, shown: Shown) {
        let place = self.view.1.iter().position(|(name, ..)| *name == shown.name).expect("it is followed");
        let splits = shown.splits.into_iter().map(|split| {
            assert!(split.weight > 0, "a split of weight 0 is absent");
            (format!("{}@{}", split.service, split.version), split.weight)
        });
        self.view.1[place] = (shown.name, shown.revision, splits.collect());
    }
}

/// A reader of a feed that others read, too.
struct Reader {
    folder: Folder,
    cursor: Revision,
    place: Option<Place>,
    counting: Option<Counting>,
}

impl Reader {
    /// Reads a message, or counts for a turn. Whether there is more.
    fn read(
        &mut self,
        feed: &Arc<Feed>,
        log: &EventLog,
        registry: &Registry,
        truth: impl Fn(&Folder, Revision),
    ) -> bool {
        if let Some(counting) = &mut self.counting {
            let snapshots = Arc::<Snapshots>::default();
            let view = || {
                let names = feed.matcher().frontends().iter();
                let pointing = names.map(|(namespace, name)| registry.deployments().frontend(namespace, name).cloned());
                let matcher = feed.meaning(&pointing.collect());
                let reader = registry.snapshot(matcher.scopes()).reader();
                (matcher, snapshots.keep(reader, feed.matcher().scopes()))
            };
            if let Turn::Done(place) = counting.turn(feed, log, self.cursor, &view).expect("all of it is kept") {
                (self.place, self.counting) = (place, None);
            }
            return true;
        }
        match feed.next(log, self.cursor, &mut self.place).expect("all of it is kept") {
            Next::Message(message) => {
                (self.cursor + 1..message.revision).for_each(|revision| truth(&self.folder, revision));
                self.folder.take(&message);
                self.cursor = message.revision;
                truth(&self.folder, self.cursor);
            }
            Next::UpToDate(revision) => {
                (self.cursor + 1..=revision).for_each(|revision| truth(&self.folder, revision));
                return false;
            }
            Next::Uncounted => self.counting = Some(Counting::default()),
        }
        true
    }
}

/// Readers from every revision on take turns on one feed, and each is compared with the truth at every revision.
fn judge_feed(world: &World, log: &EventLog, steps: &[Step], (set, place): (&FilterSet, usize), turns: &[u8]) {
    let budgets = Budgets { messages: Budget::new(1 << 20), summaries: Budget::new(1 << 20) };
    let matcher = Matcher::new(set.clone());
    let feed = Arc::new(Feed::new(matcher, Uuid::nil(), 1, world.revision, budgets.clone()));
    let truth = |folder: &Folder, revision| {
        let step = steps.iter().rfind(|step| step.revision <= revision).unwrap();
        assert_eq!(folder.there, partitions(&folder.view).collect(), "{set} at {revision}");
        assert_eq!(folder.view, step.found[place], "{set} at {revision}");
    };
    let reader = |step: &Step| {
        let view = step.found[place].clone();
        let folder = Folder { there: partitions(&view).collect(), view };
        Reader { folder, cursor: step.revision, place: None, counting: None }
    };
    let mut readers: Vec<Reader> = steps.iter().map(reader).collect();
    for turn in turns.iter().cycle() {
        if readers.is_empty() {
            break;
        }
        let next = usize::from(*turn) % readers.len();
        if !readers[next].read(&feed, log, &world.registry, truth) {
            readers.swap_remove(next);
        }
    }
    drop(feed);
    assert_eq!((budgets.messages.used(), budgets.summaries.used()), (0, 0));
}

fn sets() -> Vec<FilterSet> {
    let behind = |name: &str, selector: &str| Filter::of_frontend("", name, "", selector).unwrap();
    let sets = [
        FilterSet::new([behind("0", "")]),
        FilterSet::new([behind("0", "zone=a"), behind("1", "")]),
        FilterSet::new([behind("1", "status=*"), Filter::new("", "api", "", "").unwrap()]),
        FilterSet::new([behind("0", ""), Filter::new("*", "", "", "zone=b").unwrap()]),
        FilterSet::new([Filter::of_frontend("", "0", "1", "").unwrap(), Filter::new("", "", "", "").unwrap()]),
    ];
    sets.map(|set| set.with_summaries(true)).into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Promises 9 and 10 for frontends, of unions too: who begins at any revision has folded up to every later one what
    /// a lookup gives there. And a log restored from the tail that a store keeps tells the same.
    #[test]
    fn a_watch_of_frontends_folded_to_any_revision_is_a_lookup_there(
        groups in vec(vec(op(), 1..5), 2..24),
        turns in vec(any::<u8>(), 1..32),
    ) {
        let (mut world, sets) = (World::new(), sets());
        let first = [0, 1, 2].map(|name| Op::Backend { name, service: name % 2, version: name });
        first.iter().for_each(|op| world.commit(std::slice::from_ref(op), &sets));
        groups.iter().for_each(|ops| world.commit(ops, &sets));
        let stored = world.steps.iter().map(|step| Stored {
            revision: step.revision,
            events: step.events.clone(),
            documents: step.documents.clone(),
        });
        let rewound = rewind(&world.registry, stored.collect());
        prop_assert!(rewound.frontends.is_empty(), "there was none before");
        let restored = EventLog::new(1 << 20, 0);
        restored.restore(0, world.revision, rewound.frontends, rewound.tail);
        for (place, set) in sets.iter().enumerate() {
            judge_feed(&world, &world.log, &world.steps, (set, place), &turns);
            judge_feed(&world, &restored, &world.steps, (set, place), &turns);
        }
    }
}

/// A switch, and what happens to instances, wakes only those whom it may concern.
#[test]
fn who_follows_another_frontend_pays_nothing() {
    let (mut world, sets) = (World::new(), [FilterSet::default()]);
    for name in [0, 1] {
        world.commit(&[Op::Backend { name, service: 0, version: name }], &sets);
        world.commit(&[Op::Switch { name, splits: vec![(name, 1)] }], &sets);
    }
    let followers = [0, 1].map(|name| {
        let listener = Listener::new();
        let scope = Filter::of_frontend("", &name.to_string(), "", "").unwrap().scope();
        (listener.clone(), world.log.listen(&[scope], &listener, 7))
    });
    let woken = || {
        [0, 1].map(|name| {
            let mut dirty = FixedBitSet::new();
            followers[name].0.take_dirty(&mut dirty);
            !dirty.is_clear()
        })
    };
    world.commit(&[Op::Put { id: 1, service: 0, version: 0, zone: 0, serving: true }], &sets);
    assert_eq!(woken(), [true, false]);
    world.commit(&[Op::Put { id: 2, service: 0, version: 2, zone: 0, serving: true }], &sets);
    assert_eq!(woken(), [false, false]);
    world.commit(&[Op::Switch { name: 1, splits: vec![(0, 1)] }], &sets);
    assert_eq!(woken(), [false, true]);
    world.commit(&[Op::Delete { id: 1, service: 0 }], &sets);
    assert_eq!(woken(), [true, true]);
    assert_eq!(world.log.followers("default", "1"), 1);
}

/// A log that forgets still knows where a frontend pointed at what it has.
#[test]
fn a_log_that_forgets_knows_where_frontends_pointed() {
    let (mut world, sets) = (World::new(), sets());
    world.log = EventLog::new(6_000, 0);
    world.commit(&[Op::Backend { name: 0, service: 0, version: 0 }], &sets);
    world.commit(&[Op::Backend { name: 1, service: 0, version: 1 }], &sets);
    for round in 0..40_u8 {
        world.commit(&[Op::Switch { name: 0, splits: vec![(round % 2, 1)] }], &sets);
        world.commit(
            &[Op::Put { id: round % 4, service: 0, version: round % 2, zone: round % 2, serving: true }],
            &sets,
        );
    }
    let oldest = world.log.bounds().1;
    assert!(oldest > 20);
    let kept = world.steps.iter().position(|step| step.revision >= oldest).unwrap();
    judge_feed(&world, &world.log, &world.steps[kept..], (&sets[0], 0), &[5, 0, 3, 1]);
}
