//! What removes many at once, while others change them. Knows no front.

use std::time::Duration;

use onair::{
    actor::{Beat, BeatOutcome, Reply, anyone},
    engine::hostile::{Delay, HostileHandle, Manners},
    registry::{LeaseToken, Status, Target},
};
use tokio::task::JoinHandle;

use super::rig::{Rig, settle, within};

const TTL: Duration = Duration::from_secs(600);

fn held() -> Manners {
    Manners { delay: Delay::Held, ..Manners::default() }
}

fn say(rig: &Rig, token: LeaseToken, status: Status) -> JoinHandle<BeatOutcome> {
    let handle = rig.handle.clone();
    tokio::spawn(
        async move { within(handle.beat(vec![Beat { token: Some(token), status }])).await.unwrap().outcomes[0] },
    )
}

fn remove_all(rig: &Rig, service: &str) -> JoinHandle<u64> {
    let handle = rig.handle.clone();
    let target = Target::Service { namespace: "default".into(), service: service.into() };
    tokio::spawn(async move {
        match within(handle.deregister(target, anyone(), None)).await.expect("removed") {
            Reply::Removed { removed, .. } => removed,
            other => panic!("{other:?} is no answer to a removal"),
        }
    })
}

async fn commit(hostile: &HostileHandle) {
    hostile.release(1);
    settle().await;
}

/// Somebody always changes one of them before the change of another is committed.
#[tokio::test(start_paused = true)]
async fn a_whole_service_goes_however_much_goes_on_there() {
    let (rig, hostile) = Rig::hostile(Manners::default());
    let (_, one) = rig.register("web", "1", TTL).await;
    let (_, other) = rig.register("web", "2", TTL).await;
    hostile.behave(held());
    let first = say(&rig, one, Status::Draining);
    settle().await;
    let removals = [remove_all(&rig, "web"), remove_all(&rig, "web")];
    settle().await;
    let mut said = Vec::new();
    for (turn, token) in (0..).zip([other, one].into_iter().cycle().take(20)) {
        let status = if turn % 4 < 2 { Status::Draining } else { Status::Starting };
        said.push(say(&rig, token, status));
        settle().await;
        commit(&hostile).await;
        if removals.iter().all(JoinHandle::is_finished) {
            assert!(turn < 3, "after {turn} other changes");
            break;
        }
        assert!(turn < 19, "it never has its turn");
    }
    hostile.behave(Manners::default());
    let [all, nothing] = removals;
    assert_eq!((all.await.expect("no panic"), nothing.await.expect("no panic")), (2, 0));
    assert_eq!(first.await.expect("no panic"), BeatOutcome::Renewed(600_000));
    for said in said {
        assert_eq!(said.await.expect("no panic"), BeatOutcome::Expired);
    }
}

/// What comes to the service while its removal waits is none of those that it was asked to remove.
#[tokio::test(start_paused = true)]
async fn who_comes_while_a_removal_waits_stays() {
    let (rig, hostile) = Rig::hostile(Manners::default());
    let (_, one) = rig.register("web", "1", TTL).await;
    hostile.behave(held());
    let said = say(&rig, one, Status::Draining);
    settle().await;
    let late = {
        let handle = rig.handle.clone();
        let registration = super::rig::registration("web", "2", TTL);
        tokio::spawn(async move { within(handle.register(registration, None, anyone(), None)).await.is_ok() })
    };
    settle().await;
    let removal = remove_all(&rig, "web");
    settle().await;
    for _ in 0..3 {
        commit(&hostile).await;
    }
    assert_eq!(removal.await.expect("no panic"), 1);
    assert!(late.await.expect("no panic"));
    assert_eq!(said.await.expect("no panic"), BeatOutcome::Renewed(600_000));
    assert_eq!(rig.instances(), 1);
}
