//! Many watches on one stream: each for itself, and the groups of a revision together.

use onair::{
    proto::{
        Acknowledge, AddSubscription, DeregisterRequest, DropSubscription, ResetReason, Selector, SubscribeRequest,
        SubscribeResponse, SubscriptionGroup, subscribe_request::Command,
    },
    registry::Cause,
};

use crate::{
    harness::{Follower, Server, everything, register, register_with, selector, within},
    history::{Recorder, Settings, Subscribed},
};

fn add(id: &str, selectors: Vec<Selector>, resume_token: &str) -> SubscribeRequest {
    let (id, resume_token) = (id.into(), resume_token.into());
    let add = AddSubscription { id, selectors, resume_token, summaries: true, ..AddSubscription::default() };
    SubscribeRequest { command: Some(Command::Add(add)) }
}

fn drop_of(id: &str) -> SubscribeRequest {
    SubscribeRequest { command: Some(Command::Drop(DropSubscription { id: id.into() })) }
}

async fn next(stream: &mut Subscribed) -> SubscribeResponse {
    within("a message", stream.next()).await.expect("no end").expect("no error")
}

/// The next group of a subscription; others are passed over.
async fn group(stream: &mut Subscribed, id: &str) -> SubscriptionGroup {
    loop {
        if let Some(group) = next(stream).await.groups.into_iter().find(|group| group.id == id) {
            return group;
        }
    }
}

#[tokio::test]
async fn each_subscription_is_for_itself_and_groups_come_together() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { resets: true, ..Settings::default() });
    let mut truth = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    client.register(register("web", "before", 60.0)).await.unwrap();
    let commands = vec![
        add("web", vec![selector("web", "")], ""),
        add("bad", vec![selector("web", "zone=")], ""),
        add("none", vec![selector("nobody", "")], "nonsense"),
        add("all", everything().selectors, ""),
    ];
    let mut stream = client.subscribe(commands).await.unwrap();
    let mut first: Vec<SubscriptionGroup> = Vec::new();
    while first.len() < 4 {
        first.extend(next(&mut stream).await.groups);
    }
    first.sort_by(|one, other| one.id.cmp(&other.id));
    let [all, bad, none, web] = &first[..] else { panic!("{first:?}") };
    assert_eq!((all.events.len(), all.snapshot_end, web.events.len(), web.snapshot_end), (1, true, 1, true));
    assert_eq!(bad.error.as_ref().unwrap().code, tonic::Code::InvalidArgument as i32);
    assert_eq!((none.events.len(), none.reset.unwrap().reason()), (0, ResetReason::Malformed));

    // One revision, whoever it concerns.
    let zoned = register_with("web", "zoned", 60.0, |instance| instance.zone = "eu".into());
    let done = client.register(zoned).await.unwrap();
    let message = next(&mut stream).await;
    let mut ids: Vec<&str> = message.groups.iter().map(|group| group.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!((message.revision, message.more, ids), (done.revision, false, vec!["all", "web"]));
    stream.command(SubscribeRequest { command: Some(Command::Ack(Acknowledge { revision: done.revision })) }).await;

    // A live id is replaced, one that is dropped is silent, and one that never was is dropped all the same.
    stream.command(add("web", vec![selector("web", "zone=eu")], "")).await;
    let replaced = group(&mut stream, "web").await;
    assert_eq!((replaced.events.len(), replaced.snapshot_end), (1, true));
    stream.command(drop_of("all")).await;
    assert!(group(&mut stream, "all").await.dropped);
    stream.command(drop_of("never-was")).await;
    assert!(group(&mut stream, "never-was").await.dropped);
    let gone = DeregisterRequest { lease_token: done.lease.unwrap().token, ..Default::default() };
    let gone = client.deregister(gone).await.unwrap();
    let message = next(&mut stream).await;
    assert_eq!((message.revision, message.groups.len()), (gone.revision, 1));
    assert_eq!(message.groups[0].events[0].cause(), Cause::Deregistered);
    truth.reach(gone.revision).await;
    drop(stream);
    recorder.assert_clean();
}

/// An error is the end of what had the id: nothing comes for it, until it is added again.
#[tokio::test]
async fn a_subscription_ends_that_what_replaces_it_cannot() {
    let server = Server::ephemeral(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let commands = vec![add("web", vec![selector("web", "")], ""), add("all", everything().selectors, "")];
    let mut stream = client.subscribe(commands).await.unwrap();
    assert!(group(&mut stream, "web").await.snapshot_end);
    stream.command(add("web", vec![selector("web", "zone=")], "")).await;
    let refused = group(&mut stream, "web").await.error.expect("an error");
    assert_eq!(refused.code, tonic::Code::InvalidArgument as i32);
    let done = client.register(register("web", "1", 60.0)).await.unwrap();
    loop {
        let message = next(&mut stream).await;
        assert!(message.groups.iter().all(|group| group.id == "all"), "{message:?}");
        if message.revision == done.revision {
            break;
        }
    }
    stream.command(add("web", vec![selector("web", "")], "")).await;
    let again = group(&mut stream, "web").await;
    assert_eq!((again.events.len(), again.snapshot_end), (1, true));
    drop(stream);
    recorder.assert_clean();
}

#[tokio::test]
async fn each_subscription_resumes_from_its_own_token_over_kill_9() {
    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
    let mut truth = Follower::of_everything(&server, &recorder).await;
    let client = server.client(&recorder).await;
    let of = |service: &str| vec![selector(service, "")];
    let mut stream = client.subscribe(vec![add("a", of("a"), ""), add("b", of("b"), "")]).await.unwrap();
    let old = group(&mut stream, "a").await.resume_token;
    drop(stream);
    let mut stream = client.subscribe(vec![add("b", of("b"), "")]).await.unwrap();
    assert!(group(&mut stream, "b").await.snapshot_end);
    for (service, id) in [("a", "1"), ("b", "1"), ("a", "2")] {
        client.register(register(service, id, 60.0)).await.unwrap();
    }
    let new = group(&mut stream, "b").await.resume_token;
    server.kill().await;
    assert!(within("the end", stream.next()).await.unwrap().is_err());
    server.again().await;
    let client = server.client(&recorder).await;
    let last = client.register(register("b", "2", 60.0)).await.unwrap();
    let mut stream = client.subscribe(vec![add("a", of("a"), &old), add("b", of("b"), &new)]).await.unwrap();
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    while of_a.len() + of_b.len() < 3 {
        for group in next(&mut stream).await.groups {
            assert!(group.reset.is_none() && !group.snapshot_end, "{group:?}");
            let ids = group.events.iter().map(|event| event.instance.as_ref().unwrap().id.clone());
            if group.id == "a" { of_a.extend(ids) } else { of_b.extend(ids) }
        }
    }
    assert_eq!((of_a, of_b), (vec!["1".to_owned(), "2".to_owned()], vec!["2".to_owned()]));
    truth.reach(last.revision).await;
    drop(stream);
    recorder.assert_clean();
}

#[tokio::test]
async fn a_bookmark_has_a_group_for_each_subscription_and_shutdown_ends_with_one() {
    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { resets: false, ..Settings::default() });
    let client = server.client(&recorder).await;
    let commands = vec![add("a", vec![selector("a", "")], ""), add("b", everything().selectors, "")];
    let mut stream = client.subscribe(commands).await.unwrap();
    while !(next(&mut stream).await.groups.iter().any(|group| group.id == "b")) {}
    let done = client.register(register("elsewhere", "1", 60.0)).await.unwrap();
    assert_eq!(next(&mut stream).await.groups.len(), 1);
    let bookmark = next(&mut stream).await;
    assert_eq!((bookmark.revision, bookmark.groups.len()), (done.revision, 2));
    assert!(bookmark.groups.iter().all(|group| group.events.is_empty() && !group.resume_token.is_empty()));
    server.terminate();
    let last = next(&mut stream).await;
    assert_eq!((last.revision, last.groups.len()), (done.revision, 2));
    let status = within("the end", stream.next()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    drop((stream, client));
    assert_eq!(server.ended().await.code(), Some(0));
    recorder.assert_clean();
}
