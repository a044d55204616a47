//! The list that an import takes, an entry a line, so that two of them can be compared line by line.

use serde_json::{Value, json};

use crate::proto::{ListedApplication, ListedPort, ListedServiceType};

fn service_type(of: &ListedServiceType) -> Value {
    let mut value = json!({"id": of.id, "defaultPort": of.default_port});
    if let (Some(offset), Some(members)) = (of.offset, value.as_object_mut()) {
        members.insert("offset".to_owned(), offset.into());
    }
    value
}

fn application(of: &ListedApplication) -> Value {
    let port = |of: &ListedPort| json!({"service": of.service, "external": of.external, "internal": of.internal});
    json!({"id": of.id, "ports": of.ports.iter().map(port).collect::<Vec<_>>(), "dependencies": of.dependencies})
}

fn list(name: &str, entries: impl Iterator<Item = Value>) -> String {
    let lines: Vec<String> = entries.map(|entry| format!("\n    {entry}")).collect();
    match lines.is_empty() {
        true => format!("  \"{name}\": []"),
        false => format!("  \"{name}\": [{}\n  ]", lines.join(",")),
    }
}

/// The catalog as JSON, without a newline at the end.
#[must_use]
pub fn json(types: &[ListedServiceType], applications: &[ListedApplication]) -> String {
    let types = list("serviceTypes", types.iter().map(service_type));
    format!("{{\n{types},\n{}\n}}", list("applications", applications.iter().map(application)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_a_line() {
        let redis = ListedServiceType { id: "redis".into(), default_port: Some(6379), offset: None };
        let port = ListedPort { service: "redis".into(), external: Some(6012), internal: Some(6379) };
        let cache = ListedApplication {
            id: "cache".into(),
            ports: vec![port],
            dependencies: vec!["db".into()],
            ..Default::default()
        };
        let wanted = r#"{
  "serviceTypes": [
    {"defaultPort":6379,"id":"redis"}
  ],
  "applications": [
    {"dependencies":["db"],"id":"cache","ports":[{"external":6012,"internal":6379,"service":"redis"}]},
    {"dependencies":[],"id":"x","ports":[]}
  ]
}"#;
        let other = ListedApplication { id: "x".into(), ..ListedApplication::default() };
        assert_eq!(json(&[redis], &[cache, other]), wanted);
        assert_eq!(json(&[], &[]), "{\n  \"serviceTypes\": [],\n  \"applications\": []\n}");
    }
}
