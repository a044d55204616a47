//! Those who want nothing but to stay: leases that are renewed beside a burst, by calls and on streams, each timed; a few
//! lookups and registrations as anyone makes them; and a watcher that sees whether one of them goes offline. They run on a
//! thread of their own that goes before the load, so that the load's haste is not taken for the server's.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use onair::proto::{Beat, BeatState, EventType, HeartbeatRequest, HeartbeatResponse, LookupRequest, WatchRequest};
use rustix::process::nice;
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
    task::{JoinSet, LocalSet, spawn_local},
    time::interval,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    fleet::{Client, Fleet, connect},
    watcher::selector,
    wire::Refusal,
};
use crate::Result;

/// Those who are renewed on streams, and how many streams there are.
const STREAMED: usize = 1_000;
const STREAMS: usize = 10;
/// Those who are renewed by calls.
const CALLED: usize = 64;
/// How often one of them calls.
const CALL_EVERY: Duration = Duration::from_millis(5);
/// How often others look up and register.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// Beats on a stream that may be unanswered.
const UNANSWERED: usize = 4_096;
/// How much sooner than others their thread has its turn.
const NICE: i32 = -15;

/// All of them: ten a service, as long as leases usually live.
const KEPT: Fleet = Fleet { namespace: "kept", each: 10, ttl: 10, metadata: 0 };

/// What was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A heartbeat by a call.
    Call,
    /// One on a stream.
    Stream,
    /// A lookup of ten.
    Lookup,
    /// A registration.
    Register,
}

impl Kind {
    /// Heartbeats.
    pub const BEATS: [Self; 2] = [Self::Call, Self::Stream];
    /// What others do.
    pub const PROBES: [Self; 2] = [Self::Lookup, Self::Register];
}

/// One that was timed.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What it was.
    pub kind: Kind,
    /// When it was sent.
    pub at: Instant,
    /// How long its answer took.
    pub micros: f64,
}

/// What they saw.
#[derive(Default)]
pub struct Seen {
    /// Everything that was answered.
    pub samples: Vec<Sample>,
    /// What was refused to them, by reason.
    pub refused: BTreeMap<String, u64>,
    /// What must not be.
    pub faults: Vec<String>,
    /// How late they were to send at most but for one in a hundred, in microseconds.
    pub late: f64,
}

/// They, at work.
pub struct Beside {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<std::result::Result<Seen, String>>,
}

impl Beside {
    /// Registers them, and begins.
    pub async fn start(address: &str) -> Result<Self> {
        let ((begun, begins), (stop, stopped)) = (oneshot::channel(), oneshot::channel());
        let address = address.to_owned();
        let thread = thread::Builder::new().name("beside".to_owned()).spawn(move || {
            // On Linux it is of this thread alone; whoever may not do it measures the load's haste as well.
            let _ = nice(NICE);
            let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
            LocalSet::new().block_on(&runtime, keep(&address, begun, stopped)).map_err(|error| error.to_string())
        })?;
        let beside = Self { stop, thread };
        match begins.await {
            Ok(()) => Ok(beside),
            Err(_) => Err(beside.stop().await.err().unwrap_or_else(|| "it ended".into())),
        }
    }

    /// Ends it, and tells what was seen.
    pub async fn stop(self) -> Result<Seen> {
        // It may have ended by itself, and then says why.
        let _ = self.stop.send(());
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await?;
        Ok(joined.map_err(|_| "those beside the burst panicked")??)
    }
}

/// Where all of them note what they see.
#[derive(Default)]
struct Notes {
    seen: RefCell<Seen>,
    late: RefCell<Vec<f64>>,
    offline: Cell<u64>,
    unrenewed: Cell<u64>,
}

impl Notes {
    fn took(&self, kind: Kind, at: Instant) {
        self.seen.borrow_mut().samples.push(Sample { kind, at, micros: at.elapsed().as_secs_f64() * 1e6 });
    }

    fn refused(&self, status: &Status) {
        *self.seen.borrow_mut().refused.entry(Refusal::of(status).reason).or_default() += 1;
    }

    fn fault(&self, what: String) {
        self.seen.borrow_mut().faults.push(what);
    }

    fn due(&self, at: tokio::time::Instant) {
        self.late.borrow_mut().push(at.elapsed().as_secs_f64() * 1e6);
    }

    fn renewed(&self, kind: Kind, at: Instant, reply: &HeartbeatResponse) {
        self.took(kind, at);
        if !reply.results.iter().all(|result| result.state() == BeatState::Renewed) {
            self.unrenewed.set(self.unrenewed.get() + 1);
        }
    }
}

/// Registers all, renews them until it is told to stop, and looks whether all are there.
async fn keep(address: &str, begun: oneshot::Sender<()>, stopped: oneshot::Receiver<()>) -> Result<Seen> {
    let (client, notes) = (connect(address).await?, Rc::new(Notes::default()));
    let tokens = KEPT.gather(&client, CALLED + STREAMED).await?;
    let (called, streamed) = tokens.split_at(CALLED);
    let mut tasks = JoinSet::new();
    tasks.spawn_local(watch(connect(address).await?, notes.clone()));
    tasks.spawn_local(calls(connect(address).await?, called.to_vec(), notes.clone()));
    let line = connect(address).await?;
    for tokens in streamed.chunks(STREAMED / STREAMS) {
        tasks.spawn_local(stream(line.clone(), tokens.to_vec(), notes.clone()));
    }
    tasks.spawn_local(probe(connect(address).await?, notes.clone()));
    let _ = begun.send(());
    // Whoever started it may be gone, which is an end, too.
    let _ = stopped.await;
    drop(tasks);
    let mut there = 0;
    for service in 0..tokens.len().div_ceil(KEPT.each) {
        there += lookup(client.clone(), KEPT.service(service * KEPT.each)).await?;
    }
    if there != tokens.len() {
        notes.fault(format!("of {} who were renewed {there} are there", tokens.len()));
    }
    for (count, what) in [(notes.offline.get(), "went offline"), (notes.unrenewed.get(), "were not renewed")] {
        if count > 0 {
            notes.fault(format!("{count} of those who beat {what}"));
        }
    }
    let mut late = notes.late.take();
    late.sort_by(f64::total_cmp);
    let late = late.get(late.len() * 99 / 100).copied().unwrap_or(0.0);
    Ok(Seen { late, ..notes.seen.take() })
}

async fn lookup(mut client: Client, service: String) -> Result<usize> {
    let request = LookupRequest { namespace: KEPT.namespace.to_owned(), service, ..LookupRequest::default() };
    Ok(client.lookup(request).await?.into_inner().instances.len())
}

fn message(token: &str) -> HeartbeatRequest {
    HeartbeatRequest {
        beats: vec![Beat { lease_token: token.to_owned(), ..Beat::default() }],
        ..HeartbeatRequest::default()
    }
}

/// Each in turn, whether the last one was answered or not.
async fn calls(client: Client, tokens: Vec<String>, notes: Rc<Notes>) {
    let mut ticks = interval(CALL_EVERY);
    for token in tokens.iter().cycle() {
        notes.due(ticks.tick().await);
        let (mut client, message, notes) = (client.clone(), message(token), notes.clone());
        spawn_local(async move {
            let sent = Instant::now();
            match client.heartbeat(message).await {
                Ok(reply) => notes.renewed(Kind::Call, sent, reply.get_ref()),
                Err(status) => notes.refused(&status),
            }
        });
    }
}

/// Those of one stream, each once in a third of the time that it lives.
async fn stream(mut client: Client, tokens: Vec<String>, notes: Rc<Notes>) {
    let (send, messages) = mpsc::channel(UNANSWERED);
    let mut replies = match client.heartbeat_stream(ReceiverStream::new(messages)).await {
        Ok(replies) => replies.into_inner(),
        Err(status) => return notes.refused(&status),
    };
    let every = Duration::from_secs(KEPT.ttl.into()) / 3 / tokens.len() as u32;
    let (mut ticks, mut sent, mut tokens) = (interval(every), VecDeque::new(), tokens.iter().cycle());
    loop {
        tokio::select! {
            due = ticks.tick() => {
                notes.due(due);
                sent.push_back(Instant::now());
                if tokens.next().is_none_or(|token| send.try_send(message(token)).is_err()) {
                    return notes.fault(format!("{UNANSWERED} beats on a stream were not taken"));
                }
            }
            reply = replies.message() => match (reply, sent.pop_front()) {
                (Ok(Some(reply)), Some(at)) => notes.renewed(Kind::Stream, at, &reply),
                (Err(status), _) => return notes.refused(&status),
                _ => return notes.fault("a stream of beats ended".to_owned()),
            },
        }
    }
}

/// What anyone asks for now and then.
async fn probe(client: Client, notes: Rc<Notes>) {
    const OTHERS: Fleet = Fleet { namespace: "others", each: 10, ttl: 3_600, metadata: 0 };
    let mut ticks = interval(PROBE_EVERY);
    for number in 0.. {
        notes.due(ticks.tick().await);
        let (reader, mut writer, notes) = (client.clone(), client.clone(), notes.clone());
        spawn_local(async move {
            let sent = Instant::now();
            match lookup(reader, KEPT.service(0)).await {
                Ok(10) => notes.took(Kind::Lookup, sent),
                Ok(found) => notes.fault(format!("a lookup of 10 found {found}")),
                Err(error) => notes.fault(format!("a lookup: {error}")),
            }
            let sent = Instant::now();
            match writer.register(OTHERS.request(number % 10, number)).await {
                Ok(_) => notes.took(Kind::Register, sent),
                // It may be refused when others want too much, if it is told so.
                Err(status) if Refusal::of(&status).proper => notes.took(Kind::Register, sent),
                Err(status) => notes.refused(&status),
            }
        });
    }
}

/// Sees whether one of those who are renewed goes.
async fn watch(mut client: Client, notes: Rc<Notes>) {
    let mut request = WatchRequest { selectors: vec![selector(KEPT.namespace, "")], ..WatchRequest::default() };
    loop {
        let mut stream = match client.watch(request.clone()).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return notes.fault(format!("the watcher was refused: {status}")),
        };
        while let Ok(Some(message)) = stream.message().await {
            let gone = message.events.iter().filter(|event| event.r#type() == EventType::Offline);
            notes.offline.set(notes.offline.get() + gone.count() as u64);
            if !message.resume_token.is_empty() {
                request.resume_token = message.resume_token;
            }
        }
    }
}
