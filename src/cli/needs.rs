//! What a service needs, as the command line says it: `api@^2.0`, mocks, what to do when something is missing. Knows
//! neither calls nor output.

use std::collections::BTreeMap;

use clap::ValueEnum;

use super::failure::{CallFailed, Cause, Failure};
use crate::proto;

/// `IfMissing` as the command line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IfMissing {
    /// Give up.
    Fail,
    /// Wait for it.
    Wait,
    /// Go ahead without it.
    Ignore,
}

impl From<IfMissing> for proto::IfMissing {
    fn from(given: IfMissing) -> Self {
        match given {
            IfMissing::Fail => Self::Fail,
            IfMissing::Wait => Self::Wait,
            IfMissing::Ignore => Self::Ignore,
        }
    }
}

/// Reads `name` or `name@range` for clap.
///
/// # Errors
/// A sentence.
pub fn need(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('@') {
        None if !text.is_empty() => Ok((text.to_owned(), String::new())),
        Some((name, range)) if !name.is_empty() && !range.trim().is_empty() => Ok((name.to_owned(), range.to_owned())),
        _ => Err("it is not NAME or NAME@RANGE".to_owned()),
    }
}

/// Reads `name=url` for clap.
///
/// # Errors
/// A sentence.
pub fn mock(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() => place(url).map(|()| (name.to_owned(), url.to_owned())),
        _ => Err("it is not NAME=URL".to_owned()),
    }
}

/// Whether something can be there: `host:port`, or a url of any kind.
///
/// # Errors
/// A sentence.
pub fn place(url: &str) -> Result<(), String> {
    // Further back it is not what says of which kind it is.
    let scheme = url.split_once("://").filter(|(scheme, _)| !scheme.contains(['/', '?', '#']));
    let (scheme, rest) = scheme.unwrap_or(("http", url));
    let is_scheme = scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:".contains(c)) && !scheme.is_empty();
    let is_place = is_scheme && !rest.is_empty() && !rest.contains(|c: char| c.is_control() || c.is_whitespace());
    if is_place { Ok(()) } else { Err("that is neither HOST:PORT nor a url".to_owned()) }
}

/// The pairs as a map.
///
/// # Errors
/// A name is there twice.
pub fn once_each(what: &str, pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        if map.insert(name.clone(), value).is_some() {
            return Err(Failure::Usage(format!("{what} {name} is given twice")));
        }
    }
    Ok(map)
}

/// That something is missing is an answer of its own kind.
#[must_use]
pub fn failure(failed: CallFailed) -> Failure {
    match failed.last() {
        Some(cause @ Cause::Status(status)) if cause.reason().as_deref() == Some("MISSING_DEPENDENCY") => {
            Failure::Nothing(status.message().to_owned())
        }
        _ => failed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_read() {
        let pair = |name: &str, range: &str| Ok((name.to_owned(), range.to_owned()));
        assert_eq!(need("api"), pair("api", ""));
        assert_eq!(need("api@^2 <2.5"), pair("api", "^2 <2.5"));
        assert_eq!(need("a@b@1.0"), pair("a@b", "1.0"));
        for wrong in ["@1", "", "x@", "x@@", "x@ "] {
            assert!(need(wrong).is_err(), "{wrong}");
        }
        assert_eq!(mock("auth=http://h/?a=b"), pair("auth", "http://h/?a=b"));
        for wrong in ["auth", "=x", "auth=", "auth=ht!tp://", "auth=http://", "auth=://h", "auth=a b"] {
            assert!(mock(wrong).is_err(), "{wrong}");
        }
        for url in [
            "localhost:3000",
            "localhost:3000/login?to=http://web",
            "h#://",
            "redis://:secret@h:6379/0",
            "jdbc:postgresql://h/db",
            "unix:///run/x.sock",
        ] {
            assert_eq!(place(url), Ok(()), "{url}");
        }
        let twice = vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert!(matches!(once_each("--mock", twice), Err(Failure::Usage(_))));
    }
}
