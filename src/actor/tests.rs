//! The task under an engine that does what its contract allows, in paused time. Knows no front.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    task::yield_now,
    time::{Instant, advance, timeout},
};

use super::*;
use crate::{
    engine::hostile::{HostileEngine, HostileHandle, Manners},
    registry::{Context, FilterSet, Instance, LeaseToken, Put, Registration, Stamp, Status},
};

/// Longer than anything here takes, in paused time.
const AGES: Duration = Duration::from_secs(600);

fn start(manners: Manners, options: ActorOptions) -> (RegistryHandle, HostileHandle) {
    let (engine, hostile, recovered) = HostileEngine::new(1, manners);
    let (handle, actor) = RegistryHandle::new(engine, recovered, options);
    tokio::spawn(actor.run());
    let marking = handle.clone();
    tokio::spawn(async move { marking.keep_marking(0).await });
    (handle, hostile)
}

fn held() -> Manners {
    Manners { delay: crate::engine::hostile::Delay::Held, ..Manners::default() }
}

fn registration(service: &str, port: u32) -> Registration {
    let instance = Instance { service: service.into(), port, ..Instance::default() };
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    Registration::parse(instance, ttl, context).expect("a registration")
}

async fn register(handle: &RegistryHandle, service: &str, port: u32) -> Result<(Arc<Record>, LeaseToken), Error> {
    match handle.register(registration(service, port), None, anyone(), None).await? {
        Reply::Registered { record, token, .. } => Ok((record, token)),
        Reply::Removed { .. } => panic!("a registration was answered as a removal"),
    }
}

async fn beat(handle: &RegistryHandle, token: LeaseToken) -> BeatOutcome {
    let beat = Beat { token: Some(token), status: Status::Unspecified };
    let reply = timeout(AGES, handle.beat(vec![beat])).await.expect("a beat is answered").expect("the actor runs");
    reply.outcomes[0]
}

/// Lets a mark be sent and heard.
async fn pass() {
    advance(MARK_INTERVAL).await;
    for _ in 0..8 {
        yield_now().await;
    }
}

/// Lets time pass until `hostile` holds so many proposals back.
async fn until_in_flight(hostile: &HostileHandle, proposals: usize) {
    let end = Instant::now() + AGES;
    while hostile.in_flight() != proposals {
        assert!(Instant::now() < end, "{} proposals in flight, not {proposals}", hostile.in_flight());
        pass().await;
    }
}

/// Another node changes the record while our expiry of it is under way: the expiry is refused, the lease runs on, and
/// nobody who beats it waits for ever.
#[tokio::test(start_paused = true)]
async fn an_expiry_that_another_node_overtook_leaves_the_lease_running() {
    let (handle, hostile) = start(Manners::default(), ActorOptions::default());
    let (record, token) = register(&handle, "web", 80).await.expect("registered");
    hostile.behave(held());
    until_in_flight(&hostile, 1).await;
    let mut instance = record.instance();
    (instance.incarnation, instance.revision) = (0, 0);
    instance.set_status(Status::Draining);
    hostile.foreign(vec![Change::Put(Put {
        description: prost::Message::encode_to_vec(&instance).into(),
        lease: record.lease.clone(),
        incarnation: Stamp::At(record.incarnation),
        ordinal: record.ordinal,
        revision: Stamp::Commit,
    })]);
    hostile.behave(Manners::default());
    assert_eq!(beat(&handle, token).await, BeatOutcome::Renewed(1_000));
    // And it can still lapse.
    let end = Instant::now() + AGES;
    while handle.hub().registry().instances() > 0 {
        assert!(Instant::now() < end, "it never lapsed");
        pass().await;
    }
    assert_eq!(beat(&handle, token).await, BeatOutcome::Expired);
}

/// Calls that wait and are broken off leave nobody in the log to be woken.
#[tokio::test(start_paused = true)]
async fn a_lookup_that_is_broken_off_leaves_nothing_behind() {
    let (handle, _hostile) = start(Manners::default(), ActorOptions::default());
    for (wait, min_revision) in [(AGES, 0), (Duration::ZERO, 7)] {
        let filters = FilterSet::new(crate::registry::Filter::new("", "web", "", ""));
        let query = LookupQuery {
            filters,
            pick: PickKind::All,
            pick_key: String::new(),
            limit: 0,
            page_token: String::new(),
            prefer_zone: String::new(),
            wait,
            min_revision,
            deadline: None,
        };
        let mut lookup = Box::pin(handle.lookup(query));
        assert!(timeout(Duration::from_millis(1), &mut lookup).await.is_err(), "it waits");
        assert_eq!(handle.hub().log().sleepers(), 1);
        drop(lookup);
        assert_eq!(handle.hub().log().sleepers(), 0);
    }
}
