//! How a command ends when it does not succeed: the exit codes, and one sentence with its details and a hint. Knows no
//! command.

use std::{fmt::Write as _, io};

use tonic::Code;

use super::text::safe;
pub use crate::client::{CallFailed, Cause};
use crate::config::Refused;

/// What the root command's help says of exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   the call, or the server, failed
  2   wrong usage or configuration
  3   nothing found, or not serving
  4   superseded: another process has registered the same instance
  70  a fault of onair itself";

const SERVER_RUNNING: &str = "is `onair serve` running?";

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The arguments contradict each other or cannot be read.
    Usage(String),
    /// Settings were refused.
    Settings(Refused),
    /// No host gave an answer that helps.
    Call(CallFailed),
    /// Something else went wrong outside.
    Other(String),
    /// There is nothing of what was asked for.
    Nothing(String),
    /// A newer incarnation holds the key.
    Superseded(String),
    /// A program that was run did not end well, or could not be started, which is said.
    Program {
        /// What there is to say of it; the program has said the rest.
        what: Option<String>,
        /// Its exit code.
        code: u8,
    },
    /// Standard output is gone or full.
    Output(io::Error),
    /// This should not happen.
    Internal(String),
}

impl Failure {
    /// The same, which has been told: only the exit code is left of it.
    #[must_use]
    pub fn told(&self) -> Self {
        Self::Program { what: None, code: self.exit_code() }
    }

    /// See `EXIT_CODES`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // Whoever read our output has had enough: `onair watch | head -1`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Call(_) | Self::Other(_) | Self::Output(_) => 1,
            Self::Usage(_) | Self::Settings(_) => 2,
            Self::Nothing(_) => 3,
            Self::Superseded(_) => 4,
            Self::Program { code, .. } => *code,
            Self::Internal(_) => 70,
        }
    }

    /// What to say on standard error, without a newline at the end; nothing if nobody needs to know.
    #[must_use]
    pub fn report(&self) -> Option<String> {
        Some(match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
            Self::Output(error) => format!("onair: cannot write: {error}"),
            Self::Call(failed) => format!("onair: {}", failed.report()),
            Self::Settings(Refused(wrong)) if wrong.len() == 1 => format!("onair: {}", safe(&wrong[0])),
            Self::Settings(Refused(wrong)) => {
                let lines: String = wrong.iter().map(|line| format!("\n  {}", safe(line))).collect();
                format!("onair: {} settings are wrong:{lines}", wrong.len())
            }
            Self::Usage(what) | Self::Other(what) | Self::Nothing(what) | Self::Superseded(what) => {
                format!("onair: {}", safe(what))
            }
            Self::Program { what, .. } => format!("onair: {}", safe(what.as_deref()?)),
            Self::Internal(what) => format!("onair: internal fault: {} (please report it)", safe(what)),
        })
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Settings(refused)
    }
}

impl From<CallFailed> for Failure {
    fn from(failed: CallFailed) -> Self {
        Self::Call(failed)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// What the command says of a call that failed.
pub trait Report {
    /// One sentence, a line for each further detail, and a hint.
    fn report(&self) -> String;
    /// Every cause on one line, for a running commentary.
    fn short(&self) -> String;
}

impl Report for CallFailed {
    fn report(&self) -> String {
        let mut text = format!("cannot {}", safe(&self.what));
        let violations = self.last().map(Cause::violations).unwrap_or_default();
        if let [(host, cause)] = &self.causes[..] {
            let sentence = cause.sentence();
            // The sentence may end with the violations, which get a line each here.
            let end = violations.first().and_then(|(field, _)| sentence.find(&format!(": {field}: ")));
            _ = write!(text, " at {host}: {}", &sentence[..end.unwrap_or(sentence.len())]);
        } else {
            _ = write!(text, ": none of {} hosts answered", self.causes.len());
            self.causes.iter().for_each(|(host, cause)| _ = write!(text, "\n  {host}: {}", cause.sentence()));
        }
        violations.iter().for_each(|(field, description)| _ = write!(text, "\n  {field}: {description}"));
        if let Some(hint) = self.last().and_then(hint) {
            _ = write!(text, "\n  hint: {hint}");
        }
        text
    }

    fn short(&self) -> String {
        let causes: Vec<_> = self.causes.iter().map(|(host, cause)| format!("{host}: {}", cause.sentence())).collect();
        let refused = matches!(self.last(), Some(Cause::Transport { refused: true, .. }));
        let hint = if refused { format!(" ({SERVER_RUNNING})") } else { String::new() };
        format!("{}{hint}", causes.join("; "))
    }
}

/// What may help, in a few words.
pub fn hint(cause: &Cause) -> Option<&'static str> {
    if let Cause::Transport { refused, .. } = cause {
        return Some(if *refused {
            SERVER_RUNNING
        } else {
            "is it the address of an onair server (`--url`, ONAIR_URL)?"
        });
    }
    match cause.reason().as_deref() {
        Some("KEY_HELD") => Some("choose another --id, or wait until its lease has ended"),
        Some("QUOTA") => Some("`onair namespace get` shows what a namespace has and may have"),
        Some("UNAUTHENTICATED") => Some("name a file with a token in --token-file or ONAIR_TOKEN_FILE"),
        Some("OVERLOADED" | "LIMIT") => Some("`onair info` shows the limits"),
        Some("STORE_UNAVAILABLE") if cause.outcome_unknown() => {
            Some("the outcome is unknown: look first, then try again")
        }
        Some("STORE_UNAVAILABLE") => Some("nothing was changed: try again"),
        Some("REVISION_AHEAD") => Some("give it more time with --wait"),
        Some(_) => None,
        None if cause.code() == Some(Code::Unimplemented) => {
            Some("is it an onair server, of a version that knows this call?")
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Status;
    use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

    use super::*;

    fn failed(causes: Vec<Cause>) -> CallFailed {
        let hosts = (1..).map(|n| format!("http://h{n}:1"));
        CallFailed { what: "look up web".to_owned(), causes: hosts.zip(causes).collect() }
    }

    #[test]
    fn violations_come_a_line_each() {
        let mut details = ErrorDetails::with_error_info("INVALID", "onair", []);
        details.set_bad_request(vec![
            FieldViolation { field: "service".into(), description: "is empty".into(), ..Default::default() },
            FieldViolation { field: "version".into(), description: "esc \u{1b}[2J".into(), ..Default::default() },
        ]);
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "2 fields are wrong: service: is empty; version: esc",
            details,
        );
        let report = failed(vec![Cause::from_status(status)]).report();
        let expected = "cannot look up web at http://h1:1: INVALID_ARGUMENT (INVALID): 2 fields are wrong\n  \
                        service: is empty\n  version: esc \u{fffd}[2J";
        assert_eq!(report, expected);
    }

    #[test]
    fn hosts_that_fail_are_all_named() {
        let refused = Cause::from_error(&io::Error::from(io::ErrorKind::ConnectionRefused));
        let report = failed(vec![Cause::Timeout(Duration::from_secs(3)), refused]).report();
        let expected = "cannot look up web: none of 2 hosts answered\n  http://h1:1: no answer within 3s\n  \
                        http://h2:1: connection refused\n  hint: is `onair serve` running?";
        assert_eq!(report, expected);
    }

    #[test]
    fn exit_codes() {
        let pipe = Failure::Output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((pipe.exit_code(), pipe.report()), (0, None));
        for (failure, code) in [
            (Failure::Call(failed(vec![Cause::Timeout(Duration::ZERO)])), 1),
            (Failure::Usage("x".into()), 2),
            (Failure::Settings(Refused(vec!["x".into()])), 2),
            (Failure::Nothing("x".into()), 3),
            (Failure::Superseded("x".into()), 4),
            (Failure::Internal("x".into()), 70),
        ] {
            assert_eq!(failure.exit_code(), code);
            assert!(EXIT_CODES.contains(&format!("\n  {code}  ")), "{code} is documented");
        }
    }
}
