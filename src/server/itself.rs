//! The registry as an instance of its own service: where others reach it, that it is entered before anybody can ask, and
//! that it leaves before the streams end. Its key is the registry's id, so a server that is started again after a crash
//! replaces what it was, wherever it listens now. Knows no rule of registrations: that nobody else takes it, and that it
//! has no deadline, is the state's to say.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    actor::{RegistryHandle, anyone},
    config::ServeSettings,
    registry::{Context, Instance, Key, LeaseTtl, Registration, Target, Violation},
};

/// The service, in the default namespace.
const SERVICE: &str = "onair";
/// How long the start waits for the store to take it, and the end for it to let go. It goes on without.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after a refusal it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Addresses for documentation (RFC 5737 and 3849), which nobody has: what would be sent there goes the default way.
const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Where others reach each of the addresses that are listened on: as configured, else as bound, for a wildcard the
/// address that this machine is known by on the default way out.
pub(super) fn members(settings: &ServeSettings, bound: &[SocketAddr]) -> Vec<String> {
    match &settings.advertise {
        Some(address) => vec![address.clone()],
        None => bound.iter().map(|address| reachable(*address, way_out).to_string()).collect(),
    }
}

fn reachable(bound: SocketAddr, way_out: impl Fn(bool) -> Option<IpAddr>) -> SocketAddr {
    let loopback = if bound.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
    let ip = match bound.ip() {
        // Without a way out nobody but this machine comes in.
        wildcard if wildcard.is_unspecified() => way_out(bound.is_ipv4()).unwrap_or(loopback),
        address => address,
    };
    SocketAddr::new(ip, bound.port())
}

/// The address that the system would send from. Connecting a datagram socket sends nothing.
fn way_out(v4: bool) -> Option<IpAddr> {
    let far = FAR.into_iter().find(|far| far.is_ipv4() == v4)?;
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // No datagram is sent, so any port but 0 does.
    socket.connect((far, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

/// The address by which most others come in: one that is not loopback, if there is one.
fn main_address(members: &[String]) -> Option<&String> {
    let is_loopback = |member: &&String| member.parse::<SocketAddr>().is_ok_and(|at| at.ip().is_loopback());
    members.iter().find(|member| !is_loopback(member)).or(members.first())
}

/// The registry's own instance, while the server runs.
#[derive(Debug)]
pub(super) struct Itself {
    key: Key,
    /// Enters it, as often as it takes.
    entering: Option<JoinHandle<()>>,
}

impl Itself {
    /// Registers it, or takes away what an earlier life registered if the setting says so. Waits for the store, but not
    /// for long: a registry whose disk is full has to serve.
    pub(super) async fn enter(
        handle: &RegistryHandle,
        settings: &ServeSettings,
        members: &[String],
        ops: &[SocketAddr],
    ) -> Self {
        let id = handle.hub().id().to_string();
        let key = Key::new(crate::registry::DEFAULT_NAMESPACE, SERVICE, &*id);
        if !settings.register_itself {
            let itself = Self { key, entering: None };
            itself.leave(handle).await;
            return itself;
        }
        let ports = ops.first().map(|at| ("ops".to_owned(), u32::from(at.port()))).into_iter().collect();
        let registration = match describe(id, own_url(settings, main_address(members)), &settings.zone, ports) {
            Ok(registration) => registration,
            Err(violations) => {
                tracing::warn!(?violations, "the registry cannot register itself");
                return Self { key, entering: None };
            }
        };
        let (entered, is_in) = oneshot::channel();
        let entering = tokio::spawn(enter_at_last(handle.clone(), registration, entered));
        if timeout(PATIENCE, is_in).await.is_err() {
            tracing::warn!("the registry is not registered itself yet: the store has not taken it");
        }
        Self { key, entering: Some(entering) }
    }

    /// It goes offline.
    pub(super) async fn leave(&self, handle: &RegistryHandle) {
        if let Some(entering) = &self.entering {
            entering.abort();
        }
        let leaving = handle.deregister(Target::Own(self.key.clone()), anyone(), None);
        match timeout(PATIENCE, leaving).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the registry stays registered"),
            Err(_) => tracing::warn!("the registry stays registered: the store has not taken that it leaves"),
        }
    }
}

/// How others call it there.
fn own_url(settings: &ServeSettings, address: Option<&String>) -> String {
    let protocol = if settings.tls_cert.is_some() { "https" } else { "http" };
    address.map(|address| format!("{protocol}://{address}")).unwrap_or_default()
}

/// What is registered: checked and completed as what anybody registers.
fn describe(id: String, url: String, zone: &str, ports: BTreeMap<String, u32>) -> Result<Registration, Vec<Violation>> {
    let instance = Instance {
        service: SERVICE.to_owned(),
        id,
        url,
        // Without the commit, so that ranges find it.
        version: env!("CARGO_PKG_VERSION").to_owned(),
        zone: zone.to_owned(),
        ports,
        ..Instance::default()
    };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let mut registration = Registration::parse(instance, None, context)?;
    registration.ttl = LeaseTtl::OWN;
    Ok(registration)
}

/// Registers until it is registered: a store that is away comes back. What an attempt of unknown outcome left behind is
/// replaced by the next.
async fn enter_at_last(handle: RegistryHandle, registration: Registration, entered: oneshot::Sender<()>) {
    let mut pause = RETRY.0;
    loop {
        match handle.register(registration.clone(), None, anyone(), None).await {
            Ok(_) => break,
            Err(crate::registry::Error::ShuttingDown) => return,
            Err(error) => tracing::debug!(%error, "the registry is not registered itself yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
    // The start may have gone on without.
    let _ = entered.send(());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(advertise: Option<&str>) -> ServeSettings {
        ServeSettings { advertise: advertise.map(str::to_owned), ..ServeSettings::default() }
    }

    #[test]
    fn others_are_told_an_address_that_leads_here() {
        let out = |v4: bool| Some(if v4 { "10.0.0.7" } else { "fd00::7" }.parse().unwrap());
        for (bound, with, without) in [
            ("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1"),
            ("10.0.0.9:1", "10.0.0.9:1", "10.0.0.9:1"),
            ("0.0.0.0:1", "10.0.0.7:1", "127.0.0.1:1"),
            ("[::]:1", "[fd00::7]:1", "[::1]:1"),
        ] {
            let bound = bound.parse().unwrap();
            assert_eq!(reachable(bound, out), with.parse().unwrap());
            assert_eq!(reachable(bound, |_| None), without.parse().unwrap());
        }
        assert!(way_out(true).is_none_or(|ip| !ip.is_unspecified()));
        let bound = ["127.0.0.1:1".parse().unwrap()];
        assert_eq!(members(&settings(None), &bound), ["127.0.0.1:1"]);
        assert_eq!(members(&settings(Some("registry.example:7")), &bound), ["registry.example:7"]);
    }

    fn semver_like(version: &str) -> bool {
        crate::registry::VersionMatch::parse(">=0.0.0-0").is_ok_and(|range| range.matches(version))
    }

    #[test]
    fn it_is_described_as_anybody_is() {
        let members = ["127.0.0.1:1", "10.0.0.7:6624"].map(str::to_owned);
        let ports = BTreeMap::from([("ops".to_owned(), 9)]);
        let mut settings = ServeSettings::default();
        let registration = describe("some-id".into(), own_url(&settings, main_address(&members)), "eu", ports).unwrap();
        let Instance { namespace, service, id, host, port, url, version, zone, .. } = registration.instance;
        assert_eq!((&*namespace, &*service, &*id, &*zone), ("default", "onair", "some-id", "eu"));
        assert_eq!((&*host, port, &*url), ("10.0.0.7", 6624, "http://10.0.0.7:6624"));
        assert!(crate::VERSION.starts_with(&version) && semver_like(&version), "{version}");
        assert_eq!(main_address(&members[..1]), members.first());
        settings.tls_cert = Some(crate::tls::Pem::parse("some.pem"));
        let url = own_url(&settings, Some(&"registry.example:7".to_owned()));
        let named = describe("id".into(), url, "", BTreeMap::new()).unwrap();
        assert_eq!((&*named.instance.host, named.instance.port), ("registry.example", 7));
        assert_eq!((&*named.instance.protocol, &*named.instance.url), ("https", "https://registry.example:7"));
    }
}
