//! A request as the `curl` command that makes it, quoted for any POSIX shell. Knows no route and no message.

use std::fmt;

/// What to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Curl {
    /// Further options, each as it stands.
    pub options: Vec<String>,
    /// The method.
    pub method: String,
    /// The address, percent-encoded where that is needed.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body, text that does not begin with `@`.
    pub body: Option<String>,
}

impl fmt::Display for Curl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("curl")?;
        self.options.iter().try_for_each(|option| write!(f, " {}", quoted(option)))?;
        // With a body it is POST by itself, without one GET.
        if self.method != if self.body.is_some() { "POST" } else { "GET" } {
            write!(f, " -X {}", quoted(&self.method))?;
        }
        write!(f, " {}", quoted(&self.url))?;
        self.headers.iter().try_for_each(|(name, value)| write!(f, " -H {}", quoted(&format!("{name}: {value}"))))?;
        self.body.iter().try_for_each(|body| write!(f, " --data {}", quoted(body)))
    }
}

/// `text` as one word of a shell's command line.
#[must_use]
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+=%@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted() {
        for (text, word) in [
            ("http://h:1/v1/a%20b", "http://h:1/v1/a%20b"),
            ("http://h:1/v1?a=b&c=d", "'http://h:1/v1?a=b&c=d'"),
            ("", "''"),
            ("it's $HOME `id` \\ \"x\"\n", "'it'\\''s $HOME `id` \\ \"x\"\n'"),
            ("~", "'~'"),
        ] {
            assert_eq!(quoted(text), word);
        }
    }

    #[test]
    fn the_method_is_named_where_it_would_be_another() {
        let curl = |method: &str, body: Option<&str>| {
            let (method, body) = (method.to_owned(), body.map(str::to_owned));
            Curl { method, url: "http://h/".to_owned(), body, ..Curl::default() }.to_string()
        };
        assert_eq!(curl("GET", None), "curl http://h/");
        assert_eq!(curl("POST", Some("{}")), "curl http://h/ --data '{}'");
        assert_eq!(curl("POST", None), "curl -X POST http://h/");
        assert_eq!(curl("PUT", Some("{}")), "curl -X PUT http://h/ --data '{}'");
    }
}
