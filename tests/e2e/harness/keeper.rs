//! A client that keeps leases alive as the protocol says, over restarts of the server.

use std::time::Duration;

use onair::proto::{BeatResult, BeatState, RegisterRequest};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::transport::Endpoint;

use super::{Server, beat};
use crate::history::{Client, Recorder};

/// What it is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Beat,
    Stop,
}

/// The keeper of some leases: it renews all in one message, a third of their TTL after the last.
pub struct Keeper {
    order: watch::Sender<Order>,
    beaten: watch::Receiver<usize>,
    task: JoinHandle<Vec<BeatState>>,
}

impl Keeper {
    /// Registers all of these, and keeps them.
    pub async fn start(server: &Server, recorder: &Recorder, requests: Vec<RegisterRequest>) -> Self {
        let client = server.client(recorder).await;
        let mut tokens = Vec::new();
        let mut every = Duration::from_secs(1);
        for request in requests {
            let lease = client.register(request).await.unwrap().lease.unwrap();
            tokens.push(lease.token);
            every = lease.heartbeat_interval.unwrap().try_into().unwrap();
        }
        let (order, ordered) = watch::channel(Order::Beat);
        let (count, beaten) = watch::channel(0);
        let task = tokio::spawn(keep(server.up(), recorder.clone(), client, tokens, every, ordered, count));
        Self { order, beaten, task }
    }

    /// Waits for a beat that is answered from now on.
    pub async fn beats(&mut self) {
        self.beaten.mark_unchanged();
        super::within("an answered beat", self.beaten.changed()).await.unwrap();
    }

    /// Stops beating. Nothing else was answered than that each lease was renewed.
    pub async fn stop(self) {
        self.order.send_replace(Order::Stop);
        let strange = self.task.await.unwrap();
        assert!(strange.is_empty(), "a kept lease was answered {strange:?}");
    }
}

async fn keep(
    mut up: watch::Receiver<Option<std::net::SocketAddr>>,
    recorder: Recorder,
    client: Client,
    tokens: Vec<String>,
    every: Duration,
    mut ordered: watch::Receiver<Order>,
    count: watch::Sender<usize>,
) -> Vec<BeatState> {
    let (mut client, mut strange) = (Some(client), Vec::new());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = up.changed() => {}
            _ = ordered.wait_for(|order| *order == Order::Stop) => return strange,
        }
        let Some(address) = *up.borrow_and_update() else { continue };
        if client.is_none() {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            client = endpoint.connect().await.ok().map(|channel| Client::new(channel, recorder.clone()));
        }
        let Some(open) = &client else { continue };
        // A beat that hangs is worth less than the next.
        match timeout(every, open.heartbeat(beat(tokens.clone()))).await {
            Ok(Ok(reply)) => {
                strange.extend(reply.results.iter().map(BeatResult::state).filter(|one| *one != BeatState::Renewed));
                count.send_modify(|count| *count += 1);
            }
            Ok(Err(_)) => client = None,
            Err(_) => {}
        }
    }
}
