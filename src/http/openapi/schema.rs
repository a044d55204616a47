//! Messages and enums of the protos as JSON Schemas of their canonical JSON. Knows no route.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::{
    comments::comment,
    model::{Additional, Schema},
    rules::rules,
};
use crate::proto::FieldRules;

const NAME: &str = r"[^\s/\x00-\x1f\x7f-\x9f]([^/\x00-\x1f\x7f-\x9f]*[^\s/\x00-\x1f\x7f-\x9f])?";
const NAME_BYTES: u64 = 255;
const DURATION: &str = r"^[0-9]{1,12}(\.[0-9]{1,9})?s$";
const TIMESTAMP: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z$";

/// Which way a message goes. What is sent is closed, since unknown fields are refused; what comes back may get further
/// fields in a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    In,
    /// To the client.
    Out,
}

/// Collects the schemas of what is asked for, and of what that refers to.
#[derive(Default)]
pub struct Schemas {
    done: BTreeMap<String, Schema>,
    /// Messages that come back; one of them that is sent as well has two schemas.
    out: BTreeSet<String>,
}

impl Schemas {
    /// Every schema so far, by its name.
    #[must_use]
    pub fn finish(self) -> BTreeMap<String, Schema> {
        self.done
    }

    /// Adds a schema that no proto describes, and gives the reference to it.
    pub fn add(&mut self, name: &str, schema: Schema) -> Schema {
        self.done.insert(name.to_owned(), schema);
        Schema::named(name)
    }

    /// The reference to a message that comes back. All of these have to be asked for before any that is sent.
    pub fn answer(&mut self, message: &MessageDescriptor) -> Schema {
        self.message(message, Way::Out)
    }

    /// What a body may be: the message without the fields that stand elsewhere in the request, given by their paths.
    pub fn body(&mut self, message: &MessageDescriptor, elsewhere: &[&str]) -> Schema {
        if elsewhere.is_empty() { self.message(message, Way::In) } else { self.object(message, Way::In, elsewhere) }
    }

    /// What a variable of a path may be: an empty one would make it another path.
    pub fn variable(&mut self, field: &FieldDescriptor) -> Schema {
        let schema = self.field(field, Way::In);
        let named = if rules(field).name { self.name(true) } else { schema.clone() };
        Schema { description: schema.description, default: None, ..named }
    }

    /// What a field may be, as a member of an object that goes `way`.
    pub fn field(&mut self, field: &FieldDescriptor, way: Way) -> Schema {
        let rules = rules(field);
        let schema = if field.is_map() {
            self.map(field, &rules, way)
        } else if field.is_list() {
            Schema {
                items: Some(Box::new(self.single(field, &rules, way))),
                min_items: rules.required.then_some(1),
                max_items: some(rules.max_items),
                ..Schema::of("array")
            }
        } else {
            self.single(field, &rules, way)
        };
        Schema {
            default: serde_json::from_str(&rules.default).ok(),
            read_only: rules.output_only,
            ..schema.described(comment(field.parent_message().parent_file_descriptor_proto(), field.path()))
        }
    }

    fn message(&mut self, message: &MessageDescriptor, way: Way) -> Schema {
        if let Some(known) = self.well_known(message.full_name()) {
            return known;
        }
        let twice = way == Way::In && self.out.contains(message.name());
        let name = if twice { format!("{}Input", message.name()) } else { message.name().to_owned() };
        if way == Way::Out {
            self.out.insert(name.clone());
        }
        if !self.done.contains_key(&name) {
            // It is there already for what refers to it from within.
            self.done.insert(name.clone(), Schema::default());
            let schema = self.object(message, way, &[]);
            self.done.insert(name.clone(), schema);
        }
        Schema::named(&name)
    }

    fn object(&mut self, message: &MessageDescriptor, way: Way, without: &[&str]) -> Schema {
        let mut schema = Schema {
            additional_properties: (way == Way::In).then_some(Additional::Allowed(false)),
            ..Schema::of("object").described(comment(message.parent_file_descriptor_proto(), message.path()))
        };
        for field in message.fields() {
            let rules = rules(&field);
            if way == Way::In && rules.later || without.contains(&field.name()) {
                continue;
            }
            let prefix = format!("{}.", field.name());
            let within: Vec<_> = without.iter().filter_map(|path| path.strip_prefix(&prefix)).collect();
            let of_field = match field.kind() {
                Kind::Message(inner) if !within.is_empty() => {
                    let described = comment(message.parent_file_descriptor_proto(), field.path());
                    self.object(&inner, way, &within).described(described)
                }
                _ => self.field(&field, way),
            };
            // What is partly elsewhere may be there as a whole.
            if way == Way::In && rules.required && within.is_empty() {
                schema.required.push(field.json_name().to_owned());
            }
            schema.properties.push(field.json_name(), of_field);
        }
        schema
    }

    fn map(&mut self, field: &FieldDescriptor, rules: &FieldRules, way: Way) -> Schema {
        let Kind::Message(entry) = field.kind() else { return Schema::of("object") };
        let each = self.single(&entry.map_entry_value_field(), rules, way);
        let names = rules.name.then(|| Box::new(self.name(true)));
        Schema {
            additional_properties: Some(Additional::Each(Box::new(each))),
            property_names: names,
            max_properties: some(rules.max_items),
            ..Schema::of("object")
        }
    }

    /// One value of a field's type.
    fn single(&mut self, field: &FieldDescriptor, rules: &FieldRules, way: Way) -> Schema {
        match field.kind() {
            Kind::Message(message) => self.message(&message, way),
            Kind::Enum(of) => Schema {
                values: if way == Way::In { rules.values.clone() } else { Vec::new() },
                ..self.enumeration(&of)
            },
            Kind::Bool => Schema::of("boolean"),
            Kind::Double | Kind::Float => Schema { format: Some("double"), ..Schema::of("number") },
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Schema { format: Some("int32"), ..Schema::of("integer") },
            Kind::Uint32 | Kind::Fixed32 => Schema {
                format: Some("uint32"),
                minimum: Some(rules.minimum.map_or(0, u64::cast_signed)),
                maximum: Some(rules.maximum.unwrap_or(u64::from(u32::MAX))),
                ..Schema::of("integer")
            },
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                Schema { format: Some("int64"), ..decimal("^-?[0-9]{1,19}$") }
            }
            Kind::Uint64 | Kind::Fixed64 => Schema { format: Some("uint64"), ..decimal("^[0-9]{1,20}$") },
            Kind::Bytes => Schema { format: Some("byte"), ..Schema::of("string") },
            Kind::String if rules.name && !field.parent_message().is_map_entry() => self.name(rules.required),
            Kind::String => text(rules),
        }
    }

    fn enumeration(&mut self, of: &EnumDescriptor) -> Schema {
        let file = of.parent_file_descriptor_proto();
        let told = of.values().map(|value| format!("\n- `{}`: {}", value.name(), comment(file, value.path())));
        let description = format!("{}\n{}", comment(file, of.path()), told.collect::<String>());
        let values = of.values().map(|value| value.name().to_owned()).collect();
        self.add(of.name(), Schema { values, ..Schema::of("string").described(description) })
    }

    fn name(&mut self, required: bool) -> Schema {
        let what = "A name of a namespace, a service or an instance: UTF-8 of 1 to 255 bytes without control characters, \
                    `/`, or white space at either end";
        let (name, pattern, description) = match required {
            true => ("Name", format!("^{NAME}$"), format!("{what}.")),
            false => ("OptionalName", format!("^({NAME})?$"), format!("{what}; or nothing, as if it was left out.")),
        };
        let (pattern, max_length) = (Some(pattern), Some(NAME_BYTES));
        self.add(name, Schema { pattern, max_length, ..Schema::of("string").described(description) })
    }

    /// The types that have a form of their own in JSON.
    fn well_known(&mut self, name: &str) -> Option<Schema> {
        let (name, schema) = match name {
            "google.protobuf.Duration" => (
                "Duration",
                Schema {
                    pattern: Some(DURATION.to_owned()),
                    ..Schema::of("string").described("Seconds, with up to nine figures after the point: `1.5s`.")
                },
            ),
            "google.protobuf.Timestamp" => (
                "Timestamp",
                Schema {
                    format: Some("date-time"),
                    pattern: Some(TIMESTAMP.to_owned()),
                    ..Schema::of("string").described("A moment in UTC: `2026-11-21T10:00:00.5Z`.")
                },
            ),
            "google.protobuf.Value" => ("Value", Schema::default().described("Any JSON value.")),
            "google.protobuf.Struct" => ("Struct", Schema::of("object").described("Any JSON object.")),
            _ => return None,
        };
        Some(self.add(name, schema))
    }
}

fn some(limit: u32) -> Option<u64> {
    (limit > 0).then_some(u64::from(limit))
}

/// A 64-bit number: a string in JSON, whose numbers are doubles to many programs.
fn decimal(pattern: &str) -> Schema {
    Schema { pattern: Some(pattern.to_owned()), ..Schema::of("string") }
}

fn text(rules: &FieldRules) -> Schema {
    Schema {
        // Empty is as good as left out.
        pattern: (!rules.pattern.is_empty()).then(|| format!("^({})?$", rules.pattern)),
        max_length: some(rules.max_bytes),
        ..Schema::of("string")
    }
}
