//! The few fields of a stored instance that choosing one of many takes, read where they lie: decoding all of each would
//! be most of what a choice costs. Knows neither records nor rules.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Field numbers of `Instance`.
const VERSION: u32 = 6;
const ZONE: u32 = 7;
const WEIGHT: u32 = 8;
const URL: u32 = 17;

/// What a choice looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline<'a> {
    /// Its version; may be empty.
    pub version: &'a str,
    /// Its zone; may be empty.
    pub zone: &'a str,
    /// Its share of the traffic.
    pub weight: u32,
    /// Where to reach it.
    pub url: &'a str,
}

impl<'a> Outline<'a> {
    /// Reads an encoded `Instance`. What cannot be read is as if it was left out.
    #[must_use]
    pub fn of(mut encoded: &'a [u8]) -> Self {
        let mut outline = Self { version: "", zone: "", weight: 1, url: "" };
        while let Ok((tag, wire_type)) = decode_key(&mut encoded) {
            match (tag, wire_type) {
                (VERSION | ZONE | URL, WireType::LengthDelimited) => {
                    let Some(text) = take_text(&mut encoded) else { break };
                    match tag {
                        VERSION => outline.version = text,
                        ZONE => outline.zone = text,
                        // The last of them.
                        _ => {
                            outline.url = text;
                            break;
                        }
                    }
                }
                (WEIGHT, WireType::Varint) => {
                    let Ok(weight) = decode_varint(&mut encoded) else { break };
                    outline.weight = weight as u32;
                }
                // Fields are written in the order of their numbers, but for incarnation and revision.
                _ if skip_field(wire_type, tag, &mut encoded, DecodeContext::default()).is_err() => break,
                _ => {}
            }
        }
        outline
    }
}

fn take_text<'a>(encoded: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(decode_varint(encoded).ok()?).ok()?;
    let (text, rest) = encoded.split_at_checked(len)?;
    *encoded = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::registry::Instance;

    #[test]
    fn an_outline_says_what_decoding_says() {
        let full = Instance {
            namespace: "default".into(),
            service: "web".into(),
            id: "web-1".into(),
            host: "localhost".into(),
            port: 80,
            version: "2.1.0".into(),
            zone: "eu".into(),
            weight: Some(300),
            protocol: "http".into(),
            url: "http://localhost:80".into(),
            ports: [("admin".into(), 9000)].into(),
            ..Instance::default()
        };
        let empty = Instance { namespace: "default".into(), ..Instance::default() };
        let weightless = Instance { weight: Some(0), url: String::new(), ..full.clone() };
        for instance in [full, empty, weightless] {
            let encoded = instance.encode_to_vec();
            let expected = Outline {
                version: &instance.version,
                zone: &instance.zone,
                weight: instance.weight.unwrap_or(1),
                url: &instance.url,
            };
            assert_eq!(Outline::of(&encoded), expected);
            // Whatever is cut off, it ends.
            for end in 0..encoded.len() {
                let _ = Outline::of(&encoded[..end]);
            }
        }
    }
}
