//! The port of a program: the one that is given, or the same at each start where that is free, so that who was told of it finds
//! it there again. Knows no registry.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use socket2::{Domain, Socket, Type};
use tokio::time::{Instant, sleep};

use crate::cli::{
    check::{Check, Place},
    failure::Failure,
};

/// Below the ports that systems give to connections, and above those of the catalog.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;
/// So many copies of a program find ports of this kind; more take any.
const TRIES: u32 = 64;
/// Who had it before may be at its end: so long that is waited for, with this between two looks.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOKS: Duration = Duration::from_millis(20);

/// A port, held against other commands of this kind until the program has it.
pub(super) struct Port {
    /// Its number.
    pub(super) number: u16,
    _hold: Option<hold::Hold>,
}

/// The port that is given, if nobody listens there; else one for this name.
///
/// # Errors
/// It is in use, or there is none.
pub(super) async fn of(namespace: &str, name: &str, given: Option<u16>) -> Result<Port, Failure> {
    let Some(number) = given else { return free(namespace, name).await };
    let late = Instant::now() + PATIENCE;
    // Whoever answers there would pass for the program.
    while Check::Tcp.look(&Place::here(number)).await.is_ok() {
        if Instant::now() >= late {
            return Err(Failure::Other(format!("port {number} is in use already")));
        }
        sleep(LOOKS).await;
    }
    Ok(Port { number, _hold: None })
}

async fn free(namespace: &str, name: &str) -> Result<Port, Failure> {
    let late = Instant::now() + PATIENCE;
    for number in candidates(namespace, name) {
        let Some(hold) = hold::take(number) else { continue };
        // The command that had it was killed, and the program that it ran goes a little later.
        while !is_free(number) && Instant::now() < late {
            sleep(LOOKS).await;
        }
        if is_free(number) {
            return Ok(Port { number, _hold: Some(hold) });
        }
    }
    let number = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    Ok(Port { number, _hold: None })
}

/// The same for the same name, and different for others as far as they go.
fn candidates(namespace: &str, name: &str) -> impl Iterator<Item = u16> {
    let seed = format!("{namespace}/{name}/");
    (0..TRIES).map(move |attempt| {
        let hash = Sha256::digest(format!("{seed}{attempt}"));
        FIRST + u16::from_be_bytes([hash[0], hash[1]]) % COUNT
    })
}

/// Whether a program can listen there, on whichever addresses.
fn is_free(port: u16) -> bool {
    let any: [SocketAddr; 2] = [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
    any.into_iter().all(|address| {
        // Without IPv6 there is nobody there to be in the way.
        let Ok(socket) = Socket::new(Domain::for_address(address), Type::STREAM, None) else { return true };
        let _ = socket.set_reuse_address(true);
        if address.is_ipv6() {
            let _ = socket.set_only_v6(true);
        }
        match socket.bind(&address.into()) {
            Ok(()) => true,
            Err(error) => address.is_ipv6() && error.kind() == std::io::ErrorKind::AddrNotAvailable,
        }
    })
}

/// Two commands that look at one moment both find a port free: who has its name in the system's list of sockets goes
/// first. It is gone with the process, and belongs to the same network as the port.
#[cfg(target_os = "linux")]
mod hold {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    };

    pub(super) type Hold = UnixListener;

    pub(super) fn take(port: u16) -> Option<Hold> {
        let name = SocketAddr::from_abstract_name(format!("onair-run-{port}")).ok()?;
        UnixListener::bind_addr(&name).ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod hold {
    pub(super) type Hold = ();

    pub(super) fn take(_: u16) -> Option<Hold> {
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_ports() {
        let ports = |name: &str| candidates("shop", name).collect::<Vec<_>>();
        assert_eq!(ports("api"), ports("api"));
        assert_ne!(ports("api")[0], ports("web")[0]);
        assert_ne!(ports("api")[0], candidates("", "api").next().unwrap());
        assert!(ports("api").iter().all(|port| (20_000..32_000).contains(port)));
    }

    #[tokio::test]
    async fn a_copy_has_another_and_the_next_start_the_same() {
        let name = format!("a copy of {}", std::process::id());
        let first = free("", &name).await.unwrap();
        let second = free("", &name).await.unwrap();
        assert_ne!(first.number, second.number);
        let before = first.number;
        drop(first);
        let again = free("", &name).await.unwrap();
        assert_eq!(again.number, before);
        drop(again);
        // One that listens is passed over.
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, before)).unwrap();
        assert_ne!(free("", &name).await.unwrap().number, before);
        // One that is at its end is waited for.
        let (again, ()) = tokio::join!(free("", &name), async { drop(listener) });
        assert_eq!(again.unwrap().number, before);
    }
}
