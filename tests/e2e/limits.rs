//! Every limit is named, advertised and answered.

use futures_util::{StreamExt as _, stream};
use onair::proto::{AddSubscription, Limits, SubscribeRequest, WatchRequest, subscribe_request::Command};
use tonic::{Code, Status};
use tonic_types::{StatusExt as _, pb};

use crate::{
    harness::{Keeper, Server, alone, everything, register, register_with, within},
    history::{Recorder, Settings},
};

/// RESOURCE_EXHAUSTED, with everything that is said of a limit.
fn is_limit(status: &Status, limit: &str, maximum: u64) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!((status.code(), info.reason.as_str()), (Code::ResourceExhausted, "LIMIT"), "{status:?}");
    assert_eq!((info.metadata["limit"].as_str(), info.metadata["maximum"].as_str()), (limit, &*maximum.to_string()));
    assert!(info.metadata["usage"].parse::<u64>().unwrap() >= maximum, "{info:?}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
}

const FLAGS: &str = "--max-instances 5 --max-services 3 --max-namespaces 2 --max-watches 4 --max-subscriptions 2 \
                     --max-selectors 2 --max-beats 3";

async fn with_small_limits() -> Server {
    Server::start(&FLAGS.split_whitespace().collect::<Vec<_>>()).await
}

#[tokio::test]
async fn every_limit_of_the_state_is_named_advertised_and_answered() {
    let server = with_small_limits().await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    let advertised = server.info().await.limits.unwrap();
    let expected = Limits {
        max_instances: 5,
        max_services: 3,
        max_namespaces: 2,
        max_watches: 4,
        max_subscriptions: 2,
        max_selectors: 2,
        max_beats: 3,
        ..advertised
    };
    assert_eq!(advertised, expected);

    let put = async |namespace: &str, service: &str, id: &str| {
        let request = register_with(service, id, 60.0, |instance| instance.namespace = namespace.into());
        client.register(request).await
    };
    for (namespace, service) in [("", "a"), ("", "b"), ("other", "a")] {
        put(namespace, service, "1").await.unwrap();
    }
    is_limit(&put("third", "a", "1").await.unwrap_err(), "max_namespaces", 2);
    is_limit(&put("", "c", "1").await.unwrap_err(), "max_services", 3);
    put("", "a", "2").await.unwrap();
    let last = put("", "a", "3").await.unwrap();
    is_limit(&put("", "a", "4").await.unwrap_err(), "max_instances", 5);
    // What is there can be replaced, and one that goes makes room.
    put("", "a", "3").await.unwrap();
    let remove = onair::proto::DeregisterRequest { service: "a".into(), id: "3".into(), ..Default::default() };
    assert_eq!(client.deregister(remove).await.unwrap().removed, 1);
    assert!(put("", "a", "4").await.unwrap().revision > last.revision);
    recorder.assert_clean();
}

#[tokio::test]
async fn every_limit_of_watches_is_named_and_answered() {
    let server = with_small_limits().await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    // Watches and subscriptions together; a refused subscription ends alone.
    let mut watches = Vec::new();
    for _ in 0..2 {
        watches.push(client.watch(everything()).await.unwrap());
    }
    let add = |id: &str| {
        let add = AddSubscription { id: id.into(), selectors: everything().selectors, ..Default::default() };
        SubscribeRequest { command: Some(Command::Add(add)) }
    };
    let mut subscribed = client.subscribe(vec![add("one"), add("two"), add("three")]).await.unwrap();
    let mut refused = None;
    for _ in 0..3 {
        let message = within("a first group", subscribed.next()).await.unwrap().unwrap();
        refused = refused.or(message.groups.into_iter().find_map(|group| group.error.map(|error| (group.id, error))));
    }
    let (id, error) = refused.expect("a refusal");
    assert_eq!(id, "three");
    let details = pb::Status { code: error.code, message: error.message.clone(), details: error.details };
    let status = Status::with_details(error.code.into(), error.message, prost::Message::encode_to_vec(&details).into());
    is_limit(&status, "max_subscriptions", 2);
    is_limit(&client.watch(everything()).await.err().unwrap(), "max_watches", 4);
    drop(watches.pop());
    let again = async {
        loop {
            match client.watch(WatchRequest::default()).await {
                Ok(watch) => return watch,
                Err(status) => is_limit(&status, "max_watches", 4),
            }
        }
    };
    within("room for a watch", again).await;
    drop((watches, subscribed));
    recorder.assert_clean();
}

#[tokio::test]
async fn a_full_inbox_refuses_at_once_and_beats_have_their_own_lane() {
    let _alone = alone().await;
    let server = Server::start(&["--max-inbox", "16"]).await;
    let recorder = Recorder::new(Settings::default());
    let fleet = (0..10).map(|number| register("fleet", &format!("i{number}"), 2.0)).collect();
    let mut keeper = Keeper::start(&server, &recorder, fleet).await;
    let client = server.client(&recorder).await;
    let mut refused = 0;
    for round in 0..5 {
        let calls = (0..500).map(|number| client.register(register("web", &format!("{round}-{number}"), 60.0)));
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(500).collect().await;
        for status in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            let info = status.get_details_error_info().unwrap();
            assert_eq!((status.code(), info.reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"), "{status:?}");
            assert_eq!((info.metadata["limit"].as_str(), info.metadata["maximum"].as_str()), ("max_inbox", "16"));
            assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
            refused += 1;
        }
        keeper.beats().await;
    }
    println!("{refused} of 2500 registrations were refused by an inbox of 16");
    assert!(refused > 0);
    keeper.stop().await;
    recorder.assert_clean();
}
