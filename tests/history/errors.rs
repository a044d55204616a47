//! What an error has to say for itself.

use onair::proto::ErrorReason;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _, pb};

use super::{End, Fault, Message, Place, View, fault, is_local};

/// Of `ErrorInfo`.
const DOMAIN: &str = "onair";

/// Promise 18: every error is canonical, and has the details that its reason promises.
pub fn every_error(view: &View<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut judge = |place: Place, status: &Status| {
        let what = broken(status);
        faults
            .extend(what.map(|what| fault(18, place, format!("{:?} \"{}\": {what}", status.code(), status.message()))));
    };
    for (number, operation) in view.history.operations.iter().enumerate() {
        if let Some((_, Err(status))) = &operation.outcome {
            judge(Place::Operation(number), status);
        }
    }
    for (number, stream) in view.history.streams.iter().enumerate() {
        if let Some((_, End::Error(status))) = &stream.end {
            judge(Place::Stream(number), status);
        }
        for (at, (_, message)) in stream.messages.iter().enumerate() {
            let Message::Subscribe(message) = message else { continue };
            for error in message.groups.iter().filter_map(|group| group.error.as_ref()) {
                let (code, details) = (Code::from_i32(error.code), error.encode_to_vec());
                judge(Place::Message(number, at), &Status::with_details(code, &error.message, details.into()));
            }
        }
    }
    faults
}

/// The reason in a status's `ErrorInfo`, if there is one that the protos have.
pub fn reason_of(status: &Status) -> Option<ErrorReason> {
    let info = status.get_details_error_info()?;
    ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason))
}

fn broken(status: &Status) -> Option<String> {
    if is_local(status) {
        return None;
    }
    let Ok(details) = status.check_error_details() else { return Some("its details cannot be read".to_owned()) };
    let Some(info) = details.error_info() else { return Some("no `ErrorInfo`".to_owned()) };
    if info.domain != DOMAIN {
        return Some(format!("the domain `{}`", info.domain));
    }
    let reason = match reason_of(status) {
        None | Some(ErrorReason::Unspecified) => return Some(format!("the reason `{}`", info.reason)),
        Some(reason) => reason,
    };
    if status.code() != code_of(reason) {
        return Some(format!("{reason:?} comes with {:?}", code_of(reason)));
    }
    if status.message().is_empty() {
        return Some("no sentence".to_owned());
    }
    match pb::Status::decode(status.details()) {
        Ok(same) if same.code == status.code() as i32 && same.message == status.message() => {}
        _ => return Some("its details are of another status".to_owned()),
    }
    lacking(reason, &details)
}

/// The code that the protos give with a reason.
fn code_of(reason: ErrorReason) -> Code {
    match reason {
        ErrorReason::Unspecified => Code::Unknown,
        ErrorReason::Invalid | ErrorReason::TooDeep | ErrorReason::Malformed => Code::InvalidArgument,
        ErrorReason::TooLarge | ErrorReason::Limit => Code::ResourceExhausted,
        ErrorReason::Overloaded | ErrorReason::Quota => Code::ResourceExhausted,
        ErrorReason::NotFound | ErrorReason::NoRoute => Code::NotFound,
        ErrorReason::KeyHeld | ErrorReason::AlreadyExists => Code::AlreadyExists,
        ErrorReason::Superseded | ErrorReason::Repeated | ErrorReason::StaleRevision => Code::Aborted,
        ErrorReason::LeaseDenied | ErrorReason::Permission => Code::PermissionDenied,
        ErrorReason::HostNotAllowed | ErrorReason::OriginNotAllowed => Code::PermissionDenied,
        ErrorReason::Unauthenticated => Code::Unauthenticated,
        ErrorReason::RevisionAhead | ErrorReason::MissingDependency | ErrorReason::NotReady => Code::FailedPrecondition,
        ErrorReason::MissingBackend | ErrorReason::InUse | ErrorReason::NothingBefore => Code::FailedPrecondition,
        ErrorReason::StoreUnavailable | ErrorReason::ShuttingDown => Code::Unavailable,
        ErrorReason::Deadline | ErrorReason::SlowBody => Code::DeadlineExceeded,
        ErrorReason::NotSupported | ErrorReason::MethodNotAllowed => Code::Unimplemented,
        ErrorReason::NotAcceptable | ErrorReason::UnsupportedMediaType => Code::InvalidArgument,
        ErrorReason::Internal => Code::Internal,
    }
}

/// What a reason promises and the details lack.
fn lacking(reason: ErrorReason, details: &ErrorDetails) -> Option<String> {
    let metadata: &[&str] = match reason {
        ErrorReason::Limit => &["limit", "maximum", "usage"],
        ErrorReason::Quota => &["quota", "maximum", "usage", "wanted"],
        ErrorReason::Permission => &["permission"],
        ErrorReason::RevisionAhead | ErrorReason::StaleRevision => &["revision"],
        ErrorReason::HostNotAllowed => &["host"],
        ErrorReason::OriginNotAllowed => &["origin"],
        ErrorReason::MissingDependency | ErrorReason::NotReady => &["missing"],
        _ => &[],
    };
    let has = |name: &&&str| details.error_info().is_some_and(|info| info.metadata.contains_key(**name));
    if let Some(name) = metadata.iter().find(|name| !has(name)) {
        return Some(format!("no `{name}` in the metadata"));
    }
    if reason == ErrorReason::InUse && !["frontends", "applications"].iter().any(|name| has(&name)) {
        return Some("nobody in the metadata who uses it".to_owned());
    }
    let retries =
        matches!(reason, ErrorReason::Limit | ErrorReason::Quota | ErrorReason::Overloaded | ErrorReason::ShuttingDown);
    if retries && details.retry_info().is_none_or(|info| info.retry_delay.is_none()) {
        return Some("no `RetryInfo`".to_owned());
    }
    let violations = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    if reason == ErrorReason::Invalid && violations.is_empty() {
        return Some("no `BadRequest`".to_owned());
    }
    let missing = details.precondition_failure().map_or(&[][..], |failure| &failure.violations);
    if matches!(reason, ErrorReason::MissingDependency | ErrorReason::NotReady) && missing.is_empty() {
        return Some("no `PreconditionFailure`".to_owned());
    }
    let nameless = violations.iter().any(|one| one.field.is_empty() || one.description.is_empty());
    nameless.then(|| "a violation without field or description".to_owned())
}
