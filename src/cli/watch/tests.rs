//! What `watch` makes of streams that break, begin anew or fall silent, on a scripted registry.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::mpsc;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::Watcher;
use crate::{
    cli::{
        failure::Failure,
        fake::{Call, Fake, answer},
        print::Printer,
        session::to_wire,
    },
    config::Output,
    proto::{Cause, Event, EventType, Instance, Reset, WatchRequest, WatchResponse},
};

type Lines = Arc<Mutex<Vec<String>>>;
type Sender = mpsc::UnboundedSender<Result<WatchResponse, Status>>;

fn watcher(fake: &Fake, output: Output) -> (Watcher, Lines) {
    let (print, lines) = Printer::keeping(output);
    (Watcher::new(fake.session(print), WatchRequest::default()), lines)
}

/// Takes in the next Watch, which has to come with this token.
async fn opened(fake: &mut Fake, token: &str) -> Sender {
    let (sender, messages) = mpsc::unbounded_channel();
    answer!(fake, Watch, |request: WatchRequest| {
        assert_eq!(request.resume_token, token);
        Ok(messages)
    });
    sender
}

fn message(cause: Cause, ids: &[&str], token: &str) -> WatchResponse {
    let event = |id: &&str| {
        let (service, id) = ("web".to_owned(), (*id).to_owned());
        let instance = Instance { service, id, host: "h".into(), port: 1, ..Instance::default() };
        Event { r#type: EventType::Online.into(), cause: cause.into(), instance: Some(instance) }
    };
    let (events, snapshot_end) = (ids.iter().map(event).collect(), cause == Cause::Snapshot);
    WatchResponse { events, resume_token: token.into(), snapshot_end, ..WatchResponse::default() }
}

/// Without the time, which is a watcher's own.
fn shown(lines: &Lines) -> Vec<String> {
    lines.lock().unwrap().iter().map(|line| line.split_once("Z ").unwrap_or(("", line)).1.to_owned()).collect()
}

async fn run(mut watcher: Watcher, script: impl Future<Output = ()>) {
    tokio::select! {
        ended = watcher.run() => panic!("{ended:?}"),
        () = script => {}
    }
}

#[tokio::test]
async fn a_broken_stream_goes_on_from_the_last_token() {
    let mut fake = Fake::start().await;
    let (watcher, lines) = watcher(&fake, Output::Table);
    run(watcher, async {
        let stream = opened(&mut fake, "").await;
        stream.send(Ok(message(Cause::Snapshot, &["a"], "t1"))).unwrap();
        // Half a revision: it comes again as a whole.
        stream.send(Ok(WatchResponse { more: true, ..message(Cause::Registered, &["b"], "") })).unwrap();
        let mut details = ErrorDetails::with_error_info("SHUTTING_DOWN", "onair", []);
        details.set_retry_info(Some(Duration::from_millis(10)));
        stream.send(Err(Status::with_error_details(Code::Unavailable, "later", details))).unwrap();

        let stream = opened(&mut fake, "t1").await;
        stream.send(Ok(message(Cause::Registered, &["b", "c"], "t2"))).unwrap();
        drop(stream);
        // An end without a reason is an end as well; so is a refused attempt in between.
        answer!(fake, Watch, |_| Err(Status::resource_exhausted("full")));
        opened(&mut fake, "t2").await;
    })
    .await;
    let expected = ["ONLINE  web a h:1 SNAPSHOT", "ONLINE  web b h:1 REGISTERED", "ONLINE  web c h:1 REGISTERED"];
    assert_eq!(shown(&lines), expected);
}

#[tokio::test]
async fn a_reset_keeps_and_then_drops() {
    let mut fake = Fake::start().await;
    let (watcher, lines) = watcher(&fake, Output::Table);
    run(watcher, async {
        let stream = opened(&mut fake, "").await;
        stream.send(Ok(message(Cause::Snapshot, &["a", "b"], "t1"))).unwrap();
        stream.send(Err(Status::unavailable("gone"))).unwrap();
        let stream = opened(&mut fake, "t1").await;
        let begins =
            WatchResponse { reset: Some(Reset::default()), more: true, ..message(Cause::Unspecified, &[], "") };
        stream.send(Ok(begins)).unwrap();
        // It breaks before the new snapshot is complete: no token, and still nothing is forgotten.
        stream.send(Err(Status::unavailable("gone"))).unwrap();
        let stream = opened(&mut fake, "").await;
        stream.send(Ok(message(Cause::Snapshot, &["b", "c"], "t2"))).unwrap();
        stream.send(Err(Status::unavailable("gone"))).unwrap();
        opened(&mut fake, "t2").await;
    })
    .await;
    let expected = [
        "ONLINE  web a h:1 SNAPSHOT",
        "ONLINE  web b h:1 SNAPSHOT",
        "ONLINE  web c h:1 SNAPSHOT",
        "OFFLINE web a h:1 RESET",
    ];
    assert_eq!(shown(&lines), expected);
}

#[tokio::test]
async fn json_tells_whole_revisions_and_beginnings() {
    let mut fake = Fake::start().await;
    let (watcher, lines) = watcher(&fake, Output::Json);
    run(watcher, async {
        let stream = opened(&mut fake, "").await;
        stream.send(Ok(WatchResponse { snapshot_end: false, ..message(Cause::Snapshot, &["a"], "") })).unwrap();
        stream.send(Err(Status::unavailable("gone"))).unwrap();
        let stream = opened(&mut fake, "").await;
        stream.send(Ok(message(Cause::Snapshot, &["a"], "t1"))).unwrap();
        stream.send(Ok(WatchResponse { more: true, ..message(Cause::Registered, &["b"], "") })).unwrap();
        stream.send(Err(Status::unavailable("gone"))).unwrap();
        opened(&mut fake, "t1").await;
    })
    .await;
    let lines = shown(&lines);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(lines[1], r#"{"reset":{}}"#);
    assert!(lines[2].contains(r#""resumeToken":"t1""#), "{}", lines[2]);
}

#[tokio::test]
async fn silence_is_a_broken_stream() {
    let mut fake = Fake::start().await;
    let (watcher, _) = watcher(&fake, Output::Table);
    run(watcher, async {
        let stream = opened(&mut fake, "").await;
        let bookmark_interval = to_wire(Duration::from_millis(50));
        stream.send(Ok(WatchResponse { bookmark_interval, ..message(Cause::Snapshot, &[], "t1") })).unwrap();
        opened(&mut fake, "t1").await;
        assert!(stream.is_closed(), "the silent stream was left");
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_mended_ends_it() {
    let refused = ErrorDetails::with_error_info("INVALID", "onair", []);
    let refused = Status::with_error_details(Code::InvalidArgument, "no", refused);
    for (first, refusal) in [(true, Status::unavailable("no")), (false, refused)] {
        let mut fake = Fake::start().await;
        let (mut watcher, _) = watcher(&fake, Output::Table);
        let script = async {
            if !first {
                let stream = opened(&mut fake, "").await;
                stream.send(Ok(message(Cause::Snapshot, &[], "t1"))).unwrap();
            }
            answer!(fake, Watch, |_| Err(refusal));
        };
        let (ended, ()) = tokio::join!(watcher.run(), script);
        assert!(matches!(ended, Err(Failure::Call(_))), "{ended:?}");
    }
}
