//! A channel of gRPC that follows a service: calls go to the instances that take traffic, at random, and wait while there
//! is none. An instance that dies without a word has its share of the calls until its lease ends: these fail.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, channel::Change};

use super::{Inner, line::endpoint, watch::Watch};
use crate::{
    proto::{EventType, Instance, Selector},
    text::host_port,
};

/// Changes that may wait for the balancer.
const CHANGES_MAX: usize = 256;

/// The channel, and in the background what keeps it current, until all its clones are gone.
pub(super) fn follow(client: &Arc<Inner>, selector: Selector) -> Channel {
    let (channel, changes) = Channel::balance_channel(CHANGES_MAX);
    let watch = Watch::start(client, vec![selector]);
    tokio::spawn(keep(watch, changes));
    channel
}

type Key = (String, String, String);

async fn keep(mut watch: Watch, changes: mpsc::Sender<Change<Key, Endpoint>>) {
    let mut there: BTreeMap<Key, String> = BTreeMap::new();
    loop {
        let change = tokio::select! {
            () = changes.closed() => return,
            change = watch.next() => change,
        };
        // Of a watch that was refused nothing more comes: what is known stays.
        let Some(Ok(change)) = change else { return changes.closed().await };
        for event in change.events {
            let kind = event.r#type();
            let Some(instance) = event.instance else { continue };
            let key = (instance.namespace.clone(), instance.service.clone(), instance.id.clone());
            let address = address(&instance);
            let told = if kind == EventType::Offline || instance.weight == Some(0) {
                there.remove(&key).map(|_| Change::Remove(key))
            } else if there.get(&key) == Some(&address) {
                None
            } else {
                // What is no address of gRPC's is passed over.
                let endpoint = endpoint(&address).ok();
                there.insert(key.clone(), address);
                endpoint.map(|endpoint| Change::Insert(key, endpoint))
            };
            if let Some(told) = told
                && changes.send(told).await.is_err()
            {
                return;
            }
        }
    }
}

/// Where gRPC reaches it: its host and port, else what its url says.
fn address(instance: &Instance) -> String {
    if instance.port == 0 {
        instance.url.clone()
    } else {
        format!("http://{}", host_port(&instance.host, instance.port))
    }
}
