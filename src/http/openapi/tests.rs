//! The document against the table of routes and the errors that there are. Whether it is OpenAPI, and whether a server
//! keeps to it, others judge: `tests/web`.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::*;
use crate::{
    grpc::status::{code_of, reason_name},
    http::problem,
};

fn table() -> Table {
    Table::with_comments().unwrap()
}

fn json() -> Json {
    serde_json::to_value(document(&table())).unwrap()
}

/// Every object within, and where it is.
fn objects(json: &Json, place: String, visit: &mut impl FnMut(&str, &Json)) {
    visit(&place, json);
    match json {
        Json::Object(members) => members.iter().for_each(|(name, of)| objects(of, format!("{place}/{name}"), visit)),
        Json::Array(list) => list.iter().enumerate().for_each(|(at, of)| objects(of, format!("{place}/{at}"), visit)),
        _ => {}
    }
}

#[test]
fn every_route_is_an_operation_of_its_own_name() {
    let (document, mut names) = (json(), BTreeSet::new());
    for route in table().routes() {
        let operation = &document["paths"][&route.path][route.method.as_str().to_ascii_lowercase()];
        assert!(!route.name.is_empty() && !route.summary.is_empty(), "{} {}", route.method, route.path);
        assert_eq!(operation["operationId"], route.name, "{} {}", route.method, route.path);
        assert!(names.insert(route.name.clone()), "{} is the name of two routes", route.name);
        let variables = route.variables().map(|place| place.field.json_name().to_owned());
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let in_path = parameters.filter(|parameter| parameter["in"] == "path");
        let in_path: Vec<_> = in_path.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect();
        assert_eq!(in_path, variables.collect::<Vec<_>>(), "{}", route.name);
        for required in &route.required {
            assert!(route.query.iter().any(|place| place.is_named(required)), "{}: {required}", route.name);
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let (document, mut followed) = (json(), 0);
    objects(&document, String::new(), &mut |place, object| {
        if let Some(to) = object.get("$ref").and_then(Json::as_str) {
            assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{place}: {to}");
            followed += 1;
        }
    });
    assert!(followed > 100, "{followed}");
}

#[test]
fn every_component_is_referred_to() {
    let (document, mut named) = (json(), BTreeSet::new());
    objects(&document, String::new(), &mut |_, object| {
        named.extend(object.get("$ref").and_then(Json::as_str).map(str::to_owned));
    });
    for kind in ["schemas", "headers"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(named.contains(&format!("#/components/{kind}/{name}")), "nothing refers to {kind}/{name}");
        }
    }
}

#[test]
fn every_refusal_of_a_comment_is_an_answer() {
    let document = json();
    for route in table().routes() {
        let operation = &document["paths"][&route.path][route.method.as_str().to_ascii_lowercase()];
        let told = comments::comment(route.rpc.parent_file().file_descriptor_proto(), route.rpc.path());
        let errors = comments::errors(&told);
        // Each comment names its own: one that says "as another" would be read as none.
        assert_eq!(errors.is_empty(), !told.contains("Errors"), "{}: {told}", route.name);
        for reason in errors.into_values().flatten() {
            let status = problem::http_status(code_of(reason), reason_name(reason));
            assert!(operation["responses"].get(status.as_str()).is_some(), "{}: {status}", route.name);
        }
    }
}

/// Every reason has a status that is described, and stands in that description.
#[test]
fn every_reason_is_described() {
    let document = json();
    let responses = document["components"]["responses"].as_object().unwrap();
    for reason in comments::reasons() {
        let named = format!("\n- `{}`: ", reason_name(reason));
        let told = responses.values().filter(|of| of["description"].as_str().unwrap().contains(&named)).count();
        assert_eq!(told, 1, "{}", reason_name(reason));
    }
}

#[test]
fn no_secret_is_in_a_url() {
    objects(&json(), String::new(), &mut |place, object| {
        let name = object.get("name").and_then(Json::as_str).unwrap_or_default();
        let in_url = object["in"] == "query" || object["in"] == "path";
        assert!(!in_url || !name.to_ascii_lowercase().contains("leasetoken"), "{place}: {name}");
    });
}

#[test]
fn what_is_for_later_is_left_out() {
    let document = json();
    let put = &document["paths"]["/v1/namespaces/{namespace}/services/{service}/instances/{id}"]["put"];
    let body = &put["requestBody"]["content"]["application/json"]["schema"]["properties"];
    assert!(body.get("ttl").is_some() && body.get("exclusiveUrl").is_some());
    assert!(body["instance"]["properties"].get("service").is_none(), "it is in the path");
}

#[test]
fn it_is_the_same_each_time() {
    let text = || serde_json::to_string(&document(&table())).unwrap();
    assert_eq!(text(), text());
}
