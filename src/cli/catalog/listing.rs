//! Lists of applications as files have them: as they are exported here, or as another registry publishes them. What is
//! no entry is told by its place; what an entry may say is the server's to judge.

use serde_json::{Map, Value};

use crate::proto::{EntryViolation, ListedApplication, ListedPort, ListedServiceType, RefusedEntry};

/// A list that was read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Listing {
    /// The service types that are some, each with its place in the list.
    pub(super) types: Vec<(usize, ListedServiceType)>,
    /// The applications.
    pub(super) applications: Vec<(usize, ListedApplication)>,
    /// What is none.
    pub(super) faults: Vec<RefusedEntry>,
}

/// What is wrong with an entry, and where it stands.
struct Entry {
    at: String,
    violations: Vec<EntryViolation>,
}

impl Entry {
    fn fault(&mut self, field: &str, description: &str) {
        let field = if field.is_empty() { self.at.clone() } else { format!("{}.{field}", self.at) };
        self.violations.push(EntryViolation { field, description: description.to_owned() });
    }

    fn text(&mut self, field: &str, value: Option<&Value>) -> String {
        match value {
            Some(Value::String(text)) => return text.clone(),
            None | Some(Value::Null) => self.fault(field, "is missing"),
            Some(_) => self.fault(field, "must be a text"),
        }
        String::new()
    }

    /// A number; one that fits nowhere is as large as what does, which no rule takes.
    fn number(&mut self, field: &str, value: Option<&Value>) -> Option<i32> {
        let value = value.filter(|value| !value.is_null())?;
        let whole = value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX));
        let Some(whole) = whole else {
            self.fault(field, "must be a whole number");
            return None;
        };
        Some(i32::try_from(whole).unwrap_or(if whole < 0 { i32::MIN } else { i32::MAX }))
    }

    fn list<'v>(&mut self, field: &str, value: Option<&'v Value>) -> &'v [Value] {
        match value {
            Some(Value::Array(all)) => return all,
            None | Some(Value::Null) => {}
            Some(_) => self.fault(field, "must be a list"),
        }
        &[]
    }

    fn port(&mut self, field: &str, value: &Value) -> ListedPort {
        let Some(members) = value.as_object() else {
            self.fault(field, "must be an object");
            return ListedPort::default();
        };
        // Where it was published it may be an object with an id.
        let service = members.get("service").map(|service| service.get("id").unwrap_or(service));
        ListedPort {
            service: self.text(&format!("{field}.service"), service),
            external: self.number(&format!("{field}.external"), members.get("external")),
            internal: self.number(&format!("{field}.internal"), members.get("internal")),
        }
    }

    fn application(&mut self, members: &Map<String, Value>) -> ListedApplication {
        let id = self.text("id", members.get("id"));
        let ports = self.list("ports", members.get("ports")).iter().enumerate();
        let ports = ports.map(|(place, port)| self.port(&format!("ports[{place}]"), port)).collect();
        let dependencies = self.list("dependencies", members.get("dependencies")).iter().enumerate();
        let dependencies =
            dependencies.map(|(place, needed)| self.text(&format!("dependencies[{place}]"), Some(needed))).collect();
        // What is left out stays; a list of none is none.
        let no_dependencies = members.get("dependencies").is_some_and(|given| *given == Value::Array(Vec::new()));
        ListedApplication { id, ports, dependencies, no_dependencies }
    }

    fn service_type(&mut self, members: &Map<String, Value>) -> ListedServiceType {
        let default_port = members.get("defaultPort").or_else(|| members.get("default_port"));
        ListedServiceType {
            id: self.text("id", members.get("id")),
            default_port: self.number("defaultPort", default_port),
            offset: self.number("offset", members.get("offset")),
        }
    }
}

impl Listing {
    /// Reads a list: of applications alone, or an object with `applications` and `serviceTypes`.
    ///
    /// # Errors
    /// It is neither.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        let none = Vec::new();
        let (types, applications) = match &value {
            Value::Array(applications) => (&none, applications),
            Value::Object(members) => {
                let list = |names: &[&str]| match names.iter().find_map(|name| members.get(*name)) {
                    Some(Value::Array(all)) => Ok(all),
                    None => Ok(&none),
                    Some(_) => Err(format!("its {} must be a list", names[0])),
                };
                if !members.contains_key("applications") {
                    return Err("it has no list of applications".to_owned());
                }
                (list(&["serviceTypes", "service_types", "services"])?, list(&["applications"])?)
            }
            _ => return Err("it must be a list of applications, or an object with one".to_owned()),
        };
        let mut listing = Self::default();
        for (place, value) in types.iter().enumerate() {
            let read = listing.entry(&format!("service_types[{place}]"), value, Entry::service_type);
            listing.types.extend(read.map(|read| (place, read)));
        }
        for (place, value) in applications.iter().enumerate() {
            let read = listing.entry(&format!("applications[{place}]"), value, Entry::application);
            listing.applications.extend(read.map(|read| (place, read)));
        }
        Ok(listing)
    }

    fn entry<T>(
        &mut self,
        at: &str,
        value: &Value,
        read: impl FnOnce(&mut Entry, &Map<String, Value>) -> T,
    ) -> Option<T> {
        let mut entry = Entry { at: at.to_owned(), violations: Vec::new() };
        let made = match value.as_object() {
            Some(members) => Some(read(&mut entry, members)),
            None => {
                entry.fault("", "must be an object");
                None
            }
        };
        if entry.violations.is_empty() {
            return made;
        }
        let id = value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.faults.push(RefusedEntry { place: at.to_owned(), id, violations: entry.violations });
        None
    }

    /// A place or field as the server tells it, who was sent only what could be read, as the file has it.
    pub(super) fn place(&self, told: &str) -> String {
        let in_file = || {
            let (list, rest) = told.split_once('[')?;
            let (sent, rest) = rest.split_once(']')?;
            let sent: usize = sent.parse().ok()?;
            let place = match list {
                "applications" => self.applications.get(sent)?.0,
                "service_types" => self.types.get(sent)?.0,
                _ => return None,
            };
            Some(format!("{list}[{place}]{rest}"))
        };
        in_file().unwrap_or_else(|| told.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_both_shapes() {
        let list = r#"[{"id": "api", "ports": [{"service": {"id": "play"}, "external": 6011, "internal": 9000,
            "healthcheck": {"host": "ws"}}], "dependencies": ["db"]}]"#;
        let port = ListedPort { service: "play".into(), external: Some(6011), internal: Some(9000) };
        let api = ListedApplication {
            id: "api".into(),
            ports: vec![port],
            dependencies: vec!["db".into()],
            ..Default::default()
        };
        let read = Listing::read(list).unwrap();
        assert_eq!((&read.applications, read.faults.len()), (&vec![(0, api.clone())], 0));
        let both = crate::export::json(
            &[ListedServiceType { id: "redis".into(), default_port: Some(6379), offset: Some(3) }],
            std::slice::from_ref(&api),
        );
        let read = Listing::read(&both).unwrap();
        assert_eq!((read.types[0].1.offset, read.applications), (Some(3), vec![(0, api)]));
        // What is left out stays, and none is none.
        let read =
            Listing::read(r#"[{"id": "aa"}, {"id": "bb", "dependencies": null}, {"id": "cc", "dependencies": []}]"#);
        let none: Vec<bool> = read.unwrap().applications.iter().map(|(_, of)| of.no_dependencies).collect();
        assert_eq!(none, [false, false, true]);
    }

    #[test]
    fn garbage_is_told_by_its_place() {
        for (text, why) in [
            ("", "it is no JSON: EOF while parsing a value at line 1 column 0"),
            ("[{]", "it is no JSON: key must be a string at line 1 column 3"),
            ("7", "it must be a list of applications, or an object with one"),
            ("{}", "it has no list of applications"),
            (r#"{"applications": 7}"#, "its applications must be a list"),
            (r#"{"applications": [], "services": {}}"#, "its serviceTypes must be a list"),
        ] {
            assert_eq!(Listing::read(text).unwrap_err(), why, "{text}");
        }
        let list = r#"[null, {"id": 7, "ports": {}, "dependencies": [1, null]}, {"id": "ok"},
            {"id": "p", "ports": [3, {"service": [], "external": 1.5, "internal": "80"}, {"service": "x",
            "external": 99999999999}]}]"#;
        let read = Listing::read(list).unwrap();
        let told: Vec<String> = read
            .faults
            .iter()
            .flat_map(|fault| &fault.violations)
            .map(|one| format!("{}: {}", one.field, one.description))
            .collect();
        assert_eq!(
            told,
            [
                "applications[0]: must be an object",
                "applications[1].id: must be a text",
                "applications[1].ports: must be a list",
                "applications[1].dependencies[0]: must be a text",
                "applications[1].dependencies[1]: is missing",
                "applications[3].ports[0]: must be an object",
                "applications[3].ports[1].service: must be a text",
                "applications[3].ports[1].external: must be a whole number",
                "applications[3].ports[1].internal: must be a whole number",
            ]
        );
        assert_eq!(read.place("applications[0].id"), "applications[2].id");
        assert_eq!(read.place("applications[9].id"), "applications[9].id");
        assert!(Listing::read(&"[".repeat(100_000)).is_err(), "no stack is deep enough");
    }
}
