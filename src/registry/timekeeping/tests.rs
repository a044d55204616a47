//! The wheel against a plain table, and what a lease goes through. Knows no actor.

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

/// Leases 0 to `count` in one zone, all heard at 0.
fn neighbours(count: u32, ttl: u32) -> Timekeeping {
    let mut time = Timekeeping::default();
    for slot in 0..count {
        time.arm(slot, ttl);
        time.move_to(slot, "default", "web", "eu");
    }
    time.end_round(LeaseTime(0));
    time
}

fn tally(time: &Timekeeping, slot: u32) -> (u32, u32) {
    let Tally { instances, silent } = time.tally(slot);
    (silent, instances)
}

#[test]
fn silence_is_counted_from_two_thirds_of_the_ttl_until_a_beat() {
    let mut time = neighbours(3, 1_000);
    time.move_to(2, "default", "web", "us");
    for (now, silent) in [(664, 0), (671, 0), (672, 2), (1_000 - TICK, 2)] {
        time.advance(LeaseTime(now));
        assert_eq!(tally(&time, 0), (silent, 2), "{now}");
    }
    time.hear(0);
    assert_eq!(tally(&time, 0), (1, 2), "at once, not at the end of the round");
    time.move_to(1, "default", "web", "us");
    assert_eq!((tally(&time, 0), tally(&time, 2)), ((0, 1), (2, 2)), "who moves takes its silence along");
    time.disarm(1);
    assert_eq!(tally(&time, 2), (1, 1));
    time.end_round(LeaseTime(1_000));
    assert_eq!(due(&mut time, 1_000 + TICK), vec![2]);
    assert_eq!(tally(&time, 2), (1, 1), "who lapses is silent until it is gone");
    assert_eq!(due(&mut time, 1_672), Vec::<u32>::new());
    assert_eq!(tally(&time, 0), (1, 1));
}

#[test]
fn a_lapse_is_held_back_once_and_for_a_ttl_from_its_own_deadline() {
    let mut time = neighbours(5, 1_000);
    time.hear(4);
    time.end_round(LeaseTime(100));
    assert_eq!(due(&mut time, 1_000), vec![0, 1, 2, 3]);
    assert!((0..5).all(|slot| time.is_one_of_too_many(slot)), "the fifth is silent, though its deadline is to come");
    // The store took its time.
    time.advance(LeaseTime(1_080));
    (0..4).for_each(|slot| time.hold(slot));
    assert!((0..4).all(|slot| time.is_awaited(slot) && !time.is_expiring(slot) && !time.is_one_of_too_many(slot)));
    assert_eq!(due(&mut time, 1_104), vec![4]);
    assert_eq!(tally(&time, 0), (5, 5), "who is held back is silent still");
    time.hear(0);
    time.end_round(LeaseTime(1_500));
    assert_eq!(due(&mut time, 1_999), Vec::<u32>::new());
    assert_eq!(due(&mut time, 2_000), vec![1, 2, 3]);
    assert!(!time.is_one_of_too_many(1), "nobody is held back twice");
    assert_eq!(due(&mut time, 2_499), Vec::<u32>::new());
    assert_eq!(due(&mut time, 2_500 + TICK), vec![0], "one that was heard goes a TTL later");
}

/// A lease as the table has it.
#[derive(Clone, Copy)]
struct Row {
    ttl: u64,
    /// A TTL after the last beat.
    own: u64,
    /// That, or a TTL more while it is held back.
    in_force: u64,
    zone: usize,
}

const ZONES: [&str; 2] = ["eu", "us"];

proptest::proptest! {
    /// Whatever is armed, heard, moved, held back, freed and re-armed lapses exactly when a plain table says, and is
    /// counted as silent when it says so.
    #[test]
    fn agrees_with_a_table(ops in proptest::collection::vec((0u8..7, 0u32..8, 1_000u32..200_000), 1..200)) {
        let mut time = Timekeeping::default();
        let mut table = std::collections::BTreeMap::<u32, Row>::new();
        // Whose new deadline is past already when it is held back comes up with the next tick.
        let (mut now, mut held) = (0, Vec::new());
        for (op, slot, ttl) in ops {
            let (zone, long) = (ttl as usize % 2, u64::from(ttl));
            match op {
                0 => {
                    time.arm(slot, ttl);
                    time.move_to(slot, "default", "web", ZONES[zone]);
                    table.insert(slot, Row { ttl: long, own: now + long, in_force: now + long, zone });
                }
                1 => {
                    time.hear(slot);
                    table.entry(slot).and_modify(|lease| {
                        lease.own = now + lease.ttl;
                        lease.in_force = lease.own;
                    });
                }
                2 => {
                    time.disarm(slot);
                    table.remove(&slot);
                }
                3 if table.contains_key(&slot) => {
                    time.move_to(slot, "default", "web", ZONES[zone]);
                    table.entry(slot).and_modify(|lease| lease.zone = zone);
                }
                _ => {
                    now += long / 4;
                    held.clear();
                }
            }
            time.end_round(LeaseTime(now));
            for slot in due(&mut time, now) {
                let lease = table.get_mut(&slot).expect("only leases lapse");
                proptest::prop_assert!(lease.in_force <= now);
                if ttl % 3 == 0 && !time.is_suspect(slot) {
                    time.hold(slot);
                    lease.in_force += lease.ttl;
                    held.push(slot);
                } else {
                    time.disarm(slot);
                    table.remove(&slot);
                }
            }
            let silent = |zone: usize, now: u64| {
                let silent = table.values().filter(|lease| lease.zone == zone && 3 * lease.own < 3 * now + lease.ttl);
                silent.count() as u32
            };
            for (slot, lease) in &table {
                proptest::prop_assert!(lease.in_force + TICK > now || held.contains(slot), "slot {} is late", slot);
                let counted = time.tally(*slot);
                let instances = table.values().filter(|other| other.zone == lease.zone).count() as u32;
                proptest::prop_assert_eq!(counted.instances, instances);
                let (least, most) = (silent(lease.zone, now.saturating_sub(TICK)), silent(lease.zone, now));
                proptest::prop_assert!((least..=most).contains(&counted.silent), "{:?} of {}..{}", counted, least, most);
            }
            proptest::prop_assert_eq!(time.len(), table.len());
        }
    }
}
