//! What is wanted of the catalog, against what is there: what it comes to, or everything that is wrong with it. Changes
//! nothing.

use std::{collections::HashSet, sync::Arc};

use smol_str::SmolStr;

use super::{Application, Catalog, Full, Port, PortRules, ServiceType, key};
use crate::registry::Violation;

/// Most dependencies of an application.
pub const MAX_DEPENDENCIES: usize = 1_000;
/// How many of those who need what is to go are named.
const USERS_TOLD: usize = 100;
/// Ports up to this one are the system's.
const SYSTEM_PORT_MAX: i64 = 1024;

/// An application as wanted: numbers as they were given, for a sentence about those that are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplicationDraft {
    /// Its id.
    pub id: String,
    /// The kind of program that it gets a port for.
    pub service: Option<String>,
    /// The external port, if not whichever is next.
    pub external: Option<i64>,
    /// The internal port, if not the kind's.
    pub internal: Option<i64>,
    /// What it needs; none: what it needed before.
    pub dependencies: Option<Vec<String>>,
    /// The kinds of programs that it is to have no port for any more.
    pub without: Vec<String>,
    /// What is wrong with how it was asked for: it is refused with this, and with what the rules add.
    pub faults: Vec<Violation>,
}

/// A service type as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTypeDraft {
    /// Its id.
    pub id: String,
    /// The port that such programs listen on.
    pub default_port: Option<i64>,
    /// Its place in a block.
    pub offset: Option<i64>,
    /// What is wrong with how it was asked for, as an application's.
    pub faults: Vec<Violation>,
}

/// What a draft comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drafted<T> {
    /// It is so already.
    Same(Arc<T>),
    /// To be held from now on.
    New(T),
}

/// Why it cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Fields that break a rule, all of them.
    Invalid(Vec<Violation>),
    /// The id is taken, and nothing else is wrong.
    Exists(Violation),
    /// Nothing has this id.
    NotFound,
    /// What is to go is needed by these.
    InUse(String, Vec<SmolStr>),
    /// There is no port left.
    Full(Full),
}

pub(super) fn violation(field: impl Into<String>, description: impl Into<String>) -> Violation {
    Violation { field: field.into(), description: description.into() }
}

/// A violation if the port is none that programs of users may have.
pub(super) fn port(field: &str, label: &str, given: i64, violations: &mut Vec<Violation>) -> Option<u16> {
    if given <= SYSTEM_PORT_MAX {
        violations.push(violation(field, format!("{label} must be > {SYSTEM_PORT_MAX}")));
        return None;
    }
    let port = u16::try_from(given).ok();
    if port.is_none() {
        violations.push(violation(field, format!("{label} must be <= {}", u16::MAX)));
    }
    port
}

/// A violation if the port is none that a program may listen on.
pub(super) fn internal(field: &str, given: Option<i64>, violations: &mut Vec<Violation>) -> Option<u16> {
    let given = given?;
    let port = u16::try_from(given).ok().filter(|port| *port != 0);
    if port.is_none() {
        let bound = if given <= 0 { "> 0".to_owned() } else { format!("<= {}", u16::MAX) };
        violations.push(violation(field, format!("Internal port must be {bound}")));
    }
    port
}

/// The refusal that violations are; being there already is one only if nothing else is wrong.
fn refused(exists: bool, mut violations: Vec<Violation>) -> Result<(), Refusal> {
    match (violations.len(), exists) {
        (0, _) => Ok(()),
        (1, true) => Err(Refusal::Exists(violations.remove(0))),
        _ => Err(Refusal::Invalid(violations)),
    }
}

impl Catalog {
    /// A new application.
    ///
    /// # Errors
    /// Everything that is wrong with it, or there is no port left.
    pub fn create(&self, rules: &PortRules, draft: &ApplicationDraft) -> Result<Application, Refusal> {
        let mut violations = draft.faults.clone();
        let exists = self.applications.contains_key(draft.id.as_str());
        if exists {
            violations.push(violation("id", "Application with this id already exists"));
        } else if let Some(fault) = key::fault(&draft.id, key::APPLICATION_CHARACTERS_MIN) {
            violations.push(violation("id", fault));
        }
        if draft.service.is_none() {
            violations.push(violation("service", "Must specify service when creating application"));
        }
        let service = self.wanted_service(draft, &mut violations);
        let dependencies = self.wanted_dependencies(draft, &mut violations).unwrap_or_default();
        let (external, internal) = self.wanted_ports(draft, &mut violations);
        self.kept_ports(draft, &[], &mut violations);
        refused(exists, violations)?;
        let id = SmolStr::new(&draft.id);
        let port = service.map(|service| self.port(rules, &id, service, external, internal)).transpose()?;
        Ok(Application { id, ports: port.into_iter().collect(), dependencies: dependencies.into() })
    }

    /// An application, new or not. A kind that it has a port for changes nothing, another gets a port beside.
    ///
    /// # Errors
    /// Everything that is wrong with it, or there is no port left.
    pub fn put(&self, rules: &PortRules, draft: &ApplicationDraft) -> Result<Drafted<Application>, Refusal> {
        let Some(current) = self.applications.get(draft.id.as_str()) else {
            return self.create(rules, draft).map(Drafted::New);
        };
        let mut violations = draft.faults.clone();
        let service = self.wanted_service(draft, &mut violations);
        if draft.service.is_none() && (draft.external.is_some() || draft.internal.is_some()) {
            violations.push(violation("service", "Must specify service when giving ports"));
        }
        let dependencies = self.wanted_dependencies(draft, &mut violations);
        let (external, internal) = self.wanted_ports(draft, &mut violations);
        let kept = self.kept_ports(draft, &current.ports, &mut violations);
        refused(false, violations)?;
        let mut wanted = Application { ports: kept, ..Application::clone(current) };
        if let Some(dependencies) = dependencies {
            wanted.dependencies = dependencies.into();
        }
        if let Some(service) = service.filter(|service| current.port(&service.id).is_none()) {
            let port = self.port(rules, &current.id, service, external, internal)?;
            wanted.ports = wanted.ports.into_iter().chain([port]).collect();
        }
        Ok(drafted(current, wanted))
    }

    /// An application that needs another one too.
    ///
    /// # Errors
    /// There is no such application, or it cannot need that one.
    pub fn depend(&self, id: &str, dependency: &str) -> Result<Drafted<Application>, Refusal> {
        let current = self.applications.get(id).ok_or(Refusal::NotFound)?;
        if current.dependencies.iter().any(|held| held == dependency) {
            return Ok(Drafted::Same(Arc::clone(current)));
        }
        let mut violations = Vec::new();
        if !self.applications.contains_key(dependency) {
            violations.push(violation("dependency", not_found(dependency)));
        } else if dependency == id {
            violations.push(violation("dependency", on_self(dependency)));
        } else if !self.dependencies.circular(id, &[dependency.into()]).is_empty() {
            violations.push(violation("dependency", circular(id, dependency)));
        } else if current.dependencies.len() >= MAX_DEPENDENCIES {
            violations.push(violation("dependency", too_many(current.dependencies.len() + 1)));
        }
        refused(false, violations)?;
        let dependencies = current.dependencies.iter().cloned().chain([dependency.into()]).collect();
        Ok(Drafted::New(Application { dependencies, ..Application::clone(current) }))
    }

    /// An application that does not need another one any more.
    ///
    /// # Errors
    /// One of the two is not there.
    pub fn undepend(&self, id: &str, dependency: &str) -> Result<Drafted<Application>, Refusal> {
        let current = self.applications.get(id).ok_or(Refusal::NotFound)?;
        if !self.applications.contains_key(dependency) {
            return Err(Refusal::Invalid(vec![violation("dependency", not_found(dependency))]));
        }
        let dependencies = current.dependencies.iter().filter(|held| *held != dependency).cloned().collect();
        Ok(drafted(current, Application { dependencies, ..Application::clone(current) }))
    }

    /// An application that may go.
    ///
    /// # Errors
    /// It is not there, or others need it.
    pub fn expendable(&self, id: &str) -> Result<&Arc<Application>, Refusal> {
        let current = self.applications.get(id).ok_or(Refusal::NotFound)?;
        let dependents: Vec<SmolStr> = self.dependencies.on(id).take(USERS_TOLD).cloned().collect();
        if dependents.is_empty() {
            return Ok(current);
        }
        Err(Refusal::InUse("1 or more applications depend on this application".to_owned(), dependents))
    }

    /// A new service type.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn create_type(&self, rules: &PortRules, draft: &ServiceTypeDraft) -> Result<ServiceType, Refusal> {
        let mut violations = draft.faults.clone();
        let exists = self.types.contains_key(draft.id.as_str());
        if exists {
            violations.push(violation("id", "Service with this id already exists"));
        } else if let Some(fault) = key::fault(&draft.id, key::TYPE_CHARACTERS_MIN) {
            violations.push(violation("id", fault));
        }
        let default_port = draft.default_port.unwrap_or(0);
        let default_port = port("default_port", "Default port", default_port, &mut violations).unwrap_or(0);
        let offset = wanted_offset(rules, draft, &mut violations);
        refused(exists, violations)?;
        Ok(ServiceType { id: SmolStr::new(&draft.id), default_port, offset })
    }

    /// A service type, new or not: what is left out stays. Ports that were given out stay too.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn put_type_draft(&self, rules: &PortRules, draft: &ServiceTypeDraft) -> Result<Drafted<ServiceType>, Refusal> {
        let Some(current) = self.types.get(draft.id.as_str()) else {
            return self.create_type(rules, draft).map(Drafted::New);
        };
        let mut violations = draft.faults.clone();
        let given = draft.default_port.and_then(|given| port("default_port", "Default port", given, &mut violations));
        let offset = wanted_offset(rules, draft, &mut violations).or(current.offset);
        refused(false, violations)?;
        let wanted =
            ServiceType { id: current.id.clone(), default_port: given.unwrap_or(current.default_port), offset };
        Ok(drafted(current, wanted))
    }

    /// A service type that may go.
    ///
    /// # Errors
    /// It is not there, or applications have ports of it.
    pub fn expendable_type(&self, id: &str) -> Result<&Arc<ServiceType>, Refusal> {
        let current = self.types.get(id).ok_or(Refusal::NotFound)?;
        if self.users(id) == 0 {
            return Ok(current);
        }
        let users = self.applications.values().filter(|application| application.port(id).is_some());
        let users = users.take(USERS_TOLD).map(|application| application.id.clone()).collect();
        Err(Refusal::InUse("1 or more applications is using this service".to_owned(), users))
    }

    fn wanted_service(&self, draft: &ApplicationDraft, violations: &mut Vec<Violation>) -> Option<&ServiceType> {
        let wanted = draft.service.as_deref()?;
        let found = self.types.get(wanted).map(|found| &**found);
        if found.is_none() {
            violations.push(violation("service", "Service not found"));
        }
        found
    }

    /// The ports that the application does not give up.
    fn kept_ports(&self, draft: &ApplicationDraft, held: &[Port], violations: &mut Vec<Violation>) -> Box<[Port]> {
        for (place, service) in draft.without.iter().enumerate() {
            let field = || format!("without_services[{place}]");
            if !self.types.contains_key(service.as_str()) {
                violations.push(violation(field(), "Service not found"));
            } else if draft.service.as_ref() == Some(service) {
                violations.push(violation(field(), "must not be the service that is given"));
            }
        }
        let is_kept = |port: &&Port| !draft.without.iter().any(|service| *service == port.service);
        let kept: Box<[Port]> = held.iter().filter(is_kept).cloned().collect();
        if kept.is_empty() && !held.is_empty() && draft.service.is_none() {
            violations.push(violation("without_services", "must leave a port"));
        }
        kept
    }

    /// What the application is to need, each once.
    fn wanted_dependencies(&self, draft: &ApplicationDraft, violations: &mut Vec<Violation>) -> Option<Vec<SmolStr>> {
        let given = draft.dependencies.as_ref()?;
        if given.len() > MAX_DEPENDENCIES {
            violations.push(violation("dependencies", too_many(given.len())));
            return None;
        }
        let mut wanted = HashSet::new();
        let distinct: Vec<(usize, SmolStr)> = given
            .iter()
            .enumerate()
            .filter(|(_, dependency)| wanted.insert(dependency.as_str()))
            .map(|(place, dependency)| (place, SmolStr::new(dependency)))
            .collect();
        let ids: Vec<SmolStr> = distinct.iter().map(|(_, dependency)| dependency.clone()).collect();
        let circles = self.dependencies.circular(&draft.id, &ids);
        for (place, dependency) in &distinct {
            let fault = if *dependency == draft.id {
                on_self(dependency)
            } else if !self.applications.contains_key(dependency) {
                not_there(dependency)
            } else if circles.contains(&dependency) {
                circular(&draft.id, dependency)
            } else {
                continue;
            };
            violations.push(violation(format!("dependencies[{place}]"), fault));
        }
        Some(ids)
    }

    fn wanted_ports(&self, draft: &ApplicationDraft, violations: &mut Vec<Violation>) -> (Option<u16>, Option<u16>) {
        let external = draft.external.and_then(|given| port("external", "External port", given, violations));
        if let Some(external) = external
            && let Some(owner) = self.ports.owner(external)
            && !self.has(draft, external)
        {
            let sentence = format!("External port {external} is already assigned to the application {owner}");
            violations.push(violation("external", sentence));
        }
        let internal = internal("internal", draft.internal, violations);
        (external, internal)
    }

    /// Whether the application has this external port already, for the kind that it asks it for.
    fn has(&self, draft: &ApplicationDraft, external: u16) -> bool {
        let current = self.applications.get(draft.id.as_str());
        let held = current.zip(draft.service.as_deref()).and_then(|(current, service)| current.port(service));
        held.is_some_and(|held| held.external == external)
    }

    fn port(
        &self,
        rules: &PortRules,
        id: &str,
        service: &ServiceType,
        external: Option<u16>,
        internal: Option<u16>,
    ) -> Result<Port, Refusal> {
        let external = match external {
            Some(external) => external,
            None => self.ports.next(rules, id, service.offset).map_err(Refusal::Full)?,
        };
        Ok(Port { service: service.id.clone(), external, internal: internal.unwrap_or(service.default_port) })
    }
}

fn wanted_offset(rules: &PortRules, draft: &ServiceTypeDraft, violations: &mut Vec<Violation>) -> Option<u16> {
    let given = draft.offset?;
    let offset = u16::try_from(given).ok().filter(|offset| *offset < rules.block_size);
    if offset.is_none() {
        violations.push(violation("offset", format!("Offset must be >= 0 and < {}", rules.block_size)));
    }
    offset
}

fn drafted<T: PartialEq>(current: &Arc<T>, wanted: T) -> Drafted<T> {
    if **current == wanted { Drafted::Same(Arc::clone(current)) } else { Drafted::New(wanted) }
}

fn not_found(dependency: &str) -> String {
    format!("Application named[{dependency}] not found")
}

pub(super) fn not_there(dependency: &str) -> String {
    format!("Dependency[{dependency}] references a non existing application")
}

pub(super) fn on_self(dependency: &str) -> String {
    format!("Cannot declare dependency[{dependency}] on self")
}

pub(super) fn circular(id: &str, dependency: &str) -> String {
    format!("Application[{id}] Cannot declare a circular dependency on[{dependency}]")
}

pub(super) fn too_many(count: usize) -> String {
    format!("must be at most {MAX_DEPENDENCIES}, not {count}")
}
