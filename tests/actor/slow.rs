//! Promise 12: who does not read costs the others nothing, and the registry little. Knows no front.

use std::time::Duration;

use onair::{
    actor::ActorOptions,
    proto::ResetReason,
    registry::{Instance, Record, Target},
    watch::HubOptions,
};

use super::{
    history::Fold,
    rig::{Rig, Watching, instance, pass, registration_of, service, until},
};

const LONG: Duration = Duration::from_secs(3_600);
/// As many as a snapshot of several parts takes.
const MANY: usize = 60;

fn large(id: usize) -> Instance {
    let text = prost_types::value::Kind::StringValue("x".repeat(10_000));
    Instance { metadata: Some(prost_types::Value { kind: Some(text) }), ..instance("web", &format!("{id:03}")) }
}

/// A registry of large instances, and a watcher that stopped in the middle of its snapshot.
async fn stopped(max_log_bytes: usize) -> (Rig, Vec<Record>, Watching, Fold) {
    let hub = HubOptions { max_log_bytes, ..HubOptions::default() };
    let rig = Rig::with(ActorOptions { hub, ..ActorOptions::default() });
    let mut records = Vec::new();
    for id in 0..MANY {
        records.push(rig.try_register(registration_of(large(id), LONG, ""), None).await.expect("registered").0);
    }
    let (mut watching, mut fold) = (rig.watch(service("web"), "").await, Fold::new());
    let first = watching.next().await;
    assert!(!first.snapshot_end && first.reset.is_none());
    fold.watch(&first);
    (rig, records, watching, fold)
}

/// It reads on: it is told that it begins anew, and has what there is.
async fn reads_on(mut watching: Watching, mut fold: Fold, count: usize) {
    let mut reset = None;
    loop {
        let message = watching.next().await;
        reset = reset.or(message.reset.as_ref().map(onair::proto::Reset::reason));
        fold.watch(&message);
        if message.snapshot_end {
            break;
        }
    }
    assert_eq!(reset, Some(ResetReason::FellBehind));
    assert_eq!(fold.instances().len(), count);
}

/// What it held of a state that is no more is given back, when nobody has read it for a minute…
#[tokio::test(start_paused = true)]
async fn who_stops_in_the_middle_of_a_snapshot_keeps_it_for_a_minute() {
    let (rig, mut records, watching, fold) = stopped(1 << 30).await;
    let last = records.pop().expect("one");
    rig.deregister(Target::Key(last.key())).await.expect("removed");
    let held = last.holders();
    pass(Duration::from_secs(50)).await;
    assert_eq!(last.holders(), held);
    pass(Duration::from_secs(20)).await;
    // All but the log.
    until(|| last.holders() < held).await;
    reads_on(watching, fold, MANY - 1).await;
}

/// …or as soon as the log does not go back to it: nobody could go on from there.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_the_log_has_forgotten_is_given_up() {
    let (rig, records, watching, fold) = stopped(100_000).await;
    for id in 0..MANY {
        rig.try_register(registration_of(large(id), LONG, ""), None).await.expect("registered");
    }
    pass(Duration::from_secs(10)).await;
    // All but the last, which the log has.
    until(|| records.iter().take(MANY - 20).all(|record| record.holders() == 1)).await;
    reads_on(watching, fold, MANY).await;
}

/// One that is read, however slowly, is read to its end, as long as it can be gone on from.
#[tokio::test(start_paused = true)]
async fn who_reads_slowly_has_its_snapshot() {
    let (rig, _, mut watching, mut fold) = stopped(1 << 30).await;
    rig.try_register(registration_of(large(MANY), LONG, ""), None).await.expect("registered");
    loop {
        pass(Duration::from_secs(50)).await;
        let message = watching.next().await;
        assert!(message.reset.is_none());
        fold.watch(&message);
        if message.snapshot_end {
            break;
        }
    }
    assert_eq!(fold.instances().len(), MANY);
    fold.watch(&watching.next().await);
    assert_eq!(fold.instances().len(), MANY + 1);
}
