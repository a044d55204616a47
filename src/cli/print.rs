//! Standard output: lines and tables for people, canonical proto JSON for programs. What cannot be written ends the
//! command.

use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::{
    failure::Failure,
    text::{Table, Tone, safe_json},
};
use crate::{config::Output, proto};

/// Where results go, and in which form.
#[derive(Clone, Debug)]
pub struct Printer {
    output: Output,
    colour: bool,
    /// Instead of standard output.
    #[cfg(test)]
    kept: Option<std::sync::Arc<std::sync::Mutex<Vec<String>>>>,
}

impl Printer {
    /// Colours only for a terminal that wants them.
    #[must_use]
    pub fn new(output: Output) -> Self {
        let colour = wants_colour(io::stdout().is_terminal());
        Self {
            output,
            colour,
            #[cfg(test)]
            kept: None,
        }
    }

    /// Keeps the lines instead of printing them.
    #[cfg(test)]
    pub fn keeping(output: Output) -> (Self, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
        let kept = std::sync::Arc::<std::sync::Mutex<_>>::default();
        (Self { output, colour: false, kept: Some(kept.clone()) }, kept)
    }

    /// Whether a program reads.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Whether the call is to be shown, and not made.
    #[must_use]
    pub fn is_curl(&self) -> bool {
        self.output == Output::Curl
    }

    /// For what is not one call, which no `curl` command stands for.
    ///
    /// # Errors
    /// One was asked for.
    pub fn is_no_call(&self, what: &str) -> Result<(), Failure> {
        match self.output {
            Output::Curl => Err(Failure::Usage(format!("--output curl shows one call, and {what} is none"))),
            Output::Table | Output::Json => Ok(()),
        }
    }

    /// `text` in a colour, where there are colours.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colour { tone.paint(text) } else { text.to_owned() }
    }

    /// A line as it is: the caller has made it safe.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        #[cfg(test)]
        if let Some(kept) = &self.kept {
            kept.lock().unwrap().extend(text.lines().map(str::to_owned));
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }

    /// A table, or `(empty)`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn table(&self, table: &Table) -> Result<(), Failure> {
        if table.is_empty() { self.line("(empty)") } else { self.line(&table.render()) }
    }

    /// A message of the API, by its name within the package, as one line of canonical JSON.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn message(&self, name: &str, message: &impl Message) -> Result<(), Failure> {
        self.value(&to_json(name, message)?)
    }

    /// Any JSON, on one line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn value(&self, value: &serde_json::Value) -> Result<(), Failure> {
        self.line(&safe_json(&value.to_string()))
    }
}

/// Whether colours are welcome: on a terminal, unless its owner wants none.
#[must_use]
pub fn wants_colour(is_terminal: bool) -> bool {
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal && !plain
}

/// Tells something beside the results: on standard error, so that it never mixes with them.
pub fn note(text: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "onair: {text}");
}

/// Canonical proto JSON of a message of the API, by its name within the package.
///
/// # Errors
/// The message does not fit its descriptor.
pub fn to_json(name: &str, message: &impl Message) -> Result<serde_json::Value, Failure> {
    let descriptor = pool()
        .and_then(|pool| pool.get_message_by_name(&format!("onair.v1.{name}")))
        .ok_or_else(|| Failure::Internal(format!("there is no descriptor of {name}")))?;
    DynamicMessage::decode(descriptor, &message.encode_to_vec()[..])
        .map_err(|error| error.to_string())
        .and_then(|message| {
            let options = SerializeOptions::new();
            message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| error.to_string())
        })
        .map(whole)
        .map_err(|error| Failure::Internal(format!("{name} as JSON: {error}")))
}

/// Numbers that are whole as they were given: `3` of somebody's metadata is no `3.0`.
fn whole(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    /// Beyond it not every whole number is one of these.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => match number.as_f64() {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole, and within what is exact")]
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT => (float as i64).into(),
            _ => Value::Number(number),
        },
        Value::Array(all) => all.into_iter().map(whole).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, whole(value))).collect(),
        other => other,
    }
}

/// The proto's name of an enum's value, without its prefix; the number of one that is not known.
#[must_use]
pub fn enum_name(name: &str, number: i32, prefix: &str) -> String {
    let found = pool().and_then(|pool| pool.get_enum_by_name(&format!("onair.v1.{name}")));
    match found.and_then(|known| known.get_value(number)) {
        Some(value) => value.name().strip_prefix(prefix).unwrap_or(value.name()).to_owned(),
        None => number.to_string(),
    }
}

/// The API's descriptors; none only if the build is broken.
fn pool() -> Option<&'static DescriptorPool> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(proto::BARE_DESCRIPTORS).ok()).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Instance, LookupResponse, Status};

    #[test]
    fn json_is_canonical() {
        let instance = Instance {
            service: "web".into(),
            weight: Some(0),
            status: Status::Serving as i32,
            revision: u64::MAX,
            online_since: Some(prost_types::Timestamp { seconds: 0, nanos: 5_000_000 }),
            metadata: Some(prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) }),
            ..Instance::default()
        };
        let json =
            to_json("LookupResponse", &LookupResponse { instances: vec![instance], ..Default::default() }).unwrap();
        let expected = serde_json::json!({"instances": [{
            "service": "web", "weight": 0, "status": "STATUS_SERVING", "revision": "18446744073709551615",
            "onlineSince": "1970-01-01T00:00:00.005Z", "metadata": true,
        }]});
        assert_eq!(json, expected);
        assert!(matches!(to_json("Nothing", &LookupResponse::default()), Err(Failure::Internal(_))));
    }
}
