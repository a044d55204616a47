//! Each route of the table as an operation: what it takes, where, and what it may answer. Nothing here is about one RPC.

use std::collections::BTreeMap;

use prost_reflect::MessageDescriptor;
use serde_json::Value as Json;

use super::{
    answers::{self, JSON},
    comments::comment,
    model::{Media, Operation, Parameter, RequestBody, Response, Schema},
    rules::{example, example_of, rules},
    schema::{Schemas, Way},
};
use crate::http::{
    routes::{Body, Place, Route},
    watches::EVENTS,
};

/// The operation that a route is.
pub fn operation(route: &Route, schemas: &mut Schemas) -> Operation {
    let description = comment(route.rpc.parent_file().file_descriptor_proto(), route.rpc.path());
    let whole = example(&route.rpc.input(), Way::In).unwrap_or_default();
    let mut responses = answers::errors(route, &description);
    responses.insert("200".to_owned(), answer(route, schemas));
    Operation {
        operation_id: route.name.clone(),
        tags: vec![route.rpc.parent_service().name().to_owned()],
        summary: route.summary.clone(),
        description,
        parameters: parameters(route, &whole, schemas),
        request_body: body(route, &whole, schemas),
        responses,
    }
}

/// What a route answers when all is well.
fn answer(route: &Route, schemas: &mut Schemas) -> Response {
    let reply = route.reply();
    let description = comment(reply.parent_file_descriptor_proto(), reply.path());
    let media = Media { schema: schemas.answer(&reply), example: example(&reply, Way::Out) };
    let mut content = BTreeMap::from([(JSON, media)]);
    if route.rpc.is_server_streaming() {
        content.insert(EVENTS, events(&route.rpc.output()));
    }
    Response { description, content, ..Response::default() }
}

/// A stream of messages as server-sent events.
fn events(message: &MessageDescriptor) -> Media {
    let description = format!(
        "Server-sent events. The data of each is a `{}` on one line; its id, where it has one, is where a stream that \
         breaks goes on, if it is sent back as `Last-Event-ID`. A comment with an id is a bookmark; the last comment \
         says why the stream ends.",
        message.name()
    );
    let data = example(message, Way::Out).unwrap_or_default();
    let id = data["resumeToken"].as_str().map_or_else(String::new, |token| format!("id: {token}\n"));
    let example = format!("retry: 873\n\ndata: {data}\n{id}\n");
    Media { schema: Schema::of("string").described(description), example: Some(example.into()) }
}

fn parameters(route: &Route, whole: &Json, schemas: &mut Schemas) -> Vec<Parameter> {
    let path = route.variables().map(|place| ("path", place.field.json_name(), place));
    let query = route.query.iter().map(|place| ("query", place.field.json_name(), place));
    let headers = route.headers.iter().chain(&route.overrides);
    let headers = headers.map(|(name, place)| ("header", name.as_str(), place));
    let mut parameters = Vec::new();
    for (kind, name, place) in path.chain(query).chain(headers) {
        if rules(&place.field).later {
            continue;
        }
        let mut schema =
            if kind == "path" { schemas.variable(&place.field) } else { schemas.field(&place.field, Way::In) };
        let description = std::mem::take(&mut schema.description);
        let required = kind == "path" || route.required.iter().any(|name| place.is_named(name));
        if required {
            schema.default = None;
        }
        let example = match kind {
            "header" => None,
            _ if required && schema.kind == Some("boolean") => Some(Json::Bool(true)),
            _ => value_at(whole, place).or_else(|| required.then(|| example_of(&place.field)).flatten()),
        };
        parameters.push(Parameter { name: name.to_owned(), place: kind, description, required, schema, example });
    }
    parameters
}

/// The value that the example of a whole request has at a place.
fn value_at(whole: &Json, place: &Place) -> Option<Json> {
    let holder = match &place.within {
        None => Some(whole),
        Some(within) => {
            whole.get(within.json_name()).and_then(|value| if within.is_list() { value.get(0) } else { Some(value) })
        }
    };
    holder?.get(place.field.json_name()).cloned()
}

fn body(route: &Route, whole: &Json, schemas: &mut Schemas) -> Option<RequestBody> {
    let input = route.rpc.input();
    let (schema, example, description) = match &route.body {
        Body::None => return None,
        Body::Whole => {
            let elsewhere: Vec<_> = route.variables().chain(route.headers.iter().map(|(_, place)| place)).collect();
            let mut example = whole.clone();
            elsewhere.iter().for_each(|place| remove(&mut example, place));
            let paths: Vec<_> = elsewhere.iter().map(|place| place.name()).collect();
            let paths: Vec<_> = paths.iter().map(String::as_str).collect();
            let description = comment(input.parent_file_descriptor_proto(), input.path());
            (schemas.body(&input, &paths), Some(example), description)
        }
        Body::Field(field, of) => {
            let mut schema = schemas.field(field, Way::In);
            let mut example = whole.get(field.json_name()).cloned();
            if field.is_list() {
                schema = schema.items.map(|one| *one).unwrap_or_default();
                example = example.and_then(|list| list.get(0).cloned());
            }
            (schema, example, comment(of.parent_file_descriptor_proto(), of.path()))
        }
    };
    let content = BTreeMap::from([(JSON, Media { schema, example })]);
    Some(RequestBody { description, required: true, content })
}

fn remove(example: &mut Json, place: &Place) {
    let holder = match &place.within {
        None => Some(example),
        Some(within) => example.get_mut(within.json_name()),
    };
    if let Some(Json::Object(members)) = holder {
        members.remove(place.field.json_name());
    }
}
