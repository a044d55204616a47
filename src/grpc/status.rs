//! Refusals as gRPC statuses: a canonical code, a sentence, and `google.rpc` details for programs.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use tonic::{
    Code, Status,
    body::Body,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, QuotaViolation, StatusExt};

use super::catalog::REPLY_BYTES_MAX;
use crate::registry::{Error, Exceeded, Violation, Whose};
pub use crate::{proto::ErrorReason as Reason, text::code_name};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "onair";
/// The reason, as metadata of the status.
pub const REASON: &str = "onair-reason";
/// Where the process is that has the key, as metadata of the status.
pub const HOLDER: &str = "onair-holder";
/// When to come back, in milliseconds, as metadata of the status: clients that are set to try again obey it (gRFC A6).
pub const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Most bytes of violations in an error's details, which travel base64-encoded in a header.
const VIOLATIONS_BYTES_MAX: usize = 3 * 1024;
/// Most bytes of an error's sentence, which travels percent-encoded in a header.
const SENTENCE_BYTES_MAX: usize = 512;
/// What each of those that are missing lacks.
const ABSENT: &str = "no routable instance";
/// When a call that found no room makes sense again.
const RETRY_SOON: Duration = Duration::from_millis(250);
/// When a call to a store that is away makes sense again.
const RETRY_STORE: Duration = Duration::from_secs(1);
/// When a call makes sense again that is refused for what somebody has, which is not a matter of time.
const RETRY_QUOTA: Duration = Duration::from_secs(5);

/// How a call ends, behind its messages. What a status says of ours can stand in headers.
pub(super) fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

/// The reason as it stands in `ErrorInfo`: without the enum's prefix.
#[must_use]
pub fn reason_name(reason: Reason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

/// The reason that a status has.
#[must_use]
pub fn reason_of(status: &Status) -> Reason {
    let info = status.get_details_error_info();
    let named = |info: tonic_types::ErrorInfo| Reason::from_str_name(&format!("ERROR_REASON_{}", info.reason));
    info.and_then(named).unwrap_or_default()
}

/// The code that goes with a reason.
#[must_use]
pub fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::Unspecified | Reason::Internal => Code::Internal,
        Reason::Invalid | Reason::TooDeep | Reason::Malformed => Code::InvalidArgument,
        Reason::NotAcceptable | Reason::UnsupportedMediaType => Code::InvalidArgument,
        Reason::TooLarge | Reason::Limit | Reason::Overloaded | Reason::Quota => Code::ResourceExhausted,
        Reason::NotFound | Reason::NoRoute => Code::NotFound,
        Reason::KeyHeld | Reason::AlreadyExists => Code::AlreadyExists,
        Reason::Superseded | Reason::Repeated | Reason::StaleRevision => Code::Aborted,
        Reason::LeaseDenied | Reason::Permission | Reason::HostNotAllowed | Reason::OriginNotAllowed => {
            Code::PermissionDenied
        }
        Reason::RevisionAhead
        | Reason::MissingDependency
        | Reason::NotReady
        | Reason::MissingBackend
        | Reason::InUse
        | Reason::NothingBefore => Code::FailedPrecondition,
        Reason::StoreUnavailable | Reason::ShuttingDown => Code::Unavailable,
        Reason::Deadline | Reason::SlowBody => Code::DeadlineExceeded,
        Reason::NotSupported | Reason::MethodNotAllowed => Code::Unimplemented,
        Reason::Unauthenticated => Code::Unauthenticated,
    }
}

/// A status that has nothing to add to its reason.
#[must_use]
pub fn plain(reason: Reason, sentence: impl Into<String>) -> Status {
    refusal(reason, sentence, details(reason, []))
}

/// A request that breaks a rule in one place, which is no field of a message.
#[must_use]
pub fn invalid(place: &str, description: impl Into<String>) -> Status {
    Error::invalid(place, description).into()
}

/// A request for a host that is not this server; `names` are those that are.
#[must_use]
pub fn host_not_allowed(host: &str, names: &str) -> Status {
    let sentence = format!(
        "this server is not called `{host}`, but {names}: use one of these, or add the name to http_hosts if it leads here"
    );
    refusal(Reason::HostNotAllowed, sentence, details(Reason::HostNotAllowed, [("host", host.to_owned())]))
}

/// A request of another server's page.
#[must_use]
pub fn origin_not_allowed(origin: &str) -> Status {
    let sentence =
        format!("pages of `{origin}` may not call this server: add the origin to cors_origins if they are to");
    refusal(Reason::OriginNotAllowed, sentence, details(Reason::OriginNotAllowed, [("origin", origin.to_owned())]))
}

/// The caller's time is up while its call is under way.
#[must_use]
pub fn out_of_time() -> Status {
    let sentence = "the call's deadline passed while it was under way: what it asked for may still come to be";
    refusal(Reason::Deadline, sentence, deadline_details(true))
}

/// A call whose time was up before it was begun. Its headers are made once: of these there are most when there is least time.
pub(super) fn too_late() -> Response<Body> {
    static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
        let (headers, _) = Status::from(Error::Deadline).into_http::<Body>().into_parts();
        headers.headers
    });
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = HEADERS.clone();
    response
}

fn deadline_details(outcome_unknown: bool) -> ErrorDetails {
    details(Reason::Deadline, [("outcome_unknown", outcome_unknown.to_string())])
}

/// When to come back to a server that went away: 0.2 to 2 s, so that not all come at once.
#[must_use]
pub fn retry_delay() -> Duration {
    let mut jitter = [0; 2];
    // Without random numbers there is no spread, and still a right answer.
    let _ = getrandom::fill(&mut jitter);
    Duration::from_millis(200 + u64::from(u16::from_le_bytes(jitter)) * 1_800 / 65_536)
}

/// The server goes away: call again a little later, not all at once.
#[must_use]
pub fn shutting_down() -> Status {
    let mut details = details(Reason::ShuttingDown, []);
    details.set_retry_info(Some(retry_delay()));
    refusal(Reason::ShuttingDown, Error::ShuttingDown.to_string(), details)
}

/// A refusal with all that is said of it: in the details, and what a program decides by also where it can be read without
/// the types of `google.rpc`.
fn refusal(reason: Reason, sentence: impl Into<String>, details: ErrorDetails) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON, MetadataValue::from_static(reason_name(reason)));
    let holder = details.error_info().and_then(|info| info.metadata.get("holder"));
    // An address has nothing in it that a header may not have; without it the details have it.
    if let Some(holder) = holder.and_then(|holder| MetadataValue::try_from(holder.as_str()).ok()) {
        metadata.insert(HOLDER, holder);
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        metadata.insert(RETRY_PUSHBACK, millis.into());
    }
    Status::with_error_details_and_metadata(code_of(reason), sentence, details, metadata)
}

fn details<const N: usize>(reason: Reason, metadata: [(&str, String); N]) -> ErrorDetails {
    let metadata: HashMap<String, String> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    ErrorDetails::with_error_info(reason_name(reason), DOMAIN, metadata)
}

/// All violations, as long as they fit into the headers that clients accept (8 KiB in many of them); a last one says how
/// many did not.
fn with_violations(reason: Reason, violations: &[Violation]) -> ErrorDetails {
    let mut bytes = 0;
    let fits = |violation: &&Violation| {
        bytes += violation.field.len() + violation.description.len() + 8;
        bytes <= VIOLATIONS_BYTES_MAX
    };
    let mut told: Vec<FieldViolation> = violations
        .iter()
        .take_while(fits)
        .map(|violation| FieldViolation::new(&violation.field, &violation.description))
        .collect();
    if told.len() < violations.len() {
        let more = violations.len() - told.len();
        told.push(FieldViolation::new("", format!("{more} more violations are not listed")));
    }
    let mut details = details(reason, []);
    details.set_bad_request(told);
    details
}

/// The sentence of an error, cut where it would no longer fit into headers.
fn sentence(error: &Error) -> String {
    let mut text = error.to_string();
    if text.len() > SENTENCE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SENTENCE_BYTES_MAX));
        text.push('…');
    }
    text
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        // No `_` arm: a new error picks its reason before it compiles.
        let (reason, details) = match &error {
            Error::Invalid(violations) => (Reason::Invalid, with_violations(Reason::Invalid, violations)),
            Error::NotSupported(violations) => {
                (Reason::NotSupported, with_violations(Reason::NotSupported, violations))
            }
            Error::KeyHeld { key } => {
                (Reason::KeyHeld, instance(Reason::KeyHeld, key, "registered by another principal"))
            }
            Error::Fenced { key } => (Reason::KeyHeld, instance(Reason::KeyHeld, key, "registered with a lease token")),
            Error::Superseded { key, holder } => {
                let mut details = details(Reason::Superseded, [("holder", holder.clone())]);
                details.set_resource_info("onair.v1.Instance", key, "", "registered anew");
                (Reason::Superseded, details)
            }
            Error::NotFound { key } => (Reason::NotFound, instance(Reason::NotFound, key, "not registered")),
            Error::MissingDependency(missing) => {
                (Reason::MissingDependency, absent(Reason::MissingDependency, missing))
            }
            Error::NotReady { missing } => (Reason::NotReady, absent(Reason::NotReady, missing)),
            Error::Repeated { key } => {
                (Reason::Repeated, instance(Reason::Repeated, key, "registered by a newer call"))
            }
            Error::LeaseDenied => (Reason::LeaseDenied, details(Reason::LeaseDenied, [])),
            Error::Unauthenticated { .. } => (Reason::Unauthenticated, details(Reason::Unauthenticated, [])),
            Error::Permission { permission } => {
                (Reason::Permission, details(Reason::Permission, [("permission", (*permission).to_owned())]))
            }
            Error::RevisionAhead { revision, .. } => {
                (Reason::RevisionAhead, details(Reason::RevisionAhead, [("revision", revision.to_string())]))
            }
            Error::Limit { limit, maximum, usage } => (Reason::Limit, limited(Reason::Limit, limit, *maximum, *usage)),
            Error::Quota(exceeded) => (Reason::Quota, beyond_quotas(exceeded)),
            Error::Taken { kind, name, violation } => (Reason::AlreadyExists, taken(kind, name, violation)),
            Error::Needed { kind, name, sentence, by } => (Reason::InUse, needed(kind, name, sentence, by)),
            Error::AlreadyExists { kind, name } => (Reason::AlreadyExists, about(Reason::AlreadyExists, kind, name)),
            Error::NoSuch { kind, name } => (Reason::NotFound, about(Reason::NotFound, kind, name)),
            Error::MissingBackends(violations) => {
                (Reason::MissingBackend, with_violations(Reason::MissingBackend, violations))
            }
            Error::InUse { name, by } => (Reason::InUse, in_use("Backend", name, "frontends", by)),
            Error::StaleRevision { revision, .. } => {
                (Reason::StaleRevision, details(Reason::StaleRevision, [("revision", revision.to_string())]))
            }
            Error::NothingBefore { .. } => (Reason::NothingBefore, details(Reason::NothingBefore, [])),
            Error::Overloaded { maximum } => {
                (Reason::Overloaded, limited(Reason::Overloaded, "max_inbox", *maximum, *maximum))
            }
            Error::StoreUnavailable { outcome_unknown, .. } => {
                let unknown = [("outcome_unknown", outcome_unknown.to_string())];
                let mut details = details(Reason::StoreUnavailable, unknown);
                details.set_retry_info(Some(RETRY_STORE));
                (Reason::StoreUnavailable, details)
            }
            Error::ShuttingDown => return shutting_down(),
            Error::Deadline => (Reason::Deadline, deadline_details(false)),
        };
        refusal(reason, sentence(&error), details)
    }
}

/// Which instance it is about, and what became of that.
fn instance(reason: Reason, key: &str, description: &str) -> ErrorDetails {
    let mut details = details(reason, []);
    details.set_resource_info("onair.v1.Instance", key, "", description);
    details
}

/// What is missing, as `PreconditionFailure` names it: as many as fit, and how many they are.
fn absent(reason: Reason, missing: &[String]) -> ErrorDetails {
    let (mut bytes, kind) = (0, reason_name(reason));
    let fits = |name: &&String| {
        bytes += name.len() + kind.len() + ABSENT.len() + 12;
        bytes <= VIOLATIONS_BYTES_MAX
    };
    let told = missing.iter().take_while(fits).map(|name| PreconditionViolation::new(kind, name, ABSENT));
    let mut details = details(reason, [("missing", missing.len().to_string())]);
    details.set_precondition_failure(told.collect::<Vec<_>>());
    details
}

/// Which backend or frontend it is about.
fn about(reason: Reason, kind: &str, name: &str) -> ErrorDetails {
    let mut details = details(reason, []);
    details.set_resource_info(format!("onair.v1.{kind}"), name, "", "");
    details
}

/// An entry of the catalog that is there.
fn taken(kind: &str, name: &str, violation: &Violation) -> ErrorDetails {
    let mut details = about(Reason::AlreadyExists, kind, name);
    details.add_bad_request_violation(&violation.field, &violation.description);
    details
}

/// An entry of the catalog that applications need.
fn needed(kind: &str, name: &str, sentence: &str, by: &[String]) -> ErrorDetails {
    let mut details = in_use(kind, name, "applications", by);
    details.add_bad_request_violation("id", sentence);
    details
}

/// What is in use, and by whom, as many as fit into a header.
fn in_use(kind: &str, name: &str, users: &'static str, by: &[String]) -> ErrorDetails {
    let mut bytes = 0;
    let fits = |user: &&String| {
        bytes += user.len() + 1;
        bytes <= VIOLATIONS_BYTES_MAX
    };
    let names = by.iter().take_while(fits).map(String::as_str).collect::<Vec<_>>().join("/");
    let mut details = details(Reason::InUse, [(users, names)]);
    details.set_resource_info(format!("onair.v1.{kind}"), name, "", "");
    details
}

fn limited(reason: Reason, limit: &str, maximum: u64, usage: u64) -> ErrorDetails {
    let facts = [("limit", limit.to_owned()), ("maximum", maximum.to_string()), ("usage", usage.to_string())];
    let mut details = details(reason, facts);
    details.set_retry_info(Some(RETRY_SOON));
    details
}

/// Each quota that is in the way, and when there may be room; the first one again where no types of `google.rpc` are needed.
fn beyond_quotas(exceeded: &[Exceeded]) -> ErrorDetails {
    let mut details = details(Reason::Quota, []);
    if let (Some(first), Some(mut info)) = (exceeded.first(), details.error_info().cloned()) {
        let (kind, name) = match &first.whose {
            Whose::Namespace(name) => ("namespace", name.as_str()),
            Whose::Principal(name) => ("principal", &**name),
        };
        let numbers = [("maximum", first.maximum), ("usage", first.usage), ("wanted", first.wanted)];
        let numbers = numbers.map(|(key, number)| (key.to_owned(), number.to_string()));
        let names =
            [("quota", first.resource.name()), (kind, name)].map(|(key, name)| (key.to_owned(), name.to_owned()));
        info.metadata.extend(names.into_iter().chain(numbers));
        details = ErrorDetails::with_error_info(info.reason, info.domain, info.metadata);
    }
    let violation = |one: &Exceeded| {
        let subject = match &one.whose {
            Whose::Namespace(name) => format!("namespace:{name}"),
            Whose::Principal(name) => format!("principal:{name}"),
        };
        QuotaViolation {
            quota_metric: one.resource.name().to_owned(),
            quota_value: i64::try_from(one.maximum).unwrap_or(i64::MAX),
            ..QuotaViolation::new(subject, one.to_string())
        }
    };
    details.set_quota_failure(exceeded.iter().map(violation).collect::<Vec<_>>());
    let room_in = |one: &Exceeded| one.room_in.map_or(RETRY_QUOTA, Duration::from_millis);
    details.set_retry_info(exceeded.iter().map(room_in).max());
    details
}

/// A request over the size limit.
#[must_use]
pub fn too_large(maximum: u64) -> Status {
    let sentence = format!("the message is larger than {maximum} bytes");
    let details = limited(Reason::TooLarge, "max_message_bytes", maximum, maximum);
    refusal(Reason::TooLarge, sentence, details)
}

/// An answer over the size limit, and what to ask for instead.
#[must_use]
pub fn reply_too_large(bytes: usize, narrower: &str) -> Status {
    let maximum = REPLY_BYTES_MAX as u64;
    let sentence = format!("the answer would have {bytes} bytes, more than {maximum}: {narrower}");
    let facts =
        [("limit", "max_reply_bytes".to_owned()), ("maximum", maximum.to_string()), ("usage", bytes.to_string())];
    // To ask again would come to the same.
    Status::with_error_details(Code::ResourceExhausted, sentence, details(Reason::TooLarge, facts))
}

/// A body of JSON with more in it than anyone needs to say.
#[must_use]
pub fn too_many_values(maximum: u64) -> Status {
    let sentence = format!("the body has more than {maximum} values");
    let details = limited(Reason::TooLarge, "max_json_values", maximum, maximum);
    refusal(Reason::TooLarge, sentence, details)
}

/// What the transport says of a request stream, as we promise it.
#[must_use]
pub fn of_transport(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => plain(Reason::TooLarge, "the message is larger than max_message_bytes"),
        // All of our own have details.
        Code::Internal if status.details().is_empty() => {
            plain(Reason::Malformed, format!("the message cannot be read: {}", status.message()))
        }
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_violations_fit_into_headers_and_none_is_passed_over_in_silence() {
        let violation =
            |number| Violation { field: format!("instance.ports[\"é{number}\"]"), description: "x".repeat(60) };
        let status = Status::from(Error::Invalid((0..1_000).map(violation).collect()));
        let told = status.get_details_bad_request().expect("violations").field_violations;
        assert!(told.len() > 20 && status.details().len() < 5 * 1024, "{} in {}", told.len(), status.details().len());
        let rest = 1_000 - (told.len() - 1);
        assert_eq!(
            told.last().map(|last| last.description.clone()),
            Some(format!("{rest} more violations are not listed"))
        );
        assert!(status.message().len() <= SENTENCE_BYTES_MAX + 4);
        let few = Status::from(Error::Invalid((0..20).map(violation).collect()));
        assert_eq!(few.get_details_bad_request().expect("violations").field_violations.len(), 20);
    }
}
