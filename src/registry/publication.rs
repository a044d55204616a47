//! What an application publishes: checked, and put into the message that its readers get. Knows no readers.

use prost::Message;
use prost_types::{Timestamp, Value};
use smol_str::SmolStr;

use super::{
    Violation,
    name::{DEFAULT_NAMESPACE, check_name, check_new_namespace},
    registration::metadata,
};

/// Largest data of an event, in bytes of its protobuf encoding.
pub const MAX_PUBLISHED_BYTES: usize = metadata::BYTES_MAX;

/// An event of an application.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// Namespace of the service.
    pub namespace: SmolStr,
    /// The service that it belongs to.
    pub service: SmolStr,
    /// What kind of event it is.
    pub kind: SmolStr,
    /// What its publisher has to tell.
    pub data: Option<Value>,
}

/// `onair.v1.Published`.
#[derive(Clone, PartialEq, Message)]
struct Published {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    service: String,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(string, tag = "4")]
    kind: String,
    #[prost(message, optional, tag = "5")]
    data: Option<Value>,
    #[prost(message, optional, tag = "6")]
    at: Option<Timestamp>,
}

impl Publication {
    /// Reads what is to be published.
    ///
    /// # Errors
    /// All violations.
    pub fn parse(namespace: &str, service: &str, kind: &str, mut data: Option<Value>) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { namespace };
        check_new_namespace("namespace", namespace, &mut violations);
        check_name("service", service, &mut violations);
        check_name("kind", kind, &mut violations);
        let broken = data.as_mut().map(metadata::check).unwrap_or_default();
        let of_data = |description| Violation { field: "data".to_owned(), description };
        violations.extend(broken.into_iter().map(of_data));
        if !violations.is_empty() {
            return Err(violations);
        }
        Ok(Self { namespace: namespace.into(), service: service.into(), kind: kind.into(), data })
    }

    /// The encoded `Published`, by the instance `id` if that is not empty.
    #[must_use]
    pub fn encode(&self, id: &str, at: Timestamp) -> Vec<u8> {
        let Self { namespace, service, kind, data } = self.clone();
        let (namespace, service, kind) = (namespace.into(), service.into(), kind.into());
        Published { namespace, service, id: id.to_owned(), kind, data, at: Some(at) }.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;

    use super::*;

    fn text(size: usize) -> Value {
        Value { kind: Some(Kind::StringValue("x".repeat(size))) }
    }

    #[test]
    fn an_event_is_read_and_written() {
        let publication = Publication::parse("", "web", "order.created", Some(text(3))).expect("an event");
        let at = Timestamp { seconds: 7, nanos: 8 };
        let read = Published::decode(&publication.encode("web-1", at)[..]).expect("a message");
        let expected = Published {
            namespace: "default".into(),
            service: "web".into(),
            id: "web-1".into(),
            kind: "order.created".into(),
            data: Some(text(3)),
            at: Some(at),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn all_that_is_wrong_is_named() {
        let fields = |namespace, service, kind, data| {
            let violations = Publication::parse(namespace, service, kind, data).err().unwrap_or_default();
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(fields("", "web", "k", None), "");
        assert_eq!(fields("*", "", "a/b", Some(text(MAX_PUBLISHED_BYTES))), "namespace service kind data");
        assert_eq!(fields("frontend", "web", "", Some(text(MAX_PUBLISHED_BYTES - 4))), "namespace kind");
    }
}
