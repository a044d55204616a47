//! What a program says of itself when it joins.

use std::time::Duration;

use prost_types::{Struct, Value, value::Kind};
use uuid::Uuid;

use super::line::to_wire;
use crate::proto::{IfMissing, Instance, RegisterRequest, Status};

/// A registration in the making: what is left out is completed by the server. Anything else a `RegisterRequest` can say
/// is said there: `join` takes one as well.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Registration(RegisterRequest);

impl Registration {
    /// Of an instance of this service.
    pub fn new(service: &str) -> Self {
        let instance = Instance { service: service.to_owned(), ..Instance::default() };
        // The same for every attempt: it is made once, however often it is sent.
        let request_id = Uuid::now_v7().to_string();
        Self(RegisterRequest { instance: Some(instance), request_id, ..RegisterRequest::default() })
    }

    fn with(mut self, change: impl FnOnce(&mut Instance)) -> Self {
        change(self.0.instance.get_or_insert_default());
        self
    }

    /// The port that it listens on.
    pub fn port(self, port: u16) -> Self {
        self.with(|instance| instance.port = u32::from(port))
    }

    /// Its host name or address. Left out: the address that the call comes from.
    pub fn host(self, host: &str) -> Self {
        self.with(|instance| instance.host = host.to_owned())
    }

    /// Which copy of the service it is. Left out: host and port.
    pub fn id(self, id: &str) -> Self {
        self.with(|instance| instance.id = id.to_owned())
    }

    /// Its whole url, if it is not `http://host:port`.
    pub fn url(self, url: &str) -> Self {
        self.with(|instance| instance.url = url.to_owned())
    }

    /// Its version.
    pub fn version(self, version: &str) -> Self {
        self.with(|instance| instance.version = version.to_owned())
    }

    /// Where it runs.
    pub fn zone(self, zone: &str) -> Self {
        self.with(|instance| instance.zone = zone.to_owned())
    }

    /// Scheme of its url. Left out: `http`.
    pub fn protocol(self, protocol: &str) -> Self {
        self.with(|instance| instance.protocol = protocol.to_owned())
    }

    /// Another port, by its name.
    pub fn named_port(self, name: &str, port: u16) -> Self {
        self.with(|instance| _ = instance.ports.insert(name.to_owned(), u32::from(port)))
    }

    /// Anything else to know about it, by names: text, a number, a truth, a list or an object of these.
    pub fn metadata(self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.with(|instance| {
            let mut fields = match instance.metadata.take().and_then(|metadata| metadata.kind) {
                Some(Kind::StructValue(fields)) => fields,
                _ => Struct::default(),
            };
            fields.fields.insert(name.to_owned(), value);
            instance.metadata = Some(Value { kind: Some(Kind::StructValue(fields)) });
        })
    }

    /// Whose replica it is: the partition of the service.
    pub fn partition_key(self, key: &str) -> Self {
        self.with(|instance| instance.partition_key = key.to_owned())
    }

    /// Its share of the traffic; 0 is none. Left out: 1.
    pub fn weight(self, weight: u32) -> Self {
        self.with(|instance| instance.weight = Some(weight))
    }

    /// What it says of itself at first. Left out: `SERVING`.
    pub fn status(self, status: Status) -> Self {
        self.with(|instance| instance.set_status(status))
    }

    /// How long it stays registered after its last beat. Left out: as the connection string says, else 10 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = to_wire(ttl);
        self
    }

    /// A stand-in for a service that it needs: its url.
    pub fn mock(mut self, service: &str, url: &str) -> Self {
        self.0.mocks.insert(service.to_owned(), url.to_owned());
        self
    }

    /// A service that it needs, in a version or range; empty is any.
    pub fn needs(mut self, service: &str, version: &str) -> Self {
        self.0.dependencies.insert(service.to_owned(), version.to_owned());
        self
    }

    /// Waits so long for what it needs, in place of failing at once.
    pub fn wait(mut self, wait: Duration) -> Self {
        (self.0.if_missing, self.0.wait) = (IfMissing::Wait.into(), to_wire(wait));
        self
    }
}

impl From<Registration> for RegisterRequest {
    fn from(registration: Registration) -> Self {
        registration.0
    }
}
