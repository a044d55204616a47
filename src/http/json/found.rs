//! What is wrong with a body, while it is read.

use std::cell::RefCell;

use serde::de::Error;

use super::Path;
use crate::registry::Violation;

/// Nobody reads more violations than these.
const VIOLATIONS_MAX: usize = 100;

/// What is wrong, so far.
#[derive(Debug, Default)]
pub(super) struct Found(RefCell<Vec<Violation>>);

impl Found {
    pub(super) fn into_violations(self) -> Vec<Violation> {
        self.0.into_inner()
    }

    /// Notes a violation; an error ends the reading.
    pub(super) fn note<E: Error>(&self, path: &Path<'_>, description: impl Into<String>) -> Result<(), E> {
        let mut violations = self.0.borrow_mut();
        let field = match path {
            Path::Root => "body".to_owned(),
            path => path.to_string(),
        };
        violations.push(Violation { field, description: description.into() });
        if violations.len() < VIOLATIONS_MAX {
            return Ok(());
        }
        let description = format!("has {VIOLATIONS_MAX} violations and may have more; it was not read to its end");
        violations.push(Violation { field: "body".to_owned(), description });
        Err(E::custom("too many violations"))
    }
}
