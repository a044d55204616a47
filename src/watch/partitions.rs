//! What a feed knows of the partitions that its readers see, at a few of the revisions that it told of: from the nearest
//! of them it goes along the log, forwards or backwards, to the one that is asked for. So whoever resumes is told exactly
//! the summaries that were missed, without the state of then being kept. Knows no filters: what an entry is to them is
//! handed in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::log::{Entry, EventLog, Forgotten};
use crate::registry::{Presence, Revision, Scope, Step, Summary};

/// Revisions that are kept: one for the readers that are up to date, others for those that come from behind.
const PLACES_MAX: usize = 8;
/// Log entries taken at a time.
const READ_MAX: usize = 64;

/// The committed state as the feed's filters see it: a revision, and what is there when it is over.
pub type View<'a> = &'a dyn Fn() -> (Revision, Presence);

/// What was there when a revision was over.
type Place = (Revision, Presence);

/// The places of a feed.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<Vec<Place>>);

/// How the log is read for a feed.
pub(super) struct Way<'a, S: Fn(&Entry) -> Vec<Step>> {
    pub(super) log: &'a EventLog,
    pub(super) scopes: &'a [Scope],
    /// What an entry is to the feed.
    pub(super) steps: S,
}

impl Partitions {
    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The summaries of `entry`.
    ///
    /// # Errors
    /// `Forgotten` when the log has moved on past it meanwhile.
    pub(super) fn summaries<S: Fn(&Entry) -> Vec<Step>>(
        &self,
        entry: &Entry,
        way: &Way<'_, S>,
        view: View<'_>,
    ) -> Result<Vec<Summary>, Forgotten> {
        let steps = (way.steps)(entry);
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let mut places = self.places();
        let mut presence = before(entry.revision, &mut places, way, view)?;
        let summaries = presence.fold(&steps);
        places.push((entry.revision, presence));
        let over = places.len().saturating_sub(PLACES_MAX);
        places.drain(..over);
        Ok(summaries)
    }
}

/// What was there before `revision`. The place that it was found from is used up: the caller is further on.
fn before<S: Fn(&Entry) -> Vec<Step>>(
    revision: Revision,
    places: &mut Vec<Place>,
    way: &Way<'_, S>,
    view: View<'_>,
) -> Result<Presence, Forgotten> {
    let target = revision - 1;
    let nearest = (0..places.len()).min_by_key(|place| places[*place].0.abs_diff(target));
    let found = nearest.and_then(|nearest| {
        let (at, mut presence) = places[nearest].clone();
        way.go(at, target, &mut presence).ok()?;
        if at <= target {
            places.remove(nearest);
        }
        Some(presence)
    });
    if let Some(presence) = found {
        return Ok(presence);
    }
    let (at, mut presence) = view();
    places.push((at, presence.clone()));
    way.go(at, target, &mut presence)?;
    Ok(presence)
}

impl<S: Fn(&Entry) -> Vec<Step>> Way<'_, S> {
    /// Makes of what was there after `from` what was there after `to`.
    fn go(&self, from: Revision, to: Revision, presence: &mut Presence) -> Result<(), Forgotten> {
        let (low, high) = (from.min(to), from.max(to));
        let (mut cursor, mut passed) = (low, Vec::new());
        while cursor < high {
            let batch = self.log.read(self.scopes, cursor, READ_MAX)?;
            passed.extend(batch.entries.iter().filter(|entry| entry.revision <= high).map(|entry| (self.steps)(entry)));
            if batch.through < cursor {
                // Another log, of a store that came back with less.
                return Err(Forgotten { oldest: batch.through });
            }
            if batch.through == cursor {
                // The state is ahead of the log for the moment between folding and publishing.
                std::thread::yield_now();
            }
            cursor = batch.through;
        }
        if from <= to {
            passed.iter().for_each(|steps| _ = presence.fold(steps));
        } else {
            passed.iter().rev().for_each(|steps| presence.unfold(steps));
        }
        Ok(())
    }
}
