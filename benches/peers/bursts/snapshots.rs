//! A large service of which very many want to know everything at once.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use onair::proto::LookupRequest;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    fleet::Fleet,
    stage::Stage,
    watcher::{Heard, selector},
    wire::{Line, Refusal, framed},
};
use crate::Result;

/// All instances are of one service.
const FLEET: Fleet = Fleet { namespace: "large", each: usize::MAX, ttl: 3_600, metadata: 0 };
/// Path of the call.
const LOOKUP: &str = "/onair.v1.Registry/Lookup";
/// Instances of a lookup's page.
const PAGE: u64 = 1_000;
/// How long all may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// In which way everything is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The snapshot of a watch.
    Watch,
    /// The first page of a lookup.
    Lookup,
}

/// All that were answered.
#[derive(Default)]
struct Answered {
    count: Cell<u64>,
    bytes: Cell<u64>,
    /// When half of them were.
    half: Cell<f64>,
}

/// Asks for everything, very often at once.
pub async fn play(stage: &Rc<Stage>, way: Way) -> Result<()> {
    let (instances, wanted) = (stage.sizes.instances as usize, stage.sizes.snapshots as usize);
    FLEET.register(&stage.client, 0..instances, 0).await?;
    let connections = (stage.sizes.connections as usize).min(wanted);
    let mut lines = Vec::new();
    for _ in 0..connections {
        lines.push(Line::open(&stage.address).await.map_err(|refusal| refusal.reason)?);
    }
    stage.calm().await;
    stage.begin();
    let (begin, answered) = (Instant::now(), Rc::new(Answered::default()));
    let mut tasks = JoinSet::new();
    for number in 0..wanted {
        let (stage, line, answered) = (stage.clone(), lines[number % connections].clone(), answered.clone());
        tasks.spawn_local(async move {
            loop {
                match one(&stage, &line, way).await {
                    Ok(bytes) => {
                        answered.count.set(answered.count.get() + 1);
                        answered.bytes.set(answered.bytes.get() + bytes);
                        if answered.count.get() == wanted.div_ceil(2) as u64 {
                            answered.half.set(begin.elapsed().as_secs_f64());
                        }
                        return;
                    }
                    Err(refusal) => {
                        stage.refused(&refusal);
                        sleep(refusal.wait()).await;
                    }
                }
            }
        });
    }
    let all = timeout(PATIENCE, async { while tasks.join_next().await.is_some() {} }).await;
    stage.over();
    if all.is_err() {
        stage.fault(format!("of {wanted} {} were answered in {} s", answered.count.get(), PATIENCE.as_secs()));
    }
    let seconds = begin.elapsed().as_secs_f64();
    stage.note("count", answered.count.get() as f64);
    stage.note("connections", connections as f64);
    stage.note("half were answered after s", answered.half.get());
    stage.note("MB a second", answered.bytes.get() as f64 / 1e6 / seconds);
    stage.note("bytes of each", answered.bytes.get() as f64 / (answered.count.get() as f64).max(1.0));
    Ok(())
}

/// One of them: answers how many bytes it was.
async fn one(stage: &Stage, line: &Line, way: Way) -> std::result::Result<u64, Refusal> {
    let (instances, service) = (u64::from(stage.sizes.instances), FLEET.service(0));
    let (found, bytes, wanted) = match way {
        Way::Watch => {
            let heard = Heard::default();
            heard.watch(line, selector(FLEET.namespace, &service), None, |heard| heard.snapshots.get() > 0).await?;
            (heard.events.get(), heard.bytes.get(), instances)
        }
        Way::Lookup => {
            let request = LookupRequest { namespace: FLEET.namespace.into(), service, ..LookupRequest::default() };
            let (found, bytes) = line.ask(LOOKUP, framed(&request), None, 1).await?;
            (found, bytes, instances.min(PAGE))
        }
    };
    if found != wanted {
        stage.fault(format!("one was told of {found} instances, not of {wanted}"));
    }
    Ok(bytes)
}
