//! Every trick with hosts and origins that is known to us.

use http::HeaderValue;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::tls::{Pem, ServerFiles, mint::Mint};

use super::*;

fn guard(listen: &str, more: impl FnOnce(&mut ServeSettings)) -> Guard {
    let mut settings = ServeSettings::default();
    more(&mut settings);
    let bound: Vec<SocketAddr> = listen.split(',').map(|address| address.parse().unwrap()).collect();
    Guard::new(&bound, &settings, None)
}

/// Judges a request to `target` with these headers; `ok`, or the reason.
fn judged(guard: &Guard, target: &str, lines: &[(&str, &str)]) -> String {
    let headers: HeaderMap = lines
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
        .fold(HeaderMap::new(), |mut headers, (name, value): (header::HeaderName, _)| {
            headers.append(name, value);
            headers
        });
    let Err(status) = guard.judge(&target.parse().unwrap(), &headers) else { return "ok".to_owned() };
    let reason = status.get_details_error_info().unwrap().reason;
    let code = if reason == "INVALID" { Code::InvalidArgument } else { Code::PermissionDenied };
    assert_eq!(status.code(), code, "{status:?}");
    reason
}

#[test]
fn hosts() {
    let loopback = guard("127.0.0.1:6624,[::1]:6624", |_| {});
    let wildcard = guard("0.0.0.0:6624", |_| {});
    let named = guard("10.0.0.1:6624", |settings| {
        settings.advertise = Some("Registry.Example:443".to_owned());
        settings.http_hosts = vec![Host::parse("other.example").unwrap(), Host::parse("192.0.2.7").unwrap()];
    });
    let (foreign, unclear) = ("HOST_NOT_ALLOWED", "INVALID");
    for (guard, host, wanted) in [
        (&loopback, "127.0.0.1:6624", "ok"),
        (&loopback, "127.0.0.1", "ok"),
        (&loopback, "127.0.0.1:80", "ok"), // a port that leads here
        (&loopback, "[::1]:6624", "ok"),
        (&loopback, "[0:0:0:0:0:0:0:1]", "ok"),
        (&loopback, "[::ffff:127.0.0.1]:6624", "ok"),
        (&loopback, "localhost:6624", "ok"),
        (&loopback, "LOCALHOST", "ok"),
        (&loopback, "localhost.:6624", "ok"),
        (&loopback, "evil.example:6624", foreign),
        (&loopback, "evil.example", foreign),
        (&loopback, "127.0.0.2", foreign),
        (&loopback, "10.0.0.1", foreign),
        (&loopback, "[::2]", foreign),
        (&loopback, "localhost.evil.example", foreign),
        (&loopback, "evil.localhost", foreign),
        (&loopback, "127.0.0.1.evil.example", foreign),
        (&loopback, "127.0.0.1.evil.example.", foreign),
        (&loopback, "localhost..", unclear),
        (&loopback, "localhost@evil.example", unclear),
        (&loopback, "evil.example@localhost", unclear),
        (&loopback, "localhost:6624@evil.example", unclear),
        (&loopback, "localhost evil.example", unclear),
        (&loopback, "localhost,evil.example", unclear),
        (&loopback, "localhost/evil", unclear),
        (&loopback, "evil.example\\localhost", unclear),
        (&loopback, "evil.example#localhost", unclear),
        (&loopback, "http://localhost", unclear),
        (&loopback, "[::1", unclear),
        (&loopback, "::1", unclear),
        (&loopback, "[::1%lo]", unclear),
        (&loopback, "0x7f.1", unclear),
        (&loopback, "2130706433", unclear),
        (&loopback, "127.1", unclear),
        (&loopback, "localhost:99999", unclear),
        (&loopback, "localhost:http", unclear),
        (&loopback, "lоcalhost", unclear), // with a Cyrillic o
        (&loopback, "", unclear),
        (&wildcard, "203.0.113.9:6624", "ok"),
        (&wildcard, "[2001:db8::1]", "ok"),
        (&wildcard, "localhost", "ok"),
        (&wildcard, "registry.example", foreign),
        (&named, "10.0.0.1:6624", "ok"),
        (&named, "registry.example:6624", "ok"),
        (&named, "registry.example.", "ok"),
        (&named, "OTHER.example", "ok"),
        (&named, "192.0.2.7", "ok"),
        (&named, "192.0.2.8", foreign),
        (&named, "127.0.0.1", foreign),
        (&named, "a.other.example", foreign),
    ] {
        assert_eq!(judged(guard, "/v1/info", &[("host", host)]), wanted, "{host}");
    }
}

#[test]
fn a_host_is_said_once_wherever_it_is_said() {
    let guard = guard("127.0.0.1:6624", |_| {});
    let (ours, evil) = ("localhost:6624", "evil.example");
    for (target, hosts, wanted) in [
        ("/", &[][..], "INVALID"),
        ("*", &[], "INVALID"),
        ("/", &[ours, ours], "INVALID"),
        ("/", &[ours, evil], "INVALID"),
        ("/", &[evil, ours], "INVALID"),
        // An absolute target, and what HTTP/2 has in `:authority`.
        ("http://localhost:6624/", &[ours], "ok"),
        ("http://localhost:6624/", &[], "ok"),
        ("http://LOCALHOST.:6624/", &[ours], "ok"),
        ("http://evil.example/", &[ours], "INVALID"),
        ("http://evil.example/", &[evil], "HOST_NOT_ALLOWED"),
        ("http://evil.example/", &[], "HOST_NOT_ALLOWED"),
        ("http://localhost:6624/", &[evil], "INVALID"),
        ("http://localhost:6624/", &["localhost:6625"], "INVALID"),
        ("http://evil@localhost:6624/", &[ours], "INVALID"),
        ("http://localhost@evil.example/", &[], "INVALID"),
        ("localhost:6624", &[ours], "ok"),
        ("evil.example:443", &[ours], "INVALID"),
    ] {
        let lines: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        assert_eq!(judged(&guard, target, &lines), wanted, "{target} {hosts:?}");
    }
}

#[test]
fn origins() {
    let guard = guard("127.0.0.1:6624", |settings| {
        settings.cors_origins = vec![WebOrigin::parse("https://shop.example").unwrap()];
    });
    let foreign = "ORIGIN_NOT_ALLOWED";
    for (host, origins, wanted) in [
        ("localhost:6624", &[][..], "ok"),
        ("localhost:6624", &["http://localhost:6624"], "ok"),
        ("LocalHost:6624", &["http://localhost:6624"], "ok"),
        ("localhost", &["http://localhost"], "ok"),
        ("localhost", &["https://localhost"], "ok"), // behind what ends TLS
        ("127.0.0.1:6624", &["http://127.0.0.1:6624"], "ok"),
        ("localhost:6624", &["https://shop.example"], "ok"),
        ("localhost:6624", &["https://shop.example:443"], "ok"),
        ("localhost:6624", &["https://shop.example:8443"], foreign),
        ("localhost:6624", &["http://shop.example"], foreign),
        ("localhost:6624", &["https://shop.example.evil.example"], foreign),
        ("localhost:6624", &["http://localhost:3000"], foreign),
        ("localhost:6624", &["http://localhost"], foreign),
        ("localhost:6624", &["http://127.0.0.1:6624"], foreign),
        ("localhost:6624", &["http://evil.example"], foreign),
        ("localhost:6624", &["null"], foreign),
        ("localhost:6624", &[""], foreign),
        ("localhost:6624", &["http://localhost:6624@evil.example"], foreign),
        ("localhost:6624", &["http://evil.example@localhost:6624"], foreign),
        ("localhost:6624", &["http://localhost:6624/"], foreign),
        ("localhost:6624", &["http://localhost:6624", "http://evil.example"], foreign),
        ("localhost:6624", &["http://localhost:6624 http://evil.example"], foreign),
        // A page that was led here by a name of its own: the host decides.
        ("evil.example:6624", &["http://evil.example:6624"], "HOST_NOT_ALLOWED"),
    ] {
        let mut lines = vec![("host", host)];
        lines.extend(origins.iter().map(|origin| ("origin", *origin)));
        assert_eq!(judged(&guard, "/v1/info", &lines), wanted, "{host} {origins:?}");
    }
}

#[test]
fn a_refusal_says_how_to_come_in() {
    let guard = guard("0.0.0.0:6624", |settings| settings.http_hosts = vec![Host::parse("r.example").unwrap()]);
    let judge = |host: &'static str, origin: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        guard.judge(&"/".parse().unwrap(), &headers).unwrap_err().message().to_owned()
    };
    assert_eq!(
        judge("evil.example", "null"),
        "this server is not called `evil.example`, but localhost, r.example, any IP address: use one of these, or add the \
         name to http_hosts if it leads here"
    );
    assert_eq!(
        judge("localhost", "http://evil.example"),
        "pages of `http://evil.example` may not call this server: add the origin to cors_origins if they are to"
    );
}

/// Whoever is on the way can be `http://` any name.
#[test]
fn where_tls_is_spoken_our_own_pages_come_by_it() {
    let authority = Mint::new(1).unwrap();
    let minted = authority.server(&["registry.example".to_owned()], 1).unwrap();
    let pair = [&minted.certificate, &minted.key].map(|pem| Pem::Text(pem.clone()));
    let [certificate, key] = pair;
    let live = Live::load(ServerFiles { certificate, key, clients: None }).unwrap();
    let bound = ["127.0.0.1:6624".parse().unwrap()];
    let settings =
        ServeSettings { cors_origins: vec![WebOrigin::parse("http://shop.example").unwrap()], ..Default::default() };
    let guard = Guard::new(&bound, &settings, Some(&Arc::new(live)));
    for (host, origin, wanted) in [
        ("registry.example:6624", "https://registry.example:6624", "ok"),
        ("localhost:6624", "https://localhost:6624", "ok"),
        ("registry.example:6624", "http://registry.example:6624", "ORIGIN_NOT_ALLOWED"),
        ("localhost:6624", "http://localhost:6624", "ORIGIN_NOT_ALLOWED"),
        // Who is allowed by name may come as it was named.
        ("localhost:6624", "http://shop.example", "ok"),
        ("other.example:6624", "https://other.example:6624", "HOST_NOT_ALLOWED"),
    ] {
        assert_eq!(judged(&guard, "/v1/info", &[("host", host), ("origin", origin)]), wanted, "{host} {origin}");
    }
}
