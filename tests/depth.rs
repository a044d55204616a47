//! Metadata as deep as the rules allow passes every decoder on its way, and what the decoder says of anything deeper is
//! what the codec knows it by. Knows the generated messages, not the calls.

use std::net::Ipv4Addr;

use onair::{
    proto::{Event, Instance, RegisterRequest, SubscribeResponse, SubscriptionGroup},
    registry::{Context, Registration},
};
use prost::Message;
use prost_types::{ListValue, Struct, Value, value::Kind};

/// As `GetServerInfo` says.
const DEPTH_MAX: usize = 32;

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn nested(depth: usize, wrap: fn(Value) -> Kind) -> Value {
    (0..depth).fold(value(Kind::NumberValue(1.0)), |inner, _| value(wrap(inner)))
}

fn object(inner: Value) -> Kind {
    Kind::StructValue(Struct { fields: [("a".to_owned(), inner)].into() })
}

fn list(inner: Value) -> Kind {
    Kind::ListValue(ListValue { values: vec![inner] })
}

fn instance(metadata: Value) -> Instance {
    Instance { service: "web".into(), port: 1, metadata: Some(metadata), ..Instance::default() }
}

#[test]
fn the_deepest_metadata_passes_the_decoder() {
    for wrap in [object, list] {
        let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
        let instance = Registration::parse(instance(nested(DEPTH_MAX, wrap)), None, context).unwrap().instance;
        let request = RegisterRequest { instance: Some(instance.clone()), ..RegisterRequest::default() };
        assert_eq!(RegisterRequest::decode(&*request.encode_to_vec()).unwrap(), request);
        // Nothing nests an instance deeper than this one.
        let event = Event { instance: Some(instance), ..Event::default() };
        let group = SubscriptionGroup { events: vec![event], ..SubscriptionGroup::default() };
        let response = SubscribeResponse { groups: vec![group], ..SubscribeResponse::default() };
        assert_eq!(SubscribeResponse::decode(&*response.encode_to_vec()).unwrap(), response);
    }
}

#[test]
fn the_decoder_refuses_what_is_deeper_with_words_of_its_own() {
    for (wrap, first_refused) in [(object as fn(Value) -> Kind, 33), (list, 50)] {
        let decode = |depth| {
            let request =
                RegisterRequest { instance: Some(instance(nested(depth, wrap))), ..RegisterRequest::default() };
            RegisterRequest::decode(&*request.encode_to_vec())
        };
        assert!(decode(first_refused - 1).is_ok());
        let why = decode(first_refused).unwrap_err().to_string();
        assert!(why.ends_with(": recursion limit reached"), "{why}");
    }
}
