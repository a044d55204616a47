//! What stands in a URL, decoded strictly: variables of the path and of the query. A percent sign that is none, or bytes
//! that are not UTF-8, are told, never guessed at. Knows no messages.

/// The text that `raw` stands for.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn decode(raw: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err("ends in the middle of a percent-encoded byte") };
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
            return Err("has a percent sign that two hexadecimal digits do not follow");
        };
        bytes.push(high << 4 | low);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 when percent-decoded")
}

/// The variables of a query, in order; a plus stands for a space, as forms write it.
pub fn variables(query: &str) -> impl Iterator<Item = (Result<String, &'static str>, Result<String, &'static str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| decode(&text.replace('+', " "));
        (decoded(name), decoded(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_is_strict() {
        for (raw, text) in [
            ("", Ok("")),
            ("web-1:80", Ok("web-1:80")),
            ("a%20b%2Fc%25", Ok("a b/c%")),
            ("%e4%BD%a0", Ok("你")),
            ("a+b", Ok("a+b")),
            ("50%", Err("ends in the middle of a percent-encoded byte")),
            ("%4", Err("ends in the middle of a percent-encoded byte")),
            ("%zz", Err("has a percent sign that two hexadecimal digits do not follow")),
            ("%+1", Err("has a percent sign that two hexadecimal digits do not follow")),
            ("%ff", Err("is not UTF-8 when percent-decoded")),
        ] {
            assert_eq!(decode(raw), text.map(str::to_owned), "{raw}");
        }
    }

    #[test]
    fn a_query_is_pairs() {
        let read: Vec<_> = variables("a=1&&b=x=y&c+d=e+f%2B&g").map(|(name, value)| (name.ok(), value.ok())).collect();
        let pair = |name: &str, value: &str| (Some(name.to_owned()), Some(value.to_owned()));
        assert_eq!(read, [pair("a", "1"), pair("b", "x=y"), pair("c d", "e f+"), pair("g", "")]);
    }
}
