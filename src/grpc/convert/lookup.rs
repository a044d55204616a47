//! What to find, and what was found: instances that were encoded once are handed on as they are.

use bytes::Bytes;
use prost::encoding::encode_varint;
use tokio::time::Instant;

use super::{checked, filter, push_instance, push_revision, violation, wait};
use crate::{
    actor::{Found, LookupQuery, PickKind, WhyEmpty},
    grpc::{catalog::application, raw},
    proto::{self, Emptiness},
    registry::{ALL_NAMESPACES, DEFAULT_NAMESPACE, Error, FilterSet, MAX_PICK_KEY_BYTES, Violation},
    watch::{LOOKUP_FRONTENDS, push_frontend},
};

/// What to find.
pub(in crate::grpc) fn lookup(request: proto::LookupRequest, deadline: Option<Instant>) -> Result<LookupQuery, Error> {
    let mut violations = Vec::new();
    let pick = match proto::Pick::try_from(request.pick) {
        Ok(proto::Pick::Unspecified | proto::Pick::All) => PickKind::All,
        Ok(proto::Pick::Random) => PickKind::Random,
        Ok(proto::Pick::RoundRobin) => PickKind::RoundRobin,
        Ok(proto::Pick::Weighted) => PickKind::Weighted,
        Ok(proto::Pick::Rendezvous) => PickKind::Rendezvous,
        Err(_) => {
            violations.push(violation("pick", format!("{} is no pick", request.pick)));
            PickKind::All
        }
    };
    if request.pick_key.len() > MAX_PICK_KEY_BYTES {
        violations.push(violation("pick_key", format!("must be at most {MAX_PICK_KEY_BYTES} bytes")));
    }
    if pick != PickKind::All && !request.page_token.is_empty() {
        violations.push(violation("page_token", "a pick has no pages"));
    }
    let wait = wait(request.wait, &mut violations);
    let falls_back = falls_back(&request, &mut violations);
    let selector = proto::Selector {
        namespace: request.namespace,
        service: request.service,
        frontend: request.frontend,
        version: request.version,
        selector: request.selector,
        published: false,
        service_prefix: request.service_prefix,
    };
    let filter = filter(&selector, "", &mut violations);
    checked(violations)?;
    Ok(LookupQuery {
        filters: FilterSet::new(filter),
        pick,
        pick_key: request.pick_key,
        limit: request.limit as usize,
        page_token: request.page_token,
        prefer_zone: request.prefer_zone,
        wait,
        min_revision: request.min_revision,
        falls_back,
        deadline,
    })
}

/// Whether the catalog is to answer for a service that nobody answers for.
fn falls_back(request: &proto::LookupRequest, violations: &mut Vec<Violation>) -> bool {
    match proto::Fallback::try_from(request.fallback) {
        Ok(proto::Fallback::Unspecified | proto::Fallback::None) => return false,
        Ok(proto::Fallback::Catalog) => {}
        Err(_) => violations.push(violation("fallback", format!("{} is no fallback", request.fallback))),
    }
    if request.service.is_empty() || request.namespace == ALL_NAMESPACES {
        violations.push(violation("fallback", "needs a service of one namespace"));
    }
    true
}

/// The service that a lookup wants all routable instances of, if that is all that it wants.
pub(in crate::grpc) fn plain_lookup(request: &proto::LookupRequest) -> Option<(&str, &str)> {
    let proto::LookupRequest {
        namespace,
        service,
        frontend,
        version,
        selector,
        pick,
        pick_key,
        limit,
        page_token,
        prefer_zone: _,
        wait,
        min_revision,
        fallback,
        service_prefix,
    } = request;
    let all = *pick == proto::Pick::Unspecified as i32 || *pick == proto::Pick::All as i32;
    let texts = [frontend, version, selector, pick_key, page_token, service_prefix];
    let numbers = *limit == 0 && *min_revision == 0 && *fallback == proto::Fallback::Unspecified as i32;
    let plain = all && numbers && wait.is_none() && texts.into_iter().all(String::is_empty);
    let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace };
    (plain && !service.is_empty() && namespace != ALL_NAMESPACES).then_some((namespace, service))
}

/// The answer to a plain lookup.
pub(in crate::grpc) fn plain_response(instances: Bytes, next_page_token: &str, revision: u64) -> raw::LookupResponse {
    let mut rest = Vec::with_capacity(next_page_token.len() + 16);
    push_page_token(next_page_token, &mut rest);
    push_revision(5, revision, &mut rest);
    raw::LookupResponse { shared: instances, own: rest }
}

fn push_page_token(token: &str, buffer: &mut Vec<u8>) {
    if !token.is_empty() {
        buffer.push(4 << 3 | 2);
        encode_varint(token.len() as u64, buffer);
        buffer.extend_from_slice(token.as_bytes());
    }
}

/// A `LookupResponse`: the instances are encoded already.
pub(in crate::grpc) fn lookup_response(found: &Found) -> raw::LookupResponse {
    let emptiness = found.why_empty.map_or(Emptiness::Unspecified, |why| match why {
        WhyEmpty::UnknownNamespace => Emptiness::UnknownNamespace,
        WhyEmpty::UnknownService => Emptiness::UnknownService,
        WhyEmpty::UnknownFrontend => Emptiness::UnknownFrontend,
        WhyEmpty::NoMatch => Emptiness::NoMatch,
        WhyEmpty::AllOffline => Emptiness::AllOffline,
    });
    let mut instances = Vec::with_capacity(found.records.iter().map(|record| record.bytes().len() + 6).sum());
    for record in &found.records {
        push_instance(record, &mut instances);
    }
    let mut rest = Vec::with_capacity(found.next_page_token.len() + 20);
    if let Some(frontend) = &found.frontend {
        let name = (frontend.namespace().as_str(), frontend.name().as_str());
        push_frontend(LOOKUP_FRONTENDS, name, Some(frontend), &mut rest);
    }
    if emptiness != Emptiness::Unspecified {
        rest.push(3 << 3);
        encode_varint(emptiness as u64, &mut rest);
    }
    push_page_token(&found.next_page_token, &mut rest);
    push_revision(5, found.revision, &mut rest);
    if let Some(declared) = &found.declared {
        let namespace = &declared.document.key.namespace;
        prost::encoding::message::encode(16, &application(namespace, declared), &mut rest);
    }
    raw::LookupResponse { shared: instances.into(), own: rest }
}
