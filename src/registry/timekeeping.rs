//! When leases lapse: deadlines beside the state, on a clock that only moves while beats are heard.
//!
//! A lazy timing wheel (Varghese and Lauck 1987, scheme 6) threaded through a table of slots: a renewal is a store into
//! the slot; a slot is filed anew when its bucket comes up and its deadline has moved, or when its deadline comes
//! nearer. It reads no clock: the reading is an argument, and rounds of marks (see `actor::clock`) make it advance.
//!
//! A lease comes up twice: when it falls silent, which its zone counts (see `breaker`), and at its deadline. One that is
//! beaten for as it should be comes up at two thirds of its TTL, and is only filed anew.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    Status,
    breaker::{Tally, ZoneNumber, Zones, silent_from},
    change::Event,
    record::Record,
};

/// A reading of the lease clock in milliseconds since this process began to keep time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseTime(pub u64);

/// Width of a bucket in milliseconds.
const TICK: u64 = 8;
/// Buckets in the wheel: deadlines up to 131 s away are filed exactly, others on the last one, then anew.
const BUCKETS: usize = 1 << 14;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No lease.
    Free,
    /// Running.
    Armed,
    /// Its deadline passed; its expiry is not proposed yet.
    Due,
    /// Its expiry is proposed.
    Expiring,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    deadline: u64,
    ttl: u32,
    bucket: u32,
    previous: u32,
    next: u32,
    zone: ZoneNumber,
    phase: Phase,
    /// In the open round.
    heard: bool,
    /// Counted as such by its zone.
    silent: bool,
    /// Held back once already, as committed: it goes at its deadline.
    suspect: bool,
}

const FREE: Slot = Slot {
    deadline: 0,
    ttl: 0,
    bucket: NONE,
    previous: NONE,
    next: NONE,
    zone: NONE,
    phase: Phase::Free,
    heard: false,
    silent: false,
    suspect: false,
};

impl Slot {
    /// When it comes up next.
    fn comes_up(&self) -> u64 {
        if self.silent { self.deadline } else { silent_from(self.deadline, self.ttl) }
    }
}

/// Deadlines of all leases, by the slot that the state gave their records.
#[derive(Debug)]
pub struct Timekeeping {
    slots: Vec<Slot>,
    heads: Vec<u32>,
    /// The tick through which buckets were emptied.
    tick: u64,
    /// Slots heard in the open round.
    round: Vec<u32>,
    due: BinaryHeap<Reverse<(u64, u32)>>,
    armed: usize,
    zones: Zones,
}

impl Default for Timekeeping {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            heads: vec![NONE; BUCKETS],
            tick: 0,
            round: Vec::new(),
            due: BinaryHeap::new(),
            armed: 0,
            zones: Zones::default(),
        }
    }
}

impl Timekeeping {
    /// How many leases there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.armed
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// A lease of `ttl` milliseconds begins in `slot`: its first deadline is set at the end of this round.
    pub fn arm(&mut self, slot: u32, ttl: u32) {
        self.disarm(slot);
        let at = slot as usize;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, FREE);
        }
        self.slots[at] = Slot { ttl, phase: Phase::Armed, ..FREE };
        self.armed += 1;
        self.hear(slot);
    }

    /// A lease found at recovery: it lasts until `deadline`, and for `ttl` milliseconds after each beat.
    pub fn arm_until(&mut self, slot: u32, ttl: u32, deadline: LeaseTime) {
        self.arm(slot, ttl);
        let lease = &mut self.slots[slot as usize];
        lease.heard = false;
        lease.deadline = deadline.0;
        self.file(slot);
    }

    /// Leases found at recovery, all good for `grace` milliseconds from now, or for their own TTL if that is longer. Who
    /// was SUSPECT has been held back once: the grace is as long as that would have been, and then it goes.
    pub fn recover<'a>(&mut self, leases: impl Iterator<Item = (u32, &'a Record)>, now: LeaseTime, grace: u32) {
        for (slot, record) in leases.filter(|(_, record)| !record.lease.is_own()) {
            let ttl = record.lease.ttl;
            self.arm_until(slot, ttl, LeaseTime(now.0 + u64::from(ttl.max(grace))));
            self.place(slot, record);
            self.slots[slot as usize].suspect = record.status == Status::Suspect;
        }
    }

    /// Keeps time for what was folded: a first TTL starts here, with the answer.
    pub fn follow(&mut self, event: &Event) {
        let slot = event.slot;
        match (&event.before, &event.after) {
            (_, Some(after)) if after.lease.is_own() => self.disarm(slot),
            (Some(before), Some(after)) if before.incarnation == after.incarnation => {
                self.set_ttl(slot, after.lease.ttl);
                if before.zone() != after.zone() {
                    self.place(slot, after);
                }
                match (self.is_suspect(slot), after.status == Status::Suspect) {
                    (false, true) => self.hold(slot),
                    (true, false) => self.slots[slot as usize].suspect = false,
                    _ => {}
                }
            }
            (_, Some(after)) => {
                self.arm(slot, after.lease.ttl);
                self.place(slot, after);
            }
            (_, None) => self.disarm(slot),
        }
    }

    /// The lease is of an instance that runs there.
    fn place(&mut self, slot: u32, record: &Record) {
        let (namespace, service, _) = record.names();
        self.move_to(slot, namespace, service, record.zone());
    }

    fn move_to(&mut self, slot: u32, namespace: &str, service: &str, zone: &str) {
        let zone = self.zones.enter(namespace, service, zone);
        let lease = &mut self.slots[slot as usize];
        let left = std::mem::replace(&mut lease.zone, zone);
        if lease.silent {
            self.zones.fell_silent(zone);
            self.zones.spoke(left);
        }
        self.zones.leave(left);
    }

    /// The lease is held back: it has another TTL from its deadline on, and not a second time.
    fn hold(&mut self, slot: u32) {
        let Some(lease) = self.slots.get_mut(slot as usize).filter(|lease| lease.phase != Phase::Free) else { return };
        lease.deadline += u64::from(lease.ttl);
        lease.phase = Phase::Armed;
        lease.suspect = true;
        // Another node may count a little faster.
        if !lease.silent && !lease.heard {
            lease.silent = true;
            self.zones.fell_silent(lease.zone);
        }
        self.unfile(slot);
        self.file(slot);
    }

    /// Whether the lease is held back.
    #[must_use]
    pub fn is_suspect(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|lease| lease.suspect)
    }

    /// Whether the lapse of this lease is to be held back: it was not yet, and most of its neighbours are silent too.
    #[must_use]
    pub fn is_one_of_too_many(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|lease| !lease.suspect && self.zones.tally(lease.zone).trips())
    }

    /// How many instances there are where that of this lease runs, and how many of them are silent.
    #[must_use]
    pub fn tally(&self, slot: u32) -> Tally {
        self.slots.get(slot as usize).map_or_else(Tally::default, |lease| self.zones.tally(lease.zone))
    }

    /// The lease in `slot` was heard of: it is good for its TTL from the end of this round. Not if it is expiring.
    pub fn hear(&mut self, slot: u32) {
        if let Some(lease) = self.slots.get_mut(slot as usize)
            && !lease.heard
            && matches!(lease.phase, Phase::Armed | Phase::Due)
        {
            lease.heard = true;
            self.round.push(slot);
            if std::mem::take(&mut lease.silent) {
                self.zones.spoke(lease.zone);
            }
        }
    }

    /// The lease has another TTL from its next beat on.
    pub fn set_ttl(&mut self, slot: u32, ttl: u32) {
        if let Some(lease) = self.slots.get_mut(slot as usize) {
            lease.ttl = ttl;
        }
    }

    /// The lease's TTL in milliseconds.
    #[must_use]
    pub fn ttl(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |lease| lease.ttl)
    }

    /// The lease in `slot` is over.
    pub fn disarm(&mut self, slot: u32) {
        let Some(lease) = self.slots.get(slot as usize) else { return };
        let Slot { phase, zone, silent, .. } = *lease;
        if phase == Phase::Free {
            return;
        }
        if silent {
            self.zones.spoke(zone);
        }
        self.zones.leave(zone);
        self.unfile(slot);
        self.slots[slot as usize] = FREE;
        self.armed -= 1;
    }

    /// Whether the lease's expiry is proposed: a beat has to wait for its outcome.
    #[must_use]
    pub fn is_expiring(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|lease| lease.phase == Phase::Expiring)
    }

    /// Whether a beat is more than a renewal: it waits for the outcome of an expiry, or ends SUSPECT.
    #[must_use]
    pub fn is_awaited(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|lease| lease.phase == Phase::Expiring || lease.suspect)
    }

    /// The round ends: what was heard in it, up to `heard`, is good for its TTL from there.
    pub fn end_round(&mut self, heard: LeaseTime) {
        let mut round = std::mem::take(&mut self.round);
        for slot in round.drain(..) {
            let lease = &mut self.slots[slot as usize];
            // Freed since, or in the round twice.
            if !std::mem::take(&mut lease.heard) {
                continue;
            }
            lease.deadline = heard.0 + u64::from(lease.ttl);
            lease.phase = Phase::Armed;
            let (bucket, next) = (lease.bucket, lease.comes_up());
            if bucket == NONE || self.tick_of(bucket) > next.div_ceil(TICK) {
                self.unfile(slot);
                self.file(slot);
            }
        }
        self.round = round;
    }

    /// Counts who is silent at `now`, and moves what is past its deadline to the due ones.
    pub fn advance(&mut self, now: LeaseTime) {
        let through = now.0 / TICK;
        while self.tick < through {
            self.tick += 1;
            let bucket = (self.tick as usize) % BUCKETS;
            let mut slot = std::mem::replace(&mut self.heads[bucket], NONE);
            while slot != NONE {
                let lease = &mut self.slots[slot as usize];
                let next = lease.next;
                (lease.bucket, lease.previous, lease.next) = (NONE, NONE, NONE);
                if !lease.silent && !lease.heard && lease.comes_up() <= now.0 {
                    lease.silent = true;
                    self.zones.fell_silent(lease.zone);
                }
                if lease.deadline <= now.0 && !lease.heard {
                    lease.phase = Phase::Due;
                    self.due.push(Reverse((lease.deadline, slot)));
                } else {
                    self.file(slot);
                }
                slot = next;
            }
        }
    }

    /// At most `max` leases to expire, the longest overdue first. Each is given once, until `retry`.
    pub fn take_due(&mut self, max: usize) -> Vec<(u32, LeaseTime)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(Reverse((deadline, slot))) = self.due.pop()
        {
            // A slot that was heard, freed or taken by another lease since has another phase or deadline.
            let lease = &mut self.slots[slot as usize];
            if lease.phase == Phase::Due && lease.deadline == deadline && !lease.heard {
                lease.phase = Phase::Expiring;
                taken.push((slot, LeaseTime(deadline)));
            }
        }
        taken
    }

    /// The expiry of `slot` came to nothing: it is due again.
    pub fn retry(&mut self, slot: u32) {
        if let Some(lease) = self.slots.get_mut(slot as usize)
            && lease.phase == Phase::Expiring
        {
            lease.phase = Phase::Due;
            self.due.push(Reverse((lease.deadline, slot)));
        }
    }

    /// The tick at which `bucket` comes up next.
    fn tick_of(&self, bucket: u32) -> u64 {
        let ahead = (u64::from(bucket) + BUCKETS as u64 - (self.tick + 1) % BUCKETS as u64) % BUCKETS as u64;
        self.tick + 1 + ahead
    }

    fn file(&mut self, slot: u32) {
        let lease = &self.slots[slot as usize];
        let tick = lease.comes_up().div_ceil(TICK).clamp(self.tick + 1, self.tick + BUCKETS as u64 - 1);
        let bucket = (tick as usize) % BUCKETS;
        let head = std::mem::replace(&mut self.heads[bucket], slot);
        let lease = &mut self.slots[slot as usize];
        (lease.bucket, lease.previous, lease.next) = (bucket as u32, NONE, head);
        if head != NONE {
            self.slots[head as usize].previous = slot;
        }
    }

    fn unfile(&mut self, slot: u32) {
        let Slot { bucket, previous, next, .. } = self.slots[slot as usize];
        if bucket == NONE {
            return;
        }
        match previous {
            NONE => self.heads[bucket as usize] = next,
            _ => self.slots[previous as usize].next = next,
        }
        if next != NONE {
            self.slots[next as usize].previous = previous;
        }
        let lease = &mut self.slots[slot as usize];
        (lease.bucket, lease.previous, lease.next) = (NONE, NONE, NONE);
    }
}

#[cfg(test)]
mod tests;
