//! Backends, frontends and the switch on real connections: what watchers, lookups, health and callers see of them, and
//! that a crash leaves no switch half done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::future::join_all;
use onair::{
    proto::{
        CreateBackendRequest, CreateFrontendRequest, DeleteBackendRequest, DeleteFrontendRequest, DeregisterRequest,
        Emptiness, Event, Frontend, GetFrontendHistoryRequest, GetFrontendRequest, LookupRequest, LookupResponse, Pick,
        Selector, SwitchBackRequest, SwitchRequest, SwitchResponse, Target, UpdateBackendRequest, WatchRequest,
        WatchResponse, deployments_client::DeploymentsClient, registry_client::RegistryClient,
    },
    registry::{Cause, EventType},
};
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    harness::{Dice, Follower, Server, alone, register, register_with, seconds, within},
    history::{Recorder, Settings},
    input::refusal,
};

/// The two clients that a team that deploys has.
#[derive(Clone)]
struct Team {
    deployments: DeploymentsClient<Channel>,
    registry: RegistryClient<Channel>,
}

impl Team {
    async fn of(server: &Server) -> Self {
        let channel = server.channel().await;
        Self { deployments: DeploymentsClient::new(channel.clone()), registry: RegistryClient::new(channel) }
    }

    async fn backend(&self, name: &str, service: &str, version: &str) {
        let (name, service, version) = (name.to_owned(), service.to_owned(), version.to_owned());
        let request = CreateBackendRequest { name, service, version, ..Default::default() };
        self.deployments.clone().create_backend(request).await.unwrap();
    }

    async fn frontend(&self, splits: &[(&str, u32)]) {
        let request = CreateFrontendRequest { name: "www".into(), splits: targets(splits), ..Default::default() };
        self.deployments.clone().create_frontend(request).await.unwrap();
    }

    async fn switch(&self, splits: &[(&str, u32)], expected_revision: u64) -> Result<SwitchResponse, Status> {
        let frontend = "www".to_owned();
        let request = SwitchRequest { frontend, splits: targets(splits), expected_revision, ..Default::default() };
        Ok(self.deployments.clone().switch(request).await?.into_inner())
    }

    async fn shown(&self) -> Frontend {
        let request = GetFrontendRequest { name: "www".into(), ..Default::default() };
        self.deployments.clone().get_frontend(request).await.unwrap().into_inner().frontend.unwrap()
    }

    async fn register(&self, service: &str, id: &str, version: &str) -> String {
        let request = register_with(service, id, 600.0, |instance| instance.version = version.to_owned());
        self.registry.clone().register(request).await.unwrap().into_inner().lease.unwrap().token
    }

    async fn lookup(&self, request: LookupRequest) -> LookupResponse {
        self.registry.clone().lookup(request).await.unwrap().into_inner()
    }

    async fn watch(&self, resume_token: &str) -> Streaming<WatchResponse> {
        let selectors = vec![Selector { frontend: "www".into(), ..Default::default() }];
        let request = WatchRequest { selectors, resume_token: resume_token.to_owned(), ..Default::default() };
        self.registry.clone().watch(request).await.unwrap().into_inner()
    }
}

fn targets(splits: &[(&str, u32)]) -> Vec<Target> {
    splits.iter().map(|(backend, weight)| Target { backend: (*backend).to_owned(), weight: Some(*weight) }).collect()
}

fn behind() -> LookupRequest {
    LookupRequest { frontend: "www".into(), ..Default::default() }
}

fn splits_of(frontend: &Frontend) -> Vec<(&str, &str, u32)> {
    frontend.splits.iter().map(|split| (split.backend.as_str(), split.version.as_str(), split.weight)).collect()
}

/// A client that follows a frontend as the protocol says: it acts on whole revisions.
#[derive(Default)]
struct Following {
    ids: BTreeMap<String, String>,
    frontend: Frontend,
    revision: u64,
    token: String,
    held: Vec<WatchResponse>,
}

impl Following {
    /// Takes a message in; the events, once its revision or snapshot is whole.
    fn take(&mut self, message: WatchResponse) -> Vec<Event> {
        assert!(message.reset.is_none(), "{:?}", message.reset);
        let more = message.more;
        self.held.push(message);
        if more {
            return Vec::new();
        }
        let mut events = Vec::new();
        for message in std::mem::take(&mut self.held) {
            message.frontends.into_iter().for_each(|frontend| self.frontend = frontend);
            for event in message.events {
                let instance = event.instance.clone().unwrap();
                match event.r#type() {
                    EventType::Offline => assert!(self.ids.remove(&instance.id).is_some(), "{event:?}"),
                    _ => _ = self.ids.insert(instance.id, instance.version),
                }
                events.push(event);
            }
            self.revision = message.revision;
            if !message.resume_token.is_empty() {
                self.token = message.resume_token;
            }
        }
        events
    }

    /// Reads until everything up to `revision` is there; the events.
    async fn reach(&mut self, watch: &mut Streaming<WatchResponse>, revision: u64) -> Vec<Event> {
        let mut events = Vec::new();
        while self.revision < revision || !self.held.is_empty() {
            let message = within("a message", watch.message()).await.unwrap().expect("no end");
            events.extend(self.take(message));
        }
        events
    }
}

fn causes(events: &[Event]) -> Vec<(String, EventType, Cause)> {
    let seen = |event: &Event| (event.instance.as_ref().unwrap().id.clone(), event.r#type(), event.cause());
    events.iter().map(seen).collect()
}

async fn healthy_while_somebody_is_behind_it(server: &Server, team: &Team) {
    let mut health = HealthClient::new(server.channel().await);
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
    };
    assert_eq!(check("frontend/www").await, Ok(ServingStatus::Serving));
    assert_eq!(check("default/frontend/www").await, Ok(ServingStatus::Serving));
    assert_eq!(check("onair.v1.Deployments").await, Ok(ServingStatus::Serving));
    assert_eq!(check("other/frontend/www").await, Err(Code::NotFound));
    team.registry
        .clone()
        .deregister(DeregisterRequest { service: "web".into(), id: "g1".into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(check("frontend/www").await, Ok(ServingStatus::NotServing));
}

/// Exactly what was missed, after a switch by a backend and a restart; then the frontend goes.
async fn a_token_continues_across_switches_and_restarts(server: &mut Server, team: &Team, mut following: Following) {
    let token = following.token.clone();
    let moved = UpdateBackendRequest { name: "green".into(), version: Some("3.0".into()), ..Default::default() };
    team.deployments.clone().update_backend(moved).await.unwrap();
    server.kill().await;
    server.again().await;
    let team = Team::of(server).await;
    let back = SwitchBackRequest { frontend: "www".into(), ..Default::default() };
    let back = team.deployments.clone().switch_back(back).await.unwrap().into_inner();
    assert_eq!((back.joined, back.left), (2, 1));
    let mut watch = team.watch(&token).await;
    following.reach(&mut watch, back.revision).await;
    assert_eq!(following.ids.keys().collect::<Vec<_>>(), ["b1", "b2"]);
    let history = GetFrontendHistoryRequest { frontend: "www".into(), ..Default::default() };
    let entries = team.deployments.clone().get_frontend_history(history).await.unwrap().into_inner().entries;
    let pasts: Vec<_> = entries
        .iter()
        .map(|entry| {
            entry
                .splits
                .iter()
                .map(|split| format!("{}@{}={}", split.backend, split.version, split.weight))
                .collect::<Vec<_>>()
                .join(",")
        })
        .collect();
    assert_eq!(pasts, ["blue@1.0=1,green@3.0=0", "green@3.0=1", "green@2.0=1", "blue@1.0=1,green@2.0=0"]);
    // Gone: its instances leave, the watch goes on.
    team.deployments
        .clone()
        .delete_frontend(DeleteFrontendRequest { name: "www".into(), ..Default::default() })
        .await
        .unwrap();
    let revision = server.info().await.revision;
    let events = following.reach(&mut watch, revision).await;
    assert!(causes(&events).iter().all(|(_, _, cause)| *cause == Cause::Switched) && events.len() == 2);
    assert!(following.ids.is_empty() && following.frontend.splits.is_empty());
    let counts = server.info().await.counts.unwrap();
    assert_eq!((counts.backends, counts.frontends), (2, 0));
}

#[tokio::test]
async fn a_switch_is_one_revision_for_lookups_watches_and_health() {
    let mut server = Server::start(&[]).await;
    let team = Team::of(&server).await;
    assert_eq!(team.lookup(behind()).await.emptiness(), Emptiness::UnknownFrontend);
    // Who watches first is told when it comes to be.
    let (mut following, mut watch) = (Following::default(), team.watch("").await);
    following.reach(&mut watch, 0).await;
    for (name, version) in [("blue", "1.0"), ("green", "2.0")] {
        team.backend(name, "web", version).await;
    }
    assert_eq!(
        team.lookup(LookupRequest { service: "web".into(), ..Default::default() }).await.emptiness(),
        Emptiness::AllOffline
    );
    team.frontend(&[("blue", 1), ("green", 0)]).await;
    assert_eq!(team.lookup(behind()).await.emptiness(), Emptiness::AllOffline);
    for (id, version) in [("b1", "1.0"), ("b2", "1.0"), ("g1", "2.0"), ("other", "3.0")] {
        team.register("web", id, version).await;
    }
    let found = team.lookup(behind()).await;
    let events = following.reach(&mut watch, found.revision - 1).await;
    assert_eq!(causes(&events).len(), 2, "{events:?}");
    assert_eq!(following.ids.keys().collect::<Vec<_>>(), ["b1", "b2"]);
    assert_eq!(splits_of(&found.frontends[0]), [("blue", "1.0", 1)], "a split of weight 0 is absent");
    assert_eq!(found.frontends[0], following.frontend);

    let before = team.shown().await;
    let frontend = "www".to_owned();
    let dry = SwitchRequest { frontend, to: "green".into(), dry_run: true, ..Default::default() };
    let would = team.deployments.clone().switch(dry).await.unwrap().into_inner();
    assert_eq!((would.joined, would.left, would.watchers), (1, 2, 1));
    assert_eq!(team.shown().await, before);
    let switched = team.switch(&[("green", 1)], before.revision).await.unwrap();
    assert_eq!((switched.before.as_ref(), switched.joined, switched.left), (Some(&before), 1, 2));
    let events = following.reach(&mut watch, switched.revision).await;
    let expected = [
        ("g1", EventType::Online, Cause::Matched),
        ("b1", EventType::Offline, Cause::Switched),
        ("b2", EventType::Offline, Cause::Switched),
    ];
    assert_eq!(causes(&events), expected.map(|(id, kind, cause)| (id.to_owned(), kind, cause)));
    assert_eq!((following.revision, splits_of(&following.frontend)), (switched.revision, vec![("green", "2.0", 1)]));

    healthy_while_somebody_is_behind_it(&server, &team).await;

    drop(watch);
    a_token_continues_across_switches_and_restarts(&mut server, &team, following).await;
}

#[tokio::test]
async fn a_split_holds_its_shares_and_an_empty_backend_gives_its_own_away() {
    let server = Server::ephemeral(&[]).await;
    let team = Team::of(&server).await;
    team.backend("blue", "web", "1").await;
    team.backend("green", "api", "2").await;
    team.frontend(&[("blue", 95), ("green", 5)]).await;
    for id in ["b1", "b2", "b3"] {
        team.register("web", id, "1").await;
    }
    let green = team.register("api", "g1", "2").await;
    let mut counts = BTreeMap::new();
    const LOOKUPS: usize = 2_000;
    for pick in [Pick::Random, Pick::Weighted, Pick::RoundRobin] {
        counts.clear();
        for _ in 0..LOOKUPS {
            let request = LookupRequest { pick: pick.into(), ..behind() };
            *counts.entry(team.lookup(request).await.instances.remove(0).id).or_insert(0_usize) += 1;
        }
        // Chi-square of four cells: 27.8 is passed by chance once in 250,000 runs.
        let due = |id: &str| LOOKUPS as f64 * if id == "g1" { 0.05 } else { 0.95 / 3.0 };
        let chi: f64 = counts.iter().map(|(id, got)| (*got as f64 - due(id)).powi(2) / due(id)).sum();
        assert!(counts.len() == 4 && chi < 27.8, "{pick:?}: {counts:?}: {chi}");
    }
    // The same key stays where it is.
    let keyed = async |key: usize| {
        let request = LookupRequest { pick: Pick::Rendezvous.into(), pick_key: format!("user-{key}"), ..behind() };
        team.lookup(request).await.instances.remove(0).id
    };
    assert_eq!(keyed(1).await, keyed(1).await);
    // Pages go through all services behind it.
    let mut request = LookupRequest { limit: 1, ..behind() };
    let mut ids = BTreeSet::new();
    loop {
        let page = team.lookup(request.clone()).await;
        ids.extend(page.instances.into_iter().map(|instance| instance.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), ["b1", "b2", "b3", "g1"]);
    team.registry.clone().deregister(DeregisterRequest { lease_token: green, ..Default::default() }).await.unwrap();
    for _ in 0..200 {
        let request = LookupRequest { pick: Pick::Random.into(), ..behind() };
        assert!(team.lookup(request).await.instances[0].id.starts_with('b'));
    }
    // One that waits is answered when somebody comes to be behind it, also by a switch.
    let nobody = LookupRequest { version: "2".into(), wait: Some(seconds(60.0)), ..behind() };
    let waiting = tokio::spawn({
        let team = team.clone();
        async move { team.lookup(nobody).await }
    });
    team.register("api", "g2", "2").await;
    assert_eq!(within("an answer", waiting).await.unwrap().instances[0].id, "g2");
}

#[tokio::test]
async fn of_64_callers_exactly_one_wins_each_revision() {
    let server = Server::start(&[]).await;
    let team = Team::of(&server).await;
    for name in ["blue", "green"] {
        team.backend(name, "web", name).await;
    }
    team.frontend(&[("blue", 1)]).await;
    for round in 1..=5_u32 {
        let revision = team.shown().await.revision;
        // Each wants something else.
        let calls = (0..64_u32).map(|caller| {
            let team = team.clone();
            async move { team.switch(&[("blue", 1 + caller), ("green", round)], revision).await }
        });
        let answers = join_all(calls).await;
        let won: Vec<&SwitchResponse> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        let shown = team.shown().await;
        assert_eq!((won[0].after.as_ref(), won[0].revision), (Some(&shown), shown.revision));
        for status in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!((refusal(status).0, refusal(status).1.as_str()), (Code::Aborted, "STALE_REVISION"));
        }
    }
}

#[tokio::test]
async fn refusals_have_their_codes_reasons_and_sentences() {
    let server = Server::ephemeral(&[]).await;
    let team = Team::of(&server).await;
    team.backend("blue", "web", "1").await;
    team.frontend(&[("blue", 1)]).await;
    let revision = server.info().await.revision;
    let mut api = team.deployments.clone();
    let status = api.create_backend(CreateBackendRequest::default()).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::InvalidArgument, "INVALID".into(), ["name", "service", "version"].map(str::to_owned).into())
    );
    assert!(
        status.message().contains("Backend name is required")
            && status.message().contains("Application name and version are required")
    );
    let again =
        CreateBackendRequest { name: "blue".into(), service: "web".into(), version: "2".into(), ..Default::default() };
    let status = api.create_backend(again).await.unwrap_err();
    assert_eq!(
        (refusal(&status).0, refusal(&status).1.as_str(), status.message()),
        (Code::AlreadyExists, "ALREADY_EXISTS", "Backend with that name already exists")
    );
    let status =
        api.delete_backend(DeleteBackendRequest { name: "blue".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!((refusal(&status).0, refusal(&status).1.as_str()), (Code::FailedPrecondition, "IN_USE"));
    let status =
        api.delete_backend(DeleteBackendRequest { name: "red".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(
        (refusal(&status).0, refusal(&status).1.as_str(), status.message()),
        (Code::NotFound, "NOT_FOUND", "Backend not found: default/red")
    );
    let status = api.get_frontend(GetFrontendRequest { name: "blog".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!((refusal(&status).0, status.message()), (Code::NotFound, "Frontend not found: default/blog"));
    let status = team.switch(&[("red", 1), ("blue", 1), ("gold", 1)], 0).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (
            Code::FailedPrecondition,
            "MISSING_BACKEND".into(),
            ["splits[0].backend", "splits[2].backend"].map(str::to_owned).into()
        )
    );
    let status = team.switch(&[("red", 0), ("blue", 0)], 0).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::InvalidArgument, "INVALID".into(), ["splits", "splits[0].backend"].map(str::to_owned).into())
    );
    let status = api.switch_back(SwitchBackRequest { frontend: "www".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!((refusal(&status).0, refusal(&status).1.as_str()), (Code::FailedPrecondition, "NOTHING_BEFORE"));
    let request = LookupRequest { namespace: "*".into(), ..behind() };
    let status = team.registry.clone().lookup(request).await.unwrap_err();
    assert_eq!(refusal(&status), (Code::InvalidArgument, "INVALID".into(), vec!["namespace".to_owned()]));
    assert_eq!(server.info().await.revision, revision, "nothing changed");
}

/// Switches back and forth until it is told to stop, or the server is gone; the last revision that was acknowledged.
async fn keep_switching(team: Team, acknowledged: Arc<AtomicU64>) {
    for turn in 0.. {
        let to = ["blue", "green"][turn % 2];
        match team.switch(&[(to, 1)], 0).await {
            Ok(switched) => _ = acknowledged.fetch_max(switched.revision, Ordering::Relaxed),
            Err(_) => return,
        }
    }
}

async fn keep_registering(team: Team, worker: u64, stop: Arc<AtomicBool>) {
    let mut dice = Dice::new(worker + 1);
    while !stop.load(Ordering::Relaxed) {
        let id = format!("load-{worker}-{}", dice.below(20));
        let request = register("web", &id, 600.0);
        if team.registry.clone().register(request).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn kill9_in_the_middle_of_a_switch_is_before_or_after_and_never_between() {
    let _alone = alone().await;
    const EACH: usize = 200;
    let mut server = Server::start(&[]).await;
    let team = Team::of(&server).await;
    team.backend("blue", "web", "1").await;
    team.backend("green", "web", "2").await;
    for place in 0..EACH {
        team.register("web", &format!("b{place}"), "1").await;
        team.register("web", &format!("g{place}"), "2").await;
    }
    team.frontend(&[("blue", 1)]).await;
    let (mut following, mut switches) = (Following::default(), 0);
    // Those who watch all the time, everything and the frontend: what they see is judged as any history is.
    let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
    let mut everything = Follower::of_everything(&server, &recorder).await;
    let selectors = vec![Selector { frontend: "www".into(), ..Default::default() }];
    let mut behind_it = Follower::start(&server, &recorder, WatchRequest { selectors, ..Default::default() });
    behind_it.snapshot().await;
    let mut dice = Dice::new(u64::from(std::process::id()));
    for _ in 0..6 {
        let team = Team::of(&server).await;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut watch = team.watch(&following.token).await;
        let stop = Arc::new(AtomicBool::new(false));
        let load: Vec<_> =
            (0..4).map(|worker| tokio::spawn(keep_registering(team.clone(), worker, Arc::clone(&stop)))).collect();
        let switching = tokio::spawn(keep_switching(team.clone(), Arc::clone(&acknowledged)));
        // Killed after some switches that a watcher saw, wherever the next one is by then.
        let mut wanted = 5 + dice.below(20);
        while wanted > 0 {
            let message = within("a message", watch.message()).await.unwrap().expect("no end");
            wanted -= u64::from(!message.frontends.is_empty()).min(wanted);
            switches += usize::from(!message.frontends.is_empty());
            following.take(message);
        }
        server.kill().await;
        stop.store(true, Ordering::Relaxed);
        switching.await.unwrap();
        join_all(load).await;
        following.held.clear();
        server.again().await;
        let team = Team::of(&server).await;
        let (shown, found) = (team.shown().await, team.lookup(behind()).await);
        assert!(shown.revision >= acknowledged.load(Ordering::Relaxed), "an acknowledged switch is there");
        let [(backend, version, 1)] = splits_of(&shown)[..] else { panic!("between: {shown:?}") };
        assert_eq!(version, if backend == "blue" { "1" } else { "2" });
        let versions: BTreeSet<_> = found.instances.iter().map(|instance| instance.version.as_str()).collect();
        assert_eq!((versions.into_iter().collect::<Vec<_>>(), found.instances.len()), (vec![version], EACH));
        // Who comes back is told exactly what it missed.
        let mut watch = team.watch(&following.token).await;
        following.reach(&mut watch, found.revision).await;
        for follower in [&mut everything, &mut behind_it] {
            follower.reach(found.revision).await;
            assert!(follower.resets().is_empty());
        }
        let there: BTreeSet<_> = found.instances.iter().map(|instance| instance.id.clone()).collect();
        let followed: BTreeSet<_> = behind_it.fold().instances().values().map(|one| one.id.clone()).collect();
        let resumed: BTreeSet<_> = following.ids.keys().cloned().collect();
        assert_eq!((&followed, &resumed), (&there, &there));
        assert_eq!((following.frontend.revision, splits_of(&following.frontend)), (shown.revision, splits_of(&shown)));
    }
    drop((everything, behind_it));
    recorder.assert_clean();
    println!("{switches} switches seen in 6 lives");
}
