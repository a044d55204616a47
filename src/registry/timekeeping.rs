//! When leases lapse: deadlines beside the state, on a clock that only moves while beats are heard.
//!
//! A lazy timing wheel (Varghese and Lauck 1987, scheme 6) threaded through a table of slots: a renewal is a store into
//! the slot; a slot is filed anew when its bucket comes up and its deadline has moved, or when its deadline comes
//! nearer. It reads no clock: the reading is an argument, and rounds of marks (see `actor::clock`) make it advance.

use std::{cmp::Reverse, collections::BinaryHeap};

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
    phase: Phase,
    heard: bool,
}

const FREE: Slot =
    Slot { deadline: 0, ttl: 0, bucket: NONE, previous: NONE, next: NONE, phase: Phase::Free, heard: false };

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

    /// Leases found at recovery, all good until `deadline` or their own TTL from now if that is longer.
    pub fn recover(&mut self, leases: impl Iterator<Item = (u32, u32)>, now: LeaseTime, grace: u32) {
        for (slot, ttl) in leases {
            self.arm_until(slot, ttl, LeaseTime(now.0 + u64::from(ttl.max(grace))));
        }
    }

    /// The lease in `slot` was heard of: it is good for its TTL from the end of this round. Not if it is expiring.
    pub fn hear(&mut self, slot: u32) {
        if let Some(lease) = self.slots.get_mut(slot as usize)
            && !lease.heard
            && matches!(lease.phase, Phase::Armed | Phase::Due)
        {
            lease.heard = true;
            self.round.push(slot);
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
        if lease.phase == Phase::Free {
            return;
        }
        self.unfile(slot);
        self.slots[slot as usize] = FREE;
        self.armed -= 1;
    }

    /// Whether the lease's expiry is proposed: a beat has to wait for its outcome.
    #[must_use]
    pub fn is_expiring(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|lease| lease.phase == Phase::Expiring)
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
            let (bucket, deadline) = (lease.bucket, lease.deadline);
            if bucket == NONE || self.tick_of(bucket) > deadline.div_ceil(TICK) {
                self.unfile(slot);
                self.file(slot);
            }
        }
        self.round = round;
    }

    /// Moves what is past its deadline at `now` to the due ones.
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
        let tick = lease.deadline.div_ceil(TICK).clamp(self.tick + 1, self.tick + BUCKETS as u64 - 1);
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
mod tests {
    use super::*;

    fn due(time: &mut Timekeeping, now: u64) -> Vec<u32> {
        time.advance(LeaseTime(now));
        time.take_due(usize::MAX).into_iter().map(|(slot, _)| slot).collect()
    }

    #[test]
    fn a_lease_lapses_at_its_ttl_after_the_round_and_within_a_tick() {
        let mut time = Timekeeping::default();
        time.arm(3, 1_000);
        time.end_round(LeaseTime(20));
        assert_eq!(due(&mut time, 1_019), Vec::<u32>::new());
        assert_eq!(due(&mut time, 1_020 + TICK), vec![3]);
        assert!(time.is_expiring(3));
    }

    #[test]
    fn a_beat_moves_the_deadline_and_a_shorter_ttl_brings_it_nearer() {
        let mut time = Timekeeping::default();
        time.arm_until(0, 1_000, LeaseTime(30_000));
        time.hear(0);
        time.end_round(LeaseTime(100));
        assert_eq!(due(&mut time, 1_090), Vec::<u32>::new());
        time.hear(0);
        time.end_round(LeaseTime(1_095));
        assert_eq!(due(&mut time, 2_090), Vec::<u32>::new());
        assert_eq!(due(&mut time, 2_095 + TICK), vec![0]);
    }

    #[test]
    fn a_beat_between_due_and_taken_saves_the_lease() {
        let mut time = Timekeeping::default();
        time.arm(0, 1_000);
        time.end_round(LeaseTime(0));
        time.advance(LeaseTime(1_100));
        time.hear(0);
        assert!(time.take_due(10).is_empty());
        time.end_round(LeaseTime(1_120));
        assert_eq!(due(&mut time, 2_100), Vec::<u32>::new());
        assert_eq!(due(&mut time, 2_120 + TICK), vec![0]);
    }

    #[test]
    fn far_deadlines_are_filed_anew_until_they_are_near() {
        let mut time = Timekeeping::default();
        time.arm(0, 3_600_000);
        time.end_round(LeaseTime(0));
        for now in (0..3_600_000).step_by(100) {
            assert_eq!(due(&mut time, now), Vec::<u32>::new(), "{now}");
        }
        assert_eq!(due(&mut time, 3_600_000 + TICK), vec![0]);
    }

    proptest::proptest! {
        /// Whatever is armed, heard, freed and re-armed lapses exactly when a plain table says.
        #[test]
        fn agrees_with_a_table(ops in proptest::collection::vec((0u8..4, 0u32..8, 1_000u32..200_000), 1..200)) {
            let mut time = Timekeeping::default();
            let mut table = std::collections::BTreeMap::<u32, (u64, u64)>::new();
            let mut now = 0;
            for (op, slot, ttl) in ops {
                match op {
                    0 => {
                        time.arm(slot, ttl);
                        table.insert(slot, (u64::from(ttl), now + u64::from(ttl)));
                    }
                    1 => {
                        time.hear(slot);
                        if let Some(lease) = table.get_mut(&slot) {
                            lease.1 = now + lease.0;
                        }
                    }
                    2 => {
                        time.disarm(slot);
                        table.remove(&slot);
                    }
                    _ => now += u64::from(ttl) / 4,
                }
                time.end_round(LeaseTime(now));
                let lapsed = due(&mut time, now);
                for slot in &lapsed {
                    let (_, deadline) = table.remove(slot).expect("only leases lapse");
                    proptest::prop_assert!(deadline <= now);
                    time.disarm(*slot);
                }
                for (deadline, slot) in table.iter().map(|(slot, (_, deadline))| (deadline, slot)) {
                    proptest::prop_assert!(*deadline + TICK > now, "slot {slot} is late");
                }
                proptest::prop_assert_eq!(time.len(), table.len());
            }
        }
    }
}
