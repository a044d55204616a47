//! What a body has, while it is read: what is wrong with it, and how much there is. The memory that a value takes has
//! little to do with its bytes, so values are counted, too.

use std::cell::{Cell, RefCell};

use serde::de::Error;

use super::Path;
use crate::registry::Violation;

/// Nobody reads more violations than these.
const VIOLATIONS_MAX: usize = 100;

/// What was found so far.
#[derive(Debug)]
pub(super) struct Found {
    violations: RefCell<Vec<Violation>>,
    values: Cell<usize>,
    max_values: usize,
}

impl Found {
    /// Of a body that may have so many values.
    pub(super) fn new(max_values: usize) -> Self {
        Self { violations: RefCell::default(), values: Cell::new(0), max_values }
    }

    pub(super) fn into_violations(self) -> Vec<Violation> {
        self.violations.into_inner()
    }

    /// Counts a value; an error ends the reading.
    pub(super) fn value<E: Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.has_too_much() { Err(E::custom("too many values")) } else { Ok(()) }
    }

    /// Values so far.
    #[cfg(test)]
    pub(super) fn values(&self) -> usize {
        self.values.get()
    }

    /// Whether the body has more values than it may have.
    pub(super) fn has_too_much(&self) -> bool {
        self.values.get() > self.max_values
    }

    /// Notes a violation; an error ends the reading.
    pub(super) fn note<E: Error>(&self, path: &Path<'_>, description: impl Into<String>) -> Result<(), E> {
        let mut violations = self.violations.borrow_mut();
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
