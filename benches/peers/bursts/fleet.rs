//! Instances for bursts: registered as fast as the server lets, and renewed. Knows no burst.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use onair::proto::{Beat, BeatState, HeartbeatRequest, Instance, RegisterRequest, registry_client::RegistryClient};
use prost_types::{Value, value::Kind};
use tonic::{Status, transport::Channel};

use crate::Result;

/// Registrations at once: enough for large commits.
const IN_FLIGHT: usize = 256;
/// Leases in a message of beats.
const BEATS: usize = 1_000;
/// Registrations between two looks at whether the first ones need a beat.
const CHUNK: usize = 5_000;

/// A client of the registry.
pub type Client = RegistryClient<Channel>;

/// A client on a connection of its own.
pub async fn connect(address: &str) -> Result<Client> {
    Ok(RegistryClient::connect(format!("http://{address}")).await?)
}

/// Instances that are alike.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Where they are.
    pub namespace: &'static str,
    /// How many of them make a service.
    pub each: usize,
    /// Seconds that their leases live.
    pub ttl: u32,
    /// Bytes of metadata.
    pub metadata: usize,
}

impl Fleet {
    /// The service of an instance.
    pub fn service(&self, instance: usize) -> String {
        format!("s-{}", instance / self.each)
    }

    /// The request that registers it; each version is another description.
    pub fn request(&self, instance: usize, version: usize) -> RegisterRequest {
        let text = |bytes| Value { kind: Some(Kind::StringValue("x".repeat(bytes))) };
        let record = Instance {
            namespace: self.namespace.to_owned(),
            service: self.service(instance),
            id: format!("i-{instance}"),
            host: "10.0.0.1".to_owned(),
            port: 8080,
            version: format!("1.4.{version}"),
            zone: "z1".to_owned(),
            metadata: (self.metadata > 0).then(|| text(self.metadata)),
            ..Instance::default()
        };
        let ttl = prost_types::Duration { seconds: self.ttl.into(), nanos: 0 };
        RegisterRequest { instance: Some(record), ttl: Some(ttl), ..RegisterRequest::default() }
    }

    /// Registers a part of it; the tokens are in its order.
    pub async fn register(&self, client: &Client, part: Range<usize>, version: usize) -> Result<Vec<String>> {
        let one = |instance| {
            let (mut client, request) = (client.clone(), self.request(instance, version));
            async move {
                let reply = client.register(request).await?.into_inner();
                Ok::<_, Status>(reply.lease.unwrap_or_default().token)
            }
        };
        Ok(stream::iter(part.map(one)).buffered(IN_FLIGHT).try_collect().await?)
    }

    /// Registers so many, and renews the first while the last are not there yet.
    pub async fn gather(&self, client: &Client, count: usize) -> Result<Vec<String>> {
        let (mut tokens, mut beaten) = (Vec::with_capacity(count), Instant::now());
        while tokens.len() < count {
            let part = tokens.len()..(tokens.len() + CHUNK).min(count);
            tokens.extend(self.register(client, part, 0).await?);
            if beaten.elapsed() > Duration::from_secs(self.ttl.into()) / 4 {
                beaten = Instant::now();
                beat(client, &tokens).await?;
            }
        }
        Ok(tokens)
    }
}

/// Renews leases, all of them at nearly the same time.
pub async fn beat(client: &Client, tokens: &[String]) -> Result<()> {
    let message = |tokens: &[String]| {
        let beat = |token: &String| Beat { lease_token: token.clone(), ..Beat::default() };
        HeartbeatRequest { beats: tokens.iter().map(beat).collect(), ..HeartbeatRequest::default() }
    };
    let messages: Vec<_> = tokens.chunks(BEATS).map(message).collect();
    let mut replies = stream::iter(messages.into_iter().map(|message| {
        let mut client = client.clone();
        async move { client.heartbeat(message).await }
    }))
    .buffered(16);
    while let Some(reply) = replies.next().await {
        if let Some(bad) = reply?.into_inner().results.iter().find(|result| result.state() != BeatState::Renewed) {
            return Err(format!("a lease was not renewed: {bad:?}").into());
        }
    }
    Ok(())
}
