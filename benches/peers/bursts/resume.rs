//! Watchers that lose their connections, all of them, and come back at once with what they missed still to be told.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use super::{
    fleet::Fleet,
    stage::Stage,
    watcher::{Heard, selector},
    wire::{Line, Refusal, until},
};
use crate::Result;

const FLEET: Fleet = Fleet { namespace: "followed", each: 1, ttl: 3_600, metadata: 0 };
/// How many watch the same service.
const EACH: usize = 10;
/// What each of them misses: somebody who registers anew goes and comes in one revision.
const MISSED: u64 = 2;
/// How many open at once when nothing is to be measured.
const OPENING: usize = 64;
/// How long all may take to open.
const PATIENCE: Duration = Duration::from_secs(120);

/// A watcher and what it watches.
struct Follower {
    service: String,
    heard: Rc<Heard>,
}

/// Lets all of them open, cuts them off, changes each service once, and lets all come back.
pub async fn play(stage: &Rc<Stage>, connections: usize) -> Result<()> {
    raise_limit();
    let watchers = stage.sizes.watchers as usize;
    FLEET.register(&stage.client, 0..watchers.div_ceil(EACH), 0).await?;
    let followers: Rc<[Follower]> = (0..watchers)
        .map(|watcher| Follower { service: FLEET.service(watcher / EACH), heard: Rc::default() })
        .collect();
    let opening = Rc::new(Semaphore::new(OPENING));
    let held = open(stage, &followers, connections, Some(opening));
    if !until(PATIENCE, || followers.iter().all(|one| one.heard.snapshots.get() > 0)).await {
        return Err("not all watchers opened".into());
    }
    drop(held);
    followers.iter().for_each(|one| one.heard.events.set(0));
    FLEET.register(&stage.client, 0..watchers.div_ceil(EACH), 1).await?;
    stage.calm().await;
    stage.begin();
    let begin = Instant::now();
    let _held = open(stage, &followers, connections, None);
    let mut half = None;
    let all = until(PATIENCE, || {
        let back = followers.iter().filter(|one| one.heard.events.get() >= MISSED).count();
        if back * 2 >= watchers {
            half.get_or_insert_with(|| begin.elapsed());
        }
        back == watchers
    })
    .await;
    stage.over();
    sleep(Duration::from_millis(200)).await;
    if !all {
        stage.fault("not all watchers came back");
    }
    for one in followers.iter().filter(|one| one.heard.events.get() != MISSED || one.heard.resets.get() > 0) {
        stage.fault(format!(
            "a watcher that missed {MISSED} events was told {}, and {} times to begin anew",
            one.heard.events.get(),
            one.heard.resets.get()
        ));
    }
    stage.note("count", watchers as f64);
    stage.note("connections", connections.min(watchers) as f64);
    stage.note("half were back after s", half.unwrap_or_default().as_secs_f64());
    Ok(())
}

/// All watchers on so many connections, again and again until they are let in. They end with what is returned.
fn open(
    stage: &Rc<Stage>,
    followers: &Rc<[Follower]>,
    connections: usize,
    opening: Option<Rc<Semaphore>>,
) -> JoinSet<()> {
    let (mut tasks, watchers) = (JoinSet::new(), followers.len());
    let connections = connections.min(watchers).max(1);
    for connection in 0..connections {
        let part = connection * watchers / connections..(connection + 1) * watchers / connections;
        let (stage, followers, opening) = (stage.clone(), followers.clone(), opening.clone());
        tasks.spawn_local(async move {
            let line = loop {
                let _turn = turn(opening.as_deref()).await;
                match Line::open(&stage.address).await {
                    Ok(line) => break line,
                    Err(refusal) => again(&stage, &refusal).await,
                }
            };
            let mut watches = JoinSet::new();
            for watcher in part {
                let (stage, followers, line) = (stage.clone(), followers.clone(), line.clone());
                let opening = opening.clone();
                watches
                    .spawn_local(async move { follow(&stage, &followers[watcher], &line, opening.as_deref()).await });
            }
            while watches.join_next().await.is_some() {}
        });
    }
    tasks
}

async fn turn(opening: Option<&Semaphore>) -> Option<tokio::sync::SemaphorePermit<'_>> {
    // It is never closed.
    opening?.acquire().await.ok()
}

async fn again(stage: &Stage, refusal: &Refusal) {
    stage.refused(refusal);
    sleep(refusal.wait()).await;
}

/// Watches for ever; takes its turn until it has been told something.
async fn follow(stage: &Rc<Stage>, one: &Follower, line: &Line, opening: Option<&Semaphore>) {
    loop {
        let turn = Cell::new(turn(opening).await);
        let told = |_: &Heard| {
            turn.take();
            false
        };
        if let Err(refusal) = one.heard.watch(line, selector(FLEET.namespace, &one.service), None, told).await {
            again(stage, &refusal).await;
        }
    }
}

/// Takes as many files as the system gives.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If that is refused, connections are, and say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
