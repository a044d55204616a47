//! What goes wrong, as responses: one for each HTTP status that a refusal can have, described by the reasons that lead to
//! it. Knows no route by name.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use prost_reflect::{DescriptorPool, EnumDescriptor};
use tonic::Code;

use super::{
    comments::{self, comment, reasons},
    model::{Additional, Header, Media, Ordered, Response, Schema},
    schema::Schemas,
};
use crate::{
    grpc::status::{Reason, code_name, code_of, reason_name},
    http::{
        problem,
        routes::{Body, Route},
    },
};

/// The type of every answer that is not a problem or a stream.
pub const JSON: &str = "application/json";
/// The type of every problem.
pub const PROBLEM: &str = "application/problem+json";

/// What any request may be refused with, whatever it is for.
const OF_ANY: [Reason; 5] =
    [Reason::Invalid, Reason::HostNotAllowed, Reason::Internal, Reason::Unauthenticated, Reason::Permission];
/// What a request of the API may be as well.
const OF_ROUTES: [Reason; 8] = [
    Reason::NotAcceptable,
    Reason::UnsupportedMediaType,
    Reason::Limit,
    Reason::Quota,
    Reason::Overloaded,
    Reason::StoreUnavailable,
    Reason::ShuttingDown,
    Reason::Deadline,
];
/// What one with variables in its path may be: an empty one makes it another path.
const OF_PATHS: [Reason; 1] = [Reason::NoRoute];
/// What one with a body may be.
const OF_BODIES: [Reason; 2] = [Reason::SlowBody, Reason::TooLarge];

/// The refusals that a route may answer, by status: what its RPC's comment names, and what its shape brings with it.
pub fn errors(route: &Route, comment: &str) -> BTreeMap<String, Response> {
    let named = comments::errors(comment).into_iter().flat_map(|(code, reasons)| {
        let plain = reasons.is_empty().then(|| problem::http_status(Code::from_i32(code), ""));
        reasons.into_iter().map(status_of).chain(plain)
    });
    let of_path = OF_PATHS.iter().filter(|_| route.variables().next().is_some());
    let of_body = OF_BODIES.iter().filter(|_| !matches!(route.body, Body::None));
    let shaped = OF_ANY.iter().chain(&OF_ROUTES).chain(of_path).chain(of_body).copied().map(status_of);
    references(named.chain(shaped))
}

/// The refusals that what no proto describes may answer: those of any request, and further ones.
pub fn fixed(further: &[StatusCode]) -> BTreeMap<String, Response> {
    references(OF_ANY.into_iter().map(status_of).chain(further.iter().copied()))
}

/// The same where the answer is made of calls.
pub fn of_calls() -> BTreeMap<String, Response> {
    references(OF_ANY.into_iter().chain(OF_ROUTES).map(status_of))
}

fn references(statuses: impl Iterator<Item = StatusCode>) -> BTreeMap<String, Response> {
    let statuses: BTreeSet<_> = statuses.chain([StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE]).collect();
    let reference = |status| Response { reference: Some(reference(status)), ..Response::default() };
    statuses.into_iter().map(|status| (status.as_str().to_owned(), reference(status))).collect()
}

fn status_of(reason: Reason) -> StatusCode {
    problem::http_status(code_of(reason), reason_name(reason))
}

fn name(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or("Other").replace([' ', '-'], "")
}

/// Where a refusal is described.
fn reference(status: StatusCode) -> String {
    format!("#/components/responses/{}", name(status))
}

/// Every refusal, by its name among the components. Adds the schemas that they need.
pub fn components(pool: &DescriptorPool, schemas: &mut Schemas) -> BTreeMap<String, Response> {
    let schema = schemas.add("Problem", problem_schema());
    let of_enum = pool.get_enum_by_name("onair.v1.ErrorReason");
    if let Some(of_enum) = &of_enum {
        schemas.add("ErrorReason", reason_schema(of_enum));
    }
    let mut by_status = BTreeMap::<StatusCode, Vec<Reason>>::new();
    for reason in reasons() {
        by_status.entry(status_of(reason)).or_default().push(reason);
    }
    let mut responses: BTreeMap<_, _> = by_status
        .into_iter()
        .map(|(status, reasons)| (name(status), refusal(status, &reasons, of_enum.as_ref(), schema.clone())))
        .collect();
    let too_long =
        "The headers are larger than `max_header_bytes`, or there are more than 100. This answer has no body.";
    let too_long = Response { description: too_long.to_owned(), ..Response::default() };
    responses.insert(name(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), too_long);
    responses
}

/// The response of one status.
fn refusal(status: StatusCode, reasons: &[Reason], of_enum: Option<&EnumDescriptor>, schema: Schema) -> Response {
    let told = reasons.iter().map(|reason| format!("\n- `{}`: {}", reason_name(*reason), told(of_enum, *reason)));
    let title = status.canonical_reason().unwrap_or("Another status");
    let retried = reasons.iter().any(|reason| matches!(code_of(*reason), Code::Unavailable | Code::ResourceExhausted));
    let headers = retried.then(|| ("Retry-After", Header::named("Retry-After")));
    Response {
        description: format!("{title}. The reasons are:\n{}", told.collect::<String>()),
        headers: headers.into_iter().collect(),
        content: BTreeMap::from([(PROBLEM, Media { schema, example: None })]),
        ..Response::default()
    }
}

/// What a reason means, without the code or status that its comment begins with.
fn told(of_enum: Option<&EnumDescriptor>, reason: Reason) -> String {
    let value = of_enum.and_then(|of_enum| of_enum.get_value(reason as i32));
    let text = value.map(|value| comment(value.parent_enum().parent_file_descriptor_proto(), value.path()));
    let text = text.unwrap_or_default().replace('\n', " ");
    text.split_once(": ").map_or(text.clone(), |(_, rest)| rest.to_owned())
}

fn reason_schema(of_enum: &EnumDescriptor) -> Schema {
    let told = reasons().map(|reason| format!("\n- `{}`: {}", reason_name(reason), told(Some(of_enum), reason)));
    let description = format!("Why a request was refused, for programs.\n{}", told.collect::<String>());
    let values = reasons().map(|reason| reason_name(reason).to_owned()).collect();
    Schema { values, ..Schema::of("string").described(description) }
}

/// The body of every refusal, as `problem` writes it.
fn problem_schema() -> Schema {
    let text = |description: &str| Schema::of("string").described(description);
    let object = |properties: Ordered<Schema>| Schema { properties, ..Schema::of("object") };
    let violation = [
        ("field", text("Which field, as the proto names it: `instance.ports[\"admin\"]`.")),
        ("description", text("What is wrong with it.")),
    ];
    let resource = [
        ("type", text("The message that it is.")),
        ("name", text("Its key: `default/web/web-1`.")),
        ("description", text("What is with it.")),
    ];
    let ordered = |members: Vec<(&str, Schema)>| members.into_iter().map(|(name, of)| (name.to_owned(), of)).collect();
    let metadata = Schema {
        additional_properties: Some(Additional::Each(Box::new(Schema::of("string")))),
        ..Schema::of("object").described("Facts for programs: `limit`, `maximum` and `usage` of a limit, for instance.")
    };
    let violations = Schema {
        items: Some(Box::new(object(ordered(violation.into())))),
        ..Schema::of("array").described("Everything that is wrong with the request.")
    };
    let precondition = [
        ("type", text("The reason.")),
        ("subject", text("What is not as it has to be: `api@^2.0`, of a dependency.")),
        ("description", text("How it is.")),
    ];
    let preconditions = Schema {
        items: Some(Box::new(object(ordered(precondition.into())))),
        ..Schema::of("array").described("Everything that is not there yet: each missing dependency.")
    };
    let quota = [
        ("subject", text("Whose it is: `namespace:team-a` or `principal:token:ci`.")),
        ("quota", text("Which of the `Quotas`.")),
        ("maximum", Schema { format: Some("int64"), ..Schema::of("integer").described("Its value.") }),
        ("description", text("What is used of it, and how much more would be needed.")),
    ];
    let quotas = Schema {
        items: Some(Box::new(object(ordered(quota.into())))),
        ..Schema::of("array").described("Every quota that is in the way.")
    };
    let codes = (1..=16).map(|code| code_name(Code::from_i32(code)).to_owned()).collect();
    let properties = vec![
        ("type", text("`about:blank`: the title says it.")),
        ("title", text("The HTTP status in words.")),
        ("status", Schema { format: Some("int32"), ..Schema::of("integer").described("The HTTP status.") }),
        ("detail", text("What went wrong, for people.")),
        ("code", Schema { values: codes, ..text("The canonical code that the call has over gRPC.") }),
        ("reason", Schema::named("ErrorReason")),
        ("domain", text("Whose reason it is: `onair`.")),
        ("metadata", metadata),
        ("violations", violations),
        ("quotas", quotas),
        ("preconditions", preconditions),
        ("resource", object(ordered(resource.into())).described("What it is about.")),
        ("retryAfter", text("How long to wait before another try, in seconds: `0.250s`.")),
    ];
    Schema {
        required: ["type", "title", "status", "detail"].map(str::to_owned).into(),
        ..object(ordered(properties)).described("A refusal (RFC 9457), with what gRPC's error details have.")
    }
}
