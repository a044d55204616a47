//! The beats of all leases of a client, on one stream of a connection of its own: what gathers meanwhile goes together.
//! Knows what a beat is, and no lease.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    error::{CallFailed, Cause},
    line::{Backoff, Line},
};
use crate::proto::{Beat, BeatResult, HeartbeatRequest, HeartbeatResponse, registry_client::RegistryClient};

/// Most beats in a message; any server takes as many.
const BATCH_MAX: usize = 1_000;
/// How long a first beat waits for others.
const GATHER: Duration = Duration::from_millis(2);
/// Messages that may be under way.
const UNANSWERED_MAX: usize = 16;
const WHAT: &str = "renew leases";

/// What becomes of a beat.
pub(super) type Beaten = Result<BeatResult, CallFailed>;

/// A beat to be sent.
struct Ask {
    beat: Beat,
    /// How long its answer may take.
    limit: Duration,
    answer: oneshot::Sender<Beaten>,
    /// Whether it was lost with a stream before.
    again: bool,
}

/// The way to the stream.
#[derive(Clone, Debug)]
pub(super) struct Beater(mpsc::Sender<Ask>);

/// One message under way.
struct Sent {
    until: Instant,
    limit: Duration,
    asks: Vec<Ask>,
}

impl Beater {
    /// Beats over this line, as long as the handle or a clone of it lives.
    pub(super) fn start(line: Line) -> Self {
        let (asks, taken) = mpsc::channel(BATCH_MAX);
        tokio::spawn(run(line, taken));
        Self(asks)
    }

    /// Whether its task has gone, with the runtime that it was started in.
    pub(super) fn is_gone(&self) -> bool {
        self.0.is_closed()
    }

    /// Beats once.
    pub(super) async fn beat(&self, beat: Beat, limit: Duration) -> Beaten {
        let (answer, answered) = oneshot::channel();
        let gone = || CallFailed::here(WHAT, "the runtime is shutting down");
        self.0.send(Ask { beat, limit, answer, again: false }).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// Opens a stream when there is something to send, and sends on it until it breaks. What was under way then goes again
/// at once, on the next stream; what that loses too is told to who asked.
async fn run(line: Line, mut taken: mpsc::Receiver<Ask>) {
    let (mut waiting, mut backoff) = (Vec::new(), Backoff::default());
    loop {
        if waiting.is_empty() {
            if taken.recv_many(&mut waiting, BATCH_MAX).await == 0 {
                return;
            }
            gather(&mut taken, &mut waiting).await;
        }
        let limit = limit_of(&waiting);
        let first = request_of(&waiting);
        let open = |channel: Channel| {
            let (messages, outgoing) = mpsc::channel(UNANSWERED_MAX);
            // There is room: it is new.
            let _ = messages.try_send(first.clone());
            let request = line.request(ReceiverStream::new(outgoing));
            async move {
                let opened = RegistryClient::new(channel).heartbeat_stream(request).await?;
                Ok(opened.map(|responses| (messages, responses)))
            }
        };
        match line.attempt_at(WHAT, line.share(limit), open).await {
            Err(failed) => {
                tell(waiting.drain(..), &failed);
                // However many leases there are, the registry is dialled as often as for one; and for the shortest of
                // them as often as it has to be.
                sleep(backoff.pause().min(limit)).await;
            }
            Ok(((messages, responses), place)) => {
                backoff.reset();
                let sent = Sent { until: Instant::now() + limit, limit, asks: std::mem::take(&mut waiting) };
                let host = line.host();
                let Some((cause, lost)) = pump(messages, responses, sent, &mut taken).await else { return };
                line.give_up(place);
                let (again, fresh): (Vec<Ask>, Vec<Ask>) = lost.into_iter().partition(|ask| ask.again);
                tell(again, &CallFailed { what: WHAT.to_owned(), causes: vec![(host, cause)] });
                waiting.extend(fresh.into_iter().map(|ask| Ask { again: true, ..ask }));
            }
        }
    }
}

/// Sends what comes and answers it, until the stream breaks: why, and what it leaves without an answer. None: nobody
/// sends any more.
async fn pump(
    messages: mpsc::Sender<HeartbeatRequest>,
    mut responses: Streaming<HeartbeatResponse>,
    first: Sent,
    taken: &mut mpsc::Receiver<Ask>,
) -> Option<(Cause, Vec<Ask>)> {
    let mut unanswered = VecDeque::from([first]);
    let mut batch = Vec::new();
    let cause = loop {
        let until = unanswered.front().map(|sent| sent.until);
        let room = unanswered.len() < UNANSWERED_MAX;
        tokio::select! {
            biased;
            response = responses.message() => match response {
                Ok(Some(response)) => {
                    if let Some(sent) = unanswered.pop_front() {
                        answer(sent.asks, &response);
                    }
                }
                Ok(None) => break Cause::Transport { text: "the stream ended".to_owned(), refused: false },
                Err(status) => break Cause::from_status(status),
            },
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                break Cause::Timeout(unanswered.front().map_or(Duration::ZERO, |sent| sent.limit));
            }
            count = taken.recv_many(&mut batch, BATCH_MAX), if room => {
                if count == 0 {
                    return None;
                }
                gather(taken, &mut batch).await;
                let limit = limit_of(&batch);
                let message = request_of(&batch);
                let asks = std::mem::take(&mut batch);
                unanswered.push_back(Sent { until: Instant::now() + limit, limit, asks });
                if messages.try_send(message).is_err() {
                    break Cause::Transport { text: "the stream takes nothing".to_owned(), refused: false };
                }
            }
        }
    };
    Some((cause, unanswered.into_iter().flat_map(|sent| sent.asks).collect()))
}

/// Waits a moment for more.
async fn gather(taken: &mut mpsc::Receiver<Ask>, batch: &mut Vec<Ask>) {
    sleep(GATHER).await;
    while batch.len() < BATCH_MAX
        && let Ok(ask) = taken.try_recv()
    {
        batch.push(ask);
    }
}

fn request_of(asks: &[Ask]) -> HeartbeatRequest {
    HeartbeatRequest { beats: asks.iter().map(|ask| ask.beat.clone()).collect(), ..HeartbeatRequest::default() }
}

/// The whole message has to be answered when its most urgent beat has.
fn limit_of(asks: &[Ask]) -> Duration {
    asks.iter().map(|ask| ask.limit).min().unwrap_or_default()
}

/// An answer without a result reads as one that was not judged.
fn answer(asks: Vec<Ask>, response: &HeartbeatResponse) {
    for (place, ask) in asks.into_iter().enumerate() {
        // Who asked may be gone.
        let _ = ask.answer.send(Ok(response.results.get(place).cloned().unwrap_or_default()));
    }
}

fn tell(asks: impl IntoIterator<Item = Ask>, failed: &CallFailed) {
    for ask in asks {
        let _ = ask.answer.send(Err(failed.clone()));
    }
}
