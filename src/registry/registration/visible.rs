//! What of its metadata a registrant lets out: an allow-list of paths. What no path leads to is gone before anything else
//! looks at it. Knows nothing of instances.

use prost_types::{Value, value::Kind};
use smol_str::SmolStr;

use super::Violation;
use crate::registry::selector::metadata_path;

/// Most paths in a list.
const PATHS_MAX: usize = 64;
/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 256;

/// Leaves of `metadata` what `paths` lead to; without paths, all of it.
///
/// # Errors
/// All paths that are none.
pub fn publish_only(metadata: &mut Option<Value>, paths: &[String]) -> Result<(), Vec<Violation>> {
    if paths.is_empty() {
        return Ok(());
    }
    if paths.len() > PATHS_MAX {
        let description = format!("must be at most {PATHS_MAX}, not {}", paths.len());
        return Err(vec![Violation { field: "metadata_fields".to_owned(), description }]);
    }
    let (mut read, mut violations) = (Vec::with_capacity(paths.len()), Vec::new());
    for (place, path) in paths.iter().enumerate() {
        let description = match metadata_path(path) {
            _ if path.len() > PATH_BYTES_MAX => format!("must be at most {PATH_BYTES_MAX} bytes"),
            Ok(path) => {
                read.push(path);
                continue;
            }
            Err(error) => error.to_string(),
        };
        violations.push(Violation { field: format!("metadata_fields[{place}]"), description });
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    let paths: Vec<&[SmolStr]> = read.iter().map(|path| &path[..]).collect();
    if metadata.as_mut().is_some_and(|value| !keep(value, &paths)) {
        *metadata = None;
    }
    Ok(())
}

/// Takes out of `value` what no path leads to. False: none leads to it.
fn keep(value: &mut Value, paths: &[&[SmolStr]]) -> bool {
    if paths.iter().any(|path| path.is_empty()) {
        return true;
    }
    let Some(Kind::StructValue(object)) = &mut value.kind else { return false };
    object.fields.retain(|name, value| {
        let beneath = |path: &&[SmolStr]| path.first().is_some_and(|first| first == name);
        let within: Vec<&[SmolStr]> = paths.iter().copied().filter(beneath).map(|path| &path[1..]).collect();
        !within.is_empty() && keep(value, &within)
    });
    !object.fields.is_empty()
}

#[cfg(test)]
mod tests {
    use prost_types::Struct;

    use super::*;

    fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
        let fields = fields.map(|(name, value)| (name.to_owned(), value)).into();
        Value { kind: Some(Kind::StructValue(Struct { fields })) }
    }

    fn number(number: f64) -> Value {
        Value { kind: Some(Kind::NumberValue(number)) }
    }

    fn kept(value: Value, paths: &[&str]) -> Option<Value> {
        let mut metadata = Some(value);
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        publish_only(&mut metadata, &paths).unwrap();
        metadata
    }

    #[test]
    fn only_what_a_path_leads_to_goes_out() {
        let all = || object([("a", number(1.0)), ("b", object([("c", number(2.0)), ("d.e", number(3.0))]))]);
        for (paths, expected) in [
            (&[][..], Some(all())),
            (&["a"], Some(object([("a", number(1.0))]))),
            (&["b"], Some(object([("b", object([("c", number(2.0)), ("d.e", number(3.0))]))]))),
            (&["b.c", "z"], Some(object([("b", object([("c", number(2.0))]))]))),
            (&["b.\"d.e\""], Some(object([("b", object([("d.e", number(3.0))]))]))),
            (&["b.c", "b"], Some(object([("b", object([("c", number(2.0)), ("d.e", number(3.0))]))]))),
            (&["a.b", "z", "b.z"], None),
        ] {
            assert_eq!(kept(all(), paths), expected, "{paths:?}");
        }
        assert_eq!(kept(number(1.0), &["a"]), None);
        assert_eq!(publish_only(&mut None, &["a".to_owned()]), Ok(()));
    }

    #[test]
    fn every_path_that_is_none_is_told() {
        let long = "x".repeat(257);
        let paths = ["a", "", ".a", "a b", "a.", &long].map(str::to_owned);
        let refused = publish_only(&mut None, &paths).unwrap_err();
        let fields: Vec<&str> = refused.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, [1, 2, 3, 4, 5].map(|place| format!("metadata_fields[{place}]")));
        assert_eq!(publish_only(&mut None, &vec!["a".to_owned(); 65]).unwrap_err().len(), 1);
    }
}
