//! Any JSON, with every key once: what goes into messages that have a JSON of their own. No larger than such a message
//! may be: the rest is passed over.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::{Path, found::Found, read::skip};
use crate::registry::METADATA_BYTES_MAX;

/// Twice what any of it may have: what is a little too large the registry refuses, with all else that is wrong.
const BYTES_MAX: usize = 2 * METADATA_BYTES_MAX;
/// The least that a value takes in the protobuf encoding, beside its text: as a member of a list, or of an object.
const VALUE_BYTES: usize = 4;

/// Reads any JSON, with every key once; none: there is too much of it.
pub(super) fn read<'de, D: Deserializer<'de>>(
    json: D,
    path: &Path<'_>,
    found: &Found,
) -> Result<Option<Json>, D::Error> {
    let room = Cell::new(BYTES_MAX);
    let tree = Tree { path, found, room: &room }.deserialize(json)?;
    Ok((room.get() > 0).then_some(tree))
}

/// A value of it.
#[derive(Clone, Copy)]
struct Tree<'a> {
    path: &'a Path<'a>,
    found: &'a Found,
    /// How many bytes there may still be; none: nothing is kept any more.
    room: &'a Cell<usize>,
}

impl Tree<'_> {
    fn take(&self, text: &str) {
        self.room.set(self.room.get().saturating_sub(VALUE_BYTES + text.len()));
    }

    fn is_full(&self) -> bool {
        self.room.get() == 0
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Json, D::Error> {
        self.found.value()?;
        self.take("");
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
        Ok(Json::from(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::from(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json, E> {
        Ok(Json::from(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        self.take(text);
        Ok(if self.is_full() { Json::Null } else { Json::from(text) })
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while !self.is_full() {
            let path = Path::Index(self.path, values.len());
            let Some(value) = list.next_element_seed(Tree { path: &path, ..self })? else {
                return Ok(Json::Array(values));
            };
            values.push(value);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Json::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut values = serde_json::Map::new();
        while !self.is_full() {
            let Some(name) = map.next_key::<String>()? else { return Ok(Json::Object(values)) };
            self.take(&name);
            let path = Path::Key(self.path, &name);
            let value = map.next_value_seed(Tree { path: &path, ..self })?;
            if values.contains_key(&name) {
                self.found.note(&path, "is given twice")?;
            }
            values.insert(name, value);
        }
        skip(map)?;
        Ok(Json::Null)
    }
}
