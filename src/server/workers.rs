//! The threads that serve connections. Knows nothing of what is served.

use std::{sync::Arc, thread};

use tokio::{
    runtime::Builder,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    ServeError, Services,
    connections::{self, Protocols},
    listen::Admitted,
};
use crate::{laps::Laps, watch::Relay};

/// Connections that wait to be taken over by a thread.
const ACCEPTED_MAX: usize = 1_024;

/// They end when the server does.
pub(super) type Workers = futures_util::stream::FuturesUnordered<JoinHandle<()>>;

/// The threads that serve connections; with one, it is this one. Each keeps the lease clock's marks coming.
pub(super) fn start(
    services: &Arc<Services>,
    protocols: &Protocols,
    stopping: &watch::Receiver<bool>,
) -> Result<(Workers, Vec<mpsc::Sender<Admitted>>), ServeError> {
    let (workers, mut inputs) = (Workers::new(), Vec::new());
    for worker in 0..services.settings.io_threads {
        let (input, connections) = mpsc::channel(ACCEPTED_MAX);
        inputs.push(input);
        let stopping = stopping.clone();
        let laps = Laps::default();
        let (front, protocols) = (services.front(&laps)?, protocols.clone());
        let handle = services.handle.clone();
        let work = async move {
            let marked = laps.clone();
            let marks = tokio::spawn(async move { handle.keep_marking(worker, &marked).await });
            let relay = tokio::spawn(Relay::default());
            connections::serve((front, laps), protocols, connections, stopping).await;
            marks.abort();
            relay.abort();
        };
        if services.settings.io_threads == 1 {
            workers.push(tokio::spawn(work));
            continue;
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(ServeError::system("a runtime"))?;
        let thread = thread::Builder::new().name(format!("onair-io-{worker}"));
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        thread
            .spawn(move || {
                runtime.block_on(work);
                drop(done);
            })
            .map_err(ServeError::system("a thread"))?;
        workers.push(tokio::spawn(async move {
            // It ends when the thread drops its side.
            let _ = finished.await;
        }));
    }
    Ok((workers, inputs))
}
