//! Refusals in the words of these routes: fields by the names that they have here, and a detail that is the sentence
//! alone.

use bytes::Bytes;
use tonic::Status;

use crate::{
    http::problem::Refusal,
    registry::{Error, Violation},
};

/// Names of the API, and of the documents here.
const FIELDS: [(&str, &str); 3] = [("service", "app"), ("metadata", "body"), ("fields", "body")];

/// The refusal of what the registry refused.
pub(super) fn of(error: Error) -> Refusal {
    let (error, sentence) = match error {
        Error::Invalid(violations) => {
            let violations = renamed(violations);
            let sentence = sentence(&violations);
            (Error::Invalid(violations), Some(sentence))
        }
        Error::MissingBackends(violations) => {
            let violations = renamed(violations);
            let sentence = sentence(&violations);
            (Error::MissingBackends(violations), Some(sentence))
        }
        // These say of what kind it is, and leave which to who asked.
        Error::NoSuch { kind, name } => (Error::NoSuch { kind, name }, Some(format!("{kind} not found"))),
        other => (other, None),
    };
    let status = Status::from(error);
    match sentence {
        None => status.into(),
        Some(sentence) => {
            let details = Bytes::copy_from_slice(status.details());
            Status::with_details(status.code(), sentence, details).into()
        }
    }
}

/// The name that a field of the API has here.
pub(super) fn renamed_field(field: &str) -> String {
    // A frontend here names a backend, whatever it points at besides.
    if field.starts_with("splits") {
        return "backend".to_owned();
    }
    let field = field.strip_prefix("instance.").unwrap_or(field);
    let ours = FIELDS.iter().find(|(theirs, _)| *theirs == field).map_or(field, |(_, ours)| ours);
    ours.to_owned()
}

fn renamed(violations: Vec<Violation>) -> Vec<Violation> {
    let rename = |Violation { field, description }| Violation { field: renamed_field(&field), description };
    violations.into_iter().map(rename).collect()
}

/// What is wrong, each once: a sentence stands for itself, anything else behind the field that it is about.
fn sentence(violations: &[Violation]) -> String {
    let mut told: Vec<String> = Vec::new();
    for Violation { field, description } in violations {
        let is_sentence = description.starts_with(char::is_uppercase);
        let text = if is_sentence { description.clone() } else { format!("{field} {description}") };
        if !told.contains(&text) {
            told.push(text);
        }
    }
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_is_the_sentence() {
        let violation = |field: &str, why: &str| Violation { field: field.to_owned(), description: why.to_owned() };
        let words = "Application name and version are required";
        for (violations, told) in [
            (vec![violation("service", words), violation("version", words)], words),
            (vec![violation("instance.port", "must be 1 to 65535")], "port must be 1 to 65535"),
            (
                vec![violation("instance.service", words), violation("instance.metadata", "must be small")],
                "Application name and version are required; body must be small",
            ),
            (vec![violation("splits[0].backend", "Backend not found")], "Backend not found"),
        ] {
            assert_eq!(of(Error::Invalid(violations)).status.message(), told);
        }
    }
}
