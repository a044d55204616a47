//! The connection string: `http://host1,host2/namespace?ttl=5s`, by TLS with `https://`, or just `host:port`. Pure text; dials nothing.

use std::{fmt, time::Duration};

use crate::text::{duration, host_port};

/// The port that servers listen on and clients dial unless told otherwise (ONAI on a telephone's keys).
pub const DEFAULT_PORT: u16 = 6624;

/// Where a registry is and what its url says beside that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The hosts, each once, in the order to try them; at least one.
    pub hosts: Vec<Host>,
    /// The namespace, empty if none is named.
    pub namespace: String,
    /// Whether a protocol is written, http or https.
    pub says_protocol: bool,
    /// `ttl=`: of what is registered, where nothing else says one.
    pub ttl: Option<Duration>,
    /// `timeout=`: of a call, where nothing else says one.
    pub timeout: Option<Duration>,
}

/// One server's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// A name or an IP address, IPv6 without brackets.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Whether it is called by TLS.
    pub tls: bool,
}

impl Host {
    /// Whether what is sent there stays on this machine, by its name alone.
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        let address = self.name.parse::<std::net::IpAddr>();
        address.map_or(self.name.eq_ignore_ascii_case("localhost"), |address| address.to_canonical().is_loopback())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, host_port(&self.name, u32::from(self.port)))
    }
}

impl Connection {
    /// Reads a connection string.
    ///
    /// # Errors
    /// A sentence that begins with `Invalid connection string` and names everything that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut wrong = Vec::new();
        let connection = Self::parse_into(text.trim(), &mut wrong);
        if wrong.is_empty() { Ok(connection) } else { Err(format!("Invalid connection string: {}", wrong.join("; "))) }
    }

    fn parse_into(text: &str, wrong: &mut Vec<String>) -> Self {
        // Wherever it stands, and however little of a url it is: nothing of it is shown.
        if text.contains('@') {
            wrong.push("user names and passwords do not belong into it".to_owned());
            return Self::default();
        }
        let (protocol, rest) = text.split_once("://").unwrap_or(("", text));
        let protocol = protocol.to_ascii_lowercase();
        match protocol.as_str() {
            "" | "http" | "https" => {}
            other => wrong.push(format!("`{other}` is not a protocol, use http or https")),
        }
        let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(rest, fragment)| (rest, Some(fragment)));
        if let Some(fragment) = fragment {
            wrong.push(format!("`#{fragment}` does not belong into it"));
        }
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let mut connection = Self { says_protocol: !protocol.is_empty(), ..Self::default() };
        if rest.contains("://") {
            wrong.push("the protocol is written once, before the first host".to_owned());
            return connection;
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        for host in hosts.split(',') {
            match Host::parse(host.trim(), protocol == "https") {
                Ok(host) if connection.hosts.contains(&host) => {}
                Ok(host) => connection.hosts.push(host),
                Err(why) => wrong.push(why),
            }
        }
        match decoded(path.strip_suffix('/').unwrap_or(path)) {
            Some(namespace) if !namespace.contains('/') => connection.namespace = namespace,
            _ => wrong.push(format!("`{path}` is not a namespace")),
        }
        for option in options.split('&').filter(|option| !option.is_empty()) {
            connection.option(option, wrong);
        }
        connection
    }

    fn option(&mut self, option: &str, wrong: &mut Vec<String>) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let field = match name {
            "ttl" => &mut self.ttl,
            "timeout" => &mut self.timeout,
            "token" => return wrong.push("a token does not belong into a url, where logs would show it".to_owned()),
            _ => return wrong.push(format!("`{name}` is not an option, there are ttl and timeout")),
        };
        match duration(value) {
            Ok(value) if value.is_zero() => wrong.push(format!("{name}: 0 is too short")),
            Ok(value) if field.is_none() => *field = Some(value),
            Ok(_) => wrong.push(format!("{name} is given twice")),
            Err(why) => wrong.push(format!("{name}: {why}")),
        }
    }
}

impl Host {
    fn parse(text: &str, tls: bool) -> Result<Self, String> {
        let refused = || format!("`{text}` is not a host, like 127.0.0.1:{DEFAULT_PORT}, registry.example or [::1]");
        let (name, port) = if let Some(rest) = text.strip_prefix('[') {
            let (name, port) = rest.split_once(']').ok_or_else(refused)?;
            name.parse::<std::net::Ipv6Addr>().map_err(|_| refused())?;
            (name, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(refused)?) })
        } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            if !is_name(name) {
                return Err(refused());
            }
            (name, port)
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                port.parse().ok().filter(|port| digits && *port != 0).ok_or_else(refused)?
            }
        };
        Ok(Self { name: name.to_owned(), port, tls })
    }
}

/// Whether it may be a host's name, or is an address of IPv4: what ends in a number is no name.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label =
        |label: &str| !label.is_empty() && label.chars().all(fits) && !label.starts_with('-') && !label.ends_with('-');
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').all(is_label) && (!is_number || text.parse::<std::net::Ipv4Addr>().is_ok())
}

/// Percent-decoded text, if it is well formed and UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (figures, rest) = part.split_at_checked(2)?;
        if !figures.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(figures, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted() {
        for (text, hosts, namespace) in [
            ("127.0.0.1:6624", "http://127.0.0.1:6624", ""),
            ("registry", "http://registry:6624", ""),
            ("http://registry.example/", "http://registry.example:6624", ""),
            ("http://h1,h2:7000/shop", "http://h1:6624 http://h2:7000", "shop"),
            ("http://h1,h1,h2/shop/?ttl=5s", "http://h1:6624 http://h2:6624", "shop"),
            ("http://h1?timeout=2s", "http://h1:6624", ""),
            ("https://h1,[::1]/shop", "https://h1:6624 https://[::1]:6624", "shop"),
            ("[::1]:7000", "http://[::1]:7000", ""),
            ("http://[::1],::2/", "http://[::1]:6624 http://[::2]:6624", ""),
            ("h/a%20b%C3%BC", "http://h:6624", "a bü"),
            ("h/*", "http://h:6624", "*"),
            ("HTTPS://h", "https://h:6624", ""),
            ("127.0.0.1,a-b.c_d.,x1:080", "http://127.0.0.1:6624 http://a-b.c_d.:6624 http://x1:80", ""),
        ] {
            let connection = Connection::parse(text).unwrap();
            let shown: Vec<_> = connection.hosts.iter().map(Host::to_string).collect();
            assert_eq!((shown.join(" ").as_str(), connection.namespace.as_str()), (hosts, namespace), "{text}");
        }
        let both = Connection::parse("h?ttl=5s&timeout=250ms").unwrap();
        assert_eq!((both.ttl, both.timeout), (Some(Duration::from_secs(5)), Some(Duration::from_millis(250))));
    }

    #[test]
    fn refused() {
        for (text, why) in [
            ("", "`` is not a host"),
            ("http://", "`` is not a host"),
            ("ftp://h", "`ftp` is not a protocol"),
            ("h:0", "`h:0` is not a host"),
            ("h:70000", "`h:70000` is not a host"),
            ("h1,,h2", "`` is not a host"),
            ("[::1", "`[::1` is not a host"),
            ("[h]:1", "`[h]:1` is not a host"),
            ("a b", "`a b` is not a host"),
            ("me:secret@h", "user names and passwords"),
            ("a:pa/ss@h", "user names and passwords"),
            ("http://a:pa?ss@h", "user names and passwords"),
            ("h:+80", "`h:+80` is not a host"),
            ("...", "`...` is not a host"),
            ("-", "`-` is not a host"),
            ("a.-b", "`a.-b` is not a host"),
            ("999.1.1.1", "`999.1.1.1` is not a host"),
            ("1.2.3", "`1.2.3` is not a host"),
            ("h/shop#x", "`#x` does not belong"),
            ("http://h1,https://h2", "the protocol is written once"),
            ("h/a/b", "`a/b` is not a namespace"),
            ("h/%zz", "`%zz` is not a namespace"),
            ("h/%f", "`%f` is not a namespace"),
            ("h/%+1", "`%+1` is not a namespace"),
            ("h?colour=red", "`colour` is not an option"),
            ("h?token=x", "a token does not belong"),
            ("h?ttl=5", "ttl: `5` has no unit"),
            ("h?ttl=5s&ttl=5s", "ttl is given twice"),
            ("ftp://h:0?x", "; `x` is not an option"),
        ] {
            let error = Connection::parse(text).unwrap_err();
            assert!(error.starts_with("Invalid connection string: ") && error.contains(why), "{text}: {error}");
            assert!(!error.contains("pa/") && !error.contains("secret"), "{error}");
        }
    }
}
