//! The arguments that backends and frontends have in common, as the command line has them. Calls nothing.

use prost_types::{Struct, Value, value::Kind};

use crate::{cli::failure::Failure, proto::Target};

/// Which revision the change is for.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Expected {
    /// Only if it is still of this revision.
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(in crate::cli) expected_revision: u64,
}

/// Where a frontend points.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(in crate::cli) struct Pointing {
    /// The backend that takes all traffic.
    #[arg(long, value_name = "BACKEND")]
    to: Option<String>,
    /// Backends with their weights, which take its traffic in these shares.
    #[arg(long, value_name = "BACKEND=N,…", value_delimiter = ',', value_parser = weight_argument)]
    weights: Vec<Target>,
}

impl Pointing {
    /// The targets. With both given, the backend has to be one of those with a weight.
    ///
    /// # Errors
    /// It is none of them.
    pub(in crate::cli) fn targets(self) -> Result<Vec<Target>, Failure> {
        match self.to {
            Some(to) if self.weights.is_empty() => Ok(vec![Target { backend: to, weight: None }]),
            Some(to) if !self.weights.iter().any(|target| target.backend == to) => {
                Err(Failure::Usage(format!("--weights says nothing of {to}, which --to names")))
            }
            _ => Ok(self.weights),
        }
    }
}

fn weight_argument(text: &str) -> Result<Target, String> {
    let (backend, weight) = text.rsplit_once('=').ok_or("is not like blue=95")?;
    let weight = weight.parse().map_err(|_| format!("`{weight}` is no weight from 0 to 1000000"))?;
    Ok(Target { backend: backend.to_owned(), weight: Some(weight) })
}

/// A further field: its name, and JSON or else a text.
pub(super) fn field_argument(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("is not like owner=team-a")?;
    let value = match serde_json::from_str(value) {
        Ok(json) => to_value(&json),
        Err(_) if value.is_empty() => Value { kind: Some(Kind::NullValue(0)) },
        Err(_) => Value { kind: Some(Kind::StringValue(value.to_owned())) },
    };
    Ok((name.to_owned(), value))
}

fn to_value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(yes) => Kind::BoolValue(*yes),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(list) => Kind::ListValue(prost_types::ListValue { values: list.iter().map(to_value).collect() }),
        Json::Object(object) => {
            let fields = object.iter().map(|(name, value)| (name.clone(), to_value(value))).collect();
            Kind::StructValue(Struct { fields })
        }
    };
    Value { kind: Some(kind) }
}

/// The fields of a request; none if none is given.
pub(super) fn fields_of(fields: Vec<(String, Value)>) -> Option<Struct> {
    (!fields.is_empty()).then(|| Struct { fields: fields.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let target = |backend: &str, weight| Target { backend: backend.to_owned(), weight };
        assert_eq!(weight_argument("blue=95"), Ok(target("blue", Some(95))));
        assert_eq!(weight_argument("a=b=0"), Ok(target("a=b", Some(0))));
        assert!(weight_argument("blue").is_err() && weight_argument("blue=-1").is_err());
        for (text, kind) in [
            ("a=1.5", Kind::NumberValue(1.5)),
            ("a=team-a", Kind::StringValue("team-a".into())),
            ("a=\"1\"", Kind::StringValue("1".into())),
            ("a=true", Kind::BoolValue(true)),
            ("a=null", Kind::NullValue(0)),
            ("a=", Kind::NullValue(0)),
        ] {
            assert_eq!(field_argument(text).unwrap(), ("a".to_owned(), Value { kind: Some(kind) }), "{text}");
        }
        let both = |to: Option<&str>, weights| Pointing { to: to.map(str::to_owned), weights }.targets();
        assert_eq!(both(Some("green"), vec![]).unwrap(), [target("green", None)]);
        let weights = vec![target("blue", Some(95)), target("green", Some(5))];
        assert_eq!(both(Some("green"), weights.clone()).unwrap(), weights);
        assert!(both(Some("red"), weights).is_err());
    }
}
