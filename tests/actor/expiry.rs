//! Promises 2 and 3: never late, in order; and nobody goes for our restart.

use std::time::Duration;

use onair::{
    actor::{ActorOptions, BeatOutcome, RegistryHandle},
    engine::hostile::{Delay, Fate, Manners},
    registry::{Cause, EventType, LeaseToken},
};
use tokio::time::Instant;

use super::rig::{AGES, Rig, Stall, all, ms, pass, without_breaker};

/// What promise 2 allows, and what the paused time's 20 ms between marks add to the wait for the first.
const LATE: Duration = Duration::from_millis(120);
/// Most instances that one revision takes away.
const SLICE: usize = 1_000;

/// 10,000 leases, nobody beats, nobody calls: each goes within 100 ms of its deadline.
#[tokio::test(start_paused = true)]
async fn ten_thousand_lapses_are_seen_in_time() {
    let rig = Rig::with(without_breaker());
    let mut watching = rig.watch_all().await;
    let start = Instant::now();
    for number in 0..10_000 {
        rig.register("web", &number.to_string(), ms(1_000 + number % 2_000)).await;
    }
    assert_eq!(Instant::now(), start, "paused time stands while anybody has something to do");
    let (mut gone, mut last) = (0, Duration::ZERO);
    while gone < 10_000 {
        let (events, at) = watching.events().await;
        for (kind, cause, id) in events {
            if kind == EventType::Online {
                continue;
            }
            assert_eq!((kind, cause), (EventType::Offline, Cause::Expired));
            let ttl = ms(1_000 + id.parse::<u64>().unwrap() % 2_000);
            let lasted = at - start;
            assert!(lasted >= ttl && lasted <= ttl + LATE, "{id} of {ttl:?} went after {lasted:?}");
            // In the order of deadlines, up to what one round and its tick bring together.
            assert!(ttl + ms(30) >= last, "{id} of {ttl:?} after one of {last:?}");
            (gone, last) = (gone + 1, last.max(ttl));
        }
    }
}

/// What could not go in time goes in the order of deadlines, at most 1,000 in a revision.
#[tokio::test(start_paused = true)]
async fn a_burst_goes_in_order_and_in_slices() {
    let (rig, hostile) = Rig::hostile_with(Manners { group: 100, ..Manners::default() }, without_breaker());
    let mut watching = rig.watch_all().await;
    for number in 0..10_000_u64 {
        // In no order, and with a tick between one and the next.
        rig.register("web", &number.to_string(), ms(1_000 + number * 7 % 10_000 * 8)).await;
    }
    let (_, other) = rig.register("api", "1", AGES).await;
    while watching.ready().await.is_some() {}
    hostile.behave(Manners { delay: Delay::Held, ..Manners::default() });
    pass(Duration::from_secs(100)).await;
    assert_eq!(rig.instances(), 10_001, "nothing is seen that is not stored");
    assert_eq!(rig.beat(other).await, BeatOutcome::Renewed(AGES.as_millis() as u32), "others go on meanwhile");
    hostile.behave(Manners::default());
    let (mut order, mut revisions) = (Vec::new(), Vec::new());
    while order.len() < 10_000 {
        let message = watching.next().await;
        if !message.events.is_empty() {
            let ids = message.events.iter().map(|event| event.instance.as_ref().expect("a record").id.clone());
            order.extend(ids.map(|id| id.parse::<u64>().unwrap() * 7 % 10_000));
            revisions.extend(vec![message.revision; message.events.len()]);
        }
    }
    let fullest = revisions.chunk_by(|one, next| one == next).map(<[u64]>::len).max();
    assert!(fullest <= Some(SLICE), "{fullest:?} in one revision");
    // What was proposed before the stall is ahead of the rest, and within a slice the order is the record's own.
    let slices: Vec<_> = order.chunks(SLICE).collect();
    let ordered = slices.windows(2).filter(|pair| pair[0].iter().max() > pair[1].iter().min());
    assert_eq!(ordered.count(), 0, "an earlier slice has a later deadline");
    assert_eq!(rig.instances(), 1);
}

/// The next life of a registry that kept leases of these TTLs, whose port does not answer yet.
async fn next_life(ttls: &[Duration]) -> (Rig, Stall, Vec<LeaseToken>) {
    let (first, hostile) = Rig::hostile(Manners::default());
    let mut tokens = Vec::new();
    for (number, ttl) in ttls.iter().enumerate() {
        tokens.push(first.register("web", &number.to_string(), *ttl).await.1);
    }
    first.actor.abort();
    let (engine, kept) = hostile.restart(Fate::Dropped);
    let (handle, actor) = RegistryHandle::new(engine, kept, ActorOptions::default());
    let port = Stall::default();
    port.begin();
    (Rig::over(handle, actor, std::slice::from_ref(&port)), port, tokens)
}

/// After a restart the first deadline is the TTL or 30 s, whichever is more, from when the port answers, not from when the
/// store was read.
#[tokio::test(start_paused = true)]
async fn a_restart_gives_everyone_time() {
    let (rig, port, _) = next_life(&[ms(1_000), ms(29_000), ms(31_000), ms(90_000)]).await;
    let mut watching = rig.watch(all(), "").await;
    assert_eq!(watching.next().await.events.len(), 4);
    pass(Duration::from_secs(300)).await;
    port.end();
    let start = Instant::now();
    for (ids, deadline) in [(&["0", "1"][..], ms(30_000)), (&["2"], ms(31_000)), (&["3"], ms(90_000))] {
        let (events, at) = watching.events().await;
        let mut gone: Vec<_> = events.iter().map(|(.., id)| id.as_str()).collect();
        gone.sort_unstable();
        assert_eq!(gone, ids);
        let lasted = at - start;
        assert!(lasted >= deadline && lasted <= deadline + LATE, "{ids:?} after {lasted:?}");
    }
}

/// A beat within the grace makes it an ordinary lease again.
#[tokio::test(start_paused = true)]
async fn a_beat_ends_the_grace() {
    let (rig, port, tokens) = next_life(&[ms(2_000)]).await;
    port.end();
    pass(ms(5_000)).await;
    assert_eq!(rig.beat(tokens[0]).await, BeatOutcome::Renewed(2_000), "the token is good across a restart");
    let beaten = Instant::now();
    while rig.instances() > 0 {
        pass(ms(5)).await;
    }
    let lasted = beaten.elapsed();
    assert!(lasted >= ms(2_000) && lasted <= ms(2_000) + LATE, "{lasted:?} after its beat");
    assert_eq!(rig.beat(tokens[0]).await, BeatOutcome::Expired);
}
