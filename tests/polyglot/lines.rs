//! What a client printed, as the streams and lookups that it had: a history like any other. And its own state machine,
//! held against one that is known to be right. Knows nothing of the scenario.

use std::time::{Duration, SystemTime};

use onair::proto::{Event, LookupRequest, LookupResponse, Reset, ResetReason, Selector, WatchRequest, WatchResponse};
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    history::{End, Fold, History, Message, Opening, Operation, Reply, Request, Stream, of_json},
    program::Line,
    witness::SERVICE,
};

/// Adds what `lines` tell to `history`, which began at `began`.
///
/// # Panics
/// If the client did not act as it should on what it was told.
pub fn tell(history: &mut History, began: SystemTime, lines: &[Line]) {
    let mut story = Story { history, began, stream: None, fold: Fold::new(), last: None, was_reset: false };
    for line in lines {
        story.line(line);
    }
    let streams = story.stream.take();
    history.streams.extend(streams);
}

struct Story<'h> {
    history: &'h mut History,
    began: SystemTime,
    /// The stream that is open.
    stream: Option<Stream>,
    /// What a client holds who was told the same.
    fold: Fold,
    /// The token to continue from; None before the first stream.
    last: Option<String>,
    /// A reset has come, and no token since.
    was_reset: bool,
}

impl Story<'_> {
    fn line(&mut self, line: &Line) {
        match line.event() {
            "watching" => self.watching(line),
            "reset" => {
                let reason = ResetReason::from_str_name(line.text("reason")).expect("a reason") as i32;
                self.was_reset = true;
                let reset = Some(Reset { reason, oldest_revision: 0 });
                self.message(line, WatchResponse { reset, more: true, ..WatchResponse::default() });
            }
            kind @ ("online" | "updated" | "offline") => {
                let kind = format!("EVENT_TYPE_{}", kind.to_uppercase());
                let event = json!({"type": kind, "cause": line.said["cause"], "instance": line.said["instance"]});
                let event: Event = of_json("Event", &event.to_string()).unwrap();
                // The rest of the revision comes in the lines after it.
                let (revision, more) = (number(line, "revision"), true);
                self.message(line, WatchResponse { revision, events: vec![event], more, ..WatchResponse::default() });
            }
            "set" | "bookmark" => self.whole(line),
            "silent" => self.silent(),
            "ended" => self.end(line, End::Error(cut(line.text("code")))),
            "looked-up" => self.looked_up(line),
            _ => {}
        }
    }

    /// By the recorder's clock.
    fn since(&self, at: SystemTime) -> Duration {
        at.duration_since(self.began).unwrap_or_default()
    }

    /// A time that the client told, which it took before it did something.
    fn told(&self, line: &Line, name: &str) -> Duration {
        let at = line.said[name].as_u64().expect("milliseconds");
        self.since(SystemTime::UNIX_EPOCH + Duration::from_millis(at))
    }

    fn watching(&mut self, line: &Line) {
        self.end(line, End::ByClient);
        let token = line.text("token");
        // Before the first stream here there may have been others, of another history.
        let last = self.last.get_or_insert_with(|| token.to_owned());
        assert!(token == last || self.was_reset && token.is_empty(), "it continues from {token}, not from {last}");
        self.fold.redial();
        let selectors = vec![Selector { service: SERVICE.to_owned(), ..Selector::default() }];
        let opening = WatchRequest { selectors, resume_token: token.to_owned(), ..WatchRequest::default() };
        let (opening, opened) = (Opening::Watch(opening), self.told(line, "at"));
        self.stream = Some(Stream { opening, opened, commands: Vec::new(), messages: Vec::new(), end: None });
    }

    fn message(&mut self, line: &Line, message: WatchResponse) {
        self.fold.watch(&message);
        let at = self.since(line.read);
        let stream = self.stream.as_mut().expect("a stream is open");
        stream.messages.push((at, Message::Watch(message)));
    }

    fn whole(&mut self, line: &Line) {
        let (revision, resume_token) = (number(line, "revision"), line.text("token").to_owned());
        let snapshot_end = line.said["snapshotEnd"] == true;
        self.last = Some(resume_token.clone());
        self.message(line, WatchResponse { revision, resume_token, snapshot_end, ..WatchResponse::default() });
        self.was_reset = false;
        let held: Vec<_> = self.fold.instances().keys().map(|key| key.id.as_str()).collect();
        assert_eq!(line.ids(), held, "what it holds at revision {revision}");
    }

    /// The connection was dead, and nobody knows since when: since its last message, for all that is known.
    fn silent(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            let last = stream.messages.last().map_or(stream.opened, |(at, _)| *at);
            stream.end = Some((last, End::ByClient));
            self.history.streams.push(stream);
        }
    }

    fn end(&mut self, line: &Line, end: End) {
        if let Some(mut stream) = self.stream.take() {
            stream.end = Some((self.since(line.read), end));
            self.history.streams.push(stream);
        }
    }

    fn looked_up(&mut self, line: &Line) {
        let min_revision = number(line, "minRevision");
        let request = LookupRequest { service: SERVICE.to_owned(), min_revision, ..LookupRequest::default() };
        let answer = ["instances", "emptiness", "revision"].map(|name| (name.to_owned(), line.said[name].clone()));
        let answer = Value::Object(answer.into_iter().collect());
        let reply: LookupResponse = of_json("LookupResponse", &answer.to_string()).unwrap();
        let outcome = Some((self.since(line.read), Ok(Reply::Lookup(reply))));
        let start = self.told(line, "asked");
        self.history.operations.push(Operation { request: Request::Lookup(request), start, outcome });
    }
}

fn number(line: &Line, name: &str) -> u64 {
    line.text(name).parse().unwrap_or_else(|_| panic!("{name} of {}", line.said))
}

/// What the client's library made of a connection that ended.
fn cut(code: &str) -> Status {
    Status::from_error(std::io::Error::other(code.to_owned()).into())
}
