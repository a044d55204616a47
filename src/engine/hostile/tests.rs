//! Each of its manners, and that a user who keeps the contract ends with the truth whatever it does.

use proptest::prelude::*;

use super::*;
use crate::{
    engine::model::{Model, Op, op},
    registry::{Cause, Delete},
};

fn start(manners: Manners) -> (HostileEngine, HostileHandle, Model) {
    let (engine, handle, recovered) = HostileEngine::new(1, manners);
    let model = Model::new(recovered.registry_id, recovered.epochs);
    (engine, handle, model)
}

/// Proposes registrations of the keys; tickets count from 1.
fn register(engine: &mut HostileEngine, model: &mut Model, keys: &[u8]) {
    let propose = |key| model.propose(&Op::Register { key, size: 1 });
    engine.propose(keys.iter().copied().filter_map(propose).collect());
}

async fn committed_tickets(engine: &mut HostileEngine, model: &mut Model) -> Vec<u64> {
    match engine.next().await {
        Ok(Step::Committed { revision, changes, tickets }) => {
            model.fold(revision, &changes);
            tickets.into_iter().map(|ticket| ticket.0).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn refused_ticket(engine: &mut HostileEngine) -> u64 {
    match engine.next().await {
        Ok(Step::Refused { ticket }) => ticket.0,
        other => panic!("{other:?}"),
    }
}

/// Whether nothing happens now.
async fn is_quiet(engine: &mut HostileEngine) -> bool {
    tokio::time::timeout(Duration::from_secs(3600), engine.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn by_default_it_commits_in_order() {
    let (mut engine, handle, mut model) = start(Manners::default());
    register(&mut engine, &mut model, &[0, 2, 4]);
    for ticket in 1..=3 {
        assert_eq!(committed_tickets(&mut engine, &mut model).await, [ticket]);
    }
    assert!(is_quiet(&mut engine).await);
    assert_eq!(model.revision, 3);
    model.check(&handle.truth());
}

#[tokio::test(start_paused = true)]
async fn it_splits_reorders_and_skips() {
    let manners = Manners { skip: 5, reorder: true, group: 4, ..Manners::default() };
    let (mut engine, handle, mut model) = start(manners);
    let (mut order, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        register(&mut engine, &mut model, &[0, 2, 4, 6, 8, 10]);
        let mut committed = 0;
        while committed < 6 {
            let tickets = committed_tickets(&mut engine, &mut model).await;
            committed += tickets.len();
            sizes.push(tickets.len());
            order.extend(tickets);
        }
    }
    assert!(!order.is_sorted());
    assert!((1..=4).all(|size| sizes.contains(&size)) && !sizes.contains(&5), "{sizes:?}");
    assert!(model.revision > sizes.len() as u64, "revisions are skipped");
    model.check(&handle.truth());
}

#[tokio::test(start_paused = true)]
async fn it_refuses_what_another_node_overtook_and_what_it_likes() {
    let (mut engine, handle, mut model) = start(Manners { delay: Delay::Held, ..Manners::default() });
    register(&mut engine, &mut model, &[0]);
    handle.release(1);
    assert_eq!(committed_tickets(&mut engine, &mut model).await, [1]);

    // Ours is decided by the record that the other node then deletes.
    register(&mut engine, &mut model, &[0, 2]);
    assert!(is_quiet(&mut engine).await);
    assert_eq!(handle.in_flight(), 2);
    let key = model.records.keys().next().unwrap().clone();
    handle.foreign(vec![Change::Delete(Delete { key, cause: Cause::Expired, at: 5 })]);
    handle.release(2);
    assert_eq!(committed_tickets(&mut engine, &mut model).await, [0; 0]);
    assert_eq!(refused_ticket(&mut engine).await, 2);
    assert_eq!(committed_tickets(&mut engine, &mut model).await, [3]);

    register(&mut engine, &mut model, &[4, 6]);
    handle.refuse(1);
    handle.release(2);
    assert_eq!(refused_ticket(&mut engine).await, 4);
    assert_eq!(committed_tickets(&mut engine, &mut model).await, [5]);
    model.check(&handle.truth());
}

#[tokio::test(start_paused = true)]
async fn it_goes_away_and_comes_back() {
    for fate in [Fate::Committed, Fate::Dropped] {
        let (mut engine, handle, mut model) = start(Manners { delay: Delay::Held, ..Manners::default() });
        register(&mut engine, &mut model, &[0, 2]);
        handle.away("a test", fate);
        register(&mut engine, &mut model, &[4]); // not yet told: dropped
        assert!(matches!(engine.next().await, Ok(Step::Away { reason }) if reason == "a test"));
        assert!(is_quiet(&mut engine).await);
        let foreign = model.propose(&Op::Register { key: 6, size: 1 }).unwrap();
        handle.foreign(foreign.changes.into_iter().map(|guarded| guarded.change).collect());
        assert!(is_quiet(&mut engine).await);
        handle.back();
        let Ok(Step::Reload(recovered)) = engine.next().await else { panic!("no reload") };
        model.adopt(*recovered);
        assert_eq!(model.records.len(), if fate == Fate::Committed { 3 } else { 1 });
        assert!(matches!(engine.next().await, Ok(Step::Back)));
        handle.release(1);
        register(&mut engine, &mut model, &[8]);
        committed_tickets(&mut engine, &mut model).await;
        model.check(&handle.truth());
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "proposed to an engine that had said that it is away")]
async fn proposing_while_it_is_away_is_a_mistake() {
    let (mut engine, handle, mut model) = start(Manners::default());
    handle.away("a test", Fate::Dropped);
    assert!(matches!(engine.next().await, Ok(Step::Away { .. })));
    register(&mut engine, &mut model, &[0]);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "two proposals in flight touch one key")]
async fn proposing_a_key_twice_is_a_mistake() {
    let (mut engine, _handle, mut model) = start(Manners::default());
    register(&mut engine, &mut model, &[0, 0]);
}

#[tokio::test(start_paused = true)]
async fn it_fails_for_good() {
    let (mut engine, handle, _) = start(Manners::default());
    handle.fail("a test");
    for _ in 0..2 {
        assert_eq!(engine.next().await.unwrap_err().0, "a test");
    }
}

#[tokio::test(start_paused = true)]
async fn delays_end_by_polls_and_by_time() {
    for delay in [Delay::Polls(50), Delay::Time(Duration::from_secs(60))] {
        let (mut engine, _handle, mut model) = start(Manners { delay, ..Manners::default() });
        let begin = Instant::now();
        let mut turns = 0;
        register(&mut engine, &mut model, &[0, 2, 4]);
        for _ in 0..3 {
            let others = async {
                loop {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                tickets = committed_tickets(&mut engine, &mut model) => assert_eq!(tickets.len(), 1),
                () = others, if matches!(delay, Delay::Polls(_)) => {}
            }
        }
        match delay {
            Delay::Polls(_) => assert!(turns > 5, "{turns}"),
            _ => assert!(begin.elapsed() > Duration::from_secs(1)),
        }
    }
}

/// Follows the contract, deciding again what was refused, and gives what happened.
async fn follow(seed: u64, manners: Manners, batches: &[Vec<Op>]) -> (Model, HostileHandle, String) {
    let (mut engine, handle, recovered) = HostileEngine::new(seed, manners);
    let mut model = Model::new(recovered.registry_id, recovered.epochs);
    let mut happened = String::new();
    for batch in batches {
        let mut waiting: Vec<Proposal> = Vec::new();
        for proposal in batch.iter().filter_map(|op| model.propose(op)) {
            let key = proposal.changes[0].change.latch();
            if key.is_none() || waiting.iter().all(|other| other.changes[0].change.latch() != key) {
                waiting.push(proposal.clone());
                engine.propose(vec![proposal]);
            }
        }
        while !waiting.is_empty() {
            let step = engine.next().await.unwrap();
            happened += &format!("{step:?}\n");
            match step {
                Step::Committed { revision, changes, tickets } => {
                    model.fold(revision, &changes);
                    waiting.retain(|proposal| !tickets.contains(&proposal.ticket));
                }
                Step::Refused { ticket } => waiting.retain(|proposal| proposal.ticket != ticket),
                Step::Away { .. } => {
                    let Ok(Step::Reload(recovered)) = engine.next().await else { panic!("no reload") };
                    model.reload(*recovered, &std::mem::take(&mut waiting));
                    assert!(matches!(engine.next().await, Ok(Step::Back)));
                }
                Step::Reload(_) | Step::Back => panic!("it was not away"),
            }
        }
    }
    (model, handle, happened)
}

proptest! {
    /// Whatever it does, whoever folds what it tells holds the truth, and the same seed does it again.
    #[test]
    fn what_it_tells_is_the_truth(
        seed: u64,
        batches in prop::collection::vec(prop::collection::vec(op(), 1..12), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (model, handle, happened) = follow(seed, Manners::worst(), &batches).await;
            model.check(&handle.truth());
            let (.., again) = follow(seed, Manners::worst(), &batches).await;
            prop_assert_eq!(happened, again);
            Ok(())
        })?;
    }
}
