//! Ways to break promise 6, and what may look like it, in the history of a crowd that falls silent.

use std::time::Duration;

use onair::{
    proto::{Event, Instance},
    registry::{Cause, EventType, Status},
};

use crate::{
    history::{History, Message, Reply, Request},
    plants::{Plant, events, replies},
};

/// The promise, how it is broken, words of the fault that is seen, and the doing.
pub const ALL: &[(u8, &str, &str, Plant)] = &[
    (6, "too few are held back", "at most 2 of 2 were silent", |h| {
        all_instances(h, |one| {
            if one.service == "crowd" && one.id.as_str() > "2" {
                one.zone = "elsewhere".into();
            }
        });
    }),
    (6, "five of ten are held back", "at most 5 of 10 were silent", |h| {
        // The sixth was renewed, and so were the others.
        all_instances(h, |one| {
            if one.service == "few" {
                one.service = "crowd".into();
                one.id = format!("few-{}", one.id);
            }
        });
        let tokens: Vec<String> = ["6", "few-1", "few-2", "few-3", "few-4"].map(|id| token_of_id(h, id)).into();
        let mut beat = h.operations.iter().find(|one| matches!(one.request, Request::Heartbeat(_))).unwrap().clone();
        let (Request::Heartbeat(request), Some((end, Ok(Reply::Heartbeat(reply))))) =
            (&mut beat.request, &mut beat.outcome)
        else {
            panic!()
        };
        let (one, result) = (request.beats[0].clone(), reply.results[0].clone());
        request.beats =
            tokens.into_iter().map(|lease_token| onair::proto::Beat { lease_token, ..one.clone() }).collect();
        reply.results = vec![result; 5];
        (reply.revision, beat.start, *end) = (3, Duration::from_millis(1_000), Duration::from_millis(1_002));
        h.operations.push(beat);
    }),
    (6, "too many go at once", "went at once, though 6 of 6 were silent", |h| {
        for stream in &mut h.streams {
            for (_, message) in &mut stream.messages {
                let Message::Watch(message) = message else { continue };
                for event in &mut message.events {
                    if event.r#type() == EventType::Updated && status(event) == Some(Status::Suspect) {
                        event.instance.as_mut().unwrap().status = Status::Serving.into();
                        (event.r#type, event.cause) = (EventType::Offline.into(), Cause::Expired.into());
                    }
                }
            }
        }
    }),
    (6, "one is held back before its TTL", "is held back", |h| {
        for (at, event) in events(h, |event| status(event) == Some(Status::Suspect)) {
            *at -= if event.r#type() == EventType::Updated { Duration::from_millis(600) } else { Duration::ZERO };
        }
    }),
    (6, "one is held back that was draining", "took no traffic: it was Draining", |h| {
        let new = |event: &Event| event.cause() == Cause::Registered && event.instance.as_ref().unwrap().id == "3";
        for (_, event) in events(h, new) {
            event.instance.as_mut().unwrap().status = Status::Draining.into();
        }
    }),
    (6, "it goes too early", "not held back for another TTL", |h| {
        for (at, _) in events(h, |event| status(event) == Some(Status::Suspect) && event.cause() == Cause::Expired) {
            *at -= Duration::from_millis(100);
        }
    }),
    (6, "a beat does not end it", "was renewed at revision", |h| {
        for stream in &mut h.streams {
            for (_, message) in &mut stream.messages {
                let Message::Watch(message) = message else { continue };
                message
                    .events
                    .retain(|event| event.r#type() != EventType::Updated || status(event) == Some(Status::Suspect));
            }
        }
    }),
    (6, "nothing ends it", "nothing was heard of it", |h| {
        h.operations.retain(|operation| !matches!(operation.request, Request::Heartbeat(_)));
    }),
    (6, "it is turned off", "the breaker is off", |h| h.settings.breaker = false),
    (2, "one that is held back never goes", "should have been seen offline", |h| {
        for stream in &mut h.streams {
            stream.messages.retain(|(_, message)| {
                let gone = |event: &Event| status(event) == Some(Status::Suspect) && event.cause() == Cause::Expired;
                !matches!(message, Message::Watch(message) if message.events.iter().any(gone))
            });
        }
        h.end += Duration::from_secs(1);
        h.streams.iter_mut().for_each(|stream| stream.end = None);
    }),
];

fn status(event: &Event) -> Option<Status> {
    event.instance.as_ref().map(Instance::status)
}

/// Every instance that was sent or received.
fn all_instances(history: &mut History, change: impl Fn(&mut Instance)) {
    for operation in &mut history.operations {
        if let Request::Register(request) = &mut operation.request {
            request.instance.iter_mut().for_each(&change);
        }
    }
    for reply in replies(history) {
        match reply {
            Reply::Register(reply) => reply.instance.iter_mut().for_each(&change),
            Reply::Lookup(reply) => reply.instances.iter_mut().for_each(&change),
            _ => {}
        }
    }
    for (_, message) in history.streams.iter_mut().flat_map(|stream| &mut stream.messages) {
        let Message::Watch(message) = message else { continue };
        message.events.iter_mut().filter_map(|event| event.instance.as_mut()).for_each(&change);
    }
}

/// The token that was given for an id.
fn token_of_id(history: &mut History, id: &str) -> String {
    let of = |reply: &mut Reply| match reply {
        Reply::Register(reply) if reply.instance.as_ref().is_some_and(|one| one.id == id) => {
            reply.lease.as_ref().map(|lease| lease.token.clone())
        }
        _ => None,
    };
    replies(history).find_map(of).unwrap()
}

/// What looks odd and breaks nothing.
pub const HARMLESS: &[(&str, Plant)] = &[
    ("many that are held back and nobody knows how they were renewed", |h| {
        h.operations.clear();
    }),
    ("many that are not held back where it is turned off", |h| {
        ALL.iter().find(|(_, name, ..)| *name == "too many go at once").unwrap().3(h);
        h.settings.breaker = false;
        // What would come of it later is another history.
        for stream in &mut h.streams {
            let at = stream.messages.iter().rposition(|(at, _)| *at < Duration::from_millis(2_043)).unwrap();
            stream.messages.truncate(at + 1);
            stream.end = None;
            for (_, message) in &mut stream.messages {
                let Message::Watch(message) = message else { continue };
                let ended = message.events.iter_mut().filter(|event| event.cause() == Cause::Expired);
                ended.filter_map(|event| event.instance.as_mut()).for_each(|one| one.revision = one.incarnation);
            }
        }
        h.operations.retain(|one| matches!(one.request, Request::Register(_)));
        h.end = Duration::from_millis(2_050);
    }),
];
