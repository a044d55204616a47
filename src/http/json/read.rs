//! The reading itself: a visitor for each shape that a field can have. Whatever does not fit is noted and passed over,
//! so that one pass finds everything.

use std::{collections::HashMap, fmt};

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::{
    Path,
    found::Found,
    tree,
    value::{float, integer, is_well_known, map_key, of_text, wanted, well_known},
};
use crate::registry::METADATA_BYTES_MAX;

/// Reads a message; none: it is none, which is noted.
pub(super) struct MessageSeed<'a> {
    pub(super) descriptor: &'a MessageDescriptor,
    pub(super) path: &'a Path<'a>,
    pub(super) found: &'a Found,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = Option<DynamicMessage>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        let kind = Kind::Message(self.descriptor.clone());
        let one = One { kind: &kind, path: self.path, found: self.found };
        self.found.value()?;
        let read = json.deserialize_any(one)?;
        if let Given::Null = read {
            self.found.note(self.path, wanted(&kind))?;
        }
        match read {
            Given::Value(Value::Message(message)) => Ok(Some(message)),
            _ => Ok(None),
        }
    }
}

/// What stands where a value was wanted.
enum Given {
    Value(Value),
    Null,
    /// Something else, which is noted.
    Wrong,
}

impl Given {
    fn value(self) -> Option<Value> {
        match self {
            Self::Value(value) => Some(value),
            Self::Null | Self::Wrong => None,
        }
    }
}

/// Reads a single value.
#[derive(Clone, Copy)]
struct One<'a> {
    kind: &'a Kind,
    path: &'a Path<'a>,
    found: &'a Found,
}

impl One<'_> {
    fn or_wrong<E: Error>(&self, value: Option<Value>) -> Result<Given, E> {
        match value {
            Some(value) => Ok(Given::Value(value)),
            None => self.found.note(self.path, wanted(self.kind)).map(|()| Given::Wrong),
        }
    }

    fn object<'de, A: MapAccess<'de>>(&self, descriptor: &MessageDescriptor, mut map: A) -> Result<Given, A::Error> {
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut given: Vec<FieldDescriptor> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let known = descriptor.get_field_by_json_name(&name).or_else(|| descriptor.get_field_by_name(&name));
            let Some(field) = known else {
                self.found.note(&Path::Field(self.path, &name), format!("is no field of {}", descriptor.name()))?;
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let path = Path::Field(self.path, field.name());
            if given.contains(&field) {
                self.found.note(&path, "is given twice")?;
            }
            let value = map.next_value_seed(Whole { field: &field, path: &path, found: self.found })?;
            if let Some(value) = value {
                if let Some(oneof) = field.containing_oneof()
                    && oneof.fields().any(|other| other != field && message.has_field(&other))
                {
                    self.found.note(&path, format!("must not be given with another {}", oneof.name()))?;
                }
                message.set_field(&field, value);
            }
            given.push(field);
        }
        Ok(Given::Value(Value::Message(message)))
    }
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Given;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Given, D::Error> {
        match self.kind {
            Kind::Message(descriptor) if is_well_known(descriptor) => {
                let tree = tree::read(json, self.path, self.found)?;
                let Some(tree) = tree else {
                    self.found.note(self.path, format!("must be at most {METADATA_BYTES_MAX} bytes encoded"))?;
                    return Ok(Given::Wrong);
                };
                match tree {
                    Json::Null if descriptor.full_name() != "google.protobuf.Value" => Ok(Given::Null),
                    tree => self.or_wrong(well_known(descriptor, tree)),
                }
            }
            _ => {
                self.found.value()?;
                json.deserialize_any(self)
            }
        }
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = Given;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Given, E> {
        self.or_wrong(matches!(self.kind, Kind::Bool).then_some(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Given, E> {
        self.or_wrong(integer(self.kind, number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Given, E> {
        self.or_wrong(integer(self.kind, number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Given, E> {
        self.or_wrong(float(self.kind, number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Given, E> {
        self.or_wrong(of_text(self.kind, text))
    }

    fn visit_unit<E: Error>(self) -> Result<Given, E> {
        Ok(Given::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Given, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        self.or_wrong(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Given, A::Error> {
        if let Kind::Message(descriptor) = self.kind {
            return self.object(descriptor, map);
        }
        skip(map)?;
        self.or_wrong(None)
    }
}

/// Reads all of a field; none: it is left out, or wrong, which is noted.
struct Whole<'a> {
    field: &'a FieldDescriptor,
    path: &'a Path<'a>,
    found: &'a Found,
}

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        if self.field.is_list() || self.field.is_map() {
            return json.deserialize_any(self);
        }
        let kind = self.field.kind();
        One { kind: &kind, path: self.path, found: self.found }.deserialize(json).map(Given::value)
    }
}

impl Whole<'_> {
    /// One of the elements or entries.
    fn one<E: Error>(&self, given: Given, path: &Path<'_>, kind: &Kind) -> Result<Option<Value>, E> {
        if let Given::Null = given {
            self.found.note(path, wanted(kind))?;
        }
        Ok(given.value())
    }

    fn wrong<E: Error>(&self) -> Result<Option<Value>, E> {
        let wanted = if self.field.is_map() { "must be an object" } else { "must be a list" };
        self.found.note(self.path, wanted).map(|()| None)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or an object")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        self.wrong()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        self.wrong()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        self.wrong()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        self.wrong()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        self.wrong()
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        if self.field.is_map() {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return self.wrong();
        }
        let kind = self.field.kind();
        let mut values = Vec::new();
        for index in 0.. {
            let path = Path::Index(self.path, index);
            let Some(given) = list.next_element_seed(One { kind: &kind, path: &path, found: self.found })? else {
                break;
            };
            values.extend(self.one(given, &path, &kind)?);
        }
        Ok(Some(Value::List(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Kind::Message(entry) = self.field.kind() else { return skip(map).and_then(|()| self.wrong()) };
        if !self.field.is_map() {
            return skip(map).and_then(|()| self.wrong());
        }
        let (key_kind, kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let mut values = HashMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = Path::Key(self.path, &name);
            let given = map.next_value_seed(One { kind: &kind, path: &path, found: self.found })?;
            let value = self.one(given, &path, &kind)?;
            let Some(key) = map_key(&key_kind, &name) else {
                self.found.note(&path, "is no key of this map")?;
                continue;
            };
            // Kept also without a value, so that its repetition is noticed.
            let value = value.unwrap_or_else(|| Value::default_value(&kind));
            if values.insert(key, value).is_some() {
                self.found.note(&path, "is given twice")?;
            }
        }
        Ok(Some(Value::Map(values)))
    }
}

/// Passes over what is left of an object.
pub(super) fn skip<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}
