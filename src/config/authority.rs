//! Hosts and origins, as URLs and headers write them. Reads text, and knows neither settings nor requests: what is not
//! written exactly so is no host, since whoever compares hosts must not be fooled by spelling.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// Longest name in DNS.
const NAME_BYTES_MAX: usize = 253;

/// A host: a name, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// In lower case, without the dot that may stand at its end.
    Name(String),
    /// An IPv4 address that is written as IPv6 is IPv4.
    Address(IpAddr),
}

impl Host {
    /// Reads `name`, `192.0.2.1` or `[2001:db8::1]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let address: Ipv6Addr = rest.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        if let Ok(IpAddr::V4(address)) = text.parse() {
            return Some(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_plain = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        // What ends in a number is an address to browsers, however it is spelt.
        let last_is_word = name.rsplit('.').next().is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()));
        let is_name = name.len() <= NAME_BYTES_MAX && name.split('.').all(is_plain) && last_is_word;
        is_name.then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A namespace; whether it may be called so is the registry's to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('/')).then(|| Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host, and a port if one is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `host` or `host:port`; whoever is named before an `@` makes it none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // An address in brackets has colons of its own.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            // An empty one is as good as none (RFC 3986, 3.2.3).
            None | Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
        };
        Some(Self { host: Host::parse(host)?, port })
    }
}

/// Where a page comes from, as browsers say it: `https://shop.example`, `http://localhost:3000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WebOrigin {
    scheme: String,
    host: Host,
    /// None if the scheme has no usual one and none is written.
    port: Option<u16>,
}

impl WebOrigin {
    /// Reads an origin. `null` is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let Authority { host, port } = Authority::parse(rest)?;
        let scheme = scheme.to_ascii_lowercase();
        let port = port.or(usual_port(&scheme));
        is_scheme.then_some(Self { scheme, host, port })
    }

    /// Whether its pages come by TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }

    /// Whether it is what answers at `authority`, reached by the origin's own scheme.
    #[must_use]
    pub fn is_at(&self, authority: &Authority) -> bool {
        let port = authority.port.or(usual_port(&self.scheme));
        self.host == authority.host && port.is_some() && self.port == port
    }
}

fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match self.port {
            Some(port) if usual_port(&self.scheme) != Some(port) => write!(f, ":{port}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for (text, host, port) in [
            ("localhost", "localhost", None),
            ("LocalHost:6624", "localhost", Some(6624)),
            ("localhost.", "localhost", None),
            ("localhost:", "localhost", None),
            ("my_service.ns.svc:80", "my_service.ns.svc", Some(80)),
            ("127.0.0.1:6624", "127.0.0.1", Some(6624)),
            ("[::1]", "[::1]", None),
            ("[0:0::1]:6624", "[::1]", Some(6624)),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1", Some(1)),
            ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
        ] {
            let read = Authority::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((read.host.to_string().as_str(), read.port), (host, port), "{text}");
        }
        for text in [
            "",
            ".",
            ":80",
            "localhost..",
            ".localhost",
            "a..b",
            "localhost:65536",
            "localhost:+80",
            "localhost:8 0",
            "localhost:80:80",
            "evil@localhost",
            "evil:pass@localhost:80",
            "localhost/",
            "localhost#",
            "local%68ost",
            "local host",
            "bücher.example",
            "::1",
            "[::1",
            "[::1]x",
            "[fe80::1%eth0]",
            "[127.0.0.1]",
            "2130706433",
            "127.1",
            "127.0.0.01",
            "a,b",
        ] {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
    }

    #[test]
    fn origins() {
        for (text, shown) in [
            ("http://localhost:3000", "http://localhost:3000"),
            ("HTTPS://Shop.Example", "https://shop.example"),
            ("https://shop.example:443", "https://shop.example"),
            ("http://[::1]:80", "http://[::1]"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(WebOrigin::parse(text).map(|origin| origin.to_string()).as_deref(), Some(shown), "{text}");
        }
        for text in ["null", "", "localhost", "http://", "http://a/", "http://a/b", "http://x@a", "://a", "1http://a"] {
            assert_eq!(WebOrigin::parse(text), None, "{text}");
        }
        for (origin, authority, same) in [
            ("http://localhost:6624", "localhost:6624", true),
            ("http://LOCALHOST:6624", "localhost.:6624", true),
            ("http://localhost", "localhost", true),
            ("https://a.example", "a.example:443", true),
            ("https://a.example", "a.example", true),
            ("http://localhost:3000", "localhost:6624", false),
            ("http://localhost:6624", "127.0.0.1:6624", false),
            ("http://localhost:6624", "localhost", false),
            ("app://localhost", "localhost", false),
        ] {
            let is_at = WebOrigin::parse(origin).unwrap().is_at(&Authority::parse(authority).unwrap());
            assert_eq!(is_at, same, "{origin} at {authority}");
        }
    }
}
