//! How applications, service types and versions are written on these routes.

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
