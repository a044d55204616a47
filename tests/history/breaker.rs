//! Lapses that are held back, as one watch of everything shows them: when they have to be, when they may be, and what
//! ends it.

use std::{collections::BTreeMap, time::Duration};

use onair::{
    proto::BeatState,
    registry::{Cause, EventType, Instance, Key, Status},
};

use super::{
    Fault, History, Place, Reply, Request, View, fault, key_of,
    leases::Life,
    legal::everything,
    span::{Held, Seen, Span, apply},
};

/// A decision may be as much older than its commit, and who came or went in between is counted as it excuses.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// Promise 6: too many lapses at once are held back, others are not, for a TTL or until something is heard.
pub fn held_back(view: &View<'_>) -> Vec<Fault> {
    let everything = everything();
    let truths = view.spans.iter().filter(|span| span.filters == everything && span.base.is_some());
    let Some(truth) = truths.max_by_key(|span| span.to - span.from) else { return Vec::new() };
    let mut walk = Walk {
        view,
        held: truth.base.as_deref().cloned().unwrap_or_default(),
        joined: BTreeMap::new(),
        left: Vec::new(),
        faults: Vec::new(),
    };
    for (revision, seen) in &truth.events {
        walk.revision(*revision, seen);
    }
    let mut faults = walk.faults;
    faults.extend(renewed_and_suspect(view, truth));
    faults
}

/// When something was received.
fn time_of(history: &History, place: Place) -> Duration {
    match place {
        Place::Message(stream, message) => history.streams[stream].messages[message].0,
        Place::Stream(stream) => history.streams[stream].opened,
        Place::Operation(number) => history.operations[number].start,
    }
}

/// Where an instance counts.
type Zone<'h> = (&'h str, &'h str, &'h str);

fn zone_of(instance: &Instance) -> Zone<'_> {
    (&instance.namespace, &instance.service, &instance.zone)
}

/// How many of a zone were silent, of how many.
#[derive(Clone, Copy, Debug)]
struct Count {
    silent: usize,
    of: usize,
}

impl Count {
    fn trips(self) -> bool {
        self.silent >= 5 && 2 * self.silent > self.of
    }
}

/// What is known of a zone just before a revision.
struct Silence {
    /// Who may be silent when the revision is seen, of at least so many.
    most: Count,
    /// From when on each who is certainly silent is so, in order…
    certain: Vec<Duration>,
    /// …of at most so many.
    of: usize,
}

struct Walk<'v, 'h> {
    view: &'v View<'h>,
    held: Held<'h>,
    /// When an instance was seen to come where it is.
    joined: BTreeMap<Key, Duration>,
    /// Who was seen to leave a zone, and when.
    left: Vec<(Duration, Zone<'h>)>,
    faults: Vec<Fault>,
}

impl<'h> Walk<'_, 'h> {
    fn revision(&mut self, revision: u64, seen: &Seen<'h>) {
        let at = time_of(self.view.history, seen.place);
        // All of one revision were decided by what was there before it.
        let mut zones: BTreeMap<Zone<'h>, Silence> = BTreeMap::new();
        for event in &seen.events {
            let Some(instance) = &event.instance else { continue };
            let key = key_of(instance);
            let Some(before) = self.held.get(&key).copied() else { continue };
            let lapsed = event.r#type() == EventType::Offline && event.cause() == Cause::Expired;
            let zone = zone_of(before);
            let wrong = match (before.status(), instance.status()) {
                (Status::Suspect, _) if lapsed => self.end(&key, before, at),
                (Status::Serving, _) if lapsed => {
                    let silence = zones.entry(zone).or_insert_with(|| self.silence(zone, at));
                    self.lapse(&key, before, at, silence)
                }
                (Status::Suspect, Status::Suspect) => None,
                (Status::Suspect, _) if self.may_be_heard(&key, before, at, revision) => None,
                (Status::Suspect, _) => Some("is not SUSPECT any more, and nothing was heard of it".to_owned()),
                (_, Status::Suspect) => {
                    let silence = zones.entry(zone).or_insert_with(|| self.silence(zone, at));
                    self.trip(&key, before, at, silence.most)
                }
                _ => None,
            };
            self.faults.extend(wrong.map(|what| fault(6, seen.place, format!("{key} {what}"))));
        }
        for event in &seen.events {
            let Some(instance) = &event.instance else { continue };
            let key = key_of(instance);
            let before = self.held.get(&key).copied();
            let stays = event.r#type() != EventType::Offline;
            if let Some(before) = before.filter(|before| !stays || zone_of(before) != zone_of(instance)) {
                self.left.push((at, zone_of(before)));
            }
            if stays && before.is_none_or(|before| zone_of(before) != zone_of(instance)) {
                self.joined.insert(key, at);
            }
            apply(&mut self.held, &[event]);
        }
    }

    fn life(&self, key: &Key, instance: &Instance) -> Option<&Life<'h>> {
        self.view.leases.lives.get(&(key.clone(), instance.incarnation))
    }

    /// Looks at all of a zone. Who came or left a moment ago is counted in everybody's favour.
    fn silence(&self, zone: Zone<'_>, at: Duration) -> Silence {
        let recent = at.saturating_sub(IN_FLIGHT);
        let gone = self.left.iter().filter(|(left, of)| *left >= recent && *of == zone).count();
        let slack = self.view.history.settings.late.unwrap_or_default();
        let mut silence = Silence { most: Count { silent: gone, of: gone }, certain: Vec::new(), of: gone };
        for (key, instance) in self.held.iter().filter(|(_, instance)| zone_of(instance) == zone) {
            let life = self.life(key, instance);
            let sent = life.and_then(|life| Some((life.last_sent(at)?, life.ttl_min())));
            let may_be = sent.is_none_or(|(sent, ttl)| 3 * at.saturating_sub(sent) > 2 * ttl);
            let is_new = self.joined.get(key).is_some_and(|joined| *joined >= recent);
            silence.most.silent += usize::from(may_be);
            silence.most.of += usize::from(may_be || !is_new);
            silence.of += 1;
            let sure = life.filter(|life| !life.is_unsure());
            silence.certain.extend(sure.and_then(|life| Some(life.last_heard(at)? + slack + life.ttl_max() * 2 / 3)));
        }
        silence.certain.sort();
        silence
    }

    /// An instance is SUSPECT.
    fn trip(&self, key: &Key, before: &Instance, at: Duration, most: Count) -> Option<String> {
        if !self.view.history.settings.breaker {
            return Some("is held back, and the breaker is off".to_owned());
        }
        if before.status() != Status::Serving {
            return Some(format!("is held back, and took no traffic: it was {:?}", before.status()));
        }
        if let Some(sent) = self.life(key, before).and_then(|life| life.last_sent(at))
            && let Some(life) = self.life(key, before)
            && at < sent + life.ttl_min()
        {
            return Some(format!("is held back {:?} after it was renewed, its TTL is {:?}", at - sent, life.ttl_min()));
        }
        (!most.trips()).then(|| format!("is held back, and at most {} of {} were silent", most.silent, most.of))
    }

    /// A SUSPECT went.
    fn end(&self, key: &Key, before: &Instance, at: Duration) -> Option<String> {
        let life = self.life(key, before)?;
        let sent = life.last_sent(at).filter(|sent| at < *sent + 2 * life.ttl_min())?;
        Some(format!(
            "went {:?} after it was renewed: not held back for another TTL of {:?}",
            at - sent,
            life.ttl_min()
        ))
    }

    /// One that took traffic went without having been held back.
    fn lapse(&self, key: &Key, before: &Instance, at: Duration, silence: &Silence) -> Option<String> {
        let settings = &self.view.history.settings;
        settings.late.filter(|_| settings.breaker)?;
        let life = self.life(key, before)?;
        // It was not decided earlier than this.
        let decided = life.last_sent(at)? + life.ttl_min();
        let count = Count { silent: silence.certain.partition_point(|from| *from < decided), of: silence.of };
        count.trips().then(|| format!("went at once, though {} of {} were silent", count.silent, count.of))
    }

    /// Whether a call may have ended its being SUSPECT at `revision`, which was seen by `at`.
    fn may_be_heard(&self, key: &Key, before: &Instance, at: Duration, revision: u64) -> bool {
        if self.life(key, before).is_none() {
            // Somebody else's, who is not recorded.
            return true;
        }
        let is_of_key = |token: &str| self.view.leases.by_token.get(token).is_some_and(|(of, _)| of == key);
        self.view.history.operations.iter().any(|operation| {
            let of_it = match &operation.request {
                Request::Heartbeat(request) => request.beats.iter().any(|beat| is_of_key(&beat.lease_token)),
                Request::Register(request) => request.instance.as_ref().is_some_and(|one| {
                    one.service == key.service.as_str() && (one.id.is_empty() || one.id == key.id.as_str())
                }),
                // Who takes it away leaves nothing that could be SUSPECT.
                Request::Deregister(_) => true,
                Request::Lookup(_) | Request::Other(_) => false,
            };
            let answered = operation.reply().and_then(|(_, reply)| reply.revision());
            of_it && operation.start <= at && answered.is_none_or(|answered| answered >= revision)
        })
    }
}

/// Whoever is told RENEWED is not SUSPECT at the revision of the answer.
fn renewed_and_suspect(view: &View<'_>, truth: &Span<'_>) -> Vec<Fault> {
    let mut beats = Vec::new();
    for (number, operation) in view.history.operations.iter().enumerate() {
        let (Request::Heartbeat(request), Some((end, Reply::Heartbeat(reply)))) =
            (&operation.request, operation.reply())
        else {
            continue;
        };
        for (beat, result) in request.beats.iter().zip(&reply.results) {
            let Some(name) = view.leases.by_token.get(beat.lease_token.as_str()) else { continue };
            let short = view.leases.lives.get(name).is_some_and(|life| end - operation.start < life.ttl_min());
            if result.state() == BeatState::Renewed && short && truth.knows(reply.revision) {
                beats.push((reply.revision, number, name));
            }
        }
    }
    beats.sort();
    let (mut replay, mut faults) = (truth.replay(), Vec::new());
    for (revision, number, (key, incarnation)) in beats {
        let Some(replay) = &mut replay else { break };
        replay.advance(revision);
        let shown = replay.held.get(key).filter(|one| one.incarnation == *incarnation);
        if shown.is_some_and(|one| one.status() == Status::Suspect) {
            let what = format!("{key} was renewed at revision {revision}, and is SUSPECT there");
            faults.push(fault(6, Place::Operation(number), what));
        }
    }
    faults
}
