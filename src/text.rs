//! How a few things are written, wherever they are: others' text made harmless, hosts with ports, durations, codes. No
//! I/O; knows nobody.

use std::{borrow::Cow, time::Duration};

use tonic::Code;

/// `text` as it may be shown on a terminal or in a log: what could move the cursor, change colours or turn the reading
/// direction is replaced. Everything that registrants and servers send passes through here.
#[must_use]
pub fn safe(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_hostile) {
        Cow::Owned(text.chars().map(|c| if is_hostile(c) { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Control characters, line separators, and the format characters that hide or reorder text.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `host:port`, with brackets where IPv6 needs them.
#[must_use]
pub fn host_port(host: &str, port: u32) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `INVALID_ARGUMENT` and its like.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// Reads `250ms`, `30s`, `1.5s`, `1m30s`; a bare number only if it is 0, since it would lack a unit.
///
/// # Errors
/// A sentence that quotes the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is not a duration like 250ms, 30s or 1m30s");
    let mut rest = text.trim();
    if rest.bytes().all(|byte| byte.is_ascii_digit()) && !rest.is_empty() {
        return if rest.bytes().all(|byte| byte == b'0') {
            Ok(Duration::ZERO)
        } else {
            Err(format!("`{text}` has no unit: say {rest}s or {rest}ms"))
        };
    }
    let mut nanos = 0_u64;
    while !rest.is_empty() {
        let (figure, unit, after) = figure_and_unit(rest).ok_or_else(refused)?;
        let scale = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?.1;
        nanos = scaled(figure, scale).and_then(|part| nanos.checked_add(part)).ok_or_else(refused)?;
        rest = after;
    }
    if text.trim().is_empty() { Err(refused()) } else { Ok(Duration::from_nanos(nanos)) }
}

/// `1m`, `90s`, `250ms`: in the largest unit that divides it.
#[must_use]
pub fn show_duration(value: Duration) -> String {
    let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0s".to_owned();
    }
    match DURATION_UNITS.iter().find(|(_, scale)| nanos.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", nanos / scale),
        None => format!("{}s", value.as_secs_f64()),
    }
}

const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("", 1),
];

/// Reads `64MiB`, `16 KiB`, `4MB` (millions), `4096` (bytes).
///
/// # Errors
/// A sentence that quotes the text.
pub fn size(text: &str) -> Result<u64, String> {
    let refused = || format!("`{text}` is not a size like 64MiB, 16KiB or 4096");
    let (figure, unit, rest) = figure_and_unit(text.trim()).ok_or_else(refused)?;
    let scale = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(refused)?.1;
    if rest.is_empty() { scaled(figure, scale).ok_or_else(refused) } else { Err(refused()) }
}

/// `64MiB`: in the largest binary unit that divides it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let fits = SIZE_UNITS.iter().take(5).find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale));
    let (unit, scale) = fits.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// Splits `1.5s rest` into the figure, its unit and what follows.
fn figure_and_unit(text: &str) -> Option<(&str, &str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (figure, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    (!figure.is_empty()).then_some((figure, unit, rest.trim_start()))
}

/// `figure` (digits with at most one point) times `scale`, exactly; what is finer than one is cut off.
fn scaled(figure: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = figure.split_once('.').unwrap_or((figure, "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let parts = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(scale) * fraction.parse::<u128>().ok()? / parts;
    whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("1m", 60_000),
            ("1.5s", 1_500),
            ("1m30s", 90_000),
            ("1h 5m", 3_900_000),
            ("2d", 172_800_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", " ", "s", "30", "-1s", "1x", "1..5s", "1.s", "1s-", "99999999999999999999s", "999999999d", "∞"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("30").unwrap_err(), "`30` has no unit: say 30s or 30ms");
        for (value, shown) in [(0, "0s"), (250, "250ms"), (1_500, "1500ms"), (90_000, "90s"), (3_600_000, "1h")] {
            assert_eq!(show_duration(Duration::from_millis(value)), shown);
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("16 KiB", 16 << 10),
            ("16kib", 16 << 10),
            ("4MB", 4_000_000),
            ("4096", 4096),
            ("4096B", 4096),
            ("1.5KiB", 1536),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1 XB", "1MiB1", "99999999999TiB", "1.2.3"] {
            assert!(size(text).is_err(), "{text}");
        }
        for (bytes, shown) in [(64 << 20, "64MiB"), (1536, "1536B"), (2048, "2KiB"), (0, "0B")] {
            assert_eq!(show_size(bytes), shown);
        }
    }
}
