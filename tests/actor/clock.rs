//! Promise 1: never early. Whatever holds the registry up, no instance pays for it.

use std::{collections::BTreeSet, time::Duration};

use onair::{
    actor::{ActorOptions, Beat, BeatOutcome},
    registry::{Cause, Error, EventType, Status},
};
use tokio::time::{Instant, advance};

use super::rig::{Rig, Watching, ms, pass, settle, within, without_breaker};

const TTL: Duration = Duration::from_secs(1);

fn runtimes(runtimes: usize) -> ActorOptions {
    ActorOptions { runtimes, ..without_breaker() }
}

/// When `id` goes, having lapsed.
async fn lapse(watching: &mut Watching, id: &str) -> Instant {
    let (events, at) = watching.events().await;
    assert_eq!(events, [(EventType::Offline, Cause::Expired, id.to_owned())]);
    at
}

/// The thread of the task gets no time, those that read sockets do, and beats go on: nobody is taken for silent, and who
/// falls silent then goes after a whole TTL.
#[tokio::test(start_paused = true)]
async fn a_stalled_task_expires_nobody_who_beats() {
    for (stall, runtimes) in [(ms(90), 1), (ms(700), 2), (ms(5_000), 2), (ms(5_000), 1)] {
        let rig = Rig::with(self::runtimes(runtimes));
        let mut watching = rig.watch_all().await;
        let (_, token) = rig.register("web", "1", TTL).await;
        watching.events().await;
        pass(ms(500)).await;
        rig.stall.begin();
        let mut last = Instant::now();
        let end = Instant::now() + stall;
        while Instant::now() < end {
            last = Instant::now();
            assert_eq!(rig.beat(token).await, BeatOutcome::Renewed(1_000));
            pass(ms(11)).await;
        }
        rig.stall.end();
        let gone = lapse(&mut watching, "1").await;
        assert!(gone >= last + TTL, "after a stall of {stall:?}, {:?} after its last beat", gone - last);
    }
}

/// A lease never lapses before its TTL has passed since its last beat, at whatever moment between marks that came.
#[tokio::test(start_paused = true)]
async fn a_lease_lasts_its_ttl_from_any_moment() {
    for runtimes in 1..4 {
        let rig = Rig::with(self::runtimes(runtimes));
        let mut watching = rig.watch_all().await;
        for offset in 0..41 {
            let (_, token) = rig.register("web", "1", TTL).await;
            watching.events().await;
            pass(ms(100 + offset)).await;
            let last = Instant::now();
            assert_eq!(rig.beat(token).await, BeatOutcome::Renewed(1_000));
            let gone = lapse(&mut watching, "1").await;
            assert!(gone >= last + TTL, "{:?} after its last beat", gone - last);
            assert!(gone <= last + TTL + ms(150), "{:?} after its last beat", gone - last);
            settle().await;
        }
    }
}

/// One of two runtimes that read sockets is held up: what it would have brought is not known, so time stands, and nobody
/// goes. When it is back, the clock stands for another moment, so that what waited in its sockets passes first.
#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_held_up_stops_the_clock() {
    let rig = Rig::with(runtimes(2));
    let mut watching = rig.watch_all().await;
    let (_, dead) = rig.register("web", "dead", TTL).await;
    watching.events().await;
    let (_, alive) = rig.register("web", "alive", TTL).await;
    watching.events().await;
    pass(ms(300)).await;
    rig.runtimes[1].begin();
    pass(Duration::from_secs(60)).await;
    assert_eq!(rig.instances(), 2, "for a minute nothing is known of either");
    rig.runtimes[1].end();
    pass(ms(240)).await;
    assert_eq!(rig.instances(), 2, "what waited in the sockets passes first");
    assert_eq!(rig.beat(alive).await, BeatOutcome::Renewed(1_000));
    let gone = lapse(&mut watching, "dead").await;
    let beaten = rig.beat(alive).await;
    assert_eq!((beaten, rig.beat(dead).await), (BeatOutcome::Renewed(1_000), BeatOutcome::Expired));
    let last = Instant::now();
    assert!(lapse(&mut watching, "alive").await >= last + TTL && gone <= last);
    let lag = rig.handle.metrics().clock_lag.get().as_millis() as u64;
    assert!((60_000..60_500).contains(&lag), "{lag} ms of real time did not count");
    assert_eq!(rig.handle.metrics().late_rounds.get(), 1);
}

/// The whole process stops for three TTLs while clients beat: when it goes on, their beats wait in the lane behind
/// nothing else, and are heard before anything may lapse.
#[tokio::test(start_paused = true)]
async fn beats_that_waited_are_heard_first() {
    let rig = Rig::with(runtimes(2));
    let mut watching = rig.watch_all().await;
    let mut tokens = Vec::new();
    for number in 0..100 {
        tokens.push(rig.register("web", &number.to_string(), TTL).await.1);
        watching.events().await;
    }
    pass(ms(900)).await;
    rig.stall.begin();
    rig.runtimes.iter().for_each(super::rig::Stall::begin);
    pass(TTL * 3).await;
    // Those that a handler may renew by itself, and those that have to be judged.
    let beats = tokens.iter().enumerate().map(|(number, token)| {
        let status = if number % 2 == 0 { Status::Serving } else { Status::Unspecified };
        let (handle, beat) = (rig.handle.clone(), Beat { token: Some(*token), status });
        tokio::spawn(async move { handle.beat(vec![beat]).await.expect("there is room").outcomes[0] })
    });
    let beats: Vec<_> = beats.collect();
    // The last to be read is heard after the first marks.
    rig.stall.end();
    settle().await;
    rig.runtimes[1].end();
    settle().await;
    rig.runtimes[0].end();
    for beat in beats {
        assert_eq!(within(beat).await.expect("it is answered"), BeatOutcome::Renewed(1_000));
    }
    let last = Instant::now();
    let mut gone = BTreeSet::new();
    while gone.len() < 100 {
        let (events, at) = watching.events().await;
        assert!(at >= last + TTL, "{events:?} after {:?}", at - last);
        gone.extend(events.into_iter().map(|(.., id)| id));
    }
}

/// A lane without room stops the clock: what would have been heard is not.
#[tokio::test(start_paused = true)]
async fn a_full_lane_stops_the_clock() {
    let rig = Rig::with(ActorOptions { max_inbox: 1, ..ActorOptions::default() });
    let (_, token) = rig.register("web", "1", TTL).await;
    pass(ms(500)).await;
    rig.stall.begin();
    let beat = || {
        let (handle, beat) = (rig.handle.clone(), Beat { token: Some(token), status: Status::Serving });
        tokio::spawn(async move { handle.beat(vec![beat]).await })
    };
    let beats: Vec<_> = (0..200).map(|_| beat()).collect();
    settle().await;
    pass(TTL * 10).await;
    rig.stall.end();
    pass(ms(200)).await;
    assert_eq!(rig.instances(), 1);
    let (mut renewed, mut refused) = (0, 0);
    for beat in beats {
        match within(beat).await.expect("it is answered") {
            Ok(reply) => renewed += usize::from(reply.outcomes == [BeatOutcome::Renewed(1_000)]),
            Err(error) => refused += usize::from(matches!(error, Error::Overloaded { .. })),
        }
    }
    assert!(renewed > 0 && refused > 0 && renewed + refused == 200, "{renewed} renewed, {refused} refused");
}

/// A computer that sleeps takes everything with it: one late round, and nobody goes for it.
#[tokio::test(start_paused = true)]
async fn a_suspended_computer_expires_nobody() {
    let rig = Rig::new();
    let mut watching = rig.watch_all().await;
    let (_, token) = rig.register("web", "1", TTL).await;
    watching.events().await;
    pass(ms(500)).await;
    advance(Duration::from_secs(8 * 3_600)).await;
    pass(ms(300)).await;
    assert_eq!(rig.beat(token).await, BeatOutcome::Renewed(1_000));
    let last = Instant::now();
    assert!(lapse(&mut watching, "1").await >= last + TTL);
}

/// Without leases nobody marks, and the first round after that is no pause that anything is excused by.
#[tokio::test(start_paused = true)]
async fn time_without_leases_is_no_pause() {
    let rig = Rig::with(runtimes(2));
    let mut watching = rig.watch_all().await;
    for _ in 0..3 {
        let (_, token) = rig.register("web", "1", TTL).await;
        let (_, registered) = watching.events().await;
        pass(ms(333)).await;
        assert_eq!(rig.beat(token).await, BeatOutcome::Renewed(1_000));
        let gone = lapse(&mut watching, "1").await;
        assert!(gone <= registered + ms(333) + TTL + ms(150), "{:?} after it was registered", gone - registered);
        pass(Duration::from_secs(60)).await;
    }
    assert_eq!(rig.handle.metrics().late_rounds.get(), 0);
}
