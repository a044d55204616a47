//! What lookups showed, and what an empty one has to say.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use onair::{
    proto::{Emptiness, LookupRequest, Pick},
    registry::{DEFAULT_NAMESPACE, Filter, FilterSet},
};

use super::{Fault, History, Place, Reply, Request, View, fault, key_of, span::Held};

/// Everything that was there at one revision, as somebody was shown it.
pub struct Read<'h> {
    pub place: Place,
    /// When it was there, or later.
    pub at: Duration,
    pub revision: u64,
    pub filters: FilterSet,
    pub held: Held<'h>,
}

/// The lookups that show all matches on one page.
pub fn lookups(history: &History) -> Vec<Read<'_>> {
    let mut reads = Vec::new();
    for (number, operation) in history.operations.iter().enumerate() {
        let (Request::Lookup(request), Some((at, Reply::Lookup(reply)))) = (&operation.request, operation.reply())
        else {
            continue;
        };
        if let Some(filters) = whole(request).filter(|_| reply.next_page_token.is_empty()) {
            let held = reply.instances.iter().map(|instance| (key_of(instance), instance)).collect();
            reads.push(Read { place: Place::Operation(number), at, revision: reply.revision, filters, held });
        }
    }
    reads
}

/// What a lookup is for, if it begins at the first page of all matches.
fn whole(request: &LookupRequest) -> Option<FilterSet> {
    let LookupRequest { namespace, service, frontend, version, selector, page_token, .. } = request;
    let all = matches!(request.pick(), Pick::Unspecified | Pick::All);
    if !all || !page_token.is_empty() || !frontend.is_empty() {
        return None;
    }
    Some(FilterSet::new([Filter::new(namespace, service, version, selector).ok()?]))
}

/// Everything that was shown as a whole: lookups, and the snapshots of watches.
pub fn reads<'h>(view: &View<'h>) -> Vec<Read<'h>> {
    let mut reads = lookups(view.history);
    for span in view.spans.iter().filter(|span| !span.resumed) {
        let Some(base) = &span.base else { continue };
        let (place, at) = span.began;
        reads.push(Read { place, at, revision: span.from, filters: span.filters.clone(), held: base.as_ref().clone() });
    }
    reads
}

/// Promise 16: a lookup says why it is empty if and only if it is, and says nothing that is known to be otherwise.
pub fn typed_emptiness(view: &View<'_>) -> Vec<Fault> {
    // When a namespace and a service in it were first known to be there.
    let mut known: HashMap<(&str, &str), Duration> = HashMap::new();
    for operation in &view.history.operations {
        if let Some((end, Reply::Register(reply))) = operation.reply()
            && let Some(instance) = &reply.instance
        {
            for service in ["", &instance.service] {
                let since = known.entry((&instance.namespace, service)).or_insert(end);
                *since = end.min(*since);
            }
        }
    }
    let mut faults = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        let (Request::Lookup(request), Some((_, Reply::Lookup(reply)))) = (&operation.request, operation.reply())
        else {
            continue;
        };
        let namespace = if request.namespace.is_empty() { DEFAULT_NAMESPACE } else { &request.namespace };
        let known = |service: &str| known.get(&(namespace, service)).is_some_and(|since| *since < operation.start);
        let empty = reply.instances.is_empty();
        let first = request.page_token.is_empty();
        let what = match Emptiness::try_from(reply.emptiness) {
            Err(_) => "a kind of emptiness that there is not",
            Ok(Emptiness::Unspecified) if empty && first => "empty, and no reason",
            Ok(Emptiness::Unspecified) => continue,
            Ok(_) if !empty => "not empty, and a reason for it",
            Ok(Emptiness::UnknownNamespace) if namespace == DEFAULT_NAMESPACE => "`default` always exists",
            Ok(Emptiness::UnknownNamespace) if known("") => "the namespace is known",
            Ok(Emptiness::UnknownService) if !request.service.is_empty() && known(&request.service) => {
                "the service is known"
            }
            Ok(Emptiness::UnknownFrontend) if request.frontend.is_empty() => "no frontend was asked for",
            Ok(_) => continue,
        };
        faults.push(fault(16, Place::Operation(number), what));
    }
    faults
}

/// Of promise 10: a lookup shows each instance once, and all of them in order of (namespace, service, id).
pub fn disordered(view: &View<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        let (Request::Lookup(request), Some((_, Reply::Lookup(reply)))) = (&operation.request, operation.reply())
        else {
            continue;
        };
        let keys: Vec<_> = reply.instances.iter().map(key_of).collect();
        let all = matches!(request.pick(), Pick::Unspecified | Pick::All);
        if all && keys.windows(2).any(|pair| pair[0] >= pair[1]) {
            faults.push(fault(10, Place::Operation(number), "out of order, or one twice"));
        }
        if keys.iter().collect::<BTreeSet<_>>().len() < keys.len() {
            faults.push(fault(10, Place::Operation(number), "an instance twice"));
        }
    }
    faults
}
