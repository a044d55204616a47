//! What requests give by name: the variables of a query, the fields of a form, the members of a JSON object; a name may
//! have many values. Read into requests of the catalog, with all that is wrong with them.

use http::{HeaderMap, Uri, header::CONTENT_TYPE};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::{FieldViolation, StatusExt as _};

use crate::{
    grpc::status::{self, Reason},
    http::{body, query},
    proto::*,
    registry::{Error, Violation},
};

/// Names and values, in order.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

fn fault(field: &str, description: impl Into<String>) -> Violation {
    Violation { field: field.to_owned(), description: description.into() }
}

fn checked<T>(value: T, violations: Vec<Violation>) -> Result<T, Status> {
    if violations.is_empty() { Ok(value) } else { Err(Error::Invalid(violations).into()) }
}

/// A request, and what is wrong with how it was written. Then it has a value that no rule takes: so the call is refused,
/// with all that is wrong with the rest.
#[derive(Debug)]
pub(super) struct Read<Q> {
    pub(super) request: Q,
    pub(super) faults: Faults,
}

/// What is wrong with how a request was written.
#[derive(Debug, Default)]
pub(super) struct Faults {
    violations: Vec<Violation>,
    /// The field that is right, but was given a value that no rule takes.
    spoilt: Option<&'static str>,
}

impl Faults {
    /// What came of the call, with these in place of what it says of their fields.
    pub(super) fn told<R>(self, came: Result<R, Status>) -> Result<R, Status> {
        let Self { violations: mut left, spoilt } = self;
        let status = match came {
            Ok(come) => return checked(come, left),
            Err(status) if left.is_empty() => return Err(status),
            Err(status) => status,
        };
        if !matches!(status.code(), Code::InvalidArgument | Code::AlreadyExists) {
            return Err(status);
        }
        let told = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        let mut all = Vec::new();
        for FieldViolation { field, description, .. } in told {
            match left.iter().position(|fault| fault.field == field) {
                Some(place) => all.push(left.remove(place)),
                None if spoilt == Some(field.as_str()) => {}
                None => all.push(fault(&field, description)),
            }
        }
        all.append(&mut left);
        Err(Error::Invalid(all).into())
    }
}

/// The most entries that a list is asked for at once.
const LIMIT_MAX: u32 = 100;

/// What is wrong with a list whose limit is this.
fn faults_of_list(limit: &mut u32, violations: Vec<Violation>) -> Faults {
    let is_right = !violations.is_empty() && *limit <= LIMIT_MAX;
    if is_right {
        *limit = u32::MAX;
    }
    Faults { violations, spoilt: is_right.then_some("limit") }
}

impl Fields {
    /// The variables of a query.
    pub(super) fn of_query(uri: &Uri) -> Result<Self, Status> {
        Self::of_pairs(uri.query().unwrap_or_default())
    }

    fn of_pairs(text: &str) -> Result<Self, Status> {
        let (mut fields, mut violations) = (Vec::new(), Vec::new());
        for (name, value) in query::variables(text) {
            match (name, value) {
                (Ok(name), Ok(value)) => fields.push((name, value)),
                (Ok(name), Err(wrong)) => violations.push(fault(&name, format!("{name} {wrong}"))),
                (Err(wrong), _) => violations.push(fault("", format!("a name {wrong}"))),
            }
        }
        checked(Self(fields), violations)
    }

    /// The fields of a body: a JSON object if it says so, else a form.
    pub(super) fn of_body(headers: &HeaderMap, bytes: &[u8]) -> Result<Self, Status> {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !body::is_plain(headers) {
            return Err(status::plain(Reason::UnsupportedMediaType, "the body must not be compressed"));
        }
        match essence.as_str() {
            "application/json" => Self::of_json(bytes),
            "application/x-www-form-urlencoded" | "" => {
                let text = std::str::from_utf8(bytes).map_err(|_| malformed("the body is not UTF-8"))?;
                Self::of_pairs(text.trim_end())
            }
            _ => Err(status::plain(Reason::UnsupportedMediaType, "the body must be JSON or a form")),
        }
    }

    fn of_json(bytes: &[u8]) -> Result<Self, Status> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let value =
            serde_json::from_slice(bytes).map_err(|error| malformed(&format!("the body is no JSON: {error}")))?;
        let Value::Object(members) = value else { return Err(malformed("the body must be a JSON object")) };
        let (mut fields, mut violations) = (Vec::new(), Vec::new());
        for (name, value) in members {
            let values = match value {
                // An empty list is given, too.
                Value::Array(values) if values.is_empty() => vec![Value::String(String::new())],
                Value::Array(values) => values,
                value => vec![value],
            };
            for value in values {
                match value {
                    Value::Null => {}
                    Value::String(text) => fields.push((name.clone(), text)),
                    Value::Number(number) => fields.push((name.clone(), number.to_string())),
                    Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                        violations.push(fault(&name, format!("{name} must be a text or a number, or a list of them")));
                    }
                }
            }
        }
        checked(Self(fields), violations)
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(of, value)| of == name && !value.is_empty()).map(|(_, value)| value.clone()).collect()
    }

    fn last(&self, name: &str) -> Option<String> {
        self.all(name).pop()
    }

    /// What the application is to need: nothing, if it is given empty.
    fn dependencies(&self) -> (Vec<String>, bool) {
        let names = ["dependency", "dependencies", "dependency[]"];
        let given = self.0.iter().any(|(name, _)| names.contains(&name.as_str()));
        let all: Vec<String> = names.iter().flat_map(|name| self.all(name)).collect();
        let none = given && all.is_empty();
        (all, none)
    }

    /// A number; beyond what fits it is as large as what does, which no field takes.
    fn number(&self, name: &str, label: &str, violations: &mut Vec<Violation>) -> Option<i32> {
        let text = self.last(name)?;
        match text.trim().parse::<i64>() {
            Ok(number) => Some(i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })),
            Err(_) => {
                violations.push(fault(name, format!("{label} must be a number")));
                Some(i32::MIN)
            }
        }
    }

    fn page(&self, violations: &mut Vec<Violation>) -> (u32, u32) {
        let before = violations.len();
        let limit = self.number("limit", "Limit", violations).unwrap_or(25);
        if limit < 1 && violations.len() == before {
            violations.push(fault("limit", "Limit must be 1 to 100"));
        }
        let before = violations.len();
        let offset = self.number("offset", "Offset", violations).unwrap_or(0);
        if offset < 0 && violations.len() == before {
            violations.push(fault("offset", "Offset must be >= 0"));
        }
        (limit.unsigned_abs(), offset.unsigned_abs())
    }

    fn numbers<T: std::str::FromStr>(&self, name: &str, violations: &mut Vec<Violation>) -> Vec<T> {
        let mut numbers = Vec::new();
        for text in self.all(name) {
            match text.parse() {
                Ok(number) => numbers.push(number),
                Err(_) => violations.push(fault(name, format!("{name} must be a number, not {text}"))),
            }
        }
        numbers
    }

    pub(super) fn create(&self) -> Read<CreateApplicationRequest> {
        let mut violations = Vec::new();
        let external = self.number("external", "External port", &mut violations);
        let internal = self.number("internal", "Internal port", &mut violations);
        let request = CreateApplicationRequest {
            id: self.last("id").unwrap_or_default(),
            service: self.last("service").unwrap_or_default(),
            external,
            internal,
            dependencies: self.dependencies().0,
            ..Default::default()
        };
        Read { request, faults: Faults { violations, spoilt: None } }
    }

    pub(super) fn put(&self, id: String) -> Read<PutApplicationRequest> {
        let mut violations = Vec::new();
        let external = self.number("external", "External port", &mut violations);
        let internal = self.number("internal", "Internal port", &mut violations);
        let (dependencies, no_dependencies) = self.dependencies();
        let request = PutApplicationRequest {
            id,
            service: self.last("service"),
            external,
            internal,
            dependencies,
            no_dependencies,
            ..Default::default()
        };
        Read { request, faults: Faults { violations, spoilt: None } }
    }

    pub(super) fn create_service(&self) -> Read<CreateServiceTypeRequest> {
        let mut violations = Vec::new();
        let default_port = self.number("default_port", "Default port", &mut violations);
        let offset = self.number("offset", "Offset", &mut violations);
        let id = self.last("id").unwrap_or_default();
        let request = CreateServiceTypeRequest { id, default_port, offset, ..Default::default() };
        Read { request, faults: Faults { violations, spoilt: None } }
    }

    pub(super) fn put_service(&self, id: String) -> Read<PutServiceTypeRequest> {
        let mut violations = Vec::new();
        let default_port = self.number("default_port", "Default port", &mut violations);
        let offset = self.number("offset", "Offset", &mut violations);
        let request = PutServiceTypeRequest { id, default_port, offset, ..Default::default() };
        Read { request, faults: Faults { violations, spoilt: None } }
    }

    pub(super) fn applications(&self) -> Read<ListApplicationsRequest> {
        let mut violations = Vec::new();
        let ports = self.numbers("port", &mut violations);
        let (mut limit, offset) = self.page(&mut violations);
        let faults = faults_of_list(&mut limit, violations);
        let request = ListApplicationsRequest {
            ids: self.all("id"),
            ports,
            services: self.all("service"),
            prefix: self.last("prefix").unwrap_or_default(),
            q: self.last("q").unwrap_or_default(),
            sort: self.last("sort").unwrap_or_default(),
            limit,
            offset,
            ..Default::default()
        };
        Read { request, faults }
    }

    pub(super) fn services(&self) -> Read<ListServiceTypesRequest> {
        let mut violations = Vec::new();
        let (mut limit, offset) = self.page(&mut violations);
        let faults = faults_of_list(&mut limit, violations);
        let (ids, sort) = (self.all("id"), self.last("sort").unwrap_or_default());
        Read { request: ListServiceTypesRequest { ids, sort, limit, offset, ..Default::default() }, faults }
    }

    pub(super) fn versions(&self, kind: CatalogKind, entries: &str) -> Read<ListCatalogVersionsRequest> {
        let mut violations = Vec::new();
        let ids = self.numbers("id", &mut violations);
        let (mut limit, offset) = self.page(&mut violations);
        let faults = faults_of_list(&mut limit, violations);
        let sort = self.last("sort").unwrap_or_default().replace("journal_timestamp", "timestamp");
        let (entries, kind) = (self.all(entries), kind.into());
        let request = ListCatalogVersionsRequest { ids, entries, kind, sort, limit, offset, ..Default::default() };
        Read { request, faults }
    }
}

fn malformed(sentence: &str) -> Status {
    status::plain(Reason::Malformed, sentence)
}
