//! kill -9 at any moment: after each restart everything that was acknowledged is there, and nothing else than what the
//! killed process had proposed.

use std::{
    env,
    io::{BufRead, BufReader, Write, stdout},
    process::{Command, Stdio},
};

use super::*;
use crate::registry::Revision;

const DIR: &str = "ONAIR_TEST_KILL_DIR";
const ROUNDS: u64 = 6;

/// What is proposed for each revision: the same in the parent and in every child.
fn nth(revision: u64) -> Op {
    let key = (revision * 7 % 12) as u8;
    match revision % 5 {
        0 => Op::Delete { key },
        2 => Op::Write { key, size: (revision * 17 % 900) as usize },
        3 => Op::Update { key },
        _ => Op::Register { key, size: (revision * 131 % 3_000) as usize },
    }
}

/// The next proposal in this state, whatever number it takes to find one.
fn next(model: &mut Model) -> Proposal {
    (model.revision + 1..).find_map(|number| model.propose(&nth(number))).unwrap()
}

#[test]
fn whenever_it_is_killed_what_was_acknowledged_is_there() {
    if let Some(dir) = env::var_os(DIR) {
        return runtime().block_on(commit_until_killed(Path::new(&dir)));
    }
    let dir = TempDir::new().unwrap();
    let mut model = Model::new(REGISTRY_ID, Vec::new());
    for round in 1..=ROUNDS {
        let acknowledged = run_and_kill(dir.path(), model.revision + 40 * round);
        let (engine, recovered) = LocalEngine::open(dir.path(), options(round)).unwrap();
        assert!(recovered.revision >= acknowledged, "{} after {acknowledged}", recovered.revision);
        while model.revision < recovered.revision {
            let changes: Vec<_> = next(&mut model).changes.into_iter().map(|guarded| guarded.change).collect();
            model.fold(model.revision + 1, &changes);
        }
        model.epochs.clone_from(&recovered.epochs);
        model.check(&recovered);
        runtime().block_on(engine.close());
    }
    assert!(model.revision >= 40 * ROUNDS);
}

/// Runs this test in a child process until it has acknowledged `revision`, kills it, and gives the last that it has
/// acknowledged.
fn run_and_kill(dir: &Path, revision: Revision) -> Revision {
    let test = "engine::local::tests::kill::whenever_it_is_killed_what_was_acknowledged_is_there";
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acknowledged = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Some(number) = line.unwrap().strip_prefix("acknowledged ").and_then(|number| number.parse().ok()) else {
            continue;
        };
        acknowledged = number;
        if acknowledged == revision {
            child.kill().unwrap(); // and what it still managed to say is read on
        }
    }
    assert!(!child.wait().unwrap().success());
    acknowledged
}

async fn commit_until_killed(dir: &Path) {
    let (mut engine, recovered) = LocalEngine::open(dir, options(99)).unwrap();
    let mut model = Model::new(REGISTRY_ID, recovered.epochs.clone());
    model.adopt(recovered);
    let mut out = stdout().lock();
    writeln!(out).unwrap(); // after what the test harness has begun to say
    loop {
        let proposal = next(&mut model);
        engine.propose(vec![proposal]);
        let Ok(Step::Committed { revision, changes, .. }) = engine.next().await else { panic!("no commit") };
        model.fold(revision, &changes);
        writeln!(out, "acknowledged {revision}").unwrap();
    }
}
