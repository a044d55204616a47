//! The rig's leases as the promises describe them, kept in plain numbers, and what lapses. Knows no wheel.

use std::collections::BTreeMap;

use onair::registry::{Command, Key, Lapse, LeaseTime};

use super::{Ask, Rig, TICK};

/// A lease as the design keeps it.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    pub(super) ttl: u32,
    /// A TTL after its last beat. None until the round of its first beat is over.
    pub(super) own: Option<u64>,
    /// That, or another TTL later.
    pub(super) deadline: Option<u64>,
    /// In the open round.
    pub(super) heard: bool,
    pub(super) expiring: bool,
    pub(super) held_back: bool,
    /// Held back since the last round: a deadline that is past already comes up with the next.
    pub(super) fresh: bool,
}

impl Life {
    /// Whether the last beat is older than two thirds of the TTL, or it was held back since, whoever decided that.
    pub(super) fn is_silent(&self, now: u64) -> bool {
        let old = self.own.is_some_and(|own| 3 * own < 3 * now + u64::from(self.ttl));
        !self.heard && (old || self.own != self.deadline)
    }
}

impl Rig {
    /// The round ends: what was heard in it is good for its TTL from here.
    pub(super) fn round(&mut self, millis: u64) {
        self.clock += millis;
        self.time.end_round(LeaseTime(self.clock));
        self.time.advance(LeaseTime(self.clock));
        for life in self.leases.values_mut() {
            life.fresh = false;
            if std::mem::take(&mut life.heard) {
                life.own = Some(self.clock + u64::from(life.ttl));
                life.deadline = life.own;
            }
        }
    }

    pub(super) fn lapse(&mut self, max: usize, refused: bool) {
        let taken = self.time.take_due(max);
        let over = |life: &Life, by: u64| {
            !life.heard && !life.expiring && life.deadline.is_some_and(|deadline| deadline + by <= self.clock)
        };
        let mut lapsed = BTreeMap::new();
        for (slot, deadline) in &taken {
            let key = self.registry.record(*slot).expect("only what is held lapses").key();
            assert!(over(&self.leases[&key], 0), "{key} is early: {:?} at {}", self.leases[&key], self.clock);
            assert_eq!(self.leases[&key].deadline, Some(deadline.0));
            lapsed.insert(key, *slot);
        }
        assert!(taken.is_sorted_by_key(|(_, deadline)| *deadline), "not in order of deadline: {taken:?}");
        let last = taken.last().filter(|_| taken.len() == max).map_or(u64::MAX, |(_, deadline)| deadline.0);
        let left = |(key, life): &(&Key, &Life)| !lapsed.contains_key(*key) && over(life, TICK) && !life.fresh;
        for (key, life) in self.leases.iter().filter(left) {
            assert!(life.deadline >= Some(last), "{key} is late: {life:?} at {}", self.clock);
        }
        let (mut lapses, mut keys) = (Vec::new(), Vec::new());
        for (key, slot) in lapsed {
            let hold = self.is_one_of_too_many(&key, slot) && self.setting.breaker;
            if refused || self.held.contains(&key.fingerprint()) {
                self.time.retry(slot);
                continue;
            }
            self.leases.entry(key.clone()).or_default().expiring = true;
            lapses.extend(self.registry.record(slot).map(|record| Lapse { slot, record: record.clone(), hold }));
            let edition = self.model.live[&key].edition;
            keys.push((key, edition, hold));
        }
        if !keys.is_empty() {
            self.command(Command::Expire { lapses, at: self.wall }, Ask::Expire(keys, self.wall));
        }
    }

    /// Whether a lapse is to be held back: counted by looking at everybody. What timekeeping counts it knows to a tick.
    fn is_one_of_too_many(&self, key: &Key, slot: u32) -> bool {
        let here = self.time.is_one_of_too_many(slot);
        let zone = |key: &Key| self.model.live[key].instance.zone.clone();
        let is_there = |other: &Key| {
            (&other.namespace, &other.service) == (&key.namespace, &key.service) && zone(other) == zone(key)
        };
        let there: Vec<_> = self.leases.iter().filter(|(other, _)| is_there(other)).map(|(_, life)| life).collect();
        let silent = |now: u64| there.iter().filter(|life| life.is_silent(now)).count();
        let counted = silent(self.clock.saturating_sub(TICK))..=silent(self.clock);
        let held_back = self.leases[key].held_back;
        let right = counted.clone().any(|silent| (silent >= 5 && 2 * silent > there.len() && !held_back) == here);
        assert!(right, "{key}: {counted:?} of {} are silent, held back: {held_back}", there.len());
        here
    }

    /// Whatever became of the record since, it is the guard.
    pub(super) fn late_expiry(&mut self, which: usize, hold: bool) {
        let Some((slot, record, key, edition)) = self.records.get(which % self.records.len().max(1)).cloned() else {
            return;
        };
        let command = Command::Expire { lapses: vec![Lapse { slot, record, hold }], at: self.wall };
        self.command(command, Ask::Expire(vec![(key, edition, hold)], self.wall));
    }
}
