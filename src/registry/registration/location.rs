//! Hosts and urls as registrants write them. Knows only their text: nothing is resolved, and no scheme is special.

use std::{net::IpAddr, ops::Range};

/// Longest host, in bytes.
const HOST_BYTES_MAX: usize = 253;
/// Longest label of a DNS name, in bytes.
const LABEL_BYTES_MAX: usize = 63;
/// Longest url, in bytes.
pub(super) const URL_BYTES_MAX: usize = 2_048;
/// Longest protocol, in bytes.
const PROTOCOL_BYTES_MAX: usize = 32;

/// The canonical form of a host: an IP address in its shortest text without brackets, a DNS name as it was written.
/// `None` for what means "where the call came from": nothing, or a wildcard address.
pub(super) fn host(text: &str) -> Result<Option<String>, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>()
        && (bare.is_none() || address.is_ipv6())
    {
        let address = address.to_canonical();
        return Ok((!address.is_unspecified()).then(|| address.to_string()));
    }
    dns_name(text).map(|()| Some(text.to_owned()))
}

/// Whether `name` is a DNS name: labels of letters, digits, `-` (not at an end) and `_`, perhaps a final dot.
fn dns_name(name: &str) -> Result<(), String> {
    let neither = |why: &str| Err(format!("must be a DNS name or an IP address: {why}"));
    if name.len() > HOST_BYTES_MAX {
        return neither(&format!("it has {} bytes, at most {HOST_BYTES_MAX} are possible", name.len()));
    }
    let labels = name.strip_suffix('.').unwrap_or(name);
    for label in labels.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return neither("every part between dots has 1 to 63 bytes");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return neither(
                "only ASCII letters, digits, `-`, `_` and dots are possible; the port is a field of its own",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return neither("no part between dots begins or ends with `-`");
        }
    }
    // Such a name would be read as an address by some resolvers. A single label of digits is a container's name.
    match labels.rsplit_once('.') {
        Some((_, last)) if last.bytes().all(|byte| byte.is_ascii_digit()) => neither("it ends like an IPv4 address"),
        _ => Ok(()),
    }
}

/// The host as it stands in a url.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Whether `text` is a scheme: a letter, then letters, digits, `+`, `-`, `.`.
pub(super) fn protocol(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    let grammar = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if grammar && text.len() <= PROTOCOL_BYTES_MAX {
        return Ok(());
    }
    Err(format!("must be a letter, then letters, digits, `+`, `-` or `.`, at most {PROTOCOL_BYTES_MAX} bytes"))
}

/// What a url says of where an instance is. The rest of it is the clients' business.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Its scheme in lower case.
    pub(super) protocol: String,
    /// Its host in canonical form; `None` for a wildcard address.
    pub(super) host: Option<String>,
    /// Where the host stands in the text, brackets included.
    pub(super) span: Range<usize>,
    /// Its port, 0 if it names none: no scheme's default is assumed.
    pub(super) port: u32,
    /// Whether it has a path other than `/`.
    pub(super) has_path: bool,
}

impl Location {
    /// Reads `protocol://[user@]host[:port][/path][?query][#fragment]`.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        if url.len() > URL_BYTES_MAX {
            return Err(format!("must be at most {URL_BYTES_MAX} bytes, not {}", url.len()));
        }
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("must not contain control characters or white space".to_owned());
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err("must begin with a scheme and `://`".to_owned());
        };
        protocol(scheme).map_err(|why| format!("its scheme {why}"))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(end);
        let place = whole.rsplit_once('@').map_or(whole, |(_, place)| place);
        let (name, port) = host_and_port(place)?;
        if name.is_empty() {
            return Err("must name a host".to_owned());
        }
        let start = scheme.len() + "://".len() + (whole.len() - place.len());
        let path = after.split(['?', '#']).next().unwrap_or_default();
        Ok(Self {
            protocol: scheme.to_ascii_lowercase(),
            host: host(name).map_err(|why| format!("its host {why}"))?,
            span: start..start + name.len(),
            port,
            has_path: !matches!(path, "" | "/"),
        })
    }
}

/// Parts `host`, `host:` and `host:port`; the port is 0 if there is none.
fn host_and_port(place: &str) -> Result<(&str, u32), String> {
    let (name, port) = match place.rfind(':') {
        // The last colon of `[::1]` is within the brackets.
        Some(at) if !place[at..].contains(']') => (&place[..at], &place[at + 1..]),
        _ => (place, ""),
    };
    if port.is_empty() {
        return Ok((name, 0));
    }
    if name.contains(':') && !name.ends_with(']') {
        return Err("must have an IPv6 address in brackets".to_owned());
    }
    match port.parse::<u16>() {
        // `parse` takes a sign.
        Ok(number @ 1..) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok((name, u32::from(number))),
        _ => Err("its port must be 1 to 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, canonical) in [
            ("", None),
            ("0.0.0.0", None),
            ("::", None),
            ("[::]", None),
            ("::ffff:0.0.0.0", None),
            ("web-1.Example.com", Some("web-1.Example.com")),
            ("my_host", Some("my_host")),
            ("absolute.", Some("absolute.")),
            ("123456789012", Some("123456789012")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("[2001:DB8:0:0::1]", Some("2001:db8::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
        ] {
            assert_eq!(host(text).unwrap().as_deref(), canonical, "{text}");
        }
        let (long, label) = (format!("{}a", "a.".repeat(127)), "a".repeat(64));
        for bad in [
            "a b",
            "a/b",
            "web:80",
            "10.0.0.1:80",
            "10.0.0.300",
            "1.2.3",
            "-a",
            "a-",
            "a..b",
            ".",
            ".a",
            "*",
            "größe",
            "[10.0.0.1]",
            "[web]",
            "[::1",
            "::1]",
            "fe80::1%eth0",
            "a\0",
            "http://a",
            &long,
            &label,
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls() {
        for (url, protocol, host, at, port, has_path) in [
            ("http://web:8000", "http", Some("web"), "web", 8000, false),
            ("HTTPS://web/", "https", Some("web"), "web", 0, false),
            ("http://web:/?a=/b", "http", Some("web"), "web", 0, false),
            ("http://web#/x", "http", Some("web"), "web", 0, false),
            ("http://web/api?q", "http", Some("web"), "web", 0, true),
            ("http://web//", "http", Some("web"), "web", 0, true),
            ("postgres://me:p:w@d@db:5432/main", "postgres", Some("db"), "db", 5432, true),
            ("grpc+tls://[2001:DB8::1]:443", "grpc+tls", Some("2001:db8::1"), "[2001:DB8::1]", 443, false),
            ("tcp://[::1]", "tcp", Some("::1"), "[::1]", 0, false),
            ("http://0.0.0.0:80/é", "http", None, "0.0.0.0", 80, true),
            ("http://u@[::]:80", "http", None, "[::]", 80, false),
        ] {
            let got = Location::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            assert_eq!(&url[got.span.clone()], at, "{url}");
            let span = got.span.clone();
            let want = Location { protocol: protocol.into(), host: host.map(Into::into), span, port, has_path };
            assert_eq!(got, want, "{url}");
        }
        let long = format!("http://web/{}", "x".repeat(2048));
        for bad in [
            "web:80",
            "//web",
            "://web",
            "1http://web",
            "http://",
            "http://:80",
            "http:///x",
            "http://u@/x",
            "mailto:a@b",
            "http://web:0",
            "http://web:70000",
            "http://web:+80",
            "http://web:8o",
            "http://web /x",
            "http://web/\n",
            "http://web/\u{a0}",
            "http://::1:80",
            "http://[::1]80",
            "http://[::1",
            "http://[::1]:x",
            "http://größe",
            "unix:///run/x",
            &long,
        ] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn protocols() {
        for good in ["http", "grpc+tls", "h2.c-x", "A1"] {
            assert!(protocol(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "a:b", "a b", "é", "+", &"a".repeat(33)] {
            assert!(protocol(bad).is_err(), "{bad}");
        }
    }
}
