//! Text for people: what others wrote made harmless, columns, durations, times, colours. No I/O.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use crate::text::is_hostile;
pub use crate::text::{host_port, safe};

/// JSON whose strings hold nothing that a terminal acts on: equal JSON, with more escapes.
#[must_use]
pub fn safe_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_hostile) {
        return Cow::Borrowed(json);
    }
    // Compact JSON has such characters only inside strings, where an escape means the same.
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_hostile(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Colours, by what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Good: green.
    Good,
    /// Worth a look: yellow.
    Notice,
    /// Bad: red.
    Bad,
    /// Beside the point: dim.
    Aside,
}

impl Tone {
    /// `text` in this colour.
    #[must_use]
    pub fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Good => 32,
            Self::Notice => 33,
            Self::Bad => 31,
            Self::Aside => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Rows in aligned columns.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self { rows: vec![names.into_iter().map(str::to_owned).collect()] }
    }

    /// Adds a row; its cells are made safe, and empty ones are shown as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown =
            cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { safe(&cell).into_owned() });
        self.rows.push(shown.collect());
    }

    /// Whether it has no row but the names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The lines, joined, without a newline at the end and without spaces at the ends of lines.
    #[must_use]
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column| self.rows.iter().filter_map(|row| row.get(column)).map(|c: &String| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// A duration in its two largest units: `850ms`, `4.2s`, `3m 20s`, `5h 2m`, `12d 4h`.
#[must_use]
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=9 => format!("{:.1}s", duration.as_secs_f64()).replace(".0s", "s"),
        10..=59 => format!("{seconds}s"),
        60..=3_599 => pair(seconds, 60, "m", 1, "s"),
        3_600..=86_399 => pair(seconds, 3_600, "h", 60, "m"),
        _ => pair(seconds, 86_400, "d", 3_600, "h"),
    }
}

fn pair(seconds: u64, large: u64, large_name: &str, small: u64, small_name: &str) -> String {
    match seconds % large / small {
        0 => format!("{}{large_name}", seconds / large),
        rest => format!("{}{large_name} {rest}{small_name}", seconds / large),
    }
}

/// Bytes for people: `64 MiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    let shown = crate::config::show_size(bytes);
    let digits = shown.bytes().take_while(u8::is_ascii_digit).count();
    format!("{} {}", &shown[..digits], &shown[digits..])
}

/// A count with its thousands set apart: `2,000,000`.
#[must_use]
pub fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// The time of day in UTC: `03:14:05.123Z`.
#[must_use]
pub fn clock(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (day, millis) = (since.as_secs() % 86_400, since.subsec_millis());
    format!("{:02}:{:02}:{:02}.{millis:03}Z", day / 3_600, day / 60 % 60, day % 60)
}

/// `1 instance`, `2 instances`.
#[must_use]
pub fn plural(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", human_count(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(["ID", "URL", "ZONE"]);
        assert!(table.is_empty());
        table.row(["web-1".into(), "http://10.0.0.1:8000".into(), String::new()]);
        table.row(["ü".into(), "x".into(), "eu\n\u{1b}[31m".into()]);
        let expected = "\
ID     URL                   ZONE
web-1  http://10.0.0.1:8000  -
ü      x                     eu\u{fffd}\u{fffd}[31m";
        assert_eq!(table.render(), expected);
        assert!(!table.is_empty());
    }

    #[test]
    fn nothing_reaches_the_terminal() {
        assert_eq!(safe("plain ü 漢"), "plain ü 漢");
        for hostile in ["\u{1b}[2J", "\r\n", "\u{7}", "\u{9b}31m", "\u{202e}gpj", "\u{2028}", "\u{200b}", "\u{7f}"] {
            assert!(!safe(hostile).chars().any(is_hostile), "{hostile:?}");
            let json = serde_json::to_string(hostile).unwrap();
            assert!(!safe_json(&json).chars().any(is_hostile), "{hostile:?}");
            assert_eq!(serde_json::from_str::<String>(&safe_json(&json)).unwrap(), hostile);
        }
        let tag = serde_json::to_string("\u{e0041}").unwrap();
        assert_eq!(serde_json::from_str::<String>(&safe_json(&tag)).unwrap(), "\u{e0041}");
    }

    #[test]
    fn durations_for_people() {
        for (millis, shown) in [
            (0, "0ms"),
            (850, "850ms"),
            (4_200, "4.2s"),
            (5_000, "5s"),
            (59_999, "59s"),
            (200_000, "3m 20s"),
            (18_120_000, "5h 2m"),
            (7_200_000, "2h"),
            (1_051_200_000, "12d 4h"),
        ] {
            assert_eq!(human(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn figures_for_people() {
        assert_eq!(human_count(2_000_000), "2,000,000");
        assert_eq!(human_count(999), "999");
        assert_eq!(human_count(1_000), "1,000");
        assert_eq!(human_bytes(64 << 20), "64 MiB");
        assert_eq!(clock(SystemTime::UNIX_EPOCH + Duration::from_millis(86_400_000 + 3_723_004)), "01:02:03.004Z");
        assert_eq!(host_port("::1", 80), "[::1]:80");
        assert_eq!(host_port("[::1]", 80), "[::1]:80");
        assert_eq!(host_port("a", 80), "a:80");
        assert_eq!(plural(1, "instance"), "1 instance");
        assert_eq!(plural(0, "instance"), "0 instances");
    }
}
