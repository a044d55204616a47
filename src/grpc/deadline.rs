//! How long a caller waits, as gRPC says it. Knows no clock but the one that it adds to.

use std::time::Duration;

use http::{Extensions, HeaderMap};
use tokio::time::Instant;
use tonic::Request;

/// What `grpc-timeout` says; nothing if it is not there or cannot be read.
#[must_use]
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount.checked_mul(3_600)?)),
        "M" => Some(Duration::from_secs(amount.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Among the extensions of a request whose caller waits no longer than until then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until(pub Instant);

/// When the caller of `request` stops waiting.
pub(super) fn of<T>(request: &Request<T>) -> Option<Instant> {
    until(request.extensions(), request.metadata().as_ref())
}

/// When the caller of a request with these stops waiting.
pub(super) fn until(extensions: &Extensions, headers: &HeaderMap) -> Option<Instant> {
    // What was said when the request came holds.
    extensions.get().map(|Until(end)| *end).or_else(|| Instant::now().checked_add(timeout(headers)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        for (text, wanted) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0m", Some(Duration::ZERO)),
            ("99999999999999999999S", None),
            ("18446744073709551615H", None),
            ("5", None),
            ("S", None),
            ("-1S", None),
            ("5x", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]);
            assert_eq!(timeout(&headers), wanted, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
