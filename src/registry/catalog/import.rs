//! What a list of applications comes to: which of them are taken, as what and in which order, and everything that is
//! wrong with the others. Changes nothing: it is tried on a copy.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use smol_str::SmolStr;

use super::{
    Application, Catalog, Drafted, Full, Port, PortRules, Ports, Refusal, Refusals, ServiceTypeDraft,
    draft::{self, MAX_DEPENDENCIES},
    groups::groups,
    key,
    port::family,
};
use crate::registry::{Error, Violation};

/// Most applications of a piece, which is taken in one revision.
const PIECE_APPLICATIONS_MAX: usize = 250;
/// Most ports and dependencies of a piece, whatever it has of each.
const PIECE_WEIGHT_MAX: usize = 2_000;
/// How much is looked at for circles that refused entries may close: what a list can ask for grows with its square.
const STEPS_MAX: usize = 10_000_000;

/// A port as a list has it: numbers as they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedPort {
    /// The kind of program behind it.
    pub service: SmolStr,
    /// The external port, if not whichever is next.
    pub external: Option<i64>,
    /// The internal port, if not the kind's.
    pub internal: Option<i64>,
}

/// An application as a list has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: SmolStr,
    /// Its ports.
    pub ports: Vec<ListedPort>,
    /// What it needs.
    pub dependencies: Vec<SmolStr>,
    /// It needs what it needed before, whatever that is.
    pub keeps: bool,
    /// What is wrong with how it was given: it is refused with this, and with what the rules add.
    pub faults: Vec<Violation>,
}

/// A list to be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Kinds of programs, made or changed first.
    pub types: Vec<ServiceTypeDraft>,
    /// Applications, in whatever order.
    pub applications: Vec<Listed>,
}

/// What a list is judged by beside the catalog.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// So many more applications may be made.
    pub applications: u64,
    /// So many more services may become known, of so many in all.
    pub services: (u64, u64),
    /// Whether a service is known without them.
    pub knows: &'a dyn Fn(&str) -> bool,
    /// Whether anybody still waits for the answer.
    pub is_awaited: &'a dyn Fn() -> bool,
}

/// An application that is to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// As it is to be.
    pub application: Application,
    /// Whether it is not there yet.
    pub is_new: bool,
}

/// What a list comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportPlan {
    /// Kinds of programs that are new or change.
    pub types: Vec<ServiceTypeDraft>,
    /// Applications that are new or change, whole, each after those that it needs.
    pub applications: Vec<Planned>,
    /// Those that are not taken.
    pub refused: Refusals,
}

impl ImportPlan {
    /// The applications in pieces, each small enough for a turn; the types go with the first.
    #[must_use]
    pub fn pieces(&self) -> Vec<&[Planned]> {
        let (mut pieces, mut rest) = (Vec::new(), self.applications.as_slice());
        while !rest.is_empty() {
            let mut weight = 0;
            let fits = |Planned { application, .. }: &&Planned| {
                weight += application.ports.len() + application.dependencies.len() + 1;
                weight <= PIECE_WEIGHT_MAX
            };
            let count = rest.iter().take(PIECE_APPLICATIONS_MAX).take_while(fits).count().max(1);
            let (piece, after) = rest.split_at(count);
            pieces.push(piece);
            rest = after;
        }
        if pieces.is_empty() && !self.types.is_empty() {
            pieces.push(rest);
        }
        pieces
    }
}

impl Catalog {
    /// What a list comes to here; none: nobody waits for it any more.
    #[must_use]
    pub fn plan(&self, rules: &PortRules, list: &List, around: Around<'_>) -> Option<ImportPlan> {
        let mut planning = Planning::new(self, rules, list, around);
        planning.take_types();
        planning.refuse_repeated();
        // What is needed comes first; what the list says goes before what is there.
        let starts = list.applications.iter().map(|listed| listed.id.as_str());
        let neighbours = |id: &str| match planning.places.get(id) {
            Some(place) if !list.applications[*place].keeps => list.applications[*place].dependencies.as_slice(),
            _ => self.dependencies.of(id),
        };
        for group in groups(starts, neighbours) {
            let circle: HashSet<&str> = if group.len() > 1 { group.iter().copied().collect() } else { HashSet::new() };
            for id in group {
                if !(around.is_awaited)() {
                    return None;
                }
                if let Some(place) = planning.places.get(id).copied() {
                    planning.take(place, &circle);
                }
            }
        }
        Some(planning.plan)
    }

    /// What an application of a plan comes to by now; none: what others did in the meantime does not go with it.
    /// `untouched` says that they did nothing. Without a look at the graph: what is new closes no cycle.
    #[must_use]
    pub fn retake(&self, application: &Application, untouched: bool) -> Option<Drafted<Application>> {
        let current = self.applications.get(&application.id);
        if let Some(current) = current.filter(|current| ***current == *application) {
            return Some(Drafted::Same(Arc::clone(current)));
        }
        let keeps_all = current.is_none_or(|current| {
            current.ports.iter().all(|port| application.ports.contains(port))
                && (untouched || current.dependencies == application.dependencies)
        });
        let is_free = |port: &Port| {
            self.types.contains_key(&port.service)
                && self.ports.owner(port.external).is_none_or(|owner| *owner == application.id)
        };
        let is_there = |needed: &SmolStr| self.applications.contains_key(needed);
        let fits = keeps_all && application.ports.iter().all(is_free) && application.dependencies.iter().all(is_there);
        fits.then(|| Drafted::New(application.clone()))
    }
}

/// A list, and how far it is judged.
struct Planning<'a> {
    rules: &'a PortRules,
    list: &'a List,
    /// The catalog as it is.
    before: &'a Catalog,
    /// The catalog with what was taken so far.
    work: Catalog,
    /// The ports in use, with all that the list names.
    claims: Ports,
    /// The blocks of families that were looked for.
    families: HashMap<&'a str, BTreeSet<u16>>,
    /// Up to which of them there is no port for programs of an offset: ports are only ever taken here.
    known: HashMap<(&'a str, Option<u16>), u16>,
    /// Where an id stands in the list, the first time.
    places: HashMap<&'a str, usize>,
    around: Around<'a>,
    /// One was refused that is there, and needs what it needed before: the order was made for what the list says. These
    /// may be in a circle now.
    tangled: Option<HashSet<SmolStr>>,
    /// How much may still be looked at for such circles.
    steps: usize,
    plan: ImportPlan,
}

impl<'a> Planning<'a> {
    fn new(catalog: &'a Catalog, rules: &'a PortRules, list: &'a List, around: Around<'a>) -> Self {
        let mut planning = Self {
            rules,
            list,
            before: catalog,
            work: catalog.clone(),
            claims: catalog.ports.clone(),
            families: HashMap::new(),
            known: HashMap::new(),
            places: HashMap::new(),
            around,
            tangled: None,
            steps: STEPS_MAX,
            plan: ImportPlan::default(),
        };
        for (place, listed) in list.applications.iter().enumerate() {
            planning.places.entry(&listed.id).or_insert(place);
            for port in listed.ports.iter().filter_map(|port| u16::try_from(port.external?).ok()) {
                if planning.claims.owner(port).is_none() {
                    planning.claims.take(&listed.id, port);
                }
            }
        }
        planning
    }

    fn take_types(&mut self) {
        for (place, draft) in self.list.types.iter().enumerate() {
            match self.work.put_type_draft(self.rules, draft) {
                Ok(Drafted::Same(_)) => {}
                Ok(Drafted::New(made)) => {
                    self.work.put_type(made.into());
                    self.plan.types.push(draft.clone());
                }
                Err(Refusal::Invalid(violations)) => self.refuse((false, place), &draft.id, violations),
                Err(Refusal::Exists(violation)) => self.refuse((false, place), &draft.id, vec![violation]),
                // No change of a type is refused otherwise.
                Err(Refusal::NotFound | Refusal::InUse(..) | Refusal::Full(_)) => {}
            }
        }
    }

    fn refuse_repeated(&mut self) {
        for (place, listed) in self.list.applications.iter().enumerate() {
            if self.places.get(listed.id.as_str()) != Some(&place) {
                let sentence = format!("Application[{}] is in the list more than once", listed.id);
                self.refuse((true, place), &listed.id, vec![draft::violation("id", sentence)]);
            }
        }
    }

    fn refuse(&mut self, (of_applications, place): (bool, usize), id: &str, violations: Vec<Violation>) {
        self.plan.refused.add(of_applications, place, id, violations);
    }

    /// Takes an entry whose dependencies were looked at before, but for those in a circle with it.
    fn take(&mut self, place: usize, circle: &HashSet<&'a str>) {
        let listed = &self.list.applications[place];
        let mut violations = listed.faults.clone();
        let current = self.work.applications.get(&listed.id).cloned();
        if current.is_none() {
            self.check_new(listed, &mut violations);
        }
        let ports = self.ports(listed, current.as_deref(), &mut violations);
        let dependencies = match &current {
            Some(current) if listed.keeps => Arc::clone(&current.dependencies),
            _ => self.dependencies(listed, circle, &mut violations).into(),
        };
        let ports = if violations.is_empty() { self.give_out(listed, ports, &mut violations) } else { Vec::new() };
        if !violations.is_empty() {
            if current.is_some() && self.tangled.is_none() {
                self.tangled = Some(self.tangled());
            }
            return self.refuse((true, place), &listed.id, violations);
        }
        let held = current.iter().flat_map(|current| current.ports.iter().cloned());
        let is_new = |port: &Port| current.as_ref().is_none_or(|current| current.port(&port.service).is_none());
        let ports = held.chain(ports.into_iter().filter(is_new)).collect();
        let application = Application { id: listed.id.clone(), ports, dependencies };
        if current.as_deref() != Some(&application) {
            let is_new = current.is_none();
            self.around.applications -= u64::from(is_new);
            self.around.services.0 -= u64::from(is_new && !(self.around.knows)(&listed.id));
            self.work.put_application(application.clone().into());
            self.plan.applications.push(Planned { application, is_new });
        }
    }

    fn check_new(&self, listed: &Listed, violations: &mut Vec<Violation>) {
        if let Some(fault) = key::fault(&listed.id, key::APPLICATION_CHARACTERS_MIN) {
            violations.push(draft::violation("id", fault));
        }
        let (services, maximum) = self.around.services;
        let mut full = |limit, maximum| {
            let full = Error::Limit { limit, maximum, usage: maximum };
            violations.push(draft::violation("id", full.to_string()));
        };
        if self.around.applications == 0 {
            full("max_applications", super::MAX_APPLICATIONS);
        } else if services == 0 && !(self.around.knows)(&listed.id) {
            full("max_services", maximum);
        }
        if listed.ports.is_empty() {
            violations.push(draft::violation("ports", "Must specify service when creating application"));
        }
    }

    /// Its ports: with the numbers that are known by now.
    fn ports<'l>(
        &self,
        listed: &'l Listed,
        current: Option<&Application>,
        violations: &mut Vec<Violation>,
    ) -> Vec<(&'l ListedPort, Option<u16>, Option<u16>)> {
        let (mut services, mut externals, mut ports) = (HashSet::new(), HashSet::new(), Vec::new());
        for (place, port) in listed.ports.iter().enumerate() {
            let field = |name: &str| format!("ports[{place}].{name}");
            if !self.work.types.contains_key(&port.service) {
                violations.push(draft::violation(field("service"), "Service not found"));
            } else if !services.insert(&port.service) {
                let sentence = format!("Service[{}] is in the application more than once", port.service);
                violations.push(draft::violation(field("service"), sentence));
            }
            let held = current.and_then(|current| current.port(&port.service));
            let given =
                port.external.and_then(|given| draft::port(&field("external"), "External port", given, violations));
            let internal = draft::internal(&field("internal"), port.internal, violations);
            let moved = |label: &str, held: u16, given: Option<u16>| {
                let is_other = given.is_some_and(|given| given != held);
                is_other.then(|| format!("{label} port of {} is {held} and does not change", port.service))
            };
            if let Some(held) = held {
                for (name, fault) in [
                    ("external", moved("External", held.external, given)),
                    ("internal", moved("Internal", held.internal, internal)),
                ] {
                    violations.extend(fault.map(|fault| draft::violation(field(name), fault)));
                }
            } else if let Some(external) = given {
                let owner = self.work.ports.owner(external).cloned();
                let owner = owner.or_else(|| externals.contains(&external).then(|| listed.id.clone()));
                if let Some(owner) = owner {
                    let sentence = format!("External port {external} is already assigned to the application {owner}");
                    violations.push(draft::violation(field("external"), sentence));
                }
                externals.insert(external);
            }
            ports.push((port, held.map(|held| held.external).or(given), held.map(|held| held.internal).or(internal)));
        }
        ports
    }

    /// Its ports with a number each: what the list leaves open is given out beside what it names.
    fn give_out(
        &mut self,
        listed: &'a Listed,
        ports: Vec<(&ListedPort, Option<u16>, Option<u16>)>,
        violations: &mut Vec<Violation>,
    ) -> Vec<Port> {
        let mut given = Vec::new();
        for (place, (port, external, internal)) in ports.into_iter().enumerate() {
            let Some(service) = self.work.types.get(&port.service).cloned() else { continue };
            let external = match external {
                Some(external) => Ok(external),
                None => self.next(&listed.id, service.offset),
            };
            match external {
                Ok(external) => {
                    self.claim(&listed.id, external);
                    let internal = internal.unwrap_or(service.default_port);
                    given.push(Port { service: service.id.clone(), external, internal });
                }
                Err(full) => {
                    let (maximum, usage) = (full.ceiling.into(), full.highest.unwrap_or(0).into());
                    let full = Error::Limit { limit: "catalog_ceiling", maximum, usage };
                    violations.push(draft::violation(format!("ports[{place}].external"), full.to_string()));
                }
            }
        }
        given
    }

    /// The next port by the rules, beside all that the list names. A family's blocks are looked up once.
    fn next(&mut self, id: &'a str, offset: Option<u16>) -> Result<u16, Full> {
        let family = family(id);
        let blocks = self.families.entry(family).or_insert_with(|| self.claims.blocks(self.rules, id));
        let known = self.known.entry((family, offset)).or_default();
        let next = self.claims.next_among(self.rules, offset, blocks.range(*known..).copied())?;
        *known = self.rules.block_of(next);
        Ok(next)
    }

    fn claim(&mut self, id: &SmolStr, port: u16) {
        self.claims.take(id, port);
        let families = id.match_indices('-').map(|(at, _)| &id[..at]).chain([id.as_str()]);
        for family in families {
            if let Some(blocks) = self.families.get_mut(family) {
                blocks.insert(self.rules.block_of(port));
            }
        }
    }

    /// Those that may be in a circle, whichever entries are refused: each may need what it needs now, and what the list
    /// says.
    fn tangled(&self) -> HashSet<SmolStr> {
        let both = |listed: &Listed| {
            let now = self.before.dependencies.of(&listed.id);
            let differs = !listed.keeps && !now.is_empty() && *now != *listed.dependencies;
            differs.then(|| (listed.id.clone(), [now, &listed.dependencies].concat()))
        };
        let both: HashMap<SmolStr, Vec<SmolStr>> = self.list.applications.iter().filter_map(both).collect();
        let neighbours = |id: &str| match (both.get(id), self.places.get(id)) {
            (Some(both), _) => both.as_slice(),
            (None, Some(place)) if !self.list.applications[*place].keeps => {
                self.list.applications[*place].dependencies.as_slice()
            }
            (None, _) => self.before.dependencies.of(id),
        };
        let starts = self.list.applications.iter().map(|listed| listed.id.as_str());
        let circles = groups(starts, neighbours).into_iter().filter(|group| group.len() > 1);
        circles.flatten().map(SmolStr::new).collect()
    }

    /// Those that it must not need beside entries that were refused.
    fn circular_otherwise(&mut self, listed: &'a Listed, violations: &mut Vec<Violation>) -> HashSet<&'a str> {
        if !self.tangled.as_ref().is_some_and(|tangled| tangled.contains(&listed.id)) {
            return HashSet::new();
        }
        match self.work.dependencies.circular_within(&listed.id, &listed.dependencies, &mut self.steps) {
            Some(circular) => circular.into_iter().map(SmolStr::as_str).collect(),
            None => {
                let sentence = "cannot be judged beside all that is refused: put that right first";
                violations.push(draft::violation("dependencies", sentence));
                HashSet::new()
            }
        }
    }

    /// What it needs, each once.
    fn dependencies(
        &mut self,
        listed: &'a Listed,
        circle: &HashSet<&'a str>,
        violations: &mut Vec<Violation>,
    ) -> Vec<SmolStr> {
        let (mut seen, mut wanted) = (HashSet::new(), Vec::new());
        let otherwise = self.circular_otherwise(listed, violations);
        for (place, dependency) in listed.dependencies.iter().enumerate() {
            if !seen.insert(dependency) {
                continue;
            }
            wanted.push(dependency.clone());
            let fault = if *dependency == listed.id {
                draft::on_self(dependency)
            } else if circle.contains(dependency.as_str()) || otherwise.contains(dependency.as_str()) {
                draft::circular(&listed.id, dependency)
            } else if !self.work.applications.contains_key(dependency) {
                draft::not_there(dependency)
            } else {
                continue;
            };
            violations.push(draft::violation(format!("dependencies[{place}]"), fault));
        }
        if wanted.len() > MAX_DEPENDENCIES {
            violations.push(draft::violation("dependencies", draft::too_many(wanted.len())));
        }
        wanted
    }
}
