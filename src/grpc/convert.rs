//! Between the API's messages and the registry's types: requests are read once, with all violations, and answers are
//! written. No rule of the registry lives here.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use bytes::Bytes;
use prost::encoding::encode_varint;
use tokio::time::Instant;
use tonic::Request;
use uuid::Uuid;

mod lookup;

pub(super) use self::lookup::{lookup, lookup_response, plain_lookup, plain_response};
use super::{
    beats::{Beats, HeartbeatRequest},
    codec::unreadable,
    raw,
};
use crate::{
    actor::{Beat, ListQuery, Resolution, ResolveQuery},
    proto,
    registry::{
        ALL_NAMESPACES, Context, DEFAULT_NAMESPACE, Error, Filter, FilterSet, IfMissing, Key, LeaseToken, Needs,
        Publication, Record, Registration, Resolved, Status, Target, Violation, check_name, check_new_namespace,
        prefix_faults, publish_only,
    },
};

/// How long missing dependencies are waited for by who does not say.
const DEPENDENCIES_WAIT: Duration = Duration::from_secs(30);
/// Longest partition key, as of an instance.
const PARTITION_KEY_BYTES_MAX: usize = 128;
/// The longest that an empty answer is held.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(300);

/// Where the call came from.
pub(super) fn peer<T>(request: &Request<T>) -> IpAddr {
    request.remote_addr().map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}

pub(super) fn violation(field: impl Into<String>, description: impl Into<String>) -> Violation {
    Violation { field: field.into(), description: description.into() }
}

pub(super) fn checked(violations: Vec<Violation>) -> Result<(), Error> {
    if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
}

/// A duration of a request; absent is 0.
pub(super) fn span(field: &str, given: Option<prost_types::Duration>, violations: &mut Vec<Violation>) -> Duration {
    match given.map(Duration::try_from) {
        None => Duration::ZERO,
        Some(Ok(span)) => span,
        Some(Err(_)) => {
            violations.push(violation(field, "must not be negative or out of range"));
            Duration::ZERO
        }
    }
}

/// How long nothing is waited for.
#[must_use]
pub fn wait(given: Option<prost_types::Duration>, violations: &mut Vec<Violation>) -> Duration {
    span("wait", given, violations).min(WAIT_MAX)
}

/// What is wanted, and the token that came with it.
pub(super) fn registration(
    request: proto::RegisterRequest,
    peer: IpAddr,
) -> Result<(Registration, Option<LeaseToken>), Error> {
    let mut fresh_id = || Uuid::now_v7().to_string();
    let context = Context { peer, fresh_id: &mut fresh_id, request_id: &request.request_id };
    let token = LeaseToken::decode(&request.lease_token);
    let Some(mut instance) = request.instance else {
        return Err(Error::invalid("instance", "is required"));
    };
    let mut violations = publish_only(&mut instance.metadata, &request.metadata_fields).err().unwrap_or_default();
    let namespace =
        if instance.namespace.is_empty() { DEFAULT_NAMESPACE.to_owned() } else { instance.namespace.clone() };
    let asked = Asked {
        dependencies: &request.dependencies,
        mocks: &request.mocks,
        if_missing: request.if_missing,
        wait: request.wait,
    };
    let registration = Registration::parse(instance, request.ttl, context).map_err(|found| violations.extend(found));
    let needs = needs(&namespace, asked, &mut violations);
    match (registration, needs) {
        (Ok(mut registration), Some(needs)) if violations.is_empty() => {
            (registration.needs, registration.exclusive_url) = (needs, request.exclusive_url);
            Ok((registration, token))
        }
        _ => Err(Error::Invalid(violations)),
    }
}

/// The fields of a request that speak of dependencies.
struct Asked<'a> {
    dependencies: &'a BTreeMap<String, String>,
    mocks: &'a BTreeMap<String, String>,
    if_missing: i32,
    wait: Option<prost_types::Duration>,
}

fn needs(namespace: &str, asked: Asked<'_>, violations: &mut Vec<Violation>) -> Option<Needs> {
    let if_missing = match proto::IfMissing::try_from(asked.if_missing) {
        Ok(proto::IfMissing::Unspecified | proto::IfMissing::Fail) => IfMissing::Fail,
        Ok(proto::IfMissing::Wait) => IfMissing::Wait,
        Ok(proto::IfMissing::Ignore) => IfMissing::Ignore,
        Err(_) => {
            violations.push(violation("if_missing", format!("{} is not known", asked.if_missing)));
            IfMissing::Fail
        }
    };
    let wait = match asked.wait {
        None => DEPENDENCIES_WAIT,
        Some(_) => span("wait", asked.wait, violations).min(WAIT_MAX),
    };
    match Needs::parse(namespace, asked.dependencies, asked.mocks, if_missing) {
        Ok(needs) => Some(Needs { wait, ..needs }),
        Err(found) => {
            violations.extend(found);
            None
        }
    }
}

/// What to resolve.
pub(super) fn resolve(request: proto::ResolveRequest, deadline: Option<Instant>) -> Result<ResolveQuery, Error> {
    let mut violations = Vec::new();
    let namespace = if request.namespace.is_empty() { DEFAULT_NAMESPACE } else { &request.namespace };
    check_new_namespace("namespace", namespace, &mut violations);
    let asked = Asked {
        dependencies: &request.dependencies,
        mocks: &request.mocks,
        if_missing: request.if_missing,
        wait: request.wait,
    };
    match needs(namespace, asked, &mut violations) {
        Some(needs) if violations.is_empty() => Ok(ResolveQuery { needs, prefer_zone: request.prefer_zone, deadline }),
        _ => Err(Error::Invalid(violations)),
    }
}

/// Where it is.
pub(super) fn resolve_response(resolution: Resolution) -> proto::ResolveResponse {
    let answer = |found: Resolved| {
        let instance = found.record.map(|record| record.instance());
        (found.service.into(), proto::ResolvedDependency { url: found.url.into(), instance })
    };
    proto::ResolveResponse {
        resolved: resolution.resolved.into_iter().map(answer).collect(),
        missing: resolution.missing,
        revision: resolution.revision,
    }
}

/// The beats of a message.
///
/// # Errors
/// When it cannot be read, or has what no beat may have.
pub(super) fn beats(request: &HeartbeatRequest, max_beats: usize) -> Result<Vec<Beat>, tonic::Status> {
    let read = request.read(max_beats).map_err(|error| unreadable(&error))?;
    checked_beats(read, max_beats).map_err(Into::into)
}

fn checked_beats(read: Beats, max_beats: usize) -> Result<Vec<Beat>, Error> {
    let Beats { mut beats, count, refused, namespace, service, id } = read;
    if count > max_beats {
        // Not one by one: the list alone is refused.
        return Err(Error::invalid("beats", format!("must be at most {max_beats}, not {count}")));
    }
    if beats.is_empty() {
        return Err(Error::invalid("beats", "must not be empty"));
    }
    let refusal = |(place, number): (usize, i32)| {
        let known = Status::try_from(number).is_ok();
        let sentence = if known { "is set by the registry alone".to_owned() } else { format!("{number} is no status") };
        violation(format!("beats[{place}].status"), sentence)
    };
    let mut violations: Vec<Violation> = refused.into_iter().map(refusal).collect();
    let key = if namespace.is_empty() && service.is_empty() && id.is_empty() {
        None
    } else {
        Some(key(&namespace, &service, &id, &mut violations).fingerprint())
    };
    checked(violations)?;
    if let Some(key) = key {
        for beat in &mut beats {
            // Of another key: as good as none.
            beat.token = beat.token.filter(|token| token.key == key);
        }
    }
    Ok(beats)
}

/// The key of these names, with what is wrong with them.
pub(super) fn key(namespace: &str, service: &str, id: &str, violations: &mut Vec<Violation>) -> Key {
    let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace };
    check_name("namespace", namespace, violations);
    check_name("service", service, violations);
    check_name("id", id, violations);
    Key::new(namespace, service, id)
}

/// Which instance is asked for.
pub(super) fn instance_key(request: &proto::GetInstanceRequest) -> Result<Key, Error> {
    let mut violations = Vec::new();
    let key = key(&request.namespace, &request.service, &request.id, &mut violations);
    checked(violations)?;
    Ok(key)
}

/// One instance: its record is encoded already.
pub(super) fn instance_response(record: &Record, revision: u64) -> raw::GetInstanceResponse {
    let mut bytes = Vec::with_capacity(record.bytes().len() + 20);
    push_instance(record, &mut bytes);
    push_revision(2, revision, &mut bytes);
    raw::GetInstanceResponse { shared: Bytes::new(), own: bytes }
}

/// Milliseconds as the wire has them.
pub(super) fn millis(millis: u32) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::from(millis / 1_000), nanos: (millis % 1_000) as i32 * 1_000_000 }
}

/// Any duration as the wire has it.
pub(super) fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: span.as_secs() as i64, nanos: span.subsec_nanos() as i32 }
}

/// What to take away: exactly one of the ways.
pub(super) fn target(request: proto::DeregisterRequest, max_beats: usize) -> Result<Target, Error> {
    let mut violations = Vec::new();
    let by_key = !request.service.is_empty() || !request.id.is_empty() || request.all || !request.namespace.is_empty();
    let token_of_key = by_key && !request.all && !request.lease_token.is_empty();
    let ways = [!request.lease_token.is_empty(), !request.lease_tokens.is_empty(), by_key && !token_of_key];
    if ways.into_iter().filter(|way| *way).count() != 1 {
        let sentence = "give exactly one of lease_token, lease_tokens, or service with id or all";
        return Err(Error::invalid("lease_token", sentence));
    }
    if !request.lease_token.is_empty() {
        let token = LeaseToken::decode(&request.lease_token);
        if token_of_key {
            let key = key(&request.namespace, &request.service, &request.id, &mut violations);
            if violations.is_empty() && token.is_none_or(|token| token.key != key.fingerprint()) {
                violations.push(violation("lease_token", format!("is not a token of {key}")));
            }
        }
        checked(violations)?;
        return Ok(Target::Lease(token));
    }
    if !request.lease_tokens.is_empty() {
        if request.lease_tokens.len() > max_beats {
            let sentence = format!("must be at most {max_beats}, not {}", request.lease_tokens.len());
            return Err(Error::invalid("lease_tokens", sentence));
        }
        return Ok(Target::Leases(request.lease_tokens.iter().filter_map(LeaseToken::decode).collect()));
    }
    let namespace = if request.namespace.is_empty() { DEFAULT_NAMESPACE } else { &request.namespace };
    check_name("namespace", namespace, &mut violations);
    check_name("service", &request.service, &mut violations);
    match (request.all, request.id.is_empty()) {
        (true, false) => violations.push(violation("all", "must not be set together with id")),
        (false, true) => violations.push(violation("id", "give an id, or set all")),
        (false, false) => check_name("id", &request.id, &mut violations),
        (true, true) => {}
    }
    checked(violations)?;
    Ok(if request.all {
        Target::Service { namespace: namespace.into(), service: request.service.into() }
    } else {
        Target::Key(Key::new(namespace, request.service, request.id))
    })
}

/// One selector, its violations under `prefix`.
fn filter(selector: &proto::Selector, prefix: &str, violations: &mut Vec<Violation>) -> Option<Filter> {
    if !selector.frontend.is_empty() && !selector.service.is_empty() {
        violations.push(violation(format!("{prefix}frontend"), "must not be given together with service"));
    }
    let proto::Selector { namespace, service, frontend, version, selector, published: _, service_prefix } = selector;
    let read = match frontend.is_empty() {
        true => Filter::new(namespace, service, version, selector),
        false => Filter::of_frontend(namespace, frontend, version, selector),
    };
    let read = match read {
        Ok(filter) => filter.under(service_prefix),
        Err(mut found) => {
            found.extend(prefix_faults(service_prefix, !service.is_empty() || !frontend.is_empty()));
            Err(found)
        }
    };
    match read {
        Ok(filter) => Some(filter),
        Err(found) => {
            let under = |found: Violation| violation(format!("{prefix}{}", found.field), found.description);
            violations.extend(found.into_iter().map(under));
            None
        }
    }
}

/// What a watch follows.
pub(super) fn watch(request: &proto::WatchRequest, max_selectors: usize) -> Result<FilterSet, Error> {
    let mut violations = Vec::new();
    span("wait", request.wait, &mut violations);
    let filters = filters_unless(violations, &request.selectors, max_selectors)?;
    Ok(filters.with_summaries(request.summaries))
}

/// What a subscription follows.
pub(super) fn filters(add: &proto::AddSubscription, max_selectors: usize) -> Result<FilterSet, Error> {
    Ok(filters_unless(Vec::new(), &add.selectors, max_selectors)?.with_summaries(add.summaries))
}

/// What selectors stand for, unless something else is wrong as well.
fn filters_unless(
    mut violations: Vec<Violation>,
    selectors: &[proto::Selector],
    max_selectors: usize,
) -> Result<FilterSet, Error> {
    if selectors.len() > max_selectors {
        // Not one by one: the list alone is refused.
        violations.push(violation("selectors", format!("must be at most {max_selectors}, not {}", selectors.len())));
        return Err(Error::Invalid(violations));
    }
    let filters: Vec<Filter> = selectors
        .iter()
        .enumerate()
        .filter_map(|(place, selector)| filter(selector, &format!("selectors[{place}]."), &mut violations))
        .collect();
    checked(violations)?;
    Ok(FilterSet::new(filters))
}

/// Those of the selectors, which were read before, that also ask for what is published.
pub(super) fn published(selectors: &[proto::Selector]) -> Result<Vec<Filter>, Error> {
    let mut violations = Vec::new();
    let asking = selectors.iter().enumerate().filter(|(_, selector)| selector.published);
    let filters = asking
        .filter_map(|(place, selector)| {
            if !selector.frontend.is_empty() {
                let field = format!("selectors[{place}].published");
                violations.push(violation(field, "follows services, not frontends"));
            }
            filter(selector, &format!("selectors[{place}]."), &mut violations)
        })
        .collect();
    checked(violations)?;
    Ok(filters)
}

/// What to publish, and the token that came with it.
pub(super) fn publication(request: proto::PublishRequest) -> Result<(Publication, Option<LeaseToken>), Error> {
    let proto::PublishRequest { namespace, service, kind, data, lease_token } = request;
    let token = LeaseToken::decode(&lease_token);
    let publication = Publication::parse(&namespace, &service, &kind, data);
    let unreadable = !lease_token.is_empty() && token.is_none();
    let of_token = unreadable.then(|| violation("lease_token", "is no lease token"));
    match (publication, of_token) {
        (Ok(publication), None) => Ok((publication, token)),
        (found, of_token) => Err(Error::Invalid(found.err().into_iter().flatten().chain(of_token).collect())),
    }
}

/// Which services to list.
pub(super) fn list(request: proto::ListServicesRequest) -> Result<ListQuery, Error> {
    let proto::ListServicesRequest { namespace, prefix, limit, page_token, partition_key } = request;
    let mut violations = Vec::new();
    let namespace = match namespace.as_str() {
        ALL_NAMESPACES => None,
        "" => Some(DEFAULT_NAMESPACE.into()),
        name => {
            check_name("namespace", name, &mut violations);
            Some(name.into())
        }
    };
    if partition_key.len() > PARTITION_KEY_BYTES_MAX {
        let sentence = format!("must be at most {PARTITION_KEY_BYTES_MAX} bytes, not {}", partition_key.len());
        violations.push(violation("partition_key", sentence));
    }
    checked(violations)?;
    Ok(ListQuery { namespace, within: None, prefix, partition_key, limit: limit as usize, page_token })
}

/// The field 1 that holds an instance, or one of them.
fn push_instance(record: &Record, buffer: &mut Vec<u8>) {
    buffer.push(1 << 3 | 2);
    encode_varint(record.bytes().len() as u64, buffer);
    buffer.extend_from_slice(record.bytes());
}

fn push_revision(field: u8, revision: u64, buffer: &mut Vec<u8>) {
    if revision != 0 {
        buffer.push(field << 3);
        encode_varint(revision, buffer);
    }
}
