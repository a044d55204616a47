//! Faults for people: each with what was going on around it.

use std::fmt::Write as _;

use onair::proto::{Event, Instance, SubscribeResponse, WatchResponse};

use super::{End, Fault, History, Message, Place, Reply, Request, Stream, key_of};

/// Most faults that are shown.
const FAULTS_MAX: usize = 10;
/// Messages or operations shown before and after a fault.
const AROUND: usize = 3;
/// Characters shown of a message or operation.
const LINE_MAX: usize = 1_000;
/// Events shown of a message.
const EVENTS_MAX: usize = 6;

/// All faults, in a form to read.
pub fn report(history: &History, faults: &[Fault]) -> String {
    let mut text = format!("{} broken promises", faults.len());
    for fault in faults.iter().take(FAULTS_MAX) {
        let Fault { promise, what, place } = fault;
        let _ = write!(text, "\n\npromise {promise}, {place:?}: {what}");
        match place {
            Place::Operation(at) => around(&mut text, *at, history.operations.len(), |at| operation(history, at)),
            Place::Message(stream, at) => {
                let stream = &history.streams[*stream];
                let _ = write!(text, "\n    {}", opening(stream));
                around(&mut text, *at, stream.messages.len(), |at| message(stream, at));
            }
            Place::Stream(stream) => {
                let stream = &history.streams[*stream];
                let _ = write!(text, "\n    {}", opening(stream));
                let last = stream.messages.len().saturating_sub(1);
                around(&mut text, last, stream.messages.len(), |at| message(stream, at));
            }
        }
    }
    text
}

fn around(text: &mut String, at: usize, count: usize, line: impl Fn(usize) -> String) {
    for near in at.saturating_sub(AROUND)..count.min(at + AROUND + 1) {
        let _ = write!(text, "\n  {} {near}: {}", if near == at { '>' } else { ' ' }, cut(&line(near), LINE_MAX));
    }
}

/// The text, or the head of it.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The end of a token, where tokens differ.
fn tail(token: &str) -> &str {
    let at = token.char_indices().rev().nth(11).map_or(0, |(at, _)| at);
    &token[at..]
}

fn opening(stream: &Stream) -> String {
    let end = stream.end.as_ref().map(|(at, end)| match end {
        End::Error(status) => format!("{at:?} {:?} {}", status.code(), status.message()),
        other => format!("{at:?} {other:?}"),
    });
    let commands = stream.commands.len();
    format!("opened at {:?}, {:?}, {commands} commands, end {end:?}", stream.opened, stream.opening)
}

fn operation(history: &History, at: usize) -> String {
    let operation = &history.operations[at];
    let request = match &operation.request {
        Request::Register(request) => format!(
            "register {} with {:?}",
            request.instance.as_ref().map_or_else(String::new, instance),
            request.lease_token
        ),
        other => format!("{other:?}"),
    };
    let outcome = match &operation.outcome {
        None => "no answer".to_owned(),
        Some((end, Err(status))) => format!("{end:?} {:?} {}", status.code(), status.message()),
        Some((end, Ok(Reply::Register(reply)))) => {
            let completed = reply.instance.as_ref().map_or_else(String::new, instance);
            format!("{end:?} {completed} {:?} at revision {}", reply.lease, reply.revision)
        }
        Some((end, Ok(Reply::Lookup(reply)))) => {
            let all: Vec<_> = reply.instances.iter().take(EVENTS_MAX).map(instance).collect();
            format!("{end:?} {} {all:?} at revision {}", reply.instances.len(), reply.revision)
        }
        Some((end, Ok(reply))) => format!("{end:?} {reply:?}"),
    };
    format!("{:?} {request} -> {outcome}", operation.start)
}

fn message(stream: &Stream, at: usize) -> String {
    let (time, message) = &stream.messages[at];
    match message {
        Message::Watch(WatchResponse { revision, resume_token, events: all, more, snapshot_end, reset, .. }) => {
            let flags = flags(&[("more", *more), ("end", *snapshot_end)]);
            let token = tail(resume_token);
            format!("{time:?} r{revision} {token:?} {flags} {reset:?} {}", events(all))
        }
        Message::Subscribe(SubscribeResponse { revision, groups, more, .. }) => {
            let mut text = format!("{time:?} r{revision} {}", flags(&[("more", *more)]));
            for group in groups {
                let flags = flags(&[("end", group.snapshot_end), ("dropped", group.dropped)]);
                let (id, token, reset, error) = (&group.id, tail(&group.resume_token), &group.reset, &group.error);
                let _ = write!(text, " [{id} {token:?} {flags} {reset:?} {error:?} {}]", events(&group.events));
            }
            text
        }
    }
}

fn flags(flags: &[(&str, bool)]) -> String {
    let set: Vec<_> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    set.join(" ")
}

fn events(events: &[Event]) -> String {
    let mut text = format!("{} events", events.len());
    for event in events.iter().take(EVENTS_MAX) {
        let of = event.instance.as_ref().map_or_else(String::new, instance);
        let _ = write!(text, " {:?}({:?}) {of}", event.r#type(), event.cause());
    }
    text
}

fn instance(instance: &Instance) -> String {
    let (key, status) = (key_of(instance), instance.status());
    format!("{key} {status:?} i{} r{}", instance.incarnation, instance.revision)
}
