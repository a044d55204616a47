//! The beats' own lane: renewals are judged and heard at once; only a beat that brings a status or ends SUSPECT, or whose
//! lease's expiry is in flight, waits for a commit.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{
    Actor, Recipient, Waiting,
    request::{Beat, BeatOutcome, BeatReply, Holder},
};
use crate::{
    engine::Engine,
    metrics::Lane,
    registry::{Command, Error, LeaseToken, Outcome, Registry, Status, Verdict},
};

/// A message of beats of which some still wait.
#[derive(Debug)]
pub(super) struct OpenBeats {
    outcomes: Vec<BeatOutcome>,
    holders: Vec<(usize, Holder)>,
    waiting: usize,
    answer: oneshot::Sender<BeatReply>,
}

/// A beat that waits until its lease's expiry is decided.
#[derive(Debug)]
pub(super) struct WaitingBeat {
    batch: u64,
    place: usize,
    token: LeaseToken,
    status: Status,
}

/// What a beat comes to at once.
enum Judged {
    Done(BeatOutcome),
    /// Its expiry is in flight.
    Expiring(LeaseToken),
    /// It wants another status, or ends SUSPECT.
    Status(LeaseToken),
}

/// How often the log tells that the registry is held up.
const HELD_UP_TOLD: Duration = Duration::from_secs(60);

/// Late rounds that the log was not told of.
#[derive(Debug, Default)]
pub(super) struct HeldUp {
    told: Option<Instant>,
    times: u64,
}

impl HeldUp {
    /// Another one: how many there were since it was told of them, if it is time to tell.
    fn late(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        if self.told.is_some_and(|told| now < told + HELD_UP_TOLD) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

impl<E: Engine> Actor<E> {
    /// Judges the beats of one message and answers when all are decided.
    pub(super) fn beats(&mut self, beats: Vec<Beat>, answer: oneshot::Sender<BeatReply>) {
        let mut outcomes = Vec::with_capacity(beats.len());
        let (mut holders, mut waiting) = (Vec::new(), Vec::new());
        {
            let hub = std::sync::Arc::clone(&self.hub);
            let registry = hub.registry();
            for (place, beat) in beats.iter().enumerate() {
                let judged = match self.verdict(&registry, beat) {
                    Verdict::Live(slot) => self.hear(&registry, slot, beat),
                    verdict => {
                        holders.extend(holder(&registry, verdict).map(|holder| (place, holder)));
                        Judged::Done(outcome_of(verdict))
                    }
                };
                match judged {
                    Judged::Done(outcome) => outcomes.push(outcome),
                    Judged::Expiring(_) | Judged::Status(_) => {
                        outcomes.push(BeatOutcome::TryAgain);
                        waiting.push((place, judged, beat.status));
                    }
                }
            }
            if waiting.is_empty() {
                let _ = answer.send(BeatReply { outcomes, holders, revision: registry.revision() });
                return;
            }
        }
        let batch = self.next_batch;
        self.next_batch += 1;
        self.open_beats.insert(batch, OpenBeats { outcomes, holders, waiting: waiting.len(), answer });
        for (place, judged, status) in waiting {
            match judged {
                Judged::Expiring(token) => {
                    let beat = WaitingBeat { batch, place, token, status };
                    self.latches.wait(token.key, Waiting::Beat(beat).into());
                }
                Judged::Status(token) => {
                    self.run_command(Command::SetStatus { token, status }, Recipient::Beat { batch, place });
                }
                Judged::Done(_) => {}
            }
        }
    }

    /// What the beat's token is worth: judged once, then known until its record changes.
    fn verdict(&mut self, registry: &Registry, beat: &Beat) -> Verdict {
        let Some(token) = &beat.token else { return Verdict::Unknown };
        if self.leases.lock().verified.knows(token) {
            return Verdict::Live(token.hint);
        }
        let verdict = registry.judge(Some(token));
        if let Verdict::Live(slot) = verdict {
            self.leases.lock().verified.remember(slot, token);
        }
        verdict
    }

    fn hear(&mut self, registry: &Registry, slot: u32, beat: &Beat) -> Judged {
        let Some(token) = beat.token else { return Judged::Done(BeatOutcome::Unknown) };
        let mut table = self.leases.lock();
        if table.time.is_expiring(slot) {
            return Judged::Expiring(token);
        }
        table.time.hear(slot);
        let unchanged = registry.record(slot).is_some_and(|record| match beat.status {
            Status::Unspecified => record.status != Status::Suspect,
            status => record.status == status && !self.latches.is_held(record.fingerprint),
        });
        if unchanged { Judged::Done(BeatOutcome::Renewed(table.time.ttl(slot))) } else { Judged::Status(token) }
    }

    /// The expiry that a beat waited for is decided.
    pub(super) fn beat_again(&mut self, beat: WaitingBeat) {
        let WaitingBeat { batch, place, token, status } = beat;
        if self.latches.is_held(token.key) {
            return self.latches.wait(token.key, Waiting::Beat(beat).into());
        }
        let verdict = self.hub.registry().judge(Some(&token));
        if let Verdict::Live(slot) = verdict {
            self.leases.lock().time.hear(slot);
            return self.run_command(Command::SetStatus { token, status }, Recipient::Beat { batch, place });
        }
        self.settle_by(batch, place, verdict);
    }

    /// A beat's command is done.
    pub(super) fn beat_done(&mut self, batch: u64, place: usize, command: &Command, outcome: Result<Outcome, Error>) {
        let outcome = match outcome {
            Ok(Outcome::Renewed { ttl }) => BeatOutcome::Renewed(ttl),
            Ok(Outcome::NotRenewed(verdict)) => return self.settle_by(batch, place, verdict),
            Ok(_) | Err(_) => BeatOutcome::TryAgain,
        };
        // The beat itself counts, whatever became of its status.
        if let Command::SetStatus { token, .. } = command {
            let verdict = self.hub.registry().judge(Some(token));
            if let Verdict::Live(slot) = verdict {
                self.leases.lock().time.hear(slot);
            }
        }
        self.settle(batch, place, outcome);
    }

    /// A beat that waited turned out to be of no live lease.
    fn settle_by(&mut self, batch: u64, place: usize, verdict: Verdict) {
        let holder = holder(&self.hub.registry(), verdict);
        if let Some(open) = self.open_beats.get_mut(&batch) {
            open.holders.extend(holder.map(|holder| (place, holder)));
        }
        self.settle(batch, place, outcome_of(verdict));
    }

    fn settle(&mut self, batch: u64, place: usize, outcome: BeatOutcome) {
        let Some(open) = self.open_beats.get_mut(&batch) else { return };
        open.outcomes[place] = outcome;
        open.waiting -= 1;
        if open.waiting == 0
            && let Some(OpenBeats { outcomes, mut holders, answer, .. }) = self.open_beats.remove(&batch)
        {
            holders.sort_unstable_by_key(|(place, _)| *place);
            let revision = self.hub.registry().revision();
            let _ = answer.send(BeatReply { outcomes, holders, revision });
        }
    }

    /// A mark came through: when it completes a round, time has passed, and what lapsed by it is proposed.
    pub(super) fn mark(&mut self, runtime: usize, at: Instant) {
        self.metrics.inbox_wait.of((Lane::Beats,)).observe(at.elapsed());
        if self.leases.lock().time.is_empty() {
            // It was on its way when the last lease went.
            return self.clock.rest();
        }
        let round = {
            let mut table = self.leases.lock();
            let Some(round) = self.clock.mark(runtime, at, Instant::now()) else { return };
            table.time.end_round(round.heard);
            round
        };
        self.metrics.clock_lag.set(self.clock.lag());
        self.metrics.clock_rounds.observe(self.clock.last_round());
        if round.late {
            self.metrics.late_rounds.inc();
            if let Some(times) = self.held_up.late(Instant::now()) {
                tracing::warn!(times, "the registry was held up; no lease pays for it");
            }
        }
        if round.may_expire {
            self.leases.lock().time.advance(round.now);
            self.expire();
        }
    }
}

/// The one that has the key now.
fn holder(registry: &Registry, verdict: Verdict) -> Option<Holder> {
    let Verdict::Superseded(slot) = verdict else { return None };
    let record = registry.record(slot)?;
    Some(Holder { key: record.key(), address: record.instance().address() })
}

fn outcome_of(verdict: Verdict) -> BeatOutcome {
    match verdict {
        Verdict::Unknown | Verdict::Live(_) => BeatOutcome::Unknown,
        Verdict::Expired => BeatOutcome::Expired,
        Verdict::Superseded(_) => BeatOutcome::Superseded,
        Verdict::Denied => BeatOutcome::Denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_told_once_a_minute() {
        let (mut held_up, start) = (HeldUp::default(), Instant::now());
        let told: Vec<Option<u64>> =
            [0, 1, 59, 60, 61, 200].map(|at| held_up.late(start + Duration::from_secs(at))).into();
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
