//! What `join` does about each answer, on a scripted registry.

use std::sync::{Arc, Mutex};

use tonic::{Code, Status as Refusal};
use tonic_types::{ErrorDetails, StatusExt};

use super::{
    keeper::{Keeper, Stop},
    named_port,
};
use crate::{
    cli::{
        describe::json_argument,
        failure::Failure,
        fake::{Call, Fake, answer},
        print::{Printer, to_json},
        session::to_wire,
    },
    config::Output,
    proto::{
        BeatResult, BeatState, DeregisterResponse, HeartbeatRequest, HeartbeatResponse, Instance, Lease,
        RegisterRequest, RegisterResponse,
    },
};

type Lines = Arc<Mutex<Vec<String>>>;

fn keeper(fake: &Fake, output: Output) -> (Keeper, Lines) {
    let (print, lines) = Printer::keeping(output);
    let instance = Instance { service: "web".into(), port: 80, ..Instance::default() };
    let request = RegisterRequest { instance: Some(instance), ..RegisterRequest::default() };
    (Keeper::new(fake.session(print), Stop::listen().unwrap(), request), lines)
}

/// The registration of `web/web-1` with this token, beating fast.
fn registered(request: RegisterRequest, token: &str) -> RegisterResponse {
    registered_for(request, token, 100)
}

/// The same, beating so often.
fn registered_for(request: RegisterRequest, token: &str, interval: u64) -> RegisterResponse {
    let instance = Instance { id: "web-1".into(), host: "h".into(), ..request.instance.unwrap() };
    let millis = |millis| to_wire(std::time::Duration::from_millis(millis));
    let lease = Lease { token: token.into(), ttl: millis(3 * interval), heartbeat_interval: millis(interval) };
    RegisterResponse { instance: Some(instance), lease: Some(lease), ..RegisterResponse::default() }
}

fn beaten(state: BeatState) -> HeartbeatResponse {
    let results = vec![BeatResult { state: state.into(), ..BeatResult::default() }];
    HeartbeatResponse { results, ..HeartbeatResponse::default() }
}

fn token(request: &HeartbeatRequest) -> &str {
    &request.beats[0].lease_token
}

#[tokio::test]
async fn a_lost_lease_is_registered_again_as_the_same_instance() {
    let mut fake = Fake::start().await;
    let (mut keeper, lines) = keeper(&fake, Output::Table);
    let script = async {
        let mut first = String::new();
        answer!(fake, Register, |request: RegisterRequest| {
            assert_eq!(request.lease_token, "");
            first.clone_from(&request.request_id);
            Ok(registered(request, "t1"))
        });
        answer!(fake, Heartbeat, |_| Ok(beaten(BeatState::Renewed)));
        // What a stream takes with it goes again on the next one; what that takes too is tried again later.
        answer!(fake, Heartbeat, |_| Err(Refusal::unavailable("away")));
        answer!(fake, Heartbeat, |_| Err(Refusal::unavailable("away")));
        answer!(fake, Heartbeat, |_| Ok(beaten(BeatState::Unspecified)));
        answer!(fake, Heartbeat, |_| Ok(HeartbeatResponse::default()));
        for (before, state, after) in
            [("t1", BeatState::Unknown, "t2"), ("t2", BeatState::Expired, "t3"), ("t3", BeatState::Denied, "t4")]
        {
            answer!(fake, Heartbeat, |request: HeartbeatRequest| {
                assert_eq!(token(&request), before);
                Ok(beaten(state))
            });
            answer!(fake, Register, |request: RegisterRequest| {
                assert_eq!(
                    (request.lease_token.as_str(), request.instance.as_ref().unwrap().id.as_str()),
                    (before, "web-1")
                );
                assert_ne!(request.request_id, first, "another registration");
                Ok(registered(request, after))
            });
        }
        let last = fake.next().await;
        assert!(matches!(last, Call::Heartbeat(request, _) if token(&request) == "t4"));
    };
    tokio::select! {
        kept = keeper.keep() => panic!("{kept:?}"),
        () = script => {}
    }
    let lines = lines.lock().unwrap().clone();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_eq!(lines[0], "registered web/web-1 at h:80; its lease lasts 300ms, a beat every 100ms");
    assert!(lines[1].starts_with("registered web/web-1 at h:80 again, since its lease was UNKNOWN; "), "{}", lines[1]);
}

#[tokio::test]
async fn one_registration_has_one_request_id() {
    let mut fake = Fake::start().await;
    let (mut keeper, _) = keeper(&fake, Output::Table);
    let script = async {
        let mut ids = Vec::new();
        let details = ErrorDetails::with_error_info("INVALID", "onair", []);
        let refused = Refusal::with_error_details(Code::InvalidArgument, "no", details);
        let refusals = [Refusal::unavailable("away"), Refusal::resource_exhausted("full"), refused];
        for refusal in refusals {
            answer!(fake, Register, |request: RegisterRequest| {
                ids.push(request.request_id);
                Err(refusal)
            });
        }
        assert!(!ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    };
    let (kept, ()) = tokio::join!(keeper.keep(), script);
    assert!(matches!(kept, Err(Failure::Call(_))), "{kept:?}");
    assert!(keeper.leave().await.is_err(), "there is nothing to take away");
}

#[tokio::test]
async fn who_is_superseded_stops() {
    let mut fake = Fake::start().await;
    let (mut keeper, _) = keeper(&fake, Output::Table);
    let script = async {
        answer!(fake, Register, |request| Ok(registered(request, "t1")));
        answer!(fake, Heartbeat, |_| {
            let holder = "[::2]:90".to_owned();
            let results = vec![BeatResult { state: BeatState::Superseded.into(), holder, ..BeatResult::default() }];
            Ok(HeartbeatResponse { results, ..HeartbeatResponse::default() })
        });
    };
    let (kept, ()) = tokio::join!(keeper.keep(), script);
    let failure = kept.unwrap_err();
    assert_eq!(failure.exit_code(), 4);
    let report = failure.report().unwrap();
    assert!(report.contains("h:80") && report.contains("[::2]:90"), "{report}");
}

/// Waits for the first line.
async fn until_told(lines: &Lines) {
    while lines.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn superseded_while_leaving() {
    let mut fake = Fake::start().await;
    let (mut keeper, lines) = keeper(&fake, Output::Table);
    let script = async {
        answer!(fake, Register, |request| Ok(registered_for(request, "t1", 60_000)));
        until_told(&lines).await;
    };
    tokio::select! {
        kept = keeper.keep() => panic!("{kept:?}"),
        () = script => {}
    }
    let holder = [("holder".to_owned(), "[::2]:90".to_owned())];
    let details = ErrorDetails::with_error_info("SUPERSEDED", "onair", holder);
    let refusal = Refusal::with_error_details(Code::Aborted, "a newer one is there", details);
    let script = async { answer!(fake, Deregister, |_| Err(refusal)) };
    let (left, ()) = tokio::join!(keeper.leave(), script);
    let failure = left.unwrap_err();
    assert_eq!(failure.exit_code(), 4, "{failure:?}");
    assert!(failure.report().unwrap().contains("at [::2]:90"), "{failure:?}");
}

#[tokio::test]
async fn no_token_is_printed() {
    let mut fake = Fake::start().await;
    let (mut keeper, lines) = keeper(&fake, Output::Json);
    let script = async {
        answer!(fake, Register, |request| Ok(registered_for(request, "t-secret", 60_000)));
        until_told(&lines).await;
    };
    tokio::select! {
        kept = keeper.keep() => panic!("{kept:?}"),
        () = script => {}
    }
    let script = async {
        answer!(fake, Deregister, |request: crate::proto::DeregisterRequest| {
            assert_eq!(request.lease_token, "t-secret");
            Ok(DeregisterResponse { removed: 1, revision: 7 })
        });
    };
    let (left, ()) = tokio::join!(keeper.leave(), script);
    left.unwrap();
    let lines = lines.lock().unwrap().clone();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains(r#""event":"REGISTERED""#) && lines[1].contains(r#""event":"LEFT""#), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains("secret")), "{lines:#?}");
}

#[test]
fn metadata_is_kept() {
    let text = r#"{"a":[1,true,null,"x"],"b":{"c":-2.5}}"#;
    let instance = Instance { metadata: Some(json_argument(text).unwrap()), ..Instance::default() };
    let json = to_json("RegisterRequest", &RegisterRequest { instance: Some(instance), ..Default::default() });
    let kept = &json.unwrap()["instance"]["metadata"];
    assert_eq!(*kept, serde_json::from_str::<serde_json::Value>(text).unwrap());
    assert!(json_argument("{").unwrap_err().starts_with("it is not JSON"));
}

#[test]
fn named_ports() {
    assert_eq!(named_port("admin=9000"), Ok(("admin".to_owned(), 9000)));
    for text in ["", "admin", "admin=", "admin=0", "admin=70000"] {
        assert!(named_port(text).is_err(), "{text}");
    }
}
