//! Rules for names: namespaces, services, ids. Knows no instances.

use super::Violation;

/// A name is at most this long.
pub const MAX_NAME_BYTES: usize = 255;

/// Namespace of whoever names none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// What a read gives for every namespace that the caller may see.
pub const ALL_NAMESPACES: &str = "*";

/// Adds a violation if `value` is no name: UTF-8 of 1 to 255 bytes without control characters, `/`, or white space at
/// either end.
pub fn check_name(field: &str, value: &str, violations: &mut Vec<Violation>) {
    if let Some(description) = fault(value) {
        violations.push(Violation { field: field.to_owned(), description });
    }
}

/// As `check_name`, for a namespace that something is to be registered in: no namespace may be called `*`, which means
/// all of them in reads, or `frontend` or `key`, which begin the health names of frontends and of partition keys.
pub fn check_new_namespace(field: &str, value: &str, violations: &mut Vec<Violation>) {
    if [ALL_NAMESPACES, "frontend", "key"].contains(&value) {
        violations.push(Violation { field: field.to_owned(), description: format!("`{value}` is reserved") });
    } else {
        check_name(field, value, violations);
    }
}

fn fault(value: &str) -> Option<String> {
    if value.is_empty() {
        return Some("must not be empty".to_owned());
    }
    if value.len() > MAX_NAME_BYTES {
        return Some(format!("must have at most {MAX_NAME_BYTES} bytes, has {}", value.len()));
    }
    if let Some((position, _)) = value.char_indices().find(|(_, c)| c.is_control()) {
        return Some(format!("must not have control characters, has one at byte {position}"));
    }
    if let Some(position) = value.find('/') {
        return Some(format!("must not have `/`, has one at byte {position}"));
    }
    if value.trim() != value {
        return Some("must not begin or end with white space".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "é".repeat(127);
        for (value, fault) in [
            ("web", None),
            ("a b", None),
            ("Ünïcode.v2:80", None),
            ("*", None),
            (long.as_str(), None),
            ("", Some("must not be empty")),
            (&long.repeat(2), Some("must have at most 255 bytes, has 508")),
            ("a/b", Some("must not have `/`, has one at byte 1")),
            ("é\n", Some("must not have control characters, has one at byte 2")),
            ("a\u{85}b", Some("must not have control characters, has one at byte 1")),
            (" a", Some("must not begin or end with white space")),
            ("a\u{3000}", Some("must not begin or end with white space")),
        ] {
            let mut violations = Vec::new();
            check_name("instance.id", value, &mut violations);
            let found = violations.first().map(|violation| (violation.field.as_str(), violation.description.as_str()));
            assert_eq!(found, fault.map(|fault| ("instance.id", fault)), "{value:?}");
        }
    }

    #[test]
    fn reserved_namespaces() {
        for (value, count) in [("*", 1), ("frontend", 1), ("frontends", 0), ("", 1)] {
            let mut violations = Vec::new();
            check_new_namespace("namespace", value, &mut violations);
            assert_eq!(violations.len(), count, "{value:?}");
        }
    }
}
