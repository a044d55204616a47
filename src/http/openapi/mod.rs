//! The OpenAPI document, made once of the descriptors with their comments and of the table of routes. What the protos do
//! not describe is in `fixed`. Knows no RPC by name.

mod answers;
mod comments;
mod fixed;
pub(in crate::http) mod model;
mod operations;
pub(in crate::http) mod rules;
mod schema;

use crate::http::routes::Table;
use model::{Components, Document, Info, License, Ordered, Server, Tag};
use schema::Schemas;

/// What a reader has to know before the first call.
const ABOUT: &str = "\
Services register with a lease and keep it by heartbeat; anyone looks them up, or watches and is told, in order and \
without gaps, who came online, changed, or went offline.

Bodies are the canonical JSON of the protobuf messages: 64-bit numbers are strings, durations are seconds like `1.5s`, \
fields that have their default value are left out of answers, and answers may get new fields in a later version. \
Variables of a query have the names of the fields, as here or with underscores. Unknown fields, unknown variables and \
duplicate keys are refused.

Every refusal is a `Problem` with a machine-readable reason and all violations at once. Lease tokens are secrets: they \
stand in bodies and headers, never in a URL.";

/// The example of a request message, made whole.
#[cfg(test)]
pub(crate) fn example_of_request(message: &prost_reflect::MessageDescriptor) -> Option<serde_json::Value> {
    rules::example(message, schema::Way::In)
}

/// The document of a table.
#[must_use]
pub fn document(table: &Table) -> Document {
    let mut schemas = Schemas::default();
    // What comes back first, so that what is sent as well gets a name of its own.
    for route in table.routes() {
        schemas.answer(&route.reply());
        schemas.answer(&route.rpc.output());
    }
    let mut paths = Ordered::<Ordered<_>>::default();
    let mut tags = Vec::<Tag>::new();
    for route in table.routes() {
        let operation = operations::operation(route, &mut schemas);
        let service = route.rpc.parent_service();
        if !tags.iter().any(|tag| tag.name == service.name()) {
            let description = comments::comment(service.parent_file_descriptor_proto(), service.path());
            tags.push(Tag { name: service.name().to_owned(), description });
        }
        paths.entry(&route.path).push(route.method.as_str().to_ascii_lowercase(), operation);
    }
    fixed::add(&mut paths, &mut tags, &mut schemas);
    let responses = answers::components(table.pool(), &mut schemas);
    Document {
        openapi: "3.1.0",
        info: Info {
            title: "onair",
            version: env!("CARGO_PKG_VERSION"),
            summary: "A service registry: leases, lookups, and watches without gaps.",
            description: ABOUT.to_owned(),
            license: License { name: "Apache License 2.0", identifier: "Apache-2.0" },
        },
        servers: vec![Server { url: "/", description: "The server that gives this document." }],
        tags,
        paths,
        components: Components { schemas: schemas.finish(), responses, headers: fixed::headers() },
    }
}

#[cfg(test)]
mod tests;
