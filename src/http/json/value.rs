//! What numbers and texts are as values of a kind of field, and what a kind wants to have. Knows no places.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, Value};
use serde_json::Value as Json;

/// As proto JSON reads bytes: with padding or without.
const PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, PADDING);

/// What a value of this kind looks like, as the end of a sentence.
pub(super) fn wanted(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "must be true or false".to_owned(),
        Kind::String => "must be a string".to_owned(),
        Kind::Bytes => "must be a string of base64".to_owned(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => format!("must be an integer from {} to {}", i32::MIN, i32::MAX),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => format!("must be an integer from {} to {}", i64::MIN, i64::MAX),
        Kind::Uint32 | Kind::Fixed32 => format!("must be an integer from 0 to {}", u32::MAX),
        Kind::Uint64 | Kind::Fixed64 => format!("must be an integer from 0 to {}", u64::MAX),
        Kind::Float | Kind::Double => "must be a number".to_owned(),
        Kind::Enum(known) => {
            // That it is unspecified is not what anyone wants to say.
            let names: Vec<_> =
                known.values().filter(|value| value.number() != 0).map(|value| value.name().to_owned()).collect();
            format!("must be one of {}", names.join(", "))
        }
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Duration" => "must be a duration such as \"1.5s\", of at most 315576000000s".to_owned(),
            // Whatever it is, nothing else can be wrong with it.
            "google.protobuf.Value" => "is nested too deep".to_owned(),
            "google.protobuf.Timestamp" => "must be a time such as \"2026-11-21T09:12:07Z\"".to_owned(),
            _ => "must be an object".to_owned(),
        },
    }
}

/// An integer of this kind.
pub(super) fn integer(kind: &Kind, number: i128) -> Option<Value> {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => i32::try_from(number).ok().map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => i64::try_from(number).ok().map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => u32::try_from(number).ok().map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => u64::try_from(number).ok().map(Value::U64),
        // Also one that this version does not know: what it means is the registry's to say.
        Kind::Enum(_) => i32::try_from(number).ok().map(Value::EnumNumber),
        Kind::Double => Some(Value::F64(number as f64)),
        Kind::Float => Some(Value::F32(number as f32)),
        _ => None,
    }
}

/// What a number with a fraction or an exponent is as a value of this kind.
pub(super) fn float(kind: &Kind, number: f64) -> Option<Value> {
    match kind {
        Kind::Double => Some(Value::F64(number)),
        Kind::Float if number.is_infinite() || (number as f32).is_finite() => Some(Value::F32(number as f32)),
        Kind::Float => None,
        // 1e3 and 2.0 are integers, too; every double below 2^64 is exact as one.
        kind if number.fract() == 0.0 && number.abs() < 18_446_744_073_709_551_616.0 => integer(kind, number as i128),
        _ => None,
    }
}

/// What a JSON string is as a value of this kind.
pub(super) fn of_text(kind: &Kind, text: &str) -> Option<Value> {
    match (kind, text) {
        (Kind::String, text) => Some(Value::String(text.to_owned())),
        (Kind::Bytes, text) => {
            let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()?;
            Some(Value::Bytes(bytes.into()))
        }
        (Kind::Enum(known), text) => known.get_value_by_name(text).map(|value| Value::EnumNumber(value.number())),
        (Kind::Double | Kind::Float, "NaN") => {
            Some(if matches!(kind, Kind::Double) { Value::F64(f64::NAN) } else { Value::F32(f32::NAN) })
        }
        (Kind::Double | Kind::Float, "Infinity") => float(kind, f64::INFINITY),
        (Kind::Double | Kind::Float, "-Infinity") => float(kind, f64::NEG_INFINITY),
        (Kind::Bool | Kind::Message(_), _) => None,
        (kind, text) => of_number(kind, text),
    }
}

/// What a number, written as JSON writes it, is as a value of this kind.
pub(super) fn of_number(kind: &Kind, text: &str) -> Option<Value> {
    // Only what JSON would write as a number: Rust reads more than that.
    let number: serde_json::Number = text.parse().ok()?;
    match number.as_i128() {
        Some(number) => integer(kind, number),
        None => float(kind, number.as_f64()?),
    }
}

/// Digits of a fraction of a second that there are nanoseconds for.
const NANOS_DIGITS: usize = 9;

/// A message of `google.protobuf`, which has a JSON of its own.
pub(super) fn well_known(descriptor: &MessageDescriptor, json: Json) -> Option<Value> {
    if matches!(descriptor.name(), "Duration" | "Timestamp")
        && let Some((_, fraction)) = json.as_str().and_then(|text| text.split_once('.'))
        && fraction.bytes().take_while(u8::is_ascii_digit).count() > NANOS_DIGITS
    {
        return None;
    }
    DynamicMessage::deserialize(descriptor.clone(), json).ok().map(Value::Message)
}

/// Whether it has a JSON of its own.
pub(super) fn is_well_known(descriptor: &MessageDescriptor) -> bool {
    descriptor.package_name() == "google.protobuf"
}

/// The key that a name of a JSON object is.
pub(super) fn map_key(kind: &Kind, name: &str) -> Option<MapKey> {
    match (kind, name) {
        (Kind::String, name) => Some(MapKey::String(name.to_owned())),
        (Kind::Bool, "true") => Some(MapKey::Bool(true)),
        (Kind::Bool, "false") => Some(MapKey::Bool(false)),
        (Kind::Bool, _) => None,
        (kind, name) => integer(kind, name.parse().ok()?)?.into_map_key(),
    }
}
