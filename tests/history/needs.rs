//! Registrations that need others: what they needed was there when they came, and what they were refused for was not.

use std::{collections::BTreeMap, time::Duration};

use onair::{
    proto::{ErrorReason, IfMissing, RegisterRequest, RegisterResponse},
    registry::{Filter, FilterSet, Instance, Key, VersionMatch},
};
use tonic_types::StatusExt as _;

use super::{
    Fault, Place, Reply, Request, View,
    errors::reason_of,
    fault, key_of,
    span::{Held, Span},
};

/// Promise 20: who says what it needs is registered at a revision at which all of it is there, and is refused only for
/// what was missing at some time of the call.
pub fn needs_met_at_once(view: &View<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        let Request::Register(request) = &operation.request else { continue };
        if request.dependencies.is_empty() {
            continue;
        }
        let mut say = |what: String| faults.push(fault(20, Place::Operation(number), what));
        match &operation.outcome {
            Some((_, Ok(Reply::Register(reply)))) => granted(view, request, reply, &mut say),
            Some((end, Err(status))) if reason_of(status) == Some(ErrorReason::MissingDependency) => {
                let failure = status.get_details_precondition_failure();
                let violations = failure.map(|failure| failure.violations).unwrap_or_default();
                let named: Vec<String> = violations.into_iter().map(|violation| violation.subject).collect();
                refused(view, request, &named, (operation.start, *end), &mut say);
            }
            _ => {}
        }
    }
    faults
}

fn granted(view: &View<'_>, request: &RegisterRequest, reply: &RegisterResponse, say: &mut dyn FnMut(String)) {
    let Some(own) = &reply.instance else { return };
    for name in reply.dependencies.keys().filter(|name| !request.dependencies.contains_key(*name)) {
        say(format!("it is told of {name}, which it does not need"));
    }
    for (name, range) in &request.dependencies {
        let need = Need { namespace: &own.namespace, service: name, range: VersionMatch::parse(range).unwrap() };
        match (reply.dependencies.get(name), request.mocks.get(name)) {
            (Some(url), Some(mock)) if url != mock => say(format!("{name} is at {url}, its mock is {mock}")),
            (Some(_), Some(_)) => {}
            (None, None) if request.if_missing() == IfMissing::Ignore => {}
            (None, _) => say(format!("it needs {name}, and is not told where that is")),
            (Some(url), None) => {
                let there = |held: &Held<'_>| {
                    held.iter().any(|(key, one)| *key != key_of(own) && one.url == *url && need.accepts(one))
                };
                let seen = view.spans.iter().filter(|span| need.is_followed(span)).find_map(|span| {
                    let held = span.at(reply.revision)?;
                    (!there(&held)).then(|| span.place_of(reply.revision))
                });
                if let Some(place) = seen {
                    let revision = reply.revision;
                    say(format!("at revision {revision} {name}@{range} was not at {url} ({place:?})"));
                }
            }
        }
    }
}

fn refused(
    view: &View<'_>,
    request: &RegisterRequest,
    named: &[String],
    (start, end): (Duration, Duration),
    say: &mut dyn FnMut(String),
) {
    let wanted = request.dependencies.iter().filter(|(name, _)| !request.mocks.contains_key(*name));
    let wanted: BTreeMap<String, (&String, &String)> = wanted
        .map(|(name, range)| (if range.is_empty() { name.clone() } else { format!("{name}@{range}") }, (name, range)))
        .collect();
    for (at, name) in named.iter().enumerate() {
        let Some((service, range)) = wanted.get(name) else {
            say(format!("refused for {name}, which it does not need"));
            continue;
        };
        if at > 0 && named[at - 1] >= *name {
            say(format!("{name} is not named in order"));
        }
        let Some(own) = &request.instance else { continue };
        let namespace = if own.namespace.is_empty() { "default" } else { &own.namespace };
        let need = Need { namespace, service, range: VersionMatch::parse(range).unwrap() };
        // It does not count for itself, and what it would displace does not count for it.
        if own.service != **service && !request.exclusive_url && need.was_there_from(view, start, end) {
            say(format!("refused for {name}, which was there all the time"));
        }
    }
}

/// What is needed.
struct Need<'a> {
    namespace: &'a str,
    service: &'a str,
    range: VersionMatch,
}

impl Need<'_> {
    fn accepts(&self, one: &Instance) -> bool {
        one.namespace == self.namespace
            && one.service == self.service
            && one.status().is_routable()
            && one.weight.unwrap_or(1) > 0
            && self.range.matches(&one.version)
    }

    /// Whether a span saw everything that could answer.
    fn is_followed(&self, span: &Span<'_>) -> bool {
        let scopes = [("*", ""), (self.namespace, ""), (self.namespace, self.service)];
        let all = scopes.into_iter().flat_map(|scope| ["", "status=*"].map(|selector| (scope, selector)));
        all.into_iter().any(|((namespace, service), selector)| {
            let filter = Filter::new(namespace, service, "", selector).unwrap();
            span.filters == FilterSet::new([filter])
        })
    }

    /// Whether one and the same instance is known to have answered at every revision that a call could be judged at.
    fn was_there_from(&self, view: &View<'_>, start: Duration, end: Duration) -> bool {
        let replies = || {
            let operations = view.history.operations.iter();
            operations.filter_map(|one| Some((one.start, one.reply()?.0, one.reply()?.1.revision()?)))
        };
        let first = replies().filter(|(_, answered, _)| *answered <= start).map(|(.., revision)| revision).max();
        let last = replies().filter(|(asked, ..)| *asked >= end).map(|(.., revision)| revision).min();
        let Some((first, last)) = first.zip(last) else { return false };
        let knowing = view.spans.iter().filter(|span| span.knows(first) && span.to >= last && self.is_followed(span));
        knowing.into_iter().any(|span| {
            let Some(mut replay) = span.replay() else { return false };
            replay.advance(first);
            let there = |held: &Held<'_>, key: &Key| held.get(key).is_some_and(|one| self.accepts(one));
            let mut always: Vec<Key> = replay.held.keys().filter(|key| there(&replay.held, key)).cloned().collect();
            for revision in span.events.keys().copied().filter(|revision| first < *revision && *revision <= last) {
                replay.advance(revision);
                always.retain(|key| there(&replay.held, key));
            }
            !always.is_empty()
        })
    }
}
