//! What is to be run, however it was said: on the command line, in a `package.json`, or in a file of programs.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

use clap::ValueEnum;

use super::{environment::said_port, life::Times};
use crate::{
    cli::{
        check::Check,
        lease,
        needs::IfMissing,
        package::Package,
        session::{Session, to_wire},
    },
    proto::{Instance, RegisterRequest},
};

/// What to do when something that a program needs is elsewhere than it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnMove {
    /// Say so.
    Tell,
    /// Start the program again, with where that is now.
    Restart,
}

/// One program.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The name of its service.
    pub(super) name: String,
    pub(super) command: Vec<OsString>,
    /// Where it runs.
    pub(super) dir: Option<PathBuf>,
    /// What it finds in its environment besides.
    pub(super) variables: BTreeMap<String, String>,
    pub(super) port: Option<u16>,
    pub(super) check: Check,
    pub(super) times: Times,
    pub(super) ttl: Option<Duration>,
    pub(super) needs: BTreeMap<String, String>,
    pub(super) mocks: BTreeMap<String, String>,
    pub(super) if_missing: IfMissing,
    /// How long it waits for what it needs; none: as long as it takes.
    pub(super) needs_timeout: Option<Duration>,
    pub(super) on_move: OnMove,
    /// What is registered, as far as it is known before.
    pub(super) instance: Instance,
}

impl Plan {
    pub(super) fn new(name: String, command: Vec<OsString>) -> Self {
        Self {
            name,
            command,
            dir: None,
            variables: BTreeMap::new(),
            port: None,
            check: Check::Tcp,
            times: Times {
                interval: Duration::from_secs(1),
                start: Duration::from_secs(60),
                wait: Duration::from_secs(2),
                slack: Duration::from_secs(5),
            },
            ttl: None,
            needs: BTreeMap::new(),
            mocks: BTreeMap::new(),
            if_missing: IfMissing::Wait,
            needs_timeout: None,
            on_move: OnMove::Tell,
            instance: Instance::default(),
        }
    }

    /// With what a package says where nothing else is said.
    pub(super) fn completed(mut self, package: Package) -> Self {
        let Package { name, version, url, port, ttl, dependencies, mocks } = package;
        if self.name.is_empty() {
            self.name = name;
        }
        if self.instance.version.is_empty() {
            self.instance.version = version;
        }
        // With another port than was given it is a url where nobody listens.
        let is_elsewhere = self.port.is_some() && said_port(&url).is_some_and(|said| self.port != Some(said));
        if self.instance.url.is_empty() && !is_elsewhere {
            self.instance.url = url;
        }
        self.port = self.port.or(port);
        let mut plan = self.listening();
        plan.ttl = plan.ttl.or(ttl);
        for (all, said) in [(&mut plan.needs, dependencies), (&mut plan.mocks, mocks)] {
            for (name, value) in said {
                all.entry(name).or_insert(value);
            }
        }
        plan
    }

    /// Where its url says a port, it listens there.
    pub(super) fn listening(mut self) -> Self {
        self.port = self.port.or_else(|| said_port(&self.instance.url));
        self
    }

    /// With what the session says where nothing else is said.
    pub(super) fn within(mut self, session: &Session) -> Self {
        self.instance.namespace.clone_from(&session.namespace);
        self.ttl = self.ttl.or(session.ttl);
        self
    }

    /// What no registry takes of it.
    pub(super) fn refused(&self) -> Vec<String> {
        let (dependencies, mocks) = (self.needs.clone(), self.mocks.clone());
        // Any port is as good as its own.
        lease::refused(&RegisterRequest { dependencies, mocks, ..self.request(self.port.unwrap_or(1)) })
    }

    /// The registration, once it has a port.
    pub(super) fn request(&self, port: u16) -> RegisterRequest {
        let instance = Instance { service: self.name.clone(), port: u32::from(port), ..self.instance.clone() };
        RegisterRequest { instance: Some(instance), ttl: self.ttl.and_then(to_wire), ..RegisterRequest::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_gives_the_port_that_it_says_and_no_other() {
        let package = |url: &str| Package { url: url.to_owned(), ..Package::default() };
        let completed = |port: Option<u16>, url: &str| {
            let plan = Plan { port, ..Plan::new("shop".into(), Vec::new()) }.completed(package(url));
            (plan.port, plan.instance.url)
        };
        for (given, url, port, kept) in [
            (None, "http://h:8080", Some(8080), "http://h:8080"),
            (None, "https://shop.example", None, "https://shop.example"),
            (Some(1), "https://shop.example", Some(1), "https://shop.example"),
            (Some(1), "http://h:1/x", Some(1), "http://h:1/x"),
            (Some(1), "http://h:8080", Some(1), ""),
        ] {
            assert_eq!(completed(given, url), (port, kept.to_owned()), "{given:?} {url}");
        }
    }
}
