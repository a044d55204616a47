//! What can be asked of backends and frontends, read once into types that cannot be wrong, with all violations.

use prost_types::{Struct, Timestamp};
use smol_str::SmolStr;

use super::{MAX_SPLIT_WEIGHT, MAX_SPLITS, fields};
use crate::registry::{
    Principal, Violation,
    key::Revision,
    name::{DEFAULT_NAMESPACE, check_name, check_new_namespace},
};

/// Longest version, in bytes: that of an instance.
const VERSION_BYTES_MAX: usize = 128;

/// A change of the deployments of one namespace that somebody wants.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// In which namespace.
    pub namespace: SmolStr,
    /// What.
    pub action: Action,
    /// For whom.
    pub principal: Principal,
    /// The wall clock.
    pub at: Timestamp,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub enum Action {
    /// A backend that is not there yet.
    CreateBackend(BackendDraft),
    /// Other words of a backend; frontends follow.
    UpdateBackend(BackendPatch),
    /// A backend less that no frontend names.
    DeleteBackend {
        /// Which.
        name: SmolStr,
        /// Only if it is of this revision; 0 is any.
        expected: Revision,
    },
    /// A frontend that is not there yet.
    CreateFrontend(FrontendDraft),
    /// Other words of a frontend.
    UpdateFrontend(FrontendPatch),
    /// A frontend less.
    DeleteFrontend {
        /// Which.
        name: SmolStr,
        /// Only if it is of this revision; 0 is any.
        expected: Revision,
    },
    /// A frontend that points elsewhere.
    Switch {
        /// Which.
        name: SmolStr,
        /// Where to.
        targets: Vec<Target>,
        /// Only if it is of this revision; 0 is any.
        expected: Revision,
    },
    /// A frontend that points where it did before.
    Back {
        /// Which.
        name: SmolStr,
        /// Where it came to point at this revision; 0 is the last place that is another than now.
        to: Revision,
        /// Only if it is of this revision; 0 is any.
        expected: Revision,
    },
}

/// A new backend.
#[derive(Clone, Debug)]
pub struct BackendDraft {
    /// Its name.
    pub name: SmolStr,
    /// The service.
    pub service: SmolStr,
    /// Its version.
    pub version: SmolStr,
    /// Whatever else is to be kept.
    pub fields: Struct,
}

/// What is to be other in a backend.
#[derive(Clone, Debug)]
pub struct BackendPatch {
    /// Which.
    pub name: SmolStr,
    /// The service, if another.
    pub service: Option<SmolStr>,
    /// The version, if another.
    pub version: Option<SmolStr>,
    /// Fields to merge.
    pub fields: Option<Struct>,
    /// Only if it is of this revision; 0 is any.
    pub expected: Revision,
}

/// A new frontend.
#[derive(Clone, Debug)]
pub struct FrontendDraft {
    /// Its name.
    pub name: SmolStr,
    /// Where it points.
    pub targets: Vec<Target>,
    /// Whatever else is to be kept.
    pub fields: Struct,
}

/// What is to be other in a frontend.
#[derive(Clone, Debug)]
pub struct FrontendPatch {
    /// Which.
    pub name: SmolStr,
    /// Where it points, if elsewhere.
    pub targets: Option<Vec<Target>>,
    /// Fields to merge.
    pub fields: Option<Struct>,
    /// Only if it is of this revision; 0 is any.
    pub expected: Revision,
}

/// A share of a frontend's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The backend.
    pub backend: SmolStr,
    /// Its weight.
    pub weight: u32,
}

/// A share as a request has it.
#[derive(Clone, Debug)]
pub struct TargetText {
    /// The backend.
    pub backend: String,
    /// Its weight; left out: 1.
    pub weight: Option<u32>,
}

fn violation(field: impl Into<String>, description: impl Into<String>) -> Violation {
    Violation { field: field.into(), description: description.into() }
}

/// The namespace that a request names.
fn namespace_of(given: &str, violations: &mut Vec<Violation>) -> SmolStr {
    let namespace = if given.is_empty() { DEFAULT_NAMESPACE } else { given };
    check_new_namespace("namespace", namespace, violations);
    namespace.into()
}

fn name_of(field: &str, given: &str, missing: &str, violations: &mut Vec<Violation>) -> SmolStr {
    if given.is_empty() {
        violations.push(violation(field, missing));
    } else {
        check_name(field, given, violations);
    }
    given.into()
}

fn backend_name(given: &str, violations: &mut Vec<Violation>) -> SmolStr {
    name_of("name", given, "Backend name is required", violations)
}

fn frontend_name(field: &str, given: &str, violations: &mut Vec<Violation>) -> SmolStr {
    name_of(field, given, "Frontend name is required", violations)
}

/// Service and version of a backend, as far as they are given.
fn application(service: Option<&str>, version: Option<&str>, violations: &mut Vec<Violation>) {
    for (field, given) in [("service", service), ("version", version)] {
        match given {
            Some("") => violations.push(violation(field, "Application name and version are required")),
            Some(given) if field == "service" => check_name(field, given, violations),
            Some(given) if given.len() > VERSION_BYTES_MAX => {
                let sentence = format!("must be at most {VERSION_BYTES_MAX} bytes, not {}", given.len());
                violations.push(violation(field, sentence));
            }
            _ => {}
        }
    }
}

/// Splits as a request has them, each backend once.
fn targets_of(given: &[TargetText], violations: &mut Vec<Violation>) -> Vec<Target> {
    if given.is_empty() {
        violations.push(violation("splits", "at least one backend is required"));
        return Vec::new();
    }
    if given.len() > MAX_SPLITS {
        violations.push(violation("splits", format!("must be at most {MAX_SPLITS}, not {}", given.len())));
        return Vec::new();
    }
    let mut targets: Vec<Target> = Vec::with_capacity(given.len());
    for (place, TargetText { backend, weight }) in given.iter().enumerate() {
        let (field, weight) = (format!("splits[{place}].backend"), weight.unwrap_or(1));
        if targets.iter().any(|target| target.backend == *backend && !backend.is_empty()) {
            violations.push(violation(&field, "must not be named twice"));
        }
        if weight > MAX_SPLIT_WEIGHT {
            let sentence = format!("must be 0 to {MAX_SPLIT_WEIGHT}, not {weight}");
            violations.push(violation(format!("splits[{place}].weight"), sentence));
        }
        targets.push(Target { backend: name_of(&field, backend, "Backend name is required", violations), weight });
    }
    if targets.iter().all(|target| target.weight == 0) {
        violations.push(violation("splits", "must not all have weight 0"));
    }
    targets
}

/// Where the backends are looked for, so that a request that is refused anyway is told of those that are missing, too.
pub type Exists<'a> = &'a dyn Fn(&str, &str) -> bool;

fn checked<T>(draft: T, violations: Vec<Violation>) -> Result<T, Vec<Violation>> {
    if violations.is_empty() { Ok(draft) } else { Err(violations) }
}

fn with_missing(namespace: &str, targets: &[Target], exists: Exists<'_>, violations: &mut Vec<Violation>) {
    if violations.is_empty() {
        return;
    }
    for (place, target) in targets.iter().enumerate() {
        if !target.backend.is_empty() && !exists(namespace, &target.backend) {
            violations.push(missing(place));
        }
    }
}

/// A split names a backend that is not there.
pub(super) fn missing(place: usize) -> Violation {
    violation(format!("splits[{place}].backend"), "Backend not found")
}

type Read = Result<(SmolStr, Action), Vec<Violation>>;

fn backends(targets: &[Target]) -> Vec<&SmolStr> {
    targets.iter().map(|target| &target.backend).collect()
}

impl Action {
    /// The name of what it changes.
    #[must_use]
    pub fn subject(&self) -> &SmolStr {
        match self {
            Self::CreateBackend(BackendDraft { name, .. })
            | Self::UpdateBackend(BackendPatch { name, .. })
            | Self::CreateFrontend(FrontendDraft { name, .. })
            | Self::UpdateFrontend(FrontendPatch { name, .. })
            | Self::DeleteBackend { name, .. }
            | Self::DeleteFrontend { name, .. }
            | Self::Switch { name, .. }
            | Self::Back { name, .. } => name,
        }
    }

    /// The services and backends that can be seen through what it changes.
    #[must_use]
    pub fn shows(&self) -> Vec<&SmolStr> {
        match self {
            Self::CreateBackend(draft) => vec![&draft.service],
            Self::UpdateBackend(patch) => patch.service.iter().collect(),
            Self::CreateFrontend(draft) => backends(&draft.targets),
            Self::UpdateFrontend(patch) => patch.targets.as_deref().map(backends).unwrap_or_default(),
            Self::Switch { targets, .. } => backends(targets),
            Self::DeleteBackend { .. } | Self::DeleteFrontend { .. } | Self::Back { .. } => Vec::new(),
        }
    }

    /// The backends that it names as places to be seen.
    #[must_use]
    pub fn named_backends(&self) -> Vec<&SmolStr> {
        match self {
            Self::CreateFrontend(_) | Self::UpdateFrontend(_) | Self::Switch { .. } => self.shows(),
            // Another version of the same service.
            Self::UpdateBackend(patch) => vec![&patch.name],
            Self::CreateBackend(_) | Self::DeleteBackend { .. } | Self::DeleteFrontend { .. } | Self::Back { .. } => {
                Vec::new()
            }
        }
    }

    /// A new backend.
    ///
    /// # Errors
    /// All violations; so in all of these.
    pub fn create_backend(
        namespace: &str,
        name: &str,
        (service, version): (&str, &str),
        given: Option<Struct>,
    ) -> Read {
        let mut violations = Vec::new();
        let namespace = namespace_of(namespace, &mut violations);
        let name = backend_name(name, &mut violations);
        application(Some(service), Some(version), &mut violations);
        let fields = fields::check(given, &mut violations).unwrap_or_default();
        let draft = BackendDraft { name, service: service.into(), version: version.into(), fields };
        checked((namespace, Self::CreateBackend(draft)), violations)
    }

    /// Other words of a backend.
    ///
    /// # Errors
    /// All violations.
    pub fn update_backend(
        namespace: &str,
        name: &str,
        (service, version): (Option<&str>, Option<&str>),
        given: Option<Struct>,
        expected: Revision,
    ) -> Read {
        let mut violations = Vec::new();
        let namespace = namespace_of(namespace, &mut violations);
        let name = backend_name(name, &mut violations);
        application(service, version, &mut violations);
        let fields = fields::check(given, &mut violations);
        let (service, version) = (service.map(Into::into), version.map(Into::into));
        let patch = BackendPatch { name, service, version, fields, expected };
        checked((namespace, Self::UpdateBackend(patch)), violations)
    }

    /// A backend less.
    ///
    /// # Errors
    /// All violations.
    pub fn delete_backend(namespace: &str, name: &str, expected: Revision) -> Read {
        let mut violations = Vec::new();
        let namespace = namespace_of(namespace, &mut violations);
        let name = backend_name(name, &mut violations);
        checked((namespace, Self::DeleteBackend { name, expected }), violations)
    }

    /// A new frontend.
    ///
    /// # Errors
    /// All violations.
    pub fn create_frontend(
        namespace: &str,
        name: &str,
        splits: &[TargetText],
        given: Option<Struct>,
        exists: Exists<'_>,
    ) -> Read {
        let mut violations = Vec::new();
        let namespace = namespace_of(namespace, &mut violations);
        let name = frontend_name("name", name, &mut violations);
        let targets = targets_of(splits, &mut violations);
        let fields = fields::check(given, &mut violations).unwrap_or_default();
        with_missing(&namespace, &targets, exists, &mut violations);
        checked((namespace, Self::CreateFrontend(FrontendDraft { name, targets, fields })), violations)
    }

    /// Other words of a frontend; without splits it points where it did.
    ///
    /// # Errors
    /// All violations.
    pub fn update_frontend(
        namespace: &str,
        name: &str,
        splits: &[TargetText],
        given: Option<Struct>,
        expected: Revision,
        exists: Exists<'_>,
    ) -> Read {
        let mut violations = Vec::new();
        let namespace = namespace_of(namespace, &mut violations);
        let name = frontend_name("name", name, &mut violations);
        let targets = (!splits.is_empty()).then(|| targets_of(splits, &mut violations));
        let fields = fields::check(given, &mut violations);
        with_missing(&namespace, targets.as_deref().unwrap_or_default(), exists, &mut violations);
        checked((namespace, Self::UpdateFrontend(FrontendPatch { name, targets, fields, expected })), violations)
    }

    /// A frontend less.
    ///
    /// # Errors
    /// All violations.
    pub fn delete_frontend(namespace: &str, name: &str, expected: Revision) -> Read {
        let mut violations = Vec::new();
        let namespace = namespace_of(namespace, &mut violations);
        let name = frontend_name("name", name, &mut violations);
        checked((namespace, Self::DeleteFrontend { name, expected }), violations)
    }

    /// A frontend that points elsewhere: `to` one backend, or to several by weight.
    ///
    /// # Errors
    /// All violations.
    pub fn switch(
        namespace: &str,
        frontend: &str,
        (to, splits): (&str, &[TargetText]),
        expected: Revision,
        exists: Exists<'_>,
    ) -> Read {
        let mut violations = Vec::new();
        let namespace = namespace_of(namespace, &mut violations);
        let name = frontend_name("frontend", frontend, &mut violations);
        let only = [TargetText { backend: to.to_owned(), weight: None }];
        let targets = match (to.is_empty(), splits.is_empty()) {
            (false, true) => targets_of(&only, &mut violations),
            (true, _) => targets_of(splits, &mut violations),
            (false, false) => {
                violations.push(violation("to", "must not be given together with splits"));
                targets_of(splits, &mut violations)
            }
        };
        with_missing(&namespace, &targets, exists, &mut violations);
        checked((namespace, Self::Switch { name, targets, expected }), violations)
    }

    /// A frontend that points where it did before.
    ///
    /// # Errors
    /// All violations.
    pub fn back(namespace: &str, frontend: &str, to: Revision, expected: Revision) -> Read {
        let mut violations = Vec::new();
        let namespace = namespace_of(namespace, &mut violations);
        let name = frontend_name("frontend", frontend, &mut violations);
        checked((namespace, Self::Back { name, to, expected }), violations)
    }
}
