//! What the server answers that no proto describes, written out one by one: probes, metrics, this document and its page.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::json;

use super::{
    answers,
    model::{Header, Media, Operation, Ordered, Parameter, Response, Schema, Tag},
    schema::Schemas,
};
use crate::http::pages;

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
        (pages::DOCUMENT, document()),
        (pages::PAGE, page()),
    ] {
        paths.entry(path).push("get", operation);
    }
    let moved = "Probes and metrics. Where the server has `ops_listen`, they are there, and not on this port.";
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
    let object = |members: Ordered<Schema>| Schema {
        required: members.iter().map(|(name, _)| name.clone()).collect(),
        properties: members,
        ..Schema::of("object")
    };
    let check = object(check.map(|(name, of)| (name.to_owned(), of)).into_iter().collect());
    let checks = Schema { items: Some(Box::new(check)), ..Schema::of("array").described("Each check.") };
    let ok = Schema::of("boolean").described("Whether all of them are well.");
    let members = [("ok", ok), ("checks", checks)].map(|(name, of)| (name.to_owned(), of));
    object(members.into_iter().collect()).described("The answer of a probe.")
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
    operation.parameters.push(Parameter {
        name: "If-None-Match".to_owned(),
        place: "header",
        description: "The `ETag` of the one that you have.".to_owned(),
        required: false,
        schema: Schema::of("string"),
        example: None,
    });
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
