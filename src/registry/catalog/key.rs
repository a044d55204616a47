//! What an id in the catalog may look like, and what it would be if it may not. Knows nothing of what is there.

use crate::registry::name::MAX_NAME_BYTES;

/// Fewest characters of an application's id.
pub const APPLICATION_CHARACTERS_MIN: usize = 2;
/// Fewest characters of a service type's id.
pub const TYPE_CHARACTERS_MIN: usize = 3;

/// The id made valid: in lower case, without what is not allowed.
fn valid(id: &str) -> String {
    let allowed = |letter: &char| matches!(letter, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    id.to_lowercase().chars().filter(allowed).collect()
}

/// What is wrong with an id.
pub fn fault(id: &str, characters_min: usize) -> Option<String> {
    if id.trim().is_empty() {
        return Some("Id cannot be empty".to_owned());
    }
    if id.chars().count() < characters_min {
        return Some(format!("Key must be at least {characters_min} characters"));
    }
    if id.len() > MAX_NAME_BYTES {
        return Some(format!("Key must be at most {MAX_NAME_BYTES} characters"));
    }
    let valid = valid(id);
    if id == valid {
        // Clients of HTTP take `.` and `..` for places of a path, and drop them.
        return id.bytes().all(|byte| byte == b'.').then(|| "Key must not be of . alone".to_owned());
    }
    Some(format!(
        "Key must be in all lower case and contain alphanumerics only (-, _, and . are supported). A valid key would \
         be: {valid}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let letters = "Key must be in all lower case and contain alphanumerics only (-, _, and . are supported). A valid \
                       key would be: ";
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for (id, fault_is) in [
            ("www", None),
            ("a1", None),
            ("a.b_c-d", None),
            ("--", None),
            ("..", Some("Key must not be of . alone".to_owned())),
            (".a", None),
            (&long[1..], None),
            ("", Some("Id cannot be empty".to_owned())),
            (" \t", Some("Id cannot be empty".to_owned())),
            (" www ", Some(format!("{letters}www"))),
            ("a", Some("Key must be at least 2 characters".to_owned())),
            ("É", Some("Key must be at least 2 characters".to_owned())),
            ("WWW", Some(format!("{letters}www"))),
            ("my app", Some(format!("{letters}myapp"))),
            ("Ünï-Code", Some(format!("{letters}n-code"))),
            ("a/b\n", Some(format!("{letters}ab"))),
            ("日本", Some(letters.to_owned())),
            ("İx", Some(format!("{letters}ix"))),
            (&long, Some(format!("Key must be at most {MAX_NAME_BYTES} characters"))),
        ] {
            assert_eq!(fault(id, APPLICATION_CHARACTERS_MIN), fault_is, "{id:?}");
        }
        assert_eq!(fault("db", TYPE_CHARACTERS_MIN).as_deref(), Some("Key must be at least 3 characters"));
    }
}
