//! The types of `registry` that have a wire form agree with the descriptors that the protos give, and the descriptors
//! carry a comment for everything a client can name: they are the specification that reflection shows.

use onair::{
    proto::DESCRIPTORS,
    registry::{Cause, EventType, Instance, Status},
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions, Value};
use prost_types::{FileDescriptorProto, FileDescriptorSet, Timestamp, value::Kind};
use serde_json::{Value as Json, json};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(DESCRIPTORS).unwrap()
}

fn instance_descriptor() -> MessageDescriptor {
    pool().get_message_by_name("onair.v1.Instance").unwrap()
}

/// What the descriptor reads in `instance`.
fn read(instance: &Instance) -> DynamicMessage {
    DynamicMessage::decode(instance_descriptor(), instance.encode_to_vec().as_slice()).unwrap()
}

/// With the names that the protos give.
fn as_json(message: &DynamicMessage) -> Json {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
}

/// With every field set, each to a value of its own, so that no two can be mistaken for one another.
fn full() -> Instance {
    Instance {
        namespace: "shop".into(),
        service: "web".into(),
        id: "web-1".into(),
        host: "10.0.0.7".into(),
        port: 8001,
        version: "1.2.3".into(),
        zone: "a".into(),
        weight: Some(7),
        status: Status::Draining as i32,
        incarnation: 41,
        revision: 42,
        protocol: "https".into(),
        url: "https://10.0.0.7:8001/base".into(),
        ports: [("admin".to_owned(), 8002)].into(),
        metadata: Some(prost_types::Value { kind: Some(Kind::NumberValue(1.5)) }),
        online_since: Some(Timestamp { seconds: 1, nanos: 500_000_000 }),
        partition_key: "west".into(),
    }
}

fn full_json() -> Json {
    json!({
        "namespace": "shop",
        "service": "web",
        "id": "web-1",
        "host": "10.0.0.7",
        "port": 8001,
        "version": "1.2.3",
        "zone": "a",
        "weight": 7,
        "status": "STATUS_DRAINING",
        "incarnation": "41",
        "revision": "42",
        "protocol": "https",
        "url": "https://10.0.0.7:8001/base",
        "ports": {"admin": 8002},
        "metadata": 1.5,
        "online_since": "1970-01-01T00:00:01.500Z",
        "partition_key": "west",
    })
}

#[test]
fn an_instance_reads_as_the_descriptor_says() {
    let read = read(&full());
    assert_eq!(read.unknown_fields().count(), 0, "fields that the proto does not have");
    for field in instance_descriptor().fields() {
        assert!(read.has_field(&field), "{} is not set by `registry::Instance`", field.name());
    }
    assert_eq!(as_json(&read), full_json());
}

#[test]
fn an_instance_keeps_all_that_the_descriptor_has() {
    let written = DynamicMessage::deserialize(instance_descriptor(), full_json()).unwrap();
    assert_eq!(written.fields().count(), instance_descriptor().fields().count(), "`full_json` leaves a field out");
    let kept = Instance::decode(written.encode_to_vec().as_slice()).unwrap();
    assert_eq!(kept, full());
    assert_eq!(as_json(&read(&kept)), full_json());
}

#[test]
fn absence_is_kept_where_it_means_something() {
    assert_eq!(as_json(&read(&Instance::default())), json!({}));
    let without_traffic = Instance { weight: Some(0), ..Instance::default() };
    assert_eq!(as_json(&read(&without_traffic)), json!({"weight": 0}));
}

/// `Unspecified` of `EventType` is `EVENT_TYPE_UNSPECIFIED` in the protos.
fn proto_name(type_name: &str, variant: &str) -> String {
    let mut name = String::new();
    for letter in type_name.chars().chain(variant.chars()) {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Every value of the descriptor is one of `T` by number and name, and `T` has no other.
fn assert_enum_agrees<T: TryFrom<i32> + std::fmt::Debug>(name: &str) {
    let descriptor = pool().get_enum_by_name(&format!("onair.v1.{name}")).unwrap();
    let described: Vec<_> = descriptor.values().map(|value| (value.number(), value.name().to_owned())).collect();
    let ours: Vec<_> = (-1..=1_000)
        .filter_map(|number| T::try_from(number).ok().map(|value| (number, proto_name(name, &format!("{value:?}")))))
        .collect();
    assert_eq!(ours, described, "{name}");
}

#[test]
fn enums_have_the_descriptors_numbers_and_names() {
    assert_enum_agrees::<Status>("Status");
    assert_enum_agrees::<EventType>("EventType");
    assert_enum_agrees::<Cause>("Cause");
}

/// Everything in `file` that a client can name: its path in the file's `SourceCodeInfo`, and its name.
fn nameable(file: &FileDescriptorProto) -> Vec<(Vec<i32>, String)> {
    let mut all = Vec::new();
    let mut add = |path: &[i32], names: &[&str]| all.push((path.to_vec(), names.join(".")));
    for (at, message) in (0..).zip(&file.message_type) {
        let nested = message.nested_type.iter().filter(|nested| !is_map_entry(nested)).count();
        assert_eq!(nested + message.enum_type.len(), 0, "{}: nested types are not looked into", message.name());
        add(&[4, at], &[message.name()]);
        for (index, field) in (0..).zip(&message.field) {
            add(&[4, at, 2, index], &[message.name(), field.name()]);
        }
        for (index, oneof) in (0..).zip(&message.oneof_decl) {
            // An `optional` field is described as the only one of a oneof that nobody wrote.
            if !message.field.iter().any(|field| field.proto3_optional() && field.oneof_index == Some(index)) {
                add(&[4, at, 8, index], &[message.name(), oneof.name()]);
            }
        }
    }
    for (at, enumeration) in (0..).zip(&file.enum_type) {
        add(&[5, at], &[enumeration.name()]);
        for (index, value) in (0..).zip(&enumeration.value) {
            add(&[5, at, 2, index], &[value.name()]);
        }
    }
    for (at, service) in (0..).zip(&file.service) {
        add(&[6, at], &[service.name()]);
        for (index, method) in (0..).zip(&service.method) {
            add(&[6, at, 2, index], &[service.name(), method.name()]);
        }
    }
    all
}

fn is_map_entry(message: &prost_types::DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry)
}

/// What has no comment before it.
fn uncommented(file: &FileDescriptorProto) -> Vec<String> {
    let locations = file.source_code_info.as_ref().map_or(&[][..], |info| &info.location);
    let commented = |path: &[i32]| {
        locations.iter().any(|location| location.path == path && !location.leading_comments().trim().is_empty())
    };
    nameable(file).into_iter().filter(|(path, _)| !commented(path)).map(|(_, name)| name).collect()
}

fn our_files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    set.file.into_iter().filter(|file| file.package().starts_with("onair.")).collect()
}

#[test]
fn everything_has_a_comment() {
    let files = our_files();
    assert!(files.iter().any(|file| file.name() == "onair/v1/registry.proto"));
    for file in &files {
        assert_eq!(uncommented(file), [""; 0], "{}: no comment before these", file.name());
    }
}

#[test]
fn a_missing_comment_is_noticed() {
    for file in our_files() {
        for (path, name) in nameable(&file) {
            let mut file = file.clone();
            for location in &mut file.source_code_info.as_mut().unwrap().location {
                if location.path == path {
                    location.leading_comments = Some(" \n".to_owned());
                }
            }
            assert_eq!(uncommented(&file), [name]);
        }
    }
}

/// The rules of a field, if it has some, as JSON.
fn rules(field: &FieldDescriptor) -> Option<Json> {
    let extension = pool().get_extension_by_name("onair.v1.rules").unwrap();
    let options = field.options();
    let rules = options.has_extension(&extension).then(|| options.get_extension(&extension).into_owned())?;
    let rules = rules.as_message().unwrap();
    Some(rules.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).unwrap())
}

fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let locations = &file.source_code_info.as_ref().unwrap().location;
    locations.iter().find(|location| location.path == path).unwrap().leading_comments().to_owned()
}

/// `4,096`.
fn with_commas(number: u64) -> String {
    let figures = number.to_string();
    let (head, tail) = figures.split_at(figures.len().saturating_sub(3));
    if head.is_empty() { tail.to_owned() } else { format!("{},{tail}", with_commas(head.parse().unwrap())) }
}

#[test]
fn rules_have_the_numbers_of_the_comments() {
    let mut judged = 0;
    for message in pool().all_messages().filter(|message| message.package_name() == "onair.v1") {
        for field in message.fields() {
            let Some(rules) = rules(&field) else { continue };
            let said = comment(message.parent_file_descriptor_proto(), field.path());
            let numbers = ["maximum", "maxBytes", "maxItems"].map(|name| match &rules[name] {
                Json::String(number) => number.parse::<u64>().ok(),
                number => number.as_u64(),
            });
            for number in numbers.into_iter().flatten() {
                let said_as = if number == 65_535 { number.to_string() } else { with_commas(number) };
                assert!(said.contains(&said_as) || said.contains("As in"), "{}: {said_as}: {said}", field.full_name());
                judged += 1;
            }
            assert_eq!(rules["later"] == true, said.contains("Not supported yet"), "{}: {said}", field.full_name());
            assert_eq!(rules["outputOnly"] == true, said.contains("Ignored in requests"), "{}", field.full_name());
        }
    }
    assert!(judged > 10, "{judged}");
}

#[test]
fn examples_and_defaults_are_of_their_types() {
    let mut judged = 0;
    let extension = pool().get_extension_by_name("onair.v1.example").unwrap();
    for message in pool().all_messages().filter(|message| message.package_name() == "onair.v1") {
        if let Value::String(text) = &*message.options().get_extension(&extension)
            && !text.is_empty()
        {
            let json: Json = serde_json::from_str(text).unwrap_or_else(|error| panic!("{}: {error}", message.name()));
            let read = DynamicMessage::deserialize(message.clone(), &json)
                .unwrap_or_else(|error| panic!("{}: {error}: {text}", message.name()));
            let options = SerializeOptions::new().skip_default_fields(true);
            let written = read.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
            assert_eq!(written, json, "the example of {} is canonical", message.name());
            judged += 1;
        }
        for field in message.fields() {
            let Some(text) = rules(&field).and_then(|rules| rules["default"].as_str().map(str::to_owned)) else {
                continue;
            };
            let value: Json = serde_json::from_str(&text).unwrap();
            let read = DynamicMessage::deserialize(message.clone(), json!({field.json_name(): value}));
            assert!(read.is_ok(), "{}: {text}: {read:?}", field.full_name());
            judged += 1;
        }
    }
    assert!(judged > 20, "{judged}");
}
