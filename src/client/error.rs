//! Why a call had no good answer: every host that was tried, and what each said or did not say. Knows no command.

use std::{error::Error as _, fmt, io, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{
    text::{code_name, safe, show_duration},
    tls,
};

/// `ErrorInfo.domain` of what a registry says.
const DOMAIN: &str = "onair";
/// Whoever asks for more patience than this is asked again all the same.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A call that no host answered well.
#[derive(Clone, Debug)]
pub struct CallFailed {
    /// What was attempted: `look up web`.
    pub what: String,
    /// Host and cause, in the order they were tried; never empty.
    pub causes: Vec<(String, Cause)>,
}

impl CallFailed {
    /// Of something that went wrong here, and not at a host.
    pub(super) fn here(what: &str, text: &str) -> Self {
        let cause = Cause::Transport { text: text.to_owned(), refused: false };
        Self { what: what.to_owned(), causes: vec![("-".to_owned(), cause)] }
    }

    /// What a beat was told, as a call would have been.
    pub(super) fn superseded(host: &str, holder: &str) -> Self {
        let details = ErrorDetails::with_error_info("SUPERSEDED", DOMAIN, [("holder".to_owned(), holder.to_owned())]);
        let status = Status::with_error_details(Code::Aborted, "another process has registered the instance", details);
        Self { what: "keep a lease".to_owned(), causes: vec![(host.to_owned(), Cause::Status(Box::new(status)))] }
    }

    /// What the last host said, which decides what to do next.
    #[must_use]
    pub fn last(&self) -> Option<&Cause> {
        self.causes.last().map(|(_, cause)| cause)
    }

    /// Whether the same may succeed later. Not what is final; nor `SUPERSEDED`, which says to stop; nor
    /// `MISSING_DEPENDENCY`, since the caller said that it is not to be waited for.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let ends = matches!(self.reason().as_deref(), Some("SUPERSEDED" | "MISSING_DEPENDENCY"));
        !ends && !self.is_final()
    }

    /// Whether a registry refused it, and always will. Whatever else went wrong may pass.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.last().is_some_and(Cause::is_final)
    }

    /// Where the instance is that holds the key, of a call that was `SUPERSEDED`.
    #[must_use]
    pub fn holder(&self) -> Option<String> {
        self.last().and_then(|cause| cause.told("holder"))
    }

    /// The `reason` that the server gave, if one answered: `SUPERSEDED`, for instance.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.last().and_then(Cause::reason)
    }
}

/// Every cause on one line.
impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: ", safe(&self.what))?;
        for (place, (host, cause)) in self.causes.iter().enumerate() {
            write!(f, "{}{host}: {}", if place == 0 { "" } else { "; " }, cause.sentence())?;
        }
        Ok(())
    }
}

impl std::error::Error for CallFailed {}

/// What HTTP/2 makes of the farewell of a port where TLS is spoken.
const SPEAKS_TLS: &str = "security properties do not meet minimum requirements";

/// Why one host did not help.
#[derive(Clone, Debug)]
pub enum Cause {
    /// There was no connection, or it broke.
    Transport {
        /// What the system said.
        text: String,
        /// Nobody listens there.
        refused: bool,
    },
    /// TLS did not come about: a sentence that says what to do.
    Tls(String),
    /// No answer in time.
    Timeout(Duration),
    /// The server answered with an error.
    Status(Box<Status>),
}

impl Cause {
    /// Tells what a server said from what the transport made of its silence.
    #[must_use]
    pub fn from_status(status: Status) -> Self {
        match status.source() {
            Some(source) => Self::from_error(source),
            None => Self::Status(Box::new(status)),
        }
    }

    /// The deepest cause of a transport's error.
    #[must_use]
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(text) = tls::explain(error) {
            return Self::Tls(text);
        }
        let (mut deepest, mut refused) = (error, false);
        loop {
            refused |=
                deepest.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            match deepest.source() {
                Some(source) => deepest = source,
                None => break,
            }
        }
        let text = if refused { "connection refused".to_owned() } else { deepest.to_string() };
        match text.contains(SPEAKS_TLS) {
            true => Self::Tls("the server speaks TLS: call it with https://".to_owned()),
            false => Self::Transport { text, refused },
        }
    }

    /// The status code, if the server gave one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            Self::Transport { .. } | Self::Tls(_) | Self::Timeout(_) => None,
        }
    }

    /// The `reason` of `ErrorInfo`.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Status(status) => status.get_details_error_info().map(|info| info.reason),
            Self::Transport { .. } | Self::Tls(_) | Self::Timeout(_) => None,
        }
    }

    /// Whether a change may have been made nevertheless.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        self.told("outcome_unknown").is_none_or(|unknown| unknown != "false")
    }

    /// What else `ErrorInfo` tells by this name.
    #[must_use]
    pub fn told(&self, name: &str) -> Option<String> {
        let Self::Status(status) = self else { return None };
        status.get_details_error_info()?.metadata.remove(name)
    }

    /// Each field of `BadRequest` and what is wrong with it, made safe.
    #[must_use]
    pub fn violations(&self) -> Vec<(String, String)> {
        let Self::Status(status) = self else { return Vec::new() };
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        let pair = |violation: FieldViolation| {
            (safe(&violation.field).into_owned(), safe(&violation.description).into_owned())
        };
        violations.into_iter().map(pair).collect()
    }

    /// How long a registry asks to wait; a minute if that is longer. What is no registry is not asked.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(status) if self.is_of_a_registry() => {
                Some(status.get_details_retry_info()?.retry_delay?.min(RETRY_MAX))
            }
            Self::Status(_) | Self::Transport { .. } | Self::Tls(_) | Self::Timeout(_) => None,
        }
    }

    /// Whether another host may do better: no registry said it, or one that goes away.
    #[must_use]
    pub fn is_of_this_host(&self) -> bool {
        !self.is_of_a_registry() || self.code() == Some(Code::Unavailable)
    }

    /// Whether a registry said it, and no proxy, and no other program that happens to listen there.
    #[must_use]
    pub fn is_of_a_registry(&self) -> bool {
        match self {
            Self::Status(status) => status.get_details_error_info().is_some_and(|info| info.domain == DOMAIN),
            Self::Transport { .. } | Self::Tls(_) | Self::Timeout(_) => false,
        }
    }

    /// Whether a registry said what it will always say to the same call. Whatever else went wrong may pass.
    #[must_use]
    pub fn is_final(&self) -> bool {
        let code = matches!(
            self.code(),
            Some(
                Code::InvalidArgument
                    | Code::Unimplemented
                    | Code::AlreadyExists
                    | Code::PermissionDenied
                    | Code::Unauthenticated
            )
        );
        code && self.is_of_a_registry()
    }

    /// One sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Transport { text, .. } | Self::Tls(text) => safe(text).into_owned(),
            Self::Timeout(limit) => format!("no answer within {}", show_duration(*limit)),
            Self::Status(status) => {
                let code = code_name(status.code());
                // Where both have one word, once is enough.
                let reason = self.reason().filter(|reason| reason != code);
                let reason = reason.map_or_else(String::new, |reason| format!(" ({})", safe(&reason)));
                format!("{code}{reason}: {}", safe(status.message()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_waited_for_and_not_for_ever() {
        for (domain, asked, expected) in [
            (DOMAIN, Some(5), Some(5)),
            (DOMAIN, Some(86_400), Some(60)),
            (DOMAIN, None, None),
            ("proxy.example", Some(86_400), None),
        ] {
            let mut details = ErrorDetails::with_error_info("AWAY", domain, [("of".to_owned(), "x".to_owned())]);
            if let Some(seconds) = asked {
                details.set_retry_info(Some(Duration::from_secs(seconds)));
            }
            let cause = Cause::from_status(Status::with_error_details(Code::Unavailable, "away", details));
            assert_eq!(cause.retry_after(), expected.map(Duration::from_secs), "{domain} {asked:?}");
        }
    }
}
