//! The entries of a list that are not taken, as many of them as anybody reads. Knows no rules.

use std::collections::BTreeMap;

use crate::registry::Violation;

/// Most entries that are told of: the first of the list.
const ENTRIES_MAX: usize = 1_000;
/// Most violations of an entry that are told.
const VIOLATIONS_MAX: usize = 100;
/// Most bytes of a text that is told, which may be as long as what was given.
const TEXT_MAX: usize = 512;

/// An entry that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedEntry {
    /// Where it stands: `applications[3]`.
    pub place: String,
    /// Its id.
    pub id: String,
    /// What is wrong with it, by fields of the list.
    pub violations: Vec<Violation>,
}

/// What is not taken of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    entries: BTreeMap<(bool, usize), RefusedEntry>,
    types: usize,
    applications: usize,
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push('…');
    }
    text
}

impl Refusals {
    /// The application, or the service type, of this place is not taken.
    pub(super) fn add(&mut self, of_applications: bool, place: usize, id: &str, mut violations: Vec<Violation>) {
        *(if of_applications { &mut self.applications } else { &mut self.types }) += 1;
        let order = (of_applications, place);
        if self.entries.len() == ENTRIES_MAX && self.entries.last_key_value().is_some_and(|(last, _)| *last < order) {
            return;
        }
        let at = format!("{}[{place}]", if of_applications { "applications" } else { "service_types" });
        let more = violations.len().saturating_sub(VIOLATIONS_MAX);
        violations.truncate(VIOLATIONS_MAX);
        for violation in &mut violations {
            violation.field = format!("{at}.{}", violation.field);
            violation.description = cut(std::mem::take(&mut violation.description));
        }
        if more > 0 {
            violations.push(Violation { field: at.clone(), description: format!("and {more} more violations") });
        }
        let id = cut(id.get(..id.floor_char_boundary(TEXT_MAX + 4)).unwrap_or_default().to_owned());
        self.entries.insert(order, RefusedEntry { place: at, id, violations });
        if self.entries.len() > ENTRIES_MAX {
            self.entries.pop_last();
        }
    }

    /// How many applications are not taken.
    #[must_use]
    pub fn applications(&self) -> usize {
        self.applications
    }

    /// How many entries are not taken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.types + self.applications
    }

    /// Whether everything is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The first of them, in order of the list.
    #[must_use]
    pub fn into_entries(self) -> Vec<RefusedEntry> {
        self.entries.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_told_and_all_are_counted() {
        let mut refusals = Refusals::default();
        let fault = |text: &str| vec![Violation { field: "id".into(), description: text.into() }];
        for place in (0..3_000).rev() {
            refusals.add(true, place, "x", fault("no"));
        }
        refusals.add(false, 7, &"ü".repeat(400), vec![fault(&"y".repeat(9_000)).remove(0); 300]);
        assert_eq!((refusals.count(), refusals.applications()), (3_001, 3_000));
        let entries = refusals.into_entries();
        assert_eq!((entries.len(), entries[1].place.as_str()), (ENTRIES_MAX, "applications[0]"));
        assert_eq!(entries[999].place, "applications[998]");
        let first = &entries[0];
        assert_eq!((first.place.as_str(), first.violations.len()), ("service_types[7]", VIOLATIONS_MAX + 1));
        assert_eq!(first.violations[100].description, "and 200 more violations");
        assert!(first.id.len() < 600 && first.id.ends_with('…') && first.violations[0].description.len() < 600);
    }
}
