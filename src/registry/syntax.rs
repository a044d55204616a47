//! Reading and writing small languages: a cursor over text, the error that names a place in it, JSON strings as quotes.
//! Knows no grammar.

use std::borrow::Cow;

/// Why a text could not be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at byte {position})")]
pub struct SyntaxError {
    /// Offset in bytes, on a character's boundary; the length of the text when something is missing at its end.
    pub position: usize,
    /// What is wrong, as a sentence without a full stop.
    pub message: Cow<'static, str>,
}

/// A place in a text.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    pub(super) fn error(&self, message: impl Into<Cow<'static, str>>) -> SyntaxError {
        SyntaxError { position: self.at, message: message.into() }
    }

    /// That something else was expected here.
    pub(super) fn expected(&self, what: &str) -> SyntaxError {
        self.error(match self.peek() {
            Some(found) => format!("expected {what}, found {found:?}"),
            None => format!("expected {what}, found the end"),
        })
    }

    /// A JSON string, whose opening quote is next.
    pub(super) fn json_string(&mut self) -> Result<String, SyntaxError> {
        let mut escaped = true; // so that the opening quote does not end it
        let end = self.rest().find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else {
            return Err(self.error("a string that begins here does not end"));
        };
        let string = serde_json::from_str(&self.rest()[..=end]).map_err(|_| self.error("not a JSON string"))?;
        self.at += end + 1;
        Ok(string)
    }
}

/// The text as it is when all its characters are `plain` and there are some, else as a JSON string.
pub(super) fn quoted(text: &str, plain: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.is_empty() && text.chars().all(plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(serde_json::Value::from(text).to_string())
    }
}

/// The text, cut to what fits into a sentence.
pub(super) fn excerpt(text: &str) -> Cow<'_, str> {
    const EXCERPT_CHARS: usize = 32;
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}
