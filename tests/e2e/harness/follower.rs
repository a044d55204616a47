//! A client that watches as the protocol says: it keeps the last resume token, and redials with it when a stream ends.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use onair::proto::{Event, EventType, ResetReason, WatchRequest, WatchResponse};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tonic::Status;

use super::{PATIENCE, Server, within};
use crate::history::{AnyWatched, Fold, Recorder, Way};

/// The pause between attempts while the server ought to be there.
const REDIAL: Duration = Duration::from_millis(20);

/// How long a poll of a follower is held: less than a stream's first message may take.
const HELD: Duration = Duration::from_secs(1);

/// Everything, and which partitions of services are there: the checkers compare the two.
fn summed_up() -> WatchRequest {
    WatchRequest { summaries: true, ..super::everything() }
}

/// What a follower saw.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A stream was opened; the first one, or with a token.
    Opened,
    /// A message, and when it was read.
    Message { at: Instant, message: WatchResponse },
    /// The stream ended.
    Ended(Option<Status>),
}

/// The follower. It reads on by itself; what it saw is folded as the test takes it.
pub struct Follower {
    seen: mpsc::UnboundedReceiver<Seen>,
    fold: Fold,
    gone: Vec<Event>,
    resets: Vec<ResetReason>,
    /// What followed, in the same message, the event that a test took.
    rest: VecDeque<(Instant, Event)>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Follows `request` on `server` in all its lives.
    pub fn start(server: &Server, recorder: &Recorder, request: WatchRequest) -> Self {
        Self::start_by(Way::Grpc, server, recorder, request)
    }

    /// The same, in one of the ways there are.
    pub fn start_by(way: Way, server: &Server, recorder: &Recorder, request: WatchRequest) -> Self {
        let (to, seen) = mpsc::unbounded_channel();
        let fold = if request.resume_token.is_empty() { Fold::new() } else { Fold::default() };
        let task = tokio::spawn(follow(way, server.up(), recorder.clone(), request, to));
        Self { seen, fold, gone: Vec::new(), resets: Vec::new(), rest: VecDeque::new(), task }
    }

    /// Follows everything there is, and has its snapshot.
    pub async fn of_everything(server: &Server, recorder: &Recorder) -> Self {
        let mut follower = Self::start(server, recorder, summed_up());
        follower.snapshot().await;
        follower
    }

    /// The same over HTTP: as server-sent events, and by long polls.
    pub async fn of_everything_by_http(server: &Server, recorder: &Recorder) -> [Self; 2] {
        let mut both = [Way::Events, Way::Poll(HELD)].map(|way| Self::start_by(way, server, recorder, summed_up()));
        for follower in &mut both {
            follower.snapshot().await;
        }
        both
    }

    /// What it holds, of all that the test has taken.
    pub fn fold(&self) -> &Fold {
        &self.fold
    }

    /// Every OFFLINE that the test has taken.
    pub fn gone(&self) -> &[Event] {
        &self.gone
    }

    /// Every reset that the test has taken.
    pub fn resets(&self) -> &[ResetReason] {
        &self.resets
    }

    /// The next thing.
    pub async fn next(&mut self) -> Seen {
        let seen = within("something on a watch", self.seen.recv()).await.expect("it follows");
        match &seen {
            Seen::Opened => self.fold.redial(),
            Seen::Message { message, .. } => {
                self.fold.watch(message);
                self.gone.extend(message.events.iter().filter(|one| one.r#type() == EventType::Offline).cloned());
                self.resets.extend(message.reset.map(|reset| reset.reason()));
            }
            Seen::Ended(_) => {}
        }
        seen
    }

    /// The next message, over any number of streams.
    pub async fn message(&mut self) -> (Instant, WatchResponse) {
        loop {
            if let Seen::Message { at, message } = self.next().await {
                return (at, message);
            }
        }
    }

    /// Takes messages until a snapshot is complete.
    pub async fn snapshot(&mut self) {
        while !self.message().await.1.snapshot_end {}
    }

    /// The next event for which `wanted` holds; others are passed over.
    pub async fn event(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> (Instant, Event) {
        let search = async {
            loop {
                while let Some((at, event)) = self.rest.pop_front() {
                    if wanted(&event) {
                        return (at, event);
                    }
                }
                let (at, message) = self.message().await;
                self.rest.extend(message.events.into_iter().map(|event| (at, event)));
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("no event: {what}"))
    }

    /// Takes messages until it has seen everything up to `revision`.
    pub async fn reach(&mut self, revision: u64) {
        while self.fold.revision() < revision {
            self.message().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    way: Way,
    mut up: tokio::sync::watch::Receiver<Option<std::net::SocketAddr>>,
    recorder: Recorder,
    mut request: WatchRequest,
    to: mpsc::UnboundedSender<Seen>,
) {
    let mut redial = interval(REDIAL);
    redial.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        redial.tick().await;
        let Ok(address) = up.wait_for(Option::is_some).await.map(|up| up.expect("waited for")) else { return };
        let mut stream = match AnyWatched::open(way, address, &recorder, request.clone()).await {
            None => continue,
            Some(Ok(stream)) => stream,
            Some(Err(status)) => {
                let _ = to.send(Seen::Ended(Some(status)));
                continue;
            }
        };
        let mut gone = to.send(Seen::Opened).is_err();
        while let (false, Some(next)) = (gone, stream.next().await) {
            let seen = match next {
                Ok(message) => {
                    if message.reset.is_some() || !message.resume_token.is_empty() {
                        request.resume_token.clone_from(&message.resume_token);
                    }
                    Seen::Message { at: Instant::now(), message }
                }
                Err(status) => Seen::Ended(Some(status)),
            };
            let ended = matches!(seen, Seen::Ended(_));
            gone = to.send(seen).is_err();
            if ended {
                break;
            }
        }
        if gone {
            return;
        }
    }
}
