//! Many watchers, and the watch streams of one connection: opens them, hands on what they bring, counts nothing itself.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Error,
    session::Session,
    wire::{Field, Fields, GIVE_AFTER, Load, Messages, Turn, Wire, framed},
};
use crate::proto::{AddSubscription, Selector, SubscribeRequest, WatchRequest, subscribe_request::Command};

/// Path of the call.
const WATCH: &str = "/onair.v1.Registry/Watch";
/// Path of the call.
const SUBSCRIBE: &str = "/onair.v1.Registry/Subscribe";

/// Watches of a connection that are asked for before the first of them opened: a server refuses more than it can queue,
/// and with hundreds of connections that is soon reached.
const OPENING_MAX: usize = 32;

/// A number that many add to and one waits for.
#[derive(Default)]
pub(super) struct Goal {
    count: AtomicU64,
    wanted: AtomicU64,
    reached: Notify,
}

impl Goal {
    /// Adds to it, and wakes whoever waits if it is reached.
    pub(super) fn add(&self, some: u64) {
        // Either this sees what is wanted, or `reach` sees what was added.
        let count = self.count.fetch_add(some, Ordering::SeqCst) + some;
        if count >= self.wanted.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }

    /// How far it is.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Completes when so many were added in all.
    pub(super) async fn reach(&self, wanted: u64) {
        self.wanted.store(wanted, Ordering::SeqCst);
        while self.count() < wanted {
            self.reached.notified().await;
        }
    }
}

/// In which way watchers watch.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct Way {
    /// One Subscribe stream a connection that carries all its watchers, rather than a Watch stream for each.
    #[arg(long)]
    multiplexed: bool,
    /// Server-sent events by HTTP/1.1, each watcher on a connection of its own.
    #[arg(long, conflicts_with_all = ["multiplexed", "connections"])]
    pub(super) http: bool,
}

impl Way {
    /// What a job is called that goes this way.
    pub(super) fn name(self, job: &str) -> String {
        match self {
            Self { multiplexed: true, .. } => format!("{job}, multiplexed"),
            Self { http: true, .. } => format!("{job}, http"),
            _ => job.to_owned(),
        }
    }

    /// On how many connections so many watchers are, if not as many as the options say then as `default` says.
    pub(super) fn connections(self, session: &Session, watchers: usize, default: usize) -> usize {
        if self.http { watchers } else { session.options.connections.unwrap_or(default).min(watchers) }
    }
}

/// How the watchers of a connection are laid out.
#[derive(Clone)]
pub(super) struct Layout {
    /// The method to call.
    pub(super) path: &'static str,
    /// Whether its one watcher reads server-sent events instead.
    pub(super) http: bool,
    /// Streams on the connection.
    streams: usize,
    /// Watchers on each stream.
    per_stream: usize,
    /// The watchers before those of this connection.
    before: usize,
    namespace: String,
    services: Arc<Vec<String>>,
}

impl Layout {
    /// `watchers` on `connections`, following `services` in turn: each on a stream of its own, or all of a connection as
    /// subscriptions of one stream.
    pub(super) fn spread(
        session: &Session,
        watchers: usize,
        connections: usize,
        way: Way,
        services: Vec<String>,
    ) -> Vec<Self> {
        let services = Arc::new(services);
        let share = |index: usize| (index + 1) * watchers / connections - index * watchers / connections;
        let layout = |index| Self {
            path: if way.multiplexed { SUBSCRIBE } else { WATCH },
            http: way.http,
            streams: if way.multiplexed { 1 } else { share(index) },
            per_stream: if way.multiplexed { share(index) } else { 1 },
            before: index * watchers / connections,
            namespace: session.namespace.clone(),
            services: services.clone(),
        };
        (0..connections).map(layout).filter(|layout| layout.watchers() > 0).collect()
    }

    /// How many watchers there are.
    pub(super) fn watchers(&self) -> usize {
        self.streams * self.per_stream
    }

    fn is_multiplexed(&self) -> bool {
        self.path == SUBSCRIBE
    }

    fn service(&self, watcher: usize) -> &str {
        self.services.get((self.before + watcher) % self.services.len().max(1)).map_or("", String::as_str)
    }

    /// The path that opens the watcher of a connection by HTTP.
    pub(super) fn http_path(&self) -> String {
        format!("/v1/namespaces/{}/services/{}/watch", self.namespace, self.service(0))
    }

    /// The message that opens a watcher.
    pub(super) fn message(&self, watcher: usize) -> Vec<u8> {
        let (namespace, service) = (self.namespace.clone(), self.service(watcher).to_owned());
        let selectors = vec![Selector { namespace, service, ..Selector::default() }];
        if !self.is_multiplexed() {
            return framed(&WatchRequest { selectors, ..WatchRequest::default() });
        }
        let add = AddSubscription { id: watcher.to_string(), selectors, ..AddSubscription::default() };
        framed(&SubscribeRequest { command: Some(Command::Add(add)) })
    }
}

/// What is made of the messages.
pub(super) trait Reader: Send {
    /// An event for a watcher, as it is encoded.
    fn event(&mut self, watcher: usize, event: &[u8], now: Instant);
    /// An event of JSON, of which only the version of its instance is read: as the number of a change.
    fn change(&mut self, watcher: usize, _change: Option<u64>, _now: Instant) {
        self.fault(watcher, "got an event");
    }
    /// A watcher's snapshot is complete.
    fn opened(&mut self, watcher: usize);
    /// A watcher was told to begin anew, or was refused.
    fn fault(&mut self, watcher: usize, what: &str);
    /// All of what was read is handed on.
    fn turn(&mut self) {}
}

/// One connection with its watch streams.
pub(super) struct Watching<R> {
    layout: Layout,
    /// What is made of the messages.
    pub(super) reader: R,
    /// Watchers asked for so far.
    asked: usize,
    /// Watchers whose snapshot is complete.
    opened: usize,
    /// What the server takes on the stream of a multiplexed connection now.
    window: i64,
    streams: Vec<Stream>,
}

/// One stream's bytes.
#[derive(Default)]
struct Stream {
    messages: Messages,
    consumed: u32,
}

impl<R: Reader> Watching<R> {
    /// Watchers that `reader` hears.
    pub(super) fn new(layout: Layout, reader: R) -> Self {
        let streams = (0..layout.streams).map(|_| Stream::default()).collect();
        Self { layout, reader, asked: 0, opened: 0, window: 0, streams }
    }
}

impl<R: Reader> Load for Watching<R> {
    fn turn(&mut self, wire: &mut Wire, _now: Instant) -> Result<Turn, Error> {
        self.reader.turn();
        if self.layout.streams > wire.streams_max() {
            return Err(Error::Usage(format!(
                "{} streams on a connection, but the server takes {}: use more --connections",
                self.layout.streams,
                wire.streams_max()
            )));
        }
        while self.asked < self.layout.watchers() && self.asked < self.opened + OPENING_MAX {
            let message = self.layout.message(self.asked);
            let bytes = message.len() as i64;
            if self.layout.is_multiplexed() {
                if self.asked == 0 {
                    self.window = wire.stream_window();
                    wire.begin();
                }
                if bytes > self.window.min(wire.window()) {
                    break;
                }
                self.window -= bytes;
                wire.send(1, &message, false);
            } else {
                if bytes > wire.window() {
                    break;
                }
                let stream = wire.begin();
                wire.send(stream, &message, true);
            }
            self.asked += 1;
        }
        Ok(Turn::Wait)
    }

    fn data(&mut self, wire: &mut Wire, stream: u32, data: &[u8], now: Instant) -> Result<(), Error> {
        let index = (stream / 2) as usize;
        let Some(state) = self.streams.get_mut(index) else { return Ok(()) };
        state.consumed += data.len() as u32;
        if state.consumed >= GIVE_AFTER {
            wire.give(stream, state.consumed);
            state.consumed = 0;
        }
        let (reader, opened, multiplexed) = (&mut self.reader, &mut self.opened, self.layout.is_multiplexed());
        state.messages.feed(data, |body| {
            *opened += match multiplexed {
                true => groups(reader, body, now),
                false => response(reader, index, body, [3, 6, 7, 0], now),
            };
            Ok(())
        })
    }

    fn ended(&mut self, stream: u32, reset: Option<u32>) -> Result<(), Error> {
        let how = reset.map_or_else(|| "with a status".to_owned(), |code| format!("by a reset with code {code}"));
        Err(Error::Protocol(format!("watch stream {stream} of a connection, {how}")))
    }

    fn window(&mut self, _stream: u32, bytes: u32) {
        self.window += i64::from(bytes);
    }
}

/// Hands on what a `SubscribeResponse` holds; answers how many watchers it opens.
fn groups(reader: &mut impl Reader, message: &[u8], now: Instant) -> usize {
    let mut opened = 0;
    for field in Fields(message) {
        let Field::Bytes(2, group) = field else { continue };
        let id = Fields(group).find_map(|field| if let Field::Bytes(1, id) = field { Some(id) } else { None });
        let watcher = id.and_then(|id| std::str::from_utf8(id).ok()).and_then(|id| id.parse().ok());
        match watcher {
            Some(watcher) => opened += response(reader, watcher, group, [3, 5, 6, 7], now),
            None => reader.fault(0, "a group of an unknown subscription"),
        }
    }
    opened
}

/// Hands on what a `WatchResponse` or a group holds: `numbers` are those of events, snapshot end, reset and error.
/// Answers 1 if it opens the watcher.
fn response(reader: &mut impl Reader, watcher: usize, body: &[u8], numbers: [u32; 4], now: Instant) -> usize {
    let [events, snapshot_end, reset, error] = numbers;
    let mut opened = false;
    for field in Fields(body) {
        match field {
            Field::Bytes(number, event) if number == events => reader.event(watcher, event, now),
            Field::Number(number, 1) if number == snapshot_end => opened = true,
            Field::Bytes(number, _) if number == reset => reader.fault(watcher, "was told to begin anew"),
            Field::Bytes(number, _) if number == error => reader.fault(watcher, "was refused"),
            _ => {}
        }
    }
    if opened {
        reader.opened(watcher);
    }
    usize::from(opened)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::{Event, Reset, SubscribeResponse, SubscriptionGroup, WatchResponse};

    #[derive(Default, PartialEq, Debug)]
    struct Heard {
        events: Vec<usize>,
        opened: Vec<usize>,
        faults: Vec<usize>,
    }

    impl Reader for Heard {
        fn event(&mut self, watcher: usize, _event: &[u8], _now: Instant) {
            self.events.push(watcher);
        }

        fn opened(&mut self, watcher: usize) {
            self.opened.push(watcher);
        }

        fn fault(&mut self, watcher: usize, _what: &str) {
            self.faults.push(watcher);
        }
    }

    #[test]
    fn both_kinds_of_stream_are_read_alike() {
        let events = vec![Event::default(), Event { cause: 2, ..Event::default() }];
        let reset = Some(Reset::default());
        let mut watched = Heard::default();
        let first = WatchResponse { events: events.clone(), snapshot_end: true, ..WatchResponse::default() };
        let second = WatchResponse { reset, ..WatchResponse::default() };
        for message in [first, second] {
            response(&mut watched, 7, &message.encode_to_vec(), [3, 6, 7, 0], Instant::now());
        }
        let mut subscribed = Heard::default();
        let group = |id: &str| SubscriptionGroup { id: id.to_owned(), ..SubscriptionGroup::default() };
        let first = SubscriptionGroup { events, snapshot_end: true, ..group("7") };
        let message =
            SubscribeResponse { groups: vec![first, SubscriptionGroup { reset, ..group("7") }], ..Default::default() };
        groups(&mut subscribed, &message.encode_to_vec(), Instant::now());
        assert_eq!(watched, subscribed);
        assert_eq!(watched, Heard { events: vec![7, 7], opened: vec![7], faults: vec![7] });
    }

    #[tokio::test]
    async fn a_goal_is_reached_by_whoever_comes_last() {
        let goal = Arc::new(Goal::default());
        goal.add(1);
        let waiting = tokio::spawn({
            let goal = goal.clone();
            async move { goal.reach(3).await }
        });
        tokio::task::yield_now().await;
        goal.add(1);
        goal.add(1);
        waiting.await.unwrap();
        goal.reach(2).await;
        assert_eq!(goal.count(), 3);
    }
}
