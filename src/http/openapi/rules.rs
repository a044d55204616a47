//! The options that the protos have for programs: what a field takes, and examples. Knows no JSON Schema.

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde_json::{Map, Value as Json};

use super::schema::Way;
use crate::proto::FieldRules;

/// The rules of a field; empty ones if it has none.
#[must_use]
pub fn rules(field: &FieldDescriptor) -> FieldRules {
    let found = option(field.parent_message().parent_pool(), field.options(), "onair.v1.rules");
    found.and_then(|rules| rules.as_message()?.transcode_to().ok()).unwrap_or_default()
}

/// The example of a message, made whole: a field that it leaves out, and whose message has an example, gets that one.
/// What the server sets is not in the example of a request.
#[must_use]
pub fn example(message: &MessageDescriptor, way: Way) -> Option<Json> {
    let given = own_example(message);
    let mut members = given.clone().unwrap_or_default();
    for field in message.fields() {
        let (name, rules) = (field.json_name(), rules(&field));
        if rules.later || (rules.output_only && way == Way::In) {
            members.remove(name);
        } else if let (false, Kind::Message(inner)) = (members.contains_key(name) || field.is_map(), field.kind())
            && let Some(value) = example(&inner, way)
        {
            let value = if field.is_list() { Json::Array(vec![value]) } else { value };
            members.insert(name.to_owned(), value);
        }
    }
    (given.is_some() || !members.is_empty()).then_some(Json::Object(members))
}

/// An example of a field: what the first message of its package that has one for a field of this name says.
#[must_use]
pub fn example_of(field: &FieldDescriptor) -> Option<Json> {
    let here = field.parent_message().package_name();
    let mut messages =
        field.parent_message().parent_pool().all_messages().filter(|message| message.package_name() == here);
    messages.find_map(|message| own_example(&message)?.remove(field.json_name()))
}

/// What a message's own option says.
fn own_example(message: &MessageDescriptor) -> Option<Map<String, Json>> {
    let text = option(message.parent_pool(), message.options(), "onair.v1.example")?;
    serde_json::from_str(text.as_str()?).ok()
}

fn option(pool: &DescriptorPool, options: DynamicMessage, name: &str) -> Option<Value> {
    let extension = pool.get_extension_by_name(name)?;
    options.has_extension(&extension).then(|| options.get_extension(&extension).into_owned())
}
