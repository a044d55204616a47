//! How one value is written: addresses, counts, durations, sizes, choices. Knows no table and no source.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::authority::{Host, Namespace, WebOrigin};
use crate::{
    registry::Realm,
    text::{duration, show_duration, show_size, size},
};

/// How many values a setting takes on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// None, or `=true` and `=false`.
    Switch,
    /// Several: repeated, or joined by commas.
    List,
}

/// The text form of a value of type `T`.
pub(super) trait Kind<T> {
    const VALUE_NAME: &'static str;
    const SHAPE: Shape = Shape::One;
    fn read(text: &str) -> Result<T, String>;
    /// What `read` reads; empty when there is no value.
    fn show(value: &T) -> String;
}

/// Socket addresses, joined by commas.
pub(super) struct Addresses;
impl Kind<Vec<SocketAddr>> for Addresses {
    const VALUE_NAME: &'static str = "ADDRESS";
    const SHAPE: Shape = Shape::List;

    fn read(text: &str) -> Result<Vec<SocketAddr>, String> {
        let address = |part: &str| {
            let part = part.trim();
            part.parse().map_err(|_| format!("`{part}` is not an address like 127.0.0.1:6624 or [::1]:6624"))
        };
        text.split(',').map(address).collect()
    }

    fn show(value: &Vec<SocketAddr>) -> String {
        value.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Several of one type, joined by commas; none is said by nothing.
macro_rules! listed {
    ($(#[doc = $doc:literal])+ $name:ident of $type:ty as $value_name:literal, not like $like:literal) => {
        $(#[doc = $doc])+
        pub(super) struct $name;
        impl Kind<Vec<$type>> for $name {
            const VALUE_NAME: &'static str = $value_name;
            const SHAPE: Shape = Shape::List;

            fn read(text: &str) -> Result<Vec<$type>, String> {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts
                    .map(|part| <$type>::parse(part).ok_or_else(|| format!("`{part}` is not {}", $like)))
                    .collect()
            }

            fn show(value: &Vec<$type>) -> String {
                value.iter().map(<$type>::to_string).collect::<Vec<_>>().join(",")
            }
        }
    };
}

listed! {
    /// Hosts without ports.
    Hosts of Host as "HOST", not like "a host like registry.example, 192.0.2.1 or [2001:db8::1], without a port"
}
listed! {
    /// Namespaces.
    Namespaces of Namespace as "NAMESPACE", not like "the name of a namespace"
}
listed! {
    /// Origins of pages.
    Origins of WebOrigin as "ORIGIN", not like "an origin like https://shop.example or http://localhost:3000, without a path"
}

listed! {
    /// Parts of the registry.
    Realms of Realm as "NAMESPACE[/SERVICES]", not like "a namespace like public, public-* or public/status-*"
}

/// A path.
pub(super) struct Directory;
impl Kind<PathBuf> for Directory {
    const VALUE_NAME: &'static str = "DIRECTORY";

    fn read(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() { Err("a directory is needed".to_owned()) } else { Ok(PathBuf::from(text)) }
    }

    fn show(value: &PathBuf) -> String {
        value.display().to_string()
    }
}

/// `true` or `false`; as a flag, its presence.
pub(super) struct Switch;
impl Kind<bool> for Switch {
    const VALUE_NAME: &'static str = "BOOL";
    const SHAPE: Shape = Shape::Switch;

    fn read(text: &str) -> Result<bool, String> {
        match text {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(format!("`{text}` is neither true nor false")),
        }
    }

    fn show(value: &bool) -> String {
        value.to_string()
    }
}

/// `on` or `off`.
pub(super) struct OnOff;
impl Kind<bool> for OnOff {
    const VALUE_NAME: &'static str = "on|off";

    fn read(text: &str) -> Result<bool, String> {
        Switch::read(text).map_err(|_| format!("`{text}` is neither on nor off"))
    }

    fn show(value: &bool) -> String {
        if *value { "on" } else { "off" }.to_owned()
    }
}

/// A whole number from `MIN` to `MAX`.
pub(super) struct Count<const MIN: u64, const MAX: u64>;
impl<T: TryFrom<u64> + TryInto<u64> + Copy, const MIN: u64, const MAX: u64> Kind<T> for Count<MIN, MAX> {
    const VALUE_NAME: &'static str = "COUNT";

    fn read(text: &str) -> Result<T, String> {
        let number = text.replace('_', "").parse::<u64>().ok();
        number
            .filter(|number| (MIN..=MAX).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("`{text}` is not a count from {MIN} to {MAX}"))
    }

    fn show(value: &T) -> String {
        number(*value).to_string()
    }
}

/// Bytes, from `MIN` to `MAX`.
pub(super) struct Size<const MIN: u64, const MAX: u64>;
impl<T: TryFrom<u64> + TryInto<u64> + Copy, const MIN: u64, const MAX: u64> Kind<T> for Size<MIN, MAX> {
    const VALUE_NAME: &'static str = "SIZE";

    fn read(text: &str) -> Result<T, String> {
        let bytes = size(text)?;
        (MIN..=MAX)
            .contains(&bytes)
            .then_some(bytes)
            .and_then(|bytes| T::try_from(bytes).ok())
            .ok_or_else(|| format!("`{text}` is not a size from {} to {}", show_size(MIN), show_size(MAX)))
    }

    fn show(value: &T) -> String {
        show_size(number(*value))
    }
}

/// A duration, from `MIN` to `MAX` milliseconds.
pub(super) struct Span<const MIN: u64, const MAX: u64>;
impl<const MIN: u64, const MAX: u64> Kind<Duration> for Span<MIN, MAX> {
    const VALUE_NAME: &'static str = "DURATION";

    fn read(text: &str) -> Result<Duration, String> {
        let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        let value = duration(text)?;
        if (min..=max).contains(&value) {
            Ok(value)
        } else {
            Err(format!("`{text}` is not a duration from {} to {}", show_duration(min), show_duration(max)))
        }
    }

    fn show(value: &Duration) -> String {
        show_duration(*value)
    }
}

/// A filter of tracing.
pub(super) struct Filter;
impl Kind<String> for Filter {
    const VALUE_NAME: &'static str = "FILTER";

    fn read(text: &str) -> Result<String, String> {
        match tracing_subscriber::EnvFilter::builder().parse(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!("`{text}` is not a log filter like info or onair=debug,warn ({error})")),
        }
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

/// Any text; what it stands for in help.
macro_rules! any_text {
    ($(#[doc = $doc:literal])+ $name:ident, $value_name:literal) => {
        $(#[doc = $doc])+
        pub(super) struct $name;
        impl Kind<String> for $name {
            const VALUE_NAME: &'static str = $value_name;

            fn read(text: &str) -> Result<String, String> {
                Ok(text.to_owned())
            }

            fn show(value: &String) -> String {
                value.clone()
            }
        }
    };
}

any_text! {
    /// Where a registry is; whoever dials reads it.
    Location, "URL"
}
any_text! {
    /// What others call something.
    Text, "TEXT"
}
any_text! {
    /// A name whose rules the server knows.
    Name, "NAME"
}
any_text! {
    /// Where something runs; the settings as a whole say what it may be.
    Zone, "ZONE"
}

/// `host:port`, or nothing.
pub(super) struct HostPort;
impl Kind<Option<String>> for HostPort {
    const VALUE_NAME: &'static str = "HOST:PORT";

    fn read(text: &str) -> Result<Option<String>, String> {
        let parts = text.rsplit_once(':').filter(|(host, port)| {
            let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
            !host.is_empty() && !bare_v6 && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        match parts {
            Some(_) => Ok(Some(text.to_owned())),
            None => Err(format!("`{text}` is not host:port, like registry.example:6624 or [2001:db8::1]:6624")),
        }
    }

    fn show(value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

/// One of a few words.
pub(super) struct Choice;
impl<T: Word> Kind<T> for Choice {
    const VALUE_NAME: &'static str = T::VALUE_NAME;

    fn read(text: &str) -> Result<T, String> {
        let found = T::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| format!("`{text}` is not one of {}", T::VALUE_NAME))
    }

    fn show(value: &T) -> String {
        T::WORDS.iter().find(|(_, known)| known == value).map_or("", |(word, _)| *word).to_owned()
    }
}

/// A type whose values have names.
pub(super) trait Word: Copy + PartialEq + 'static {
    const VALUE_NAME: &'static str;
    const WORDS: &'static [(&'static str, Self)];
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// An object a line.
    Json,
}

impl Word for LogFormat {
    const VALUE_NAME: &'static str = "auto|human|json";
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("human", Self::Human), ("json", Self::Json)];
}

/// How commands print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Aligned columns for people.
    Table,
    /// Canonical proto JSON.
    Json,
    /// The `curl` command that asks for the same.
    Curl,
}

impl Word for Output {
    const VALUE_NAME: &'static str = "table|json|curl";
    const WORDS: &'static [(&'static str, Self)] =
        &[("table", Self::Table), ("json", Self::Json), ("curl", Self::Curl)];
}

impl std::str::FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Choice::read(text)
    }
}

fn number<T: TryInto<u64>>(value: T) -> u64 {
    value.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_said() {
        type Few = Count<1, 9>;
        assert_eq!(<Few as Kind<usize>>::read("1_0").unwrap_err(), "`1_0` is not a count from 1 to 9");
        assert_eq!(<Few as Kind<u32>>::read("9"), Ok(9));
        type Small = Size<1024, 2048>;
        assert_eq!(<Small as Kind<u64>>::read("4KiB").unwrap_err(), "`4KiB` is not a size from 1KiB to 2KiB");
        assert_eq!(Span::<1, 1000>::read("2s").unwrap_err(), "`2s` is not a duration from 1ms to 1s");
    }

    #[test]
    fn hosts_and_ports() {
        for text in ["a:1", "10.0.0.1:6624", "[::1]:6624"] {
            assert_eq!(HostPort::read(text), Ok(Some(text.to_owned())));
        }
        for text in ["", "a", ":1", "a:", "a:0", "a:70000", "::1:6624"] {
            assert!(HostPort::read(text).is_err(), "{text}");
        }
    }
}
