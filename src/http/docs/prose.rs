//! Comments as HTML: paragraphs, lists and code, as Markdown has them. Everything else is text, whatever it looks like.

/// `text` with what HTML gives a meaning to taken from it.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Paragraphs and lists.
#[must_use]
pub fn blocks(text: &str) -> String {
    let (mut html, mut open) = (String::new(), "");
    for block in text.split("\n\n") {
        for line in block.lines() {
            let (wanted, rest) = match line.trim().strip_prefix("- ") {
                Some(item) => ("ul", item),
                // A line after an item goes on with it.
                None if open == "ul" => ("ul", line.trim()),
                None => ("p", line.trim()),
            };
            if wanted != open {
                close(&mut html, open);
                html.push_str(&format!("<{wanted}>"));
                open = wanted;
            } else if line.trim().len() == rest.len() {
                html.push(' ');
            }
            if line.trim().len() > rest.len() {
                html.push_str("<li>");
            }
            html.push_str(&inline(rest));
        }
        close(&mut html, std::mem::take(&mut open));
    }
    html
}

fn close(html: &mut String, open: &str) {
    if !open.is_empty() {
        html.push_str(&format!("</{open}>"));
    }
}

/// One line, with code where it has backticks in pairs.
#[must_use]
pub fn inline(text: &str) -> String {
    let parts: Vec<_> = text.split('`').collect();
    let mut html = String::new();
    for (at, part) in parts.iter().enumerate() {
        match at % 2 {
            0 => html.push_str(&escaped(part)),
            _ if at + 1 == parts.len() => html.push_str(&format!("`{}", escaped(part))),
            _ => html.push_str(&format!("<code>{}</code>", escaped(part))),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_blocks() {
        for (text, html) in [
            ("one\ntwo `x` three", "<p>one two <code>x</code> three</p>"),
            ("one\n\ntwo", "<p>one</p><p>two</p>"),
            ("these:\n- a\n  b\n- c\n\nd", "<p>these:</p><ul><li>a b<li>c</ul><p>d</p>"),
            ("", ""),
            ("a ` b", "<p>a ` b</p>"),
        ] {
            assert_eq!(blocks(text), html, "{text}");
        }
    }

    #[test]
    fn what_looks_like_html_is_text() {
        let html = blocks("<script>alert('1')</script> `<b a=\"x\">` &amp;\n- <li>");
        assert_eq!(
            html,
            "<p>&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; <code>&lt;b a=&quot;x&quot;&gt;</code> &amp;amp;</p>\
             <ul><li>&lt;li&gt;</ul>"
        );
    }
}
