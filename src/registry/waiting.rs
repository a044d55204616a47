//! Registrations that wait for what they need: which of them can be admitted, and together with which others. It stands
//! beside the state and is told what was committed. Knows neither callers nor time.
//!
//! A set of waiting registrations supports itself if each need of each of its members is met by an instance that is
//! online, or by another member. Unions of such sets are such sets, so there is a greatest one (Knaster and Tarski); the
//! registrations outside of it are the least model of Horn clauses ("blocked, if all that could meet one of its needs is
//! blocked"), which counters and a work list find in time linear in the needs and offers (Dowling and Gallier 1984).
//!
//! Between two calls nothing here can be admitted. So after something happened, only those can be who need, directly or
//! over others, what came: the search begins there and goes backwards, and the rest is never looked at.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use smol_str::SmolStr;

use super::{Event, Instance, Record, Register, Registry, needs::Need, outline::Outline};

/// Names a waiting registration. Who came later has a larger one.
pub type WaitId = u64;

/// A need that somebody waits for: the same for all who need the same versions of a service.
#[derive(Debug)]
struct Wanted {
    need: Need,
    /// How many instances that are online answer for it.
    online: usize,
    /// Who needs it.
    by: BTreeSet<WaitId>,
    /// Of those: for whom not everything that is online counts.
    particular: BTreeSet<WaitId>,
    /// Who would answer for it.
    offers: BTreeSet<WaitId>,
}

#[derive(Debug)]
struct Entry {
    register: Arc<Register>,
    /// Places in `Waiting::wanted`.
    needs: Vec<u32>,
    offers: Vec<u32>,
    /// It needs its own service, or takes a url for itself: it and what it displaces do not count for it.
    particular: bool,
}

/// What waits for one service, and what of it waits.
#[derive(Debug, Default)]
struct Service {
    wanted: Vec<u32>,
    waiting: BTreeSet<WaitId>,
}

/// The waiting registrations.
#[derive(Debug, Default)]
pub struct Waiting {
    entries: HashMap<WaitId, Entry>,
    wanted: Vec<Option<Wanted>>,
    free: Vec<u32>,
    services: HashMap<(SmolStr, SmolStr), Service>,
    /// Needs of all entries together.
    needs: usize,
}

impl Waiting {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many needs they have together.
    #[must_use]
    pub fn needs(&self) -> usize {
        self.needs
    }

    /// What waits under this id.
    #[must_use]
    pub fn get(&self, id: WaitId) -> Option<&Arc<Register>> {
        self.entries.get(&id).map(|entry| &entry.register)
    }

    /// Everyone, in order of arrival.
    #[must_use]
    pub fn ids(&self) -> Vec<WaitId> {
        let mut ids: Vec<_> = self.entries.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Lets `register` wait.
    pub fn arrive(&mut self, registry: &Registry, id: WaitId, register: Arc<Register>) {
        let instance = &register.registration.instance;
        let own = (SmolStr::new(&instance.namespace), SmolStr::new(&instance.service));
        let asked = &register.registration.needs;
        let mut needs = Vec::with_capacity(asked.wanted.len());
        for need in &asked.wanted {
            let place = self.place_of(registry, &asked.namespace, need);
            needs.push(place);
        }
        let needs_own = asked.namespace == own.0 && asked.wanted.iter().any(|need| need.service == own.1);
        let particular = register.registration.exclusive_url || needs_own;
        for place in &needs {
            if let Some(wanted) = wanted_mut(&mut self.wanted, *place) {
                wanted.by.insert(id);
                if particular {
                    wanted.particular.insert(id);
                }
            }
        }
        let service = self.services.entry(own).or_default();
        service.waiting.insert(id);
        let mut offers = Vec::new();
        for place in &service.wanted {
            if let Some(wanted) = wanted_mut(&mut self.wanted, *place)
                && offers_to(instance, &wanted.need)
            {
                wanted.offers.insert(id);
                offers.push(*place);
            }
        }
        self.needs += needs.len();
        self.entries.insert(id, Entry { register, needs, offers, particular });
    }

    /// The place of what all who need this share; made if there is none.
    fn place_of(&mut self, registry: &Registry, namespace: &SmolStr, need: &Need) -> u32 {
        let service = self.services.entry((namespace.clone(), need.service.clone())).or_default();
        let same =
            |place: &&u32| wanted_at(&self.wanted, **place).is_some_and(|held| held.need.version == need.version);
        if let Some(place) = service.wanted.iter().find(same) {
            return *place;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.wanted.push(None);
            (self.wanted.len() - 1) as u32
        });
        service.wanted.push(place);
        let online = registry.service(namespace, &need.service);
        let online = online.map_or(0, |set| set.iter().filter(|record| need.accepts(record)).count());
        let mut offers = BTreeSet::new();
        for id in &service.waiting {
            if let Some(entry) = self.entries.get_mut(id)
                && offers_to(&entry.register.registration.instance, need)
            {
                entry.offers.push(place);
                offers.insert(*id);
            }
        }
        let (by, particular) = (BTreeSet::new(), BTreeSet::new());
        self.wanted[place as usize] = Some(Wanted { need: need.clone(), online, by, particular, offers });
        place
    }

    /// Lets go of whoever waits under `id`.
    pub fn leave(&mut self, id: WaitId) -> Option<Arc<Register>> {
        let entry = self.entries.remove(&id)?;
        let (instance, asked) = (&entry.register.registration.instance, &entry.register.registration.needs);
        for place in &entry.offers {
            if let Some(wanted) = wanted_mut(&mut self.wanted, *place) {
                wanted.offers.remove(&id);
            }
        }
        self.needs -= entry.needs.len();
        for place in entry.needs {
            let Some(wanted) = wanted_mut(&mut self.wanted, place) else { continue };
            wanted.by.remove(&id);
            wanted.particular.remove(&id);
            if wanted.by.is_empty() {
                self.forget(&asked.namespace, place);
            }
        }
        let own = (SmolStr::new(&instance.namespace), SmolStr::new(&instance.service));
        if let Some(service) = self.services.get_mut(&own) {
            service.waiting.remove(&id);
            if service.waiting.is_empty() && service.wanted.is_empty() {
                self.services.remove(&own);
            }
        }
        Some(entry.register)
    }

    /// Nobody needs what is at `place` any more.
    fn forget(&mut self, namespace: &SmolStr, place: u32) {
        let Some(wanted) = self.wanted.get_mut(place as usize).and_then(Option::take) else { return };
        self.free.push(place);
        for id in &wanted.offers {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.offers.retain(|held| *held != place);
            }
        }
        let name = (namespace.clone(), wanted.need.service);
        if let Some(service) = self.services.get_mut(&name) {
            service.wanted.retain(|held| *held != place);
            if service.waiting.is_empty() && service.wanted.is_empty() {
                self.services.remove(&name);
            }
        }
    }

    /// Takes note of what was committed. Adds to `stirred` whoever may now be admitted, alone or with others. Only what
    /// waits for the event's own service is looked at.
    pub fn follow(&mut self, event: &Event, stirred: &mut BTreeSet<WaitId>) {
        let Some(any) = event.any() else { return };
        let (namespace, service, _) = any.names();
        let Some(service) = self.services.get(&(SmolStr::new(namespace), SmolStr::new(service))) else { return };
        for place in &service.wanted {
            let Some(wanted) = wanted_mut(&mut self.wanted, *place) else { continue };
            let accepts = |record: &Option<Record>| record.as_ref().is_some_and(|record| wanted.need.accepts(record));
            match (accepts(&event.before), accepts(&event.after)) {
                (false, true) => {
                    wanted.online += 1;
                    stirred.extend(if wanted.online == 1 { &wanted.by } else { &wanted.particular });
                }
                (true, false) => wanted.online -= 1,
                // The url may be another.
                (true, true) => stirred.extend(&wanted.particular),
                (false, false) => {}
            }
        }
    }

    /// Counts anew what is online: the state was replaced as a whole.
    pub fn rebuild(&mut self, registry: &Registry) {
        for ((namespace, name), service) in &self.services {
            let set = registry.service(namespace, name);
            for place in &service.wanted {
                let Some(wanted) = wanted_mut(&mut self.wanted, *place) else { continue };
                let answers = |record: &&Record| wanted.need.accepts(record);
                wanted.online = set.map_or(0, |set| set.iter().filter(answers).count());
            }
        }
    }

    /// The greatest self-supporting set of those whom `stirred` may have made so and who are not in `without`: in groups
    /// that have to be admitted at once, since their members rely on one another; each in order of arrival.
    #[must_use]
    pub fn admissible(
        &self,
        registry: &Registry,
        stirred: impl IntoIterator<Item = WaitId>,
        without: &HashSet<WaitId>,
    ) -> Vec<Vec<WaitId>> {
        let mut search = Search { waiting: self, registry, inside: HashMap::new(), offered: HashMap::new() };
        search.spread(stirred, without);
        search.narrow();
        search.groups()
    }
}

fn wanted_mut(wanted: &mut [Option<Wanted>], place: u32) -> Option<&mut Wanted> {
    wanted.get_mut(place as usize)?.as_mut()
}

fn wanted_at(wanted: &[Option<Wanted>], place: u32) -> Option<&Wanted> {
    wanted.get(place as usize)?.as_ref()
}

/// Whether an instance, once admitted, answers for `need`. An omitted status will be SERVING.
pub(super) fn offers_to(instance: &Instance, need: &Need) -> bool {
    let status = instance.status();
    let routable = status == super::Status::Unspecified || status.is_routable();
    let (version, zone, url) = (&*instance.version, &*instance.zone, &*instance.url);
    routable && need.fits(Outline { version, zone, weight: instance.weight.unwrap_or(1), url })
}

/// One search for a self-supporting set.
struct Search<'a> {
    waiting: &'a Waiting,
    registry: &'a Registry,
    /// Who is still in question, with the needs that nothing online meets.
    inside: HashMap<WaitId, Vec<u32>>,
    /// How many of those offer what is at a place.
    offered: HashMap<u32, usize>,
}

impl<'a> Search<'a> {
    /// The needs of an entry that only others who wait could meet; none if one of them is offered by nobody else.
    fn open_needs(&self, id: WaitId, entry: &Entry) -> Option<Vec<u32>> {
        let mut open = Vec::new();
        for place in &entry.needs {
            let wanted = wanted_at(&self.waiting.wanted, *place)?;
            if self.is_met(entry, wanted) {
                continue;
            }
            let others = wanted.offers.len() - usize::from(wanted.offers.contains(&id));
            if others == 0 {
                return None;
            }
            open.push(*place);
        }
        open.sort_unstable();
        Some(open)
    }

    fn is_met(&self, entry: &Entry, wanted: &Wanted) -> bool {
        wanted.online > 0 && (!entry.particular || self.registry.is_met(&entry.register, &wanted.need))
    }

    /// Everyone who may depend on `stirred`, and could be admitted as far as can be seen without the others.
    fn spread(&mut self, stirred: impl IntoIterator<Item = WaitId>, without: &HashSet<WaitId>) {
        // Each counts once, however often it was stirred.
        let mut seen: HashSet<WaitId> = stirred.into_iter().collect();
        let mut queue: Vec<WaitId> = seen.iter().copied().collect();
        while let Some(id) = queue.pop() {
            let Some(entry) = self.waiting.entries.get(&id).filter(|_| !without.contains(&id)) else { continue };
            let Some(open) = self.open_needs(id, entry) else { continue };
            self.inside.insert(id, open);
            for place in &entry.offers {
                *self.offered.entry(*place).or_default() += 1;
                let Some(wanted) = wanted_at(&self.waiting.wanted, *place) else { continue };
                let relying = if wanted.online == 0 { &wanted.by } else { &wanted.particular };
                queue.extend(relying.iter().filter(|id| seen.insert(**id)));
            }
        }
    }

    /// Whether nobody inside but `id` itself offers what is at `place`.
    fn is_unsupported(&self, id: WaitId, place: u32) -> bool {
        let own = wanted_at(&self.waiting.wanted, place).is_some_and(|wanted| wanted.offers.contains(&id));
        self.offered.get(&place).copied().unwrap_or(0) <= usize::from(own)
    }

    /// Drops who has a need without support, until nobody has.
    fn narrow(&mut self) {
        let blocked = |search: &Self, (id, open): (&WaitId, &Vec<u32>)| {
            open.iter().any(|place| search.is_unsupported(*id, *place)).then_some(*id)
        };
        let mut queue: Vec<WaitId> = self.inside.iter().filter_map(|entry| blocked(self, entry)).collect();
        while let Some(id) = queue.pop() {
            if self.inside.remove(&id).is_none() {
                continue;
            }
            let Some(entry) = self.waiting.entries.get(&id) else { continue };
            for place in &entry.offers {
                let Some(offered) = self.offered.get_mut(place) else { continue };
                *offered -= 1;
                // The last one's offer does not count for itself, and without any it counts for nobody.
                if *offered > 1 {
                    continue;
                }
                let last = *offered == 1;
                let Some(wanted) = wanted_at(&self.waiting.wanted, *place) else { continue };
                let relying = wanted.by.iter().filter(|id| {
                    let relies = self.inside.get(*id).is_some_and(|open| open.binary_search(place).is_ok());
                    relies && (!last || wanted.offers.contains(*id))
                });
                queue.extend(relying);
            }
        }
    }

    /// Those who are left, in groups that rely on one another.
    fn groups(self) -> Vec<Vec<WaitId>> {
        let mut ids: Vec<WaitId> = self.inside.keys().copied().collect();
        ids.sort_unstable();
        let mut sets = Sets((0..ids.len()).collect());
        let number: HashMap<WaitId, usize> = ids.iter().enumerate().map(|(number, id)| (*id, number)).collect();
        // Of each place that is relied on, somebody who offers it.
        let mut offering = HashMap::new();
        for (id, open) in &self.inside {
            for place in open {
                // Which of the offers is taken is decided later: all of them belong to it.
                let first = *offering.entry(*place).or_insert_with(|| {
                    let offers = wanted_at(&self.waiting.wanted, *place).into_iter().flat_map(|wanted| &wanted.offers);
                    let mut offers = offers.filter_map(|id| number.get(id).copied());
                    let first = offers.next();
                    first.inspect(|first| offers.for_each(|other| sets.join(other, *first)))
                });
                if let Some(first) = first {
                    sets.join(number[id], first);
                }
            }
        }
        let mut groups: Vec<Vec<WaitId>> = Vec::new();
        let mut group_of = HashMap::new();
        for (place, id) in ids.into_iter().enumerate() {
            let root = sets.root(place);
            let group = *group_of.entry(root).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(id);
        }
        groups
    }
}

/// Disjoint sets, with halved paths (Tarjan and van Leeuwen 1984).
struct Sets(Vec<usize>);

impl Sets {
    fn root(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests;
