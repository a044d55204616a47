//! The durable engine against a plain model and against others who want the directory; `faults`, `damage` and `kill`
//! go on from here.

mod damage;
mod faults;
mod kill;

use std::{fs, sync::Arc};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::{
    Epoch,
    model::{Model, Op, come_back, drive, op},
};

const REGISTRY_ID: Uuid = Uuid::from_u128(7);

pub(super) fn options(epoch: u64) -> Options {
    Options { max_log_bytes: 1 << 20, epoch, fresh_registry_id: REGISTRY_ID, metrics: Arc::default() }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Whatever was committed before a restart is what the next start recovers, with an epoch more.
    #[test]
    fn recovers_what_was_committed(
        lives in prop::collection::vec(prop::collection::vec(prop::collection::vec(op(), 1..8), 0..8), 1..4),
        max_log_bytes in prop_oneof![Just(0), 500..20_000u64, Just(1 << 20)],
    ) {
        let dir = TempDir::new().unwrap();
        let mut model = Model::new(REGISTRY_ID, Vec::new());
        for (life, batches) in lives.iter().enumerate() {
            let epoch = 100 + life as u64;
            model.epochs.push(Epoch { id: epoch, after: model.revision });
            let options = Options { max_log_bytes, ..options(epoch) };
            let (mut engine, recovered) = LocalEngine::open(dir.path(), options).unwrap();
            model.check(&recovered);
            let kept: usize = recovered.tail.iter().map(|entry| entry.events.len()).sum();
            prop_assert!(kept == 0 || max_log_bytes > 0);
            runtime().block_on(async {
                drive(&mut engine, &mut model, batches).await.unwrap();
                engine.close().await;
            });
        }
    }
}

#[tokio::test]
async fn a_second_opener_is_told_so_and_a_later_one_is_not() {
    let dir = TempDir::new().unwrap();
    let (engine, _) = LocalEngine::open(dir.path(), options(1)).unwrap();
    let refused = LocalEngine::open(dir.path(), options(2)).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    engine.close().await;
    let (_engine, recovered) = LocalEngine::open(dir.path(), options(3)).unwrap();
    assert_eq!(recovered.epochs.iter().map(|epoch| epoch.id).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let refused = LocalEngine::open(dir.path(), options(1)).unwrap_err();
    assert!(matches!(refused, OpenError::NotOurs { .. }), "{refused}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let refused = LocalEngine::open(&dir.path().join("thesis.txt"), options(1)).unwrap_err();
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
}

/// What an onair of format 1 left: without what format 2 brought.
async fn of_format_1(dir: &Path) -> Model {
    let (mut engine, _) = LocalEngine::open(dir, options(1)).unwrap();
    let mut model = Model::new(REGISTRY_ID, vec![Epoch { id: 1, after: 0 }]);
    let batch = (0..12).map(|key| Op::Register { key, size: 100 }).collect();
    drive(&mut engine, &mut model, &[batch, vec![Op::Delete { key: 3 }]]).await.unwrap();
    engine.close().await;
    fs::rename(dir.join("store"), dir.join("store.newer")).unwrap();
    store::downgrade(&dir.join("store.newer"), &dir.join("store"));
    fs::copy(dir.join("store.newer/committed"), dir.join("store/committed")).unwrap();
    fs::remove_dir_all(dir.join("store.newer")).unwrap();
    fs::write(dir.join("store/format"), "onair store, format 1\n").unwrap();
    model
}

#[tokio::test]
async fn an_older_format_is_upgraded_and_the_older_store_is_kept() {
    let dir = TempDir::new().unwrap();
    let mut model = of_format_1(dir.path()).await;
    let (mut engine, recovered) = LocalEngine::open(dir.path(), options(2)).unwrap();
    model.epochs.push(Epoch { id: 2, after: model.revision });
    model.check(&recovered);
    drive(&mut engine, &mut model, &[vec![Op::Write { key: 1, size: 7 }]]).await.unwrap();
    engine.close().await;
    let kept = dir.path().join("store.format1");
    assert_eq!(fs::read_to_string(kept.join("format")).unwrap(), "onair store, format 1\n");
    assert_eq!(fs::read_to_string(dir.path().join("store/format")).unwrap(), format!("onair store, format {FORMAT}\n"));
    let (_engine, recovered) = LocalEngine::open(dir.path(), options(3)).unwrap();
    assert_eq!((recovered.documents.len(), recovered.epochs.len()), (1, 3));
    // What was kept is a whole store of its format: moved back, it is upgraded again.
    let other = TempDir::new().unwrap();
    faults::copy(&kept, &other.path().join("store"));
    let (_engine, recovered) = LocalEngine::open(other.path(), options(4)).unwrap();
    assert_eq!((recovered.documents.len(), recovered.records.len()), (0, model.records.len()));
}

#[tokio::test]
async fn an_upgrade_that_was_interrupted_is_done_again() {
    let dir = TempDir::new().unwrap();
    let mut model = of_format_1(dir.path()).await;
    // Before the first rename, and between the two.
    fs::create_dir(dir.path().join("store.new")).unwrap();
    fs::write(dir.path().join("store.new/half"), "a copy that never ended").unwrap();
    for interrupted in 0..2 {
        if interrupted == 1 {
            fs::rename(dir.path().join("store"), dir.path().join("store.format1")).unwrap();
        }
        let other = TempDir::new().unwrap();
        faults::copy(dir.path(), &other.path().join("data"));
        let (_engine, recovered) = LocalEngine::open(&other.path().join("data"), options(2)).unwrap();
        model.epochs.truncate(1);
        model.epochs.push(Epoch { id: 2, after: model.revision });
        model.check(&recovered);
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let (engine, _) = LocalEngine::open(dir.path(), options(1)).unwrap();
    engine.close().await;
    let format = dir.path().join("store/format");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, "onair store, format 9\n").unwrap();
    let refused = LocalEngine::open(dir.path(), options(2)).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 9, supported: FORMAT, .. }), "{refused}");
    fs::write(&format, text).unwrap();
    let (_engine, recovered) = LocalEngine::open(dir.path(), options(3)).unwrap();
    assert_eq!(recovered.epochs.len(), 2);
}
