//! The durable engine when the disk fails: with planted faults, on a small disk that fills, and under a file size
//! limit. Nothing acknowledged is lost, what was in flight is either way, and it heals without a restart.

use std::{
    collections::VecDeque,
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
};

use super::*;

/// What happens to one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It is refused, and nothing is written.
    Refused,
    /// It is written, and the sync fails.
    Unsynced,
    /// It is on disk, and an error is reported all the same.
    Written,
}

/// Faults to come, shared with the test.
#[derive(Default)]
struct Plan {
    commits: VecDeque<Fault>,
    failing_opens: usize,
    /// On the next opening this directory takes the store's place: an acknowledged revision is lost.
    older: Option<PathBuf>,
    opened: usize,
}

struct Faulty<O> {
    inner: O,
    plan: Arc<Mutex<Plan>>,
}

struct FaultyStore<S> {
    inner: S,
    plan: Arc<Mutex<Plan>>,
}

impl Opener for Faulty<Fjall> {
    type Store = FaultyStore<Noted>;

    fn open(&mut self, begin: Begin) -> Result<(Self::Store, Recovered), OpenError> {
        let mut plan = self.plan.lock().unwrap();
        plan.opened += 1;
        if plan.failing_opens > 0 {
            plan.failing_opens -= 1;
            return Err(self.inner.home.io_error(full()));
        }
        if let Some(older) = plan.older.take() {
            fs::remove_dir_all(self.inner.home.store()).unwrap();
            fs::rename(older, self.inner.home.store()).unwrap();
        }
        let (inner, recovered) = self.inner.open(begin)?;
        Ok((FaultyStore { inner, plan: Arc::clone(&self.plan) }, recovered))
    }

    fn failed(&mut self, error: StoreError) -> String {
        self.inner.failed(error)
    }
}

impl Store for FaultyStore<Noted> {
    fn commit(&mut self, groups: &[Group]) -> Result<(), StoreError> {
        let fault = self.plan.lock().unwrap().commits.pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => self.inner.commit(groups),
            Fault::Refused => Err(StoreError::Io(full())),
            Fault::Unsynced => {
                self.inner.commit(groups)?;
                Err(StoreError::Sync(io::Error::other("input/output error")))
            }
            Fault::Written => {
                self.inner.commit(groups)?;
                Err(StoreError::Poisoned)
            }
        }
    }
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

fn faulty(dir: &TempDir) -> (LocalEngine, Model, Arc<Mutex<Plan>>) {
    let plan = Arc::<Mutex<Plan>>::default();
    let Options { max_log_bytes, fresh_registry_id, epoch, metrics } = options(1);
    let inner = Fjall { home: Home::claim(dir.path()).unwrap(), max_log_bytes, fresh_registry_id };
    let (engine, recovered) = LocalEngine::start(Faulty { inner, plan: Arc::clone(&plan) }, epoch, metrics).unwrap();
    let model = Model::new(REGISTRY_ID, recovered.epochs);
    (engine, model, plan)
}

fn register(keys: std::ops::Range<u8>, size: usize) -> Vec<Op> {
    keys.map(|key| Op::Register { key: 2 * key, size }).collect()
}

#[tokio::test]
async fn a_refused_commit_is_reported_and_the_engine_comes_back() {
    for fault in [Fault::Refused, Fault::Unsynced, Fault::Written] {
        let dir = TempDir::new().unwrap();
        let (mut engine, mut model, plan) = faulty(&dir);
        drive(&mut engine, &mut model, &[register(0..4, 10)]).await.unwrap();
        *plan.lock().unwrap() = Plan { commits: [fault].into(), failing_opens: 1, ..Plan::default() };

        let before = model.records.clone();
        let (reason, in_flight) = drive(&mut engine, &mut model, &[register(2..6, 20)]).await.unwrap_err();
        assert!(reason.contains(dir.path().to_str().unwrap()), "{reason}");
        assert!(!reason.ends_with('.'), "{reason}");
        come_back(&mut engine, &mut model, &in_flight).await;
        assert_eq!(model.records == before, fault == Fault::Refused, "{fault:?}");
        assert_eq!(plan.lock().unwrap().opened, 2, "the first attempt fails too");

        drive(&mut engine, &mut model, &[register(4..6, 30)]).await.unwrap();
        engine.close().await;
        let (_engine, recovered) = LocalEngine::open(dir.path(), options(2)).unwrap();
        model.epochs.push(Epoch { id: 2, after: model.revision });
        model.check(&recovered);
    }
}

#[tokio::test]
async fn losing_acknowledged_revisions_begins_an_epoch() {
    let dir = TempDir::new().unwrap();
    let (engine, recovered) = LocalEngine::open(dir.path(), options(9)).unwrap();
    engine.close().await;
    let older = dir.path().join("store.new");
    copy(&dir.path().join("store"), &older);

    let (mut engine, mut model, plan) = faulty(&dir);
    drive(&mut engine, &mut model, &[register(0..4, 10)]).await.unwrap();
    *plan.lock().unwrap() = Plan { commits: [Fault::Refused].into(), older: Some(older), ..Plan::default() };
    drive(&mut engine, &mut model, &[register(0..4, 20)]).await.unwrap_err();
    let Ok(Step::Reload(reloaded)) = engine.next().await else { panic!("no reload") };
    assert!(reloaded.records.is_empty());
    assert_eq!(reloaded.revision, 0);
    let ids: Vec<_> = reloaded.epochs.iter().map(|epoch| epoch.id).collect();
    assert_eq!(ids[0], recovered.epochs[0].id);
    assert!(ids.len() == 2 && ids[1] != 1, "{ids:?}");
}

#[tokio::test]
async fn what_was_proposed_before_the_failure_was_known_is_dropped() {
    let dir = TempDir::new().unwrap();
    let (mut engine, mut model, plan) = faulty(&dir);
    *plan.lock().unwrap() = Plan { commits: [Fault::Refused].into(), ..Plan::default() };
    let mut propose = |engine: &mut LocalEngine, key| {
        let proposal = model.propose(&Op::Register { key, size: 1 }).unwrap();
        engine.propose(vec![proposal.clone()]);
        proposal.ticket
    };
    propose(&mut engine, 0);
    // Until the store is open again nobody has asked `next` what happened.
    while plan.lock().unwrap().opened == 0 {
        tokio::task::yield_now().await;
    }
    propose(&mut engine, 2);
    assert!(matches!(engine.next().await, Ok(Step::Away { .. })));
    assert!(matches!(engine.next().await, Ok(Step::Reload(_))));
    assert!(matches!(engine.next().await, Ok(Step::Back)));
    let ticket = propose(&mut engine, 2);
    match engine.next().await {
        Ok(Step::Committed { revision: 1, tickets, .. }) => assert_eq!(tickets, [ticket]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn closing_does_not_wait_for_a_store_that_stays_away() {
    let dir = TempDir::new().unwrap();
    let (mut engine, mut model, plan) = faulty(&dir);
    *plan.lock().unwrap() = Plan { commits: [Fault::Unsynced].into(), failing_opens: usize::MAX, ..Plan::default() };
    let (_, in_flight) = drive(&mut engine, &mut model, &[register(0..1, 1)]).await.unwrap_err();
    engine.close().await;
    // The next process, too, must not believe what the system shows of files whose sync failed.
    let note = dir.path().join("store/distrusted");
    assert!(note.exists());
    let (_engine, recovered) = LocalEngine::open(dir.path(), options(2)).unwrap();
    assert!(!note.exists());
    model.epochs.push(recovered.epochs[1]);
    model.reload(recovered, &in_flight);
}

/// Fills the disk, gives way, and fills it again.
#[test]
fn a_full_disk_loses_nothing_and_heals() {
    let Some(dir) = small_disk("engine::local::tests::faults::a_full_disk_loses_nothing_and_heals") else { return };
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    runtime().block_on(async {
        let home = dir.join("data");
        let (mut engine, recovered) = LocalEngine::open(&home, options(1)).unwrap();
        let mut model = Model::new(REGISTRY_ID, recovered.epochs);
        for room in [0, 1 << 20] {
            let in_flight = loop {
                match drive(&mut engine, &mut model, &[register(0..6, 8_000)]).await {
                    Ok(()) => {}
                    Err((reason, in_flight)) => {
                        assert!(reason.contains("No space left"), "{reason}");
                        break in_flight;
                    }
                }
            };
            fs::write(&ballast, vec![1; (1 << 20) - room]).unwrap();
            come_back(&mut engine, &mut model, &in_flight).await;
            drive(&mut engine, &mut model, &[vec![Op::Delete { key: 0 }], register(0..6, 10)]).await.unwrap();
        }
        engine.close().await;
        let (_engine, recovered) = LocalEngine::open(&home, options(2)).unwrap();
        model.epochs.push(Epoch { id: 2, after: model.revision });
        model.check(&recovered);
    });
}

/// A journal that may not grow: EFBIG, where a full disk is ENOSPC.
#[test]
fn a_file_size_limit_loses_nothing_and_heals() {
    let name = "engine::local::tests::faults::a_file_size_limit_loses_nothing_and_heals";
    let Some(dir) = in_child(name, "trap '' XFSZ; exec \"$@\"", &[]) else { return };
    let limit = |bytes: &str| {
        let pid = std::process::id().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status();
        status.is_ok_and(|status| status.success())
    };
    runtime().block_on(async {
        let (engine, _) = LocalEngine::open(&dir, options(1)).unwrap();
        engine.close().await;
        // From the second opening on the journal is as long as what is in it.
        let (mut engine, recovered) = LocalEngine::open(&dir, options(2)).unwrap();
        let mut model = Model::new(REGISTRY_ID, recovered.epochs);
        drive(&mut engine, &mut model, &[register(0..6, 10)]).await.unwrap();
        if !limit("100000") {
            println!("skipped: prlimit cannot limit the size of files here");
            return;
        }
        let batches = vec![register(0..6, 8_000); 10];
        let (reason, in_flight) = drive(&mut engine, &mut model, &batches).await.unwrap_err();
        assert!(reason.contains("File too large"), "{reason}");
        assert!(limit("unlimited"));
        come_back(&mut engine, &mut model, &in_flight).await;
        drive(&mut engine, &mut model, &batches).await.unwrap();
        engine.close().await;
        let (_engine, recovered) = LocalEngine::open(&dir, options(3)).unwrap();
        model.epochs.push(Epoch { id: 3, after: model.revision });
        model.check(&recovered);
    });
}

/// In a child process of the test: a 4 MiB file system of its own. In the test itself: none, when the child is done.
fn small_disk(test: &str) -> Option<PathBuf> {
    let mount = "mount -t tmpfs -o size=4m,mode=0700 onair \"$ONAIR_TEST_DIR\" && exec \"$@\"";
    let unshare = |args: &[&str]| {
        let mut tried = Command::new("unshare");
        tried
            .args(args)
            .args(["mount", "-t", "tmpfs", "onair", "/mnt"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let wrappers: [&[&str]; 2] = [&["unshare", "-m"], &["unshare", "-r", "-m"]];
    match wrappers.iter().find(|wrapper| env::var_os("ONAIR_TEST_DIR").is_some() || unshare(&wrapper[1..])) {
        Some(wrapper) => in_child(test, mount, wrapper),
        None => {
            println!("skipped: a file system cannot be mounted here");
            None
        }
    }
}

/// Runs the named test again in a child process, under a shell script that ends in `exec "$@"`. In the child: the
/// directory to use. In the parent: none, and the child has passed.
fn in_child(test: &str, script: &str, wrapper: &[&str]) -> Option<PathBuf> {
    if let Some(dir) = env::var_os("ONAIR_TEST_DIR") {
        return Some(dir.into());
    }
    let dir = TempDir::new().unwrap();
    let mut words: Vec<_> = wrapper.iter().map(std::ffi::OsString::from).collect();
    words.extend(["sh", "-c", script, "sh"].map(Into::into));
    words.push(env::current_exe().unwrap().into());
    words.extend(["--exact", "--nocapture", test].map(Into::into));
    let child = Command::new(&words[0]).args(&words[1..]).env("ONAIR_TEST_DIR", dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    None
}

/// A copy of a directory.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
