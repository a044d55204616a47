//! What a version text asks for: any version, one exact text, or a range in npm's grammar. Knows no instances.
//!
//! A text is a range when it holds an operator (`<`, `>`, `=`, `^`, `~`), white space, a comma, `||`, or an `x`, `X` or
//! `*` part: a dot-separated part that is `*`, or one of the up to three numeric parts of a version. So `1.x`, `v1.*`
//! and `1.2.x-beta` are ranges, while `1.2.3-x`, `x-large`, `release.x` and also `1.2` are exact texts.
//!
//! The grammar is the one that npm publishes, read strictly: nothing that is not understood is passed over, and a set of
//! comparators that cannot all hold matches nothing. A comma reads as a space. Differences to npm's own implementation:
//! a number after a wildcard (`^1.x.3`) is an error everywhere, a union with `*` still has the pre-releases that its
//! other parts name, and `>=0.0.0` keeps out pre-releases of 0.0.0.

use std::cmp::Ordering;
use std::fmt;

use smol_str::SmolStr;

use super::syntax::{Cursor, SyntaxError};

/// A version text is at most this long, as is the version of an instance.
pub const MAX_VERSION_BYTES: usize = 128;

/// The largest number in a version, npm's: what a double counts exactly.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// What a version text asks for. Equal texts after normalisation are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum VersionMatch {
    /// Every version, also none: the empty text.
    #[default]
    Any,
    /// This text, byte for byte.
    Exact(SmolStr),
    /// The semantic versions of a range.
    Range(Box<Range>),
}

impl VersionMatch {
    /// Reads a version text.
    ///
    /// # Errors
    /// The text is too long, or looks like a range and is none.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        if text.len() > MAX_VERSION_BYTES {
            let message = format!("a version has at most {MAX_VERSION_BYTES} bytes, this has {}", text.len());
            return Err(Cursor::new(text).error(message));
        }
        if text.is_empty() {
            Ok(Self::Any)
        } else if is_range(text) {
            Range::parse(text).map(|range| Self::Range(Box::new(range)))
        } else {
            Ok(Self::Exact(text.into()))
        }
    }

    /// Whether an instance of this version is meant.
    #[must_use]
    pub fn matches(&self, version: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => text == version,
            Self::Range(range) => range.matches(version),
        }
    }
}

/// The canonical text: reading it gives an equal value, and it is never longer than the text that was read.
impl fmt::Display for VersionMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Exact(text) => f.write_str(text),
            Self::Range(range) => f.write_str(&range.text),
        }
    }
}

fn is_range(text: &str) -> bool {
    text.contains(|c: char| matches!(c, '<' | '>' | '=' | '^' | '~') || is_space(c))
        || text.contains("||")
        || text.split('.').any(|part| part == "*")
        || Partial::whole(text).is_some_and(|partial| partial.wildcard)
}

/// Commas separate comparators as spaces do.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == ','
}

/// Sets of comparators: a version is in the range when all comparators of one set hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    sets: Vec<Vec<Comparator>>,
    /// The canonical text.
    text: SmolStr,
}

impl Range {
    fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut cursor = Cursor::new(text);
        let mut sets = vec![parse_set(&mut cursor)?];
        while cursor.eat("||") {
            sets.push(parse_set(&mut cursor)?);
        }
        sets.sort();
        sets.dedup();
        // Alone, nothing would tell an empty or an operator-less set from an empty or an exact text.
        if let [Set { text, .. }] = &mut sets[..] {
            if text.is_empty() {
                text.push('*');
            } else if !is_range(text) {
                text.insert(0, '=');
            }
        }
        let texts: Vec<_> = sets.iter().map(|set| set.text.as_str()).collect();
        let text = texts.join("||").into();
        Ok(Self { text, sets: sets.into_iter().map(|set| set.comparators).collect() })
    }

    fn matches(&self, version: &str) -> bool {
        Partial::whole(version).filter(Partial::is_full).is_some_and(|version| {
            self.sets.iter().any(|set| {
                set.iter().all(|comparator| comparator.holds(&version))
                    && (version.pre.is_empty() || set.iter().any(|comparator| comparator.names_pre_of(&version)))
            })
        })
    }
}

/// Comparators that must all hold, with their canonical text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Set {
    text: String,
    comparators: Vec<Comparator>,
}

/// Reads up to the end or `||`: a hyphen range, or any number of terms.
fn parse_set(cursor: &mut Cursor<'_>) -> Result<Set, SyntaxError> {
    let mut terms = Vec::new();
    for count in 0.. {
        cursor.take_while(is_space);
        if cursor.is_at_end() || cursor.rest().starts_with("||") {
            break;
        }
        let at = *cursor;
        let operator = Operator::parse(cursor);
        let partial = Partial::parse(cursor)?;
        if count == 0 && operator.is_none() && eat_hyphen(cursor) {
            return parse_hyphen(partial, cursor);
        }
        if !at_boundary(cursor) {
            return Err(cursor.expected("a space, a comma or `||`"));
        }
        let operator = match operator {
            // Nothing is beyond all versions, as nothing is below them.
            Some(Operator::Greater) if partial.known == 0 => Operator::Less,
            operator => operator.unwrap_or(Operator::Equal),
        };
        let comparators = operator.comparators(&partial).ok_or_else(|| at.error(TOO_LARGE))?;
        if !comparators.is_empty() {
            terms.push((operator, operator.text(&partial), comparators));
        }
    }
    terms.sort();
    terms.dedup();
    let texts: Vec<_> = terms.iter().map(|(_, text, _)| text.as_str()).collect();
    let text = texts.join(" ");
    Ok(Set { text, comparators: terms.into_iter().flat_map(|(.., comparators)| comparators).collect() })
}

const TOO_LARGE: &str = "a number in a version is at most 9007199254740991";

fn at_boundary(cursor: &Cursor<'_>) -> bool {
    cursor.is_at_end() || cursor.peek().is_some_and(is_space) || cursor.rest().starts_with("||")
}

/// A hyphen between spaces. Leaves the cursor where it is when there is none.
fn eat_hyphen(cursor: &mut Cursor<'_>) -> bool {
    let mut ahead = *cursor;
    let found = !ahead.take_while(is_space).is_empty() && ahead.eat("-") && !ahead.take_while(is_space).is_empty();
    if found {
        *cursor = ahead;
    }
    found
}

/// `low - high` means `>=low <=high`, and stands alone in its set.
fn parse_hyphen(low: Partial<'_>, cursor: &mut Cursor<'_>) -> Result<Set, SyntaxError> {
    let at = *cursor;
    let high = Partial::parse(cursor)?;
    cursor.take_while(is_space);
    if !cursor.is_at_end() && !cursor.rest().starts_with("||") {
        return Err(cursor.expected("`||` or nothing after a hyphen range"));
    }
    let (from, to) = (Operator::GreaterEqual, Operator::LessEqual);
    let mut comparators = from.comparators(&low).ok_or_else(|| at.error(TOO_LARGE))?;
    comparators.extend(to.comparators(&high).ok_or_else(|| at.error(TOO_LARGE))?);
    let text = match (low.known, high.known) {
        (0, 0) => String::new(),
        (0, _) => to.text(&high),
        (_, 0) => from.text(&low),
        _ => format!("{low} - {high}"),
    };
    Ok(Set { text, comparators })
}

/// In the order in which canonical texts show them: lower bounds first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operator {
    GreaterEqual,
    Greater,
    Equal,
    Caret,
    Tilde,
    LessEqual,
    Less,
}

impl Operator {
    fn parse(cursor: &mut Cursor<'_>) -> Option<Self> {
        let operators = [
            (">=", Self::GreaterEqual),
            (">", Self::Greater),
            ("<=", Self::LessEqual),
            ("<", Self::Less),
            ("=", Self::Equal),
            ("^", Self::Caret),
            ("~>", Self::Tilde),
            ("~", Self::Tilde),
        ];
        let found = operators.into_iter().find(|(token, _)| cursor.eat(token))?.1;
        cursor.take_while(is_space);
        Some(found)
    }

    fn text(self, partial: &Partial<'_>) -> String {
        match self {
            Self::Equal => partial.to_string(),
            Self::Less if partial.known == 0 => "<*".to_owned(),
            Self::GreaterEqual => format!(">={partial}"),
            Self::Greater => format!(">{partial}"),
            Self::Caret => format!("^{partial}"),
            Self::Tilde => format!("~{partial}"),
            Self::LessEqual => format!("<={partial}"),
            Self::Less => format!("<{partial}"),
        }
    }

    /// What the term means, in comparators with full versions; `None` when a bound is beyond all numbers.
    fn comparators(self, partial: &Partial<'_>) -> Option<Vec<Comparator>> {
        let Partial { numbers, known, pre, .. } = *partial;
        let bound = |relation, numbers, pre: &str| Comparator { relation, numbers, pre: pre.into() };
        // Below every pre-release of the next version at this place: what `<2.0.0-0` says.
        let below_next = |place| Some(bound(Relation::Less, next(numbers, place)?, "0"));
        let at_least = bound(Relation::GreaterEqual, numbers, pre);
        Some(match (self, known) {
            (Self::Less, 0) => vec![bound(Relation::Less, [0; 3], "0")],
            (_, 0) => Vec::new(),
            (Self::Caret, _) => {
                let first = numbers[..known].iter().position(|&number| number > 0).unwrap_or(known - 1);
                vec![at_least, below_next(first)?]
            }
            (Self::Tilde, _) => vec![at_least, below_next((known - 1).min(1))?],
            (Self::GreaterEqual, _) => vec![at_least],
            (Self::Equal, 3) => vec![bound(Relation::Equal, numbers, pre)],
            (Self::Equal, _) => vec![at_least, below_next(known - 1)?],
            (Self::Greater, 3) => vec![bound(Relation::Greater, numbers, pre)],
            (Self::Greater, _) => vec![bound(Relation::GreaterEqual, next(numbers, known - 1)?, "")],
            (Self::LessEqual, 3) => vec![bound(Relation::LessEqual, numbers, pre)],
            (Self::LessEqual, _) => vec![below_next(known - 1)?],
            (Self::Less, 3) => vec![bound(Relation::Less, numbers, pre)],
            (Self::Less, _) => vec![bound(Relation::Less, numbers, "0")],
        })
    }
}

/// The number at `place` grows by one, those after it are zero.
fn next(mut numbers: [u64; 3], place: usize) -> Option<[u64; 3]> {
    numbers[place] += 1;
    numbers[place + 1..].fill(0);
    (numbers[place] <= MAX_NUMBER).then_some(numbers)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Relation {
    Less,
    LessEqual,
    Equal,
    GreaterEqual,
    Greater,
}

/// A relation to a full version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Comparator {
    relation: Relation,
    numbers: [u64; 3],
    pre: SmolStr,
}

impl Comparator {
    fn holds(&self, version: &Partial<'_>) -> bool {
        let order = version.numbers.cmp(&self.numbers).then_with(|| compare_pre(version.pre, &self.pre));
        match self.relation {
            Relation::Less => order.is_lt(),
            Relation::LessEqual => order.is_le(),
            Relation::Equal => order.is_eq(),
            Relation::GreaterEqual => order.is_ge(),
            Relation::Greater => order.is_gt(),
        }
    }

    /// Pre-releases are opted into, version by version.
    fn names_pre_of(&self, version: &Partial<'_>) -> bool {
        !self.pre.is_empty() && self.numbers == version.numbers
    }
}

/// The order of semantic versioning: none comes after all; numbers by value, before words, which go by their bytes.
fn compare_pre(a: &str, b: &str) -> Ordering {
    if a.is_empty() || b.is_empty() {
        return a.is_empty().cmp(&b.is_empty());
    }
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (is_number(a), is_number(b)) {
                // Without leading zeros the longer one is larger, whatever its size.
                (true, true) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
                (a_is_number, b_is_number) => b_is_number.cmp(&a_is_number).then_with(|| a.cmp(b)),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// A version of which only the first parts may be known: `1`, `1.2.x`, `1.2.3-beta.1`.
struct Partial<'a> {
    /// Zero where nothing is known.
    numbers: [u64; 3],
    /// How many numbers count: those before the first wildcard or the end.
    known: usize,
    wildcard: bool,
    /// Where a number follows a wildcard, which means nothing.
    misplaced: Option<Cursor<'a>>,
    /// Empty unless all three numbers count. Build metadata is read and dropped, it never matters.
    pre: &'a str,
}

impl<'a> Partial<'a> {
    /// The text as one version, if it is one.
    fn whole(text: &'a str) -> Option<Self> {
        let mut cursor = Cursor::new(text);
        Self::read(&mut cursor).ok().filter(|_| cursor.is_at_end())
    }

    fn is_full(&self) -> bool {
        self.known == 3
    }

    fn parse(cursor: &mut Cursor<'a>) -> Result<Self, SyntaxError> {
        let partial = Self::read(cursor)?;
        match partial.misplaced {
            Some(at) => Err(at.error("a number in a version cannot follow a wildcard")),
            None => Ok(partial),
        }
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<Self, SyntaxError> {
        let mut partial = Self { numbers: [0; 3], known: 0, wildcard: false, misplaced: None, pre: "" };
        cursor.eat("v");
        for place in 0..3 {
            let at = *cursor;
            match parse_number(cursor)? {
                Some(number) if !partial.wildcard => {
                    partial.numbers[place] = number;
                    partial.known = place + 1;
                }
                Some(_) => partial.misplaced = Some(at),
                None => partial.wildcard = true,
            }
            if place < 2 && !cursor.eat(".") {
                return Ok(partial);
            }
        }
        if cursor.eat("-") {
            let pre = parse_identifiers(cursor, true)?;
            partial.pre = if partial.wildcard { "" } else { pre };
        }
        if cursor.eat("+") {
            parse_identifiers(cursor, false)?;
        }
        Ok(partial)
    }
}

impl fmt::Display for Partial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, number) in self.numbers[..self.known].iter().enumerate() {
            write!(f, "{}{number}", if place > 0 { "." } else { "" })?;
        }
        write!(f, "{}{}", if self.pre.is_empty() { "" } else { "-" }, self.pre)
    }
}

/// A number, or `None` for a wildcard.
fn parse_number(cursor: &mut Cursor<'_>) -> Result<Option<u64>, SyntaxError> {
    if ["x", "X", "*"].into_iter().any(|wildcard| cursor.eat(wildcard)) {
        return Ok(None);
    }
    let at = *cursor;
    let digits = cursor.take_while(|c| c.is_ascii_digit());
    if digits.is_empty() {
        return Err(cursor.expected("a number or `x`"));
    }
    check_zeros(digits, at)?;
    let number = digits.parse().ok().filter(|number| *number <= MAX_NUMBER);
    number.map(Some).ok_or_else(|| at.error(TOO_LARGE))
}

/// What follows `-` or `+`: identifiers joined by dots.
fn parse_identifiers<'a>(cursor: &mut Cursor<'a>, numeric: bool) -> Result<&'a str, SyntaxError> {
    let start = *cursor;
    loop {
        let at = *cursor;
        let identifier = cursor.take_while(|c| c.is_ascii_alphanumeric() || c == '-');
        if identifier.is_empty() {
            return Err(cursor.expected("a letter, a digit or `-`"));
        }
        if numeric && identifier.bytes().all(|byte| byte.is_ascii_digit()) {
            check_zeros(identifier, at)?;
        }
        if !cursor.eat(".") {
            return Ok(&start.rest()[..cursor.position() - start.position()]);
        }
    }
}

fn check_zeros(digits: &str, at: Cursor<'_>) -> Result<(), SyntaxError> {
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(at.error("a number in a version has no leading zero"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
