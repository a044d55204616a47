//! One way, or several, to break each promise in a good history.

use std::{sync::Arc, time::Duration};

use onair::{
    proto::{
        BeatState, Emptiness, Event, HeartbeatResponse, Instance, LookupResponse, RegisterRequest, RegisterResponse,
        ResetReason, SubscribeResponse, WatchResponse,
    },
    registry::{Cause, EventType, Status},
};
use tonic::Code;
use tonic_types::PreconditionViolation;

use crate::{
    MANY, RESET, RESUMED, TRUTH, WEB, WEB_TOO,
    history::{End, History, Message, Opening, Operation, Reply, Request},
    world::error,
};

/// Breaks a promise.
pub type Plant = fn(&mut History);

/// The promise, how it is broken, words of the fault that is seen, and the doing.
pub const ALL: &[(u8, &str, &str, Plant)] = &[
    (1, "an expiry before the TTL", "after it was renewed, its TTL is 2s", |h| {
        for (at, event) in events(h, |event| event.cause() == Cause::Expired) {
            assert_eq!(event.r#type(), EventType::Offline);
            *at -= Duration::from_millis(600);
        }
    }),
    (2, "an expiry that comes late", "should have been seen offline", |h| {
        let messages = &mut h.streams[WEB_TOO].messages;
        let at = messages.iter().position(|(_, message)| has(message, Cause::Expired)).unwrap();
        messages[at..].iter_mut().for_each(|(at, _)| *at += Duration::from_millis(200));
    }),
    (2, "an expiry that never comes", "should have been seen offline", |h| {
        h.streams[TRUTH].messages.retain(|(_, message)| !has(message, Cause::Expired));
    }),
    (4, "a superseded token is renewed", "though that was over", |h| renew(h, BeatState::Superseded)),
    (4, "an expired token is renewed", "though that was over", |h| renew(h, BeatState::Expired)),
    (5, "an issued token is unknown", "UNKNOWN, and", |h| state(h, BeatState::Renewed, BeatState::Unknown)),
    (5, "an issued token is denied", "DENIED, and", |h| state(h, BeatState::Renewed, BeatState::Denied)),
    (5, "no token is renewed", "what is no token", |h| renew(h, BeatState::Unknown)),
    (5, "a result too few", "3 beats, 2 results", |h| {
        beats(h).next().unwrap().results.pop();
    }),
    (5, "another TTL than the granted one", "RENEWED for", |h| {
        beats(h).next().unwrap().results[0].ttl = Duration::from_secs(61).try_into().ok();
    }),
    (7, "a change after the snapshot is missing", "is missing, compared with", |h| {
        let messages = &mut h.streams[WEB_TOO].messages;
        let after = messages.iter().position(|(_, message)| has(message, Cause::Draining)).unwrap();
        messages.remove(after);
    }),
    (7, "a snapshot lacks one", "is not what others saw", |h| {
        watched(h, WEB_TOO, |message| !message.events.is_empty()).events.pop();
    }),
    (7, "the first message does not come at once", "silent at first", |h| {
        h.streams[WEB_TOO].opened = Duration::ZERO;
        h.streams[WEB_TOO].messages.iter_mut().for_each(|(at, _)| *at += Duration::from_secs(3));
    }),
    (7, "a drop is not answered", "is not answered", |h| {
        for (_, message) in &mut h.streams[MANY].messages {
            if let Message::Subscribe(message) = message {
                message.groups.retain(|group| !group.dropped);
            }
        }
    }),
    (8, "two revisions change places", "that was whole already", |h| {
        let messages = &mut h.streams[TRUTH].messages;
        let at = messages.iter().position(|(_, message)| has(message, Cause::Deregistered)).unwrap();
        messages.swap(at, at - 1);
    }),
    (8, "a token amid a revision", "`more` with a token", |h| {
        watched(h, TRUTH, |message| message.more).resume_token = "r1".into();
    }),
    (8, "a whole revision without a token", "a whole revision without a token", |h| {
        watched(h, TRUTH, |message| !message.more && !message.events.is_empty()).resume_token.clear();
    }),
    (8, "a token before the snapshot's end", "a token before `snapshot_end`", |h| {
        watched(h, WEB, |message| message.more).resume_token = "r1".into();
    }),
    (8, "a snapshot that goes on without saying so", "that goes on has `more`", |h| {
        watched(h, WEB, |message| message.more).more = false;
    }),
    (8, "the snapshot's end without a snapshot", "without a snapshot", |h| {
        watched(h, RESUMED, |message| !message.events.is_empty()).snapshot_end = true;
    }),
    (8, "ONLINE before OFFLINE(REPLACED)", "or REPLACED and REGISTERED", |h| {
        watched(h, TRUTH, |message| event(message, Cause::Replaced)).events.reverse();
    }),
    (8, "a message that is too large", "a message of", |h| {
        let message = watched(h, TRUTH, |message| message.events.len() == 2);
        let instance = message.events[0].instance.as_mut().unwrap();
        instance.zone = "x".repeat(300 * 1024);
    }),
    (8, "a revision goes on in a message of another", "another revision before", |h| {
        let message = subscribed(h, |message| message.more);
        message.revision += 1;
    }),
    (8, "a group of no subscription", "which is no subscription", |h| {
        subscribed(h, |message| !message.groups.is_empty()).groups[0].id = "other".into();
    }),
    (9, "a resumed watch has a gap", "is missing, compared with", |h| {
        h.streams[RESUMED].messages.remove(1);
    }),
    (9, "a resumed watch repeats", "differs, compared with", |h| {
        let token = resumed_from(h);
        let (_, last) = h.streams[WEB].messages.iter().find(|(_, message)| token_of(message) == token).unwrap().clone();
        let at = h.streams[RESUMED].messages[0].0;
        let Message::Watch(mut last) = last else { panic!() };
        last.revision += 1;
        last.resume_token = format!("r{}", last.revision);
        h.streams[RESUMED].messages.insert(0, (at, last.into()));
    }),
    (9, "a reset with an excuse that does not hold", "could be continued from", |h| {
        let known = resumed_from(h);
        let Opening::Watch(request) = &mut h.streams[RESET].opening else { panic!() };
        request.resume_token = known;
    }),
    (9, "a reset of a watch that continued nothing", "nothing to continue", |h| {
        let first = watched(h, RESET, |message| message.reset.is_some()).reset;
        watched(h, WEB, |message| message.more).reset = first;
    }),
    (9, "a reset where none is allowed", "it could have been continued", |h| {
        h.settings.resets = false;
        let known = resumed_from(h);
        let Opening::Watch(request) = &mut h.streams[RESET].opening else { panic!() };
        request.resume_token = known;
        let reset = watched(h, RESET, |message| message.reset.is_some()).reset.as_mut().unwrap();
        (reset.reason, reset.oldest_revision) = (ResetReason::TooOld.into(), 1_000);
    }),
    (10, "ONLINE of what is there", "it was there already", |h| {
        let (_, event) = events(h, |event| event.r#type() == EventType::Updated).next().unwrap();
        event.r#type = EventType::Online.into();
        event.cause = Cause::Matched.into();
    }),
    (10, "UPDATED of what is not there", "it was not there", |h| {
        let (_, event) = events(h, |event| event.cause() == Cause::Matched).next().unwrap();
        event.r#type = EventType::Updated.into();
        event.cause = Cause::Unspecified.into();
    }),
    (10, "summaries that do not come", "summaries leave", |h| {
        let Opening::Watch(request) = &mut h.streams[WEB_TOO].opening else { panic!("it is a watch") };
        request.summaries = true;
    }),
    (10, "OFFLINE of what is not there", "it was not there", |h| {
        let (_, event) = events(h, |event| event.cause() == Cause::Matched).next().unwrap();
        event.r#type = EventType::Offline.into();
        event.cause = Cause::Filtered.into();
    }),
    (10, "an end with another record than the last", "another record than the last", |h| {
        for (_, event) in events(h, |event| event.cause() == Cause::Expired) {
            event.instance.as_mut().unwrap().zone = "other".into();
        }
    }),
    (10, "the old record where it stops to match", "the new record still matches", |h| {
        for (_, event) in events(h, |event| event.cause() == Cause::Draining) {
            event.instance.as_mut().unwrap().status = Status::Serving.into();
        }
    }),
    (10, "the wrong cause of leaving", "does not go with the new status", |h| {
        for (_, event) in events(h, |event| event.cause() == Cause::Draining) {
            event.cause = Cause::Filtered.into();
        }
    }),
    (10, "an update of nothing", "nothing changed", |h| {
        for (_, event) in events(h, |event| event.r#type() == EventType::Updated) {
            event.instance.as_mut().unwrap().status = Status::Serving.into();
        }
    }),
    (10, "what a filtered watch should not see", "should be [\"Offline(Draining)", |h| {
        for stream in [WEB, WEB_TOO] {
            for (_, message) in &mut h.streams[stream].messages {
                let Message::Watch(message) = message else { continue };
                message.events.retain(|event| event.cause() != Cause::Draining && event.cause() != Cause::Matched);
            }
        }
    }),
    (10, "a lookup shows what a watch does not", "a folded watch", |h| {
        let reply = lookups(h).find(|reply| reply.instances.len() > 1).unwrap();
        reply.instances[0].zone = "other".into();
    }),
    (10, "a lookup lacks what a watch shows", "a folded watch", |h| {
        let reply = lookups(h).find(|reply| reply.instances.len() > 1).unwrap();
        reply.instances.remove(0);
    }),
    (10, "a lookup out of order", "out of order", |h| {
        lookups(h).find(|reply| reply.instances.len() > 1).unwrap().instances.reverse();
    }),
    (10, "what does not match", "does not match", |h| {
        for stream in [WEB, WEB_TOO] {
            watched(h, stream, |message| !message.events.is_empty()).events[0].instance.as_mut().unwrap().service =
                "api".into();
        }
    }),
    (11, "a silent stream", "silent for", |h| {
        h.streams[TRUTH].messages.pop();
        h.streams[TRUTH].messages.pop();
        h.streams[TRUTH].end = None;
        h.end += Duration::from_secs(20);
    }),
    (11, "a bookmark that forgets a subscription", "silent for", |h| {
        for (_, message) in &mut h.streams[MANY].messages {
            let Message::Subscribe(message) = message else { continue };
            message.groups.retain(|group| !group.events.is_empty() || group.id != "web");
        }
        h.settings.silence = Duration::from_secs(10);
    }),
    (13, "a stream ends with OK", "ended with OK", |h| h.streams[TRUTH].end.as_mut().unwrap().1 = End::Ok),
    (13, "a stream is cut", "cut off", |h| {
        h.streams[TRUTH].end.as_mut().unwrap().1 = End::Error(broken_pipe());
    }),
    (13, "a shutdown without a last token", "without a last token", |h| {
        let (_, message) = h.streams[TRUTH].messages.last_mut().unwrap();
        let Message::Watch(message) = message else { panic!() };
        message.resume_token.clear();
    }),
    (14, "a lookup of an older revision than an answer before it", "before it began", |h| {
        lookups(h).last().unwrap().revision = 3;
    }),
    (15, "a lookup that does not reach what it asks for", "asked for was", |h| {
        lookups(h).last().unwrap().revision -= 1;
    }),
    (15, "a registration that a lookup does not show", "is missing, registered", |h| {
        lookups(h).find(|reply| reply.instances.len() > 1).unwrap().instances.pop();
    }),
    (15, "a deregistered instance in a lookup", "is there, deregistered", |h| {
        let gone = registered(h, "x");
        lookups(h).last().unwrap().instances.push(gone);
    }),
    (15, "a registration at another revision in a watch", "as it was registered", |h| {
        let of_c = |event: &Event| event.instance.as_ref().is_some_and(|one| one.id == "d");
        for (_, event) in events(h, of_c) {
            event.instance.as_mut().unwrap().revision += 1;
        }
    }),
    (15, "a deregistration that a watch does not see", "lacks the end of", |h| {
        for stream in &mut h.streams {
            for (_, message) in &mut stream.messages {
                let Message::Watch(message) = message else { continue };
                message.events.retain(|event| event.cause() != Cause::Deregistered);
            }
        }
    }),
    (16, "empty without a reason", "empty, and no reason", |h| {
        lookups(h).find(|reply| reply.instances.is_empty()).unwrap().emptiness = Emptiness::Unspecified.into();
    }),
    (16, "a reason and not empty", "not empty, and", |h| {
        lookups(h).find(|reply| !reply.instances.is_empty()).unwrap().emptiness = Emptiness::NoMatch.into();
    }),
    (16, "a known service is unknown", "the service is known", |h| {
        lookups(h).find(|reply| reply.emptiness() == Emptiness::AllOffline).unwrap().emptiness =
            Emptiness::UnknownService.into();
    }),
    (18, "no details", "no `ErrorInfo`", |h| refuse(h, tonic::Status::invalid_argument("no"))),
    (18, "an unknown reason", "the reason `ODD`", |h| refuse(h, error(Code::InvalidArgument, "ODD", &[], |_| ()))),
    (18, "a reason with another's code", "comes with Aborted", |h| {
        refuse(h, error(Code::Internal, "SUPERSEDED", &[], |_| ()));
    }),
    (18, "no violations", "no `BadRequest`", |h| refuse(h, error(Code::InvalidArgument, "INVALID", &[], |_| ()))),
    (18, "a limit without its numbers", "no `maximum`", |h| {
        refuse(h, error(Code::ResourceExhausted, "LIMIT", &[("limit", "max_watches")], |_| ()));
    }),
    (18, "something is missing, and nothing named", "no `PreconditionFailure`", |h| {
        refuse(h, error(Code::FailedPrecondition, "MISSING_DEPENDENCY", &[("missing", "1")], |_| ()));
    }),
    (20, "registered without what it needs", "not told where that is", |h| {
        granted(h).1.dependencies.remove("web");
    }),
    (20, "told of a url that nobody has", "was not at http://elsewhere", |h| {
        granted(h).1.dependencies.insert("web".into(), "http://elsewhere".into());
    }),
    (20, "what it needs is of another version", "web@^3 was not at", |h| {
        granted(h).0.dependencies.insert("web".into(), "^3".into());
    }),
    (20, "it is its own answer", "was not at http://s", |h| {
        let (request, reply) = granted(h);
        request.dependencies.insert("shop".into(), String::new());
        reply.dependencies.insert("shop".into(), "http://s".into());
    }),
    (20, "what it needs has gone by then", "web@ was not at", |h| {
        // As if it had come when all of them were gone.
        let all_of_web = |event: &&mut Event| event.instance.as_ref().is_some_and(|one| one.service == "web");
        for (_, message) in &mut h.streams[TRUTH].messages {
            let Message::Watch(message) = message else { continue };
            message.events.iter_mut().filter(all_of_web).for_each(|event| {
                event.instance.as_mut().unwrap().status = Status::Draining.into();
            });
        }
    }),
    (20, "another mock than the given", "its mock is localhost:3000", |h| {
        granted(h).1.dependencies.insert("auth".into(), "localhost:4000".into());
    }),
    (20, "refused for what is there", "web, which was there all the time", |h| missing(h, &["web"])),
    (20, "refused for what it does not need", "store, which it does not need", |h| missing(h, &["store"])),
    (20, "what is missing is out of order", "api is not named in order", |h| missing(h, &["auth", "api"])),
    (18, "a shutdown without a delay", "no `RetryInfo`", |h| {
        h.streams[WEB_TOO].end.as_mut().unwrap().1 = End::Error(error(Code::Unavailable, "SHUTTING_DOWN", &[], |_| ()));
    }),
];

/// What looks odd and breaks nothing.
pub const HARMLESS: &[(&str, Plant)] = &[
    ("calls without an answer", |h| {
        let changes =
            |operation: &&mut Operation| matches!(operation.request, Request::Register(_) | Request::Deregister(_));
        h.operations.iter_mut().filter(changes).for_each(|operation| operation.outcome = None);
    }),
    ("calls that fail in transport", |h| {
        for operation in &mut h.operations {
            if let (Request::Heartbeat(_), Some((_, outcome))) = (&operation.request, &mut operation.outcome) {
                *outcome = Err(broken_pipe());
            }
        }
    }),
    ("a server that was killed", |h| {
        h.settings.cuts = true;
        h.streams[TRUTH].messages.pop();
        h.streams[TRUTH].end.as_mut().unwrap().1 = End::Error(broken_pipe());
    }),
    ("an expiry that comes late where nobody minds", |h| {
        h.settings.late = None;
        h.streams[WEB_TOO].messages.iter_mut().skip(5).for_each(|(at, _)| *at += Duration::from_secs(2));
    }),
    ("an instance that is missing after it may have lapsed", |h| {
        for reply in lookups(h) {
            reply.instances.clear();
            reply.emptiness = Emptiness::AllOffline.into();
        }
        h.streams.clear();
        for operation in &mut h.operations {
            if let Request::Lookup(_) = operation.request {
                operation.outcome.as_mut().unwrap().0 += Duration::from_secs(90);
            }
        }
    }),
];

/// The token from which `RESUMED` continues.
pub fn resumed_from(history: &History) -> String {
    let Opening::Watch(request) = &history.streams[RESUMED].opening else { panic!() };
    request.resume_token.clone()
}

fn broken_pipe() -> tonic::Status {
    let mut status = tonic::Status::unavailable("broken pipe");
    status.set_source(Arc::new(std::io::Error::other("broken pipe")));
    status
}

fn token_of(message: &Message) -> &str {
    match message {
        Message::Watch(message) => &message.resume_token,
        Message::Subscribe(_) => "",
    }
}

fn event(message: &WatchResponse, cause: Cause) -> bool {
    message.events.iter().any(|event| event.cause() == cause)
}

fn has(message: &Message, cause: Cause) -> bool {
    matches!(message, Message::Watch(message) if event(message, cause))
}

/// Events of all streams, with the time of their message.
pub fn events(history: &mut History, which: fn(&Event) -> bool) -> impl Iterator<Item = (&mut Duration, &mut Event)> {
    history.streams.iter_mut().flat_map(|stream| &mut stream.messages).filter_map(move |(at, message)| {
        let mut events: Box<dyn Iterator<Item = &mut Event>> = match message {
            Message::Watch(message) => Box::new(message.events.iter_mut()),
            Message::Subscribe(message) => {
                Box::new(message.groups.iter_mut().flat_map(|group| group.events.iter_mut()))
            }
        };
        events.find(|event| which(event)).map(|event| (at, event))
    })
}

fn watched(history: &mut History, stream: usize, which: fn(&WatchResponse) -> bool) -> &mut WatchResponse {
    let messages = history.streams[stream].messages.iter_mut();
    messages
        .filter_map(|(_, message)| match message {
            Message::Watch(message) => Some(message),
            Message::Subscribe(_) => None,
        })
        .find(|message| which(message))
        .unwrap()
}

fn subscribed(history: &mut History, which: fn(&SubscribeResponse) -> bool) -> &mut SubscribeResponse {
    let messages = history.streams[MANY].messages.iter_mut();
    messages
        .filter_map(|(_, message)| match message {
            Message::Subscribe(message) => Some(message),
            Message::Watch(_) => None,
        })
        .find(|message| which(message))
        .unwrap()
}

pub fn replies(history: &mut History) -> impl Iterator<Item = &mut Reply> {
    history.operations.iter_mut().filter_map(|operation| operation.outcome.as_mut()?.1.as_mut().ok())
}

fn lookups(history: &mut History) -> impl DoubleEndedIterator<Item = &mut LookupResponse> {
    let all = replies(history).filter_map(|reply| match reply {
        Reply::Lookup(reply) => Some(reply),
        _ => None,
    });
    all.collect::<Vec<_>>().into_iter()
}

fn beats(history: &mut History) -> impl Iterator<Item = &mut HeartbeatResponse> {
    replies(history).filter_map(|reply| match reply {
        Reply::Heartbeat(reply) => Some(reply),
        _ => None,
    })
}

/// The first beat that was answered `from` is answered `to`.
fn state(history: &mut History, from: BeatState, to: BeatState) {
    let result = beats(history).flat_map(|reply| &mut reply.results).find(|result| result.state() == from).unwrap();
    result.state = to.into();
}

fn renew(history: &mut History, from: BeatState) {
    let result = beats(history).flat_map(|reply| &mut reply.results).find(|result| result.state() == from).unwrap();
    result.state = BeatState::Renewed.into();
    result.ttl = Duration::from_secs(60).try_into().ok();
}

/// The last call is refused so.
fn refuse(history: &mut History, status: tonic::Status) {
    history.operations.last_mut().unwrap().outcome.as_mut().unwrap().1 = Err(status);
}

/// The registration that needs others.
fn granted(history: &mut History) -> (&mut RegisterRequest, &mut RegisterResponse) {
    let of = |operation: &mut Operation| {
        matches!(&operation.request, Request::Register(request) if !request.dependencies.is_empty())
            && operation.reply().is_some()
    };
    let place = history.operations.iter_mut().position(of).unwrap();
    let operation = &mut history.operations[place];
    match (&mut operation.request, &mut operation.outcome) {
        (Request::Register(request), Some((_, Ok(Reply::Register(reply))))) => (request, reply),
        _ => panic!("it was granted"),
    }
}

/// Something else is missing for the registration that is refused.
fn missing(history: &mut History, names: &[&str]) {
    let number = names.len().to_string();
    let status = error(Code::FailedPrecondition, "MISSING_DEPENDENCY", &[("missing", &number)], |details| {
        let violation = |name: &&str| PreconditionViolation::new("MISSING_DEPENDENCY", *name, "no routable instance");
        details.set_precondition_failure(names.iter().map(violation).collect::<Vec<_>>());
    });
    let needing = |operation: &&mut Operation| {
        matches!(&operation.request, Request::Register(request) if !request.dependencies.is_empty())
            && operation.reply().is_none()
    };
    history.operations.iter_mut().find(needing).unwrap().outcome.as_mut().unwrap().1 = Err(status);
}

/// What was registered under an id.
fn registered(history: &mut History, id: &str) -> Instance {
    let of = |reply: &mut Reply| match reply {
        Reply::Register(RegisterResponse { instance, .. }) => instance.clone().filter(|one| one.id == id),
        _ => None,
    };
    replies(history).find_map(of).unwrap()
}
