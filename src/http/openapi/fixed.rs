//! What the server answers that no proto describes, written out one by one: probes, metrics, targets, this document and
//! its page.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::json;

use super::{
    answers,
    model::{Additional, Header, Media, Operation, Ordered, Parameter, Response, Schema, Tag},
    schema::Schemas,
};
use crate::http::{pages, prometheus};

const OPERATION: &str = "Operation";
const DESCRIPTION: &str = "Description";

/// Bodies of one answer, by their media types.
type Content = BTreeMap<&'static str, Media>;

/// Adds the paths and their tags.
pub fn add(paths: &mut Ordered<Ordered<Operation>>, tags: &mut Vec<Tag>, schemas: &mut Schemas) {
    let report = schemas.add("Report", report());
    let probe = |name, summary, description| probe(name, summary, description, &report);
    let live = "The process answers, and the task that owns the state has its turns. Restart it if not.";
    let ready = "What is kept has been read, calls are answered, and changes can be committed.";
    for (path, operation) in [
        ("/healthz", probe("getHealth", "Ask whether the server lives", live)),
        ("/readyz", probe("getReadiness", "Ask whether everything can be served", ready)),
        ("/metrics", metrics()),
        (prometheus::PATH, targets()),
        (pages::DOCUMENT, document()),
        (pages::PAGE, page()),
    ] {
        paths.entry(path).push("get", operation);
    }
    let moved =
        "For who operates it. Where the server has `ops_listen`, probes and metrics are there, and not on this port.";
    for (name, description) in [(OPERATION, moved), (DESCRIPTION, "What describes the API.")] {
        tags.push(Tag { name: name.to_owned(), description: description.to_owned() });
    }
}

fn operation(tag: &str, name: &str, summary: &str, description: &str) -> Operation {
    Operation {
        operation_id: name.to_owned(),
        tags: vec![tag.to_owned()],
        summary: summary.to_owned(),
        description: description.to_owned(),
        responses: answers::fixed(&[]),
        ..Operation::default()
    }
}

fn response(description: &str, content: Content, headers: &[&'static str]) -> Response {
    let headers = headers.iter().map(|name| (*name, Header::named(name))).collect();
    Response { description: description.to_owned(), headers, content, ..Response::default() }
}

fn probe(name: &str, summary: &str, description: &str, report: &Schema) -> Operation {
    let content = |ok: bool| {
        let detail = if ok { "a turn took 31.2µs" } else { "no turn within 1s" };
        let example = json!({"ok": ok, "checks": [{"name": "task", "ok": ok, "detail": detail}]});
        Content::from([(answers::JSON, Media { schema: report.clone(), example: Some(example) })])
    };
    let mut probe = operation(OPERATION, name, summary, description);
    probe.responses = answers::fixed(&[StatusCode::NOT_FOUND]);
    probe.responses.insert("200".to_owned(), response("All is well.", content(true), &[]));
    let failed = response("A check failed.", content(false), &["Retry-After"]);
    probe.responses.insert("503".to_owned(), failed);
    probe
}

fn report() -> Schema {
    let text = |description: &str| Schema::of("string").described(description);
    let check = [
        ("name", text("What was looked at.")),
        ("ok", Schema::of("boolean").described("Whether it is well.")),
        ("detail", text("What was seen, for people.")),
    ];
    let checks = Schema { items: Some(Box::new(object(check))), ..Schema::of("array").described("Each check.") };
    let ok = Schema::of("boolean").described("Whether all of them are well.");
    object([("ok", ok), ("checks", checks)]).described("The answer of a probe.")
}

/// Of members that are always there.
fn object<const N: usize>(members: [(&str, Schema); N]) -> Schema {
    Schema {
        required: members.iter().map(|(name, _)| (*name).to_owned()).collect(),
        properties: members.into_iter().map(|(name, of)| (name.to_owned(), of)).collect(),
        ..Schema::of("object")
    }
}

/// A parameter that may be left out.
fn given(place: &'static str, name: &str, description: &str, schema: Schema) -> Parameter {
    let (name, description) = (name.to_owned(), description.to_owned());
    Parameter { name, place, description, required: false, schema, example: None }
}

fn metrics() -> Operation {
    let description = "Every metric of the server, as text for Prometheus, or as OpenMetrics for whom accepts it.";
    let mut metrics = operation(OPERATION, "getMetrics", "Read the metrics", description);
    let text = |example: &str| Media { schema: Schema::of("string"), example: Some(json!(example)) };
    let lines = "# TYPE onair_instances gauge\nonair_instances 1\n";
    let content = Content::from([
        ("text/plain", text(lines)),
        ("application/openmetrics-text", text(&format!("{lines}# EOF\n"))),
    ]);
    metrics.responses = answers::fixed(&[StatusCode::NOT_FOUND]);
    metrics.responses.insert("200".to_owned(), response("The metrics.", content, &[]));
    metrics
}

/// Prometheus' HTTP service discovery.
fn targets() -> Operation {
    let description = "What is registered, as Prometheus discovers it: a group of one target for each instance. Variables \
                       mean what they mean to a lookup. A list that cannot be completed in time breaks off.";
    let mut targets = operation(OPERATION, "getTargets", "List the targets of Prometheus", description);
    let text = || Schema::of("string");
    let query = [
        ("namespace", "The namespace; `*` for all; left out: `default`.", Schema::named("OptionalName")),
        ("service", "The service; left out: all of the namespace.", Schema::named("OptionalName")),
        ("version", "A version or a range of them.", text()),
        ("selector", "What it has to be like.", text()),
        (
            "port",
            "The name of one of its ports; without one the main port. Who has no such port is left out.",
            Schema { min_length: Some(1), ..text() },
        ),
    ];
    targets.parameters = query.map(|(name, description, schema)| given("query", name, description, schema)).into();
    let interval = "Seconds that the answer may take, 1 to 3,600; 60 without it, or if it is no number.";
    targets.parameters.push(given("header", prometheus::INTERVAL, interval, text()));
    let labels = Schema { additional_properties: Some(Additional::Each(Box::new(text()))), ..Schema::of("object") };
    let list = Schema { items: Some(Box::new(text())), ..Schema::of("array") };
    let group = object([
        ("targets", list.described("The target: host and port.")),
        ("labels", labels.described("What is known of it, by names that begin with `__meta_onair_`.")),
    ]);
    let schema = Schema { items: Some(Box::new(group)), ..Schema::of("array") };
    let labels =
        json!({"__meta_onair_namespace": "default", "__meta_onair_service": "web", "__meta_onair_id": "web-1"});
    let example = Some(json!([{"targets": ["127.0.0.1:8000"], "labels": labels}]));
    targets.responses = answers::of_calls();
    let content = Content::from([(answers::JSON, Media { schema, example })]);
    targets.responses.insert("200".to_owned(), response("The targets.", content, &[]));
    targets
}

fn document() -> Operation {
    let description = "This document. It is the same until the server is replaced by another version.";
    let document = operation(DESCRIPTION, "getDocument", "Get this document", description);
    kept(document, answers::JSON, Schema::of("object"))
}

fn page() -> Operation {
    let description = "This document as a page for people, without scripts.";
    let page = operation(DESCRIPTION, "getDocumentPage", "Read this document", description);
    kept(page, "text/html", Schema::of("string"))
}

/// What is answered with a tag, or not at all to whom has it.
fn kept(mut operation: Operation, kind: &'static str, schema: Schema) -> Operation {
    let content = Content::from([(kind, Media { schema, example: None })]);
    let all = response(&operation.description, content, &["ETag"]);
    let unchanged = response("It is one that `If-None-Match` names.", Content::new(), &["ETag"]);
    operation.responses.extend([("200".to_owned(), all), ("304".to_owned(), unchanged)]);
    let tag = given("header", "If-None-Match", "The `ETag` of the one that you have.", Schema::of("string"));
    operation.parameters.push(tag);
    operation
}

/// The headers that answers share.
pub fn headers() -> BTreeMap<String, Header> {
    let header = |description: &str, schema: Schema| Header {
        description: description.to_owned(),
        schema: Some(schema),
        ..Header::default()
    };
    let seconds = Schema { minimum: Some(0), ..Schema::of("integer") };
    [
        ("Retry-After", header("After so many seconds another try makes sense.", seconds)),
        ("ETag", header("What this is known by.", Schema::of("string"))),
    ]
    .map(|(name, header)| (name.to_owned(), header))
    .into()
}
