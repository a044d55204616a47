//! How applications, service types and versions are written on these routes. What is written has been through the
//! catalog's rules: ids have no character that YAML would read as its own.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::proto::{Application, ApplicationPort, CatalogChange, CatalogVersion, ServiceType, catalog_version};

pub(super) fn application(application: &Application) -> Value {
    let port = |port: &ApplicationPort| json!({"service": {"id": port.service}, "external": port.external, "internal": port.internal});
    let ports: Vec<Value> = application.ports.iter().map(port).collect();
    json!({"id": application.id, "ports": ports, "dependencies": application.dependencies})
}

pub(super) fn service(service: &ServiceType) -> Value {
    let mut value = json!({"id": service.id, "default_port": service.default_port});
    if let (Some(offset), Some(members)) = (service.offset, value.as_object_mut()) {
        members.insert("offset".to_owned(), offset.into());
    }
    value
}

pub(super) fn version(version: &CatalogVersion) -> Value {
    let change = match version.change() {
        CatalogChange::Insert => "insert",
        CatalogChange::Update => "update",
        CatalogChange::Delete | CatalogChange::Unspecified => "delete",
    };
    let at = version.at.map(|at| at.to_string()).unwrap_or_default();
    let mut value = json!({"id": version.id.to_string(), "timestamp": at, "type": change});
    let (name, of) = match &version.value {
        Some(catalog_version::Value::Application(of)) => ("application", application(of)),
        Some(catalog_version::Value::ServiceType(of)) => ("service", service(of)),
        None => return value,
    };
    if let Some(members) = value.as_object_mut() {
        members.insert(name.to_owned(), of);
    }
    value
}

/// The host that the health checks of the predecessor's users name: the workstation.
const WORKSTATION: &str = "ws";

/// Writes an application as an element of a YAML list.
pub(super) fn yaml(application: &Application, text: &mut String) {
    // Writing to a text never fails.
    let _ = writeln!(text, "- id: {}", quoted(&application.id));
    let _ = writeln!(text, "  ports:{}", if application.ports.is_empty() { " []" } else { "" });
    for ApplicationPort { service, external, internal } in &application.ports {
        let _ = writeln!(text, "    - healthcheck:");
        let is_database = service == "postgresql";
        if is_database {
            let _ = writeln!(text, "        dbname: {}", quoted(&application.id));
        }
        let _ = writeln!(text, "        host: {WORKSTATION}\n        port: {external}");
        if is_database {
            let _ = writeln!(text, "        user: api");
        }
        let _ = writeln!(text, "      external: {external}\n      internal: {internal}");
    }
    let dependencies: Vec<String> = application.dependencies.iter().map(|id| quoted(id)).collect();
    let _ = writeln!(text, "  dependencies: [{}]", dependencies.join(", "));
}

/// An id as YAML: plain if it can only be read as a text.
fn quoted(id: &str) -> String {
    let starts = id.starts_with(|first: char| first.is_ascii_lowercase());
    let words = ["null", "true", "false", "yes", "no", "on", "off"];
    if starts && !words.contains(&id) { id.to_owned() } else { format!("'{id}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_for_yaml() {
        let port = |service: &str, external| ApplicationPort { service: service.into(), external, internal: 5432 };
        let with = |id: &str, ports, dependencies: &[&str]| Application {
            id: id.to_owned(),
            ports,
            dependencies: dependencies.iter().map(|id| (*id).to_owned()).collect(),
            ..Application::default()
        };
        let mut text = String::new();
        yaml(&with("shop-db", vec![port("postgresql", 6019), port("custom", 6012)], &[]), &mut text);
        yaml(&with("1.5", vec![], &["shop-db", "no"]), &mut text);
        let wanted = "- id: shop-db\n  ports:\n    - healthcheck:\n        dbname: shop-db\n        host: ws\n        port: \
                      6019\n        user: api\n      external: 6019\n      internal: 5432\n    - healthcheck:\n        \
                      host: ws\n        port: 6012\n      external: 6012\n      internal: 5432\n  dependencies: []\n- id: \
                      '1.5'\n  ports: []\n  dependencies: [shop-db, 'no']\n";
        assert_eq!(text, wanted);
    }
}
