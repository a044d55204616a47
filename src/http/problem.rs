//! Refusals as `application/problem+json` (RFC 9457), made of the status that the call has. Knows nothing of requests.

use std::{collections::BTreeMap, time::Duration};

use axum::body::Body;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::grpc::status::{Reason, code_name, reason_name};

/// The content type.
pub const TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The body. Its fields are those of RFC 9457, then what gRPC's details have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// The canonical code's name.
    code: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    domain: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<Violation>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    preconditions: Vec<Precondition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quotas: Vec<Quota>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Resource>,
    /// As proto JSON has durations.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<String>,
}

#[derive(Debug, Serialize)]
struct Violation {
    field: String,
    description: String,
}

#[derive(Debug, Serialize)]
struct Precondition {
    r#type: String,
    subject: String,
    description: String,
}

#[derive(Debug, Serialize)]
struct Quota {
    subject: String,
    quota: String,
    maximum: i64,
    description: String,
}

#[derive(Debug, Serialize)]
struct Resource {
    r#type: String,
    name: String,
    description: String,
}

/// What was refused here, before there was a call: it is counted by this extension of the answer.
#[derive(Clone, Debug)]
pub struct Refused(pub Status);

/// Why a request is not answered as asked, with what HTTP wants to have said beside it.
#[derive(Debug)]
pub struct Refusal {
    /// As a call would have it.
    pub status: Status,
    /// Such as `Allow`.
    pub header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// With a header.
    #[must_use]
    pub fn with(status: Status, name: HeaderName, value: HeaderValue) -> Self {
        Self { status, header: Some((name, value)) }
    }

    /// The answer that says it.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let mut response = response(&self.status);
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, header: None }
    }
}

/// The answer that refuses a request by `status`.
#[must_use]
pub fn response(status: &Status) -> Response<Body> {
    let mut response = of_call(status);
    response.extensions_mut().insert(Refused(status.clone()));
    response
}

/// What `status` is as a problem, and when to call again.
fn problem(status: &Status) -> (Problem, Option<Duration>) {
    let details = status.get_error_details();
    let (reason, domain, metadata) = details.error_info().cloned().map_or_else(Default::default, |info| {
        (info.reason, info.domain, info.metadata.into_iter().collect::<BTreeMap<_, _>>())
    });
    let http_status = http_status(status.code(), &reason);
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    let violation =
        |found: tonic_types::FieldViolation| Violation { field: found.field, description: found.description };
    let resource = details.resource_info().cloned().map(|resource| Resource {
        r#type: resource.resource_type,
        name: resource.resource_name,
        description: resource.description,
    });
    let violations = details.bad_request().cloned().map(|bad| bad.field_violations).unwrap_or_default();
    let precondition = |found: tonic_types::PreconditionViolation| Precondition {
        r#type: found.r#type,
        subject: found.subject,
        description: found.description,
    };
    let preconditions = details.precondition_failure().cloned().map(|failed| failed.violations).unwrap_or_default();
    let quota = |found: tonic_types::QuotaViolation| Quota {
        subject: found.subject,
        quota: found.quota_metric,
        maximum: found.quota_value,
        description: found.description,
    };
    let quotas = details.quota_failure().cloned().map(|failed| failed.violations).unwrap_or_default();
    let problem = Problem {
        r#type: "about:blank",
        title: http_status.canonical_reason().unwrap_or("Client Closed Request"),
        status: http_status.as_u16(),
        detail: status.message().to_owned(),
        code: code_name(status.code()),
        reason,
        domain,
        metadata,
        violations: violations.into_iter().map(violation).collect(),
        preconditions: preconditions.into_iter().map(precondition).collect(),
        quotas: quotas.into_iter().map(quota).collect(),
        resource,
        retry_after: retry.map(|delay| format!("{}.{:03}s", delay.as_secs(), delay.subsec_millis())),
    };
    (problem, retry)
}

/// The JSON that says `status`, on one line.
#[must_use]
pub fn json(status: &Status) -> Vec<u8> {
    // Only maps with keys that are no text cannot be written.
    serde_json::to_vec(&problem(status).0).unwrap_or_default()
}

/// The answer that says how a call ended, which was counted as it did.
#[must_use]
pub fn of_call(status: &Status) -> Response<Body> {
    let (problem, retry) = problem(status);
    let mut json = serde_json::to_vec(&problem).unwrap_or_default();
    json.push(b'\n');
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, TYPE);
    if status.code() == Code::Unauthenticated {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(delay) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
    }
    response
}

/// Rounded up: who comes back earlier is refused again.
fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

/// The HTTP status: HTTP's own for what HTTP has a word for, else google.rpc's map of the code.
#[must_use]
pub fn http_status(code: Code, reason: &str) -> StatusCode {
    let own = [
        // Nothing is wrong with the request: it clashes with what is there.
        (Reason::InUse, StatusCode::CONFLICT),
        // The request is right, and what it needs is not there, or not yet.
        (Reason::MissingDependency, StatusCode::FAILED_DEPENDENCY),
        (Reason::NotReady, StatusCode::FAILED_DEPENDENCY),
        (Reason::MethodNotAllowed, StatusCode::METHOD_NOT_ALLOWED),
        (Reason::NotAcceptable, StatusCode::NOT_ACCEPTABLE),
        (Reason::SlowBody, StatusCode::REQUEST_TIMEOUT),
        (Reason::TooLarge, StatusCode::PAYLOAD_TOO_LARGE),
        (Reason::UnsupportedMediaType, StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ];
    if let Some((_, status)) = own.into_iter().find(|(own, _)| reason_name(*own) == reason) {
        return status;
    }
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
