//! What the server answers that no proto describes, written out one by one: this document and the page of it.

use std::collections::BTreeMap;

use super::{
    answers,
    model::{Header, Media, Operation, Ordered, Parameter, Response, Schema, Tag},
};
use crate::http::pages;

/// Adds the paths and their tag.
pub fn add(paths: &mut Ordered<Ordered<Operation>>, tags: &mut Vec<Tag>) {
    let document = "This document. It is the same until the server is replaced by another version.";
    let document = kept("getDocument", "Get this document", document, (answers::JSON, Schema::of("object")));
    let page = "This document as a page for people, without scripts.";
    let page = kept("getDocumentPage", "Read this document", page, ("text/html", Schema::of("string")));
    paths.entry(pages::DOCUMENT).push("get", document);
    paths.entry(pages::PAGE).push("get", page);
    let description = "What describes the API.".to_owned();
    tags.push(Tag { name: DESCRIPTION.to_owned(), description });
}

const DESCRIPTION: &str = "Description";

/// What is answered with a tag, or not at all to whom has it.
fn kept(name: &str, summary: &str, description: &str, (kind, schema): (&'static str, Schema)) -> Operation {
    let mut responses = answers::fixed();
    let headers = BTreeMap::from([("ETag", Header::named("ETag"))]);
    let content = BTreeMap::from([(kind, Media { schema, example: None })]);
    let description = description.to_owned();
    let known = "It is the one that `If-None-Match` names.".to_owned();
    let unchanged = Response { description: known, headers: headers.clone(), ..Response::default() };
    responses.insert("304".to_owned(), unchanged);
    responses.insert(
        "200".to_owned(),
        Response { description: description.clone(), headers, content, ..Response::default() },
    );
    let tag = Parameter {
        name: "If-None-Match".to_owned(),
        place: "header",
        description: "The `ETag` of the one that you have.".to_owned(),
        required: false,
        schema: Schema::of("string"),
        example: None,
    };
    Operation {
        operation_id: name.to_owned(),
        tags: vec![DESCRIPTION.to_owned()],
        summary: summary.to_owned(),
        description,
        parameters: vec![tag],
        request_body: None,
        responses,
    }
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
