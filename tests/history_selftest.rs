//! The checkers of `history`: a good history is clean, and each checker sees the fault that is planted for it.

#[path = "history_selftest/held_back.rs"]
mod held_back;
#[path = "history/mod.rs"]
mod history;
#[path = "history_selftest/messages.rs"]
mod messages;
#[path = "history_selftest/plants.rs"]
mod plants;
#[path = "history_selftest/sse.rs"]
mod sse;
#[path = "history_selftest/world.rs"]
mod world;

use std::time::Duration;

use history::{Fold, History, Message, Recorder, Request, Settings, assert_clean, check_all, report};
use onair::{
    proto::{Emptiness, LookupRequest, LookupResponse, RegisterRequest, ResetReason},
    registry::{Instance, Status},
};
use tonic::Code;
use tonic_types::PreconditionViolation;
use world::{World, error, everything, of};

const SERVING: Status = Status::Serving;
const SAME: Status = Status::Unspecified;

/// The streams of `story`, in the order they are opened.
const TRUTH: usize = 0;
const WEB: usize = 1;
const MANY: usize = 2;
const WEB_TOO: usize = 3;
const RESUMED: usize = 4;
const RESET: usize = 5;

/// A history in which everything happens and every promise is kept.
pub fn story() -> History {
    let mut world = World::default();
    world.watch(everything(), "", None);
    let web = world.register("web", &["a", "b", "c"], 60);
    world.watch(of("web"), "", None);
    let many = world.subscribe();
    world.add(many, "web", of("web"));
    world.add(many, "all", vec![]);
    let api = world.register("api", &["x", "y"], 60);
    world.register_with("shop", "s", &[("web", ""), ("auth", "^1")], &[("auth", "localhost:3000")]);
    let brief = world.register("web", &["brief"], 2);
    world.beat(&[(&web[0], SAME), ("no token", SAME), (&brief[0], SERVING)]);
    world.lookup(&of("web")[0]);
    world.lookup(&everything()[0]);
    let token = world.last_token(WEB);
    world.watch(of("web"), "", None);

    world.pass(Duration::from_millis(500));
    world.beat(&[(&web[1], Status::Draining)]);
    world.lookup(&of("web")[0]);
    let new = world.register("web", &["a"], 60);
    world.beat(&[(&web[0], SAME), (&new[0], SAME), (&web[1], SERVING)]);
    world.deregister(&web[0]);
    world.leave(WEB);
    world.pass(Duration::from_millis(1_520));
    world.expire("web", "brief");
    world.beat(&[(&brief[0], SAME)]);
    world.deregister(&web[2]);
    world.register("web", &["d", "e", "f"], 60);
    world.resume(of("web"), &token);
    world.lookup(&of("web")[0]);

    world.deregister(&api[0]);
    world.deregister(&api[1]);
    world.lookup(&of("api")[0]);
    world.lookup(&of("nothing")[0]);
    world.drop(many, "all");
    world.watch(of("web"), "r1", Some((ResetReason::TooOld, 3)));
    world.bookmarks();
    world.pass(Duration::from_secs(15));
    world.bookmarks();
    world.beat(&[(&new[0], SAME), (&web[1], SAME)]);
    let refused = error(Code::InvalidArgument, "INVALID", &[], |details| {
        details.add_bad_request_violation("selector", "is none");
    });
    world.refuse(LookupRequest { selector: "=".into(), ..LookupRequest::default() }, refused);
    let missing = |names: &[&str]| {
        let number = [("missing", names.len().to_string())];
        let violation = |name: &&str| PreconditionViolation::new("MISSING_DEPENDENCY", *name, "no routable instance");
        error(Code::FailedPrecondition, "MISSING_DEPENDENCY", &[("missing", &number[0].1)], |details| {
            details.set_precondition_failure(names.iter().map(violation).collect::<Vec<_>>());
        })
    };
    let needs = ["web", "api", "auth"].map(|name| (name.to_owned(), String::new()));
    let instance = Instance { service: "late".into(), ..Instance::default() };
    let needing = RegisterRequest { instance: Some(instance), dependencies: needs.into(), ..Default::default() };
    world.refuse(needing, missing(&["api", "auth"]));
    world.lookup(&of("web")[0]);
    world.refuse(
        LookupRequest { min_revision: 999, ..LookupRequest::default() },
        error(Code::FailedPrecondition, "REVISION_AHEAD", &[("revision", "30")], |_| ()),
    );
    let mut history = world.shut_down();
    history.settings = Settings { late: Some(Duration::from_millis(100)), ..Settings::default() };
    history
}

/// A history in which most of a service's instances fall silent at once, and some are heard of again.
pub fn crowd() -> History {
    let mut world = World::default();
    world.watch(everything(), "", None);
    world.watch(of("crowd"), "", None);
    let ids = ["1", "2", "3", "4", "5", "6"];
    let six = world.register("crowd", &ids, 2);
    world.register("few", &["1", "2", "3", "4"], 2);
    world.pass(Duration::from_millis(2_020));
    world.hold_back("crowd", &ids);
    ["1", "2", "3", "4"].iter().for_each(|id| world.expire("few", id));
    world.lookup(&of("crowd")[0]);
    world.pass(Duration::from_millis(500));
    world.beat(&[(&six[0], SAME), (&six[1], Status::Draining), (&six[0], SAME)]);
    world.lookup(&of("crowd")[0]);
    world.pass(Duration::from_millis(1_470));
    ids[2..].iter().for_each(|id| world.expire("crowd", id));
    world.lookup(&of("crowd")[0]);
    let mut history = world.shut_down();
    history.settings = Settings { late: Some(Duration::from_millis(100)), ..Settings::default() };
    history
}

#[test]
fn a_good_history_is_clean() {
    assert_clean(&story());
    assert_clean(&crowd());
}

#[test]
fn every_plant_is_found_by_its_checker() {
    let (mut covered, mut missed) = (std::collections::BTreeSet::new(), Vec::new());
    let all = plants::ALL.iter().map(|plant| (plant, story()));
    for ((promise, name, words, plant), mut history) in all.chain(held_back::ALL.iter().map(|plant| (plant, crowd()))) {
        plant(&mut history);
        let faults = check_all(&history);
        if !faults.iter().any(|fault| fault.promise == *promise && fault.what.contains(words)) {
            missed.push(format!("promise {promise}, {name}: {}", report(&history, &faults)));
        }
        covered.insert(*promise);
    }
    assert!(missed.is_empty(), "{}", missed.join("\n\n"));
    for (promise, name, _) in history::CHECKERS {
        assert!(covered.contains(&promise), "no plant for {promise}, {name}");
    }
}

#[test]
fn what_is_not_known_is_excused() {
    let all = plants::HARMLESS.iter().map(|plant| (plant, story()));
    for ((name, plant), mut history) in all.chain(held_back::HARMLESS.iter().map(|plant| (plant, crowd()))) {
        plant(&mut history);
        let faults = check_all(&history);
        assert!(faults.is_empty(), "{name}: {}", report(&history, &faults));
    }
}

#[tokio::test(start_paused = true)]
async fn a_recorder_writes_down_when_and_what() {
    let recorder = Recorder::new(Settings::default());
    let clock = recorder.clone();
    let found = recorder.call(LookupRequest::default(), async move |_| {
        tokio::time::advance(Duration::from_millis(5)).await;
        clock.begin(Request::Other("meanwhile"));
        let emptiness = Emptiness::UnknownService.into();
        Ok(tonic::Response::new(LookupResponse { emptiness, revision: 7, ..LookupResponse::default() }))
    });
    assert_eq!(found.await.unwrap().revision, 7);
    let history = recorder.history();
    let times =
        history.operations.iter().map(|one| (one.start.as_millis(), one.reply().map(|(end, _)| end.as_millis())));
    assert_eq!(times.collect::<Vec<_>>(), [(0, Some(5)), (5, None)]);
    recorder.assert_clean();
}

#[test]
fn a_fault_is_shown_with_what_was_around_it() {
    let mut history = story();
    plants::ALL[0].3(&mut history);
    let report = report(&history, &check_all(&history));
    for part in ["promise 1", "Offline(Expired) default/web/brief Serving", "\n  > "] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
}

#[test]
fn a_fold_holds_what_a_lookup_gives() {
    let history = story();
    let last = |history: &History, streams: &[usize]| {
        let mut fold = Fold::new();
        for stream in streams {
            fold.redial();
            for (_, message) in &history.streams[*stream].messages {
                match message {
                    Message::Watch(message) => fold.watch(message),
                    Message::Subscribe(message) => fold.subscription("web", message),
                }
            }
        }
        assert!(!fold.is_in_snapshot());
        (fold.revision(), fold.resume_token().to_owned(), fold.instances().clone())
    };
    let expected = last(&history, &[WEB_TOO]);
    assert_eq!(expected.2.len(), 5);
    for streams in [&[RESET][..], &[MANY]] {
        assert_eq!(last(&history, streams), expected);
    }
    // The watch that was resumed had gone on after the token that it was resumed from.
    let mut cut = history.clone();
    let Message::Watch(first) = &cut.streams[WEB].messages[0].1 else { panic!() };
    assert!(first.more);
    let to = cut.streams[WEB].messages.iter().position(|(_, message)| match message {
        Message::Watch(message) => message.resume_token == plants::resumed_from(&history),
        Message::Subscribe(_) => false,
    });
    cut.streams[WEB].messages.truncate(to.unwrap() + 1);
    assert_eq!(last(&cut, &[WEB, RESUMED]), expected);
}
