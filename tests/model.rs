//! Random histories of commands against the pure state and a naive model of it, written from the design's sentences.
//! No runtime, no engine, no sockets: those have tests of their own.

#[path = "model/compare.rs"]
mod compare;
#[path = "model/filters.rs"]
mod filters;
#[path = "model/logs.rs"]
mod logs;
#[path = "model/naive.rs"]
mod naive;
#[path = "model/ops.rs"]
mod ops;
#[path = "model/pages.rs"]
mod pages;
#[path = "model/rig.rs"]
mod rig;
#[path = "model/watching.rs"]
mod watching;

use proptest::{collection::vec, prelude::*};

use onair::registry::Status;

use self::{
    compare::{dump, from_dump},
    filters::union,
    ops::{Op, Pick, Tamper, history, setting},
    rig::Rig,
    watching::Truth,
};

/// So many cases, unless the environment's `PROPTEST_CASES` asks for more.
fn cases(cases: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    if asked { default } else { ProptestConfig { cases, ..default } }
}

proptest! {
    #![proptest_config(cases(120))]

    /// Whatever happens, every answer, every token's worth, and everything held are as the design says. The checks are
    /// in the rig.
    #[test]
    fn any_history_agrees_with_the_model(setting in setting(), ops in history(80)) {
        Rig::run_all(setting, &ops, &[]);
    }

    /// What is kept of any revision, with the revisions after it folded, is the state itself, whether or not it had the
    /// first of them already.
    #[test]
    fn folding_the_log_from_any_recovered_state_gives_the_state(setting in setting(), ops in history(60)) {
        let limits = setting.limits;
        let rig = Rig::run_all(setting, &ops, &[]);
        let Some(last) = rig.history.last() else { return Ok(()) };
        for (place, kept) in rig.history.iter().enumerate() {
            let mut state = from_dump(&kept.dump, limits, kept.revision);
            prop_assert_eq!(&dump(&state), &kept.dump);
            // Changes are absolute: those of this very revision change nothing any more.
            let mut again = from_dump(&kept.dump, limits, kept.revision - 1);
            again.fold(kept.revision, &kept.changes);
            prop_assert_eq!(&dump(&again), &kept.dump);
            for step in &rig.history[place + 1..] {
                state.fold(step.revision, &step.changes);
                prop_assert_eq!(&dump(&state), &step.dump);
            }
            prop_assert_eq!(&dump(&state), &last.dump);
        }
    }
}

/// Promise 6, as one history: who falls silent together is held back for another TTL. One is heard of again, one says
/// DRAINING and goes in its time, and the others go.
#[test]
fn a_crowd_that_falls_silent_is_held_back_once() {
    let count = ops::IDS.len();
    let limits = (100, 100, 100);
    let held = |ops: &[Op], breaker| {
        let rig = Rig::run_all(ops::Setting { group: 1, limits, breaker }, ops, &[]);
        let of = |status| rig.model.live.values().filter(|held| held.instance.status() == status).count();
        [Status::Serving, Status::Suspect, Status::Draining].map(of)
    };
    let pick = |issued| Pick { issued, tamper: Tamper::No };
    let mut ops = vec![Op::Crowd { zone: 1 }, Op::Round(20), Op::Round(1_100)];
    assert_eq!(held(&ops, true), [count, 0, 0]);
    ops.push(Op::Lapse { max: count, refused: false });
    assert_eq!(held(&ops, true), [0, count, 0]);
    assert_eq!(held(&ops, false), [0, 0, 0]);
    ops.extend([Op::Beat(pick(0)), Op::Status(pick(1), 3), Op::Round(500)]);
    assert_eq!(held(&ops, true), [1, count - 2, 1]);
    // A restart forgets who has been silent for how long, and not who was held back.
    for restart in [false, true] {
        let mut ops = ops.clone();
        let mut rounds = vec![Op::Round(600)];
        if restart {
            rounds = vec![Op::Restart];
            rounds.extend(vec![Op::Round(1_000); 31]);
        }
        ops.extend(rounds);
        ops.push(Op::Lapse { max: count, refused: false });
        // The one that was heard of is now one of eight that are silent.
        let left = if restart { [0, 1, 0] } else { [1, 0, 1] };
        assert_eq!(held(&ops, true), left, "restart: {restart}");
    }
}

proptest! {
    #![proptest_config(cases(60))]

    /// Promises 7, 9, 10 and 12 without a stream around them: whoever begins at any revision and reads at any pace is
    /// told exactly what crossed its filters, and has folded up to every revision what a lookup gives there.
    #[test]
    fn a_watch_folded_to_any_revision_is_a_lookup_there(
        setting in setting(),
        ops in history(60),
        unions in vec(union(), 1..5),
        paces in vec(1..16_u8, 1..6),
        small in any::<bool>(),
    ) {
        let rig = Rig::run_all(setting, &ops, &unions);
        // A small log forgets, so that slow readers fall behind.
        let bytes = if small { 3_000 } else { 1 << 20 };
        for (place, union) in unions.into_iter().enumerate() {
            let truth = Truth::new(union, &rig.history);
            watching::judged(&truth, &rig.history);
            let resets = watching::replay(&truth, place, &rig.history, bytes, &paces);
            prop_assert!(small || resets == 0, "nobody falls behind where everything is kept");
        }
    }
}
