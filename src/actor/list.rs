//! Which part of a list is asked for, and which of it may be shown. Knows nothing of what is listed.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::registry::Realm;

/// Which services to list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// None: of all namespaces.
    pub namespace: Option<SmolStr>,
    /// Only what is in one of these parts, if it says so.
    pub within: Option<Arc<[Realm]>>,
    /// Names that begin so.
    pub prefix: String,
    /// Only those that have, or had lately, a partition of this key; empty: all.
    pub partition_key: String,
    /// How many at most; 0 is 1,000.
    pub limit: usize,
    /// Where the last page ended.
    pub page_token: String,
}

impl ListQuery {
    /// Whether what has this name is to be shown.
    #[must_use]
    pub fn shows(&self, namespace: &str, name: &str) -> bool {
        self.within.as_ref().is_none_or(|parts| parts.iter().any(|part| part.contains(namespace, name)))
    }
}
