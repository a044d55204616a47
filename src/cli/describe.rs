//! What an instance is told to be on the command line, whatever registers it. Makes no call.

use std::time::Duration;

use super::{needs, session::duration_argument};
use crate::proto::Instance;

/// What there is to say of it besides its name and port.
#[derive(Debug, clap::Args)]
pub struct Described {
    /// Its host name or address for others. Default: the address that the registration comes from.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub host: String,
    /// Its version; semantic versions can be looked up by range.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub version: String,
    /// How long it stays registered after its last heartbeat, 1s to 1h. Default: the url's `ttl`, else 10s.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, allow_hyphen_values = true)]
    pub ttl: Option<Duration>,
    /// Where it runs.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub zone: String,
    /// Its share of the traffic for weighted picks; 0 is none. Default: 1.
    #[arg(long)]
    pub weight: Option<u32>,
    /// Anything else to know about it, as JSON.
    #[arg(long, value_name = "JSON", value_parser = json_argument)]
    pub metadata: Option<prost_types::Value>,
    /// Which copy of the service it is. Default: host:port.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub id: String,
    /// Scheme of its url. Default: http.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub protocol: String,
    /// A service that it needs, with a version or range after `@` if not any will do; may be repeated.
    #[arg(long, value_name = "NAME[@RANGE]", value_parser = needs::need)]
    pub needs: Vec<(String, String)>,
    /// A stand-in for something that it needs; may be repeated.
    #[arg(long, value_name = "NAME=URL", value_parser = needs::mock)]
    pub mock: Vec<(String, String)>,
}

impl Described {
    /// The instance, as far as this describes it.
    #[must_use]
    pub fn instance(self) -> Instance {
        let Self { host, version, zone, weight, metadata, id, protocol, .. } = self;
        Instance { host, version, zone, weight, metadata, id, protocol, ..Instance::default() }
    }
}

/// Reads any JSON for clap.
///
/// # Errors
/// A sentence.
pub fn json_argument(text: &str) -> Result<prost_types::Value, String> {
    serde_json::from_str(text).map(to_proto).map_err(|error| {
        let place = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
        format!("it is not JSON, at {place}column {}: a text stands in quotes, \"like this\"", error.column())
    })
}

/// JSON as the API has it.
#[must_use]
pub fn to_proto(json: serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(truth),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(to_proto).collect() })
        }
        Json::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields.into_iter().map(|(name, value)| (name, to_proto(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
