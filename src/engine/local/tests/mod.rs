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

#[tokio::test]
async fn a_newer_format_is_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let (engine, _) = LocalEngine::open(dir.path(), options(1)).unwrap();
    engine.close().await;
    let format = dir.path().join("store/format");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, "onair store, format 9\n").unwrap();
    let refused = LocalEngine::open(dir.path(), options(2)).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 9, supported: 1, .. }), "{refused}");
    fs::write(&format, text).unwrap();
    let (_engine, recovered) = LocalEngine::open(dir.path(), options(3)).unwrap();
    assert_eq!(recovered.epochs.len(), 2);
}
