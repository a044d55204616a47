//! Files as text: enough of Rust's grammar to tell code from comments and strings, and to find names, macros, paths and
//! bodies in it. Knows no rule.

use std::{iter, ops::Range};

/// One file of the tree, or one that was made up to break a rule.
pub struct File {
    /// Relative to the top.
    pub path: String,
    /// All of it.
    pub text: String,
    /// The text of a Rust file with comments, strings and characters blanked, line for line and byte for byte.
    pub code: String,
}

impl File {
    pub fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") { blanked(&text) } else { String::new() };
        Self { path: path.to_owned(), text, code }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it is `src/NAME.rs` or somewhere in `src/NAME/`.
    pub fn is_of(&self, name: &str) -> bool {
        let rest = self.path.strip_prefix("src/").and_then(|path| path.strip_prefix(name));
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    pub fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// The lines of these places in the code.
    pub fn lines(&self, places: impl IntoIterator<Item = usize>) -> Vec<usize> {
        places.into_iter().map(|at| self.line(at)).collect()
    }
}

/// `text` with what is not code as spaces.
fn blanked(text: &str) -> String {
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while at < code.len() {
        let length = opaque(&text.as_bytes()[at..]);
        code[at..at + length].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at += length.max(1);
    }
    String::from_utf8(code).expect("whole characters were blanked")
}

/// How long the comment, string or character is that `rest` begins with; 0 if it begins with code.
fn opaque(rest: &[u8]) -> usize {
    let until = |end: &[u8], from: usize| {
        let found = rest.get(from..).and_then(|rest| rest.windows(end.len()).position(|window| window == end));
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    let hashes = rest.iter().skip(1).take_while(|byte| **byte == b'#').count();
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'r', ..] if rest.get(1 + hashes) == Some(&b'"') => {
            until(&[b"\"", "#".repeat(hashes).as_bytes()].concat(), 2 + hashes)
        }
        [b'"', ..] => quoted(rest, b'"'),
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        // A lifetime has no second quote right after its first character.
        [b'\'', first, ..] => {
            let width = [1, 2, 3, 4][[0x80, 0xe0, 0xf0].iter().filter(|least| first >= least).count()];
            if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

/// How long the literal is that ends at the next `quote` which is not escaped.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The names and keywords of `code`, with where they begin.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    iter::from_fn(move || {
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let start = rest + code[rest..].find(is_name)?;
        let end = code[start..].find(|letter| !is_name(letter)).map_or(code.len(), |length| start + length);
        rest = end;
        Some((start, &code[start..end]))
    })
}

/// Where `code` has one of these names.
pub fn mentions(code: &str, names: &[&str]) -> Vec<usize> {
    words(code).filter(|(_, word)| names.contains(word)).map(|(at, _)| at).collect()
}

/// Where one of these macros is used.
pub fn macros(code: &str, names: &[&str]) -> Vec<usize> {
    let used = |(at, word): &(usize, &str)| names.contains(word) && code[at + word.len()..].starts_with('!');
    words(code).filter(used).map(|(at, _)| at).collect()
}

/// What directly follows `root::` in paths and imports, also in the braces of an import.
pub fn heads<'a>(code: &'a str, root: &str) -> Vec<(usize, &'a str)> {
    let mut heads = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == root) {
        let Some(path) = code[at + root.len()..].strip_prefix("::") else { continue };
        let start = code.len() - path.len();
        let starts = if path.starts_with('{') { items(code, start) } else { vec![start] };
        heads.extend(
            starts.into_iter().filter_map(|at| words(&code[at..]).next().map(|(skip, word)| (at + skip, word))),
        );
    }
    heads
}

/// Where the items of the braces at `open` begin.
fn items(code: &str, open: usize) -> Vec<usize> {
    let mut depth = 0;
    let mut starts = vec![open + 1];
    for (at, letter) in code[block(code, open)].char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => starts.push(open + at + 1),
            _ => {}
        }
    }
    starts
}

/// From the brace at `open` to the one that closes it.
fn block(code: &str, open: usize) -> Range<usize> {
    let mut depth = 0;
    for (at, letter) in code[open..].char_indices() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if depth == 0 {
            return open..open + at + 1;
        }
    }
    open..code.len()
}

/// The body of the item that begins at `start`: its first braces that are not within brackets. None if it has none.
pub fn body(code: &str, start: usize) -> Option<Range<usize>> {
    let mut depth = 0;
    for (at, letter) in code[start..].char_indices() {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(block(code, start + at)),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// What of a file is test code: all of it, or what is under `#[cfg(test)]`.
pub fn tests_of(file: &File) -> Vec<Range<usize>> {
    if file.path.starts_with("tests/") || file.path.ends_with("/tests.rs") || file.path.contains("/tests/") {
        return iter::once(0..file.code.len()).collect();
    }
    let attributes = file.code.match_indices("#[cfg(test)]");
    attributes.filter_map(|(at, attribute)| body(&file.code, at + attribute.len())).collect()
}

#[test]
fn only_code_is_left() {
    for (text, code) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b\n */ c", "a     \n    c"),
        (r#"a("b\"c", d)"#, "a(      , d)"),
        (r##"a(r#"b"c"#, b"d", br"\")"##, "a(        , b   , b    )"),
        (r"a('b', '\'', '\u{7b}', '{')", "a(   ,     ,         ,    )"),
        ("a('ü', '…', '🦀')", "a(    ,      ,       )"),
        ("a<'b>(c: &'b str, 'd')", "a<'b>(c: &'b str,    )"),
        ("'a: loop { break 'a }", "'a: loop { break 'a }"),
        ("r#type(\"", "r#type( "),
    ] {
        assert_eq!(blanked(text), code, "{text}");
    }
}
