//! A service that changes all the time before many watchers, all of whom read, or some of whom do not.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use onair::proto::DeregisterRequest;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{interval, timeout},
};

use super::{
    fleet::Fleet,
    model::Latency,
    stage::Stage,
    watcher::{Asleep, Heard, selector},
    wire::{Line, Refusal, until},
};
use crate::Result;

/// Instances that change; each waits for the answer to its last change.
const CHANGING: usize = 20;
/// Watchers on a connection.
const A_LINE: usize = 50;
/// One in so many watchers notes when it heard of what.
const TIMED: usize = 20;
/// How long watchers may take to open, and to hear of the last change.
const PATIENCE: Duration = Duration::from_secs(60);

/// What changes, and who does not look.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The instances.
    fleet: Fleet,
    /// Whether they come and go, or are there and change.
    flaps: bool,
    /// Changes a second.
    rate: u32,
    /// Watchers that do not read.
    asleep: usize,
}

impl Shape {
    /// Instances that come and go, before watchers that read.
    pub fn flap(rate: u32) -> Self {
        let fleet = Fleet { namespace: "flapping", each: usize::MAX, ttl: 3_600, metadata: 0 };
        Self { fleet, flaps: true, rate, asleep: 0 }
    }

    /// Instances that change, before watchers of whom some do not read.
    pub fn stalled(rate: u32, asleep: u32) -> Self {
        let fleet = Fleet { namespace: "changing", each: usize::MAX, ttl: 3_600, metadata: 1_000 };
        Self { fleet, flaps: false, rate, asleep: asleep as usize }
    }
}

/// When which revision was answered, and how many changes were made.
#[derive(Default)]
struct Made {
    answered: RefCell<HashMap<u64, Instant>>,
    changes: Cell<u64>,
    last: Cell<u64>,
}

/// Lets the service change for a while.
pub async fn play(stage: &Rc<Stage>, shape: Shape) -> Result<()> {
    let watchers = stage.sizes.flap_watchers as usize;
    let tokens = match shape.flaps {
        true => Vec::new(),
        false => shape.fleet.register(&stage.client, 0..CHANGING, 0).await?,
    };
    let (sleep, asleep) = watch::channel(false);
    let (mut lines, mut heard, mut tasks) = (Vec::new(), Vec::new(), JoinSet::new());
    for watcher in 0..watchers {
        if watcher % A_LINE == 0 {
            lines.push(Line::open(&stage.address).await.map_err(|refusal| refusal.reason)?);
        }
        let times = (watcher % TIMED == TIMED - 1 && watcher >= shape.asleep).then(RefCell::default);
        let one = Rc::new(Heard { times, ..Heard::default() });
        heard.push(one.clone());
        let (stage, line) = (stage.clone(), lines[watcher / A_LINE].clone());
        let asleep = (watcher < shape.asleep).then(|| asleep.clone());
        tasks.spawn_local(async move { follow(&stage, &one, &line, asleep, shape).await });
    }
    if !until(PATIENCE, || heard.iter().all(|one| one.snapshots.get() > 0)).await {
        return Err("not all watchers opened".into());
    }
    heard.iter().for_each(|one| one.events.set(0));
    stage.calm().await;
    // Half of those who sleep do not take what has come, the others' connections are not even read.
    let frozen: Vec<_> = lines.iter().take(shape.asleep / 2 / A_LINE).collect();
    sleep.send_replace(true);
    frozen.iter().for_each(|line| line.freeze(true));
    stage.begin();
    let made = Rc::new(Made::default());
    change(stage, shape, tokens, &made).await;
    stage.over();
    let (ended, last) = (Instant::now(), made.last.get());
    let up_to_date = |part: &[Rc<Heard>]| part.iter().all(|one| one.revision.get() >= last);
    let (sleepers, readers) = heard.split_at(shape.asleep);
    if !until(PATIENCE, || up_to_date(readers)).await {
        stage.fault("not all who read heard of the last change");
    }
    stage.note("all who read had heard all, s after", ended.elapsed().as_secs_f64());
    if !sleepers.is_empty() {
        let woken = Instant::now();
        sleep.send_replace(false);
        frozen.iter().for_each(|line| line.freeze(false));
        if !until(PATIENCE, || up_to_date(sleepers)).await {
            stage.fault("not all who woke up heard of the last change");
        }
        stage.note("sleepers had heard all, s after they woke", woken.elapsed().as_secs_f64());
    }
    judge(stage, &made, &heard);
    Ok(())
}

/// Watches for ever.
async fn follow(stage: &Stage, one: &Heard, line: &Line, asleep: Option<Asleep>, shape: Shape) {
    let service = shape.fleet.service(0);
    loop {
        let selector = selector(shape.fleet.namespace, &service);
        if let Err(refusal) = one.watch(line, selector, asleep.clone(), |_| false).await {
            stage.refused(&refusal);
            tokio::time::sleep(refusal.wait()).await;
        }
    }
}

/// Makes changes at an even pace; one that is late is made at once.
async fn change(stage: &Rc<Stage>, shape: Shape, tokens: Vec<String>, made: &Rc<Made>) {
    let seconds = Duration::from_secs(stage.sizes.flap_seconds.into());
    let (mut tasks, mut tokens) = (JoinSet::new(), tokens.into_iter());
    for instance in 0..CHANGING {
        let (stage, made, mut token) = (stage.clone(), made.clone(), tokens.next());
        let every = Duration::from_secs(CHANGING as u64) / shape.rate;
        tasks.spawn_local(async move {
            let mut ticks = interval(every);
            for version in 1.. {
                ticks.tick().await;
                match one(&stage, shape, instance, version, &mut token).await {
                    Ok(revision) => {
                        made.answered.borrow_mut().entry(revision).or_insert_with(Instant::now);
                        made.changes.set(made.changes.get() + 1);
                        made.last.set(made.last.get().max(revision));
                    }
                    Err(refusal) => stage.refused(&refusal),
                }
            }
        });
    }
    // What is on its way then is not waited for, but may happen: it is the last.
    let _ = timeout(seconds, async { while tasks.join_next().await.is_some() {} }).await;
}

async fn one(
    stage: &Stage,
    shape: Shape,
    instance: usize,
    version: usize,
    token: &mut Option<String>,
) -> std::result::Result<u64, Refusal> {
    let mut client = stage.client.clone();
    if shape.flaps
        && let Some(lease_token) = token.take()
    {
        let request = DeregisterRequest { lease_token, ..DeregisterRequest::default() };
        let reply = client.deregister(request).await.map_err(|status| Refusal::of(&status))?;
        return Ok(reply.into_inner().revision);
    }
    let mut request = shape.fleet.request(instance, version);
    request.lease_token = token.take().unwrap_or_default();
    let reply = client.register(request).await.map_err(|status| Refusal::of(&status))?.into_inner();
    *token = reply.lease.map(|lease| lease.token);
    Ok(reply.revision)
}

/// Whether each heard of each change once, and how late.
fn judge(stage: &Stage, made: &Made, heard: &[Rc<Heard>]) {
    let (changes, answered) = (made.changes.get(), made.answered.borrow());
    for one in heard.iter().filter(|one| one.resets.get() == 0) {
        // Changes that nobody waited for any more, at most one of each instance, may have been made as well.
        if !(changes..=changes + CHANGING as u64).contains(&one.events.get()) {
            stage.fault(format!("a watcher heard {} of {changes} changes", one.events.get()));
        }
    }
    let mut late = Vec::new();
    for one in heard {
        for (revision, at) in one.times.iter().flat_map(|times| times.borrow().clone()) {
            late.extend(answered.get(&revision).map(|answered| at.saturating_duration_since(*answered)));
        }
    }
    let late = Latency::of_durations(late);
    stage.note("count", heard.iter().map(|one| one.events.get()).sum::<u64>() as f64);
    stage.note("watchers", heard.len() as f64);
    stage.note("changes", changes as f64);
    stage.note("told to begin anew", heard.iter().map(|one| one.resets.get()).sum::<u64>() as f64);
    stage.note("p50 from answer to watcher, ms", late.p50 / 1e3);
    stage.note("p99 from answer to watcher, ms", late.p99 / 1e3);
}
