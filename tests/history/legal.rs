//! What a single watch may be told, given what it was told before; and what a filtered one has to be told, given what an
//! unfiltered one saw.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use onair::{
    proto::{Event, Instance},
    registry::{Cause, EventType, Filter, FilterSet, Key, Status},
};

use super::{
    Fault, Place, View,
    crossing::difference,
    fault, key_of,
    reads::{disordered, lookups},
    span::{Held, Seen, Span, apply},
    summaries::unlike_the_events,
};

/// Promise 10: every event is legal after those before it, filters cross as the unfiltered truth says, and a folded watch
/// is what a lookup of the same gives.
pub fn filters_cross(view: &View<'_>) -> Vec<Fault> {
    let mut faults = disordered(view);
    for span in &view.spans {
        illegal(span, &mut faults);
    }
    unlike_the_truth(view, &mut faults);
    unlike_lookups(view, &mut faults);
    faults.extend(unlike_the_events(view));
    faults
}

/// The selectors that show everything.
pub fn everything() -> FilterSet {
    FilterSet::new([Filter::new("*", "", "", "status=*").unwrap()])
}

/// What is known of a key.
enum Known<'h> {
    Here(&'h Instance),
    Absent,
    Unknown,
}

fn illegal<'h>(span: &Span<'h>, faults: &mut Vec<Fault>) {
    let mut held: Held<'h> = span.base.as_deref().cloned().unwrap_or_default();
    let mut gone: BTreeMap<Key, ()> = BTreeMap::new();
    let judge_matches = |instance: &Instance| span.filters.matches(instance);
    for (key, instance) in &held {
        if !judge_matches(instance) {
            faults.push(fault(10, span.began.0, format!("{key} is in the snapshot and does not match")));
        }
        if instance.revision > span.from || instance.incarnation > instance.revision {
            let what = format!("{key} is of revision {}, the snapshot of {}", instance.revision, span.from);
            faults.push(fault(10, span.began.0, what));
        }
    }
    for (revision, Seen { place, events }) in &span.events {
        for event in events {
            let Some(instance) = &event.instance else {
                // What it continues was judged where it was seen.
                faults.push(fault(10, *place, "an event without an instance"));
                continue;
            };
            let key = key_of(instance);
            let known = match held.get(&key) {
                Some(before) => Known::Here(before),
                None if span.base.is_some() || gone.contains_key(&key) => Known::Absent,
                None => Known::Unknown,
            };
            let own = !span.resumed || *revision > span.own;
            if own && let Err(why) = judge(event, instance, *revision, &known, &span.filters) {
                let name = print_event(event);
                faults.push(fault(10, *place, format!("{name} of {key} at revision {revision}: {why}")));
            }
            apply(&mut held, &[event]);
            if event.r#type() == EventType::Offline {
                gone.insert(key, ());
            }
        }
    }
}

fn print_event(event: &Event) -> String {
    format!("{:?}({:?})", event.r#type(), event.cause())
}

/// Whether `event` may come at `revision` to one who knows `known`.
fn judge(
    event: &Event,
    instance: &Instance,
    revision: u64,
    known: &Known<'_>,
    filters: &FilterSet,
) -> Result<(), &'static str> {
    let rule = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
    rule(instance.incarnation <= instance.revision, "an incarnation after its last change")?;
    match event.r#type() {
        EventType::Online => {
            rule(!matches!(known, Known::Here(_)), "it was there already")?;
            rule(filters.matches(instance), "it does not match")?;
            match event.cause() {
                Cause::Registered => rule(
                    instance.incarnation == revision && instance.revision == revision,
                    "a registration has its own revision",
                ),
                Cause::Matched => rule(
                    instance.incarnation < revision && instance.revision <= revision,
                    "what comes to match was registered before",
                ),
                _ => Err("no cause of an ONLINE outside a snapshot"),
            }
        }
        EventType::Updated => {
            rule(!matches!(known, Known::Absent), "it was not there")?;
            rule(filters.matches(instance), "it does not match")?;
            rule(event.cause() == Cause::Unspecified, "an UPDATED has no cause")?;
            rule(instance.revision == revision, "a change has its own revision")?;
            let Known::Here(before) = known else { return Ok(()) };
            rule(before.incarnation == instance.incarnation, "another incarnation is a replacement")?;
            let same = Instance { revision, ..(*before).clone() };
            rule(same != *instance, "nothing changed")
        }
        EventType::Offline => {
            rule(!matches!(known, Known::Absent), "it was not there")?;
            judge_offline(event.cause(), instance, revision, known, filters)
        }
        EventType::Unspecified => Err("no type"),
    }
}

/// An OFFLINE carries the last record, or, where the instance only left the set, the new one.
fn judge_offline(
    cause: Cause,
    instance: &Instance,
    revision: u64,
    known: &Known<'_>,
    filters: &FilterSet,
) -> Result<(), &'static str> {
    let rule = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
    if is_end(cause) {
        rule(instance.revision < revision, "the last record is older than its end")?;
        let Known::Here(before) = known else { return Ok(()) };
        return rule(*before == instance, "it carries another record than the last");
    }
    match cause {
        Cause::Filtered | Cause::Draining | Cause::Maintenance => {
            rule(!filters.matches(instance), "the new record still matches")?;
            rule(instance.revision == revision, "the new record has its own revision")?;
            let status = match instance.status() {
                Status::Draining => Cause::Draining,
                Status::Maintenance => Cause::Maintenance,
                _ => Cause::Filtered,
            };
            rule(status == cause, "the cause does not go with the new status")?;
            let Known::Here(before) = known else { return Ok(()) };
            rule(before.incarnation == instance.incarnation, "it carries another incarnation")
        }
        Cause::Switched => Ok(()),
        _ => Err("no cause of an OFFLINE"),
    }
}

/// Whether the instance itself is gone, not only out of a set.
pub fn is_end(cause: Cause) -> bool {
    use Cause::{Deregistered, Expired, Moved, Operator, Quota, Replaced};
    matches!(cause, Deregistered | Expired | Replaced | Moved | Operator | Quota)
}

/// What happens to a filtered watch: type, cause and record.
type Step<'h> = (EventType, Cause, &'h Instance);

/// What the truth means to `filters`, revision by revision.
fn projected<'h>(truth: &Span<'h>, filters: &FilterSet) -> BTreeMap<u64, BTreeMap<Key, Vec<Step<'h>>>> {
    let mut held = truth.base.as_deref().cloned().unwrap_or_default();
    let mut all = BTreeMap::new();
    for (revision, seen) in &truth.events {
        let mut steps: BTreeMap<Key, Vec<Step<'h>>> = BTreeMap::new();
        for event in &seen.events {
            let Some(instance) = &event.instance else { continue };
            let key = key_of(instance);
            let step = match (held.get(&key).is_some_and(|before| filters.matches(before)), event.r#type()) {
                (true, EventType::Offline) => Some((EventType::Offline, event.cause())),
                (false, EventType::Offline) => None,
                (was, kind) => match (was, filters.matches(instance)) {
                    (false, false) => None,
                    (false, true) if kind == EventType::Online => Some((kind, event.cause())),
                    (false, true) => Some((EventType::Online, Cause::Matched)),
                    (true, true) => Some((EventType::Updated, Cause::Unspecified)),
                    (true, false) => Some((EventType::Offline, cause_of_leaving(instance))),
                },
            };
            if let Some((kind, cause)) = step {
                steps.entry(key).or_default().push((kind, cause, instance));
            }
            apply(&mut held, &[event]);
        }
        if !steps.is_empty() {
            all.insert(*revision, steps);
        }
    }
    all
}

fn cause_of_leaving(now: &Instance) -> Cause {
    match now.status() {
        Status::Draining => Cause::Draining,
        Status::Maintenance => Cause::Maintenance,
        _ => Cause::Filtered,
    }
}

/// Compares every span with what one that saw everything says, if there is one.
fn unlike_the_truth(view: &View<'_>, faults: &mut Vec<Fault>) {
    let everything = everything();
    let truths = view.spans.iter().filter(|span| span.filters == everything && span.base.is_some());
    let Some(truth) = truths.max_by_key(|span| span.to - span.from) else { return };
    let mut projections = HashMap::new();
    for span in view.spans.iter().filter(|span| span.filters != everything) {
        let expected = projections.entry(span.filters.fingerprint()).or_insert_with(|| projected(truth, &span.filters));
        if let (Some(base), Some(mut all)) = (&span.base, truth.at(span.from)) {
            all.retain(|_, instance| span.filters.matches(instance));
            if let Some(what) = difference(&all, base) {
                let what = format!("the snapshot of revision {} differs from the truth: {what}", span.from);
                faults.push(fault(10, span.began.0, what));
            }
        }
        let (from, to) = (span.from.max(truth.from), span.to.min(truth.to));
        let revisions = expected.keys().chain(span.events.keys()).filter(|at| from < **at && **at <= to);
        for revision in revisions.collect::<BTreeSet<_>>() {
            compare(span, *revision, expected.get(revision), faults);
        }
    }
}

fn compare(span: &Span<'_>, revision: u64, expected: Option<&BTreeMap<Key, Vec<Step<'_>>>>, faults: &mut Vec<Fault>) {
    let mut got: BTreeMap<Key, Vec<Step<'_>>> = BTreeMap::new();
    for event in span.events.get(&revision).map_or(&[][..], |seen| &seen.events) {
        if let Some(instance) = &event.instance {
            got.entry(key_of(instance)).or_default().push((event.r#type(), event.cause(), instance));
        }
    }
    let none = BTreeMap::new();
    let expected = expected.unwrap_or(&none);
    let names = |steps: Option<&Vec<Step<'_>>>| {
        let steps = steps.map_or(&[][..], Vec::as_slice);
        steps.iter().map(|(kind, cause, one)| format!("{kind:?}({cause:?}) r{}", one.revision)).collect::<Vec<_>>()
    };
    for key in expected.keys().chain(got.keys()).collect::<BTreeSet<_>>() {
        if expected.get(key) != got.get(key) {
            let (should, is) = (names(expected.get(key)), names(got.get(key)));
            let what = format!("revision {revision} of {key} should be {should:?}, and is {is:?}");
            faults.push(fault(10, span.place_of(revision), what));
        }
    }
}

/// Compares every complete lookup with the folded watches of the same, or of everything.
fn unlike_lookups(view: &View<'_>, faults: &mut Vec<Fault>) {
    let everything = everything();
    let mut lookups = lookups(view.history);
    lookups.sort_by_key(|lookup| lookup.revision);
    for span in &view.spans {
        let same = lookups.iter().filter(|lookup| lookup.filters == span.filters || span.filters == everything);
        let Some(mut replay) = span.replay() else { continue };
        for lookup in same.filter(|lookup| span.knows(lookup.revision)) {
            replay.advance(lookup.revision);
            let mut expected = replay.held.clone();
            expected.retain(|_, instance| lookup.filters.matches(instance));
            if let Some(what) = difference(&expected, &lookup.held) {
                let place: Place = lookup.place;
                let by = span.place_of(lookup.revision);
                let what = format!("at revision {} a folded watch ({by:?}) is not the same: {what}", lookup.revision);
                faults.push(fault(10, place, what));
            }
        }
    }
}
