//! The server goes and comes back: what its clients see of it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use onair::{
    proto::{DeregisterRequest, LookupRequest, ResetReason, WatchRequest},
    registry::{Cause, EventType},
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

use crate::{
    harness::{
        Follower, Keeper, Running, Seen, Server, beat, bulk, everything, lookup, millis_after, register, register_with,
        within,
    },
    history::{Recorder, Settings},
};

fn with_cuts() -> Settings {
    Settings { cuts: true, resets: false, ..Settings::default() }
}

#[tokio::test]
async fn exact_resume_over_kill_9_and_nobody_who_keeps_beating_goes_offline() {
    let mut server = Server::start(&["--restart-grace", "3s"]).await;
    let recorder = Recorder::new(with_cuts());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let fleet = (0..20).map(|number| register("fleet", &format!("i{number}"), 2.0)).collect();
    let mut keeper = Keeper::start(&server, &recorder, fleet).await;
    for life in 0..3 {
        let client = server.client(&recorder).await;
        let name = format!("of-life-{life}");
        let granted = client.register(register("web", &name, 60.0)).await.unwrap();
        let passing = client.register(register("web", "passing", 60.0)).await.unwrap().lease.unwrap().token;
        server.kill().await;
        server.again().await;
        let client = server.client(&recorder).await;
        let removed = client.deregister(DeregisterRequest { lease_token: passing, ..Default::default() }).await;
        let removed = removed.unwrap();
        assert_eq!(removed.removed, 1, "what was acknowledged is there");
        follower.reach(removed.revision).await;
        let web = client.lookup(lookup("web")).await.unwrap();
        assert!(web.instances.contains(&granted.instance.unwrap()));
        keeper.beats().await;
    }
    // Whoever died meanwhile would be taken offline now.
    let grace = Instant::now() + Duration::from_secs(4);
    while Instant::now() < grace {
        keeper.beats().await;
    }
    keeper.stop().await;
    let found = server.client(&recorder).await.lookup(lookup("fleet")).await.unwrap();
    follower.reach(found.revision).await;
    assert_eq!(found.instances.len(), 20);
    assert!(follower.gone().iter().all(|event| event.cause() == Cause::Deregistered), "{:?}", follower.gone());
    assert_eq!(follower.resets(), []);
    recorder.assert_clean();
}

#[tokio::test]
async fn onair_watch_and_join_go_on_over_a_restart_and_say_so() {
    let mut server = Server::start(&[]).await;
    let url = server.url();
    let mut watch = Running::start(&["watch", "--url", &url]);
    let mut join = Running::start(&["join", "web", "--port", "8000", "--ttl", "3s", "--url", &url]);
    watch.out.line("ONLINE  web 127.0.0.1:8000").await;
    server.kill().await;
    watch.err.line("resuming").await;
    server.again().await;
    watch.err.line("resumed at revision").await;
    // It is still the same registration, and nothing of it is printed twice.
    join.signal("INT");
    assert_eq!(join.ended().await, 0);
    let line = watch.out.line("web").await;
    assert!(line.contains("OFFLINE web 127.0.0.1:8000") && line.ends_with("DEREGISTERED"), "{line}");
    watch.kill().await;
}

#[tokio::test]
async fn restart_grace_gives_every_lease_its_time() {
    const GRACE: Duration = Duration::from_secs(3);
    let mut server = Server::start(&["--restart-grace", "3s"]).await;
    let recorder = Recorder::new(with_cuts());
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    // Its holder is dead, and its TTL is shorter than the grace; the other one's is longer.
    client.register(register("web", "short", 1.0)).await.unwrap();
    client.register(register("web", "long", 5.0)).await.unwrap();
    server.kill().await;
    let before = Instant::now();
    server.again().await;
    let up = Instant::now();
    for (id, grace) in [("short", GRACE), ("long", Duration::from_secs(5))] {
        let (offline, event) = follower.event("OFFLINE", |event| event.r#type() == EventType::Offline).await;
        assert_eq!((event.cause(), event.instance.unwrap().id.as_str()), (Cause::Expired, id));
        println!("{id}: OFFLINE {:.0} ms after the grace that began with the port", millis_after(offline, up + grace));
        assert!(offline.duration_since(before) >= grace, "{id} was mass-expired");
        assert!(offline.duration_since(up) <= grace + Duration::from_secs(1), "{id} was late");
    }
    assert_eq!(follower.resets(), []);
    recorder.assert_clean();
}

#[tokio::test]
async fn a_registry_without_its_data_is_another_registry() {
    let mut server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(with_cuts());
    let client = server.client(&recorder).await;
    let old = client.register(register("web", "a", 60.0)).await.unwrap().lease.unwrap().token;
    let mut watch = client.watch(everything()).await.unwrap();
    let resume_token = watch.next().await.unwrap().unwrap().resume_token;
    let id = server.info().await.registry_id;
    server.kill().await;
    recorder.assert_clean();
    server.again().await;
    assert_ne!(server.info().await.registry_id, id);
    let recorder = Recorder::new(with_cuts());
    let client = server.client(&recorder).await;
    let mut watch = client.watch(WatchRequest { resume_token, ..everything() }).await.unwrap();
    let message = watch.next().await.unwrap().unwrap();
    assert_eq!(message.reset.unwrap().reason(), ResetReason::AnotherRegistry);
    assert!(message.snapshot_end && message.events.is_empty() && !message.resume_token.is_empty());
    // Its leases are unknown, and its clients heal.
    let answer = client.heartbeat(beat([old.clone()])).await.unwrap();
    assert_eq!(answer.results[0].state(), onair::proto::BeatState::Unknown);
    let again = onair::proto::RegisterRequest { lease_token: old, ..register("web", "a", 60.0) };
    client.register(again).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().events.len(), 1);
    drop(watch);
    recorder.assert_clean();
}

#[tokio::test]
async fn a_token_older_than_the_kept_log_is_too_old_also_after_a_restart() {
    let mut server = Server::start(&["--max-log-bytes", "64KiB"]).await;
    let recorder = Recorder::new(Settings { cuts: true, ..Settings::default() });
    let client = server.client(&recorder).await;
    let mut watch = client.watch(everything()).await.unwrap();
    let old = watch.next().await.unwrap().unwrap().resume_token;
    let mut tokens = Vec::new();
    for number in 0..20 {
        let heavy = register_with("web", &format!("i{number}"), 60.0, |instance| instance.metadata = bulk(8_000));
        client.register(heavy).await.unwrap();
        tokens.push(watch.next().await.unwrap().unwrap().resume_token);
    }
    drop(watch);
    server.kill().await;
    server.again().await;
    let info = server.info().await;
    assert!(info.oldest_resumable_revision > 1, "the log is kept within its limit");
    let client = server.client(&recorder).await;
    let resumed = async |resume_token: String| {
        let mut watch = client.watch(WatchRequest { resume_token, ..everything() }).await.unwrap();
        watch.next().await.unwrap().unwrap()
    };
    let reset = resumed(old).await.reset.unwrap();
    assert_eq!((reset.reason(), reset.oldest_revision), (ResetReason::TooOld, info.oldest_resumable_revision));
    // What is kept is exact, up to the edge.
    let edge = info.oldest_resumable_revision as usize;
    let message = resumed(tokens[edge - 1].clone()).await;
    assert_eq!((message.reset, message.revision, message.events.len()), (None, edge as u64 + 1, 1));
    let reset = resumed(tokens[edge - 2].clone()).await.reset.unwrap();
    assert_eq!(reset.reason(), ResetReason::TooOld);
    recorder.assert_clean();
}

#[tokio::test]
async fn a_join_registers_again_with_a_registry_that_lost_its_data() {
    let mut server = Server::ephemeral(&[]).await;
    let url = server.url();
    let mut join = Running::start(&["join", "web", "--port", "8000", "--ttl", "1s", "--url", &url]);
    let mut watch = Running::start(&["watch", "web", "--url", &url]);
    watch.out.line("ONLINE  web").await;
    server.kill().await;
    server.again().await;
    watch.err.line("ANOTHER_REGISTRY").await;
    let recorder = Recorder::new(Settings::default());
    let wait = Some(crate::harness::seconds(30.0));
    let found = server.client(&recorder).await.lookup(LookupRequest { wait, ..lookup("web") }).await.unwrap();
    assert_eq!(found.instances[0].url, "http://127.0.0.1:8000");
    join.signal("INT");
    assert_eq!(join.ended().await, 0);
    watch.out.line("OFFLINE web").await;
    recorder.assert_clean();
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_token_of_a_history_that_was_undone_is_of_another_epoch() {
    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(with_cuts());
    let client = server.client(&recorder).await;
    client.register(register("web", "kept", 60.0)).await.unwrap();
    server.kill().await;
    let backup = tempfile::tempdir().unwrap();
    copy_dir(server.data_dir(), &backup.path().join("data"));
    server.again().await;
    let client = server.client(&recorder).await;
    client.register(register("web", "undone", 60.0)).await.unwrap();
    let mut watch = client.watch(everything()).await.unwrap();
    let resume_token = watch.next().await.unwrap().unwrap().resume_token;
    server.kill().await;
    recorder.assert_clean();
    // Somebody puts the backup in place.
    fs::remove_dir_all(server.data_dir()).unwrap();
    copy_dir(&backup.path().join("data"), server.data_dir());
    server.again().await;
    let recorder = Recorder::new(with_cuts());
    let client = server.client(&recorder).await;
    let mut watch = client.watch(WatchRequest { resume_token, ..everything() }).await.unwrap();
    let message = watch.next().await.unwrap().unwrap();
    assert_eq!(message.reset.unwrap().reason(), ResetReason::AnotherEpoch);
    let ids: Vec<_> = message.events.iter().map(|event| event.instance.as_ref().unwrap().id.as_str()).collect();
    assert_eq!((ids, message.snapshot_end), (vec!["kept"], true));
    drop(watch);
    recorder.assert_clean();
}

#[tokio::test]
async fn every_stream_ends_well_when_the_server_is_told_to_stop() {
    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { resets: false, ..Settings::default() });
    let mut follower = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let mut health = HealthClient::new(server.channel().await);
    let mut own = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(own.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let (messages, sending) = tokio::sync::mpsc::channel(1);
    let mut api = server.api().await;
    let mut beats =
        api.heartbeat_stream(tokio_stream::wrappers::ReceiverStream::new(sending)).await.unwrap().into_inner();
    // There is nothing to reload, which is no reason to stop.
    server.signal("HUP");
    let last = client.register(register("web", "last", 60.0)).await.unwrap();
    server.terminate();

    // Health says so first, then each stream says when to come back; a watch says from where.
    assert_eq!(own.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    for status in [own.message().await.unwrap_err(), beats.message().await.unwrap_err()] {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
        // And to whoever has no types for the details.
        let said = ["onair-reason", "grpc-retry-pushback-ms"].map(|name| status.metadata().get(name).unwrap().to_str());
        let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap().as_millis().to_string();
        assert_eq!(said.map(Result::unwrap), ["SHUTTING_DOWN", &delay]);
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    }
    let mut before_the_end = None;
    let end = loop {
        match follower.next().await {
            Seen::Message { message, .. } => before_the_end = Some(message),
            Seen::Ended(status) => break status.unwrap(),
            Seen::Opened => {}
        }
    };
    assert_eq!(
        (end.code(), end.get_details_error_info().unwrap().reason.as_str()),
        (Code::Unavailable, "SHUTTING_DOWN")
    );
    assert!(end.get_details_retry_info().unwrap().retry_delay.is_some());
    let bookmark = before_the_end.unwrap();
    assert!(bookmark.events.is_empty() && !bookmark.resume_token.is_empty(), "the last message is a bookmark");
    assert!(follower.fold().revision() >= last.revision);
    drop((messages, beats, api, own, health, client));
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());

    // Who resumes loses nothing.
    server.again().await;
    let client = server.client(&recorder).await;
    let next = client.register(register("web", "next", 60.0)).await.unwrap();
    follower.reach(next.revision).await;
    assert_eq!((follower.fold().instances().len(), follower.resets()), (2, &[][..]));
    recorder.assert_clean();
}

#[tokio::test]
async fn a_call_that_waits_does_not_hold_up_the_end() {
    let mut server = Server::start(&["--drain-wait", "1s"]).await;
    let mut api = server.api().await;
    let waiting = tokio::spawn(async move {
        let wait = Some(crate::harness::seconds(60.0));
        api.lookup(LookupRequest { wait, ..lookup("nobody") }).await
    });
    // The call is there when another one, sent later, is answered.
    server.info().await;
    server.terminate();
    let told = Instant::now();
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(10), "it waited for a client");
    let answer = within("the call's end", waiting).await.unwrap();
    assert!(answer.is_err() || answer.unwrap().into_inner().instances.is_empty());
}
