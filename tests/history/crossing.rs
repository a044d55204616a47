//! Watches agree: with one another where they follow the same, and with what they continue.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use onair::{
    proto::{Event, ResetReason},
    registry::Key,
};

use super::{
    Fault, View, fault, key_of,
    silence::late_first_messages,
    span::{Held, Span},
};

/// Promise 7: whoever starts first, a snapshot and what follows leave no gap and repeat nothing.
pub fn snapshot_joins_live(view: &View<'_>) -> Vec<Fault> {
    let mut faults: Vec<_> = disagreements(view).into_iter().filter(|fault| fault.promise == 7).collect();
    for span in view.spans.iter().filter(|span| !span.resumed) {
        let same =
            |other: &&Span<'_>| !std::ptr::eq(*other, span) && other.filters == span.filters && other.knows(span.from);
        // Another that only begins there is compared by those that began before.
        let other = view.spans.iter().filter(same).min_by_key(|other| other.from);
        let both = other.and_then(|other| other.at(span.from)).zip(span.base.as_ref());
        if let Some((expected, base)) = both
            && let Some(what) = difference(&expected, base)
        {
            let what = format!("the snapshot of revision {} is not what others saw by then: {what}", span.from);
            faults.push(fault(7, span.began.0, what));
        }
    }
    faults.extend(late_first_messages(view));
    faults
}

/// Promise 9: a resumed watch brings exactly what was missed, or a reset with a reason that holds.
pub fn exact_resume(view: &View<'_>) -> Vec<Fault> {
    let mut faults: Vec<_> = disagreements(view).into_iter().filter(|fault| fault.promise == 9).collect();
    let origins = origins(view);
    for feed in view.feeds.iter().filter(|feed| feed.clear) {
        for part in feed.spoken() {
            let Some(reset) = part.reset else { continue };
            let first = part.message == feed.parts[0].message;
            let excuse = match reset.reason() {
                ResetReason::FellBehind => !first || !feed.token.is_empty(),
                ResetReason::Unspecified => false,
                // The server may find that its store holds another history than it thought.
                ResetReason::AnotherEpoch => true,
                _ => first && !feed.token.is_empty(),
            };
            let known =
                origins.get(feed.token).filter(|(origin, _)| first && view.feeds[*origin].filters == feed.filters);
            let why = match (reset.reason(), known) {
                _ if !excuse => "there was nothing to continue that this reason could forbid",
                (ResetReason::Malformed, Some(_)) => "the token was one of the server's",
                (ResetReason::SelectorsChanged, Some(_)) => "the token was for the same selectors",
                (ResetReason::AnotherRegistry, Some(_)) => "the token was of this registry",
                (ResetReason::TooOld, Some((_, revision))) if *revision >= reset.oldest_revision => {
                    "the token's revision could be continued from"
                }
                (_, Some(_)) if !view.history.settings.resets => "it could have been continued",
                _ => continue,
            };
            faults.push(fault(9, feed.place(part.message), format!("a reset ({:?}): {why}", reset.reason())));
        }
    }
    faults
}

/// Which feed was given a token first, and at which revision.
pub fn origins<'h>(view: &View<'h>) -> HashMap<&'h str, (usize, u64)> {
    let mut origins = HashMap::new();
    for (number, feed) in view.feeds.iter().enumerate() {
        for part in feed.spoken().filter(|part| !part.token.is_empty()) {
            origins.entry(part.token).or_insert((number, part.revision));
        }
    }
    origins
}

/// The events of a revision, each key's in order.
type Steps<'h> = BTreeMap<Key, Vec<&'h Event>>;

fn steps<'h>(events: &[&'h Event]) -> Steps<'h> {
    let mut steps = Steps::new();
    for event in events {
        let key = event.instance.as_ref().map_or_else(|| Key::new("", "", ""), key_of);
        steps.entry(key).or_default().push(event);
    }
    steps
}

/// Revisions at which spans of the same filters saw different events: promise 9 where a resumed one is the odd one.
fn disagreements(view: &View<'_>) -> Vec<Fault> {
    let mut groups: HashMap<u64, Vec<&Span<'_>>> = HashMap::new();
    for span in &view.spans {
        groups.entry(span.filters.fingerprint()).or_default().push(span);
    }
    let mut faults = Vec::new();
    for group in groups.values().filter(|group| group.len() > 1) {
        let revisions: BTreeSet<u64> = group.iter().flat_map(|span| span.events.keys().copied()).collect();
        for revision in revisions {
            odd_ones(revision, group, &mut faults);
        }
    }
    faults.sort_by_key(|fault| fault.place);
    faults
}

/// Finds those who saw a revision unlike most others.
fn odd_ones(revision: u64, group: &[&Span<'_>], faults: &mut Vec<Fault>) {
    // What was seen, and by whom.
    let mut versions: Vec<(Option<Steps<'_>>, Vec<&Span<'_>>)> = Vec::new();
    for span in group.iter().filter(|span| span.from.max(span.own) < revision && revision <= span.to) {
        let seen = span.events.get(&revision).map(|seen| steps(&seen.events));
        match versions.iter_mut().find(|(version, _)| *version == seen) {
            Some((_, spans)) => spans.push(span),
            None => versions.push((seen, vec![span])),
        }
    }
    // Between as many, those who were not interrupted are right; then those who saw something.
    versions.sort_by_key(|(seen, spans)| {
        Reverse((spans.len(), spans.iter().filter(|span| !span.resumed).count(), seen.is_some()))
    });
    let Some(((_, right), wrong)) = versions.split_first() else { return };
    for (seen, spans) in wrong {
        for span in spans {
            let (place, promise) = (right[0].place_of(revision), if span.resumed { 9 } else { 7 });
            let here = if seen.is_none() { "is missing" } else { "differs" };
            let what = format!("revision {revision} {here}, compared with {place:?} and {} others", right.len() - 1);
            faults.push(fault(promise, span.place_of(revision), what));
        }
    }
}

/// The first few differences between two sets, if there are any.
pub fn difference(expected: &Held<'_>, got: &Held<'_>) -> Option<String> {
    let missing = expected.keys().filter(|key| !got.contains_key(*key)).map(|key| format!("{key} is missing"));
    let more = got.keys().filter(|key| !expected.contains_key(*key)).map(|key| format!("{key} is too much"));
    let other = expected.iter().filter_map(|(key, one)| {
        let other = got.get(key).filter(|other| *other != one)?;
        Some(format!("{key} is of revision {} instead of {}, or differs", other.revision, one.revision))
    });
    let all: Vec<_> = missing.chain(more).chain(other).take(5).collect();
    (!all.is_empty()).then(|| all.join(", "))
}
