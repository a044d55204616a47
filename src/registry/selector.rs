//! Which instances a selector text means, by their fields and metadata. Knows neither names nor the default statuses:
//! see `filter`.
//!
//! ```text
//! selector = [ term *( "," term ) ]
//! term     = field | "!" field | field ( "=" | "!=" ) value | field ( "in" | "notin" ) "(" value *( "," value ) ")"
//! field    = "id" | "host" | "zone" | "status" | "version" | "weight" | "partition_key" |
//!            "metadata" 1*( "." part )
//! ```
//! White space may stand around everything but the dots of a path. A value or a part is a JSON string, or bare: a part
//! of letters, digits, `_`, `-` and `/`; a value of anything but white space, control characters and
//! `,` `=` `!` `(` `)` `"` `<` `>` `[` `]` `{` `}` `\`.
//!
//! All terms must hold. A missing field makes `f`, `f=v` and `f in (…)` false; `!f`, `f!=v` and `f notin (…)` true. An
//! empty host, zone, version or partition key is missing. An absent weight is 1, so that a weight is never missing; nor is a status or
//! an id. A version value is a version text, so it may be a range. Metadata values compare as text: strings by content,
//! numbers in the form of RFC 8785 (`1`, `1.5`, `1e+21`), `true`, `false`, `null`; objects and lists are there, but
//! equal nothing. A path leads through objects only. `status=*` is `status`: there is always one, but now the selector
//! speaks of it.

use std::borrow::Cow;
use std::fmt;

use prost_types::value::Kind;
use smol_str::SmolStr;

use super::syntax::{Cursor, SyntaxError, excerpt, quoted};
use super::version::VersionMatch;
use super::{Instance, Status};

/// A selector text is at most this long.
pub const MAX_SELECTOR_BYTES: usize = 4_096;
/// A selector has at most this many terms, since each is judged for each event.
pub const MAX_TERMS: usize = 64;
/// All terms of a selector together have at most this many values.
pub const MAX_VALUES: usize = 256;

/// Terms that must all hold. Without terms it means every instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// In the order of their canonical texts, each once.
    terms: Box<[Term]>,
}

impl Selector {
    /// Reads a selector text.
    ///
    /// # Errors
    /// The text breaks the grammar, names what does not exist, or is beyond a limit.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut parser = Parser { cursor: Cursor::new(text), values: 0 };
        if text.len() > MAX_SELECTOR_BYTES {
            let message = format!("a selector has at most {MAX_SELECTOR_BYTES} bytes, this has {}", text.len());
            return Err(parser.cursor.error(message));
        }
        let mut terms = parser.terms()?;
        terms.sort_by_cached_key(Term::to_string);
        terms.dedup();
        Ok(Self { terms: terms.into() })
    }

    /// Whether an instance is meant.
    #[must_use]
    pub fn matches(&self, instance: &Instance) -> bool {
        self.terms.iter().all(|term| term.test.holds(instance) != term.negated)
    }

    /// Whether a term is about the status: only then does a selector choose among all statuses.
    #[must_use]
    pub fn speaks_of_status(&self) -> bool {
        self.terms.iter().any(|term| matches!(term.test, Test::Status(_)))
    }

    /// Whether there are no terms.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

/// The canonical text: equal selectors have equal texts, and reading one gives an equal selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, term) in self.terms.iter().enumerate() {
            write!(f, "{}{term}", if place > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    test: Test,
    negated: bool,
}

/// A field and its values, in the order of their canonical texts; without values: that the field is there.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Id(Box<[SmolStr]>),
    Host(Box<[SmolStr]>),
    Zone(Box<[SmolStr]>),
    Status(Box<[Status]>),
    Version(Box<[VersionMatch]>),
    Weight(Box<[u32]>),
    PartitionKey(Box<[SmolStr]>),
    Metadata(Box<[SmolStr]>, Box<[JsonText]>),
}

impl Test {
    fn holds(&self, instance: &Instance) -> bool {
        let text = |values: &[SmolStr], found: &str| {
            !found.is_empty() && (values.is_empty() || values.iter().any(|value| value == found))
        };
        match self {
            Self::Id(values) => text(values, &instance.id),
            Self::Host(values) => text(values, &instance.host),
            Self::Zone(values) => text(values, &instance.zone),
            Self::PartitionKey(values) => text(values, &instance.partition_key),
            Self::Status(values) => values.is_empty() || values.contains(&instance.status()),
            Self::Version(values) => {
                let found = &instance.version;
                !found.is_empty() && (values.is_empty() || values.iter().any(|value| value.matches(found)))
            }
            Self::Weight(values) => values.is_empty() || values.contains(&instance.weight.unwrap_or(1)),
            Self::Metadata(path, values) => follow(instance.metadata.as_ref(), path)
                .is_some_and(|found| values.is_empty() || values.iter().any(|value| value.equals(found))),
        }
    }
}

/// The value at the end of the path.
fn follow<'a>(metadata: Option<&'a prost_types::Value>, path: &[SmolStr]) -> Option<&'a Kind> {
    path.iter().try_fold(metadata?.kind.as_ref()?, |kind, part| match kind {
        Kind::StructValue(object) => object.fields.get(part.as_str())?.kind.as_ref(),
        _ => None,
    })
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            Test::Id(values) => write_term(f, "id", self.negated, values),
            Test::Host(values) => write_term(f, "host", self.negated, values),
            Test::Zone(values) => write_term(f, "zone", self.negated, values),
            Test::PartitionKey(values) => write_term(f, "partition_key", self.negated, values),
            Test::Status(values) => write_term(f, "status", self.negated, values),
            Test::Version(values) => write_term(f, "version", self.negated, values),
            Test::Weight(values) => write_term(f, "weight", self.negated, values),
            Test::Metadata(path, values) => {
                let parts: String =
                    path.iter().flat_map(|part| [Cow::Borrowed("."), quoted(part, is_bare_part)]).collect();
                write_term(f, &format!("metadata{parts}"), self.negated, values)
            }
        }
    }
}

fn write_term<T: Value>(f: &mut fmt::Formatter<'_>, field: &str, negated: bool, values: &[T]) -> fmt::Result {
    let word = |value: &T| quoted(&value.text(), is_bare_value).into_owned();
    match (values, negated) {
        ([], false) => f.write_str(field),
        ([], true) => write!(f, "!{field}"),
        ([value], false) => write!(f, "{field}={}", word(value)),
        ([value], true) => write!(f, "{field}!={}", word(value)),
        (values, _) => {
            let words: Vec<_> = values.iter().map(word).collect();
            write!(f, "{field} {} ({})", if negated { "notin" } else { "in" }, words.join(","))
        }
    }
}

/// What a field is compared with.
trait Value: Sized {
    fn read(text: &str) -> Result<Self, Cow<'static, str>>;
    /// Reading it gives an equal value.
    fn text(&self) -> Cow<'_, str>;
}

impl Value for SmolStr {
    fn read(text: &str) -> Result<Self, Cow<'static, str>> {
        if text.is_empty() {
            return Err("this field is never empty; `!field` finds where it is missing".into());
        }
        Ok(text.into())
    }

    fn text(&self) -> Cow<'_, str> {
        self.as_str().into()
    }
}

impl Value for Status {
    fn read(text: &str) -> Result<Self, Cow<'static, str>> {
        let known = [Self::Starting, Self::Serving, Self::Draining, Self::Suspect, Self::Maintenance];
        known
            .into_iter()
            .find(|status| {
                let name = status.text();
                let upper = text.strip_prefix("STATUS_").unwrap_or(text);
                text == name || upper == name.to_ascii_uppercase()
            })
            .ok_or_else(|| {
                let found = excerpt(text);
                format!("unknown status {found:?}: there are starting, serving, draining, suspect, maintenance").into()
            })
    }

    fn text(&self) -> Cow<'_, str> {
        let name = match self {
            Self::Unspecified => "unspecified",
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Maintenance => "maintenance",
        };
        name.into()
    }
}

impl Value for VersionMatch {
    fn read(text: &str) -> Result<Self, Cow<'static, str>> {
        if text.is_empty() {
            return Err("a version is never empty; `!version` finds where it is missing".into());
        }
        Self::parse(text)
            .map_err(|error| format!("in this version at its byte {}: {}", error.position, error.message).into())
    }

    fn text(&self) -> Cow<'_, str> {
        self.to_string().into()
    }
}

impl Value for u32 {
    fn read(text: &str) -> Result<Self, Cow<'static, str>> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or_else(|| "a weight is a whole number from 0 to 4294967295".into())
    }

    fn text(&self) -> Cow<'_, str> {
        self.to_string().into()
    }
}

/// What a scalar of the metadata is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct JsonText {
    text: SmolStr,
    /// The bits of the number that has this text, so that no number is formatted to be compared.
    number: Option<u64>,
}

impl JsonText {
    fn equals(&self, found: &Kind) -> bool {
        match found {
            Kind::StringValue(text) => self.text == text.as_str(),
            // Adding zero makes of -0 what it is written as, 0.
            Kind::NumberValue(number) => self.number == Some((number + 0.0).to_bits()),
            Kind::BoolValue(true) => self.text == "true",
            Kind::BoolValue(false) => self.text == "false",
            Kind::NullValue(_) => self.text == "null",
            Kind::StructValue(_) | Kind::ListValue(_) => false,
        }
    }
}

impl Value for JsonText {
    fn read(text: &str) -> Result<Self, Cow<'static, str>> {
        let number = text.parse().ok().filter(|number: &f64| number.is_finite() && number_text(*number) == text);
        Ok(Self { text: text.into(), number: number.map(f64::to_bits) })
    }

    fn text(&self) -> Cow<'_, str> {
        self.text.as_str().into()
    }
}

/// A finite number as RFC 8785 (and JavaScript) writes it.
fn number_text(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let shortest = format!("{:e}", number.abs());
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let magnitude = match usize::try_from(exponent) {
        Ok(exponent) if exponent + 1 >= digits.len() && exponent < 21 => format!("{digits:0<0$}", exponent + 1),
        Ok(exponent) if exponent < 21 => format!("{}.{}", &digits[..=exponent], &digits[exponent + 1..]),
        Err(_) if exponent >= -6 => format!("0.{digits:0>0$}", digits.len() + exponent.unsigned_abs() as usize - 1),
        _ => format!("{mantissa}e{exponent:+}"),
    };
    format!("{}{magnitude}", if number < 0.0 { "-" } else { "" })
}

fn is_bare_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '/')
}

fn is_bare_value(c: char) -> bool {
    let reserved = matches!(c, ',' | '=' | '!' | '(' | ')' | '"' | '<' | '>' | '[' | ']' | '{' | '}' | '\\');
    !(reserved || c.is_whitespace() || c.is_control())
}

/// Reads a path into metadata as a selector has it after `metadata.`.
///
/// # Errors
/// The text is no path.
pub(super) fn metadata_path(text: &str) -> Result<Box<[SmolStr]>, SyntaxError> {
    let dotted = format!(".{text}");
    let mut parser = Parser { cursor: Cursor::new(&dotted), values: 0 };
    let of_text = |error: SyntaxError| SyntaxError { position: error.position.saturating_sub(1), ..error };
    let path = parser.path().map_err(of_text)?;
    if parser.cursor.is_at_end() { Ok(path) } else { Err(of_text(parser.cursor.expected("`.` or the end"))) }
}

/// What is wanted of a field: one of these values, each with its place; any at all when there are none.
type Wanted = Vec<(usize, String)>;

struct Parser<'a> {
    cursor: Cursor<'a>,
    /// How many there were so far.
    values: usize,
}

impl Parser<'_> {
    fn terms(&mut self) -> Result<Vec<Term>, SyntaxError> {
        let mut terms = Vec::new();
        self.skip_space();
        if self.cursor.is_at_end() {
            return Ok(terms);
        }
        loop {
            self.skip_space();
            if terms.len() == MAX_TERMS {
                return Err(self.cursor.error(format!("a selector has at most {MAX_TERMS} terms")));
            }
            terms.push(self.term()?);
            if self.cursor.is_at_end() {
                return Ok(terms);
            }
            if !self.cursor.eat(",") {
                return Err(self.cursor.expected("`,` or the end"));
            }
        }
    }

    /// Ends after the white space that follows the term.
    fn term(&mut self) -> Result<Term, SyntaxError> {
        let absent = self.cursor.eat("!");
        self.skip_space();
        let at = self.cursor;
        let field = self.cursor.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if field.is_empty() {
            return Err(self.cursor.expected("a field"));
        }
        let path = if field == "metadata" { self.path()? } else { Box::default() };
        self.skip_space();
        let (negated, wanted) = if absent { (true, Wanted::new()) } else { self.wanted()? };
        let test = match field {
            "id" => Test::Id(read_values(wanted)?),
            "host" => Test::Host(read_values(wanted)?),
            "zone" => Test::Zone(read_values(wanted)?),
            "partition_key" => Test::PartitionKey(read_values(wanted)?),
            "status" if !negated && matches!(&wanted[..], [(_, value)] if value == "*") => Test::Status(Box::default()),
            "status" => Test::Status(read_values(wanted)?),
            "version" => Test::Version(read_values(wanted)?),
            "weight" => Test::Weight(read_values(wanted)?),
            "metadata" => Test::Metadata(path, read_values(wanted)?),
            _ => {
                let fields = "id, host, zone, status, version, weight, partition_key, metadata.path";
                return Err(at.error(format!("unknown field {:?}: there are {fields}", excerpt(field))));
            }
        };
        Ok(Term { test, negated })
    }

    fn path(&mut self) -> Result<Box<[SmolStr]>, SyntaxError> {
        let mut parts = Vec::new();
        while self.cursor.eat(".") {
            if self.cursor.peek() == Some('"') {
                parts.push(self.cursor.json_string()?.into());
                continue;
            }
            let part = self.cursor.take_while(is_bare_part);
            if part.is_empty() {
                return Err(self.cursor.expected("a part of the path"));
            }
            parts.push(part.into());
        }
        if parts.is_empty() {
            return Err(self.cursor.expected("`.` and a path"));
        }
        Ok(parts.into())
    }

    /// The operator and its values, if any; whether they are unwanted.
    fn wanted(&mut self) -> Result<(bool, Wanted), SyntaxError> {
        let at = self.cursor;
        let negated = self.cursor.eat("!=");
        if negated || self.cursor.eat("=") {
            self.skip_space();
            let value = self.value()?;
            self.skip_space();
            return Ok((negated, vec![value]));
        }
        match self.cursor.take_while(char::is_alphanumeric) {
            "in" => Ok((false, self.list()?)),
            "notin" => Ok((true, self.list()?)),
            "" if self.cursor.is_at_end() || self.cursor.peek() == Some(',') => Ok((false, Wanted::new())),
            _ => Err(at.expected("`=`, `!=`, `in`, `notin`, `,` or the end")),
        }
    }

    fn list(&mut self) -> Result<Wanted, SyntaxError> {
        self.skip_space();
        if !self.cursor.eat("(") {
            return Err(self.cursor.expected("`(`"));
        }
        let mut values = Wanted::new();
        loop {
            self.skip_space();
            values.push(self.value()?);
            self.skip_space();
            if self.cursor.eat(")") {
                self.skip_space();
                return Ok(values);
            }
            if !self.cursor.eat(",") {
                return Err(self.cursor.expected("`,` or `)`"));
            }
        }
    }

    fn value(&mut self) -> Result<(usize, String), SyntaxError> {
        if self.values == MAX_VALUES {
            return Err(self.cursor.error(format!("a selector has at most {MAX_VALUES} values")));
        }
        self.values += 1;
        let position = self.cursor.position();
        if self.cursor.peek() == Some('"') {
            return Ok((position, self.cursor.json_string()?));
        }
        let value = self.cursor.take_while(is_bare_value);
        if value.is_empty() {
            return Err(self.cursor.expected("a value (in quotes, if it has special characters)"));
        }
        Ok((position, value.to_owned()))
    }

    fn skip_space(&mut self) {
        self.cursor.take_while(char::is_whitespace);
    }
}

fn read_values<T: Value + PartialEq>(wanted: Wanted) -> Result<Box<[T]>, SyntaxError> {
    let read = |(position, text): (usize, String)| T::read(&text).map_err(|message| SyntaxError { position, message });
    let mut values: Vec<T> = wanted.into_iter().map(read).collect::<Result<_, _>>()?;
    values.sort_by_cached_key(|value| value.text().into_owned());
    values.dedup();
    Ok(values.into())
}

#[cfg(test)]
mod tests;
