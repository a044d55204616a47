//! Promises 4 and 5: only the current incarnation's token does anything, and every beat is told what it is worth.

use std::time::Duration;

use onair::{
    actor::{Beat, BeatOutcome},
    engine::hostile::{Delay, Manners},
    registry::{Cause, Change, Error, EventType, Fingerprint, LeaseToken, Put, Secret, Stamp, Status, Target, Verdict},
};
use tokio::time::Instant;

use super::rig::{Rig, all, instance, ms, pass, plain, registration, registration_of, settle, until, within};

const TTL: Duration = Duration::from_secs(1);

fn wrong_secret(token: LeaseToken) -> LeaseToken {
    LeaseToken { secret: Secret([7; 16]), ..token }
}

/// One message of beats of every kind: each is answered by its position, and none spoils the others.
#[tokio::test(start_paused = true)]
async fn every_beat_is_told_what_it_is_worth() {
    let rig = Rig::new();
    let mut watching = rig.watch_all().await;
    let (_, expired) = rig.register("web", "expired", TTL).await;
    while rig.instances() > 0 {
        pass(ms(20)).await;
    }
    let (_, superseded) = rig.register("web", "superseded", ms(5_000)).await;
    rig.register("web", "superseded", ms(5_000)).await;
    let (_, live) = rig.register("web", "live", ms(2_000)).await;
    let (_, said) = rig.register("web", "said", ms(3_000)).await;
    let foreign = LeaseToken { registry: live.registry ^ 1, ..live };
    let elsewhere = LeaseToken { hint: 99, ..live };
    let mut ahead = live;
    ahead.lease.revision = rig.revision() + 1;
    let nobodys = LeaseToken { key: Fingerprint::of("default", "web", "nobody"), ..live };
    let plain = |token| (Some(token), Status::Unspecified);
    let table = [
        (plain(live), BeatOutcome::Renewed(2_000)),
        ((None, Status::Unspecified), BeatOutcome::Unknown),
        (plain(foreign), BeatOutcome::Unknown),
        (plain(superseded), BeatOutcome::Superseded),
        (plain(wrong_secret(live)), BeatOutcome::Denied),
        (plain(expired), BeatOutcome::Expired),
        (plain(nobodys), BeatOutcome::Expired),
        (plain(ahead), BeatOutcome::Unknown),
        (plain(elsewhere), BeatOutcome::Renewed(2_000)),
        ((Some(said), Status::Draining), BeatOutcome::Renewed(3_000)),
        ((Some(superseded), Status::Draining), BeatOutcome::Superseded),
        ((Some(wrong_secret(said)), Status::Draining), BeatOutcome::Denied),
        ((Some(said), Status::Draining), BeatOutcome::Renewed(3_000)),
        (plain(live), BeatOutcome::Renewed(2_000)),
    ];
    // Alone, all at once, and again when handlers know some of them.
    for ((token, status), outcome) in table {
        let reply = within(rig.handle.beat(vec![Beat { token, status }])).await.expect("there is room");
        assert_eq!(reply.outcomes, [outcome]);
    }
    for _ in 0..2 {
        let beats = table.iter().map(|((token, status), _)| Beat { token: *token, status: *status }).collect();
        let reply = within(rig.handle.beat(beats)).await.expect("there is room");
        assert_eq!(reply.outcomes, table.map(|(_, outcome)| outcome));
        assert!(reply.revision <= rig.revision());
    }
    let mut updated = 0;
    while let Some(message) = watching.ready().await {
        updated += message.events.iter().filter(|event| event.r#type() == EventType::Updated).count();
    }
    assert_eq!(updated, 1, "a status is news once");
}

/// The old incarnation's beats keep nobody alive, its deregistration and updates are refused, and it is told to stop.
#[tokio::test(start_paused = true)]
async fn an_old_incarnation_changes_nothing() {
    let rig = Rig::new();
    let mut watching = rig.watch_all().await;
    let (first, old) = rig.register("web", "1", TTL).await;
    let (second, new) = rig.register("web", "1", TTL).await;
    assert!(second.incarnation > first.incarnation);
    watching.events().await;
    watching.events().await;
    let taken_over = Instant::now();
    let refused = rig.deregister(Target::Lease(Some(old))).await;
    assert!(matches!(&refused, Err(Error::Superseded { holder, .. }) if holder == "127.0.0.1:80"), "{refused:?}");
    let passed_over = rig.deregister(Target::Leases(vec![old])).await;
    assert_eq!(passed_over.map(|(removed, _)| removed), Ok(0));
    let updated = rig.try_register(registration("web", "1", ms(60_000)), Some(old)).await;
    assert!(matches!(updated, Err(Error::Superseded { .. })), "{updated:?}");
    assert_eq!(rig.say(old, Status::Draining).await, BeatOutcome::Superseded);
    // Each is told of whoever has the key.
    let reply = rig.beats(&[old, old]).await;
    let holders: Vec<_> = reply.holders.iter().map(|(place, holder)| (*place, holder.address.as_str())).collect();
    assert_eq!(holders, [0, 1].map(|place| (place, "127.0.0.1:80")));
    while rig.instances() > 0 {
        assert_eq!(rig.beat(old).await, BeatOutcome::Superseded);
        pass(ms(20)).await;
    }
    let lasted = taken_over.elapsed();
    assert!(lasted >= TTL && lasted <= TTL + ms(150), "{lasted:?}");
    let (events, _) = watching.events().await;
    assert_eq!(events, [(EventType::Offline, Cause::Expired, "1".into())]);
    assert_eq!(rig.beats(&[old, new]).await.outcomes, [BeatOutcome::Expired; 2]);
    let gone = rig.deregister(Target::Lease(Some(new))).await;
    assert_eq!(gone.map(|(removed, _)| removed), Ok(0), "what is gone is gone, whoever asks again");
}

/// An expiry that was decided for an incarnation does not take the next one, which came from elsewhere meanwhile.
#[tokio::test(start_paused = true)]
async fn an_old_expiry_does_not_take_the_new_incarnation() {
    let (rig, hostile) = Rig::hostile(Manners::default());
    let (record, old) = rig.register("web", "1", TTL).await;
    hostile.behave(Manners { delay: Delay::Held, ..Manners::default() });
    until(|| hostile.in_flight() == 1).await;
    let beat = tokio::spawn({
        let handle = rig.handle.clone();
        async move { handle.beat(vec![plain(old)]).await.expect("there is room") }
    });
    let mut instance = record.instance();
    "::1".clone_into(&mut instance.host);
    (instance.incarnation, instance.revision) = (0, 0);
    let lease = onair::registry::Lease { secret: Secret([9; 16]).hash(), ..record.lease.clone() };
    let description = prost::Message::encode_to_vec(&instance).into();
    let (incarnation, revision) = (Stamp::Commit, Stamp::Commit);
    hostile.foreign(vec![Change::Put(Put { description, lease, incarnation, ordinal: 0, revision })]);
    let now = Instant::now();
    settle().await;
    hostile.behave(Manners::default());
    let reply = within(beat).await.expect("it is answered");
    let [(0, holder)] = &reply.holders[..] else { panic!("{reply:?}") };
    assert_eq!((reply.outcomes[0], holder.address.as_str()), (BeatOutcome::Superseded, "[::1]:80"));
    assert_eq!(rig.instances(), 1);
    assert!(rig.handle.hub().registry().records().all(|(_, held)| held.incarnation > record.incarnation));
    until(|| rig.instances() == 0).await;
    assert!(now.elapsed() >= TTL, "the new one lasted for {:?}", now.elapsed());
}

/// A beat whose lease's expiry is on its way to the store waits for what becomes of it, and is told the truth.
#[tokio::test(start_paused = true)]
async fn a_beat_waits_for_an_expiry_in_flight() {
    for (refused, status) in
        [(true, Status::Unspecified), (true, Status::Draining), (false, Status::Unspecified), (false, Status::Draining)]
    {
        let (rig, hostile) = Rig::hostile(Manners::default());
        let (_, token) = rig.register("web", "1", TTL).await;
        let (_, other) = rig.register("web", "2", ms(60_000)).await;
        hostile.behave(Manners { delay: Delay::Held, ..Manners::default() });
        until(|| hostile.in_flight() == 1).await;
        let handle = rig.handle.clone();
        let beats = vec![plain(other), Beat { token: Some(token), status }, plain(other)];
        let mut beat = tokio::spawn(async move { handle.beat(beats).await.expect("there is room").outcomes });
        assert!(tokio::time::timeout(ms(300), &mut beat).await.is_err(), "it is answered before anyone can know");
        assert_eq!(rig.beat(other).await, BeatOutcome::Renewed(60_000), "nobody else waits");
        let beaten = Instant::now();
        hostile.refuse(usize::from(refused));
        hostile.behave(Manners::default());
        let outcome = if refused { BeatOutcome::Renewed(1_000) } else { BeatOutcome::Expired };
        let others = BeatOutcome::Renewed(60_000);
        assert_eq!(within(beat).await.expect("it is answered"), [others, outcome, others]);
        until(|| rig.instances() == 1).await;
        assert_eq!(beaten.elapsed() >= TTL, refused, "{:?}", beaten.elapsed());
    }
}

/// The same request again is the same incarnation with a new token, and nobody is told of it.
#[tokio::test(start_paused = true)]
async fn a_repeated_registration_is_the_same_one() {
    let rig = Rig::new();
    let mut watching = rig.watch_all().await;
    let again = || registration_of(instance("web", "1"), TTL, "a request");
    let (_, older) = rig.try_register(registration("web", "1", TTL), None).await.expect("it is registered");
    watching.events().await;
    rig.deregister(Target::Lease(Some(older))).await.expect("it goes");
    watching.events().await;
    // As a client does that has an old token, and whose calls are answered to nobody.
    let (first, lost) = rig.try_register(again(), Some(older)).await.expect("it is registered");
    let (second, token) = rig.try_register(again(), Some(older)).await.expect("and again");
    assert_eq!((second.incarnation, second.revision), (first.incarnation, first.revision));
    assert_eq!(rig.beats(&[lost, token]).await.outcomes, [BeatOutcome::Denied, BeatOutcome::Renewed(1_000)]);
    let (events, _) = watching.events().await;
    assert_eq!(events, [(EventType::Online, Cause::Registered, "1".into())]);
    assert!(watching.ready().await.is_none_or(|message| message.events.is_empty()));
    assert!(matches!(rig.handle.hub().registry().judge(Some(&token)), Verdict::Live(_)));
}

/// What a registration is not asked again for stays: an update with nothing new makes no revision, and counts as a beat.
#[tokio::test(start_paused = true)]
async fn an_update_with_nothing_new_is_a_beat() {
    let rig = Rig::new();
    let (record, token) = rig.register("web", "1", TTL).await;
    assert_eq!(rig.say(token, Status::Draining).await, BeatOutcome::Renewed(1_000));
    let revision = rig.revision();
    for _ in 0..10 {
        pass(ms(600)).await;
        let (same, again) = rig.try_register(registration("web", "1", TTL), Some(token)).await.expect("it is ours");
        assert_eq!((same.incarnation, same.status, again), (record.incarnation, Status::Draining, token));
    }
    assert_eq!(rig.revision(), revision);
    let mut watching = rig.watch(all(), "").await;
    assert_eq!(watching.next().await.events.len(), 1);
}
