//! The rules of metadata, and of what is published: any JSON document of bounded size and depth. Knows nothing of
//! instances.

use prost::Message;
use prost_types::{Value, value::Kind};

/// Largest metadata, in bytes of its protobuf encoding.
pub const BYTES_MAX: usize = 16 * 1024;
/// Objects and lists within one another: `1` is 0 deep, `{}` is 1 deep, `[[]]` is 2 deep.
pub const DEPTH_MAX: usize = 32;

/// Makes `value` canonical and tells which rules it breaks. A value without a kind, which JSON cannot say, is null.
pub(in crate::registry) fn check(value: &mut Value) -> Vec<String> {
    let mut not_json = 0;
    if !canonical(value, DEPTH_MAX, &mut not_json) {
        // Nothing that walks all of it comes after this.
        return vec![format!("must be nested at most {DEPTH_MAX} deep")];
    }
    let mut broken = Vec::new();
    let size = value.encoded_len();
    if size > BYTES_MAX {
        broken.push(format!("must be at most {BYTES_MAX} bytes encoded, not {size}"));
    }
    if not_json > 0 {
        broken.push(format!("must be JSON, which has no NaN and no infinity ({not_json} found)"));
    }
    broken
}

/// Walks `value`, counting numbers that JSON does not have; false as soon as it is more than `room` deep.
fn canonical(value: &mut Value, room: usize, not_json: &mut usize) -> bool {
    match &mut value.kind {
        None | Some(Kind::NullValue(_)) => {
            value.kind = Some(Kind::NullValue(0));
            true
        }
        Some(Kind::NumberValue(number)) => {
            *not_json += usize::from(!number.is_finite());
            true
        }
        Some(Kind::StringValue(_) | Kind::BoolValue(_)) => true,
        Some(Kind::StructValue(object)) => {
            room > 0 && object.fields.values_mut().all(|value| canonical(value, room - 1, not_json))
        }
        Some(Kind::ListValue(list)) => {
            room > 0 && list.values.iter_mut().all(|value| canonical(value, room - 1, not_json))
        }
    }
}
