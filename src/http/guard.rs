//! Promise 19: which requests may come in at all. A browser carries whatever a page asks for to any address that its
//! machine reaches, loopback too: so a request has to name this server by a name of its own, and a page of another
//! server needs to be allowed. Owns that judgement, and knows nothing of what is asked for.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, Uri, header};
use tonic::Status;

use crate::{
    config::{Authority, Host, ServeSettings, WebOrigin},
    grpc::status,
    tls::{AlternativeName, Live},
};

/// The name by which every machine calls itself.
const LOCALHOST: &str = "localhost";
/// Bytes of what a request named that are told again.
const TOLD_MAX: usize = 100;

/// The judgement.
#[derive(Debug)]
pub struct Guard {
    hosts: HashSet<Host>,
    /// Listening on a wildcard, it cannot know its addresses. Whoever names an address was not led here by a name that
    /// somebody else made point here.
    any_address: bool,
    /// What TLS is spoken with: whoever calls by a name of the certificate has had it proved, so it is ours.
    tls: Option<Arc<Live>>,
    origins: HashSet<WebOrigin>,
}

impl Guard {
    /// Of a server that listens on `bound`, and speaks TLS if there is something to speak it with.
    #[must_use]
    pub fn new(bound: &[SocketAddr], settings: &ServeSettings, tls: Option<&Arc<Live>>) -> Self {
        let addresses = bound.iter().map(|address| address.ip().to_canonical());
        let advertised = settings.advertise.as_deref().and_then(Authority::parse).map(|authority| authority.host);
        let hosts = addresses
            .clone()
            .filter(|address| !address.is_unspecified())
            .map(Host::Address)
            .chain([Host::Name(LOCALHOST.to_owned())])
            .chain(advertised)
            .chain(settings.http_hosts.iter().cloned());
        Self {
            hosts: hosts.collect(),
            any_address: addresses.clone().any(|address: IpAddr| address.is_unspecified()),
            tls: tls.cloned(),
            origins: settings.cors_origins.iter().cloned().collect(),
        }
    }

    /// Whether a request may come in: it names one host, which is ours, and no page of somebody else sent it.
    ///
    /// # Errors
    /// `INVALID` without exactly one readable host; `HOST_NOT_ALLOWED`, `ORIGIN_NOT_ALLOWED`.
    pub fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Status> {
        let asked = asked_for(uri, headers)?;
        let is_ours = self.hosts.contains(&asked.host)
            || (self.any_address && matches!(asked.host, Host::Address(_)))
            || self.tls.as_ref().is_some_and(|live| live.now().covers(&asked.host.to_string()));
        if !is_ours {
            return Err(status::host_not_allowed(&asked.host.to_string(), &self.names()));
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if self.is_allowed(origin, &asked) => Ok(()),
            (Some(origin), _) => Err(status::origin_not_allowed(&told(origin.as_bytes()))),
        }
    }

    /// Whether there are other servers' pages that may call.
    #[must_use]
    pub fn has_origins(&self) -> bool {
        !self.origins.is_empty()
    }

    /// Whether pages of this origin, which is not our own, may call.
    #[must_use]
    pub fn is_configured(&self, origin: &header::HeaderValue) -> bool {
        read(origin).is_some_and(|origin| self.origins.contains(&origin))
    }

    fn is_allowed(&self, origin: &header::HeaderValue, asked: &Authority) -> bool {
        // Where TLS is spoken, a page that came in the clear is whoever's is on the way.
        let is_own = |origin: &WebOrigin| origin.is_at(asked) && (self.tls.is_none() || origin.is_secure());
        read(origin).is_some_and(|origin| is_own(&origin) || self.origins.contains(&origin))
    }

    /// What it may be called, in the order of the alphabet.
    fn names(&self) -> String {
        let mut names: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        names.sort();
        if let Some(live) = &self.tls {
            names.extend(live.now().names.iter().filter_map(|name| match name {
                AlternativeName::Dns(name) => Some(name.clone()),
                _ => None,
            }));
            names.sort();
            names.dedup();
        }
        if self.any_address {
            names.push("any IP address".to_owned());
        }
        names.join(", ")
    }
}

fn read(origin: &header::HeaderValue) -> Option<WebOrigin> {
    origin.to_str().ok().and_then(WebOrigin::parse)
}

/// The host that a request is for. It stands in the request's target, in `Host`, or in both; then they have to agree, or
/// whoever stands between us and the client may have believed the other one.
fn asked_for(uri: &Uri, headers: &HeaderMap) -> Result<Authority, Status> {
    let target = uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut named = headers.get_all(header::HOST).iter().map(header::HeaderValue::as_bytes).chain(target);
    let Some(first) = named.next() else {
        return Err(status::invalid("host", "is missing: say which host the request is for"));
    };
    let readable = |text: &[u8]| std::str::from_utf8(text).ok().and_then(Authority::parse);
    let Some(asked) = readable(first) else {
        return Err(status::invalid("host", format!("`{}` is not host or host:port", told(first))));
    };
    let lines = headers.get_all(header::HOST).iter().count();
    if lines > 1 || named.any(|other| readable(other).as_ref() != Some(&asked)) {
        return Err(status::invalid("host", "is said more than once, or otherwise than in the request's target"));
    }
    Ok(asked)
}

/// What a request said, in a sentence of ours.
fn told(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TOLD_MAX)]).into_owned()
}

#[cfg(test)]
mod tests;
