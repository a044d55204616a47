//! What a `package.json` says of a service: name, version, and a block of ours (`onair`, or `vasco` as that registry's
//! users have it) with dependencies, mocks, address and time to live. Reads text; knows neither calls nor flags.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde_json::{Map, Value as Json};

use super::failure::Failure;
use crate::config;

/// The blocks, the first that is there counts.
const BLOCKS: [&str; 2] = ["onair", "vasco"];
/// What a block may say.
const KEYS: [&str; 6] = ["dependencies", "mocks", "url", "port", "ttl", "aliveDuration"];

/// What it says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Package {
    /// Name of the service.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its url; empty if the block says none.
    pub url: String,
    /// Its port, if the block says one.
    pub port: Option<u16>,
    /// How long it stays registered after its last heartbeat, if the block says it.
    pub ttl: Option<Duration>,
    /// What it needs: name and version or range.
    pub dependencies: BTreeMap<String, String>,
    /// Stand-ins for what it needs: name and url.
    pub mocks: BTreeMap<String, String>,
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or is no package, with everything that is wrong with it.
pub fn read(path: &Path) -> Result<Package, Failure> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{shown}: cannot be read: {error}")))?;
    Package::parse(&text).map_err(|wrong| Failure::Usage(format!("Invalid package: {shown}: {}", wrong.join("; "))))
}

impl Package {
    /// Reads the text of a `package.json`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let json: Json = serde_json::from_str(text).map_err(|error| vec![format!("it is not JSON: {error}")])?;
        let Json::Object(all) = &json else { return Err(vec!["it is not a JSON object".to_owned()]) };
        let mut reader = Reader { wrong: Vec::new() };
        let mut package =
            Self { name: reader.required(all, "name"), version: reader.required(all, "version"), ..Self::default() };
        let block = BLOCKS.into_iter().find_map(|name| Some((name, all.get(name)?)));
        match block {
            Some((name, Json::Object(block))) => reader.block(name, block, &mut package),
            Some((name, _)) => reader.wrong.push(format!("`{name}` is not an object")),
            None => {}
        }
        if reader.wrong.is_empty() { Ok(package) } else { Err(reader.wrong) }
    }
}

/// Gathers what is wrong.
struct Reader {
    wrong: Vec<String>,
}

impl Reader {
    fn required(&mut self, all: &Map<String, Json>, name: &str) -> String {
        match all.get(name) {
            Some(Json::String(text)) if !text.is_empty() => return text.clone(),
            Some(Json::String(_)) => self.wrong.push(format!("`{name}` is empty")),
            Some(_) => self.wrong.push(format!("`{name}` is not a text")),
            None => self.wrong.push(format!("`{name}` is missing")),
        }
        String::new()
    }

    fn block(&mut self, name: &str, block: &Map<String, Json>, package: &mut Package) {
        package.dependencies = self.texts(name, block, "dependencies");
        package.mocks = self.texts(name, block, "mocks");
        match block.get("url") {
            None => {}
            Some(Json::String(url)) if !url.is_empty() => package.url.clone_from(url),
            Some(_) => self.wrong.push(format!("`{name}.url` is no url")),
        }
        if let Some(port) = block.get("port") {
            package.port = port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            if package.port.is_none() {
                self.wrong.push(format!("`{name}.port` is not a number from 1 to 65535"));
            }
        }
        package.ttl = self.ttl(name, block);
        for key in block.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.wrong.push(format!("`{name}.{}` is not known: there are {}", key.escape_debug(), KEYS.join(", ")));
        }
    }

    /// As a duration with its unit, or as whole or broken seconds.
    fn ttl(&mut self, name: &str, block: &Map<String, Json>) -> Option<Duration> {
        let said = match (block.get("ttl"), block.get("aliveDuration")) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                self.wrong.push(format!("`{name}.ttl` and `{name}.aliveDuration` say the same: give one"));
                return None;
            }
            (Some(Json::String(text)), None) => config::duration(text).ok(),
            (Some(_), None) => None,
            (None, Some(seconds)) => seconds.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        };
        let said = said.filter(|ttl| !ttl.is_zero());
        if said.is_none() {
            let form = "`ttl` is a duration like \"10s\", `aliveDuration` a number of seconds";
            self.wrong.push(format!("`{name}` says no time to live: {form}"));
        }
        said
    }

    fn texts(&mut self, name: &str, block: &Map<String, Json>, key: &str) -> BTreeMap<String, String> {
        let entries = match block.get(key) {
            None => return BTreeMap::new(),
            Some(Json::Object(entries)) => entries,
            Some(_) => {
                self.wrong.push(format!("`{name}.{key}` is not an object"));
                return BTreeMap::new();
            }
        };
        let mut texts = BTreeMap::new();
        for (entry, value) in entries {
            match value {
                Json::String(text) => _ = texts.insert(entry.clone(), text.clone()),
                _ => self.wrong.push(format!("`{name}.{key}.{}` is not a text", entry.escape_debug())),
            }
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_of_either_kind_is_read() {
        let vasco = r#"{"name": "shop", "version": "1.0.0", "private": true, "dependencies": {"express": "^4"},
            "vasco": {"dependencies": {"api": "2.0.1"}, "mocks": {"auth": "localhost:3000"}, "aliveDuration": 2.5}}"#;
        let read = Package::parse(vasco).unwrap();
        let one = |name: &str, text: &str| BTreeMap::from([(name.to_owned(), text.to_owned())]);
        assert_eq!((&*read.name, &*read.version, &*read.url, read.port), ("shop", "1.0.0", "", None));
        assert_eq!((read.dependencies, read.mocks), (one("api", "2.0.1"), one("auth", "localhost:3000")));
        assert_eq!(read.ttl, Some(Duration::from_millis(2_500)));
        let ours =
            r#"{"name": "a", "version": "1", "vasco": 7, "onair": {"port": 80, "url": "http://a", "ttl": "5s"}}"#;
        let read = Package::parse(ours).unwrap();
        assert_eq!((&*read.url, read.port, read.ttl), ("http://a", Some(80), Some(Duration::from_secs(5))));
        assert_eq!(Package::parse(r#"{"name": "a", "version": "1"}"#).unwrap().dependencies, BTreeMap::new());
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        for (text, expected) in [
            ("{", &["it is not JSON: "][..]),
            ("[]", &["it is not a JSON object"]),
            ("{}", &["`name` is missing", "`version` is missing"]),
            (
                r#"{"name": "", "version": 1, "onair": []}"#,
                &["`name` is empty", "`version` is not a text", "`onair` is not"],
            ),
            (
                r#"{"name": "a", "version": "1", "vasco": {"dependencies": {"b": 1, "c": "1"}, "mocks": [], "port": 0,
                    "url": 7, "aliveDuration": -1, "depends": {}}}"#,
                &[
                    "`vasco.dependencies.b` is not a text",
                    "`vasco.mocks` is not an object",
                    "`vasco.url` is no url",
                    "`vasco.port` is not a number",
                    "`vasco` says no time to live",
                    "`vasco.depends` is not known",
                ],
            ),
            (
                r#"{"name": "a", "version": "1", "onair": {"ttl": "5s", "aliveDuration": 5}}"#,
                &["`onair.ttl` and `onair.aliveDuration`"],
            ),
            (r#"{"name": "a", "version": "1", "onair": {"ttl": 5}}"#, &["`onair` says no time to live"]),
        ] {
            let wrong = Package::parse(text).unwrap_err();
            assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
            for (got, expected) in wrong.iter().zip(expected) {
                assert!(got.starts_with(expected), "{got} for {expected}");
            }
        }
    }
}
