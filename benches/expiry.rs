//! What a renewal and a tick cost with many leases: the lazy wheel against the structures that it was chosen over; and
//! what very many lapses cost at once, held back or not. `cargo bench --bench expiry`; figures and the decisions are in
//! docs/decisions/0003-lease-clock-and-wheel.md and 0007-breaker.md.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use divan::{Bencher, counter::ItemsCount};
use onair::registry::{
    Change, Command, Decision, Instance, Lapse, Lease, LeaseTime, Put, Registry, SecretHash, Stamp, StateLimits,
    Status, Timekeeping,
};
use prost::Message as _;

fn main() {
    divan::main();
}

const LEASES: [u32; 2] = [10_000, 1_000_000];
/// Renewals in one round of 20 ms at 200,000 a second.
const ROUND: u32 = 4_000;
const TTL: u64 = 10_000;

/// Rounds until every deadline that was there at first has come up, and stale entries go as they come.
const SETTLED: u64 = 2 * TTL / 20;

/// Measures rounds of a structure that has been in use for a while.
fn settled(bencher: Bencher<'_, '_>, mut round: impl FnMut()) {
    (0..SETTLED).for_each(|_| round());
    bencher.counter(ItemsCount::new(ROUND)).bench_local(round);
}

/// Visits slots as renewals come: in no order that a cache would like.
fn scattered(step: u32, leases: u32) -> u32 {
    step.wrapping_mul(2_654_435_761) % leases
}

/// A full round of the wheel: renewals, its end, the tick.
#[divan::bench(args = LEASES)]
fn wheel_round(bencher: Bencher<'_, '_>, leases: u32) {
    let mut time = Timekeeping::default();
    for slot in 0..leases {
        time.arm(slot, TTL as u32);
    }
    time.end_round(LeaseTime(0));
    let (mut now, mut step) = (0, 0);
    settled(bencher, || {
        for _ in 0..ROUND {
            step += 1;
            time.hear(scattered(step, leases));
        }
        now += 20;
        time.end_round(LeaseTime(now));
        time.advance(LeaseTime(now));
        // What lapses in this bench begins anew, so that the number of leases stays.
        for (slot, _) in time.take_due(usize::MAX) {
            time.arm(slot, TTL as u32);
        }
    });
}

/// The same with a heap whose stale entries are passed over.
#[divan::bench(args = LEASES)]
fn heap_round(bencher: Bencher<'_, '_>, leases: u32) {
    let mut deadlines: Vec<u64> = vec![TTL; leases as usize];
    let mut heap: BinaryHeap<_> = (0..leases).map(|slot| Reverse((TTL, slot))).collect();
    let (mut now, mut step) = (0, 0);
    settled(bencher, || {
        for _ in 0..ROUND {
            step += 1;
            let slot = scattered(step, leases);
            deadlines[slot as usize] = now + TTL;
            heap.push(Reverse((now + TTL, slot)));
        }
        now += 20;
        while let Some(Reverse((deadline, slot))) = heap.peek().copied()
            && deadline <= now
        {
            heap.pop();
            if deadlines[slot as usize] == deadline {
                deadlines[slot as usize] = now + TTL;
                heap.push(Reverse((now + TTL, slot)));
            }
        }
    });
}

/// The same with an ordered set, where a renewal moves its entry.
#[divan::bench(args = LEASES)]
fn ordered_set_round(bencher: Bencher<'_, '_>, leases: u32) {
    let mut deadlines: Vec<u64> = vec![TTL; leases as usize];
    let mut set: BTreeSet<_> = (0..leases).map(|slot| (TTL, slot)).collect();
    let (mut now, mut step) = (0, 0);
    settled(bencher, || {
        for _ in 0..ROUND {
            step += 1;
            let slot = scattered(step, leases);
            let deadline = &mut deadlines[slot as usize];
            set.remove(&(*deadline, slot));
            *deadline = now + TTL;
            set.insert((*deadline, slot));
        }
        now += 20;
        while let Some((deadline, slot)) = set.first().copied()
            && deadline <= now
        {
            set.pop_first();
            deadlines[slot as usize] = now + TTL;
            set.insert((now + TTL, slot));
        }
    });
}

/// Lapses at once, and how many of them share a revision.
const LAPSES: usize = 100_000;
const SLICE: usize = 1_000;

/// A state whose leases all lapsed, in so many services of one zone each.
fn lapsed(services: usize) -> (Registry, Timekeeping) {
    let (mut registry, mut time) = (Registry::new(1, StateLimits::default()), Timekeeping::default());
    for number in 0..LAPSES {
        let instance = Instance {
            namespace: "default".into(),
            service: format!("service-{}", number % services),
            id: format!("10.0.0.1:{number}"),
            host: "10.0.0.1".into(),
            port: 8_000,
            version: "1.2.3".into(),
            zone: "eu-west-1a".into(),
            weight: Some(1),
            status: Status::Serving.into(),
            url: format!("http://10.0.0.1:{number}/some/where"),
            ..Instance::default()
        };
        let lease =
            Lease { ttl: TTL as u32, secret: SecretHash([0; 16]), request: 0, principal: None, unfenced: false };
        let description = instance.encode_to_vec().into();
        let (incarnation, revision) = (Stamp::Commit, Stamp::Commit);
        let put = Put { description, lease, incarnation, ordinal: 0, revision };
        let folded = registry.fold(registry.revision() + 1, &[Change::Put(put)]);
        folded.events.iter().for_each(|event| time.follow(event));
    }
    time.end_round(LeaseTime(0));
    time.advance(LeaseTime(TTL + 8));
    (registry, time)
}

/// Everything but the disk and the watchers: found, judged, decided, folded and followed, slice by slice.
#[divan::bench(args = [(1, true), (10_000, true), (1, false), (10_000, false)], sample_count = 5, sample_size = 1)]
fn lapses(bencher: Bencher<'_, '_>, (services, breaker): (usize, bool)) {
    let bencher = bencher.counter(ItemsCount::new(LAPSES)).with_inputs(|| lapsed(services));
    bencher.bench_local_values(|(mut registry, mut time)| {
        loop {
            let due = time.take_due(SLICE);
            let lapse = |(slot, _): (u32, LeaseTime)| {
                let record = registry.record(slot)?.clone();
                Some(Lapse { slot, record, hold: breaker && time.is_one_of_too_many(slot) })
            };
            let lapses: Vec<Lapse> = due.into_iter().filter_map(lapse).collect();
            if lapses.is_empty() {
                break;
            }
            let Decision::Propose(changes, _) = registry.decide(&Command::Expire { lapses, at: 0 }, 0) else {
                panic!("nobody renewed them")
            };
            let changes: Vec<Change> = changes.into_iter().map(|guarded| guarded.change).collect();
            let folded = registry.fold(registry.revision() + 1, &changes);
            folded.events.iter().for_each(|event| time.follow(event));
        }
        assert_eq!(registry.instances(), if breaker { LAPSES as u64 } else { 0 });
        (registry, time)
    });
}
