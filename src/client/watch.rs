//! A watch that goes on: over broken connections, restarts, and from host to host, each change whole and once. It is a
//! subscription, so that what is acted on can be acknowledged, and drains wait for it.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{
    Inner,
    error::{CallFailed, Cause},
    fold::{Change, Fold, Taken},
    line::{Backoff, Place, from_wire},
};
use crate::proto::{
    Acknowledge, AddSubscription, Selector, SubscribeRequest, SubscribeResponse, registry_client::RegistryClient,
    subscribe_request::Command,
};

/// A quiet stream says something at least this often, until it has told how often.
pub(crate) const BOOKMARK_INTERVAL: Duration = Duration::from_secs(15);
/// Beyond two silent intervals, for the way.
const SILENCE_MARGIN: Duration = Duration::from_secs(1);
/// Whatever a server says.
const SILENCE_MAX: Duration = Duration::from_secs(3_600);
/// Commands that may wait for the transport.
const COMMANDS_MAX: usize = 64;
/// The subscription's id; it is alone on its stream.
const ID: &str = "w";

/// A change that nobody takes for so long has its stream given up, so that other streams of the connection have its room.
const HELD: Duration = Duration::from_secs(5);

/// How a watch is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Standing {
    /// Everything up to this revision is known.
    pub revision: u64,
    /// When the registry was heard last; never: when the watch began.
    pub heard: Instant,
    /// Why nothing is heard, while that is so.
    pub failing: Option<CallFailed>,
    /// The registry was heard at some time.
    pub begun: bool,
    /// While all is well it is heard at least so often.
    pub interval: Duration,
}

impl Standing {
    fn new() -> Self {
        let (heard, interval) = (Instant::now(), BOOKMARK_INTERVAL);
        Self { revision: 0, heard, failing: None, begun: false, interval }
    }

    /// How old what is known is: 0 while the registry is heard, else how long ago it was, or how long it never was.
    #[must_use]
    pub fn age(&self) -> Duration {
        let elapsed = self.heard.elapsed();
        let is_heard = self.begun && self.failing.is_none() && elapsed <= self.interval + SILENCE_MARGIN;
        if is_heard { Duration::ZERO } else { elapsed }
    }
}

/// What a `Following` is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Told {
    /// A stream is asked for, which continues from this token; without one it begins with a snapshot.
    Asked {
        /// That of the last change.
        token: String,
    },
    /// A change; one without events says that nothing has happened up to its revision.
    Change(Change),
    /// The stream has ended, or none was opened. Another is asked for soon.
    Ended(CallFailed),
}

/// A stream of changes that does not end while it is wanted. Taking the next change says that the one before was acted
/// on. It ends with an error that trying again would not change, as of a selector that cannot be read.
#[derive(Debug)]
pub struct Watch(Following);

/// A watch that tells of its streams as well, and of every bookmark: for who shows or checks what happens.
#[derive(Debug)]
pub struct Following {
    told: mpsc::Receiver<Result<Told, CallFailed>>,
    acted: watch::Sender<u64>,
    last: u64,
    standing: Arc<Mutex<Standing>>,
}

impl Watch {
    pub(super) fn start(client: &Arc<Inner>, selectors: Vec<Selector>) -> Self {
        Self(Following::start(client, selectors, false))
    }

    /// One that is told these.
    #[cfg(test)]
    pub(super) fn of(told: mpsc::Receiver<Result<Told, CallFailed>>) -> Self {
        let standing = Arc::new(Mutex::new(Standing::new()));
        Self(Following { told, acted: watch::channel(0).0, last: 0, standing })
    }

    /// How it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.0.standing()
    }

    pub(super) fn shared_standing(&self) -> Arc<Mutex<Standing>> {
        Arc::clone(&self.0.standing)
    }

    /// The next change.
    pub async fn next(&mut self) -> Option<Result<Change, CallFailed>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Change, CallFailed>>> {
        loop {
            match ready!(self.0.poll(context)) {
                Some(Ok(Told::Change(change))) => return Poll::Ready(Some(Ok(change))),
                // Of its streams it is not told.
                Some(Ok(Told::Asked { .. } | Told::Ended(_))) => {}
                Some(Err(failed)) => return Poll::Ready(Some(Err(failed))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Following {
    /// Of its streams and of bookmarks it `tells` if it is asked to.
    pub(super) fn start(client: &Arc<Inner>, selectors: Vec<Selector>, tells: bool) -> Self {
        // One: who is slow is given the next when the one before was taken, and what is not taken is not acted on.
        let (to, told) = mpsc::channel(1);
        let (acted, acknowledged) = watch::channel(0);
        let standing = Arc::new(Mutex::new(Standing::new()));
        let follower = Follower {
            client: Arc::clone(client),
            selectors,
            to,
            acted: acknowledged,
            fold: Fold::default(),
            standing: Arc::clone(&standing),
            tells,
        };
        tokio::spawn(follower.run());
        Self { told, acted, last: 0, standing }
    }

    /// How it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is told next.
    pub async fn next(&mut self) -> Option<Result<Told, CallFailed>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Told, CallFailed>>> {
        if *self.acted.borrow() != self.last {
            self.acted.send_replace(self.last);
        }
        let next = self.told.poll_recv(context);
        if let Poll::Ready(Some(Ok(Told::Change(change)))) = &next {
            self.last = change.revision;
        }
        next
    }
}

impl Stream for Watch {
    type Item = Result<Change, CallFailed>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

/// The task behind it.
struct Follower {
    client: Arc<Inner>,
    selectors: Vec<Selector>,
    to: mpsc::Sender<Result<Told, CallFailed>>,
    tells: bool,
    acted: watch::Receiver<u64>,
    fold: Fold,
    standing: Arc<Mutex<Standing>>,
}

/// An open stream.
struct Open {
    commands: mpsc::Sender<SubscribeRequest>,
    messages: Streaming<SubscribeResponse>,
}

/// Why a stream is read no more.
enum Ended {
    /// Nobody wants it.
    Unwanted,
    /// The stream broke, and its connection with it: the next may do better.
    Broken(Cause),
    /// So it was told: a later stream may do better, on the same connection.
    Told(Cause),
    /// It would not.
    Refused(Cause),
    /// Nobody has taken this for long.
    Idle(Change),
}

/// A stream that says nothing for so long is dead.
pub(crate) fn silence(bookmark_interval: Duration) -> Duration {
    bookmark_interval.saturating_mul(2).saturating_add(SILENCE_MARGIN).min(SILENCE_MAX)
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            self.fold.begin();
            if !self.tell(|fold| Told::Asked { token: fold.token().to_owned() }).await {
                return;
            }
            let ended = match self.open().await {
                Err(failed) if failed.last().is_some_and(|cause| self.client.watches.is_final(cause)) => {
                    return self.refuse(failed).await;
                }
                Err(failed) => Ok(failed),
                Ok((open, place)) => {
                    let heard = self.standing().heard;
                    let ended = self.read(open).await;
                    if self.standing().heard > heard {
                        backoff.reset();
                    }
                    if matches!(ended, Ended::Broken(_)) {
                        self.client.watches.give_up(place);
                    }
                    Err(ended)
                }
            };
            let failed = match ended {
                Ok(failed) => failed,
                Err(Ended::Unwanted) => return,
                Err(Ended::Idle(change)) => {
                    // It goes on from there when there is room.
                    if self.to.send(Ok(Told::Change(change))).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(Ended::Refused(cause)) => {
                    let failed = self.failed(cause);
                    return self.refuse(failed).await;
                }
                Err(Ended::Broken(cause) | Ended::Told(cause)) => self.failed(cause),
            };
            let wait = backoff.pause().max(failed.last().and_then(Cause::retry_after).unwrap_or_default());
            self.standing().failing = Some(failed.clone());
            if !self.tell(|_| Told::Ended(failed)).await {
                return;
            }
            tokio::select! {
                () = self.to.closed() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Tells of its streams, if it is to. Whether anybody wants to know more.
    async fn tell(&self, what: impl FnOnce(&Fold) -> Told) -> bool {
        !self.tells || self.to.send(Ok(what(&self.fold))).await.is_ok()
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, cause: Cause) -> CallFailed {
        CallFailed { what: "watch".to_owned(), causes: vec![(self.client.watches.host(), cause)] }
    }

    async fn refuse(self, failed: CallFailed) {
        self.standing().failing = Some(failed.clone());
        // Nobody may want to know.
        let _ = self.to.send(Err(failed)).await;
    }

    /// Opens a stream that says first that it acknowledges, then where it continues.
    async fn open(&self) -> Result<(Open, Place), CallFailed> {
        let add = AddSubscription {
            id: ID.to_owned(),
            selectors: self.selectors.clone(),
            resume_token: self.fold.token().to_owned(),
            ..AddSubscription::default()
        };
        let line = &self.client.watches;
        let first = [Command::Ack(Acknowledge { revision: *self.acted.borrow() }), Command::Add(add)];
        let open = |channel: Channel| {
            let (commands, outgoing) = mpsc::channel(COMMANDS_MAX);
            for command in first.clone() {
                // There is room: it is new.
                let _ = commands.try_send(SubscribeRequest { command: Some(command) });
            }
            let request = line.request(ReceiverStream::new(outgoing));
            async move {
                let mut stub = RegistryClient::new(channel).max_decoding_message_size(usize::MAX);
                Ok(stub.subscribe(request).await?.map(|messages| Open { commands, messages }))
            }
        };
        line.attempt_at("watch", line.timeout(), open).await
    }

    async fn read(&mut self, mut open: Open) -> Ended {
        loop {
            let silence = silence(self.standing().interval);
            tokio::select! {
                biased;
                () = self.to.closed() => return Ended::Unwanted,
                acted = self.acted.changed() => {
                    let revision = *self.acted.borrow_and_update();
                    let ack = SubscribeRequest { command: Some(Command::Ack(Acknowledge { revision })) };
                    if acted.is_err() {
                        return Ended::Unwanted;
                    }
                    // Where it cannot be sent the stream is about to end, and the next one says it first of all.
                    let _ = open.commands.try_send(ack);
                }
                message = timeout(silence, open.messages.message()) => {
                    let message = match message {
                        Err(_) => return Ended::Broken(Cause::Timeout(silence)),
                        Ok(Ok(Some(message))) => message,
                        Ok(Ok(None)) => {
                            return Ended::Broken(Cause::Transport { text: "the stream ended".to_owned(), refused: false });
                        }
                        Ok(Err(status)) => return self.broken(status),
                    };
                    if let Some(ended) = self.take(message, &mut open).await {
                        return ended;
                    }
                }
            }
        }
    }

    fn broken(&self, status: Status) -> Ended {
        let cause = Cause::from_status(status);
        if self.client.watches.is_final(&cause) { Ended::Refused(cause) } else { Ended::Broken(cause) }
    }

    /// Takes a message in, and hands on what came of it.
    async fn take(&mut self, message: SubscribeResponse, open: &mut Open) -> Option<Ended> {
        if let Some(interval) = from_wire(message.bookmark_interval).filter(|interval| !interval.is_zero()) {
            self.standing().interval = interval;
        }
        for group in message.groups.into_iter().filter(|group| group.id == ID) {
            if let Some(error) = group.error {
                let details = error.encode_to_vec();
                let status = Status::with_details(Code::from_i32(error.code), error.message, details.into());
                // The connection has carried the answer: nothing is wrong with that.
                return Some(match self.broken(status) {
                    Ended::Broken(cause) => Ended::Told(cause),
                    ended => ended,
                });
            }
            match self.fold.take(message.revision, group) {
                Taken::Nothing => {}
                Taken::Backward => {
                    let text = format!("it is behind revision {}, which was seen already", self.fold.revision());
                    return Some(Ended::Broken(Cause::Transport { text, refused: false }));
                }
                Taken::Change(change) if change.is_quiet() && !self.tells => {}
                Taken::Change(change) => {
                    if let Some(ended) = self.hand_on(change, open).await {
                        return Some(ended);
                    }
                }
            }
        }
        let revision = self.fold.revision();
        let mut standing = self.standing();
        (standing.revision, standing.heard, standing.failing, standing.begun) = (revision, Instant::now(), None, true);
        drop(standing);
        None
    }

    /// Hands a change on, and acknowledges the one before it when it is taken.
    async fn hand_on(&mut self, change: Change, open: &mut Open) -> Option<Ended> {
        let to = self.to.clone();
        let mut room = pin!(to.reserve());
        let until = Instant::now() + HELD;
        loop {
            tokio::select! {
                biased;
                permit = &mut room => {
                    let Ok(permit) = permit else { return Some(Ended::Unwanted) };
                    permit.send(Ok(Told::Change(change)));
                    return None;
                }
                () = sleep_until(until) => return Some(Ended::Idle(change)),
                acted = self.acted.changed() => {
                    if acted.is_err() {
                        return Some(Ended::Unwanted);
                    }
                    let revision = *self.acted.borrow_and_update();
                    let ack = SubscribeRequest { command: Some(Command::Ack(Acknowledge { revision })) };
                    let _ = open.commands.try_send(ack);
                }
            }
        }
    }
}
