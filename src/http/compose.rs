//! The HTTP request that stands for a message: what `transcode` reads, written. Nothing here is about one method.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost_reflect::{DynamicMessage, FieldDescriptor, SerializeOptions, Value};
use serde_json::Value as Json;

use super::{
    openapi::rules::rules,
    routes::{Body, Place, Route, Segment, Table},
};

/// What stands as it is in a path's segment.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'@')
    .remove(b'*')
    .remove(b',');
/// What stands as it is in a query.
const IN_QUERY: &AsciiSet = &IN_PATH.remove(b'/');

/// A request without its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// The method.
    pub method: String,
    /// Path and query, percent-encoded.
    pub target: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body, JSON.
    pub body: Option<String>,
}

/// The request for `message`, by the first route of its method that can carry all of it.
#[must_use]
pub fn compose(table: &Table, method: &str, message: &DynamicMessage) -> Option<Composed> {
    let mut routes = table.routes().iter().filter(|route| route.rpc.name() == method);
    routes.find_map(|route| Writing { rest: message.clone() }.request(route))
}

/// `text` as one segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, IN_PATH).to_string()
}

/// `text` as a value in a query.
#[must_use]
pub fn variable(text: &str) -> String {
    utf8_percent_encode(text, IN_QUERY).to_string()
}

/// What of the message has no place yet.
struct Writing {
    rest: DynamicMessage,
}

impl Writing {
    fn request(mut self, route: &Route) -> Option<Composed> {
        let mut target = String::new();
        for part in &route.segments {
            target.push('/');
            match part {
                Segment::Literal(text) => target.push_str(text),
                Segment::Variable(place) => {
                    let text = self.take(place).or_else(|| default(&place.field))?;
                    target.push_str(&segment(&text));
                }
            }
        }
        let mut headers = Vec::new();
        for (name, place) in &route.headers {
            headers.extend(self.take(place).map(|value| (name.as_str().to_owned(), value)));
        }
        for (at, (name, text)) in self.query(route).into_iter().enumerate() {
            target.push(if at == 0 { '?' } else { '&' });
            target.push_str(&name);
            target.push('=');
            target.push_str(&variable(&text));
        }
        let body = match &route.body {
            Body::None => None,
            Body::Whole => {
                let all = std::mem::replace(&mut self.rest, DynamicMessage::new(route.rpc.input()));
                Some(json(&all)?.to_string())
            }
            Body::Field(field, _) => Some(self.take_body(field)?),
        };
        is_empty(&self.rest).then(|| Composed { method: route.method.to_string(), target, headers, body })
    }

    fn query(&mut self, route: &Route) -> Vec<(String, String)> {
        let mut given: Vec<_> = route.query.iter().filter_map(|place| Some((place, self.take(place)?))).collect();
        // What holds anyway need not be said.
        given.retain(|(place, text)| default(&place.field).as_ref() != Some(text));
        given.into_iter().map(|(place, text)| (place.field.json_name().to_owned(), text)).collect()
    }

    /// Takes the value from its place, as a text.
    fn take(&mut self, place: &Place) -> Option<String> {
        let holder = match &place.within {
            None => &mut self.rest,
            // Reading it makes one.
            Some(within) if !self.rest.has_field(within) => return None,
            Some(within) => match self.rest.get_field_mut(within) {
                Value::Message(message) => message,
                Value::List(list) => match list.as_mut_slice() {
                    [Value::Message(only)] => only,
                    _ => return None,
                },
                _ => return None,
            },
        };
        if place.field.is_list() || !holder.has_field(&place.field) {
            return None;
        }
        let text = match json(holder)?.get(place.field.json_name())? {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        holder.clear_field(&place.field);
        Some(text)
    }

    /// Takes a field, or its only element, as the JSON of a body.
    fn take_body(&mut self, field: &FieldDescriptor) -> Option<String> {
        let value = self.rest.get_field(field).into_owned();
        let body = match &value {
            Value::List(list) => match list.as_slice() {
                [only] => json(only.as_message()?)?,
                _ => return None,
            },
            other => json(other.as_message()?)?,
        };
        self.rest.clear_field(field);
        Some(body.to_string())
    }
}

/// Whether nothing is said: a member without members says nothing either.
fn is_empty(message: &DynamicMessage) -> bool {
    message.fields().all(|(_, value)| match value {
        Value::Message(inner) => is_empty(inner),
        Value::List(list) => matches!(list.as_slice(), [Value::Message(only)] if is_empty(only)),
        _ => false,
    })
}

fn json(message: &DynamicMessage) -> Option<Json> {
    message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).ok()
}

/// What a field that is left out stands for, where the proto says so.
fn default(field: &FieldDescriptor) -> Option<String> {
    serde_json::from_str(&rules(field).default).ok()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use http::{HeaderMap, HeaderName, HeaderValue, Uri};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{
        http::transcode,
        proto::{Beat, DeregisterRequest, HeartbeatRequest, LookupRequest, Selector, WatchRequest},
    };

    fn composed(method: &str, message: &impl Message) -> Option<(Table, Composed)> {
        let table = Table::of_api().unwrap();
        let input = table.routes().iter().find(|route| route.rpc.name() == method).unwrap().rpc.input();
        let message = DynamicMessage::decode(input, &message.encode_to_vec()[..]).unwrap();
        let composed = compose(&table, method, &message)?;
        Some((table, composed))
    }

    fn target(method: &str, message: &impl Message) -> String {
        let (_, composed) = composed(method, message).unwrap();
        let body = composed.body.map(|body| format!(" {body}")).unwrap_or_default();
        format!("{} {}{body}", composed.method, composed.target)
    }

    #[test]
    fn the_first_route_that_carries_it_all() {
        let web = || "web".to_owned();
        let lookup = LookupRequest { service: web(), version: "^1 || 2".into(), pick: 2, ..Default::default() };
        let target_of = |message: &LookupRequest| target("Lookup", message);
        assert_eq!(
            target_of(&lookup),
            "GET /v1/namespaces/default/services/web/instances?version=%5E1%20%7C%7C%202&pick=PICK_RANDOM"
        );
        let everywhere = LookupRequest { namespace: "*".into(), pick: 1, ..Default::default() };
        assert_eq!(target_of(&everywhere), "GET /v1/namespaces/*/instances");
        let leave = |id: &str, all| DeregisterRequest { service: web(), id: id.into(), all, ..Default::default() };
        let of_leave = |message: &DeregisterRequest| target("Deregister", message);
        assert_eq!(
            of_leave(&leave("10.0.0.1:80", false)),
            "DELETE /v1/namespaces/default/services/web/instances/10.0.0.1:80"
        );
        assert_eq!(of_leave(&leave("", true)), "DELETE /v1/namespaces/default/services/web/instances?all=true");
        let by_lease = DeregisterRequest { lease_token: "T".into(), ..Default::default() };
        assert_eq!(of_leave(&by_lease), r#"POST /v1/deregister {"leaseToken":"T"}"#);
        let beat = HeartbeatRequest { beats: vec![Beat { lease_token: "T".into(), status: 0 }], ..Default::default() };
        assert_eq!(target("Heartbeat", &beat), r#"POST /v1/heartbeat {"beats":[{"leaseToken":"T"}]}"#);
    }

    #[test]
    fn a_watch_of_one_selector_is_a_get() {
        let of = |services: &[&str]| {
            let selector = |service: &&str| Selector { service: (*service).to_owned(), ..Selector::default() };
            let selectors = services.iter().map(selector).collect();
            target("Watch", &WatchRequest { selectors, resume_token: "T".into(), ..WatchRequest::default() })
        };
        assert_eq!(of(&["a"]), "GET /v1/namespaces/default/services/a/watch?resumeToken=T");
        assert_eq!(of(&[""]), "GET /v1/namespaces/default/watch?resumeToken=T");
        assert_eq!(of(&[]), "GET /v1/namespaces/default/watch?resumeToken=T");
        let two = r#"POST /v1/watch {"selectors":[{"service":"a"},{"service":"b"}],"resumeToken":"T"}"#;
        let (method, body) = two.rsplit_once(' ').unwrap();
        let (got_method, got_body) =
            of(&["a", "b"]).rsplit_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert_eq!(method, got_method);
        let json = |text: &str| Json::from_str(text).unwrap();
        assert_eq!(json(body), json(&got_body));
    }

    proptest! {
        /// What is composed of a message is read as that message.
        #[test]
        fn what_is_composed_is_read_as_it_was(
            namespace in "\\PC{0,8}", service in "\\PC{0,8}", version in ".{0,8}", selector in ".{0,8}",
            pick in 2..6, limit in 0_u32..9, min_revision in 0_u64..9, wait in proptest::option::of(1_i64..99),
        ) {
            let wait = wait.map(|seconds| prost_types::Duration { seconds, nanos: 5_000_000 });
            let lookup = LookupRequest {
                namespace, service, version, selector, pick, limit, min_revision, wait, ..LookupRequest::default()
            };
            let (table, composed) = composed("Lookup", &lookup).unwrap();
            let with = usize::from(lookup.service.is_empty());
            let route = table.routes().iter().filter(|route| route.rpc.name() == "Lookup").nth(with).unwrap();
            let mut headers = HeaderMap::new();
            for (name, value) in &composed.headers {
                headers.insert(HeaderName::from_str(name).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let uri = Uri::from_str(&composed.target).unwrap();
            let body = composed.body.unwrap_or_default();
            let read = transcode::request(route, &uri, &headers, body.as_bytes(), 1_000).unwrap();
            let mut read = LookupRequest::decode(&read[..]).unwrap();
            if lookup.namespace.is_empty() {
                prop_assert_eq!(std::mem::take(&mut read.namespace), "default");
            }
            prop_assert_eq!(read, lookup);
        }
    }
}
