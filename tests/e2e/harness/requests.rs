//! The requests that most tests send.

use onair::proto::{Beat, HeartbeatRequest, Instance, LookupRequest, RegisterRequest, Selector, WatchRequest};

/// A duration as the API has it.
pub fn seconds(seconds: f64) -> prost_types::Duration {
    std::time::Duration::from_secs_f64(seconds).try_into().unwrap()
}

/// A registration of `service`/`id` on loopback.
pub fn register(service: &str, id: &str, ttl: f64) -> RegisterRequest {
    register_with(service, id, ttl, |_| {})
}

/// The same with more to say.
pub fn register_with(service: &str, id: &str, ttl: f64, more: impl FnOnce(&mut Instance)) -> RegisterRequest {
    let mut instance = Instance {
        service: service.to_owned(),
        id: id.to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 8_000,
        ..Instance::default()
    };
    more(&mut instance);
    RegisterRequest { instance: Some(instance), ttl: Some(seconds(ttl)), ..RegisterRequest::default() }
}

/// One message that renews all of these.
pub fn beat<T: Into<String>>(tokens: impl IntoIterator<Item = T>) -> HeartbeatRequest {
    let beats = tokens.into_iter().map(|token| Beat { lease_token: token.into(), ..Beat::default() });
    HeartbeatRequest { beats: beats.collect(), ..Default::default() }
}

/// Every instance of a service, whatever its status.
pub fn lookup(service: &str) -> LookupRequest {
    LookupRequest { service: service.to_owned(), selector: "status=*".to_owned(), ..LookupRequest::default() }
}

/// A watch of everything there is: what filtered ones are judged by.
pub fn everything() -> WatchRequest {
    WatchRequest { selectors: vec![all()], ..WatchRequest::default() }
}

/// What matches everything.
pub fn all() -> Selector {
    Selector { namespace: "*".to_owned(), selector: "status=*".to_owned(), ..Selector::default() }
}

/// What matches the instances of a service for which `terms` hold.
pub fn selector(service: &str, terms: &str) -> Selector {
    Selector { service: service.to_owned(), selector: terms.to_owned(), ..Selector::default() }
}

/// Metadata of about so many bytes.
pub fn bulk(bytes: usize) -> Option<prost_types::Value> {
    Some(prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("x".repeat(bytes))) })
}
