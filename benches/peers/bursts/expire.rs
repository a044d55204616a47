//! Leases that lapse at once.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{task::spawn_local, time::sleep_until};

use super::{
    fleet::{Fleet, beat},
    stage::Stage,
    watcher::{Heard, selector},
    wire::{Line, until},
};
use crate::Result;

/// How long lapses may take beyond their time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Registers many, renews all of them at the same moment and never again, and waits until a watcher has heard of each.
pub async fn play(stage: &Rc<Stage>) -> Result<()> {
    const FLEET: Fleet = Fleet { namespace: "lapsing", each: 10, ttl: 15, metadata: 0 };
    let count = stage.sizes.leases as usize;
    let tokens = FLEET.gather(&stage.client, count).await?;
    beat(&stage.client, &tokens).await?;
    let (heard, line) = (Heard::looking(), Line::open(&stage.address).await.map_err(|refusal| refusal.reason)?);
    let ended = Rc::new(Cell::new(false));
    let watching = spawn_local({
        let (heard, ended, stage) = (heard.clone(), ended.clone(), stage.clone());
        async move {
            let done = heard.watch(&line, selector(FLEET.namespace, ""), None, |_| ended.get()).await;
            if let Err(refusal) = done {
                stage.fault(format!("the watcher of the lapses: {}", refusal.reason));
            }
        }
    });
    if !until(PATIENCE, || heard.snapshots.get() > 0).await {
        return Err("the watcher has no snapshot".into());
    }
    stage.calm().await;
    let due = Instant::now() + Duration::from_secs(FLEET.ttl.into());
    beat(&stage.client, &tokens).await?;
    sleep_until(due.into()).await;
    if heard.offline.get() > 0 {
        stage.fault(format!("{} lapsed before their time", heard.offline.get()));
    }
    stage.begin();
    if !until(PATIENCE, || heard.offline.get() >= count as u64).await {
        stage.fault(format!("of {count} lapses {} were told", heard.offline.get()));
    }
    stage.over();
    stage.note("count", heard.offline.get() as f64);
    stage.note("watcher told to begin anew", heard.resets.get() as f64);
    ended.set(true);
    watching.abort();
    Ok(())
}
