//! What becomes of an instance: the target to scrape, and labels that say what it is. What registrants send is hostile: all
//! of their names get our prefix, so that none of them is an address, a path or a scheme to Prometheus; and how many
//! labels there are, and how long, is limited. Knows no request.

use std::collections::BTreeMap;

use prost_types::{Value, value::Kind};
use serde::Serialize;

use crate::registry::{Instance, Status};

const PREFIX: &str = "__meta_onair_";
/// Most labels that are made of one instance's metadata, in order of their paths.
const METADATA_LABELS_MAX: usize = 100;
/// Deepest path in the metadata that is a label.
const DEPTH_MAX: usize = 8;
/// Longest name of a label, in bytes; it is cut there.
const NAME_BYTES_MAX: usize = 200;
/// Longest value of a label made of metadata, in bytes; it is cut there.
const VALUE_BYTES_MAX: usize = 2_048;

/// A group of targets, of which there is one.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Group {
    targets: [String; 1],
    labels: BTreeMap<String, String>,
}

/// The group of an instance; none if it has no such port.
pub(super) fn group(instance: &Instance, port: Option<&str>) -> Option<Group> {
    let port = match port {
        None => Some(instance.port).filter(|port| *port != 0)?,
        Some(name) => *instance.ports.get(name)?,
    };
    let host = &instance.host;
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut labels = Labels::default();
    let status = Status::try_from(instance.status).unwrap_or_default();
    for (name, value) in [
        ("namespace", instance.namespace.as_str()),
        ("service", &instance.service),
        ("id", &instance.id),
        ("version", &instance.version),
        ("zone", &instance.zone),
        ("status", status_name(status)),
        ("protocol", &instance.protocol),
        ("weight", &instance.weight.unwrap_or(1).to_string()),
    ] {
        labels.add(name, value.to_owned());
    }
    if let Some(metadata) = &instance.metadata {
        labels.left = METADATA_LABELS_MAX;
        labels.metadata("metadata", metadata, 0);
    }
    Some(Group { targets: [target], labels: labels.by_name })
}

/// As selectors write it.
fn status_name(status: Status) -> &'static str {
    match status {
        Status::Unspecified => "UNSPECIFIED",
        Status::Starting => "STARTING",
        Status::Serving => "SERVING",
        Status::Draining => "DRAINING",
        Status::Suspect => "SUSPECT",
        Status::Maintenance => "MAINTENANCE",
    }
}

#[derive(Debug, Default)]
struct Labels {
    by_name: BTreeMap<String, String>,
    /// How many more there may be of the metadata.
    left: usize,
}

impl Labels {
    /// Adds a label under a legal name. Of names that become the same one, the first keeps it; the next are numbered.
    fn add(&mut self, name: &str, value: String) {
        // To Prometheus an empty label is none.
        if value.is_empty() {
            return;
        }
        let legal = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = PREFIX.chars().chain(name.chars().map(legal)).take(NAME_BYTES_MAX).collect();
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.by_name.contains_key(name));
        self.by_name.extend(free.map(|name| (name, value)));
    }

    /// Adds what stands at `path`, and below it.
    fn metadata(&mut self, path: &str, value: &Value, depth: usize) {
        if self.left == 0 || depth > DEPTH_MAX {
            return;
        }
        let scalar = match &value.kind {
            None | Some(Kind::NullValue(_)) => return,
            Some(Kind::BoolValue(value)) => value.to_string(),
            Some(Kind::NumberValue(value)) => value.to_string(),
            Some(Kind::StringValue(value)) => cut(value),
            Some(Kind::StructValue(fields)) => {
                for (name, value) in &fields.fields {
                    self.metadata(&format!("{path}_{name}"), value, depth + 1);
                }
                return;
            }
            Some(Kind::ListValue(list)) => {
                for (place, value) in list.values.iter().enumerate() {
                    self.metadata(&format!("{path}_{place}"), value, depth + 1);
                }
                return;
            }
        };
        self.left -= 1;
        self.add(path, scalar);
    }
}

fn cut(value: &str) -> String {
    value[..value.floor_char_boundary(VALUE_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn metadata(json: &Json) -> Value {
        let kind = match json {
            Json::Null => Kind::NullValue(0),
            Json::Bool(value) => Kind::BoolValue(*value),
            Json::Number(value) => Kind::NumberValue(value.as_f64().expect("a double")),
            Json::String(value) => Kind::StringValue(value.clone()),
            Json::Array(values) => {
                Kind::ListValue(prost_types::ListValue { values: values.iter().map(metadata).collect() })
            }
            Json::Object(fields) => Kind::StructValue(prost_types::Struct {
                fields: fields.iter().map(|(name, value)| (name.clone(), metadata(value))).collect(),
            }),
        };
        Value { kind: Some(kind) }
    }

    fn instance(json: &Json) -> Instance {
        Instance {
            namespace: "default".into(),
            service: "web".into(),
            id: "a".into(),
            host: "10.0.0.1".into(),
            port: 80,
            status: Status::Serving.into(),
            metadata: Some(metadata(json)),
            ..Instance::default()
        }
    }

    /// The labels of metadata, without our prefix.
    fn labels(json: &Json) -> Vec<(String, String)> {
        let group = group(&instance(json), None).expect("it has a port");
        let of_metadata =
            |(name, value): (String, String)| Some((name.strip_prefix("__meta_onair_metadata")?.to_owned(), value));
        group.labels.into_iter().filter_map(of_metadata).collect()
    }

    #[test]
    fn metadata_is_flat_text_under_legal_names() {
        for (json, wanted) in [
            (json!("plain"), json!({"": "plain"})),
            (json!({"a": {"b": [1, true, null, "x"]}}), json!({"_a_b_0": "1", "_a_b_1": "true", "_a_b_3": "x"})),
            (
                json!({"n": -1.5, "big": 1e21, "zero": 0, "empty": ""}),
                json!({"_big": "1000000000000000000000", "_n": "-1.5", "_zero": "0"}),
            ),
            // In order of their paths, and none takes another's name.
            (
                json!({"a.b": "1", "a-b": "2", "a": {"b": "3"}, "a_b_2": "4"}),
                json!({"_a_b": "3", "_a_b_2": "2", "_a_b_3": "1", "_a_b_2_2": "4"}),
            ),
            (
                json!({"ключ": "значение", "\"quote\\\n": "a\"b\\c\nd\u{0}"}),
                json!({"_____": "значение", "__quote__": "a\"b\\c\nd\u{0}"}),
            ),
            (json!({"__address__": "evil.example:80"}), json!({"___address__": "evil.example:80"})),
        ] {
            let found: serde_json::Map<_, _> =
                labels(&json).into_iter().map(|(name, value)| (name, value.into())).collect();
            assert_eq!(Json::Object(found), wanted, "{json}");
        }
    }

    #[test]
    fn how_many_and_how_long_is_limited() {
        let many: serde_json::Map<_, _> = (0..500).map(|number| (format!("k{number:03}"), json!("x"))).collect();
        let kept = labels(&Json::Object(many));
        assert_eq!((kept.len(), kept[99].0.as_str()), (METADATA_LABELS_MAX, "_k099"));
        let deep = (0..20).fold(json!("bottom"), |json, _| json!({ "d": json }));
        assert_eq!(labels(&json!({"a": deep, "b": "x"})), [("_b".to_owned(), "x".to_owned())]);
        let long = labels(&json!({"n".repeat(1_000): "ü".repeat(3_000), "n".repeat(999): "y"}));
        assert_eq!(long[0].0.len() + "__meta_onair_metadata".len(), NAME_BYTES_MAX);
        assert_eq!((long[1].0.as_str(), long[1].1.len()), (format!("{}_2", long[0].0).as_str(), VALUE_BYTES_MAX));
    }

    #[test]
    fn targets_are_host_and_port() {
        let mut instance = instance(&json!(null));
        let target = |instance: &Instance, port| group(instance, port).map(|group| group.targets[0].clone());
        assert_eq!(target(&instance, None).as_deref(), Some("10.0.0.1:80"));
        assert_eq!(target(&instance, Some("metrics")), None);
        instance.ports.insert("metrics".into(), 9_100);
        instance.host = "2001:db8::1".into();
        assert_eq!(target(&instance, Some("metrics")).as_deref(), Some("[2001:db8::1]:9100"));
        instance.port = 0;
        assert_eq!(target(&instance, None), None);
    }
}
