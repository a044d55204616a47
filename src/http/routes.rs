//! The table of routes: which HTTP requests stand for which method, as `http.proto`'s option says on the methods of the
//! API. Read from the descriptors, and checked when it is read: what it names is there, and no two requests clash.
//! Knows nothing of how a request is served.

use std::collections::HashMap;

use http::{HeaderName, Method, uri::PathAndQuery};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};

use crate::proto::{self, HttpRoute, HttpRoutes};

/// The option of a method that holds its routes.
const OPTION: &str = "onair.v1.http";
/// The option of a field that says, among other things, whether it is a secret.
const RULES: &str = "onair.v1.rules";

/// The descriptors say something of HTTP that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// They cannot be read at all.
    #[error("the descriptors cannot be read: {0}")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// A method's option is wrong.
    #[error("{method}: {fault}")]
    Route {
        /// Full name of the method.
        method: String,
        /// What is wrong.
        fault: String,
    },
}

/// Every route of the API.
#[derive(Clone, Debug)]
pub struct Table {
    pool: DescriptorPool,
    routes: Vec<Route>,
}

/// Requests of one method and path.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name, unique among all.
    pub name: String,
    /// What it does, in a few words.
    pub summary: String,
    /// The HTTP method.
    pub method: Method,
    /// The path with its variables in braces.
    pub path: String,
    /// The path's segments.
    pub segments: Vec<Segment>,
    /// What the body is.
    pub body: Body,
    /// Query variables that there may be.
    pub query: Vec<Place>,
    /// Query variables that have to be given.
    pub required: Vec<String>,
    /// Headers that fill fields.
    pub headers: Vec<(HeaderName, Place)>,
    /// Headers that go before whatever else gives these texts.
    pub overrides: Vec<(HeaderName, Place)>,
    /// What an answer is that is no stream, although the replies are one.
    pub collected: Option<MessageDescriptor>,
    /// What it stands for.
    pub rpc: MethodDescriptor,
    /// The path of the gRPC call.
    pub grpc_path: PathAndQuery,
}

/// A part of a path between slashes.
#[derive(Clone, Debug)]
pub enum Segment {
    /// As it is.
    Literal(String),
    /// The value of a field.
    Variable(Place),
}

/// What a body is.
#[derive(Clone, Debug)]
pub enum Body {
    /// There is none.
    None,
    /// The request message.
    Whole,
    /// This field of it, or its only element, of this type.
    Field(FieldDescriptor, MessageDescriptor),
}

/// Where in the request message a value goes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The field of the request that it is a member of; none: it is a field of the request itself.
    pub within: Option<FieldDescriptor>,
    /// The field.
    pub field: FieldDescriptor,
}

impl Place {
    /// The path by which violations name it.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.within {
            None => self.field.name().to_owned(),
            Some(within) if within.is_list() => format!("{}[0].{}", within.name(), self.field.name()),
            Some(within) => format!("{}.{}", within.name(), self.field.name()),
        }
    }

    /// Whether `name` names it in a query.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.field.name() == name || self.field.json_name() == name
    }
}

/// Whether a field must not stand in a URL.
#[must_use]
pub fn is_secret(field: &FieldDescriptor) -> bool {
    let Some(rules) = field.parent_message().parent_pool().get_extension_by_name(RULES) else { return false };
    let options = field.options();
    let rules = options.get_extension(&rules);
    let secret = rules.as_message().and_then(|rules| rules.get_field_by_name("secret"));
    secret.is_some_and(|secret| secret.as_bool() == Some(true))
}

impl Table {
    /// The routes that the API's descriptors describe.
    ///
    /// # Errors
    /// When an option names what is not there, or two routes are the same.
    pub fn of_api() -> Result<Self, RouteError> {
        Self::read(DescriptorPool::decode(proto::BARE_DESCRIPTORS)?)
    }

    /// The same with the comments of the protos, for who tells of them.
    ///
    /// # Errors
    /// As `of_api`.
    pub fn with_comments() -> Result<Self, RouteError> {
        Self::read(DescriptorPool::decode(proto::DESCRIPTORS)?)
    }

    fn read(pool: DescriptorPool) -> Result<Self, RouteError> {
        let mut routes = Vec::new();
        for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let fault = |fault: String| RouteError::Route { method: rpc.full_name().to_owned(), fault };
            let HttpRoutes { routes: described, collected } = described(&rpc).map_err(fault)?;
            let collected = pool.get_message_by_name(&collected);
            if !described.is_empty() && rpc.is_server_streaming() != collected.is_some() {
                return Err(fault("what the replies of a stream are together".to_owned()));
            }
            for described in described {
                routes.push(Route { collected: collected.clone(), ..Route::read(&rpc, &described).map_err(fault)? });
            }
        }
        let mut shapes: HashMap<(Method, String), String> = HashMap::new();
        for route in &routes {
            let shape = (route.method.clone(), route.shape());
            if let Some(other) = shapes.insert(shape, route.rpc.full_name().to_owned()) {
                let fault = format!("{} {} is a request of {other}, too", route.method, route.path);
                return Err(RouteError::Route { method: route.rpc.full_name().to_owned(), fault });
            }
        }
        Ok(Self { pool, routes })
    }

    /// In the order of the protos.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The descriptor of a message that the front itself reads or writes.
    ///
    /// # Errors
    /// There is none.
    pub fn message(&self, name: &str) -> Result<MessageDescriptor, RouteError> {
        let missing = || RouteError::Route { method: name.to_owned(), fault: "is not there".to_owned() };
        self.pool.get_message_by_name(name).ok_or_else(missing)
    }

    /// The descriptors that it was read from.
    #[must_use]
    pub fn pool(&self) -> &DescriptorPool {
        &self.pool
    }
}

/// What the method's option says; empty without the option.
fn described(rpc: &MethodDescriptor) -> Result<HttpRoutes, String> {
    let Some(option) = rpc.parent_pool().get_extension_by_name(OPTION) else { return Ok(HttpRoutes::default()) };
    let options = rpc.options();
    match &*options.get_extension(&option) {
        Value::Message(message) => message.transcode_to().map_err(|error| error.to_string()),
        other => Err(format!("the option {OPTION} is {other:?}")),
    }
}

impl Route {
    fn read(rpc: &MethodDescriptor, described: &HttpRoute) -> Result<Self, String> {
        let input = rpc.input();
        if rpc.is_client_streaming() {
            return Err("a streamed request has no route".to_owned());
        }
        let method = Method::from_bytes(described.method.as_bytes()).map_err(|error| error.to_string())?;
        let body = match described.body.as_str() {
            "" => Body::None,
            "*" => Body::Whole,
            name => {
                let field = field_of(&input, name)?;
                let Kind::Message(message) = field.kind() else { return Err(format!("{name} is no message")) };
                Body::Field(field, message)
            }
        };
        if matches!(method, Method::GET | Method::DELETE) != matches!(body, Body::None) {
            return Err(format!("{method} with body {:?}", described.body));
        }
        let inline = match described.inline.as_str() {
            "" => None,
            name => Some(field_of(&input, name)?),
        };
        let place = |name: &str| place_of(&input, inline.as_ref(), name);
        let segments = segments(&described.path, &place)?;
        let header = |header: &proto::HttpHeader| {
            let name = HeaderName::try_from(header.name.as_str()).map_err(|error| error.to_string())?;
            Ok::<_, String>((name, place(&header.field)?))
        };
        let headers = described.headers.iter().map(header).collect::<Result<Vec<_>, _>>()?;
        let overrides = described.overrides.iter().map(header).collect::<Result<Vec<_>, _>>()?;
        if let Some((name, _)) = overrides.iter().find(|(_, place)| place.field.kind() != Kind::String) {
            return Err(format!("{name} is of a field that is no text"));
        }
        let grpc_path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
        let mut route = Self {
            name: described.name.clone(),
            summary: described.summary.clone(),
            method,
            path: described.path.clone(),
            segments,
            body,
            query: Vec::new(),
            required: described.required.clone(),
            headers,
            overrides,
            collected: None,
            rpc: rpc.clone(),
            grpc_path: PathAndQuery::try_from(grpc_path).map_err(|error| error.to_string())?,
        };
        route.query = route.query_places(inline.as_ref(), &described.without);
        if let Some(missing) = route.required.iter().find(|name| !route.query.iter().any(|place| place.is_named(name)))
        {
            return Err(format!("{missing} is no query variable"));
        }
        Ok(route)
    }

    /// The message that its answer is where that is no stream.
    #[must_use]
    pub fn reply(&self) -> MessageDescriptor {
        self.collected.clone().unwrap_or_else(|| self.rpc.output())
    }

    /// Every field that neither path nor body nor header can give, and a text can.
    fn query_places(&self, inline: Option<&FieldDescriptor>, without: &[String]) -> Vec<Place> {
        let of_body = match &self.body {
            Body::Whole => return Vec::new(),
            Body::None => None,
            Body::Field(field, _) => Some(field.clone()),
        };
        let members = inline.iter().flat_map(|within| match within.kind() {
            Kind::Message(message) => {
                message.fields().map(|field| Place { within: Some((*within).clone()), field }).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        });
        let input = self.rpc.input();
        let own = input.fields().map(|field| Place { within: None, field });
        let mut places: Vec<Place> = Vec::new();
        for place in members.chain(own) {
            let taken = self.given().chain(&places).any(|other| other.is_named(place.field.name()));
            let in_body = of_body.as_ref() == Some(&place.field) || inline == Some(&place.field);
            let contradicts = without.iter().any(|name| place.is_named(name));
            if !taken && !in_body && !contradicts && !is_secret(&place.field) && is_text(&place.field) {
                places.push(place);
            }
        }
        places
    }

    /// The places that path and headers fill.
    fn given(&self) -> impl Iterator<Item = &Place> {
        self.variables().chain(self.headers.iter().map(|(_, place)| place))
    }

    /// The variables of the path, in order.
    pub fn variables(&self) -> impl Iterator<Item = &Place> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Variable(place) => Some(place),
        })
    }

    /// The path with nothing in its braces: equal shapes are equal requests.
    fn shape(&self) -> String {
        let segment = |segment: &Segment| match segment {
            Segment::Literal(text) => format!("/{text}"),
            Segment::Variable(_) => "/{}".to_owned(),
        };
        self.segments.iter().map(segment).collect()
    }

    /// Whether the name is that of a secret of this request, wherever it belongs.
    #[must_use]
    pub fn names_a_secret(&self, name: &str) -> bool {
        fn within(message: &MessageDescriptor, name: &str, depth: usize) -> bool {
            message.fields().any(|field| {
                let named = field.name() == name || field.json_name() == name;
                named && is_secret(&field)
                    || depth > 0 && matches!(field.kind(), Kind::Message(inner) if within(&inner, name, depth - 1))
            })
        }
        within(&self.rpc.input(), name, 1)
    }
}

fn field_of(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    message.get_field_by_name(name).ok_or_else(|| format!("{} has no field {name}", message.full_name()))
}

fn place_of(input: &MessageDescriptor, inline: Option<&FieldDescriptor>, name: &str) -> Result<Place, String> {
    if let Some(within) = inline {
        let Kind::Message(message) = within.kind() else { return Err(format!("{} has no members", within.name())) };
        if let Some(field) = message.get_field_by_name(name) {
            return Ok(Place { within: Some(within.clone()), field });
        }
    }
    Ok(Place { within: None, field: field_of(input, name)? })
}

fn segments(path: &str, place: &dyn Fn(&str) -> Result<Place, String>) -> Result<Vec<Segment>, String> {
    let rest = path.strip_prefix('/').ok_or_else(|| format!("{path} does not begin with a slash"))?;
    let segment = |text: &str| match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(name) => {
            let place = place(name)?;
            if !is_text(&place.field) || place.field.is_list() || is_secret(&place.field) {
                return Err(format!("{name} cannot stand in a path"));
            }
            Ok(Segment::Variable(place))
        }
        None if text.is_empty() || text.contains(['{', '}']) => Err(format!("{path} is no path")),
        None => Ok(Segment::Literal(text.to_owned())),
    };
    rest.split('/').map(segment).collect()
}

/// Whether a text can give the field's value, or one of its elements.
fn is_text(field: &FieldDescriptor) -> bool {
    match field.kind() {
        _ if field.is_map() => false,
        Kind::Message(message) => {
            matches!(message.full_name(), "google.protobuf.Duration" | "google.protobuf.Timestamp")
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_http_can_carry_has_a_route() {
        let table = Table::of_api().expect("the protos are right");
        let mut methods = 0;
        for rpc in table.pool().services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let routes = table.routes().iter().filter(|route| route.rpc == rpc).count();
            assert_eq!(routes == 0, rpc.is_client_streaming(), "{}", rpc.full_name());
            methods += 1;
        }
        assert!(methods >= 10, "{methods} methods");
    }

    #[test]
    fn places_are_what_the_option_names() {
        let table = Table::of_api().expect("the protos are right");
        let route = |method: Method, path: &str| {
            let wanted = |route: &&Route| route.method == method && route.path == path;
            table.routes().iter().find(wanted).unwrap_or_else(|| panic!("{method} {path}"))
        };
        let names = |places: &[Place]| places.iter().map(Place::name).collect::<Vec<_>>();
        let put = route(Method::PUT, "/v1/namespaces/{namespace}/services/{service}/instances/{id}");
        let variables: Vec<_> = put.variables().map(Place::name).collect();
        assert_eq!(variables, ["instance.namespace", "instance.service", "instance.id"]);
        assert!(put.query.is_empty(), "all the rest is in the body");
        let watch = route(Method::GET, "/v1/namespaces/{namespace}/services/{service}/watch");
        let of_selector = ["frontend", "version", "selector", "published", "service_prefix"];
        assert_eq!(names(&watch.query)[..5], of_selector.map(|name| format!("selectors[0].{name}")));
        assert_eq!(watch.query[5].name(), "resume_token");
        let delete = route(Method::DELETE, "/v1/namespaces/{namespace}/services/{service}/instances/{id}");
        assert!(delete.query.is_empty(), "`all` would contradict the id");
        let all = route(Method::DELETE, "/v1/namespaces/{namespace}/services/{service}/instances");
        assert_eq!((names(&all.query), &all.required), (vec!["all".to_owned()], &vec!["all".to_owned()]));
        assert_eq!(delete.headers.len(), 1);
        assert!(delete.names_a_secret("lease_token") && delete.names_a_secret("leaseTokens"));
        let beat = route(Method::POST, "/v1/namespaces/{namespace}/services/{service}/instances/{id}/heartbeat");
        assert!(beat.query.is_empty() && beat.names_a_secret("leaseToken"));
        assert_eq!(beat.grpc_path.path(), "/onair.v1.Registry/Heartbeat");
    }

    /// The API's descriptors with another option on one method.
    fn with_option(spoil: impl FnOnce(&mut HttpRoute)) -> Result<Table, RouteError> {
        let table = Table::of_api().expect("the protos are right");
        let rpc = table.routes()[0].rpc.clone();
        let mut described = described(&rpc).expect("readable").routes.remove(0);
        spoil(&mut described);
        let fault = |fault: String| RouteError::Route { method: rpc.full_name().to_owned(), fault };
        Route::read(&rpc, &described).map_err(fault)?;
        Ok(table)
    }

    #[test]
    fn an_option_that_names_what_is_not_there_is_refused() {
        assert!(with_option(|_| {}).is_ok());
        let spoils: [fn(&mut HttpRoute); 11] = [
            |route| route.overrides.push(proto::HttpHeader { name: "Ttl".into(), field: "ttl".into() }),
            |route| route.method = "GET".into(),
            |route| route.method = "P T".into(),
            |route| route.path = "v1/x".into(),
            |route| route.path = "/v1//x".into(),
            |route| route.path = "/v1/{nothing}".into(),
            |route| route.path = "/v1/{metadata}".into(),
            |route| route.path = "/v1/{lease_token}".into(),
            |route| route.body = "nothing".into(),
            |route| route.inline = "nothing".into(),
            |route| route.required = vec!["ttl".into()],
        ];
        for (at, spoil) in spoils.into_iter().enumerate() {
            assert!(with_option(spoil).is_err(), "{at}");
        }
    }
}
