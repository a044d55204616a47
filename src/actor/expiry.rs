//! What time does by itself: lapses become proposals, those of too many at once are held back (promise 6), and services
//! whose day has passed are forgotten. Knows neither how time passes nor who beats.

use std::{collections::HashMap, sync::Arc, time::Duration};

use smol_str::SmolStr;

use super::{Actor, Recipient, anyone, handle::wall_clock, unix_seconds};
use crate::{
    engine::{Engine, REVISION_BYTES_MAX},
    metrics::Metrics,
    registry::{
        Cause, Change, Command, Event, Lapse, LeaseTime, Record, Scope, Status, Tally, Timekeeping,
        catalog::{CatalogAction, CatalogCommand},
    },
};

/// Most leases that one proposal expires.
const EXPIRE_MAX: usize = 1_000;
/// Most such proposals in flight: one at the store while the next is made, so that a burst of lapses never fills a turn.
const EXPIRIES_MAX: usize = 2;
/// Most services forgotten at a time.
const FORGET_MAX: usize = 1_000;
/// Most catalogs that something is forgotten of at a time: each is a thousand versions.
const CATALOGS_FORGET_MAX: usize = 8;
/// Most lines in which one commit tells what the breaker did, so that a thousand services do not fill a turn with them.
const LINES_MAX: usize = 8;

impl<E: Engine> Actor<E> {
    /// Proposes what is to become of what lapsed, after all beats that were waiting have been heard.
    pub(super) fn expire(&mut self) {
        while self.away.is_none() && self.expiries < EXPIRIES_MAX {
            let due: Vec<(u32, LeaseTime, bool)> = {
                let time = &mut self.leases.lock().time;
                let taken = time.take_due(EXPIRE_MAX);
                let hold = |slot| time.is_one_of_too_many(slot);
                taken.into_iter().map(|(slot, deadline)| (slot, deadline, hold(slot))).collect()
            };
            if due.is_empty() {
                return;
            }
            let (mut lapses, mut later, mut bytes) = (Vec::with_capacity(due.len()), Vec::new(), 0);
            let now = self.clock.now().0;
            for (slot, LeaseTime(deadline), hold) in due {
                let record = self.hub.registry().record(slot).cloned();
                match record {
                    // Another change of theirs is in flight, or the revision is full: they are looked at again.
                    Some(record) if bytes > REVISION_BYTES_MAX || self.latches.is_held(record.fingerprint) => {
                        later.push(slot);
                    }
                    Some(record) => {
                        self.metrics.lapse_delay.observe(Duration::from_millis(now.saturating_sub(deadline)));
                        let hold = hold && self.breaker.is_for(&record);
                        // What is held back is stored anew; what goes is not.
                        bytes += if hold { record.bytes().len() } else { 0 };
                        lapses.push(Lapse { slot, record, hold });
                    }
                    None => self.leases.lock().time.disarm(slot),
                }
            }
            self.metrics.lapses.add(lapses.len() as u64);
            let any = !lapses.is_empty();
            if any {
                self.run_command(Command::Expire { lapses, at: unix_seconds() }, Recipient::Nobody);
            }
            later.into_iter().for_each(|slot| self.leases.lock().time.retry(slot));
            if !any {
                return;
            }
        }
    }

    /// An expiry came to nothing: what still stands is due again, whatever became of its record meanwhile.
    pub(super) fn retry_expiry(&mut self, command: &Command) {
        if let Command::Expire { lapses, .. } = command {
            let mut table = self.leases.lock();
            lapses.iter().for_each(|lapse| table.time.retry(lapse.slot));
        }
    }

    /// Forgets services that had no instance for a day, and catalogs that nobody has changed from what they began as.
    pub(super) fn forget(&mut self) {
        // What is not committed this time is tried again the next.
        let due = self.hub.registry().forgettable(unix_seconds(), FORGET_MAX);
        for (namespace, service) in due {
            self.run_command(Command::Forget { namespace, service }, Recipient::Nobody);
        }
        let at = wall_clock();
        let due = self.hub.registry().catalogs().forgettable(at.seconds, CATALOGS_FORGET_MAX);
        for namespace in due {
            let (action, principal) = (CatalogAction::Forget, anyone());
            let wanted = CatalogCommand { namespace, action, expected: 0, principal, at };
            self.run_command(Command::Catalog(Box::new(wanted)), Recipient::Nobody);
        }
    }

    /// That a service is forgotten is no event, but who asked for its health is told.
    pub(super) fn tell_forgotten(&self, changes: &[Change]) {
        for change in changes {
            if let Change::Forget { namespace, service } = change {
                self.hub.log().wake(&Scope::Service(namespace.clone(), service.clone()));
            }
        }
    }
}

/// Namespace, service and zone.
type Place = (SmolStr, SmolStr, SmolStr);

/// What became of those that were held back in one place, since there were none.
#[derive(Debug, Default)]
struct Episode {
    /// Still SUSPECT.
    held: u64,
    released: u64,
    gone: u64,
}

/// What is held back, as committed: counted, and told of. What is decided does not depend on it.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Whether this node holds lapses back. What another one held back is SUSPECT nevertheless.
    enabled: bool,
    /// Namespaces in which it does not.
    off: Vec<SmolStr>,
    episodes: HashMap<Place, Episode>,
    metrics: Arc<Metrics>,
}

impl Breaker {
    pub(super) fn new(enabled: bool, off: Vec<SmolStr>, metrics: Arc<Metrics>) -> Self {
        metrics.breaker.set(enabled.into());
        Self { enabled, off, episodes: HashMap::new(), metrics }
    }

    /// Whether lapses are held back where this instance is.
    fn is_for(&self, record: &Record) -> bool {
        self.enabled && !self.off.iter().any(|namespace| namespace == record.names().0)
    }

    /// What is SUSPECT in a state that was read anew. Nothing that comes of it is a trip of this life.
    pub(super) fn recover<'a>(&mut self, records: impl Iterator<Item = &'a Record>) {
        self.episodes.clear();
        let mut instances = 0;
        for record in records.filter(|record| record.status == Status::Suspect) {
            instances += 1;
            self.episodes.entry(place(record)).or_default().held += 1;
        }
        self.metrics.breaker_held.set(instances);
        self.metrics.breaker_zones.set(self.episodes.len() as u64);
        if instances > 0 {
            tracing::warn!(
                instances,
                "lapses that were held back before have their grace again, and go if they are not heard of in it"
            );
        }
    }

    /// Takes in what was folded; `time` has followed it.
    pub(super) fn follow(&mut self, events: &[Event], time: &Timekeeping) {
        let (mut tripped, mut over) = (Vec::new(), Vec::new());
        for event in events {
            let suspect =
                |record: &Option<Record>| record.as_ref().filter(|record| record.status == Status::Suspect).cloned();
            let (before, after) = (suspect(&event.before), suspect(&event.after));
            if let Some(record) = &before {
                self.end(record, event, &mut over);
            }
            if let Some(record) = &after {
                self.metrics.breaker_held.inc();
                let place = place(record);
                let episode = self.episodes.entry(place.clone()).or_default();
                episode.held += 1;
                if episode.held == 1 && before.is_none() {
                    self.metrics.breaker_trips.inc();
                    tripped.push((place, time.tally(event.slot)));
                }
            }
        }
        if !tripped.is_empty() || !over.is_empty() {
            self.metrics.breaker_zones.set(self.episodes.len() as u64);
        }
        tell_tripped(&tripped);
        tell_over(&over);
    }

    /// What was SUSPECT is not, or is so with another record.
    fn end(&mut self, record: &Record, event: &Event, over: &mut Vec<(Place, Episode)>) {
        self.metrics.breaker_held.dec();
        let place = place(record);
        let Some(episode) = self.episodes.get_mut(&place) else { return };
        episode.held -= 1;
        match &event.after {
            Some(after) if after.incarnation == record.incarnation && after.status != Status::Suspect => {
                self.metrics.breaker_released.inc();
                episode.released += 1;
            }
            None if event.cause == Cause::Expired => {
                self.metrics.breaker_gone.inc();
                episode.gone += 1;
            }
            _ => {}
        }
        let stays = event.after.as_ref().is_some_and(|after| after.status == Status::Suspect);
        if episode.held == 0 && !stays {
            over.extend(self.episodes.remove_entry(&place));
        }
    }
}

fn place(record: &Record) -> Place {
    let (namespace, service, _) = record.names();
    (namespace.into(), service.into(), record.zone().into())
}

fn tell_tripped(tripped: &[(Place, Tally)]) {
    for ((namespace, service, zone), tally) in tripped.iter().take(LINES_MAX) {
        let Tally { instances, silent } = tally;
        tracing::warn!(
            ?namespace,
            ?service,
            ?zone,
            silent,
            instances,
            "most instances fell silent at once: lapses there are held back for another TTL"
        );
    }
    if tripped.len() > LINES_MAX {
        tracing::warn!(more = tripped.len() - LINES_MAX, "lapses are held back in more places");
    }
}

fn tell_over(over: &[(Place, Episode)]) {
    for ((namespace, service, zone), Episode { released, gone, .. }) in over.iter().take(LINES_MAX) {
        tracing::info!(?namespace, ?service, ?zone, released, gone, "no lapse is held back there any more");
    }
    if over.len() > LINES_MAX {
        tracing::info!(more = over.len() - LINES_MAX, "no lapse is held back any more in more places");
    }
}
