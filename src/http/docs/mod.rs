//! A page of the OpenAPI document for people, made by the server: no scripts, nothing from elsewhere. Knows nothing of
//! routes beyond the document.

mod prose;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minijinja::{
    AutoEscape, Environment, context,
    value::{Serde, Value},
};
use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::{
    compose,
    curl::Curl,
    openapi::model::{Document, Operation, Tag},
};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// What stands for the server in examples.
const SERVER: &str = "http://127.0.0.1:6624";

/// The page.
#[must_use]
pub fn page(document: &Document) -> String {
    // The template is ours, and tested: that it cannot be rendered is a fault of the build.
    render(document).unwrap_or_else(|error| format!("the page cannot be made: {}", prose::escaped(&error.to_string())))
}

/// What the page may do: look as its own style says, and nothing else.
#[must_use]
pub fn policy() -> String {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}

#[derive(Serialize)]
struct Group<'a> {
    tag: &'a Tag,
    operations: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    method: &'a str,
    path: &'a str,
    operation: &'a Operation,
    curl: String,
}

fn render(document: &Document) -> Result<String, minijinja::Error> {
    let groups: Vec<_> = document.tags.iter().map(|tag| group(document, tag)).collect();
    let groups = Value::from(Serde(groups));
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("prose", |text: String| Value::from_safe_string(prose::blocks(&text)));
    environment.add_filter("code", |text: String| Value::from_safe_string(prose::inline(&text)));
    environment.add_filter("json", |value: Value| serde_json::to_string(&value).unwrap_or_default());
    environment.add_filter("pretty", |value: Value| serde_json::to_string_pretty(&value).unwrap_or_default());
    environment.add_template("page", TEMPLATE)?;
    let style = Value::from_safe_string(STYLE.to_owned());
    environment.get_template("page")?.render(context! { doc => Value::from(Serde(document)), groups, style })
}

fn group<'a>(document: &'a Document, tag: &'a Tag) -> Group<'a> {
    let all =
        document.paths.iter().flat_map(|(path, methods)| methods.iter().map(move |(method, of)| (path, method, of)));
    let of_tag = all.filter(|(_, _, operation)| operation.tags.contains(&tag.name));
    let shown = of_tag.map(|(path, method, operation)| Shown {
        method,
        path,
        operation,
        curl: example(path, method, operation).to_string(),
    });
    Group { tag, operations: shown.collect() }
}

/// The example of an operation, as a command.
fn example(path: &str, method: &str, operation: &Operation) -> Curl {
    let (mut target, mut headers) = (path.to_owned(), Vec::new());
    for parameter in operation.parameters.iter().filter(|parameter| parameter.required) {
        let text = match &parameter.example {
            Some(Json::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        if parameter.place == "path" {
            target = target.replace(&format!("{{{}}}", parameter.name), &compose::segment(&text));
        } else {
            let join = if target.contains('?') { '&' } else { '?' };
            target = format!("{target}{join}{}={}", parameter.name, compose::variable(&text));
        }
    }
    let body = operation.request_body.as_ref().and_then(|body| body.content.iter().next());
    headers.extend(body.map(|(kind, _)| ("Content-Type".to_owned(), (*kind).to_owned())));
    let body = body.and_then(|(_, media)| media.example.as_ref()).map(ToString::to_string);
    Curl { method: method.to_ascii_uppercase(), url: format!("{SERVER}{target}"), headers, body, ..Curl::default() }
}
