//! Requests about the catalog, read into what the registry takes; with all that is wrong with them.

use std::{collections::HashSet, hash::Hash, time::Duration};

use smol_str::SmolStr;
use tonic::Status;

use super::live;
use crate::{
    actor::BY_ID,
    grpc,
    proto::{
        ApplicationState, CatalogKind, CreateApplicationRequest, GetCatalogStatusRequest, ListApplicationsRequest,
        ListCatalogRequest, ListCatalogVersionsRequest, ListPortsRequest, ListServiceTypesRequest,
        PutApplicationRequest, WaitReadyRequest,
    },
    registry::{
        ALL_NAMESPACES, DEFAULT_NAMESPACE, Error, MAX_NAME_BYTES, Violation,
        catalog::{ApplicationDraft, ApplicationQuery, Page, Place, ServiceTypeDraft, Sort, Standing, VersionQuery},
        check_name, check_new_namespace,
    },
};

/// How many entries a page has unless asked otherwise.
const LIMIT: u32 = 25;
/// How many entries a page has at most.
const LIMIT_MAX: u32 = 100;
/// How many applications a page of the whole catalog has at most.
const EXPORT_MAX: u32 = 1_000;
/// How many values a filter of a list has at most.
pub const FILTER_MAX: usize = 100;
/// How many applications a start order is asked for by name at most, and a wait.
pub const START_MAX: usize = 10_000;
/// How long services are waited for by who does not say.
const READY_WAIT: Duration = Duration::from_secs(60);

pub(super) fn checked<T>(value: T, violations: Vec<Violation>) -> Result<T, Status> {
    if violations.is_empty() { Ok(value) } else { Err(Error::Invalid(violations).into()) }
}

fn violation(field: &str, description: impl Into<String>) -> Violation {
    Violation { field: field.to_owned(), description: description.into() }
}

fn or_default(namespace: &str) -> &str {
    if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace }
}

/// The namespace of a change.
pub(super) fn namespace(given: &str) -> Result<SmolStr, Status> {
    let (namespace, mut violations) = (or_default(given), Vec::new());
    check_new_namespace("namespace", namespace, &mut violations);
    checked(namespace.into(), violations)
}

/// The namespace of a read.
pub(super) fn namespace_to_read(given: &str) -> Result<SmolStr, Status> {
    let (namespace, mut violations) = (or_default(given), Vec::new());
    check_one_namespace(namespace, &mut violations);
    checked(namespace.into(), violations)
}

fn check_one_namespace(namespace: &str, violations: &mut Vec<Violation>) {
    if namespace == ALL_NAMESPACES {
        violations.push(violation("namespace", "must be one namespace: only lists of applications are of all"));
    }
    check_name("namespace", namespace, violations);
}

/// The namespace of a change that the rules judge: what is wrong with it is told with what they say.
fn judged_namespace(given: &str, faults: &mut Vec<Violation>) -> SmolStr {
    let namespace = or_default(given);
    check_new_namespace("namespace", namespace, faults);
    namespace.into()
}

pub(super) fn create(request: CreateApplicationRequest) -> (SmolStr, ApplicationDraft) {
    let CreateApplicationRequest { namespace, id, service, external, internal, dependencies } = request;
    let mut faults = Vec::new();
    let namespace = judged_namespace(&namespace, &mut faults);
    let draft = ApplicationDraft {
        id,
        service: (!service.is_empty()).then_some(service),
        external: external.map(Into::into),
        internal: internal.map(Into::into),
        dependencies: Some(dependencies),
        without: Vec::new(),
        faults,
    };
    (namespace, draft)
}

pub(super) fn put(request: PutApplicationRequest) -> (SmolStr, ApplicationDraft) {
    let PutApplicationRequest { namespace, id, service, external, internal, .. } = request;
    let PutApplicationRequest { dependencies, no_dependencies, mut without_services, .. } = request;
    let mut faults = Vec::new();
    let namespace = judged_namespace(&namespace, &mut faults);
    if no_dependencies && !dependencies.is_empty() {
        faults.push(violation("no_dependencies", "must not be given together with dependencies"));
    }
    check_count("without_services", without_services.len(), FILTER_MAX, &mut faults);
    without_services.truncate(FILTER_MAX);
    let given = no_dependencies || !dependencies.is_empty();
    let draft = ApplicationDraft {
        id,
        service: service.filter(|service| !service.is_empty()),
        external: external.map(Into::into),
        internal: internal.map(Into::into),
        dependencies: given.then_some(dependencies),
        without: without_services,
        faults,
    };
    (namespace, draft)
}

/// A service type that is wanted, and in which namespace.
pub(super) fn service_type(
    namespace: &str,
    id: String,
    default_port: Option<i32>,
    offset: Option<i32>,
) -> (SmolStr, ServiceTypeDraft) {
    let mut faults = Vec::new();
    let namespace = judged_namespace(namespace, &mut faults);
    let (default_port, offset) = (default_port.map(Into::into), offset.map(Into::into));
    (namespace, ServiceTypeDraft { id, default_port, offset, faults })
}

fn page(limit: u32, offset: u32, violations: &mut Vec<Violation>) -> Page {
    if limit > LIMIT_MAX {
        violations.push(violation("limit", format!("must be 1 to {LIMIT_MAX}, not {limit}")));
    }
    let limit = if limit == 0 { LIMIT } else { limit };
    Page { limit: limit as usize, offset: offset as usize }
}

/// Order and part of a list.
pub(super) struct Part {
    pub(super) sort: Sort,
    pub(super) page: Page,
    /// Behind which place it begins.
    pub(super) after: Option<Place>,
}

fn part((sort, limit, offset, token): (&str, u32, u32, &str), violations: &mut Vec<Violation>) -> Part {
    let sort = Sort::parse(sort).map_err(|description| violations.push(violation("sort", description))).ok();
    let page = page(limit, offset, violations);
    // Of no order no token can be judged.
    let after = sort.and_then(|sort| after(token, page, |token| Place::of(token, sort), violations));
    Part { sort: sort.unwrap_or_default(), page, after }
}

/// Where a page token says that it goes on.
fn after<P>(
    token: &str,
    page: Page,
    read: impl FnOnce(&str) -> Option<P>,
    violations: &mut Vec<Violation>,
) -> Option<P> {
    if token.is_empty() {
        return None;
    }
    if page.offset > 0 {
        violations.push(violation("page_token", "must not be given together with offset"));
    }
    let after = read(token);
    if after.is_none() {
        violations.push(violation("page_token", "is not one that this server gave for a list in this order"));
    }
    after
}

pub(super) fn check_count(field: &str, count: usize, max: usize, violations: &mut Vec<Violation>) {
    if count > max {
        violations.push(violation(field, format!("must be at most {max}, not {count}")));
    }
}

/// The values of a filter.
fn set<T: Hash + Eq>(field: &str, given: Vec<impl Into<T>>, violations: &mut Vec<Violation>) -> HashSet<T> {
    check_count(field, given.len(), FILTER_MAX, violations);
    given.into_iter().map(Into::into).collect()
}

/// A part of an id: what is longer than any id is looked for nowhere.
fn part_of_id<'a>(field: &str, given: &'a str, violations: &mut Vec<Violation>) -> &'a str {
    if given.len() > MAX_NAME_BYTES {
        violations.push(violation(field, format!("must have at most {MAX_NAME_BYTES} bytes, has {}", given.len())));
        return "";
    }
    given
}

/// Which applications, in which order, and which part of them.
pub(super) fn applications(request: ListApplicationsRequest) -> Result<(ApplicationQuery, Part), Status> {
    let ListApplicationsRequest { ids, ports, services, prefix, q, sort, limit, offset, page_token, .. } = request;
    let mut violations = Vec::new();
    let part = part((&sort, limit, offset, &page_token), &mut violations);
    let query = ApplicationQuery {
        ids: set("ids", ids, &mut violations),
        ports: set("ports", ports, &mut violations),
        services: set("services", services, &mut violations),
        prefix: part_of_id("prefix", &prefix, &mut violations).to_owned(),
        text: part_of_id("q", &q, &mut violations).trim().to_lowercase(),
    };
    checked((query, part), violations)
}

/// Which service types, in which order, and which part of them.
pub(super) fn service_types(request: ListServiceTypesRequest) -> Result<(HashSet<SmolStr>, Part), Status> {
    let ListServiceTypesRequest { ids, sort, limit, offset, page_token, .. } = request;
    let mut violations = Vec::new();
    let part = part((&sort, limit, offset, &page_token), &mut violations);
    checked((set("ids", ids, &mut violations), part), violations)
}

/// What to start; none: everything.
pub(super) fn start(applications: Vec<String>) -> Result<Option<Vec<SmolStr>>, Status> {
    let mut violations = Vec::new();
    check_count("applications", applications.len(), START_MAX, &mut violations);
    let wanted: Vec<SmolStr> = applications.into_iter().map(Into::into).collect();
    checked((!wanted.is_empty()).then_some(wanted), violations)
}

/// Which services to wait for, and how long.
pub(super) fn wait_ready(request: WaitReadyRequest) -> Result<(SmolStr, Vec<SmolStr>, Duration), Status> {
    let WaitReadyRequest { namespace, services, wait } = request;
    let (namespace, mut violations) = (or_default(&namespace), Vec::new());
    check_name("namespace", namespace, &mut violations);
    if services.is_empty() {
        violations.push(violation("services", "must have at least one"));
    }
    check_count("services", services.len(), START_MAX, &mut violations);
    for (place, service) in services.iter().enumerate().take(START_MAX) {
        check_name(&format!("services[{place}]"), service, &mut violations);
    }
    let span = grpc::wait(wait, &mut violations);
    let wait = if wait.is_none() { READY_WAIT } else { span };
    checked((namespace.into(), services.into_iter().map(Into::into).collect(), wait), violations)
}

/// Which applications, how they are to stand, and which part of them.
pub(super) fn status(
    request: GetCatalogStatusRequest,
) -> Result<(ApplicationQuery, HashSet<Standing>, Page, Option<Place>), Status> {
    let GetCatalogStatusRequest { ids, prefix, states, limit, offset, page_token, .. } = request;
    let mut violations = Vec::new();
    check_count("states", states.len(), FILTER_MAX, &mut violations);
    let mut standings = HashSet::new();
    for (place, state) in states.into_iter().enumerate() {
        match ApplicationState::try_from(state).ok().and_then(live::standing) {
            Some(standing) => _ = standings.insert(standing),
            None => violations.push(violation(&format!("states[{place}]"), "must be one of ApplicationState")),
        }
    }
    let ids = set("ids", ids, &mut violations);
    let page = page(limit, offset, &mut violations);
    let after = after(&page_token, page, |token| Place::of(token, BY_ID), &mut violations);
    let prefix = part_of_id("prefix", &prefix, &mut violations).to_owned();
    checked((ApplicationQuery { ids, prefix, ..ApplicationQuery::default() }, standings, page, after), violations)
}

/// Which versions.
pub(super) fn versions(request: ListCatalogVersionsRequest) -> Result<(VersionQuery, Page, Option<u64>), Status> {
    let ListCatalogVersionsRequest { ids, entries, kind, sort, limit, offset, page_token, .. } = request;
    let mut violations = Vec::new();
    let descending = match sort.as_str() {
        "" | "timestamp" => false,
        "-timestamp" => true,
        _ => {
            violations.push(violation("sort", "must be timestamp or -timestamp"));
            false
        }
    };
    let of_applications = match CatalogKind::try_from(kind) {
        Ok(CatalogKind::Unspecified) => None,
        Ok(CatalogKind::ServiceType) => Some(false),
        Ok(CatalogKind::Application) => Some(true),
        Err(_) => {
            violations.push(violation("kind", format!("must be one of CatalogKind, not {kind}")));
            None
        }
    };
    let numbers = set("ids", ids, &mut violations);
    let entries = set("entries", entries, &mut violations);
    let page = page(limit, offset, &mut violations);
    let after = after(&page_token, page, |token| token.parse().ok(), &mut violations);
    checked((VersionQuery { numbers, entries, of_applications, descending }, page, after), violations)
}

/// Which part of the whole catalog.
pub(super) fn page_of_catalog(request: ListCatalogRequest) -> Result<(SmolStr, usize, String), Status> {
    let ListCatalogRequest { namespace, limit, page_token } = request;
    let (namespace, mut violations) = (or_default(&namespace), Vec::new());
    check_one_namespace(namespace, &mut violations);
    if limit > EXPORT_MAX {
        violations.push(violation("limit", format!("must be 1 to {EXPORT_MAX}, not {limit}")));
    }
    let limit = if limit == 0 { EXPORT_MAX } else { limit };
    checked((namespace.into(), limit as usize, page_token), violations)
}

/// From which port to which, and behind which one.
pub(super) fn ports(request: ListPortsRequest) -> Result<(SmolStr, u16, u16), Status> {
    let ListPortsRequest { namespace, first, last, page_token } = request;
    let (namespace, mut violations) = (or_default(&namespace).to_owned(), Vec::new());
    check_one_namespace(&namespace, &mut violations);
    let mut port = |field: &str, given: u32| {
        u16::try_from(given).unwrap_or_else(|_| {
            violations.push(violation(field, format!("must be at most {}, not {given}", u16::MAX)));
            0
        })
    };
    let (first, last) = (port("first", first), port("last", last));
    if last != 0 && last < first {
        violations.push(violation("last", format!("must not be below first, which is {first}")));
    }
    let after: Option<u16> = if page_token.is_empty() { Some(0) } else { page_token.parse().ok() };
    if after.is_none() {
        violations.push(violation("page_token", "is not one that this server gave"));
    }
    let first = first.max(after.unwrap_or(0));
    checked((namespace.into(), first, if last == 0 { u16::MAX } else { last }), violations)
}
