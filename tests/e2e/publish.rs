//! What applications publish: to whom it comes, over every front, and what is refused.

use std::time::Duration;

use onair::proto::{
    AddSubscription, LookupRequest, PublishRequest, Published, Selector, SubscribeRequest, WatchRequest,
    registry_client::RegistryClient, subscribe_request::Command,
};
use prost_types::{Value, value::Kind};
use tonic::{Code, transport::Channel};

use crate::{
    events::get,
    harness::{Http, Running, Server, onair, register, register_with, said, within},
    history::{Recorder, Settings, Watched},
    input::{is_invalid, refusal},
};

fn asking(service: &str, selector: &str) -> Selector {
    Selector { service: service.into(), selector: selector.into(), published: true, ..Selector::default() }
}

fn event(service: &str, kind: &str, data: &str) -> PublishRequest {
    let data = Some(Value { kind: Some(Kind::StringValue(data.into())) });
    PublishRequest { service: service.into(), kind: kind.into(), data, ..PublishRequest::default() }
}

/// To how many it was handed.
async fn publish(stub: &mut RegistryClient<Channel>, request: PublishRequest) -> u64 {
    stub.publish(request).await.unwrap().into_inner().watches
}

/// What comes next of what is published, and how much was lost before it; events and bookmarks are passed over.
async fn next(watch: &mut Watched) -> (Vec<Published>, u64) {
    loop {
        let message = within("a message", watch.next()).await.expect("no end").expect("no error");
        if !message.published.is_empty() || message.published_lost > 0 {
            assert!(message.events.is_empty() && !message.resume_token.is_empty(), "{message:?}");
            return (message.published, message.published_lost);
        }
    }
}

fn kinds(published: &[Published]) -> Vec<(&str, &str)> {
    published.iter().map(|event| (event.id.as_str(), event.kind.as_str())).collect()
}

#[tokio::test]
async fn what_is_published_comes_to_those_who_asked() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let mut stub = RegistryClient::new(server.channel().await);
    let token = async |id: &str, zone: &str| {
        let request = register_with("shop", id, 600.0, |instance| instance.zone = zone.into());
        client.register(request).await.unwrap().lease.unwrap().token
    };
    let (eu, us) = (token("eu-1", "eu").await, token("us-1", "us").await);
    let watch = async |selectors| {
        let mut watch = client.watch(WatchRequest { selectors, ..WatchRequest::default() }).await.unwrap();
        while !within("the snapshot", watch.next()).await.unwrap().unwrap().snapshot_end {}
        watch
    };
    let mut all = watch(vec![asking("shop", "")]).await;
    let mut of_eu = watch(vec![asking("shop", "zone=eu"), asking("cart", "")]).await;
    let mut silent = watch(vec![Selector { published: false, ..asking("shop", "") }]).await;
    let add = AddSubscription { id: "s".into(), selectors: vec![asking("shop", "")], ..Default::default() };
    let mut many = client.subscribe(vec![SubscribeRequest { command: Some(Command::Add(add)) }]).await.unwrap();
    while !within("the snapshot", many.next()).await.unwrap().unwrap().groups.iter().any(|group| group.snapshot_end) {}

    assert_eq!(publish(&mut stub, event("shop", "opened", "at nine")).await, 3);
    assert_eq!(publish(&mut stub, PublishRequest { lease_token: us, ..event("shop", "sold", "tea") }).await, 2);
    assert_eq!(publish(&mut stub, PublishRequest { lease_token: eu, ..event("shop", "sold", "salt") }).await, 3);
    assert_eq!(publish(&mut stub, event("nobody", "opened", "")).await, 0);
    let (mut seen, mut seen_of_eu, mut in_group) = (Vec::new(), Vec::new(), Vec::new());
    while seen.len() < 3 {
        seen.extend(next(&mut all).await.0);
    }
    while seen_of_eu.len() < 2 {
        seen_of_eu.extend(next(&mut of_eu).await.0);
    }
    while in_group.len() < 3 {
        let message = within("a group", many.next()).await.unwrap().unwrap();
        in_group.extend(message.groups.into_iter().flat_map(|group| group.published));
    }
    assert_eq!(kinds(&seen), [("", "opened"), ("us-1", "sold"), ("eu-1", "sold")]);
    assert_eq!(kinds(&seen_of_eu), [("", "opened"), ("eu-1", "sold")]);
    assert_eq!(in_group, seen);
    let first = &seen[0];
    assert_eq!((first.namespace.as_str(), first.service.as_str()), ("default", "shop"));
    assert_eq!(first.data, event("", "", "at nine").data);
    assert!(first.at.unwrap().seconds > 0);
    // It is no change: nothing has a new revision, and who did not ask sees the next change only.
    assert_eq!(server.info().await.revision, 2);
    client.register(register("shop", "late", 600.0)).await.unwrap();
    let message = within("the change", silent.next()).await.unwrap().unwrap();
    assert_eq!((message.events.len(), message.published.len()), (1, 0));
    // Who resumes gets what comes from then on.
    let found = client.lookup(LookupRequest { service: "shop".into(), ..Default::default() }).await.unwrap();
    assert_eq!(found.instances.len(), 3);
    recorder.assert_clean();
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_lost() {
    const EVENTS: u64 = 900;
    let server = Server::start(&[]).await;
    // It is this reader that is silent.
    let recorder = Recorder::new(Settings { silence: Duration::from_secs(600), ..Settings::default() });
    let client = server.client(&recorder).await;
    let selectors = vec![asking("shop", "")];
    let mut slow = client.watch(WatchRequest { selectors, ..WatchRequest::default() }).await.unwrap();
    assert!(within("the snapshot", slow.next()).await.unwrap().unwrap().snapshot_end);
    let mut stub = RegistryClient::new(server.channel().await);
    let text = "x".repeat(15_000);
    for number in 0..EVENTS {
        // What is too much in a second is refused, not lost.
        while let Err(refused) = stub.publish(event("shop", &number.to_string(), &text)).await {
            assert_eq!(refusal(&refused).1, "LIMIT");
        }
    }
    let (mut lost, mut seen) = (0, Vec::<u64>::new());
    while lost + (seen.len() as u64) < EVENTS {
        let (published, missing) = next(&mut slow).await;
        lost += missing;
        seen.extend(published.iter().map(|event| event.kind.parse::<u64>().unwrap()));
    }
    assert!(lost > 0 && seen.is_sorted() && seen.last() == Some(&(EVENTS - 1)), "{lost} lost, {seen:?}");
    recorder.assert_clean();
}

#[tokio::test]
async fn what_may_not_be_published_is_refused() {
    let server = Server::start(&[]).await;
    let client = server.client(&Recorder::new(Settings::default())).await;
    let mut stub = RegistryClient::new(server.channel().await);
    let bad =
        PublishRequest { namespace: "*".into(), lease_token: "none".into(), ..event("a/b", "", &"x".repeat(20_000)) };
    let expected = ["data", "kind", "lease_token", "namespace", "service"];
    is_invalid("an event", stub.publish(bad).await, &expected);
    let token =
        async |service: &str| client.register(register(service, "a", 600.0)).await.unwrap().lease.unwrap().token;
    let (old, of_another) = (token("shop").await, token("cart").await);
    let new = token("shop").await;
    let by = |lease_token: &str| PublishRequest { lease_token: lease_token.into(), ..event("shop", "sold", "") };
    is_invalid("another's token", stub.publish(by(&of_another)).await, &["lease_token"]);
    let (code, reason, _) = refusal(&stub.publish(by(&old)).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (Code::Aborted, "SUPERSEDED"));
    assert_eq!(publish(&mut stub, by(&new)).await, 0);
    let gone = onair::proto::DeregisterRequest { lease_token: new.clone(), ..Default::default() };
    client.deregister(gone).await.unwrap();
    let (code, reason, _) = refusal(&stub.publish(by(&new)).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (Code::NotFound, "NOT_FOUND"));
    let limits = server.info().await.limits.unwrap();
    assert!(limits.max_published_bytes > 0 && limits.max_published_rate > 0 && limits.max_published_rate_total > 0);
}

/// By HTTP, as `EventSource` reads it, and on the command line.
#[tokio::test]
async fn publishing_by_http_and_on_the_command_line() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let mut source = Http::connect(server.address()).await;
    let target = "/v1/namespaces/default/services/shop/watch?published=true";
    source.send(get(target, "1.0", "Accept: text/event-stream\r\n")).await;
    source.through("snapshotEnd").await.unwrap();
    source.through("\n\n").await.unwrap();
    let mut watch = Running::start(&["watch", "shop", "--published", "--url", &url]);
    let body = r#"{"kind": "order.created", "data": {"order": 7}}"#;
    let asked = format!(
        "POST /v1/namespaces/default/services/shop/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut http = Http::connect(server.address()).await;
    let both = async {
        loop {
            let answer = http.ask(&asked).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            if answer.json()["watches"] == "2" {
                return;
            }
        }
    };
    within("both watches", both).await;
    let block = source.through("\n\n").await.unwrap();
    let (kind, rest) = block.split_once('\n').unwrap();
    assert_eq!(kind, "event: published");
    let data = rest.lines().next().unwrap().strip_prefix("data: ").unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["published"][0]["data"]["order"], 7.0);
    watch.out.line("PUBLISHED shop - order.created {\"order\":7}").await;

    let ask = async |args: &[&str]| said(&onair(&[args, &["--url", &url]].concat()).await);
    let (code, out, err) = ask(&["publish", "shop", "closed", "\"until nine\""]).await;
    assert_eq!((code, out.trim(), err.trim()), (0, "published closed of shop to 2 watches", ""));
    watch.out.line("PUBLISHED shop - closed \"until nine\"").await;
    let (code, out, _) = ask(&["publish", "shop", "closed", "{}", "--output", "curl"]).await;
    assert!(code == 0 && out.contains("/v1/namespaces/default/services/shop/publish"), "{out}");
    assert_eq!(ask(&["publish", "shop", "closed", "{"]).await.0, 2);
}
