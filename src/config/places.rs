//! A file in TOML as those see it who tell what is wrong with it: in its own order, with lines, and with what was meant.
//! Knows no setting.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

/// A file of settings, read but not understood yet.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl ConfigFile {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), text: fs::read_to_string(path)? })
    }

    /// The number of the line with this byte.
    #[must_use]
    pub fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// File and line of this byte.
    #[must_use]
    pub fn place(&self, at: usize) -> String {
        format!("{}, line {}", self.path.display(), self.line(at))
    }

    /// What the parser says, and where.
    #[must_use]
    pub fn fault(&self, fault: &toml::de::Error) -> String {
        let message = fault.message().replace('\n', ", ");
        format!(
            "{}: {message}",
            fault.span().map_or_else(|| self.path.display().to_string(), |span| self.place(span.start))
        )
    }
}

/// In the file's own order, so that violations come line by line.
#[must_use]
pub fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// `; did you mean …?` when a known name is close.
#[must_use]
pub fn nearest(name: &str, known: impl IntoIterator<Item = &'static str>) -> String {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    let close = known.into_iter().map(|candidate| (distance(&plain(name), &plain(candidate)), candidate)).min();
    match close {
        Some((steps, candidate)) if steps <= 3.min(name.len() / 2) => format!("; did you mean `{candidate}`?"),
        _ => String::new(),
    }
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
