//! Probes and scrapes on a port, a thread and a runtime of their own, so that they answer while the store is read and
//! when everything else is busy. Knows sockets, and nothing of what is asked.

use std::{net::SocketAddr, sync::Arc, thread};

use axum::Router;
use tokio::{
    runtime::Builder,
    sync::{mpsc, watch},
};

use super::{
    ServeError,
    connections::{self, Protocols},
    handshake::Handshakes,
    listen,
};
use crate::{
    config::ServeSettings,
    grpc::Dispatch,
    http::{self, Front, Guard, ops::Ops},
    laps::Laps,
    metrics::Metrics,
    tls::Live,
};

/// Connections that wait to be taken over by the thread.
const ACCEPTED_MAX: usize = 64;

/// What answers operators' programs, here or on the port of everything else.
#[derive(Debug)]
pub(super) struct OpsServer {
    ops: Ops,
    addresses: Vec<SocketAddr>,
    /// The thread ends when this is told, or dropped.
    stop: watch::Sender<bool>,
}

impl OpsServer {
    /// Listens where `ops_listen` says, if it says so; so many connections have a place there, whatever there is elsewhere.
    pub(super) fn start(
        settings: &ServeSettings,
        places: usize,
        live: Option<&Arc<Live>>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, ServeError> {
        let (stop, stopping) = watch::channel(false);
        let mut server = Self { ops: Ops::new(Arc::clone(metrics)), addresses: Vec::new(), stop };
        if settings.ops_listen.is_empty() {
            return Ok(server);
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(ServeError::system("a runtime"))?;
        let listeners = runtime.block_on(listen::bind(&settings.ops_listen))?;
        server.addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let routes = http::ops::router(server.ops.clone()).fallback(http::no_route);
        let guard = Arc::new(Guard::new(&server.addresses, settings, live));
        let options = super::api_options(settings);
        let front = Front::new(Dispatch::default(), routes, guard, options, Arc::clone(metrics));
        let handshakes = live.map(|live| Handshakes::new(Arc::clone(live), true, (places, 1), metrics));
        let protocols = Protocols::new(settings, handshakes, Arc::clone(metrics));
        let door = listen::Door::new(places, metrics);
        let serve = async move {
            let (input, connections) = mpsc::channel(ACCEPTED_MAX);
            for listener in listeners {
                tokio::spawn(listen::accept(listener, door.clone(), vec![input.clone()], stopping.clone()));
            }
            drop(input);
            connections::serve((front, Laps::default()), protocols, connections, stopping).await;
        };
        let thread = thread::Builder::new().name("onair-ops".to_owned());
        thread.spawn(move || runtime.block_on(serve)).map_err(ServeError::system("a thread"))?;
        tracing::info!(addresses = ?server.addresses, "answering probes and scrapes");
        Ok(server)
    }

    /// What is asked about.
    pub(super) fn ops(&self) -> &Ops {
        &self.ops
    }

    /// Where it listens, if it has a port of its own.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The routes that the port of everything else has of it.
    pub(super) fn shared(&self) -> Router {
        if self.addresses.is_empty() { http::ops::router(self.ops.clone()) } else { Router::new() }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let _ = self.stop.send(true);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        sync::mpsc as std_mpsc,
    };

    use uuid::Uuid;

    use super::*;
    use crate::{
        actor::{ActorOptions, RegistryHandle},
        engine::memory::MemoryEngine,
        watch::HubOptions,
    };

    fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// A thread with the runtime of everything else, which is held up on demand.
    fn everything_else(
        metrics: &Arc<Metrics>,
    ) -> (RegistryHandle, std_mpsc::Sender<std_mpsc::Receiver<()>>, thread::JoinHandle<()>) {
        let hub = HubOptions { metrics: Arc::clone(metrics), ..HubOptions::default() };
        let options = ActorOptions { hub, ..ActorOptions::default() };
        let recovered = MemoryEngine::recovered(Uuid::nil(), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, options);
        let (hold_up, held_up) = std_mpsc::channel::<std_mpsc::Receiver<()>>();
        let running = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.spawn(actor.run());
            runtime.block_on(async move {
                loop {
                    match held_up.try_recv() {
                        // The whole thread waits, as in a handler that never ends.
                        Ok(until) => _ = until.recv(),
                        Err(std_mpsc::TryRecvError::Empty) => tokio::task::yield_now().await,
                        Err(std_mpsc::TryRecvError::Disconnected) => return,
                    }
                }
            });
        });
        (handle, hold_up, running)
    }

    #[test]
    fn probes_and_scrapes_are_answered_while_everything_else_is_held_up() {
        let metrics = Arc::<Metrics>::default();
        let ops_listen = vec!["127.0.0.1:0".parse().unwrap()];
        let settings = ServeSettings { ops_listen, ..ServeSettings::default() };
        let server = OpsServer::start(&settings, 8, None, &metrics).unwrap();
        let address = server.addresses()[0];
        // Before there is a registry.
        assert_eq!((get(address, "/healthz").0, get(address, "/readyz").0, get(address, "/").0), (200, 503, 404));
        let (handle, hold_up, running) = everything_else(&metrics);
        server.ops().recovered(handle);
        assert_eq!((get(address, "/healthz").0, get(address, "/readyz").0), (200, 200));
        let (go_on, until) = std_mpsc::channel();
        hold_up.send(until).unwrap();
        // It may have a turn before it is held up.
        while get(address, "/healthz").0 == 200 {}
        let (status, ready) = get(address, "/readyz");
        assert_eq!(status, 503);
        assert!(ready.contains("the registry's task did not answer within 1s"), "{ready}");
        let (status, text) = get(address, "/metrics");
        assert_eq!(status, 200);
        assert!(text.contains("onair_inbox{lane=\"beats\"} 2\n"), "the probes' turns wait there: {text}");
        go_on.send(()).unwrap();
        while get(address, "/healthz").0 != 200 {}
        assert_eq!(get(address, "/readyz").0, 200);
        server.stop();
        drop(hold_up);
        running.join().unwrap();
    }
}
