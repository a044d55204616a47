//! The load by HTTP/1.1, as curl, browsers and most programs without a library send it: one request after the other on a
//! connection, or one stream of server-sent events. The client is hyper's: dearer than `wire`, and still far cheaper than
//! what it asks for.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, HOST},
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::IgnoredAny};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    Error,
    leases::Fleet,
    measure::{Gate, Side, Slice, Tally, Work},
    session::Target,
    watching::{Layout, Reader},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Connections that are opened at the same time: the queue of a listener is short.
const OPENING_MAX: usize = 64;

/// What lets so many open a connection at once.
pub(super) fn doors() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(OPENING_MAX))
}

/// One connection.
pub(super) struct Connection {
    requests: SendRequest<Empty<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(target: &Target) -> Result<Self, Error> {
        let socket = TokioIo::new(target.stream().await?);
        let (requests, connection) = http1::handshake(socket).await.map_err(broken)?;
        tokio::spawn(connection); // how it ends is told to whoever waits for an answer
        let value = |text: &String| HeaderValue::try_from(text).map_err(|error| Error::Usage(error.to_string()));
        let host = value(&target.caller.authority)?;
        let authorization = target.caller.authorization.as_ref().map(value).transpose()?;
        Ok(Self { requests, host, authorization })
    }

    async fn get(&mut self, uri: &Uri, accept: HeaderValue) -> Result<Response<Incoming>, Error> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(ACCEPT, accept);
        request.headers_mut().extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        self.requests.ready().await.map_err(broken)?;
        self.requests.send_request(request).await.map_err(broken)
    }
}

fn broken(error: hyper::Error) -> Error {
    Error::Broken(io::Error::other(error))
}

fn uri(path: &str) -> Result<Uri, Error> {
    path.parse().map_err(|error| Error::Usage(format!("{path}: {error}")))
}

/// What the answer to a lookup is read for.
#[derive(Deserialize)]
struct Found {
    instances: Vec<IgnoredAny>,
}

/// Lookups of services in turn.
pub(super) struct Lookups {
    paths: Vec<Uri>,
    /// Instances of each.
    instances: usize,
}

impl Lookups {
    /// Of the first `services` of a fleet.
    pub(super) fn new(fleet: &Fleet, services: usize) -> Result<Self, Error> {
        let path = |index| {
            let service = fleet.service(index * fleet.per_service);
            uri(&format!("/v1/namespaces/{}/services/{service}/instances", fleet.namespace))
        };
        Ok(Self { paths: (0..services).map(path).collect::<Result<_, _>>()?, instances: fleet.per_service })
    }

    /// The side of a comparison that makes them on so many connections.
    pub(super) fn side(self, connections: usize) -> Side {
        let connections = connections.min(self.paths.len());
        Side { name: "lookup, http", path: "", connections, load: Work::Http(Arc::new(self)) }
    }

    /// One connection's share, again and again until the slice ends.
    pub(super) async fn run(
        &self,
        http: &mut Connection,
        index: usize,
        connections: usize,
        slice: Slice,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        // As long as nothing changes each answer is what it was, and comparing is cheaper than reading.
        let mut mine: Vec<_> =
            self.paths.iter().skip(index).step_by(connections).map(|uri| (uri, Bytes::new())).collect();
        loop {
            for (uri, good) in &mut mine {
                let begun = Instant::now();
                if begun >= slice.end || tally.is_hopeless() {
                    return Ok(());
                }
                let answer = http.get(uri, JSON).await?;
                let status = answer.status();
                let body = answer.into_body().collect().await.map_err(broken)?.to_bytes();
                let now = Instant::now();
                let judged = if body == *good { Ok(1) } else { self.judge(status, &body) };
                if judged.is_ok() {
                    *good = body;
                }
                tally.reply(judged, slice.contains(now).then(|| now - begun));
                tally.tell();
            }
        }
    }

    fn judge(&self, status: StatusCode, body: &[u8]) -> Result<u64, String> {
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", String::from_utf8_lossy(body)));
        }
        match serde_json::from_slice::<Found>(body) {
            Ok(found) if found.instances.len() == self.instances => Ok(1),
            Ok(found) => Err(format!("a lookup found {} instances, not {}", found.instances.len(), self.instances)),
            Err(error) => Err(format!("a lookup was answered with something else: {error}")),
        }
    }
}

/// The one watcher of a connection, until the crew is told to stop. That its stream ends before is an error.
pub(super) async fn watch(
    target: &Target,
    layout: &Layout,
    doors: &Semaphore,
    gate: &mut Gate,
    reader: &mut impl Reader,
) -> Result<(), Error> {
    gate.wait().await?;
    let path = layout.http_path();
    tokio::select! {
        biased;
        ended = follow(target, &path, doors, reader) => ended,
        () = gate.stopped() => Ok(()),
    }
}

async fn follow(target: &Target, path: &str, doors: &Semaphore, reader: &mut impl Reader) -> Result<(), Error> {
    let door = doors.acquire().await.map_err(|_| Error::Stopped)?;
    let mut http = Connection::open(target).await?;
    let mut answer = http.get(&uri(path)?, EVENTS).await?;
    drop(door);
    if answer.status() != StatusCode::OK {
        let (status, body) = (answer.status(), answer.into_body().collect().await.map_err(broken)?.to_bytes());
        return Err(Error::Protocol(format!("{path}: {status}: {}", String::from_utf8_lossy(&body))));
    }
    let mut events = Events::default();
    while let Some(frame) = answer.frame().await {
        let now = Instant::now();
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            events.feed(&data, reader, now)?;
            reader.turn();
        }
    }
    Err(Error::Protocol(format!("{path}: {}", events.last_comment)))
}

/// What the data of an event is read for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    #[serde(borrow, default)]
    events: Vec<Event<'a>>,
    #[serde(default)]
    snapshot_end: bool,
    reset: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    instance: Instance<'a>,
}

#[derive(Deserialize)]
struct Instance<'a> {
    #[serde(default)]
    version: &'a str,
}

/// The events of one stream; of each the data, which stands on one line.
#[derive(Default)]
struct Events {
    /// The beginning of a line.
    partial: Vec<u8>,
    /// Why a stream ends is said in a comment.
    last_comment: String,
}

impl Events {
    fn feed(&mut self, mut data: &[u8], reader: &mut impl Reader, now: Instant) -> Result<(), Error> {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = (&data[..end], &data[end + 1..]);
            data = rest;
            if self.partial.is_empty() {
                self.line(head, reader, now)?;
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(head);
                self.line(&line, reader, now)?;
            }
        }
        self.partial.extend_from_slice(data);
        Ok(())
    }

    fn line(&mut self, line: &[u8], reader: &mut impl Reader, now: Instant) -> Result<(), Error> {
        if let Some(comment) = line.strip_prefix(b": ") {
            self.last_comment = String::from_utf8_lossy(comment).into_owned();
        }
        let Some(data) = line.strip_prefix(b"data: ") else { return Ok(()) };
        let message: Message<'_> =
            serde_json::from_slice(data).map_err(|error| Error::Protocol(format!("an event: {error}")))?;
        for event in message.events {
            reader.change(0, event.instance.version.parse().ok(), now);
        }
        if message.reset.is_some() {
            reader.fault(0, "was told to begin anew");
        }
        if message.snapshot_end {
            reader.opened(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Vec<String>);

    impl Reader for Heard {
        fn event(&mut self, _watcher: usize, _event: &[u8], _now: Instant) {}

        fn change(&mut self, _watcher: usize, change: Option<u64>, _now: Instant) {
            self.0.push(format!("{change:?}"));
        }

        fn opened(&mut self, _watcher: usize) {
            self.0.push("opened".to_owned());
        }

        fn fault(&mut self, _watcher: usize, what: &str) {
            self.0.push(what.to_owned());
        }
    }

    /// However the bytes are cut, the same is heard.
    #[test]
    fn events_cut_anywhere() {
        let text = "retry: 1000\n\n\
            data: {\"events\":[{\"type\":\"x\",\"instance\":{\"id\":\"a\",\"version\":\"7\"}},{\"instance\":{}}]}\nid: t\n\n\
            data: {\"snapshotEnd\":true}\n\n: {\"revision\":\"3\"}\nid: u\n\ndata: {\"reset\":{\"reason\":\"y\"}}\n\n";
        for size in 1..=text.len() {
            let (mut events, mut heard) = (Events::default(), Heard::default());
            for part in text.as_bytes().chunks(size) {
                events.feed(part, &mut heard, Instant::now()).unwrap();
            }
            assert_eq!(heard.0, ["Some(7)", "None", "opened", "was told to begin anew"], "in parts of {size}");
            assert_eq!(events.last_comment, "{\"revision\":\"3\"}");
        }
    }

    #[test]
    fn answers_have_to_show_all_instances() {
        let lookups = Lookups { paths: Vec::new(), instances: 2 };
        assert_eq!(lookups.judge(StatusCode::OK, br#"{"instances":[{},{"id":"b"}],"revision":"4"}"#), Ok(1));
        for (status, body, why) in [
            (StatusCode::OK, r#"{"instances":[{}]}"#, "found 1 instances, not 2"),
            (StatusCode::OK, "[", "something else"),
            (StatusCode::TOO_MANY_REQUESTS, "slow down", "429 Too Many Requests: slow down"),
        ] {
            let judged = lookups.judge(status, body.as_bytes()).unwrap_err();
            assert!(judged.contains(why), "{judged}");
        }
    }
}
